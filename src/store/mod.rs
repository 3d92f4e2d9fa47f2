//! Credentials at rest: one file an account, replaced durably, under a lock.

use serde::{Deserialize, Serialize};

use crate::config::AccountId;
use crate::renewal::Why;
use crate::secret::Secret;

/// What is stored of one account. Times are Unix seconds by the wall clock.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whose.
    pub account: AccountId,
    /// Grows by one with every new credential; a file is never replaced by one with a lower number.
    pub generation: u64,
    /// The client that the refresh token was issued to: another one cannot use it.
    pub client_id: Option<String>,
    /// What signs in without a person.
    pub credential: Credential,
    /// When this credential was received.
    pub received_at: u64,
    /// When the refresh token is expected to die, if anything is known of it.
    pub refresh_expires_at: Option<u64>,
    /// Who is signed in, as far as the server told (`sub`, `email` or user name).
    pub identity: Option<String>,
    /// Set before the refresh token is spent, cleared by the answer: a record loaded with it set means that an answer
    /// may have been lost.
    pub redeeming: bool,
    /// The server's last word on this credential, if it was a refusal. The credential is kept, but not used.
    pub set_aside: Option<SetAside>,
}

/// What signs in without a person. At least one of the two is there, except for grants that need neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credential {
    /// The refresh token.
    pub refresh_token: Option<Secret>,
    /// User name and password, only where the account says `keep_password`.
    pub password: Option<(String, Secret)>,
}

/// A refusal that only a new sign-in can mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Why.
    pub why: Why,
    /// When.
    pub at: u64,
    /// The server's code, if it gave one.
    pub oauth_error: Option<String>,
}
