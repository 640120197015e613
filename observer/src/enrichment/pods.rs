//! Names of pods, from the folders that the kubelet makes for their logs: `/var/log/pods/<namespace>_<name>_<uid>`.
//!
//! No call of the API server, no right in the cluster: the folder of the node is enough, mounted read-only.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::cli::is_subdomain;

/// Most pods remembered. A node runs 110 unless told otherwise, and folders of pods that are gone stay for a while.
const MAX_PODS: usize = 4_096;
/// The folder is read again for a pod that was not in it at most this often.
const PAUSE: Duration = Duration::from_secs(1);

/// Namespace and name of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The names of this node's pods, by uid.
#[derive(Debug)]
pub(super) struct PodNames {
    folder: PathBuf,
    names: HashMap<String, PodName>,
    /// When the folder was read in vain for a pod.
    sought: HashMap<String, Instant>,
}

impl PodNames {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            names: HashMap::new(),
            sought: HashMap::new(),
        }
    }

    /// The pod's name; `None` where the folder does not tell, or not yet.
    pub(super) fn of(&mut self, uid: &str, now: Instant) -> Option<PodName> {
        if let Some(name) = self.names.get(uid) {
            return Some(name.clone());
        }
        let sought = self.sought.get(uid);
        if sought.is_some_and(|sought| now.duration_since(*sought) < PAUSE) {
            return None;
        }
        self.look();
        let name = self.names.get(uid).cloned();
        if name.is_none() {
            if self.sought.len() >= MAX_PODS {
                self.sought.clear();
            }
            self.sought.insert(uid.to_owned(), now);
        }
        name
    }

    fn look(&mut self) {
        // Not in Kubernetes, or not mounted.
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let names = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            parse(&name)
        });
        self.names = names.take(MAX_PODS).collect();
    }
}

/// None of the three parts can hold `_`.
fn parse(folder: &str) -> Option<(String, PodName)> {
    let mut parts = folder.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || ![namespace, name, uid].into_iter().all(is_subdomain) {
        return None;
    }
    let pod = PodName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Some((uid.to_ascii_lowercase(), pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders() {
        for (folder, expected) in [
            (
                "default_web-6d4cf56db6-x2x5p_8d8f1f23-5b1e-4d1c-9c5e-2f9b8a7c6d5e",
                Some((
                    "default",
                    "web-6d4cf56db6-x2x5p",
                    "8d8f1f23-5b1e-4d1c-9c5e-2f9b8a7c6d5e",
                )),
            ),
            (
                "kube-system_etcd-node-1.example.com_1f0c2e6d9b4a48e7a5d3c1b2f0e9d8c7",
                Some((
                    "kube-system",
                    "etcd-node-1.example.com",
                    "1f0c2e6d9b4a48e7a5d3c1b2f0e9d8c7",
                )),
            ),
            ("default_web", None),
            ("a_b_c_d", None),
            ("__", None),
            ("a_b\u{1b}[31m_c", None),
            ("lost+found", None),
            ("", None),
        ] {
            let found = parse(folder);
            let found = found
                .as_ref()
                .map(|(uid, pod)| (pod.namespace.as_str(), pod.name.as_str(), uid.as_str()));
            assert_eq!(found, expected, "{folder}");
        }
    }

    #[test]
    fn pods_come_and_go() {
        let folder = std::env::temp_dir().join(format!("pods-{}", std::process::id()));
        fs::create_dir_all(folder.join("a_one_11")).unwrap();
        let mut pods = PodNames::new(folder.clone());
        let start = Instant::now();
        let mut name = |uid: &str, second: u64| {
            let now = start + Duration::from_secs(second);
            pods.of(uid, now).map(|pod| pod.name)
        };
        assert_eq!(name("11", 0).as_deref(), Some("one"));
        assert_eq!(name("22", 0), None);
        fs::create_dir_all(folder.join("a_two_22")).unwrap();
        fs::create_dir_all(folder.join("a_three_33")).unwrap();
        assert_eq!(name("22", 0), None, "the folder is not read all the time");
        assert_eq!(name("33", 0).as_deref(), Some("three"), "but for each pod");
        assert_eq!(name("22", 1).as_deref(), Some("two"));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(name("44", 2), None);
        assert_eq!(
            name("22", 2).as_deref(),
            Some("two"),
            "what was known stays"
        );
    }
}
