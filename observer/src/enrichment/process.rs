//! Services from `/proc`: read once at the first sight of a process, and looked at again from time to time in
//! case its number was given to another.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::cgroup::Workload;
use super::cgroups::Cgroups;
use super::pods::PodNames;
use super::{Pod, Qos, Service};
use crate::source::event::Task;
use crate::telemetry::names::{resource, value};

/// Processes remembered; beyond it the eighth that was used longest ago is forgotten.
const MAX_PROCESSES: usize = 4096;
/// How long a look-up is trusted before the process's start time is compared again (one small read).
const TRUSTED: Duration = Duration::from_secs(1);
/// Most bytes read of a process's environment. A name beyond them is not found.
const MAX_ENVIRONMENT: u64 = 256 * 1024;
/// Most bytes read of any other file.
const MAX_FILE: u64 = 16 * 1024;
/// Most characters kept of a name.
const MAX_NAME: usize = 200;

/// Service numbers are unique in the program, so that several enrichers never give the same one.
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// Where to look, and what the user says.
#[derive(Debug, Clone)]
pub struct Places {
    /// Processes.
    pub proc: PathBuf,
    /// Where cgroups are mounted.
    pub cgroups: PathBuf,
    /// The kubelet's folder of logs.
    pub pods: PathBuf,
    /// `k8s.node.name`.
    pub node: Option<String>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            cgroups: "/sys/fs/cgroup".into(),
            pods: "/var/log/pods".into(),
            node: None,
        }
    }
}

impl Places {
    /// Nowhere: what is not told is not known.
    #[must_use]
    pub fn nowhere() -> Self {
        let nowhere = PathBuf::from("/dev/null");
        Self {
            proc: nowhere.clone(),
            cgroups: nowhere.clone(),
            pods: nowhere,
            node: None,
        }
    }
}

/// Finds out which service a thread works for.
#[derive(Debug)]
pub struct Enricher {
    proc_root: PathBuf,
    host: Option<String>,
    node: Option<String>,
    cgroups: Cgroups,
    pods: PodNames,
    processes: HashMap<u32, Process>,
    unknown: Arc<Service>,
}

#[derive(Debug)]
struct Process {
    service: Arc<Service>,
    started: Started,
    checked: Instant,
    used: Instant,
}

/// When a process has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    /// In clock ticks since boot, `/proc/PID/stat` field 22.
    At(u64),
    /// It was gone before it was looked up.
    Gone,
    /// It is of a recording, and is not looked up.
    Told,
}

impl Started {
    fn of(directory: &Path) -> Self {
        start_time(directory).map_or(Self::Gone, Self::At)
    }
}

