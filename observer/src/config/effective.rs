//! The configuration in effect: each value with its origin; as text, and what differs between two.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use toml::Value;

use super::cli::Exporter;
use super::rules::SpanRule;
use super::{Config, Surroundings};
use clap::ValueEnum;

/// The variable of the specification for how many spans may wait.
pub(crate) const QUEUE_VARIABLE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
/// Sets `histograms.exponential`.
pub(crate) const HISTOGRAM_VARIABLE: &str =
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";

/// The variable of the specification for where `/metrics` is served; its port has another.
const PROMETHEUS_VARIABLE: &str = "OTEL_EXPORTER_PROMETHEUS_HOST";

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    CommandLine,
    /// An environment variable.
    Variable(String),
    /// This line of the file.
    File(usize),
    /// Nobody said anything.
    Default,
}

/// A value in effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its key, with the table's before it: `redis-port`, `spans.slow`, `rules[0]`.
    pub path: String,
    /// `None`: not set, and nothing stands in its place.
    pub value: Option<Value>,
    /// Where it is from.
    pub origin: Origin,
}

/// A text of the command line as the file would have it.
pub(super) fn value_of(text: &str) -> Value {
    // Only what comes out as it went in: a file may be named 007.
    let same = |value: Value| (value.to_string() == text).then_some(value);
    None.or_else(|| same(Value::Integer(text.parse().ok()?)))
        .or_else(|| same(Value::Float(text.parse().ok()?)))
        .or_else(|| same(Value::Boolean(text.parse().ok()?)))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

impl Surroundings {
    /// Whether a variable of OpenTelemetry's says something here.
    pub(super) fn sets(&self, variable: &str) -> bool {
        match variable {
            "OTEL_SEMCONV_STABILITY_OPT_IN" => self.duplicate_names,
            "OTEL_TRACES_SAMPLER" => self.sampled.is_some(),
            PROMETHEUS_VARIABLE => self.prometheus.is_some(),
            _ => false,
        }
    }

    /// The variable that decides a value beside the option's own; `given`: the option says something.
    pub(super) fn origin(&self, path: &str, given: bool) -> Option<&'static str> {
        let variable = match path {
            "traces-exporter" | "metrics-exporter" if self.disabled => {
                return Some("OTEL_SDK_DISABLED");
            }
            "naming" => "OTEL_SEMCONV_STABILITY_OPT_IN",
            "spans.share" => "OTEL_TRACES_SAMPLER",
            "prometheus-listen" => PROMETHEUS_VARIABLE,
            "spans.errors" | "spans.misses" | "spans.slow" if self.samples_nothing() => {
                "OTEL_TRACES_SAMPLER"
            }
            _ => return None,
        };
        (!given && self.sets(variable)).then_some(variable)
    }

    fn samples_nothing(&self) -> bool {
        self.sampled.is_some_and(|share| share.get() == 0.0)
    }
}

impl Config {
    /// What options come to that are not given.
    pub(super) fn implied(&self) -> Vec<(String, Value)> {
        let word = |value: Option<clap::builder::PossibleValue>| {
            Value::from(
                value
                    .map(|value| value.get_name().to_owned())
                    .unwrap_or_default(),
            )
        };
        let list = |exporters: &[Exporter]| match exporters {
            [] => Value::Array(vec![Value::from("none")]),
            some => Value::Array(
                some.iter()
                    .map(|one| word(one.to_possible_value()))
                    .collect(),
            ),
        };
        let mut all = vec![
            ("traces-exporter".to_owned(), list(&self.traces)),
            ("metrics-exporter".to_owned(), list(&self.metrics)),
            (
                "keys".to_owned(),
                word(self.export.keys.to_possible_value()),
            ),
            (
                "naming".to_owned(),
                word(self.export.naming.to_possible_value()),
            ),
        ];
        if self.metrics.contains(&Exporter::Prometheus) {
            let listen = Value::from(self.prometheus.to_string());
            all.push(("prometheus-listen".to_owned(), listen));
        }
        all.extend(self.spans());
        all
    }

    fn spans(&self) -> Vec<(String, Value)> {
        let spans = Value::try_from(SpanRule::from(&self.export.spans));
        flat("spans", spans.ok())
    }
}

/// The fields of a table.
fn flat(table: &str, value: Option<Value>) -> Vec<(String, Value)> {
    match value {
        Some(Value::Table(fields)) => fields
            .into_iter()
            .map(|(field, value)| (format!("{table}.{field}"), value))
            .collect(),
        _ => Vec::new(),
    }
}

