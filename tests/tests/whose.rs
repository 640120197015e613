//! Whose traffic it is: names of services, containers, pods, units and servers, of real processes in control groups and
//! namespaces as container runtimes, the kubelet and systemd make them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::cgroup::Cgroup;
use tests::client::Redis;
use tests::namespace::{CLIENT, Pair};
use tests::observer::{Options, binary, replay};
use tests::pool::Client;
use tests::process::{Folder, eventually, load, output, python, tools};
use tests::recording::Recorder;
use tests::server::{Server, free_port};

/// Identifiers that no other test, and no container of this host, has.
struct Ids(u64);

impl Ids {
    fn new() -> Self {
        Self(u64::from(std::process::id()) << 16)
    }

    fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }

    fn container(&mut self) -> String {
        format!("{:064x}", self.next())
    }

    fn pod(&mut self) -> String {
        let number = self.next();
        format!("c0ffee00-{:04x}-4000-8000-{number:012x}", number & 0xffff)
    }
}

/// A folder of a pod's logs, as the kubelet makes it; gone at the end.
struct Logs(PathBuf);

impl Logs {
    const ALL: &str = "/var/log/pods";

    fn new(namespace: &str, pod: &str, uid: &str) -> Result<Self> {
        let path = PathBuf::from(Self::ALL).join(format!("{namespace}_{pod}_{uid}"));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        // It fails where there are others.
        let _ = fs::remove_dir(Self::ALL);
    }
}

/// A client in a control group: what it is called in keys, its environment, and what its resource must hold.
struct Case {
    key: &'static str,
    cgroup: Cgroup,
    environment: &'static [(&'static str, &'static str)],
    resource: Value,
}

/// `null`: the attribute must not be there.
fn assert_holds(key: &str, resource: &Value, wanted: &Value) -> Result<()> {
    for (name, value) in wanted.as_object().context("an object")? {
        ensure!(
            &resource[name] == value,
            "{key}: {name} in {resource}, not {value}"
        );
    }
    Ok(())
}

/// Resources by the key of the commands.
fn resources(spans: &[Value]) -> BTreeMap<String, Value> {
    let key = |span: &Value| {
        let key = span["attributes"]["cache.key"].as_str()?;
        Some((key.to_owned(), span["resource"].clone()))
    };
    spans.iter().filter_map(key).collect()
}

fn cases() -> Result<(Vec<Case>, Vec<Logs>)> {
    let mut ids = Ids::new();
    let mut container = || ids.container();
    let [docker, podman, plain, crio, named, ruled, pinned] = std::array::from_fn(|_| container());
    let [web, batch, unnamed] = std::array::from_fn(|_| ids.pod());
    let pinned_uid = format!("{:032x}", ids.next());
    let slice = |uid: &str| uid.replace('-', "_");
    let logs = vec![
        Logs::new("shop", "web-6d4cf56db6-x2x5p", &web)?,
        Logs::new("shop", "batch-0", &batch)?,
        Logs::new("kube-system", "etcd-worker-3", &pinned_uid)?,
    ];
    let case = |key, path: String, environment, resource| -> Result<Case> {
        Ok(Case {
            key,
            cgroup: Cgroup::new(&path)?,
            environment,
            resource,
        })
    };
    let burstable = "/kubepods.slice/kubepods-burstable.slice";
    let web_path = |id: &str| {
        let slice = slice(&web);
        format!("{burstable}/kubepods-burstable-pod{slice}.slice/cri-containerd-{id}.scope")
    };
    let cases = vec![
        case(
            "own",
            web_path(&named),
            &[("OTEL_SERVICE_NAME", "shop")],
            json!({"service.name": "shop", "k8s.pod.name": "web-6d4cf56db6-x2x5p", "container.id": named}),
        )?,
        case(
            "attributes",
            "/system.slice/web.service".to_owned(),
            &[(
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.version=2,service.name=cart%20front",
            )],
            json!({"service.name": "cart front", "service.version": null, "systemd.unit": "web.service"}),
        )?,
        case(
            "pod",
            web_path(&plain),
            &[],
            json!({"service.name": "web-6d4cf56db6-x2x5p", "k8s.pod.uid": web, "k8s.pod.name": "web-6d4cf56db6-x2x5p",
                "k8s.namespace.name": "shop", "k8s.pod.qos_class": "Burstable", "k8s.node.name": "worker-3",
                "container.id": plain, "systemd.unit": null}),
        )?,
        case(
            "ruled pod",
            format!("/kubepods/pod{batch}/{ruled}"),
            &[],
            json!({"service.name": "batch jobs", "k8s.pod.name": "batch-0", "k8s.pod.qos_class": "Guaranteed", "container.id": ruled}),
        )?,
        case(
            "unnamed pod",
            format!("/kubepods/besteffort/pod{unnamed}/crio-{crio}"),
            &[],
            json!({"service.name": "unknown_service:EXE", "k8s.pod.uid": unnamed, "k8s.pod.name": null,
                "k8s.namespace.name": null, "k8s.pod.qos_class": "BestEffort", "k8s.node.name": "worker-3", "container.id": crio}),
        )?,
        case(
            "static pod",
            format!(
                "{burstable}/kubepods-burstable-pod{pinned_uid}.slice/cri-containerd-{pinned}.scope"
            ),
            &[],
            json!({"service.name": "etcd-worker-3", "k8s.pod.uid": pinned_uid, "k8s.namespace.name": "kube-system", "container.id": pinned}),
        )?,
        case(
            "docker",
            format!("/system.slice/docker-{docker}.scope"),
            &[],
            json!({"service.name": "unknown_service:EXE", "container.id": docker, "k8s.pod.uid": null, "k8s.node.name": null}),
        )?,
        case(
            "podman",
            format!("/libpod_parent/libpod-{podman}"),
            &[],
            json!({"container.id": podman}),
        )?,
        case(
            "unit",
            "/system.slice/web.service/workers".to_owned(),
            &[],
            json!({"service.name": "web", "systemd.unit": "web.service", "container.id": null}),
        )?,
        case(
            "ruled unit",
            "/system.slice/system-jobs.slice/jobs@7.service".to_owned(),
            &[],
            json!({"service.name": "jobs", "systemd.unit": "jobs@7.service"}),
        )?,
        case(
            "terminal",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope".to_owned(),
            &[],
            json!({"service.name": "unknown_service:EXE", "systemd.unit": null, "container.id": null}),
        )?,
    ];
    Ok((cases, logs))
}

