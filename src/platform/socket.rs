//! Sockets to be called on: bound here, or inherited from the service manager.
//!
//! A unix socket's file is made with mode 0600 from birth, in a folder that nobody else can write to. A file left
//! behind by a process that died is replaced; one that is answered never is, nor anything that is not a socket.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred, sockopt};
use tracing::{debug, warn};

use super::io_error::words;
use super::paths::OwnFolder;
use super::{environment, listeners};
use crate::advice::advised;
use crate::config::ListenAddress;

/// Connections that may wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// After an accept that failed for want of descriptors or memory (EMFILE, ENOMEM), until others have given some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest path that the kernel takes for a unix socket, without the zero behind it (unix(7), `sun_path`).
const LONGEST_PATH: usize = 107;

/// The mode that lets other users, at most, look at a folder.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// How long to wait after a failed accept(2) before the next one; `None` if the error concerns the connection that would have
/// been accepted, not the listener.
pub(crate) fn pause_after(error: &io::Error) -> Option<Duration> {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, PermissionDenied};
    let is_of_one_connection = matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted | PermissionDenied
    );
    (!is_of_one_connection).then_some(ACCEPT_PAUSE)
}

/// A listening socket: non-blocking, closed at exec.
#[derive(Debug)]
pub(crate) enum Listener {
    /// TCP, over IPv4 or IPv6.
    Tcp(TcpListener),
    /// A unix stream socket.
    Unix(UnixListener),
}

/// A listener that we bound ourselves, and the file that goes with it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Bound {
    /// What to accept on.
    pub listener: Listener,
    /// Keep it as long as connections are accepted; dropping it removes the socket's file. `None` for TCP.
    pub file: Option<SocketFile>,
}

/// A unix socket's file. Removed when this is dropped, if it is still the one that was made.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    folder: OwnFolder,
    identity: (u64, u64),
}

impl Listener {
    /// Where it listens: with the real port where 0 was asked for.
    ///
    /// # Errors
    ///
    /// The system's; [`ErrorKind::AddrNotAvailable`] for a unix socket without a path.
    pub(crate) fn local_addr(&self) -> io::Result<ListenAddress> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Listener::Unix(listener) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().ok_or(ErrorKind::AddrNotAvailable)?;
                Ok(ListenAddress::Unix(path.to_owned()))
            }
        }
    }

    /// The same socket once more, for another thread to accept on.
    ///
    /// # Errors
    ///
    /// The system's: no descriptors left.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Listener::Tcp(listener) => Listener::Tcp(listener.try_clone()?),
            Listener::Unix(listener) => Listener::Unix(listener.try_clone()?),
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Binds `address` and listens on it. For a unix socket, makes the missing folders above it (0700).
///
/// # Errors
///
/// One sentence that names the address and what can be done, with the kind that the system gave:
/// [`ErrorKind::AddrInUse`] where somebody answers there.
pub(crate) fn bind(address: &ListenAddress) -> io::Result<Bound> {
    match address {
        ListenAddress::Tcp(tcp) => {
            let bind = || {
                let listener = TcpListener::bind(tcp)?; // with SO_REUSEADDR, as the standard library does on Unix
                listener.set_nonblocking(true)?;
                rustix::net::listen(&listener, BACKLOG)?; // once more: the standard library's backlog is 128
                Ok(Bound { listener: Listener::Tcp(listener), file: None })
            };
            bind().map_err(|error| explain(address, error))
        }
        ListenAddress::Unix(path) => bind_unix(path).map_err(|error| explain(address, error)),
    }
}

fn explain(address: &ListenAddress, error: io::Error) -> io::Error {
    let remedy = match (error.kind(), address) {
        (ErrorKind::AddrInUse, ListenAddress::Tcp(tcp)) => in_use(*tcp),
        (ErrorKind::AddrInUse, ListenAddress::Unix(path)) => {
            let holder = answering(path).ok().flatten().flatten();
            let name = holder.map(|holder| listeners::name_of(holder.pid.as_raw_nonzero().get().unsigned_abs()));
            format!(": {}, or name another path", how_to_end(name.as_deref()))
        }
        (ErrorKind::PermissionDenied, ListenAddress::Tcp(_)) => {
            ": ports below 1024 are for root; name a higher one".to_owned()
        }
        (ErrorKind::AddrNotAvailable, ListenAddress::Tcp(_)) => ": this machine has no such address".to_owned(),
        (ErrorKind::InvalidInput, ListenAddress::Unix(_)) => {
            ": name a shorter one (the control socket: --socket PATH, for the daemon and for every other command)"
                .to_owned()
        }
        // flock(2) on the folder, which some network file systems do not have
        (ErrorKind::Unsupported, ListenAddress::Unix(_)) => {
            ": its file system lacks what that takes; name another folder (the control socket: --socket PATH)"
                .to_owned()
        }
        _ => String::new(),
    };
    let words = match (error.kind(), address) {
        // said with whose it is
        (ErrorKind::AddrInUse, ListenAddress::Tcp(_)) => String::new(),
        _ => format!(": {}", words(&error)),
    };
    io::Error::new(error.kind(), format!("cannot listen on {address}{words}{remedy}"))
}

