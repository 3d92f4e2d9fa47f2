//! `valetd key`

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::arguments::{parse_key, parse_route, parse_user};
use super::configuration::{config_or_empty, load_config, places};
use super::failure::{Exit, Failure};
use super::mcp::parse_rule;
use super::options::Options;
use super::output::{print, remark};
use super::runtime::block_on;
use super::text::{Cell, Table, columns, parse_term, printable, relative, wrapped_to};
use crate::advice::advised;
use crate::client_keys::{KeyError, KeyRing, Limits, NewKey, Rate, Rights};
use crate::config::{self, Config, KeyName, RouteName};
use crate::control::client::{Client, ClientError};
use crate::control::keys::{KeyList, KeyReport, lacks_mcp};
use crate::mcp::McpRule;
use crate::names::UnknownName;
use crate::path_rules::{self, PathPattern};
use crate::platform::clock::{Clock, unix_seconds};
use crate::platform::paths::Paths;
use crate::platform::users;
use crate::secret::Secret;
use crate::store::open_store;

/// Make, list and revoke keys for clients that are not you: sandboxes, agents
#[derive(Args, Debug)]
#[command(
    long_about = "\
Make, list and revoke client keys. Your own processes need none; a sandbox, an
agent, another user or (with require_key) another machine presents one, and can
then do what the key allows and nothing else.

A key is presented in one of these ways, whichever a tool can be told:

  X-Valetd-Key: vk_...                      or X-Api-Key, or Api-Key
  Authorization: Bearer vk_...
  http://vk_...@localhost:8253/gbdx/...     as the user name (Basic)
  http://me:vk_...@localhost:8253/gbdx/...  or as its password
  http://localhost:8253/vk_.../gbdx/...     as the path's first segment

It never goes upstream, and of a key only its hash is kept. What looks like one
anywhere else in a request's head is refused; contents are not looked into. An
address with a key in it is in the arguments of the command that is called with
it, which every user of the machine can read: with --for-user, a key is good
for the processes of that user alone, and not from other machines.

A process of yours that leaves its key out still reaches every route on the
common addresses, unless the configuration says require_key = true.

A key with --method or --path is for what the request line says: requests that
tell some servers another method or path (X-HTTP-Method-Override,
X-Original-URL, ?_method=) are refused with it. A form's body is not looked
into: where a server takes _method from there, give no key for POST.

A key with --allow is for what MCP messages say, on routes that lead to MCP
servers: of methods and tools the ones that it names, and what every session
needs. A message that could be read in two ways is refused with it.",
    after_help = "\
Examples:
  valetd key add agent --route gbdx --method GET --path '/catalog/**'
  valetd key add bot --route linear --allow 'mcp tools/call search_*'
  valetd key add ci --route gbdx --route gdh --expires 2h --rate 10/s
  valetd key list
  valetd key revoke agent"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Add(Add),
    List(List),
    Revoke(Revoke),
}

/// Make a key, and show it this once
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  valetd key add agent --route gbdx --method GET --path '/catalog/**'

Standard output has the key alone: KEY=$(valetd key add ...)

A process of yours that leaves its key out still reaches every route on the
common addresses, unless the configuration says require_key = true.")]
struct Add {
    /// What it is for: a-z, 0-9, - and _
    #[arg(value_parser = parse_key)]
    name: KeyName,
    /// A route that it is good for; can be repeated
    #[arg(long = "route", value_name = "ROUTE", required = true, value_parser = parse_route)]
    routes: Vec<RouteName>,
    /// A method (GET is HEAD, too); can be repeated; all, if none is named
    #[arg(long = "method", value_name = "METHOD", value_parser = parse_method)]
    methods: Vec<String>,
    /// A path behind the route's name; * stays in its segment, ** goes across;
    /// can be repeated; all, if none is named
    #[arg(long = "path", value_name = "PATTERN", value_parser = PathPattern::parse)]
    paths: Vec<PathPattern>,
    /// What of MCP goes through, on routes to MCP servers: "mcp tools/call search_*";
    /// can be repeated; all, if no rule is given
    #[arg(long = "allow", value_name = "RULE", value_parser = parse_rule)]
    messages: Vec<McpRule>,
    /// How long it lives: 30m, 2h, 720h
    #[arg(long, value_name = "TIME", value_parser = parse_term)]
    expires: Option<Duration>,
    /// How often it may be used: 10/s, 100/m, 1000/h
    #[arg(long, value_name = "RATE", value_parser = Rate::parse)]
    rate: Option<Rate>,
    /// How many requests may run at once, their answers included
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    concurrent: Option<u32>,
    /// How much content may go through it, both ways together: 500MB, 2GiB;
    /// then no further request is let in
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    bytes: Option<u64>,
    /// Whose processes may present it; without, anybody's, from anywhere
    #[arg(long, value_name = "NAME", value_parser = parse_user)]
    for_user: Option<u32>,
}

