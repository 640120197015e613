//! Byte tables of the meta commands: requests, replies, what replies mean, every cut, gaps.

use super::super::super::message::*;
use super::super::super::reply::{Reply, ReplyKind, is_silence, outcome, silent};
use super::super::super::{ReplyDecoder, RequestDecoder};
use super::super::can_answer;
use super::*;
use crate::protocol::{Protocol, testing};

fn request(wire: &[u8]) -> Request {
    testing::request(Protocol::Memcached, wire)
}

fn reply(wire: &[u8]) -> Reply {
    testing::reply(Protocol::Memcached, wire)
}

const MISS: Answer = Answer::Quiet(Silence::Miss);
const SUCCESS: Answer = Answer::Quiet(Silence::Success);

#[test]
fn requests() {
    // wire, text, class, answer, value size, ttl
    for (wire, text, class, answer, value_size, ttl) in [
        (
            &b"mg k v\r\n"[..],
            "MG k v",
            Class::Get,
            Answer::One,
            None,
            None,
        ),
        (b"mg k\n", "MG k", Class::Get, Answer::One, None, None),
        (
            b"mg k s v t f c h l q O12 k\r\n",
            "MG k s v t f c h l q O? k",
            Class::Get,
            MISS,
            None,
            None,
        ),
        (
            b"mg k T60\r\n",
            "MG k T60",
            Class::Touch,
            Answer::One,
            None,
            Some(60),
        ),
        (
            b"mg k v T60\r\n",
            "MG k v T60",
            Class::Get,
            Answer::One,
            None,
            Some(60),
        ),
        (
            b"mg k v T0\r\n",
            "MG k v T0",
            Class::Get,
            Answer::One,
            None,
            None,
        ),
        (
            b"mg k v N30 R10\r\n",
            "MG k v N30 R10",
            Class::Get,
            Answer::One,
            None,
            None,
        ),
        (
            b"mg Zm9vIA== b v\r\n",
            "MG foo  b v",
            Class::Get,
            Answer::One,
            None,
            None,
        ),
        (
            b"mg AP8= b v\r\n",
            "MG \\x00\\xff b v",
            Class::Get,
            Answer::One,
            None,
            None,
        ),
        (
            b"mg !!! b v\r\n",
            "MG !!! b v",
            Class::Get,
            Answer::One,
            None,
            None,
        ),
        (
            b"ms k 5 T60 F3 c\r\nhello\r\n",
            "MS k ? T60 F? c",
            Class::Set,
            Answer::One,
            Some(5),
            Some(60),
        ),
        (
            b"ms k 0\r\n\r\n",
            "MS k ?",
            Class::Set,
            Answer::One,
            Some(0),
            None,
        ),
        (
            b"ms k 2 q ME\r\nmn\r\n",
            "MS k ? q ME",
            Class::Set,
            SUCCESS,
            Some(2),
            None,
        ),
        (
            b"ms k 1 M\xff C7 I\r\nx\r\n",
            "MS k ? M? C? I",
            Class::Set,
            Answer::One,
            Some(1),
            None,
        ),
        (b"md k q\r\n", "MD k q", Class::Delete, SUCCESS, None, None),
        (
            b"md k I T30\r\n",
            "MD k I T30",
            Class::Expire,
            Answer::One,
            None,
            Some(30),
        ),
        (
            b"ma k D5 MD J9\r\n",
            "MA k D? MD J?",
            Class::Increment,
            Answer::One,
            None,
            None,
        ),
        (
            b"ma k q v N0\r\n",
            "MA k q v N0",
            Class::Increment,
            SUCCESS,
            None,
            None,
        ),
        (b"mn\r\n", "MN", Class::Connection, Answer::One, None, None),
        (
            b"mn x\r\n",
            "MN",
            Class::Connection,
            Answer::One,
            None,
            None,
        ),
        (
            b"me k q\r\n",
            "ME k q",
            Class::Exists,
            Answer::One,
            None,
            None,
        ),
        (b"mg\r\n", "MG", Class::Get, Answer::One, None, None),
    ] {
        let request = request(wire);
        let seen = (
            request.class,
            request.answer,
            request.value_size,
            request.ttl,
        );
        let ttl = ttl.map(Expiry::After);
        assert_eq!(
            seen,
            (class, answer, value_size, ttl),
            "{}",
            wire.escape_ascii()
        );
        assert_eq!(request.detail.unwrap().text, text);
        assert_eq!(request.operation.name(), text.split(' ').next().unwrap());
    }
    let keys = request(b"mg Zm9vIA== b v\r\n").detail.unwrap().keys;
    assert_eq!(keys, ["foo "]);
}

