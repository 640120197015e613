//! Where bytes come from: [`event`] is what every source delivers, [`address`] where.
//!
//! - [`live`]: the kernel programs of this host.
//! - [`replay`]: capture files; [`recording`]: events that were written to a file.
//! - [`sockets`]: connections from before the start; [`unix`]: the same of unix sockets, and which ones servers listen on.
//! - [`record`]: what they send; [`layout`], [`btf`]: what they must know of this kernel.
//! - [`backend`], [`kprobe`], [`hooks_unix`]: how they are attached; [`preflight`], [`capability`]: whether they may be.
//! - [`confine`]: what is given up once they are; [`surroundings`]: what of the host is seen from a container.

pub mod address;
pub mod backend;
pub mod btf;
pub mod capability;
pub mod confine;
mod counters;
pub mod event;
mod filter;
mod hooks_unix;
mod kprobe;
mod layout;
pub mod live;
mod memory;
pub mod preflight;
pub mod record;
pub mod recording;
pub mod replay;
pub mod sockets;
pub mod surroundings;
pub mod unix;
mod wait;
