//! Byte tables: complete messages, every cut of them, gaps, malformed input, budgets.

use super::super::super::message::*;
use super::super::super::reply::{Reply, ReplyKind, outcome};
use super::*;
use crate::protocol::{Protocol, testing};

fn request(wire: &[u8]) -> Request {
    testing::request(Protocol::Memcached, wire)
}

fn reply(wire: &[u8]) -> Reply {
    testing::reply(Protocol::Memcached, wire)
}

#[test]
fn requests() {
    // wire, text, class, keys, value size, ttl
    for (wire, text, class, keys, value_size, ttl) in [
        (&b"get k\r\n"[..], "GET k", Class::Get, 1, None, None),
        (b"get a b c\r\n", "GET a b c", Class::Get, 3, None, None),
        (b"gets a\n", "GETS a", Class::Get, 1, None, None),
        (
            b"gat 60 a b\r\n",
            "GAT 60 a b",
            Class::Get,
            2,
            None,
            Some(60),
        ),
        (
            b"set k 5 60 5\r\nhello\r\n",
            "SET k 60 ?",
            Class::Set,
            1,
            Some(5),
            Some(60),
        ),
        (
            b"set k 0 0 0\r\n\r\n",
            "SET k 0 ?",
            Class::Set,
            1,
            Some(0),
            None,
        ),
        (
            b"set k 0 0 2\r\n\r\n\r\n",
            "SET k 0 ?",
            Class::Set,
            1,
            Some(2),
            None,
        ),
        (
            b"add k 0 -1 1 noreply\r\nx\r\n",
            "ADD k -1 ? noreply",
            Class::Set,
            1,
            Some(1),
            Some(-1),
        ),
        (
            b"set k 0 2592000 1\r\nx\r\n",
            "SET k 2592000 ?",
            Class::Set,
            1,
            Some(1),
            Some(2_592_000),
        ),
        (
            b"cas k 0 0 1 99\r\nx\r\n",
            "CAS k 0 ?",
            Class::Set,
            1,
            Some(1),
            None,
        ),
        (b"delete k\r\n", "DELETE k", Class::Delete, 1, None, None),
        (b"incr k 5\r\n", "INCR k ?", Class::Increment, 1, None, None),
        (
            b"touch k 60\r\n",
            "TOUCH k 60",
            Class::Touch,
            1,
            None,
            Some(60),
        ),
        (
            b"stats items\r\n",
            "STATS items",
            Class::Admin,
            0,
            None,
            None,
        ),
        (b"stats secret\r\n", "STATS ?", Class::Admin, 0, None, None),
        (b"version\r\n", "VERSION", Class::Admin, 0, None, None),
        (
            b"get \x80\xff\r\n",
            "GET \\x80\\xff",
            Class::Get,
            1,
            None,
            None,
        ),
        (b"nosuch word\r\n", "UNKNOWN ?", Class::Other, 0, None, None),
        (b"GET k\r\n", "UNKNOWN ?", Class::Other, 0, None, None),
    ] {
        let request = request(wire);
        let seen = (
            request.class,
            request.key_count,
            request.value_size,
            request.ttl,
        );
        assert_eq!(
            seen,
            (class, keys, value_size, ttl.map(Expiry::After)),
            "{}",
            wire.escape_ascii()
        );
        assert_eq!(request.detail.unwrap().text, text);
    }
}

