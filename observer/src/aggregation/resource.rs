//! A service as an OpenTelemetry resource.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use crate::enrichment::Service;
use crate::telemetry::names::{resource as names, value};

/// The attributes of the observed process, in the order they are shown.
#[must_use]
pub fn attributes(service: &Service) -> Vec<KeyValue> {
    let mut attributes = vec![KeyValue::new(names::SERVICE_NAME, service.name.clone())];
    if let Some(instance) = instance(service.host.as_deref(), service.pid) {
        attributes.push(KeyValue::new(names::SERVICE_INSTANCE_ID, instance));
    }
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

/// `service.instance.id`. A process's number is its own on its host until it ends.
fn instance(host: Option<&str>, pid: Option<u32>) -> Option<String> {
    match (host, pid) {
        (Some(host), Some(pid)) => Some(format!("{host}:{pid}")),
        (Some(host), None) => Some(host.to_owned()),
        (None, Some(pid)) => Some(pid.to_string()),
        (None, None) => None,
    }
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
    let pid = std::process::id();
    let mut attributes = vec![
        KeyValue::new(names::SERVICE_NAME, value::OBSERVER),
        KeyValue::new(
            names::SERVICE_INSTANCE_ID,
            instance(host, Some(pid)).unwrap_or_default(),
        ),
        KeyValue::new(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        KeyValue::new(names::PROCESS_PID, i64::from(pid)),
    ];
    if let Some(host) = host {
        attributes.push(KeyValue::new(names::HOST_NAME, host.to_owned()));
    }
    Resource::builder_empty()
        .with_attributes(attributes)
        .build()
}
