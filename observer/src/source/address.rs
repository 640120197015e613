//! Where an end of a connection is: an internet address and port, or a unix socket.

use std::borrow::Cow;
use std::fmt;
use std::net::{AddrParseError, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use observer_ebpf::{MAX_SOCKET_NAME, MAX_SOCKETS};

/// Where an end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An internet address and port. IPv4-mapped addresses are given as IPv4.
    Inet(SocketAddr),
    /// One end of a unix socket.
    Unix {
        /// The name that it is bound to; `None` for a client's end.
        name: Option<SocketName>,
        /// Inode number of the client's end, which tells the connection; 0 where that is not known.
        client: u64,
    },
}

impl Address {
    /// The internet address and port, if it has them.
    #[must_use]
    pub fn inet(self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(address),
            Self::Unix { .. } => None,
        }
    }

    /// The port, if it has one.
    #[must_use]
    pub fn port(self) -> Option<u16> {
        self.inet().map(|address| address.port())
    }

    /// The unix socket's name, if it has one.
    #[must_use]
    pub fn name(self) -> Option<SocketName> {
        match self {
            Self::Inet(_) => None,
            Self::Unix { name, .. } => name,
        }
    }

    /// Whether it is one end of a unix socket.
    #[must_use]
    pub fn is_unix(self) -> bool {
        matches!(self, Self::Unix { .. })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl FromStr for Address {
    type Err = AddrParseError;

    /// Reads an internet address and port.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::Inet)
    }
}

impl fmt::Display for Address {
    /// `10.0.0.7:6379`, `/run/redis.sock`, or `unix` for an end without a name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix { name: None, .. } => f.write_str("unix"),
            Self::Unix {
                name: Some(name), ..
            } => f.write_str(&name.text()),
        }
    }
}

/// The name of a unix socket, as its server bound it: a path, or an abstract name, which is written with an `@` before it.
///
/// A number that stands for the name in this process, and in the kernel's records. Names are never forgotten; there are at
/// most 1,024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketName(NonZeroU16);

/// Why a text is no name of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("a socket needs a name")]
    Empty,
    /// Longer than what fits into a `struct sockaddr_un`.
    #[error("a socket's name has 108 bytes at most")]
    Long,
    /// A NUL, which ends a path.
    #[error("a socket's name cannot hold a NUL")]
    Nul,
    /// No number is left.
    #[error("more than 1,024 names of sockets")]
    TooMany,
}

/// All names, by number; the first has number 1.
static NAMES: RwLock<Vec<Arc<str>>> = RwLock::new(Vec::new());

impl SocketName {
    /// The name that is written as `text`.
    ///
    /// # Errors
    ///
    /// When it cannot be one, or there are too many.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text)?;
        let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
        let index = match names.iter().position(|known| **known == *text) {
            Some(index) => index,
            None if names.len() >= MAX_SOCKETS as usize => return Err(NameError::TooMany),
            None => {
                names.push(text.into());
                names.len() - 1
            }
        };
        let number = u16::try_from(index + 1).ok().and_then(NonZeroU16::new);
        number.map(Self).ok_or(NameError::TooMany)
    }

    /// The name with that number, if there is one.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        let name = Self(NonZeroU16::new(number)?);
        let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
        (usize::from(number) <= names.len()).then_some(name)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0.get()
    }

    /// As it is written.
    #[must_use]
    pub fn text(self) -> Arc<str> {
        let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
        let index = usize::from(self.0.get()) - 1;
        names.get(index).cloned().unwrap_or_default()
    }

    /// As the kernel has it.
    pub(crate) fn kernel(self) -> observer_ebpf::SocketName {
        let text = self.text();
        let name: Cow<'_, [u8]> = match text.strip_prefix('@') {
            Some(rest) => [b"\0", rest.as_bytes()].concat().into(),
            None => [text.as_bytes(), b"\0"].concat().into(),
        };
        let mut bytes = [0; 128];
        for (to, from) in bytes.iter_mut().zip(name.iter()) {
            *to = *from;
        }
        observer_ebpf::SocketName {
            length: name.len() as u64,
            bytes,
        }
    }
}

/// Whether it can be a name.
fn check(text: &str) -> Result<(), NameError> {
    match text {
        "" | "@" => Err(NameError::Empty),
        // One byte is the NUL of a path, the `@` of an abstract name.
        _ if text.len() >= MAX_SOCKET_NAME => Err(NameError::Long),
        _ if text.contains('\0') => Err(NameError::Nul),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbers() {
        let path = SocketName::new("/run/a.sock").unwrap();
        let other = SocketName::new("@a").unwrap();
        assert_ne!(path, other);
        assert_eq!(SocketName::new("/run/a.sock"), Ok(path));
        assert_eq!(SocketName::from_number(path.number()), Some(path));
        assert_eq!(SocketName::from_number(0), None);
        assert_eq!(SocketName::from_number(u16::MAX), None);
        assert_eq!(&*path.text(), "/run/a.sock");
    }

    #[test]
    fn the_kernel_has_paths_with_a_nul_behind_and_abstract_names_with_one_before() {
        let kernel = |text| SocketName::new(text).unwrap().kernel();
        let path = kernel("/run/a.sock");
        assert_eq!(path.length, 12);
        assert_eq!(&path.bytes[..13], b"/run/a.sock\0\0");
        let name = kernel("@a");
        assert_eq!(name.length, 2);
        assert_eq!(&name.bytes[..3], b"\0a\0");
        let longest = kernel(&"x".repeat(108));
        assert_eq!(longest.length, 109);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (text, error) in [
            ("", NameError::Empty),
            ("@", NameError::Empty),
            ("a\0b", NameError::Nul),
        ] {
            assert_eq!(SocketName::new(text), Err(error));
        }
        assert_eq!(SocketName::new(&"x".repeat(109)), Err(NameError::Long));
    }
}
