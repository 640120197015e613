//! Byte tables: complete messages, every cut of them, gaps, malformed input, budgets.

use super::super::super::message::*;
use super::super::*;
use crate::protocol::{Protocol, testing};

/// Encodes a request as clients do.
pub(super) fn wire(arguments: &[&[u8]]) -> Vec<u8> {
    let mut wire = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        wire.extend(format!("${}\r\n", argument.len()).as_bytes());
        wire.extend(*argument);
        wire.extend(b"\r\n");
    }
    wire
}

pub(super) fn words(line: &str) -> Vec<u8> {
    let arguments: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    wire(&arguments)
}

pub(super) fn request(wire: &[u8]) -> Request {
    testing::request(Protocol::Redis, wire)
}

fn text(line: &str) -> String {
    request(&words(line)).detail.unwrap().text
}

#[test]
fn query_text_keeps_keys_and_known_words() {
    for (line, expected) in [
        ("GET user:42", "GET user:42"),
        ("get user:42", "GET user:42"),
        ("SET user:42 secret EX 60", "SET user:42 ? EX 60"),
        ("SET k v px 1500 nx get", "SET k ? PX 1500 NX GET"),
        ("SET k EX EX 60", "SET k ? EX 60"),
        ("SET k v IFEQ 42 EX 5", "SET k ? IFEQ ? EX 5"),
        ("SET k v IFEQ EX NX", "SET k ? IFEQ ? NX"),
        ("MSET a 1 b 2", "MSET a ? b ?"),
        ("MGET a b", "MGET a b"),
        ("LRANGE list 0 -1", "LRANGE list 0 -1"),
        ("EXPIRE k 60 NX", "EXPIRE k 60 NX"),
        ("EXPIREAT k 17958000000", "EXPIREAT k ?"),
        ("HSET h f v g w", "HSET h ? ? ? ?"),
        ("HGET h field", "HGET h ?"),
        ("ZADD z NX 1 m", "ZADD z NX ? ?"),
        ("ZADD z 1 NX", "ZADD z ? ?"),
        ("ZRANGE z 0 10 WITHSCORES", "ZRANGE z 0 10 WITHSCORES"),
        ("EVAL return 1 k arg", "EVAL ? 1 k ?"),
        ("EVALSHA abc 1 k arg", "EVALSHA abc 1 k ?"),
        ("XADD s MAXLEN ~ 1000 * f v", "XADD s MAXLEN ~ 1000 ? ? ?"),
        (
            "XREAD COUNT 5 BLOCK 0 STREAMS a b $ 0",
            "XREAD COUNT 5 BLOCK 0 STREAMS a b ? ?",
        ),
        (
            "XREADGROUP GROUP g c STREAMS s >",
            "XREADGROUP GROUP ? ? STREAMS s ?",
        ),
        (
            "SORT k BY EX LIMIT 0 10 GET ALPHA STORE d",
            "SORT k BY ? LIMIT 0 10 GET ? STORE d",
        ),
        ("BLPOP a b 5", "BLPOP a b 5"),
        ("BITOP AND d a b", "BITOP AND d a b"),
        ("CONFIG SET requirepass hunter2", "CONFIG SET ? ?"),
        ("CONFIG GET maxmemory", "CONFIG GET ?"),
        ("AUTH hunter2", "AUTH ?"),
        ("AUTH user hunter2", "AUTH ? ?"),
        ("HELLO 3 AUTH user hunter2", "HELLO 3 ? ? ?"),
        ("ACL SETUSER u on >hunter2", "ACL SETUSER ? ? ?"),
        ("CLIENT SETNAME me", "CLIENT SETNAME ?"),
        (
            "MIGRATE h 6379 k 0 1000 COPY AUTH hunter2",
            "MIGRATE ? ? k 0 1000 COPY AUTH ?",
        ),
        (
            "MIGRATE h 6379  0 9 AUTH2 u hunter2 KEYS a b",
            "MIGRATE ? ? ? 0 9 AUTH2 ? ? KEYS a b",
        ),
        ("SELECT 3", "SELECT 3"),
        ("SUBSCRIBE ch", "SUBSCRIBE ?"),
        ("XGROUP CREATE s g $ MKSTREAM", "XGROUP CREATE s ? ? ?"),
        ("NOSUCH a b", "NOSUCH ? ?"),
        (
            "SCAN 0 MATCH u* COUNT 100 TYPE hash",
            "SCAN ? MATCH ? COUNT 100 TYPE ?",
        ),
        (
            "HEXPIRE h 60 NX FIELDS 2 a b",
            "HEXPIRE h 60 NX FIELDS 2 ? ?",
        ),
        // Fields may be called as options are.
        (
            "HSETEX h EX 60 FIELDS 2 store hunter2 ex 12345",
            "HSETEX h EX 60 FIELDS 2 ? ? ? ?",
        ),
        ("HGETEX h FIELDS 2 KEYS a", "HGETEX h FIELDS 2 ? ?"),
        ("GEOADD g 1.5 2.5 m", "GEOADD g ? ? ?"),
        ("OBJECT ENCODING k", "OBJECT ENCODING k"),
        (
            "HGETEX h EX 60 FIELDS 2 EX 70",
            "HGETEX h EX 60 FIELDS 2 ? ?",
        ),
        (
            "BF.INSERT b NOCREATE ITEMS ERROR 5",
            "BF.INSERT b NOCREATE ITEMS ? ?",
        ),
        ("JSON.SET j $.a secret NX", "JSON.SET j ? ? NX"),
        ("JSON.STRAPPEND j secret", "JSON.STRAPPEND j ?"),
        (
            "CMS.MERGE d 2 a b WEIGHTS 1 2",
            "CMS.MERGE d 2 a b WEIGHTS ? ?",
        ),
        ("FT.SEARCH idx @a:secret LIMIT 0 5", "FT.SEARCH idx ? ? ? ?"),
        ("HIMPORT SET k u secret", "HIMPORT SET k ? ?"),
        ("HIMPORT PREPARE u name email", "HIMPORT PREPARE ? ? ?"),
        (
            "INCREX k BYINT 5 UBOUND 100 EX 60",
            "INCREX k BYINT ? UBOUND ? EX 60",
        ),
        ("ARMSET a 0 secret 5 secret", "ARMSET a 0 ? 5 ?"),
        (
            "SUNIONCARD 2 a b APPROX LIMIT 3",
            "SUNIONCARD 2 a b APPROX LIMIT 3",
        ),
        ("SET k v STORE secret KEYS secret", "SET k ? ? ? ? ?"),
        ("COMMANDLOG GET 10 slow", "COMMANDLOG GET ? ?"),
        (
            "SENTINEL GET-PRIMARY-ADDR-BY-NAME m",
            "SENTINEL GET-PRIMARY-ADDR-BY-NAME ?",
        ),
    ] {
        assert_eq!(text(line), expected, "{line}");
    }
}

