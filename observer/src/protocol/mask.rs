//! What of a stream may be kept: the decoders' own knowledge of which bytes are framing, names and numbers.
//!
//! A [`Mask`] is fed what a decoder has read, and gives as many bytes back: those that are known to be harmless as they are, all
//! others as filler that a decoder reads in the same way. It is a list of what is kept, not of what is taken out: a byte that
//! nothing vouches for is gone. It never shows more than a span would: command names and options, numbers that mean
//! something, keys as [`Names`] shows them; and how long the rest is.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::memcached;
use super::message::{Protocol, Request};
use super::redis;

/// How what has a name appears. Each answer is as long as what was asked.
pub trait Names {
    /// A key, or the name of a script or function. The same for the same; without spaces or control bytes that it had not.
    fn key(&self, key: &[u8]) -> Vec<u8>;
    /// A number or word by which a reply repeats its request: equal for equal, another for another. `text`: without spaces and
    /// control bytes.
    fn opaque(&self, opaque: &[u8], text: bool) -> Vec<u8>;
    /// Whether users are shown.
    fn user(&self) -> bool;
    /// Whether the names of clients and their libraries are shown.
    fn client(&self) -> bool;
    /// Whether nothing of this command is shown but its name.
    fn hides(&self, operation: &str) -> bool;
}

/// Shared by all masks.
pub type SharedNames = Arc<dyn Names + Send + Sync>;

/// Most keys remembered that replies may repeat: as many as requests may be outstanding.
const MAX_ASKED: usize = 65_536;

/// What the masks of both directions of a connection share.
#[derive(Clone)]
pub struct Shared {
    names: SharedNames,
    asked: Arc<Mutex<Asked>>,
}

/// Hashes of the keys that replies may repeat, and in which order they were asked for.
#[derive(Default)]
struct Asked {
    known: FxHashMap<u64, u32>,
    order: VecDeque<u64>,
    hash: RandomState,
}

impl Shared {
    /// Of a new connection.
    #[must_use]
    pub fn new(names: SharedNames) -> Self {
        Self {
            names,
            asked: Arc::default(),
        }
    }

    /// A request has this key, and its reply may repeat it.
    pub(in crate::protocol) fn ask(&self, key: &[u8]) {
        let mut asked = self.asked();
        let hash = asked.hash.hash_one(key);
        *asked.known.entry(hash).or_default() += 1;
        asked.order.push_back(hash);
        if asked.order.len() > MAX_ASKED
            && let Some(first) = asked.order.pop_front()
            && let Some(count) = asked.known.get_mut(&first)
        {
            *count -= 1;
            if *count == 0 {
                asked.known.remove(&first);
            }
        }
    }

