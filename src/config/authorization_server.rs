//! An account's authorization server: every address of it that we know of, in one place.
//!
//! Whoever needs a list of endpoints (what a change of makes the tokens others, what a route refuses to proxy, what a
//! credential is bound to, whom `doctor` asks) takes [`AuthorizationServer::endpoints`] and asks each [`EndpointKind`] the
//! question at hand. So a new endpoint is a field here, a kind, and an answer to each question, which the compiler asks for.
//!
//! An `issuer` brings the endpoints that the text does not state, from its metadata (RFC 8414 section 3). They are fetched and
//! kept on a floor that has a network, and come in here as one of the facts that a configuration is read with. As long as
//! they are not known, the account has no token endpoint, and nothing of it is sent anywhere.

use super::address::Endpoint;
use super::names::AccountId;
use super::problem::Complaint;
use super::read::{Located, Table};
use super::reader::{CrossChecks, Reader};
use super::sign_in::is_anothers;
use crate::oauth::metadata::Metadata;
use crate::oauth::{Dialect, EndpointKind, GrantType};

/// Where an account's grants are sent, its tokens revoked, and its people sign in.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct AuthorizationServer {
    /// Who it is (RFC 8414 section 2): where its metadata is found, and what `iss` in a response must be.
    pub issuer: Option<Issuer>,
    /// Whether it announces that its authorization responses say who answers (RFC 9207): then one that does not is none of its.
    pub names_issuer: bool,
    /// Where grants are sent as forms (RFC 6749 section 3.2); absent only where there is an issuer whose metadata are not
    /// known yet.
    pub token: Option<Endpoint>,
    /// Where Cognito's JSON grants are sent; present if and only if the account's dialect is one of them.
    pub cognito: Option<Endpoint>,
    /// Where a refresh token is revoked (RFC 7009), if anywhere.
    pub revocation: Option<Endpoint>,
    /// The page that shows or hands back a one-time code, with `response_type=code` in its query where the page wants it;
    /// the client's id and redirect URI are added to it.
    pub login_page: Option<Endpoint>,
    /// Where a browser is sent to sign in (RFC 6749 section 3.1).
    pub authorization: Option<Endpoint>,
    /// Where a device code is asked for (RFC 8628 section 3.1).
    pub device_authorization: Option<Endpoint>,
    /// Where an authorization request may be sent beforehand (RFC 9126).
    pub pushed_authorization: Option<Endpoint>,
    /// Where it is asked whose an access token is (OpenID Connect Core section 5.3).
    pub userinfo: Option<Endpoint>,
    /// Where it is asked what a token is good for (RFC 7662).
    pub introspection: Option<Endpoint>,
    /// Where a client registers itself (RFC 7591).
    pub registration: Option<Endpoint>,
}

/// An issuer identifier (RFC 8414 section 2): an https URL, or an http one on loopback, without query and fragment. It is
/// compared byte for byte, so it is kept as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Issuer {
    text: String,
    /// The address that it is as well.
    pub endpoint: Endpoint,
}

impl Issuer {
    /// Reads an issuer.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that starts with the key's name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let endpoint = Endpoint::parse(text)?;
        if endpoint.path_and_query.contains('?') {
            return Err("has a query, which no issuer has (RFC 8414 section 2)".to_owned());
        }
        Ok(Self { text: text.to_owned(), endpoint })
    }

    /// As it is written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The endpoints that its metadata name. Only an issuer on this machine has some there: a server elsewhere must not lead
    /// us to what listens here.
    ///
    /// # Errors
    ///
    /// Which of them is none that can be used, as the end of a sentence that begins with where the metadata were found.
    pub(crate) fn endpoints_in(&self, metadata: &Metadata) -> Result<Vec<(EndpointKind, Endpoint)>, String> {
        let read = |(kind, text): (EndpointKind, &str)| {
            let key = kind.key();
            let endpoint = Endpoint::parse(text).map_err(|why| format!("names a {key} that {why}"))?;
            if endpoint.origin.is_loopback() && !self.endpoint.origin.is_loopback() {
                return Err(format!("names a {key} on this machine, although the issuer is elsewhere"));
            }
            Ok((kind, endpoint))
        };
        metadata.endpoints().map(read).collect()
    }
}

