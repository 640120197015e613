//! Memcached. The classic text dialect is decoded; meta commands and the binary protocol are recognised, and refused.

pub mod text;
