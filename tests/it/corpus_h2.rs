//! The same in HTTP/2, frame by frame (RFC 9113, RFC 7541): malformed requests, lying frames and floods, with the acceptable
//! outcomes at both ends.
//!
//! A row is what a client sends after the preface. What is malformed ends its stream or its connection, or is answered
//! with 4xx, and the upstream sees nothing of it; what is sound is forwarded as one request with exactly one
//! `Authorization`, ours. Whatever happens, the next client is served.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY, frame, take_frame,
};
use crate::support::stage::Stage;
use crate::support::strict_upstream::{Seen, strict_upstream};
use crate::support::wire::soon;

/// What may come of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// 200, and exactly this goes up: the request line and the body.
    Served(&'static str, &'static str),
    /// 4xx or 5xx of ours, or a reset stream, or a closed connection; nothing goes up.
    Refused,
    /// The connection must end with GOAWAY or without; nothing goes up.
    Closed,
    /// The request may have gone up before the fault was seen; then the connection or its stream ends.
    TooLate,
    /// Served, or refused: the specification leaves it open, and both are safe.
    Either(&'static str, &'static str),
}
use Outcome::{Closed, Either, Refused, Served, TooLate};

/// A field as a literal without indexing and without Huffman coding (RFC 7541 section 6.2.2).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match text.len() {
            short if short < 127 => bytes.push(short as u8),
            long => {
                bytes.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    bytes.push((rest % 128 + 128) as u8);
                    rest /= 128;
                }
                bytes.push(rest as u8);
            }
        }
        bytes.extend(text);
    }
    bytes
}

type Fields<'a> = &'a [(&'a [u8], &'a [u8])];

fn block(fields: Fields<'_>) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

const METHOD: (&[u8], &[u8]) = (b":method", b"GET");
const SCHEME: (&[u8], &[u8]) = (b":scheme", b"http");
const PATH: (&[u8], &[u8]) = (b":path", b"/api/x");
const AUTHORITY: (&[u8], &[u8]) = (b":authority", b"localhost:PPPPP");

/// An ordinary request's block, with more fields.
fn and(fields: Fields<'_>) -> Vec<u8> {
    block(&[&[METHOD, SCHEME, PATH, AUTHORITY], fields].concat())
}

/// The same with one pseudo-header's value replaced.
fn but(name: &[u8], value: &[u8]) -> Vec<u8> {
    let fields = [METHOD, SCHEME, PATH, AUTHORITY].map(|field| if field.0 == name { (name, value) } else { field });
    block(&fields)
}

fn whole(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block)
}

fn open(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, block)
}

fn post(fields: Fields<'_>) -> Vec<u8> {
    open(&block(&[&[(&b":method"[..], &b"POST"[..]), SCHEME, PATH, AUTHORITY], fields].concat()))
}

fn fine() -> Vec<u8> {
    whole(&and(&[]))
}

const GOOD: Outcome = Served("GET /x", "");
const POSTED: Outcome = Served("POST /x", "abc");

#[derive(Default)]
struct Corpus(Vec<(String, Vec<u8>, Outcome)>);

impl Corpus {
    fn row(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>, outcome: Outcome) {
        self.0.push((name.into(), bytes.into(), outcome));
    }

    /// One more field makes the request malformed; the twin, with the other, is sound.
    fn bad_field(&mut self, name: &str, bad: (&[u8], &[u8]), good: (&[u8], &[u8])) {
        self.row(name, whole(&and(&[bad])), Refused);
        self.row(format!("{name}: the twin"), whole(&and(&[good])), GOOD);
    }

    /// What follows breaks the connection, and does not without the change.
    fn closed(&mut self, name: &str, bad: Vec<u8>, good: Vec<u8>) {
        self.row(name, [bad, fine()].concat(), Closed);
        self.row(format!("{name}: the twin"), [good, fine()].concat(), GOOD);
    }
}

