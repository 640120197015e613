//! The commands of the text dialect, as data.

use super::super::super::message::Class;
use super::super::super::reply::{Reply, ReplyKind};
use super::super::meta;

/// What follows a command word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `<key>*`
    Get,
    /// `<exptime> <key>*`
    GetTouch,
    /// `<key> <flags> <exptime> <bytes> [noreply]`, then data. `cas` has a number before `noreply`.
    Store,
    /// `<key> [noreply]`
    Delete,
    /// `<key> <delta> [noreply]`
    Count,
    /// `<key> <exptime> [noreply]`
    Touch,
    /// Words of administration; shown if known. May end in `noreply` behind at least that many other words, the command
    /// one of them, and at most that many.
    Admin {
        /// `None` where `noreply` is not understood.
        noreply: Option<(usize, usize)>,
    },
}

/// One command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    /// As on the wire: the server compares letter by letter.
    pub(super) word: &'static str,
    /// Value of `db.operation.name`.
    pub(super) name: &'static str,
    pub(super) class: Class,
    pub(super) shape: Shape,
}

const fn c(word: &'static str, name: &'static str, class: Class, shape: Shape) -> Command {
    Command {
        word,
        name,
        class,
        shape,
    }
}

const ADMIN: Shape = Shape::Admin { noreply: None };

const fn admin(least: usize, most: usize) -> Shape {
    Shape::Admin {
        noreply: Some((least, most)),
    }
}

/// The table. A row's index is its identity in [`Operation::Known`](crate::protocol::Operation::Known).
pub(super) static COMMANDS: [Command; 27] = [
    c("get", "GET", Class::Get, Shape::Get),
    c("gets", "GETS", Class::Get, Shape::Get),
    c("gat", "GAT", Class::Get, Shape::GetTouch),
    c("gats", "GATS", Class::Get, Shape::GetTouch),
    c("set", "SET", Class::Set, Shape::Store),
    c("add", "ADD", Class::Set, Shape::Store),
    c("replace", "REPLACE", Class::Set, Shape::Store),
    c("append", "APPEND", Class::Set, Shape::Store),
    c("prepend", "PREPEND", Class::Set, Shape::Store),
    c("cas", "CAS", Class::Set, Shape::Store),
    c("delete", "DELETE", Class::Delete, Shape::Delete),
    c("incr", "INCR", Class::Increment, Shape::Count),
    c("decr", "DECR", Class::Increment, Shape::Count),
    c("touch", "TOUCH", Class::Touch, Shape::Touch),
    c("flush_all", "FLUSH_ALL", Class::Delete, admin(1, 2)),
    c("verbosity", "VERBOSITY", Class::Admin, admin(1, 2)),
    c("stats", "STATS", Class::Admin, ADMIN),
    c("version", "VERSION", Class::Admin, ADMIN),
    c("quit", "QUIT", Class::Connection, ADMIN),
    c("shutdown", "SHUTDOWN", Class::Admin, ADMIN),
    c("slabs", "SLABS", Class::Admin, admin(3, 22)),
    c("lru", "LRU", Class::Admin, admin(1, 22)),
    c("lru_crawler", "LRU_CRAWLER", Class::Admin, ADMIN),
    c("watch", "WATCH", Class::Admin, ADMIN),
    c(
        "cache_memlimit",
        "CACHE_MEMLIMIT",
        Class::Admin,
        admin(1, 2),
    ),
    c("extstore", "EXTSTORE", Class::Admin, admin(1, 22)),
    // As old as the server, and in no documentation.
    c("bget", "BGET", Class::Get, Shape::Get),
];

/// Words of administration that may be shown.
pub(super) const SHOWN: &[&[u8]] = &[
    b"items",
    b"slabs",
    b"sizes",
    b"settings",
    b"conns",
    b"reset",
    b"detail",
    b"on",
    b"off",
    b"dump",
    b"cachedump",
    b"extstore",
    b"proxy",
    b"noreply",
    b"graceful",
    b"all",
    b"crawl",
    b"metadump",
    b"mgdump",
    b"enable",
    b"disable",
    b"tocrawl",
    b"sleep",
    b"reassign",
    b"automove",
    b"ratio",
    b"tune",
    b"mode",
    b"flat",
    b"segmented",
    b"temp_ttl",
    b"fetchers",
    b"mutations",
    b"evictions",
    b"connevents",
    b"sysevents",
    b"rawcmds",
];

/// What a first word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// A row of the table.
    Known(u16),
    /// A meta command: a row of its table.
    Meta(u16),
    /// Neither.
    Unknown,
}

/// Looks a first word up, in the server's letter case.
#[inline]
pub(crate) fn word(word: &[u8]) -> Word {
    let row = match word {
        b"get" => 0,
        b"gets" => 1,
        b"gat" => 2,
        b"gats" => 3,
        b"set" => 4,
        b"add" => 5,
        b"replace" => 6,
        b"append" => 7,
        b"prepend" => 8,
        b"cas" => 9,
        b"delete" => 10,
        b"incr" => 11,
        b"decr" => 12,
        b"touch" => 13,
        [b'm', _] => return meta::row(word).map_or(Word::Unknown, Word::Meta),
        _ => return rare(word),
    };
    Word::Known(row)
}

#[cold]
fn rare(word: &[u8]) -> Word {
    COMMANDS
        .iter()
        .position(|command| command.word.as_bytes() == word)
        .map_or(Word::Unknown, |row| Word::Known(row as u16))
}

/// Whether a reply that is no error can answer the command of that row.
pub(in super::super) fn can_answer(row: usize, reply: &Reply) -> bool {
    let Some(command) = COMMANDS.get(row) else {
        return true;
    };
    let words: &[&[u8]] = match command.shape {
        // How many values may come is judged where they are counted.
        Shape::Get | Shape::GetTouch => return reply.kind == ReplyKind::Aggregate,
        Shape::Store => &[b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND"],
        Shape::Delete => &[b"DELETED", b"NOT_FOUND"],
        Shape::Count if reply.kind == ReplyKind::Integer => return true,
        Shape::Count => &[b"NOT_FOUND"],
        Shape::Touch => &[b"TOUCHED", b"NOT_FOUND"],
        Shape::Admin { .. } if command.word == "version" => &[b"VERSION"],
        Shape::Admin { .. } => {
            return match reply.kind {
                ReplyKind::Simple => {
                    reply.word.as_bytes().len() > 2 || reply.word.as_bytes() == b"OK"
                }
                kind => kind == ReplyKind::Aggregate,
            };
        }
    };
    reply.kind == ReplyKind::Simple && words.contains(&reply.word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_finds_its_row() {
        for (row, command) in COMMANDS.iter().enumerate() {
            assert_eq!(word(command.word.as_bytes()), Word::Known(row as u16));
            assert_eq!(command.name, command.word.to_ascii_uppercase());
        }
        assert!(COMMANDS.len() <= usize::from(meta::FIRST_INDEX));
        assert_eq!(word(b"ms"), Word::Meta(1));
        assert_eq!(word(b"mx"), Word::Unknown);
        assert_eq!(word(b"GET"), Word::Unknown);
        assert_eq!(word(b""), Word::Unknown);
    }
}
