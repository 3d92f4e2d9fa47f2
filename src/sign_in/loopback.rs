//! The redirect URI's listener on loopback (RFC 8252 section 7.3): waits for the browser to come back.
//!
//! Whatever else comes (favicons, prefetchers, scanners, another sign-in's answer) is answered and changes nothing. The
//! browser that brings the response is held until what it brought is kept or refused, so that its page tells the truth, and is
//! then sent to a clean address, so that no code stays in an address bar, a history or a picture of the screen. It is served on
//! a thread of its own: the command, meanwhile, asks its terminal, waits for the store, and talks to the daemon.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HeaderName, HeaderValue, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::authorization_response::AuthorizationResponse;
use super::browser_request::{Asked, Expected, RESULT_PATH, judge};
use super::page::{self, Ending};
use crate::config::{LoopbackHost, LoopbackRedirect};
use crate::platform::io_error::words;
use crate::platform::listeners::occupant;
use crate::platform::peer::{PeerLookup, own_uid};
use crate::platform::users::shown_for_others;

/// For a request's head: a browser on the same machine takes milliseconds; somebody who dawdles keeps nobody out.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// The longest head: an address with a code and a state has a few thousand bytes at the most, but the cookies of every program
/// on this machine that has ever answered the browser on any port come along.
const LARGEST_HEAD: usize = 64 * 1024;
/// How long the browser is held: about as long as people wait for a page without reloading it.
const HOLD: Duration = Duration::from_secs(15);
/// How long the browser may take to fetch the page of the result: it is sent there by the response before.
const LAST_PAGE: Duration = Duration::from_secs(2);
/// Connections at a time: a browser opens a few, some of them ahead of a request that never comes.
const MOST_CONNECTIONS: usize = 32;
/// How often another port is tried where one is free in one address family and taken in the other.
const TRIES: usize = 16;

/// Sockets that are bound, before anything is said of them.
#[derive(Debug)]
pub(super) struct Loopback {
    listeners: Vec<TcpListener>,
    redirect: LoopbackRedirect,
    port: u16,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotListen {
    /// The redirect's own port is taken; no other would do, as the server compares it.
    #[error("port {port} of the redirect is taken{}", .by.as_ref().map(|by| format!(": by {by}")).unwrap_or_default())]
    Taken {
        port: u16,
        /// By whom, as far as that is known.
        by: Option<String>,
    },
    #[error("cannot listen on {address}: {why}")]
    System { address: IpAddr, why: String },
}

impl Loopback {
    /// Binds the redirect's port, or any that is free. For `localhost` both 127.0.0.1 and ::1 are held at one port where
    /// there is IPv6: the browser takes either, and another process could take the code at the other.
    pub(super) async fn bind(redirect: &LoopbackRedirect) -> Result<Self, CannotListen> {
        let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        let (first, second) = match redirect.host {
            LoopbackHost::V4 => (v4, None),
            LoopbackHost::V6 => (v6, None),
            LoopbackHost::Localhost => (v4, Some(v6)),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let listener = bind(first, redirect.port.unwrap_or(0)).await?;
            let port = listener.local_addr().map_err(|error| system(first, &error))?.port();
            let mut listeners = vec![listener];
            match second {
                None => {}
                Some(second) => match TcpListener::bind(SocketAddr::new(second, port)).await {
                    Ok(listener) => listeners.push(listener),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        if redirect.port.is_some() || tries >= TRIES {
                            return Err(taken(second, port));
                        }
                        continue;
                    }
                    Err(_) => {} // there is no IPv6 here, so no browser comes by it
                },
            }
            return Ok(Self { listeners, redirect: redirect.clone(), port });
        }
    }

    /// The redirect URI that the browser is sent to.
    pub(super) fn redirect_uri(&self) -> String {
        self.redirect.uri(Some(self.port))
    }

    /// The port.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Begins to answer: to the sign-in to an account of this title, whose request has this state.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub(super) fn serve(self, title: String, state: &str) -> io::Result<Serving> {
        let expected = Expected {
            authority: format!("{}:{}", self.redirect.host.name(), self.port),
            path: self.redirect.path.clone(),
            state: state.to_owned(),
        };
        let (arrived, arrivals) = mpsc::channel(1);
        let (fetched, page_fetched) = watch::channel(false);
        let ending = watch::Sender::new(Ending::Redeeming);
        let desk = Arc::new(Desk { expected, title, arrived, ending: ending.clone(), fetched });
        // they leave the runtime that they were bound in
        let listeners: Vec<_> = self.listeners.into_iter().map(TcpListener::into_std).collect::<io::Result<_>>()?;
        let (ends, ended) = oneshot::channel::<Infallible>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("redirect".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listeners) = listeners.into_iter().map(TcpListener::from_std).collect() else { return };
                tokio::select! {
                    () = accept(listeners, desk) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Serving { arrivals, page: LastPage { ending, page_fetched, has_arrived: false, _ends: ends } })
    }
}

