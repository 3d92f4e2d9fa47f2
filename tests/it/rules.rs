//! Rules and narrow keys, before a server that is as obliging as servers are known to be.

use std::io::{BufRead, BufReader, Write};

use valetd::stand_in::{Options, Provider};

use crate::support::keys::{add, check};
use crate::support::lab::{self, Server, address};
use crate::support::upstreams::serving;
use crate::support::{Home, send};

/// Fields by which one server or another is told another method.
const METHODS: [&str; 7] = [
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X_HTTP_Method_Override",
    "X_HTTP-Method_Override",
    "x.http~method!override",
    "X-Original-Method",
];

/// Fields by which one server or another is told another path.
const PATHS: [&str; 8] = [
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Original-URI",
    "X_Original_URL",
    "X-Envoy-Original-Path",
    "X-Override-URL",
    "X-Script-Name",
    "SCRIPT_NAME",
];

/// Queries by which one server or another is told another method.
const QUERIES: [&str; 12] = [
    "_method=DELETE",
    "a=b&_method=DELETE",
    "a=b;_method=DELETE",
    "%5Fmethod=DELETE",
    "%255F%6Dethod=DELETE",
    "_METHOD=delete",
    "_method%5B%5D=DELETE",
    "_method[]=DELETE",
    ".method=DELETE",
    "+_method=DELETE",
    "a=b%26_method=DELETE",
    "_HttpMethod=DELETE",
];

/// How `/admin/users` can be written so that some server finds it.
const SPELLINGS: [&str; 30] = [
    "/admin/users",
    "/Admin/users",
    "/ADMIN/USERS",
    "/%41dmin/users",
    "/admin%20/users",
    "/admin%2520/users",
    "/%20admin/users",
    "/admin+/users",
    "/admin./users",
    "/admin.../users",
    "/admin%2e%20/users",
    "/admin/users%20",
    "/admin/users.",
    "/admin/users/",
    "/admin/users%2500",
    "/admin/users%2500.txt",
    "/admin/users%3Fx=1",
    "/admin/users%23x",
    "/admin/users;x=1",
    "/admin;x=1%2Fy/users",
    "//admin///users",
    "/%20/admin/users",
    "/.../admin/users",
    "/admin%2fusers",
    "/admin%252Fusers",
    "/admin%EF%BC%8Fusers",
    "/%EF%BD%81dmin/users",
    "/adm%C4%B1n/users",
    "/admin/u%C5%BFers",
    "/a%E2%80%8Bdmin/users",
];

#[test]
fn a_denied_path_is_denied_in_every_spelling_and_nothing_else_is() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = behind(&server, "deny = [\"/admin/**\"]");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    for path in SPELLINGS {
        let answer = send(&address, "GET", &format!("/lab{path}"), &[], b"").expect("an answer");
        assert!(matches!(answer.status, 400 | 403), "{path}: {} {}", answer.status, answer.text());
    }
    for path in [
        "/administration",
        "/x/admin",
        "/admin.json",
        "/admin-x/users",
        "/a%2fb",
        "/S%C3%B8gning/x",
        "/100%25/x",
        "/x.y/z",
        "/%E6%9D%B1%E4%BA%AC/x",
    ] {
        let answer = send(&address, "GET", &format!("/lab{path}"), &[], b"").expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
}

