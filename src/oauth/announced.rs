//! What an API says of who gives out its tokens: a protected resource's metadata (RFC 9728), and an openEO back-end's list of
//! providers. Bytes in; what is believed out, or a refusal in words.

use serde::Deserialize;

use super::challenge;
use super::metadata::{LONGEST, bounded, document, quoted, split};

/// A protected resource's metadata (RFC 9728): an API says which authorization servers it believes.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct ProtectedResource {
    /// What it calls itself: what `resource` says (RFC 8707).
    pub resource: String,
    /// The issuers of its tokens.
    #[serde(default)]
    pub authorization_servers: Vec<String>,
    /// The scopes that its requests may need.
    #[serde(default)]
    pub scopes_supported: Vec<String>,
}

impl ProtectedResource {
    /// Where the metadata of a resource may be (RFC 9728 section 3.1), the best first: for its path, and for the whole host.
    pub(crate) fn places(resource: &str) -> Vec<String> {
        let (origin, path) = split(resource.trim_end_matches('/'));
        let well_known = format!("{origin}/.well-known/oauth-protected-resource");
        let mut places = vec![format!("{well_known}{}", path.split('?').next().unwrap_or_default()), well_known];
        places.dedup();
        places
    }

    /// Where a 401 says that they are: `resource_metadata` of its `WWW-Authenticate` (RFC 9728 section 5.1).
    pub(crate) fn place_in(challenge: &str) -> Option<String> {
        challenge::parameter(challenge, "resource_metadata").filter(|text| !text.is_empty() && text.len() <= LONGEST)
    }

    /// Reads a document that is to be that of the resource at `address`.
    ///
    /// # Errors
    ///
    /// Why it is not believed, as the end of a sentence that begins with where it was found.
    pub(crate) fn read(bytes: &[u8], address: &str) -> Result<Self, String> {
        let found: Self = document(bytes)?;
        let texts = [&found.resource].into_iter().chain(&found.authorization_servers).chain(&found.scopes_supported);
        let length = found.authorization_servers.len().max(found.scopes_supported.len());
        bounded(texts.map(String::as_str), length)?;
        // section 3.3 wants them identical; servers that speak for all of their host, or of a folder, name that
        let bare = found.resource.trim_end_matches('/');
        let rest = address.strip_prefix(bare);
        let covers = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        if bare.is_empty() || !covers || split(bare).0 != split(address).0 {
            return Err(format!("is about {}, and not about this address", quoted(&found.resource)));
        }
        if found.authorization_servers.is_empty() {
            return Err("names no authorization server".to_owned());
        }
        Ok(found)
    }
}

/// An identity provider of an openEO back-end (openEO API, `GET /credentials/oidc`).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct OpenEoProvider {
    /// What stands in the token's prefix: `oidc/ID/TOKEN`.
    pub id: String,
    /// Its issuer.
    pub issuer: String,
    /// The scopes to ask for.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// For people.
    #[serde(default)]
    pub title: String,
    /// Clients that anybody may use.
    #[serde(default)]
    pub default_clients: Vec<OpenEoClient>,
}

/// A client that an openEO back-end offers to anybody.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct OpenEoClient {
    /// Its id.
    pub id: String,
    /// Where its browser may come back to.
    #[serde(default)]
    pub redirect_urls: Vec<String>,
    /// What it may do: `authorization_code+pkce`, `urn:ietf:params:oauth:grant-type:device_code+pkce`, …
    #[serde(default)]
    pub grant_types: Vec<String>,
}

/// How an openEO client's grant is called that asks for a device code with a code challenge, and without.
pub(crate) const DEVICE_CODE_PKCE: &str = "urn:ietf:params:oauth:grant-type:device_code+pkce";
/// The same without.
pub(crate) const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

impl OpenEoProvider {
    /// Reads the list of a back-end's providers.
    ///
    /// # Errors
    ///
    /// Why it is not believed, as the end of a sentence that begins with where it was found.
    pub(crate) fn read_all(bytes: &[u8]) -> Result<Vec<Self>, String> {
        #[derive(Deserialize)]
        struct Providers {
            providers: Vec<OpenEoProvider>,
        }
        let Providers { providers } = document(bytes)?;
        for provider in &providers {
            let clients = provider.default_clients.iter().flat_map(|c| c.redirect_urls.iter().chain([&c.id]));
            let texts = [&provider.id, &provider.issuer, &provider.title].into_iter().chain(&provider.scopes);
            let length = provider.scopes.len().max(provider.default_clients.len());
            bounded(texts.chain(clients).map(String::as_str), length.max(providers.len()))?;
        }
        if providers.is_empty() { Err("lists no provider".to_owned()) } else { Ok(providers) }
    }
}

