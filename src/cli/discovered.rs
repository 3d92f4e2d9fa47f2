//! What an account's server says of itself, asked for before somebody signs in to it.

use super::configuration::account_of;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::remark;
use super::registered::{Kept as KeptClient, Registry};
use super::runtime::block_on;
use super::text::printable;
use crate::config::{Account, AccountId, ClientSecret, Config, Issuer};
use crate::config_files;
use crate::control::client::{Client, ClientError};
use crate::discovery::{self, kept};
use crate::http_client::HttpClient;
use crate::oauth::metadata::{Kept, Metadata};
use crate::platform::paths::Paths;
use crate::renewal::Why;
use crate::secret::Secret;
use crate::store::{StoreError, open_store_with};

/// What was found out before a sign-in.
pub(super) struct Looked {
    metadata: Option<Found>,
    /// Whether a client was registered.
    has_registered: bool,
}

impl Looked {
    /// Whether the daemon must read its configuration again to know of it.
    pub(super) fn is_news(&self) -> bool {
        self.has_registered || self.metadata.as_ref().is_some_and(Found::is_news)
    }

    /// Keeps it, now that somebody has signed in.
    ///
    /// # Errors
    ///
    /// Those of the state folder.
    pub(super) fn keep(&self, places: &Paths) -> Result<(), Failure> {
        self.metadata.as_ref().map_or(Ok(()), |found| found.keep(places))
    }

    /// Goes back to what was kept, if the sign-in has come to nothing and what is stored needs it.
    pub(super) fn take_back(&self, places: &Paths) {
        if let Some(found) = &self.metadata {
            found.take_back(places);
        }
    }
}

/// Metadata that were found, and what was kept before.
struct Found {
    account: AccountId,
    issuer: Issuer,
    now: Kept,
    before: Option<Kept>,
}

impl Found {
    fn is_news(&self) -> bool {
        self.before.as_ref().is_none_or(|before| before.metadata != self.now.metadata)
    }

    /// Whether credentials would go to another server than before: then what is stored works only with what was kept, which
    /// stays until somebody has signed in.
    fn is_moved(&self) -> bool {
        let before = self.before.as_ref();
        before.is_some_and(|before| kept::moved_to(&self.issuer, &before.metadata, &self.now.metadata).is_some())
    }

    fn keep(&self, places: &Paths) -> Result<(), Failure> {
        kept::keep(&places.state_dir, &self.account, &self.now).map_err(not_kept)
    }

    fn take_back(&self, places: &Paths) {
        let Some(before) = self.before.as_ref().filter(|_| self.is_moved()) else { return };
        let _ = kept::keep(&places.state_dir, &self.account, before); // else the next sign-in mends it
        let _ = block_on(async { Client::connect(&places.socket).await?.reload().await }); // if one runs
    }
}

/// Finds out what an account leaves to its server: the endpoints of its issuer, and a client of its own. Returns the
/// configuration with both, and with the client's secret, if it has one. `passphrase` is what a person has typed to open the
/// store.
///
/// # Errors
///
/// If the server says too little, or what the configuration cannot be used with; if it cannot be known which client there is.
pub(super) fn look(
    options: &Options,
    places: &Paths,
    config: Config,
    passphrase: Option<&Secret>,
    id: &AccountId,
) -> Result<(Config, Looked), Failure> {
    let http = HttpClient::from_environment();
    let before = account_of(&config, id)?.clone();
    let is_forgotten =
        before.registers && before.client_id.is_some() && client_is_refused(places, &config, passphrase, id)?;
    if is_forgotten {
        remark(&format!("{id}: the server has forgotten the client that was registered: registering another one"));
    }
    let (config, metadata) = find(places, &http, config, &before)?;
    let account = account_of(&config, id)?;
    let registry = Registry { options, places, config: &config, passphrase };
    if !account.registers || (account.client_id.is_some() && !is_forgotten) {
        if account.client_secret != Some(ClientSecret::Registered) {
            return Ok((config, Looked { metadata, has_registered: false }));
        }
        match registry.of(id)? {
            KeptClient::Usable(found) if Some(&found.client.client_id) == account.client_id.as_ref() => {
                let account = found.client_secret.map(|secret| account.with_client_secret(secret));
                return Ok((with(config, account), Looked { metadata, has_registered: false }));
            }
            KeptClient::Unusable(why) => remark(&format!("{id}: {}", printable(&why))),
            // somebody has put another in its place, or has taken it away, since the configuration was read
            KeptClient::Usable(_) | KeptClient::Nothing => {
                let words = "its registered client was changed by somebody else just now";
                return Err(Failure::say(words).with_remedy("try again"));
            }
        }
    }
    if account.client_id.is_none() && registry.has_file(id) {
        match registry.of(id) {
            // one that is another account's, say
            Ok(KeptClient::Unusable(why)) => remark(&format!("{id}: {}", printable(&why))),
            Err(failure) if failure.exit == Exit::Locked => return Err(failure), // nobody knows
            Ok(KeptClient::Usable(_) | KeptClient::Nothing) | Err(_) => {}
        }
    }
    // the one that is kept stays until there is another
    let registered = registry.register(account)?.map_err(|why| {
        let remedy = "have an id made for it at the provider, and say client_id in place of client = \"register\"";
        Failure::say(printable(&why)).while_doing("registering as a client").with_remedy(remedy)
    })?;
    let found = metadata.as_ref().map(|found| (id, found.now.metadata.clone()));
    let config = read(places, found)?;
    let account = account_of(&config, id)?;
    let account = registered.client_secret.map(|secret| account.with_client_secret(secret));
    Ok((with(config, account), Looked { metadata, has_registered: true }))
}

