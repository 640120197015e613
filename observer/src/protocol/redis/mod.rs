//! Redis and its relatives: RESP2, RESP3, inline commands.

mod arguments;
mod command;
mod commands;
mod connection;
mod head;
mod inline;
pub(super) mod mask;
mod options;
mod reply;
mod request;

#[cfg(test)]
mod tests;

pub use reply::ReplyDecoder;
pub use request::RequestDecoder;

/// Most arguments of a request: what the server accepts after authentication (`INT_MAX`, `processMultibulkBuffer` in
/// `redis/src/networking.c`, since 7.0; 1 Mi before). Arguments past the first few only cost counters.
pub const MAX_ARGUMENTS: i64 = i32::MAX as i64;
/// Longest argument or reply string. `proto-max-bulk-len` is 512 MiB by default and can be raised; a length costs no
/// memory here, so the budget only has to tell a length from nonsense.
pub const MAX_STRING: i64 = 1 << 40;
/// Most elements of an aggregate in a reply.
pub const MAX_ELEMENTS: i64 = 1 << 32;
/// Longest inline command (`PROTO_INLINE_MAX_SIZE` in `redis/src/server.h`).
pub const MAX_INLINE: usize = 64 * 1024;
/// Longest line of a reply. Error replies quote at most a few hundred bytes; scripts can return longer ones.
pub const MAX_LINE: u64 = 64 * 1024;
/// Deepest nesting of replies. The deepest of the server's own, COMMAND DOCS, has about ten levels, client libraries
/// stop at 7 to 9 (hiredis before 1.0); each level costs 8 bytes of the decoder.
pub const MAX_DEPTH: usize = 32;

/// Longest command name.
pub(super) const MAX_NAME: usize = commands::MAX_NAME;

/// Whether a command of this name is in the table.
pub(super) fn is_command(name: &[u8]) -> bool {
    commands::find(name).is_some()
}

/// Name of a row of the command table.
#[cfg(any(test, fuzzing))]
pub(super) fn command_name(row: usize) -> Option<&'static str> {
    commands::COMMANDS.get(row).map(|command| command.name)
}
