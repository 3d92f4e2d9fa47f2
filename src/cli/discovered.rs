//! What an account's server says of itself, asked for before somebody signs in to it.

use super::failure::Failure;
use super::output::remark;
use super::runtime::block_on;
use super::text::printable;
use crate::config::{Account, AccountId, Config, Issuer};
use crate::config_files;
use crate::control::client::Client;
use crate::discovery::{self, kept};
use crate::http_client::HttpClient;
use crate::oauth::metadata::Kept;
use crate::platform::paths::Paths;
use crate::store::StoreError;

/// Metadata that were found, and what was kept before.
pub(super) struct Found {
    account: AccountId,
    issuer: Issuer,
    now: Kept,
    before: Option<Kept>,
}

impl Found {
    /// Whether the daemon must read its configuration again to know of them.
    pub(super) fn is_news(&self) -> bool {
        self.before.as_ref().is_none_or(|before| before.metadata != self.now.metadata)
    }

    /// Whether credentials would go to another server than before: then what is stored works only with what was kept, which
    /// stays until somebody has signed in.
    fn is_moved(&self) -> bool {
        let before = self.before.as_ref();
        before.is_some_and(|before| kept::moved_to(&self.issuer, &before.metadata, &self.now.metadata).is_some())
    }

    /// Keeps them, now that somebody has signed in.
    ///
    /// # Errors
    ///
    /// Those of the state folder.
    pub(super) fn keep(&self, places: &Paths) -> Result<(), Failure> {
        kept::keep(&places.state_dir, &self.account, &self.now).map_err(not_kept)
    }

    /// Goes back to what was kept, if the sign-in has come to nothing and what is stored needs it.
    pub(super) fn take_back(&self, places: &Paths) {
        let Some(before) = self.before.as_ref().filter(|_| self.is_moved()) else { return };
        let _ = kept::keep(&places.state_dir, &self.account, before); // else the next sign-in mends it
        let _ = block_on(async { Client::connect(&places.socket).await?.reload().await }); // if one runs
    }
}

/// Asks the issuer of an account, if it has one, for its metadata, and reads the configuration with them. Where there is no
/// answer, what is kept will do.
///
/// # Errors
///
/// If nothing is known, or the configuration cannot be used with what was found.
pub(super) fn look(places: &Paths, config: Config, account: &Account) -> Result<(Config, Option<Found>), Failure> {
    let Some(issuer) = account.server.issuer.clone() else { return Ok((config, None)) };
    let before = kept::of(&places.state_dir, &account.id, &issuer);
    let http = HttpClient::from_environment();
    let metadata = match block_on(discovery::metadata_of(&http, &issuer, discovery::reach(account)))? {
        Ok(metadata) => metadata,
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
    let now = kept::found_now(metadata.clone());
    let found = Found { account: account.id.clone(), issuer, now, before };
    if !found.is_moved() {
        found.keep(places)?; // also if nobody signs in after all
    }
    let parsed = config_files::load_with(places, Some((&account.id, metadata)));
    let parsed = parsed.map_err(|problems| {
        let problems = problems.0.iter().map(ToString::to_string).collect();
        Failure::say("what the server says of itself cannot be used here").with_problems(problems)
    })?;
    Ok((parsed.config, Some(found)))
}

fn not_kept(error: StoreError) -> Failure {
    Failure::say(error.to_string()).while_doing("keeping what the server says of itself")
}
