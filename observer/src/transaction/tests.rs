//! Conversations as they are met in practice: what must be paired, and what must never be.

mod connection;
mod pairing;
mod quiet;
mod window;
mod work;

use super::conversation::{Conversation, Settings};
use super::{BatchKind, Ending, Exchange, Transaction};
use crate::protocol::Protocol;
use crate::source::event::{End, Nanos};
use crate::stream::{Content, Segment, Side};
use crate::telemetry::{Resync, Skipped, Telemetry};
use proptest::prelude::*;

const MS: Nanos = 1_000_000;

/// A conversation under test, and what came out of it.
struct Bench {
    conversation: Conversation,
    telemetry: Telemetry,
    out: Vec<Transaction>,
    /// Kind and size of each batch.
    batches: Vec<(BatchKind, usize)>,
    now: Nanos,
    /// Position of the next request byte, and of the next reply byte.
    next: [u32; 2],
}

/// Takes in what comes out.
fn take(out: &mut Vec<Transaction>, batches: &mut Vec<(BatchKind, usize)>) -> impl FnMut(Exchange) {
    |exchange| match exchange {
        Exchange::One(transaction) => out.push(transaction),
        Exchange::Batch(batch) => {
            batches.push((batch.kind, batch.transactions.len()));
            out.extend(batch.transactions);
        }
        Exchange::Life(_) => unreachable!("no command"),
    }
}

impl Bench {
    fn new(protocol: Protocol, from_start: bool) -> Self {
        Self {
            conversation: Conversation::new(Settings {
                protocol,
                end: End::Client,
                from_start,
                keep_detail: true,
            }),
            telemetry: Telemetry::default(),
            out: Vec::new(),
            batches: Vec::new(),
            now: 0,
            // Positions wrap.
            next: [u32::MAX - 20, 7],
        }
    }

    fn redis() -> Self {
        Self::new(Protocol::Redis, true)
    }

    fn joined() -> Self {
        Self::new(Protocol::Redis, false)
    }

    fn content(&mut self, side: Side, content: Content<'_>) -> &mut Self {
        self.now += MS / 10;
        let next = &mut self.next[side as usize];
        let position = *next;
        *next = next.wrapping_add(match content {
            Content::Bytes(bytes) => bytes.len() as u32,
            Content::Gap { length, .. } => length as u32,
            Content::Break | Content::Dropped { .. } => 0,
        });
        let segment = Segment {
            side,
            started: self.now,
            time: self.now,
            task: None,
            call_start: true,
            position,
            content,
        };
        self.conversation.segment(
            &segment,
            &self.telemetry,
            &mut take(&mut self.out, &mut self.batches),
        );
        self
    }

    fn send(&mut self, text: &str) -> &mut Self {
        self.content(Side::Request, Content::Bytes(text.as_bytes()))
    }

    fn receive(&mut self, text: &str) -> &mut Self {
        self.content(Side::Reply, Content::Bytes(text.as_bytes()))
    }

    fn gap(&mut self, side: Side, length: u64) -> &mut Self {
        let reason = Skipped::Missing;
        self.content(side, Content::Gap { length, reason })
    }

    fn wait(&mut self, time: Nanos) -> &mut Self {
        self.now += time;
        self.conversation.tick(
            self.now,
            &self.telemetry,
            &mut take(&mut self.out, &mut self.batches),
        );
        self
    }

    fn close(&mut self) -> &mut Self {
        self.conversation.close(
            Ending::Unanswered,
            self.now,
            &self.telemetry,
            &mut take(&mut self.out, &mut self.batches),
        );
        self
    }

    /// One word a transaction: query text, then `+` hits `-` misses, `!` error, `?` unresolved, `x` unanswered, `~` no reply.
    fn told(&self) -> Vec<String> {
        let word = |t: &Transaction| {
            let text = t.request.detail.as_ref().map_or("", |d| d.text.as_str());
            let mut word = text.to_owned();
            word.push_str(match t.ending {
                Ending::Replied => "",
                Ending::NoReply => " ~",
                Ending::Unanswered => " x",
                Ending::Unresolved => " ?",
                Ending::NotExecuted => " /",
            });
            if t.outcome.hits > 0 {
                word.push_str(&format!(" +{}", t.outcome.hits));
            }
            if t.outcome.misses > 0 {
                word.push_str(&format!(" -{}", t.outcome.misses));
            }
            if let Some(error) = t.outcome.error {
                word.push_str(&format!(" !{}", error.as_str()));
            }
            word
        };
        self.out.iter().map(word).collect()
    }

