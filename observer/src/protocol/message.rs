//! What decoders deliver: requests, and replies reduced to what matters of them.

use std::borrow::Cow;
use std::fmt;

/// The protocol spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Redis and its relatives: RESP2, RESP3, inline commands.
    Redis,
    /// Memcached, any of its dialects.
    Memcached,
}

impl Protocol {
    /// Value of `db.system.name`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Redis => "redis",
            Protocol::Memcached => "memcached",
        }
    }
}

/// The class of an operation, value of `cache.operation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Reads stored data.
    Get,
    /// Any write that stores data.
    Set,
    /// Removes data.
    Delete,
    /// Renews without reading.
    Touch,
    /// Counts up or down.
    Increment,
    /// Asks whether something is there.
    Exists,
    /// Sets or asks for a time to live.
    Expire,
    /// Walks the key space or a collection.
    Scan,
    /// Publishes or subscribes.
    Pubsub,
    /// Runs a script or function.
    Script,
    /// MULTI, EXEC and relatives.
    Transaction,
    /// Concerns the connection itself.
    Connection,
    /// Concerns the server.
    Admin,
    /// Not known to the command table.
    Other,
}

impl Class {
    /// Every class, in declaration order.
    pub const ALL: [Class; 14] = [
        Class::Get,
        Class::Set,
        Class::Delete,
        Class::Touch,
        Class::Increment,
        Class::Exists,
        Class::Expire,
        Class::Scan,
        Class::Pubsub,
        Class::Script,
        Class::Transaction,
        Class::Connection,
        Class::Admin,
        Class::Other,
    ];

    /// Value of `cache.operation`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Get => "get",
            Class::Set => "set",
            Class::Delete => "delete",
            Class::Touch => "touch",
            Class::Increment => "increment",
            Class::Exists => "exists",
            Class::Expire => "expire",
            Class::Scan => "scan",
            Class::Pubsub => "pubsub",
            Class::Script => "script",
            Class::Transaction => "transaction",
            Class::Connection => "connection",
            Class::Admin => "admin",
            Class::Other => "other",
        }
    }
}

/// A short ASCII word taken from the wire, kept without allocation: a command name, an error prefix.
///
/// Longer input is cut at [`Word::CAPACITY`] bytes. Letters are upper-cased; a byte that is neither an ASCII letter
/// nor a digit nor one of `_ - .` becomes `?`, so that a word is always safe to print and to use as an attribute.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Word {
    length: u8,
    bytes: [u8; Word::CAPACITY],
}

impl Word {
    /// Most bytes kept.
    pub const CAPACITY: usize = 31;

    /// No word.
    pub const EMPTY: Self = Self {
        length: 0,
        bytes: [0; Self::CAPACITY],
    };

    /// Stands for a command name that is not in the table of a text dialect: the line may as well be a value or a
    /// password that was taken for a command, so it is not repeated.
    pub const UNKNOWN: Self = Self::literal(b"UNKNOWN");

    /// A word of ours, at most [`Self::CAPACITY`] bytes, upper-case.
    pub(super) const fn literal(name: &'static [u8]) -> Self {
        let mut word = Self::EMPTY;
        word.length = name.len() as u8;
        word.bytes.split_at_mut(name.len()).0.copy_from_slice(name);
        word
    }

    /// Takes a word from the wire.
    #[must_use]
    pub fn new(wire: &[u8]) -> Self {
        let mut bytes = [0; Self::CAPACITY];
        let length = wire.len().min(Self::CAPACITY);
        for (to, from) in bytes.iter_mut().zip(wire) {
            *to = match from {
                b'a'..=b'z' => from.to_ascii_uppercase(),
                b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => *from,
                _ => b'?',
            };
        }
        Self {
            length: length as u8,
            bytes,
        }
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or("?")
    }

    /// The word as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether there is no word.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Default for Word {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The name of an operation, value of `db.operation.name`: upper-case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// In the command table of its protocol.
    Known {
        /// Index into that table: dense, so that series can be kept in an array.
        index: u16,
        /// The name.
        name: &'static str,
    },
    /// As it came over the wire.
    Other(Word),
}

