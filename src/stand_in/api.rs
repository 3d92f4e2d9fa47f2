//! What a stand-in's API answers to a good token: what both providers' have in common, then what each has of its own.

use std::io;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::body::{Body, Reply, json_reply, text_reply, with_type};
use super::open_id::{self, Manners};
use super::{gbdx, gdh};
use crate::secret::Secret;

/// Whose stand-in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provider {
    /// GeoDataHub: Amazon Cognito, and the raw ID token.
    Gdh,
    /// DigitalGlobe's GBDX: a token service of its own, and `Bearer` with the access token.
    Gbdx,
    /// Any OpenID provider, as its documents have it.
    OpenId,
}

/// What both APIs answer, and what each has of its own.
pub(super) async fn answer(provider: Provider, manners: &Manners, parts: &Parts, body: Incoming) -> io::Result<Reply> {
    let mut segments = parts.uri.path().trim_start_matches('/').split('/');
    let (first, number) = (segments.next().unwrap_or_default(), segments.next().and_then(|n| n.parse::<u64>().ok()));
    Ok(match (first, number) {
        ("echo", _) => echo(parts, body).await?,
        ("download", Some(length)) => download(length),
        ("gzip", _) => {
            let mut reply = Response::new(Body::whole(GZIPPED));
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            reply.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            reply
        }
        ("no-content", _) => text_reply(204, "text/plain", ""),
        ("unauthorized", _) => text_reply(401, "text/plain", "not for you"),
        ("slow", Some(pause)) => {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            text_reply(200, "text/plain", "at last")
        }
        ("ticks", Some(pause)) => ticks(Duration::from_millis(pause)),
        _ => {
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            match provider {
                Provider::Gdh => gdh::api(parts, &body),
                Provider::Gbdx => gbdx::api(parts, &body),
                Provider::OpenId => open_id::api(manners, parts),
            }
        }
    })
}

/// What arrived: the request target as it came, the fields in hyper's order (that of arrival, those of one name
/// together), authorization as a fingerprint, the body's length and SHA-256.
async fn echo(parts: &Parts, mut body: Incoming) -> io::Result<Reply> {
    let (mut hash, mut length) = (digest::Context::new(&digest::SHA256), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        hash.update(&data);
        length += data.len();
    }
    let hash: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = |(name, value): (&HeaderName, &HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let secret = name == AUTHORIZATION;
        json!([name.as_str(), if secret { format!("sha256:{}", Secret::new(value).fingerprint()) } else { value }])
    };
    let headers: Vec<Value> = parts.headers.iter().map(shown).collect();
    let (method, target) = (parts.method.as_str(), parts.uri.to_string());
    let body = json!({"length": length, "sha256": hash});
    Ok(json_reply(200, &json!({"method": method, "target": target, "headers": headers, "body": body})))
}

fn download(length: u64) -> Reply {
    const PIECE: Bytes = Bytes::from_static(&[b'x'; 64 * 1024]);
    let mut left = length;
    let body = Body::pieces(move || {
        let piece = PIECE.slice(..usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len()));
        left -= piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    });
    with_type(Response::new(body), "application/octet-stream")
}

fn ticks(pause: Duration) -> Reply {
    let mut number = 0_u64;
    let body = Body::pieces(move || {
        number += 1;
        Some(Bytes::from(format!("data: {number}\n\n")))
    });
    with_type(Response::new(body.paced(pause)), "text/event-stream")
}

/// `{"message":"this was compressed"}`
const GZIPPED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xabV\xcaM-.NLOU\xb2R*\xc9\xc8,V(O,VH\xce\xcf-(\x02\x0a\xa7\xa6(\xd5\x02\x00\x99QA\x03!\x00\x00\x00";
