//! What an API can do to its neighbours by what it says: as a page in a browser, and by where it leads a client.

use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use valetd::stand_in::{Options, Provider};

use crate::support::keys::add;
use crate::support::lab::{self, Server};
use crate::support::providers::{Running, gbdx_account, start};
use crate::support::upstreams::{read_head, serving};
use crate::support::{Answer, Daemon, Home, PATIENCE, free_address, request, send};

/// An API that answers whatever it was told to, and remembers what reached it.
struct Api {
    url: String,
    says: Arc<Mutex<Vec<u8>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn start() -> Self {
        let (says, seen) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (answer, notes) = (says.clone(), seen.clone());
        let address = serving(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            loop {
                let head = read_head(&mut reader)?;
                if head.is_empty() {
                    return Ok(());
                }
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
                reader.read_exact(&mut body)?;
                notes.lock().expect("not poisoned").push(head);
                let answer = [&answer.lock().expect("not poisoned")[..], b"Content-Length: 2\r\n\r\nok"].concat();
                stream.write_all(&answer)?;
            }
        });
        let api = Self { url: format!("http://{address}"), says, seen };
        api.say("200 OK", "");
        api
    }

    /// `fields` end with a line end each.
    fn say(&self, status: &str, fields: &str) {
        *self.says.lock().expect("not poisoned") = format!("HTTP/1.1 {status}\r\n{fields}").into_bytes();
    }

    /// What has come since somebody asked.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("not poisoned"))
    }
}

/// A home with two accounts: of the first, the routes `api` and `twin` to one API; of the second, `two`, and `alone`, which
/// has a listener of its own, to another.
struct Stage {
    home: Home,
    address: String,
    port: String,
    alone: String,
    api: Api,
    two: Api,
    _servers: (Server, Running),
}

impl Stage {
    fn start() -> Self {
        let (server, gbdx) =
            (Server::start(Provider::Gdh, Options::default()), start(Provider::Gbdx, Options::default()));
        let (api, two) = (Api::start(), Api::start());
        let (address, alone) = (free_address(), free_address());
        let home = Home::empty();
        let socket = home.path("run/http.sock");
        let config = lab::config(&server, "", "", "hosts = [\"valet.lan\"]")
            .replace("\"127.0.0.1:0\"", &format!("\"{address}\", \"unix:{}\"", socket.display()));
        home.write_config(&format!(
            "{config}{}[route.api]\naccount = \"gbdx\"\nupstream = \"{api}/v1\"\n[route.twin]\naccount = \"gbdx\"\n\
             upstream = \"{api}\"\n[route.two]\naccount = \"lab\"\nupstream = \"{two}\"\n[route.alone]\n\
             account = \"lab\"\nupstream = \"{two}\"\nlisten = \"{alone}\"\n",
            gbdx_account(&gbdx),
            api = api.url,
            two = two.url,
        ));
        lab::sign_in(&home, &server.sign_in());
        home.sign_in("gbdx", &gbdx.sign_in());
        let port = address.split_once(':').expect("a port").1.to_owned();
        Self { home, address, port, alone, api, two, _servers: (server, gbdx) }
    }

    fn daemon(&self) -> Daemon<'_> {
        let daemon = self.home.start();
        daemon.until("lab", "usable");
        daemon.until("gbdx", "usable");
        daemon
    }

    fn ask(&self, host: &str, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let host = format!("{host}:{}", self.port);
        let fields = [&[("Host", host.as_str())], fields].concat();
        send(&self.address, method, path, &fields, b"").expect("an answer")
    }
}

