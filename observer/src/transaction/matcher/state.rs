//! What a connection remembers: changed by replies.

use std::sync::Arc;

use super::super::{Ending, Origin, Transaction};
use super::{Matcher, Nanos, ReplyMode, Subscribed};
use crate::protocol::{Client, Effect, Outcome, Request};
use crate::telemetry::Skipped;

impl Matcher {
    /// A request that has ended, without an outcome, in the state that the connection is in.
    pub(super) fn transaction(
        &self,
        request: Request,
        start: Nanos,
        end: Nanos,
        Origin { position, task }: Origin,
        ending: Ending,
    ) -> Transaction {
        Transaction {
            protocol: self.protocol,
            request,
            outcome: Outcome::default(),
            ending,
            start,
            end,
            database: self.database,
            position,
            client: self.client.clone(),
            task,
            alone: false,
        }
    }

    /// What a reply says of the connection's state.
    pub(super) fn apply(&mut self, request: &mut Request, outcome: &Outcome) {
        let refused = outcome.error.is_some();
        if let Some(said) = request
            .detail
            .as_mut()
            .and_then(|detail| detail.client.take())
        {
            self.introduce(*said, refused);
        }
        if refused {
            return;
        }
        match request.effect {
            Effect::Select(database) => self.database = Some(database),
            Effect::Hello(Some(version)) => self.resp3 = version >= 3,
            Effect::Reset => {
                self.database = Some(0);
                self.reply_mode = ReplyMode::On;
                self.subscribed = Subscribed::default();
                self.resp3 = false;
                let forget = Client {
                    user: Some(String::new()),
                    name: Some(String::new()),
                    ..Client::default()
                };
                self.introduce(forget, false);
            }
            Effect::Stream => self.stream = Some(Skipped::Stream),
            Effect::Replicate => self.stream = Some(Skipped::Replication),
            _ => {}
        }
    }

    /// Takes over what the client has said. Its library is what it says it is also where the server does not know the
    /// command (before 7.2); its user and name are not.
    fn introduce(&mut self, said: Client, refused: bool) {
        fn take(known: &mut Option<String>, said: Option<String>) {
            if let Some(said) = said {
                *known = Some(said).filter(|said| !said.is_empty());
            }
        }
        let mut client = self.client.as_deref().cloned().unwrap_or_default();
        if !refused {
            take(&mut client.user, said.user);
            take(&mut client.name, said.name);
        }
        take(&mut client.library, said.library);
        take(&mut client.library_version, said.library_version);
        self.client = (client != Client::default()).then(|| Arc::new(client));
    }
}
