//! What the user asked for, valid by construction. Pure: texts in, a [`Config`] or all its problems out.
//!
//! A `Config` refers only to things that exist: a [`Route`] holds an [`AccountId`] that is in
//! [`Config::accounts`], a [`ListenAddress`] is used once, an [`Endpoint`] is https or on loopback.
//!
//! * [`Config::parse`] reads a file on top of provider presets and reports every [`Problem`] at once;
//! * [`presets`] lists the providers that come with the binary;
//! * `read` is TOML with places, `value` what one string means, `parse` what the tables mean together.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::oauth::{ClientAuth, Dialect, GrantType};
use crate::path_rules::PathRules;
use crate::renewal::Policy;
use crate::secret::Secret;

mod parse;
mod problem;
pub(crate) mod provider;
mod punycode;
mod read;
mod value;

pub use problem::{Problem, Problems, Severity, Source};
pub(crate) use provider::import_variables;
pub use provider::{Preset, presets};
pub(crate) use value::is_localhost;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a name if it is one: 1 to 63 of `a-z 0-9 - _`, not beginning with `-` or `_`, so that it can
            /// stand in a path, a host name, a file name and an environment variable's name.
            pub fn new(name: &str) -> Option<Self> {
                let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
                let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
                (starts_well && name.len() <= 63 && name.chars().all(good)).then(|| Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// The name of an account: what is signed in.
    AccountId
}
name_type! {
    /// The name of a route: the first segment of its local path and the first label of its local host name.
    RouteName
}
name_type! {
    /// The name of a client key: what it is for.
    KeyName
}

/// What the meaning of a configuration depends on besides its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The configuration's folder, absolute: relative paths start here.
    pub folder: PathBuf,
    /// The home folder, absolute: what `~/` means.
    pub home: PathBuf,
    /// The processor's cores that we may use.
    pub cores: usize,
}

/// A configuration that can be used.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// What it means.
    pub config: Config,
    /// What is strange about it, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Everything the user asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Where all routes are served, by path prefix and by host name.
    pub listen: Vec<ListenAddress>,
    /// Host names that clients may use besides the loopback ones (RFC 6761 `localhost` and its subdomains).
    pub hosts: Vec<String>,
    /// Threads of the data plane; at least 1.
    pub workers: usize,
    /// How long running requests may go on after a stop.
    pub drain: Duration,
    /// Whose processes are given tokens without a client key.
    pub clients: Vec<Client>,
    /// Whether every request needs a client key, whoever sends it.
    pub require_key: bool,
    /// Whether `valetd exec` refuses to run a command while a route can be used without a client key.
    pub strict_exec: bool,
    /// Whether processes that run in containers, as far as that can be told, need a client key whoever they belong to.
    pub containers_need_key: bool,
    /// Where requests are noted.
    pub audit: Audit,
    /// Whether a request that cannot be noted is refused.
    pub audit_required: bool,
    /// The size that an audit file has at most before it is renamed.
    pub audit_size: u64,
    /// How many renamed audit files are kept.
    pub audit_keep: u64,
    /// Whether the daemon gives up what it does not need of the system.
    pub sandbox: bool,
    /// How a person is told that an account needs them.
    pub notice: NoticeSettings,
    /// By name.
    pub accounts: BTreeMap<AccountId, Account>,
    /// In the order of their names.
    pub routes: Vec<Route>,
}

/// Whose processes may call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Client {
    /// `self`: the user that valetd runs as.
    Own,
    /// `root`, who can read the tokens anyway, but whose jobs need not use them unawares.
    Root,
    /// `user:NAME` or `user:UID`.
    User(String),
    /// `group:NAME` or `group:GID`: all its members.
    Group(String),
}

/// Where requests are noted, one line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Audit {
    /// Nowhere.
    Off,
    /// In `audit.jsonl` in the state folder.
    StateFolder,
    /// In this file; absolute.
    File(PathBuf),
}

/// How a person is told, besides the log, that an account needs them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoticeSettings {
    /// Program and arguments, run without a shell; empty for none.
    pub command: Vec<String>,
    /// How long before the expected death of a refresh token.
    pub before: Duration,
}