const RULES: &str = "memcached-port = []\nredis-socket = []\nmemcached-socket = []\n\
    [[rules]]\nnamespace = 'shop'\npod = 'batch-*'\nservice-name = 'batch jobs'\n\
    [[rules]]\nunit = 'jobs@*.service'\nservice-name = 'jobs'\n";

/// Starts each client, has it say something, and compares its resource; all are on this host.
fn compare(observer: Options, host: &str, recorded: bool) -> Result<()> {
    let server = Server::redis()?;
    let port = server.port.to_string();
    let folder = Folder::new()?;
    let file = folder.path().join("rules.toml");
    fs::write(&file, RULES)?;
    let file = file.to_str().context("a printable path")?;
    let (cases, _logs) = cases()?;
    let observer = observer
        .redis(server.port)
        .with("--config", file)
        .variable("K8S_NODE_NAME", "worker-3")
        .start()?;
    let options = ["--config", file, "--node-name", "worker-3"];
    let recorder = match recorded {
        true => Some(Recorder::start(server.port, 2, &options)?),
        false => None,
    };
    let (mut wanted, mut clients) = (Vec::new(), Vec::new());
    for case in &cases {
        let mut command = case.cgroup.inside("python3");
        command.args(["-c", CLIENT, "127.0.0.1", &port]);
        let mut client = Client::start(command.envs(case.environment.iter().copied()))?;
        let key = case.key.replace(' ', "-");
        client.say(&format!("SET {key} x"))?;
        ensure!(client.line()? == "OK", "SET");
        let id = client.process.id();
        let executable = fs::read_link(format!("/proc/{id}/exe"))?;
        let executable = executable.file_name().and_then(|name| name.to_str());
        let executable = executable.context("a printable name")?;
        let text = case.resource.to_string().replace("EXE", executable);
        let mut resource: Value = serde_json::from_str(&text)?;
        resource["process.pid"] = id.into();
        resource["host.name"] = host.into();
        resource["process.executable.name"] = executable.into();
        wanted.push((key, resource));
        // What has ended cannot be asked how it calls itself.
        clients.push(client);
    }
    let report = observer.stop()?;
    let found = resources(&report.spans);
    for (key, wanted) in &wanted {
        let resource = found.get(key).with_context(|| format!("no {key}"))?;
        assert_holds(key, resource, wanted)?;
    }
    if let Some(recorder) = recorder {
        let recorded = recorder.stop()?;
        let (_, spans, _) = replay(&recorded.file, &["--config", file])?;
        ensure!(resources(&spans) == found, "{spans:?}");
        // Rules name those that have not named themselves, also later.
        fs::write(
            file,
            "[[rules]]\nexecutable = 'python3*'\nservice-name = 'a snake'",
        )?;
        let (_, spans, _) = replay(&recorded.file, &["--config", file])?;
        let later = resources(&spans);
        for (key, name) in [("own", "shop"), ("unit", "a snake"), ("pod", "a snake")] {
            ensure!(later[key]["service.name"] == name, "{key}: {}", later[key]);
        }
    }
    Ok(())
}

