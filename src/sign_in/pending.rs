//! A sign-in that was begun in a browser and has not come back yet: what its response is checked with.
//!
//! It is kept in the state folder for ten minutes (mode 0600), for `login --code` in another process, and is removed
//! after use and at a sign-out.

use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::json;

use super::pasted::{NotACode, Pasted};
use crate::config::{Account, AccountId};
use crate::platform::clock::unix_seconds;
use crate::platform::random::{self, NoRandomNumbers};
use crate::secret::Secret;
use crate::store::{Beside, StoreError, pending_name};

/// How long a sign-in may take: ten minutes, as codes live at the most (RFC 6749 section 4.1.2).
pub(super) const LIFE: u64 = 600;

/// What belongs to one authorization request.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PendingSignIn {
    /// `state` (RFC 6749 section 10.12): the response names it.
    pub(super) state: String,
    /// What the code challenge was made of (RFC 7636); `None` where the page's own address states a challenge.
    pub(super) verifier: Option<Secret>,
    /// The redirect URI of the request, where it is not the one that the account states for pasted codes.
    #[serde(default)]
    pub(super) redirect_uri: Option<String>,
    /// Unix seconds.
    until: u64,
}

impl PendingSignIn {
    /// A new one, of 128 bits of state and a verifier of 256.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub(crate) fn begin(account: &Account) -> Result<Self, NoRandomNumbers> {
        let page = account.server.login_page.as_ref().map(ToString::to_string).unwrap_or_default();
        let own_query = page.split_once('?').map_or("", |(_, query)| query);
        let own =
            |name: &str| form_urlencoded::parse(own_query.as_bytes()).find(|(own, _)| own == name).map(|(_, v)| v);
        let state = match own("state") {
            Some(state) => state.into_owned(),
            None => random::secret::<16>()?.expose().to_owned(),
        };
        let verifier = if own("code_challenge").is_some() { None } else { Some(random::secret::<32>()?) };
        Ok(Self { state, verifier, redirect_uri: None, until: unix_seconds() + LIFE })
    }

    /// The same for a request to the authorization endpoint itself, whose address states nothing of its own.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub(super) fn begin_with(redirect_uri: String) -> Result<Self, NoRandomNumbers> {
        let (state, verifier) = (random::secret::<16>()?.expose().to_owned(), random::secret::<32>()?);
        let redirect_uri = Some(redirect_uri);
        Ok(Self { state, verifier: Some(verifier), redirect_uri, until: unix_seconds() + LIFE })
    }

    /// The `nonce` of the request (OpenID Connect Core section 15.5.2), if it has one: a page of the account's own is told
    /// none, and without `openid` there is none. It is made of the verifier, which is as random and as secret, so that it need
    /// not be kept beside it.
    pub(crate) fn nonce(&self, account: &Account) -> Option<String> {
        let is_openid = account.scopes.iter().any(|scope| scope == "openid");
        self.redirect_uri.as_ref().filter(|_| is_openid)?;
        let verifier = self.verifier.as_ref()?;
        Some(digest_of(&[b"nonce of ", verifier.expose().as_bytes()]))
    }

    /// The code challenge of method S256 (RFC 7636 section 4.2).
    pub(super) fn challenge(&self) -> Option<String> {
        let verifier = self.verifier.as_ref()?;
        Some(challenge_of(verifier))
    }

    /// Keeps it for another process.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(crate) fn save(&self, state_dir: &Path, account: &AccountId) -> Result<(), StoreError> {
        let Self { state, verifier, redirect_uri, until } = self;
        let verifier = verifier.as_ref().map(Secret::expose);
        let text = json!({ "state": state, "verifier": verifier, "redirect_uri": redirect_uri, "until": until });
        Beside::open(state_dir)?.write(&pending_name(account), Secret::new(text.to_string()).expose().as_bytes())
    }

    /// The account's, if one was begun in the last ten minutes. An older one is removed.
    pub(crate) fn load(state_dir: &Path, account: &AccountId) -> Option<Self> {
        let now = unix_seconds();
        let bytes = Beside::open(state_dir).ok()?.read(&pending_name(account))?;
        let pending: Option<Self> = serde_json::from_slice(&bytes).ok();
        let pending = pending.filter(|pending| (now..=now + LIFE).contains(&pending.until));
        if pending.is_none() {
            Self::forget(state_dir, account);
        }
        pending
    }

    /// It has been used, or is not wanted any more.
    pub(crate) fn forget(state_dir: &Path, account: &AccountId) {
        if let Ok(mut folder) = Beside::open(state_dir) {
            folder.remove(&pending_name(account));
        }
    }

    /// Whether what came back answers this request: an address must name its `state`, and, if it names an issuer (RFC
    /// 9207), one of the account's servers. A code alone names neither; the server compares it with the verifier. Pure.
    ///
    /// # Errors
    ///
    /// [`NotACode`], if it does not.
    pub(crate) fn check(&self, account: &Account, pasted: &Pasted) -> Result<(), NotACode> {
        if !pasted.is_address {
            return Ok(());
        }
        match &pasted.state {
            Some(state) if *state == self.state => {}
            Some(_) => return Err(NotACode::OtherSignIn),
            None => return Err(NotACode::NoState),
        }
        check_issuer(account, pasted.issuer.as_deref())
    }
}

