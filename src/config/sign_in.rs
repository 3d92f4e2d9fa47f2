//! How a person signs in to an account: the ways, and what each of them needs to know.

use std::path::PathBuf;

use super::address::Endpoint;
use super::problem::Complaint;
use super::read::{Table, one_of};
use super::reader::Reader;
use crate::oauth::{GrantType, Pointer};

/// Parameters of an authorization request that belong to the request itself, or have a key of their own.
const REQUEST_PARAMETERS: &[&str] = &[
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "resource",
    "response_type",
    "scope",
    "state",
];

/// How a person signs in to an account.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct SignIn {
    /// The ways, in the order in which they are offered; empty means: import or standard input only.
    pub methods: Vec<SignInMethod>,
    /// Further parameters of the authorization request and of the device authorization request (`prompt`, `access_type`,
    /// `audience`), in the order of their names.
    pub authorize: Vec<(String, String)>,
    /// Where the browser comes back to.
    pub redirect: LoopbackRedirect,
    /// Whether the device authorization request carries a code challenge, and its token request the verifier (openEO).
    pub device_pkce: bool,
    /// Where it is asked who has signed in; where nothing is said, what the tokens themselves tell.
    pub identity: Option<IdentitySource>,
    /// The redirect URI registered for the client, sent with a code that is pasted.
    pub redirect_uri: Option<String>,
    /// The parameter in which a one-time password goes with a password (Keycloak: `totp`), where there is one.
    pub password_otp: Option<String>,
    /// Whether the password may be kept beside the refresh token.
    pub keep_password: bool,
    /// Where another tool may have left a refresh token.
    pub import: Vec<ImportSource>,
}

/// One way to sign in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SignInMethod {
    /// The authorization code comes back to a listener on loopback (RFC 8252).
    Browser,
    /// The person enters a code in a browser, on any device (RFC 8628).
    Device,
    /// The person copies a one-time code, or the whole redirected URL, out of the browser.
    Paste,
    /// User name and password are asked for on the terminal.
    Password,
}

impl SignInMethod {
    const ALL: [Self; 4] = [Self::Browser, Self::Device, Self::Paste, Self::Password];

    /// What it is called in a configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SignInMethod::Browser => "browser",
            SignInMethod::Device => "device",
            SignInMethod::Paste => "paste",
            SignInMethod::Password => "password",
        }
    }
}

/// A redirect URI on this machine (RFC 8252 section 7.3): which spelling of it is the provider's choice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LoopbackRedirect {
    /// The host as the provider knows it.
    pub host: LoopbackHost,
    /// The port, where the provider compares it; any that is free where nothing is said.
    pub port: Option<u16>,
    /// Begins with `/`.
    pub path: String,
}

/// The spellings of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LoopbackHost {
    /// `127.0.0.1`
    V4,
    /// `[::1]`
    V6,
    /// `localhost`, which browsers take for either.
    Localhost,
}

impl Default for LoopbackRedirect {
    /// The IP literal, which RFC 8252 section 8.3 prefers: no resolver can lead it elsewhere.
    fn default() -> Self {
        Self { host: LoopbackHost::V4, port: None, path: "/callback".to_owned() }
    }
}

impl LoopbackRedirect {
    /// Reads `http://127.0.0.1/callback`, `http://localhost:8400/`, `http://[::1]/x`.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that starts with the key's name.
    fn parse(text: &str) -> Result<Self, Complaint> {
        let example = "write it as in \"http://127.0.0.1/callback\", or with the port that the provider compares";
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(Complaint::new("is not an http URL on this machine", example));
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let bad_path = |c: char| !c.is_ascii_graphic() || "?#\\\"<>^`{|}".contains(c);
        if path.contains(bad_path) || authority.contains(['?', '#']) {
            return Err(Complaint::new("has a query, a fragment, or a character that no path can have", example));
        }
        let hosts =
            [("127.0.0.1", LoopbackHost::V4), ("[::1]", LoopbackHost::V6), ("localhost", LoopbackHost::Localhost)];
        let found = hosts.into_iter().find_map(|(name, host)| match authority.strip_prefix(name)? {
            "" => Some((host, None)),
            port => Some((host, Some(port.strip_prefix(':')?))),
        });
        let Some((host, port)) = found else {
            return Err(Complaint::new("has a host other than 127.0.0.1, [::1] or localhost", example));
        };
        let port = match port {
            None => None,
            Some(digits) => {
                let good = digits.bytes().all(|byte| byte.is_ascii_digit());
                let port = digits.parse().ok().filter(|port: &u16| good && *port > 0);
                Some(port.ok_or("has a bad port")?)
            }
        };
        Ok(Self { host, port, path: if path.is_empty() { "/".to_owned() } else { path.to_owned() } })
    }

