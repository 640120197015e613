//! What requests say.

use super::super::super::super::detect::Detected;
use super::super::super::super::message::*;
use super::super::opcodes::{FIRST_INDEX, OPCODES, Shape, begins, row};
use super::*;

#[test]
fn requests() {
    use Class::{Admin, Connection, Delete, Get, Increment, Set, Touch};
    let minute = &60_u32.to_be_bytes()[..];
    // opcode, extras, key, value; text, class, keys, value size, ttl
    for (code, extras, key, value, text, class, keys, size, ttl) in [
        (
            0x00,
            &b""[..],
            &b"k"[..],
            &b""[..],
            "GET k",
            Get,
            1,
            None,
            None,
        ),
        (0x09, b"", b"k", b"", "GETQ k", Get, 1, None, None),
        (0x0c, b"", b"k", b"", "GETK k", Get, 1, None, None),
        (0x0d, b"", b"\x80 ", b"", "GETKQ \\x80 ", Get, 1, None, None),
        (
            0x01,
            &store(60),
            b"k",
            b"hello",
            "SET k 60 ?",
            Set,
            1,
            Some(5),
            Some(60),
        ),
        (
            0x01,
            &store(0),
            b"k",
            b"",
            "SET k 0 ?",
            Set,
            1,
            Some(0),
            None,
        ),
        (
            0x12,
            &store(2_592_000),
            b"k",
            b"x",
            "ADDQ k 2592000 ?",
            Set,
            1,
            Some(1),
            Some(2_592_000),
        ),
        (
            0x13,
            &store(0),
            b"k",
            b"\x80\x00",
            "REPLACEQ k 0 ?",
            Set,
            1,
            Some(2),
            None,
        ),
        (0x0e, b"", b"k", b"xyz", "APPEND k ?", Set, 1, Some(3), None),
        (
            0x1a,
            b"",
            b"k",
            b"xyz",
            "PREPENDQ k ?",
            Set,
            1,
            Some(3),
            None,
        ),
        (0x04, b"", b"k", b"", "DELETE k", Delete, 1, None, None),
        (
            0x05,
            &count(u32::MAX),
            b"k",
            b"",
            "INCREMENT k ?",
            Increment,
            1,
            None,
            None,
        ),
        (
            0x16,
            &count(60),
            b"k",
            b"",
            "DECREMENTQ k ? ? 60",
            Increment,
            1,
            None,
            Some(60),
        ),
        (
            0x05,
            &count(0),
            b"k",
            b"",
            "INCREMENT k ? ? 0",
            Increment,
            1,
            None,
            None,
        ),
        (
            0x1c,
            minute,
            b"k",
            b"",
            "TOUCH k 60",
            Touch,
            1,
            None,
            Some(60),
        ),
        (0x1d, minute, b"k", b"", "GAT 60 k", Get, 1, None, Some(60)),
        (
            0x24,
            minute,
            b"k",
            b"",
            "GATKQ 60 k",
            Get,
            1,
            None,
            Some(60),
        ),
        (0x08, b"", b"", b"", "FLUSH", Delete, 0, None, None),
        (0x18, minute, b"", b"", "FLUSHQ ?", Delete, 0, None, None),
        (0x0a, b"", b"", b"", "NOOP", Connection, 0, None, None),
        (0x0b, b"", b"", b"", "VERSION", Admin, 0, None, None),
        (0x07, b"", b"", b"", "QUIT", Connection, 0, None, None),
        (0x1b, minute, b"", b"", "VERBOSITY ?", Admin, 0, None, None),
        (0x10, b"", b"", b"", "STAT", Admin, 0, None, None),
        (
            0x10,
            b"",
            b"detail on",
            b"",
            "STAT detail on",
            Admin,
            0,
            None,
            None,
        ),
        (0x10, b"", b"secret", b"", "STAT ?", Admin, 0, None, None),
        (
            0x20,
            b"",
            b"",
            b"",
            "SASL_LIST_MECHS",
            Connection,
            0,
            None,
            None,
        ),
        (
            0x21,
            b"",
            b"PLAIN",
            b"\0user\0hunter2",
            "SASL_AUTH PLAIN ?",
            Connection,
            0,
            None,
            None,
        ),
        (
            0x22,
            b"",
            b"CRAM-MD5",
            b"hunter2",
            "SASL_STEP CRAM-MD5 ?",
            Connection,
            0,
            None,
            None,
        ),
        (
            0x21,
            b"",
            b"hunter2",
            b"",
            "SASL_AUTH ? ?",
            Connection,
            0,
            None,
            None,
        ),
        (
            0x3f,
            b"1234",
            b"hunter2",
            b"x",
            "OPCODE_0X3F",
            Class::Other,
            0,
            None,
            None,
        ),
        (
            0x1f,
            b"",
            b"",
            b"",
            "OPCODE_0X1F",
            Class::Other,
            0,
            None,
            None,
        ),
        (
            0xff,
            b"",
            b"",
            b"",
            "OPCODE_0XFF",
            Class::Other,
            0,
            None,
            None,
        ),
        // Lengths that the server answers by EINVAL.
        (0x01, b"", b"k", b"xyz", "SET k ?", Set, 1, Some(3), None),
        (0x00, minute, b"", b"x", "GET", Get, 0, None, None),
        (
            0x05,
            minute,
            b"k",
            b"",
            "INCREMENT k ?",
            Increment,
            1,
            None,
            None,
        ),
    ] {
        let request = request(&ask(code, extras, key, value));
        let seen = (
            request.class,
            request.key_count,
            request.value_size,
            request.ttl,
        );
        assert_eq!(seen, (class, keys, size, ttl.map(Expiry::After)), "{text}");
        let detail = request.detail.unwrap();
        assert_eq!(detail.text, text);
        assert_eq!(detail.keys.len(), keys as usize);
        assert_eq!(text.split(' ').next(), Some(request.operation.name()));
    }
}

