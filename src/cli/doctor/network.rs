//! What others answer: the proxy's own guard, the names below localhost, every server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hyper::Method;
use hyper::header::{DATE, HeaderMap};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::text::{length, printable};
use super::finding::{Finding, fail, ok, warn};
use crate::config::{Config, Endpoint, Origin, Proxies, ProxyChoice, Way, is_private_address};
use crate::control::report::StatusReport;
use crate::http_client::{HttpClient, Limits, Outgoing, Reach};
use crate::oauth::http_date;
use crate::platform::clock::wall;
use crate::platform::environment;
use crate::timestamp::unix_seconds;

/// A request as a page that has rebound its name would send it.
pub(super) async fn guard(status: &StatusReport) -> Option<Finding> {
    const CHECK: &str = "guard";
    let address: SocketAddr = status.daemon.listen.iter().find_map(|address| address.parse().ok())?;
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    Some(match timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 403") => {
            ok(CHECK, format!("{address} refuses a foreign Host (DNS rebinding)"))
        }
        Ok(Ok(answer)) => {
            let line = printable(answer.lines().next().unwrap_or("nothing"));
            fail(CHECK, format!("{address} answers a foreign Host with: {line}"), "take rebound.example out of `hosts`")
        }
        Ok(Err(error)) => fail(CHECK, format!("{address} cannot be asked: {error}"), "systemctl --user restart valetd"),
        Err(_) => fail(CHECK, format!("{address} does not answer"), "systemctl --user restart valetd"),
    })
}

pub(super) async fn localhost_names() -> Finding {
    const CHECK: &str = "localhost";
    let looked_up = timeout(Duration::from_secs(5), lookup_host("valetd.localhost:80")).await;
    let addresses: Vec<SocketAddr> = match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    match addresses.as_slice() {
        [] => warn(
            CHECK,
            "names below localhost do not resolve here (browsers and curl know them all the same)",
            "use http://localhost:8253/ROUTE/ instead of http://ROUTE.localhost:8253/, or install libnss-myhostname",
        ),
        found if found.iter().all(|address| address.ip().is_loopback()) => {
            ok(CHECK, "names below localhost resolve to loopback")
        }
        found => fail(
            CHECK,
            format!("valetd.localhost resolves to {}, which is not this machine", found[0].ip()),
            "your name server answers for localhost (RFC 6761 forbids it): use http://localhost:8253/ROUTE/",
        ),
    }
}

/// Something that is asked over the network.
struct Question {
    check: &'static str,
    /// Of whom.
    about: String,
    endpoint: Endpoint,
    method: Method,
    extra_ca: Option<PathBuf>,
    proxy: ProxyChoice,
    /// Whether its name may stand for a private address.
    may_be_private: bool,
}

