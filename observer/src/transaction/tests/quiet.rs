//! Requests that are answered only sometimes: who answered, who kept silent, and what cannot be known.

use std::collections::{HashMap, VecDeque};

use super::pairing::{Call, Random, Sight, key, observe, pieces};
use super::*;
use crate::protocol::Outcome;

fn bench() -> Bench {
    Bench::new(Protocol::Memcached, true)
}

fn mismatches(bench: &Bench) -> u64 {
    let resyncs = |reason| bench.telemetry.resyncs(Protocol::Memcached, reason).get();
    resyncs(Resync::Mismatch) + resyncs(Resync::Orphan)
}

#[test]
fn silence_is_told_by_a_later_answer() {
    for (requests, replies, told) in [
        (
            "mg a v q\r\nmg b v q\r\nmn\r\n",
            "MN\r\n",
            &["MG a v q ~ -1", "MG b v q ~ -1", "MN"][..],
        ),
        (
            "ms a 1 q\r\nx\r\nmd b q\r\nma c q\r\nmn\r\n",
            "MN\r\n",
            &["MS a ? q ~", "MD b q ~", "MA c q ~ +1", "MN"],
        ),
        (
            "ms a 1 q\r\nx\r\nmd b q\r\nma c q\r\nmn\r\n",
            "NS\r\nNF\r\nNF\r\nMN\r\n",
            &["MS a ? q", "MD b q", "MA c q -1", "MN"],
        ),
        // The code tells whose it is.
        (
            "mg a v q\r\nms b 1 q\r\nx\r\nmg c q\r\nmn\r\n",
            "NS\r\nMN\r\n",
            &["MG a v q ~ -1", "MS b ? q", "MG c q ~ -1", "MN"],
        ),
        // The opaque or the key tells.
        (
            "mg a v q O1\r\nmg b v q O2\r\nmg c v q O3\r\nmn\r\n",
            "VA 1 O2\r\nx\r\nMN\r\n",
            &[
                "MG a v q O? ~ -1",
                "MG b v q O? +1",
                "MG c v q O? ~ -1",
                "MN",
            ],
        ),
        (
            "mg a v q k\r\nmg b v q k\r\nmg c v q k\r\nmn\r\n",
            "VA 1 kb\r\nx\r\nVA 1 kc\r\nx\r\nMN\r\n",
            &["MG a v q k ~ -1", "MG b v q k +1", "MG c v q k +1", "MN"],
        ),
        // As many answers as requests.
        (
            "mg a v q\r\nmg b v q\r\nmg c v\r\n",
            "VA 1\r\nx\r\nVA 1\r\nx\r\nEN\r\n",
            &["MG a v q +1", "MG b v q +1", "MG c v -1"],
        ),
        // One answer for two: whose is it?
        (
            "mg a v q\r\nmg b v q\r\nmn\r\n",
            "VA 1\r\nx\r\nMN\r\n",
            &["MG a v q ?", "MG b v q ?", "MN"],
        ),
        // An error repeats nothing.
        (
            "mg a v q O1\r\nmg b v O2\r\nmg c v O3\r\n",
            "SERVER_ERROR x\r\nEN O3\r\n",
            &[
                "MG a v q O? ~ -1",
                "MG b v O? !SERVER_ERROR",
                "MG c v O? -1",
            ],
        ),
        // The same opaque twice: only the order tells.
        (
            "mg a v q O1\r\nmg b v q O1\r\nmn\r\n",
            "VA 1 O1\r\nx\r\nVA 1 O1\r\nx\r\nMN\r\n",
            &["MG a v q O? +1", "MG b v q O? +1", "MN"],
        ),
        // Classic and meta on one connection.
        (
            "mg a v q\r\nget b\r\n",
            "VA 1\r\nx\r\nEND\r\n",
            &["MG a v q +1", "GET b -1"],
        ),
    ] {
        for pieces in [1, 7, 1000] {
            let mut bench = bench();
            bench.send(requests);
            for piece in replies.as_bytes().chunks(pieces) {
                bench.content(Side::Reply, Content::Bytes(piece));
            }
            // Where only the order tells, a request could still be reported late.
            bench.wait(30 * MS);
            assert_eq!(bench.told(), told, "{requests:?} {replies:?}");
            assert_eq!(mismatches(&bench), 0);
        }
    }
}

