//! From one address to all that an account must say of it: what is there is asked, in the order of how much it tells.
//!
//! 1. an openEO back-end lists its providers, with clients that anybody may use;
//! 2. an API that answers 401, or not, names its authorization server (RFC 9728), as MCP servers do;
//! 3. an authorization server has metadata (RFC 8414, OpenID Connect).
//!
//! Nothing secret is sent, and no redirect is followed. What was found comes from the server: [`Findings`] is what is made of
//! it, and whoever asked is shown it before it counts.

use crate::config::{Endpoint, Issuer};
use crate::http_client::{HttpClient, Reach};
use crate::oauth::EndpointKind;
use crate::oauth::announced::{
    DEVICE_CODE, DEVICE_CODE_PKCE, OpenEoClient, OpenEoProvider, OpenEoVersions, ProtectedResource,
};
use crate::oauth::metadata::Metadata;

use super::{Missing, document, get};

/// What an account must say of a server. Texts are as in a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Findings {
    /// What it is, for people: "an openEO back-end".
    pub what: &'static str,
    /// Where the API is, if what was asked is one.
    pub upstream: Option<String>,
    /// The authorization server.
    pub issuer: String,
    /// What it says of itself.
    pub metadata: Metadata,
    /// Who asks.
    pub client: FoundClient,
    /// What tokens are to be for (RFC 8707).
    pub resource: Option<String>,
    /// What to ask for.
    pub scopes: Vec<String>,
    /// How a person can sign in.
    pub ways: Vec<&'static str>,
    /// Where the browser comes back to, if not to any port.
    pub redirect: Option<String>,
    /// Whether a consent page must be asked for, so that there is a refresh token.
    pub asks_for_consent: bool,
    /// Whether device codes go with a code challenge.
    pub device_pkce: bool,
    /// How the token is sent, if not as a bearer token.
    pub header: Option<String>,
    /// The ids of further providers that could be taken instead.
    pub others: Vec<String>,
}

/// Who asks for tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FoundClient {
    /// One that registers itself.
    Registers,
    /// One that the server offers to anybody.
    Offered(String),
    /// A person must say.
    Unknown,
    /// A person must say: the server names an endpoint for registrations, this one, on another host than its own, and what
    /// a server says of others makes no clients of ours there.
    Elsewhere(String),
}

/// The redirect of clients that register themselves: a fixed port, as many servers compare it.
const REGISTERED_REDIRECT: &str = "http://127.0.0.1:8254/callback";

/// How many authorization servers of one API are asked: each may take as long as a timeout.
const MOST_SERVERS: usize = 4;

/// Why it is not known how to sign in to an address.
#[derive(Debug)]
pub(crate) enum Unknown {
    /// It could not be asked: nothing is known of the server.
    Unreachable(String),
    /// It does not say; what was tried.
    Unsaid(Vec<String>),
}

impl Unknown {
    /// What is made of everything that was tried: one server that has answered is enough not to blame the network.
    fn of(tried: Vec<Missing>) -> Self {
        let is_unreachable = tried.iter().all(|missing| matches!(missing, Missing::Unreachable(_)));
        let tried: Vec<String> = tried.into_iter().map(Missing::words).collect();
        match tried.first() {
            Some(first) if is_unreachable => Self::Unreachable(first.clone()),
            _ => Self::Unsaid(tried),
        }
    }
}

