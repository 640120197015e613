//! Complete frames, read by our decoders and by the `redis-protocol` crate: both must agree.

use redis_protocol::{resp2, resp3};

use super::super::{Protocol, Reply, ReplyDecoder, ReplyKind, RequestDecoder, Word, redis};
use super::Choices;

/// Deepest nesting generated: the crate recurses.
const DEEPEST: u8 = 6;
/// Most bytes generated.
const LONGEST: usize = 16 * 1024;

/// The input chooses what is generated; with the first byte odd it is itself the frame.
pub fn commands(data: &[u8]) {
    let mut choices = Choices(data);
    let mut wire = Vec::new();
    match choices.byte() % 4 {
        0 => {
            let arguments = request(&mut choices, &mut wire);
            requests_agree(&wire, &arguments);
        }
        1 => replies_agree(choices.0, false),
        2 => {
            frame(&mut choices, false, DEEPEST, &mut wire);
            resp2_agrees(&wire);
            replies_agree(&wire, false);
        }
        _ => {
            frame(&mut choices, true, DEEPEST, &mut wire);
            replies_agree(&wire, true);
        }
    }
}

/// A request of a command of the table, or of one that is not; its arguments.
fn request(choices: &mut Choices<'_>, wire: &mut Vec<u8>) -> Vec<Vec<u8>> {
    /// Options, counts and subcommands, which a reader may stumble over.
    const WORDS: [&[u8]; 32] = [
        b"EX",
        b"PX",
        b"EXAT",
        b"KEEPTTL",
        b"NX",
        b"XX",
        b"GET",
        b"STREAMS",
        b"BLOCK",
        b"COUNT",
        b"MAXLEN",
        b"~",
        b"=",
        b"LIMIT",
        b"STORE",
        b"STOREDIST",
        b"BY",
        b"ASC",
        b"KEYS",
        b"AUTH",
        b"AUTH2",
        b"WEIGHTS",
        b"AGGREGATE",
        b"REPLY",
        b"SKIP",
        b"OFF",
        b"SETNAME",
        b"FIELDS",
        b"*",
        b"0",
        b"-1",
        b"9223372036854775807",
    ];
    let name = usize::from(choices.byte()) | usize::from(choices.byte() & 1) << 8;
    let mut arguments = vec![match redis::command_name(name) {
        Some(name) => name.as_bytes().to_vec(),
        None => choices.bytes(8).to_vec(),
    }];
    while !choices.is_empty() && arguments.len() < 512 {
        let choice = choices.byte();
        arguments.push(match choice {
            0..96 => WORDS[usize::from(choice) % WORDS.len()].to_vec(),
            96..160 => (i64::from(choice) - 98).to_string().into_bytes(),
            160..250 => choices.bytes(usize::from(choice - 160)).to_vec(),
            _ => vec![b'x'; 500 + usize::from(choice)],
        });
    }
    wire.extend(format!("*{}\r\n", arguments.len()).bytes());
    for argument in &arguments {
        bulk(b'$', argument, wire);
    }
    arguments
}

fn requests_agree(wire: &[u8], arguments: &[Vec<u8>]) {
    let (theirs, length) = resp2::decode::decode(wire)
        .expect("a sound frame")
        .expect("a complete frame");
    let resp2::types::OwnedFrame::Array(elements) = theirs else {
        panic!("no array");
    };
    assert_eq!((length, elements.len()), (wire.len(), arguments.len()));
    for keep_detail in [true, false] {
        // What follows belongs to the next message.
        let stream = [wire, b"*"].concat();
        let mut input = &stream[..];
        let ours = RequestDecoder::new(Protocol::Redis, keep_detail)
            .decode(&mut input)
            .expect("a sound request")
            .expect("a complete request");
        assert_eq!(input, b"*", "where the request ends");
        let name = match &arguments[0][..] {
            [] => Word::UNKNOWN,
            name => Word::new(name),
        };
        assert_eq!(ours.operation.name(), name.as_str());
        assert!(u64::from(ours.key_count) <= arguments.len() as u64);
        let written: usize = arguments[1..].iter().map(Vec::len).sum();
        assert!(ours.value_size.is_none_or(|size| size <= written as u64));
    }
}

