//! The rules of renewal as plain functions of plain numbers.

use std::time::Duration;

/// One account's settings for renewal, from its preset and the configuration's `renew`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// How long before its end a token is renewed, at the most; a third of its life where that is shorter.
    pub early: Duration,
    /// The least time between two starts, after a success too.
    pub minimum_spacing: Duration,
    /// How long before its end a token is no longer handed out, at the most; a tenth of its life where that is shorter.
    pub margin: Duration,
    /// The life of an access token whose answer did not tell one.
    pub assumed_lifetime: Duration,
    /// The life of a refresh token whose answer did not tell one, where it is known.
    pub refresh_lifetime: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            early: Duration::from_secs(5 * 60),
            minimum_spacing: Duration::from_secs(1),
            margin: Duration::from_secs(10),
            assumed_lifetime: Duration::from_secs(60 * 60),
            refresh_lifetime: None,
        }
    }
}
