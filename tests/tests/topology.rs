//! Several servers and users: what is redirected, replicated or not allowed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tests::client::{Redis, Reply};
use tests::coverage::{self, Kind};
use tests::process::{eventually, output, python};
use tests::server::{Server, free_port};
use tests::topology::{
    Cluster, attempts, check_errors, cluster_node, commands, complete, done, errors, refused,
    replica, synchronized, text, watch,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Counts of several servers, added up.
fn added(counts: impl IntoIterator<Item = BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (name, count) in counts.into_iter().flatten() {
        *sum.entry(name).or_insert(0) += count;
    }
    sum
}

/// What all nodes have counted: attempts, errors.
fn counted(cluster: &Cluster) -> Result<[BTreeMap<String, u64>; 2]> {
    let (mut asked, mut failed) = (Vec::new(), Vec::new());
    for node in 0..cluster.nodes.len() {
        let mut redis = cluster.connect(node)?;
        asked.push(attempts(&mut redis)?);
        failed.push(errors(&mut redis)?);
    }
    let mut asked = added(asked);
    // What made the servers forget, before anything was observed.
    asked.remove("CONFIG");
    Ok([asked, added(failed)])
}

/// Forgets what was counted so far.
fn reset(cluster: &Cluster) -> Result<()> {
    for node in 0..cluster.nodes.len() {
        done(&mut cluster.connect(node)?, &[&["CONFIG", "RESETSTAT"]])?;
    }
    Ok(())
}

#[test]
fn a_cluster_redirects() -> Result<()> {
    let cluster = Cluster::start()?;
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.port).collect();
    // One key of each node.
    let keys = [
        "key:1", "key:2", "key:3", "key:4", "key:5", "key:6", "key:7", "key:8",
    ];
    let of = |node: usize| -> Result<&str> {
        for key in keys {
            if cluster.owner(key)? == node {
                return Ok(key);
            }
        }
        bail!("no key of node {node}")
    };
    let own = [of(0)?, of(1)?, of(2)?];
    reset(&cluster)?;
    let observer = watch(&ports)?;

    let port = ports[0].to_string();
    let cli = |words: &[&str]| output("redis-cli", ["-p", &port].iter().chain(words));
    let moved = cli(&["get", own[1]])?;
    ensure!(moved.starts_with("MOVED"), "{moved}");
    let followed = cli(&["-c", "set", own[2], "value"])?;
    ensure!(followed.trim() == "OK", "{followed}");
    let mut first = cluster.connect(0)?;
    refused(&mut first, "MOVED", &["SET", own[1], "value"])?;
    refused(&mut first, "CROSSSLOT", &["MGET", own[0], own[1]])?;
    done(&mut first, &[&["SET", own[0], "value"]])?;
    let [asked, failed] = counted(&cluster)?;
    let report = observer.stop()?;

    let codes = check_errors(&report)?;
    assert_eq!(codes, failed);
    assert_eq!(codes["MOVED"], 3, "{codes:?}");
    assert_eq!(report.summary.redis_calls(), asked, "{}", report.summary.0);
    complete(&report.summary)?;
    for (key, node) in [(own[1], 1), (own[2], 2)] {
        let redirects = commands(&report).filter(|span| {
            span["attributes"]["cache.key"] == key
                && !span["attributes"]["cache.redirect"].is_null()
        });
        let targets: Vec<_> = redirects
            .map(|span| &span["attributes"]["cache.redirect"])
            .collect();
        assert!(!targets.is_empty());
        for target in targets {
            assert_eq!(*target, cluster.address(node), "{key}");
        }
    }
    assert_eq!(report.summary.of("redis", "SET", "errors"), 0);
    assert_eq!(report.summary.of("redis", "GET", "errors"), 0);
    coverage::note(Kind::Client, "redis-cli -c")
}

#[test]
fn a_cluster_client_library() -> Result<()> {
    let cluster = Cluster::start()?;
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.port).collect();
    reset(&cluster)?;
    let observer = watch(&ports)?;
    let script = "
