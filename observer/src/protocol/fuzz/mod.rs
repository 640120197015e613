//! Fuzz entries of the decoders: what must hold for any input whatever.
//!
//! `observer/fuzz` runs them under libFuzzer, unit tests run them over the corpus that is kept there. Compiled only for
//! these two.

mod differential;

use std::fmt::Debug;

use super::message::Detail;
use super::{
    Malformed, Protocol, Reply, ReplyDecoder, ReplyKind, Request, RequestDecoder, outcome,
};

pub use differential::commands;

/// Most bytes a decoder may hold: one line of 64 KiB, or the arguments kept of one request, and itself.
const MAX_MEMORY: usize = 68 * 1024;

/// Redis decoders: the first five bytes say how the rest is cut and where bytes are missing.
pub fn framing(data: &[u8]) {
    decoders(Protocol::Redis, data);
}

/// The same for Memcached.
pub fn memcached(data: &[u8]) {
    decoders(Protocol::Memcached, data);
}

/// The same for its binary dialect alone. The input's parts become messages, so that few bytes make many of them; the
/// bytes of the input as they are come to [`memcached`].
pub fn memcached_binary(data: &[u8]) {
    let mut choices = Choices(data);
    let mut wire = choices.bytes(5).to_vec();
    wire.resize(5, 0);
    let replies = wire[0] & 2 != 0;
    while !choices.is_empty() {
        binary_message(&mut choices, replies, &mut wire);
    }
    decoders(Protocol::Memcached, &wire);
}

/// Writes one message. Most have lengths that agree with what follows.
fn binary_message(choices: &mut Choices<'_>, reply: bool, wire: &mut Vec<u8>) {
    let [opcode, lengths, more, odd] = [0; 4].map(|_: u8| choices.byte());
    let extras = [0, 4, 8, 20][usize::from(lengths & 3)];
    let key = usize::from(lengths >> 2 & 15);
    let value = usize::from(more) << (lengths >> 6);
    let status = if reply && odd & 1 != 0 { odd >> 1 } else { 0 };
    let body = if odd == 0xff {
        u32::from(more)
    } else {
        (extras + key + value) as u32
    };
    wire.extend([if reply { 0x81 } else { 0x80 }, opcode]);
    wire.extend((key as u16).to_be_bytes());
    wire.extend([extras as u8, 0, 0, status]);
    wire.extend(body.to_be_bytes());
    wire.extend([0, 0, 0, odd >> 6]);
    wire.extend([0; 8]);
    let length = wire.len() + extras + key + value;
    wire.extend(choices.bytes(extras + key + value.min(64)));
    // Where the input ends, or for long values.
    if odd != 0xfe {
        wire.resize(length, b'v');
    }
}

/// Meta commands and their replies, put together from what such lines are made of; the first five bytes as for the others.
pub fn meta(data: &[u8]) {
    let mut choices = Choices(data);
    let mut wire = choices.bytes(5).to_vec();
    wire.resize(5, 0);
    while !choices.is_empty() {
        match choices.byte() {
            // Bytes as they are.
            255 => {
                let most = usize::from(choices.byte() % 16);
                wire.extend_from_slice(choices.bytes(most));
            }
            piece => wire.extend_from_slice(META[usize::from(piece) % META.len()].as_bytes()),
        }
    }
    decoders(Protocol::Memcached, &wire);
}

/// What meta lines are made of.
const META: &[&str] = &[
    "\r\n",
    "mg ",
    "ms ",
    "md ",
    "ma ",
    "mn\r\n",
    "me ",
    "k",
    "key:1",
    "Zm9v",
    " q",
    " O1",
    " k",
    " b",
    " v",
    " T60",
    " T-1",
    " N30",
    " R5",
    " I",
    " ME",
    " M",
    " D2",
    " J5",
    " C7",
    " s t f c h l u",
    " 3",
    "3",
    "xyz",
    "\n",
    " ",
    "VA 3",
    "HD",
    "EN",
    "NF",
    "NS",
    "EX",
    "ME key exp=-1",
    "MN\r\n",
    " kkey:1",
    " kZm9v b",
    " s3 t-1 W X Z",
    "SERVER_ERROR x\r\n",
    "get k\r\n",
    "set k 0 0 3\r\nxyz\r\n",
    "END\r\n",
    "VALUE k 0 3\r\nxyz\r\n",
    "mg a v q O1\r\n",
    "ms k 3 q\r\nxyz\r\n",
    "VA 3 O1\r\nxyz\r\n",
];

