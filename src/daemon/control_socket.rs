//! The control socket, and the sockets that a service manager has opened.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::net::UnixListener;
use tracing::warn;

use crate::config::ListenAddress;
use crate::platform::socket::{self, Listener, SocketFile};

/// The name of inherited sockets on which all routes are served.
const HTTP: &str = "http";

/// The name of the inherited control socket.
const CONTROL: &str = "control";

/// What the service manager has opened for us.
#[derive(Default)]
pub(super) struct Inherited {
    /// Where all routes are served.
    pub(super) http: Vec<Listener>,
    control: Option<std::os::unix::net::UnixListener>,
}

impl Inherited {
    /// Tells sockets apart by their names.
    pub(super) fn sort(sockets: Vec<(String, Listener)>) -> Self {
        let mut sorted = Self::default();
        for (name, listener) in sockets {
            match (name.as_str(), listener) {
                (HTTP, listener) => sorted.http.push(listener),
                (CONTROL, Listener::Unix(listener)) => sorted.control = Some(listener),
                (_, listener) => warn!(name, ?listener, "an inherited socket has a name that means nothing to us"),
            }
        }
        sorted
    }
}

/// The control socket, bound. Its file goes with it, if it is ours.
pub(super) struct ControlSocket {
    pub(super) listener: UnixListener,
    pub(super) file: Option<SocketFile>,
}

impl ControlSocket {
    /// Takes the inherited socket, or binds one at `path`. Must be called on a tokio runtime.
    pub(super) fn open(inherited: &mut Inherited, path: &Path) -> anyhow::Result<Self> {
        let (listener, file) = match inherited.control.take() {
            Some(listener) => (listener, None),
            None => bind(path)?,
        };
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, file })
    }

    /// Where it is.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.listener.local_addr().ok()?.as_pathname().map(Path::to_owned)
    }
}

fn bind(path: &Path) -> anyhow::Result<(std::os::unix::net::UnixListener, Option<SocketFile>)> {
    let bound = socket::bind(&ListenAddress::Unix(path.to_owned())).context("the control socket")?;
    match bound.listener {
        Listener::Unix(listener) => Ok((listener, bound.file)),
        Listener::Tcp(_) => unreachable!("a path is bound as a unix socket"),
    }
}
