//! What a program of `tests/guide` tells of its calls, beside the observer's report.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::observer::Report;

use super::table::{self, Row};

/// What only this test reads of a call; everything else in it is an attribute of the guide's. See `told.cjs`.
const OURS: [&str; 13] = [
    "spans",
    "kind",
    "server",
    "wire",
    "command",
    "bytes",
    "hits",
    "misses",
    "commands",
    "events",
    "error",
    "message",
    "transaction",
];

/// One program's run.
pub(crate) struct Comparison<'a> {
    rows: &'a [Row],
    report: &'a Report,
    /// Ports; calls that name none go to the first.
    servers: &'a [u16],
    proven: BTreeSet<&'a Row>,
}

/// What the calls of a class add up to at one cache.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum {
    operations: u64,
    hits: u64,
    misses: u64,
    values: u64,
    bytes: u64,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(rows: &'a [Row], report: &'a Report, servers: &'a [u16]) -> Self {
        Self {
            rows,
            report,
            servers,
            proven: BTreeSet::new(),
        }
    }

    /// Holds each call against its span, and all of them against the metrics.
    ///
    /// # Errors
    ///
    /// When the table lacks a name that a call has.
    ///
    /// # Panics
    ///
    /// Where the observer reports something else than the table says.
    pub(crate) fn calls(&mut self, calls: &[Value]) -> Result<()> {
        for call in calls.iter().filter(|call| call["wire"] == false) {
            self.absent(call)?;
        }
        for &port in self.servers {
            let at = |call: &&Value| match call["server"].as_u64() {
                Some(server) => server == u64::from(port),
                None => port == self.servers[0] && call["wire"] != false,
            };
            let calls: Vec<_> = calls.iter().filter(at).collect();
            let spans = self.spans(port);
            let names: Vec<_> = spans.iter().map(|span| &span["name"]).collect();
            ensure!(
                calls.len() == spans.len(),
                "{} calls: {names:?}",
                calls.len()
            );
            let cache = &spans.first().context("no calls")?["attributes"]["cache.name"];
            for (call, span) in calls.iter().zip(&spans) {
                self.call(call, span, port)
                    .with_context(|| format!("{call}\n{span}"))?;
            }
            self.metrics(&calls, cache)?;
        }
        Ok(())
    }

    /// The rows that were proven must be those that name the program.
    pub(crate) fn assert_rows(&self, program: &str) {
        let names = |row: &&Row| row.programs.iter().any(|name| name == program);
        let claimed: BTreeSet<_> = self.rows.iter().filter(names).collect();
        let list = |rows: Vec<&&Row>| -> Vec<String> {
            let name = |row: &&Row| format!("{}: {}", row.kind, row.name);
            rows.into_iter().map(name).collect()
        };
        let missing = list(claimed.difference(&self.proven).collect());
        let more = list(self.proven.difference(&claimed).collect());
        assert!(
            missing.is_empty() && more.is_empty(),
            "docs/guide.md says that {program} proves {missing:#?}, which it does not, and not that it proves {more:#?}"
        );
    }

    /// Marks a row as proven.
    fn row(&mut self, kind: &str, name: &str) -> Result<&'a Row> {
        let row = table::find(self.rows, kind, name)?;
        self.proven.insert(row);
        Ok(row)
    }

    /// Spans of a server that stand for calls: without those of the library's own, such as `INFO` at the begin.
    fn spans(&self, port: u16) -> Vec<&'a Value> {
        let wanted = |span: &&Value| {
            let attributes = &span["attributes"];
            let own = match attributes["cache.operation"].as_str() {
                Some("connection" | "admin") => true,
                Some("other") => attributes["cache.key"].is_null(),
                _ => false,
            };
            attributes["server.port"] == port && span["parent_span_id"].is_null() && !own
        };
        let mut spans: Vec<_> = self.report.spans.iter().filter(wanted).collect();
        spans.sort_by_key(|span| span["start_time_unix_nano"].as_u64());
        spans
    }

    /// What was never sent has no span, nor has what surrounds it a name here.
    fn absent(&mut self, call: &Value) -> Result<()> {
        for (kind, name) in names(call) {
            let name = name.as_str();
            let row = table::find(self.rows, kind, name)?;
            // A cache in memory is looked up under the same name as one that is on the wire.
            if row.ours.is_none() {
                self.row(kind, name)?;
                self.not_told(kind, name);
            }
        }
        Ok(())
    }

    fn not_told(&self, kind: &str, name: &str) {
        let told = |span: &Value| match kind {
            "Attributes" => !span["attributes"][name].is_null(),
            "Spans" => span["name"].as_str().is_some_and(|it| it.starts_with(name)),
            _ => !span["events"].is_null(),
        };
        let told = self.report.spans.iter().find(|span| told(span));
        assert!(told.is_none(), "{name} is told after all: {told:?}");
    }

    fn call(&mut self, call: &Value, span: &Value, port: u16) -> Result<()> {
        let attributes = &span["attributes"];
        for (kind, name) in names(call) {
            let name = name.as_str();
            let row = self.row(kind, name)?;
            match (kind, &row.ours) {
                (_, None) => self.not_told(kind, name),
                ("Spans", Some(_)) => {
                    let operation = attributes["db.operation.name"].as_str().context("a name")?;
                    assert_eq!(span["name"], format!("{operation} 127.0.0.1:{port}"));
                }
                ("Status and events", Some(_)) => {
                    assert_eq!(attributes["error.type"], call["error"]);
                }
                (_, Some(ours)) => self.attribute(row, ours, &call[name], span, call)?,
            }
        }
        self.status(call, span)?;
        self.commands(call, span);
        Ok(())
    }

    fn status(&mut self, call: &Value, span: &Value) -> Result<()> {
        assert_eq!(span["kind"], "CLIENT");
        if call["kind"] == "CLIENT" {
            self.row("Status and events", "kind CLIENT")?;
        }
        let (name, code) = match call["error"].is_null() {
            true => ("status OK", "UNSET"),
            false => ("status ERROR", "ERROR"),
        };
        self.row("Status and events", name)?;
        if !(call["error"].is_null() && call["message"].is_null()) {
            self.row("Status and events", "status description")?;
        }
        assert_eq!(span["status"], json!({"code": code}), "without description");
        Ok(())
    }

    /// Those of a pipeline are its span's children.
    fn commands(&self, call: &Value, span: &Value) {
        let kin = |other: &&Value| other["parent_span_id"] == span["span_id"];
        let brackets = |child: &&Value| child["attributes"]["cache.operation"] != "transaction";
        let children = self.report.spans.iter().filter(kin).filter(brackets);
        let children: Vec<_> = children.collect();
        let commands: Vec<_> = call["commands"].as_array().into_iter().flatten().collect();
        assert_eq!(children.len(), commands.len(), "{children:?}");
        for (command, child) in commands.into_iter().zip(children) {
            let child = &child["attributes"];
            assert_eq!(child["db.operation.name"], operation(command));
            assert_eq!(child["cache.hit"], command["cache.hit"]);
        }
    }

    fn attribute(
        &self,
        row: &Row,
        ours: &str,
        wanted: &Value,
        span: &Value,
        call: &Value,
    ) -> Result<()> {
        let attributes = &span["attributes"];
        let own = match ours.strip_prefix("duration") {
            Some(_) => &json!(milliseconds(span)?),
            None => &attributes[ours],
        };
        if !row.dup && ours != row.name {
            self.not_told("Attributes", &row.name);
        }
        let dup = row.dup.then(|| &attributes[&row.name]);
        for seen in [own].into_iter().chain(dup) {
            ensure!(
                agree(&row.name, wanted, seen, call),
                "{} is {seen}, and the guide's wrapper sets {wanted}",
                row.name
            );
        }
        Ok(())
    }

    /// Those of the calls at one cache.
    fn metrics(&mut self, calls: &[&Value], cache: &Value) -> Result<()> {
        let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
        for call in calls {
            for command in call["commands"].as_array().map_or(&[][..], Vec::as_slice) {
                sums.entry(class(command)?).or_default().add(command);
            }
            if call["commands"].is_null() {
                sums.entry(class(call)?).or_default().add(call);
            }
        }
        // The observer collects once, at its end.
        let point = |name: &str, class: Option<&str>, member: &str| -> Result<f64> {
            let of = |point: &&Value| {
                let attributes = &point["attributes"];
                point["name"] == name
                    && attributes["cache.name"] == *cache
                    && class.is_none_or(|class| attributes["cache.operation"] == class)
            };
            match self.report.metrics.iter().rfind(of) {
                Some(point) => point[member].as_f64().context("no number"),
                None => Ok(0.0),
            }
        };
        let mut all = Sum::default();
        for (class, sum) in &sums {
            let number = |name: &str, member: &str| -> Result<u64> {
                Ok(point(name, Some(class), member)? as u64)
            };
            let seen = Sum {
                operations: number("cache.operations", "value")?,
                hits: number("cache.hits", "value")?,
                misses: number("cache.misses", "value")?,
                values: number("cache.value_size", "count")?,
                bytes: number("cache.value_size", "sum")?,
            };
            assert_eq!(seen, *sum, "{class}");
            assert_eq!(number("cache.latency", "count")?, sum.operations, "{class}");
            assert!(point("cache.latency", Some(class), "sum")? > 0.0);
            all.hits += sum.hits;
            all.misses += sum.misses;
            all.values += sum.values;
        }
        let asked = all.hits + all.misses;
        if asked > 0 {
            let rate = point("cache.hit_rate", None, "value")?;
            assert_eq!(rate, all.hits as f64 / asked as f64);
        }
        for (name, numbers) in [
            ("cache.operations", sums.len() as u64),
            ("cache.latency", sums.len() as u64),
            ("cache.value_size", all.values),
            ("cache.hits", all.hits),
            ("cache.misses", all.misses),
            ("cache.hit_rate", asked),
        ] {
            if numbers > 0 {
                self.row("Metrics", name)?;
            }
        }
        Ok(())
    }
}

