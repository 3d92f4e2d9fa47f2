//! Providers as data: the presets that come with the binary. A user's file of the same name takes its place.

use super::address::Endpoint;
use super::problem::{Sink, Source};
use super::read::{Document, Table};
use crate::oauth::EndpointKind;

/// Name and text of every preset, in the order of the names.
const EMBEDDED: &[(&str, &str)] = &[
    ("cdse", include_str!("../../config/providers/cdse.toml")),
    ("eumetsat", include_str!("../../config/providers/eumetsat.toml")),
    ("gbdx", include_str!("../../config/providers/gbdx.toml")),
    ("gdh", include_str!("../../config/providers/gdh.toml")),
    ("mgp", include_str!("../../config/providers/mgp.toml")),
    ("sentinelhub", include_str!("../../config/providers/sentinelhub.toml")),
    ("terrascope", include_str!("../../config/providers/terrascope.toml")),
    ("up42", include_str!("../../config/providers/up42.toml")),
];

/// A preset that comes with the binary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Preset {
    /// What `provider = "..."` says.
    pub name: &'static str,
    /// What it is, for people.
    pub description: String,
    /// The file, with its comments: a start for one's own.
    pub text: &'static str,
}

/// The presets that come with the binary, in the order of their names.
pub(crate) fn presets() -> impl Iterator<Item = Preset> {
    EMBEDDED.iter().map(|(name, text)| {
        let (source, sink) = (embedded(name, text), Sink::default());
        let document = Document::read(&source, &sink);
        let description = Table::new([document.layer()], &sink).string("description");
        Preset { name, description: description.map(|found| found.value).unwrap_or_default(), text }
    })
}

/// The origins of all endpoints of the presets that come with the binary and whose token endpoint is on this origin.
pub(crate) fn shipped_origins(token_endpoint: &str) -> Vec<String> {
    let origins = EMBEDDED.iter().map(|(name, text)| {
        let (source, sink) = (embedded(name, text), Sink::default());
        let document = Document::read(&source, &sink);
        let table = Table::new([document.layer()], &sink);
        let kinds = EndpointKind::ALL.into_iter().filter(|kind| kind.takes_credentials());
        let endpoints = kinds.filter_map(|kind| table.parsed(kind.key(), Endpoint::parse));
        endpoints.map(|endpoint| endpoint.value.origin.to_string()).collect::<Vec<_>>()
    });
    origins.filter(|origins| origins.first().is_some_and(|first| first == token_endpoint)).flatten().collect()
}

/// The environment variables that the presets which come with the binary import a refresh token from.
pub(crate) fn import_variables() -> impl Iterator<Item = String> {
    EMBEDDED.iter().flat_map(|(name, text)| {
        let (source, sink) = (embedded(name, text), Sink::default());
        let document = Document::read(&source, &sink);
        let places = Table::new([document.layer()], &sink).array_of_tables("import").unwrap_or_default();
        let variables = places.into_iter().filter_map(|place| place.string("environment").map(|found| found.value));
        variables.collect::<Vec<_>>()
    })
}

/// The user's provider files and the embedded ones that they do not shadow.
pub(super) fn all(user: &[(String, Source)]) -> Vec<(String, Source)> {
    let shadowed = |name: &str| user.iter().any(|(theirs, _)| theirs == name);
    let ours = EMBEDDED.iter().filter(|(name, _)| !shadowed(name));
    user.iter().cloned().chain(ours.map(|(name, text)| (name.to_string(), embedded(name, text)))).collect()
}

