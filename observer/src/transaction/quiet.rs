//! Which request a reply answers where some are answered only sometimes.
//!
//! A quiet request gets a reply unless there is only its [`Silence`] to say. So a reply is of the first loud request that
//! is outstanding, or of a quiet one before it. Places are followed through as in a nondeterministic automaton: for each
//! reply, the requests that it can be the answer to, given where the replies before it can be. Once a reply has one place
//! left, all up to there is told: what was surely answered, what surely was not, and what cannot be known.
//!
//! A reply may be reported before its request. It is held back for that where a request not yet seen could be its own,
//! unless it repeats what only one request asked it to.

use std::collections::{HashMap, VecDeque};

use super::matcher::{EARLY_HOLD, Pending};
use crate::protocol::reply::{contradicts, is_silence};
use crate::protocol::{Answer, Protocol, Reply, ReplyKind, Silence, Word};
use crate::source::event::Nanos;
use crate::telemetry::work;

/// Most requests looked at for replies that cannot be placed yet: 1,400 requests without a tag, each answered. A reply
/// costs as many looks as there are requests that could be its own.
const MAX_WORK: usize = 1 << 20;

/// A reply whose place is not sure.
#[derive(Debug)]
struct Held {
    reply: Reply,
    time: Nanos,
    /// Requests that it can be the answer to, by their place in the queue; never empty, ascending.
    places: Vec<u32>,
    /// Whether it can as well be the answer to a request that is not seen yet.
    open: bool,
}

/// Where a reply belongs.
#[derive(Debug)]
pub(super) enum Placed {
    /// Told by a later one.
    Later,
    /// To no request that is outstanding, maybe to one that is not seen yet.
    Unseen(Reply),
    /// To none.
    Never,
    /// Too many requests could be its own.
    Budget,
    /// What became of the first requests of the queue.
    Told(Vec<Fate>),
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Fate {
    /// It was answered.
    Answered(Box<Reply>, Nanos),
    /// It was not answered, which says what it says.
    Silent(Silence),
    /// Not to be known.
    Unknown,
    /// Nothing tells yet.
    Open,
}

/// Quiet requests that are outstanding, and replies whose place is not sure.
#[derive(Debug, Default)]
pub(super) struct Quiets {
    /// Quiet requests in the queue.
    count: usize,
    /// How many requests in the queue have each tag.
    tags: HashMap<u64, u32>,
    held: Vec<Held>,
    work: usize,
    /// Earlier requests of the connection were not seen: a reply without a tag may be theirs.
    strangers: bool,
    /// How often such a reply was given to a quiet request while that was so. It takes away the sign that pairing is off by
    /// one: that a reply is left over.
    taints: u32,
}

impl Quiets {
    /// `joined`: earlier requests of the connection were not seen.
    pub(super) fn new(joined: bool) -> Self {
        Self {
            strangers: joined,
            ..Self::default()
        }
    }

    /// Whether a reply has to be placed here, and not simply at the front.
    pub(super) fn concern(&self, front: Option<&Pending>) -> bool {
        self.count > 0 && (!self.held.is_empty() || front.is_some_and(|front| !is_loud(front)))
    }

    /// Bytes held on the heap: each place of a reply held was looked at.
    pub(super) fn memory(&self) -> usize {
        self.held.capacity() * size_of::<Held>()
            + self.work.min(MAX_WORK) * size_of::<u32>()
            + self.tags.capacity() * size_of::<(u64, u32)>()
    }

    /// Gives back what is empty.
    pub(super) fn shrink(&mut self) {
        self.held.shrink_to_fit();
        self.tags.shrink_to_fit();
    }

    /// Whether no quiet request is outstanding.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A request was added to the end of the queue.
    pub(super) fn added(&mut self, pending: &VecDeque<Pending>) {
        let Some(new) = pending.back() else { return };
        self.count += usize::from(!is_loud(new));
        if let Some(tag) = new.request.tag {
            *self.tags.entry(tag).or_default() += 1;
        }
        let place = (pending.len() - 1) as u32;
        let mut before_is_here = false;
        for held in &mut self.held {
            let in_time = held.time.saturating_add(EARLY_HOLD) >= new.start;
            let here = held.open && in_time && can(new, &held.reply);
            // The reply before it can be the new request's, or the new request can stay without one.
            held.open = before_is_here || (held.open && !is_loud(new));
            if here {
                held.places.push(place);
            }
            before_is_here = here;
        }
        self.work += self.held.len();
        work::add(self.held.len());
    }

