//! The loop around the [`Renewer`], and its real [`World`]: the disk, the network and the requests that wait.
//!
//! The loop takes the next of: a finished renewal, what requests and people say, a new configuration, the soonest wakeup,
//! the stop. It starts nothing after the stop, but waits for the responses that are owed: a rotated refresh token that is on
//! its way is saved.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::account::NotLoaded;
use super::machines::Renewer;
use super::world::{RevokeReply, SaveError, StoreAnswer, Ticket, World};
use crate::accounts::{AccountRequest, AccountView, Accounts, Withholding};
use crate::config::{Account, AccountId, Config};
use crate::oauth::{Grant, Person, Tokens};
use crate::platform::clock::Clock;
use crate::platform::hints::SleepMeter;
use crate::platform::timer::WakeTimer;
use crate::renewal::{Failure, RenewalId};
use crate::secret::Secret;
use crate::shutdown::Shutdown;
use crate::store::{Record, Store, StoreError};
use crate::timestamp::Timestamp;
use crate::token_endpoint::{GrantFailure, TokenEndpoint, client};
use crate::token_source::{Availability, SourceDemand, TokenSource};

/// What others tell the loop besides demands and requests.
#[derive(Debug)]
pub(crate) enum RenewerCommand {
    /// There is a new configuration, with the token sources of its accounts.
    Configure(Arc<Config>, Sources, oneshot::Sender<()>),
    /// The network has changed.
    NetworkChanged,
    /// A sign of life is wanted.
    Ping(oneshot::Sender<()>),
}

/// Each account's token source.
pub(crate) type Sources = BTreeMap<AccountId, Arc<TokenSource>>;

/// What the loop needs.
pub(crate) struct RenewerParts {
    /// The time line.
    pub clock: Arc<Clock>,
    /// Credentials at rest, locked.
    pub store: Arc<Store>,
    /// The way to the authorization servers.
    pub endpoint: TokenEndpoint,
    /// The configuration to start with.
    pub config: Arc<Config>,
    /// The token sources of its accounts.
    pub sources: Sources,
    /// What requests say.
    pub demands: mpsc::UnboundedReceiver<SourceDemand>,
    /// What others tell.
    pub notices: mpsc::Receiver<RenewerCommand>,
    /// Spreads renewals over machines.
    pub seed: u64,
}

/// The loop, ready to run, and the handle that others hold.
pub(crate) struct RenewerLoop {
    renewer: Renewer<RealWorld>,
    clock: Arc<Clock>,
    demands: mpsc::UnboundedReceiver<SourceDemand>,
    requests: mpsc::Receiver<AccountRequest>,
    notices: mpsc::Receiver<RenewerCommand>,
    views: watch::Sender<Arc<Vec<AccountView>>>,
}

impl RenewerLoop {
    /// Loads the accounts' credentials and publishes what is known of them; sends nothing yet.
    pub(crate) fn new(parts: RenewerParts) -> (Self, Accounts) {
        let RenewerParts { clock, store, endpoint, config, sources, demands, notices, seed } = parts;
        let world = RealWorld {
            clock: clock.clone(),
            store,
            endpoint,
            sources,
            answers: JoinSet::new(),
            later: Vec::new(),
            store_answers: VecDeque::new(),
        };
        let mut renewer = Renewer::new(world, seed);
        configure(&mut renewer, &config, clock.now());
        let (views, seen) = watch::channel(Arc::new(renewer.views()));
        let (requests, requested) = mpsc::channel(32);
        let this = Self { renewer, clock, demands, requests: requested, notices, views };
        (this, Accounts::new(requests, seen))
    }

