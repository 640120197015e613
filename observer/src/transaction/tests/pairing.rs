//! A client and a server whose replies tell which request they answer, seen through a lossy observer: whatever is lost,
//! cut, swapped or joined late, no reply is ever given to another request.

use std::collections::{HashMap, VecDeque};

use super::*;
use crate::protocol::Outcome;

/// Enough of a random generator: xorshift64*.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn array(words: &[&str]) -> String {
    let bulk = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
    format!(
        "*{}\r\n{}",
        words.len(),
        words.iter().map(bulk).collect::<String>()
    )
}

/// An error's prefix, with the digits of the number as letters.
fn error(number: usize) -> String {
    let letter = |digit: u8| char::from(digit - b'0' + b'A');
    number.to_string().bytes().map(letter).collect()
}

/// What one command says on the wire. Its key is its number, and so is the size of its value.
struct Command {
    request: String,
    reply: String,
    /// Inside MULTI: the reply is an element of EXEC's.
    queued: bool,
}

impl Command {
    fn get(number: usize, random: &mut Random, queued: bool) -> Self {
        let key = format!("key:{number}");
        let size = match random.below(8) {
            0 => 3_000 + number,
            _ => number,
        };
        let value = "\r".repeat(size);
        let (words, reply) = match random.below(6) {
            0 => (vec!["GET", &key], "$-1\r\n".to_owned()),
            1 => (
                vec!["HMGET", &key, "f", "g"],
                format!("*2\r\n${size}\r\n{value}\r\n$-1\r\n"),
            ),
            2 => (vec!["SET", &key, &value], "+OK\r\n".to_owned()),
            3 => (vec!["LLEN", &key], format!("-{} x\r\n", error(number))),
            4 => (vec!["SMEMBERS", &key], array(&[&value])),
            _ => (vec!["GET", &key], format!("${size}\r\n{value}\r\n")),
        };
        Self {
            request: array(&words),
            reply,
            queued,
        }
    }
}

/// The conversation: commands, some in transactions, with a push here and there.
fn commands(random: &mut Random) -> Vec<Command> {
    let mut all = Vec::new();
    let count = 1 + random.below(60);
    while all.len() < count {
        if !random.one_in(8) {
            all.push(Command::get(all.len() + 1, random, false));
            continue;
        }
        let plain = |request: &[&str], reply: String| Command {
            request: array(request),
            reply,
            queued: false,
        };
        all.push(plain(&["MULTI"], "+OK\r\n".to_owned()));
        let size = random.below(4);
        let mut elements = String::new();
        for _ in 0..size {
            let command = Command::get(all.len() + 1, random, true);
            elements.push_str(&command.reply);
            all.push(command);
        }
        all.push(plain(&["EXEC"], format!("*{size}\r\n{elements}")));
    }
    all
}

/// What a key's transaction must say when it says anything.
fn truth(commands: &[Command]) -> HashMap<String, Outcome> {
    let mut truth = HashMap::new();
    for command in commands {
        let mut bench = Bench::redis();
        bench.send(&command.request).receive(&command.reply);
        for transaction in bench.out {
            if let Some(key) = key(&transaction) {
                truth.insert(key, transaction.outcome);
            }
        }
    }
    truth
}

pub(super) fn key(transaction: &Transaction) -> Option<String> {
    let detail = transaction.request.detail.as_deref()?;
    detail.keys.first().cloned()
}

/// One call on the wire, as the observer would see it.
pub(super) struct Call {
    pub(super) side: Side,
    pub(super) bytes: Vec<u8>,
    /// Nothing is outstanding, and nothing happens for a while before it.
    pub(super) quiet: bool,
}

/// Plays the conversation: the client sends ahead of replies as it likes, the server answers what it has.
fn calls(commands: &[Command], random: &mut Random) -> Vec<Call> {
    let pipelined = !random.one_in(3);
    let mut calls = Vec::new();
    let mut next = 0;
    let mut unanswered = VecDeque::new();
    while next < commands.len() || !unanswered.is_empty() {
        let drained = unanswered.is_empty();
        if next < commands.len() && (drained || (pipelined && random.one_in(2))) {
            let size = if pipelined { 1 + random.below(5) } else { 1 };
            let sent = &commands[next..commands.len().min(next + size)];
            next += sent.len();
            let bytes: String = sent.iter().map(|one| one.request.as_str()).collect();
            unanswered.extend(sent);
            for (index, piece) in pieces(bytes.as_bytes(), random).into_iter().enumerate() {
                calls.push(Call {
                    side: Side::Request,
                    bytes: piece,
                    quiet: index == 0 && drained && random.one_in(4),
                });
            }
        } else {
            let count = 1 + random.below(unanswered.len());
            let mut bytes = String::new();
            for command in unanswered.drain(..count) {
                if random.one_in(12) {
                    bytes.push_str(">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n");
                }
                bytes.push_str(if command.queued {
                    "+QUEUED\r\n"
                } else {
                    &command.reply
                });
            }
            for bytes in pieces(bytes.as_bytes(), random) {
                calls.push(Call {
                    side: Side::Reply,
                    bytes,
                    quiet: false,
                });
            }
        }
    }
    calls
}

pub(super) fn pieces(mut bytes: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let size = match random.below(3) {
            0 => bytes.len(),
            1 => 1 + random.below(20),
            _ => 1 + random.below(bytes.len()),
        };
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        pieces.push(piece.to_vec());
        bytes = rest;
    }
    pieces
}

