//! How the token endpoint can be made to treat its callers.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CONTENT_ENCODING, HeaderName, HeaderValue};
use serde_json::Value;

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
    /// Does what was asked, then closes the connection without a response.
    ResetAfter,
    /// Waits, then does what was asked.
    Hang(Duration),
    /// Does what was asked and answers a byte at a time, with a pause before each.
    SlowDrip(Duration),
    /// Answers with JSON that never ends.
    Endless,
    /// Does what was asked, and answers in gzip, which nobody asked for.
    Compressed,
    /// Does what was asked, and answers as a form instead of JSON.
    FormEncoded,
    /// Does what was asked, and calls its tokens so.
    TokenType(String),
}

/// What is answered in the place of doing what was asked, if the behaviour is so.
pub(super) fn in_its_place(behaviour: &Behaviour) -> io::Result<Option<TokenReply>> {
    let done_nothing = |fault: &'static str, reply: Reply| Ok(Some(TokenReply::new(None, fault, reply)));
    match behaviour {
        Behaviour::Normal
        | Behaviour::ResetAfter
        | Behaviour::Hang(_)
        | Behaviour::SlowDrip(_)
        | Behaviour::Compressed
        | Behaviour::FormEncoded
        | Behaviour::TokenType(_) => Ok(None),
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

/// What was done, in the words of another dialect.
pub(super) fn compressed(reply: Reply) -> Reply {
    let zip = |whole: &[u8]| {
        const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        // the checksum at its end is left out of account, as by those who read it
        [&HEAD[..], &miniz_oxide::deflate::compress_to_vec(whole, 6), &[0; 8]].concat()
    };
    let mut reply = reply.map(|body| body.altered(zip));
    reply.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    reply
}

/// Likewise.
pub(super) fn form_encoded(reply: Reply) -> Reply {
    let encode = |whole: &[u8]| {
        let members: BTreeMap<String, Value> = serde_json::from_slice(whole).unwrap_or_default();
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let pairs = members.into_iter().map(|(name, value)| (name, text(value)));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into_bytes()
    };
    with_type(reply.map(|body| body.altered(encode)), "application/x-www-form-urlencoded")
}

/// Likewise.
pub(super) fn with_token_type(reply: Reply, name: &str) -> Reply {
    let rename = |whole: &[u8]| {
        let mut members: BTreeMap<String, Value> = serde_json::from_slice(whole).unwrap_or_default();
        members.insert("token_type".to_owned(), Value::from(name));
        serde_json::to_vec(&members).unwrap_or_default()
    };
    reply.map(|body| body.altered(rename))
}

fn endless() -> Reply {
    let mut start = Some(Bytes::from_static(b"{\"access_token\":\""));
    let body = Body::pieces(move || Some(start.take().unwrap_or(Bytes::from_static(&[b'a'; 4096]))));
    with_type(Response::new(body), "application/json")
}
