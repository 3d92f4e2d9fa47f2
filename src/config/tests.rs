//! The whole configuration, from text to meaning and back to complaints.

use std::time::Duration;

use proptest::prelude::*;

use super::account::ACCOUNT_KEYS;
use super::parse::TOP_KEYS;
use super::problem::Severity;
use super::route::ROUTE_KEYS;
use super::testing::{self, facts, parse_with, source};
use super::*;
use crate::oauth::{Client, Dialect, Grant, GrantType};
use crate::secret::Secret;

const EXAMPLE: &str = include_str!("../../config/valetd.toml");
const LAB: &str = "[account.lab]\ntoken_endpoint = \"https://auth.lab.example/oauth2/token\"\n";

/// Reads a good configuration.
fn parse(text: &str) -> Config {
    parse_with(text, &[]).config
}

/// Reads a bad one: its problems, one a line.
fn problems(text: &str) -> String {
    match Config::parse(&source(text), &[], &facts()) {
        Ok(parsed) => panic!("no error: {:?}", parsed.warnings),
        Err(problems) => problems.to_string(),
    }
}

fn uncommented(example: &str) -> String {
    let setting = |line: &str| {
        line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with([' ', '-'])).map(str::to_owned)
    };
    example.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
fn an_empty_file_and_the_example_mean_what_no_file_means() {
    for text in ["", "# nothing\n", EXAMPLE] {
        assert_eq!(parse(text), Config::empty(&facts()));
    }
    assert_eq!(Config::empty(&MachineFacts { cores: 0, ..facts() }).workers, 1);
    let listen: Vec<_> = Config::empty(&facts()).listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:8253", "[::1]:8253"]);
}

#[test]
fn the_examples_settings_are_the_defaults() {
    let example = parse(&uncommented(EXAMPLE));
    let route = "[route.lab]\naccount = \"lab\"\nupstream = \"https://api.lab.example/v1\"\n";
    let mut bare = parse(&format!("{LAB}{route}"));
    // what has no default but an example
    let lab = bare.accounts.get_mut("lab").unwrap();
    lab.description = Some("The lab's archive".into());
    lab.client_id = Some("valetd".into());
    lab.server.revocation = Some(Endpoint::parse("https://auth.lab.example/oauth2/revoke").unwrap());
    lab.sign_in.redirect_uri = Some("https://www.lab.example/code.html".into());
    assert_eq!(example, bare);
}

#[test]
fn the_example_has_every_key() {
    let lines: Vec<&str> = EXAMPLE.lines().map(|line| line.trim_start_matches(['#', ' '])).collect();
    for key in TOP_KEYS.iter().chain(ACCOUNT_KEYS).chain(ROUTE_KEYS) {
        let shown =
            lines.iter().any(|line| line.starts_with(&format!("{key} = ")) || line.starts_with(&format!("[{key}.")));
        assert!(shown, "{key}");
    }
}

#[test]
fn the_designs_example_means_what_the_design_says() {
    let text = r#"
        listen = ["127.0.0.1:8253", "[::1]:8253"]
        [account.gbdx]
        provider = "gbdx"
        [account.gdh]
        provider = "gdh"
        upstream = "https://api-dev.geodatahub.dk"
        [account.lab]
        token_endpoint = "https://auth.lab.example/oauth2/token"
        client_id = "valetd"
        client_auth = "post"
        client_secret = { file = "secret" }
        grant = "refresh_token"
        scopes = ["read"]
        header = "Authorization: Bearer {access_token}"
        renew = { early = "5m", minimum_spacing = "1s" }
        extra_ca = "/etc/ssl/lab-ca.pem"
        [route.lab]
        account = "lab"
        upstream = "https://api.lab.example/v1"
        listen = "127.0.0.1:8300"
        replay = "idempotent"
    "#;
    let config = parse(text);
    let routes: Vec<_> = config.routes.iter().map(|route| (route.name.as_str(), route.upstream.to_string())).collect();
    let expected = [
        ("gbdx", "https://geobigdata.io"),
        ("gbdx-idaho", "https://idaho.geobigdata.io"),
        ("gbdx-rda", "https://rda.geobigdata.io"),
        ("gbdx-vector", "https://vector.geobigdata.io"),
        ("gdh", "https://api-dev.geodatahub.dk"),
        ("lab", "https://api.lab.example/v1"),
    ];
    assert_eq!(routes, expected.map(|(name, upstream)| (name, upstream.to_owned())));
    let lab = &config.accounts["lab"];
    let secret = SecretSource::File("/home/me/.config/valetd/secret".into());
    assert_eq!(lab.client_secret, Some(ClientSecret::Configured(secret)));
    assert_eq!(config.routes[5].extra_ca, Some("/etc/ssl/lab-ca.pem".into()), "the account's, by default");
    assert_eq!(config.routes[5].replay, Replay::Idempotent);
}

#[test]
fn an_account_overrides_single_values_of_its_provider() {
    let text = "[account.work]\nprovider = \"gdh\"\nclient_id = \"other\"\nrenew = { early = \"1m\" }\n\
                lifetime = { access = \"2h\" }\ngrant = \"refresh_token\"\n[account.home]\nprovider = \"gdh\"\n";
    let config = parse(text);
    let (work, home) = (&config.accounts["work"], &config.accounts["home"]);
    assert_eq!(work.client_id.as_deref(), Some("other"));
    assert_eq!(work.renew.assumed_lifetime, Duration::from_secs(7200));
    assert_eq!(work.renew.refresh_lifetime, home.renew.refresh_lifetime, "the other half of the table is the preset's");
    assert_eq!(work.server.cognito, None, "not for this grant");
    assert_eq!((home.grant, home.dialect), (GrantType::RefreshToken, Dialect::CognitoInitiateAuth));
    assert_eq!(config.routes.len(), 2);
}

