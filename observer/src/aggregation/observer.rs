//! The observer's own metrics: its counters, read when metrics are collected.

use std::fs;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::protocol::Protocol;
use crate::telemetry::names::{attribute, metric};
use crate::telemetry::{Lost, Resync, Skipped, SpanOutcome, Telemetry};

/// Clock ticks a second in `/proc/PID/stat`: part of the kernel's interface, 100 on all architectures that we
/// support.
const TICKS: f64 = 100.0;

/// Declares the instruments. The meter keeps them.
pub(super) fn instruments(meter: &Meter, telemetry: &Arc<Telemetry>) {
    counter(
        meter,
        (metric::EVENTS, "{event}", "Events that arrived."),
        telemetry,
        |telemetry| telemetry.events.get(),
    );
    counter(
        meter,
        (
            metric::PAYLOAD_CAPTURED,
            "By",
            "Payload bytes that arrived.",
        ),
        telemetry,
        |telemetry| telemetry.captured.get(),
    );
    counter(
        meter,
        (
            metric::REPLIES_ORPHANED,
            "{reply}",
            "Replies that no request waited for.",
        ),
        telemetry,
        |telemetry| telemetry.orphaned.get(),
    );

    counter(
        meter,
        (metric::SCRAPES, "{scrape}", "Scrapes that were answered."),
        telemetry,
        |telemetry| telemetry.scrapes.get(),
    );

    let counters = Arc::clone(telemetry);
    let _ = meter
        .i64_observable_up_down_counter(metric::CONNECTIONS)
        .with_unit("{connection}")
        .with_description("Connections tracked now.")
        .with_callback(move |observer| {
            let connections = counters.connections.get();
            observer.observe(i64::try_from(connections).unwrap_or(i64::MAX), &[]);
        })
        .build();

    let counters = Arc::clone(telemetry);
    let _ = meter
        .u64_observable_counter(metric::EVENTS_LOST)
        .with_unit("{event}")
        .with_description("Events that did not arrive.")
        .with_callback(move |observer| {
            for reason in Lost::ALL {
                let labels = [KeyValue::new(attribute::REASON, reason.name())];
                observer.observe(counters.lost(*reason).get(), &labels);
            }
        })
        .build();

    let counters = Arc::clone(telemetry);
    let _ = meter
        .u64_observable_counter(metric::PAYLOAD_SKIPPED)
        .with_unit("By")
        .with_description("Payload bytes that were not read.")
        .with_callback(move |observer| {
            for reason in Skipped::ALL {
                let labels = [KeyValue::new(attribute::REASON, reason.name())];
                observer.observe(counters.skipped(*reason).get(), &labels);
            }
        })
        .build();

    let counters = Arc::clone(telemetry);
    let _ = meter
        .u64_observable_counter(metric::RESYNCHRONIZATIONS)
        .with_unit("{resynchronization}")
        .with_description("Connections whose framing was lost and found again.")
        .with_callback(move |observer| {
            for protocol in [Protocol::Redis, Protocol::Memcached] {
                for reason in Resync::ALL {
                    let labels = [
                        KeyValue::new(attribute::PROTOCOL, protocol.name()),
                        KeyValue::new(attribute::REASON, reason.name()),
                    ];
                    observer.observe(counters.resyncs(protocol, *reason).get(), &labels);
                }
            }
        })
        .build();

    let counters = Arc::clone(telemetry);
    let _ = meter
        .u64_observable_counter(metric::SPANS)
        .with_unit("{span}")
        .with_description("What became of spans.")
        .with_callback(move |observer| {
            for outcome in SpanOutcome::ALL {
                let labels = [KeyValue::new(attribute::OUTCOME, outcome.name())];
                observer.observe(counters.spans(*outcome).get(), &labels);
            }
        })
        .build();

    let _ = meter
        .f64_observable_counter(metric::CPU_TIME)
        .with_unit("s")
        .with_description("CPU time of the observer.")
        .with_callback(|observer| {
            let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
            if let Some((user, system)) = cpu_time(&stat) {
                observer.observe(user, &[KeyValue::new(attribute::CPU_MODE, "user")]);
                observer.observe(system, &[KeyValue::new(attribute::CPU_MODE, "system")]);
            }
        })
        .build();

    let _ = meter
        .i64_observable_up_down_counter(metric::MEMORY)
        .with_unit("By")
        .with_description("Resident memory of the observer.")
        .with_callback(|observer| {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            if let Some(bytes) = resident(&status) {
                observer.observe(bytes, &[]);
            }
        })
        .build();
}

fn counter(
    meter: &Meter,
    (name, unit, text): (&'static str, &'static str, &'static str),
    telemetry: &Arc<Telemetry>,
    read: fn(&Telemetry) -> u64,
) {
    let telemetry = Arc::clone(telemetry);
    let _ = meter
        .u64_observable_counter(name)
        .with_unit(unit)
        .with_description(text)
        .with_callback(move |observer| observer.observe(read(&telemetry), &[]))
        .build();
}

/// Seconds in user and in kernel mode: fields 14 and 15 of `/proc/PID/stat`.
fn cpu_time(stat: &str) -> Option<(f64, f64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    let (user, system) = (ticks()?, ticks()?);
    Some((f64::from(user) / TICKS, f64::from(system) / TICKS))
}

/// Bytes resident: `VmRSS` of `/proc/PID/status`.
fn resident(status: &str) -> Option<i64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_tells() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(cpu_time(stat), Some((2.5, 0.5)));
        assert_eq!(cpu_time(""), None);
        assert_eq!(
            resident("VmSize:\t 9 kB\nVmRSS:\t    12 kB\n"),
            Some(12 * 1024)
        );
        assert_eq!(resident(""), None);
    }
}
