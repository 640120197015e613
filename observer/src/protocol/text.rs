//! Writes `db.query.text` and keys: printable, and bounded.

use std::fmt::Write;

use super::message::Detail;

/// Most bytes of `db.query.text`, before the mark that says it was cut. Enough for the sixteen keys of a span at
/// ordinary length.
pub(super) const MAX_TEXT: usize = 2048;
/// Stands at the end of a text that was cut.
const CUT: &str = " …";

/// Escapes what is not printable ASCII as `\xNN`, and `\` as `\\`; at most [`Detail::MAX_KEY_BYTES`] bytes of the wire.
fn escape(out: &mut String, wire: &[u8]) {
    for &byte in &wire[..wire.len().min(Detail::MAX_KEY_BYTES)] {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

/// Escapes a key or another name.
pub(super) fn printable(wire: &[u8]) -> String {
    let mut out = String::with_capacity(wire.len());
    escape(&mut out, wire);
    out
}

/// Builds a [`Detail`].
#[derive(Debug)]
pub(super) struct Writer {
    detail: Detail,
    full: bool,
}

impl Writer {
    /// Begins the text with the operation's name.
    pub(super) fn new(operation: &str) -> Self {
        let mut text = String::with_capacity(operation.len() + 32);
        text.push_str(operation);
        Self {
            detail: Detail {
                text,
                ..Detail::default()
            },
            full: false,
        }
    }

    /// A word of ours: an option, a subcommand.
    pub(super) fn word(&mut self, word: &str) {
        if self.space() {
            self.detail.text.push_str(word);
        }
    }

    /// A number.
    pub(super) fn number(&mut self, number: i64) {
        if self.space() {
            let _ = write!(self.detail.text, "{number}");
        }
    }

    /// Something that is not shown.
    pub(super) fn hidden(&mut self) {
        self.word("?");
    }

    /// A key.
    pub(super) fn key(&mut self, wire: &[u8]) {
        self.name(wire);
        if self.detail.keys.len() < Detail::MAX_KEYS {
            self.detail.keys.push(printable(wire));
        }
    }

    /// The SHA-1 or name of a script or function.
    pub(super) fn stored_procedure(&mut self, wire: &[u8]) {
        self.name(wire);
        self.detail.stored_procedure = Some(printable(wire));
    }

    /// A name of the client's own.
    fn name(&mut self, wire: &[u8]) {
        if self.space() {
            let start = self.detail.text.len();
            escape(&mut self.detail.text, wire);
            self.detail.names.push(start, self.detail.text.len());
        }
    }

    /// What follows is left out.
    pub(super) fn cut(&mut self) {
        self.full = true;
    }

    fn space(&mut self) -> bool {
        self.full |= self.detail.text.len() >= MAX_TEXT;
        if !self.full {
            self.detail.text.push(' ');
        }
        !self.full
    }

    /// The detail.
    pub(super) fn finish(mut self) -> Box<Detail> {
        if self.full || self.detail.text.len() > MAX_TEXT {
            // ASCII up to here, so any index is a character boundary.
            self.detail.text.truncate(MAX_TEXT);
            self.detail.names.cut(self.detail.text.len());
            self.detail.text.push_str(CUT);
        }
        Box::new(self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_escaped_and_cut() {
        assert_eq!(printable(b"a b"), "a b");
        assert_eq!(printable(b"\x00k\xff\\"), "\\x00k\\xff\\\\");
        assert_eq!(printable(&[b'k'; 2000]).len(), Detail::MAX_KEY_BYTES);
    }

    #[test]
    fn names_are_found_again() {
        let shout = |name: &str| name.to_uppercase().into();
        let mut writer = Writer::new("FCALL");
        writer.stored_procedure(b"function");
        writer.number(2);
        writer.key(b"call");
        writer.key(b"a\x00b");
        writer.hidden();
        let detail = writer.finish();
        assert_eq!(detail.text, "FCALL function 2 call a\\x00b ?");
        assert_eq!(detail.renamed(shout), "FCALL FUNCTION 2 CALL A\\X00B ?");

        let mut many = Writer::new("MGET");
        (0..40).for_each(|_| many.key(b"k"));
        let many = many.finish();
        let shown = format!("MGET{} …", " K".repeat(17));
        assert_eq!(many.renamed(shout), shown);

        // The twelfth is cut in two.
        let mut long = Writer::new("MGET");
        (0..20).for_each(|_| long.key(&[b'k'; 180]));
        let long = long.finish();
        let shown = format!("MGET{} …", " K".repeat(11));
        assert_eq!(long.renamed(|_| "K".into()), shown);
    }

    #[test]
    fn text_and_keys_are_bounded() {
        let mut writer = Writer::new("MGET");
        for _ in 0..1000 {
            writer.key(&[0xff; 600]);
        }
        let detail = writer.finish();
        assert_eq!(detail.keys.len(), Detail::MAX_KEYS);
        assert_eq!(detail.text.len(), MAX_TEXT + CUT.len());
        assert!(detail.text.ends_with(CUT));
    }
}
