//! Reads a request's meaning out of its arguments, by the command table.

mod roles;

use super::super::message::{Class, Expiry, HitRule, Operation, Request, Word, seconds};
use super::super::number;
use super::super::text::Writer;
use super::arguments::{Arguments, MAX_KEPT, RESIDUES};
use super::commands::{Asked, Command, Shape, Ttl, find};
use super::connection;
use super::options::{option, subcommand};

pub(super) use roles::{Role, Roles};

/// Most digits of a number that is shown: seconds, milliseconds, counts, indexes. Longer ones may identify someone.
const MAX_SHOWN_DIGITS: usize = 10;

/// The request that `arguments` (at least the name) make.
pub(super) fn interpret(arguments: &Arguments, keep_detail: bool) -> Request {
    let name = arguments.prefix(0);
    let known = arguments.whole(0).and_then(find);
    let (operation, class) = match known {
        Some((index, command)) => (
            Operation::Known {
                index,
                name: command.name,
            },
            command.class,
        ),
        // The server refuses a name of no bytes like any that it does not know.
        None if name.is_empty() => (Operation::Other(Word::UNKNOWN), Class::Other),
        None => (Operation::Other(Word::new(name)), Class::Other),
    };
    let mut request = Request::new(operation, class);
    let writer = keep_detail.then(|| Writer::new(operation.name()));
    let mut walk = Walk::new(arguments, writer);
    match known {
        Some((_, command)) => {
            walk.shape(&command.shape);
            walk.fill(&mut request, command);
        }
        None => walk.shape(&Shape::UNKNOWN),
    }
    request.detail = walk.writer.map(Writer::finish);
    if let Some((_, command)) = known {
        connection::interpret(command.special, arguments, &mut request);
    }
    request
}

/// One pass over the arguments.
struct Walk<'a, N> {
    arguments: &'a Arguments,
    writer: Option<N>,
    /// Arguments, the name included.
    total: usize,
    /// The next argument.
    at: usize,
    keys: u64,
    value_size: Option<u64>,
    ttl: Option<Expiry>,
    /// The integer after FIELDS.
    fields: u32,
    get: bool,
    /// BYSCORE or BYLEX.
    by_value: bool,
    /// Scores or values stand between the elements, beside them in another version of RESP.
    mixed: bool,
    block: bool,
    /// No option comes any more.
    last: bool,
}

/// What is told of the arguments after the name, each by its index and in their order.
trait Notes {
    /// A known word.
    fn word(&mut self, at: usize, word: &str);
    /// A small number that means something.
    fn number(&mut self, at: usize, number: i64);
    /// A time to live, of any length.
    fn time(&mut self, at: usize);
    /// Anything else.
    fn hidden(&mut self);
    /// A key.
    fn key(&mut self, at: usize, key: &[u8]);
    /// The SHA-1 or name of a script or function.
    fn stored_procedure(&mut self, at: usize, name: &[u8]);
    /// No more is told.
    fn cut(&mut self);
}

impl Notes for Writer {
    fn word(&mut self, _: usize, word: &str) {
        Writer::word(self, word);
    }

    fn number(&mut self, _: usize, number: i64) {
        Writer::number(self, number);
    }

    fn time(&mut self, _: usize) {}

    fn hidden(&mut self) {
        Writer::hidden(self);
    }

    fn key(&mut self, _: usize, key: &[u8]) {
        Writer::key(self, key);
    }

    fn stored_procedure(&mut self, _: usize, name: &[u8]) {
        Writer::stored_procedure(self, name);
    }

    fn cut(&mut self) {
        Writer::cut(self);
    }
}

impl<'a, N: Notes> Walk<'a, N> {
    fn new(arguments: &'a Arguments, writer: Option<N>) -> Self {
        Self {
            arguments,
            writer,
            total: usize::try_from(arguments.count()).unwrap_or(usize::MAX),
            at: 1,
            keys: 0,
            value_size: None,
            ttl: None,
            fields: 0,
            get: false,
            by_value: false,
            mixed: false,
            block: false,
            last: false,
        }
    }

    /// Follows the head, the cycle, the tail.
    fn shape(&mut self, shape: &Shape) {
        for &letter in shape.head {
            if self.at >= self.total {
                return;
            }
            match letter {
                b'#' => self.counted(false),
                b'P' => self.counted(true),
                // What follows FIELDS, IDS or ITEMS are names, `store` may be one of them: no option, and no key after it.
                b'O' => while self.at < self.total && !self.last && self.option(letter) {},
                b'X' => self.streams(),
                _ => self.one(letter),
            }
        }
        let end = self.total.saturating_sub(shape.tail.len()).max(self.at);
        self.cycle(shape.cycle, end);
        for &letter in shape.tail {
            if self.at < self.total {
                self.one(letter);
            }
        }
    }

