//! The keys of every command, as real servers name them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::client::{Redis, Reply};
use tests::commands;
use tests::coverage::{Kind, note};
use tests::observer::Options;
use tests::random::Random;
use tests::server::{Module, Server};

/// Calls of each command. Its options and alternatives come in many combinations.
const CALLS: usize = 40;

/// Commands of modules that do not tell the server all of their keys, or call something a key that is none.
const EXCEPTIONS: [(&str, &str); 5] = [
    ("CMS.MERGE", "the module declares its destination only"),
    ("TDIGEST.MERGE", "the module declares its destination only"),
    ("JSON.MGET", "2.8.3 declares its first key only"),
    ("JSON.MSET", "2.8.3 declares its first key only"),
    ("GRAPH.INFO", "its argument is a section: no graph is named"),
];

/// What replicas send, which the observer leaves out: it is no traffic of a client. None names a key.
const REPLICATION: [&str; 3] = ["PSYNC", "REPLCONF", "SYNC"];

/// A call, and its keys where the server tells.
struct Case {
    call: Vec<String>,
    keys: Option<Vec<String>>,
    /// Words of the command's name.
    name: usize,
    for_all: bool,
}

#[test]
fn keys_as_redis_7_names_them() -> Result<()> {
    compare(&Server::redis()?)
}

#[test]
fn keys_as_redis_8_and_modules_name_them() -> Result<()> {
    compare(&Server::redis_8(&Module::ALL, &[])?)
}

#[test]
fn no_keys_as_sentinel_names_none() -> Result<()> {
    compare(&Server::sentinel()?)
}