fn rows() -> Vec<(String, Vec<u8>, Outcome)> {
    let mut corpus = Corpus::default();
    let c = &mut corpus;
    let abc = |stream| frame(DATA, END_STREAM, stream, b"abc");

    // --- pseudo-headers (RFC 9113 section 8.3)
    c.row("an ordinary request", fine(), GOOD);
    c.row("no :method", whole(&block(&[SCHEME, PATH, AUTHORITY])), Refused);
    c.row("no :scheme", whole(&block(&[METHOD, PATH, AUTHORITY])), Refused);
    c.row("no :path", whole(&block(&[METHOD, SCHEME, AUTHORITY])), Refused);
    c.row("no :authority and no host", whole(&block(&[METHOD, SCHEME, PATH])), Refused);
    c.row("host instead of :authority", whole(&block(&[METHOD, SCHEME, PATH, (b"host", b"localhost:PPPPP")])), GOOD);
    c.row("an equal host", whole(&and(&[(b"host", b"localhost:PPPPP")])), GOOD);
    c.row("another host", whole(&and(&[(b"host", b"evil.example")])), Refused);
    c.row("two hosts", whole(&and(&[(b"host", b"localhost:PPPPP"), (b"host", b"evil.example")])), Refused);
    c.row("two :methods", whole(&and(&[METHOD])), Refused);
    c.row("two :paths", whole(&block(&[METHOD, SCHEME, PATH, (b":path", b"/api/y"), AUTHORITY])), Refused);
    c.row("two :schemes", whole(&block(&[METHOD, SCHEME, SCHEME, PATH, AUTHORITY])), Refused);
    c.row("two :authorities", whole(&and(&[AUTHORITY])), Refused);
    c.row("an unknown pseudo-header", whole(&and(&[(b":valet", b"x")])), Refused);
    c.row("an answer's pseudo-header", whole(&and(&[(b":status", b"200")])), Refused);
    c.row("a pseudo-header after a field", whole(&block(&[METHOD, SCHEME, PATH, (b"a", b"b"), AUTHORITY])), Refused);
    c.row("an empty :path", whole(&but(b":path", b"")), Refused);
    c.row("an empty :method", whole(&but(b":method", b"")), Refused);
    c.row("an empty :authority", whole(&but(b":authority", b"")), Refused);
    c.row("a foreign :authority", whole(&but(b":authority", b"evil.example")), Refused);
    c.row("a user in :authority", whole(&but(b":authority", b"me@localhost:PPPPP")), Refused);
    c.row("a path in :authority", whole(&but(b":authority", b"localhost:PPPPP/x")), Refused);
    c.row("a blank in :authority", whole(&but(b":authority", b"localhost:PPPPP x")), Refused);
    c.row("CRLF in :authority", whole(&but(b":authority", b"localhost:PPPPP\r\na: b")), Refused);
    c.row(
        "another route by :authority",
        whole(&block(&[METHOD, SCHEME, (b":path", b"/x"), (b":authority", b"api.localhost:PPPPP")])),
        GOOD,
    );
    for (name, path) in [
        ("no slash", &b"api/x"[..]),
        ("an asterisk", b"*"),
        ("a blank", b"/api/x y"),
        ("CRLF and a field", b"/api/x HTTP/1.1\r\nauthorization: x\r\n"),
        ("LF", b"/api/x\n"),
        ("NUL", b"/api/x\0"),
        ("dots", b"/api/../x"),
        ("encoded dots", b"/api/%2e%2e/x"),
        ("a backslash", b"/api/..\\x"),
        ("an encoded NUL", b"/api/%00"),
        ("a URL", b"http://evil.example/api/x"),
        ("a token endpoint", b"/gbdx/auth/v1/oauth/token"),
        ("an unknown route", b"/nowhere"),
    ] {
        c.row(format!("a :path with {name}"), whole(&but(b":path", path)), Refused);
    }
    c.row("a :path of 9 kB", whole(&but(b":path", format!("/api/{}", "x".repeat(9000)).as_bytes())), Refused);
    c.row(
        "a :path as it came",
        whole(&but(b":path", b"/api/a%2Fb;c?d=%2F..%2f&e=[1]")),
        Served("GET /a%2Fb;c?d=%2F..%2f&e=[1]", ""),
    );
    c.row("a fragment in :path", whole(&but(b":path", b"/api/x#y")), Either("GET /x", ""));
    c.row("a blank in :method", whole(&but(b":method", b"GET /")), Refused);
    c.row("CRLF in :method", whole(&but(b":method", b"GET / HTTP/1.1\r\na: b\r\n\r\nGET")), Refused);
    c.row("a long :method", whole(&but(b":method", &[b'A'; 33])), Refused);
    c.row("TRACE", whole(&but(b":method", b"TRACE")), Refused);
    c.row("CONNECT", whole(&block(&[(b":method", b"CONNECT"), AUTHORITY])), Refused);
    c.row(
        "CONNECT to elsewhere",
        whole(&block(&[(b":method", b"CONNECT"), (b":authority", b"evil.example:443")])),
        Refused,
    );
    c.row("CONNECT with :path", whole(&but(b":method", b"CONNECT")), Refused);
    c.row(
        "extended CONNECT",
        open(&block(&[(b":method", b"CONNECT"), (b":protocol", b"websocket"), SCHEME, PATH, AUTHORITY])),
        Refused,
    );
    c.row(":protocol without CONNECT", whole(&and(&[(b":protocol", b"websocket")])), Refused);
    c.row("a :scheme of nonsense", whole(&but(b":scheme", b"ht tp")), Refused);
    c.row("CRLF in :scheme", whole(&but(b":scheme", b"http\r\na: b")), Refused);
    c.row("https in the clear", whole(&but(b":scheme", b"https")), Either("GET /x", ""));

    // --- fields (RFC 9113 section 8.2)
    c.bad_field("connection", (b"connection", b"close"), (b"x-connection", b"close"));
    c.bad_field("connection: authorization", (b"connection", b"authorization"), (b"authorization", b"theirs"));
    c.bad_field("keep-alive", (b"keep-alive", b"1"), (b"x-keep-alive", b"1"));
    c.bad_field("proxy-connection", (b"proxy-connection", b"x"), (b"x-proxy", b"x"));
    c.bad_field("transfer-encoding", (b"transfer-encoding", b"chunked"), (b"transfer_encoding", b"chunked"));
    c.bad_field("upgrade", (b"upgrade", b"websocket"), (b"x-upgrade", b"websocket"));
    c.bad_field("te: gzip", (b"te", b"gzip"), (b"te", b"trailers"));
    c.bad_field("upper case", (b"A-Field", b"x"), (b"a-field", b"x"));
    c.bad_field("an empty name", (b"", b"x"), (b"x", b""));
    c.bad_field("a blank in a name", (b"a b", b"x"), (b"a-b", b"x"));
    c.bad_field("a colon in a name", (b"a:b", b"x"), (b"a", b"b:x"));
    c.bad_field("CR in a name", (b"a\rb", b"x"), (b"ab", b"x"));
    c.bad_field("LF in a name", (b"a\nb", b"x"), (b"ab", b"x"));
    c.bad_field("NUL in a name", (b"a\0b", b"x"), (b"ab", b"x"));
    c.bad_field("eight bits in a name", (b"a\xe9", b"x"), (b"a", b"\xe9"));
    c.bad_field("CR in a value", (b"a", b"x\ry"), (b"a", b"x y"));
    c.bad_field("LF in a value", (b"a", b"x\ny"), (b"a", b"x\ty"));
    c.bad_field("NUL in a value", (b"a", b"x\0y"), (b"a", b"x0y"));
    c.bad_field(
        "CRLF and a field in a value",
        (b"a", b"x\r\nauthorization: Bearer theirs"),
        (b"a", b"authorization: Bearer theirs"),
    );
    c.bad_field("CRLF and a request in a value", (b"a", b"x\r\n\r\nGET /hidden HTTP/1.1\r\n"), (b"a", b"GET /hidden"));
    c.row("blanks around a value", whole(&and(&[(b"a", b" x ")])), Either("GET /x", ""));
    c.row("two authorizations", whole(&and(&[(b"authorization", b"a"), (b"authorization", b"b")])), GOOD);
    c.row("proxy-authorization", whole(&and(&[(b"proxy-authorization", b"a"), (b"proxy_authorization", b"b")])), GOOD);
    c.row("crumbs of a cookie", whole(&and(&[(b"cookie", b"a=b"), (b"cookie", b"c=d")])), GOOD);
    c.row("forwarded", whole(&and(&[(b"forwarded", b"host=evil"), (b"x-forwarded-host", b"evil")])), GOOD);
    c.row("http2-settings", whole(&and(&[(b"http2-settings", b"AAMAAABkAAQAAP__")])), GOOD);
    c.row("a page elsewhere", whole(&and(&[(b"origin", b"https://evil.example")])), Refused);
    c.row("another site's page", whole(&and(&[(b"sec-fetch-site", b"cross-site")])), Refused);
    let many: Vec<(&[u8], &[u8])> = vec![(b"a", b"b"); 120];
    c.row("120 fields", whole(&and(&many)), Refused);
    c.row("80 fields", whole(&and(&many[..80])), GOOD);
    let long = [b'x'; 15_000];
    c.row("a field of 15 kB", whole(&and(&[(b"a", &long)])), GOOD);
    let rest = frame(CONTINUATION, 0, 1, &literal(b"b", &long)).repeat(5);
    let end = frame(CONTINUATION, END_HEADERS, 1, b"");
    c.row("75 kB of fields", [frame(HEADERS, END_STREAM, 1, &and(&[])), rest, end.clone()].concat(), Refused);

    // --- bodies (RFC 9113 section 8.1.1)
    c.row("a body", [post(&[]), abc(1)].concat(), POSTED);
    c.row("a body with its length", [post(&[(b"content-length", b"3")]), abc(1)].concat(), POSTED);
    for (name, length) in [("longer", &b"4"[..]), ("shorter", b"2"), ("none", b"0")] {
        c.row(format!("a length that is {name}"), [post(&[(b"content-length", length)]), abc(1)].concat(), TooLate);
    }
    for (name, length) in [
        ("negative", &b"-3"[..]),
        ("signed", b"+3"),
        ("a word", b"abc"),
        ("a list", b"3, 4"),
        ("too large", b"99999999999999999999"),
    ] {
        c.row(format!("a length that is {name}"), [post(&[(b"content-length", length)]), abc(1)].concat(), Refused);
    }
    c.row("two lengths", [post(&[(b"content-length", b"3"), (b"content-length", b"4")]), abc(1)].concat(), Refused);
    c.row("a length and no body", whole(&and(&[(b"content-length", b"3")])), Refused);
    c.row("the length 0 and no body", whole(&and(&[(b"content-length", b"0")])), GOOD);
    c.row(
        "trailers",
        [post(&[]), frame(DATA, 0, 1, b"abc"), frame(HEADERS, END_STREAM | END_HEADERS, 1, &literal(b"x-sum", b"1"))]
            .concat(),
        POSTED,
    );
    c.row(
        "trailers with credentials",
        [
            post(&[]),
            frame(DATA, 0, 1, b"abc"),
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &literal(b"authorization", b"theirs")),
        ]
        .concat(),
        POSTED,
    );
    c.row(
        "trailers with a pseudo-header",
        [post(&[]), frame(DATA, 0, 1, b"abc"), frame(HEADERS, END_STREAM | END_HEADERS, 1, &literal(b":path", b"/y"))]
            .concat(),
        TooLate,
    );
    c.row(
        "trailers that do not end",
        [post(&[]), frame(DATA, 0, 1, b"abc"), frame(HEADERS, END_HEADERS, 1, &literal(b"x-sum", b"1"))].concat(),
        TooLate,
    );
    c.row("padding", [post(&[]), frame(DATA, END_STREAM | PADDED, 1, b"\x02abc\0\0")].concat(), POSTED);
    c.row("more padding than frame", [post(&[]), frame(DATA, END_STREAM | PADDED, 1, b"\x09abc")].concat(), TooLate);
    c.row("data after the end", [post(&[]), abc(1), abc(1)].concat(), TooLate);
    c.row("a head after the end", [fine(), fine()].concat(), TooLate);

    // --- frames (RFC 9113 sections 4 to 6)
    let nothing = Vec::new;
    c.closed("DATA on stream 0", frame(DATA, 0, 0, b"x"), frame(0x42, 0, 0, b"x"));
    c.closed("DATA on an idle stream", frame(DATA, 0, 5, b"x"), nothing());
    c.closed("HEADERS on stream 0", frame(HEADERS, END_STREAM | END_HEADERS, 0, &and(&[])), nothing());
    c.closed("HEADERS on an even stream", frame(HEADERS, END_STREAM | END_HEADERS, 2, &and(&[])), nothing());
    c.closed("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 0]), frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 0]));
    c.closed("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]), nothing());
    c.closed("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]), nothing());
    c.closed("RST_STREAM of three bytes", frame(RST_STREAM, 0, 1, &[0, 0, 8]), nothing());
    c.closed("SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), frame(SETTINGS, 0, 0, b""));
    c.closed(
        "SETTINGS of five bytes",
        frame(SETTINGS, 0, 0, b"\0\x03\0\0\0"),
        frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64"),
    );
    c.closed("SETTINGS with ACK and content", frame(SETTINGS, ACK, 0, b"\0\x03\0\0\0\x64"), nothing());
    c.closed(
        "ENABLE_PUSH of 2",
        frame(SETTINGS, 0, 0, b"\0\x02\0\0\0\x02"),
        frame(SETTINGS, 0, 0, b"\0\x02\0\0\0\x00"),
    );
    c.closed(
        "INITIAL_WINDOW_SIZE of 2^31",
        frame(SETTINGS, 0, 0, b"\0\x04\x80\0\0\0"),
        frame(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff"),
    );
    c.closed(
        "MAX_FRAME_SIZE of 1",
        frame(SETTINGS, 0, 0, b"\0\x05\0\0\0\x01"),
        frame(SETTINGS, 0, 0, b"\0\x05\0\0\x40\0"),
    );
    c.row("an unknown setting", [frame(SETTINGS, 0, 0, b"\x42\x42\0\0\0\x01"), fine()].concat(), GOOD);
    c.closed("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02"), nothing());
    c.closed("PING of seven bytes", frame(PING, 0, 0, &[0; 7]), frame(PING, 0, 0, &[0; 8]));
    c.closed("PING on a stream", frame(PING, 0, 1, &[0; 8]), frame(PING, ACK, 0, &[0; 8]));
    c.closed(
        "WINDOW_UPDATE of nothing",
        frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    );
    c.closed("WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), nothing());
    c.closed("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), nothing());
    c.closed("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), nothing());
    c.closed("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &and(&[])), nothing());
    c.closed("a frame of 17 kB", frame(0x42, 0, 0, &[0; 17_000]), frame(0x42, 0, 0, &[0; 16_384]));
    c.row("an unknown frame", [frame(0x42, 0xff, 7, b"whatever"), fine()].concat(), GOOD);
    let (one, two) = (and(&[]), literal(b"a", b"b"));
    c.row(
        "a head in pieces",
        [frame(HEADERS, END_STREAM, 1, &one[..9]), frame(CONTINUATION, END_HEADERS, 1, &one[9..])].concat(),
        GOOD,
    );
    c.row(
        "a head in pieces on two streams",
        [frame(HEADERS, END_STREAM, 1, &one), frame(CONTINUATION, END_HEADERS, 3, &two)].concat(),
        Closed,
    );
    c.row(
        "a frame inside of a head",
        [frame(HEADERS, END_STREAM, 1, &one), frame(PING, 0, 0, &[0; 8]), frame(CONTINUATION, END_HEADERS, 1, &two)]
            .concat(),
        Closed,
    );
    c.row(
        "a head with priority",
        frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, &[&[0, 0, 0, 0, 16][..], &one].concat()),
        GOOD,
    );
    c.row(
        "a stream that waits for itself",
        frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, &[&[0, 0, 0, 1, 16][..], &one].concat()),
        Refused,
    );
    c.row(
        "a head with more padding than frame",
        frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &[&[255][..], &one].concat()),
        Refused,
    );
    c.row(
        "streams in the wrong order",
        [frame(HEADERS, END_STREAM | END_HEADERS, 3, &but(b":path", b"/nowhere")), fine()].concat(),
        Closed,
    );

    // --- HPACK (RFC 7541)
    let mut indexed = vec![0x82, 0x86]; // GET, http
    indexed.extend(block(&[PATH, AUTHORITY]));
    c.row("the static table", whole(&indexed), GOOD);
    c.row("the index 0", whole(&[&one[..], &[0x80]].concat()), Closed);
    c.row("an index out of range", whole(&[&one[..], &[0xff, 0x80, 0x7f]].concat()), Closed);
    c.row(
        "an index that overflows",
        whole(&[&one[..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat()),
        Closed,
    );
    c.row("a literal that breaks off", whole(&[&one[..], &[0, 9, b'a']].concat()), Closed);
    c.row("a table larger than allowed", whole(&[&[0x3f, 0xe1, 0xff, 0xff, 0x7f][..], &one].concat()), Closed);
    c.row("a table of nothing", whole(&[&[0x20][..], &one].concat()), GOOD);
    c.row("Huffman with a wrong end", whole(&[&one[..], &[0, 1, b'a', 0x81, 0x00]].concat()), Closed);

    // --- floods
    let reset = |stream: u32, path: &[u8]| {
        [
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &but(b":path", path)),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    };
    c.row("rapid resets", (0..2000).flat_map(|number| reset(2 * number + 1, b"/nowhere")).collect::<Vec<_>>(), Closed);
    c.row(
        "a head without end",
        [frame(HEADERS, END_STREAM, 1, &one), frame(CONTINUATION, 0, 1, b"").repeat(5000)].concat(),
        Closed,
    );
    c.row(
        "fields without end",
        [frame(HEADERS, END_STREAM, 1, &one), frame(CONTINUATION, 0, 1, &literal(b"a", &[b'x'; 1000])).repeat(2000)]
            .concat(),
        Closed,
    );
    c.row("pings", [frame(PING, 0, 0, &[0; 8]).repeat(20), fine()].concat(), GOOD);
    c.row("settings", [frame(SETTINGS, 0, 0, b"").repeat(20), fine()].concat(), GOOD);
    c.row("the preface twice", [PREFACE, &fine()[..]].concat(), Closed);
    corpus.0
}

/// What a client saw: the status of stream 1, whether that ended well, and whether the connection ended.
#[derive(Default, Debug)]
struct Saw {
    status: Option<u16>,
    whole: bool,
    reset: bool,
    closed: bool,
}

async fn talk(address: &str, bytes: &[u8]) -> Saw {
    let mut stream = TcpStream::connect(address).await.expect("the daemon listens");
    let mut saw = Saw::default();
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    // a flood may be cut off while it is sent
    let _ = soon(stream.write_all(&[&opening, bytes].concat())).await;
    let mut buffer = Vec::new();
    loop {
        while let Some(Frame { kind, flags, stream: id, payload }) = take_frame(&mut buffer) {
            match kind {
                HEADERS if id == 1 => {
                    saw.status = saw.status.or_else(|| status(&payload));
                    saw.whole |= flags & END_STREAM != 0;
                }
                DATA if id == 1 => saw.whole |= flags & END_STREAM != 0,
                RST_STREAM if id == 1 => saw.reset = true,
                GOAWAY => saw.closed = true,
                _ => {}
            }
        }
        if saw.whole || saw.reset || saw.closed {
            return saw;
        }
        if soon(stream.read_buf(&mut buffer)).await.unwrap_or(0) == 0 {
            saw.closed = true;
            return saw;
        }
    }
}

/// `:status` of an answer's first block: an entry of the static table, or its name with a value in Huffman's code.
fn status(block: &[u8]) -> Option<u16> {
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    match block {
        [index @ 0x88..=0x8e, ..] => Some([200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)]),
        [0x08 | 0x48, length, rest @ ..] if length & 0x80 == 0 => {
            std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?.parse().ok()
        }
        [0x08 | 0x48, length, rest @ ..] => {
            let bytes = rest.get(..usize::from(length & 0x7f))?;
            let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
            let mut number = 0;
            for _ in 0..3 {
                let mut code = 0;
                for _ in 0..5 {
                    code = code * 2 + bits.next()?;
                }
                // 0 to 2 have five bits, 3 to 9 six
                number = number * 10 + if code <= 2 { code } else { code * 2 + bits.next()? - 0x19 + 3 };
            }
            Some(number)
        }
        _ => None,
    }
}

#[tokio::test]
async fn no_frame_can_smuggle_inject_or_escape() {
    let (upstream, seen) = strict_upstream().await;
    let stage = Stage::leading_to(&upstream, "");
    let daemon = stage.start();
    let port = stage.address.rsplit(':').next().expect("a port").to_owned();
    let rows = rows();
    eprintln!("{} rows", rows.len());
    assert!(rows.len() >= 80);
    let mut failures = Vec::new();
    for (name, bytes, outcome) in rows {
        let saw = talk(&stage.address, &with_port(&bytes, &port)).await;
        // the next client is served
        let next = talk(&stage.address, &with_port(&whole(&but(b":path", b"/api/sentinel")), &port)).await;
        if !(next.status == Some(200) && next.whole) {
            failures.push(format!("{name}: then {next:?}"));
        }
        let went_up = take(&seen, "/sentinel");
        let up: Vec<_> = went_up.iter().map(|seen| (seen.line.as_str(), seen.body.as_str())).collect();
        let served = |line: &str, body: &str| {
            saw.status == Some(200) && saw.whole && up == [(format!("{line} HTTP/1.1").as_str(), body)]
        };
        let refused = saw.status.is_none_or(|status| (400..600).contains(&status)) && up.is_empty();
        let good = match outcome {
            Served(line, body) => served(line, body),
            Refused => refused && (saw.status.is_some() || saw.reset || saw.closed),
            Closed => refused && saw.closed,
            Either(line, body) => served(line, body) || refused,
            TooLate => (saw.reset || saw.closed || saw.status.is_some()) && up.len() <= 1,
        };
        if !good {
            failures.push(format!("{name}: {outcome:?}, but {saw:?} and {up:?}"));
        }
        for request in &went_up {
            let ours = request.all("authorization");
            let stray = request.fields.iter().find(|(name, _)| {
                [
                    "proxy-authorization",
                    "proxy_authorization",
                    "http2-settings",
                    "forwarded",
                    "x-forwarded-host",
                    "malformed",
                ]
                .contains(&name.as_str())
            });
            let crumbs = request.all("cookie").len() > 1;
            if ours.len() != 1 || !stage.is_ours(ours[0]) || stray.is_some() || crumbs || request.all("host").len() != 1
            {
                failures.push(format!("{name}: {request:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    drop(daemon);
}

/// What has gone up but for the sentinel, which has gone up last.
fn take(seen: &Arc<Mutex<Vec<Seen>>>, sentinel: &str) -> Vec<Seen> {
    let mut taken = std::mem::take(&mut *seen.lock().expect("no panic"));
    taken.retain(|seen| !seen.line.contains(sentinel));
    taken
}

/// Ports of listeners have five digits, so lengths stay as they are.
fn with_port(bytes: &[u8], port: &str) -> Vec<u8> {
    assert_eq!(port.len(), 5);
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(5).position(|part| part == b"PPPPP") {
        bytes[at..at + 5].copy_from_slice(port.as_bytes());
    }
    bytes
}
