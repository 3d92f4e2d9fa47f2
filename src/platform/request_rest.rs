//! What is left of a request's content when its refusal is ready.
//!
//! In HTTP/2 a response that ends before the request has resets the stream, with `NO_ERROR` (RFC 9113 section 8.1), for which
//! some clients throw the response away: curl 7.88 ends with error 92. So a short content is read first. In HTTP/1.1 the
//! connection's reader does that.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::{Request, Version};
use tokio::time::timeout;

/// The longest content that is read: who sends more is told to stop.
const LONGEST: u64 = 64 * 1024;

/// For content of a length that is known, and under way.
const PATIENCE: Duration = Duration::from_secs(1);

/// For content of which nobody knows whether it ends, as that of a gRPC stream.
const PATIENCE_WITH_STREAMS: Duration = Duration::from_millis(100);

/// Reads what is left of a short content, where that lets its client see the response.
pub(crate) async fn read(request: Request<Incoming>) {
    if request.version() != Version::HTTP_2 || request.body().is_end_stream() {
        return;
    }
    let mut body = request.into_body();
    let patience = match body.size_hint().exact() {
        Some(length) if length > LONGEST => return,
        Some(_) => PATIENCE,
        None => PATIENCE_WITH_STREAMS,
    };
    let reading = async {
        let mut left = LONGEST;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    let _ = timeout(patience, reading).await;
}
