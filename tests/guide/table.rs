//! `docs/guide.md`, read as the table it is.

use anyhow::{Context, Result, ensure};

const TEXT: &str = include_str!("../../docs/guide.md");

/// Programs that the table sums up as *all*.
pub(crate) const ALL: [&str; 8] = [
    "ioredis",
    "redis_py",
    "go_redis",
    "memjs",
    "get_or_set",
    "multi_level",
    "cache_aside",
    "write_through",
];

/// A name that the guide's wrappers set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// The chapter it stands in: `Spans`, `Attributes` …
    pub(crate) kind: String,
    /// As in the guide, without marks; `{…}` is what varies.
    pub(crate) name: String,
    /// The same here, or `None` where it is not told.
    pub(crate) ours: Option<String>,
    /// Whether `--naming dup` tells it by the guide's name, too.
    pub(crate) dup: bool,
    /// From what, or why not.
    pub(crate) note: String,
    /// Programs that it is held against.
    pub(crate) programs: Vec<String>,
}

/// All rows, in their order.
///
/// # Errors
///
/// When a line of a table has not five cells.
pub(crate) fn rows() -> Result<Vec<Row>> {
    let (mut rows, mut kind) = (Vec::new(), "");
    for line in TEXT.lines() {
        if let Some(chapter) = line.strip_prefix("## ") {
            kind = chapter;
        }
        let Some(cells) = line.strip_prefix('|') else {
            continue;
        };
        if cells.starts_with("---") || cells.starts_with(" guide |") {
            continue;
        }
        let cells: Vec<_> = cells.trim_end_matches('|').split('|').collect();
        let [name, ours, dup, note, programs] = cells[..] else {
            anyhow::bail!("not five cells: {line}");
        };
        let plain = |cell: &str| cell.trim().replace('`', "");
        let programs = programs.trim();
        ensure!(["", "yes"].contains(&dup.trim()), "yes or nothing: {line}");
        ensure!(!note.trim().is_empty(), "nothing is said: {line}");
        rows.push(Row {
            kind: kind.to_owned(),
            name: plain(name),
            ours: Some(plain(ours)).filter(|ours| ours != "—"),
            dup: dup.trim() == "yes",
            note: note.trim().to_owned(),
            programs: match programs {
                "all" => ALL.map(str::to_owned).to_vec(),
                _ => programs.split(", ").map(str::to_owned).collect(),
            },
        });
    }
    Ok(rows)
}

/// The row of a name as a program says it, where `{…}` stands for anything. Without such a part it is preferred.
///
/// # Errors
///
/// When there is none: the table is to name all that the guide's wrappers set.
pub(crate) fn find<'a>(rows: &'a [Row], kind: &str, name: &str) -> Result<&'a Row> {
    let of_kind = || rows.iter().filter(|row| row.kind == kind);
    let varies = |row: &&Row| {
        let prefix = row.name.split_once('{').map(|(prefix, _)| prefix);
        prefix.is_some_and(|prefix| name.starts_with(prefix))
    };
    let found = of_kind().find(|row| row.name == name);
    let found = found.or_else(|| of_kind().find(varies));
    found.with_context(|| format!("docs/guide.md has no row for {name} in {kind}"))
}