const TYPED: [(&str, &str); 2] = [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")];

#[test]
fn a_browser_that_opens_a_shared_address_is_led_to_the_routes_own_origin_and_nothing_else_is() {
    let stage = Stage::start();
    let daemon = stage.daemon();
    let (port, key) = (&stage.port, add(&stage.home, "agent", &["--route", "api"]));
    stage.api.say("200 OK", "Content-Type: text/html\r\nService-Worker-Allowed: /\r\n");
    for host in ["localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "[::1]", "a.b.localhost"] {
        for (path, expected) in [
            ("/api/docs/", "/docs/"),
            ("/api/docs?a=b&c=%2F..%2f", "/docs?a=b&c=%2F..%2f"),
            ("/api", "/"),
            ("/api/", "/"),
            ("/api//x", "//x"),
            ("/api?q", "/?q"),
            (&*format!("/{key}/api/x?q"), "/x?q"),
        ] {
            let answer = stage.ask(host, "GET", path, &TYPED);
            let location = format!("http://api.localhost:{port}{expected}");
            assert_eq!((answer.status, answer.header("location")), (307, Some(&*location)), "{host} {path}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "no tool may find it in a cache");
            assert_eq!(answer.header("vary"), Some("Sec-Fetch-Mode, Sec-Fetch-Site"));
            assert_eq!(answer.header("clear-site-data"), Some("\"storage\""));
        }
    }
    assert_eq!(stage.api.seen(), [""; 0], "nothing has gone up");
    // the guard and the routes come first
    for (host, path, fields, status) in [
        ("evil.example", "/api/x", vec![], 403),
        ("localhost", "/nowhere/x", vec![], 404),
        ("localhost", "/api/../x", vec![], 400),
        ("localhost", "/api/x", vec![("Origin", "http://evil.example")], 403),
        ("localhost", "/api/x", vec![("X-Valetd-Key", "vk_wrong")], 403),
    ] {
        let answer = stage.ask(host, "GET", path, &[&TYPED, &fields[..]].concat());
        assert_eq!((answer.status, answer.header("location")), (status, None), "{host} {path} {fields:?}");
    }
    // at home, where the page may do what its API lets it
    for (host, path) in [("api.localhost", "/docs/"), ("API.localhost", "/docs/")] {
        let answer = stage.ask(host, "GET", path, &TYPED);
        assert_eq!((answer.status, answer.header("content-security-policy")), (200, None), "{host}");
        assert_eq!(answer.header("service-worker-allowed"), Some("/"), "{host}");
        for site in ["same-origin", "none"] {
            let own = format!("http://{host}:{port}");
            let fields = [("Sec-Fetch-Site", site), ("Origin", &own), ("Sec-Fetch-Mode", "cors")];
            assert_eq!(stage.ask(host, "POST", "/x", &fields).status, 200, "{host} {site}");
        }
    }
    let alone = send(&stage.alone, "GET", "/x", &TYPED, b"").expect("an answer");
    assert_eq!((alone.status, alone.header("content-security-policy")), (200, None), "a listener of its own");
    // whoever does not navigate by a loopback name is not led away
    for (host, method, fields) in [
        ("localhost", "GET", vec![]),
        ("localhost", "HEAD", TYPED.to_vec()),
        ("localhost", "POST", TYPED.to_vec()),
        ("localhost", "GET", vec![("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "no-cors")]),
        ("valet.lan", "GET", TYPED.to_vec()),
    ] {
        let answer = stage.ask(host, method, "/api/x", &fields);
        assert_eq!((answer.status, answer.header("location")), (200, None), "{host} {method} {fields:?}");
    }
    drop(daemon);
}

#[test]
fn no_page_or_worker_at_a_shared_address_is_given_a_token() {
    let stage = Stage::start();
    let daemon = stage.daemon();
    let own = format!("http://localhost:{}", stage.port);
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        for mode in ["cors", "no-cors", "same-origin", "navigate", "websocket"] {
            for site in ["same-origin", "same-site", "cross-site", "none, same-origin"] {
                for origin in [None, Some(&*own), Some("null")] {
                    let mut fields = vec![("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode)];
                    fields.extend(origin.map(|origin| ("Origin", origin)));
                    let answer = stage.ask("localhost", method, "/two/secret", &fields);
                    assert_eq!(answer.status, 403, "{method} {fields:?}");
                }
            }
        }
    }
    // a sandboxed page, also where browsers send nothing else; a service worker; and a page that was typed has no Origin
    for (case, fields) in [
        ("sandboxed", vec![("Origin", "null")]),
        ("a worker", vec![("Service-Worker", "script")]),
        ("a worker, in disguise", vec![("Service-Worker", "script"), ("Sec-Fetch-Site", "none")]),
        ("a page, in disguise", vec![("Origin", &*own), ("Sec-Fetch-Site", "none")]),
    ] {
        let answer = stage.ask("localhost", "GET", "/two/sw.js", &fields);
        assert_eq!(answer.status, 403, "{case}");
        let clears = answer.header("clear-site-data").is_some();
        assert_eq!(clears, case.starts_with("a worker"), "{case}: one from before goes");
    }
    assert_eq!(stage.two.seen(), [""; 0], "nothing has gone up");
    // tools, and websocket-client, which names us as browsers would, but nothing else
    for fields in [vec![], vec![("Origin", &*own)], vec![("Sec-Fetch-Site", "none")], vec![("Sec-Fetch-Mode", "cors")]]
    {
        assert_eq!(stage.ask("localhost", "GET", "/two/x", &fields).status, 200, "{fields:?}");
    }
    drop(daemon);
}

#[test]
fn what_could_become_a_document_at_a_shared_address_has_an_origin_of_its_own() {
    const SANDBOX: &str = "sandbox allow-scripts allow-forms allow-popups allow-downloads";
    let stage = Stage::start();
    let daemon = stage.daemon();
    let policies = |answer: &Answer| -> Vec<String> {
        let policies = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-security-policy"));
        policies.map(|(_, value)| value.clone()).collect()
    };
    let documents = [
        "Content-Type: text/html\r\n",
        "Content-Type: application/xhtml+xml\r\n",
        "Content-Type: image/svg+xml\r\n",
        "Content-Type: application/pdf\r\n",
        "Content-Type: application/json, text/html\r\n",
        "Content-Type: application/json\r\nContent-Type: text/html\r\n",
        "Content-Type: what/ever\r\n",
        // no types, so that browsers look at the content; and one that they read up to the blank, the tab, the bracket
        "Content-Type: x+json\r\n",
        "Content-Type: html+json\r\n",
        "Content-Type: /+json\r\n",
        "Content-Type: text/+json\r\n",
        "Content-Type: a b/c+json\r\n",
        "Content-Type: text/html +json\r\n",
        "Content-Type: text/html\t+json\r\n",
        "Content-Type: text/html(+json\r\n",
        "Content-Type: text/html/x+json\r\n",
        "",
    ];
    for fields in documents {
        for status in ["200 OK", "404 Not Found", "302 Found", "500 Oh"] {
            stage.api.say(status, fields);
            for host in ["localhost", "127.0.0.1", "valet.lan"] {
                assert_eq!(policies(&stage.ask(host, "GET", "/api/x", &[])), [SANDBOX], "{host} {status} {fields}");
            }
            assert_eq!(policies(&stage.ask("api.localhost", "GET", "/x", &[])), [""; 0], "{status} {fields}");
        }
    }
    stage.api.say("200 OK", "Content-Type: text/html\r\nContent-Security-Policy: default-src 'none'\r\n");
    let both = ["default-src 'none'", SANDBOX];
    assert_eq!(policies(&stage.ask("localhost", "GET", "/api/x", &[])), both, "policies are in force together");
    for fields in ["Content-Type: application/json\r\n", "Content-Type: application/geo+json; charset=utf-8\r\n"] {
        stage.api.say("200 OK", fields);
        let answer = stage.ask("localhost", "GET", "/api/x", &[]);
        assert_eq!(policies(&answer), [""; 0], "{fields}");
    }
    // what an API says for a whole origin is not for an address that it does not have alone
    let speaks = "Service-Worker-Allowed: /\r\nClear-Site-Data: \"*\"\r\nNEL: {}\r\nReporting-Endpoints: x=\"/y\"\r\n";
    stage.api.say("200 OK", &format!("Content-Type: application/json\r\n{speaks}"));
    let (shared, own) = (stage.ask("localhost", "GET", "/api/x", &[]), stage.ask("api.localhost", "GET", "/x", &[]));
    for name in ["service-worker-allowed", "clear-site-data", "nel", "reporting-endpoints"] {
        assert_eq!((shared.header(name), own.header(name).is_some()), (None, true), "{name}");
    }
    // no browser comes by a unix socket
    stage.api.say("200 OK", "Content-Type: text/html\r\n");
    let socket = UnixStream::connect(stage.home.path("run/http.sock")).expect("it listens");
    let answer =
        request(socket, "GET /api/x HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n", b"").expect("an answer");
    assert_eq!((answer.status, policies(&answer).len()), (200, 0));
    drop(daemon);
}

// --- where an answer leads -------------------------------------------------------------------------------------------

/// How a client reads a reference.
#[derive(Clone, Copy, Debug)]
enum Reader {
    /// As RFC 3986 has it.
    Rfc,
    /// As the URL Standard has it, for browsers.
    Browser,
    /// As Python's urljoin, which drops empty segments, behind requests, which decodes what needs no encoding.
    Python,
    /// As curl with --unix-socket, which asks there for every plain address.
    Socket,
}

/// Where a client that has asked for `path` at `host` goes: a host with port, and a path. A sketch, on the side of those
/// who go astray.
fn follow(reader: Reader, host: &str, path: &str, reference: &str) -> Option<(String, String)> {
    let mut reference = reference.to_owned();
    match reader {
        Reader::Browser => {
            reference = reference.replace(['\t', '\r', '\n'], "");
            let front = reference.find(['?', '#']).unwrap_or(reference.len());
            reference = reference[..front].replace('\\', "/").replace("%2e", ".").replace("%2E", ".");
        }
        Reader::Python => {
            reference = reference.replace("%2e", ".").replace("%2E", ".").replace("%74", "t").replace('\t', "");
        }
        Reader::Rfc | Reader::Socket => {}
    }
    let reference = reference.split(['?', '#']).next().unwrap_or_default().trim();
    let lower = reference.to_ascii_lowercase();
    let scheme = ["http:", "ws:", "https:"].into_iter().find(|scheme| lower.starts_with(scheme));
    let rest = scheme.map_or(reference, |scheme| &reference[scheme.len()..]);
    let (host, joined) = if let Some(rest) = rest.strip_prefix("//") {
        let rest = if matches!(reader, Reader::Browser) { rest.trim_start_matches('/') } else { rest };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        (authority.rsplit('@').next().unwrap_or_default().to_owned(), path.to_owned())
    } else if rest.starts_with('/') {
        (host.to_owned(), rest.to_owned())
    } else {
        let folder = &path[..=path.rfind('/').expect("a path")];
        (host.to_owned(), format!("{folder}{rest}"))
    };
    let mut segments: Vec<&str> = Vec::new();
    for segment in joined.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            "" if matches!(reader, Reader::Python) => {}
            _ => segments.push(segment),
        }
    }
    let (name, port) = host.rsplit_once(':').unwrap_or((&host, "80"));
    let port: u16 = port.parse().ok()?;
    // what is no number goes as it is
    let number = |text: &str| match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let name = match number(name).map(Ipv4Addr::from) {
        Some(address) => address.to_string(),
        None => name.trim_end_matches('.').to_owned(),
    };
    Some((format!("{name}:{port}"), format!("/{}", segments.join("/"))))
}

/// What an upstream at `/v1/d/up` may say to get at `two`.
fn astray(stage: &Stage) -> Vec<String> {
    let mut references = Vec::new();
    for up in ["..", "./..", "%2e%2e", ".%2E", "x/../..", "a//../..", ".\t.", "x:/..", "..;/.."] {
        for depth in 1..5 {
            for slash in ["/", "\\"] {
                let climb = format!("{up}{slash}").repeat(depth);
                for start in ["", "/", "/v1/", "//", "\\", &format!("{}/v1/", stage.api.url)] {
                    references.push(format!("{start}{climb}two/x"));
                }
            }
        }
    }
    let own = stage.alone.split_once(':').expect("a port").1;
    for host in [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "two.localhost",
        "a.localhost",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "valet.lan",
        "user@localhost",
        "a@b@localhost",
        "%6cocalhost",
    ] {
        let ports = [stage.port.clone(), own.to_owned(), format!("0{}", stage.port)];
        for scheme in ["http://", "HTTP://", "//", "http:", "http:/", "http:///", "http:\\\\", "ht\ttp://", "ws://", ""]
        {
            for path in ["/two/x", "/./two/x", "/api/../two/x", "/api/%2e%2e/two/x", "\\two/x", "/%74wo/x"] {
                // in turn, as all of them with all are more than a test run can wait for
                let port = &ports[(references.len() + path.len()) % 3];
                references.push(format!("{scheme}{host}:{port}{path}"));
            }
        }
    }
    references.extend(
        ["///two/x", "two/x", "http:two/x", "http:/two/x", "//two/x", "http://evil.example/two/x"].map(String::from),
    );
    references
}

#[test]
fn nowhere_in_an_answer_a_client_is_led_to_another_accounts_route() {
    let stage = Stage::start();
    let daemon = stage.daemon();
    let references = astray(&stage);
    let socket = stage.home.path("run/http.sock");
    let mut passed_on = 0;
    for (at, reference) in references.iter().enumerate() {
        // fields and addresses in turn, and the usual ones for all
        let field = ["Location", "Content-Location", "Refresh", "Link"][at % 4];
        let asked = ["/api", "/api/d/up", "/api/", "/twin/d/up", "/twin"][at / 4 % 5];
        for (field, asked) in [(field, asked), ("Location", "/api/d/up")] {
            let fields = match field {
                "Refresh" => format!("Refresh: 0;url={reference}\r\n"),
                "Link" => format!("Link: <{reference}>; rel=\"next\"\r\n"),
                _ => format!("{field}: {reference}\r\n"),
            };
            stage.api.say("307 Temporary Redirect", &fields);
            let host = format!("localhost:{}", stage.port);
            let answer = send(&stage.address, "POST", asked, &[("Host", &host)], b"upload").expect("an answer");
            assert_eq!(answer.status, 307, "{reference}: {}", answer.text());
            let Some(value) = answer.header(field) else { continue };
            let target = match field {
                "Refresh" => value.split_once("url=").map_or("", |(_, url)| url),
                "Link" => value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).expect("a target").0,
                _ => value,
            };
            passed_on += 1;
            for reader in [Reader::Rfc, Reader::Browser, Reader::Python] {
                let Some((host, path)) = follow(reader, &host, asked, target) else { continue };
                for address in [&stage.address, &stage.alone] {
                    let port = address.split_once(':').expect("a port").1;
                    if host.ends_with(&format!(":{port}")) {
                        let _ = send(address, "POST", &path, &[("Host", &host)], b"upload").expect("an answer");
                    }
                }
                let arrived = stage.two.seen();
                assert!(
                    arrived.is_empty(),
                    "{field} {reference:?} at {asked} came as {value:?}, and {reader:?} at two: {arrived:?}"
                );
            }
        }
        let unix = UnixStream::connect(&socket).expect("it listens");
        unix.set_read_timeout(Some(PATIENCE)).expect("set");
        let head = "POST /api/d/up HTTP/1.1\r\nHost: v\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let answer = request(unix, head, b"").expect("an answer");
        if let Some((_, path)) =
            answer.header("location").and_then(|to| follow(Reader::Socket, "v:80", "/api/d/up", to))
        {
            let unix = UnixStream::connect(&socket).expect("it listens");
            let head = format!("POST {path} HTTP/1.1\r\nHost: v\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            let leads_on = !answer.header("location").is_some_and(|to| to.starts_with("https"));
            let _ = request(unix, &head, b"").map_err(drop);
            let arrived = stage.two.seen();
            assert!(arrived.is_empty() || !leads_on, "{reference:?} by the socket: {answer:?}: {arrived:?}");
        }
    }
    assert!(passed_on > 100, "some of it is harmless, and left alone: {passed_on}");
    drop(daemon);
}

#[test]
fn fields_beyond_those_of_redirects_lead_nowhere_else_either() {
    let stage = Stage::start();
    let daemon = stage.daemon();
    let (Stage { port, api, .. }, here) = (&stage, format!("http://localhost:{}", stage.port));
    let said = |name: &str, value: &str| {
        api.say("202 Accepted", &format!("{name}: {value}\r\n"));
        stage.ask("localhost", "POST", "/api/d/x", &[]).header(name).map(str::to_owned)
    };
    for name in ["Operation-Location", "Azure-AsyncOperation", "SourceMap", "X-SourceMap", "HX-Redirect"] {
        let rows = [
            (format!("{}/v1/operations/1?v=2", api.url), Some(format!("{here}/api/operations/1?v=2"))),
            ("/v1/operations/1".to_owned(), Some("/api/operations/1".to_owned())),
            ("/two/x".into(), Some(format!("{here}/twin/two/x"))),
            ("../../two/x".into(), Some(format!("{here}/twin/two/x"))),
            (format!("{here}/two/x"), None),
            (format!("{here}/twin/x"), Some(format!("{here}/twin/x"))),
            ("https://elsewhere.example/x".into(), Some("https://elsewhere.example/x".into())),
            (format!("https://id.example/?to={here}/two/x"), Some(format!("https://id.example/?to={here}/two/x"))),
        ];
        for (given, expected) in rows {
            assert_eq!(said(name, &given), expected, "{name}: {given}");
        }
    }
    for address in [
        format!("{here}/two/x"),
        format!("HTTP://LOCALHOST:{port}/two"),
        format!("//127.0.0.1:{port}/two/x"),
        format!("http://two.localhost:{port}"),
        format!("http://{}", stage.alone),
        format!("http://localhost:{port}\\two/x"),
        format!("{here}/api/../two/x"),
        format!("{here}/api;x/../two/x"),
        format!("http://user@localhost:{port}/two/x"),
        format!("ws://[::1]:{port}/two/x"),
    ] {
        for (name, value) in [
            ("X-Next", address.clone()),
            ("WWW-Authenticate", format!("Bearer realm=\"{address}\",service=\"x\"")),
            ("WWW-Authenticate", format!("Bearer resource_metadata='{address}'")),
            ("Link-Template", format!("<{address}>; rel=\"next\"")),
            ("Report-To", format!("{{\"endpoints\":[{{\"url\":\"{address}\"}}]}}")),
            ("X-Two", format!("https://elsewhere.example/x, {address}")),
        ] {
            assert_eq!(said(name, &value), None, "{name}: {value}");
        }
    }
    for (name, value) in [
        ("WWW-Authenticate", "Bearer realm=\"https://auth.example/token\",service=\"x\"".to_owned()),
        ("WWW-Authenticate", format!("Bearer resource_metadata=\"{here}/api/meta\"")),
        ("P3P", "policyref=\"http://elsewhere.example/two/p3p.xml\"".into()),
        ("Content-Security-Policy-Report-Only", format!("connect-src {here}/two/x")),
        ("X-Path", "a//b".into()),
        ("X-Template", "http://{host}/x".into()),
    ] {
        assert_eq!(said(name, &value).as_ref(), Some(&value), "{name}: {value}");
    }
    drop(daemon);
}

#[test]
fn what_leads_to_a_route_of_the_same_account_stays_here_and_what_leads_elsewhere_is_left_alone() {
    let stage = Stage::start();
    let daemon = stage.daemon();
    let Stage { port, api, .. } = &stage;
    let here = format!("http://localhost:{port}");
    let rows = [
        ("next?p=2", Some("next?p=2".to_owned())),
        ("../up", Some("/api/up".into())),
        ("/v1/x", Some("/api/x".into())),
        ("/login", Some(format!("{here}/twin/login"))),
        ("../../login", Some(format!("{here}/twin/login"))),
        (&*format!("{}/v1/d/../x", api.url), Some(format!("{here}/api/x"))),
        ("https://cdn.example/a/../b?c", Some("https://cdn.example/a/../b?c".into())),
        (&*format!("{here}/twin/x"), Some(format!("{here}/twin/x"))),
        (&*format!("http://twin.localhost:{port}/two/x"), Some(format!("http://twin.localhost:{port}/two/x"))),
        (&*format!("{here}/two/x"), None),
        (&*format!("http://{}/x", stage.alone), None),
        ("http://127.0.0.1:1/x", Some("http://127.0.0.1:1/x".into())),
    ];
    for (given, expected) in rows {
        api.say("302 Found", &format!("Location: {given}\r\nLink: <{given}>; rel=next\r\n"));
        let answer = stage.ask("localhost", "GET", "/api/d/x", &[]);
        assert_eq!(answer.header("location"), expected.as_deref(), "{given}");
        let link = expected.map(|target| format!("<{target}>; rel=next"));
        assert_eq!(answer.header("link"), link.as_deref(), "{given}");
    }
    // a cookie without a path is for the folder of the request's, which is not the root of all routes
    api.say("200 OK", "Set-Cookie: a=b\r\n");
    let answer = stage.ask("localhost", "GET", "/api?x", &[]);
    assert_eq!(answer.header("set-cookie"), Some("a=b; Path=/api"));
    drop(daemon);
}

#[test]
fn the_readers_of_these_stories_do_go_astray() {
    let from = |reader, reference| follow(reader, "localhost:1", "/api/d/up", reference);
    let two = Some(("localhost:1".to_owned(), "/two/x".to_owned()));
    assert_eq!(from(Reader::Rfc, "../../two/x"), two);
    assert_eq!(from(Reader::Browser, ".\t.\\..\\two/x"), two);
    assert_eq!(from(Reader::Browser, "http:///localhost:1/two/x"), two);
    assert_eq!(from(Reader::Python, "a//../../../two/x"), two);
    assert_eq!(from(Reader::Rfc, "http://u@localhost.:1/api/../two/x"), two);
    let numeric = Some((format!("{}:1", Ipv4Addr::LOCALHOST), "/two/x".to_owned()));
    assert_eq!(from(Reader::Browser, "http://2130706433:1/two/x"), numeric);
    assert_eq!(from(Reader::Rfc, "//[::1]:1/two/x"), Some((format!("[{}]:1", Ipv6Addr::LOCALHOST), "/two/x".into())));
}
