//! Names of the conventions before 1.25, and of common cache guides, beside today's: `--naming dup`.

use opentelemetry::{Array, KeyValue, StringValue, Value};

use crate::protocol::Protocol;
use crate::telemetry::names::{attribute, older};

/// What the attributes of a span are called by older names. `millis`: how long it took, where a reply came.
pub(super) fn names(
    protocol: Protocol,
    attributes: &[KeyValue],
    millis: Option<f64>,
) -> Vec<KeyValue> {
    let redis = protocol == Protocol::Redis;
    let mut list = Vec::with_capacity(12);
    for KeyValue { key, value, .. } in attributes {
        let name = match key.as_str() {
            attribute::DB_SYSTEM_NAME => older::DB_SYSTEM,
            attribute::DB_OPERATION_NAME => {
                if redis {
                    list.push(KeyValue::new(older::REDIS_COMMAND, value.clone()));
                }
                older::DB_OPERATION
            }
            attribute::DB_NAMESPACE => older::DB_NAME,
            attribute::DB_QUERY_TEXT => older::DB_STATEMENT,
            attribute::SERVER_ADDRESS => older::NET_PEER_NAME,
            attribute::SERVER_PORT => older::NET_PEER_PORT,
            attribute::CACHE_KEY if redis => older::REDIS_KEY,
            attribute::CACHE_KEY => older::MEMCACHED_KEY,
            attribute::CACHE_KEY_PATTERN if redis => older::REDIS_KEY_PATTERN,
            attribute::CACHE_KEY_COUNT if redis => older::REDIS_KEY_COUNT,
            attribute::CACHE_DELETED_COUNT if redis => older::REDIS_DELETED_COUNT,
            attribute::CACHE_TTL if redis => older::REDIS_TTL_SECONDS,
            attribute::CACHE_TTL => older::MEMCACHED_TTL,
            attribute::DB_OPERATION_BATCH_SIZE if redis => older::REDIS_PIPELINE_LENGTH,
            _ => continue,
        };
        list.push(KeyValue::new(name, joined(value)));
    }
    if let Some(millis) = millis {
        list.push(KeyValue::new(older::CACHE_LATENCY_MS, millis));
    }
    list
}

/// Several strings as one: the older names knew no arrays.
fn joined(value: &Value) -> Value {
    match value {
        Value::Array(Array::String(strings)) => {
            let strings: Vec<&str> = strings.iter().map(StringValue::as_str).collect();
            strings.join(", ").into()
        }
        other => other.clone(),
    }
}
