//! From the command line, the environment and the file to one set of values, each with its origin.
//!
//! clap is the only parser of options: those of the file are handed to it as defaults. So the command line stands before
//! the environment, that before the file, and a value of the file is checked as one of the command line is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::cli::{Cli, command, one_line};
use super::effective::{Entry, Origin, value_of};
use super::file::{File, FileError, Tables, path_of};
use super::{Config, Surroundings};

/// The option that names the file.
const CONFIG: &str = "config";
/// Options that are about the configuration and no part of it.
const NOT_IN_FILES: [&str; 3] = [CONFIG, "print-config", "from"];
/// Options for which the environment has an OpenTelemetry variable beside their own, which stands before the file, too.
const ALSO_SET_BY: [(&str, &str); 2] = [
    ("naming", "OTEL_SEMCONV_STABILITY_OPT_IN"),
    ("spans-share", "OTEL_TRACES_SAMPLER"),
];

/// What cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The command line or the environment; also a wish for help or the version.
    #[error("{}", one_line(.0))]
    Arguments(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// All that was written, parsed.
#[derive(Debug)]
pub struct Loaded {
    /// The command line, with the values of the environment and the file.
    pub cli: Cli,
    /// The rest of the file.
    pub tables: Tables,
    surroundings: Surroundings,
    options: Vec<Entry>,
    file: File,
}

/// Parses the command line, and the file that it or the environment names.
///
/// # Errors
///
/// [`Refusal`], which is one line.
pub fn load(arguments: &[OsString], surroundings: Surroundings) -> Result<Loaded, Refusal> {
    let command = command();
    let mut matches = command.clone().try_get_matches_from(arguments)?;
    let mut file = File::default();
    if let Some(path) = matches.get_one::<PathBuf>(CONFIG) {
        file = File::read(path, &option_names(&command))?;
        check(&file, &command)?;
        for (option, variable) in ALSO_SET_BY {
            if surroundings.sets(variable) {
                file.options.remove(option);
            }
        }
        let default = |mut sub: Command| {
            for (option, given) in &file.options {
                if let Some(argument) = argument(&sub, option) {
                    let id = argument.get_id().clone();
                    sub = sub.mut_arg(id, |one| one.default_values(given.values.clone()));
                }
            }
            sub
        };
        let with_file = command.clone().mut_subcommands(default);
        matches = with_file.try_get_matches_from(arguments)?;
    }
    let cli = Cli::from_arg_matches(&matches)?;
    let options = match matches.subcommand() {
        Some((name, matches)) => command
            .find_subcommand(name)
            .map_or_else(Vec::new, |sub| entries(sub, matches, &file)),
        None => Vec::new(),
    };
    Ok(Loaded {
        cli,
        tables: file.tables.clone(),
        surroundings,
        options,
        file,
    })
}

impl Loaded {
    /// The file that was read.
    #[must_use]
    pub fn file(&self) -> Option<&std::path::Path> {
        Some(self.file.path.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Every value in effect, in the order in which a file would have them. `config` was made of this.
    #[must_use]
    pub fn effective(&self, config: &Config) -> Vec<Entry> {
        let mut implied: BTreeMap<String, toml::Value> = config.implied().into_iter().collect();
        let mut all = Vec::new();
        for option in &self.options {
            let mut entry = option.clone();
            let implied = implied.remove(&entry.path);
            if let Some(variable) = self.surroundings.origin(&entry.path, entry.value.is_some()) {
                entry.origin = Origin::Variable(variable.to_owned());
                entry.value = implied;
            } else if entry.value.is_none() {
                entry.value = implied;
            }
            all.push(entry);
        }
        let tables = super::effective::of_tables(config, &self.file.lines, &self.surroundings);
        for entry in tables {
            // What is an option was told as one.
            if !all.iter().any(|option: &Entry| option.path == entry.path) {
                all.push(entry);
            }
        }
        all
    }
}

/// Long names of all options of all subcommands.
pub(super) fn option_names(command: &Command) -> BTreeSet<String> {
    let all = command.get_subcommands().flat_map(Command::get_arguments);
    all.filter_map(Arg::get_long)
        .filter(|name| !NOT_IN_FILES.contains(name))
        .map(str::to_owned)
        .collect()
}

fn argument<'a>(command: &'a Command, option: &str) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|argument| argument.get_long() == Some(option))
}

fn is_list(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// Lets clap parse each option of the file alone, so that it is known which of them is wrong, also where the command line
/// stands before it.
fn check(file: &File, command: &Command) -> Result<(), FileError> {
    for (option, given) in &file.options {
        let of = |sub: &&Command| argument(sub, option).is_some();
        let Some(sub) = command.get_subcommands().find(of) else {
            continue;
        };
        let Some(argument) = argument(sub, option) else {
            continue;
        };
        if !is_list(argument) && given.values.len() != 1 {
            return Err(file.error(given.line, format!("{option}: wants one value")));
        }
        let id = argument.get_id().clone();
        let alone = sub
            .clone()
            .mut_args(|one| one.env(None::<&str>).required(false))
            .mut_arg(id, |one| one.default_values(given.values.clone()));
        if let Err(error) = alone.try_get_matches_from([""]) {
            return Err(file.error(given.line, one_line(&error)));
        }
    }
    Ok(())
}

/// The options of a subcommand, as they came out.
fn entries(command: &Command, matches: &ArgMatches, file: &File) -> Vec<Entry> {
    let in_files = |argument: &&Arg| {
        let long = argument.get_long();
        long.is_some_and(|long| !NOT_IN_FILES.contains(&long) && long != "help")
    };
    let entry = |argument: &Arg| {
        let option = argument.get_long().unwrap_or_default();
        let id = argument.get_id().as_str();
        let given = file.options.get(option);
        let origin = match (matches.value_source(id), given) {
            (Some(ValueSource::CommandLine), _) => Origin::CommandLine,
            (Some(ValueSource::EnvVariable), _) => {
                let name = argument.get_env().unwrap_or_default();
                Origin::Variable(name.to_string_lossy().into_owned())
            }
            (_, Some(given)) => Origin::File(given.line),
            _ => Origin::Default,
        };
        let raw = matches.get_raw(id).into_iter().flatten();
        let texts: Vec<_> = raw
            .map(|text| text.to_string_lossy().into_owned())
            .collect();
        let value = match texts.as_slice() {
            [] if given.is_none() => None,
            [one] if !is_list(argument) => Some(value_of(one)),
            _ => Some(toml::Value::Array(
                texts.iter().map(|one| value_of(one)).collect(),
            )),
        };
        Entry {
            path: path_of(option),
            value,
            origin,
        }
    };
    let arguments = command.get_arguments().filter(in_files);
    arguments.map(entry).collect()
}
