//! What the file says of some connections only: names of caches, rules. Resolved once for each connection and process.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::source::event::Address;

use super::export::{Export, Keys, Share, Slow, SpanPolicy, SpansPipeline};
use super::file::Tables;

/// Most rules, each of which is looked at for a new connection.
const MAX_RULES: usize = 256;
/// Most names of caches, and of servers.
const MAX_NAMES: usize = 4_096;
/// Most bytes of a name: it is a label of each series.
const MAX_NAME: usize = 128;

/// Parts of a [`SpanPolicy`]; what is not set is left as it is. `[spans]`, and `spans` of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SpanRule {
    /// Spans of commands that left together.
    pub pipeline: Option<SpansPipeline>,
    /// Keep what failed.
    pub errors: Option<bool>,
    /// Keep what missed a key or field.
    pub misses: Option<bool>,
    /// Keep what was slow.
    pub slow: Option<Slow>,
    /// How much of the rest is kept.
    pub share: Option<Share>,
    /// Most spans of the rest in a second, for each service; 0: no limit.
    pub per_second: Option<u32>,
    /// Keep health checks.
    pub health_checks: Option<bool>,
    /// Connections that begin and end are spans, too.
    pub connections: Option<bool>,
}

impl SpanRule {
    /// Sets what is given.
    pub fn apply(&self, policy: &mut SpanPolicy) {
        fn set<T: Copy>(to: &mut T, from: Option<T>) {
            *to = from.unwrap_or(*to);
        }
        set(&mut policy.pipeline, self.pipeline);
        set(&mut policy.errors, self.errors);
        set(&mut policy.misses, self.misses);
        set(&mut policy.slow, self.slow);
        set(&mut policy.share, self.share);
        policy.per_second = self.per_second.or(policy.per_second);
        set(&mut policy.health_checks, self.health_checks);
        set(&mut policy.connections, self.connections);
    }
}

impl From<&SpanPolicy> for SpanRule {
    fn from(policy: &SpanPolicy) -> Self {
        Self {
            pipeline: Some(policy.pipeline),
            errors: Some(policy.errors),
            misses: Some(policy.misses),
            slow: Some(policy.slow),
            share: Some(policy.share),
            per_second: policy.per_second,
            health_checks: Some(policy.health_checks),
            connections: Some(policy.connections),
        }
    }
}

impl Serialize for Slow {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => to.serialize_str("none"),
            Self::P99 => to.serialize_str("p99"),
            Self::Over(time) => to.collect_str(&humantime::format_duration(*time)),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.get())
    }
}

/// A text in which `*` stands for any characters, also for none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    fn fits(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut left) = parts.next().and_then(|first| text.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return left.is_empty();
        };
        for part in parts {
            let Some(at) = left.find(part) else {
                return false;
            };
            left = &left[at + part.len()..];
        }
        left.ends_with(last)
    }
}

/// What rules look at of an observed process. Of captures, and before the first command, nothing is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who<'a> {
    /// `service.name`.
    pub service: Option<&'a str>,
    /// `process.executable.name`.
    pub executable: Option<&'a str>,
    /// `container.id`.
    pub container: Option<&'a str>,
    /// The systemd unit.
    pub unit: Option<&'a str>,
    /// `k8s.namespace.name`.
    pub namespace: Option<&'a str>,
    /// `k8s.pod.name`.
    pub pod: Option<&'a str>,
}

impl<'a> Who<'a> {
    /// What patterns are about.
    fn names(&self) -> [Option<&'a str>; 5] {
        [
            self.executable,
            self.container,
            self.unit,
            self.namespace,
            self.pod,
        ]
    }
}

/// An address, an address and port, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Server {
    /// Of one port, or of all.
    Inet(IpAddr, Option<u16>),
    /// A path, or an abstract name behind an `@`.
    Unix(String),
}

impl Server {
    fn fits(&self, server: Address) -> bool {
        match (self, server) {
            (Self::Inet(address, port), Address::Inet(server)) => {
                *address == server.ip() && port.is_none_or(|port| port == server.port())
            }
            (Self::Unix(socket), Address::Unix { .. }) => is_socket(socket, server),
            _ => false,
        }
    }
}

/// Whether a text is a unix socket, as a server's address is written.
fn names_socket(text: &str) -> bool {
    text.starts_with(['/', '@'])
}

