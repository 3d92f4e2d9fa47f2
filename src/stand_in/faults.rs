//! How the token endpoint can be made to treat its callers.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{HeaderName, HeaderValue};

use super::body::{Body, Reply, TokenReply, json_text_reply, text_reply, with_type};

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

/// What is answered in the place of doing what was asked, if the behaviour is so.
pub(super) fn in_its_place(behaviour: &Behaviour) -> io::Result<Option<TokenReply>> {
    let done_nothing = |fault: &'static str, reply: Reply| Ok(Some(TokenReply::new(None, fault, reply)));
    match behaviour {
        Behaviour::Normal | Behaviour::ResetAfter | Behaviour::Hang(_) | Behaviour::SlowDrip(_) => Ok(None),
        Behaviour::Status(status, body, fields) => {
            let mut reply = json_text_reply(*status, body);
            for (name, value) in fields {
                let name = HeaderName::try_from(name).map_err(io::Error::other)?;
                reply.headers_mut().insert(name, HeaderValue::try_from(value).map_err(io::Error::other)?);
            }
            done_nothing("status", reply)
        }
        Behaviour::Html => done_nothing("html", text_reply(200, "text/html", "<h1>Welcome to our Wi-Fi</h1>")),
        Behaviour::Malformed(body) => done_nothing("malformed", json_text_reply(200, body)),
        Behaviour::ResetBefore => done_nothing("reset-before", text_reply(500, "text/plain", "")),
        Behaviour::Endless => done_nothing("endless", endless()),
    }
}

fn endless() -> Reply {
    let mut start = Some(Bytes::from_static(b"{\"access_token\":\""));
    let body = Body::pieces(move || Some(start.take().unwrap_or(Bytes::from_static(&[b'a'; 4096]))));
    with_type(Response::new(body), "application/json")
}
