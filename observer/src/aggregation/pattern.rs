//! From a key to its pattern: what varies becomes `*`, what names stays. `user:42:profile` and `user:43:profile` are both
//! `user:*:profile`.
//!
//! A key is cut into *tokens*, runs of ASCII letters and digits. Everything between them (`: / . - _ |`, braces, spaces)
//! is kept as it is. What becomes of a token:
//!
//! | token | example | becomes |
//! |---|---|---|
//! | digits | `42`, `1700000000` | `*` |
//! | letters | `profile`, `getUserById` | itself |
//! | `v` and up to three digits; a technical term with digits in it | `v2`; `sha256`, `i18n` | itself |
//! | digits and a unit | `30d`, `100ms` | `*d`, `*ms` |
//! | words, and up to two runs of digits | `user42`, `user42profile` | `user*`, `user*profile` |
//! | hexadecimal, 8 or more, letters and digits; 16 or more | `7a1156131a69` | `*` |
//! | any other mixture of letters and digits | `a1b2c3d`, `01ARZ3NDEKTSV4RRFFQ69G5FAV` | `*` |
//! | letters that are no word: case that changes at every third letter or sooner, 16 or more with six consonants in a row, more than 32 | `aBcDeFgH` | `*` |
//!
//! Several tokens are one `*` together in: UUIDs; dates (`2024-01-15`, also with `/ . _`) with a time of day; IPv4, IPv6 and MAC
//! addresses; mail addresses; base64 with its `+`, `/` and `=`; ids of the URL-safe base64 alphabet with their `-` and
//! `_` (nanoid).
//!
//! Bytes that are not printable (`\xNN`) become `*`, with tokens of one or two characters that touch them: binary framing.
//! Neighbouring `*` are one. A pattern has at most [`MAX_BYTES`] bytes and [`MAX_SEGMENTS`] tokens; a longer one is cut and
//! ends with `…`. The pattern of a pattern is itself.
//!
//! 40 to 230 ns a key; 1 µs for a hostile one of 2 KiB. It is a heuristic for grouping: a random id that looks like a word stays, and a word that looks random does not.
//! It hides nothing for sure: names of people, for one, are words.

mod compound;
#[cfg(test)]
mod tests;

use compound::{mail_address, several_tokens};

/// Most bytes of a pattern.
pub const MAX_BYTES: usize = 128;
/// Most tokens of a pattern.
pub const MAX_SEGMENTS: usize = 16;
/// Stands at the end of a pattern that was cut.
const CUT: &str = "…";
/// Longest word. Terms that people write are shorter.
const MAX_WORD: usize = 32;

/// The pattern of a printable key.
#[must_use]
pub fn pattern(key: &str) -> String {
    let mut out = String::with_capacity(key.len().min(MAX_BYTES));
    pattern_into(key, &mut out);
    out
}

/// Appends the pattern of a printable key. Allocates only when `out` must grow, by [`MAX_BYTES`] at most.
pub fn pattern_into(key: &str, out: &mut String) {
    let start = out.len();
    let mut writer = Writer { out, start };
    if !write(key, &mut writer) {
        writer.out.push_str(CUT);
    }
}

/// Answers whether all of it was written.
fn write(key: &str, writer: &mut Writer<'_>) -> bool {
    let bytes = key.as_bytes();
    let mail = bytes.contains(&b'@');
    let mut segments = 0;
    let mut escaped = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        if !byte.is_ascii_alphanumeric() {
            at += separator(key, at);
            escaped = is_escape(&bytes[start..at]);
            let written = if escaped {
                writer.any()
            } else {
                writer.text(&key[start..at])
            };
            if !written {
                return false;
            }
            continue;
        }
        segments += 1;
        if segments > MAX_SEGMENTS {
            return false;
        }
        let several =
            (mail.then(|| mail_address(bytes, at)).flatten()).or_else(|| several_tokens(bytes, at));
        if let Some(end) = several {
            at = end;
            if !writer.any() {
                return false;
            }
            continue;
        }
        at = token_end(bytes, at);
        let token = &bytes[start..at];
        let binary = token.len() <= 2 && (escaped || is_escape(&bytes[at..]));
        let written = match kind(token) {
            _ if binary => writer.any(),
            Kind::Word => writer.text(&key[start..at]),
            Kind::Number => writer.any(),
            Kind::Numbered => {
                // In the pattern each of its words is a token.
                segments += words(token).saturating_sub(1);
                segments <= MAX_SEGMENTS && numbered(&key[start..at], writer)
            }
            Kind::Id => {
                at = id_end(bytes, start, at);
                writer.any()
            }
        };
        if !written {
            return false;
        }
        escaped = false;
    }
    true
}

