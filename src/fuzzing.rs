//! What outsiders can feed to the daemon, each as one function from bytes that must hold whatever the bytes are.
//!
//! They are run by `cargo fuzz` (see `fuzz/`), with coverage and for hours, and by this module's tests: the corpus that
//! is checked in and its mutations, for a moment in every test run and for as long as one likes by hand:
//!
//! ```text
//! VALETD_FUZZ_SECONDS=3600 cargo test --release soak_mutations -- --ignored --nocapture
//! ```
//!
//! A function panics where a promise is broken. What was found once lies in the corpus under a name that begins with
//! `found-`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::config::{Config, MachineFacts, Source};
use crate::oauth::announced::{OpenEoProvider, OpenEoVersions, ProtectedResource};
use crate::oauth::metadata::{Kept, Metadata};
use crate::oauth::rfc7591::{self, Registration};
use crate::oauth::{Client, Dialect, Grant, Members, Pointer, TokenResponse, Vocabulary, jwt};
use crate::renewal::{Failure, policy};
use crate::secret::Secret;
use crate::timestamp::Timestamp;

pub use crate::control::fuzzing::control_request;
pub use crate::proxy::fuzzing::{links, request_path};
pub use crate::store::fuzzing::{sealed_file, state_file};

/// One target: its name, which is its folder in the corpus, and what must hold.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("token_answer", token_answer),
    ("jwt_claims", jwt_claims),
    ("state_file", state_file),
    ("sealed_file", sealed_file),
    ("config", config),
    ("control_request", control_request),
    ("links", links),
    ("request_path", request_path),
    ("metadata", metadata),
];

/// The response of a token endpoint: the first byte chooses the request, the status and the provider's words, the rest is the
/// body.
pub fn token_answer(data: &[u8]) {
    const SENT: &str = "sent-secret-0123456789";
    let (choice, body) = data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest));
    let refresh_token = || Grant::RefreshToken(Secret::new(SENT));
    let (dialect, grant) = match choice % 4 {
        0 => (Dialect::Rfc6749, refresh_token()),
        1 => (Dialect::Rfc6749, Grant::Password { username: "me".to_owned(), password: Secret::new(SENT), otp: None }),
        2 => (Dialect::CognitoInitiateAuth, refresh_token()),
        _ => (Dialect::CognitoGetTokens, refresh_token()),
    };
    let status = [200, 400, 401, 403, 429, 500, 302, 204][choice / 4 % 8];
    let field = (choice >= 128).then(|| body.split(|byte| *byte == b'\n').next().unwrap_or_default());
    let field = field.and_then(|field| std::str::from_utf8(field).ok());
    let challenge = field.map(str::as_bytes);
    let response = TokenResponse { status, retry_after: field, date: field, content_type: field, challenge, body };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let pointer = |text| Pointer::parse(text).expect("it is one");
    let words = match choice / 32 % 2 {
        0 => Vocabulary::default(),
        _ => Vocabulary {
            members: Members {
                within: vec![pointer("/data"), pointer("")],
                access_token: Some(pointer("accessToken")),
                refresh_token: Some(pointer("/tokens/0")),
                error: Some(pointer("/fault/code")),
                ..Members::default()
            },
            ..Vocabulary::default()
        },
    };
    match dialect.read(&response, &grant, &Client::default(), &words, now) {
        Ok(tokens) if tokens.unusable.is_some() => {
            assert!((200..300).contains(&status), "tokens come with success alone");
            assert!(tokens.access_token.is_none() && tokens.id_token.is_none());
            assert!(tokens.refresh_token.is_some_and(|token| !token.is_empty() && token.expose() != SENT));
            assert!(dialect.spends_refresh_token(&grant), "nothing was spent");
        }
        Ok(tokens) => {
            let all = [&tokens.access_token, &tokens.id_token, &tokens.refresh_token];
            for token in all.into_iter().flatten() {
                assert!(!token.is_empty() && token.expose().bytes().all(|byte| byte.is_ascii_graphic()));
            }
            assert!(tokens.access_token.is_some() || tokens.id_token.is_some());
            assert!((200..300).contains(&status), "tokens come with success alone");
            // as the renewer uses it: no life is too long for its arithmetic
            let longest = Duration::from_secs(11 * 366 * 86_400);
            assert!(tokens.lifetime.is_none_or(|life| life < longest));
            assert!(tokens.refresh_lifetime.is_none_or(|life| life < longest));
        }
        Err(refusal) => {
            let words = format!("{} {}", refusal.detail, refusal.oauth_error.as_deref().unwrap_or_default());
            assert!(!words.contains(SENT), "a secret is quoted");
            assert!(words.chars().all(|c| !c.is_control()), "{words:?}");
            match refusal.failure {
                Failure::Permanent(_) => assert!(!matches!(status, 302 | 429 | 500), "no verdict by a hop in trouble"),
                // as the machine uses it: no patience is too long for its arithmetic
                Failure::Transient { retry_after } => {
                    let now = Timestamp::from_millis(1_800_000_000_000);
                    let (earliest, _) = policy::retry_times(now, Duration::ZERO, retry_after);
                    assert!(earliest.since(now) <= policy::LONGEST_RETRY_AFTER);
                }
                Failure::Ambiguous => {
                    assert!((200..300).contains(&status) && dialect.spends_refresh_token(&grant), "nothing was spent");
                }
                Failure::Refused => panic!("that is the renewer's word"),
                Failure::Unconfirmed { .. } => panic!("no provider's words were given"),
            }
        }
    }
}

