//! The authorization code with a browser on this machine (RFC 6749 section 4.1, RFC 7636, RFC 8252): it comes back to a
//! listener on loopback, or the address on which it ends is pasted, whichever comes first.
//!
//! The order matters: the port is held before anybody is sent there; a request that is pushed lives for a minute, so it is
//! pushed last; the address is shown before a browser is opened.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::authorization_address::authorization_address;
use super::desktop::{Place, tunnel_command};
use super::error::SignInError;
use super::exchange::redeem_checked;
use super::loopback::{Loopback, Serving};
use super::method::{Attempt, Method, Titled, Wishes};
use super::page::Ending;
use super::paste::grant;
use super::pasted::{self, NotACode, Pasted};
use super::pending::{self, PendingSignIn};
use super::terminal::Came;
use crate::accounts::NewCredential;
use crate::config::{Account, LoopbackHost};
use crate::secret::Secret;
use crate::token_endpoint::client_secret;

pub(super) const METHOD: Method = Method {
    in_words: "a browser on this machine",
    is_possible: |account: &Account, wishes: &Wishes| {
        wishes.username.is_none() && account.server.authorization.is_some()
    },
    sign_in: |attempt| Box::pin(sign_in(attempt)),
};

/// How long a person may take, with passwords and second factors to be found.
const LIMIT: Duration = Duration::from_secs(pending::LIFE);
/// How often a person may paste something that is no code before we give up.
const TRIES: usize = 3;

async fn sign_in(mut attempt: Attempt<'_>) -> Result<NewCredential, SignInError> {
    let account = attempt.account;
    let redirect = &account.sign_in.redirect;
    let loopback = Loopback::bind(redirect).await.map_err(|error| SignInError::NotHere(error.to_string()))?;
    let pending = PendingSignIn::begin_with(loopback.redirect_uri())?;
    let client = client_secret(account).await.map_err(SignInError::NotExchanged)?;
    let url = authorization_address(account, attempt.endpoint, &client, &pending, attempt.wishes).await?;
    let folder = attempt.wishes.state_dir.as_deref();
    if let Some(Err(error)) = folder.map(|folder| pending.save(folder, &account.id)) {
        attempt.terminal.say(&format!("Only this terminal can take a pasted address: {error}.\n\n"))?;
    }
    let port = loopback.port();
    let mut serving = loopback
        .serve(Titled(account).to_string(), &pending.state)
        .map_err(|error| SignInError::NotHere(error.to_string()))?;
    let outcome = answered(&mut attempt, &mut serving, &pending, &url, port).await;
    let outcome = match outcome {
        Ok(code) => {
            let nonce = pending.nonce(account);
            redeem_checked(account, attempt.endpoint, &client, grant(account, code, Some(pending)), nonce).await
        }
        Err(error) => Err(error),
    };
    if let Some(folder) = folder {
        PendingSignIn::forget(folder, &account.id);
    }
    let page = serving.page();
    match &outcome {
        // whoever takes it in may refuse it yet, as another person's
        Ok(_) => *attempt.page = Some(page),
        Err(error) => page.conclude(Ending::Failed(error.to_string())).await,
    }
    outcome
}

/// Shows the address and waits for the code: from the browser, or out of what is pasted.
async fn answered(
    attempt: &mut Attempt<'_>,
    serving: &mut Serving,
    pending: &PendingSignIn,
    url: &str,
    port: u16,
) -> Result<Secret, SignInError> {
    let Attempt { account, wishes, endpoint: _, terminal, page: _ } = attempt;
    let place = if wishes.browser { Place::here() } else { Place::Nowhere };
    terminal.say(&format!("Sign in to {} in a browser:\n\n  {url}\n\n", Titled(account)))?;
    if let Some(command) = tunnel_command(tunnel_host(account.sign_in.redirect.host), port) {
        terminal.say(&format!(
            "If the browser is on the machine that you sit at, run this there first:\n\n  {command}\n\n"
        ))?;
        if terminal.has_keys() {
            let words =
                "Without it the browser ends on a page that it cannot reach: paste that page's address here.\n\n";
            terminal.say(words)?;
        }
    } else if place == Place::Wsl {
        terminal.say("If the browser ends on a page that it cannot reach, paste that page's address here.\n\n")?;
    }
    place.open(url);
    terminal.say(&format!(
        "This goes on by itself when you have signed in (within {} minutes; Ctrl-C cancels).\n",
        LIMIT.as_secs() / 60
    ))?;
    let deadline = Instant::now() + LIMIT;
    let mut tries = 1;
    loop {
        let asked = terminal.ask_line_beside("Or paste the address that the browser ends on: ", serving.arrival());
        let came = timeout_at(deadline, asked).await.map_err(|_| SignInError::TooLate)??;
        let pasted = match came {
            Came::Line(None) => continue,
            Came::Other(response) => {
                // whoever it is that refuses: another server has nothing to refuse here (RFC 9207 section 2.4)
                pending::check_issuer(account, response.issuer.as_deref())?;
                return checked(account, pending, Pasted::of(response)).map_err(SignInError::of_response);
            }
            Came::Line(Some(text)) => checked(account, pending, pasted::recognise(&text)),
        };
        match pasted {
            Ok(code) => return Ok(code),
            Err(refused @ NotACode::ServerSaid { .. }) => return Err(SignInError::of_response(refused)),
            Err(other) if tries >= TRIES => return Err(other.into()),
            Err(other) => terminal.say(&format!("That is not it: {other}.\n"))?,
        }
        tries += 1;
    }
}

/// The code, if what came answers this sign-in.
fn checked(account: &Account, pending: &PendingSignIn, came: Result<Pasted, NotACode>) -> Result<Secret, NotACode> {
    let pasted = came?;
    pending.check(account, &pasted)?;
    Ok(pasted.code)
}

/// A tunnel's other end: sshd resolves names by itself.
fn tunnel_host(host: LoopbackHost) -> &'static str {
    match host {
        LoopbackHost::V4 | LoopbackHost::Localhost => LoopbackHost::V4.name(),
        LoopbackHost::V6 => LoopbackHost::V6.name(),
    }
}
