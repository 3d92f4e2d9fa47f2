//! The verbs of client keys: to make one, to see which there are, to revoke one.
//!
//! A key is shown in the answer to the request that made it and never again. An ephemeral one lives exactly as long as
//! that answer, whose body does not end: the connection closes, and the key is gone, however its holder ended.
//!
//! That connection is a `Lifeline`: it is inherited by programs that may do less than its maker, so it carries no
//! authority. Nothing is read from it any more, what was sent behind the request included.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::{StatusCode, Version};
use rustix::net::Shutdown as Direction;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::api::{Answer, Done, bad_request, json, stopping};
use super::problem::{Problem, kind};
use super::report::Moment;
use super::{ControlState, LendRequest, Line};
use crate::client_keys::{ClientKey, KeyError, KeyRing, NewKey, OwnAddress, Rate, Rights};
use crate::config::{KeyName, RouteName};
use crate::path_rules::{self, PathPattern};
use crate::platform::clock::wall;
use crate::secret::Secret;
use crate::shutdown::Shutdown;

/// For the one answer on a lifeline: its reader is on the same machine, and waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is said of an order that cannot be read, and so of one with a member that a newer version knows.
pub const UNKNOWN_JSON: &str = "not the expected JSON";

/// What `POST /v1/keys` takes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyOrder {
    /// What it is for; an ephemeral one may go without.
    #[serde(default)]
    pub name: Option<String>,
    /// Which routes; at least one.
    pub routes: Vec<String>,
    /// Which methods; all, if there are none.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Which paths behind the route's name, as patterns; all, if there are none.
    #[serde(default)]
    pub paths: Vec<String>,
    /// How long it lives, in seconds.
    #[serde(default)]
    pub expires_in: Option<u64>,
    /// How often it may be used: `10/s`.
    #[serde(default)]
    pub rate: Option<String>,
    /// Whether it lives in memory alone, and no longer than the answer's body.
    #[serde(default)]
    pub ephemeral: bool,
    /// Whether an ephemeral key comes with an address of its own, where its routes exist and no others.
    #[serde(default)]
    pub address: bool,
}

/// A key without the key: what `GET /v1/keys` shows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KeyReport {
    /// What it is for.
    pub name: String,
    /// Which routes.
    pub routes: Vec<String>,
    /// Which methods; all, if there are none.
    pub methods: Vec<String>,
    /// Which paths behind the route's name; all, if there are none.
    pub paths: Vec<String>,
    /// How often it may be used.
    pub rate: Option<String>,
    /// Whether it lives in memory alone.
    pub ephemeral: bool,
    /// When it was made.
    pub created_at: Moment,
    /// From when on it is refused.
    pub expires_at: Option<Moment>,
    /// Whether that is now.
    pub expired: bool,
    /// Requests that it was good for since the daemon started.
    pub requests: u64,
    /// When the last of them was.
    pub last_used_at: Option<Moment>,
    /// The address that ends with the key, where its routes exist and no others.
    #[serde(default)]
    pub address: Option<String>,
}

/// All keys.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KeyList {
    /// In the order of their names.
    pub keys: Vec<KeyReport>,
}

/// A key that has just been made: the one time that it is shown.
#[derive(Serialize, Deserialize)]
pub(super) struct MadeKey {
    pub(super) key: String,
    #[serde(flatten)]
    pub(super) report: KeyReport,
}

impl KeyOrder {
    /// The order for a key.
    pub fn of(new: &NewKey) -> Self {
        let NewKey { name, rights: Rights { routes, methods, paths }, lifetime, rate, ephemeral } = new;
        Self {
            name: name.as_ref().map(ToString::to_string),
            routes: routes.iter().map(ToString::to_string).collect(),
            methods: methods.clone(),
            paths: paths.iter().map(ToString::to_string).collect(),
            expires_in: lifetime.map(|lifetime| lifetime.as_secs()),
            rate: rate.map(|rate| rate.to_string()),
            ephemeral: *ephemeral,
            address: false,
        }
    }

    /// What it asks for, if it makes sense.
    fn read(self) -> Result<NewKey, String> {
        if self.address && (!self.ephemeral || self.expires_in.is_some()) {
            return Err("an address is for an ephemeral key without expires_in: it ends with the connection".to_owned());
        }
        let no_name = |what: &str, name: &str| format!("{name:?} is not the name of a {what}");
        let name = |name: String| KeyName::new(&name).ok_or_else(|| no_name("key", &name));
        let route = |name: &String| RouteName::new(name).ok_or_else(|| no_name("route", name));
        let routes: Result<Vec<RouteName>, String> = self.routes.iter().map(route).collect();
        let methods: Result<_, String> = self
            .methods
            .iter()
            .map(|text| path_rules::method(text).map_err(|wrong| format!("{text:?} {wrong}")))
            .collect();
        let paths: Result<_, String> = self
            .paths
            .iter()
            .map(|text| PathPattern::parse(text).map_err(|wrong| format!("{text:?} {wrong}")))
            .collect();
        Ok(NewKey {
            name: self.name.map(name).transpose()?,
            rights: Rights { routes: routes?, methods: methods?, paths: paths? },
            lifetime: self.expires_in.map(std::time::Duration::from_secs),
            rate: self.rate.as_deref().map(Rate::parse).transpose().map_err(|wrong| format!("rate: {wrong}"))?,
            ephemeral: self.ephemeral,
        })
    }
}

