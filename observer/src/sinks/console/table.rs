//! Metrics as a table: a row for each service and cache, over all operations since the start (or, with delta
//! temporality, since the last table).

use std::collections::BTreeMap;
use std::fmt::Write;

use opentelemetry::{Key, KeyValue, Value};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};

use super::{cut, latency, pad, printable};
use crate::telemetry::names::{attribute, metric, resource, value};

/// Rows of one collection.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: BTreeMap<(String, String), Row>,
}

#[derive(Debug, Default)]
struct Row {
    operations: u64,
    hits: u64,
    misses: u64,
    errors: u64,
    bounds: Vec<f64>,
    buckets: Vec<u64>,
}

impl Table {
    /// Takes the points of one service; those of the observer itself are left out.
    pub(crate) fn add(&mut self, metrics: &ResourceMetrics) {
        let find = |name: &'static str| metrics.resource().get_ref(&Key::from_static_str(name));
        let Some(name) = find(resource::SERVICE_NAME).map(Value::to_string) else {
            return;
        };
        if name == value::OBSERVER {
            return;
        }
        let service = match find(resource::PROCESS_PID) {
            Some(pid) => format!("{name}[{pid}]"),
            None => name,
        };
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    for point in sum.data_points() {
                        let Some(row) = self.row(&service, cache(point.attributes())) else {
                            continue;
                        };
                        match metric.name() {
                            metric::OPERATIONS => row.operations += point.value(),
                            metric::HITS => row.hits += point.value(),
                            metric::MISSES => row.misses += point.value(),
                            metric::ERRORS => row.errors += point.value(),
                            _ => {}
                        }
                    }
                }
                AggregatedMetrics::F64(MetricData::ExponentialHistogram(histogram))
                    if is_duration(metric.name()) =>
                {
                    for point in histogram.data_points() {
                        let Some(row) = self.row(&service, cache(point.attributes())) else {
                            continue;
                        };
                        row.bounds = POWERS.map(|power| f64::exp2(power.into())).collect();
                        row.buckets.resize(row.bounds.len() + 1, 0);
                        let buckets = point.positive_bucket();
                        for (index, count) in (buckets.offset()..).zip(buckets.counts()) {
                            // A bucket of scale s ends at 2^((index + 1) / 2^s).
                            let end = f64::from(index + 1) / f64::exp2(point.scale().into());
                            let power =
                                (end.ceil() as i32).clamp(*POWERS.start(), *POWERS.end() + 1);
                            row.buckets[(power - POWERS.start()) as usize] += count;
                        }
                    }
                }
                AggregatedMetrics::F64(MetricData::Histogram(histogram))
                    if is_duration(metric.name()) =>
                {
                    for point in histogram.data_points() {
                        let Some(row) = self.row(&service, cache(point.attributes())) else {
                            continue;
                        };
                        row.bounds = point.bounds().collect();
                        row.buckets.resize(row.bounds.len() + 1, 0);
                        for (total, count) in row.buckets.iter_mut().zip(point.bucket_counts()) {
                            *total += count;
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn row(&mut self, service: &str, cache: Option<String>) -> Option<&mut Row> {
        let key = (service.to_owned(), cache?);
        Some(self.rows.entry(key).or_default())
    }

    /// The table, or nothing when there is no row.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        if self.rows.is_empty() {
            return out;
        }
        let _ = writeln!(
            out,
            "\n{:<32} {:<24} {:>10} {:>7} {:>10} {:>8} {:>8} {:>8}",
            "service", "cache", "commands", "hit %", "misses", "errors", "p50", "p99"
        );
        for ((service, cache), row) in &self.rows {
            pad(&printable(service), 32, &mut out);
            out.push(' ');
            pad(&cut(&printable(cache), 24), 24, &mut out);
            let keys = row.hits + row.misses;
            let rate = match keys {
                0 => "-".to_owned(),
                _ => format!("{:.1}", 100.0 * row.hits as f64 / keys as f64),
            };
            let quantile = |q| match row.quantile(q) {
                Some(Quantile::Within(seconds)) => format!("<{}", latency((seconds * 1e9) as u64)),
                Some(Quantile::Beyond(seconds)) => format!(">{}", latency((seconds * 1e9) as u64)),
                None => "-".to_owned(),
            };
            let _ = writeln!(
                out,
                " {:>10} {rate:>7} {:>10} {:>8} {:>8} {:>8}",
                row.operations,
                row.misses,
                row.errors,
                quantile(0.5),
                quantile(0.99)
            );
        }
        out.push('\n');
        out
    }
}

/// Of two: the bounds that exponential buckets are put together in, from 1 µs to 64 s.
const POWERS: std::ops::RangeInclusive<i32> = -20..=6;

fn is_duration(name: &str) -> bool {
    matches!(name, metric::CLIENT_DURATION | metric::SERVER_DURATION)
}

enum Quantile {
    /// At most this, s: the bound of the bucket that holds it.
    Within(f64),
    /// Above the last bound, s.
    Beyond(f64),
}

impl Row {
    fn quantile(&self, q: f64) -> Option<Quantile> {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (q * total as f64).ceil() as u64;
        let mut below = 0;
        for (count, bound) in self.buckets.iter().zip(&self.bounds) {
            below += count;
            if below >= rank {
                return Some(Quantile::Within(*bound));
            }
        }
        self.bounds.last().copied().map(Quantile::Beyond)
    }
}

/// `cache.name`, or the same from the server's address and port; a unix socket has none.
fn cache<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> Option<String> {
    let (mut address, mut port) = (None, None);
    for pair in attributes {
        match pair.key.as_str() {
            attribute::CACHE_NAME => return Some(pair.value.to_string()),
            attribute::SERVER_ADDRESS => address = Some(pair.value.to_string()),
            attribute::SERVER_PORT => port = Some(pair.value.to_string()),
            _ => {}
        }
    }
    let address = address?;
    let Some(port) = port else {
        return Some(address);
    };
    Some(match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    })
}

