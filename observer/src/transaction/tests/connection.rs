//! What a connection remembers: who its client is, which version of RESP, what it is subscribed to.

use super::*;
use crate::protocol::Client;

impl Bench {
    /// Sends one command as clients do.
    fn command(&mut self, line: &str) -> &mut Self {
        let words: Vec<_> = line.split(' ').collect();
        let mut wire = format!("*{}\r\n", words.len());
        for word in words {
            wire.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.send(&wire)
    }

    /// Who the client of the last transaction was.
    fn client(&self) -> Client {
        let last = self.out.last().and_then(|last| last.client.as_deref());
        last.cloned().unwrap_or_default()
    }
}

#[test]
fn a_user_is_known_once_it_is_let_in() {
    let mut bench = Bench::redis();
    bench
        .command("AUTH alice wrong")
        .receive("-WRONGPASS invalid\r\n");
    assert_eq!(bench.client().user, None);
    bench.command("AUTH alice right").receive("+OK\r\n");
    bench.command("GET a").receive("$-1\r\n");
    assert_eq!(bench.client().user.as_deref(), Some("alice"));
    bench
        .command("HELLO 3 AUTH bob right SETNAME web")
        .receive("%1\r\n+proto\r\n:3\r\n");
    bench.command("GET a").receive("_\r\n");
    assert_eq!(bench.client().user.as_deref(), Some("bob"));
    assert_eq!(bench.client().name.as_deref(), Some("web"));
    bench
        .command("CLIENT SETINFO LIB-NAME lib")
        .receive("+OK\r\n");
    bench.command("RESET").receive("+RESET\r\n");
    bench.command("GET a").receive("$-1\r\n");
    let rest = Client {
        library: Some("lib".to_owned()),
        ..Client::default()
    };
    assert_eq!(bench.client(), rest);
}

#[test]
fn a_library_is_what_it_says_also_to_an_old_server() {
    let mut bench = Bench::redis();
    bench
        .command("CLIENT SETINFO LIB-NAME redis-py")
        .command("CLIENT SETINFO LIB-VER 8.1.0")
        .receive("-ERR unknown subcommand\r\n-ERR unknown subcommand\r\n");
    bench
        .command("CLIENT SETNAME refused")
        .receive("-NOPERM no\r\n");
    bench.command("GET a").receive("$-1\r\n");
    let client = bench.client();
    assert_eq!(client.library.as_deref(), Some("redis-py"));
    assert_eq!(client.library_version.as_deref(), Some("8.1.0"));
    assert_eq!(client.name, None);
}

#[test]
fn an_array_that_looks_like_a_message_is_one_only_while_subscribed() {
    let array = "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n";
    let mut bench = Bench::redis();
    bench
        .send("SUBSCRIBE c\r\n")
        .receive("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        .receive(array)
        .send("UNSUBSCRIBE c\r\n")
        .receive(array)
        .receive("*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n")
        .send("LRANGE l 0 -1\r\n")
        .receive(array);
    assert_eq!(bench.telemetry.pushes.get(), 2);
    assert_eq!(bench.told().last().unwrap(), "LRANGE l 0 -1 +1");

    // RESP3 has a type for them, so that commands may come in between.
    let mut bench = Bench::redis();
    bench
        .send("HELLO 3\r\n")
        .receive("%1\r\n+proto\r\n:3\r\n")
        .send("SUBSCRIBE c\r\n")
        .receive(">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        .send("LRANGE l 0 -1\r\n")
        .receive(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n")
        .receive(array);
    assert_eq!(bench.telemetry.pushes.get(), 1);
    assert_eq!(bench.told(), ["HELLO 3", "SUBSCRIBE ?", "LRANGE l 0 -1 +1"]);
}

#[test]
fn shard_channels_are_counted_apart() {
    let mut bench = Bench::redis();
    bench
        .send("SUBSCRIBE c\r\n")
        .receive("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        .send("SSUBSCRIBE s\r\n")
        .receive("*3\r\n$10\r\nssubscribe\r\n$1\r\ns\r\n:1\r\n")
        .send("SUNSUBSCRIBE s\r\n")
        .receive("*3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n")
        .receive("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n");
    assert_eq!(bench.out.len(), 3);
    assert_eq!(bench.telemetry.pushes.get(), 1);
    assert_eq!(bench.telemetry.orphaned.get(), 0);
}

#[test]
fn invalidations_are_pushes() {
    // RESP2: to another connection, which is subscribed; keys come as an array, or as null for all of them.
    let mut bench = Bench::redis();
    bench
        .send("SUBSCRIBE __redis__:invalidate\r\n")
        .receive("*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n")
        .receive("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n")
        .receive("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*-1\r\n");
    assert_eq!((bench.out.len(), bench.telemetry.pushes.get()), (1, 2));
    // RESP3: on the connection itself, also between a request and its reply.
    let mut bench = Bench::redis();
    bench
        .send("CLIENT TRACKING ON\r\n")
        .receive("+OK\r\n")
        .send("GET k\r\n")
        .receive(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n")
        .receive(">2\r\n$10\r\ninvalidate\r\n_\r\n$1\r\nv\r\n");
    assert_eq!(bench.told(), ["CLIENT TRACKING ?", "GET k +1"]);
    assert_eq!(bench.telemetry.pushes.get(), 2);
}

#[test]
fn a_replica_is_no_client() {
    let mut bench = Bench::redis();
    bench.send("PING\r\n").receive("+PONG\r\n");
    bench
        .send("*3\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n")
        .receive("+OK\r\n");
    // Refused: the connection is one like any other.
    bench.send("PSYNC ? -1\r\n").receive("-NOMASTERLINK no\r\n");
    bench.send("GET a\r\n").receive("$-1\r\n");
    bench
        .send("PSYNC ? -1\r\n")
        .receive("+FULLRESYNC 0123 0\r\n")
        .receive("$3\r\nrdb*1\r\n$4\r\nPING\r\n")
        .send("*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n0\r\n")
        .receive("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n")
        .close();
    assert_eq!(bench.told(), ["PING", "GET a -1"]);
    assert_eq!(bench.conversation.ignored(), Some(Skipped::Replication));
    assert!(bench.telemetry.skipped(Skipped::Replication).get() > 0);
    assert_eq!(bench.telemetry.orphaned.get(), 0);
}

#[test]
fn a_replica_that_was_there_before_is_no_client() {
    let mut bench = Bench::joined();
    bench
        .receive("*1\r\n$4\r\nPING\r\n")
        .send("*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n0\r\n")
        .receive("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n")
        .wait(30 * MS)
        .send("*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n9\r\n")
        .close();
    assert!(bench.told().is_empty(), "{:?}", bench.told());
    assert_eq!(bench.conversation.ignored(), Some(Skipped::Replication));
    assert_eq!(bench.telemetry.orphaned.get(), 0);
}

#[test]
fn reset_ends_monitor() {
    let mut bench = Bench::redis();
    bench
        .send("MONITOR\r\n")
        .receive("+OK\r\n+1 [0 127.0.0.1:1] \"get\" \"a\"\r\n")
        .send("RESET\r\n")
        .receive("+RESET\r\n")
        .send("GET a\r\n")
        .receive("$-1\r\n")
        .wait(20 * MS);
    assert_eq!(bench.conversation.ignored(), None);
    assert_eq!(bench.told(), ["MONITOR", "RESET", "GET a -1"]);
}

#[test]
fn a_server_may_close_instead_of_answering() {
    for line in ["SHUTDOWN NOSAVE", "QUIT"] {
        let mut bench = Bench::redis();
        bench.send("GET a\r\n").receive("$-1\r\n");
        bench.send(&format!("{line}\r\n")).close();
        assert_eq!(bench.told(), ["GET a -1".to_owned(), format!("{line} ~")]);
    }
    let mut bench = Bench::redis();
    bench.send("SHUTDOWN\r\n").receive("-ERR no\r\n");
    assert_eq!(bench.told(), ["SHUTDOWN !ERR"]);
}

#[test]
fn a_refused_multi_queues_nothing() {
    let mut bench = Bench::redis();
    bench.send("MULTI x\r\n").receive("-ERR wrong number\r\n");
    bench.send("GET a\r\n").receive("$-1\r\n");
    assert_eq!(bench.told(), ["MULTI ? !ERR", "GET a -1"]);
    assert_eq!(bench.batches, []);
    // In one send, with what would have been queued.
    bench
        .send("MULTI x\r\nGET b\r\nEXEC\r\n")
        .receive("-ERR wrong number\r\n$-1\r\n-ERR EXEC without MULTI\r\n");
    assert_eq!(bench.told()[2..], ["MULTI ? !ERR", "GET b -1", "EXEC !ERR"]);
}

#[test]
fn silence_that_is_refused_is_no_silence() {
    let mut bench = Bench::redis();
    bench
        .command("CLIENT REPLY SKIP")
        .command("GET a")
        .receive("-NOPERM no\r\n$1\r\nx\r\n")
        .command("GET b")
        .receive("$-1\r\n")
        .wait(20 * MS);
    assert_eq!(bench.resyncs(Resync::Orphan), 1);
    assert!(bench.telemetry.orphaned.get() > 0);
    let told = bench.told();
    assert_eq!(told[2..], ["GET b -1"], "{told:?}");
}

#[test]
fn requests_are_known_by_their_first_bytes_position() {
    // Cut anywhere, in pipelines, with bytes of a value missing: it is the place in the stream.
    let first = "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nv\r\n";
    let rest = "GET a\r\nGET b\r\n";
    for cut in 1..first.len() {
        let mut bench = Bench::redis();
        let start = bench.next[0];
        bench
            .send(&first[..cut])
            .send(&format!("{}{rest}", &first[cut..]))
            .receive("+OK\r\n$1\r\nv\r\n$-1\r\n")
            .send("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100\r\n")
            .gap(Side::Request, 100)
            .send("\r\n")
            .receive("+OK\r\n")
            .send("PING\r\n")
            .receive("+PONG\r\n");
        let positions = bench.out.iter().map(|one| one.position);
        let offsets: Vec<u32> = positions.map(|at| at.wrapping_sub(start)).collect();
        assert_eq!(offsets, [0, 27, 34, 41, 169], "{cut}");
    }
}

#[test]
fn requests_in_a_value_are_no_requests() {
    // Joined in the middle of a value that holds commands, at the beginning of one.
    for (protocol, fake, reply, real) in [
        (
            Protocol::Redis,
            "*3\r\n$3\r\nSET\r\n$4\r\nfake\r\n$1\r\nx\r\n",
            "+OK\r\n",
            ["*2\r\n$3\r\nGET\r\n$1\r\na\r\n", "$-1\r\n"],
        ),
        (
            Protocol::Memcached,
            "set fake 0 0 1\r\nx\r\n",
            "STORED\r\n",
            ["get a\r\n", "END\r\n"],
        ),
    ] {
        for times in [1, 2, 100] {
            let mut bench = Bench::new(protocol, false);
            bench
                .send(&fake.repeat(times))
                .wait(30 * MS)
                .send(&format!("{}\r\n", fake.repeat(times)))
                .receive(reply)
                .wait(30 * MS);
            for _ in 0..2 {
                bench.send(real[0]).receive(real[1]).wait(30 * MS);
            }
            let told = bench.out.iter();
            let names: Vec<_> = told.map(|one| one.request.operation.name()).collect();
            assert_eq!(names, ["GET", "GET"], "{protocol:?} {times}");
            assert_eq!(bench.telemetry.orphaned.get(), 0);
            // All of the value that was seen, and its end.
            let lost = (2 * times * fake.len() + 2 + reply.len()) as u64;
            assert_eq!(bench.telemetry.lost_bytes.get(), lost);
        }
    }
}

#[test]
fn requests_before_a_gap_are_none_while_the_boundary_is_not_proven() {
    let mut bench = Bench::joined();
    let fake = "*3\r\n$3\r\nSET\r\n$4\r\nfake\r\n$1\r\nx\r\n";
    bench
        .send(fake)
        .gap(Side::Request, 1_000)
        .wait(MS)
        .receive("+OK\r\n");
    bench.send("PING\r\n").receive("+PONG\r\n").wait(30 * MS);
    assert_eq!(bench.told(), ["PING"]);
    let lost = (fake.len() + 1_000 + "+OK\r\n".len()) as u64;
    assert_eq!(bench.telemetry.lost_bytes.get(), lost);
}
