//! A guest: one boot of a stock kernel under software emulation, with the host's files, which it cannot change.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup::Kernel;
use crate::shell;

/// After that a guest hangs.
const LIMIT: Duration = Duration::from_secs(1800);

/// What a guest's first process does: loads the modules, mounts the host's files and puts the folders on top that a program may
/// write, but leaves in sight what `/kept` names, which may lie in one of them; runs the job, ends. `out` is the one folder of the
/// host that it can write.
const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mkdir /proc /host
$b mount -t proc proc /proc
for module in /modules/*; do $b insmod $module; done
share=trans=virtio,version=9p2000.L,msize=524288
$b mount -t 9p -o $share,cache=loose,ro host /host
$b mkdir /below
$b mount -o bind /host /below
$b mount -t proc proc /host/proc
$b mount -t sysfs sys /host/sys
$b mount -t cgroup2 cgroup /host/sys/fs/cgroup
$b mount -t tracefs tracing /host/sys/kernel/tracing
$b mount -t devtmpfs dev /host/dev
$b mkdir -p /host/dev/pts /host/dev/shm
$b mount -t devpts pts /host/dev/pts
for folder in /dev/shm /run /tmp /var/tmp; do $b mount -t tmpfs tmpfs /host$folder; done
while read folder; do
    if ! [ -e \"/host$folder\" ]; then $b mkdir -p \"/host$folder\"; $b mount -o bind \"/below$folder\" \"/host$folder\"; fi
done < /kept
export OUT=/run/out
$b mkdir /host$OUT
$b mount -t 9p -o $share out /host$OUT
$b chroot /host /bin/sh $OUT/job
echo vm: the job has ended
$b poweroff -f
";

/// Boots `kernel`, runs `job` as root in its shell, with `out` as the folder `$OUT`.
pub(super) fn run(kernel: &Kernel, job: &str, out: &Path) -> Result<()> {
    shell::clear(out)?;
    fs::create_dir_all(out)?;
    fs::write(out.join("job"), job)?;
    let memory = initramfs(kernel)?;
    eprintln!("vm: booting {}", kernel.release);
    let mut command = shell::program("qemu-system-x86_64");
    command
        // One processor: two of them, emulated by two threads, may meet code that the kernel is just changing in a state that no
        // real one sees (6.12 died so of a breakpoint that a tracepoint's attaching had taken away).
        .args(["-accel", "tcg", "-cpu", "max"])
        .args(["-m", "1024", "-smp", "1", "-nic", "none"])
        .args(["-nographic", "-no-reboot"])
        // The emulated processors' counters agree, which the kernel does not believe; any other clock is a device, four times as slow.
        .args([
            "-append",
            "console=ttyS0 panic=-1 quiet tsc=reliable clocksource=tsc cache_observer.guest",
        ])
        .arg("-kernel")
        .arg(kernel.folder.join("vmlinuz"))
        .arg("-initrd")
        .arg(memory)
        .arg("-virtfs")
        .arg("local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap")
        .arg("-virtfs")
        .arg(format!(
            "local,path={},mount_tag=out,security_model=none",
            out.to_str()
                .filter(|path| !path.contains(','))
                .context("the target folder's path is not one that QEMU can be given")?
        ));
    let console = console(&mut command, &kernel.release, &out.join("console"))?;
    // A guest that dies leaves its tests without a result, which is told by whoever looks for them.
    if !console.contains("vm: the job has ended") {
        eprintln!("vm: {} has not come to the end: {console}", kernel.release);
    }
    Ok(())
}

/// Runs QEMU to its end, shows the lines that the job addresses to the user, and gives all of its console.
fn console(command: &mut Command, name: &str, log: &Path) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")?;
    let output = child.stdout.take().context("its output is piped")?;
    let mut file = fs::File::create(log)?;
    let name = name.to_owned();
    let reader = std::thread::spawn(move || -> Result<()> {
        for line in BufReader::new(output).split(b'\n') {
            let mut line = line?;
            line.push(b'\n');
            file.write_all(&line)?;
            let text = String::from_utf8_lossy(&line);
            if let Some((_, told)) = text.split_once("vm: ") {
                eprint!("vm: {name}: {told}");
            }
        }
        Ok(())
    });
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!(
                "a guest was not done within {} s: {}",
                LIMIT.as_secs(),
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    reader.join().ok().context("the reader has died")??;
    Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
}

/// The files that a guest begins with.
fn initramfs(kernel: &Kernel) -> Result<std::path::PathBuf> {
    let root = kernel.folder.join("root");
    let archive = kernel.folder.join("initramfs");
    shell::clear(&root)?;
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir(root.join("modules"))?;
    let busybox = shell::output("sh", ["-c", "command -v busybox"]).context("no busybox")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for module in fs::read_dir(kernel.folder.join("modules"))? {
        let module = module?;
        fs::copy(module.path(), root.join("modules").join(module.file_name()))?;
    }
    let mut kept = String::new();
    for folder in [shell::workspace(), &shell::target()] {
        let folder = folder
            .to_str()
            .context("the workspace's path is not printable")?;
        kept += &format!("{folder}\n");
    }
    fs::write(root.join("kept"), kept)?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let mut pack = shell::program("sh");
    pack.args(["-c", "find . | cpio --quiet -o -H newc"])
        .current_dir(&root)
        .stdout(fs::File::create(&archive)?);
    shell::run(&mut pack)?;
    shell::clear(&root)?;
    Ok(archive)
}
