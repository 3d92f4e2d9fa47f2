//! What a JSON Web Token (RFC 7519) says about its times and its subject, read without any trust.
//!
//! The token came straight from the token endpoint. By itself this decides no more than when a timer goes off and which name
//! a person is shown; whether an ID token's claims count for more, `id_token` says. Signatures are the API's business.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::Value;

/// What was found in a token's claims. Times are Unix seconds by the server's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// `exp`: not to be used from then on.
    pub exp: Option<i64>,
    /// `iat`: issued then.
    pub iat: Option<i64>,
    /// `iss`: who issued it.
    pub issuer: Option<String>,
    /// `aud`: for whom; one or several.
    pub audience: Vec<String>,
    /// `azp`: by whom it is to be used.
    pub authorized_party: Option<String>,
    /// `iss` and `sub`: who issued it, and whom it speaks of there. Both together name a person for good.
    pub subject: Option<(String, String)>,
    /// `nonce`: of the authentication request that it answers.
    pub nonce: Option<String>,
    /// Who it speaks of: `email`, a user name or `sub`, the first that is there; printable and at most 100 characters.
    pub identity: Option<String>,
}

/// Reads the claims of `token`; `None` if it is no JWT with readable claims, as opaque and encrypted tokens are.
/// Numbers may also be floats or texts; a claim of another type counts as absent.
pub(crate) fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = LENIENT.decode(payload).ok()?;
    if !payload.trim_ascii_start().starts_with(b"{") {
        return None; // serde would take an array for a struct
    }
    let Payload { exp, iat, iss, aud, azp, nonce, email, cognito_username, preferred_username, username, sub } =
        serde_json::from_slice(&payload).ok()?;
    let subject = iss.as_str().zip(sub.as_str()).filter(|(iss, sub)| is_short(iss) && is_short(sub));
    let subject = subject.map(|(iss, sub)| (iss.to_owned(), sub.to_owned()));
    let names = [email, cognito_username, preferred_username, username, sub];
    let text = |value: &Value| value.as_str().filter(|text| is_short(text)).map(str::to_owned);
    Some(Claims {
        exp: seconds(&exp),
        iat: seconds(&iat),
        issuer: text(&iss),
        audience: match &aud {
            Value::Array(several) => several.iter().filter_map(text).collect(),
            one => text(one).into_iter().collect(),
        },
        authorized_party: text(&azp),
        subject,
        nonce: nonce.as_str().map(str::to_owned),
        identity: names.iter().find_map(identity),
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Payload {
    exp: Value,
    iat: Value,
    iss: Value,
    aud: Value,
    azp: Value,
    nonce: Value,
    email: Value,
    #[serde(rename = "cognito:username")]
    cognito_username: Value,
    preferred_username: Value,
    username: Value,
    sub: Value,
}

/// RFC 7515 says base64url without padding; some issuers pad.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A NumericDate (RFC 7519 section 2), leniently: the fraction is dropped, and what would be in the year 5138 is counted in
/// thousandths, or in thousandths of those.
fn seconds(value: &Value) -> Option<i64> {
    let mut seconds: f64 = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    for _ in 0..3 {
        if (1e11..1e20).contains(&seconds) {
            seconds /= 1000.0;
        }
    }
    seconds.is_finite().then_some(seconds as i64) // `as` saturates
}

/// Longer ones name nobody: they would only be kept. OpenID Connect Core section 2 has 255 characters for `sub`.
fn is_short(text: &str) -> bool {
    (1..=1000).contains(&text.len())
}

fn identity(value: &Value) -> Option<String> {
    let name: String = value.as_str()?.chars().filter(|c| !c.is_control()).take(100).collect();
    (!name.trim().is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn times_and_names_are_read_in_every_spelling_that_occurs() {
        let found = |exp, iat, identity: &str| {
            let identity = (!identity.is_empty()).then(|| identity.to_owned());
            Some(Claims { exp, iat, identity, ..Claims::default() })
        };
        let table = [
            ("integers", r#"{"exp":1700003600,"iat":1700000000}"#, found(Some(1700003600), Some(1700000000), "")),
            ("floats", r#"{"exp":1.7000036e9,"iat":1700000000.9}"#, found(Some(1700003600), Some(1700000000), "")),
            ("texts", r#"{"exp":"1700003600","iat":" 17 "}"#, found(Some(1700003600), Some(17), "")),
            ("other types", r#"{"exp":[1],"iat":null,"sub":7}"#, found(None, None, "")),
            ("huge", r#"{"exp":1e300,"iat":"NaN"}"#, found(Some(i64::MAX), None, "")),
            ("email first", r#"{"sub":"s","username":"u","email":"a@b"}"#, found(None, None, "a@b")),
            ("Cognito's name", r#"{"sub":"s","cognito:username":"ada"}"#, found(None, None, "ada")),
            ("sub at last", r#"{"sub":"0b-1c","email":""}"#, found(None, None, "0b-1c")),
            ("control bytes go", r#"{"sub":"a\u001b[31m\nb"}"#, found(None, None, "a[31mb")),
            ("an array", r#"[1700003600]"#, None),
            ("no JSON", "nonsense", None),
        ];
        for (name, payload, expected) in table {
            assert_eq!(claims(&jwt(payload)), expected, "{name}");
        }
    }

    #[test]
    fn a_person_is_named_by_issuer_and_subject_together() {
        let subject = |payload: &str| claims(&jwt(payload)).and_then(|claims| claims.subject);
        let both = ("https://a".to_owned(), "s".to_owned());
        assert_eq!(subject(r#"{"iss":"https://a","sub":"s","email":"e"}"#), Some(both));
        for other in
            [r#"{"sub":"s"}"#, r#"{"iss":"https://a"}"#, r#"{"iss":"https://a","sub":""}"#, r#"{"iss":1,"sub":"s"}"#]
        {
            assert_eq!(subject(other), None, "{other}");
        }
    }

    #[test]
    fn padding_is_forgiven_and_opaque_tokens_are_not_jwts() {
        let padded = format!("e30.{}.x", BASE64_URL_SAFE.encode(r#"{"exp":17}"#));
        assert!(padded.contains('='));
        assert_eq!(claims(&padded).and_then(|claims| claims.exp), Some(17));
        for opaque in ["", "abc", "a.b", "..", "a.!!.c"] {
            assert_eq!(claims(opaque), None, "{opaque}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*", payload in ".*") {
            let _ = claims(&text);
            let _ = claims(&jwt(&payload));
        }
    }
}
