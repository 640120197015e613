//! The configuration file: refusals, precedence, what it changes, and reading it again under traffic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;
use tests::client::Redis;
use tests::observer::{Observer, Options, binary, call, replay};
use tests::process::{Folder, eventually};
use tests::server::Server;

struct File {
    path: PathBuf,
    _folder: Folder,
}

impl File {
    fn new(text: &str) -> Result<Self> {
        let folder = Folder::new()?;
        let path = folder.path().join("observer.toml");
        fs::write(&path, text)?;
        Ok(Self {
            path,
            _folder: folder,
        })
    }

    fn name(&self) -> &str {
        self.path.to_str().expect("a printable path")
    }

    /// Writes another text and has the observer read it. Answers what it says then.
    fn reload(&self, observer: &Observer, text: &str, said: &str) -> Result<String> {
        let before = observer.log()?.len();
        fs::write(&self.path, text)?;
        observer.process.signal(Signal::HUP)?;
        let mut line = None;
        eventually(Duration::from_secs(10), "the file is read again", || {
            let log = observer.log()?;
            line = log[before..]
                .lines()
                .find(|line| line.contains(said))
                .map(str::to_owned);
            Ok(line.is_some())
        })?;
        line.context("found above")
    }
}

fn observed(file: &File) -> Result<Observer> {
    Options::new().with("--config", file.name()).start()
}

#[test]
fn what_is_wrong_is_one_line_with_its_place() -> Result<()> {
    for (text, line, reason) in [
        (
            "\nredis-prot = [6379]",
            ":2: ",
            "unknown key `redis-prot`; the nearest known one is `redis-port`",
        ),
        (
            "[spans]\n# why\npipelin = 'batch'",
            ":3: ",
            "the nearest known one is `spans.pipeline`",
        ),
        (
            "[limits]\nservices = 0",
            ":2: ",
            "limits.services: 0 is not within",
        ),
        (
            "[[rules]]\nport = 6380\ncache-nam = 'x'",
            ":3: ",
            "the nearest known one is `rules.cache-name`",
        ),
        (
            "role = 'auto'\nredis-port = 'x'",
            ":2: ",
            "invalid value 'x'",
        ),
        ("redis-port = [", ":1: ", ""),
    ] {
        let file = File::new(text)?;
        for command in ["run", "doctor"] {
            let output = call(&[command, "--config", file.name()])?;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{text}: {error}");
            assert!(error.contains(&format!("{}{line}", file.name())), "{error}");
            assert!(error.contains(reason), "{error}");
            assert_eq!(output.stdout, b"", "{text}");
        }
    }
    let output = call(&["run", "--config", "/nonexistent/observer.toml"])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    Ok(())
}

/// What `--print-config` says, with these variables.
fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> Result<String> {
    let mut command = Command::new(binary());
    command.arg("run").args(arguments).arg("--print-config");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("OTEL_") || text.starts_with("CACHE_OBSERVER_") {
            command.env_remove(&name);
        }
    }
    let output = command.envs(variables.iter().copied()).output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{error}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Without the origins.
fn values(text: &str) -> Vec<String> {
    let line = |line: &str| line.split(" # ").next().unwrap_or_default().to_owned();
    text.lines().map(line).collect()
}

#[test]
fn each_value_has_its_origin_and_can_be_read_again() -> Result<()> {
    let file = File::new(
        "redis-port = [7000, 7001]\nmemcached-port = 7002\nkeys = 'hash'\nnaming = 'stable'\nrole = 'client'\n\
         [spans]\nshare = 0.5\nslow = '50ms'\n[limits]\nspan-queue = 100\nidle = '1h'\n\
         [caches]\n'10.0.0.7:6379' = 'sessions'\n[[rules]]\nservice = 'web'\nkeys = 'none'\n",
    )?;
    let name = file.name();
    let variables = [
        ("CACHE_OBSERVER_CONFIG", name),
        ("CACHE_OBSERVER_MEMCACHED_PORT", "7003"),
        ("CACHE_OBSERVER_KEYS", "pattern"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_SEMCONV_STABILITY_OPT_IN", "database/dup"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "200"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
    ];
    let text = printed(&["--keys", "full"], &variables)?;
    for line in [
        format!("redis-port = [7000, 7001] # {name}:1"),
        "memcached-port = [7003] # environment variable CACHE_OBSERVER_MEMCACHED_PORT".to_owned(),
        "keys = \"full\" # command line".to_owned(),
        "naming = \"dup\" # environment variable OTEL_SEMCONV_STABILITY_OPT_IN".to_owned(),
        "share = 1.0 # environment variable OTEL_TRACES_SAMPLER".to_owned(),
        format!("slow = \"50ms\" # {name}:8"),
        format!("role = \"client\" # {name}:5"),
        "backend = \"auto\" # default".to_owned(),
        "traces-exporter = [\"otlp\"] # default".to_owned(),
        "span-queue = 200 # environment variable OTEL_BSP_MAX_QUEUE_SIZE".to_owned(),
        format!("idle = \"1h\" # {name}:11"),
        format!("\"10.0.0.7:6379\" = \"sessions\" # {name}:13"),
        format!("[[rules]] # {name}:14"),
        "# output is not set".to_owned(),
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
    let again = File::new(&text)?;
    let second = printed(&["--config", again.name()], &[])?;
    assert_eq!(values(&text), values(&second));
    assert!(!second.contains("command line"), "{second}");
    Ok(())
}

#[test]
fn the_shipped_file_is_what_there_is_without() -> Result<()> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cache-observer.toml");
    let shipped = shipped.to_str().context("a printable path")?;
    let with = printed(&["--config", shipped], &[])?;
    assert_eq!(values(&with), values(&printed(&[], &[])?));
    assert!(
        with.contains(&format!("redis-port = [6379] # {shipped}:")),
        "{with}"
    );
    Ok(())
}

/// Text of an attribute.
fn of<'a>(span: &'a Value, name: &str) -> &'a str {
    span["attributes"][name].as_str().unwrap_or_default()
}

