//! What the byte tables of all dialects check alike.

use super::{Protocol, Reply, ReplyDecoder, Request, RequestDecoder};

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
        assert_eq!(decoder.decode(&mut tail), Ok(Some(whole)));
        assert_eq!((tail, decoder.at_boundary()), (&b""[..], true));
    }
    whole
}