    /// What a reply repeats: a key that was asked for, or anything.
    pub(in crate::protocol) fn repeated(&self, key: &[u8]) -> Vec<u8> {
        let asked = self.asked();
        match asked.known.contains_key(&asked.hash.hash_one(key)) {
            true => self.names.key(key),
            false => self.names.opaque(key, true),
        }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for Shared {
    type Target = dyn Names + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.names
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// Bytes that are decided on, in the order of the stream.
#[derive(Debug, Default)]
pub struct Masked {
    pieces: VecDeque<Piece>,
    length: u64,
    /// Those that are not zeros.
    held: u64,
}

/// Neighbours of one kind are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These.
    Bytes(Vec<u8>),
    /// So many zeros.
    Zeros(u64),
}

impl Masked {
    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Pieces in it: what bounds its memory.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of memory in them.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// These bytes come next.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.length += bytes.len() as u64;
        self.held += bytes.len() as u64;
        match self.pieces.back_mut() {
            Some(Piece::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.pieces.push_back(Piece::Bytes(bytes.to_vec())),
        }
    }

    /// So many zeros come next.
    pub fn zeros(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        self.length += count;
        match self.pieces.back_mut() {
            Some(Piece::Zeros(last)) => *last += count,
            _ => self.pieces.push_back(Piece::Zeros(count)),
        }
    }

    /// All of `other` comes next.
    pub fn append(&mut self, other: &mut Self) {
        while let Some(piece) = other.take() {
            match piece {
                Piece::Bytes(bytes) => self.bytes(&bytes),
                Piece::Zeros(count) => self.zeros(count),
            }
        }
    }

    /// Takes the first piece out.
    pub fn take(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_front()?;
        self.length -= match &piece {
            Piece::Bytes(bytes) => {
                self.held -= bytes.len() as u64;
                bytes.len() as u64
            }
            Piece::Zeros(count) => *count,
        };
        Some(piece)
    }

    /// Forgets what is in it. Answers how many bytes that were.
    pub fn clear(&mut self) -> u64 {
        self.pieces.clear();
        self.held = 0;
        std::mem::take(&mut self.length)
    }
}

/// What a decoder said at the end of a message.
#[derive(Debug, Clone, Copy)]
pub enum Ended<'a> {
    /// A request.
    Request(&'a Request),
    /// A reply. `number`: what its request asked for is the number that it may be.
    Reply {
        /// See above.
        number: bool,
    },
}

#[derive(Debug)]
enum Kind {
    RedisRequests(redis::mask::Requests),
    RedisReplies(redis::mask::Replies),
    MemcachedRequests(memcached::mask::Requests),
    MemcachedReplies(memcached::mask::Replies),
}

/// The mask of one direction, at a message boundary when it is made.
#[derive(Debug)]
pub struct Mask {
    kind: Kind,
    /// Bytes fed of which nothing came out yet.
    pending: u64,
    lost: bool,
}

/// It reads otherwise than the decoder: nothing is shown any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocol) struct Disagrees;

impl Mask {
    /// Of what a client sends.
    #[must_use]
    pub fn requests(protocol: Protocol, names: Shared) -> Self {
        Self::new(match protocol {
            Protocol::Redis => Kind::RedisRequests(redis::mask::Requests::new(names)),
            Protocol::Memcached => Kind::MemcachedRequests(memcached::mask::Requests::new(names)),
        })
    }

    /// Of what a server sends.
    #[must_use]
    pub fn replies(protocol: Protocol, names: Shared) -> Self {
        Self::new(match protocol {
            Protocol::Redis => Kind::RedisReplies(redis::mask::Replies::new()),
            Protocol::Memcached => Kind::MemcachedReplies(memcached::mask::Replies::new(names)),
        })
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            pending: 0,
            lost: false,
        }
    }

    /// The decoder has read these bytes.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Masked) {
        self.act(bytes.len() as u64, out, |kind, out| match kind {
            Kind::RedisRequests(mask) => mask.feed(bytes, out),
            Kind::RedisReplies(mask) => mask.feed(bytes, out),
            Kind::MemcachedRequests(mask) => mask.feed(bytes, out),
            Kind::MemcachedReplies(mask) => mask.feed(bytes, out),
        });
    }

    /// The decoder has bridged a gap.
    pub fn skip(&mut self, length: u64, out: &mut Masked) {
        self.act(0, out, |kind, out| match kind {
            Kind::RedisRequests(mask) => mask.skip(length),
            Kind::RedisReplies(mask) => mask.skip(length, out),
            Kind::MemcachedRequests(mask) => mask.skip(length),
            Kind::MemcachedReplies(mask) => mask.skip(length),
        });
    }

    /// The decoder has read a message to its end.
    pub fn end(&mut self, ended: Ended<'_>, out: &mut Masked) {
        self.act(0, out, |kind, out| match (kind, ended) {
            (Kind::RedisRequests(mask), Ended::Request(_)) => mask.end(out),
            (Kind::RedisReplies(mask), Ended::Reply { number }) => mask.end(number, out),
            (Kind::MemcachedRequests(mask), Ended::Request(request)) => mask.end(request, out),
            (Kind::MemcachedReplies(mask), Ended::Reply { .. }) => mask.end(),
            _ => Err(Disagrees),
        });
        if self.pending > 0 {
            self.lose(out);
        }
    }

    /// The decoder is spent: nothing is shown of what is not decided, and of what is still fed.
    pub fn lose(&mut self, out: &mut Masked) {
        self.lost = true;
        out.zeros(std::mem::take(&mut self.pending));
    }

    fn act(
        &mut self,
        fed: u64,
        out: &mut Masked,
        act: impl FnOnce(&mut Kind, &mut Masked) -> Result<(), Disagrees>,
    ) {
        self.pending += fed;
        if self.lost {
            return out.zeros(std::mem::take(&mut self.pending));
        }
        let before = out.len();
        let result = act(&mut self.kind, out);
        // No mask gives more back than it was fed.
        self.pending = self.pending.saturating_sub(out.len() - before);
        if result.is_err() {
            self.lose(out);
        }
    }
}

/// The words of a line between single spaces, as ranges; empty ones where spaces follow each other.
pub(in crate::protocol) fn words(line: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut start = 0;
    line.split(|byte| *byte == b' ')
        .map(|word| {
            let range = start..start + word.len();
            start = range.end + 1;
            range
        })
        .collect()
}