#[test]
fn requests_that_cannot_be_read_on() {
    let long_key = [b"ms ", &[b'k'; 251][..], b" 1\r\nx\r\n"].concat();
    let flags = [b"ms k 1", &b" a".repeat(21)[..], b"\r\nx\r\n"].concat();
    for (wire, expected) in [
        (&b"ms k\r\n"[..], Malformed::Syntax),
        (b"ms k S5\r\nhello\r\n", Malformed::Syntax),
        (b"ms k -1\r\n", Malformed::Length),
        (b"ms k 2147483647\r\n", Malformed::Length),
        (b"ms k 1\r\nxx", Malformed::Syntax),
        (&long_key, Malformed::Length),
        (&flags, Malformed::Syntax),
    ] {
        let mut decoder = RequestDecoder::new(Protocol::Memcached, true);
        let result = decoder.decode(&mut &*wire);
        assert_eq!(result, Err(expected), "{}", wire.escape_ascii());
    }
    for (wire, expected) in [
        (&b"VA\r\n"[..], Malformed::Syntax),
        (b"VA x\r\n", Malformed::Syntax),
        (b"VA -1\r\n", Malformed::Length),
        (b"VA 9999999999\r\n", Malformed::Length),
        (b"VA 1\r\nxx", Malformed::Syntax),
        (b"HD\n", Malformed::Syntax),
        (b"VALUE k 0 1\r\nx\r\nHD\r\n", Malformed::Syntax),
    ] {
        let result = ReplyDecoder::new(Protocol::Memcached).decode(&mut &*wire);
        assert_eq!(result, Err(expected), "{}", wire.escape_ascii());
    }
}

#[test]
fn replies() {
    for (wire, kind, word, value_size) in [
        (&b"HD\r\n"[..], ReplyKind::Simple, "HD", 0),
        (b"HD s5 t-1 f0 c7 W X Z\r\n", ReplyKind::Simple, "HD", 0),
        (b"VA 5 t60\r\nhello\r\n", ReplyKind::Value, "VA", 5),
        (b"VA 0\r\n\r\n", ReplyKind::Value, "VA", 0),
        (b"VA 4 kk\r\nEN\r\n\r\n", ReplyKind::Value, "VA", 4),
        (b"EN\r\n", ReplyKind::Null, "EN", 0),
        (b"NF\r\n", ReplyKind::Simple, "NF", 0),
        (b"NS O1\r\n", ReplyKind::Simple, "NS", 0),
        (b"EX kk\r\n", ReplyKind::Simple, "EX", 0),
        (b"MN\r\n", ReplyKind::Simple, "MN", 0),
        (
            b"ME k exp=-1 la=0 cas=1 fetch=no cls=1 size=63\r\n",
            ReplyKind::Simple,
            "ME",
            0,
        ),
        (b"CLIENT_ERROR invalid flag\r\n", ReplyKind::Error, "", 0),
    ] {
        let reply = reply(wire);
        let seen = (reply.kind, reply.word.as_str(), reply.value_size);
        assert_eq!(seen, (kind, word, value_size), "{}", wire.escape_ascii());
    }
}