/// A frame and what is in it.
fn frame(choices: &mut Choices<'_>, resp3: bool, depth: u8, wire: &mut Vec<u8>) {
    let kinds = if resp3 { 16 } else { 8 };
    let choice = choices.byte() % kinds;
    let aggregate = matches!(choice, 6 | 7 | 13 | 14 | 15) && depth > 0 && wire.len() < LONGEST;
    if aggregate {
        let count = choices.byte() % 8;
        let top = depth == DEEPEST;
        match choice {
            13 => {
                wire.extend(format!("~{count}\r\n").bytes());
                (0..count).for_each(|i| wire.extend(format!(":{i}\r\n").bytes()));
            }
            14 => {
                // Distinct keys, since the crate keeps a map as such.
                wire.extend(format!("%{count}\r\n").bytes());
                for i in 0..count {
                    wire.extend(format!("+{i}\r\n").bytes());
                    frame(choices, resp3, depth - 1, wire);
                }
            }
            15 if top => {
                wire.extend(format!(">{}\r\n+message\r\n", u16::from(count) + 1).bytes());
                (0..count).for_each(|_| frame(choices, resp3, depth - 1, wire));
            }
            _ => {
                wire.extend(format!("*{count}\r\n").bytes());
                (0..count).for_each(|_| frame(choices, resp3, depth - 1, wire));
            }
        }
        return;
    }
    let text = |choices: &mut Choices<'_>| -> Vec<u8> {
        let length = usize::from(choices.byte() % 32);
        let bytes = choices.bytes(length);
        bytes.iter().map(|byte| b' ' + byte % 95).collect()
    };
    match choice {
        0 => wire.extend([&b"+"[..], &text(choices), b"\r\n"].concat()),
        1 => wire.extend([&b"-ERR "[..], &text(choices), b"\r\n"].concat()),
        2 => {
            let mut number = [0; 8];
            let bytes = choices.bytes(8);
            number[..bytes.len()].copy_from_slice(bytes);
            wire.extend(format!(":{}\r\n", i64::from_le_bytes(number)).bytes());
        }
        3 => wire.extend(format!(":{}\r\n", choices.byte() % 2).bytes()),
        4 => wire.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
        8 => {
            wire.extend(format!("#{}\r\n", if choices.byte() & 1 == 0 { 't' } else { 'f' }).bytes())
        }
        9 => wire.extend(format!("({}{}\r\n", i64::from(choices.byte()) - 128, u64::MAX).bytes()),
        10 => wire.extend(format!(",{}.5\r\n", i64::from(choices.byte()) - 128).bytes()),
        11 => bulk(b'!', &text(choices), wire),
        12 => bulk(b'=', &[&b"txt:"[..], &text(choices)].concat(), wire),
        _ => {
            let length = usize::from(choices.byte());
            bulk(b'$', choices.bytes(length), wire);
        }
    }
}

fn bulk(kind: u8, bytes: &[u8], wire: &mut Vec<u8>) {
    wire.push(kind);
    wire.extend(format!("{}\r\n", bytes.len()).bytes());
    wire.extend_from_slice(bytes);
    wire.extend_from_slice(b"\r\n");
}

/// Our reading of the first reply, and how long it is.
fn ours(wire: &[u8]) -> Option<(Reply, usize)> {
    let mut input = wire;
    let reply = ReplyDecoder::new(Protocol::Redis)
        .decode(&mut input)
        .ok()??;
    Some((reply, wire.len() - input.len()))
}

fn resp2_agrees(wire: &[u8]) {
    use resp2::types::OwnedFrame;
    let (theirs, length) = resp2::decode::decode(wire)
        .expect("a sound frame")
        .expect("a complete frame");
    let (ours, end) = ours(wire).expect("a sound reply");
    assert_eq!((end, end), (length, wire.len()));
    let (kind, elements) = match &theirs {
        OwnedFrame::SimpleString(_) => (ReplyKind::Simple, 0),
        OwnedFrame::Error(_) => (ReplyKind::Error, 0),
        OwnedFrame::Integer(_) => (ReplyKind::Integer, 0),
        OwnedFrame::BulkString(_) => (ReplyKind::Value, 0),
        OwnedFrame::Array(elements) => (ReplyKind::Aggregate, elements.len()),
        OwnedFrame::Null => (ReplyKind::Null, 0),
    };
    assert_eq!((ours.kind, ours.elements), (kind, elements as u64));
}

/// `sound`: the frame was generated, so that both must take it. Else only what both take is compared.
fn replies_agree(wire: &[u8], sound: bool) {
    use resp3::types::OwnedFrame;
    // The crate recurses without a limit, and allocates by the count on the wire.
    let opening = wire.iter().filter(|byte| b"*%~>|".contains(byte)).count();
    if !sound
        && (opening > 64
            || wire
                .windows(5)
                .any(|five| five.iter().all(u8::is_ascii_digit)))
    {
        return;
    }
    let theirs = resp3::decode::complete::decode(wire).ok().flatten();
    let ours = ours(wire);
    let (Some((theirs, length)), Some((ours, end))) = (theirs, ours) else {
        assert!(!sound, "only one of both reads it, or none");
        return;
    };
    assert_eq!(end, length, "where the reply ends");
    let (kind, elements) = match &theirs {
        OwnedFrame::SimpleString { .. } => (ReplyKind::Simple, 0),
        OwnedFrame::SimpleError { .. } | OwnedFrame::BlobError { .. } => (ReplyKind::Error, 0),
        OwnedFrame::Number { .. } | OwnedFrame::Boolean { .. } => (ReplyKind::Integer, 0),
        OwnedFrame::BlobString { .. }
        | OwnedFrame::VerbatimString { .. }
        | OwnedFrame::Double { .. }
        | OwnedFrame::BigNumber { .. } => (ReplyKind::Value, 0),
        OwnedFrame::Null => (ReplyKind::Null, 0),
        OwnedFrame::Array { data, .. } => (ReplyKind::Aggregate, data.len()),
        OwnedFrame::Push { data, .. } => (ReplyKind::Push, data.len()),
        OwnedFrame::Set { data, .. } => (ReplyKind::Aggregate, data.len()),
        OwnedFrame::Map { data, .. } => (ReplyKind::Aggregate, 2 * data.len()),
        other => panic!("not a reply: {other:?}"),
    };
    assert_eq!(ours.kind, kind);
    // The crate drops what a set or a map holds twice.
    let collapses = matches!(theirs, OwnedFrame::Set { .. } | OwnedFrame::Map { .. });
    if sound || !collapses {
        assert_eq!(ours.elements, elements as u64);
    } else {
        assert!(ours.elements >= elements as u64);
    }
}