    fn resyncs(&self, reason: Resync) -> u64 {
        self.telemetry.resyncs(Protocol::Redis, reason).get()
    }
}

#[test]
fn pairs_in_order() {
    let mut bench = Bench::redis();
    bench
        .send("*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n")
        .receive("$-1\r\n$1")
        .receive("\r\nx\r\n")
        .send("GET c\r\n")
        .receive("-WRONGTYPE no\r\n");
    assert_eq!(bench.told(), ["GET a -1", "GET b +1", "GET c !WRONGTYPE"]);
    assert_eq!(bench.out[1].outcome.value_size, Some(1));
    assert!(bench.out[0].end < bench.out[1].end);
    assert_eq!(bench.telemetry.lost_bytes.get(), 0);
}

#[test]
fn a_reply_may_be_reported_before_its_request() {
    let mut bench = Bench::redis();
    bench.send("PING\r\n").receive("+PONG\r\n");
    bench.receive("$-1\r\n").send("GET a\r\n");
    assert_eq!(bench.told(), ["PING", "GET a -1"]);
    assert_eq!(bench.telemetry.orphaned.get(), 0);
}

#[test]
fn a_reply_without_a_request_is_counted_and_nothing_is_guessed() {
    let mut bench = Bench::redis();
    bench.send("PING\r\n").receive("+PONG\r\n+OK\r\n");
    bench.wait(30 * MS);
    assert_eq!(bench.resyncs(Resync::Orphan), 1);
    assert_eq!(bench.telemetry.orphaned.get(), 1);
    bench
        .send("*2\r\n$3\r\nGET\r\n$1\r\na\r\n")
        .receive("$-1\r\n")
        .wait(20 * MS);
    assert_eq!(bench.told(), ["PING", "GET a -1"]);
}

#[test]
fn select_counts_only_when_it_succeeds() {
    let mut bench = Bench::redis();
    bench.send("SELECT 3\r\n").receive("+OK\r\n");
    bench
        .send("SELECT 99\r\n")
        .receive("-ERR DB index is out of range\r\n");
    bench.send("GET a\r\nSELECT 1\r\nGET a\r\n");
    bench.receive("$-1\r\n+OK\r\n$-1\r\n");
    let databases: Vec<_> = bench.out.iter().map(|t| t.database).collect();
    assert_eq!(databases, [3, 3, 3, 1, 1].map(Some));
}