/// The claims of a JWT, which only hint at times and names: the token itself, or its payload.
pub fn jwt_claims(data: &[u8]) {
    use base64::Engine as _;
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = jwt::claims(text);
    }
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(data);
    let claims = jwt::claims(&format!("e30.{payload}."));
    if let Some(identity) = claims.and_then(|claims| claims.identity) {
        assert!(identity.chars().all(|c| !c.is_control()), "{identity:?}");
    }
}

/// What servers say of themselves, and of a client that registered: nothing of it can command a terminal, and what is kept is
/// read again as it was.
pub fn metadata(data: &[u8]) {
    let harmless = |text: &str| assert!(!text.chars().any(char::is_control), "{text:?}");
    const ISSUER: &str = "https://i.example";
    match Metadata::read(data, ISSUER) {
        Ok(found) => {
            assert_eq!(found.issuer, ISSUER);
            found.endpoints().for_each(|(_, text)| harmless(text));
            let kept = Kept { fetched_at: 1, metadata: found, validator: None, fresh_for: 1 };
            assert_eq!(Kept::read(&kept.write()), Some(kept));
        }
        Err(why) => harmless(&why),
    }
    match ProtectedResource::read(data, "https://m.example/mcp") {
        Ok(found) => found.authorization_servers.iter().for_each(|text| harmless(text)),
        Err(why) => harmless(&why),
    }
    match OpenEoProvider::read_all(data) {
        Ok(found) => found.iter().for_each(|provider| harmless(&provider.id)),
        Err(why) => harmless(&why),
    }
    OpenEoVersions::read(data).map_or_else(|why| harmless(&why), |versions| harmless(versions.newest()));
    let status = if data.len().is_multiple_of(3) { 400 } else { 201 };
    match rfc7591::read(status, data, ISSUER) {
        Ok(found) => {
            let file = found.write("lab");
            assert_eq!(Registration::read_file(file.expose().as_bytes(), "lab"), Some(found));
        }
        Err(why) => harmless(&why),
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = ProtectedResource::place_in(text);
    }
}

