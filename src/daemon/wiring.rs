//! What the parts are joined by: token sources between renewer and proxy, the routing table, the look at peers.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::{AccountId, Config};
use crate::platform::clock::Clock;
use crate::platform::peer::PeerLookup;
use crate::proxy::{PeerLookups, Table};
use crate::renewer::Sources;
use crate::stats::Stats;
use crate::token_source::{SourceDemand, TokenSource};

/// Asks the kernel who is at the other end of each connection; every worker has a way of its own.
pub(super) fn peer_lookups() -> PeerLookups {
    Arc::new(|| {
        let mut lookup = PeerLookup::new();
        Box::new(move |client, server| lookup.tcp_uid(client, server))
    })
}

/// A source for each account; accounts whose tokens are the same and go to the same places as in the configuration
/// before keep theirs.
pub(super) fn sources(
    config: &Config,
    before: &Config,
    last: &Sources,
    clock: &Arc<Clock>,
    demands: &mpsc::UnboundedSender<SourceDemand>,
) -> Sources {
    let source = |id: &AccountId| match last.get(id) {
        Some(kept) if before.leaves_in_place(config, id) => kept.clone(),
        Some(replaced) => replaced.successor(),
        None => TokenSource::new(id.clone(), clock.clone(), demands.clone()),
    };
    config.accounts.keys().map(|id| (id.clone(), source(id))).collect()
}

pub(super) fn table(config: &Config, sources: &Sources, stats: &Stats) -> Result<Table, String> {
    let source = |id: &_| sources.get(id).cloned().expect("Config::parse saw to it that routes name accounts");
    Table::build(config, &source, stats).map_err(|error| error.to_string())
}
