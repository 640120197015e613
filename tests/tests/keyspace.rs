//! Hits and misses, command by command, as real servers count them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::{Redis, Reply};
use tests::coverage::{Kind, note};
use tests::observer::Options;
use tests::random::Random;
use tests::server::{Module, Server};
use tests::statistics::Statistics;

/// Reads, each many times. A type stands for a key of it, `any` for a key of any.
const READS: [&str; 34] = [
    "GET string",
    "SET string new GET",
    "SET string new XX GET",
    "SET string new NX GET",
    "GETSET string new",
    "GETDEL string",
    "GETEX string",
    "GETEX string EX 100",
    "MGET string string string",
    "EXISTS any",
    "EXISTS any any any",
    "TOUCH any any",
    "TYPE any",
    "DUMP any",
    "TTL any",
    "PTTL any",
    "EXPIRETIME any",
    "PEXPIRETIME any",
    "HGETALL hash",
    "HKEYS hash",
    "HVALS hash",
    "HLEN hash",
    "HRANDFIELD hash",
    "HRANDFIELD hash 2",
    "LRANGE list 0 -1",
    "LLEN list",
    "SMEMBERS set",
    "SCARD set",
    "SRANDMEMBER set",
    "ZCARD zset",
    "ZRANGE zset 0 1",
    "ZREVRANGE zset -2 -1",
    "ZRANDMEMBER zset",
    "ZRANDMEMBER zset 3",
];

/// What Redis 8 has more.
const READS_8: [&str; 6] = [
    "JSON.GET json",
    "JSON.GET json $.none",
    "JSON.MGET json json $",
    "VCARD vectors",
    "VRANDMEMBER vectors",
    "VRANDMEMBER vectors 2",
];

/// In the document, but in none of these servers.
const NEWER: [&str; 1] = ["DIGEST"];

/// How a type comes to be.
type Write = (&'static str, &'static str);

const WRITES: [Write; 5] = [
    ("string", "SET string value"),
    ("hash", "HSET hash field value other value"),
    ("list", "RPUSH list one two"),
    ("set", "SADD set one two"),
    ("zset", "ZADD zset 1 one 2 two"),
];
const WRITES_8: [Write; 2] = [
    ("json", "JSON.SET json $ 1"),
    ("vectors", "VADD vectors VALUES 2 1 1 element"),
];

#[test]
fn hits_as_redis_7_counts() -> Result<()> {
    compare(&Server::redis()?, &READS, &WRITES)
}

#[test]
fn hits_as_redis_8_counts() -> Result<()> {
    let server = Server::redis_8(&[Module::Json], &[])?;
    let reads = [&READS[..], &READS_8].concat();
    compare(&server, &reads, &[&WRITES[..], &WRITES_8].concat())
}

#[test]
fn each_command_of_the_document_is_compared() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/redis-commands.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let list = text
        .split_once("a test compares both:\n\n")
        .and_then(|(_, rest)| rest.split_once(".\n"))
        .context("a list of commands")?
        .0;
    let documented: BTreeSet<_> = list
        .split(',')
        .map(|name| name.trim().trim_matches('`'))
        .collect();
    let names = READS
        .iter()
        .chain(&READS_8)
        .filter_map(|read| read.split(' ').next());
    let compared: BTreeSet<_> = names.chain(NEWER).collect();
    ensure!(
        documented == compared,
        "{documented:?} are not {compared:?}"
    );
    Ok(())
}

/// Existing, absent and expired keys of each type, in any order.
fn compare(server: &Server, reads: &[&str], writes: &[Write]) -> Result<()> {
    let observer = Options::new().redis(server.port).traces("none").start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let mut random = Random::new(9);
    let mut counted = BTreeMap::<String, (u64, u64)>::new();
    for _ in 0..1200 {
        let (kind, write) = random.pick(writes);
        let name = key(kind, &mut random);
        match random.below(4) {
            0 => drop(run(&mut redis, &["DEL".to_owned(), name])?),
            1 => {
                run(&mut redis, &["PEXPIRE".to_owned(), name, "1".to_owned()])?;
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => {
                // What it would add to may be there.
                let words = write.split(' ');
                let words = words.map(|word| if word == *kind { &name } else { word });
                let words: Vec<_> = words.map(str::to_owned).collect();
                run(&mut redis, &words)?;
            }
        }
        for _ in 0..3 {
            let read = random.pick(reads);
            let words: Vec<_> = read
                .split(' ')
                .map(|word| match word {
                    "any" => key(random.pick(writes).0, &mut random),
                    word if writes.iter().any(|(kind, _)| *kind == word) => key(word, &mut random),
                    word => word.to_owned(),
                })
                .collect();
            let before = Statistics::keyspace(&mut redis)?;
            run(&mut redis, &words)?;
            let after = Statistics::keyspace(&mut redis)?;
            let entry = counted.entry(words[0].clone()).or_default();
            entry.0 += after.hits - before.hits;
            entry.1 += after.misses - before.misses;
        }
    }
    let report = observer.stop()?;
    for (name, (hits, misses)) in counted {
        let seen = ["hits", "misses"].map(|number| report.summary.of("redis", &name, number));
        ensure!(
            seen == [hits, misses],
            "{name}: {hits} and {misses}, seen {seen:?}"
        );
        ensure!(hits > 0 && misses > 0, "{name}: {hits} and {misses}");
        note(Kind::Command, &name)?;
    }
    Ok(())
}

/// A key of this type, if it is there.
fn key(kind: &str, random: &mut Random) -> String {
    format!("{kind}:{}", random.below(6))
}

fn run(redis: &mut Redis, words: &[String]) -> Result<()> {
    let reply = redis.command(words)?;
    ensure!(!matches!(reply, Reply::Error(_)), "{words:?}: {reply:?}");
    Ok(())
}
