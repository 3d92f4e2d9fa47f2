//! `exec --isolate`: the command in namespaces of its own, where nothing can be reached but the routes.
//!
//! The walls are bubblewrap's (bwrap(1)), which ordinary users may run; what is inside of them is decided here. A relay in
//! front of the command carries what it asks for to unix sockets of ours, which are paths, and reach through the wall of
//! the network's namespace.

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::UnixStream;

use super::folder::Folder;
use super::kept_out::{self, SYSTEM, real};
use super::mounts::Mount;
use super::{private, relay, services, syscalls};
use crate::cli::failure::{Exit, Failure};
use crate::lent::Daemon;
use crate::platform::io_error::words;

/// Where our sockets and files are, inside.
pub(super) const INSIDE: &str = "/run/valetd";

/// The socket of the command's proxy, in that folder.
pub(super) const PROXY: &str = "proxy.sock";

/// The socket of the routes' URLs, in that folder.
pub(super) const URLS: &str = "urls.sock";

/// The socket by which signals are handed on, in that folder.
pub(super) const SIGNALS: &str = "signals.sock";

/// Where the proxy is, inside.
pub(super) const PROXY_ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 3128);

/// Where the routes' URLs are, inside.
pub(super) const URLS_ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 8253);

/// What everybody shares: no command gets all of it.
const SHARED: [&str; 11] =
    ["/", "/dev", "/dev/shm", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/var", "/var/tmp"];

/// Files that hold what the whole system trusts.
const TRUSTED: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

/// Variables that lead to agents, buses, displays and daemons outside.
pub(super) const OUTSIDE: [&str; 14] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DISPLAY",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "GNOME_KEYRING_CONTROL",
    "GPG_AGENT_INFO",
    "KRB5CCNAME",
    "PULSE_SERVER",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// Variables that name the folder for temporary files: `/tmp`, inside, where they name none that is there.
pub(super) const TEMPORARY: [&str; 4] = ["TMPDIR", "TMP", "TEMP", "TEMPDIR"];

/// What of the machine is inside, besides the system.
#[derive(Debug)]
pub(super) struct View {
    /// The home folder, which is empty inside.
    pub(super) home: Option<PathBuf>,
    /// Where the command runs, which it may change.
    pub(super) working: PathBuf,
    /// What else it may change.
    pub(super) writable: Vec<PathBuf>,
    /// What else it may read.
    pub(super) readable: Vec<PathBuf>,
}

impl View {
    /// Reads what the command line names; relative paths are relative to the working directory.
    ///
    /// # Errors
    ///
    /// If a path is not there.
    pub(super) fn new(
        home: Option<PathBuf>,
        working: PathBuf,
        bind: Vec<PathBuf>,
        ro: Vec<PathBuf>,
    ) -> Result<Self, Failure> {
        let named = |option: &str, paths: Vec<PathBuf>| -> Result<Vec<PathBuf>, Failure> {
            let named = |path: PathBuf| match std::fs::metadata(working.join(&path)) {
                Ok(_) => Ok(working.join(path)),
                Err(error) => {
                    let says = format!("{option} {}: {}", path.display(), words(&error));
                    Err(Failure::say(says).with_remedy("name what is there").with_exit(Exit::Usage))
                }
            };
            paths.into_iter().map(named).collect()
        };
        let (writable, readable) = (named("--bind", bind)?, named("--ro", ro)?);
        Ok(Self { home, working, writable, readable })
    }

    /// What the command is given, without links.
    pub(super) fn shown(&self) -> Vec<PathBuf> {
        [&self.working].into_iter().chain(&self.writable).chain(&self.readable).map(|path| real(path)).collect()
    }

    /// Whether a path is in what the command is given.
    pub(super) fn shows(&self, path: &Path) -> bool {
        let path = real(path);
        self.shown().iter().any(|shown| path.starts_with(shown))
    }

    /// Which folders of the system are masked, so that it does not see what is to be kept out. `runtime` is the folder of this
    /// session's sockets.
    ///
    /// # Errors
    ///
    /// If the command would be given what renews tokens, or other programs' sockets and files.
    pub(super) fn masks(
        &self,
        kept_out: &[kept_out::Folder],
        runtime: Option<&Path>,
        mounts: &[Mount],
    ) -> Result<Vec<PathBuf>, Failure> {
        let shown = self.shown();
        let remedy = "run it in a folder of its own";
        let private = [(self.home.as_deref(), "the home folder"), (runtime, "the folder of this session's sockets")];
        for (folder, what) in private.into_iter().filter_map(|(folder, what)| Some((real(folder?), what))) {
            let places = [vec![folder.clone()], Mount::elsewhere(mounts, &folder)].concat();
            if let Some(shown) = shown.iter().find(|shown| places.iter().any(|place| place.starts_with(shown))) {
                let (shown, folder) = (shown.display(), folder.display());
                let says = format!("{shown} is or holds {what}, {folder}, and so what no command may see");
                return Err(Failure::say(says).with_remedy(remedy));
            }
        }
        if let Some(shown) = shown.iter().find(|shown| SHARED.iter().any(|folder| **shown == real(Path::new(folder)))) {
            let says =
                format!("{} is where agents, displays and other programs have sockets and files", shown.display());
            return Err(Failure::say(says).with_remedy(remedy));
        }
        kept_out::masks(kept_out, &shown)
    }
}

/// Carries one connection to the routes' URLs.
pub(super) async fn carry(own: Rc<Daemon>, mut stream: UnixStream) {
    match own.connect().await {
        Ok((mut daemon, _)) => drop(copy_bidirectional(&mut stream, &mut daemon).await),
        Err(why) => {
            let says = format!("valetd exec: the daemon cannot be asked: {why}\n");
            let head = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: ";
            let _ = stream.write_all(format!("{head}{}\r\n\r\n{says}", says.len()).as_bytes()).await;
            // a close before the request has been read would take the response away
            let _ = stream.shutdown().await;
            let mut nowhere = tokio::io::sink();
            let rest = tokio::io::copy(&mut stream, &mut nowhere);
            let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
        }
    }
}

/// The addresses that the hosts have inside, one each, as a client may tell them apart by nothing else.
pub(super) fn addresses<'a>(hosts: impl Iterator<Item = &'a str>) -> Vec<(String, Ipv4Addr)> {
    let mut hosts: Vec<String> = hosts.map(str::to_owned).collect();
    hosts.sort();
    hosts.dedup();
    let numbered = hosts.into_iter().zip(1_u32..);
    numbered.map(|(host, number)| (host, Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + number))).collect()
}

