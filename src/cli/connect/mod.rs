//! `valetd connect`: writes a route to an MCP server into the configuration of a program that speaks MCP.
//!
//! * [`clients`]: the programs, as data; [`edit`]: an entry in a text; [`mod@file`]: the file around the text.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::arguments::parse_route;
use super::configuration::places;
use super::failure::{Exit, Failure};
use super::options::Options;
use super::output::{is_agreed, print, remark};
use super::runtime::block_on;
use super::text::{Cell, Table};
use crate::config::RouteName;
use crate::control::client::Client as Daemon;
use crate::control::report::{RouteReport, StatusReport};
use crate::names::UnknownName;
use crate::platform::environment;
use crate::platform::paths::Paths;
use crate::platform::program;

mod clients;
mod edit;
mod file;

use clients::{CLIENTS, Client, Folders, Target};
use edit::{Entry, as_value};
use file::Current;

/// Have a program that speaks MCP use a route
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Have a program that speaks MCP use a route: an entry that leads to it is written
into the program's own configuration. It is shown first, and nothing is written
unless you say so; the file as it was is kept beside it (.before-valetd).
Comments and order stay as they are, and a file that cannot be read is left
alone. The second time nothing changes.

The entry is the route's URL, or, where the program takes none or the route asks
for a key, the command 'valetd mcp ROUTE'. It holds no secret.

Without arguments: which programs there are here, and what they are connected
to: claude-code, claude-desktop, codex, cursor, gemini, opencode, vscode, zed.
For any other, --print shows what to write.",
    after_help = "\
Examples:
  valetd connect
  valetd connect claude-code linear
  valetd connect cursor linear --print
  valetd connect codex linear --undo

Exit codes: 0 done, or nothing to do; 1 not done."
)]
pub(super) struct Arguments {
    /// The program
    #[arg(value_name = "CLIENT", requires = "route")]
    client: Option<String>,
    /// The route that leads to the MCP server
    #[arg(value_name = "ROUTE", value_parser = parse_route)]
    route: Option<RouteName>,
    /// Write nothing: print the entry, and where it goes
    #[arg(long, requires = "client", conflicts_with_all = ["undo", "yes"])]
    print: bool,
    /// Take the entry out; where nothing else has changed since, the file is as it
    /// was, byte for byte
    #[arg(long, requires = "client")]
    undo: bool,
    /// Do not ask
    #[arg(short, long, requires = "client")]
    yes: bool,
    /// Another file than the program's usual one, such as a project's .mcp.json
    #[arg(long, value_name = "FILE", requires = "client")]
    file: Option<PathBuf>,
    /// Print for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let folders = folders(&places)?;
    let report = block_on(async { Daemon::connect(&places.socket).await?.status().await })?;
    let Arguments { client, route, print: print_only, undo, yes, file, json } = arguments;
    let (Some(client), Some(name)) = (client, route) else {
        return list(&folders, report.ok().as_ref(), json);
    };
    let client = CLIENTS.iter().find(|known| known.name == client).ok_or_else(|| {
        Failure::unknown(&UnknownName::new("client", &client, CLIENTS.iter().map(|known| known.name)))
    })?;
    let path = file.unwrap_or_else(|| client.file(&folders));
    if undo {
        return take_out(client, name.as_str(), &path, yes, json);
    }
    let report = report.map_err(|error| Failure::of_call(error, options))?;
    let route = route_of(&report, &name)?;
    let program = program::path().map_err(|error| Failure::new(error).while_doing("finding this program"))?;
    let target = Target { route: &route.name, url: url(route), program: &program, options: options_of(options) };
    let entry = client.entry(&target);
    if print_only {
        print(&shown(client, &route.name, &entry, &path)?)?;
        return Ok(Exit::Fine);
    }
    put_in(client, &route.name, &entry, &path, yes, json)
}

fn folders(places: &Paths) -> Result<Folders, Failure> {
    let home = places.home.clone().ok_or_else(|| Failure::say("there is no home folder (HOME)"))?;
    let dot_config = environment::value("XDG_CONFIG_HOME").map(PathBuf::from);
    let dot_config = dot_config.filter(|folder| folder.is_absolute()).unwrap_or_else(|| home.join(".config"));
    Ok(Folders { home, dot_config, variable: environment::value })
}

fn route_of<'a>(report: &'a StatusReport, name: &RouteName) -> Result<&'a RouteReport, Failure> {
    let found = report.routes.iter().find(|route| route.name == name.as_str());
    let route = found.ok_or_else(|| {
        let routes = report.routes.iter().map(|route| route.name.as_str());
        Failure::unknown(&UnknownName::new("route", name.as_str(), routes))
    })?;
    if route.mcp.is_none() {
        let says = format!("the route {name} is not said to lead to an MCP server");
        let remedy = format!("add mcp = true to [route.{name}], or mcp = \"/mcp\" if it is below the upstream");
        return Err(Failure::say(says).with_remedy(remedy));
    }
    Ok(route)
}

