//! Both text formats. They differ in what a counter's family is called, in units, exemplars and the end.

use std::io::Write;

use super::family::{Family, Format, Kind, Labels, Number, Sample};
use crate::aggregation::{Exemplar, SpanReference};

/// What ends a page.
pub(super) fn end(format: Format) -> &'static str {
    match format {
        Format::OpenMetrics => "# EOF\n",
        Format::Text | Format::Protobuf => "",
    }
}

/// Type, unit and help of a family.
pub(super) fn head(format: Format, family: &Family, out: &mut Vec<u8>) {
    let (suffix, kind) = match (family.kind, format) {
        (Kind::Counter, Format::Text) => ("_total", "counter"),
        (Kind::Counter, _) => ("", "counter"),
        (Kind::Gauge, _) => ("", "gauge"),
        (Kind::Histogram, _) => ("", "histogram"),
        (Kind::Info, Format::Text) => ("_info", "gauge"),
        (Kind::Info, _) => ("", "info"),
    };
    let name = &family.name;
    put(out, format_args!("# TYPE {name}{suffix} {kind}\n"));
    if let (Some(unit), Format::OpenMetrics) = (&family.unit, format) {
        put(out, format_args!("# UNIT {name}{suffix} {unit}\n"));
    }
    if !family.help.is_empty() {
        put(out, format_args!("# HELP {name}{suffix} "));
        // Only OpenMetrics escapes quotes here.
        escape(&family.help, format == Format::OpenMetrics, out);
        out.push(b'\n');
    }
}

/// The lines of one series.
pub(super) fn write(
    format: Format,
    family: &Family,
    labels: &Labels<'_>,
    sample: &Sample,
    out: &mut Vec<u8>,
) {
    let name = family.name.as_bytes();
    let labels = joined(labels);
    let mut line =
        |suffix: &str, bound: Option<f64>, number: Number, example: Option<&Exemplar>| {
            out.extend_from_slice(name);
            out.extend_from_slice(suffix.as_bytes());
            if !labels.is_empty() || bound.is_some() {
                out.push(b'{');
                out.extend_from_slice(&labels);
                if let Some(bound) = bound {
                    if !labels.is_empty() {
                        out.push(b',');
                    }
                    out.extend_from_slice(b"le=\"");
                    float(bound, out);
                    out.push(b'"');
                }
                out.push(b'}');
            }
            out.push(b' ');
            match number {
                Number::Unsigned(number) => put(out, format_args!("{number}")),
                Number::Signed(number) => put(out, format_args!("{number}")),
                Number::Float(number) => float(number, out),
            }
            if let (Some(exemplar), Format::OpenMetrics) = (example, format) {
                let SpanReference { trace, span } = exemplar.span;
                put(
                    out,
                    format_args!(" # {{trace_id=\"{trace}\",span_id=\"{span}\"}} "),
                );
                float(exemplar.value, out);
                let (seconds, millis) = (
                    exemplar.time / 1_000_000_000,
                    exemplar.time / 1_000_000 % 1_000,
                );
                put(out, format_args!(" {seconds}.{millis:03}"));
            }
            out.push(b'\n');
        };
    match (sample, family.kind) {
        (Sample::Number(number), Kind::Counter) => line("_total", None, *number, None),
        (Sample::Number(number), Kind::Info) => line("_info", None, *number, None),
        (Sample::Number(number), _) => line("", None, *number, None),
        (Sample::Histogram(histogram), _) => {
            let mut count = 0;
            for (bound, total, exemplar) in histogram.buckets() {
                line("_bucket", Some(bound), Number::Unsigned(total), exemplar);
                count = total;
            }
            line("_sum", None, histogram.sum, None);
            line("_count", None, Number::Unsigned(count), None);
        }
        // Text has no such buckets, and bounds that move with the scale would be new series each time.
        (Sample::Exponential(histogram), _) => {
            let count = Number::Unsigned(histogram.count);
            let latest = histogram.exemplars.iter().max_by_key(|one| one.time);
            line("_bucket", Some(f64::INFINITY), count, latest);
            line("_sum", None, histogram.sum, None);
            line("_count", None, count, None);
        }
    }
}

/// `name="value",…`
fn joined(labels: &Labels<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(labels.len() * 32);
    for (name, value) in labels {
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        escape(value, true, &mut out);
        out.push(b'"');
    }
    out
}

fn escape(text: &str, quotes: bool, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            byte => out.push(byte),
        }
    }
}

/// A number as Go's `%g` writes it, and with `.0` if it is whole: what OpenMetrics calls canonical. Both formats have the
/// same, so that a bucket is one series whichever is read.
fn float(number: f64, out: &mut Vec<u8>) {
    if number.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if number.is_infinite() {
        let text: &[u8] = if number > 0.0 { b"+Inf" } else { b"-Inf" };
        return out.extend_from_slice(text);
    }
    let magnitude = number.abs();
    if number == 0.0 || (1e-4..1e6).contains(&magnitude) {
        return put(out, format_args!("{number:?}"));
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    put(out, format_args!("{digits}e{sign}{:02}", exponent.abs()));
}

fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_canonical() {
        for (number, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.00005, "5e-05"),
            (0.0001, "0.0001"),
            (0.05, "0.05"),
            (604_800.0, "604800.0"),
            (1_048_576.0, "1.048576e+06"),
            (31_536_000.0, "3.1536e+07"),
            (-2.5, "-2.5"),
            (1e-10, "1e-10"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ] {
            let mut out = Vec::new();
            float(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
