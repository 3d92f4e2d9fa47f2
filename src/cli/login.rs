//! `valetd login`

use std::io::{self, IsTerminal};
use std::thread::sleep;
use std::time::Duration;

use super::arguments::parse_account;
use super::config_edit::{self, Setting};
use super::config_file;
use super::configuration::{
    Loaded, STORE_PATIENCE, STORE_PATIENCE_AT_THE_END, account_of, is_enough, load_config, places, when_free,
};
use super::discovered;
use super::failure::{Exit, Failure};
use super::holder::listens_elsewhere;
use super::manager::start_command;
use super::opening::{ask_passphrase, of_store, takes_passphrase, unlocked};
use super::options::Options;
use super::output::{print, remark};
use super::refresh::{self, Outcome};
use super::registered::Registry;
use super::runtime::block_on;
use super::text::{length, parse_term, printable};
use crate::accounts::NewCredential;
use crate::advice::advised;
use crate::config::{Account, AccountId, Config, SignInMethod};
use crate::control::client::{Client, ClientError};
use crate::control::problem::{Problem, kind};
use crate::control::report::{AccountReport, CredentialReport, State};
use crate::http_client::HttpClient;
use crate::oauth::{Grant, GrantType};
use crate::platform::paths::{Paths, READ_ONLY, is_read_only};
use crate::platform::termination::uninterrupted;
use crate::platform::{clock, environment};
use crate::secret::Secret;
use crate::sign_in::import::{Found, TakenOver};
use crate::sign_in::offline::{NotTaken, Taken};
use crate::sign_in::pending::{self, PendingSignIn};
use crate::sign_in::terminal::Unasked;
use crate::sign_in::{
    self, Ending, LastPage, SignInError, SignedIn, Wishes, exchange, handed_in, import, offline, password, paste,
    pasted,
};
use crate::store::{Store, Trial, Turn, open_store, open_store_with};
use crate::token_endpoint::TokenEndpoint;

/// Sign in to an account
#[derive(clap::Args, Debug)]
#[command(
    long_about = "\
Sign in to an account. Without an option, you are asked in the account's own
ways, in their order: a browser on this machine, a code that is entered on any
device, a page whose code or address is pasted, a user name and a password.
Where one is closed, the next is taken; --browser, --device, --paste, --code
and --username choose theirs. The result goes to the running daemon; if none
runs, it is saved for the next one.

Where there is no terminal (a script, ssh without -t), --device and --browser
show their address on standard error, and wait.

The address that a browser ends on can be pasted at any time while valetd
waits: over ssh, in a container or in WSL, where the browser does not reach it.

What is handed in is tried first, by one renewal: what is stored stays until
the new credential has worked. --untried believes it, where there is no network.

--for gives the sign-in an end: then no token of the account leaves any more,
what runs by it is cut, and the credential is revoked and forgotten, as by
'valetd logout'. A later 'valetd login' without --for lifts it.

Without a configuration, 'valetd login cdse' writes a first one for a provider
that valetd knows.",
    after_help = "\
Examples:
  valetd login cdse                     asks for user name and password
  valetd login gdh                      shows a page, asks for its code
  valetd login hub --device             shows a code to enter on a telephone
  valetd login gdh --for 8h             for a working day
  valetd login work --scope gist        asks for a further scope, too
  valetd login gdh --check              asks the provider who is signed in
  valetd login gdh --import             takes over ~/.gdh/authentication
  valetd login gdh --code 0f8fad5b-d9cb-469f-a165-70867728950e
  valetd login gbdx --username me --password-stdin < password
  valetd login lab --refresh-token-stdin < token

Environment variables read by --import: those that the account's provider
names, such as GDH_REFRESH_TOKEN. No secret is taken from the command line but
a one-time code, which is spent at once."
)]
pub(super) struct Arguments {
    /// The account
    #[arg(value_parser = parse_account)]
    account: AccountId,
    /// The one-time code, or the whole address that the browser ended on
    #[arg(long, value_name = "CODE", group = "way", conflicts_with = "username")]
    code: Option<String>,
    /// The user name, so that it is not asked for
    #[arg(long, value_name = "NAME", conflicts_with_all = ["refresh_token_stdin", "import"])]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, group = "way")]
    password_stdin: bool,
    /// A one-time password that goes with the password, where the account has password_otp
    #[arg(long, value_name = "CODE", requires = "password_stdin")]
    otp: Option<String>,
    /// Read a refresh token from standard input
    #[arg(long, group = "way")]
    refresh_token_stdin: bool,
    /// Take over what another tool has left on this machine
    #[arg(long, group = "way")]
    import: bool,
    /// Believe the refresh token, without a renewal that tries it: it takes the place of what is stored
    #[arg(long, requires = "way", conflicts_with_all = ["code", "password_stdin"])]
    untried: bool,
    /// How long the sign-in is good for: 30m, 8h, 7d
    #[arg(long = "for", value_name = "TIME", value_parser = parse_term)]
    term: Option<Duration>,
    /// Sign in with a browser on this machine
    #[arg(long, group = "way", conflicts_with = "username")]
    browser: bool,
    /// Sign in with a code that is entered on any device
    #[arg(long, group = "way", conflicts_with = "username")]
    device: bool,
    /// Sign in with a code, or an address, that is pasted
    #[arg(long, group = "way", conflicts_with = "username")]
    paste: bool,
    /// Have the daemon ask the provider who is signed in, and change nothing
    #[arg(long, conflicts_with_all = ["way", "username", "term", "untried", "switch_user"])]
    check: bool,
    /// Let another person take the place of the one who is signed in
    #[arg(long)]
    switch_user: bool,
    /// Further scopes to ask for this time, as in "repo read:org"
    #[arg(long, value_name = "SCOPES", conflicts_with_all = ["refresh_token_stdin", "import", "check"])]
    scope: Option<String>,
    /// Print the page's address only
    #[arg(long, conflicts_with = "browser")]
    no_browser: bool,
    /// Draw the device's address as a QR code, whatever the terminal is
    #[arg(long, overrides_with = "no_qr")]
    qr: bool,
    /// Draw no QR code
    #[arg(long)]
    no_qr: bool,
}