/// Bytes that choose: as many as the input has, then zeros.
#[derive(Debug, Clone)]
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// Up to `most` bytes.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Numbers that look random, the same for the same seed: a 64-bit linear congruential generator (Knuth's MMIX).
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// What both decoders have in common.
trait Decoder {
    type Message: Debug + PartialEq;

    fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Self::Message>, Malformed>;
    /// `Err(())`: framing is lost.
    fn skip(&mut self, length: u64) -> Result<Option<Self::Message>, ()>;
    fn at_boundary(&self) -> bool;
    fn memory(&self) -> usize;
    /// Whether one message is sound by itself.
    fn check(message: &Self::Message);
    /// Whether a message with bytes missing inside still says what the whole one does, so far as it must.
    fn agrees(whole: &Self::Message, gapped: &Self::Message) -> bool;
}

impl Decoder for RequestDecoder {
    type Message = Request;

    fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Request>, Malformed> {
        self.decode(input)
    }

    fn skip(&mut self, length: u64) -> Result<Option<Request>, ()> {
        self.skip(length).map_err(drop)
    }

    fn at_boundary(&self) -> bool {
        self.at_boundary()
    }

    fn memory(&self) -> usize {
        self.memory()
    }

    fn check(request: &Request) {
        assert!(!request.operation.name().is_empty());
        let Some(detail) = &request.detail else {
            return;
        };
        let printable = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        // Each byte of the wire takes four at most: `\xNN`.
        let key = |key: &String| printable(key) && key.len() <= 4 * Detail::MAX_KEY_BYTES;
        assert!(detail.keys.len() <= Detail::MAX_KEYS && detail.keys.iter().all(key));
        assert!(detail.stored_procedure.iter().all(key));
        assert!(detail.text.len() <= 2100, "{}", detail.text.len());
        assert!(printable(detail.text.trim_end_matches('…')));
    }

    fn agrees(whole: &Request, gapped: &Request) -> bool {
        whole.operation == gapped.operation
            && whole.effect == gapped.effect
            && whole.answer == gapped.answer
            && (whole.operation.name() != "SET"
                || whole.value_size == gapped.value_size
                // With all its data it may have been an authentication.
                || whole.key_count == 0
                || gapped.key_count == 0)
    }
}

impl Decoder for ReplyDecoder {
    type Message = Reply;

    fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        self.decode(input)
    }

    fn skip(&mut self, length: u64) -> Result<Option<Reply>, ()> {
        self.skip(length).map_err(drop)
    }

    fn at_boundary(&self) -> bool {
        self.at_boundary()
    }

    fn memory(&self) -> usize {
        self.memory()
    }

    fn check(reply: &Reply) {
        assert!(
            reply.nulls + reply.zeros + reply.errors <= reply.elements,
            "{reply:?}"
        );
        assert_eq!(
            reply.error.is_some(),
            reply.kind == ReplyKind::Error,
            "{reply:?}"
        );
        assert!(reply.redirect.is_none() || reply.error.is_some());
        assert!(reply.integer.is_none() || reply.kind == ReplyKind::Integer);
    }

    fn agrees(whole: &Reply, gapped: &Reply) -> bool {
        // What an error or message said may be gone.
        let framed = |reply: &Reply| Reply {
            error: None,
            redirect: None,
            word: Default::default(),
            ..*reply
        };
        framed(whole) == framed(gapped)
    }
}

/// What came of a stream.
#[derive(Debug, PartialEq)]
struct Told<M> {
    /// Each message, with the position behind its last byte.
    messages: Vec<(M, usize)>,
    /// Why reading ended early.
    malformed: Option<Malformed>,
    /// Whether the stream ends between two messages.
    boundary: bool,
}

