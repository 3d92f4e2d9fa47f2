//! A stand-in's issuer: who was issued what, what is spent, what is dead. Decides, given the time; knows no HTTP.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Who can sign in with a password.
pub const USERNAME: &str = "ada@example.org";
/// The password of [`USERNAME`].
pub const PASSWORD: &str = "correct horse battery staple";

/// What a refresh does to the refresh token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rotation {
    /// Nothing: it stays good.
    #[default]
    Off,
    /// It is spent, but answers with another pair for so long after its first use; later it is refused.
    Grace(Duration),
    /// It is spent at once, and whoever presents it again kills all refresh tokens of the same sign-in.
    Strict,
}

/// What can be changed while a stand-in runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The life of access and ID tokens.
    pub access_lifetime: Duration,
    /// Whether that can be known: by `expires_in`, and by the claims of the tokens, which are opaque otherwise.
    pub tell_access_lifetime: bool,
    /// The life of a sign-in: rotation does not prolong it. `None` is for ever.
    pub refresh_lifetime: Option<Duration>,
    /// Whether answers say `refresh_expires_in`.
    pub tell_refresh_lifetime: bool,
    /// What a refresh does to the refresh token.
    pub rotation: Rotation,
}

impl Default for Options {
    /// An hour, 27 days untold, no rotation: GDH as it was last seen.
    fn default() -> Self {
        Self {
            access_lifetime: Duration::from_secs(60 * 60),
            tell_access_lifetime: true,
            refresh_lifetime: Some(Duration::from_secs(27 * 24 * 60 * 60)),
            tell_refresh_lifetime: false,
            rotation: Rotation::Off,
        }
    }
}

/// What one redemption brought.
pub(super) struct Issued {
    pub(super) access_token: String,
    pub(super) id_token: String,
    /// A new one, if the presented one was spent or there was none.
    pub(super) refresh_token: Option<String>,
    /// Of access and ID token, if answers are to say so.
    pub(super) lifetime: Option<Duration>,
    /// What is left of the sign-in, if answers are to say so.
    pub(super) refresh_lifetime: Option<Duration>,
}

impl Issued {
    /// `expires_in`, whole where it is.
    pub(super) fn expires_in(&self) -> Option<Value> {
        let lifetime = self.lifetime?;
        Some(if lifetime.subsec_nanos() == 0 { json!(lifetime.as_secs()) } else { json!(lifetime.as_secs_f64()) })
    }
}

/// Why nothing was issued, in Cognito's words.
pub(super) type Denied = &'static str;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Access,
    Id,
}

#[derive(Default)]
pub(super) struct Issuer {
    pub(super) options: Options,
    /// Every secret that was ever issued, for tests that look for them where they must not be.
    pub(super) secrets: Vec<String>,
    pub(super) reuse_detected: u64,
    /// What its tokens say that has issued them; empty: Cognito's.
    pub(super) url: String,
    sign_ins: Vec<SignIn>,
    /// Those not used yet.
    codes: Vec<(String, Code)>,
    refresh_tokens: HashMap<String, RefreshToken>,
    tokens: HashMap<String, Token>,
}

/// What a code stands for.
#[derive(Default)]
pub(super) struct Code {
    /// That of the request (RFC 7636, S256), if it had one.
    pub(super) challenge: Option<String>,
    /// That of the request, where it is compared.
    pub(super) redirect_uri: Option<String>,
    /// What the ID token says of it.
    pub(super) nonce: Option<String>,
    /// Who has signed in, if that is somebody in particular.
    pub(super) sub: Option<String>,
    pub(super) scope: Option<String>,
}

struct SignIn {
    dead: bool,
    sub: Option<String>,
    nonce: Option<String>,
    /// A refresh token belongs to the client that got it; unknown until the first who uses it says its name.
    client_id: Option<String>,
    dies_at: Option<SystemTime>,
}

struct RefreshToken {
    sign_in: usize,
    spent_at: Option<SystemTime>,
}