#[test]
fn answers() {
    for (wire, answer, hit_rule) in [
        (
            &b"get a b\r\n"[..],
            Answer::One,
            HitRule::Values { asked: 2 },
        ),
        (
            b"get noreply\r\n",
            Answer::One,
            HitRule::Values { asked: 1 },
        ),
        (b"gat 0 a\r\n", Answer::One, HitRule::Values { asked: 1 }),
        (b"set k 0 0 1 noreply\r\nx\r\n", Answer::None, HitRule::None),
        (b"set noreply 0 0 1\r\nx\r\n", Answer::One, HitRule::None),
        (
            b"cas k 0 0 1 7 noreply\r\nx\r\n",
            Answer::None,
            HitRule::None,
        ),
        (b"delete k noreply\r\n", Answer::None, HitRule::None),
        (b"delete k 0 noreply\r\n", Answer::None, HitRule::None),
        (b"incr k 1\r\n", Answer::One, HitRule::Found),
        (b"decr k 1 noreply\r\n", Answer::None, HitRule::Found),
        (b"touch k 1 noreply\r\n", Answer::None, HitRule::Found),
        (b"flush_all 10 noreply\r\n", Answer::None, HitRule::None),
        (b"verbosity 1 noreply\r\n", Answer::None, HitRule::None),
        (b"quit\r\n", Answer::None, HitRule::None),
        (b"stats noreply\r\n", Answer::One, HitRule::None),
        (b"delete a b c d noreply\r\n", Answer::One, HitRule::None),
        (b"touch k 1 2 noreply\r\n", Answer::One, HitRule::Found),
        (b"flush_all 1 2 noreply\r\n", Answer::One, HitRule::None),
        (b"slabs automove 1 noreply\r\n", Answer::None, HitRule::None),
        (b"slabs noreply\r\n", Answer::One, HitRule::None),
        (
            b"cache_memlimit 64 noreply\r\n",
            Answer::None,
            HitRule::None,
        ),
        (b"lru mode flat noreply\r\n", Answer::None, HitRule::None),
        (b"version noreply\r\n", Answer::One, HitRule::None),
        (b"shutdown graceful\r\n", Answer::One, HitRule::None),
    ] {
        let request = request(wire);
        assert_eq!(
            (request.answer, request.hit_rule),
            (answer, hit_rule),
            "{}",
            wire.escape_ascii()
        );
    }
    assert_eq!(request(b"quit\r\n").effect, Effect::Quit);
    assert_eq!(request(b"shutdown\r\n").effect, Effect::Quit);
    assert_eq!(request(b"watch fetchers\r\n").effect, Effect::Stream);
}

#[test]
fn requests_that_cannot_be_read_on() {
    let long_key = [b"set ", &[b'k'; 251][..], b" 0 0 1\r\nx\r\n"].concat();
    for (wire, expected) in [
        (&b"set k 0 0 5\r\nhelloxx"[..], Malformed::Syntax),
        (b"set k 0 0 5\r\nhello\rx", Malformed::Syntax),
        (b"set k 0 0\r\n", Malformed::Syntax),
        (b"set k 0 0 x\r\n", Malformed::Syntax),
        (b"set k x 0 1\r\n", Malformed::Syntax),
        (b"cas k 0 0 1\r\n", Malformed::Syntax),
        (b"set k 0 0 -1\r\n", Malformed::Length),
        (b"set k 0 0 2147483647\r\n", Malformed::Length),
        (b"set k 0 0 99999999999999999999\r\n", Malformed::Syntax),
        (&long_key, Malformed::Length),
        (b"\r\n", Malformed::Syntax),
        (b"set k 0 0 1 2 noreply\r\nx\r\n", Malformed::Syntax),
        (b"cas k 0 0 1 2 3 4\r\nx\r\n", Malformed::Syntax),
        (b"GET / HTTP/1.1\r\n", Malformed::Foreign),
        (b"Host: cache\r\n", Malformed::Foreign),
        (b"\x80\x00", Malformed::Foreign),
        (b"\x16\x03\x01", Malformed::Foreign),
        (b"\x00", Malformed::Syntax),
        (b"nosuch \x01\r\n", Malformed::Syntax),
    ] {
        let result = RequestDecoder::new(true).decode(&mut &*wire);
        assert_eq!(result, Err(expected), "{}", wire.escape_ascii());
    }
    let mut decoder = RequestDecoder::new(true);
    decoder.decode(&mut &b"get "[..]).unwrap();
    let result = (0..100_000).find_map(|_| decoder.decode(&mut &b"key "[..]).err());
    assert_eq!(result, Some(Malformed::Line));
    assert!(decoder.memory() <= 66 * 1024, "{}", decoder.memory());
}