#[test]
fn names_templates_rules_and_redaction() -> Result<()> {
    let [named, ruled, ignored] = [Server::redis()?, Server::redis()?, Server::redis()?];
    let file = File::new(&format!(
        "redis-port = [{0}, {1}, {2}]\nmemcached-port = []\nkey-patterns = ['user:{{id}}:profile', 'page:*']\n\
         [caches]\n'127.0.0.1:{0}' = 'sessions'\n\
         [histograms]\nlatency = [0.5]\nvalue-size = [16, 64]\n\
         [redaction]\ncommands = ['hget']\nclient-name = true\n\
         [[rules]]\nport = {1}\ncache-name = 'carts'\nkeys = 'none'\nspans = {{ misses = true, share = 0, errors = false, slow = 'none' }}\n\
         [[rules]]\nserver = '127.0.0.1'\nport = {2}\nignore = true\n",
        named.port, ruled.port, ignored.port
    ))?;
    let observer = Options::new()
        .with("--config", file.name())
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", named.port))?;
    redis.command(&["CLIENT", "SETNAME", "hidden-name"])?;
    redis.command(&["SET", "user:42:profile", "x"])?;
    redis.command(&["SET", "page:a:7", "x"])?;
    redis.command(&["SET", "order:7", "x"])?;
    redis.command(&["HGET", "secret:hash", "secret-field"])?;
    let mut redis = Redis::connect(("127.0.0.1", ruled.port))?;
    redis.command(&["SET", "secret:key", "x"])?;
    redis.command(&["GET", "secret:key"])?;
    redis.command(&["GET", "secret:absent"])?;
    let mut redis = Redis::connect(("127.0.0.1", ignored.port))?;
    redis.command(&["SET", "secret:ignored", "x"])?;
    let report = observer.stop()?;

    let named: Vec<_> = report
        .spans
        .iter()
        .filter(|span| of(span, "cache.name") == "sessions")
        .collect();
    let patterns: Vec<_> = named
        .iter()
        .map(|span| of(span, "cache.key_pattern"))
        .collect();
    assert_eq!(patterns, ["", "user:{id}:profile", "page:*", "order:*", ""]);
    assert_eq!(of(named[4], "db.operation.name"), "HGET");
    let ruled: Vec<_> = report
        .spans
        .iter()
        .filter(|span| of(span, "cache.name") == "carts")
        .collect();
    assert_eq!(ruled.len(), 1, "only the miss: {ruled:?}");
    assert_eq!(ruled[0]["attributes"]["cache.hit"], false);
    assert_eq!(report.spans.len(), 6);
    let all = format!("{:?}", report.spans);
    for hidden in ["secret", "hidden-name"] {
        assert!(!all.contains(hidden), "{all}");
    }
    let operations = |cache: &str| report.metric("cache.operations", &[("cache.name", cache)]);
    assert_eq!((operations("sessions"), operations("carts")), (5.0, 3.0));
    assert_eq!(report.metric("cache.operations", &[]), 8.0);
    assert!(report.metric("observer.payload.skipped", &[("reason", "rule")]) > 30.0);
    assert_eq!(report.summary.of("redis", "SET", "count"), 4);
    for (name, bounds) in [
        ("cache.value_size", vec![16.0, 64.0]),
        ("cache.latency", vec![500.0]),
        ("db.client.operation.duration", vec![0.5]),
    ] {
        let mut points = report.metrics.iter().filter(|point| point["name"] == name);
        let told = |point: &Value| {
            let list = point["bounds"].as_array().into_iter().flatten();
            list.filter_map(Value::as_f64).collect::<Vec<_>>()
        };
        assert!(points.clone().count() > 0, "{name}");
        assert!(points.all(|point| told(point) == bounds), "{name}");
    }
    Ok(())
}