#[test]
fn a_route_edits_fields_but_not_those_that_valetd_answers_for() {
    let route = "[route.lab]\naccount = \"lab\"\nupstream = \"https://api.lab.example/v1\"\n";
    let edits = "request_headers = { add = { User-Agent = \"lab/1\", X-Key = { file = \"key\" } }, remove = [\"Cookie\"] }\n\
                 token_query = \"access_token\"\nscrub = true\nhttp2 = false\nmcp = \"/mcp\"\n";
    let config = parse(&format!("{LAB}{route}{edits}"));
    let lab = config.routes.iter().find(|route| route.name.as_str() == "lab").unwrap();
    assert_eq!(lab.request_headers.remove, ["cookie"]);
    let added: Vec<_> = lab.request_headers.add.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(added, ["user-agent", "x-key"]);
    assert!(matches!(&lab.request_headers.add[1].1, SecretSource::File(path) if path.ends_with("key")));
    assert_eq!((lab.token_query.as_deref(), lab.scrub, lab.http2), (Some("access_token"), true, false));
    assert_eq!(lab.mcp.as_deref(), Some("/mcp"));
    for (wrong, complaint) in [
        ("request_headers = { add = { Host = \"x\" } }", "is a field that valetd itself is answerable for"),
        ("request_headers = { remove = [\"Authorization\"] }", "is a field that valetd itself is answerable for"),
        ("request_headers = { add = { \"a b\" = \"x\" } }", "is not the name of a header field"),
        ("request_headers = { add = { A = \"x\\r\\ny\" } }", "has a control character"),
        ("request_headers = { add = { A = { command = [\"x\"] } } }", "cannot be asked of a command"),
        ("request_headers = { set = { } }", "is no key that is known here"),
        ("token_query = \"a&b\"", "is not a parameter's name"),
    ] {
        let found = problems(&format!("{LAB}{route}{wrong}"));
        assert!(found.contains(complaint), "{wrong}: {found}");
    }
}

#[test]
fn a_route_overrides_single_values_of_a_providers_route() {
    let text = "[account.gbdx]\nprovider = \"gbdx\"\n[route.gbdx-vector]\nreplay = \"never\"\nlisten = \"127.0.0.1:9000\"\n\
                [route.gbdx]\nupstream = \"https://standin.example\"\n";
    let config = parse(text);
    let route = |name: &str| config.routes.iter().find(|route| route.name.as_str() == name).unwrap();
    assert_eq!(route("gbdx-vector").replay, Replay::Never);
    assert_eq!(route("gbdx-vector").upstream.to_string(), "https://vector.geobigdata.io");
    assert_eq!(route("gbdx").upstream.to_string(), "https://standin.example");
    assert_eq!(route("gbdx").refuse, ["/auth/v1/oauth/token"], "still the preset's");
    assert_eq!(config.routes.len(), 4);
}

#[test]
fn an_accounts_upstream_is_a_route_and_its_token_endpoint_is_never_proxied() {
    let text =
        "[account.lab]\ntoken_endpoint = \"https://lab.example/auth/token/\"\nupstream = \"https://lab.example/v1\"\n";
    let config = parse(text);
    assert_eq!(config.routes[0].name.as_str(), "lab");
    assert_eq!(config.routes[0].refuse, ["/auth/token"]);
    let refused = parse(&format!("{text}[route.lab]\nrefuse = [\"/auth/\"]\n"));
    assert_eq!(refused.routes[0].refuse, ["/auth"], "covers the endpoint");
}

#[test]
fn all_problems_are_reported_at_once_with_place_and_remedy() {
    let text = "lisen = []\nworkers = \"two\"\n[account.lab]\ntoken_endpoint = \"http://auth.lab.example\"\n\
                [route.a]\naccount = \"lba\"\nupstream = \"https://api.example\"\nwait = \"10\"\n";
    let expected = "config.toml:1:1: lisen: is no key that is known here; did you mean \"listen\"?\n\
        config.toml:2:11: workers: must be a whole number, but is of type string\n\
        config.toml:4:18: account.lab.token_endpoint: is plain http, over which anyone on the way can read tokens; \
        use https (http is for loopback only)\n\
        config.toml:6:11: route.a.account: no account is named \"lba\"; did you mean \"lab\"?\n\
        config.toml:8:8: route.a.wait: has no unit; write it with its unit, as in \"5m\", \"1h30m\" or \"27 days\"";
    assert_eq!(problems(text), expected);
}