#[test]
fn queued_commands_get_their_outcome_from_exec() {
    let mut bench = Bench::redis();
    bench.send("MULTI\r\n").receive("+OK\r\n");
    bench.send("GET a\r\n").receive("+QUEUED\r\n");
    bench
        .send("SELECT 2\r\nLPUSH a x\r\nGET b\r\n")
        .receive("+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
    assert!(bench.out.is_empty());
    bench
        .send("EXEC\r\nGET c\r\n")
        .receive("*4\r\n$-1\r\n+OK\r\n-WRONGTYPE x\r\n$1")
        .receive("\r\nx\r\n$-1\r\n");
    let told = [
        "MULTI",
        "GET a -1",
        "SELECT 2",
        "LPUSH a ? !WRONGTYPE",
        "GET b +1",
        "EXEC",
        "GET c -1",
    ];
    assert_eq!(bench.told(), told);
    assert_eq!(bench.batches, [(BatchKind::Transaction, 6)]);
    let databases: Vec<_> = bench.out.iter().map(|t| t.database).collect();
    assert_eq!(databases, [0, 0, 2, 2, 2, 2, 2].map(Some));
}

#[test]
fn what_multi_queued_may_never_run() {
    for (end, reply, exec) in [
        ("DISCARD\r\n", "+OK\r\n", "DISCARD"),
        ("EXEC\r\n", "*-1\r\n", "EXEC"),
        ("EXEC\r\n", "_\r\n", "EXEC"),
        ("EXEC\r\n", "-EXECABORT x\r\n", "EXEC !EXECABORT"),
    ] {
        let mut bench = Bench::redis();
        bench
            .send("MULTI\r\nGET a\r\nSELECT 3\r\n")
            .receive("+OK\r\n+QUEUED\r\n+QUEUED\r\n");
        bench.send(end).receive(reply);
        bench.send("GET b\r\n").receive("$-1\r\n");
        assert_eq!(
            bench.told(),
            ["MULTI", "GET a /", "SELECT 3 /", exec, "GET b -1"]
        );
        assert_eq!(bench.out[4].database, Some(0));
    }
}

#[test]
fn a_transaction_of_another_size_is_no_pairing() {
    let mut bench = Bench::redis();
    bench
        .send("MULTI\r\nGET a\r\nEXEC\r\n")
        .receive("+OK\r\n+QUEUED\r\n*2\r\n$-1\r\n$-1\r\n");
    assert_eq!(bench.told(), ["MULTI", "GET a ?", "EXEC ?"]);
    assert_eq!(bench.resyncs(Resync::Mismatch), 1);
}

#[test]
fn commands_that_left_together() {
    let mut bench = Bench::redis();
    // Alone; then a batch that goes on in the next send; then alone again.
    bench.send("GET a\r\n").receive("$-1\r\n");
    bench
        .send("GET b\r\nGET c\r\n")
        .send("GET d\r\n")
        .receive("$-1\r\n$-1\r\n")
        .send("GET e\r\n")
        .receive("$-1\r\n$-1\r\n");
    assert_eq!(bench.batches, [(BatchKind::Pipeline, 3)]);
    let told = ["GET a -1", "GET b -1", "GET c -1", "GET d -1", "GET e -1"];
    assert_eq!(bench.told(), told);
    // One send each: no batch, however many are outstanding.
    let mut bench = Bench::redis();
    bench
        .send("GET a\r\n")
        .send("GET b\r\n")
        .receive("$-1\r\n$-1\r\n");
    assert_eq!(bench.batches, []);
    // A transaction inside a pipeline is a batch of its own.
    let mut bench = Bench::redis();
    bench
        .send("GET a\r\nGET b\r\nMULTI\r\nGET c\r\nEXEC\r\nGET d\r\n")
        .receive("$-1\r\n$-1\r\n+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n$-1\r\n");
    assert_eq!(
        bench.batches,
        [(BatchKind::Pipeline, 2), (BatchKind::Transaction, 3)]
    );
    assert_eq!(bench.out.len(), 6);
}

#[test]
fn a_batch_without_replies_is_complete_after_a_silence() {
    let mut bench = Bench::new(Protocol::Memcached, true);
    bench.send("set a 0 0 1 noreply\r\nx\r\nset b 0 0 1 noreply\r\ny\r\n");
    assert!(bench.out.is_empty());
    bench.wait(20 * MS);
    assert_eq!(bench.batches, [(BatchKind::Pipeline, 2)]);
    assert!(bench.out.iter().all(|t| t.ending == Ending::NoReply));
}

#[test]
fn client_reply_modes() {
    let mut bench = Bench::redis();
    bench
        .send("CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\n")
        .receive("$1\r\n1\r\n");
    bench.send("CLIENT REPLY OFF\r\nSET a 2\r\nSET a 3\r\n");
    bench.send("CLIENT REPLY ON\r\n").receive("+OK\r\n");
    bench.send("GET a\r\n").receive("$1\r\n3\r\n");
    let endings: String = bench
        .out
        .iter()
        .map(|t| {
            if t.ending == Ending::NoReply {
                '~'
            } else {
                '.'
            }
        })
        .collect();
    assert_eq!(endings, "~~.~~~..");
}

#[test]
fn subscriptions_and_messages() {
    let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n";
    let confirm =
        |channel: &str, n: u32| format!("*3\r\n$9\r\nsubscribe\r\n$1\r\n{channel}\r\n:{n}\r\n");
    let mut bench = Bench::redis();
    bench
        .send("SUBSCRIBE a b\r\n")
        .receive(&confirm("a", 1))
        .receive(message)
        .receive(&confirm("b", 2))
        .receive(message)
        .send("PING\r\n")
        .receive("*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert_eq!(bench.out.len(), 2);
    assert_eq!(bench.telemetry.pushes.get(), 2);
    // RESP3 says what is a push.
    let mut bench = Bench::redis();
    bench
        .send("SUBSCRIBE a\r\nGET x\r\n")
        .receive(">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
        .receive(">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n_\r\n");
    assert_eq!(bench.out.len(), 2);
    assert_eq!(bench.told()[1], "GET x -1");
}

#[test]
fn truncated_values_keep_the_connection_in_step() {
    let mut bench = Bench::redis();
    bench
        .send("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000\r\nxxxx")
        .gap(Side::Request, 998)
        .receive("+OK\r\n")
        .send("GET a\r\n")
        .receive("$1000\r\nxx")
        .gap(Side::Reply, 1000)
        .send("GET b\r\n")
        .receive("$-1\r\n");
    assert_eq!(bench.told()[1..], ["GET a +1", "GET b -1"]);
    assert_eq!(bench.out[0].request.value_size, Some(1000));
    assert_eq!(bench.out[1].outcome.value_size, Some(1000));
    assert_eq!(bench.telemetry.lost_bytes.get(), 0);
}

#[test]
fn a_gap_that_breaks_framing_resynchronises() {
    let mut bench = Bench::redis();
    bench
        .send("*2\r\n$3\r\nGET\r\n$1\r\na\r\n")
        .gap(Side::Request, 30)
        .send("*2\r\n$3\r\nGET\r\n$1\r\nb\r\n");
    assert_eq!(bench.resyncs(Resync::Gap), 1);
    // Three replies are still to come; only the first may be paired.
    bench.receive("$1\r\n1\r\n").receive("$1\r\n2\r\n");
    bench
        .send("*2\r\n$3\r\nGET\r\n$1\r\nc\r\n")
        .receive("$1\r\n3\r\n$-1\r\n");
    bench.wait(30 * MS);
    bench
        .send("*2\r\n$3\r\nGET\r\n$1\r\nd\r\n")
        .receive("$-1\r\n")
        .wait(30 * MS);
    assert_eq!(bench.told(), ["GET a +1", "GET c ?", "GET d -1"]);
}

#[test]
fn joining_between_requests() {
    let mut bench = Bench::joined();
    for _ in 0..3 {
        bench
            .send("*2\r\n$3\r\nGET\r\n$1\r\na\r\n")
            .receive("$-1\r\n");
    }
    assert!(bench.out.is_empty());
    bench.wait(20 * MS);
    assert_eq!(bench.told(), ["GET a -1"; 3]);
}

#[test]
fn joining_behind_outstanding_requests_is_never_off_by_one() {
    let mut bench = Bench::joined();
    // The reply to a request that was sent before we came.
    bench
        .send("*2\r\n$3\r\nGET\r\n$1\r\nb\r\n")
        .receive("$1\r\n1\r\n")
        .receive("$-1\r\n");
    bench.wait(30 * MS);
    bench
        .send("*2\r\n$3\r\nGET\r\n$1\r\nc\r\n")
        .receive("$-1\r\n")
        .wait(30 * MS);
    assert_eq!(bench.told(), ["GET b ?", "GET c -1"]);
}

#[test]
fn other_protocols_are_left_alone() {
    let table: [(&str, Skipped); 3] = [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", Skipped::Foreign),
        ("\x16\x03\x01\x02\x00\x01\x00\x01", Skipped::Tls),
        ("SSH-2.0-OpenSSH_9.2\r\nEHLO x\r\n", Skipped::Foreign),
    ];
    for (first, reason) in table {
        let mut bench = Bench::redis();
        bench
            .send(first)
            .receive("HTTP/1.1 400 Bad Request\r\n")
            .send("more");
        if reason == Skipped::Tls || first.starts_with("GET") {
            assert_eq!(bench.conversation.ignored(), Some(reason), "{first}");
        }
        bench.close();
        assert!(
            bench.out.iter().all(|t| t.ending != Ending::Replied),
            "{first}: {:?}",
            bench.told()
        );
    }
}

#[test]
fn a_stream_is_not_replies() {
    let mut bench = Bench::redis();
    bench
        .send("MONITOR\r\n")
        .receive("+OK\r\n+1 [0 127.0.0.1:1] \"get\" \"a\"\r\n")
        .receive("+2 [0 127.0.0.1:1] \"get\" \"a\"\r\n");
    assert_eq!(bench.out.len(), 1);
    assert_eq!(bench.conversation.ignored(), Some(Skipped::Stream));
    assert_eq!(bench.telemetry.orphaned.get(), 0);
}

#[test]
fn what_was_withheld_when_a_stream_begins_is_not_lost() {
    let mut bench = Bench::joined();
    bench
        .send("*2\r\n$3\r\nGET\r\n$1\r\na\r\n")
        .receive("$-1\r\n");
    bench.send("MONITOR\r\n").receive("+OK\r\n");
    bench
        .receive("+1 [0 127.0.0.1:1] \"get\" \"a\"\r\n")
        .close();
    assert_eq!(bench.told(), ["GET a ?", "MONITOR ?"]);
}

#[test]
fn a_request_that_comes_when_a_reply_is_given_up_is_not_lost() {
    let mut bench = Bench::redis();
    bench.send("PING\r\n").receive("+PONG\r\n+OK\r\n");
    // Without a tick in between.
    bench.now += 30 * MS;
    bench.send("GET a\r\n");
    assert_eq!(bench.resyncs(Resync::Orphan), 1);
    assert_eq!(bench.told(), ["PING", "GET a ?"]);
}

#[test]
fn a_queued_command_with_another_s_reply_is_not_lost() {
    let mut bench = Bench::redis();
    bench.send("MULTI\r\n").receive("+OK\r\n");
    bench.send("MGET a b\r\n").receive("+QUEUED\r\n");
    bench
        .send("EXEC\r\n")
        .receive("*1\r\n*3\r\n$-1\r\n$-1\r\n$-1\r\n");
    assert_eq!(bench.resyncs(Resync::Mismatch), 1);
    assert_eq!(bench.told(), ["MULTI", "MGET a b ?", "EXEC ?"]);
}

#[test]
fn a_reply_of_the_wrong_shape_is_no_reply() {
    let mut bench = Bench::redis();
    bench
        .send("MGET a b\r\n")
        .receive("*3\r\n$-1\r\n$-1\r\n$-1\r\n");
    assert_eq!(bench.told(), ["MGET a b ?"]);
    assert_eq!(bench.resyncs(Resync::Mismatch), 1);
}

#[test]
fn what_is_outstanding_at_the_end_is_unanswered() {
    let mut bench = Bench::redis();
    bench.send("GET a\r\nGET b\r\n").receive("$-1\r\n").close();
    assert_eq!(bench.told(), ["GET a -1", "GET b x"]);
}

#[test]
fn memcached_pairs_and_noreply() {
    let mut bench = Bench::new(Protocol::Memcached, true);
    bench
        .send("set a 0 0 1 noreply\r\nx\r\nget a b\r\n")
        .receive("VALUE a 0 1\r\nx\r\nEND\r\n");
    assert_eq!(bench.out.len(), 2);
    assert_eq!(bench.out[0].ending, Ending::NoReply);
    assert_eq!(
        (bench.out[1].outcome.hits, bench.out[1].outcome.misses),
        (1, 1)
    );
}

proptest! {
    /// However the two directions are cut, and in whatever order a reply's pieces follow their request's,
    /// the same transactions come out.
    #[test]
    fn fragmentation_changes_nothing(
        cuts in proptest::collection::vec(1_usize..9, 1..200),
        lag in 0_usize..40,
    ) {
        let requests = "*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$5\r\nhello\r\n\
                        MGET a b c\r\nINCR n\r\nSELECT 2\r\nGET z\r\n";
        let replies = "$2\r\nhi\r\n+PONG\r\n+OK\r\n*3\r\n$1\r\nx\r\n$-1\r\n$-1\r\n:7\r\n+OK\r\n-ERR x\r\n";
        let mut whole = Bench::redis();
        whole.send(requests).receive(replies);
        let mut cut = Bench::redis();
        let (mut sent, mut got) = (0, 0);
        let mut sizes = cuts.iter().cycle();
        while got < replies.len() {
            let size = *sizes.next().unwrap();
            if sent < requests.len() && sent <= got + lag {
                let end = (sent + size).min(requests.len());
                cut.send(&requests[sent..end]);
                sent = end;
            } else if sent == requests.len() || sent > got + lag {
                let end = (got + size).min(replies.len());
                cut.receive(&replies[got..end]);
                got = end;
            }
        }
        cut.send(&requests[sent..]);
        prop_assert_eq!(cut.told(), whole.told());
        prop_assert_eq!(cut.out.len(), 7);
    }
}
