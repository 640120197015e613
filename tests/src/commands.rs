//! The commands of a server, by its own account, and argument lists for them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::client::{Redis, Reply};
use crate::random::Random;

/// A command or subcommand of a server.
#[derive(Debug)]
pub struct Command {
    /// Its name, in capitals; a subcommand after its container's.
    pub words: Vec<String>,
    /// Whether everybody may run it, whatever ACL says: AUTH, HELLO, QUIT, RESET.
    pub for_all: bool,
    /// Least words after its name, and whether there may be more.
    arity: (u64, bool),
    /// How it may be called; `None` where the server does not say.
    arguments: Option<Vec<Argument>>,
}

/// A node of the tree of COMMAND DOCS.
#[derive(Debug, Default)]
struct Argument {
    name: String,
    kind: String,
    token: Option<String>,
    optional: bool,
    multiple: bool,
    multiple_token: bool,
    arguments: Vec<Argument>,
}

/// All commands of a server: COMMAND, with the arguments of COMMAND DOCS.
///
/// # Errors
///
/// When the server answers otherwise.
pub fn all(redis: &mut Redis) -> Result<Vec<Command>> {
    let mut documents = BTreeMap::new();
    let reply = redis.command(&["COMMAND", "DOCS"])?;
    for (name, document) in pairs(&reply)? {
        read_document(name, document, &mut documents)?;
    }
    let mut commands = Vec::new();
    for entry in elements(&redis.command(&["COMMAND"])?)? {
        add(entry, &mut documents, &mut commands)?;
    }
    commands.sort_by(|a, b| a.words.cmp(&b.words));
    Ok(commands)
}

fn read_document<'a>(
    name: String,
    document: &'a Reply,
    documents: &mut BTreeMap<String, &'a Reply>,
) -> Result<()> {
    for (field, value) in pairs(document)? {
        match field.as_str() {
            "subcommands" => {
                for (name, document) in pairs(value)? {
                    read_document(name, document, documents)?;
                }
            }
            "arguments" => {
                documents.insert(name.clone(), value);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes a command of COMMAND's reply, and its subcommands.
fn add(
    entry: &Reply,
    documents: &mut BTreeMap<String, &Reply>,
    commands: &mut Vec<Command>,
) -> Result<()> {
    let fields = elements(entry)?;
    let name = text(fields.first().context("a name")?)?;
    let flags = elements(fields.get(2).context("flags")?)?;
    let arguments = match documents.get(&name) {
        Some(document) => Some(
            elements(document)?
                .iter()
                .map(argument)
                .collect::<Result<_>>()?,
        ),
        None => None,
    };
    let words: Vec<_> = name.split('|').map(str::to_ascii_uppercase).collect();
    let Some(Reply::Integer(arity)) = fields.get(1) else {
        bail!("{name} without arity");
    };
    let least = arity.unsigned_abs().saturating_sub(words.len() as u64);
    commands.push(Command {
        words,
        for_all: flags
            .iter()
            .any(|flag| *flag == Reply::Status("no_auth".to_owned())),
        arity: (least, *arity < 0),
        arguments,
    });
    for entry in fields.get(9).map_or(Ok([].as_slice()), elements)? {
        add(entry, documents, commands)?;
    }
    Ok(())
}

fn argument(document: &Reply) -> Result<Argument> {
    let mut argument = Argument::default();
    for (field, value) in pairs(document)? {
        match field.as_str() {
            "name" => argument.name = text(value)?,
            "type" => argument.kind = text(value)?,
            "token" => argument.token = Some(text(value)?),
            "flags" => {
                for flag in elements(value)? {
                    match text(flag)?.as_str() {
                        "optional" => argument.optional = true,
                        "multiple" => argument.multiple = true,
                        "multiple_token" => argument.multiple_token = true,
                        other => bail!("an argument that is {other}"),
                    }
                }
            }
            "arguments" => {
                argument.arguments = elements(value)?
                    .iter()
                    .map(self::argument)
                    .collect::<Result<_>>()?;
            }
            _ => {}
        }
    }
    Ok(argument)
}

fn elements(reply: &Reply) -> Result<&[Reply]> {
    match reply {
        Reply::Array(elements) => Ok(elements),
        other => bail!("no array: {other:?}"),
    }
}

fn pairs(reply: &Reply) -> Result<Vec<(String, &Reply)>> {
    let pairs = elements(reply)?.chunks_exact(2);
    pairs.map(|pair| Ok((text(&pair[0])?, &pair[1]))).collect()
}

fn text(reply: &Reply) -> Result<String> {
    match reply {
        Reply::Bulk(Some(text)) => Ok(String::from_utf8(text.clone())?),
        Reply::Status(text) => Ok(text.clone()),
        other => bail!("no text: {other:?}"),
    }
}

impl Command {
    /// Its name, with a space before a subcommand.
    #[must_use]
    pub fn name(&self) -> String {
        self.words.join(" ")
    }

    /// One way to call it, its name included. Keys look like `key:1`, and no other argument does. Where the server tells
    /// nothing of the arguments, as few words as are allowed, or up to five more.
    pub fn call(&self, random: &mut Random) -> Vec<String> {
        let mut call = Call {
            random,
            words: self.words.clone(),
            number: 0,
        };
        match &self.arguments {
            Some(arguments) => call.all(arguments),
            None => {
                let (least, more) = self.arity;
                let words = least + if more { call.random.below(6) } else { 0 };
                for _ in 0..words {
                    call.word("word");
                }
            }
        }
        call.words
    }
}

/// A call in the making.
struct Call<'a> {
    random: &'a mut Random,
    words: Vec<String>,
    number: u32,
}

impl Call<'_> {
    /// Arguments that follow each other. How often one comes may depend on those before it.
    fn all(&mut self, arguments: &[Argument]) {
        let mut times = None;
        for (index, argument) in arguments.iter().enumerate() {
            let next = arguments.get(index + 1);
            if argument.name.starts_with("num") && next.is_some_and(|next| next.multiple) {
                // A count of what follows.
                let least = u64::from(next.is_some_and(|next| !next.optional));
                let count = least + self.random.below(3);
                self.words.extend(argument.token.clone());
                self.words.push(count.to_string());
                times = Some(count);
                continue;
            }
            let given = times.take();
            if given.is_none() && argument.optional && self.random.below(2) == 0 {
                continue;
            }
            let count = match given {
                Some(count) => count,
                None if argument.multiple => 1 + self.random.below(3),
                None => 1,
            };
            self.times(argument, count);
            // As many ids as streams.
            if argument.kind == "key"
                && argument.multiple
                && next.is_some_and(|next| next.multiple && !next.optional)
            {
                times = Some(count);
            }
        }
    }

    fn times(&mut self, argument: &Argument, times: u64) {
        for time in 0..times {
            if time == 0 || argument.multiple_token {
                self.words.extend(argument.token.clone());
            }
            match argument.kind.as_str() {
                "pure-token" => {}
                "oneof" => {
                    let choice = self.random.pick(&argument.arguments);
                    self.times(choice, 1);
                }
                "block" => self.all(&argument.arguments),
                "key" => self.word("key:"),
                // Not 2 and 3, which HELLO takes for a version of the protocol.
                "integer" => self.words.push((4 + self.random.below(20)).to_string()),
                "double" => self.words.push("1.5".to_owned()),
                "unix-time" => self.words.push("1900000000".to_owned()),
                _ => self.word("word"),
            }
        }
    }

    /// A word that comes once.
    fn word(&mut self, prefix: &str) {
        self.number += 1;
        self.words.push(format!("{prefix}{}", self.number));
    }
}
