//! Stock kernels for `vm`: of Debian's packages only the kernel itself and the modules that a guest needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, bail};

use super::packages;
use crate::shell;

/// What a guest is made of beside a kernel.
const PROGRAMS: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
];

/// Modules that a guest loads: the host's files, and the cable between two namespaces, with what makes it slow and translates
/// addresses. What a kernel has built in is no module of its package.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "veth",
    "sch_tbf",
    "crc32c_generic",
    "nft_chain_nat",
    "nft_nat",
];

const LIMIT: Duration = Duration::from_secs(600);

/// A kernel to boot.
pub(crate) struct Kernel {
    /// Such as `6.1.0-56-amd64`.
    pub(crate) release: String,
    /// Holds `vmlinuz` and `modules`, whose names sort in the order in which they load.
    pub(crate) folder: PathBuf,
}

/// The newest kernel of a version that Debian offers here, such as `6.1`. One that is there already stays: remove its folder
/// for a newer one.
pub(crate) fn kernel(version: &str) -> Result<Kernel> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("guests are built of packages for x86-64");
    }
    packages::programs(&PROGRAMS, "guests run in it")?;
    let folder = shell::target().join("vm").join(version);
    // Written last, so that what was cut off is done again.
    let stamp = folder.join("release");
    let loads = MODULES.join(" ");
    let known = fs::read_to_string(&stamp).unwrap_or_default();
    if let Some((release, of)) = known.split_once('\n')
        && of == loads
    {
        let release = release.to_owned();
        return Ok(Kernel { release, folder });
    }
    let package = newest(version)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    shell::step(&format!("kernel {release}"), "a guest boots it", || {
        shell::clear(&folder)?;
        fs::create_dir_all(folder.join("modules"))?;
        let unpacked = folder.join("package");
        shell::run_quietly(
            shell::program("apt-get")
                .args(["-q", "download", &package])
                .current_dir(&folder),
            LIMIT,
        )?;
        let archive = files(&folder)?
            .into_iter()
            .find(|path| path.extension().is_some_and(|end| end == "deb"))
            .context("apt-get has downloaded nothing")?;
        shell::run_quietly(
            shell::program("dpkg").arg("-x").args([&archive, &unpacked]),
            LIMIT,
        )?;
        fs::copy(
            unpacked.join("boot").join(format!("vmlinuz-{release}")),
            folder.join("vmlinuz"),
        )?;
        modules(&unpacked.join("lib/modules"), &folder.join("modules"))?;
        shell::clear(&archive)?;
        shell::clear(&unpacked)?;
        fs::write(&stamp, format!("{release}\n{loads}"))?;
        Ok(())
    })?;
    Ok(Kernel { release, folder })
}

/// The name of the newest package of a version's ordinary kernel.
fn newest(version: &str) -> Result<String> {
    if !packages::available() {
        bail!("kernels for guests come as Debian's packages, and this host has no apt-get");
    }
    let pattern = format!("^linux-image-{}\\.", version.replace('.', "\\."));
    let found = shell::output("apt-cache", ["search", "--names-only", &pattern]);
    let found = found.context("apt-cache fails")?;
    let ordinary = |name: &&str| {
        name.ends_with("-amd64") && !name.ends_with("-cloud-amd64") && !name.ends_with("-rt-amd64")
    };
    let names = found
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(ordinary);
    names
        .max_by_key(|name| numbers(name))
        .map(str::to_owned)
        .with_context(|| format!("no package of a kernel {version}: is `apt-get update` due?"))
}

/// The numbers in a name: by them versions are in order.
fn numbers(name: &str) -> Vec<u64> {
    let digits = name.split(|c: char| !c.is_ascii_digit());
    digits.filter_map(|number| number.parse().ok()).collect()
}

/// Copies the modules and what they depend on, unpacked and numbered.
fn modules(from: &Path, to: &Path) -> Result<()> {
    let mut there = BTreeMap::new();
    index(from, &mut there)?;
    let mut loaded = Vec::new();
    for name in MODULES {
        copy(name, &there, to, &mut loaded)?;
    }
    Ok(())
}

/// Finds all modules below a folder, by their name as the kernel writes it.
fn index(folder: &Path, there: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in files(folder)? {
        if path.is_dir() && !path.is_symlink() {
            index(&path, there)?;
        } else if let Some((name, _)) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split_once(".ko"))
        {
            there.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Copies one module, after those that it depends on.
fn copy(
    name: &str,
    there: &BTreeMap<String, PathBuf>,
    to: &Path,
    loaded: &mut Vec<String>,
) -> Result<()> {
    let Some(path) = there.get(name) else {
        return Ok(());
    };
    if loaded.iter().any(|other| other == name) {
        return Ok(());
    }
    let bytes = if path.extension().is_some_and(|end| end == "xz") {
        let output = shell::program("xz").arg("-dc").arg(path).output()?;
        if !output.status.success() {
            bail!("xz cannot unpack {}", path.display());
        }
        output.stdout
    } else {
        fs::read(path)?
    };
    for other in dependencies(&bytes) {
        copy(&other.replace('-', "_"), there, to, loaded)?;
    }
    fs::write(to.join(format!("{:02}-{name}.ko", loaded.len())), bytes)?;
    loaded.push(name.to_owned());
    Ok(())
}

/// What a module says that it depends on: `depends=a,b` among its texts, each of which ends with a zero.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = module[at + KEY.len()..]
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// What lies in a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    Ok(entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_not_the_last_of_the_alphabet() {
        let names = [
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.1.0-47-amd64",
        ];
        assert_eq!(
            names.into_iter().max_by_key(|name| numbers(name)),
            Some(names[1])
        );
    }

    #[test]
    fn modules_name_what_they_depend_on() {
        assert_eq!(
            dependencies(b"license=GPL\0depends=netfs,9pnet\0name=9p\0"),
            ["netfs", "9pnet"]
        );
        assert!(dependencies(b"x\0depends=\0name=veth\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }
}
