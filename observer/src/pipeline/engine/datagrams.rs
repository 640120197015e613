//! What is done with exchanges of datagrams.

use super::{Caller, Engine, leave_out, tell};
use crate::enrichment::Endpoint;
use crate::protocol::Protocol;
use crate::source::event::Nanos;
use crate::stream::Segment;
use crate::stream::datagram::{self, Pair};
use crate::stream::flows::Close;
use crate::telemetry::LeftOut;
use crate::transaction::conversation::{Conversation, Settings};
use crate::transaction::{Ending, Exchange};

/// An exchange of datagrams: a conversation of its own, whose results are kept until it is over.
pub(in super::super) struct Datagrams {
    conversation: Conversation,
    exchanges: Vec<Exchange>,
}

impl datagram::Handler for Engine {
    type Peer = Caller;
    type Exchange = Datagrams;

    fn meet(&mut self, pair: &Pair) -> Caller {
        self.reporter.caller(
            Protocol::Memcached,
            Endpoint::udp(pair.end, pair.server(), pair.client()),
            None,
        )
    }

    fn part(&mut self, caller: Caller) {
        self.reporter.part(caller, Close::Over, 0);
    }

    fn begin(&mut self, pair: &Pair) -> Datagrams {
        Datagrams {
            conversation: Conversation::new(Settings {
                protocol: Protocol::Memcached,
                end: pair.end,
                from_start: true,
                keep_detail: self.reporter.sinks.wants_spans(),
            }),
            exchanges: Vec::new(),
        }
    }

    fn segment(
        &mut self,
        caller: &mut Caller,
        exchange: &mut Datagrams,
        segment: &Segment<'_>,
    ) -> bool {
        self.count_ignored(caller, segment);
        let Datagrams {
            conversation,
            exchanges,
        } = exchange;
        conversation.segment(segment, &self.telemetry, &mut |exchange| {
            exchanges.push(exchange);
        });
        if let Some(reason) = conversation.ignored() {
            tell(&mut self.told, caller, reason);
        }
        conversation.is_settled()
    }

    fn end(&mut self, caller: &mut Caller, exchange: Datagrams, reported: bool, time: Nanos) {
        let Datagrams {
            mut conversation,
            mut exchanges,
        } = exchange;
        // Not `Unanswered`, which is a failure: datagrams are lost in the normal course of things, also by the observer.
        let ending = Ending::Unresolved;
        conversation.close(ending, time, &self.telemetry, &mut |exchange| {
            exchanges.push(exchange);
        });
        for exchange in exchanges {
            match reported {
                true => self.reporter.report(caller, exchange),
                false => leave_out(LeftOut::Redundant, &exchange, &self.telemetry),
            }
        }
    }
}