struct Token {
    kind: Kind,
    expires_at: SystemTime,
}

impl Issuer {
    pub(super) fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// A one-time code, as a person who signs in is shown.
    pub(super) fn mint_code(&mut self, challenge: Option<String>) -> String {
        self.mint(Code { challenge, ..Code::default() })
    }

    pub(super) fn mint(&mut self, stands_for: Code) -> String {
        let code = uuid();
        self.codes.push((code.clone(), stands_for));
        self.secrets.push(code.clone());
        code
    }

    /// The redirect URI of a code's request, if it is to be the same.
    pub(super) fn redirect_uri_of(&self, code: &str) -> Option<String> {
        self.code(code)?.redirect_uri.clone()
    }

    /// The scope of a code's request.
    pub(super) fn scope_of(&self, code: &str) -> Option<String> {
        self.code(code)?.scope.clone()
    }

    /// Whether it is a code that has not been used yet.
    pub(super) fn takes(&self, code: &str) -> bool {
        self.code(code).is_some()
    }

    fn code(&self, code: &str) -> Option<&Code> {
        self.codes.iter().find(|(known, _)| known == code).map(|(_, stands_for)| stands_for)
    }

    /// A refresh token, as of somebody who signed in earlier.
    pub(super) fn sign_in(&mut self, client_id: Option<&str>, now: SystemTime) -> String {
        let dies_at = self.options.refresh_lifetime.and_then(|life| now.checked_add(life));
        self.sign_ins.push(SignIn {
            dead: false,
            sub: None,
            nonce: None,
            client_id: client_id.map(str::to_owned),
            dies_at,
        });
        self.new_refresh_token(self.sign_ins.len() - 1)
    }

    pub(super) fn redeem_code(
        &mut self,
        code: &str,
        verifier: Option<&str>,
        client: Option<&str>,
        now: SystemTime,
    ) -> Result<Issued, Denied> {
        let Some(place) = self.codes.iter().position(|(known, _)| known == code) else { return Err("Invalid code") };
        let (_, Code { challenge, nonce, sub, .. }) = self.codes.swap_remove(place);
        let digest = |verifier: &str| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
        let made = verifier.map(|verifier| BASE64_URL_SAFE_NO_PAD.encode(digest(verifier)));
        if challenge.is_some() && challenge != made {
            return Err("Invalid code verifier");
        }
        let refresh_token = self.sign_in(client, now);
        let number = self.sign_ins.len() - 1;
        let sign_in = &mut self.sign_ins[number];
        (sign_in.sub, sign_in.nonce) = (sub, nonce);
        Ok(self.issue(number, Some(refresh_token), client, now))
    }

    pub(super) fn redeem_password(
        &mut self,
        username: &str,
        password: &str,
        now: SystemTime,
    ) -> Result<Issued, Denied> {
        if (username, password) != (USERNAME, PASSWORD) {
            return Err("Incorrect username or password.");
        }
        let refresh_token = self.sign_in(None, now);
        Ok(self.issue(self.sign_ins.len() - 1, Some(refresh_token), None, now))
    }

    pub(super) fn redeem_refresh_token(
        &mut self,
        token: &str,
        client: Option<&str>,
        now: SystemTime,
    ) -> Result<Issued, Denied> {
        let Some(entry) = self.refresh_tokens.get_mut(token) else { return Err("Invalid Refresh Token") };
        let number = entry.sign_in;
        let sign_in = &mut self.sign_ins[number];
        if sign_in.dead {
            return Err("Refresh Token has been revoked");
        }
        if sign_in.dies_at.is_some_and(|dies_at| dies_at <= now) {
            return Err("Refresh Token has expired");
        }
        if let Some(client) = client
            && sign_in.client_id.get_or_insert_with(|| client.to_owned()) != client
        {
            return Err("Invalid Refresh Token");
        }
        if let Some(spent_at) = entry.spent_at {
            let in_grace = |grace| now.duration_since(spent_at).is_ok_and(|since| since < grace);
            match self.options.rotation {
                Rotation::Grace(grace) if in_grace(grace) => {}
                Rotation::Off | Rotation::Grace(_) => {
                    self.reuse_detected += 1;
                    return Err("Refresh token has been rotated");
                }
                Rotation::Strict => {
                    self.reuse_detected += 1;
                    sign_in.dead = true;
                    return Err("Refresh token has been rotated");
                }
            }
        }
        let successor = match self.options.rotation {
            Rotation::Off => None,
            Rotation::Grace(_) | Rotation::Strict => {
                entry.spent_at.get_or_insert(now);
                Some(self.new_refresh_token(number))
            }
        };
        Ok(self.issue(number, successor, client, now))
    }

