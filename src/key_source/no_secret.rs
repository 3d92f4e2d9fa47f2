//! Why a source of keys gives nothing.

/// Why a source gives nothing; each a sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NoSecret {
    /// Not now: worth another try.
    #[error("{0}")]
    Away(String),
    /// It will never have it again.
    #[error("{0}")]
    Gone(String),
    /// It was not asked: what is known of it stands.
    #[error("it was not asked")]
    NotAsked,
}