#[test]
fn each_mistake_is_named() {
    let rows = [
        ("unknown key without a near one", "banana = 1", "1:1: banana: is no key", "known here: listen"),
        ("syntax", "workers = \n[account", "1:11: workers: ", ""),
        ("bad type of table", "account = 5", "1:11: account: must be a table", ""),
        ("array of tables", "[[route]]\n", "route: must be a table, but is of type array", ""),
        ("no workers", "workers = 0", "is not between 1 and 256", ""),
        ("negative", "drain = \"-5s\"", "drain: is negative", ""),
        ("number for duration", "drain = 5", "must be a string in quotes, but is of type integer", ""),
        ("string for array", "listen = \"127.0.0.1:1\"", "must be an array of strings", ""),
        ("number in array", "hosts = [5]", "1:10: hosts[0]: must be a string", ""),
        ("bad host", "hosts = [\"a b\"]", "hosts[0]: has a bad host name", ""),
        ("open listener", "listen = [\"0.0.0.0:80\"]", "reached from other machines", "require_key = true, at the top"),
        (
            "open listener of a route",
            "[account.a]\nprovider = \"gdh\"\n[route.a]\nlisten = \"192.0.2.1:80\"",
            "4:10: route.a.listen: can be reached",
            "require_key = true, here",
        ),
        ("clients", "clients = [\"alice\"]", "clients[0]: names no clients", "user:alice"),
        ("audit", "audit = 1", "audit: must be true or false", ""),
        ("audit required", "audit_required = true", "audit_required: needs an audit", "audit = true"),
        ("audit size", "audit_size = \"1kB\"", "audit_size: is less than 64kB", ""),
        ("audit keep", "audit_keep = 0", "audit_keep: is not between 1 and 100", ""),
        (
            "a rule without path",
            "[account.a]\nprovider = \"gdh\"\n[route.a]\ndeny = [\"DELETE\"]",
            "deny[0]: is not a path",
            "GET /catalog/**",
        ),
        (
            "listener twice",
            "listen = [\"[::1]:1\", \"[::1]:1\"]",
            "1:22: listen[1]: asks for [::1]:1, which another",
            "",
        ),
        (
            "account name",
            "[account.Lab]\ntoken_endpoint = \"https://a.example\"",
            "1:10: account.Lab: is not a name",
            "a-z",
        ),
        ("no endpoint", "[account.lab]", "1:10: account.lab.token_endpoint: is missing", "say where"),
        ("provider", "[account.a]\nprovider = \"gdhh\"", "names no provider that is known", "did you mean \"gdh\"?"),
        (
            "provider far off",
            "[account.a]\nprovider = \"banana\"",
            "names no provider",
            "`valetd providers` lists them",
        ),
        ("grant", "[account.a]\nprovider = \"gdh\"\ngrant = \"refresh\"", "grant: is not one of", "\"refresh_token\""),
        (
            "secret unused",
            "[account.a]\nprovider = \"gdh\"\nclient_secret = \"x\"",
            "is not sent",
            "client_auth = \"post\"",
        ),
        (
            "auth without secret",
            "[account.a]\nprovider = \"gdh\"\nclient_auth = \"basic\"",
            "client_secret: is missing",
            "",
        ),
        (
            "secret of two",
            "[account.a]\nprovider = \"gdh\"\nclient_secret = { file = \"a\", credential = \"b\" }",
            "exactly one of file",
            "",
        ),
        (
            "no command",
            "[account.a]\nprovider = \"gdh\"\nclient_auth = \"post\"\nclient_secret = { command = [] }",
            "command: is empty",
            "",
        ),
        (
            "client credentials",
            "[account.a]\nprovider = \"gbdx\"\ngrant = \"client_credentials\"",
            "client_auth: cannot be \"none\"",
            "",
        ),
        (
            "cognito",
            "[account.a]\nprovider = \"gbdx\"\ngrant = \"cognito_get_tokens\"",
            "cognito_endpoint: is missing",
            "",
        ),
        (
            "cognito's client",
            "[account.a]\nprovider = \"gbdx\"\ngrant = \"cognito_get_tokens\"",
            "client_id: is missing",
            "",
        ),
        ("password", "[account.a]\nprovider = \"gbdx\"\ngrant = \"password\"", "keep_password: must be true", ""),
        ("paste", "[account.a]\nprovider = \"gbdx\"\nsign_in = [\"paste\"]", "login_page: is missing", ""),
        (
            "header",
            "[account.a]\nprovider = \"gdh\"\nheader = \"Authorization: x\"",
            "exactly one of {access_token}",
            "",
        ),
        ("scope", "[account.a]\nprovider = \"gdh\"\nscopes = [\"a b\"]", "scopes[0]: is not a scope", "of its own"),
        ("parameter", "[account.a]\nprovider = \"gdh\"\nparameters = { grant_type = \"x\" }", "grant sets itself", ""),
        (
            "scope twice",
            "[account.a]\nprovider = \"gdh\"\nscopes = [\"a\"]\nrefresh_scope = true\nparameters = { scope = \"a\" }",
            "account.a.parameters.scope: is what `scopes` are sent as already",
            "one of the two",
        ),
        (
            "a parameter by its other name",
            "[account.a]\nprovider = \"gbdx\"\ntoken_request = { names = { refresh_token = \"rt\" } }\nparameters = { rt = \"x\" }",
            "account.a.parameters.rt: is what refresh_token is called here",
            "take it out",
        ),
        (
            "scope by its other name",
            "[account.a]\nprovider = \"gbdx\"\nscopes = [\"a\"]\nrefresh_scope = true\ntoken_request = { names = { scope = \"s\" } }\nparameters = { s = \"a\" }",
            "account.a.parameters.s: is what `scopes` are sent as already",
            "one of the two",
        ),
        (
            "two parameters under one name",
            "[account.a]\nprovider = \"gbdx\"\ntoken_request = { names = { refresh_token = \"t\", client_id = \"t\" } }",
            "token_request.names.refresh_token: is the name of client_id, too",
            "of its own",
        ),
        (
            "under the name of one that keeps it",
            "[account.a]\nprovider = \"gbdx\"\ntoken_request = { names = { code = \"redirect_uri\" } }",
            "token_request.names.code: is the name of redirect_uri, too",
            "of its own",
        ),
        (
            "a list for Cognito",
            "[account.a]\nprovider = \"gdh\"\nparameters = { audience = [\"a\", \"b\"] }",
            "parameters.audience: is a list, and Cognito's API takes each parameter once",
            "name one",
        ),
        (
            "Cognito's own parameter",
            "[account.a]\nprovider = \"gdh\"\nparameters = { REFRESH_TOKEN = \"x\" }",
            "parameters.REFRESH_TOKEN: is a parameter that the grant sets itself",
            "",
        ),
        (
            "one place for two tokens",
            "[account.a]\nprovider = \"gbdx\"\ntoken_response = { access_token = \"t\", refresh_token = \"/t\" }",
            "token_response.refresh_token: is the place of access_token, too",
            "its own",
        ),
        (
            "the refresh token's place for another",
            "[account.a]\nprovider = \"gbdx\"\ntoken_response = { access_token = \"refresh_token\" }",
            "token_response.access_token: is the place of refresh_token, too",
            "its own",
        ),
        (
            "a JSONPath",
            "[account.a]\nprovider = \"gbdx\"\ntoken_response = { access_token = \"$.t\" }",
            "token_response.access_token: is no JSON Pointer",
            "",
        ),
        (
            "one word twice",
            "[account.a]\nprovider = \"gbdx\"\nerrors = { sign_in = [\"x\"], again = [\"y\", \"x\"] }",
            "errors.again: has \"x\", which is in sign_in, too",
            "in one",
        ),
        (
            "a coding of ours",
            "[account.a]\nprovider = \"gbdx\"\ntoken_request = { headers = { accept-encoding = \"br\" } }",
            "token_request.headers.accept-encoding: would change",
            "",
        ),
        (
            "a parameter without a name",
            "[account.a]\nprovider = \"gbdx\"\nparameters = { \"\" = \"x\" }",
            "is no name",
            "",
        ),
        (
            "a secret for InitiateAuth",
            "[account.a]\nprovider = \"gdh\"\nclient_auth = \"post\"\nclient_secret = { environment = \"S\" }",
            "client_auth: is of no use to InitiateAuth",
            "cognito_get_tokens",
        ),
        (
            "a colon in an id that is sent raw",
            "[account.a]\nprovider = \"gbdx\"\nclient_id = \"a:b\"\nclient_auth = \"basic_raw\"\nclient_secret = { environment = \"S\" }",
            "client_id: holds a colon",
            "basic",
        ),
        (
            "errors",
            "[account.a]\nprovider = \"gdh\"\nerrors = { signin = [\"x\"] }",
            "errors.signin: is no key",
            "sign_in",
        ),
        (
            "an empty error",
            "[account.a]\nprovider = \"gdh\"\nerrors = { again = [\"\"] }",
            "errors.again[0]: is empty",
            "",
        ),
        ("spacing", "[account.a]\nprovider = \"gdh\"\nrenew = { minimum_spacing = \"0s\" }", "is less than 10 ms", ""),
        (
            "renew's keys",
            "[account.a]\nprovider = \"gdh\"\nrenew = { erly = \"1s\" }",
            "account.a.renew.erly: is no key",
            "early",
        ),
        (
            "import",
            "[account.a]\nprovider = \"gdh\"\nimport = [{ environment = \"A=B\" }]",
            "import[0].environment: is not",
            "",
        ),
        ("import of none", "[account.a]\nprovider = \"gdh\"\nimport = [{}]", "import[0]: must have exactly one of", ""),
        (
            "redirect",
            "[account.a]\nprovider = \"gdh\"\nredirect_uri = \"x\"",
            "redirect_uri: is not an absolute URI",
            "",
        ),
        (
            "itself",
            "[account.a]\nprovider = \"gdh\"\nupstream = \"http://localhost:8253/\"",
            "leads back to valetd",
            "",
        ),
        ("metadata", "[account.a]\nprovider = \"gdh\"\nupstream = \"https://169.254.169.254\"", "metadata service", ""),
        (
            "userinfo",
            "[account.a]\nprovider = \"gdh\"\nupstream = \"https://me:hunter2@a.example\"",
            "carries a user name",
            "",
        ),
        (
            "two of a name",
            "[account.gbdx]\nprovider = \"gbdx\"\n[account.gbdx-rda]\nprovider = \"gdh\"",
            "the route \"gbdx-rda\"",
            "rename",
        ),
        (
            "route without account",
            "[route.x]\nupstream = \"https://a.example\"",
            "1:8: route.x.account: is missing",
            "",
        ),
        (
            "route without upstream",
            "[account.a]\nprovider = \"gdh\"\n[route.x]\naccount = \"a\"",
            "route.x.upstream: is missing",
            "",
        ),
        (
            "route takes the listener",
            "[account.a]\nprovider = \"gdh\"\n[route.a]\nlisten = \"[::1]:8253\"",
            "4:10: route.a.listen: asks for",
            "",
        ),
        ("replay limit", "[account.a]\nprovider = \"gdh\"\n[route.a]\nreplay_limit = \"2GiB\"", "more than 1GiB", ""),
        ("refuse", "[account.a]\nprovider = \"gdh\"\n[route.a]\nrefuse = [\"/\"]", "refuse[0]: refuses everything", ""),
        ("via", "[account.a]\nprovider = \"gdh\"\n[route.a]\nvia = \"no\"", "via: must be true or false", ""),
        ("timeout", "[account.a]\nprovider = \"gdh\"\n[route.a]\nidle_timeout = \"0s\"", "is less than 1 ms", ""),
    ];
    for (name, text, message, remedy) in rows {
        let found = problems(text);
        assert!(found.contains(message) && found.contains(remedy), "{name}: {found}");
        assert!(!found.contains("hunter2"), "{name}: {found}");
    }
}

