//! Scrapes and health checks: what Prometheus's own parser reads, and what clients that mean no good can cost.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tests::client::{Memcached, Redis};
use tests::observer::{Observer, Options, binary, call};
use tests::process::{Folder, Running, eventually, output, python};
use tests::scrape::{self, OPENMETRICS, Page, Response};
use tests::server::{Server, free_port};

fn scraped(listen: u16) -> Options {
    Options::new()
        .with("--metrics-exporter", "prometheus")
        .with("--prometheus-listen", &format!("127.0.0.1:{listen}"))
        .with("--health-listen", &format!("127.0.0.1:{listen}"))
}

/// Each sample of a page, by the parsers of Prometheus's own Python client. That of OpenMetrics is strict.
fn parsed(response: &Response) -> Result<Vec<Value>> {
    let script = r#"
import json, sys
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as text
page = open(sys.argv[2]).read()
parser = openmetrics if sys.argv[1].startswith("application/openmetrics-text") else text
for family in parser.text_string_to_metric_families(page):
    for sample in family.samples:
        exemplar = sample.exemplar
        print(json.dumps({"family": family.name, "type": family.type, "unit": family.unit, "help": family.documentation,
            "name": sample.name, "labels": sample.labels, "value": float(sample.value),
            "exemplar": exemplar and {"labels": exemplar.labels, "value": exemplar.value, "time": float(exemplar.timestamp)}}))
"#;
    let folder = Folder::new()?;
    let path = folder.path().join("page");
    std::fs::write(&path, &response.body)?;
    let kind = &response.headers["content-type"];
    let path = path.to_str().context("a printable path")?;
    let printed = output(python(), ["-c", script, kind, path])
        .context("prometheus_client: `cargo xtask setup --tests` installs it")?;
    printed
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// The one sample of this name and labels.
fn one<'a>(samples: &'a [Value], name: &str, labels: &[(&str, &str)]) -> Result<&'a Value> {
    let wanted = |sample: &&Value| {
        sample["name"] == name
            && labels
                .iter()
                .all(|(label, value)| sample["labels"][label] == *value)
    };
    let found: Vec<&Value> = samples.iter().filter(wanted).collect();
    ensure!(found.len() == 1, "{} of {name} {labels:?}", found.len());
    Ok(found[0])
}

