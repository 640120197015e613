//! Transactions for tests of this module and of the sinks.

use std::sync::Arc;

use crate::enrichment::{Endpoint, Observation, Service};
use crate::protocol::{Class, HitRule, Operation, Outcome, Protocol, Request, Word};
use crate::source::event::{Clock, End};
use crate::transaction::{Ending, Exchange, Transaction};

/// A Redis command of the table, answered after 200 µs.
pub(crate) fn transaction(name: &'static str, index: u16) -> Transaction {
    Transaction {
        protocol: Protocol::Redis,
        request: Request {
            key_count: 1,
            hit_rule: HitRule::Null,
            ..Request::new(Operation::Known { index, name }, Class::Get)
        },
        outcome: Outcome::default(),
        ending: Ending::Replied,
        start: 1_000_000,
        end: 1_200_000,
        database: Some(0),
        position: 0,
        client: None,
        task: None,
        alone: true,
    }
}

/// A Redis command that is not in the table.
pub(crate) fn other(name: &str) -> Transaction {
    let mut transaction = transaction("", 0);
    transaction.request.operation = Operation::Other(Word::new(name.as_bytes()));
    transaction.request.class = Class::Other;
    transaction
}

/// A service with this number and name.
pub(crate) fn service(id: u32, name: &str) -> Arc<Service> {
    Arc::new(Service {
        id,
        name: name.to_owned(),
        pid: Some(4711),
        executable: Some("app".to_owned()),
        host: Some("node-1".to_owned()),
        ..Service::default()
    })
}

/// One end of a connection to `server`.
pub(crate) fn endpoint(end: End, server: &str) -> Arc<Endpoint> {
    let server = server.parse().unwrap();
    Arc::new(Endpoint::new(
        end,
        server,
        "10.0.0.9:40000".parse().unwrap(),
    ))
}

/// The transaction as seen at the client's end of a connection of `web` to 127.0.0.1:6379.
pub(crate) fn observation(transaction: Transaction) -> Observation {
    Observation {
        exchange: Exchange::One(transaction),
        endpoint: endpoint(End::Client, "127.0.0.1:6379"),
        service: service(1, "web"),
        export: Arc::default(),
        clock: Clock {
            offset: 1_795_404_452_000_000_000,
        },
    }
}