impl Arguments {
    /// The one way to ask a person that the options choose, if they do.
    fn way(&self) -> Option<SignInMethod> {
        match (self.browser, self.device, self.paste) {
            (true, ..) => Some(SignInMethod::Browser),
            (_, true, _) => Some(SignInMethod::Device),
            (.., true) => Some(SignInMethod::Paste),
            _ => None,
        }
    }

    /// Those of `valetd login NAME`.
    pub(super) fn of(account: AccountId) -> Self {
        Self {
            account,
            code: None,
            username: None,
            password_stdin: false,
            otp: None,
            refresh_token_stdin: false,
            import: false,
            untried: false,
            term: None,
            browser: false,
            device: false,
            paste: false,
            check: false,
            switch_user: false,
            scope: None,
            no_browser: false,
            qr: false,
            no_qr: false,
        }
    }
}

/// How long the first renewal may take until we leave it to the daemon.
const FIRST_RENEWAL: Duration = Duration::from_secs(20);

/// Before what was brought is handed over once more: a daemon that ends is gone soon, and one that is started takes longer.
const AGAIN: Duration = Duration::from_millis(200);

/// What can be done about a credential that could not be tried.
const UNTRIED: &str = "what is stored stays; try again, or add --untried to believe it as it is";

/// Said where the place of a sign-in is taken of which nobody knows whose it was.
const WAS_NOBODYS: &str = "whose the sign-in before this one was is not known, so nobody could be kept out";

/// What can be done where another person has signed in.
const ANOTHER_PERSON: &str = "add --switch-user, if that is meant; who signs in at the server is for its page to say";

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let id = arguments.account.clone();
    if arguments.check {
        return check(options, &id).map_err(|failure| failure.while_doing(format!("asking who is signed in to {id}")));
    }
    let doing = format!("signing in to {id}");
    sign_in(options, arguments).map_err(|failure| failure.while_doing(doing))
}

/// Has the daemon ask, which has the access token.
fn check(options: &Options, id: &AccountId) -> Result<Exit, Failure> {
    let places = places(options)?;
    let asked = block_on(async { Client::connect(&places.socket).await?.who_is(id.as_str()).await })?;
    let words = match asked {
        Err(error @ ClientError::NotRunning(_)) => return Err(unchecked(options, &places, id, error)),
        asked => asked.map_err(|error| Failure::of_call(error, options))?,
    };
    print(&format!("{id}: {}\n", printable(&words)))?;
    Ok(Exit::Fine)
}

/// What is said where no daemon could ask: what is known here of who has signed in, and what to start. A renewal here, for an
/// access token to ask with, could spend the refresh token, and the promise is to change nothing.
fn unchecked(options: &Options, places: &Paths, id: &AccountId, error: ClientError) -> Failure {
    let failure = Failure::of_call(error, options);
    let Ok(Loaded { config, .. }) = load_config(places) else { return failure };
    if let Err(unknown) = account_of(&config, id) {
        return unknown;
    }
    // a store that cannot be read says so where it is used
    let Some(Ok(record)) = open_store(places, &config).ok().map(|store| store.load(id)) else { return failure };
    let login = advised(format_args!("login {id}"));
    let Some(record) = record else {
        return Failure::say("nobody is signed in").with_remedy(login).with_exit(Exit::SignInRequired);
    };
    let who = match (&record.identity, &record.person) {
        (Some(name), _) => printable(name),
        (None, Some(person)) => printable(&person.subject),
        (None, None) => "somebody who is not known".to_owned(),
    };
    let start = failure.remedy.clone().unwrap_or_default();
    let failure = failure.while_doing(format!("{who} has signed in; what the provider says now, a daemon has to ask"));
    failure.with_remedy(format!("{start}; then: {login} --check"))
}

