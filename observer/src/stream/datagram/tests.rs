//! Requests and replies of one client and one server, and of many.

use super::fuzz::{Step, Table};
use super::{GRACE, TIMEOUT};
use crate::source::event::{Direction, End};
use crate::stream::flows::Role;
use crate::telemetry::{Limit, Lost, Skipped};

const MS: u64 = 1_000_000;

fn table(role: Role) -> Table {
    Table::new(role, 64)
}

fn send(table: &mut Table, id: u16, body: &str) {
    table.step(&Step::new(Direction::Send, id, 0, 1, body));
}

fn receive(table: &mut Table, id: u16, sequence: u16, count: u16, body: &str) {
    table.step(&Step::new(Direction::Receive, id, sequence, count, body));
}

fn told(table: &mut Table) -> Vec<String> {
    std::mem::take(&mut table.log.lines)
}

#[test]
fn a_reply_belongs_to_the_request_with_its_id() {
    let mut table = table(Role::Auto);
    send(&mut table, 1, "a");
    send(&mut table, 2, "b");
    receive(&mut table, 2, 0, 1, "B.");
    receive(&mut table, 1, 0, 1, "A.");
    assert_eq!(told(&mut table), [">b<B.", ">a<A."]);
}

#[test]
fn datagrams_of_a_reply_are_put_in_order() {
    let mut table = table(Role::Auto);
    send(&mut table, 1, "a");
    for sequence in [2, 1, 1, 3, 2] {
        receive(
            &mut table,
            1,
            sequence,
            4,
            ["0", "1", "2", "3."][usize::from(sequence)],
        );
    }
    assert!(told(&mut table).is_empty());
    receive(&mut table, 1, 0, 4, "0");
    assert_eq!(told(&mut table), [">a<0<1<2<3."]);
    assert_eq!(table.telemetry.skipped(Skipped::Duplicate).get(), 2 * 9);
    receive(&mut table, 1, 0, 4, "0");
    assert_eq!(table.telemetry.skipped(Skipped::Duplicate).get(), 3 * 9);
    assert_eq!(table.telemetry.orphaned.get(), 0);
}

#[test]
fn several_replies_to_one_request() {
    let mut table = table(Role::Auto);
    send(&mut table, 1, "a");
    receive(&mut table, 1, 0, 2, "x");
    receive(&mut table, 1, 1, 2, "x");
    receive(&mut table, 1, 0, 1, "y.");
    assert_eq!(told(&mut table), [">a<x<x<y."]);
}

#[test]
fn what_is_lost_is_counted_and_not_guessed() {
    let mut table = table(Role::Auto);
    send(&mut table, 1, "a");
    receive(&mut table, 1, 0, 4, "x");
    receive(&mut table, 1, 3, 4, "x.");
    send(&mut table, 2, "b");
    table.wait(TIMEOUT);
    assert_eq!(told(&mut table), [">a<x?", ">b?"]);
    assert_eq!(table.telemetry.lost(Lost::Datagram).get(), 2);
    receive(&mut table, 2, 0, 1, "B.");
    table.wait(TIMEOUT);
    assert!(told(&mut table).is_empty());
    assert_eq!(table.telemetry.orphaned.get(), 1);
}

#[test]
fn an_id_used_again_before_its_reply_pairs_with_none() {
    let mut table = table(Role::Auto);
    send(&mut table, 1, "a");
    table.wait(500 * MS);
    send(&mut table, 1, "b");
    assert_eq!(told(&mut table), [">a?"]);
    // Either's.
    receive(&mut table, 1, 0, 1, "X.");
    send(&mut table, 1, "c");
    receive(&mut table, 1, 0, 1, "X.");
    assert_eq!(told(&mut table), [">b?", ">c?"]);
    // The first can come no more.
    table.wait(TIMEOUT);
    send(&mut table, 1, "d");
    receive(&mut table, 1, 0, 1, "D.");
    assert_eq!(told(&mut table), [">d<D."]);
}

#[test]
fn a_reply_may_be_reported_before_its_request() {
    let mut table = table(Role::Auto);
    receive(&mut table, 1, 0, 1, "A.");
    send(&mut table, 1, "a");
    assert_eq!(told(&mut table), [">a<A."]);
    receive(&mut table, 2, 0, 1, "B.");
    table.wait(30 * MS);
    send(&mut table, 2, "b");
    table.wait(TIMEOUT);
    assert_eq!(told(&mut table), [">b?"]);
    assert_eq!(table.telemetry.orphaned.get(), 1);
}

