//! Two network namespaces joined by a cable: two hosts on one kernel.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use std::time::Duration;

use anyhow::Result;

use crate::pool::Client;
use crate::process::{Running, eventually, output};

/// Sends the words of each line as a command to Redis, and prints the first line of the reply, or its value.
pub const CLIENT: &str = "
import socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])))
reader = stream.makefile('rb')
for line in sys.stdin:
    words = line.split()
    text = ''.join(f'${len(word)}\\r\\n{word}\\r\\n' for word in words)
    stream.sendall(f'*{len(words)}\\r\\n{text}'.encode())
    head = reader.readline().decode().strip()
    if head[0] == '$' and head != '$-1':
        head = '$' + reader.read(int(head[1:]) + 2).decode().strip()
    print(head[1:], flush=True)
";

/// The pair; gone when dropped.
#[derive(Debug)]
pub struct Pair {
    names: [String; 2],
}

impl Pair {
    /// Addresses of the two ends.
    pub const ADDRESSES: [&str; 2] = ["10.231.7.1", "10.231.7.2"];

    /// The same of IPv6.
    pub const ADDRESSES_6: [&str; 2] = ["fd00:231:7::1", "fd00:231:7::2"];

    /// Makes both namespaces and the cable.
    ///
    /// # Errors
    ///
    /// When this process may not.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("co{}x{number}{end}", std::process::id());
        let pair = Self {
            names: [name("a"), name("b")],
        };
        let [a, b] = &pair.names;
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        // Names of links are short: they live inside the namespaces from the start.
        ip(&[
            "-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b,
        ])?;
        for (end, name) in pair.names.iter().enumerate() {
            let (four, six) = (Self::ADDRESSES[end], Self::ADDRESSES_6[end]);
            let [four, six] = [format!("{four}/24"), format!("{six}/64")];
            ip(&["-n", name, "address", "add", &four, "dev", "cable"])?;
            // No other has it: without the search for one it can be used at once.
            ip(&["-n", name, "address", "add", &six, "dev", "cable", "nodad"])?;
            ip(&["-n", name, "link", "set", "cable", "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(pair)
    }

    /// Where one of them, 0 or 1, is to be found.
    #[must_use]
    pub fn path(&self, end: usize) -> String {
        format!("/run/netns/{}", self.names[end])
    }

    /// Runs a shell script inside one of them, 0 or 1.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn shell(&self, end: usize, script: &str) -> Result<String> {
        let script = format!("set -e\n{script}");
        output(
            "ip",
            ["netns", "exec", &self.names[end], "sh", "-c", &script],
        )
    }

    /// A redis-server at end 1, at all its addresses, that answers.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start.
    pub fn redis(&self, port: u16) -> Result<Running> {
        let port = port.to_string();
        let mut server = self.inside(1, "redis-server");
        server.args(["--port", &port, "--save", "", "--protected-mode", "no"]);
        server.args(["--bind", "0.0.0.0", "::"]);
        let server = Running::start(server.stdout(Stdio::null()))?;
        eventually(Duration::from_secs(10), "the server answers", || {
            let mut cli = self.inside(1, "redis-cli");
            Ok(cli.args(["-p", &port, "ping"]).output()?.status.success())
        })?;
        Ok(server)
    }

    /// A client at end 0 with a connection to a Redis, which is given commands as lines, and says what came back.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn client(&self, address: &str, port: u16) -> Result<Client> {
        let port = port.to_string();
        let mut command = self.inside(0, "python3");
        Client::start(command.args(["-c", CLIENT, address, &port]))
    }

    /// A program to be run inside one of them, 0 or 1.
    #[must_use]
    pub fn inside(&self, end: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[end], program]);
        command
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            // May never have been made.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    output("ip", arguments)
}
