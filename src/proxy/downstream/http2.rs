//! HTTP/2 from clients, by prior knowledge and in the clear (RFC 9113 section 3.3), as gRPC's tools speak it on loopback.
//!
//! To the rest of the house a request is a request: its head comes in HTTP/1.1's terms, and its stream looks like a
//! connection of its own, with an activity, a limit and an end. A stream that ends early is reset, and takes its exchange with
//! the upstream along; a response that breaks off upstream resets its stream with the upstream's own reason.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tracing::debug;

use crate::proxy::connection::{Connection, Stream};
use crate::proxy::deadline::{Activity, IdleTimer, Phase};
use crate::proxy::downstream::gate::GatedIo;
use crate::proxy::downstream::io::ClientIo;
use crate::proxy::exchange::accounting::Counted;
use crate::proxy::exchange::service;
use crate::proxy::policy::error::ProxyError;
use crate::proxy::registry::ClientState;

/// Requests that one connection may have open; browsers' and gRPC's clients ask for about a hundred.
const MOST_STREAMS: u32 = 256;

/// Streams that all connections of a worker may have open together, as far as each keeps its least.
const ALL_STREAMS: i64 = 1024;

/// Streams that a connection may have open however many others there are.
const LEAST_STREAMS: u32 = 8;

/// Streams that a stranger is told it may have open once it has shown a client key.
const STRANGERS_STREAMS: u32 = 100;

/// What a client may send on one stream before we have passed it on: memory that a stalled upstream costs.
const STREAM_WINDOW: u32 = 256 * 1024;

/// What it may send on all streams, for each that it may open: 16 MiB for the first connection, so that sixty stalled
/// uploads leave room for the others, and 64 MiB for all.
const WINDOW_SHARE: u32 = 64 * 1024;

/// What is kept of a response for a client that does not read it.
const SEND_BUFFER: usize = 64 * 1024;

/// As many as HTTP/1.1's reader takes.
const MOST_FIELDS: usize = 100;

/// As long as HTTP/1.1's reader takes (RFC 9113 section 6.5.2: names, values, and 32 bytes for each field).
const LONGEST_HEAD: u32 = 64 * 1024;

/// Serves a connection until either side ends it. A client without streams is asked to go once it has been silent for as
/// long as one that speaks HTTP/1.1 may be.
pub(crate) async fn serve(connection: Rc<Connection>, io: ClientIo, budget: Rc<StreamBudget>) {
    let activity = connection.activity.clone();
    activity.enter(Phase::Resting);
    let streams = Streams::default();
    let service = service_fn(|request| {
        let stream = streams.open(&connection);
        async move { Ok::<_, Infallible>(answer(stream, request).await) }
    });
    let mut share = Share::new(&connection, budget);
    // what a flood of resets or of broken frames may cost is limited by hyper's defaults
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .max_concurrent_streams(share.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(share.streams * WINDOW_SHARE)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(LONGEST_HEAD);
    let mut serving = pin!(
        builder.serve_connection(TokioIo::new(GatedIo::new(io.unobserved(), &connection, &streams.open)), service)
    );
    let mut timer = IdleTimer::new(activity.deadline());
    let mut asked_to_go = false;
    let ended = poll_fn(|cx| {
        if connection.handle.is_doubted() {
            streams.running.borrow().iter().for_each(|stream| stream.look_at_authority());
        }
        if connection.handle.is_told_to_stop(cx, false) {
            serving.as_mut().graceful_shutdown();
        }
        match connection.handle.client_state() {
            ClientState::Admitted => share.is_used(),
            ClientState::TurnedAway if !asked_to_go => {
                asked_to_go = true;
                serving.as_mut().graceful_shutdown();
            }
            ClientState::Stranger | ClientState::TurnedAway | ClientState::Closed => {}
        }
        loop {
            if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            ready!(timer.poll_expired(cx, &activity));
            if streams.open.get() > 0 {
                continue;
            }
            if asked_to_go {
                return Poll::Ready(Ok(()));
            }
            asked_to_go = true;
            serving.as_mut().graceful_shutdown();
        }
    })
    .await;
    if let Err(error) = ended {
        debug!(%error, "a client's connection ended");
    }
}

/// What the HTTP/2 connections of one worker hold together, in streams: memory is bounded by what they may open.
#[derive(Default)]
pub(crate) struct StreamBudget {
    used: Cell<i64>,
}

/// One connection's share: a quarter of what the others have left, within bounds. A stranger has one as well, but it counts
/// only from a valid client key on, so that strangers make nobody else's smaller.
struct Share {
    budget: Rc<StreamBudget>,
    streams: u32,
    is_used: bool,
}

impl Share {
    fn new(connection: &Connection, budget: Rc<StreamBudget>) -> Self {
        let most =
            if connection.handle.client_state() == ClientState::Admitted { MOST_STREAMS } else { STRANGERS_STREAMS };
        let streams = share(budget.used.get()).min(most);
        Self { budget, streams, is_used: false }
    }

    /// From here on it is not there for others.
    fn is_used(&mut self) {
        if !self.is_used {
            self.is_used = true;
            let used = &self.budget.used;
            used.set(used.get() + i64::from(self.streams));
        }
    }
}

/// The streams of one more connection, when so many are used.
fn share(used: i64) -> u32 {
    u32::try_from((ALL_STREAMS - used) / 4).unwrap_or_default().clamp(LEAST_STREAMS, MOST_STREAMS)
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.is_used {
            let used = &self.budget.used;
            used.set(used.get() - i64::from(self.streams));
        }
    }
}

