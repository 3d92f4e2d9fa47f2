//! Signing in: from a person at a terminal, or a secret on standard input, to a credential that lasts.
//!
//! It runs in the command line's process; the daemon never asks anybody anything. [`in_person`] asks in the account's
//! ways for a grant, [`redeem`] turns that into what is stored. Between the two, the caller's `exchange` sends the grant
//! to the token endpoint.
//!
//! * [`import`]: what other tools have left; * [`login_url`]: the page to open; * [`pasted`]: what came back from it by hand; * [`terminal`]: questions.

use std::fmt;
use std::io;

use crate::accounts::NewCredential;
use crate::config::{Account, SignInMethod};
use crate::oauth::{Grant, GrantType, Tokens};
use crate::platform::environment;
use crate::secret::Secret;
use crate::store::{Credential, Servers};

pub mod import;
pub mod login_url;
pub mod pasted;
pub mod terminal;

use pasted::NotACode;
use terminal::{Terminal, Unasked};

/// How often a person may paste something that is no code before we give up.
const TRIES: usize = 3;

/// What came back for a grant.
#[derive(Clone, Debug)]
pub struct Exchanged {
    /// The tokens.
    pub tokens: Tokens,
    /// Who signed in, as far as the tokens tell.
    pub identity: Option<String>,
}

/// What the command line says about asking.
#[derive(Clone, Default, Debug)]
pub struct Wishes {
    /// The user name, so that it need not be asked for; it chooses the password among an account's ways.
    pub username: Option<String>,
    /// Whether a browser may be opened.
    pub browser: bool,
}

/// Why nobody is signed in now.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The question could not be put, or was not answered.
    #[error(transparent)]
    Unasked(#[from] Unasked),
    /// The account has no way that asks a person.
    #[error("{0}")]
    NoWay(&'static str),
    /// What was pasted is no code, or the server's refusal.
    #[error(transparent)]
    NotACode(#[from] NotACode),
    /// The token endpoint did not give tokens for the offer.
    #[error("{0}")]
    NotExchanged(String),
    /// The answer has no refresh token, and nothing else that lasts may be kept.
    #[error("the authorization server sent no refresh token")]
    NothingLasting,
}

impl SignInError {
    /// What can be done about it, where that is known.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            SignInError::Unasked(Unasked::NoTerminal(_)) => {
                Some("hand it in with --code, --password-stdin or --refresh-token-stdin")
            }
            SignInError::NothingLasting => {
                Some("ask for one with a scope (often \"offline_access\"), or set keep_password for the account")
            }
            SignInError::NoWay(_) => Some("use --refresh-token-stdin or --import"),
            SignInError::Unasked(_) | SignInError::NotACode(_) | SignInError::NotExchanged(_) => None,
        }
    }

    /// Whether the person is still there and another way may succeed.
    fn leaves_other_ways(&self) -> bool {
        match self {
            SignInError::Unasked(_) | SignInError::NoWay(_) => false,
            SignInError::NotACode(_) | SignInError::NotExchanged(_) | SignInError::NothingLasting => true,
        }
    }
}

/// Signs in with the person at the terminal. Where the account has several ways, they are offered in its order and one
/// is chosen; after one that did not succeed they are offered again, with the next one first in line.
///
/// # Errors
///
/// [`SignInError`] if there is no terminal, no way or no answer, or if the only way does not succeed.
pub async fn in_person<E: fmt::Display>(
    account: &Account,
    wishes: &Wishes,
    exchange: impl AsyncFn(&Grant) -> Result<Exchanged, E>,
) -> Result<NewCredential, SignInError> {
    let ways = ways(account, wishes)?;
    let mut terminal = Terminal::open()?;
    let mut suggested = 0;
    loop {
        let chosen = choose(account, &ways, suggested, &mut terminal)?;
        let outcome = match ask(account, ways[chosen], wishes, &mut terminal) {
            Ok(grant) => redeem(account, grant, async |grant: &Grant| exchange(grant).await).await,
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if ways.len() > 1 && error.leaves_other_ways() => {
                terminal.say(&format!("That did not work: {error}.\n\n"))?;
                suggested = (chosen + 1) % ways.len();
            }
            outcome => return outcome,
        }
    }
}