/// Asks an address what it is. `provider` is the id of an openEO back-end's provider, if not the first.
///
/// # Errors
///
/// [`Unknown`]; all of it is in sentences for people.
pub(crate) async fn probe(
    http: &HttpClient,
    address: &str,
    provider: Option<&str>,
    reach: Reach<'_>,
) -> Result<Findings, Unknown> {
    let mut tried = Vec::new();
    let address = address.trim_end_matches('/');
    match open_eo(http, address, provider, reach).await {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => {}
        Err(why) => return Err(Unknown::of(vec![why])), // it is one, and nothing else
    }
    match protected_resource(http, address, reach).await {
        Ok(Api::Names(found)) => return Ok(*found),
        Ok(Api::SaysNothing) => {}
        // it has said whose tokens it takes: no other server's would do, its own host's neither
        Ok(Api::NamesOnly(missing)) => return Err(Unknown::of(missing)),
        Err(why) => tried.push(why),
    }
    let origin = origin_of(address);
    let mut places = vec![address];
    places.extend((origin != address).then_some(origin));
    for place in places {
        match server(http, place, reach).await {
            // an API's host may be its authorization server, too, as with the first MCP servers
            Ok(metadata) if place != address => return Ok(of_resource(address, None, metadata)),
            Ok(metadata) => return Ok(of_issuer(metadata)),
            Err(why) => tried.push(why),
        }
    }
    Err(Unknown::of(tried))
}

fn origin_of(address: &str) -> &str {
    let authority = address.find("://").map_or(0, |at| at + 3);
    address[authority..].find(['/', '?']).map_or(address, |at| &address[..authority + at])
}

/// The metadata of the authorization server that a text names: the issuer, with or without the slash at its end.
async fn server(http: &HttpClient, text: &str, reach: Reach<'_>) -> Result<Metadata, Missing> {
    let mut refusal = None;
    for place in Metadata::places(text) {
        let found = match document(http, &place, reach).await {
            Ok(found) => found,
            Err(missing) => {
                refusal.get_or_insert(missing);
                continue;
            }
        };
        let believed = Metadata::read_any(&found).and_then(|metadata| {
            // RFC 8414 section 3.3 wants them identical; a person, or a list, may have left out the slash
            if metadata.issuer.trim_end_matches('/') != text.trim_end_matches('/') {
                return Metadata::read(&found, text);
            }
            let issuer = Issuer::parse(&metadata.issuer).map_err(|why| format!("names an issuer that {why}"))?;
            issuer.endpoints_in(&metadata).map(|_| metadata)
        });
        match believed {
            Ok(metadata) => return Ok(metadata),
            Err(why) => refusal = Some(Missing::NotThere(format!("{place} {why}"))),
        }
    }
    Err(refusal.unwrap_or_else(|| Missing::NotThere(format!("{text} has no metadata"))))
}

/// `None` if it is no openEO back-end.
async fn open_eo(
    http: &HttpClient,
    address: &str,
    provider: Option<&str>,
    reach: Reach<'_>,
) -> Result<Option<Findings>, Missing> {
    let Ok(versions) = document(http, &format!("{}/.well-known/openeo", origin_of(address)), reach).await else {
        return Ok(None);
    };
    // a server that says something at any address is none for that
    let Ok(versions) = OpenEoVersions::read(&versions) else { return Ok(None) };
    // an address that names a version means that one
    let is_host = origin_of(address) == address;
    let api = if is_host { versions.newest().trim_end_matches('/').to_owned() } else { address.to_owned() };
    leads_here(address, &api)?;
    let place = format!("{api}/credentials/oidc");
    let listed = match document(http, &place, reach).await {
        // something else on the same host
        Err(_) if !is_host && !versions.list(address) => return Ok(None),
        Ok(listed) if !is_host && !versions.list(address) && OpenEoProvider::read_all(&listed).is_err() => {
            return Ok(None);
        }
        listed => listed?,
    };
    let providers = OpenEoProvider::read_all(&listed).map_err(|why| Missing::NotThere(format!("{place} {why}")))?;
    let chosen = match provider {
        None => providers.first(),
        Some(id) => providers.iter().find(|provider| provider.id == id),
    };
    let names: Vec<&str> = providers.iter().map(|provider| provider.id.as_str()).collect();
    let Some(chosen) = chosen else {
        return Err(Missing::NotThere(format!("{place} lists the providers {}", names.join(", "))));
    };
    leads_here(address, &chosen.issuer)?;
    let metadata = server(http, &chosen.issuer, reach).await?;
    of_open_eo(&api, chosen, metadata, &names).map(Some).map_err(Missing::NotThere)
}

