//! Figures under load, and of many services: counters equal the servers' own, and memory stays bounded.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::{Memcached, Redis, Reply};
use tests::observer::{Observer, Options};
use tests::process::{Folder, Running, eventually, output};
use tests::scrape::{self, OPENMETRICS, Page};
use tests::server::{Server, free_port};

/// Between two scrapes of one scraper.
const EVERY: Duration = Duration::from_millis(100);

fn scraped(listen: u16) -> Options {
    Options::new()
        .traces("none")
        .with("--metrics-exporter", "prometheus")
        .with("--prometheus-listen", &format!("127.0.0.1:{listen}"))
}

/// With a ring that holds a burst while others have the processors: here counters are compared, not speed.
fn patient(listen: u16, folder: &Folder) -> Result<Options> {
    let path = folder.path().join("observer.toml");
    fs::write(&path, "[limits]\nring-bytes = 268435456\n")?;
    Ok(scraped(listen).with("--config", path.to_str().context("a printable path")?))
}

/// Scrapes until told to stop, some pages at least; nothing may ever shrink.
fn watch(listen: u16, accept: &str, stop: &AtomicBool) -> Result<()> {
    let mut last = Page::default();
    let mut pages = 0;
    while !stop.load(Ordering::Relaxed) || pages < 5 {
        let page = Page::scrape(listen, accept)?;
        for (series, before) in last.growing() {
            let now = page.series.get(series);
            ensure!(
                now.is_some_and(|now| *now >= before),
                "{series}: {now:?} after {before}"
            );
        }
        last = page;
        pages += 1;
        thread::sleep(EVERY);
    }
    println!("{pages} pages were consistent");
    Ok(())
}

/// Does something while three scrapers watch.
fn watched(listen: u16, load: impl FnOnce() -> Result<()>) -> Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scrapers: Vec<_> = ["", OPENMETRICS, ""]
            .map(|accept| scope.spawn(|| watch(listen, accept, &stop)))
            .into_iter()
            .collect();
        let done = load();
        stop.store(true, Ordering::Relaxed);
        for scraper in scrapers {
            scraper.join().expect("it does not panic")?;
        }
        done
    })
}

