//! The addresses that a host name stands for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::is_localhost;

/// The addresses of a host, in the order in which they are to be tried.
///
/// `localhost` and the names below it are this machine, whatever `/etc/hosts` or a name server says of them, and nobody is
/// asked (RFC 6761 section 6.3): plain HTTP is spoken with them, tokens included.
///
/// # Errors
///
/// The resolver's.
pub(crate) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    if is_localhost(host) {
        // IPv6 first, as resolvers have it (RFC 6724)
        return Ok(vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()]);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_below_localhost_is_this_machine_and_nothing_else_is() {
        let here = "[::1]:80 127.0.0.1:80";
        for (host, expected) in [
            ("localhost", here),
            ("api.localhost", here),
            ("a.b.localhost", here),
            ("127.0.0.2", "127.0.0.2:80"),
            ("2001:db8::1", "[2001:db8::1]:80"),
        ] {
            let found = look_up(host, 80).await.unwrap();
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{host}");
        }
        // the resolver is asked for what only looks like it
        for host in ["notlocalhost", "localhost.invalid", "localhost.localdomain.invalid"] {
            assert!(!is_localhost(host), "{host}");
        }
        assert!(look_up("localhost.invalid", 80).await.is_err());
    }
}
