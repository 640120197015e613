//! Unix sockets: by the names that servers bind them to, or those of the servers that run.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::ConfigError;
use crate::source::event::SocketName;

/// One of the values of `--redis-socket` and `--memcached-socket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketArgument {
    /// Those on which a server listens that is known by its name.
    Auto,
    /// None at all.
    None,
    /// This one.
    Name(SocketName),
}

impl FromStr for SocketArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => SocketName::new(text)
                .map(Self::Name)
                .map_err(|error| error.to_string()),
        }
    }
}

/// Which unix sockets are watched for a protocol.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sockets {
    /// Those on which servers listen that are known by their name.
    pub auto: bool,
    /// These.
    pub names: BTreeSet<SocketName>,
}

impl Sockets {
    /// Checks what was written for an option.
    pub(super) fn new(option: &'static str, given: &[SocketArgument]) -> Result<Self, ConfigError> {
        let mut sockets = Self::default();
        for argument in given {
            match argument {
                SocketArgument::Auto => sockets.auto = true,
                SocketArgument::None if given.len() > 1 => {
                    return Err(ConfigError::NoSocketAndOthers(option));
                }
                SocketArgument::None => {}
                SocketArgument::Name(name) => {
                    sockets.names.insert(*name);
                }
            }
        }
        Ok(sockets)
    }

    /// Whether there is nothing to watch.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.auto && self.names.is_empty()
    }
}
