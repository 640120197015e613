//! The command table of Redis 7 and its successors (Redis 8, Valkey), as data.
//!
//! Source: `redis/src/commands/*.json` and `COMMAND` of a server; the unit test compares key positions with the
//! output of `COMMAND` on 7.0.15. Of Redis 8 the new hash and string commands are in, and the main ones of the data types
//! that used to be modules.
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
//! | `m` | key, or an empty string for none | escaped |
//! | `O` | any number of options ([`super::options`]), up to the first argument that is none | known words and their integers |
//! | `X` | options up to STREAMS, then keys and as many ids | the same, keys, `?` |
//! | `o` | (in the cycle) options, anything else hidden | known words and their integers, else `?` |
//! | `s`, `g` | as `o` for SORT, where GET takes a pattern; for GEORADIUS, where STOREDIST takes a key | |

use super::super::message::Class::{
    self, Admin, Connection, Delete, Exists, Expire, Get, Increment, Pubsub, Scan, Script, Set,
    Touch, Transaction,
};
use super::super::message::ReplyValues;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hit {
    No,
    Null,
    /// As `Null` when the option GET is given.
    NullIfGet,
    NullKeys,
    /// One null for each argument after the first.
    NullFields,
    /// The option FIELDS says how many.
    NullCounted,
    Empty,
    CountKeys,
    /// 0 or "at least one".
    CountOne,
    ZeroFields,
    MinusTwo,
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
    pub(super) hit: Hit,
    pub(super) values: ReplyValues,
    pub(super) ttl: Ttl,
    pub(super) blocking: bool,
    pub(super) special: Special,
}

