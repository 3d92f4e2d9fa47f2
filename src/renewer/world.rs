//! The renewer's way out: the disk, the authorization servers and the requests that wait.

use std::sync::Arc;
use std::time::SystemTime;

use crate::accounts::RequestError;
use crate::config::{Account, AccountId};
use crate::oauth::Grant;
use crate::oauth::Person;
use crate::renewal::RenewalId;
use crate::secret::Secret;
use crate::store::Record;
use crate::timestamp::Timestamp;
use crate::token_source::Availability;

/// What the renewer reaches the rest of the world by. No method waits, neither for the network nor for the store.
///
/// The store may be a folder or a service that several machines share. It compares and swaps by generation: a record never
/// takes the place of one with a higher number, and who tries is told of the later one. Of each account at most one save
/// or removal is under way. One that has been answered has happened, or never will.
pub(super) trait World {
    /// Makes a record durable, in the place of the account's last one. Owes exactly one [`StoreAnswer`] with this ticket,
    /// also when the store never replies.
    fn save(&mut self, ticket: Ticket, record: &Record);

    /// Forgets an account's record. Owes exactly one [`StoreAnswer`] likewise.
    fn remove(&mut self, ticket: Ticket, account: &AccountId);

    /// Sees whether this record could be saved now, and saves nothing. Owes exactly one [`StoreAnswer`] likewise.
    fn probe(&mut self, ticket: Ticket, record: &Record);

    /// Takes the next response of the store that has come, if one has. Whoever knows that one has come meanwhile calls
    /// [`super::machines::Renewer::settle`].
    fn store_answer(&mut self) -> Option<StoreAnswer>;

    /// Sends a grant. Owes exactly one `Renewer::answered` with this account and id, also when the server never
    /// replies.
    fn redeem(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant);

    /// [`World::redeem`], with `person` and `name` of the tokens filled in, asked of the provider where need be, to be
    /// compared with who `is` signed in at the same server, if anybody.
    fn redeem_and_ask(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant, is: Option<Person>);

    /// Tells the server that a refresh token is not wanted any more. What comes of it is told to whoever waits.
    fn revoke(&mut self, account: Arc<Account>, refresh_token: Secret, reply: Option<RevokeReply>);

    /// Asks the provider whose an access token is, and tells it to whoever waits, in a sentence.
    fn who_is(&mut self, account: Arc<Account>, access_token: Secret, expected: Option<Person>, reply: RevokeReply);

    /// Replaces what requests see of an account, and wakes those who wait.
    fn publish(&mut self, account: &AccountId, availability: Availability);

    /// The calendar at a point of the time line.
    fn calendar(&self, at: Timestamp) -> SystemTime;

    /// The point of the time line at a calendar's time.
    fn timestamp_of(&self, wall: SystemTime) -> Timestamp;
}

/// Numbers what the store was asked: never used twice in a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket(pub(super) u64);

/// What has become of a [`World::save`], a [`World::remove`] or a [`World::probe`].
#[derive(Debug)]
pub(super) struct StoreAnswer {
    pub(super) account: AccountId,
    pub(super) ticket: Ticket,
    pub(super) result: Result<(), SaveError>,
}

/// Why the store does not have what it was given.
#[derive(Debug)]
pub(super) enum SaveError {
    /// It holds a record of a later generation, which stays.
    Stale {
        /// That record.
        found: Box<Record>,
        /// A sentence for people.
        words: String,
    },
    /// It has had a record of a later generation, of which nothing can be used: it was removed, is another machine's, or is an
    /// older copy by now.
    Outnumbered {
        /// That generation.
        latest: u64,
        /// A sentence for people.
        words: String,
    },
    /// It holds nothing later, and could not do it. Worth another try.
    Failed(String),
    /// It has not replied: nobody knows what it holds. Worth another try.
    Unknown(String),
}

impl SaveError {
    /// The latest generation that the store has or has had, as far as this tells.
    pub(super) fn latest(&self) -> u64 {
        match self {
            SaveError::Stale { found, .. } => found.generation,
            SaveError::Outnumbered { latest, .. } => *latest,
            SaveError::Failed(_) | SaveError::Unknown(_) => 0,
        }
    }

    /// A sentence for people: what could not be done, to what, and why.
    pub(super) fn into_words(self) -> String {
        let (SaveError::Stale { words, .. }
        | SaveError::Outnumbered { words, .. }
        | SaveError::Failed(words)
        | SaveError::Unknown(words)) = self;
        words
    }
}

/// Where it is said whether a sign-in is saved.
pub(super) type SavedReply = tokio::sync::oneshot::Sender<Result<(), RequestError>>;

/// Where it is said whether a renewal that a person has asked for is sent: why not, in a sentence.
pub(super) type AskedReply = tokio::sync::oneshot::Sender<Result<(), String>>;

/// Where the outcome of a sign-out goes, or who is signed in: a sentence for people.
pub(super) type RevokeReply = tokio::sync::oneshot::Sender<Result<String, String>>;
