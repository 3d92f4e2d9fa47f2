//! What others see of the accounts, and what they may ask of the renewer. Nothing here ever hands out a secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::AccountId;
use crate::renewal::{AccountSnapshot, RenewalId, Why};
pub(crate) use crate::store::NewCredential;
use crate::timestamp::Timestamp;
pub(crate) use crate::token_source::{Withheld, Withholding};

/// One account as it stands. No field of it could carry a token.
#[derive(Clone, Debug)]
pub(crate) struct AccountView {
    /// Its name.
    pub id: AccountId,
    /// The preset it was made from.
    pub provider: Option<String>,
    /// What it is, for people.
    pub description: Option<String>,
    /// The machine's state.
    pub snapshot: AccountSnapshot,
    /// The stored credential; `None` if there is none (nobody signed in, or the grant needs none).
    pub stored: Option<Stored>,
    /// Why it is not used, if it is there and cannot be.
    pub withheld: Option<Withheld>,
    /// When the last renewal succeeded.
    pub last_success: Option<Timestamp>,
    /// The last failure, also after a success: compare the times.
    pub last_failure: Option<LastFailure>,
    /// Renewals that succeeded since the daemon started.
    pub renewals: u64,
    /// Requests to the token endpoint since the daemon started, also those that failed.
    pub token_requests: u64,
}

/// What is known of a stored credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Its generation number.
    pub generation: u64,
    /// The first hex digits of the refresh token's SHA-256.
    pub fingerprint: String,
    /// Whether the newest one is on the disk; if not, it is lost when the daemon ends.
    pub saved: bool,
    /// Who is signed in, as far as the server told.
    pub identity: Option<String>,
    /// What the server tells that person apart by, if that was told.
    pub subject: Option<String>,
    /// When the sign-in ends, if it was given an end.
    pub ends_at: Option<Timestamp>,
    /// Whether its refresh token is one that its server replaces at each renewal, as far as is known: such a one may end
    /// when it is not renewed.
    pub rotates: bool,
}

/// A failed renewal, in words and codes that give nothing away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastFailure {
    /// When.
    pub at: Timestamp,
    /// The renewal that failed.
    pub id: RenewalId,
    /// `transient`, `ambiguous` or `permanent`; or [`UNREADABLE`], or [`IN_THE_WAY`].
    pub class: &'static str,
    /// The server's OAuth code, if it gave one.
    pub oauth_error: Option<String>,
    /// The HTTP status, if there was a response.
    pub http_status: Option<u16>,
    /// What happened, for people: "connecting to auth.example:443: connection refused".
    pub detail: String,
    /// How many attempts in a row have failed.
    pub attempt: u32,
}

/// The class of a renewal that is not sent, as what the server would put in the place of the refresh token could not be
/// saved.
pub(crate) const NOT_SAVED: &str = "not-saved";

/// The class of a failure that is none of a renewal: what is stored of the account cannot be used as it is.
pub(crate) const UNREADABLE: &str = "unreadable";

/// The same where a new sign-in could not be stored either: the failure's detail says what mends it.
pub(crate) const IN_THE_WAY: &str = "in-the-way";

/// The command that mends it. A refused client is mended in the configuration, which then has to be read again.
pub(crate) fn remedy(why: Why, account: &AccountId, invocation: &str) -> String {
    match why {
        Why::NotSignedIn | Why::Revoked | Why::Ambiguous | Why::IssuedElsewhere | Why::TermOver => {
            login(account, invocation)
        }
        Why::ClientRefused => format!("{invocation} reload"),
    }
}

/// The command that signs in to an account.
pub(crate) fn login(account: &AccountId, invocation: &str) -> String {
    format!("{invocation} login {account}")
}

