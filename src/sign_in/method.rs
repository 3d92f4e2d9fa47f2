//! What a way to sign in is: a row that says when it can be taken, and how.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;

use super::error::SignInError;
use super::loopback::LastPage;
use super::terminal::Terminal;
use crate::accounts::NewCredential;
use crate::config::{Account, SignInMethod};
use crate::token_endpoint::TokenEndpoint;

/// What the command line says about asking.
#[derive(Clone, Default, Debug)]
pub(crate) struct Wishes {
    /// The user name, so that it need not be asked for; it chooses the password among an account's ways.
    pub username: Option<String>,
    /// The one way that is wished, if one is.
    pub way: Option<SignInMethod>,
    /// Whether a QR code is drawn; where nothing is said, as the terminal is.
    pub qr: Option<bool>,
    /// Whether another person may sign in than the one who is.
    pub switch_user: bool,
    /// Whether a browser may be opened.
    pub browser: bool,
    /// Where a sign-in that is under way in a browser is kept for `login --code`.
    pub state_dir: Option<PathBuf>,
}

/// One way to sign in. Each has a file, which begins with its row.
pub(super) struct Method {
    /// What it takes, to choose from.
    pub(super) in_words: &'static str,
    /// Whether it can be taken: whether the account has what it needs, and the wishes leave it.
    pub(super) is_possible: fn(&Account, &Wishes) -> bool,
    /// Goes the whole way, with as many questions and requests as that takes.
    pub(super) sign_in: for<'a> fn(Attempt<'a>) -> Signing<'a>,
}

/// A sign-in under way.
pub(super) type Signing<'a> = Pin<Box<dyn Future<Output = Result<NewCredential, SignInError>> + 'a>>;

/// What an attempt to sign in has at hand.
pub(super) struct Attempt<'a> {
    pub(super) account: &'a Account,
    pub(super) wishes: &'a Wishes,
    pub(super) endpoint: &'a TokenEndpoint,
    pub(super) terminal: &'a mut Terminal,
    /// Where a way that has shown a page in a browser leaves it, to be told how it ends.
    pub(super) page: &'a mut Option<LastPage>,
}

/// An account as a person knows it: its name, and what it is.
pub(super) struct Titled<'a>(pub(super) &'a Account);

impl fmt::Display for Titled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.description {
            Some(description) => write!(f, "{} ({description})", self.0.id),
            None => self.0.id.fmt(f),
        }
    }
}