/// The account's ways that can be taken, each once and in its order. Pure.
fn ways(account: &Account, wishes: &Wishes) -> Result<Vec<SignInMethod>, SignInError> {
    if account.grant == GrantType::ClientCredentials {
        return Err(SignInError::NoWay("this account needs no sign-in: the client's own secret is its credential"));
    }
    let mut ways = Vec::new();
    for method in &account.sign_in.methods {
        let can_be_taken = match method {
            SignInMethod::Paste => wishes.username.is_none() && account.sign_in.login_page.is_some(),
            SignInMethod::Password => true,
        };
        if can_be_taken && !ways.contains(method) {
            ways.push(*method);
        }
    }
    match (ways.is_empty(), &wishes.username) {
        (false, _) => Ok(ways),
        (true, Some(_)) => Err(SignInError::NoWay("this account has no way to sign in that asks for a user name")),
        (true, None) => Err(SignInError::NoWay("this account has no way to sign in that asks a person")),
    }
}

/// Lets the person choose one of several ways, by its number or its name in the configuration; an empty line takes the
/// suggested one.
fn choose(
    account: &Account,
    ways: &[SignInMethod],
    suggested: usize,
    terminal: &mut Terminal,
) -> Result<usize, SignInError> {
    if ways.len() == 1 {
        return Ok(0);
    }
    let mut question = format!("Sign in to {} with\n", Titled(account));
    for (index, way) in ways.iter().enumerate() {
        question.push_str(&format!("  {}  {}\n", index + 1, in_words(*way)));
    }
    terminal.say(&question)?;
    loop {
        let answer = terminal.ask_line_or_none(&format!("Which one? [{}] ", suggested + 1))?;
        match answer.as_deref().map_or(Some(suggested), |answer| chosen(answer, ways)) {
            Some(chosen) => return Ok(chosen),
            None => terminal.say(&format!("Answer with a number from 1 to {}.\n", ways.len()))?,
        }
    }
}

fn chosen(answer: &str, ways: &[SignInMethod]) -> Option<usize> {
    let by_name = ways.iter().position(|way| name(*way).eq_ignore_ascii_case(answer));
    by_name.or_else(|| answer.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < ways.len()))
}

/// As in the configuration.
fn name(way: SignInMethod) -> &'static str {
    match way {
        SignInMethod::Paste => "paste",
        SignInMethod::Password => "password",
    }
}

fn in_words(way: SignInMethod) -> &'static str {
    match way {
        SignInMethod::Paste => "a one-time code, from a page in a browser",
        SignInMethod::Password => "user name and password",
    }
}

/// Asks the person for what one way needs.
fn ask(account: &Account, way: SignInMethod, wishes: &Wishes, terminal: &mut Terminal) -> Result<Grant, SignInError> {
    match way {
        SignInMethod::Paste => ask_for_code(account, wishes, terminal),
        SignInMethod::Password => {
            let username = match &wishes.username {
                Some(username) => username.clone(),
                None => ask_for_username(account, terminal)?,
            };
            let password = terminal.ask_hidden(&format!("Password of {username}: "))?;
            Ok(Grant::Password { username, password })
        }
    }
}

/// Asks for the user name alone: the password comes from elsewhere.
///
/// # Errors
///
/// [`SignInError::Unasked`] if there is no terminal or no answer.
pub fn ask_username(account: &Account) -> Result<String, SignInError> {
    ask_for_username(account, &mut Terminal::open()?)
}

fn ask_for_username(account: &Account, terminal: &mut Terminal) -> Result<String, SignInError> {
    Ok(terminal.ask_line(&format!("User name for {}: ", Titled(account)))?)
}

