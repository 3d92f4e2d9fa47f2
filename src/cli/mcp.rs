//! `valetd mcp`

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use super::arguments::parse_route;
use super::configuration::places;
use super::failure::{Exit, Failure};
use super::lending::lend;
use super::options::Options;
use super::runtime::block_on;
use crate::bridge::{Bridge, Place};
use crate::client_keys::AddressKind;
use crate::config::{RouteName, Upstream};
use crate::control::client::Client;
use crate::lent::{Daemon, Lent};
use crate::mcp::McpRule;
use crate::names::UnknownName;

/// Speak MCP on standard input and output, for a client that knows no URL
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Speak MCP (the Model Context Protocol) on standard input and output, for a
client that starts its servers as commands: what it says goes to the route's
upstream over HTTP, with the token of the route's account, and what that answers
comes back. A client that takes a URL needs no bridge: give it the route's.

The client sees one session: where the server has forgotten it, a stream breaks
off, or the daemon is started anew, the bridge goes on by itself. What cannot be
done is answered with a JSON-RPC error that says what to do, such as the command
that signs in. It ends with its input.",
    after_help = "\
Example, for a client's configuration:
  {\"mcpServers\": {\"linear\": {\"command\": \"valetd\", \"args\": [\"mcp\", \"linear\"]}}}

Exit codes: 0 the input has ended, 1 it could not begin."
)]
pub(super) struct Arguments {
    /// The route that leads to the MCP server
    #[arg(value_parser = parse_route, value_name = "ROUTE")]
    name: RouteName,
    /// Where the server speaks MCP, below the route's upstream; otherwise what the
    /// route's setting mcp says
    #[arg(long, value_name = "PATH", value_parser = parse_path)]
    path: Option<String>,
    /// What goes through: "mcp tools/call search_*"; can be repeated; without, what
    /// the route lets through
    #[arg(long = "allow", value_name = "RULE", value_parser = parse_rule)]
    messages: Vec<McpRule>,
}

/// A rule for messages, as configurations have them.
pub(super) fn parse_rule(text: &str) -> Result<McpRule, String> {
    McpRule::parse(text).map_err(|wrong| format!("it {wrong}; {}", McpRule::EXAMPLE))
}

fn parse_path(path: &str) -> Result<String, &'static str> {
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_path { Ok(path.to_owned()) } else { Err("a path begins with / and has no blanks") }
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { name, path, messages } = arguments;
    let options = options.clone();
    let socket = places(&options)?.socket;
    block_on(async {
        let mut terminated = signal(SignalKind::terminate()).map_err(Failure::new)?;
        let place = Rc::new(RefCell::new(None));
        let its = place.clone();
        let lend = move || {
            let (options, socket, name, path, place) =
                (options.clone(), socket.clone(), name.clone(), path.clone(), its.clone());
            let messages = messages.clone();
            let lent = async move {
                let (lent, found) = look_up(&options, socket, name, path, messages).await.map_err(in_a_line)?;
                place.replace(Some(found));
                Ok(lent)
            };
            Box::pin(lent) as std::pin::Pin<Box<dyn Future<Output = _>>>
        };
        let bridge = Bridge::new(Daemon::new(None, Box::new(lend)), place);
        let ended = async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        LocalSet::new().run_until(bridge.run(ended)).await;
        Ok::<_, Failure>(())
    })??;
    // a read of standard input may still be waiting, on a thread that nothing can end
    std::process::exit(Exit::Fine as i32)
}

/// Where the route leads, and the socket and key for it.
async fn look_up(
    options: &Options,
    socket: PathBuf,
    name: RouteName,
    path: Option<String>,
    messages: Vec<McpRule>,
) -> Result<(Lent, Place), Failure> {
    let of_call = |error| Failure::of_call(error, options);
    let report = Client::connect(&socket).await.map_err(of_call)?.status().await.map_err(of_call)?;
    let Some(route) = report.routes.iter().find(|route| route.name == name.as_str()) else {
        let routes = report.routes.iter().map(|route| route.name.as_str());
        return Err(Failure::unknown(&UnknownName::new("route", name.as_str(), routes)));
    };
    let upstream =
        Upstream::parse(&route.upstream).map_err(|why| Failure::say(why).while_doing("reading the status"))?;
    let path = path.or_else(|| route.mcp.as_ref().map(|mcp| mcp.path.clone())).unwrap_or_default();
    let path = match format!("{}{path}", upstream.base_path) {
        path if path.is_empty() => "/".to_owned(),
        path => path,
    };
    let authority = upstream.origin.to_string();
    let authority = authority.split_once("://").map_or(authority.as_str(), |(_, authority)| authority).to_owned();
    let lent = lend(&socket, vec![name], messages, AddressKind::Upstreams { open: false }).await.map_err(of_call)?;
    Ok((lent, Place { authority, path, account: route.account.clone() }))
}

/// What a client shows of a failure.
fn in_a_line(failure: Failure) -> String {
    failure.to_string().trim_end().replace("\n  ", "; ")
}
