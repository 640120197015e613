//! The Pod Security Standards of Kubernetes 1.35, <https://kubernetes.io/docs/concepts/security/pod-security-standards/>: its
//! controls in their order, and where a pod deviates from them.
//!
//! The admission plugin itself is a library of Go that no registry of packages in CI's reach has.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::tools::{documents, tool};

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

#[test]
fn collectors_keep_the_standards_and_each_check_sees() -> Result<()> {
    let collectors = documents(&tool("kubectl", ["kustomize", "collector"])?)?;
    let deployments: Vec<_> = collectors
        .iter()
        .filter(|one| one["kind"] == "Deployment")
        .map(|one| &one["spec"]["template"])
        .collect();
    ensure!(deployments.len() == 2);
    for template in &deployments {
        assert_eq!(deviations(template), BTreeSet::new());
    }
    for (place, value, found) in [
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
            "/spec/securityContext/runAsNonRoot",
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
            Value::Null,
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
    ] {
        let mut changed = deployments[0].clone();
        let (parent, last) = place.rsplit_once('/').context("a place")?;
        let parent = changed.pointer_mut(parent).context(place)?;
        match parent {
            Value::Array(list) => list[last.parse::<usize>()?] = value,
            object => object[last] = value,
        }
        assert_eq!(
            deviations(&changed),
            BTreeSet::from([found.to_owned()]),
            "{place}"
        );
    }
    Ok(())
}
