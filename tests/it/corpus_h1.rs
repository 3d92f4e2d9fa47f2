//! What no sane client or upstream would send, byte for byte, and what may come of it at the other end (RFC 9112;
//! request smuggling, header injection, lying answers).
//!
//! Each row says what may happen: refused, so that the upstream sees nothing, or forwarded as exactly the requests that
//! are named. Whatever happens, the upstream sees at most one request for each, with exactly one `Authorization`, ours; our
//! token is nowhere else; after a 400 the connection is closed, and after anything else it is still in step. Every refusal
//! has a twin that differs as little as possible and goes through.

use std::sync::{Arc, Mutex};

use crate::support::stage::Stage;
use crate::support::strict_upstream::strict_upstream;
use crate::support::wire::{Wire, serving};

/// What may come of a row.
#[derive(Clone, Debug)]
enum Outcome {
    /// One of these statuses, and nothing goes up.
    Refused(&'static [u16]),
    /// 200, and exactly this goes up: method and target, and the body.
    Forwarded(Vec<(&'static str, &'static str)>),
    /// Closed without an answer, and nothing goes up.
    Silence,
    /// Refused with 400, or forwarded like this: servers differ, and both are safe.
    Either(Vec<(&'static str, &'static str)>),
}
use Outcome::{Either, Forwarded, Refused, Silence};

/// One connection's worth of bytes, and what may come of it.
struct Row {
    name: String,
    bytes: Vec<u8>,
    outcome: Outcome,
}

#[derive(Default)]
struct Corpus(Vec<Row>);

impl Corpus {
    fn row(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>, outcome: Outcome) {
        self.0.push(Row { name: name.into(), bytes: bytes.as_ref().to_vec(), outcome });
    }

    /// A refusal and its twin.
    fn refused(
        &mut self,
        name: &str,
        bad: impl AsRef<[u8]>,
        statuses: &'static [u16],
        good: impl AsRef<[u8]>,
        up: &'static str,
    ) {
        self.row(name, bad, Refused(statuses));
        self.row(format!("{name}: the twin"), good, Forwarded(vec![(up, "")]));
    }

    /// The same with one more field in an ordinary request.
    fn bad_field(&mut self, name: &str, bad: &str, good: &str) {
        self.refused(name, with(bad), &[400], with(good), "GET /x");
    }