/// `/etc/hosts`, inside.
pub(super) fn hosts_file(addresses: &[(String, Ipv4Addr)]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for (host, address) in addresses {
        text.push_str(&format!("{address} {host}\n"));
    }
    text
}

/// What the relay is told, in front of the command.
pub(super) fn relayed<'a>(
    hosts: impl Iterator<Item = (&'a str, u16)>,
    addresses: &[(String, Ipv4Addr)],
) -> Vec<String> {
    let socket = |name: &str| format!("{INSIDE}/{name}");
    let mut words = vec!["--signals".to_owned(), socket(SIGNALS)];
    let mut carry = |address: SocketAddr, socket: String, target: String| {
        words.extend(["--carry".to_owned(), address.to_string(), socket, target]);
    };
    carry(PROXY_ADDRESS.into(), socket(PROXY), relay::AS_IT_IS.to_owned());
    carry(URLS_ADDRESS.into(), socket(URLS), relay::AS_IT_IS.to_owned());
    let hosts: Vec<(&str, u16)> = hosts.collect();
    let plain = hosts.iter().filter(|(host, port)| *port == 443 && !hosts.contains(&(host, 80)));
    for (host, port) in hosts.iter().copied().chain(plain.map(|(host, _)| (*host, 80))) {
        if let Some((_, address)) = addresses.iter().find(|(named, _)| named == host) {
            carry((*address, port).into(), socket(PROXY), format!("{host}:{port}"));
        }
    }
    words
}

