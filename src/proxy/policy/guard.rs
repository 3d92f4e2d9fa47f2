//! May this request be given a token? Pure.
//!
//! The port is open to every program that can reach loopback, so three walls stand before the token: whose process it
//! is (or which client key it presents), which name it believes to talk to (the only wall against DNS rebinding: a
//! rebound page's GET carries neither `Origin` nor `Sec-Fetch-*`), and whether a web page made it: one of another
//! origin, or one whose origin all routes share, and whose maker so could be any of their APIs. What is malformed or
//! ambiguous is refused before that, so that we and the upstream can never disagree about what was asked (RFC 9112
//! sections 3.2, 6.3 and 11.2).

use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING};
use hyper::{Method, Version};

use crate::proxy::peer::{Peer, Process};
use crate::proxy::policy::error::{Check, ProxyError};
use crate::proxy::policy::head::Head;
use crate::proxy::policy::ingress::{Ingress, is_loopback_name, split_port};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");

/// The longest method we take: four times the longest registered one that anybody uses.
const LONGEST_METHOD: usize = 32;

/// The longest request target we take; what most servers take, too.
const LONGEST_TARGET: usize = 8 * 1024;

/// Who is let in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission<'a> {
    /// Users whose processes need no client key, in order.
    pub(crate) uids: &'a [u32],
    /// Names allowed besides the loopback ones, with or without a port.
    pub(crate) hosts: &'a [String],
    /// Whether the request presents a valid client key.
    pub(crate) keyed: bool,
}

/// Why a client is not served without a client key that comes in like this; `None` if it is. `uids` are those of the
/// setting `clients`, in order.
pub(crate) fn needs_key(ingress: &Ingress, peer: &Peer, uids: &[u32]) -> Option<Check> {
    if ingress.requires_key() {
        return Some(Check::KeyRequired);
    }
    match peer.process {
        _ if peer.is_one_of(uids) => None,
        Process::Of { uid: 0, .. } => Some(Check::Root),
        Process::NotAsked | Process::Of { .. } | Process::Unknown => Some(Check::Peer),
    }
}

/// Decides about one request; on success, its host name without port (empty if an HTTP/1.0 client sent none).
pub(crate) fn admit<'head>(
    ingress: &Ingress,
    peer: &Peer,
    admission: Admission<'_>,
    head: &Head<'head>,
) -> Result<&'head str, ProxyError> {
    let Admission { uids, hosts, keyed } = admission;
    if !keyed && let Some(check) = needs_key(ingress, peer, uids) {
        return Err(ProxyError::NotAllowed(check));
    }
    check_form(head)?;
    let host = check_host(ingress, hosts, head)?;
    if head.flags.origin && !is_our_origin(head.headers, ingress) {
        return Err(ProxyError::NotAllowed(Check::Origin));
    }
    let is_own_site = |site: &HeaderValue| site == "none" || site == "same-origin";
    if head.flags.browser && !head.headers.get_all(SEC_FETCH_SITE).iter().all(is_own_site) {
        return Err(ProxyError::NotAllowed(Check::FetchSite));
    }
    Ok(host)
}

/// How a request is let in to an address that routes share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shared {
    /// As a tool's.
    Use,
    /// As a browser's that opens a page, by a loopback name: there is a better address for it.
    Navigation,
}

/// Decides about a request to an address that routes share, after [`admit`], which returned `host`.
///
/// Such an address is for tools. Whatever page or worker is at home there could have come from any of the APIs, so what
/// it asks for is refused.
pub(crate) fn admit_to_shared(head: &Head<'_>, host: &str) -> Result<Shared, ProxyError> {
    let Head { method, headers, flags, .. } = head;
    if !flags.browser {
        return Ok(Shared::Use);
    }
    if headers.contains_key(SERVICE_WORKER) {
        return Err(ProxyError::NotAllowed(Check::ServiceWorker));
    }
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    // a person who types an address sends no `Origin`
    if flags.origin && sites.peek().is_some() {
        return Err(ProxyError::NotAllowed(Check::Origin));
    }
    if !sites.all(|site| site == "none") {
        return Err(ProxyError::NotAllowed(Check::FetchSite));
    }
    let navigates = headers.get_all(SEC_FETCH_MODE).iter().any(|mode| mode == "navigate");
    Ok(if navigates && **method == Method::GET && is_loopback_name(host) { Shared::Navigation } else { Shared::Use })
}