impl Operation {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Operation::Known { name, .. } => name,
            Operation::Other(word) => word.as_str(),
        }
    }
}

/// What the server sends back for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// One reply.
    One,
    /// None at all: noreply, CLIENT REPLY SKIP.
    None,
    /// One confirmation for each channel, then pushes (RESP2 SUBSCRIBE and relatives).
    Subscriptions(u32),
    /// One reply, unless there is just this to say: then none, and the next answer tells (Memcached's quiet requests).
    Quiet(Silence),
}

/// What it means that a quiet request was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Its key was not found.
    Miss,
    /// It was done.
    Success,
}

/// What a successful request does to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// SELECT of this database.
    Select(u32),
    /// MULTI: the commands that follow are queued until EXEC or DISCARD.
    Multi,
    /// EXEC or DISCARD.
    EndMulti,
    /// RESET: back to the state of a new connection.
    Reset,
    /// HELLO: this version of RESP from the reply on; `None` keeps the one there is.
    Hello(Option<u8>),
    /// CLIENT REPLY ON: replies again, beginning with its own.
    ReplyOn,
    /// CLIENT REPLY OFF: no reply, from this one on.
    ReplyOff,
    /// CLIENT REPLY SKIP: no reply to this one and to the next.
    ReplySkip,
    /// MONITOR, `watch`: what follows the reply is a stream, not replies.
    Stream,
    /// SYNC, PSYNC: after the reply the connection carries replication, and its client is a replica.
    Replicate,
    /// REPLCONF: what only replicas send.
    Replica,
    /// QUIT, SHUTDOWN: the server closes, with a reply or without.
    Quit,
}

/// What the client of a connection says of itself. As part of a request only what that request says; an empty string
/// takes back what was said before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// The user that it authenticates as: AUTH, HELLO with AUTH.
    pub user: Option<String>,
    /// The connection's name: CLIENT SETNAME, HELLO with SETNAME.
    pub name: Option<String>,
    /// The client library: CLIENT SETINFO LIB-NAME.
    pub library: Option<String>,
    /// Its version: CLIENT SETINFO LIB-VER.
    pub library_version: Option<String>,
}

/// A time to live, or the end of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// This many seconds from now. Negative: removed at once.
    After(i64),
    /// At this time, milliseconds since the Unix epoch.
    At(i64),
}

impl Expiry {
    /// Seconds from `now`, nanoseconds since the Unix epoch; rounded up, since a key that lives for 200 ms does not live
    /// for 0 s.
    #[must_use]
    pub fn seconds(self, now: u64) -> i64 {
        match self {
            Expiry::After(seconds) => seconds,
            Expiry::At(millis) => {
                let now = i64::try_from(now / 1_000_000).unwrap_or(i64::MAX);
                seconds(millis.saturating_sub(now))
            }
        }
    }
}

/// Milliseconds as seconds, rounded up.
pub(super) fn seconds(millis: i64) -> i64 {
    millis.div_euclid(1000) + i64::from(millis.rem_euclid(1000) > 0)
}

/// What is kept of a request for spans. Holds no values and no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detail {
    /// `db.query.text`: keys stay, values are `?`. Printable: other bytes are escaped as `\xNN`.
    pub text: String,
    /// Where in it the client's own names stand: keys, scripts and functions.
    pub names: Places,
    /// The first keys, at most [`Detail::MAX_KEYS`], each printable and of at most [`Detail::MAX_KEY_BYTES`] bytes of the wire.
    pub keys: Vec<String>,
    /// SHA-1 or name of a script or function.
    pub stored_procedure: Option<String>,
    /// What the request says of its client.
    pub client: Option<Box<Client>>,
}

impl Detail {
    /// Most keys kept.
    pub const MAX_KEYS: usize = 16;
    /// Most bytes kept of a key.
    pub const MAX_KEY_BYTES: usize = 512;

