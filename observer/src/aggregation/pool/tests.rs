//! From what connections do to what pools say.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::testing::{endpoint, service};
use super::super::tests::describe;
use super::super::{Aggregator, Metrics, Options, SeriesId};
use super::Connection;
use crate::config::pools::Pools as Limits;
use crate::protocol::Protocol;
use crate::source::event::{End, Fault, Nanos};
use crate::stream::{Content, Segment, Side};
use crate::telemetry::Telemetry;
use crate::transaction::{Load, Ready};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000 * MS;

struct Fixture {
    metrics: Arc<Metrics>,
    aggregator: Aggregator,
    id: SeriesId,
}

impl Fixture {
    fn new(duplicate_names: bool) -> Self {
        let options = Options {
            duplicate_names,
            ..Options::default()
        };
        let metrics = Arc::new(Metrics::new(options, Arc::new(Telemetry::default())));
        let mut aggregator = Aggregator::new(Arc::clone(&metrics));
        let id = aggregator.bind(
            &endpoint(End::Client, "127.0.0.1:6379"),
            &service(1, "web"),
            Protocol::Redis,
        );
        Self {
            metrics,
            aggregator,
            id,
        }
    }

    /// A connection from its start, connected in a millisecond.
    fn open(&mut self, at: Nanos) -> Connection {
        let mut connection = Connection::connecting(at - MS);
        let pool = self.aggregator.pool(self.id).unwrap();
        connection.join(pool, at - MS);
        connection.open(Some(pool), true, at);
        connection
    }

    /// Bytes move, after which this many requests wait.
    fn moves(&mut self, connection: &mut Connection, side: Side, waiting: u32, at: Nanos) {
        let load = Load {
            waiting,
            occupied: waiting > 0,
            setting_up: false,
        };
        self.moved(connection, side, Some(load), at);
    }

    fn moved(&mut self, connection: &mut Connection, side: Side, load: Option<Load>, at: Nanos) {
        let segment = Segment {
            side,
            started: at,
            time: at,
            task: None,
            call_start: true,
            position: 0,
            content: Content::Bytes(b"x"),
        };
        connection.moved(self.aggregator.pool(self.id), load, &segment);
    }

    fn close(&mut self, mut connection: Connection, fault: Option<Fault>, at: Nanos) {
        connection.close(self.aggregator.pool(self.id), fault, at);
    }

    /// Points that are not 0, by their name without what is common to all.
    fn shown(&mut self, at: Nanos) -> BTreeMap<String, String> {
        self.aggregator.tick(at);
        let mut points = BTreeMap::new();
        self.metrics
            .collect(|metrics| describe(&metrics, &mut points));
        let pool = "db.client.connection.pool.name=127.0.0.1:6379";
        points
            .into_iter()
            .filter(|(_, value)| value != "0" && value != "0.000")
            .filter_map(|(name, value)| {
                let name = name.strip_prefix("web ")?.replace(pool, "");
                let name = name.replace("cache.connection.", "").replace("{,", "{");
                let name = name.replace("db.client.connection.", "").replace("{}", "");
                Some((name, value))
            })
            .collect()
    }

    fn assert(&mut self, at: Nanos, expected: &[(&str, &str)]) {
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(self.shown(at), expected);
    }
}

#[test]
fn a_connection_lives() {
    let mut fixture = Fixture::new(true);
    let mut connection = fixture.open(2 * MS);
    let ready = Ready {
        time: 4 * MS,
        commands: 2,
    };
    connection.ready(fixture.aggregator.pool(fixture.id), ready);
    fixture.moves(&mut connection, Side::Request, 1, 10 * MS);
    fixture.moves(&mut connection, Side::Request, 3, 11 * MS);
    fixture.moves(&mut connection, Side::Request, 4, 12 * MS);
    let shown = fixture.shown(12 * MS);
    assert_eq!(shown["count{state=used}"], "1");
    assert_eq!(shown["queued"], "3");
    assert_eq!(shown["redis.pool.size"], "1");
    assert_eq!(shown["redis.pool.pending{estimated=true}"], "3");
    assert_eq!(shown["connect_time"], "sum 0.001000: 1≤0.001");
    assert_eq!(shown["create_time"], "sum 0.003000: 1≤0.005");
    assert_eq!(
        shown["redis.pool.acquire_time{estimated=true}"],
        "sum 3.000000: 1≤5"
    );
    // Two replies: the requests behind the first two waited 4 and 6 ms for the one before.
    fixture.moves(&mut connection, Side::Reply, 3, 15 * MS);
    fixture.moves(&mut connection, Side::Reply, 2, 17 * MS);
    assert_eq!(
        fixture.shown(17 * MS)["queue_time"],
        "sum 0.010000: 1≤0.005 1≤0.01"
    );
    fixture.moves(&mut connection, Side::Reply, 0, 20 * MS);
    connection.count(5);
    assert_eq!(fixture.shown(20 * MS)["busy_time"], "sum 0.010000: 1≤0.01");
    fixture.close(connection, Some(Fault::Reset), 101 * MS);
    let shown = fixture.shown(101 * MS);
    assert_eq!(shown["closed{error.type=connection_reset}"], "1");
    assert_eq!(shown["commands"], "sum 3: 1≤5");
    assert_eq!(shown["age"], "sum 0.100000: 1≤0.1");
    assert!(!shown.contains_key("count{state=used}") && !shown.contains_key("count{state=idle}"));
}