/// One address to accept connections on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ListenAddress {
    /// A TCP address; on loopback, unless whoever comes in there needs a client key.
    Tcp(SocketAddr),
    /// The path of a unix socket, absolute.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One identity at one authorization server.
#[derive(Clone, PartialEq, Debug)]
pub struct Account {
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
    /// Where grants are sent as forms (RFC 6749 section 3.2).
    pub token_endpoint: Endpoint,
    /// Where Cognito's JSON grants are sent; present if and only if `dialect` is theirs.
    pub cognito_endpoint: Option<Endpoint>,
    /// Where a refresh token is revoked (RFC 7009), if anywhere.
    pub revocation_endpoint: Option<Endpoint>,
    /// The client's id, where the server knows clients at all.
    pub client_id: Option<String>,
    /// How the client proves who it is.
    pub client_auth: ClientAuth,
    /// Where the client's secret comes from; present if `client_auth` needs it.
    pub client_secret: Option<SecretSource>,
    /// Asked for where the grant has a scope; may be empty.
    pub scopes: Vec<String>,
    /// Further parameters of every token request (`audience`, `resource`, ...), in the order of their names.
    pub parameters: Vec<(String, String)>,
    /// What goes into each request.
    pub header: HeaderTemplate,
    /// When to renew.
    pub renew: Policy,
    /// How a person signs in.
    pub sign_in: SignIn,
    /// A PEM file with certificate authorities to trust besides the system's, for the endpoints above and as the
    /// routes' default.
    pub extra_ca: Option<PathBuf>,
}

impl Account {
    /// Every endpoint that may be sent the refresh token or the password, by its key, the token endpoint first.
    pub fn credential_endpoints(&self) -> impl Iterator<Item = (&'static str, &Endpoint)> {
        let Account { token_endpoint, cognito_endpoint, revocation_endpoint, .. } = self;
        let others = [("cognito_endpoint", cognito_endpoint), ("revocation_endpoint", revocation_endpoint)];
        let others = others.into_iter().filter_map(|(key, endpoint)| endpoint.as_ref().map(|endpoint| (key, endpoint)));
        std::iter::once(("token_endpoint", token_endpoint)).chain(others)
    }
}

/// How a person signs in to an account.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SignIn {
    /// The ways, in the order in which they are offered; empty means: import or standard input only.
    pub methods: Vec<SignInMethod>,
    /// The page that shows or hands back a one-time code: a URL, with `response_type=code` in its query where the page
    /// wants it; the client's id and redirect URI are added to it.
    pub login_page: Option<String>,
    /// The redirect URI registered for the client, sent with the code.
    pub redirect_uri: Option<String>,
    /// Whether the password may be kept beside the refresh token.
    pub keep_password: bool,
    /// Where another tool may have left a refresh token.
    pub import: Vec<ImportSource>,
}

/// One way to sign in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignInMethod {
    /// The person copies a one-time code, or the whole redirected URL, out of the browser.
    Paste,
    /// User name and password are asked for on the terminal.
    Password,
}

/// A place where another tool leaves a refresh token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImportSource {
    /// An environment variable that holds the refresh token itself.
    Environment(String),
    /// The absolute path of a JSON file with a `refresh_token` member (`~/.gdh/authentication`).
    JsonFile(PathBuf),
    /// The absolute path of gbdx-auth's INI file (`~/.gbdx-config`).
    GbdxConfig(PathBuf),
}

/// An absolute `https` URL, or an `http` one on loopback, without user name, password or fragment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// Scheme, host and port.
    pub origin: Origin,
    /// Path and query as written, beginning with `/`.
    pub path_and_query: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path_and_query)
    }
}

/// Scheme, host and port (RFC 6454).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name in lower case or an IP address; IPv6 without brackets.
    pub host: String,
    /// The port, also where it is the scheme's own.
    pub port: u16,
}

