//! Words that may appear in `db.query.text`: options with their integers, and subcommands.
//!
//! An argument is shown only where a command's shape expects an option or subcommand and it is in one of these
//! lists. Everything else is hidden, so that a new or misread command hides too much rather than too little.

/// What follows an option word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Follow {
    /// Up to this many integers, shown.
    pub(super) integers: u8,
    /// This many arguments of any content, hidden.
    pub(super) hidden: u8,
    /// A key.
    pub(super) key: bool,
    /// Optionally `=` or `~`, then a threshold.
    pub(super) threshold: bool,
    /// Only keys up to the end.
    pub(super) keys: bool,
    /// No option comes after it and its integers.
    pub(super) last: bool,
}

const NONE: Follow = Follow {
    integers: 0,
    hidden: 0,
    key: false,
    threshold: false,
    keys: false,
    last: false,
};

const LAST: Follow = Follow { last: true, ..NONE };

const fn integers(integers: u8) -> Follow {
    Follow { integers, ..NONE }
}

const fn hidden(hidden: u8) -> Follow {
    Follow { hidden, ..NONE }
}

/// An option of any command of the table: its canonical spelling, and what follows it. `region` is the letter of the
/// [shape](super::commands) it stands in.
pub(super) fn option(upper: &[u8], region: u8) -> Option<(&'static str, Follow)> {
    Some(match upper {
        // Times to live.
        b"EX" => ("EX", integers(1)),
        b"PX" => ("PX", integers(1)),
        b"EXAT" => ("EXAT", integers(1)),
        b"PXAT" => ("PXAT", integers(1)),
        b"KEEPTTL" => ("KEEPTTL", NONE),
        b"PERSIST" => ("PERSIST", NONE),
        b"ABSTTL" => ("ABSTTL", NONE),
        b"IDLETIME" => ("IDLETIME", integers(1)),
        b"FREQ" => ("FREQ", integers(1)),
        // Conditions.
        b"NX" => ("NX", NONE),
        b"XX" => ("XX", NONE),
        b"GT" => ("GT", NONE),
        b"LT" => ("LT", NONE),
        b"FNX" => ("FNX", NONE),
        b"FXX" => ("FXX", NONE),
        b"CH" => ("CH", NONE),
        b"INCR" => ("INCR", NONE),
        b"GET" if region == b's' => ("GET", hidden(1)),
        b"GET" => ("GET", NONE),
        b"IFEQ" => ("IFEQ", hidden(1)),
        b"IFNE" => ("IFNE", hidden(1)),
        b"IFDEQ" => ("IFDEQ", hidden(1)),
        b"IFDNE" => ("IFDNE", hidden(1)),
        b"REPLACE" => ("REPLACE", NONE),
        b"COPY" => ("COPY", NONE),
        // Credentials follow.
        b"AUTH" => ("AUTH", hidden(1)),
        b"AUTH2" => ("AUTH2", hidden(2)),
        // Ranges and counts.
        b"COUNT" => ("COUNT", integers(1)),
        b"LIMIT" => ("LIMIT", integers(2)),
        b"MATCH" => ("MATCH", hidden(1)),
        b"TYPE" => ("TYPE", hidden(1)),
        b"NOVALUES" => ("NOVALUES", NONE),
        b"WITHSCORES" => ("WITHSCORES", NONE),
        b"WITHSCORE" => ("WITHSCORE", NONE),
        b"WITHVALUES" => ("WITHVALUES", NONE),
        b"BYSCORE" => ("BYSCORE", NONE),
        b"BYLEX" => ("BYLEX", NONE),
        b"REV" => ("REV", NONE),
        b"RANK" => ("RANK", integers(1)),
        b"MAXLEN" => (
            "MAXLEN",
            Follow {
                threshold: true,
                ..NONE
            },
        ),
        b"MINID" => (
            "MINID",
            Follow {
                threshold: true,
                ..NONE
            },
        ),
        b"NOMKSTREAM" => ("NOMKSTREAM", NONE),
        b"KEEPREF" => ("KEEPREF", NONE),
        b"DELREF" => ("DELREF", NONE),
        b"ACKED" => ("ACKED", NONE),
        b"FIELDS" => (
            "FIELDS",
            Follow {
                integers: 1,
                ..LAST
            },
        ),
        b"IDS" => (
            "IDS",
            Follow {
                integers: 1,
                ..LAST
            },
        ),
        b"DB" => ("DB", integers(1)),
        b"SAMPLES" => ("SAMPLES", integers(1)),
        b"FULL" => ("FULL", NONE),
        b"BYTE" => ("BYTE", NONE),
        b"BIT" => ("BIT", NONE),
        b"LEN" => ("LEN", NONE),
        b"IDX" => ("IDX", NONE),
        b"MINMATCHLEN" => ("MINMATCHLEN", integers(1)),
        b"WITHMATCHLEN" => ("WITHMATCHLEN", NONE),
        b"LEFT" => ("LEFT", NONE),
        b"RIGHT" => ("RIGHT", NONE),
        // Sorting, storing, combining.
        b"BY" => ("BY", hidden(1)),
        b"ASC" => ("ASC", NONE),
        b"DESC" => ("DESC", NONE),
        b"ALPHA" => ("ALPHA", NONE),
        b"STORE" => ("STORE", Follow { key: true, ..NONE }),
        b"STOREDIST" if region == b'g' => ("STOREDIST", Follow { key: true, ..NONE }),
        b"STOREDIST" => ("STOREDIST", NONE),
        b"KEYS" => ("KEYS", Follow { keys: true, ..NONE }),
        b"WEIGHTS" => ("WEIGHTS", NONE),
        b"AGGREGATE" => ("AGGREGATE", NONE),
        b"SUM" => ("SUM", NONE),
        b"MIN" => ("MIN", NONE),
        b"MAX" => ("MAX", NONE),
        // Geo.
        b"FROMMEMBER" => ("FROMMEMBER", hidden(1)),
        b"FROMLONLAT" => ("FROMLONLAT", hidden(2)),
        b"BYRADIUS" => ("BYRADIUS", hidden(1)),
        b"BYBOX" => ("BYBOX", hidden(2)),
        b"ANY" => ("ANY", NONE),
        b"WITHCOORD" => ("WITHCOORD", NONE),
        b"WITHDIST" => ("WITHDIST", NONE),
        b"WITHHASH" => ("WITHHASH", NONE),
        b"M" => ("M", NONE),
        b"KM" => ("KM", NONE),
        b"FT" => ("FT", NONE),
        b"MI" => ("MI", NONE),
        // Streams.
        b"BLOCK" => ("BLOCK", integers(1)),
        b"GROUP" => ("GROUP", hidden(2)),
        b"NOACK" => ("NOACK", NONE),
        b"CLAIM" => ("CLAIM", integers(1)),
        b"STREAMS" => ("STREAMS", NONE),
        // Modules.
        b"ITEMS" => ("ITEMS", LAST),
        b"CAPACITY" => ("CAPACITY", integers(1)),
        b"ERROR" => ("ERROR", hidden(1)),
        b"EXPANSION" => ("EXPANSION", integers(1)),
        b"NOCREATE" => ("NOCREATE", NONE),
        b"NONSCALING" => ("NONSCALING", NONE),
        b"BUCKETSIZE" => ("BUCKETSIZE", integers(1)),
        b"MAXITERATIONS" => ("MAXITERATIONS", integers(1)),
        b"SEED" => ("SEED", hidden(1)),
        b"TIGHTENING" => ("TIGHTENING", hidden(1)),
        b"VALIDATESCALETO" => ("VALIDATESCALETO", integers(1)),
        b"WITHCOUNT" => ("WITHCOUNT", NONE),
        b"COMPRESSION" => ("COMPRESSION", integers(1)),
        b"OVERRIDE" => ("OVERRIDE", NONE),
        b"LATEST" => ("LATEST", NONE),
        b"SLOT" => ("SLOT", integers(1)),
        _ => return None,
    })
}

