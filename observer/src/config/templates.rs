//! Key patterns of the user's own: `user:{id}:profile`. The first template that a key fits is its pattern.
//!
//! `{name}` stands for one or more characters that are no `:` and no `/`, `*` for one or more of any. Each takes as few as
//! it can; the last text of a template stands at the end of the key. So a key is looked at once for each template whose
//! beginning it has: 256 templates cost about a microsecond. `{{` and `}}` are braces.

use std::fmt;

/// Most templates.
pub const MAX_TEMPLATES: usize = 256;
/// Most bytes of a template: as many as a pattern has.
pub const MAX_BYTES: usize = 128;

/// Templates, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Templates(Vec<Template>);

impl Templates {
    /// # Errors
    ///
    /// The index of a template that is none, and why.
    pub fn new(texts: &[String]) -> Result<Self, (usize, String)> {
        let parse = |(index, text): (usize, &String)| {
            Template::new(text).map_err(|reason| (index, format!("`{text}`: {reason}")))
        };
        let all = texts.iter().enumerate().map(parse);
        Ok(Self(all.collect::<Result<_, _>>()?))
    }

    /// The first template that the key fits, as the pattern to show.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|template| template.fits(key))?;
        Some(&found.shown)
    }
}

/// `text (wildcard text)*`; the last text may be empty, no other but the first is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    shown: String,
    prefix: String,
    rest: Vec<(Wildcard, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wildcard {
    Segment,
    Any,
}

impl Wildcard {
    fn takes(self, text: &str) -> bool {
        !text.is_empty() && (self == Self::Any || !text.contains([':', '/']))
    }
}

impl Template {
    fn new(text: &str) -> Result<Self, String> {
        let error = |reason: fmt::Arguments<'_>| Err(reason.to_string());
        if text.is_empty() || text.len() > MAX_BYTES {
            return error(format_args!("not 1 to {MAX_BYTES} bytes"));
        }
        if text.chars().any(char::is_control) {
            return error(format_args!("a control character"));
        }
        let mut template = Self {
            shown: String::new(),
            prefix: String::new(),
            rest: Vec::new(),
        };
        let mut left = text;
        while let Some(first) = left.chars().next() {
            let after = &left[first.len_utf8()..];
            let wildcard = match first {
                '{' | '}' if after.starts_with(first) => None,
                '{' => {
                    let name = after.split('}').next().unwrap_or_default();
                    if name.len() == after.len() {
                        return error(format_args!("`{{` without `}}`; write {{{{ for a brace"));
                    }
                    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
                    if name.is_empty() || !name.chars().all(plain) {
                        return error(format_args!(
                            "`{{{name}}}` is no name of letters, digits, _ and -; write {{{{ for a brace"
                        ));
                    }
                    Some((Wildcard::Segment, name.len() + 2))
                }
                '}' => return error(format_args!("`}}` without `{{`; write }}}} for a brace")),
                '*' => Some((Wildcard::Any, 1)),
                _ => None,
            };
            match wildcard {
                Some((wildcard, length)) => {
                    if template
                        .rest
                        .last()
                        .is_some_and(|(_, text)| text.is_empty())
                    {
                        return error(format_args!(
                            "nothing between two placeholders tells where one ends"
                        ));
                    }
                    template.shown.push_str(&left[..length]);
                    template.rest.push((wildcard, String::new()));
                    left = &left[length..];
                }
                None => {
                    let into = match template.rest.last_mut() {
                        Some((_, text)) => text,
                        None => &mut template.prefix,
                    };
                    into.push(first);
                    template.shown.push(first);
                    let doubled = matches!(first, '{' | '}');
                    left = &after[usize::from(doubled)..];
                }
            }
        }
        Ok(template)
    }

    fn fits(&self, key: &str) -> bool {
        let Some(mut left) = key.strip_prefix(self.prefix.as_str()) else {
            return false;
        };
        let Some(((last, end), rest)) = self.rest.split_last() else {
            return left.is_empty();
        };
        for (wildcard, text) in rest {
            // At least one character is the wildcard's.
            let Some(first) = left.chars().next() else {
                return false;
            };
            let Some(at) = left[first.len_utf8()..].find(text.as_str()) else {
                return false;
            };
            let (taken, after) = left.split_at(first.len_utf8() + at);
            if !wildcard.takes(taken) {
                return false;
            }
            left = &after[text.len()..];
        }
        left.strip_suffix(end.as_str())
            .is_some_and(|taken| last.takes(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates(texts: &[&str]) -> Templates {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        Templates::new(&texts).unwrap()
    }

    #[test]
    fn what_fits() {
        for (template, yes, no) in [
            (
                "user:{id}:profile",
                ["user:42:profile", "user:a-b:profile"].as_slice(),
                [
                    "user::profile",
                    "user:1:2:profile",
                    "user:42:profiles",
                    "xuser:42:profile",
                    "user:42",
                ]
                .as_slice(),
            ),
            (
                "user:{id}",
                &["user:42"],
                &["user:", "user:42:profile", "user:4/2"],
            ),
            (
                "page:*",
                &["page:a", "page:https://a/b?c"],
                &["page:", "pages:a"],
            ),
            ("*:lock", &["a:b:lock", "a:lock"], &[":lock", "a:lock:b"]),
            ("{a}-{b}:z", &["x-y-q:z", "é-y:z"], &["x:z", "-y:z", "x-:z"]),
            ("{{{id}}}:cart", &["{42}:cart"], &["42:cart", "{42}:carts"]),
            ("config", &["config"], &["config:", "confi"]),
        ] {
            let one = templates(&[template]);
            for key in yes {
                assert!(one.find(key).is_some(), "{template} {key}");
            }
            for key in no {
                assert_eq!(one.find(key), None, "{template} {key}");
            }
        }
    }

    #[test]
    fn the_first_is_taken_and_shown_as_written() {
        let some = templates(&["user:{id}:*", "user:{name}:cart", "{{{id}}}:cart"]);
        assert_eq!(some.find("user:42:cart"), Some("user:{id}:*"));
        assert_eq!(some.find("{7}:cart"), Some("{{id}}:cart"));
        assert_eq!(some.find("order:7"), None);
    }

    #[test]
    fn what_is_no_template() {
        let long = "x".repeat(MAX_BYTES + 1);
        for (text, reason) in [
            ("", "not 1 to 128 bytes"),
            (long.as_str(), "not 1 to 128 bytes"),
            ("user:{id", "`{` without `}`"),
            ("user:id}", "`}` without `{`"),
            ("user:{}", "no name"),
            ("user:{a b}", "no name"),
            ("{a}{b}", "nothing between"),
            ("{a}*", "nothing between"),
            ("a\nb", "control"),
        ] {
            let (index, error) = Templates::new(&["ok".to_owned(), text.to_owned()]).unwrap_err();
            assert_eq!(index, 1);
            assert!(error.contains(reason), "{error}");
        }
    }
}
