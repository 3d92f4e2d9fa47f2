//! The device authorization grant (RFC 8628): the request for a code that a person enters on any device, its response, and
//! when the token endpoint is asked again.

use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use super::body::{encode, renamed};
use super::ends::seconds;
use super::grant::{Client, EndpointKind, Grant, TokenRequest, taken_already};
use super::members::Json;
use super::rfc6749::{Response, authenticate, oauth_error};
use super::verdict::{Reader, Refusal, TokenResponse};
use super::vocabulary::Vocabulary;
use crate::renewal::Failure;
use crate::secret::Secret;

/// Section 3.2: where the server names no interval.
const USUAL_INTERVAL: Duration = Duration::from_secs(5);
/// Nobody asks more often, whatever the server says; and no server makes a person wait longer than that.
const INTERVALS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// Section 3.5: what `slow_down` adds, for good.
const SLOWER: Duration = Duration::from_secs(5);
/// Between two tries where there was no response, at the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A code's life where the server does not tell it, and the longest that we wait: those of GitHub and Microsoft live 15
/// minutes, and nobody sits before a terminal for more than an hour.
const LIVES: [Duration; 2] = [Duration::from_secs(900), Duration::from_secs(3600)];
/// Longer ones are not for people.
const LONGEST_USER_CODE: usize = 64;
const LONGEST_ADDRESS: usize = 2048;

/// What the server says to a device authorization request (section 3.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DeviceAuthorization {
    /// What the token endpoint is asked with.
    pub device_code: Secret,
    /// What the person enters.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it, where the server has that.
    pub verification_uri_complete: Option<String>,
    /// How long both codes live.
    pub lifetime: Duration,
    /// How long to wait between two questions.
    pub interval: Duration,
}

/// Writes the device authorization request (section 3.1). `further` parameters take the place of the scope, if they name it.
///
/// # Errors
///
/// A sentence for people, where the client as configured cannot make this request.
pub(crate) fn request(
    client: &Client,
    scopes: &[String],
    resources: &[String],
    further: &[(String, String)],
    code_challenge: Option<&str>,
) -> Result<TokenRequest, String> {
    let scope = scopes.join(" ");
    let mut pairs = Vec::new();
    pairs.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
    if let Some(challenge) = code_challenge {
        pairs.extend([("code_challenge", challenge), ("code_challenge_method", "S256")]);
    }
    let fields = authenticate(client, &mut pairs)?;
    let mut pairs = renamed(pairs, client);
    let set_here = pairs.len();
    pairs.extend(resources.iter().map(|resource| ("resource", resource.as_str())));
    for (name, value) in further {
        if pairs[..set_here].iter().any(|(taken, _)| taken == name) {
            return Err(taken_already(name));
        }
        pairs.push((name, value));
    }
    let (content_type, body) = encode(&pairs, client);
    Ok(TokenRequest { endpoint: EndpointKind::DeviceAuthorization, content_type, fields, body })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    device_code: Option<Secret>,
    user_code: Value,
    /// `verification_url`: Google's, from before the RFC.
    #[serde(alias = "verification_url")]
    verification_uri: Value,
    #[serde(alias = "verification_url_complete")]
    verification_uri_complete: Value,
    expires_in: Value,
    interval: Value,
}