/// Show which keys there are, and what each is good for
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  valetd key list --json")]
struct List {
    /// As JSON, as the control socket has it
    #[arg(long)]
    json: bool,
}

/// Revoke a key: no request is let in with it from here on
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  valetd key revoke agent")]
struct Revoke {
    /// The key's name
    #[arg(value_parser = parse_key)]
    name: KeyName,
}

/// The methods that are registered and proxied (RFC 9110 section 18.2, RFC 5789, RFC 4918, RFC 3253).
const METHODS: [&str; 17] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
];

/// A method of the server's own may be named; one that is a letter away from a registered one is a slip of the keyboard, and
/// the key would be good for nothing.
fn parse_method(text: &str) -> Result<String, String> {
    let method = path_rules::method(&text.to_ascii_uppercase())?;
    match METHODS.contains(&method.as_str()) {
        true => Ok(method),
        false => match METHODS.into_iter().find(|known| strsim::damerau_levenshtein(&method, known) == 1) {
            Some(near) => Err(format!("is no method that is registered; did you mean {near}?")),
            None => Ok(method),
        },
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    config::size(text).filter(|bytes| *bytes > 0).ok_or_else(|| "write it like 500MB or 2GiB".to_owned())
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    match arguments.verb {
        Verb::Add(arguments) => add(options, arguments),
        Verb::List(arguments) => list(options, &arguments),
        Verb::Revoke(arguments) => revoke(options, &arguments),
    }
}

fn add(options: &Options, arguments: Add) -> Result<Exit, Failure> {
    let Add { name, routes, methods, paths, messages, expires, rate, concurrent, bytes, for_user } = arguments;
    let doing = format!("making the key {name}");
    let new = NewKey {
        name: Some(name.clone()),
        rights: Rights { routes, methods, paths, messages },
        lifetime: expires,
        rate,
        limits: Limits { user: for_user, concurrent, bytes },
        ephemeral: false,
    };
    let places = places(options)?;
    let asked = block_on(async { Client::connect(&places.socket).await?.add_key(&new).await })?;
    let key = match asked {
        Ok((key, _)) => key,
        Err(ClientError::NotRunning(_)) => add_here(&places, new).map_err(|failure| failure.while_doing(doing))?,
        Err(error) => return Err(Failure::of_call(error, options).while_doing(doing)),
    };
    let revoke = advised(format_args!("key revoke {name}"));
    remark(&format!("{name}: this is the only time that the key is shown; to revoke it: {revoke}"));
    print(&format!("{}\n", key.expose()))?;
    Ok(Exit::Fine)
}

/// Makes a key while no daemon runs.
fn add_here(places: &Paths, new: NewKey) -> Result<Secret, Failure> {
    let loaded = load_config(places)
        .map_err(|problems| Failure::say("the configuration has problems").with_problems(problems))?;
    let known = |name: &RouteName| loaded.config.routes.iter().any(|route| route.name == *name);
    if let Some(unknown) = new.rights.routes.iter().find(|name| !known(name)) {
        let routes = loaded.config.routes.iter().map(|route| route.name.as_str());
        let failure = Failure::unknown(&UnknownName::new("route", unknown.as_str(), routes));
        return Err(match loaded.config.routes.is_empty() {
            true => failure.with_remedy(format!("there is none yet: {} makes one", advised("add NAME PROVIDER"))),
            false => failure,
        });
    }
    if let Some(why) = lacks_mcp(&loaded.config, &new) {
        return Err(Failure::say(why));
    }
    Ok(ring(places, &loaded.config)?.add(new).map_err(Failure::new)?.0)
}

/// The keys, while no daemon runs. A file that cannot be read is not written over.
fn ring(places: &Paths, config: &Config) -> Result<KeyRing, Failure> {
    let store = open_store(places, config).map_err(Failure::new)?;
    match KeyRing::load(Arc::new(store), Arc::new(Clock::start())) {
        (ring, None) => Ok(ring),
        (_, Some(problem)) => Err(Failure::say(problem)),
    }
}

fn list(options: &Options, arguments: &List) -> Result<Exit, Failure> {
    let places = places(options)?;
    let asked = block_on(async { Client::connect(&places.socket).await?.keys().await })?;
    let keys = match asked {
        Ok(keys) => keys,
        Err(ClientError::NotRunning(_)) => KeyReport::all(&ring(&places, &config_or_empty(&places))?),
        Err(error) => return Err(Failure::of_call(error, options).while_doing("listing the keys")),
    };
    if arguments.json {
        let document = serde_json::to_string_pretty(&KeyList { keys }).expect("texts and numbers");
        print(&format!("{document}\n"))?;
        return Ok(Exit::Fine);
    }
    if keys.is_empty() {
        print(&format!("There is no client key. To make one: {}\n", advised("key add NAME --route ROUTE")))?;
        return Ok(Exit::Fine);
    }
    let width = columns().unwrap_or(usize::MAX);
    print(&(table(&keys, unix_seconds(), width).join("\n") + "\n"))?;
    Ok(Exit::Fine)
}

/// Where there is no room for it, what a key is good for has lines of its own. Pure but for the names of users.
fn table(keys: &[KeyReport], now: u64, width: usize) -> Vec<String> {
    const GOOD_FOR: usize = 1;
    let mut rows = vec![["NAME", "GOOD FOR", "EXPIRES", "RATE", "REQUESTS"].map(Cell::new).to_vec()];
    let mut good_for_all = Vec::new();
    for key in keys {
        let any = |words: &[String]| if words.is_empty() { "*".to_owned() } else { words.join(",") };
        let mut good_for = format!("{} {} {}", key.routes.join(","), any(&key.methods), any(&key.paths));
        if !key.messages.is_empty() {
            good_for.push_str(&format!("; {}", key.messages.join(", ")));
        }
        if let Some(user) = key.user {
            let user = users::name_of(user).unwrap_or_else(|| user.to_string());
            good_for.push_str(&format!("; for {user}"));
        }
        if let Some(concurrent) = key.concurrent {
            good_for.push_str(&format!("; {concurrent} at once"));
        }
        if let Some(bytes) = key.bytes {
            good_for.push_str(&format!("; {} of {bytes} bytes used", key.bytes_used.unwrap_or_default()));
        }
        let expires = match (&key.expires_at, key.ephemeral) {
            // by the daemon's time, which is ahead of a clock that was set back
            (Some(at), _) if key.expired => relative((at.unix() - now.cast_signed()).min(0)),
            (Some(at), _) => relative(at.unix() - now.cast_signed()),
            (None, true) => "with its holder".to_owned(),
            (None, false) => "never".to_owned(),
        };
        rows.push(vec![
            Cell::new(printable(&key.name)),
            Cell::new(printable(&good_for)),
            Cell::new(expires),
            Cell::new(key.rate.clone().unwrap_or_else(|| "-".to_owned())),
            Cell::number(key.requests),
        ]);
        good_for_all.push(printable(&good_for));
    }
    let in_table = |rows: &[Vec<Cell>]| {
        let mut table = Table::default();
        rows.iter().for_each(|row| table.row(row.clone()));
        table
    };
    let whole = in_table(&rows);
    if whole.width() <= width {
        return whole.lines();
    }
    rows.iter_mut().for_each(|row| drop(row.remove(GOOD_FOR)));
    let mut lines = in_table(&rows).lines().into_iter();
    let head: Vec<String> = lines.next().into_iter().collect();
    let below = |good_for: &String| wrapped_to(&format!("good for {good_for}"), 2, width).trim_end().to_owned();
    let each = lines.zip(&good_for_all).flat_map(|(line, good_for)| [line, below(good_for)]);
    head.into_iter().chain(each).collect()
}

fn revoke(options: &Options, arguments: &Revoke) -> Result<Exit, Failure> {
    let name = &arguments.name;
    let doing = format!("revoking the key {name}");
    let places = places(options)?;
    let asked = block_on(async { Client::connect(&places.socket).await?.revoke_key(name).await })?;
    let message = match asked {
        Ok(message) => message,
        Err(ClientError::NotRunning(_)) => {
            let ring =
                ring(&places, &config_or_empty(&places)).map_err(|failure| failure.while_doing(doing.clone()))?;
            ring.revoke(name).map_err(|error| match error {
                KeyError::Unknown(_) => Failure::new(error).with_remedy(advised("key list")).while_doing(doing),
                error => Failure::new(error).while_doing(doing),
            })?;
            "revoked".to_owned()
        }
        Err(error) => return Err(Failure::of_call(error, options).while_doing(doing)),
    };
    print(&format!("{name}: {}\n", printable(&message)))?;
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::Moment;

    #[test]
    fn the_table_says_what_a_key_is_good_for_and_for_how_long() {
        let key = KeyReport {
            name: "agent".into(),
            routes: vec!["gbdx".into(), "gdh".into()],
            methods: vec!["GET".into()],
            paths: vec!["/catalog/**".into()],
            messages: Vec::new(),
            rate: Some("10/s".into()),
            user: None,
            concurrent: None,
            bytes: None,
            bytes_used: None,
            ephemeral: false,
            created_at: Moment::of_unix(1000),
            expires_at: Some(Moment::of_unix(1000 + 7200)),
            expired: false,
            requests: 12,
            last_used_at: None,
            address: None,
        };
        let whole = KeyReport {
            name: "ephemeral-00".into(),
            routes: vec!["gdh".into()],
            methods: Vec::new(),
            paths: Vec::new(),
            messages: Vec::new(),
            rate: None,
            user: None,
            concurrent: None,
            bytes: None,
            bytes_used: None,
            ephemeral: true,
            expires_at: None,
            requests: 0,
            ..key.clone()
        };
        let expected = [
            "NAME          GOOD FOR                  EXPIRES          RATE  REQUESTS",
            "agent         gbdx,gdh GET /catalog/**  in 2 h           10/s        12",
            "ephemeral-00  gdh * *                   with its holder  -            0",
        ];
        assert_eq!(table(&[key.clone(), whole.clone()], 1000, 80), expected);
        let narrow = [
            "NAME          EXPIRES          RATE  REQUESTS",
            "agent         in 2 h           10/s        12",
            "  good for gbdx,gdh GET /catalog/**",
            "ephemeral-00  with its holder  -            0",
            "  good for gdh * *",
        ];
        assert_eq!(table(&[key.clone(), whole], 1000, 60), narrow);
        let bounded = KeyReport {
            messages: vec!["mcp tools/call search_*".into()],
            user: Some(4_000_000_000),
            concurrent: Some(4),
            bytes: Some(1000),
            bytes_used: Some(10),
            ..key
        };
        let said =
            "gbdx,gdh GET /catalog/**; mcp tools/call search_*; for 4000000000; 4 at once; 10 of 1000 bytes used";
        assert!(table(&[bounded], 1000, 200)[1].contains(said));
    }

    #[test]
    fn a_slip_of_the_keyboard_is_no_method_and_a_servers_own_is_one() {
        for (text, expected) in [
            ("get", Ok("GET")),
            ("PURGE", Ok("PURGE")),
            ("LIST", Ok("LIST")),
            ("GTE", Err("did you mean GET?")),
            ("pots", Err("did you mean POST?")),
            ("G T", Err("does not name a method")),
        ] {
            match (parse_method(text), expected) {
                (Ok(found), Ok(method)) => assert_eq!(found, method),
                (Err(said), Err(words)) => assert!(said.contains(words), "{text}: {said}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
