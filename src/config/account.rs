//! Accounts: what one is, and how its table is read on top of its provider's.

use std::path::PathBuf;
use std::time::Duration;

use super::authorization_server::AuthorizationServer;
use super::dialect::{CLIENT_AUTHS, TokenRequestSettings};
use super::exec::ExecSettings;
use super::forward_proxy::{ForwardProxy, ProxyChoice};
use super::header::{HeaderTemplate, bearer};
use super::names::AccountId;
use super::problem::Complaint;
use super::read::{Layer, Located, Table};
use super::reader::{CrossChecks, Reader};
use super::secret_source::SecretSource;
use super::sign_in::{SignIn, SignInMethod};
use crate::advice::advised;
use crate::oauth::id_token::Expected;
use crate::oauth::rfc7009::{RevocationForm, ShownClient};
use crate::oauth::rfc7591::RegisteredClient;
use crate::oauth::{ClientAuth, Dialect, Grant, GrantType, Vocabulary};
use crate::renewal::Policy;
use crate::secret::Secret;

/// Below this, an endpoint that hands out dead tokens would be asked a hundred times a second.
const LEAST_SPACING: Duration = Duration::from_millis(10);

pub(super) const ACCOUNT_KEYS: &[&str] = &[
    "provider",
    "upstream",
    "description",
    "grant",
    "issuer",
    "token_endpoint",
    "cognito_endpoint",
    "revocation_endpoint",
    "revocation",
    "authorization_endpoint",
    "device_authorization_endpoint",
    "pushed_authorization_endpoint",
    "userinfo_endpoint",
    "introspection_endpoint",
    "registration_endpoint",
    "client",
    "client_id",
    "client_auth",
    "client_secret",
    "token",
    "scopes",
    "refresh_scope",
    "resource",
    "parameters",
    "token_request",
    "token_response",
    "errors",
    "header",
    "renew",
    "lifetime",
    "sign_in",
    "authorize",
    "redirect",
    "device_pkce",
    "identity",
    "login_page",
    "redirect_uri",
    "keep_password",
    "password_otp",
    "import",
    "extra_ca",
    "proxy",
    "private_addresses",
    "exec",
];

const GRANTS: &[(&str, (GrantType, Dialect))] = &[
    ("refresh_token", (GrantType::RefreshToken, Dialect::Rfc6749)),
    ("client_credentials", (GrantType::ClientCredentials, Dialect::Rfc6749)),
    ("password", (GrantType::Password, Dialect::Rfc6749)),
    ("earthdata", (GrantType::Password, Dialect::Earthdata)),
    ("command", (GrantType::Issued, Dialect::Rfc6749)),
    ("static", (GrantType::Issued, Dialect::Rfc6749)),
    ("cognito_initiate_auth", (GrantType::RefreshToken, Dialect::CognitoInitiateAuth)),
    ("cognito_get_tokens", (GrantType::RefreshToken, Dialect::CognitoGetTokens)),
];

