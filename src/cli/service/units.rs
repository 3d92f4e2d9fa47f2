//! The units as they are shipped, and as they are written for the program that is here.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::failure::Failure;
use super::super::manager::{CONTROL_SOCKET, SERVICE, SOCKET, unit_file, unit_texts};
use crate::config::{Config, ListenAddress};
use crate::platform::program;

/// The units as they are shipped, by name.
pub(super) const UNITS: [(&str, &str); 3] = [
    (SERVICE, include_str!("../../../systemd/valetd.service")),
    (SOCKET, include_str!("../../../systemd/valetd.socket")),
    (CONTROL_SOCKET, include_str!("../../../systemd/valetd-control.socket")),
];

/// The drop-ins that are written on request, by the unit and the file's name.
pub(super) const DROP_INS: [(&str, &str); 2] = [(SERVICE, "strict.conf"), (SOCKET, "listen.conf")];

const STRICT: &str = include_str!("../../../systemd/valetd.service.d/strict.conf");

/// Where the shipped unit expects the program.
const PACKAGED: &str = "/usr/bin/valetd";

/// How a file of ours begins, so that one that somebody else wrote is never replaced.
pub(super) const MARK: &str =
    "# Written by 'valetd service install'; to change a setting: systemctl --user edit valetd\n";

/// What `valetd service install` is asked for.
#[derive(Clone, Copy, Default)]
pub(super) struct Wishes<'a> {
    pub(super) strict: bool,
    /// The sockets are to follow this configuration's `listen`.
    pub(super) listen: Option<&'a Config>,
}

/// Every file to write, with its text. Units that a package has installed for this very program are used as they are.
pub(super) fn files(program: &Path, wishes: Wishes<'_>) -> Result<Vec<(PathBuf, String)>, Failure> {
    let folder = unit_folder()?;
    let command = command(program).ok_or_else(|| {
        let words = format!("{} cannot stand in a unit: it is no UTF-8, or has a line end in it", program.display());
        Failure::say(words)
    })?;
    let mut files: Vec<(PathBuf, String)> = match packaged(program, &folder) {
        Some(_) => Vec::new(),
        None => UNITS
            .iter()
            .map(|(name, text)| (folder.join(name), format!("{MARK}{}", with_program(text, &command))))
            .collect(),
    };
    if wishes.strict {
        files.push((drop_in(&folder, DROP_INS[0]), format!("{MARK}{STRICT}")));
    }
    if let Some(config) = wishes.listen {
        files.push((drop_in(&folder, DROP_INS[1]), format!("{MARK}{}", listen(config)?)));
    }
    Ok(files)
}

/// Where a drop-in of ours is.
pub(super) fn drop_in(folder: &Path, (unit, name): (&str, &str)) -> PathBuf {
    folder.join(format!("{unit}.d")).join(name)
}

/// The unit of a package that starts this program; `None` if there is none, or if this user has one of their own.
pub(super) fn packaged(program: &Path, folder: &Path) -> Option<PathBuf> {
    let unit = unit_file(SERVICE).filter(|unit| !unit.starts_with(folder))?;
    (program == Path::new(PACKAGED)).then_some(unit)
}

/// The drop-in that has the sockets listen where the configuration says.
fn listen(config: &Config) -> Result<String, Failure> {
    let mut text = "# Where `listen` in the configuration said when this was written; anew: \
                    valetd service install --listen\n[Socket]\nListenStream=\n"
        .to_owned();
    for address in &config.listen {
        match address {
            ListenAddress::Tcp(tcp) if tcp.port() == 0 => {
                let failure = Failure::say(format!("{tcp} has no port, and a socket unit cannot choose one"));
                return Err(failure.with_remedy("name a port in listen = [...]"));
            }
            ListenAddress::Tcp(tcp) => text.push_str(&format!("ListenStream={tcp}\n")),
            ListenAddress::Unix(path) => {
                let path = path.to_str().filter(|path| !path.contains(char::is_control));
                let path = path.ok_or_else(|| Failure::say("a socket's path cannot stand in a unit"))?;
                text.push_str(&format!("ListenStream={}\n", path.replace('%', "%%")));
            }
        }
    }
    text.push_str("SocketMode=0600\n");
    Ok(text)
}

/// Where the installed socket unit listens, in its own words, drop-ins included; `None` if it is not installed.
pub(in crate::cli) fn sockets() -> Option<Vec<String>> {
    Some(listen_streams(&unit_texts(SOCKET)?))
}

/// What `ListenStream=` comes to in a unit and its drop-ins: each adds one, and an empty one takes back those before it.
fn listen_streams(texts: &[String]) -> Vec<String> {
    let mut streams = Vec::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        match line.trim().split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            Some(("ListenStream", "")) => streams.clear(),
            Some(("ListenStream", path)) if path.starts_with('/') => {
                streams.push(format!("unix:{}", path.replace("%%", "%")));
            }
            Some(("ListenStream", address)) => streams.push(address.to_owned()),
            _ => {}
        }
    }
    streams
}

/// Where the shipped unit listens.
pub(super) fn shipped_sockets() -> Vec<String> {
    listen_streams(&UNITS.map(|(_, text)| text.to_owned())[1..2])
}