async fn bind(address: IpAddr, port: u16) -> Result<TcpListener, CannotListen> {
    TcpListener::bind(SocketAddr::new(address, port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => taken(address, port),
        _ => system(address, &error),
    })
}

fn taken(address: IpAddr, port: u16) -> CannotListen {
    CannotListen::Taken { port, by: occupant(SocketAddr::new(address, port)).map(|occupant| occupant.to_string()) }
}

fn system(address: IpAddr, error: &io::Error) -> CannotListen {
    CannotListen::System { address, why: words(error) }
}

/// A listener at work. Dropping it ends it, with all its connections.
pub(super) struct Serving {
    arrivals: mpsc::Receiver<AuthorizationResponse>,
    page: LastPage,
}

/// The page that the browser is shown at the end. Dropping it ends the listener.
pub(crate) struct LastPage {
    ending: watch::Sender<Ending>,
    page_fetched: watch::Receiver<bool>,
    has_arrived: bool,
    /// The listener's thread ends when this is dropped.
    _ends: oneshot::Sender<Infallible>,
}

impl Serving {
    /// Waits for the response with our state. Safe to drop and to call again.
    pub(super) async fn arrival(&mut self) -> AuthorizationResponse {
        match self.arrivals.recv().await {
            Some(response) => {
                self.page.has_arrived = true;
                response
            }
            None => std::future::pending().await, // the listener lives as long as this
        }
    }

    /// Nothing more is waited for; the browser, if it came, still is to be told.
    pub(super) fn page(self) -> LastPage {
        self.page
    }
}

impl LastPage {
    /// Tells the browser how it ended, if it came, and lets it fetch that page. In any runtime.
    pub(crate) async fn conclude(mut self, ending: Ending) {
        self.ending.send_replace(ending);
        if self.has_arrived {
            let _ = timeout(LAST_PAGE, self.page_fetched.wait_for(|fetched| *fetched)).await;
        }
    }
}

/// What all connections share.
struct Desk {
    expected: Expected,
    title: String,
    arrived: mpsc::Sender<AuthorizationResponse>,
    ending: watch::Sender<Ending>,
    /// Whether the page of a result that is certain has gone out whole.
    fetched: watch::Sender<bool>,
}

async fn accept(listeners: Vec<TcpListener>, desk: Arc<Desk>) {
    let mut peers = PeerLookup::new();
    let mut seats = Seats::default();
    let mut connections = JoinSet::new(); // cut when this is aborted
    loop {
        let Ok((stream, client)) = next(&listeners).await else {
            tokio::time::sleep(Duration::from_millis(50)).await; // no descriptors left: somebody closes one soon
            continue;
        };
        while connections.try_join_next().is_some() {}
        let owner = stream.local_addr().ok().and_then(|server| peers.tcp_uid(client, server));
        if is_another_persons(owner, own_uid(), shown_for_others()) || !seats.make_room() {
            continue; // closed at once
        }
        let has_asked = Arc::new(AtomicBool::new(false));
        let task = connections.spawn(serve(stream, desk.clone(), has_asked.clone()));
        seats.0.push_back(Seat { task, has_asked });
    }
}

