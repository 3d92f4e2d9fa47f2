//! What the simulated servers and the store hold, and what is on its way to them and back.

use std::collections::BTreeMap;

use crate::config::AccountId;
use crate::oauth::Grant;
use crate::renewal::RenewalId;
use crate::renewer::world::{SaveError, Ticket};
use crate::store::{FaultyDisk, Record, Store, StoreError};

pub(super) const SECOND: u64 = 1000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const ENOSPC: i32 = 28;

/// How a server treats a refresh token that has been used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rotation {
    /// It stays good.
    Off,
    /// It is dead at once, and using it again ends the login (RFC 9700 section 4.14.2).
    Strict,
    /// It stays good until its successor has been used.
    Graceful,
}

/// One account's authorization server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) rotation: Rotation,
    /// An access token's life, in milliseconds.
    pub(super) life: u64,
    /// Whether answers tell it.
    pub(super) tells_life: bool,
    /// Whether an access token that has life left is handed out again.
    pub(super) hands_back: bool,
    pub(super) logins: BTreeMap<u64, Login>,
}

/// What a server knows of one sign-in.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// The refresh token in force.
    pub(super) current: usize,
    /// The access token given last.
    pub(super) access: Option<usize>,
    pub(super) ended: Option<End>,
    pub(super) has_password: bool,
    /// The observer's note: a response may have been lost since the last one that arrived.
    pub(super) may_be_lost: bool,
    /// The server has refused it in a bad minute. The disk may say so for longer than it holds.
    pub(super) was_falsely_refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Revoked,
    SignedOut,
    Reused,
}

#[derive(Clone, Debug)]
pub(super) struct AccessToken {
    pub(super) expires: u64,
    /// Whether the daemon can know when: it was told, or assumes the same.
    pub(super) is_end_known: bool,
    pub(super) is_revoked: bool,
    pub(super) login: u64,
    pub(super) refresh: usize,
}

#[derive(Clone, Debug)]
pub(super) struct RefreshToken {
    pub(super) login: u64,
    pub(super) successor: Option<usize>,
    /// The process that has got it.
    pub(super) arrived_in: Option<u32>,
    pub(super) is_saved: bool,
    /// The store has answered of it, whatever that was.
    pub(super) is_answered: bool,
}

/// What becomes of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Answered,
    AnsweredTwice,
    NotSent,
    ResetBefore,
    AnswerLost,
    /// Status and `Retry-After`.
    Busy(u16, Option<u64>),
    /// A hop on the way speaks in the server's place, with this status.
    Stranger(u16),
    ClientRefused,
    /// The server's bad minute: the refresh token is refused, and is as good as before.
    FalseRefusal,
    /// The server does what is asked, and its response cannot be read: cut, or with a new refresh token in it.
    Garbled(bool),
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    NotSent,
    Lost,
    Http { status: u16, retry_after: Option<u64>, body: String },
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    Grant(Fate),
    Answer(Outcome, Option<(usize, Option<usize>)>),
}

/// A grant on its way to the server, or what comes back.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) at: u64,
    pub(super) account: usize,
    pub(super) id: RenewalId,
    pub(super) process: u32,
    pub(super) login: u64,
    pub(super) grant: Grant,
    pub(super) message: Message,
}

/// Credentials at rest.
pub(super) enum Disk {
    /// As values: fast.
    Plain(BTreeMap<AccountId, Record>),
    /// The real store.
    Store(Box<Store>, FaultyDisk),
}

impl Disk {
    pub(super) fn load(&self, account: &AccountId) -> Result<Option<Record>, StoreError> {
        match self {
            Disk::Plain(records) => Ok(records.get(account).cloned()),
            Disk::Store(store, _) => store.load(account),
        }
    }

    pub(super) fn save(&mut self, record: &Record, is_full: bool) -> Result<(), SaveError> {
        let found = match self {
            Disk::Plain(records) => match records.get(&record.account) {
                Some(found) if found.generation > record.generation => found.clone(),
                Some(_) | None if is_full => return Err(SaveError::Failed("no space left on device".into())),
                Some(_) | None => {
                    records.insert(record.account.clone(), record.clone());
                    return Ok(());
                }
            },
            Disk::Store(store, _) => match store.save(record) {
                Ok(()) => return Ok(()),
                Err(StoreError::Stale { found: latest, .. }) => match store.load(&record.account) {
                    Ok(Some(found)) => found,
                    other => return Err(SaveError::Outnumbered { latest, words: format!("{other:?}") }),
                },
                Err(error) => return Err(SaveError::Failed(error.to_string())),
            },
        };
        Err(SaveError::Stale { found: Box::new(found), words: "a later generation is in the store".into() })
    }

    pub(super) fn remove(&mut self, account: &AccountId) -> Result<(), SaveError> {
        match self {
            Disk::Plain(records) => {
                records.remove(account);
                Ok(())
            }
            Disk::Store(store, _) => store.remove(account).map_err(|error| SaveError::Failed(error.to_string())),
        }
    }
}

/// What the store was asked and has not answered yet.
pub(super) struct AskedOfStore {
    /// When the response comes.
    pub(super) at: u64,
    pub(super) account: usize,
    pub(super) ticket: Ticket,
    /// To save; `None` if it was asked to forget.
    pub(super) record: Option<Record>,
    /// What has come of it, if it was carried out before its response set out.
    pub(super) done: Option<Result<(), SaveError>>,
    /// The response says that it failed, whatever has come of it.
    pub(super) is_failure: bool,
}

impl AskedOfStore {
    pub(super) fn token(&self) -> Option<usize> {
        let record = self.record.as_ref()?;
        record.credential.refresh_token.as_ref().map(|token| number(token.expose()))
    }
}

pub(super) fn name(account: usize) -> AccountId {
    AccountId::new(&format!("a{account}")).expect("a name")
}

pub(super) fn index(account: &AccountId) -> usize {
    account.as_str()[1..].parse().expect("a number")
}

pub(super) fn number(token: &str) -> usize {
    token[1..].parse().expect("a number")
}

pub(super) fn shown(in_flight: &InFlight) -> String {
    match &in_flight.grant {
        Grant::RefreshToken(token) => token.expose().to_owned(),
        Grant::Password { .. } => "the password".to_owned(),
        Grant::ClientCredentials | Grant::Issued => "nothing".to_owned(),
        Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. } => unreachable!("no renewal has a code"),
    }
}
