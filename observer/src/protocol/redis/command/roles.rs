//! What of each argument may be kept where a stream is masked: what a span would show of it, and what decides how it is read.

use super::super::super::mask::Names;
use super::super::arguments::MAX_KEPT;
use super::super::commands::{Ttl, find};
use super::super::connection;
use super::{Arguments, Notes, Walk};

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Role {
    /// Nothing that is kept.
    Hidden,
    /// Kept as it is.
    Word,
    /// A key.
    Key,
    /// The name of a command that the table does not know.
    Operation,
}

/// The role of each argument of a request that is kept one by one, the name's included.
#[derive(Debug)]
pub(in super::super) struct Roles([Role; MAX_KEPT]);

impl Roles {
    /// Those of the arguments that are there, of `total` that there will be. `inline`: on a line that was typed.
    pub(in super::super) fn of(
        arguments: &Arguments,
        total: u64,
        names: &(dyn Names + Send + Sync),
        inline: bool,
    ) -> Self {
        let mut roles = Self([Role::Hidden; MAX_KEPT]);
        let Some((_, command)) = arguments.whole(0).and_then(find) else {
            // A line can be anything: not even its first word is repeated.
            if !inline {
                roles.set(0, Role::Operation);
            }
            return roles;
        };
        let mut walk = Walk::new(arguments, Some(roles));
        walk.total = usize::try_from(total).unwrap_or(usize::MAX);
        walk.shape(&command.shape);
        let Some(mut roles) = walk.writer else {
            return Self([Role::Hidden; MAX_KEPT]);
        };
        roles.set(0, Role::Word);
        let time = match command.ttl {
            Ttl::No => None,
            Ttl::Seconds(at) | Ttl::Millis(at) | Ttl::AtSeconds(at) | Ttl::AtMillis(at) => {
                Some(usize::from(at))
            }
            Ttl::Restore => Some(2),
        };
        if let Some(at) = time.filter(|at| arguments.integer(*at).is_some()) {
            roles.set(at, Role::Word);
        }
        connection::words(command.special, arguments, total, &mut |at, said| {
            let shown = match said {
                connection::Said::Word => true,
                connection::Said::User => names.user() && !inline,
                connection::Said::Client => names.client() && !inline,
            };
            if shown && arguments.whole(at).is_some() {
                roles.set(at, Role::Word);
            }
        });
        if names.hides(command.name) {
            for role in &mut roles.0 {
                if *role == Role::Key {
                    *role = Role::Hidden;
                }
            }
        }
        roles
    }

    /// The role of an argument.
    pub(in super::super) fn get(&self, index: usize) -> Role {
        self.0.get(index).copied().unwrap_or(Role::Hidden)
    }

    fn set(&mut self, index: usize, role: Role) {
        if let Some(known) = self.0.get_mut(index) {
            *known = role;
        }
    }
}

impl Notes for Roles {
    fn word(&mut self, at: usize, _: &str) {
        self.set(at, Role::Word);
    }

    fn number(&mut self, at: usize, _: i64) {
        self.set(at, Role::Word);
    }

    fn time(&mut self, at: usize) {
        self.set(at, Role::Word);
    }

    fn hidden(&mut self) {}

    fn key(&mut self, at: usize, _: &[u8]) {
        self.set(at, Role::Key);
    }

    fn stored_procedure(&mut self, at: usize, _: &[u8]) {
        self.set(at, Role::Key);
    }

    fn cut(&mut self) {}
}