#[test]
fn keys_values_and_lifetimes() {
    // line, class, keys, value size, ttl
    for (line, class, keys, value_size, ttl) in [
        ("GET k", Class::Get, 1, None, None),
        ("SET k hello", Class::Set, 1, Some(5), None),
        ("SET k hello EX 60", Class::Set, 1, Some(5), Some(60)),
        ("SET k hello PX 1500", Class::Set, 1, Some(5), Some(2)),
        ("SETEX k 10 abc", Class::Set, 1, Some(3), Some(10)),
        ("PSETEX k 10000 abc", Class::Set, 1, Some(3), Some(10)),
        ("GETEX k EX 5", Class::Get, 1, None, Some(5)),
        ("MSET a 1 b 22", Class::Set, 2, Some(3), None),
        ("MSETEX 2 a 1 b 22 EX 9", Class::Set, 2, Some(3), Some(9)),
        ("MGET a b c", Class::Get, 3, None, None),
        ("HSET h f vv g www", Class::Set, 1, Some(5), None),
        (
            "HSETEX h EX 7 FIELDS 2 f vv g www",
            Class::Set,
            1,
            Some(5),
            Some(7),
        ),
        ("LPUSH l aa bbb", Class::Set, 1, Some(5), None),
        ("ZADD z XX CH 1 aa 2 bbb", Class::Set, 1, Some(5), None),
        ("GEOADD g 1 2 aa 3 4 bbb", Class::Set, 1, Some(5), None),
        (
            "XADD s NOMKSTREAM MAXLEN 10 * f vv g www",
            Class::Set,
            1,
            Some(5),
            None,
        ),
        ("DEL a b", Class::Delete, 2, None, None),
        ("EXPIRE k 60", Class::Expire, 1, None, Some(60)),
        ("PEXPIRE k 200", Class::Expire, 1, None, Some(1)),
        ("RESTORE k 0 payload", Class::Set, 1, Some(7), None),
        (
            "RESTORE k 5000 payload REPLACE",
            Class::Set,
            1,
            Some(7),
            Some(5),
        ),
        ("BLPOP a b 5", Class::Get, 2, None, None),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", Class::Set, 3, None, None),
        ("EVAL s 2 a b c", Class::Script, 2, None, None),
        ("EVAL s x a b", Class::Script, 0, None, None),
        ("EVAL s 99 a b", Class::Script, 2, None, None),
        ("XREAD STREAMS a b 0 0", Class::Get, 2, None, None),
        ("SORT k STORE d", Class::Get, 2, None, None),
        ("MIGRATE h 1 k 0 9", Class::Admin, 1, None, None),
        ("MIGRATE h 1  0 9 KEYS a b", Class::Admin, 2, None, None),
        ("BITOP OR d a b", Class::Set, 3, None, None),
        ("MIGRATE h 1  0 9 COPY", Class::Admin, 1, None, None),
        ("JSON.STRAPPEND j aaaa", Class::Set, 1, Some(4), None),
        ("JSON.STRAPPEND j $.p aaaa", Class::Set, 1, Some(4), None),
        (
            "BF.INSERT b ERROR 0.1 ITEMS aa b",
            Class::Set,
            1,
            Some(3),
            None,
        ),
        ("TDIGEST.MERGE d 2 a b", Class::Set, 3, None, None),
        ("PUBLISH ch hello", Class::Pubsub, 0, Some(5), None),
        ("NOSUCH a b", Class::Other, 0, None, None),
    ] {
        let request = request(&words(line));
        assert_eq!(
            (
                request.class,
                request.key_count,
                request.value_size,
                request.ttl
            ),
            (class, keys, value_size, ttl.map(Expiry::After)),
            "{line}"
        );
    }
}