    /// A request has left the queue.
    pub(super) fn left(&mut self, pending: &Pending) {
        self.count -= usize::from(!is_loud(pending));
        if let Some(tag) = pending.request.tag
            && let Some(count) = self.tags.get_mut(&tag)
        {
            *count -= 1;
            if *count == 0 {
                self.tags.remove(&tag);
            }
        }
    }

    /// How often a reply was given to a quiet request that may as well be that of a request which was not seen.
    pub(super) fn taints(&self) -> u32 {
        self.taints
    }

    /// No request that was not seen is outstanding. Answers whether what was told before can be wrong.
    pub(super) fn prove(&mut self) -> bool {
        self.strangers = false;
        std::mem::take(&mut self.taints) > 0
    }

    /// Takes a reply in.
    pub(super) fn place(
        &mut self,
        pending: &VecDeque<Pending>,
        reply: Reply,
        time: Nanos,
    ) -> Placed {
        let unique = reply.kind != ReplyKind::Error
            && reply.tag.is_some_and(|tag| self.tags.get(&tag) == Some(&1));
        let (places, open) = self.places(pending, &reply, unique);
        match (&*places, open) {
            // It is tried anew with each request that comes.
            ([], true) if self.work > MAX_WORK => return Placed::Budget,
            ([], true) => return Placed::Unseen(reply),
            ([], false) => return Placed::Never,
            _ => {}
        }
        let sure = (places.len() == 1 && (unique || !open)).then(|| places[0] as usize);
        self.held.push(Held {
            reply,
            time,
            places,
            open,
        });
        match sure {
            Some(last) => Placed::Told(self.tell(pending, last)),
            None if self.work > MAX_WORK => Placed::Budget,
            None => Placed::Later,
        }
    }

    /// Whether [`Self::settle`] will tell something once time has passed.
    pub(super) fn waits(&self) -> bool {
        self.held.last().is_some_and(|held| held.places.len() == 1)
    }

    /// Time has passed: a reply that could only be that of a request not yet seen, or of one that is, is of that one.
    pub(super) fn settle(&mut self, pending: &VecDeque<Pending>, now: Nanos) -> Vec<Fate> {
        match self.held.last() {
            Some(held) if self.waits() && now.saturating_sub(held.time) > EARLY_HOLD => {
                self.finish(pending)
            }
            _ => Vec::new(),
        }
    }

    /// The connection is over: what became of the first requests of the queue.
    pub(super) fn finish(&mut self, pending: &VecDeque<Pending>) -> Vec<Fate> {
        let last = self.held.last().and_then(|held| held.places.last());
        match last.copied() {
            Some(last) => self.tell(pending, last as usize),
            None => Vec::new(),
        }
    }

    /// Requests that the next reply can be the answer to, and whether one not yet seen can be, too.
    fn places(
        &mut self,
        pending: &VecDeque<Pending>,
        reply: &Reply,
        unique: bool,
    ) -> (Vec<u32>, bool) {
        let before: &[u32] = match self.held.last() {
            Some(held) => &held.places,
            None => &[],
        };
        let (first, mut before) = match before {
            [] => (0, [].iter().peekable()),
            [first, rest @ ..] => (*first as usize + 1, rest.iter().peekable()),
        };
        let mut places = Vec::new();
        let mut reached = true;
        let looks = &mut self.work;
        for (place, request) in pending.iter().enumerate().skip(first) {
            *looks += 1;
            work::add(1);
            if reached && can(request, reply) {
                places.push(place as u32);
                if unique {
                    return (places, false);
                }
            }
            // The reply before this one may be here; else only a quiet request is passed over.
            if before.next_if_eq(&&(place as u32)).is_some() {
                reached = true;
            } else if is_loud(request) {
                reached = false;
            }
            if !reached && before.peek().is_none() {
                return (places, false);
            }
        }
        (places, reached)
    }

