use super::*;
use crate::aggregation::testing::{observation, transaction};

/// A connection, and what leaves: positions of the server's commands, and `<` the number of the client's span.
struct Bench {
    ends: Ends,
    client: ConnectionId,
    out: Vec<String>,
    told: u64,
}

fn one(position: u32) -> Transaction {
    Transaction {
        position,
        ..transaction("GET", 3)
    }
}

fn exchange(positions: &[u32]) -> Exchange {
    match positions {
        [position] => Exchange::One(one(*position)),
        _ => Exchange::Batch(Batch {
            kind: BatchKind::Pipeline,
            transactions: positions.iter().copied().map(one).collect(),
        }),
    }
}

fn keep(out: &mut Vec<String>) -> impl FnMut(Observation, Fate) {
    |observation, fate| {
        let transactions = observation.exchange.transactions().iter();
        let positions: Vec<_> = transactions.map(|one| one.position.to_string()).collect();
        let batch = matches!(observation.exchange, Exchange::Batch(_));
        out.push(format!(
            "{}{}{}",
            if batch { "batch " } else { "" },
            positions.join(" "),
            match fate {
                Fate::Child(client, _) => format!(" <{}", client.span),
                Fate::LeftOut => " left out".to_owned(),
                Fate::Dropped => " dropped".to_owned(),
                Fate::Alone(_) => String::new(),
            }
        ));
    }
}

impl Bench {
    fn new() -> Self {
        let mut ends = Ends::new(Arc::default());
        let client = ends.open(7);
        Self {
            ends,
            client,
            out: Vec::new(),
            told: 0,
        }
    }

    /// With its server's end.
    fn met() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.ends.meet(7), Some(bench.client));
        bench
    }

    fn tell_as(&mut self, positions: &[u32], fate: Fate) -> &mut Self {
        let extent = Extent::of(self.client, &exchange(positions)).unwrap();
        self.ends.tell(extent, fate, &mut keep(&mut self.out));
        self
    }

    fn tell(&mut self, positions: &[u32]) -> &mut Self {
        self.told += 1;
        let span = SpanReference {
            trace: 1_u128.into(),
            span: self.told.into(),
        };
        self.tell_as(positions, Fate::Child(span, Sample::default()))
    }

    fn serve(&mut self, positions: &[u32]) -> &mut Self {
        for position in positions {
            let served = Served {
                observation: observation(one(*position)),
                alone: Some(Sample::default()),
            };
            self.ends
                .serve(self.client, served, &mut keep(&mut self.out));
        }
        self
    }

    fn close_client(&mut self, time: Nanos) -> &mut Self {
        self.ends
            .close_client(self.client, time, &mut keep(&mut self.out));
        self
    }

    fn close_server(&mut self) -> &mut Self {
        self.ends
            .close_server(self.client, &mut keep(&mut self.out));
        self
    }

    /// What left since the last look, with the zeros of the numbers of spans taken away.
    fn out(&mut self) -> Vec<String> {
        let out = std::mem::take(&mut self.out);
        out.iter()
            .map(|line| line.replace("<000000000000000", "<"))
            .collect()
    }
}

#[test]
fn whoever_comes_first() {
    let mut bench = Bench::met();
    bench.serve(&[100]);
    assert!(bench.out().is_empty());
    bench.tell(&[100]).tell(&[140]).serve(&[140]);
    assert_eq!(bench.out(), ["100 <1", "140 <2"]);
    assert_eq!(bench.ends.waiting, 0);
}

#[test]
fn the_client_says_what_left_together() {
    let mut bench = Bench::met();
    // A pipeline that the server took in two pieces, the second with the command behind it.
    bench.serve(&[100, 110]).serve(&[120, 130]);
    bench.tell(&[100, 110, 120]).tell(&[130]);
    assert_eq!(bench.out(), ["batch 100 110 120 <1", "130 <2"]);
    // The reply to its beginning was read before the rest was reported.
    bench.serve(&[140]).tell(&[140, 150]).serve(&[150]);
    assert_eq!(bench.out(), ["batch 140 150 <3"]);
    // Of commands without a reply the first is not the first to end.
    bench.tell(&[180, 160, 170]).serve(&[160, 170, 180]);
    assert_eq!(bench.out(), ["batch 160 170 180 <4"]);
}