/// Whether that is the name of this unix socket.
fn is_socket(text: &str, server: Address) -> bool {
    server.name().is_some_and(|name| *name.text() == *text)
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if names_socket(text) {
            return Ok(Self::Unix(text.to_owned()));
        }
        let whole = text.parse::<SocketAddr>().ok();
        whole
            .map(|server| Self::Inet(server.ip(), Some(server.port())))
            .or_else(|| text.parse().ok().map(|address| Self::Inet(address, None)))
            .ok_or_else(|| format!("`{text}` is no IP address, alone or with a port as in 10.0.0.7:6379 or [::1]:6379, and no unix socket such as /run/redis.sock"))
    }
}

impl TryFrom<String> for Server {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address, Some(port)) => SocketAddr::new(*address, *port).fmt(f),
            Self::Inet(address, None) => address.fmt(f),
            Self::Unix(socket) => f.write_str(socket),
        }
    }
}

impl Serialize for Server {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// One of `[[rules]]`: what connections it is about, all of which must fit, and what holds for them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Rule {
    /// The server's port.
    pub port: Option<u16>,
    /// The server.
    pub server: Option<Server>,
    /// `service.name` of the observed process.
    pub service: Option<String>,
    /// `process.executable.name`.
    pub executable: Option<Pattern>,
    /// `container.id`.
    pub container: Option<Pattern>,
    /// The systemd unit.
    pub unit: Option<Pattern>,
    /// `k8s.namespace.name`.
    pub namespace: Option<Pattern>,
    /// `k8s.pod.name`.
    pub pod: Option<Pattern>,
    /// `service.name`, of a process that has given itself none.
    pub service_name: Option<String>,
    /// `cache.name`.
    pub cache_name: Option<String>,
    /// How keys appear.
    pub keys: Option<Keys>,
    /// Its traffic is not reported.
    pub ignore: Option<bool>,
    /// Which spans are exported.
    pub spans: Option<SpanRule>,
}

impl Rule {
    fn fits(&self, server: Address, who: &Who<'_>) -> bool {
        self.port.is_none_or(|port| server.port() == Some(port))
            && self.server.as_ref().is_none_or(|one| one.fits(server))
            && self
                .service
                .as_deref()
                .is_none_or(|name| who.service == Some(name))
            && self.fits_process(who)
    }

    fn fits_process(&self, who: &Who<'_>) -> bool {
        let mut wanted = self.patterns().into_iter().zip(who.names());
        wanted.all(|(pattern, name)| match pattern {
            Some(pattern) => name.is_some_and(|name| pattern.fits(name)),
            None => true,
        })
    }

    /// In the order of [`Who::names`].
    fn patterns(&self) -> [Option<&Pattern>; 5] {
        let Self {
            executable,
            container,
            unit,
            namespace,
            pod,
            ..
        } = self;
        [executable, container, unit, namespace, pod].map(Option::as_ref)
    }

    fn check(&self) -> Result<(), String> {
        let of_connection = self.port.is_some() || self.server.is_some() || self.service.is_some();
        let of_process = self.patterns().iter().any(Option::is_some);
        if !of_connection && !of_process {
            return Err("a rule needs port, server, service, executable, container, unit, namespace or pod, to say what it is about".to_owned());
        }
        let sets = self.service_name.is_some()
            || self.cache_name.is_some()
            || self.keys.is_some()
            || self.ignore.is_some()
            || self.spans.is_some();
        if !sets {
            return Err(
                "a rule needs service-name, cache-name, keys, spans or ignore, to say what holds"
                    .to_owned(),
            );
        }
        if self.service_name.is_some() && of_connection {
            return Err("a rule with service-name cannot have port, server or service: a process has one name, whatever it is connected to".to_owned());
        }
        self.service_name.as_deref().map_or(Ok(()), name)?;
        self.cache_name.as_deref().map_or(Ok(()), name)
    }
}

fn name(name: &str) -> Result<(), String> {
    match name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        true => Err(format!(
            "`{}` is no name of 1 to {MAX_NAME} bytes",
            name.escape_debug()
        )),
        false => Ok(()),
    }
}

/// # Errors
///
/// The index of a rule that makes no sense, and why.
pub(super) fn check(rules: &[Rule]) -> Result<(), (usize, String)> {
    if rules.len() > MAX_RULES {
        return Err((MAX_RULES, format!("more than {MAX_RULES} rules")));
    }
    for (index, rule) in rules.iter().enumerate() {
        rule.check().map_err(|reason| (index, reason))?;
    }
    Ok(())
}

/// # Errors
///
/// The key whose address or name is none, and why.
pub(super) fn check_caches(caches: &BTreeMap<String, String>) -> Result<(), (&str, String)> {
    for (count, (server, cache)) in caches.iter().enumerate() {
        let error = |reason| Err((server.as_str(), reason));
        if count >= MAX_NAMES {
            return error(format!("more than {MAX_NAMES} names"));
        }
        if !names_socket(server) && server.parse::<SocketAddr>().is_err() {
            return error(format!(
                "`{server}` is no address and port such as 10.0.0.7:6379 or [::1]:6379, and no unix socket such as /run/redis.sock"
            ));
        }
        name(cache).map_err(|reason| (server.as_str(), reason))?;
    }
    Ok(())
}

