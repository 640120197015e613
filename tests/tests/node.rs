//! A node of Kubernetes as far as its kernel and files go: cgroups and folders of logs as the kubelet makes them, containers in
//! pods, and an observer in a container that is started as the chart's pod is. There is no kubelet.

#[path = "node/cgroups.rs"]
mod cgroups;
#[path = "node/pod.rs"]
mod pod;
#[allow(dead_code, reason = "shared with the tests of the chart")]
#[path = "kubernetes/tools.rs"]
mod tools;

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tests::collector::Collector;
use tests::container::{Engine, REDIS_SERVER};
use tests::namespace::Pair;
use tests::process::{Folder, Running, eventually};

use cgroups::{Cgroups, Driver};

/// A pod with one container.
struct Workload {
    namespace: &'static str,
    name: &'static str,
    uid: &'static str,
    /// As the kubelet has it in names.
    qos: &'static str,
    /// As the pod's status has it.
    class: &'static str,
}

const CLIENT: Workload = Workload {
    namespace: "shop",
    name: "web-6d4cf56db6-x2x5p",
    uid: "8d8f1f23-5b1e-4d1c-9c5e-2f9b8a7c6d5e",
    qos: "burstable",
    class: "Burstable",
};

const SERVER: Workload = Workload {
    namespace: "caches",
    name: "redis-0",
    uid: "0b6f3a52-97d4-4f0e-8a3f-6c1d2e3f4a5b",
    qos: "besteffort",
    class: "BestEffort",
};

/// What is printed of the resource and of the kind of the first span of each group of spans.
fn groups(printed: &str) -> Vec<&str> {
    let groups = printed.split("ResourceSpans #").skip(1);
    let groups = groups.filter_map(|group| group.split("\nAttributes:").next());
    groups.collect()
}

fn on_a_node(driver: Driver, cgroup_namespace: &str) -> Result<()> {
    let [apart, node] = [Pair::new()?, Pair::new()?];
    let cgroups = Cgroups::new(driver)?;
    let logs = Folder::new()?;
    let engine = Engine::new()?;
    let (redis, image) = (engine.redis()?, engine.observer()?);
    for pod in [&CLIENT, &SERVER] {
        let name = format!("{}_{}_{}", pod.namespace, pod.name, pod.uid);
        fs::create_dir(logs.path().join(name))?;
    }

    let network = |end| format!("--network=ns:{}", apart.path(end));
    let server = engine.start(&[&network(1)], &redis, &REDIS_SERVER)?;
    cgroups.place(SERVER.qos, SERVER.uid, &server)?;
    let command = ["redis-cli", "-h", Pair::ADDRESSES[1]];
    let (client, mut cli) = engine.attend(&[&network(0)], &redis, &command)?;
    cgroups.place(CLIENT.qos, CLIENT.uid, &client)?;

    // The node's own end has the node's address.
    let collector = Collector::start_in(&node, 1)?;
    let pod = pod::Pod::new(&[
        "otlp.endpoint=http://$(HOST_IP):4317",
        r#"config="role = \"both\"""#,
    ])?;
    let mut options = pod.options(logs.path(), Pair::ADDRESSES[1])?;
    options.push(format!("--network=ns:{}", node.path(0)));
    options.push(format!("--cgroupns={cgroup_namespace}"));
    let mut words = engine.run(
        &options.iter().map(String::as_str).collect::<Vec<_>>(),
        &image,
    );
    words.extend(pod.arguments()?);
    let log = logs.path().join("log");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    let mut observer = Running::start(command.stderr(File::create(&log)?))?;
    let said = || fs::read_to_string(&log).unwrap_or_default();
    eventually(
        Duration::from_secs(90),
        "the observer says that it observes",
        || {
            if let Some(status) = observer.child().try_wait()? {
                anyhow::bail!("it ended at once: {status}");
            }
            Ok(said().contains("observing"))
        },
    )
    .with_context(said)?;

    for (command, reply) in [("SET key value", "OK"), ("GET key", "value")] {
        cli.say(command)?;
        ensure!(cli.line()? == reply);
    }
    collector.expect(&[
        "Name           : GET",
        "SPAN_KIND_CLIENT",
        "SPAN_KIND_SERVER",
    ])?;
    observer.signal(Signal::TERM)?;
    ensure!(observer.wait(Duration::from_secs(10))? == 0, "{}", said());
    ensure!(!said().contains("WARN"), "{}", said());

    let printed = collector.printed()?;
    for (pod, container, kind) in [(&CLIENT, &client, "CLIENT"), (&SERVER, &server, "SERVER")] {
        let kind = format!("SPAN_KIND_{kind}");
        let groups = groups(&printed);
        let groups: Vec<_> = groups
            .iter()
            .filter(|group| group.contains(&kind))
            .collect();
        ensure!(!groups.is_empty(), "{kind}: {printed}");
        for group in groups {
            for (name, value) in [
                ("k8s.namespace.name", pod.namespace),
                ("k8s.pod.name", pod.name),
                ("k8s.pod.uid", pod.uid),
                ("k8s.pod.qos_class", pod.class),
                ("k8s.node.name", pod::NODE),
                ("host.name", pod::NODE),
                ("container.id", &container.id),
                ("service.name", pod.name),
                ("process.pid", &container.pid.to_string()),
            ] {
                let told = group.contains(&format!("{name}: Str({value})"))
                    || group.contains(&format!("{name}: Int({value})"));
                ensure!(told, "{kind}: no {name} {value} in {group}");
            }
        }
    }
    Ok(())
}

/// One after the other: each observer sees the traffic of all containers there are.
#[test]
fn pods_and_containers_are_named() -> Result<()> {
    on_a_node(Driver::Cgroupfs, "host").context("cgroupfs")?;
    on_a_node(Driver::Systemd, "private").context("systemd")
}