/// What an API says of whose tokens it takes.
enum Api {
    /// Nothing.
    SaysNothing,
    /// A server that can be used.
    Names(Box<Findings>),
    /// Servers none of which can be used, and why each cannot.
    NamesOnly(Vec<Missing>),
}

/// Asks an address for the metadata of a protected resource, and the servers that they name in their order: the first
/// that answers as it should is taken (RFC 9728 section 7.6 leaves the choice to the client).
async fn protected_resource(http: &HttpClient, address: &str, reach: Reach<'_>) -> Result<Api, Missing> {
    let answer = get(http, address, reach).await?;
    let challenges = answer.fields.get_all(hyper::header::WWW_AUTHENTICATE).iter();
    let named = challenges.filter_map(|value| ProtectedResource::place_in(value.to_str().ok()?)).next();
    let mut refusal = None;
    for place in named.into_iter().chain(ProtectedResource::places(address)) {
        leads_here(address, &place)?;
        let Ok(found) = document(http, &place, reach).await else { continue };
        let resource = match ProtectedResource::read(&found, address) {
            Ok(resource) => resource,
            Err(why) => {
                refusal.get_or_insert(format!("{place} {why}"));
                continue;
            }
        };
        let mut missing = Vec::new();
        for issuer in resource.authorization_servers.iter().take(MOST_SERVERS) {
            let found = match leads_here(address, issuer) {
                Ok(()) => server(http, issuer, reach).await,
                Err(why) => Err(why),
            };
            match found {
                Ok(metadata) => {
                    return Ok(Api::Names(Box::new(of_resource(address, Some(&resource), metadata))));
                }
                Err(why) => missing.push(why),
            }
        }
        return Ok(Api::NamesOnly(missing));
    }
    refusal.map_or(Ok(Api::SaysNothing), |why| Err(Missing::NotThere(why)))
}

/// Refuses what a server elsewhere says of this machine.
fn leads_here(from: &str, to: &str) -> Result<(), Missing> {
    let is_here = |text: &str| Endpoint::parse(text).is_ok_and(|endpoint| endpoint.origin.is_loopback());
    match is_here(to) && !is_here(from) {
        true => Err(Missing::NotThere(format!("{from} names {to}, which is on this machine"))),
        false => Ok(()),
    }
}

/// What is made of an authorization server alone. Pure.
fn of_issuer(metadata: Metadata) -> Findings {
    let scopes = known_scopes(&metadata, &["openid", "offline_access"]);
    finding("an authorization server", metadata, scopes)
}

/// What is made of an API and its authorization server. Pure.
fn of_resource(address: &str, resource: Option<&ProtectedResource>, metadata: Metadata) -> Findings {
    let mut scopes = resource.map(|resource| resource.scopes_supported.clone()).unwrap_or_default();
    let lasting = known_scopes(&metadata, &["offline_access"]);
    scopes.extend(lasting.into_iter().filter(|scope| !scopes.contains(scope)).collect::<Vec<_>>());
    let resource = resource.map(|resource| resource.resource.clone());
    Findings {
        upstream: Some(address.to_owned()),
        resource,
        ..finding("an API that names its authorization server", metadata, scopes)
    }
}

