//! What authorizes a request: a token, how it is sent, and what a response says of it.
//!
//! Between a request's preparation and its departure there may be a long time: until a connection is opened, until a
//! stream is free, until the first sending has come to nothing. What was usable before need not be usable then, and the
//! account may be configured otherwise by then. So whatever made a request wait, its token is taken anew once it has a
//! connection, from the same source as before.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderMap, WWW_AUTHENTICATE};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::token_source::{Outcome, Published, TokenSource, Unavailable};

/// How a route's requests carry their token (RFC 6750 section 2).
///
/// DPoP (RFC 9449) would be a third method: the field and a proof beside it, made anew for each sending of each request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TokenMethod {
    /// In the field that the account's tokens come with.
    Field,
    /// In a parameter of the target's query, and in no field: one method a request is enough.
    Query {
        /// The parameter's name.
        parameter: String,
    },
}

/// What authorizes one request. It outlives a sending, so that another sending can be authorized by a later token.
pub(crate) struct Authorization<'a> {
    method: &'a TokenMethod,
    tokens: &'a TokenSource,
    /// How long the request waits for a usable token.
    wait: Duration,
    token: Arc<Published>,
}

/// What a 401 says of the token that it answers.
///
/// A demand for a nonce (RFC 9449 section 9) would be a third word: the same token once more, with that nonce.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rejection {
    /// It is not taken: a later one may be.
    Renew,
    /// It is good but not for this (RFC 6750 section 3.1): no renewal will help.
    PassOn,
}

impl TokenMethod {
    /// Has the request carry `token`, in place of one that it may carry already by this method. Its head must be free of
    /// what a client could have put into the token's field.
    pub(crate) fn apply<B>(&self, token: &Published, request: &mut Request<B>) {
        match self {
            TokenMethod::Field => drop(request.headers_mut().insert(token.name.clone(), token.value.clone())),
            TokenMethod::Query { parameter } => {
                request.headers_mut().remove(&token.name);
                *request.uri_mut() = with_token(request.uri(), parameter, token.secret());
            }
        }
    }

    /// What a response says of the token that its request carried; `None` if it does not reject it.
    fn judge<B>(&self, response: &Response<B>) -> Option<Rejection> {
        if response.status() != StatusCode::UNAUTHORIZED {
            return None;
        }
        Some(match self {
            TokenMethod::Field | TokenMethod::Query { .. } if lacks_scope(response.headers()) => Rejection::PassOn,
            TokenMethod::Field | TokenMethod::Query { .. } => Rejection::Renew,
        })
    }
}

impl<'a> Authorization<'a> {
    /// By `token`, and by another of `tokens` where that is not usable any more.
    pub(crate) fn new(method: &'a TokenMethod, tokens: &'a TokenSource, wait: Duration, token: Arc<Published>) -> Self {
        Self { method, tokens, wait, token }
    }

    /// The token that the request carries, or carried when it left.
    pub(crate) fn token(&self) -> &Arc<Published> {
        &self.token
    }

    /// Has the request carry the token.
    pub(crate) fn apply<B>(&self, request: &mut Request<B>) {
        self.method.apply(&self.token, request);
    }

    /// Has the request carry a token that is usable now, the one that it has if that still is. Waits for one if there is
    /// none. Returns whether it has waited.
    ///
    /// # Errors
    ///
    /// If there is none in the route's time.
    pub(crate) async fn renew<B>(&mut self, request: &mut Request<B>) -> Result<bool, Unavailable> {
        let (token, waited) = match self.tokens.usable() {
            Some(token) => (token, false),
            None => (self.tokens.token(self.wait).await?, true),
        };
        if !Arc::ptr_eq(&token, &self.token) {
            if token.name != self.token.name {
                request.headers_mut().remove(&self.token.name);
            }
            self.token = token;
            self.apply(request);
        }
        Ok(waited)
    }

    /// What a response says of the token; `None` if it does not reject it.
    pub(crate) fn judge<B>(&self, response: &Response<B>) -> Option<Rejection> {
        self.method.judge(response)
    }

    /// What the response to a second sending says of its token: it was taken unless it was rejected, or the upstream had
    /// no time to look at it (RFC 9110 section 15.6, RFC 6585 section 4).
    pub(crate) fn outcome<B>(&self, response: &Response<B>) -> Outcome {
        match (self.judge(response), response.status()) {
            (Some(Rejection::Renew), _) => Outcome::Refused,
            (Some(Rejection::PassOn), _) => Outcome::Accepted,
            (None, StatusCode::TOO_MANY_REQUESTS) => Outcome::Unknown,
            (None, status) if status.is_server_error() => Outcome::Unknown,
            (None, _) => Outcome::Accepted,
        }
    }
}

/// Whether a challenge says that the token is good but not for this.
fn lacks_scope(headers: &HeaderMap) -> bool {
    let phrase = b"insufficient_scope";
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .any(|value| value.as_bytes().windows(phrase.len()).any(|part| part == phrase))
}

/// What may stand in a query as it is (RFC 3986 section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The target with the token as the query's last parameter, and without the client's own parameters of that name.
fn with_token(target: &Uri, name: &str, token: &[u8]) -> Uri {
    let mut parts = target.clone().into_parts();
    let mut text = format!("{}?", target.path());
    for pair in target.query().into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        if !percent_decode_str(key).eq(name.bytes()) {
            text.push_str(pair);
            text.push('&');
        }
    }
    let token = String::from_utf8_lossy(token);
    text.extend([name, "="]);
    text.extend(utf8_percent_encode(&token, UNRESERVED));
    parts.path_and_query = Some(PathAndQuery::try_from(text).expect("pieces of a query, and what is encoded"));
    Uri::from_parts(parts).expect("only the query has changed")
}

