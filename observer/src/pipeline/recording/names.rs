//! How keys appear in a recording: as `--keys` says, and as long as they were.

use std::hash::{BuildHasher, RandomState};

use crate::aggregation::pattern::pattern;
use crate::config::Config;
use crate::config::export::{Export, Keys};
use crate::protocol::mask::Names;

/// Stands for what varies in a key: of a key in which it does, the pattern is the same.
const VARIES: u8 = b'0';
/// Stands for each byte of a key that is not shown at all.
const HIDDEN: u8 = b'y';

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

    /// A key of the same length and the same pattern.
    fn alike(&self, key: &[u8]) -> Vec<u8> {
        let nothing = vec![VARIES; key.len()];
        let Ok(text) = std::str::from_utf8(key) else {
            return nothing;
        };
        if !key.iter().all(|byte| matches!(byte, b' '..=b'~')) || key.contains(&b'\\') {
            return nothing;
        }
        let wanted = self.pattern(text);
        let mut alike = nothing.clone();
        let mut at = 0;
        for literal in wanted.trim_end_matches('…').split('*') {
            let Some(found) = text.get(at..).and_then(|rest| rest.find(literal)) else {
                return nothing;
            };
            let start = at + found;
            at = start + literal.len();
            alike[start..at].copy_from_slice(literal.as_bytes());
        }
        // Where the words of the pattern stand elsewhere in the key, too, this shows.
        match std::str::from_utf8(&alike).map(|alike| self.pattern(alike)) {
            Ok(pattern) if pattern == wanted => alike,
            _ => nothing,
        }
    }

    /// A permutation of the texts of one length over `base` letters, the first of which is `lowest`: a Feistel network, with a hash keyed
    /// by the secret.
    fn permuted(&self, text: &[u8], lowest: u8, base: u16) -> Vec<u8> {
        let digit = |byte: &u8| u16::from(byte.wrapping_sub(lowest)) % base;
        let mut digits: Vec<u16> = text.iter().map(digit).collect();
        let half = digits.len() / 2;
        for round in 0..4_u8 {
            let (left, right) = digits.split_at_mut(half);
            let (from, to) = match round % 2 {
                0 => (left, right),
                _ => (right, left),
            };
            for (index, digit) in to.iter_mut().enumerate() {
                let drawn = self.secret.hash_one((round, index, &*from));
                *digit = (*digit + (drawn % u64::from(base)) as u16) % base;
            }
        }
        let letter = |digit: u16| lowest.wrapping_add(digit as u8);
        digits.into_iter().map(letter).collect()
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
            Keys::Pattern => self.alike(key),
            Keys::Hash => self.permuted(key, b'!', 94),
            Keys::None => vec![HIDDEN; key.len()],
        }
    }

    fn opaque(&self, opaque: &[u8], text: bool) -> Vec<u8> {
        match text {
            true => self.permuted(opaque, b'!', 94),
            false => self.permuted(opaque, 0, 256),
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
        for length in 1..4_usize {
            let mut seen = HashSet::new();
            for number in 0..94_u32.pow(length.min(2) as u32) {
                let key: Vec<u8> = (0..length as u32)
                    .map(|place| b'!' + (number / 94_u32.pow(place.min(1)) % 94) as u8)
                    .collect();
                let key = match length {
                    2 => vec![b'!' + (number % 94) as u8, b'!' + (number / 94) as u8],
                    _ => key,
                };
                let hidden = shown.key(&key);
                assert_eq!(hidden, shown.key(&key));
                assert!(hidden.iter().all(u8::is_ascii_graphic));
                if length < 3 {
                    assert!(seen.insert(hidden));
                }
            }
        }
        let opaques: HashSet<_> = (0..10_000_u32)
            .map(|number| shown.opaque(&number.to_be_bytes(), false))
            .collect();
        assert_eq!(opaques.len(), 10_000);
    }
}