/// What is made of an openEO back-end. Pure.
///
/// # Errors
///
/// If its provider has a name that could not stand in a header field.
fn of_open_eo(api: &str, provider: &OpenEoProvider, metadata: Metadata, names: &[&str]) -> Result<Findings, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if provider.id.is_empty() || !provider.id.chars().all(good) {
        return Err("the back-end's provider has a name that no header field can have".to_owned());
    }
    let mut scopes = provider.scopes.clone();
    for scope in ["openid", "offline_access"] {
        if !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    let can = |client: &OpenEoClient, grant: &str| client.grant_types.iter().any(|known| known == grant);
    let has_devices = metadata.endpoints().any(|(kind, _)| kind == EndpointKind::DeviceAuthorization);
    let by_device = |client: &OpenEoClient| has_devices && (can(client, DEVICE_CODE_PKCE) || can(client, DEVICE_CODE));
    // a client whose browser comes back to a page of somebody's is that page's
    let redirect_of = |client: &OpenEoClient| {
        let loopback = |uri: &&String| uri.starts_with("http://localhost:") || uri.starts_with("http://127.0.0.1:");
        let redirect = client.redirect_urls.iter().find(loopback).cloned();
        redirect.filter(|_| can(client, "authorization_code+pkce"))
    };
    let clients = &provider.default_clients;
    let by_browser = || clients.iter().find(|client| redirect_of(client).is_some());
    let client = clients.iter().find(|client| by_device(client)).or_else(by_browser);
    let mut found = finding("an openEO back-end", metadata, scopes);
    if let Some(client) = client {
        let redirect = redirect_of(client);
        found.ways = by_device(client).then_some("device").into_iter().collect();
        found.ways.extend(redirect.is_some().then_some("browser"));
        found.client = FoundClient::Offered(client.id.clone());
        found.device_pkce = can(client, DEVICE_CODE_PKCE);
        found.redirect = redirect;
    }
    Ok(Findings {
        upstream: Some(api.to_owned()),
        header: Some(format!("Authorization: Bearer oidc/{}/{{access_token}}", provider.id)),
        others: names.iter().filter(|name| **name != provider.id).map(|name| (*name).to_owned()).collect(),
        ..found
    })
}

fn finding(what: &'static str, metadata: Metadata, scopes: Vec<String>) -> Findings {
    let has = |kind| metadata.endpoints().any(|(found, _)| found == kind);
    let ways = [
        has(EndpointKind::Authorization).then_some("browser"),
        has(EndpointKind::DeviceAuthorization).then_some("device"),
    ];
    let registers = has(EndpointKind::Registration);
    let client = match metadata.foreign_registration() {
        _ if registers => FoundClient::Registers,
        Some(elsewhere) => FoundClient::Elsewhere(elsewhere.to_owned()),
        None => FoundClient::Unknown,
    };
    let is_asked = scopes.iter().any(|scope| scope == "offline_access");
    Findings {
        what,
        upstream: None,
        issuer: metadata.issuer.clone(),
        client,
        resource: None,
        ways: ways.into_iter().flatten().collect(),
        redirect: registers.then(|| REGISTERED_REDIRECT.to_owned()),
        // OpenID Connect Core section 11; at Microsoft the same would need an administrator
        asks_for_consent: is_asked && !metadata.issuer.starts_with("https://login.microsoftonline.com/"),
        device_pkce: false,
        header: None,
        others: Vec::new(),
        scopes,
        metadata,
    }
}

