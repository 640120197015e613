//! The command table of Redis 7 and its successors (Redis 8, Valkey 9), as data. The rows: [`redis`], and [`modules`]
//! for data types that are or were modules.
//!
//! Source: `redis/src/commands/*.json`, `valkey/src/commands/*.json`, and COMMAND of servers. Tests compare the keys
//! with what COMMAND said (`commands_7.0.txt`, `commands_8.2.txt`), and live with what COMMAND GETKEYS says. What is newer than Redis 8.2 comes from
//! the JSON files and the manual at `redis.io/docs/latest/commands`, and has been seen by no test with a server.
//!
//! A [`Shape`] says what each argument after the name is, one letter each: `head*cycle|tail`. The cycle repeats
//! until the tail begins.
//!
//! | letter | argument | in `db.query.text` |
//! |---|---|---|
//! | `k` | key | escaped |
//! | `v` | value, counted in `value_size` | `?` |
//! | `?` | anything else: fields, members, scores, patterns, channels, credentials | `?` |
//! | `n` | number: index, count, seconds | a small integer, else `?` |
//! | `w` | subcommand | a known word, else `?` |
//! | `S` | SHA-1 or name of a script or function | escaped |
//! | `#` | a count, and that many keys after it | number, keys |
//! | `P` | a count, and that many pairs of key and value | number, keys, `?` |
//! | `m` | key, or an empty string where the option KEYS comes later on | escaped |
//! | `h` | key after the subcommand SET, else anything (HIMPORT) | escaped, `?` |
//! | `O` | any number of options ([`super::options`]), up to the first argument that is none | known words and their integers |
//! | `X` | options up to STREAMS, then keys and as many ids | the same, keys, `?` |
//! | `o` | (in the cycle) options, anything else hidden | known words and their integers, else `?` |
//! | `s`, `g`, `M` | as `o` for SORT, where GET takes a pattern; for GEORADIUS, where STOREDIST takes a key; for MIGRATE, where KEYS takes keys | |

mod modules;
mod redis;

use super::super::message::{Class, HitRule, ReplyValues};

/// What the arguments after the name are. See the [module documentation](self).
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) head: &'static [u8],
    pub(super) cycle: &'static [u8],
    pub(super) tail: &'static [u8],
}

impl Shape {
    /// Of a command that is not in the table: nothing is assumed, nothing is shown.
    pub(super) const UNKNOWN: Self = Self::new("*?");

    /// Splits `head*cycle|tail`. Without a cycle, further arguments are hidden.
    const fn new(text: &'static str) -> Self {
        let bytes = text.as_bytes();
        let (mut star, mut bar) = (bytes.len(), bytes.len());
        let mut index = 0;
        while index < bytes.len() {
            match bytes[index] {
                b'*' => star = index,
                b'|' => bar = index,
                _ => {}
            }
            index += 1;
        }
        let (rest, tail) = bytes.split_at(bar);
        let (head, cycle) = if star < bar {
            rest.split_at(star)
        } else {
            (rest, b"" as &[u8])
        };
        Self {
            head,
            cycle: if cycle.is_empty() {
                b"?"
            } else {
                cycle.split_at(1).1
            },
            tail: if tail.is_empty() {
                tail
            } else {
                tail.split_at(1).1
            },
        }
    }
}

/// How hits and misses are read off the reply; counts are filled in from the request.
///
/// A command has a rule only where every successful reply tells. Whether a rule applies is decided by the request alone:
/// counting the replies that tell and leaving out those that do not would bend the hit rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hit {
    No,
    /// A key: null when it is not there.
    Null,
    /// As `Null` when the option GET is given.
    NullIfGet,
    /// Keys: a null for each that is not there.
    NullKeys,
    /// A field, member or index: null when it is not there.
    NullElement,
    /// One null for each argument after the first.
    NullElements,
    /// As `NullElements`; the option FIELDS says how many.
    NullCounted,
    /// A key whose whole collection is read: no collection is empty.
    Empty,
    /// As `Empty`, with a count that may ask for nothing.
    EmptyCounted,
    /// As `Empty`, when the range of indexes holds an element of every collection.
    EmptyRange,
    /// An element that is looked for: null or empty when it is not there.
    Find,
    /// Keys: how many are there.
    CountKeys,
    /// A key: the size of its collection, which is never empty.
    Size,
    /// An element: 0 or 1.
    Member,
    /// One integer for each argument after the first: 0 or 1.
    Members,
    /// A key: -2 when it is not there.
    MinusTwo,
    /// A key: its type, or `none`.
    Type,
}

/// What of a request decides its hit rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Keys.
    pub(super) keys: u32,
    /// Arguments after the first key.
    pub(super) after_key: u32,
    /// The integer after FIELDS.
    pub(super) fields: u32,
    /// The option GET is given.
    pub(super) get: bool,
    /// BYSCORE or BYLEX is given: a range is none of indexes.
    pub(super) by_value: bool,
    /// The second and third argument, where they are integers.
    pub(super) range: (Option<i64>, Option<i64>),
    /// There is a second argument.
    pub(super) counted: bool,
}

impl Hit {
    /// The rule for one request. `asked` is only called where it is needed.
    #[inline]
    pub(super) fn rule(self, asked: impl FnOnce() -> Asked) -> HitRule {
        match self {
            Hit::No => HitRule::None,
            Hit::Null | Hit::NullElement => HitRule::Null,
            Hit::Empty | Hit::Find => HitRule::Empty,
            Hit::Size | Hit::Member => HitRule::Count { asked: 1 },
            Hit::MinusTwo => HitRule::MinusTwo,
            Hit::Type => HitRule::Type,
            _ => self.of(&asked()),
        }
    }

