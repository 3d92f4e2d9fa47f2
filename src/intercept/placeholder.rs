//! What a program that insists on signing in is given for a token: one that is worth nothing to anybody, as the route puts
//! the real one in its place.

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::{Body, Interceptor, full, problem};
use crate::platform::request_rest;

/// `{"alg":"none"}`, `{"exp":4102444800}` (the year 2100) and no signature: enough for a program that looks into its token.
pub(crate) const PLACEHOLDER_JWT: &str = "eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.";

/// What stands for a refresh token.
const PLACEHOLDER: &str = "placeholder";

/// The largest request for a token that is read.
const LARGEST: usize = 64 * 1024;

/// Parameters of token requests that are secrets (RFC 6749 sections 2.3.1, 4.3.2 and 6).
const SECRETS: [&str; 3] = ["password", "refresh_token", "client_secret"];

impl Interceptor {
    /// Answers at a token or revocation endpoint. Nothing of the request goes anywhere or is noted.
    pub(super) async fn sign_in(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::POST {
            request_rest::read(request).await;
            return problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "valetd; error=http_request_denied",
                "tokens are asked for by POST",
            );
        }
        let body = Limited::new(request.into_body(), LARGEST).collect().await.map(|body| body.to_bytes());
        let Ok(body) = body else {
            return problem(
                StatusCode::BAD_REQUEST,
                "bad-request",
                "valetd; error=http_request_error",
                "the request for a token is longer than 64 KiB, or broke off",
            );
        };
        let mut scope = None;
        for (name, value) in form_urlencoded::parse(&body) {
            if name == "scope" {
                scope = Some(value.clone().into_owned());
            }
            let is_ours = value.is_empty()
                || [PLACEHOLDER, PLACEHOLDER_JWT].contains(&&*value)
                || self.settings.placeholders.iter().any(|placeholder| *placeholder == *value);
            if SECRETS.contains(&&*name) && !is_ours {
                return problem(
                    StatusCode::FORBIDDEN,
                    "sign-in-is-valetds",
                    "valetd; error=http_request_denied",
                    "this program signs in by itself, with a secret of its own; valetd has signed in already: give the \
                     program no password (any placeholder that 'valetd exec' has put into its environment is good)",
                );
            }
        }
        let answer = json!({
            "access_token": PLACEHOLDER_JWT,
            "id_token": PLACEHOLDER_JWT,
            "token_type": "Bearer",
            "expires_in": 604_800,
            "refresh_token": PLACEHOLDER,
            "scope": scope.unwrap_or_default(),
        });
        let mut response = Response::new(full(answer.to_string()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