/// `INFO` of a section, as `name:value` lines.
fn info(redis: &mut Redis, section: &str) -> Result<Vec<(String, String)>> {
    let Reply::Bulk(Some(text)) = redis.command(&["INFO", section])? else {
        anyhow::bail!("no INFO");
    };
    let text = String::from_utf8(text)?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

#[test]
fn a_million_commands() -> Result<()> {
    let server = Server::redis()?;
    let listen = free_port()?;
    let folder = Folder::new()?;
    let observer = patient(listen, &folder)?.redis(server.port).start()?;
    let port = server.port.to_string();
    watched(listen, || {
        // Half a million each; of the keys that are read nine of ten exist.
        let words = ["-p", &port, "-c", "20", "-P", "8", "-r", "1000", "-q"];
        let keys = ["-n", "500000", "-t", "set,get"];
        output("redis-benchmark", words.iter().chain(&keys))?;
        Ok(())
    })?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    let stats = info(&mut redis, "commandstats")?;
    let calls = |command: &str| -> Result<f64> {
        let name = format!("cmdstat_{command}");
        let line = stats.iter().find(|(found, _)| *found == name);
        let calls = line.and_then(|(_, line)| line.split(',').next()?.strip_prefix("calls="));
        Ok(calls.with_context(|| name.clone())?.parse()?)
    };
    assert_eq!((calls("get")?, calls("set")?), (500_000.0, 500_000.0));
    let totals = info(&mut redis, "stats")?;
    let total = |name: &str| -> Result<f64> {
        let line = totals.iter().find(|(found, _)| found == name);
        Ok(line.context("not told")?.1.parse()?)
    };
    let mut page = Page::default();
    let duration = "db_client_operation_duration_seconds_count";
    let of = |page: &Page, operation: &str| {
        page.sum(duration, &[&format!("db_operation_name=\"{operation}\"")])
    };
    let seen = eventually(Duration::from_secs(30), "all are counted", || {
        page = Page::scrape(listen, "")?;
        Ok(of(&page, "GET") == calls("get")? && of(&page, "SET") == calls("set")?)
    });
    let lost = page.sum("observer_events_lost_total", &[]);
    let log = observer.log()?;
    seen.with_context(|| {
        format!(
            "GET {}, SET {}, events lost {lost}\n{log}",
            of(&page, "GET"),
            of(&page, "SET")
        )
    })?;
    let get = ["cache_operation=\"get\""];
    assert_eq!(page.sum("cache_operations_total", &get), calls("get")?);
    assert_eq!(page.sum("cache_hits_total", &get), total("keyspace_hits")?);
    assert_eq!(
        page.sum("cache_misses_total", &get),
        total("keyspace_misses")?
    );
    assert_eq!(
        page.sum("cache_latency_milliseconds_count", &get),
        calls("get")?
    );
    let report = observer.stop()?;
    assert_eq!(report.summary.of("redis", "GET", "count"), 500_000);
    assert_eq!(report.summary.of("redis", "SET", "count"), 500_000);
    Ok(())
}

#[test]
fn memcached_under_load() -> Result<()> {
    const SETS: usize = 40_000;
    let server = Server::memcached()?;
    let listen = free_port()?;
    let folder = Folder::new()?;
    let observer = patient(listen, &folder)?.memcached(server.port).start()?;
    let mut memcached = Memcached::connect(("127.0.0.1", server.port))?;
    watched(listen, || {
        let set = "set key:1 0 0 5\r\nhello\r\n".repeat(40);
        for _ in 0..SETS / 40 {
            memcached.send(set.as_bytes())?;
            for _ in 0..39 {
                memcached.until("STORED")?;
            }
            memcached.until("STORED")?;
        }
        // A hit, a miss, two keys at once: 160,000 keys in 120,000 commands.
        let get = "get key:1\r\nget key:2\r\nget key:1 key:2\r\n".repeat(20);
        for _ in 0..SETS / 20 {
            memcached.send(get.as_bytes())?;
            for _ in 0..60 {
                memcached.until("END")?;
            }
        }
        Ok(())
    })?;
    let stats = memcached.stats()?;
    let stat = |name: &str| stats[name] as f64;
    assert_eq!(stat("cmd_set"), SETS as f64);
    assert_eq!(stat("cmd_get"), 4.0 * SETS as f64);
    let hits = |page: &Page| page.sum("cache_hits_total", &[]);
    let misses = |page: &Page| page.sum("cache_misses_total", &[]);
    let sets = |page: &Page| page.sum("cache_operations_total", &["cache_operation=\"set\""]);
    let mut page = Page::default();
    let seen = eventually(Duration::from_secs(30), "all are counted", || {
        page = Page::scrape(listen, OPENMETRICS)?;
        Ok(hits(&page) == stat("get_hits")
            && misses(&page) == stat("get_misses")
            && sets(&page) == stat("cmd_set"))
    });
    seen.with_context(|| {
        let lost = page.sum("observer_events_lost_total", &[]);
        format!(
            "{} {} {}, lost {lost}",
            hits(&page),
            misses(&page),
            sets(&page)
        )
    })?;
    observer.stop()?;
    Ok(())
}

/// A number of `/proc/PID/status`.
fn status(observer: &Observer, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", observer.process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("no {name}"))?.parse()?)
}

/// Commands of one service: with an error, hits, misses, sizes and lifetimes.
const COMMANDS: &str = "set k v ex 60\nget k\nget absent\nmget k absent\ndel absent\nincr n\nexpire n 60\nhset h f v\n\
    hget h f\nexists k\nlpush k v\n";

#[test]
fn two_hundred_services() -> Result<()> {
    const SERVICES: usize = 200;
    let server = Server::redis()?;
    let listen = free_port()?;
    let observer = scraped(listen).redis(server.port).start()?;
    Page::scrape(listen, "")?;
    let port = server.port.to_string();
    let threads = status(&observer, "Threads:")?;
    let mut services = Vec::new();
    for number in 0..SERVICES {
        let mut service = Running::start(
            Command::new("redis-cli")
                .args(["-p", &port])
                .env("OTEL_SERVICE_NAME", format!("service-{number}"))
                .stdin(Stdio::piped())
                .stdout(Stdio::null()),
        )?;
        let mut input = service.child().stdin.take().context("piped above")?;
        input.write_all(COMMANDS.as_bytes())?;
        input.flush()?;
        // They stay, with their connections.
        services.push((service, input));
    }
    // redis-cli asks for COMMAND DOCS first.
    let each = COMMANDS.lines().count() + 1;
    let mut page = Page::default();
    eventually(Duration::from_secs(60), "all are counted", || {
        page = Page::scrape(listen, OPENMETRICS)?;
        Ok(page.sum("cache_operations_total", &[]) == (SERVICES * each) as f64)
    })?;
    for number in 0..SERVICES {
        let label = format!("service_name=\"service-{number}\"");
        let own = page.sum("cache_operations_total", &[&label]);
        ensure!(own == each as f64, "{label}: {own}");
    }
    let series = page.instruments();
    let lines = page.series.len();
    // Both formats, several at once; all pages together are larger than the limit.
    let mut bytes = 0;
    thread::scope(|scope| -> Result<()> {
        let scrapers: Vec<_> = ["", OPENMETRICS, "", OPENMETRICS]
            .map(|accept| {
                scope.spawn(move || -> Result<usize> {
                    let sizes = (0..10).map(|_| scrape::get(listen, "/metrics", accept));
                    sizes.map(|page| Ok(page?.body.len())).sum()
                })
            })
            .into_iter()
            .collect();
        for scraper in scrapers {
            bytes += scraper.join().expect("it does not panic")?;
        }
        Ok(())
    })?;
    assert!(bytes > 96 << 20, "{bytes} bytes");
    let resident = status(&observer, "VmRSS:")? / 1024;
    let peak = observer.peak_memory()? >> 20;
    let now = status(&observer, "Threads:")?;
    println!(
        "{SERVICES} services, {series} series, {lines} lines in {} MiB on a page; {resident} MiB resident, {peak} MiB at most; \
         {threads} threads before, {now} after",
        (bytes / 40) >> 20
    );
    assert!(series >= 5_000, "{series} series");
    assert!(peak < 96, "{peak} MiB");
    assert!(now <= threads + 1, "{threads} threads, then {now}");
    drop(services);
    observer.stop()?;
    Ok(())
}
