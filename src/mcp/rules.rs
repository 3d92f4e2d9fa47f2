//! Rules over messages: which methods, and which tools, prompts and resources, go through a route.
//!
//! What every session needs goes through without a rule: `initialize`, `ping`, notifications, responses, and the lists of
//! what there is. A message that readers may understand differently never goes through where there are rules.

use std::fmt;

use super::message::Message;

/// A method, and what it is for, or anything: `mcp tools/call search_*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct McpRule {
    method: String,
    of: Option<String>,
}

/// What of MCP a route lets through.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct McpRules {
    /// If there are any, only what one of them allows goes through, and what every session needs.
    pub allow: Vec<McpRule>,
    /// What never goes through, whatever `allow` says.
    pub deny: Vec<McpRule>,
}

impl McpRule {
    /// What a rule begins with, to be told from one over paths.
    pub(crate) const WORD: &str = "mcp ";

    /// What a good one looks like, as a remedy.
    pub(crate) const EXAMPLE: &str =
        "write it as in \"mcp tools/call search_*\", or without name for all: \"mcp tools/call\"";

    /// Reads one as it is written in a configuration.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.trim().strip_prefix(Self::WORD).unwrap_or_default().split_whitespace();
        let (method, of) = (words.next().unwrap_or_default(), words.next());
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.*".contains(&byte);
        if method.is_empty() || !method.bytes().all(good) {
            return Err("names no MCP method, as in \"mcp tools/call\"".to_owned());
        }
        if words.next().is_some() {
            return Err("has more than a method and a name".to_owned());
        }
        Ok(Self { method: method.to_owned(), of: of.map(str::to_owned) })
    }

    fn allows(&self, method: &str, message: &Message) -> bool {
        // the other one is not what the method acts on
        let of = if method.starts_with("resources/") { &message.uri } else { &message.name };
        matches(&self.method, method)
            && self.of.as_ref().is_none_or(|ours| of.as_ref().is_some_and(|of| matches(ours, of)))
    }

    /// Whatever some server may take for it, so without regard to case.
    fn denies(&self, method: &str, message: &Message) -> bool {
        let same = |ours: &str, theirs: &str| matches(&ours.to_lowercase(), &theirs.to_lowercase());
        let mut of = [&message.name, &message.uri].into_iter().flatten();
        same(&self.method, method) && self.of.as_ref().is_none_or(|ours| of.any(|of| same(ours, of)))
    }
}

/// As it is written.
impl fmt::Display for McpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, of } = self;
        write!(f, "{}{method}", Self::WORD)?;
        of.as_ref().map_or(Ok(()), |of| write!(f, " {of}"))
    }
}

impl McpRules {
    /// Whether everything goes through.
    pub(crate) fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether a message goes through.
    pub(crate) fn permit(&self, message: &Message) -> bool {
        if message.is_odd {
            return false;
        }
        let Some(method) = &message.method else { return message.response().is_some() };
        if self.deny.iter().any(|rule| rule.denies(method, message)) {
            return false;
        }
        allow(&self.allow, message)
    }
}

/// Whether one of these rules lets a message through; all do if there are none.
pub(crate) fn allow(rules: &[McpRule], message: &Message) -> bool {
    if rules.is_empty() {
        return true;
    }
    if message.is_odd {
        return false;
    }
    let Some(method) = &message.method else { return message.response().is_some() };
    is_needed(method) || rules.iter().any(|rule| rule.allows(method, message))
}

/// What a session cannot do without.
fn is_needed(method: &str) -> bool {
    const LISTS: [&str; 4] = ["tools/list", "prompts/list", "resources/list", "resources/templates/list"];
    // from 2026-07-28 on, in the place of a session's beginning and of its stream
    ["initialize", "ping", "server/discover", "subscriptions/listen"].contains(&method)
        || LISTS.contains(&method)
        || method.starts_with("notifications/")
}

/// Whether a text is what a pattern says, where `*` stands for any characters, or none.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::read;

    fn rules(allow: &[&str], deny: &[&str]) -> McpRules {
        let parse = |rules: &[&str]| rules.iter().map(|text| McpRule::parse(text).unwrap()).collect();
        McpRules { allow: parse(allow), deny: parse(deny) }
    }

    #[test]
    fn a_message_goes_through_if_a_rule_lets_it_or_every_session_needs_it() {
        let search =
            rules(&["mcp tools/call search_*", "mcp resources/read file:///docs/*"], &["mcp tools/call *_all"]);
        for (message, expected) in [
            (r#"{"id":1,"method":"tools/call","params":{"name":"search_issues"}}"#, true),
            (r#"{"id":1,"method":"tools/call","params":{"name":"delete_issue"}}"#, false),
            (r#"{"id":1,"method":"tools/call","params":{"name":"search_all"}}"#, false),
            (r#"{"id":1,"method":"tools/call","params":{"name":"SEARCH_ALL"}}"#, false),
            (r#"{"id":1,"method":"tools/call","params":{"uri":"search_x"}}"#, false),
            (r#"{"id":1,"method":"tools/call","params":{}}"#, false),
            (r#"{"id":1,"method":"Tools/Call","params":{"name":"search_x"}}"#, false),
            (r#"{"id":1,"method":"resources/read","params":{"uri":"file:///docs/a"}}"#, true),
            (r#"{"id":1,"method":"resources/read","params":{"uri":"file:///etc/a","name":"file:///docs/a"}}"#, false),
            (r#"{"id":1,"method":"prompts/get","params":{"name":"search_x"}}"#, false),
            (r#"{"id":1,"method":"initialize","params":{}}"#, true),
            (r#"{"id":1,"method":"tools/list"}"#, true),
            (r#"{"method":"notifications/initialized"}"#, true),
            (r#"{"id":1,"result":{}}"#, true),
            (r#"{"result":{}}"#, false),
            (r#"{"id":1,"method":"ping","Method":"tools/call","params":{"name":"delete_issue"}}"#, false),
        ] {
            let message = read(message.as_bytes()).unwrap().remove(0);
            assert_eq!(search.permit(&message), expected, "{message:?}");
        }
        let no_lists = rules(&[], &["mcp */list"]);
        let message =
            |method: &str| Message { id: Some("1".into()), method: Some(method.into()), ..Message::default() };
        assert!(!no_lists.permit(&message("tools/list")) && no_lists.permit(&message("tools/call")));
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("a*a", "a", false),
            ("*b*b*", "abcb", true),
            ("*b*b*", "abc", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_rule_names_a_method_and_at_most_one_name() {
        for wrong in ["mcp ", "mcp tools call x", "mcp tools/call a b", "mcp tööls"] {
            assert!(McpRule::parse(wrong).is_err(), "{wrong}");
        }
        for text in ["mcp tools/call", "mcp tools/call search_*"] {
            assert_eq!(McpRule::parse(&format!(" {text} ")).unwrap().to_string(), text);
        }
    }
}