/// How well the observer sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sight {
    /// All of it.
    Whole,
    /// A reply may be reported before its request.
    Swapped,
    /// Calls and parts of calls are missing.
    Lossy,
    /// From somewhere in the middle on.
    Late,
}

pub(super) fn observe(
    protocol: Protocol,
    mut calls: Vec<Call>,
    sight: Sight,
    random: &mut Random,
) -> Bench {
    let mut bench = match sight {
        Sight::Late => {
            let first = random.below(calls.len());
            calls.drain(..first);
            Bench::new(protocol, false)
        }
        _ => Bench::new(protocol, true),
    };
    if sight == Sight::Swapped {
        for index in 1..calls.len() {
            let (before, after) = (calls[index - 1].side, calls[index].side);
            if before == Side::Request && after == Side::Reply && random.one_in(3) {
                calls.swap(index - 1, index);
            }
        }
    }
    for call in calls {
        if call.quiet {
            bench.wait(15 * MS);
        }
        let length = call.bytes.len();
        let kept = match random.below(10) {
            0 if sight == Sight::Lossy => 0,
            1 if sight == Sight::Lossy => random.below(length),
            _ => length,
        };
        if kept > 0 {
            bench.content(call.side, Content::Bytes(&call.bytes[..kept]));
        }
        if kept < length {
            bench.gap(call.side, (length - kept) as u64);
        }
    }
    bench.wait(15 * MS).close();
    bench
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_reply_is_given_to_another_request(
        seed in 1_u64..,
        sight in prop_oneof![Just(Sight::Whole), Just(Sight::Swapped), Just(Sight::Lossy), Just(Sight::Late)],
    ) {
        let mut random = Random(seed);
        let commands = commands(&mut random);
        let truth = truth(&commands);
        let calls = calls(&commands, &mut random);
        let bench = observe(Protocol::Redis, calls, sight, &mut random);

        let mut told = HashMap::new();
        for transaction in &bench.out {
            let Some(key) = key(transaction) else { continue };
            prop_assert!(told.insert(key.clone(), transaction.ending).is_none(), "{} twice", key);
            if transaction.ending == Ending::Replied {
                let text = &transaction.request.detail.as_ref().unwrap().text;
                prop_assert_eq!(&transaction.outcome, &truth[&key], "{}", text);
            }
        }
        if matches!(sight, Sight::Whole | Sight::Swapped) {
            prop_assert_eq!(told.len(), truth.len());
            prop_assert_eq!(bench.out.len(), commands.len());
            // What EXEC's reply says of each command is lost when it is reported before EXEC.
            let queued = |key: &String| {
                commands.iter().any(|one| one.queued && one.request.contains(&format!("\r\n{key}\r\n")))
            };
            let unresolved = told.iter().filter(|(_, ending)| **ending != Ending::Replied);
            for (key, ending) in unresolved {
                prop_assert_eq!(*ending, Ending::Unresolved);
                prop_assert!(sight == Sight::Swapped && queued(key), "{}", key);
            }
            prop_assert_eq!(bench.telemetry.orphaned.get(), 0);
        }
    }
}

#[test]
fn a_pipeline_of_ten_thousand_one_of_which_fails() {
    const DEPTH: usize = 10_000;
    let requests: String = (0..DEPTH)
        .map(|number| array(&["GET", &format!("key:{number}")]))
        .collect();
    let replies: String = (0..DEPTH)
        .map(|number| match number {
            7_000 => "-LOADING no\r\n".to_owned(),
            number => array(&[&"v".repeat(number % 50)])[4..].to_owned(),
        })
        .collect();
    for piece in [usize::MAX, 4096, 1] {
        let mut bench = Bench::redis();
        bench.send(&requests);
        for bytes in replies.as_bytes().chunks(piece.min(replies.len())) {
            bench.content(Side::Reply, Content::Bytes(bytes));
        }
        assert_eq!(bench.batches, [(BatchKind::Pipeline, DEPTH)]);
        for (number, transaction) in bench.out.iter().enumerate() {
            assert_eq!(key(transaction).unwrap(), format!("key:{number}"));
            let outcome = &transaction.outcome;
            if number == 7_000 {
                assert_eq!(outcome.error.unwrap().as_str(), "LOADING");
            } else {
                assert_eq!(outcome.value_size, Some(number as u64 % 50));
            }
        }
    }
}

#[test]
fn what_was_sent_before_missing_requests_is_still_paired() {
    let mut bench = Bench::redis();
    bench
        .send(&(array(&["GET", "a"]) + &array(&["GET", "b"]) + "*2\r\n$3\r\nGE"))
        .gap(Side::Request, 1_000)
        .receive("$1\r\nx\r\n")
        .send(&array(&["GET", "lost"]))
        .receive("-ERR no\r\n$5\r\nother\r\n")
        .send(&array(&["GET", "c"]))
        .receive("$-1\r\n")
        .wait(20 * MS);
    assert_eq!(bench.told(), ["GET a +1", "GET b !ERR", "GET c -1"]);
    assert_eq!(bench.resyncs(Resync::Gap), 1);
    assert_eq!(bench.telemetry.orphaned.get(), 0);
}

#[test]
fn a_value_that_looks_like_a_read_is_none() {
    let mut bench = Bench::joined();
    bench
        .send(&array(&["GET", "secret"]))
        .receive("+OK\r\n")
        .wait(20 * MS)
        .close();
    assert_eq!(bench.told(), ["GET secret ?"]);
}
