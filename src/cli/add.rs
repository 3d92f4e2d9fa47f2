//! `valetd add`

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;

use super::arguments::parse_account;
use super::config_edit::{self, Setting};
use super::config_file::{self, SecretFile};
use super::configuration::{Loaded, load_config, places};
use super::failure::{Exit, Failure};
use super::login;
use super::options::Options;
use super::output::{print, remark};
use super::providers;
use super::runtime::block_on;
use super::text::{printable, wrapped};
use crate::advice::advised;
use crate::config::{Account, AccountId, Asked, Config, ListenAddress, Preset, Upstream};
use crate::config_files;
use crate::discovery::kept;
use crate::discovery::probe::{Findings, FoundClient, Unknown, probe};
use crate::http_client::{HttpClient, Reach};
use crate::oauth::GrantType;
use crate::platform::paths::Paths;
use crate::platform::termination::{Uninterrupted, uninterrupted};
use crate::secret::Secret;
use crate::sign_in::handed_in;
use crate::sign_in::terminal::{Terminal, Unasked};

/// Add an account: write it into the configuration, and sign in
#[derive(Args, Debug)]
#[command(
    long_about = "\
Add an account, of a provider that valetd knows ('valetd providers' lists them)
or of a server at an address, which is asked what it is: an API that names its
authorization server (RFC 9728, as MCP servers do), an issuer (RFC 8414, OpenID
Connect), or an openEO back-end. Where the server allows it, valetd registers
itself as a client (RFC 7591) when you sign in.

What cannot be found out is asked for, with where you find it; or say it with an
option. The account is written at the end of the configuration, where comments
and order stay as they are, and you are asked whether to sign in.",
    after_help = "\
Examples:
  valetd add gbdx gbdx
  valetd add work github --client-id Iv1.0123456789abcdef
  valetd add notes https://mcp.notion.com/mcp
  valetd add eo https://openeo.dataspace.copernicus.eu
  valetd add lab keycloak --issuer https://sso.lab.example/realms/lab \\
      --client-id valetd --upstream https://api.lab.example/v1

Exit codes: 0 it is in the configuration, 1 it is not, 2 something is missing
and there is no terminal to ask on."
)]
pub(super) struct Arguments {
    /// The account's name, and its route's: a-z, 0-9, - and _
    #[arg(value_parser = parse_account)]
    name: AccountId,
    /// A provider, or the address of an API, an issuer or an openEO back-end
    #[arg(value_name = "PROVIDER|URL")]
    from: String,
    /// The client's id, as it is registered at the provider
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Read the client's secret from standard input
    #[arg(long)]
    client_secret_stdin: bool,
    /// The issuer, for providers that have many
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Where the account's route leads
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The redirect URI that is registered for the client, where codes are pasted
    #[arg(long, value_name = "URI")]
    redirect_uri: Option<String>,
    /// A scope to ask for, in place of the provider's; can be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Which of an openEO back-end's providers, if not the first
    #[arg(long, value_name = "ID")]
    openeo_provider: Option<String>,
    /// A PEM file with certificate authorities to trust besides the system's
    #[arg(long, value_name = "FILE")]
    extra_ca: Option<PathBuf>,
    /// Ask nothing, and do not sign in
    #[arg(long)]
    no_input: bool,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let name = arguments.name.clone();
    let doing = format!("adding {name}");
    let places = places(options)?;
    let Added { account, config, preset } = add(&places, &arguments).map_err(|failure| failure.while_doing(doing))?;
    print(&said(&places, &account, &config))?;
    preset.iter().flat_map(|preset| not_brought(preset, &account.id, &config)).for_each(|words| remark(&words));
    sign_in(options, &account, arguments.no_input)
}

/// What was written.
struct Added {
    account: Account,
    /// As it was read back.
    config: Config,
    /// The account's provider, if it has one.
    preset: Option<Preset>,
}

