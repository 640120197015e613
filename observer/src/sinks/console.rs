//! Spans and metrics as lines for people.
//!
//! ```text
//! 12:03:11.123 web[4711] → 127.0.0.1:6379           GET user:42                            HIT         2.0 KiB   213 µs
//! ```
//!
//! Columns have fixed widths, 118 together; what does not fit is cut with `…`. Only the target of a redirect is added
//! behind them.

mod table;

use std::borrow::Cow;
use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::aggregation::{Failure, failure, redirected, value_size};
use crate::enrichment::{Observation, Service, join};
use crate::source::event::End;
use crate::telemetry::names::value;
use crate::transaction::{Ending, Exchange, Life, LifeStage, Transaction};

pub(super) use table::Table;

use super::keys;

/// Columns of who talks to whom.
const PEERS: usize = 36;
/// Columns of an address and port when room is short: enough for any IPv4 one.
const ADDRESS: usize = 21;
/// Columns of the command.
const COMMAND: usize = 38;
/// Columns of what came of it.
const RESULT: usize = 12;

/// ANSI codes, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    Plain,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Paint::Plain => "",
            Paint::Dim => "\x1b[2m",
            Paint::Red => "\x1b[31m",
            Paint::Green => "\x1b[32m",
            Paint::Yellow => "\x1b[33m",
        }
    }
}

/// Formats lines for a terminal, or for a file when colour is off.
#[derive(Debug, Clone)]
pub(super) struct Console {
    color: bool,
    zone: TimeZone,
}

impl Console {
    /// `zone` is that of the times shown.
    pub(super) fn new(color: bool, zone: TimeZone) -> Self {
        Self { color, zone }
    }

    /// Appends the lines of an observation: one for each command.
    pub(super) fn observation(&self, observation: &Observation, out: &mut String) {
        if let Exchange::Life(life) = &observation.exchange {
            self.life(observation, life, out);
        }
        for transaction in observation.exchange.transactions() {
            if !transaction.ending.is_unseen() {
                self.command(observation, transaction, out);
            }
        }
    }

    fn life(&self, observation: &Observation, life: &Life, out: &mut String) {
        let start = observation.clock.unix_nanos(life.start);
        self.paint(Paint::Dim, out, |out| self.time(start, out));
        out.push(' ');
        peers(observation, out);
        let (name, result) = match life.stage {
            LifeStage::Connect { .. } => ("CONNECT", "ready"),
            LifeStage::Close { .. } => ("CLOSE", "closed"),
        };
        let paint = match life.error {
            Some(_) => Paint::Red,
            None => Paint::Dim,
        };
        let _ = write!(out, " {name:COMMAND$} ");
        let result = life.error.unwrap_or(result);
        self.paint(paint, out, |out| pad(result, RESULT, out));
        if let LifeStage::Connect { .. } = life.stage {
            let took = latency(life.end.saturating_sub(life.start));
            let _ = write!(out, " {:>9} {took:>8}", "");
        }
        out.push('\n');
    }

    fn command(&self, observation: &Observation, transaction: &Transaction, out: &mut String) {
        let start = observation.clock.unix_nanos(transaction.start);
        self.paint(Paint::Dim, out, |out| self.time(start, out));
        out.push(' ');
        peers(observation, out);
        out.push(' ');
        let detail = transaction.request.detail.as_deref();
        let command = match detail {
            Some(detail) if !detail.text.is_empty() => keys::text(&observation.export, detail),
            _ => Cow::Borrowed(transaction.request.operation.name()),
        };
        pad(&printable(&command), COMMAND, out);
        out.push(' ');
        let (result, paint) = result(transaction);
        self.paint(paint, out, |out| pad(&printable(&result), RESULT, out));
        let size = value_size(transaction).map(size).unwrap_or_default();
        let took = match transaction.ending {
            Ending::NoReply => String::new(),
            _ => latency(transaction.end.saturating_sub(transaction.start)),
        };
        let _ = write!(out, " {size:>9} {took:>8}");
        if let Some(redirect) = &transaction.outcome.redirect {
            let _ = write!(out, " → {}", printable(redirect.as_str()));
        }
        out.push('\n');
    }

    /// Appends a remark.
    pub(super) fn remark(&self, text: &str, out: &mut String) {
        self.paint(Paint::Dim, out, |out| out.push_str(&printable(text)));
        out.push('\n');
    }

    fn time(&self, unix_nanos: u64, out: &mut String) {
        let nanos = i128::from(unix_nanos);
        let Ok(time) = Timestamp::from_nanosecond(nanos) else {
            out.push_str("--:--:--.---");
            return;
        };
        let time = self.zone.to_datetime(time);
        let _ = write!(
            out,
            "{:02}:{:02}:{:02}.{:03}",
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond()
        );
    }

