//! Clients that work until they are told to stop, and check each reply: the value of a key names the key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::client::{Memcached, Redis, Reply, encode};
use crate::random::Random;

/// Keys of each worker.
const KEYS: u64 = 200;

/// What a worker does again and again; answers how many commands it sent.
type Work = Box<dyn FnMut(&mut Random) -> Result<u64> + Send>;

/// Workers, each on a thread of its own.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Result<u64>>>,
}

impl Load {
    /// Mixed commands on both servers: single and in pipelines, small and large, over connections that stay and that come
    /// and go. `pause`: between two steps of each worker.
    ///
    /// # Errors
    ///
    /// When a server does not accept a connection.
    pub fn mixed(redis: u16, memcached: u16, pause: Duration) -> Result<Self> {
        let mut load = Self::none();
        for (seed, work) in [
            commands(redis)?,
            pipelines(redis)?,
            transactions(redis)?,
            large(redis)?,
            short(redis),
            text(memcached)?,
            meta(memcached)?,
            short_text(memcached),
        ]
        .into_iter()
        .enumerate()
        {
            load.add(seed as u64, pause, work);
        }
        Ok(load)
    }

    /// Reads and writes of one server: single ones and pipelines.
    ///
    /// # Errors
    ///
    /// When the server does not accept a connection.
    pub fn redis(port: u16, pause: Duration) -> Result<Self> {
        let mut load = Self::none();
        for (seed, work) in [commands(port)?, pipelines(port)?].into_iter().enumerate() {
            load.add(seed as u64, pause, work);
        }
        Ok(load)
    }

    /// GET, nine of ten of which find their key, and one SET in ten: `rate` a second altogether, from `connections` that send `pipeline` of
    /// them at once.
    ///
    /// # Errors
    ///
    /// When the server does not accept a connection.
    pub fn steady(port: u16, rate: u64, connections: u64, pipeline: u64) -> Result<Self> {
        let mut load = Self::none();
        for seed in 0..connections {
            let every = Duration::from_secs(connections * pipeline) / rate as u32;
            load.add(seed, Duration::ZERO, steady(port, every, pipeline)?);
        }
        Ok(load)
    }

    fn none() -> Self {
        Self {
            stop: Arc::new(AtomicBool::new(false)),
            workers: Vec::new(),
        }
    }

    fn add(&mut self, seed: u64, pause: Duration, mut work: Work) {
        let stop = Arc::clone(&self.stop);
        self.workers.push(thread::spawn(move || {
            let mut random = Random::new(seed);
            let mut commands = 0;
            while !stop.load(Ordering::Relaxed) {
                commands += work(&mut random)?;
                thread::sleep(pause);
            }
            Ok(commands)
        }));
    }

    /// Whether a worker has failed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
    }

    /// Stops them, and gives how many commands they sent.
    ///
    /// # Errors
    ///
    /// When a reply was wrong, or a connection failed.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut commands = 0;
        for worker in self.workers {
            let Ok(done) = worker.join() else {
                bail!("a worker has panicked");
            };
            commands += done.context("a worker")?;
        }
        Ok(commands)
    }
}

/// A value that names its key, by what it says and, among the keys of one worker, by its length.
#[must_use]
pub fn value(key: &str) -> Vec<u8> {
    let number: usize = key
        .rsplit(':')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let mut value = format!("={key};").into_bytes();
    value.resize(24 + number, b'.');
    value
}

/// Whether spans that name one key have the length of its value. A reply that was given to another request shows.
///
/// # Errors
///
/// When one has not: the span.
pub fn check_spans(spans: &[Value]) -> Result<()> {
    for span in spans {
        let attributes = &span["attributes"];
        let operation = attributes["db.operation.name"].as_str().unwrap_or_default();
        let (Some(key), Some(size)) = (
            attributes["cache.key"].as_str(),
            attributes["cache.value_size"].as_u64(),
        ) else {
            continue;
        };
        let kinds = ["single:", "batch:", "multi:", "short:", "key:"];
        if matches!(operation, "GET" | "SET") && kinds.iter().any(|kind| key.starts_with(kind)) {
            ensure!(size == value(key).len() as u64, "not its own reply: {span}");
        }
    }
    Ok(())
}

fn expect(redis: &mut Redis, wanted: &Reply) -> Result<()> {
    let reply = redis.reply()?;
    ensure!(reply == *wanted, "{reply:?}, not {wanted:?}");
    Ok(())
}

fn ok() -> Reply {
    Reply::Status("OK".to_owned())
}

/// One command after the other, of many kinds.
fn commands(port: u16) -> Result<Work> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    Ok(Box::new(move |random| {
        let key = format!("single:{}", random.below(KEYS));
        let other = format!("absent:{}", random.below(KEYS));
        redis.send(&encode(&[b"SET", key.as_bytes(), &value(&key)]))?;
        expect(&mut redis, &ok())?;
        redis.send(&encode(&["GET", &key]))?;
        expect(&mut redis, &Reply::Bulk(Some(value(&key))))?;
        redis.send(&encode(&["MGET", &other, &key]))?;
        let both = vec![Reply::Bulk(None), Reply::Bulk(Some(value(&key)))];
        expect(&mut redis, &Reply::Array(both))?;
        for words in [
            &["INCR", "counter"][..],
            &["HSET", "hash", &key, "1"],
            &["HGET", "hash", &other],
            &["LPUSH", "list", &key],
            &["LTRIM", "list", "0", "99"],
            &["LRANGE", "list", "0", "9"],
            &["EXPIRE", &key, "600"],
            &["INCR", "list"],
            &["EVAL", "return {1, KEYS[1]}", "1", &key],
            &["DEL", &other],
        ] {
            redis.command(words)?;
        }
        Ok(13)
    }))
}