#[test]
fn processes_are_named() -> Result<()> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    compare(Options::new(), host.trim(), true)
}

/// So it is in a container: paths of others are relative to its own control group, and the kernel tells another host's name.
#[test]
fn processes_are_named_from_a_namespace() -> Result<()> {
    let own = Cgroup::new("/kubepods/pod/observer")?;
    let procs = own.path().join("cgroup.procs");
    let script = "echo $$ > \"$0\" && exec unshare --cgroup --uts \
        sh -c 'echo observer-x2x5p > /proc/sys/kernel/hostname && exec \"$@\"' sh \"$@\"";
    let [procs, binary] = [procs, binary()].map(|path| path.to_string_lossy().into_owned());
    compare(
        Options::new().by(&["sh", "-c", script, &procs, &binary]),
        "worker-3",
        false,
    )
}

/// All of them are gone before anything is read of them: the observer is stopped meanwhile.
#[test]
fn processes_that_are_gone_are_named() -> Result<()> {
    let server = Server::redis()?;
    let mut ids = Ids::new();
    let [first, second] = [ids.container(), ids.container()];
    let path = |id: &str| format!("/system.slice/docker-{id}.scope");
    let cgroups = [Cgroup::new(&path(&first))?, Cgroup::new(&path(&second))?];
    let observer = Options::new().redis(server.port).start()?;
    let rounds = load(100)?.max(3);
    observer.process.signal(Signal::STOP)?;
    for (cgroup, name) in cgroups.iter().zip(["first", "second"]) {
        let script = format!(
            "i=0; while [ $i -lt {rounds} ]; do redis-cli -p {} set {name} x || exit 1; i=$((i+1)); done",
            server.port
        );
        let done = cgroup.inside("sh").args(["-c", &script]).output()?;
        ensure!(done.status.success(), "redis-cli");
    }
    observer.process.signal(Signal::CONT)?;
    let report = observer.stop()?;
    let of = |key: &'static str| {
        let spans = report.spans.iter();
        spans.filter(move |span| span["attributes"]["cache.key"] == key)
    };
    let mut processes = BTreeSet::new();
    for (key, id) in [("first", &first), ("second", &second)] {
        ensure!(of(key).count() as u64 == rounds, "{}", report.summary.0);
        for span in of(key) {
            let wanted = json!({"service.name": "unknown_service:redis-cli", "process.executable.name": "redis-cli", "container.id": id});
            assert_holds(key, &span["resource"], &wanted)?;
            processes.insert(span["resource"]["process.pid"].as_u64());
        }
    }
    ensure!(processes.len() as u64 == 2 * rounds, "{processes:?}");
    Ok(())
}

/// They live for a few milliseconds. How many of them were looked up in time is no matter of right or wrong: it is printed.
#[test]
fn short_lived_clients_are_named_or_not() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let (rounds, port) = (load(60)?.max(3), server.port.to_string());
    for _ in 0..rounds {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &port, "set", "key", "x"]);
        let done = cli.env("OTEL_SERVICE_NAME", "shop").output()?;
        ensure!(done.status.success(), "redis-cli");
        std::thread::sleep(Duration::from_millis(20));
    }
    let report = observer.stop()?;
    let spans = report.of("SET");
    ensure!(spans.len() as u64 == rounds, "{}", report.summary.0);
    let mut own = 0;
    for span in spans {
        let resource = &span["resource"];
        let named = resource["service.name"] == "shop";
        own += u32::from(named);
        ensure!(
            named || resource["service.name"] == "unknown_service:redis-cli",
            "{resource}"
        );
        ensure!(
            resource["process.executable.name"] == "redis-cli",
            "{resource}"
        );
    }
    println!("{own} of {rounds} by the name that they gave themselves");
    Ok(())
}

