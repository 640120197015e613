//! No decoder looks at a byte again: the steps that messages take, however large and however cut, are counted.

use super::{Protocol, ReplyDecoder, RequestDecoder};
use crate::telemetry::work;

/// Decodes in pieces of `size` bytes, up to what cannot be read on.
fn decode<T, E>(
    bytes: &[u8],
    size: usize,
    mut step: impl FnMut(&mut &[u8]) -> Result<Option<T>, E>,
) -> u64 {
    work::of(|| {
        for mut piece in bytes.chunks(size) {
            while !piece.is_empty() {
                if step(&mut piece).is_err() {
                    return;
                }
            }
        }
    })
}

#[test]
fn steps_are_as_many_as_bytes() {
    let arguments = |count: usize| {
        [
            format!("*{count}\r\n").into_bytes(),
            b"$3\r\nabc\r\n".repeat(count),
        ]
        .concat()
    };
    let bulk = [
        b"*2\r\n$3\r\nGET\r\n$500000\r\n".to_vec(),
        vec![b'k'; 500_000],
        b"\r\n".to_vec(),
    ]
    .concat();
    let line = [b"GET ".to_vec(), vec![b'x'; 60_000], b"\r\n".to_vec()].concat();
    let endless = vec![b'x'; 200_000];
    let quotes = [
        b"SET k ".to_vec(),
        b"\"a\" ".repeat(10_000),
        b"\r\n".to_vec(),
    ]
    .concat();
    let redis = [
        arguments(100_000),
        bulk.clone(),
        line.clone(),
        endless.clone(),
        quotes,
        b"*1\r\n".repeat(20_000),
    ];
    let keys = [b"get".to_vec(), b" key".repeat(400), b"\r\n".to_vec()]
        .concat()
        .repeat(50);
    let sets = [
        b"set k 0 0 100000\r\n".to_vec(),
        vec![b'v'; 100_000],
        b"\r\n".to_vec(),
    ]
    .concat();
    let memcached = [keys, sets, endless];
    for (protocol, inputs) in [
        (Protocol::Redis, redis.to_vec()),
        (Protocol::Memcached, memcached.to_vec()),
    ] {
        for input in inputs {
            for size in [1, 2, 7, 1_000, input.len()] {
                let mut decoder = RequestDecoder::new(protocol, true);
                let steps = decode(&input, size, |piece| decoder.decode(piece));
                assert!(
                    steps <= 4 * input.len() as u64,
                    "{steps} steps for {} bytes by {size}",
                    input.len()
                );
            }
        }
    }
    let nested = b"*1\r\n".repeat(20_000);
    let array = [b"*100000\r\n".to_vec(), b":1\r\n".repeat(100_000)].concat();
    let errors = [b"-".to_vec(), vec![b'E'; 60_000], b"\r\n".to_vec()].concat();
    let strings = b"$5\r\nhello\r\n".repeat(20_000);
    for input in [nested, array, errors, strings] {
        for size in [1, 2, 7, 1_000, input.len()] {
            let mut decoder = ReplyDecoder::new(Protocol::Redis);
            let steps = decode(&input, size, |piece| decoder.decode(piece));
            assert!(
                steps <= 4 * input.len() as u64,
                "{steps} steps for {} bytes by {size}",
                input.len()
            );
        }
    }
}
