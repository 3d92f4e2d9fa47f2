//! An MCP server behind both APIs: Streamable HTTP at `/mcp`, HTTP+SSE (2024-11-05) at `/sse`.
//!
//! Its tools: `echo` (the text in its arguments), `large` (so many bytes, in events), `steps` (progress before the result,
//! with a pause), `broken` (the stream ends before the result, which comes to whoever asks for what is after its event), and
//! `scoped` (403, `insufficient_scope`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::body::{Body, Reply, json_reply, text_reply, with_type};

/// What an MCP server remembers.
#[derive(Clone, Default, Debug)]
pub struct McpLog {
    /// The messages that came, in their order: a method, or `response`.
    pub messages: Vec<String>,
    /// How many sessions were begun.
    pub begun: u64,
    /// Those that a client has ended.
    pub ended: Vec<String>,
    /// The `MCP-Protocol-Version` fields that were seen.
    pub versions: BTreeSet<String>,
    /// The sessions that there are.
    pub(super) sessions: BTreeSet<String>,
    /// Whether the tool `scoped` is served.
    pub(super) has_scope: bool,
    /// What comes after an event.
    rest: BTreeMap<String, Value>,
    /// What the streams of HTTP+SSE still have to say.
    outboxes: BTreeMap<String, VecDeque<Value>>,
}

/// The server.
#[derive(Default)]
pub(super) struct McpServer(Mutex<McpLog>);

impl McpServer {
    /// Never held across an await.
    pub(super) fn log(&self) -> MutexGuard<'_, McpLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The largest tool result is made of pieces of this.
const PIECE: usize = 64 * 1024;

/// Whether a path is the MCP server's.
pub(super) fn is_its(path: &str) -> bool {
    ["/mcp", "/sse", "/messages"].contains(&path)
}

/// What is said to whoever has no good token.
pub(super) fn unauthorized(url: &str) -> Reply {
    let mut reply = json_reply(401, &json!({"error": "invalid_token"}));
    let metadata = format!("{url}/.well-known/oauth-protected-resource/mcp");
    let challenge = format!("Bearer error=\"invalid_token\", resource_metadata=\"{metadata}\"");
    reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::try_from(challenge).expect("a URL is text"));
    reply
}

/// Metadata that anybody may read (RFC 9728), which leads clients to a server of their own.
pub(super) fn public(parts: &Parts, url: &str) -> Option<Reply> {
    let path = parts.uri.path();
    let is_metadata = path.starts_with("/.well-known/oauth-");
    is_metadata.then(|| json_reply(200, &json!({"resource": format!("{url}/mcp"), "authorization_servers": [url]})))
}

pub(super) async fn answer(server: &Arc<McpServer>, parts: &Parts, body: Incoming) -> io::Result<Reply> {
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let field = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let Some(version) = field("mcp-protocol-version") {
        server.log().versions.insert(version);
    }
    let session = field("mcp-session-id");
    Ok(match (parts.method.as_str(), parts.uri.path()) {
        ("GET", "/sse") => older_stream(server),
        ("POST", "/messages") => older_message(server, parts.uri.query().unwrap_or_default(), &body),
        ("POST", "/mcp") => message(server, session, &body),
        (_, "/sse" | "/messages") => text_reply(405, "text/plain", "not here"),
        (method, _) => {
            let Some(session) = session.filter(|session| server.log().sessions.contains(session)) else {
                return Ok(no_session());
            };
            match method {
                "GET" => listen(server, field("last-event-id")),
                "DELETE" => {
                    let log = &mut server.log();
                    log.sessions.remove(&session);
                    log.ended.push(session);
                    text_reply(200, "text/plain", "")
                }
                _ => text_reply(405, "text/plain", "not here"),
            }
        }
    })
}

fn no_session() -> Reply {
    let error = json!({"code": -32001, "message": "Session not found"});
    json_reply(404, &json!({"jsonrpc": "2.0", "id": null, "error": error}))
}

fn message(server: &McpServer, session: Option<String>, body: &[u8]) -> Reply {
    let Ok(message) = serde_json::from_slice::<Value>(body) else { return text_reply(400, "text/plain", "no JSON") };
    let begins = message["method"] == "initialize";
    let log = &mut *server.log();
    if !begins && !session.is_some_and(|session| log.sessions.contains(&session)) {
        return no_session();
    }
    let result = result(log, &message);
    let mut reply = match result {
        None => text_reply(202, "text/plain", ""),
        Some(Outcome::At(result)) => json_reply(200, &response(&message, result)),
        Some(Outcome::Steps { count, pause }) => steps(&message, count, pause),
        Some(Outcome::Large(length)) => large(&message, length),
        Some(Outcome::Broken(event)) => {
            log.rest.insert(event.clone(), response(&message, text("late")));
            in_events(vec![format!("id: {event}\nretry: 10\ndata:\n\n").into()])
        }
        Some(Outcome::Scoped) => {
            let mut reply = text_reply(403, "text/plain", "more scope is needed");
            let challenge = "Bearer error=\"insufficient_scope\", scope=\"files:read files:write\"";
            reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            reply
        }
    };
    if begins {
        log.begun += 1;
        let session = format!("session-{}", log.begun);
        reply.headers_mut().insert("mcp-session-id", HeaderValue::try_from(&session).expect("letters and digits"));
        log.sessions.insert(session);
    }
    reply
}

