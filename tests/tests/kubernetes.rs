//! What `deploy/kubernetes` holds, with the tools that it is written for: helm, kubectl and kustomize, and the schemas of
//! Kubernetes' own objects. There is no cluster here: what the pods are told is given to an observer on this host.

#[path = "kubernetes/pod.rs"]
mod pod;
#[path = "kubernetes/standards.rs"]
mod standards;
#[path = "kubernetes/tools.rs"]
mod tools;

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::client::Redis;
use tests::collector::Collector;
use tests::process::{Folder, Running, eventually, output, python};
use tests::prometheus::deploy;
use tests::scrape::get;
use tests::server::{Server, free_port};

use pod::Pod;
use tools::{IMAGE, by_schema, documents, folder, of_kind, rendered, tool, written};

/// The oldest version of Kubernetes that the chart allows, and the newest that there are schemas of.
const VERSIONS: [&str; 2] = ["1.25", "1.37"];

#[test]
fn the_manifest_is_the_chart_rendered() -> Result<()> {
    let manifest = fs::read_to_string(folder().join("manifest.yaml"))?;
    let head: usize = manifest
        .lines()
        .take_while(|line| line.starts_with('#'))
        .map(|line| line.len() + 1)
        .sum();
    ensure!(
        manifest[head..] == rendered(&[])?,
        "render it again, as its first lines say"
    );
    Ok(())
}

#[test]
fn helm_finds_nothing_to_complain_of() -> Result<()> {
    let told = tool("helm", ["lint", "--strict", "chart", "--set", IMAGE])?;
    ensure!(
        !told.contains("WARNING") && !told.contains("ERROR"),
        "{told}"
    );
    // The chart is released with the program.
    let chart = documents(&fs::read_to_string(folder().join("chart/Chart.yaml"))?)?;
    for version in ["version", "appVersion"] {
        ensure!(chart[0][version] == env!("CARGO_PKG_VERSION"), "{version}");
    }
    Ok(())
}

#[test]
fn kubectl_applies_all() -> Result<()> {
    let port = free_port()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/discovery.py");
    let mut command = Command::new(python());
    let _discovery = Running::start(command.arg(script).arg(port.to_string()))?;
    eventually(Duration::from_secs(10), "discovery answers", || {
        Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
    })?;
    let server = format!("http://127.0.0.1:{port}");
    let monitored = written(&rendered(&["prometheus.podMonitor.enabled=true"])?)?;
    for (option, what, kinds) in [
        ("-f", "namespace.yaml", 1),
        ("-f", "manifest.yaml", 4),
        ("-f", &*monitored.1, 5),
        ("-k", ".", 5),
        ("-k", "collector", 12),
    ] {
        let apply = [
            "apply",
            "--dry-run=client",
            "--validate=false",
            option,
            what,
        ];
        let told = tool("kubectl", ["--server", &server].into_iter().chain(apply))?;
        let created = told.matches(" created (dry run)").count();
        ensure!(created == kinds, "{what}: {told}");
    }
    Ok(())
}

#[test]
fn all_fits_the_schemas_of_kubernetes() -> Result<()> {
    let manifest = fs::read_to_string(folder().join("manifest.yaml"))?;
    let everything = rendered(&[
        "kprobe=true",
        "otlp.endpoint=https://$(HOST_IP):4317",
        "otlp.caConfigMap=kube-root-ca.crt",
        r#"imagePullSecrets=[{"name":"registry"}]"#,
        r#"extraEnv=[{"name":"A","valueFrom":{"secretKeyRef":{"name":"a","key":"b"}}}]"#,
        "securityContext.seLinuxOptions.type=spc_t",
        r#"podAnnotations={"a":"b"}"#,
        r#"podLabels={"a":"b"}"#,
    ])?;
    let node = tool("kubectl", ["kustomize", "."])?;
    let image = format!(
        "image: registry.example.com/cache-observer:{}",
        env!("CARGO_PKG_VERSION")
    );
    ensure!(manifest.contains(&image.replace(": ", ": \"")) && node.contains(&image));
    let collectors = tool("kubectl", ["kustomize", "collector"])?;
    for version in VERSIONS {
        for text in [&manifest, &everything, &node, &collectors] {
            by_schema(text, version)?;
        }
    }
    // Newer than the oldest version.
    by_schema(
        &rendered(&["securityContext.appArmorProfile.type=Unconfined"])?,
        VERSIONS[1],
    )?;
    // And what does not fit is found.
    for (right, wrong) in [
        ("hostPID:", "hostPid:"),
        ("livenessProbe:", "livelinessProbe:"),
        ("containerPort: 9464", "containerPort: http"),
        ("runAsUser: 0", "runAsUser: root"),
        ("readOnly: true", "readonly: true"),
    ] {
        ensure!(manifest.contains(right), "{right}");
        let refused = by_schema(&manifest.replace(right, wrong), VERSIONS[0]);
        ensure!(refused.is_err(), "{wrong} passes");
    }
    Ok(())
}

