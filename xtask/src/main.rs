//! Tasks of this workspace: `cargo xtask TASK`.
//!
//! One module a task. [`shell`] runs other programs, [`setup`] sees to it that they are there.

mod bench;
mod build;
mod demo;
mod dist;
mod image;
mod lint;
mod picture;
mod run;
mod setup;
mod shell;
mod soak;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// Set up, run, test, check and measure the cache observer.
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
enum Task {
    /// Install what is missing to build; the other tasks do it themselves.
    Setup(setup::Options),
    /// Build the release binary: target/release/cache-observer.
    Build,
    /// Build what is installed elsewhere: a Debian package and a tarball of the static binary and what belongs to it.
    Dist,
    /// Build the container image: target/image/cache-observer.tar.
    Image,
    /// Build, become root, observe this host.
    Run(run::Options),
    /// Run all tests; those with real servers as root, and those of `vm`.
    Test(test::Options),
    /// Run the tests that depend on the kernel in guests with stock kernels, with each backend.
    Vm(vm::Options),
    /// Check format, lints, dependencies and the house rules.
    Lint,
    /// Measure the overhead and the pipeline; writes target/bench.json.
    Bench(bench::Options),
    /// Load both caches for half an hour: nothing may be lost or grow; writes target/soak.json.
    Soak(soak::Options),
    /// Draw the picture of the dashboard from real traffic; writes docs/images/dashboard.svg.
    Picture(picture::Options),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Setup(options) => setup::task(&options),
        Task::Build => build::task().map(drop),
        Task::Dist => dist::task().map(drop),
        Task::Image => image::task().map(drop),
        Task::Run(options) => return exit(run::task(&options)),
        Task::Test(options) => test::task(&options),
        Task::Vm(options) => vm::task(&options),
        Task::Lint => lint::task(),
        Task::Bench(options) => bench::task(&options),
        Task::Soak(options) => soak::task(&options),
        Task::Picture(options) => picture::task(&options),
    };
    exit(done.map(|()| ExitCode::SUCCESS))
}

fn exit(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
