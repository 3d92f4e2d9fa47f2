//! Asks a proxy for a way through to a server: by CONNECT (RFC 9110 section 9.3.6) or in SOCKS 5 (RFC 1928, with RFC
//! 1929's user name and password). Afterwards the stream is the server's; not a byte of it has been read.

use std::io;
use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::io_error::words;
use crate::config::ProxyLogin;

/// Longer heads are not a proxy's answer. Some have a page's worth of fields in them.
const LONGEST_HEAD: usize = 64 * 1024;

/// Why a proxy does not let us through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// The connection to it broke.
    #[error("{}", words(.0))]
    Io(#[from] io::Error),
    /// It answered, and it was no response.
    #[error("it does not speak {0}")]
    Nonsense(&'static str),
    /// It wants to know who asks: the schemes that it takes, if it said so.
    #[error("it wants a user name and password{0} in the URL that names it")]
    WantsLogin(String),
    /// It was told who asks, and does not like it.
    #[error("it refuses the user name and password{0}")]
    RefusesLogin(String),
    /// It wants to know who asks in a way that is not spoken here.
    #[error(
        "it wants to know who asks by {0} alone, and valetd speaks Basic: name a local proxy that does (px, cntlm)"
    )]
    OtherLogin(String),
    /// It refuses, or has not reached the server.
    #[error("it answered {0}")]
    Refused(String),
    /// No address of a server whose family it speaks: another may be better.
    #[error("it answered {0}")]
    Unreachable(&'static str),
}

/// Where to, as SOCKS 5 tells it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A name that the proxy looks up.
    Name(&'a str, u16),
    Address(SocketAddr),
}

/// Asks by CONNECT for `authority`, which has its port.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: Option<&ProxyLogin>,
    authority: &str,
) -> Result<(), TunnelError> {
    let mut head = Zeroizing::new(Vec::with_capacity(8 * 1024)); // at once: growing would leave copies behind
    head.extend(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").as_bytes());
    if let Some(ProxyLogin { username, password }) = login {
        let both = Zeroizing::new(format!("{}:{}", username.expose(), password.expose()));
        let basic = Zeroizing::new(BASE64_STANDARD.encode(both.as_bytes()));
        for part in ["Proxy-Authorization: Basic ", &basic, "\r\n"] {
            head.extend(part.as_bytes());
        }
    }
    head.extend(b"\r\n");
    stream.write_all(&head).await?;
    stream.flush().await?;

    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= LONGEST_HEAD {
            return Err(TunnelError::Nonsense("HTTP: its answer is too long"));
        }
        // byte by byte, as what follows the head belongs to the tunnel
        answer.push(stream.read_u8().await?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let mut lines = answer.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse::<u16>().ok());
    match status {
        Some(200..300) => Ok(()),
        Some(407) => {
            let fields = lines.filter_map(|line| line.split_once(':'));
            let values =
                fields.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authenticate")).map(|(_, value)| value);
            let schemes: Vec<_> = values.flat_map(schemes).collect();
            let named = schemes.join(", ");
            if !schemes.is_empty() && !schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic")) {
                return Err(TunnelError::OtherLogin(named));
            }
            let taken = if schemes.is_empty() { String::new() } else { format!(" ({named})") };
            Err(if login.is_none() { TunnelError::WantsLogin(taken) } else { TunnelError::RefusesLogin(taken) })
        }
        Some(status) => Err(TunnelError::Refused(status.to_string())),
        None => Err(TunnelError::Nonsense("HTTP")),
    }
}

