//! The verbs of the control socket: which there are, and what each does.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Frame};
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::info;

use super::answer::{Answer, Done, LogFilter, bad_request, json, refuse, stopping, text};
use super::event_stream;
use super::events::{Kind, News};
use super::line::Line;
use super::problem::{Problem, kind};
use super::report::{AccountReport, State};
use super::state::ControlState;
use super::{client_verbs, key_verbs, metrics, seal_verbs};
use crate::accounts::{AccountView, NewCredential, RequestError};
use crate::config::AccountId;
use crate::names::UnknownName;
use crate::oauth::Person;
use crate::secret::Secret;
use crate::store::{Credential, Servers, Trial};

/// The largest body that is read. A credential is a few kilobytes at the most.
const LARGEST_BODY: usize = 64 * 1024;

/// How long a body may take: it comes from the same machine.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb<'a> {
    Status,
    Account(&'a str),
    Events,
    Log,
    SetLog,
    Keys,
    AddKey,
    RevokeKey(&'a str),
    Seal,
    Unlock,
    Lock,
    Health,
    Ready,
    Metrics,
    Refresh(&'a str),
    WhoIs(&'a str),
    Adopt(&'a str),
    SetCredential(&'a str),
    RemoveCredential(&'a str),
    Client(&'a str),
    KeepClient(&'a str),
    ForgetClient(&'a str),
    Reload,
}

/// Why a request is no verb.
#[derive(Clone, PartialEq, Eq, Debug)]
enum NoVerb {
    NoSuchPath,
    MethodNotAllowed { allow: String },
}

/// What `PUT /v1/accounts/{id}/credential` takes: what a sign-in has brought.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialBody {
    refresh_token: Option<Secret>,
    password: Option<PasswordBody>,
    client_id: Option<String>,
    refresh_lifetime: Option<u64>,
    identity: Option<String>,
    person: Option<Person>,
    unnamed: Option<String>,
    #[serde(default)]
    switch_user: bool,
    servers: Option<Servers>,
    #[serde(default)]
    trial: Trial,
    term: Option<u64>,
    sign_in: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordBody {
    username: String,
    password: Secret,
}

/// A body that goes on as long as somebody feeds it.
struct Fed(mpsc::Receiver<Bytes>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Pieces that may wait in a stream's body: the reader's own buffers hold much more.
const STREAM_BUFFER: usize = 16;

/// Answers one request. Never fails: what cannot be done is answered with a [`Problem`].
pub(super) async fn answer<B>(state: &ControlState, line: &Line, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let verb = match verb(&head.method, head.uri.path()) {
        Ok(verb) => verb,
        Err(NoVerb::NoSuchPath) => return refuse(&no_such_path(head.uri.path())),
        Err(NoVerb::MethodNotAllowed { allow }) => return refuse_method(&head.method, head.uri.path(), &allow),
    };
    if verb == Verb::Events {
        let last_id = head.headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
        return stream(state, line, last_id).unwrap_or_else(|problem| refuse(&problem));
    }
    perform(state, line, head.version, verb, body).await.unwrap_or_else(|problem| refuse(&problem))
}

/// What is said of a method and path that are no verb.
#[cfg(any(test, fuzzing))]
pub(super) fn refusal(method: &Method, path: &str) -> Option<Answer> {
    match verb(method, path) {
        Ok(_) => None,
        Err(NoVerb::NoSuchPath) => Some(refuse(&no_such_path(path))),
        Err(NoVerb::MethodNotAllowed { allow }) => Some(refuse_method(method, path, &allow)),
    }
}

/// Reads method and path. `HEAD` is answered like `GET`; hyper leaves out the body.
fn verb<'a>(method: &Method, path: &'a str) -> Result<Verb<'a>, NoVerb> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let offered = match segments.as_slice() {
        ["v1", "status"] => vec![(Method::GET, Verb::Status)],
        ["v1", "events"] => vec![(Method::GET, Verb::Events)],
        ["v1", "log"] => vec![(Method::GET, Verb::Log), (Method::PUT, Verb::SetLog)],
        ["v1", "keys"] => vec![(Method::GET, Verb::Keys), (Method::POST, Verb::AddKey)],
        ["v1", "keys", name] => vec![(Method::DELETE, Verb::RevokeKey(name))],
        ["v1", "accounts", id] => vec![(Method::GET, Verb::Account(id))],
        ["v1", "accounts", id, "refresh"] => vec![(Method::POST, Verb::Refresh(id))],
        ["v1", "accounts", id, "who"] => vec![(Method::POST, Verb::WhoIs(id))],
        ["v1", "accounts", id, "adopt"] => vec![(Method::POST, Verb::Adopt(id))],
        ["v1", "accounts", id, "credential"] => {
            vec![(Method::PUT, Verb::SetCredential(id)), (Method::DELETE, Verb::RemoveCredential(id))]
        }
        ["v1", "accounts", id, "client"] => vec![
            (Method::GET, Verb::Client(id)),
            (Method::PUT, Verb::KeepClient(id)),
            (Method::DELETE, Verb::ForgetClient(id)),
        ],
        ["v1", "seal"] => vec![(Method::POST, Verb::Seal)],
        ["v1", "lock"] => vec![(Method::POST, Verb::Lock)],
        ["v1", "unlock"] => vec![(Method::POST, Verb::Unlock)],
        ["v1", "reload"] => vec![(Method::POST, Verb::Reload)],
        ["healthz"] => vec![(Method::GET, Verb::Health)],
        ["readyz"] => vec![(Method::GET, Verb::Ready)],
        ["metrics"] => vec![(Method::GET, Verb::Metrics)],
        _ => return Err(NoVerb::NoSuchPath),
    };
    let asked = if method == Method::HEAD { &Method::GET } else { method };
    if let Some((_, verb)) = offered.iter().find(|(offer, _)| offer == asked) {
        return Ok(*verb);
    }
    let allow: Vec<&str> = offered.iter().map(|(offer, _)| offer.as_str()).collect();
    Err(NoVerb::MethodNotAllowed { allow: allow.join(", ") })
}

async fn perform<B>(
    state: &ControlState,
    line: &Line,
    version: Version,
    verb: Verb<'_>,
    body: B,
) -> Result<Answer, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match verb {
        Verb::Status => Ok(json(StatusCode::OK, &state.report())),
        Verb::Account(id) => Ok(json(StatusCode::OK, &account_report(state, id)?)),
        Verb::Events => unreachable!("answered as a stream"),
        Verb::Log => {
            let filter = state.log.as_ref().ok_or_else(no_log)?.filter();
            Ok(json(StatusCode::OK, &LogFilter { filter }))
        }
        Verb::SetLog => {
            let LogFilter { filter } = serde_json::from_slice(&collect(body).await?)
                .map_err(|_| bad_request("not the expected JSON").with_remedy(r#"{"filter": "info"}"#))?;
            let log = state.log.as_ref().ok_or_else(no_log)?;
            log.set_filter(&filter).map_err(|error| bad_request(error.to_string()))?;
            info!(filter, "the log's filter was changed over the control socket");
            Ok(json(StatusCode::OK, &LogFilter { filter }))
        }
        Verb::Keys => Ok(key_verbs::list(state)),
        Verb::AddKey => key_verbs::add(state, line, version, &collect(body).await?).await,
        Verb::RevokeKey(name) => key_verbs::revoke(state, name).await,
        Verb::Seal => seal_verbs::change(state, line, &collect(body).await?).await,
        Verb::Lock => seal_verbs::lock(state, &collect(body).await?).await,
        Verb::Unlock => seal_verbs::unlock(state, line, &collect(body).await?).await,
        Verb::Health => Ok(text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".to_owned())),
        Verb::Ready => ready(state),
        Verb::Metrics => {
            Ok(text(StatusCode::OK, metrics::CONTENT_TYPE, metrics::encode(&state.report(), &state.stats)))
        }
        Verb::Refresh(id) => {
            let account = known(state, id)?;
            info!(%account, "a renewal was asked for over the control socket");
            state.accounts.refresh(account).await.map_err(|error| not_done(state, id, error))?;
            Ok(json(StatusCode::ACCEPTED, &account_report(state, id)?))
        }
        Verb::WhoIs(id) => {
            let account = known(state, id)?;
            let message = state.accounts.who_is(account).await.map_err(|error| not_done(state, id, error))?;
            Ok(json(StatusCode::OK, &Done { message }))
        }
        Verb::Adopt(id) => {
            let account = known(state, id)?;
            seal_verbs::adopt(state, line, account, &collect(body).await?).await
        }
        Verb::SetCredential(id) => {
            let account = known(state, id)?;
            let new = read_credential(&collect(body).await?)?;
            info!(%account, "a credential was handed in over the control socket");
            state.accounts.replace(account, new).await.map_err(|error| not_done(state, id, error))?;
            has_new_scope(state, id);
            tell(state, Kind::SignedIn, id);
            Ok(json(StatusCode::OK, &account_report(state, id)?))
        }
        Verb::RemoveCredential(id) => {
            let account = known(state, id)?;
            info!(%account, "a sign-out was asked for over the control socket");
            let (store, voided) = (state.store.clone(), account.clone());
            // waits for the disk, which others need not
            let void = tokio::task::spawn_blocking(move || store.end_sign_in(&voided)).await.ok().flatten();
            let message = state.accounts.remove(account, void).await.map_err(|error| not_done(state, id, error))?;
            tell(state, Kind::SignedOut, id);
            Ok(json(StatusCode::OK, &Done { message }))
        }
        Verb::Client(id) => client_verbs::show(state, id).await,
        Verb::KeepClient(id) => client_verbs::keep(state, id, &collect(body).await?).await,
        Verb::ForgetClient(id) => client_verbs::forget(state, id).await,
        Verb::Reload => reload(state).await,
    }
}

/// Answers with what changes from now on, and since `last_id`.
fn stream(state: &ControlState, line: &Line, last_id: Option<u64>) -> Result<Answer, Problem> {
    if !line.stream() {
        let detail = "as many as may be are listening to events already";
        return Err(Problem::new(409, kind::REFUSED, "that cannot be done now", detail)
            .with_remedy("end one of them: pgrep -af 'valetd events'"));
    }
    let (reader, pieces) = mpsc::channel(STREAM_BUFFER);
    tokio::spawn(event_stream::feed(state.clone(), last_id, reader, line.clone()));
    let mut answer = Response::new(Fed(pieces).boxed());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // a stream is the connection's last response: what is sent while it lasts is no request when it ends
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(answer)
}

fn tell(state: &ControlState, kind: Kind, account: &str) {
    let readings = state.readings();
    state.events.tell(News::of_account(kind, account), readings.moment(readings.now));
}

/// What MCP servers have asked for may be granted by now; where it is not, they ask again.
fn has_new_scope(state: &ControlState, account: &str) {
    for route in state.config.borrow().routes.iter().filter(|route| route.account.as_str() == account) {
        state.stats.route(&route.name).mcp().scope_required = None;
    }
}

fn no_log() -> Problem {
    Problem::new(409, kind::REFUSED, "that cannot be done now", "this process has no log of its own")
}

fn ready(state: &ControlState) -> Result<Answer, Problem> {
    if let Some(problem) = state.not_configured() {
        return Err(problem);
    }
    let report = state.report();
    let unready: Vec<&AccountReport> = report.accounts.iter().filter(|account| !account.usable).collect();
    if unready.is_empty() {
        return Ok(text(StatusCode::OK, "text/plain; charset=utf-8", "ready\n".to_owned()));
    }
    let names: Vec<&str> = unready.iter().map(|account| account.id.as_str()).collect();
    let detail = format!("no usable token for {}", names.join(", "));
    let mut problem = Problem::new(503, kind::NOT_READY, "not every account has a usable token", detail);
    problem.problems = unready.iter().map(|account| describe(account)).collect();
    problem.remedy = unready.iter().find_map(|account| account.next_action.clone());
    Err(problem)
}

fn describe(account: &AccountReport) -> String {
    match &account.why {
        Some(why) => format!("{}: {}: {why}", account.id, account.state),
        None => format!("{}: {}", account.id, account.state),
    }
}

async fn reload(state: &ControlState) -> Result<Answer, Problem> {
    info!("a reload was asked for over the control socket");
    let (reply, answer) = oneshot::channel();
    state.reload.send(reply).await.map_err(|_| stopping())?;
    match answer.await.map_err(|_| stopping())? {
        Ok(()) => Ok(json(StatusCode::OK, &Done { message: "the configuration was read again".to_owned() })),
        Err(problems) => {
            let file = state.facts.borrow().config_file.display().to_string();
            let detail = format!("{file} has problems; the configuration before it stays in force");
            let problem = Problem::new(422, kind::BAD_CONFIG, "the configuration has problems", detail);
            let remedy = format!("correct {file}, then: {} reload", state.facts.borrow().invocation);
            Err(problem.with_problems(problems).with_remedy(remedy))
        }
    }
}

fn known(state: &ControlState, id: &str) -> Result<AccountId, Problem> {
    find(state, id, |view| view.id.clone())
}

fn account_report(state: &ControlState, id: &str) -> Result<AccountReport, Problem> {
    let invocation = state.facts.borrow().invocation.clone();
    find(state, id, |view| AccountReport::new(view, state.readings(), &invocation).kept_in(&state.store.seal_state()))
}

fn find<T>(state: &ControlState, id: &str, found: impl FnOnce(&AccountView) -> T) -> Result<T, Problem> {
    let views = state.accounts.views();
    if let Some(view) = views.iter().find(|view| view.id.as_str() == id) {
        return Ok(found(view));
    }
    if let Some(problem) = state.not_configured() {
        return Err(problem);
    }
    let unknown = UnknownName::new("account", id, views.iter().map(|view| view.id.as_str()));
    let remedy = unknown.choice().unwrap_or_else(|| "add an account to the configuration".to_owned());
    Err(Problem::new(404, kind::NO_SUCH_ACCOUNT, "no such account", unknown.to_string()).with_remedy(remedy))
}

/// Reads a whole body, within its limits of size and time.
async fn collect<B>(body: B) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = timeout(BODY_TIMEOUT, Limited::new(body, LARGEST_BODY).collect()).await;
    let Ok(collected) = collected else {
        return Err(Problem::new(408, kind::TOO_SLOW, "the body did not arrive in time", "the connection is closed"));
    };
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("at most {LARGEST_BODY} bytes are read");
            Err(Problem::new(413, kind::TOO_LARGE, "the body is too large", detail))
        }
        Err(_) => Err(bad_request("the body broke off")),
    }
}

pub(super) fn read_credential(body: &[u8]) -> Result<NewCredential, Problem> {
    let body: CredentialBody = serde_json::from_slice(body).map_err(|error| {
        // the error's own text may quote what stands there, which may be the token: only the place is told
        bad_request(format!("not the expected JSON at line {}, column {}", error.line(), error.column())).with_remedy(
            "members: refresh_token, password {username, password}, client_id, refresh_lifetime, identity, person \
             {issuer, subject}, unnamed, switch_user, servers, trial (\"required\", \"preferred\", \"skipped\"), term, sign_in",
        )
    })?;
    let CredentialBody {
        refresh_token,
        password,
        client_id,
        refresh_lifetime,
        identity,
        person,
        unnamed,
        switch_user,
        servers,
        trial,
        term,
        sign_in,
    } = body;
    let refresh_token = refresh_token.filter(|token| !token.is_empty());
    if refresh_token.is_none() && password.is_none() {
        return Err(bad_request("neither a refresh_token nor a password is in it"));
    }
    let password = password.map(|PasswordBody { username, password }| (username, password));
    let credential = Credential { refresh_token, password };
    Ok(NewCredential {
        credential,
        client_id,
        refresh_lifetime,
        identity,
        person,
        unnamed,
        switches_user: switch_user,
        missing_scopes: Vec::new(),
        servers,
        trial,
        term,
        spent: None,
        sign_in,
    })
}

fn not_done(state: &ControlState, id: &str, error: RequestError) -> Problem {
    match error {
        RequestError::Stopping => stopping(),
        RequestError::Refused(sentence) => {
            let problem = |sentence: &str| Problem::new(409, kind::REFUSED, "that cannot be done now", sentence);
            match account_report(state, id).ok().filter(|account| account.state == State::SignInRequired) {
                Some(AccountReport { next_action: Some(command), .. }) => {
                    // the remedy is said once
                    let why = sentence.strip_suffix(&format!("; run `{command}`")).unwrap_or(&sentence);
                    problem(why).with_remedy(command)
                }
                _ => problem(&sentence),
            }
        }
        RequestError::StoreLocked(sentence) => {
            let problem = Problem::new(503, kind::STORE_LOCKED, "the store is locked", sentence);
            problem.with_remedy(format!("{} unlock", state.facts.borrow().invocation))
        }
        RequestError::CredentialRefused(sentence) => {
            Problem::new(409, kind::CREDENTIAL_REFUSED, "the server refused it; what is stored stays", sentence)
        }
        error @ RequestError::CredentialSpent => {
            Problem::new(409, kind::CREDENTIAL_SPENT, "it was spent before; what is stored stays", error.to_string())
        }
        RequestError::AnotherPerson(sentence) => {
            Problem::new(409, kind::ANOTHER_PERSON, "it is another person's; what is stored stays", sentence)
        }
        error @ RequestError::SignedOut => {
            Problem::new(409, kind::SIGNED_OUT, "it is not wanted any more; nothing is stored", error.to_string())
        }
        RequestError::CredentialUntried(sentence) => {
            Problem::new(409, kind::CREDENTIAL_UNTRIED, "it could not be tried; what is stored stays", sentence)
        }
    }
}

fn no_such_path(path: &str) -> Problem {
    let problem = Problem::new(404, kind::NO_SUCH_PATH, "no such path", format!("there is nothing at {path}"));
    problem.with_remedy(
        "GET /v1/status, /v1/accounts/{id}, /v1/events, /v1/log, /v1/keys, /metrics, /healthz, /readyz; PUT /v1/log; \
         POST /v1/accounts/{id}/refresh, /v1/accounts/{id}/adopt, /v1/reload, /v1/keys, /v1/seal, /v1/lock, /v1/unlock; PUT and DELETE /v1/accounts/{id}/credential; GET, PUT and \
         DELETE /v1/accounts/{id}/client; DELETE /v1/keys/{name}",
    )
}

fn refuse_method(method: &Method, path: &str, allow: &str) -> Answer {
    let detail = format!("{path} does not know {method}");
    let problem = Problem::new(405, kind::METHOD_NOT_ALLOWED, "method not allowed", detail);
    let mut answer = refuse(&problem.with_remedy(format!("use {allow}")));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_str(allow).expect("it is made of methods and commas"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_make_verbs() {
        let allow = |allow: &str| Err(NoVerb::MethodNotAllowed { allow: allow.to_owned() });
        let table = [
            ("GET", "/v1/status", Ok(Verb::Status)),
            ("HEAD", "/v1/status", Ok(Verb::Status)),
            ("GET", "/v1/accounts/gbdx", Ok(Verb::Account("gbdx"))),
            ("POST", "/v1/accounts/gbdx/refresh", Ok(Verb::Refresh("gbdx"))),
            ("POST", "/v1/accounts/gbdx/who", Ok(Verb::WhoIs("gbdx"))),
            ("POST", "/v1/accounts/gbdx/adopt", Ok(Verb::Adopt("gbdx"))),
            ("PUT", "/v1/accounts/gbdx/credential", Ok(Verb::SetCredential("gbdx"))),
            ("DELETE", "/v1/accounts/gbdx/credential", Ok(Verb::RemoveCredential("gbdx"))),
            ("GET", "/v1/accounts/gbdx/client", Ok(Verb::Client("gbdx"))),
            ("PUT", "/v1/accounts/gbdx/client", Ok(Verb::KeepClient("gbdx"))),
            ("DELETE", "/v1/accounts/gbdx/client", Ok(Verb::ForgetClient("gbdx"))),
            ("POST", "/v1/reload", Ok(Verb::Reload)),
            ("POST", "/v1/seal", Ok(Verb::Seal)),
            ("GET", "/v1/seal", allow("POST")),
            ("POST", "/v1/lock", Ok(Verb::Lock)),
            ("POST", "/v1/unlock", Ok(Verb::Unlock)),
            ("GET", "/v1/events", Ok(Verb::Events)),
            ("GET", "/v1/log", Ok(Verb::Log)),
            ("PUT", "/v1/log", Ok(Verb::SetLog)),
            ("DELETE", "/v1/log", allow("GET, PUT")),
            ("GET", "/v1/keys", Ok(Verb::Keys)),
            ("POST", "/v1/keys", Ok(Verb::AddKey)),
            ("DELETE", "/v1/keys/agent", Ok(Verb::RevokeKey("agent"))),
            ("GET", "/v1/keys/agent", allow("DELETE")),
            ("GET", "/healthz", Ok(Verb::Health)),
            ("GET", "/readyz", Ok(Verb::Ready)),
            ("GET", "/metrics", Ok(Verb::Metrics)),
            ("GET", "/v1/accounts/gbdx/credential", allow("PUT, DELETE")),
            ("GET", "/v1/reload", allow("POST")),
            ("POST", "/v1/status", allow("GET")),
            ("GET", "/", Err(NoVerb::NoSuchPath)),
            ("GET", "/v2/status", Err(NoVerb::NoSuchPath)),
            ("GET", "/v1/status/", Err(NoVerb::NoSuchPath)),
        ];
        for (method, path, expected) in table {
            assert_eq!(verb(&method.parse().unwrap(), path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_credential_is_read_from_its_body() {
        let new = read_credential(br#"{"refresh_token": "r", "identity": "me", "refresh_lifetime": 60}"#).unwrap();
        assert_eq!(new.credential.refresh_token, Some(Secret::new("r")));
        assert_eq!((new.identity.as_deref(), new.refresh_lifetime), (Some("me"), Some(60)));
        let new = read_credential(br#"{"password": {"username": "me", "password": "p"}}"#).unwrap();
        assert_eq!(new.credential.password, Some(("me".to_owned(), Secret::new("p"))));
    }

    #[test]
    fn a_wrong_body_is_refused_without_being_quoted() {
        let table: [(&str, &[u8]); 6] = [
            ("no JSON", b"hunter2"),
            ("a wrong type", br#"{"refresh_token": "r", "refresh_lifetime": "hunter2"}"#),
            ("a token that is no text", br#"{"refresh_token": {"hunter2": 1}}"#),
            ("an unknown member", br#"{"hunter2": 1}"#),
            ("nothing in it", b"{}"),
            ("an empty token", br#"{"refresh_token": ""}"#),
        ];
        for (case, body) in table {
            let problem = read_credential(body).expect_err(case);
            assert_eq!(problem.status, 400, "{case}");
            assert!(!format!("{problem:?}").contains("hunter2"), "{case}: {problem:?}");
        }
    }
}
