//! The renewer's way out: the disk, the authorization servers and the requests that wait.

use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{Account, AccountId};
use crate::oauth::Grant;
use crate::renewal::RenewalId;
use crate::secret::Secret;
use crate::store::Record;
use crate::timestamp::Timestamp;
use crate::token_source::Availability;

/// What the renewer reaches the rest of the world by. No method waits for the network.
pub(super) trait World {
    /// Makes a record durable, replacing the account's last one.
    ///
    /// # Errors
    ///
    /// A sentence for people: what could not be done, to what, and why.
    fn save(&mut self, record: &Record) -> Result<(), String>;

    /// Forgets an account's record.
    ///
    /// # Errors
    ///
    /// Likewise.
    fn remove(&mut self, account: &AccountId) -> Result<(), String>;

    /// The generation of the record that the disk has of an account; 0 if none can be read. A lower one is never saved
    /// in its place.
    fn saved_generation(&self, account: &AccountId) -> u64;

    /// Sends a grant. Owes exactly one [`Renewer::answered`] with this account and id, also when the server never
    /// replies.
    fn redeem(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant);

    /// Tells the server that a refresh token is not wanted any more. What comes of it is told to whoever waits.
    fn revoke(&mut self, account: Arc<Account>, refresh_token: Secret, reply: Option<RevokeReply>);

    /// Replaces what requests see of an account, and wakes those who wait.
    fn publish(&mut self, account: &AccountId, availability: Availability);

    /// The calendar at a point of the time line.
    fn calendar(&self, at: Timestamp) -> SystemTime;

    /// The point of the time line at a calendar's time.
    fn timestamp_of(&self, wall: SystemTime) -> Timestamp;
}

/// Where the outcome of a sign-out goes: a sentence for people.
pub(super) type RevokeReply = tokio::sync::oneshot::Sender<Result<String, String>>;
