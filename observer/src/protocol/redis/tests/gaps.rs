//! Requests with bytes missing.

use super::super::super::message::*;
use super::super::*;
use super::requests::*;

#[test]
fn a_gap_inside_an_argument_is_bridged() {
    let wire = wire(&[b"SET", b"user:42", &[b'v'; 1000], b"EX", b"60"]);
    let value = wire
        .windows(4)
        .position(|window| window == b"vvvv")
        .unwrap();
    // From within the value, or from its first byte, to its end, its CR, its LF.
    for start in [value, value + 1, value + 999, value + 1000, value + 1001] {
        for end in [value + 1, value + 1000, value + 1001, value + 1002] {
            if start >= end {
                continue;
            }
            let mut decoder = RequestDecoder::new(true);
            assert_eq!(decoder.decode(&mut &wire[..start]), Ok(None));
            assert_eq!(
                decoder.skip((end - start) as u64),
                Ok(None),
                "{start}..{end}"
            );
            let request = decoder.decode(&mut &wire[end..]).unwrap().unwrap();
            assert_eq!(request.value_size, Some(1000));
            assert_eq!(request.ttl, Some(Expiry::After(60)));
            assert_eq!(request.detail.unwrap().text, "SET user:42 ? EX 60");
        }
    }
}

#[test]
fn a_gap_up_to_the_end_completes_the_request() {
    let wire = wire(&[b"SET", b"k", &[b'v'; 100]]);
    let mut decoder = RequestDecoder::new(false);
    assert_eq!(decoder.decode(&mut &wire[..wire.len() - 50]), Ok(None));
    let request = decoder.skip(50).unwrap().unwrap();
    assert_eq!(request.value_size, Some(100));
    assert!(decoder.at_boundary());
    assert_eq!(decoder.skip(0), Ok(None));
    assert_eq!(decoder.skip(1), Err(FramingLost));
}

#[test]
fn a_key_with_a_gap_is_not_shown() {
    let wire = words("GET user:42:profile");
    let key = wire
        .windows(4)
        .position(|window| window == b"user")
        .unwrap();
    let mut decoder = RequestDecoder::new(true);
    assert_eq!(decoder.decode(&mut &wire[..key + 4]), Ok(None));
    assert_eq!(decoder.skip(3), Ok(None));
    let request = decoder.decode(&mut &wire[key + 7..]).unwrap().unwrap();
    let detail = request.detail.unwrap();
    assert_eq!((detail.text.as_str(), request.key_count), ("GET ?", 1));
    assert!(detail.keys.is_empty());
}

#[test]
fn a_gap_elsewhere_loses_framing() {
    let line = words("SET k v");
    for cut in 0..line.len() {
        let mut decoder = RequestDecoder::new(false);
        decoder.decode(&mut &line[..cut]).unwrap();
        // Past the end of any argument.
        assert_eq!(decoder.skip(100), Err(FramingLost), "{cut}");
    }
    // The name, and arguments that decide what comes back.
    for (wire, cut) in [
        (&b"*2\r\n$3\r\nG"[..], 1),
        (b"*2\r\n$6\r\nSELECT\r\n$1\r\n", 1),
        (b"GET ", 1),
        (b"*2", 1),
    ] {
        let mut decoder = RequestDecoder::new(false);
        assert_eq!(decoder.decode(&mut &*wire), Ok(None));
        assert_eq!(
            decoder.skip(cut),
            Err(FramingLost),
            "{}",
            wire.escape_ascii()
        );
    }
}