    /// One argument.
    fn one(&mut self, letter: u8) {
        let arguments = self.arguments;
        match letter {
            b'k' => self.key(),
            b'm' if arguments.length(self.at) > 0 || !self.has(b"KEYS") => self.key(),
            b'h' if arguments.is_word(self.at - 1, b"SET") => self.key(),
            b'v' => {
                let length = arguments.length(self.at);
                self.add_value(length);
                self.hidden();
            }
            b'n' => self.number(),
            b'w' => {
                let word = self
                    .arguments
                    .upper(self.at)
                    .and_then(|upper| subcommand(upper.as_bytes()));
                match (&mut self.writer, word) {
                    (Some(writer), Some(word)) => writer.word(self.at, word),
                    (Some(writer), None) => writer.hidden(),
                    (None, _) => {}
                }
                self.at += 1;
            }
            b'S' => {
                match (&mut self.writer, arguments.unbroken(self.at)) {
                    (Some(writer), Some(name)) => writer.stored_procedure(self.at, name),
                    (Some(writer), None) => writer.hidden(),
                    (None, _) => {}
                }
                self.at += 1;
            }
            _ => self.hidden(),
        }
    }

    fn key(&mut self) {
        self.keys += 1;
        if let Some(writer) = &mut self.writer
            && self.at < self.arguments.kept()
        {
            // Part of a key is another key.
            match self.arguments.unbroken(self.at) {
                Some(key) => writer.key(self.at, key),
                None => writer.hidden(),
            }
        }
        self.at += 1;
    }

