//! What servers say of themselves: fetched, checked, and kept for the next start.
//!
//! [`oauth::metadata`](crate::oauth::metadata) says where it may be and what it must say to be believed. Here it is asked
//! for: few requests, each bounded in time and size, none of them redirected, none with a secret. What a server on the
//! internet says never leads to this machine.
//!
//! * [`metadata_of`]: an issuer's own; [`kept`]: what is kept of it, and when that may be replaced;
//! * [`probe`]: what an address is of which nothing is known; [`register`]: a client that registers itself.

use hyper::Method;
use hyper::StatusCode;
use hyper::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};

use crate::config::{Account, Endpoint, Issuer};
use crate::http_client::{Answer, HttpClient, Outgoing, Reach};
use crate::oauth::metadata::{Kept, Metadata};
use crate::platform::clock::unix_seconds;

pub(crate) mod kept;
pub(crate) mod probe;
pub(crate) mod register;

/// How an account's servers are reached.
pub(crate) fn reach(account: &Account) -> Reach<'_> {
    Reach { extra_ca: account.extra_ca.as_deref(), proxy: Some(&account.proxy), is_public: !account.private_addresses }
}

/// Fetches an issuer's metadata from the first of its places that has any; those that were fetched `before` again if their
/// server says that they have not changed.
///
/// # Errors
///
/// What was found instead, in a sentence for people: the best of the reasons, as most places have nothing by design.
pub(crate) async fn metadata_of(
    http: &HttpClient,
    issuer: &Issuer,
    reach: Reach<'_>,
    before: Option<&Kept>,
) -> Result<Kept, String> {
    if let Some(before) = before
        && let Some((place, etag)) = &before.validator
        && let Ok(answer) = get_unless(http, place, reach, Some(etag)).await
        && answer.status == StatusCode::NOT_MODIFIED
    {
        let fresh_for = kept::fresh_for(field(&answer, &CACHE_CONTROL));
        return Ok(Kept { fetched_at: unix_seconds(), fresh_for, ..before.clone() });
    }
    let mut refusal = None;
    for place in Metadata::places(issuer.as_str()) {
        let answer = match get(http, &place, reach).await {
            Ok(answer) if answer.status == StatusCode::OK => answer,
            Err(Missing::Unreachable(why)) => return Err(why), // the same server, as for the other places
            Err(Missing::NotThere(why)) => {
                refusal.get_or_insert(why);
                continue;
            }
            Ok(answer) => {
                refusal.get_or_insert(format!("{place} answered {}", answer.status));
                continue;
            }
        };
        let read = Metadata::read(&answer.body, issuer.as_str());
        match read.and_then(|metadata| issuer.endpoints_in(&metadata).map(|_| metadata)) {
            Ok(metadata) => {
                let etag = field(&answer, &ETAG).filter(|etag| etag.len() <= LONGEST_VALIDATOR);
                let validator = etag.map(|etag| (place.clone(), etag.to_owned()));
                let fresh_for = kept::fresh_for(field(&answer, &CACHE_CONTROL));
                return Ok(Kept { fetched_at: unix_seconds(), metadata, validator, fresh_for });
            }
            Err(why) => refusal = Some(format!("{place} {why}")),
        }
    }
    Err(refusal.unwrap_or_else(|| format!("{} has no metadata", issuer.as_str())))
}

/// Why there is no document.
pub(crate) enum Missing {
    /// The server has another answer.
    NotThere(String),
    /// There is no response.
    Unreachable(String),
}

impl Missing {
    /// Why, in words.
    fn words(self) -> String {
        match self {
            Missing::NotThere(why) | Missing::Unreachable(why) => why,
        }
    }
}

/// Fetches one document.
async fn document(http: &HttpClient, place: &str, reach: Reach<'_>) -> Result<Vec<u8>, Missing> {
    let answer = get(http, place, reach).await?;
    if answer.status.as_u16() == 200 {
        return Ok(answer.body.to_vec());
    }
    Err(Missing::NotThere(format!("{place} answered {}", answer.status)))
}

/// A longer validator is not kept.
const LONGEST_VALIDATOR: usize = 200;

fn field<'a>(answer: &'a Answer, name: &HeaderName) -> Option<&'a str> {
    answer.fields.get(name)?.to_str().ok()
}

/// Asks with GET, without any credential.
pub(crate) async fn get(http: &HttpClient, place: &str, reach: Reach<'_>) -> Result<Answer, Missing> {
    get_unless(http, place, reach, None).await
}

/// [`get`] of what has another validator than this.
async fn get_unless(http: &HttpClient, place: &str, reach: Reach<'_>, etag: Option<&str>) -> Result<Answer, Missing> {
    let endpoint = Endpoint::parse(place).map_err(|why| Missing::NotThere(format!("the address {place} {why}")))?;
    let mut fields = HeaderMap::new();
    fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
        fields.insert(IF_NONE_MATCH, etag);
    }
    let request = Outgoing { method: Method::GET, fields, body: bytes::Bytes::new() };
    http.send(&endpoint, reach, request).await.map_err(|error| Missing::Unreachable(error.to_string()))
}
