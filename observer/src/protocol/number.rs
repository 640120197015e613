//! Decimal numbers that end at CRLF, read a byte at a time across pieces of input.

use super::message::Malformed;

/// Most digits of a number: those of `i64::MIN` and `i64::MAX`.
const MAX_DIGITS: u8 = 19;

/// A number being read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Number {
    value: u64,
    digits: u8,
    negative: bool,
    /// A sign was read.
    signed: bool,
    /// `?` was read: a streamed length of RESP3.
    streamed: bool,
    /// CR was read, LF must follow.
    cr: bool,
}

/// A number that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decimal {
    /// Its value.
    Value(i64),
    /// `?`.
    Streamed,
}

impl Number {
    /// Reads on. `Ok(None)`: input is used up.
    ///
    /// Leading zeros are refused, as in the server (`string2ll` in `redis/src/util.c`); a plus sign is
    /// allowed, as in the RESP specification.
    #[inline]
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Decimal>, Malformed> {
        let bytes = *input;
        for (index, &byte) in bytes.iter().enumerate() {
            if byte.is_ascii_digit() && !self.cr {
                if self.digits >= MAX_DIGITS {
                    return Err(Malformed::Length);
                }
                if (self.digits > 0 && self.value == 0) || self.streamed {
                    return Err(Malformed::Syntax);
                }
                self.value = self.value * 10 + u64::from(byte - b'0');
                self.digits += 1;
            } else if byte == b'\n' && self.cr {
                *input = &bytes[index + 1..];
                return self.finish().map(Some);
            } else if byte == b'\r' && !self.cr && (self.digits > 0 || self.streamed) {
                self.cr = true;
            } else {
                self.odd(byte)?;
            }
        }
        *input = &[];
        Ok(None)
    }

    /// A sign or a question mark in front.
    #[cold]
    fn odd(&mut self, byte: u8) -> Result<(), Malformed> {
        let first = self.digits == 0 && !self.signed && !self.streamed;
        match byte {
            b'-' | b'+' if first => {
                self.signed = true;
                self.negative = byte == b'-';
            }
            b'?' if first => self.streamed = true,
            _ => return Err(Malformed::Syntax),
        }
        Ok(())
    }

    /// The value, and ready for the next number.
    #[inline]
    fn finish(&mut self) -> Result<Decimal, Malformed> {
        let Self {
            value,
            negative,
            streamed,
            ..
        } = std::mem::take(self);
        if streamed {
            return Ok(Decimal::Streamed);
        }
        let signed = if negative {
            0_i64.checked_sub_unsigned(value)
        } else {
            i64::try_from(value).ok()
        };
        signed.map(Decimal::Value).ok_or(Malformed::Length)
    }
}

/// A short number with its CRLF at the front of `input`: its value, and what comes after. The common case of a length
/// or count; `None` leaves all others, and what is malformed, to [`Number::read`].
#[inline]
pub(super) fn short(input: &[u8]) -> Option<(u64, &[u8])> {
    let digit = |byte: u8| Some(u64::from(byte.wrapping_sub(b'0'))).filter(|digit| *digit < 10);
    match input {
        [a, b'\r', b'\n', rest @ ..] => Some((digit(*a)?, rest)),
        [a @ b'1'..=b'9', b, b'\r', b'\n', rest @ ..] => Some((digit(*a)? * 10 + digit(*b)?, rest)),
        [a @ b'1'..=b'9', b, c, b'\r', b'\n', rest @ ..] => {
            Some(((digit(*a)? * 10 + digit(*b)?) * 10 + digit(*c)?, rest))
        }
        _ => None,
    }
}

/// A whole decimal number, optionally negative; `None` for anything else.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > usize::from(MAX_DIGITS) {
        return None;
    }
    let mut value = 0_i64;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (wire, expected) in [
            (&b"0\r\n"[..], Ok(Decimal::Value(0))),
            (b"42\r\n", Ok(Decimal::Value(42))),
            (b"-1\r\n", Ok(Decimal::Value(-1))),
            (b"+7\r\n", Ok(Decimal::Value(7))),
            (b"?\r\n", Ok(Decimal::Streamed)),
            (b"9223372036854775807\r\n", Ok(Decimal::Value(i64::MAX))),
            (b"-9223372036854775808\r\n", Ok(Decimal::Value(i64::MIN))),
            (b"9223372036854775808\r\n", Err(Malformed::Length)),
            (b"99999999999999999999", Err(Malformed::Length)),
            (b"01\r\n", Err(Malformed::Syntax)),
            (b"\r\n", Err(Malformed::Syntax)),
            (b"1\n", Err(Malformed::Syntax)),
            (b"1\r\r", Err(Malformed::Syntax)),
            (b"1\r2", Err(Malformed::Syntax)),
            (b"--1\r\n", Err(Malformed::Syntax)),
            (b"1-\r\n", Err(Malformed::Syntax)),
            (b"?1\r\n", Err(Malformed::Syntax)),
            (b"1?\r\n", Err(Malformed::Syntax)),
            (b"-\r\n", Err(Malformed::Syntax)),
        ] {
            let mut input = wire;
            let result = Number::default().read(&mut input).map(|n| n.unwrap());
            assert_eq!(result, expected, "{wire:?}");
            if let Some((value, rest)) = short(wire) {
                assert_eq!(
                    (Ok(Decimal::Value(value as i64)), rest),
                    (expected, &b""[..]),
                    "{wire:?}"
                );
            }
            // One byte at a time gives the same.
            let mut number = Number::default();
            let mut slow = Ok(None);
            for byte in wire.chunks(1) {
                slow = number.read(&mut &*byte);
                if slow.is_err() {
                    break;
                }
            }
            assert_eq!(slow.map(|n| n.unwrap()), expected, "{wire:?} in bytes");
        }
    }
}