/// The unit with another program; nothing else in it speaks of the shipped one.
fn with_program(unit: &str, program: &str) -> String {
    unit.lines().fold(String::new(), |out, line| {
        let line = match line.split_once('=') {
            Some((key @ ("ExecStart" | "ExecReload"), command)) => {
                format!("{key}={}", command.replacen(PACKAGED, program, 1))
            }
            _ => line.to_owned(),
        };
        out + &line + "\n"
    })
}

/// How a unit calls a program (systemd.service(5), "Command lines"). `None` if its path cannot stand in a unit.
///
/// systemd takes no quotes, backslashes or control characters in what is to be run, and reads `$$` there to the letter, but
/// takes all of them in an argument: such a path is handed to a shell that becomes the program.
fn command(program: &Path) -> Option<String> {
    let text = program.to_str().filter(|text| !text.contains(char::is_control))?;
    let is_odd = text.contains(['\'', '"', '\\', '$']);
    let word = quoted(text);
    Some(if is_odd { format!("/bin/sh -c \"exec \\\"$$0\\\" \\\"$$@\\\"\" {word}") } else { word })
}

/// One word of a command line in a unit.
fn quoted(text: &str) -> String {
    let escaped = text.replace('%', "%%").replace('$', "$$").replace('\\', "\\\\").replace('"', "\\\"");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if escaped.chars().all(plain) { escaped } else { format!("\"{escaped}\"") }
}

pub(super) fn own_path() -> Result<PathBuf, Failure> {
    program::path().map_err(|error| Failure::new(error).while_doing("looking where valetd is"))
}

/// Where a user's units are.
pub(super) fn unit_folder() -> Result<PathBuf, Failure> {
    let base = directories::BaseDirs::new().ok_or_else(|| Failure::say("this user has no home folder"))?;
    Ok(base.config_dir().join("systemd/user"))
}

#[expect(clippy::disallowed_methods, reason = "units are the person's, and readable by all")]
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::other_than_listed;

    #[test]
    fn the_units_run_this_binary_wherever_it_is() {
        let table = [
            ("/home/me/.cargo/bin/valetd", "ExecStart=/home/me/.cargo/bin/valetd run\n"),
            ("/home/a b/100%/valetd", "ExecStart=\"/home/a b/100%%/valetd\" run\n"),
            ("/a=b/\u{e9}/valetd", "ExecStart=\"/a=b/\u{e9}/valetd\" run\n"),
            ("/x/$HOME/\"v\"", "ExecStart=/bin/sh -c \"exec \\\"$$0\\\" \\\"$$@\\\"\" \"/x/$$HOME/\\\"v\\\"\" run\n"),
            ("/it's/a\\b", "ExecStart=/bin/sh -c \"exec \\\"$$0\\\" \\\"$$@\\\"\" \"/it's/a\\\\b\" run\n"),
        ];
        for (path, expected) in table {
            let text = with_program(UNITS[0].1, &command(Path::new(path)).unwrap());
            assert!(text.contains(expected), "{path}:\n{text}");
            assert!(text.contains("\nExecReload=") && !text.contains(PACKAGED), "{path}:\n{text}");
        }
        assert_eq!(command(Path::new("/a\nExecStart=/evil")), None);
    }

    #[test]
    fn nothing_but_the_commands_differs_from_the_shipped_unit() {
        for (name, text) in UNITS {
            assert_eq!(with_program(text, PACKAGED), text, "{name}");
        }
    }

    #[test]
    fn sockets_are_those_of_the_unit_and_its_drop_ins_in_their_order() {
        let unit = || UNITS[1].1.to_owned();
        let rows = [
            ("the unit", vec![unit()], vec!["127.0.0.1:8253", "[::1]:8253"]),
            (
                "one more",
                vec![unit(), "[Socket]\nListenStream=127.0.0.1:9000\n".to_owned()],
                vec!["127.0.0.1:8253", "[::1]:8253", "127.0.0.1:9000"],
            ),
            (
                "others",
                vec![unit(), "[Socket]\nListenStream=\nListenStream=/run/%%v.sock\n".to_owned()],
                vec!["unix:/run/%v.sock"],
            ),
        ];
        for (case, texts, expected) in rows {
            assert_eq!(listen_streams(&texts), expected, "{case}");
        }
    }

    #[test]
    fn a_drop_in_says_what_the_configuration_lists_and_nothing_differs_then() {
        let config = |listen: &str| crate::config::testing::config(&format!("listen = {listen}\n"));
        let shipped = listen_streams(&[UNITS[1].1.to_owned()]);
        let defaults = crate::config::testing::config("");
        assert_eq!(other_than_listed(&defaults.listen, &shipped), None, "the defaults are the same");
        let own = config("[\"127.0.0.1:9000\", \"unix:/run/v.sock\"]");
        let words = other_than_listed(&own.listen, &shipped).unwrap();
        assert!(words.contains("not where listen does (127.0.0.1:9000, unix:/run/v.sock)"), "{words}");
        let text = listen(&own).unwrap();
        assert!(text.contains("[Socket]\nListenStream=\nListenStream=127.0.0.1:9000\nListenStream=/run/v.sock\n"));
        assert_eq!(other_than_listed(&own.listen, &listen_streams(&[UNITS[1].1.to_owned(), text])), None);
        assert!(listen(&config("[\"127.0.0.1:0\"]")).unwrap_err().to_string().contains("has no port"));
    }
}
