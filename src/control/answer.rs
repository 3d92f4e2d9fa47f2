//! A response of the control socket: a document, a text, or a problem.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::problem::{self, Problem, kind};

pub(super) type Answer = Response<BoxBody<Bytes, Infallible>>;

/// What `GET /v1/log` shows and `PUT /v1/log` takes: what is logged, in the words of `--log`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogFilter {
    pub(super) filter: String,
}

/// What a verb answers that has done something and has nothing else to show.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// What was done, for people.
    pub(super) message: String,
}

pub(super) fn refuse(problem: &Problem) -> Answer {
    let status = StatusCode::from_u16(problem.status).expect("problems are made with real statuses");
    let mut answer = json(status, problem);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
    answer
}

pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    let mut body = serde_json::to_string_pretty(document).expect("our documents have string keys and no failing parts");
    body.push('\n');
    text(status, "application/json", body)
}

pub(super) fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub(super) fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(400, kind::BAD_REQUEST, "the body is not what this path wants", detail)
}

pub(super) fn stopping() -> Problem {
    let problem = Problem::new(503, kind::STOPPING, "the daemon is stopping", "it takes no more orders");
    problem.with_remedy("ask again when it has been started anew")
}
