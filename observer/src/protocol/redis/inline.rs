//! Inline commands: one line, split by the server's quoting rules.

use std::ops::Range;

use super::super::message::Malformed;
use super::arguments::Arguments;

/// Splits a line (without its end) as `sdssplitargs` in `redis/src/sds.c` does. No arguments for an empty line.
///
/// Stricter than the server in one point: control bytes, which no typed command holds, are refused. They mean that
/// framing was lost, or that something else is spoken.
pub(super) fn split(line: &[u8], arguments: &mut Arguments) -> Result<(), Malformed> {
    each(line, arguments, |_| {})
}

/// The same, and where each argument stands in the line.
pub(super) fn places(
    line: &[u8],
    arguments: &mut Arguments,
) -> Result<Vec<Range<usize>>, Malformed> {
    let mut places = Vec::new();
    each(line, arguments, |place| places.push(place))?;
    Ok(places)
}

fn each(
    line: &[u8],
    arguments: &mut Arguments,
    mut place: impl FnMut(Range<usize>),
) -> Result<(), Malformed> {
    let mut rest = line;
    let mut argument = Vec::new();
    loop {
        while let [b' ' | b'\t' | b'\r' | 0x0b | 0x0c, tail @ ..] = rest {
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let start = line.len() - rest.len();
        argument.clear();
        rest = take(rest, &mut argument)?;
        place(start..line.len() - rest.len());
        arguments.add(&argument);
    }
}

/// Writes filler over an argument as it stands in a line: it is read as one of the same length.
pub(super) fn fill(raw: &mut [u8]) {
    let mut at = 0;
    let mut quote: Option<u8> = None;
    while let Some(&byte) = raw.get(at) {
        let unit = match quote {
            None if matches!(byte, b'"' | b'\'') => {
                quote = Some(byte);
                at += 1;
                continue;
            }
            None => Some((byte, 1)),
            Some(b'"') => double(&raw[at..]),
            Some(_) => single(&raw[at..]),
        };
        let Some((_, length)) = unit else {
            quote = None;
            at += 1;
            continue;
        };
        let filler: &[u8] = match (length, quote) {
            (1, _) => b"y",
            (2, Some(b'"')) => b"\\y",
            (2, _) => b"\\'",
            _ => b"\\x79",
        };
        let end = (at + filler.len()).min(raw.len());
        raw[at..end].copy_from_slice(&filler[..end - at]);
        at = end;
    }
}

/// Takes one argument off the front.
fn take<'a>(mut rest: &'a [u8], argument: &mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    loop {
        match rest {
            [] | [b' ' | b'\t' | b'\r', ..] => return Ok(rest),
            [b'"', tail @ ..] => rest = quoted(tail, argument, double)?,
            [b'\'', tail @ ..] => rest = quoted(tail, argument, single)?,
            [byte, ..] if byte.is_ascii_control() => return Err(Malformed::Syntax),
            [byte, tail @ ..] => {
                argument.push(*byte);
                rest = tail;
                continue;
            }
        }
        // A closing quote must end the argument.
        return match rest {
            [] | [b' ' | b'\t' | b'\r' | 0x0b | 0x0c, ..] => Ok(rest),
            _ => Err(Malformed::Syntax),
        };
    }
}

/// Reads up to the closing quote, which `unit` reports as `None`.
fn quoted<'a>(
    mut rest: &'a [u8],
    argument: &mut Vec<u8>,
    unit: fn(&[u8]) -> Option<(u8, usize)>,
) -> Result<&'a [u8], Malformed> {
    while !rest.is_empty() {
        match unit(rest) {
            Some((byte, length)) => {
                argument.push(byte);
                rest = rest.get(length..).unwrap_or(&[]);
            }
            None => return Ok(&rest[1..]),
        }
    }
    Err(Malformed::Syntax)
}

/// One byte inside double quotes, and how many bytes stand for it.
fn double(rest: &[u8]) -> Option<(u8, usize)> {
    Some(match *rest {
        [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            let digit = |d: u8| (d as char).to_digit(16).unwrap_or(0) as u8;
            (digit(high) << 4 | digit(low), 4)
        }
        [b'\\', escaped, ..] => {
            let byte = match escaped {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'b' => 8,
                b'a' => 7,
                other => other,
            };
            (byte, 2)
        }
        [b'"', ..] | [] => return None,
        [byte, ..] => (byte, 1),
    })
}

/// One byte inside single quotes, and how many bytes stand for it.
fn single(rest: &[u8]) -> Option<(u8, usize)> {
    match *rest {
        [b'\\', b'\'', ..] => Some((b'\'', 2)),
        [b'\'', ..] | [] => None,
        [byte, ..] => Some((byte, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::KEEP_KEYS;
    use super::*;

    fn arguments(line: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut arguments = Arguments::new(KEEP_KEYS);
        split(line, &mut arguments)?;
        Ok((0..arguments.kept())
            .map(|i| arguments.whole(i).unwrap().to_vec())
            .collect())
    }

    #[test]
    fn quoting_as_in_the_server() {
        for (line, expected) in [
            (&b""[..], &[][..]),
            (b"  ", &[]),
            (b"PING", &[&b"PING"[..]]),
            (b"get  k ", &[b"get", b"k"]),
            (b"SET k \"a b\"", &[b"SET", b"k", b"a b"]),
            (b"SET k \"\\x41\\n\\\"\"", &[b"SET", b"k", b"A\n\""]),
            (b"SET k 'a\\'b\\n'", &[b"SET", b"k", b"a'b\\n"]),
            (b"SET k pre\"x y\"", &[b"SET", b"k", b"prex y"]),
            (b"SET k ''", &[b"SET", b"k", b""]),
        ] {
            assert_eq!(
                arguments(line).unwrap(),
                expected,
                "{:?}",
                line.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn unbalanced_quotes_end_the_connection() {
        for line in [
            &b"SET k \"a"[..],
            b"SET k 'a",
            b"SET k \"a\"b",
            b"SET k 'a'b",
            b"SET k \"a\\",
            b"SET \x01",
        ] {
            assert_eq!(
                arguments(line),
                Err(Malformed::Syntax),
                "{:?}",
                line.escape_ascii().to_string()
            );
        }
    }
}
