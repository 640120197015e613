//! What the path of a cgroup tells of a process: its container, its pod, its systemd unit.
//!
//! Container runtimes and the kubelet write these paths, each its own way, and only their last parts are sure: an observer
//! in a cgroup namespace of its own sees paths of others relative to its own (`/../cri-containerd-….scope`), nested
//! nodes (kind, k3d) put whole trees below a container's. So each part is looked at by itself, and the innermost counts.

/// What a path tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Workload {
    /// `container.id`: 64 hexadecimal digits.
    pub(super) container: Option<String>,
    pub(super) pod: Option<PodId>,
    /// Name of the innermost systemd service, of a process in no container.
    pub(super) unit: Option<String>,
}

/// A pod, as the kubelet names its cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodId {
    /// As in the pod's metadata; of a static pod the digest of its file, which the API server does not know as its uid.
    pub(super) uid: String,
    /// `None`: an observer in a cgroup namespace of its own is not told which slice the pod is in, where it is in the same.
    pub(super) qos: Option<Qos>,
}

/// Quality of service, by the slice that a pod is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// As in the pod's status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The reverse.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Guaranteed, Self::Burstable, Self::BestEffort]
            .into_iter()
            .find(|qos| qos.name() == name)
    }
}

impl Workload {
    /// Reads `/proc/PID/cgroup` (`cgroups(7)`): lines of `hierarchy:controllers:path`. Version 2 has one, `0::path`; in the
    /// hybrid layout it may say nothing while those of version 1 do.
    pub(super) fn of_process(text: &str) -> Self {
        let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let told = paths()
            .map(Self::of_path)
            .find(|told| told.container.is_some());
        told.unwrap_or_else(|| {
            let mut all = paths().map(Self::of_path);
            all.find(|told| *told != Self::default())
                .unwrap_or_default()
        })
    }

    /// The path in the hierarchy of version 2, which is the one that the kernel's numbers are of.
    pub(super) fn path_of_process(text: &str) -> Option<&str> {
        text.lines().find_map(|line| line.strip_prefix("0::"))
    }

    /// Reads a path within a hierarchy.
    pub(super) fn of_path(path: &str) -> Self {
        let mut told = Self::default();
        let mut qos = None;
        for part in path.split('/') {
            qos = kubelet_slice(part).or(qos);
            if let Some(uid) = pod_uid(part) {
                let qos = pod_slice(part).or(qos);
                // A nested node's pods are below the container that is the node.
                (told.pod, told.container) = (Some(PodId { uid, qos }), None);
            }
            if let Some(id) = container_id(part) {
                told.container = Some(id);
            } else if part.ends_with(".service") {
                told.unit = Some(part.to_owned());
            } else if part.ends_with(".scope") {
                // What somebody starts from a terminal, below the service that is the user's whole session.
                told.unit = None;
            }
        }
        if told.container.is_some() || told.pod.is_some() {
            told.unit = None;
        }
        told
    }
}

/// The id in `<id>`, `docker-<id>.scope`, `cri-containerd-<id>.scope`, `crio-<id>`, `libpod-payload-<id>` … or
/// `kubepods-….slice:cri-containerd:<id>`. The monitor of a container is not in it.
fn container_id(part: &str) -> Option<String> {
    const LENGTH: usize = 64;
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let at = name
        .len()
        .checked_sub(LENGTH)
        .filter(|at| name.is_char_boundary(*at))?;
    let (before, id) = name.split_at(at);
    let bounded = before.is_empty() || before.ends_with(['-', ':']);
    let fits = bounded && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (fits && !before.contains("conmon")).then(|| id.to_ascii_lowercase())
}

/// Uid of the pod in `pod<uid>` or `kubepods-burstable-pod<uid>.slice`, where systemd wants `_` for `-`.
fn pod_uid(part: &str) -> Option<String> {
    // `…slice:cri-containerd:<id>`: a runtime that does not know the kubelet's systemd.
    let name = part.split(':').next().unwrap_or(part);
    let name = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid),
        None => name.strip_prefix("pod"),
    }?;
    let uid = name.replace('_', "-");
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let groups = [8, 4, 4, 4, 12];
    let is_uuid = uid.len() == 36
        && uid
            .split('-')
            .map(|group| if hex(group) { group.len() } else { 0 })
            .eq(groups);
    // A static pod's digest.
    let is_digest = uid.len() == 32 && hex(&uid);
    (is_uuid || is_digest).then(|| uid.to_ascii_lowercase())
}