impl Sum {
    fn add(&mut self, call: &Value) {
        let number = |name: &str| call[name].as_u64().unwrap_or(0);
        self.operations += 1;
        self.hits += number("hits") + number("cache.hits") + u64::from(call["cache.hit"] == true);
        self.misses +=
            number("misses") + number("cache.misses") + u64::from(call["cache.hit"] == false);
        self.values += u64::from(!call["bytes"].is_null());
        self.bytes += number("bytes");
    }
}

/// The attributes that the guide's wrapper sets.
fn facts(call: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let facts = call.as_object().into_iter().flatten();
    let facts = facts.map(|(name, value)| (name.as_str(), value));
    facts.filter(|(name, _)| !OURS.contains(name))
}

/// All that the guide's wrapper sets, each with its chapter.
fn names(call: &Value) -> Vec<(&'static str, String)> {
    let list = |member: &str, kind: &'static str, prefix: &str| -> Vec<_> {
        let names = call[member].as_array().into_iter().flatten();
        let names = names.filter_map(Value::as_str);
        names
            .map(|name| (kind, format!("{prefix}{name}")))
            .collect()
    };
    let attributes = facts(call).map(|(name, _)| ("Attributes", name.to_owned()));
    let mut all = list("spans", "Spans", "");
    all.extend(list("events", "Status and events", "event "));
    all.extend(attributes);
    all
}