/// What may be asked of the renewer. Each is answered exactly once; an error is a sentence for people.
#[derive(Debug)]
pub(crate) enum AccountRequest {
    /// Renew now. Answered when the request is sent, not when the renewal has ended.
    Refresh(AccountId, oneshot::Sender<Result<(), String>>),
    /// A person has signed in. Answered when the credential is saved or cannot be, or when its trial has kept it from
    /// taking the place of what is stored.
    Replace(AccountId, Box<NewCredential>, oneshot::Sender<Result<(), RequestError>>),
    /// Ask the provider whose the access token at hand is. Answered when it has answered, in a sentence for people.
    WhoIs(AccountId, oneshot::Sender<Result<String, String>>),
    /// A person signs out: revoke at the server where it can be done, then forget. Answered when both are done, with
    /// what happened at the server, for people. The person's sign-in that was under way is void, if one is named.
    Remove(AccountId, Option<String>, oneshot::Sender<Result<String, String>>),
    /// The store may be readable now: read what could not be read. Answered when that is done.
    LookAgain(oneshot::Sender<Result<(), String>>),
    /// Hand out no token from here on. Answered when none leaves any more.
    Lock(LockOrder, oneshot::Sender<Result<(), String>>),
    /// Hand out tokens again, unless a lock was ordered after the order that is given: that one stands.
    Unlock(LockOrder, oneshot::Sender<Result<(), String>>),
    /// Forget what was read from the store, for this reason, until it is read again. Answered when that is done, or why not.
    Forget(String, oneshot::Sender<Result<(), String>>),
}

/// Orders to lock, numbered in the order that they came in. What takes its time to unlock must not undo a later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct LockOrder(pub(crate) u64);

/// The handle to the renewer that the control socket and the daemon hold. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Accounts {
    requests: mpsc::Sender<AccountRequest>,
    views: watch::Receiver<Arc<Vec<AccountView>>>,
    /// How many orders to lock there have been.
    lock_orders: Arc<AtomicU64>,
    /// Up to which of them somebody has unlocked.
    unlocked: Arc<AtomicU64>,
}

/// What is said of a refresh token that is handed in a second time.
pub(crate) const SPENT: &str = "this refresh token was used already, and the server has replaced it: the one that took its place is kept, and this \
     one is not sent, as a server may end the login that sees it twice";

/// What is said of a refresh token that is another account's.
pub(crate) fn elsewhere(other: &AccountId) -> String {
    format!(
        "this refresh token is of the sign-in of account {other}, whose server replaces it whenever it is used: it is not \
         sent, as one of the two would lose its login"
    )
}

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// The refresh token that is handed in was spent before, and replaced.
    #[error("{SPENT}")]
    CredentialSpent,
    /// The refresh token that is handed in is of another account's sign-in.
    #[error("{}", elsewhere(_0))]
    CredentialElsewhere(AccountId),
    /// What is stored cannot be read or replaced now.
    #[error("{0}")]
    StoreLocked(String),
    /// The renewer said no.
    #[error("{0}")]
    Refused(String),
    /// The server has refused a credential that was handed in: what is stored stays.
    #[error("{0}")]
    CredentialRefused(String),
    /// A credential that was handed in is another person's: what is stored stays.
    #[error("{0}")]
    AnotherPerson(String),
    /// Somebody has signed out since the sign-in was begun that has brought a credential: nothing is stored.
    #[error("somebody has signed out since this sign-in was begun")]
    SignedOut,
    /// A credential that was handed in could not be tried: what is stored stays.
    #[error("{0}")]
    CredentialUntried(String),
}

impl Accounts {
    /// Joins the two ends; the renewer keeps the others.
    pub(crate) fn new(requests: mpsc::Sender<AccountRequest>, views: watch::Receiver<Arc<Vec<AccountView>>>) -> Self {
        Self { requests, views, lock_orders: Arc::default(), unlocked: Arc::default() }
    }

    /// All accounts as they stand, in the order of their names. Never waits.
    pub(crate) fn views(&self) -> Arc<Vec<AccountView>> {
        self.views.borrow().clone()
    }

