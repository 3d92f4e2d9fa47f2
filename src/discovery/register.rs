//! Registering as a client (RFC 7591) for one account, and keeping what came of it in the state folder.
//!
//! A client is registered when somebody signs in and there is none yet, and never by a daemon: a server that has forgotten
//! one has forgotten its refresh tokens, too.

use std::path::Path;

use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::reach;
use crate::config::SignInMethod;
use crate::config::{Account, AccountId, Endpoint};
use crate::config_files;
use crate::http_client::{HttpClient, Outgoing, secret_body};
use crate::oauth::rfc7591::{self, DEVICE_GRANTS, Registration, Wanted};
use crate::platform::termination::uninterrupted;
use crate::store::{Beside, StoreError};

/// Registers a client and keeps it, in the place of one that was kept. What cannot be kept is taken back at the server.
///
/// # Errors
///
/// Why there is none, in a sentence for people.
pub(crate) async fn register(http: &HttpClient, state_dir: &Path, account: &Account) -> Result<(), String> {
    let Some(endpoint) = &account.server.registration else {
        return Err("the server names no registration_endpoint of its own host".to_owned());
    };
    let redirect_uris = [account.sign_in.redirect.uri(None)];
    let asks_devices =
        account.sign_in.methods.contains(&SignInMethod::Device) && account.server.device_authorization.is_some();
    // a server may give device codes, and register no client for them, or none by their name: then the other ways are left
    let mut names = DEVICE_GRANTS.into_iter().filter(|_| asks_devices);
    let answer = loop {
        let device = names.next();
        let wanted = Wanted { redirect_uris: &redirect_uris, scopes: &account.scopes, device };
        let answer = http.send(endpoint, reach(account), request(&wanted)).await.map_err(|error| error.to_string())?;
        if device.is_none() || !rfc7591::refuses_metadata(answer.status.as_u16(), &answer.body) {
            break answer;
        }
    };
    let host = endpoint.origin.authority();
    let registered = rfc7591::read(answer.status.as_u16(), &answer.body, &account.server.registrar())
        .map_err(|why| format!("{host} {why}"))?;
    let kept = {
        let _whole = uninterrupted();
        keep(state_dir, &account.id, &registered)
    };
    let Err(error) = kept else { return Ok(()) };
    // nobody knows of it here: it is of no use there either
    let client_id = registered.client_id.clone();
    let undone = match unregister(http, account, registered).await {
        None => "it was taken back at the server".to_owned(),
        Some(why) => format!("the client {client_id:?} stays registered at the server: {why}"),
    };
    Err(format!("the client was registered, and could not be kept: {error}; {undone}"))
}

fn request(wanted: &Wanted<'_>) -> Outgoing {
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
    Outgoing { method: Method::POST, fields, body: secret_body(&rfc7591::request(wanted)) }
}

fn keep(state_dir: &Path, account: &AccountId, registration: &Registration) -> Result<(), StoreError> {
    let text = registration.write();
    Beside::open(state_dir)?.write(&Registration::file_name(account.as_str()), text.expose().as_bytes())
}

/// Forgets an account's client, so that the next sign-in registers another one.
pub(crate) fn forget(state_dir: &Path, account: &AccountId) {
    if let Ok(mut folder) = Beside::open(state_dir) {
        folder.remove(&Registration::file_name(account.as_str()));
    }
}

/// Takes an account's registration back at the server (RFC 7592), if there is one and it can be. Returns why it could not.
pub(crate) async fn give_back(http: &HttpClient, state_dir: &Path, account: &Account) -> Option<String> {
    let registration = config_files::kept_clients(state_dir).remove(account.id.as_str())?;
    unregister(http, account, registration).await
}

/// Takes a registration back at the server. Returns why it could not.
async fn unregister(http: &HttpClient, account: &Account, registration: Registration) -> Option<String> {
    let Some((uri, token)) = registration.management else {
        return Some("it has given no means to take it back (RFC 7592)".to_owned());
    };
    let endpoint = match Endpoint::parse(&uri) {
        Ok(endpoint) => endpoint,
        Err(why) => return Some(format!("the address for that {why}")),
    };
    let registrar = account.server.registration.as_ref();
    if registrar.is_none_or(|registrar| registrar.origin != endpoint.origin) {
        return Some("the address for that is on another server".to_owned());
    }
    let mut fields = HeaderMap::new();
    let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {}", token.expose())) else {
        return Some("its token cannot be sent".to_owned());
    };
    bearer.set_sensitive(true);
    fields.insert(AUTHORIZATION, bearer);
    let request = Outgoing { method: Method::DELETE, fields, body: bytes::Bytes::new() };
    match http.send(&endpoint, reach(account), request).await {
        Ok(answer) if answer.status.is_success() => None,
        Ok(answer) => Some(format!("{} answered {}", endpoint.origin.authority(), answer.status)),
        Err(error) => Some(error.to_string()),
    }
}