    /// Bytes that it takes, but for what the request says of its client.
    #[must_use]
    pub fn memory(&self) -> usize {
        let keys = self.keys.iter().map(String::capacity).sum::<usize>();
        size_of::<Self>()
            + self.text.capacity()
            + self.keys.capacity() * size_of::<String>()
            + keys
            + self.stored_procedure.as_ref().map_or(0, String::capacity)
    }

    /// The text with each of the client's own names replaced. It ends with `…` before a name that is not whole.
    #[must_use]
    pub fn renamed<'a>(&'a self, mut rename: impl FnMut(&'a str) -> Cow<'a, str>) -> String {
        let mut out = String::with_capacity(self.text.len());
        let mut at = 0;
        for (start, end) in self.names.iter() {
            out.push_str(&self.text[at..start]);
            out.push_str(&rename(&self.text[start..end]));
            at = end;
        }
        match self.names.unlisted {
            None => out.push_str(&self.text[at..]),
            Some(start) => {
                out.push_str(&self.text[at..usize::from(start)]);
                out.push('…');
            }
        }
        out
    }
}

/// Places of names in a text, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Places {
    count: u8,
    /// Where each begins and ends.
    places: [(u16, u16); Places::MAX],
    /// Where the first begins that is not listed: it is not whole, or there was no room.
    unlisted: Option<u16>,
}

impl Places {
    /// Most places: the keys that are kept, and a script or function.
    const MAX: usize = Detail::MAX_KEYS + 1;

    /// A name stands from `start` to `end`, after all others.
    pub(crate) fn push(&mut self, start: usize, end: usize) {
        let place = u16::try_from(start).ok().zip(u16::try_from(end).ok());
        match (place, self.places.get_mut(usize::from(self.count))) {
            _ if self.unlisted.is_some() => {}
            (Some(place), Some(free)) => {
                *free = place;
                self.count += 1;
            }
            _ => self.unlisted = Some(u16::try_from(start).unwrap_or(u16::MAX)),
        }
    }

    /// Nothing of the text is left from `end` on.
    pub(super) fn cut(&mut self, end: usize) {
        let whole = self.iter().take_while(|place| place.1 <= end).count();
        if whole < usize::from(self.count) {
            self.unlisted = Some(self.places[whole].0);
            self.count = whole as u8;
        }
        self.unlisted = self.unlisted.filter(|start| usize::from(*start) < end);
    }

    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let places = &self.places[..usize::from(self.count)];
        places
            .iter()
            .map(|(start, end)| (usize::from(*start), usize::from(*end)))
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its name.
    pub operation: Operation,
    /// Its class.
    pub class: Class,
    /// Keys it names.
    pub key_count: u32,
    /// Bytes of the value or values that it writes; exact even when they were not captured. `None` when it writes none.
    pub value_size: Option<u64>,
    /// Time to live that it sets. `None` when it sets none.
    pub ttl: Option<Expiry>,
    /// What comes back.
    pub answer: Answer,
    /// A digest of what its reply repeats of it (opaque, opcode, key), where it does: tells which of several quiet
    /// requests a reply answers.
    pub tag: Option<u64>,
    /// What it does to its connection.
    pub effect: Effect,
    /// Whether the server may hold the reply back until something happens (BLPOP and relatives).
    pub blocking: bool,
    /// How hits and misses are read off the reply.
    pub hit_rule: HitRule,
    /// Which strings of the reply are values.
    pub reply_values: ReplyValues,
    /// Whether the values that come back are counted: [`Outcome::returned`].
    pub returns: bool,
    /// For spans, when the decoder was asked to keep it.
    pub detail: Option<Box<Detail>>,
}

impl Request {
    /// Bytes that its detail takes.
    #[must_use]
    pub fn detail_memory(&self) -> usize {
        self.detail.as_deref().map_or(0, Detail::memory)
    }

    /// A request that is answered once, of which no more is known.
    #[must_use]
    pub fn new(operation: Operation, class: Class) -> Self {
        Self {
            operation,
            class,
            key_count: 0,
            value_size: None,
            ttl: None,
            answer: Answer::One,
            tag: None,
            effect: Effect::None,
            blocking: false,
            hit_rule: HitRule::None,
            reply_values: ReplyValues::All,
            returns: false,
            detail: None,
        }
    }
}

