//! Sends a grant request to the authorization server and says what came of it. `oauth` decides what is sent and what an
//! answer means; here is what it means that there is none.

mod authorization;
mod identity;

use hyper::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};

use crate::config::{Account, ClientSecret, Endpoint};
use crate::http_client::{self, HttpClient, HttpError, Outgoing, Reach, secret_body};
use crate::oauth::{Client, EndpointKind, Grant, Refusal, RequestField, TokenRequest};
use crate::oauth::{TokenResponse, Tokens, challenge, issued, rfc7009};
use crate::platform::clock::wall;
use crate::platform::secret_source;
use crate::renewal::{Failure, Why};
use crate::secret::Secret;

/// Where grants are redeemed and revoked: any account's authorization server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TokenEndpoint {
    http: HttpClient,
}

/// Why there are no tokens. Holds no secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct GrantFailure {
    /// What it means for the renewal.
    pub failure: Failure,
    /// The server's code, if it gave one.
    pub oauth_error: Option<String>,
    /// The status, if there was a response.
    pub http_status: Option<u16>,
    /// For people: "auth.example answered 400 invalid_grant: Token is not active".
    pub detail: String,
    /// The server rotates refresh tokens and was not asked in the dialect for that (see [`Account::with_rotation`]): it
    /// says nothing of the one presented.
    pub wants_rotation: bool,
}

impl GrantFailure {
    /// One that no response of the server tells of.
    pub(crate) fn unanswered(failure: Failure, detail: String) -> Self {
        Self { failure, oauth_error: None, http_status: None, detail, wants_rotation: false }
    }
}

/// What became of a revocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Revocation {
    /// The refresh token is dead, and whatever the server hangs on it.
    Done,
    /// The account has no revocation endpoint: the refresh token lives on at the server until it expires.
    NoEndpoint,
}

impl TokenEndpoint {
    /// Sends through `http`.
    pub(crate) fn new(http: HttpClient) -> Self {
        Self { http }
    }

    /// Redeems a grant: one request, at most as long as the client's limits. Not to be dropped half-way by somebody
    /// who cares for a rotating refresh token.
    ///
    /// # Errors
    ///
    /// [`GrantFailure`]. It is [`Failure::Ambiguous`] if and only if the request spends a refresh token, had left, and
    /// no response came back that is whole and can be read, or that says no. A response that is none (5xx, a web page) is
    /// [`Failure::Transient`]: some server has refused the request, and those that rotate before they fail are rare. What
    /// cannot even be asked with this configuration is permanent.
    pub(crate) async fn redeem(
        &self,
        account: &Account,
        client: &Client,
        grant: &Grant,
    ) -> Result<Tokens, GrantFailure> {
        if *grant == Grant::Issued {
            return issued(account).await;
        }
        let dialect = account.dialect;
        let scopes = account.scopes_with(grant);
        let outgoing = dialect.request(grant, client, scopes, &account.parameters).map_err(cannot_be_asked)?;
        let missing = |kind: EndpointKind| cannot_be_asked(format!("no {} is configured", kind.key()));
        let endpoint = account.server.endpoint(outgoing.endpoint).ok_or_else(|| missing(outgoing.endpoint))?;
        let answer = self.send(account, endpoint, outgoing).await.map_err(|error| match error {
            HttpError::AnswerLost(detail) if dialect.spends_refresh_token(grant) => {
                GrantFailure::unanswered(Failure::Ambiguous, detail)
            }
            HttpError::AnswerLost(detail) | HttpError::NotSent(detail) => {
                GrantFailure::unanswered(Failure::Transient { retry_after: None }, detail)
            }
        })?;
        let read = dialect.read(&as_read(&answer), grant, client, &account.vocabulary, wall());
        let tokens = read.map_err(|refusal| refused(endpoint, answer.status, refusal))?;
        let unusable = tokens.unusable.map(|words| format!("{} {words}", endpoint.origin.authority()));
        Ok(Tokens { unusable, ..tokens })
    }

