//! How keys appear in a recording: as `--keys` says, and as long as they were.

use std::hash::{BuildHasher, RandomState};

use crate::aggregation::pattern::pattern;
use crate::config::Config;
use crate::config::export::{Export, Keys};
use crate::protocol::mask::Names;

/// Stands for what varies in a key: of a key in which it does, the pattern is the same.
const VARIES: u8 = b'0';

/// The strictest that holds for any connection, since a recording mixes them.
pub(super) struct Shown {
    keys: Keys,
    export: Export,
    /// Drawn anew for each recording, and nowhere kept.
    secret: RandomState,
}

impl Shown {
    pub(super) fn new(config: &Config) -> Self {
        let rules = config.tables.rules.iter().filter_map(|rule| rule.keys);
        let strictest = rules
            .chain([config.export.keys])
            .max_by_key(|keys| strictness(*keys));
        Self {
            keys: strictest.unwrap_or_default(),
            export: config.export.clone(),
            secret: RandomState::new(),
        }
    }

    /// How keys appear.
    pub(super) fn keys(&self) -> Keys {
        self.keys
    }

    fn pattern(&self, key: &str) -> String {
        match self.export.templates.find(key) {
            Some(own) => own.to_owned(),
            None => pattern(key),
        }
    }

    /// A key of the same length and the same pattern, in which `varies` says what stands for all that is no part of the pattern; `None`
    /// where there is none.
    fn alike(&self, key: &[u8], varies: impl FnOnce(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
        if !key.iter().all(|byte| matches!(byte, b' '..=b'~')) || key.contains(&b'\\') {
            return None;
        }
        let text = std::str::from_utf8(key).ok()?;
        let wanted = self.pattern(text);
        let mut alike = key.to_vec();
        let mut places = Vec::new();
        let mut at = 0;
        for literal in wanted.trim_end_matches('…').split('*') {
            let start = at + text.get(at..)?.find(literal)?;
            places.extend(at..start);
            at = start + literal.len();
        }
        places.extend(at..key.len());
        let varying: Vec<u8> = places.iter().map(|place| key[*place]).collect();
        for (place, byte) in places.into_iter().zip(varies(&varying)) {
            alike[place] = byte;
        }
        // Where the words of the pattern stand elsewhere in the key, too, this shows.
        let found = self.pattern(std::str::from_utf8(&alike).ok()?);
        (found == wanted).then_some(alike)
    }

    /// A permutation of the graphic texts of one length. It brings no quotes where there were none: typed commands are split at them.
    fn drawn(&self, text: &[u8]) -> Vec<u8> {
        let placed: Vec<u8> = text.iter().copied().map(quotes_last).collect();
        let drawn = self.permuted(&placed, graphic);
        drawn.into_iter().map(quotes_last).collect()
    }

    /// A permutation of the texts of one length: a Feistel network, with a hash keyed by the secret. `letters` says of a byte
    /// among which it moves: the first of them, and how many there are.
    fn permuted(&self, text: &[u8], letters: fn(u8) -> (u8, u16)) -> Vec<u8> {
        let places: Vec<_> = text.iter().map(|byte| letters(*byte)).collect();
        let digits = text.iter().zip(&places);
        let mut digits: Vec<u16> = digits
            .map(|(byte, (lowest, base))| u16::from(byte.wrapping_sub(*lowest)) % base)
            .collect();
        let half = digits.len() / 2;
        for round in 0..4_u8 {
            let (left, right) = digits.split_at_mut(half);
            let (from, to, first) = match round % 2 {
                0 => (left, right, half),
                _ => (right, left, 0),
            };
            for (index, digit) in to.iter_mut().enumerate() {
                let base = places[first + index].1;
                let drawn = self.secret.hash_one((round, index, &*from));
                *digit = (*digit + (drawn % u64::from(base)) as u16) % base;
            }
        }
        let places = digits.into_iter().zip(places);
        places
            .map(|(digit, (lowest, _))| lowest.wrapping_add(digit as u8))
            .collect()
    }
}

/// Every graphic letter of which quotes have the last two places.
fn graphic(byte: u8) -> (u8, u16) {
    match byte {
        b'}' | b'~' => (b'}', 2),
        _ => (b'!', 92),
    }
}

/// Gives quotes the places of the last two letters, or takes them back.
fn quotes_last(byte: u8) -> u8 {
    match byte {
        b'"' => b'}',
        b'}' => b'"',
        b'\'' => b'~',
        b'~' => b'\'',
        other => other,
    }
}

/// Any byte.
fn any(_: u8) -> (u8, u16) {
    (0, 256)
}

/// Those of its kind: what was an id stays one.
fn kind(byte: u8) -> (u8, u16) {
    match byte {
        b'0'..=b'9' => (b'0', 10),
        b'a'..=b'z' => (b'a', 26),
        b'A'..=b'Z' => (b'A', 26),
        other => (other, 1),
    }
}

fn strictness(keys: Keys) -> u8 {
    match keys {
        Keys::Full => 0,
        Keys::Pattern => 1,
        Keys::Hash => 2,
        Keys::None => 3,
    }
}

/// The stricter of two.
pub(super) fn stricter(one: Keys, other: Keys) -> Keys {
    match strictness(one) >= strictness(other) {
        true => one,
        false => other,
    }
}

impl Names for Shown {
    fn key(&self, key: &[u8]) -> Vec<u8> {
        match self.keys {
            Keys::Full => key.to_vec(),
            Keys::Pattern => self
                .alike(key, |key| vec![VARIES; key.len()])
                .unwrap_or_else(|| vec![VARIES; key.len()]),
            // Spans show patterns beside hashes.
            Keys::Hash => self
                .alike(key, |key| self.permuted(key, kind))
                .unwrap_or_else(|| self.drawn(key)),
            // Some of Memcached's replies are paired by the key that they repeat.
            Keys::None => self.drawn(key),
        }
    }

