//! Why a request to an upstream has no answer.

use crate::proxy::fault::Fault;
use crate::token_source::Unavailable;

/// Why there is no answer.
pub(crate) enum SendError {
    /// Not sent: there is no connection.
    NotConnected(Fault),
    /// Not sent: when there was a connection, there was no usable token any more.
    NotAuthorized(Unavailable),
    /// The connection failed before the answer's head was whole; the request may have been carried out.
    Lost {
        /// Whether others had used the connection before: then the upstream may just have closed it as idle.
        reused: bool,
        error: hyper::Error,
    },
}

/// Whether the upstream ended the request's stream alone, on a connection that goes on.
pub(crate) fn is_reset(error: &hyper::Error) -> bool {
    http2_error(error).is_some_and(h2::Error::is_reset)
}

/// Whether the upstream says that it has not begun with the request, so that it can be sent again whatever it is (RFC 9113
/// section 8.7).
pub(crate) fn was_not_begun(error: &hyper::Error) -> bool {
    http2_error(error).is_some_and(|error| {
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let went_away = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (refused || went_away)
    })
}

fn http2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error).and_then(|cause| cause.downcast_ref())
}

/// What a lost connection means for the one who waits for the answer.
pub(crate) fn lost(error: &hyper::Error) -> Fault {
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
