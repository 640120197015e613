//! Fuzz entry of the conversation: whatever comes in whatever order, each request decoded ends exactly once.
//!
//! `observer/fuzz` runs it under libFuzzer, a unit test runs it over the corpus that is kept there. Compiled only for
//! these two.

use super::conversation::{Conversation, Settings};
use super::{Ending, Exchange, Transaction};
use crate::protocol::fuzz::Choices;
use crate::protocol::{Answer, Effect, Operation, Outcome, Protocol};
use crate::source::event::{End, Nanos};
use crate::stream::{Content, Segment, Side};
use crate::telemetry::{LeftOut, Resync, Skipped, Telemetry};

/// Time between two steps, nanoseconds.
const STEP: Nanos = 100_000;

/// The first byte chooses the connection; then each step is a byte that says what happens, and what it needs.
pub fn matcher(data: &[u8]) {
    let mut choices = Choices(data);
    let flags = choices.byte();
    let settings = Settings {
        protocol: if flags & 1 == 0 {
            Protocol::Redis
        } else {
            Protocol::Memcached
        },
        from_start: flags & 2 == 0,
        end: if flags & 4 == 0 {
            End::Client
        } else {
            End::Server
        },
        keep_detail: flags & 8 != 0,
    };
    let mut whole = Run::new(settings, false);
    whole.play(choices.clone());
    // A run without trouble does not depend on how it was cut.
    let trouble = |run: &Run| {
        let resyncs = |reason: &Resync| run.telemetry.resyncs(settings.protocol, *reason).get();
        // Where a stream ends depends on how its connection goes on.
        let stream = |one: &Transaction| one.request.effect == Effect::Stream;
        run.ignored
            || run.out.iter().any(stream)
            || Resync::ALL.iter().map(resyncs).sum::<u64>() > 0
    };
    if settings.from_start && !trouble(&whole) {
        let mut bytes = Run::new(settings, true);
        bytes.play(choices);
        let told = |run: &Run| -> Vec<(Operation, Ending, Outcome, Option<u32>)> {
            let each =
                |t: &Transaction| (t.request.operation, t.ending, t.outcome.clone(), t.database);
            run.out.iter().map(each).collect()
        };
        assert_eq!(told(&whole), told(&bytes), "one byte at a time");
    }
}

struct Run {
    conversation: Conversation,
    settings: Settings,
    telemetry: Telemetry,
    out: Vec<Transaction>,
    /// Bytes of detail that have left.
    details: usize,
    now: Nanos,
    /// Bytes of each direction that are still to come.
    backlog: [Vec<u8>; 2],
    /// Length of the two streams so far.
    length: u64,
    one_by_one: bool,
    /// Something was not decoded, if only for a while.
    ignored: bool,
}

impl Run {
    fn new(settings: Settings, one_by_one: bool) -> Self {
        Self {
            conversation: Conversation::new(settings),
            settings,
            telemetry: Telemetry::default(),
            out: Vec::new(),
            details: 0,
            now: 0,
            backlog: [Vec::new(), Vec::new()],
            length: 0,
            one_by_one,
            ignored: false,
        }
    }

    fn play(&mut self, mut choices: Choices<'_>) {
        while !choices.is_empty() {
            let step = choices.byte();
            let side = if step & 1 == 0 {
                Side::Request
            } else {
                Side::Reply
            };
            let phrases = phrases(self.settings.protocol, side);
            match step >> 1 & 7 {
                // A message, in one piece with what is still to come.
                0 | 1 => {
                    let phrase = phrases[usize::from(step >> 4) % phrases.len()];
                    self.backlog[side as usize].extend_from_slice(phrase.as_bytes());
                    self.send(side, usize::MAX);
                }
                // One of all messages, of which only a part comes.
                2 | 3 => {
                    let phrase = phrases[usize::from(choices.byte()) % phrases.len()];
                    self.backlog[side as usize].extend_from_slice(phrase.as_bytes());
                    self.send(side, usize::from(step >> 4) * 3);
                }
                4 => {
                    let bytes = choices.bytes(usize::from(step >> 4));
                    self.backlog[side as usize].extend_from_slice(bytes);
                    self.send(side, usize::MAX);
                }
                // A gap: of bytes still to come first.
                5 => {
                    let length = u64::from(choices.byte()) + 1;
                    let backlog = &mut self.backlog[side as usize];
                    let known = backlog.len().min(length as usize);
                    backlog.drain(..known);
                    let reason = Skipped::Missing;
                    self.segment(side, Content::Gap { length, reason }, true);
                }
                6 => {
                    self.now += Nanos::from(choices.byte()) * STEP;
                    self.conversation.tick(
                        self.now,
                        &self.telemetry,
                        &mut keep(&mut self.out, &mut self.details),
                    );
                }
                _ if step >> 4 == 0 => self.segment(side, Content::Break, true),
                _ => self.send(side, usize::from(step >> 4)),
            }
            self.now += STEP;
        }
        self.finish();
    }

