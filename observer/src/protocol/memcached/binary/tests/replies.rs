//! What replies say, and what they mean.

use super::super::super::super::message::*;
use super::super::super::super::reply::{ReplyKind, outcome};
use super::super::header::tag;
use super::*;

#[test]
fn replies() {
    use ReplyKind::{Aggregate, Error, Integer, Simple};
    let flags = &[0, 0, 0, 5][..];
    // opcode, status, extras, key, value; kind, word, elements, value size
    for (code, status, extras, key, value, kind, word, elements, size) in [
        (0x00, 0, flags, &b""[..], &b"hello"[..], Aggregate, "", 1, 5),
        (0x00, 0, flags, b"", b"", Aggregate, "", 1, 0),
        (0x00, 1, b"", b"", b"Not found", Aggregate, "", 0, 0),
        (0x0c, 0, flags, b"key", b"hello", Aggregate, "", 1, 5),
        (0x0c, 1, b"", b"key", b"", Aggregate, "", 0, 0),
        (0x0d, 0, flags, b"key", b"\x81", Aggregate, "", 1, 1),
        (0x1e, 0, flags, b"", b"hello", Aggregate, "", 1, 5),
        (0x24, 0, flags, b"key", b"hello", Aggregate, "", 1, 5),
        (0x01, 0, b"", b"", b"", Simple, "STORED", 0, 0),
        (0x11, 3, b"", b"", b"Too large.", Error, "E2BIG", 0, 0),
        (
            0x02,
            2,
            b"",
            b"",
            b"Data exists for key.",
            Simple,
            "EXISTS",
            0,
            0,
        ),
        (0x03, 1, b"", b"", b"Not found", Simple, "NOT_FOUND", 0, 0),
        (
            0x0e,
            5,
            b"",
            b"",
            b"Not stored.",
            Simple,
            "NOT_STORED",
            0,
            0,
        ),
        (0x04, 0, b"", b"", b"", Simple, "DELETED", 0, 0),
        (0x14, 1, b"", b"", b"Not found", Simple, "NOT_FOUND", 0, 0),
        (0x05, 0, b"", b"", b"\0\0\0\0\0\0\0\x2a", Integer, "", 0, 0),
        (0x06, 1, b"", b"", b"Not found", Simple, "NOT_FOUND", 0, 0),
        (
            0x06,
            6,
            b"",
            b"",
            b"Non-numeric",
            Error,
            "DELTA_BADVAL",
            0,
            0,
        ),
        (0x1c, 0, flags, b"", b"", Simple, "TOUCHED", 0, 0),
        (0x0a, 0, b"", b"", b"", Simple, "OK", 0, 0),
        (0x0b, 0, b"", b"", b"1.6.18", Simple, "OK", 0, 0),
        (0x10, 0, b"", b"", b"", Aggregate, "", 0, 0),
        (0x10, 1, b"", b"", b"Not found", Simple, "NOT_FOUND", 0, 0),
        (0x20, 0, b"", b"", b"PLAIN NTLM", Simple, "OK", 0, 0),
        (0x21, 0, b"", b"", b"Authenticated", Simple, "OK", 0, 0),
        (
            0x21,
            0x21,
            b"",
            b"",
            b"challenge",
            Simple,
            "AUTH_CONTINUE",
            0,
            0,
        ),
        (
            0x21,
            0x20,
            b"",
            b"",
            b"Auth failure.",
            Error,
            "AUTH_ERROR",
            0,
            0,
        ),
        (
            0x3f,
            0x81,
            b"",
            b"",
            b"Unknown command",
            Error,
            "UNKNOWN_COMMAND",
            0,
            0,
        ),
        (0x3f, 0, b"", b"key", b"what", Simple, "OK", 0, 0),
        (
            0x00,
            0x82,
            b"",
            b"",
            b"Out of memory",
            Error,
            "ENOMEM",
            0,
            0,
        ),
        (
            0x00,
            4,
            b"",
            b"",
            b"Invalid arguments",
            Error,
            "EINVAL",
            0,
            0,
        ),
        (0x00, 7, b"", b"", b"{}", Error, "NOT_MY_VBUCKET", 0, 0),
        (0x00, 0x83, b"", b"", b"", Error, "NOT_SUPPORTED", 0, 0),
        (0x00, 0x84, b"", b"", b"", Error, "EINTERNAL", 0, 0),
        (0x00, 0x85, b"", b"", b"", Error, "EBUSY", 0, 0),
        (0x00, 0x86, b"", b"", b"", Error, "ETMPFAIL", 0, 0),
        (0x00, 0xaf1, b"", b"", b"", Error, "STATUS_0X0AF1", 0, 0),
    ] {
        let reply = reply(&answer(code, status, extras, key, value));
        let said = reply.error.unwrap_or(reply.word);
        assert_eq!(
            (reply.kind, said.as_str(), reply.elements, reply.value_size),
            (kind, word, elements, size),
            "{code:#x} {status:#x}"
        );
    }
}

