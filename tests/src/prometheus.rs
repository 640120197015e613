//! A real Prometheus with the shipped configuration, and the shipped dashboard.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Folder, Running, eventually};
use crate::scrape;
use crate::server::free_port;

/// What the template variables of the dashboard stand for in the tests.
const VARIABLES: [(&str, &str); 3] = [
    ("$service", ".*"),
    ("$cache", ".*"),
    // Prometheus scrapes each second here.
    ("$__rate_interval", "10s"),
];

/// The folder of what is shipped beside the daemon.
#[must_use]
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// A Prometheus that scrapes one observer; killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    folder: Folder,
    _process: Running,
}

impl Prometheus {
    /// Starts one on a free port with the shipped configuration and rules, except that it scrapes this port, each second, and
    /// that alerts need not wait.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn start(observer: u16) -> Result<Self> {
        let folder = Folder::new()?;
        let shipped = deploy().join("prometheus");
        let configuration = fs::read_to_string(shipped.join("prometheus.yml"))?
            .replace("interval: 15s", "interval: 1s")
            .replace("127.0.0.1:9464", &format!("127.0.0.1:{observer}"));
        fs::write(folder.path().join("prometheus.yml"), configuration)?;
        let rules = fs::read_to_string(shipped.join("alerts.yaml"))?;
        let rules = rules.replace("for: 5m", "for: 0s");
        fs::write(folder.path().join("alerts.yaml"), rules)?;

        let port = free_port()?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new("prometheus");
        command
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let prometheus = Self {
            port,
            _process: Running::start(&mut command)?,
            folder,
        };
        let ready = || Ok(prometheus.get("/-/ready", &[]).is_ok());
        eventually(Duration::from_secs(20), "Prometheus is ready", ready)
            .with_context(|| prometheus.log())?;
        Ok(prometheus)
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The series and values of an expression now.
    ///
    /// # Errors
    ///
    /// When it is refused: with Prometheus' own words.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.api("query", &[("query", expression)])?;
        result(&data["result"])
    }

    /// The series of an expression over the last seconds.
    ///
    /// # Errors
    ///
    /// When it is refused: with Prometheus' own words.
    pub fn range(&self, expression: &str, end: f64, seconds: u32, step: u32) -> Result<Vec<Value>> {
        let parameters = [
            ("query", expression),
            ("start", &(end - f64::from(seconds)).to_string()),
            ("end", &end.to_string()),
            ("step", &step.to_string()),
        ];
        result(&self.api("query_range", &parameters)?["result"])
    }

    /// The one number of an expression; `None` when it has no series.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn number(&self, expression: &str) -> Result<Option<f64>> {
        let series = self.query(expression)?;
        let value = series.first().map(|series| series["value"][1].as_str());
        let number = |text: Option<&str>| text.context("no number")?.parse().context("no number");
        value.map(number).transpose()
    }

    /// An answer of the HTTP API: `query`, `rules`, `label/NAME/values` …
    ///
    /// # Errors
    ///
    /// When it is refused: with Prometheus' own words.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let body = self.get(&format!("/api/v1/{path}"), parameters)?;
        let answer: Value =
            serde_json::from_str(&body).with_context(|| format!("not JSON: {body}"))?;
        ensure!(
            answer["status"] == "success",
            "{path} {parameters:?}: {body}"
        );
        Ok(answer["data"].clone())
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)))
            .collect();
        // HTTP 1.0: the answer comes in one piece and ends with the connection.
        let request = format!("GET {path}?{} HTTP/1.0\r\n\r\n", parameters.join("&"));
        let answer = scrape::ask(self.port, request.as_bytes())?;
        let text = answer.text()?;
        // A refused query says why in its body.
        let answered = answer.status == 200 || text.contains("\"error\"");
        ensure!(answered, "status {}", answer.status);
        Ok(text.to_owned())
    }
}

fn result(data: &Value) -> Result<Vec<Value>> {
    Ok(data.as_array().context("no list of series")?.clone())
}

/// As the query of an URL.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// The shipped Grafana dashboard.
#[derive(Debug)]
pub struct Dashboard(Value);

/// A panel of the dashboard.
#[derive(Debug)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// `stat`, `timeseries`, `heatmap`; `row` for a heading.
    pub kind: String,
    /// Its queries with the variables filled in.
    pub queries: Vec<Query>,
    /// Left, top, width and height, in Grafana's grid of 24 columns.
    pub place: [u32; 4],
    /// Grafana's name for the unit of its values.
    pub unit: String,
    /// Whether its series are stacked.
    pub stacked: bool,
}