/// Whether the issuer that an authorization response names, if it does, is the account's, byte for byte (RFC 9207 section 2.4); or, where the
/// account names none, one of its servers.
///
/// # Errors
///
/// [`NotACode::OtherIssuer`], if it is not.
pub(crate) fn check_issuer(account: &Account, issuer: Option<&str>) -> Result<(), NotACode> {
    let Some(issuer) = issuer else {
        // section 2.4: of a server that announces it, a response without it is somebody else's
        return if account.server.names_issuer { Err(NotACode::NoIssuer) } else { Ok(()) };
    };
    // an issuer is an https address (RFC 8414 section 2), which has an origin as an endpoint has
    let origin = crate::config::Endpoint::parse(issuer).ok().map(|endpoint| endpoint.origin);
    let is_ours = match &account.server.issuer {
        Some(ours) => ours.as_str() == issuer,
        None => account.server.endpoints().any(|(_, endpoint)| Some(&endpoint.origin) == origin.as_ref()),
    };
    if is_ours { Ok(()) } else { Err(NotACode::OtherIssuer) }
}

/// The code challenge of method S256 (RFC 7636 section 4.2).
pub(super) fn challenge_of(verifier: &Secret) -> String {
    digest_of(&[verifier.expose().as_bytes()])
}

fn digest_of(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    BASE64_URL_SAFE_NO_PAD.encode(context.finish())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::pasted::recognise;
    use super::*;
    use crate::config::testing::account;

    const PAGE: &str = "sign_in = [\"paste\"]\nlogin_page = \"https://auth.example/login\"\n";

    fn pending() -> PendingSignIn {
        // RFC 7636 appendix B
        let verifier = Some(Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
        PendingSignIn { state: "s1".to_owned(), verifier, redirect_uri: None, until: unix_seconds() + 5 }
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7636() {
        assert_eq!(pending().challenge().as_deref(), Some("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"));
    }

    #[test]
    fn each_sign_in_has_a_state_and_a_verifier_of_its_own() {
        let account = account("gdh", PAGE);
        let [one, other] = [0, 1].map(|_| PendingSignIn::begin(&account).unwrap());
        assert_ne!(one.state, other.state);
        assert_ne!(one.verifier, other.verifier);
        assert_eq!((one.state.len(), one.verifier.unwrap().expose().len()), (22, 43));
    }

    #[test]
    fn a_request_has_a_nonce_of_its_own_with_openid_and_a_page_of_the_accounts_own_is_told_none() {
        let (openid, repo) = (account("lab", "scopes = [\"openid\"]\n"), account("lab", "scopes = [\"repo\"]\n"));
        let [one, other] = [0, 1].map(|_| PendingSignIn::begin_with("http://127.0.0.1/cb".to_owned()).unwrap());
        assert_ne!(one.nonce(&openid), other.nonce(&openid));
        assert!(one.nonce(&openid).is_some() && one.nonce(&openid) != one.challenge());
        assert_eq!(one.nonce(&repo), None);
        assert_eq!(PendingSignIn::begin(&openid).unwrap().nonce(&openid), None);
    }

    #[test]
    fn what_a_pages_own_address_states_is_not_said_again() {
        let lines = "sign_in = [\"paste\"]\nlogin_page = \"https://a.example/l?state=own&code_challenge=c\"\n";
        let pending = PendingSignIn::begin(&account("gdh", lines)).unwrap();
        assert_eq!((pending.state.as_str(), pending.verifier), ("own", None));
    }

    #[test]
    fn what_came_back_must_answer_this_sign_in_and_come_from_this_server() {
        let account = account("gdh", PAGE);
        let issuer = |host: &str| format!("https://x.example/cb?code=c&state=s1&iss=https%3A%2F%2F{host}%2Frealms%2Fr");
        let at = |query: &str| format!("https://x.example/cb?{query}");
        let rows = [
            ("a bare code", "0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(), Ok(())),
            ("its state", at("code=c&state=s1"), Ok(())),
            ("in the fragment", "https://x.example/cb#code=c&state=s1".to_owned(), Ok(())),
            ("the query alone", "?code=c&state=s1".to_owned(), Ok(())),
            ("another state", at("code=c&state=s2"), Err(NotACode::OtherSignIn)),
            ("a longer state", at("code=c&state=s11"), Err(NotACode::OtherSignIn)),
            ("another case", at("code=c&state=S1"), Err(NotACode::OtherSignIn)),
            ("no state", at("code=c"), Err(NotACode::NoState)),
            ("an empty state", at("code=c&state="), Err(NotACode::NoState)),
            ("its issuer", issuer("auth.example"), Ok(())),
            ("another issuer", issuer("evil.example"), Err(NotACode::OtherIssuer)),
            ("another port", issuer("auth.example%3A444"), Err(NotACode::OtherIssuer)),
            ("a longer name", issuer("auth.example.evil.example"), Err(NotACode::OtherIssuer)),
            ("a user name", issuer("auth.example%40evil.example"), Err(NotACode::OtherIssuer)),
            ("no address", at("code=c&state=s1&iss=auth.example"), Err(NotACode::OtherIssuer)),
        ];
        for (case, text, expected) in rows {
            let pasted = recognise(&text).expect(case);
            assert_eq!(pending().check(&account, &pasted), expected, "{case}");
        }
        let mut announces = account;
        announces.server.names_issuer = true;
        let check = |text: &str| pending().check(&announces, &recognise(text).unwrap());
        assert_eq!(check(&at("code=c&state=s1")), Err(NotACode::NoIssuer));
        assert_eq!(check(&issuer("auth.example")), Ok(()));
        assert_eq!(check("0f8fad5b-d9cb-469f-a165-70867728950e"), Ok(()), "a bare code has no address to say it in");
    }

    #[test]
    fn it_is_kept_for_its_time_and_for_us_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("valetd");
        let id = AccountId::new("lab").unwrap();
        assert_eq!(PendingSignIn::load(&state_dir, &id), None);
        pending().save(&state_dir, &id).unwrap();
        let file = state_dir.join("lab.sign-in.json");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(PendingSignIn::load(&state_dir, &id).unwrap().verifier, pending().verifier);
        for until in [0, unix_seconds() - 1, unix_seconds() + 2 * LIFE] {
            PendingSignIn { until, ..pending() }.save(&state_dir, &id).unwrap();
            assert_eq!(PendingSignIn::load(&state_dir, &id), None, "{until}");
            assert!(!file.exists(), "{until}");
        }
        pending().save(&state_dir, &id).unwrap();
        PendingSignIn::forget(&state_dir, &id);
        assert!(!file.exists());
    }
}