#[test]
fn with_client_keys_alone_other_machines_may_call() {
    let config = parse("listen = [\"0.0.0.0:8253\"]\nrequire_key = true\n[account.a]\nprovider = \"gdh\"\n");
    assert!(config.require_key && config.routes[0].require_key);
    let own = "[account.a]\nprovider = \"gdh\"\n[route.a]\nlisten = \"192.0.2.1:80\"\nrequire_key = true\n";
    assert!(parse(own).routes[0].require_key);
}

#[test]
fn clients_audit_and_rules_mean_what_they_say() {
    let text = r#"
        clients = ["self", "root", "user:alice", "group:1001"]
        containers_need_key = true
        audit = "log/audit.jsonl"
        audit_required = true
        audit_size = "1MB"
        audit_keep = 7
        sandbox = false
        strict_exec = true
        [account.a]
        provider = "gdh"
        [route.a]
        allow = ["GET /catalog/**"]
        deny = ["/admin/**"]
    "#;
    let config = parse(text);
    let expected = [
        AllowedClient::Own,
        AllowedClient::Root,
        AllowedClient::User("alice".into()),
        AllowedClient::Group("1001".into()),
    ];
    assert_eq!(config.clients, expected);
    assert_eq!(config.audit, AuditTarget::File("/home/me/.config/valetd/log/audit.jsonl".into()));
    assert!(config.containers_need_key && config.audit_required);
    assert_eq!((config.audit_size, config.audit_keep), (1_000_000, 7));
    assert!(!config.sandbox && config.strict_exec);
    let rules = &config.routes[0].rules;
    assert_eq!((rules.allow.len(), rules.deny.len()), (1, 1));
    assert_eq!(parse("audit = true").audit, AuditTarget::StateFolder);
    assert_eq!(config.starts_programs(), None);
    let command = format!(
        "{LAB}upstream = \"https://a.example\"\nclient_id = \"i\"\nclient_auth = \"post\"\nclient_secret = {{ command = [\"x\"] }}\n"
    );
    assert_eq!(parse(&command).starts_programs().as_deref(), Some("account.lab.client_secret"));
    assert_eq!(parse("notice = { command = [\"x\"] }").starts_programs().as_deref(), Some("notice"));
}

