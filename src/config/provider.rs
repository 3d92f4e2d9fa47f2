//! Providers as data: the presets that come with the binary. A user's file of the same name takes its place.

use super::address::Endpoint;
use super::authorization_server::with_client;
use super::names::AccountId;
use super::problem::{Sink, Source};
use super::read::{Document, Table};
use crate::oauth::EndpointKind;

/// Name and text of every preset, in the order of the names.
const EMBEDDED: &[(&str, &str)] = &[
    ("arcgis", include_str!("../../config/providers/arcgis.toml")),
    ("atlassian", include_str!("../../config/providers/atlassian.toml")),
    ("atlassian-mcp", include_str!("../../config/providers/atlassian-mcp.toml")),
    ("auth0", include_str!("../../config/providers/auth0.toml")),
    ("carto", include_str!("../../config/providers/carto.toml")),
    ("cdse", include_str!("../../config/providers/cdse.toml")),
    ("cdse-sentinelhub", include_str!("../../config/providers/cdse-sentinelhub.toml")),
    ("discord", include_str!("../../config/providers/discord.toml")),
    ("dropbox", include_str!("../../config/providers/dropbox.toml")),
    ("earthdata", include_str!("../../config/providers/earthdata.toml")),
    ("egi", include_str!("../../config/providers/egi.toml")),
    ("eumetsat", include_str!("../../config/providers/eumetsat.toml")),
    ("fitbit", include_str!("../../config/providers/fitbit.toml")),
    ("gbdx", include_str!("../../config/providers/gbdx.toml")),
    ("gdh", include_str!("../../config/providers/gdh.toml")),
    ("github", include_str!("../../config/providers/github.toml")),
    ("gitlab", include_str!("../../config/providers/gitlab.toml")),
    ("globus", include_str!("../../config/providers/globus.toml")),
    ("gmail", include_str!("../../config/providers/gmail.toml")),
    ("google", include_str!("../../config/providers/google.toml")),
    ("google-calendar", include_str!("../../config/providers/google-calendar.toml")),
    ("google-drive", include_str!("../../config/providers/google-drive.toml")),
    ("google-sheets", include_str!("../../config/providers/google-sheets.toml")),
    ("helmholtz", include_str!("../../config/providers/helmholtz.toml")),
    ("hubspot", include_str!("../../config/providers/hubspot.toml")),
    ("huggingface", include_str!("../../config/providers/huggingface.toml")),
    ("keycloak", include_str!("../../config/providers/keycloak.toml")),
    ("klaviyo", include_str!("../../config/providers/klaviyo.toml")),
    ("linear", include_str!("../../config/providers/linear.toml")),
    ("linear-mcp", include_str!("../../config/providers/linear-mcp.toml")),
    ("mgp", include_str!("../../config/providers/mgp.toml")),
    ("microsoft", include_str!("../../config/providers/microsoft.toml")),
    ("notion-mcp", include_str!("../../config/providers/notion-mcp.toml")),
    ("oidc", include_str!("../../config/providers/oidc.toml")),
    ("okta", include_str!("../../config/providers/okta.toml")),
    ("openeo-cdse", include_str!("../../config/providers/openeo-cdse.toml")),
    ("openeo-eodc", include_str!("../../config/providers/openeo-eodc.toml")),
    ("openeo-vito", include_str!("../../config/providers/openeo-vito.toml")),
    ("orcid", include_str!("../../config/providers/orcid.toml")),
    ("planet", include_str!("../../config/providers/planet.toml")),
    ("reddit", include_str!("../../config/providers/reddit.toml")),
    ("sentinelhub", include_str!("../../config/providers/sentinelhub.toml")),
    ("sentry-mcp", include_str!("../../config/providers/sentry-mcp.toml")),
    ("slack", include_str!("../../config/providers/slack.toml")),
    ("spotify", include_str!("../../config/providers/spotify.toml")),
    ("strava", include_str!("../../config/providers/strava.toml")),
    ("stripe-mcp", include_str!("../../config/providers/stripe-mcp.toml")),
    ("terrascope", include_str!("../../config/providers/terrascope.toml")),
    ("up42", include_str!("../../config/providers/up42.toml")),
    ("wlcg", include_str!("../../config/providers/wlcg.toml")),
    ("x", include_str!("../../config/providers/x.toml")),
    ("zenodo", include_str!("../../config/providers/zenodo.toml")),
    ("zoom", include_str!("../../config/providers/zoom.toml")),
];

