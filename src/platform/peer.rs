//! Who is at the other end of a local connection.
//!
//! A unix socket knows. For TCP on loopback the kernel is asked for the owner of the client's own socket, by one exact
//! SOCK_DIAG query (sock_diag(7)) of a few microseconds on a netlink socket that is kept; where a sandbox forbids
//! netlink, by reading `/proc/net/tcp`, which takes milliseconds.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};
use tracing::warn;

/// The user id that this process acts with.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Who owns a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    /// The user.
    pub uid: u32,
    /// The socket's number in the kernel; `None` where only the user is known.
    pub inode: Option<u64>,
}

/// What is known of a local connection, to find the process at the client's end by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ends {
    /// The client's address and ours.
    Tcp(SocketAddr, SocketAddr),
    /// The process.
    Unix(Option<u32>),
}

/// A process that has a socket of this number open, and belongs to this user. Reads what all the user's processes have
/// open: milliseconds. `None` if there is none, or if we may not look.
pub(crate) fn process_with_socket(owner: Owner) -> Option<u32> {
    find_processes(owner).next()
}

/// All of them.
pub(crate) fn processes_with_socket(owner: Owner) -> Vec<u32> {
    find_processes(owner).collect()
}

fn find_processes(owner: Owner) -> impl Iterator<Item = u32> {
    use std::os::unix::fs::MetadataExt;
    let wanted = owner.inode.map(|inode| format!("socket:[{inode}]"));
    let entries = wanted.is_some().then(|| std::fs::read_dir("/proc").ok()).flatten();
    let mut processes: Vec<u32> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| *pid != std::process::id())
        .collect();
    // who has just connected is mostly young
    processes.sort_unstable_by(|one, other| other.cmp(one));
    processes.into_iter().filter(move |pid| {
        let folder = format!("/proc/{pid}/fd");
        let is_owners = std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == owner.uid);
        let mut open = is_owners.then(|| std::fs::read_dir(folder).ok()).flatten().into_iter().flatten();
        open.any(|entry| {
            let link = entry.and_then(|entry| std::fs::read_link(entry.path()));
            link.is_ok_and(|link| wanted.as_deref().is_some_and(|wanted| link.as_os_str() == wanted))
        })
    })
}

/// The program that a process runs, if we may see it.
pub(crate) fn executable(pid: u32) -> Option<String> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok().map(|path| path.to_string_lossy().into_owned())
}

/// Answers who owns the client's end of a TCP connection on loopback. Each worker thread has one of its own.
#[derive(Debug)]
pub(crate) struct PeerLookup {
    netlink: Option<SockDiag>,
}

impl PeerLookup {
    /// Opens the way to the kernel that works here, by asking for a connection of our own.
    pub(crate) fn new() -> Self {
        let netlink = SockDiag::open().and_then(|mut netlink| {
            // without the kernel's tcp_diag module every response is "no such connection": find that out now
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            let owner = netlink.live_owner(client.local_addr()?, listener.local_addr()?)?;
            if owner.is_some() { Ok(netlink) } else { Err(io::Error::other("it does not know our own connection")) }
        });
        let netlink = netlink
            .inspect_err(|error| warn!(%error, "SOCK_DIAG cannot be used; reading /proc/net/tcp, which is slower"))
            .ok();
        Self { netlink }
    }

    /// The user id of the owner of `client`, as seen on an accepted connection: `client` is its `peer_addr()`, `server`
    /// its `local_addr()`. To be asked right after `accept`.
    ///
    /// `None` if there is no live owner, or none to be found: a client that has closed is nobody. (The kernel reports
    /// its socket as root's, so only one with an inode is believed, which some process still has open.) A client that
    /// has only shut down its sending side is alive.
    pub(crate) fn tcp_uid(&mut self, client: SocketAddr, server: SocketAddr) -> Option<u32> {
        self.tcp_owner(client, server).map(|owner| owner.uid)
    }

    /// The same with the socket's inode, by which the process can be found.
    pub(crate) fn tcp_owner(&mut self, client: SocketAddr, server: SocketAddr) -> Option<Owner> {
        // an IPv6 socket that talks to ::ffff:127.0.0.1 is found among those of IPv4
        let [client, server] =
            [client, server].map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
        let owner = match &mut self.netlink {
            Some(netlink) => netlink.live_owner(client, server),
            None => owner_by_proc(client, server).map(|uid| uid.map(|uid| Owner { uid, inode: None })),
        };
        owner.inspect_err(|error| warn!(%error, "the owner of a connection cannot be found out")).ok().flatten()
    }
}