async fn answer(stream: Rc<Stream>, mut request: Request<Incoming>) -> Response<StreamBody> {
    let activity = stream.activity.clone();
    let is_head = *request.method() == Method::HEAD;
    let mut response = if request.headers().len() > MOST_FIELDS {
        let connection = &stream.connection;
        connection.worker.stats.refused.add(1);
        if connection.handle.client_state() != ClientState::Admitted {
            connection.turn_away();
        }
        let table = connection.worker.table();
        let refusal = ProxyError::HeadTooLarge.into_response(&connection.advice(&table.shared, None));
        refusal.map(Counted::without_exchange)
    } else {
        in_http1_terms(&mut request);
        service::answer(stream, request).await
    };
    response.headers_mut().remove(CONNECTION); // a stream can end without the connection
    // hyper leaves that to us: content in response to HEAD makes a stream malformed (RFC 9113 section 8.1.1)
    response.map(|body| StreamBody { body: if is_head { body.without_content() } else { body }, activity })
}

/// Says in HTTP/1.1's terms what HTTP/2 says otherwise: to whom, how long the body is, and the cookies in one field (RFC
/// 9113 sections 8.1.1, 8.2.3 and 8.3.1). `Host`, where there is one, stays: that it agrees with `:authority` is checked
/// with the rest.
fn in_http1_terms<B: Body>(request: &mut Request<B>) {
    let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let has_body = !request.body().is_end_stream();
    // without a length, HTTP/1.1 servers answer 411 to these (RFC 9110 sections 8.6 and 15.5.12)
    let expects_content = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    let headers = request.headers_mut();
    if let Some(authority) = authority
        && !headers.contains_key(HOST)
    {
        headers.insert(HOST, authority);
    }
    match (has_body, headers.contains_key(CONTENT_LENGTH)) {
        (_, true) => {}
        (true, false) => drop(headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
        (false, false) if expects_content => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"))),
        (false, false) => {}
    }
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, cookie);
        }
    }
}

/// Runs what hyper makes of each stream, and watches over it.
#[derive(Clone, Default)]
struct Streams {
    /// How many are open.
    open: Rc<Cell<usize>>,
    /// Those that are.
    running: Rc<RefCell<Vec<Rc<Stream>>>>,
    /// The stream whose task hyper is about to start: it does so before it asks for the next.
    opened: Rc<RefCell<Option<OpenStream>>>,
}

/// A stream that is counted as open until this is dropped.
struct OpenStream {
    stream: Rc<Stream>,
    open: Rc<Cell<usize>>,
    running: Rc<RefCell<Vec<Rc<Stream>>>>,
}