impl KeyReport {
    /// A key as of `now`, in Unix seconds.
    pub fn new(key: &ClientKey, now: u64) -> Self {
        let (requests, last_used) = key.uses();
        Self {
            name: key.name.to_string(),
            routes: key.rights.routes.iter().map(ToString::to_string).collect(),
            methods: key.rights.methods.clone(),
            paths: key.rights.paths.iter().map(ToString::to_string).collect(),
            rate: key.rate.map(|rate| rate.to_string()),
            ephemeral: key.ephemeral,
            created_at: Moment::of_unix(key.created_at),
            expires_at: key.expires_at.map(Moment::of_unix),
            expired: key.is_expired(now),
            requests,
            last_used_at: last_used.map(Moment::of_unix),
            address: key.own_address().map(ToString::to_string),
        }
    }

    /// All keys of a ring.
    pub fn all(ring: &KeyRing) -> Vec<KeyReport> {
        let now = ring.now();
        ring.keys().iter().map(|key| Self::new(key, now)).collect()
    }
}

pub(super) fn list(state: &ControlState) -> Answer {
    json(StatusCode::OK, &KeyList { keys: KeyReport::all(&state.keys) })
}

pub(super) async fn add(state: &ControlState, line: &Line, version: Version, body: &[u8]) -> Result<Answer, Problem> {
    let example = r#"{"name": "agent", "routes": ["gbdx"], "methods": ["GET"], "paths": ["/catalog/**"]}"#;
    let order: KeyOrder =
        serde_json::from_slice(body).map_err(|_| bad_request(UNKNOWN_JSON).with_remedy(format!("send {example}")))?;
    let wants_address = order.address;
    let new = order.read().map_err(bad_request)?;
    let config = state.config.borrow().clone();
    if let Some(unknown) = new.rights.routes.iter().find(|name| !config.routes.iter().any(|route| route.name == **name))
    {
        let routes: Vec<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
        let problem = bad_request(format!("no route is named \"{unknown}\""));
        return Err(problem.with_remedy(format!("the routes are: {}", routes.join(", "))));
    }
    let own = match wants_address {
        true => Some(lend(state, new.rights.routes.clone()).await?),
        false => None,
    };
    let ring = state.keys.clone();
    // waits for the disk, which others need not; an ephemeral key is held from its making on, as who asked may leave
    let made = tokio::task::spawn_blocking(move || {
        let (secret, key) = ring.add_with(new, own)?;
        let held = key.ephemeral.then(|| Held { ring, key: key.clone() });
        Ok((secret, key, held))
    });
    let (secret, key, held) = made.await.map_err(|_| bad_request("it was not made"))?.map_err(not_changed)?;
    info!(key = %key.name, ephemeral = key.ephemeral, "a client key was made over the control socket");
    let report = KeyReport::new(&key, state.keys.now());
    let made = MadeKey { key: secret.expose().to_owned(), report };
    match held {
        None => Ok(json(StatusCode::CREATED, &made)),
        Some(held) => Ok(line.hand_over(Lifeline::new(held, version, &made)).await),
    }
}

/// Has an address opened where these routes exist.
async fn lend(state: &ControlState, routes: Vec<RouteName>) -> Result<OwnAddress, Problem> {
    let (reply, answer) = oneshot::channel();
    state.lend.send(LendRequest { routes, reply }).await.map_err(|_| stopping())?;
    let lent = answer.await.map_err(|_| stopping())?;
    lent.map_err(|why| Problem::new(409, kind::REFUSED, "that cannot be done now", format!("no address: {why}")))
}

/// The connection that an ephemeral key lives on, once the order for the key has been read from it.
pub(super) struct Lifeline {
    held: Held,
    answer: Zeroizing<Vec<u8>>,
    /// What ends the answer in good order.
    end: &'static [u8],
}

