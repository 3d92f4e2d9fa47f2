//! What a session with the server consists of, as far as a request must say it.

use std::collections::BTreeSet;

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};

use super::chunks::Chunks;
use crate::mcp::{Message, fields};

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static(fields::VERSION);
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// A session, and what is needed to begin another one in its place.
#[derive(Default)]
pub(super) struct Session {
    /// Grows with each that is begun: who has seen an old one fail need not begin a new one.
    pub(super) generation: u64,
    /// As the server named it, if it did.
    pub(super) id: Option<HeaderValue>,
    /// The protocol version that was agreed on.
    pub(super) version: Option<HeaderValue>,
    /// The client's `initialize`, and its id.
    pub(super) initialize: Option<(Chunks, String)>,
    /// The client's `notifications/initialized`.
    pub(super) initialized: Option<Chunks>,
    /// With a server of HTTP+SSE (protocol version 2024-11-05), where messages go.
    pub(super) endpoint: Option<String>,
    /// With such a server, whether its stream has ended.
    pub(super) has_ended: bool,
    /// With such a server, what is answered on the stream alone.
    pub(super) pending: BTreeSet<String>,
}

impl Session {
    /// A message to the server, which says of itself what is in `read`.
    pub(super) fn post(&self, message: Chunks, read: &[Message], begins: bool) -> Request<Chunks> {
        let stands_alone = if let [message] = read { fields::fields(message) } else { Vec::new() };
        let mut request = self.request(Method::POST, "application/json, text/event-stream", message, begins);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(endpoint) = self.endpoint.as_ref().and_then(|endpoint| endpoint.parse().ok()) {
            *request.uri_mut() = endpoint;
        }
        if !stands_alone.is_empty() {
            request.headers_mut().remove(SESSION);
        }
        for (name, value) in stands_alone {
            if let Ok(value) = HeaderValue::from_str(&value) {
                request.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        request
    }

    /// What the server has to say by itself, or has said since `last_id`.
    pub(super) fn listen(&self, last_id: Option<&str>) -> Request<Chunks> {
        let mut request = self.request(Method::GET, "text/event-stream", Chunks::default(), false);
        if let Some(id) = last_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert(LAST_EVENT, id);
        }
        request
    }

    /// The end of the session, if it has a name.
    pub(super) fn end(&self) -> Option<Request<Chunks>> {
        self.id.as_ref()?;
        Some(self.request(Method::DELETE, "*/*", Chunks::default(), false))
    }

    fn request(&self, method: Method, accept: &'static str, body: Chunks, begins: bool) -> Request<Chunks> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        let headers: &mut HeaderMap = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if !begins {
            for (name, value) in [(SESSION, &self.id), (VERSION, &self.version)] {
                if let Some(value) = value {
                    headers.insert(name, value.clone());
                }
            }
        }
        request
    }
}

/// Where messages go, as the first event of HTTP+SSE says it: on the same server, or nowhere.
pub(super) fn endpoint(said: &str, authority: &str, path: &str) -> Option<String> {
    let said = said.trim();
    let on_it = match said.split_once("://") {
        Some((_, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            if !rest[..end].eq_ignore_ascii_case(authority) {
                return None;
            }
            rest[end..].to_owned()
        }
        None if said.starts_with("//") => return None,
        None if said.starts_with('/') => said.to_owned(),
        None => {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            match said.starts_with('?') {
                true => format!("{path}{said}"),
                false => format!("{folder}{said}"),
            }
        }
    };
    let is_text = on_it.bytes().all(|byte| byte.is_ascii_graphic()) && on_it.starts_with('/');
    is_text.then_some(on_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_messages_go_is_on_the_same_server_or_nowhere() {
        for (said, expected) in [
            ("/messages?sessionId=1", Some("/messages?sessionId=1")),
            ("http://mcp.example:8080/m", Some("/m")),
            ("messages", Some("/v1/messages")),
            ("?s=1", Some("/v1/sse?s=1")),
            ("http://evil.example/m", None),
            ("http://mcp.example/m", None),
            ("//evil.example/m", None),
            ("http://mcp.example:8080", None),
            ("/a b", None),
        ] {
            assert_eq!(endpoint(said, "mcp.example:8080", "/v1/sse").as_deref(), expected, "{said}");
        }
    }

    #[test]
    fn a_request_says_which_session_and_version_it_is_of_but_the_one_that_begins() {
        let session = Session {
            id: Some(HeaderValue::from_static("s1")),
            version: Some(HeaderValue::from_static("2025-06-18")),
            ..Session::default()
        };
        assert!(session.post(Chunks::default(), &[], true).headers().get(SESSION).is_none());
        let post = session.post(Chunks::default(), &[], false);
        assert!(post.headers()[SESSION] == "s1" && post.headers()[VERSION] == "2025-06-18");
        let alone = Message {
            id: Some("1".to_owned()),
            method: Some("tools/call".to_owned()),
            name: Some("echo".to_owned()),
            version: Some("2026-07-28".to_owned()),
            ..Message::default()
        };
        let post = session.post(Chunks::default(), &[alone], false);
        let fields = [(fields::VERSION, "2026-07-28"), (fields::METHOD, "tools/call"), (fields::NAME, "echo")];
        assert!(post.headers().get(SESSION).is_none(), "a message that stands for itself is of no session");
        assert!(fields.iter().all(|(name, value)| post.headers()[*name] == *value));
        assert!(session.listen(Some("7")).headers()[LAST_EVENT] == "7");
        assert_eq!(session.end().map(|request| request.method().clone()), Some(Method::DELETE));
        assert!(Session::default().end().is_none());
    }
}
