//! Why nobody is signed in.

use std::time::Duration;

use super::pasted::NotACode;
use super::terminal::Unasked;
use crate::oauth::Grant;
use crate::platform::random::NoRandomNumbers;
use crate::renewal::{Failure, Why};
use crate::token_endpoint::GrantFailure;

/// Why nobody is signed in now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    /// The question could not be put, or was not answered.
    #[error(transparent)]
    Unasked(#[from] Unasked),
    /// The account has no way that asks a person.
    #[error("{0}")]
    NoWay(&'static str),
    /// What was pasted is no code, or the server's refusal.
    #[error(transparent)]
    NotACode(#[from] NotACode),
    /// The token endpoint did not give tokens for the offer.
    #[error("{0}")]
    NotExchanged(String),
    /// The server does not know the client (`invalid_client`, RFC 6749 section 5.2), whichever way is taken.
    #[error("{0}")]
    ClientRefused(String),
    /// The server does not take this user name with this password.
    #[error("{0}")]
    WrongPassword(String),
    /// The server has answered that it cannot, now, or in a way that is no verdict on what was offered.
    #[error("{words}")]
    NotNow {
        /// What it has answered.
        words: String,
        /// With which status.
        status: u16,
        /// When it wants to be asked again, if it says so.
        retry_after: Option<Duration>,
    },
    /// The token endpoint could not be asked.
    #[error("{0}")]
    Unreached(String),
    /// This way is closed to this client, here or at this server; another may be open.
    #[error("{0}")]
    NotHere(String),
    /// The person said no, on the server's page.
    #[error("the sign-in was refused on the server's page{0}")]
    Denied(String),
    /// The time that the server or we give a person is over.
    #[error("nobody signed in in time")]
    TooLate,
    /// Another process is waiting for the same account's sign-in.
    #[error("a sign-in to this account is under way already{}", .0.map(|pid| format!(", in process {pid}")).unwrap_or_default())]
    UnderWay(Option<u32>),
    /// The response has no refresh token, and nothing else that lasts may be kept.
    #[error("the authorization server sent no refresh token")]
    NothingLasting(
        /// The remedy, which is another with each provider.
        &'static str,
    ),
}

impl SignInError {
    /// Whether the person is still there and another way may succeed; not after a refusal by the person.
    pub(super) fn leaves_other_ways(&self) -> bool {
        match self {
            SignInError::Unasked(_) | SignInError::NoWay(_) => false,
            SignInError::Denied(_) | SignInError::UnderWay(_) => false,
            SignInError::NotACode(_) | SignInError::NotExchanged(_) | SignInError::NothingLasting(_) => true,
            SignInError::ClientRefused(_) | SignInError::WrongPassword(_) | SignInError::NotNow { .. } => true,
            SignInError::Unreached(_) | SignInError::NotHere(_) | SignInError::TooLate => true,
        }
    }

    /// Whether the server does not know the client (RFC 6749 section 5.2), whichever way is taken.
    pub(crate) fn refuses_the_client(&self) -> bool {
        matches!(self, SignInError::ClientRefused(_))
    }

    /// Whether the way itself is closed, so that the next one is taken without a question.
    pub(super) fn closes_the_way(&self) -> bool {
        matches!(self, SignInError::NotHere(_))
    }

    /// What a server has refused, in its own words: "the authorization server said: access_denied".
    pub(super) fn of_server(code: Option<&str>, words: String) -> Self {
        match code {
            _ if is_forbidden_here(&words) => SignInError::NotHere(words),
            Some("unauthorized_client" | "unsupported_grant_type" | "unsupported_response_type") => {
                SignInError::NotHere(words)
            }
            Some("device_flow_disabled") => SignInError::NotHere(words),
            Some("invalid_client") => SignInError::ClientRefused(words),
            _ => SignInError::NotExchanged(words),
        }
    }
}

/// Whether a policy of Microsoft Entra closes this way, and perhaps no other ("blocked by Conditional Access").
fn is_forbidden_here(words: &str) -> bool {
    words.contains("AADSTS53003")
}

impl From<NoRandomNumbers> for SignInError {
    fn from(error: NoRandomNumbers) -> Self {
        SignInError::NotExchanged(error.to_string())
    }
}

impl From<GrantFailure> for SignInError {
    fn from(failure: GrantFailure) -> Self {
        match (failure.failure, failure.http_status) {
            (Failure::Transient { .. }, None) => SignInError::Unreached(failure.detail),
            (Failure::Transient { retry_after }, Some(status)) if failure.oauth_error.is_none() => {
                SignInError::NotNow { words: failure.detail, status, retry_after }
            }
            _ => Self::of_server(failure.oauth_error.as_deref(), failure.detail),
        }
    }
}

impl SignInError {
    /// What has become of a grant that a person has brought.
    pub(super) fn of_grant(failure: GrantFailure, grant: &Grant) -> Self {
        let is_refused = matches!(failure.failure, Failure::Permanent(Why::Revoked) | Failure::Refused);
        match (Self::from(failure), grant) {
            (SignInError::NotExchanged(words), Grant::Password { .. }) if is_refused => {
                SignInError::WrongPassword(words)
            }
            // without a code, and there is nothing else in the request that 401 could be about, but the client
            (SignInError::NotNow { words, status: 401, .. }, Grant::Password { .. }) => {
                SignInError::WrongPassword(words)
            }
            (error, _) => error,
        }
    }

    /// What an authorization response says instead of a code.
    pub(super) fn of_response(refused: NotACode) -> Self {
        match &refused {
            NotACode::ServerSaid { error, description } if error == "access_denied" => {
                let words = description.as_ref().map(|words| format!(" ({words})")).unwrap_or_default();
                // Entra says so of its policies, too, and nobody has refused anything
                if is_forbidden_here(&words) {
                    SignInError::NotHere(refused.to_string())
                } else {
                    SignInError::Denied(words)
                }
            }
            NotACode::ServerSaid { error, .. } => match Self::of_server(Some(error), refused.to_string()) {
                SignInError::NotExchanged(_) => SignInError::NotACode(refused),
                closed => closed,
            },
            _ => SignInError::NotACode(refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: &str, description: Option<&str>) -> SignInError {
        let description = description.map(str::to_owned);
        SignInError::of_response(NotACode::ServerSaid { error: error.to_owned(), description })
    }

    #[test]
    fn the_next_way_is_taken_where_one_is_closed_and_never_after_a_persons_refusal() {
        let policy = "AADSTS53003: Access has been blocked by Conditional Access policies.";
        let rows = [
            ("the person said no", said("access_denied", Some("the user denied")), false, false),
            ("a policy said no", said("access_denied", Some(policy)), true, true),
            ("not this client", said("unauthorized_client", None), true, true),
            ("no such grant", SignInError::of_server(Some("unsupported_grant_type"), "x".to_owned()), true, true),
            ("switched off", SignInError::of_server(Some("device_flow_disabled"), "x".to_owned()), true, true),
            (
                "a policy, at the token endpoint",
                SignInError::of_server(Some("invalid_grant"), policy.to_owned()),
                true,
                true,
            ),
            ("an unknown client", SignInError::of_server(Some("invalid_client"), "x".to_owned()), true, false),
            ("a bad scope", said("invalid_scope", None), true, false),
            ("a server in trouble", said("server_error", None), true, false),
            ("too late", SignInError::TooLate, true, false),
            ("another process", SignInError::UnderWay(None), false, false),
            ("Ctrl-C", SignInError::Unasked(Unasked::Interrupted), false, false),
        ];
        for (case, error, leaves_others, closes) in rows {
            assert_eq!((error.leaves_other_ways(), error.closes_the_way()), (leaves_others, closes), "{case}: {error}");
        }
    }

    #[test]
    fn a_client_is_refused_by_the_code_and_not_by_words_that_quote_it() {
        let quoted = "answered 401 invalid_client".to_owned();
        assert!(!SignInError::of_server(Some("invalid_grant"), quoted.clone()).refuses_the_client());
        assert!(!SignInError::of_server(None, quoted).refuses_the_client());
        assert!(SignInError::of_server(Some("invalid_client"), String::new()).refuses_the_client());
    }
}
