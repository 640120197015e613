//! Several servers and users: what is redirected, replicated or not allowed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tests::client::{Redis, Reply};
use tests::coverage::{self, Kind};
use tests::process::{eventually, output, python};
use tests::server::{Server, free_port};
use tests::statistics::{Counts, Statistics};
use tests::topology::{
    Cluster, check_errors, cluster_node, commands, complete, done, refused, replica, synchronized,
    text, watch,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// What all nodes have counted.
fn counted(cluster: &Cluster) -> Result<Statistics> {
    (0..cluster.nodes.len()).try_fold(Statistics::default(), |sum, node| {
        Ok(sum.plus(&Statistics::of(&mut cluster.connect(node)?)?))
    })
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
    let before = counted(&cluster)?;
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
    let mut statistics = counted(&cluster)?.since(&before)?;
    let report = observer.stop()?;

    let codes = check_errors(&report)?;
    assert_eq!(codes, statistics.codes);
    assert_eq!(codes["MOVED"], 3, "{codes:?}");
    // For the observer a redirected command has not failed.
    statistics.remove("GET", Counts::new(0, 1))?;
    statistics.remove("SET", Counts::new(0, 2))?;
    statistics.compare(&report.summary)?;
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
    let before = counted(&cluster)?;
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
    let mut statistics = counted(&cluster)?.since(&before)?;
    let report = observer.stop()?;
    let codes = check_errors(&report)?;
    assert_eq!(codes, statistics.codes);
    assert!(codes.contains_key("MOVED"), "{codes:?}");
    // For the observer a redirected command has not failed.
    statistics.remove("GET", Counts::new(0, codes["MOVED"]))?;
    statistics.compare(&report.summary)?;
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
    let before = counted(&cluster)?;
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
    let mut statistics = counted(&cluster)?.since(&before)?;
    let report = observer.stop()?;

    let codes = check_errors(&report)?;
    assert_eq!(codes, statistics.codes);
    assert_eq!(
        (codes["ASK"], codes["MOVED"], codes["TRYAGAIN"]),
        (2, 1, 2),
        "{codes:?}"
    );
    // For the observer a redirected command has not failed.
    statistics.remove("GET", Counts::new(0, 3))?;
    statistics.compare(&report.summary)?;
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
    let statistics = Statistics::of(&mut redis)?;
    let report = observer.stop()?;
    let codes = check_errors(&report)?;
    assert_eq!(codes, statistics.codes);
    assert_eq!(codes, BTreeMap::from([("CLUSTERDOWN".to_owned(), 2)]));
    statistics.compare(&report.summary)
}

/// Commands of replication itself.
const LINK: [&str; 3] = ["REPLCONF", "PSYNC", "SYNC"];

/// Writes that a replica gets from its master below.
const WRITES: [(&str, u64); 5] = [
    ("SET", 301),
    ("INCR", 300),
    ("LPUSH", 1),
    ("MULTI", 1),
    ("EXEC", 1),
];

/// Writes to the master until the replica has it, and compares.
fn replicate(master: &Server, follower: &Server, before: bool) -> Result<()> {
    let mut source = Redis::connect(("127.0.0.1", master.port))?;
    let mut copy = Redis::connect(("127.0.0.1", follower.port))?;
    let ports = [master.port, follower.port];
    done(&mut source, &[&["AUTH", "password"]])?;
    if before {
        // The link is there when it is first looked at.
        synchronized(&mut copy)?;
    } else {
        done(&mut copy, &[&["REPLICAOF", "NO", "ONE"]])?;
    }
    let earlier = [Statistics::of(&mut source)?, Statistics::of(&mut copy)?];
    let observer = watch(&ports)?;
    if !before {
        done(
            &mut copy,
            &[&["REPLICAOF", "127.0.0.1", &master.port.to_string()]],
        )?;
        synchronized(&mut copy)?;
    }
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
        Ok(copy.command(&["LLEN", "list"])? == Reply::Integer(1))
    })?;
    refused(&mut copy, "READONLY", &["SET", "key:1", "other"])?;
    // The link says that it is alive once a second.
    std::thread::sleep(Duration::from_millis(2_500));
    let mut of_master = Statistics::of(&mut source)?.since(&earlier[0])?;
    let mut of_copy = Statistics::of(&mut copy)?.since(&earlier[1])?;
    let report = observer.stop()?;

    for name in LINK {
        of_master.commands.remove(name);
    }
    // What the link brings, which is no client's.
    for (name, count) in WRITES {
        of_copy.remove(name, Counts::new(count, 0))?;
    }
    for name in ["PING", "SELECT", "REPLCONF"] {
        of_copy.commands.remove(name);
    }
    of_master.compare_spans(&report, master.port)?;
    of_copy.compare_spans(&report, follower.port)?;
    let all = of_master.plus(&of_copy);
    all.compare(&report.summary)?;
    for operation in LINK {
        assert_eq!(
            report.summary.of("redis", operation, "count"),
            0,
            "{}",
            report.summary.0
        );
    }
    // NOAUTH is the master's answer to the replica's first PING.
    assert_eq!(check_errors(&report)?, all.codes);
    assert_eq!(all.codes["READONLY"], 1, "{:?}", all.codes);
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
    let statistics = Statistics::of(&mut redis)?;
    let report = observer.stop()?;
    assert_eq!(check_errors(&report)?, statistics.codes);
    // What was queued and never ran is no operation: the server does not count it as a call either.
    statistics.compare(&report.summary)?;
    complete(&report.summary)
}
