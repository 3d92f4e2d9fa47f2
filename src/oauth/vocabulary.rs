//! What a provider calls things by names of its own: the members of its responses, and the codes of its errors.

use crate::renewal::{Failure, Why};

/// The words of one provider, besides those of the RFCs; by default none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Vocabulary {
    /// Where its token responses hold what.
    pub members: Members,
    /// What it means by error codes.
    pub errors: ErrorWords,
}

/// Where a provider's token responses hold what, as far as that is not where RFC 6749 has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Members {
    /// The objects that may hold the tokens, and all that is said of them: the first that has a token is taken whole. None
    /// means the response itself.
    pub within: Vec<Pointer>,
    /// Each of these is below that object.
    pub access_token: Option<Pointer>,
    /// The OpenID Connect ID token.
    pub id_token: Option<Pointer>,
    /// The new refresh token.
    pub refresh_token: Option<Pointer>,
    /// The access token's type.
    pub token_type: Option<Pointer>,
    /// The access token's life in seconds.
    pub expires_in: Option<Pointer>,
    /// The access token's end as a time.
    pub expires_at: Option<Pointer>,
    /// The refresh token's life in seconds.
    pub refresh_expires_in: Option<Pointer>,
    /// The code of an error. This and the next are below the response itself.
    pub error: Option<Pointer>,
    /// What is said of the error to people.
    pub error_description: Option<Pointer>,
}

impl Members {
    /// Whether tokens may be members of the response itself, rather than of an object in it.
    pub(super) fn may_be_at_the_top(&self) -> bool {
        self.within.is_empty() || self.within.contains(&Pointer::default())
    }

    /// The paths from the response itself at which a refresh token may be, the best first; `None` where none was named.
    pub(super) fn refresh_token_paths(&self) -> Option<Vec<Vec<String>>> {
        if self.within.is_empty() && self.refresh_token.is_none() {
            return None;
        }
        let below = self.refresh_token.as_ref().map_or_else(|| vec!["refresh_token".to_owned()], |at| at.0.clone());
        let root = [Pointer::default()];
        let within = if self.within.is_empty() { &root[..] } else { &self.within };
        Some(within.iter().map(|object| object.0.iter().chain(&below).cloned().collect()).collect())
    }
}

/// The way to a value in a JSON document: the names of members, and indices of arrays, from the outside in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pointer(pub(super) Vec<String>);

impl Pointer {
    /// What it leads to in a document.
    pub(super) fn find<'v>(&self, document: &'v serde_json::Value) -> Option<&'v serde_json::Value> {
        let below = |value: &'v serde_json::Value, segment: &String| match value {
            serde_json::Value::Array(elements) => elements.get(segment.parse::<usize>().ok()?),
            other => other.get(segment),
        };
        self.0.iter().try_fold(document, below)
    }

    /// Reads the name of a member, or a JSON Pointer (RFC 6901): `accessToken`, `/data/access_token`. The empty one is the
    /// whole document.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that starts with the key's name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.chars().any(char::is_control) {
            return Err("has a control character");
        }
        let Some(segments) = text.strip_prefix('/') else {
            return Ok(Self(if text.is_empty() { Vec::new() } else { vec![text.to_owned()] }));
        };
        let unescaped = |segment: &str| {
            let rest = segment.replace("~0", "").replace("~1", "");
            if rest.contains('~') { None } else { Some(segment.replace("~1", "/").replace("~0", "~")) }
        };
        let segments: Option<Vec<String>> = segments.split('/').map(unescaped).collect();
        segments.map(Self).ok_or("is no JSON Pointer (RFC 6901): \"~\" is written \"~0\"")
    }
}

/// The words of a provider's own in which its token endpoint refuses, besides those of the RFCs. Each is compared whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ErrorWords {
    /// The credential is refused: a person must sign in.
    pub sign_in: Vec<String>,
    /// The same, but only when it is said again, a minute later or more.
    pub sign_in_if_repeated: Vec<String>,
    /// No verdict, though the word may be one elsewhere.
    pub again: Vec<String>,
}

impl ErrorWords {
    /// What the provider means by a word, if it is one of these.
    pub(super) fn meaning(&self, word: &str) -> Option<Option<Failure>> {
        let has = |words: &[String]| words.iter().any(|known| known == word);
        if has(&self.again) {
            return Some(None);
        }
        if has(&self.sign_in) {
            return Some(Some(Failure::Permanent(Why::Revoked)));
        }
        let unconfirmed = Failure::Unconfirmed { why: Why::Revoked, retry_after: None };
        has(&self.sign_in_if_repeated).then_some(Some(unconfirmed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_a_members_name_or_rfc_6901s() {
        let table = [
            ("", Some(vec![])),
            ("accessToken", Some(vec!["accessToken"])),
            ("access.token", Some(vec!["access.token"])),
            ("a~b", Some(vec!["a~b"])),
            ("/data/access_token", Some(vec!["data", "access_token"])),
            ("/a~1b/m~0n", Some(vec!["a/b", "m~n"])),
            ("/~01", Some(vec!["~1"])),
            ("/", Some(vec![""])),
            ("/tokens/0", Some(vec!["tokens", "0"])),
            ("/a~2", None),
            ("/a~", None),
            ("a\nb", None),
        ];
        for (text, segments) in table {
            let segments = segments.map(|segments| segments.into_iter().map(str::to_owned).collect());
            assert_eq!(Pointer::parse(text).ok().map(|pointer| pointer.0), segments, "{text:?}");
        }
    }
}
