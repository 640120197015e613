//! Plain totals, for the one line that `--summary` prints at the end.

use std::collections::BTreeMap;

use serde::Serialize;

use super::facts;
use crate::protocol::{Operation, Protocol, Word};
use crate::telemetry::names::value;
use crate::telemetry::{Account, Resync, Telemetry};
use crate::transaction::{Ending, Transaction};

/// Names outside the command tables that get totals of their own; further ones share `_OTHER`.
const MAX_OTHERS: usize = 256;
/// Largest index of a known operation that is believed. The tables hold a few hundred.
const MAX_INDEX: u16 = 4096;

/// Totals of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Commands, answered or not, also those inside pipelines and transactions.
    pub count: u64,
    /// Keys or fields found.
    pub hits: u64,
    /// Keys or fields not found.
    pub misses: u64,
    /// Error replies; MOVED and ASK are none.
    pub errors: u64,
    /// Bytes of values read or written.
    pub value_bytes: u64,
}

impl Totals {
    fn count(&mut self, transaction: &Transaction) {
        self.count += 1;
        self.hits += u64::from(transaction.outcome.hits);
        self.misses += u64::from(transaction.outcome.misses);
        if matches!(facts::failure(transaction), Some(facts::Failure::Reply(_))) {
            self.errors += 1;
        }
        self.value_bytes += facts::value_size(transaction).unwrap_or(0);
    }

    fn merge(&mut self, other: &Totals) {
        self.count += other.count;
        self.hits += other.hits;
        self.misses += other.misses;
        self.errors += other.errors;
        self.value_bytes += other.value_bytes;
    }
}

#[derive(Debug, Clone, Default)]
struct Operations {
    known: Vec<(&'static str, Totals)>,
    others: Vec<(Word, Totals)>,
    beyond: Totals,
}

impl Operations {
    fn totals(&mut self, operation: &Operation) -> &mut Totals {
        match operation {
            Operation::Known { index, name } if *index <= MAX_INDEX => {
                let index = usize::from(*index);
                if self.known.len() <= index {
                    self.known.resize(index + 1, ("", Totals::default()));
                }
                let (known, totals) = &mut self.known[index];
                *known = name;
                totals
            }
            Operation::Known { .. } => &mut self.beyond,
            Operation::Other(word) => {
                let found = self.others.iter().position(|(other, _)| other == word);
                match found {
                    Some(at) => &mut self.others[at].1,
                    None if self.others.len() < MAX_OTHERS => {
                        self.others.push((*word, Totals::default()));
                        let last = self.others.len() - 1;
                        &mut self.others[last].1
                    }
                    None => &mut self.beyond,
                }
            }
        }
    }

    fn by_name(&self) -> BTreeMap<&str, Totals> {
        let known = self.known.iter().map(|(name, totals)| (*name, totals));
        let others = self
            .others
            .iter()
            .map(|(word, totals)| (word.as_str(), totals));
        let mut named = BTreeMap::<_, Totals>::new();
        for (name, totals) in known.chain(others).chain([(value::OTHER, &self.beyond)]) {
            if totals.count > 0 {
                named.entry(name).or_default().merge(totals);
            }
        }
        named
    }
}

/// Totals of all transactions.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    transactions: u64,
    unanswered: u64,
    no_reply: u64,
    unresolved: u64,
    not_executed: u64,
    operations: [Operations; 2],
}

/// The line, in the order of its fields.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    connections: u64,
    transactions: u64,
    unanswered: u64,
    no_reply: u64,
    unresolved: u64,
    not_executed: u64,
    orphaned_replies: u64,
    pushes: u64,
    lost_bytes: u64,
    resynchronizations: u64,
    operations: BTreeMap<&'static str, BTreeMap<&'a str, Totals>>,
    ledger: Account,
}

impl Summary {
    pub(super) fn count(&mut self, transaction: &Transaction) {
        if transaction.ending == Ending::NotExecuted {
            self.not_executed += 1;
            return;
        }
        self.transactions += 1;
        match transaction.ending {
            Ending::Replied | Ending::NotExecuted => {}
            Ending::NoReply => self.no_reply += 1,
            Ending::Unanswered => self.unanswered += 1,
            Ending::Unresolved => self.unresolved += 1,
        }
        self.operations[transaction.protocol as usize]
            .totals(&transaction.request.operation)
            .count(transaction);
    }

    /// Adds the totals of another aggregator.
    pub fn merge(&mut self, other: &Summary) {
        self.transactions += other.transactions;
        self.unanswered += other.unanswered;
        self.no_reply += other.no_reply;
        self.unresolved += other.unresolved;
        self.not_executed += other.not_executed;
        for (mine, theirs) in self.operations.iter_mut().zip(&other.operations) {
            for (index, (name, totals)) in theirs.known.iter().enumerate() {
                if totals.count > 0 {
                    let index = index as u16;
                    mine.totals(&Operation::Known { index, name }).merge(totals);
                }
            }
            for (word, totals) in &theirs.others {
                mine.totals(&Operation::Other(*word)).merge(totals);
            }
            mine.beyond.merge(&theirs.beyond);
        }
    }