/// What of a slice's name tells the quality of service of the pods in it; `kubelet-kubepods-…` in nested nodes.
fn kubelet_slice(part: &str) -> Option<Qos> {
    match part.strip_suffix(".slice").unwrap_or(part) {
        "burstable" => Some(Qos::Burstable),
        "besteffort" => Some(Qos::BestEffort),
        name if name.ends_with("kubepods-burstable") => Some(Qos::Burstable),
        name if name.ends_with("kubepods-besteffort") => Some(Qos::BestEffort),
        name if name.ends_with("kubepods") => Some(Qos::Guaranteed),
        _ => None,
    }
}

/// The same, of the slice of a pod.
fn pod_slice(part: &str) -> Option<Qos> {
    kubelet_slice(part.rsplit_once("-pod")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f9f6e6ad1e1e43c4a0b9d0c8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f";
    const OUTER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const UID: &str = "8d8f1f23-5b1e-4d1c-9c5e-2f9b8a7c6d5e";
    const SLICE: &str = "8d8f1f23_5b1e_4d1c_9c5e_2f9b8a7c6d5e";
    const STATIC: &str = "1f0c2e6d9b4a48e7a5d3c1b2f0e9d8c7";

    fn path(path: &str) -> Workload {
        let path = path
            .replace("<id>", ID)
            .replace("<outer>", OUTER)
            .replace("<uid>", UID)
            .replace("<slice>", SLICE)
            .replace("<static>", STATIC);
        Workload::of_path(&path)
    }

    #[test]
    fn containers_in_pods() {
        for (cgroup, uid, qos) in [
            // containerd with the systemd driver: each class.
            (
                "/kubepods.slice/kubepods-pod<slice>.slice/cri-containerd-<id>.scope",
                UID,
                Qos::Guaranteed,
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<slice>.slice/cri-containerd-<id>.scope",
                UID,
                Qos::Burstable,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<slice>.slice/cri-containerd-<id>.scope",
                UID,
                Qos::BestEffort,
            ),
            // … with the cgroupfs driver.
            ("/kubepods/pod<uid>/<id>", UID, Qos::Guaranteed),
            ("/kubepods/burstable/pod<uid>/<id>", UID, Qos::Burstable),
            ("/kubepods/besteffort/pod<uid>/<id>", UID, Qos::BestEffort),
            // … of which the kubelet knows systemd and containerd does not.
            (
                "/system.slice/containerd.service/kubepods-burstable-pod<slice>.slice:cri-containerd:<id>",
                UID,
                Qos::Burstable,
            ),
            // CRI-O, which may put the process one level deeper.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<slice>.slice/crio-<id>.scope",
                UID,
                Qos::Burstable,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<slice>.slice/crio-<id>.scope/container",
                UID,
                Qos::BestEffort,
            ),
            (
                "/kubepods/besteffort/pod<uid>/crio-<id>",
                UID,
                Qos::BestEffort,
            ),
            // cri-dockerd.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<slice>.slice/docker-<id>.scope",
                UID,
                Qos::Burstable,
            ),
            // Static pods.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<static>.slice/cri-containerd-<id>.scope",
                STATIC,
                Qos::Burstable,
            ),
            (
                "/kubepods/burstable/pod<static>/<id>",
                STATIC,
                Qos::Burstable,
            ),
            // From a cgroup namespace of the observer's own.
            (
                "/../../kubepods-besteffort.slice/kubepods-besteffort-pod<slice>.slice/cri-containerd-<id>.scope",
                UID,
                Qos::BestEffort,
            ),
            (
                "/../../../kubepods-pod<slice>.slice/cri-containerd-<id>.scope",
                UID,
                Qos::Guaranteed,
            ),
            ("/../../../besteffort/pod<uid>/<id>", UID, Qos::BestEffort),
            // Nodes that are containers: kind, k3d, minikube.
            (
                "/system.slice/docker-<outer>.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod<slice>.slice/cri-containerd-<id>.scope",
                UID,
                Qos::Burstable,
            ),
            (
                "/docker/<outer>/kubelet/kubepods/besteffort/pod<uid>/<id>",
                UID,
                Qos::BestEffort,
            ),
            (
                "/docker/<outer>/kubepods/pod<uid>/<id>",
                UID,
                Qos::Guaranteed,
            ),
        ] {
            let expected = Workload {
                container: Some(ID.to_owned()),
                pod: Some(PodId {
                    uid: uid.to_owned(),
                    qos: Some(qos),
                }),
                unit: None,
            };
            assert_eq!(path(cgroup), expected, "{cgroup}");
        }
        // The pod's own cgroup, and the runtime's pause process where it has none of its own.
        let pod = path("/kubepods.slice/kubepods-pod<slice>.slice");
        assert_eq!((pod.pod.unwrap().uid.as_str(), pod.container), (UID, None));
        // The observer's own slice, which it is not told.
        let pod = path("/../../pod<uid>/<id>").pod.unwrap();
        assert_eq!((pod.uid.as_str(), pod.qos), (UID, None));
    }

    #[test]
    fn containers_alone() {
        for cgroup in [
            "/docker/<id>",
            "/system.slice/docker-<id>.scope",
            "/system.slice/docker-<id>.scope/init",
            "/docker/<outer>/docker/<id>",
            "/machine.slice/libpod-<id>.scope",
            "/machine.slice/libpod-<id>.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<id>.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_<outer>.slice/libpod-<id>.scope",
            "/machine.slice/machine-libpod_pod_<outer>.slice/libpod-<id>.scope",
            "/system.slice/web.service/libpod-payload-<id>",
            "/libpod_parent/libpod-<id>",
            "/system.slice/nerdctl-<id>.scope",
            "/default/<id>",
            "/ecs/0123456789abcdef0123456789abcdef/<id>",
            "/../docker-<id>.scope",
            "/../<id>",
        ] {
            let expected = Workload {
                container: Some(ID.to_owned()),
                ..Workload::default()
            };
            assert_eq!(path(cgroup), expected, "{cgroup}");
        }
        let upper = Workload::of_path(&format!("/docker/{}", ID.to_uppercase()));
        assert_eq!(upper.container.as_deref(), Some(ID));
    }

    #[test]
    fn units() {
        for (cgroup, unit) in [
            (
                "/system.slice/redis-server.service",
                Some("redis-server.service"),
            ),
            (
                "/system.slice/system-postgresql.slice/postgresql@15-main.service",
                Some("postgresql@15-main.service"),
            ),
            ("/system.slice/web.service/workers", Some("web.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
                Some("web.service"),
            ),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-terminal.slice/vte-spawn-1.scope",
                None,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                None,
            ),
            ("/init.scope", None),
            ("/", None),
            ("/..", None),
            ("", None),
            // No ids, and what watches a container is not in it.
            ("/docker/<id>0", None),
            ("/docker/x<id>", None),
            ("/machine.slice/libpod-conmon-<id>.scope", None),
            (
                "/kubepods.slice/kubepods-besteffort.slice/crio-conmon-<id>.scope",
                None,
            ),
            ("/podracer/pod12", None),
            (
                "/é3f9f6e6ad1e1e43c4a0b9d0c8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9",
                None,
            ),
        ] {
            let expected = Workload {
                unit: unit.map(str::to_owned),
                ..Workload::default()
            };
            assert_eq!(path(cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn files_of_each_layout() {
        let container = |text: &str| Workload::of_process(&text.replace("<id>", ID)).container;
        for text in [
            // Version 2.
            "0::/system.slice/docker-<id>.scope\n",
            // Version 1.
            "12:pids:/docker/<id>\n11:cpu,cpuacct:/docker/<id>\n1:name=systemd:/docker/<id>\n",
            // Hybrid: version 2 is there, and says nothing.
            "13:memory:/libpod_parent/libpod-<id>\n1:name=systemd:/libpod_parent/libpod-<id>\n0::/\n",
            "4:memory:/user.slice\n1:name=systemd:/system.slice/containerd.service\n0::/docker/<id>\n",
        ] {
            assert_eq!(container(text).as_deref(), Some(ID), "{text}");
        }
        let unit = Workload::of_process(
            "9:devices:/system.slice/ssh.service\n1:name=systemd:/system.slice/ssh.service\n0::/",
        );
        assert_eq!(unit.unit.as_deref(), Some("ssh.service"));
        assert_eq!(
            Workload::path_of_process("1:name=systemd:/a\n0::/b\n"),
            Some("/b")
        );
        assert_eq!(Workload::path_of_process("1:name=systemd:/a\n"), None);
        assert_eq!(Workload::of_process(""), Workload::default());
        assert_eq!(Workload::of_process("nonsense\n::\n"), Workload::default());
    }
}
