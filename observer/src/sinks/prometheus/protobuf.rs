//! The delimited protocol buffers of Prometheus (`io.prometheus.client.MetricFamily`): the only format that Prometheus reads
//! native histograms in. Fields that nobody here writes are left out.

use prost::Message;

use super::family::{Exponential, Family, Kind, Labels, Number, Sample};
use crate::aggregation;

/// Finest resolution that Prometheus knows: its "schema".
const MAX_SCHEMA: i32 = 8;
const MIN_SCHEMA: i32 = -4;
/// Prometheus's default width of the bucket for zero: 2⁻¹²⁸.
const ZERO_THRESHOLD: f64 = 1.0 / (1_u128 << 127) as f64 / 2.0;

#[derive(Clone, PartialEq, Message)]
struct FamilyHead {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(string, optional, tag = "5")]
    unit: Option<String>,
}

/// Number of a family's field for its metrics.
const METRIC: u32 = 4;

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<Label>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Value>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Value>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<Span>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    label: Vec<Label>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Label {
    fn new(name: &str, value: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            value: Some(value.to_owned()),
        }
    }
}

impl From<&aggregation::Exemplar> for Exemplar {
    fn from(exemplar: &aggregation::Exemplar) -> Self {
        let span = exemplar.span;
        Self {
            label: vec![
                Label::new("trace_id", &span.trace.to_string()),
                Label::new("span_id", &span.span.to_string()),
            ],
            value: Some(exemplar.value),
            timestamp: Some(Timestamp {
                seconds: (exemplar.time / 1_000_000_000) as i64,
                nanos: (exemplar.time % 1_000_000_000) as i32,
            }),
        }
    }
}

/// What stands before the series of a family, which [`write`] makes: the length of all, and what it is.
pub(super) fn head(family: &Family, length: usize, out: &mut Vec<u8>) {
    let (suffix, kind) = match family.kind {
        Kind::Counter => ("_total", 0),
        Kind::Gauge => ("", 1),
        Kind::Info => ("_info", 1),
        Kind::Histogram => ("", 4),
    };
    let head = FamilyHead {
        name: Some(format!("{}{suffix}", family.name)),
        help: Some(family.help.clone()),
        kind: Some(kind),
        unit: family.unit.as_ref().map(|unit| unit.clone().into_owned()),
    };
    prost::encoding::encode_varint((head.encoded_len() + length) as u64, out);
    out.extend_from_slice(&head.encode_to_vec());
}

/// One series.
pub(super) fn write(family: &Family, labels: &Labels<'_>, sample: &Sample, out: &mut Vec<u8>) {
    let mut metric = Metric {
        label: labels
            .iter()
            .map(|(name, value)| Label::new(name, value))
            .collect(),
        ..Metric::default()
    };
    match (sample, family.kind) {
        (Sample::Number(number), Kind::Counter) => metric.counter = Some(value(*number)),
        (Sample::Number(number), _) => metric.gauge = Some(value(*number)),
        (Sample::Histogram(histogram), _) => {
            let buckets = histogram.buckets().map(|(bound, count, exemplar)| Bucket {
                cumulative_count: Some(count),
                upper_bound: Some(bound),
                exemplar: exemplar.map(Exemplar::from),
            });
            metric.histogram = Some(Histogram {
                sample_count: Some(histogram.counts.iter().sum()),
                sample_sum: value(histogram.sum).value,
                bucket: buckets.collect(),
                ..Histogram::default()
            });
        }
        (Sample::Exponential(histogram), _) => metric.histogram = Some(native(histogram)),
    }
    prost::encoding::message::encode(METRIC, &metric, out);
}

fn value(number: Number) -> Value {
    Value {
        value: Some(match number {
            Number::Unsigned(number) => number as f64,
            Number::Signed(number) => number as f64,
            Number::Float(number) => number,
        }),
    }
}

/// OpenTelemetry's bucket `i` holds what is above baseⁱ and at most baseⁱ⁺¹, Prometheus's what is above baseⁱ⁻¹ and at most
/// baseⁱ.
fn native(histogram: &Exponential) -> Histogram {
    let mut native = Histogram {
        sample_count: Some(histogram.count),
        sample_sum: value(histogram.sum).value,
        exemplars: histogram.exemplars.iter().map(Exemplar::from).collect(),
        ..Histogram::default()
    };
    let scale = i32::from(histogram.scale);
    if scale < MIN_SCHEMA {
        // 160 buckets reach there only with values that no time or size takes.
        return native;
    }
    // Each step of a coarser scale puts two buckets together.
    let shift = (scale - MAX_SCHEMA).max(0);
    let first = histogram.offset >> shift;
    let mut counts: Vec<u64> = Vec::new();
    for (index, count) in (histogram.offset..).zip(&histogram.counts) {
        let at = ((index >> shift) - first) as usize;
        counts.resize(counts.len().max(at + 1), 0);
        counts[at] += count;
    }
    let mut before = 0;
    for count in &counts {
        let count = *count as i64;
        native.positive_delta.push(count - before);
        before = count;
    }
    native.schema = Some(scale - shift);
    native.zero_threshold = Some(ZERO_THRESHOLD);
    native.zero_count = Some(histogram.zero_count);
    // One without length tells a native histogram that holds nothing.
    native.positive_span.push(Span {
        offset: Some(if counts.is_empty() { 0 } else { first + 1 }),
        length: Some(counts.len() as u32),
    });
    native
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_on_the_wire_where_prometheus_reads_them() {
        let exponential = Exponential {
            scale: 10,
            zero_count: 2,
            offset: -3,
            counts: vec![1, 2, 3, 4, 5],
            count: 17,
            sum: Number::Float(1.5),
            exemplars: Vec::new(),
        };
        let native = native(&exponential);
        // Scale 10 to 8: four buckets become one; -3 … 1 are -1, -1, -1, 0, 0.
        assert_eq!((native.schema, native.zero_count), (Some(8), Some(2)));
        assert_eq!(native.positive_delta, [6, 3]);
        assert_eq!(
            native.positive_span,
            [Span {
                offset: Some(0),
                length: Some(2)
            }]
        );
        let bytes = native.encode_to_vec();
        assert_eq!(&bytes[..2], [0x08, 17], "sample_count is field 1");
        assert!(
            bytes.windows(2).any(|pair| pair == [0x28, 16]),
            "schema is field 5, zigzag"
        );
        assert!(bytes.ends_with(&[0x68, 12, 0x68, 6]), "deltas are field 13");
        let empty = super::native(&Exponential {
            counts: Vec::new(),
            offset: 0,
            zero_count: 0,
            count: 0,
            ..exponential
        });
        assert_eq!(empty.positive_span[0].length, Some(0));
        assert!(empty.positive_delta.is_empty());
    }

    #[test]
    fn families_are_delimited() {
        let of = Family::new("cache.hits", "{key}", Kind::Counter, "Hits.");
        let mut series = Vec::new();
        let labels = [("a".into(), "b".into())];
        write(
            &of,
            &labels,
            &Sample::Number(Number::Unsigned(3)),
            &mut series,
        );
        let mut page = Vec::new();
        head(&of, series.len(), &mut page);
        page.append(&mut series);
        let mut rest = &page[..];
        let length = prost::encoding::decode_varint(&mut rest).unwrap();
        assert_eq!(length as usize, rest.len());
        let head = FamilyHead::decode(rest).unwrap();
        assert_eq!(
            (head.name.as_deref(), head.kind),
            (Some("cache_hits_total"), Some(0))
        );
    }
}
