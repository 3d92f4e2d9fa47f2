//! Stand-ins of both providers, on loopback: an authorization server and an API in one, with switches for everything
//! that goes wrong in the world. For the demo and for tests; `run` never comes here.
//!
//! `books` decides who is issued what; `gdh` and `gbdx` speak the providers' dialects; here are the server, the
//! faults, the log, and what both APIs have in common. All that a stand-in knows is gone when it is dropped.
//!
//! Both APIs also answer, to a good token: `/echo` (what arrived, as JSON), `/download/N` (N bytes, chunked), `/gzip`,
//! `/no-content`, `/slow/MILLISECONDS`, `/ticks/MILLISECONDS` (server-sent events, for ever), and `/unauthorized` (401,
//! whatever the token).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Sleep;

use crate::platform::clock::wall;
use crate::secret::Secret;

mod books;
mod gbdx;
mod gdh;

use books::Books;
pub use books::{Options, PASSWORD, Rotation, USERNAME};

/// Whose stand-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provider {
    /// GeoDataHub: Amazon Cognito, and the raw ID token.
    Gdh,
    /// DigitalGlobe's GBDX: a token service of its own, and `Bearer` with the access token.
    Gbdx,
}

/// How the token endpoint treats its callers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Behaviour {
    /// As it should.
    #[default]
    Normal,
    /// Answers with a status, a body and header fields, and does nothing.
    Status(u16, String, Vec<(String, String)>),
    /// Answers with somebody's web page and status 200, and does nothing.
    Html,
    /// Answers with status 200 and this as JSON, and does nothing.
    Malformed(String),
    /// Closes the connection without having done anything.
    ResetBefore,
    /// Does what was asked, then closes the connection without an answer.
    ResetAfter,
    /// Waits, then does what was asked.
    Hang(Duration),
    /// Does what was asked and answers a byte at a time, with a pause before each.
    SlowDrip(Duration),
    /// Answers with JSON that never ends.
    Endless,
}

/// What has happened so far. The oldest entries go after some ten thousand.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Requests to the token service, revocations among them, in the order in which they ended.
    pub token_calls: Vec<TokenCall>,
    /// Requests to the API, in the order in which they were answered.
    pub api_calls: Vec<ApiCall>,
    /// The most token calls that ever ran at once.
    pub most_token_calls_at_once: u32,
    /// How often a spent refresh token was presented.
    pub reuse_detected: u64,
}

impl Log {
    /// How many token calls ended so: "issued", "revoked", an OAuth error, a fault's name.
    pub fn outcomes(&self, outcome: &str) -> usize {
        self.token_calls.iter().filter(|call| call.outcome == outcome).count()
    }

    /// How many API requests carried no good token.
    pub fn refused(&self) -> usize {
        self.api_calls.iter().filter(|call| call.status == 401).count()
    }
}

/// One request to the token service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenCall {
    /// When it ended.
    pub at: SystemTime,
    /// `grant_type`, Cognito's operation, or "revoke"; empty if a fault came first.
    pub grant: String,
    /// "issued", "revoked", "unknown", "refused", an error's code, or the name of the fault.
    pub outcome: String,
}

/// One request to the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiCall {
    /// When it was answered.
    pub at: SystemTime,
    /// Its method.
    pub method: String,
    /// Path and query as they arrived.
    pub target: String,
    /// The fingerprints ([`Secret::fingerprint`]) of its `Authorization` fields.
    pub authorization: Vec<String>,
    /// Whether it carried one token, in the right form, that was valid at that moment.
    pub token_valid: bool,
    /// How it was answered.
    pub status: u16,
}

/// A running stand-in. It stops, with all its connections, when it is dropped.
pub struct StandIn {
    address: SocketAddr,
    world: Arc<World>,
    server: JoinSet<()>,
}

struct World {
    provider: Provider,
    url: String,
    state: Mutex<State>,
    /// Says that the log has grown.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    books: Books,
    behaviour: Behaviour,
    /// Token calls until the behaviour is normal again; `None` is for ever.
    calls_left: Option<u32>,
    token_calls_running: u32,
    log: Log,
}