/// The versions of a back-end's API (`/.well-known/openeo`), of which there is one at least.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OpenEoVersions {
    newest: String,
    urls: Vec<String>,
}

impl OpenEoVersions {
    /// Reads the list.
    ///
    /// # Errors
    ///
    /// Why it is none, as the end of a sentence that begins with where it was found.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versions {
            versions: Vec<Version>,
        }
        #[derive(Deserialize)]
        struct Version {
            url: String,
            api_version: String,
            #[serde(default)]
            production: bool,
        }
        let Versions { versions } = document(bytes)?;
        let number = |version: &Version| -> Vec<u32> {
            version.api_version.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
        };
        if versions.iter().any(|version| number(version).is_empty()) {
            return Err("lists a version without a number".to_owned());
        }
        let newest = versions.iter().max_by_key(|version| (version.production, number(version)));
        let newest = newest.ok_or("lists no version")?.url.clone();
        bounded(versions.iter().map(|version| version.url.as_str()), versions.len())?;
        Ok(Self { newest, urls: versions.into_iter().map(|version| version.url).collect() })
    }

    /// The address of the API that is meant where none is named: the newest that is for production, or else the newest.
    pub(crate) fn newest(&self) -> &str {
        &self.newest
    }

    /// Whether an address is one of theirs.
    pub(crate) fn list(&self, address: &str) -> bool {
        self.urls.iter().any(|url| url.trim_end_matches('/') == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resources_metadata_are_looked_for_at_two_places() {
        assert_eq!(
            ProtectedResource::places("https://m.example/mcp?x=1"),
            [
                "https://m.example/.well-known/oauth-protected-resource/mcp",
                "https://m.example/.well-known/oauth-protected-resource"
            ]
        );
    }

    #[test]
    fn a_resources_metadata_are_about_its_address_or_what_it_is_in() {
        let of = |resource: &str| {
            let text = format!("{{\"resource\":\"{resource}\",\"authorization_servers\":[\"https://a.example\"]}}");
            ProtectedResource::read(text.as_bytes(), "https://m.example/mcp/v1")
        };
        for good in ["https://m.example/mcp/v1", "https://m.example/mcp", "https://m.example/", "https://m.example"] {
            assert!(of(good).is_ok(), "{good}");
        }
        for bad in
            ["https://m.example/mc", "https://m.exampl", "https://other.example", "", "https://m.example/mcp/v1/x"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
        let nobody = b"{\"resource\":\"https://m.example\"}";
        assert!(ProtectedResource::read(nobody, "https://m.example").unwrap_err().contains("no authorization server"));
    }

    #[test]
    fn a_challenge_says_where_the_metadata_are() {
        let rows = [
            ("Bearer resource_metadata=\"https://m.example/x\"", Some("https://m.example/x")),
            ("Bearer error=\"e\", Resource_Metadata=https://m.example/x, a=b", Some("https://m.example/x")),
            ("Bearer realm=\"x\"", None),
            ("Bearer resource_metadata=\"\"", None),
            ("", None),
        ];
        for (challenge, expected) in rows {
            assert_eq!(ProtectedResource::place_in(challenge).as_deref(), expected, "{challenge}");
        }
    }

    #[test]
    fn an_openeo_back_end_names_its_providers_and_its_newest_version() {
        let text = br#"{"providers":[{"id":"egi","issuer":"https://aai.example/r","title":"EGI","scopes":["openid"],
            "default_clients":[{"id":"c","grant_types":["urn:ietf:params:oauth:grant-type:device_code+pkce"],
            "redirect_urls":["x"]}]}]}"#;
        let providers = OpenEoProvider::read_all(text).unwrap();
        assert_eq!((providers[0].id.as_str(), providers[0].default_clients[0].id.as_str()), ("egi", "c"));
        assert_eq!(providers[0].default_clients[0].grant_types, [DEVICE_CODE_PKCE]);
        assert!(OpenEoProvider::read_all(b"{\"providers\":[]}").is_err());
        let versions = br#"{"versions":[{"url":"https://o.example/1.1","api_version":"1.1.0","production":true},
            {"url":"https://o.example/1.10","api_version":"1.10.0","production":true},
            {"url":"https://o.example/2","api_version":"2.0.0-beta"}]}"#;
        let versions = OpenEoVersions::read(versions).unwrap();
        assert_eq!(versions.newest(), "https://o.example/1.10");
        assert!(versions.list("https://o.example/2") && !versions.list("https://o.example"));
        for none in
            [&b"{\"versions\":[]}"[..], b"{\"ok\":true}", b"{\"versions\":[{\"url\":\"u\",\"api_version\":\"x\"}]}"]
        {
            assert!(OpenEoVersions::read(none).is_err());
        }
    }
}
