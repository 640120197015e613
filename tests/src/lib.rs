//! What the tests share: real servers and clients, the built observer, a collector, a
//! Prometheus, network namespaces.
//!
//! Everything that a test starts is stopped when its value is dropped. Nothing is skipped: a program or a
//! privilege that is missing is an error, which names the command that provides it.

pub mod capture;
pub mod cgroup;
pub mod client;
pub mod collector;
pub mod commands;
pub mod container;
pub mod coverage;
pub mod load;
pub mod machine;
pub mod memcached;
pub mod namespace;
pub mod observer;
pub mod pair;
pub mod pool;
pub mod process;
pub mod prometheus;
pub mod random;
pub mod recording;
pub mod relay;
pub mod scrape;
pub mod secrets;
pub mod server;
pub mod statistics;
pub mod topology;
pub mod traffic;