/// The configuration, and a provider preset.
pub fn config(data: &[u8]) {
    let facts = MachineFacts {
        folder: "/home/me/.config/valetd".into(),
        home: "/home/me".into(),
        cores: 8,
        metadata: BTreeMap::new(),
        clients: BTreeMap::new(),
    };
    let read = Source::from_bytes("config.toml", data, data.len().is_multiple_of(2))
        .and_then(|source| Config::parse(&source, &[("lab".to_owned(), source.clone())], &facts));
    match read {
        Ok(parsed) => {
            for route in &parsed.config.routes {
                assert!(parsed.config.accounts.contains_key(&route.account), "a route's account exists");
            }
            assert!(parsed.config.workers > 0);
        }
        Err(problems) => {
            assert!(!problems.0.is_empty(), "a refusal says why");
            let _ = (problems.to_string(), problems.rendered());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split_mix::SplitMix64;
    use std::path::Path;
    use std::time::Instant;

    struct Dice(SplitMix64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0.next_u64() as usize % sides.max(1)
        }
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a folder can be read to its end").path())
            .collect();
        files.sort();
        let read = files.iter().map(|file| std::fs::read(file).expect("a corpus is made of files"));
        let corpus: Vec<Vec<u8>> = read.collect();
        assert!(!corpus.is_empty(), "{} is empty", folder.display());
        corpus
    }

    /// One step away from an input: what libFuzzer does without knowing the coverage.
    fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
        const TOKENS: [&[u8]; 24] = [
            b"%2e",
            b"%252e",
            b"..",
            b"/",
            b"\\",
            b";",
            b"\0",
            b"\xff",
            b"\"",
            b"{",
            b"}",
            b"[",
            b"]",
            b":",
            b"null",
            b"-1",
            b"1e999",
            b"18446744073709551616",
            b"\r\n",
            b"=",
            b"%",
            b"25",
            b"\xef\xbb\xbf",
            b"#",
        ];
        let at = dice.roll(input.len() + 1);
        match dice.roll(8) {
            0 if at < input.len() => input[at] ^= 1 << dice.roll(8),
            1 if at < input.len() => input[at] = dice.roll(256) as u8,
            2 if at < input.len() => drop(input.remove(at)),
            3 => input.truncate(at),
            4 => {
                let end = (at + dice.roll(24)).min(input.len());
                let part = input[at..end].to_vec();
                let to = dice.roll(input.len() + 1);
                input.splice(to..to, part);
            }
            5 => {
                let other = &corpus[dice.roll(corpus.len())];
                let from = dice.roll(other.len() + 1);
                let end = (from + dice.roll(40)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            _ => drop(input.splice(at..at, TOKENS[dice.roll(TOKENS.len())].iter().copied())),
        }
        input.truncate(4096);
    }

    /// Runs a target on its corpus and then on mutations until `is_enough`. Returns how many there were.
    fn run(target: Target, mut is_enough: impl FnMut(u64) -> bool) -> u64 {
        let (name, holds) = target;
        let corpus = corpus(name);
        corpus.iter().for_each(|input| holds(input));
        let mut dice = Dice(SplitMix64(name.len() as u64));
        let mut runs = 0;
        while !is_enough(runs) {
            let mut input = corpus[dice.roll(corpus.len())].clone();
            (0..=dice.roll(6)).for_each(|_| mutate(&mut input, &corpus, &mut dice));
            if std::panic::catch_unwind(|| holds(&input)).is_err() {
                panic!("{name}, run {runs}: broken by {:?}", String::from_utf8_lossy(&input));
            }
            runs += 1;
        }
        runs
    }

    #[test]
    fn nothing_in_the_corpus_and_no_mutation_of_it_breaks_a_promise() {
        for target in TARGETS {
            run(target, |runs| runs >= 4000);
        }
    }

    /// Each target for VALETD_FUZZ_SECONDS, a minute by default.
    #[test]
    #[ignore = "a soak: a minute for each target"]
    fn soak_mutations() {
        let seconds = std::env::var("VALETD_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
        for target in TARGETS {
            let start = Instant::now();
            let runs = run(target, |runs| runs % 256 == 0 && start.elapsed() >= Duration::from_secs(seconds));
            println!("{}: {runs} inputs in {seconds} s", target.0);
        }
    }
}
