//! What of a span leaves this program, and how it is named.
//!
//! One [`Export`] holds for a connection; all connections share one unless rules of the configuration say otherwise.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::redaction::Redaction;
use super::templates::Templates;

/// Context of the derivation of a [`Secret`]. Another one would give other hashes.
const CONTEXT: &str = "cache-observer 2026-11-23 hashes of keys";

/// What of a span leaves, and how it is named.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// How keys appear.
    pub keys: Keys,
    /// Which names attributes have.
    pub naming: Naming,
    /// Which spans are exported.
    pub spans: SpanPolicy,
    /// What hashes of keys depend on. Not part of the file, which others may read.
    #[serde(skip)]
    pub secret: Secret,
    /// What is never shown.
    #[serde(skip)]
    pub redaction: Arc<Redaction>,
    /// Patterns of keys of the user's own.
    #[serde(skip)]
    pub templates: Arc<Templates>,
}

/// How every key appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Keys {
    /// As it is.
    #[default]
    Full,
    /// Its pattern, `user:*:profile`.
    Pattern,
    /// A keyed hash of it.
    Hash,
    /// Not at all, and no pattern of it either.
    None,
}

/// Which names attributes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Naming {
    /// Those of today's conventions.
    #[default]
    Stable,
    /// Older names beside them.
    Dup,
}

/// Spans of commands that left together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpansPipeline {
    /// One for the batch.
    #[default]
    Batch,
    /// One for the batch, and one for each command as its child.
    Commands,
}

/// Which spans are exported. Metrics count everything, whatever it says.
///
/// What errors, misses or is slow is kept where `errors`, `misses` and `slow` ask for it. Of the rest a `share` is kept, drawn by
/// the trace id, and less where `per_second` would be exceeded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpanPolicy {
    /// Spans of commands that left together.
    pub pipeline: SpansPipeline,
    /// Keep what failed.
    pub errors: bool,
    /// Keep what missed a key or field.
    pub misses: bool,
    /// Keep what was slow.
    pub slow: Slow,
    /// How much of the rest is kept.
    pub share: Share,
    /// Most spans of the rest in a second, for each observed service; 0: no limit. `None`: [`SpanPolicy::PER_SECOND`] live, no
    /// limit for captures.
    pub per_second: Option<u32>,
    /// Keep health checks: a PING, `version`, `mn` or NOOP by itself on an idle connection.
    pub health_checks: bool,
    /// Connections that begin and end are spans, too.
    pub connections: bool,
}

impl SpanPolicy {
    /// The limit when observing live. A span takes about 1 KiB on its way, so this is 2 MB/s for one service at worst, and four busy
    /// services fit into the queue of 8,192 spans for the second that a batch may wait.
    pub const PER_SECOND: u32 = 2_000;
}

impl Default for SpanPolicy {
    fn default() -> Self {
        Self {
            pipeline: SpansPipeline::default(),
            errors: true,
            misses: false,
            slow: Slow::default(),
            share: Share::ALL,
            per_second: None,
            health_checks: true,
            connections: false,
        }
    }
}

/// What is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Slow {
    /// Nothing: `none`.
    None,
    /// What takes longer than 99 of 100 commands of its class at its cache: `p99`.
    #[default]
    P99,
    /// What takes longer than this: `50ms`.
    Over(Duration),
}

impl FromStr for Slow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "p99" => Ok(Self::P99),
            _ => humantime::parse_duration(text)
                .map(Self::Over)
                .map_err(|_| format!("`{text}` is neither p99, none nor a time such as 50ms")),
        }
    }
}

impl TryFrom<String> for Slow {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A part of a whole, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(f64);

/// It is never NaN.
impl Eq for Share {}

impl Share {
    /// All of it.
    pub const ALL: Self = Self(1.0);
    /// Nothing.
    pub const NONE: Self = Self(0.0);

    /// From 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not a number from 0 to 1"))
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: f64 = text
            .parse()
            .map_err(|_| format!("`{text}` is not a number from 0 to 1"))?;
        number.try_into()
    }
}

