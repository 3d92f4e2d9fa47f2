//! The loop around the [`Renewer`], and its real [`World`]: the disk, the network and the requests that wait.
//!
//! The loop takes the next of: a finished renewal, what the store has answered, what requests and people say, a new
//! configuration, the soonest wakeup, the stop. It starts nothing after the stop, but waits for the responses that are owed,
//! by servers and by the store: a rotated refresh token that is on its way is saved. Commands are not waited for: what they
//! are asked for is needed before a server is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::machines::Renewer;
use super::store_thread::{self, Done, Loaded, Work, load};
use super::world::{RevokeReply, StoreAnswer, Ticket, World};
use crate::accounts::{AccountRequest, AccountView, Accounts, RequestError};
use crate::config::{Account, AccountId, ClientSecret, Config};
use crate::oauth::{Grant, Person, Tokens, Whose};
use crate::platform::clock::Clock;
use crate::platform::hints::SleepMeter;
use crate::platform::timer::WakeTimer;
use crate::renewal::{Failure, RenewalId};
use crate::secret::Secret;
use crate::shutdown::{Shutdown, ShutdownTrigger, shutdown};
use crate::store::{Record, Store};
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
    store_done: mpsc::UnboundedReceiver<Done>,
    /// What waits for records to be read, in the order in which it came.
    reading: VecDeque<Reading>,
    /// Of each account the person's sign-in that the last sign-out has made void.
    void_sign_ins: BTreeMap<AccountId, String>,
}

/// What is done when the store has been read.
enum Reading {
    /// A new configuration takes force.
    Configure(Arc<Config>, Sources, oneshot::Sender<()>),
    /// What could not be read is looked at again.
    LookAgain(oneshot::Sender<Result<(), String>>),
}