#[test]
fn prometheus_s_own_parsers_read_it() -> Result<()> {
    let (redis, memcached) = (Server::redis()?, Server::memcached()?);
    let listen = free_port()?;
    let observer = scraped(listen)
        .redis(redis.port)
        .memcached(memcached.port)
        .start()?;
    // What labels must escape. The observer drops control characters.
    let name = "we\"ird\\ na\nme";
    let service = name.replace('\n', "");
    let mut client = Running::start(
        Command::new("redis-cli")
            .args(["-p", &redis.port.to_string()])
            .env("OTEL_SERVICE_NAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::null()),
    )?;
    let id = client.id();
    let mut commands = client.child().stdin.take().context("piped above")?;
    commands.write_all(b"set a hello\nget a\nget a\nget b\nlpush a x\nset a b ex 60\n")?;
    let mut other = Memcached::connect(("127.0.0.1", memcached.port))?;
    other.store("set", "a", b"12345", 0)?;
    other.get(&["a", "b"])?;

    let cache = format!("127.0.0.1:{}", redis.port);
    let escaped = service.replace('\\', "\\\\").replace('"', "\\\"");
    let label = format!("service_name=\"{escaped}\"");
    eventually(Duration::from_secs(20), "all commands are counted", || {
        let page = Page::scrape(listen, "")?;
        let own = page.sum("cache_operations_total", &[&label]);
        let others = page.sum("cache_operations_total", &["db_system_name=\"memcached\""]);
        // redis-cli asks for COMMAND DOCS first.
        Ok(own == 7.0 && others == 2.0)
    })?;
    // Only now: who is gone has no environment to be read.
    drop(commands);
    let process = id.to_string();
    for (accept, format, counter) in [
        ("", "text/plain; version=0.0.4; charset=utf-8", "cache_hits"),
        (
            OPENMETRICS,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "cache_hits",
        ),
    ] {
        let response = scrape::get(listen, "/metrics", accept)?;
        assert_eq!(response.headers["content-type"], format);
        let samples = parsed(&response)?;
        let target = samples
            .iter()
            .find(|sample| {
                sample["name"] == "target_info" && sample["labels"]["process_pid"] == *process
            })
            .context("no target_info")?;
        assert_eq!(target["labels"]["service_name"], *service);
        let instance = target["labels"]["service_instance_id"].as_str();
        let instance = instance.context("no instance")?;
        let host = target["labels"]["host_name"].as_str().context("no host")?;
        assert_eq!(instance, format!("{host}:{id}"));
        assert_eq!(target["value"], 1.0);
        let of = [
            ("service_name", service.as_str()),
            ("service_instance_id", instance),
            ("cache_name", &cache),
        ];
        let with = |more: &[(&'static str, &'static str)]| {
            let mut labels = of.to_vec();
            labels.extend_from_slice(more);
            labels
        };
        let value = |name: &str, labels: &[(&str, &str)]| -> Result<f64> {
            one(&samples, name, labels)?["value"]
                .as_f64()
                .context("no number")
        };
        let get = with(&[("cache_operation", "get")]);
        let hits = one(&samples, "cache_hits_total", &get)?;
        assert_eq!(
            (&hits["family"], &hits["type"]),
            (&counter.into(), &"counter".into())
        );
        assert_eq!(hits["value"], 2.0);
        assert_eq!(value("cache_misses_total", &get)?, 1.0);
        assert_eq!(value("cache_hit_rate_ratio", &of)?, 2.0 / 3.0);
        assert_eq!(
            value("cache_errors_total", &with(&[("error_type", "WRONGTYPE")]))?,
            1.0
        );
        let latency = one(&samples, "cache_latency_milliseconds_count", &get)?;
        assert_eq!(
            (&latency["type"], &latency["value"]),
            (&"histogram".into(), &3.0.into())
        );
        let last = with(&[("cache_operation", "get"), ("le", "+Inf")]);
        assert_eq!(value("cache_latency_milliseconds_bucket", &last)?, 3.0);
        assert_eq!(value("cache_ttl_seconds_sum", &of)?, 60.0);
        assert_eq!(
            value("cache_value_size_bytes_sum", &get)?,
            10.0,
            "two times hello"
        );
        let mut duration = of[..2].to_vec();
        duration.push(("db_operation_name", "GET"));
        assert_eq!(
            value("db_client_operation_duration_seconds_count", &duration)?,
            3.0
        );
        assert!(value("observer_memory_bytes", &[])? > 1e6);
        if accept == OPENMETRICS {
            assert_eq!(latency["unit"], "milliseconds");
            assert_eq!(hits["help"], "Keys or fields found.");
        }
    }
    let report = observer.stop()?;
    assert_eq!(report.summary.of("redis", "GET", "count"), 3);
    Ok(())
}

#[test]
fn exemplars_are_spans_that_were_written() -> Result<()> {
    let server = Server::redis()?;
    let listen = free_port()?;
    let observer = scraped(listen).redis(server.port).start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for number in 0..200 {
        redis.command(&["SET", &format!("key:{number}"), "x"])?;
        redis.command(&["GET", &format!("key:{number}")])?;
    }
    redis.command(&["LPUSH", "key:1", "x"])?;
    // A pipeline is one span.
    redis.send(b"PING\r\nPING\r\n")?;
    redis.reply()?;
    redis.reply()?;
    eventually(Duration::from_secs(20), "all commands are counted", || {
        Ok(Page::scrape(listen, "")?.sum("cache_operations_total", &[]) == 403.0)
    })?;
    let plain = scrape::get(listen, "/metrics", "")?;
    assert!(
        !plain.text()?.contains("trace_id"),
        "the older text has none"
    );
    let samples = parsed(&scrape::get(listen, "/metrics", OPENMETRICS)?)?;
    let report = observer.stop()?;
    let mut seen = std::collections::BTreeMap::new();
    for sample in samples
        .iter()
        .filter(|sample| !sample["exemplar"].is_null())
    {
        let exemplar = &sample["exemplar"];
        let id = &exemplar["labels"]["span_id"];
        let span = report.spans.iter().find(|span| span["span_id"] == *id);
        let span = span.with_context(|| format!("no span {id}"))?;
        assert_eq!(span["trace_id"], exemplar["labels"]["trace_id"]);
        let name = sample["name"].as_str().context("no name")?;
        let operation = sample["labels"]["db_operation_name"].as_str();
        if let Some(operation) = operation.filter(|operation| *operation != "PING") {
            assert_eq!(span["attributes"]["db.operation.name"], operation);
        }
        let nanos = |name: &str| span[name].as_u64().context("no time");
        let took = nanos("end_time_unix_nano")? - nanos("start_time_unix_nano")?;
        let value = exemplar["value"].as_f64().context("no value")?;
        let unit = if name.starts_with("cache_latency") {
            1e6
        } else {
            1e9
        };
        if span["attributes"]["db.operation.batch.size"].is_null() {
            assert!((value * unit - took as f64).abs() < 1.5, "{sample} {span}");
        }
        let bound = sample["labels"]["le"].as_str().context("no bound")?;
        assert!(bound == "+Inf" || value <= bound.parse()?, "{sample}");
        let time = exemplar["time"].as_f64().context("no time")?;
        assert!((time - nanos("end_time_unix_nano")? as f64 / 1e9).abs() < 0.002);
        *seen.entry(name.to_owned()).or_insert(0) += 1;
    }
    // At least a bucket each of SET, GET, LPUSH, PING; by class of set, get and one more.
    assert!(
        seen["db_client_operation_duration_seconds_bucket"] >= 4,
        "{seen:?}"
    );
    assert!(seen["cache_latency_milliseconds_bucket"] >= 3, "{seen:?}");
    let failed = one(
        &samples,
        "db_client_operation_duration_seconds_bucket",
        &[("error_type", "WRONGTYPE"), ("le", "+Inf")],
    )?;
    assert_eq!(failed["value"], 1.0);
    Ok(())
}

#[test]
fn each_exporter_has_an_interval_of_its_own() -> Result<()> {
    let server = Server::redis()?;
    let listen = free_port()?;
    let observer = scraped(listen)
        .redis(server.port)
        .traces("none")
        .with("--metrics-exporter", "jsonl")
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "200")
        .variable("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let mut last = 0.0;
    for number in 0..1_000 {
        redis.command(&["GET", "absent"])?;
        if number % 50 == 0 {
            let now = Page::scrape(listen, "")?.sum("cache_misses_total", &[]);
            assert!(now >= last, "{now} after {last}");
            last = now;
            std::thread::sleep(Duration::from_millis(40));
        }
    }
    let misses = || -> Result<f64> { Ok(Page::scrape(listen, "")?.sum("cache_misses_total", &[])) };
    eventually(Duration::from_secs(20), "all are on a page", || {
        Ok(misses()? == 1_000.0)
    })?;
    let report = observer.stop()?;
    let deltas: Vec<f64> = report
        .metrics
        .iter()
        .filter(|point| point["name"] == "cache.misses")
        .filter_map(|point| point["value"].as_f64())
        .collect();
    assert!(deltas.len() > 1, "{deltas:?}");
    assert_eq!(deltas.iter().sum::<f64>(), 1_000.0, "{deltas:?}");
    Ok(())
}

#[test]
fn paths_and_methods() -> Result<()> {
    let listen = free_port()?;
    let observer = scraped(listen).start()?;
    for (path, status) in [
        ("/metrics", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/", 200),
        ("/metrics/", 404),
        ("/nothing", 404),
    ] {
        assert_eq!(scrape::get(listen, path, "")?.status, status, "{path}");
    }
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let response = scrape::get(listen, "/metrics", protobuf)?;
    let kind = &response.headers["content-type"];
    assert_eq!(*kind, protobuf.replace(';', "; "));
    let head = scrape::ask(listen, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let post = scrape::ask(listen, b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    assert_eq!(
        (post.status, post.headers["allow"].as_str()),
        (405, "GET, HEAD")
    );
    observer.stop()?;
    Ok(())
}

#[test]
fn an_address_that_is_taken_is_one_line() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    for (option, more) in [
        ("--prometheus-listen", ["--metrics-exporter", "prometheus"]),
        ("--health-listen", ["--metrics-exporter", "none"]),
    ] {
        let output = call(&["run", option, &address, more[0], more[1]])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(option) && said.contains(&address), "{said}");
    }
    let output = call(&["replay", "x.pcap", "--metrics-exporter", "prometheus"])?;
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}

#[test]
fn readiness_follows_attaching_and_the_end() -> Result<()> {
    // A collector that accepts and never answers: the end takes as long as it may.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let server = Server::redis()?;
    let (listen, folder) = (free_port()?, Folder::new()?);
    let mut command = Command::new(binary());
    command
        .args(["run", "--redis-port", &server.port.to_string()])
        .args(["--memcached-port", "2", "--metrics-exporter", "none"])
        .args(["--traces-exporter", "otlp"])
        .args(["--health-listen", &format!("127.0.0.1:{listen}")])
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", silent.local_addr()?),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.path().join("stderr"))?);
    let mut process = Running::start(&mut command)?;
    // `None` until it listens, and when it has gone.
    let ready = || scrape::get(listen, "/readyz", "").ok().map(|it| it.status);
    let mut told = Vec::new();
    eventually(Duration::from_secs(20), "it is ready", || {
        told.extend(ready().filter(|status| told.last() != Some(status)));
        Ok(told.last() == Some(&200))
    })?;
    assert_eq!(told, [503, 200]);
    assert_eq!(scrape::get(listen, "/healthz", "")?.status, 200);
    assert_eq!(scrape::get(listen, "/metrics", "")?.status, 404);
    Redis::connect(("127.0.0.1", server.port))?.command(&["PING"])?;
    std::thread::sleep(Duration::from_millis(300));
    process.signal(Signal::TERM)?;
    eventually(Duration::from_secs(5), "it is not ready any more", || {
        Ok(ready() == Some(503))
    })?;
    assert_eq!(process.wait(Duration::from_secs(6))?, 0);
    Ok(())
}

fn resident(observer: &Observer) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", observer.process.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.context("no VmRSS")?.parse::<f64>()? / 1024.0)
}

#[test]
fn hostile_clients_cost_little_and_keep_nobody_out() -> Result<()> {
    let server = Server::redis()?;
    let listen = free_port()?;
    let observer = scraped(listen).redis(server.port).traces("none").start()?;
    Redis::connect(("127.0.0.1", server.port))?.command(&["GET", "x"])?;
    Page::scrape(listen, "")?;
    let before = resident(&observer)?;
    let connect = || TcpStream::connect(("127.0.0.1", listen));
    // Some say nothing, some begin and stop, some ask and do not read.
    let mut held = Vec::new();
    for number in 0..300 {
        let mut stream = connect()?;
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ")?,
            _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?,
        }
        held.push(stream);
    }
    let begun = Instant::now();
    Page::scrape(listen, OPENMETRICS)?;
    assert_eq!(scrape::get(listen, "/healthz", "")?.status, 200);
    // Neither waited for their time-out, which is 5 s.
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    // A head without end, and one beyond the limit: answered or cut off, never read on.
    let mut endless = connect()?;
    let line = format!("X-Long: {}\r\n", "x".repeat(1_000));
    let mut sent = 0;
    endless.write_all(b"GET /metrics HTTP/1.1\r\n")?;
    while sent < 64 << 20 && endless.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
    }
    assert!(sent < 16 << 20, "{sent} bytes of a head were taken");
    let many = "X: y\r\n".repeat(500);
    let request = format!("GET /metrics HTTP/1.1\r\n{many}\r\n");
    let mut stream = connect()?;
    stream.write_all(request.as_bytes())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut answer = Vec::new();
    // It may be reset, since not all of the request was read.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let after = resident(&observer)?;
    assert!(after < before + 16.0, "{before} → {after} MiB");
    // Those who said nothing are cut off by themselves.
    let mut silent = connect()?;
    silent.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut nothing = Vec::new();
    silent.read_to_end(&mut nothing)?;
    drop(held);
    Page::scrape(listen, "")?;
    observer.stop()?;
    Ok(())
}