    /// Sends up to `most` bytes of what is still to come.
    fn send(&mut self, side: Side, most: usize) {
        let backlog = &mut self.backlog[side as usize];
        let piece: Vec<u8> = backlog.drain(..most.min(backlog.len())).collect();
        let size = if self.one_by_one {
            1
        } else {
            piece.len().max(1)
        };
        for (index, piece) in piece.chunks(size).enumerate() {
            self.segment(side, Content::Bytes(piece), index == 0);
        }
    }

    fn segment(&mut self, side: Side, content: Content<'_>, call_start: bool) {
        self.length += match content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Gap { length, .. } => length,
            Content::Break | Content::Dropped { .. } => 0,
        };
        let segment = Segment {
            side,
            started: self.now,
            time: self.now + STEP / 10,
            task: None,
            call_start,
            position: 0,
            content,
        };
        self.conversation.segment(
            &segment,
            &self.telemetry,
            &mut keep(&mut self.out, &mut self.details),
        );
        self.ignored |= self.conversation.ignored().is_some();
    }

    fn finish(&mut self) {
        self.conversation.close(
            Ending::Unanswered,
            self.now,
            &self.telemetry,
            &mut keep(&mut self.out, &mut self.details),
        );
        let name = |(operation, start): (Operation, Nanos)| (operation.name().to_owned(), start);
        let mut decoded: Vec<_> = self.conversation.ledger.iter().copied().map(name).collect();
        let of = |t: &Transaction| name((t.request.operation, t.start));
        let mut ended: Vec<_> = self.out.iter().map(of).collect();
        decoded.sort_unstable();
        ended.sort_unstable();
        assert_eq!(decoded, ended, "requests decoded, and requests ended");
        for transaction in &self.out {
            assert!(transaction.end >= transaction.start);
            assert_eq!(transaction.protocol, self.settings.protocol);
            let silent = transaction.outcome == Outcome::default();
            // A later answer tells what a quiet request did that was not answered.
            let quiet = matches!(transaction.request.answer, Answer::Quiet(_));
            let told = transaction.ending == Ending::NoReply && quiet;
            assert!(transaction.ending == Ending::Replied || told || silent);
            let redis = self.settings.protocol == Protocol::Redis;
            assert!(redis || transaction.database.is_none());
        }
        self.conversation.left(self.details);
        assert_eq!(self.conversation.details(), 0, "details that have not left");
        let ledger = &self.telemetry.ledger;
        let left_out = [LeftOut::Replication, LeftOut::Unproven]
            .map(|reason| self.telemetry.left_out(reason).get());
        assert_eq!(
            ledger.requests.get(),
            self.out.len() as u64 + left_out.iter().sum::<u64>(),
            "requests"
        );
        let skipped = Skipped::ALL
            .iter()
            .map(|reason| self.telemetry.skipped(*reason).get());
        assert_eq!(
            ledger.decoded.get() + skipped.sum::<u64>(),
            self.length,
            "bytes decoded and skipped, and bytes that came"
        );
        let lost = self.telemetry.lost_bytes.get();
        assert!(lost <= self.length, "{lost} of {} lost", self.length);
    }
}

fn keep(out: &mut Vec<Transaction>, details: &mut usize) -> impl FnMut(Exchange) {
    |exchange| {
        let transactions = exchange.transactions();
        let several = matches!(exchange, Exchange::Batch(_));
        assert_eq!(several, transactions.len() > 1, "{exchange:?}");
        *details += exchange.detail_memory();
        out.extend_from_slice(transactions);
    }
}

