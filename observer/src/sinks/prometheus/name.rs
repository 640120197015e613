//! Names as the translation from OTLP to Prometheus makes them (OpenTelemetry specification, "Prometheus and OpenMetrics
//! compatibility"): `cache.latency`, ms → `cache_latency_milliseconds`.

use std::borrow::Cow;

use super::family::Kind;

/// The name of a family, without `_total`, and its unit.
pub(super) fn family(name: &str, unit: &str, kind: Kind) -> (String, Option<Cow<'static, str>>) {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let mut words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    if kind == Kind::Counter {
        words.retain(|word| *word != "total");
    }
    let unit = self::unit(unit, kind);
    if let Some(unit) = &unit
        && !words.contains(&unit.as_ref())
    {
        words.push(unit);
    }
    let name = words.join("_");
    let unit = unit.filter(|unit| name.ends_with(unit.as_ref()));
    (name, unit)
}

/// A UCUM unit as Prometheus writes it. What stands in braces is none.
fn unit(unit: &str, kind: Kind) -> Option<Cow<'static, str>> {
    Some(Cow::Borrowed(match unit {
        "" => return None,
        "1" if kind == Kind::Gauge => "ratio",
        "1" => return None,
        "s" => "seconds",
        "ms" => "milliseconds",
        "By" => "bytes",
        other if other.starts_with('{') => return None,
        other => return Some(Cow::Owned(label(other).into_owned())),
    }))
}

/// An attribute's name as a label's.
pub(super) fn label(name: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_digit());
    if !starts && name.chars().all(allowed) {
        return Cow::Borrowed(name);
    }
    let clean: String = name
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    match starts {
        true => Cow::Owned(format!("key_{clean}")),
        false => Cow::Owned(clean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_translation() {
        for (name, unit, kind, family, of_unit) in [
            ("cache.hits", "{key}", Kind::Counter, "cache_hits", None),
            (
                "cache.latency",
                "ms",
                Kind::Histogram,
                "cache_latency_milliseconds",
                Some("milliseconds"),
            ),
            (
                "cache.hit_rate",
                "1",
                Kind::Gauge,
                "cache_hit_rate_ratio",
                Some("ratio"),
            ),
            (
                "db.client.operation.duration",
                "s",
                Kind::Histogram,
                "db_client_operation_duration_seconds",
                Some("seconds"),
            ),
            (
                "observer.payload.captured",
                "By",
                Kind::Counter,
                "observer_payload_captured_bytes",
                Some("bytes"),
            ),
            ("a.bytes.read", "By", Kind::Gauge, "a_bytes_read", None),
            ("total.things", "1", Kind::Counter, "things", None),
            ("speed", "m/s", Kind::Gauge, "speed_m_s", Some("m_s")),
        ] {
            let (found, unit) = self::family(name, unit, kind);
            assert_eq!((found.as_str(), unit.as_deref()), (family, of_unit));
        }
        assert_eq!(label("cache.name"), "cache_name");
        assert_eq!(label("ok_1"), "ok_1");
        assert_eq!(label("1é"), "key_1_");
    }
}
