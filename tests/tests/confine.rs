//! From inside of a process that has given up what an observer gives up: what is refused, and what goes on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::{memfd, ptrace, resource, signal, socket, uio};
use nix::unistd::{self, Gid, Pid, Uid};
use observer::source::capability::Capability;
use observer::source::confine::{self, Identity};
use observer::source::preflight;
use tests::process::Folder;

/// One test, as it changes the whole process.
#[test]
fn a_confined_process_can_read_and_talk_and_no_more() -> Result<()> {
    let root = unistd::geteuid().is_root();
    let folder = Folder::new()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
    let there = folder.path().join("there");
    let mut output = File::create(&there)?;
    fs::set_permissions(&there, Permissions::from_mode(0o666))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // Of root, if we are; ends with its input, that is, with this process: no signal can be sent any more.
    let other = Command::new("cat").stdin(Stdio::piped()).spawn()?;
    let earlier = thread::spawn({
        let there = there.clone();
        move || {
            thread::park();
            OpenOptions::new().append(true).open(there)
        }
    });

    let identity = confine::give_up(&[Capability::SysPtrace, Capability::DacReadSearch])?;
    confine::filter()?;

    let nobody = match root {
        true => Identity::Nobody,
        false => Identity::Kept,
    };
    ensure!(identity == nobody, "{identity:?}");
    refused(&folder)?;
    earlier.thread().unpark();
    let result = earlier.join().expect("it does not panic");
    is_refused("a thread that began before", result)?;

    output.write_all(b"still open\n")?;
    goes_on(&listener)?;
    if root {
        // Another user's, which CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH let be read.
        let process = Path::new("/proc").join(other.id().to_string());
        fs::read(process.join("environ")).context("environment of another process")?;
        fs::read_link(process.join("exe")).context("executable of another process")?;
    }
    Ok(())
}

fn refused(folder: &Folder) -> Result<()> {
    let path = |name: &str| folder.path().join(name);
    let there = path("there");
    is_refused("create a file", File::create(path("new")))?;
    is_refused("truncate a file", File::create(&there))?;
    let open = |options: &mut OpenOptions| options.open(&there);
    is_refused("write a file", open(OpenOptions::new().write(true)))?;
    is_refused(
        "write and read a file",
        open(OpenOptions::new().read(true).write(true)),
    )?;
    is_refused("append to a file", open(OpenOptions::new().append(true)))?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem");
    is_refused("write memory as a file", memory)?;
    is_refused("make a folder", fs::create_dir(path("folder")))?;
    is_refused("rename", fs::rename(&there, path("other")))?;
    is_refused("remove", fs::remove_file(&there))?;
    is_refused("link", fs::hard_link(&there, path("link")))?;
    is_refused("link by name", symlink(&there, path("symlink")))?;
    let mode = Permissions::from_mode(0o777);
    is_refused("change permissions", fs::set_permissions(&there, mode))?;

    is_refused("start a program", Command::new("/bin/true").status())?;
    let become_another = Command::new("/bin/true").exec();
    is_refused::<()>("exec", Err(become_another))?;

    let parent = Pid::parent();
    is_refused("be traced", ptrace::traceme())?;
    is_refused("trace", ptrace::attach(parent))?;
    is_refused(
        "trace by another way",
        ptrace::seize(parent, ptrace::Options::empty()),
    )?;
    let mut bytes = [0; 8];
    let local = [io::IoSliceMut::new(&mut bytes)];
    let remote = [uio::RemoteIoVec { base: 4096, len: 8 }];
    let mut local = local;
    let read = uio::process_vm_readv(parent, &mut local, &remote);
    is_refused("read another's memory", read)?;
    is_refused("send a signal", signal::kill(parent, None))?;

    let parameters = c"";
    let module = nix::kmod::init_module(b"", parameters);
    is_refused("load a kernel module", module)?;
    let unload = nix::kmod::delete_module(c"dummy", nix::kmod::DeleteModuleFlags::O_NONBLOCK);
    is_refused("unload a kernel module", unload)?;
    let mount = nix::mount::mount(
        Some("none"),
        folder.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    );
    is_refused("mount", mount)?;
    is_refused("unmount", nix::mount::umount("/proc"))?;
    is_refused("change the root", unistd::chroot(folder.path()))?;
    for (namespace, name) in [
        (CloneFlags::CLONE_NEWUSER, "user"),
        (CloneFlags::CLONE_NEWNS, "mount"),
        (CloneFlags::CLONE_NEWNET, "network"),
    ] {
        let made = nix::sched::unshare(namespace);
        is_refused(&format!("a {name} namespace"), made)?;
    }
    let own = File::open("/proc/self/ns/net")?;
    is_refused(
        "join a namespace",
        nix::sched::setns(own, CloneFlags::CLONE_NEWNET),
    )?;

    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    is_refused("be root", unistd::setuid(user))?;
    is_refused("be root for good", unistd::setresuid(user, user, user))?;
    is_refused("be in root's group", unistd::setresgid(group, group, group))?;
    is_refused("be in more groups", unistd::setgroups(&[group]))?;

    is_refused(
        "memory as a file",
        memfd::memfd_create("x", memfd::MFdFlags::empty()),
    )?;
    let raw = socket::socket(
        socket::AddressFamily::Packet,
        socket::SockType::Raw,
        socket::SockFlag::empty(),
        None,
    );
    is_refused("see all packets", raw)?;
    is_refused("listen", TcpListener::bind("127.0.0.1:0"))?;
    let files = resource::Resource::RLIMIT_NOFILE;
    is_refused("change limits", resource::setrlimit(files, 64, 64))?;

    // Without kernel programs, maps cannot be made either.
    let report = preflight::check();
    ensure!(
        report.backends.len() > 1 || report.btf.is_err(),
        "{report:?}"
    );
    for backend in report.backends {
        let error = backend
            .result
            .err()
            .context("a kernel program was loaded")?;
        let text = error.to_string();
        ensure!(
            text.contains("not implemented") || text.contains("creating the maps"),
            "{text}"
        );
    }
    Ok(())
}

