//! Spans and metric points as JSON, one object a line. telemetry.md, "JSON Lines".

use std::collections::BTreeMap;

use opentelemetry::trace::SpanKind;
use opentelemetry::{Array, KeyValue, Value};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::span::Span;
use crate::aggregation::resource_attributes;

#[derive(serde::Serialize)]
struct SpanLine<'a> {
    r#type: &'static str,
    name: &'a str,
    kind: &'static str,
    trace_id: String,
    span_id: String,
    parent_span_id: Option<String>,
    start_time_unix_nano: u64,
    end_time_unix_nano: u64,
    status: Status,
    resource: Attributes<'a>,
    attributes: Attributes<'a>,
}

#[derive(serde::Serialize)]
struct Status {
    code: &'static str,
}

#[derive(serde::Serialize)]
struct PointLine<'a, V: Serialize> {
    r#type: &'static str,
    name: &'a str,
    unit: &'a str,
    resource: &'a BTreeMap<&'a str, Json<'a>>,
    attributes: BTreeMap<&'a str, Json<'a>>,
    #[serde(flatten)]
    value: V,
}

#[derive(serde::Serialize)]
struct Number<T> {
    value: T,
}

#[derive(serde::Serialize)]
struct Distribution<T> {
    count: u64,
    sum: T,
    bounds: Vec<f64>,
    bucket_counts: Vec<u64>,
}

/// Bucket `i` holds what is above base^(offset + i) and at most base^(offset + i + 1); base is 2^(2^-scale). Nothing that is
/// measured is negative.
#[derive(serde::Serialize)]
struct Exponential<T> {
    count: usize,
    sum: T,
    scale: i8,
    zero_count: u64,
    offset: i32,
    bucket_counts: Vec<u64>,
}

/// Appends the line of a span.
pub(super) fn span(span: &Span, out: &mut Vec<u8>) {
    let resource = resource_attributes(&span.service);
    line(
        &SpanLine {
            r#type: "span",
            name: &span.name,
            kind: match span.kind {
                SpanKind::Server => "SERVER",
                _ => "CLIENT",
            },
            trace_id: span.ids.trace.to_string(),
            span_id: span.ids.span.to_string(),
            parent_span_id: span.ids.parent.map(|parent| parent.span.to_string()),
            start_time_unix_nano: span.start,
            end_time_unix_nano: span.end,
            status: Status {
                code: if span.failed { "ERROR" } else { "UNSET" },
            },
            resource: Attributes(&resource),
            attributes: Attributes(&span.attributes),
        },
        out,
    );
}

/// Appends a line for each point.
pub(super) fn metrics(metrics: &ResourceMetrics, out: &mut Vec<u8>) {
    let resource = metrics.resource().iter();
    let resource = resource
        .map(|(key, value)| (key.as_str(), Json(value)))
        .collect();
    for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
        let head = Head {
            name: metric.name(),
            unit: metric.unit(),
            resource: &resource,
        };
        match metric.data() {
            AggregatedMetrics::F64(data) => points(&head, data, out),
            AggregatedMetrics::U64(data) => points(&head, data, out),
            AggregatedMetrics::I64(data) => points(&head, data, out),
        }
    }
}

struct Head<'a> {
    name: &'a str,
    unit: &'a str,
    resource: &'a BTreeMap<&'a str, Json<'a>>,
}

impl Head<'_> {
    fn line<'a>(
        &self,
        attributes: impl Iterator<Item = &'a KeyValue>,
        value: impl Serialize,
        out: &mut Vec<u8>,
    ) {
        let attributes = attributes.map(|pair| (pair.key.as_str(), Json(&pair.value)));
        line(
            &PointLine {
                r#type: "metric",
                name: self.name,
                unit: self.unit,
                resource: self.resource,
                attributes: attributes.collect(),
                value,
            },
            out,
        );
    }
}

