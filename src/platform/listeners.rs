//! Who listens on a TCP port of this machine, as far as `/proc` tells (proc_net_tcp(5)): for a person who wants it free,
//! and to see whether what `localhost` means besides our own address is somebody else's.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::users;

/// A process, or at least a user, that listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Occupant {
    /// Where: the address in question, or all addresses with its port.
    pub address: SocketAddr,
    /// The user that made the socket.
    pub uid: u32,
    /// The process and its name, if it is one that we may look at.
    pub process: Option<(u32, String)>,
}

/// As the end of a sentence: whose it is, and on what it listens.
impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, uid, process } = self;
        match process {
            // its name is its own choice
            Some((pid, name)) => write!(f, "process {pid} ({})", name.escape_debug())?,
            None => f.write_str("a process that we may not look at")?,
        }
        write!(f, " of user {uid}")?;
        if let Some(name) = users::name_of(*uid) {
            write!(f, " ({})", name.escape_debug())?;
        }
        write!(f, ", which listens on {address}")
    }
}

/// Who listens on `address`, or on all addresses with its port; who keeps it from being bound, if it is itself all of
/// them. A socket that is bound and does not listen is in no table.
pub(crate) fn occupant(address: SocketAddr) -> Option<Occupant> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let all: Vec<_> = tables.iter().flat_map(|table| listening(table)).collect();
    let (address, uid, inode) = nearest(&all, address)?;
    Some(Occupant { address, uid, process: holder(inode) })
}

/// The other address that the name `localhost` stands for, where `address` is one of the two.
pub(crate) fn other_half(address: SocketAddr) -> Option<SocketAddr> {
    let other = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Some(SocketAddr::new(other, address.port()))
}

/// Every listening socket of one of the kernel's tables: address, user, inode.
fn listening(table: &str) -> Vec<(SocketAddr, u32, u64)> {
    const LISTEN: &str = "0A";
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, LISTEN, _, _, _, uid, _, inode, ..] = fields.as_slice() else { return None };
        Some((read_address(local)?, uid.parse().ok()?, inode.parse().ok()?))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// The one that `wanted` meets: on the address itself, before one on all addresses of its family, before one on all of
/// IPv6, which may take IPv4 as well. Whoever wants all addresses meets everybody.
fn nearest(all: &[(SocketAddr, u32, u64)], wanted: SocketAddr) -> Option<(SocketAddr, u32, u64)> {
    let distance = |at: SocketAddr| match (at.ip().to_canonical(), wanted.ip().to_canonical()) {
        _ if at.port() != wanted.port() => None,
        (at, wanted) if at == wanted => Some(0),
        (at, wanted) if at.is_unspecified() && at.is_ipv4() == wanted.is_ipv4() => Some(1),
        (at, _) if at.is_unspecified() && at.is_ipv6() => Some(2),
        (at, wanted) if wanted.is_unspecified() && (at.is_ipv4() == wanted.is_ipv4() || wanted.is_ipv6()) => Some(3),
        _ => None,
    };
    let found = all.iter().filter_map(|entry| Some((distance(entry.0)?, entry)));
    found.min_by_key(|(distance, _)| *distance).map(|(_, entry)| *entry)
}

/// `0100007F:203D`: 32-bit words in the machine's byte order, then the port.
fn read_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The process that has the socket open. Only our own are readable, unless we are root.
fn holder(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let has_it = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str());
        if descriptors.flatten().any(has_it) {
            return Some((pid, name_of(pid)));
        }
    }
    None
}

/// The name that a process goes by, which is its own choice; empty if nobody may know.
pub(crate) fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn our_own_listener_is_found_with_its_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue }; // not every machine has IPv6
            let found = occupant(listener.local_addr().unwrap()).unwrap();
            assert_eq!(found.uid, rustix::process::geteuid().as_raw());
            assert_eq!(found.process.unwrap().0, std::process::id());
        }
    }

    #[test]
    fn a_line_of_the_table_is_read_by_state_and_address() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:203D 00000000:0000 01 00000000:00000000 00:00000000 00000000  1000        0 11 1 x\n\
             1: 00000000:203D 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 12 1 x\n";
        if cfg!(target_endian = "little") {
            assert_eq!(listening(table), [("0.0.0.0:8253".parse().unwrap(), 1001, 12)]);
        }
    }

    #[test]
    fn whoever_has_the_address_itself_is_named_before_whoever_has_all_of_them() {
        let all = ["[::]:1", "0.0.0.0:1", "127.0.0.1:1", "[::1]:1", "[::]:2", "127.0.0.1:3", "[::ffff:127.0.0.1]:4"]
            .map(|address| (address.parse().unwrap(), 0, 0));
        for (wanted, expected) in [
            ("127.0.0.1:1", Some("127.0.0.1:1")),
            ("[::1]:1", Some("[::1]:1")),
            ("127.0.0.9:1", Some("0.0.0.0:1")),
            ("[::2]:1", Some("[::]:1")),
            ("127.0.0.1:2", Some("[::]:2")),
            ("0.0.0.0:3", Some("127.0.0.1:3")),
            ("[::]:3", Some("127.0.0.1:3")),
            ("[::1]:3", None),
            ("127.0.0.1:4", Some("[::ffff:127.0.0.1]:4")),
            ("127.0.0.1:5", None),
        ] {
            let found = nearest(&all, wanted.parse().unwrap()).map(|(address, ..)| address.to_string());
            assert_eq!(found.as_deref(), expected, "{wanted}");
        }
    }

    #[test]
    fn localhost_has_two_halves() {
        let half = |address: &str| other_half(address.parse().unwrap()).map(|other| other.to_string());
        assert_eq!(half("127.0.0.1:8253").as_deref(), Some("[::1]:8253"));
        assert_eq!(half("[::1]:8253").as_deref(), Some("127.0.0.1:8253"));
        assert_eq!((half("127.0.0.2:8253"), half("0.0.0.0:8253"), half("[::]:8253")), (None, None, None));
    }
}
