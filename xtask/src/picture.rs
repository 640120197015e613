//! `picture`: the picture of the dashboard in the README, drawn from what a real Prometheus answers to its queries.
//!
//! Grafana itself cannot be installed from the registries that this project uses, so the panels are drawn here. The
//! queries, titles, places and units are those of `deploy/grafana/cache-observer.json`.

mod svg;

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::process::eventually;
use tests::prometheus::{Dashboard, Prometheus, Query};
use tests::scrape;
use tests::server::free_port;
use tests::traffic::Traffic;

use crate::{build, run, setup, shell};
use svg::{Drawing, Series};

/// How to draw.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds of traffic to show; after three fifths both caches are emptied.
    #[arg(long, default_value_t = 300)]
    seconds: u32,
}

/// Points of a line, and columns of a heat map.
const POINTS: u32 = 75;

/// Rates look back this long, so that there is nothing to show before. Seconds.
const WARM_UP: u32 = 15;

pub(crate) fn task(options: &Options) -> Result<()> {
    setup::tests()?;
    let binary = build::task()?;
    let port = free_port()?;
    let (mut traffic, observer) = Traffic::start(|redis, memcached, closed| {
        let mut command = shell::as_root(&binary)?;
        command
            .args(["run", "--traces-exporter", "none"])
            .arg("--redis-port")
            .arg(format!("{},{closed}", redis.port))
            .args(["--memcached-port", &memcached.port.to_string()])
            .args(["--metrics-exporter", "prometheus"])
            .arg("--prometheus-listen")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--health-listen")
            .arg(format!("127.0.0.1:{port}"))
            .stdin(Stdio::null());
        let observer = Observer(command.spawn().context("cannot start the observer")?);
        eventually(Duration::from_secs(20), "the observer is ready", || {
            Ok(scrape::get(port, "/readyz", "*/*").is_ok_and(|answer| answer.status == 200))
        })?;
        Ok(observer)
    })?;
    let prometheus = Prometheus::start(port)?;
    eprintln!("picture: {} s of traffic", options.seconds + WARM_UP);
    let before = options.seconds / 5 * 3;
    thread::sleep(Duration::from_secs((WARM_UP + before).into()));
    traffic.empty()?;
    thread::sleep(Duration::from_secs((options.seconds - before).into()));

    let end = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let step = (options.seconds / POINTS).max(1);
    let mut drawings = Vec::new();
    for panel in Dashboard::read()?.panels()? {
        let mut series = Vec::new();
        for query in &panel.queries {
            let answer = prometheus.range(&query.expression, end, options.seconds, step)?;
            series.extend(answer.iter().map(|found| of(found, query)));
        }
        ensure!(
            panel.kind == "row" || !series.is_empty(),
            "{} has no data",
            panel.title
        );
        drawings.push(Drawing { panel, series });
    }
    traffic.stop()?;
    drop(observer);
    let path = shell::workspace().join("docs/images/dashboard.svg");
    fs::create_dir_all(path.parent().context("a folder")?)?;
    let span = (end - f64::from(options.seconds), end);
    fs::write(&path, svg::dashboard(&drawings, span, step.into()))?;
    eprintln!("picture: {}", path.display());
    Ok(())
}

/// A series as Prometheus answers, with its name made from the query's legend.
fn of(found: &Value, query: &Query) -> Series {
    let mut name = query.legend.clone();
    for (label, value) in found["metric"].as_object().into_iter().flatten() {
        name = name.replace(
            &format!("{{{{{label}}}}}"),
            value.as_str().unwrap_or_default(),
        );
    }
    let points = found["values"].as_array().into_iter().flatten();
    let number = |value: &Value| value.as_str()?.parse::<f64>().ok();
    Series {
        name,
        points: points
            .filter_map(|point| Some((point[0].as_f64()?, number(&point[1])?)))
            .filter(|(_, value)| value.is_finite())
            .collect(),
    }
}

/// Stopped when dropped: it may run as another user, who is not reached by `Child::kill`.
struct Observer(Child);

impl Drop for Observer {
    fn drop(&mut self) {
        if let Err(error) = run::stop(&self.0) {
            eprintln!("picture: the observer goes on: {error:#}");
        }
        let _ = self.0.wait();
    }
}
