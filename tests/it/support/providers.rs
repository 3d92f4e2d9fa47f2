//! Both providers' stand-ins, on a thread of their own so that stories can be told without async.

use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;
use valetd::stand_in::{Options, Provider, StandIn};

/// A running stand-in; stopped when dropped.
pub struct Running {
    stand_in: std::sync::Arc<StandIn>,
    _stop: oneshot::Sender<()>,
}

impl std::ops::Deref for Running {
    type Target = StandIn;
    fn deref(&self) -> &StandIn {
        &self.stand_in
    }
}

/// Starts a provider's stand-in.
pub fn start(provider: Provider, options: Options) -> Running {
    let (started, has_started) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stand_in = std::sync::Arc::new(StandIn::start(provider, options).await.expect("a port"));
            started.send(stand_in).expect("somebody waits");
            let _ = stopped.await;
        });
    });
    Running { stand_in: has_started.recv().expect("it starts"), _stop: stop }
}

/// A configuration with both accounts, leading to stand-ins, and one address for all routes.
pub fn config(listen: &str, gdh: &StandIn, gbdx: &StandIn) -> String {
    format!("listen = [\"{listen}\"]\n{}{}", gdh_account(gdh), gbdx_account(gbdx))
}

/// The GDH preset, leading to a stand-in; a form refresh, so that it works with and without rotation.
pub fn gdh_account(gdh: &StandIn) -> String {
    format!(
        "[account.gdh]\nprovider = \"gdh\"\ntoken_endpoint = \"{}\"\ncognito_endpoint = \"{}\"\n\
         revocation_endpoint = \"{}\"\nupstream = \"{}\"\n",
        gdh.token_endpoint(),
        gdh.cognito_endpoint().expect("GDH has one"),
        gdh.revocation_endpoint().expect("GDH has one"),
        gdh.url()
    )
}

/// The GBDX preset, leading to a stand-in with all its routes.
pub fn gbdx_account(gbdx: &StandIn) -> String {
    let mut text = format!(
        "[account.gbdx]\nprovider = \"gbdx\"\ntoken_endpoint = \"{}\"\nupstream = \"{}\"\n",
        gbdx.token_endpoint(),
        gbdx.url()
    );
    for route in ["vector", "rda", "idaho"] {
        text += &format!("[route.gbdx-{route}]\nupstream = \"{}\"\n", gbdx.url());
    }
    text
}