impl Lifeline {
    /// Writes the answer's head by hand, since no HTTP library may hold the connection any longer. HTTP/1.0 knows no
    /// chunks (RFC 9112 section 7.1): there the body ends with the connection.
    fn new(held: Held, version: Version, made: &MadeKey) -> Self {
        let is_chunked = version >= Version::HTTP_11;
        let protocol = if is_chunked { "HTTP/1.1" } else { "HTTP/1.0" };
        let coding = if is_chunked { "transfer-encoding: chunked\r\n" } else { "" };
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        let date = jiff::Timestamp::try_from(wall()).and_then(|now| printer.timestamp_to_rfc9110_string(&now));
        let date = date.map(|date| format!("date: {date}\r\n")).unwrap_or_default();
        let mut answer = format!(
            "{protocol} 201 Created\r\ncontent-type: application/x-ndjson\r\ncache-control: no-store\r\n\
             connection: close\r\n{coding}{date}\r\n"
        )
        .into_bytes();
        let mut body = serde_json::to_vec(made).expect("texts and numbers");
        body.push(b'\n');
        if is_chunked {
            body = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
        }
        answer.append(&mut body);
        Self { held, answer: Zeroizing::new(answer), end: if is_chunked { b"0\r\n\r\n" } else { b"" } }
    }

    /// Answers, and keeps the key until the other end is closed by the last process that has it, or the daemon stops.
    pub(super) async fn live(self, mut stream: UnixStream, mut stopping: Shutdown) {
        let Self { held, answer, end } = self;
        // before the key is told: whoever learns it finds that the connection takes nothing
        let answered = match rustix::net::shutdown(&stream, Direction::Read) {
            Ok(()) => {
                timeout(ANSWER_TIMEOUT, stream.write_all(&answer)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            }
            Err(error) => Err(error.into()),
        };
        drop(answer);
        if let Err(error) = answered {
            return debug!(%error, "an ephemeral client key was not handed over");
        }
        tokio::select! {
            () = closed(&stream) => {}
            // not by way of the runtime, which was told to forget that it is writable; who has not read so far needs no end
            () = stopping.started() => drop(rustix::io::write(&stream, end)),
        }
        drop(held);
    }
}

/// Returns when the other end of a connection that is shut down for reading has been closed (unix(7): EPOLLHUP).
async fn closed(stream: &UnixStream) {
    while let Ok(ready) = stream.ready(Interest::WRITABLE).await
        && !ready.is_write_closed()
    {
        // forgets that it is writable, or the next wait would end at once
        let _ = stream.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}

pub(super) async fn revoke(state: &ControlState, name: &str) -> Result<Answer, Problem> {
    let unknown = || not_changed_unknown(state, name);
    let key = KeyName::new(name).ok_or_else(unknown)?;
    let ring = state.keys.clone();
    let revoked = {
        let key = key.clone();
        tokio::task::spawn_blocking(move || ring.revoke(&key)).await.map_err(|_| bad_request("it was not revoked"))?
    };
    match revoked {
        Ok(()) => {
            info!(%key, "a client key was revoked over the control socket");
            Ok(json(StatusCode::OK, &Done { message: "revoked: no request is let in with it any more".to_owned() }))
        }
        Err(KeyError::Unknown(_)) => Err(unknown()),
        Err(error) => {
            warn!(%key, %error, "a client key is revoked until the next start: its file could not be written");
            let detail = format!("it is revoked, but only until the next start: {error}");
            Err(Problem::new(409, kind::REFUSED, "that cannot be done now", detail))
        }
    }
}

/// An ephemeral key, as long as somebody is there who holds it.
struct Held {
    ring: Arc<KeyRing>,
    key: Arc<ClientKey>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ring.forget(&self.key);
        info!(key = %self.key.name, "an ephemeral client key has ended");
    }
}

fn not_changed(error: KeyError) -> Problem {
    match error {
        KeyError::Nameless | KeyError::NoRoute => bad_request(error.to_string()),
        KeyError::Taken(_) | KeyError::Unknown(_) | KeyError::TooMany | KeyError::TooManyEphemeral => refused(&error),
        KeyError::NoRandomness | KeyError::Store(_) => refused(&error),
    }
}

fn refused(error: &KeyError) -> Problem {
    Problem::new(409, kind::REFUSED, "that cannot be done now", error.to_string())
}

fn not_changed_unknown(state: &ControlState, name: &str) -> Problem {
    let keys = state.keys.keys();
    let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    let remedy = match names.as_slice() {
        [] => "there is none".to_owned(),
        names => format!("the keys are: {}", names.join(", ")),
    };
    Problem::new(404, kind::NO_SUCH_KEY, "no such key", format!("no key is named {name:?}")).with_remedy(remedy)
}

/// Reads what the daemon answers to a made key.
pub(super) fn read_made(body: &[u8]) -> Result<(Secret, KeyReport), String> {
    let MadeKey { key, report } = serde_json::from_slice(body).map_err(|_| "its key cannot be read".to_owned())?;
    Ok((Secret::new(key), report))
}