fn ask_for_code(account: &Account, wishes: &Wishes, terminal: &mut Terminal) -> Result<Grant, SignInError> {
    let Some(url) = login_url::login_url(account) else {
        return Err(SignInError::NoWay("this account has no login_page to open"));
    };
    terminal.say(&format!(
        "Sign in to {} in a browser, on this or any other machine:\n\n  {url}\n\n\
         Then paste the one-time code that it shows here, or the whole address that it ends on.\n\n",
        Titled(account)
    ))?;
    if wishes.browser && has_desktop(environment::is_set) {
        // an extra: the address is on the screen
        let _ = open::that_detached(&url);
    }
    let mut tries = 1;
    loop {
        match pasted::recognise(&terminal.ask_line("Code: ")?) {
            Ok(code) => return Ok(code_grant(account, code)),
            Err(refused @ NotACode::ServerSaid { .. }) => return Err(refused.into()),
            Err(other) if tries >= TRIES => return Err(other.into()),
            Err(other) => terminal.say(&format!("That is not it: {other}.\n"))?,
        }
        tries += 1;
    }
}

/// Whether a browser that is opened would show on the person's own screen, and not be lynx in this terminal.
fn has_desktop(is_set: impl Fn(&str) -> bool) -> bool {
    let remote = is_set("SSH_CONNECTION") || is_set("SSH_TTY");
    !remote && (cfg!(target_os = "macos") || is_set("WAYLAND_DISPLAY") || is_set("DISPLAY"))
}

/// Turns a grant into what is stored; codes and passwords go through `exchange`, which asks the token endpoint once.
///
/// # Errors
///
/// [`SignInError`] if `exchange` fails, or if its tokens hold nothing that lasts.
pub async fn redeem<E: fmt::Display>(
    account: &Account,
    grant: Grant,
    exchange: impl AsyncFnOnce(&Grant) -> Result<Exchanged, E>,
) -> Result<NewCredential, SignInError> {
    if let Grant::RefreshToken(token) = grant {
        return Ok(NewCredential {
            credential: Credential { refresh_token: Some(token), password: None },
            client_id: None,
            refresh_lifetime: None,
            identity: None,
            servers: Some(Servers::of(account)),
        });
    }
    let exchanged = exchange(&grant).await.map_err(|error| SignInError::NotExchanged(error.to_string()))?;
    match grant {
        Grant::Password { username, password } => {
            let identity = exchanged.identity.or_else(|| Some(username.clone()));
            let password = account.sign_in.keep_password.then_some((username, password));
            kept(account, Exchanged { identity, ..exchanged }, password)
        }
        Grant::AuthorizationCode { .. } | Grant::RefreshToken(_) | Grant::ClientCredentials => {
            kept(account, exchanged, None)
        }
    }
}

/// The grant of a one-time code.
pub fn code_grant(account: &Account, code: Secret) -> Grant {
    Grant::AuthorizationCode { code, redirect_uri: account.sign_in.redirect_uri.clone() }
}

fn kept(
    account: &Account,
    exchanged: Exchanged,
    password: Option<(String, Secret)>,
) -> Result<NewCredential, SignInError> {
    let Exchanged { tokens, identity } = exchanged;
    let refresh_token = tokens.refresh_token.filter(|token| !token.is_empty());
    if refresh_token.is_none() && password.is_none() {
        return Err(SignInError::NothingLasting);
    }
    Ok(NewCredential {
        credential: Credential { refresh_token, password },
        client_id: None,
        refresh_lifetime: tokens.refresh_lifetime.map(|life| life.as_secs()),
        identity,
        servers: Some(Servers::of(account)),
    })
}

