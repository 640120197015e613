//! Hits and misses, command by command, as real servers count them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::{Redis, Reply};
use tests::coverage::{Kind, note};
use tests::observer::Options;
use tests::process::{output, python};
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
        .split_once("which is newer:\n\n")
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

/// Hits, misses, and the command. Elements of collections, which the server does not count, and reads of which nothing
/// can be told.
const ELEMENTS: &str = "
0 0 HSET h f v g w
1 0 HGET h f
0 1 HGET h none
0 1 HGET none f
2 1 HMGET h f g none
0 2 HMGET none f g
1 0 HEXISTS h f
0 1 HEXISTS h none
0 0 HRANDFIELD h 0
1 0 HRANDFIELD h 1 WITHVALUES
0 1 HRANDFIELD none 1
0 0 HSTRLEN h none
1 1 HGETEX h FIELDS 2 f none
0 2 HGETEX none FIELDS 2 f g
1 1 HGETDEL h FIELDS 2 f none
0 0 HTTL h FIELDS 1 g
0 0 RPUSH l a b
1 0 LINDEX l -1
0 1 LINDEX l 2
0 1 LINDEX none 0
1 0 LPOS l a
0 1 LPOS l none
1 0 LPOS l a COUNT 0
0 1 LPOS l none COUNT 0
0 1 LPOS none a
1 0 LRANGE l 0 0
0 1 LRANGE none -2 -1
0 0 LRANGE l 5 9
0 0 LRANGE l 1 -1
0 0 LPOP none
0 0 SADD s a b
1 0 SISMEMBER s a
0 1 SISMEMBER s none
2 1 SMISMEMBER s a b none
0 2 SMISMEMBER none a b
0 0 SRANDMEMBER s 0
0 0 SPOP none
0 0 ZADD z 1 a 2 b
1 0 ZSCORE z a
0 1 ZSCORE z none
1 1 ZMSCORE z a none
0 1 ZMSCORE none a
1 0 ZRANK z a
0 1 ZRANK z none
1 0 ZREVRANK z a WITHSCORE
0 1 ZREVRANK z none WITHSCORE
0 0 ZRANGE z 0 9 BYSCORE
0 0 ZRANGE none 0 9 BYSCORE
0 0 ZRANGEBYSCORE none 0 9
0 0 ZCOUNT none 0 9
0 0 GEOADD geo 13.3 38.1 p 15.0 37.5 c
1 0 GEODIST geo p c
0 1 GEODIST geo p none
1 1 GEOPOS geo p none
0 1 GEOPOS none p
1 1 GEOHASH geo none c
0 0 GEOSEARCH none FROMLONLAT 15 37 BYRADIUS 1 km
0 0 XLEN none
0 0 XRANGE none - +
0 0 STRLEN none
0 0 GETBIT none 0
0 0 SET string v
0 0 SET string v NX
0 0 OBJECT ENCODING string
0 0 BF.ADD bf a
1 0 BF.EXISTS bf a
0 1 BF.EXISTS none a
1 1 BF.MEXISTS bf a none
0 2 BF.MEXISTS none a b
0 0 CF.ADD cf a
1 0 CF.EXISTS cf a
0 1 CF.EXISTS none a
1 1 CF.MEXISTS cf a none
0 0 TOPK.RESERVE topk 3
0 0 TOPK.ADD topk a
1 1 TOPK.QUERY topk a none
0 0 JSON.SET j $ 1
1 0 JSON.GET j
0 1 JSON.GET none
1 0 JSON.GET j $.none
1 1 JSON.MGET j none $
0 0 JSON.TYPE none
0 0 VADD v VALUES 2 1 1 a
1 0 VISMEMBER v a
0 1 VISMEMBER v none
0 1 VISMEMBER none a
1 0 VEMB v a
0 1 VEMB v none
0 1 VEMB none a
0 0 VSETATTR v a {}
1 0 VGETATTR v a
0 1 VGETATTR v none
1 0 VLINKS v a
0 1 VLINKS none a
1 0 VCARD v
0 1 VCARD none
0 1 VRANDMEMBER none
0 0 VRANDMEMBER v 0
0 0 VSIM none VALUES 2 1 1
";

#[test]
fn hits_of_elements() -> Result<()> {
    elements("2")
}

#[test]
fn hits_of_elements_in_resp3() -> Result<()> {
    elements("3")
}

/// Through a client library, which speaks both versions of the protocol.
fn elements(protocol: &str) -> Result<()> {
    let script = "
import sys, redis
r = redis.Redis(port=int(sys.argv[1]), protocol=int(sys.argv[2]))
r.response_callbacks.clear()
for line in sys.argv[3].split('\\n'):
    r.execute_command(*line.split(' ')[2:])
";
    let server = Server::redis_8(&[Module::Json, Module::Bloom], &[])?;
    let observer = Options::new().redis(server.port).traces("none").start()?;
    let port = server.port.to_string();
    output(
        python(),
        ["-c", script, &port, protocol, ELEMENTS.trim_matches('\n')],
    )?;
    let report = observer.stop()?;
    let mut wanted = BTreeMap::<&str, [u64; 3]>::new();
    for line in ELEMENTS.trim_matches('\n').lines() {
        let words: Vec<_> = line.split(' ').collect();
        let entry = wanted.entry(words[2]).or_default();
        entry[0] += 1;
        entry[1] += words[0].parse::<u64>()?;
        entry[2] += words[1].parse::<u64>()?;
    }
    let mut wrong = Vec::new();
    for (name, wanted) in wanted {
        let numbers = ["count", "hits", "misses", "errors"];
        let [count, hits, misses, errors] =
            numbers.map(|number| report.summary.of("redis", name, number));
        if [count, hits, misses] != wanted || errors > 0 {
            wrong.push(format!(
                "{name}: {count} {hits} {misses} {errors}, not {wanted:?}"
            ));
        }
        note(Kind::Command, name)?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(
        report.summary.total("resynchronizations") == 0,
        "{}",
        report.summary.0
    );
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
