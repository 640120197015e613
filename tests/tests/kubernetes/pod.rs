//! What the kubelet would start, started here.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::observer::binary;
use tests::process::Folder;

use crate::tools::{documents, of_kind, rendered};

/// What a pod of the chart is started with.
pub(crate) struct Pod {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// As it is in the DaemonSet.
    pub(crate) container: Value,
    /// In place of the ConfigMap's volume.
    _folder: Folder,
}

impl Pod {
    pub(crate) fn new(values: &[&str]) -> Result<Self> {
        let documents = documents(&rendered(values)?)?;
        let container =
            of_kind(&documents, "DaemonSet")?["spec"]["template"]["spec"]["containers"][0].clone();
        let folder = Folder::new()?;
        let file = folder.path().join("cache-observer.toml");
        let map = &of_kind(&documents, "ConfigMap")?["data"]["cache-observer.toml"];
        fs::write(&file, map.as_str().context("a file")?)?;
        let mounted = "/etc/cache-observer/cache-observer.toml";
        let strings = |list: &Value| -> Vec<String> {
            let texts = list.as_array().into_iter().flatten();
            texts.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let arguments = strings(&container["args"]);
        ensure!(arguments.iter().any(|argument| argument == mounted));
        let arguments = arguments
            .iter()
            .map(|argument| argument.replace(mounted, &file.display().to_string()));
        // As the kubelet fills them in.
        let mut environment = Vec::<(String, String)>::new();
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().context("a name")?.to_owned();
            let mut value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => "node-1".to_owned(),
                Some("status.hostIP") => "127.0.0.1".to_owned(),
                Some(other) => anyhow::bail!("{other}"),
                None => variable["value"].as_str().context("a value")?.to_owned(),
            };
            for (known, of_known) in &environment {
                value = value.replace(&format!("$({known})"), of_known);
            }
            environment.push((name, value));
        }
        Ok(Self {
            arguments: arguments.collect(),
            environment,
            container,
            _folder: folder,
        })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// What is in effect with this configuration, or the observer's complaint.
    pub(crate) fn effect(&self) -> Result<String> {
        let output = self.command().arg("--print-config").output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{error}");
        Ok(String::from_utf8(output.stdout)?)
    }
}