/// One identity at one authorization server.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Account {
    /// Its name.
    pub id: AccountId,
    /// The preset it was made from.
    pub provider: Option<String>,
    /// What it is, for people.
    pub description: Option<String>,
    /// Which grant renews its access token: half of what the key `grant` says.
    pub grant: GrantType,
    /// The language in which its server takes refresh tokens: the other half.
    pub dialect: Dialect,
    /// Its authorization server.
    pub server: AuthorizationServer,
    /// Whether the client registers itself at the server (RFC 7591), which gives it its id.
    pub registers: bool,
    /// The client's id, where the server knows clients at all.
    pub client_id: Option<String>,
    /// How the client proves who it is.
    pub client_auth: ClientAuth,
    /// Where the client's secret comes from; present if `client_auth` needs it.
    pub client_secret: Option<ClientSecret>,
    /// Where somebody else puts the access token; present if and only if that is the grant.
    pub token: Option<SecretSource>,
    /// Asked for where the grant has a scope; may be empty.
    pub scopes: Vec<String>,
    /// Whether they are asked for with a refresh token, too.
    pub refresh_scope: bool,
    /// What the tokens are for (RFC 8707): said in authorization requests; [`Account::parameters`] has it for token requests.
    pub resource: Vec<String>,
    /// Further parameters of every token request (`audience`, `resource`, ...), in the order of their names; one that is said
    /// several times is there as often.
    pub parameters: Vec<(String, String)>,
    /// How token requests are written.
    pub token_request: TokenRequestSettings,
    /// How its server takes revocations.
    pub revocation: RevocationForm,
    /// What the provider calls things by names of its own.
    pub vocabulary: Vocabulary,
    /// What goes into each request.
    pub header: HeaderTemplate,
    /// When to renew.
    pub renew: Policy,
    /// How a person signs in.
    pub sign_in: SignIn,
    /// A PEM file with certificate authorities to trust besides the system's, for the endpoints above and as the
    /// routes' default.
    pub extra_ca: Option<PathBuf>,
    /// The proxy on the way to the endpoints above and to the routes' upstreams.
    pub proxy: ProxyChoice,
    /// Whether the names of the servers above, and of the routes' upstreams, may stand for private addresses.
    pub private_addresses: bool,
    /// What commands need that insist on the provider's own hosts.
    pub exec: ExecSettings,
}

/// Where a client's secret comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ClientSecret {
    /// From where the configuration says.
    Configured(SecretSource),
    /// From the server that has registered the client: the store has it, and a configuration is read before that is open.
    /// Whoever is to prove who the client is asks the store first: see [`Account::with_client_secret`].
    Registered,
}

impl Account {
    /// Where its secrets are found that the configuration names, each with its key.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&'static str, &SecretSource)> {
        let client_secret = match &self.client_secret {
            Some(ClientSecret::Configured(source)) => Some(source),
            Some(ClientSecret::Registered) | None => None,
        };
        let named = [("client_secret", client_secret), ("token", self.token.as_ref())];
        named.into_iter().filter_map(|(key, source)| Some((key, source?)))
    }

    /// The account with the secret of its registered client at hand.
    pub(crate) fn with_client_secret(&self, secret: Secret) -> Account {
        let client_secret = Some(ClientSecret::Configured(SecretSource::Inline(secret)));
        Account { client_secret, ..self.clone() }
    }

    /// The scopes that are asked for with a grant. With a refresh token they were settled when the person consented (RFC
    /// 6749 section 6), but for servers that want to hear them each time.
    pub(crate) fn scopes_with(&self, grant: &Grant) -> &[String] {
        match grant {
            Grant::RefreshToken(_) if !self.refresh_scope => &[],
            Grant::RefreshToken(_) | Grant::Password { .. } | Grant::ClientCredentials => &self.scopes,
            Grant::Issued => &[],
            Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. } => &[],
        }
    }

    /// What the claims of its ID tokens must fit, for what was asked with this `nonce`.
    pub(crate) fn expected<'a>(&'a self, nonce: Option<&'a str>) -> Expected<'a> {
        let issuer = self.server.issuer.as_ref().map(super::Issuer::as_str);
        Expected { issuer, client_id: self.client_id.as_deref(), nonce }
    }

    /// The account as it is asked for where its server is found to rotate refresh tokens.
    pub(crate) fn with_rotation(&self) -> Account {
        Account { dialect: self.dialect.with_rotation(), ..self.clone() }
    }

    /// Returns whether a change of an account's settings concerns what its tokens are or who may see them: then the
    /// tokens of the old account are not those of the new one, and must not be sent where it says.
    pub(crate) fn security_relevant_change(&self, new: &Account) -> bool {
        // destructured whole: a new field must decide here
        let Account {
            id,
            provider: _,
            description: _,
            grant,
            dialect,
            server,
            registers,
            client_id,
            client_auth,
            client_secret,
            token,
            scopes,
            refresh_scope,
            resource,
            parameters,
            token_request,
            revocation: _,
            vocabulary: Vocabulary { members, errors: _ }, // what is made of a refusal
            header: _,                                     // which of the tokens in hand is sent, and how
            renew: _,
            sign_in: _,
            extra_ca,
            proxy: _, // what goes through it is TLS with the server
            private_addresses: _,
            exec: _,
        } = self;
        *id != new.id
            || *grant != new.grant
            || *dialect != new.dialect
            || !server.issues_the_same_tokens(&new.server)
            || *registers != new.registers
            || *client_id != new.client_id
            || *client_auth != new.client_auth
            || *client_secret != new.client_secret
            || *token != new.token
            || *scopes != new.scopes
            || *refresh_scope != new.refresh_scope
            || *resource != new.resource
            || *parameters != new.parameters
            || *token_request != new.token_request
            || *members != new.vocabulary.members
            || *extra_ca != new.extra_ca
    }
}

