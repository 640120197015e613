//! What the tests of all dialects check alike.

use super::{Malformed, Protocol, Reply, ReplyDecoder, Request, RequestDecoder};

/// Decodes one request, whole and cut at each byte, with and without detail, and checks that all agree.
pub(super) fn request(protocol: Protocol, wire: &[u8]) -> Request {
    let shown = wire.escape_ascii();
    let make = |keep_detail| RequestDecoder::new(protocol, keep_detail);
    let mut input = wire;
    let whole = make(true).decode(&mut input).unwrap().unwrap();
    assert_eq!(input, b"", "{shown}");
    for cut in 0..wire.len() {
        let mut decoder = make(true);
        let (mut head, mut tail) = wire.split_at(cut);
        assert_eq!(decoder.decode(&mut head), Ok(None), "{shown} at {cut}");
        assert_eq!((head, decoder.at_boundary()), (&b""[..], cut == 0));
        assert_eq!(decoder.decode(&mut tail).unwrap().as_ref(), Some(&whole));
        assert_eq!((tail, decoder.at_boundary()), (&b""[..], true));
    }
    let lean = make(false).decode(&mut &*wire).unwrap().unwrap();
    let expected = Request {
        detail: None,
        ..whole.clone()
    };
    assert_eq!(lean, expected, "{shown}");
    whole
}

/// Decodes one reply, whole and cut at each byte, and checks that all agree.
pub(super) fn reply(protocol: Protocol, wire: &[u8]) -> Reply {
    let shown = wire.escape_ascii();
    let mut input = wire;
    let whole = ReplyDecoder::new(protocol).decode(&mut input);
    let whole = whole.unwrap().unwrap();
    assert_eq!(input, b"", "{shown}");
    for cut in 0..wire.len() {
        let mut decoder = ReplyDecoder::new(protocol);
        let (mut head, mut tail) = wire.split_at(cut);
        assert_eq!(decoder.decode(&mut head), Ok(None), "{shown} at {cut}");
        assert_eq!(head, b"");
        assert_eq!(decoder.decode(&mut tail), Ok(Some(whole.clone())));
        assert_eq!((tail, decoder.at_boundary()), (&b""[..], true));
    }
    whole
}

/// Feeds `stream` in pieces of the given lengths, then the rest; the messages, and how it ended.
pub(super) fn requests(
    protocol: Protocol,
    stream: &[u8],
    pieces: &[usize],
) -> (Vec<Request>, Option<Malformed>) {
    let mut decoder = RequestDecoder::new(protocol, true);
    let mut messages = Vec::new();
    for piece in cut(stream, pieces) {
        let mut input = piece;
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(request)) => messages.push(request),
                Ok(None) => break,
                Err(malformed) => return (messages, Some(malformed)),
            }
        }
        assert!(input.is_empty());
    }
    (messages, None)
}

/// The same for replies.
pub(super) fn replies(
    protocol: Protocol,
    stream: &[u8],
    pieces: &[usize],
) -> (Vec<Reply>, Option<Malformed>) {
    let mut decoder = ReplyDecoder::new(protocol);
    let mut messages = Vec::new();
    for piece in cut(stream, pieces) {
        let mut input = piece;
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(reply)) => messages.push(reply),
                Ok(None) => break,
                Err(malformed) => return (messages, Some(malformed)),
            }
        }
        assert!(input.is_empty());
    }
    (messages, None)
}

fn cut<'a>(stream: &'a [u8], pieces: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = stream;
    let mut out = Vec::new();
    for piece in pieces {
        let (head, tail) = rest.split_at((*piece).min(rest.len()));
        out.push(head);
        rest = tail;
    }
    out.push(rest);
    out
}