import sys
from redis.cluster import RedisCluster
r = RedisCluster(host='127.0.0.1', port=int(sys.argv[1]))
for i in range(100):
    r.set(f'k{i}', 'x' * (i + 1))
    assert len(r.get(f'k{i}')) == i + 1
    assert r.get(f'absent{i}') is None
p = r.pipeline()
for i in range(50):
    p.get(f'k{i}')
assert all(p.execute())
# A table of slots that is wrong: the server corrects it.
slots = r.nodes_manager.slots_cache
slots[r.keyslot('k1')] = slots[(r.keyslot('k1') + 8192) % 16384]
assert r.get('k1') == b'xx'
assert r.mget_nonatomic('k1', 'k2', 'absent') == [b'xx', b'xxx', None]
";
    output(python(), ["-c", script, &ports[0].to_string()])?;
    let [asked, failed] = counted(&cluster)?;
    let report = observer.stop()?;
    let codes = check_errors(&report)?;
    assert_eq!(codes, failed);
    assert!(codes.contains_key("MOVED"), "{codes:?}");
    assert_eq!(report.summary.redis_calls(), asked, "{}", report.summary.0);
    assert_eq!(report.summary.of("redis", "SET", "count"), 100);
    assert_eq!(report.summary.of("redis", "GET", "misses"), 100);
    complete(&report.summary)?;
    coverage::note(Kind::Client, "redis-py cluster")
}

