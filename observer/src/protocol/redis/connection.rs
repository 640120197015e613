//! What a request does to its connection, and what it says of its client.

use super::super::message::{Answer, Client, Effect, Request};
use super::super::text::printable;
use super::arguments::Arguments;
use super::commands::Special;

/// The user of AUTH with a password alone (`redis/src/acl.c`, `authCommand`).
const DEFAULT_USER: &str = "default";

/// Fills in what is special about a command.
pub(super) fn interpret(special: Special, arguments: &Arguments, request: &mut Request) {
    let total = arguments.count();
    match special {
        Special::No => {}
        Special::Select => {
            let index = arguments.integer(1);
            if let Some(database) = index.and_then(|index| u32::try_from(index).ok()) {
                request.effect = Effect::Select(database);
            }
        }
        Special::Multi => request.effect = Effect::Multi,
        Special::EndMulti => request.effect = Effect::EndMulti,
        Special::Reset => request.effect = Effect::Reset,
        Special::Stream => request.effect = Effect::Stream,
        Special::Replicate => request.effect = Effect::Replicate,
        // Sent on a link that replicates already, and never answered.
        Special::Replica if arguments.is_word(1, b"ACK") => {
            (request.effect, request.answer) = (Effect::Replicate, Answer::None);
        }
        Special::Replica => request.effect = Effect::Replica,
        Special::Quit => request.effect = Effect::Quit,
        Special::Subscribe => {
            // Without channels, UNSUBSCRIBE answers once for each channel there is; one is what can be known here.
            let channels = total.saturating_sub(1).max(1);
            request.answer = Answer::Subscriptions(u32::try_from(channels).unwrap_or(u32::MAX));
        }
        Special::Client => client(arguments, request),
        Special::Auth => match total {
            2 => say(request, |client| {
                client.user = Some(DEFAULT_USER.to_owned())
            }),
            3 => say(request, |client| client.user = Some(name(arguments, 1))),
            _ => {}
        },
        Special::Hello => hello(arguments, request),
    }
}

/// What an argument says that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// A word or number that decides what happens.
    Word,
    /// A user.
    User,
    /// The name of a client or its library.
    Client,
}

/// The arguments that [`interpret`] reads, of `total` that there will be.
pub(super) fn words(
    special: Special,
    arguments: &Arguments,
    total: u64,
    said: &mut dyn FnMut(usize, Said),
) {
    let word = |index, expected: &[u8]| arguments.is_word(index, expected);
    match special {
        Special::Select | Special::Hello if arguments.integer(1).is_some() => said(1, Said::Word),
        Special::Replica if word(1, b"ACK") => said(1, Said::Word),
        Special::Auth if total == 3 => said(1, Said::User),
        Special::Client if total == 3 && word(1, b"REPLY") => {
            said(1, Said::Word);
            if word(2, b"ON") || word(2, b"OFF") || word(2, b"SKIP") {
                said(2, Said::Word);
            }
        }
        Special::Client if total == 3 && word(1, b"SETNAME") => {
            said(1, Said::Word);
            said(2, Said::Client);
        }
        Special::Client if total == 4 && word(1, b"SETINFO") => {
            said(1, Said::Word);
            if word(2, b"LIB-NAME") || word(2, b"LIB-VER") {
                said(2, Said::Word);
                said(3, Said::Client);
            }
        }
        _ => {}
    }
    if special == Special::Hello {
        let mut at = 2;
        while at < arguments.kept() {
            if word(at, b"AUTH") {
                said(at, Said::Word);
                said(at + 1, Said::User);
                at += 3;
            } else if word(at, b"SETNAME") {
                said(at, Said::Word);
                said(at + 1, Said::Client);
                at += 2;
            } else {
                return;
            }
        }
    }
}

/// HELLO [version [AUTH user password] [SETNAME name]] (`redis/src/networking.c`, `helloCommand`).
fn hello(arguments: &Arguments, request: &mut Request) {
    let version = arguments.integer(1);
    request.effect = Effect::Hello(version.and_then(|version| u8::try_from(version).ok()));
    let mut at = 2;
    while at < arguments.kept() {
        if arguments.is_word(at, b"AUTH") {
            say(request, |client| {
                client.user = Some(name(arguments, at + 1))
            });
            at += 3;
        } else if arguments.is_word(at, b"SETNAME") {
            say(request, |client| {
                client.name = Some(name(arguments, at + 1))
            });
            at += 2;
        } else {
            // The server refuses anything else.
            return;
        }
    }
}

/// CLIENT REPLY, SETNAME, SETINFO (`redis/src/networking.c`, `clientCommand`). REPLY OFF and SKIP are not answered.
fn client(arguments: &Arguments, request: &mut Request) {
    let word = |index, expected| arguments.is_word(index, expected);
    match arguments.count() {
        3 if word(1, b"REPLY") => {
            if word(2, b"ON") {
                request.effect = Effect::ReplyOn;
            } else if word(2, b"OFF") {
                (request.effect, request.answer) = (Effect::ReplyOff, Answer::None);
            } else if word(2, b"SKIP") {
                (request.effect, request.answer) = (Effect::ReplySkip, Answer::None);
            }
        }
        3 if word(1, b"SETNAME") => {
            say(request, |client| client.name = Some(name(arguments, 2)));
        }
        4 if word(1, b"SETINFO") && word(2, b"LIB-NAME") => {
            say(request, |client| client.library = Some(name(arguments, 3)));
        }
        4 if word(1, b"SETINFO") && word(2, b"LIB-VER") => {
            say(request, |client| {
                client.library_version = Some(name(arguments, 3))
            });
        }
        _ => {}
    }
}

/// Notes what the request says of its client, where that is wanted.
fn say(request: &mut Request, what: impl FnOnce(&mut Client)) {
    if let Some(detail) = &mut request.detail {
        what(detail.client.get_or_insert_default());
    }
}

/// A name; empty, which takes back the one before, when it is not known whole.
fn name(arguments: &Arguments, index: usize) -> String {
    printable(arguments.whole(index).unwrap_or_default())
}