/// Numbers of processes are the host's: in a namespace of its own the observer would find others under them.
#[test]
fn processes_of_another_namespace_are_not_confused() -> Result<()> {
    let server = Server::redis()?;
    let id = Ids::new().container();
    let cgroup = Cgroup::new(&format!("/docker/{id}"))?;
    let binary = binary().to_string_lossy().into_owned();
    let observer = Options::new()
        .by(&["unshare", "--pid", "--fork", "--mount-proc", &binary])
        .redis(server.port)
        .start()?;
    let mut command = cgroup.inside("python3");
    command.args(["-c", CLIENT, "127.0.0.1", &server.port.to_string()]);
    let mut client = Client::start(command.env("OTEL_SERVICE_NAME", "out of sight"))?;
    client.say("SET key x")?;
    ensure!(client.line()? == "OK", "SET");
    eventually(Duration::from_secs(10), "it is told", || {
        Ok(!observer.spans()?.is_empty())
    })?;
    // The first process of a namespace gets no signal that it does not wait for, and its parent passes none on.
    let id_of = observer.process.id();
    let children = fs::read_to_string(format!("/proc/{id_of}/task/{id_of}/children"))?;
    output("kill", ["-INT", children.trim()])?;
    let report = observer.finish(Duration::from_secs(5))?;
    ensure!(report.log.contains("--pid host"), "{}", report.log);
    let found = resources(&report.spans);
    let wanted = json!({"service.name": "unknown_service:python3", "container.id": id, "process.pid": client.process.id()});
    assert_holds("key", found.get("key").context("no span")?, &wanted)
}

/// Each with a connection and a name of its own.
const THREADS: &str = "
import socket, sys, threading
def run(number):
    with open(f'/proc/self/task/{threading.get_native_id()}/comm', 'w') as file:
        file.write(f'thread-{number}')
    stream = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    stream.sendall(b'PING\\r\\n')
    assert stream.recv(100) == b'+PONG\\r\\n'
threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('done', flush=True)
sys.stdin.readline()
";

#[test]
fn threads_are_their_process() -> Result<()> {
    let server = Server::redis()?;
    let observer = Options::new().redis(server.port).start()?;
    let mut command = Command::new("python3");
    command.args(["-c", THREADS, &server.port.to_string()]);
    let mut client = Client::start(command.env("OTEL_SERVICE_NAME", "threads"))?;
    ensure!(client.line()? == "done");
    let id = client.process.id();
    let report = observer.stop()?;
    let pings = report.of("PING");
    // One is that of whoever waited for the server.
    ensure!(pings.len() == 8, "{}", report.summary.0);
    for span in pings {
        let wanted = json!({"service.name": "threads", "process.pid": id});
        assert_holds("PING", &span["resource"], &wanted)?;
        let name = span["resource"]["process.executable.name"].as_str();
        ensure!(
            name.is_some_and(|name| name.starts_with("python3")),
            "{span}"
        );
    }
    Ok(())
}

