//! What combinations of options come to, and what the file adds.

use super::cli::{Cli, Command};
use super::*;
use clap::Parser;

fn config(arguments: &str, surroundings: Surroundings) -> Result<Config, String> {
    let line = format!("cache-observer run {arguments}");
    let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| cli::one_line(&e))?;
    let Command::Run(run) = cli.command else {
        panic!("not run");
    };
    Config::new(&run.common, &Tables::default(), surroundings).map_err(|e| e.to_string())
}

#[test]
fn defaults() {
    let plain = config("", Surroundings::default()).unwrap();
    assert_eq!(plain.redis_ports, [6379]);
    assert_eq!(plain.memcached_ports, [11211]);
    assert!(plain.redis_sockets.auto && plain.memcached_sockets.auto);
    assert_eq!((plain.traces.len(), plain.metrics.len()), (0, 0));
    let terminal = Surroundings {
        terminal: true,
        ..Surroundings::default()
    };
    assert_eq!(config("", terminal).unwrap().traces, [Exporter::Console]);
    let endpoint = Surroundings {
        traces_endpoint: true,
        ..terminal
    };
    assert_eq!(config("", endpoint).unwrap().traces, [Exporter::Otlp]);
    let disabled = Surroundings {
        disabled: true,
        ..endpoint
    };
    assert_eq!(config("", disabled).unwrap().traces, []);
}

#[test]
fn lists() {
    let some = config(
        "--redis-port 7000,6380,7000 --traces-exporter otlp,jsonl --metrics-exporter none",
        Surroundings::default(),
    )
    .unwrap();
    assert_eq!(some.redis_ports, [6380, 7000]);
    let sockets = config(
        "--redis-socket /run/config.sock,auto --memcached-socket none",
        Surroundings::default(),
    )
    .unwrap();
    let names: Vec<_> = sockets.redis_sockets.names.iter().collect();
    assert_eq!(*names[0].text(), *"/run/config.sock");
    assert!(names.len() == 1 && sockets.redis_sockets.auto);
    assert!(sockets.memcached_sockets.is_none());
    assert_eq!(some.traces, [Exporter::Otlp, Exporter::Jsonl]);
    assert_eq!(some.metrics, []);
}

#[test]
fn options_stand_before_variables_before_defaults() {
    let surroundings = Surroundings {
        duplicate_names: true,
        sampled: Some("0.5".parse().unwrap()),
        ..Surroundings::default()
    };
    let export = |arguments| config(arguments, surroundings).unwrap().export;
    assert_eq!(export("").naming, Naming::Dup);
    assert_eq!(export("").spans.share.get(), 0.5);
    assert!(export("").spans.errors);
    let given = export("--naming stable --spans-share 0.1 --spans-per-second 7 --keys none");
    assert_eq!(given.naming, Naming::Stable);
    assert_eq!(given.spans.share.get(), 0.1);
    assert_eq!(given.spans.per_second, Some(7));
    assert_eq!(given.keys, export::Keys::None);
}

#[test]
fn samplers_are_shares() {
    for (sampler, argument, share) in [
        ("", "0.5", None),
        ("always_on", "", Some(1.0)),
        ("always_off", "", Some(0.0)),
        ("parentbased_always_off", "", Some(0.0)),
        ("traceidratio", "0.25", Some(0.25)),
        ("parentbased_traceidratio", "0.25", Some(0.25)),
        ("traceidratio", "", Some(1.0)),
        ("traceidratio", "7", Some(1.0)),
        ("jaeger_remote", "endpoint=x", None),
    ] {
        let found = sampled(|name| {
            Some(
                if name.ends_with("_ARG") {
                    argument
                } else {
                    sampler
                }
                .to_owned(),
            )
        });
        assert_eq!(found.map(Share::get), share, "{sampler} {argument}");
    }
    let mut nothing = Export::default();
    let off = Surroundings {
        sampled: Some(Share::NONE),
        ..Surroundings::default()
    };
    off.apply(&mut nothing);
    assert!(!nothing.spans.errors && nothing.spans.slow == Slow::None);
}

#[test]
fn a_variable_chooses_histograms() {
    for (value, expected) in [
        ("", None),
        ("explicit_bucket_histogram", Some(false)),
        ("Base2_Exponential_Bucket_Histogram", Some(true)),
        ("summary", None),
    ] {
        assert_eq!(exponential(Some(value.to_owned())), expected, "{value}");
    }
    let surroundings = Surroundings {
        exponential: Some(true),
        ..Surroundings::default()
    };
    let histograms = |surroundings| config("", surroundings).unwrap().tables.histograms;
    assert!(histograms(surroundings).exponential);
    assert!(!histograms(Surroundings::default()).exponential);
}

