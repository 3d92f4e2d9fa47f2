//! When to ask for a new access token, and what a response changes. Pure: no clock, no I/O, no secret.
//!
//! [`Renewal`] is one account's machine. It waits for one of four things: the clock, the store of credentials, the
//! authorization server, or a person. Whether the token in hand is still usable is a separate fact. [`policy`] has the rules as plain functions of
//! plain numbers; [`life`] is what tokens teach of their own life where the server states none; [`refusals`] says which 401s
//! are believed.
//!
//! # Invariants
//!
//! Checked on random histories, and each by a planted fault that breaks it (see the tests of this module):
//!
//! * **I1** at most one renewal is in flight for each credential;
//! * **I2** a published token is usable now, and the first event at or after `usable_until` withdraws it;
//! * **I3** never stuck: a wakeup is set, or a response is owed (the server's, or the store's), or a person is needed;
//! * **I4** a new grant whose refresh token was rotated is published when the store has answered that this one is saved,
//!   or that it is not; a credential is spent when the store has answered that this was noted, but not where that
//!   cannot be done, nor while nobody knows what the store holds; neither if the store holds a later one;
//! * **I5** a response with a forgotten id changes nothing, the server's or the store's: one that comes late, of an earlier
//!   save or of a replaced credential, is nobody's;
//! * **I6** two starts for the same credential are at least the minimum spacing apart;
//! * **I7** a tick before the wakeup does nothing;
//! * **I8** a refusal ends in `SignInRequired`, and nothing starts until the credential changes, with one exception: a refresh
//!   token is presented again one minute after its first refusal, ten minutes after its second, once at a start, and when a
//!   person asks; no response in between changes the phase but one with tokens;
//! * **I9** nothing of a replaced credential stays published, and one that the store holds a later one of is spent no more.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

#[cfg(test)]
mod faulty;
pub(crate) mod life;
pub(crate) mod machine;
mod place;
pub(crate) mod policy;
mod refusals;
#[cfg(test)]
mod tests;

/// The machine, with a mistake if a test has planted one.
#[cfg(test)]
pub(crate) use faulty::{Fault, Faulty as Renewal};
#[cfg(not(test))]
pub(crate) use machine::Renewal;
pub(crate) use machine::{Action, Event};
pub(crate) use place::Place;
pub(crate) use policy::Policy;

/// Numbers one renewal of one account: unique in a process's life, growing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct RenewalId(pub u64);

/// Numbers what one machine asks of the store: never used twice by it, growing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SaveId(pub u64);

/// Why something is not saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotSaved {
    /// The store holds a later generation of the credential: somebody else has renewed it, or signed in.
    Stale,
    /// The store holds nothing later, and cannot take it: a full disk. The credential at hand is the latest all the same,
    /// and is not spent: its successor could not be saved.
    Failed,
    /// Nobody knows whether it is saved, nor what the store holds: it does not reply.
    Unknown,
}

/// Why a person is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Why {
    /// Nobody has signed in to this account on this machine yet, or somebody signed out.
    NotSignedIn,
    /// The authorization server refused the refresh token: it was revoked, or it has expired.
    Revoked,
    /// An earlier answer to a renewal was lost, and now the refresh token is refused: the server has rotated it, and
    /// the new one never arrived here. Nothing a client does can mend that.
    Ambiguous,
    /// The server refused the client itself (`invalid_client`, `unauthorized_client`, ...): the configuration is wrong.
    ClientRefused,
    /// The stored credential was issued by another server, or to another client, than the configuration now names: it
    /// must not be sent there.
    IssuedElsewhere,
    /// The time that the person had signed in for is over.
    TermOver,
}

impl Why {
    /// In one word, for scripts.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Why::NotSignedIn => "not-signed-in",
            Why::Revoked => "revoked",
            Why::Ambiguous => "ambiguous",
            Why::ClientRefused => "client-refused",
            Why::IssuedElsewhere => "issued-elsewhere",
            Why::TermOver => "term-over",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::NotSignedIn => "nobody is signed in",
            Why::Revoked => "the refresh token was refused: it was revoked or has expired",
            Why::Ambiguous => "the answer to a renewal was lost and the refresh token is now refused (ambiguous)",
            Why::ClientRefused => "the authorization server refused this client: check client_id and client_auth",
            Why::IssuedElsewhere => "the configuration names another server or client than the one signed in to",
            Why::TermOver => "the time that it was signed in for is over",
        })
    }
}

/// What a failed renewal means for the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// No verdict on the credential: try again later, no earlier than the server asked for.
    Transient {
        /// The server's `Retry-After`, if it sent one.
        retry_after: Option<Duration>,
    },
    /// The request may have been carried out, but its response never arrived whole: the refresh token may be spent.
    Ambiguous,
    /// A well-formed refusal that time will not mend.
    Permanent(Why),
    /// A well-formed refusal of the refresh token. A server in its bad minute says the same, so the token is presented again.
    Refused,
    /// A refusal in words that count only when they are said again, a minute later or more.
    Unconfirmed {
        /// What they mean then.
        why: Why,
        /// The server's `Retry-After`, if it sent one.
        retry_after: Option<Duration>,
    },
}

/// What a machine waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// The clock: the next renewal starts at this time.
    Scheduled {
        /// When.
        at: Timestamp,
    },
    /// The authorization server, and the store before and after it: exactly one response is owed, `Renewed` or `Failed` by
    /// the one, `Saved` or `NotSaved` by the other.
    InFlight {
        /// The renewal that is under way.
        id: RenewalId,
    },
    /// A person.
    SignInRequired {
        /// What they should know.
        why: Why,
    },
}

/// Why the next wakeup is when it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reason {
    /// The first token after a start or a sign-in.
    First,
    /// The token in hand will expire.
    BeforeExpiry,
    /// The refresh token has a life of its own, which ends before that of the token in hand.
    BeforeRefreshTokenDies,
    /// The last attempt failed.
    Retry,
    /// A request waits, an upstream refused the token, or a person asked for it.
    Asked,
    /// Nothing to renew: the token in hand is to be withdrawn then.
    Withdraw,
}

/// One account's machine as it stands: ids and times, nothing that could be a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AccountSnapshot {
    /// What it waits for.
    pub phase: Phase,
    /// The published token, if there is one.
    pub published: Option<RenewalId>,
    /// Until when the published token is handed out.
    pub usable_until: Option<Timestamp>,
    /// When the machine wants to look again, and why.
    pub next_wakeup: Option<(Timestamp, Reason)>,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// When the refresh token is expected to die, if anything is known of it.
    pub refresh_expires_at: Option<Timestamp>,
    /// How long access tokens live whose answers do not state it, if that was learnt.
    pub learnt_life: Option<Duration>,
}
