//! The configuration file: TOML, read strictly. What is wrong with it is one line, with its line number and, for an unknown
//! key, the nearest known one.
//!
//! A key that is the long name of an option of the command line is that option; its value is checked by the command
//! line's own parser. Options whose name begins with the name of a table stand in that table: `spans.pipeline` is
//! `--spans-pipeline`. Everything else is in [`Tables`]. `_` may stand for `-`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::histograms::Histograms;
use super::limits::Limits;
use super::pools::Pools;
use super::redaction::Redaction;
use super::rules::{self, Rule, SpanRule};
use super::templates::{MAX_TEMPLATES, Templates};

/// Longest file, bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The tables whose keys are addresses.
const CACHES: &str = "caches";
const SERVERS: &str = "servers";

/// What the file holds beyond options of the command line.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Tables {
    /// Templates of keys, tried in this order before patterns are looked for.
    pub key_patterns: Vec<String>,
    /// Names of servers, by address.
    pub servers: BTreeMap<String, String>,
    /// Names of caches, by server address and port.
    pub caches: BTreeMap<String, String>,
    /// Which spans are exported, as far as the command line has no option for it.
    pub spans: SpanRule,
    /// What is never shown.
    pub redaction: Redaction,
    /// Budgets.
    pub limits: Limits,
    /// Bounds of histograms.
    pub histograms: Histograms,
    /// When a pool of connections is said to be in trouble.
    pub pools: Pools,
    /// What holds for some connections only.
    pub rules: Vec<Rule>,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// As they would stand on the command line.
    pub(super) values: Vec<String>,
    pub(super) line: usize,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// By the option's long name.
    pub(super) options: BTreeMap<String, Given>,
    pub(super) tables: Tables,
    /// Where each key of the tables stands, by its path: `limits.idle`, `rules[0].port`.
    pub(super) lines: BTreeMap<String, usize>,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct FileError {
    path: PathBuf,
    line: Option<usize>,
    reason: String,
}

/// What is wrong, and at which byte.
type Fault = (Range<usize>, String);