#[test]
fn a_request_without_an_answer_is_over_at_once() {
    let mut table = table(Role::Auto);
    send(&mut table, 1, "noreply.");
    assert_eq!(told(&mut table), [">noreply."]);
}

#[test]
fn malformed_headers_and_unknown_ends() {
    let mut table = table(Role::Auto);
    for (sequence, count) in [(1, 2), (0, 0), (0, 2)] {
        table.step(&Step::new(Direction::Send, 1, sequence, count, "a"));
    }
    assert_eq!(table.telemetry.skipped(Skipped::Foreign).get(), 3 * 9);
    receive(&mut table, 1, 1, 1, "a");
    assert_eq!(table.telemetry.skipped(Skipped::Foreign).get(), 4 * 9);
    let mut step = Step::new(Direction::Receive, 1, 0, 1, "a");
    step.remote = "0.0.0.0:0".parse().unwrap();
    table.step(&step);
    assert_eq!(table.telemetry.skipped(Skipped::Peer).get(), 9);
    step.remote = "10.0.0.1:11211".parse().unwrap();
    step.local = "10.0.0.2:11211".parse().unwrap();
    table.step(&step);
    assert_eq!(table.telemetry.skipped(Skipped::Role).get(), 9);
    assert!(told(&mut table).is_empty());
}

/// The server's view of the same.
fn at_server(step: &Step) -> Step {
    Step {
        direction: step.direction.reverse(),
        local: step.remote,
        remote: step.local,
        netns: 2,
        ..step.clone()
    }
}

#[test]
fn one_of_two_ends_on_this_host_is_told() {
    for client_first in [true, false] {
        let mut table = table(Role::Auto);
        let mut steps = Vec::new();
        for (direction, body) in [(Direction::Send, "a"), (Direction::Receive, "A.")] {
            let client = Step::new(direction, 1, 0, 1, body);
            let server = at_server(&client);
            match client_first {
                true => steps.extend([client, server]),
                false => steps.extend([server, client]),
            }
        }
        for step in &steps {
            table.step(step);
        }
        table.wait(GRACE);
        assert_eq!(told(&mut table), [">a<A."]);
        assert_eq!(table.log.ends, [End::Client]);
    }
}

#[test]
fn a_servers_end_alone_is_told_after_its_grace() {
    let mut table = table(Role::Auto);
    for (direction, body) in [(Direction::Send, "a"), (Direction::Receive, "A.")] {
        table.step(&at_server(&Step::new(direction, 1, 0, 1, body)));
    }
    assert!(told(&mut table).is_empty());
    table.wait(GRACE);
    assert_eq!(told(&mut table), [">a<A."]);
    table.step(&at_server(&Step::new(Direction::Send, 2, 0, 1, "b")));
    table.step(&at_server(&Step::new(Direction::Receive, 2, 0, 1, "B.")));
    assert_eq!(told(&mut table), [">b<B."]);
}

#[test]
fn endpoints_beyond_the_budget_make_room() {
    let mut table = Table::new(Role::Auto, 4);
    for port in 1..=10 {
        let mut step = Step::new(Direction::Send, 1, 0, 1, "a");
        step.local.set_port(port);
        table.step(&step);
        table.wait(MS);
    }
    assert_eq!(table.len(), 4);
    assert_eq!(table.telemetry.exceeded(Limit::DatagramPairs).get(), 6);
    assert_eq!(told(&mut table).len(), 6);
    table.finish();
    assert_eq!(told(&mut table).len(), 4);
    assert_eq!(table.log.met, table.log.parted);
}

#[test]
fn a_large_datagram_comes_in_pieces() {
    let mut table = table(Role::Auto);
    let request = "x".repeat(20);
    for pieces in [&[28][..], &[10, 10, 8], &[1; 28]] {
        table.step(&Step {
            pieces: pieces.to_vec(),
            ..Step::new(Direction::Send, 1, 0, 1, &request)
        });
        receive(&mut table, 1, 0, 1, ".");
        assert_eq!(told(&mut table), [format!(">{request}<.")]);
    }
    // A piece is lost.
    table.step(&Step {
        pieces: vec![10, 0, 8],
        ..Step::new(Direction::Send, 2, 0, 1, &request)
    });
    table.wait(TIMEOUT);
    assert!(told(&mut table).is_empty());
    assert_eq!(table.telemetry.lost_bytes.get(), 18);
}

#[test]
fn the_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/datagrams");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        super::fuzz::datagrams(&std::fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

proptest::proptest! {
    #[test]
    fn each_exchange_begins_and_ends_once(data in proptest::collection::vec(0u8..=255, 0..400)) {
        super::fuzz::datagrams(&data);
    }
}
