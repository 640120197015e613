//! CLIENT REPLY: which requests the server answers.

use crate::protocol::{Answer, Effect, Request};

/// Whether the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyMode {
    On,
    /// Not the next request, then on.
    SkipNext,
    Off,
}

impl ReplyMode {
    /// Whether the server will answer, given what the client has asked of it.
    pub(super) fn answers(&mut self, request: &Request) -> bool {
        match request.effect {
            Effect::ReplyOn => {
                *self = ReplyMode::On;
                return true;
            }
            Effect::ReplyOff => {
                *self = ReplyMode::Off;
                return false;
            }
            Effect::ReplySkip if *self != ReplyMode::Off => {
                *self = ReplyMode::SkipNext;
                return false;
            }
            _ => {}
        }
        match *self {
            ReplyMode::On => request.answer != Answer::None,
            ReplyMode::SkipNext => {
                *self = ReplyMode::On;
                false
            }
            ReplyMode::Off => false,
        }
    }
}
