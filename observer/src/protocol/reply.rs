//! Replies, reduced to what matters of them, and what they mean for their requests.

use super::memcached;
use super::message::{
    Class, Expiry, HitRule, Operation, Outcome, Protocol, Redirect, ReplyValues, Request, Silence,
    Word, seconds,
};

/// The shape of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyKind {
    /// A status line: `+OK`, `STORED`.
    #[default]
    Simple,
    /// An error, from a line or (RESP3) a counted string.
    Error,
    /// An integer or a boolean.
    Integer,
    /// A counted string, a double, a big number.
    Value,
    /// A null of either RESP version.
    Null,
    /// An array, set or map; the values of a Memcached retrieval.
    Aggregate,
    /// The head of an array that is unfolded: its elements follow as replies of their own.
    Unfolded,
    /// RESP3 out-of-band data: it answers no request.
    Push,
}

/// One reply. Holds no values: [`Reply::word`] is a status or the kind of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Its shape.
    pub kind: ReplyKind,
    /// The prefix of an error reply: `WRONGTYPE`, `MOVED`, `SERVER_ERROR`. A first word that does not look like
    /// a prefix (upper-case letters, `_`, `-`) is reported as `ERR`, since a script can put anything there.
    pub error: Option<Word>,
    /// Where MOVED or ASK points. [`Reply::error`] is then set too.
    pub redirect: Option<Redirect>,
    /// The integer; 0 or 1 for a boolean.
    pub integer: Option<i64>,
    /// Top-level elements; a map counts keys and values, so that RESP2 and RESP3 agree. Memcached: values, or
    /// lines of statistics.
    pub elements: u64,
    /// Null elements at the top level.
    pub nulls: u64,
    /// Integer elements at the top level that are 0.
    pub zeros: u64,
    /// Error elements at the top level (EXEC).
    pub errors: u64,
    /// Bytes of strings (and doubles and big numbers) at any depth, exact even when they were not captured.
    pub value_size: u64,
    /// The same of what is in every second element at the top level.
    pub second_size: u64,
    /// A status (`OK`, `QUEUED`); the first element of a push or of a RESP2 subscription message (`MESSAGE`,
    /// `SUBSCRIBE`); for an aggregate with errors in it, the prefix of the first. Else empty.
    pub word: Word,
    /// A digest of what it repeats of its request, as [`Request::tag`].
    pub tag: Option<u64>,
    /// Seconds that its key has still to live (Memcached's meta flag `t`); -1: for ever.
    pub remaining: Option<i64>,
}

/// What a reply means for its request.
///
/// Hits and misses follow the server's `keyspace_hits` and `keyspace_misses` where the reply tells, with
/// fields counted like keys (`redis/src/db.c`, `lookupKeyReadWithFlags`).
#[must_use]
pub fn outcome(request: &Request, reply: &Reply) -> Outcome {
    let mut outcome = Outcome::default();
    match reply.kind {
        ReplyKind::Error => {
            outcome.error = reply.error;
            outcome.redirect.clone_from(&reply.redirect);
            return outcome;
        }
        ReplyKind::Simple if reply.word.as_bytes() == b"QUEUED" => {
            outcome.queued = true;
            return outcome;
        }
        // Errors inside EXEC: the first stands for the transaction.
        ReplyKind::Aggregate if reply.errors > 0 && request.class == Class::Transaction => {
            outcome.error = Some(reply.word);
        }
        _ => {}
    }
    (outcome.hits, outcome.misses) = hits_and_misses(request.hit_rule, reply);
    if reply.kind == ReplyKind::Simple {
        outcome.status = match reply.word.as_bytes() {
            b"NOT_STORED" | b"NS" | b"EXISTS" | b"EX" => Some(reply.word),
            b"NOT_FOUND" | b"NF" if request.class == Class::Set => Some(reply.word),
            _ => None,
        };
    }
    if request.class == Class::Get {
        outcome.value_size = match reply.kind {
            ReplyKind::Value => Some(reply.value_size),
            ReplyKind::Aggregate if reply.elements > reply.nulls => {
                Some(match request.reply_values {
                    ReplyValues::All => reply.value_size,
                    ReplyValues::EverySecond => reply.second_size,
                })
            }
            _ => None,
        };
    }
    outcome.returned = returned(request, reply);
    outcome.remaining = remaining(request, reply);
    if request.class == Class::Delete {
        outcome.deleted = match reply.kind {
            ReplyKind::Integer => reply.integer.and_then(|count| u64::try_from(count).ok()),
            ReplyKind::Simple => match reply.word.as_bytes() {
                b"DELETED" | b"HD" => Some(1),
                b"NOT_FOUND" | b"NF" | b"EXISTS" | b"EX" => Some(0),
                _ => None,
            },
            // HDEL-like commands that answer one integer a field (HGETDEL answers values instead).
            _ => None,
        };
    }
    outcome
}