/// Writes within the bound.
struct Writer<'a> {
    out: &'a mut String,
    start: usize,
}

impl Writer<'_> {
    /// `false`: there is no room.
    fn text(&mut self, text: &str) -> bool {
        if text == "*" {
            return self.any();
        }
        let fits = self.out.len() - self.start + text.len() <= MAX_BYTES - CUT.len();
        if fits {
            self.out.push_str(text);
        }
        fits
    }

    fn any(&mut self) -> bool {
        if self.out[self.start..].ends_with('*') {
            return true;
        }
        let fits = self.out.len() - self.start < MAX_BYTES - CUT.len();
        if fits {
            self.out.push('*');
        }
        fits
    }
}

/// Length of what is at `at` and no token: a character, or an escape (`\xNN`, `\\`, `%NN`).
fn separator(key: &str, at: usize) -> usize {
    let rest = &key.as_bytes()[at..];
    match rest {
        _ if is_escape(rest) => 4,
        [b'\\', b'\\', ..] => 2,
        [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => 3,
        [byte, ..] if byte.is_ascii() => 1,
        _ => key[at..].chars().next().map_or(1, char::len_utf8),
    }
}

/// `\xNN` at the front.
fn is_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

fn token_end(bytes: &[u8], at: usize) -> usize {
    let length = bytes[at..]
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric());
    length.map_or(bytes.len(), |length| at + length)
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Number,
    /// Words or a unit, and digits.
    Numbered,
    Id,
}

fn kind(token: &[u8]) -> Kind {
    let (mut digits, mut runs, mut hex) = (0, 0, true);
    let mut after_digit = false;
    for byte in token {
        let digit = byte.is_ascii_digit();
        digits += usize::from(digit);
        runs += usize::from(digit && !after_digit);
        hex &= byte.is_ascii_hexdigit();
        after_digit = digit;
    }
    if digits == token.len() {
        return Kind::Number;
    }
    if hex && token.len() >= 16 {
        return Kind::Id;
    }
    if digits == 0 {
        return if is_word(token) { Kind::Word } else { Kind::Id };
    }
    if hex && token.len() >= 8 {
        return Kind::Id;
    }
    if is_version(token) || is_term(token) {
        return Kind::Word;
    }
    let leading = token
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if leading == digits && is_unit(&token[leading..]) {
        return Kind::Numbered;
    }
    let letters = token.len() - digits;
    let prefixed = leading == 0 && runs == 1 && after_digit;
    let words = if prefixed {
        let prefix = &token[..letters];
        is_word(prefix) && (prefix.len() <= 5 || prefix.iter().any(is_vowel))
    } else {
        // Parts of random ids are short, or nobody could say them.
        let word = |part: &[u8]| {
            part.len() >= 3 && is_plain(part) && is_word(part) && part.iter().any(is_vowel)
        };
        let mut parts = token
            .split(u8::is_ascii_digit)
            .filter(|part| !part.is_empty());
        leading == 0 && runs <= 2 && parts.all(word)
    };
    if words { Kind::Numbered } else { Kind::Id }
}

/// Runs of letters in a token of letters and digits.
fn words(token: &[u8]) -> usize {
    let runs = token.split(u8::is_ascii_digit);
    runs.filter(|letters| !letters.is_empty()).count()
}

/// Writes the letters, and `*` for each run of digits.
fn numbered(token: &str, writer: &mut Writer<'_>) -> bool {
    let mut rest = token;
    while let Some(first) = rest.as_bytes().first() {
        let digit = first.is_ascii_digit();
        let end = rest
            .bytes()
            .position(|byte| byte.is_ascii_digit() != digit)
            .unwrap_or(rest.len());
        let (part, tail) = rest.split_at(end);
        let written = if digit {
            writer.any()
        } else {
            writer.text(part)
        };
        if !written {
            return false;
        }
        rest = tail;
    }
    true
}

/// Letters that can be a word, or several in camel case.
fn is_word(letters: &[u8]) -> bool {
    if letters.len() > MAX_WORD {
        return false;
    }
    let (mut humps, mut consonants, mut most) = (0, 0, 0);
    let mut after_lower = false;
    for byte in letters {
        humps += usize::from(after_lower && byte.is_ascii_uppercase());
        after_lower = byte.is_ascii_lowercase();
        consonants = if is_vowel(byte) { 0 } else { consonants + 1 };
        most = most.max(consonants);
    }
    let restless = letters.len() >= 6 && humps * 3 > letters.len();
    !(restless || letters.len() >= 16 && most >= 6)
}