/// A preset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Preset {
    /// What `provider = "..."` says.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The file, with its comments: a start for one's own.
    pub text: String,
    /// What an account must say by itself, in the order in which it is asked for.
    pub ask: Vec<Asked>,
    /// Where everything else is found out; then the preset is good for `valetd add` alone.
    pub find: Option<String>,
    /// The routes that it brings beside the account's own, and where each leads.
    pub further_routes: Vec<(String, String)>,
}

/// What an account of a preset must say by itself, as it is another value for each person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    /// The account's key.
    pub key: &'static str,
    /// Where a person finds the value.
    pub place: String,
    /// What is made of a short answer: it takes the place of `{}`.
    pub form: Option<String>,
}

/// What may be asked for, in this order.
const ASKED: &[&str] = &["issuer", "upstream", "client_id", "client_secret", "redirect_uri"];

/// Keys of a provider's file that no account has.
pub(super) const PRESET_KEYS: &[&str] = &["ask", "form", "find", "route"];

impl Asked {
    /// The value of a response.
    pub(crate) fn value(&self, answer: &str) -> String {
        match &self.form {
            Some(form) if !answer.contains("://") => form.replace("{}", answer),
            _ => answer.to_owned(),
        }
    }
}

impl Preset {
    /// Reads a provider's file; what is wrong with it is told where an account uses it.
    pub(crate) fn read(name: &str, source: &Source) -> Self {
        let sink = Sink::default();
        let document = Document::read(source, &sink);
        let table = Table::new([document.layer()], &sink);
        let [ask, forms] = ["ask", "form"].map(|key| table.table(key));
        let text = |table: &Option<Table<'_>>, key| table.as_ref()?.string(key).map(|found| found.value);
        let asked = |key: &&'static str| Some(Asked { key, place: text(&ask, key)?, form: text(&forms, key) });
        let routes = document.layer().below("route", &sink).map(|routes| routes.tables(&sink)).unwrap_or_default();
        let further = routes.into_iter().filter(|(route, _)| route != "main");
        let further_routes = further.map(|(route, layer)| {
            let upstream = Table::new([layer], &sink).string("upstream").map(|found| found.value);
            (route, upstream.unwrap_or_default())
        });
        Self {
            name: name.to_owned(),
            description: table.string("description").map(|found| found.value).unwrap_or_default(),
            text: source.text.clone(),
            ask: ASKED.iter().filter_map(asked).collect(),
            find: table.string("find").map(|found| found.value),
            further_routes: further_routes.collect(),
        }
    }

    /// The name of a further route of the preset, with an account of this name.
    pub(crate) fn route_name(account: &AccountId, route: &str) -> String {
        format!("{account}-{route}")
    }

    /// Whether an account needs no more than its name.
    pub(crate) fn is_enough(&self) -> bool {
        self.ask.is_empty() && self.find.is_none()
    }
}

/// Complains of what a provider's file asks for and nobody could be asked.
pub(super) fn check_asked(document: &Document<'_>, sink: &Sink) {
    let table = Table::new([document.layer()], sink);
    for key in ["ask", "form"] {
        if let Some(asked) = table.table(key) {
            asked.only(ASKED);
            for known in ASKED {
                asked.string(known);
            }
        }
    }
    table.parsed("find", Endpoint::parse);
}

/// The presets that come with the binary, in the order of their names.
pub(crate) fn presets() -> impl Iterator<Item = Preset> {
    EMBEDDED.iter().map(|(name, text)| Preset::read(name, &embedded(name, text)))
}