    fn hidden(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.hidden();
        }
        self.at += 1;
    }

    fn number(&mut self) {
        if let Some(writer) = &mut self.writer {
            let shown = self
                .arguments
                .whole(self.at)
                .filter(|text| text.len() <= MAX_SHOWN_DIGITS)
                .and_then(number::parse);
            match shown {
                Some(number) => writer.number(self.at, number),
                None => writer.hidden(),
            }
        }
        self.at += 1;
    }

    fn add_value(&mut self, length: u64) {
        self.value_size = Some(self.value_size.unwrap_or(0).saturating_add(length));
    }

    /// A count, and that many keys or pairs.
    fn counted(&mut self, pairs: bool) {
        let count = self
            .arguments
            .integer(self.at)
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0);
        self.number();
        let rest = self.total - self.at;
        let (cycle, length): (&[u8], _) = if pairs {
            (b"kv", count.saturating_mul(2))
        } else {
            (b"k", count)
        };
        let end = self.at + length.min(rest);
        if pairs && end > MAX_KEPT && end < self.total {
            // The sums cannot tell these values from what follows.
            self.cycle(b"k?", end);
            self.value_size = None;
        } else {
            self.cycle(cycle, end);
        }
    }

    /// Options up to STREAMS, then keys and as many ids.
    fn streams(&mut self) {
        while self.at < self.arguments.kept() {
            let streams = self.arguments.is_word(self.at, b"STREAMS");
            if !self.option(b'X') {
                self.hidden();
            }
            if streams {
                let keys = (self.total - self.at) / 2;
                self.cycle(b"k", self.at + keys);
                return;
            }
        }
    }

    /// Repeats `cycle` up to `end`; past the kept arguments by arithmetic, so a million pairs cost nothing.
    fn cycle(&mut self, cycle: &[u8], end: usize) {
        let start = self.at;
        if cycle.is_empty() {
            return;
        }
        let kept = end.min(self.arguments.kept());
        if let [b'o' | b's' | b'g' | b'M'] = cycle {
            while self.at < kept {
                if !self.option(cycle[0]) {
                    self.hidden();
                }
            }
        } else if self.writer.is_none() && cycle == b"?" {
            self.at = self.at.max(kept);
        } else {
            let mut letters = cycle.iter().cycle();
            while self.at < kept {
                if let Some(&letter) = letters.next() {
                    self.one(letter);
                }
            }
        }
        if end > self.at {
            self.past_kept(cycle, start, end);
        }
    }

    /// Accounts for the arguments from `self.at` to `end`, of which only sums are known.
    fn past_kept(&mut self, cycle: &[u8], start: usize, end: usize) {
        let period = cycle.len();
        for (offset, letter) in cycle.iter().enumerate() {
            // Arguments `i` in `self.at..end` with `(i - start) % period == offset`.
            let before =
                |limit: usize| (limit.saturating_sub(start) + period - 1 - offset) / period;
            match letter {
                b'k' => self.keys += (before(end) - before(self.at)) as u64,
                b'v' => {
                    for (residue, sum) in self.arguments.sums().iter().enumerate() {
                        // RESIDUES is a multiple of every period, so an argument's residue tells its offset.
                        if (residue + RESIDUES * period - start % RESIDUES) % period == offset {
                            self.add_value(*sum);
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some(writer) = &mut self.writer {
            writer.cut();
        }
        self.at = end;
    }

    /// An option and what follows it. `false`, and nothing taken, if the next argument is none.
    fn option(&mut self, region: u8) -> bool {
        let Some((word, follow)) = self
            .arguments
            .upper(self.at)
            .and_then(|upper| option(upper.as_bytes(), region))
        else {
            return false;
        };
        if let Some(writer) = &mut self.writer {
            writer.word(self.at, word);
        }
        self.at += 1;
        let integer = self.arguments.integer(self.at);
        if let (Some(writer), "EX" | "PX" | "EXAT" | "PXAT", Some(_)) =
            (&mut self.writer, word, integer)
        {
            writer.time(self.at);
        }
        match word {
            "EX" => self.ttl = integer.map(Expiry::After),
            "PX" => self.ttl = integer.map(seconds).map(Expiry::After),
            "EXAT" => self.ttl = integer.map(at_seconds),
            "PXAT" => self.ttl = integer.map(Expiry::At),
            "FIELDS" => {
                self.fields = integer
                    .and_then(|count| u32::try_from(count).ok())
                    .unwrap_or(0)
            }
            "GET" => self.get = true,
            "BYSCORE" | "BYLEX" => self.by_value = true,
            "WITHSCORES" | "WITHVALUES" => self.mixed = true,
            "BLOCK" => self.block = true,
            _ => {}
        }
        for _ in 0..follow.integers {
            if self.at < self.total && self.arguments.integer(self.at).is_some() {
                self.number();
            }
        }
        for _ in 0..follow.hidden {
            if self.at < self.total {
                self.hidden();
            }
        }
        if follow.threshold {
            if let Some(sign @ (b"=" | b"~")) = self.arguments.whole(self.at) {
                if let Some(writer) = &mut self.writer {
                    writer.word(self.at, if sign == b"=" { "=" } else { "~" });
                }
                self.at += 1;
            }
            if self.at < self.total {
                self.number();
            }
        }
        if follow.key && self.at < self.total {
            self.key();
        }
        if follow.keys {
            self.cycle(b"k", self.total);
        }
        self.last |= follow.last;
        true
    }

    /// Whether that option comes later on.
    fn has(&self, option: &[u8]) -> bool {
        (self.at + 1..self.arguments.kept()).any(|index| self.arguments.is_word(index, option))
    }

    /// What was found, and what the table says beside.
    fn fill(&self, request: &mut Request, command: &Command) {
        let count = |keys: u64| u32::try_from(keys).unwrap_or(u32::MAX);
        let keys = count(self.keys);
        request.key_count = keys;
        request.value_size = self.value_size;
        request.ttl = match command.ttl {
            Ttl::No => self.ttl,
            Ttl::Seconds(at) => self.arguments.integer(usize::from(at)).map(Expiry::After),
            Ttl::Millis(at) => self
                .arguments
                .integer(usize::from(at))
                .map(seconds)
                .map(Expiry::After),
            Ttl::AtSeconds(at) => self.arguments.integer(usize::from(at)).map(at_seconds),
            Ttl::AtMillis(at) => self.arguments.integer(usize::from(at)).map(Expiry::At),
            Ttl::Restore => self.restored(),
        };
        request.blocking = command.blocking || self.block;
        request.reply_values = command.values;
        request.hit_rule = command.hit.rule(|| Asked {
            keys,
            after_key: count((self.total as u64).saturating_sub(2)),
            fields: self.fields,
            get: self.get,
            by_value: self.by_value,
            range: (self.arguments.integer(2), self.arguments.integer(3)),
            counted: self.total > 2,
        });
        let told = matches!(
            request.hit_rule,
            HitRule::Null | HitRule::NullElements { .. } | HitRule::Empty
        );
        request.returns = command.class == Class::Get && (told || command.returns) && !self.mixed;
    }

    /// RESTORE's: 0 is no time to live, and with ABSTTL it is a point in time.
    fn restored(&self) -> Option<Expiry> {
        let millis = self.arguments.integer(2).filter(|millis| *millis > 0)?;
        let is_absolute = |index| self.arguments.is_word(index, b"ABSTTL");
        Some(if (4..self.arguments.kept()).any(is_absolute) {
            Expiry::At(millis)
        } else {
            Expiry::After(seconds(millis))
        })
    }
}

/// A point in time given in seconds.
fn at_seconds(seconds: i64) -> Expiry {
    Expiry::At(seconds.saturating_mul(1000))
}