/// Writes the account into the configuration.
fn add(places: &Paths, arguments: &Arguments) -> Result<Added, Failure> {
    let name = &arguments.name;
    let Loaded { config, warnings: _ } = load_config(places).map_err(|problems| {
        let file = places.config_file.display();
        Failure::say(format!("{file} cannot be used")).with_problems(problems).with_remedy("correct it and try again")
    })?;
    if config.accounts.contains_key(name) {
        let remedy = format!("take another name, or run '{}' first", advised(format_args!("remove {name}")));
        return Err(Failure::say("there is an account of that name").with_remedy(remedy).with_exit(Exit::Usage));
    }
    if let Some(route) = config.routes.iter().find(|route| route.name.as_str() == name.as_str()) {
        // the account's own route would be missing, and its address would lead on to the other's
        let failure = Failure::say(format!("there is a route of that name, with the token of {}", route.account));
        return Err(failure.with_remedy("take another name, or give that route another one").with_exit(Exit::Usage));
    }
    let mut answers = Answers { arguments, terminal: None };
    let known = config_files::known_presets(places);
    let (mut settings, findings, preset) = match address_in(&arguments.from) {
        Some(address) => found(&mut answers, &address).map(|(settings, found)| (settings, Some(found), None))?,
        None => {
            let preset = &providers::named(&known, &arguments.from)?.preset;
            match &preset.find {
                Some(address) => found(&mut answers, address).map(|(settings, found)| (settings, Some(found), None))?,
                None => (of_preset(&mut answers, preset)?, None, Some(preset.clone())),
            }
        }
    };
    if !arguments.scopes.is_empty() {
        settings.account.retain(|(key, _)| *key != "scopes");
        settings.push("scopes", Setting::List(arguments.scopes.clone()));
    }
    if let Some(file) = &arguments.extra_ca {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        settings.push("extra_ca", Setting::Text(file.display().to_string()));
    }
    let secret = answers.secret(&settings)?;
    let config = {
        let whole = uninterrupted();
        let secret = secret.map(|secret| SecretFile::write(places, &whole, name, &secret)).transpose()?;
        if let Some(file) = &secret {
            settings.push("client_secret", Setting::Pairs(vec![("file", file.name())]));
        }
        let config = write(places, &whole, name, &settings)?;
        secret.into_iter().for_each(SecretFile::keep);
        config
    };
    if let Some(findings) = findings {
        // what was found just now need not be asked for again
        let _ = kept::keep(&places.state_dir, name, &kept::found_now(findings.metadata));
    }
    let account = config.accounts.get(name).cloned();
    let added = account.map(|account| Added { account, config, preset });
    added.ok_or_else(|| Failure::say("it is not in what was read back"))
}

/// The routes of a provider that the account has not got, as the configuration has others of their names, in a sentence each:
/// a person's own route is laid over a provider's.
fn not_brought(preset: &Preset, account: &AccountId, config: &Config) -> Vec<String> {
    let brought = preset.further_routes.iter();
    let taken = brought.filter_map(|(route, upstream)| {
        let name = Preset::route_name(account, route);
        let there = config.routes.iter().find(|route| route.name.as_str() == name)?;
        let (other, upstream) = (&there.account, printable(upstream));
        (other != account).then(|| {
            format!(
                "{account}: the provider's route {name} to {upstream} is missing, as [route.{name}] has the token of \
                 {other}; to have it, give that route another name, or add a [route.NAME] with account = \
                 \"{account}\" and upstream = \"{upstream}\""
            )
        })
    });
    taken.collect()
}

/// The address that a person means, also where they leave out its scheme, as no provider has a dot, a colon or a slash in
/// its name; with scheme and host in lower case. Pure.
fn address_in(from: &str) -> Option<String> {
    let address = match from.contains("://") {
        true => from.to_owned(),
        false => from.contains(['.', ':', '/']).then(|| format!("https://{from}"))?,
    };
    // RFC 3986 section 6.2.2.1: what a server says of itself is compared with it byte by byte
    let at = address.find("://").map_or(0, |at| at + 3);
    let end = address[at..].find(['/', '?', '#']).map_or(address.len(), |length| at + length);
    Some(format!("{}{}", address[..end].to_ascii_lowercase(), &address[end..]))
}

fn write(places: &Paths, whole: &Uninterrupted, name: &AccountId, settings: &Settings) -> Result<Config, Failure> {
    config_file::edit(places, whole, |text| {
        let added = config_edit::with_account(text, name.as_str(), &settings.account, &settings.route);
        added.map_err(|why| Failure::say(format!("{} {why}", places.config_file.display())))
    })
}

