//! One connection, from segments to transactions: detection, decoding, pairing, resynchronisation.
//!
//! ```text
//!              first bytes            gap, malformed, orphan
//!  Detecting ───────────────▶ Synced ────────────────────────▶ Waiting
//!      │                        ▲  ▲ │  gap in the requests      ▲ │
//!      │ not this protocol      │  │ └──────▶ Draining ──────────┘ │
//!      ▼                     joined└─── a send that starts a ──────┘
//!   Ignored                mid-stream   request: on probation
//! ```
//!
//! A connection that was joined, or that lost its framing, goes on at a boundary that is likely but not proven. Until it
//! is, it is on *probation*: transactions are withheld. Drained (every request answered, nothing extra) and then quiet,
//! or drained again and again while no reply can be that of an earlier request, proves it; a reply without a request refutes it.

mod boundary;
mod load;
mod memory;
mod resync;

use super::batch::Call;
use super::matcher::Matcher;
use super::probation::{Probation, QUIET};
use super::setup::Setup;
use super::watch::Watch;
use super::{Ending, Exchange, Origin};
#[cfg(any(test, fuzzing))]
use crate::protocol::Operation;
use crate::protocol::detect::{Detected, detect};
use crate::protocol::{Effect, Protocol, Reply, ReplyDecoder, Request, RequestDecoder};
use crate::source::event::{End, Nanos};
use crate::stream::{Content, Segment, Side};
use crate::telemetry::{LeftOut, Resync, Skipped, Telemetry};

pub use load::Load;

/// Bytes looked at to tell the protocol, at most.
const MAX_HEAD: usize = 64;

/// What a connection's conversation needs to know of it.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What is expected on its port.
    pub protocol: Protocol,
    /// Which end it is seen from.
    pub end: End,
    /// Whether it is seen from its beginning.
    pub from_start: bool,
    /// Whether keys and query text are kept, and commands that left together are handed on together.
    pub keep_detail: bool,
}

#[derive(Debug)]
enum Phase {
    /// At the connection's beginning.
    Detecting {
        /// First bytes, too few to tell.
        head: Vec<u8>,
    },
    /// Framing and pairing are known.
    Synced,
    /// Requests are missing: what was sent before them is still paired, since replies come in order.
    Draining,
    /// They are not known.
    Waiting,
    /// Never will be.
    Ignored(Skipped),
}

/// One connection.
#[derive(Debug)]
pub struct Conversation<W = ()> {
    watch: W,
    settings: Settings,
    phase: Phase,
    requests: RequestDecoder,
    replies: ReplyDecoder,
    matcher: Matcher,
    began: (Nanos, Origin),
    /// The send that is being decoded began in the middle of a request.
    continues: bool,
    last: Option<(Side, Nanos)>,
    probation: Option<Probation>,
    answered: bool,
    /// Until the connection is ready, where that is asked for.
    setup: Option<Setup>,
    /// Bytes that the details of requests take that have not left.
    details: usize,
    /// Every request decoded, with its start: each must end exactly once.
    #[cfg(any(test, fuzzing))]
    pub(super) ledger: Vec<(Operation, Nanos)>,
    /// Length of the ledger when the boundary was found that is on probation.
    #[cfg(any(test, fuzzing))]
    proven: usize,
}

impl Conversation {
    /// A connection that begins, or is joined.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::watched(settings, ())
    }
}

impl<W: Watch> Conversation<W> {
    /// The same, with somebody who looks on.
    #[must_use]
    pub fn watched(settings: Settings, watch: W) -> Self {
        let protocol = settings.protocol;
        Self {
            watch,
            settings,
            phase: if settings.from_start {
                Phase::Detecting { head: Vec::new() }
            } else {
                Phase::Waiting
            },
            requests: RequestDecoder::new(protocol, settings.keep_detail),
            replies: ReplyDecoder::new(protocol),
            matcher: Matcher::new(protocol, settings.from_start, settings.keep_detail),
            began: (0, Origin::default()),
            continues: false,
            last: None,
            probation: None,
            answered: false,
            setup: None,
            details: 0,
            #[cfg(any(test, fuzzing))]
            ledger: Vec::new(),
            #[cfg(any(test, fuzzing))]
            proven: 0,
        }
    }

    /// Who looks on.
    pub fn watch(&mut self) -> &mut W {
        &mut self.watch
    }

