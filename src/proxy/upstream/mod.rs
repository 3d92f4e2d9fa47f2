//! The API's side: connections to an upstream, and what is sent and answered on them.
//!
//! [`send()`] takes a connection of a [`Pool`], or opens one, and brings a [`Response`], whose body owns that connection
//! until its end; or an [`Error`], which says what failed and whether the request may be sent again. A request to switch
//! protocols has a connection of its own ([`tunnel`]). No type of hyper's connections, bodies or errors leaves this folder.
//!
//! From the bottom: `origin`, an upstream as the table knows it; `dial`, a byte stream to it; `error`; `pulse`, whether an
//! HTTP/2 connection is alive; `http1` and `http2`, what is spoken on a connection; `pool`, a worker's connections to one upstream, kept, warmed and reaped; `response`;
//! `send` and `tunnel`.

pub(crate) use error::{BodyError, Error, Resend};
pub(crate) use origin::UpstreamOrigin;
pub(crate) use pool::{Pool, Warmth};
pub(crate) use response::{Response, UpstreamBody};
pub(crate) use send::send;

mod dial;
mod error;
mod http1;
mod http2;
mod origin;
mod pool;
mod pulse;
mod response;
mod send;
pub(crate) mod tunnel;