    fn paint(&self, paint: Paint, out: &mut String, text: impl FnOnce(&mut String)) {
        if self.color && paint != Paint::Plain {
            out.push_str(paint.code());
            text(out);
            out.push_str("\x1b[0m");
        } else {
            text(out);
        }
    }
}

/// `web[4711] → 127.0.0.1:6379` at the client's end, `10.0.0.9:40000 → redis-server[99]:6379` at the server's.
fn peers(observation: &Observation, out: &mut String) {
    const ROOM: usize = PEERS - 3;
    let endpoint = &observation.endpoint;
    let service = &observation.service;
    let known = service.pid.is_some();
    let (from, to) = if known && endpoint.end == End::Server {
        let from = cut(&join(endpoint.client), ADDRESS).into_owned();
        let port = endpoint.server.port();
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        let room = ROOM - from.chars().count() - port.len();
        (from, who(service, room) + &port)
    } else {
        let from = if known {
            who(service, ROOM)
        } else {
            join(endpoint.client)
        };
        // The server has the first claim to the room, the client to what is left.
        let room = ADDRESS.max(ROOM.saturating_sub(from.chars().count()));
        let to = cut(&endpoint.authority(), room).into_owned();
        let room = ROOM - to.chars().count();
        let from = if known {
            who(service, room)
        } else {
            cut(&from, room).into_owned()
        };
        (from, to)
    };
    pad(&format!("{from} → {to}"), PEERS, out);
}

/// `web[4711]`, the name cut to fit.
fn who(service: &Service, room: usize) -> String {
    let name = service
        .name
        .strip_prefix(value::UNKNOWN_SERVICE)
        .and_then(|rest| rest.strip_prefix(':'))
        .unwrap_or(&service.name);
    let pid = service
        .pid
        .map(|pid| format!("[{pid}]"))
        .unwrap_or_default();
    let name = printable(name);
    let name = cut(&name, room.saturating_sub(pid.len()));
    format!("{name}{pid}")
}

fn result(transaction: &Transaction) -> (Cow<'_, str>, Paint) {
    let outcome = &transaction.outcome;
    if let Some(failure) = failure(transaction) {
        let text = match failure {
            Failure::Closed => Cow::Borrowed("no answer"),
            Failure::Reply(word) => Cow::Owned(word.as_str().to_owned()),
        };
        return (text, Paint::Red);
    }
    if redirected(transaction) {
        let word = outcome.error.map_or(Cow::Borrowed("redirect"), |word| {
            Cow::Owned(word.as_str().to_owned())
        });
        return (word, Paint::Yellow);
    }
    match (outcome.hits, outcome.misses) {
        // A quiet request's silence may have told more.
        (0, 0) if transaction.ending == Ending::NoReply => (Cow::Borrowed("no reply"), Paint::Dim),
        _ if outcome.queued => (Cow::Borrowed("queued"), Paint::Dim),
        (0, 0) => (Cow::Borrowed("ok"), Paint::Plain),
        (1, 0) => (Cow::Borrowed("HIT"), Paint::Green),
        (0, 1) => (Cow::Borrowed("MISS"), Paint::Yellow),
        (hits, misses) => {
            let paint = if misses == 0 {
                Paint::Green
            } else {
                Paint::Yellow
            };
            (
                Cow::Owned(format!(
                    "HIT {hits}/{}",
                    u64::from(hits) + u64::from(misses)
                )),
                paint,
            )
        }
    }
}

/// Without anything that a terminal would act on: control characters, and those that change the direction of text or
/// take no room. Decoders escape keys already; this is for whatever else comes here.
fn printable(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c,
                '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    if !text.chars().any(hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if hidden(c) {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// At most `width` characters, the last of them `…` when something is missing.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().count() <= width {
        return Cow::Borrowed(text);
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    Cow::Owned(short)
}

/// Exactly `width` characters.
fn pad(text: &str, width: usize, out: &mut String) {
    let text = cut(text, width);
    let _ = write!(out, "{text:<width$}");
}