fn sign_in(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let places = places(options)?;
    let id = arguments.account.clone();
    let is_new = make_config_if_missing(&places, &id)?;
    let Loaded { config, warnings: _ } = load_config(&places).map_err(|problems| {
        let file = places.config_file.display();
        Failure::say(format!("{file} cannot be used")).with_problems(problems).with_remedy("correct it and try again")
    })?;
    let account = account_of(&config, &id)?;
    if arguments.term.is_some() && !account.grant.needs_sign_in() {
        let words = "it needs no sign-in, so there is none that could end";
        return Err(Failure::say(words).with_remedy("leave out --for").with_exit(Exit::Usage));
    }
    if account.grant == GrantType::Issued {
        let words = "it needs no sign-in: its token comes from where `token` says";
        return Err(
            Failure::say(words).with_remedy(format!("'{}' takes it anew", advised(format_args!("refresh {id}"))))
        );
    }
    // before somebody signs in for nothing
    let mut passphrase = None;
    match block_on(async { Client::connect(&places.socket).await?.status().await })? {
        Err(error @ ClientError::Foreign { .. }) => return Err(Failure::of_call(error, options)),
        Err(error @ ClientError::NotRunning(_)) if listens_elsewhere(&places.state_dir, &places.socket).is_some() => {
            return Err(Failure::of_call(error, options));
        }
        Err(ClientError::NotRunning(_)) => {
            passphrase = takes_passphrase(&places).then(ask_passphrase).transpose()?;
            could_be_saved(&places, &config, passphrase.clone())?;
        }
        Ok(status) => {
            if let Some(why) = status.daemon.store.locked {
                let failure = Failure::say(format!("the store is locked, and nothing is saved in the clear: {why}"));
                return Err(failure.with_exit(Exit::Locked).with_remedy(advised("unlock")));
            }
        }
        Err(_) => {} // what is wrong will be said where it matters
    }
    let (config, found) = discovered::look(options, &places, config, passphrase.as_ref(), &id)?;
    let account = account_of(&config, &id)?;
    let registry = Registry { options, places: &places, config: &config, passphrase: passphrase.as_ref() };
    let asked_for = arguments.scope.as_deref().map(|scopes| with_scopes(account, scopes));
    let account = asked_for.as_ref().unwrap_or(account);
    let (untried, term, switch_user) = (arguments.untried, arguments.term, arguments.switch_user);
    let meant = |mut new: NewCredential| {
        new.term = term.map(|term| term.as_secs());
        new.switches_user = switch_user;
        new
    };
    let Obtained { new, turn, page, otherwise } = obtain(account, registry, arguments)?;
    let mut new = meant(new);
    if untried {
        new.trial = Trial::Skipped;
    }
    new.sign_in = turn.as_ref().and_then(Turn::id).map(str::to_owned);
    let who = new.identity.clone();
    let mut delivery = Delivery {
        options,
        places: &places,
        config: &config,
        account,
        turn,
        must_reload: is_new || found.is_news(),
        passphrase: passphrase.as_ref(),
        browser: Browser(page),
        is_kept: false,
    };
    let delivered = match delivery.is_wanted(&new).and_then(|()| found.keep(&places)) {
        Ok(()) => {
            let delivered = match otherwise {
                None => delivery.deliver(new).map_err(|undelivered| undelivered.failure),
                Some(password) => delivery.deliver_either(new, password, meant, registry),
            };
            if !delivery.is_kept {
                found.take_back(&places);
            }
            delivered
        }
        Err(failure) => Err(failure),
    };
    let ending = match &delivered {
        Ok(_) => Ending::SignedIn { who },
        Err(failure) => Ending::Failed(failure.sentence()),
    };
    block_on(delivery.browser.tell(ending))?;
    delivered
}

/// The account as it is for one sign-in that asks for further scopes: what is granted stays with the refresh token.
fn with_scopes(account: &Account, further: &str) -> Account {
    let mut asked_for = account.clone();
    for scope in further.split_whitespace() {
        if !asked_for.scopes.iter().any(|there| there == scope) {
            asked_for.scopes.push(scope.to_owned());
        }
    }
    asked_for
}

/// Whether there is a place for the credential, where no daemon has one.
fn could_be_saved(places: &Paths, config: &Config, passphrase: Option<Secret>) -> Result<(), Failure> {
    let folder = &places.state_dir;
    let opened = when_free(STORE_PATIENCE, || Ok(open_store_with(places, config, passphrase.clone())))?;
    let opened = opened.map_err(of_store).and_then(unlocked);
    let opened = opened.and_then(|_| match is_read_only(folder) {
        true => Err(Failure::say(format!("nothing can be written to {}{READ_ONLY}", folder.display()))),
        false => Ok(()),
    });
    opened.map_err(|failure| failure.while_doing("looking where the credential is to be saved"))
}

