//! The page that a person signs in on. Pure.

use super::authorization_request::{AuthorizationRequest, address};
use super::pending::PendingSignIn;
use crate::config::Account;

/// The account's `login_page` with the parameters of an authorization request; `None` if the account has no such page. What
/// the page's own query says stays as it is and is not said again.
pub(crate) fn login_url(account: &Account, pending: &PendingSignIn) -> Option<String> {
    let page = account.server.login_page.as_ref()?.to_string();
    let challenge = pending.challenge();
    let request = AuthorizationRequest {
        client_id: account.client_id.as_deref(),
        redirect_uri: account.sign_in.redirect_uri.as_deref(),
        scopes: &account.scopes,
        state: &pending.state,
        code_challenge: challenge.as_deref(),
        ..AuthorizationRequest::default()
    };
    Some(address(&page, &request.parameters()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, testing};

    fn pending() -> PendingSignIn {
        PendingSignIn::begin(&account()).unwrap()
    }

    /// The address without what each sign-in has of its own, which must be at its end.
    fn common(account: &Account) -> Option<String> {
        let pending = PendingSignIn::begin(account).unwrap();
        let url = login_url(account, &pending)?;
        let own = format!(
            "&state={}&code_challenge={}&code_challenge_method=S256",
            pending.state,
            pending.challenge().expect("no page states one")
        );
        Some(url.strip_suffix(&own).unwrap_or_else(|| panic!("{url}")).to_owned())
    }

    fn account() -> Account {
        testing::account("gdh", "client_id = \"client\"\nredirect_uri = \"https://www.example/validate.html\"\n")
    }

    #[test]
    fn the_page_gets_the_parameters_of_an_authorization_request() {
        let request = "response_type=code&client_id=client&redirect_uri=https%3A%2F%2Fwww.example%2Fvalidate.html";
        let table: [(&str, &str, &[&str], String); 6] = [
            ("a plain page", "https://a.example/login", &[], format!("https://a.example/login?{request}")),
            ("a query of its own", "https://a.example/l?x=1", &[], format!("https://a.example/l?x=1&{request}")),
            ("an empty query", "https://a.example/l?", &[], format!("https://a.example/l?{request}")),
            ("an open query", "https://a.example/l?x=1&", &[], format!("https://a.example/l?x=1&{request}")),
            (
                "said already",
                "https://a.example/l?response_type=token",
                &[],
                format!("https://a.example/l?response_type=token&{}", &request["response_type=code&".len()..]),
            ),
            (
                "scopes",
                "https://a.example/l",
                &["openid", "a+b/c"],
                format!("https://a.example/l?{request}&scope=openid%20a%2Bb%2Fc"),
            ),
        ];
        for (case, page, scopes, expected) in table {
            let mut account = account();
            account.server.login_page = Some(Endpoint::parse(page).unwrap());
            account.scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            assert_eq!(common(&account), Some(expected), "{case}");
        }
    }

    #[test]
    fn without_a_page_there_is_nothing_to_open() {
        let mut account = account();
        account.server.login_page = None;
        assert_eq!(login_url(&account, &pending()), None);
    }
}
