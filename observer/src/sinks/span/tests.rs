//! What attributes a span has.

use super::super::policy::Policy;
use super::*;
use crate::aggregation::testing::{endpoint, observation, transaction};
use crate::config::export::{Secret, SpanPolicy};
use crate::protocol::{Class, Client, Detail, Expiry, Protocol, Redirect, Word};

fn ids() -> Ids {
    Ids {
        trace: TraceId::from(1_u128),
        span: SpanId::from(2_u64),
        parent: None,
        sample: Sample::default(),
    }
}

fn one(observation: &Observation) -> Span {
    Span::of(observation, ids(), SpanLimits::default()).remove(0)
}

/// Attributes as `name=value`, without those that every span has.
fn special(observation: &Observation) -> Vec<String> {
    let span = one(observation);
    let always = [
        "db.system.name",
        "db.operation.name",
        "cache.operation",
        "server.address",
        "server.port",
        "cache.name",
        "network.peer.address",
        "network.peer.port",
        "network.transport",
        "network.type",
        "db.namespace",
    ];
    let rest = span
        .attributes
        .iter()
        .filter(|attribute| !always.contains(&attribute.key.as_str()));
    rest.map(|attribute| format!("{}={}", attribute.key, attribute.value))
        .collect()
}

fn detail(text: &str, keys: &[&str]) -> Option<Box<Detail>> {
    Some(Box::new(Detail {
        text: text.to_owned(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        stored_procedure: None,
        ..Detail::default()
    }))
}

#[test]
fn describes_a_hit() {
    let mut hit = transaction("GET", 3);
    hit.request.detail = detail("GET user:42", &["user:42"]);
    hit.outcome.hits = 1;
    hit.outcome.value_size = Some(5);
    let observation = observation(hit);
    let span = one(&observation);

    assert_eq!(span.name, "GET 127.0.0.1:6379");
    assert_eq!(span.kind, SpanKind::Client);
    assert_eq!(
        (span.start, span.end),
        (1_795_404_452_001_000_000, 1_795_404_452_001_200_000)
    );
    assert!(!span.failed);
    let all: Vec<_> = span
        .attributes
        .iter()
        .map(|a| format!("{}={}", a.key, a.value))
        .collect();
    assert_eq!(
        all,
        [
            "db.system.name=redis",
            "db.operation.name=GET",
            "cache.operation=get",
            "server.address=127.0.0.1",
            "server.port=6379",
            "cache.name=127.0.0.1:6379",
            "network.peer.address=127.0.0.1",
            "network.peer.port=6379",
            "network.transport=tcp",
            "network.type=ipv4",
            "db.namespace=0",
            "db.query.text=GET user:42",
            "cache.key=user:42",
            "cache.key_pattern=user:*",
            "cache.hit=true",
            "cache.value_size=5",
        ]
    );
}

#[test]
fn says_who_the_client_is() {
    let mut get = transaction("GET", 3);
    get.client = Some(Arc::new(Client {
        user: Some("alice".to_owned()),
        name: None,
        library: Some("redis-py".to_owned()),
        library_version: Some("8.1.0".to_owned()),
    }));
    assert_eq!(
        special(&observation(get)),
        [
            "cache.user=alice",
            "cache.client.library.name=redis-py",
            "cache.client.library.version=8.1.0"
        ]
    );
}

#[test]
fn describes_what_is_special() {
    let mut miss = transaction("GET", 3);
    miss.outcome.misses = 1;
    assert_eq!(special(&observation(miss)), ["cache.hit=false"]);

    let mut several = transaction("MGET", 4);
    several.request.key_count = 5;
    several.request.hit_rule = HitRule::NullElements { asked: 5 };
    several.request.detail = detail("", &["a", "b"]);
    several.outcome.hits = 3;
    several.outcome.misses = 2;
    assert_eq!(
        special(&observation(several)),
        [
            "cache.key=[\"a\",\"b\"]",
            "cache.key_pattern=[\"a\",\"b\"]",
            "cache.key_count=5",
            "cache.hits=3",
            "cache.misses=2",
            "cache.hit_rate=0.6"
        ]
    );

    let mut alike = transaction("MGET", 4);
    alike.request.key_count = 3;
    alike.request.detail = detail("", &["user:1", "user:2", "user:3"]);
    assert_eq!(special(&observation(alike))[1], "cache.key_pattern=user:*");

    let mut mixed = transaction("MGET", 4);
    mixed.request.key_count = 3;
    mixed.request.detail = detail("", &["user:1", "cart:2", "user:3"]);
    assert_eq!(
        special(&observation(mixed))[1],
        "cache.key_pattern=[\"user:*\",\"cart:*\"]"
    );

    let mut set = transaction("SET", 5);
    set.request.class = Class::Set;
    set.request.hit_rule = HitRule::None;
    set.request.value_size = Some(2046);
    set.request.ttl = Some(Expiry::After(60));
    assert_eq!(
        special(&observation(set)),
        ["cache.value_size=2046", "cache.ttl=60"]
    );

    let mut delete = transaction("DEL", 6);
    delete.outcome.deleted = Some(2);
    assert_eq!(special(&observation(delete)), ["cache.deleted_count=2"]);

    let mut script = transaction("EVALSHA", 7);
    script.request.detail = Some(Box::new(Detail {
        stored_procedure: Some("abc".to_owned()),
        ..Detail::default()
    }));
    assert_eq!(
        special(&observation(script)),
        ["db.stored_procedure.name=abc"]
    );

    let mut blocking = transaction("BLPOP", 8);
    blocking.request.blocking = true;
    assert_eq!(special(&observation(blocking)), ["cache.blocking=true"]);

    let mut quiet = transaction("SET", 5);
    quiet.ending = Ending::NoReply;
    assert_eq!(special(&observation(quiet)), ["cache.no_reply=true"]);
}

#[test]
fn tells_errors_from_redirects() {
    let mut wrong = transaction("GET", 3);
    wrong.outcome.error = Some(Word::new(b"WRONGTYPE"));
    let wrong = observation(wrong);
    assert_eq!(
        special(&wrong),
        ["db.response.status_code=WRONGTYPE", "error.type=WRONGTYPE"]
    );
    assert!(one(&wrong).failed);

    let mut moved = transaction("GET", 3);
    moved.outcome.error = Some(Word::new(b"MOVED"));
    moved.outcome.redirect = Redirect::new(b"10.0.0.8:6380");
    let moved = observation(moved);
    assert_eq!(
        special(&moved),
        [
            "db.response.status_code=MOVED",
            "cache.redirect=10.0.0.8:6380"
        ]
    );
    assert!(!one(&moved).failed);

    let mut lost = transaction("GET", 3);
    lost.ending = Ending::Unanswered;
    let lost = observation(lost);
    assert_eq!(special(&lost), ["error.type=connection_closed"]);
    assert!(one(&lost).failed);
}

#[test]
fn describes_the_server_s_end_and_ipv6() {
    let mut observed = observation(transaction("GET", 3));
    observed.endpoint = endpoint(End::Server, "[::1]:6379");
    let span = one(&observed);
    assert_eq!(span.name, "GET [::1]:6379");
    assert_eq!(span.kind, SpanKind::Server);
    let find = |name: &str| {
        let found = span
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == name);
        found.map(|attribute| attribute.value.to_string()).unwrap()
    };
    assert_eq!(find("server.address"), "::1");
    assert_eq!(find("cache.name"), "[::1]:6379");
    assert_eq!(find("network.peer.address"), "10.0.0.9");
    assert_eq!(find("network.peer.port"), "40000");
    assert_eq!(find("network.type"), "ipv4");
}

