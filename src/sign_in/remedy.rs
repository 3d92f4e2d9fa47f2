//! What can be done about a sign-in that came to nothing. Pure.
//!
//! The one place that knows with which options of `valetd login` an account is signed in to: what it has no way for is not
//! proposed.

use std::time::Duration;

use super::error::SignInError;
use super::method::Wishes;
use super::terminal::Unasked;
use super::ways;
use crate::advice::advised;
use crate::config::{Account, SignInMethod};
use crate::span::length;

/// What can be done about it, where that is known.
pub(crate) fn remedy(error: &SignInError, account: &Account) -> Option<String> {
    match error {
        SignInError::Unasked(Unasked::NoTerminal) => {
            let shown = match asked(account).contains(&"--device") {
                true => "; or have --device show its code here",
                false => "",
            };
            Some(format!("hand it in with {}{shown}", either(&handed_in(account))))
        }
        SignInError::NothingLasting(remedy) => Some((*remedy).to_owned()),
        SignInError::Unreached(_) => Some(format!(
            "look at the network and at the account's endpoints ({} shows each way), then try again",
            advised("doctor")
        )),
        SignInError::NoWay(_) if !account.grant.needs_sign_in() => {
            Some(format!("'{}' asks for a token", advised(format_args!("refresh {}", account.id))))
        }
        SignInError::NoWay(_) => Some(format!("use {}", either(&[asked(account), handed_in(account)].concat()))),
        SignInError::NotHere(_) => match &asked(account)[..] {
            [] | [_] => Some(format!(
                "this account has no other way that asks; hand it in with {}",
                either(&handed_in(account))
            )),
            ways => Some(format!("choose another of the account's ways: {}", either(ways))),
        },
        SignInError::Denied(_) => Some("sign in again, and agree, if that was not meant".to_owned()),
        SignInError::TooLate => Some("sign in again: the address and the code of this one are good no more".to_owned()),
        SignInError::UnderWay(_) => Some("go on there, or end it with Ctrl-C".to_owned()),
        SignInError::Unasked(_) | SignInError::NotACode(_) => None,
        SignInError::WrongPassword(_) => Some(match &account.sign_in.password_otp {
            Some(_) => "check user name, password and one-time password, and sign in again".to_owned(),
            None => "check user name and password, and sign in again; a provider that wants a second factor says \
                          the same of a right password (password_otp, where it takes one in the same request)"
                .to_owned(),
        }),
        SignInError::NotNow { status, retry_after, .. } => Some(not_now(*status, *retry_after)),
        SignInError::ClientRefused(_) => Some(
            "look at the account's client_id and client_secret, and at what the provider says of this client"
                .to_owned(),
        ),
        SignInError::NotExchanged(_) => None,
    }
}

/// What can be done about a response that is no verdict. Pure.
fn not_now(status: u16, retry_after: Option<Duration>) -> String {
    /// What asks for more is mistaken, or tells nothing that a person could wait for.
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let doctor = advised("doctor");
    let retry_after = retry_after.filter(|pause| !pause.is_zero() && *pause <= LONGEST);
    match (status, retry_after) {
        (300..400, _) => {
            "correct the account's endpoint to where it is now: a redirect is not followed, as what is secret would go along"
                .to_owned()
        }
        (_, Some(pause)) => format!("the server wants to be asked again in {}: sign in then", length(pause.as_secs())),
        (429, None) => "the server has had too many requests: sign in again in a few minutes".to_owned(),
        (500.., None) => {
            format!("the server, or what is before it, is in trouble: sign in again later ({doctor} shows each way)")
        }
        (400..500, None) => {
            "the server says no without a reason: look at the account's token_endpoint, client_id and client_secret"
                .to_owned()
        }
        _ => format!("something else than the token endpoint may have answered: {doctor} shows each way"),
    }
}

/// The options that choose one of the account's ways to ask, in its order.
fn asked(account: &Account) -> Vec<&'static str> {
    let ways = ways(account, &Wishes::default()).unwrap_or_default();
    let option = |way| match way {
        SignInMethod::Browser => "--browser",
        SignInMethod::Device => "--device",
        SignInMethod::Paste => "--paste",
        SignInMethod::Password => "--username NAME",
    };
    ways.into_iter().map(option).collect()
}

