//! The account `lab`: a stand-in of an authorization server and API, and a home whose configuration points at it.

use std::ops::Deref;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use valetd::secret::Secret;
use valetd::stand_in::{Log, Options, Provider, Rotation, StandIn};

use crate::support::providers::{Running, start};
use crate::support::{Answer, Daemon, Home, eventually, get};

/// A stand-in that runs until it is dropped.
pub(crate) struct Server(Running);

impl Server {
    pub(crate) fn start(provider: Provider, options: Options) -> Self {
        Self(start(provider, options))
    }

    /// Tokens were issued so often.
    pub(crate) fn issued(&self) -> usize {
        self.log().outcomes("issued")
    }

    /// The refresh token that was issued last: secrets are those, JWTs, and codes with dashes.
    pub(crate) fn newest_refresh_token(&self) -> String {
        let is_refresh_token = |secret: &&String| secret.len() == 128 && !secret.contains('.');
        self.secrets().iter().rfind(is_refresh_token).expect("somebody has signed in").clone()
    }
}

impl Deref for Server {
    type Target = StandIn;

    fn deref(&self) -> &StandIn {
        &self.0
    }
}

/// Tokens live an hour, and every refresh spends the refresh token.
pub(crate) fn rotating(rotation: Rotation) -> Options {
    Options { rotation, ..Options::default() }
}

/// Tokens of this life.
pub(crate) fn short(access_lifetime: Duration) -> Options {
    Options { access_lifetime, ..Options::default() }
}

/// The configuration: a free port, and the account `lab` with whatever else is said of it, of its route, and of all.
pub(crate) fn config(server: &Server, account: &str, route: &str, top: &str) -> String {
    format!(
        "listen = [\"127.0.0.1:0\"]\n{top}\n[account.lab]\ntoken_endpoint = \"{}\"\nrevocation_endpoint = \"{}\"\n\
         client_id = \"lab-client\"\nheader = \"Authorization: {{id_token}}\"\nupstream = \"{}\"\n{account}\n\
         [route.lab]\n{route}\n",
        server.token_endpoint(),
        server.revocation_endpoint().expect("the stand-in of GDH has one"),
        server.url(),
    )
}

/// Renewals as fast as they are asked for.
pub(crate) const EAGER: &str = "renew = { minimum_spacing = \"10ms\" }";

/// A home with that configuration, signed in.
pub(crate) fn home(server: &Server, account: &str, route: &str, top: &str) -> Home {
    let home = Home::with(&config(server, account, route, top));
    sign_in(&home, &server.sign_in());
    home
}

/// Hands a refresh token to the running daemon or to the store.
pub(crate) fn sign_in(home: &Home, refresh_token: &Secret) {
    home.sign_in("lab", refresh_token);
}

/// Where a daemon serves its routes.
pub(crate) fn address(daemon: &Daemon<'_>) -> String {
    daemon.status()["daemon"]["listen"][0].as_str().expect("one listener").to_owned()
}

/// A request with lab's token.
pub(crate) fn ping(address: &str) -> Answer {
    get(address, "/lab/ping").expect("an answer")
}

/// Asks for a renewal and waits until the server's response, or its lack, has been taken in, and what it brought is saved.
pub(crate) fn renew(daemon: &Daemon<'_>) -> Value {
    let came_to = |account: &Value| ["renewals", "failures", "last_failure", "state"].map(|key| account[key].clone());
    let before = daemon.account("lab");
    assert!(ask_for_renewal(daemon));
    eventually("the renewal has ended", || {
        Some(daemon.account("lab")).filter(|account| {
            account["token_requests"].as_u64() > before["token_requests"].as_u64()
                && came_to(account) != came_to(&before)
                && account["state"] != "renewing"
        })
    })
}

/// Asks for a renewal now. Returns whether the daemon took it.
pub(crate) fn ask_for_renewal(daemon: &Daemon<'_>) -> bool {
    daemon.control("POST", "/v1/accounts/lab/refresh").is_ok_and(|answer| (200..300).contains(&answer.status))
}

/// When tokens were issued.
pub(crate) fn times(log: &Log) -> Vec<SystemTime> {
    log.token_calls.iter().filter(|call| call.outcome == "issued").map(|call| call.at).collect()
}
