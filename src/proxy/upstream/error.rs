//! Why a request has no response, or a response no end: what failed, and whether the request may be sent again.

use std::io;

use crate::proxy::fault::Fault;
use crate::proxy::replay;
use crate::proxy::upstream::http1::AnswersInHttp2;
use crate::token_source::Unavailable;

/// Why a request has no response.
#[derive(Debug)]
pub(crate) enum Error {
    /// The request was not sent: there is no connection.
    NotConnected(Fault),
    /// The request was not sent whole: the client's body is malformed, or broke off.
    BrokenRequest,
    /// The request was not sent: when there was a connection, there was no usable token any more.
    NotAuthorized(Unavailable),
    /// The connection or the stream failed before the response's head was whole; the request may have been carried out.
    Lost {
        /// What failed.
        fault: Fault,
        /// Whether the request may be sent again on a new connection.
        resend: Resend,
    },
}

/// Whether a request whose response was lost may be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resend {
    /// Whatever it is: the upstream says that it has not begun with it (RFC 9113 section 8.7).
    Always,
    /// If it is idempotent and has no body (RFC 9110 section 9.2.2): the connection, which others had used before, ended
    /// before the response's head was whole, most likely because the upstream had grown tired of waiting just then.
    IfIdempotent,
    /// It may have been carried out, and a new connection would fare no better.
    Never,
}

impl Error {
    /// A lost response on an HTTP/1.1 connection, or on all of an HTTP/2 one; `reused` if it had served others before.
    pub(crate) fn lost(error: &hyper::Error, reused: bool) -> Self {
        if is_of_request(error) {
            return Error::BrokenRequest;
        }
        if answers_in_http2(error) {
            let fault = Fault::NoHttp1 { error: "http_protocol_error", detail: AnswersInHttp2.to_string() };
            return Error::Lost { fault, resend: Resend::Never };
        }
        let resend = if was_not_begun(error) {
            Resend::Always
        } else if reused && !error.is_parse() && !is_reset(error) {
            Resend::IfIdempotent
        } else {
            Resend::Never
        };
        Error::Lost { fault: fault(error), resend }
    }
}

/// A response's content has broken off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// By the upstream's doing.
    #[error(transparent)] // so that HTTP/2 finds the reason of a reset among its sources
    Lost(#[from] hyper::Error),
    /// By ours: it must be looked through, and is compressed, though its head does not say so.
    #[error("it is compressed, so with `scrub` it cannot be looked through")]
    Compressed,
    /// By ours: an event would have the client send its messages elsewhere.
    #[error("its event `endpoint` leads away from the MCP server")]
    LeadsElsewhere,
}

/// Whether the upstream spoke HTTP/2 where HTTP/1.1 was due, and so cannot have understood the request.
fn answers_in_http2(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.and_then(io::Error::get_ref).is_some_and(|cause| cause.is::<AnswersInHttp2>())
}

/// Whether the client's body was at fault.
fn is_of_request(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(replay::BodyError::Client(_)))
}

/// Whether the upstream ended the request's stream alone, on a connection that goes on.
fn is_reset(error: &hyper::Error) -> bool {
    http2_error(error).is_some_and(h2::Error::is_reset)
}

/// Whether the upstream says that it has not begun with the request (RFC 9113 section 8.7).
fn was_not_begun(error: &hyper::Error) -> bool {
    http2_error(error).is_some_and(|error| {
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let went_away = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (refused || went_away)
    })
}

fn http2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error).and_then(|cause| cause.downcast_ref())
}

/// What a lost connection means for the one who waits for the response.
pub(crate) fn fault(error: &hyper::Error) -> Fault {
    let word = if error.is_parse() {
        "http_protocol_error"
    } else if error.is_incomplete_message() {
        "http_response_incomplete"
    } else {
        "connection_terminated"
    };
    let mut detail = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        detail = format!("{detail}: {error}");
        cause = error.source();
    }
    Fault::BrokenAnswer { error: word, detail }
}
