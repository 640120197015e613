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

/// Processes below it have the numbers of this namespace.
fn in_namespace(fake: &Fake, kind: &str, number: u32) {
    let folder = fake.0.join("self/ns");
    fs::create_dir_all(&folder).unwrap();
    let _ = fs::remove_file(folder.join(kind));
    let link = format!("{kind}:[{number}]");
    std::os::unix::fs::symlink(link, folder.join(kind)).unwrap();
}

#[test]
fn numbers_of_another_namespace_are_not_looked_up() {
    let fake = Fake::new("pids");
    fake.process(7, 100, "OTEL_SERVICE_NAME=another\0");
    for (namespace, name) in [
        (4_026_531_836, "another"),
        (4_026_532_201, "unknown_service:worker"),
    ] {
        in_namespace(&fake, "pid", namespace);
        let service = Enricher::new(fake.places()).service(Some(&task(7)));
        assert_eq!(service.name, name);
        assert_eq!(service.host.as_deref(), Some("node-1"));
    }
}

#[test]
fn a_container_is_not_the_host() {
    let fake = Fake::new("host");
    let space = |number| in_namespace(&fake, "uts", number);
    let name = |node| host_name(&fake.0, node);
    space(4_026_531_838);
    assert_eq!(name(Some("worker-3")).as_deref(), Some("node-1"));
    // The observer's container has another name.
    space(4_026_532_201);
    assert_eq!(name(Some("worker-3")).as_deref(), Some("worker-3"));
    assert_eq!(name(None), None, "that of the container is not the host's");
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
    let at = |enricher: &mut Enricher, now| Arc::clone(&enricher.process(&task(7), now).service);
    let old = at(&mut enricher, start);

    fake.process(7, 200, "OTEL_SERVICE_NAME=new\0");
    let cached = at(&mut enricher, start + TRUSTED / 2);
    assert!(Arc::ptr_eq(&old, &cached));
    let new = at(&mut enricher, start + TRUSTED);
    assert_eq!(new.name, "new");
    assert_ne!(new.id, old.id);
    assert!(enricher.has_ended(&old) && !enricher.has_ended(&new));

    fs::remove_dir_all(fake.0.join("7")).unwrap();
    let gone = at(&mut enricher, start + 3 * TRUSTED);
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