#[test]
fn servers_are_named() -> Result<()> {
    let pair = Pair::new()?;
    let port = free_port()?;
    let _server = pair.redis(port)?;
    let [four, six] = [Pair::ADDRESSES[1], Pair::ADDRESSES_6[1]];
    let folder = Folder::new()?;
    let [hosts, file] = ["hosts", "config.toml"].map(|name| folder.path().join(name));
    fs::write(
        &hosts,
        format!("127.0.0.1 localhost\n{four} redis-1.example.com redis-1\n{six} redis-six\n"),
    )?;
    let config = |rest: &str| {
        format!(
            "redis-port = {port}\nmemcached-port = []\nredis-socket = []\nmemcached-socket = []\n{rest}"
        )
    };
    fs::write(&file, config(""))?;
    let name = file.to_str().context("a printable path")?;
    let observer = Options::new()
        .with("--config", name)
        .with("--metrics-exporter", "jsonl")
        .start()?;
    let recorder = Recorder::start(port, 2, &[])?;
    // With a file of hosts of its own, as in a container.
    let number = port.to_string();
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let named = |address: &str| {
        let mut command = pair.inside(0, "unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&hosts);
        Client::start(command.args(["python3", "-c", CLIENT, address, &number]))
    };
    let mut clients = [named(four)?, named(six)?, pair.client(four, port)?];
    for (client, key) in clients.iter_mut().zip(["four", "six", "plain"]) {
        client.say(&format!("SET {key} x"))?;
        ensure!(client.line()? == "OK", "SET");
    }
    eventually(Duration::from_secs(10), "all are told", || {
        Ok(observer.spans()?.len() >= 3)
    })?;
    let recorded = recorder.stop()?;
    // The configuration stands before files of hosts, also for connections that are there.
    let rest = format!("[servers]\n'{four}' = 'primary'\n[caches]\n'[{six}]:{port}' = 'pages'\n");
    fs::write(&file, config(&rest))?;
    observer.process.signal(Signal::HUP)?;
    eventually(Duration::from_secs(10), "it is read again", || {
        Ok(observer.log()?.contains("configuration reloaded"))
    })?;
    for client in &mut clients {
        client.say("GET again")?;
        client.line()?;
    }
    let report = observer.stop()?;
    // The name of the span, of the server and of the cache; the peer's address stays.
    let told = |spans: &[Value]| -> Vec<[String; 4]> {
        let of = |span: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let attributes = &span["attributes"];
            [
                text(&span["name"]),
                text(&attributes["server.address"]),
                text(&attributes["cache.name"]),
                text(&attributes["network.peer.address"]),
            ]
        };
        let of_clients = spans.iter().filter(|span| {
            let operation = &span["attributes"]["db.operation.name"];
            operation == "SET" || operation == "GET"
        });
        of_clients.map(of).collect()
    };
    let row = |operation: &str, host: &str, address: &str, cache: Option<&str>| {
        let join = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let cache = cache.map_or(join.clone(), str::to_owned);
        [
            format!("{operation} {join}"),
            host.to_owned(),
            cache,
            address.to_owned(),
        ]
    };
    let first = [
        row("SET", "redis-1.example.com", four, None),
        row("SET", "redis-six", six, None),
        row("SET", four, four, None),
    ];
    let second = [
        row("GET", "primary", four, None),
        row("GET", "redis-six", six, Some("pages")),
        row("GET", "primary", four, None),
    ];
    assert_eq!(told(&report.spans), [&first[..], &second[..]].concat());
    for cache in [&first[0][2], &first[1][2], &second[0][2], "pages"] {
        let count = report.metric("cache.operations", &[("cache.name", cache)]);
        assert!(count > 0.0, "{cache}");
    }
    let (_, spans, _) = replay(&recorded.file, &[])?;
    assert_eq!(told(&spans), first);
    Ok(())
}

#[test]
fn libraries_say_what_they_are() -> Result<()> {
    let server = Server::redis()?;
    let port = server.port.to_string();
    let observer = Options::new().redis(server.port).start()?;
    let script = "import redis, sys; redis.Redis(port=sys.argv[1]).get('redis-py'); print(redis.__version__)";
    let python = output(python(), ["-c", script, &port])?;
    let script = "const Redis = require('ioredis'); const redis = new Redis(process.argv[1]);
        redis.get('ioredis').then(() => { console.log(require('ioredis/package.json').version); redis.quit(); })";
    let packages = tools().with_file_name("node").join("node_modules");
    let packages = format!("NODE_PATH={}", packages.display());
    let node = output("env", [&packages, "node", "-e", script, &port])?;
    let mut redis = Redis::connect(("127.0.0.1", server.port))?;
    redis.command(&["HELLO", "2", "SETNAME", "by-hello"])?;
    redis.command(&["CLIENT", "SETINFO", "LIB-NAME", "by-hand(1.0)"])?;
    redis.command(&["CLIENT", "SETINFO", "LIB-VER", "7"])?;
    redis.command(&["GET", "by-hand(1.0)"])?;
    let report = observer.stop()?;
    for (name, version) in [
        ("redis-py", python.trim()),
        ("ioredis", node.trim()),
        ("by-hand(1.0)", "7"),
    ] {
        let gets = report.of("GET");
        let mut found = gets.iter().map(|span| &span["attributes"]);
        let found = found.find(|attributes| attributes["cache.key"] == name);
        let found = found.with_context(|| format!("no GET of {name}"))?;
        let library = &found["cache.client.library.name"];
        ensure!(library == name, "{found}");
        let told = &found["cache.client.library.version"];
        ensure!(told == version, "{found}, not {version}");
        let client = if name.starts_with("by") {
            Value::from("by-hello")
        } else {
            Value::Null
        };
        ensure!(found["cache.client.name"] == client, "{found}");
    }
    Ok(())
}
