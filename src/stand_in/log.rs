//! What a stand-in remembers of the requests that came.

use std::time::SystemTime;

/// What has happened so far. The oldest entries go after some ten thousand.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Requests to the token service, revocations among them, in the order in which they ended.
    pub token_calls: Vec<TokenCall>,
    /// Requests to the API, in the order in which they were answered.
    pub api_calls: Vec<ApiCall>,
    /// The most token calls that ever ran at once.
    pub most_token_calls_at_once: u32,
    /// How often a spent refresh token was presented.
    pub reuse_detected: u64,
}

impl Log {
    /// How many token calls ended so: "issued", "revoked", an OAuth error, a fault's name.
    pub fn outcomes(&self, outcome: &str) -> usize {
        self.token_calls.iter().filter(|call| call.outcome == outcome).count()
    }

    /// How many API requests carried no good token.
    pub fn refused(&self) -> usize {
        self.api_calls.iter().filter(|call| call.status == 401).count()
    }
}

/// One request to the token service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenCall {
    /// When it ended.
    pub at: SystemTime,
    /// `grant_type`, Cognito's operation, or "revoke"; empty if a fault came first.
    pub grant: String,
    /// "issued", "revoked", "unknown", "refused", an error's code, or the name of the fault.
    pub outcome: String,
}

/// One request to the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiCall {
    /// When it was answered.
    pub at: SystemTime,
    /// Its method.
    pub method: String,
    /// Path and query as they arrived.
    pub target: String,
    /// The fingerprints (`Secret::fingerprint`) of its `Authorization` fields.
    pub authorization: Vec<String>,
    /// Whether it carried one token, in the right form, that was valid at that moment.
    pub token_valid: bool,
    /// How it was answered.
    pub status: u16,
}

/// How much the log keeps.
const KEPT: usize = 10_000;

pub(super) fn note<T>(list: &mut Vec<T>, entry: T) {
    if list.len() >= 2 * KEPT {
        list.drain(..KEPT);
    }
    list.push(entry);
}