#[test]
fn rules_answers_and_effects() {
    for (line, hit_rule, answer, effect, blocking) in [
        ("GET k", HitRule::Null, Answer::One, Effect::None, false),
        ("SET k v", HitRule::None, Answer::One, Effect::None, false),
        (
            "SET k v GET",
            HitRule::Null,
            Answer::One,
            Effect::None,
            false,
        ),
        (
            "MGET a b",
            HitRule::NullElements { asked: 2 },
            Answer::One,
            Effect::None,
            false,
        ),
        (
            "HMGET h a b c",
            HitRule::NullElements { asked: 3 },
            Answer::One,
            Effect::None,
            false,
        ),
        (
            "HGETEX h FIELDS 2 a b",
            HitRule::NullElements { asked: 2 },
            Answer::One,
            Effect::None,
            false,
        ),
        (
            "HGETALL h",
            HitRule::Empty,
            Answer::One,
            Effect::None,
            false,
        ),
        (
            "EXISTS a b",
            HitRule::Count { asked: 2 },
            Answer::One,
            Effect::None,
            false,
        ),
        (
            "SMISMEMBER s a b",
            HitRule::ZeroElements { asked: 2 },
            Answer::One,
            Effect::None,
            false,
        ),
        ("TTL k", HitRule::MinusTwo, Answer::One, Effect::None, false),
        ("BLPOP k 0", HitRule::None, Answer::One, Effect::None, true),
        (
            "XREAD STREAMS s 0",
            HitRule::None,
            Answer::One,
            Effect::None,
            false,
        ),
        (
            "XREAD BLOCK 0 STREAMS s 0",
            HitRule::None,
            Answer::One,
            Effect::None,
            true,
        ),
        (
            "SELECT 3",
            HitRule::None,
            Answer::One,
            Effect::Select(3),
            false,
        ),
        ("SELECT x", HitRule::None, Answer::One, Effect::None, false),
        ("MULTI", HitRule::None, Answer::One, Effect::Multi, false),
        ("EXEC", HitRule::None, Answer::One, Effect::EndMulti, false),
        (
            "DISCARD",
            HitRule::None,
            Answer::One,
            Effect::EndMulti,
            false,
        ),
        ("RESET", HitRule::None, Answer::One, Effect::Reset, false),
        ("QUIT", HitRule::None, Answer::One, Effect::Quit, false),
        ("MONITOR", HitRule::None, Answer::One, Effect::Stream, false),
        (
            "PSYNC ? -1",
            HitRule::None,
            Answer::One,
            Effect::Replicate,
            false,
        ),
        (
            "CLIENT REPLY ON",
            HitRule::None,
            Answer::One,
            Effect::ReplyOn,
            false,
        ),
        (
            "client reply off",
            HitRule::None,
            Answer::None,
            Effect::ReplyOff,
            false,
        ),
        (
            "CLIENT REPLY SKIP",
            HitRule::None,
            Answer::None,
            Effect::ReplySkip,
            false,
        ),
        (
            "CLIENT REPLY OFF x",
            HitRule::None,
            Answer::One,
            Effect::None,
            false,
        ),
        (
            "SUBSCRIBE a b",
            HitRule::None,
            Answer::Subscriptions(2),
            Effect::None,
            false,
        ),
        (
            "UNSUBSCRIBE",
            HitRule::None,
            Answer::Subscriptions(1),
            Effect::None,
            false,
        ),
    ] {
        let request = request(&words(line));
        assert_eq!(
            (
                request.hit_rule,
                request.answer,
                request.effect,
                request.blocking
            ),
            (hit_rule, answer, effect, blocking),
            "{line}"
        );
    }
}

