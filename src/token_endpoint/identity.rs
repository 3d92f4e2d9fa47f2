//! Who is signed in, asked with an access token: of the account's own address for that, of userinfo (OpenID Connect Core
//! section 5.3), or by introspection (RFC 7662).

use std::time::Duration;

use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};

use super::{GrantFailure, TokenEndpoint, cannot_be_asked};
use crate::config::{Account, Endpoint, IdentitySource};
use crate::http_client::{Answer, HttpError, Outgoing};
use crate::oauth::identity::{Identity, introspection, is_inactive};
use crate::oauth::{Comparison, Person, Pointer, Tokens, Whose, id_token};
use crate::platform::clock::{instant, wall};
use crate::renewal::{Failure, Why};
use crate::secret::Secret;

/// Who is signed in, and where that was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SignedIn {
    /// The name that people know.
    pub name: String,
    /// The same for good, if that was told.
    pub person: Option<Person>,
    /// The server that was asked.
    asked: String,
}

impl SignedIn {
    /// For people: "ada@example.org (583231) is signed in, says api.example". `expected` is who signed in, if that is known.
    pub(crate) fn in_words(&self, expected: Option<&Person>) -> String {
        let Self { name, person, asked } = self;
        let subject = person.as_ref().map(|person| person.subject.as_str()).filter(|subject| subject != name);
        let subject = subject.map(|subject| format!(" ({subject})")).unwrap_or_default();
        let other = match (Person::compare(expected, person.as_ref()), expected) {
            (Comparison::Another, Some(expected)) => format!("; the sign-in was that of {}", expected.subject),
            _ => String::new(),
        };
        format!("{name}{subject} is signed in, says {asked}{other}")
    }
}

/// How long is waited before somebody's name is asked for once more: a server that answers 500 once often does not do so
/// twice, and a person is waiting.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// After so long it is not asked for once more: a server that lets one wait does so again.
const LONGEST_ASKING: Duration = Duration::from_secs(10);

/// Where and how an account's person is asked for.
enum Asked<'a> {
    /// With a GET, in whose response the name stands there.
    At(&'a Endpoint, Option<&'a Pointer>),
    /// RFC 7662.
    ByIntrospection(&'a Endpoint),
    Nowhere,
}

impl TokenEndpoint {
    /// Asks the account's provider whose an access token is.
    ///
    /// # Errors
    ///
    /// [`GrantFailure`]: permanent where the provider does not know the token, or there is nobody to ask; transient where it
    /// may tell in a moment.
    pub(crate) async fn who_is(&self, account: &Account, access_token: &Secret) -> Result<SignedIn, GrantFailure> {
        let (endpoint, pointer, answer) = match place(account) {
            Asked::At(endpoint, pointer) => (endpoint, pointer, self.get(account, endpoint, access_token).await?),
            Asked::ByIntrospection(endpoint) => {
                let client = super::client(account).await?;
                let request = introspection(access_token, &client).map_err(cannot_be_asked)?;
                (endpoint, None, self.send(account, endpoint, request).await)
            }
            Asked::Nowhere => {
                let words = "the account has no `identity`, userinfo_endpoint or introspection_endpoint";
                return Err(cannot_be_asked(words.to_owned()));
            }
        };
        let answer = answer
            .map_err(|error| GrantFailure::unanswered(Failure::Transient { retry_after: None }, error.to_string()))?;
        let transient = Failure::Transient { retry_after: super::as_read(&answer).asks_for_a_pause(wall()) };
        let authority = endpoint.origin.authority();
        let failed = |failure, words: &str| GrantFailure {
            failure,
            oauth_error: None,
            http_status: Some(answer.status.as_u16()),
            wants_rotation: false,
            detail: format!("{authority} answered {}{words}", answer.status.as_u16()),
        };
        match answer.status.as_u16() {
            200..300 if !is_inactive(&answer.body) => {}
            200..300 | 401 => {
                return Err(failed(Failure::Permanent(Why::Revoked), ": the access token is not known there"));
            }
            403 => return Err(failed(Failure::Permanent(Why::Revoked), ": the access token may not ask that")),
            408 | 429 | 500.. => return Err(failed(transient, "")),
            _ => return Err(failed(Failure::Refused, "")),
        }
        let Some(Identity { name, subject }) = Identity::read(&answer.body, pointer) else {
            return Err(failed(Failure::Refused, " and named nobody"));
        };
        let issuer = match &account.server.issuer {
            Some(issuer) if pointer.is_none() => issuer.as_str().to_owned(),
            _ => endpoint.origin.to_string(),
        };
        Ok(SignedIn { name, person: subject.map(|subject| Person { issuer, subject }), asked: authority })
    }
}

