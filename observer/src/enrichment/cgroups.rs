//! Workloads by the number that the kernel gives with each event: that of the cgroup in the version 2 hierarchy.
//!
//! It tells of processes that were gone before they were looked up. The number is the inode of the cgroup's directory
//! (`cgroup_id`, `kernel/cgroup`), and is not given again.

use std::collections::HashMap;
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
    known: HashMap<u64, Workload>,
    walked: Option<Instant>,
}

impl Cgroups {
    /// `mount`: where cgroups are mounted, of version 2 alone or with version 1.
    pub(super) fn new(mount: &Path) -> Self {
        let hybrid = mount.join("unified");
        Self {
            root: if hybrid.is_dir() {
                hybrid
            } else {
                mount.to_owned()
            },
            known: HashMap::new(),
            walked: None,
        }
    }

    /// A process in this cgroup told what it is.
    pub(super) fn learn(&mut self, id: u64, workload: &Workload) {
        // The root's number, and none, tell nothing: there version 1 may be in use.
        if id > 1 && *workload != Workload::default() {
            self.insert(id, workload.clone());
        }
    }

    /// What a cgroup tells. Measured: 25 ms for a walk over 1,000 directories.
    pub(super) fn of(&mut self, id: u64, now: Instant) -> Option<Workload> {
        let fresh = |walked: Instant| now.duration_since(walked) < PAUSE;
        if id > 1 && !self.known.contains_key(&id) && !self.walked.is_some_and(fresh) {
            self.walked = Some(now);
            self.walk();
        }
        self.known.get(&id).cloned()
    }

    fn insert(&mut self, id: u64, workload: Workload) {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&id) {
            self.known.clear();
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
            let Ok(path) = entry.path().strip_prefix(&self.root) else {
                continue;
            };
            let workload = Workload::of_path(&path.to_string_lossy());
            if workload != Workload::default() {
                self.insert(entry.ino(), workload);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const ID: &str = "3f9f6e6ad1e1e43c4a0b9d0c8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f";

    #[test]
    fn finds_cgroups_by_number() {
        for unified in ["", "unified"] {
            let root =
                std::env::temp_dir().join(format!("cgroups{unified}-{}", std::process::id()));
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
            assert_eq!(found.unit.as_deref(), Some("web.service"));
            fs::remove_dir_all(&root).unwrap();
            assert!(cgroups.of(number, start + 3 * PAUSE).is_some());
        }
    }

    #[test]
    fn learns_from_processes() {
        let mut cgroups = Cgroups::new(Path::new("/nonexistent"));
        let workload = Workload {
            unit: Some("web.service".to_owned()),
            ..Workload::default()
        };
        for id in [0, 1, 77] {
            cgroups.learn(id, &workload);
        }
        cgroups.learn(78, &Workload::default());
        let now = Instant::now();
        let known = [0, 1, 77, 78].map(|id| cgroups.of(id, now).is_some());
        assert_eq!(known, [false, false, true, false]);
    }
}