fn decoders(protocol: Protocol, data: &[u8]) {
    let mut choices = Choices(data);
    let flags = choices.byte();
    let seed = u32::from_le_bytes([0; 4].map(|_: u8| choices.byte()));
    let stream = choices.0;
    let mut random = Random(u64::from(seed));
    let (keep_detail, replies) = (flags & 1 == 0, flags & 2 != 0);

    if replies {
        let whole = check(|| ReplyDecoder::new(protocol), stream, &mut random);
        let unfolding = || {
            let mut decoder = ReplyDecoder::new(protocol);
            decoder.unfold();
            decoder
        };
        let parts = check(unfolding, stream, &mut random);
        check_unfolded(&whole, &parts);
    } else {
        let make = |keep| move || RequestDecoder::new(protocol, keep);
        let whole = check(make(keep_detail), stream, &mut random);
        let other = read(make(!keep_detail)(), stream, || usize::MAX);
        let ends = |told: &Told<Request>| -> Vec<usize> {
            told.messages.iter().map(|(_, end)| *end).collect()
        };
        assert_eq!(ends(&whole), ends(&other), "detail changes framing");
        check_meaning(protocol, &whole, stream);
    }
}

/// Holds a decoder to what must hold for any stream; answers what the whole stream says.
fn check<D: Decoder>(make: impl Fn() -> D, stream: &[u8], random: &mut Random) -> Told<D::Message> {
    let whole = read(make(), stream, || usize::MAX);
    for (message, _) in &whole.messages {
        D::check(message);
    }
    let bytes = read(make(), stream, || 1);
    assert_eq!(whole, bytes, "one byte at a time");
    let cut = read(make(), stream, || random.below(16));
    assert_eq!(whole, cut, "in pieces");
    for _ in 0..4 {
        one_gap(&make, stream, &whole, random);
    }
    many_gaps(&make, stream, random);
    whole
}

/// Reads a stream in pieces of the lengths that `next` gives.
fn read<D: Decoder>(
    mut decoder: D,
    stream: &[u8],
    mut next: impl FnMut() -> usize,
) -> Told<D::Message> {
    let mut told = Told {
        messages: Vec::new(),
        malformed: None,
        boundary: false,
    };
    let mut at = 0;
    while at < stream.len() && told.malformed.is_none() {
        let piece = &stream[at..at + next().min(stream.len() - at)];
        let mut input = piece;
        loop {
            let before = input.len();
            match decoder.decode(&mut input) {
                Ok(Some(message)) => {
                    assert!(input.len() < before, "a message of no bytes");
                    let end = at + piece.len() - input.len();
                    told.messages.push((message, end));
                }
                Ok(None) => {
                    assert!(input.is_empty(), "incomplete, with input left");
                    break;
                }
                Err(malformed) => {
                    told.malformed = Some(malformed);
                    break;
                }
            }
        }
        assert!(decoder.memory() <= MAX_MEMORY, "{}", decoder.memory());
        at += piece.len();
    }
    told.boundary = told.malformed.is_none() && decoder.at_boundary();
    told
}

/// Bytes missing from a sound stream change no message but the one they are missing from, or framing is lost.
fn one_gap<D: Decoder>(
    make: &impl Fn() -> D,
    stream: &[u8],
    whole: &Told<D::Message>,
    random: &mut Random,
) {
    if whole.malformed.is_some() || stream.is_empty() {
        return;
    }
    let start = random.below(stream.len());
    let most = (stream.len() - start).min(1 << random.below(13));
    let end = start + 1 + random.below(most);
    let mut decoder = make();
    let mut messages = Vec::new();
    let mut input = &stream[..start];
    while let Ok(Some(message)) = decoder.decode(&mut input) {
        messages.push(message);
    }
    match decoder.skip((end - start) as u64) {
        Ok(message) => messages.extend(message),
        Err(()) => return,
    }
    let mut input = &stream[end..];
    loop {
        match decoder.decode(&mut input) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break,
            Err(malformed) => panic!("{malformed} after a gap {start}..{end} that was bridged"),
        }
    }
    assert_eq!(messages.len(), whole.messages.len(), "gap {start}..{end}");
    for (gapped, (message, _)) in messages.iter().zip(&whole.messages) {
        assert!(
            D::agrees(message, gapped),
            "gap {start}..{end}: {message:?} became {gapped:?}"
        );
    }
    assert_eq!(decoder.at_boundary(), whole.boundary);
}