fn embedded(name: &str, text: &str) -> Source {
    Source { name: format!("built-in provider {name}"), text: text.into(), readable_by_others: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{facts, parse_with, source};
    use crate::config::{Config, ImportSource, SignInMethod, TokenKind};
    use crate::oauth::{ClientAuth, Dialect, GrantType};
    use std::time::Duration;

    fn with_account(name: &str) -> Config {
        // the two whose client is the user's own want its id and secret
        let own_client = "client_id = \"mine\"\nclient_secret = { credential = \"mine\" }\n";
        let client = if matches!(name, "eumetsat" | "sentinelhub") { own_client } else { "" };
        parse_with(&format!("[account.{name}]\nprovider = \"{name}\"\n{client}"), &[]).config
    }

    #[test]
    fn every_preset_makes_an_account_with_a_route_of_its_name_and_no_warning() {
        for preset in presets() {
            assert!(!preset.description.is_empty(), "{}", preset.name);
            let config = with_account(preset.name);
            assert!(config.routes.iter().any(|route| route.name.as_str() == preset.name), "{}", preset.name);
            assert_eq!(config.accounts[preset.name].description.as_ref(), Some(&preset.description));
        }
        assert!(EMBEDDED.is_sorted_by_key(|(name, _)| *name));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/providers");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), EMBEDDED.len(), "a preset is not embedded");
    }

    #[test]
    fn gdh_renews_by_cognitos_json_and_sends_the_raw_id_token() {
        let config = with_account("gdh");
        let account = &config.accounts["gdh"];
        assert_eq!((account.grant, account.dialect), (GrantType::RefreshToken, Dialect::CognitoInitiateAuth));
        let endpoint = account.server.cognito.as_ref().map(ToString::to_string);
        assert_eq!(endpoint.as_deref(), Some("https://cognito-idp.eu-west-1.amazonaws.com/"));
        assert_eq!((account.header.name.as_str(), account.header.before.as_str()), ("authorization", ""));
        assert_eq!(account.header.token, TokenKind::IdToken);
        assert_eq!(account.client_auth, ClientAuth::None);
        assert_eq!(account.client_id.as_deref(), Some("7aetu7cj45ah6m494hutdldbd1"));
        assert_eq!(account.renew.assumed_lifetime, Duration::from_secs(3600));
        assert_eq!(account.renew.refresh_lifetime, Some(Duration::from_secs(27 * 86_400)));
        assert_eq!(account.sign_in.methods, [SignInMethod::Paste]);
        assert_eq!(account.sign_in.redirect_uri.as_deref(), Some("https://www.geodatahub.dk/validate-code.html"));
        let file = facts().home.join(".gdh/authentication");
        let import = [ImportSource::Environment("GDH_REFRESH_TOKEN".into()), ImportSource::JsonFile(file)];
        assert_eq!(account.sign_in.import, import);
        assert_eq!(config.routes[0].upstream.to_string(), "https://api.geodatahub.dk");
    }

    #[test]
    fn gbdx_serves_four_hosts_with_one_token_and_never_its_token_endpoint() {
        let config = with_account("gbdx");
        let account = &config.accounts["gbdx"];
        assert_eq!((account.grant, account.dialect), (GrantType::RefreshToken, Dialect::Rfc6749));
        assert_eq!(account.client_id, None);
        assert_eq!(account.server.token.as_ref().unwrap().to_string(), "https://geobigdata.io/auth/v1/oauth/token/");
        assert_eq!((account.header.before.as_str(), account.header.token), ("Bearer ", TokenKind::AccessToken));
        assert_eq!(account.renew.assumed_lifetime, Duration::from_secs(7 * 86_400));
        assert_eq!(account.sign_in.methods, [SignInMethod::Password]);
        assert!(
            matches!(&account.sign_in.import[..], [ImportSource::GbdxConfig(path)] if path.ends_with(".gbdx-config"))
        );
        let routes: Vec<_> = config.routes.iter().map(|r| (r.name.to_string(), r.upstream.to_string())).collect();
        let expected = [
            ("gbdx", "https://geobigdata.io"),
            ("gbdx-idaho", "https://idaho.geobigdata.io"),
            ("gbdx-rda", "https://rda.geobigdata.io"),
            ("gbdx-vector", "https://vector.geobigdata.io"),
        ];
        assert_eq!(routes, expected.map(|(name, upstream)| (name.to_owned(), upstream.to_owned())));
        assert_eq!(config.routes[0].refuse, ["/auth/v1/oauth/token"]);
        assert!(config.routes.iter().all(|route| route.account.as_str() == "gbdx"));
    }

    #[test]
    fn what_a_preset_ships_with_is_known_by_its_token_endpoint() {
        let gdh = shipped_origins("https://auth-dev.geodatahub.dk");
        assert!(gdh.contains(&"https://cognito-idp.eu-west-1.amazonaws.com".to_owned()), "{gdh:?}");
        for other in ["https://cognito-idp.eu-west-1.amazonaws.com", "http://auth-dev.geodatahub.dk", ""] {
            assert_eq!(shipped_origins(other), [""; 0], "{other}");
        }
    }

    #[test]
    fn a_users_file_takes_the_place_of_a_preset() {
        let mine = source(
            "token_endpoint = \"https://auth.mine.example/t\"\n[route.main]\nupstream = \"https://mine.example\"",
        );
        let config = parse_with("[account.gdh]\nprovider = \"gdh\"", &[("gdh".into(), mine)]).config;
        assert_eq!(config.accounts["gdh"].dialect, Dialect::Rfc6749);
        assert_eq!(config.routes[0].upstream.to_string(), "https://mine.example");
    }
}