/// Values, where in the DaemonSet something is to be looked at, and what is to be there.
type Variant<'a> = (&'a [&'a str], &'a str, Value);

/// The pod, in the DaemonSet.
const POD: &str = "/spec/template/spec";

#[test]
fn values_do_what_they_say() -> Result<()> {
    let container = |below: &str| format!("{POD}/containers/0{below}");
    let pod = |below: &str| format!("{POD}{below}");
    let digest = format!("sha256:{}", "0".repeat(64));
    let by_digest = format!("image.digest={digest}");
    let variants: [Variant; 12] = [
        (
            &["image.repository=10.0.0.1:5000/a/b", "image.tag=v2"],
            &container("/image"),
            json!("10.0.0.1:5000/a/b:v2"),
        ),
        (
            &[&by_digest],
            &container("/image"),
            json!(format!("registry.example.com/cache-observer@{digest}")),
        ),
        (&["tolerations=[]"], &pod("/tolerations"), Value::Null),
        (
            &[r#"tolerations=[{"key":"a","effect":"NoSchedule"}]"#],
            &pod("/tolerations"),
            json!([{"key": "a", "effect": "NoSchedule"}]),
        ),
        (
            &[r#"extraArgs=["--backend","tracepoint"]"#],
            &container("/args"),
            json!([
                "run",
                "--config",
                "/etc/cache-observer/cache-observer.toml",
                "--backend",
                "tracepoint"
            ]),
        ),
        (
            &["priorityClass.create=false"],
            &pod("/priorityClassName"),
            Value::Null,
        ),
        (
            &["priorityClass.create=false", "priorityClass.name=mine"],
            &pod("/priorityClassName"),
            json!("mine"),
        ),
        (
            &["serviceAccount.create=false", "serviceAccount.name=mine"],
            &pod("/serviceAccountName"),
            json!("mine"),
        ),
        (
            &["listen.port=9000"],
            &container("/ports/0/containerPort"),
            json!(9000),
        ),
        (
            &["kprobe=true"],
            &container("/volumeMounts/3"),
            json!({"name": "tracefs", "mountPath": "/sys/kernel/tracing"}),
        ),
        (
            &[r#"resources.limits={"memory":"1Gi"}"#],
            &container("/resources/limits"),
            json!({"memory": "1Gi"}),
        ),
        (
            &["securityContext.seccompProfile.type=Unconfined"],
            &container("/securityContext/seccompProfile/type"),
            json!("Unconfined"),
        ),
    ];
    for (values, place, wanted) in variants {
        let documents = documents(&rendered(values)?)?;
        let set = of_kind(&documents, "DaemonSet")?;
        let found = set.pointer(place).unwrap_or(&Value::Null);
        ensure!(*found == wanted, "{values:?}: {place} is {found}");
    }
    // What is switched off is not there.
    let less = documents(&rendered(&[
        "priorityClass.create=false",
        "serviceAccount.create=false",
    ])?)?;
    let kinds: Vec<_> = less.iter().map(|one| &one["kind"]).collect();
    assert_eq!(kinds, ["ConfigMap", "DaemonSet"]);
    // A PodMonitor asks the port that the pod has, and chooses the pods by labels that they have.
    let monitored = documents(&rendered(&[
        "prometheus.podMonitor.enabled=true",
        r#"prometheus.podMonitor.labels={"release":"prometheus"}"#,
    ])?)?;
    let monitor = of_kind(&monitored, "PodMonitor")?;
    // As the alerts name the job.
    let job = monitor["spec"]["jobLabel"].as_str().context("a label")?;
    let set = of_kind(&monitored, "DaemonSet")?;
    ensure!(monitor["metadata"]["labels"]["release"] == "prometheus");
    ensure!(monitor["spec"]["selector"] == set["spec"]["selector"]);
    ensure!(set["spec"]["template"]["metadata"]["labels"][job] == "cache-observer");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let port = set.pointer(&container("/ports/0/name"));
    ensure!(endpoint["path"] == "/metrics" && Some(&endpoint["port"]) == port);
    ensure!(of_kind(&documents(&rendered(&[])?)?, "PodMonitor").is_err());
    // Another configuration is another pod.
    let checksum = |values: &[&str]| -> Result<Value> {
        let documents = documents(&rendered(values)?)?;
        let set = of_kind(&documents, "DaemonSet")?;
        Ok(set["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone())
    };
    ensure!(checksum(&[])? != checksum(&["keys=hash"])?);
    Ok(())
}

#[test]
fn bad_values_are_refused() -> Result<()> {
    for (value, complaint) in [
        ("image.repository=", "there is no public image"),
        ("image.repository=Registry/X", "/image/repository"),
        ("image.tga=1", "'tga' not allowed"),
        ("keys=some", "/keys"),
        ("redisPorts=[70000]", "/redisPorts/0"),
        ("redisPorts=6379", "/redisPorts"),
        ("otlp.endpoint=collector:4317", "/otlp/endpoint"),
        ("otlp.protocol=http", "/otlp/protocol"),
        ("otlp.spansPerSecond=-1", "/otlp/spansPerSecond"),
        ("listen.port=80", "/listen/port"),
        ("prometheus.enabled=maybe", "/prometheus/enabled"),
        ("tolerations=all", "/tolerations"),
        ("resources.limits.memory=much", "/resources/limits/memory"),
        ("priorityClass.value=2000000000", "/priorityClass/value"),
        ("privileged=true", "'privileged' not allowed"),
    ] {
        let error = match rendered(&[value]) {
            Ok(_) => anyhow::bail!("{value} passes"),
            Err(error) => error.to_string(),
        };
        ensure!(error.contains(complaint), "{value}: {error}");
    }
    Ok(())
}

/// The pod template of a rendered chart.
fn template(values: &[&str]) -> Result<Value> {
    let documents = documents(&rendered(values)?)?;
    Ok(of_kind(&documents, "DaemonSet")?["spec"]["template"].clone())
}

/// The rows of the README's table of deviations, without their reasons.
fn explained() -> Result<standards::Deviations> {
    let readme = fs::read_to_string(folder().join("README.md"))?;
    let rows = readme.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| ")?.split(" | ").collect();
        let [level, control, what, why] = cells[..] else {
            return None;
        };
        let what = what.strip_prefix('`')?.strip_suffix('`')?;
        let known = ["baseline", "restricted"].contains(&level) && why.len() > 20;
        known.then(|| format!("{level} | {control} | {what}"))
    });
    Ok(rows.collect())
}

#[test]
fn each_deviation_from_the_standards_is_explained() -> Result<()> {
    assert_eq!(standards::deviations(&template(&[])?), explained()?);
    // kprobe asks for more, which its comment in values.yaml says.
    let more: Vec<_> = standards::deviations(&template(&["kprobe=true"])?)
        .difference(&explained()?)
        .cloned()
        .collect();
    assert_eq!(
        more,
        [
            "baseline | Capabilities | SYS_ADMIN",
            "baseline | HostPath Volumes | tracefs",
            "restricted | Volume Types | hostPath tracefs"
        ]
    );
    Ok(())
}

#[test]
fn the_observer_takes_what_the_chart_writes() -> Result<()> {
    let options = r#"config="key-patterns = [\"user:{id}\"]\n[redaction]\nuser = true\n""#;
    let cases: [(&[&str], &[&str]); 5] = [
        (
            &[],
            &[
                "redis-port = [6379] # ",
                "metrics-exporter = [\"prometheus\"] # ",
                "traces-exporter = [\"none\"] # ",
                "prometheus-listen = \"0.0.0.0:9464\" # ",
                "health-listen = \"0.0.0.0:9464\" # ",
            ],
        ),
        (
            &["keys=hash", "redisPorts=[6379,6380]", "memcachedPorts=[]"],
            &[
                "keys = \"hash\" # ",
                "redis-port = [6379, 6380] # ",
                "memcached-port = [] # ",
            ],
        ),
        (
            &["prometheus.enabled=false", "otlp.endpoint=http://a:4317"],
            &[
                "metrics-exporter = [\"otlp\"] # ",
                "traces-exporter = [\"otlp\"] # ",
                "per-second = 20 # ",
            ],
        ),
        (
            &["otlp.endpoint=http://a:4317", "otlp.traces=false"],
            &[
                "metrics-exporter = [\"prometheus\", \"otlp\"] # ",
                "traces-exporter = [\"none\"] # ",
            ],
        ),
        (
            &[options],
            &["key-patterns = [\"user:{id}\"] # ", "user = true # "],
        ),
    ];
    for (values, lines) in cases {
        let effect = Pod::new(values)?.effect()?;
        for line in lines {
            ensure!(effect.contains(line), "{values:?}: no {line} in {effect}");
        }
    }
    let twice = Pod::new(&[r#"config="keys = \"none\"""#])?.effect();
    let error = format!("{:#}", twice.err().context("it is taken twice")?);
    ensure!(error.contains("duplicate key"), "{error}");
    Ok(())
}

/// Each tier listens where its service sends to, and sends to what the other's is called; who asks the API server may.
#[test]
fn the_collectors_find_each_other() -> Result<()> {
    let objects = documents(&tool("kubectl", ["kustomize", "collector"])?)?;
    let named = |kind: &str, name: &str| -> Result<&Value> {
        let mut found = objects.iter().filter(|one| one["kind"] == kind);
        let found = found.find(|one| one["metadata"]["name"] == *name);
        found.with_context(|| format!("no {kind} {name}"))
    };
    let of_file = |file: &str| -> Result<Value> {
        let text = fs::read_to_string(folder().join("collector").join(file))?;
        Ok(documents(&text)?.remove(0))
    };
    let enriching = named("Service", "cache-observer-enrich")?;
    let address = format!(
        "cache-observer-enrich.{}.svc",
        enriching["metadata"]["namespace"].as_str().context("one")?
    );
    let gateway = of_file("gateway.yaml")?;
    let resolver = &gateway["exporters"]["loadbalancing"]["resolver"]["dns"];
    ensure!(resolver["hostname"] == *address && resolver["port"] == 4317);
    ensure!(gateway["exporters"]["otlp"]["endpoint"] == *format!("dns:///{address}:4317"));
    ensure!(enriching["spec"]["clusterIP"] == "None");

    for (name, file) in [
        ("cache-observer-gateway", "gateway.yaml"),
        ("cache-observer-enrich", "enrich.yaml"),
    ] {
        let collector = of_file(file)?;
        let pod = &named("Deployment", name)?["spec"]["template"];
        let container = &pod["spec"]["containers"][0];
        ensure!(container["args"] == json!([format!("--config=/etc/collector/{file}")]));
        let protocols = collector["receivers"]["otlp"]["protocols"].as_object();
        let mut listens: Vec<_> = protocols
            .context("no protocols")?
            .values()
            .chain([&collector["extensions"]["health_check"]])
            .filter_map(|one| one["endpoint"].as_str()?.strip_prefix("${env:POD_IP}:"))
            .map(str::to_owned)
            .collect();
        let ports = container["ports"].as_array().context("no ports")?;
        let mut opens: Vec<_> = ports
            .iter()
            .map(|port| port["containerPort"].to_string())
            .collect();
        listens.sort();
        opens.sort();
        assert_eq!(listens, opens, "{name}");
        let service = named("Service", name)?;
        for (label, value) in service["spec"]["selector"].as_object().context("one")? {
            ensure!(pod["metadata"]["labels"][label] == *value, "{name}");
        }
        for port in service["spec"]["ports"].as_array().context("no ports")? {
            let target = ports.iter().find(|one| one["name"] == port["targetPort"]);
            ensure!(target.is_some_and(|one| one["containerPort"] == port["port"]));
        }
        let asks = !collector["processors"]["k8sattributes"].is_null();
        ensure!(
            pod["spec"]["automountServiceAccountToken"] == asks,
            "{name}"
        );
        let binding = named("ClusterRoleBinding", "cache-observer-enrich")?;
        let bound = &binding["subjects"][0];
        let account = named("ServiceAccount", name)?;
        ensure!(pod["spec"]["serviceAccountName"] == name);
        ensure!(asks == (bound["name"] == name), "{name}");
        ensure!(bound["namespace"] == account["metadata"]["namespace"]);
    }
    Ok(())
}

/// The fenced blocks of a language in the guide.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = guide.split(&fence).skip(1);
    let ends = blocks.filter_map(|block| block.split_once("\n```"));
    ends.map(|(block, _)| block.to_owned()).collect()
}

/// Its commands of helm are taken, its values too, by the observer as well, and its configuration by Prometheus.
#[test]
fn the_guide_can_be_followed() -> Result<()> {
    let guide = fs::read_to_string(deploy().join("README.md"))?;
    let texts = blocks(&guide, "yaml");
    let (values, others): (Vec<_>, Vec<_>) = texts
        .iter()
        .partition(|text| text.starts_with("# values.yaml\n"));
    ensure!(values.len() == 2 && others.len() == 1);
    let mut effects = Vec::new();
    for text in values {
        let (_folder, file) = written(text)?;
        let rendered = rendered(&[&format!("--values={file}")])?;
        by_schema(&rendered, VERSIONS[0])?;
        effects.push(
            Pod::of(
                &documents(&rendered)?,
                &[("OTEL_EXPORTER_OTLP_HEADERS", "a=b")],
            )?
            .effect()?,
        );
    }
    ensure!(effects[0].contains("traces-exporter = [\"otlp\"] # "));
    ensure!(effects[1].contains("\"10.0.0.7:6379\" = \"sessions\" # "));
    // Debian's Prometheus is built without Kubernetes: of that part only that it is there.
    let (head, tail) = others[0]
        .split_once("    relabel_configs:")
        .context("no relabelling")?;
    let (head, discovery) = head
        .split_once("    kubernetes_sd_configs:")
        .context("no discovery")?;
    ensure!(discovery.contains("role: pod") && discovery.contains("[cache-observer]"));
    let (_folder, file) = written(&format!("{head}    relabel_configs:{tail}"))?;
    output("promtool", ["check", "config", &file])?;

    let mut seen = 0;
    for block in blocks(&guide, "sh") {
        let block = block.replace("\\\n", " ");
        for line in block.lines() {
            let Some(words) = line.strip_prefix("helm upgrade --install ") else {
                continue;
            };
            seen += 1;
            // As a shell splits them, and without a cluster to upgrade.
            let words = words.replace(" deploy/kubernetes/chart ", " chart ");
            let words = words.replace("--values values.yaml", &format!("--set {IMAGE}"));
            let words = output("sh", ["-c", &format!("printf '%s\\n' {words}")])?;
            let rendered = tool("helm", std::iter::once("template").chain(words.lines()))?;
            ensure!(rendered.contains("kind: DaemonSet"), "{line}");
        }
    }
    ensure!(seen == 7, "{seen} commands");
    Ok(())
}

/// Started as in a pod, with its rights: it answers the probes, is scraped, and sends what it sees to a collector that is found by the
/// node's address. It ends well within the time that the pod gives it.
#[test]
fn an_observer_of_the_chart_runs() -> Result<()> {
    let server = Server::redis()?;
    let collector = Collector::start()?;
    let port = free_port()?;
    let pod = Pod::new(&[
        &format!("redisPorts=[{}]", server.port),
        "memcachedPorts=[]",
        "listen.address=127.0.0.1",
        &format!("listen.port={port}"),
        &format!("otlp.endpoint=http://$(HOST_IP):{}", collector.grpc),
        r#"extraEnv=[{"name":"OTEL_METRIC_EXPORT_INTERVAL","value":"500"}]"#,
    ])?;
    let folder = Folder::new()?;
    let log = folder.path().join("log");
    let mut command = pod.command();
    let mut observer = Running::start(command.stderr(fs::File::create(&log)?))?;
    let said = || fs::read_to_string(&log).unwrap_or_default();

    let answer = |probe: &str| -> Option<u16> {
        let path = pod.container[probe]["httpGet"]["path"].as_str()?;
        Some(get(port, path, "*/*").ok()?.status)
    };
    eventually(Duration::from_secs(90), "the pod is ready", || {
        Ok(answer("readinessProbe") == Some(200))
    })
    .with_context(said)?;
    ensure!(answer("livenessProbe") == Some(200), "{}", said());
    // All that it needs, and to become nobody, are among its rights.
    ensure!(!said().contains("WARN"), "{}", said());
    let state = fs::read_to_string(format!("/proc/{}/status", observer.id()))?;
    ensure!(state.contains("Uid:\t65534"), "{state}");

    let mut client = Redis::connect(("127.0.0.1", server.port))?;
    client.command(&["SET", "chart:1", "value"])?;
    eventually(
        Duration::from_secs(10),
        "the command is on the page",
        || {
            let page = get(port, "/metrics", "text/plain")?;
            Ok(page.text()?.lines().any(|line| {
                line.starts_with("cache_operations_total")
                    && line.contains("cache_operation=\"set\"")
            }))
        },
    )
    .with_context(said)?;
    collector.expect(&["chart:1", "k8s.node.name", "node-1"])?;

    observer.signal(Signal::TERM)?;
    let status = observer.wait(Duration::from_secs(30))?;
    ensure!(status == 0, "{status}: {}", said());
    Ok(())
}
