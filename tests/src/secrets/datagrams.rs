//! Memcached over UDP: what is said over TCP, in datagrams with a header of their own, which are lost, swapped and cut.

use std::net::SocketAddrV4;

use anyhow::Result;

use super::memcached::{TEXT, binary, filled, harmless};
use super::scene::{QUIET, server};
use crate::capture::{Association, Capture, Side};

/// What becomes of a message of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// In two datagrams.
    Cut,
    /// In two, of which the second comes first.
    Swapped,
    /// In two, of which the second is lost.
    First,
    /// In two, of which the first is lost.
    Second,
    /// The sender ends it there.
    Short,
    /// What follows was on the wire, but was not captured.
    Uncaptured,
    /// It begins there, without a header.
    Bare,
}

const DAMAGES: [Damage; 7] = [
    Damage::Cut,
    Damage::Swapped,
    Damage::First,
    Damage::Second,
    Damage::Short,
    Damage::Uncaptured,
    Damage::Bare,
];

/// The header: request's number, the datagram's number, how many there are.
fn datagram(id: u16, number: u16, count: u16, body: &[u8]) -> Vec<u8> {
    let words = [id, number, count, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend(body);
    bytes
}

/// Request, reply, and who is damaged.
#[derive(Debug)]
struct Scene {
    server: SocketAddrV4,
    messages: [Vec<u8>; 2],
    damaged: Side,
    after: (Vec<u8>, Vec<u8>),
}

impl Scene {
    fn play(&self, capture: &mut Capture, damage: Damage, at: usize) -> Result<()> {
        let mut ends = capture.associate(self.server);
        for side in [Side::Client, Side::Server] {
            let message = &self.messages[side as usize];
            if side == self.damaged {
                send(&mut ends, side, message, damage, at)?;
            } else if !message.is_empty() {
                ends.send(side, &datagram(1, 0, 1, message), 0)?;
            }
        }
        ends.pause(QUIET);
        ends.send(Side::Client, &datagram(2, 0, 1, &self.after.0), 0)?;
        ends.send(Side::Server, &datagram(2, 0, 1, &self.after.1), 0)?;
        ends.pause(QUIET);
        Ok(())
    }
}

fn send(
    ends: &mut Association<'_>,
    side: Side,
    message: &[u8],
    damage: Damage,
    at: usize,
) -> Result<()> {
    let (first, second) = message.split_at(at);
    let parts = [datagram(1, 0, 2, first), datagram(1, 1, 2, second)];
    match damage {
        Damage::Cut => {
            ends.send(side, &parts[0], 0)?;
            ends.send(side, &parts[1], 0)
        }
        Damage::Swapped => {
            ends.send(side, &parts[1], 0)?;
            ends.send(side, &parts[0], 0)
        }
        Damage::First => ends.send(side, &parts[0], 0),
        Damage::Second => ends.send(side, &parts[1], 0),
        Damage::Short => ends.send(side, &datagram(1, 0, 1, first), 0),
        Damage::Uncaptured => ends.send(side, &datagram(1, 0, 1, message), second.len()),
        Damage::Bare => ends.send(side, second, 0),
    }
}

/// Plays everything whole, and with every damage at every place if `everywhere`.
pub(super) fn play(capture: &mut Capture, everywhere: bool) -> Result<()> {
    let [text, binary_after] = harmless();
    let told = TEXT
        .iter()
        .map(|(request, reply)| ([filled(request), filled(reply)], &text))
        .chain(
            binary()
                .into_iter()
                .map(|(request, reply)| ([request, reply], &binary_after)),
        );
    for (number, (messages, after)) in told.enumerate() {
        for damaged in [Side::Client, Side::Server] {
            let length = messages[damaged as usize].len();
            let scene = Scene {
                // Behind those of TCP.
                server: server(0x8000 + number, 11211),
                messages: messages.clone(),
                damaged,
                after: after.clone(),
            };
            scene.play(capture, Damage::Short, length)?;
            if everywhere {
                for damage in DAMAGES {
                    for at in 1..length {
                        scene.play(capture, damage, at)?;
                    }
                }
            }
        }
    }
    Ok(())
}