fn points<T: Copy + Serialize>(head: &Head<'_>, data: &MetricData<T>, out: &mut Vec<u8>) {
    match data {
        MetricData::Gauge(gauge) => {
            for point in gauge.data_points() {
                head.line(
                    point.attributes(),
                    Number {
                        value: point.value(),
                    },
                    out,
                );
            }
        }
        MetricData::Sum(sum) => {
            for point in sum.data_points() {
                head.line(
                    point.attributes(),
                    Number {
                        value: point.value(),
                    },
                    out,
                );
            }
        }
        MetricData::Histogram(histogram) => {
            for point in histogram.data_points() {
                let distribution = Distribution {
                    count: point.count(),
                    sum: point.sum(),
                    bounds: point.bounds().collect(),
                    bucket_counts: point.bucket_counts().collect(),
                };
                head.line(point.attributes(), distribution, out);
            }
        }
        MetricData::ExponentialHistogram(histogram) => {
            for point in histogram.data_points() {
                let buckets = point.positive_bucket();
                let distribution = Exponential {
                    count: point.count(),
                    sum: point.sum(),
                    scale: point.scale(),
                    zero_count: point.zero_count(),
                    offset: buckets.offset(),
                    bucket_counts: buckets.counts().collect(),
                };
                head.line(point.attributes(), distribution, out);
            }
        }
    }
}

fn line(value: &impl Serialize, out: &mut Vec<u8>) {
    let before = out.len();
    match serde_json::to_writer(&mut *out, value) {
        Ok(()) => out.push(b'\n'),
        // Writing to memory cannot fail, and every map key is a string.
        Err(_) => out.truncate(before),
    }
}

/// Attributes as an object, in their order.
struct Attributes<'a>(&'a [KeyValue]);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for pair in self.0 {
            map.serialize_entry(pair.key.as_str(), &Json(&pair.value))?;
        }
        map.end()
    }
}