/// Bytes for people: at most 9 characters.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration for people: at most 8 characters up to a day.
fn latency(nanos: u64) -> String {
    let micros = nanos as f64 / 1e3;
    match micros {
        ..999.5 => format!("{micros:.0} µs"),
        ..9_995.0 => format!("{:.2} ms", micros / 1e3),
        ..99_950.0 => format!("{:.1} ms", micros / 1e3),
        ..999_500.0 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregation::testing::{endpoint, observation, service, transaction};
    use crate::protocol::{Detail, Redirect, Word};

    fn line(observation: &Observation) -> String {
        let mut out = String::new();
        Console::new(false, TimeZone::UTC).observation(observation, &mut out);
        out
    }

    fn detail(text: &str) -> Option<Box<Detail>> {
        Some(Box::new(Detail {
            text: text.to_owned(),
            ..Detail::default()
        }))
    }

    #[test]
    fn shows_connections() {
        for (stage, error, shown) in [
            (
                LifeStage::Connect { established: None },
                Some("connection_refused"),
                ["CONNECT", "connection_…", "200 µs"],
            ),
            (
                LifeStage::Connect {
                    established: Some(1_100_000),
                },
                None,
                ["CONNECT", "ready", "200 µs"],
            ),
            (
                LifeStage::Close {
                    age: None,
                    commands: None,
                },
                None,
                ["CLOSE", "closed", ""],
            ),
        ] {
            let mut observation = observation(transaction("GET", 3));
            observation.exchange = Exchange::Life(Life {
                protocol: crate::protocol::Protocol::Redis,
                stage,
                start: 1_000_000,
                end: 1_200_000,
                error,
            });
            let line = line(&observation);
            assert_eq!(line.lines().count(), 1);
            for part in shown {
                assert!(line.contains(part), "{part} in {line}");
            }
        }
    }

    #[test]
    fn aligns_columns() {
        let mut hit = transaction("GET", 3);
        hit.request.detail = detail("GET user:42");
        hit.outcome.hits = 1;
        hit.outcome.value_size = Some(2046);
        let hit = observation(hit);

        let mut miss = transaction("MGET", 4);
        miss.request.detail = detail(&format!("MGET {}", "key ".repeat(30)));
        miss.outcome.hits = 3;
        miss.outcome.misses = 2;
        let mut miss = observation(miss);
        miss.service = service(2, "a service with a very long name");

        let mut moved = transaction("GET", 3);
        moved.outcome.error = Some(Word::new(b"MOVED"));
        moved.outcome.redirect = Redirect::new(b"10.0.0.8:6380");
        moved.end = moved.start + 12_345_678;
        let mut moved = observation(moved);
        moved.endpoint = endpoint(End::Server, "[2001:db8:1111:2222::1]:6379");

        let mut wrong = transaction("LLEN", 5);
        wrong.outcome.error = Some(Word::new(b"AVERYLONGERRORPREFIX"));
        let mut wrong = observation(wrong);
        wrong.endpoint = endpoint(End::Client, "[2001:db8:1111:2222:3333:4444:5555:6666]:6379");

        assert_eq!(
            line(&hit),
            "03:27:32.001 web[4711] → 127.0.0.1:6379           GET user:42                            HIT            2.0 KiB   200 µs\n"
        );
        assert_eq!(
            line(&miss),
            "03:27:32.001 a service wi…[4711] → 127.0.0.1:6379 MGET key key key key key key key key … HIT 3/5                  200 µs\n"
        );
        for one in [&hit, &miss, &wrong] {
            assert_eq!(
                line(one).trim_end_matches('\n').chars().count(),
                12 + 1 + PEERS + 1 + COMMAND + 1 + RESULT + 1 + 9 + 1 + 8
            );
        }
        assert!(
            line(&moved).ends_with(" → 10.0.0.8:6380\n"),
            "{}",
            line(&moved)
        );
        assert!(line(&moved).contains("web[4711]:6379"), "{}", line(&moved));
    }

    #[test]
    fn colours_only_when_asked() {
        let mut hit = transaction("GET", 3);
        hit.outcome.hits = 1;
        let hit = observation(hit);
        assert!(!line(&hit).contains('\x1b'));
        let mut out = String::new();
        Console::new(true, TimeZone::UTC).observation(&hit, &mut out);
        assert!(out.contains("\x1b[32mHIT"), "{out:?}");
        assert_eq!(out.matches("\x1b[0m").count(), 2);
    }

    #[test]
    fn never_lets_a_key_steer_the_terminal() {
        let mut evil = transaction("GET", 3);
        evil.request.detail = detail("GET \x1b[2J\u{202e}\u{9b}a\nb");
        let mut evil = observation(evil);
        evil.service = service(3, "x\x1b]0;y\x07");
        let line = line(&evil);
        assert!(
            line.trim_end_matches('\n')
                .chars()
                .all(|c| !c.is_control() && c != '\u{202e}'),
            "{line:?}"
        );
        assert!(
            line.contains("GET \\u{1b}[2J\\u{202e}\\u{9b}a\\u{a}b"),
            "{line}"
        );
    }

    #[test]
    fn shows_captures_by_address() {
        let mut seen = observation(transaction("GET", 3));
        seen.service = std::sync::Arc::new(Service {
            id: 9,
            name: "unknown_service".to_owned(),
            ..Service::default()
        });
        assert!(
            line(&seen).contains(" 10.0.0.9:40000 → 127.0.0.1:6379 "),
            "{}",
            line(&seen)
        );
    }

    #[test]
    fn rounds_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (nanos, text) in [
            (400, "0 µs"),
            (213_400, "213 µs"),
            (999_600, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (999_600_000, "1.00 s"),
            (61_000_000_000, "61.00 s"),
        ] {
            assert_eq!(latency(nanos), text);
        }
    }
}
