//! The verbs over a real socket, with a renewer's end that the test holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::{Client, ClientError};
use super::events::Events;
use super::line::MOST_STREAMS;
use super::problem::{Problem, kind};
use super::report::tests::{config, facts, refused_view, usable_view};
use super::report::{State, StatusReport};
use super::*;
use crate::accounts::{AccountRequest, AccountView, Accounts, NewCredential};
use crate::client_keys::{KeyRing, Limits, NewKey, Refusal, Rights, looks_like_key};
use crate::config::{KeyName, RouteName};
use crate::oauth::Person;
use crate::platform::clock::Clock;
use crate::secret::Secret;
use crate::shutdown::{ShutdownTrigger, shutdown};
use crate::store::{Credential, Servers, Store, Trial};

#[tokio::test]
async fn status_answers_while_the_renewer_is_busy() {
    let house = House::open([usable_view(), refused_view()]); // nobody takes a request from the renewer's ear
    let report = house.client().await.status().await.unwrap();
    let states: Vec<_> = report.accounts.iter().map(|account| (account.id.as_str(), account.state)).collect();
    assert_eq!(states, [("gbdx", State::Usable), ("gdh", State::SignInRequired)]);
    assert_eq!(report.routes[0].urls[0], "http://localhost:8253/gbdx/");
}

#[tokio::test]
async fn curl_reads_the_same_document() {
    let house = House::open([usable_view()]);
    let (head, body) = house.say("GET /v1/status HTTP/1.1\r\nHost: valetd\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: application/json") && head.contains("cache-control: no-store"), "{head}");
    assert_eq!(serde_json::from_str::<StatusReport>(&body).unwrap().accounts.len(), 1);
}

#[tokio::test]
async fn one_account_is_shown_and_an_unknown_one_is_a_problem_with_a_hint() {
    let house = House::open([usable_view()]);
    let mut client = house.client().await;
    assert_eq!(client.account("gbdx").await.unwrap().renewals, 7);
    let problem = refusal(client.account("gdbx").await);
    assert!(problem.is(kind::NO_SUCH_ACCOUNT) && problem.status == 404);
    assert_eq!(problem.detail, "no account is named \"gdbx\" (did you mean \"gbdx\"?)");
    assert_eq!(problem.remedy.as_deref(), Some("the accounts are: gbdx"));
}