/// Reads the response to that request.
///
/// # Errors
///
/// A [`Refusal`], as of a token request.
pub(crate) fn read(
    response: &TokenResponse<'_>,
    client: &Client,
    vocabulary: &Vocabulary,
    now: SystemTime,
) -> Result<DeviceAuthorization, Refusal> {
    let grant = &Grant::ClientCredentials;
    let reader = Reader::new(response, grant, client, vocabulary, now);
    // GitHub refuses with 200
    if let Some(refusal) = Response::read(&reader).and_then(|found| oauth_error(&reader, &found, &[])) {
        return Err(refusal);
    }
    let Some(body) = reader.object(|body: Json<'_>| body.take::<Body>()).filter(|_| reader.is_success()) else {
        return Err(reader.no_verdict());
    };
    let Body { device_code, user_code, verification_uri, verification_uri_complete, expires_in, interval } = body;
    let device_code = device_code.filter(|code| !code.is_empty());
    let user_code = user_code.as_str().map(str::trim).filter(|code| is_for_people(code));
    let (Some(device_code), Some(user_code)) = (device_code, user_code) else {
        return Err(reader.transient(None, "without a code to enter"));
    };
    let Some(verification_uri) = address(&verification_uri) else {
        return Err(reader.transient(None, "without an address to enter the code at"));
    };
    let [usual_life, longest_life] = LIVES;
    let [shortest, longest] = INTERVALS;
    Ok(DeviceAuthorization {
        device_code,
        user_code: user_code.to_owned(),
        verification_uri,
        verification_uri_complete: address(&verification_uri_complete),
        lifetime: seconds(&expires_in).filter(|life| !life.is_zero()).unwrap_or(usual_life).min(longest_life),
        interval: seconds(&interval).unwrap_or(USUAL_INTERVAL).clamp(shortest, longest),
    })
}

fn is_for_people(code: &str) -> bool {
    (1..=LONGEST_USER_CODE).contains(&code.len()) && code.chars().all(|c| c.is_ascii_graphic() || c == ' ')
}

/// A web address, and nothing else that a browser would open.
fn address(value: &Value) -> Option<String> {
    let text = value.as_str()?.trim();
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    let is_clean = text.len() <= LONGEST_ADDRESS && text.bytes().all(|byte| byte.is_ascii_graphic());
    (is_web && is_clean).then(|| text.to_owned())
}

/// When the token endpoint is asked, and when no more (section 3.5). Times are counted from the moment at which the codes
/// came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Polling {
    interval: Duration,
    ends: Duration,
    /// Questions in a row that had no response.
    unanswered: u32,
}

/// What follows from a response that brings no tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Ask again at this time.
    AskAt(Duration),
    /// The person has said no.
    Denied,
    /// The codes have expired.
    Expired,
    /// The code was used or is not known any more.
    Spent,
    /// This client may not sign in in this way.
    NotThisWay,
    /// Anything else: asking again is of no use.
    Failed,
}

impl Polling {
    /// Begins when the codes have come.
    pub(crate) fn new(authorization: &DeviceAuthorization) -> Self {
        Self { interval: authorization.interval, ends: authorization.lifetime, unanswered: 0 }
    }

    /// The first question.
    pub(crate) fn first(&self) -> Duration {
        self.interval
    }

