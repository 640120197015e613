//! What a page is made of: families of samples in one of the formats.

use std::borrow::Cow;

use super::{name, protobuf, text};
use crate::aggregation::Exemplar;

/// Formats of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sinks) enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics text 1.0.0.
    OpenMetrics,
    /// Protocol buffers.
    Protobuf,
}

impl Format {
    /// The best that the `Accept` headers allow; the older text where they say nothing that we know.
    pub(in crate::sinks) fn accepted<'a>(headers: impl Iterator<Item = &'a str>) -> Self {
        let mut best = (Self::Text, 0.0);
        for range in headers.flat_map(|header| header.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version, mut message, mut encoding) = (1.0, None, None, None);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", text)) => weight = text.trim().parse().unwrap_or(0.0),
                    Some(("version", text)) => version = Some(text.trim_matches('"')),
                    Some(("proto", text)) => message = Some(text.trim_matches('"')),
                    Some(("encoding", text)) => encoding = Some(text.trim_matches('"')),
                    _ => {}
                }
            }
            let format = match (media.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0")) => Self::OpenMetrics,
                ("text/plain", None | Some("0.0.4")) => Self::Text,
                ("application/vnd.google.protobuf", _)
                    if message == Some("io.prometheus.client.MetricFamily")
                        && encoding == Some("delimited") =>
                {
                    Self::Protobuf
                }
                _ => continue,
            };
            if weight > best.1 {
                best = (format, weight);
            }
        }
        best.0
    }

    pub(in crate::sinks) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// Facts as labels, with the value 1.
    Info,
}

/// A number of any of the SDK's types.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Unsigned(number)
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        Self::Signed(number)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

/// The value of one series.
#[derive(Debug)]
pub(super) enum Sample {
    Number(Number),
    Histogram(Histogram),
    Exponential(Exponential),
}

/// With buckets whose bounds are powers of 2^(2^-scale).
#[derive(Debug)]
pub(super) struct Exponential {
    pub(super) scale: i8,
    pub(super) zero_count: u64,
    /// Index of the first bucket.
    pub(super) offset: i32,
    pub(super) counts: Vec<u64>,
    pub(super) count: u64,
    pub(super) sum: Number,
    pub(super) exemplars: Vec<Exemplar>,
}

/// With bounds.
#[derive(Debug)]
pub(super) struct Histogram {
    pub(super) bounds: Vec<f64>,
    /// One more than bounds.
    pub(super) counts: Vec<u64>,
    pub(super) sum: Number,
    pub(super) exemplars: Vec<Exemplar>,
}

impl Histogram {
    /// Upper bound, cumulative count and latest exemplar of each bucket.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (f64, u64, Option<&Exemplar>)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let (mut total, mut below) = (0, f64::NEG_INFINITY);
        bounds.zip(&self.counts).map(move |(bound, count)| {
            total += count;
            let within = |exemplar: &&Exemplar| exemplar.value > below && exemplar.value <= bound;
            let exemplars = self.exemplars.iter().filter(within);
            // They are read after the counts: a bucket that was empty then shows none.
            let latest = exemplars.max_by_key(|exemplar| exemplar.time);
            let latest = latest.filter(|_| *count > 0);
            below = bound;
            (bound, total, latest)
        })
    }
}

/// Names and values, not escaped.
pub(super) type Labels<'a> = [(Cow<'a, str>, Cow<'a, str>)];

/// Samples of one name.
#[derive(Debug)]
pub(super) struct Family {
    /// Of OpenTelemetry.
    pub(super) instrument: String,
    /// Of Prometheus, without `_total` or `_info`.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) unit: Option<Cow<'static, str>>,
    pub(super) help: String,
}

impl Family {
    /// Those of an instrument.
    pub(super) fn new(instrument: &str, unit: &str, kind: Kind, help: &str) -> Self {
        let (name, unit) = name::family(instrument, unit, kind);
        Self {
            instrument: instrument.to_owned(),
            name,
            kind,
            unit,
            help: help.to_owned(),
        }
    }

    /// What is known of each service.
    pub(super) fn target() -> Self {
        Self::new(
            "target",
            "",
            Kind::Info,
            "Attributes of the observed process.",
        )
    }

    /// What stands before the samples, which have this length together.
    pub(super) fn write_head(&self, format: Format, length: usize, out: &mut Vec<u8>) {
        match format {
            Format::Text | Format::OpenMetrics => text::head(format, self, out),
            Format::Protobuf => protobuf::head(self, length, out),
        }
    }

    /// One series.
    pub(super) fn write(
        &self,
        format: Format,
        labels: &Labels<'_>,
        sample: &Sample,
        out: &mut Vec<u8>,
    ) {
        match format {
            Format::Text | Format::OpenMetrics => text::write(format, self, labels, sample, out),
            Format::Protobuf => protobuf::write(self, labels, sample, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_negotiated() {
        for (accept, format) in [
            (vec![], Format::Text),
            (vec!["*/*"], Format::Text),
            (vec!["text/html"], Format::Text),
            (vec!["application/openmetrics-text"], Format::OpenMetrics),
            (
                // Prometheus 2.
                vec![
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                Format::OpenMetrics,
            ),
            (
                // Prometheus 3.
                vec![
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                ],
                Format::OpenMetrics,
            ),
            (
                // Prometheus with native histograms.
                vec![
                    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                Format::Protobuf,
            ),
            (vec!["application/vnd.google.protobuf"], Format::Text),
            (
                vec!["application/openmetrics-text;q=0.3", "text/plain; q=0.7"],
                Format::Text,
            ),
            (
                vec!["application/openmetrics-text;version=0.0.1"],
                Format::Text,
            ),
            (vec!["application/openmetrics-text;q=0"], Format::Text),
            (vec!["application/openmetrics-text;q=x, ;;;="], Format::Text),
        ] {
            assert_eq!(
                Format::accepted(accept.iter().copied()),
                format,
                "{accept:?}"
            );
        }
    }
}
