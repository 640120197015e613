//! User space: nanoseconds a command, from the source's event to the metrics.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::table::Table;
use super::{bench_program, json_lines};
use crate::shell;

pub(super) fn measure(table: &mut Table) -> Result<Value> {
    let Some(program) = bench_program("pipeline")? else {
        return Ok(Value::Null);
    };
    eprintln!("bench: pipeline");
    let output = shell::program(program)
        .arg("--bench")
        .output()
        .context("cannot start the bench")?;
    let lines = json_lines(&String::from_utf8_lossy(&output.stdout));
    for line in &lines {
        let name = line["bench"].as_str().unwrap_or("?");
        let nanos = line["ns_per_command"].as_f64().unwrap_or(f64::NAN);
        // Decoders stand beside for comparison.
        let goal = if name.starts_with("pipeline") {
            "≤ 330 ns"
        } else {
            ""
        };
        table.row(
            format!("user space, {name}"),
            format!("{nanos:.0} ns"),
            goal,
        );
    }
    Ok(json!(lines))
}