/// A configuration with an account in the place of the one of its name, if there is one to take it.
fn with(mut config: Config, account: Option<Account>) -> Config {
    config.accounts.extend(account.map(|account| (account.id.clone(), account)));
    config
}

/// Whether the server's last word was that it does not know the client.
fn client_is_refused(
    places: &Paths,
    config: &Config,
    passphrase: Option<&Secret>,
    id: &AccountId,
) -> Result<bool, Failure> {
    let asked = block_on(async { Client::connect(&places.socket).await?.account(id.as_str()).await })?;
    Ok(match asked {
        Ok(report) => report.why_code == Some(Why::ClientRefused),
        Err(ClientError::NotRunning(_)) => {
            let record = open_store_with(places, config, passphrase.cloned())
                .ok()
                .and_then(|store| store.load(id).ok().flatten());
            record.and_then(|record| record.set_aside).is_some_and(|aside| aside.why == Why::ClientRefused)
        }
        Err(_) => false,
    })
}

/// Asks the issuer of an account, if it has one, for its metadata, and reads the configuration with them. Where there is no
/// answer, what is kept will do.
fn find(
    places: &Paths,
    http: &HttpClient,
    config: Config,
    account: &Account,
) -> Result<(Config, Option<Found>), Failure> {
    let Some(issuer) = account.server.issuer.clone() else { return Ok((config, None)) };
    let before = kept::of(&places.state_dir, &account.id, &issuer);
    let now = match block_on(discovery::metadata_of(http, &issuer, discovery::reach(account), before.as_ref()))? {
        Ok(now) => now,
        Err(why) if account.server.token.is_some() => {
            let id = &account.id;
            remark(&format!("{id}: {}; going by what is known of {}", printable(&why), issuer.as_str()));
            return Ok((config, None));
        }
        Err(why) => {
            let doing = format!("asking {} for its endpoints", issuer.as_str());
            let remedy = "correct the issuer, or say token_endpoint (and the others) in the account";
            return Err(Failure::say(printable(&why)).while_doing(doing).with_remedy(remedy));
        }
    };
    let metadata = now.metadata.clone();
    let found = Found { account: account.id.clone(), issuer, now, before };
    if !found.is_moved() {
        found.keep(places)?; // also if nobody signs in after all
    }
    Ok((read(places, Some((&account.id, metadata)))?, Some(found)))
}

fn read(places: &Paths, found: Option<(&AccountId, Metadata)>) -> Result<Config, Failure> {
    config_files::load_with(places, found).map(|parsed| parsed.config).map_err(|problems| {
        let problems = problems.0.iter().map(ToString::to_string).collect();
        Failure::say("what the server says of itself cannot be used here").with_problems(problems)
    })
}

fn not_kept(error: StoreError) -> Failure {
    Failure::say(error.to_string()).while_doing("keeping what the server says of itself")
}
