//! The pure parts of a request's way, each by itself: how long it takes, and what it allocates.
//!
//! ```text
//! cargo bench --bench parts --features benchmarks [-- guard headers]
//! ```
//!
//! They are compiled with `[profile.bench]`, without fat LTO: the figures are to be compared with each other and with
//! those of another commit.

use std::time::Duration;

use bytes::Bytes;
use divan::{AllocProfiler, Bencher};
use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use valetd::benchmarks::{Request, Stage};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    // a hundred steps between two looks at the clock, which is no finer than the shortest of them
    divan::Divan::default().sample_size(100).config_with_args().main();
}

/// What a script with python-requests asks of a catalogue.
const USUAL: &str =
    "/lab/collections/sentinel-2-l2a/items?bbox=12.4,55.6,12.7,55.8&datetime=2026-05-01/2026-05-31&limit=100
Host: localhost:8253
User-Agent: python-requests/2.32.3
Accept-Encoding: gzip, deflate
Accept: application/geo+json
Connection: keep-alive
If-None-Match: \"6f1a2c0e9b\"";

/// The same by curl, which says less of the connection, with a path that has to be decoded.
const ENCODED: &str = "/lab/collections/sentinel%2D2%2Fl2a/items?limit=100
Host: localhost:8253
User-Agent: curl/7.88.1
Accept: */*";

/// On the route with rules.
const RULED: &str = "/ruled/catalog/collections/sentinel-2-l2a/items?limit=100
Host: localhost:8253
User-Agent: curl/7.88.1
Accept: */*";

/// With credentials that are not to go through, as of a tool that cannot be told to leave them out.
const CREDENTIALS: &str = "/lab/collections
Host: localhost:8253
User-Agent: curl/7.88.1
Accept: */*
Authorization: Bearer none
X-Forwarded-For: 127.0.0.1";

const ANSWER: &str = "Date: Sat, 02 May 2026 10:00:00 GMT
Content-Type: application/geo+json
Content-Length: 18230
Connection: keep-alive
ETag: \"6f1a2c0e9b\"
Cache-Control: private, max-age=60
Vary: Accept-Encoding
X-Request-Id: 4be70a59-2f8e-4f2b-9f3a-9d0a3a5d1c7e";

const REDIRECT: &str = "Date: Sat, 02 May 2026 10:00:00 GMT
Content-Length: 0
Location: https://api.example/v1/collections/sentinel-2-l2a/items?page=2
Set-Cookie: session=4be70a592f8e; Path=/v1; Domain=api.example; Secure; HttpOnly; SameSite=Lax";

/// How long the upstream is said to have taken.
const TOOK: Duration = Duration::from_millis(3);

#[divan::bench]
fn key(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, Stage::key);
}

#[divan::bench]
fn guard(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, |stage, request| stage.guard(request));
}

#[divan::bench]
fn path(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, |stage, request| stage.path(request));
}

#[divan::bench]
fn path_encoded(bencher: Bencher<'_, '_>) {
    step(bencher, ENCODED, |stage, request| stage.path(request));
}

#[divan::bench]
fn route(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, Stage::route);
}

#[divan::bench]
fn rules(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, |stage, request| stage.rules(request));
}

#[divan::bench]
fn rules_allow_deny(bencher: Bencher<'_, '_>) {
    step(bencher, RULED, |stage, request| stage.rules(request));
}

#[divan::bench]
fn token(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, |stage, _| stage.token());
}

#[divan::bench]
fn target(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, Stage::target);
}

#[divan::bench]
fn headers(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, Stage::headers);
}

#[divan::bench]
fn headers_curl(bencher: Bencher<'_, '_>) {
    step(bencher, ENCODED, Stage::headers);
}

#[divan::bench]
fn headers_credentials(bencher: Bencher<'_, '_>) {
    step(bencher, CREDENTIALS, Stage::headers);
}

#[divan::bench]
fn answer(bencher: Bencher<'_, '_>) {
    step_home(bencher, ANSWER, |stage, request, answer| stage.answer(request, answer));
}

#[divan::bench]
fn answer_redirect(bencher: Bencher<'_, '_>) {
    step_home(bencher, REDIRECT, |stage, request, answer| stage.answer(request, answer));
}

#[divan::bench]
fn count(bencher: Bencher<'_, '_>) {
    step(bencher, USUAL, |stage, request| stage.count(request, divan::black_box(TOOK)));
}

#[divan::bench]
fn everything(bencher: Bencher<'_, '_>) {
    step_home(bencher, ANSWER, |stage, request, answer| stage.everything(request, answer, divan::black_box(TOOK)));
}

/// Measures a step with requests that are made, and dropped, while nobody looks.
fn step<T>(bencher: Bencher<'_, '_>, request: &str, step: impl Fn(&Stage, &mut Request) -> T) {
    let (stage, text) = (Stage::default(), Text::of(request));
    bencher.with_inputs(|| text.request(&stage)).bench_local_refs(|request| step(&stage, request));
}

/// The same for an answer to the usual request.
fn step_home<T>(bencher: Bencher<'_, '_>, answer: &str, step: impl Fn(&Stage, &mut Request, &mut HeaderMap) -> T) {
    let (stage, request, answer) = (Stage::default(), Text::of(USUAL), Text::of(answer));
    bencher
        .with_inputs(|| (request.request(&stage), answer.fields()))
        .bench_local_refs(|(request, answer)| step(&stage, request, answer));
}

/// A head as it lies in a connection's buffer.
struct Text(Bytes);

impl Text {
    fn of(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn request(&self, stage: &Stage) -> Request {
        let target = self.lines().next().expect("a request has a target");
        let mut request = hyper::Request::new(());
        *request.uri_mut() = Uri::from_maybe_shared(self.slice(target)).expect("it is one");
        *request.headers_mut() = self.fields();
        stage.request(request.into_parts().0)
    }

    /// Made as hyper makes them: room for as many as there are, values that share the buffer.
    fn fields(&self) -> HeaderMap {
        let fields = self.lines().filter_map(|line| line.split_once(": "));
        let mut headers = HeaderMap::with_capacity(fields.clone().count());
        for (name, value) in fields {
            let value = HeaderValue::from_maybe_shared(self.slice(value)).expect("it is text");
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("it is a name"), value);
        }
        headers
    }

    fn lines(&self) -> std::str::Lines<'_> {
        std::str::from_utf8(&self.0).expect("it was text").lines()
    }

    fn slice(&self, part: &str) -> Bytes {
        self.0.slice_ref(part.as_bytes())
    }
}