#[test]
fn a_refused_path_is_refused_in_every_spelling() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = behind(&server, "refuse = [\"/admin\"]");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    for path in SPELLINGS {
        let answer = send(&address, "GET", &format!("/lab{path}"), &[], b"").expect("an answer");
        assert!(matches!(answer.status, 400 | 403), "{path}: {} {}", answer.status, answer.text());
    }
    let answer = send(&address, "GET", "/lab/administration", &[], b"").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn where_there_are_rules_no_request_tells_a_server_another_method_or_path() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = behind(&server, "deny = [\"DELETE /**\", \"/admin/**\"]");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    for (field, value) in METHODS.map(|field| (field, "DELETE")).into_iter().chain(PATHS.map(|field| (field, "/admin")))
    {
        let answer = send(&address, "POST", "/lab/x", &[(field, value)], b"").expect("an answer");
        assert_eq!(answer.status, 403, "{field}: {}", answer.text());
    }
    for query in QUERIES {
        let answer = send(&address, "POST", &format!("/lab/x?{query}"), &[], b"").expect("an answer");
        assert_eq!(answer.status, 403, "{query}: {}", answer.text());
    }
    // what another proxy on this machine adds never goes up, and so tells no server anything
    for field in ["X-Forwarded-Host", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X_Forwarded_Path", "X-Forwarded-Method"]
    {
        let answer = send(&address, "POST", "/lab/x", &[(field, "/admin")], b"").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "POST /x"), "{field}");
    }
    let answer = send(&address, "POST", "/lab/x?method=flickr.photos.search&q=_method", &[], b"").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "POST /x"));
}

#[test]
fn a_narrow_key_is_as_narrow_for_a_server_that_is_told_otherwise() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = behind(&server, "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let key = add(&home, "reader", &["--route", "lab", "--method", "GET", "--path", "/catalog/**"]);
    let keyed = |target: &str, more: &[(&str, &str)]| {
        let fields = [&[("X-Valetd-Key", key.as_str())], more].concat();
        send(&address, "GET", target, &fields, b"").expect("an answer")
    };
    assert_eq!(keyed("/lab/catalog/x", &[]).text(), "GET /catalog/x");
    for (field, value) in METHODS.map(|field| (field, "DELETE")).into_iter().chain(PATHS.map(|field| (field, "/admin")))
    {
        assert_eq!(keyed("/lab/catalog/x", &[(field, value)]).status, 403, "{field}");
    }
    for query in QUERIES {
        assert_eq!(keyed(&format!("/lab/catalog/x?{query}"), &[]).status, 403, "{query}");
    }
    for path in ["/Catalog/x", "/catalog%EF%BC%8Fx", "/catalog%20/x", "/catalog%3Fx/y", "/catalog/%2e%2e/x", "/.../x"] {
        let answer = keyed(&format!("/lab{path}"), &[]);
        assert!(answer.status == 400 || check(&answer).as_deref() == Some("key-rights"), "{path}: {}", answer.text());
    }
    // without rules and keys, what a client says is its own business
    let own =
        send(&address, "POST", "/lab/x?_method=PUT", &[("X-HTTP-Method-Override", "PUT")], b"").expect("an answer");
    assert_eq!(own.text(), "PUT /x");
}

// --- the stage -------------------------------------------------------------------------------------------------------

/// A home whose route `lab` leads to an [`obliging`] server.
fn behind(server: &Server, rules: &str) -> Home {
    lab::home(server, "", &format!("upstream = \"http://{}\"\n{rules}", obliging()), "")
}

/// An upstream that answers with what it would have carried out, by the first method and path that it is told in any of
/// the ways above.
fn obliging() -> String {
    serving(|mut stream| {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let mut words = first.split(' ').map(str::to_owned);
        let (mut method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut path, query) = match target.split_once('?') {
            Some((path, query)) => (path.to_owned(), query.to_owned()),
            None => (target, String::new()),
        };
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(':') else { continue };
            let cgi = |name: &str| name.replace(|char: char| !char.is_ascii_alphanumeric(), "_").to_uppercase();
            let is_in = |known: &[&str]| known.iter().any(|known| cgi(known) == cgi(name));
            if is_in(&METHODS) {
                value.trim().clone_into(&mut method);
            } else if is_in(&PATHS) || cgi(name).starts_with("X_FORWARDED") {
                value.trim().clone_into(&mut path);
            }
        }
        let told = query.split('&').find_map(|parameter| parameter.strip_prefix("_method="));
        let method = told.unwrap_or(&method);
        let done = format!("{method} {path}");
        let length = done.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{done}")
    })
}
