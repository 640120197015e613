//! A client that knows each byte of the binary dialect.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;

pub(crate) const GET: u8 = 0x00;
pub(crate) const SET: u8 = 0x01;
pub(crate) const ADD: u8 = 0x02;
pub(crate) const REPLACE: u8 = 0x03;
pub(crate) const DELETE: u8 = 0x04;
pub(crate) const INCREMENT: u8 = 0x05;
pub(crate) const DECREMENT: u8 = 0x06;
pub(crate) const QUIT: u8 = 0x07;
pub(crate) const FLUSH: u8 = 0x08;
pub(crate) const GETQ: u8 = 0x09;
pub(crate) const NOOP: u8 = 0x0a;
pub(crate) const VERSION: u8 = 0x0b;
pub(crate) const GETK: u8 = 0x0c;
pub(crate) const GETKQ: u8 = 0x0d;
pub(crate) const APPEND: u8 = 0x0e;
pub(crate) const PREPEND: u8 = 0x0f;
pub(crate) const STAT: u8 = 0x10;
pub(crate) const SETQ: u8 = 0x11;
pub(crate) const ADDQ: u8 = 0x12;
pub(crate) const REPLACEQ: u8 = 0x13;
pub(crate) const DELETEQ: u8 = 0x14;
pub(crate) const INCREMENTQ: u8 = 0x15;
pub(crate) const DECREMENTQ: u8 = 0x16;
pub(crate) const QUITQ: u8 = 0x17;
pub(crate) const FLUSHQ: u8 = 0x18;
pub(crate) const APPENDQ: u8 = 0x19;
pub(crate) const PREPENDQ: u8 = 0x1a;
pub(crate) const VERBOSITY: u8 = 0x1b;
pub(crate) const TOUCH: u8 = 0x1c;
pub(crate) const GAT: u8 = 0x1d;
pub(crate) const GATQ: u8 = 0x1e;
pub(crate) const SASL_LIST_MECHS: u8 = 0x20;
pub(crate) const SASL_AUTH: u8 = 0x21;
pub(crate) const SASL_STEP: u8 = 0x22;
pub(crate) const GATK: u8 = 0x23;
pub(crate) const GATKQ: u8 = 0x24;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) opcode: u8,
    pub(crate) opaque: u32,
    pub(crate) cas: u64,
    pub(crate) extras: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Request {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let body = self.extras.len() + self.key.len() + self.value.len();
        let mut bytes = vec![0x80, self.opcode];
        bytes.extend((self.key.len() as u16).to_be_bytes());
        bytes.extend([self.extras.len() as u8, 0, 0, 0]);
        bytes.extend((body as u32).to_be_bytes());
        bytes.extend(self.opaque.to_be_bytes());
        bytes.extend(self.cas.to_be_bytes());
        [&bytes, &self.extras[..], &self.key, &self.value].concat()
    }

    /// With this number, which the reply repeats.
    pub(crate) fn opaque(mut self, opaque: u32) -> Self {
        self.opaque = opaque;
        self
    }

    /// Only if the value there has this number.
    pub(crate) fn cas(mut self, cas: u64) -> Self {
        self.cas = cas;
        self
    }
}

/// Any request.
pub(crate) fn plain(opcode: u8, extras: &[u8], key: &str, value: &[u8]) -> Request {
    Request {
        opcode,
        opaque: 0,
        cas: 0,
        extras: extras.to_vec(),
        key: key.into(),
        value: value.to_vec(),
    }
}

/// A request of a key alone, or of nothing at all.
pub(crate) fn bare(opcode: u8, key: &str) -> Request {
    plain(opcode, &[], key, &[])
}

/// A store with flags and expiry.
pub(crate) fn store(opcode: u8, key: &str, value: &[u8], seconds: u32) -> Request {
    let extras = [[0, 0, 0, 9], seconds.to_be_bytes()].concat();
    plain(opcode, &extras, key, value)
}

/// A count; `made`: where there is nothing, it begins with 100 and this expiry.
pub(crate) fn count(opcode: u8, key: &str, delta: u64, made: Option<u32>) -> Request {
    let numbers = [delta.to_be_bytes(), 100_u64.to_be_bytes()].concat();
    let expiry = made.unwrap_or(u32::MAX).to_be_bytes();
    plain(opcode, &[&numbers[..], &expiry].concat(), key, &[])
}

/// A request with an expiry.
pub(crate) fn touch(opcode: u8, key: &str, seconds: u32) -> Request {
    plain(opcode, &seconds.to_be_bytes(), key, &[])
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) opcode: u8,
    pub(crate) status: u16,
    pub(crate) opaque: u32,
    pub(crate) cas: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Binary(TcpStream);

impl Binary {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self(stream))
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes)?)
    }

    /// Sends all in one piece.
    pub(crate) fn pipeline(&mut self, requests: &[Request]) -> Result<()> {
        let bytes: Vec<_> = requests.iter().flat_map(Request::bytes).collect();
        self.send(&bytes)
    }

    /// Reads one reply.
    pub(crate) fn reply(&mut self) -> Result<Reply> {
        let mut header = [0; 24];
        self.0.read_exact(&mut header)?;
        anyhow::ensure!(header[0] == 0x81, "not a reply: {header:?}");
        let number = |at: usize, length: usize| {
            let digits = &header[at..at + length];
            digits
                .iter()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let mut body = vec![0; number(8, 4) as usize];
        self.0.read_exact(&mut body)?;
        let (extras, key) = (number(4, 1) as usize, number(2, 2) as usize);
        Ok(Reply {
            opcode: header[1],
            status: number(6, 2) as u16,
            opaque: number(12, 4) as u32,
            cas: number(16, 8),
            key: body[extras..extras + key].to_vec(),
            value: body.split_off(extras + key),
        })
    }

    /// Sends a request and reads its reply.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.send(&request.bytes())?;
        let reply = self.reply()?;
        anyhow::ensure!(
            (reply.opcode, reply.opaque) == (request.opcode, request.opaque),
            "{reply:?} is not the reply to {request:?}"
        );
        Ok(reply)
    }

    /// Whether the server has closed, with nothing more to say.
    pub(crate) fn closed(&mut self) -> Result<bool> {
        Ok(self.0.read(&mut [0])? == 0)
    }
}
