//! Why nobody is signed in.

use super::pasted::NotACode;
use super::terminal::Unasked;

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
    /// The token endpoint could not be asked.
    #[error("{0}")]
    Unreached(String),
    /// The answer has no refresh token, and nothing else that lasts may be kept.
    #[error("the authorization server sent no refresh token")]
    NothingLasting,
}

impl SignInError {
    /// What can be done about it, where that is known.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            SignInError::Unasked(Unasked::NoTerminal(_)) => {
                Some("hand it in with --code, --password-stdin or --refresh-token-stdin")
            }
            SignInError::NothingLasting => {
                Some("ask for one with a scope (often \"offline_access\"), or set keep_password for the account")
            }
            SignInError::Unreached(_) => Some(
                "look at the network and at the account's endpoints (valetd doctor shows each way), then try again",
            ),
            SignInError::NoWay(_) => Some("use --refresh-token-stdin or --import"),
            SignInError::Unasked(_) | SignInError::NotACode(_) | SignInError::NotExchanged(_) => None,
        }
    }

    /// Whether the person is still there and another way may succeed.
    pub(super) fn leaves_other_ways(&self) -> bool {
        match self {
            SignInError::Unasked(_) | SignInError::NoWay(_) => false,
            SignInError::NotACode(_)
            | SignInError::NotExchanged(_)
            | SignInError::Unreached(_)
            | SignInError::NothingLasting => true,
        }
    }
}
