//! The API's side: connections to an upstream.
//!
//! * `origin`: an upstream as the table knows it; `dial`: a connection to it;
//! * `pool`: a worker's connections to one upstream, kept and shared; `http1` and `http2`: what is spoken on them;
//! * `error`: why there is no answer.

pub(crate) use dial::dial;
pub(crate) use error::{SendError, lost, was_not_begun};
pub(crate) use origin::UpstreamOrigin;
pub(crate) use pool::{Lease, Pool, Warmth};

mod dial;
mod error;
pub(super) mod http1;
mod http2;
mod origin;
mod pool;