impl AuthorizationServer {
    /// All endpoints that there are, the token endpoint first.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (EndpointKind, &Endpoint)> {
        // destructured whole: a new endpoint is in every list
        let AuthorizationServer {
            issuer: _,
            names_issuer: _,
            token,
            cognito,
            revocation,
            login_page,
            authorization,
            device_authorization,
            pushed_authorization,
            userinfo,
            introspection,
            registration,
        } = self;
        [
            (EndpointKind::Token, token),
            (EndpointKind::Cognito, cognito),
            (EndpointKind::Revocation, revocation),
            (EndpointKind::LoginPage, login_page),
            (EndpointKind::Authorization, authorization),
            (EndpointKind::DeviceAuthorization, device_authorization),
            (EndpointKind::PushedAuthorization, pushed_authorization),
            (EndpointKind::Userinfo, userinfo),
            (EndpointKind::Introspection, introspection),
            (EndpointKind::Registration, registration),
        ]
        .into_iter()
        .filter_map(|(kind, endpoint)| Some((kind, endpoint.as_ref()?)))
    }

    /// The endpoint of a kind, if there is one.
    pub(crate) fn endpoint(&self, wanted: EndpointKind) -> Option<&Endpoint> {
        self.endpoints().find(|(kind, _)| *kind == wanted).map(|(_, endpoint)| endpoint)
    }

    /// Those that may be sent the refresh token or the password, the token endpoint first.
    pub(crate) fn credential_endpoints(&self) -> impl Iterator<Item = (EndpointKind, &Endpoint)> {
        self.endpoints().filter(|(kind, _)| kind.takes_credentials())
    }

    /// Those that hand out tokens, the token endpoint first.
    pub(crate) fn token_endpoints(&self) -> impl Iterator<Item = (EndpointKind, &Endpoint)> {
        self.endpoints().filter(|(kind, _)| kind.issues_tokens())
    }

    /// What a client is registered at: the issuer, or the registration endpoint of a server without one.
    pub(crate) fn registrar(&self) -> String {
        let endpoint = || self.registration.as_ref().map(ToString::to_string).unwrap_or_default();
        self.issuer.as_ref().map_or_else(endpoint, |issuer| issuer.as_str().to_owned())
    }

    /// Whether tokens come from the same endpoints of the same issuer.
    pub(crate) fn issues_the_same_tokens(&self, other: &AuthorizationServer) -> bool {
        self.issuer == other.issuer && self.token_endpoints().eq(other.token_endpoints())
    }
}

/// An endpoint's address with the client's id in the place of `{client_id}`: GitHub has it in a path.
pub(super) fn with_client(text: &str, client_id: &str) -> String {
    let encoded: String = form_urlencoded::byte_serialize(client_id.as_bytes()).collect();
    text.replace("{client_id}", &encoded)
}