/// The address of a route's own origin, in the spelling of a client that named us in `host`, which [`admit`] let pass:
/// `http://NAME.localhost:PORT`.
pub(crate) fn own_origin(route: &str, host: &str) -> String {
    match split_port(host) {
        Some((_, Some(port))) => format!("http://{route}.localhost:{port}"),
        Some((_, None)) | None => format!("http://{route}.localhost"),
    }
}

/// What cannot be a request to a reverse proxy, or could be read in two ways.
///
/// Of `Content-Length` there is nothing left to check: hyper refuses different ones, and drops it, with the connection
/// after this request, where there is a `Transfer-Encoding` (RFC 9112 section 6.3).
fn check_form(head: &Head<'_>) -> Result<(), ProxyError> {
    let Head { method, target, headers, flags, .. } = head;
    if method.as_str().len() > LONGEST_METHOD {
        return Err(ProxyError::BadRequest("the method is longer than 32 bytes"));
    }
    if **method == Method::CONNECT || **method == Method::TRACE {
        return Err(ProxyError::MethodNotAllowed);
    }
    if flags.transfer_encoding {
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let only_chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !only_chunked || codings.next().is_some() {
            return Err(ProxyError::BadRequest("Transfer-Encoding is not exactly one \"chunked\""));
        }
    }
    let length = target.path_and_query().map_or(0, |target| target.as_str().len());
    if length > LONGEST_TARGET {
        return Err(ProxyError::TargetTooLong);
    }
    if !target.path().starts_with('/') {
        return Err(ProxyError::BadRequest("the request target is not a path"));
    }
    Ok(())
}

fn check_host<'head>(ingress: &Ingress, hosts: &[String], head: &Head<'head>) -> Result<&'head str, ProxyError> {
    let Head { target, version, headers, flags, .. } = *head;
    let authority = target.authority().map(|authority| authority.as_str());
    let host = match (flags.hosts, version) {
        (1, _) => headers[HOST].to_str().map_err(|_| ProxyError::BadRequest("Host is not a host name"))?,
        (0, Version::HTTP_2) => authority.ok_or(ProxyError::BadRequest("no :authority and no Host"))?,
        // HTTP/1.0 knows no Host; no browser, which is whom the check is for, speaks it
        (0, Version::HTTP_10) => return if authority.is_none() { Ok("") } else { Err(ABSOLUTE_FORM) },
        (0, _) => return Err(ProxyError::BadRequest("no Host")),
        (2.., _) => return Err(ProxyError::BadRequest("more than one Host")),
    };
    if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
        return Err(ABSOLUTE_FORM);
    }
    if authority.is_some() && version < Version::HTTP_2 && target.scheme_str() != Some("http") {
        return Err(ABSOLUTE_FORM);
    }
    let (name, _) = split_port(host).ok_or(ProxyError::BadRequest("Host is not a host name"))?;
    let known = hosts.iter().any(|known| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(name));
    if known || ingress.admits_host(name) { Ok(name) } else { Err(ProxyError::NotAllowed(Check::Host)) }
}

const ABSOLUTE_FORM: ProxyError = ProxyError::BadRequest("the target's authority is not that of Host");

