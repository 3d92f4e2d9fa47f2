//! Signing in: from a person at a terminal, or a secret on standard input, to a credential that lasts.
//!
//! It runs in the command line's process; the daemon never asks anybody anything. [`in_person`] lets the person choose one
//! of the account's ways, and goes it to its end.
//!
//! * `method`: what a way is; `browser`, `device`, `paste`, `password`: one file each, which begins with its row. A new way is
//!   such a file, its name in [`SignInMethod`], and the arm of `method_of`, which the compiler then asks for;
//! * `authorization_address`, `authorization_request`, `authorization_response`: what the browser is sent with, and what it comes back with;
//!   `loopback`: where it comes back to, with `browser_request` and `page`; `desktop`: where it is opened; `qr`: a picture; `scopes`: what was not granted;
//! * [`import`], [`handed_in`]: credentials that were issued elsewhere; [`exchange`]: those that a grant brings;
//! * [`offline`]: saving and forgetting them while no daemon runs;
//! * `remedy`: what can be done about one that came to nothing; [`login_url`]: the page to open; [`pasted`]: what came back from it by hand; [`pending`]: what that is checked with;
//!   [`terminal`]: questions.

use std::path::Path;

use crate::accounts::NewCredential;
use crate::config::{Account, SignInMethod};
use crate::oauth::GrantType;
use crate::store::{StoreError, Turn};
use crate::token_endpoint::TokenEndpoint;

mod authorization_address;
mod authorization_request;
mod authorization_response;
mod browser;
mod browser_request;
mod desktop;
mod device;
mod error;
pub(crate) mod exchange;
pub(crate) mod handed_in;
pub(crate) mod import;
pub(crate) mod login_url;
mod loopback;
mod method;
pub(crate) mod offline;
mod page;
pub(crate) mod password;
pub(crate) mod paste;
pub(crate) mod pasted;
pub(crate) mod pending;
mod qr;
mod remedy;
mod scopes;
pub(crate) mod terminal;

pub(crate) use error::SignInError;
pub(crate) use loopback::LastPage;
pub(crate) use method::Wishes;
pub(crate) use page::Ending;
pub(crate) use remedy::remedy;

use method::{Attempt, Method, Titled};
use terminal::{Terminal, Unasked};

/// What a person's sign-in has brought.
pub(crate) struct SignedIn {
    /// The credential, which nobody has yet.
    pub new: NewCredential,
    /// The page in a browser that waits to be told what becomes of it.
    pub page: Option<LastPage>,
}

/// How a way is gone.
fn method_of(method: SignInMethod) -> &'static Method {
    match method {
        SignInMethod::Browser => &browser::METHOD,
        SignInMethod::Device => &device::METHOD,
        SignInMethod::Paste => &paste::METHOD,
        SignInMethod::Password => &password::METHOD,
    }
}

/// Signs in with the person at the terminal, in the way that is wished, or in the account's ways in their order. The next is
/// taken where one is closed, here or at the server; after one that did not succeed, and where the first is one that asks at
/// once, the person chooses.
///
/// # Errors
///
/// [`SignInError`] if there is no terminal, no way or no response, or if the only way does not succeed.
pub(crate) async fn in_person(
    account: &Account,
    wishes: &Wishes,
    endpoint: &TokenEndpoint,
) -> Result<SignedIn, SignInError> {
    let ways = ways(account, wishes)?;
    let mut terminal = match Terminal::open() {
        // what is chosen, and needs no answer here, needs nobody at a terminal: by cron nobody would see it
        Err(Unasked::NoTerminal) if wishes.way.is_some_and(needs_no_answer) => Terminal::without_keys()?,
        opened => opened?,
    };
    let mut chosen = match begins_at_once(&ways) {
        true => 0,
        false => choose(account, &ways, 0, &mut terminal)?,
    };
    loop {
        let mut page = None;
        let attempt = Attempt { account, wishes, endpoint, terminal: &mut terminal, page: &mut page };
        let error = match (method_of(ways[chosen]).sign_in)(attempt).await {
            // to a server that has forgotten a client no way leads, until another one is registered
            Err(error) if account.registers && error.refuses_the_client() => return Err(error),
            Err(error) if ways.len() > 1 && error.leaves_other_ways() => error,
            outcome => return outcome.map(|new| SignedIn { new, page }),
        };
        match ways.get(chosen + 1) {
            Some(next) if error.closes_the_way() => {
                let next = method_of(*next).in_words;
                terminal.say(&format!("This way is closed: {error}.\nThe next one is {next}.\n\n"))?;
                chosen += 1;
            }
            _ => {
                terminal.say(&format!("That did not work: {error}.\n\n"))?;
                chosen = choose(account, &ways, (chosen + 1) % ways.len(), &mut terminal)?;
            }
        }
    }
}

/// Whether all that the person does is done elsewhere.
fn needs_no_answer(way: SignInMethod) -> bool {
    matches!(way, SignInMethod::Browser | SignInMethod::Device)
}

/// Whether the first way asks nothing that would be in vain if another was meant.
fn begins_at_once(ways: &[SignInMethod]) -> bool {
    match ways {
        [_] => true,
        [first, ..] => needs_no_answer(*first),
        [] => false,
    }
}

/// Begins a person's sign-in, before [`in_person`], to be held until what it brings is delivered. One of an account is under way at
/// a time: of two, one would take the other's answer for a stranger's. Where nothing can be kept, nobody else is known of.
///
/// # Errors
///
/// [`SignInError::UnderWay`]
pub(crate) fn take_turn(account: &Account, state_dir: &Path) -> Result<Option<Turn>, SignInError> {
    match Turn::take(state_dir, &account.id) {
        Ok(turn) => Ok(Some(turn)),
        Err(StoreError::Held { by, .. }) => Err(SignInError::UnderWay(by.pid)),
        Err(_) => Ok(None),
    }
}

