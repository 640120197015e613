//! `run --demo`: a real Redis and a real Memcached server with a small mixed workload.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use tests::client::{Memcached, Redis};
use tests::server::{self, Server};

/// Servers and workload; both end with it.
pub(crate) struct Demo {
    redis: Server,
    memcached: Server,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

/// Pause of each worker between two commands: about 15 commands a second altogether, few enough to be read.
const PAUSE: Duration = Duration::from_millis(270);

impl Demo {
    pub(crate) fn start() -> Result<Self> {
        let redis = Server::redis_on(usual(6379)?, &[])?;
        let memcached = Server::memcached_on(usual(11211)?, &[])?;
        eprintln!(
            "demo: redis-server on port {}, memcached on port {}",
            redis.port, memcached.port
        );
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for number in 0..3 {
            let port = redis.port;
            workers.push(worker(&stop, number, move |step| redis_step(port, step)));
        }
        let port = memcached.port;
        workers.push(worker(&stop, 3, move |step| memcached_step(port, step)));
        Ok(Self {
            redis,
            memcached,
            stop,
            workers,
        })
    }

    /// Options that make the observer watch these servers.
    pub(crate) fn arguments(&self) -> [String; 4] {
        let [redis, memcached] =
            [&self.redis, &self.memcached].map(|server| server.port.to_string());
        [
            "--redis-port".into(),
            redis,
            "--memcached-port".into(),
            memcached,
        ]
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // A worker that failed has said so.
            let _ = worker.join();
        }
    }
}

/// The port that users know, or another if it is taken.
fn usual(port: u16) -> Result<u16> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(port),
        Err(_) => server::free_port(),
    }
}

/// Calls `start` for a function that does one step, then that function until the end of the demonstration.
fn worker<F, S>(stop: &Arc<AtomicBool>, number: u64, start: F) -> JoinHandle<()>
where
    F: Fn(u64) -> Result<S> + Send + 'static,
    S: FnMut(u64) -> Result<()>,
{
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        // Workers do not march in step.
        thread::sleep(PAUSE * number as u32 / 4);
        let done = start(number).and_then(|mut step| {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                step(round)?;
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        if let Err(error) = done {
            eprintln!("demo: the workload stopped: {error:#}");
        }
    })
}

/// A number from 1 to 6: the same sequence in every demonstration, without looking regular.
fn scattered(round: u64, number: u64) -> u64 {
    1 + (round.wrapping_mul(7919) ^ number.wrapping_mul(104_729)) % 6
}

fn redis_step(port: u16, number: u64) -> Result<impl FnMut(u64) -> Result<()>> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    Ok(move |round| {
        let user = scattered(round, number);
        let profile = format!("user:{user}:profile");
        let session = format!("session:{user}");
        let token = format!("token:{user}");
        let body = "x".repeat(40 + 97 * user as usize);
        let command: Vec<&str> = match (round + 3 * number) % 13 {
            0 | 6 => vec!["SET", &profile, &body, "EX", "60"],
            1 | 4 | 9 => vec!["GET", &profile],
            2 => vec!["GET", &token],
            3 => vec![
                "MGET",
                "user:1:profile",
                "user:2:profile",
                "user:99:profile",
            ],
            5 => vec!["INCR", "visits"],
            7 => vec!["HSET", &session, "cart", "3", "theme", "dark"],
            8 => vec!["HGET", &session, "theme"],
            10 => vec!["EXPIRE", &session, "30"],
            11 => vec!["LPUSH", "queue:mail", &profile],
            // Not a list: the server refuses.
            _ => vec!["LPUSH", "visits", "x"],
        };
        redis.command(&command).map(drop)
    })
}

fn memcached_step(port: u16, number: u64) -> Result<impl FnMut(u64) -> Result<()>> {
    let mut memcached = Memcached::connect(("127.0.0.1", port))?;
    Ok(move |round| {
        // The same page for a few steps.
        let page = format!("page:{}", scattered(round / 5, number));
        match round % 5 {
            0 => memcached
                .store("set", &page, "<html>…</html>".repeat(8).as_bytes(), 120)
                .map(drop),
            1 => memcached.get(&[&page]).map(drop),
            2 => memcached.get(&[&page, "page:1", "page:99"]).map(drop),
            3 => memcached.line(&format!("delete {page}")).map(drop),
            _ => memcached.get(&[&page]).map(drop),
        }
    })
}