    /// A request whose fields are all fine for us.
    fn fine(&mut self, name: &str, fields: &str) {
        self.row(name, with(fields), Forwarded(vec![("GET /x", "")]));
    }
}

fn with(fields: &str) -> String {
    format!("GET /api/x HTTP/1.1\r\nHost: HERE\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /api/x HTTP/1.1\r\nHost: HERE\r\n{fields}\r\n{body}")
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: HERE\r\n\r\n")
}

fn requests() -> Vec<Row> {
    let mut corpus = Corpus::default();
    let c = &mut corpus;

    // --- the request line
    c.refused(
        "a method with a control byte",
        "GE\x01T /api/x HTTP/1.1\r\nHost: HERE\r\n\r\n",
        &[400],
        get("/api/x"),
        "GET /x",
    );
    c.refused(
        "a method of 33 letters",
        get("/api/x").replace("GET", &"A".repeat(33)),
        &[400],
        get("/api/x").replace("GET", &"A".repeat(32)),
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA /x",
    );
    c.refused(
        "a method of 10 kB",
        get("/api/x").replace("GET", &"A".repeat(10_000)),
        &[400],
        get("/api/x").replace("GET", "A"),
        "A /x",
    );
    c.refused("no method", " /api/x HTTP/1.1\r\nHost: HERE\r\n\r\n", &[400], get("/api/x"), "GET /x");
    c.refused("no version", "GET /api/x\r\nHost: HERE\r\n\r\n", &[400], get("/api/x"), "GET /x");
    c.refused("HTTP/0.9", "GET /api/x\r\n\r\n", &[400], get("/api/x"), "GET /x");
    c.refused("HTTP/2.0 in words", get("/api/x").replace("1.1", "2.0"), &[400, 505], get("/api/x"), "GET /x");
    c.refused("HTTP/1.2", get("/api/x").replace("1.1", "1.2"), &[400, 505], get("/api/x"), "GET /x");
    c.refused("HTTP/3", get("/api/x").replace("1.1", "3"), &[400, 505], get("/api/x"), "GET /x");
    c.refused("http in lower case", get("/api/x").replace("HTTP", "http"), &[400], get("/api/x"), "GET /x");
    c.refused("HTTP/1.10", get("/api/x").replace("1.1", "1.10"), &[400], get("/api/x"), "GET /x");
    c.refused("a word too many", get("/api/x y"), &[400], get("/api/x%20y"), "GET /x%20y");
    c.refused("two blanks after the method", get(" /api/x"), &[400], get("/api/x"), "GET /x");
    c.refused("two blanks before the version", get("/api/x "), &[400], get("/api/x"), "GET /x");
    c.refused("a tab for a blank", get("/api/x").replace(' ', "\t"), &[400], get("/api/x"), "GET /x");
    c.refused("a CR alone", get("/api/x").replace("\r\n", "\r"), &[400], get("/api/x"), "GET /x");
    c.refused("CR inside of the line", get("/api/x\r"), &[400], get("/api/x"), "GET /x");
    c.refused(
        "PRI without the rest of the preface",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        &[400, 505],
        get("/api/x"),
        "GET /x",
    );
    c.refused(
        "TRACE",
        get("/api/x").replace("GET", "TRACE"),
        &[405],
        get("/api/x").replace("GET", "PATCH"),
        "PATCH /x",
    );
    c.refused("CONNECT to here", "CONNECT HERE HTTP/1.1\r\nHost: HERE\r\n\r\n", &[405], get("/api/x"), "GET /x");
    c.refused(
        "CONNECT to elsewhere",
        "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n",
        &[405],
        get("/api/x"),
        "GET /x",
    );
    c.refused("CONNECT with a path", get("/api/x").replace("GET", "CONNECT"), &[400, 405], get("/api/x"), "GET /x");
    c.refused(
        "TLS where none is",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        &[400],
        get("/api/x"),
        "GET /x",
    );
    c.refused("SOCKS", b"\x05\x01\x00\r\n\r\n", &[400], get("/api/x"), "GET /x");
    for method in ["HEAD", "OPTIONS", "DELETE", "PUT", "PROPFIND", "QUERY", "get", "M-SEARCH"] {
        let seen: &'static str = format!("{method} /x").leak();
        c.row(format!("the method {method}"), get("/api/x").replace("GET", method), Forwarded(vec![(seen, "")]));
    }
    c.row("empty lines before", format!("\r\n\r\n{}", get("/api/x")), Forwarded(vec![("GET /x", "")]));
    c.row("HTTP/1.0", "GET /api/x HTTP/1.0\r\nHost: HERE\r\n\r\n", Forwarded(vec![("GET /x", "")]));
    c.row("HTTP/1.0 without Host", "GET /api/x HTTP/1.0\r\n\r\n", Forwarded(vec![("GET /x", "")]));
    c.row(
        "HTTP/1.0, kept alive",
        "GET /api/x HTTP/1.0\r\nHost: HERE\r\nConnection: keep-alive\r\n\r\n",
        Forwarded(vec![("GET /x", "")]),
    );
    c.row("bare LF everywhere", get("/api/x").replace("\r\n", "\n"), Either(vec![("GET /x", "")]));
    c.row("bare LF in one line", "GET /api/x HTTP/1.1\r\nHost: HERE\nA: b\r\n\r\n", Either(vec![("GET /x", "")]));
    c.row("CRLF CR LF LF", "GET /api/x HTTP/1.1\r\nHost: HERE\r\n\n", Either(vec![("GET /x", "")]));
    c.row("half a line", "GET /api/x HT", Silence);
    c.row("half a head", "GET /api/x HTTP/1.1\r\nHost: HERE\r\n", Silence);
    c.row("nothing", "", Silence);

    // --- the target
    c.refused(
        "asterisk",
        get("*").replace("GET", "OPTIONS"),
        &[400],
        get("/api/x").replace("GET", "OPTIONS"),
        "OPTIONS /x",
    );
    c.refused("no leading slash", get("api/x"), &[400], get("/api/x"), "GET /x");
    c.refused("authority form", get("HERE"), &[400], get("/api/x"), "GET /x");
    c.refused("absolute, elsewhere", get("http://api.example/api/x"), &[400], get("http://HERE/api/x"), "GET /x");
    c.refused("absolute, https", get("https://HERE/api/x"), &[400], get("http://HERE/api/x"), "GET /x");
    c.refused("absolute, with a user", get("http://me@HERE/api/x"), &[400], get("http://HERE/api/x"), "GET /x");
    c.refused("absolute, another port", get("http://localhost:1/api/x"), &[400], get("http://HERE/api/x"), "GET /x");
    c.refused("absolute, a file", get("file:///etc/passwd"), &[400], get("http://HERE/api/x"), "GET /x");
    c.refused("a fragment", get("/nowhere#/api/x"), &[400, 404], get("/api/x"), "GET /x");
    c.refused("dots", get("/api/../x"), &[400], get("/api/..x"), "GET /..x");
    c.refused("one dot", get("/api/./x"), &[400], get("/api/.x"), "GET /.x");
    c.refused("dots at the end", get("/api/x/.."), &[400], get("/api/x/..."), "GET /x/...");
    c.refused("encoded dots", get("/api/%2e%2e/x"), &[400], get("/api/%2ex"), "GET /%2ex");
    c.refused("encoded dots, upper case", get("/api/%2E%2E/x"), &[400], get("/api/a%2Eb"), "GET /a%2Eb");
    c.refused("doubly encoded dots", get("/api/%252e%252e/x"), &[400], get("/api/%252ex"), "GET /%252ex");
    c.refused("dots and an encoded slash", get("/api/..%2fx"), &[400], get("/api/a%2fx"), "GET /a%2fx");
    c.refused("dots and a parameter", get("/api/..;a=b/x"), &[400], get("/api/x;a=b"), "GET /x;a=b");
    c.refused("a backslash", get("/api\\..\\x"), &[400, 404], get("/api/x"), "GET /x");
    c.refused("an encoded backslash", get("/api/%5c..%5cx"), &[400], get("/api/%5bx"), "GET /%5bx");
    c.refused("an encoded NUL", get("/api/x%00"), &[400], get("/api/x%30"), "GET /x%30");
    c.refused("an encoded CRLF", get("/api/x%0d%0aA:b"), &[400], get("/api/x%20A:b"), "GET /x%20A:b");
    c.refused("a NUL", "GET /api/x\0 HTTP/1.1\r\nHost: HERE\r\n\r\n", &[400], get("/api/x"), "GET /x");
    c.refused("a DEL", "GET /api/x\x7f HTTP/1.1\r\nHost: HERE\r\n\r\n", &[400], get("/api/x"), "GET /x");
    c.refused("a target of 9 kB", get(&format!("/api/{}", "x".repeat(9000))), &[414], get("/api/x"), "GET /x");
    c.refused(
        "a target of 100 kB",
        get(&format!("/api/{}", "x".repeat(100_000))),
        &[400, 414, 431],
        get("/api/x"),
        "GET /x",
    );
    c.refused("another route's prefix in capitals", get("/API/x"), &[404], get("/api/x"), "GET /x");
    c.refused("two slashes first", get("//api/x"), &[400, 404], get("/api//x"), "GET //x");
    c.refused(
        "a name after two slashes",
        get("//evil.example/api/x"),
        &[400, 404],
        get("/api//evil.example/x"),
        "GET //evil.example/x",
    );
    c.refused(
        "a token endpoint",
        get("/gbdx/auth/v1/oauth/token"),
        &[403],
        get("/api/auth/v1/oauth/tokens"),
        "GET /auth/v1/oauth/tokens",
    );
    for (target, seen) in [
        ("/api", "GET /"),
        ("/api?x", "GET /?x"),
        ("/api/", "GET /"),
        ("/api/x?", "GET /x?"),
        ("/api/x?a=../../b", "GET /x?a=../../b"),
        ("/api/x?u=http://evil.example/", "GET /x?u=http://evil.example/"),
        ("/api/x?@evil.example", "GET /x?@evil.example"),
        ("/api/@evil.example/x", "GET /@evil.example/x"),
        ("/api/x?q=%00%0d%0a", "GET /x?q=%00%0d%0a"),
        ("/api/a%2Fb", "GET /a%2Fb"),
        ("/api/x?a|b^c{d}[e]", "GET /x?a|b^c{d}[e]"),
        ("/api/x?a=\"<b>\"", "GET /x?a=%22%3Cb%3E%22"),
        ("/api/x\"<>`", "GET /x%22%3C%3E%60"),
        ("/api/~!$&'()*+,=:", "GET /~!$&'()*+,=:"),
        ("/api/%", "GET /%"),
        ("/api/%zz", "GET /%zz"),
        ("/api/x;..", "GET /x;.."),
        ("/api/x?%2e%2e/%5c", "GET /x?%2e%2e/%5c"),
        ("/api/...", "GET /..."),
        ("http://HERE/api/x?y", "GET /x?y"),
        ("HTTP://HERE/api/x", "GET /x"),
    ] {
        c.row(format!("the target {target}"), get(target), Forwarded(vec![(seen, "")]));
    }
    c.row("a fragment behind", get("/api/x#y"), Either(vec![("GET /x", "")]));
    c.row(
        "eight-bit bytes in the path",
        b"GET /api/\xc3\xa9 HTTP/1.1\r\nHost: HERE\r\n\r\n",
        Either(vec![("GET /\u{e9}", "")]),
    );
    c.row("no text in the path", b"GET /api/\xff\xfe HTTP/1.1\r\nHost: HERE\r\n\r\n", Refused(&[400]));

    // --- Host
    let host = |host: &str| format!("GET /api/x HTTP/1.1\r\nHost: {host}\r\n\r\n");
    c.refused("no Host", "GET /api/x HTTP/1.1\r\n\r\n", &[400], host("HERE"), "GET /x");
    c.refused("two Hosts", with("Host: HERE\r\n"), &[400], host("HERE"), "GET /x");
    c.refused("two Hosts, one foreign", with("Host: evil.example\r\n"), &[400], host("HERE"), "GET /x");
    c.refused("an empty Host", host(""), &[400], host("HERE"), "GET /x");
    c.refused("a list in Host", host("HERE, evil.example"), &[400], host("HERE"), "GET /x");
    c.refused("a user in Host", host("me@HERE"), &[400], host("HERE"), "GET /x");
    c.refused("a path in Host", host("HERE/x"), &[400], host("HERE"), "GET /x");
    c.refused("a name that may be rebound", host("evil.example:PORT"), &[403], host("localhost:PORT"), "GET /x");
    c.refused("localhost as a label", host("localhost.evil.example:PORT"), &[403], host("localhost:PORT"), "GET /x");
    c.refused("a decimal address", host("2130706433:PORT"), &[403], host("127.0.0.1:PORT"), "GET /x");
    c.refused("a short address", host("127.1:PORT"), &[403], host("127.1.1.1:PORT"), "GET /x");
    c.refused("all addresses", host("0.0.0.0:PORT"), &[403], host("127.0.0.1:PORT"), "GET /x");
    c.refused("another name's port", host("evil.example:1"), &[403], host("localhost:1"), "GET /x");
    c.refused("another name without port", host("evil.example"), &[403], host("localhost"), "GET /x");
    c.refused("a dot behind", host("localhost.:PORT"), &[403], host("LOCALHOST:PORT"), "GET /x");
    c.refused("brackets that stay open", host("[::1"), &[400], host("[::1]:PORT"), "GET /x");
    c.refused(
        "a host name of no route",
        get("/x").replace("HERE", "nothing.localhost:PORT"),
        &[404],
        get("/x").replace("HERE", "api.localhost:PORT"),
        "GET /x",
    );
    c.bad_field("a page elsewhere", "Origin: https://evil.example\r\n", "Origin: http://HERE\r\n");
    c.0.iter_mut().filter(|row| row.name == "a page elsewhere").for_each(|row| row.outcome = Refused(&[403]));
    c.row("a page without origin", with("Origin: null\r\n"), Refused(&[403]));
    c.row("another site's page", with("Sec-Fetch-Site: cross-site\r\n"), Refused(&[403]));
    c.row("a neighbour's page", with("Sec-Fetch-Site: same-site\r\n"), Refused(&[403]));
    c.fine("the address bar", "Sec-Fetch-Site: none\r\n");

    // --- the syntax of fields
    c.bad_field("a blank before the colon", "A : b\r\n", "A: b\r\n");
    c.bad_field("a tab before the colon", "A\t: b\r\n", "A:\tb\r\n");
    c.bad_field("no colon", "A\r\n", "A:\r\n");
    c.bad_field("no name", ": b\r\n", "B: b\r\n");
    c.bad_field("a blank in the name", "A b: c\r\n", "A-b: c\r\n");
    c.bad_field("obs-fold with a blank", "A: b\r\n c\r\n", "A: b c\r\n");
    c.bad_field("obs-fold with a tab", "A: b\r\n\tc\r\n", "A: b\tc\r\n");
    c.bad_field(
        "obs-fold that hides a field",
        "A: b\r\n Authorization: Bearer theirs\r\n",
        "A: b\r\nAuthorization: Bearer theirs\r\n",
    );
    c.bad_field("a CR in a value", "A: b\rc\r\n", "A: bc\r\n");
    c.bad_field("a CR before CRLF", "A: b\r\r\n", "A: b\r\n");
    c.bad_field("a non-ASCII name", "\u{e9}: b\r\n", "e: b\r\n");
    c.bad_field("parentheses in a name", "A(b): c\r\n", "A: (c)\r\n");
    c.bad_field("a slash in a name", "A/b: c\r\n", "A: /c\r\n");
    c.bad_field("quotes in a name", "\"A\": c\r\n", "A: \"c\"\r\n");
    for byte in (0..=0x1fu8).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        let mut bytes = b"GET /api/x HTTP/1.1\r\nHost: HERE\r\nA: b".to_vec();
        bytes.extend([byte, b'c', b'\r', b'\n', b'\r', b'\n']);
        c.row(format!("the byte {byte:#04x} in a value"), &bytes, Refused(&[400]));
        let mut bytes = b"GET /api/x HTTP/1.1\r\nHost: HERE\r\nA".to_vec();
        bytes.extend([byte, b':', b'c', b'\r', b'\n', b'\r', b'\n']);
        c.row(format!("the byte {byte:#04x} in a name"), &bytes, Refused(&[400]));
    }
    c.row(
        "eight bits in a value",
        b"GET /api/x HTTP/1.1\r\nHost: HERE\r\nA: \xe9\xff\r\n\r\n",
        Forwarded(vec![("GET /x", "")]),
    );
    c.fine("an empty value", "A:\r\n");
    c.fine("blanks around a value", "A: \t b \t \r\n");
    c.fine("a field twice", "A: b\r\nA: c\r\n");
    c.fine("odd letters in a name", "!#$%&'*+-.^_`|~09: b\r\n");
    c.refused("101 fields", with(&"A: b\r\n".repeat(100)), &[431], with(&"A: b\r\n".repeat(90)), "GET /x");
    c.refused("1000 fields", with(&"A: b\r\n".repeat(1000)), &[431], with("A: b\r\n"), "GET /x");
    c.refused(
        "a field of 70 kB",
        with(&format!("A: {}\r\n", "b".repeat(70_000))),
        &[431],
        with(&format!("A: {}\r\n", "b".repeat(30_000))),
        "GET /x",
    );
    c.refused(
        "a name of 70 kB",
        with(&format!("{}: b\r\n", "a".repeat(70_000))),
        &[400, 431],
        with(&format!("{}: b\r\n", "a".repeat(1000))),
        "GET /x",
    );

