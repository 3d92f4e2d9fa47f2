//! An account's authorization server: every address of it that we know of, in one place.
//!
//! Whoever needs a list of endpoints (what a change of makes the tokens others, what a route refuses to proxy, what a
//! credential is bound to, whom `doctor` asks) takes [`AuthorizationServer::endpoints`] and asks each [`EndpointKind`] the
//! question at hand. So a new endpoint is a field here, a kind, and an answer to each question, which the compiler asks for.
//!
//! Discovery (RFC 8414 section 3) comes in here: an `issuer` beside the addresses that the text states, and the others from
//! its metadata, fetched and kept on a floor that has a network. Readers of [`AuthorizationServer::endpoint`] then ask
//! that floor instead of these fields.

use super::address::Endpoint;
use super::problem::Complaint;
use super::read::Table;
use super::reader::{CrossChecks, Reader};
use crate::oauth::{Dialect, EndpointKind};

/// Where an account's grants are sent, its tokens revoked, and its people sign in.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct AuthorizationServer {
    /// Where grants are sent as forms (RFC 6749 section 3.2).
    pub token: Endpoint,
    /// Where Cognito's JSON grants are sent; present if and only if the account's dialect is one of them.
    pub cognito: Option<Endpoint>,
    /// Where a refresh token is revoked (RFC 7009), if anywhere.
    pub revocation: Option<Endpoint>,
    /// The page that shows or hands back a one-time code, with `response_type=code` in its query where the page wants it;
    /// the client's id and redirect URI are added to it.
    pub login_page: Option<Endpoint>,
}

impl AuthorizationServer {
    /// All endpoints that there are, the token endpoint first.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (EndpointKind, &Endpoint)> {
        // destructured whole: a new endpoint is in every list
        let AuthorizationServer { token, cognito, revocation, login_page } = self;
        [
            (EndpointKind::Token, Some(token)),
            (EndpointKind::Cognito, cognito.as_ref()),
            (EndpointKind::Revocation, revocation.as_ref()),
            (EndpointKind::LoginPage, login_page.as_ref()),
        ]
        .into_iter()
        .filter_map(|(kind, endpoint)| Some((kind, endpoint?)))
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

    /// Whether tokens come from the same endpoints.
    pub(crate) fn issues_the_same_tokens(&self, other: &AuthorizationServer) -> bool {
        self.token_endpoints().eq(other.token_endpoints())
    }
}

impl<'a> Reader<'a> {
    /// `None` if there is no token endpoint, which the sink has heard of.
    pub(super) fn authorization_server(
        &self,
        table: &Table<'a>,
        dialect: Dialect,
        checks: &mut CrossChecks<'a>,
    ) -> Option<AuthorizationServer> {
        table.require("token_endpoint", "say where grants are sent: token_endpoint = \"https://...\", or a provider");
        let mut endpoint = |kind: EndpointKind| {
            let endpoint = table.parsed(kind.key(), Endpoint::parse)?;
            if kind.takes_credentials() {
                checks.upstreams.push(endpoint.clone());
            }
            Some(endpoint.value)
        };
        let token = endpoint(EndpointKind::Token);
        let revocation = endpoint(EndpointKind::Revocation);
        let cognito = endpoint(EndpointKind::Cognito);
        let login_page = endpoint(EndpointKind::LoginPage);
        let cognito = match dialect {
            Dialect::CognitoInitiateAuth | Dialect::CognitoGetTokens => {
                table.require("cognito_endpoint", "the grant needs it: \"https://cognito-idp.REGION.amazonaws.com/\"");
                table.require("client_id", "the grant needs it: the app client's id");
                cognito
            }
            Dialect::Rfc6749 => {
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
        Some(AuthorizationServer { token: token?, cognito, revocation, login_page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_of_endpoints_has_those_that_answer_its_question() {
        let at = |host: &str| Endpoint::parse(&format!("https://{host}.example/")).unwrap();
        let server = AuthorizationServer {
            token: at("token"),
            cognito: Some(at("cognito")),
            revocation: Some(at("revocation")),
            login_page: Some(at("login")),
        };
        use EndpointKind::{Cognito, LoginPage, Revocation, Token};
        let kinds =
            |all: &mut dyn Iterator<Item = (EndpointKind, &Endpoint)>| all.map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds(&mut server.endpoints()), [Token, Cognito, Revocation, LoginPage]);
        assert_eq!(kinds(&mut server.endpoints()), EndpointKind::ALL);
        assert_eq!(kinds(&mut server.credential_endpoints()), [Token, Cognito, Revocation]);
        assert_eq!(kinds(&mut server.token_endpoints()), [Token, Cognito]);
        assert_eq!(server.endpoint(LoginPage), Some(&at("login")));
        let alone = AuthorizationServer { cognito: None, revocation: None, login_page: None, ..server.clone() };
        assert_eq!(kinds(&mut alone.endpoints()), [Token]);
        assert_eq!(alone.endpoint(Revocation), None);
    }

    #[test]
    fn tokens_are_the_same_as_long_as_they_come_from_the_same_endpoints() {
        let at = |host: &str| Endpoint::parse(&format!("https://{host}.example/")).unwrap();
        let old = AuthorizationServer { token: at("a"), cognito: Some(at("b")), revocation: None, login_page: None };
        let other = Some(at("other"));
        let rows = [
            ("nothing", old.clone(), true),
            ("token", AuthorizationServer { token: at("other"), ..old.clone() }, false),
            ("cognito", AuthorizationServer { cognito: other.clone(), ..old.clone() }, false),
            ("no cognito", AuthorizationServer { cognito: None, ..old.clone() }, false),
            ("revocation", AuthorizationServer { revocation: other.clone(), ..old.clone() }, true),
            ("login page", AuthorizationServer { login_page: other, ..old.clone() }, true),
        ];
        for (changed, new, expected) in rows {
            assert_eq!(old.issues_the_same_tokens(&new), expected, "{changed}");
        }
    }
}