/// # Errors
///
/// The key whose address or name is none, and why.
pub(super) fn check_servers(servers: &BTreeMap<String, String>) -> Result<(), (&str, String)> {
    for (count, (address, server)) in servers.iter().enumerate() {
        let error = |reason| Err((address.as_str(), reason));
        if count >= MAX_NAMES {
            return error(format!("more than {MAX_NAMES} names"));
        }
        if address.parse::<IpAddr>().is_err() {
            return error(format!(
                "`{address}` is no IP address such as 10.0.0.7 or ::1"
            ));
        }
        name(server).map_err(|reason| (address.as_str(), reason))?;
    }
    Ok(())
}

/// What holds for one connection of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// `server.address`; `None`: the file says nothing.
    pub server: Option<Arc<str>>,
    /// `cache.name`; `None`: `server.address` and port, or the socket.
    pub cache: Option<String>,
    /// What of its spans leaves, and how it is named.
    pub export: Arc<Export>,
    /// Its traffic is not reported.
    pub ignore: bool,
}

/// What holds for connections. Immutable: another takes its place when the file is read again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    servers: HashMap<IpAddr, Arc<str>>,
    caches: HashMap<(IpAddr, u16), String>,
    sockets: HashMap<String, String>,
    rules: Vec<Rule>,
    export: Arc<Export>,
}

impl Rules {
    /// From what was checked: names of servers and caches, rules. `export` holds where no rule says otherwise.
    #[must_use]
    pub fn new(tables: &Tables, export: Export) -> Self {
        let named = tables.caches.iter().filter_map(|(server, name)| {
            let server: SocketAddr = server.parse().ok()?;
            Some(((server.ip(), server.port()), name.clone()))
        });
        let sockets = tables.caches.iter();
        let sockets = sockets.filter(|(server, _)| names_socket(server));
        let servers = tables.servers.iter().filter_map(|(address, name)| {
            let address: IpAddr = address.parse().ok()?;
            Some((address, name.as_str().into()))
        });
        Self {
            servers: servers.collect(),
            caches: named.collect(),
            sockets: sockets
                .map(|(server, name)| (server.clone(), name.clone()))
                .collect(),
            rules: tables.rules.clone(),
            export: Arc::new(export),
        }
    }

    /// All rules that fit, in their order: a later one stands before an earlier one.
    #[must_use]
    pub fn resolve(&self, server: Address, who: &Who<'_>) -> Resolved {
        let cache = match server {
            Address::Inet(server) => self.caches.get(&(server.ip(), server.port())),
            Address::Unix { name, .. } => name.and_then(|name| self.sockets.get(&*name.text())),
        };
        let address = server.inet().map(|server| server.ip());
        let mut resolved = Resolved {
            server: address.and_then(|address| self.servers.get(&address).cloned()),
            cache: cache.cloned(),
            export: Arc::clone(&self.export),
            ignore: false,
        };
        for rule in self.rules.iter().filter(|rule| rule.fits(server, who)) {
            if let Some(name) = &rule.cache_name {
                resolved.cache = Some(name.clone());
            }
            resolved.ignore = rule.ignore.unwrap_or(resolved.ignore);
            if rule.keys.is_some() || rule.spans.is_some() {
                let export = Arc::make_mut(&mut resolved.export);
                export.keys = rule.keys.unwrap_or(export.keys);
                if let Some(spans) = &rule.spans {
                    spans.apply(&mut export.spans);
                }
            }
        }
        resolved
    }

    /// Those that name services.
    #[must_use]
    pub fn service_names(&self) -> ServiceNames {
        let rules = self.rules.iter();
        let naming = rules.filter(|rule| rule.service_name.is_some());
        ServiceNames(naming.cloned().collect())
    }
}

/// Names that the file gives to services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceNames(Vec<Rule>);