/// The URL of the MCP server for clients on this machine; none if they would need a key for it, or there is none on TCP.
fn url(route: &RouteReport) -> Option<String> {
    let mcp = route.mcp.as_ref()?;
    let url = route.urls.iter().find(|url| !url.starts_with("http://unix:") && !route.require_key)?;
    Some(format!("{}{}", url.trim_end_matches('/'), mcp.path))
}

/// The options with which a bridge finds this daemon.
fn options_of(options: &Options) -> Vec<String> {
    let Options { config, state_dir, socket, log: _, log_format: _ } = options;
    let named = [("--config", config), ("--state-dir", state_dir), ("--socket", socket)];
    let words = named.into_iter().filter_map(|(option, path)| {
        let path = std::path::absolute(path.as_ref()?).ok()?;
        Some([option.to_owned(), path.display().to_string()])
    });
    words.flatten().collect()
}

/// What a person would write by hand.
fn shown(client: &Client, name: &str, entry: &Entry, path: &Path) -> Result<String, Failure> {
    let text = client.place.with("", name, entry).map_err(Failure::say)?;
    Ok(format!("{}\n{text}", path.display()))
}

fn put_in(client: &Client, name: &str, entry: &Entry, path: &Path, yes: bool, json: bool) -> Result<Exit, Failure> {
    let wrong = |why: String| {
        Failure::say(format!("{} {why}", path.display()))
            .with_remedy("nothing was written; to write the entry by hand, see it with --print")
    };
    let current = Current::read(path).map_err(wrong)?;
    let before = current.text.clone().unwrap_or_default();
    let after = client.place.with(&before, name, entry).map_err(wrong)?;
    let changes = after != before;
    if changes {
        let entries = client.place.all(&before).map_err(wrong)?;
        if !json {
            let theirs = entries.iter().any(|(its, entry)| its == name && !is_ours(entry, name));
            let instead = if theirs { format!(", in place of the entry {name} that is there") } else { String::new() };
            let words = in_words(name, entry);
            print(&format!("{} gets, in {}{instead}:\n{words}\n", client.title, path.display()))?;
        }
        agreed(yes, "Write it?")?;
        // what was there before the first entry of ours stays what is gone back to
        let ours = ours(entries);
        let kept = current.before();
        let is_known = !ours.is_empty() && with_all(client, kept.as_deref().unwrap_or_default(), &ours) == Some(before);
        current.replace(&after, !is_known).map_err(wrong)?;
    }
    let says = match changes {
        true => format!("{} is connected to {name}; start it anew", client.title),
        false => format!("{} is connected to {name} already", client.title),
    };
    told(client, name, path, changes, &as_value(entry), &says, json)
}

fn take_out(client: &Client, name: &str, path: &Path, yes: bool, json: bool) -> Result<Exit, Failure> {
    let wrong = |why: String| Failure::say(format!("{} {why}", path.display())).with_remedy("nothing was changed");
    let current = Current::read(path).map_err(wrong)?;
    let now = current.text.clone().unwrap_or_default();
    let Some(entry) = client.place.find(&now, name).map_err(wrong)? else {
        let says = format!("{} is not connected to {name}", client.title);
        return told(client, name, path, false, &Value::Null, &says, json);
    };
    if !is_ours(&entry, name) {
        let says = format!("{} has an entry {name} that does not lead to valetd", path.display());
        return Err(Failure::say(says).with_remedy("nothing was changed"));
    }
    agreed(yes, &format!("Take {name} out of {}?", path.display()))?;
    let ours = ours(client.place.all(&now).map_err(wrong)?);
    let others: Vec<_> = ours.iter().filter(|(its, _)| its != name).cloned().collect();
    // where nothing but our entries has come to it, the file becomes what it would be without this one
    let before_ours = |before: &str| {
        let is_as_left = with_all(client, before, &ours).is_some_and(|text| text == now);
        let leads_here = |entry: &Value| is_ours(entry, name);
        let was_here = client.place.find(before, name).is_ok_and(|entry| entry.is_some_and(|entry| leads_here(&entry)));
        (is_as_left && !was_here).then(|| with_all(client, before, &others)).flatten()
    };
    let kept = current.before();
    match (kept.as_deref().and_then(before_ours), before_ours("")) {
        (Some(text), _) => {
            current.replace(&text, false).map_err(wrong)?;
            if others.is_empty() {
                current.remove_backup().map_err(wrong)?;
            }
        }
        (None, Some(_)) if others.is_empty() => current.remove().map_err(wrong)?,
        (None, Some(text)) => current.replace(&text, false).map_err(wrong)?,
        (None, None) => {
            let without = client.place.without(&now, name).map_err(wrong)?;
            current.replace(&without, false).map_err(wrong)?;
        }
    }
    told(client, name, path, true, &Value::Null, &format!("{} is not connected to {name} any more", client.title), json)
}

/// Those among entries that lead to this program.
fn ours(entries: Vec<(String, Value)>) -> Vec<(String, Value)> {
    entries.into_iter().filter(|(name, entry)| is_ours(entry, name)).collect()
}