/// What hashes of keys depend on.
///
/// The default is the same everywhere: hashes of all hosts can be joined, and who can guess a key can check the guess. One
/// of the user's own prevents that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Derives it from a text of the user's own.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(blake3::derive_key(CONTEXT, text.as_bytes()))
    }

    /// The hash of a key: 16 hexadecimal digits, 64 bits of BLAKE3's keyed hash.
    #[must_use]
    pub fn hash(&self, key: &str) -> String {
        let hash = blake3::keyed_hash(&self.0, key.as_bytes());
        hash.to_hex()[..16].to_owned()
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self::new("")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Options that set parts of an [`Export`]. Those that are not given leave it as it is.
#[derive(Debug, Clone, Default, Args)]
pub struct ExportArguments {
    /// How every key appears; hash and pattern also in the query text, none drops patterns too [default: full]
    #[arg(
        long,
        env = "CACHE_OBSERVER_KEYS",
        value_enum,
        value_name = "full|pattern|hash|none",
        hide_possible_values = true
    )]
    pub keys: Option<Keys>,
    /// Names of attributes; dup adds the older ones [default: stable]
    #[arg(
        long,
        env = "CACHE_OBSERVER_NAMING",
        value_enum,
        value_name = "stable|dup",
        hide_possible_values = true
    )]
    pub naming: Option<Naming>,
    /// Spans of commands that left together: one for the batch, or one for each command too [default: batch]
    #[arg(
        long,
        env = "CACHE_OBSERVER_SPANS_PIPELINE",
        value_enum,
        value_name = "batch|commands",
        hide_possible_values = true
    )]
    pub spans_pipeline: Option<SpansPipeline>,
    /// Most spans a second and service, beside those of errors and slow commands; 0: no limit [default: 2000, captures 0]
    #[arg(long, env = "CACHE_OBSERVER_SPANS_PER_SECOND", value_name = "N")]
    pub spans_per_second: Option<u32>,
    /// Share of spans kept, beside those of errors and slow commands, from 0 to 1 [default: 1]
    #[arg(long, env = "CACHE_OBSERVER_SPANS_SHARE", value_name = "SHARE")]
    pub spans_share: Option<Share>,
    /// Whether tests of idle connections, such as a PING alone, are spans [default: true]
    #[arg(
        long,
        env = "CACHE_OBSERVER_SPANS_HEALTH_CHECKS",
        value_name = "true|false",
        hide_possible_values = true
    )]
    pub spans_health_checks: Option<bool>,
    /// Whether connections that begin (CONNECT) and end (CLOSE) are spans [default: false]
    #[arg(
        long,
        env = "CACHE_OBSERVER_SPANS_CONNECTIONS",
        value_name = "true|false",
        hide_possible_values = true
    )]
    pub spans_connections: Option<bool>,
}

impl Export {
    /// Sets what is given.
    pub fn apply(&mut self, arguments: &ExportArguments) {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(from) = from {
                to.clone_from(from);
            }
        }
        set(&mut self.keys, &arguments.keys);
        set(&mut self.naming, &arguments.naming);
        set(&mut self.spans.pipeline, &arguments.spans_pipeline);
        set(&mut self.spans.share, &arguments.spans_share);
        let spans = &mut self.spans;
        set(&mut spans.health_checks, &arguments.spans_health_checks);
        set(&mut spans.connections, &arguments.spans_connections);
        if arguments.spans_per_second.is_some() {
            self.spans.per_second = arguments.spans_per_second;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Export, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_written_has_its_default() {
        assert_eq!(read("{}").unwrap(), Export::default());
        let some = read(
            r#"{"keys":"hash","naming":"dup","spans":{"pipeline":"commands","slow":"50ms","share":0.25,"per_second":0,"misses":true}}"#,
        )
        .unwrap();
        assert_eq!((some.keys, some.naming), (Keys::Hash, Naming::Dup));
        assert_eq!(
            some.spans,
            SpanPolicy {
                pipeline: SpansPipeline::Commands,
                misses: true,
                slow: Slow::Over(Duration::from_millis(50)),
                share: Share(0.25),
                per_second: Some(0),
                ..SpanPolicy::default()
            }
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, reason) in [
            (r#"{"kies":"full"}"#, "unknown field `kies`"),
            (r#"{"keys":"half"}"#, "unknown variant `half`"),
            (r#"{"secret":"x"}"#, "unknown field `secret`"),
            (r#"{"spans":{"rate":1}}"#, "unknown field `rate`"),
            (r#"{"spans":{"slow":"p90"}}"#, "`p90` is neither p99"),
            (
                r#"{"spans":{"share":1.5}}"#,
                "1.5 is not a number from 0 to 1",
            ),
            (
                r#"{"spans":{"share":-1}}"#,
                "-1 is not a number from 0 to 1",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn hashes_depend_on_key_and_secret_only() {
        let (ours, theirs) = (Secret::default(), Secret::new("theirs"));
        assert_eq!(ours.hash("user:42"), ours.hash("user:42"));
        assert_eq!(ours.hash("user:42").len(), 16);
        assert_ne!(ours.hash("user:42"), ours.hash("user:43"));
        assert_ne!(ours.hash("user:42"), theirs.hash("user:42"));
        assert_eq!(format!("{theirs:?}"), "Secret");
    }
}
