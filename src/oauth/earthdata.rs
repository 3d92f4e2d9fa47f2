//! NASA Earthdata Login's dialect: user name and password as Basic (RFC 7617) bring a token of about 60 days, the one that
//! there is or a new one; there are no refresh tokens.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::civil::Date;
use serde_json::Value;

use super::body::fields_of;
use super::ends::Ends;
use super::grant::{Client, EndpointKind, TokenRequest, Tokens};
use super::members::Json;
use super::verdict::{Reader, Refusal, TokenFields};
use crate::renewal::Why;
use crate::secret::Secret;

/// Writes the request of `find_or_create_token`.
pub(super) fn request(username: &str, password: &Secret, client: &Client) -> Result<TokenRequest, String> {
    if username.contains(':') {
        return Err("a user name with a colon cannot be sent as Basic (RFC 7617 section 2)".to_owned());
    }
    let pair = Secret::new(format!("{username}:{}", password.expose()));
    let basic = Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair.expose())));
    let fields = fields_of(client).chain([("authorization".to_owned(), basic)]).collect();
    let content_type = "application/x-www-form-urlencoded";
    Ok(TokenRequest { endpoint: EndpointKind::Token, content_type, fields, body: Secret::new("") })
}

/// Reads its response. A wrong password is `invalid_credentials`, and is not sent again: that locks accounts.
pub(super) fn read(reader: &Reader<'_>) -> Result<Tokens, Refusal> {
    let members = |name: &str| [name.to_owned()];
    let read = reader.object(|root: Json<'_>| {
        let text = |name: &str| root.find(&members(name))?.map_or(Ok(Value::Null), Json::take);
        let token: Option<Secret> = root.find(&members("access_token"))?.map_or(Ok(None), Json::take)?;
        Ok((token, text("token_type")?, text("expiration_date")?, text("error")?))
    });
    let Some((access_token, token_type, expiration_date, error)) = read else { return Err(reader.no_verdict()) };
    if access_token.is_none() && matches!(reader.response.status, 401 | 403) && error.is_string() {
        let code = error.as_str().and_then(|code| reader.code(code));
        let words = match error.as_str() {
            Some("invalid_credentials") => ": wrong user name or password",
            _ => ": see the account's page at urs.earthdata.nasa.gov",
        };
        return Err(reader.permanent(Why::Revoked, code, words));
    }
    let ends = Ends {
        expires_at: expiration_date.as_str().and_then(first_moment).map_or(Value::Null, Value::from),
        ..Ends::default()
    };
    reader.tokens(TokenFields { access_token, id_token: None, refresh_token: None, token_type, ends })
}

/// `MM/DD/YYYY`, which says no hour: the token is not trusted beyond that day's beginning, in UTC.
fn first_moment(date: &str) -> Option<i64> {
    let date = Date::strptime("%m/%d/%Y", date).ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{REVOKED, TRANSIENT, now, public};
    use super::super::{Dialect, Grant, TokenResponse, Vocabulary};
    use super::*;

    fn grant() -> Grant {
        Grant::Password { username: "ada".to_owned(), password: Secret::new("p:w"), otp: None }
    }

    fn read(status: u16, body: &str) -> Result<Tokens, Refusal> {
        let response = TokenResponse {
            status,
            date: Some("Fri, 06 Nov 2026 08:49:37 GMT"),
            body: body.as_bytes(),
            ..TokenResponse::default()
        };
        Dialect::Earthdata.read(&response, &grant(), &public(), &Vocabulary::default(), now())
    }

    #[test]
    fn the_request_is_basic_without_a_body() {
        let request = Dialect::Earthdata.request(&grant(), &public(), &[], &[]).unwrap();
        assert_eq!((request.endpoint, request.body.expose()), (EndpointKind::Token, ""));
        let sent: Vec<_> = request.fields.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(sent, [("authorization", "Basic YWRhOnA6dw==")]);
        let colon = Grant::Password { username: "a:b".to_owned(), password: Secret::new("p"), otp: None };
        assert!(Dialect::Earthdata.request(&colon, &public(), &[], &[]).unwrap_err().contains("colon"));
    }

    #[test]
    fn a_token_lives_until_its_day_begins() {
        let body = r#"{"access_token":"t","token_type":"Bearer","expiration_date":"11/08/2026"}"#;
        let tokens = read(200, body).unwrap();
        assert_eq!(tokens.lifetime, Some(Duration::from_secs(24 * 3600 + 15 * 3600 + 10 * 60 + 23)));
        let today = read(200, &body.replace("11/08", "11/06")).unwrap();
        assert_eq!(today.lifetime, Some(Duration::ZERO), "it may have ended");
        assert_eq!(read(200, &body.replace("11/08/2026", "soon")).unwrap().lifetime, None);
    }

    #[test]
    fn a_wrong_password_is_final_and_a_bad_day_is_not() {
        let refused = r#"{"error":"invalid_credentials","error_description":"Invalid user credentials"}"#;
        assert_eq!(read(401, refused).unwrap_err().failure, REVOKED);
        assert_eq!(read(403, r#"{"error":"max_token_limit"}"#).unwrap_err().failure, REVOKED);
        for (status, body) in [(401, ""), (503, refused), (200, "{}"), (200, "<html>"), (401, "<html>"), (429, refused)]
        {
            assert_eq!(read(status, body).unwrap_err().failure, TRANSIENT, "{status} {body}");
        }
    }
}