/// Who has a TCP address, and what can be done.
fn in_use(address: SocketAddr) -> String {
    let ours = super::peer::own_uid();
    match listeners::occupant(address) {
        Some(occupant) if occupant.uid == ours => {
            let name = occupant.process.as_ref().map(|(_, name)| name.as_str());
            format!(": it is taken by {occupant}; {}, or name another address", how_to_end(name))
        }
        Some(occupant) => format!(
            ": it is taken by {occupant}; what tools send to localhost would go there: have it ended, or name another \
             address, and tell your tools"
        ),
        None => {
            let status = advised("status");
            format!(": nobody can be seen to listen there; is another valetd on its way up? try `{status}`")
        }
    }
}

/// What frees an address of this user's, from the name of the process that listens there. A service manager holds the
/// sockets of units, and ending it would end the session.
fn how_to_end(process: Option<&str>) -> String {
    match process {
        Some("systemd") => "a unit's socket is open there; if it is valetd's: systemctl --user stop valetd.socket \
                            valetd-control.socket"
            .to_owned(),
        Some(_) | None => format!("is another valetd running? try `{}`; end that process", advised("status")),
    }
}

#[expect(clippy::disallowed_methods, reason = "a socket that nobody listens on")]
fn bind_unix(path: &Path) -> io::Result<Bound> {
    let in_words = |kind, words: &str| Err(io::Error::new(kind, words));
    let Some((parent, _)) = path.parent().zip(path.file_name()) else {
        return in_words(ErrorKind::InvalidInput, "that is not the path of a file");
    };
    let Ok(address) = SocketAddrUnix::new(path) else {
        let length = path.as_os_str().len();
        let words = format!("a unix socket's path has at most {LONGEST_PATH} bytes, and this one has {length}");
        return in_words(ErrorKind::InvalidInput, &words);
    };
    let folder = OwnFolder::open_or_make(parent).map_err(io::Error::other)?;
    if folder.mode() & WRITABLE_BY_OTHERS != 0 {
        let words = format!(
            "the folder {} is writable by other users (mode {:04o}), who could put a socket of their own there: \
             `chmod 700` it, or name another place",
            parent.display(),
            folder.mode()
        );
        return in_words(ErrorKind::PermissionDenied, &words);
    }
    let turn = Turn::take(&folder)?;
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return in_words(
                ErrorKind::AlreadyExists,
                "that is a file, not a socket: move it away, or name another place",
            );
        }
        Ok(_) => {
            if let Some(holder) = answering(path)? {
                let whose =
                    |peer: UCred| format!(" (process {} of user {})", peer.pid.as_raw_nonzero(), peer.uid.as_raw());
                let words = format!("a running process answers there{}", holder.map_or(String::new(), whose));
                return in_words(ErrorKind::AddrInUse, &words);
            }
            debug!(path = %path.display(), "replacing the socket of a process that is gone");
            std::fs::remove_file(path)?;
        }
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the socket, so there is no moment in which others could connect, and no umask,
    // which belongs to all threads, needs to be changed
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let identity = identity(path)?;
    drop(turn);
    let file = SocketFile { path: path.to_owned(), folder, identity };
    Ok(Bound { listener: Listener::Unix(UnixListener::from(socket)), file: Some(file) })
}

/// Which process listens on the socket file `path`, as far as it is known.
fn answering(path: &Path) -> io::Result<Option<Option<UCred>>> {
    // non-blocking: with a full backlog the kernel would let us wait
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::connect(&probe, &address) {
        Ok(()) => Ok(Some(sockopt::socket_peercred(&probe).ok())),
        Err(rustix::io::Errno::AGAIN) => Ok(Some(None)),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|found| (found.dev(), found.ino()))
}

