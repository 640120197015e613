//! What a hook costs in the kernel: attaches the hooks beside a program that does nothing, and prints the kernel's own
//! account of each, one JSON object a line.
//!
//! `cargo xtask bench` starts it, with the port to watch as its argument, and sends the traffic. It drains the ring until
//! its standard input ends. The account is kept while `kernel.bpf_stats_enabled` is 1.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use observer::source::live::{Live, Options};
use observer::telemetry::Telemetry;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args()
        .filter(|argument| argument != "--bench")
        .nth(1)
        .ok_or("the port to watch is missing")?
        .parse()?;
    let telemetry = Arc::new(Telemetry::default());
    let options = Options {
        ports: &[port],
        ..Options::default()
    };
    let mut live = Live::start(&options, &telemetry)?;
    live.attach_floor()?;
    eprintln!("observing");
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::Relaxed);
    });
    while !ended.load(Ordering::Relaxed) {
        live.poll(Duration::from_millis(50), &mut |_| {})?;
    }
    for program in live.statistics()? {
        let line = serde_json::json!({
            "hook": program.program,
            "run_count": program.run_count,
            "run_nanos": program.run_nanos,
        });
        println!("{line}");
    }
    Ok(())
}