#[test]
fn replies() {
    // wire, kind, word, elements, value size
    for (wire, kind, word, elements, value_size) in [
        (&b"END\r\n"[..], ReplyKind::Aggregate, "", 0, 0),
        (
            b"VALUE k 0 5\r\nhello\r\nEND\r\n",
            ReplyKind::Aggregate,
            "",
            1,
            5,
        ),
        (
            b"VALUE a 0 3\r\nEND\r\nVALUE b 0 0 77\r\n\r\nEND\r\n",
            ReplyKind::Aggregate,
            "",
            2,
            3,
        ),
        (
            b"STAT pid 1\r\nSTAT x y z\r\nEND\r\n",
            ReplyKind::Aggregate,
            "",
            2,
            0,
        ),
        (
            b"ITEM k [5 b; 0 s]\r\nEND\r\n",
            ReplyKind::Aggregate,
            "",
            1,
            0,
        ),
        (
            b"key=a exp=-1 la=1 cas=2\nkey=b exp=5\nEND\r\n",
            ReplyKind::Aggregate,
            "",
            2,
            0,
        ),
        (b"mg a\r\nmg b\nEN\r\n", ReplyKind::Aggregate, "", 2, 0),
        (b"PREFIX a get 1\r\nEND\r\n", ReplyKind::Aggregate, "", 1, 0),
        (b"NOSPARE no pages\r\n", ReplyKind::Simple, "NOSPARE", 0, 0),
        (b"STORED\r\n", ReplyKind::Simple, "STORED", 0, 0),
        (b"NOT_FOUND\r\n", ReplyKind::Simple, "NOT_FOUND", 0, 0),
        (b"VERSION 1.6.18\r\n", ReplyKind::Simple, "VERSION", 0, 0),
        (b"ERROR\r\n", ReplyKind::Error, "", 0, 0),
        (b"42\r\n", ReplyKind::Integer, "", 0, 0),
        (b"18446744073709551615\r\n", ReplyKind::Integer, "", 0, 0),
        (b"42  \r\n", ReplyKind::Integer, "", 0, 0),
    ] {
        let reply = reply(wire);
        let seen = (
            reply.kind,
            reply.word.as_str(),
            reply.elements,
            reply.value_size,
        );
        assert_eq!(
            seen,
            (kind, word, elements, value_size),
            "{}",
            wire.escape_ascii()
        );
    }
    for (wire, word) in [
        (&b"ERROR\r\n"[..], "ERROR"),
        (b"ERROR: shutdown not enabled\r\n", "ERROR"),
        (b"ERROR metadump not allowed\r\n", "ERROR"),
        (
            b"WATCHER_TOO_MANY log watcher limit reached\r\n",
            "WATCHER_TOO_MANY",
        ),
        (b"MEMLIMIT_TOO_SMALL cannot set\r\n", "MEMLIMIT_TOO_SMALL"),
        (b"CLIENT_ERROR bad data chunk\r\n", "CLIENT_ERROR"),
        (
            b"SERVER_ERROR object too large for cache\r\n",
            "SERVER_ERROR",
        ),
        (
            b"VALUE k 0 1\r\nx\r\nSERVER_ERROR out of memory\r\n",
            "SERVER_ERROR",
        ),
    ] {
        assert_eq!(reply(wire).error.unwrap().as_str(), word);
    }
}

#[test]
fn replies_that_cannot_be_read_on() {
    for (wire, expected) in [
        (&b"hello\r\n"[..], Malformed::Syntax),
        (b"STORED\n", Malformed::Syntax),
        (b"\r\n", Malformed::Syntax),
        (b"VALUE k 0\r\n", Malformed::Syntax),
        (b"VALUE k 0 -1\r\n", Malformed::Length),
        (b"VALUE k 0 9999999999\r\n", Malformed::Length),
        (b"VALUE k 0 1\r\nxx", Malformed::Syntax),
        (b"VALUE k 0 1\r\nx\r\nSTORED\r\n", Malformed::Syntax),
        (b"VALUE k 0 1\r\nx\r\nHD\r\n", Malformed::Syntax),
        (b"\x81\x00", Malformed::Foreign),
    ] {
        assert_eq!(
            ReplyDecoder::new().decode(&mut &*wire),
            Err(expected),
            "{}",
            wire.escape_ascii()
        );
    }
}

#[test]
fn a_gap_inside_data_is_bridged() {
    let wire = b"set k 0 0 10\r\n0123456789\r\n";
    for start in 14..26 {
        for end in start + 1..=26 {
            let mut decoder = RequestDecoder::new(false);
            assert_eq!(decoder.decode(&mut &wire[..start]), Ok(None));
            let skipped = decoder.skip((end - start) as u64).unwrap();
            let request = skipped
                .or_else(|| decoder.decode(&mut &wire[end..]).unwrap())
                .unwrap();
            assert_eq!(request.value_size, Some(10), "{start}..{end}");
            assert!(decoder.at_boundary());
        }
    }
    let wire = b"VALUE k 0 10\r\n0123456789\r\nEND\r\n";
    for start in 14..26 {
        for end in start + 1..=26 {
            let mut decoder = ReplyDecoder::new();
            assert_eq!(decoder.decode(&mut &wire[..start]), Ok(None));
            assert_eq!(
                decoder.skip((end - start) as u64),
                Ok(None),
                "{start}..{end}"
            );
            let reply = decoder.decode(&mut &wire[end..]).unwrap().unwrap();
            assert_eq!((reply.elements, reply.value_size), (1, 10));
        }
    }
}