/// The answer of a Prometheus to an expression: the values of its series.
fn query(port: u16, expression: &str) -> Result<Vec<f64>> {
    let response = scrape::get(port, &format!("/api/v1/query?query={expression}"), "")?;
    let answer: Value = serde_json::from_slice(&response.body)?;
    let result = answer["data"]["result"].as_array();
    let result = result.with_context(|| answer.to_string())?;
    let values = result.iter().map(|series| series["value"][1].as_str());
    values
        .map(|value| Ok(value.context("no number")?.parse()?))
        .collect()
}

#[test]
fn prometheus_reads_native_histograms() -> Result<()> {
    let server = Server::redis()?;
    let [listen, prometheus] = [free_port()?, free_port()?];
    let folder = Folder::new()?;
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("observer.toml"), "[histograms]\nexponential = true\n")?;
    let configuration = path("observer.toml");
    let configuration = configuration.to_str().context("a printable path")?;
    let observer = scraped(listen)
        .redis(server.port)
        .with("--metrics-exporter", "jsonl")
        .with("--config", configuration)
        .start()?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    for _ in 0..500 {
        redis.command(&["GET", "absent"])?;
    }
    redis.command(&["SET", "present", &"x".repeat(1_000)])?;
    // Text has count and sum of them.
    let page = Page::scrape(listen, OPENMETRICS)?;
    let buckets = page.series.keys();
    let buckets = buckets.filter(|series| series.starts_with("cache_latency_milliseconds_bucket"));
    assert!(buckets.count() <= 2, "+Inf of get and of set");

    std::fs::write(
        path("prometheus.yml"),
        format!(
            "scrape_configs:\n- job_name: observer\n  scrape_interval: 1s\n  static_configs:\n  - targets: ['127.0.0.1:{listen}']\n"
        ),
    )?;
    let log = File::create(path("log"))?;
    let _prometheus = Running::start(
        Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--enable-feature=native-histograms")
            .arg(format!("--web.listen-address=127.0.0.1:{prometheus}"))
            .stdout(log.try_clone()?)
            .stderr(log),
    )?;
    let said = || std::fs::read_to_string(path("log")).unwrap_or_default();
    let of_get = "%7Bcache_operation=%22get%22%7D";
    eventually(
        Duration::from_secs(60),
        "Prometheus has all commands",
        || {
            // It does not answer at once.
            let count = query(
                prometheus,
                &format!("histogram_count(cache_latency_milliseconds{of_get})"),
            );
            Ok(count.is_ok_and(|count| count == [500.0]))
        },
    )
    .with_context(said)?;
    // At most a bucket's width wrong: 2^(1/4) with values from 10 us to 10 s.
    let quantile = format!("histogram_quantile(0.5,cache_latency_milliseconds{of_get})");
    let median = query(prometheus, &quantile)?[0];
    let sum = query(
        prometheus,
        &format!("histogram_sum(cache_latency_milliseconds{of_get})"),
    )?[0];
    let size = query(prometheus, "histogram_quantile(0.5,cache_value_size_bytes)")?[0];
    let names = query(prometheus, "cache_operations_total")?;
    assert_eq!(names.iter().sum::<f64>(), 501.0);
    assert!((900.0..1_100.0).contains(&size), "{size} bytes");

    let report = observer.stop()?;
    let mut took: Vec<u64> = report
        .of("GET")
        .iter()
        .filter_map(|span| {
            let time = |name: &str| span[name].as_u64();
            Some(time("end_time_unix_nano")? - time("start_time_unix_nano")?)
        })
        .collect();
    assert_eq!(took.len(), 500);
    took.sort_unstable();
    let exact = took[250] as f64 / 1e6;
    assert!(
        (exact / 1.2..exact * 1.2).contains(&median),
        "{median} is not {exact} ms"
    );
    let exact = took.iter().sum::<u64>() as f64 / 1e6;
    assert!(
        (sum - exact).abs() < 1e-3 * exact,
        "{sum} is not {exact} ms"
    );
    // The same as JSON Lines.
    let point = report.metrics.iter().rev().find(|point| {
        point["name"] == "cache.latency" && point["attributes"]["cache.operation"] == "get"
    });
    let point = point.context("no point")?;
    let counts = point["bucket_counts"].as_array().context("no buckets")?;
    let total: u64 = counts.iter().filter_map(Value::as_u64).sum();
    assert_eq!((&point["count"], total), (&500.into(), 500));
    assert!(
        point["scale"].is_i64() && point["offset"].is_i64(),
        "{point}"
    );
    Ok(())
}
