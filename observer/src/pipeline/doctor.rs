//! `doctor`: what this kernel and user allow, and what to do.

use std::collections::BTreeSet;
use std::io::Write;

use super::Failure;
use crate::config::cli::PortArguments;
use crate::source::backend::FORBIDDEN;
use crate::source::capability;
use crate::source::preflight::{self, Report};
use crate::source::surroundings;

/// Prints what was found, for people.
///
/// # Errors
///
/// [`Failure::Unsupported`] when no backend can be used, [`Failure::Runtime`] when standard output is gone.
pub fn doctor(ports: &PortArguments) -> Result<(), Failure> {
    let report = preflight::check();
    let text = text(&report, ports, &preflight::listening());
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    match report.chosen() {
        Some(_) => Ok(()),
        None => Err(Failure::Unsupported(advice(&report))),
    }
}

fn text(report: &Report, ports: &PortArguments, listening: &BTreeSet<u16>) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<22} {value}\n"));
    line("kernel", report.kernel.clone());
    line(
        "type information (BTF)",
        match &report.btf {
            Ok(()) => "yes".to_owned(),
            Err(error) => format!("no: {error}"),
        },
    );
    for capability in &report.capabilities {
        let held = if capability.held { "held" } else { "missing" };
        line(
            capability.capability.name(),
            format!("{held}: {}", capability.purpose),
        );
    }
    line(
        "identity",
        match capability::root() {
            None => "not root's",
            Some(true) => "root, until it observes; then nobody",
            Some(false) => {
                "root, and stays it: CAP_SETUID and CAP_SETGID, to become nobody, are missing"
            }
        }
        .to_owned(),
    );
    for backend in &report.backends {
        line(
            &format!("backend {}", backend.backend),
            match &backend.result {
                Ok(()) if report.chosen() == Some(backend.backend) => {
                    "works; auto takes it".to_owned()
                }
                Ok(()) => "works".to_owned(),
                Err(error) => format!("refused: {error}"),
            },
        );
    }
    for (name, seen) in [
        (
            "processes",
            surroundings::processes("/proc".as_ref()).map_err(str::to_owned),
        ),
        (
            "host name",
            surroundings::name("/proc".as_ref()).map_err(str::to_owned),
        ),
        ("cgroups", surroundings::cgroups().map(drop)),
    ] {
        line(
            name,
            seen.map_or_else(|problem| problem, |()| "this host's".to_owned()),
        );
    }
    for (name, list) in [
        ("redis", &ports.redis_port),
        ("memcached", &ports.memcached_port),
    ] {
        for port in list.iter().collect::<BTreeSet<_>>() {
            let found = if listening.contains(port) {
                "a server listens on this host"
            } else {
                "no server listens in this network namespace; clients of servers elsewhere are observed all the same"
            };
            line(&format!("{name} {port}"), found.to_owned());
        }
    }
    line("what to do", advice(report));
    lines.concat()
}

/// What the user should do next.
fn advice(report: &Report) -> String {
    if !report.missing.is_empty() {
        let names: Vec<_> = report.missing.iter().map(|c| c.name()).collect();
        return format!("run as root, or grant {}", names.join(", "));
    }
    if let Err(error) = &report.btf {
        return error.advice().to_owned();
    }
    match report.chosen() {
        Some(backend) if backend.has_start_times() => "nothing: cache-observer run".to_owned(),
        Some(_) => "nothing: cache-observer run; latencies are a few microseconds low with this backend, since the start of a send is not seen".to_owned(),
        None if report.is_forbidden() => FORBIDDEN.to_owned(),
        None => "no backend can be used: boot Linux 6.3 or later, or 5.17 or later with BPF trampolines or kprobes".to_owned(),
    }
}
