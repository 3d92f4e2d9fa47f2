//! The stand-ins of both providers, what can be done to them, and the configuration that leads to them.

use std::net::{Ipv4Addr, SocketAddr};

use crate::cli::failure::Failure;
use crate::platform::io_error;
use crate::stand_in::{self, Behaviour, Provider, StandIn};

/// What `--once` asks for, and a live view suggests.
pub(super) const REQUESTS: [&str; 4] =
    ["/gdh/datasets", "/gbdx/auth/v1/validate_token", "/gbdx/catalog/v2/record/1030010045539700", "/gdh/ping"];

/// Both stand-ins, and what can be done to them.
pub(super) struct Servers {
    pub(super) gdh: StandIn,
    pub(super) gbdx: StandIn,
}

impl Servers {
    /// On these ports, or on any.
    pub(super) async fn start(lives: stand_in::Options, ports: [u16; 2]) -> Result<Self, Failure> {
        let start = |provider, port| async move {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            StandIn::start_on(address, provider, lives).await.map_err(|error| {
                let failure = Failure::say(io_error::words(&error));
                let failure = failure.while_doing(format!("starting a stand-in on {address}"));
                failure.with_remedy("end what listens there, or name other ports: --keep=PORT")
            })
        };
        let [gdh, gbdx] = ports;
        Ok(Self { gdh: start(Provider::Gdh, gdh).await?, gbdx: start(Provider::Gbdx, gbdx).await? })
    }

    /// The APIs refuse every token that is out.
    pub(super) fn revoke(&self) {
        self.gdh.revoke_access_tokens();
        self.gbdx.revoke_access_tokens();
    }

    /// The authorization servers are out of order, or work again.
    pub(super) fn break_down(&self, is_out: bool) {
        for server in [&self.gdh, &self.gbdx] {
            let behaviour = match is_out {
                true => Behaviour::Status(503, "{}".to_owned(), Vec::new()),
                false => Behaviour::Normal,
            };
            server.behave(behaviour, None);
        }
    }
}

/// The presets as they are, but for where they lead.
pub(super) fn configuration(servers: &Servers, port: u16) -> String {
    let mut text = format!(
        "listen = [\"{listen}\"]\n\n{gdh}\n{gbdx}",
        listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        gdh = account("gdh", &servers.gdh),
        gbdx = account("gbdx", &servers.gbdx),
    );
    for route in ["vector", "rda", "idaho"] {
        text.push_str(&format!("\n[route.gbdx-{route}]\nupstream = \"{}\"\n", servers.gbdx.url()));
    }
    text
}

/// What a configuration says of an account at a stand-in.
pub(super) fn account(provider: &str, server: &StandIn) -> String {
    let endpoints = [
        ("token_endpoint", Some(server.token_endpoint())),
        ("cognito_endpoint", server.cognito_endpoint()),
        ("revocation_endpoint", server.revocation_endpoint()),
        ("login_page", server.login_page()),
        ("upstream", Some(server.url().to_owned())),
    ];
    let lines = endpoints.into_iter().filter_map(|(key, url)| Some(format!("{key} = \"{}\"\n", url?)));
    format!("[account.{provider}]\nprovider = \"{provider}\"\n{}", lines.collect::<String>())
}