    /// Waits until something has changed since the last call on this clone.
    pub(crate) async fn changed(&mut self) -> Result<(), RequestError> {
        self.views.changed().await.map_err(|_| RequestError::Stopping)
    }

    /// Asks for a renewal now.
    pub(crate) async fn refresh(&self, account: AccountId) -> Result<(), RequestError> {
        self.ask(|reply| AccountRequest::Refresh(account, reply)).await
    }

    /// Hands in what a sign-in brought.
    pub(crate) async fn replace(&self, account: AccountId, new: NewCredential) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        let request = AccountRequest::Replace(account, Box::new(new), reply);
        self.requests.send(request).await.map_err(|_| RequestError::Stopping)?;
        answer.await.map_err(|_| RequestError::Stopping)?
    }

    /// Asks the provider who is signed in. Returns what it says, for people.
    pub(crate) async fn who_is(&self, account: AccountId) -> Result<String, RequestError> {
        self.ask(|reply| AccountRequest::WhoIs(account, reply)).await
    }

    /// Signs out, also of the sign-in that was under way. Returns what happened at the server, for people.
    pub(crate) async fn remove(&self, account: AccountId, void: Option<String>) -> Result<String, RequestError> {
        self.ask(|reply| AccountRequest::Remove(account, void, reply)).await
    }

    /// Has what could not be read from the store read again.
    pub(crate) async fn look_again(&self) {
        let _ = self.ask(AccountRequest::LookAgain).await; // one that stops reads nothing any more
    }

    /// Hands out no token from here on; renewals go on.
    pub(crate) async fn lock(&self) -> Result<(), RequestError> {
        let order = LockOrder(self.lock_orders.fetch_add(1, Ordering::AcqRel) + 1);
        self.ask(|reply| AccountRequest::Lock(order, reply)).await
    }

    /// The latest order to lock: to be noted by who begins to unlock.
    pub(crate) fn latest_lock(&self) -> LockOrder {
        LockOrder(self.lock_orders.load(Ordering::Acquire))
    }

    /// Whether somebody has locked, and nobody has unlocked since; also where there is no account that it shows in.
    pub(crate) fn is_locked(&self) -> bool {
        self.latest_lock().0 > self.unlocked.load(Ordering::Acquire)
    }

    /// Hands out tokens again, unless a lock was ordered after this one.
    pub(crate) async fn unlock(&self, noted: LockOrder) -> Result<(), RequestError> {
        self.ask(|reply| AccountRequest::Unlock(noted, reply)).await?;
        self.unlocked.fetch_max(noted.0, Ordering::AcqRel);
        Ok(())
    }

    /// Forgets what was read from the store, for this reason, until it is read again.
    pub(crate) async fn forget(&self, why: &str) -> Result<(), RequestError> {
        self.ask(|reply| AccountRequest::Forget(why.to_owned(), reply)).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, String>>) -> AccountRequest,
    ) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| RequestError::Stopping)?;
        answer.await.map_err(|_| RequestError::Stopping)?.map_err(RequestError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_person_is_needed_is_one_word_everywhere_and_has_one_remedy() {
        let rows = [
            (Why::NotSignedIn, "not-signed-in", "valetd login lab"),
            (Why::Revoked, "revoked", "valetd login lab"),
            (Why::Ambiguous, "ambiguous", "valetd login lab"),
            (Why::IssuedElsewhere, "issued-elsewhere", "valetd login lab"),
            (Why::TermOver, "term-over", "valetd login lab"),
            (Why::ClientRefused, "client-refused", "valetd reload"),
        ];
        let lab = AccountId::new("lab").unwrap();
        for (why, word, expected) in rows {
            assert_eq!((why.code(), remedy(why, &lab, "valetd").as_str()), (word, expected));
            assert_eq!(serde_json::to_value(why).unwrap(), word, "the status document's word");
        }
    }
}
