//! The time of day is set while traffic runs. It is the whole machine's: so this runs in guests only, by `cargo xtask vm`, and
//! refuses to run anywhere else.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use observer::source::live::monotonic;
use rustix::time::{ClockId, Timespec, clock_settime};
use serde_json::Value;
use tests::client::Redis;
use tests::observer::Options;
use tests::process::eventually;
use tests::server::Server;

/// A word of the kernel's command line: what boots guests says it, and nobody else.
const GUEST: &str = "cache_observer.guest";

const SECOND: i64 = 1_000_000_000;
/// Forwards an hour, then back two: each time of day is far from the others.
const STEPS: [i64; 2] = [3600 * SECOND, -7200 * SECOND];

/// How exactly two clocks are compared that cannot be read at once, on a machine that may halt between.
const MARGIN: i64 = SECOND / 10;

/// A command, as its client has seen it.
struct Command {
    /// Monotonic time before it and after it.
    before: i64,
    after: i64,
    /// How often the clock had been set.
    steps: usize,
}

/// Unix time minus monotonic time.
fn offset() -> Result<i64> {
    let mut best = (i64::MAX, 0);
    for _ in 0..5 {
        let before = now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as i64;
        best = best.min((now() - before, unix - before));
    }
    Ok(best.1)
}

fn now() -> i64 {
    monotonic().cast_signed()
}

/// Sets the time of day.
fn set(step: i64) -> Result<()> {
    let time = offset()? + now() + step;
    let time = Timespec {
        tv_sec: time / SECOND,
        tv_nsec: time % SECOND,
    };
    clock_settime(ClockId::Realtime, time).context("the time of day cannot be set")
}

fn time(span: &Value, which: &str) -> Result<i64> {
    span[which]
        .as_i64()
        .with_context(|| format!("{which} of {span}"))
}

/// The command that a span tells of.
fn number(span: &Value) -> Result<usize> {
    let key = span["attributes"]["cache.key"].as_str();
    let number = key.and_then(|key| key.strip_prefix("key:"));
    Ok(number.with_context(|| format!("key of {span}"))?.parse()?)
}

/// After how many steps of the clock it was the time that the span tells: `None` if never.
fn steps(span: &Value, command: &Command, offsets: &[i64]) -> Result<Option<usize>> {
    let start = time(span, "start_time_unix_nano")?;
    let within = command.before - MARGIN..command.after + MARGIN;
    Ok(offsets.iter().position(|at| within.contains(&(start - at))))
}

#[test]
fn spans_follow_the_time_of_day_and_durations_do_not() -> Result<()> {
    let told = fs::read_to_string("/proc/cmdline")?;
    ensure!(
        told.split_whitespace().any(|word| word == GUEST),
        "this test sets the clock of the machine that it runs on: run it in a guest, by `cargo xtask vm --test clock`"
    );
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let mut offsets = vec![offset()?];
    let mut commands: Vec<Command> = Vec::new();
    for turn in 0..=STEPS.len() {
        if turn > 0 {
            set(STEPS[turn - 1])?;
            offsets.push(offset()?);
        }
        let limit = Duration::from_secs(60);
        eventually(limit, "spans tell the time of day", || {
            let before = now();
            redis.command(&["GET", &format!("key:{}", commands.len())])?;
            commands.push(Command {
                before,
                after: now(),
                steps: turn,
            });
            std::thread::sleep(Duration::from_millis(20));
            match observer.spans()?.last() {
                Some(span) => {
                    let of = number(span)?;
                    Ok(steps(span, &commands[of], &offsets)? == Some(turn))
                }
                None => Ok(false),
            }
        })?;
    }
    let report = observer.stop()?;
    set(-STEPS.iter().sum::<i64>())?;

    let spans = report.of("GET");
    ensure!(
        spans.len() == commands.len(),
        "{} spans of {} commands",
        spans.len(),
        commands.len()
    );
    let mut last = 0;
    for (at, span) in spans.into_iter().enumerate() {
        ensure!(number(span)? == at, "{span}");
        let command = &commands[at];
        let (start, end) = (
            time(span, "start_time_unix_nano")?,
            time(span, "end_time_unix_nano")?,
        );
        ensure!(
            (1..=command.after - command.before).contains(&(end - start)),
            "{} ns, as the client sees it {}: {span}",
            end - start,
            command.after - command.before
        );
        let told = steps(span, command, &offsets)?;
        let told =
            told.with_context(|| format!("command {at} was at no time that {span} tells"))?;
        // It may tell the time from before the clock was set, and then never again.
        ensure!(
            (last..=command.steps).contains(&told),
            "command {at}: the clock was set {} times, {last} of them told before, now {told}",
            command.steps
        );
        last = told;
    }
    Ok(())
}
