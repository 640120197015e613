//! Any cutting of a stream of meta or binary messages gives the same messages.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::protocol::Protocol;
use crate::protocol::testing::{replies, requests};

/// A binary message of these parts.
fn binary(magic: u8, opcode: u8, status: u16, parts: [&[u8]; 3], opaque: u32) -> Vec<u8> {
    let [extras, key, value] = parts;
    let length = (extras.len() + key.len() + value.len()) as u32;
    let mut wire = vec![magic, opcode];
    wire.extend((key.len() as u16).to_be_bytes());
    wire.extend([extras.len() as u8, 0]);
    wire.extend(status.to_be_bytes());
    wire.extend(length.to_be_bytes());
    wire.extend(opaque.to_be_bytes());
    wire.extend([0; 8]);
    [&wire, extras, key, value].concat()
}

fn binary_request() -> impl Strategy<Value = Vec<u8>> {
    let parts = (vec(any::<u8>(), 1..30), vec(any::<u8>(), 0..200));
    (0_usize..6, parts, any::<u32>()).prop_map(|(kind, (key, value), opaque)| {
        let (opcode, parts): (u8, [&[u8]; 3]) = match kind {
            0 => (0x00, [&[], &key, &[]]),
            1 => (0x0d, [&[], &key, &[]]),
            2 => (0x11, [&[0; 8], &key, &value]),
            3 => (0x05, [&[0; 20], &key, &[]]),
            4 => (0x0e, [&[], &key, &value]),
            _ => (0x0a, [&[], &[], &[]]),
        };
        binary(0x80, opcode, 0, parts, opaque)
    })
}

fn binary_reply() -> impl Strategy<Value = Vec<u8>> {
    let parts = (vec(any::<u8>(), 1..30), vec(any::<u8>(), 0..200));
    (0_usize..5, parts, any::<u32>()).prop_map(|(kind, (key, value), opaque)| {
        let (opcode, status, parts): (u8, u16, [&[u8]; 3]) = match kind {
            0 => (0x00, 0, [&[0; 4], &[], &value]),
            1 => (0x0c, 0, [&[0; 4], &key, &value]),
            2 => (0x00, 1, [&[], &[], b"Not found"]),
            3 => (0x05, 0, [&[], &[], &[0; 8]]),
            _ => (0x01, 0, [&[], &[], &[]]),
        };
        binary(0x81, opcode, status, parts, opaque)
    })
}

fn meta_request() -> impl Strategy<Value = Vec<u8>> {
    let flags = "( (q|k|v|t|f|s|c|b|O[0-9]{1,4}|T[0-9]{1,4}|N[0-9]{1,3}|MI|E[0-9]{1,4})){0,4}";
    let value = "[ -~\\r\\n]{0,60}";
    ("[a-zA-Z0-9]{4}", flags, value, 0_usize..5).prop_map(|(key, flags, value, kind)| {
        let text = match kind {
            0 => format!("mg {key}{flags}\r\n"),
            1 => format!("ms {key} {}{flags}\r\n{value}\r\n", value.len()),
            2 => format!("md {key}{flags}\r\n"),
            3 => format!("ma {key}{flags}\r\n"),
            _ => "mn\r\n".to_owned(),
        };
        text.into_bytes()
    })
}

fn meta_reply() -> impl Strategy<Value = Vec<u8>> {
    let flags = "( (k[a-z]{1,9}|O[0-9]{1,4}|t-?[0-9]{1,4}|s[0-9]{1,3}|W|X|Z)){0,4}";
    let value = "[ -~\\r\\n]{0,60}";
    (flags, value, 0_usize..5).prop_map(|(flags, value, kind)| {
        let text = match kind {
            0 => format!("VA {}{flags}\r\n{value}\r\n", value.len()),
            1 => format!("HD{flags}\r\n"),
            2 => format!("NS{flags}\r\n"),
            3 => "EN\r\n".to_owned(),
            _ => "MN\r\n".to_owned(),
        };
        text.into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_gives_the_same_requests(
        messages in prop_oneof![vec(binary_request(), 1..6), vec(meta_request(), 1..6)],
        pieces in vec(0..40_usize, 0..80),
    ) {
        let stream = messages.concat();
        let whole = requests(Protocol::Memcached, &stream, &[]);
        prop_assert_eq!((whole.0.len(), whole.1), (messages.len(), None));
        prop_assert_eq!(requests(Protocol::Memcached, &stream, &pieces), whole);
    }

    #[test]
    fn any_cutting_gives_the_same_replies(
        messages in prop_oneof![vec(binary_reply(), 1..6), vec(meta_reply(), 1..6)],
        pieces in vec(0..40_usize, 0..80),
    ) {
        let stream = messages.concat();
        let whole = replies(Protocol::Memcached, &stream, &[]);
        prop_assert_eq!((whole.0.len(), whole.1), (messages.len(), None));
        prop_assert_eq!(replies(Protocol::Memcached, &stream, &pieces), whole);
    }
}