/// The right to exchange sockets in a folder: between looking at a file and replacing it, no other valetd does the same.
struct Turn<'a>(&'a File);

impl<'a> Turn<'a> {
    fn take(folder: &'a OwnFolder) -> io::Result<Self> {
        folder.handle().lock()?;
        Ok(Self(folder.handle()))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Drop for SocketFile {
    #[expect(clippy::disallowed_methods, reason = "the socket that this bound")]
    fn drop(&mut self) {
        let removed = Turn::take(&self.folder).and_then(|_turn| match identity(&self.path) {
            Ok(found) if found == self.identity => std::fs::remove_file(&self.path),
            // somebody has removed it or put a socket of their own in its place: not ours to touch
            Ok(_) | Err(_) => Ok(()),
        });
        if let Err(error) = removed {
            warn!(path = %self.path.display(), %error, "cannot remove the socket; the next start will replace it");
        }
    }
}

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;

/// Takes the listening sockets that the service manager has passed, each with the name that its unit gives it
/// (`FileDescriptorName=`), in no particular order; none if there is no manager. Removes `LISTEN_PID`, `LISTEN_FDS` and
/// `LISTEN_FDNAMES` from the environment: a second call returns nothing, and no child believes that they are its own.
///
/// To be called at the very beginning of `main`, while there is one thread.
///
/// # Errors
///
/// A sentence, if the variables make no sense or a descriptor is not a listening stream socket.
#[allow(unsafe_code)]
#[expect(clippy::disallowed_methods, reason = "no other thread runs yet, and a child must not take them for its own")]
pub(crate) fn inherited() -> io::Result<Vec<(String, Listener)>> {
    let variables = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
    let [pid, count, names] = variables.map(environment::text);
    for name in variables {
        // SAFETY: no other thread reads or writes the environment: the contract above says that there is none yet.
        unsafe { std::env::remove_var(name) };
    }
    let names = passed_names(pid.as_deref(), count.as_deref(), names.as_deref(), std::process::id())
        .map_err(|words| io::Error::new(ErrorKind::InvalidData, words))?;
    // all are owned before the first is looked at, so that an error closes the rest
    let passed: Vec<(RawFd, OwnedFd, String)> = (FIRST_PASSED..)
        .zip(names)
        .map(|(number, name)| {
            // SAFETY: LISTEN_PID said that these numbers were opened for us. Nobody else can take them up: the
            // variables that tell of them are gone.
            (number, unsafe { OwnedFd::from_raw_fd(number) }, name)
        })
        .collect();
    passed.into_iter().map(|(number, socket, name)| Ok((name.clone(), take_up(number, socket, &name)?))).collect()
}

/// The names of the passed descriptors, from number 3 on.
fn passed_names(
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
    own_pid: u32,
) -> Result<Vec<String>, String> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(Vec::new()) };
    let pid: u32 = pid.parse().map_err(|_| format!("LISTEN_PID={pid} is not a process id"))?;
    if pid != own_pid {
        return Ok(Vec::new()); // meant for the process that started us
    }
    let count: u16 = count.parse().map_err(|_| format!("LISTEN_FDS={count} is not a number of descriptors"))?;
    let names: Vec<String> = match names {
        None => vec!["unknown".to_owned(); count.into()], // as sd_listen_fds_with_names(3) has it
        Some(names) => names.split(':').map(str::to_owned).collect(),
    };
    if names.len() != usize::from(count) {
        return Err(format!("LISTEN_FDS={count} and LISTEN_FDNAMES={} do not match", names.join(":")));
    }
    Ok(names)
}