    /// Ends the sign-in that a refresh token belongs to. Returns whether there was one.
    pub(super) fn revoke(&mut self, refresh_token: &str) -> bool {
        let Some(entry) = self.refresh_tokens.get(refresh_token) else { return false };
        self.sign_ins[entry.sign_in].dead = true;
        true
    }

    pub(super) fn revoke_sign_ins(&mut self) {
        self.sign_ins.iter_mut().for_each(|sign_in| sign_in.dead = true);
    }

    pub(super) fn revoke_tokens(&mut self) {
        self.tokens.clear();
    }

    /// What a token is, if it is valid now. As with JWTs that are checked offline, it outlives its sign-in.
    pub(super) fn judge(&self, token: &str, now: SystemTime) -> Option<Kind> {
        self.tokens.get(token).filter(|token| now < token.expires_at).map(|token| token.kind)
    }

    fn issue(
        &mut self,
        sign_in: usize,
        refresh_token: Option<String>,
        client: Option<&str>,
        now: SystemTime,
    ) -> Issued {
        let lifetime = self.options.access_lifetime;
        let dies_at = self.sign_ins[sign_in].dies_at.filter(|_| self.options.tell_refresh_lifetime);
        let iat = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let exp = iat.saturating_add(lifetime).as_secs();
        let SignIn { sub, nonce, .. } = &self.sign_ins[sign_in];
        let (iss, iat, aud) =
            (if self.url.is_empty() { ISSUER } else { &self.url }, iat.as_secs(), client.unwrap_or("none"));
        let (name, sub) = match sub {
            Some(sub) => (format!("{sub}@example.org"), sub.clone()),
            None => (USERNAME.to_owned(), "stand-in-ada".to_owned()), // whoever has that name is one person
        };
        let access = json!({"sub": sub, "token_use": "access", "scope": "openid", "client_id": aud,
            "username": name, "iss": iss, "iat": iat, "exp": exp, "jti": uuid()});
        let mut id = json!({"sub": sub, "token_use": "id", "aud": aud, "email": name, "cognito:username": name,
            "iss": iss, "auth_time": iat, "iat": iat, "exp": exp, "jti": uuid()});
        if let Some(nonce) = nonce {
            id["nonce"] = json!(nonce);
        }
        let [access_token, id_token] = [(Kind::Access, access), (Kind::Id, id)].map(|(kind, claims)| {
            let token = if self.options.tell_access_lifetime { jwt(&claims) } else { random_text(32) };
            self.secrets.push(token.clone());
            self.tokens.insert(token.clone(), Token { kind, expires_at: now + lifetime });
            token
        });
        let refresh_lifetime = dies_at.map(|dies_at| dies_at.duration_since(now).unwrap_or_default());
        let lifetime = Some(lifetime).filter(|_| self.options.tell_access_lifetime);
        Issued { access_token, id_token, refresh_token, lifetime, refresh_lifetime }
    }

    fn new_refresh_token(&mut self, sign_in: usize) -> String {
        let token = random_text(96);
        self.secrets.push(token.clone());
        self.refresh_tokens.insert(token.clone(), RefreshToken { sign_in, spent_at: None });
        token
    }
}

const ISSUER: &str = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_StandIn00";

