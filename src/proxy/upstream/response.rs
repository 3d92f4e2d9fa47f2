//! What an upstream has answered: the head, and a body that owns the connection it comes on.
//!
//! HTTP/1.1 carries one exchange at a time, so a connection is free for others only when its response has been read to
//! the end; the body gives it back then. One whose response is not read so far, or cannot be handed on, closes with the
//! body. Of an HTTP/2 connection a body owns one stream.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::proxy::upstream::error::BodyError;
use crate::proxy::upstream::http1::Http1Connection;
use crate::proxy::upstream::http2::Stream;
use crate::proxy::upstream::pool::Pool;

/// What an upstream has answered.
pub(crate) type Response = hyper::Response<UpstreamBody>;

/// A response's content. Dropped before its end, it closes its connection, or resets its stream.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    carrier: Carrier,
}

/// What a body comes on.
enum Carrier {
    /// A connection of the pool, which carries nothing else meanwhile.
    Http1 { pool: Rc<Pool>, connection: Http1Connection },
    /// A stream of a connection that others use, too.
    Http2 {
        /// Ends with the body.
        _stream: Stream,
    },
    /// A connection that a task of its own drives and that serves no other request; or none any more.
    Detached,
}

impl UpstreamBody {
    pub(super) fn of_http1(incoming: Incoming, pool: Rc<Pool>, connection: Http1Connection) -> Self {
        Self { incoming, carrier: Carrier::Http1 { pool, connection } }
    }

    pub(super) fn of_http2(incoming: Incoming, stream: Stream) -> Self {
        Self { incoming, carrier: Carrier::Http2 { _stream: stream } }
    }

    pub(super) fn detached(incoming: Incoming) -> Self {
        Self { incoming, carrier: Carrier::Detached }
    }

    /// Gives the connection back to its pool. Call it of a body that is at its end before the first frame, once it is
    /// plain that the response can be handed on; one that is read gives it back itself.
    pub(crate) fn release(mut self) {
        self.give_back();
    }

    fn give_back(&mut self) {
        match std::mem::replace(&mut self.carrier, Carrier::Detached) {
            Carrier::Http1 { pool, connection } => pool.put(connection),
            Carrier::Http2 { .. } | Carrier::Detached => {}
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let UpstreamBody { incoming, carrier } = &mut *self;
        let frame = ready!(match carrier {
            Carrier::Http1 { connection, .. } => connection.poll_frame(cx, incoming),
            Carrier::Http2 { .. } | Carrier::Detached => Pin::new(&mut *incoming).poll_frame(cx),
        });
        let ended = match &frame {
            None => true,
            Some(Err(_)) => false, // the connection goes with the body
            Some(Ok(_)) => incoming.is_end_stream(),
        };
        if ended {
            self.give_back();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