/// The schemes in a list of challenges (RFC 9110 section 11.6.1): what begins its members, and is no parameter.
fn schemes(challenges: &str) -> impl Iterator<Item = &str> {
    let words = challenges.split(',').filter_map(|member| member.split_whitespace().next());
    words.filter(|word| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
}

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const USERNAME_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Asks in SOCKS 5.
pub(super) async fn socks5<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: Option<&ProxyLogin>,
    target: Target<'_>,
) -> Result<(), TunnelError> {
    let methods: &[u8] =
        if login.is_some() { &[VERSION, 2, NO_LOGIN, USERNAME_PASSWORD] } else { &[VERSION, 1, NO_LOGIN] };
    stream.write_all(methods).await?;
    stream.flush().await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, login) {
        ([VERSION, NO_LOGIN], _) => {}
        ([VERSION, USERNAME_PASSWORD], Some(login)) => log_in(stream, login).await?,
        ([VERSION, 0xff], None) => return Err(TunnelError::WantsLogin(String::new())),
        ([VERSION, 0xff], Some(_)) => {
            return Err(TunnelError::Refused("that it takes no user name and password".into()));
        }
        _ => return Err(TunnelError::Nonsense("SOCKS 5")),
    }

    let mut request = vec![VERSION, CONNECT, 0];
    let port = match target {
        Target::Name(name, port) => {
            let length =
                u8::try_from(name.len()).map_err(|_| TunnelError::Refused("nothing: the name is too long".into()))?;
            request.extend([NAME, length]);
            request.extend(name.as_bytes());
            port
        }
        Target::Address(address) => {
            match address.ip() {
                IpAddr::V4(ip) => request.extend([&[IPV4][..], &ip.octets()].concat()),
                IpAddr::V6(ip) => request.extend([&[IPV6][..], &ip.octets()].concat()),
            }
            address.port()
        }
    };
    request.extend(port.to_be_bytes());
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[0] != VERSION {
        return Err(TunnelError::Nonsense("SOCKS 5"));
    }
    match reply[1] {
        0 => {}
        2 => return Err(TunnelError::Refused("that its rules forbid it".into())),
        3 => return Err(TunnelError::Unreachable("network unreachable")),
        4 => return Err(TunnelError::Unreachable("host unreachable")),
        5 => return Err(TunnelError::Unreachable("connection refused")),
        6 => return Err(TunnelError::Unreachable("TTL expired")),
        8 => return Err(TunnelError::Unreachable("that it does not know this kind of address")),
        code => return Err(TunnelError::Refused(format!("failure {code}"))),
    }
    // where it has bound its own end: nobody needs it, but it is in the way
    let length = match reply[3] {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await?),
        _ => return Err(TunnelError::Nonsense("SOCKS 5")),
    };
    stream.read_exact(&mut [0; 255 + 2][..length + 2]).await?;
    Ok(())
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, login: &ProxyLogin) -> Result<(), TunnelError> {
    let mut message = Zeroizing::new(Vec::with_capacity(3 + 2 * 255));
    message.push(1);
    for word in [&login.username, &login.password] {
        let word = word.expose().as_bytes();
        message.push(u8::try_from(word.len()).expect("ForwardProxy::parse takes no more than 255 bytes"));
        message.extend(word);
    }
    stream.write_all(&message).await?;
    stream.flush().await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    if answer[1] == 0 { Ok(()) } else { Err(TunnelError::RefusesLogin(String::new())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn login() -> ProxyLogin {
        ProxyLogin { username: Secret::new("me"), password: Secret::new("p w") }
    }

    /// Plays a proxy: what it expects, and what it answers, in turns. Afterwards the tunnel's first byte must be there.
    async fn played(
        turns: &[(&[u8], &[u8])],
        ask: impl AsyncFnOnce(&mut tokio::io::DuplexStream) -> Result<(), TunnelError>,
    ) -> Result<(), TunnelError> {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        let playing = async move {
            for (expected, answer) in turns {
                let mut seen = vec![0; expected.len()];
                theirs.read_exact(&mut seen).await.unwrap();
                assert_eq!(seen, *expected, "{}", seen.escape_ascii());
                theirs.write_all(answer).await.unwrap();
            }
            theirs.write_all(b"!").await.unwrap();
            theirs
        };
        let (asked, _theirs) = tokio::join!(ask(&mut ours), playing);
        if asked.is_ok() {
            assert_eq!(ours.read_u8().await.unwrap(), b'!', "not a byte of the tunnel is lost");
        }
        asked
    }

    #[tokio::test]
    async fn connect_is_answered_in_each_way_that_proxies_answer() {
        let bare = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
        let named = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\
                      Proxy-Authorization: Basic bWU6cCB3\r\n\r\n";
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(60_000)).into_bytes();
        let rows: [(&str, bool, &[u8], Option<&str>); 14] = [
            ("yes", false, b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", None),
            ("an old yes", true, b"HTTP/1.0 200 OK\r\n\r\n", None),
            ("another yes", true, b"HTTP/1.1 204\r\n\r\n", None),
            (
                "who are you",
                false,
                b"HTTP/1.1 407 X\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate:Basic realm=x\r\n\r\n",
                Some("it wants a user name and password (Negotiate, Basic) in the URL that names it"),
            ),
            (
                "not you",
                true,
                b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
                Some("it refuses the user name and password (Basic)"),
            ),
            (
                "who are you, in one line",
                false,
                b"HTTP/1.1 407 X\r\nProxy-Authenticate: Digest realm=\"a, b\", nonce=\"c\", Basic realm=\"x\"\r\n\r\n",
                Some("(Digest, Basic)"),
            ),
            ("who are you, in no words", false, b"HTTP/1.1 407 X\r\n\r\n", Some("a user name and password in the URL")),
            (
                "who are you, in Kerberos",
                false,
                b"HTTP/1.1 407 X\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
                Some("by Negotiate, NTLM alone"),
            ),
            (
                "not by a password",
                true,
                b"HTTP/1.1 407 X\r\nProxy-Authenticate: Negotiate\r\n\r\n",
                Some("by Negotiate alone"),
            ),
            ("a long yes", false, &long, None),
            ("no", false, b"HTTP/1.1 403 Forbidden\r\n\r\n", Some("it answered 403")),
            ("nonsense", false, b"SSH-2.0-OpenSSH\r\n\r\n", Some("it does not speak HTTP")),
            ("a status that is none", false, b"HTTP/1.1 abc\r\n\r\n", Some("it does not speak HTTP")),
            ("without end", false, &[b'x'; LONGEST_HEAD], Some("too long")),
        ];
        for (name, with_login, answer, expected) in rows {
            let login = with_login.then(login);
            let turns: [(&[u8], &[u8]); 1] = [(if with_login { named } else { bare }, answer)];
            let asked = played(&turns, async |stream| connect(stream, login.as_ref(), "a.example:443").await).await;
            match (asked, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn socks_is_spoken_as_rfc_1928_and_1929_say() {
        let v4 = Target::Address("192.0.2.1:443".parse().unwrap());
        let v6 = Target::Address("[2001:db8::1]:8443".parse().unwrap());
        let by_name = Target::Name("a.example", 443);
        let ask_v4: &[u8] = b"\x05\x01\0\x01\xc0\0\x02\x01\x01\xbb";
        let ask_v6: &[u8] = b"\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\xfb";
        let ask_name: &[u8] = b"\x05\x01\0\x03\x09a.example\x01\xbb";
        let hello: &[u8] = b"\x05\x01\0";
        let hello_login: &[u8] = b"\x05\x02\0\x02";
        let me: &[u8] = b"\x01\x02me\x03p w";
        let yes_v4: &[u8] = b"\x05\0\0\x01\0\0\0\0\0\0";
        type Turns<'a> = Vec<(&'a [u8], &'a [u8])>;
        let rows: [(&str, Target<'_>, bool, Turns<'_>, Option<&str>); 15] = [
            ("an address", v4, false, vec![(hello, b"\x05\0"), (ask_v4, yes_v4)], None),
            ("an IPv6 address", v6, false, vec![(hello, b"\x05\0"), (ask_v6, yes_v4)], None),
            ("a name", by_name, false, vec![(hello, b"\x05\0"), (ask_name, yes_v4)], None),
            ("bound to a name", v4, false, vec![(hello, b"\x05\0"), (ask_v4, b"\x05\0\0\x03\x01x\0\x01")], None),
            ("bound to IPv6", v4, false, vec![(hello, b"\x05\0"), (ask_v4, b"\x05\0\0\x04aaaabbbbccccddddpp")], None),
            ("login not wanted", v4, true, vec![(hello_login, b"\x05\0"), (ask_v4, yes_v4)], None),
            ("login", v4, true, vec![(hello_login, b"\x05\x02"), (me, b"\x01\0"), (ask_v4, yes_v4)], None),
            ("wrong login", v4, true, vec![(hello_login, b"\x05\x02"), (me, b"\x01\x01")], Some("it refuses the user")),
            ("login wanted", v4, false, vec![(hello, b"\x05\xff")], Some("it wants a user name")),
            ("login without one", v4, false, vec![(hello, b"\x05\x02")], Some("does not speak SOCKS 5")),
            ("no method", v4, true, vec![(hello_login, b"\x05\xff")], Some("takes no user name")),
            ("SOCKS 4", v4, false, vec![(hello, b"\0\x5a")], Some("does not speak SOCKS 5")),
            ("HTTP", v4, false, vec![(hello, b"HTTP/1.1 400 Bad\r\n\r\n")], Some("does not speak SOCKS 5")),
            ("forbidden", v4, false, vec![(hello, b"\x05\0"), (ask_v4, b"\x05\x02\0\x01")], Some("its rules forbid")),
            ("unreachable", v4, false, vec![(hello, b"\x05\0"), (ask_v4, b"\x05\x04\0\x01")], Some("host unreachable")),
        ];
        for (name, target, with_login, turns, expected) in rows {
            let login = with_login.then(login);
            let asked = played(&turns, async |stream| socks5(stream, login.as_ref(), target).await).await;
            match (asked, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => {
                    let text = error.to_string();
                    assert!(text.contains(part) && !text.contains("p w"), "{name}: {text}");
                }
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_proxy_that_hangs_up_is_an_error_and_no_tunnel() {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        drop(theirs);
        assert!(matches!(connect(&mut ours, None, "a.example:443").await, Err(TunnelError::Io(_))));
        let (mut ours, theirs) = tokio::io::duplex(4096);
        drop(theirs);
        let target = Target::Name("a.example", 443);
        assert!(matches!(socks5(&mut ours, None, target).await, Err(TunnelError::Io(_))));
    }
}