impl<'a> Reader<'a> {
    pub(super) fn account(
        &self,
        id: &AccountId,
        own: &Layer<'a>,
        preset: Option<(String, Layer<'a>)>,
        checks: &mut CrossChecks<'a>,
    ) -> Option<Account> {
        Table::new([own.clone()], self.sink).only(ACCOUNT_KEYS);
        let (provider, preset) = preset.unzip();
        let table = Table::new([own.clone()].into_iter().chain(preset), self.sink);

        let (grant, dialect) = table.word("grant", GRANTS).map_or(GRANTS[0].1, |found| found.value);
        if checks.unknown_provider.contains(&id.to_string()) {
            return None;
        }
        if let (Some(provider), true) = (&provider, table.has("find") && !table.has("issuer")) {
            let add = advised(format_args!("add {id} {provider}"));
            let remedy = format!("take these lines out and run '{add}', which finds out the rest");
            self.sink.error(&table.place_of("provider"), Complaint::new("is no more than where to ask", remedy));
            return None;
        }
        let server = self.authorization_server(id, &table, grant, dialect, checks);
        let registers = self.registers(&table);
        let client_id = table.string("client_id").map(|found| found.value);
        let (client_auth, client_secret) = self.client(&table, grant, dialect);
        let sign_in = self.sign_in(&table, grant);
        let scopes = table.array("scopes", scope).unwrap_or_default();
        let refresh_scope = table.boolean("refresh_scope").unwrap_or(false);
        let token_request = self.token_request(&table);
        self.dialect_is_used(&table, dialect);
        if refresh_scope && scopes.is_empty() {
            let complaint = Complaint::new("has nothing to send: there are no scopes", "say scopes = [\"...\"]");
            self.sink.warning(&table.place_of("refresh_scope"), complaint);
        }
        let asks_for_scopes = match grant {
            _ if scopes.is_empty() => false,
            GrantType::ClientCredentials | GrantType::Password => true,
            GrantType::Issued => false,
            GrantType::RefreshToken => refresh_scope || sign_in.methods.contains(&SignInMethod::Password),
        };
        let resource = table.one_or_several("resource", resource).unwrap_or_default();
        let resource: Vec<String> = resource.into_iter().map(|found| found.value).collect();
        let registration = self.facts.clients.get(id.as_str()).filter(|_| registers);
        let registration = registration
            .filter(|found| server.as_ref().is_some_and(|server| server.registrar() == found.registered_at));
        let (client_id, client_auth, client_secret) = match registration.cloned() {
            Some(RegisteredClient { registered_at: _, client_id, client_auth }) => {
                let has_secret = client_auth != ClientAuth::None;
                (Some(client_id), client_auth, has_secret.then_some(ClientSecret::Registered))
            }
            None => (client_id, client_auth, client_secret.map(ClientSecret::Configured)),
        };
        let account = Account {
            id: id.clone(),
            provider,
            description: table.string("description").map(|found| found.value),
            grant,
            dialect,
            server: server?,
            registers,
            client_id,
            client_auth,
            client_secret,
            token: self.issued_token(&table, grant),
            scopes: scopes.into_iter().map(|scope| scope.value).collect(),
            refresh_scope,
            parameters: self.parameters(&table, dialect, &token_request.form, asks_for_scopes, &resource),
            resource,
            token_request,
            revocation: self.revocation(&table),
            vocabulary: self.vocabulary(&table),
            header: table.parsed("header", HeaderTemplate::parse).map_or_else(bearer, |found| found.value),
            renew: self.policy(&table),
            sign_in,
            extra_ca: self.authority_file(&table),
            proxy: self.proxy(&table),
            private_addresses: table.boolean("private_addresses").unwrap_or(true),
            exec: self.exec(&table),
        };
        Some(account)
    }

    fn proxy(&self, table: &Table<'_>) -> ProxyChoice {
        let Some(Located { value, place }) = table.parsed("proxy", ProxyChoice::parse) else {
            return ProxyChoice::Environment;
        };
        if let ProxyChoice::Proxy(ForwardProxy { login: Some(_), .. }) = &value
            && place.source.readable_by_others
        {
            let message = "holds a password in a file that others can read";
            self.sink.error(&place, Complaint::new(message, "chmod 600 the file"));
        }
        value
    }

    /// Whether the client registers itself, so that nobody need say an id.
    fn registers(&self, table: &Table<'_>) -> bool {
        let Some(client) = table.word("client", &[("register", ())]) else { return false };
        if table.has("client_id") {
            let remedy = "leave out one of the two: a registration brings an id of its own";
            self.sink.error(&client.place, Complaint::new("cannot be registered beside client_id", remedy));
        }
        if !table.has("issuer") {
            table.require("registration_endpoint", "client = \"register\" needs it, or an issuer");
        }
        true
    }

    fn client(&self, table: &Table<'_>, grant: GrantType, dialect: Dialect) -> (ClientAuth, Option<SecretSource>) {
        let auth = table.word("client_auth", CLIENT_AUTHS).map_or(ClientAuth::None, |found| found.value);
        let secret = match table.string_or_table("client_secret") {
            Some(Ok(inline)) => self.inline_secret(inline),
            Some(Err(table)) => self.secret_source(&table),
            None => None,
        };
        match auth {
            ClientAuth::Post | ClientAuth::Basic | ClientAuth::BasicRaw => {
                table.require("client_id", "client_auth needs it");
                table.require("client_secret", "client_auth needs it: client_secret = { file = \"/path\" }");
                self.can_prove_itself(table, auth, dialect);
            }
            ClientAuth::None if grant == GrantType::ClientCredentials => {
                // RFC 6749 section 4.4: confidential clients only
                let remedy = "say client_auth = \"post\" or \"basic\", client_id and client_secret";
                let complaint = Complaint::new("cannot be \"none\" with the grant client_credentials", remedy);
                self.sink.follow_up(&table.place_of("client_auth"), complaint);
            }
            ClientAuth::None if self.revocation(table).client == Some(ShownClient::By(ClientAuth::Basic)) => {}
            ClientAuth::None if table.is_own("client_secret") => {
                let place = table.place_of("client_secret");
                let remedy = "say client_auth = \"post\" or \"basic\"";
                let complaint = Complaint::new("is not sent as long as client_auth is \"none\"", remedy);
                if table.is_own("client_auth") {
                    self.sink.warning(&place, complaint); // they have said so
                } else {
                    self.sink.follow_up(&place, complaint);
                }
            }
            ClientAuth::None => {}
        }
        (auth, secret)
    }

    /// Cognito's API has a form of its own: what is said of RFC 6749's has no effect on renewals.
    fn dialect_is_used(&self, table: &Table<'_>, dialect: Dialect) {
        if !dialect.takes_each_parameter_once() {
            return;
        }
        let request = table.table("token_request");
        let of_request =
            |key: &str| request.as_ref().filter(|request| request.is_own(key)).map(|request| request.place_of(key));
        let response = table.is_own("token_response").then(|| table.place_of("token_response"));
        for place in [of_request("format"), of_request("names"), response].into_iter().flatten() {
            let remedy = "leave it out, or say grant = \"refresh_token\"";
            let complaint = Complaint::new("has no effect on renewals by Cognito's API, whose form is fixed", remedy);
            self.sink.warning(&place, complaint);
        }
    }

    /// Where the token is found that somebody else issues: what a command prints, or what is kept in a place.
    fn issued_token(&self, table: &Table<'_>, grant: GrantType) -> Option<SecretSource> {
        let place = table.place_of("token");
        if grant != GrantType::Issued {
            if table.has("token") {
                let remedy = "say grant = \"command\" or \"static\", or leave it out";
                self.sink.error(&place, Complaint::new("is not used by this grant", remedy));
            }
            return None;
        }
        let is_command = table.string("grant").is_some_and(|grant| grant.value == "command");
        let example = if is_command {
            "{ command = [\"gcloud\", \"auth\", \"print-access-token\"] }"
        } else {
            "{ file = \"/path\" }"
        };
        table.require("token", &format!("the grant needs it: token = {example}"));
        let source = match table.string_or_table("token")? {
            Ok(inline) => self.inline_secret(inline),
            Err(table) => self.secret_source(&table),
        }?;
        if is_command != matches!(source, SecretSource::Command(_)) {
            let other = if is_command { "static" } else { "command" };
            let message = format!("is not what the grant is for: token = {example}");
            self.sink.error(&place, Complaint::new(message, format!("say grant = \"{other}\", or so")));
        }
        Some(source)
    }

    fn can_prove_itself(&self, table: &Table<'_>, auth: ClientAuth, dialect: Dialect) {
        if auth == ClientAuth::BasicRaw && table.string("client_id").is_some_and(|id| id.value.contains(':')) {
            // RFC 7617 section 2: the first colon ends the user-id
            let complaint = Complaint::new("holds a colon, which ends an id that is sent as it is", "say \"basic\"");
            self.sink.error(&table.place_of("client_id"), complaint);
        }
        if dialect == Dialect::CognitoInitiateAuth {
            let message = "is of no use to InitiateAuth, which wants the secret hashed with the user's name";
            let remedy = "say grant = \"cognito_get_tokens\" or \"refresh_token\"";
            self.sink.follow_up(&table.place_of("client_auth"), Complaint::new(message, remedy));
        }
    }

    fn policy(&self, table: &Table<'_>) -> Policy {
        let mut policy = Policy::default();
        if let Some(renew) = table.table("renew") {
            renew.only(&["early", "minimum_spacing", "margin"]);
            policy.early = self.duration(&renew, "early", Duration::ZERO, policy.early);
            policy.minimum_spacing = self.duration(&renew, "minimum_spacing", LEAST_SPACING, policy.minimum_spacing);
            policy.margin = self.duration(&renew, "margin", Duration::ZERO, policy.margin);
        }
        if let Some(lifetime) = table.table("lifetime") {
            lifetime.only(&["access", "refresh"]);
            policy.assumed_lifetime =
                self.duration(&lifetime, "access", Duration::from_secs(1), policy.assumed_lifetime);
            if lifetime.has("refresh") {
                let second = Duration::from_secs(1);
                policy.refresh_lifetime = Some(self.duration(&lifetime, "refresh", second, second));
            }
        }
        policy
    }
}

/// A scope token (RFC 6749 section 3.3).
fn scope(text: &str) -> Result<String, Complaint> {
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if !text.is_empty() && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("is not a scope (RFC 6749 section 3.3)", "write each scope as an element of its own"))
}

/// An absolute URI without fragment (RFC 8707 section 2).
fn resource(text: &str) -> Result<String, Complaint> {
    let is_absolute = text.split_once(':').is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if !is_absolute || !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('#') {
        return Err("is not an absolute URI without fragment (RFC 8707 section 2)".into());
    }
    Ok(text.to_owned())
}