/// The next connection of any of them.
async fn next(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        let mut accepted = listeners.iter().map(|listener| listener.poll_accept(context));
        accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// Whether a connection is another person's for certain. Root's may be the browser's: WSL and container engines bring it here by
/// a program of theirs. Whose it is may not be told, as of another user namespace (`others`): then the `state` has to do. Pure.
fn is_another_persons(owner: Option<u32>, us: u32, others: Option<u32>) -> bool {
    owner.is_some_and(|owner| owner != us && owner != 0 && Some(owner) != others)
}

/// The connections that are open, the oldest first.
#[derive(Default)]
struct Seats(VecDeque<Seat>);

struct Seat {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

impl Seats {
    /// Makes room for one more, if need be in the place of the oldest that has asked nothing yet. Returns whether there is.
    fn make_room(&mut self) -> bool {
        self.0.retain(|seat| !seat.task.is_finished());
        if self.0.len() < MOST_CONNECTIONS {
            return true;
        }
        let idle = self.0.iter().position(|seat| !seat.has_asked.load(Ordering::Relaxed));
        let oldest = idle.and_then(|at| self.0.remove(at));
        oldest.inspect(|seat| seat.task.abort()).is_some()
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, desk: Arc<Desk>, has_asked: Arc<AtomicBool>) {
    let shows_result = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        let (desk, shows_result) = (desk.clone(), &shows_result);
        async move { Ok::<_, Infallible>(answer(&desk, request, shows_result).await) }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(LARGEST_HEAD);
    let whole = HEAD_LIMIT + HOLD + HEAD_LIMIT;
    let _ = timeout(whole, http.serve_connection(TokioIo::new(stream), service)).await; // whoever leaves, leaves
    if shows_result.load(Ordering::Relaxed) {
        desk.fetched.send_replace(true); // not earlier: the process may end by it, and the page must be out
    }
}

async fn answer(desk: &Desk, request: Request<Incoming>, shows_result: &AtomicBool) -> Response<Full<Bytes>> {
    match judge(request.method(), request.uri(), request.headers(), &desk.expected) {
        Asked::Response(response) => {
            // the first one counts; a page that is loaded again is shown what became of it
            let _ = desk.arrived.try_send(response);
            let mut ending = desk.ending.subscribe();
            let _ = timeout(HOLD, ending.wait_for(|ending| *ending != Ending::Redeeming)).await;
            let mut response = page(StatusCode::SEE_OTHER, String::new());
            response.headers_mut().insert(LOCATION, HeaderValue::from_static(RESULT_PATH));
            response
        }
        Asked::Result => {
            let ending = desk.ending.borrow().clone();
            shows_result.store(ending != Ending::Redeeming, Ordering::Relaxed);
            page(StatusCode::OK, page::ending(&desk.title, &ending))
        }
        Asked::Foreign => page(StatusCode::BAD_REQUEST, page::foreign()),
        Asked::Favicon => page(StatusCode::NO_CONTENT, String::new()),
        Asked::OtherMethod => {
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "Only GET is answered here.");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            response
        }
        Asked::NoNavigation => refusal(StatusCode::FORBIDDEN, "Only a page that is opened is answered here."),
        Asked::OtherHost => refusal(StatusCode::MISDIRECTED_REQUEST, "This is not the host that was asked for."),
        Asked::Nothing => refusal(StatusCode::NOT_FOUND, "There is no page at this address."),
    }
}

fn refusal(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    page(status, page::nothing_here(words))
}

fn page(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    for (name, value) in page::FIELDS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::authorization_response::Outcome;
    use super::*;
    use crate::secret::Secret;

    async fn listening(host: LoopbackHost) -> (Serving, SocketAddr, String) {
        let redirect = LoopbackRedirect { host, ..LoopbackRedirect::default() };
        let loopback = Loopback::bind(&redirect).await.unwrap();
        let address = loopback.listeners[0].local_addr().unwrap();
        let authority = loopback.redirect_uri()["http://".len()..].trim_end_matches("/callback").to_owned();
        (loopback.serve("lab".to_owned(), "s1").unwrap(), address, authority)
    }

    async fn get(address: SocketAddr, authority: &str, target: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn status(answer: &str) -> &str {
        &answer["HTTP/1.1 ".len()..][..3]
    }

    #[tokio::test]
    async fn the_browser_is_held_until_the_end_is_known_and_then_sent_to_a_page_that_says_it() {
        let (mut serving, address, authority) = listening(LoopbackHost::V4).await;
        let browser = tokio::spawn(async move {
            let first = get(address, &authority, "/callback?code=c&state=s1").await;
            (first, get(address, &authority, RESULT_PATH).await)
        });
        let response = serving.arrival().await;
        assert_eq!(response.outcome, Outcome::Code(Secret::new("c")));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!browser.is_finished(), "it was not held");
        serving.page().conclude(Ending::SignedIn { who: Some("ada".to_owned()) }).await;
        let (first, second) = browser.await.unwrap();
        assert_eq!((status(&first), status(&second)), ("303", "200"));
        assert!(first.contains(&format!("\r\nlocation: {RESULT_PATH}\r\n")) && !first.contains("code=c"), "{first}");
        assert!(second.contains("Signed in") && second.contains("<b>ada</b>"), "{second}");
        for (name, value) in page::FIELDS {
            assert!(second.contains(&format!("\r\n{name}: {value}\r\n")), "{name}: {second}");
        }
    }

    #[tokio::test]
    async fn noise_and_strangers_are_answered_and_end_nothing() {
        let (mut serving, address, authority) = listening(LoopbackHost::Localhost).await;
        let rows = [
            ("/favicon.ico", "204", ""),
            ("/", "404", "no page at this address"),
            ("/callback", "400", "not the sign-in that is waiting"),
            ("/callback?code=c&state=other", "400", "not the sign-in that is waiting"),
            ("/callback?error=access_denied&state=other", "400", "not the sign-in that is waiting"),
        ];
        for (target, expected, words) in rows {
            let answer = get(address, &authority, target).await;
            assert!(status(&answer) == expected && answer.contains(words), "{target}: {answer}");
        }
        let rebound = get(address, "evil.example", "/callback?code=c&state=s1").await;
        assert_eq!(status(&rebound), "421");
        let long = get(address, &authority, &format!("/callback?code={}&state=s1", "c".repeat(80_000))).await;
        assert_eq!(status(&long), "414");
        assert!(timeout(Duration::from_millis(50), serving.arrival()).await.is_err(), "something ended the wait");
    }

    #[tokio::test]
    async fn localhost_is_held_in_both_families_and_a_taken_port_is_said_with_its_holder() {
        let any = LoopbackRedirect { host: LoopbackHost::Localhost, ..LoopbackRedirect::default() };
        let loopback = Loopback::bind(&any).await.unwrap();
        let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok();
        assert_eq!(loopback.listeners.len(), if has_v6 { 2 } else { 1 });
        let fixed = LoopbackRedirect { port: Some(loopback.port()), ..any };
        let error = Loopback::bind(&fixed).await.unwrap_err();
        let words = error.to_string();
        assert!(
            words.starts_with(&format!("port {} of the redirect is taken: by process", loopback.port())),
            "{words}"
        );
    }

    #[tokio::test]
    async fn connections_that_ask_nothing_keep_nobody_out() {
        let (mut serving, address, authority) = listening(LoopbackHost::V4).await;
        let mut idle = Vec::new();
        for _ in 0..3 * MOST_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let browser = tokio::spawn(async move { get(address, &authority, "/callback?code=c&state=s1").await });
        let arrived = timeout(HEAD_LIMIT / 2, serving.arrival()).await.expect("the browser is kept out");
        assert_eq!(arrived.outcome, Outcome::Code(Secret::new("c")));
        // the oldest have gone
        let mut byte = [0];
        let gone = timeout(HEAD_LIMIT / 2, idle[0].read(&mut byte)).await.expect("the oldest is kept");
        assert!(matches!(gone, Ok(0) | Err(_)), "{gone:?}");
        serving.page().conclude(Ending::SignedIn { who: None }).await;
        assert_eq!(status(&browser.await.unwrap()), "303");
    }

    #[test]
    fn a_connection_is_another_persons_where_that_is_certain() {
        let rows = [
            ("ours", Some(1000), None, false),
            ("root's: a relay of WSL's, say", Some(0), None, false),
            ("another user's", Some(1001), None, true),
            ("nobody's, where that is a user", Some(65534), None, true),
            ("from outside of our user namespace", Some(65534), Some(65534), false),
            ("not to be told", None, None, false),
        ];
        for (case, owner, others, expected) in rows {
            assert_eq!(is_another_persons(owner, 1000, others), expected, "{case}");
        }
    }

    #[tokio::test]
    async fn another_users_connection_is_closed_at_once() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can play another user");
            return;
        }
        let (_serving, address, _) = listening(LoopbackHost::V4).await;
        let another = tokio::task::spawn_blocking(move || {
            let nobody = rustix::process::Uid::from_raw(65534);
            std::thread::spawn(move || {
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may be anybody");
                std::net::TcpStream::connect(address)
            })
            .join()
            .expect("no panic")
        });
        let another = another.await.unwrap().unwrap();
        another.set_nonblocking(true).unwrap();
        let mut another = TcpStream::from_std(another).unwrap();
        let mut byte = [0];
        let closed = timeout(HEAD_LIMIT / 2, another.read(&mut byte)).await.expect("it is kept");
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}
