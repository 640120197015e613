//! Properties of all decoders: any cutting gives the same messages, no input panics or fills memory, no secret and
//! no value gets out, and on complete frames the `redis-protocol` crate agrees.

use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::{replies, requests};
use super::*;

/// `<type><count>CRLF` and the parts.
fn framed(kind: char, count: usize, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = format!("{kind}{count}\r\n").into_bytes();
    wire.extend(parts.concat());
    wire
}

fn bulk(kind: char, bytes: &[u8]) -> Vec<u8> {
    [
        format!("{kind}{}\r\n", bytes.len()).as_bytes(),
        bytes,
        b"\r\n",
    ]
    .concat()
}

fn redis_request() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("GET"),
        Just("SET"),
        Just("MSET"),
        Just("hset"),
        Just("XADD"),
        Just("ZADD"),
        Just("EVAL"),
        Just("AUTH"),
        Just("MIGRATE"),
        Just("SORT"),
        Just("XREAD"),
        Just("BLPOP"),
        Just("MSETEX"),
        Just("NOSUCH"),
        Just("CLIENT"),
    ];
    let argument = prop_oneof![
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 500..530),
        (0..20_i64).prop_map(|n| n.to_string().into_bytes()),
        prop_oneof![
            Just("EX"),
            Just("STREAMS"),
            Just("MAXLEN"),
            Just("~"),
            Just("KEYS"),
            Just("STORE"),
            Just("LIMIT")
        ]
        .prop_map(|word| word.as_bytes().to_vec()),
    ];
    let multibulk = (name, vec(argument, 0..150)).prop_map(|(name, arguments)| {
        let mut parts = vec![bulk('$', name.as_bytes())];
        parts.extend(arguments.iter().map(|argument| bulk('$', argument)));
        framed('*', parts.len(), &parts)
    });
    prop_oneof![
        8 => multibulk,
        1 => "(get|PING|set) [a-z]{1,8}( \"a b\")?\r?\n".prop_map(String::into_bytes),
        1 => prop_oneof![Just("\r\n"), Just("*0\r\n"), Just("*-1\r\n")].prop_map(|line| line.as_bytes().to_vec()),
    ]
}

fn memcached_request() -> impl Strategy<Value = Vec<u8>> {
    let data = vec(any::<u8>(), 0..60);
    let store = (
        "(set|add|replace|append|prepend) [a-z]{1,9} 0 [0-9]{1,4} ",
        data,
        "( noreply)?",
    )
        .prop_map(|(line, data, noreply)| {
            [
                format!("{line}{}{noreply}\r\n", data.len()).as_bytes(),
                &data,
                b"\r\n",
            ]
            .concat()
        });
    prop_oneof![
        store,
        "(get|gets|gat 5)( [a-z:]{1,9}){1,5}\r\n".prop_map(String::into_bytes),
        "(delete|touch|incr|decr) [a-z]{1,9} [0-9]{1,3}( noreply)?\r\n"
            .prop_map(String::into_bytes),
        "(stats|version|flush_all|nosuch)\r\n".prop_map(String::into_bytes),
        "(mg|md|ma|me) [a-z]{1,9}( (q|k|v|t|b|I|T[0-9]{1,3}|O[0-9]{1,3}|N0)){0,4}\r\n"
            .prop_map(String::into_bytes),
        "ms [a-z]{1,9} 0( (q|k|c|ME|T[0-9]{1,3}|O[0-9]{1,3})){0,4}\r\n\r\n"
            .prop_map(String::into_bytes),
        Just(b"mn\r\n".to_vec()),
    ]
}

fn memcached_reply() -> impl Strategy<Value = Vec<u8>> {
    let value = ("VALUE [a-z]{1,9} 0 ", vec(any::<u8>(), 0..40)).prop_map(|(line, data)| {
        [
            format!("{line}{}\r\n", data.len()).as_bytes(),
            &data,
            b"\r\n",
        ]
        .concat()
    });
    prop_oneof![
        vec(value, 0..4).prop_map(|values| [values.concat(), b"END\r\n".to_vec()].concat()),
        "(STORED|NOT_FOUND|DELETED|OK|ERROR|SERVER_ERROR x y|[0-9]{1,19})\r\n"
            .prop_map(String::into_bytes),
        "(STAT [a-z]{1,5} [a-z]{1,5}\r\n){1,4}END\r\n".prop_map(String::into_bytes),
        "(HD|EN|NF|NS|EX|MN)( (k[a-z]{1,5}|O[0-9]{1,3}|t-1|W)){0,3}\r\n"
            .prop_map(String::into_bytes),
        (
            "VA ",
            vec(any::<u8>(), 0..40),
            "( (k[a-z]{1,5}|O[0-9]{1,3}|s5)){0,3}\r\n"
        )
            .prop_map(|(code, data, flags)| {
                let line = format!("{code}{}{flags}", data.len());
                [line.as_bytes(), &data, b"\r\n"].concat()
            }),
    ]
}

