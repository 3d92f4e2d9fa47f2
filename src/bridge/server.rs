//! Requests to the MCP server, through the daemon: one connection for each that runs, kept for the next.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::time::sleep;

use super::chunks::Chunks;
use crate::advice::advised;
use crate::lent::Daemon;
use crate::mcp::NOT_DONE;

const KEY: HeaderName = HeaderName::from_static("x-valetd-key");

/// What is read of a refusal.
const LARGEST_REFUSAL: usize = 64 * 1024;
/// What a person is shown of a refusal that says nothing in words of its own.
const SHOWN: usize = 300;

/// A daemon that is started anew is back within this; one that has never been there is not waited for.
const RESTART: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// Where the server is, as the daemon's configuration says it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The upstream's host and port, which a request names at the socket that is lent.
    pub(crate) authority: String,
    /// Where MCP is spoken.
    pub(crate) path: String,
    /// Whose token is sent.
    pub(crate) account: String,
}

/// The server, as the bridge reaches it.
pub(super) struct Server {
    daemon: Daemon,
    /// Written whenever the daemon has lent something.
    pub(super) place: Rc<RefCell<Option<Place>>>,
    idle: RefCell<Vec<Connection>>,
}

struct Connection {
    sender: SendRequest<Chunks>,
    key: HeaderValue,
}

/// A response whose body is still to come.
pub(super) struct Answer {
    pub(super) head: Response<()>,
    body: Incoming,
    connection: Option<Connection>,
    server: Rc<Server>,
}

/// Why a request has no response that a client could use.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// In a sentence, with what can be done about it.
    pub(super) message: String,
    /// The JSON-RPC error's code.
    pub(super) code: i64,
    /// The HTTP status, if there was one.
    pub(super) status: Option<u16>,
}

impl Failure {
    pub(super) fn say(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: NOT_DONE, status: None }
    }
}

impl Server {
    pub(super) fn new(daemon: Daemon, place: Rc<RefCell<Option<Place>>>) -> Rc<Self> {
        Rc::new(Self { daemon, place, idle: RefCell::default() })
    }

    /// Sends a request, whose path is the server's own unless it has one.
    ///
    /// # Errors
    ///
    /// If it got no response. One that may have been carried out is not sent again.
    pub(super) async fn send(self: &Rc<Self>, mut request: Request<Chunks>) -> Result<Answer, Failure> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            let (mut connection, is_new) = match kept {
                Some(connection) => (connection, false),
                None => (self.connect().await?, true),
            };
            if connection.sender.ready().await.is_err() {
                if is_new {
                    return Err(Failure::say(format!("the daemon closes its connections; see: {}", advised("status"))));
                }
                continue;
            }
            self.address(&mut request, &connection.key)?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let (head, server) = (Response::from_parts(head, ()), self.clone());
                    return Ok(Answer { head, body, connection: Some(connection), server });
                }
                // closed just before: not a byte of the request has been read
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(broken(&error.into_error())),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let mut pauses = RESTART.iter();
        let was_there = self.place.borrow().is_some();
        let (stream, key) = loop {
            let why_not = match self.daemon.connect().await {
                Ok(connected) => break connected,
                Err(why_not) => why_not,
            };
            match pauses.next().filter(|_| was_there) {
                Some(pause) => sleep(*pause).await,
                None => return Err(Failure::say(why_not)),
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(Connection { sender, key })
    }

    fn address(&self, request: &mut Request<Chunks>, key: &HeaderValue) -> Result<(), Failure> {
        let place = self.place.borrow();
        let place = place.as_ref().ok_or_else(|| Failure::say("the daemon has not said where the route leads"))?;
        let wrong = |_| Failure::say(format!("{}{} is no address", place.authority, place.path));
        if request.uri().path() == "/" {
            *request.uri_mut() = place.path.parse().map_err(wrong)?;
        }
        let host = HeaderValue::from_str(&place.authority);
        request.headers_mut().insert(HOST, host.map_err(|_| Failure::say("the upstream's name is no text"))?);
        request.headers_mut().insert(KEY, key.clone());
        Ok(())
    }

    /// Whose token is sent, for advice.
    fn account(&self) -> String {
        self.place.borrow().as_ref().map_or_else(|| "NAME".to_owned(), |place| place.account.clone())
    }
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::say(format!("the connection broke off before there was an answer: {error}"))
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.head.status()
    }

    pub(super) fn is_of_type(&self, kind: &str) -> bool {
        let value = self.head.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind)
    }

    /// What comes next of the body; `None` at its end, when the connection is kept.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Some(Err(error)) => return Err(broken(&error)),
                None => {
                    self.server.idle.borrow_mut().extend(self.connection.take());
                    return Ok(None);
                }
            }
        }
    }

    /// The whole body.
    pub(super) async fn collect(&mut self, most: usize) -> Result<Chunks, Failure> {
        let mut chunks = Chunks::default();
        while let Some(piece) = self.next().await? {
            chunks.push(piece);
            if chunks.len() > most {
                return Err(Failure::say(format!("the MCP server's answer is larger than {most} bytes")));
            }
        }
        Ok(chunks)
    }

    /// The body of a refusal; nothing, if it is no text that a person could be shown.
    pub(super) async fn refusal_text(&mut self) -> Chunks {
        self.collect(LARGEST_REFUSAL).await.unwrap_or_default()
    }

    /// What the client is told instead of a response.
    pub(super) fn refusal(&self, body: &Chunks) -> Failure {
        refusal(self.status(), body, &self.server.account())
    }
}