    fn opaque(&self, opaque: &[u8], text: bool) -> Vec<u8> {
        match text {
            true => self.drawn(opaque),
            false => self.permuted(opaque, any),
        }
    }

    fn user(&self) -> bool {
        !self.export.redaction.user
    }

    fn client(&self) -> bool {
        !self.export.redaction.client_name
    }

    fn hides(&self, operation: &str) -> bool {
        self.export.redaction.hides(operation)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn shown(keys: Keys) -> Shown {
        Shown {
            keys,
            export: Export::default(),
            secret: RandomState::new(),
        }
    }

    #[test]
    fn a_pattern_stays() {
        let shown = shown(Keys::Pattern);
        for key in [
            "user:42:profile",
            "session:550e8400-e29b-41d4-a716-446655440000",
            "a",
            "v2:user42:30d",
            "cart:alice@example.com:7",
            "x:7a1156131a69:y",
            "",
        ] {
            let alike = shown.key(key.as_bytes());
            assert_eq!(alike.len(), key.len());
            let alike = String::from_utf8(alike).unwrap();
            assert_eq!(pattern(&alike), pattern(key), "{key} {alike}");
            for digit in ["42", "550e", "alice", "7a11", "30"] {
                assert!(!alike.contains(digit), "{alike}");
            }
        }
        assert_eq!(shown.key(b"k\x00k"), b"000");
    }

    #[test]
    fn equal_stays_equal_and_others_stay_others() {
        let shown = shown(Keys::Hash);
        let mut seen = HashSet::new();
        for number in 0..10_000 {
            let key = format!("user:{number:04}:profile");
            let alias = shown.key(key.as_bytes());
            assert_eq!(alias, shown.key(key.as_bytes()));
            let text = String::from_utf8(alias.clone()).unwrap();
            assert_eq!(pattern(&text), "user:*:profile");
            assert!(seen.insert(alias));
        }
        let opaques: HashSet<_> = (0..10_000_u32)
            .map(|number| shown.opaque(&number.to_be_bytes(), false))
            .collect();
        assert_eq!(opaques.len(), 10_000);
        let letters: HashSet<_> = (b'!'..=b'~')
            .map(|one| shown.opaque(&[one], true))
            .collect();
        assert_eq!(letters.len(), 94);
        assert!(letters.iter().flatten().all(u8::is_ascii_graphic));
    }

    #[test]
    fn of_a_key_that_is_not_shown_nothing_stays() {
        let shown = shown(Keys::None);
        let key = b"user:profile:settings:of:a:long:name";
        let alias = shown.key(key);
        let same = alias.iter().zip(key).filter(|(one, other)| one == other);
        assert!(same.count() < key.len() / 3);
        assert_eq!(shown.key(b"").len(), 0);
    }

    #[test]
    fn quotes_come_of_quotes_only() {
        let shown = shown(Keys::None);
        for number in 0..10_000 {
            let alias = shown.key(format!("{number:04}:}}~").as_bytes());
            assert!(!alias.contains(&b'"') && !alias.contains(&b'\''));
        }
        for quote in [b"\"", b"'"] {
            let alias = shown.key(quote);
            assert!(alias == b"\"" || alias == b"'");
        }
    }
}