#[test]
fn a_secret_may_stand_in_a_file_that_only_its_owner_can_read() {
    let text = "[account.a]\nprovider = \"sentinelhub\"\nclient_id = \"i\"\nclient_secret = \"hunter2\"\n";
    assert_eq!(
        parse(text).accounts["a"].client_secret,
        Some(ClientSecret::Configured(SecretSource::Inline(Secret::new("hunter2"))))
    );
    let open = Source { readable_by_others: true, ..source(text) };
    let problems = Config::parse(&open, &[], &facts()).unwrap_err();
    assert_eq!((problems.0.len(), problems.0[0].line), (1, 4));
    assert!(problems.to_string().contains("others can read; chmod 600"), "{problems}");
    assert!(!format!("{problems:?} {}", problems.rendered()).contains("hunter2"));
}

#[test]
fn a_line_that_cannot_be_read_brings_no_complaints_about_what_it_may_have_said() {
    let found = problems(
        "[account.lab]\ntoken_endpoint = https://a.example\nclient_secret = hunter2\n[route.a]\nacount = \"lab\"",
    );
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), 3, "{found}");
    assert!(lines[0].starts_with("config.toml:2:"), "{found}");
    assert!(lines[1].starts_with("config.toml:3:") && lines[1].contains("client_secret"), "{found}");
    assert!(lines[2].starts_with("config.toml:5:1: route.a.acount: is no key"), "{found}");
    assert!(!found.contains("hunter2"));
}

#[test]
fn a_broken_provider_file_is_an_error_where_it_is_used_and_a_warning_elsewhere() {
    let broken = Source { name: "providers/mine.toml".into(), ..source("token_endpont = \"https://a.example\"\n") };
    let providers = [("mine".to_owned(), broken)];
    let used = Config::parse(&source("[account.a]\nprovider = \"mine\""), &providers, &facts()).unwrap_err();
    assert!(used.to_string().contains("providers/mine.toml:1:1: token_endpont: is no key"), "{used}");
    let unused = Config::parse(&source(""), &providers, &facts()).unwrap();
    assert_eq!(unused.warnings.len(), 1);
    assert_eq!(unused.warnings[0].severity, Severity::Warning);
}

#[test]
fn an_unknown_provider_brings_no_complaints_about_what_it_would_have_said() {
    let found = problems("[account.gbdx]\nprovider = \"gbxd\"\n[route.gbdx-rda]\nreplay = \"never\"\n[account.b]\n");
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), 2, "{found}");
    assert!(lines[0].contains("account.gbdx.provider: names no provider") && lines[1].contains("account.b"), "{found}");
}