/// The class of a command that is told by its name on the wire.
fn class(call: &Value) -> Result<&'static str> {
    match operation(call) {
        "GET" | "HGET" | "MGET" => Ok("get"),
        "SET" | "HSET" | "LPUSH" => Ok("set"),
        "DEL" | "DELETE" | "FLUSHALL" => Ok("delete"),
        "TTL" => Ok("expire"),
        name => bail!("what is {name}?"),
    }
}

/// How long the span lasted.
fn milliseconds(span: &Value) -> Result<f64> {
    let time = |name: &str| span[name].as_u64().context("no time");
    let nanos = time("end_time_unix_nano")? - time("start_time_unix_nano")?;
    Ok(nanos as f64 / 1e6)
}

/// Whether what is seen is what the wrapper would have set, as far as the table says.
fn agree(name: &str, wanted: &Value, seen: &Value, call: &Value) -> bool {
    let text = wanted.as_str().unwrap_or_default();
    let shown = match seen {
        Value::String(one) => one.clone(),
        Value::Array(several) => {
            let several: Vec<_> = several.iter().filter_map(Value::as_str).collect();
            several.join(", ")
        }
        other => other.to_string(),
    };
    match name {
        // The wrapper puts the field of a hash behind its key.
        "db.redis.key" if operation(call).starts_with('H') => {
            let behind = text.strip_prefix(&shown);
            behind.is_some_and(|field| field.starts_with(':'))
        }
        "db.redis.key" => shown == text,
        "db.redis.command" => shown.eq_ignore_ascii_case(text),
        "db.statement" => shown.replace(" ?", "") == text,
        "db.operation" if call["transaction"] == true => shown == "MULTI",
        // The wrapper takes the whole address where it is given no host.
        "net.peer.name" => text.split(':').next() == Some(&shown),
        "net.peer.port" => shown == text,
        "cache.operation" => shown == text || (shown == "delete" && text == "invalidate"),
        "cache.latency_ms" => seen.as_f64() <= wanted.as_f64() && seen.is_number(),
        // Of one key there is nothing to count.
        "db.redis.ttl_seconds" | "db.memcached.ttl" if *wanted == 0 => seen.is_null(),
        _ => seen == wanted,
    }
}

/// Its name on the wire.
fn operation(call: &Value) -> &str {
    let names = [&call["command"], &call["db.operation"]];
    names
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or_default()
}
