//! Keys as the settings of their connection want them: as they are, as patterns, as hashes, or not at all.
//!
//! Everything that shows a key or the text of a command asks here. Names of scripts and functions count as keys. Other places
//! hold no keys: channels, fields and patterns never leave the decoders.

use std::borrow::Cow;

use crate::aggregation::pattern::pattern;
use crate::config::export::{Export, Keys};
use crate::protocol::Detail;

/// A key; `None`: it is not shown.
pub(super) fn key<'a>(export: &Export, key: &'a str) -> Option<Cow<'a, str>> {
    match export.keys {
        Keys::Full => Some(Cow::Borrowed(key)),
        Keys::Pattern => Some(Cow::Owned(pattern_of(export, key))),
        Keys::Hash => Some(Cow::Owned(export.secret.hash(key))),
        Keys::None => None,
    }
}

/// The pattern of a key: the user's own, else what is found.
pub(super) fn pattern_of(export: &Export, key: &str) -> String {
    match export.templates.find(key) {
        Some(own) => own.to_owned(),
        None => pattern(key),
    }
}

/// The text of a command, a key that is not shown as `?`.
pub(super) fn text<'a>(export: &Export, detail: &'a Detail) -> Cow<'a, str> {
    match export.keys {
        Keys::Full => Cow::Borrowed(&detail.text),
        _ => Cow::Owned(detail.renamed(|name| key(export, name).unwrap_or(Cow::Borrowed("?")))),
    }
}
