//! User name and password, asked for on the terminal.

use super::error::SignInError;
use super::exchange::redeem;
use super::method::{Attempt, Method, Titled};
use super::terminal::{Terminal, Unasked};
use crate::accounts::NewCredential;
use crate::config::Account;
use crate::oauth::Grant;

pub(super) const METHOD: Method = Method {
    in_words: "user name and password",
    is_possible: |_, _| true,
    sign_in: |attempt| Box::pin(sign_in(attempt)),
};

async fn sign_in(attempt: Attempt<'_>) -> Result<NewCredential, SignInError> {
    let Attempt { account, wishes, endpoint, terminal, page: _ } = attempt;
    let username = match &wishes.username {
        Some(username) => username.clone(),
        None => ask_for_username(account, terminal)?,
    };
    let password = terminal.ask_hidden(&format!("Password of {username}: "))?;
    let otp = match &account.sign_in.password_otp {
        Some(name) => match terminal.ask_hidden("One-time password (Enter if there is none): ") {
            Err(Unasked::NoAnswer) => None,
            asked => Some((name.clone(), asked?)),
        },
        None => None,
    };
    redeem(account, endpoint, Grant::Password { username, password, otp }).await
}

/// Asks for the user name alone: the password comes from elsewhere.
///
/// # Errors
///
/// [`SignInError::Unasked`] if there is no terminal or no response.
pub(crate) fn ask_username(account: &Account) -> Result<String, SignInError> {
    Ok(ask_for_username(account, &mut Terminal::open()?)?)
}

fn ask_for_username(account: &Account, terminal: &mut Terminal) -> Result<String, Unasked> {
    terminal.ask_line(&format!("User name for {}: ", Titled(account)))
}