impl TokenEndpoint {
    /// Whose tokens are that have just come, with the name that people know, if it was asked: the ID token names a person, if
    /// it fits; else, and where the account says where to ask, the provider is asked, a few times if need be. That nobody can
    /// be named is no failure here. `is` is who is signed in.
    pub(crate) async fn whose(
        &self,
        account: &Account,
        tokens: &Tokens,
        nonce: Option<&str>,
        is: Option<&Person>,
    ) -> Whose {
        let told = id_token::person(tokens, account.expected(nonce));
        let own_place = account.sign_in.identity.is_some();
        let (asked, unnamed) = match &tokens.access_token {
            Some(token) if (own_place || told.is_none()) && !matches!(place(account), Asked::Nowhere) => {
                match self.who_is_in_the_end(account, token).await {
                    Ok(found) => (Some(found), None),
                    Err(failure) => (None, Some(failure.detail)),
                }
            }
            Some(_) | None => (None, None),
        };
        let (person, name) = decide(told, asked, matches!(place(account), Asked::At(_, Some(_))), is);
        Whose { person, name, unnamed }
    }

    /// [`TokenEndpoint::who_is`], asked once more where a failure may pass: it is no verdict on whose the token is.
    async fn who_is_in_the_end(&self, account: &Account, access_token: &Secret) -> Result<SignedIn, GrantFailure> {
        let start = instant();
        let mut pauses = PAUSES.into_iter();
        loop {
            let failure = match self.who_is(account, access_token).await {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            };
            match pause(failure.failure, pauses.next(), start.elapsed()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failure),
            }
        }
    }

    /// Asks with an access token as APIs are asked (RFC 6750 section 2.1).
    async fn get(
        &self,
        account: &Account,
        endpoint: &Endpoint,
        access_token: &Secret,
    ) -> Result<Result<Answer, HttpError>, GrantFailure> {
        let bearer = Secret::new(format!("Bearer {}", access_token.expose()));
        let mut value = HeaderValue::from_str(bearer.expose())
            .map_err(|_| cannot_be_asked("the access token holds forbidden characters".to_owned()))?;
        value.set_sensitive(true);
        let mut fields = HeaderMap::new();
        fields.insert(AUTHORIZATION, value);
        fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let request = Outgoing { method: Method::GET, fields, body: bytes::Bytes::new() };
        Ok(self.http.send(endpoint, super::reach(account), request).await)
    }
}

/// How long to wait before the next try, if there is one: `next` is the pause that we would make. A server that asks for a
/// longer one is not asked again, as a person is waiting. Pure.
fn pause(failure: Failure, next: Option<Duration>, elapsed: Duration) -> Option<Duration> {
    let Failure::Transient { retry_after } = failure else { return None };
    let next = next.filter(|_| elapsed < LONGEST_ASKING)?;
    let wanted = retry_after.unwrap_or_default();
    (wanted <= PAUSES[1]).then(|| next.max(wanted))
}

/// Who it is, of what the ID token `told` and what was `asked`; and the name, if it was asked. What is `elsewhere`, an address
/// of the provider's own, counts people in its own way. Userinfo and introspection count them as ID tokens do: a person of
/// another `sub` there is not believed to be that of the ID token (OpenID Connect Core section 5.3.2), and one alone is of
/// the issuer that has named the one who `is` signed in. Pure.
fn decide(
    told: Option<Person>,
    asked: Option<SignedIn>,
    elsewhere: bool,
    is: Option<&Person>,
) -> (Option<Person>, Option<String>) {
    let Some(SignedIn { name, person, asked: _ }) = asked else { return (told, None) };
    match (told, person) {
        (told, person) if elsewhere => (person.or(told), Some(name)),
        (Some(told), Some(person)) if told.subject != person.subject => (Some(told), None),
        (Some(told), _) => (Some(told), Some(name)),
        (None, Some(Person { issuer, subject })) => {
            let issuer = is.map_or(issuer, |is| is.issuer.clone());
            (Some(Person { issuer, subject }), Some(name))
        }
        (None, None) => (None, Some(name)),
    }
}

