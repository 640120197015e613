//! What a process calls itself, from its environment.

use super::process::clean;
use crate::telemetry::names::resource;

/// `OTEL_SERVICE_NAME`, else `service.name` of `OTEL_RESOURCE_ATTRIBUTES` (resource SDK specification). Nothing
/// else of the environment is looked at or kept.
pub(super) fn service_name(environment: &[u8]) -> Option<String> {
    let find = |name: &str| {
        environment.split(|byte| *byte == 0).find_map(|entry| {
            let text = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(String::from_utf8_lossy(text).into_owned())
        })
    };
    let named = |name: String| Some(clean(name.trim())).filter(|name| !name.is_empty());
    find("OTEL_SERVICE_NAME").and_then(named).or_else(|| {
        find("OTEL_RESOURCE_ATTRIBUTES")?
            .split(',')
            .find_map(|pair| {
                let (key, text) = pair.split_once('=')?;
                (key.trim() == resource::SERVICE_NAME).then(|| percent_decoded(text.trim()))
            })
            .and_then(named)
    })
}

/// `%20` and the like replaced; what is no escape stays.
pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_service_names() {
        for (environment, name) in [
            ("A=1\0OTEL_SERVICE_NAME=web\0B=2\0", Some("web")),
            (
                "OTEL_SERVICE_NAME=\0OTEL_RESOURCE_ATTRIBUTES=a=b,service.name=shop%20front\0",
                Some("shop front"),
            ),
            (
                "OTEL_RESOURCE_ATTRIBUTES= service.name = x ,service.version=1\0OTEL_SERVICE_NAME=y",
                Some("y"),
            ),
            ("OTEL_RESOURCE_ATTRIBUTES= service.name = x ,c=1", Some("x")),
            ("OTEL_RESOURCE_ATTRIBUTES=service.name=50%", Some("50%")),
            ("XOTEL_SERVICE_NAME=no\0PATH=/bin", None),
            ("OTEL_SERVICE_NAME=a\x1b[31mb", Some("a[31mb")),
            ("", None),
        ] {
            assert_eq!(
                service_name(environment.as_bytes()).as_deref(),
                name,
                "{environment:?}"
            );
        }
    }
}