/// Reads a secret from standard input or a file like it: everything up to the end, without the line end that `echo`
/// and editors add. Blanks inside and around a password belong to it.
///
/// # Errors
///
/// If reading fails, or if it is empty, too long or not UTF-8.
pub fn read_secret(input: impl io::Read) -> io::Result<Secret> {
    /// More than any token or password; less than what somebody pipes in by mistake.
    const LONGEST: u64 = 32 * 1024;
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    io::Read::read_to_end(&mut io::Read::take(input, LONGEST + 1), &mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(invalid("it is longer than 32 KiB"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| invalid("it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(invalid("it is empty"));
    }
    Ok(Secret::new(text))
}

/// An account as a person knows it: its name, and what it is.
struct Titled<'a>(&'a Account);

impl fmt::Display for Titled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.description {
            Some(description) => write!(f, "{} ({description})", self.0.id),
            None => self.0.id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{AccountId, Endpoint, HeaderTemplate, Origin, SignIn, TokenKind};
    use crate::oauth::{ClientAuth, Dialect};
    use crate::renewal::Policy;

    #[tokio::test]
    async fn a_code_is_exchanged_with_the_registered_redirect_uri() {
        let account = account();
        let new = redeem(&account, code_grant(&account, Secret::new("c")), async |grant: &Grant| {
            let Grant::AuthorizationCode { code, redirect_uri } = grant else { panic!("{grant:?}") };
            assert_eq!((code.expose(), redirect_uri.as_deref()), ("c", Some("https://www.example/validate.html")));
            Ok::<_, String>(exchanged(Some("r"), Some("me@example.com")))
        });
        let new = new.await.unwrap();
        assert_eq!(new.credential.refresh_token, Some(Secret::new("r")));
        assert_eq!((new.refresh_lifetime, new.identity.as_deref()), (Some(86_400), Some("me@example.com")));
    }

    #[tokio::test]
    async fn a_password_is_kept_only_where_the_account_says_so() {
        let mut account = account();
        let grant = Grant::Password { username: "me".to_owned(), password: Secret::new("p") };
        let answer = async |_: &Grant| Ok::<_, String>(exchanged(Some("r"), None));
        let new = redeem(&account, grant.clone(), answer).await.unwrap();
        assert_eq!((new.credential.password, new.identity.as_deref()), (None, Some("me")));
        account.sign_in.keep_password = true;
        let answer = async |_: &Grant| Ok::<_, String>(exchanged(None, None));
        let new = redeem(&account, grant, answer).await.unwrap();
        assert_eq!(new.credential.password, Some(("me".to_owned(), Secret::new("p"))));
    }

    #[tokio::test]
    async fn tokens_that_do_not_last_are_no_sign_in() {
        let answer = async |_: &Grant| Ok::<_, String>(exchanged(None, None));
        let error = redeem(&account(), code_grant(&account(), Secret::new("c")), answer).await.unwrap_err();
        assert!(matches!(error, SignInError::NothingLasting) && error.remedy().unwrap().contains("offline_access"));
    }

    #[tokio::test]
    async fn a_refresh_token_is_taken_without_asking_anybody() {
        let nobody = async |_: &Grant| -> Result<Exchanged, String> { panic!("nothing is to be exchanged") };
        let new = redeem(&account(), Grant::RefreshToken(Secret::new("r")), nobody).await.unwrap();
        assert_eq!(new.credential.refresh_token, Some(Secret::new("r")));
    }

    #[tokio::test]
    async fn the_servers_refusal_is_passed_on_in_its_words() {
        let refused = async |_: &Grant| Err::<Exchanged, _>("invalid_grant: the code was used before");
        let error = redeem(&account(), code_grant(&account(), Secret::new("c")), refused).await.unwrap_err();
        assert_eq!(error.to_string(), "invalid_grant: the code was used before");
    }

    #[test]
    fn an_account_without_a_way_says_so_before_any_question() {
        let mut account = account();
        account.sign_in.methods.clear();
        let error = ways(&account, &Wishes::default()).unwrap_err();
        assert!(matches!(error, SignInError::NoWay(_)) && error.remedy().is_some());
        account.grant = GrantType::ClientCredentials;
        assert!(ways(&account, &Wishes::default()).unwrap_err().to_string().contains("needs no sign-in"));
    }

    #[test]
    fn the_ways_are_the_accounts_in_its_order_each_once_and_a_user_name_chooses_the_password() {
        use SignInMethod::{Password, Paste};
        let named = Wishes { username: Some("me".to_owned()), ..Wishes::default() };
        type Row<'a> = (&'a str, &'a [SignInMethod], &'a Wishes, Option<&'a [SignInMethod]>);
        let unnamed = Wishes::default();
        let rows: [Row<'_>; 7] = [
            ("one", &[Paste], &unnamed, Some(&[Paste])),
            ("two", &[Paste, Password], &unnamed, Some(&[Paste, Password])),
            ("the other way round", &[Password, Paste], &unnamed, Some(&[Password, Paste])),
            ("said twice", &[Password, Paste, Password], &unnamed, Some(&[Password, Paste])),
            ("a user name", &[Paste, Password], &named, Some(&[Password])),
            ("a user name for nothing", &[Paste], &named, None),
            ("none", &[], &unnamed, None),
        ];
        for (case, methods, wishes, expected) in rows {
            let mut account = account();
            account.sign_in.methods = methods.to_vec();
            assert_eq!(ways(&account, wishes).ok().as_deref(), expected, "{case}");
        }
        let mut account = account();
        account.sign_in.methods = vec![Paste, Password];
        account.sign_in.login_page = None;
        assert_eq!(ways(&account, &Wishes::default()).unwrap(), [Password], "there is no page to open");
    }

    #[test]
    fn a_way_is_chosen_by_its_number_or_its_name() {
        let ways = [SignInMethod::Paste, SignInMethod::Password];
        let rows =
            [("1", Some(0)), ("2", Some(1)), ("Password", Some(1)), ("paste", Some(0)), ("0", None), ("3", None)];
        for (answer, expected) in rows.into_iter().chain([("-1", None), ("code", None), ("hunter2", None)]) {
            assert_eq!(chosen(answer, &ways), expected, "{answer}");
        }
    }

    #[test]
    fn a_secret_on_standard_input_loses_its_line_end_and_nothing_else() {
        let table = [
            ("echo", "hunter2\n", "hunter2"),
            ("printf", "hunter2", "hunter2"),
            ("from Windows", "hunter2\r\n", "hunter2"),
            ("blanks", " hunter 2 \n", " hunter 2 "),
            ("a line end of its own", "hunter2\n\n", "hunter2\n"),
        ];
        for (case, input, expected) in table {
            assert_eq!(read_secret(input.as_bytes()).unwrap().expose(), expected, "{case}");
        }
        let long = "x".repeat(40_000);
        for (case, input) in
            [("nothing", b"".as_slice()), ("a line", b"\n"), ("no text", b"\xff"), ("long", long.as_bytes())]
        {
            assert!(read_secret(input).is_err(), "{case}");
        }
    }

    #[test]
    fn a_browser_is_opened_only_on_a_desktop_of_this_machine() {
        let with = |set: &[&str]| has_desktop(|name| set.contains(&name));
        assert!(with(&["DISPLAY"]) && with(&["WAYLAND_DISPLAY"]));
        assert!(!with(&["DISPLAY", "SSH_CONNECTION"]));
        assert_eq!(with(&[]), cfg!(target_os = "macos"));
    }

    fn exchanged(refresh_token: Option<&str>, identity: Option<&str>) -> Exchanged {
        let tokens = Tokens {
            access_token: Some(Secret::new("a")),
            refresh_token: refresh_token.map(Secret::new),
            refresh_lifetime: Some(Duration::from_secs(86_400)),
            ..Tokens::default()
        };
        Exchanged { tokens, identity: identity.map(str::to_owned) }
    }

    pub(crate) fn account() -> Account {
        let origin = Origin { tls: true, host: "auth.example".to_owned(), port: 443 };
        Account {
            id: AccountId::new("gdh").unwrap(),
            provider: None,
            description: Some("GeoDataHub".to_owned()),
            grant: GrantType::RefreshToken,
            dialect: Dialect::Rfc6749,
            token_endpoint: Endpoint { origin, path_and_query: "/oauth2/token".to_owned() },
            cognito_endpoint: None,
            revocation_endpoint: None,
            client_id: Some("client".to_owned()),
            client_auth: ClientAuth::None,
            client_secret: None,
            scopes: Vec::new(),
            parameters: Vec::new(),
            header: HeaderTemplate {
                name: "authorization".to_owned(),
                before: "Bearer ".to_owned(),
                token: TokenKind::AccessToken,
                after: String::new(),
            },
            renew: Policy::default(),
            sign_in: SignIn {
                methods: vec![SignInMethod::Paste],
                login_page: Some("https://auth.example/login".to_owned()),
                redirect_uri: Some("https://www.example/validate.html".to_owned()),
                keep_password: false,
                import: Vec::new(),
            },
            extra_ca: None,
        }
    }
}