#[test]
fn what_was_deleted_in_silence() {
    let mut bench = bench();
    bench.send("md a q\r\nmd b q O2\r\nmn\r\n");
    bench.receive("NF O2\r\nMN\r\n");
    let deleted: Vec<_> = bench.out.iter().map(|one| one.outcome.deleted).collect();
    assert_eq!(deleted, [Some(1), Some(0), None]);
    // Silence ends when it is told.
    assert_eq!(bench.out[0].end, bench.now);
}

#[test]
fn an_answer_that_more_than_one_can_have_given_waits_for_more() {
    // The loud one is of the same kind: whether the answer is its own shows when another answer comes.
    let mut bench = bench();
    bench
        .send("mg a v q\r\nmg b v\r\n")
        .receive("VA 1\r\nx\r\n");
    assert_eq!(bench.told(), Vec::<String>::new());
    bench.send("mn\r\n").receive("MN\r\n");
    assert_eq!(bench.told(), ["MG a v q ~ -1", "MG b v +1", "MN"]);
    // Both were answered.
    let mut bench = self::bench();
    bench.send("mg a v q\r\nmg b v\r\n");
    bench
        .receive("VA 1\r\nx\r\nVA 1\r\nx\r\n")
        .send("mn\r\n")
        .receive("MN\r\n");
    assert_eq!(bench.told(), ["MG a v q +1", "MG b v +1", "MN"]);
}

#[test]
fn the_end_of_the_connection() {
    let mut bench = bench();
    bench.send("mg a v q\r\nmg b v q\r\nmg c v q\r\n");
    bench.close();
    assert_eq!(bench.told(), ["MG a v q ~", "MG b v q ~", "MG c v q ~"]);
    let mut bench = self::bench();
    bench.send("mg a v q\r\nms b 1 q\r\nx\r\nmg c v q\r\n");
    bench.receive("NS\r\n").close();
    assert_eq!(bench.told(), ["MG a v q ~ -1", "MS b ? q", "MG c v q ~"]);
    let mut bench = self::bench();
    bench
        .send("mg a v q\r\nmg b v q\r\n")
        .receive("VA 1\r\nx\r\n");
    bench.close();
    assert_eq!(bench.told(), ["MG a v q ?", "MG b v q ?"]);
}

#[test]
fn an_answer_that_none_can_have_given() {
    for (requests, reply) in [
        ("mg a v q\r\nmn\r\n", "EN\r\n"),
        ("mg a v q O1\r\nmn\r\n", "VA 1 O2\r\nx\r\n"),
        ("ms a 1 q\r\nx\r\nmn\r\n", "HD\r\n"),
        ("mg a v\r\n", "MN\r\n"),
        ("mg a v O1\r\n", "EN O2\r\n"),
        ("mg a v\r\n", "EN O2\r\n"),
        ("get a\r\n", "STORED\r\n"),
        ("set a 0 0 1\r\nx\r\n", "7\r\n"),
        ("version\r\n", "VA 1\r\nx\r\n"),
    ] {
        let mut bench = bench();
        bench.send(requests).receive(reply);
        assert!(bench.out.iter().all(|one| one.ending == Ending::Unresolved));
        assert_eq!(
            (bench.out.is_empty(), mismatches(&bench)),
            (false, 1),
            "{requests:?}"
        );
    }
}

