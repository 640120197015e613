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
        Self::of(&documents(&rendered(values)?)?, &[])
    }

    /// Of a rendered chart, with what the cluster would take from elsewhere.
    pub(crate) fn of(documents: &[Value], elsewhere: &[(&str, &str)]) -> Result<Self> {
        let container =
            of_kind(documents, "DaemonSet")?["spec"]["template"]["spec"]["containers"][0].clone();
        let folder = Folder::new()?;
        let file = folder.path().join("cache-observer.toml");
        let map = &of_kind(documents, "ConfigMap")?["data"]["cache-observer.toml"];
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
            let told = elsewhere.iter().find(|(known, _)| *known == name);
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => Some("node-1"),
                Some("status.hostIP") => Some("127.0.0.1"),
                Some(other) => anyhow::bail!("{other}"),
                None => variable["value"].as_str().or(told.map(|(_, value)| *value)),
            };
            let mut value = value
                .with_context(|| format!("no value: {name}"))?
                .to_owned();
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

    /// The observer, with the rights of the container: root, with these capabilities alone and no way to more.
    pub(crate) fn command(&self) -> Command {
        let context = &self.container["securityContext"];
        let added = context["capabilities"]["add"].as_array();
        let added = added.into_iter().flatten().filter_map(Value::as_str);
        let bounds = added.fold("-all".to_owned(), |bounds, name| {
            format!("{bounds},+{}", name.to_lowercase())
        });
        let mut command = Command::new("setpriv");
        command.args(["--no-new-privs", "--inh-caps=-all", "--bounding-set"]);
        command.args([&bounds, "--"]).arg(binary());
        command.args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null());
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
