//! A service as an OpenTelemetry resource.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use crate::enrichment::{Service, percent_decoded};
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
    let pod = service.pod.as_ref();
    let qos = pod.and_then(|pod| Some(pod.qos?.name().to_owned()));
    for (name, text) in [
        (names::PROCESS_EXECUTABLE_NAME, &service.executable),
        (names::CONTAINER_ID, &service.container),
        (names::K8S_POD_UID, &pod.map(|pod| pod.uid.clone())),
        (names::K8S_POD_NAME, &pod.and_then(|pod| pod.name.clone())),
        (
            names::K8S_NAMESPACE_NAME,
            &pod.and_then(|pod| pod.namespace.clone()),
        ),
        (names::K8S_POD_QOS_CLASS, &qos),
        (names::K8S_NODE_NAME, &service.node),
        (names::SYSTEMD_UNIT, &service.unit),
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

/// What the user says of the observer itself: `OTEL_RESOURCE_ATTRIBUTES`, and `OTEL_SERVICE_NAME`, which stands before it.
/// What is no pair of name and value is passed over.
#[must_use]
pub fn said_of_observer(lookup: impl Fn(&str) -> Option<String>) -> Vec<KeyValue> {
    let listed = lookup("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let pairs = listed.split(',').filter_map(|pair| {
        let (name, text) = pair.split_once('=')?;
        let name = Some(name.trim()).filter(|name| !name.is_empty())?;
        Some(KeyValue::new(name.to_owned(), percent_decoded(text.trim())))
    });
    let name = lookup("OTEL_SERVICE_NAME").filter(|name| !name.trim().is_empty());
    pairs
        .chain(name.map(|name| KeyValue::new(names::SERVICE_NAME, name.trim().to_owned())))
        .collect()
}

/// The resource of the observer itself; what is `said` replaces ours.
#[must_use]
pub(super) fn observer(host: Option<&str>, said: &[KeyValue]) -> Resource {
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
        .with_attributes(said.iter().cloned())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_names_the_observer() {
        let said = said_of_observer(|name| {
            let text = match name {
                "OTEL_SERVICE_NAME" => " cache-watch ",
                "OTEL_RESOURCE_ATTRIBUTES" => "service.name=no, region = eu%20west,=x,odd",
                _ => return None,
            };
            Some(text.to_owned())
        });
        let resource = observer(Some("node-1"), &said);
        let find = |name: &'static str| resource.get(&name.into()).map(|value| value.to_string());
        assert_eq!(find("service.name").as_deref(), Some("cache-watch"));
        assert_eq!(find("region").as_deref(), Some("eu west"));
        assert_eq!(find("host.name").as_deref(), Some("node-1"));
        assert_eq!(find("odd"), None);
    }
}
