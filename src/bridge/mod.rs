//! `valetd mcp`: the Model Context Protocol over standard input and output on one side, over HTTP on the other, where the
//! daemon puts the token in.
//!
//! Streamable HTTP (MCP 2025-11-25, "Transports"), and HTTP+SSE (2024-11-05) with servers that answer `initialize` with a
//! refusal. The client sees one session for as long as it runs: one that the server has forgotten is begun anew with the
//! client's own `initialize`, a stream that breaks off is taken up behind its last event, and a daemon that is started anew
//! is waited for. What was not answered is answered with a JSON-RPC error, which says what can be done.
//!
//! * [`chunks`]: texts in pieces; [`stdio`]: the client's end; [`events`]: server-sent events;
//! * [`session`]: what a request says of its session; [`server`]: requests and their answers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, stdin};
use tokio::sync::{Mutex, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::lent::Daemon;
use crate::mcp::{self, Message};
use crate::platform::clock;

mod chunks;
mod events;
mod server;
mod session;
mod stdio;

use chunks::Chunks;
use events::Parser;
pub(crate) use server::Place;
use server::{Answer, Failure, Server};
use session::{SESSION, Session};
use stdio::{Line, Lines, Output};

/// A message may be as large: it is held once, on its way.
const LARGEST: usize = 64 * 1024 * 1024;
/// As many requests of a client may run at once; it waits with more.
const MOST_AT_ONCE: usize = 256;
/// What was asked for when the input ended is answered within this.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// A session's end is told to the server, but not waited for long: clients give two seconds.
const FAREWELL: Duration = Duration::from_secs(1);
/// What expects no response is waited for as long, so that its order is kept; a server that takes longer keeps nobody else
/// from being heard.
const IN_ORDER: Duration = Duration::from_secs(2);
/// What a server still says on a response's stream after the response is handed on for as long; it should have ended it.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// A stream that has ended is asked for again after this, unless the server says otherwise; SSE's own usual pause is longer.
const PAUSE: Duration = Duration::from_secs(1);
/// And never sooner, whatever the server says.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// And after this at the latest, where that has been in vain.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A stream that has ended sooner, without a word, was in vain.
const A_WHILE: Duration = Duration::from_secs(5);
/// A response that was begun is asked for again so often in vain.
const RESUMPTIONS: u32 = 10;
/// Where messages go, a server of HTTP+SSE says first of all.
const FIRST_EVENT: Duration = Duration::from_secs(10);

/// JSON-RPC 2.0, section 5.1.
const NO_JSON: i64 = -32700;

/// A client's bridge to one server.
pub(crate) struct Bridge {
    server: Rc<Server>,
    session: RefCell<Session>,
    output: Output,
    /// One session is begun at a time.
    beginning: Mutex<()>,
    listens: Cell<bool>,
}

/// Whose messages those of a response are.
#[derive(Clone, Copy)]
enum For<'a> {
    Client,
    /// Ours is the response to this id: the client has had one.
    Us(&'a str),
}

impl Bridge {
    /// `place` is where the daemon's lending says that the server is.
    pub(crate) fn new(daemon: Daemon, place: Rc<RefCell<Option<Place>>>) -> Rc<Self> {
        Rc::new(Self {
            server: Server::new(daemon, place),
            session: RefCell::default(),
            output: Output::new(),
            beginning: Mutex::new(()),
            listens: Cell::new(false),
        })
    }

    /// Serves the client of standard input and output until it has gone, or `ended` is. Needs a `LocalSet`.
    pub(crate) async fn run(self: Rc<Self>, ended: impl Future<Output = ()>) {
        let everything = async {
            let mut requests = JoinSet::new();
            self.serve(stdin(), &mut requests).await;
            let answers = async {
                while requests.join_next().await.is_some() {}
                while !self.session.borrow().pending.is_empty() {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            let _ = timeout(LAST_ANSWERS, answers).await;
        };
        tokio::select! {
            () = everything => {}
            () = ended => {}
            () = self.output.closed.notified() => {}
        }
        let end = self.session.borrow().end();
        if let Some(end) = end {
            let _ = timeout(FAREWELL, self.server.send(end)).await;
        }
    }

    async fn serve(self: &Rc<Self>, input: impl AsyncRead + Unpin, requests: &mut JoinSet<()>) {
        let mut lines = Lines::new(input, LARGEST);
        let mut alone: BTreeMap<String, AbortHandle> = BTreeMap::new();
        while let Ok(Some(line)) = lines.next().await {
            while requests.try_join_next().is_some() {}
            let line = match line {
                Line::Of(line) if line.is_blank() => continue,
                Line::Of(line) => line,
                Line::TooLong => {
                    self.refuse(&BTreeSet::new(), &Failure::say("a message is larger than 64 MiB")).await;
                    continue;
                }
            };
            let messages = match mcp::read(line.reader()) {
                Ok(messages) => messages,
                Err(error) => {
                    let failure = Failure { code: NO_JSON, ..Failure::say(format!("this is no message: {error}")) };
                    self.refuse(&BTreeSet::new(), &failure).await;
                    continue;
                }
            };
            if let [Message { cancels: Some(cancelled), .. }] = &messages[..] {
                // of a request that stands for itself, the end of its exchange is the word for it (MCP 2026-07-28)
                if let Some(exchange) = alone.remove(cancelled) {
                    exchange.abort();
                    continue;
                }
            }
            let is_request = messages.iter().any(|message| message.request().is_some());
            let begins = messages.iter().any(|message| message.method.as_deref() == Some("initialize"));
            while requests.len() >= MOST_AT_ONCE {
                requests.join_next().await;
            }
            // the order of what expects no response is kept, and nothing overtakes the beginning
            if begins {
                self.clone().exchange(line, messages).await;
            } else if !is_request {
                let (done, is_done) = oneshot::channel::<()>();
                let exchange = self.clone().exchange(line, messages);
                requests.spawn_local(async move {
                    exchange.await;
                    drop(done);
                });
                let _ = timeout(IN_ORDER, is_done).await;
            } else {
                let id =
                    messages.iter().find(|one| one.version.is_some()).and_then(Message::request).map(str::to_owned);
                let exchange = requests.spawn_local(self.clone().exchange(line, messages));
                alone.retain(|_, exchange| !exchange.is_finished());
                alone.extend(id.map(|id| (id, exchange)));
            }
        }
    }

    /// Brings a line to the server, and what it answers to the client.
    async fn exchange(self: Rc<Self>, line: Chunks, messages: Vec<Message>) {
        let mut unanswered: BTreeSet<String> =
            messages.iter().filter_map(|message| message.request().map(str::to_owned)).collect();
        if let Err(failure) = self.carry(line, &messages, &mut unanswered).await {
            match unanswered.is_empty() {
                true => eprintln!("valetd mcp: {}", failure.message),
                false => self.refuse(&unanswered, &failure).await,
            }
        }
    }

    /// Tells the client that requests are not answered; that a line was no message, if there are none.
    async fn refuse(&self, ids: &BTreeSet<String>, failure: &Failure) {
        let data = failure.status.map_or(Value::Null, |status| json!({"status": status}));
        let ids: Vec<Option<&str>> =
            if ids.is_empty() { vec![None] } else { ids.iter().map(|id| Some(id.as_str())).collect() };
        for id in ids {
            let error = mcp::error(id, failure.code, &failure.message, data.clone());
            self.output.write(error.into()).await;
        }
    }

    async fn carry(
        self: &Rc<Self>,
        line: Chunks,
        messages: &[Message],
        unanswered: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let begins = messages.iter().find(|message| message.method.as_deref() == Some("initialize"));
        if let Some(id) = begins.and_then(Message::request) {
            let initialize = Some((line.clone(), id.to_owned()));
            let generation = self.session.borrow().generation + 1;
            self.session.replace(Session { generation, initialize, ..Session::default() });
            return self.begin(unanswered, For::Client).await;
        }
        let is_initialized = messages.iter().any(|one| one.method.as_deref() == Some("notifications/initialized"));
        if is_initialized {
            self.session.borrow_mut().initialized = Some(line.clone());
        }
        let (generation, has_ended) = (self.session.borrow().generation, self.session.borrow().has_ended);
        if has_ended {
            self.begin_again(generation).await?;
        }
        let generation = self.session.borrow().generation;
        let mut answer = self.post(&line, messages, unanswered).await?;
        if answer.status() == StatusCode::NOT_FOUND && self.can_begin_again() {
            drop(answer);
            self.begin_again(generation).await?;
            answer = self.post(&line, messages, unanswered).await?;
        }
        drop(line); // it may be large, and so may the response
        self.answered(answer, unanswered, For::Client).await?;
        if is_initialized {
            self.listen();
        }
        Ok(())
    }

    async fn post(&self, line: &Chunks, read: &[Message], unanswered: &BTreeSet<String>) -> Result<Answer, Failure> {
        let request = {
            let mut session = self.session.borrow_mut();
            if session.endpoint.is_some() {
                // their answers may be there before that of the request
                session.pending.extend(unanswered.iter().cloned());
            }
            session.post(line.clone(), read, false)
        };
        self.server.send(request).await
    }

    /// Hands the messages of a response on, and takes a broken stream up again, until nothing is unanswered.
    async fn answered(
        self: &Rc<Self>,
        mut answer: Answer,
        unanswered: &mut BTreeSet<String>,
        whose: For<'_>,
    ) -> Result<(), Failure> {
        if !answer.status().is_success() {
            self.session.borrow_mut().pending.retain(|id| !unanswered.contains(id));
            return self.refused(answer, unanswered, whose).await;
        }
        if answer.is_of_type("text/event-stream") {
            return self.answered_in_events(answer, unanswered, whose).await;
        }
        let body = answer.collect(LARGEST).await?;
        if self.session.borrow().endpoint.is_some() {
            unanswered.clear(); // on the stream
            return Ok(());
        }
        if !body.is_blank() && answer.is_of_type("application/json") {
            self.deliver(body, unanswered, whose).await?;
        }
        match unanswered.is_empty() {
            true => Ok(()),
            false => Err(Failure::say(format!(
                "the MCP server took the request ({}) and did not answer it",
                answer.status()
            ))),
        }
    }

    /// Hands on a refusal that answers a request in JSON-RPC, as the server has put it; another one is put into words.
    async fn refused(
        &self,
        mut answer: Answer,
        unanswered: &mut BTreeSet<String>,
        whose: For<'_>,
    ) -> Result<(), Failure> {
        let (body, is_json) = (answer.refusal_text().await, answer.is_of_type("application/json"));
        let read = if is_json { mcp::read(body.reader()).unwrap_or_default() } else { Vec::new() };
        if !read.is_empty() && read.iter().all(|one| one.response().is_some_and(|id| unanswered.contains(id))) {
            self.deliver(body.clone(), unanswered, whose).await?;
        }
        match unanswered.is_empty() {
            true => Ok(()),
            false => Err(answer.refusal(&body)),
        }
    }

    async fn answered_in_events(
        self: &Rc<Self>,
        mut answer: Answer,
        unanswered: &mut BTreeSet<String>,
        whose: For<'_>,
    ) -> Result<(), Failure> {
        let mut parser = Parser::default();
        let mut in_vain = 0;
        loop {
            let before = unanswered.len();
            let ended = match unanswered.is_empty() {
                true => Ok(()),
                false => self.pump(&mut answer, &mut parser, unanswered, whose).await,
            };
            if unanswered.is_empty() {
                // nobody waits for what else is said there
                let bridge = self.clone();
                tokio::task::spawn_local(async move {
                    let mut none = BTreeSet::new();
                    let rest = bridge.pump(&mut answer, &mut parser, &mut none, For::Client);
                    let _ = timeout(LAST_WORDS, rest).await;
                });
                return Ok(());
            }
            // SSE: whoever has named no event cannot be asked for what comes after it
            let why =
                ended.err().unwrap_or_else(|| Failure::say("the MCP server ended its answer before it was whole"));
            let Some(last_id) = parser.last_id.clone() else { return Err(why) };
            in_vain = if unanswered.len() < before { 0 } else { in_vain + 1 };
            answer = loop {
                if in_vain > RESUMPTIONS {
                    return Err(why);
                }
                sleep(pause(&parser, in_vain)).await;
                let request = self.session.borrow().listen(Some(&last_id));
                match self.server.send(request).await {
                    Ok(answer) if answer.status().is_success() && answer.is_of_type("text/event-stream") => {
                        break answer;
                    }
                    Ok(answer) if answer.status().is_client_error() => return Err(why),
                    Ok(_) | Err(_) => in_vain += 1,
                }
            };
            parser = Parser::after(parser.last_id, parser.retry);
        }
    }

    /// Hands on the messages of a stream, to its end or until the last response has come that is waited for.
    async fn pump(
        &self,
        answer: &mut Answer,
        parser: &mut Parser,
        unanswered: &mut BTreeSet<String>,
        whose: For<'_>,
    ) -> Result<(), Failure> {
        let waits = !unanswered.is_empty();
        while let Some(piece) = answer.next().await? {
            for event in parser.feed(piece) {
                // one without data says from where to go on
                if event.kind.as_deref().is_none_or(|kind| kind == "message") && event.data.len() > 0 {
                    self.deliver(event.data, unanswered, whose).await?;
                }
            }
            if parser.held() > LARGEST {
                return Err(Failure::say("the MCP server's answer is larger than 64 MiB"));
            }
            if waits && unanswered.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Hands a message of the server's on.
    async fn deliver(&self, text: Chunks, unanswered: &mut BTreeSet<String>, whose: For<'_>) -> Result<(), Failure> {
        let messages = mcp::read(text.reader())
            .map_err(|error| Failure::say(format!("the MCP server's answer is no JSON-RPC: {error}")))?;
        let mut is_ours = false;
        for id in messages.iter().filter_map(Message::response) {
            unanswered.remove(id);
            let mut session = self.session.borrow_mut();
            session.pending.remove(id);
            if session.version.is_none() && session.initialize.as_ref().is_some_and(|(_, its)| its == id) {
                session.version = agreed_version(&text);
            }
            is_ours |= matches!(whose, For::Us(ours) if ours == id);
        }
        if !is_ours {
            self.output.write(text).await;
        }
        Ok(())
    }

    /// Begins a session with the client's `initialize`.
    async fn begin(self: &Rc<Self>, unanswered: &mut BTreeSet<String>, whose: For<'_>) -> Result<(), Failure> {
        let initialize = self.session.borrow().initialize.as_ref().map(|(line, _)| line.clone()).unwrap_or_default();
        let request = self.session.borrow().post(initialize.clone(), &[], true);
        let answer = self.server.send(request).await?;
        // HTTP+SSE knows no POST there
        let may_be_older =
            [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&answer.status());
        if may_be_older {
            return match self.begin_with_events().await {
                Some(()) => {
                    let answer = self.post(&initialize, &[], unanswered).await?;
                    self.answered(answer, unanswered, whose).await
                }
                None => self.refused(answer, unanswered, whose).await,
            };
        }
        self.session.borrow_mut().id = answer.head.headers().get(SESSION).cloned();
        self.answered(answer, unanswered, whose).await
    }

    fn can_begin_again(&self) -> bool {
        let session = self.session.borrow();
        session.initialize.is_some() && (session.id.is_some() || session.endpoint.is_some())
    }

    /// Begins another session in the place of one that the server has forgotten.
    async fn begin_again(self: &Rc<Self>, forgotten: u64) -> Result<(), Failure> {
        let _one_at_a_time = self.beginning.lock().await;
        let (id, initialized) = {
            let mut session = self.session.borrow_mut();
            if session.generation != forgotten {
                return Ok(());
            }
            let (initialize, initialized) = (session.initialize.take(), session.initialized.take());
            let id = initialize.as_ref().map(|(_, id)| id.clone()).unwrap_or_default();
            let generation = session.generation + 1;
            *session = Session { generation, initialize, initialized: initialized.clone(), ..Session::default() };
            (id, initialized)
        };
        self.begin(&mut BTreeSet::from([id.clone()]), For::Us(&id)).await?;
        if let Some(initialized) = initialized {
            let answer = self.post(&initialized, &[], &BTreeSet::new()).await?;
            self.answered(answer, &mut BTreeSet::new(), For::Client).await?;
            self.listen();
        }
        Ok(())
    }

    /// Listens to what the server says by itself, where it does, for as long as the session lasts.
    fn listen(self: &Rc<Self>) {
        if self.session.borrow().endpoint.is_some() || self.listens.replace(true) {
            return;
        }
        let bridge = self.clone();
        tokio::task::spawn_local(async move {
            bridge.listening().await;
            bridge.listens.set(false);
        });
    }

    async fn listening(&self) {
        let mut parser = Parser::default();
        let mut in_vain = 0;
        let mut generation = self.session.borrow().generation;
        loop {
            let request = self.session.borrow().listen(parser.last_id.as_deref());
            let began = clock::instant();
            match self.server.send(request).await {
                Ok(mut answer) if answer.status().is_success() && answer.is_of_type("text/event-stream") => {
                    let _ = self.pump(&mut answer, &mut parser, &mut BTreeSet::new(), For::Client).await;
                    let was_in_vain = !parser.has_spoken && began.elapsed() < A_WHILE;
                    in_vain = if was_in_vain { in_vain + 1 } else { 0 };
                }
                Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => in_vain += 1,
                // it has nothing to say (405), or no such session
                Ok(answer) if !answer.status().is_server_error() => return,
                Ok(_) | Err(_) => in_vain += 1,
            }
            sleep(pause(&parser, in_vain)).await;
            let now = self.session.borrow().generation;
            let is_the_same = std::mem::replace(&mut generation, now) == now;
            let last_id = parser.last_id.filter(|_| is_the_same);
            parser = Parser::after(last_id, parser.retry);
        }
    }

    /// Opens the stream of HTTP+SSE. `None` if the server does not speak it.
    async fn begin_with_events(self: &Rc<Self>) -> Option<()> {
        let request = self.session.borrow().listen(None);
        let mut answer = self.server.send(request).await.ok()?;
        if !answer.status().is_success() || !answer.is_of_type("text/event-stream") {
            return None;
        }
        let mut parser = Parser::default();
        let first = timeout(FIRST_EVENT, async {
            loop {
                let events = parser.feed(answer.next().await.ok()??);
                if let Some(first) = events.into_iter().next() {
                    return Some(first);
                }
            }
        });
        let first = first.await.ok()?.filter(|first| first.kind.as_deref() == Some("endpoint"))?;
        let endpoint = {
            let place = self.server.place.borrow();
            let place = place.as_ref()?;
            session::endpoint(&first.data.beginning(4096), &place.authority, &place.path)?
        };
        self.session.borrow_mut().endpoint = Some(endpoint);
        let bridge = self.clone();
        tokio::task::spawn_local(async move {
            let ended = bridge.pump(&mut answer, &mut parser, &mut BTreeSet::new(), For::Client).await;
            let pending = {
                let mut session = bridge.session.borrow_mut();
                session.has_ended = true; // the server forgets it with its stream
                std::mem::take(&mut session.pending)
            };
            let failure = ended.err().unwrap_or_else(|| Failure::say("the MCP server ended the stream"));
            if !pending.is_empty() {
                bridge.refuse(&pending, &failure).await;
            }
        });
        Some(())
    }
}

/// How long to wait before a stream is asked for once more.
fn pause(parser: &Parser, in_vain: u32) -> Duration {
    let usual = parser.retry.map_or(PAUSE, Duration::from_millis).max(SHORTEST_PAUSE);
    usual.saturating_mul(1 << in_vain.min(5)).min(LONGEST_PAUSE)
}

/// The protocol version in the response to `initialize`.
fn agreed_version(answer: &Chunks) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        result: Agreed,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Agreed {
        protocol_version: String,
    }
    let answer: Answer = serde_json::from_reader(answer.reader()).ok()?;
    HeaderValue::from_str(&answer.result.protocol_version).ok()
}