    // --- whose credentials
    for (name, fields) in [
        ("Authorization", "Authorization: Bearer theirs\r\n"),
        ("Authorization in capitals", "AUTHORIZATION: Bearer theirs\r\n"),
        ("two Authorizations", "Authorization: Bearer a\r\nauthorization: Bearer b\r\n"),
        ("an empty Authorization", "Authorization:\r\n"),
        ("Proxy-Authorization", "Proxy-Authorization: Basic eDp5\r\n"),
        ("Proxy_Authorization", "Proxy_Authorization: Basic eDp5\r\n"),
        ("Connection: authorization", "Connection: authorization\r\n"),
        ("Connection: Authorization, and one", "Connection: close, Authorization\r\nAuthorization: Bearer theirs\r\n"),
        ("Connection: host", "Connection: host\r\n"),
        ("Connection: content-length", "Connection: content-length\r\n"),
        ("Connection twice", "Connection: authorization\r\nConnection: via\r\n"),
        ("Connection with nonsense", "Connection: ,,;,\" \", authorization\r\n"),
        ("Connection: connection", "Connection: connection, keep-alive\r\n"),
        ("Connection: cookie", "Connection: cookie\r\nCookie: a=b\r\n"),
        ("Keep-Alive", "Keep-Alive: authorization\r\n"),
        ("Proxy-Connection", "Proxy-Connection: authorization\r\n"),
        ("TE: trailers", "TE: trailers\r\nConnection: te\r\n"),
        ("TE: chunked", "TE: chunked;q=0.5, authorization\r\n"),
        ("Trailer: authorization", "Trailer: authorization\r\n"),
        ("Upgrade without Connection", "Upgrade: websocket\r\n"),
        ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        ("Upgrade: h2c in capitals", "Connection: Upgrade\r\nUpgrade: H2C\r\n"),
        ("Upgrade: h2c with parameters", "Connection: Upgrade\r\nUpgrade: h2c;a\r\n"),
        ("Upgrade: h2c with parameters, in a list", "Connection: Upgrade\r\nUpgrade: websocket, h2c ;a=b\r\n"),
        ("Upgrade: HTTP/2", "Connection: Upgrade\r\nUpgrade: HTTP/2\r\n"),
        ("Upgrade: TLS", "Upgrade: TLS/1.2, HTTP/1.1\r\n"),
        ("HTTP2-Settings", "HTTP2-Settings: x\r\n"),
        ("X-Forwarded-Host", "X-Forwarded-Host: evil.example\r\n"),
        ("X_Forwarded_Host", "X_Forwarded_Host: evil.example\r\n"),
        ("Forwarded", "Forwarded: host=evil.example\r\n"),
        ("Max-Forwards", "Max-Forwards: 0\r\n"),
        ("Expect of something else", "Expect: nothing\r\n"),
        ("Content-Length: 0", "Content-Length: 0\r\n"),
        ("WWW-Authenticate", "WWW-Authenticate: Bearer\r\n"),
    ] {
        c.fine(name, fields);
    }