impl RenewerLoop {
    /// Loads the accounts' credentials and publishes what is known of them; sends nothing yet. The store has its thread from
    /// here on.
    ///
    /// # Errors
    ///
    /// If the kernel gives no thread.
    pub(crate) fn new(parts: RenewerParts) -> std::io::Result<(Self, Accounts)> {
        let RenewerParts { clock, store, endpoint, config, sources, demands, notices, seed } = parts;
        let (ask_store, store_done) = store_thread::start(store.clone())?;
        let (give_up, given_up) = shutdown();
        let world = RealWorld {
            clock: clock.clone(),
            ask_store,
            store: store.clone(),
            endpoint,
            sources,
            answers: JoinSet::new(),
            later: Vec::new(),
            store_answers: VecDeque::new(),
            give_up,
            given_up,
        };
        let mut renewer = Renewer::new(world, seed);
        renewer.configure(&config, |id| load(&store, id), clock.now());
        let (views, seen) = watch::channel(Arc::new(renewer.views()));
        let (requests, requested) = mpsc::channel(32);
        let this = Self {
            renewer,
            clock,
            demands,
            requests: requested,
            notices,
            views,
            void_sign_ins: BTreeMap::new(),
            store_done,
            reading: VecDeque::new(),
        };
        Ok((this, Accounts::new(requests, seen)))
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
                Some(done) = self.store_done.recv() => match done {
                    Done::Stored(answer) => {
                        self.renewer.world.store_answers.push_back(answer);
                        self.renewer.settle(self.clock.now());
                    }
                    Done::Read(loaded) => self.go_on_reading(loaded),
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
                    self.renewer.world.give_up.start();
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
                self.renewer.refresh(&account, reply, now);
            }
            AccountRequest::Replace(account, new, reply) => {
                if new.sign_in.is_some() && new.sign_in.as_ref() == self.void_sign_ins.get(&account) {
                    info!(%account, "a sign-in has come to its end after somebody has signed out; nothing changes");
                    let _ = reply.send(Err(RequestError::SignedOut));
                    return;
                }
                self.renewer.replace(&account, *new, reply, now);
            }
            AccountRequest::WhoIs(account, reply) => self.renewer.who_is(&account, reply),
            AccountRequest::Remove(account, void, reply) => {
                if let Some(void) = void {
                    self.void_sign_ins.insert(account.clone(), void);
                }
                self.renewer.remove(&account, reply, now);
            }
            AccountRequest::Lock(order, reply) => {
                self.renewer.lock(order, now);
                let _ = reply.send(Ok(()));
            }
            AccountRequest::Unlock(noted, reply) => {
                let _ = reply.send(self.renewer.unlock(noted, now));
            }
            AccountRequest::Forget(why, reply) => {
                let _ = reply.send(self.renewer.forget_credentials(&why, now));
            }
            AccountRequest::LookAgain(reply) => self.read_for(Reading::LookAgain(reply)),
        }
    }

    fn notice(&mut self, notice: RenewerCommand) {
        let now = self.clock.now();
        match notice {
            RenewerCommand::Configure(config, sources, done) => {
                self.read_for(Reading::Configure(config, sources, done));
            }
            RenewerCommand::NetworkChanged => self.renewer.network_changed(now),
            RenewerCommand::Ping(reply) => drop(reply.send(())),
        }
    }

    /// Has the records read that this needs, after what waits for others already.
    fn read_for(&mut self, reading: Reading) {
        self.reading.push_back(reading);
        if self.reading.len() == 1 {
            self.go_on_reading(Loaded::new());
        }
    }

    /// Does what waits for records to be read, in order, as far as they are read: `loaded` is what the first one asked for.
    /// What changed meanwhile (an account that has left since) is asked for anew.
    fn go_on_reading(&mut self, mut loaded: Loaded) {
        while let Some(first) = self.reading.front() {
            let wanted = match first {
                Reading::Configure(config, ..) => self.renewer.not_read(config),
                Reading::LookAgain(_) => self.renewer.unreadable(),
            };
            if wanted.iter().any(|id| !loaded.contains_key(id)) {
                return self.renewer.world.ask(Work::Read(wanted));
            }
            let mut loaded = std::mem::take(&mut loaded);
            let read = |id: &AccountId| loaded.remove(id).expect("all that is wanted was read");
            let now = self.clock.now();
            match self.reading.pop_front() {
                Some(Reading::Configure(config, sources, done)) => {
                    self.renewer.world.sources = sources;
                    self.renewer.configure(&config, read, now);
                    let _ = done.send(());
                }
                Some(Reading::LookAgain(reply)) => {
                    self.renewer.look_again(read, now);
                    let _ = reply.send(Ok(()));
                }
                None => return,
            }
        }
    }
}

/// A response on its way back, or a piece of work that brings none.
type Answer = Option<(AccountId, RenewalId, Result<Tokens, GrantFailure>)>;

/// The real world: the disk, the network and the requests that wait.
struct RealWorld {
    clock: Arc<Clock>,
    ask_store: std_mpsc::Sender<Work>,
    /// Asked directly for what registered clients prove themselves with, which no order matters to.
    store: Arc<Store>,
    endpoint: TokenEndpoint,
    sources: Sources,
    answers: JoinSet<Answer>,
    /// Grants to send once the loop runs: a renewer is built where there is no runtime yet.
    later: Vec<(Arc<Account>, RenewalId, Grant, Option<Person>)>,
    /// The store's responses that the renewer has not taken in yet.
    store_answers: VecDeque<StoreAnswer>,
    /// Ends the commands that are asked for what a grant needs.
    give_up: ShutdownTrigger,
    given_up: Shutdown,
}

impl RealWorld {
    fn ask(&mut self, work: Work) {
        // the thread ends with its last asker alone
        self.ask_store.send(work).expect("the store's thread catches its panics");
    }