impl StandIn {
    /// Starts a stand-in on a free port of 127.0.0.1, on the current runtime.
    ///
    /// # Errors
    ///
    /// When there is no port to be had.
    pub async fn start(provider: Provider, options: Options) -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), provider, options).await
    }

    /// The same at a given address, as a server that comes back. It remembers nothing.
    ///
    /// # Errors
    ///
    /// When the address is taken.
    pub async fn start_on(address: SocketAddr, provider: Provider, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = State { books: Books::new(options), ..State::default() };
        let (url, changed) = (format!("http://{address}"), watch::Sender::new(()));
        let world = Arc::new(World { provider, url, state: Mutex::new(state), changed });
        let mut server = JoinSet::new();
        server.spawn(accept(listener, world.clone()));
        Ok(Self { address, world, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's base URL, without a `/` at its end.
    pub fn url(&self) -> &str {
        &self.world.url
    }

    /// Where grants are redeemed as forms.
    pub fn token_endpoint(&self) -> String {
        let path = match self.world.provider {
            Provider::Gdh => "/oauth2/token",
            Provider::Gbdx => "/auth/v1/oauth/token/",
        };
        format!("{}{path}", self.world.url)
    }

    /// Cognito's JSON API, where the provider has one.
    pub fn cognito_endpoint(&self) -> Option<String> {
        (self.world.provider == Provider::Gdh).then(|| format!("{}/", self.world.url))
    }

    /// Where refresh tokens are revoked, where the provider has such a place.
    pub fn revocation_endpoint(&self) -> Option<String> {
        (self.world.provider == Provider::Gdh).then(|| format!("{}/oauth2/revoke", self.world.url))
    }

    /// A refresh token, as of a person who signed in earlier.
    pub fn sign_in(&self) -> Secret {
        Secret::new(self.world.state().books.sign_in(None, wall()))
    }

    /// A one-time code, as a person is shown it after signing in.
    pub fn mint_code(&self) -> String {
        self.world.state().books.mint_code()
    }

    /// Changes lifetimes and rotation for what is issued from now on.
    pub fn change(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.world.state().books.options);
    }

    /// Makes the token endpoint behave so for that many calls, or until it is told otherwise. Revocations are spared.
    pub fn behave(&self, behaviour: Behaviour, calls: Option<u32>) {
        let mut state = self.world.state();
        state.behaviour = behaviour;
        state.calls_left = calls;
    }

    /// Makes the API refuse all access and ID tokens issued so far.
    pub fn revoke_access_tokens(&self) {
        self.world.state().books.revoke_tokens();
    }

    /// Makes the token endpoint refuse all refresh tokens issued so far. Access tokens stay good: see
    /// [`StandIn::revoke_access_tokens`].
    pub fn revoke_refresh_tokens(&self) {
        self.world.state().books.revoke_sign_ins();
    }

    /// What has happened so far.
    pub fn log(&self) -> Log {
        let state = self.world.state();
        Log { reuse_detected: state.books.reuse_detected, ..state.log.clone() }
    }

    /// Waits until the log is as wanted, and returns it. Bound it with a timeout.
    pub async fn until(&self, wanted: impl Fn(&Log) -> bool) -> Log {
        let mut changed = self.world.changed.subscribe();
        loop {
            let log = self.log();
            if wanted(&log) {
                return log;
            }
            // the sender lives as long as `self`
            let _ = changed.changed().await;
        }
    }

    /// Every code and token issued so far, for tests that look for them where they must not be.
    pub fn secrets(&self) -> Vec<String> {
        self.world.state().books.secrets.clone()
    }

    /// Stops at once: the port is free and every connection is cut when this returns.
    pub async fn stop(mut self) {
        self.server.shutdown().await;
    }
}

impl World {
    /// Never held across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, world: Arc<World>) {
    let mut connections = JoinSet::new(); // cut when this is aborted
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let _ = stream.set_nodelay(true);
        let world = world.clone();
        let service = service_fn(move |request| serve(world.clone(), request));
        // an error is a client that left, or a fault that was asked for
        connections.spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await });
    }
}

