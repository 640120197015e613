//! Clients that always have a number of requests under way, joined in between.

use std::collections::VecDeque;

use super::*;

/// A client and its server. Each request names its number, and the size of what it reads tells it again.
struct Window {
    bench: Bench,
    under_way: VecDeque<u64>,
    mixed: bool,
    sent: u64,
}

impl Window {
    /// Joined while so many requests are under way. `mixed`: it writes, too.
    fn joined(under_way: u64, mixed: bool) -> Self {
        Self {
            bench: Bench::joined(),
            under_way: (0..under_way).collect(),
            mixed,
            sent: under_way,
        }
    }

    fn writes(&self, number: u64) -> bool {
        // As good as random, and no period.
        self.mixed && number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 < 3
    }

    fn ask(&mut self) {
        let number = self.sent;
        let key = number.to_string();
        let key = format!("${}\r\n{key}\r\n", key.len());
        let text = if self.writes(number) {
            format!("*3\r\n$3\r\nSET\r\n{key}$1\r\nx\r\n")
        } else {
            format!("*2\r\n$3\r\nGET\r\n{key}")
        };
        self.sent += 1;
        self.under_way.push_back(number);
        self.bench.send(&text);
    }

    fn answer(&mut self) {
        let number = self.under_way.pop_front().expect("one is under way");
        if self.writes(number) {
            self.bench.receive("+OK\r\n");
        } else {
            let size = number as usize % 1_000;
            let value = "v".repeat(size);
            self.bench.receive(&format!("${size}\r\n{value}\r\n"));
        }
    }

    /// Transactions that were answered, each of which must have the right reply.
    fn answered(&self) -> usize {
        let replied = self.bench.out.iter();
        let replied = replied.filter(|one| one.ending == Ending::Replied);
        replied
            .inspect(|one| {
                let detail = one.request.detail.as_ref().expect("it is kept");
                let number: u64 = detail.keys[0].parse().expect("keys are numbers");
                let expected = (!self.writes(number)).then_some(number % 1_000);
                assert_eq!(one.outcome.value_size, expected, "{}", detail.text);
            })
            .count()
    }
}

#[test]
fn requests_under_way_are_never_given_a_reply_of_another() {
    for mixed in [false, true] {
        for number in [2, 3, 8, 31, 65] {
            let mut window = Window::joined(number, mixed);
            for _ in 0..1_000 {
                window.answer();
                window.ask();
            }
            assert_eq!(window.answered(), 0, "{number} under way");
            while !window.under_way.is_empty() {
                window.answer();
            }
            window.bench.wait(30 * MS);
            assert_eq!(window.answered(), 0, "{number} under way");
            // From here on it is in step.
            for _ in 0..3 {
                window.ask();
                window.answer();
                window.bench.wait(30 * MS);
            }
            assert!(window.answered() > 0, "{number} under way");
        }
    }
}

#[test]
fn one_request_at_a_time_is_told_without_a_silence_where_replies_differ() {
    let mut window = Window::joined(0, true);
    for _ in 0..500 {
        window.ask();
        window.answer();
    }
    assert!(window.answered() >= 400, "{}", window.answered());
}

#[test]
fn where_nothing_tells_replies_apart_a_silence_does() {
    let mut window = Window::joined(0, false);
    for _ in 0..500 {
        window.ask();
        window.answer();
    }
    assert_eq!(window.answered(), 0);
    window.bench.wait(30 * MS);
    assert_eq!(window.answered(), 500);
}
