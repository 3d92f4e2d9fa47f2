//! The person's own screen: whether a browser that is opened shows there, how one is opened, and what is said where none is.
//!
//! Opening is an extra: the address is on the terminal before, and whatever becomes of the browser, the wait goes on.

use std::process::{Command, Stdio};

use crate::platform::environment;

/// Where this process runs, as far as a browser is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A desktop of this machine.
    Desktop,
    /// Linux in Windows, whose browser is another system's.
    Wsl,
    /// The other end of a line: a browser here would show to nobody, or be lynx in this terminal.
    Remote,
    /// No screen is known of: a console, a container, a service.
    Nowhere,
}

impl Place {
    /// Where we are.
    pub(super) fn here() -> Self {
        Self::of(environment::is_set)
    }

    fn of(is_set: impl Fn(&str) -> bool) -> Self {
        if is_set("SSH_CONNECTION") || is_set("SSH_TTY") {
            return Place::Remote;
        }
        if is_set("WSL_INTEROP") || is_set("WSL_DISTRO_NAME") {
            return Place::Wsl;
        }
        match cfg!(target_os = "macos") || is_set("WAYLAND_DISPLAY") || is_set("DISPLAY") {
            true => Place::Desktop,
            false => Place::Nowhere,
        }
    }

    /// Opens an address in a browser, if that shows on the person's own screen.
    pub(super) fn open(self, url: &str) {
        match self {
            Place::Desktop => {
                let _ = open::that_detached(url);
            }
            Place::Wsl => open_in_windows(url),
            Place::Remote | Place::Nowhere => {}
        }
    }
}

/// By what there is: `wslview`, which not every distribution has, or else Windows' own. Neither's end says anything.
fn open_in_windows(url: &str) {
    let quiet = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().is_ok()
    };
    let order = format!("Start-Process '{}'", url.replace('\'', "%27"));
    let _ = quiet(Command::new("wslview").arg(url))
        || quiet(Command::new("powershell.exe").args(["-NoProfile", "-NonInteractive", "-Command", &order]));
}

/// The command that brings a port of this machine to the one that the person sits at, where they have come by ssh.
pub(super) fn tunnel_command(redirect_host: &str, port: u16) -> Option<String> {
    let user = environment::text("USER").or_else(|| environment::text("LOGNAME"));
    tunnel(&environment::text("SSH_CONNECTION")?, user.as_deref(), redirect_host, port)
}

/// `connection` is sshd's: the client's address and port, then the server's.
fn tunnel(connection: &str, user: Option<&str>, redirect_host: &str, port: u16) -> Option<String> {
    let mut words = connection.split_whitespace().skip(2);
    let (server, server_port) = (words.next()?, words.next()?);
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:%".contains(c));
    if !is_plain(server) {
        return None;
    }
    let user = user.filter(|user| is_plain(user)).map(|user| format!("{user}@")).unwrap_or_default();
    let at_port =
        if server_port == "22" || !is_plain(server_port) { String::new() } else { format!("-p {server_port} ") };
    Some(format!("ssh -N -L {port}:{redirect_host}:{port} {at_port}{user}{server}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_opened_only_where_it_shows_on_the_persons_own_screen() {
        let rows: [(&[&str], Place); 8] = [
            (&[], Place::Nowhere),
            (&["DISPLAY"], Place::Desktop),
            (&["WAYLAND_DISPLAY"], Place::Desktop),
            (&["DISPLAY", "SSH_CONNECTION"], Place::Remote),
            (&["DISPLAY", "SSH_TTY"], Place::Remote),
            (&["WSL_INTEROP", "DISPLAY"], Place::Wsl),
            (&["WSL_DISTRO_NAME"], Place::Wsl),
            (&["WSL_INTEROP", "SSH_CONNECTION"], Place::Remote),
        ];
        for (set, expected) in rows {
            if !cfg!(target_os = "macos") {
                assert_eq!(Place::of(|name| set.contains(&name)), expected, "{set:?}");
            }
        }
    }

    #[test]
    fn the_tunnels_command_can_be_run_as_it_is_shown() {
        let rows = [
            (
                "10.0.0.9 50022 10.0.0.5 22",
                Some("ada"),
                "127.0.0.1",
                Some("ssh -N -L 8254:127.0.0.1:8254 ada@10.0.0.5"),
            ),
            ("fe80::2 50022 fe80::1%eth0 2222", None, "[::1]", Some("ssh -N -L 8254:[::1]:8254 -p 2222 fe80::1%eth0")),
            ("10.0.0.9 1 10.0.0.5 22", Some("a;b"), "localhost", Some("ssh -N -L 8254:localhost:8254 10.0.0.5")),
            ("10.0.0.9 1 $(x) 22", Some("ada"), "localhost", None),
            ("10.0.0.9", Some("ada"), "localhost", None),
        ];
        for (connection, user, host, expected) in rows {
            assert_eq!(tunnel(connection, user, host, 8254).as_deref(), expected, "{connection}");
        }
    }
}