/// The account's ways that can be taken, each once and in its order. Pure.
fn ways(account: &Account, wishes: &Wishes) -> Result<Vec<SignInMethod>, SignInError> {
    if account.grant == GrantType::Issued {
        return Err(SignInError::NoWay("this account needs no sign-in: its token comes from where `token` says"));
    }
    if account.grant == GrantType::ClientCredentials {
        return Err(SignInError::NoWay("this account needs no sign-in: the client's own secret is its credential"));
    }
    if let Some(way) = wishes.way {
        let words = match way {
            SignInMethod::Browser => "this account has no authorization_endpoint, which a browser would open",
            SignInMethod::Device => "this account has no device_authorization_endpoint",
            SignInMethod::Paste => {
                "this account has neither a login_page that shows a code nor an authorization_endpoint"
            }
            SignInMethod::Password => "this account has no way to sign in that asks for a user name",
        };
        return if (method_of(way).is_possible)(account, wishes) {
            Ok(vec![way])
        } else {
            Err(SignInError::NoWay(words))
        };
    }
    let mut ways = Vec::new();
    for method in &account.sign_in.methods {
        if (method_of(*method).is_possible)(account, wishes) && !ways.contains(method) {
            ways.push(*method);
        }
    }
    match (ways.is_empty(), &wishes.username) {
        (false, _) => Ok(ways),
        (true, Some(_)) => Err(SignInError::NoWay("this account has no way to sign in that asks for a user name")),
        (true, None) => Err(SignInError::NoWay("this account has no way to sign in that asks a person")),
    }
}

/// Lets the person choose one of several ways, by its number or its name in the configuration; an empty line takes the
/// suggested one.
fn choose(
    account: &Account,
    ways: &[SignInMethod],
    suggested: usize,
    terminal: &mut Terminal,
) -> Result<usize, SignInError> {
    if ways.len() == 1 {
        return Ok(0);
    }
    let mut question = format!("Sign in to {} with\n", Titled(account));
    for (index, way) in ways.iter().enumerate() {
        question.push_str(&format!("  {}  {}\n", index + 1, method_of(*way).in_words));
    }
    terminal.say(&question)?;
    loop {
        let answer = terminal.ask_line_or_none(&format!("Which one? [{}] ", suggested + 1))?;
        match answer.as_deref().map_or(Some(suggested), |answer| chosen(answer, ways)) {
            Some(chosen) => return Ok(chosen),
            None => terminal.say(&format!("Answer with a number from 1 to {}.\n", ways.len()))?,
        }
    }
}

fn chosen(answer: &str, ways: &[SignInMethod]) -> Option<usize> {
    let by_name = ways.iter().position(|way| way.name().eq_ignore_ascii_case(answer));
    by_name.or_else(|| answer.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < ways.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::account;

    const PAGE: &str = "sign_in = [\"paste\"]\nlogin_page = \"https://auth.example/login\"\n";

    #[test]
    fn an_account_without_a_way_says_so_before_any_question() {
        let mut account = account("gdh", PAGE);
        account.sign_in.methods.clear();
        let error = ways(&account, &Wishes::default()).unwrap_err();
        assert!(matches!(error, SignInError::NoWay(_)) && remedy(&error, &account).is_some());
        account.grant = GrantType::ClientCredentials;
        assert!(ways(&account, &Wishes::default()).unwrap_err().to_string().contains("needs no sign-in"));
    }

    #[test]
    fn the_ways_are_the_accounts_in_its_order_each_once_and_a_user_name_chooses_the_password() {
        use SignInMethod::{Password, Paste};
        let named = Wishes { username: Some("me".to_owned()), ..Wishes::default() };
        type Row<'a> = (&'a str, &'a [SignInMethod], &'a Wishes, Option<&'a [SignInMethod]>);
        let unnamed = Wishes::default();
        let rows: [Row<'_>; 7] = [
            ("one", &[Paste], &unnamed, Some(&[Paste])),
            ("two", &[Paste, Password], &unnamed, Some(&[Paste, Password])),
            ("the other way round", &[Password, Paste], &unnamed, Some(&[Password, Paste])),
            ("said twice", &[Password, Paste, Password], &unnamed, Some(&[Password, Paste])),
            ("a user name", &[Paste, Password], &named, Some(&[Password])),
            ("a user name for nothing", &[Paste], &named, None),
            ("none", &[], &unnamed, None),
        ];
        for (case, methods, wishes, expected) in rows {
            let mut account = account("gdh", PAGE);
            account.sign_in.methods = methods.to_vec();
            assert_eq!(ways(&account, wishes).ok().as_deref(), expected, "{case}");
        }
        let mut account = account("gdh", PAGE);
        account.sign_in.methods = vec![Paste, Password];
        account.server.login_page = None;
        assert_eq!(ways(&account, &Wishes::default()).unwrap(), [Password], "there is no page to open");
    }

    #[test]
    fn a_way_is_chosen_by_its_number_or_its_name() {
        let ways = [SignInMethod::Paste, SignInMethod::Password];
        let rows =
            [("1", Some(0)), ("2", Some(1)), ("Password", Some(1)), ("paste", Some(0)), ("0", None), ("3", None)];
        for (answer, expected) in rows.into_iter().chain([("-1", None), ("code", None), ("hunter2", None)]) {
            assert_eq!(chosen(answer, &ways), expected, "{answer}");
        }
    }
}