/// Frames that both RESP versions have.
fn resp2_leaf() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[+][A-Za-z ]{0,20}\r\n".prop_map(String::into_bytes),
        "-(ERR|MOVED 1 h:1|WRONGTYPE)[a-z ]{0,9}\r\n".prop_map(String::into_bytes),
        any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
        (0..2_i64).prop_map(|n| format!(":{n}\r\n").into_bytes()),
        vec(any::<u8>(), 0..60).prop_map(|bytes| bulk('$', &bytes)),
    ]
}

fn resp2() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        8 => resp2_leaf(),
        1 => Just(b"$-1\r\n".to_vec()),
        1 => Just(b"*-1\r\n".to_vec()),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        vec(inner, 0..6).prop_map(|parts| framed('*', parts.len(), &parts))
    })
}

fn resp3() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        4 => resp2_leaf(),
        1 => Just(b"_\r\n".to_vec()),
        1 => "#[tf]\r\n".prop_map(String::into_bytes),
        1 => "[(]-?[1-9][0-9]{0,40}\r\n".prop_map(String::into_bytes),
        1 => ",-?[1-9][0-9]{0,4}[.][0-9]{1,3}\r\n".prop_map(String::into_bytes),
        1 => ",(inf|-inf)\r\n".prop_map(String::into_bytes),
        1 => "[a-z]{0,20}".prop_map(|text| bulk('!', text.as_bytes())),
        1 => vec(any::<u8>(), 0..20).prop_map(|text| bulk('=', &[b"txt:", &text[..]].concat())),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        // Distinct scalars, since the crate keeps sets and maps as such.
        let distinct = |parts: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
            let named = |(i, part): (usize, Vec<u8>)| [format!("+{i}\r\n").into_bytes(), part];
            parts.into_iter().enumerate().flat_map(named).collect()
        };
        prop_oneof![
            3 => vec(inner.clone(), 0..6).prop_map(|parts| framed('*', parts.len(), &parts)),
            1 => (0..6_usize).prop_map(|n| {
                framed('~', n, &(0..n).map(|i| format!(":{i}\r\n").into_bytes()).collect::<Vec<_>>())
            }),
            1 => vec(inner, 0..4).prop_map(move |parts| framed('%', parts.len(), &distinct(parts))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_gives_the_same_redis_requests(
        messages in vec(redis_request(), 1..5), pieces in vec(0..64_usize, 0..200),
    ) {
        let stream = messages.concat();
        let whole = requests(Protocol::Redis, &stream, &[]);
        prop_assert_eq!(whole.1, None);
        prop_assert_eq!(requests(Protocol::Redis, &stream, &pieces), whole);
    }

    #[test]
    fn any_cutting_gives_the_same_memcached_requests(
        messages in vec(memcached_request(), 1..5), pieces in vec(0..20_usize, 0..60),
    ) {
        let stream = messages.concat();
        let whole = requests(Protocol::Memcached, &stream, &[]);
        prop_assert_eq!((whole.0.len(), whole.1), (messages.len(), None));
        prop_assert_eq!(requests(Protocol::Memcached, &stream, &pieces), whole);
    }

    #[test]
    fn any_cutting_gives_the_same_redis_replies(
        messages in vec(prop_oneof![resp2(), resp3()], 1..5), pieces in vec(0..20_usize, 0..60),
    ) {
        let stream = messages.concat();
        let whole = replies(Protocol::Redis, &stream, &[]);
        prop_assert_eq!((whole.0.len(), whole.1), (messages.len(), None));
        prop_assert_eq!(replies(Protocol::Redis, &stream, &pieces), whole);
    }

    #[test]
    fn any_cutting_gives_the_same_memcached_replies(
        messages in vec(memcached_reply(), 1..5), pieces in vec(0..20_usize, 0..60),
    ) {
        let stream = messages.concat();
        let whole = replies(Protocol::Memcached, &stream, &[]);
        prop_assert_eq!((whole.0.len(), whole.1), (messages.len(), None));
        prop_assert_eq!(replies(Protocol::Memcached, &stream, &pieces), whole);
    }

    #[test]
    fn redis_protocol_agrees_on_resp2(frame in resp2(), rest in vec(any::<u8>(), 0..5)) {
        use redis_protocol::resp2::{decode::decode, types::OwnedFrame};
        let stream = [&frame[..], &rest].concat();
        let (theirs, length) = decode(&stream).unwrap().unwrap();
        prop_assert_eq!(length, frame.len());
        let mut input = &stream[..];
        let ours = ReplyDecoder::new(Protocol::Redis).decode(&mut input).unwrap().unwrap();
        prop_assert_eq!(stream.len() - input.len(), length);
        let (kind, elements) = match &theirs {
            OwnedFrame::SimpleString(_) => (ReplyKind::Simple, 0),
            OwnedFrame::Error(_) => (ReplyKind::Error, 0),
            OwnedFrame::Integer(n) => {
                prop_assert_eq!(ours.integer, Some(*n));
                (ReplyKind::Integer, 0)
            }
            OwnedFrame::BulkString(bytes) => {
                prop_assert_eq!(ours.value_size, bytes.len() as u64);
                (ReplyKind::Value, 0)
            }
            OwnedFrame::Array(elements) => {
                let nulls = elements.iter().filter(|e| matches!(e, OwnedFrame::Null)).count();
                let errors = elements.iter().filter(|e| matches!(e, OwnedFrame::Error(_))).count();
                let zeros = elements.iter().filter(|e| matches!(e, OwnedFrame::Integer(0))).count();
                prop_assert_eq!((ours.nulls, ours.errors, ours.zeros), (nulls as u64, errors as u64, zeros as u64));
                (ReplyKind::Aggregate, elements.len())
            }
            OwnedFrame::Null => (ReplyKind::Null, 0),
        };
        prop_assert_eq!((ours.kind, ours.elements), (kind, elements as u64));
    }

    #[test]
    fn redis_protocol_agrees_on_resp3(
        frame in resp3(), push in any::<bool>(), attribute in any::<bool>(), rest in vec(any::<u8>(), 0..5),
    ) {
        use redis_protocol::resp3::{decode::complete::decode, types::OwnedFrame};
        let mut frame = frame;
        if push && frame[0] == b'*' {
            frame[0] = b'>';
        }
        // The crate does not take attributes of a null.
        if attribute && frame[0] != b'_' {
            frame = [&b"|1\r\n+ttl\r\n:5\r\n"[..], &frame].concat();
        }
        let stream = [&frame[..], &rest].concat();
        let (theirs, length) = decode(&stream).unwrap().unwrap();
        prop_assert_eq!(length, frame.len());
        let mut input = &stream[..];
        let ours = ReplyDecoder::new(Protocol::Redis).decode(&mut input).unwrap().unwrap();
        prop_assert_eq!(stream.len() - input.len(), length);
        let (kind, elements) = match &theirs {
            OwnedFrame::SimpleString { .. } => (ReplyKind::Simple, 0),
            OwnedFrame::SimpleError { .. } | OwnedFrame::BlobError { .. } => (ReplyKind::Error, 0),
            OwnedFrame::Number { .. } | OwnedFrame::Boolean { .. } => (ReplyKind::Integer, 0),
            OwnedFrame::BlobString { data, .. } | OwnedFrame::VerbatimString { data, .. } => {
                prop_assert_eq!(ours.value_size, data.len() as u64);
                (ReplyKind::Value, 0)
            }
            OwnedFrame::Double { .. } | OwnedFrame::BigNumber { .. } => (ReplyKind::Value, 0),
            OwnedFrame::Null => (ReplyKind::Null, 0),
            OwnedFrame::Array { data, .. } => (ReplyKind::Aggregate, data.len()),
            OwnedFrame::Push { data, .. } => (ReplyKind::Push, data.len()),
            OwnedFrame::Set { data, .. } => (ReplyKind::Aggregate, data.len()),
            OwnedFrame::Map { data, .. } => (ReplyKind::Aggregate, 2 * data.len()),
            other => panic!("not generated: {other:?}"),
        };
        prop_assert_eq!((ours.kind, ours.elements), (kind, elements as u64));
    }

    #[test]
    fn no_input_panics(
        noise in vec(
            prop_oneof![
                4 => vec(any::<u8>(), 0..20),
                6 => "[*$:+_#,(!=%~|>;.?0-9-]{0,6}(\r\n)?".prop_map(String::into_bytes),
                2 => redis_request(),
                1 => prop_oneof![resp2(), resp3()],
                2 => memcached_request(),
                1 => memcached_reply(),
            ],
            0..12,
        ),
        gaps in vec(0..40_u64, 0..12),
        unfold in any::<bool>(),
    ) {
        for protocol in [Protocol::Redis, Protocol::Memcached] {
            let mut request = RequestDecoder::new(protocol, true);
            let mut reply = ReplyDecoder::new(protocol);
            if let (true, ReplyDecoder::Redis(decoder)) = (unfold, &mut reply) {
                decoder.unfold();
            }
            for (index, part) in noise.iter().enumerate() {
                // A spent decoder is used on: it may answer anything, but must not panic.
                for decode in [0, 1] {
                    let mut input = &part[..];
                    for _ in 0..=part.len() {
                        let more = if decode == 0 {
                            matches!(request.decode(&mut input), Ok(Some(_)))
                        } else {
                            matches!(reply.decode(&mut input), Ok(Some(_)))
                        };
                        if !more {
                            break;
                        }
                    }
                }
                if let Some(gap) = gaps.get(index) {
                    let _ = (request.skip(*gap), reply.skip(*gap));
                }
                let _ = (detect(protocol, part), begins_request(protocol, part));
            }
        }
    }
}

#[test]
fn every_operation_has_a_name() {
    let (messages, malformed) = requests(Protocol::Redis, b"*1\r\n$0\r\n\r\n\"\" a\r\n", &[]);
    assert_eq!(messages[0].operation.name(), "UNKNOWN");
    assert_eq!((messages.len(), malformed), (1, Some(Malformed::Syntax)));
}

#[test]
fn keeping_detail_changes_no_framing() {
    // A word longer than what is kept of it without detail, with a byte behind that no name holds.
    let line = [&[b'a'; 40][..], b"\xf0 b\r\n"].concat();
    for keep_detail in [true, false] {
        let result = RequestDecoder::new(Protocol::Redis, keep_detail).decode(&mut &line[..]);
        assert_eq!(result, Err(Malformed::Syntax), "{keep_detail}");
    }
}

const MARK: &str = "hunter2";

/// Requests that hold a secret or a value, each written `hunter2`.
fn secrets() -> Vec<(Protocol, Vec<u8>)> {
    let redis = [
        "AUTH hunter2",
        "AUTH alice hunter2",
        "AUTH user hunter2 x",
        "HELLO 3 AUTH user hunter2",
        "HELLO 3 AUTH alice hunter2 SETNAME web",
        "ACL SETUSER u on >hunter2 ~*",
        "ACL GETUSER hunter2",
        "CONFIG SET requirepass hunter2",
        "CONFIG SET masterauth hunter2 requirepass hunter2",
        "CONFIG hunter2",
        "MIGRATE h 6379 k 0 9 AUTH hunter2",
        "MIGRATE h 6379 k 0 9 AUTH2 hunter2 hunter2 KEYS a",
        "SENTINEL SET m auth-pass hunter2",
        "REPLICAOF hunter2 6379",
        "DEBUG hunter2 hunter2",
        "SET k hunter2",
        "SET k hunter2 EX 60",
        "SET k v hunter2",
        "SET k v EX hunter2",
        "SET k v IFEQ hunter2",
        "SETEX k hunter2 hunter2",
        "MSET a hunter2 b hunter2",
        "MSETEX 1 a hunter2 EX 5",
        "HSET h hunter2 hunter2",
        "HSETEX h FIELDS 1 hunter2 hunter2",
        "HGET h hunter2",
        "LPUSH l hunter2",
        "LINSERT l BEFORE hunter2 hunter2",
        "LREM l 0 hunter2",
        "SADD s hunter2",
        "ZADD z 1 hunter2",
        "XADD s * hunter2 hunter2",
        "XADD s MAXLEN ~ hunter2 * f hunter2",
        "GEOADD g 1 1 hunter2",
        "EVAL hunter2 0 hunter2",
        "EVALSHA abc 1 k hunter2",
        "FCALL f 0 hunter2",
        "FUNCTION LOAD hunter2",
        "SORT k BY hunter2 GET hunter2",
        "SCAN 0 MATCH hunter2",
        "KEYS hunter2",
        "PUBLISH ch hunter2",
        "SUBSCRIBE hunter2",
        "ECHO hunter2",
        "PING hunter2",
        "NOSUCH hunter2",
        "RESTORE k 0 hunter2",
        "APPEND k hunter2",
        "INCRBY k hunter2",
    ];
    let mut all = Vec::new();
    for line in redis {
        let parts: Vec<_> = line
            .split(' ')
            .map(|word| bulk('$', word.as_bytes()))
            .collect();
        all.push((Protocol::Redis, framed('*', parts.len(), &parts)));
        all.push((Protocol::Redis, format!("{line}\r\n").into_bytes()));
    }
    all.push((Protocol::Redis, b"hunter2\r\n".to_vec()));
    for line in [
        "set k 0 0 7\r\nhunter2\r\n",
        "set k 0 0 15\r\nhunter2 hunter2\r\n",
        "cas k 0 0 7 5\r\nhunter2\r\n",
        "set k 0 0 9\r\nhunter2\r\n\r\n",
        "incr k hunter2\r\n",
        "stats hunter2\r\n",
        "nosuch hunter2\r\n",
        "hunter2 x\r\n",
        "set auth 0 0 13\r\nalice hunter2\r\n",
        "ms k 7 T60\r\nhunter2\r\n",
        "ms k 9 q Ohunter2\r\nhunter2\r\n\r\n",
        "mg k v Ohunter2 Phunter2 Lhunter2\r\n",
        "ma k Dhunter2 Jhunter2 Thunter2 Mhunter2\r\n",
        "md k hunter2 Chunter2\r\n",
    ] {
        all.push((Protocol::Memcached, line.as_bytes().to_vec()));
    }
    all
}

#[test]
fn no_secret_and_no_value_gets_out() {
    for (protocol, wire) in secrets() {
        for cut in 0..=wire.len() {
            let (messages, malformed) = requests(protocol, &wire, &[cut]);
            assert_eq!(
                (messages.len(), malformed),
                (1, None),
                "{}",
                wire.escape_ascii()
            );
            let shown = format!("{messages:?}").to_ascii_lowercase();
            assert!(
                !shown.contains(MARK),
                "{} at {cut}: {shown}",
                wire.escape_ascii()
            );
            // Joined in the middle, or with a gap. An inline `… GET hunter2` cut before GET is a read of that key.
            if wire[cut..].trim_ascii_start().starts_with(b"GET hunter2") {
                continue;
            }
            let (messages, malformed) = requests(protocol, &wire[cut..], &[]);
            let shown = format!("{messages:?} {malformed:?}").to_ascii_lowercase();
            assert!(
                !shown.contains(MARK),
                "{} from {cut}: {shown}",
                wire.escape_ascii()
            );
            for gap in 1..wire.len() - cut.min(wire.len() - 1) {
                let mut decoder = RequestDecoder::new(protocol, true);
                let before = decoder.decode(&mut &wire[..cut]);
                let skipped = decoder.skip(gap as u64);
                // A decoder that lost framing is spent.
                let rest = &wire[(cut + gap).min(wire.len())..];
                let after = skipped.is_ok().then(|| decoder.decode(&mut &*rest));
                let shown = format!("{before:?} {skipped:?} {after:?}").to_ascii_lowercase();
                assert!(
                    !shown.contains(MARK),
                    "{} gap {cut}+{gap}: {shown}",
                    wire.escape_ascii()
                );
            }
        }
    }
}

#[test]
fn no_value_gets_out_of_replies() {
    for wire in [
        "$7\r\nhunter2\r\n",
        "*1\r\n$7\r\nhunter2\r\n",
        "*2\r\n+hunter2\r\n-hunter2 x\r\n",
        "%1\r\n+hunter2\r\n$7\r\nhunter2\r\n",
        "-hunter2 x\r\n",
        "-ERR hunter2\r\n",
        "!7\r\nhunter2\r\n",
        "=11\r\ntxt:hunter2\r\n",
        "|1\r\n+hunter2\r\n+hunter2\r\n:1\r\n",
        ">2\r\n+message\r\n+hunter2\r\n",
    ] {
        let (messages, malformed) = replies(Protocol::Redis, wire.as_bytes(), &[]);
        assert_eq!((messages.len(), malformed), (1, None), "{wire:?}");
        assert!(
            !format!("{messages:?}").to_ascii_lowercase().contains(MARK),
            "{wire:?}: {messages:?}"
        );
    }
    for wire in [
        &b"VALUE k 0 7\r\nhunter2\r\nEND\r\n"[..],
        b"VA 7 Ohunter2 khunter2\r\nhunter2\r\n",
        b"SERVER_ERROR hunter2\r\n",
    ] {
        let (messages, malformed) = replies(Protocol::Memcached, wire, &[]);
        assert_eq!((messages.len(), malformed), (1, None));
        assert!(!format!("{messages:?}").to_ascii_lowercase().contains(MARK));
    }
}
