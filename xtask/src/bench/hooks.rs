//! The kernel's side: nanoseconds a hook takes, by the kernel's own accounting.
//!
//! The program `observer/benches/hooks.rs` attaches the hooks beside one that does nothing, drains the ring until its
//! standard input ends, and prints a line for each: `{"hook":"send_length","run_count":…,"run_nanos":…}`. It takes the
//! watched port as its argument and says `observing` on standard error.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tests::process::output;
use tests::server::{Server, free_port};

use super::table::Table;
use super::{bench_program, json_lines};
use crate::shell;

/// Builds what `measure` starts.
pub(super) fn build() -> Result<()> {
    bench_program("hooks").map(drop)
}

pub(super) fn measure(table: &mut Table) -> Result<Value> {
    let Some(program) = bench_program("hooks")? else {
        return Ok(Value::Null);
    };
    eprintln!("bench: hooks");
    let _accounting = Accounting::begin()?;
    let server = Server::redis()?;
    let mut results = json!({});
    for (case, watched, goal) in [
        ("captured", server.port, "≤ 300 ns over"),
        ("rejected", free_port()?, "≤ 50 ns over"),
    ] {
        let lines = run(&program, watched, server.port)?;
        let nanos = |line: &Value| {
            line["run_nanos"].as_f64().unwrap_or(0.0) / line["run_count"].as_f64().unwrap_or(0.0)
        };
        let floor = lines
            .iter()
            .find(|line| line["hook"] == "empty")
            .map(nanos)
            .context("no empty program")?;
        table.row(
            format!("hook, empty program ({case} run)"),
            format!("{floor:.0} ns"),
            "",
        );
        for line in lines
            .iter()
            .filter(|line| line["hook"] != "empty" && line["run_count"].as_u64() > Some(1000))
        {
            let hook = line["hook"].as_str().unwrap_or("?");
            // Changes of a connection's state are rare; the goals are for calls that move payload.
            let goal = if hook == "set_state" { "" } else { goal };
            table.row(
                format!("hook {hook}, 64-byte values, {case}"),
                format!("{:+.0} ns over", nanos(line) - floor),
                goal,
            );
        }
        results[case] = json!(lines);
    }
    Ok(results)
}

/// Attaches with `watched` as the only port, sends commands to the server, and gives the kernel's account.
fn run(program: &std::path::Path, watched: u16, server: u16) -> Result<Vec<Value>> {
    let mut command = shell::program(program);
    command.args(["--bench", &watched.to_string()]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start the bench")?;
    let mut said = BufReader::new(child.stderr.take().context("piped")?);
    let mut line = String::new();
    while !line.contains("observing") {
        line.clear();
        if said.read_line(&mut line)? == 0 {
            bail!("the bench `hooks` ended at once");
        }
        eprint!("bench: {line}");
    }
    // Nobody waits for a full pipe.
    let rest = thread::spawn(move || said.read_to_end(&mut Vec::new()));
    let port = server.to_string();
    output(
        "redis-benchmark",
        [
            "-p", &port, "-t", "set,get", "-d", "64", "-n", "200000", "-q",
        ],
    )?;
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    // It has ended, and with it what it says.
    let _ = rest.join();
    Ok(json_lines(&String::from_utf8_lossy(&output.stdout)))
}

/// The kernel's accounting of programs, on for a while.
struct Accounting {
    before: String,
}

impl Accounting {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

    fn begin() -> Result<Self> {
        let before = fs::read_to_string(Self::SWITCH)
            .context("this kernel does not account for programs")?;
        fs::write(Self::SWITCH, "1").context("cannot switch the kernel's accounting on")?;
        Ok(Self { before })
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::SWITCH, &self.before) {
            eprintln!("bench: kernel.bpf_stats_enabled stays on: {error}");
        }
    }
}