/// A failed sign-in in words. A registered client that the server does not know any more is no use: another one is registered
/// for the next sign-in. As long as a credential is kept that was issued to it, it stays: one refusal may be a server's bad
/// minute.
fn not_signed_in(registry: Registry<'_>, account: &Account, error: SignInError) -> Failure {
    let is_forgotten = account.registers && error.refuses_the_client();
    let failure = failure_of(error, account);
    if !is_forgotten {
        return failure;
    }
    let id = &account.id;
    if registry.places.state_dir.join(format!("{id}.json")).exists() {
        let logout = advised(format_args!("logout {id}"));
        let remedy = format!("if the server goes on to refuse this client: {logout}, then sign in again");
        return failure.with_remedy(remedy);
    }
    failure.with_remedy(match registry.register(account) {
        Ok(Ok(_)) => {
            "the server has forgotten this client, and another one is registered now: sign in again".to_owned()
        }
        Ok(Err(why)) => format!("the server has forgotten this client, and registers no other: {why}"),
        Err(_) => "the server has forgotten this client".to_owned(),
    })
}

/// What was brought after somebody has signed out, or has removed the account, is told to the server, and kept nowhere.
fn signed_out_meanwhile(account: &Account, new: &NewCredential) -> Failure {
    let words =
        "somebody has signed out, or has removed the account, since this sign-in was begun: nothing is kept of it";
    let failure = Failure::say(words).with_remedy("sign in again, if that was not meant");
    let Some(refresh_token) = &new.credential.refresh_token else { return failure };
    let endpoint = TokenEndpoint::new(HttpClient::from_environment());
    let revoked = block_on(endpoint.revoke_in_words(account, refresh_token));
    failure
        .with_problems(revoked.into_iter().map(|words| format!("the refresh token that it brought: {words}")).collect())
}

/// Says which scopes were not granted: what needs them will be refused, by the API and much later.
fn tell_missing_scopes(account: &Account, new: &NewCredential) {
    if !new.missing_scopes.is_empty() {
        let scopes = printable(&new.missing_scopes.join(", "));
        remark(&format!("{}: asked for, and not granted: {scopes}", account.id));
    }
}

/// Writes a first configuration if there is none and the account is that of a known provider. Returns whether it did.
fn make_config_if_missing(places: &Paths, id: &AccountId) -> Result<bool, Failure> {
    let file = &places.config_file;
    if file.exists() || !is_enough(id) {
        return Ok(false);
    }
    remark(&format!("There is no configuration yet: writing {} with the account {id}.", file.display()));
    let head = format!("# valetd's configuration; '{}' checks it\n", advised("check"));
    let settings = [("provider", Setting::Text(id.to_string()))];
    config_file::edit(places, &uninterrupted(), |text| {
        let added = config_edit::with_account(if text.is_empty() { &head } else { text }, id.as_str(), &settings, &[]);
        added.map_err(|why| Failure::say(format!("{} {why}", file.display())))
    })?;
    Ok(true)
}

/// What a sign-in has brought, and that sign-in itself, with its page in a browser, if a person was asked.
struct Obtained {
    new: NewCredential,
    turn: Option<Turn>,
    page: Option<LastPage>,
    /// The password beside it, which is redeemed where it is not taken.
    otherwise: Option<Grant>,
}

impl From<NewCredential> for Obtained {
    fn from(new: NewCredential) -> Self {
        Self { new, turn: None, page: None, otherwise: None }
    }
}

/// From what the command line says, or the person answers, to what is stored.
fn obtain(account: &Account, registry: Registry<'_>, arguments: Arguments) -> Result<Obtained, Failure> {
    let places = registry.places;
    let failed = |error| not_signed_in(registry, account, error);
    if arguments.import {
        let taken = import::take_over(account, environment::text, remark);
        let remedy = "to sign in by yourself leave out --import; to hand in a refresh token: --refresh-token-stdin";
        let taken = taken.map_err(|error| Failure::say(error).while_doing("importing").with_remedy(remedy))?;
        let TakenOver { found, from, password } = taken;
        remark(&format!("{}: taken over from {from}", account.id));
        return match found {
            Found::Credential(new) => match password {
                Some((username, password)) if !arguments.untried => {
                    let password = Grant::Password { username, password, otp: None };
                    Ok(Obtained { otherwise: Some(password), ..Obtained::from(*new) })
                }
                Some(_) | None => Ok((*new).into()),
            },
            Found::Password { .. } if arguments.untried => {
                let words = "there is no refresh token, and user name and password bring one only where they are tried";
                Err(Failure::say(words).with_remedy("leave out --untried").while_doing("importing"))
            }
            Found::Password { username, password } => {
                let endpoint = TokenEndpoint::new(HttpClient::from_environment());
                let grant = Grant::Password { username, password, otp: None };
                block_on(exchange::redeem(account, &endpoint, grant))?.map(Obtained::from).map_err(failed)
            }
        };
    }
    if arguments.refresh_token_stdin {
        let token = secret_on_stdin("the refresh token")?;
        let token = handed_in::clean(token.expose());
        let token = token.map_err(|unclear| Failure::new(unclear).while_doing("reading the refresh token"))?;
        return Ok(handed_in::refresh_token(account, token).into());
    }
    let endpoint = TokenEndpoint::new(HttpClient::from_environment());
    match grant(account, places, &arguments)? {
        Some((grant, nonce)) => {
            let redeemed = block_on(exchange::redeem_begun(account, &endpoint, grant, nonce))?;
            if arguments.code.is_some() {
                PendingSignIn::forget(&places.state_dir, &account.id); // a code is good once, whatever became of it
            }
            redeemed.map(Obtained::from).map_err(failed)
        }
        None => {
            let wishes = Wishes {
                way: arguments.way(),
                switch_user: arguments.switch_user,
                qr: (arguments.qr || arguments.no_qr).then_some(arguments.qr),
                username: arguments.username,
                browser: !arguments.no_browser,
                state_dir: Some(places.state_dir.clone()),
            };
            let turn = sign_in::take_turn(account, &places.state_dir).map_err(failed)?;
            let SignedIn { new, page } = block_on(sign_in::in_person(account, &wishes, &endpoint))?.map_err(failed)?;
            Ok(Obtained { new, turn, page, otherwise: None })
        }
    }
}