    // --- framing
    let chunked = "Transfer-Encoding: chunked\r\n";
    let two = |first: &str, second: &str| format!("{}{}", post(first, second), get("/api/hidden"));
    for (name, fields) in [
        ("a negative length", "Content-Length: -1\r\n"),
        ("a signed length", "Content-Length: +3\r\n"),
        ("a length in hexadecimal", "Content-Length: 0x3\r\n"),
        ("a length with a blank", "Content-Length: 3 3\r\n"),
        ("a length with a letter", "Content-Length: 3a\r\n"),
        ("an empty length", "Content-Length:\r\n"),
        ("a length that overflows", "Content-Length: 18446744073709551619\r\n"),
        ("two lengths that differ", "Content-Length: 3\r\nContent-Length: 4\r\n"),
        ("a list of lengths that differ", "Content-Length: 3, 4\r\n"),
        ("a length with a point", "Content-Length: 3.0\r\n"),
    ] {
        c.row(name, post(fields, "abc"), Refused(&[400]));
    }
    c.row("their twin", post("Content-Length: 3\r\n", "abc"), Forwarded(vec![("POST /x", "abc")]));
    c.row("a length with leading zeros", post("Content-Length: 003\r\n", "abc"), Either(vec![("POST /x", "abc")]));
    c.row(
        "two equal lengths",
        post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        Either(vec![("POST /x", "abc")]),
    );
    c.row("a list of equal lengths", post("Content-Length: 3, 3\r\n", "abc"), Either(vec![("POST /x", "abc")]));
    for (name, coding) in [
        ("gzip, chunked", "gzip, chunked"),
        ("chunked, gzip", "chunked, gzip"),
        ("chunked twice", "chunked, chunked"),
        ("identity", "identity"),
        ("chunked, identity", "chunked, identity"),
        ("gzip alone", "gzip"),
        ("xchunked", "xchunked"),
        ("chunked in quotes", "\"chunked\""),
        ("chunked with a parameter", "chunked;q=1"),
        ("an empty coding", ""),
        ("a comma before", ", chunked"),
        ("a form feed", "\u{b}chunked"),
    ] {
        c.row(
            format!("the coding {name}"),
            post(&format!("Transfer-Encoding: {coding}\r\n"), "3\r\nabc\r\n0\r\n\r\n"),
            Refused(&[400, 501]),
        );
    }
    c.row(
        "two fields of codings",
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        Refused(&[400]),
    );
    c.row(
        "two fields of chunked",
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        Refused(&[400]),
    );
    c.row(
        "Transfer_Encoding",
        post("Transfer_Encoding: chunked\r\nContent-Length: 3\r\n", "abc"),
        Forwarded(vec![("POST /x", "abc")]),
    );
    c.row("chunked", post(chunked, "3\r\nabc\r\n0\r\n\r\n"), Forwarded(vec![("POST /x", "abc")]));
    c.row(
        "Chunked",
        post("Transfer-Encoding: Chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        Forwarded(vec![("POST /x", "abc")]),
    );
    c.row(
        "length, then coding",
        two("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        Either(vec![("POST /x", "")]),
    );
    c.row(
        "coding, then length",
        two("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        Either(vec![("POST /x", "")]),
    );
    c.row("coding in HTTP/1.0", post(chunked, "0\r\n\r\n").replace("1.1", "1.0"), Either(vec![("POST /x", "")]));
    c.row(
        "a body that looks like a request",
        post("Content-Length: 30\r\n", "GET /api/h HTTP/1.1\r\nHost: a\r\n"),
        Forwarded(vec![("POST /x", "GET /api/h HTTP/1.1\r\nHost: a\r\n")]),
    );
    c.row(
        "a GET with a body",
        get("/api/x").replace("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nabc"),
        Forwarded(vec![("GET /x", "abc")]),
    );
    c.row(
        "a GET with a chunked body",
        get("/api/x").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        Forwarded(vec![("GET /x", "abc")]),
    );
    c.row(
        "chunk extensions",
        post(chunked, "3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n"),
        Forwarded(vec![("POST /x", "abc")]),
    );
    c.row(
        "trailers",
        post(chunked, "3\r\nabc\r\n0\r\nAuthorization: Bearer theirs\r\nX-Sum: 1\r\n\r\n"),
        Forwarded(vec![("POST /x", "abc")]),
    );
    c.row(
        "a chunk size in capitals with zeros",
        post(chunked, "0000A\r\n0123456789\r\n000\r\n\r\n"),
        Forwarded(vec![("POST /x", "0123456789")]),
    );
    c.row(
        "expect and wait",
        post("Content-Length: 3\r\nExpect: 100-continue\r\n", "abc"),
        Forwarded(vec![("POST /x", "abc")]),
    );

    // --- several on one connection
    c.row("two in one go", [get("/api/x"), get("/api/y")].concat(), Forwarded(vec![("GET /x", ""), ("GET /y", "")]));
    c.row(
        "a body between",
        [post("Content-Length: 3\r\n", "abc"), get("/api/y")].concat(),
        Forwarded(vec![("POST /x", "abc"), ("GET /y", "")]),
    );
    c.row(
        "a chunked body between",
        [post(chunked, "1\r\na\r\n0\r\n\r\n"), get("/api/y")].concat(),
        Forwarded(vec![("POST /x", "a"), ("GET /y", "")]),
    );
    c.row(
        "CRLF between",
        [get("/api/x"), "\r\n".into(), get("/api/y")].concat(),
        Forwarded(vec![("GET /x", ""), ("GET /y", "")]),
    );
    c.row(
        "close, and one more",
        [with("Connection: close\r\n"), get("/api/hidden")].concat(),
        Forwarded(vec![("GET /x", "")]),
    );
    c.row("refused, and one more", [get("/api/../x"), get("/api/hidden")].concat(), Refused(&[400]));
    c.row("malformed, and one more", [with("A : b\r\n"), get("/api/hidden")].concat(), Refused(&[400]));
    c.row(
        "a refused body that hides one",
        ["POST /api/../x HTTP/1.1\r\nHost: HERE\r\nContent-Length: 80\r\n\r\n".to_owned(), get("/api/hidden")].concat(),
        Refused(&[400]),
    );
    corpus.0
}

#[tokio::test]
async fn no_client_can_smuggle_inject_or_escape() {
    let (upstream, seen) = strict_upstream().await;
    let stage = Stage::leading_to(&upstream, "");
    let daemon = stage.start();
    let rows = requests();
    eprintln!("{} rows", rows.len());
    assert!(rows.len() >= 200);
    let port = stage.address.rsplit(':').next().expect("a port").to_owned();
    let authority = upstream.strip_prefix("http://").expect("plain").to_owned();
    let mut failures = Vec::new();
    for Row { name, bytes, outcome } in rows {
        // placeholders are replaced in bytes, as not every row is text
        let bytes = replace(&replace(&bytes, b"HERE", stage.address.as_bytes()), b"PORT", port.as_bytes());
        let (expected, has_body) = match &outcome {
            Forwarded(up) | Either(up) => (up.len(), !up[0].0.starts_with("HEAD")),
            Refused(_) | Silence => (1, true),
        };
        let mut wire = Wire::connect(&stage.address).await;
        wire.send(&bytes).await;
        let mut statuses = Vec::new();
        let mut said = String::new();
        if matches!(outcome, Silence) {
            use tokio::io::AsyncWriteExt;
            let _ = wire.stream.shutdown().await;
            said = wire.until_closed().await;
        } else {
            while statuses.len() < expected {
                let Some((status, body)) = wire.answer(has_body).await else { break };
                statuses.push(status);
                said += &body;
            }
        }
        // in step, or closed
        let mut sentinel = false;
        if statuses.last().is_some_and(|status| matches!(status, 400 | 414 | 431 | 505)) {
            let rest = wire.until_closed().await;
            if !rest.is_empty() {
                failures.push(format!("{name}: after {statuses:?} came {rest:?}"));
            }
        } else if !statuses.is_empty() {
            wire.send(get("/api/sentinel").replace("HERE", &stage.address)).await;
            sentinel = matches!(wire.answer(true).await, Some((200, body)) if body == "ok");
        }
        let mut went_up = std::mem::take(&mut *seen.lock().expect("no panic"));
        if sentinel && went_up.pop().is_none_or(|last| last.line != "GET /sentinel HTTP/1.1") {
            failures.push(format!("{name}: out of step: {went_up:?}"));
        }
        let up: Vec<_> = went_up.iter().map(|seen| (seen.line.as_str(), seen.body.as_str())).collect();
        let as_expected = |expected: &[(&str, &str)]| {
            statuses == vec![200; expected.len()]
                && up.len() == expected.len()
                && up.iter().zip(expected).all(|(up, (line, body))| up.0 == format!("{line} HTTP/1.1") && up.1 == *body)
        };
        let good = match &outcome {
            Refused(allowed) => statuses.len() == 1 && allowed.contains(&statuses[0]) && up.is_empty(),
            Forwarded(expected) => as_expected(expected),
            Silence => said.is_empty() && up.is_empty(),
            Either(expected) => as_expected(expected) || (statuses == [400] && up.is_empty()),
        };
        if !good {
            failures.push(format!("{name}: {outcome:?}, but got {statuses:?} {said:?} and {up:?}"));
        }
        for request in &went_up {
            let ours = request.all("authorization");
            let token = ours.first().and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("no token at all");
            let elsewhere = request.line.contains(token)
                || request.body.contains(token)
                || request.fields.iter().any(|(name, value)| name != "authorization" && value.contains(token));
            let forbidden = [
                "proxy-authorization",
                "proxy_authorization",
                "keep-alive",
                "proxy-connection",
                "http2-settings",
                "upgrade",
                "forwarded",
                "x-forwarded-host",
                "x_forwarded_host",
                "malformed",
            ];
            let stray = request.fields.iter().find(|(name, _)| forbidden.contains(&name.as_str()));
            let connection = request.all("connection");
            if ours.len() != 1
                || !stage.is_ours(ours[0])
                || elsewhere
                || stray.is_some()
                || request.all("host") != [authority.as_str()]
                || !(connection.is_empty() || connection == ["te"])
                || said.contains(token)
            {
                failures.push(format!("{name}: {request:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    drop(daemon);
}

fn replace(bytes: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(what.len()).position(|part| part == what) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(by);
        rest = &rest[at + what.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

// --- lying upstreams -------------------------------------------------------------------------------------------------

/// What may come of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Home {
    /// 502 in its place.
    Bad,
    /// This body, whole.
    Whole(&'static str),
    /// 200, but visibly broken off.
    Cut,
    /// 502 or visibly broken off.
    BadOrCut,
    /// 502, or this body, whole: it can be read in one way only.
    BadOr(&'static str),
}

fn answers() -> Vec<(&'static str, Vec<u8>, Home)> {
    use Home::{Bad, BadOr, BadOrCut, Cut, Whole};
    let plain = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}").into_bytes();
    let chunked = |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes();
    vec![
        ("nothing", Vec::new(), Bad),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-".to_vec(), Bad),
        ("no HTTP", b"220 mail.example ESMTP\r\n\r\n".to_vec(), Bad),
        ("HTTP/2 frames", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\r\n\r\n".to_vec(), Bad),
        ("TLS", b"\x15\x03\x01\0\x02\x02\x28\r\n\r\n".to_vec(), Bad),
        ("a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nno".to_vec(), Bad),
        ("a status of letters", b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nno".to_vec(), Bad),
        ("HTTP/2.0 in words", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nno".to_vec(), Bad),
        ("HTTP/0.9", b"<html>hello</html>".to_vec(), Bad),
        ("an unasked 101", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec(), Bad),
        ("two lengths", plain("Content-Length: 2\r\nContent-Length: 3\r\n", "abc"), Bad),
        ("two equal lengths", plain("Content-Length: 2\r\nContent-Length: 2\r\n", "ok"), BadOr("ok")),
        ("a list of lengths", plain("Content-Length: 2, 3\r\n", "abc"), Bad),
        ("a negative length", plain("Content-Length: -2\r\n", "ok"), Bad),
        ("a signed length", plain("Content-Length: +2\r\n", "ok"), Bad),
        ("a length that overflows", plain("Content-Length: 99999999999999999999\r\n", "ok"), BadOrCut),
        ("length and coding", plain("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Bad),
        ("gzip, chunked", plain("Transfer-Encoding: gzip, chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Bad),
        ("chunked, chunked", plain("Transfer-Encoding: chunked, chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Bad),
        ("chunked twice", plain("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"), Bad),
        ("identity", plain("Transfer-Encoding: identity\r\n", "ok"), Bad),
        ("obs-fold", plain("A: b\r\n c\r\nContent-Length: 2\r\n", "ok"), BadOr("ok")),
        ("a NUL in a value", plain("A: b\0c\r\nContent-Length: 2\r\n", "ok"), Bad),
        ("a CR in a value", plain("A: b\rc\r\nContent-Length: 2\r\n", "ok"), Bad),
        ("a blank before the colon", plain("A : b\r\nContent-Length: 2\r\n", "ok"), BadOr("ok")),
        ("no colon", plain("A\r\nContent-Length: 2\r\n", "ok"), BadOr("ok")),
        ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok".to_vec(), BadOr("ok")),
        ("a head of 300 kB", plain(&format!("A: {}\r\nContent-Length: 2\r\n", "b".repeat(300_000)), "ok"), Bad),
        ("1,100 fields", plain(&format!("{}Content-Length: 2\r\n", "A: b\r\n".repeat(1_100)), "ok"), Bad),
        ("a body that is too short", plain("Content-Length: 10\r\n", "half"), Cut),
        ("a chunk without end", chunked("a\r\nhalf"), Cut),
        ("chunks without end", chunked("4\r\nhalf\r\n"), Cut),
        ("the last chunk without end", chunked("4\r\nhalf\r\n0\r\n"), Cut),
        ("a chunk size of letters", chunked("4\r\nhalf\r\nxyz\r\n"), Cut),
        ("a negative chunk", chunked("4\r\nhalf\r\n-1\r\n"), Cut),
        ("a chunk size that overflows", chunked("4\r\nhalf\r\nfffffffffffffffff\r\nx"), Cut),
        ("a chunk longer than it says", chunked("2\r\nhalf\r\n0\r\n\r\n"), Cut),
        ("a chunk without CRLF", chunked("4\r\nhalf0\r\n\r\n"), Cut),
        ("a chunk extension of 100 kB", chunked(&format!("4\r\nhalf\r\n1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(100_000))), Cut),
        ("a body that is too long", plain("Content-Length: 2\r\n", "okHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"), Whole("ok")),
        ("a second answer", plain("Content-Length: 2\r\n", "ok\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"), Whole("ok")),
        ("a second answer after chunks", chunked("2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"), Whole("ok")),
        // what may look strange, and is not: their twins
        ("a body of the right length", plain("Content-Length: 2\r\n", "ok"), Whole("ok")),
        ("chunks", chunked("1\r\no\r\n1\r\nk\r\n0\r\n\r\n"), Whole("ok")),
        ("a chunk extension", chunked("2;a=b\r\nok\r\n0\r\n\r\n"), Whole("ok")),
        ("no length: until it closes", plain("", "ok"), Whole("ok")),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nok".to_vec(), Whole("ok")),
        ("HTTP/1.0 with a length", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), Whole("ok")),
        ("no reason", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok".to_vec(), Whole("ok")),
        ("a reason of eight bits", b"HTTP/1.1 200 \xe9\r\nContent-Length: 2\r\n\r\nok".to_vec(), BadOr("ok")),
        ("eight bits in a value", b"HTTP/1.1 200 OK\r\nA: \xe9\r\nContent-Length: 2\r\n\r\nok".to_vec(), Whole("ok")),
        ("interim answers before", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), Whole("ok")),
        ("90 fields", plain(&format!("{}Content-Length: 2\r\n", "A: b\r\n".repeat(90)), "ok"), Whole("ok")),
    ]
}

#[tokio::test]
async fn no_upstream_can_pass_off_half_as_whole_or_poison_the_next() {
    let lie: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let next = lie.clone();
    let liar = serving(move |_, stream| {
        let next = next.clone();
        async move {
            let mut wire = Wire::on(stream);
            while wire.head_for_long().await.is_some() {
                let said = next.lock().expect("no panic").take();
                match said {
                    Some(lie) => return wire.send(lie).await,
                    None => wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").await,
                }
            }
        }
    });
    let stage = Stage::leading_to(&format!("http://{}", liar.await), "");
    let daemon = stage.start();
    let mut failures = Vec::new();
    let rows = answers();
    eprintln!("{} rows", rows.len());
    for (name, bytes, home) in rows {
        *lie.lock().expect("no panic") = Some(bytes);
        let mut wire = Wire::connect(&stage.address).await;
        // nothing that could be sent twice
        wire.send(format!(
            "POST /api/x HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            stage.address
        ))
        .await;
        let answer = wire.until_closed().await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let head = head.to_ascii_lowercase();
        let status: u16 = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let (is_whole, text) = match length {
            Some(length) => (body.len() == length, body.to_owned()),
            None if head.contains("transfer-encoding: chunked") => (body.ends_with("\r\n0\r\n\r\n"), unchunked(body)),
            None => (true, body.to_owned()),
        };
        let good = match home {
            Home::Bad => status == 502 && is_whole,
            Home::Whole(expected) => status == 200 && is_whole && text == expected,
            Home::Cut => status == 200 && !is_whole,
            Home::BadOrCut => status == 502 || !is_whole,
            Home::BadOr(expected) => (status == 502 && is_whole) || (status == 200 && is_whole && text == expected),
        };
        if !good || answer.contains("poison") {
            failures.push(format!("{name}: {home:?}, but got {:?}", answer.get(..300).unwrap_or(&answer)));
        }
        for _ in 0..2 {
            let mut wire = Wire::connect(&stage.address).await;
            wire.send(get("/api/next").replace("HERE", &stage.address)).await;
            let answer = wire.answer(true).await;
            if answer != Some((200, "fine".to_owned())) {
                failures.push(format!("{name}: then {answer:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    drop(daemon);
}

/// The data of chunks, as far as it came.
fn unchunked(body: &str) -> String {
    let mut data = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        data += after.get(..size).unwrap_or(after);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    data
}
