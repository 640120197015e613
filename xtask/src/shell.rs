//! Running other programs, and the folders that they work in.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The root of this workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(elsewhere) => workspace().join(elsewhere),
        None => workspace().join("target"),
    }
}

/// A program, found also in cargo's own and the administrator's folders, started in the workspace.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(workspace());
    if let Ok(path) = std::env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    // Set by the cargo that runs this task for this task alone. Build scripts look at some, and would do their work again
    // each time cargo is called in the other way.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    for name in [
        "CARGO",
        "RUSTUP_TOOLCHAIN",
        "CARGO_CRATE_NAME",
        "CARGO_BIN_NAME",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    command
}

fn search_path() -> Vec<PathBuf> {
    let mut folders: Vec<_> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let home = |variable: &str, below: &str| {
        let set = std::env::var_os(variable).map(PathBuf::from);
        set.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(below)))
    };
    let more = home("CARGO_HOME", ".cargo")
        .map(|cargo| cargo.join("bin"))
        .into_iter();
    for folder in more.chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from)) {
        // Unchanged where nothing is missing, since build scripts look at it.
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Whether a program of this name can be found.
pub(crate) fn found(name: &str) -> bool {
    search_path()
        .iter()
        .any(|folder| folder.join(name).is_file())
}

/// What a program prints, without surrounding white space; `None` when it cannot be run or fails.
pub(crate) fn output<const N: usize>(name: &str, arguments: [&str; N]) -> Option<String> {
    let output = program(name)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// Runs a program that the user watches.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    succeeded(command, status)
}

/// Runs a program that prints into a log file; when it fails, the end of its output is in the error.
pub(crate) fn run_quietly(command: &mut Command, limit: Duration) -> Result<()> {
    let folder = target();
    fs::create_dir_all(&folder)?;
    let log = folder.join("setup.log");
    let mut file = OpenOptions::new().create(true).append(true).open(&log)?;
    let start = file.seek(SeekFrom::End(0))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!(
                "{} gave no answer within {} s",
                shown(command),
                limit.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    succeeded(command, status)
        .with_context(|| format!("{}\n(all of it: {})", tail(&log, start), log.display()))
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// The command line, as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last lines of a file behind a position.
fn tail(path: &Path, start: u64) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        let read = file
            .seek(SeekFrom::Start(start))
            .and_then(|_| file.read_to_string(&mut text));
        if read.is_err() {
            return String::from("(its output is not readable)");
        }
    }
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Removes a file, or a folder with what is in it. It may be that there is none.
pub(crate) fn clear(path: &Path) -> Result<()> {
    let removed = fs::symlink_metadata(path).and_then(|found| match found.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program to be run as root: as it is by root, else through sudo, which keeps the variables that matter here.
pub(crate) fn as_root(name: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(program(name));
    }
    if !found("sudo") {
        bail!(
            "{} needs root, and there is no sudo: run this task as root",
            name.as_ref().to_string_lossy()
        );
    }
    let kept = |name: &str| {
        ["OTEL_", "CACHE_OBSERVER_", "RUST_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || name == "NO_COLOR"
    };
    let kept: Vec<_> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| kept(name))
        .chain(["CACHE_OBSERVER_BIN", "CACHE_OBSERVER_TOOLS"].map(String::from))
        .collect();
    let mut command = program("sudo");
    command
        .arg(format!("--preserve-env={}", kept.join(",")))
        .arg("--")
        .arg(name);
    Ok(command)
}

/// Does one step of a longer task, saying what, why and how long it took.
pub(crate) fn step<T>(what: &str, why: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("setup: {what} ({why}) …");
    let begun = Instant::now();
    let result = action();
    let seconds = begun.elapsed().as_secs_f64();
    match &result {
        Ok(_) => eprintln!("setup: {what}: done in {seconds:.1} s"),
        Err(_) => eprintln!("setup: {what}: failed after {seconds:.1} s"),
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_there_is_cleared_and_nothing_that_it_links_to() {
        let folder = std::env::temp_dir().join(format!("xtask-clear-{}", std::process::id()));
        let (path, kept) = (folder.join("path"), folder.join("kept"));
        fs::create_dir_all(&kept).unwrap();
        clear(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        clear(&path).unwrap();
        fs::create_dir_all(path.join("below")).unwrap();
        clear(&path).unwrap();
        std::os::unix::fs::symlink(&kept, &path).unwrap();
        clear(&path).unwrap();
        assert!(path.symlink_metadata().is_err() && kept.exists());
        clear(&folder).unwrap();
        assert!(!folder.exists());
    }
}