#[test]
fn a_client_secret_that_is_not_sent_by_their_own_word_is_a_warning() {
    let text =
        format!("{LAB}upstream = \"https://a.example\"\nclient_auth = \"none\"\nclient_secret = {{ file = \"x\" }}\n");
    let parsed = Config::parse(&source(&text), &[], &facts()).unwrap();
    assert_eq!(parsed.warnings.len(), 1);
    assert!(parsed.warnings[0].to_string().contains("client_secret: is not sent"), "{:?}", parsed.warnings);
}

#[test]
fn an_account_without_a_route_is_a_warning() {
    let parsed = Config::parse(&source(LAB), &[], &facts()).unwrap();
    assert_eq!(parsed.warnings.len(), 1);
    assert!(parsed.warnings[0].to_string().contains("account.lab: has no route"), "{:?}", parsed.warnings);
}

#[test]
fn tokens_outlive_a_change_that_is_none_of_their_business() {
    let base = format!("{LAB}client_id = \"a\"\nupstream = \"https://api.example\"\n");
    let account = |text: &str| parse(text).accounts["lab"].clone();
    let old = account(&base);
    let rows = [
        ("nothing", base.clone(), false),
        ("the upstream", base.replace("api.example", "api2.example"), false),
        ("when to renew", format!("{base}renew = {{ early = \"1m\" }}\n"), false),
        ("the proxy", format!("{base}proxy = \"direct\"\n"), false),
        ("the header", format!("{base}header = \"X-Token: {{access_token}}\"\n"), false),
        ("how to sign in", format!("{base}sign_in = [\"password\"]\n"), false),
        ("token endpoint", base.replace("auth.lab", "evil.lab"), true),
        ("client id", base.replace("\"a\"", "\"b\""), true),
        ("client secret", format!("{base}client_auth = \"post\"\nclient_secret = {{ file = \"/x\" }}\n"), true),
        ("grant", format!("{base}grant = \"password\"\nkeep_password = true\n"), true),
        ("scopes", format!("{base}scopes = [\"read\"]\n"), true),
        ("parameters", format!("{base}parameters = {{ audience = \"x\" }}\n"), true),
        ("trust", format!("{base}extra_ca = \"ca.pem\"\n"), true),
    ];
    for (name, text, expected) in rows {
        assert_eq!(old.security_relevant_change(&account(&text)), expected, "{name}");
    }
}

#[test]
fn an_accounts_proxy_is_a_url_or_none_and_its_password_is_for_its_owner() {
    let base = format!("{LAB}upstream = \"https://api.example\"\n");
    let proxy = |text: &str| parse(&format!("{base}proxy = \"{text}\"\n")).accounts["lab"].proxy.clone();
    assert_eq!(parse(&base).accounts["lab"].proxy, ProxyChoice::Environment);
    assert_eq!(proxy("direct"), ProxyChoice::Direct);
    let ProxyChoice::Proxy(found) = proxy("socks5h://me:p%40w@proxy.example") else { panic!("no proxy") };
    assert_eq!(found.to_string(), "socks5h://proxy.example:1080");

    let problem_of = |text: &str, readable_by_others| {
        let text = format!("{base}proxy = \"{text}\"\n");
        let source = Source { name: "config.toml".into(), text, readable_by_others };
        let problems = Config::parse(&source, &[], &facts()).unwrap_err();
        assert!(!problems.rendered().contains("hunter2"), "{}", problems.rendered());
        problems.to_string()
    };
    let rows = [
        ("gopher://me:hunter2@proxy.example", false, "has a scheme gopher that is not supported"),
        ("http://me:hunter2@", false, "names no host"),
        ("http://me:hunter2@proxy.example", true, "holds a password in a file that others can read"),
    ];
    for (text, readable_by_others, expected) in rows {
        let problem = problem_of(text, readable_by_others);
        assert!(problem.contains(expected) && !problem.contains("hunter2"), "{text}: {problem}");
    }
}

/// Reads anything; what it says must be fit to print.
fn read_anything(bytes: &[u8]) {
    let read = Source::from_bytes("config.toml", bytes, false).and_then(|source| {
        Config::parse(&source, &[(String::new(), source.clone()), ("lab".into(), source.clone())], &facts())
    });
    if let Err(problems) = read {
        assert!(!problems.0.is_empty());
        let _ = (problems.to_string(), problems.rendered());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_anything(&bytes);
    }

    #[test]
    fn no_toml_like_text_makes_it_panic(text in "([a-z\\[\\]{}.=\"'# \n0-9é-]|account|route|lab|provider|\"gdh\"|\"\"\"){0,60}") {
        read_anything(text.as_bytes());
    }

    #[test]
    fn no_mutation_of_the_example_makes_it_panic_or_gives_the_secret_away(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0..12_usize, "[\\[\\]{}=\"'\n#a.]{0,3}"), 1..5)
    ) {
        let secret = "client_auth = \"post\"\nclient_secret = \"hunter2hunter2\"";
        let mut text = uncommented(EXAMPLE).replace("client_auth = \"none\"", secret);
        for (at, length, instead) in cuts {
            let characters: Vec<char> = text.chars().collect();
            let from = at.index(characters.len());
            let to = (from + length).min(characters.len());
            text = characters[..from].iter().copied().chain(instead.chars()).chain(characters[to..].iter().copied()).collect();
        }
        read_anything(text.as_bytes());
        if let Err(problems) = Config::parse(&source(&text), &[], &facts()) {
            prop_assert!(!problems.rendered().contains("hunter2h"), "{}", problems.rendered());
        }
    }
}

