//! `docs/redis-commands.md`, made of the table.

use std::fmt::Write;

use super::super::super::message::Class;
use super::{COMMANDS, Command, Hit, Ttl};

/// All but the tables.
const TEXT: &str = include_str!("document.md");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/redis-commands.md");

#[test]
fn document_agrees_with_the_table() {
    let wanted = document();
    if std::env::var_os("RENEW_DOCUMENTS").is_some() {
        std::fs::write(PATH, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/redis-commands.md is old: RENEW_DOCUMENTS=1 cargo test -p observer --lib document"
    );
}

fn document() -> String {
    let comparable: Vec<_> = COMMANDS
        .iter()
        .filter(|command| counts_keys(command.hit))
        .map(|command| format!("`{}`", command.name))
        .collect();
    let mut text = TEXT.replace("{comparable}", &wrap(&comparable));
    for class in Class::ALL {
        let mut rows: Vec<_> = COMMANDS.iter().filter(|row| row.class == class).collect();
        rows.sort_by_key(|row| row.name);
        if rows.is_empty() {
            continue;
        }
        let _ = write!(text, "\n### {}\n\n", class.name());
        let says = |row: &&Command| row.hit != Hit::No || !notes(row).is_empty();
        let (said, others): (Vec<&Command>, Vec<&Command>) = rows.into_iter().partition(says);
        if !said.is_empty() {
            text.push_str("| command | hits and misses | |\n|---|---|---|\n");
        }
        for row in &said {
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                call(row),
                hits(row.hit),
                notes(row)
            );
        }
        if !said.is_empty() && !others.is_empty() {
            text.push_str("\nWithout hits and misses:\n\n");
        }
        if !others.is_empty() {
            let others: Vec<_> = others.into_iter().map(call).collect();
            let _ = writeln!(text, "{}", wrap(&others));
        }
    }
    text
}

/// Names, separated by commas, in lines of at most 120 bytes.
fn wrap(names: &[String]) -> String {
    let mut text = String::new();
    let mut length = 0;
    for (index, name) in names.iter().enumerate() {
        if length + name.len() > 117 {
            text.push('\n');
            length = 0;
        } else if index > 0 {
            text.push(' ');
        }
        text.push_str(name);
        text.push(if index + 1 < names.len() { ',' } else { '.' });
        length += name.len() + 2;
    }
    text
}

/// Whether it is keys that hit or miss, not elements: the server counts those, too.
fn counts_keys(hit: Hit) -> bool {
    match hit {
        Hit::No
        | Hit::NullElement
        | Hit::NullElements
        | Hit::NullCounted
        | Hit::Find
        | Hit::Member
        | Hit::Members => false,
        Hit::Null
        | Hit::NullIfGet
        | Hit::NullKeys
        | Hit::Empty
        | Hit::EmptyCounted
        | Hit::EmptyRange
        | Hit::CountKeys
        | Hit::Size
        | Hit::MinusTwo
        | Hit::Type => true,
    }
}

fn hits(hit: Hit) -> &'static str {
    match hit {
        Hit::No => "",
        Hit::Null => "key: null is a miss",
        Hit::NullIfGet => "key, with GET: null is a miss",
        Hit::NullKeys => "each key: each null is a miss",
        Hit::NullElement => "element: null is a miss",
        Hit::NullElements | Hit::NullCounted => "each element: each null is a miss",
        Hit::Empty => "key: empty is a miss",
        Hit::EmptyCounted => "key: null or empty is a miss; none with the count 0",
        Hit::EmptyRange => {
            "key: empty is a miss; only where indexes hold the first or the last element"
        }
        Hit::Find => "element: null or empty is a miss",
        Hit::CountKeys => "each key: the integer says how many hit",
        Hit::Size => "key: 0 is a miss",
        Hit::Member => "element: 0 is a miss",
        Hit::Members => "each element: each 0 is a miss",
        Hit::MinusTwo => "key: -2 is a miss",
        Hit::Type => "key: `none` is a miss",
    }
}

fn notes(command: &Command) -> String {
    let mut notes = Vec::new();
    if command.ttl != Ttl::No {
        notes.push("sets a time to live");
    }
    if command.blocking {
        notes.push("may block");
    }
    notes.join(", ")
}

/// A command with its arguments.
fn call(command: &Command) -> String {
    format!("`{}{}`", command.name, arguments(command.arguments))
}

/// A shape in words.
fn arguments(shape: &str) -> String {
    let mut text = String::new();
    let (head, tail) = shape.split_once('|').unwrap_or((shape, ""));
    let (head, cycle) = head.split_once('*').unwrap_or((head, ""));
    letters(head, &mut text);
    match cycle {
        "" => {}
        "o" | "s" | "g" | "M" => text.push_str(" [options]"),
        _ => {
            let mut group = String::new();
            letters(cycle, &mut group);
            let group = group.trim_start();
            let _ = match cycle.len() {
                1 => write!(text, " {group}…"),
                _ => write!(text, " [{group}]…"),
            };
        }
    }
    letters(tail, &mut text);
    text
}

fn letters(letters: &str, text: &mut String) {
    for letter in letters.chars() {
        text.push_str(match letter {
            'k' | 'm' | 'h' => " key",
            'n' => " n",
            'w' => " word",
            'S' => " name",
            '#' => " n key…",
            'P' => " n [key ?]…",
            'O' => " [options]",
            'X' => " [options] STREAMS key… ?…",
            _ => " ?",
        });
    }
}