/// A query of a panel.
#[derive(Debug)]
pub struct Query {
    /// PromQL.
    pub expression: String,
    /// The name of each series, with `{{label}}`s.
    pub legend: String,
}

impl Dashboard {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is no JSON.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(deploy().join("grafana/cache-observer.json"))?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    /// The queries of its template variables, as Grafana writes them.
    #[must_use]
    pub fn variables(&self) -> Vec<String> {
        let list = self.0["templating"]["list"].as_array();
        let queries = list.into_iter().flatten();
        queries
            .filter_map(|variable| Some(filled(variable["query"]["query"].as_str()?)))
            .collect()
    }

    /// The queries of its annotations.
    #[must_use]
    pub fn annotations(&self) -> Vec<String> {
        let list = self.0["annotations"]["list"].as_array();
        let queries = list.into_iter().flatten();
        queries
            .filter_map(|annotation| Some(filled(annotation["expr"].as_str()?)))
            .collect()
    }

    /// Its panels, top down.
    ///
    /// # Errors
    ///
    /// When one lacks what all have.
    pub fn panels(&self) -> Result<Vec<Panel>> {
        let panels = self.0["panels"].as_array().context("no panels")?;
        panels.iter().map(Panel::read).collect()
    }
}

impl Panel {
    fn read(panel: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let title = text(&panel["title"]).context("a panel without title")?;
        let place = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64());
        ensure!(place.iter().all(Option::is_some), "{title}: no place");
        let targets = panel["targets"].as_array().into_iter().flatten();
        let queries = targets.map(|target| {
            let expression = target["expr"].as_str().context("a target without query")?;
            Ok(Query {
                expression: filled(expression),
                legend: text(&target["legendFormat"]).unwrap_or_default(),
            })
        });
        let custom = &panel["fieldConfig"]["defaults"]["custom"];
        Ok(Self {
            queries: queries
                .collect::<Result<_>>()
                .with_context(|| title.clone())?,
            kind: text(&panel["type"]).context("a panel without type")?,
            place: place.map(|side| side.unwrap_or_default() as u32),
            unit: text(&panel["fieldConfig"]["defaults"]["unit"])
                .or_else(|| text(&panel["options"]["yAxis"]["unit"]))
                .unwrap_or_default(),
            stacked: custom["stacking"]["mode"] == "normal",
            title,
        })
    }
}

/// With the template variables replaced.
fn filled(expression: &str) -> String {
    let mut filled = expression.to_owned();
    for (name, value) in VARIABLES {
        filled = filled.replace(name, value);
    }
    filled
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use yaml_rust2::{Yaml, YamlLoader};

    use super::*;

    #[test]
    fn panels_fill_their_places_once() -> Result<()> {
        let mut taken = BTreeSet::new();
        for panel in Dashboard::read()?.panels()? {
            let [left, top, width, height] = panel.place;
            for x in left..left + width {
                for y in top..top + height {
                    assert!(
                        x < 24 && taken.insert((x, y)),
                        "{} at {x}, {y}",
                        panel.title
                    );
                }
            }
            for query in panel.queries {
                assert!(!query.expression.contains('$'), "{}", query.expression);
            }
        }
        Ok(())
    }

    #[test]
    fn every_component_of_the_collectors_is_defined_and_used() -> Result<()> {
        for file in [
            "collector.yaml",
            "kubernetes/collector/gateway.yaml",
            "kubernetes/collector/enrich.yaml",
        ] {
            components(file).context(file)?;
        }
        Ok(())
    }

    fn components(file: &str) -> Result<()> {
        let text = fs::read_to_string(deploy().join(file))?;
        let documents = YamlLoader::load_from_str(&text)?;
        let collector = documents.first().context("empty")?;
        let names = |list: &Yaml| -> BTreeSet<String> {
            let names = list.as_vec().into_iter().flatten();
            names.filter_map(Yaml::as_str).map(str::to_owned).collect()
        };
        let defined = |kind: &str| -> BTreeSet<String> {
            let defined = collector[kind].as_hash().into_iter().flatten();
            let names = defined.filter_map(|(name, _)| name.as_str());
            names.map(str::to_owned).collect()
        };
        let service = &collector["service"];
        let pipelines = service["pipelines"].as_hash().context("no pipelines")?;
        for kind in ["receivers", "processors", "exporters"] {
            let named = pipelines
                .values()
                .flat_map(|pipeline| names(&pipeline[kind]));
            assert_eq!(defined(kind), named.collect(), "{file}: {kind}");
        }
        assert_eq!(defined("extensions"), names(&service["extensions"]));
        for pipeline in pipelines.values() {
            assert_eq!(pipeline["processors"][0].as_str(), Some("memory_limiter"));
        }
        Ok(())
    }
}