#[test]
fn a_slot_that_moves() -> Result<()> {
    let cluster = Cluster::start()?;
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.port).collect();
    let slot = cluster.slot("{tag}a")?.to_string();
    let from = cluster.owner("{tag}a")?;
    let to = (from + 1) % 3;
    let (mut source, mut target) = (cluster.connect(from)?, cluster.connect(to)?);
    let ids = [
        text(&mut source, &["CLUSTER", "MYID"])?,
        text(&mut target, &["CLUSTER", "MYID"])?,
    ];
    reset(&cluster)?;
    let observer = watch(&ports)?;

    done(
        &mut source,
        &[&["SET", "{tag}a", "value"], &["SET", "{tag}b", "value"]],
    )?;
    done(
        &mut target,
        &[&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]],
    )?;
    done(
        &mut source,
        &[&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]],
    )?;
    refused(&mut source, "ASK", &["GET", "{tag}absent"])?;
    refused(&mut target, "MOVED", &["GET", "{tag}absent"])?;
    done(
        &mut target,
        &[&["ASKING"], &["SET", "{tag}absent", "value"]],
    )?;
    refused(&mut source, "TRYAGAIN", &["MGET", "{tag}a", "{tag}absent"])?;
    done(&mut target, &[&["ASKING"]])?;
    refused(&mut target, "TRYAGAIN", &["MGET", "{tag}a", "{tag}absent"])?;
    let port = ports[from].to_string();
    let followed = output("redis-cli", ["-c", "-p", &port, "get", "{tag}absent"])?;
    ensure!(followed.trim() == "value", "{followed}");
    // The source is a client of the target here.
    let port = ports[to].to_string();
    let migrate = [
        "MIGRATE",
        "127.0.0.1",
        &port,
        "",
        "0",
        "5000",
        "KEYS",
        "{tag}a",
        "{tag}b",
    ];
    done(&mut source, &[&migrate])?;
    for redis in [&mut target, &mut source] {
        done(redis, &[&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]])?;
    }
    done(&mut target, &[&["MGET", "{tag}a", "{tag}b", "{tag}absent"]])?;
    let [asked, failed] = counted(&cluster)?;
    let report = observer.stop()?;

    let codes = check_errors(&report)?;
    assert_eq!(codes, failed);
    assert_eq!(
        (codes["ASK"], codes["MOVED"], codes["TRYAGAIN"]),
        (2, 1, 2),
        "{codes:?}"
    );
    assert_eq!(report.summary.redis_calls(), asked, "{}", report.summary.0);
    complete(&report.summary)?;
    for span in commands(&report) {
        let attributes = &span["attributes"];
        match attributes["db.response.status_code"].as_str() {
            Some("ASK") => assert_eq!(attributes["cache.redirect"], cluster.address(to), "{span}"),
            Some("MOVED") => assert_eq!(
                attributes["cache.redirect"],
                cluster.address(from),
                "{span}"
            ),
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn a_cluster_that_is_down() -> Result<()> {
    let server = cluster_node(free_port()?, free_port()?)?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let observer = watch(&[server.port])?;
    refused(&mut redis, "CLUSTERDOWN", &["GET", "key"])?;
    refused(&mut redis, "CLUSTERDOWN", &["SET", "key", "value"])?;
    let (asked, failed) = (attempts(&mut redis)?, errors(&mut redis)?);
    let report = observer.stop()?;
    assert_eq!(check_errors(&report)?, failed);
    assert_eq!(failed, BTreeMap::from([("CLUSTERDOWN".to_owned(), 2)]));
    assert_eq!(report.summary.redis_calls(), asked);
    Ok(())
}

/// Commands of replication itself.
const LINK: [&str; 3] = ["REPLCONF", "PSYNC", "SYNC"];

/// Writes to the master until the replica has it, and compares.
fn replicate(master: &Server, follower: &Server, before: bool) -> Result<()> {
    let mut source = Redis::connect(("127.0.0.1", master.port))?;
    let mut copy = Redis::connect(("127.0.0.1", follower.port))?;
    let ports = [master.port, follower.port];
    done(&mut source, &[&["AUTH", "password"]])?;
    let observer = if before {
        // The link is there when it is first looked at.
        synchronized(&mut copy)?;
        done(&mut source, &[&["CONFIG", "RESETSTAT"]])?;
        watch(&ports)?
    } else {
        done(&mut copy, &[&["REPLICAOF", "NO", "ONE"]])?;
        done(&mut source, &[&["CONFIG", "RESETSTAT"]])?;
        let observer = watch(&ports)?;
        done(
            &mut copy,
            &[&["REPLICAOF", "127.0.0.1", &master.port.to_string()]],
        )?;
        synchronized(&mut copy)?;
        observer
    };
    let mut own = 0;
    for number in 0..300 {
        let key = format!("key:{number}");
        done(
            &mut source,
            &[
                &["SET", &key, "value"],
                &["INCR", "counter"],
                &["SELECT", "0"],
            ],
        )?;
    }
    done(
        &mut source,
        &[
            &["MULTI"],
            &["SET", "a", "1"],
            &["LPUSH", "list", "1"],
            &["EXEC"],
        ],
    )?;
    let acknowledged = source.command(&["WAIT", "1", "20000"])?;
    ensure!(acknowledged == Reply::Integer(1), "{acknowledged:?}");
    eventually(PATIENCE, "the replica has the last write", || {
        own += 1;
        Ok(copy.command(&["LLEN", "list"])? == Reply::Integer(1))
    })?;
    refused(&mut copy, "READONLY", &["SET", "key:1", "other"])?;
    // The link says that it is alive once a second.
    std::thread::sleep(Duration::from_millis(2_500));
    let mut asked = attempts(&mut source)?;
    // NOAUTH is the master's answer to the replica's first PING.
    let failed = added([errors(&mut source)?, errors(&mut copy)?]);
    let report = observer.stop()?;

    // CONFIG made the master forget, before anything was observed.
    asked.retain(|name, _| name != "CONFIG" && !LINK.contains(&name.as_str()));
    let of_port = |port: u16| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for span in commands(&report).filter(|span| span["attributes"]["server.port"] == port) {
            let name = span["attributes"]["db.operation.name"]
                .as_str()
                .unwrap_or_default();
            *counts.entry(name.to_owned()).or_insert(0) += 1;
        }
        counts.retain(|name, _| !matches!(name.as_str(), "INFO" | "CLIENT"));
        counts
    };
    assert_eq!(of_port(master.port), asked, "{}", report.summary.0);
    let mut wanted = BTreeMap::from([("LLEN".to_owned(), own), ("SET".to_owned(), 1)]);
    if !before {
        wanted.insert("REPLICAOF".to_owned(), 1);
    }
    assert_eq!(of_port(follower.port), wanted, "{}", report.summary.0);
    let mut all = added([asked, wanted]);
    all.retain(|_, count| *count > 0);
    assert_eq!(report.summary.redis_calls(), all, "{}", report.summary.0);
    for operation in LINK {
        assert_eq!(
            report.summary.of("redis", operation, "count"),
            0,
            "{}",
            report.summary.0
        );
    }
    assert_eq!(check_errors(&report)?, failed);
    assert_eq!(failed["READONLY"], 1, "{failed:?}");
    assert_eq!(report.of("WAIT")[0]["attributes"]["cache.blocking"], true);
    for total in ["unanswered", "orphaned_replies"] {
        assert_eq!(
            report.summary.total(total),
            0,
            "{total} in {}",
            report.summary.0
        );
    }
    Ok(())
}

/// A master with a password, and its replica.
fn pair() -> Result<(Server, Server)> {
    let options = [
        "--requirepass",
        "password",
        "--repl-ping-replica-period",
        "1",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let master = Server::redis_on(free_port()?, &options)?;
    let follower = replica(&master, &["--masterauth", "password"])?;
    Ok((master, follower))
}

#[test]
fn a_replica_is_no_client() -> Result<()> {
    let (master, follower) = pair()?;
    replicate(&master, &follower, false)
}

#[test]
fn a_replica_that_was_there_before() -> Result<()> {
    let (master, follower) = pair()?;
    replicate(&master, &follower, true)
}

#[test]
fn users_and_what_they_may() -> Result<()> {
    let server = Server::redis_on(free_port()?, &["--requirepass", "password"])?;
    let address = ("127.0.0.1", server.port);
    let observer = watch(&[server.port])?;
    let mut redis = Redis::connect(address)?;
    refused(&mut redis, "NOAUTH", &["GET", "key"])?;
    refused(&mut redis, "NOAUTH", &["SET", "key", "value"])?;
    refused(&mut redis, "WRONGPASS", &["AUTH", "wrong"])?;
    refused(&mut redis, "WRONGPASS", &["AUTH", "nobody", "password"])?;
    refused(
        &mut redis,
        "WRONGPASS",
        &["HELLO", "2", "AUTH", "nobody", "password"],
    )?;
    refused(&mut redis, "NOPROTO", &["HELLO", "9"])?;
    done(
        &mut redis,
        &[
            &["AUTH", "password"],
            &["SET", "a:1", "value"],
            &[
                "ACL", "SETUSER", "bob", "on", ">secret", "~a:*", "+get", "+multi", "+exec",
            ],
            &["AUTH", "bob", "secret"],
            &["GET", "a:1"],
        ],
    )?;
    refused(&mut redis, "NOPERM", &["SET", "a:1", "other"])?;
    refused(&mut redis, "NOPERM", &["GET", "b:1"])?;
    done(&mut redis, &[&["MULTI"], &["GET", "a:1"]])?;
    refused(&mut redis, "NOPERM", &["SET", "a:1", "other"])?;
    refused(&mut redis, "EXECABORT", &["EXEC"])?;
    done(&mut redis, &[&["AUTH", "default", "password"]])?;
    let (mut asked, failed) = (attempts(&mut redis)?, errors(&mut redis)?);
    let report = observer.stop()?;
    assert_eq!(check_errors(&report)?, failed);
    // What was queued and never ran is no operation: the server does not count it as a call either.
    asked.retain(|_, count| *count > 0);
    assert_eq!(report.summary.redis_calls(), asked, "{}", report.summary.0);
    complete(&report.summary)?;
    Ok(())
}
