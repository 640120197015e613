//! What a client says before its connection is ready: who it is, which database, and a test whether it works.
//!
//! The set-up is what comes first, each command within [`PAUSE`] of the one before. So a PING with which a pool tests a
//! connection that it opened long ago is none.

use crate::protocol::Request;
use crate::source::event::Nanos;

/// The longest pause within a set-up, nanoseconds: libraries send its commands at once or one after the other.
const PAUSE: Nanos = 100_000_000;

/// Commands that set a connection up. INFO and ROLE: libraries ask whether the server has loaded its data, and whether it
/// is a master.
const COMMANDS: [&str; 15] = [
    "AUTH",
    "CLIENT",
    "ECHO",
    "HELLO",
    "INFO",
    "MN",
    "NOOP",
    "PING",
    "READONLY",
    "ROLE",
    "SASL_AUTH",
    "SASL_LIST_MECHS",
    "SASL_STEP",
    "SELECT",
    "VERSION",
];

/// The end of a set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// When the connection was established, or its last reply came.
    pub time: Nanos,
    /// Its commands.
    pub commands: u32,
}

/// A set-up that is not known to be over.
#[derive(Debug)]
pub(super) struct Setup {
    ready: Ready,
    outstanding: usize,
    /// Another command was sent.
    over: bool,
}

impl Setup {
    /// Of a connection that was established at `time`.
    pub(super) fn new(time: Nanos) -> Self {
        Self {
            ready: Ready { time, commands: 0 },
            outstanding: 0,
            over: false,
        }
    }

    /// A request is sent. Answers whether it belongs to the set-up.
    pub(super) fn request(&mut self, request: &Request, started: Nanos) -> bool {
        let paused = self.outstanding == 0 && started.saturating_sub(self.ready.time) > PAUSE;
        self.over |= paused || !COMMANDS.contains(&request.operation.name());
        if !self.over {
            self.ready.commands += 1;
        }
        !self.over
    }

    /// This many replies are awaited to requests of the set-up.
    pub(super) fn sent(&mut self, count: usize) {
        self.outstanding += count;
    }

    /// This many requests have their replies. Those of the set-up are the first.
    pub(super) fn replied(&mut self, count: usize, time: Nanos) {
        if count > 0 && self.outstanding > 0 {
            self.outstanding = self.outstanding.saturating_sub(count);
            self.ready.time = time;
        }
    }

    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding > 0
    }

    /// When it was over, if it is at `now`. A connection that ends then says no more.
    pub(super) fn ready(&self, now: Nanos, ends: bool) -> Option<Ready> {
        let over = self.over || ends || now.saturating_sub(self.ready.time) > PAUSE;
        (over && self.outstanding == 0).then_some(self.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Class, Operation, Word};

    const MS: Nanos = 1_000_000;

    fn say(setup: &mut Setup, name: &str, at: Nanos, reply: Nanos) {
        let operation = Operation::Other(Word::new(name.as_bytes()));
        if setup.request(&Request::new(operation, Class::Other), at) {
            setup.sent(1);
        }
        setup.replied(1, reply);
    }

    #[test]
    fn a_set_up_ends_with_another_command_or_a_pause() {
        let mut setup = Setup::new(10 * MS);
        assert_eq!(setup.ready(20 * MS, false), None);
        say(&mut setup, "HELLO", 11 * MS, 12 * MS);
        say(&mut setup, "PING", 13 * MS, 15 * MS);
        assert_eq!(setup.ready(16 * MS, false), None);
        let ready = Some(Ready {
            time: 15 * MS,
            commands: 2,
        });
        assert_eq!(setup.ready(16 * MS, true), ready);
        assert_eq!(setup.ready(116 * MS, false), ready);
        say(&mut setup, "GET", 17 * MS, 18 * MS);
        assert_eq!(setup.ready(18 * MS, false), ready);
    }

    #[test]
    fn a_late_test_is_no_set_up() {
        let mut setup = Setup::new(10 * MS);
        say(&mut setup, "PING", 500 * MS, 501 * MS);
        let ready = Some(Ready {
            time: 10 * MS,
            commands: 0,
        });
        assert_eq!(setup.ready(501 * MS, false), ready);
    }

    #[test]
    fn what_is_sent_together_waits_for_the_replies_of_the_set_up() {
        let mut setup = Setup::new(10 * MS);
        for name in ["AUTH", "SELECT", "GET"] {
            let operation = Operation::Other(Word::new(name.as_bytes()));
            if setup.request(&Request::new(operation, Class::Other), 11 * MS) {
                setup.sent(1);
            }
        }
        setup.replied(1, 12 * MS);
        assert_eq!(setup.ready(12 * MS, false), None);
        setup.replied(2, 13 * MS);
        let ready = Ready {
            time: 13 * MS,
            commands: 2,
        };
        assert_eq!(setup.ready(13 * MS, false), Some(ready));
    }
}
