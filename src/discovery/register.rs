//! Registering as a client (RFC 7591) for one account, and taking that back (RFC 7592).
//!
//! A client is registered when somebody signs in and there is none yet, and never by a daemon: a server that has forgotten
//! one has forgotten its refresh tokens, too. What comes of it is the store's to keep.

use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::reach;
use crate::config::SignInMethod;
use crate::config::{Account, Endpoint};
use crate::http_client::{HttpClient, Outgoing, secret_body};
use crate::oauth::rfc7591::{self, DEVICE_GRANTS, Registration, Wanted};

/// Registers a client.
///
/// # Errors
///
/// Why there is none, in a sentence for people.
pub(crate) async fn register(http: &HttpClient, account: &Account) -> Result<Registration, String> {
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
    rfc7591::read(answer.status.as_u16(), &answer.body, &account.server.registrar())
        .map_err(|why| format!("{host} {why}"))
}

fn request(wanted: &Wanted<'_>) -> Outgoing {
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
    Outgoing { method: Method::POST, fields, body: secret_body(&rfc7591::request(wanted)) }
}

/// Takes an account's registration back at the server (RFC 7592), if it can be. Returns why it could not.
pub(crate) async fn take_back(http: &HttpClient, account: &Account, registration: &Registration) -> Option<String> {
    let Some((uri, token)) = &registration.management else {
        return Some("it has given no means to take it back (RFC 7592)".to_owned());
    };
    let endpoint = match Endpoint::parse(uri) {
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
