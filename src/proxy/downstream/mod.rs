//! The client's side: connections accepted, who is at their other end, and requests read from them.

pub(super) mod accept;
pub(super) mod first_head;
pub(super) mod gate;
pub(super) mod http2;
pub(super) mod io;
pub(super) mod serve;
pub(super) mod stranger;
