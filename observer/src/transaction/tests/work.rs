//! Whatever comes, a request costs no more than so many steps, and a connection no more memory than its budget.

use super::*;
use crate::telemetry::work;

/// Looks at requests that one request may cost: 1,400 that are quiet and each answered, before they are given up.
const MOST: u64 = 1_600;

/// Sends requests in calls of 100, with a reply somewhere between, all within the time that a reply may come early.
fn flood(request: &str, reply: &str, count: usize) -> u64 {
    let mut bench = Bench::new(Protocol::Memcached, true);
    work::of(|| {
        for number in 0..count / 100 {
            bench.send(&request.repeat(100));
            if number % 10 == 5 && !reply.is_empty() {
                bench.receive(reply);
            }
        }
    })
}

#[test]
fn quiet_requests_cost_no_more_than_their_share() {
    for (request, reply) in [
        // Nobody's reply, tried again with each request.
        ("mg a v q\r\n", "OK\r\n"),
        // Everybody's.
        ("mg a v q\r\n", "VA 1\r\nx\r\n"),
        ("mg a v q k\r\n", "VA 1 kz\r\nx\r\n"),
        ("mg a v q O1\r\n", "VA 1 O1\r\nx\r\n"),
        ("md a q\r\n", "NF\r\n"),
        ("md a q\r\nmn\r\n", "MN\r\n"),
        ("mg a v q\r\n", ""),
    ] {
        for count in [5_000, 20_000] {
            let steps = flood(request, reply, count);
            assert!(
                steps <= MOST * count as u64,
                "{request:?} {reply:?}: {steps} steps for {count}"
            );
        }
    }
}

#[test]
fn what_is_held_is_given_back() {
    let mut bench = Bench::new(Protocol::Redis, true);
    for number in 0..60_000 {
        let key = format!("key:{number}");
        bench.send(&format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()));
    }
    assert!(bench.conversation.memory() > 60_000 * 200);
    let relieved = bench.conversation.relieve(
        bench.now,
        &bench.telemetry,
        &mut take(&mut bench.out, &mut bench.batches),
    );
    assert!(relieved);
    assert_eq!(bench.out.len(), 60_000);
    assert!(bench.out.iter().all(|one| one.ending == Ending::Unresolved));
    bench.conversation.left(
        bench
            .out
            .iter()
            .map(|one| one.request.detail_memory())
            .sum(),
    );
    assert_eq!(bench.conversation.memory(), 0);
    assert_eq!(
        bench
            .telemetry
            .resyncs(Protocol::Redis, Resync::Budget)
            .get(),
        1
    );

    // Room for the next messages is no loss.
    let mut bench = Bench::new(Protocol::Redis, true);
    bench.send("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    bench.receive("$-1\r\n");
    bench.conversation.left(
        bench
            .out
            .iter()
            .map(|one| one.request.detail_memory())
            .sum(),
    );
    assert!(bench.conversation.memory() > 0);
    let relieved = bench.conversation.relieve(
        bench.now,
        &bench.telemetry,
        &mut take(&mut bench.out, &mut bench.batches),
    );
    assert!(!relieved);
    assert_eq!(bench.conversation.memory(), 0);
    bench.send("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    bench.receive("$-1\r\n");
    assert_eq!(bench.out.len(), 2);
}

/// Requests that want no reply, behind one that waits for its own.
#[test]
fn what_waits_behind_a_reply_is_counted() {
    let mut bench = Bench::new(Protocol::Memcached, true);
    bench.send("get a\r\n");
    for _ in 0..10_000 {
        bench.send("set k 0 0 1 noreply\r\nx\r\n");
    }
    let each = size_of::<Transaction>();
    assert!(bench.conversation.memory() > 10_000 * each);
}