/// What is written of an account.
#[derive(Default)]
struct Settings {
    account: Vec<(&'static str, Setting)>,
    /// Of the route of the same name.
    route: Vec<(&'static str, Setting)>,
    /// Whether the account has a client secret, which goes into a file of its own.
    has_secret: bool,
}

impl Settings {
    /// One more of the account.
    fn push(&mut self, key: &'static str, setting: Setting) {
        self.account.push((key, setting));
    }
}

/// What the command line says, or the person at the terminal.
struct Answers<'a> {
    arguments: &'a Arguments,
    terminal: Option<Terminal>,
}

impl Answers<'_> {
    /// The value of a key, which is found at a place.
    fn value(&mut self, asked: &Asked) -> Result<String, Failure> {
        let Arguments { client_id, issuer, upstream, redirect_uri, .. } = self.arguments;
        let given = match asked.key {
            "client_id" => client_id,
            "issuer" => issuer,
            "upstream" => upstream,
            "redirect_uri" => redirect_uri,
            _ => &None,
        };
        if let Some(given) = given {
            return Ok(asked.value(given));
        }
        let option = asked.key.replace('_', "-");
        let terminal = self.terminal(&option, &asked.place)?;
        let prompt = format!("{}  > ", wrapped(&format!("{}: {}", asked.key, asked.place), 0));
        Ok(asked.value(&terminal.ask_line(&prompt).map_err(unasked)?))
    }

    /// The client's secret, where the account has one.
    fn secret(&mut self, settings: &Settings) -> Result<Option<Secret>, Failure> {
        if self.arguments.client_secret_stdin {
            let doing = "reading the client's secret from standard input";
            let read = handed_in::read_secret(io::stdin().lock());
            return read.map(Some).map_err(|error| Failure::new(error).while_doing(doing));
        }
        if !settings.has_secret {
            return Ok(None);
        }
        let terminal = self.terminal("client-secret-stdin", "the client's secret")?;
        terminal.ask_hidden("client_secret (not shown): ").map(Some).map_err(unasked)
    }

    fn terminal(&mut self, option: &str, place: &str) -> Result<&mut Terminal, Failure> {
        let missing = || {
            let failure = Failure::say(format!("--{option} is missing: {}", printable(place)));
            failure.with_remedy("say it, or run this on a terminal, where it is asked for").with_exit(Exit::Usage)
        };
        if self.arguments.no_input {
            return Err(missing());
        }
        if self.terminal.is_none() {
            self.terminal = Some(Terminal::open().map_err(|_| missing())?);
        }
        Ok(self.terminal.as_mut().expect("it was opened just now"))
    }
}

fn unasked(error: Unasked) -> Failure {
    let exit = if matches!(error, Unasked::Interrupted) { Exit::Interrupted } else { Exit::Failed };
    Failure::new(error).with_exit(exit)
}

/// What an account of a provider says: its name, and what is another value for each person.
fn of_preset(answers: &mut Answers<'_>, preset: &Preset) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    settings.push("provider", Setting::Text(preset.name.clone()));
    let Arguments { client_id, issuer, upstream, redirect_uri, .. } = answers.arguments;
    // what the provider does not ask for, and the person wants another way
    let given = [("issuer", issuer), ("upstream", upstream), ("client_id", client_id), ("redirect_uri", redirect_uri)];
    for (key, given) in given {
        if let (Some(given), false) = (given, preset.ask.iter().any(|asked| asked.key == key)) {
            settings.push(key, Setting::Text(given.clone()));
        }
    }
    for asked in &preset.ask {
        if asked.key == "client_secret" {
            remark(&format!("client_secret: {}", asked.place));
            settings.has_secret = true;
            continue;
        }
        settings.push(asked.key, Setting::Text(answers.value(asked)?));
    }
    Ok(settings)
}

