//! The Pod Security Standards of Kubernetes 1.35, <https://kubernetes.io/docs/concepts/security/pod-security-standards/>: its
//! controls in their order, and where a pod deviates from them.
//!
//! The admission plugin itself is a library of Go that no registry of packages in CI's reach has. Monokle's rules, which are older
//! and do not say which capability it is, are the second opinion.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use tests::process::{output, tools};

use crate::tools::{documents, of_kind, rendered, tool, written};

/// Where a pod does not keep a standard: `baseline | Host Namespaces | hostPID`.
pub(crate) type Deviations = BTreeSet<String>;

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const SELINUX: [&str; 4] = [
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];

const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];

const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// All deviations of a pod template from `baseline` and `restricted`. What deviates from `baseline` is not named again.
pub(crate) fn deviations(template: &Value) -> Deviations {
    let mut found = Deviations::new();
    baseline(template, &mut |control, what| {
        found.insert(format!("baseline | {control} | {what}"));
    });
    restricted(&template["spec"], &mut |control, what| {
        if !found.contains(&format!("baseline | {control} | {what}")) {
            found.insert(format!("restricted | {control} | {what}"));
        }
    });
    found
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn containers(spec: &Value) -> Vec<&Value> {
    let kinds = ["initContainers", "containers", "ephemeralContainers"];
    kinds.iter().flat_map(|kind| list(&spec[*kind])).collect()
}

/// The pod's own security context, and each container's.
fn contexts(spec: &Value) -> Vec<&Value> {
    let of_containers = containers(spec).into_iter();
    let contexts = of_containers.map(|container| &container["securityContext"]);
    std::iter::once(&spec["securityContext"])
        .chain(contexts)
        .collect()
}

/// What is set, as a text.
fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn profile(value: &Value) -> bool {
    text(&value["type"]).is_none_or(|kind| ["RuntimeDefault", "Localhost"].contains(&kind))
}

fn baseline(template: &Value, deviates: &mut impl FnMut(&str, &str)) {
    let spec = &template["spec"];
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[name] == true {
            deviates("Host Namespaces", name);
        }
    }
    for context in contexts(spec) {
        if context["windowsOptions"]["hostProcess"] == true {
            deviates("HostProcess", "hostProcess");
        }
        if context["privileged"] == true {
            deviates("Privileged Containers", "privileged");
        }
        for added in list(&context["capabilities"]["add"]).filter_map(Value::as_str) {
            if !CAPABILITIES.contains(&added) {
                deviates("Capabilities", added);
            }
        }
        if !profile(&context["appArmorProfile"]) {
            deviates("AppArmor", "appArmorProfile");
        }
        let selinux = &context["seLinuxOptions"];
        if text(&selinux["type"]).is_some_and(|kind| !SELINUX.contains(&kind)) {
            deviates("SELinux", "type");
        }
        for name in ["user", "role"] {
            if text(&selinux[name]).is_some() {
                deviates("SELinux", name);
            }
        }
        if text(&context["procMount"]).is_some_and(|mount| mount != "Default") {
            deviates("/proc Mount Type", "procMount");
        }
        if !profile(&context["seccompProfile"]) {
            deviates("Seccomp", "seccompProfile");
        }
        for sysctl in list(&context["sysctls"]).filter_map(|sysctl| sysctl["name"].as_str()) {
            if !SYSCTLS.contains(&sysctl) {
                deviates("Sysctls", sysctl);
            }
        }
    }
    let annotations = template["metadata"]["annotations"].as_object();
    for (name, value) in annotations.into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if name.starts_with("container.apparmor.security.beta.kubernetes.io/")
            && value != "runtime/default"
            && !value.starts_with("localhost/")
        {
            deviates("AppArmor", name);
        }
    }
    for volume in list(&spec["volumes"]).filter(|volume| !volume["hostPath"].is_null()) {
        deviates("HostPath Volumes", volume["name"].as_str().unwrap_or("?"));
    }
    for container in containers(spec) {
        for port in list(&container["ports"]) {
            if port["hostPort"].as_u64().is_some_and(|port| port != 0) {
                deviates("Host Ports", "hostPort");
            }
        }
        let lifecycle = &container["lifecycle"];
        for (name, handler) in [
            ("livenessProbe", &container["livenessProbe"]),
            ("readinessProbe", &container["readinessProbe"]),
            ("startupProbe", &container["startupProbe"]),
            ("postStart", &lifecycle["postStart"]),
            ("preStop", &lifecycle["preStop"]),
        ] {
            if ["httpGet", "tcpSocket"]
                .iter()
                .any(|kind| text(&handler[*kind]["host"]).is_some())
            {
                deviates("Host Probes / Lifecycle Hooks", name);
            }
        }
    }
}