/// Those of some scopes that a server names.
fn known_scopes(metadata: &Metadata, wanted: &[&str]) -> Vec<String> {
    let is_known = |scope: &&&str| metadata.scopes_supported.iter().any(|known| known == **scope);
    wanted.iter().filter(is_known).map(|scope| (*scope).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(more: &str) -> Metadata {
        let text = format!("{{\"issuer\":\"https://i.example\",\"token_endpoint\":\"https://i.example/t\"{more}}}");
        Metadata::read_any(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_authorization_server_says_how_to_sign_in_and_whether_clients_register() {
        let bare = of_issuer(metadata(""));
        assert_eq!((bare.client, bare.ways, bare.scopes), (FoundClient::Unknown, vec![], vec![]));
        let full = of_issuer(metadata(
            ",\"authorization_endpoint\":\"https://i.example/a\",\"device_authorization_endpoint\":\"https://i.example/d\",\
             \"registration_endpoint\":\"https://i.example/r\",\"scopes_supported\":[\"offline_access\",\"openid\",\"x\"]",
        ));
        assert_eq!((full.client, full.ways), (FoundClient::Registers, vec!["browser", "device"]));
        assert_eq!((full.scopes, full.asks_for_consent), (vec!["openid".into(), "offline_access".into()], true));
        assert_eq!(full.redirect.as_deref(), Some(REGISTERED_REDIRECT), "servers compare the port");
        let elsewhere = of_issuer(metadata(",\"registration_endpoint\":\"https://other.example/r\""));
        assert_eq!(elsewhere.client, FoundClient::Elsewhere("https://other.example/r".into()));
        assert_eq!(elsewhere.redirect, None);
    }

    #[test]
    fn an_api_is_the_upstream_and_what_its_tokens_are_for() {
        let text = br#"{"resource":"https://m.example/mcp","authorization_servers":["https://i.example"],
            "scopes_supported":["mcp:read"]}"#;
        let resource = ProtectedResource::read(text, "https://m.example/mcp").unwrap();
        let supported = ",\"scopes_supported\":[\"openid\",\"offline_access\"]";
        let found = of_resource("https://m.example/mcp", Some(&resource), metadata(supported));
        assert_eq!(found.upstream.as_deref(), Some("https://m.example/mcp"));
        assert_eq!(found.resource.as_deref(), Some("https://m.example/mcp"));
        assert_eq!(found.scopes, ["mcp:read", "offline_access"]);
    }

    #[test]
    fn an_openeo_back_end_brings_a_client_and_a_prefix() {
        let text =
            br#"{"providers":[{"id":"egi","issuer":"https://i.example","scopes":["openid","email"],"default_clients":[
            {"id":"browser-only","grant_types":["authorization_code+pkce"],"redirect_urls":["https://editor.example"]},
            {"id":"both","grant_types":["urn:ietf:params:oauth:grant-type:device_code+pkce","authorization_code+pkce"],
             "redirect_urls":["https://editor.example","http://localhost:1410/"]}]}]}"#;
        let providers = OpenEoProvider::read_all(text).unwrap();
        let devices = ",\"device_authorization_endpoint\":\"https://i.example/d\"";
        let found = of_open_eo("https://o.example/1.2", &providers[0], metadata(devices), &["egi", "other"]).unwrap();
        assert_eq!(found.client, FoundClient::Offered("both".into()));
        assert_eq!((found.ways, found.device_pkce), (vec!["device", "browser"], true));
        assert_eq!(found.redirect.as_deref(), Some("http://localhost:1410/"));
        assert_eq!(found.header.as_deref(), Some("Authorization: Bearer oidc/egi/{access_token}"));
        assert_eq!(found.scopes, ["openid", "email", "offline_access"]);
        assert_eq!(found.others, ["other"]);
        // an account with a client that cannot sign anybody in would be no account
        let found = of_open_eo("https://o.example/1.2", &providers[0], metadata(""), &["egi"]).unwrap();
        assert_eq!((found.client, found.ways), (FoundClient::Offered("both".into()), vec!["browser"]));
        let browser_only =
            OpenEoProvider { default_clients: providers[0].default_clients[..1].to_vec(), ..providers[0].clone() };
        let found = of_open_eo("https://o.example/1.2", &browser_only, metadata(devices), &["egi"]).unwrap();
        assert_eq!((found.client, found.ways), (FoundClient::Unknown, vec!["device"]));
        let odd = OpenEoProvider { id: "a{id_token}".into(), ..providers[0].clone() };
        assert!(of_open_eo("https://o.example", &odd, metadata(""), &[]).is_err());
    }

    #[test]
    fn a_server_elsewhere_does_not_lead_to_this_machine() {
        assert!(leads_here("https://a.example", "http://127.0.0.1:8080/x").is_err());
        assert!(leads_here("https://a.example", "https://b.example").is_ok());
        assert!(leads_here("http://127.0.0.1:1", "http://localhost:2").is_ok());
    }
}