/// An error closes the connection without an answer.
async fn serve(world: Arc<World>, request: Request<Incoming>) -> io::Result<Reply> {
    let (parts, body) = request.into_parts();
    let is_token_call = match world.provider {
        Provider::Gdh => gdh::is_token_call(&parts),
        Provider::Gbdx => gbdx::is_token_call(&parts),
    };
    let answered =
        if is_token_call { token_call(&world, &parts, body).await } else { api_call(&world, &parts, body).await };
    world.changed.send_replace(());
    answered
}

/// Counts a call while it runs, also one whose client leaves.
struct Running<'a>(&'a World);

impl<'a> Running<'a> {
    fn start(world: &'a World) -> Self {
        let mut state = world.state();
        state.token_calls_running += 1;
        state.log.most_token_calls_at_once = state.log.most_token_calls_at_once.max(state.token_calls_running);
        Self(world)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().token_calls_running -= 1;
    }
}

async fn token_call(world: &World, parts: &Parts, body: Incoming) -> io::Result<Reply> {
    let _running = Running::start(world);
    let spared = parts.uri.path() == "/oauth2/revoke";
    let behaviour = if spared { Behaviour::Normal } else { next_behaviour(&mut world.state()) };
    let done_nothing = |fault: &'static str, reply: Reply| TokenReply::new(None, fault, reply);
    let fault = match &behaviour {
        Behaviour::Normal | Behaviour::ResetAfter | Behaviour::SlowDrip(_) => None,
        Behaviour::Hang(pause) => {
            tokio::time::sleep(*pause).await;
            None
        }
        Behaviour::Status(status, body, fields) => {
            let mut reply = json_text_reply(*status, body);
            for (name, value) in fields {
                let name = HeaderName::try_from(name).map_err(io::Error::other)?;
                reply.headers_mut().insert(name, HeaderValue::try_from(value).map_err(io::Error::other)?);
            }
            Some(done_nothing("status", reply))
        }
        Behaviour::Html => Some(done_nothing("html", text_reply(200, "text/html", "<h1>Welcome to our Wi-Fi</h1>"))),
        Behaviour::Malformed(body) => Some(done_nothing("malformed", json_text_reply(200, body))),
        Behaviour::ResetBefore => Some(done_nothing("reset-before", text_reply(500, "text/plain", ""))),
        Behaviour::Endless => Some(done_nothing("endless", endless())),
    };
    let done = match fault {
        Some(fault) => fault,
        None => {
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let books = &mut world.state().books;
            match world.provider {
                Provider::Gdh => gdh::redeem(books, parts, &body, wall()),
                Provider::Gbdx => gbdx::redeem(books, parts, &body, wall()),
            }
        }
    };
    let TokenReply { grant, outcome, reply } = done;
    note(&mut world.state().log.token_calls, TokenCall { at: wall(), grant, outcome });
    match behaviour {
        Behaviour::ResetBefore | Behaviour::ResetAfter => Err(io::Error::other("reset, as asked")),
        Behaviour::SlowDrip(pause) => Ok(reply.map(|body| body.dripping(pause))),
        _ => Ok(reply),
    }
}

fn next_behaviour(state: &mut State) -> Behaviour {
    match &mut state.calls_left {
        None => state.behaviour.clone(),
        Some(0) => Behaviour::Normal,
        Some(left) => {
            *left -= 1;
            state.behaviour.clone()
        }
    }
}

async fn api_call(world: &World, parts: &Parts, body: Incoming) -> io::Result<Reply> {
    let fields: Vec<&str> =
        parts.headers.get_all(AUTHORIZATION).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    let token_valid = match fields.as_slice() {
        [field] => {
            let (token, kind) = match world.provider {
                Provider::Gdh => gdh::token(field),
                Provider::Gbdx => gbdx::token(field),
            };
            token.is_some_and(|token| world.state().books.judge(token, wall()) == Some(kind))
        }
        _ => false,
    };
    let public = match world.provider {
        Provider::Gdh => gdh::public(&mut world.state().books, parts, &world.url),
        Provider::Gbdx => gbdx::public(parts),
    };
    let reply = match (public, token_valid, world.provider) {
        (Some(reply), _, _) => reply,
        (None, false, Provider::Gdh) => gdh::unauthorized(),
        (None, false, Provider::Gbdx) => gbdx::unauthorized(),
        (None, true, provider) => answer(provider, parts, body).await?,
    };
    let call = ApiCall {
        at: wall(),
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        authorization: fields.iter().map(|&field| Secret::new(field).fingerprint()).collect(),
        token_valid,
        status: reply.status().as_u16(),
    };
    note(&mut world.state().log.api_calls, call);
    Ok(reply)
}