/// The origins of all endpoints of the presets that come with the binary and whose token endpoint is on this origin.
pub(crate) fn shipped_origins(token_endpoint: &str) -> Vec<String> {
    let origins = EMBEDDED.iter().map(|(name, text)| {
        let (source, sink) = (embedded(name, text), Sink::default());
        let document = Document::read(&source, &sink);
        let table = Table::new([document.layer()], &sink);
        let kinds = EndpointKind::ALL.into_iter().filter(|kind| kind.takes_credentials());
        let endpoints =
            kinds.filter_map(|kind| table.parsed(kind.key(), |text| Endpoint::parse(&with_client(text, "x"))));
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
        let preset = presets().find(|preset| preset.name == name).unwrap();
        let value = |asked: &Asked| match asked.key {
            "client_secret" => "{ credential = \"mine\" }".to_owned(),
            "client_id" => "\"mine\"".to_owned(),
            _ => format!("\"{}\"", asked.value("https://mine.example")),
        };
        let lines: String = preset.ask.iter().map(|asked| format!("{} = {}\n", asked.key, value(asked))).collect();
        parse_with(&format!("[account.{name}]\nprovider = \"{name}\"\n{lines}"), &[]).config
    }

    #[test]
    fn every_preset_makes_an_account_with_a_route_of_its_name_and_no_warning() {
        for preset in presets().filter(|preset| preset.find.is_none()) {
            let name = preset.name.as_str();
            let config = with_account(name);
            assert!(config.routes.iter().any(|route| route.name.as_str() == name), "{name}");
            assert_eq!(config.accounts[name].description.as_ref(), Some(&preset.description));
        }
        assert!(EMBEDDED.is_sorted_by_key(|(name, _)| *name));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/providers");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), EMBEDDED.len(), "a preset is not embedded");
    }

    #[test]
    fn every_preset_names_its_sources_and_what_was_never_tried() {
        assert!(EMBEDDED.len() >= 40);
        for preset in presets() {
            let Preset { name, description, text, ask, find, further_routes: _ } = preset;
            assert!(!description.is_empty(), "{name}");
            let head: String = text.lines().take_while(|line| line.starts_with('#')).collect();
            let source = head.find("Source").unwrap_or_else(|| panic!("{name} names no source"));
            // a document or a package: a host, a title, or a repository
            assert!(head[source..].contains(['.', '"', '/']), "{name}");
            assert!(!head.contains("http://"), "{name}");
            for line in text.lines() {
                assert!(line.chars().count() <= 200 && !line.ends_with(' '), "{name}: {line}");
            }
            for asked in &ask {
                assert!(asked.place.len() > 10 && asked.place.is_ascii(), "{name}: {}", asked.key);
            }
            // an id that asks for nothing is one that its provider publishes for everybody
            let own = text.split("\n[ask]").next().unwrap_or_default();
            let says_client = own.contains("\nclient_id = ") || own.contains("\nclient = ");
            let asks_for_client = ask.iter().any(|asked| asked.key == "client_id");
            assert!(says_client != asks_for_client || find.is_some() || name == "gbdx", "{name}");
        }
    }

    #[test]
    fn a_preset_says_what_is_asked_for_and_where_it_is_found() {
        let preset = presets().find(|preset| preset.name == "microsoft").unwrap();
        assert_eq!(preset.ask.iter().map(|asked| asked.key).collect::<Vec<_>>(), ["issuer", "client_id"]);
        let issuer = &preset.ask[0];
        assert_eq!(issuer.value("contoso"), "https://login.microsoftonline.com/contoso/v2.0");
        assert_eq!(issuer.value("https://login.example/x"), "https://login.example/x");
        assert!(!preset.is_enough() && presets().find(|preset| preset.name == "gbdx").unwrap().is_enough());
        // and an account that does not say it is told where it is found
        let text = "[account.work]\nprovider = \"microsoft\"\n";
        let problems = Config::parse(&source(text), &[], &facts()).unwrap_err().to_string();
        assert!(problems.contains("account.work.issuer: is missing; it is your directory's tenant ID"), "{problems}");
        assert!(problems.contains("account.work.client_id: is missing; it is entra.microsoft.com"), "{problems}");
        let text = "[account.n]\nprovider = \"notion-mcp\"\n";
        let problems = Config::parse(&source(text), &[], &facts()).unwrap_err().to_string();
        assert!(problems.contains("valetd add n notion-mcp"), "{problems}");
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
        let asked = |lines: &str| {
            let text = format!("[account.x]\nprovider = \"gbdx\"\n{lines}");
            parse_with(&text, &[]).config.accounts["x"].sign_in.identity.is_some()
        };
        assert!(asked("") && asked("upstream = \"https://archive.example\"\n"));
        assert!(
            !asked("token_endpoint = \"https://archive.example/t\"\n"),
            "another server's token is shown to nobody"
        );
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