/// The grant that the options bring, with the `nonce` of the request that it comes of; `None` if the person is to be asked.
fn grant(account: &Account, places: &Paths, arguments: &Arguments) -> Result<Option<(Grant, Option<String>)>, Failure> {
    let Arguments {
        account: _,
        code,
        username,
        password_stdin,
        otp,
        refresh_token_stdin: _,
        import: _,
        untried: _,
        term: _,
        scope: _,
        browser: _,
        device: _,
        paste: _,
        no_browser: _,
        check: _,
        switch_user: _,
        qr: _,
        no_qr: _,
    } = arguments;
    if let Some(code) = code {
        let pasted = pasted::recognise(code).map_err(|error| failure_of(error.into(), account))?;
        let pending = PendingSignIn::load(&places.state_dir, &account.id);
        let checked = match &pending {
            Some(pending) => pending.check(account, &pasted),
            None => {
                let id = &account.id;
                remark(&format!(
                    "{id}: no sign-in was begun here in the last 10 minutes, so nothing could be checked: take no code \
                     from others (`{}` begins one)",
                    advised(format_args!("login {id}"))
                ));
                pending::check_issuer(account, pasted.issuer.as_deref())
            }
        };
        checked.map_err(|error| failure_of(error.into(), account))?;
        let nonce = pending.as_ref().and_then(|pending| pending.nonce(account));
        return Ok(Some((paste::grant(account, pasted.code, pending), nonce)));
    }
    if *password_stdin {
        let password = secret_on_stdin("the password")?;
        let username = match username {
            Some(username) => username.clone(),
            None => password::ask_username(account).map_err(|error| failure_of(error, account))?,
        };
        let otp = match (otp, &account.sign_in.password_otp) {
            (Some(code), Some(name)) => Some((name.clone(), Secret::new(code.as_str()))),
            (Some(_), None) => {
                let failure = Failure::say("the account has no password_otp, which would say how --otp is sent");
                return Err(failure.with_remedy("say password_otp = \"totp\" (Keycloak's), or leave out --otp"));
            }
            (None, _) => None,
        };
        return Ok(Some((Grant::Password { username, password, otp }, None)));
    }
    Ok(None)
}

fn secret_on_stdin(what: &str) -> Result<Secret, Failure> {
    let doing = format!("reading {what} from standard input");
    let stdin = io::stdin();
    if stdin.is_terminal() {
        // what is typed there would show
        let failure = Failure::say("it is a terminal").with_remedy("send it through a pipe or from a file");
        return Err(failure.while_doing(doing).with_exit(Exit::Usage));
    }
    handed_in::read_secret(stdin.lock()).map_err(|error| Failure::new(error).while_doing(doing))
}

