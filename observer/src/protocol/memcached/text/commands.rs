//! The commands of the text dialect, as data.

use super::super::super::message::Class;

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
    /// Words of administration; shown if known. May end in `noreply` where the flag says so.
    Admin {
        /// `noreply` is understood.
        noreply: bool,
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

const ADMIN: Shape = Shape::Admin { noreply: false };

/// The table. A row's index is its identity in [`Operation::Known`](crate::protocol::Operation::Known).
pub(super) static COMMANDS: [Command; 26] = [
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
    c(
        "flush_all",
        "FLUSH_ALL",
        Class::Delete,
        Shape::Admin { noreply: true },
    ),
    c(
        "verbosity",
        "VERBOSITY",
        Class::Admin,
        Shape::Admin { noreply: true },
    ),
    c("stats", "STATS", Class::Admin, ADMIN),
    c("version", "VERSION", Class::Admin, ADMIN),
    c("quit", "QUIT", Class::Connection, ADMIN),
    c("shutdown", "SHUTDOWN", Class::Admin, ADMIN),
    c("slabs", "SLABS", Class::Admin, ADMIN),
    c("lru", "LRU", Class::Admin, ADMIN),
    c("lru_crawler", "LRU_CRAWLER", Class::Admin, ADMIN),
    c("watch", "WATCH", Class::Admin, ADMIN),
    c(
        "cache_memlimit",
        "CACHE_MEMLIMIT",
        Class::Admin,
        Shape::Admin { noreply: true },
    ),
    c("extstore", "EXTSTORE", Class::Admin, ADMIN),
];

/// Words of administration that may be shown.
pub(super) const SHOWN: [&[u8]; 14] = [
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
];

/// What a first word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// A row of the table.
    Known(u16),
    /// A meta command.
    Meta,
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
        b"mg" | b"ms" | b"md" | b"ma" | b"mn" | b"me" => return Word::Meta,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_finds_its_row() {
        for (row, command) in COMMANDS.iter().enumerate() {
            assert_eq!(word(command.word.as_bytes()), Word::Known(row as u16));
            assert_eq!(command.name, command.word.to_ascii_uppercase());
        }
        assert_eq!(word(b"mg"), Word::Meta);
        assert_eq!(word(b"GET"), Word::Unknown);
        assert_eq!(word(b""), Word::Unknown);
    }
}