    /// What became of the requests up to `last`, the furthest place of the last reply held. Nothing is held after.
    fn tell(&mut self, pending: &VecDeque<Pending>, last: usize) -> Vec<Fate> {
        let held = std::mem::take(&mut self.held);
        self.work = 0;
        work::add(last + 1);
        let sure = held.last().map_or(0, |held| held.places[0] as usize);
        let mut fates: Vec<Fate> = pending
            .iter()
            .take(last + 1)
            .enumerate()
            .map(|(place, request)| match request.request.answer {
                Answer::Quiet(silence) if place < sure => Fate::Silent(silence),
                _ => Fate::Open,
            })
            .collect();
        let mut after: Option<Vec<u32>> = None;
        for Held {
            reply,
            time,
            places,
            ..
        } in held.into_iter().rev()
        {
            let places = match &after {
                None => places,
                Some(after) => leading_to(after, &places, pending),
            };
            match places[..] {
                [place] => {
                    let loud = is_loud(&pending[place as usize]);
                    let sure = loud || reply.tag.is_some() || !self.strangers;
                    self.taints += u32::from(!sure);
                    fates[place as usize] = Fate::Answered(Box::new(reply), time);
                }
                _ => {
                    self.taints += u32::from(self.strangers);
                    for place in &places {
                        fates[*place as usize] = Fate::Unknown;
                    }
                }
            }
            after = Some(places);
        }
        fates
    }
}

/// Those of `places` from where the next reply can have come to `after`.
fn leading_to(after: &[u32], places: &[u32], pending: &VecDeque<Pending>) -> Vec<u32> {
    let (Some((last, after)), Some(first)) = (after.split_last(), places.first()) else {
        return Vec::new();
    };
    let mut after = after.iter().rev().peekable();
    let mut places = places.iter().rev().peekable();
    let mut kept = Vec::new();
    let mut reached = true;
    for place in (*first..*last).rev() {
        work::add(1);
        while places.next_if(|next| **next > place).is_some() {}
        let here = places.next_if_eq(&&place).is_some();
        if reached && here {
            kept.push(place);
        }
        if after.next_if_eq(&&place).is_some() {
            reached = true;
        } else if is_loud(&pending[place as usize]) {
            reached = false;
        }
    }
    kept.reverse();
    kept
}

/// Memcached's `noreply`: the server leaves errors out, too, for such lines as are decoded, except that it cannot store the
/// value, in some versions, and that the client is not authenticated. So an error may be the answer to such a request.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Such requests came since the last one that is answered.
    muted: bool,
    /// Outstanding requests that came behind such.
    outstanding: usize,
    /// A reply came that is no error.
    welcome: bool,
}

impl Doubt {
    /// A request with noreply was sent.
    pub(super) fn muted(&mut self) {
        self.muted = true;
    }

    /// Another was sent. Answers whether it came behind such.
    pub(super) fn added(&mut self) -> bool {
        let doubtful = std::mem::take(&mut self.muted);
        self.outstanding += usize::from(doubtful);
        doubtful
    }

    /// A request is no longer outstanding.
    pub(super) fn left(&mut self, doubtful: bool) {
        self.outstanding -= usize::from(doubtful);
    }

    /// Whether a reply may be the answer to one with noreply. `idle`: no other is outstanding.
    pub(super) fn concerns(&mut self, reply: &Reply, idle: bool) -> bool {
        self.welcome |= reply.error.is_none();
        let in_doubt = self.outstanding > 0 || (self.muted && idle);
        let refused = |word: Word| word.as_str() == "SERVER_ERROR" || !self.welcome;
        in_doubt && reply.error.is_some_and(refused)
    }
}

fn is_loud(pending: &Pending) -> bool {
    !matches!(pending.request.answer, Answer::Quiet(_))
}

/// Whether a reply can be the answer to a request.
fn can(pending: &Pending, reply: &Reply) -> bool {
    let request = &pending.request;
    if let Answer::Quiet(silence) = request.answer {
        let other = reply.kind != ReplyKind::Error && request.tag != reply.tag;
        if other || is_silence(request, reply, silence) {
            return false;
        }
    }
    !contradicts(Protocol::Memcached, request, reply, true)
}