#[test]
fn a_reply_reported_before_its_request() {
    let mut bench = bench();
    bench
        .send("mg a v q\r\n")
        .receive("VA 1\r\nx\r\nMN\r\n")
        .send("mn\r\n");
    assert_eq!(bench.told(), ["MG a v q +1", "MN"]);
    // The value is that of a request which is reported late.
    let mut bench = self::bench();
    bench
        .send("mg a v q\r\n")
        .receive("VA 1\r\nx\r\n")
        .send("mg b v\r\n");
    bench.send("mn\r\n").receive("MN\r\n");
    assert_eq!(bench.told(), ["MG a v q ~ -1", "MG b v +1", "MN"]);
    // Too late for that.
    let mut bench = self::bench();
    bench
        .send("mg a v q\r\n")
        .receive("VA 1\r\nx\r\n")
        .wait(30 * MS);
    bench.send("mg b v\r\n").receive("EN\r\n");
    assert_eq!(bench.told(), ["MG a v q +1", "MG b v -1"]);
}

#[test]
fn joined_in_the_middle() {
    // The first value may be that of a request before.
    let mut bench = Bench::new(Protocol::Memcached, false);
    bench
        .send("mg a v q\r\nmn\r\n")
        .receive("VA 1\r\nx\r\nMN\r\n");
    bench.wait(15 * MS);
    assert_eq!(bench.told(), ["MG a v q ?", "MN ?"]);
    bench
        .send("mg b v q\r\nmn\r\n")
        .receive("VA 1\r\nx\r\nMN\r\n");
    assert_eq!(bench.told()[2..], ["MG b v q +1", "MN"]);
    // A tag tells.
    let mut bench = Bench::new(Protocol::Memcached, false);
    bench
        .send("mg a v q O1\r\nmg b v q\r\nmn\r\n")
        .receive("VA 1 O1\r\nx\r\nMN\r\n");
    bench.wait(15 * MS);
    assert_eq!(bench.told(), ["MG a v q O? +1", "MG b v q ~ -1", "MN"]);
}

