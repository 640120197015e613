//! A service as an OpenTelemetry resource.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use crate::enrichment::Service;
use crate::telemetry::names::{resource as names, value};

/// The attributes of the observed process, in the order they are shown.
#[must_use]
pub fn attributes(service: &Service) -> Vec<KeyValue> {
    let mut attributes = vec![KeyValue::new(names::SERVICE_NAME, service.name.clone())];
    if let Some(pid) = service.pid {
        attributes.push(KeyValue::new(names::PROCESS_PID, i64::from(pid)));
    }
    for (name, text) in [
        (names::PROCESS_EXECUTABLE_NAME, &service.executable),
        (names::CONTAINER_ID, &service.container),
        (names::HOST_NAME, &service.host),
    ] {
        if let Some(text) = text {
            attributes.push(KeyValue::new(name, text.clone()));
        }
    }
    attributes
}

/// The resource of the observed process. Holds nothing of the observer's own environment.
#[must_use]
pub fn resource(service: &Service) -> Resource {
    Resource::builder_empty()
        .with_attributes(attributes(service))
        .build()
}

/// The resource of the observer itself.
#[must_use]
pub(super) fn observer(host: Option<&str>) -> Resource {
    let mut attributes = vec![
        KeyValue::new(names::SERVICE_NAME, value::OBSERVER),
        KeyValue::new(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        KeyValue::new(names::PROCESS_PID, i64::from(std::process::id())),
    ];
    if let Some(host) = host {
        attributes.push(KeyValue::new(names::HOST_NAME, host.to_owned()));
    }
    Resource::builder_empty()
        .with_attributes(attributes)
        .build()
}
