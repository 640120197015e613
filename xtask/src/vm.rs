//! `vm`: the live tests whose outcome may depend on the kernel, on this host and in guests that run stock kernels, once with each
//! backend.

mod guest;
mod host;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};

use crate::{build, setup, shell, test};

/// The kernels of which the tests are a part of `test`.
const KERNELS: [&str; 3] = [host::NAME, "6.1", "6.12"];

/// The test programs whose outcome may depend on kernel and backend: what the hooks see of calls and sockets, and what an observer
/// may give up and leaves behind. What the others test comes after the hooks and is the same on each kernel, since all backends
/// send the same records, which `backends` compares.
///
/// With it: whether one runs with each backend, or with the kernel's first only, as an emulated machine has no time for all.
const PROGRAMS: [(&str, bool); 8] = [
    ("backends", true),
    ("clock", false),
    ("confine", false),
    ("lifecycle", true),
    ("privileges", false),
    ("sockets", false),
    ("udp", false),
    ("unix", false),
];

/// Those that change what belongs to the whole machine, such as its clock: they refuse to run anywhere but in a guest.
pub(crate) const GUEST_ONLY: [&str; 1] = ["clock"];

/// Emulated processors are slow: tests that count many commands divide their number by this.
const LOAD: u32 = 20;

/// Which guests to boot, and what to run there.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Versions of the kernel, of those that Debian offers here; `host`: this one, without a guest.
    #[arg(long, default_values = KERNELS)]
    kernel: Vec<String>,
    /// Only with these backends.
    #[arg(long)]
    backend: Vec<String>,
    /// Test programs, instead of those whose outcome may depend on the kernel.
    #[arg(long)]
    test: Vec<String>,
    /// Passed to every test program: a part of a test's name.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// What is part of `test`: the guests, since all tests run on this host anyway.
    pub(crate) fn guests() -> Self {
        let kernels = KERNELS.into_iter().filter(|name| *name != host::NAME);
        Self {
            kernel: kernels.map(str::to_owned).collect(),
            backend: Vec::new(),
            test: Vec::new(),
            arguments: Vec::new(),
        }
    }
}

/// One test program with one backend, and what came of it.
struct Run {
    backend: &'static str,
    name: String,
    program: PathBuf,
    /// `None` when it did not come to its end.
    outcome: Option<Outcome>,
}

/// What a test program said at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    passed: u32,
    failed: u32,
    seconds: u32,
}

/// A backend, and the first kernel that has what it hooks.
const BACKENDS: [(&str, [u32; 2]); 3] = [
    ("fentry", [5, 17]),
    ("kprobe", [5, 17]),
    ("tracepoint", [6, 3]),
];

pub(crate) fn task(options: &Options) -> Result<()> {
    let begun = Instant::now();
    setup::toolchain()?;
    setup::tests()?;
    let binary = build::task()?;
    let mut programs = test::programs()?;
    programs.retain(|(name, _)| match &options.test[..] {
        [] => PROGRAMS.iter().any(|(known, _)| known == name),
        wanted => wanted.contains(name),
    });
    if programs.is_empty() {
        bail!("there is no test program {}", options.test.join(", "));
    }
    let mut machines = Vec::new();
    for version in &options.kernel {
        let machine = Machine::named(version, &binary)?;
        let runs = machine.runs(options, &programs);
        machines.push((version, machine, runs));
    }
    // An emulated machine keeps one processor of this host busy: guests run beside each other.
    thread::scope(|scope| {
        let guests: Vec<_> = machines
            .iter()
            .filter_map(|(_, machine, runs)| Some((machine.kernel.as_ref()?, machine, runs)))
            .map(|(kernel, machine, runs)| {
                let job = job(runs, &binary, &options.arguments);
                scope.spawn(move || guest::run(kernel, &job, &machine.logs))
            })
            .collect();
        guests.into_iter().try_for_each(|guest| {
            guest
                .join()
                .map_err(|_| anyhow!("a guest's thread has died"))?
        })
    })?;
    let mut table = vec![["kernel", "backend", "passed", "failed", "seconds"].map(String::from)];
    let mut failed = Vec::new();
    for (version, machine, mut runs) in machines {
        if machine.kernel.is_none() {
            host::run(&runs, &binary, &options.arguments, &machine.logs)?;
        }
        for run in &mut runs {
            let log = machine.logs.join(run.backend).join(&run.name);
            let text = fs::read_to_string(&log).unwrap_or_default();
            run.outcome = outcome(&text);
            if run.outcome.is_none_or(|outcome| outcome.failed > 0) {
                failed.push(format!(
                    "{version} {} {}: {}",
                    run.backend,
                    run.name,
                    log.display()
                ));
                eprint!("{text}");
            }
        }
        for backend in machine.wanted(options) {
            table.push(row(&machine.release, backend, &runs));
        }
        for (backend, why) in machine.lacks {
            let none = || String::from("-");
            let release = machine.release.clone();
            table.push([release, backend.to_owned(), why, none(), none()]);
        }
    }
    print!("{}", drawn(&table));
    if !failed.is_empty() {
        bail!("failed:\n{}", failed.join("\n"));
    }
    eprintln!("vm: all passed in {} s", begun.elapsed().as_secs());
    Ok(())
}