    /// The rules that depend on more than the command.
    fn of(self, asked: &Asked) -> HitRule {
        let when = |condition, rule| if condition { rule } else { HitRule::None };
        match self {
            Hit::NullIfGet => when(asked.get, HitRule::Null),
            Hit::NullKeys => HitRule::NullElements { asked: asked.keys },
            Hit::NullElements => HitRule::NullElements {
                asked: asked.after_key,
            },
            Hit::NullCounted => HitRule::NullElements {
                asked: asked.fields,
            },
            Hit::CountKeys => HitRule::Count { asked: asked.keys },
            Hit::Members => HitRule::ZeroElements {
                asked: asked.after_key,
            },
            Hit::EmptyCounted => when(
                !asked.counted || asked.range.0.is_some_and(|count| count != 0),
                HitRule::Empty,
            ),
            Hit::EmptyRange => {
                let holds_an_end = match asked.range {
                    (Some(0), Some(last)) => last >= -1,
                    (Some(first), Some(last)) => first < 0 && last == -1,
                    _ => false,
                };
                when(holds_an_end && !asked.by_value, HitRule::Empty)
            }
            _ => HitRule::None,
        }
    }
}

/// Where a positional time to live is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ttl {
    No,
    Seconds(u8),
    Millis(u8),
    /// A point in time, seconds since the Unix epoch.
    AtSeconds(u8),
    /// A point in time, milliseconds since the Unix epoch.
    AtMillis(u8),
    /// RESTORE's: milliseconds, 0 for none, a point in time with ABSTTL.
    Restore,
}

/// What a command does beside reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    No,
    Select,
    Multi,
    EndMulti,
    Reset,
    Client,
    Auth,
    Hello,
    Stream,
    Replicate,
    Replica,
    Quit,
    Subscribe,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) class: Class,
    pub(super) shape: Shape,
    /// The shape as it was written.
    #[cfg(test)]
    arguments: &'static str,
    pub(super) hit: Hit,
    pub(super) values: ReplyValues,
    /// The values that come back can be counted, though hits cannot.
    pub(super) returns: bool,
    pub(super) ttl: Ttl,
    pub(super) blocking: bool,
    pub(super) special: Special,
}

const fn c(name: &'static str, class: Class, shape: &'static str) -> Command {
    Command {
        name,
        class,
        shape: Shape::new(shape),
        #[cfg(test)]
        arguments: shape,
        hit: Hit::No,
        values: ReplyValues::All,
        returns: false,
        ttl: Ttl::No,
        blocking: false,
        special: Special::No,
    }
}

impl Command {
    const fn hit(mut self, hit: Hit) -> Self {
        self.hit = hit;
        self
    }
    /// Every second element of the reply is a value.
    const fn second(mut self) -> Self {
        self.values = ReplyValues::EverySecond;
        self
    }
    /// Its reply is a value, or has one element for each.
    const fn returns(mut self) -> Self {
        self.returns = true;
        self
    }
    const fn seconds(mut self, at: u8) -> Self {
        self.ttl = Ttl::Seconds(at);
        self
    }
    const fn millis(mut self, at: u8) -> Self {
        self.ttl = Ttl::Millis(at);
        self
    }
    const fn expires(mut self, ttl: Ttl) -> Self {
        self.ttl = ttl;
        self
    }
    const fn blocks(mut self) -> Self {
        self.blocking = true;
        self
    }
    const fn does(mut self, special: Special) -> Self {
        self.special = special;
        self
    }
}

/// The table. A row's index is its identity in [`Operation::Known`](crate::protocol::Operation::Known).
pub(super) static COMMANDS: [Command; COUNT] = {
    let mut table = [row(0); COUNT];
    let mut index = 0;
    while index < COUNT {
        table[index] = row(index);
        index += 1;
    }
    table
};

const COUNT: usize = redis::ROWS.len() + modules::ROWS.len();

const fn row(index: usize) -> Command {
    match index.checked_sub(redis::ROWS.len()) {
        None => redis::ROWS[index],
        Some(index) => modules::ROWS[index],
    }
}

/// Longest name in the table.
pub(super) const MAX_NAME: usize = 20;

/// Slots of the index: a power of two, so sparse that most probes hit at once.
const SLOTS: usize = 2048;

/// Open-addressed index into [`COMMANDS`], built at compile time; 0 is empty, else the row plus one.
static INDEX: [u16; SLOTS] = index();

const fn index() -> [u16; SLOTS] {
    let mut slots = [0_u16; SLOTS];
    let mut index = 0;
    while index < COUNT {
        let mut slot = hash(row(index).name.as_bytes());
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = index as u16 + 1;
        index += 1;
    }
    slots
}

/// FNV-1a over the name, without regard to letter case.
const fn hash(name: &[u8]) -> usize {
    let mut hash = 0x811c_9dc5_u32;
    let mut index = 0;
    while index < name.len() {
        hash = (hash ^ (name[index] | 0x20) as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    (hash ^ (hash >> 15)) as usize % SLOTS
}

/// The row of a command name, in any letter case.
#[inline]
pub(super) fn find(name: &[u8]) -> Option<(u16, &'static Command)> {
    if name.is_empty() || name.len() > MAX_NAME {
        return None;
    }
    let mut slot = hash(name);
    loop {
        let row = INDEX[slot].checked_sub(1)?;
        let command = &COMMANDS[usize::from(row)];
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some((row, command));
        }
        slot = (slot + 1) % SLOTS;
    }
}

#[cfg(test)]
mod document;