/// How bubblewrap is called, but for the command.
#[derive(Debug)]
pub(super) struct Walls {
    pub(super) arguments: Vec<OsString>,
    /// Read by bubblewrap, by their numbers.
    filters: Vec<OwnedFd>,
    /// What is hidden, which was there when the arguments were made.
    covered: Vec<PathBuf>,
}

impl Walls {
    /// Whether something that was to be hidden is gone, so that nothing could be mounted there: files of `/etc` come and go
    /// while somebody adds a user or a package.
    pub(super) fn have_lost_a_place(&self) -> bool {
        self.covered.iter().any(|path| std::fs::symlink_metadata(path).is_err())
    }

    /// The descriptors that bubblewrap needs.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        self.filters.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// # Errors
    ///
    /// If the filter of system calls cannot be made.
    pub(super) fn new(
        view: &View,
        masks: &[PathBuf],
        hidden: &[PathBuf],
        folder: &Folder,
        program: &Path,
        bundle: &str,
        hosts: &Path,
    ) -> Result<Self, Failure> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut say = |words: &[&dyn AsRef<std::ffi::OsStr>]| {
            arguments.extend(words.iter().map(|word| word.as_ref().to_owned()));
        };
        // CAP_NET_BIND_SERVICE is for the relay, in a network where nobody else is. Who is called root in there owns that
        // network; by another name, bubblewrap would make one more namespace, which does not
        for flag in ["--unshare-all", "--die-with-parent", "--uid", "0", "--gid", "0"] {
            say(&[&flag]);
        }
        for flag in ["--cap-drop", "ALL", "--cap-add", "CAP_NET_BIND_SERVICE"] {
            say(&[&flag]);
        }
        for path in SYSTEM {
            match Path::new(path).read_link() {
                Ok(target) => say(&[&"--symlink", &target, &path]),
                Err(_) => say(&[&"--ro-bind-try", &path, &path]),
            }
        }
        // what is not there holds nothing, and there would be no place to mount anything
        let masks: Vec<&PathBuf> = masks.iter().filter(|mask| mask.is_dir()).collect();
        for mask in &masks {
            say(&[&"--tmpfs", mask]);
        }
        // a socket may be gone by now; a file, since nothing can be mounted through a link
        let is_there = |path: &&PathBuf| services::is_socket(path) || private::is_file(path);
        let hidden: Vec<&PathBuf> = hidden.iter().filter(is_there).collect();
        for path in &hidden {
            say(&[&"--ro-bind", &"/dev/null", path]);
        }
        say(&[&"--proc", &"/proc", &"--dev", &"/dev"]);
        for path in ["/tmp", "/run", "/var/tmp"] {
            say(&[&"--tmpfs", &path]);
        }
        say(&[&"--symlink", &"/run", &"/var/run"]);
        if let Some(home) = &view.home {
            say(&[&"--tmpfs", home]);
        }
        // by where they are now, whatever becomes of a link; and where they are called
        for path in &view.readable {
            say(&[&"--ro-bind", &real(path), &called(path)]);
        }
        for path in [&view.working].into_iter().chain(&view.writable) {
            say(&[&"--bind", &real(path), &called(path)]);
        }
        say(&[&"--ro-bind", &folder.path(), &INSIDE]);
        say(&[&"--ro-bind", &program, &format!("{INSIDE}/valetd")]);
        say(&[&"--ro-bind", &hosts, &"/etc/hosts"]);
        for file in TRUSTED.iter().filter(|file| Path::new(file).is_file()) {
            say(&[&"--ro-bind", &bundle, &real(Path::new(file))]);
        }
        for mask in &masks {
            say(&[&"--remount-ro", mask]);
        }
        // who is root outside, too, could change the kernel's settings there, and bubblewrap leaves them open (/proc/sys)
        say(&[&"--remount-ro", &"/proc"]);
        say(&[&"--chdir", &view.working]);
        let mut filters = Vec::new();
        for filter in
            syscalls::filters().map_err(|why| Failure::say(why).while_doing("making the system-call filter"))?
        {
            let file = rustix::fs::memfd_create("filter", MemfdFlags::CLOEXEC).map_err(Failure::new)?;
            let mut file = std::fs::File::from(file);
            file.write_all(&filter).map_err(Failure::new)?;
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(Failure::new)?;
            say(&[&"--add-seccomp-fd", &file.as_raw_fd().to_string()]);
            filters.push(OwnedFd::from(file));
        }
        say(&[&"--"]);
        let covered = masks.into_iter().chain(hidden).cloned().collect();
        Ok(Self { arguments, filters, covered })
    }
}