/// `pipeline` commands in one send, at fixed times.
fn steady(port: u16, every: Duration, pipeline: u64) -> Result<Work> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    let mut next = Instant::now();
    Ok(Box::new(move |random| {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += every;
        let mut bytes = Vec::new();
        for _ in 0..pipeline {
            let key = format!("user:{}:profile", random.below(KEYS));
            match random.below(10) {
                0 => bytes.extend(encode(&[b"SET", key.as_bytes(), &value(&key)])),
                1 => bytes.extend(encode(&["GET", "user:0:absent"])),
                _ => bytes.extend(encode(&["GET", &key])),
            }
        }
        redis.send(&bytes)?;
        for _ in 0..pipeline {
            redis.reply()?;
        }
        Ok(pipeline)
    }))
}

/// Many commands in one send.
fn pipelines(port: u16) -> Result<Work> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    Ok(Box::new(move |random| {
        let keys: Vec<_> = (0..1 + random.below(100))
            .map(|_| format!("batch:{}", random.below(KEYS)))
            .collect();
        let mut bytes = Vec::new();
        for key in &keys {
            bytes.extend(encode(&[b"SET", key.as_bytes(), &value(key)]));
            bytes.extend(encode(&["GET", key]));
        }
        redis.send(&bytes)?;
        for key in &keys {
            expect(&mut redis, &ok())?;
            expect(&mut redis, &Reply::Bulk(Some(value(key))))?;
        }
        Ok(2 * keys.len() as u64)
    }))
}

/// MULTI and EXEC.
fn transactions(port: u16) -> Result<Work> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    Ok(Box::new(move |random| {
        let key = format!("multi:{}", random.below(KEYS));
        let value = value(&key);
        let set: [&[u8]; 3] = [b"SET", key.as_bytes(), &value];
        let words = [encode(&["MULTI"]), encode(&set), encode(&["GET", &key])];
        redis.send(&[words.concat(), encode(&["EXEC"])].concat())?;
        expect(&mut redis, &ok())?;
        let queued = Reply::Status("QUEUED".to_owned());
        expect(&mut redis, &queued)?;
        expect(&mut redis, &queued)?;
        let told = vec![ok(), Reply::Bulk(Some(value))];
        expect(&mut redis, &Reply::Array(told))?;
        Ok(4)
    }))
}

/// Values beyond what is captured of one call.
fn large(port: u16) -> Result<Work> {
    let mut redis = Redis::connect(("127.0.0.1", port))?;
    Ok(Box::new(move |random| {
        let key = format!("large:{}", random.below(10));
        let value = value(&key).repeat(1 + random.below(2_000) as usize);
        redis.send(&encode(&[b"SET", key.as_bytes(), &value]))?;
        expect(&mut redis, &ok())?;
        redis.send(&encode(&["GET", &key]))?;
        expect(&mut redis, &Reply::Bulk(Some(value)))?;
        Ok(2)
    }))
}

/// A connection for a few commands.
fn short(port: u16) -> Work {
    Box::new(move |random| {
        let mut redis = Redis::connect(("127.0.0.1", port))?;
        let key = format!("short:{}", random.below(KEYS));
        redis.command(&["CLIENT", "SETNAME", "short"])?;
        redis.send(&encode(&[b"SET", key.as_bytes(), &value(&key)]))?;
        expect(&mut redis, &ok())?;
        redis.send(&encode(&["GET", &key]))?;
        expect(&mut redis, &Reply::Bulk(Some(value(&key))))?;
        Ok(3)
    })
}

fn checked(memcached: &mut Memcached, key: &str) -> Result<()> {
    let found = memcached.get(&[key, "absent"])?;
    ensure!(
        found == [(key.to_owned(), value(key))],
        "{key}: {} values",
        found.len()
    );
    Ok(())
}

/// Memcached's classic commands.
fn text(port: u16) -> Result<Work> {
    let mut memcached = Memcached::connect(("127.0.0.1", port))?;
    Ok(Box::new(move |random| {
        let key = format!("text:{}", random.below(KEYS));
        ensure!(memcached.store("set", &key, &value(&key), 600)? == "STORED");
        checked(&mut memcached, &key)?;
        memcached.line("incr number 1")?;
        memcached.line("touch absent 60")?;
        memcached.line("delete absent")?;
        memcached.send(b"set quiet 0 0 5 noreply\r\nhello\r\nget quiet\r\n")?;
        ensure!(memcached.values()?.len() == 1, "what was set is there");
        Ok(7)
    }))
}

/// Memcached's meta commands, some of them quiet.
fn meta(port: u16) -> Result<Work> {
    let mut memcached = Memcached::connect(("127.0.0.1", port))?;
    Ok(Box::new(move |random| {
        let key = format!("meta:{}", random.below(KEYS));
        ensure!(memcached.line(&format!("ms {key} 5\r\nhello"))? == "HD");
        ensure!(memcached.line(&format!("mg {key} s"))? == "HD s5");
        memcached.send(format!("mg absent:{key} v q\r\nmg absent v q\r\nmn\r\n").as_bytes())?;
        memcached.until("MN")?;
        Ok(5)
    }))
}

fn short_text(port: u16) -> Work {
    Box::new(move |random| {
        let mut memcached = Memcached::connect(("127.0.0.1", port))?;
        let key = format!("brief:{}", random.below(KEYS));
        ensure!(memcached.store("set", &key, &value(&key), 0)? == "STORED");
        checked(&mut memcached, &key)?;
        Ok(2)
    })
}
