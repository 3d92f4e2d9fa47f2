//! The addresses of commands: where some routes exist and no others, for as long as a command runs.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::listeners::{open_to_others, serves_others};
use crate::client_keys::{AddressKind, OwnAddress};
use crate::config::{Config, ListenAddress, RouteName};
use crate::platform::random;
use crate::platform::socket::{self, Bound};
use crate::proxy::Proxy;
use crate::shutdown::shutdown;

/// Opens an address for a command, where `routes` exist and no others: on 127.0.0.1, or, where no TCP address is
/// served, or the kind asks for it, a unix socket.
pub(super) fn lend(
    proxy: &Proxy,
    routes: &[RouteName],
    kind: AddressKind,
    listen: &[ListenAddress],
    control: &Path,
    config: &Config,
) -> Result<OwnAddress, String> {
    let is_unix = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
    let on_unix = match kind {
        AddressKind::Routes => !listen.is_empty() && listen.iter().all(is_unix),
        AddressKind::RoutesOnUnix | AddressKind::Upstreams { .. } => true,
    };
    let address = match on_unix {
        true => ListenAddress::Unix(lent_socket(control)?),
        false => ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into()),
    };
    let Bound { listener, file } = socket::bind(&address).map_err(|error| error.to_string())?;
    if let ListenAddress::Unix(path) = &address {
        open_to_others(path, serves_others(config));
    }
    let (serving, ended) = shutdown();
    let lent = listener.local_addr().and_then(|address| {
        proxy.lend(&listener, routes, kind, &ended)?;
        Ok(OwnAddress { address, serving, _file: file })
    });
    lent.map_err(|error| error.to_string())
}

/// What follows the name of the control socket in those of the sockets that commands are lent.
const LENT: &str = ".exec-";

/// A unix socket for a command, beside the control socket. Its name does not come back: who still knows it after a
/// restart must not find another command's routes.
fn lent_socket(control: &Path) -> Result<PathBuf, String> {
    let random = random::name::<8>().map_err(|error| error.to_string())?;
    let mut name = control.file_name().unwrap_or_default().to_owned();
    name.push(LENT);
    name.push(random);
    Ok(control.with_file_name(name))
}

/// Removes the sockets that a daemon had lent to commands when it was killed.
#[expect(clippy::disallowed_methods, reason = "sockets that nobody listens on")]
pub(super) fn remove_lent_sockets(control: &Path) {
    let Some(prefix) = control.file_name().and_then(|name| name.to_str()).map(|name| format!("{name}{LENT}")) else {
        return;
    };
    let entries = control.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
