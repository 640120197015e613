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
    started: Started,
    signs: Signs,
    /// Names of servers, and when they were looked at; `None`: not yet.
    hosts: Option<(Arc<Hosts>, Instant)>,
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
            proc_root: match surroundings::processes(&places.proc).is_ok() {
                true => places.proc,
                // Of these numbers others are there.
                false => Places::nowhere().proc,
            },
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

    /// What the process that `task` belongs to calls this server, as its file of hosts says; no other is asked.
    ///
    /// It is meant for the begin of a connection: measured, 10 µs at the first one of a process, 90 ns later.
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
        let started = Started::of(directory);
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
        let (name, otherwise) = match own_name {
            Some(name) => (name, None),
            None => {
                let otherwise = default_name(&service);
                let name = self.names.find(&service.who()).unwrap_or(&otherwise);
                (name.to_owned(), Some(otherwise))
            }
        };
        service.name = name;
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
                started: Started::Told,
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
        let is_it = match Started::of(&proc_root.join(task.pid.to_string())) {
            // It is gone and its last bytes are still on their way, or another has come and gone.
            Started::Gone => !self.signs.refute(task),
            started => started == self.started,
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
    let name = |path: &str| {
        let text = read(&proc_root.join(path), MAX_FILE)?;
        let name = clean(String::from_utf8_lossy(&text).trim());
        Some(name).filter(|name| !name.is_empty())
    };
    // In a container's own process namespace the first process is the container's.
    let of_first = || {
        surroundings::processes(proc_root).ok()?;
        name("1/root/etc/hostname")
    };
    match surroundings::name(proc_root) {
        Ok(()) => name("sys/kernel/hostname"),
        Err(_) => node.map(str::to_owned).or_else(of_first),
    }
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
mod tests;