impl<'a> Reader<'a> {
    /// `None` if there is neither a token endpoint nor an issuer, which the sink has heard of.
    pub(super) fn authorization_server(
        &self,
        account: &AccountId,
        table: &Table<'a>,
        grant: GrantType,
        dialect: Dialect,
        checks: &mut CrossChecks<'a>,
    ) -> Option<AuthorizationServer> {
        let has_server = grant != GrantType::Issued;
        if table.place_for("issuer").is_some() {
            table.require("issuer", "say who the authorization server is");
        } else if has_server && !table.has("issuer") {
            let remedy = "say where grants are sent: token_endpoint = \"https://...\", or an issuer, or a provider";
            table.require("token_endpoint", remedy);
        }
        let issuer = table.parsed("issuer", Issuer::parse).map(|found| found.value);
        let metadata = issuer.as_ref().and_then(|issuer| {
            // what was kept is of another issuer, or not as it was written: as if there were nothing
            self.facts.metadata.get(account.as_str()).filter(|metadata| metadata.issuer == issuer.as_str())
        });
        let known = issuer.as_ref().zip(metadata).and_then(|(issuer, found)| issuer.endpoints_in(found).ok());
        let known = known.unwrap_or_default();
        let names_issuer = metadata.is_some_and(|found| found.authorization_response_iss_parameter_supported);
        let mut endpoint = |kind: EndpointKind| {
            let found = known.iter().find(|(found, _)| *found == kind).map(|(_, endpoint)| endpoint);
            if !table.has(kind.key()) {
                let place = table.place_of("issuer");
                let found = found.map(|endpoint| Located { value: endpoint.clone(), place });
                checks.upstreams.extend(found.clone().filter(|_| kind.takes_credentials()));
                return found.map(|found| found.value);
            }
            if kind.takes_access_tokens() && is_anothers(table, kind.key()) {
                return None;
            }
            let client_id = table.string("client_id").map(|found| found.value).unwrap_or_default();
            let endpoint = table.parsed(kind.key(), |text| Endpoint::parse(&with_client(text, &client_id)))?;
            if kind.takes_credentials() {
                checks.upstreams.push(endpoint.clone());
            }
            Some(endpoint.value)
        };
        let token = endpoint(EndpointKind::Token);
        let revocation = endpoint(EndpointKind::Revocation);
        let cognito = endpoint(EndpointKind::Cognito);
        let login_page = endpoint(EndpointKind::LoginPage);
        let authorization = endpoint(EndpointKind::Authorization);
        let device_authorization = endpoint(EndpointKind::DeviceAuthorization);
        let pushed_authorization = endpoint(EndpointKind::PushedAuthorization);
        let userinfo = endpoint(EndpointKind::Userinfo);
        let introspection = endpoint(EndpointKind::Introspection);
        let registration = endpoint(EndpointKind::Registration);
        let cognito = match dialect {
            Dialect::CognitoInitiateAuth | Dialect::CognitoGetTokens => {
                table.require("cognito_endpoint", "the grant needs it: \"https://cognito-idp.REGION.amazonaws.com/\"");
                table.require("client_id", "the grant needs it: the app client's id");
                cognito
            }
            Dialect::Rfc6749 | Dialect::Earthdata => {
                if table.is_own("cognito_endpoint") {
                    let remedy = "say grant = \"cognito_initiate_auth\" or \"cognito_get_tokens\", or leave it out";
                    self.sink.warning(
                        &table.place_of("cognito_endpoint"),
                        Complaint::new("is not used by this grant", remedy),
                    );
                }
                None
            }
        };
        if has_server && token.is_none() && issuer.is_none() {
            return None;
        }
        Some(AuthorizationServer {
            issuer,
            names_issuer,
            token,
            cognito,
            revocation,
            login_page,
            authorization,
            device_authorization,
            pushed_authorization,
            userinfo,
            introspection,
            registration,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Option<Endpoint> {
        Some(Endpoint::parse(&format!("https://{host}.example/")).unwrap())
    }

    #[test]
    fn each_list_of_endpoints_has_those_that_answer_its_question() {
        let server = AuthorizationServer {
            issuer: Some(Issuer::parse("https://issuer.example").unwrap()),
            names_issuer: true,
            token: at("token"),
            cognito: at("cognito"),
            revocation: at("revocation"),
            login_page: at("login"),
            authorization: at("authorization"),
            device_authorization: at("device"),
            pushed_authorization: at("par"),
            userinfo: at("userinfo"),
            introspection: at("introspection"),
            registration: at("registration"),
        };
        use EndpointKind::{Cognito, Introspection, LoginPage, Revocation, Token};
        let kinds =
            |all: &mut dyn Iterator<Item = (EndpointKind, &Endpoint)>| all.map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds(&mut server.endpoints()), EndpointKind::ALL);
        assert_eq!(kinds(&mut server.credential_endpoints()), [Token, Cognito, Revocation, Introspection]);
        assert_eq!(kinds(&mut server.token_endpoints()), [Token, Cognito]);
        assert_eq!(server.endpoint(LoginPage), at("login").as_ref());
        let alone = AuthorizationServer { token: at("token"), ..AuthorizationServer::default() };
        assert_eq!(kinds(&mut alone.endpoints()), [Token]);
        assert_eq!(alone.endpoint(Revocation), None);
    }

    #[test]
    fn tokens_are_the_same_as_long_as_they_come_from_the_same_endpoints() {
        let issuer = |text: &str| Some(Issuer::parse(text).unwrap());
        let old = AuthorizationServer {
            issuer: issuer("https://a.example"),
            token: at("a"),
            cognito: at("b"),
            ..AuthorizationServer::default()
        };
        let other = at("other");
        let rows = [
            ("nothing", old.clone(), true),
            ("token", AuthorizationServer { token: at("other"), ..old.clone() }, false),
            ("cognito", AuthorizationServer { cognito: other.clone(), ..old.clone() }, false),
            ("no cognito", AuthorizationServer { cognito: None, ..old.clone() }, false),
            ("issuer", AuthorizationServer { issuer: issuer("https://a.example/"), ..old.clone() }, false),
            ("revocation", AuthorizationServer { revocation: other.clone(), ..old.clone() }, true),
            ("login page", AuthorizationServer { login_page: other.clone(), ..old.clone() }, true),
            ("authorization", AuthorizationServer { authorization: other, ..old.clone() }, true),
        ];
        for (changed, new, expected) in rows {
            assert_eq!(old.issues_the_same_tokens(&new), expected, "{changed}");
        }
    }

    #[test]
    fn an_issuers_metadata_lead_nowhere_that_an_endpoint_may_not_be() {
        let of = |issuer: &str, device: &str| {
            let text = format!(
                "{{\"issuer\":\"{issuer}\",\"token_endpoint\":\"{issuer}/t\",\"device_authorization_endpoint\":\"{device}\"}}"
            );
            let metadata = Metadata::read(text.as_bytes(), issuer).unwrap();
            Issuer::parse(issuer).unwrap().endpoints_in(&metadata)
        };
        assert_eq!(of("https://a.example", "https://b.example/d").unwrap().len(), 2);
        assert_eq!(of("http://127.0.0.1:7", "http://localhost:8/d").unwrap().len(), 2);
        for (device, expected) in [
            ("http://b.example/d", "a device_authorization_endpoint that is plain http"),
            ("https://127.0.0.1/d", "on this machine"),
            ("http://localhost:8253/d", "on this machine"),
            ("https://169.254.169.254/d", "link-local"),
            ("file:///etc/passwd", "scheme"),
        ] {
            let words = of("https://a.example", device).unwrap_err();
            assert!(words.contains(expected), "{device}: {words}");
        }
    }

    #[test]
    fn an_issuer_is_an_address_without_query_and_kept_as_it_is_written() {
        for good in ["https://a.example", "https://A.example/realms/x/", "http://127.0.0.1:8080"] {
            assert_eq!(Issuer::parse(good).unwrap().as_str(), good);
        }
        for bad in ["https://a.example/?x", "https://a.example#x", "http://a.example", "a.example", ""] {
            assert!(Issuer::parse(bad).is_err(), "{bad}");
        }
    }
}