    /// Revokes a token, the one that the account's server takes for that, where the account has an endpoint for it. Safe to
    /// call again: a token that is dead already counts as revoked.
    ///
    /// # Errors
    ///
    /// [`GrantFailure`], never ambiguous: the token may live on, and it may be tried again.
    pub(crate) async fn revoke(
        &self,
        account: &Account,
        client: &Client,
        token: &Secret,
    ) -> Result<Revocation, GrantFailure> {
        let Some(endpoint) = &account.server.revocation else { return Ok(Revocation::NoEndpoint) };
        let outgoing = rfc7009::request(token, client, &account.revocation).map_err(cannot_be_asked)?;
        let method = if account.revocation.is_delete { Method::DELETE } else { Method::POST };
        let answer = self
            .send_by(method, account, endpoint, outgoing)
            .await
            .map_err(|error| GrantFailure::unanswered(Failure::Transient { retry_after: None }, error.to_string()))?;
        rfc7009::read(&as_read(&answer), token, client, wall())
            .map(|()| Revocation::Done)
            .map_err(|refusal| refused(endpoint, answer.status, refusal))
    }

    /// [`TokenEndpoint::revoke`] for a credential that is forgotten here whatever the server says. Returns what came of
    /// it, in a sentence for people.
    pub(crate) async fn revoke_in_words(&self, account: &Account, token: &Secret) -> String {
        let revoked = match client_secret(account).await {
            Ok(client) => self.revoke(account, &client, token).await.map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match revoked {
            Ok(Revocation::Done) => "revoked at the server and forgotten here".to_owned(),
            Ok(Revocation::NoEndpoint) => {
                "forgotten here; the server knows no revocation, so the refresh token lives on there until it expires"
                    .to_owned()
            }
            Err(error) => format!("forgotten here, but not revoked at the server: {error}"),
        }
    }

    async fn send(
        &self,
        account: &Account,
        endpoint: &Endpoint,
        request: TokenRequest,
    ) -> Result<http_client::Answer, HttpError> {
        self.send_by(Method::POST, account, endpoint, request).await
    }

    async fn send_by(
        &self,
        method: Method,
        account: &Account,
        endpoint: &Endpoint,
        request: TokenRequest,
    ) -> Result<http_client::Answer, HttpError> {
        let TokenRequest { endpoint: _, content_type, fields, body } = request;
        let mut header = HeaderMap::new();
        header.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        header.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in fields {
            let mut value = HeaderValue::from_str(value.expose())
                .map_err(|_| HttpError::NotSent(format!("the {name} field would hold forbidden characters")))?;
            value.set_sensitive(true);
            let name =
                HeaderName::try_from(name).map_err(|_| HttpError::NotSent("a field's name is none".to_owned()))?;
            header.insert(name, value);
        }
        let outgoing = Outgoing { method, fields: header, body: secret_body(body.expose()) };
        self.http.send(endpoint, reach(account), outgoing).await
    }
}

/// Takes a token from where somebody else puts it. What is not there now may be there later, also where a person is needed
/// first: who then helps the program need not tell us.
async fn issued(account: &Account) -> Result<Tokens, GrantFailure> {
    let source = account.token.as_ref().ok_or_else(|| cannot_be_asked("no token is configured".to_owned()))?;
    let failed = |detail| GrantFailure::unanswered(Failure::Transient { retry_after: None }, detail);
    let text = secret_source::read_whole(source).await.map_err(|error| match error.needs_a_person() {
        true => failed(format!("{error}: it needs a person; run it yourself once")),
        false => failed(error.to_string()),
    })?;
    issued::read(&text, &account.vocabulary, wall())
        .map_err(|words| failed(format!("{} {words}", secret_source::place(source))))
}

/// What an account says of the connections to its servers.
fn reach(account: &Account) -> Reach<'_> {
    let extra_ca = account.extra_ca.as_deref();
    Reach { extra_ca, proxy: Some(&account.proxy), is_public: !account.private_addresses }
}

fn as_read(answer: &http_client::Answer) -> TokenResponse<'_> {
    let text = |name| answer.fields.get(name).and_then(|value| value.to_str().ok());
    let mut challenges = answer.fields.get_all(WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes);
    TokenResponse {
        status: answer.status.as_u16(),
        retry_after: text(RETRY_AFTER),
        date: text(DATE),
        content_type: text(CONTENT_TYPE),
        challenge: challenges.find(|field| challenge::parameter(&String::from_utf8_lossy(field), "error").is_some()),
        body: &answer.body,
    }
}