/// Gaps anywhere, some of them long, and decoders that are used on though they are spent: nothing panics.
fn many_gaps<D: Decoder>(make: &impl Fn() -> D, stream: &[u8], random: &mut Random) {
    let mut decoder = make();
    let mut rest = stream;
    while !rest.is_empty() {
        let (mut piece, tail) = rest.split_at((1 + random.below(64)).min(rest.len()));
        rest = tail;
        let mut sound = true;
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(message)) => D::check(&message),
                Ok(None) => break,
                Err(_) => {
                    sound = false;
                    break;
                }
            }
        }
        let length = match random.below(4) {
            0 => 1 << random.below(48),
            1 => u64::MAX,
            _ => random.below(64) as u64,
        };
        sound &= decoder.skip(length).is_ok();
        if !sound && random.below(2) == 0 {
            decoder = make();
        }
        assert!(decoder.memory() <= MAX_MEMORY, "{}", decoder.memory());
    }
}

/// The parts of an unfolded reply add up to the reply, and nothing else changes.
fn check_unfolded(whole: &Told<Reply>, parts: &Told<Reply>) {
    let replies = |told: &Told<Reply>| -> Vec<Reply> {
        told.messages
            .iter()
            .map(|(reply, _)| reply.clone())
            .collect()
    };
    let (whole, parts) = (replies(whole), replies(parts));
    let Some(at) = whole.iter().position(|reply| reply.kind != ReplyKind::Push) else {
        return;
    };
    if whole == parts {
        return;
    }
    let (reply, rest) = (&whole[at], &whole[at + 1..]);
    assert_eq!(whole[..at], parts[..at]);
    assert_eq!(
        (parts[at].kind, parts[at].elements),
        (ReplyKind::Unfolded, reply.elements)
    );
    let elements = usize::try_from(reply.elements).expect("as many as there are bytes");
    let (elements, after) = parts[at + 1..].split_at(elements);
    assert_eq!(after, rest);
    let count = |kind| elements.iter().filter(|part| part.kind == kind).count() as u64;
    assert_eq!(
        (count(ReplyKind::Null), count(ReplyKind::Error)),
        (reply.nulls, reply.errors)
    );
    let zeros = elements.iter().filter(|part| part.integer == Some(0));
    assert_eq!(zeros.count() as u64, reply.zeros);
    let size = elements
        .iter()
        .fold(0_u64, |sum, part| sum.saturating_add(part.value_size));
    assert_eq!(size, reply.value_size);
    assert_eq!(count(ReplyKind::Push), 0);
}

/// Any reply may come for any request: what it means is always sound.
fn check_meaning(protocol: Protocol, whole: &Told<Request>, stream: &[u8]) {
    let replies = read(ReplyDecoder::new(protocol), stream, || usize::MAX);
    let nothing = (Reply::default(), 0);
    for (request, _) in &whole.messages {
        for (reply, _) in replies.messages.iter().take(16).chain([&nothing]) {
            let outcome = outcome(request, reply);
            let told = outcome.hits > 0 || outcome.misses > 0 || outcome.value_size.is_some();
            let silent = reply.kind == ReplyKind::Error || outcome.queued;
            assert!(!(silent && told), "{request:?} {reply:?} {outcome:?}");
        }
    }
}

/// The inputs kept of a fuzz target.
#[cfg(test)]
pub(crate) fn corpus(target: &str) -> impl Iterator<Item = Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is kept in the repository");
    entries.map(|entry| {
        let path = entry.expect("a readable folder").path();
        std::fs::read(path).expect("a readable file")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_holds() {
        corpus("framing").for_each(|input| framing(&input));
        corpus("commands").for_each(|input| commands(&input));
        corpus("memcached").for_each(|input| memcached(&input));
        corpus("memcached_binary").for_each(|input| memcached_binary(&input));
        corpus("meta").for_each(|input| meta(&input));
    }
}