    /// Transactions so far.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Totals of an operation by its name.
    #[must_use]
    pub fn operation(&self, protocol: Protocol, name: &str) -> Totals {
        let named = self.operations[protocol as usize].by_name();
        named.get(name).copied().unwrap_or_default()
    }

    /// The summary line, without a newline; what the aggregator does not know comes from `telemetry`.
    #[must_use]
    pub fn line(&self, telemetry: &Telemetry) -> String {
        let protocols = [Protocol::Redis, Protocol::Memcached];
        let resynchronizations = protocols
            .iter()
            .flat_map(|protocol| {
                Resync::ALL
                    .iter()
                    .map(|reason| telemetry.resyncs(*protocol, *reason))
            })
            .map(crate::telemetry::Counter::get)
            .sum();
        let operations = protocols
            .iter()
            .map(|protocol| {
                (
                    protocol.name(),
                    self.operations[*protocol as usize].by_name(),
                )
            })
            .filter(|(_, named)| !named.is_empty())
            .collect();
        let line = Line {
            r#type: "summary",
            connections: telemetry.connections_seen.get(),
            transactions: self.transactions,
            unanswered: self.unanswered,
            no_reply: self.no_reply,
            unresolved: self.unresolved,
            not_executed: self.not_executed,
            orphaned_replies: telemetry.orphaned.get(),
            pushes: telemetry.pushes.get(),
            lost_bytes: telemetry.lost_bytes.get(),
            resynchronizations,
            operations,
            ledger: telemetry.account(),
        };
        serde_json::to_string(&line).expect("numbers and strings always serialize")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{other, transaction};
    use super::*;
    use crate::telemetry::{LeftOut, Resync};

    #[test]
    fn prints_the_contract_s_line() {
        let telemetry = Telemetry::default();
        telemetry.connections_seen.add(1);
        telemetry.pushes.add(2);
        telemetry.lost_bytes.add(7);
        telemetry.left_out(LeftOut::Rule).add(3);
        telemetry.resyncs(Protocol::Redis, Resync::Gap).add(1);
        telemetry
            .resyncs(Protocol::Memcached, Resync::Orphan)
            .add(1);
        let mut summary = Summary::default();

        let mut hit = transaction("GET", 3);
        hit.outcome.hits = 1;
        hit.outcome.value_size = Some(100);
        summary.count(&hit);
        let mut miss = transaction("GET", 3);
        miss.outcome.misses = 1;
        summary.count(&miss);
        let mut lost = transaction("GET", 3);
        lost.ending = Ending::Unanswered;
        summary.count(&lost);
        let mut moved = transaction("GET", 3);
        moved.outcome.error = Some(Word::new(b"MOVED"));
        summary.count(&moved);
        let mut wrong = transaction("LLEN", 9);
        wrong.outcome.error = Some(Word::new(b"WRONGTYPE"));
        summary.count(&wrong);
        let mut quiet = other("MY.CMD");
        quiet.ending = Ending::NoReply;
        quiet.request.value_size = Some(5);
        summary.count(&quiet);

        assert_eq!(
            summary.line(&telemetry),
            concat!(
                r#"{"type":"summary","connections":1,"transactions":6,"unanswered":1,"no_reply":1,"#,
                r#""unresolved":0,"not_executed":0,"orphaned_replies":0,"pushes":2,"lost_bytes":7,"resynchronizations":2,"#,
                r#""operations":{"redis":{"#,
                r#""GET":{"count":4,"hits":1,"misses":1,"errors":0,"value_bytes":100},"#,
                r#""LLEN":{"count":1,"hits":0,"misses":0,"errors":1,"value_bytes":0},"#,
                r#""MY.CMD":{"count":1,"hits":0,"misses":0,"errors":0,"value_bytes":5}}},"#,
                r#""ledger":{"sent":{"seen":0,"arrived":0,"ring_full":0},"#,
                r#""received":{"seen":0,"arrived":0,"ring_full":0},"states":{"seen":0,"arrived":0,"ring_full":0},"#,
                r#""streams":{"decoded":0,"skipped":{}},"requests":{"decoded":0,"left_out":{"rule":3}},"#,
                r#""spans":{"due":0,"exported":0,"sampled_out":0,"dropped":0}}}"#,
            )
        );

        let mut twice = summary.clone();
        twice.merge(&summary);
        assert_eq!(twice.transactions(), 12);
        assert_eq!(twice.operation(Protocol::Redis, "GET").count, 8);
        assert_eq!(twice.operation(Protocol::Redis, "MY.CMD").value_bytes, 10);
    }

    #[test]
    fn keeps_a_bounded_number_of_unknown_names() {
        let mut summary = Summary::default();
        for number in 0..MAX_OTHERS + 50 {
            summary.count(&other(&format!("C{number}")));
        }
        assert_eq!(summary.operation(Protocol::Redis, value::OTHER).count, 50);
        assert_eq!(summary.operations[0].others.len(), MAX_OTHERS);
    }
}
