//! What a client program knows of its own traffic.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// Numbers by command.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Told by the program itself, after it has checked each reply.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Keys and fields found, by command.
    pub(crate) hits: Counts,
    /// Keys and fields not found, by command.
    pub(crate) misses: Counts,
    /// Commands called by scripts: the server counts them, and they are on no wire.
    pub(crate) scripts: Counts,
    /// Sizes of batches that hold keys, `PIPELINE` and `MULTI`. `None` where they depend on the scheduler.
    pub(crate) batches: Option<BTreeMap<String, Vec<u64>>>,
    /// Messages out of band.
    pub(crate) pushes: u64,
}

impl Told {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            batches: Some(BTreeMap::new()),
            ..Self::default()
        }
    }

    /// Keys or fields were found.
    pub(crate) fn hit(&mut self, operation: &str, number: u64) {
        *self.hits.entry(operation.to_owned()).or_default() += number;
    }

    /// Keys or fields were not found.
    pub(crate) fn miss(&mut self, operation: &str, number: u64) {
        *self.misses.entry(operation.to_owned()).or_default() += number;
    }

    /// A script called a command.
    pub(crate) fn script(&mut self, operation: &str, number: u64) {
        *self.scripts.entry(operation.to_owned()).or_default() += number;
    }

    /// A message came out of band.
    pub(crate) fn push(&mut self) {
        self.pushes += 1;
    }

    /// Commands left together.
    pub(crate) fn batch(&mut self, kind: &str, size: u64) {
        let batches = self.batches.get_or_insert_default();
        batches.entry(kind.to_owned()).or_default().push(size);
    }

    /// What leaves together depends on the scheduler.
    pub(crate) fn unordered(&mut self) {
        self.batches = None;
    }

    /// The last line that a program prints.
    pub(crate) fn parse(printed: &str) -> Result<Self> {
        let line = printed.lines().last().context("a line")?;
        let told: Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let counts = |name: &str| -> Counts {
            let numbers = told[name].as_object().into_iter().flatten();
            let numbers = numbers.filter_map(|(name, one)| Some((name.clone(), one.as_u64()?)));
            numbers.collect()
        };
        let sizes = |sizes: &Value| -> Vec<u64> {
            let sizes = sizes.as_array().into_iter().flatten();
            sizes.filter_map(Value::as_u64).collect()
        };
        let batches = told["batches"].as_object().map(|batches| {
            let batches = batches.iter().map(|(kind, all)| (kind.clone(), sizes(all)));
            batches.filter(|(_, sizes)| !sizes.is_empty()).collect()
        });
        Ok(Self {
            hits: counts("hits"),
            misses: counts("misses"),
            scripts: counts("scripts"),
            batches,
            pushes: told["pushes"].as_u64().context("pushes")?,
        })
    }
}