/// Every server once: names, connection, TLS, a response, and what time it is there.
pub(super) async fn servers(config: &Config) -> Vec<Finding> {
    let proxies = Proxies::read(environment::text);
    // a server that two accounts reach by different ways is asked by both
    let way = |choice: &ProxyChoice, origin: &Origin| by_way(&proxies.way(choice, origin));
    let mut questions: BTreeMap<String, Question> = BTreeMap::new();
    for account in config.accounts.values() {
        // as long as nothing is known of an issuer, it is what must be reached
        let issuer = account.server.issuer.as_ref().filter(|_| account.server.token.is_none());
        let endpoints = account.server.token_endpoints().map(|(_, endpoint)| endpoint);
        for endpoint in endpoints.chain(issuer.map(|issuer| &issuer.endpoint)) {
            let about = format!("{}{}", endpoint.origin, way(&account.proxy, &endpoint.origin));
            questions.entry(format!("0 {about}")).or_insert_with(|| Question {
                check: "token server",
                about,
                endpoint: endpoint.clone(),
                method: Method::OPTIONS,
                extra_ca: account.extra_ca.clone(),
                proxy: account.proxy.clone(),
                may_be_private: account.private_addresses,
            });
        }
    }
    for route in &config.routes {
        let origin = &route.upstream.origin;
        let account = config.accounts.get(&route.account);
        let proxy = account.map(|account| account.proxy.clone()).unwrap_or_default();
        let about = format!("{origin}{}", way(&proxy, origin));
        questions.entry(format!("1 {about}")).or_insert_with(|| Question {
            check: "upstream",
            about,
            endpoint: Endpoint { origin: origin.clone(), path_and_query: format!("{}/", route.upstream.base_path) },
            method: Method::HEAD,
            extra_ca: route.extra_ca.clone().or_else(|| account.and_then(|account| account.extra_ca.clone())),
            proxy,
            may_be_private: account.is_none_or(|account| account.private_addresses),
        });
    }
    let mut asked = JoinSet::new();
    for (index, (_, question)) in questions.into_iter().enumerate() {
        asked.spawn(async move { (index, ask(question).await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    let mut findings = Vec::new();
    let mut clocks = Vec::new();
    for (_, (finding, ahead)) in answers {
        clocks.extend(ahead.map(|ahead| (finding.says.split(' ').next().unwrap_or_default().to_owned(), ahead)));
        findings.push(finding);
    }
    findings.extend(clock(&clocks));
    findings
}

/// `" (through http://proxy.example:3128)"`, if there is a proxy on the way.
fn by_way(way: &Way) -> String {
    match way {
        Way::Direct | Way::Public => String::new(),
        Way::Through(proxy) | Way::PublicThrough(proxy) => format!(" (through {proxy})"),
        Way::Misnamed { variable, .. } => format!(" (through {variable})"),
    }
}

/// Asks one server; with the response, how many seconds its clock is ahead of ours.
async fn ask(question: Question) -> (Finding, Option<i64>) {
    let Question { check, about, endpoint, method, extra_ca, proxy, may_be_private } = question;
    let limits = Limits { connect: Duration::from_secs(5), exchange: Duration::from_secs(10), ..Limits::default() };
    let client = HttpClient::from_environment().with_limits(limits);
    let outgoing = Outgoing { method: method.clone(), fields: HeaderMap::new(), body: Default::default() };
    let reach = Reach { extra_ca: extra_ca.as_deref(), proxy: Some(&proxy), is_public: !may_be_private };
    match client.send(&endpoint, reach, outgoing).await {
        Ok(answer) => {
            let ahead = answer.fields.get(DATE).and_then(|date| seconds_ahead(date.to_str().ok()?, wall()));
            let status = answer.status.as_u16();
            let private = private_address(&endpoint.origin).await;
            let private =
                private.map(|ip| format!("; its name stands for the private address {ip}")).unwrap_or_default();
            (ok(check, format!("{about} answers ({method}: {status}){private}")), ahead)
        }
        Err(error) => {
            let words = error.to_string();
            let remedy = remedy(&words);
            (fail(check, format!("{about}: {words}"), remedy), None)
        }
    }
}

/// The private address that a name stands for, if it does; nobody is surprised by one that is written as such.
async fn private_address(origin: &Origin) -> Option<IpAddr> {
    if origin.is_loopback() || origin.host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let found = timeout(Duration::from_secs(5), lookup_host((origin.host.as_str(), origin.port))).await.ok()?.ok()?;
    found.map(|address| address.ip()).find(|ip| is_private_address(*ip))
}

/// What can be done about a hop that failed, by what the client says of it.
fn remedy(words: &str) -> &'static str {
    let has = |part: &str| words.contains(part);
    match () {
        () if has("UnknownIssuer") || has("unknown issuer") || has("SelfSigned") => {
            "nobody that this machine trusts has signed it: if a company's proxy opens TLS, name its authority: \
             extra_ca = \"/path/ca.pem\""
        }
        () if has("xpired") || has("NotValidYet") => "its certificate is out of date, or this machine's clock is wrong",
        () if has("NotValidForName") || has("not valid for name") => {
            "its certificate is somebody else's: a captive portal, or a proxy that is not named in HTTPS_PROXY"
        }
        () if has("certificate") => {
            "this machine does not trust it: if the server or a company's proxy signs for itself, name the authority: \
             extra_ca = \"/path/ca.pem\""
        }
        () if has("private_addresses") => {
            "if it is meant to be within a network of your own, leave private_addresses out of the account"
        }
        () if has("proxy") || has("_PROXY") => {
            "look at HTTPS_PROXY, ALL_PROXY and NO_PROXY, and at the account's proxy"
        }
        () if has("looking up") => "no such name here: is there a network? behind a company's proxy, set HTTPS_PROXY",
        () if has("refused") => "nothing listens there: look at the address in the configuration",
        () if has("timed out") => "a firewall swallows it: behind a company's proxy, set HTTPS_PROXY",
        () => "look at the address in the configuration, and at the network",
    }
}

/// How far a server's clock is ahead, by its `Date` (RFC 9110 section 6.6.1).
fn seconds_ahead(date: &str, now: SystemTime) -> Option<i64> {
    let there = http_date(Some(date))?;
    Some(there - i64::try_from(unix_seconds(now)).ok()?)
}

/// Tokens are used by our clock; a small difference is within the margin that is left at their ends.
fn clock(seen: &[(String, i64)]) -> Option<Finding> {
    const CHECK: &str = "clock";
    let (server, ahead) = seen.iter().max_by_key(|(_, ahead)| ahead.unsigned_abs())?;
    let difference = length(ahead.unsigned_abs());
    let which = if *ahead > 0 { "behind" } else { "ahead of" };
    let says = format!("this machine's clock is {difference} {which} {server}");
    Some(match ahead.unsigned_abs() {
        0..=5 => ok(CHECK, "it agrees with the servers'"),
        6..=60 => ok(CHECK, says),
        61..=300 => warn(CHECK, says, "timedatectl set-ntp true"),
        _ => fail(CHECK, says, "set it: timedatectl set-ntp true"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn the_clock_is_compared_with_the_servers() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        assert_eq!(seconds_ahead("Mon, 21 Sep 2026 14:13:20 GMT", now), Some(0));
        assert_eq!(seconds_ahead("Mon, 21 Sep 2026 14:23:20 GMT", now), Some(600));
        assert_eq!(seconds_ahead("yesterday", now), None);
        let level = |ahead| clock(&[("a".to_owned(), 1), ("b".to_owned(), ahead)]).unwrap().level;
        assert_eq!((level(-3), level(90), level(-3600)), (Level::Ok, Level::Warn, Level::Fail));
        assert_eq!(clock(&[]), None);
    }

    #[test]
    fn the_failing_hop_names_its_remedy() {
        let table = [
            ("TLS with a:443: invalid peer certificate: UnknownIssuer", "extra_ca"),
            ("looking up a: no such name", "no such name here"),
            ("proxy: connecting to p:3128: connection refused", "HTTPS_PROXY"),
            ("proxy: looking up p: no such name", "the account's proxy"),
            ("asking the proxy p:3128 for a:443: it answered 403", "the account's proxy"),
            ("HTTPS_PROXY has a scheme that is not supported", "HTTPS_PROXY"),
            ("TLS with a:443: invalid peer certificate: Other(CaUsedAsEndEntity)", "extra_ca"),
            ("connecting to a:443: connection refused", "nothing listens"),
            ("connecting to a:443: timed out", "firewall"),
        ];
        for (words, expected) in table {
            assert!(remedy(words).contains(expected), "{words}");
        }
    }
}
