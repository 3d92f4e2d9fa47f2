//! The verbs of client keys: to make one, to see which there are, to revoke one.
//!
//! A key is shown in the response to the request that made it and never again. An ephemeral one lives exactly as long as
//! that response, whose body does not end: the connection closes, and the key is gone, however its holder ended.

use hyper::{StatusCode, Version};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::answer::{Answer, Done, bad_request, json, stopping};
use super::keys::{KeyList, KeyOrder, KeyReport, MadeKey, UNKNOWN_JSON, lacks_mcp};
use super::lifeline::{Held, Lifeline};
use super::line::Line;
use super::problem::{Problem, kind};
use super::state::{ControlState, LendRequest};
use crate::advice::advised;
use crate::client_keys::{AddressKind, KeyError, OwnAddress};
use crate::config::{KeyName, RouteName};
use crate::names::UnknownName;
use crate::platform::users;

pub(super) fn list(state: &ControlState) -> Answer {
    json(StatusCode::OK, &KeyList { keys: KeyReport::all(&state.keys) })
}

pub(super) async fn add(state: &ControlState, line: &Line, version: Version, body: &[u8]) -> Result<Answer, Problem> {
    let example = r#"{"name": "agent", "routes": ["gbdx"], "methods": ["GET"], "paths": ["/catalog/**"]}"#;
    let order: KeyOrder =
        serde_json::from_slice(body).map_err(|_| bad_request(UNKNOWN_JSON).with_remedy(format!("send {example}")))?;
    let kind = order.address_kind();
    let new = order.read().map_err(bad_request)?;
    if let Some(user) = new.limits.user.filter(|user| !users::is_shown(*user)) {
        let why = format!("user {user} cannot be told from others in valetd's user namespace (PrivateUsers=)");
        return Err(
            bad_request(why).with_remedy(format!("a key that anybody may present is made by: {}", advised("key add")))
        );
    }
    let config = state.config.borrow().clone();
    if let Some(unknown) = new.rights.routes.iter().find(|name| !config.routes.iter().any(|route| route.name == **name))
    {
        let routes = config.routes.iter().map(|route| route.name.as_str());
        let unknown = UnknownName::new("route", unknown.as_str(), routes);
        let remedy = unknown.choice().unwrap_or_else(|| "there is none".to_owned());
        return Err(bad_request(unknown.to_string()).with_remedy(remedy));
    }
    if let Some(why) = lacks_mcp(&config, &new) {
        return Err(bad_request(why));
    }
    let own = match kind {
        Some(kind) => Some(lend(state, new.rights.routes.clone(), kind).await?),
        None => None,
    };
    let ring = state.keys.clone();
    // waits for the disk, which others need not; an ephemeral key is held from its making on, as who asked may leave
    let made = tokio::task::spawn_blocking(move || {
        let (secret, key) = ring.add_with(new, own)?;
        let held = key.ephemeral.then(|| Held::new(ring, key.clone()));
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
async fn lend(state: &ControlState, routes: Vec<RouteName>, kind: AddressKind) -> Result<OwnAddress, Problem> {
    let (reply, answer) = oneshot::channel();
    state.lend.send(LendRequest { routes, kind, reply }).await.map_err(|_| stopping())?;
    let lent = answer.await.map_err(|_| stopping())?;
    lent.map_err(|why| Problem::new(409, kind::REFUSED, "that cannot be done now", format!("no address: {why}")))
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
    let unknown = UnknownName::new("key", name, keys.iter().map(|key| key.name.as_str()));
    let remedy = unknown.choice().unwrap_or_else(|| "there is none".to_owned());
    Problem::new(404, kind::NO_SUCH_KEY, "no such key", unknown.to_string()).with_remedy(remedy)
}