/// Subcommands of container commands, and words in fixed places (BITOP AND, LMOVE LEFT, FLUSHALL ASYNC, INFO server). In
/// the order of bytes, to be searched by halves.
const SUBCOMMANDS: &[&str] = &[
    "ABORT",
    "ACK",
    "ADD",
    "ADDSLOTS",
    "ADDSLOTSRANGE",
    "AFTER",
    "ALL",
    "AND",
    "ANDOR",
    "ASYNC",
    "BEFORE",
    "BUMPEPOCH",
    "CACHING",
    "CANCEL",
    "CANCELSLOTMIGRATIONS",
    "CAPA",
    "CAPACITY",
    "CAT",
    "CHANNELS",
    "CKQUORUM",
    "CLIENTS",
    "CLUSTER",
    "COMMANDSTATS",
    "CONFIG",
    "CONSUMERS",
    "COUNT",
    "COUNT-FAILURE-REPORTS",
    "COUNTKEYSINSLOT",
    "CPU",
    "CREATE",
    "CREATECONSUMER",
    "DEBUG",
    "DEFAULT",
    "DEL",
    "DELCONSUMER",
    "DELETE",
    "DELSLOTS",
    "DELSLOTSRANGE",
    "DELUSER",
    "DESTROY",
    "DIFF",
    "DIFF1",
    "DOCS",
    "DOCTOR",
    "DROP",
    "DRYRUN",
    "DUMP",
    "ENCODING",
    "ERRORSTATS",
    "EVERYTHING",
    "EXISTS",
    "EXPANSION",
    "FAILOVER",
    "FIELDS",
    "FILTERS",
    "FLUSH",
    "FLUSHCONFIG",
    "FLUSHSLOT",
    "FLUSHSLOTS",
    "FORCE",
    "FORGET",
    "FREQ",
    "FT",
    "GENPASS",
    "GET",
    "GET-MASTER-ADDR-BY-NAME",
    "GET-PRIMARY-ADDR-BY-NAME",
    "GETACK",
    "GETKEYS",
    "GETKEYSANDFLAGS",
    "GETKEYSINSLOT",
    "GETNAME",
    "GETREDIR",
    "GETSLOTMIGRATIONS",
    "GETUSER",
    "GRAPH",
    "GROUPS",
    "HELP",
    "HISTOGRAM",
    "HISTORY",
    "ID",
    "IDLETIME",
    "IMPORT-SOURCE",
    "INFO",
    "INFO-CACHE",
    "IS-MASTER-DOWN-BY-ADDR",
    "IS-PRIMARY-DOWN-BY-ADDR",
    "ITEMS",
    "KEYSIZES",
    "KEYSLOT",
    "KEYSPACE",
    "KILL",
    "KM",
    "LATENCYSTATS",
    "LATEST",
    "LEFT",
    "LEN",
    "LINKS",
    "LIST",
    "LISTENING-PORT",
    "LOAD",
    "LOADEX",
    "LOG",
    "M",
    "MALLOC-STATS",
    "MASTER",
    "MASTERS",
    "MEET",
    "MEMORY",
    "MI",
    "MIGRATESLOTS",
    "MIGRATION",
    "MODULES",
    "MONITOR",
    "MYID",
    "MYSHARDID",
    "NO-EVICT",
    "NO-TOUCH",
    "NODES",
    "NOSAVE",
    "NOT",
    "NOW",
    "NUMPAT",
    "NUMSUB",
    "OBJECT",
    "ONE",
    "OR",
    "PAUSE",
    "PENDING-SCRIPTS",
    "PERSISTENCE",
    "PRIMARIES",
    "PRIMARY",
    "PURGE",
    "RAW",
    "RDB-CHANNEL",
    "READ",
    "REFCOUNT",
    "RELOAD",
    "REMOVE",
    "REPLICAS",
    "REPLICATE",
    "REPLICATION",
    "REPLY",
    "RESET",
    "RESETSTAT",
    "RESTORE",
    "REWRITE",
    "RIGHT",
    "SAVE",
    "SAVECONFIG",
    "SCHEDULE",
    "SENTINELS",
    "SERVER",
    "SET",
    "SET-CONFIG-EPOCH",
    "SETID",
    "SETINFO",
    "SETNAME",
    "SETSLOT",
    "SETUSER",
    "SHARDCHANNELS",
    "SHARDNUMSUB",
    "SHARDS",
    "SHOW",
    "SIMULATE-FAILURE",
    "SIZE",
    "SLAVES",
    "SLEEP",
    "SLOT-STATS",
    "SLOTS",
    "START",
    "STATS",
    "STOP",
    "STREAM",
    "SYNC",
    "SYNCSLOTS",
    "TRACKING",
    "TRACKINGINFO",
    "UNBLOCK",
    "UNLOAD",
    "UNPAUSE",
    "USAGE",
    "USERS",
    "WHOAMI",
    "XOR",
];

/// A known subcommand in its canonical spelling.
pub(super) fn subcommand(upper: &[u8]) -> Option<&'static str> {
    SUBCOMMANDS
        .binary_search_by(|word| word.as_bytes().cmp(upper))
        .ok()
        .map(|at| SUBCOMMANDS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_are_in_order() {
        assert!(SUBCOMMANDS.is_sorted());
        for word in SUBCOMMANDS {
            assert_eq!(subcommand(word.as_bytes()), Some(*word));
        }
    }
}
