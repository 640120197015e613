//! Small clients, for when a test must know each byte it sends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A reply of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status such as `OK`.
    Status(String),
    /// An error.
    Error(String),
    /// A number.
    Integer(i64),
    /// A value; `None` when there is none.
    Bulk(Option<Vec<u8>>),
    /// Several.
    Array(Vec<Reply>),
}

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection, shared by both clients.
#[derive(Debug)]
struct Connection {
    /// Of any kind of stream socket: to the standard library they are alike.
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn connect(address: impl ToSocketAddrs) -> Result<Self> {
        let stream = TcpStream::connect(address).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    fn connect_unix(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            reader: BufReader::new(OwnedFd::from(stream).into()),
        })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => bail!("the server closed the connection"),
        }
    }

    /// A line that may end with LF alone, without either.
    fn bare_line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).trim_end().to_owned()),
            None => bail!("the server closed the connection"),
        }
    }

    fn value(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut value = vec![0; length + 2];
        self.reader.read_exact(&mut value)?;
        value.truncate(length);
        Ok(value)
    }
}

/// A Redis client.
#[derive(Debug)]
pub struct Redis(Connection);

impl Redis {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect(address: impl ToSocketAddrs) -> Result<Self> {
        Ok(Self(Connection::connect(address)?))
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect_unix(path: &Path) -> Result<Self> {
        Ok(Self(Connection::connect_unix(path)?))
    }

    /// Sends one command and reads its reply.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub fn command<T: AsRef<[u8]>>(&mut self, words: &[T]) -> Result<Reply> {
        self.send(&encode(words))?;
        self.reply()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.send(bytes)
    }

    /// The connection itself, for reading what its reader must not hold back; the reader must have nothing read ahead.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn stream(&self) -> Result<TcpStream> {
        Ok(self.0.reader.get_ref().try_clone()?)
    }

    /// Reads one RESP2 reply.
    ///
    /// # Errors
    ///
    /// When the connection ends, or it is none.
    pub fn reply(&mut self) -> Result<Reply> {
        let line = self.0.line()?;
        let (kind, rest) = line.split_at_checked(1).context("an empty reply")?;
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(rest.parse()?),
            "$" if rest == "-1" => Reply::Bulk(None),
            "$" => Reply::Bulk(Some(self.0.value(rest.parse()?)?)),
            "*" => {
                let count = rest.parse::<i64>()?;
                Reply::Array((0..count).map(|_| self.reply()).collect::<Result<_>>()?)
            }
            _ => bail!("not a reply: {line}"),
        })
    }
}

/// A command as clients send it.
#[must_use]
pub fn encode<T: AsRef<[u8]>>(words: &[T]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words.iter().map(AsRef::as_ref) {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend(word);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// A Memcached client for the text protocol.
#[derive(Debug)]
pub struct Memcached(Connection);

impl Memcached {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect(address: impl ToSocketAddrs) -> Result<Self> {
        Ok(Self(Connection::connect(address)?))
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect_unix(path: &Path) -> Result<Self> {
        Ok(Self(Connection::connect_unix(path)?))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.send(bytes)
    }

    /// The connection itself, for reading what its reader must not hold back; the reader must have nothing read ahead.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn stream(&self) -> Result<TcpStream> {
        Ok(self.0.reader.get_ref().try_clone()?)
    }

    /// Sends a line and reads a line.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub fn line(&mut self, line: &str) -> Result<String> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.0.line()
    }

    /// `set`, `add` or another of that family, and its answer.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub fn store(
        &mut self,
        command: &str,
        key: &str,
        value: &[u8],
        seconds: u32,
    ) -> Result<String> {
        let mut bytes = format!("{command} {key} 0 {seconds} {}\r\n", value.len()).into_bytes();
        bytes.extend(value);
        bytes.extend(b"\r\n");
        self.send(&bytes)?;
        self.0.line()
    }

    /// The values found for these keys.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the answer is none to `get`.
    pub fn get(&mut self, keys: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        self.send(format!("get {}\r\n", keys.join(" ")).as_bytes())?;
        self.values()
    }

    /// Reads the answer to one `get`.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the answer is another.
    pub fn values(&mut self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        loop {
            let line = self.0.line()?;
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["END"] => return Ok(found),
                ["VALUE", key, _, length] => {
                    found.push((key.to_owned(), self.0.value(length.parse()?)?))
                }
                _ => bail!("not an answer to get: {line}"),
            }
        }
    }

    /// Reads lines up to this one.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub fn until(&mut self, last: &str) -> Result<()> {
        while self.0.bare_line()? != last {}
        Ok(())
    }

    /// Reads lines up to one that begins like one of these.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub fn until_one_of(&mut self, beginnings: &[&str]) -> Result<()> {
        loop {
            let line = self.0.bare_line()?;
            if beginnings.iter().any(|last| line.starts_with(last)) {
                return Ok(());
            }
        }
    }

    /// A number of the server's `stats`.
    ///
    /// # Errors
    ///
    /// When the connection ends, or the server does not count it.
    pub fn stat(&mut self, wanted: &str) -> Result<u64> {
        let number = self.stats()?.get(wanted).copied();
        number.with_context(|| format!("no {wanted} in stats"))
    }

    /// All numbers of the server's `stats`.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub fn stats(&mut self) -> Result<BTreeMap<String, u64>> {
        self.send(b"stats\r\n")?;
        let mut numbers = BTreeMap::new();
        loop {
            let line = self.0.line()?;
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["END"] => return Ok(numbers),
                ["STAT", name, value] => {
                    numbers.extend(value.parse().map(|value| (name.to_owned(), value)).ok());
                }
                _ => {}
            }
        }
    }
}