#[test]
fn refusals_are_one_line() {
    let table = [
        ("--redis-port 11211", "port 11211 is given to both"),
        ("--redis-port 0", "invalid value '0'"),
        ("--redis-port 70000", "invalid value '70000'"),
        ("--redis-port x", "invalid value 'x'"),
        ("--redis-socket /a,none", "none cannot be combined"),
        (
            "--redis-socket /a --memcached-socket /a",
            "socket /a is given to both",
        ),
        ("--memcached-socket @", "a socket needs a name"),
        ("--traces-exporter none,otlp", "none cannot be combined"),
        ("--traces-exporter zipkin", "invalid value 'zipkin'"),
        (
            "--traces-exporter console --metrics-exporter jsonl",
            "console and jsonl",
        ),
        (
            "--traces-exporter prometheus",
            "prometheus takes metrics only",
        ),
        ("--prometheus-listen 9464", "invalid value '9464'"),
        ("--health-listen 127.0.0.1:x", "invalid value '127.0.0.1:x'"),
        ("--duration soon", "invalid value 'soon'"),
        ("--duration 0s", "invalid value '0s'"),
        ("--keys half", "invalid value 'half'"),
        ("--spans-share 2", "invalid value '2'"),
        ("--spans-per-second -1", "unexpected argument '-1'"),
        ("--frobnicate", "unexpected argument '--frobnicate'"),
        ("extra", "unexpected argument 'extra'"),
    ];
    for (arguments, want) in table {
        let error = config(arguments, Surroundings::default()).unwrap_err();
        assert!(error.contains(want), "{arguments}: {error}");
        assert!(!error.contains('\n'), "{arguments}: {error}");
    }
}

mod files {
    use std::ffi::OsString;

    use super::super::effective::{changed, print};
    use super::super::load::{Loaded, load};
    use super::super::reload::Reloader;
    use super::*;

