//! What the kernel programs count.

use aya::maps::{MapData, PerCpuArray};
use observer_ebpf::{counter, lane};

use super::live::LiveError;
use crate::telemetry::{Lost, Telemetry};

/// The programs that see sends.
const SENDS: [u32; 5] = [
    lane::SEND,
    lane::SEND_UDP_4,
    lane::SEND_UDP_6,
    lane::SEND_UNIX,
    lane::PAGE_UNIX,
];

/// Totals that the kernel programs keep, over all CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelCounters {
    /// Calls that sent payload on a watched port.
    pub sends: u64,
    /// Their bytes.
    pub send_bytes: u64,
    /// Calls that received payload on a watched port.
    pub receives: u64,
    /// Their bytes.
    pub receive_bytes: u64,
    /// Records that found the ring full.
    pub ring_full: u64,
    /// Stream bytes that they stood for.
    pub ring_full_bytes: u64,
    /// Stream bytes of calls whose buffer cannot be read at the hook.
    pub unreadable_bytes: u64,
    /// Stream bytes whose buffer was not mapped.
    pub fault_bytes: u64,
    /// Sends whose start could not be kept; their end is taken for it.
    pub starts_lost: u64,
    /// Calls whose end was not seen, or that there was no room to follow.
    pub missed: u64,
    /// Changes of connections' states.
    pub states: u64,
    /// Of `ring_full`, those of changes of state.
    pub states_lost: u64,
    /// Of `ring_full_bytes`, those that were sent.
    pub send_bytes_lost: u64,
}

/// Adds up the counters of all CPUs.
pub(super) fn total(
    counters: &PerCpuArray<MapData, [u64; counter::COUNT]>,
) -> Result<KernelCounters, LiveError> {
    let mut sum = [0u64; counter::COUNT];
    let mut send_bytes_lost = 0;
    for lane in 0..lane::COUNT {
        let cpus = counters
            .get(&lane, 0)
            .map_err(|error| LiveError::Counters(Box::new(error)))?;
        for values in cpus.iter() {
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += value;
            }
            if SENDS.contains(&lane) {
                send_bytes_lost += values[counter::RING_FULL_BYTES];
            }
        }
    }
    Ok(KernelCounters {
        sends: sum[counter::SENDS],
        send_bytes: sum[counter::SEND_BYTES],
        receives: sum[counter::RECEIVES],
        receive_bytes: sum[counter::RECEIVE_BYTES],
        ring_full: sum[counter::RING_FULL],
        ring_full_bytes: sum[counter::RING_FULL_BYTES],
        unreadable_bytes: sum[counter::UNREADABLE_BYTES],
        fault_bytes: sum[counter::FAULT_BYTES],
        starts_lost: sum[counter::STARTS_LOST],
        missed: sum[counter::MISSED],
        states: sum[counter::STATES],
        states_lost: sum[counter::STATES_LOST],
        send_bytes_lost,
    })
}

/// Copies what the kernel programs counted to the telemetry.
pub(super) fn tell(counters: &KernelCounters, misses: u64, telemetry: &Telemetry) {
    telemetry.lost(Lost::RingFull).set(counters.ring_full);
    telemetry
        .lost(Lost::Recursion)
        .set(misses + counters.missed);
    let received_lost = counters.ring_full_bytes - counters.send_bytes_lost;
    let ledger = &telemetry.ledger;
    for (way, seen, lost) in [
        (&ledger.sent, counters.send_bytes, counters.send_bytes_lost),
        (&ledger.received, counters.receive_bytes, received_lost),
        (&ledger.states, counters.states, counters.states_lost),
    ] {
        way.seen.set(seen);
        way.ring_full.set(lost);
    }
}