fn failure_of(error: SignInError, account: &Account) -> Failure {
    let remedy = sign_in::remedy(&error, account);
    let exit = match &error {
        SignInError::Unasked(Unasked::Interrupted) => Exit::Interrupted,
        SignInError::Unasked(_) | SignInError::NoWay(_) | SignInError::NotACode(_) => Exit::Failed,
        SignInError::NotExchanged(_) | SignInError::ClientRefused(_) => Exit::Failed,
        SignInError::Unreached(_) | SignInError::NotHere(_) => Exit::Failed,
        SignInError::WrongPassword(_) | SignInError::NotNow { .. } => Exit::Failed,
        SignInError::NothingLasting(_) | SignInError::UnderWay(_) => Exit::Failed,
        // nobody has signed in, and somebody still must
        SignInError::Denied(_) | SignInError::TooLate => Exit::SignInRequired,
    };
    let failure = Failure::new(error).with_exit(exit);
    match remedy {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

/// The browser in which somebody has signed in, if there is one: its page waits for the outcome.
struct Browser(Option<LastPage>);

impl Browser {
    /// Tells it how it ended, once: the first word is the last.
    async fn tell(&mut self, ending: Ending) {
        if let Some(page) = self.0.take() {
            page.conclude(ending).await;
        }
    }
}

/// A credential that was not taken.
struct Undelivered {
    failure: Failure,
    /// Whether another one for the same person may be taken: nobody has said more than that this one does not work.
    may_have_another: bool,
}

impl From<Failure> for Undelivered {
    fn from(failure: Failure) -> Self {
        Self { failure, may_have_another: false }
    }
}

impl Undelivered {
    fn not_working(failure: Failure) -> Self {
        Self { failure, may_have_another: true }
    }
}

/// Where a credential goes that a sign-in has brought.
struct Delivery<'a> {
    options: &'a Options,
    places: &'a Paths,
    config: &'a Config,
    account: &'a Account,
    turn: Option<Turn>,
    /// Whether a running daemon must read its configuration first.
    must_reload: bool,
    passphrase: Option<&'a Secret>,
    browser: Browser,
    /// Whether a credential is kept now that was delivered, whatever becomes of its first renewal.
    is_kept: bool,
}

impl Delivery<'_> {
    /// Says what the person should know of it, unless nobody wants it any more.
    fn is_wanted(&self, new: &NewCredential) -> Result<(), Failure> {
        if self.turn.as_ref().is_some_and(Turn::is_void) {
            return Err(signed_out_meanwhile(self.account, new));
        }
        tell_missing_scopes(self.account, new);
        if let Some(why) = &new.unnamed {
            remark(&format!("{}: who signed in could not be learnt yet: {}", self.account.id, printable(why)));
        }
        Ok(())
    }

    /// [`Delivery::deliver`], and where the credential is not taken for what it is, what a password beside it brings.
    fn deliver_either(
        &mut self,
        new: NewCredential,
        password: Grant,
        meant: impl Fn(NewCredential) -> NewCredential,
        registry: Registry<'_>,
    ) -> Result<Exit, Failure> {
        let unproven = NewCredential { trial: Trial::Required, ..new.clone() };
        let failure = match self.deliver(NewCredential { trial: Trial::Proven, ..new }) {
            Err(Undelivered { failure, may_have_another: true }) => failure,
            delivered => return delivered.map_err(|undelivered| undelivered.failure),
        };
        let words = "is not taken, so user name and password beside it are tried";
        let why = failure.problems_or_itself().join("; ");
        remark(&format!("{}: the refresh token {words}: {why}", self.account.id));
        let endpoint = TokenEndpoint::new(HttpClient::from_environment());
        let brought = match block_on(exchange::redeem(self.account, &endpoint, password))? {
            // nobody could be asked: it is as good as it was
            Err(SignInError::Unreached(_) | SignInError::NotNow { status: 300..400 | 429 | 500.., .. }) => unproven,
            Err(error) => return Err(not_signed_in(registry, self.account, error)),
            Ok(brought) => meant(brought),
        };
        self.deliver(brought).map_err(|undelivered| undelivered.failure)
    }

    /// Hands the credential to the running daemon, or saves it for the next one, and says how it went.
    fn deliver(&mut self, mut new: NewCredential) -> Result<Exit, Undelivered> {
        let Self { options, places, account, .. } = *self;
        let is_meant = new.switches_user;
        let term = new.term.map(|term| format!(" for {}", length(term))).unwrap_or_default();
        let id = &account.id;
        let begun = clock::instant();
        let mut is_again = false;
        let (handed_over, store) = loop {
            match self.hand_over_or_open(&new)? {
                (Err(error), _) if error.is_unanswered() && begun.elapsed() < STORE_PATIENCE_AT_THE_END => {
                    if !is_again {
                        remark(&format!("{id}: {}; trying again", Failure::of_call(error, options).sentence()));
                    }
                    is_again = true;
                    // it may be spent by now, and is no more believed than what is handed in
                    if new.trial == Trial::Preferred {
                        new.trial = Trial::Required;
                    }
                    sleep(AGAIN);
                }
                other => break other,
            }
        };
        let who = new.identity.as_ref().map(|who| format!(" as {}", printable(who))).unwrap_or_default();
        match handed_over {
            Ok(HandedOver::Refused(problem, _)) if problem.is(kind::SIGNED_OUT) => {
                Err(signed_out_meanwhile(account, &new).into())
            }
            // by the daemon that took it before it ended
            Ok(HandedOver::Refused(problem, before)) if is_again && problem.is(kind::CREDENTIAL_SPENT) => {
                self.is_kept = true;
                let now = format!("{who}{term}");
                Ok(signed_in(id, &now, Outcome::Renewed, &before)?)
            }
            Ok(HandedOver::Refused(problem, before)) => {
                let state = before.state;
                let exit = if state == State::SignInRequired { Exit::SignInRequired } else { Exit::Failed };
                let failure = Failure::say(problem.detail).with_exit(exit).while_doing("trying the credential");
                Err(match () {
                    () if problem.kind.ends_with(kind::ANOTHER_PERSON) => failure.with_remedy(ANOTHER_PERSON).into(),
                    () if problem.kind.ends_with(kind::CREDENTIAL_UNTRIED) => {
                        Undelivered::not_working(failure.with_remedy(UNTRIED))
                    }
                    () if problem.kind.ends_with(kind::CREDENTIAL_SPENT) => {
                        Undelivered::not_working(failure.with_remedy(spent(id)))
                    }
                    () if problem.kind.ends_with(kind::CREDENTIAL_ELSEWHERE) => {
                        Undelivered::not_working(failure.with_remedy(elsewhere(id)))
                    }
                    () => Undelivered::not_working(failure), // the server's word
                })
            }
            Ok(HandedOver::Taken { before, identity }) => {
                self.is_kept = true;
                let ending = Ending::SignedIn { who: identity.or_else(|| new.identity.clone()) };
                let renewed = block_on(async {
                    // it is kept, whatever becomes of the first renewal
                    self.browser.tell(ending).await;
                    first_renewal(places, &before).await
                })?;
                if is_nobodys(&before, &new) && !is_meant {
                    remark(&format!("{id}: {WAS_NOBODYS}"));
                }
                match renewed {
                    Ok(Renewed { outcome, now }) => Ok(signed_in(id, &format!("{who}{term}"), outcome, &now)?),
                    // it is ending, or has ended: the next one renews it
                    Err(error) if error.is_unreachable() || error.is_unanswered() => {
                        Ok(saved(id, &format!("{who}{term}"), options)?)
                    }
                    Err(error) => Err(Failure::of_call(error, options).while_doing("getting the first token").into()),
                }
            }
            Err(ClientError::NotRunning(_)) => {
                let store = store.expect("it was opened, as no daemon runs");
                // nobody signs out from here on: that takes the store's lock, too
                if self.turn.as_ref().is_some_and(Turn::is_void) {
                    return Err(signed_out_meanwhile(account, &new).into());
                }
                let taken = taken_offline(&store, self.config, account, new, is_again)?;
                let Taken { identity, untried, was_nobodys } = taken;
                self.is_kept = true;
                if was_nobodys && !is_meant {
                    remark(&format!("{id}: {WAS_NOBODYS}"));
                }
                if let Some(why) = untried {
                    remark(&format!("{id}: not tried yet: {}", printable(&why)));
                }
                let who = identity.map(|who| format!(" as {}", printable(&who))).unwrap_or_default();
                Ok(saved(id, &format!("{who}{term}"), options)?)
            }
            Err(error) => {
                Err(Failure::of_call(error, options).while_doing("handing the credential to the daemon").into())
            }
        }
    }

    /// Hands the credential to the running daemon; where none runs, opens the store for it.
    fn hand_over_or_open(
        &self,
        new: &NewCredential,
    ) -> Result<(Result<HandedOver, ClientError>, Option<Store>), Failure> {
        let Self { places, config, account, .. } = *self;
        let handed_over = when_free(STORE_PATIENCE_AT_THE_END, || {
            match block_on(hand_over(places, &account.id, new, self.must_reload))? {
                Err(error @ ClientError::NotRunning(_)) => {
                    let opened = open_store_with(places, config, self.passphrase.cloned());
                    Ok(opened.map(|store| (Err(error), Some(store))))
                }
                handed_over => Ok(Ok((handed_over, None))),
            }
        })?;
        handed_over.map_err(|error| of_store(error).while_doing("saving the credential"))
    }
}