impl Origin {
    /// What `Host` carries: the host, in brackets if it is IPv6, and the port unless it is the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// Where a client secret comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    /// The first line of a file; relative to the configuration's folder.
    File(PathBuf),
    /// The first line that a command prints.
    Command(Vec<String>),
    /// A systemd credential's name.
    Credential(String),
    /// The configuration itself, which nobody but its owner can read.
    Inline(Secret),
}

/// Which token goes into which header field, and how: `Authorization: Bearer {access_token}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderTemplate {
    /// The field's name, in lower case.
    pub name: String,
    /// What comes before the token.
    pub before: String,
    /// The token.
    pub token: TokenKind,
    /// What comes after the token.
    pub after: String,
}

/// Which of the tokens in an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenKind {
    /// `{access_token}`
    AccessToken,
    /// `{id_token}`
    IdToken,
}

/// A local address that forwards to one upstream with one account's token.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Its name.
    pub name: RouteName,
    /// Whose token is sent.
    pub account: AccountId,
    /// Where to.
    pub upstream: Upstream,
    /// An address of its own, where it is served without prefix.
    pub listen: Option<ListenAddress>,
    /// Which requests are sent again, once, after the upstream answered 401 and the token was renewed.
    pub replay: Replay,
    /// Bytes of a request's body that are kept for the replay.
    pub replay_limit: usize,
    /// Paths of the upstream (and everything below them) that are never proxied: token services on an API's host. They
    /// begin with `/`, do not end with it, and the account's own endpoints are among them if they are on this host.
    pub refuse: Vec<String>,
    /// How long a request waits for a usable token.
    pub wait: Duration,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// For how long after its last use one connection to the upstream is kept ready; zero for not at all.
    pub warm: Duration,
    /// How long an exchange may stay without a byte in either direction.
    pub idle_timeout: Duration,
    /// Whether answers carry `Via: 1.1 valetd` (RFC 9110 section 7.6.3).
    pub via: bool,
    /// Whether requests that come in HTTP/2 go on in it: where TLS agrees on it (RFC 7301), or, in the clear, always.
    pub http2: bool,
    /// What becomes of requests' header fields besides the token's.
    pub request_headers: HeaderEdits,
    /// The query parameter that carries the token, where the upstream wants it there and in no field.
    pub token_query: Option<String>,
    /// Whether the token, should it come back in an answer's body, is blotted out.
    pub scrub: bool,
    /// A PEM file with certificate authorities to trust besides the system's.
    pub extra_ca: Option<PathBuf>,
    /// Whether every request needs a client key, whoever sends it.
    pub require_key: bool,
    /// Which methods and paths go through.
    pub rules: PathRules,
}

/// What a route changes in requests' header fields. Names are in lower case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeaderEdits {
    /// Taken out.
    pub remove: Vec<String>,
    /// Put in, in place of the client's own. Values may be keys, so they are treated as secrets.
    pub add: Vec<(String, SecretSource)>,
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Upstream {
    /// Scheme, host and port: what is dialled, and what `Host` and SNI say.
    pub origin: Origin,
    /// Put before every request's path: empty, or beginning with `/` and not ending with it.
    pub base_path: String,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.base_path)
    }
}

/// Which requests may be sent again after a 401.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay {
    /// All whose body is kept whole: a 401 means that the request was not carried out.
    Any,
    /// Only idempotent methods (RFC 9110 section 9.2.2).
    Idempotent,
    /// None.
    Never,
}

#[cfg(test)]
pub(crate) mod tests_support {
    use super::*;

    /// A machine like any other.
    pub(super) fn facts() -> Facts {
        Facts { folder: "/home/me/.config/valetd".into(), home: "/home/me".into(), cores: 8 }
    }

    /// A file that only its owner can read.
    pub(super) fn source(text: &str) -> Source {
        Source { name: "config.toml".into(), text: text.into(), readable_by_others: false }
    }

    /// Reads a configuration that has neither errors nor warnings.
    pub(crate) fn parse_with(text: &str, providers: &[(String, Source)]) -> Parsed {
        let parsed = Config::parse(&source(text), providers, &facts()).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(parsed.warnings, []);
        parsed
    }
}