#[cfg(test)]
mod tests {
    use crate::source::event::Clock;
    use std::sync::Arc;

    use super::*;
    use crate::aggregation::testing::{endpoint, service, transaction};
    use crate::aggregation::{Aggregator, Metrics, Options};
    use crate::config::histograms::Histograms;
    use crate::protocol::{Protocol, Word};
    use crate::source::event::End;
    use crate::telemetry::Telemetry;

    #[test]
    fn sums_up_by_service_and_cache() {
        for (exponential, bound) in [(false, "<250 µs"), (true, "<244 µs")] {
            sums_up(exponential, bound);
        }
        assert_eq!(Table::default().render(), "");
    }

    fn sums_up(exponential: bool, bound: &str) {
        let options = Options {
            histograms: Histograms {
                exponential,
                ..Histograms::default()
            },
            ..Options::default()
        };
        let metrics = Arc::new(Metrics::new(options, Arc::new(Telemetry::default())));
        let mut aggregator = Aggregator::new(Arc::clone(&metrics));
        let id = aggregator.bind(
            &endpoint(End::Client, "[::1]:6379"),
            &service(1, "web"),
            Protocol::Redis,
        );
        for number in 0..4 {
            let mut one = transaction("GET", 3);
            match number {
                0 => one.outcome.misses = 1,
                1 => one.outcome.error = Some(Word::new(b"WRONGTYPE")),
                _ => one.outcome.hits = 1,
            }
            aggregator.record(id, &one, Clock::default());
        }
        let mut table = Table::default();
        metrics.collect(|collected| table.add(&collected));
        assert_eq!(
            table.render(),
            format!(
                "\nservice                          cache                      commands   hit %     misses   errors      p50      p99\n\
                 web[4711]                        [::1]:6379                        4    66.7          1        1  {bound}  {bound}\n\n"
            )
        );
    }
}