/// Each call is refused, so that none runs, but is seen with its keys.
fn compare(server: &Server) -> Result<()> {
    let address = ("127.0.0.1", server.port);
    let mut admin = Redis::connect(address)?;
    let mut random = Random::new(7);
    let (mut cases, mut untold) = (Vec::new(), BTreeSet::new());
    let commands = commands::all(&mut admin)?;
    for command in &commands {
        let mut told = false;
        for _ in 0..CALLS {
            let call = command.call(&mut random);
            let keys = keys(&mut admin, &call)?;
            told |= keys.is_some();
            cases.push(Case {
                call,
                keys,
                name: command.words.len(),
                for_all: command.for_all,
            });
        }
        let container = |of: &commands::Command| {
            of.words.len() > 1 && command.words.len() == 1 && of.words[0] == command.words[0]
        };
        if !told && !commands.iter().any(container) {
            untold.insert(command.name());
        }
        note(Kind::Command, &command.name())?;
    }
    // GETKEYS cannot tell of a call with too few arguments; other calls are among the many.
    ensure!(untold.is_empty(), "never told: {untold:?}");
    let user = [
        "ACL", "SETUSER", "nobody", "on", "nopass", "~*", "&*", "-@all",
    ];
    ensure!(admin.command(&user)? == Reply::Status("OK".to_owned()));

    let observer = Options::new()
        .redis(server.port)
        // Commands come faster than their spans are written.
        .variable("OTEL_BSP_MAX_QUEUE_SIZE", "100000")
        .start()?;
    let mut nobody = login(address)?;
    let mut sent = vec![None];
    for case in &cases {
        let name = case.call.join(" ");
        if case.for_all {
            // These run: RESET would give the connection its rights back, QUIT ends it.
            login(address)?.command(&case.call)?;
            sent.push(None);
        } else if name.starts_with("MULTI") || name.starts_with("CLIENT REPLY") {
            // What they would do to their connection ends with it, in case the observer takes them for obeyed.
            login(address)?.command(&case.call)?;
            sent.push(None);
        } else {
            let reply = nobody.command(&case.call)?;
            ensure!(matches!(reply, Reply::Error(_)), "{name}: {reply:?}");
            if REPLICATION.contains(&case.call[0].as_str()) {
                ensure!(case.keys.as_ref().is_none_or(Vec::is_empty), "{name}");
                continue;
            }
        }
        sent.push(Some(case));
    }
    let report = observer.stop()?;
    ensure!(
        report.spans.len() == sent.len(),
        "{} spans of {} commands\n{}",
        report.spans.len(),
        sent.len(),
        report.log
    );
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (span, case) in report.spans.iter().zip(sent) {
        let operation = span["attributes"]["db.operation.name"].as_str();
        let name = case.map_or("AUTH", |case| case.call[0].as_str());
        ensure!(
            operation.and_then(|operation| operation.split(' ').next()) == Some(name),
            "{name} is seen as {span}"
        );
        if let Some(case) = case {
            shown(span, case)?;
        }
        let Some((case, keys)) = case.and_then(|case| Some((case, case.keys.as_ref()?))) else {
            continue;
        };
        if EXCEPTIONS.iter().any(|(exception, _)| *exception == name) {
            continue;
        }
        compared += 1;
        if seen(span)? != *keys {
            wrong.push(format!("{:?}: {:?}, not {keys:?}", case.call, seen(span)?));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    ensure!(compared > cases.len() / 2, "only {compared} compared");
    eprintln!("{compared} of {} calls compared", cases.len());
    Ok(())
}

/// Of the arguments, the text of a span shows keys and known words: subcommands at least, and no other word of a call.
fn shown(span: &Value, case: &Case) -> Result<()> {
    let text = span["attributes"]["db.query.text"].as_str();
    let text = text.context("a text")?;
    let mut words = text.split(' ');
    for known in &case.call[..case.name] {
        ensure!(words.next() == Some(known.as_str()), "{known} in {span}");
    }
    let keys = seen(span)?;
    let procedure = &span["attributes"]["db.stored_procedure.name"];
    for word in words.filter(|word| word.starts_with("word")) {
        ensure!(
            procedure == word || keys.iter().any(|key| key == word),
            "{word} of {:?} in {span}",
            case.call
        );
    }
    Ok(())
}

/// A connection of the user who may run nothing.
fn login(address: (&str, u16)) -> Result<Redis> {
    let mut redis = Redis::connect(address)?;
    ensure!(redis.command(&["AUTH", "nobody", "any"])? == Reply::Status("OK".to_owned()));
    Ok(redis)
}

/// COMMAND GETKEYS, in the order of names; `None` where it cannot tell.
fn keys(admin: &mut Redis, call: &[String]) -> Result<Option<Vec<String>>> {
    if call.len() == 1 {
        // Redis 7.0 takes no such question.
        return Ok(Some(Vec::new()));
    }
    let mut question = vec!["COMMAND".to_owned(), "GETKEYS".to_owned()];
    question.extend(call.iter().cloned());
    match admin.command(&question)? {
        Reply::Array(keys) => {
            let mut names = Vec::new();
            for key in keys {
                let Reply::Bulk(Some(key)) = key else {
                    bail!("not a key: {key:?}");
                };
                names.push(String::from_utf8(key)?);
            }
            names.sort();
            Ok(Some(names))
        }
        Reply::Error(text) if text == "ERR The command has no key arguments" => {
            Ok(Some(Vec::new()))
        }
        Reply::Error(text) if text.starts_with("ERR Invalid ") => Ok(None),
        other => bail!("{call:?}: {other:?}"),
    }
}

/// The keys of a span, in the order of names.
fn seen(span: &Value) -> Result<Vec<String>> {
    let attributes = &span["attributes"];
    let mut keys: Vec<String> = match &attributes["cache.key"] {
        Value::Null => Vec::new(),
        Value::String(key) => vec![key.clone()],
        several => serde_json::from_value(several.clone())?,
    };
    if keys.len() > 1 {
        let count = attributes["cache.key_count"].as_u64().context("a count")?;
        ensure!(count == keys.len() as u64, "{span}");
    }
    keys.sort();
    Ok(keys)
}
