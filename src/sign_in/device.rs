//! A code that the person enters in a browser on any device (RFC 8628): for consoles, ssh, containers and telephones.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::desktop::Place;
use super::error::SignInError;
use super::exchange::settle;
use super::method::{Attempt, Method, Titled, Wishes};
use super::pending::challenge_of;
use super::qr::{self, Picture};
use super::terminal::Terminal;
use crate::accounts::NewCredential;
use crate::config::Account;
use crate::oauth::rfc8628::{DeviceAuthorization, Next, Polling};
use crate::oauth::{Client, Grant, Tokens};
use crate::platform::{environment, random};
use crate::token_endpoint::{GrantFailure, TokenEndpoint, client_secret};

pub(super) const METHOD: Method = Method {
    in_words: "a code that you enter on any device",
    is_possible: |account: &Account, wishes: &Wishes| {
        wishes.username.is_none() && account.server.device_authorization.is_some()
    },
    sign_in: |attempt| Box::pin(sign_in(attempt)),
};

async fn sign_in(attempt: Attempt<'_>) -> Result<NewCredential, SignInError> {
    let Attempt { account, wishes, endpoint, terminal, page: _ } = attempt;
    let code_verifier = match account.sign_in.device_pkce {
        true => Some(random::secret::<32>()?),
        false => None,
    };
    let challenge = code_verifier.as_ref().map(challenge_of);
    let client = client_secret(account).await.map_err(SignInError::NotExchanged)?;
    let authorization =
        endpoint.authorize_device(account, &client, challenge.as_deref()).await.map_err(cannot_begin)?;
    let start = Instant::now();
    show(account, &authorization, wishes, terminal)?;
    if wishes.browser {
        let complete = authorization.verification_uri_complete.as_ref();
        Place::here().open(complete.unwrap_or(&authorization.verification_uri));
    }
    let mut polling = Polling::new(&authorization);
    let ends = polling.left(Duration::ZERO);
    let grant = Grant::DeviceCode { device_code: authorization.device_code, code_verifier };
    let left = || clock(ends.saturating_sub(start.elapsed()));
    let status = || format!("Waiting: {} left (Ctrl-C cancels)", left());
    let asking = tokens(account, endpoint, &client, &grant, &mut polling, start);
    let tokens = terminal.wait_beside(status, asking).await??;
    settle(account, endpoint, grant, tokens, None).await
}

/// A server that lets a client have no device code says so in several ways (`unauthorized_client`; oidc-provider says
/// `invalid_request`): nobody has done anything yet, so the next way costs nothing.
fn cannot_begin(failure: GrantFailure) -> SignInError {
    match failure.oauth_error.as_deref() {
        Some("invalid_request") => SignInError::NotHere(failure.detail),
        _ => failure.into(),
    }
}

/// Asks the token endpoint until the person has decided or the code has expired.
async fn tokens(
    account: &Account,
    endpoint: &TokenEndpoint,
    client: &Client,
    grant: &Grant,
    polling: &mut Polling,
    start: Instant,
) -> Result<Tokens, SignInError> {
    let mut next = polling.first();
    loop {
        sleep_until(start + next).await;
        let failure = match endpoint.redeem(account, client, grant).await {
            Ok(tokens) => return Ok(tokens),
            Err(failure) => failure,
        };
        match polling.judge(failure.oauth_error.as_deref(), failure.failure, start.elapsed()) {
            Next::AskAt(at) => next = at,
            Next::Denied => return Err(SignInError::Denied(String::new())),
            Next::Expired => return Err(SignInError::TooLate),
            Next::NotThisWay => return Err(SignInError::NotHere(failure.detail)),
            Next::Spent | Next::Failed => return Err(failure.into()),
        }
    }
}

/// Shows where to go and what to enter.
fn show(
    account: &Account,
    authorization: &DeviceAuthorization,
    wishes: &Wishes,
    terminal: &Terminal,
) -> Result<(), SignInError> {
    let DeviceAuthorization { user_code, verification_uri, verification_uri_complete, .. } = authorization;
    terminal.say(&format!(
        "Sign in to {} on any device. Open\n\n  {verification_uri}\n\nand enter the code\n\n  {user_code}\n\n",
        Titled(account)
    ))?;
    let has_colours = terminal.has_keys();
    if !is_drawn(wishes.qr, has_colours, environment::is_set, environment::text("TERM").as_deref()) {
        return Ok(());
    }
    let address = verification_uri_complete.as_ref().unwrap_or(verification_uri);
    let Some(Picture { text, columns, lines }) = qr::picture(address) else { return Ok(()) };
    if fits((columns, lines), terminal.size(), wishes.qr == Some(true)) {
        terminal.draw(&text)?;
        return Ok(terminal.say("\n")?);
    }
    Ok(terminal
        .say(&format!("(The terminal is too small for a QR code of it: {columns} columns, {lines} lines.)\n\n"))?)
}

/// Whether a picture is to be drawn: as it is wished, or where the terminal has colours and nobody minds. Pure.
fn is_drawn(wish: Option<bool>, has_colours: bool, is_set: impl Fn(&str) -> bool, term: Option<&str>) -> bool {
    wish.unwrap_or_else(|| has_colours && !is_set("NO_COLOR") && term != Some("dumb"))
}

/// Whether a picture of so many columns and lines is read off a terminal of this size: it must not wrap, and, unless it is
/// wished, the code above it and the line below stay in sight. Pure.
fn fits((columns, lines): (usize, usize), (width, height): (usize, usize), is_wished: bool) -> bool {
    columns <= width && (is_wished || lines + 4 <= height)
}

/// Minutes and seconds.
fn clock(left: Duration) -> String {
    let seconds = left.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_drawn_as_it_is_wished_or_where_there_are_colours() {
        let rows = [
            (None, false, Some("xterm-256color"), true),
            (None, false, None, true),
            (None, true, Some("xterm"), false),
            (None, false, Some("dumb"), false),
            (Some(true), true, Some("dumb"), true),
            (Some(false), false, Some("xterm"), false),
        ];
        for (wish, no_color, term, expected) in rows {
            let is_set = |name: &str| no_color && name == "NO_COLOR";
            assert_eq!(is_drawn(wish, true, is_set, term), expected, "{wish:?} {no_color} {term:?}");
        }
        assert!(!is_drawn(None, false, |_| false, Some("xterm")), "there is no terminal");
        assert!(is_drawn(Some(true), false, |_| false, None));
    }

    #[test]
    fn a_picture_is_left_out_where_it_would_wrap_or_push_everything_else_out_of_sight() {
        let rows = [
            ((33, 17), (80, 24), false, true),
            ((33, 17), (33, 21), false, true),
            ((33, 17), (32, 50), true, false),
            ((33, 17), (80, 20), false, false),
            ((33, 17), (80, 10), true, true),
        ];
        for (picture, terminal, is_wished, expected) in rows {
            assert_eq!(fits(picture, terminal, is_wished), expected, "{picture:?} {terminal:?}");
        }
    }

    #[test]
    fn what_is_left_is_shown_as_a_clock_does() {
        let rows = [(0, "0:00"), (9, "0:09"), (61, "1:01"), (900, "15:00")];
        for (seconds, expected) in rows {
            assert_eq!(clock(Duration::from_secs(seconds)), expected);
        }
    }
}
