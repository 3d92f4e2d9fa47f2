//! What the daemon lends to a command: a unix socket where requests name the upstream of one of its routes
//! (`proxy/policy/scope.rs`), and the key for it. After a restart it has lent nothing, and is asked once more; once a person
//! has revoked the key, it is asked for nothing any more.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::header::HeaderValue;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tracing::debug;

use crate::secret::Secret;

/// What the daemon has lent: good as long as this lives and the daemon runs.
#[derive(Debug)]
pub(crate) struct Lent {
    /// Where requests name an upstream.
    pub(crate) socket: PathBuf,
    /// The key for it.
    pub(crate) key: Secret,
    /// The connection that both end with.
    pub(crate) line: OwnedFd,
}

/// A daemon that takes a socket away says why, or ends, within milliseconds.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// How often that is looked for: for two seconds, after which somebody else has removed the socket.
const LOOKS: u32 = 200;

/// What the daemon says on that connection when the key has been revoked.
pub(crate) const REVOKED: &[u8] = b"{\"revoked\":true}\n";

impl Lent {
    /// Whether the key has been revoked, now that there is no socket any more. The daemon says so, or closes the connection as
    /// it ends.
    async fn has_been_revoked(&self) -> bool {
        for _ in 0..LOOKS {
            if self.is_said_to_be_revoked() || self.is_closed() {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        self.is_said_to_be_revoked()
    }

    fn is_said_to_be_revoked(&self) -> bool {
        let mut said = [0; 256];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK; // to be asked again
        let length = rustix::net::recv(&self.line, &mut said, flags).map_or(0, |(length, _)| length);
        said[..length].windows(REVOKED.len()).any(|part| part == REVOKED)
    }

    fn is_closed(&self) -> bool {
        let mut line = [PollFd::new(&self.line, PollFlags::RDHUP)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut line, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }
}

/// Asks the daemon to lend once more: after a restart it knows nothing of what was lent before.
type Lend = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Lent, String>>>>>;

/// The daemon, as a command reaches it.
pub(crate) struct Daemon {
    lent: RefCell<Option<Rc<Lent>>>,
    lend: Lend,
    lending: Mutex<()>,
    /// Whether that has been told.
    is_told: Cell<bool>,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("lent", &self.lent).finish_non_exhaustive()
    }
}

impl Daemon {
    /// `lend` is asked when nothing is lent yet, and when the socket is gone: its error is a sentence for people.
    pub(crate) fn new(lent: Option<Lent>, lend: Lend) -> Self {
        Self { lent: RefCell::new(lent.map(Rc::new)), lend, lending: Mutex::new(()), is_told: Cell::new(false) }
    }

    /// A connection to the daemon, and the key to present on it.
    ///
    /// # Errors
    ///
    /// A sentence, if there is no daemon or it lends nothing.
    pub(crate) async fn connect(&self) -> Result<(UnixStream, HeaderValue), String> {
        let lent = self.lent.borrow().clone();
        if let Some(lent) = &lent
            && let Ok(stream) = UnixStream::connect(&lent.socket).await
        {
            return Ok((stream, field(lent)?));
        }
        let _one_at_a_time = self.lending.lock().await;
        let now = self.lent.borrow().clone();
        if let Some(now) = &now
            && now.has_been_revoked().await
        {
            return Err(self.told_of_the_end());
        }
        let now = match now {
            // somebody else has asked meanwhile
            Some(now) if !lent.as_ref().is_some_and(|lent| Rc::ptr_eq(lent, &now)) => now,
            _ => {
                let new = Rc::new((self.lend)().await?);
                if lent.is_some() {
                    debug!("the daemon was started anew, and has lent another address");
                }
                self.lent.replace(Some(new.clone()));
                new
            }
        };
        let stream = UnixStream::connect(&now.socket).await.map_err(|error| error.to_string())?;
        Ok((stream, field(&now)?))
    }

    /// Says once, on standard error, that a person has ended this.
    fn told_of_the_end(&self) -> String {
        let why = "the key that the daemon had lent was revoked: there are no tokens any more";
        if !self.is_told.replace(true) {
            anstream::eprintln!("valetd: {why}");
        }
        why.to_owned()
    }
}

fn field(lent: &Lent) -> Result<HeaderValue, String> {
    key_field(&lent.key).ok_or_else(|| "the key cannot be presented".to_owned())
}

/// A client key as a field's value.
pub(crate) fn key_field(key: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(key.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