/// What the tables hold, also where an option sets it. `lines`: where it stands in the file.
pub(super) fn of_tables(
    config: &Config,
    lines: &BTreeMap<String, usize>,
    surroundings: &Surroundings,
) -> Vec<Entry> {
    let tables = &config.tables;
    let mut values = Vec::new();
    if let Ok(patterns) = Value::try_from(&tables.key_patterns) {
        values.push(("key-patterns".to_owned(), patterns));
    }
    values.extend(config.spans());
    values.extend(flat("servers", Value::try_from(&tables.servers).ok()));
    values.extend(flat("caches", Value::try_from(&tables.caches).ok()));
    values.extend(flat("redaction", Value::try_from(&tables.redaction).ok()));
    values.extend(flat("limits", Value::try_from(&tables.limits).ok()));
    values.extend(flat("histograms", Value::try_from(&tables.histograms).ok()));
    values.extend(flat("pools", Value::try_from(tables.pools).ok()));
    for (index, rule) in tables.rules.iter().enumerate() {
        if let Ok(rule) = Value::try_from(rule) {
            values.push((format!("rules[{index}]"), rule));
        }
    }
    let entry = |(path, value): (String, Value)| {
        let mut entry = Entry {
            origin: lines
                .get(&path)
                .map_or(Origin::Default, |line| Origin::File(*line)),
            path,
            value: Some(value),
        };
        if let Some(variable) = surroundings.origin(&entry.path, false) {
            entry.origin = Origin::Variable(variable.to_owned());
        }
        if entry.path == "limits.span-queue"
            && let Some(queue) = surroundings.span_queue
        {
            entry.value = i64::try_from(queue).ok().map(Value::Integer);
            entry.origin = Origin::Variable(QUEUE_VARIABLE.to_owned());
        }
        if entry.path == "histograms.exponential"
            && let Some(exponential) = surroundings.exponential
        {
            entry.value = Some(Value::Boolean(exponential));
            entry.origin = Origin::Variable(HISTOGRAM_VARIABLE.to_owned());
        }
        entry
    };
    values.into_iter().map(entry).collect()
}

/// A file that would have the same effect, with each value's origin.
#[must_use]
pub fn print(entries: &[Entry], file: Option<&Path>) -> String {
    let mut out = String::new();
    let origin = |origin: &Origin| match origin {
        Origin::CommandLine => "command line".to_owned(),
        Origin::Variable(name) => format!("environment variable {name}"),
        Origin::File(line) => {
            let path = file.unwrap_or(Path::new("")).display();
            format!("{path}:{line}")
        }
        Origin::Default => "default".to_owned(),
    };
    // Keys before the first table's name belong to no table.
    let table_of = |entry: &Entry| match entry.path.split_once(['.', '[']) {
        Some((table, _)) => table.to_owned(),
        None => String::new(),
    };
    let mut tables: Vec<String> = Vec::new();
    for entry in entries {
        if !tables.contains(&table_of(entry)) {
            tables.push(table_of(entry));
        }
    }
    tables.sort_by_key(|table| !table.is_empty());
    for table in tables {
        if !table.is_empty() && table != "rules" {
            let _ = write!(out, "\n[{table}]\n");
        }
        for entry in entries.iter().filter(|entry| table_of(entry) == table) {
            let from = origin(&entry.origin);
            if let ("rules", Some(Value::Table(fields))) = (table.as_str(), &entry.value) {
                let _ = write!(out, "\n[[rules]] # {from}\n");
                for (key, value) in fields {
                    let _ = writeln!(out, "{key} = {value}");
                }
                continue;
            }
            let key = entry
                .path
                .strip_prefix(&format!("{table}."))
                .unwrap_or(&entry.path);
            let bare = |c: char| c.is_ascii_alphanumeric() || c == '-';
            let key = match key.chars().all(bare) {
                true => key.to_owned(),
                false => Value::from(key).to_string(),
            };
            let _ = match &entry.value {
                Some(value) => writeln!(out, "{key} = {value} # {from}"),
                None => writeln!(out, "# {key} is not set"),
            };
        }
    }
    out
}

/// The keys whose values differ.
#[must_use]
pub fn changed(old: &[Entry], new: &[Entry]) -> Vec<String> {
    let by_path = |entries: &[Entry]| -> BTreeMap<String, Option<Value>> {
        let pairs = entries
            .iter()
            .map(|entry| (entry.path.clone(), entry.value.clone()));
        pairs.collect()
    };
    let (old, new) = (by_path(old), by_path(new));
    let mut paths: Vec<_> = old.keys().chain(new.keys()).cloned().collect();
    paths.sort_unstable();
    paths.dedup();
    paths.retain(|path| old.get(path) != new.get(path));
    paths
}
