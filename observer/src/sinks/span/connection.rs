//! What spans say of the connection: its ends, and its client.

use opentelemetry::{KeyValue, Value};

use crate::enrichment::Observation;
use crate::protocol::{Class, Protocol};
use crate::telemetry::names::{attribute, metric};
use crate::transaction::{Life, LifeStage, Transaction};

/// What every span says of its connection; in the order of the contract's table.
pub(super) fn connection(
    observation: &Observation,
    protocol: Protocol,
    operation: Value,
    class: Class,
) -> Vec<KeyValue> {
    let endpoint = &observation.endpoint;
    let peer = endpoint.peer();
    let mut list = Vec::with_capacity(24);
    let mut put = |name: &'static str, value: Value| list.push(KeyValue::new(name, value));
    put(attribute::DB_SYSTEM_NAME, protocol.name().into());
    put(attribute::DB_OPERATION_NAME, operation);
    put(attribute::CACHE_OPERATION, class.name().into());
    put(attribute::SERVER_ADDRESS, endpoint.server_address().into());
    if let Some(port) = endpoint.server.port() {
        put(attribute::SERVER_PORT, i64::from(port).into());
    }
    put(attribute::CACHE_NAME, endpoint.cache.clone().into());
    if let Some(peer) = peer {
        let address = peer.ip().to_string();
        put(attribute::NETWORK_PEER_ADDRESS, address.into());
        put(attribute::NETWORK_PEER_PORT, i64::from(peer.port()).into());
    }
    put(
        attribute::NETWORK_TRANSPORT,
        endpoint.transport.name().into(),
    );
    if let Some(peer) = peer {
        let family = if peer.is_ipv4() { "ipv4" } else { "ipv6" };
        put(attribute::NETWORK_TYPE, family.into());
    }
    list
}

/// `db.operation.name` of a span that is no command's.
pub(super) fn operation(life: &Life) -> &'static str {
    match life.stage {
        LifeStage::Connect { .. } => "CONNECT",
        LifeStage::Close { .. } => "CLOSE",
    }
}

/// Attributes of such a span.
pub(super) fn life(observation: &Observation, life: &Life) -> Vec<KeyValue> {
    let class = Class::Connection;
    let mut list = connection(observation, life.protocol, operation(life).into(), class);
    let mut put = |name: &'static str, value: Value| list.push(KeyValue::new(name, value));
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let pool = observation.endpoint.cache.clone();
    put(attribute::POOL_NAME, pool.into());
    match life.stage {
        LifeStage::Connect { established } => {
            if let Some(established) = established {
                let took = established.saturating_sub(life.start);
                put(metric::CONNECTION_CONNECT_TIME, seconds(took).into());
            }
        }
        LifeStage::Close { age, commands } => {
            if let Some(age) = age {
                put(metric::CONNECTION_AGE, seconds(age).into());
            }
            if let Some(commands) = commands {
                put(metric::CONNECTION_COMMANDS, super::integer(commands));
            }
        }
    }
    if let Some(error) = life.error {
        put(attribute::ERROR_TYPE, error.into());
    }
    list
}

/// What the client has said of itself.
pub(super) fn client(
    observation: &Observation,
    transaction: &Transaction,
) -> impl Iterator<Item = KeyValue> {
    let redaction = &observation.export.redaction;
    let (user, name) = (redaction.user, redaction.client_name);
    let hidden = move |attribute| {
        attribute == attribute::CACHE_USER && user
            || attribute == attribute::CACHE_CLIENT_NAME && name
    };
    let said = transaction.client.as_deref().map(|client| {
        [
            (attribute::CACHE_USER, &client.user),
            (attribute::CACHE_CLIENT_NAME, &client.name),
            (attribute::CACHE_CLIENT_LIBRARY_NAME, &client.library),
            (
                attribute::CACHE_CLIENT_LIBRARY_VERSION,
                &client.library_version,
            ),
        ]
    });
    said.into_iter()
        .flatten()
        .filter(move |(name, _)| !hidden(*name))
        .filter_map(|(name, said)| Some(KeyValue::new(name, said.clone()?)))
}