fn place(account: &Account) -> Asked<'_> {
    let server = &account.server;
    match (&account.sign_in.identity, &server.userinfo, &server.introspection) {
        (Some(IdentitySource::Address(endpoint, pointer)), ..) => Asked::At(endpoint, Some(pointer)),
        (_, Some(endpoint), _) => Asked::At(endpoint, None),
        (_, None, Some(endpoint)) => Asked::ByIntrospection(endpoint),
        (_, None, None) => Asked::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_it_is_is_decided_by_the_id_token_or_by_the_account_s_own_place() {
        let person = |issuer: &str, subject: &str| Person { issuer: issuer.to_owned(), subject: subject.to_owned() };
        let (token, userinfo) = (
            |subject| Some(person("https://iss", subject)),
            |subject| {
                let person = Some(person("https://origin", subject));
                Some(SignedIn { name: "name".to_owned(), person, asked: "origin".to_owned() })
            },
        );
        let nameless = || Some(SignedIn { name: "name".to_owned(), person: None, asked: "origin".to_owned() });
        let is = person("https://before", "1");
        let rows = [
            ("nobody", None, None, false, None, None),
            ("the ID token alone", token("1"), None, false, token("1"), None),
            ("both agree", token("1"), userinfo("1"), false, token("1"), Some("name")),
            ("they disagree", token("1"), userinfo("2"), false, token("1"), None),
            ("userinfo tells no subject", token("1"), nameless(), false, token("1"), Some("name")),
            ("userinfo alone", None, userinfo("1"), false, Some(is.clone()), Some("name")),
            ("a name alone", None, nameless(), false, None, Some("name")),
            ("its own place", token("1"), userinfo("9"), true, Some(person("https://origin", "9")), Some("name")),
            ("its own place, alone", None, userinfo("9"), true, Some(person("https://origin", "9")), Some("name")),
            ("its own place is silent", token("1"), None, true, token("1"), None),
        ];
        for (case, told, asked, elsewhere, expected, name) in rows {
            let found = decide(told, asked, elsewhere, Some(&is));
            assert_eq!(found, (expected, name.map(str::to_owned)), "{case}");
        }
        let alone = decide(None, userinfo("1"), false, None).0;
        assert_eq!(alone, Some(person("https://origin", "1")), "nobody is signed in");
    }

    #[test]
    fn a_failure_that_may_pass_is_tried_again_soon_and_not_for_long() {
        let passing = |seconds: Option<u64>| Failure::Transient { retry_after: seconds.map(Duration::from_secs) };
        let (ms, soon) = (Duration::from_millis, Some(Duration::from_millis(500)));
        let rows = [
            ("a server in trouble", passing(None), soon, ms(30), soon),
            ("the last try", passing(None), None, ms(30), None),
            ("a slow one", passing(None), soon, ms(10_000), None),
            ("it asks for a second", passing(Some(1)), soon, ms(30), Some(ms(1000))),
            ("it asks for less", passing(Some(0)), soon, ms(30), soon),
            ("it asks for a minute", passing(Some(60)), soon, ms(30), None),
            ("a verdict", Failure::Permanent(Why::Revoked), soon, ms(30), None),
        ];
        for (case, failure, next, elapsed, expected) in rows {
            assert_eq!(pause(failure, next, elapsed), expected, "{case}");
        }
    }

    #[test]
    fn who_is_signed_in_is_said_with_a_word_if_it_is_somebody_else() {
        let person = |subject: &str| Person { issuer: "https://a.example".to_owned(), subject: subject.to_owned() };
        let found = |name: &str, subject: Option<&str>| SignedIn {
            name: name.to_owned(),
            person: subject.map(person),
            asked: "a.example".to_owned(),
        };
        let other = Person { issuer: "https://b.example".to_owned(), ..person("2") };
        let rows = [
            (found("ada", Some("1")), None, "ada (1) is signed in, says a.example"),
            (found("ada", Some("ada")), None, "ada is signed in, says a.example"),
            (found("ada", None), Some(person("1")), "ada is signed in, says a.example"),
            (found("ada", Some("1")), Some(person("1")), "ada (1) is signed in, says a.example"),
            (found("ada", Some("1")), Some(other), "ada (1) is signed in, says a.example"),
            (
                found("bob", Some("2")),
                Some(person("1")),
                "bob (2) is signed in, says a.example; the sign-in was that of 1",
            ),
        ];
        for (found, expected, words) in rows {
            assert_eq!(found.in_words(expected.as_ref()), words);
        }
    }
}