#[test]
fn inline_commands() {
    assert_eq!(request(b"PING\r\n").operation.name(), "PING");
    assert_eq!(request(b"get k\n").detail.unwrap().text, "GET k");
    assert_eq!(
        request(b"set k \"a b\" ex 60\r\n").detail.unwrap().text,
        "SET k ? EX 60"
    );
    // A line that is no known command may be anything.
    assert_eq!(request(b"hunter2 x\r\n").operation.name(), "UNKNOWN");
    assert_eq!(request(b"hunter2 x\r\n").detail.unwrap().text, "UNKNOWN");
    let mut decoder = RequestDecoder::new(false);
    assert_eq!(decoder.decode(&mut &b"\r\n\r\n*0\r\n*-1\r\n"[..]), Ok(None));
    assert!(decoder.at_boundary());
}

#[test]
fn requests_that_no_server_reads() {
    for (wire, expected) in [
        (&b"*1\r\n+PING\r\n"[..], Malformed::Syntax),
        (b"*1\r\n$4\r\nPINGxx", Malformed::Syntax),
        (b"*1\r\n$4\r\nPING\rx", Malformed::Syntax),
        (b"*x\r\n", Malformed::Syntax),
        (b"*?\r\n", Malformed::Syntax),
        (b"*2147483648\r\n", Malformed::Length),
        (b"*1\r\n$-1\r\n", Malformed::Length),
        (b"*1\r\n$9223372036854775807\r\n", Malformed::Length),
        (b"*1\r\n$99999999999999999999999", Malformed::Length),
        (b"GET / HTTP/1.1\r\n", Malformed::Foreign),
        (b"POST /x HTTP/1.1\r\n", Malformed::Foreign),
        (b"Host: cache\r\n", Malformed::Foreign),
        (b"HTTP/1.1 200 OK\r\n", Malformed::Foreign),
        (b"\x16\x03\x01\x02\x00", Malformed::Foreign),
        (b"\x80\x01", Malformed::Foreign),
        (b"{\"json\":1}\r\n", Malformed::Syntax),
        (b"$5\r\nhello\r\n", Malformed::Syntax),
        (b"SET k \"open\r\n", Malformed::Syntax),
        (b"we:ird\r\n", Malformed::Syntax),
    ] {
        let result = RequestDecoder::new(true).decode(&mut &*wire);
        assert_eq!(result, Err(expected), "{}", wire.escape_ascii());
    }
}

