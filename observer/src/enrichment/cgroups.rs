//! Workloads by the number that the kernel gives with each event: that of the cgroup in the version 2 hierarchy.
//!
//! It tells of processes that were gone before they were looked up. The number is the inode of the cgroup's directory
//! (`cgroup_id`, `kernel/cgroup`), and is not given again.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use walkdir::{DirEntryExt, WalkDir};

use super::cgroup::Workload;

/// Most cgroups remembered; beyond it all are forgotten, and found again.
const MAX_KNOWN: usize = 16_384;
/// Most directories looked at in one walk. A node of 110 pods has some 600.
const MAX_WALK: usize = 4_096;
/// The tree is walked for a cgroup that is not known at most this often.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    /// Version 1 is in use beside version 2. A process that systemd leaves to a container runtime then is in that one's service here,
    /// and in its container there alone: so a unit found by number may be wrong, a container is not.
    hybrid: bool,
    known: HashMap<u64, Workload>,
    walked: Option<Instant>,
}

impl Cgroups {
    /// `mount`: where cgroups are mounted, of version 2 alone or with version 1.
    pub(super) fn new(mount: &Path) -> Self {
        let unified = mount.join("unified");
        let hybrid = unified.is_dir();
        Self {
            root: if hybrid { unified } else { mount.to_owned() },
            hybrid,
            known: HashMap::new(),
            walked: None,
        }
    }

    /// A process that made a call in this cgroup is, some time later, at this path of version 2. It may have moved meanwhile.
    pub(super) fn learn(&mut self, id: u64, path: &str) {
        if id <= 1 || self.known.contains_key(&id) {
            return;
        }
        let there = fs::metadata(self.root.join(path.trim_start_matches('/')));
        // From a namespace of its own an observer does not find the path of others: then it is believed.
        if there.is_ok_and(|there| there.ino() != id) {
            return;
        }
        self.insert(id, path);
    }

    /// What a cgroup tells. Measured: 25 ms for a walk over 1,000 directories.
    pub(super) fn of(&mut self, id: u64, now: Instant) -> Option<Workload> {
        let fresh = |walked: Instant| now.duration_since(walked) < PAUSE;
        // The root's number, and none, tell nothing: there version 1 may be in use.
        if id > 1 && !self.known.contains_key(&id) && !self.walked.is_some_and(fresh) {
            self.walked = Some(now);
            self.walk();
        }
        self.known.get(&id).cloned()
    }

    /// What tells nothing is kept, too: it need not be looked for again.
    fn insert(&mut self, id: u64, path: &str) {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&id) {
            self.known.clear();
        }
        let mut workload = Workload::of_path(path);
        if self.hybrid {
            workload.unit = None;
        }
        self.known.insert(id, workload);
    }

    fn walk(&mut self) {
        let directories = WalkDir::new(&self.root)
            .min_depth(1)
            .into_iter()
            .filter_entry(|entry| entry.file_type().is_dir());
        // Some may be gone already.
        for entry in directories.take(MAX_WALK).flatten() {
            if let Ok(path) = entry.path().strip_prefix(&self.root) {
                self.insert(entry.ino(), &path.to_string_lossy());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f9f6e6ad1e1e43c4a0b9d0c8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f";

    fn root(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("cgroups-{name}-{}", std::process::id()))
    }

    #[test]
    fn finds_cgroups_by_number() {
        for unified in ["", "unified"] {
            let root = root(&format!("find{unified}"));
            let scope = root
                .join(unified)
                .join(format!("system.slice/docker-{ID}.scope"));
            fs::create_dir_all(&scope).unwrap();
            let number = fs::metadata(&scope).unwrap().ino();
            let mut cgroups = Cgroups::new(&root);
            let start = Instant::now();
            let found = cgroups.of(number, start).unwrap();
            assert_eq!(found.container.as_deref(), Some(ID));

            let service = scope.with_file_name("web.service");
            fs::create_dir_all(&service).unwrap();
            let number = fs::metadata(&service).unwrap().ino();
            assert_eq!(cgroups.of(number, start), None, "not walked all the time");
            let found = cgroups.of(number, start + PAUSE).unwrap();
            let sure = unified.is_empty().then_some("web.service");
            assert_eq!(found.unit.as_deref(), sure);
            fs::remove_dir_all(&root).unwrap();
            assert!(cgroups.of(number, start + 3 * PAUSE).is_some());
        }
    }

    #[test]
    fn learns_from_processes() {
        let root = root("learn");
        fs::create_dir_all(root.join("a.service")).unwrap();
        fs::create_dir_all(root.join("b.service")).unwrap();
        let number = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
        let (a, b) = (number("a.service"), number("b.service"));
        let mut cgroups = Cgroups::new(&root);
        // No walk finds more than is learned.
        cgroups.walked = Some(Instant::now() + PAUSE);
        // None, the root, and a process that has moved from b to a.
        for id in [0, 1, b] {
            cgroups.learn(id, "/a.service");
        }
        cgroups.learn(a, "/a.service");
        // Seen from another namespace.
        cgroups.learn(u64::MAX, "/../c.service");
        let now = Instant::now();
        let mut unit = |id| cgroups.of(id, now).and_then(|found| found.unit);
        assert_eq!([0, 1, b].map(&mut unit), [None, None, None]);
        assert_eq!(unit(a).as_deref(), Some("a.service"));
        assert_eq!(unit(u64::MAX).as_deref(), Some("c.service"));
        fs::remove_dir_all(&root).unwrap();
    }
}
