//! A one-time code, or the address that it stands in, out of a browser anywhere.

use super::error::SignInError;
use super::exchange::redeem;
use super::login_url::login_url;
use super::method::{Attempt, Method, Titled, Wishes};
use super::pasted::{self, NotACode};
use crate::accounts::NewCredential;
use crate::config::Account;
use crate::oauth::Grant;
use crate::platform::environment;
use crate::secret::Secret;

pub(super) const METHOD: Method = Method {
    in_words: "a one-time code, from a page in a browser",
    is_possible: |account: &Account, wishes: &Wishes| wishes.username.is_none() && account.server.login_page.is_some(),
    sign_in: |attempt| Box::pin(sign_in(attempt)),
};

/// How often a person may paste something that is no code before we give up.
const TRIES: usize = 3;

/// The grant of a one-time code.
pub fn grant(account: &Account, code: Secret) -> Grant {
    Grant::AuthorizationCode { code, redirect_uri: account.sign_in.redirect_uri.clone() }
}

async fn sign_in(attempt: Attempt<'_>) -> Result<NewCredential, SignInError> {
    let Attempt { account, wishes, endpoint, terminal } = attempt;
    let Some(url) = login_url(account) else {
        return Err(SignInError::NoWay("this account has no login_page to open"));
    };
    terminal.say(&format!(
        "Sign in to {} in a browser, on this or any other machine:\n\n  {url}\n\n\
         Then paste the one-time code that it shows here, or the whole address that it ends on.\n\n",
        Titled(account)
    ))?;
    if wishes.browser && has_desktop(environment::is_set) {
        // an extra: the address is on the screen
        let _ = open::that_detached(&url);
    }
    let mut tries = 1;
    let code = loop {
        match pasted::recognise(&terminal.ask_line("Code: ")?) {
            Ok(code) => break code,
            Err(refused @ NotACode::ServerSaid { .. }) => return Err(refused.into()),
            Err(other) if tries >= TRIES => return Err(other.into()),
            Err(other) => terminal.say(&format!("That is not it: {other}.\n"))?,
        }
        tries += 1;
    };
    redeem(account, endpoint, grant(account, code)).await
}

/// Whether a browser that is opened would show on the person's own screen, and not be lynx in this terminal.
fn has_desktop(is_set: impl Fn(&str) -> bool) -> bool {
    let remote = is_set("SSH_CONNECTION") || is_set("SSH_TTY");
    !remote && (cfg!(target_os = "macos") || is_set("WAYLAND_DISPLAY") || is_set("DISPLAY"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::account;

    #[test]
    fn a_code_is_exchanged_with_the_registered_redirect_uri() {
        let account = account("gdh", "redirect_uri = \"https://www.example/validate.html\"\n");
        let Grant::AuthorizationCode { code, redirect_uri } = grant(&account, Secret::new("c")) else { panic!() };
        assert_eq!((code.expose(), redirect_uri.as_deref()), ("c", Some("https://www.example/validate.html")));
    }

    #[test]
    fn a_browser_is_opened_only_on_a_desktop_of_this_machine() {
        let with = |set: &[&str]| has_desktop(|name| set.contains(&name));
        assert!(with(&["DISPLAY"]) && with(&["WAYLAND_DISPLAY"]));
        assert!(!with(&["DISPLAY", "SSH_CONNECTION"]));
        assert_eq!(with(&[]), cfg!(target_os = "macos"));
    }
}