#[tokio::test]
async fn problems_are_problem_documents_on_the_wire() {
    let house = House::open([usable_view()]);
    let (head, body) = house.say("GET /v1/reload HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: POST"), "{head}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    assert!(serde_json::from_str::<Problem>(&body).unwrap().is(kind::METHOD_NOT_ALLOWED));
    let (head, body) = house.say("GET /favicon.ico HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert!(serde_json::from_str::<Problem>(&body).unwrap().is(kind::NO_SUCH_PATH));
}

#[tokio::test]
async fn live_is_not_ready_until_every_account_has_a_token() {
    let house = House::open([usable_view(), refused_view()]);
    let (head, body) = house.say("GET /healthz HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body == "ok\n", "{head}");
    let (head, body) = house.say("GET /readyz HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let problem: Problem = serde_json::from_str(&body).unwrap();
    assert_eq!(problem.detail, "no usable token for gdh");
    assert_eq!(problem.remedy.as_deref(), Some("valetd login gdh"));
    house.views.send_replace(Arc::new(vec![usable_view_now(&house)]));
    let (head, _) = house.say("GET /readyz HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn metrics_are_served_as_text() {
    let house = House::open([usable_view()]);
    let (head, body) = house.say("GET /metrics HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("valetd_account_renewals_total{account=\"gbdx\"} 7\n"), "{body}");
}

#[tokio::test]
async fn what_changes_is_told_as_it_changes_and_again_to_who_comes_back() {
    let house = House::open([usable_view()]);
    let mut events = house.client().await.events(None).await.unwrap();
    let mut renewed = usable_view_now(&house);
    renewed.renewals += 1;
    house.views.send_replace(Arc::new(vec![renewed, refused_view()]));
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = timeout(Duration::from_secs(10), events.next()).await.unwrap().unwrap().unwrap();
        told.push((event.id, event.event.name(), event.account.unwrap()));
    }
    let expected = [(101, "renewed", "gbdx"), (102, "failed", "gdh"), (103, "sign-in-required", "gdh")];
    assert_eq!(told, expected.map(|(id, kind, account)| (id, kind, account.to_owned())));
    drop(events);
    let mut again = house.client().await.events(Some(102)).await.unwrap();
    assert_eq!(again.next().await.unwrap().unwrap().id, 103);
}

#[tokio::test]
async fn as_many_streams_as_may_be_leave_room_for_every_other_verb() {
    let house = House::open([usable_view()]);
    let mut streams = Vec::new();
    loop {
        match house.client().await.events(None).await {
            Ok(stream) => streams.push(stream),
            Err(error) => {
                assert!(error.to_string().contains("listening to events already"), "{error}");
                break;
            }
        }
        assert!(streams.len() <= MOST_STREAMS, "there is no bound");
    }
    assert_eq!(streams.len(), MOST_STREAMS);
    let verbs = async {
        for _ in 0..5 {
            let mut client = house.client().await;
            client.status().await.unwrap();
            client.keys().await.unwrap();
        }
    };
    timeout(Duration::from_secs(10), verbs).await.expect("others are answered");
    drop(streams.pop());
    let again = async {
        while house.client().await.events(None).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), again).await.expect("a seat that was left can be taken");
}

#[tokio::test]
async fn a_reader_of_events_ends_with_the_daemon() {
    let mut house = House::open([usable_view()]);
    let mut events = house.client().await.events(None).await.unwrap();
    house.trigger.start();
    assert_eq!(timeout(Duration::from_secs(5), events.next()).await.unwrap().unwrap(), None);
    timeout(Duration::from_secs(5), &mut house.serving).await.expect("serve returns").unwrap();
}

#[tokio::test]
async fn a_reader_who_takes_nothing_is_dropped_and_delays_nobody() {
    let house = House::open([usable_view()]);
    let mut deaf = UnixStream::connect(&house.socket).await.unwrap();
    deaf.write_all(b"GET /v1/events HTTP/1.1\r\nHost: v\r\n\r\n").await.unwrap();
    let mut listening = [0; 1];
    deaf.read_exact(&mut listening).await.unwrap();
    let mut view = usable_view_now(&house);
    // more than sockets and channels hold, and only then somebody looks
    for _ in 0..20_000 {
        view.renewals += 1;
        house.views.send_replace(Arc::new(vec![view.clone()]));
        tokio::task::yield_now().await;
    }
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(30), deaf.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it still hangs on");
    assert!(house.client().await.status().await.is_ok());
}

#[tokio::test]
async fn a_process_without_a_log_of_its_own_says_so() {
    let house = House::open([usable_view()]);
    let problem = refusal(house.client().await.set_log_filter("debug").await);
    assert_eq!((problem.status, problem.detail.as_str()), (409, "this process has no log of its own"));
}

#[tokio::test]
async fn a_key_is_shown_once_listed_without_itself_and_revoked() {
    let house = House::open([usable_view()]);
    let mut client = house.client().await;
    let (key, made) = client.add_key(&new_key("agent")).await.unwrap();
    assert!(looks_like_key(key.expose()) && made.name == "agent");
    let listed = client.keys().await.unwrap();
    assert_eq!(listed, [made]);
    assert!(house.keys.find(key.expose()).is_ok());
    let problem = refusal(client.add_key(&new_key("agent")).await);
    assert!(problem.status == 409 && problem.detail.contains("already"), "{problem:?}");
    let nowhere = NewKey { rights: Rights { routes: vec![RouteName::new("x").unwrap()], ..rights() }, ..new_key("b") };
    let problem = refusal(client.add_key(&nowhere).await);
    assert_eq!((problem.status, problem.remedy.as_deref()), (400, Some("the routes are: gbdx")));
    client.revoke_key(&KeyName::new("agent").unwrap()).await.unwrap();
    assert_eq!(house.keys.find(key.expose()).err(), Some(Refusal::Unknown));
    assert!(refusal(client.revoke_key(&KeyName::new("agent").unwrap()).await).is(kind::NO_SUCH_KEY));
}

#[tokio::test]
async fn a_held_key_lives_until_the_last_descriptor_is_closed_and_not_longer_than_the_daemon() {
    let mut house = House::open([usable_view()]);
    let new = || NewKey { name: None, ..new_key("x") };
    let held = Client::hold_key(&house.socket, new(), None).await.unwrap();
    let other = Client::hold_key(&house.socket, new(), None).await.unwrap();
    let (key, other_key) = (held.key.clone(), other.key.clone());
    assert!(house.keys.find(key.expose()).is_ok() && held.report.ephemeral);
    drop(held);
    let gone = async {
        while house.keys.find(key.expose()).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("it is forgotten");
    assert!(house.keys.find(other_key.expose()).is_ok());
    let problem =
        Client::hold_key(&house.socket, NewKey { rights: Rights { routes: Vec::new(), ..rights() }, ..new() }, None);
    assert_eq!(refusal(problem.await).detail, "a key needs at least one route");
    house.trigger.start();
    timeout(Duration::from_secs(5), &mut house.serving).await.expect("serve returns").unwrap();
    assert!(house.keys.keys().is_empty());
    drop(other);
}

fn rights() -> Rights {
    Rights {
        routes: vec![RouteName::new("gbdx").unwrap()],
        methods: vec!["GET".into()],
        paths: Vec::new(),
        messages: Vec::new(),
    }
}

fn new_key(name: &str) -> NewKey {
    NewKey {
        name: KeyName::new(name),
        rights: rights(),
        lifetime: None,
        rate: None,
        limits: Limits::default(),
        ephemeral: false,
    }
}

#[tokio::test]
async fn a_refresh_reaches_the_renewer() {
    let mut house = House::open([usable_view()]);
    let mut client = house.client().await;
    let (answer, ()) = tokio::join!(client.refresh("gbdx"), async {
        let Some(AccountRequest::Refresh(account, reply)) = house.requests.recv().await else { panic!("no refresh") };
        assert_eq!(account.as_str(), "gbdx");
        reply.send(Ok(())).unwrap();
    });
    assert_eq!(answer.unwrap().id, "gbdx");
}

#[tokio::test]
async fn a_refused_refresh_says_why_and_what_to_do() {
    let mut house = House::open([refused_view()]);
    let mut client = house.client().await;
    let (answer, ()) = tokio::join!(client.refresh("gdh"), async {
        let Some(AccountRequest::Refresh(_, reply)) = house.requests.recv().await else { panic!("no refresh") };
        reply.send(Err("somebody has to sign in first".to_owned())).unwrap();
    });
    let problem = refusal(answer);
    assert_eq!((problem.status, problem.detail.as_str()), (409, "somebody has to sign in first"));
    assert_eq!(problem.remedy.as_deref(), Some("valetd login gdh"));
}

#[tokio::test]
async fn a_credential_arrives_whole_and_never_comes_back() {
    let mut house = House::open([refused_view()]);
    let new = NewCredential {
        credential: Credential {
            refresh_token: Some(Secret::new("hunter2\"\\\u{1F511}")),
            password: Some(("me".to_owned(), Secret::new("p w"))),
        },
        client_id: Some("client".to_owned()),
        refresh_lifetime: Some(86_400),
        identity: Some("me@example.com".to_owned()),
        person: Some(Person { issuer: "https://auth.example".to_owned(), subject: "0b1c".to_owned() }),
        unnamed: Some("auth.example answered 500".to_owned()),
        switches_user: true,
        missing_scopes: Vec::new(),
        servers: Some(Servers { issued_by: "https://auth.example".to_owned(), others: Vec::new() }),
        trial: Trial::Preferred,
        term: Some(28_800),
        spent: None,
        sign_in: Some("0123456789abcdef".to_owned()),
    };
    let mut client = house.client().await;
    let (answer, ()) = tokio::join!(client.set_credential("gdh", &new), async {
        let Some(AccountRequest::Replace(account, received, reply)) = house.requests.recv().await else {
            panic!("none")
        };
        assert_eq!(account.as_str(), "gdh");
        assert_eq!(received.credential, new.credential);
        assert_eq!((&received.client_id, received.refresh_lifetime), (&new.client_id, Some(86_400)));
        assert_eq!((&received.identity, &received.servers), (&new.identity, &new.servers));
        assert_eq!((&received.person, received.switches_user), (&new.person, true));
        assert_eq!(received.unnamed, new.unnamed);
        assert_eq!((received.trial, received.term), (new.trial, new.term));
        assert_eq!(received.sign_in, new.sign_in);
        reply.send(Ok(())).unwrap();
    });
    assert!(!serde_json::to_string(&answer.unwrap()).unwrap().contains("hunter2"));
}

#[tokio::test]
async fn a_sign_out_tells_what_happened_at_the_server() {
    let mut house = House::open([usable_view()]);
    let mut client = house.client().await;
    let (answer, ()) = tokio::join!(client.remove_credential("gbdx"), async {
        let Some(AccountRequest::Remove(_, _, reply)) = house.requests.recv().await else { panic!("no sign-out") };
        reply.send(Ok("revoked at the server".to_owned())).unwrap();
    });
    assert_eq!(answer.unwrap(), "revoked at the server");
}

#[tokio::test]
async fn a_reload_answers_when_it_is_done_and_with_all_problems() {
    let mut house = House::open([usable_view()]);
    let mut client = house.client().await;
    let (answer, ()) = tokio::join!(client.reload(), async {
        house.reloads.recv().await.unwrap().send(Ok(())).unwrap();
    });
    answer.unwrap();
    let problems = vec!["route.a: no account named \"b\"".to_owned(), "line 7: what?".to_owned()];
    let (answer, ()) = tokio::join!(client.reload(), async {
        house.reloads.recv().await.unwrap().send(Err(problems.clone())).unwrap();
    });
    let problem = refusal(answer);
    assert!(problem.is(kind::BAD_CONFIG));
    assert_eq!(problem.problems, problems);
}

#[tokio::test]
async fn a_stopping_daemon_says_so() {
    let mut house = House::open([usable_view()]);
    house.requests.close();
    let problem = refusal(house.client().await.refresh("gbdx").await);
    assert!(problem.is(kind::STOPPING), "{problem:?}");
}

#[tokio::test]
async fn too_large_a_body_is_refused_and_not_kept() {
    let house = House::open([usable_view()]);
    let token = "x".repeat(70_000);
    let body = format!("{{\"refresh_token\": \"{token}\"}}");
    let request = format!(
        "PUT /v1/accounts/gbdx/credential HTTP/1.1\r\nHost: v\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (head, _) = house.say(&request).await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
}

#[tokio::test]
async fn a_client_who_stalls_delays_nobody() {
    let house = House::open([usable_view()]);
    let mut stalled = Vec::new();
    for beginning in ["", "GET /v1/st", "PUT /v1/accounts/gbdx/credential HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"] {
        let mut stream = UnixStream::connect(&house.socket).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    assert!(timeout(Duration::from_secs(5), async { house.client().await.status().await }).await.unwrap().is_ok());
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_returns() {
    let mut house = House::open([usable_view()]);
    let mut client = house.client().await;
    client.status().await.unwrap();
    house.trigger.start();
    timeout(Duration::from_secs(5), &mut house.serving).await.expect("serve returns").unwrap();
    assert!(client.status().await.is_err());
    assert!(matches!(Client::connect(&house.socket).await, Err(ClientError::NotRunning(_))));
}

#[tokio::test]
async fn a_missing_socket_means_that_no_daemon_runs() {
    let folder = TempDir::new().unwrap();
    let error = Client::connect(&folder.path().join("none.sock")).await.unwrap_err();
    assert!(error.is_unreachable() && matches!(error, ClientError::NotRunning(_)), "{error}");
}

#[test]
fn only_this_user_and_root_may_ask() {
    for (peer, ours, expected) in [(1000, 1000, true), (0, 1000, true), (1001, 1000, false), (1000, 0, false)] {
        assert_eq!(may_ask(peer, ours, None), expected, "peer {peer}, ours {ours}");
    }
    // what everybody is shown as is nobody, even where it is what we are shown as ourselves
    assert!(!may_ask(65534, 65534, Some(65534)));
    assert!(may_ask(65534, 65534, None) && may_ask(1000, 1000, Some(65534)));
}

/// A control socket in service, and every other end of it.
struct House {
    socket: PathBuf,
    requests: mpsc::Receiver<AccountRequest>,
    reloads: mpsc::Receiver<ReloadRequest>,
    views: watch::Sender<Arc<Vec<AccountView>>>,
    clock: Arc<Clock>,
    keys: Arc<KeyRing>,
    trigger: ShutdownTrigger,
    serving: JoinHandle<()>,
    _folder: TempDir,
}

impl House {
    fn open(views: impl Into<Vec<AccountView>>) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("valetd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (ask, requests) = mpsc::channel(8);
        let (reload, reloads) = mpsc::channel(1);
        let (views, published) = watch::channel(Arc::new(views.into()));
        let clock = Arc::new(Clock::start());
        let (trigger, stop) = shutdown();
        let keys = Arc::<KeyRing>::default();
        let state = ControlState {
            accounts: Accounts::new(ask, published),
            stats: Arc::default(),
            clock: clock.clone(),
            config: watch::channel(Arc::new(config())).1,
            config_problems: watch::channel(Vec::new()).1,
            facts: watch::channel(facts()).1,
            reload,
            lend: mpsc::channel(1).0,
            keys: keys.clone(),
            store: Arc::new(Store::open(&folder.path().join("state")).unwrap()),
            events: Arc::new(Events::starting_after(100)),
            log: None,
        };
        let mut house = Self {
            socket,
            requests,
            reloads,
            views,
            clock,
            keys,
            trigger,
            serving: tokio::spawn(serve(listener, state, stop)),
            _folder: folder,
        };
        house.refresh_clocks();
        house
    }

    /// The examples' times belong to a day long gone or far away: moves them to now.
    fn refresh_clocks(&mut self) {
        let now = self.clock.now();
        self.views.send_modify(|views| {
            for view in Arc::make_mut(views) {
                view.snapshot.usable_until = view.snapshot.usable_until.map(|_| now + Duration::from_secs(600));
            }
        });
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket).await.unwrap()
    }

    /// Sends a request as written; returns the response's head and body.
    async fn say(&self, request: &str) -> (String, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // a server that closes without having read everything ends the response with a reset, after all its bytes
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

fn usable_view_now(house: &House) -> AccountView {
    let mut view = usable_view();
    view.snapshot.usable_until = Some(house.clock.now() + Duration::from_secs(600));
    view
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Problem {
    match answer {
        Err(ClientError::Refused(problem)) => *problem,
        other => panic!("not refused: {other:?}"),
    }
}