#[test]
fn every_opcode() {
    use super::super::super::meta;
    // No row of the dialect below has the same number.
    let first = usize::from(FIRST_INDEX - meta::FIRST_INDEX);
    assert_eq!(meta::can_answer(first, &Reply::default()), None);
    for (index, opcode) in OPCODES.iter().enumerate() {
        assert_eq!(row(opcode.code), Some(index), "{}", opcode.name);
        let answer = request(&ask(opcode.code, b"", b"", b"")).answer;
        match opcode.name.strip_suffix('Q') {
            None => assert_eq!(answer, Answer::One, "{}", opcode.name),
            Some(loud) => {
                // The same as the loud one but for its silence.
                let same = OPCODES.iter().find(|other| other.name == loud).unwrap();
                assert_eq!((same.class, same.shape), (opcode.class, opcode.shape));
                let silence = if opcode.class == Class::Get {
                    Silence::Miss
                } else {
                    Silence::Success
                };
                assert_eq!(answer, Answer::Quiet(silence), "{}", opcode.name);
            }
        }
        if matches!(opcode.shape, Shape::Quit) {
            let effect = request(&ask(opcode.code, b"", b"", b"")).effect;
            assert_eq!(effect, Effect::Quit);
        }
    }
    let codes = (0..=u8::MAX).filter(|code| row(*code).is_some());
    assert_eq!(codes.count(), OPCODES.len());
}

#[test]
fn points_in_time() {
    for seconds in [2_592_001, 1_800_000_000, u32::MAX] {
        let at = Some(Expiry::At(i64::from(seconds) * 1000));
        assert_eq!(request(&ask(0x01, &store(seconds), b"k", b"")).ttl, at);
        let extras = seconds.to_be_bytes();
        assert_eq!(request(&ask(0x1c, &extras, b"k", b"")).ttl, at);
    }
    // Of what is not made there is no end.
    assert_eq!(request(&ask(0x05, &count(u32::MAX), b"k", b"")).ttl, None);
}

#[test]
fn beginnings_are_strict() {
    let set = ask(0x01, &store(0), b"k", b"x");
    let mut compressed = set.clone();
    compressed[5] = 1;
    for (first, expected) in [
        (&b""[..], Detected::NeedMore),
        (b"\x80", Detected::NeedMore),
        (b"\x81\0", Detected::Foreign),
        (b"get k", Detected::Foreign),
        (&set[..11], Detected::NeedMore),
        (&set[..12], Detected::Speaks),
        (&set, Detected::Speaks),
        (&compressed, Detected::Foreign),
        (&ask(0x01, b"", b"k", b"x"), Detected::Foreign),
        (&ask(0x01, &store(0), b"", b"x"), Detected::Foreign),
        (&ask(0x00, b"", b"k", b"x"), Detected::Foreign),
        (&ask(0x00, b"", &[b'k'; 250], b""), Detected::Speaks),
        (&ask(0x00, b"", &[b'k'; 251], b""), Detected::Foreign),
        (&ask(0x08, b"", b"", b""), Detected::Speaks),
        (&ask(0x08, b"1234", b"", b""), Detected::Speaks),
        (&ask(0x08, b"12345", b"", b""), Detected::Foreign),
        (&ask(0x10, b"", b"items", b""), Detected::Speaks),
        (&ask(0x10, b"", b"", b""), Detected::Speaks),
        (&ask(0x21, b"", b"PLAIN", b"\0a\0b"), Detected::Speaks),
        (&ask(0x24, b"1234", b"k", b""), Detected::Speaks),
        (&ask(0x05, &count(0), b"k", b""), Detected::Speaks),
        (&ask(0x3f, b"", b"", b""), Detected::Foreign),
    ] {
        assert_eq!(begins(first), expected, "{}", first.escape_ascii());
    }
}

#[test]
fn no_secret_and_no_value_gets_out() {
    const SECRET: &str = "hunter2";
    let secret = SECRET.as_bytes();
    for wire in [
        ask(0x21, b"", b"PLAIN", b"\0alice\0hunter2"),
        ask(0x21, b"", secret, secret),
        ask(0x22, b"", b"CRAM-MD5", secret),
        ask(0x22, secret, b"", b""),
        ask(0x01, &store(0), b"k", secret),
        ask(0x01, secret, b"k", secret),
        ask(0x0e, b"", b"k", secret),
        ask(0x00, b"", b"k", secret),
        ask(0x10, b"", secret, secret),
        ask(0x08, secret, b"", b""),
        ask(0x3f, secret, secret, secret),
    ] {
        let told = format!("{:?}", request(&wire));
        assert!(!told.contains(SECRET), "{told}");
    }
}