    /// What is left of the codes' life.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        self.ends.saturating_sub(now)
    }

    /// Judges a response that brings no tokens, or the lack of one. `code` is the server's, `failure` what it would mean for a
    /// renewal.
    pub(crate) fn judge(&mut self, code: Option<&str>, failure: Failure, now: Duration) -> Next {
        let is_answer = code.is_some();
        let pause = match (code, failure) {
            (Some("authorization_pending"), _) => self.interval,
            (Some("slow_down"), _) => {
                self.interval = (self.interval + SLOWER).min(INTERVALS[1]);
                self.interval
            }
            // `authorization_declined`: Microsoft's
            (Some("access_denied" | "authorization_declined"), _) => return Next::Denied,
            // `token_expired`: GitHub's
            (Some("expired_token" | "token_expired"), _) => return Next::Expired,
            // GitHub's and Microsoft's names beside the RFC's
            (Some("invalid_grant" | "incorrect_device_code" | "bad_verification_code"), _) => return Next::Spent,
            (Some("unauthorized_client" | "unsupported_grant_type" | "device_flow_disabled"), _) => {
                return Next::NotThisWay;
            }
            (Some("server_error" | "temporarily_unavailable"), _) => self.interval,
            // a web page, a server in trouble, a broken connection: not yet
            (None, Failure::Transient { retry_after }) => {
                let factor = 1 << self.unanswered.min(6);
                let pause = (self.interval * factor).min(LONGEST_PAUSE).max(self.interval);
                pause.max(retry_after.unwrap_or_default().min(LONGEST_PAUSE))
            }
            (_, _) => return Next::Failed,
        };
        self.unanswered = if is_answer { 0 } else { self.unanswered + 1 };
        if now + pause >= self.ends { Next::Expired } else { Next::AskAt(now + pause) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{CLIENT_REFUSED, REVOKED, TRANSIENT, now, pairs, public, words};
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn answer(status: u16, body: &Value) -> Result<DeviceAuthorization, Refusal> {
        let body = body.to_string();
        let response = TokenResponse { status, body: body.as_bytes(), ..TokenResponse::default() };
        read(&response, &public(), &Vocabulary::default(), now())
    }

    #[test]
    fn a_request_names_the_client_and_what_it_wants() {
        let (scopes, resources) = (words(&["openid", "a b"]), words(&["https://mcp.example/"]));
        let further = pairs(&[("audience", "https://api.example/"), ("prompt", "consent")]);
        let body = |request: Result<TokenRequest, String>| request.unwrap().body.expose().to_owned();
        assert_eq!(body(request(&public(), &[], &[], &[], None)), "client_id=valetd");
        assert_eq!(
            body(request(&public(), &scopes, &resources, &further, Some("ch"))),
            "scope=openid+a+b&code_challenge=ch&code_challenge_method=S256&client_id=valetd\
             &resource=https%3A%2F%2Fmcp.example%2F&audience=https%3A%2F%2Fapi.example%2F&prompt=consent"
        );
        let twice = pairs(&[("client_id", "other")]);
        assert!(request(&public(), &[], &[], &twice, None).unwrap_err().contains("client_id"));
    }

    #[test]
    fn a_response_is_read_in_every_dialect() {
        let uri = "https://a.example/device";
        let rfc = json!({"device_code": "d", "user_code": "WDJB-MJHT", "verification_uri": uri,
            "verification_uri_complete": "https://a.example/device?user_code=WDJB-MJHT", "expires_in": 1800, "interval": 5});
        let with = |name: &str, value: Value| {
            let mut body = rfc.clone();
            body[name] = value;
            body
        };
        let without = |name: &str| {
            let mut body = rfc.clone();
            body.as_object_mut().unwrap().remove(name);
            body
        };
        let full = DeviceAuthorization {
            device_code: Secret::new("d"),
            user_code: "WDJB-MJHT".to_owned(),
            verification_uri: uri.to_owned(),
            verification_uri_complete: Some("https://a.example/device?user_code=WDJB-MJHT".to_owned()),
            lifetime: secs(1800),
            interval: secs(5),
        };
        let mut google = without("verification_uri");
        google["verification_url"] = json!(uri);
        let plain = DeviceAuthorization { verification_uri_complete: None, ..full.clone() };
        let rows = [
            ("the RFC's example", rfc.clone(), full.clone()),
            ("Google's name", google, full.clone()),
            ("no interval", without("interval"), full.clone()),
            ("texts for numbers", with("expires_in", json!("1800")), full.clone()),
            ("Microsoft has none complete", without("verification_uri_complete"), plain.clone()),
            ("a complete one that is no web address", with("verification_uri_complete", json!("javascript:x")), plain),
            ("no life", without("expires_in"), DeviceAuthorization { lifetime: secs(900), ..full.clone() }),
            (
                "a life of days",
                with("expires_in", json!(86_400)),
                DeviceAuthorization { lifetime: secs(3600), ..full.clone() },
            ),
            (
                "an interval of nothing",
                with("interval", json!(0)),
                DeviceAuthorization { interval: secs(1), ..full.clone() },
            ),
            ("an interval of hours", with("interval", json!(7200)), DeviceAuthorization { interval: secs(60), ..full }),
        ];
        for (case, body, expected) in rows {
            assert_eq!(answer(200, &body), Ok(expected), "{case}");
        }
        for (case, body) in [
            ("no device code", without("device_code")),
            ("no user code", without("user_code")),
            ("no address", without("verification_uri")),
            ("an address that is none", with("verification_uri", json!("file:///etc/passwd"))),
            ("an address with an order", with("verification_uri", json!("https://a.example/\u{1b}[2J"))),
            ("a code with an order", with("user_code", json!("A\u{1b}[2J"))),
            ("nothing", json!({})),
        ] {
            assert_eq!(answer(200, &body).unwrap_err().failure, TRANSIENT, "{case}");
        }
    }

    #[test]
    fn a_refusal_is_known_by_its_code_also_with_200() {
        let rows = [
            (400, json!({"error": "unauthorized_client"}), CLIENT_REFUSED, "unauthorized_client"),
            (401, json!({"error": "invalid_client"}), CLIENT_REFUSED, "invalid_client"),
            (
                200,
                json!({"error": "device_flow_disabled", "error_description": "x"}),
                TRANSIENT,
                "device_flow_disabled",
            ),
        ];
        for (status, body, failure, code) in rows {
            let refusal = answer(status, &body).unwrap_err();
            assert_eq!((refusal.failure, refusal.oauth_error.as_deref()), (failure, Some(code)));
        }
    }

    #[test]
    fn asking_again_obeys_the_interval_and_slows_down_for_good() {
        let authorization = DeviceAuthorization {
            device_code: Secret::new("d"),
            user_code: "A".to_owned(),
            verification_uri: "https://a.example/".to_owned(),
            verification_uri_complete: None,
            lifetime: secs(300),
            interval: secs(5),
        };
        let mut polling = Polling::new(&authorization);
        assert_eq!((polling.first(), polling.left(secs(299)), polling.left(secs(400))), (secs(5), secs(1), secs(0)));
        let again = |polling: &mut Polling, code, at| polling.judge(code, TRANSIENT, secs(at));
        assert_eq!(again(&mut polling, Some("authorization_pending"), 5), Next::AskAt(secs(10)));
        assert_eq!(again(&mut polling, Some("slow_down"), 10), Next::AskAt(secs(20)));
        assert_eq!(again(&mut polling, Some("authorization_pending"), 20), Next::AskAt(secs(30)));
        assert_eq!(again(&mut polling, Some("slow_down"), 30), Next::AskAt(secs(45)));
        // no response: longer and longer, and as before once there is one again
        assert_eq!(again(&mut polling, None, 50), Next::AskAt(secs(65)));
        assert_eq!(again(&mut polling, None, 65), Next::AskAt(secs(95)));
        assert_eq!(again(&mut polling, None, 95), Next::AskAt(secs(125)));
        assert_eq!(again(&mut polling, Some("authorization_pending"), 125), Next::AskAt(secs(140)));
        let later = Failure::Transient { retry_after: Some(secs(20)) };
        assert_eq!(polling.judge(None, later, secs(140)), Next::AskAt(secs(160)));
        assert_eq!(again(&mut polling, Some("authorization_pending"), 290), Next::Expired, "it ends before the next");
    }

    #[test]
    fn every_other_answer_ends_it() {
        let rows = [
            (Some("access_denied"), TRANSIENT, Next::Denied),
            (Some("authorization_declined"), TRANSIENT, Next::Denied),
            (Some("expired_token"), TRANSIENT, Next::Expired),
            (Some("token_expired"), TRANSIENT, Next::Expired),
            (Some("invalid_grant"), REVOKED, Next::Spent),
            (Some("incorrect_device_code"), TRANSIENT, Next::Spent),
            (Some("unauthorized_client"), CLIENT_REFUSED, Next::NotThisWay),
            (Some("device_flow_disabled"), TRANSIENT, Next::NotThisWay),
            (Some("invalid_client"), CLIENT_REFUSED, Next::Failed),
            (Some("invalid_request"), TRANSIENT, Next::Failed),
            (None, CLIENT_REFUSED, Next::Failed),
            (None, Failure::Ambiguous, Next::Failed), // a success that cannot be used
            (Some("temporarily_unavailable"), TRANSIENT, Next::AskAt(secs(6))),
        ];
        for (code, failure, expected) in rows {
            let mut polling = Polling { interval: secs(5), ends: secs(300), unanswered: 0 };
            assert_eq!(polling.judge(code, failure, secs(1)), expected, "{code:?}");
        }
    }
}