fn take_up(number: RawFd, socket: OwnedFd, name: &str) -> io::Result<Listener> {
    let refused = |why: &str| {
        let words = format!("the service manager passed {name:?} (descriptor {number}), which {why}");
        io::Error::new(ErrorKind::InvalidInput, words)
    };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).map_err(|_| refused("is not open"))?;
    match (sockopt::socket_type(&socket), sockopt::socket_acceptconn(&socket)) {
        (Ok(SocketType::STREAM), Ok(true)) => {}
        (Ok(_), _) => return Err(refused("is not a listening stream socket")),
        (Err(_), _) => return Err(refused("is not a socket")),
    }
    Ok(match sockopt::socket_domain(&socket)? {
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            Listener::Tcp(listener)
        }
        AddressFamily::UNIX => {
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            Listener::Unix(listener)
        }
        _ => return Err(refused("is neither TCP nor a unix socket")),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;
    use crate::platform::rerun;

    fn tcp(text: &str) -> ListenAddress {
        ListenAddress::Tcp(text.parse().unwrap())
    }

    fn refusal(address: &ListenAddress) -> String {
        bind(address).err().map(|error| error.to_string()).unwrap_or_else(|| panic!("{address} was bound"))
    }

    #[test]
    fn an_accept_that_failed_for_want_of_descriptors_is_not_tried_again_at_once() {
        for (number, is_paused) in [(libc::EMFILE, true), (libc::ENOMEM, true), (libc::ECONNABORTED, false)] {
            assert_eq!(pause_after(&io::Error::from_raw_os_error(number)).is_some(), is_paused, "{number}");
        }
    }

    #[test]
    fn port_zero_becomes_a_real_one_that_takes_connections_without_blocking() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let bound = bind(&tcp(text)).unwrap();
            let (ListenAddress::Tcp(address), Listener::Tcp(listener)) =
                (bound.listener.local_addr().unwrap(), &bound.listener)
            else {
                panic!("not TCP")
            };
            assert_ne!(address.port(), 0);
            assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            assert!(sockopt::socket_reuseaddr(listener).unwrap());
            let _client = TcpStream::connect(address).unwrap();
            bound.listener.try_clone().unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_explained() {
        let bound = bind(&tcp("127.0.0.1:0")).unwrap();
        let address = bound.listener.local_addr().unwrap();
        assert_eq!(bind(&address).unwrap_err().kind(), ErrorKind::AddrInUse);
        let error = refusal(&address);
        assert!(error.contains(&address.to_string()) && error.contains("try `valetd status`"), "{error}");
    }

    #[test]
    fn a_service_manager_is_never_to_be_ended_for_an_address() {
        for (process, expected, wrong) in [
            (Some("systemd"), "systemctl --user stop valetd.socket", "end that process"),
            (Some("valetd"), "try `valetd status`; end that process", "systemctl"),
            (None, "try `valetd status`; end that process", "systemctl"),
        ] {
            let words = how_to_end(process);
            assert!(words.contains(expected) && !words.contains(wrong), "{process:?}: {words}");
        }
    }

    #[test]
    fn a_unix_socket_is_ours_alone_and_its_file_goes_with_it() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("run/valetd/valetd.sock");
        let address = ListenAddress::Unix(path.clone());
        let bound = bind(&address).unwrap();
        assert_eq!(bound.listener.local_addr().unwrap(), address);
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o7777, 0o700);
        assert!(answering(&path).is_ok_and(|answering| answering.is_some()));
        let Bound { listener, file } = bound;
        drop(listener);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_never() {
        let base = tempfile::tempdir().unwrap();
        std::fs::set_permissions(base.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let path = base.path().join("s");
        let address = ListenAddress::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap()); // its file stays, as after a kill -9
        let bound = bind(&address).unwrap();
        let error = refusal(&address);
        assert!(error.contains("a running process answers there") && error.contains("valetd status"), "{error}");
        // not even when its backlog is full
        let full = base.path().join("full");
        let listener = UnixListener::bind(&full).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waiting = UnixStream::connect(&full).unwrap();
        assert!(refusal(&ListenAddress::Unix(full)).contains("a running process answers there"));
        assert!(answering(&path).is_ok_and(|answering| answering.is_some()));
        drop(bound);
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        std::fs::set_permissions(base.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let file = base.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        symlink(&file, base.path().join("link")).unwrap();
        symlink(base.path().join("new"), base.path().join("dangling")).unwrap();
        std::fs::create_dir(base.path().join("folder")).unwrap();
        for name in ["file", "link", "dangling", "folder"] {
            let error = refusal(&ListenAddress::Unix(base.path().join(name)));
            assert!(error.contains("not a socket: move it away"), "{name}: {error}");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        assert!(!base.path().join("new").exists());
    }

    #[test]
    fn a_folder_that_others_can_write_to_or_own_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("shared");
        std::fs::create_dir(&folder).unwrap();
        let address = ListenAddress::Unix(folder.join("s"));
        for mode in [0o777, 0o1777, 0o720, 0o702] {
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
            let error = refusal(&address);
            assert!(error.contains("writable by other users") && error.contains("chmod 700"), "{mode:o}: {error}");
        }
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        drop(bind(&address).unwrap());
        symlink(&folder, base.path().join("link")).unwrap();
        assert!(refusal(&ListenAddress::Unix(base.path().join("link/s"))).contains("is a symbolic link"));
        if chown(&folder, Some(65533), None).is_ok() {
            assert!(refusal(&address).contains("belongs to another user"));
        } else {
            eprintln!("skipped the foreign owner: only root can give a folder away");
        }
    }

    #[test]
    fn a_path_that_is_too_long_is_said_to_be() {
        let error = refusal(&ListenAddress::Unix(format!("/tmp/{}", "x".repeat(120)).into()));
        assert!(
            error.contains("at most 107 bytes, and this one has 125") && error.contains("--socket PATH"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_somebody_has_put_in_place_of_ours_stays() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("run/s");
        let ours = bind(&ListenAddress::Unix(path.clone())).unwrap();
        // still linked somewhere, so that the file system cannot give the same inode number away again
        std::fs::rename(&path, base.path().join("run/moved")).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(answering(&path).is_ok_and(|answering| answering.is_some()));
        drop(theirs);
    }

    #[test]
    fn the_managers_words_are_read_as_its_manual_says() {
        let own = 4711;
        for (name, pid, count, names, expected) in [
            ("no manager", None, None, None, Ok(vec![])),
            ("another process is meant", Some("1"), Some("2"), Some("a:b"), Ok(vec![])),
            ("two with names", Some("4711"), Some("2"), Some("http:status"), Ok(vec!["http", "status"])),
            ("an empty name", Some("4711"), Some("3"), Some("x::z"), Ok(vec!["x", "", "z"])),
            ("no names", Some("4711"), Some("2"), None, Ok(vec!["unknown", "unknown"])),
            ("names missing", Some("4711"), Some("2"), Some("http"), Err("do not match")),
            ("no number", Some("4711"), Some("-1"), Some("http"), Err("LISTEN_FDS=-1")),
            ("too many", Some("4711"), Some("4294967295"), None, Err("LISTEN_FDS=4294967295")),
            ("no process", Some("me"), Some("1"), None, Err("LISTEN_PID=me")),
        ] {
            match (passed_names(pid, count, names, own), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{name}"),
                (Err(words), Err(expected)) => assert!(words.contains(expected), "{name}: {words}"),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }

    #[test]
    fn sockets_of_a_service_manager_are_taken_up_by_name_and_once() {
        let Some(parent) =
            rerun::parent("platform::socket::tests::sockets_of_a_service_manager_are_taken_up_by_name_and_once")
        else {
            let found = inherited().unwrap();
            let [(http, Listener::Tcp(_)), (status, Listener::Unix(unix))] = &found[..] else { panic!("{found:?}") };
            assert_eq!((http.as_str(), status.as_str()), ("http", "status"));
            assert_eq!(unix.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            for (_, listener) in &found {
                assert!(rustix::io::fcntl_getfd(listener).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            }
            assert!(std::env::vars().all(|(name, _)| !name.starts_with("LISTEN_")));
            assert!(inherited().unwrap().is_empty());
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let status = UnixListener::bind(folder.path().join("s")).unwrap();
        parent.passes(&mut as_a_manager_would(&parent, http.into(), status.into()));
    }

    #[test]
    fn a_passed_file_that_is_no_listener_is_refused_by_name() {
        let Some(parent) =
            rerun::parent("platform::socket::tests::a_passed_file_that_is_no_listener_is_refused_by_name")
        else {
            let error = inherited().unwrap_err().to_string();
            assert!(error.contains("\"status\" (descriptor 4), which is not a socket"), "{error}");
            return;
        };
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        parent.passes(&mut as_a_manager_would(&parent, http.into(), File::open("/dev/null").unwrap().into()));
    }

    /// The child with `http` as its descriptor 3 and `status` as 4. The shell is there because `LISTEN_PID` must be the
    /// child's own process id.
    fn as_a_manager_would(parent: &rerun::Parent, http: OwnedFd, status: OwnedFd) -> Command {
        let child = parent.command();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0 4<&1 1>&2"#])
            .arg(child.get_program())
            .args(child.get_args())
            .envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", "http:status")
            .stdin(http)
            .stdout(status);
        shell
    }
}
