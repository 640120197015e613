//! Byte tables of replies.

use super::super::super::message::*;
use super::super::super::reply::{Reply, ReplyKind, outcome};
use super::super::*;
use super::requests::{request, words};
use crate::protocol::{Protocol, testing};

fn reply(wire: &[u8]) -> Reply {
    testing::reply(Protocol::Redis, wire)
}

fn kind(wire: &[u8]) -> ReplyKind {
    reply(wire).kind
}

#[test]
fn replies() {
    assert_eq!(kind(b"+OK\r\n"), ReplyKind::Simple);
    assert_eq!(reply(b"+QUEUED\r\n").word.as_str(), "QUEUED");
    assert_eq!(kind(b"$-1\r\n"), ReplyKind::Null);
    assert_eq!(kind(b"*-1\r\n"), ReplyKind::Null);
    assert_eq!(kind(b"_\r\n"), ReplyKind::Null);
    assert_eq!(reply(b":-2\r\n").integer, Some(-2));
    assert_eq!(reply(b"#t\r\n").integer, Some(1));
    assert_eq!(reply(b",1.5\r\n").value_size, 3);
    assert_eq!(kind(b"(12345678901234567890123\r\n"), ReplyKind::Value);
    assert_eq!(reply(b"$5\r\nhello\r\n").value_size, 5);
    assert_eq!(kind(b"$0\r\n\r\n"), ReplyKind::Value);
    assert_eq!(reply(b"=9\r\ntxt:hello\r\n").value_size, 5);
    assert_eq!(
        reply(b"$?\r\n;4\r\nHell\r\n;1\r\no\r\n;0\r\n").value_size,
        5
    );

    let mget = reply(b"*3\r\n$1\r\na\r\n$-1\r\n$2\r\nbb\r\n");
    assert_eq!(
        (mget.kind, mget.elements, mget.nulls, mget.value_size),
        (ReplyKind::Aggregate, 3, 1, 3)
    );
    let nested = reply(b"*2\r\n*2\r\n:0\r\n_\r\n%1\r\n+k\r\n$3\r\nabc\r\n");
    assert_eq!(
        (
            nested.elements,
            nested.nulls,
            nested.zeros,
            nested.value_size
        ),
        (2, 0, 0, 3)
    );
    assert_eq!(reply(b"*3\r\n:0\r\n:1\r\n:0\r\n").zeros, 2);
    assert_eq!(reply(b"%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n").elements, 4);
    assert_eq!(reply(b"*0\r\n").elements, 0);
    assert_eq!(reply(b"*?\r\n:1\r\n*?\r\n.\r\n:3\r\n.\r\n").elements, 3);
    assert_eq!(reply(b"~1\r\n#f\r\n").zeros, 1);
}

#[test]
fn attributes_are_passed_over() {
    let reply = reply(b"|1\r\n+ttl\r\n*2\r\n:3600\r\n$3\r\nabc\r\n$5\r\nhello\r\n");
    assert_eq!(
        (reply.kind, reply.value_size, reply.elements),
        (ReplyKind::Value, 5, 0)
    );
    let inner = self::reply(b"*2\r\n|1\r\n$1\r\na\r\n|1\r\n_\r\n_\r\n-ERR no\r\n:0\r\n:7\r\n");
    assert_eq!(
        (inner.elements, inner.zeros, inner.errors, inner.value_size),
        (2, 1, 0, 0)
    );
    assert_eq!(self::reply(b"|0\r\n:1\r\n").integer, Some(1));
    // What an attribute belongs to has begun.
    let mut decoder = ReplyDecoder::new();
    decoder.decode(&mut &b"|1\r\n:1\r\n:2\r\n"[..]).unwrap();
    assert!(!decoder.at_boundary());
}

