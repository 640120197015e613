//! The crate redis.

use anyhow::{Context, Result, ensure};
use redis::{AsyncCommands, Client, Commands, Connection, Pipeline, Script, pipe};

use crate::told::Told;

fn value(length: usize) -> String {
    "v".repeat(length)
}

fn client(port: u16, resp3: bool) -> Result<Client> {
    let protocol = if resp3 { "?protocol=resp3" } else { "" };
    Ok(Client::open(format!(
        "redis://127.0.0.1:{port}/{protocol}"
    ))?)
}

/// One thread, one connection.
pub(crate) fn blocking(port: u16, resp3: bool) -> Result<Told> {
    let mut told = Told::new();
    let client = client(port, resp3)?;
    let mut redis = client.get_connection()?;
    plain(&mut redis, &mut told)?;
    for atomic in [false, true] {
        for round in 1..=10 {
            let keys: Vec<_> = (1..=20)
                .map(|n| format!("key:{round}:{}", n * 19))
                .collect();
            let pipeline = pipeline(&keys, atomic);
            let answers: Vec<Option<String>> = pipeline.query(&mut redis)?;
            check(&answers)?;
            told.hit("GET", 20);
            told.miss("GET", 20);
            told.batch(if atomic { "MULTI" } else { "PIPELINE" }, 60);
        }
    }
    let script = Script::new("return redis.call('get', KEYS[1])");
    for n in 1..=10 {
        let found: String = script.key(format!("key:{n}")).invoke(&mut redis)?;
        ensure!(found.len() == n);
        told.script("GET", 1);
    }
    let mut listening = client.get_connection()?;
    let mut listener = listening.as_pubsub();
    listener.subscribe("news")?;
    for n in 1..=50 {
        let _: i64 = redis.publish("news", value(n))?;
        ensure!(listener.get_message()?.get_payload_bytes().len() == n);
        told.push();
    }
    listener.unsubscribe("news")?;
    Ok(told)
}

/// Ten thousand commands in one send, twice.
pub(crate) fn ten_thousand(port: u16, resp3: bool) -> Result<Told> {
    let mut told = Told::new();
    let mut redis = client(port, resp3)?.get_connection()?;
    let length = |n: usize| 1 + n * 7919 % 509;
    let key = |n: usize| format!("key:{n}:{}", length(n));
    let (mut set, mut get) = (pipe(), pipe());
    for n in 0..10_000 {
        set.set(key(n), value(length(n))).ignore();
        get.get(key(n));
    }
    let () = set.query(&mut redis)?;
    let found: Vec<String> = get.query(&mut redis)?;
    ensure!((0..10_000).all(|n| found[n].len() == length(n)));
    told.hit("GET", 10_000);
    plain(&mut redis, &mut told)?;
    Ok(told)
}

fn plain(redis: &mut Connection, told: &mut Told) -> Result<()> {
    for n in 1..=200 {
        let key = format!("key:{n}");
        let () = redis.set_ex(&key, value(n), 600)?;
        let found: String = redis.get(&key)?;
        ensure!(found.len() == n);
        let absent: Option<String> = redis.get(format!("absent:{n}"))?;
        ensure!(absent.is_none());
        told.hit("GET", 1);
        told.miss("GET", 1);
    }
    let found: Vec<Option<String>> = redis.mget(&["key:3", "absent:1", "key:50"])?;
    ensure!(found == [Some(value(3)), None, Some(value(50))]);
    told.hit("MGET", 2);
    told.miss("MGET", 1);
    let pushed: redis::RedisResult<i64> = redis.lpush("key:1", "x");
    ensure!(pushed.is_err());
    let scanned = redis.scan_match::<_, String>("key:*")?.count();
    ensure!(scanned >= 200);
    Ok(())
}

/// Each key is set and read, and one that is absent.
fn pipeline(keys: &[String], atomic: bool) -> Pipeline {
    let mut pipeline = pipe();
    if atomic {
        pipeline.atomic();
    }
    for key in keys {
        let length = key.rsplit(':').next().and_then(|end| end.parse().ok());
        pipeline.set(key, value(length.unwrap_or(0))).ignore();
        pipeline.get(key).get(format!("absent:{key}"));
    }
    pipeline
}

fn check(answers: &[Option<String>]) -> Result<()> {
    for (index, pair) in answers.chunks(2).enumerate() {
        let length = pair[0].as_ref().context("a value")?.len();
        ensure!(length == (index + 1) * 19 && pair[1].is_none());
    }
    Ok(())
}

/// Tasks on several threads that share one connection, and then pipelines on it. Each task waits for each reply.
pub(crate) fn multiplexed(port: u16, resp3: bool) -> Result<Told> {
    let mut told = Told::new();
    let client = client(port, resp3)?;
    crate::runtime()?.block_on(async {
        let redis = client.get_multiplexed_async_connection().await?;
        let tasks = (1..=crate::TASKS).map(|task| {
            let mut redis = redis.clone();
            tokio::spawn(async move {
                for (key, length) in crate::keys_of(task) {
                    let () = redis.set(&key, value(length)).await?;
                    let found: String = redis.get(&key).await?;
                    ensure!(found.len() == length);
                    let absent: Option<String> = redis.get(format!("absent:{task}:1")).await?;
                    ensure!(absent.is_none());
                }
                Ok(())
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await??;
            told.hit("GET", crate::KEYS);
            told.miss("GET", crate::KEYS);
        }
        anyhow::Ok(())
    })?;
    told.unordered();
    Ok(told)
}

/// Pipelines on an asynchronous connection that is not shared.
pub(crate) fn asynchronous(port: u16, resp3: bool) -> Result<Told> {
    let mut told = Told::new();
    let client = client(port, resp3)?;
    crate::runtime()?.block_on(async {
        let mut redis = client.get_multiplexed_async_connection().await?;
        for atomic in [false, true] {
            for round in 1..=10 {
                let keys: Vec<_> = (1..=20)
                    .map(|n| format!("key:{round}:{}", n * 19))
                    .collect();
                let pipeline = pipeline(&keys, atomic);
                let answers: Vec<Option<String>> = pipeline.query_async(&mut redis).await?;
                check(&answers)?;
                told.hit("GET", 20);
                told.miss("GET", 20);
                told.batch(if atomic { "MULTI" } else { "PIPELINE" }, 60);
            }
        }
        anyhow::Ok(())
    })?;
    Ok(told)
}
