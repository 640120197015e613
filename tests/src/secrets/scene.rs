//! A request and its reply on a connection of their own, played whole and damaged.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;

use crate::capture::{Capture, Side};

/// How a message is damaged, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// In two segments.
    Cut,
    /// What follows is lost.
    Lost,
    /// What follows was on the wire, but was not captured.
    Uncaptured,
    /// So many bytes from there on are lost.
    Hole(usize),
    /// The connection ends there.
    Ended,
    /// The connection is broken off there.
    Reset,
    /// The capture begins there.
    Joined,
}

/// All of them.
pub(super) const EVERY: &[Damage] = &[
    Damage::Cut,
    Damage::Lost,
    Damage::Uncaptured,
    Damage::Hole(1),
    Damage::Hole(5),
    Damage::Hole(25),
    Damage::Ended,
    Damage::Reset,
    Damage::Joined,
];

/// Longer than a connection has to be quiet for what was found on it to be believed.
pub(super) const QUIET: Duration = Duration::from_millis(15);

/// A request and its reply, and who is damaged.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) server: SocketAddrV4,
    pub(super) request: Vec<u8>,
    pub(super) reply: Vec<u8>,
    pub(super) damaged: Side,
    pub(super) damages: &'static [Damage],
    /// The first place of a damage.
    pub(super) from: usize,
    /// Sent afterwards, with its reply, to see that all goes on.
    pub(super) after: (Vec<u8>, Vec<u8>),
}

impl Scene {
    /// Plays it whole.
    pub(super) fn whole(&self, capture: &mut Capture) -> Result<()> {
        self.play(capture, Damage::Cut, 0)
    }

    /// Plays it with each damage at each place.
    pub(super) fn damaged(&self, capture: &mut Capture) -> Result<()> {
        let length = match self.damaged {
            Side::Client => self.request.len(),
            Side::Server => self.reply.len(),
        };
        for damage in self.damages {
            for at in self.from..length {
                self.play(capture, *damage, at)?;
            }
        }
        Ok(())
    }

    fn play(&self, capture: &mut Capture, damage: Damage, at: usize) -> Result<()> {
        let (before, rest, other) = match self.damaged {
            Side::Client => (&[][..], &self.request, &self.reply),
            Side::Server => (&self.request[..], &self.reply, &[][..].to_vec()),
        };
        let side = self.damaged;
        let (first, second) = rest.split_at(at);
        let mut connection = match damage {
            Damage::Joined => capture.join(self.server),
            _ => capture.connect(self.server)?,
        };
        if damage != Damage::Joined {
            connection.send(Side::Client, before)?;
        }
        match damage {
            Damage::Cut => {
                connection.send(side, first)?;
                connection.send(side, second)?;
            }
            Damage::Lost => {
                connection.send(side, first)?;
                connection.lose(side, second.len());
            }
            Damage::Uncaptured => connection.send_cut(side, rest, second.len())?,
            Damage::Hole(length) => {
                connection.send(side, first)?;
                let lost = second.len().min(length);
                connection.lose(side, lost);
                connection.send(side, &second[lost..])?;
            }
            Damage::Ended => {
                connection.send(side, first)?;
                return connection.close();
            }
            Damage::Reset => {
                connection.send(side, first)?;
                return connection.reset(side);
            }
            Damage::Joined => connection.send(side, second)?,
        }
        connection.send(Side::Server, other)?;
        connection.pause(QUIET);
        connection.send(Side::Client, &self.after.0)?;
        connection.send(Side::Server, &self.after.1)?;
        connection.pause(QUIET);
        connection.close()
    }
}

/// Servers of their own, so that a span tells the scene it belongs to.
pub(super) fn server(number: usize, port: u16) -> SocketAddrV4 {
    let [_, _, high, low] = (number as u32).to_be_bytes();
    SocketAddrV4::new([10, 1, high, low].into(), port)
}
