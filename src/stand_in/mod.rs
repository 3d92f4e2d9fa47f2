//! Stand-ins of both providers, on loopback: an authorization server and an API in one, with switches for everything
//! that goes wrong in the world. For the demo and for tests; `run` never comes here.
//!
//! `issuer` decides who is issued what; `gdh`, `gbdx` and `open_id` speak the providers' dialects; `server` takes the requests,
//! `faults` spoils the responses, `api` has what both APIs have in common, `log` remembers. Here is the handle. All that a
//! stand-in knows is gone when it is dropped.
//!
//! Both APIs also answer, to a good token: `/echo` (what arrived, as JSON), `/download/N` (N bytes, chunked), `/gzip`,
//! `/no-content`, `/slow/MILLISECONDS`, `/ticks/MILLISECONDS` (server-sent events, for ever), and `/unauthorized` (401,
//! whatever the token); and they have an MCP server (`mcp`).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::platform::clock::wall;
use crate::secret::Secret;

mod api;
mod body;
mod faults;
mod gbdx;
mod gdh;
mod issuer;
mod log;
mod mcp;
mod open_id;
mod server;
#[cfg(test)]
mod tests;

pub use api::Provider;
pub use faults::Behaviour;
use issuer::Issuer;
pub use issuer::{Options, PASSWORD, Rotation, USERNAME};
pub use log::{ApiCall, Log, TokenCall};
pub use mcp::McpLog;
pub use open_id::{Decision, Manners};
use server::{State, World, accept};

/// A running stand-in. It stops, with all its connections, when it is dropped.
pub struct StandIn {
    address: SocketAddr,
    world: Arc<World>,
    server: JoinSet<()>,
}

impl StandIn {
    /// Starts a stand-in on a free port of 127.0.0.1, on the current runtime.
    ///
    /// # Errors
    ///
    /// When there is no port to be had.
    pub async fn start(provider: Provider, options: Options) -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), provider, options).await
    }

    /// The same at a given address, as a server that comes back. It remembers nothing.
    ///
    /// # Errors
    ///
    /// When the address is taken.
    pub async fn start_on(address: SocketAddr, provider: Provider, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let mut state = State { issuer: Issuer::new(options), ..State::default() };
        if provider == Provider::OpenId {
            state.issuer.url = format!("http://{address}");
        }
        let (url, changed) = (format!("http://{address}"), watch::Sender::new(()));
        let world = Arc::new(World { provider, url, state: Mutex::new(state), mcp: Arc::default(), changed });
        let mut server = JoinSet::new();
        server.spawn(accept(listener, world.clone()));
        Ok(Self { address, world, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's base URL, without a `/` at its end.
    pub fn url(&self) -> &str {
        &self.world.url
    }

    /// Where grants are redeemed as forms.
    pub fn token_endpoint(&self) -> String {
        let path = match self.world.provider {
            Provider::Gdh => "/oauth2/token",
            Provider::Gbdx => "/auth/v1/oauth/token/",
            Provider::OpenId => "/token",
        };
        format!("{}{path}", self.world.url)
    }

    /// Cognito's JSON API, where the provider has one.
    pub fn cognito_endpoint(&self) -> Option<String> {
        (self.world.provider == Provider::Gdh).then(|| format!("{}/", self.world.url))
    }

    /// Where refresh tokens are revoked, where the provider has such a place.
    pub fn revocation_endpoint(&self) -> Option<String> {
        match self.world.provider {
            Provider::Gdh => Some(format!("{}/oauth2/revoke", self.world.url)),
            Provider::Gbdx => None,
            Provider::OpenId => Some(format!("{}/revoke", self.world.url)),
        }
    }

    /// The page that shows a one-time code, where the provider has one.
    pub fn login_page(&self) -> Option<String> {
        (self.world.provider == Provider::Gdh).then(|| format!("{}/login?response_type=code", self.world.url))
    }

    /// Whether a one-time code has not been used yet.
    pub fn takes_code(&self, code: &str) -> bool {
        self.world.state().issuer.takes(code)
    }

    /// A refresh token, as of a person who signed in earlier.
    pub fn sign_in(&self) -> Secret {
        Secret::new(self.world.state().issuer.sign_in(None, wall()))
    }

    /// A one-time code, as a person is shown it after signing in.
    pub fn mint_code(&self) -> String {
        self.world.state().issuer.mint_code(None)
    }

    /// Changes lifetimes and rotation for what is issued from now on.
    pub fn change(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.world.state().issuer.options);
    }

    /// Changes who signs in at an OpenID provider from now on, and what comes of it.
    pub fn change_manners(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.world.state().desk.manners);
    }

    /// Makes the token endpoint behave so for that many calls, or until it is told otherwise. Revocations are spared.
    pub fn behave(&self, behaviour: Behaviour, calls: Option<u32>) {
        let mut state = self.world.state();
        state.behaviour = behaviour;
        state.calls_left = calls;
    }

    /// Makes the API refuse all access and ID tokens issued so far.
    pub fn revoke_access_tokens(&self) {
        self.world.state().issuer.revoke_tokens();
    }

    /// Makes the token endpoint refuse all refresh tokens issued so far. Access tokens stay good: see
    /// [`StandIn::revoke_access_tokens`].
    pub fn revoke_refresh_tokens(&self) {
        self.world.state().issuer.revoke_sign_ins();
    }

    /// What has happened so far.
    pub fn log(&self) -> Log {
        let state = self.world.state();
        Log { reuse_detected: state.issuer.reuse_detected, ..state.log.clone() }
    }

    /// What the MCP server at `/mcp` and `/sse` has seen so far.
    pub fn mcp_log(&self) -> McpLog {
        self.world.mcp.log().clone()
    }

    /// Has every token from now on the scope that the MCP server's tool `scoped` asks for, as after a step-up.
    pub fn grant_mcp_scope(&self) {
        self.world.mcp.log().has_scope = true;
    }

    /// Makes the MCP server forget its sessions.
    pub fn forget_mcp_sessions(&self) {
        self.world.mcp.log().sessions.clear();
    }

    /// Waits until the log is as wanted, and returns it. Bound it with a timeout.
    pub async fn until(&self, wanted: impl Fn(&Log) -> bool) -> Log {
        let mut changed = self.world.changed.subscribe();
        loop {
            let log = self.log();
            if wanted(&log) {
                return log;
            }
            // the sender lives as long as `self`
            let _ = changed.changed().await;
        }
    }

    /// Every code and token issued so far, for tests that look for them where they must not be.
    pub fn secrets(&self) -> Vec<String> {
        self.world.state().issuer.secrets.clone()
    }

    /// Stops at once: the port is free and every connection is cut when this returns.
    pub async fn stop(mut self) {
        self.server.shutdown().await;
    }
}