#[cfg(test)]
mod tests {
    use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::AccountId;
    use crate::platform::clock::Clock;
    use crate::renewal::RenewalId;
    use crate::timestamp::Timestamp;
    use crate::token_source::Availability;

    fn token(name: HeaderName, value: &'static str) -> Arc<Published> {
        let field = (name, HeaderValue::from_static(value));
        Arc::new(Published::new(RenewalId(1), field, Timestamp::FAR, Timestamp::FAR))
    }

    fn query() -> TokenMethod {
        TokenMethod::Query { parameter: "access_token".into() }
    }

    #[test]
    fn a_token_in_the_query_is_the_only_one_of_its_name() {
        let token = token(AUTHORIZATION, "Bearer a+b/c=");
        let rows = [
            ("/x", "/x?access_token=a%2Bb%2Fc%3D"),
            ("/x?", "/x?access_token=a%2Bb%2Fc%3D"),
            ("/x?q=%2F..%2f&r", "/x?q=%2F..%2f&r&access_token=a%2Bb%2Fc%3D"),
            ("/x?access_token=theirs&q=1", "/x?q=1&access_token=a%2Bb%2Fc%3D"),
            ("/x?q=1&access%5ftoken=theirs&access_token", "/x?q=1&access_token=a%2Bb%2Fc%3D"),
            ("/x?access_tokens=1", "/x?access_tokens=1&access_token=a%2Bb%2Fc%3D"),
        ];
        for (given, expected) in rows {
            let given_uri: Uri = given.parse().unwrap();
            assert_eq!(with_token(&given_uri, "access_token", token.secret()).to_string(), expected, "{given}");
            let mut request = Request::builder().uri(given).header(AUTHORIZATION, "Bearer theirs").body(()).unwrap();
            query().apply(&token, &mut request);
            query().apply(&token, &mut request);
            assert_eq!(request.uri().to_string(), expected, "{given}: once, however often it is applied");
            assert!(request.headers().is_empty(), "{given}: one place is enough");
        }
    }

    #[test]
    fn only_a_bearer_challenge_without_scope_trouble_brings_a_renewal() {
        let rows = [
            ("Bearer", false),
            ("Bearer error=\"invalid_token\"", false),
            ("Bearer realm=\"x\", error=\"insufficient_scope\", scope=\"write\"", true),
        ];
        for (challenge, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            assert_eq!(lacks_scope(&headers), expected, "{challenge}");
        }
    }

    #[test]
    fn a_response_rejects_a_token_takes_it_or_does_not_say() {
        let (tokens, _) = source();
        let insufficient = "Bearer error=\"insufficient_scope\"";
        let rows = [
            (401, "Bearer", Some(Rejection::Renew), Outcome::Refused),
            (401, "", Some(Rejection::Renew), Outcome::Refused),
            (401, insufficient, Some(Rejection::PassOn), Outcome::Accepted),
            (403, insufficient, None, Outcome::Accepted),
            (403, "", None, Outcome::Accepted),
            (407, "Bearer", None, Outcome::Accepted),
            (200, "", None, Outcome::Accepted),
            (101, "", None, Outcome::Accepted),
            (404, "", None, Outcome::Accepted),
            (429, "", None, Outcome::Unknown),
            (500, "", None, Outcome::Unknown),
            (503, "", None, Outcome::Unknown),
        ];
        for method in [TokenMethod::Field, query()] {
            let token = token(AUTHORIZATION, "Bearer ours");
            let authorization = Authorization::new(&method, &tokens, Duration::ZERO, token);
            for (status, challenge, rejection, outcome) in rows {
                let mut response = Response::builder().status(status);
                if !challenge.is_empty() {
                    response = response.header(WWW_AUTHENTICATE, challenge);
                }
                let response = response.body(()).unwrap();
                let found = (authorization.judge(&response), authorization.outcome(&response));
                assert_eq!(found, (rejection, outcome), "{method:?} {status} {challenge}");
            }
        }
    }

    #[tokio::test]
    async fn a_request_that_has_waited_carries_the_later_token_and_nothing_of_the_one_before() {
        let (tokens, _orders) = source();
        let own_field = HeaderName::from_static("x-token");
        let later = token(own_field.clone(), "later");
        tokens.publish(Availability::Usable { token: later.clone(), wished_for: None });
        for (method, expected) in [(TokenMethod::Field, "/x?q"), (query(), "/x?q&access_token=later")] {
            let mut authorization =
                Authorization::new(&method, &tokens, Duration::ZERO, token(AUTHORIZATION, "Bearer before"));
            let mut request = Request::builder().uri("/x?q").body(()).unwrap();
            authorization.apply(&mut request);
            assert_eq!(authorization.renew(&mut request).await, Ok(false));
            assert!(Arc::ptr_eq(authorization.token(), &later));
            assert_eq!(request.uri().to_string(), expected);
            let fields: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value)).collect();
            let in_the_field = [("x-token", &later.value)];
            assert_eq!(fields, if method == TokenMethod::Field { &in_the_field[..] } else { &[] });
        }
    }

    fn source() -> (Arc<TokenSource>, mpsc::UnboundedReceiver<crate::token_source::SourceDemand>) {
        let (orders, heard) = mpsc::unbounded_channel();
        (TokenSource::new(AccountId::new("lab").unwrap(), Arc::new(Clock::start()), orders), heard)
    }
}