/// What tests run on.
struct Machine {
    release: String,
    /// The backends that it has to have.
    has: Vec<&'static str>,
    /// The others, with the reason.
    lacks: Vec<(&'static str, String)>,
    /// Where the tests' output goes.
    logs: PathBuf,
    /// What a guest boots.
    kernel: Option<setup::Kernel>,
}

impl Machine {
    fn named(version: &str, binary: &Path) -> Result<Self> {
        if version == host::NAME {
            return host::machine(binary);
        }
        let kernel = setup::kernel(version)?;
        let (has, lacks): (Vec<_>, Vec<_>) = BACKENDS
            .into_iter()
            .partition(|&(_, since)| since <= number(version));
        Ok(Self {
            release: kernel.release.clone(),
            has: has.into_iter().map(|(backend, _)| backend).collect(),
            lacks: lacks
                .into_iter()
                .map(|(backend, [major, minor])| (backend, format!("since {major}.{minor}")))
                .collect(),
            logs: kernel.folder.join("out"),
            kernel: Some(kernel),
        })
    }

    /// The backends that the user asks for, of those it has.
    fn wanted<'a>(&'a self, options: &'a Options) -> impl Iterator<Item = &'static str> {
        let asked = |backend: &&str| {
            options.backend.is_empty() || options.backend.iter().any(|name| name == backend)
        };
        self.has.iter().copied().filter(asked)
    }

    /// What runs on it.
    fn runs(&self, options: &Options, programs: &[(String, PathBuf)]) -> Vec<Run> {
        let named = !options.test.is_empty() || !options.backend.is_empty();
        let mut runs = Vec::new();
        for backend in self.wanted(options) {
            let first = self.has.first() == Some(&backend);
            let here = |(name, _): &&(String, _)| {
                let once = PROGRAMS.contains(&(name.as_str(), false));
                (named || first || !once)
                    && (self.kernel.is_some() || !GUEST_ONLY.contains(&name.as_str()))
            };
            runs.extend(programs.iter().filter(here).map(|(name, program)| Run {
                backend,
                name: name.clone(),
                program: program.clone(),
                outcome: None,
            }));
        }
        runs
    }
}

/// Major and minor number of a version.
fn number(version: &str) -> [u32; 2] {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)]
}

/// The shell script that a guest runs. Each program prints into a file of its own.
fn job(runs: &[Run], binary: &Path, arguments: &[String]) -> String {
    let mut script = format!(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp\n\
         export CACHE_OBSERVER_BIN={} CACHE_OBSERVER_TOOLS={} CACHE_OBSERVER_TEST_LOAD={LOAD} RUST_LIB_BACKTRACE=0\n\
         cd {}\n\
         ip link set lo up\n",
        quoted(binary),
        quoted(&setup::python_folder()),
        quoted(shell::workspace()),
    );
    for Run {
        backend,
        name,
        program,
        ..
    } in runs
    {
        let arguments: String = arguments
            .iter()
            .map(|argument| format!(" {}", quoted(Path::new(argument))))
            .collect();
        // One test at a time: a processor that is emulated has no time to spare, and a tracing program that comes or goes can make
        // another miss a call.
        let _ = writeln!(
            script,
            "echo 'vm: {backend}: {name}'\n\
             mkdir -p $OUT/{backend}\n\
             CACHE_OBSERVER_BACKEND={backend} {} --test-threads=1{arguments} > $OUT/{backend}/{name} 2>&1",
            quoted(program),
        );
    }
    script
}

/// A path for the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

/// Reads `test result: ok. 14 passed; 1 failed; …; finished in 72.83s`.
fn outcome(text: &str) -> Option<Outcome> {
    let line = text
        .lines()
        .rev()
        .find(|line| line.starts_with("test result:"))?;
    let words: Vec<_> = line.split_whitespace().collect();
    let before = |what: &str| {
        let at = words.iter().position(|word| word.starts_with(what))?;
        words[at.checked_sub(1)?].parse().ok()
    };
    let seconds: f64 = words.last()?.trim_end_matches('s').parse().ok()?;
    Some(Outcome {
        passed: before("passed")?,
        failed: before("failed")?,
        seconds: seconds as u32,
    })
}

/// The line of one kernel and backend.
fn row(release: &str, backend: &str, runs: &[Run]) -> [String; 5] {
    let of_it = || runs.iter().filter(|run| run.backend == backend);
    let sum = |part: fn(&Outcome) -> u32| {
        let outcomes = of_it().filter_map(|run| run.outcome.as_ref());
        outcomes.map(part).sum::<u32>()
    };
    let lost = of_it().filter(|run| run.outcome.is_none()).count();
    let failed = sum(|outcome| outcome.failed);
    [
        release.to_owned(),
        backend.to_owned(),
        sum(|outcome| outcome.passed).to_string(),
        match lost {
            0 => failed.to_string(),
            _ => format!("{failed} and {lost} programs"),
        },
        sum(|outcome| outcome.seconds).to_string(),
    ]
}

/// The table in columns.
fn drawn(table: &[[String; 5]]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    let mut text = String::new();
    for row in table {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read() {
        let text = "test a ... ok\n\ntest result: FAILED. 14 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 72.83s\n\n";
        assert_eq!(
            outcome(text),
            Some(Outcome {
                passed: 14,
                failed: 1,
                seconds: 72
            })
        );
        assert_eq!(outcome("test a ... ok\n"), None);
    }

    #[test]
    fn versions_are_numbers() {
        assert!(number("6.12") > number("6.3") && number("6.1") < [6, 3]);
    }

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(quoted(Path::new("/a b/c'd")), r"'/a b/c'\''d'");
    }
}