#[test]
fn scopes_are_asked_for_where_the_grant_has_any_and_with_a_refresh_token_only_if_that_is_wanted() {
    let refresh = Grant::RefreshToken(Secret::new("r"));
    let password = Grant::Password { username: "me".to_owned(), password: Secret::new("p"), otp: None };
    let code = Grant::AuthorizationCode { code: Secret::new("c"), redirect_uri: None, code_verifier: None };
    let scopes = "client_id = \"valetd\"\nscopes = [\"a\"]\n";
    let table = [
        ("as they are", testing::account("lab", scopes), [0, 1, 1, 0]),
        ("with refresh_scope", testing::account("lab", &format!("{scopes}refresh_scope = true\n")), [1, 1, 1, 0]),
    ];
    for (case, account, expected) in table {
        let asked =
            [&refresh, &password, &Grant::ClientCredentials, &code].map(|grant| account.scopes_with(grant).len());
        assert_eq!(asked, expected, "{case}");
    }
    // where no scopes are sent, a scope is a parameter like any other
    for lines in ["parameters = { scope = \"a b\" }\n", "scopes = [\"a\"]\nparameters = { scope = \"a b\" }\n"] {
        let account = testing::account("lab", &format!("client_id = \"valetd\"\n{lines}"));
        assert_eq!(account.parameters, [("scope".to_owned(), "a b".to_owned())], "{lines}");
        let request = account.dialect.request(&refresh, &public(), account.scopes_with(&refresh), &account.parameters);
        assert!(request.expect(lines).body.expose().ends_with("&scope=a+b"), "{lines}");
    }
}

fn public() -> Client {
    Client { id: Some("valetd".to_owned()), ..Client::default() }
}

#[test]
fn every_keycloak_preset_says_where_refresh_tokens_are_revoked() {
    for name in ["cdse", "mgp", "sentinelhub", "terrascope", "up42"] {
        let secret = "client_id = \"me\"\nclient_secret = { file = \"/secret\" }\n";
        let own = if name == "sentinelhub" { secret } else { "" };
        let account =
            testing::config(&format!("[account.a]\nprovider = \"{name}\"\n{own}")).accounts.into_values().next();
        let server = account.expect("there is one").server;
        let revocation = server.revocation.expect(name);
        let token = server.token.as_ref().unwrap();
        assert_eq!(revocation.origin, token.origin, "{name}: so no sign-in is needed for it");
        let base = token.path_and_query.strip_suffix("/token").expect(name);
        assert_eq!(revocation.path_and_query, format!("{base}/revoke"), "{name}");
    }
}

#[test]
fn parameters_that_never_meet_may_go_by_one_name_at_a_server() {
    for lines in [
        "token_request = { names = { refresh_token = \"token\", code = \"token\", password = \"token\" } }\n",
        "token_request = { names = { client_id = \"client_secret\", client_secret = \"client_id\" } }\n", // swapped
        "token_request = { names = { scope = \"s\" } }\nparameters = { scope = \"x\" }\n",
        "parameters = { resource = [\"a\", \"b\"] }\n",
    ] {
        testing::account("lab", lines);
    }
}

#[test]
fn a_misspelt_key_is_shown_before_what_follows_from_it() {
    let found = problems("listen = 5\n[account.lab]\nclient_id = \"i\"\ntoken_endpont = \"https://a.example\"\n");
    let lines: Vec<&str> = found.lines().collect();
    assert!(lines[0].contains("4:1: account.lab.token_endpont: is no key"), "{found}");
    assert!(lines[1].contains("1:10: listen: "), "{found}");
    assert!(lines[2].contains("2:10: account.lab.token_endpoint: is missing"), "{found}");
    let broken = Source { name: "providers/mine.toml".into(), ..source("token_endpont = \"https://a.example\"\n") };
    let used = Config::parse(&source("[account.a]\nprovider = \"mine\""), &[("mine".to_owned(), broken)], &facts());
    let found = used.unwrap_err().to_string();
    assert!(found.starts_with("providers/mine.toml:1:1: token_endpont: is no key"), "{found}");
}

const WAYS: &str = "[account.lab]\nissuer = \"https://auth.example\"\nupstream = \"https://api.example\"\n";

#[test]
fn an_issuer_is_enough_for_every_way_to_sign_in() {
    let text = format!(
        "{WAYS}client = \"register\"\nsign_in = [\"browser\", \"device\", \"paste\"]\nredirect = \"http://localhost/x\"\n\
         authorize = {{ prompt = \"consent\" }}\nresource = \"https://api.example/mcp\"\nidentity = \"userinfo\"\n\
         parameters = {{ audience = \"a\", x = \"y\" }}\ndevice_pkce = true\n"
    );
    let config = parse(&text);
    let account = &config.accounts["lab"];
    assert_eq!(account.server.issuer.as_ref().map(|issuer| issuer.as_str()), Some("https://auth.example"));
    assert_eq!((&account.server.token, account.registers, &account.client_id), (&None, true, &None));
    assert_eq!(account.sign_in.methods, [SignInMethod::Browser, SignInMethod::Device, SignInMethod::Paste]);
    assert_eq!(account.sign_in.authorize, [("prompt".to_owned(), "consent".to_owned())]);
    assert!(account.sign_in.device_pkce && account.sign_in.identity.is_some());
    let names: Vec<_> = account.parameters.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["audience", "resource", "x"], "token requests say the resource, too");
    assert_eq!(account.resource, ["https://api.example/mcp"]);
}

