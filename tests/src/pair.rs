//! The two spans that `--role both` makes of a command.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::observer::Report;

/// Each client's span with the server's, in the order in which they were begun. Children of batches are left out.
///
/// # Errors
///
/// When one has no other, or more than one.
pub fn pairs(report: &Report) -> Result<Vec<(&Value, &Value)>> {
    let mut servers = BTreeMap::new();
    let mut clients = Vec::new();
    let mut kinds = BTreeMap::new();
    for span in &report.spans {
        kinds.insert(id(&span["span_id"])?, &span["kind"]);
    }
    for span in &report.spans {
        match (span["kind"].as_str(), span["parent_span_id"].as_str()) {
            (Some("CLIENT"), None) => clients.push(span),
            (Some("SERVER"), Some(parent))
                if *kinds.get(parent).context("its parent")? == "CLIENT" =>
            {
                ensure!(
                    servers.insert(parent, span).is_none(),
                    "a second one: {span}"
                );
            }
            (_, Some(_)) => {}
            _ => anyhow::bail!("no client's span: {span}"),
        }
    }
    clients.sort_by_key(|span| span["start_time_unix_nano"].as_u64());
    let pairs = clients.into_iter().map(|client| {
        let server = servers.remove(id(&client["span_id"])?);
        let server = server.with_context(|| format!("no server's span: {client}"))?;
        ensure!(
            client["trace_id"] == server["trace_id"],
            "{client} {server}"
        );
        Ok((client, server))
    });
    let pairs = pairs.collect::<Result<Vec<_>>>()?;
    ensure!(servers.is_empty(), "{servers:?}");
    Ok(pairs)
}

fn id(value: &Value) -> Result<&str> {
    value.as_str().context("an id")
}

/// How long a span took, seconds.
///
/// # Errors
///
/// When it has no times.
pub fn took(span: &Value) -> Result<f64> {
    let time = |name: &str| span[name].as_u64().with_context(|| name.to_owned());
    let nanos = time("end_time_unix_nano")? - time("start_time_unix_nano")?;
    Ok(nanos as f64 / 1e9)
}