/// What both APIs answer, and what each has of its own.
async fn answer(provider: Provider, parts: &Parts, body: Incoming) -> io::Result<Reply> {
    let mut segments = parts.uri.path().trim_start_matches('/').split('/');
    let (first, number) = (segments.next().unwrap_or_default(), segments.next().and_then(|n| n.parse::<u64>().ok()));
    Ok(match (first, number) {
        ("echo", _) => echo(parts, body).await?,
        ("download", Some(length)) => download(length),
        ("gzip", _) => {
            let mut reply = Response::new(Body::whole(GZIPPED));
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            reply.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            reply
        }
        ("no-content", _) => text_reply(204, "text/plain", ""),
        ("unauthorized", _) => text_reply(401, "text/plain", "not for you"),
        ("slow", Some(pause)) => {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            text_reply(200, "text/plain", "at last")
        }
        ("ticks", Some(pause)) => ticks(Duration::from_millis(pause)),
        _ => {
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            match provider {
                Provider::Gdh => gdh::api(parts, &body),
                Provider::Gbdx => gbdx::api(parts, &body),
            }
        }
    })
}

/// What arrived: the request target as it came, the fields in hyper's order (that of arrival, those of one name
/// together), authorization as a fingerprint, the body's length and SHA-256.
async fn echo(parts: &Parts, mut body: Incoming) -> io::Result<Reply> {
    let (mut hash, mut length) = (digest::Context::new(&digest::SHA256), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        hash.update(&data);
        length += data.len();
    }
    let hash: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = |(name, value): (&HeaderName, &HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let secret = name == AUTHORIZATION;
        json!([name.as_str(), if secret { format!("sha256:{}", Secret::new(value).fingerprint()) } else { value }])
    };
    let headers: Vec<Value> = parts.headers.iter().map(shown).collect();
    let (method, target) = (parts.method.as_str(), parts.uri.to_string());
    let body = json!({"length": length, "sha256": hash});
    Ok(json_reply(200, &json!({"method": method, "target": target, "headers": headers, "body": body})))
}

fn download(length: u64) -> Reply {
    const PIECE: Bytes = Bytes::from_static(&[b'x'; 64 * 1024]);
    let mut left = length;
    let body = Body::pieces(move || {
        let piece = PIECE.slice(..usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len()));
        left -= piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    });
    with_type(Response::new(body), "application/octet-stream")
}

fn ticks(pause: Duration) -> Reply {
    let mut number = 0_u64;
    let body = Body::pieces(move || {
        number += 1;
        Some(Bytes::from(format!("data: {number}\n\n")))
    });
    with_type(Response::new(body.paced(pause)), "text/event-stream")
}

fn endless() -> Reply {
    let mut start = Some(Bytes::from_static(b"{\"access_token\":\""));
    let body = Body::pieces(move || Some(start.take().unwrap_or(Bytes::from_static(&[b'a'; 4096]))));
    with_type(Response::new(body), "application/json")
}