impl Enricher {
    /// Knows no process yet.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self {
            host: host_name(&places.proc),
            node: places.node,
            cgroups: Cgroups::new(&places.cgroups),
            pods: PodNames::new(places.pods),
            proc_root: places.proc,
            processes: HashMap::new(),
            unknown: Arc::new(Service {
                id: next_id(),
                name: value::UNKNOWN_SERVICE.to_owned(),
                ..Service::default()
            }),
        }
    }

    /// The service of the process that `task` belongs to; `None` is for captures.
    ///
    /// Files are read at the first sight of a process (measured: 32 µs) and its start time again at most once a
    /// second while it is used; otherwise this is one map look-up (43 ns).
    pub fn service(&mut self, task: Option<&Task>) -> Arc<Service> {
        let Some(task) = task.filter(|task| task.pid != 0) else {
            return Arc::clone(&self.unknown);
        };
        self.service_at(task, Instant::now())
    }

    fn service_at(&mut self, task: &Task, now: Instant) -> Arc<Service> {
        if let Some(process) = self.processes.get_mut(&task.pid) {
            process.used = now;
            if now.duration_since(process.checked) < TRUSTED {
                return Arc::clone(&process.service);
            }
            process.checked = now;
            let started = Started::of(&self.proc_root.join(task.pid.to_string()));
            // A process that is gone keeps its service: the last bytes of it are still on their way.
            if started == Started::Gone || started == process.started {
                return Arc::clone(&process.service);
            }
        }
        self.forget_some();
        let directory = self.proc_root.join(task.pid.to_string());
        let service = Arc::new(self.look_up(&directory, task, now));
        self.processes.insert(
            task.pid,
            Process {
                service: Arc::clone(&service),
                started: Started::of(&directory),
                checked: now,
                used: now,
            },
        );
        service
    }

    fn look_up(&mut self, directory: &Path, task: &Task, now: Instant) -> Service {
        let executable = executable(directory).or_else(|| comm(task));
        let workload = match read(&directory.join("cgroup"), MAX_FILE) {
            Some(bytes) => {
                let workload = Workload::of_process(&String::from_utf8_lossy(&bytes));
                self.cgroups.learn(task.cgroup, &workload);
                workload
            }
            // It is gone; its cgroup may still be there, or known.
            None => self.cgroups.of(task.cgroup, now).unwrap_or_default(),
        };
        let pod = workload.pod.map(|pod| {
            let names = self.pods.of(&pod.uid, now);
            let (namespace, name) = names.map(|pod| (pod.namespace, pod.name)).unzip();
            Pod {
                uid: pod.uid,
                qos: Some(pod.qos),
                namespace,
                name,
            }
        });
        let own_name = read(&directory.join("environ"), MAX_ENVIRONMENT)
            .and_then(|environment| service_name(&environment));
        let unit_name = || {
            let unit = workload.unit.as_deref()?;
            Some(clean(unit.strip_suffix(".service").unwrap_or(unit)))
        };
        let name = own_name
            .or_else(|| pod.as_ref()?.name.clone())
            .or_else(unit_name)
            .unwrap_or_else(|| match &executable {
                Some(executable) => format!("{}:{executable}", value::UNKNOWN_SERVICE),
                None => value::UNKNOWN_SERVICE.to_owned(),
            });
        Service {
            id: next_id(),
            name,
            pid: Some(task.pid),
            executable,
            container: workload.container,
            node: pod.is_some().then(|| self.node.clone()).flatten(),
            pod,
            unit: workload.unit.map(|unit| clean(&unit)),
            host: self.host.clone(),
        }
    }

    /// Whether the process of a service has ended (one small read).
    #[must_use]
    pub fn has_ended(&self, service: &Service) -> bool {
        let Some((pid, process)) = service
            .pid
            .and_then(|pid| self.processes.get_key_value(&pid))
        else {
            return false;
        };
        // Its number may have been given to another.
        process.service.id != service.id
            || match process.started {
                Started::At(_) => {
                    Started::of(&self.proc_root.join(pid.to_string())) != process.started
                }
                Started::Gone => true,
                Started::Told => false,
            }
    }

    /// What a recording says of a process. It is looked up no more.
    pub fn told(&mut self, process: crate::source::recording::Process) {
        self.forget_some();
        let now = Instant::now();
        let service = Service {
            id: next_id(),
            name: process.service,
            pid: Some(process.pid),
            executable: process.executable,
            container: process.container,
            pod: process.pod_uid.map(|uid| Pod {
                uid,
                qos: process.pod_qos.as_deref().and_then(Qos::of_name),
                namespace: process.namespace,
                name: process.pod_name,
            }),
            node: process.node,
            unit: process.unit,
            host: process.host,
        };
        self.processes.insert(
            process.pid,
            Process {
                service: Arc::new(service),
                started: Started::Told,
                checked: now,
                used: now,
            },
        );
    }

    fn forget_some(&mut self) {
        if self.processes.len() < MAX_PROCESSES {
            return;
        }
        let mut used: Vec<Instant> = self
            .processes
            .values()
            .map(|process| process.used)
            .collect();
        let (_, &mut limit, _) = used.select_nth_unstable(MAX_PROCESSES / 8);
        let mut excess = MAX_PROCESSES / 8;
        self.processes.retain(|_, process| {
            let forget = process.used <= limit && excess > 0;
            excess -= usize::from(forget);
            !forget
        });
    }
}

/// `host.name`, as the kernel tells it below `proc_root`.
#[must_use]
pub fn host_name(proc_root: &Path) -> Option<String> {
    read(&proc_root.join("sys/kernel/hostname"), MAX_FILE)
        .map(|bytes| clean(String::from_utf8_lossy(&bytes).trim()))
        .filter(|name| !name.is_empty())
}

fn next_id() -> u32 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// The file name that `exe` points to, else `comm`.
fn executable(directory: &Path) -> Option<String> {
    let linked = fs::read_link(directory.join("exe")).ok().and_then(|path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        // The kernel marks a file that was replaced while it runs.
        Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
    });
    linked
        .or_else(|| {
            let bytes = read(&directory.join("comm"), MAX_FILE)?;
            Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        })
        .map(|name| clean(&name))
        .filter(|name| !name.is_empty())
}

fn comm(task: &Task) -> Option<String> {
    let bytes = task.comm.split(|byte| *byte == 0).next()?;
    let name = clean(&String::from_utf8_lossy(bytes));
    (!name.is_empty()).then_some(name)
}

