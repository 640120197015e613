//! Messages and subscriptions of a RESP2 connection, which come as arrays.

use crate::protocol::Reply;

/// What a RESP2 connection is subscribed to: the server counts channels and patterns together, shard channels apart
/// (`redis/src/pubsub.c`, `addReplyPubsubSubscribed`).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Subscribed {
    channels: bool,
    shards: bool,
}

impl Subscribed {
    pub(super) fn any(self) -> bool {
        self.channels || self.shards
    }

    /// A confirmation ends with the number of subscriptions left.
    pub(super) fn confirm(&mut self, confirmation: &Reply) {
        let left = confirmation.zeros == 0;
        match confirmation.word.as_str() {
            "SSUBSCRIBE" | "SUNSUBSCRIBE" => self.shards = left,
            _ => self.channels = left,
        }
    }
}

pub(super) fn is_message(reply: &Reply) -> bool {
    matches!(reply.word.as_str(), "MESSAGE" | "PMESSAGE" | "SMESSAGE")
}

pub(super) fn is_confirmation(reply: &Reply) -> bool {
    matches!(
        reply.word.as_str(),
        "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE"
    )
}
