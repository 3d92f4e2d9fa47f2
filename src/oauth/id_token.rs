//! What an ID token says, if it fits: whether its claims count for anything (OpenID Connect Core section 3.1.3.7). Pure.
//!
//! The signature is not looked at. The token came over TLS from the token endpoint itself, which may stand for it (number 6 of
//! that section); what a script hands in is a refresh token, never an ID token.

use std::time::Duration;

use super::grant::Tokens;
use super::jwt::{self, Claims};
use super::person::Person;

/// What an account's ID tokens must say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected<'a> {
    /// `iss`, where the account's issuer is known.
    pub issuer: Option<&'a str>,
    /// One of `aud`, where the server knows clients at all.
    pub client_id: Option<&'a str>,
    /// `nonce` of the authentication request, where one was sent.
    pub nonce: Option<&'a str>,
}

/// Why an ID token's claims count for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Misfit {
    /// It was issued by somebody else.
    Issuer,
    /// It was issued to another client.
    Audience,
    /// It was issued to several, of which another one is to use it.
    AuthorizedParty,
    /// Its time is over, or it has none.
    Expired,
    /// It names the nonce of another request: then it belongs to another sign-in.
    OtherNonce,
    /// It names none, although one was sent.
    NoNonce,
}

/// The claims of the ID token that has come with others, if there is one that can be read.
///
/// # Errors
///
/// [`Misfit`], the worst first.
pub(crate) fn claims(tokens: &Tokens, expected: Expected<'_>) -> Result<Option<Claims>, Misfit> {
    let found = tokens.id_token.as_ref().and_then(|token| jwt::claims(token.expose()));
    let Some(claims) = found else { return Ok(None) };
    judge(&claims, tokens.id_token_lifetime, expected)?;
    Ok(Some(claims))
}

/// Whom the ID token among `tokens` names. An access token may speak of somebody by another name: it is not written for us.
pub(crate) fn person(tokens: &Tokens, expected: Expected<'_>) -> Option<Person> {
    let (issuer, subject) = claims(tokens, expected).ok()??.subject?;
    Some(Person { issuer, subject })
}

/// `left` is what is left of its life by the server's clock.
fn judge(claims: &Claims, left: Option<Duration>, expected: Expected<'_>) -> Result<(), Misfit> {
    if let Some(nonce) = expected.nonce {
        match claims.nonce.as_deref() {
            Some(named) if named == nonce => {}
            Some(_) => return Err(Misfit::OtherNonce),
            None => return Err(Misfit::NoNonce),
        }
    }
    if expected.issuer.is_some_and(|issuer| claims.issuer.as_deref() != Some(issuer)) {
        return Err(Misfit::Issuer);
    }
    if let Some(client) = expected.client_id {
        if !claims.audience.iter().any(|audience| audience == client) {
            return Err(Misfit::Audience);
        }
        match claims.authorized_party.as_deref() {
            Some(party) if party == client => {}
            Some(_) => return Err(Misfit::AuthorizedParty),
            None if claims.audience.len() > 1 => return Err(Misfit::AuthorizedParty),
            None => {}
        }
    }
    match left {
        Some(left) if claims.exp.is_some() && !left.is_zero() => Ok(()),
        Some(_) | None => Err(Misfit::Expired),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;
    use crate::secret::Secret;

    const OURS: Expected<'_> = Expected { issuer: Some("https://a"), client_id: Some("us"), nonce: Some("n") };
    const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

    fn tokens(payload: &str) -> Tokens {
        let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload));
        Tokens { id_token: Some(Secret::new(token)), id_token_lifetime: HOUR, ..Tokens::default() }
    }

    #[test]
    fn claims_count_only_of_an_id_token_that_this_issuer_made_for_this_client_and_this_request() {
        let rows = [
            ("fits", r#"{"iss":"https://a","aud":"us","exp":9,"nonce":"n","sub":"1"}"#, Ok(())),
            ("one of a list", r#"{"iss":"https://a","aud":["us"],"exp":9,"nonce":"n","sub":"1"}"#, Ok(())),
            (
                "for several, to be used by us",
                r#"{"iss":"https://a","aud":["x","us"],"azp":"us","exp":9,"nonce":"n","sub":"1"}"#,
                Ok(()),
            ),
            (
                "another nonce, whatever else",
                r#"{"iss":"https://b","aud":"x","nonce":"m","sub":"1"}"#,
                Err(Misfit::OtherNonce),
            ),
            ("no nonce", r#"{"iss":"https://a","aud":"us","exp":9,"sub":"1"}"#, Err(Misfit::NoNonce)),
            ("another issuer", r#"{"iss":"https://a/","aud":"us","exp":9,"nonce":"n"}"#, Err(Misfit::Issuer)),
            ("no issuer", r#"{"aud":"us","exp":9,"nonce":"n","sub":"1"}"#, Err(Misfit::Issuer)),
            ("another client", r#"{"iss":"https://a","aud":"them","exp":9,"nonce":"n"}"#, Err(Misfit::Audience)),
            ("no audience", r#"{"iss":"https://a","exp":9,"nonce":"n","sub":"1"}"#, Err(Misfit::Audience)),
            ("an odd audience", r#"{"iss":"https://a","aud":7,"exp":9,"nonce":"n"}"#, Err(Misfit::Audience)),
            (
                "another party",
                r#"{"iss":"https://a","aud":"us","azp":"them","exp":9,"nonce":"n"}"#,
                Err(Misfit::AuthorizedParty),
            ),
            (
                "for several, and nobody says which",
                r#"{"iss":"https://a","aud":["us","them"],"exp":9,"nonce":"n"}"#,
                Err(Misfit::AuthorizedParty),
            ),
            ("without an end", r#"{"iss":"https://a","aud":"us","nonce":"n","sub":"1"}"#, Err(Misfit::Expired)),
        ];
        for (case, payload, expected) in rows {
            let tokens = tokens(payload);
            assert_eq!(claims(&tokens, OURS).map(|found| assert!(found.is_some())), expected, "{case}");
            assert_eq!(person(&tokens, OURS).is_some(), expected.is_ok(), "{case}");
        }
        for left in [None, Some(Duration::ZERO)] {
            let over = Tokens { id_token_lifetime: left, ..tokens(rows[0].1) };
            assert_eq!(claims(&over, OURS).err(), Some(Misfit::Expired), "{left:?}");
        }
    }

    #[test]
    fn what_is_not_known_of_an_account_is_not_compared_and_what_is_no_jwt_says_nothing() {
        let found =
            person(&tokens(r#"{"iss":"https://b","aud":"x","nonce":"m","sub":"1","exp":9}"#), Expected::default());
        assert_eq!(found.map(|person| person.issuer).as_deref(), Some("https://b"));
        let opaque = Tokens { id_token: Some(Secret::new("opaque")), ..Tokens::default() };
        assert_eq!(claims(&opaque, OURS), Ok(None));
        assert_eq!(claims(&Tokens::default(), OURS), Ok(None));
    }
}