#[test]
fn attempts_fail() {
    let mut fixture = Fixture::new(false);
    let mut attempts: Vec<_> = (0..3).map(|_| Connection::connecting(MS)).collect();
    for attempt in &mut attempts {
        attempt.join(fixture.aggregator.pool(fixture.id).unwrap(), MS);
    }
    fixture.assert(MS, &[("opening", "3")]);
    for (attempt, fault) in attempts.into_iter().zip([None, None, Some(Fault::Refused)]) {
        fixture.close(attempt, fault, 2 * MS);
    }
    fixture.assert(
        2 * MS,
        &[
            ("failed{error.type=canceled}", "2"),
            ("failed{error.type=connection_refused}", "1"),
        ],
    );
}

#[test]
fn a_connection_of_which_the_process_is_known_late() {
    let mut fixture = Fixture::new(false);
    let mut connection = Connection::default();
    connection.open(None, true, MS);
    connection.join(fixture.aggregator.pool(fixture.id).unwrap(), 2 * MS);
    fixture.assert(2 * MS, &[("count{state=idle}", "1"), ("opened", "1")]);
    connection.leave(fixture.aggregator.pool(fixture.id).unwrap(), 3 * MS);
    fixture.assert(3 * MS, &[("opened", "1")]);
}

#[test]
fn what_is_not_decoded_is_used_from_a_send_to_a_receive() {
    let mut fixture = Fixture::new(false);
    let mut connection = fixture.open(2 * MS);
    fixture.moved(&mut connection, Side::Request, None, 3 * MS);
    assert_eq!(fixture.shown(3 * MS)["count{state=used}"], "1");
    fixture.moved(&mut connection, Side::Reply, None, 5 * MS);
    assert_eq!(fixture.shown(5 * MS)["count{state=idle}"], "1");
    fixture.close(connection, None, 6 * MS);
    let shown = fixture.shown(6 * MS);
    assert_eq!(shown["busy_time"], "sum 0.002000: 1≤0.0025");
    // How many commands it carried is not known: it did not end after hardly one.
    assert!(!shown.contains_key("commands") && !shown.contains_key("churned"));
}

#[test]
fn tests_of_idle_connections_are_told_from_the_set_up() {
    let mut fixture = Fixture::new(false);
    let mut connection = fixture.open(2 * MS);
    connection.health_check(fixture.aggregator.pool(fixture.id));
    assert!(!fixture.shown(2 * MS).contains_key("health_checks"));
    let ready = Ready {
        time: 4 * MS,
        commands: 1,
    };
    connection.ready(fixture.aggregator.pool(fixture.id), ready);
    connection.health_check(fixture.aggregator.pool(fixture.id));
    assert_eq!(fixture.shown(5 * MS)["health_checks"], "1");
}

#[test]
fn churn_is_said_while_it_lasts() {
    let limits = Limits::default();
    let window = Nanos::from(limits.window_seconds) * SECOND;
    // One too few; one in five carried more; one in four did.
    for (count, more, churns) in [(19, 0, false), (20, 5, true), (20, 4, false)] {
        let mut fixture = Fixture::new(false);
        for n in 0..count {
            let at = window + n * MS;
            let mut connection = fixture.open(at);
            connection.count(if more > 0 && n % more == 0 { 2 } else { 1 });
            fixture.close(connection, None, at + MS);
        }
        let holds = |fixture: &mut Fixture, at| fixture.shown(at).contains_key("churning");
        assert_eq!(
            holds(&mut fixture, window + SECOND),
            churns,
            "{count}, {more}"
        );
        assert_eq!(holds(&mut fixture, 2 * window), churns);
        // A whole window without.
        fixture.aggregator.tick(2 * window + SECOND);
        assert!(!holds(&mut fixture, 3 * window + 2 * SECOND));
    }
}

#[test]
fn exhaustion_is_none_idle_and_one_needed() {
    let exhausted = |fixture: &mut Fixture, at| fixture.shown(at).contains_key("exhausted");
    let mut fixture = Fixture::new(false);
    // The first connection of all is no sign of need.
    let mut attempt = Connection::connecting(20 * SECOND);
    attempt.join(fixture.aggregator.pool(fixture.id).unwrap(), 20 * SECOND);
    assert!(!exhausted(&mut fixture, 25 * SECOND));
    attempt.open(fixture.aggregator.pool(fixture.id), true, 25 * SECOND);
    // Nor is one that is opened while another is idle.
    let mut second = Connection::connecting(25 * SECOND);
    second.join(fixture.aggregator.pool(fixture.id).unwrap(), 25 * SECOND);
    assert!(!exhausted(&mut fixture, 40 * SECOND));
    fixture.moves(&mut attempt, Side::Request, 1, 40 * SECOND);
    assert!(!exhausted(&mut fixture, 40 * SECOND + 900 * MS));
    assert!(exhausted(&mut fixture, 41 * SECOND));
    second.open(fixture.aggregator.pool(fixture.id), true, 41 * SECOND);
    let shown = fixture.shown(41 * SECOND);
    assert_eq!(shown["exhausted_time"], "1.000");
    // A whole window without.
    fixture.aggregator.tick(52 * SECOND);
    assert!(!exhausted(&mut fixture, 63 * SECOND));

    // What left together is no need; what was sent later is, once none is idle.
    fixture.moves(&mut attempt, Side::Reply, 0, 64 * SECOND);
    fixture.moves(&mut attempt, Side::Request, 50, 64 * SECOND);
    fixture.moves(&mut second, Side::Request, 1, 64 * SECOND);
    assert!(!exhausted(&mut fixture, 66 * SECOND));
    fixture.moves(&mut second, Side::Request, 2, 66 * SECOND);
    assert!(exhausted(&mut fixture, 67 * SECOND));
}