/// Values that came back: strings, elements, fields with their values. An element that is itself a structure is one.
fn returned(request: &Request, reply: &Reply) -> Option<u64> {
    if !request.returns {
        return None;
    }
    match (reply.kind, request.hit_rule) {
        (ReplyKind::Null, _) => Some(0),
        (ReplyKind::Value, _) => Some(1),
        (ReplyKind::Aggregate, HitRule::Null) => Some(1),
        (ReplyKind::Aggregate, HitRule::NullElements { .. }) => {
            Some(reply.elements.saturating_sub(reply.nulls))
        }
        (ReplyKind::Aggregate, _) => Some(match request.reply_values {
            ReplyValues::All => reply.elements,
            ReplyValues::EverySecond => reply.elements / 2,
        }),
        // A number is an answer, not what is stored.
        _ => None,
    }
}

/// How long a key has still to live. A negative answer is no time: there is no key, or no end.
fn remaining(request: &Request, reply: &Reply) -> Option<Expiry> {
    let number = match request.hit_rule {
        HitRule::MinusTwo => reply.integer,
        _ => reply.remaining,
    };
    let number = number.filter(|number| *number >= 0)?;
    match request.operation.name() {
        "PTTL" => Some(Expiry::After(seconds(number))),
        "EXPIRETIME" => Some(Expiry::At(number.saturating_mul(1000))),
        "PEXPIRETIME" => Some(Expiry::At(number)),
        "TTL" | "MG" => Some(Expiry::After(number)),
        _ => None,
    }
}

/// Whether a reply certainly is not that request's: the pairing is off. Only commands that the table knows are judged. As
/// long as the boundary is not `trusted`, a status of Redis does not answer a read either: it may answer the write whose
/// value looks like that read.
#[must_use]
pub fn contradicts(protocol: Protocol, request: &Request, reply: &Reply, trusted: bool) -> bool {
    if protocol == Protocol::Memcached && !memcached::can_answer(request, reply) {
        return true;
    }
    if reply.kind == ReplyKind::Error || matches!(request.operation, Operation::Other(_)) {
        return false;
    }
    match request.hit_rule {
        HitRule::NullElements { asked } | HitRule::ZeroElements { asked } => {
            reply.kind != ReplyKind::Null
                && (reply.kind != ReplyKind::Aggregate || reply.elements != u64::from(asked))
        }
        HitRule::Count { .. } | HitRule::MinusTwo => reply.kind != ReplyKind::Integer,
        HitRule::Type => reply.kind != ReplyKind::Simple,
        HitRule::Values { asked } => {
            reply.kind != ReplyKind::Aggregate || reply.elements > u64::from(asked)
        }
        HitRule::Null | HitRule::Empty => {
            protocol == Protocol::Redis && !trusted && reply.kind == ReplyKind::Simple
        }
        HitRule::None | HitRule::Found => false,
    }
}

/// What it means that a quiet request was not answered.
#[must_use]
pub fn silent(request: &Request, silence: Silence) -> Outcome {
    let mut outcome = Outcome::default();
    let told = request.hit_rule != HitRule::None;
    match silence {
        Silence::Miss => outcome.misses = u32::from(told),
        Silence::Success => {
            outcome.hits = u32::from(told);
            outcome.deleted =
                (request.class == Class::Delete && request.key_count == 1).then_some(1);
        }
    }
    outcome
}

/// Whether the answer to a quiet request would have been left out if that was all there is to say.
#[must_use]
pub fn is_silence(request: &Request, reply: &Reply, silence: Silence) -> bool {
    if reply.kind == ReplyKind::Error {
        return false;
    }
    let outcome = outcome(request, reply);
    match silence {
        Silence::Miss => outcome.misses > 0 || reply.kind == ReplyKind::Null,
        // A counter that is made where there was none is answered.
        Silence::Success
            if request.class == Class::Increment && request.hit_rule == HitRule::None =>
        {
            false
        }
        Silence::Success => {
            let missing = matches!(reply.word.as_bytes(), b"NOT_FOUND" | b"NF");
            outcome.misses == 0 && outcome.status.is_none() && !missing
        }
    }
}