#[test]
fn what_a_way_to_sign_in_lacks_is_told_with_the_remedy() {
    let rows = [
        ("sign_in = [\"browser\"]", "authorization_endpoint: is missing"),
        ("sign_in = [\"browser\"]", "client_id: is missing"),
        ("sign_in = [\"device\"]", "device_authorization_endpoint: is missing"),
        ("sign_in = [\"paste\"]", "login_page: is missing"),
        ("client = \"register\"", "registration_endpoint: is missing"),
        ("client = \"register\"\nclient_id = \"x\"", "client: cannot be registered beside client_id"),
        ("client = \"me\"", "client: is not one of the words"),
        ("identity = \"userinfo\"", "userinfo_endpoint: is missing"),
        ("authorize = { state = \"x\" }", "authorize.state: is not a further parameter"),
        ("resource = \"x\"", "resource: is not an absolute URI"),
        ("resource = \"https://a/b#c\"", "resource: is not an absolute URI"),
        ("resource = \"a:b\"\ntoken_request = { names = { code = \"resource\" } }", "resource: is the name of another"),
        (
            "resource = [\"a:b\", \"c:d\"]\ngrant = \"cognito_get_tokens\"\nclient_id = \"c\"",
            "resource: is a list, and Cognito's API",
        ),
        ("resource = \"a:b\"\nparameters = { resource = \"c:d\" }", "parameters.resource: is what `resource`"),
        ("redirect = \"https://a.example/\"", "redirect: is not an http URL on this machine"),
        ("userinfo_endpoint = \"http://a.example/\"", "userinfo_endpoint: is plain http"),
        ("issuer = \"https://a.example/?b\"", "issuer: has a query"),
    ];
    for (line, expected) in rows {
        let found = problems(&format!("{LAB}upstream = \"https://api.example\"\n{line}\n"));
        assert!(found.contains(&format!("account.lab.{expected}")), "{line}: {found}");
    }
    let nothing = problems("[account.lab]\nupstream = \"https://api.example\"\n");
    assert!(nothing.contains("token_endpoint: is missing") && nothing.contains("issuer"), "{nothing}");
}

#[test]
fn another_issuer_client_or_resource_makes_the_tokens_others() {
    let base = format!("{WAYS}client_id = \"c\"\n");
    let account = |text: &str| parse(text).accounts.remove("lab").unwrap();
    let rows = [
        ("authorize = { prompt = \"consent\" }\nredirect = \"http://localhost/\"\ndevice_pkce = true", false),
        ("userinfo_endpoint = \"https://auth.example/me\"\nidentity = \"userinfo\"", false),
        ("authorization_endpoint = \"https://auth.example/a\"", false),
        ("resource = \"https://api.example/\"", true),
        ("token_endpoint = \"https://auth.example/t\"", true),
    ];
    for (line, expected) in rows {
        let changed = account(&base).security_relevant_change(&account(&format!("{base}{line}\n")));
        assert_eq!(changed, expected, "{line}");
    }
    let other = base.replace("auth.example", "other.example");
    assert!(account(&base).security_relevant_change(&account(&other)));
    let registers = base.replace("client_id = \"c\"", "client = \"register\"");
    assert!(account(&base).security_relevant_change(&account(&registers)));
}

#[test]
fn what_is_known_of_an_issuer_fills_in_what_the_text_does_not_state() {
    let text = r#"{"issuer":"https://auth.example","token_endpoint":"https://auth.example/t",
        "revocation_endpoint":"https://auth.example/r","registration_endpoint":"https://auth.example/c"}"#;
    let metadata = crate::oauth::metadata::Metadata::read(text.as_bytes(), "https://auth.example").unwrap();
    let read = |text: &str| {
        let facts = MachineFacts { metadata: [("lab".to_owned(), metadata.clone())].into(), ..facts() };
        Config::parse(&source(text), &[], &facts).unwrap().config
    };
    let own = format!("{WAYS}revocation_endpoint = \"https://auth.example/own\"\n");
    let server = read(&own).accounts.remove("lab").unwrap().server;
    let shown = |endpoint: &Option<Endpoint>| endpoint.as_ref().map(ToString::to_string);
    assert_eq!(shown(&server.token).as_deref(), Some("https://auth.example/t"));
    assert_eq!(shown(&server.revocation).as_deref(), Some("https://auth.example/own"), "what is stated counts");
    assert_eq!(shown(&server.registration).as_deref(), Some("https://auth.example/c"));
    let other_issuer = read(&WAYS.replace("auth.example", "auth.example/")).accounts.remove("lab").unwrap();
    assert_eq!(other_issuer.server.token, None, "it is of another issuer");
    let other_account = read(&WAYS.replace("[account.lab]", "[account.other]")).accounts.remove("other").unwrap();
    assert_eq!(other_account.server.token, None, "it was kept for another account");
    // and the route refuses a token service that was found out, too
    let route = read(&WAYS.replace("api.example", "auth.example")).routes.remove(0);
    assert_eq!(route.refuse, ["/t", "/r"]);
}
