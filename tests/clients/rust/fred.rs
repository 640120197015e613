//! The crate fred: one connection for a client, shared by all who clone it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fred::prelude::*;
use fred::types::{Expiration, RespVersion};
use tokio::time::timeout;

use crate::told::Told;

fn value(length: usize) -> String {
    "v".repeat(length)
}

async fn connect(port: u16, version: RespVersion) -> Result<Client> {
    let config = Config {
        server: ServerConfig::new_centralized("127.0.0.1", port),
        version,
        ..Config::default()
    };
    let client = Builder::from_config(config).build()?;
    client.init().await?;
    Ok(client)
}

/// One command after the other, pipelines, transactions, messages.
pub(crate) fn alone(port: u16, version: RespVersion) -> Result<Told> {
    let mut told = Told::new();
    crate::runtime()?.block_on(async {
        let redis = connect(port, version.clone()).await?;
        for n in 1..=200_usize {
            let key = format!("key:{n}");
            let () = redis
                .set(&key, value(n), Some(Expiration::EX(600)), None, false)
                .await?;
            let found: String = redis.get(&key).await?;
            ensure!(found.len() == n);
            let absent: Option<String> = redis.get(format!("absent:{n}")).await?;
            ensure!(absent.is_none());
            told.hit("GET", 1);
            told.miss("GET", 1);
        }
        let () = redis.hset("hash", [("one", "1"), ("two", "22")]).await?;
        let found: String = redis.hget("hash", "two").await?;
        ensure!(found == "22");
        told.hit("HGET", 1);
        for round in 1..=10 {
            pipeline(&redis, round, &mut told).await?;
            multi(&redis, round, &mut told).await?;
        }
        let listener = connect(port, version).await?;
        let mut messages = listener.message_rx();
        let () = listener.subscribe("news").await?;
        // fred does not wait for the server's confirmation: it is there when a message reaches somebody.
        while redis.publish::<i64, _, _>("news", "").await? == 0 {}
        let limit = Duration::from_secs(20);
        timeout(limit, messages.recv()).await??;
        told.push();
        for n in 1..=50 {
            let _: i64 = redis.publish("news", value(n)).await?;
            let message = timeout(limit, messages.recv()).await??;
            ensure!(message.value.as_bytes().context("a text")?.len() == n);
            told.push();
        }
        let () = listener.unsubscribe("news").await?;
        // Nor here. It does not wait for the reply to QUIT either, which is why that is not sent.
        let () = listener.ping(None).await?;
        anyhow::Ok(())
    })?;
    Ok(told)
}

async fn pipeline(redis: &Client, round: usize, told: &mut Told) -> Result<()> {
    let pipeline = redis.pipeline();
    for n in 1..=20 {
        let key = format!("key:pipeline:{round}:{}", n * 23);
        let () = pipeline.set(&key, value(n * 23), None, None, false).await?;
        let () = pipeline.get(&key).await?;
    }
    let answers: Vec<String> = pipeline.all().await?;
    ensure!((1..=20).all(|n| answers[n * 2 - 1].len() == n * 23));
    told.hit("GET", 20);
    // Each command of a pipeline leaves in a send of its own, which makes no batch.
    Ok(())
}

async fn multi(redis: &Client, round: usize, told: &mut Told) -> Result<()> {
    let multi = redis.multi();
    for n in 1..=20 {
        let key = format!("key:multi:{round}:{}", n * 29);
        let () = multi.set(&key, value(n * 29), None, None, false).await?;
        let () = multi.get(&key).await?;
    }
    let answers: Vec<String> = multi.exec(true).await?;
    ensure!((1..=20).all(|n| answers[n * 2 - 1].len() == n * 29));
    told.hit("GET", 20);
    told.batch("MULTI", 40);
    Ok(())
}

/// Tasks on several threads that share one connection. Each waits for each reply.
pub(crate) fn multiplexed(port: u16, version: RespVersion) -> Result<Told> {
    let mut told = Told::new();
    crate::runtime()?.block_on(async {
        let redis = connect(port, version).await?;
        let tasks = (1..=crate::TASKS).map(|task| {
            let redis = redis.clone();
            tokio::spawn(async move {
                for (key, length) in crate::keys_of(task) {
                    let () = redis.set(&key, value(length), None, None, false).await?;
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
