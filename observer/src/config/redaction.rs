//! What is never shown.

use serde::{Deserialize, Serialize};

/// `[redaction]`. How keys appear is `keys`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Redaction {
    /// Commands of which only the name is shown: no query text, no keys and no pattern of them.
    pub commands: Vec<String>,
    /// Hide `cache.user`.
    pub user: bool,
    /// Hide `cache.client.name`.
    pub client_name: bool,
}

impl Redaction {
    /// Whether only the name of this command is shown.
    #[must_use]
    pub fn hides(&self, command: &str) -> bool {
        let mut commands = self.commands.iter();
        commands.any(|name| name.eq_ignore_ascii_case(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_any_case() {
        let redaction = Redaction {
            commands: vec!["get".to_owned(), "CONFIG".to_owned()],
            ..Redaction::default()
        };
        assert!(redaction.hides("GET"));
        assert!(redaction.hides("CONFIG"));
        assert!(!redaction.hides("GETEX"));
        assert!(!Redaction::default().hides("GET"));
    }
}