/// What stands in a refusal: a problem document (RFC 9457), or a JSON-RPC error.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    r#type: Option<String>,
    detail: Option<String>,
    error: Option<RpcError>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RpcError {
    code: Option<i64>,
    message: Option<String>,
}

/// What a refusal means. Says who refuses, and what to do where that is known.
fn refusal(status: StatusCode, body: &Chunks, account: &str) -> Failure {
    let said: Refusal = serde_json::from_reader(body.reader()).unwrap_or_default();
    let mut failure = Failure { status: Some(status.as_u16()), ..Failure::say("") };
    let is_ours = said.r#type.is_some_and(|kind| kind.starts_with("urn:valetd:"));
    failure.message = match (said.detail, said.error.unwrap_or_default()) {
        (Some(detail), _) if is_ours => format!("valetd: {detail}"),
        (_, RpcError { code, message: Some(message) }) => {
            failure.code = code.unwrap_or(failure.code);
            message
        }
        _ if status == StatusCode::UNAUTHORIZED => {
            let login = advised(format_args!("login {account}"));
            format!("the MCP server does not take the token of {account}; sign in again: {login}")
        }
        (detail, _) => {
            let words = detail.unwrap_or_else(|| body.beginning(SHOWN));
            format!("the MCP server answered {status}: {}", words.trim())
        }
    };
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_refuses_and_what_to_do() {
        for (status, body, code, expected) in [
            (
                503,
                r#"{"type":"urn:valetd:problem:sign-in-required","detail":"Run: valetd login lab"}"#,
                -32000,
                "valetd: Run: valetd login lab",
            ),
            (
                400,
                r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"no session"},"id":null}"#,
                -32600,
                "no session",
            ),
            (401, "", -32000, "the MCP server does not take the token of lab; sign in again: valetd login lab"),
            (500, "<html>oops\n", -32000, "the MCP server answered 500 Internal Server Error: <html>oops"),
            (
                429,
                r#"{"type":"about:blank","detail":"slow down"}"#,
                -32000,
                "the MCP server answered 429 Too Many Requests: slow down",
            ),
        ] {
            let failure = refusal(StatusCode::from_u16(status).unwrap(), &Chunks::from(body.to_owned()), "lab");
            assert_eq!((failure.code, failure.message.as_str(), failure.status), (code, expected, Some(status)));
        }
    }
}