/// Tries and saves a credential where no daemon runs.
///
/// `is_again`: a daemon that has ended since may have taken it.
fn taken_offline(
    store: &Store,
    config: &Config,
    account: &Account,
    new: NewCredential,
    is_again: bool,
) -> Result<Taken, Undelivered> {
    let endpoint = TokenEndpoint::new(HttpClient::from_environment());
    let trying = |error: NotTaken| Failure::new(error).while_doing("trying the credential");
    let identity = new.identity.clone();
    let taken = match block_on(offline::take(store, &endpoint, config, account, new))? {
        Err(NotTaken::Spent) if is_again => Ok(Taken { identity, untried: None, was_nobodys: false }),
        taken => taken,
    };
    taken.map_err(|error| match error {
        NotTaken::Store(error) => of_store(error).while_doing("saving the credential").into(),
        NotTaken::Refused(_) => Undelivered::not_working(trying(error).with_exit(Exit::SignInRequired)),
        NotTaken::Spent => Undelivered::not_working(trying(error).with_remedy(spent(&account.id))),
        NotTaken::Elsewhere(_) => Undelivered::not_working(trying(error).with_remedy(elsewhere(&account.id))),
        NotTaken::AnotherPerson(_) => Failure::new(error).with_remedy(ANOTHER_PERSON).into(),
        NotTaken::Untried(_) => Undelivered::not_working(trying(error).with_remedy(UNTRIED)),
    })
}

/// What helps where a refresh token is handed in a second time.
fn spent(id: &AccountId) -> String {
    let (login, logout) = (advised(format_args!("login {id}")), advised(format_args!("logout {id}")));
    format!(
        "if the sign-in that is kept does not work any more: {login}; to start from this token alone: {logout} first"
    )
}

/// What helps where a refresh token is handed in that is another account's.
fn elsewhere(id: &AccountId) -> String {
    format!("sign in to this one by itself: {}", advised(format_args!("login {id}")))
}

/// Says that a credential is saved, and that nobody renews it yet.
fn saved(id: &AccountId, who: &str, options: &Options) -> Result<Exit, Failure> {
    let start = start_command(options);
    print(&format!("{id}: signed in{who}; saved for when the daemon runs\n  {start}\n"))?;
    Ok(Exit::Fine)
}