    /// The URI, with the port that is listened on, or with none as it is registered.
    pub(crate) fn uri(&self, port: Option<u16>) -> String {
        let port = port.or(self.port).map_or_else(String::new, |port| format!(":{port}"));
        format!("http://{}{port}{}", self.host.name(), self.path)
    }
}

impl LoopbackHost {
    /// As it is written in a URI.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LoopbackHost::V4 => "127.0.0.1",
            LoopbackHost::V6 => "[::1]",
            LoopbackHost::Localhost => "localhost",
        }
    }
}

/// Where it is asked who has signed in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum IdentitySource {
    /// The userinfo endpoint (OpenID Connect Core section 5.3).
    Userinfo,
    /// The provider's own: a GET with the access token, and where its response has the name (RFC 6901).
    Address(Endpoint, Pointer),
}

impl IdentitySource {
    /// Reads `userinfo`, or a URL whose fragment is a member's name or a JSON Pointer: `https://api.example/me#/login`.
    fn parse(text: &str) -> Result<Self, Complaint> {
        if text == "userinfo" {
            return Ok(Self::Userinfo);
        }
        let Some((address, pointer)) = text.split_once('#').filter(|(_, pointer)| !pointer.is_empty()) else {
            let remedy = "write \"userinfo\", or a URL with the member that names the person: \"https://…/me#/login\"";
            return Err(Complaint::new("does not say where the person's name is", remedy));
        };
        Ok(Self::Address(Endpoint::parse(address)?, Pointer::parse(pointer)?))
    }
}

/// A place where another tool leaves a refresh token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ImportSource {
    /// An environment variable that holds the refresh token itself.
    Environment(String),
    /// The absolute path of a JSON file with a `refresh_token` member (`~/.gdh/authentication`).
    JsonFile(PathBuf),
    /// The absolute path of gbdx-auth's INI file (`~/.gbdx-config`).
    GbdxConfig(PathBuf),
}

fn parameter_name(text: &str) -> Result<String, &'static str> {
    let is_free = !["grant_type", "username", "password", "scope", "client_id", "client_secret"].contains(&text);
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if is_name && is_free { Ok(text.to_owned()) } else { Err("is no name that a further parameter can have") }
}

/// Whether a key says where a preset's server is shown access tokens, and the account's tokens are of another server: theirs
/// go nowhere but where the account says.
pub(super) fn is_anothers(table: &Table<'_>, key: &str) -> bool {
    ["token_endpoint", "issuer"].iter().any(|said| table.is_overridden(said)) && !table.is_own(key)
}

impl<'a> Reader<'a> {
    pub(super) fn sign_in(&self, table: &Table<'a>, grant: GrantType) -> SignIn {
        let names = SignInMethod::ALL.map(|method| (method.name(), method));
        let methods: Vec<SignInMethod> = match table.array("sign_in", |text| one_of(text, &names)) {
            Some(methods) => methods.into_iter().map(|method| method.value).collect(),
            None if grant == GrantType::Password => vec![SignInMethod::Password],
            None => Vec::new(),
        };
        for method in &methods {
            self.check_way(table, *method);
        }
        let keep_password = table.boolean("keep_password").unwrap_or(false);
        if grant == GrantType::Password && !keep_password {
            let message = "must be true for the grant password, which signs in anew each time";
            let remedy = "say keep_password = true, or grant = \"refresh_token\" to keep only that";
            self.sink.follow_up(&table.place_of("keep_password"), Complaint::new(message, remedy));
        }
        let password_otp = table.parsed("password_otp", parameter_name).map(|found| found.value);
        if password_otp.is_some() && keep_password {
            let message = "is good once, and cannot go with a password that is kept";
            let remedy = "leave out one of the two: password_otp, or keep_password";
            self.sink.error(&table.place_of("password_otp"), Complaint::new(message, remedy));
        }
        let identity = table.parsed("identity", IdentitySource::parse).map(|found| found.value);
        let identity = identity.filter(|_| !is_anothers(table, "identity"));
        if identity == Some(IdentitySource::Userinfo) && !table.has("issuer") {
            table.require("userinfo_endpoint", "identity = \"userinfo\" needs it, or an issuer");
        }
        SignIn {
            methods,
            authorize: self.authorize(table),
            redirect: table.parsed("redirect", LoopbackRedirect::parse).map(|found| found.value).unwrap_or_default(),
            device_pkce: table.boolean("device_pkce").unwrap_or(false),
            identity,
            redirect_uri: table.parsed("redirect_uri", redirect_uri).map(|found| found.value),
            password_otp,
            keep_password,
            import: self.import(table),
        }
    }