#[test]
fn nothing_but_the_position_pairs() {
    let mut bench = Bench::met();
    bench.serve(&[100, 110, 120]).tell(&[110]);
    assert_eq!(bench.out(), ["100", "110 <1"]);
    bench.tell(&[130]).serve(&[140]);
    assert_eq!(bench.out(), ["120"]);
    bench.tell(&[140, 150, 160]).serve(&[150, 170]);
    assert_eq!(bench.out(), ["batch 140 150 <3"]);
    bench.tell(&[165]).tell(&[180]);
    assert_eq!(bench.out(), ["170"]);
}

#[test]
fn positions_wrap() {
    let mut bench = Bench::met();
    bench.serve(&[u32::MAX - 5, 4, 14]);
    bench.tell(&[u32::MAX - 5, 4]).tell(&[14]);
    assert_eq!(
        bench.out(),
        [format!("batch {} 4 <1", u32::MAX - 5), "14 <2".to_owned()]
    );
}

#[test]
fn both_or_none() {
    let mut bench = Bench::met();
    bench.serve(&[100, 110]);
    bench.tell_as(&[100], Fate::LeftOut);
    bench.tell_as(&[110], Fate::Dropped);
    assert_eq!(bench.out(), ["100 left out", "110 dropped"]);
    // It has no span.
    let mut lost = one(120);
    lost.ending = crate::transaction::Ending::Unresolved;
    assert!(Extent::of(bench.client, &Exchange::One(lost)).is_none());
}

#[test]
fn an_end_that_is_closed_is_not_waited_for() {
    let mut bench = Bench::met();
    bench.serve(&[100, 110]).tell(&[100]).close_client(0);
    assert_eq!(bench.out(), ["100 <1", "110"]);
    bench.serve(&[120]);
    assert_eq!(bench.out(), ["120"]);
    bench.close_server();
    assert!(bench.ends.by_shared.is_empty());
    // The server closes; its last replies are read after that.
    let mut bench = Bench::met();
    bench.serve(&[100, 110, 120]).close_server();
    bench.tell(&[100]).tell(&[110, 120, 130]).tell(&[140]);
    assert!(bench.ends.slots[0].as_ref().unwrap().told.is_empty());
    bench.close_client(0);
    assert_eq!(bench.out(), ["100 <1", "batch 110 120 <2"]);
    assert_eq!((bench.ends.waiting, bench.ends.by_shared.len()), (0, 0));
}

#[test]
fn a_servers_end_may_be_met_late_or_never() {
    let mut bench = Bench::new();
    for position in 0..1_000 {
        bench.tell(&[position]);
    }
    bench.close_client(5);
    bench.ends.tick(5 + PATIENCE);
    assert_eq!(bench.ends.meet(7), Some(bench.client));
    // A second one is another's.
    assert_eq!(bench.ends.meet(7), None);
    assert_eq!(bench.ends.telemetry.exceeded(Limit::Ends).get(), 0);
    bench.serve(&[999]);
    assert_eq!(bench.out(), ["999 <00000000000003e8"]);
    bench.close_server();
    assert_eq!(bench.ends.meet(7), None);
    let mut bench = Bench::new();
    bench.close_client(5);
    bench.ends.tick(6 + PATIENCE);
    assert_eq!(bench.ends.meet(7), None);
}

#[test]
fn what_waits_is_bounded() {
    let mut bench = Bench::met();
    let most = MAX_SERVED as u32;
    for position in 0..most + 2 {
        bench.serve(&[position]);
    }
    assert_eq!(bench.out(), ["0", "1"]);
    assert_eq!(bench.ends.telemetry.exceeded(Limit::Ends).get(), 2);
    bench.tell(&[most]);
    assert_eq!(bench.out().len(), MAX_SERVED - 1);
    assert_eq!(bench.ends.waiting, 1);
    let mut bench = Bench::met();
    for position in 0..MAX_TOLD as u32 + 2 {
        bench.tell(&[position]);
    }
    assert_eq!(bench.ends.telemetry.exceeded(Limit::Ends).get(), 2);
    // Nothing comes from an end that a rule silences.
    bench.ends.hush(bench.client, &mut keep(&mut bench.out));
    bench.tell(&[9_999]);
    assert!(bench.ends.slots[0].as_ref().unwrap().told.is_empty());
}