fn restricted(spec: &Value, deviates: &mut impl FnMut(&str, &str)) {
    for volume in list(&spec["volumes"]) {
        let kinds = volume.as_object().into_iter().flat_map(|map| map.keys());
        for kind in kinds.filter(|kind| *kind != "name") {
            if !VOLUMES.contains(&kind.as_str()) {
                let name = volume["name"].as_str().unwrap_or("?");
                deviates("Volume Types", &format!("{kind} {name}"));
            }
        }
    }
    let pod = &spec["securityContext"];
    for container in containers(spec) {
        let context = &container["securityContext"];
        // A container's own word stands before the pod's.
        let of = |name: &str| match &context[name] {
            Value::Null => pod[name].clone(),
            own => own.clone(),
        };
        if context["allowPrivilegeEscalation"] != false {
            deviates("Privilege Escalation", "allowPrivilegeEscalation");
        }
        if of("runAsNonRoot") != true {
            deviates("Running as Non-root", "runAsNonRoot");
        }
        if text(&of("seccompProfile")["type"]).is_none() {
            deviates("Seccomp", "seccompProfile");
        }
        let capabilities = &context["capabilities"];
        if !list(&capabilities["drop"]).any(|dropped| dropped == "ALL") {
            deviates("Capabilities", "drop");
        }
        for added in list(&capabilities["add"]).filter_map(Value::as_str) {
            if added != "NET_BIND_SERVICE" {
                deviates("Capabilities", added);
            }
        }
    }
    if contexts(spec)
        .iter()
        .any(|context| context["runAsUser"] == 0)
    {
        deviates("Running as Non-root user", "runAsUser");
    }
}

/// What each pod template is without the deviation that it is given, and the deviation.
fn spoilt(template: &Value) -> Result<Vec<(Value, &'static str)>> {
    let changes = [
        (
            "/spec/hostNetwork",
            json!(true),
            "baseline | Host Namespaces | hostNetwork",
        ),
        (
            "/spec/hostIPC",
            json!(true),
            "baseline | Host Namespaces | hostIPC",
        ),
        (
            "/spec/securityContext/windowsOptions",
            json!({"hostProcess": true}),
            "baseline | HostProcess | hostProcess",
        ),
        (
            "/spec/securityContext/seLinuxOptions",
            json!({"type": "spc_t"}),
            "baseline | SELinux | type",
        ),
        (
            "/spec/securityContext/sysctls",
            json!([{"name": "kernel.msgmax", "value": "1"}]),
            "baseline | Sysctls | kernel.msgmax",
        ),
        (
            "/spec/securityContext/runAsUser",
            json!(0),
            "restricted | Running as Non-root user | runAsUser",
        ),
        (
            "/spec/containers/0/securityContext/runAsNonRoot",
            json!(false),
            "restricted | Running as Non-root | runAsNonRoot",
        ),
        (
            "/spec/securityContext/seccompProfile",
            Value::Null,
            "restricted | Seccomp | seccompProfile",
        ),
        (
            "/spec/securityContext/seccompProfile",
            json!({"type": "Unconfined"}),
            "baseline | Seccomp | seccompProfile",
        ),
        (
            "/spec/containers/0/securityContext/privileged",
            json!(true),
            "baseline | Privileged Containers | privileged",
        ),
        (
            "/spec/containers/0/securityContext/procMount",
            json!("Unmasked"),
            "baseline | /proc Mount Type | procMount",
        ),
        (
            "/spec/containers/0/securityContext/appArmorProfile",
            json!({"type": "Unconfined"}),
            "baseline | AppArmor | appArmorProfile",
        ),
        (
            "/spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(true),
            "restricted | Privilege Escalation | allowPrivilegeEscalation",
        ),
        (
            "/spec/containers/0/securityContext/capabilities",
            json!({"drop": ["ALL"], "add": ["CHOWN"]}),
            "restricted | Capabilities | CHOWN",
        ),
        (
            "/spec/containers/0/securityContext/capabilities",
            json!({}),
            "restricted | Capabilities | drop",
        ),
        (
            "/spec/containers/0/ports/0/hostPort",
            json!(4317),
            "baseline | Host Ports | hostPort",
        ),
        (
            "/spec/containers/0/livenessProbe/httpGet/host",
            json!("a"),
            "baseline | Host Probes / Lifecycle Hooks | livenessProbe",
        ),
        (
            "/spec/volumes/0",
            json!({"name": "a", "nfs": {}}),
            "restricted | Volume Types | nfs a",
        ),
        (
            "/metadata/annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/collector": "unconfined"}),
            "baseline | AppArmor | container.apparmor.security.beta.kubernetes.io/collector",
        ),
    ];
    let changes = changes.into_iter().map(|(place, value, deviation)| {
        let mut changed = template.clone();
        let (parent, last) = place.rsplit_once('/').context("a place")?;
        match changed.pointer_mut(parent).context(place)? {
            Value::Array(list) => list[last.parse::<usize>()?] = value,
            object => object[last] = value,
        }
        Ok((changed, deviation))
    });
    changes.collect()
}

