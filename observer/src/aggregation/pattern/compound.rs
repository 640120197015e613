//! What is several tokens and one thing: addresses, dates, UUIDs, ids with `-` and `_`.

use super::{CUT, Kind, is_plain, kind, token_end};

/// Longest id of the URL-safe alphabet: 96 bytes of entropy.
const MAX_ID: usize = 128;

/// Where that which begins at the token at `at` and is longer than it ends. Each of these holds a digit that is neither in
/// a version nor in a term, so that no pattern is taken for one again.
pub(super) fn several_tokens(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let length = uuid(rest)
        .or_else(|| date(rest))
        .or_else(|| ipv4(rest))
        .or_else(|| mac(rest))
        .or_else(|| ipv6(rest))
        .or_else(|| url_safe_id(bytes, at));
    length.map(|length| at + length)
}

/// Whether a token ends at `at`.
fn ends_at(bytes: &[u8], at: usize) -> bool {
    bytes
        .get(at)
        .is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

/// Whether a token holds a digit and does not stay as it is.
fn varies(token: &[u8]) -> bool {
    token.iter().any(u8::is_ascii_digit) && kind(token) != Kind::Word
}

/// `8-4-4-4-12` hexadecimal digits.
fn uuid(bytes: &[u8]) -> Option<usize> {
    const LENGTH: usize = 36;
    let text = bytes.get(..LENGTH)?;
    let fits = text.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    let found = fits && text.iter().any(u8::is_ascii_digit) && ends_at(bytes, LENGTH);
    found.then_some(LENGTH)
}

/// Two digits.
fn pair(bytes: &[u8], at: usize) -> Option<u8> {
    match bytes.get(at..at + 2)? {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some((a - b'0') * 10 + b - b'0'),
        _ => None,
    }
}

/// Year, month and day, perhaps with a time of day.
fn date(bytes: &[u8]) -> Option<usize> {
    if !matches!(pair(bytes, 0)?, 19..=21) {
        return None;
    }
    pair(bytes, 2)?;
    let between = *bytes.get(4)?;
    let valid = matches!(between, b'-' | b'/' | b'.' | b'_')
        && matches!(pair(bytes, 5)?, 1..=12)
        && *bytes.get(7)? == between
        && matches!(pair(bytes, 8)?, 1..=31);
    if !valid {
        return None;
    }
    time(bytes, 10).or_else(|| ends_at(bytes, 10).then_some(10))
}

/// Where the time of day after a date ends: `T10:30`, ` 10:30:00.123`, `T10:30:00+02:00`, `T10:30Z`.
fn time(bytes: &[u8], at: usize) -> Option<usize> {
    if !matches!(bytes.get(at)?, b'T' | b't' | b' ' | b'_') {
        return None;
    }
    pair(bytes, at + 1)?;
    let more = |at: usize| {
        let next = bytes.get(at) == Some(&b':') && pair(bytes, at + 1).is_some();
        if next { at + 3 } else { at }
    };
    let minutes = more(at + 3);
    if minutes == at + 3 {
        return None;
    }
    let mut end = more(minutes);
    if bytes.get(end) == Some(&b'.') {
        let digits = bytes[end + 1..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        end += if digits > 0 { 1 + digits } else { 0 };
    }
    match bytes.get(end) {
        Some(b'Z' | b'z') => end += 1,
        Some(b'+' | b'-') if pair(bytes, end + 1).is_some() => end = more(end + 3),
        _ => {}
    }
    ends_at(bytes, end).then_some(end)
}

/// Four numbers of at most three digits.
fn ipv4(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for group in 0..4 {
        if group > 0 {
            if bytes.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
        let digits = bytes[at..]
            .iter()
            .take(4)
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if !(1..=3).contains(&digits) {
            return None;
        }
        at += digits;
    }
    let more = bytes.get(at) == Some(&b'.') && !ends_at(bytes, at + 1);
    (ends_at(bytes, at) && !more).then_some(at)
}

/// Six pairs of hexadecimal digits.
fn mac(bytes: &[u8]) -> Option<usize> {
    const LENGTH: usize = 17;
    let text = bytes.get(..LENGTH)?;
    let between = text[2];
    let fits = matches!(between, b':' | b'-')
        && text.iter().enumerate().all(|(at, byte)| match at % 3 {
            2 => *byte == between,
            _ => byte.is_ascii_hexdigit(),
        });
    let mixed =
        text.split(|byte| *byte == between).any(varies) && text.iter().any(u8::is_ascii_alphabetic);
    (fits && mixed && ends_at(bytes, LENGTH)).then_some(LENGTH)
}

/// Groups of at most four hexadecimal digits: three or more with `::` among them, or eight. Stricter than the address format, since
/// `:` separates elsewhere: the first group holds a digit and is no term, and some group holds a letter.
fn ipv6(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut groups, mut digits) = (0, 0, 0);
    let (mut double, mut letter) = (false, false);
    loop {
        let group: &[u8] = &bytes[at..];
        let length = group
            .iter()
            .take(5)
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let group = &group[..length];
        if !(1..=4).contains(&length) || (groups == 0 && !varies(group)) {
            return None;
        }
        letter |= group.iter().any(u8::is_ascii_alphabetic);
        groups += 1;
        digits += length;
        at += length;
        match bytes[at..] {
            [b':', b':', next, ..] if !double && next.is_ascii_hexdigit() => {
                double = true;
                at += 2;
            }
            [b':', next, ..] if next.is_ascii_hexdigit() && groups < 8 => at += 1,
            _ => break,
        }
    }
    let short = double && (3..8).contains(&groups);
    let full = !double && groups == 8 && digits >= 16;
    ((short || full) && letter && ends_at(bytes, at)).then_some(at)
}

/// A run of the URL-safe base64 alphabet, joined by `-` or `_`, that looks random from its first token on.
fn url_safe_id(bytes: &[u8], at: usize) -> Option<usize> {
    let joins = |byte: &u8| matches!(byte, b'-' | b'_');
    if at > 0 && joins(&bytes[at - 1]) {
        return None;
    }
    let run = &bytes[at..];
    let length = run
        .iter()
        .take(MAX_ID + 1)
        .take_while(|byte| byte.is_ascii_alphanumeric() || joins(byte))
        .count();
    let run = &run[..length];
    if !(20..=MAX_ID).contains(&length) || !run.iter().any(joins) {
        return None;
    }
    let first = &run[..token_end(run, 0)];
    let plain = is_plain(first) || first.iter().all(u8::is_ascii_digit);
    let changes = run.windows(2).filter(|pair| changes(pair)).count();
    let random = changes * 3 >= run.len()
        && run.iter().any(u8::is_ascii_uppercase)
        && run.iter().any(u8::is_ascii_lowercase);
    let odd = |part: &[u8]| !part.is_empty() && matches!(kind(part), Kind::Id | Kind::Numbered);
    (random && (!plain || first.len() <= 2) && run.split(joins).any(odd)).then_some(run.len())
}

/// Whether two letters or digits are of different classes. A capital before a small letter is how words begin.
fn changes(pair: &[u8]) -> bool {
    let class = |byte: u8| match byte {
        b'a'..=b'z' => 1,
        b'A'..=b'Z' => 2,
        b'0'..=b'9' => 3,
        _ => 0,
    };
    let (first, second) = (class(pair[0]), class(pair[1]));
    first != 0 && second != 0 && first != second && (first, second) != (2, 1)
}

/// `local@domain.tld`, at the beginning of a key or of a part of it.
pub(super) fn mail_address(bytes: &[u8], at: usize) -> Option<usize> {
    const BEFORE: &[u8] = b":/|,;{([<=?&#\"' ";
    const MAX_LOCAL: usize = 64;
    if at > 0 && !BEFORE.contains(&bytes[at - 1]) {
        return None;
    }
    let local = bytes[at..]
        .iter()
        .take(MAX_LOCAL + 1)
        .position(|byte| !(byte.is_ascii_alphanumeric() || b"._%+-".contains(byte)))?;
    let domain = at + local + 1;
    if bytes[at + local] != b'@' {
        return None;
    }
    let length = bytes[domain..]
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')))
        .unwrap_or(bytes.len() - domain);
    let name = &bytes[domain..domain + length];
    let dot = name.iter().rposition(|byte| *byte == b'.')?;
    // What a pattern has cut short is no domain.
    let after = &bytes[domain + length..];
    let whole = !after.starts_with(b"*") && !after.starts_with(CUT.as_bytes());
    (dot > 0 && name.len() - dot > 2 && whole).then_some(domain + length)
}
