//! helm, kubectl, and what checks by the schemas of Kubernetes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::process::{Folder, output, python, tools};
use tests::prometheus::deploy;

/// As the manifest names it.
pub(crate) const IMAGE: &str = "image.repository=registry.example.com/cache-observer";

pub(crate) fn folder() -> PathBuf {
    deploy().join("kubernetes")
}

/// What a tool prints, or its complaint as an error.
pub(crate) fn tool<'a>(name: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let programs = tools().with_file_name("kubernetes");
    let program = programs.join(name).join(name);
    let home = Folder::new()?;
    // Nothing of the user's own: no configuration, no cluster.
    let arguments = arguments.into_iter().map(str::to_owned);
    let words = [
        format!("--chdir={}", folder().display()),
        format!("HOME={}", home.path().display()),
        "KUBECONFIG=".to_owned(),
        program.display().to_string(),
    ];
    ensure!(
        program.exists(),
        "no {}: `cargo xtask setup --tests` installs it",
        program.display()
    );
    output("env", words.into_iter().chain(arguments))
}

/// The chart rendered with these values.
pub(crate) fn rendered(values: &[&str]) -> Result<String> {
    let mut arguments = vec![
        "template",
        "cache-observer",
        "chart",
        "--namespace",
        "cache-observer",
        "--set",
        IMAGE,
    ];
    for value in values {
        // What is no plain text is JSON.
        let typed = value
            .split_once('=')
            .is_some_and(|(_, value)| serde_json::from_str::<Value>(value).is_ok());
        arguments.extend([if typed { "--set-json" } else { "--set" }, value]);
    }
    tool("helm", arguments)
}

/// The documents of a YAML text.
pub(crate) fn documents(yaml: &str) -> Result<Vec<Value>> {
    const SCRIPT: &str =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let (_folder, file) = written(yaml)?;
    let json = output(python(), ["-c", SCRIPT, &file])?;
    Ok(serde_json::from_str(&json)?)
}

pub(crate) fn written(text: &str) -> Result<(Folder, String)> {
    let folder = Folder::new()?;
    let file = folder.path().join("file.yaml");
    fs::write(&file, text)?;
    Ok((folder, file.display().to_string()))
}

pub(crate) fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = documents.iter().filter(|one| one["kind"] == kind);
    found.next().with_context(|| format!("no {kind}"))
}

/// Checks by the schemas of Kubernetes, which know each field.
pub(crate) fn by_schema(yaml: &str, version: &str) -> Result<()> {
    let (_folder, file) = written(yaml)?;
    let checker = tools().join("bin/kubernetes-validate");
    let checked = output(
        checker,
        ["--strict", "--kubernetes-version", version, &file],
    )?;
    // Of a kind that it does not know it says no more than that.
    ensure!(!checked.contains("find schema"), "{checked}");
    Ok(())
}