/// Says how the first renewal went of a credential that the daemon has taken.
fn signed_in(id: &AccountId, who: &str, outcome: Outcome, now: &AccountReport) -> Result<Exit, Failure> {
    if let Outcome::Renewed = outcome {
        let life = now.seconds_left.map(|left| format!("; the token is usable for {}", length(left)));
        print(&format!("{id}: signed in{who}{}\n", life.unwrap_or_default()))?;
        return Ok(Exit::Fine);
    }
    remark(&format!("{id}: signed in{who}, and the credential is saved"));
    refresh::report(outcome, now).map_err(|failure| failure.while_doing("getting the first token"))
}

/// What the daemon has done with a credential.
enum HandedOver {
    /// It took it.
    Taken {
        /// The account as it was.
        before: Box<AccountReport>,
        /// Who is signed in now, as far as it knows.
        identity: Option<String>,
    },
    /// It kept what it had, for this reason, and the account is as it was.
    Refused(Box<Problem>, Box<AccountReport>),
}

/// How the first renewal went.
struct Renewed {
    outcome: Outcome,
    now: AccountReport,
}

/// What the daemon refuses without taking it.
const KEEPS_WHAT_IS_STORED: [&str; 6] = [
    kind::CREDENTIAL_ELSEWHERE,
    kind::CREDENTIAL_REFUSED,
    kind::CREDENTIAL_UNTRIED,
    kind::CREDENTIAL_SPENT,
    kind::ANOTHER_PERSON,
    kind::SIGNED_OUT,
];

/// Hands it over. A daemon that has not heard of the account yet reads its configuration again.
async fn hand_over(
    places: &Paths,
    id: &AccountId,
    new: &NewCredential,
    must_reload: bool,
) -> Result<HandedOver, ClientError> {
    let mut client = Client::connect(&places.socket).await?;
    if must_reload {
        client.reload().await?;
    }
    let before = match client.account(id.as_str()).await {
        Err(ClientError::Refused(problem)) if problem.is(kind::NO_SUCH_ACCOUNT) => {
            client.reload().await?;
            client.account(id.as_str()).await?
        }
        answer => answer?,
    };
    let before = Box::new(before);
    match client.set_credential(id.as_str(), new).await {
        Err(ClientError::Refused(problem)) if KEEPS_WHAT_IS_STORED.iter().any(|kind| problem.is(kind)) => {
            Ok(HandedOver::Refused(problem, before))
        }
        answer => {
            let identity = answer?.credential.and_then(|credential| credential.identity);
            Ok(HandedOver::Taken { before, identity })
        }
    }
}

/// Waits for the first renewal of a credential that was taken.
async fn first_renewal(places: &Paths, before: &AccountReport) -> Result<Renewed, ClientError> {
    let mut client = Client::connect(&places.socket).await?;
    let (outcome, now) = refresh::outcome(&mut client, before, FIRST_RENEWAL).await?;
    Ok(Renewed { outcome, now })
}

/// Whether the credential took the place of a sign-in of which nobody knew whose it was.
fn is_nobodys(before: &AccountReport, new: &NewCredential) -> bool {
    let is_kept = |was: &CredentialReport| {
        let token = new.credential.refresh_token.as_ref();
        token.is_some_and(|token| token.fingerprint() == was.fingerprint)
    };
    before.credential.as_ref().is_some_and(|was| was.subject.is_none() && !is_kept(was))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_first_configuration_is_written_once_and_for_us_alone() {
        let folder = tempfile::TempDir::new().unwrap();
        let config_file = folder.path().join("valetd").join("config.toml");
        let places = Paths {
            providers_dir: "/c/providers".into(),
            config_file,
            state_dir: "/s".into(),
            socket: "/s/v".into(),
            home: None,
            notes: Vec::new(),
        };
        let gbdx = AccountId::new("gbdx").unwrap();
        let lab = AccountId::new("lab").unwrap();
        assert!(!make_config_if_missing(&places, &lab).unwrap(), "nobody knows a provider lab");
        assert!(make_config_if_missing(&places, &gbdx).unwrap());
        let text = std::fs::read_to_string(&places.config_file).unwrap();
        assert!(text.ends_with("[account.gbdx]\nprovider = \"gbdx\"\n"), "{text}");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&places.config_file), 0o600);
        assert_eq!(mode(places.config_file.parent().unwrap()), 0o700);
        std::fs::write(&places.config_file, "listen = []\n").unwrap();
        assert!(!make_config_if_missing(&places, &gbdx).unwrap());
        assert_eq!(std::fs::read_to_string(&places.config_file).unwrap(), "listen = []\n");
    }

    #[test]
    fn leaving_a_question_is_told_apart_from_failing() {
        let account = crate::config::testing::account("lab", "");
        assert_eq!(failure_of(SignInError::Unasked(Unasked::Interrupted), &account).exit, Exit::Interrupted);
        assert_eq!(failure_of(SignInError::NothingLasting(""), &account).exit, Exit::Failed);
    }
}
