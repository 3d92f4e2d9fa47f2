//! What can be wrong with an upstream. `policy/error.rs` says what the client is told of it.

/// What an upstream did, or did not do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// No connection. `error` is RFC 9209's word for it.
    Unreachable { error: &'static str, detail: String },
    /// A connection, but no TLS.
    Tls { error: &'static str, detail: String },
    /// A connection on which it does not speak HTTP/1.1, but HTTP/2.
    NoHttp1 { error: &'static str, detail: String },
    /// Connecting took too long.
    ConnectTimeout,
    /// Too long without a byte, while the response was due.
    AnswerTimeout,
    /// The connection ended, or spoke nonsense, before the response's head was whole.
    BrokenAnswer { error: &'static str, detail: String },
}