#[test]
fn tags_agree() {
    for (request_wire, reply_wire) in [
        (&b"mg k v O12\r\n"[..], &b"VA 1 O12\r\nx\r\n"[..]),
        (b"mg k v k\r\n", b"VA 1 kk\r\nx\r\n"),
        (b"mg k v k O1\r\n", b"EN O1 kk\r\n"),
        (b"mg k O1 v k\r\n", b"EN kk O1\r\n"),
        (b"mg Zm9v b v k\r\n", b"VA 1 kZm9v b\r\nx\r\n"),
        // The item was stored with the same key as text.
        (b"mg Zm9v b v k\r\n", b"VA 1 kfoo\r\nx\r\n"),
        (b"ms k 1 O3 k\r\nx\r\n", b"HD O3 kk\r\n"),
    ] {
        let (request, reply) = (request(request_wire), reply(reply_wire));
        assert!(request.tag.is_some());
        assert_eq!(request.tag, reply.tag, "{}", request_wire.escape_ascii());
        assert!(can_answer(&request, &reply));
    }
    let all = [
        reply(b"EN\r\n").tag,
        reply(b"EN O1\r\n").tag,
        reply(b"EN k1\r\n").tag,
        reply(b"EN O1 k1\r\n").tag,
        reply(b"EN O1 k\r\n").tag,
        reply(b"EN O k1\r\n").tag,
        reply(b"EN O11\r\n").tag,
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(!all[..index].contains(one), "{index}");
    }
    let asked = request(b"mg k v O1\r\n");
    for (wire, fits) in [
        (&b"EN O1\r\n"[..], true),
        (b"EN O2\r\n", false),
        (b"EN\r\n", true),
        (b"NF O1\r\n", false),
        (b"MN\r\n", false),
        (b"END\r\n", false),
        (b"STORED\r\n", false),
        (b"7\r\n", false),
        (b"SERVER_ERROR x\r\n", true),
    ] {
        assert_eq!(
            can_answer(&asked, &reply(wire)),
            fits,
            "{}",
            wire.escape_ascii()
        );
    }
    assert!(!can_answer(&request(b"mg k v\r\n"), &reply(b"EN O1\r\n")));
    assert!(!can_answer(&request(b"get k\r\n"), &reply(b"HD\r\n")));
    assert!(!can_answer(
        &request(b"set k 0 0 1\r\nx\r\n"),
        &reply(b"END\r\n")
    ));
}

#[test]
fn outcomes() {
    // hits, misses, value size, deleted, status
    let of = |request_wire: &[u8], reply_wire: &[u8]| {
        let outcome = outcome(&request(request_wire), &reply(reply_wire));
        let status = outcome.status.map(|word| word.as_str().to_owned());
        (
            outcome.hits,
            outcome.misses,
            outcome.value_size,
            outcome.deleted,
            status,
        )
    };
    let status = |word: &str| Some(word.to_owned());
    let set = b"ms k 1\r\nx\r\n";
    for (request, reply, expected) in [
        (
            &b"mg k v\r\n"[..],
            &b"VA 2 W X\r\nhi\r\n"[..],
            (1, 0, Some(2), None, None),
        ),
        (b"mg k v\r\n", b"EN\r\n", (0, 1, None, None, None)),
        (b"mg k t\r\n", b"HD t60 Z\r\n", (1, 0, None, None, None)),
        (b"mg k T5\r\n", b"EN\r\n", (0, 1, None, None, None)),
        (
            b"mg k v\r\n",
            b"SERVER_ERROR x\r\n",
            (0, 0, None, None, None),
        ),
        (set, b"HD\r\n", (0, 0, None, None, None)),
        (set, b"NS\r\n", (0, 0, None, None, status("NS"))),
        (set, b"EX\r\n", (0, 0, None, None, status("EX"))),
        (set, b"NF\r\n", (0, 0, None, None, status("NF"))),
        (b"md k\r\n", b"HD\r\n", (0, 0, None, Some(1), None)),
        (b"md k\r\n", b"NF\r\n", (0, 0, None, Some(0), None)),
        (
            b"md k C1\r\n",
            b"EX\r\n",
            (0, 0, None, Some(0), status("EX")),
        ),
        (b"md k I\r\n", b"HD\r\n", (0, 0, None, None, None)),
        (b"ma k v\r\n", b"VA 1\r\n5\r\n", (1, 0, None, None, None)),
        (b"ma k\r\n", b"NF\r\n", (0, 1, None, None, None)),
        (b"ma k C1\r\n", b"EX\r\n", (0, 0, None, None, status("EX"))),
        (b"ma k N0\r\n", b"HD\r\n", (0, 0, None, None, None)),
        (b"me k\r\n", b"ME k exp=-1\r\n", (1, 0, None, None, None)),
        (b"me k\r\n", b"EN\r\n", (0, 1, None, None, None)),
        (b"mn\r\n", b"MN\r\n", (0, 0, None, None, None)),
    ] {
        assert_eq!(of(request, reply), expected, "{}", request.escape_ascii());
    }
}