#[test]
fn errors_and_redirects() {
    for (wire, word, redirect) in [
        (&b"-ERR unknown command 'x'\r\n"[..], "ERR", None),
        (b"-WRONGTYPE Operation against a key\r\n", "WRONGTYPE", None),
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH", None),
        (b"-OOM\r\n", "OOM", None),
        (b"!21\r\nSYNTAX invalid syntax\r\n", "SYNTAX", None),
        (
            b"-MOVED 3999 10.0.0.8:6380\r\n",
            "MOVED",
            Some("10.0.0.8:6380"),
        ),
        (
            b"-ASK 16383 cache.example:6380\r\n",
            "ASK",
            Some("cache.example:6380"),
        ),
        (b"-MOVED 3999 :6381\r\n", "MOVED", Some(":6381")),
        (b"-MOVED 3999 \r\n", "MOVED", Some("?")),
        (b"-MOVED\r\n", "MOVED", Some("?")),
        (b"-MOVED 3999 ?:6381\r\n", "MOVED", Some("?:6381")),
        (b"-MOVED 3999 ::1:6381\r\n", "MOVED", Some("::1:6381")),
        // A script can return anything.
        (b"-MOVED 3999 secret\r\n", "MOVED", Some("?")),
        (b"-ASK 1 host:secret\r\n", "ASK", Some("?")),
        (b"-ASK 1 secret@host:6379\r\n", "ASK", Some("?")),
        (b"-my secret\r\n", "ERR", None),
        (b"-S3CR3T\r\n", "ERR", None),
        (b"-LONGERTHANANYPREFIXOFASERVEREVERIS\r\n", "ERR", None),
        (b"-\r\n", "ERR", None),
    ] {
        let reply = reply(wire);
        assert_eq!(reply.kind, ReplyKind::Error);
        assert_eq!(reply.error.unwrap().as_str(), word);
        assert_eq!(reply.redirect.as_ref().map(|r| r.as_str()), redirect);
    }
    let name = "cache-0.cache-headless.a-long-namespace.svc.cluster.example.internal:6379";
    let moved = reply(format!("-MOVED 16383 {name}\r\n").as_bytes());
    assert_eq!(moved.redirect.unwrap().as_str(), name);
    let endless = reply(format!("-MOVED 16383 {}\r\n", name.repeat(9)).as_bytes());
    assert_eq!(endless.redirect.unwrap().as_str().len(), Redirect::CAPACITY);
    // Continuations that begin with `-` are bytes of a string, not errors.
    assert_eq!(kind(b"$7\r\n-ERR x\n\r\n"), ReplyKind::Value);
    let exec = reply(b"*3\r\n+OK\r\n-WRONGTYPE no\r\n-ERR no\r\n");
    assert_eq!((exec.errors, exec.word.as_str()), (2, "WRONGTYPE"));
    let outcome = outcome(&request(&words("EXEC")), &exec);
    assert_eq!(outcome.error.unwrap().as_str(), "WRONGTYPE");
}

