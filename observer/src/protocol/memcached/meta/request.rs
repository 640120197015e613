//! Reads meta commands: key, flags, and the length of the data block of `ms`.

use super::super::super::message::{
    Answer, Class, HitRule, Malformed, Operation, Request, Silence,
};
use super::super::super::number;
use super::super::super::text::Writer;
use super::super::text::{MAX_DATA, MAX_KEY, expiry};
use super::{COMMANDS, Command, FIRST_INDEX, base64, tag};

/// Most words after the command and its key (`MFLAG_MAX_OPT_LENGTH`): the server refuses more.
const MAX_FLAGS: usize = 20;

/// Flags of a line, as far as they matter.
#[derive(Debug, Default)]
struct Flags<'a> {
    quiet: bool,
    value: bool,
    binary_key: bool,
    returns_key: bool,
    vivify: bool,
    invalidate: bool,
    opaque: Option<&'a [u8]>,
    ttl: Option<&'a [u8]>,
}

/// Reads the words behind the command of that row; the second part is the length of the data block that follows.
///
/// # Errors
///
/// [`Malformed`] when the server cannot tell either where the next command begins.
pub(in super::super) fn read<'a>(
    row: u16,
    mut words: impl Iterator<Item = &'a [u8]> + Clone,
    keep_detail: bool,
) -> Result<(Request, Option<u64>), Malformed> {
    let command = &COMMANDS[usize::from(row)];
    let operation = Operation::Known {
        index: FIRST_INDEX + row,
        name: command.name,
    };
    let mut request = Request::new(operation, command.class);
    let mut writer = keep_detail.then(|| Writer::new(command.name));
    if command.class == Class::Connection {
        // The server looks at no other word of `mn`.
        request.detail = writer.map(Writer::finish);
        return Ok((request, None));
    }
    let key = words.next();
    let data = if command.class == Class::Set {
        Some(data_length(key, words.next(), words.clone().count())?)
    } else {
        None
    };
    let flags = Flags::read(words.clone());
    // A key that is not base64 stays as it is: the server refuses it.
    let decoded = key.filter(|_| flags.binary_key).and_then(base64);
    if let Some(key) = decoded.as_deref().or(key) {
        request.key_count = 1;
        if let Some(writer) = &mut writer {
            writer.key(&key[..key.len().min(MAX_KEY)]);
        }
    }
    if let Some(writer) = &mut writer {
        if data.is_some() {
            writer.hidden();
        }
        words
            .take(MAX_FLAGS)
            .for_each(|word| writer.word(&shown(word)));
    }
    request.value_size = data;
    // `me` repeats neither.
    if command.class != Class::Exists {
        let returned = decoded.as_deref().or(key).filter(|_| flags.returns_key);
        request.tag = tag(flags.opaque, returned);
        request.ttl = flags.ttl.and_then(number::parse).and_then(expiry);
    }
    mean(command, &flags, &mut request);
    request.detail = writer.map(Writer::finish);
    Ok((request, data))
}

/// What flags change of a command's meaning.
fn mean(command: &Command, flags: &Flags<'_>, request: &mut Request) {
    let silence = match command.class {
        Class::Get => Some(Silence::Miss),
        Class::Set | Class::Delete | Class::Increment => Some(Silence::Success),
        _ => None,
    };
    if let Some(silence) = silence.filter(|_| flags.quiet) {
        request.answer = Answer::Quiet(silence);
    }
    match command.class {
        Class::Get => {
            request.hit_rule = HitRule::Null;
            request.returns = flags.value;
            if flags.ttl.is_some() && !flags.value {
                request.class = Class::Touch;
            }
        }
        Class::Exists => request.hit_rule = HitRule::Null,
        // A counter that was made is answered like one that was there.
        Class::Increment if !flags.vivify => request.hit_rule = HitRule::Found,
        // Marked stale, not removed.
        Class::Delete if flags.invalidate => request.class = Class::Expire,
        _ => {}
    }
}

/// `ms <key> <datalen> <flags>*`. The server reads data only behind a line with a length.
fn data_length(key: Option<&[u8]>, length: Option<&[u8]>, flags: usize) -> Result<u64, Malformed> {
    let (Some(key), Some(length)) = (key, length) else {
        return Err(Malformed::Syntax);
    };
    if key.len() > MAX_KEY {
        return Err(Malformed::Length);
    }
    if flags > MAX_FLAGS {
        return Err(Malformed::Syntax);
    }
    let length = number::parse(length).ok_or(Malformed::Syntax)?;
    u64::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_DATA)
        .ok_or(Malformed::Length)
}

impl<'a> Flags<'a> {
    fn read(words: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut flags = Self::default();
        for word in words.take(MAX_FLAGS) {
            let Some((flag, token)) = word.split_first() else {
                continue;
            };
            match flag {
                b'q' => flags.quiet = true,
                b'v' => flags.value = true,
                b'b' => flags.binary_key = true,
                b'k' => flags.returns_key = true,
                b'N' => flags.vivify = true,
                b'I' => flags.invalidate = true,
                b'O' => flags.opaque = Some(token),
                b'T' => flags.ttl = Some(token),
                _ => {}
            }
        }
        flags
    }
}

/// A flag as it appears in the query text: its letter; its token where that is a time or a mode, else `?`.
fn shown(word: &[u8]) -> String {
    let Some((flag, token)) = word
        .split_first()
        .filter(|(flag, _)| flag.is_ascii_alphabetic())
    else {
        return "?".to_owned();
    };
    let mut text = char::from(*flag).to_string();
    let time = || number::parse(token).filter(|time| (-1..=i64::from(u32::MAX)).contains(time));
    match (flag, token) {
        (_, []) => {}
        (b'T' | b'N' | b'R', _) if time().is_some() => {
            text.push_str(&time().unwrap_or_default().to_string());
        }
        (b'M', [mode]) if mode.is_ascii_alphabetic() || matches!(mode, b'+' | b'-') => {
            text.push(char::from(*mode));
        }
        _ => text.push('?'),
    }
    text
}