/// Messages as they are met, those that change a connection's state first.
fn phrases(protocol: Protocol, side: Side) -> &'static [&'static str] {
    match (protocol, side) {
        (Protocol::Redis, Side::Request) => &[
            "*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
            "PING\r\n",
            "MULTI\r\n",
            "EXEC\r\n",
            "DISCARD\r\n",
            "SUBSCRIBE a b\r\n",
            "UNSUBSCRIBE\r\n",
            "MGET a b c\r\n",
            "SELECT 3\r\n",
            "CLIENT REPLY SKIP\r\n",
            "CLIENT REPLY OFF\r\n",
            "CLIENT REPLY ON\r\n",
            "*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$40\r\n0123456789012345678901234567890123456789\r\n",
            "RESET\r\n",
            "HELLO 3\r\n",
            "MONITOR\r\n",
            "QUIT\r\n",
            "WATCH a\r\n",
            "AUTH u secret\r\n",
            "DEL a b\r\n",
            "INCR n\r\n",
            "BLPOP q 0\r\n",
            "PUBLISH a hi\r\n",
            "NOSUCH x\r\n",
            "GET / HTTP/1.1\r\n",
            "\x16\x03\x01\x02",
            "*0\r\n",
            "*1\r\n$4\r\nEXEC\r\n",
            "PSYNC ? -1\r\n",
            "TTL a\r\n",
            "PSUBSCRIBE *\r\n",
            "SELECT 99\r\nGET a\r\nGET b\r\n",
        ],
        (Protocol::Redis, Side::Reply) => &[
            "+OK\r\n",
            "$-1\r\n",
            "$5\r\nhello\r\n",
            "+QUEUED\r\n",
            "*2\r\n$-1\r\n+OK\r\n",
            "*3\r\n$1\r\nx\r\n$-1\r\n$-1\r\n",
            "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
            ":1\r\n",
            "-ERR no\r\n",
            "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n",
            ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n",
            "*-1\r\n",
            "*0\r\n",
            "+PONG\r\n",
            "_\r\n",
            "-MOVED 5 10.0.0.8:6380\r\n",
            "-EXECABORT x\r\n",
            "+RESET\r\n",
            "%1\r\n+server\r\n+redis\r\n",
            "$60\r\n012345678901234567890123456789012345678901234567890123456789\r\n",
            "|1\r\n+ttl\r\n:5\r\n+OK\r\n",
            "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n",
            "-LOADING\r\n",
            "*?\r\n:1\r\n.\r\n",
            "*1\r\n*1\r\n-ERR x\r\n",
            "+1 [0 127.0.0.1:1] \"get\" \"a\"\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n",
            ":-2\r\n",
        ],
        (Protocol::Memcached, Side::Request) => &[
            "get a\r\n",
            "get a b c\r\n",
            "set a 0 0 5\r\nhello\r\n",
            "set a 0 0 5 noreply\r\nhello\r\n",
            "delete a\r\n",
            "incr a 1\r\n",
            "touch a 5\r\n",
            "gets a\r\n",
            "cas a 0 0 1 7\r\nx\r\n",
            "version\r\n",
            "stats\r\n",
            "quit\r\n",
            "verbosity 1 noreply\r\n",
            "flush_all\r\n",
            "nosuch\r\n",
            "mg a v\r\n",
            "watch\r\n",
            "gat 5 a b\r\n",
            "set a 0 60 30\r\n012345678901234567890123456789\r\n",
            "mn\r\n",
            "mg a v q\r\n",
            "mg b v q O1\r\n",
            "mg c q k\r\n",
            "ms a 1 q\r\nx\r\n",
            "ms b 1 O2\r\nx\r\n",
            "md a q\r\n",
            "ma a q v\r\n",
            "ma a q N0\r\n",
            "me a\r\n",
            "mg a v q O1\r\nmg b v q O2\r\nmg c v q k\r\nmn\r\n",
        ],
        (Protocol::Memcached, Side::Reply) => &[
            "END\r\n",
            "VALUE a 0 5\r\nhello\r\nEND\r\n",
            "STORED\r\n",
            "DELETED\r\n",
            "NOT_FOUND\r\n",
            "5\r\n",
            "TOUCHED\r\n",
            "VALUE a 0 5\r\nhello\r\nVALUE b 0 0\r\n\r\nEND\r\n",
            "OK\r\n",
            "VERSION 1.6.18\r\n",
            "STAT a b\r\nEND\r\n",
            "ERROR\r\n",
            "SERVER_ERROR out of memory\r\n",
            "EXISTS\r\n",
            "VALUE a 0 2 7\r\nhi\r\nEND\r\n",
            "NOT_STORED\r\n",
            "HD\r\n",
            "MN\r\n",
            "EN\r\n",
            "VA 1\r\nx\r\n",
            "VA 1 O1\r\nx\r\n",
            "HD kc\r\n",
            "EN O2\r\n",
            "NS\r\n",
            "NF\r\n",
            "EX O2\r\n",
            "ME a exp=-1\r\n",
            "CLIENT_ERROR unauthenticated\r\n",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fuzz::corpus;

    #[test]
    fn the_corpus_holds() {
        corpus("matcher").for_each(|input| matcher(&input));
    }
}
