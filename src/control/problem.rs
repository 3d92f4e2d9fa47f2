//! What the control socket answers when it cannot do what was asked: a problem document (RFC 9457) with a remedy.

use serde::{Deserialize, Serialize};

/// A problem document. Says what is wrong and what a person can do about it; holds no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// Which kind of problem: `urn:valetd:problem:` and one of the words of [`kind`].
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// The kind in words.
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// What can be done about it: a command, or a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The single problems where there are many: those of a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// The media type of a problem document.
pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// What `type` begins with.
pub(crate) const TYPE_PREFIX: &str = "urn:valetd:problem:";

/// The kinds: what `type` ends in.
pub(crate) mod kind {
    /// 404: there is nothing at this path.
    pub(crate) const NO_SUCH_PATH: &str = "no-such-path";
    /// 404: there is no account of this name.
    pub(crate) const NO_SUCH_ACCOUNT: &str = "no-such-account";
    /// 404: there is no client key of this name.
    pub(crate) const NO_SUCH_KEY: &str = "no-such-key";
    /// 404: no client is registered for this account.
    pub(crate) const NO_SUCH_CLIENT: &str = "no-such-client";
    /// 409: a client is registered for this account, and what is kept of it is of no use.
    pub(crate) const CLIENT_UNUSABLE: &str = "client-unusable";
    /// 405: the path knows other methods.
    pub(crate) const METHOD_NOT_ALLOWED: &str = "method-not-allowed";
    /// 400: the body is not what the path wants.
    pub(crate) const BAD_REQUEST: &str = "bad-request";
    /// 408: the body did not arrive in time.
    pub(crate) const TOO_SLOW: &str = "too-slow";
    /// 413: the body is too large.
    pub(crate) const TOO_LARGE: &str = "too-large";
    /// 409: the daemon understood and said no.
    pub(crate) const REFUSED: &str = "refused";
    /// 409: the server has refused a credential that was handed in; what is stored stays.
    pub(crate) const CREDENTIAL_REFUSED: &str = "credential-refused";
    /// 409: a credential that was handed in could not be tried; what is stored stays.
    pub(crate) const CREDENTIAL_UNTRIED: &str = "credential-untried";
    /// 409: a refresh token that was handed in was used and replaced before; it is not sent, and what is stored stays.
    pub(crate) const CREDENTIAL_SPENT: &str = "credential-spent";
    /// 409: a refresh token that was handed in is of another account's sign-in; it is not sent.
    pub(crate) const CREDENTIAL_ELSEWHERE: &str = "credential-elsewhere";
    /// 503: the store is locked, so nothing can be read from it or saved.
    pub(crate) const STORE_LOCKED: &str = "store-locked";
    /// 409: a credential that was handed in is another person's; what is stored stays.
    pub(crate) const ANOTHER_PERSON: &str = "another-person";
    /// 409: somebody has signed out since the sign-in was begun that has brought a credential; nothing is stored.
    pub(crate) const SIGNED_OUT: &str = "signed-out";
    /// 422: the configuration has problems; the one before it stays in force.
    pub(crate) const BAD_CONFIG: &str = "bad-config";
    /// 503: no configuration is in force, since the file could not be used when the daemon started.
    pub(crate) const NOT_CONFIGURED: &str = "not-configured";
    /// 503: an account has no usable token.
    pub(crate) const NOT_READY: &str = "not-ready";
    /// 503: the daemon is stopping.
    pub(crate) const STOPPING: &str = "stopping";
}

impl Problem {
    /// A problem of a kind, with what happened this time.
    pub(crate) fn new(status: u16, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{kind}").into(),
            title: title.into(),
            status,
            detail: detail.into(),
            remedy: None,
            problems: Vec::new(),
        }
    }

    /// Adds what can be done about it.
    #[must_use]
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds the single problems.
    #[must_use]
    pub(crate) fn with_problems(mut self, problems: Vec<String>) -> Self {
        self.problems = problems;
        self
    }

    /// Whether it is of this kind.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind.strip_prefix(TYPE_PREFIX) == Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_has_the_members_of_rfc_9457_and_no_empty_ones() {
        let problem = Problem::new(404, kind::NO_SUCH_ACCOUNT, "no such account", "no account is named \"gdbx\"");
        assert_eq!(
            serde_json::to_value(&problem).unwrap(),
            serde_json::json!({
                "type": "urn:valetd:problem:no-such-account",
                "title": "no such account",
                "status": 404,
                "detail": "no account is named \"gdbx\"",
            })
        );
        let problem = problem.with_remedy("valetd status").with_problems(vec!["a".to_owned()]);
        let value = serde_json::to_value(&problem).unwrap();
        assert_eq!((&value["remedy"], &value["problems"]), (&"valetd status".into(), &serde_json::json!(["a"])));
        assert_eq!(serde_json::from_value::<Problem>(value).unwrap(), problem);
    }
}
