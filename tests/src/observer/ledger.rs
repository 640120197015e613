//! Whether the ledger of a run closes: everything that was seen is told, or counted with a reason.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Summary;

impl Summary {
    /// A number of the ledger, by the keys that lead to it; 0 where there is none.
    #[must_use]
    pub fn ledger(&self, path: &[&str]) -> u64 {
        let value = path
            .iter()
            .fold(&self.0["ledger"], |value, key| &value[*key]);
        value.as_u64().unwrap_or(0)
    }

    /// The sum of a table of reasons in the ledger, without these.
    fn reasons(&self, path: [&str; 2], without: &[&str]) -> Result<u64> {
        let [part, table] = path;
        let table = self.0["ledger"][part][table].as_object();
        let table = table.with_context(|| format!("no {path:?} in {}", self.0))?;
        let counted = table
            .iter()
            .filter(|(reason, _)| !without.contains(&reason.as_str()));
        Ok(counted.filter_map(|(_, count)| count.as_u64()).sum())
    }

    /// Checks that the ledger closes.
    ///
    /// # Errors
    ///
    /// When something is neither told nor counted as lost, or told twice: what, and the whole summary.
    pub fn closes(&self) -> Result<()> {
        let equal = |what: &str, left: u64, right: u64| -> Result<()> {
            ensure!(
                left == right,
                "the ledger does not close: {what}: {left}, not {right}\n{}",
                self.0
            );
            Ok(())
        };
        ensure!(self.0["ledger"] != Value::Null, "no ledger in {}", self.0);
        for way in ["sent", "received", "states"] {
            let what = format!("{way}, arrived and lost beside seen");
            let arrived = self.ledger(&[way, "arrived"]) + self.ledger(&[way, "ring_full"]);
            equal(&what, arrived, self.ledger(&[way, "seen"]))?;
        }
        let arrived = self.ledger(&["sent", "arrived"]) + self.ledger(&["received", "arrived"]);
        let decoded = self.ledger(&["streams", "decoded"]);
        // Those that are missing never arrived; those of a rule were decoded.
        let skipped = self.reasons(["streams", "skipped"], &["missing", "rule"])?;
        equal(
            "bytes decoded and skipped beside arrived",
            decoded + skipped,
            arrived,
        )?;
        let told = self.total("transactions") + self.total("not_executed");
        let left_out = self.reasons(["requests", "left_out"], &[])?;
        let requests = self.ledger(&["requests", "decoded"]);
        equal(
            "requests told and left out beside decoded",
            told + left_out,
            requests,
        )?;
        let spans = ["exported", "sampled_out", "dropped"];
        let spans: u64 = spans
            .iter()
            .map(|outcome| self.ledger(&["spans", outcome]))
            .sum();
        equal("spans beside due", spans, self.ledger(&["spans", "due"]))
    }
}