/// `OTEL_SERVICE_NAME`, else `service.name` of `OTEL_RESOURCE_ATTRIBUTES` (resource SDK specification). Nothing
/// else of the environment is looked at or kept.
fn service_name(environment: &[u8]) -> Option<String> {
    let find = |name: &str| {
        environment.split(|byte| *byte == 0).find_map(|entry| {
            let text = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(String::from_utf8_lossy(text).into_owned())
        })
    };
    let named = |name: String| Some(clean(name.trim())).filter(|name| !name.is_empty());
    find("OTEL_SERVICE_NAME").and_then(named).or_else(|| {
        find("OTEL_RESOURCE_ATTRIBUTES")?
            .split(',')
            .find_map(|pair| {
                let (key, text) = pair.split_once('=')?;
                (key.trim() == resource::SERVICE_NAME).then(|| percent_decoded(text.trim()))
            })
            .and_then(named)
    })
}

/// `%20` and the like replaced; what is no escape stays.
pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Field 22 of `/proc/PID/stat` (`proc_pid_stat(5)`), counted from behind the name, which may hold anything.
fn start_time(directory: &Path) -> Option<u64> {
    let bytes = read(&directory.join("stat"), MAX_FILE)?;
    let text = String::from_utf8_lossy(&bytes);
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .ok()?;
    Some(bytes)
}