/// An attribute's value.
struct Json<'a>(&'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I64(value) => serializer.serialize_i64(*value),
            Value::F64(value) => serializer.serialize_f64(*value),
            Value::String(value) => serializer.serialize_str(value.as_str()),
            Value::Array(Array::Bool(values)) => values.serialize(serializer),
            Value::Array(Array::I64(values)) => values.serialize(serializer),
            Value::Array(Array::F64(values)) => values.serialize(serializer),
            Value::Array(Array::String(values)) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(value.as_str())?;
                }
                list.end()
            }
            other => serializer.serialize_str(&other.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::source::event::Clock;
    use std::sync::Arc;

    use super::super::options::SpanLimits;
    use super::super::policy::Sample;
    use super::super::span::Ids;
    use super::*;
    use crate::aggregation::testing::{endpoint, observation, service, transaction};
    use crate::aggregation::{Aggregator, Metrics, Options};
    use crate::protocol::{Detail, HitRule, Protocol, Word};
    use crate::source::event::End;
    use crate::telemetry::Telemetry;

    fn text(out: Vec<u8>) -> String {
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_spans() {
        let mut several = transaction("MGET", 4);
        several.request.key_count = 2;
        several.request.hit_rule = HitRule::NullElements { asked: 2 };
        several.request.detail = Some(Box::new(Detail {
            text: "MGET a \"b".to_owned(),
            keys: vec!["a".to_owned(), "\"b".to_owned()],
            stored_procedure: None,
            ..Detail::default()
        }));
        several.outcome.hits = 1;
        several.outcome.misses = 1;
        let ids = Ids {
            trace: 0xabc_u128.into(),
            span: 0xdef_u64.into(),
            parent: None,
            sample: Sample::default(),
        };
        let mut out = Vec::new();
        span(
            &Span::of(&observation(several), ids, SpanLimits::default())[0],
            &mut out,
        );
        assert_eq!(
            text(out),
            concat!(
                r#"{"type":"span","name":"MGET 127.0.0.1:6379","kind":"CLIENT","#,
                r#""trace_id":"00000000000000000000000000000abc","span_id":"0000000000000def","#,
                r#""parent_span_id":null,"start_time_unix_nano":1795404452001000000,"#,
                r#""end_time_unix_nano":1795404452001200000,"status":{"code":"UNSET"},"#,
                r#""resource":{"service.name":"web","service.instance.id":"node-1:4711","process.pid":4711,"process.executable.name":"app","host.name":"node-1"},"#,
                r#""attributes":{"db.system.name":"redis","db.operation.name":"MGET","cache.operation":"get","#,
                r#""server.address":"127.0.0.1","server.port":6379,"cache.name":"127.0.0.1:6379","#,
                r#""network.peer.address":"127.0.0.1","network.peer.port":6379,"network.transport":"tcp","#,
                r#""network.type":"ipv4","db.namespace":"0","db.query.text":"MGET a \"b","cache.key":["a","\"b"],"#,
                r#""cache.key_pattern":["a","\"b"],"cache.key_count":2,"cache.hits":1,"cache.misses":1,"cache.hit_rate":0.5}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn writes_failed_spans_of_the_server() {
        let mut wrong = transaction("GET", 3);
        wrong.outcome.error = Some(Word::new(b"WRONGTYPE"));
        let mut observed = observation(wrong);
        observed.endpoint = endpoint(End::Server, "[::1]:6379");
        let mut out = Vec::new();
        span(
            &Span::of(
                &observed,
                Ids::new(Sample::default()),
                SpanLimits::default(),
            )[0],
            &mut out,
        );
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["kind"], "SERVER");
        assert_eq!(line["status"]["code"], "ERROR");
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(line["span_id"].as_str().unwrap().len(), 16);
    }

    #[test]
    fn writes_metric_points() {
        let metrics_of_all = Arc::new(Metrics::new(
            Options::default(),
            Arc::new(Telemetry::default()),
        ));
        let mut aggregator = Aggregator::new(Arc::clone(&metrics_of_all));
        let id = aggregator.bind(
            &endpoint(End::Client, "127.0.0.1:6379"),
            &service(1, "web"),
            Protocol::Redis,
        );
        aggregator.record(id, &transaction("GET", 3), Clock::default());
        let mut out = Vec::new();
        metrics_of_all.collect(|collected| metrics(&collected, &mut out));
        let text = text(out);
        let mut lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains("observer."))
            .collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                concat!(
                    r#"{"type":"metric","name":"cache.latency","unit":"ms","#,
                    r#""resource":{"host.name":"node-1","process.executable.name":"app","process.pid":4711,"service.instance.id":"node-1:4711","service.name":"web"},"#,
                    r#""attributes":{"cache.name":"127.0.0.1:6379","cache.operation":"get"},"count":1,"sum":0.2,"#,
                    r#""bounds":[0.05,0.1,0.25,0.5,1.0,2.5,5.0,10.0,25.0,50.0,100.0,250.0,500.0,1000.0,2500.0,5000.0,10000.0],"#,
                    r#""bucket_counts":[0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}"#,
                ),
                concat!(
                    r#"{"type":"metric","name":"cache.operations","unit":"{operation}","#,
                    r#""resource":{"host.name":"node-1","process.executable.name":"app","process.pid":4711,"service.instance.id":"node-1:4711","service.name":"web"},"#,
                    r#""attributes":{"cache.name":"127.0.0.1:6379","cache.operation":"get","db.system.name":"redis"},"value":1}"#,
                ),
                concat!(
                    r#"{"type":"metric","name":"db.client.operation.duration","unit":"s","#,
                    r#""resource":{"host.name":"node-1","process.executable.name":"app","process.pid":4711,"service.instance.id":"node-1:4711","service.name":"web"},"#,
                    r#""attributes":{"db.namespace":"0","db.operation.name":"GET","db.system.name":"redis","#,
                    r#""server.address":"127.0.0.1","server.port":6379},"count":1,"sum":0.0002,"#,
                    r#""bounds":[0.00005,0.0001,0.00025,0.0005,0.001,0.0025,0.005,0.01,0.025,0.05,0.1,0.25,0.5,1.0,2.5,5.0,10.0],"#,
                    r#""bucket_counts":[0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}"#,
                ),
            ]
        );
        assert!(text.contains(r#""name":"observer.events.lost","unit":"{event}""#));
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}
