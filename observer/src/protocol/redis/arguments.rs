//! The arguments of one request, within a fixed budget.

use super::super::number;

/// Most arguments kept one by one. Options, counts and the sixteen keys of a span lie well before; past it only
/// lengths are summed up.
pub(super) const MAX_KEPT: usize = 64;
/// Most bytes kept of an argument when keys are wanted: [`Detail::MAX_KEY_BYTES`](crate::protocol::Detail::MAX_KEY_BYTES).
/// `MAX_KEPT * KEEP_KEYS` = 32 KiB, and a vector that grows by doubling holds less than twice that: 64 KiB a decoder.
pub(super) const KEEP_KEYS: usize = 512;
/// Most bytes kept of an argument when keys are not wanted: command names, options and numbers are shorter.
pub(super) const KEEP_WORDS: usize = 32;
/// Sums are kept by index modulo this: the repeating groups of commands have 1, 2 or 3 arguments.
pub(super) const RESIDUES: usize = 6;
/// Longest option or subcommand.
const MAX_WORD: usize = 24;
/// A buffer that grew beyond this is given back when its request is done.
const IDLE_CAPACITY: usize = 4096;

/// One argument.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Where its kept bytes begin.
    start: u32,
    /// How many bytes are kept: a prefix.
    kept: u32,
    /// Its length on the wire.
    length: u64,
}

/// The arguments of a request, its name among them.
///
/// ```text
/// count  = every argument begun        sums[i % 6] = lengths of arguments past MAX_KEPT
/// spans.len() = min(count, MAX_KEPT)   bytes.len() ≤ MAX_KEPT * keep
/// ```
#[derive(Debug)]
pub(super) struct Arguments {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    count: u64,
    sums: [u64; RESIDUES],
    keep: usize,
    /// Bytes that may still be kept of the current argument.
    room: usize,
}

impl Arguments {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            bytes: Vec::new(),
            spans: Vec::new(),
            count: 0,
            sums: [0; RESIDUES],
            keep,
            room: 0,
        }
    }

    /// Begins an argument of `length` bytes.
    #[inline]
    pub(super) fn begin(&mut self, length: u64) {
        if self.spans.len() < MAX_KEPT {
            self.spans.push(Span {
                start: self.bytes.len() as u32,
                kept: 0,
                length,
            });
            self.room = self.keep;
        } else {
            let residue = (self.count % RESIDUES as u64) as usize;
            self.sums[residue] = self.sums[residue].saturating_add(length);
            self.room = 0;
        }
        self.count += 1;
    }

    /// More bytes of the current argument.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let take = bytes.len().min(self.room);
        if take > 0
            && let Some(span) = self.spans.last_mut()
        {
            self.bytes.extend_from_slice(&bytes[..take]);
            span.kept += take as u32;
            self.room -= take;
        }
    }

    /// Bytes of the current argument are missing: what is kept of it stays a prefix.
    pub(super) fn gap(&mut self) {
        self.room = 0;
    }

    /// A whole argument.
    pub(super) fn add(&mut self, argument: &[u8]) {
        self.begin(argument.len() as u64);
        self.push(argument);
    }

    /// Arguments, the name included.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Arguments kept one by one: the first ones.
    pub(super) fn kept(&self) -> usize {
        self.spans.len()
    }

    /// What is kept of an argument.
    #[inline]
    pub(super) fn prefix(&self, index: usize) -> &[u8] {
        let Some(span) = self.spans.get(index) else {
            return &[];
        };
        let start = span.start as usize;
        self.bytes
            .get(start..start + span.kept as usize)
            .unwrap_or(&[])
    }

    /// An argument, if it is kept whole.
    #[inline]
    pub(super) fn whole(&self, index: usize) -> Option<&[u8]> {
        let span = self.spans.get(index)?;
        (u64::from(span.kept) == span.length).then(|| self.prefix(index))
    }

    /// An argument as an integer.
    pub(super) fn integer(&self, index: usize) -> Option<i64> {
        self.whole(index).and_then(number::parse)
    }

    /// An argument as a word, upper-case.
    pub(super) fn upper(&self, index: usize) -> Option<Upper> {
        let text = self.whole(index)?;
        if text.is_empty() || text.len() > MAX_WORD {
            return None;
        }
        let mut upper = Upper {
            length: text.len(),
            bytes: [0; MAX_WORD],
        };
        for (to, from) in upper.bytes.iter_mut().zip(text) {
            *to = from.to_ascii_uppercase();
        }
        Some(upper)
    }

    /// Whether an argument is this word, given in upper case.
    pub(super) fn is_word(&self, index: usize, word: &[u8]) -> bool {
        self.whole(index)
            .is_some_and(|text| text.eq_ignore_ascii_case(word))
    }

    /// What is kept of an argument, unless bytes of it are missing that would have been kept.
    pub(super) fn unbroken(&self, index: usize) -> Option<&[u8]> {
        let span = self.spans.get(index)?;
        (u64::from(span.kept) == span.length.min(self.keep as u64)).then(|| self.prefix(index))
    }

    /// Length of an argument on the wire; 0 past [`MAX_KEPT`].
    #[inline]
    pub(super) fn length(&self, index: usize) -> u64 {
        self.spans.get(index).map_or(0, |span| span.length)
    }

    /// Summed lengths of the arguments past [`MAX_KEPT`], by index modulo [`RESIDUES`].
    pub(super) fn sums(&self) -> &[u64; RESIDUES] {
        &self.sums
    }

    /// Ready for the next request.
    #[inline]
    pub(super) fn clear(&mut self) {
        if self.count > MAX_KEPT as u64 {
            self.sums = [0; RESIDUES];
        }
        self.bytes.clear();
        self.spans.clear();
        self.count = 0;
        self.room = 0;
        if self.bytes.capacity() > IDLE_CAPACITY {
            self.bytes.shrink_to(IDLE_CAPACITY);
        }
    }

    /// Gives back what is empty.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.spans.shrink_to_fit();
    }

    /// Bytes held on the heap.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>()
    }
}

/// An upper-cased word.
pub(super) struct Upper {
    length: usize,
    bytes: [u8; MAX_WORD],
}

impl Upper {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