/// The options that hand something in where nobody can be asked.
fn handed_in(account: &Account) -> Vec<&'static str> {
    let ways = ways(account, &Wishes::default()).unwrap_or_default();
    let mut options = Vec::new();
    // elsewhere a code is the answer to a sign-in that was begun, at a terminal
    if ways.contains(&SignInMethod::Paste) && account.server.login_page.is_some() {
        options.push("--code CODE");
    }
    if ways.contains(&SignInMethod::Password) {
        options.push("--username NAME --password-stdin");
    }
    options.push("--refresh-token-stdin");
    if !account.sign_in.import.is_empty() {
        options.push("--import");
    }
    options
}

/// `a, b or c`.
fn either(options: &[&str]) -> String {
    match options {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [before @ .., last] => format!("{} or {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::account;
    use crate::oauth::GrantType;

    #[test]
    fn each_response_that_is_no_verdict_has_its_own_remedy() {
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        let rows = [
            (302, None, "correct the account's endpoint"),
            (307, minutes(1), "correct the account's endpoint"),
            (429, minutes(10), "asked again in 10 min: sign in then"),
            (503, minutes(10), "asked again in 10 min: sign in then"),
            (429, None, "too many requests: sign in again in a few minutes"),
            (429, minutes(0), "too many requests: sign in again in a few minutes"),
            (503, minutes(1 << 40), "is in trouble: sign in again later"),
            (502, None, "is in trouble: sign in again later"),
            (200, None, "something else than the token endpoint may have answered"),
            (404, None, "look at the account's token_endpoint, client_id"),
        ];
        for (status, retry_after, expected) in rows {
            assert!(not_now(status, retry_after).contains(expected), "{status} {retry_after:?}");
        }
    }

    #[test]
    fn a_client_that_is_refused_has_a_remedy() {
        let error = SignInError::ClientRefused("auth.example answered 401 invalid_client".to_owned());
        let remedy = remedy(&error, &account("lab", ""));
        assert!(remedy.is_some_and(|remedy| remedy.contains("client_id and client_secret")));
    }

    #[test]
    fn no_way_is_proposed_that_the_account_has_not() {
        let no_terminal = || SignInError::Unasked(Unasked::NoTerminal);
        let (no_way, not_here) = (|| SignInError::NoWay("x"), || SignInError::NotHere("x".to_owned()));
        const PASSWORD: &str = "sign_in = [\"password\"]\n";
        const PAGE: &str = "sign_in = [\"paste\", \"password\"]\nlogin_page = \"https://auth.example/login\"\n";
        const HUB: &str = "client_id = \"x\"\nsign_in = [\"browser\", \"device\", \"paste\"]\n\
                           authorization_endpoint = \"https://auth.example/authorize\"\n\
                           device_authorization_endpoint = \"https://auth.example/device\"\n";
        const NONE: &str = "sign_in = []\nimport = [{ environment = \"LAB_TOKEN\" }]\n";
        let rows: [(&str, SignInError, &str); 9] = [
            (PASSWORD, no_terminal(), "hand it in with --username NAME --password-stdin or --refresh-token-stdin"),
            (PASSWORD, no_way(), "use --username NAME, --username NAME --password-stdin or --refresh-token-stdin"),
            (
                PASSWORD,
                not_here(),
                "this account has no other way that asks; hand it in with --username NAME --password-stdin or \
                 --refresh-token-stdin",
            ),
            (
                PAGE,
                no_terminal(),
                "hand it in with --code CODE, --username NAME --password-stdin or --refresh-token-stdin",
            ),
            (PAGE, not_here(), "choose another of the account's ways: --paste or --username NAME"),
            (HUB, no_terminal(), "hand it in with --refresh-token-stdin; or have --device show its code here"),
            (HUB, not_here(), "choose another of the account's ways: --browser, --device or --paste"),
            (NONE, no_way(), "use --refresh-token-stdin or --import"),
            (NONE, no_terminal(), "hand it in with --refresh-token-stdin or --import"),
        ];
        for (lines, error, expected) in rows {
            assert_eq!(remedy(&error, &account("lab", lines)).as_deref(), Some(expected), "{lines}: {error}");
        }
        let machine = Account { grant: GrantType::ClientCredentials, ..account("lab", "") };
        assert_eq!(remedy(&no_way(), &machine).as_deref(), Some("'valetd refresh lab' asks for a token"));
    }
}