/// What an account of a server says, which is asked.
fn found(answers: &mut Answers<'_>, address: &str) -> Result<(Settings, Findings), Failure> {
    let bad = |why: String| Failure::say(format!("the address {why}")).with_exit(Exit::Usage);
    Upstream::parse(address).map_err(bad)?;
    remark(&format!("Asking {address} what it is ..."));
    let provider = answers.arguments.openeo_provider.as_deref();
    let reach = Reach { extra_ca: answers.arguments.extra_ca.as_deref(), ..Reach::default() };
    let probed = block_on(probe(&HttpClient::from_environment(), address, provider, reach))?;
    let findings = probed.map_err(|unknown| unsaid(address, unknown))?;
    remark(&format!("It is {}; tokens come from {}.", findings.what, findings.issuer));
    if !findings.others.is_empty() {
        remark(&format!("Others that could be taken with --openeo-provider: {}.", findings.others.join(", ")));
    }
    let settings = of_findings(answers, &findings)?;
    Ok((settings, findings))
}

/// What is said of an address that is not known to have a sign-in: a server that could not be asked has done nothing wrong.
fn unsaid(address: &str, unknown: Unknown) -> Failure {
    let providers = advised("providers");
    match unknown {
        Unknown::Unreachable(why) => {
            let failure = Failure::say(why).while_doing(format!("asking {address}"));
            failure.with_remedy("look at the address, the network and the proxy (HTTPS_PROXY), then try again")
        }
        Unknown::Unsaid(tried) => {
            let failure = Failure::say(format!("{address} does not say how to sign in to it"));
            let mut tried: Vec<String> = tried.iter().map(|words| printable(words)).collect();
            tried.dedup();
            let failure = failure.with_problems(tried);
            failure.with_remedy(format!("`{providers}` lists those that are known; or write the account by hand"))
        }
    }
}

fn of_findings(answers: &mut Answers<'_>, findings: &Findings) -> Result<Settings, Failure> {
    let arguments = answers.arguments;
    let mut settings = Settings::default();
    settings.push("issuer", Setting::Text(findings.issuer.clone()));
    let mut is_known = false;
    match (&arguments.client_id, &findings.client) {
        (Some(id), _) => settings.push("client_id", Setting::Text(id.clone())),
        (None, FoundClient::Offered(id)) => {
            is_known = true;
            settings.push("client_id", Setting::Text(id.clone()));
        }
        (None, FoundClient::Registers) => {
            is_known = true;
            settings.push("client", Setting::Text("register".into()));
        }
        (None, unregistered @ (FoundClient::Unknown | FoundClient::Elsewhere(_))) => {
            let why = match unregistered {
                FoundClient::Elsewhere(endpoint) => format!(
                    "the server would have clients registered on another host than its own ({}), which is not done",
                    printable(endpoint)
                ),
                _ => "the server does not register clients".to_owned(),
            };
            let place = format!("{why}: its page for applications gives a native one an id");
            let asked = Asked { key: "client_id", place, form: None };
            settings.push("client_id", Setting::Text(answers.value(&asked)?));
        }
    }
    if arguments.client_secret_stdin {
        settings.push("client_auth", Setting::Text("post".into()));
    }
    if !findings.scopes.is_empty() {
        settings.push("scopes", Setting::List(findings.scopes.clone()));
    }
    if !findings.ways.is_empty() {
        let ways = findings.ways.iter().map(|way| (*way).to_owned()).collect();
        settings.push("sign_in", Setting::List(ways));
    }
    if let Some(redirect) = findings.redirect.as_ref().filter(|_| is_known) {
        settings.push("redirect", Setting::Text(redirect.clone()));
    }
    if findings.asks_for_consent && findings.ways.contains(&"browser") {
        settings.push("authorize", Setting::Pairs(vec![("prompt", "consent".into())]));
    }
    if findings.device_pkce {
        settings.push("device_pkce", Setting::True);
    }
    if let Some(resource) = &findings.resource {
        settings.push("resource", Setting::Text(resource.clone()));
    }
    if let Some(header) = &findings.header {
        settings.push("header", Setting::Text(header.clone()));
    }
    let upstream = match (&arguments.upstream, &findings.upstream) {
        (Some(upstream), _) | (None, Some(upstream)) => upstream.clone(),
        (None, None) => {
            let place = "the API to use it for: https://api.example/v1".into();
            answers.value(&Asked { key: "upstream", place, form: None })?
        }
    };
    match mcp_server(&upstream) {
        Some(McpServer { upstream, path }) => {
            settings.push("upstream", Setting::Text(upstream));
            settings.route.push(("mcp", Setting::Text(path.to_owned())));
        }
        None => settings.push("upstream", Setting::Text(upstream)),
    }
    Ok(settings)
}

