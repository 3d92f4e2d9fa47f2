//! Who listens on a TCP port of this machine, as far as `/proc` tells (proc_net_tcp(5)): for a person who wants it free.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A process, or at least a user, that listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occupant {
    /// The user that made the socket.
    pub uid: u32,
    /// The process and its name, if it is one that we may look at.
    pub process: Option<(u32, String)>,
}

/// Who listens on `address`, or on all addresses with its port.
pub fn occupant(address: SocketAddr) -> Option<Occupant> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let (uid, inode) = tables.iter().find_map(|table| listening(table, address))?;
    Some(Occupant { uid, process: holder(inode) })
}

/// The user and the inode of the socket that listens on `address`, from one of the kernel's tables.
fn listening(table: &str, address: SocketAddr) -> Option<(u32, u64)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, uid, _, inode, ..] = fields.as_slice() else { return None };
        let local = read_address(local)?;
        let same = local.port() == address.port() && (local.ip() == address.ip() || local.ip().is_unspecified());
        (*state == LISTEN && same).then_some((uid.parse().ok()?, inode.parse().ok()?))
    })
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
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim_end().to_owned()));
        }
    }
    None
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
            assert_eq!(listening(table, "127.0.0.1:8253".parse().unwrap()), Some((1001, 12)));
            assert_eq!(listening(table, "127.0.0.1:8254".parse().unwrap()), None);
        }
    }
}
