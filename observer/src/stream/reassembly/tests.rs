//! Tiny cases of every kind of disorder, and any disorder at all.

use super::*;
use crate::source::event::Direction;
use proptest::prelude::*;

fn data(position: u32, payload: &[u8]) -> Data<'_> {
    Data {
        direction: Direction::Send,
        started: 0,
        position,
        opposite: None,
        length: payload.len() as u32,
        payload,
        uncaptured: None,
        continued: false,
        opening: false,
    }
}

/// Pieces as time, position and text, and what comes out of them.
type Case<'a> = (&'a [(u64, u32, &'a str)], &'a str);

/// What came out: bytes as they are, a gap as that many `.`, a break as `!`.
#[derive(Default)]
struct Sink(Vec<u8>);

impl Sink {
    fn take(&mut self) -> impl FnMut(Segment<'_>) {
        |segment| match segment.content {
            Content::Bytes(bytes) => self.0.extend_from_slice(bytes),
            Content::Gap { length, .. } => {
                self.0.extend(std::iter::repeat_n(b'.', length as usize));
            }
            Content::Break => self.0.push(b'!'),
            Content::Dropped { .. } => {}
        }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap()
    }
}

fn run(limits: Limits, start: Option<u32>, pieces: &[(u64, u32, &str)]) -> String {
    let mut lane = Reassembler::new(Side::Request, start);
    let mut sink = Sink::default();
    for (time, position, text) in pieces {
        lane.insert(
            *time,
            None,
            &data(*position, text.as_bytes()),
            &limits,
            &mut sink.take(),
        );
    }
    lane.finish(&mut sink.take());
    sink.text().to_owned()
}

#[test]
fn in_order_and_joined_anywhere() {
    for start in [None, Some(7), Some(u32::MAX - 1)] {
        let at = start.unwrap_or(99);
        let pieces = [(0, at, "ab"), (0, at.wrapping_add(2), "cd")];
        assert_eq!(run(Limits::LIVE, start, &pieces), "abcd");
    }
}

#[test]
fn holes() {
    let hold = Limits::LIVE.hold;
    let table: &[Case<'_>] = &[
        // Filled in time.
        (&[(0, 0, "ab"), (1, 4, "ef"), (2, 2, "cd")], "abcdef"),
        // Never filled: a gap of exact length.
        (&[(0, 0, "ab"), (1, 4, "ef")], "ab..ef"),
        // Filled too late: the gap stands, and the late piece contradicts it.
        (
            &[
                (0, 0, "ab"),
                (1, 4, "ef"),
                (hold + 1, 6, "gh"),
                (hold + 2, 2, "cd"),
            ],
            "ab..efgh!",
        ),
        // Two holes, filled in reverse.
        (
            &[
                (0, 0, "a"),
                (0, 4, "e"),
                (0, 2, "c"),
                (0, 3, "d"),
                (0, 1, "b"),
            ],
            "abcde",
        ),
    ];
    for (pieces, want) in table {
        assert_eq!(run(Limits::LIVE, Some(0), pieces), *want, "{pieces:?}");
    }
}

#[test]
fn races_of_threads_are_undone_when_certain() {
    // Truth: "aaa" at 0, "bbbbb" at 3. The first thread read its position after the second had sent.
    for pieces in [
        [(0, 5, "aaa"), (0, 3, "bbbbb")],
        [(0, 3, "bbbbb"), (0, 5, "aaa")],
    ] {
        assert_eq!(run(Limits::LIVE, Some(0), &pieces), "aaabbbbb");
    }
    // A hole of another length: not certain.
    let pieces = [(0, 6, "aaa"), (0, 4, "bbbbb"), (0, 9, "cc")];
    assert_eq!(run(Limits::LIVE, Some(0), &pieces), "!cc");
}

#[test]
fn retransmissions_in_captures() {
    let table: &[Case<'_>] = &[
        (&[(0, 0, "abc"), (1, 0, "abc"), (2, 3, "d")], "abcd"),
        (&[(0, 0, "abc"), (1, 1, "bcde")], "abcde"),
        (
            &[(0, 0, "a"), (1, 3, "de"), (2, 2, "cd"), (3, 1, "bcdef")],
            "abcdef",
        ),
        (&[(0, 0, "a"), (1, 3, "d"), (2, 1, "bcde")], "abcde"),
        (
            &[
                (0, 0, "a"),
                (1, 3, "d"),
                (1, 6, "g"),
                (2, 2, "cdefgh"),
                (3, 1, "b"),
            ],
            "abcdefgh",
        ),
        // A keep-alive repeats the byte before the next one.
        (&[(0, 0, "ab"), (1, 1, "?"), (2, 2, "cd")], "abcd"),
    ];
    for (pieces, want) in table {
        assert_eq!(run(Limits::CAPTURE, Some(0), pieces), *want, "{pieces:?}");
    }
}

#[test]
fn truncated_payload_is_a_gap_of_known_length() {
    let mut lane = Reassembler::new(Side::Reply, Some(0));
    let mut sink = Sink::default();
    let mut cut = data(0, b"abc");
    cut.length = 10;
    cut.uncaptured = Some(Uncaptured::Limit);
    lane.insert(0, None, &cut, &Limits::LIVE, &mut sink.take());
    lane.insert(0, None, &data(10, b"d"), &Limits::LIVE, &mut sink.take());
    assert_eq!(sink.text(), "abc.......d");
}

#[test]
fn held_memory_is_bounded() {
    let mut lane = Reassembler::new(Side::Request, Some(0));
    let mut sink = Sink::default();
    for i in 0..10_000_u32 {
        // Every second byte only: holes without end.
        lane.insert(
            0,
            None,
            &data(1 + 2 * i, b"x"),
            &Limits::LIVE,
            &mut sink.take(),
        );
        assert!(lane.held.len() <= Limits::LIVE.pieces + 1);
    }
    lane.finish(&mut sink.take());
    assert_eq!(sink.0.len(), 20_000);
}

proptest! {
    /// Packets in any order, cut and repeated at will, with nothing missing: the stream comes out whole.
    #[test]
    fn captures_survive_reordering_and_repetition(
        length in 1_usize..200,
        cuts in proptest::collection::vec((0_usize..200, 1_usize..40), 0..60),
        start in any::<u32>(),
    ) {
        let stream: Vec<u8> = (0..length).map(|i| b'a' + (i % 26) as u8).collect();
        let mut lane = Reassembler::new(Side::Request, Some(start));
        let mut sink = Sink::default();
        let limits = Limits { hold: u64::MAX, ..Limits::CAPTURE };
        for (from, count) in cuts {
            let from = from.min(length);
            let to = (from + count).min(length);
            let position = start.wrapping_add(from as u32);
            lane.insert(0, None, &data(position, &stream[from..to]), &limits, &mut sink.take());
        }
        lane.insert(0, None, &data(start, &stream), &limits, &mut sink.take());
        prop_assert_eq!(&sink.0, &stream);
    }
}

proptest! {
    /// Every byte that comes is handed on or counted as dropped, once.
    #[test]
    fn no_byte_is_lost_silently(
        pieces in prop::collection::vec((0..200u32, 1..40u32, 0..40_000_000u64), 1..60),
        capture in any::<bool>(),
    ) {
        let limits = match capture {
            true => Limits { pieces: 8, ..Limits::CAPTURE },
            false => Limits { pieces: 8, ..Limits::LIVE },
        };
        let mut lane = Reassembler::new(Side::Request, Some(100));
        let (mut came, mut told, mut now) = (0, 0, 0);
        let mut count = |segment: Segment<'_>| match segment.content {
            Content::Bytes(bytes) => told += bytes.len() as u64,
            Content::Dropped { length, .. } => told += length,
            // Bytes that never came.
            Content::Gap { .. } | Content::Break => {}
        };
        let bytes = [b'x'; 40];
        for (position, length, time) in pieces {
            now += time;
            came += u64::from(length);
            let payload = &bytes[..length as usize];
            lane.insert(now, None, &data(position, payload), &limits, &mut count);
        }
        lane.finish(&mut count);
        prop_assert_eq!(told, came);
        prop_assert_eq!(lane.memory(), 0);
    }
}

/// The worst order: each piece before all that are held. A piece costs no more than those that may be held.
#[test]
fn disorder_costs_no_more_than_its_budget() {
    for limits in [Limits::LIVE, Limits::CAPTURE] {
        for count in [10_000, 40_000] {
            let mut lane = Reassembler::new(Side::Request, Some(0));
            let steps = work::of(|| {
                for number in 0..count {
                    let position = 10_000_000 - 2 * number;
                    lane.insert(0, None, &data(position, b"x"), &limits, &mut |_| {});
                    assert!(lane.memory() < 4 * limits.pieces * size_of::<Held>());
                }
            });
            let most = u64::from(count) * (limits.pieces as u64 + 1);
            assert!(steps <= most, "{steps} steps for {count} pieces");
        }
    }
}
