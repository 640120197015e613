//! Services from `/proc`: read once at the first sight of a process, and looked at again from time to time in
//! case its number was given to another.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::cgroup::Workload;
use super::cgroups::Cgroups;
use super::environment::service_name;
use super::hosts::{Hosts, HostsFiles, is_named};
use super::pods::PodNames;
use super::{Pod, Qos, Service};
use crate::config::rules::ServiceNames;
use crate::source::event::{Address, Task};
use crate::source::recording::{self, ServerName};
use crate::source::surroundings;
use crate::telemetry::names::value;

/// Processes remembered; beyond it the eighth that was used longest ago is forgotten.
const MAX_PROCESSES: usize = 4096;
/// How long a look-up is trusted before the process's start time is compared again (one small read).
const TRUSTED: Duration = Duration::from_secs(1);
/// How long a file of hosts is trusted before it is looked whether it has changed, for a new connection.
const HOSTS_TRUSTED: Duration = Duration::from_secs(10);
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
    /// Those of this host. In a container that does not see the host's processes, no process: others have their numbers.
    fn default() -> Self {
        Self {
            proc: match surroundings::processes() {
                Ok(()) => "/proc".into(),
                Err(_) => "/dev/null".into(),
            },
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
    hosts: HostsFiles,
    names: ServiceNames,
    processes: HashMap<u32, Process>,
    unknown: Arc<Service>,
}

#[derive(Debug)]
struct Process {
    service: Arc<Service>,
    /// What it is called where no rule names it; `None`: it has named itself.
    otherwise: Option<String>,
    /// Start time in clock ticks since boot, `/proc/PID/stat` field 22. `None` when the process was gone.
    started: Option<u64>,
    signs: Signs,
    /// Names of servers, and when they were looked at; `None`: not yet.
    hosts: Option<(Arc<Hosts>, Instant)>,
    checked: Instant,
    used: Instant,
}

/// What tells processes of one number apart when there is no start time any more to ask for.
#[derive(Debug, Clone, Copy, Default)]
struct Signs {
    /// `None`: not known, or its threads are in several.
    cgroup: Option<u64>,
    /// Name of its first thread.
    name: Option<[u8; 16]>,
}

impl Signs {
    fn of(task: &Task) -> Self {
        Self {
            cgroup: (task.cgroup != 0).then_some(task.cgroup),
            name: (task.tid == task.pid).then_some(task.comm),
        }
    }

    /// Whether the task is in another cgroup.
    fn moved(&self, task: &Task) -> bool {
        let cgroup = self.cgroup.filter(|_| task.cgroup != 0);
        cgroup.is_some_and(|cgroup| cgroup != task.cgroup)
    }

    /// Whether the task is of another process.
    fn refute(&self, task: &Task) -> bool {
        let name = self.name.filter(|_| task.tid == task.pid);
        self.moved(task) || name.is_some_and(|name| name != task.comm)
    }

    /// The task is of this process.
    fn renew(&mut self, task: &Task) {
        if self.moved(task) {
            self.cgroup = None;
        }
        self.name = Self::of(task).name.or(self.name);
    }
}

impl Enricher {
    /// Knows no process yet.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self {
            host: host_name(&places.proc, places.node.as_deref()),
            node: places.node,
            cgroups: Cgroups::new(&places.cgroups),
            pods: PodNames::new(places.pods),
            hosts: HostsFiles::default(),
            names: ServiceNames::default(),
            proc_root: places.proc,
            processes: HashMap::new(),
            unknown: Arc::new(Service {
                id: next_id(),
                name: value::UNKNOWN_SERVICE.to_owned(),
                ..Service::default()
            }),
        }
    }

    /// The file gives these names to services from now on. A process whose name changes is another service then.
    pub fn rename(&mut self, names: ServiceNames) {
        if self.names == names {
            return;
        }
        self.names = names;
        for process in self.processes.values_mut() {
            let Some(otherwise) = &process.otherwise else {
                continue;
            };
            let found = self.names.find(&process.service.who());
            let name = found.unwrap_or(otherwise);
            if *name != process.service.name {
                process.service = Arc::new(Service {
                    id: next_id(),
                    name: name.to_owned(),
                    ..Service::clone(&process.service)
                });
            }
        }
    }

    /// The service of the process that `task` belongs to; `None` is for captures.
    ///
    /// Files are read at the first sight of a process (measured: 32 µs) and its start time again at most once a
    /// second while it is used; otherwise this is one map look-up (43 ns).
    pub fn service(&mut self, task: Option<&Task>) -> Arc<Service> {
        match task.filter(|task| task.pid != 0) {
            Some(task) => Arc::clone(&self.process(task, Instant::now()).service),
            None => Arc::clone(&self.unknown),
        }
    }

    /// Whether the process has named itself: no rule names it then.
    pub fn names_itself(&mut self, task: &Task) -> bool {
        self.process(task, Instant::now()).otherwise.is_none()
    }

    /// What the process that `task` belongs to calls this server, as its file of hosts says; no other is asked. It is meant for the begin
    /// of a connection: measured, 15 µs for a file that was not read before, 5 µs where another process sees the same.
    pub fn server_name(&mut self, task: Option<&Task>, server: Address) -> Option<Arc<str>> {
        let address = server.inet()?.ip();
        let task = task.filter(|task| task.pid != 0 && is_named(address))?;
        self.server_name_at(task, address, Instant::now())
    }

    fn server_name_at(&mut self, task: &Task, address: IpAddr, now: Instant) -> Option<Arc<str>> {
        let known = &self.process(task, now).hosts;
        let fresh = |looked: Instant| now.duration_since(looked) < HOSTS_TRUSTED;
        if !known.as_ref().is_some_and(|(_, looked)| fresh(*looked)) {
            let found = self.hosts.of(&self.proc_root.join(task.pid.to_string()));
            let process = self.processes.get_mut(&task.pid)?;
            // Of a process that is gone what was found last holds.
            let last = process.hosts.take().map(|(hosts, _)| hosts);
            process.hosts = Some((found.or(last).unwrap_or_default(), now));
        }
        let (hosts, _) = self.processes.get(&task.pid)?.hosts.as_ref()?;
        hosts.name(address)
    }

    fn process(&mut self, task: &Task, now: Instant) -> &Process {
        let known = self.processes.get_mut(&task.pid);
        let is_it = known.is_some_and(|process| process.is_it(task, &self.proc_root, now));
        if !is_it {
            self.forget_some();
            let process = self.look_up(task, now);
            self.processes.insert(task.pid, process);
        }
        &self.processes[&task.pid]
    }

    fn look_up(&mut self, task: &Task, now: Instant) -> Process {
        let directory = &self.proc_root.join(task.pid.to_string());
        // Before all else: should another process get the number meanwhile, it is seen to be another.
        let started = start_time(directory);
        let executable = executable(directory).or_else(|| comm(task));
        let workload = match read(&directory.join("cgroup"), MAX_FILE) {
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                if let Some(path) = Workload::path_of_process(&text) {
                    self.cgroups.learn(task.cgroup, path);
                }
                Workload::of_process(&text)
            }
            // It is gone; its cgroup may still be there, or known.
            None => self.cgroups.of(task.cgroup, now).unwrap_or_default(),
        };
        let pod = workload.pod.map(|pod| {
            let names = self.pods.of(&pod.uid, now);
            let (namespace, name) = names.map(|pod| (pod.namespace, pod.name)).unzip();
            Pod {
                uid: pod.uid,
                qos: pod.qos,
                namespace,
                name,
            }
        });
        let own_name = read(&directory.join("environ"), MAX_ENVIRONMENT)
            .and_then(|environment| service_name(whole(&environment)));
        let mut service = Service {
            id: next_id(),
            name: String::new(),
            pid: Some(task.pid),
            executable,
            container: workload.container,
            node: pod.is_some().then(|| self.node.clone()).flatten(),
            pod,
            unit: workload.unit.map(|unit| clean(&unit)),
            host: self.host.clone(),
        };
        let otherwise = own_name.is_none().then(|| default_name(&service));
        service.name = match (own_name, &otherwise) {
            (Some(name), _) => name,
            (None, otherwise) => self
                .names
                .find(&service.who())
                .or(otherwise.as_deref())
                .unwrap_or_default()
                .to_owned(),
        };
        Process {
            service: Arc::new(service),
            otherwise,
            started,
            signs: Signs::of(task),
            hosts: None,
            checked: now,
            used: now,
        }
    }

    /// What a recording says of a process. It is looked up no more.
    pub fn told(&mut self, process: recording::Process) {
        self.forget_some();
        let now = Instant::now();
        let mut service = Service {
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
        let otherwise = (!process.named).then(|| service.name.clone());
        if otherwise.is_some()
            && let Some(name) = self.names.find(&service.who())
        {
            service.name = name.to_owned();
        }
        self.processes.insert(
            process.pid,
            Process {
                service: Arc::new(service),
                otherwise,
                started: None,
                signs: Signs::default(),
                hosts: None,
                checked: now,
                used: now,
            },
        );
    }

    /// What a recording says of a server that one of these processes talks to.
    pub fn told_server(&mut self, server: ServerName) {
        if let Some(process) = self.processes.get_mut(&server.pid) {
            let (mut hosts, _) = process
                .hosts
                .take()
                .unwrap_or((Arc::default(), Instant::now()));
            Arc::make_mut(&mut hosts).add(server.address, clean(&server.name).into());
            process.hosts = Some((hosts, Instant::now()));
        }
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

impl Process {
    /// Whether the task is of this process, and of no other that got its number.
    fn is_it(&mut self, task: &Task, proc_root: &Path, now: Instant) -> bool {
        self.used = now;
        if now.duration_since(self.checked) < TRUSTED && !self.signs.moved(task) {
            return true;
        }
        self.checked = now;
        let started = start_time(&proc_root.join(task.pid.to_string()));
        let is_it = match started {
            // It is gone and its last bytes are still on their way, or another has come and gone.
            None => !self.signs.refute(task),
            Some(_) => started == self.started,
        };
        if is_it {
            self.signs.renew(task);
        }
        is_it
    }
}

/// `service.name` where neither the process nor the user gives one.
fn default_name(service: &Service) -> String {
    let pod = service.pod.as_ref().and_then(|pod| pod.name.clone());
    let unit = || {
        let unit = service.unit.as_deref()?;
        Some(unit.strip_suffix(".service").unwrap_or(unit).to_owned())
    };
    pod.or_else(unit)
        .unwrap_or_else(|| match &service.executable {
            Some(executable) => format!("{}:{executable}", value::UNKNOWN_SERVICE),
            None => value::UNKNOWN_SERVICE.to_owned(),
        })
}

/// `host.name`, as the kernel tells it below `proc_root`. A container has a name of its own; then it is that of the `node`, else what
/// the first process's file system says.
#[must_use]
pub fn host_name(proc_root: &Path, node: Option<&str>) -> Option<String> {
    let space = |process: &str| fs::read_link(proc_root.join(process).join("ns/uts")).ok();
    let name = |path: &Path| {
        let text = read(path, MAX_FILE)?;
        let name = clean(String::from_utf8_lossy(&text).trim());
        Some(name).filter(|name| !name.is_empty())
    };
    let is_own = space("1").is_some_and(|first| space("self").is_some_and(|own| own != first));
    let of_host = || {
        node.map(str::to_owned)
            .or_else(|| name(&proc_root.join("1/root/etc/hostname")))
    };
    is_own
        .then(of_host)
        .flatten()
        .or_else(|| name(&proc_root.join("sys/kernel/hostname")))
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

/// Without a last entry that may go on.
fn whole(environment: &[u8]) -> &[u8] {
    if (environment.len() as u64) < MAX_ENVIRONMENT {
        return environment;
    }
    let end = environment.iter().rposition(|byte| *byte == 0);
    &environment[..end.unwrap_or(0)]
}

/// Without control characters, and not longer than [`MAX_NAME`].
pub(super) fn clean(name: &str) -> String {
    name.chars()
        .filter(|c| !c.is_control())
        .take(MAX_NAME)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::config::export::Export;
    use crate::config::rules::Rules;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

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
        let pod = format!("0::/kubepods/pod{UID}/{ID}");
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
        let cgroup = fake.0.join(format!("cgroup/docker/{ID}"));
        fs::create_dir_all(&cgroup).unwrap();
        let number = fs::metadata(&cgroup).unwrap().ino();
        let of = |pid, cgroup| Task {
            cgroup,
            ..task(pid)
        };
        assert!(enricher.service(Some(&of(7, number))).container.is_some());
        let gone = enricher.service(Some(&of(8, number)));
        assert_eq!(gone.container.as_deref(), Some(ID));
        assert_eq!(gone.executable.as_deref(), Some("worker"));
        assert_eq!(enricher.service(Some(&of(9, 1))).container, None);
    }

    #[test]
    fn a_reused_pid_of_a_process_that_is_gone() {
        let fake = Fake::new("gone-reuse");
        fake.process(7, 100, "OTEL_SERVICE_NAME=old\0");
        let mut enricher = Enricher::new(fake.places());
        let old = Task {
            cgroup: 77,
            ..task(7)
        };
        let thread = Task {
            tid: 8,
            comm: *b"a thread\0\0\0\0\0\0\0\0",
            ..old
        };
        let start = Instant::now();
        let mut name = |task: &Task, seconds| {
            let now = start + TRUSTED * seconds;
            enricher.process(task, now).service.name.clone()
        };
        assert_eq!(name(&old, 0), "old");
        fs::remove_dir_all(fake.0.join("7")).unwrap();
        for same in [old, thread, Task { cgroup: 0, ..old }] {
            assert_eq!(name(&same, 2), "old");
        }
        // Another came and went: it is in another cgroup, or its first thread has another name.
        let elsewhere = Task { cgroup: 78, ..old };
        assert_eq!(name(&elsewhere, 2), "unknown_service:worker");
        let other = Task {
            comm: *b"redis-cli\0\0\0\0\0\0\0",
            ..elsewhere
        };
        assert_eq!(name(&other, 4), "unknown_service:redis-cli");
        // Threads may be in cgroups of their own, and the process lives.
        fake.process(9, 100, "OTEL_SERVICE_NAME=two\0");
        for (cgroup, seconds) in [(77, 4), (78, 4), (77, 4), (78, 6)] {
            let task = Task { cgroup, ..task(9) };
            assert_eq!(name(&task, seconds), "two");
        }
    }

    #[test]
    fn rules_name_services() {
        let names = |text: &str| {
            let tables = toml::from_str(text).unwrap();
            Rules::new(&tables, Export::default()).service_names()
        };
        let fake = Fake::new("rules");
        fake.process(7, 100, "OTEL_SERVICE_NAME=shop\0");
        fake.process(8, 100, "");
        let mut enricher = Enricher::new(fake.places());
        enricher.rename(names("[[rules]]\nexecutable = 'a*'\nservice-name = 'jobs'"));
        let [own, ruled] = [7, 8].map(|pid| enricher.service(Some(&task(pid))));
        assert_eq!((own.name.as_str(), ruled.name.as_str()), ("shop", "jobs"));
        assert!(enricher.names_itself(&task(7)) && !enricher.names_itself(&task(8)));

        enricher.rename(names(
            "[[rules]]\ncontainer = '0123*'\nservice-name = 'jobs'",
        ));
        assert!(Arc::ptr_eq(&ruled, &enricher.service(Some(&task(8)))));
        enricher.rename(ServiceNames::default());
        let plain = enricher.service(Some(&task(8)));
        assert_eq!(plain.name, "unknown_service:app");
        assert_ne!(plain.id, ruled.id);
        assert!(Arc::ptr_eq(&own, &enricher.service(Some(&task(7)))));
    }

    #[test]
    fn names_servers() {
        let fake = Fake::new("servers");
        fake.process(7, 100, "");
        fs::create_dir_all(fake.0.join("7/root/etc")).unwrap();
        let file = fake.0.join("7/root/etc/hosts");
        fs::write(&file, "10.0.0.7 redis-1\n127.0.0.1 local\n").unwrap();
        let mut enricher = Enricher::new(fake.places());
        let mut of = |pid, server: &str| {
            let name = enricher.server_name(Some(&task(pid)), server.parse().unwrap());
            name.map(|name| name.to_string())
        };
        assert_eq!(of(7, "10.0.0.7:6379").as_deref(), Some("redis-1"));
        assert_eq!(of(7, "10.0.0.8:6379"), None);
        assert_eq!(of(7, "127.0.0.1:6379"), None);
        assert_eq!(of(8, "10.0.0.7:6379"), None, "it is gone");
        fs::write(&file, "10.0.0.7 redis-01\n").unwrap();
        assert_eq!(of(7, "10.0.0.7:6379").as_deref(), Some("redis-1"));
        let address = "10.0.0.7".parse().unwrap();
        let later = Instant::now() + HOSTS_TRUSTED;
        let name = enricher.server_name_at(&task(7), address, later);
        assert_eq!(name.as_deref(), Some("redis-01"));
        fs::remove_dir_all(fake.0.join("7")).unwrap();
        let gone = enricher.server_name_at(&task(7), address, later + HOSTS_TRUSTED);
        assert_eq!(gone, name, "a process that is gone keeps its names");
    }

    #[test]
    fn the_host_is_that_of_the_first_process() {
        let fake = Fake::new("host");
        let space = |process: &str, number: u32| {
            let folder = fake.0.join(process).join("ns");
            fs::create_dir_all(&folder).unwrap();
            let _ = fs::remove_file(folder.join("uts"));
            std::os::unix::fs::symlink(format!("uts:[{number}]"), folder.join("uts")).unwrap();
        };
        let name = |node| host_name(&fake.0, node);
        space("1", 1);
        space("self", 1);
        assert_eq!(name(Some("worker-3")).as_deref(), Some("node-1"));
        // The observer's container has another name.
        space("self", 2);
        assert_eq!(name(Some("worker-3")).as_deref(), Some("worker-3"));
        assert_eq!(
            name(None).as_deref(),
            Some("node-1"),
            "nothing else is known"
        );
        fs::create_dir_all(fake.0.join("1/root/etc")).unwrap();
        fs::write(fake.0.join("1/root/etc/hostname"), "worker-4\n").unwrap();
        assert_eq!(name(None).as_deref(), Some("worker-4"));
    }

    #[test]
    fn notices_a_reused_pid() {
        let fake = Fake::new("reuse");
        fake.process(7, 100, "OTEL_SERVICE_NAME=old\0");
        let mut enricher = Enricher::new(fake.places());
        let start = Instant::now();
        let mut at = |now| Arc::clone(&enricher.process(&task(7), now).service);
        let old = at(start);

        fake.process(7, 200, "OTEL_SERVICE_NAME=new\0");
        let cached = at(start + TRUSTED / 2);
        assert!(Arc::ptr_eq(&old, &cached));
        let new = at(start + TRUSTED);
        assert_eq!(new.name, "new");
        assert_ne!(new.id, old.id);

        fs::remove_dir_all(fake.0.join("7")).unwrap();
        let gone = at(start + 3 * TRUSTED);
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
            enricher.process(&task(pid), start + Duration::from_nanos(u64::from(pid)));
        }
        assert!(enricher.processes.len() <= MAX_PROCESSES);
        assert!(enricher.processes.contains_key(&last));
        assert!(!enricher.processes.contains_key(&1));
    }
}