    fn send_what_is_due(&mut self) {
        for (account, id, grant, is) in self.later.drain(..) {
            let (endpoint, store) = (self.endpoint.clone(), self.store.clone());
            let (name, given_up) = (account.id.clone(), self.given_up.clone());
            let work = tokio::spawn(async move {
                // no server was asked
                let untried = |detail| GrantFailure::unanswered(Failure::Transient { retry_after: None }, detail);
                let account = with_client_secret(store, account).await.map_err(untried)?;
                redeem(&endpoint, account, grant, is.as_ref(), given_up).await
            });
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

/// The account with the secret of its registered client at hand, if it has one.
///
/// # Errors
///
/// Why not, in a sentence: the store may be locked.
async fn with_client_secret(store: Arc<Store>, account: Arc<Account>) -> Result<Arc<Account>, String> {
    if account.client_secret != Some(ClientSecret::Registered) {
        return Ok(account);
    }
    // waits for the disk, which others need not
    let asked = tokio::task::spawn_blocking(move || match store.with_client_secret(&account) {
        Ok(account) => Ok(Arc::new(account.into_owned())),
        Err(error) => Err(error.to_string()),
    });
    asked.await.unwrap_or_else(|_| Err("asking the store for the client's secret ended badly".to_owned()))
}

/// Redeems a grant at the account's server, and finds out whose the tokens are where they are to be compared with who `is`
/// signed in. Commands are asked until the stop.
async fn redeem(
    endpoint: &TokenEndpoint,
    account: Arc<Account>,
    grant: Grant,
    is: Option<&Person>,
    stop: Shutdown,
) -> Result<Tokens, GrantFailure> {
    let asked = account.clone();
    let client = until(stop.clone(), async move { client(&asked).await }).await?;
    let tokens = match grant {
        // no server: it is a command, or a file
        Grant::Issued => {
            let (endpoint, account) = (endpoint.clone(), account.clone());
            until(stop, async move { endpoint.redeem(&account, &client, &grant).await }).await?
        }
        _ => endpoint.redeem(&account, &client, &grant).await?,
    };
    let whose = match is {
        Some(is) => endpoint.whose(&account, &tokens, None, Some(is)).await,
        None => Whose::default(),
    };
    Ok(Tokens { whose, ..tokens })
}

/// Asks for something that no server has to do with, until the stop: then it is given up, and tried again at the next start.
async fn until<T: Send>(
    mut stop: Shutdown,
    asking: impl Future<Output = Result<T, GrantFailure>> + Send + 'static,
) -> Result<T, GrantFailure> {
    let mut asking = Box::pin(asking);
    tokio::select! {
        answer = &mut asking => answer,
        () = stop.started() => {
            // not here: a command that takes no notice of a TERM blocks for half a second
            let _ = tokio::task::spawn_blocking(move || drop(asking)).await; // it cannot panic
            let failure = Failure::Transient { retry_after: None };
            Err(GrantFailure::unanswered(failure, "it was given up, as valetd stops".to_owned()))
        }
    }
}

impl World for RealWorld {
    fn save(&mut self, ticket: Ticket, record: &Record) {
        self.ask(Work::Save(ticket, Box::new(record.clone())));
    }

    fn remove(&mut self, ticket: Ticket, account: &AccountId) {
        self.ask(Work::Remove(ticket, account.clone()));
    }

    fn probe(&mut self, ticket: Ticket, record: &Record) {
        self.ask(Work::Probe(ticket, Box::new(record.clone())));
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
        let (endpoint, store) = (self.endpoint.clone(), self.store.clone());
        self.answers.spawn(async move {
            let id = account.id.clone();
            let outcome = match with_client_secret(store, account).await {
                Ok(account) => endpoint.revoke_in_words(&account, &refresh_token).await,
                Err(error) => format!("forgotten here, but not revoked at the server: {error}"),
            };
            match reply {
                Some(reply) => {
                    let _ = reply.send(Ok(outcome));
                }
                None => info!(account = %id, outcome, "told the server what nobody wants any more"),
            }
            None
        });
    }

    fn who_is(&mut self, account: Arc<Account>, access_token: Secret, expected: Option<Person>, reply: RevokeReply) {
        let (endpoint, store) = (self.endpoint.clone(), self.store.clone());
        self.answers.spawn(async move {
            let found = match with_client_secret(store, account).await {
                Ok(account) => endpoint.who_is(&account, &access_token).await.map_err(|error| error.detail),
                Err(error) => Err(error),
            };
            let _ = reply.send(found.map(|found| found.in_words(expected.as_ref())));
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