/// `{"message":"this was compressed"}`
const GZIPPED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xabV\xcaM-.NLOU\xb2R*\xc9\xc8,V(O,VH\xce\xcf-(\x02\x0a\xa7\xa6(\xd5\x02\x00\x99QA\x03!\x00\x00\x00";

/// How much the log keeps.
const KEPT: usize = 10_000;

fn note<T>(list: &mut Vec<T>, entry: T) {
    if list.len() >= 2 * KEPT {
        list.drain(..KEPT);
    }
    list.push(entry);
}

/// What the token service answers, and what the log says of it.
struct TokenReply {
    grant: String,
    outcome: String,
    reply: Reply,
}

impl TokenReply {
    fn new(grant: Option<&str>, outcome: &str, reply: Reply) -> Self {
        Self { grant: grant.unwrap_or_default().to_owned(), outcome: outcome.to_owned(), reply }
    }
}

type Reply = Response<Body>;

fn json_reply(status: u16, body: &Value) -> Reply {
    json_text_reply(status, &body.to_string())
}

fn json_text_reply(status: u16, body: &str) -> Reply {
    text_reply(status, "application/json", body)
}

fn text_reply(status: u16, kind: &'static str, body: &str) -> Reply {
    let mut reply = with_type(Response::new(Body::whole(body.to_owned())), kind);
    *reply.status_mut() = status.try_into().expect("whoever scripts a status gives one of three digits");
    reply
}

fn with_type(mut reply: Reply, kind: &'static str) -> Reply {
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

fn form(body: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(body).into_owned().collect()
}

fn text_value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// A body made piece by piece, with a pause before each piece but the first.
struct Body {
    next: Box<dyn FnMut() -> Option<Bytes> + Send>,
    /// Told in `Content-Length`; otherwise the body is chunked.
    length: Option<u64>,
    pace: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body {
    fn whole(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let length = Some(body.len() as u64);
        let mut body = Some(body).filter(|body| !body.is_empty());
        Self { length, ..Self::pieces(move || body.take()) }
    }

    fn pieces(next: impl FnMut() -> Option<Bytes> + Send + 'static) -> Self {
        Self { next: Box::new(next), length: None, pace: Duration::ZERO, pause: None }
    }

    fn paced(self, pace: Duration) -> Self {
        Self { pace, ..self }
    }

    fn dripping(mut self, pace: Duration) -> Self {
        let mut whole = Bytes::new();
        let next = move || {
            if whole.is_empty() {
                whole = (self.next)()?;
            }
            Some(whole.split_to(1))
        };
        Self { length: self.length, ..Self::pieces(next) }.paced(pace)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let piece = (self.next)();
        if !self.pace.is_zero() {
            self.pause = Some(Box::pin(tokio::time::sleep(self.pace)));
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.length == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Sends one request as bytes and reads until the server closes: the head, and the body as it came.
    async fn raw(stand_in: &StandIn, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(stand_in.address()).await.unwrap();
        let (line, rest) = request.split_once("\r\n").unwrap();
        stream.write_all(format!("{line}\r\nHost: x\r\nConnection: close\r\n{rest}").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        (head.to_owned(), body.to_owned())
    }

    async fn get(stand_in: &StandIn, target: &str, fields: &str) -> (String, String) {
        raw(stand_in, &format!("GET {target} HTTP/1.1\r\n{fields}\r\n")).await
    }

    async fn post(stand_in: &StandIn, path: &str, fields: &str, body: &str) -> (String, Value) {
        let request = format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len());
        let (head, body) = raw(stand_in, &request).await;
        (head, serde_json::from_str(&body).unwrap_or_default())
    }

    async fn refresh(stand_in: &StandIn, token: &str) -> (String, Value) {
        let body = format!("grant_type=refresh_token&client_id=c&refresh_token={token}");
        post(stand_in, "/oauth2/token", "", &body).await
    }

    fn text<'a>(value: &'a Value, name: &str) -> &'a str {
        member(value, name).unwrap_or_else(|| panic!("no {name}: {value}"))
    }

    #[tokio::test]
    async fn gdh_wants_the_raw_id_token_in_one_field_and_nothing_else() {
        let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
        let (_, tokens) = refresh(&gdh, gdh.sign_in().expose()).await;
        let (id, access) = (text(&tokens, "id_token"), text(&tokens, "access_token"));
        let table = [
            ("the raw ID token", format!("Authorization: {id}\r\n"), "HTTP/1.1 200"),
            ("with Bearer", format!("Authorization: Bearer {id}\r\n"), "HTTP/1.1 401"),
            ("the access token", format!("Authorization: {access}\r\n"), "HTTP/1.1 401"),
            ("twice", format!("Authorization: {id}\r\nAuthorization: {id}\r\n"), "HTTP/1.1 401"),
            ("none", String::new(), "HTTP/1.1 401"),
        ];
        for (name, fields, status) in &table {
            let (head, _) = get(&gdh, "/datasets?q=%7B%22a%22%3A+%22b%22%7D", fields).await;
            assert!(head.starts_with(status), "{name}: {head}");
        }
        let log = gdh.log();
        assert_eq!(
            log.api_calls.iter().map(|call| call.token_valid).collect::<Vec<_>>(),
            [true, false, false, false, false]
        );
        assert_eq!((log.refused(), log.outcomes("issued")), (4, 1));
        assert!(gdh.secrets().iter().any(|secret| secret == id));
        gdh.revoke_access_tokens();
        assert!(get(&gdh, "/ping", &table[0].1).await.0.starts_with("HTTP/1.1 401"));
    }

    #[tokio::test]
    async fn gdhs_login_leads_from_the_page_over_the_code_to_tokens() {
        let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
        let (_, settings) = get(&gdh, "/login", "").await;
        assert!(settings.contains("redirection_url"));
        let (head, _) = get(&gdh, "/login?response_type=code&client_id=c", "").await;
        let code = head.split_once("?code=").unwrap().1.split_once("\r\n").unwrap().0;
        assert!(get(&gdh, &format!("/validate-code.html?code={code}"), "").await.1.contains(code));
        let body = format!("grant_type=authorization_code&client_id=c&redirect_uri=u&code={code}");
        let (_, tokens) = post(&gdh, "/oauth2/token", "", &body).await;
        assert_eq!(tokens["expires_in"], 3600);
        let (head, tokens) = refresh(&gdh, text(&tokens, "refresh_token")).await;
        assert!(head.starts_with("HTTP/1.1 200") && tokens.get("refresh_token").is_none());
        assert_eq!(post(&gdh, "/oauth2/token", "", &body).await.1, json!({"error": "invalid_grant"}));
    }

    #[tokio::test]
    async fn cognitos_json_api_has_one_way_with_rotation_and_one_without() {
        let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
        let token = gdh.sign_in();
        let (initiate, get_tokens) = (
            json!({"ClientId": "c", "AuthFlow": "REFRESH_TOKEN_AUTH", "AuthParameters": {"REFRESH_TOKEN": token.expose()}}),
            json!({"ClientId": "c", "RefreshToken": token.expose()}),
        );
        let call = async |operation: &str, body: &Value| {
            let fields = format!("X-Amz-Target: AWSCognitoIdentityProviderService.{operation}\r\n");
            post(&gdh, "/", &fields, &body.to_string()).await.1
        };
        assert!(call("InitiateAuth", &initiate).await["AuthenticationResult"]["IdToken"].is_string());
        assert_eq!(call("GetTokensFromRefreshToken", &get_tokens).await["__type"], "NotAuthorizedException");
        gdh.change(|options| options.rotation = Rotation::Strict);
        assert_eq!(call("InitiateAuth", &initiate).await["__type"], "NotAuthorizedException");
        let new = call("GetTokensFromRefreshToken", &get_tokens).await;
        assert!(new["AuthenticationResult"]["RefreshToken"].is_string());
        assert_eq!(call("GetTokensFromRefreshToken", &get_tokens).await["message"], "Refresh token has been rotated");
        assert_eq!(gdh.log().reuse_detected, 1);
        let body = format!("client_id=c&token={}", token.expose());
        assert!(post(&gdh, "/oauth2/revoke", "", &body).await.0.starts_with("HTTP/1.1 200"));
        assert_eq!(gdh.log().outcomes("revoked"), 1);
    }

    #[tokio::test]
    async fn gbdx_speaks_its_own_dialect_in_forms_and_json() {
        let gbdx = StandIn::start(Provider::Gbdx, Options::default()).await.unwrap();
        let (head, refused) =
            post(&gbdx, "/auth/v1/oauth/token/", "", "grant_type=password&username=x&password=y").await;
        assert!(head.starts_with("HTTP/1.1 401"));
        assert_eq!(refused, json!({"Error": "401 Unauthorized: Unauthorized"}));
        let body = json!({"grant_type": "password", "username": USERNAME, "password": PASSWORD}).to_string();
        let (_, tokens) = post(&gbdx, "/auth/v1/oauth/token/", "Content-Type: application/json\r\n", &body).await;
        let body = format!("grant_type=refresh_token&refresh_token={}", text(&tokens, "refresh_token"));
        let (_, renewed) = post(&gbdx, "/auth/v1/oauth/token/", "", &body).await;
        assert_eq!(renewed["refresh_token"], tokens["refresh_token"], "without rotation the old one comes again");
        let bearer = format!("Authorization: Bearer {}\r\n", text(&renewed, "access_token"));
        assert!(get(&gbdx, "/catalog/v2/record/1030010045539700", &bearer).await.1.contains("WORLDVIEW02"));
        assert_eq!(get(&gbdx, "/orders/v2/heartbeat", "").await.1, "\"ok\"");
        let (head, _) = get(&gbdx, "/auth/v1/validate_token", "Authorization: Bearer nonsense\r\n").await;
        assert!(head.starts_with("HTTP/1.1 401") && head.contains("text/html"));
    }

    #[tokio::test]
    async fn both_echo_compress_stream_and_keep_silent() {
        let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
        let (_, tokens) = refresh(&gdh, gdh.sign_in().expose()).await;
        let id = format!("Authorization: {}\r\n", text(&tokens, "id_token"));
        let (_, echo) = post(&gdh, "/echo/%5B?a=[%22b%22]+*", &format!("X-A: 1\r\n{id}"), "abc").await;
        assert_eq!(echo["target"], "/echo/%5B?a=[%22b%22]+*");
        assert_eq!(echo["body"]["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(!echo.to_string().contains(text(&tokens, "id_token")));
        assert!(echo["headers"].as_array().unwrap().contains(&json!(["x-a", "1"])));
        let (head, body) = get(&gdh, "/download/200000", &id).await;
        assert!(head.contains("chunked") && body.matches('x').count() == 200_000);
        assert!(get(&gdh, "/gzip", &id).await.0.contains("content-encoding: gzip"));
        assert!(get(&gdh, "/no-content", &id).await.0.starts_with("HTTP/1.1 204"));
        let mut stream = TcpStream::connect(gdh.address()).await.unwrap();
        stream.write_all(format!("GET /ticks/1 HTTP/1.1\r\nHost: x\r\n{id}\r\n").as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("data: 3\n\n") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn faults_come_as_asked_and_end_as_asked() {
        let gdh =
            StandIn::start(Provider::Gdh, Options { rotation: Rotation::Strict, ..Options::default() }).await.unwrap();
        let token = gdh.sign_in();
        gdh.behave(Behaviour::ResetBefore, Some(1));
        assert_eq!(refresh(&gdh, token.expose()).await.0, "");
        gdh.behave(Behaviour::Status(503, "{}".to_owned(), vec![("Retry-After".to_owned(), "7".to_owned())]), Some(1));
        assert!(refresh(&gdh, token.expose()).await.0.contains("retry-after: 7"));
        gdh.behave(Behaviour::Html, Some(1));
        assert!(refresh(&gdh, token.expose()).await.0.contains("text/html"));
        gdh.behave(Behaviour::SlowDrip(Duration::ZERO), Some(1));
        let (_, tokens) = refresh(&gdh, token.expose()).await;
        gdh.behave(Behaviour::ResetAfter, Some(1));
        assert_eq!(refresh(&gdh, text(&tokens, "refresh_token")).await.0, "");
        assert_eq!(refresh(&gdh, text(&tokens, "refresh_token")).await.1, json!({"error": "invalid_grant"}));
        let log = gdh.until(|log| log.token_calls.len() == 6).await;
        let outcomes: Vec<_> = log.token_calls.iter().map(|call| call.outcome.as_str()).collect();
        assert_eq!(outcomes, ["reset-before", "status", "html", "issued", "issued", "invalid_grant"]);
        assert_eq!((log.reuse_detected, log.most_token_calls_at_once), (1, 1));
    }

    #[tokio::test]
    async fn a_stopped_stand_in_is_gone_and_another_can_take_its_place() {
        let gdh = StandIn::start(Provider::Gdh, Options::default()).await.unwrap();
        let address = gdh.address();
        gdh.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
        let gdh = StandIn::start_on(address, Provider::Gdh, Options::default()).await.unwrap();
        assert!(get(&gdh, "/login", "").await.0.starts_with("HTTP/1.1 200"));
    }
}
