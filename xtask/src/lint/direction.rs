//! Data flows one way: a stage imports only from the stages before it.

use std::path::Path;

use anyhow::{Result, bail};

use super::source;
use crate::shell;

const STAGES: [&str; 7] = [
    "source",
    "stream",
    "protocol",
    "transaction",
    "enrichment",
    "aggregation",
    "sinks",
];
/// Open to all.
const OPEN: [&str; 2] = ["config", "telemetry"];
/// Sees all.
const WIRING: &str = "pipeline";
/// The plain types that travel between stages: open to all.
const PLAIN: [&str; 5] = [
    "source::event",
    "protocol::message",
    "protocol::Protocol",
    "transaction::Transaction",
    "enrichment::Observation",
];

pub(super) fn check() -> Result<()> {
    let root = shell::workspace().join("observer/src");
    let mut wrong = Vec::new();
    for path in source::files(&root)? {
        let inside = path.strip_prefix(&root)?;
        let module = module(inside);
        let code = source::code(&std::fs::read_to_string(&path)?);
        for (line, import) in imports(source::before_tests(&code)) {
            if !allowed(&module, &import) {
                wrong.push(format!(
                    "observer/src/{}:{line}: `{module}` imports crate::{import}",
                    inside.display()
                ));
            }
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{}\n{} come in this order, left to right",
            wrong.join("\n"),
            STAGES.join(" → ")
        );
    }
    Ok(())
}

/// The top-level module that a file belongs to; empty for the crate's root.
fn module(file: &Path) -> String {
    let first = file.iter().next().unwrap_or_default().to_string_lossy();
    match first.strip_suffix(".rs") {
        Some("lib" | "main") => String::new(),
        Some(name) => name.to_owned(),
        None => first.into_owned(),
    }
}

fn allowed(module: &str, import: &str) -> bool {
    let target = import.split("::").next().unwrap_or_default();
    let plain = PLAIN.iter().any(|path| {
        import
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    });
    if module.is_empty() || module == WIRING || module == target || OPEN.contains(&target) || plain
    {
        return true;
    }
    let place = |name: &str| STAGES.iter().position(|stage| *stage == name);
    match (place(module), place(target)) {
        (Some(here), Some(there)) => there < here,
        // `config` and `telemetry` stand beside the stages; a name that is no module is a macro or a re-export.
        (None, Some(_)) => false,
        _ => target != WIRING,
    }
}

/// Paths behind `crate::`, groups taken apart, each with its line.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        paths(&code[at + "crate::".len()..], String::new(), &mut |path| {
            found.push((line, path))
        });
    }
    found
}

/// Calls `each` for every path of a tree such as `a::{b, c::{d, e}}`; gives the text behind the tree.
fn paths<'a>(text: &'a str, before: String, each: &mut dyn FnMut(String)) -> &'a str {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(text.len());
    let (path, mut rest) = text.split_at(end);
    let whole = before + path;
    let Some(inside) = rest
        .strip_prefix('{')
        .filter(|_| path.is_empty() || path.ends_with("::"))
    else {
        each(whole);
        return rest;
    };
    rest = inside;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if rest.is_empty() {
            return rest;
        }
        if let Some(behind) = rest.strip_prefix('}') {
            return behind;
        }
        let behind = paths(rest, whole.clone(), each);
        // ` as other`, `*` and the like.
        rest = behind.trim_start_matches(|c: char| !matches!(c, ',' | '}' | '{'));
        if rest.len() == behind.len() && behind.starts_with('{') {
            return behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_taken_apart() {
        let code = "use a;\nuse crate::{stream::{A, b::C as D}, sinks, config::*};\nfn f() { crate::protocol::g() }";
        let wanted = [
            "stream::A",
            "stream::b::C",
            "sinks",
            "config::",
            "protocol::g",
        ];
        let found = imports(code);
        assert_eq!(
            found
                .iter()
                .map(|(_, path)| path.as_str())
                .collect::<Vec<_>>(),
            wanted
        );
        assert_eq!(
            found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [2, 2, 2, 2, 3]
        );
    }

    #[test]
    fn only_leftward() {
        let cases = [
            ("stream", "source::Event", true),
            ("stream", "protocol::redis::Decoder", false),
            ("stream", "protocol::Protocol", true),
            ("protocol", "protocol::message", true),
            ("sinks", "aggregation::Series", true),
            ("aggregation", "sinks::Console", false),
            ("source", "telemetry::Lost", true),
            ("source", "config::Config", true),
            ("config", "sinks::Exporter", false),
            ("telemetry", "protocol::Protocol", true),
            ("telemetry", "pipeline::run", false),
            ("pipeline", "sinks::Console", true),
            ("", "pipeline::run", true),
        ];
        for (module, import, wanted) in cases {
            assert_eq!(allowed(module, import), wanted, "{module} imports {import}");
        }
    }
}
