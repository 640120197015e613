//! The chart's pod, as options of podman: each field is translated, and one that is not known is an error.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::process::Folder;

use crate::tools::{documents, of_kind, rendered};

/// The filter of system calls that podman has for containers.
const FILTER: &str = "/usr/share/containers/seccomp.json";

/// The node's name.
pub(crate) const NODE: &str = "node-1.example.com";

pub(crate) struct Pod {
    spec: Value,
    /// The ConfigMap's files, and the filter.
    folder: Folder,
}

impl Pod {
    /// Of the chart with these values.
    pub(crate) fn new(values: &[&str]) -> Result<Self> {
        let documents = documents(&rendered(values)?)?;
        let spec = of_kind(&documents, "DaemonSet")?["spec"]["template"]["spec"].clone();
        let folder = Folder::new()?;
        let map = of_kind(&documents, "ConfigMap")?["data"].as_object();
        for (name, text) in map.context("files")? {
            fs::write(folder.path().join(name), text.as_str().context("a text")?)?;
        }
        Ok(Self { spec, folder })
    }

    pub(crate) fn arguments(&self) -> Result<Vec<String>> {
        strings(&self.container()["args"])
    }

    fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    /// `logs` is in the place of the node's /var/log/pods.
    pub(crate) fn options(&self, logs: &Path, node: &str) -> Result<Vec<String>> {
        let mut options = vec!["--rm".to_owned()];
        for (field, value) in self.spec.as_object().context("a pod")? {
            match field.as_str() {
                "hostPID" if *value == true => options.push("--pid=host".to_owned()),
                // What has to do with the cluster.
                "serviceAccountName"
                | "automountServiceAccountToken"
                | "enableServiceLinks"
                | "priorityClassName"
                | "tolerations"
                | "nodeSelector"
                | "terminationGracePeriodSeconds" => {}
                "containers" | "volumes" => {}
                other => bail!("{other} of the pod is not translated"),
            }
        }
        for (field, value) in self.container().as_object().context("a container")? {
            match field.as_str() {
                "env" => options.extend(environment(value, node)?),
                "securityContext" => options.extend(self.security(value)?),
                "volumeMounts" => options.extend(self.mounts(value, logs)?),
                "resources" => {
                    let memory = value["limits"]["memory"].as_str().context("a limit")?;
                    let memory = memory.strip_suffix("Mi").context("MiB")?;
                    options.push(format!("--memory={memory}m"));
                }
                "name" | "image" | "imagePullPolicy" | "args" => {}
                "ports" | "livenessProbe" | "readinessProbe" => {}
                other => bail!("{other} of the container is not translated"),
            }
        }
        Ok(options)
    }

    fn security(&self, context: &Value) -> Result<Vec<String>> {
        let mut options = Vec::new();
        for (field, value) in context.as_object().context("a context")? {
            match field.as_str() {
                "runAsUser" => options.push(format!("--user={value}:{}", context["runAsGroup"])),
                "runAsGroup" => {}
                "privileged" => options.push(format!("--privileged={value}")),
                "readOnlyRootFilesystem" => options.push(format!("--read-only={value}")),
                "allowPrivilegeEscalation" if *value == false => {
                    options.push("--security-opt=no-new-privileges".to_owned());
                }
                "seccompProfile" if value["type"] == "RuntimeDefault" => {
                    options.push(format!("--security-opt=seccomp={}", self.filter()?));
                }
                "capabilities" => {
                    let all = |list: &str| strings(&value[list]);
                    options.extend(all("drop")?.iter().map(|name| format!("--cap-drop={name}")));
                    options.extend(all("add")?.iter().map(|name| format!("--cap-add={name}")));
                }
                other => bail!("{other} of the security context is not translated"),
            }
        }
        Ok(options)
    }

    /// podman's own, which wants CAP_SYS_ADMIN where containerd's wants the capabilities that are made for it.
    fn filter(&self) -> Result<String> {
        const CALLS: [(&str, &str); 2] = [("bpf", "CAP_BPF"), ("perf_event_open", "CAP_PERFMON")];
        let mut filter: Value = serde_json::from_str(&fs::read_to_string(FILTER)?)?;
        let rules = filter["syscalls"].as_array_mut().context("rules")?;
        for rule in rules.iter_mut() {
            let names = rule["names"].as_array_mut().context("names")?;
            names.retain(|name| CALLS.iter().all(|(call, _)| name != call));
        }
        for (call, capability) in CALLS {
            let only = json!({"caps": [capability]});
            rules.push(json!({"names": [call], "action": "SCMP_ACT_ALLOW", "includes": only}));
        }
        let file = self.folder.path().join("seccomp.json");
        fs::write(&file, filter.to_string())?;
        Ok(file.display().to_string())
    }

    fn mounts(&self, mounts: &Value, logs: &Path) -> Result<Vec<String>> {
        let volumes = self.spec["volumes"].as_array().context("volumes")?;
        let mut options = Vec::new();
        for mount in mounts.as_array().context("mounts")? {
            let mut named = volumes.iter().filter(|one| one["name"] == mount["name"]);
            let volume = named.next().context("a volume")?;
            let from = match volume["hostPath"]["path"].as_str() {
                Some("/var/log/pods") => logs.display().to_string(),
                Some(path) => path.to_owned(),
                None => {
                    ensure!(volume["configMap"].is_object(), "{volume}");
                    self.folder.path().display().to_string()
                }
            };
            let to = mount["mountPath"].as_str().context("a path")?;
            let mode = if mount["readOnly"] == true {
                "ro"
            } else {
                "rw"
            };
            options.push(format!("--volume={from}:{to}:{mode}"));
        }
        Ok(options)
    }
}

/// As the kubelet fills it in.
fn environment(variables: &Value, node: &str) -> Result<Vec<String>> {
    let mut known = Vec::<(String, String)>::new();
    for variable in variables.as_array().context("variables")? {
        let name = variable["name"].as_str().context("a name")?.to_owned();
        let mut value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => NODE.to_owned(),
            Some("status.hostIP") => node.to_owned(),
            Some(other) => bail!("{other}"),
            None => variable["value"].as_str().context("a value")?.to_owned(),
        };
        for (name, text) in &known {
            value = value.replace(&format!("$({name})"), text);
        }
        known.push((name, value));
    }
    let known = known.into_iter();
    Ok(known
        .map(|(name, value)| format!("--env={name}={value}"))
        .collect())
}

fn strings(list: &Value) -> Result<Vec<String>> {
    let texts = list.as_array().context("a list")?.iter();
    texts
        .map(|text| Ok(text.as_str().context("a text")?.to_owned()))
        .collect()
}