/// Without control characters, and not longer than [`MAX_NAME`].
fn clean(name: &str) -> String {
    name.chars()
        .filter(|c| !c.is_control())
        .take(MAX_NAME)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn finds_service_names() {
        for (environment, name) in [
            ("A=1\0OTEL_SERVICE_NAME=web\0B=2\0", Some("web")),
            (
                "OTEL_SERVICE_NAME=\0OTEL_RESOURCE_ATTRIBUTES=a=b,service.name=shop%20front\0",
                Some("shop front"),
            ),
            (
                "OTEL_RESOURCE_ATTRIBUTES= service.name = x ,service.version=1\0OTEL_SERVICE_NAME=y",
                Some("y"),
            ),
            ("OTEL_RESOURCE_ATTRIBUTES= service.name = x ,c=1", Some("x")),
            ("OTEL_RESOURCE_ATTRIBUTES=service.name=50%", Some("50%")),
            ("XOTEL_SERVICE_NAME=no\0PATH=/bin", None),
            ("OTEL_SERVICE_NAME=a\x1b[31mb", Some("a[31mb")),
            ("", None),
        ] {
            assert_eq!(
                service_name(environment.as_bytes()).as_deref(),
                name,
                "{environment:?}"
            );
        }
    }

    /// A directory like `/proc`, removed at the end.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("enricher-{name}-{}", std::process::id()));
            fs::create_dir_all(root.join("sys/kernel")).unwrap();
            fs::write(root.join("sys/kernel/hostname"), "node-1\n").unwrap();
            Self(root)
        }

        fn places(&self) -> Places {
            Places {
                proc: self.0.clone(),
                cgroups: self.0.join("cgroup"),
                pods: self.0.join("pods"),
                node: Some("node-1.example.com".to_owned()),
            }
        }

        fn process(&self, pid: u32, started: u64, environment: &str) {
            let directory = self.0.join(pid.to_string());
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir_all(&directory).unwrap();
            std::os::unix::fs::symlink("/usr/bin/app (deleted)", directory.join("exe")).unwrap();
            fs::write(directory.join("environ"), environment).unwrap();
            fs::write(directory.join("cgroup"), format!("0::/docker/{ID}\n")).unwrap();
            let zeros = "0 ".repeat(18);
            fs::write(
                directory.join("stat"),
                format!("{pid} (a) b) S {zeros}{started} 0 0\n"),
            )
            .unwrap();
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn task(pid: u32) -> Task {
        let mut comm = [0; 16];
        comm[..6].copy_from_slice(b"worker");
        Task {
            pid,
            tid: pid,
            cgroup: 0,
            comm,
        }
    }

    #[test]
    fn describes_a_process() {
        let fake = Fake::new("describe");
        fake.process(7, 100, "OTEL_SERVICE_NAME=shop\0");
        fake.process(8, 100, "");
        let mut enricher = Enricher::new(fake.places());

        let service = enricher.service(Some(&task(7)));
        assert_eq!(service.name, "shop");
        assert_eq!(service.pid, Some(7));
        assert_eq!(service.executable.as_deref(), Some("app"));
        assert_eq!(service.container.as_deref(), Some(ID));
        assert_eq!(service.host.as_deref(), Some("node-1"));
        assert_eq!(enricher.service(Some(&task(8))).name, "unknown_service:app");

        let gone = enricher.service(Some(&task(9)));
        assert_eq!(gone.name, "unknown_service:worker");
        assert_eq!(gone.executable.as_deref(), Some("worker"));

        let capture = enricher.service(None);
        assert_eq!(
            (capture.name.as_str(), capture.pid),
            ("unknown_service", None)
        );
    }

    #[test]
    fn names_pods_and_units() {
        const UID: &str = "8d8f1f23-5b1e-4d1c-9c5e-2f9b8a7c6d5e";
        let fake = Fake::new("workloads");
        let pod = format!("0::/../pod{UID}/{ID}");
        for (pid, environment, cgroup) in [
            (7, "", pod.as_str()),
            (8, "OTEL_SERVICE_NAME=shop\0", &pod),
            (9, "", "0::/system.slice/web@1.service/worker"),
            (
                10,
                "",
                "0::/docker/0/kubepods/besteffort/pod00000000-0000-0000-0000-000000000000/x",
            ),
        ] {
            fake.process(pid, 100, environment);
            fs::write(fake.0.join(pid.to_string()).join("cgroup"), cgroup).unwrap();
        }
        fs::create_dir_all(fake.0.join("pods").join(format!("shop_web-0_{UID}"))).unwrap();
        let mut enricher = Enricher::new(fake.places());
        let mut service = |pid| enricher.service(Some(&task(pid)));

        let web = service(7);
        assert_eq!(web.name, "web-0");
        let told = Pod {
            uid: UID.to_owned(),
            qos: Some(Qos::Guaranteed),
            namespace: Some("shop".to_owned()),
            name: Some("web-0".to_owned()),
        };
        assert_eq!(web.pod, Some(told));
        assert_eq!(web.node.as_deref(), Some("node-1.example.com"));
        assert_eq!(service(8).name, "shop");

        let unit = service(9);
        assert_eq!(unit.name, "web@1");
        assert_eq!(unit.unit.as_deref(), Some("web@1.service"));
        assert_eq!(unit.node, None);

        let unnamed = service(10);
        assert_eq!(unnamed.name, "unknown_service:app");
        assert_eq!(unnamed.pod.as_ref().unwrap().name, None);
    }

    #[test]
    fn a_process_that_is_gone_has_its_cgroup() {
        let fake = Fake::new("gone");
        fake.process(7, 100, "");
        let mut enricher = Enricher::new(fake.places());
        let of = |pid, cgroup| Task {
            cgroup,
            ..task(pid)
        };
        assert!(enricher.service(Some(&of(7, 77))).container.is_some());
        let gone = enricher.service(Some(&of(8, 77)));
        assert_eq!(gone.container.as_deref(), Some(ID));
        assert_eq!(gone.executable.as_deref(), Some("worker"));
        assert_eq!(enricher.service(Some(&of(9, 78))).container, None);
    }

    #[test]
    fn notices_a_reused_pid() {
        let fake = Fake::new("reuse");
        fake.process(7, 100, "OTEL_SERVICE_NAME=old\0");
        let mut enricher = Enricher::new(fake.places());
        let start = Instant::now();
        let old = enricher.service_at(&task(7), start);

        fake.process(7, 200, "OTEL_SERVICE_NAME=new\0");
        let cached = enricher.service_at(&task(7), start + TRUSTED / 2);
        assert!(Arc::ptr_eq(&old, &cached));
        let new = enricher.service_at(&task(7), start + TRUSTED);
        assert_eq!(new.name, "new");
        assert_ne!(new.id, old.id);
        assert!(enricher.has_ended(&old) && !enricher.has_ended(&new));

        fs::remove_dir_all(fake.0.join("7")).unwrap();
        let gone = enricher.service_at(&task(7), start + 3 * TRUSTED);
        assert!(
            Arc::ptr_eq(&new, &gone),
            "a process that is gone keeps its service"
        );
    }

    #[test]
    fn remembers_a_bounded_number() {
        let fake = Fake::new("bounded");
        let mut enricher = Enricher::new(fake.places());
        let start = Instant::now();
        let last = MAX_PROCESSES as u32 + 10;
        for pid in 1..=last {
            enricher.service_at(&task(pid), start + Duration::from_nanos(u64::from(pid)));
        }
        assert!(enricher.processes.len() <= MAX_PROCESSES);
        assert!(enricher.processes.contains_key(&last));
        assert!(!enricher.processes.contains_key(&1));
    }
}
