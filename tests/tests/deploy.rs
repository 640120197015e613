//! What is shipped in `deploy/`, with the tools it is written for: a real Prometheus that scrapes the running observer.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::{Memcached, Redis, Reply};
use tests::observer::{Observer, Options};
use tests::process::eventually;
use tests::prometheus::{Dashboard, Prometheus, deploy};
use tests::server::{Server, free_port};
use tests::traffic::Traffic;

#[test]
fn promtool_accepts_rules_and_configuration_and_their_tests_pass() -> Result<()> {
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts.test.yaml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(deploy().join("prometheus"))
            .output()
            .context("cannot start promtool: `cargo xtask setup --tests` installs it")?;
        ensure!(
            output.status.success(),
            "promtool {arguments:?}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// An observer of the traffic, and a Prometheus that scrapes it.
fn observed() -> Result<(Traffic, Observer, Prometheus)> {
    let port = free_port()?;
    let (traffic, observer) = Traffic::start(|redis, memcached, closed| {
        Options::new()
            .with("--redis-port", &format!("{},{closed}", redis.port))
            .memcached(memcached.port)
            .with("--metrics-exporter", "prometheus")
            .with("--prometheus-listen", &format!("127.0.0.1:{port}"))
            .start()
    })?;
    let prometheus = Prometheus::start(port)?;
    Ok((traffic, observer, prometheus))
}

/// Asks until there is an answer with series.
fn data(prometheus: &Prometheus, what: &str, expression: &str) -> Result<()> {
    eventually(Duration::from_secs(60), what, || {
        Ok(!prometheus.query(expression)?.is_empty())
    })
    .with_context(|| format!("no data: {expression}"))
}

#[test]
fn every_panel_and_every_rule_is_answered_with_data() -> Result<()> {
    let (mut traffic, observer, prometheus) = observed()?;
    let dashboard = Dashboard::read()?;
    for panel in dashboard.panels()? {
        ensure!(
            panel.kind == "row" || !panel.queries.is_empty(),
            "{} asks nothing",
            panel.title
        );
        for query in &panel.queries {
            data(&prometheus, &panel.title, &query.expression)?;
            // Names of series are made of labels that these have.
            for series in prometheus.query(&query.expression)? {
                for label in labels(&query.legend) {
                    ensure!(
                        !series["metric"][label].is_null(),
                        "{}: {label} is no label of {series}",
                        panel.title
                    );
                }
            }
        }
    }
    variables(&prometheus, &dashboard)?;
    rules(&prometheus)?;

    // The crawler never finds a key, and opens a connection for each command.
    for (alert, service) in [
        ("CacheHitRateLow", "crawler"),
        ("CacheConnectionChurn", "crawler"),
    ] {
        let firing = format!(
            "ALERTS{{alertname=\"{alert}\", service_name=\"{service}\", alertstate=\"firing\"}}"
        );
        data(&prometheus, alert, &firing)?;
    }
    for annotation in dashboard.annotations() {
        data(&prometheus, "annotations", &annotation)?;
    }
    let others = "ALERTS{alertname=~\"CacheObserver.*\", alertstate=\"firing\"}";
    assert_eq!(prometheus.query(others)?, Vec::<serde_json::Value>::new());

    // Such as samples that came twice, or out of order.
    let log = prometheus.log();
    let complaint = log.lines().find(|line| {
        let line = line.to_ascii_lowercase();
        line.contains("level=error") || line.contains("level=warn")
    });
    ensure!(complaint.is_none(), "Prometheus says: {complaint:?}");

    traffic.stop()?;
    same_as_servers(&prometheus, &traffic)?;
    let report = observer.stop()?;
    assert_eq!(report.summary.total("lost_bytes"), 0);
    Ok(())
}

/// The labels in a legend: `{{service_name}} {{cache_name}}`.
fn labels(legend: &str) -> impl Iterator<Item = &str> {
    let parts = legend.split("{{").skip(1);
    parts.filter_map(|part| Some(part.split_once("}}")?.0))
}

/// Each template variable offers what is there.
fn variables(prometheus: &Prometheus, dashboard: &Dashboard) -> Result<()> {
    let mut offered = BTreeSet::new();
    for query in dashboard.variables() {
        let inner = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'));
        let Some((metric, label)) = inner.and_then(|inner| inner.rsplit_once(", ")) else {
            // The data source.
            continue;
        };
        let values = prometheus.api(&format!("label/{label}/values"), &[("match[]", metric)])?;
        for value in values.as_array().into_iter().flatten() {
            offered.insert(format!("{label}={}", value.as_str().unwrap_or_default()));
        }
    }
    for wanted in ["service_name=shop", "service_name=crawler"] {
        ensure!(offered.contains(wanted), "{wanted} is not in {offered:?}");
    }
    ensure!(
        offered.iter().any(|one| one.starts_with("cache_name=")),
        "no caches in {offered:?}"
    );
    Ok(())
}

/// Each rule is evaluated without an error; recording rules give series, and so do both sides that alerts compare.
fn rules(prometheus: &Prometheus) -> Result<()> {
    let mut seen = 0;
    eventually(Duration::from_secs(30), "all rules are evaluated", || {
        let groups = prometheus.api("rules", &[])?;
        let groups = groups["groups"].as_array().context("groups")?;
        let rules: Vec<_> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().into_iter().flatten())
            .cloned()
            .collect();
        for rule in &rules {
            ensure!(rule["health"] != "err", "{rule}");
            let expression = rule["query"].as_str().context("a rule without query")?;
            prometheus.query(expression)?;
        }
        seen = rules.len();
        Ok(seen > 0 && rules.iter().all(|rule| rule["health"] == "ok"))
    })?;
    ensure!(seen == 12, "{seen} rules");
    // What alerts are made of is there, whether they fire or not.
    for part in [
        "cache:hit_rate:ratio_rate5m",
        "cache:latency_milliseconds:p99_rate5m",
        "cache:misses:rate1m",
        "rate(cache_connection_exhausted_time_seconds_total[1m])",
        "rate(cache_connection_churned_total[5m])",
        "rate(cache_connection_closed_total[5m])",
        "rate(observer_events_lost_total[5m])",
        "up{job=\"cache-observer\"} == 1",
    ] {
        data(prometheus, "parts of alerts", part)?;
    }
    Ok(())
}

/// Hits and misses that Prometheus has stored are those that the servers count.
fn same_as_servers(prometheus: &Prometheus, traffic: &Traffic) -> Result<()> {
    let stored = |metric: &str, server: &Server| -> Result<u64> {
        let name = format!("127.0.0.1:{}", server.port);
        let sum = format!("sum({metric}{{cache_name=\"{name}\"}})");
        Ok(prometheus.number(&sum)?.unwrap_or_default() as u64)
    };
    let mut redis = Redis::connect(("127.0.0.1", traffic.redis.port))?;
    let Reply::Bulk(Some(statistics)) = redis.command(&["INFO", "stats"])? else {
        anyhow::bail!("no INFO");
    };
    let statistics = String::from_utf8(statistics)?;
    let of_redis = |name: &str| -> Result<u64> {
        let line = statistics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.context("no such number in INFO")?.trim().parse()?)
    };
    let mut memcached = Memcached::connect(("127.0.0.1", traffic.memcached.port))?;
    for (metric, server, counted) in [
        (
            "cache_hits_total",
            &traffic.redis,
            of_redis("keyspace_hits")?,
        ),
        (
            "cache_misses_total",
            &traffic.redis,
            of_redis("keyspace_misses")?,
        ),
        (
            "cache_hits_total",
            &traffic.memcached,
            memcached.stat("get_hits")?,
        ),
        (
            "cache_misses_total",
            &traffic.memcached,
            memcached.stat("get_misses")?,
        ),
    ] {
        ensure!(counted > 0, "the traffic has no {metric}");
        let what = format!("{metric} of port {} is {counted}", server.port);
        eventually(Duration::from_secs(10), &what, || {
            Ok(stored(metric, server)? == counted)
        })
        .with_context(|| format!("it is {:?}", stored(metric, server)))?;
    }
    Ok(())
}
