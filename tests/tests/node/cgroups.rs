//! Cgroups of pods and their containers, as the kubelet and containerd make them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::container::Container;

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// Who makes the cgroups, which decides their names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Driver {
    Cgroupfs,
    Systemd,
}

/// The cgroups of a node's pods; gone when dropped.
pub(crate) struct Cgroups {
    driver: Driver,
    /// One of version 2, or one for each controller of version 1, and in the hybrid layout both.
    hierarchies: Vec<PathBuf>,
}

impl Cgroups {
    pub(crate) fn new(driver: Driver) -> Result<Self> {
        let mount = Path::new(MOUNT);
        let is_hierarchy = |path: &PathBuf| path.join("cgroup.procs").exists();
        let mut hierarchies = vec![mount.to_owned()];
        if !is_hierarchy(&hierarchies[0]) {
            let folders = fs::read_dir(mount)?.map(|entry| Ok(entry?.path()));
            hierarchies = folders.collect::<Result<_>>()?;
            // Links to controllers that are mounted together stand for the same.
            hierarchies.retain(|path| !path.is_symlink() && is_hierarchy(path));
        }
        ensure!(!hierarchies.is_empty(), "no cgroups below {MOUNT}");
        Ok(Self {
            driver,
            hierarchies,
        })
    }

    /// What is above all pods.
    fn top(&self) -> &'static str {
        match self.driver {
            Driver::Cgroupfs => "kubepods",
            Driver::Systemd => "kubepods.slice",
        }
    }

    /// Moves a container into its pod's cgroup, in all hierarchies.
    pub(crate) fn place(&self, qos: &str, uid: &str, container: &Container) -> Result<()> {
        let (top, id) = (self.top(), &container.id);
        let parts = match self.driver {
            Driver::Cgroupfs => [qos.to_owned(), format!("pod{uid}"), id.clone()],
            Driver::Systemd => {
                let class = format!("kubepods-{qos}");
                let pod = format!("{class}-pod{}.slice", uid.replace('-', "_"));
                [
                    format!("{class}.slice"),
                    pod,
                    format!("cri-containerd-{id}.scope"),
                ]
            }
        };
        for hierarchy in &self.hierarchies {
            let mut cgroup = hierarchy.join(top);
            make(&cgroup)?;
            for part in &parts {
                cgroup.push(part);
                make(&cgroup)?;
            }
            fs::write(cgroup.join("cgroup.procs"), container.pid.to_string())
                .with_context(|| format!("cannot move a container into {}", cgroup.display()))?;
        }
        Ok(())
    }
}

/// Makes a cgroup, unless it is there.
fn make(cgroup: &Path) -> Result<()> {
    if cgroup.exists() {
        return Ok(());
    }
    fs::create_dir(cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
    // In version 1 it starts without processors and memory, and takes no process.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = cgroup.with_file_name(file);
        if parent.exists() && cgroup.join("tasks").exists() {
            fs::write(cgroup.join(file), fs::read(parent)?)?;
        }
    }
    Ok(())
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        fn remove(cgroup: &Path) {
            let folders = fs::read_dir(cgroup).into_iter().flatten().flatten();
            for folder in folders.filter(|entry| entry.path().is_dir()) {
                remove(&folder.path());
            }
            if let Err(error) = fs::remove_dir(cgroup) {
                eprintln!("{} stays behind: {error}", cgroup.display());
            }
        }
        for hierarchy in &self.hierarchies {
            remove(&hierarchy.join(self.top()));
        }
    }
}