#[test]
fn keys_are_shown_as_the_settings_want_them() {
    let mut script = transaction("FCALL", 9);
    script.request.key_count = 2;
    let mut detail = Detail {
        text: "FCALL fn:7 2 user:42 user:43".to_owned(),
        keys: vec!["user:42".to_owned(), "user:43".to_owned()],
        stored_procedure: Some("fn:7".to_owned()),
        ..Detail::default()
    };
    for (start, end) in [(6, 10), (13, 20), (21, 28)] {
        detail.names.push(start, end);
    }
    script.request.detail = Some(Box::new(detail));
    let [one, two, function] =
        ["user:42", "user:43", "fn:7"].map(|key| Secret::default().hash(key));
    let hashed = [
        format!("db.query.text=FCALL {function} 2 {one} {two}"),
        format!("db.stored_procedure.name={function}"),
        format!(r#"cache.key=["{one}","{two}"]"#),
        "cache.key_pattern=user:*".to_owned(),
        "cache.key_count=2".to_owned(),
    ];
    let patterns = [
        "db.query.text=FCALL fn:* 2 user:* user:*",
        "db.stored_procedure.name=fn:*",
        r#"cache.key=["user:*","user:*"]"#,
        "cache.key_pattern=user:*",
        "cache.key_count=2",
    ];
    let nothing = ["db.query.text=FCALL ? 2 ? ?", "cache.key_count=2"];
    let mut observed = observation(script);
    for (keys, wanted) in [
        (Keys::Hash, hashed.to_vec()),
        (Keys::Pattern, patterns.map(str::to_owned).to_vec()),
        (Keys::None, nothing.map(str::to_owned).to_vec()),
    ] {
        observed.export = Arc::new(Export {
            keys,
            ..Export::default()
        });
        assert_eq!(special(&observed), wanted, "{keys:?}");
    }
}

#[test]
fn older_names_stand_beside_todays() {
    let dup = Arc::new(Export {
        naming: Naming::Dup,
        ..Export::default()
    });
    let older = |observed: &mut Observation| -> Vec<String> {
        let before = one(observed).attributes.len();
        observed.export = Arc::clone(&dup);
        let attributes = one(observed).attributes.split_off(before);
        let show = |pair: &KeyValue| format!("{}={}", pair.key, pair.value);
        attributes.iter().map(show).collect()
    };
    let mut set = transaction("SET", 5);
    set.request.ttl = Some(Expiry::After(60));
    set.request.detail = Some(Box::new(Detail {
        text: "SET user:42 ? EX 60".to_owned(),
        keys: vec!["user:42".to_owned()],
        ..Detail::default()
    }));
    assert_eq!(
        older(&mut observation(set.clone())),
        [
            "db.system=redis",
            "db.redis.command=SET",
            "db.operation=SET",
            "net.peer.name=127.0.0.1",
            "net.peer.port=6379",
            "db.name=0",
            "db.statement=SET user:42 ? EX 60",
            "db.redis.key=user:42",
            "db.redis.key_pattern=user:*",
            "db.redis.ttl_seconds=60",
            "cache.latency_ms=0.2",
        ]
    );
    let mut stored = set;
    stored.protocol = Protocol::Memcached;
    stored.database = None;
    stored.ending = Ending::NoReply;
    assert_eq!(
        older(&mut observation(stored)),
        [
            "db.system=memcached",
            "db.operation=SET",
            "net.peer.name=127.0.0.1",
            "net.peer.port=6379",
            "db.statement=SET user:42 ? EX 60",
            "db.memcached.key=user:42",
            "db.memcached.ttl=60",
        ]
    );
    let mut deleted = transaction("DEL", 6);
    deleted.request.key_count = 2;
    deleted.outcome.deleted = Some(1);
    deleted.request.detail = Some(Box::new(Detail {
        keys: vec!["a".to_owned(), "b".to_owned()],
        ..Detail::default()
    }));
    let names = older(&mut observation(deleted));
    for name in [
        "db.redis.key=a, b",
        "db.redis.key_pattern=a, b",
        "db.redis.key_count=2",
        "db.redis.deleted_count=1",
    ] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
}

#[test]
fn what_was_drawn_says_what_it_counts() {
    let observed = observation(transaction("GET", 3));
    let certain = one(&observed);
    assert_eq!(certain.trace_state(), TraceState::NONE);
    let mut budget = Policy::new(0);
    let quarter = SpanPolicy {
        share: 0.25.try_into().unwrap(),
        ..SpanPolicy::default()
    };
    let id = budget.bind(1, &quarter);
    let sample = std::iter::repeat_with(|| budget.decide(id, &observed.exchange, false))
        .find_map(|sample| sample)
        .unwrap();
    let ids = Ids::new(sample);
    assert_eq!(Some(ids.trace), sample.trace);
    let drawn = Span::of(&observed, ids, SpanLimits::default()).remove(0);
    let last = drawn.attributes.last().unwrap();
    assert_eq!(
        (last.key.as_str(), &last.value),
        ("sampling.ratio", &Value::F64(0.25))
    );
    assert_eq!(drawn.trace_state().header(), "ot=th:c");
}

#[test]
fn limits_drop_and_cut() {
    let mut several = transaction("MGET", 4);
    several.request.detail = Some(Box::new(Detail {
        text: "MGET größer und weiter".to_owned(),
        keys: vec!["ein langer schlüssel".to_owned(), "kurz".to_owned()],
        ..Detail::default()
    }));
    let limits = SpanLimits {
        attributes: 13,
        length: 8,
    };
    let span = Span::of(&observation(several), ids(), limits).remove(0);
    assert_eq!((span.attributes.len(), span.dropped), (13, 1));
    let find = |name: &str| {
        let found = span
            .attributes
            .iter()
            .find(|pair| pair.key.as_str() == name);
        found.map(|pair| pair.value.to_string()).unwrap_or_default()
    };
    assert_eq!(find("db.query.text"), "MGET grö");
    assert_eq!(find("cache.key"), r#"["ein lang","kurz"]"#);
    assert_eq!(find("cache.name"), "127.0.0.");
    assert_eq!(find("server.port"), "6379");
}