/// Whether the one `Origin` is that of pages that come from here: `http://` and what `Host` says; `https://`, where a
/// request names an upstream.
fn is_our_origin(headers: &HeaderMap, ingress: &Ingress) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let (Some(origin), None, Some(host)) = (origins.next(), origins.next(), headers.get(HOST)) else { return false };
    let is_of = |scheme: &[u8]| {
        let authority = origin.as_bytes().strip_prefix(scheme);
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_bytes()))
    };
    is_of(b"http://") || ingress.names_upstreams() && is_of(b"https://")
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;
    use crate::proxy::policy::head::HeadFlags;
    use crate::proxy::policy::scope::Scope;

    type Fields<'a> = &'a [(&'a str, &'a str)];

    const OWN: u32 = 1000;
    /// A listener, and who comes in by it.
    struct Way {
        ingress: Ingress,
        peer: Peer,
    }

    const fn process(process: Process) -> Peer {
        Peer { addresses: None, process }
    }

    const HERE: Way =
        Way { ingress: Ingress::loopback(Scope::All), peer: process(Process::Of { uid: OWN, pid: None }) };

    fn admit_request(way: Way, method: &str, target: &str, fields: &[(&str, &str)]) -> Result<String, ProxyError> {
        admit_with(way, false, method, target, fields)
    }

    fn admit_with(
        way: Way,
        keyed: bool,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
    ) -> Result<String, ProxyError> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let head = Head::of(&request, HeadFlags::of(request.headers()));
        let hosts = ["valet.lan".to_owned()];
        let admission = Admission { uids: &[0, OWN], hosts: &hosts, keyed };
        admit(&way.ingress, &way.peer, admission, &head).map(str::to_owned)
    }

    #[test]
    fn only_names_that_cannot_be_rebound_are_hosts() {
        let good = [
            ("localhost:8253", "localhost"),
            ("LocalHost:8253", "LocalHost"),
            ("gbdx.localhost:8253", "gbdx.localhost"),
            ("a.b.localhost:8253", "a.b.localhost"),
            ("127.0.0.1:8253", "127.0.0.1"),
            ("127.8.9.10:8253", "127.8.9.10"),
            ("[::1]:8253", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:8253", "[0:0:0:0:0:0:0:1]"),
            ("valet.lan:9999", "valet.lan"),
            ("valet.lan", "valet.lan"),
            // forwarded ports: `ssh -L 9000:localhost:8253`, a container's, an editor's
            ("localhost:80", "localhost"),
            ("localhost:8254", "localhost"),
            ("localhost:9000", "localhost"),
            ("localhost", "localhost"),
            ("gbdx.localhost:9000", "gbdx.localhost"),
            ("gbdx.localhost", "gbdx.localhost"),
            ("127.0.0.1:9000", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]:1", "[::1]"),
            ("[::1]:65535", "[::1]"),
        ];
        for (host, name) in good {
            assert_eq!(admit_request(HERE, "GET", "/", &[("host", host)]), Ok(name.to_owned()), "{host}");
        }
        let foreign = [
            "evil.example:8253",
            "localhost.evil.example:8253",
            "evillocalhost:8253",
            ".localhost:8253",
            "a..localhost:8253",
            "localhost.:8253",
            "127.0.0.1.evil.example:8253",
            "127.1:8253",
            "2130706433:8253",
            "0x7f.0.0.1:8253",
            "0177.0.0.1:8253",
            "0.0.0.0:8253",
            "10.0.0.1:8253",
            "[::]:8253",
            "[::ffff:127.0.0.1]:8253",
            "[fe80::1]:8253",
            "evil.example",
            "evil.example:9000",
            "localhost.evil.example:9000",
            "localhost.:9000",
            "10.0.0.1:9000",
            "valet.lan.evil.example:8253",
        ];
        for host in foreign {
            let answer = admit_request(HERE, "GET", "/", &[("host", host)]);
            assert_eq!(answer, Err(ProxyError::NotAllowed(Check::Host)), "{host}");
        }
        let malformed = [
            "",
            "localhost:",
            "localhost:8253.evil.example",
            "localhost:8253@evil.example",
            "user@localhost:8253",
            "localhost:+8253",
            "localhost:99999",
            "localhost:8253, evil.example",
            "localhost:8253/x",
            "[::1",
            "[::1]8253",
            "::1:8253",
            "local host:8253",
        ];
        for host in malformed {
            let answer = admit_request(HERE, "GET", "/", &[("host", host)]);
            assert!(matches!(answer, Err(ProxyError::BadRequest(_))), "{host:?}: {answer:?}");
        }
    }

    #[test]
    fn a_unix_socket_takes_any_name() {
        let unix = Way { ingress: Ingress::unix(Scope::All), ..HERE };
        assert_eq!(admit_request(unix, "GET", "/", &[("host", "valetd")]), Ok("valetd".into()));
    }

    #[test]
    fn requests_made_by_web_pages_of_others_are_refused() {
        let host = ("host", "localhost:8253");
        let origin = Err(ProxyError::NotAllowed(Check::Origin));
        let site = Err(ProxyError::NotAllowed(Check::FetchSite));
        let fine = Ok("localhost".to_owned());
        let rows = [
            ("own origin", ("origin", "http://localhost:8253"), &fine),
            ("foreign", ("origin", "https://evil.example"), &origin),
            ("opaque", ("origin", "null"), &origin),
            ("other port", ("origin", "http://localhost:3000"), &origin),
            ("https", ("origin", "https://localhost:8253"), &origin),
            ("a longer name", ("origin", "http://localhost:82530"), &origin),
            ("empty", ("origin", ""), &origin),
            ("typed by a person", ("sec-fetch-site", "none"), &fine),
            ("own page", ("sec-fetch-site", "same-origin"), &fine),
            ("cross-site", ("sec-fetch-site", "cross-site"), &site),
            ("same-site", ("sec-fetch-site", "same-site"), &site),
            ("nonsense", ("sec-fetch-site", "x"), &site),
        ];
        for (case, field, expected) in rows {
            assert_eq!(&admit_request(HERE, "GET", "/", &[host, field]), expected, "{case}");
        }
        let forwarded = ("host", "localhost:9000");
        assert_eq!(admit_request(HERE, "GET", "/", &[forwarded, ("origin", "http://localhost:9000")]), fine);
        for foreign in ["http://localhost:8253", "http://localhost", "http://127.0.0.1:9000"] {
            assert_eq!(admit_request(HERE, "GET", "/", &[forwarded, ("origin", foreign)]), origin, "{foreign}");
        }
        let twice = [host, ("origin", "http://localhost:8253"), ("origin", "https://evil.example")];
        assert_eq!(admit_request(HERE, "GET", "/", &twice), origin);
        let twice = [host, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")];
        assert_eq!(admit_request(HERE, "GET", "/", &twice), site);
    }

    #[test]
    fn an_address_that_routes_share_is_for_tools() {
        let decide = |method: &str, host: &str, fields: Fields<'_>| {
            let mut request = Request::builder().method(method).uri("/lab/x");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let request = request.body(()).unwrap();
            admit_to_shared(&Head::of(&request, HeadFlags::of(request.headers())), host)
        };
        let (site, mode) = (|site| ("sec-fetch-site", site), |mode| ("sec-fetch-mode", mode));
        let own = ("origin", "http://localhost:8253");
        let refused = |check| Err(ProxyError::NotAllowed(check));
        let rows: &[(&str, &str, &str, Fields<'_>, _)] = &[
            ("a tool", "GET", "localhost", &[], Ok(Shared::Use)),
            ("websocket-client", "GET", "localhost", &[own], Ok(Shared::Use)),
            ("typed", "GET", "localhost", &[site("none"), mode("navigate")], Ok(Shared::Navigation)),
            ("an address", "GET", "127.0.0.1", &[site("none"), mode("navigate")], Ok(Shared::Navigation)),
            ("IPv6", "GET", "[::1]", &[site("none"), mode("navigate")], Ok(Shared::Navigation)),
            ("mode alone", "GET", "localhost", &[mode("navigate")], Ok(Shared::Navigation)),
            ("a name of the setting", "GET", "valet.lan", &[site("none"), mode("navigate")], Ok(Shared::Use)),
            ("a form sent again", "POST", "localhost", &[site("none"), mode("navigate")], Ok(Shared::Use)),
            ("downloaded", "GET", "localhost", &[site("none"), mode("no-cors")], Ok(Shared::Use)),
            ("a page's own", "GET", "localhost", &[site("same-origin"), mode("cors")], refused(Check::FetchSite)),
            ("its link", "GET", "localhost", &[site("same-origin"), mode("navigate")], refused(Check::FetchSite)),
            ("twice", "GET", "localhost", &[site("none"), site("same-origin")], refused(Check::FetchSite)),
            ("its POST", "POST", "localhost", &[own, site("same-origin")], refused(Check::Origin)),
            ("its POST, as typed", "POST", "localhost", &[own, site("none")], refused(Check::Origin)),
            ("a worker", "GET", "localhost", &[("service-worker", "script")], refused(Check::ServiceWorker)),
        ];
        for (case, method, host, fields, expected) in rows {
            assert_eq!(&decide(method, host, fields), expected, "{case}");
        }
        assert_eq!(own_origin("lab", "127.0.0.1:8253"), "http://lab.localhost:8253");
        assert_eq!(own_origin("lab", "[::1]:8253"), "http://lab.localhost:8253");
        assert_eq!(own_origin("lab", "localhost"), "http://lab.localhost");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let host = ("host", "localhost:8253");
        let te = |value| ("transfer-encoding", value);
        let rows: &[(&str, &str, &str, Fields<'_>)] = &[
            ("no host", "GET", "/", &[]),
            ("two hosts", "GET", "/", &[host, host]),
            ("gzip, chunked", "POST", "/", &[host, te("gzip, chunked")]),
            ("chunked twice in a line", "POST", "/", &[host, te("chunked, chunked")]),
            ("chunked on two lines", "POST", "/", &[host, te("chunked"), te("chunked")]),
            ("identity", "POST", "/", &[host, te("identity")]),
            ("a long method", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG", "/", &[host]),
            ("asterisk", "OPTIONS", "*", &[host]),
            ("foreign authority", "GET", "http://evil.example/", &[host]),
            ("userinfo", "GET", "http://x@localhost:8253/", &[host]),
            ("https", "GET", "https://localhost:8253/", &[host]),
        ];
        for (case, method, target, fields) in rows {
            let answer = admit_request(HERE, method, target, fields);
            assert!(matches!(answer, Err(ProxyError::BadRequest(_))), "{case}: {answer:?}");
        }
        let long = format!("/{}", "x".repeat(8192));
        assert_eq!(admit_request(HERE, "GET", &long, &[host]), Err(ProxyError::TargetTooLong));
        assert_eq!(admit_request(HERE, "TRACE", "/", &[host]), Err(ProxyError::MethodNotAllowed));
        assert_eq!(admit_request(HERE, "CONNECT", "localhost:8253", &[host]), Err(ProxyError::MethodNotAllowed));
        assert!(admit_request(HERE, "GET", "http://localhost:8253/x", &[host]).is_ok());
        assert!(admit_request(HERE, "POST", "/", &[host, te("Chunked")]).is_ok());
    }

    #[test]
    fn without_a_key_only_the_clients_of_the_setting_are_admitted_and_nobody_from_elsewhere() {
        let of = |uid| Process::Of { uid, pid: None };
        let at_home = |whose| Way { peer: process(whose), ..HERE };
        let open = |whose| Way { ingress: Ingress::remote(Scope::All), peer: process(whose) };
        let (peer, key) = (Some(Check::Peer), Some(Check::KeyRequired));
        let rows = [
            ("our own", at_home(of(OWN)), false, None),
            ("root's", at_home(of(0)), false, None),
            ("another user's", at_home(of(1001)), false, peer),
            ("a user's of no name", at_home(of(65534)), false, peer),
            ("nobody knows whose", at_home(Process::Unknown), false, peer),
            ("nobody asks", at_home(Process::NotAsked), false, None),
            ("another user's, with a key", at_home(of(1001)), true, None),
            ("nobody knows whose, with a key", at_home(Process::Unknown), true, None),
            ("from elsewhere", open(Process::Unknown), false, key),
            ("our own, where others can come in", open(of(OWN)), false, key),
            ("from elsewhere, with a key", open(Process::Unknown), true, None),
        ];
        for (case, way, keyed, refused) in rows {
            let host = ("host", "localhost:8253");
            let expected = refused.map_or(Ok("localhost".to_owned()), |check| Err(ProxyError::NotAllowed(check)));
            assert_eq!(admit_with(way, keyed, "GET", "/", &[host]), expected, "{case}");
        }
        let admission = Admission { uids: &[OWN], hosts: &[], keyed: false };
        let request = Request::builder().uri("/").body(()).unwrap();
        let head = Head::of(&request, HeadFlags::of(request.headers()));
        let refused = admit(&HERE.ingress, &process(of(0)), admission, &head);
        assert_eq!(refused, Err(ProxyError::NotAllowed(Check::Root)), "root is not named");
        // a key opens no way around the other walls
        let page = [("host", "localhost:8253"), ("origin", "https://evil.example")];
        assert_eq!(admit_with(HERE, true, "GET", "/", &page), Err(ProxyError::NotAllowed(Check::Origin)));
        let rebound = [("host", "evil.example:8253")];
        assert_eq!(admit_with(HERE, true, "GET", "/", &rebound), Err(ProxyError::NotAllowed(Check::Host)));
    }
}