const fn c(name: &'static str, class: Class, shape: &'static str) -> Command {
    Command {
        name,
        class,
        shape: Shape::new(shape),
        hit: Hit::No,
        values: ReplyValues::All,
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
///
/// Pops have no hit rule: an empty queue is no cache miss, and the server does not count one either.
pub(super) const COMMANDS: &[Command] = &[
    // Strings.
    c("GET", Get, "k").hit(Hit::Null),
    c("SET", Set, "kv*o").hit(Hit::NullIfGet),
    c("MGET", Get, "*k").hit(Hit::NullKeys),
    c("MSET", Set, "*kv"),
    c("MSETNX", Set, "*kv"),
    c("MSETEX", Set, "P*o"),
    c("SETEX", Set, "knv").seconds(2),
    c("PSETEX", Set, "knv").millis(2),
    c("SETNX", Set, "kv"),
    c("GETSET", Set, "kv").hit(Hit::Null),
    c("GETDEL", Get, "k").hit(Hit::Null),
    c("GETEX", Get, "k*o").hit(Hit::Null),
    c("APPEND", Set, "kv"),
    c("STRLEN", Get, "k"),
    c("GETRANGE", Get, "knn"),
    c("SUBSTR", Get, "knn"),
    c("SETRANGE", Set, "knv"),
    c("INCR", Increment, "k"),
    c("DECR", Increment, "k"),
    c("INCRBY", Increment, "k?"),
    c("DECRBY", Increment, "k?"),
    c("INCRBYFLOAT", Increment, "k?"),
    c("LCS", Get, "kk*o"),
    c("DIGEST", Get, "k").hit(Hit::Null),
    c("DELEX", Delete, "k*o"),
    c("DELIFEQ", Delete, "k?"),
    // Bitmaps and HyperLogLog.
    c("SETBIT", Set, "kn?"),
    c("GETBIT", Get, "kn"),
    c("BITCOUNT", Get, "knn*o"),
    c("BITPOS", Get, "k?nn*o"),
    c("BITOP", Set, "w*k"),
    c("BITFIELD", Set, "k*?"),
    c("BITFIELD_RO", Get, "k*?"),
    c("PFADD", Set, "k*v"),
    c("PFCOUNT", Get, "*k"),
    c("PFMERGE", Set, "*k"),
    c("PFDEBUG", Admin, "?k"),
    c("PFSELFTEST", Admin, ""),
    // Keys.
    c("DEL", Delete, "*k"),
    c("UNLINK", Delete, "*k"),
    c("EXISTS", Exists, "*k").hit(Hit::CountKeys),
    c("TOUCH", Touch, "*k").hit(Hit::CountKeys),
    c("TYPE", Exists, "k"),
    c("DUMP", Get, "k").hit(Hit::Null),
    c("RESTORE", Set, "knv*o").expires(Ttl::Restore),
    c("RESTORE-ASKING", Set, "knv*o").expires(Ttl::Restore),
    c("RENAME", Set, "kk"),
    c("RENAMENX", Set, "kk"),
    c("COPY", Set, "kk*o"),
    c("MOVE", Set, "kn"),
    c("MIGRATE", Admin, "??mnn*o"),
    c("RANDOMKEY", Get, ""),
    c("KEYS", Scan, "?"),
    c("SCAN", Scan, "?*o"),
    c("SORT", Get, "k*s"),
    c("SORT_RO", Get, "k*s"),
    c("OBJECT", Admin, "wk"),
    c("EXPIRE", Expire, "kn*o").seconds(2),
    c("PEXPIRE", Expire, "kn*o").millis(2),
    c("EXPIREAT", Expire, "kn*o").expires(Ttl::AtSeconds(2)),
    c("PEXPIREAT", Expire, "kn*o").expires(Ttl::AtMillis(2)),
    c("PERSIST", Expire, "k"),
    c("TTL", Expire, "k").hit(Hit::MinusTwo),
    c("PTTL", Expire, "k").hit(Hit::MinusTwo),
    c("EXPIRETIME", Expire, "k").hit(Hit::MinusTwo),
    c("PEXPIRETIME", Expire, "k").hit(Hit::MinusTwo),
    // Hashes.
    c("HGET", Get, "k?").hit(Hit::Null),
    c("HSET", Set, "k*?v"),
    c("HMSET", Set, "k*?v"),
    c("HSETNX", Set, "k?v"),
    c("HSETEX", Set, "kO*?v"),
    c("HMGET", Get, "k*?").hit(Hit::NullFields),
    c("HGETALL", Get, "k").hit(Hit::Empty).second(),
    c("HGETDEL", Get, "kO*?").hit(Hit::NullCounted),
    c("HGETEX", Get, "kO*?").hit(Hit::NullCounted),
    c("HDEL", Delete, "k*?"),
    c("HEXISTS", Exists, "k?").hit(Hit::CountOne),
    c("HLEN", Get, "k").hit(Hit::CountOne),
    c("HSTRLEN", Get, "k?"),
    c("HKEYS", Get, "k").hit(Hit::Empty),
    c("HVALS", Get, "k").hit(Hit::Empty),
    c("HINCRBY", Increment, "k??"),
    c("HINCRBYFLOAT", Increment, "k??"),
    c("HRANDFIELD", Get, "kn*o").hit(Hit::Empty),
    c("HSCAN", Scan, "k?*o"),
    c("HEXPIRE", Expire, "knO*?").seconds(2),
    c("HPEXPIRE", Expire, "knO*?").millis(2),
    c("HEXPIREAT", Expire, "knO*?").expires(Ttl::AtSeconds(2)),
    c("HPEXPIREAT", Expire, "knO*?").expires(Ttl::AtMillis(2)),
    c("HPERSIST", Expire, "kO*?"),
    c("HTTL", Expire, "kO*?"),
    c("HPTTL", Expire, "kO*?"),
    c("HEXPIRETIME", Expire, "kO*?"),
    c("HPEXPIRETIME", Expire, "kO*?"),
    // Lists.
    c("LPUSH", Set, "k*v"),
    c("RPUSH", Set, "k*v"),
    c("LPUSHX", Set, "k*v"),
    c("RPUSHX", Set, "k*v"),
    c("LPOP", Get, "kn"),
    c("RPOP", Get, "kn"),
    c("LMPOP", Get, "#*o").second(),
    c("BLMPOP", Get, "n#*o").blocks().second(),
    c("BLPOP", Get, "*k|n").blocks().second(),
    c("BRPOP", Get, "*k|n").blocks().second(),
    c("RPOPLPUSH", Get, "kk"),
    c("BRPOPLPUSH", Get, "kkn").blocks(),
    c("LMOVE", Get, "kkww"),
    c("BLMOVE", Get, "kkwwn").blocks(),
    c("LRANGE", Get, "knn").hit(Hit::Empty),
    c("LINDEX", Get, "kn").hit(Hit::Null),
    c("LLEN", Get, "k").hit(Hit::CountOne),
    c("LPOS", Get, "k?*o"),
    c("LSET", Set, "knv"),
    c("LINSERT", Set, "kw?v"),
    c("LREM", Delete, "kn?"),
    c("LTRIM", Delete, "knn"),
    // Sets.
    c("SADD", Set, "k*v"),
    c("SREM", Delete, "k*?"),
    c("SMEMBERS", Get, "k").hit(Hit::Empty),
    c("SISMEMBER", Exists, "k?").hit(Hit::CountOne),
    c("SMISMEMBER", Exists, "k*?").hit(Hit::ZeroFields),
    c("SCARD", Get, "k").hit(Hit::CountOne),
    c("SPOP", Get, "kn"),
    c("SRANDMEMBER", Get, "kn").hit(Hit::Empty),
    c("SMOVE", Set, "kk?"),
    c("SSCAN", Scan, "k?*o"),
    c("SINTER", Get, "*k"),
    c("SUNION", Get, "*k"),
    c("SDIFF", Get, "*k"),
    c("SINTERCARD", Get, "#*o"),
    c("SINTERSTORE", Set, "*k"),
    c("SUNIONSTORE", Set, "*k"),
    c("SDIFFSTORE", Set, "*k"),
    // Sorted sets.
    c("ZADD", Set, "kO*?v"),
    c("ZINCRBY", Increment, "k??"),
    c("ZREM", Delete, "k*?"),
    c("ZREMRANGEBYRANK", Delete, "knn"),
    c("ZREMRANGEBYSCORE", Delete, "k??"),
    c("ZREMRANGEBYLEX", Delete, "k??"),
    c("ZSCORE", Get, "k?").hit(Hit::Null),
    c("ZMSCORE", Get, "k*?").hit(Hit::NullFields),
    c("ZRANK", Get, "k?*o").hit(Hit::Null),
    c("ZREVRANK", Get, "k?*o").hit(Hit::Null),
    c("ZCARD", Get, "k").hit(Hit::CountOne),
    c("ZCOUNT", Get, "k??"),
    c("ZLEXCOUNT", Get, "k??"),
    c("ZRANGE", Get, "knn*o").hit(Hit::Empty),
    c("ZREVRANGE", Get, "knn*o").hit(Hit::Empty),
    c("ZRANGEBYSCORE", Get, "k??*o").hit(Hit::Empty),
    c("ZREVRANGEBYSCORE", Get, "k??*o").hit(Hit::Empty),
    c("ZRANGEBYLEX", Get, "k??*o").hit(Hit::Empty),
    c("ZREVRANGEBYLEX", Get, "k??*o").hit(Hit::Empty),
    c("ZRANGESTORE", Set, "kknn*o"),
    c("ZRANDMEMBER", Get, "kn*o").hit(Hit::Empty),
    c("ZSCAN", Scan, "k?*o"),
    c("ZPOPMIN", Get, "kn"),
    c("ZPOPMAX", Get, "kn"),
    c("BZPOPMIN", Get, "*k|n").blocks().second(),
    c("BZPOPMAX", Get, "*k|n").blocks().second(),
    c("ZMPOP", Get, "#*o").second(),
    c("BZMPOP", Get, "n#*o").blocks().second(),
    c("ZUNION", Get, "#*o"),
    c("ZINTER", Get, "#*o"),
    c("ZDIFF", Get, "#*o"),
    c("ZINTERCARD", Get, "#*o"),
    c("ZUNIONSTORE", Set, "k#*o"),
    c("ZINTERSTORE", Set, "k#*o"),
    c("ZDIFFSTORE", Set, "k#*o"),
    // Geo.
    c("GEOADD", Set, "kO*??v"),
    c("GEODIST", Get, "k??w").hit(Hit::Null),
    c("GEOHASH", Get, "k*?").hit(Hit::NullFields),
    c("GEOPOS", Get, "k*?").hit(Hit::NullFields),
    c("GEORADIUS", Get, "k???w*g"),
    c("GEORADIUS_RO", Get, "k???w*g"),
    c("GEORADIUSBYMEMBER", Get, "k??w*g"),
    c("GEORADIUSBYMEMBER_RO", Get, "k??w*g"),
    c("GEOSEARCH", Get, "k*o"),
    c("GEOSEARCHSTORE", Set, "kk*o"),
    // Streams.
    c("XADD", Set, "kO?*?v"),
    c("XREAD", Get, "X"),
    c("XREADGROUP", Get, "X"),
    c("XRANGE", Get, "k??*o").hit(Hit::Empty),
    c("XREVRANGE", Get, "k??*o").hit(Hit::Empty),
    c("XLEN", Get, "k"),
    c("XDEL", Delete, "k*?"),
    c("XDELEX", Delete, "kO*?"),
    c("XTRIM", Delete, "kO*?"),
    c("XACK", Set, "k*?"),
    c("XACKDEL", Delete, "k?O*?"),
    c("XNACK", Set, "k*?"),
    c("XCLAIM", Set, "k*?"),
    c("XAUTOCLAIM", Set, "k*?"),
    c("XPENDING", Get, "k*?"),
    c("XGROUP", Admin, "wk*?"),
    c("XINFO", Admin, "wk*o"),
    c("XSETID", Set, "k*?"),
    c("XCFGSET", Admin, "k*?"),
    // Pub/sub.
    c("PUBLISH", Pubsub, "?v"),
    c("SPUBLISH", Pubsub, "?v"),
    c("SUBSCRIBE", Pubsub, "*?").does(Special::Subscribe),
    c("PSUBSCRIBE", Pubsub, "*?").does(Special::Subscribe),
    c("SSUBSCRIBE", Pubsub, "*?").does(Special::Subscribe),
    c("UNSUBSCRIBE", Pubsub, "*?").does(Special::Subscribe),
    c("PUNSUBSCRIBE", Pubsub, "*?").does(Special::Subscribe),
    c("SUNSUBSCRIBE", Pubsub, "*?").does(Special::Subscribe),
    c("PUBSUB", Pubsub, "w*?"),
    // Scripts and functions.
    c("EVAL", Script, "?#*?"),
    c("EVAL_RO", Script, "?#*?"),
    c("EVALSHA", Script, "S#*?"),
    c("EVALSHA_RO", Script, "S#*?"),
    c("FCALL", Script, "S#*?"),
    c("FCALL_RO", Script, "S#*?"),
    c("SCRIPT", Script, "w*?"),
    c("FUNCTION", Script, "w*?"),
    // Transactions.
    c("MULTI", Transaction, "").does(Special::Multi),
    c("EXEC", Transaction, "").does(Special::EndMulti),
    c("DISCARD", Transaction, "").does(Special::EndMulti),
    c("WATCH", Transaction, "*k"),
    c("UNWATCH", Transaction, ""),
    // The connection.
    c("AUTH", Connection, "*?").does(Special::Auth),
    c("HELLO", Connection, "n*?").does(Special::Hello),
    c("PING", Connection, "?"),
    c("ECHO", Connection, "?"),
    c("SELECT", Connection, "n").does(Special::Select),
    c("QUIT", Connection, "").does(Special::Quit),
    c("RESET", Connection, "").does(Special::Reset),
    c("CLIENT", Connection, "w*?").does(Special::Client),
    c("ASKING", Connection, ""),
    c("READONLY", Connection, ""),
    c("READWRITE", Connection, ""),
    // The server.
    c("ACL", Admin, "w*?"),
    c("BGREWRITEAOF", Admin, ""),
    c("BGSAVE", Admin, "w"),
    c("CLUSTER", Admin, "w*?"),
    c("COMMAND", Admin, "w*?"),
    c("CONFIG", Admin, "w*?"),
    c("DBSIZE", Admin, ""),
    c("DEBUG", Admin, "w*?"),
    c("FAILOVER", Admin, "*?"),
    c("FLUSHALL", Delete, "w"),
    c("FLUSHDB", Delete, "w"),
    c("INFO", Admin, "*w"),
    c("LASTSAVE", Admin, ""),
    c("LATENCY", Admin, "w*?"),
    c("LOLWUT", Admin, "*?"),
    c("MEMORY", Admin, "wk*o"),
    c("MODULE", Admin, "w*?"),
    c("MONITOR", Admin, "").does(Special::Stream),
    c("PSYNC", Admin, "??").does(Special::Replicate),
    c("REPLCONF", Admin, "w*?").does(Special::Replica),
    c("REPLICAOF", Admin, "??"),
    c("ROLE", Admin, ""),
    c("SAVE", Admin, ""),
    c("SHUTDOWN", Admin, "*w").does(Special::Quit),
    c("SLAVEOF", Admin, "??"),
    c("SLOWLOG", Admin, "w*n"),
    c("SWAPDB", Admin, "nn"),
    c("SYNC", Admin, "").does(Special::Replicate),
    c("TIME", Admin, ""),
    c("WAIT", Admin, "nn").blocks(),
    c("WAITAOF", Admin, "nnn").blocks(),
    // Data types that used to be modules.
    c("JSON.GET", Get, "k*?").hit(Hit::Null),
    c("JSON.MGET", Get, "*k|?").hit(Hit::NullKeys),
    c("JSON.SET", Set, "k?v*o"),
    c("JSON.MERGE", Set, "k?v"),
    c("JSON.MSET", Set, "*k?v"),
    c("JSON.DEL", Delete, "k?"),
    c("JSON.ARRAPPEND", Set, "k?*v"),
    c("JSON.NUMINCRBY", Increment, "k??"),
    c("BF.ADD", Set, "kv"),
    c("BF.MADD", Set, "k*v"),
    c("BF.EXISTS", Exists, "k?").hit(Hit::CountOne),
    c("BF.MEXISTS", Exists, "k*?").hit(Hit::ZeroFields),
    c("BF.RESERVE", Admin, "k*?"),
    c("CF.ADD", Set, "kv"),
    c("CF.EXISTS", Exists, "k?").hit(Hit::CountOne),
    c("TS.ADD", Set, "k*?"),
    c("TS.GET", Get, "k*?"),
    c("TS.RANGE", Get, "k*?"),
    c("VADD", Set, "k*?"),
    c("VSIM", Get, "k*?"),
    c("VREM", Delete, "k?"),
    c("FT.SEARCH", Get, "*?"),
    c("FT.AGGREGATE", Get, "*?"),
    c("FT.CREATE", Admin, "*?"),
    c("FT.INFO", Admin, "*?"),
    // Sentinel.
    c("SENTINEL", Admin, "w*?"),
];

/// Longest name in the table.
pub(super) const MAX_NAME: usize = 20;

/// Slots of the index: a power of two, so sparse that most probes hit at once.
const SLOTS: usize = 2048;

/// Open-addressed index into [`COMMANDS`], built at compile time; 0 is empty, else the row plus one.
static INDEX: [u16; SLOTS] = index();

const fn index() -> [u16; SLOTS] {
    let mut slots = [0_u16; SLOTS];
    let mut row = 0;
    while row < COMMANDS.len() {
        let mut slot = hash(COMMANDS[row].name.as_bytes());
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = row as u16 + 1;
        row += 1;
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