/// The text that comes of a text by writing entries that were found.
fn with_all(client: &Client, before: &str, entries: &[(String, Value)]) -> Option<String> {
    const NAMES: [&str; 6] = ["type", "command", "args", "url", "httpUrl", "enabled"];
    entries.iter().try_fold(before.to_owned(), |text, (name, entry)| {
        let members = entry.as_object()?;
        let entry: Entry = NAMES.into_iter().filter_map(|name| Some((name, members.get(name)?.clone()))).collect();
        (entry.len() == members.len()).then(|| client.place.with(&text, name, &entry).ok())?
    })
}

/// Whether an entry leads to this program: by its command, or by a local URL that ends in the route's name and path.
fn is_ours(entry: &Value, name: &str) -> bool {
    let text = |member: &str| entry[member].as_str().unwrap_or_default().to_owned();
    let words = |member: &str| entry[member].as_array().cloned().unwrap_or_default();
    let (command, args) = (words("command"), words("args"));
    let is_bridge =
        [command, args].iter().any(|words| words.windows(2).any(|pair| pair[0] == "mcp" && pair[1] == name));
    let is_local = [text("url"), text("httpUrl")].iter().any(|url| {
        let host = url.strip_prefix("http://").unwrap_or_default();
        let (host, path) = host.split_once('/').unwrap_or((host, ""));
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let is_loopback =
            host == "localhost" || host.ends_with(".localhost") || host.starts_with("127.") || host == "[::1]";
        is_loopback && (path.split('/').next() == Some(name) || host.split('.').next() == Some(name))
    });
    is_bridge || is_local
}

fn in_words(name: &str, entry: &Entry) -> String {
    let members: Vec<String> = entry.iter().map(|(member, value)| format!("\"{member}\": {value}")).collect();
    format!("  \"{name}\": {{ {} }}", members.join(", "))
}

/// Asks, unless it has been said already.
fn agreed(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    match is_agreed(question) {
        true => Ok(()),
        false => Err(Failure::say("nothing was changed").with_remedy("with --yes it is not asked")),
    }
}

fn told(
    client: &Client,
    name: &str,
    path: &Path,
    changed: bool,
    entry: &Value,
    says: &str,
    json: bool,
) -> Result<Exit, Failure> {
    match json {
        true => print(&format!(
            "{}\n",
            json!({"client": client.name, "route": name, "file": path.display().to_string(), "changed": changed, "entry": entry})
        ))?,
        false => remark(says),
    }
    Ok(Exit::Fine)
}

/// Which clients there are, and the routes that they are connected to.
fn list(folders: &Folders, report: Option<&StatusReport>, json: bool) -> Result<Exit, Failure> {
    let mut table = Table::default();
    table.row(["CLIENT", "", "CONNECTED TO", "FILE"].map(Cell::new));
    let mut rows = Vec::new();
    for client in &CLIENTS {
        let path = client.file(folders);
        let entries = Current::read(&path).and_then(|current| client.place.all(&current.text.unwrap_or_default()));
        let connected = entries.as_ref().map(|entries| {
            let ours = entries.iter().filter(|(name, entry)| is_ours(entry, name));
            ours.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        });
        let installed = client.is_installed(folders);
        let words = match &connected {
            Ok(names) if names.is_empty() => "-".to_owned(),
            Ok(names) => names.join(", "),
            Err(why) => format!("the file {why}"),
        };
        let state = if installed { "installed" } else { "not seen" };
        table.row([client.name.to_owned(), state.to_owned(), words, path.display().to_string()].map(Cell::new));
        rows.push(json!({
            "client": client.name, "title": client.title, "installed": installed, "file": path.display().to_string(),
            "connected": connected.as_ref().ok(), "problem": connected.as_ref().err(),
        }));
    }
    if json {
        print(&format!("{}\n", Value::Array(rows)))?;
        return Ok(Exit::Fine);
    }
    let mut text: String = table.lines().iter().map(|line| format!("{line}\n")).collect();
    let routes =
        report.map(|report| report.routes.iter().filter(|route| route.mcp.is_some()).map(|route| &*route.name));
    match routes.map(|routes| routes.collect::<Vec<_>>()) {
        Some(routes) if !routes.is_empty() => text += &format!("\nRoutes to MCP servers: {}\n", routes.join(", ")),
        Some(_) => text += "\nNo route leads to an MCP server: see mcp in [route.NAME]\n",
        None => {}
    }
    print(&text)?;
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_ours_if_it_leads_to_this_machine_and_the_route_or_starts_the_bridge() {
        for (entry, expected) in [
            (json!({"url": "http://localhost:8253/lab/mcp"}), true),
            (json!({"httpUrl": "http://127.0.0.1:8253/lab"}), true),
            (json!({"url": "http://lab.localhost:8253/mcp"}), true),
            (json!({"command": "/usr/bin/valetd", "args": ["--socket", "/s", "mcp", "lab"]}), true),
            (json!({"command": ["valetd", "mcp", "lab"]}), true),
            (json!({"url": "https://mcp.lab.example/lab"}), false),
            (json!({"url": "http://localhost:8253/labs"}), false),
            (json!({"command": "npx", "args": ["mcp", "other"]}), false),
            (json!("lab"), false),
        ] {
            assert_eq!(is_ours(&entry, "lab"), expected, "{entry}");
        }
    }
}
