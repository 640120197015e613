//! Man pages and shell completions, made of the command line's definition.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::cli::command;

/// Writes one man page for each command, and a completion for each of bash, zsh and fish, under the names by which `man` and
/// the shells look for them.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn write(folder: &Path) -> io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut shown(), "cache-observer", folder)?;
    }
    clap_mangen::generate_to(shown(), folder)
}

/// Without the commands that help does not show either: completions would.
fn shown() -> Command {
    let all = command();
    let commands = all.get_subcommands().filter(|one| !one.is_hide_set());
    let without = Command::new("cache-observer")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments())
        .subcommands(commands);
    match all.get_about() {
        Some(about) => without.about(about.clone()),
        None => without,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_in_them() {
        let folder = std::env::temp_dir().join(format!("manual-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        write(&folder).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect(name);
        let shells = [
            "cache-observer.bash",
            "_cache-observer",
            "cache-observer.fish",
        ]
        .map(read);
        let main = read("cache-observer.1");
        assert!(main.contains("Redis and Memcached traffic"), "{main}");
        for one in command().get_subcommands() {
            let name = one.get_name();
            let page = folder.join(format!("cache-observer-{name}.1"));
            assert_eq!(page.exists(), !one.is_hide_set(), "{name}");
            for shell in &shells {
                assert_eq!(shell.contains(name), !one.is_hide_set(), "{name}: {shell}");
            }
            if one.is_hide_set() {
                continue;
            }
            let page = std::fs::read_to_string(page).unwrap();
            for option in one.get_arguments().filter_map(clap::Arg::get_long) {
                // A man page's hyphens are no dashes.
                let written = option.replace('-', "\\-");
                assert!(
                    page.contains(&format!("\\-\\-{written}")),
                    "{name} {option}"
                );
                for shell in &shells {
                    assert!(shell.contains(option), "{name} {option}");
                }
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