fn refused(endpoint: &Endpoint, status: StatusCode, refusal: Refusal) -> GrantFailure {
    let Refusal { failure, oauth_error, detail, wants_rotation } = refusal;
    let detail = format!("{} {detail}", endpoint.origin.authority());
    GrantFailure { failure, oauth_error, http_status: Some(status.as_u16()), detail, wants_rotation }
}

/// The configuration contradicts itself: only a person can mend that.
fn cannot_be_asked(detail: String) -> GrantFailure {
    GrantFailure::unanswered(Failure::Permanent(Why::ClientRefused), detail)
}

/// Says who asks for an account, and in which form: the client's id, its secret and the header fields of its requests, read
/// or asked for now from where the configuration says. The secret is the first line, without its end. That of a registered
/// client is with the store, which is asked before this.
///
/// # Errors
///
/// A sentence for people that names the file, command or credential, and never what was in it.
pub(crate) async fn client_secret(account: &Account) -> Result<Client, String> {
    let secret = match &account.client_secret {
        Some(ClientSecret::Configured(source)) => {
            Some(secret_source::read(source).await.map_err(|error| format!("client_secret: {error}"))?)
        }
        Some(ClientSecret::Registered) => return Err("the store was not asked for the client's secret".to_owned()),
        None => None,
    };
    let Account { client_id: id, client_auth: auth, token_request, .. } = account;
    let mut fields = Vec::new();
    for (name, source) in &token_request.headers {
        let value = secret_source::read(source).await;
        let value = value.map_err(|error| format!("token_request.headers.{name}: {error}"))?;
        fields.push(RequestField { name: name.clone(), value, is_secret: source.is_secret_in(name) });
    }
    Ok(Client { id: id.clone(), auth: *auth, secret, form: token_request.form.clone(), fields })
}