fn is_vowel(byte: &u8) -> bool {
    matches!(
        byte.to_ascii_lowercase(),
        b'a' | b'e' | b'i' | b'o' | b'u' | b'y'
    )
}

fn is_version(token: &[u8]) -> bool {
    matches!(token, [b'v' | b'V', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit))
}

/// Terms with digits in them that name something and count nothing.
fn is_term(token: &[u8]) -> bool {
    let mut lower = [0; 7];
    let Some(lower) = lower.get_mut(..token.len()) else {
        return false;
    };
    lower.copy_from_slice(token);
    lower.make_ascii_lowercase();
    matches!(
        &*lower,
        b"md5"
            | b"sha1"
            | b"sha224"
            | b"sha256"
            | b"sha384"
            | b"sha512"
            | b"crc32"
            | b"utf8"
            | b"utf16"
            | b"utf8mb4"
            | b"base32"
            | b"base58"
            | b"base64"
            | b"oauth1"
            | b"oauth2"
            | b"2fa"
            | b"http1"
            | b"http2"
            | b"http3"
            | b"ipv4"
            | b"ipv6"
            | b"x509"
            | b"s3"
            | b"ec2"
            | b"k8s"
            | b"i18n"
            | b"l10n"
            | b"a11y"
            | b"e2e"
            | b"p2p"
            | b"b2b"
            | b"b2c"
            | b"web2"
            | b"web3"
            | b"mp3"
            | b"mp4"
            | b"html5"
            | b"css3"
            | b"x86"
            | b"p50"
            | b"p90"
            | b"p95"
            | b"p99"
            | b"neo4j"
            | b"log4j"
            | b"2d"
            | b"3d"
            | b"h264"
    )
}

fn is_unit(suffix: &[u8]) -> bool {
    matches!(
        suffix,
        b"s" | b"ms"
            | b"us"
            | b"ns"
            | b"m"
            | b"min"
            | b"h"
            | b"hr"
            | b"d"
            | b"w"
            | b"mo"
            | b"y"
            | b"x"
            | b"px"
            | b"k"
            | b"kb"
            | b"mb"
            | b"gb"
            | b"K"
            | b"KB"
            | b"MB"
            | b"GB"
            | b"am"
            | b"pm"
            | b"st"
            | b"nd"
            | b"rd"
            | b"th"
            | b"sec"
            | b"hour"
            | b"hours"
            | b"day"
            | b"days"
            | b"week"
            | b"month"
            | b"year"
    )
}

/// Where an id that begins with the token `start..end` ends: further parts that base64 alphabets join, and padding.
fn id_end(bytes: &[u8], start: usize, mut end: usize) -> usize {
    // The standard alphabet has `/`, which separates elsewhere: only with `+` or padding in the same run.
    let run = bytes[start..]
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')))
        .map_or(bytes.len(), |length| start + length);
    let padded = bytes.get(run) == Some(&b'=');
    if run - start >= 16 && (padded || bytes[start..run].contains(&b'+')) {
        end = run;
    }
    // The URL-safe alphabet.
    let both = |part: &[u8]| {
        part.iter().any(u8::is_ascii_uppercase) && part.iter().any(u8::is_ascii_lowercase)
    };
    while both(&bytes[start..end]) && matches!(bytes.get(end), Some(b'-' | b'_')) {
        let next = token_end(bytes, end + 1);
        let part = &bytes[end + 1..next];
        if part.is_empty() || !(kind(part) == Kind::Id || both(part) && !is_capitalized(part)) {
            break;
        }
        end = next;
    }
    let padding = bytes[end..]
        .iter()
        .take_while(|byte| **byte == b'=')
        .count();
    let ends = bytes
        .get(end + padding)
        .is_none_or(|byte| !byte.is_ascii_alphanumeric());
    if padding <= 2 && ends {
        end + padding
    } else {
        end
    }
}

/// Small letters, capitals, or small letters after one capital.
fn is_plain(token: &[u8]) -> bool {
    is_capitalized(token)
        || token.iter().all(u8::is_ascii_lowercase)
        || token.iter().all(u8::is_ascii_uppercase)
}

fn is_capitalized(token: &[u8]) -> bool {
    matches!(token, [first, rest @ ..] if first.is_ascii_uppercase() && rest.iter().all(u8::is_ascii_lowercase))
}
