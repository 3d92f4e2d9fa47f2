//! What the service manager is told (sd_notify(3)). Without a manager every word is dropped.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

use super::environment;

/// Speaks to the service manager that started us, if one did.
#[derive(Debug)]
pub(crate) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. The variables stay: systemd believes our main process
    /// alone (`NotifyAccess=main`).
    pub(crate) fn from_environment() -> Self {
        let address = environment::value("NOTIFY_SOCKET");
        Self::new(address.as_deref(), sd_notify::watchdog_enabled())
    }

    fn new(address: Option<&OsStr>, watchdog: Option<Duration>) -> Self {
        let manager = address.and_then(|address| match connect(address) {
            Ok(manager) => Some(manager),
            Err(error) => {
                debug!(?address, %error, "NOTIFY_SOCKET cannot be used; the service manager will not hear of us");
                None
            }
        });
        Self { manager, watchdog }
    }

    /// Whether anybody listens.
    pub(crate) fn has_manager(&self) -> bool {
        self.manager.is_some()
    }

    /// The service is up; also ends a reload.
    pub(crate) fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// One line for `systemctl status`. Control characters become spaces.
    pub(crate) fn status(&self, words: &str) {
        // the protocol is lines of NAME=value: a line break in the words would say something else
        self.tell(&[NotifyState::Status(&words.replace(char::is_control, " "))]);
    }

    /// A reload begins; end it with [`Notifier::ready`].
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => debug!(%error, "the monotonic clock cannot be read; the reload is not announced"),
        }
    }

    /// The service goes down.
    pub(crate) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// The loop that does the work is alive. To be sent by that loop itself, not by a timer of its own.
    pub(crate) fn watchdog(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// How often [`Notifier::watchdog`] is to be called: half of what the manager waits, as sd_watchdog_enabled(3)
    /// advises. `None` if it does not wait for that at all.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.manager.as_ref().and(self.watchdog).map(|patience| patience / 2)
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some((socket, address)) = &self.manager else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        // addressed anew each time: the manager may have been exchanged under the same name
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            debug!(%error, "the service manager does not listen");
        }
    }
}

/// sd-notify's own transport does not know abstract names (`@...`), which containers use.
fn connect(address: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    // a manager that has stopped reading costs us a message, never a moment
    socket.set_nonblocking(true)?;
    Ok((socket, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::rerun;

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_manager_hears_every_word_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("valetd-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (address, manager) in [(path.into_os_string(), by_path), (format!("@{name}").into(), by_name)] {
            let notifier = Notifier::new(Some(&address), None);
            assert!(notifier.has_manager());
            notifier.ready();
            assert_eq!(heard(&manager), "READY=1\n");
            notifier.status("2 accounts\nMAINPID=1");
            assert_eq!(heard(&manager), "STATUS=2 accounts MAINPID=1\n");
            notifier.watchdog();
            assert_eq!(heard(&manager), "WATCHDOG=1\n");
            notifier.stopping();
            assert_eq!(heard(&manager), "STOPPING=1\n");
            notifier.reloading();
            let reload = heard(&manager);
            let usec = reload.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.strip_suffix('\n'));
            assert!(usec.is_some_and(|digits| digits.parse::<u64>().is_ok()), "{reload}");
        }
    }

    #[test]
    fn without_a_manager_words_are_dropped() {
        for address in [None, Some("/nowhere/notify"), Some("")] {
            let notifier = Notifier::new(address.map(OsStr::new), None);
            notifier.ready();
            notifier.status("nobody hears this");
            assert_eq!(notifier.watchdog_interval(), None);
        }
    }

    #[test]
    fn the_environment_names_the_manager_and_its_patience() {
        let Some(parent) =
            rerun::parent("platform::systemd::tests::the_environment_names_the_manager_and_its_patience")
        else {
            let notifier = Notifier::from_environment();
            notifier.ready();
            assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(15)));
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        parent.passes(
            parent
                .command()
                .env("NOTIFY_SOCKET", folder.path().join("notify"))
                .env("WATCHDOG_USEC", "30000000")
                .env_remove("WATCHDOG_PID"),
        );
        assert_eq!(heard(&manager), "READY=1\n");
    }
}