#[test]
fn the_parts_of_stat_are_one_reply() {
    let part = |key: &[u8], value: &[u8]| answer(0x10, 0, b"", key, value);
    let wire = [part(b"pid", b"1"), part(b"uptime", b"99"), part(b"", b"")].concat();
    let whole = reply(&wire);
    assert_eq!((whole.kind, whole.elements), (ReplyKind::Aggregate, 2));
    assert_eq!(
        (whole.value_size, whole.tag),
        (0, Some(tag(0x10, OPAQUE, None)))
    );
    // Out of memory between two parts.
    let broken = [
        part(b"pid", b"1"),
        answer(0x10, 0x82, b"", b"", b"Out of memory"),
    ]
    .concat();
    assert_eq!(reply(&broken).error, Some(Word::new(b"ENOMEM")));
    // Another reply between two parts.
    let mut other = part(b"", b"");
    other[15] ^= 1;
    for next in [answer(0x0a, 0, b"", b"", b""), other] {
        let wire = [part(b"pid", b"1"), next].concat();
        let result = ReplyDecoder::new().decode(&mut &*wire);
        assert_eq!(result, Err(Malformed::Syntax));
    }
}

#[test]
fn a_reply_tells_its_request() {
    let asked = |code, key: &[u8]| request(&ask(code, b"", key, b"")).tag;
    let said = |code, status, key: &[u8]| reply(&answer(code, status, b"", key, b"")).tag;
    for (code, key) in [
        (0x00, &b""[..]),
        (0x11, b""),
        (0x0a, b""),
        (0x3f, b""),
        (0x0d, b"key"),
        (0x24, b"key"),
    ] {
        assert_eq!(asked(code, key), said(code, 0, key), "{code:#x}");
        assert!(asked(code, key).is_some());
    }
    assert_eq!(asked(0x00, b"any"), said(0x00, 0, b""));
    assert_eq!(asked(0x0c, b"key"), said(0x0c, 1, b"key"));
    assert_ne!(asked(0x0d, b"key"), said(0x0d, 0, b"kez"));
    assert_ne!(asked(0x0d, b"key"), said(0x0c, 0, b"key"));
    assert_ne!(asked(0x00, b"key"), said(0x09, 0, b""));
    // An error does not repeat the key.
    assert_eq!(said(0x0d, 0x82, b""), None);
    assert_ne!(tag(0x00, 1, None), tag(0x00, 2, None));
    assert_ne!(tag(0x0d, 1, Some(b"k")), tag(0x0d, 2, Some(b"k")));
}

#[test]
fn outcomes() {
    let of = |request_wire: &[u8], status: u16, extras: &[u8], value: &[u8]| {
        let asked = request(request_wire);
        let key = if asked.operation.name() == "GETKQ" {
            &b"k"[..]
        } else {
            b""
        };
        let reply = reply(&answer(request_wire[1], status, extras, key, value));
        assert_eq!(asked.tag, reply.tag);
        let outcome = outcome(&asked, &reply);
        let error = outcome.error.map(|error| error.as_str().to_owned());
        let said = (
            outcome.hits,
            outcome.misses,
            outcome.value_size,
            outcome.deleted,
        );
        (said, error)
    };
    let flags = &[0; 4][..];
    let get = ask(0x00, b"", b"k", b"");
    assert_eq!(of(&get, 0, flags, b"xx"), ((1, 0, Some(2), None), None));
    assert_eq!(of(&get, 1, b"", b"Not found"), ((0, 1, None, None), None));
    let error = Some("ENOMEM".to_owned());
    assert_eq!(of(&get, 0x82, b"", b""), ((0, 0, None, None), error));
    let getkq = ask(0x0d, b"", b"k", b"");
    assert_eq!(of(&getkq, 0, flags, b"xx"), ((1, 0, Some(2), None), None));
    let delete = ask(0x04, b"", b"k", b"");
    assert_eq!(of(&delete, 0, b"", b""), ((0, 0, None, Some(1)), None));
    assert_eq!(of(&delete, 1, b"", b""), ((0, 0, None, Some(0)), None));
    assert_eq!(of(&delete, 2, b"", b""), ((0, 0, None, Some(0)), None));
    let increment = ask(0x05, &count(u32::MAX), b"k", b"");
    assert_eq!(of(&increment, 0, b"", &[0; 8]), ((1, 0, None, None), None));
    assert_eq!(of(&increment, 1, b"", b""), ((0, 1, None, None), None));
    // It may have been made.
    let make = ask(0x05, &count(0), b"k", b"");
    assert_eq!(of(&make, 0, b"", &[0; 8]), ((0, 0, None, None), None));
    let touch = ask(0x1c, &[0; 4], b"k", b"");
    assert_eq!(of(&touch, 0, flags, b""), ((1, 0, None, None), None));
    assert_eq!(of(&touch, 1, b"", b""), ((0, 1, None, None), None));
    let set = ask(0x01, &store(0), b"k", b"x");
    for status in [0, 1, 2, 5] {
        assert_eq!(of(&set, status, b"", b""), ((0, 0, None, None), None));
    }
    let flush = ask(0x08, b"", b"", b"");
    assert_eq!(of(&flush, 0, b"", b""), ((0, 0, None, None), None));
}