/// What the C library, the standard library and tokio do all day.
fn goes_on(listener: &TcpListener) -> Result<()> {
    let address = listener.local_addr()?;
    let client = thread::spawn(move || -> io::Result<String> {
        let mut text = String::new();
        TcpStream::connect(address)?.read_to_string(&mut text)?;
        Ok(text)
    });
    listener.accept()?.0.write_all(b"hello")?;
    assert_eq!(client.join().expect("it does not panic")?, "hello");

    ("localhost", 80)
        .to_socket_addrs()
        .context("a look-up of a name")?
        .next()
        .context("an address")?;
    // Whatever comes of it: it asks the name servers of /etc/resolv.conf.
    let _ = ("name.invalid", 80).to_socket_addrs();
    UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", address)?;
    ensure!(!fs::read("/etc/passwd")?.is_empty());
    ensure!(fs::read_dir("/proc/self/task")?.count() > 0);
    fs::metadata("/etc/hosts")?;
    ensure!(thread::available_parallelism()?.get() > 0);
    thread::sleep(Duration::from_millis(1));
    let large = vec![1_u8; 64 << 20];
    ensure!(large.iter().map(|byte| u64::from(*byte)).sum::<u64>() == 64 << 20);
    let panicked = thread::spawn(|| panic!("of a test, with a backtrace")).join();
    ensure!(panicked.is_err());
    ensure!(panic::catch_unwind(|| panic!("of a test")).is_err());

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let found = tokio::net::lookup_host(("localhost", 80)).await?.count();
        ensure!(found > 0);
        tokio::net::TcpStream::connect(address).await?;
        tokio::task::spawn_blocking(|| fs::read("/etc/hosts")).await??;
        anyhow::Ok(())
    })
}

/// The call is not there: no other reason lets it fail.
fn is_refused<T>(what: &str, result: Result<T, impl Into<io::Error>>) -> Result<()> {
    let Err(error) = result else {
        anyhow::bail!("{what}: it can be done");
    };
    let error: io::Error = error.into();
    ensure!(
        error.raw_os_error() == Some(Errno::ENOSYS as i32),
        "{what}: {error}"
    );
    Ok(())
}
