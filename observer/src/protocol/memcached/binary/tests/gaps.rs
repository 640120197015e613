//! Missing bytes, malformed ones, and the memory they take.

use super::super::super::super::message::{FramingLost, Malformed};
use super::*;

#[test]
fn messages_that_cannot_be_read_on() {
    let mut long_body = ask(0x01, &store(0), b"k", b"");
    long_body[8] = 0x80;
    let mut short_body = ask(0x00, b"", b"key", b"");
    short_body[11] = 2;
    let long_key = ask(0x00, b"", &[b'k'; 251], b"");
    for (wire, expected) in [
        (&b"get k\r\n"[..], Malformed::Syntax),
        (b"\x81\x00", Malformed::Syntax),
        (b"\x00", Malformed::Syntax),
        (b"\x16\x03\x01", Malformed::Foreign),
        (b"\x15", Malformed::Foreign),
        (&long_body, Malformed::Length),
        (&short_body, Malformed::Length),
        (&long_key, Malformed::Length),
    ] {
        let result = RequestDecoder::new(true).decode(&mut &*wire);
        assert_eq!(result, Err(expected), "{}", wire.escape_ascii());
        let mut wire = wire.to_vec();
        wire[0] = match wire[0] {
            0x80 => 0x81,
            0x81 => 0x80,
            other => other,
        };
        // A key of any length where it is no cache key.
        let expected = if wire.len() > 200 {
            wire[1] = 0x0c;
            Malformed::Length
        } else {
            expected
        };
        let result = ReplyDecoder::new().decode(&mut &*wire);
        assert_eq!(result, Err(expected), "{}", wire.escape_ascii());
    }
    // At every boundary.
    let wire = [ask(0x0a, b"", b"", b""), b"get".to_vec()].concat();
    let mut input = &wire[..];
    let mut decoder = RequestDecoder::new(true);
    assert!(decoder.decode(&mut input).unwrap().is_some());
    assert_eq!(decoder.decode(&mut input), Err(Malformed::Syntax));
}

#[test]
fn memory_is_bounded() {
    let wire = ask(0x0d, &[1; 255], &[b'k'; 250], &[b'v'; 100_000]);
    let mut decoder = RequestDecoder::new(true);
    for mut byte in wire.chunks(1) {
        decoder.decode(&mut byte).unwrap();
        assert!(decoder.memory() <= 1024, "{}", decoder.memory());
    }
    let wire = answer(0x0d, 0, &[1; 255], &[b'k'; 250], &[b'v'; 100_000]);
    let mut decoder = ReplyDecoder::new();
    for mut byte in wire.chunks(1) {
        decoder.decode(&mut byte).unwrap();
        assert!(decoder.memory() <= 1024, "{}", decoder.memory());
    }
}

#[test]
fn a_gap_inside_a_value_is_bridged() {
    let value = b"0123456789";
    let wire = [ask(0x01, &store(0), b"k", value), ask(0x0a, b"", b"", b"")].concat();
    let first = 24 + 8 + 1;
    for start in first..first + 10 {
        for end in start + 1..=first + 10 {
            let mut decoder = RequestDecoder::new(false);
            assert_eq!(decoder.decode(&mut &wire[..start]), Ok(None));
            let skipped = decoder.skip((end - start) as u64).unwrap();
            assert_eq!(skipped.is_some(), end == first + 10);
            let mut rest = &wire[end..];
            let set = skipped.or_else(|| decoder.decode(&mut rest).unwrap());
            assert_eq!(set.unwrap().value_size, Some(10), "{start}..{end}");
            let noop = decoder.decode(&mut rest).unwrap().unwrap();
            assert_eq!(noop.operation.name(), "NOOP");
        }
    }
    // A value, an error's text, one statistic of two.
    let flags = [0; 4];
    for (wire, from, to) in [
        (answer(0x0d, 0, &flags, b"k", value), 29, 39),
        (answer(0x01, 3, b"", b"", b"Too large."), 24, 34),
        (
            [
                answer(0x10, 0, b"", b"k", value),
                answer(0x10, 0, b"", b"", b""),
            ]
            .concat(),
            24,
            35,
        ),
    ] {
        let whole = reply(&wire);
        for start in from..to {
            for end in start + 1..=to {
                let mut decoder = ReplyDecoder::new();
                assert_eq!(decoder.decode(&mut &wire[..start]), Ok(None));
                let skipped = decoder.skip((end - start) as u64).unwrap();
                let mut rest = &wire[end..];
                let reply = skipped.or_else(|| decoder.decode(&mut rest).unwrap());
                assert_eq!(
                    (reply, rest),
                    (Some(whole.clone()), &b""[..]),
                    "{start}..{end}"
                );
                assert!(decoder.at_boundary());
            }
        }
    }
}

#[test]
fn a_gap_elsewhere_loses_framing() {
    let wire = ask(0x01, &store(0), b"key", b"abc");
    for cut in 0..wire.len() {
        let mut decoder = RequestDecoder::new(false);
        decoder.decode(&mut &wire[..cut]).unwrap();
        assert_eq!(decoder.skip(100), Err(FramingLost), "{cut}");
        if cut < 24 + 8 + 3 {
            let mut decoder = RequestDecoder::new(false);
            decoder.decode(&mut &wire[..cut]).unwrap();
            assert_eq!(decoder.skip(0), Ok(None));
            assert_eq!(decoder.skip(1), Err(FramingLost), "{cut}");
        }
    }
    let wire = answer(0x0c, 0, &[0; 4], b"key", b"abc");
    for cut in 0..wire.len() {
        let mut decoder = ReplyDecoder::new();
        decoder.decode(&mut &wire[..cut]).unwrap();
        assert_eq!(decoder.skip(100), Err(FramingLost), "{cut}");
        if cut < 24 + 4 + 3 {
            let mut decoder = ReplyDecoder::new();
            decoder.decode(&mut &wire[..cut]).unwrap();
            assert_eq!(decoder.skip(0), Ok(None));
            assert_eq!(decoder.skip(1), Err(FramingLost), "{cut}");
        }
    }
}