    /// Runs until the stop has started and no response is owed any more.
    ///
    /// # Errors
    ///
    /// If the kernel gives no timer.
    pub(crate) async fn run(mut self, mut shutdown: Shutdown) -> std::io::Result<()> {
        let mut timer = WakeTimer::new()?;
        let mut sleep = SleepMeter::start();
        let mut demands = Vec::new();
        let mut is_stopping = false;
        loop {
            if let Some(slept) = sleep.slept() {
                info!(?slept, "the machine has slept");
                self.renewer.resumed(self.clock.now());
            }
            self.renewer.world.send_what_is_due();
            self.views.send_replace(Arc::new(self.renewer.views()));
            if is_stopping && self.renewer.world.answers.is_empty() && !self.renewer.awaits_the_store() {
                return Ok(());
            }
            let wakeup = if is_stopping { None } else { self.renewer.next_wakeup() };
            tokio::select! {
                Some(answer) = self.renewer.world.answers.join_next() => match answer {
                    Ok(Some((account, id, answer))) => self.renewer.answered(&account, id, answer, self.clock.now()),
                    Ok(None) => {}
                    Err(error) => warn!(%error, "a task of the renewer ended badly"),
                },
                received = self.demands.recv_many(&mut demands, 4096), if !is_stopping => {
                    if received > 0 {
                        self.hear(&mut demands);
                    }
                }
                Some(request) = self.requests.recv() => self.request(request),
                Some(notice) = self.notices.recv() => self.notice(notice),
                _ = timer.wait(&self.clock, wakeup) => self.renewer.tick(self.clock.now()),
                () = shutdown.started(), if !is_stopping => {
                    debug!("the renewer stops; answers that are owed are waited for");
                    is_stopping = true;
                    self.renewer.stop(self.clock.now());
                }
            }
        }
    }

    /// Hands on what was said through the accounts' present sources. The others' requests wait for nothing any more, and
    /// the tokens that an upstream refused them may have the same numbers as ours.
    fn hear(&mut self, said: &mut Vec<SourceDemand>) {
        let sources = &self.renewer.world.sources;
        let is_present =
            |(source, demand): &SourceDemand| sources.get(demand.account()).is_some_and(|now| now.id() == *source);
        said.retain(is_present);
        self.renewer.demands(said.drain(..).map(|(_, demand)| demand), self.clock.now());
    }

    fn request(&mut self, request: AccountRequest) {
        let now = self.clock.now();
        match request {
            AccountRequest::Refresh(account, reply) => {
                let _ = reply.send(self.renewer.refresh(&account, now));
            }
            AccountRequest::Replace(account, new, reply) => {
                self.renewer.replace(&account, *new, reply, now);
            }
            AccountRequest::WhoIs(account, reply) => self.renewer.who_is(&account, reply),
            AccountRequest::Remove(account, reply) => self.renewer.remove(&account, reply, now),
            AccountRequest::Lock(reply) => {
                self.renewer.lock(now);
                let _ = reply.send(Ok(()));
            }
            AccountRequest::Unlock(reply) => {
                self.renewer.unlock(now);
                let _ = reply.send(Ok(()));
            }
            AccountRequest::Forget(why, reply) => {
                let _ = reply.send(self.renewer.forget_credentials(&why, now));
            }
            AccountRequest::LookAgain(reply) => {
                let store = self.renewer.world.store.clone();
                self.renewer.look_again(|id| load(&store, id), now);
                let _ = reply.send(Ok(()));
            }
        }
    }

    fn notice(&mut self, notice: RenewerCommand) {
        let now = self.clock.now();
        match notice {
            RenewerCommand::Configure(config, sources, done) => {
                self.renewer.world.sources = sources;
                configure(&mut self.renewer, &config, now);
                let _ = done.send(());
            }
            RenewerCommand::NetworkChanged => self.renewer.network_changed(now),
            RenewerCommand::Ping(reply) => drop(reply.send(())),
        }
    }
}

fn configure(renewer: &mut Renewer<RealWorld>, config: &Config, now: Timestamp) {
    let store = renewer.world.store.clone();
    renewer.configure(config, |id| load(&store, id), now);
}

fn load(store: &Store, id: &AccountId) -> Result<Option<Record>, NotLoaded> {
    store.load(id).map_err(|error| match error {
        StoreError::Locked { .. } if store.is_opening() => NotLoaded::Opening,
        error @ StoreError::Locked { .. } => NotLoaded::Withheld(Withholding::StoreLocked, error.to_string()),
        error @ StoreError::OtherMachine { .. } => NotLoaded::Withheld(Withholding::OtherMachine, error.to_string()),
        error @ StoreError::KeyGone { .. } => NotLoaded::Withheld(Withholding::KeyGone, error.to_string()),
        error if error.is_in_the_way() => NotLoaded::InTheWay(error.to_string()),
        error => NotLoaded::Unreadable(error.to_string()),
    })
}

/// A response on its way back, or a piece of work that brings none.
type Answer = Option<(AccountId, RenewalId, Result<Tokens, GrantFailure>)>;