/// Keeps this machine from being allowed: whoever gets there is one of its user's processes, and gets to all other routes.
///
/// # Errors
///
/// If a host is a name or an address of it (RFC 6761 section 6.3).
pub(super) fn refuse_this_machine(allowed: &[String]) -> Result<(), Failure> {
    let is_this = |host: &&String| {
        let address = host.parse::<IpAddr>().map(|address| address.to_canonical());
        let is_named = *host == "localhost" || host.ends_with(".localhost");
        is_named || address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
    };
    match allowed.iter().find(is_this) {
        Some(host) => Err(Failure::say(format!(
            "--allow {host} would let the command at all other routes, and all of this machine"
        ))
        .with_remedy("have that program listen at a socket in a folder that --bind names")
        .with_exit(Exit::Usage)),
        None => Ok(()),
    }
}

/// Where a path is inside.
fn called(path: &Path) -> PathBuf {
    match path.components().any(|part| part == Component::ParentDir) {
        true => real(path),
        false => path.to_owned(),
    }
}

/// Bubblewrap, to run a command for which the system's files of authorities are this one; `None` where it is not there or
/// may make no namespaces.
pub(super) fn mounted(bundle: &str) -> Option<Command> {
    let mut probe = Command::new("bwrap");
    let probe = probe.args(["--dev-bind", "/", "/", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut mounted = Command::new("bwrap");
    mounted.args(["--die-with-parent", "--dev-bind", "/", "/"]);
    for file in TRUSTED.iter().filter(|file| Path::new(file).is_file()) {
        mounted.args(["--ro-bind".as_ref(), bundle.as_ref(), real(Path::new(file)).as_os_str()]);
    }
    mounted.arg("--");
    Some(mounted)
}

/// Why there is no wall, in words: the command has not run.
pub(super) fn refused() -> Failure {
    Failure::say("bubblewrap could not build the walls (its words are above), so nothing was run").with_remedy(
        "where it may make no namespaces: by AppArmor (Ubuntu 24.04), install its profile: apt install \
         apparmor-profiles; in a container, allow it user namespaces; by the kernel, sysctl \
         kernel.unprivileged_userns_clone=1",
    )
}

/// Why there is no bubblewrap.
pub(super) fn missing() -> Failure {
    Failure::say("--isolate needs bubblewrap (bwrap), which is not installed")
        .with_remedy("install it: apt install bubblewrap, dnf install bubblewrap, or as your system calls it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_cannot_be_allowed_by_any_of_its_names() {
        for (host, is_refused) in [
            ("localhost", true),
            ("x.localhost", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("localhost.example", false),
            ("192.0.2.7", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(refuse_this_machine(&[host.to_owned()]).is_err(), is_refused, "{host}");
        }
    }

    #[test]
    fn each_host_has_an_address_of_its_own_inside() {
        let addresses = addresses(["b.example", "a.example", "b.example"].into_iter());
        let shown: Vec<String> = addresses.iter().map(|(host, address)| format!("{host}={address}")).collect();
        assert_eq!(shown, ["a.example=127.0.1.1", "b.example=127.0.1.2"]);
        assert!(hosts_file(&addresses).contains("127.0.1.2 b.example\n"));
        let hosts = [("a.example", 443), ("b.example", 443), ("b.example", 8443)];
        let words = relayed(hosts.into_iter(), &addresses).join(" ");
        for part in ["127.0.0.1:3128 ", "127.0.0.1:8253 ", "127.0.1.2:8443 /run/valetd/proxy.sock b.example:8443"] {
            assert!(words.contains(part), "{words}");
        }
    }
}