    /// Complains unless the account says what a way needs. What an issuer's metadata may say is not missing.
    fn check_way(&self, table: &Table<'a>, method: SignInMethod) {
        let missing = |keys: &[&str], remedy: &str| {
            if !keys.iter().chain(&["issuer"]).any(|key| table.has(key)) {
                table.require(keys[0], remedy);
            }
        };
        match method {
            SignInMethod::Browser => {
                missing(&["authorization_endpoint"], "sign_in = [\"browser\"] needs it, or an issuer");
            }
            SignInMethod::Device => {
                missing(&["device_authorization_endpoint"], "sign_in = [\"device\"] needs it, or an issuer");
            }
            SignInMethod::Paste => {
                let remedy = "sign_in = [\"paste\"] needs it: the page that shows the code";
                missing(&["login_page", "authorization_endpoint"], remedy);
            }
            SignInMethod::Password => return,
        }
        if matches!(method, SignInMethod::Browser | SignInMethod::Device) && !table.has("client") {
            let method = method.name();
            table.require("client_id", &format!("sign_in = [\"{method}\"] needs it, or client = \"register\""));
        }
    }

    fn authorize(&self, table: &Table<'a>) -> Vec<(String, String)> {
        let Some(parameters) = table.table("authorize") else { return Vec::new() };
        let mut pairs = Vec::new();
        for name in parameters.keys() {
            if REQUEST_PARAMETERS.contains(&name.as_str()) {
                let remedy = "leave it out: the request says it by itself, or there is a key of its own for it";
                let place = parameters.place_of(&name);
                self.sink.error(&place, Complaint::new("is not a further parameter of the request", remedy));
            }
            let value = parameters.parsed(&name, |text| Ok::<_, Complaint>(text.to_owned()));
            pairs.extend(value.map(|found| (name, found.value)));
        }
        pairs
    }

    fn import(&self, table: &Table<'_>) -> Vec<ImportSource> {
        const KEYS: &[&str] = &["environment", "json_file", "gbdx_config"];
        let source = |table: Table<'_>| {
            table.only(KEYS);
            self.exactly_one(&table, KEYS)?;
            let variable = |text: &str| {
                let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let is_name = text.starts_with(|c: char| !c.is_ascii_digit()) && text.chars().all(good);
                if is_name { Ok(text.to_owned()) } else { Err("is not the name of an environment variable") }
            };
            let environment = table.parsed("environment", variable).map(|found| ImportSource::Environment(found.value));
            environment
                .or_else(|| self.path(&table, "json_file").map(ImportSource::JsonFile))
                .or_else(|| self.path(&table, "gbdx_config").map(ImportSource::GbdxConfig))
        };
        table.array_of_tables("import").unwrap_or_default().into_iter().filter_map(source).collect()
    }
}

/// An absolute URI without fragment (RFC 6749 section 3.1.2); native apps may have schemes of their own (RFC 8252).
fn redirect_uri(text: &str) -> Result<String, Complaint> {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let good_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !good_scheme || !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('#') {
        return Err("is not an absolute URI without fragment (RFC 6749 section 3.1.2)".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_on_this_machine_in_one_of_its_spellings() {
        let rows = [
            ("http://127.0.0.1/callback", Some("http://127.0.0.1:7/callback")),
            ("http://127.0.0.1", Some("http://127.0.0.1:7/")),
            ("http://localhost:8400/a/b", Some("http://localhost:7/a/b")),
            ("http://[::1]/x", Some("http://[::1]:7/x")),
            ("https://127.0.0.1/callback", None),
            ("http://127.0.0.1.example/callback", None),
            ("http://localhost.example/", None),
            ("http://localhost:0/", None),
            ("http://localhost:+8/", None),
            ("http://localhost:70000/", None),
            ("http://example.com/callback", None),
            ("http://user@localhost/", None),
            ("http://127.0.0.1/callback?x=1", None),
            ("http://127.0.0.1/#x", None),
            ("http://127.0.0.1?x", None),
            ("valetd:/callback", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let uri = LoopbackRedirect::parse(text).ok().map(|redirect| redirect.uri(Some(7)));
            assert_eq!(uri.as_deref(), expected, "{text}");
        }
        assert_eq!(LoopbackRedirect::parse("http://localhost:8400/").unwrap().uri(None), "http://localhost:8400/");
        assert_eq!(LoopbackRedirect::default().uri(None), "http://127.0.0.1/callback");
    }

    #[test]
    fn who_signed_in_is_asked_at_an_address_with_the_place_of_the_name() {
        let github = IdentitySource::parse("https://api.example/user#/login").unwrap();
        let IdentitySource::Address(endpoint, pointer) = github else { panic!("{github:?}") };
        assert_eq!(endpoint.to_string(), "https://api.example/user");
        assert_eq!(pointer, Pointer::parse("login").unwrap());
        assert_eq!(IdentitySource::parse("userinfo").unwrap(), IdentitySource::Userinfo);
        for bad in ["", "id", "https://api.example/user", "https://api.example/user#", "http://api.example/#id"] {
            assert!(IdentitySource::parse(bad).is_err(), "{bad}");
        }
    }
}
