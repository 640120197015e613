//! Files that stay readable, and unsafe code that stays in its rooms.

use std::path::Path;

use anyhow::{Result, bail};

use super::source;
use crate::shell;

/// Lines of a file at most.
const LONGEST: usize = 600;
const MEMBERS: [&str; 4] = ["observer", "observer-ebpf", "xtask", "tests"];
/// Where unsafe code may be.
const ROOMS: [&str; 2] = ["observer-ebpf", "observer/src/source"];

pub(super) fn check() -> Result<()> {
    let root = shell::workspace();
    let mut wrong = Vec::new();
    for member in MEMBERS {
        for path in source::files(&root.join(member))? {
            let name = path.strip_prefix(root)?;
            let text = std::fs::read_to_string(&path)?;
            let lines = text.lines().count();
            if lines > LONGEST {
                wrong.push(format!(
                    "{}: {lines} lines, more than {LONGEST}",
                    name.display()
                ));
            }
            if !ROOMS.iter().any(|room| name.starts_with(Path::new(room))) {
                let lines = unsafe_lines(&source::code(&text));
                wrong.extend(lines.iter().map(|line| {
                    format!("{}:{line}: unsafe code outside its rooms", name.display())
                }));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn unsafe_lines(code: &str) -> Vec<usize> {
    let words = |line: &str| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .any(|word| matches!(word, "unsafe" | "unsafe_code"))
    };
    code.lines()
        .zip(1..)
        .filter(|(line, _)| words(line))
        .map(|(_, number)| number)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_a_word() {
        assert_eq!(
            unsafe_lines("let unsafe_lines = 1;\nunsafe { f() }\n#![allow(unsafe_code)]"),
            [2, 3]
        );
    }
}