/// Where an MCP server is behind an upstream.
#[derive(PartialEq, Eq, Debug)]
struct McpServer {
    upstream: String,
    path: &'static str,
}

/// The MCP server of an address, if it has the path that they have: then its host is the upstream, and the route's URL ends as
/// the server's does. Pure.
fn mcp_server(address: &str) -> Option<McpServer> {
    let path = ["/mcp", "/sse"].into_iter().find(|path| address.ends_with(path))?;
    let upstream = address.strip_suffix(path)?;
    (!upstream.ends_with('/')).then(|| McpServer { upstream: upstream.to_owned(), path })
}

/// What was written, and where the account's routes are.
fn said(places: &Paths, account: &Account, config: &Config) -> String {
    let mut text = format!("{}: added to {}\n", account.id, places.config_file.display());
    let port = config.listen.iter().find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(address.port()),
        ListenAddress::Unix(_) => None,
    });
    for route in config.routes.iter().filter(|route| route.account == account.id) {
        let upstream = printable(&route.upstream.to_string());
        text.push_str(&match port {
            Some(port) => {
                let path = route.mcp.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
                format!("  http://localhost:{port}/{}{path}  ->  {upstream}\n", route.name)
            }
            None => format!("  {}  ->  {upstream}\n", route.name),
        });
    }
    text
}

/// Offers to sign in, where there is somebody to ask.
fn sign_in(options: &Options, account: &Account, no_input: bool) -> Result<Exit, Failure> {
    if account.grant == GrantType::ClientCredentials {
        return Ok(Exit::Fine); // its secret is its sign-in
    }
    let later =
        || print(&format!("Sign in with: {}\n", advised(format_args!("login {}", account.id)))).map(|()| Exit::Fine);
    if no_input || account.sign_in.methods.is_empty() || !io::stdin().is_terminal() {
        return later();
    }
    let Ok(mut terminal) = Terminal::open() else { return later() };
    let answer = terminal.ask_line_or_none("Sign in now? [Y/n] ").map_err(|error| {
        let remedy = format!("the account is added; sign in with: {} login {}", options.invocation(), account.id);
        unasked(error).with_remedy(remedy)
    })?;
    drop(terminal);
    match answer.as_deref().map(str::to_lowercase).as_deref() {
        None | Some("y" | "yes") => login::perform(options, login::Arguments::of(account.id.clone())),
        Some(_) => later(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_dot_is_an_address() {
        let rows = [
            ("github", None),
            ("mcp.example/mcp", Some("https://mcp.example/mcp")),
            ("https://mcp.example", Some("https://mcp.example")),
            ("http://localhost:8080/mcp", Some("http://localhost:8080/mcp")),
            ("localhost:8080/mcp", Some("https://localhost:8080/mcp")),
            ("HTTPS://MCP.Example/Mcp?Q", Some("https://mcp.example/Mcp?Q")),
            ("Mcp.Example", Some("https://mcp.example")),
        ];
        for (from, expected) in rows {
            assert_eq!(address_in(from).as_deref(), expected, "{from}");
        }
    }

    #[test]
    fn an_mcp_server_is_known_by_its_path_and_keeps_it_here() {
        let rows = [
            ("https://mcp.example/mcp", Some(("https://mcp.example", "/mcp"))),
            ("https://mcp.example/v1/sse", Some(("https://mcp.example/v1", "/sse"))),
            ("https://mcp.example", None),
            ("https://api.example/mcp/", None),
            ("https://api.example/xmcp", None),
            ("https:///mcp", None),
        ];
        for (address, expected) in rows {
            let found = mcp_server(address);
            let found = found.as_ref().map(|server| (server.upstream.as_str(), server.path));
            assert_eq!(found, expected, "{address}");
        }
    }
}