impl Default for PeerLookup {
    fn default() -> Self {
        Self::new()
    }
}

/// The states of a client's socket that can still receive: both ends open, or its sending side shut down
/// (`TCP_ESTABLISHED`, `TCP_FIN_WAIT1` and `TCP_FIN_WAIT2` in the kernel's tcp_states.h).
const RECEIVING: [u8; 3] = [1, 4, 5];

/// How long the kernel may take. It answers at once; this is so that a surprise cannot stop a worker.
const PATIENCE: Duration = Duration::from_millis(200);

// The layouts are those of linux/netlink.h and linux/inet_diag.h. All numbers are the machine's, but ports the network's.
const HEADER: usize = 16; // nlmsghdr
const REQUEST: usize = HEADER + 56; // inet_diag_req_v2
const ANSWER: usize = HEADER + 72; // inet_diag_msg
const NLMSG_ERROR: u16 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;

/// A kept netlink socket.
#[derive(Debug)]
struct SockDiag {
    socket: OwnedFd,
    /// Of the last question, so that a late answer to an earlier one is known.
    sequence: u32,
}

impl SockDiag {
    fn open() -> io::Result<Self> {
        let protocol = Some(netlink::SOCK_DIAG);
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?; // only the kernel may answer
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn live_owner(&mut self, client: SocketAddr, server: SocketAddr) -> io::Result<Option<Owner>> {
        self.sequence = self.sequence.wrapping_add(1);
        rustix::net::send(&self.socket, &question(client, server, self.sequence), SendFlags::empty())?;
        let mut buffer = [0; 512];
        loop {
            let received = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty());
            let length = match received {
                Ok((_, length)) => length.min(buffer.len()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(owner) = answer(&buffer[..length], self.sequence) {
                return owner;
            }
        }
    }
}

fn question(client: SocketAddr, server: SocketAddr, sequence: u32) -> [u8; REQUEST] {
    let mut message = [0; REQUEST];
    let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &u32::try_from(REQUEST).expect("72 fits").to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(8, &sequence.to_ne_bytes());
    put(16, &[if client.is_ipv4() { 2 } else { 10 }]); // AF_INET, AF_INET6
    put(17, &[6]); // IPPROTO_TCP
    put(20, &u32::MAX.to_ne_bytes()); // in any state
    put(24, &client.port().to_be_bytes());
    put(26, &server.port().to_be_bytes());
    for (at, address) in [(28, client.ip()), (44, server.ip())] {
        match address {
            IpAddr::V4(address) => put(at, &address.octets()),
            IpAddr::V6(address) => put(at, &address.octets()),
        }
    }
    put(64, &[0xff; 8]); // INET_DIAG_NOCOOKIE
    message
}

/// What the kernel says to the question `sequence`; `None` if this is no response to it.
fn answer(message: &[u8], sequence: u32) -> Option<io::Result<Option<Owner>>> {
    let four =
        |at: usize| message.get(at..at + 4).map(|bytes| u32::from_ne_bytes(bytes.try_into().expect("four bytes")));
    if four(8)? != sequence {
        return None;
    }
    match u16::from_ne_bytes([message[4], message[5]]) {
        NLMSG_ERROR => match four(HEADER)?.cast_signed() {
            number if number == -libc::ENOENT => Some(Ok(None)),
            number => Some(Err(io::Error::from_raw_os_error(-number))),
        },
        SOCK_DIAG_BY_FAMILY if message.len() >= ANSWER => {
            let (state, uid, inode) = (message[HEADER + 1], four(HEADER + 64)?, four(HEADER + 68)?);
            let live = RECEIVING.contains(&state) && inode != 0;
            Some(Ok(live.then_some(Owner { uid, inode: Some(inode.into()) })))
        }
        _ => Some(Err(io::Error::other("the kernel answered something else"))),
    }
}

fn owner_by_proc(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    let owner_in = |table: &str, client: IpAddr, server: IpAddr, ports: (u16, u16)| {
        let table = std::fs::read_to_string(table)?;
        Ok::<_, io::Error>(owner_in_table(&table, &proc_address(client, ports.0), &proc_address(server, ports.1)))
    };
    let ports = (client.port(), server.port());
    match (client.ip(), server.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => match owner_in("/proc/net/tcp", from.into(), to.into(), ports)? {
            Some(uid) => Ok(Some(uid)),
            // an IPv6 socket that talks to an IPv4 address is listed there alone; without IPv6 there is no such table
            None => {
                let (from, to) = (from.to_ipv6_mapped().into(), to.to_ipv6_mapped().into());
                Ok(owner_in("/proc/net/tcp6", from, to, ports).unwrap_or(None))
            }
        },
        (from, to) => owner_in("/proc/net/tcp6", from, to, ports),
    }
}

/// An address as `/proc/net/tcp` spells it: each group of four bytes as a number of the machine, in hex.
fn proc_address(ip: IpAddr, port: u16) -> String {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let groups = bytes.chunks_exact(4).map(|group| u32::from_ne_bytes(group.try_into().expect("four bytes")));
    groups.map(|group| format!("{group:08X}")).collect::<String>() + &format!(":{port:04X}")
}

/// The owner of the live socket that is bound to `client` and connected to `server`.
fn owner_in_table(table: &str, client: &str, server: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        if columns.next()? != client || columns.next()? != server {
            return None;
        }
        let state = u8::from_str_radix(columns.next()?, 16).ok()?;
        let uid = columns.nth(3)?.parse().ok()?; // after queues, timer and retransmissions
        let inode = columns.nth(1)?; // after the timeout
        (RECEIVING.contains(&state) && inode != "0").then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;

    /// Both ways to ask; a sandbox may have only one of them.
    fn lookups() -> [(&'static str, PeerLookup); 2] {
        let netlink = PeerLookup::new();
        assert!(netlink.netlink.is_some(), "this machine has no SOCK_DIAG");
        [("netlink", netlink), ("proc", PeerLookup { netlink: None })]
    }

    fn connection(listen: &str, connect: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(listen).ok()?;
        let to = SocketAddr::new(connect.parse().unwrap(), listener.local_addr().unwrap().port());
        let client = TcpStream::connect(to).ok()?;
        let (accepted, _) = listener.accept().unwrap();
        Some((client, accepted))
    }

    fn owner(lookup: &mut PeerLookup, accepted: &TcpStream) -> Option<u32> {
        lookup.tcp_uid(accepted.peer_addr().unwrap(), accepted.local_addr().unwrap())
    }

    #[test]
    fn our_own_connection_is_ours_over_every_family() {
        for (way, mut lookup) in lookups() {
            for (listen, connect) in [
                ("127.0.0.1:0", "127.0.0.1"),
                ("127.0.0.1:0", "::ffff:127.0.0.1"), // an IPv6 socket in the client
                ("[::1]:0", "::1"),
                ("[::]:0", "127.0.0.1"), // an IPv6 socket in the server
                ("127.0.0.9:0", "127.0.0.9"),
            ] {
                let Some((_client, accepted)) = connection(listen, connect) else {
                    eprintln!("skipped {connect} to {listen}: not on this machine");
                    continue;
                };
                assert_eq!(owner(&mut lookup, &accepted), Some(own_uid()), "{way}: {connect} to {listen}");
            }
        }
    }

    #[test]
    fn the_process_behind_a_connection_is_found_by_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{} && read -r line <&3", address.port());
        let Ok(mut shell) = std::process::Command::new("bash").args(["-c", &script]).spawn() else {
            eprintln!("skipped: there is no bash");
            return;
        };
        let (accepted, client) = listener.accept().unwrap();
        let owner = PeerLookup::new().tcp_owner(client, address).unwrap();
        assert_eq!(owner.uid, own_uid());
        let pid = process_with_socket(owner);
        drop(accepted);
        shell.wait().unwrap();
        assert_eq!(pid, Some(shell.id()));
        assert!(executable(std::process::id()).is_some());
    }

    /// `cargo test --release --lib measure_the_look_up -- --ignored --nocapture`
    #[test]
    #[ignore = "it prints how long a look-up takes"]
    fn measure_the_look_up() {
        for (way, mut lookup) in lookups() {
            let (_client, accepted) = connection("127.0.0.1:0", "127.0.0.1").unwrap();
            let (from, to) = (accepted.peer_addr().unwrap(), accepted.local_addr().unwrap());
            let rounds = if way == "netlink" { 20_000 } else { 200 };
            let mut times: Vec<Duration> = (0..rounds)
                .map(|_| {
                    let since = std::time::Instant::now();
                    assert_eq!(lookup.tcp_uid(from, to), Some(own_uid()));
                    since.elapsed()
                })
                .collect();
            times.sort();
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1000.0;
            println!("{way}: median {:.1} us, p99 {:.1} us of {rounds}", at(0.5), at(0.99));
        }
    }

    #[test]
    fn a_client_that_has_closed_is_nobody() {
        for (way, mut lookup) in lookups() {
            for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
                let Some((client, accepted)) = connection(listen, connect) else { continue };
                let (from, to) = (accepted.peer_addr().unwrap(), accepted.local_addr().unwrap());
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(lookup.tcp_uid(from, to), Some(own_uid()), "{way}: half closed, and reading");
                drop(client);
                assert_eq!(lookup.tcp_uid(from, to), None, "{way}: closed, which the kernel calls uid 0");
                drop(accepted);
                assert_eq!(lookup.tcp_uid(from, to), None, "{way}: gone at both ends");
            }
        }
    }

    #[test]
    fn a_connection_that_never_was_has_no_owner() {
        for (way, mut lookup) in lookups() {
            let (from, to) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
            assert_eq!(lookup.tcp_uid(from, to), None, "{way}");
        }
    }

    #[test]
    fn another_users_connection_is_theirs() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let to = listener.local_addr().unwrap();
            let Some(_client) = connect_as_nobody(to) else {
                eprintln!("skipped: only root can act as another user");
                return;
            };
            let (accepted, _) = listener.accept().unwrap();
            for (way, mut lookup) in lookups() {
                assert_eq!(owner(&mut lookup, &accepted), Some(65534), "{way}");
            }
        }
    }

    /// A socket belongs to the user that the thread acts for when it is made. The C library would change all threads
    /// at once; the bare system call changes the one that makes it, which ends right afterwards.
    #[allow(unsafe_code)]
    fn connect_as_nobody(to: SocketAddr) -> Option<TcpStream> {
        let connect = move || {
            // SAFETY: three numbers in, a number out; this thread does nothing else afterwards.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
            (done == 0).then(|| TcpStream::connect(to).unwrap())
        };
        std::thread::spawn(connect).join().unwrap()
    }

    #[test]
    fn only_the_answer_to_the_question_asked_counts() {
        let message = |kind: u16, sequence: u32, state: u8, uid: u32, inode: u32| {
            let mut message = [0; ANSWER];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message[8..12].copy_from_slice(&sequence.to_ne_bytes());
            message[HEADER + 1] = state;
            message[HEADER + 64..HEADER + 68].copy_from_slice(&uid.to_ne_bytes());
            message[HEADER + 68..].copy_from_slice(&inode.to_ne_bytes());
            message
        };
        for (name, message, expected) in [
            ("established", message(20, 7, 1, 1000, 5), Some(Some(1000))),
            ("FIN_WAIT2 without an inode", message(20, 7, 5, 0, 0), Some(None)),
            ("established without an inode", message(20, 7, 1, 0, 0), Some(None)),
            ("half closed", message(20, 7, 4, 1000, 5), Some(Some(1000))),
            ("half closed and abandoned", message(20, 7, 5, 0, 0), Some(None)),
            ("late", message(20, 6, 1, 1000, 5), None),
        ] {
            let found = answer(&message, 7).map(|answer| answer.unwrap().map(|owner| owner.uid));
            assert_eq!(found, expected, "{name}");
        }
        for cut in [0, 8, 11, 12, 15, 20, ANSWER - 1] {
            let whole = message(20, 7, 1, 1000, 5);
            assert!(!matches!(answer(&whole[..cut], 7), Some(Ok(Some(_)))), "{cut} bytes");
        }
        let refused = |error: i32| {
            let mut message = message(2, 7, 0, 0, 0);
            message[16..20].copy_from_slice(&error.to_ne_bytes());
            answer(&message, 7)
        };
        assert!(matches!(refused(-libc::ENOENT), Some(Ok(None))));
        assert!(matches!(refused(-libc::EPERM), Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn lines_of_the_kernels_table_are_read_by_column() {
        // as on a little-endian machine; the header's line is skipped because it is nobody's address
        let client = proc_address("127.0.0.1".parse().unwrap(), 0xB2F2);
        let server = proc_address("127.0.0.1".parse().unwrap(), 0x203D);
        let table = |state: &str, inode: &str| {
            format!(
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                 \u{20}  0: {server} {client} 01 00000000:00000000 00:00000000 00000000     0        0 77 1 0 20 4 30 10 -1\n\
                 \u{20}  1: {client} {server} {state} 00000000:00000000 02:000A7A0F 00000000  1000        0 {inode} 2 0 20 4 30\n"
            )
        };
        for (name, table, expected) in [
            ("live", table("01", "12345"), Some(1000)),
            ("no inode", table("01", "0"), None),
            ("TIME_WAIT", table("06", "12345"), None),
            ("garbage", "a b c\n\n1: x\n".to_owned(), None),
        ] {
            assert_eq!(owner_in_table(&table, &client, &server), expected, "{name}");
        }
    }
}
