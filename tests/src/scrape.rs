//! Pages over HTTP, and metrics in Prometheus's text.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What Prometheus asks for OpenMetrics with.
pub const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.body)?)
    }
}

/// Asks for a page of 127.0.0.1.
///
/// # Errors
///
/// When nobody answers within 20 s, or not in HTTP.
pub fn get(port: u16, path: &str, accept: &str) -> Result<Response> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {accept}\r\n\r\n"
    );
    ask(port, head.as_bytes())
}

/// Sends a request as it is and reads what comes until the end.
///
/// # Errors
///
/// When nobody answers within 20 s, or not in HTTP.
pub fn ask(port: u16, request: &[u8]) -> Result<Response> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.with_context(|| format!("no head: {} bytes", answer.len()))?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer)?;
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let body = match headers.get("transfer-encoding") {
        Some(encoding) if encoding == "chunked" && !body.is_empty() => joined(&body)?,
        _ => body,
    };
    if let Some(length) = headers.get("content-length")
        && !request.starts_with(b"HEAD")
    {
        ensure!(length.parse() == Ok(body.len()), "cut off: {length}");
    }
    Ok(Response {
        status: status.context("no status")?.parse()?,
        headers,
        body,
    })
}

/// A body that was sent in chunks.
fn joined(mut chunks: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n");
        let (head, rest) = chunks.split_at(end.context("cut off")?);
        let length = usize::from_str_radix(std::str::from_utf8(head)?, 16)?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(2..2 + length).context("cut off")?);
        chunks = rest.get(length + 4..).context("cut off")?;
    }
}

/// A page of metrics: values by series, such as `cache_hits_total{…}`.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of the page's labels, as they were written.
    pub series: HashMap<String, f64>,
    /// Type of each family by its name on the page.
    pub types: HashMap<String, String>,
}

impl Page {
    /// Scrapes 127.0.0.1 and checks the page.
    ///
    /// # Errors
    ///
    /// When there is none, or it contradicts itself.
    pub fn scrape(port: u16, accept: &str) -> Result<Self> {
        let response = get(port, "/metrics", accept)?;
        ensure!(response.status == 200, "status {}", response.status);
        let page = Self::parse(response.text()?)?;
        page.check()?;
        Ok(page)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut page = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("no type")?;
                let again = page.types.insert(name.to_owned(), kind.to_owned());
                ensure!(again.is_none(), "twice: {line}");
            }
            if line.starts_with('#') {
                continue;
            }
            // An exemplar stands behind the value.
            let sample = line.split_once(" # ").map_or(line, |(sample, _)| sample);
            let (series, value) = sample.rsplit_once(' ').context("no value")?;
            let value = value.parse().with_context(|| line.to_owned())?;
            let again = page.series.insert(series.to_owned(), value);
            ensure!(again.is_none(), "twice: {line}");
        }
        Ok(page)
    }

    /// The buckets of each histogram grow with their bounds, and the last is its count.
    fn check(&self) -> Result<()> {
        let mut buckets: HashMap<(&str, &str), Vec<(f64, f64)>> = HashMap::new();
        for (series, value) in &self.series {
            let Some((name, labels)) = series.split_once("_bucket{") else {
                continue;
            };
            let (labels, bound) = labels.rsplit_once(",le=\"").context("no bound")?;
            let bound = bound.trim_end_matches("\"}").replace("+Inf", "inf");
            let bound: f64 = bound.parse()?;
            buckets
                .entry((name, labels))
                .or_default()
                .push((bound, *value));
        }
        for ((name, labels), mut buckets) in buckets {
            buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            ensure!(
                buckets.is_sorted_by(|(_, one), (_, next)| one <= next),
                "{name} {labels}: {buckets:?}"
            );
            let (bound, last) = buckets[buckets.len() - 1];
            let count = self.series.get(&format!("{name}_count{{{labels}}}"));
            ensure!(
                bound.is_infinite() && Some(&last) == count,
                "{name} {labels}: {last} is not {count:?}"
            );
        }
        Ok(())
    }

    /// What may only grow: counters, and buckets, counts and sums of histograms.
    pub fn growing(&self) -> impl Iterator<Item = (&str, f64)> {
        let grows = |name: &str| {
            let histogram = ["_bucket", "_count", "_sum"].iter().any(|suffix| {
                let family = name.strip_suffix(suffix);
                let kind = family.and_then(|family| self.types.get(family));
                kind.is_some_and(|kind| kind == "histogram")
            });
            histogram || name.ends_with("_total")
        };
        self.series.iter().filter_map(move |(series, value)| {
            let name = series.split('{').next().unwrap_or_default();
            grows(name).then_some((series.as_str(), *value))
        })
    }

    /// The sum over the series of a name that have all of these labels, written as on the page: `cache_operation="get"`.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let wanted = self.series.iter().filter(|(series, _)| {
            series
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('{'))
                && labels.iter().all(|label| series.contains(label))
        });
        wanted.map(|(_, value)| value).sum()
    }

    /// Series as the observer keeps them: a histogram is one.
    #[must_use]
    pub fn instruments(&self) -> usize {
        let names = self.series.keys();
        names
            .filter(|series| {
                let name = series.split('{').next().unwrap_or_default();
                !name.ends_with("_bucket") && !name.ends_with("_sum") && name != "target_info"
            })
            .count()
    }
}