#[test]
fn requests_of_any_size_stay_within_budget() {
    // A million pairs: exact counts, bounded memory and text.
    let mut decoder = RequestDecoder::new(true);
    let pairs = 1_000_000;
    assert_eq!(
        decoder.decode(&mut format!("*{}\r\n$4\r\nMSET\r\n", 2 * pairs + 1).as_bytes()),
        Ok(None)
    );
    let mut last = Ok(None);
    for _ in 0..pairs {
        last = decoder.decode(&mut &b"$3\r\nkey\r\n$5\r\nvalue\r\n"[..]);
    }
    let request = last.unwrap().unwrap();
    assert_eq!(
        (request.key_count, request.value_size),
        (1_000_000, Some(5_000_000))
    );
    let detail = request.detail.unwrap();
    assert_eq!(detail.keys.len(), Detail::MAX_KEYS);
    assert!(detail.text.len() < 2100 && detail.text.ends_with('…'));

    // Kept bytes are bounded while the request grows.
    let mut decoder = RequestDecoder::new(true);
    decoder
        .decode(&mut &b"*2000\r\n$4\r\nMGET\r\n"[..])
        .unwrap();
    for _ in 0..1000 {
        decoder.decode(&mut &wire(&[&[b'k'; 5000]])[4..]).unwrap();
    }
    assert!(decoder.memory() <= 68 * 1024, "{}", decoder.memory());

    // A line without end.
    let mut decoder = RequestDecoder::new(true);
    let result = (0..100_000).find_map(|_| decoder.decode(&mut &b"PING "[..]).err());
    assert_eq!(result, Some(Malformed::Line));
    assert!(decoder.memory() <= 68 * 1024, "{}", decoder.memory());
}

#[test]
fn sums_past_the_kept_arguments_follow_the_cycle() {
    for (name, head, group, expected) in [
        ("HSET", vec!["h"], vec!["f", "vv"], 2),
        ("LPUSH", vec!["l"], vec!["vvv"], 3),
        ("ZADD", vec!["z", "NX"], vec!["1", "mmmm"], 4),
        ("GEOADD", vec!["g"], vec!["11", "222", "m"], 1),
        ("XADD", vec!["s", "*"], vec!["ff", "v"], 1),
        ("MSETNX", vec![], vec!["k", "vv"], 2),
    ] {
        let mut arguments = vec![name];
        arguments.extend(head);
        for _ in 0..100 {
            arguments.extend(&group);
        }
        let request = request(&words(&arguments.join(" ")));
        assert_eq!(request.value_size, Some(100 * expected), "{name}");
    }
    let many = format!("BLPOP {}5", "k ".repeat(200));
    assert_eq!(request(&words(&many)).key_count, 200);
    let many = format!("EVAL s 150 {}a b", "k ".repeat(150));
    assert_eq!(request(&words(&many)).key_count, 150);
    let many = format!(
        "XREAD STREAMS {}{}",
        "k ".repeat(100),
        vec!["0"; 100].join(" ")
    );
    assert_eq!(request(&words(&many)).key_count, 100);
}