#[test]
fn pushes_and_messages() {
    let push = reply(b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$5\r\nhello\r\n");
    assert_eq!(
        (push.kind, push.word.as_str()),
        (ReplyKind::Push, "MESSAGE")
    );
    assert_eq!(
        reply(b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n")
            .word
            .as_str(),
        "INVALIDATE"
    );
    let resp2 = reply(b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    assert_eq!(
        (resp2.kind, resp2.word.as_str()),
        (ReplyKind::Aggregate, "SUBSCRIBE")
    );
    // A value is not taken for the kind of a message.
    assert!(reply(b"*1\r\n$6\r\nsecret\r\n").word.is_empty());
    assert!(reply(b"*2\r\n:1\r\n$7\r\nmessage\r\n").word.is_empty());
    assert!(
        reply(b"*2\r\n*1\r\n:1\r\n$7\r\nmessage\r\n")
            .word
            .is_empty()
    );
}

#[test]
fn replies_that_no_server_sends() {
    for (wire, expected) in [
        (&b"hello\r\n"[..], Malformed::Syntax),
        (b"$5\r\nhellox", Malformed::Syntax),
        (b"+a\nb\r\n", Malformed::Syntax),
        (b"+a\rb", Malformed::Syntax),
        (b"_x\r\n", Malformed::Syntax),
        (b"#x\r\n", Malformed::Syntax),
        (b",\r\n", Malformed::Syntax),
        (b",abc;\r\n", Malformed::Syntax),
        (b".\r\n", Malformed::Syntax),
        (b"*1\r\n.\r\n", Malformed::Syntax),
        (b"$?\r\n$1\r\n", Malformed::Syntax),
        (b"=?\r\n", Malformed::Syntax),
        (b";1\r\n", Malformed::Syntax),
        (b"$-2\r\n", Malformed::Length),
        (b"*-2\r\n", Malformed::Length),
        (b"%-1\r\n", Malformed::Length),
        (b"$9223372036854775807\r\n", Malformed::Length),
        (b"*9223372036854775807\r\n", Malformed::Length),
        (b"\x15\x03\x03", Malformed::Foreign),
    ] {
        let result = ReplyDecoder::new().decode(&mut &*wire);
        assert_eq!(result, Err(expected), "{}", wire.escape_ascii());
    }
}

#[test]
fn a_gap_inside_a_string_is_bridged() {
    let wire = b"*2\r\n$10\r\n0123456789\r\n$3\r\nabc\r\n";
    for start in 9..20 {
        for end in start + 1..=21 {
            let mut decoder = ReplyDecoder::new();
            assert_eq!(decoder.decode(&mut &wire[..start]), Ok(None));
            assert_eq!(
                decoder.skip((end - start) as u64),
                Ok(None),
                "{start}..{end}"
            );
            let reply = decoder.decode(&mut &wire[end..]).unwrap().unwrap();
            assert_eq!((reply.elements, reply.value_size), (2, 13));
        }
    }
    let mut decoder = ReplyDecoder::new();
    assert_eq!(decoder.decode(&mut &b"$10\r\n01"[..]), Ok(None));
    assert_eq!(decoder.skip(10).unwrap().unwrap().value_size, 10);
    assert!(decoder.at_boundary());
    for cut in 0..wire.len() {
        let mut decoder = ReplyDecoder::new();
        decoder.decode(&mut &wire[..cut]).unwrap();
        assert_eq!(decoder.skip(100), Err(FramingLost), "{cut}");
    }
    // A chunk of a streamed string.
    let mut decoder = ReplyDecoder::new();
    assert_eq!(decoder.decode(&mut &b"$?\r\n;4\r\nHe"[..]), Ok(None));
    assert_eq!(decoder.skip(4), Ok(None));
    assert_eq!(
        decoder
            .decode(&mut &b";0\r\n"[..])
            .unwrap()
            .unwrap()
            .value_size,
        4
    );
    // An error whose prefix is cut short is not made up.
    let mut decoder = ReplyDecoder::new();
    assert_eq!(decoder.decode(&mut &b"!9\r\nMOVE"[..]), Ok(None));
    let reply = decoder.skip(7).unwrap().unwrap();
    assert_eq!(reply.error.unwrap().as_str(), "ERR");
}

#[test]
fn deep_nesting_and_endless_lines_are_refused() {
    let result = ReplyDecoder::new().decode(&mut &*b"*1\r\n".repeat(10_000));
    assert_eq!(result, Err(Malformed::Depth));
    let deepest = [b"*1\r\n".repeat(MAX_DEPTH), b":1\r\n".to_vec()].concat();
    assert_eq!(reply(&deepest).elements, 1);
    let mut decoder = ReplyDecoder::new();
    let result = (0..100_000).find_map(|_| decoder.decode(&mut &b"+lalala"[1..]).err());
    assert_eq!(result, Some(Malformed::Syntax));
    let mut decoder = ReplyDecoder::new();
    decoder.decode(&mut &b"+"[..]).unwrap();
    let result = (0..100_000).find_map(|_| decoder.decode(&mut &b"lalala"[..]).err());
    assert_eq!(result, Some(Malformed::Line));
    assert!(
        size_of::<ReplyDecoder>() < 1024,
        "{}",
        size_of::<ReplyDecoder>()
    );
}

#[test]
fn an_unfolded_reply_comes_in_parts() {
    let wire = b"*3\r\n+OK\r\n*2\r\n$1\r\na\r\n$-1\r\n-ERR no\r\n+OK\r\n";
    for cut in 0..wire.len() {
        let mut decoder = ReplyDecoder::new();
        decoder.unfold();
        let mut parts = Vec::new();
        let (mut head, mut tail) = wire.split_at(cut);
        for input in [&mut head, &mut tail] {
            while let Some(reply) = decoder.decode(input).unwrap() {
                parts.push((reply.kind, reply.elements, reply.nulls));
            }
        }
        assert_eq!(
            parts,
            [
                (ReplyKind::Unfolded, 3, 0),
                (ReplyKind::Simple, 0, 0),
                (ReplyKind::Aggregate, 2, 1),
                (ReplyKind::Error, 0, 0),
                (ReplyKind::Simple, 0, 0),
            ]
        );
        assert!(decoder.at_boundary());
    }
    // An aborted or empty transaction, and the reply after it.
    for aborted in [&b"*-1\r\n"[..], b"*0\r\n", b"-EXECABORT x\r\n", b"_\r\n"] {
        let mut decoder = ReplyDecoder::new();
        decoder.unfold();
        let mut input = &*[b">1\r\n+x\r\n", aborted, b"*1\r\n:1\r\n"].concat();
        assert_eq!(
            decoder.decode(&mut input).unwrap().unwrap().kind,
            ReplyKind::Push
        );
        assert!(decoder.decode(&mut input).unwrap().is_some());
        assert!(decoder.at_boundary());
        assert_eq!(decoder.decode(&mut input).unwrap().unwrap().elements, 1);
    }
}

#[test]
fn every_second_element() {
    let size = |wire: &[u8]| {
        let reply = reply(wire);
        (reply.value_size, reply.second_size)
    };
    for (wire, sizes) in [
        (&b"$5\r\nhello\r\n"[..], (5, 0)),
        (b"*0\r\n", (0, 0)),
        (b"*2\r\n$1\r\nf\r\n$5\r\nhello\r\n", (6, 5)),
        (
            b"*4\r\n$1\r\nf\r\n$2\r\nvv\r\n$1\r\ng\r\n$3\r\nwww\r\n",
            (7, 5),
        ),
        (b"%2\r\n+f\r\n$2\r\nvv\r\n+g\r\n,1.5\r\n", (5, 5)),
        (b"*2\r\n$1\r\nk\r\n*2\r\n$2\r\naa\r\n$3\r\nbbb\r\n", (6, 5)),
        (b"*?\r\n$1\r\nf\r\n$2\r\nvv\r\n.\r\n", (3, 2)),
    ] {
        assert_eq!(size(wire), sizes, "{}", wire.escape_ascii());
    }
}
