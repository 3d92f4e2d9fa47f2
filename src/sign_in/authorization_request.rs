//! The authorization request (RFC 6749 section 4.1.1): what it says, and the address that says it. Pure.
//!
//! The code challenge (RFC 7636) is there with public and confidential clients alike; `nonce` with the scope `openid` alone,
//! as some servers refuse it otherwise; `resource` (RFC 8707) where the account names one.

use form_urlencoded::Serializer;

/// What one authorization request says. What is `None` or empty is left out.
#[derive(Clone, Default, Debug)]
pub(super) struct AuthorizationRequest<'a> {
    pub(super) client_id: Option<&'a str>,
    pub(super) redirect_uri: Option<&'a str>,
    pub(super) scopes: &'a [String],
    pub(super) state: &'a str,
    /// Of the method S256.
    pub(super) code_challenge: Option<&'a str>,
    /// Sent only with the scope `openid` (OpenID Connect Core section 3.1.2.1).
    pub(super) nonce: Option<&'a str>,
    pub(super) resources: &'a [String],
    /// What the configuration adds (`prompt`, `access_type`, `audience`): it takes the place of what is said here under the
    /// same name, but for what protects the sign-in.
    pub(super) further: &'a [(String, String)],
}

/// What the configuration cannot take the place of.
const PROTECTING: [&str; 6] =
    ["response_type", "state", "nonce", "code_challenge", "code_challenge_method", "redirect_uri"];

impl AuthorizationRequest<'_> {
    /// Names and values, in the order in which they are sent.
    pub(super) fn parameters(&self) -> Vec<(&str, String)> {
        let text = |value: Option<&str>| value.map(str::to_owned);
        let asks_openid = self.scopes.iter().any(|scope| scope == "openid");
        let own = [
            ("response_type", Some("code".to_owned())),
            ("client_id", text(self.client_id)),
            ("redirect_uri", text(self.redirect_uri)),
            ("scope", (!self.scopes.is_empty()).then(|| self.scopes.join(" "))),
            ("state", Some(self.state.to_owned())),
            ("nonce", text(self.nonce).filter(|_| asks_openid)),
            ("code_challenge", text(self.code_challenge)),
            ("code_challenge_method", self.code_challenge.map(|_| "S256".to_owned())),
        ];
        let is_replaced =
            |name: &str| !PROTECTING.contains(&name) && self.further.iter().any(|(further, _)| further == name);
        let mut parameters: Vec<(&str, String)> = Vec::new();
        for (name, value) in own {
            parameters.extend(value.filter(|_| !is_replaced(name)).map(|value| (name, value)));
        }
        parameters.extend(self.resources.iter().map(|resource| ("resource", resource.clone())));
        for (name, value) in self.further {
            if !PROTECTING.contains(&name.as_str()) {
                parameters.push((name, value.clone()));
            }
        }
        parameters
    }
}

/// An endpoint's address with parameters added to its query. What the query states already stays as it is and is not said
/// again.
pub(super) fn address(endpoint: &str, parameters: &[(&str, String)]) -> String {
    let own_query = endpoint.split_once('?').map(|(_, query)| query);
    let mut added = Serializer::new(String::new());
    for (name, value) in parameters {
        let given =
            own_query.is_some_and(|query| form_urlencoded::parse(query.as_bytes()).any(|(own, _)| own == *name));
        if !given {
            added.append_pair(name, value);
        }
    }
    // a blank as %20: as right as `+`, and understood by those too who decode the query like a path
    let added = added.finish().replace('+', "%20");
    let joint = match own_query {
        None => "?",
        Some(query) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{endpoint}{joint}{added}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    fn shown(request: &AuthorizationRequest<'_>) -> String {
        request.parameters().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }

    #[test]
    fn a_request_says_what_the_rfcs_have_and_what_the_account_adds() {
        let (openid, repo) = (words(&["openid", "offline_access"]), words(&["repo"]));
        let resources = words(&["https://mcp.example/mcp", "https://other.example/"]);
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let further =
            pairs(&[("prompt", "consent"), ("scope", "all"), ("state", "mine"), ("redirect_uri", "http://evil/")]);
        let base = AuthorizationRequest {
            client_id: Some("me"),
            redirect_uri: Some("http://127.0.0.1:1/callback"),
            state: "s",
            code_challenge: Some("c"),
            nonce: Some("n"),
            ..AuthorizationRequest::default()
        };
        let common = "response_type=code&client_id=me&redirect_uri=http://127.0.0.1:1/callback";
        let challenge = "code_challenge=c&code_challenge_method=S256";
        let rows = [
            ("no scope, so no nonce", base.clone(), format!("{common}&state=s&{challenge}")),
            (
                "openid, so a nonce",
                AuthorizationRequest { scopes: &openid, ..base.clone() },
                format!("{common}&scope=openid offline_access&state=s&nonce=n&{challenge}"),
            ),
            (
                "another scope, so no nonce",
                AuthorizationRequest { scopes: &repo, ..base.clone() },
                format!("{common}&scope=repo&state=s&{challenge}"),
            ),
            (
                "resources",
                AuthorizationRequest { resources: &resources, ..base.clone() },
                format!(
                    "{common}&state=s&{challenge}&resource=https://mcp.example/mcp&resource=https://other.example/"
                ),
            ),
            (
                "what the account adds takes the place of what does not protect",
                AuthorizationRequest { scopes: &repo, further: &further, ..base.clone() },
                format!("{common}&state=s&{challenge}&prompt=consent&scope=all"),
            ),
        ];
        for (case, request, expected) in rows {
            assert_eq!(shown(&request), expected, "{case}");
        }
    }

    #[test]
    fn an_address_keeps_its_own_query_and_says_nothing_twice() {
        let parameters = [("response_type", "code".to_owned()), ("scope", "a+b/c d".to_owned())];
        let rows = [
            ("https://a.example/auth", "https://a.example/auth?response_type=code&scope=a%2Bb%2Fc%20d"),
            ("https://a.example/auth?x=1", "https://a.example/auth?x=1&response_type=code&scope=a%2Bb%2Fc%20d"),
            ("https://a.example/auth?", "https://a.example/auth?response_type=code&scope=a%2Bb%2Fc%20d"),
            ("https://a.example/auth?scope=z&", "https://a.example/auth?scope=z&response_type=code"),
        ];
        for (endpoint, expected) in rows {
            assert_eq!(address(endpoint, &parameters), expected);
        }
    }
}
