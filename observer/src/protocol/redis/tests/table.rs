//! The command table: keys as servers name them, rules that depend on arguments, the index.

use super::super::super::message::*;
use super::super::*;
use super::requests::{request, words};

/// Whether a range or a count tells is decided by the request.
#[test]
fn rules_that_depend_on_arguments() {
    for (line, hit_rule) in [
        ("LRANGE l 0 -1", HitRule::Empty),
        ("LRANGE l 0 9", HitRule::Empty),
        ("LRANGE l -3 -1", HitRule::Empty),
        ("LRANGE l 0 -2", HitRule::None),
        ("LRANGE l 10 20", HitRule::None),
        ("LRANGE l -3 5", HitRule::None),
        ("LRANGE l x -1", HitRule::None),
        ("ZRANGE z 0 -1 WITHSCORES", HitRule::Empty),
        ("ZRANGE z 0 -1 BYSCORE", HitRule::None),
        ("ZRANGE z 0 9 BYLEX", HitRule::None),
        ("ZRANGEBYSCORE z 0 9", HitRule::None),
        ("SRANDMEMBER s", HitRule::Empty),
        ("SRANDMEMBER s 3", HitRule::Empty),
        ("SRANDMEMBER s 0", HitRule::None),
        ("HRANDFIELD h 0", HitRule::None),
        ("TYPE k", HitRule::Type),
        ("LPOS l a COUNT 0", HitRule::Empty),
        ("LLEN l", HitRule::Count { asked: 1 }),
        ("STRLEN k", HitRule::None),
        ("SET k v NX GET", HitRule::Null),
        ("JSON.MGET a b $", HitRule::NullElements { asked: 2 }),
        ("BF.MEXISTS b x y", HitRule::ZeroElements { asked: 2 }),
        ("GEOPOS g a b", HitRule::NullElements { asked: 2 }),
    ] {
        assert_eq!(request(&words(line)).hit_rule, hit_rule, "{line}");
    }
}

/// COMMAND of real servers: name, first key, last key, step. The table finds the same keys in `name a b c d e …`.
#[test]
fn key_positions_agree_with_servers() {
    key_positions_agree_with(include_str!("../commands_7.0.txt"));
    key_positions_agree_with(include_str!("../commands_8.2.txt"));
}

fn key_positions_agree_with(shapes: &str) {
    let mut checked = 0;
    for line in shapes.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split_whitespace();
        let name = columns.next().unwrap();
        let number = |text: &str| text.parse::<i64>().unwrap();
        let (arity, first, last, step) = (
            number(columns.next().unwrap()),
            number(columns.next().unwrap()),
            number(columns.next().unwrap()),
            number(columns.next().unwrap()),
        );
        assert!(
            commands::find(name.as_bytes()).is_some(),
            "{name} is not in the table"
        );
        // Channels are no keys here.
        if first == 0 || matches!(name, "SPUBLISH" | "SSUBSCRIBE" | "SUNSUBSCRIBE") {
            continue;
        }
        // These modules do not name all keys, or one that is none: see modules.rs, and the live test against COMMAND GETKEYS.
        if matches!(
            name,
            "JSON.MGET" | "JSON.MSET" | "CMS.MERGE" | "TDIGEST.MERGE" | "GRAPH.INFO"
        ) {
            continue;
        }
        let count = if arity > 0 {
            arity
        } else {
            (2 - arity - i64::from(arity % 2 != 0)).max(last + 1)
        };
        let arguments: Vec<String> = (1..count).map(|index| format!("arg{index}")).collect();
        let last = if last < 0 { count + last } else { last };
        let expected = (first..=last)
            .step_by(usize::try_from(step).unwrap())
            .map(|i| format!("arg{i}"));
        let request = request(&words(&format!("{name} {}", arguments.join(" "))));
        assert_eq!(
            request.detail.unwrap().keys,
            expected.collect::<Vec<_>>(),
            "{name}"
        );
        checked += 1;
    }
    assert!(checked > 150, "{checked}");
}

#[test]
fn every_row_is_found_by_its_name() {
    for (row, command) in commands::COMMANDS.iter().enumerate() {
        let (index, found) = commands::find(command.name.to_ascii_lowercase().as_bytes()).unwrap();
        assert_eq!((usize::from(index), found.name), (row, command.name));
        assert_eq!(command.name, command.name.to_ascii_uppercase());
        assert!(command.name.len() <= MAX_NAME && command.name.len() <= Word::CAPACITY);
        // Sums past the kept arguments need a period that divides 6, and cannot tell a tail from it.
        assert!(
            [1, 2, 3].contains(&command.shape.cycle.len()),
            "{}",
            command.name
        );
        assert!(
            command.shape.tail.is_empty() || !command.shape.cycle.contains(&b'v'),
            "{}",
            command.name
        );
    }
    for name in [&b""[..], b"GETT", b"G", b"get ", b"\x27et", &[b'G'; 100]] {
        assert!(commands::find(name).is_none());
    }
}