/// The pod templates of the Collectors.
fn collectors() -> Result<Vec<Value>> {
    let objects = documents(&tool("kubectl", ["kustomize", "collector"])?)?;
    let deployments = objects.iter().filter(|one| one["kind"] == "Deployment");
    let templates: Vec<_> = deployments
        .map(|one| one["spec"]["template"].clone())
        .collect();
    ensure!(templates.len() == 2);
    Ok(templates)
}

#[test]
fn collectors_keep_the_standards_and_each_check_sees() -> Result<()> {
    let collectors = collectors()?;
    for template in &collectors {
        assert_eq!(deviations(template), BTreeSet::new());
    }
    for (changed, deviation) in spoilt(&collectors[0])? {
        assert_eq!(
            deviations(&changed),
            BTreeSet::from([deviation.to_owned()]),
            "{deviation}"
        );
    }
    Ok(())
}

/// What Monokle's rules do not see: fields that are younger than they, and annotations for AppArmor.
const UNSEEN: [&str; 2] = ["Host Probes", "AppArmor"];

/// The controls that pods made of these templates do not keep, by Monokle.
fn second_opinion(templates: &[Value]) -> Result<Vec<BTreeSet<String>>> {
    let pods = templates.iter().map(|template| {
        let (metadata, spec) = (&template["metadata"], &template["spec"]);
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        pod["metadata"]["name"] = json!("pod");
        pod
    });
    let (_folder, file) = written(&Value::from_iter(pods).to_string())?;
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/monokle/standards.mjs");
    let packages = tools().with_file_name("monokle");
    let words = [script.as_os_str(), packages.as_os_str(), file.as_ref()];
    let told =
        output("node", words).context("`cargo xtask setup --tests` installs what it uses")?;
    Ok(serde_json::from_str(&told)?)
}

#[test]
fn another_tool_sees_the_same() -> Result<()> {
    let mut templates = vec![];
    for values in [&[][..], &["kprobe=true"]] {
        let objects = documents(&rendered(values)?)?;
        templates.push(of_kind(&objects, "DaemonSet")?["spec"]["template"].clone());
    }
    let collectors = collectors()?;
    let spoilt = spoilt(&collectors[0])?.into_iter();
    let spoilt = spoilt.filter(|(_, deviation)| !UNSEEN.iter().any(|one| deviation.contains(one)));
    templates.extend(spoilt.map(|(changed, _)| changed));
    templates.extend(collectors);
    let others = second_opinion(&templates)?;
    ensure!(others.len() == templates.len());
    let mut differ = Vec::new();
    for (template, others) in templates.iter().zip(others) {
        let ours = deviations(template);
        let controls = ours.iter().filter_map(|one| one.split(" | ").nth(1));
        let controls: BTreeSet<_> = controls.map(str::to_owned).collect();
        if controls != others {
            differ.push((ours, others));
        }
    }
    ensure!(differ.is_empty(), "ours, others': {differ:#?}");
    Ok(())
}