impl ServiceNames {
    /// The name that the last rule gives which fits. No rule of these asks for `service.name`.
    #[must_use]
    pub fn find(&self, who: &Who<'_>) -> Option<&str> {
        let mut rules = self.0.iter().rev();
        let found = rules.find(|rule| rule.fits_process(who))?;
        found.service_name.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::event::SocketName;

    fn rule(text: &str) -> Rule {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn later_rules_stand_before_earlier_ones() {
        let caches = [
            ("10.0.0.7:6379", "sessions"),
            ("[::1]:6379", "local"),
            ("/run/rules.sock", "over there"),
        ];
        let caches = caches.map(|(server, name)| (server.to_owned(), name.to_owned()));
        let tables = Tables {
            caches: caches.into(),
            servers: [("10.0.0.7".to_owned(), "redis-1".to_owned())].into(),
            rules: vec![
                rule("port = 6380\ncache-name = 'carts'\nkeys = 'hash'"),
                rule("service = 'web'\nspans = { misses = true, slow = '5ms' }"),
                rule("server = '10.0.0.7'\nport = 6380\nkeys = 'none'"),
                rule("server = '10.0.0.9:6380'\nignore = true"),
                rule("server = '/run/rules.sock'\nkeys = 'hash'"),
                rule("namespace = 'shop-*'\npod = 'web-*'\nignore = true"),
            ],
            ..Tables::default()
        };
        let rules = Rules::new(&tables, Export::default());
        let resolve = |server: &str, service| {
            let who = Who {
                service,
                ..Who::default()
            };
            rules.resolve(server.parse().unwrap(), &who)
        };
        let plain = resolve("10.0.0.7:6379", None);
        assert_eq!(plain.cache.as_deref(), Some("sessions"));
        assert_eq!(plain.server.as_deref(), Some("redis-1"));
        assert_eq!(resolve("10.0.0.8:6379", None).server, None);
        assert!(Arc::ptr_eq(&plain.export, &rules.export));
        assert_eq!(resolve("[::1]:6379", None).cache.as_deref(), Some("local"));
        assert_eq!(resolve("10.0.0.8:6379", None).cache, None);
        let carts = resolve("10.0.0.8:6380", Some("web"));
        assert_eq!(carts.cache.as_deref(), Some("carts"));
        assert_eq!(carts.export.keys, Keys::Hash);
        assert!(carts.export.spans.misses && carts.export.spans.errors);
        assert!(!resolve("10.0.0.8:6380", Some("worker")).export.spans.misses);
        assert_eq!(resolve("10.0.0.7:6380", None).export.keys, Keys::None);
        let socket = Address::Unix {
            name: SocketName::new("/run/rules.sock").ok(),
            client: 1,
        };
        let of_socket = rules.resolve(socket, &Who::default());
        assert_eq!(of_socket.cache.as_deref(), Some("over there"));
        assert_eq!(of_socket.export.keys, Keys::Hash);
        assert!(resolve("10.0.0.9:6380", None).ignore);
        assert!(!resolve("10.0.0.9:6379", None).ignore);
    }
    #[test]
    fn rules_look_at_processes() {
        let rules = Rules::new(
            &Tables {
                rules: vec![
                    rule("executable = 'python3*'\nservice-name = 'jobs'"),
                    rule("namespace = 'shop'\npod = 'web-*'\nservice-name = 'shop web'"),
                    rule("unit = 'web@*.service'\nkeys = 'none'"),
                ],
                ..Tables::default()
            },
            Export::default(),
        );
        let names = rules.service_names();
        let python = Who {
            executable: Some("python3.11"),
            ..Who::default()
        };
        assert_eq!(names.find(&python), Some("jobs"));
        let pod = Who {
            namespace: Some("shop"),
            pod: Some("web-6d4cf56db6-x2x5p"),
            ..python
        };
        assert_eq!(names.find(&pod), Some("shop web"), "the later one");
        let other = Who {
            namespace: Some("shop-2"),
            executable: Some("node"),
            ..pod
        };
        assert_eq!(names.find(&other), None);
        assert_eq!(names.find(&Who::default()), None);
        let unit = Who {
            unit: Some("web@2.service"),
            ..other
        };
        let server = "10.0.0.7:6379".parse().unwrap();
        assert_eq!(rules.resolve(server, &unit).export.keys, Keys::None);
        assert_eq!(rules.resolve(server, &other).export.keys, Keys::Full);
    }

    #[test]
    fn patterns() {
        for (pattern, fits, not) in [
            ("web", &["web"][..], &["", "web-1", "aweb"][..]),
            ("web-*", &["web-", "web-1"], &["web", "aweb-1"]),
            ("*.service", &[".service", "a.service"], &["a.services"]),
            ("a*b*c", &["abc", "a-b-b-c", "abcbc"], &["ac", "acb", "ab"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("*", &["", "x"], &[]),
        ] {
            let of = Pattern(pattern.to_owned());
            assert!(fits.iter().all(|text| of.fits(text)), "{pattern}");
            assert!(!not.iter().any(|text| of.fits(text)), "{pattern}");
        }
    }
}