/// The real world: the disk, the network and the requests that wait.
struct RealWorld {
    clock: Arc<Clock>,
    store: Arc<Store>,
    endpoint: TokenEndpoint,
    sources: Sources,
    answers: JoinSet<Answer>,
    /// Grants to send once the loop runs: a renewer is built where there is no runtime yet.
    later: Vec<(Arc<Account>, RenewalId, Grant, Option<Person>)>,
    /// The folder's answers, which come with the call.
    store_answers: VecDeque<StoreAnswer>,
}

impl RealWorld {
    /// What a record that was not saved means for the one at hand.
    fn save_error(&self, account: &AccountId, error: &StoreError) -> SaveError {
        let words = error.to_string();
        match error {
            StoreError::Stale { .. } => match self.store.load(account) {
                Ok(Some(found)) => SaveError::Stale { found: Box::new(found), words },
                Ok(None) | Err(_) => SaveError::Failed(words),
            },
            StoreError::Folder(_)
            | StoreError::Held { .. }
            | StoreError::Io { .. }
            | StoreError::NotOurFile { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Locked { .. }
            | StoreError::KeyGone { .. }
            | StoreError::OtherMachine { .. }
            | StoreError::Newer { .. } => SaveError::Failed(words),
        }
    }

    fn send_what_is_due(&mut self) {
        for (account, id, grant, is) in self.later.drain(..) {
            let endpoint = self.endpoint.clone();
            let name = account.id.clone();
            let work = tokio::spawn(async move { redeem(&endpoint, &account, &grant, is.as_ref()).await });
            self.answers.spawn(async move {
                // a panic in there must not leave the machine waiting for ever
                let answer = work.await.unwrap_or_else(|error| {
                    let detail = format!("the renewal's task ended badly: {error}");
                    Err(GrantFailure::unanswered(Failure::Ambiguous, detail))
                });
                Some((name, id, answer))
            });
        }
    }
}

/// Redeems a grant at the account's server, and finds out whose the tokens are where they are to be compared with who `is`
/// signed in.
async fn redeem(
    endpoint: &TokenEndpoint,
    account: &Account,
    grant: &Grant,
    is: Option<&Person>,
) -> Result<Tokens, GrantFailure> {
    let tokens = endpoint.redeem(account, &client(account).await?, grant).await?;
    let (person, name) = match is {
        Some(is) => endpoint.whose(account, &tokens, None, Some(is)).await,
        None => (None, None),
    };
    Ok(Tokens { person, name, ..tokens })
}

impl World for RealWorld {
    fn save(&mut self, ticket: Ticket, record: &Record) {
        let account = record.account.clone();
        let result = self.store.save(record).map_err(|error| self.save_error(&account, &error));
        self.store_answers.push_back(StoreAnswer { account, ticket, result });
    }

    fn remove(&mut self, ticket: Ticket, account: &AccountId) {
        self.store.forget_pending(account);
        let result = self.store.remove(account).map_err(|error| SaveError::Failed(error.to_string()));
        self.store_answers.push_back(StoreAnswer { account: account.clone(), ticket, result });
    }

    fn store_answer(&mut self) -> Option<StoreAnswer> {
        self.store_answers.pop_front()
    }

    fn redeem(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant) {
        self.later.push((account, id, grant, None));
    }

    fn redeem_and_ask(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant, is: Person) {
        self.later.push((account, id, grant, Some(is)));
    }

    fn revoke(&mut self, account: Arc<Account>, refresh_token: Secret, reply: Option<RevokeReply>) {
        let endpoint = self.endpoint.clone();
        self.answers.spawn(async move {
            let outcome = endpoint.revoke_in_words(&account, &refresh_token).await;
            match reply {
                Some(reply) => {
                    let _ = reply.send(Ok(outcome));
                }
                None => info!(account = %account.id, outcome, "told the server what nobody wants any more"),
            }
            None
        });
    }

    fn who_is(&mut self, account: Arc<Account>, access_token: Secret, expected: Option<Person>, reply: RevokeReply) {
        let endpoint = self.endpoint.clone();
        self.answers.spawn(async move {
            let found = endpoint.who_is(&account, &access_token).await;
            let _ = reply.send(found.map(|found| found.in_words(expected.as_ref())).map_err(|error| error.detail));
            None
        });
    }

    fn publish(&mut self, account: &AccountId, availability: Availability) {
        if let Some(source) = self.sources.get(account) {
            source.publish(availability);
        }
    }

    fn calendar(&self, at: Timestamp) -> SystemTime {
        self.clock.calendar(at)
    }

    fn timestamp_of(&self, wall: SystemTime) -> Timestamp {
        self.clock.timestamp_of(wall)
    }
}
