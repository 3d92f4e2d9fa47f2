//! The loop beside a slow disk: what waits for it, and what does not.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::driver::{RenewerCommand, RenewerLoop, RenewerParts, Sources};
use crate::accounts::{AccountView, Accounts};
use crate::config::{Account, AccountId, Config, testing};
use crate::http_client::HttpClient;
use crate::platform::clock::Clock;
use crate::secret::Secret;
use crate::shutdown::{ShutdownTrigger, shutdown};
use crate::stand_in::{Options, Provider, Rotation, StandIn};
use crate::store::{Credential, FaultyDisk, NewCredential, Record, Store, Trial};
use crate::token_endpoint::TokenEndpoint;
use crate::token_source::TokenSource;

/// No test waits longer for what it waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A loop with two accounts that are signed in. `slow` spends its refresh token, and notes that before; `other` does not,
/// so it saves nothing before it has a token.
struct House {
    disk: FaultyDisk,
    strict: StandIn,
    _lenient: StandIn,
    config: Arc<Config>,
    sources: Sources,
    accounts: Accounts,
    commands: mpsc::Sender<RenewerCommand>,
    stop: ShutdownTrigger,
    running: JoinHandle<std::io::Result<()>>,
    first_token: Secret,
    /// The disk takes one save a word, until this is dropped.
    go_on: std_mpsc::Sender<()>,
}

fn id(name: &str) -> AccountId {
    AccountId::new(name).expect("a name")
}

fn record(account: &Account, token: &Secret) -> Record {
    let credential = Credential { refresh_token: Some(token.clone()), password: None };
    let new = NewCredential {
        client_id: Some("valetd".to_owned()),
        servers: None,
        trial: Trial::Skipped,
        ..NewCredential::of(account, credential)
    };
    Record::new(account, 1, new, 0)
}

impl House {
    async fn start() -> Self {
        let start = |rotation| StandIn::start(Provider::Gdh, Options { rotation, ..Options::default() });
        let (strict, lenient) = (start(Rotation::Strict).await.unwrap(), start(Rotation::Off).await.unwrap());
        let text = format!(
            "[account.slow]\nprovider = \"any\"\nclient_id = \"valetd\"\ntoken_endpoint = \"{}\"\n\
             [account.other]\nprovider = \"any\"\nclient_id = \"valetd\"\ntoken_endpoint = \"{}\"\n\
             cognito_endpoint = \"{}\"\ngrant = \"cognito_initiate_auth\"\nheader = \"Authorization: {{id_token}}\"\n",
            strict.token_endpoint(),
            lenient.token_endpoint(),
            lenient.cognito_endpoint().expect("it has one"),
        );
        let config = Arc::new(testing::config(&text));
        let disk = FaultyDisk::default();
        let store = Arc::new(Store::on_faulty_disk(disk.clone()));
        let first_token = strict.sign_in();
        store.save(&record(&config.accounts[&id("slow")], &first_token)).unwrap();
        store.save(&record(&config.accounts[&id("other")], &lenient.sign_in())).unwrap();
        let go_on = disk.stall();

        let clock = Arc::new(Clock::start());
        let (demands, demanded) = mpsc::unbounded_channel();
        let (commands, notices) = mpsc::channel(8);
        let source = |id: &AccountId| (id.clone(), TokenSource::new(id.clone(), clock.clone(), demands.clone()));
        let sources: Sources = config.accounts.keys().map(source).collect();
        let (renewer, accounts) = RenewerLoop::new(RenewerParts {
            clock,
            store,
            endpoint: TokenEndpoint::new(HttpClient::direct()),
            config: config.clone(),
            sources: sources.clone(),
            demands: demanded,
            notices,
            seed: 7,
        })
        .unwrap();
        let (stop, stopped) = shutdown();
        let running = tokio::spawn(renewer.run(stopped));
        Self { disk, strict, _lenient: lenient, config, sources, accounts, commands, stop, running, first_token, go_on }
    }

    /// Waits until this is true of an account.
    async fn until(&mut self, name: &str, wanted: impl Fn(&AccountView) -> bool) {
        let is_so = |accounts: &Accounts| accounts.views().iter().any(|view| view.id == id(name) && wanted(view));
        let waiting = async {
            while !is_so(&self.accounts) {
                self.accounts.changed().await.expect("it runs");
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("it becomes so");
    }

    fn is_usable(&self, name: &str) -> bool {
        self.accounts.views().iter().any(|view| view.id == id(name) && view.snapshot.usable_until.is_some())
    }

    /// A sign of life, as the watchdog asks for it; and the same configuration anew.
    async fn answers(&self) {
        let (reply, replied) = oneshot::channel();
        self.commands.send(RenewerCommand::Ping(reply)).await.unwrap();
        tokio::time::timeout(PATIENCE, replied).await.expect("it lives").unwrap();
        let (done, configured) = oneshot::channel();
        let configure = RenewerCommand::Configure(self.config.clone(), self.sources.clone(), done);
        self.commands.send(configure).await.unwrap();
        tokio::time::timeout(PATIENCE, configured).await.expect("it lives").unwrap();
    }

    /// What a process that is started after a kill at this moment would find.
    fn after_a_kill(&self) -> Record {
        Store::on_faulty_disk(self.disk.after_a_kill()).load(&id("slow")).unwrap().expect("no login is lost")
    }
}

#[tokio::test]
async fn an_account_whose_save_takes_long_delays_no_other_one_and_no_sign_of_life() {
    let mut house = House::start().await;
    house.until("other", |view| view.snapshot.usable_until.is_some()).await;
    house.answers().await;
    assert!(!house.is_usable("slow"), "its note is not saved yet");
    assert_eq!(house.strict.log().token_calls.len(), 0, "nothing is spent before that");
    assert!(!house.after_a_kill().redeeming);
}

#[tokio::test]
async fn a_rotated_refresh_token_is_published_when_a_slow_disk_has_it_and_a_kill_meanwhile_is_known() {
    let mut house = House::start().await;
    house.until("other", |view| view.snapshot.usable_until.is_some()).await;
    house.go_on.send(()).unwrap(); // the note, and what is known of the other one now
    house.go_on.send(()).unwrap();
    tokio::time::timeout(PATIENCE, house.strict.until(|log| log.token_calls.len() == 1)).await.expect("it is renewed");
    house.until("slow", |view| view.stored.as_ref().is_some_and(|stored| stored.generation == 2)).await;
    house.answers().await;
    assert!(!house.is_usable("slow"), "its refresh token is not saved yet");
    let found = house.after_a_kill();
    assert_eq!((found.generation, found.redeeming), (1, true), "it is known that a response may be lost");
    let House { go_on, .. } = house;
    drop(go_on);
}

#[tokio::test]
async fn a_stop_waits_for_the_saves_that_are_owed() {
    let house = House::start().await;
    house.stop.start();
    house.answers().await;
    assert!(!house.running.is_finished(), "the note is owed");
    drop(house.go_on);
    tokio::time::timeout(PATIENCE, house.running).await.expect("it ends").unwrap().unwrap();
    assert_eq!(house.strict.log().token_calls.len(), 0, "nothing is sent after a stop");
    let found = Store::on_faulty_disk(house.disk.after_a_kill()).load(&id("slow")).unwrap().expect("kept");
    assert_eq!((found.generation, found.redeeming), (1, false), "so no response can be lost");
    assert_eq!(found.credential.refresh_token, Some(house.first_token));
}