#[test]
fn a_gap_elsewhere_loses_framing() {
    let wire = b"set k 0 0 3\r\nabc\r\n";
    for cut in 0..wire.len() {
        let mut decoder = RequestDecoder::new(false);
        decoder.decode(&mut &wire[..cut]).unwrap();
        assert_eq!(decoder.skip(100), Err(FramingLost), "{cut}");
    }
    let wire = b"VALUE k 0 3\r\nabc\r\nEN";
    for cut in 0..wire.len() {
        let mut decoder = ReplyDecoder::new();
        decoder.decode(&mut &wire[..cut]).unwrap();
        assert_eq!(decoder.skip(100), Err(FramingLost), "{cut}");
    }
}

#[test]
fn outcomes() {
    let of = |request_wire: &[u8], reply_wire: &[u8]| {
        let outcome = outcome(&request(request_wire), &reply(reply_wire));
        (
            outcome.hits,
            outcome.misses,
            outcome.value_size,
            outcome.deleted,
        )
    };
    assert_eq!(
        of(b"get a b c\r\n", b"VALUE b 0 2\r\nxx\r\nEND\r\n"),
        (1, 2, Some(2), None)
    );
    assert_eq!(of(b"get a\r\n", b"END\r\n"), (0, 1, None, None));
    assert_eq!(of(b"get a\r\n", b"SERVER_ERROR x\r\n"), (0, 0, None, None));
    assert_eq!(of(b"incr k 1\r\n", b"5\r\n"), (1, 0, None, None));
    assert_eq!(of(b"incr k 1\r\n", b"NOT_FOUND\r\n"), (0, 1, None, None));
    assert_eq!(of(b"touch k 1\r\n", b"TOUCHED\r\n"), (1, 0, None, None));
    assert_eq!(of(b"delete k\r\n", b"DELETED\r\n"), (0, 0, None, Some(1)));
    assert_eq!(of(b"delete k\r\n", b"NOT_FOUND\r\n"), (0, 0, None, Some(0)));
    assert_eq!(of(b"flush_all\r\n", b"OK\r\n"), (0, 0, None, None));
}

#[test]
fn what_may_be_a_password_is_not_told() {
    let all = |wire: &[u8]| {
        let mut decoder = RequestDecoder::new(true);
        let mut input = wire;
        let mut told = Vec::new();
        while let Ok(Some(request)) = decoder.decode(&mut input) {
            let detail = request.detail.unwrap();
            told.push((detail.text, detail.keys.len(), request.value_size));
        }
        told
    };
    let hidden = ("SET ?".to_owned(), 0, None);
    let shown = ("SET k 0 ?".to_owned(), 1, Some(9));
    let set = "set k 0 0 9\r\nuser pass\r\n";
    assert_eq!(all(set.as_bytes()), std::slice::from_ref(&hidden));
    // Refused, and tried again; then something else.
    let twice = [set, set, "get k\r\n", set].concat();
    let told = all(twice.as_bytes());
    assert_eq!((&told[0], &told[1], &told[3]), (&hidden, &hidden, &shown));
    for data in [
        "user_pass",
        "a b c d e",
        " pass_wor",
        "pass_wor ",
        "us\ter pas",
        "user  pas",
    ] {
        let wire = format!("set k 0 0 {}\r\n{data}\r\n", data.len());
        assert_eq!(all(wire.as_bytes())[0].1, 1, "{data}");
    }
    assert_eq!(all(set.replace("set", "add").as_bytes())[0].1, 1);
    // With bytes missing it is a store.
    let mut decoder = RequestDecoder::new(true);
    assert_eq!(decoder.decode(&mut &set.as_bytes()[..20]), Ok(None));
    assert_eq!(decoder.skip(2), Ok(None));
    let rest = decoder.decode(&mut &set.as_bytes()[22..]).unwrap().unwrap();
    assert_eq!(rest.key_count, 1);
}