/// How hits and misses are read off a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HitRule {
    /// The request reads no key or field, or its reply does not tell.
    #[default]
    None,
    /// A null reply is a miss, any other a hit.
    Null,
    /// Each null among the top-level elements is a miss, each other element a hit. A null reply misses all.
    NullElements {
        /// Keys or fields asked for.
        asked: u32,
    },
    /// An empty aggregate (or a null) is a miss.
    Empty,
    /// An integer: how many of those asked for are there.
    Count {
        /// Keys or fields asked for.
        asked: u32,
    },
    /// An array of integers, each 0 for a miss.
    ZeroElements {
        /// Keys or fields asked for.
        asked: u32,
    },
    /// A negative integer is a miss if it is -2 (TTL and relatives: no such key).
    MinusTwo,
    /// A status: `none` is a miss (TYPE).
    Type,
    /// Memcached retrieval: values that came against keys asked for.
    Values {
        /// Keys asked for.
        asked: u32,
    },
    /// Memcached: NOT_FOUND is a miss, success a hit (incr, decr, touch). EXISTS and NOT_STORED are neither.
    Found,
}

/// Which strings of a reply are values, counted in [`Outcome::value_size`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyValues {
    /// All of them.
    #[default]
    All,
    /// Those in every second element: the others are fields (HGETALL) or the key (BLPOP).
    EverySecond,
}

/// What a reply says, as far as its request's meaning goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Keys or fields found.
    pub hits: u32,
    /// Keys or fields not found.
    pub misses: u32,
    /// Bytes of the value or values read; exact even when they were not captured. `None` when none was read.
    pub value_size: Option<u64>,
    /// Values that came back, where the request says that they can be counted.
    pub returned: Option<u64>,
    /// How long the key has still to live, where it has a time to live and the reply tells.
    pub remaining: Option<Expiry>,
    /// Error prefix or status: `WRONGTYPE`, `SERVER_ERROR`.
    pub error: Option<Word>,
    /// A status that says why nothing was done, yet is no error: `NOT_STORED`, `EXISTS` (another was there, or the cas
    /// did not match), `NOT_FOUND` of a write.
    pub status: Option<Word>,
    /// Where MOVED or ASK points; such a reply is no error of the application.
    pub redirect: Option<Redirect>,
    /// Keys or fields removed.
    pub deleted: Option<u64>,
    /// The command was queued by MULTI: its own outcome comes with EXEC.
    pub queued: bool,
}

/// The target of MOVED or ASK. Rare, and so kept apart from the outcomes, which are moved often.
#[derive(Clone, PartialEq, Eq)]
pub struct Redirect(Box<str>);

impl Redirect {
    /// Most bytes of `host:port` kept: enough for the names of pods (`cluster-announce-hostname`), which are about 70
    /// bytes long. Longer ones are cut.
    pub const CAPACITY: usize = 110;

    /// `None` when it is not graphic ASCII.
    #[must_use]
    pub fn new(target: &[u8]) -> Option<Self> {
        if !target.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let kept = &target[..target.len().min(Self::CAPACITY)];
        Some(Self(std::str::from_utf8(kept).ok()?.into()))
    }

    /// `host:port`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a byte stream cannot be read on: the decoder's third answer, beside "complete" and "incomplete".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// A byte that no message can have here.
    #[error("a byte that the protocol does not allow here")]
    Syntax,
    /// Deeper nesting than [`redis` budgets](crate::protocol::redis) allow.
    #[error("nesting deeper than the budget")]
    Depth,
    /// A length or count beyond what the server itself accepts.
    #[error("a length beyond the protocol's limit")]
    Length,
    /// A line longer than the budget.
    #[error("a line longer than the budget")]
    Line,
    /// A well-formed beginning of another protocol, such as HTTP.
    #[error("another protocol")]
    Foreign,
}

/// A gap that fell outside a value of declared length: framing is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a gap outside a value: where the next message begins is not known")]
pub struct FramingLost;