impl Streams {
    fn open(&self, connection: &Rc<Connection>) -> Rc<Stream> {
        let stream = Stream::new(connection.clone(), Activity::new());
        self.open.set(self.open.get() + 1);
        self.running.borrow_mut().push(stream.clone());
        self.opened.replace(Some(OpenStream {
            stream: stream.clone(),
            open: self.open.clone(),
            running: self.running.clone(),
        }));
        stream
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let connection = &self.stream.connection;
        self.open.set(self.open.get() - 1);
        let mut running = self.running.borrow_mut();
        if let Some(at) = running.iter().position(|stream| Rc::ptr_eq(stream, &self.stream)) {
            running.swap_remove(at);
        }
        connection.activity.renew();
        if connection.handle.client_state() == ClientState::TurnedAway {
            connection.handle.wake();
        }
    }
}

impl<T: Future<Output = ()> + 'static> Executor<T> for Streams {
    fn execute(&self, task: T) {
        match self.opened.take() {
            Some(stream) => tokio::task::spawn_local(watch_over(stream, task)),
            None => tokio::task::spawn_local(task),
        };
    }
}

/// Runs a stream's task to its end, or drops it when the exchange has passed its limit, which resets the stream.
async fn watch_over(open: OpenStream, task: impl Future<Output = ()>) {
    let stream = &open.stream;
    let mut task = pin!(task);
    let mut timer = IdleTimer::new(stream.activity.deadline());
    poll_fn(|cx| {
        stream.is_served_by(cx.waker());
        if stream.is_to_be_cut() {
            debug!("an answer was cut: its client key or its account has ended");
            return Poll::Ready(());
        }
        loop {
            if task.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if stream.is_to_be_cut_now() {
                debug!("an answer was cut: its client key or its account has ended, and its client takes nothing");
                return Poll::Ready(());
            }
            timer.follow(&stream.activity);
            match ready!(timer.poll_expired(cx, &stream.activity)) {
                // the request says so itself, the next time it is asked
                Phase::Waiting if stream.activity.time_out() => {}
                phase => {
                    debug!(?phase, "a client's stream timed out");
                    return Poll::Ready(());
                }
            }
        }
    })
    .await;
}

/// A response's body, whose frames mark the stream's activity as bytes mark a connection's.
struct StreamBody {
    body: Counted,
    activity: Arc<Activity>,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = <Counted as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.activity.mark();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn however_many_connections_there_are_each_has_its_least_and_all_have_no_more_than_there_is() {
        let mut used = 0;
        for connection in 0..1000 {
            let streams = share(used);
            used += i64::from(streams);
            assert!((LEAST_STREAMS..=MOST_STREAMS).contains(&streams));
            assert!(used <= ALL_STREAMS + i64::from(LEAST_STREAMS) * connection, "{connection}");
        }
        assert_eq!((share(0), share(256)), (256, 192));
    }

    #[test]
    fn a_head_says_the_same_in_http1_terms() {
        let request =
            Request::builder().uri("http://localhost:8253/lab/x").header("cookie", "a=b").header("cookie", "c");
        let mut request = request.body(Full::new(Bytes::from_static(b"x"))).unwrap();
        in_http1_terms(&mut request);
        let headers = request.headers();
        assert_eq!(headers.get_all(HOST).iter().collect::<Vec<_>>(), ["localhost:8253"]);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=b; c"]);
        assert_eq!(headers[TRANSFER_ENCODING], "chunked");

        let request = Request::builder().uri("http://localhost:8253/").header("host", "other");
        let mut request = request.body(Empty::<Bytes>::new()).unwrap();
        in_http1_terms(&mut request);
        assert_eq!(request.headers()[HOST], "other", "not ours to correct");
        assert!(!request.headers().contains_key(TRANSFER_ENCODING));

        for (method, expected) in [
            ("POST", Some("0")),
            ("PUT", Some("0")),
            ("PATCH", Some("0")),
            ("GET", None),
            ("HEAD", None),
            ("DELETE", None),
            ("OPTIONS", None),
            ("PROPFIND", None),
        ] {
            let mut request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
            in_http1_terms(&mut request);
            let length = request.headers().get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
            assert_eq!(length, expected.map(str::as_bytes), "{method}");
        }

        let mut request =
            Request::builder().uri("/").header("content-length", "1").body(Full::new(Bytes::from("x"))).unwrap();
        in_http1_terms(&mut request);
        assert!(!request.headers().contains_key(TRANSFER_ENCODING) && !request.headers().contains_key(HOST));
    }
}