/// Hits and misses of a reply that is no error.
fn hits_and_misses(rule: HitRule, reply: &Reply) -> (u32, u32) {
    let of = |asked: u32, found: u64| {
        let hits = u32::try_from(found).unwrap_or(u32::MAX).min(asked);
        (hits, asked - hits)
    };
    let null = reply.kind == ReplyKind::Null;
    match rule {
        HitRule::None => (0, 0),
        HitRule::Null => of(1, u64::from(!null)),
        HitRule::NullElements { asked } => of(asked, reply.elements.saturating_sub(reply.nulls)),
        HitRule::Empty => {
            let empty = null || (reply.kind == ReplyKind::Aggregate && reply.elements == 0);
            of(1, u64::from(!empty))
        }
        HitRule::Count { asked } => of(
            asked,
            reply
                .integer
                .and_then(|n| u64::try_from(n).ok())
                .unwrap_or(0),
        ),
        HitRule::ZeroElements { asked } => of(asked, reply.elements.saturating_sub(reply.zeros)),
        HitRule::MinusTwo => of(1, u64::from(reply.integer != Some(-2))),
        HitRule::Type => of(1, u64::from(reply.word.as_bytes() != b"NONE")),
        HitRule::Values { asked } => of(asked, reply.elements),
        HitRule::Found => match reply.word.as_bytes() {
            b"EXISTS" | b"EX" | b"NOT_STORED" | b"NS" => (0, 0),
            word => of(1, u64::from(!matches!(word, b"NOT_FOUND" | b"NF"))),
        },
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn request(class: Class, hit_rule: HitRule) -> Request {
        Request {
            key_count: 1,
            hit_rule,
            ..Request::new(Operation::Other(Word::new(b"test")), class)
        }
    }

    fn reply(kind: ReplyKind) -> Reply {
        Reply {
            kind,
            ..Reply::default()
        }
    }

    #[test]
    fn hits_and_misses_by_rule() {
        let integer = |n| Reply {
            integer: Some(n),
            ..reply(ReplyKind::Integer)
        };
        let array = |elements, nulls, zeros| Reply {
            elements,
            nulls,
            zeros,
            ..reply(ReplyKind::Aggregate)
        };
        let word = |w: &[u8]| Reply {
            word: Word::new(w),
            ..reply(ReplyKind::Simple)
        };
        let asked = 3;
        for (rule, reply, expected) in [
            (HitRule::None, reply(ReplyKind::Null), (0, 0)),
            (HitRule::Null, reply(ReplyKind::Null), (0, 1)),
            (HitRule::Null, reply(ReplyKind::Value), (1, 0)),
            (HitRule::NullElements { asked }, array(3, 1, 0), (2, 1)),
            (
                HitRule::NullElements { asked },
                reply(ReplyKind::Null),
                (0, 3),
            ),
            (HitRule::Empty, array(0, 0, 0), (0, 1)),
            (HitRule::Empty, reply(ReplyKind::Null), (0, 1)),
            (HitRule::Empty, array(2, 2, 0), (1, 0)),
            (HitRule::Count { asked }, integer(2), (2, 1)),
            (HitRule::Count { asked }, integer(99), (3, 0)),
            (HitRule::Count { asked }, integer(-1), (0, 3)),
            (HitRule::ZeroElements { asked }, array(3, 0, 2), (1, 2)),
            (HitRule::MinusTwo, integer(-2), (0, 1)),
            (HitRule::MinusTwo, integer(-1), (1, 0)),
            (HitRule::Type, word(b"none"), (0, 1)),
            (HitRule::Type, word(b"string"), (1, 0)),
            (HitRule::Values { asked }, array(1, 0, 0), (1, 2)),
            (HitRule::Found, word(b"NOT_FOUND"), (0, 1)),
            (HitRule::Found, word(b"TOUCHED"), (1, 0)),
            (HitRule::Found, integer(5), (1, 0)),
        ] {
            assert_eq!(
                hits_and_misses(rule, &reply),
                expected,
                "{rule:?} {reply:?}"
            );
        }
    }

    #[test]
    fn an_error_is_neither_hit_nor_miss() {
        let error = Reply {
            error: Some(Word::new(b"WRONGTYPE")),
            ..reply(ReplyKind::Error)
        };
        let outcome = outcome(&request(Class::Get, HitRule::Null), &error);
        assert_eq!(
            (outcome.hits, outcome.misses, outcome.value_size),
            (0, 0, None)
        );
        assert_eq!(outcome.error, Some(Word::new(b"WRONGTYPE")));
    }

    #[test]
    fn queued_says_nothing_yet() {
        let queued = Reply {
            word: Word::new(b"QUEUED"),
            ..reply(ReplyKind::Simple)
        };
        let outcome = outcome(&request(Class::Get, HitRule::Null), &queued);
        assert!(outcome.queued);
        assert_eq!((outcome.hits, outcome.misses), (0, 0));
    }

    #[test]
    fn sizes_and_deletions() {
        let value = Reply {
            value_size: 7,
            ..reply(ReplyKind::Value)
        };
        let read = outcome(&request(Class::Get, HitRule::Null), &value);
        assert_eq!((read.value_size, read.deleted), (Some(7), None));
        let miss = outcome(&request(Class::Get, HitRule::Null), &reply(ReplyKind::Null));
        assert_eq!(miss.value_size, None);
        let two = Reply {
            integer: Some(2),
            ..reply(ReplyKind::Integer)
        };
        assert_eq!(
            outcome(&request(Class::Delete, HitRule::None), &two).deleted,
            Some(2)
        );
        let gone = Reply {
            word: Word::new(b"DELETED"),
            ..reply(ReplyKind::Simple)
        };
        assert_eq!(
            outcome(&request(Class::Delete, HitRule::None), &gone).deleted,
            Some(1)
        );
    }

    #[test]
    fn returned_values_are_counted() {
        let asked = 3;
        let aggregate = |elements, nulls| Reply {
            elements,
            nulls,
            ..reply(ReplyKind::Aggregate)
        };
        for (rule, values, reply, expected) in [
            (
                HitRule::Null,
                ReplyValues::All,
                reply(ReplyKind::Value),
                Some(1),
            ),
            (
                HitRule::Null,
                ReplyValues::All,
                reply(ReplyKind::Null),
                Some(0),
            ),
            (HitRule::Null, ReplyValues::All, aggregate(7, 0), Some(1)),
            (
                HitRule::Null,
                ReplyValues::All,
                reply(ReplyKind::Integer),
                None,
            ),
            (
                HitRule::Null,
                ReplyValues::All,
                reply(ReplyKind::Simple),
                None,
            ),
            (
                HitRule::NullElements { asked },
                ReplyValues::All,
                aggregate(3, 1),
                Some(2),
            ),
            (HitRule::Empty, ReplyValues::All, aggregate(3, 0), Some(3)),
            (
                HitRule::Empty,
                ReplyValues::EverySecond,
                aggregate(6, 0),
                Some(3),
            ),
            (HitRule::None, ReplyValues::All, aggregate(0, 0), Some(0)),
            (
                HitRule::Values { asked },
                ReplyValues::All,
                aggregate(2, 0),
                Some(2),
            ),
        ] {
            let mut request = request(Class::Get, rule);
            request.reply_values = values;
            assert_eq!(outcome(&request, &reply).returned, None);
            request.returns = true;
            assert_eq!(
                outcome(&request, &reply).returned,
                expected,
                "{rule:?} {reply:?}"
            );
        }
    }

    #[test]
    fn what_a_key_has_still_to_live() {
        let ask = |name, number| {
            let operation = Operation::Known { index: 1, name };
            let request = Request {
                hit_rule: HitRule::MinusTwo,
                ..Request::new(operation, Class::Expire)
            };
            let reply = Reply {
                integer: Some(number),
                ..reply(ReplyKind::Integer)
            };
            outcome(&request, &reply).remaining
        };
        assert_eq!(ask("TTL", 60), Some(Expiry::After(60)));
        assert_eq!(ask("PTTL", 59_001), Some(Expiry::After(60)));
        assert_eq!(
            ask("EXPIRETIME", 1_800_000_000),
            Some(Expiry::At(1_800_000_000_000))
        );
        assert_eq!(ask("PEXPIRETIME", 5), Some(Expiry::At(5)));
        assert_eq!((ask("TTL", -1), ask("PTTL", -2)), (None, None));
    }
}