/// What becomes of a request.
enum Outcome {
    At(Value),
    Steps { count: u64, pause: Duration },
    Large(usize),
    Broken(String),
    Scoped,
}

/// `None` if there is nothing to answer.
fn result(log: &mut McpLog, message: &Value) -> Option<Outcome> {
    let method = message["method"].as_str().unwrap_or("response");
    log.messages.push(method.to_owned());
    if message["id"].is_null() || method == "response" {
        return None;
    }
    let (params, arguments) = (&message["params"], &message["params"]["arguments"]);
    let number = |name: &str| arguments[name].as_u64().unwrap_or_default();
    Some(match (method, params["name"].as_str().unwrap_or_default()) {
        ("initialize", _) => Outcome::At(json!({
            "protocolVersion": params["protocolVersion"].as_str().unwrap_or("2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "stand-in", "version": "1"},
        })),
        ("tools/list", _) => Outcome::At(json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})),
        ("tools/call", "echo") => Outcome::At(text(arguments["text"].as_str().unwrap_or_default())),
        ("tools/call", "large") => Outcome::Large(usize::try_from(number("bytes")).unwrap_or_default()),
        ("tools/call", "steps") => {
            Outcome::Steps { count: number("count"), pause: Duration::from_millis(number("pause")) }
        }
        ("tools/call", "broken") => Outcome::Broken(format!("event-{}", log.messages.len())),
        ("tools/call", "scoped") if log.has_scope => Outcome::At(text("granted")),
        ("tools/call", "scoped") => Outcome::Scoped,
        _ => Outcome::At(json!({})),
    })
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn response(message: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": message["id"], "result": result})
}

fn event(message: &Value) -> Bytes {
    format!("event: message\ndata: {message}\n\n").into()
}

fn in_events(pieces: Vec<Bytes>) -> Reply {
    let mut pieces = pieces.into_iter();
    with_type(Response::new(Body::pieces(move || pieces.next())), "text/event-stream")
}

fn steps(message: &Value, count: u64, pause: Duration) -> Reply {
    let (mut step, last) = (0, event(&response(message, text("done"))));
    let body = Body::pieces(move || {
        step += 1;
        let params = json!({"progressToken": 1, "progress": step});
        match step {
            _ if step <= count => {
                Some(event(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})))
            }
            _ => (step == count + 1).then(|| last.clone()),
        }
    });
    with_type(Response::new(body.paced(pause)), "text/event-stream")
}

/// As a server that does not hold it at once.
fn large(message: &Value, length: usize) -> Reply {
    let whole = response(message, text("TEXT")).to_string();
    let (before, after) = whole.split_once("TEXT").expect("it is there");
    let begin = Bytes::from(format!("data: {before}"));
    let end = Bytes::from(format!("{after}\n\n"));
    let piece = Bytes::from_static(&[b'x'; PIECE]);
    let middle = (0..length.div_ceil(PIECE)).map(move |at| piece.slice(..PIECE.min(length - at * PIECE)));
    let mut pieces = [begin].into_iter().chain(middle).chain([end]);
    with_type(Response::new(Body::pieces(move || pieces.next())), "text/event-stream")
}

/// A notification, then silence; or what comes after an event.
fn listen(server: &McpServer, last_id: Option<String>) -> Reply {
    if let Some(rest) = last_id.and_then(|id| server.log().rest.remove(&id)) {
        return in_events(vec![event(&rest)]);
    }
    let hello = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hi"}});
    let mut hello = Some(event(&hello));
    let body = Body::pieces(move || Some(hello.take().unwrap_or(Bytes::from_static(b": silence\n\n"))));
    with_type(Response::new(body.paced(Duration::from_millis(100))), "text/event-stream")
}

fn older_stream(server: &Arc<McpServer>) -> Reply {
    let session = {
        let log = &mut server.log();
        log.begun += 1;
        let session = log.begun.to_string();
        log.outboxes.insert(session.clone(), VecDeque::new());
        session
    };
    let mut endpoint = Some(Bytes::from(format!("event: endpoint\ndata: /messages?session={session}\n\n")));
    let server = server.clone();
    let body = Body::pieces(move || {
        if let Some(endpoint) = endpoint.take() {
            return Some(endpoint);
        }
        let next = server.log().outboxes.get_mut(&session)?.pop_front();
        Some(next.map_or(Bytes::from_static(b": silence\n\n"), |message| event(&message)))
    });
    with_type(Response::new(body.paced(Duration::from_millis(5))), "text/event-stream")
}

fn older_message(server: &McpServer, query: &str, body: &[u8]) -> Reply {
    let Ok(message) = serde_json::from_slice::<Value>(body) else { return text_reply(400, "text/plain", "no JSON") };
    let log = &mut *server.log();
    let answer = match result(log, &message) {
        Some(Outcome::At(result)) => Some(response(&message, result)),
        _ => None,
    };
    let session = query.trim_start_matches("session=");
    let Some(outbox) = log.outboxes.get_mut(session) else { return no_session() };
    outbox.extend(answer);
    text_reply(202, "text/plain", "Accepted")
}
