//! A daemon whose route `api` leads to an upstream of the story's own.

use std::time::Duration;

use valetd::stand_in::{Options, Provider};

use crate::support::providers::{Running, gbdx_account, start};
use crate::support::{Daemon, Home, free_address};

/// No connection is opened before it is needed, so that whatever a story accepts by hand brings a request: otherwise one
/// is kept ready from a second after the last has ended.
pub const COLD: &str = "warm = \"0s\"";

/// A home with an account that is signed in, and the route `api` to an upstream.
pub struct Stage {
    pub home: Home,
    pub address: String,
    pub gbdx: Running,
}

impl Stage {
    /// `settings` are further lines of the route.
    pub fn leading_to(upstream: &str, settings: &str) -> Self {
        let options = Options { access_lifetime: Duration::from_secs(3600), ..Options::default() };
        let gbdx = start(Provider::Gbdx, options);
        let address = free_address();
        let home = Home::empty();
        let stage = Self { home, address, gbdx };
        stage.home.write_config(&stage.config(upstream, settings));
        stage.home.sign_in("gbdx", &stage.gbdx.sign_in());
        stage
    }

    pub fn config(&self, upstream: &str, settings: &str) -> String {
        format!(
            "listen = [\"{}\"]\n{}[route.api]\naccount = \"gbdx\"\nupstream = \"{upstream}\"\n{settings}\n",
            self.address,
            gbdx_account(&self.gbdx)
        )
    }

    pub fn start(&self) -> Daemon<'_> {
        let daemon = self.home.start();
        daemon.until("gbdx", "usable");
        daemon
    }

    /// Whether a field's value carries a token that the account's server has given out.
    pub fn is_ours(&self, authorization: &str) -> bool {
        let token = authorization.strip_prefix("Bearer ");
        token.is_some_and(|token| self.gbdx.secrets().iter().any(|secret| secret == token))
    }
}