/// Looks like any RS256 token; the signature is noise.
fn jwt(claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": "RS256", "kid": "stand-in"});
    format!("{}.{}.{}", part(&header), part(claims), random_text(256))
}

fn random_text(bytes: usize) -> String {
    let mut noise = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut noise).expect("the system has randomness");
    BASE64_URL_SAFE_NO_PAD.encode(noise)
}

/// A version 4 UUID (RFC 9562): the form of GDH's one-time codes.
pub(super) fn uuid() -> String {
    let mut noise = [0; 16];
    aws_lc_rs::rand::fill(&mut noise).expect("the system has randomness");
    noise[6] = noise[6] & 0x0f | 0x40;
    noise[8] = noise[8] & 0x3f | 0x80;
    let hex: String = noise.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn issuer(rotation: Rotation) -> (Issuer, SystemTime) {
        let options = Options { rotation, ..Options::default() };
        (Issuer::new(options), UNIX_EPOCH + Duration::from_secs(1_700_000_000))
    }

    #[test]
    fn without_rotation_a_refresh_token_stays_good_until_the_sign_in_ends() {
        let (mut issuer, now) = issuer(Rotation::Off);
        let token = issuer.sign_in(None, now);
        let issued = issuer.redeem_refresh_token(&token, Some("c"), now).ok().unwrap();
        assert_eq!(issued.refresh_token, None);
        assert_eq!(issuer.judge(&issued.access_token, now), Some(Kind::Access));
        assert_eq!(issuer.judge(&issued.id_token, now + Duration::from_secs(3599)), Some(Kind::Id));
        assert_eq!(issuer.judge(&issued.id_token, now + Duration::from_secs(3600)), None);
        assert_eq!(issuer.redeem_refresh_token(&token, Some("other"), now).err(), Some("Invalid Refresh Token"));
        let late = now + Duration::from_secs(27 * 24 * 60 * 60);
        assert_eq!(issuer.redeem_refresh_token(&token, Some("c"), late).err(), Some("Refresh Token has expired"));
    }

    #[test]
    fn in_its_grace_a_spent_refresh_token_answers_again_and_afterwards_not() {
        let (mut issuer, now) = issuer(Rotation::Grace(10 * SECOND));
        let first = issuer.sign_in(None, now);
        let second = issuer.redeem_refresh_token(&first, None, now).ok().unwrap().refresh_token.unwrap();
        assert!(issuer.redeem_refresh_token(&first, None, now + 9 * SECOND).is_ok());
        assert!(issuer.redeem_refresh_token(&first, None, now + 10 * SECOND).is_err());
        assert_eq!(issuer.reuse_detected, 1);
        assert!(issuer.redeem_refresh_token(&second, None, now + 10 * SECOND).is_ok());
    }

    #[test]
    fn strict_rotation_kills_the_family_of_a_reused_refresh_token_and_no_other() {
        let (mut issuer, now) = issuer(Rotation::Strict);
        let (first, neighbour) = (issuer.sign_in(None, now), issuer.sign_in(None, now));
        let second = issuer.redeem_refresh_token(&first, None, now).ok().unwrap().refresh_token.unwrap();
        assert_eq!(issuer.redeem_refresh_token(&first, None, now).err(), Some("Refresh token has been rotated"));
        assert_eq!(issuer.redeem_refresh_token(&second, None, now).err(), Some("Refresh Token has been revoked"));
        assert!(issuer.redeem_refresh_token(&neighbour, None, now).is_ok());
        assert_eq!(issuer.reuse_detected, 1);
    }

    #[test]
    fn a_code_is_good_once() {
        let (mut issuer, now) = issuer(Rotation::Off);
        let code = issuer.mint_code(None);
        assert!(issuer.redeem_code(&code, None, Some("c"), now).is_ok());
        assert_eq!(issuer.redeem_code(&code, None, Some("c"), now).err(), Some("Invalid code"));
        assert!(issuer.secrets.contains(&code));
    }
}