    /// A file in a place of its own, removed at the end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str, text: &str) -> Self {
            let path = format!("cache-observer-{}-{name}.toml", std::process::id());
            let path = std::env::temp_dir().join(path);
            std::fs::write(&path, text).unwrap();
            Self(path)
        }

        fn arguments(&self, line: &str) -> Vec<OsString> {
            let words = ["cache-observer", "--config"].map(OsString::from);
            let rest = line.split_whitespace().map(OsString::from);
            words
                .into_iter()
                .chain([self.0.clone().into()])
                .chain(rest)
                .collect()
        }

        fn load(&self, line: &str) -> Result<(Loaded, Config), String> {
            let surroundings = Surroundings::default();
            let loaded = load(&self.arguments(line), surroundings).map_err(|e| e.to_string())?;
            let Command::Run(run) = &loaded.cli.command else {
                panic!("not run");
            };
            let config = Config::new(&run.common, &loaded.tables, surroundings)
                .map_err(|e| e.to_string())?;
            Ok((loaded, config))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    const SHIPPED: &str = include_str!("../../../deploy/cache-observer.toml");

    #[test]
    fn the_shipped_file_equals_the_defaults() {
        let shipped = Place::new("shipped", SHIPPED);
        let nothing = Place::new("nothing", "");
        let (loaded, with) = shipped.load("run").unwrap();
        let (empty, without) = nothing.load("run").unwrap();
        assert_eq!(with, without);
        let differing = changed(&loaded.effective(&with), &empty.effective(&without));
        assert_eq!(differing, [""; 0]);
    }

    #[test]
    fn the_shipped_file_names_everything() {
        let nothing = Place::new("names", "");
        let (loaded, config) = nothing.load("run").unwrap();
        let paths = loaded
            .effective(&config)
            .into_iter()
            .map(|entry| entry.path);
        let further = [
            "servers",
            "caches",
            "rules",
            "executable",
            "container",
            "unit",
            "namespace",
            "pod",
            "service-name",
            "cache-name",
            "ignore",
            "server",
            "service",
            "port",
        ];
        for path in paths.chain(further.map(str::to_owned)) {
            let (table, key) = path.split_once('.').unwrap_or(("", &path));
            let start = match table {
                "" => 0,
                table => SHIPPED.find(&format!("\n[{table}]\n")).expect(table),
            };
            let named = SHIPPED[start..].lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ', '[']);
                line.starts_with(&format!("{key} =")) || line.starts_with(&format!("{key}]"))
            });
            assert!(named, "{path}");
        }
    }

    #[test]
    fn options_in_the_file_stand_before_defaults_only() {
        let file = Place::new(
            "precedence",
            "redis-port = [7000, 7001]\nmemcached_port = 7002\nduration = '1m'\nsummary = true\n\
             keys = 'hash'\n[spans]\npipeline = 'commands'\nper-second = 5\nslow = '20ms'\n",
        );
        let (loaded, config) = file.load("run --memcached-port 9000 --keys none").unwrap();
        assert_eq!(config.redis_ports, [7000, 7001]);
        assert_eq!(config.memcached_ports, [9000]);
        assert!(config.summary);
        assert_eq!(config.export.keys, export::Keys::None);
        assert_eq!(
            config.export.spans.pipeline,
            export::SpansPipeline::Commands
        );
        assert_eq!(config.export.spans.per_second, Some(5));
        assert_eq!(
            config.export.spans.slow,
            Slow::Over(Duration::from_millis(20))
        );
        let text = print(&loaded.effective(&config), loaded.file());
        let path = file.0.display();
        for line in [
            format!("redis-port = [7000, 7001] # {path}:1"),
            "memcached-port = [9000] # command line".to_owned(),
            "keys = \"none\" # command line".to_owned(),
            format!("duration = \"1m\" # {path}:3"),
            "role = \"auto\" # default".to_owned(),
            "# output is not set".to_owned(),
            "traces-exporter = [\"none\"] # default".to_owned(),
            format!("per-second = 5 # {path}:8"),
            format!("slow = \"20ms\" # {path}:9"),
            "errors = true # default".to_owned(),
            "idle = \"10m\" # default".to_owned(),
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let file = Place::new(
            "printed",
            "redis-port = []\nkey-patterns = ['user:{id}', \"a'b\"]\noutput = '007'\n\
             [caches]\n'10.0.0.7:6379' = 'sessions'\n[limits]\nidle = '90s'\nservices = 3\n\
             [histograms]\nlatency = [0.001, 1]\nexponential = true\n\
             [redaction]\ncommands = ['GET']\nuser = true\n\
             [[rules]]\nport = 6380\ncache_name = 'x'\nspans = { misses = true }\n\
             [[rules]]\nserver = '::1'\nignore = true\n",
        );
        let (loaded, config) = file.load("run").unwrap();
        let text = print(&loaded.effective(&config), loaded.file());
        let again = Place::new("again", &text);
        let (loaded_again, config_again) = again.load("run").unwrap();
        assert_eq!(config, config_again, "{text}");
        let (old, new) = (
            loaded.effective(&config),
            loaded_again.effective(&config_again),
        );
        assert_eq!(changed(&old, &new), [""; 0]);
    }

    #[test]
    fn what_is_wrong_has_a_line_and_a_name() {
        for (text, line, reason) in [
            (
                "\nredis-prot = 1",
                2,
                "unknown key `redis-prot`; the nearest known one is `redis-port`",
            ),
            (
                "[spans]\npipelin = 'batch'",
                2,
                "unknown key `spans.pipelin`; the nearest known one is `spans.pipeline`",
            ),
            (
                "[spans]\nmises = true",
                2,
                "the nearest known one is `spans.misses`",
            ),
            (
                "[limit]\nservices = 1",
                1,
                "unknown key `limit`; the nearest known one is `limits`",
            ),
            (
                "[limits]\n\nservice = 1",
                3,
                "unknown key `limits.service`; the nearest known one is `limits.services`",
            ),
            (
                "services = 1",
                1,
                "the nearest known one is `limits.services`",
            ),
            (
                "[[rules]]\nport = 1\nignored = true",
                3,
                "unknown key `rules.ignored`; the nearest known one is `rules.ignore`",
            ),
            (
                "[[rules]]\nport = 1\nspans = { mises = true }",
                3,
                "`spans.misses`",
            ),
            ("config = 'x'", 1, "unknown key `config`"),
            ("redis-port = 0", 1, "invalid value '0'"),
            (
                "role = 'auto'\nredis-port = ['x']",
                2,
                "invalid value 'x' for '--redis-port",
            ),
            ("keys = 'half'", 1, "invalid value 'half'"),
            ("summary = 'perhaps'", 1, "invalid value 'perhaps'"),
            ("backend = ['auto', 'auto']", 1, "backend: wants one value"),
            ("role = { a = 1 }", 1, "role: its value cannot be a table"),
            (
                "redis-port = 1\nredis_port = 2",
                2,
                "`redis-port` is set twice",
            ),
            (
                "spans-share = 1\n[spans]\nshare = 0.5",
                1,
                "spans-share is also set in line 3",
            ),
            ("redis-port = 1\nredis-port = 2", 2, "duplicate key"),
            ("redis-port = ", 1, "expected"),
            (
                "[limits]\nservices = 0",
                2,
                "limits.services: 0 is not within 1 to 65536",
            ),
            (
                "[limits]\nidle = 'soon'",
                2,
                "limits.idle: `soon` is no time",
            ),
            (
                "[limits]\nservices = 'x'",
                2,
                "limits.services: invalid type",
            ),
            (
                "[histograms]\nlatency = [1, 1]",
                2,
                "histograms.latency: each bound must be above",
            ),
            (
                "[servers]\n'10.0.0.7:6379' = 'x'",
                2,
                "`10.0.0.7:6379` is no IP address",
            ),
            ("[servers]\n'10.0.0.7' = ''", 2, "no name"),
            ("node-name = 'a b'", 1, "letters, digits, - and ."),
            (
                "[[rules]]\nport = 1\nservice-name = 'x'",
                1,
                "rules[0]: a rule with service-name cannot have port",
            ),
            (
                "[caches]\n'redis' = 'x'",
                2,
                "`redis` is no address and port",
            ),
            ("[caches]\n'10.0.0.7:6379' = ''", 2, "no name"),
            (
                "key-patterns = [\n'a',\n'b:{']",
                3,
                "key-patterns[1]: `b:{`",
            ),
            (
                "[[rules]]\nignore = true",
                1,
                "rules[0]: a rule needs port, server, service, executable",
            ),
            (
                "[[rules]]\nport = 1\n[[rules]]\nport = 2\nignore = true",
                1,
                "rules[0]: a rule needs service-name, cache-name",
            ),
            (
                "[[rules]]\nserver = 'redis'\nignore = true",
                2,
                "`redis` is no IP address",
            ),
            (
                "[[rules]]\nport = 1\nspans = { slow = 'x' }",
                3,
                "neither p99",
            ),
        ] {
            let file = Place::new("wrong", text);
            // Also where the command line stands before it.
            let error = file.load("run --redis-port 1").map(|_| ()).unwrap_err();
            let place = format!("{}:{line}: ", file.0.display());
            assert!(error.starts_with(&place), "{text}\n{error}");
            assert!(error.contains(reason), "{text}\n{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let missing = PathBuf::from("/nonexistent/file.toml");
        let error = Place(missing).load("run").map(|_| ()).unwrap_err();
        assert!(
            error.starts_with("/nonexistent/file.toml: cannot be read"),
            "{error}"
        );
    }

    #[test]
    fn a_reload_tells_what_it_can_apply() {
        let file = Place::new("reload", "redis-port = 7000\n[limits]\nservices = 3\n");
        let (loaded, config) = file.load("run").unwrap();
        let mut reloader = Reloader::new(file.arguments("run"), &loaded, &config).unwrap();
        let write = |text: &str| std::fs::write(&file.0, text).unwrap();

        write(
            "redis-port = [7000, 7001]\noutput = 'x'\n[limits]\nservices = 4\n[caches]\n'10.0.0.7:1' = 'x'\n",
        );
        let first = reloader.reload().unwrap();
        assert_eq!(first.applied, ["caches.10.0.0.7:1", "redis-port"]);
        assert_eq!(first.restart, ["limits.services", "output"]);
        assert_eq!(first.config.redis_ports, [7000, 7001]);

        write("redis-prot = 7000");
        let error = reloader.reload().unwrap_err();
        assert!(error.contains(":1: unknown key `redis-prot`"), "{error}");
        write("redis-port = 11211");
        assert!(
            reloader
                .reload()
                .unwrap_err()
                .contains("port 11211 is given to both")
        );

        // What needs a restart is as it was at the start.
        write("redis-port = 7000\n[limits]\nservices = 3\n");
        let last = reloader.reload().unwrap();
        assert_eq!(last.applied, ["caches.10.0.0.7:1", "redis-port"]);
        assert_eq!(last.restart, [""; 0]);
    }
}

#[test]
fn where_prometheus_scrapes() {
    for (host, port, address) in [
        ("", "", None),
        ("0.0.0.0", "", Some("0.0.0.0:9464")),
        ("", "9000", Some("127.0.0.1:9000")),
        ("::1", "9000", Some("[::1]:9000")),
        ("", "http", None),
        ("a b", "", None),
    ] {
        let found = prometheus_address(|name| {
            Some(if name.ends_with("_HOST") { host } else { port }.to_owned())
        });
        assert_eq!(
            found,
            address.map(|it| it.parse().unwrap()),
            "{host} {port}"
        );
    }
}