    /// Why nothing of this connection is decoded; `None` while something is.
    #[must_use]
    pub fn ignored(&self) -> Option<Skipped> {
        match self.phase {
            Phase::Ignored(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether every request that began is complete and has its answer, or nothing is decoded any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Detecting { .. } | Phase::Draining => false,
            Phase::Synced => {
                self.requests.at_boundary()
                    && self.replies.at_boundary()
                    && self.matcher.is_drained()
            }
            Phase::Waiting | Phase::Ignored(_) => true,
        }
    }

    /// Takes in the next piece. Answers whether [`Self::tick`] is to be called.
    pub fn segment(
        &mut self,
        segment: &Segment<'_>,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) -> bool {
        if let Content::Dropped { length, reason } = segment.content {
            telemetry.skipped(reason).add(length);
            // What comes again was decoded before.
            if reason == Skipped::Race && self.ignored().is_none() {
                telemetry.lost_bytes.add(length);
            }
            return self.wants_tick();
        }
        if segment.side == Side::Request {
            self.prove(segment.time, out);
        }
        match segment.content {
            Content::Dropped { .. } => {}
            Content::Break => self.resynchronize(Resync::Race, segment.time, telemetry, out),
            Content::Gap { length, reason } => {
                telemetry.skipped(reason).add(length);
                self.gap(length, segment, telemetry, out);
            }
            Content::Bytes(bytes) => {
                if segment.side == Side::Reply {
                    self.reply_begins(segment.time, out);
                }
                self.watch.offered(segment.side, bytes.len() as u64);
                self.bytes(bytes, segment, telemetry, out);
                // First bytes that tell too little are read with those that follow.
                let waits = matches!(self.phase, Phase::Detecting { .. });
                if !waits || segment.side == Side::Reply {
                    self.watch.passed(segment.side);
                }
            }
        }
        self.last = Some((segment.side, segment.time));
        self.wants_tick()
    }

    /// Time has passed. Answers whether to be called again.
    pub fn tick(
        &mut self,
        now: Nanos,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) -> bool {
        // The server may refuse a request before it has all of it: while one is being sent, a reply may be its own.
        if self.requests.at_boundary()
            && let Err(reason) = self.matcher.expire(now)
        {
            self.resynchronize(reason, now, telemetry, out);
        }
        if self
            .last
            .is_some_and(|(_, time)| now.saturating_sub(time) >= QUIET)
        {
            match &mut self.probation {
                None => self.matcher.settle(now, out),
                Some(probation) => self
                    .matcher
                    .settle(now, &mut |exchange| probation.withhold(exchange)),
            }
            if self.probation.as_ref().is_some_and(Probation::is_drained) {
                self.confirm(out);
            }
        }
        self.wants_tick()
    }

    /// The connection is over at `time`; what is outstanding ends as `ending`.
    pub fn close(
        &mut self,
        ending: Ending,
        time: Nanos,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        if matches!(self.phase, Phase::Detecting { .. }) {
            self.wait(telemetry);
        }
        if self.matcher.is_drained() {
            self.confirm(out);
        }
        let ending = match self.probation {
            None => ending,
            Some(_) => Ending::Unresolved,
        };
        self.give_up(ending, time, telemetry, out);
    }

    fn wants_tick(&self) -> bool {
        self.matcher.has_early()
            || self.matcher.lingers()
            || self
                .probation
                .as_ref()
                .is_some_and(|probation| !probation.is_empty())
    }

    fn bytes(
        &mut self,
        bytes: &[u8],
        segment: &Segment<'_>,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        if matches!(self.phase, Phase::Ignored(Skipped::Stream)) && self.may_begin(bytes, segment) {
            // RESET ends MONITOR: what follows is found as on a connection that was joined.
            self.phase = Phase::Waiting;
        }
        match &mut self.phase {
            Phase::Synced => self.decode(bytes, segment, telemetry, out),
            Phase::Draining if segment.side == Side::Reply => {
                self.decode(bytes, segment, telemetry, out);
            }
            Phase::Draining => pass_over(bytes.len() as u64, telemetry),
            Phase::Ignored(reason) => telemetry.skipped(*reason).add(bytes.len() as u64),
            Phase::Detecting { head } => {
                if segment.side == Side::Reply {
                    return self.decode(bytes, segment, telemetry, out);
                }
                if head.is_empty() {
                    self.began = began(segment, segment.position);
                }
                // Nearly always the first send tells, and nothing is copied.
                let joined = if head.is_empty() {
                    None
                } else {
                    head.extend_from_slice(bytes);
                    Some(std::mem::take(head))
                };
                let first = joined.as_deref().unwrap_or(bytes);
                match detect(self.settings.protocol, first) {
                    Detected::NeedMore if first.len() < MAX_HEAD => {
                        self.phase = Phase::Detecting {
                            head: first.to_vec(),
                        };
                    }
                    Detected::NeedMore | Detected::Speaks => {
                        self.phase = Phase::Synced;
                        self.decode(first, segment, telemetry, out);
                    }
                    Detected::Tls => self.ignore(Skipped::Tls, first.len(), telemetry),
                    Detected::Foreign => self.ignore(Skipped::Foreign, first.len(), telemetry),
                }
            }
            Phase::Waiting => {
                if self.may_begin(bytes, segment) {
                    self.restart(segment.position);
                    self.decode(bytes, segment, telemetry, out);
                } else if segment.call_start
                    && detect(self.settings.protocol, bytes) == Detected::Tls
                {
                    self.ignore(Skipped::Tls, bytes.len(), telemetry);
                } else {
                    pass_over(bytes.len() as u64, telemetry);
                }
            }
        }
    }