#[test]
fn silence() {
    for (request_wire, reply_wire, expected) in [
        (&b"mg k v q\r\n"[..], &b"EN\r\n"[..], true),
        (b"mg k v q\r\n", b"VA 0\r\n\r\n", false),
        (b"mg k v q\r\n", b"CLIENT_ERROR x\r\n", false),
        (b"ms k 1 q\r\nx\r\n", b"HD\r\n", true),
        (b"ms k 1 q\r\nx\r\n", b"NS\r\n", false),
        (b"md k q\r\n", b"HD\r\n", true),
        (b"md k q\r\n", b"NF\r\n", false),
        (b"md k q I\r\n", b"HD\r\n", true),
        (b"md k q I\r\n", b"NF\r\n", false),
        (b"ma k q\r\n", b"HD\r\n", true),
        (b"ma k q\r\n", b"NF\r\n", false),
        // Answered where it was made.
        (b"ma k q v N0\r\n", b"VA 1\r\n0\r\n", false),
    ] {
        let (request, reply) = (request(request_wire), reply(reply_wire));
        let Answer::Quiet(silence) = request.answer else {
            panic!("{} is quiet", request_wire.escape_ascii());
        };
        assert_eq!(
            is_silence(&request, &reply, silence),
            expected,
            "{}",
            request_wire.escape_ascii()
        );
    }
    let told = |wire: &[u8], silence| {
        let outcome = silent(&request(wire), silence);
        (outcome.hits, outcome.misses, outcome.deleted)
    };
    assert_eq!(told(b"mg k q\r\n", Silence::Miss), (0, 1, None));
    assert_eq!(told(b"ms k 1 q\r\nx\r\n", Silence::Success), (0, 0, None));
    assert_eq!(told(b"md k q\r\n", Silence::Success), (0, 0, Some(1)));
    assert_eq!(told(b"ma k q\r\n", Silence::Success), (1, 0, None));
}

#[test]
fn a_gap_inside_data_is_bridged_elsewhere_not() {
    let request = b"ms k 10 q\r\n0123456789\r\n";
    let reply = b"VA 10 O1\r\n0123456789\r\n";
    for start in 11..23 {
        for end in start + 1..=23 {
            let mut decoder = RequestDecoder::new(Protocol::Memcached, false);
            assert_eq!(decoder.decode(&mut &request[..start]), Ok(None));
            let skipped = decoder.skip((end - start) as u64).unwrap();
            let message = skipped.or_else(|| decoder.decode(&mut &request[end..]).unwrap());
            assert_eq!(message.unwrap().value_size, Some(10), "{start}..{end}");
            assert!(decoder.at_boundary());
        }
    }
    for start in 10..22 {
        for end in start + 1..=22 {
            let mut decoder = ReplyDecoder::new(Protocol::Memcached);
            assert_eq!(decoder.decode(&mut &reply[..start]), Ok(None));
            let skipped = decoder.skip((end - start) as u64).unwrap();
            let message = skipped.or_else(|| decoder.decode(&mut &reply[end..]).unwrap());
            assert_eq!(message.unwrap().value_size, 10, "{start}..{end}");
            assert!(decoder.at_boundary());
        }
    }
    for cut in 0..request.len() {
        let mut decoder = RequestDecoder::new(Protocol::Memcached, false);
        decoder.decode(&mut &request[..cut]).unwrap();
        assert_eq!(decoder.skip(100), Err(FramingLost), "{cut}");
    }
}

#[test]
fn keys_in_base64() {
    for (text, expected) in [
        (&b"Zm9v"[..], Some(&b"foo"[..])),
        (b"Zm9vIA==", Some(b"foo ")),
        (b"Zm8=", Some(b"fo")),
        (b"+/+/", Some(b"\xfb\xff\xbf")),
        (b"", None),
        (b"Zm9", None),
        (b"Zm=v", None),
        (b"Zg==Zg==", None),
        (b"====", None),
        (b"Z===", None),
        (b"Zm9*", None),
    ] {
        assert_eq!(base64(text).as_deref(), expected, "{}", text.escape_ascii());
    }
}