#[test]
fn read_again_under_traffic() -> Result<()> {
    let [first, second] = [Server::redis()?, Server::redis()?];
    let text = |ports: &str, rest: &str| {
        format!("redis-port = [{ports}]\nmemcached-port = []\n[limits]\nservices = 100\n{rest}")
    };
    let one = first.port.to_string();
    let both = format!("{}, {}", first.port, second.port);
    let file = File::new(&text(&one, ""))?;
    let observer = observed(&file)?;

    // A connection from before, to a port that is not watched yet.
    let mut late = Redis::connect(("127.0.0.1", second.port))?;
    late.command(&["SET", "unwatched", "x"])?;
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| -> Result<u64> {
        let traffic = scope.spawn(|| -> Result<u64> {
            let mut redis = Redis::connect(("127.0.0.1", first.port))?;
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                redis.command(&["SET", &format!("key:{sent}"), "x"])?;
                sent += 1;
                thread::sleep(Duration::from_micros(200));
            }
            Ok(sent)
        });
        let mut steps = || -> Result<()> {
            eventually(Duration::from_secs(10), "traffic is seen", || {
                Ok(!observer.spans()?.is_empty())
            })?;
            let names = format!(
                "span-queue = 77\n[caches]\n'127.0.0.1:{}' = 'renamed'\n",
                first.port
            );
            let said = file.reload(&observer, &text(&both, &names), "configuration reloaded")?;
            for part in ["redis-port", &format!("caches.127.0.0.1:{}", first.port)] {
                assert!(said.contains(part), "{said}");
            }
            let log = observer.log()?;
            let restart = log.lines().find(|line| line.contains("needs a restart"));
            assert!(
                restart.is_some_and(|line| line.contains("limits.span-queue")),
                "{log}"
            );
            // Its pool knows it although nothing was said on it yet.
            eventually(Duration::from_secs(10), "the connection is found", || {
                let log = observer.log()?;
                let mut found = log.lines().filter(|line| line.contains("from before"));
                Ok(found.any(|line| !line.contains("connections=0")))
            })?;
            late.command(&["SET", "watched", "x"])?;
            late.command(&["GET", "watched"])?;

            // What cannot be used changes nothing.
            let wrong = text(&one, "service = 1\n");
            let said = file.reload(&observer, &wrong, "not reloaded")?;
            let reason = "unknown key `limits.service`; the nearest known one is `limits.services`";
            assert!(
                said.contains(&format!("{}:5: {reason}", file.name())),
                "{said}"
            );
            late.command(&["GET", "still"])?;

            // A port is watched no longer.
            thread::sleep(Duration::from_millis(300));
            file.reload(&observer, &text(&one, &names), "configuration reloaded")?;
            late.command(&["GET", "unwatched"])?;
            Ok(())
        };
        let result = steps();
        stop.store(true, Ordering::Relaxed);
        let sent = traffic.join().expect("it does not panic");
        result.and(sent)
    })?;
    let report = observer.stop()?;
    let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for span in &report.spans {
        keys.entry(of(span, "cache.name"))
            .or_default()
            .push(of(span, "db.query.text"));
    }
    let names = [format!("127.0.0.1:{}", first.port), "renamed".to_owned()];
    let (old, new) = (&keys[names[0].as_str()], &keys["renamed"]);
    assert!(!old.is_empty() && !new.is_empty());
    let all: Vec<_> = old
        .iter()
        .chain(new)
        .map(|text| (*text).to_owned())
        .collect();
    let expected: Vec<_> = (0..sent)
        .map(|number| format!("SET key:{number} ?"))
        .collect();
    assert_eq!(
        all, expected,
        "each once, in order, under the old name and then the new"
    );
    assert_eq!(
        keys[format!("127.0.0.1:{}", second.port).as_str()],
        ["SET watched ?", "GET watched", "GET still"]
    );
    assert_eq!(report.summary.total("lost_bytes"), 0);
    Ok(())
}

#[test]
fn without_a_file_a_hangup_ends_it() -> Result<()> {
    let server = Server::redis()?;
    let mut observer = Options::new().redis(server.port).start()?;
    observer.process.signal(Signal::HUP)?;
    let status = observer.process.wait(Duration::from_secs(5))?;
    assert_ne!(status, 0);
    Ok(())
}

#[test]
fn captures_are_read_by_the_same_rules() -> Result<()> {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/redis_basic.pcap");
    let (_, plain, _) = replay(&capture, &[])?;
    let server = plain.first().map(|span| of(span, "cache.name").to_owned());
    let server = server.context("spans in the capture")?;
    let file = File::new(&format!("[caches]\n'{server}' = 'recorded'\n"))?;
    let (_, named, _) = replay(&capture, &["--config", file.name()])?;
    assert_eq!(named.len(), plain.len());
    for span in &named {
        assert_eq!(of(span, "cache.name"), "recorded");
    }
    let (_, address) = server.rsplit_once(':').context("a port")?;
    let file = File::new(&format!("[[rules]]\nport = {address}\nignore = true\n"))?;
    let (_, ignored, summary) = replay(&capture, &["--config", file.name()])?;
    assert_eq!(ignored.len(), 0);
    assert_eq!(summary.context("a summary")?.total("transactions"), 0);
    // What a service is called cannot be known there.
    let file = File::new("[[rules]]\nservice = 'web'\nignore = true\n")?;
    let (_, all, _) = replay(&capture, &["--config", file.name()])?;
    assert_eq!(all.len(), plain.len());
    Ok(())
}