    fn gap(
        &mut self,
        length: u64,
        segment: &Segment<'_>,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        match self.phase {
            Phase::Ignored(_) => return,
            Phase::Draining if segment.side == Side::Reply => {}
            Phase::Draining | Phase::Waiting => return telemetry.lost_bytes.add(length),
            Phase::Detecting { .. } | Phase::Synced => {}
        }
        let bridged = match segment.side {
            Side::Request => match self.requests.skip(length) {
                Ok(message) => {
                    self.watch.bridged(segment.side, length);
                    message.map_or(Ok(()), |request| {
                        self.request(request, segment.time, telemetry, out)
                    })
                }
                Err(_) => Err(Resync::Gap),
            },
            Side::Reply => match self.replies.skip(length) {
                Ok(message) => {
                    self.watch.bridged(segment.side, length);
                    message.map_or(Ok(()), |reply| self.reply(reply, segment, telemetry, out))
                }
                Err(_) => Err(Resync::Gap),
            },
        };
        if let Err(reason) = bridged {
            if reason == Resync::Gap {
                telemetry.lost_bytes.add(length);
                if segment.side == Side::Request && self.probation.is_some() {
                    return self.discard(reason, segment.position, segment.time, telemetry);
                }
                if segment.side == Side::Request && self.matcher.awaits_reply() {
                    telemetry.resyncs(self.settings.protocol, reason).add(1);
                    self.watch.spent(Side::Request);
                    self.phase = Phase::Draining;
                    return;
                }
            }
            self.resynchronize(reason, segment.time, telemetry, out);
        } else {
            self.look_drained(segment.time, telemetry, out);
        }
    }

    /// What was sent before the missing requests is answered: what comes now answers those.
    fn look_drained(&mut self, time: Nanos, telemetry: &Telemetry, out: &mut dyn FnMut(Exchange)) {
        if matches!(self.phase, Phase::Draining) && !self.matcher.awaits_reply() {
            self.give_up(Ending::Unresolved, time, telemetry, out);
            self.wait(telemetry);
        }
    }

    /// Decodes bytes of one direction, message by message.
    fn decode(
        &mut self,
        bytes: &[u8],
        segment: &Segment<'_>,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        let mut rest = bytes;
        self.messages(&mut rest, segment, telemetry, out);
        // What is left was counted as skipped.
        let decoded = bytes.len() - rest.len();
        telemetry.ledger.decoded.add_alone(decoded as u64);
    }

    fn messages(
        &mut self,
        input: &mut &[u8],
        segment: &Segment<'_>,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) {
        if segment.side == Side::Request && segment.call_start {
            self.continues = !self.requests.at_boundary();
        }
        let end = match segment.content {
            Content::Bytes(bytes) => segment.position.wrapping_add(bytes.len() as u32),
            Content::Gap { .. } | Content::Break | Content::Dropped { .. } => segment.position,
        };
        while !input.is_empty() {
            if let Some(stream) = self.matcher.stream() {
                // What is outstanding has its replies somewhere in the stream.
                self.give_up(Ending::Unresolved, segment.time, telemetry, out);
                return self.ignore(stream, input.len(), telemetry);
            }
            let step = match segment.side {
                Side::Request => {
                    if self.requests.at_boundary() {
                        let position = end.wrapping_sub(input.len() as u32);
                        if self.ends_value(input) {
                            pass_over(input.len() as u64, telemetry);
                            let reason = Resync::Malformed;
                            return self.discard(reason, position, segment.time, telemetry);
                        }
                        self.began = began(segment, position);
                    }
                    let before = *input;
                    let decoded = self.requests.decode(input);
                    if decoded.is_ok() {
                        let read = &before[..before.len() - input.len()];
                        self.watch.read(segment.side, read);
                    }
                    match decoded {
                        Ok(Some(request)) => self.request(request, segment.time, telemetry, out),
                        Ok(None) => return,
                        Err(malformed) => {
                            return self.malformed(malformed, input.len(), segment, telemetry, out);
                        }
                    }
                }
                Side::Reply => {
                    if self.replies.at_boundary() && self.matcher.unfolds() {
                        self.replies.unfold();
                    }
                    let before = *input;
                    let decoded = self.replies.decode(input);
                    if decoded.is_ok() {
                        let read = &before[..before.len() - input.len()];
                        self.watch.read(segment.side, read);
                    }
                    match decoded {
                        Ok(Some(reply)) => self.reply(reply, segment, telemetry, out),
                        Ok(None) => return,
                        Err(malformed) => {
                            return self.malformed(malformed, input.len(), segment, telemetry, out);
                        }
                    }
                }
            };
            if let Err(reason) = step {
                pass_over(input.len() as u64, telemetry);
                let is_bulk = reason == Resync::Budget && segment.side == Side::Request;
                if is_bulk && self.probation.is_some() {
                    let position = end.wrapping_sub(input.len() as u32);
                    return self.discard(reason, position, segment.time, telemetry);
                }
                return self.resynchronize(reason, segment.time, telemetry, out);
            }
            self.look_drained(segment.time, telemetry, out);
            if matches!(self.phase, Phase::Waiting) {
                return pass_over(input.len() as u64, telemetry);
            }
        }
    }

    fn request(
        &mut self,
        request: Request,
        now: Nanos,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        self.watch.requested(&request);
        telemetry.ledger.requests.add_alone(1);
        if matches!(request.effect, Effect::Replica | Effect::Replicate) {
            telemetry.left_out(LeftOut::Replication).add(1);
        } else {
            self.details += request.detail_memory();
        }
        let (started, origin) = self.began;
        let setting_up = match &mut self.setup {
            Some(setup) => setup.request(&request, started),
            None => false,
        };
        let before = self.matcher.waiting();
        #[cfg(any(test, fuzzing))]
        if !matches!(request.effect, Effect::Replica | Effect::Replicate) {
            self.ledger.push((request.operation, started));
        }
        let call = Call {
            started,
            tid: origin.task.map_or(0, |task| task.tid),
            continues: self.continues,
        };
        let matcher = &mut self.matcher;
        let result = match &mut self.probation {
            None => matcher.request(request, call, now, origin, out),
            Some(probation) => {
                let withhold = &mut |exchange| probation.withhold(exchange);
                matcher
                    .request(request, call, now, origin, withhold)
                    .and_then(|()| probation.look(matcher, now))
            }
        };
        if let Some(setup) = self.setup.as_mut().filter(|_| setting_up) {
            setup.sent(self.matcher.waiting().saturating_sub(before));
        }
        result
    }

    fn reply(
        &mut self,
        reply: Reply,
        segment: &Segment<'_>,
        telemetry: &Telemetry,
        out: &mut dyn FnMut(Exchange),
    ) -> Result<(), Resync> {
        // A server's answer ends when it is handed to the kernel, a client's when it is taken from it.
        let time = match self.settings.end {
            End::Client => segment.time,
            End::Server => segment.started,
        };
        let matcher = &mut self.matcher;
        self.watch.replied(matcher.answered());
        let before = matcher.waiting();
        match &mut self.probation {
            None => matcher.reply(reply, time, out)?,
            Some(probation) => {
                probation.note(matcher, &reply);
                matcher.reply(reply, time, &mut |exchange| probation.withhold(exchange))?;
                probation.look(matcher, segment.time)?;
            }
        }
        if let Some(setup) = &mut self.setup {
            setup.replied(before.saturating_sub(self.matcher.waiting()), time);
        }
        let pushes = self.matcher.take_pushes();
        if pushes > 0 {
            telemetry.pushes.add(pushes);
        }
        self.answered = true;
        Ok(())
    }

    fn reply_begins(&mut self, now: Nanos, out: &mut dyn FnMut(Exchange)) {
        let matcher = &mut self.matcher;
        match &mut self.probation {
            None => matcher.reply_begins(out),
            Some(probation) => {
                matcher.reply_begins(&mut |exchange| probation.withhold(exchange));
                // Nothing that a reply's arrival completes can exceed the budget by itself.
                let _ = probation.look(matcher, now);
            }
        }
    }
}

/// A request whose first byte, in this segment, is at `position`.
fn began(segment: &Segment<'_>, position: u32) -> (Nanos, Origin) {
    let task = segment.task.copied();
    (segment.started, Origin { position, task })
}

/// Counts bytes that are not decoded while the boundary is not known.
fn pass_over(length: u64, telemetry: &Telemetry) {
    telemetry.skipped(Skipped::Unsynchronized).add(length);
    telemetry.lost_bytes.add(length);
}