#[test]
fn an_error_behind_a_request_with_noreply() {
    // In doubt whose it is, it is nobody's.
    let mut bench = bench();
    bench.send("get a\r\n").receive("END\r\n");
    bench.send("set a 0 0 1 noreply\r\nx\r\nget b\r\n");
    bench.receive("SERVER_ERROR object too large for cache\r\nEND\r\n");
    assert_eq!(bench.told(), ["GET a -1", "SET a 0 ? noreply ~", "GET b ?"]);
    // Not authenticated.
    let mut bench = self::bench();
    bench.send("delete a noreply\r\nget b\r\n");
    bench.receive("CLIENT_ERROR unauthenticated\r\nCLIENT_ERROR unauthenticated\r\n");
    assert_eq!(bench.told(), ["DELETE a noreply ~", "GET b ?"]);
    // A line that the server understands and refuses is refused in silence.
    let mut bench = self::bench();
    bench.send("get a\r\n").receive("END\r\n");
    bench.send("set a 0 0 1 noreply\r\nx\r\nincr a 1\r\n");
    bench.receive("CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
    assert_eq!(bench.told()[2], "INCR a ? !CLIENT_ERROR");
    assert_eq!(mismatches(&bench), 0);
}

#[test]
fn a_request_refused_before_its_end() {
    let mut bench = bench();
    bench.send("set a 0 0 10\r\n01");
    bench.receive("SERVER_ERROR object too large for cache\r\n");
    for _ in 0..5 {
        bench.wait(30 * MS).send("2");
    }
    bench
        .wait(30 * MS)
        .send("789\r\nget b\r\n")
        .receive("END\r\n");
    assert_eq!(bench.told(), ["SET a 0 ? !SERVER_ERROR", "GET b -1"]);
    assert_eq!(mismatches(&bench), 0);
}

#[test]
fn many_quiet_requests() {
    // Tagged: each is told at once. Untagged: when the last answer has come; so many that it would take too long are not.
    for (count, tagged, replies) in [
        (20_000, true, true),
        (20_000, false, false),
        (1_000, false, true),
    ] {
        let mut bench = bench();
        let tag = |number: usize| {
            if tagged {
                format!(" O{number}")
            } else {
                String::new()
            }
        };
        let requests: String = (0..count)
            .map(|n| format!("mg k{n} v q{}\r\n", tag(n)))
            .collect();
        bench.send(&(requests + "mn\r\n"));
        let answers = (0..count).filter(|_| replies);
        let answers: String = answers
            .map(|n| format!("VA 1{}\r\nx\r\n", tag(n)))
            .collect();
        bench.receive(&(answers + "MN\r\n"));
        assert_eq!(bench.out.len(), count + 1);
        let hits = bench
            .out
            .iter()
            .map(|one| one.outcome.hits as usize)
            .sum::<usize>();
        let misses = bench
            .out
            .iter()
            .map(|one| one.outcome.misses as usize)
            .sum::<usize>();
        assert_eq!(
            (hits, misses),
            if replies { (count, 0) } else { (0, count) }
        );
    }
    let mut bench = bench();
    bench
        .send(&"mg k v q\r\n".repeat(60_000))
        .receive(&"VA 1\r\nx\r\n".repeat(60_000));
    assert_eq!(bench.out.len(), 60_000);
    assert!(bench.out.iter().all(|one| one.ending == Ending::Unresolved));
}

/// What one command says on the wire. Its key is its number, and so is the size of its value.
struct Command {
    request: String,
    /// Empty where the server keeps silent.
    reply: String,
    quiet: bool,
}

/// What a conversation is made of.
#[derive(Debug, Clone, Copy)]
struct Style {
    /// Each request has an opaque or asks for its key.
    tagged: bool,
    /// Some are refused.
    errors: bool,
    /// Some have noreply.
    mutes: bool,
}

impl Command {
    fn any(number: usize, style: Style, random: &mut Random) -> Self {
        let quiet = random.one_in(2);
        let (mut flags, mut repeated) = (String::new(), String::new());
        if quiet {
            flags.push_str(" q");
        }
        if style.tagged || random.one_in(2) {
            let tag = match random.below(3) {
                0 => format!(" kk{number}"),
                1 => format!(" O{number}"),
                _ => format!(" O7 kk{number}"),
            };
            repeated.push_str(&tag);
            flags.push_str(&tag.replace(&format!(" kk{number}"), " k"));
        }
        let value = "\r".repeat(number);
        let found = random.one_in(2);
        let choose = |yes: String, no: &str, silent: bool| match (found, quiet && silent == found) {
            (_, true) => String::new(),
            (true, _) => yes,
            (false, _) => format!("{no}{repeated}\r\n"),
        };
        let value_reply = format!("VA {number}{repeated}\r\n{value}\r\n");
        let done = format!("HD{repeated}\r\n");
        let (request, mut reply) = match random.below(6) {
            0 => (
                format!("ms k{number} {number}{flags}\r\n{value}\r\n"),
                choose(done, "NS", true),
            ),
            1 => (format!("md k{number}{flags}\r\n"), choose(done, "NF", true)),
            2 => (format!("ma k{number}{flags}\r\n"), choose(done, "NF", true)),
            _ => (
                format!("mg k{number} v{flags}\r\n"),
                choose(value_reply, "EN", false),
            ),
        };
        if style.errors && random.one_in(10) {
            reply = "CLIENT_ERROR no\r\n".to_owned();
        }
        Self {
            request,
            reply,
            quiet,
        }
    }

    fn classic(number: usize, style: Style, random: &mut Random) -> Self {
        let value = "\r".repeat(number);
        let (request, reply) = match random.below(5) {
            0 if style.mutes => (
                format!("set k{number} 0 0 {number} noreply\r\n{value}\r\n"),
                String::new(),
            ),
            1 => (
                format!("set k{number} 0 0 {number}\r\n{value}\r\n"),
                "STORED\r\n".to_owned(),
            ),
            2 => (format!("get k{number}\r\n"), "END\r\n".to_owned()),
            3 => ("mn\r\n".to_owned(), "MN\r\n".to_owned()),
            _ => (
                format!("get k{number}\r\n"),
                format!("VALUE k{number} 0 {number}\r\n{value}\r\nEND\r\n"),
            ),
        };
        Self {
            request,
            reply,
            quiet: false,
        }
    }
}

fn commands(style: Style, random: &mut Random) -> Vec<Command> {
    let count = 1 + random.below(40);
    let mut all: Vec<_> = (1..=count)
        .map(|number| match random.below(4) {
            0 => Command::classic(number, style, random),
            _ => Command::any(number, style, random),
        })
        .collect();
    all.push(Command {
        request: "mn\r\n".to_owned(),
        reply: "MN\r\n".to_owned(),
        quiet: false,
    });
    all
}

/// How each key's transaction ends, and what it says.
fn truth(commands: &[Command]) -> HashMap<String, (Ending, Outcome)> {
    let mut truth = HashMap::new();
    for command in commands {
        let mut bench = bench();
        bench.send(&format!("{}mn\r\n", command.request));
        bench.receive(&format!("{}MN\r\n", command.reply));
        bench.wait(30 * MS);
        for one in bench.out {
            truth.extend(key(&one).map(|key| (key, (one.ending, one.outcome))));
        }
    }
    truth
}

/// The client sends ahead as it likes, the server answers what it has.
fn calls(commands: &[Command], random: &mut Random) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut next = 0;
    let mut unanswered: VecDeque<&Command> = VecDeque::new();
    let mut push = |side, bytes: &str, quiet, random: &mut Random| {
        for (index, bytes) in pieces(bytes.as_bytes(), random).into_iter().enumerate() {
            let quiet = quiet && index == 0;
            calls.push(Call { side, bytes, quiet });
        }
    };
    while next < commands.len() || !unanswered.is_empty() {
        let drained = unanswered.iter().all(|command| command.reply.is_empty());
        if next < commands.len() && (drained || random.one_in(2)) {
            let sent = &commands[next..commands.len().min(next + 1 + random.below(6))];
            next += sent.len();
            let bytes: String = sent.iter().map(|one| one.request.as_str()).collect();
            unanswered.extend(sent);
            push(Side::Request, &bytes, drained && random.one_in(4), random);
        } else {
            let count = 1 + random.below(unanswered.len());
            let bytes: String = unanswered
                .drain(..count)
                .map(|one| one.reply.as_str())
                .collect();
            push(Side::Reply, &bytes, false, random);
        }
    }
    calls
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_reply_and_no_silence_is_given_to_another_request(
        seed in 1_u64..,
        sight in prop_oneof![Just(Sight::Whole), Just(Sight::Swapped), Just(Sight::Lossy), Just(Sight::Late)],
    ) {
        let mut random = Random(seed);
        let errors = random.one_in(3);
        let style = Style { tagged: random.one_in(2), errors, mutes: !errors && random.one_in(2) };
        let commands = commands(style, &mut random);
        let truth = truth(&commands);
        let calls = calls(&commands, &mut random);
        let bench = observe(Protocol::Memcached, calls, sight, &mut random);

        let mut told = HashMap::new();
        for one in &bench.out {
            let Some(key) = key(one) else { continue };
            let text = &one.request.detail.as_ref().unwrap().text;
            prop_assert!(told.insert(key.clone(), one.ending).is_none(), "{} twice", key);
            let says = one.ending == Ending::Replied || one.outcome != Outcome::default();
            if says {
                prop_assert_eq!(&(one.ending, one.outcome.clone()), &truth[&key], "{}", text);
            }
            if one.ending == Ending::NoReply {
                prop_assert_eq!(truth[&key].0, Ending::NoReply, "{}", text);
            }
        }
        if matches!(sight, Sight::Whole | Sight::Swapped) {
            prop_assert_eq!(told.len(), truth.len());
            prop_assert_eq!(mismatches(&bench), 0);
            prop_assert_eq!(bench.telemetry.orphaned.get(), 0);
        }
        if sight == Sight::Whole && !commands.iter().any(|one| one.quiet) {
            prop_assert!(told.values().all(|ending| *ending != Ending::Unresolved));
        }
        if sight == Sight::Whole && style.tagged && !style.errors {
            prop_assert!(told.values().all(|ending| *ending != Ending::Unresolved), "{:?}", bench.told());
        }
    }
}