impl File {
    /// Reads a file. `options` are the long names of the command line's.
    ///
    /// # Errors
    ///
    /// [`FileError`] for the first thing that is wrong.
    pub(super) fn read(path: &Path, options: &BTreeSet<String>) -> Result<Self, FileError> {
        let whole = |reason: String| FileError {
            path: path.to_owned(),
            line: None,
            reason,
        };
        let mut bytes = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| whole(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(whole(format!("longer than {MAX_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|_| whole("not UTF-8".to_owned()))?;
        Self::parse(path, &text, options)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    ///
    /// [`FileError`] for the first thing that is wrong.
    pub(super) fn parse(
        path: &Path,
        text: &str,
        options: &BTreeSet<String>,
    ) -> Result<Self, FileError> {
        let at = |(span, reason): Fault| FileError {
            path: path.to_owned(),
            line: Some(line(text, span.start)),
            reason,
        };
        let fault = |error: toml::de::Error| {
            let reason = error.message().replace('\n', " ");
            (error.span().unwrap_or_default(), reason)
        };
        let root = DeTable::parse(text).map_err(|error| at(fault(error)))?;
        let span = root.span();
        let mut root = hyphenated(root.into_inner()).map_err(at)?;
        let known = Known::new(options);
        let mut file = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        file.take_options(&mut root, text, &known).map_err(at)?;
        note(&root, text, "", &mut file.lines);
        let root = Spanned::new(span, root);
        file.tables = Tables::deserialize(toml::de::Deserializer::from(root)).map_err(|error| {
            let (span, reason) = fault(error);
            let reason = known.unknown_field(&reason).unwrap_or_else(|| {
                // `serde` does not say of which key it speaks; it is the innermost one of that line.
                let here = line(text, span.start);
                let keys = file.lines.iter().filter(|(_, line)| **line == here);
                match keys.map(|(key, _)| key).max_by_key(|key| key.len()) {
                    Some(key) => format!("{key}: {reason}"),
                    None => reason,
                }
            });
            at((span, reason))
        })?;
        file.tables.check().map_err(|(key, reason)| FileError {
            path: path.to_owned(),
            line: file.lines.get(&key).copied(),
            reason: format!("{key}: {reason}"),
        })?;
        Ok(file)
    }

    /// An error of this file.
    pub(super) fn error(&self, line: usize, reason: String) -> FileError {
        FileError {
            path: self.path.clone(),
            line: Some(line),
            reason,
        }
    }

    /// Moves the options out of the tables.
    fn take_options(
        &mut self,
        root: &mut DeTable<'_>,
        text: &str,
        known: &Known<'_>,
    ) -> Result<(), Fault> {
        let names: Vec<_> = root.keys().cloned().collect();
        for name in names {
            let table = name.get_ref().as_ref();
            if known.options.contains(table) {
                let (key, value) = root.remove_entry(&name).expect("one of its keys");
                self.take_option(table, &key, &value, text)?;
                continue;
            }
            if !known.tables.contains(table) {
                return Err((name.span(), known.unknown(table)));
            }
            let Some(inner) = root.get_mut(&name).and_then(|value| match value.get_mut() {
                DeValue::Table(inner) => Some(inner),
                _ => None,
            }) else {
                continue;
            };
            let keys: Vec<_> = inner.keys().cloned().collect();
            for key in keys {
                let option = format!("{table}-{}", key.get_ref());
                if known.options.contains(&option) {
                    let (key, value) = inner.remove_entry(&key).expect("one of its keys");
                    self.take_option(&option, &key, &value, text)?;
                }
            }
        }
        Ok(())
    }

    fn take_option(
        &mut self,
        option: &str,
        key: &Spanned<Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        text: &str,
    ) -> Result<(), Fault> {
        let values = match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|one| scalar(one.get_ref())).collect(),
            one => scalar(one).map(|value| vec![value]),
        };
        let values = values.ok_or_else(|| {
            let kind = value.get_ref().type_str();
            (
                value.span(),
                format!("{option}: its value cannot be a {kind}"),
            )
        })?;
        let line = line(text, key.span().start);
        let given = Given { values, line };
        match self.options.insert(option.to_owned(), given) {
            None => Ok(()),
            Some(first) => Err((
                key.span(),
                format!("{option} is also set in line {}", first.line),
            )),
        }
    }
}

impl Tables {
    /// What `serde` cannot see. Answers the path of the key, and what is wrong.
    fn check(&self) -> Result<(), (String, String)> {
        self.limits
            .check()
            .map_err(|(key, reason)| (format!("limits.{key}"), reason))?;
        self.histograms
            .check()
            .map_err(|(key, reason)| (format!("histograms.{key}"), reason))?;
        self.pools
            .check()
            .map_err(|(key, reason)| (format!("pools.{key}"), reason))?;
        rules::check_servers(&self.servers)
            .map_err(|(key, reason)| (format!("{SERVERS}.{key}"), reason))?;
        rules::check_caches(&self.caches)
            .map_err(|(key, reason)| (format!("{CACHES}.{key}"), reason))?;
        rules::check(&self.rules).map_err(|(index, reason)| (format!("rules[{index}]"), reason))?;
        if self.key_patterns.len() > MAX_TEMPLATES {
            let reason = format!("more than {MAX_TEMPLATES} templates");
            return Err(("key-patterns".to_owned(), reason));
        }
        Templates::new(&self.key_patterns)
            .map_err(|(index, reason)| (format!("key-patterns[{index}]"), reason))?;
        Ok(())
    }
}

/// All keys there are.
struct Known<'a> {
    options: &'a BTreeSet<String>,
    tables: BTreeSet<String>,
    /// Every key by its whole path, to find the nearest.
    paths: Vec<String>,
}

impl<'a> Known<'a> {
    fn new(options: &'a BTreeSet<String>) -> Self {
        // The fields of the tables, also those that are not set by default.
        let mut all = serde_json::to_value(Tables::default()).unwrap_or_default();
        all["rules"] = serde_json::to_value(Rule::default()).unwrap_or_default();
        let mut paths: Vec<String> = options.iter().map(|option| path_of(option)).collect();
        let mut tables = BTreeSet::new();
        for (table, fields) in all.as_object().into_iter().flatten() {
            tables.insert(table.clone());
            paths.push(table.clone());
            let fields = fields.as_object().into_iter().flatten();
            paths.extend(fields.map(|(field, _)| format!("{table}.{field}")));
        }
        Self {
            options,
            tables,
            paths,
        }
    }

    fn unknown(&self, path: &str) -> String {
        let close = |known: &&String| {
            // What is in the wrong table is near, too. Whole thousandths, since `f64` has no order.
            let field = known.rsplit('.').next().unwrap_or_default();
            [known.as_str(), field]
                .map(|known| (strsim::normalized_damerau_levenshtein(known, path) * 1e3) as u32)
                .into_iter()
                .max()
        };
        // The first of several that are equally near.
        let nearest = self.paths.iter().rev().max_by_key(close);
        match nearest {
            Some(nearest) => format!("unknown key `{path}`; the nearest known one is `{nearest}`"),
            None => format!("unknown key `{path}`"),
        }
    }

    /// `serde` says which fields a table has: "unknown field `a`, expected one of `b`, `c`".
    fn unknown_field(&self, message: &str) -> Option<String> {
        let rest = message.strip_prefix("unknown field `")?;
        let (field, rest) = rest.split_once('`')?;
        let siblings: Vec<_> = rest.split('`').skip(1).step_by(2).collect();
        // Their table is the one that has them all.
        let table = self.tables.iter().find(|table| {
            let has = |field: &&str| self.paths.contains(&format!("{table}.{field}"));
            !siblings.is_empty() && siblings.iter().all(has)
        })?;
        let within = Known {
            options: self.options,
            tables: BTreeSet::new(),
            paths: siblings
                .iter()
                .map(|field| format!("{table}.{field}"))
                .collect(),
        };
        Some(within.unknown(&format!("{table}.{field}")))
    }
}

/// How an option is written in the file: `spans.pipeline` for `spans-pipeline`.
pub(super) fn path_of(option: &str) -> String {
    match option.split_once('-') {
        Some(("spans", rest)) => format!("spans.{rest}"),
        _ => option.to_owned(),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// `-` in place of `_` in all keys that are names of ours.
fn hyphenated<'a>(table: DeTable<'a>) -> Result<DeTable<'a>, Fault> {
    let mut out = DeTable::new();
    for (key, value) in table {
        let name = key.get_ref().replace('_', "-");
        let span = value.span();
        let value = match value.into_inner() {
            DeValue::Table(inner) if ![CACHES, SERVERS].contains(&name.as_str()) => {
                DeValue::Table(hyphenated(inner)?)
            }
            DeValue::Array(list) => {
                let mut all = toml::de::DeArray::new();
                for one in list {
                    let span = one.span();
                    all.push(Spanned::new(
                        span,
                        match one.into_inner() {
                            DeValue::Table(inner) => DeValue::Table(hyphenated(inner)?),
                            other => other,
                        },
                    ));
                }
                DeValue::Array(all)
            }
            other => other,
        };
        let key = Spanned::new(key.span(), Cow::Owned(name));
        if out.contains_key(&key) {
            return Err((key.span(), format!("`{}` is set twice", key.get_ref())));
        }
        out.insert(key, Spanned::new(span, value));
    }
    Ok(out)
}

/// Notes the lines of all keys below `path`.
fn note(table: &DeTable<'_>, text: &str, path: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path = match path {
            "" => key.get_ref().clone().into_owned(),
            _ => format!("{path}.{}", key.get_ref()),
        };
        lines.insert(path.clone(), line(text, key.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => note(inner, text, &path, lines),
            DeValue::Array(list) => {
                for (index, one) in list.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    lines.insert(path.clone(), line(text, one.span().start));
                    if let DeValue::Table(inner) = one.get_ref() {
                        note(inner, text, &path, lines);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The number of the line that holds this byte, from 1.
fn line(text: &str, byte: usize) -> usize {
    let before = &text.as_bytes()[..byte.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
