//! Rust source as the house rules see it: without comments, literals and unit tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// Every `.rs` file below a folder, in order.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The code: comments and the contents of literals become blanks, line breaks stay.
pub(super) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, kept) = piece(rest, first);
        let (piece, after) = rest.split_at(length);
        match kept {
            true => code.push_str(piece),
            false => code.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
        rest = after;
    }
    code
}

/// Length of the comment, literal, word or character at the start, and whether it is code.
fn piece(rest: &str, first: char) -> (usize, bool) {
    let until = |end: &str, from: usize| {
        rest[from..]
            .find(end)
            .map_or(rest.len(), |at| from + at + end.len())
    };
    match first {
        '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
        '/' if rest.starts_with("/*") => (until("*/", 2), false),
        '"' => (quoted(rest), false),
        // A character literal; anything else behind this sign is a lifetime.
        '\'' if rest.starts_with("'\\") => (until("'", 3), false),
        '\'' => match rest.char_indices().nth(2) {
            Some((at, '\'')) => (at + 1, false),
            _ => (1, true),
        },
        'r' if rest.starts_with("r\"") || rest.starts_with("r#\"") || rest.starts_with("r##\"") => {
            let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
            (
                until(&format!("\"{}", "#".repeat(hashes)), hashes + 2),
                false,
            )
        }
        _ if word(first) => (rest.find(|c| !word(c)).unwrap_or(rest.len()), true),
        _ => (first.len_utf8(), true),
    }
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The code before its unit tests, which stand at the end of a file.
pub(super) fn before_tests(code: &str) -> &str {
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(test)]") {
        let behind = code[from + at..]
            .trim_start_matches("#[cfg(test)]")
            .trim_start();
        if behind.starts_with("mod ") {
            return &code[..from + at];
        }
        from += at + 1;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b\n */ c", "a     \n    c"),
            (r#"f("x \" y", 'z')"#, "f(        ,    )"),
            (r###"r#"a"b"# c"###, "         c"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            (r"'\'' 'é' '\\' x", "              x"),
        ];
        for (text, wanted) in cases {
            assert_eq!(code(text).trim_end(), wanted.trim_end(), "{text}");
        }
    }

    #[test]
    fn tests_are_cut_off() {
        assert_eq!(
            before_tests("#[cfg(test)]\nuse a;\nb\n#[cfg(test)]\nmod tests {}"),
            "#[cfg(test)]\nuse a;\nb\n"
        );
    }
}