/// [`client_secret`] for a grant that is redeemed now: a secret that cannot be read is tried again later.
///
/// # Errors
///
/// A transient [`GrantFailure`], as no server was asked.
pub(crate) async fn client(account: &Account) -> Result<Client, GrantFailure> {
    let client = client_secret(account).await;
    client.map_err(|detail| GrantFailure::unanswered(Failure::Transient { retry_after: None }, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use crate::config::{SecretSource, testing};
    use crate::http_client::Limits;
    use crate::oauth::Dialect;
    use crate::stand_in::{Behaviour, Options, PASSWORD, Provider, Rotation, StandIn, USERNAME};

    #[test]
    fn a_challenge_is_read_whatever_bytes_are_in_its_description() {
        let latin = b"Bearer error=\"invalid_grant\", error_description=\"Ung\xfcltig\"";
        let mut fields = HeaderMap::new();
        for field in [&b"Negotiate"[..], latin] {
            fields.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(field).unwrap());
        }
        let answer = http_client::Answer { status: StatusCode::UNAUTHORIZED, fields, body: Vec::new().into() };
        assert_eq!(as_read(&answer).challenge, Some(&latin[..]));
    }

    fn account(stand_in: &StandIn) -> Account {
        let endpoints = [
            ("token_endpoint", Some(stand_in.token_endpoint())),
            ("cognito_endpoint", stand_in.cognito_endpoint()),
            ("revocation_endpoint", stand_in.revocation_endpoint()),
        ];
        let lines: Vec<String> =
            endpoints.into_iter().filter_map(|(key, url)| Some(format!("{key} = \"{}\"\n", url?))).collect();
        let grant = match stand_in.cognito_endpoint() {
            Some(_) => "grant = \"cognito_get_tokens\"\n",
            None => "",
        };
        let lines =
            format!("client_id = \"valetd\"\nheader = \"Authorization: {{id_token}}\"\n{grant}{}", lines.concat());
        speaking(Dialect::Rfc6749, &testing::account("lab", &lines))
    }

    fn public() -> Client {
        Client { id: Some("valetd".to_owned()), ..Client::default() }
    }

    fn hurried() -> TokenEndpoint {
        let limits = Limits { exchange: Duration::from_millis(700), ..Limits::default() };
        TokenEndpoint::new(HttpClient::direct().with_limits(limits))
    }

    async fn start(provider: Provider, rotation: Rotation) -> (StandIn, Account) {
        let stand_in = StandIn::start(provider, Options { rotation, ..Options::default() }).await.unwrap();
        let account = account(&stand_in);
        (stand_in, account)
    }

    /// The same account in another dialect.
    fn speaking(dialect: Dialect, account: &Account) -> Account {
        Account { dialect, ..account.clone() }
    }

    #[tokio::test]
    async fn every_grant_brings_tokens_from_the_provider_that_knows_it() {
        let http = TokenEndpoint::new(HttpClient::direct());
        let (gdh, account) = start(Provider::Gdh, Rotation::Off).await;
        let code = Secret::new(gdh.mint_code());
        let grant = Grant::AuthorizationCode {
            code,
            redirect_uri: Some("https://x.example/v".to_owned()),
            code_verifier: None,
        };
        let tokens = http.redeem(&account, &public(), &grant).await.unwrap();
        let grant = Grant::RefreshToken(tokens.refresh_token.expect("a code brings one"));
        for dialect in [Dialect::Rfc6749, Dialect::CognitoInitiateAuth] {
            let tokens = http.redeem(&speaking(dialect, &account), &public(), &grant).await.unwrap();
            assert!(tokens.id_token.is_some() && tokens.refresh_token.is_none(), "{dialect:?}");
            assert_eq!(tokens.lifetime, Some(Duration::from_secs(3600)), "{dialect:?}");
        }
        gdh.change(|options| options.rotation = Rotation::Strict);
        let account = speaking(Dialect::CognitoGetTokens, &account);
        assert!(http.redeem(&account, &public(), &grant).await.unwrap().refresh_token.is_some());

        let (_gbdx, account) = start(Provider::Gbdx, Rotation::Off).await;
        let grant = Grant::Password { username: USERNAME.to_owned(), password: Secret::new(PASSWORD), otp: None };
        let tokens = http.redeem(&account, &Client::default(), &grant).await.unwrap();
        let grant = Grant::RefreshToken(tokens.refresh_token.unwrap());
        assert!(http.redeem(&account, &Client::default(), &grant).await.unwrap().access_token.is_some());
    }

    #[tokio::test]
    async fn a_lost_answer_is_ambiguous_where_a_refresh_token_may_be_spent_and_nothing_else_is() {
        let transient = Failure::Transient { retry_after: None };
        let busy = Behaviour::Status(429, "{}".to_owned(), vec![("Retry-After".to_owned(), "7".to_owned())]);
        let in_7_s = Failure::Transient { retry_after: Some(Duration::from_secs(7)) };
        let refused = Behaviour::Status(400, r#"{"error":"invalid_grant"}"#.to_owned(), Vec::new());
        let table = [
            ("reset before", Behaviour::ResetBefore, Failure::Ambiguous, None),
            ("reset after", Behaviour::ResetAfter, Failure::Ambiguous, None),
            ("silence", Behaviour::Hang(Duration::from_secs(60)), Failure::Ambiguous, None),
            ("a byte at a time", Behaviour::SlowDrip(Duration::from_secs(60)), Failure::Ambiguous, None),
            ("without end", Behaviour::Endless, Failure::Ambiguous, None),
            ("a web page", Behaviour::Html, transient, Some(200)),
            ("nonsense", Behaviour::Malformed("{".to_owned()), Failure::Ambiguous, Some(200)),
            ("busy", busy, in_7_s, Some(429)),
            ("down", Behaviour::Status(502, "<p>".to_owned(), Vec::new()), transient, Some(502)),
            ("refused", refused, Failure::Permanent(Why::Revoked), Some(400)),
        ];
        let (gdh, account) = start(Provider::Gdh, Rotation::Grace(Duration::from_secs(600))).await;
        let token = gdh.sign_in();
        let grant = Grant::RefreshToken(token.clone());
        for (name, behaviour, expected, status) in table {
            let hangs = matches!(behaviour, Behaviour::Hang(_) | Behaviour::SlowDrip(_));
            let http = if hangs { hurried() } else { TokenEndpoint::new(HttpClient::direct()) };
            gdh.behave(behaviour, Some(1));
            let failure = http.redeem(&account, &public(), &grant).await.expect_err(name);
            assert_eq!((failure.failure, failure.http_status), (expected, status), "{name}: {failure}");
            assert!(failure.detail.contains("127.0.0.1"), "{name}: {failure}");
            assert!(!format!("{failure:?}").contains(token.expose()), "{name}: {failure}");
        }
        // this one never rotates, so that nothing is lost with its response
        let http = TokenEndpoint::new(HttpClient::direct());
        gdh.behave(Behaviour::ResetAfter, Some(1));
        let initiating = speaking(Dialect::CognitoInitiateAuth, &account);
        assert_eq!(http.redeem(&initiating, &public(), &grant).await.unwrap_err().failure, transient);
        gdh.stop().await;
        let failure = http.redeem(&account, &public(), &grant).await.unwrap_err();
        assert_eq!(failure.failure, transient);
        assert!(failure.detail.ends_with("connection refused"), "{failure}");
    }

    #[tokio::test]
    async fn a_wrong_password_is_said_in_words() {
        let (_gbdx, account) = start(Provider::Gbdx, Rotation::Off).await;
        let grant =
            Grant::Password { username: USERNAME.to_owned(), password: Secret::new("wrong-password"), otp: None };
        let http = TokenEndpoint::new(HttpClient::direct());
        let failure = http.redeem(&account, &Client::default(), &grant).await.unwrap_err();
        assert_eq!(failure.failure, Failure::Permanent(Why::Revoked));
        assert!(failure.detail.ends_with("answered 401: wrong user name or password"), "{failure}");
    }

    #[tokio::test]
    async fn a_revoked_refresh_token_is_refused_from_then_on() {
        let http = TokenEndpoint::new(HttpClient::direct());
        let (gdh, mut account) = start(Provider::Gdh, Rotation::Off).await;
        let token = gdh.sign_in();
        for _ in 0..2 {
            assert_eq!(http.revoke(&account, &public(), &token).await, Ok(Revocation::Done));
        }
        // spawned, as the renewer does with what must not be cut in half
        let owner = (account.clone(), token.clone(), http.clone());
        let redeeming = tokio::spawn(async move {
            let (account, token, http) = owner;
            http.redeem(&account, &public(), &Grant::RefreshToken(token)).await
        });
        let failure = redeeming.await.unwrap().unwrap_err();
        assert_eq!(failure.oauth_error.as_deref(), Some("invalid_grant"));
        account.server.revocation = None;
        assert_eq!(http.revoke(&account, &public(), &token).await, Ok(Revocation::NoEndpoint));
    }

    #[tokio::test]
    async fn a_client_secret_is_the_first_line_of_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            SecretSource::File(path)
        };
        let command = |words: &[&str]| SecretSource::Command(words.iter().map(|&word| word.to_owned()).collect());
        let table = [
            ("a file", file("a", "s3cret\r\nmore\n"), Ok("s3cret")),
            ("an empty file", file("c", ""), Err("client_secret: ")),
            ("no file", SecretSource::File(folder.path().join("d")), Err("No such file")),
            ("a command", command(&["printf", "s3cret\nmore\n"]), Ok("s3cret")),
            ("a command that fails", command(&["sh", "-c", "echo s3cret; exit 3"]), Err("command sh: exit status: 3")),
            ("a path as a credential", SecretSource::Credential("../x".to_owned()), Err("credential ../x")),
        ];
        let (gdh, mut account) = start(Provider::Gdh, Rotation::Off).await;
        drop(gdh);
        assert_eq!(client_secret(&account).await.unwrap().secret, None);
        for (name, source, expected) in table {
            account.client_secret = Some(ClientSecret::Configured(source));
            match (client_secret(&account).await, expected) {
                (Ok(client), Ok(secret)) => assert_eq!(client.secret, Some(Secret::new(secret)), "{name}"),
                (Err(text), Err(part)) => assert!(text.contains(part) && !text.contains("s3cret"), "{name}: {text}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
    }
}
