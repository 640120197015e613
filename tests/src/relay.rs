//! Counts what is sent to a server.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

/// Hands each connection on to a server, and counts the bytes that the client sends. Its threads end with their connections, the
/// first with the program.
#[derive(Debug)]
pub struct Relay {
    /// Its port.
    pub port: u16,
    sent: Arc<AtomicU64>,
}

impl Relay {
    /// Stands before the server at `port` of this host.
    ///
    /// # Errors
    ///
    /// When there is no free port.
    pub fn before(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let relay = Self {
            port: listener.local_addr()?.port(),
            sent: Arc::default(),
        };
        let sent = Arc::clone(&relay.sent);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let (Ok(reader), Ok(writer)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                let sent = Arc::clone(&sent);
                thread::spawn(move || copy(&client, &server, &sent));
                thread::spawn(move || copy(&writer, &reader, &AtomicU64::new(0)));
            }
        });
        Ok(relay)
    }

    /// Bytes that clients have sent so far, without those of TCP and IP.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Copies one direction until its end.
fn copy(mut from: &TcpStream, to: &TcpStream, count: &AtomicU64) {
    struct Counted<'a>(&'a TcpStream, &'a AtomicU64);
    impl io::Write for Counted<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = self.0.write(bytes)?;
            self.1.fetch_add(written as u64, Ordering::Relaxed);
            Ok(written)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    // Either end may break off: so does the other then.
    let _ = io::copy(&mut from, &mut Counted(to, count));
    let _ = to.shutdown(Shutdown::Write);
}
