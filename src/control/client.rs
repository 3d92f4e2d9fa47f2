//! The command line's end of the control socket: one connection, typed calls.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::answer::{Done, LogFilter};
use super::events::Event;
use super::keys::{self, KeyList, KeyOrder, KeyReport};
use super::problem::{Problem, kind};
use super::report::{AccountReport, SCHEMA, StatusReport};
use super::seal_verbs::{AdoptOrder, LockOrder, SealAnswer};
use crate::accounts::NewCredential;
use crate::client_keys::{AddressKind, NewKey};
use crate::config::{AccountId, KeyName};
use crate::oauth::rfc7591::Registration;
use crate::platform::peer::own_uid;
use crate::platform::users;
use crate::secret::Secret;
use crate::store::{Adoption, SealChange, Trial};

/// How long a response may take that is made from what the daemon has at hand.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How long a response may take that waits for a disk, a whole reload, or a server that revokes.
const AFTER_WORK: Duration = Duration::from_secs(90);

/// The largest answer that is read: some thousand accounts and routes.
const LARGEST_ANSWER: usize = 8 * 1024 * 1024;

/// A connection to a running daemon. Its calls need the runtime that it was made in.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    /// Whose daemon it is.
    owner: u32,
    sender: SendRequest<Full<Bytes>>,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens there.
    #[error("no daemon listens on {}", .0.display())]
    NotRunning(PathBuf),
    /// Something is there, but it cannot be talked to.
    #[error("cannot connect to {}: {error}", .socket.display())]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody else listens there: what it says is not to be believed, and nothing is told to it.
    #[error("the daemon on {} is not yours: {} listens there", .socket.display(), user(*.owner))]
    Foreign {
        /// Where.
        socket: PathBuf,
        /// Who made the socket.
        owner: u32,
    },
    /// The daemon took the call and did not answer in time.
    #[error("the daemon on {} did not answer within {} s", .socket.display(), .after.as_secs())]
    Silent {
        /// Where.
        socket: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection ended in the middle, as where the daemon ends: what was asked may have been done, and may not.
    #[error("the daemon on {} ended before it answered: {detail}", .socket.display())]
    Ended {
        /// Where.
        socket: PathBuf,
        /// How.
        detail: String,
    },
    /// What came is not what a daemon of this version says.
    #[error("the daemon on {} did not answer as expected: {detail}", .socket.display())]
    Garbled {
        /// Where.
        socket: PathBuf,
        /// What was wrong.
        detail: String,
    },
    /// The daemon said no.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
}

impl ClientError {
    /// Whether there is no daemon to talk to now: one that is started may mend it.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            ClientError::NotRunning(_) | ClientError::Unreachable { .. } => true,
            ClientError::Foreign { .. }
            | ClientError::Silent { .. }
            | ClientError::Ended { .. }
            | ClientError::Garbled { .. }
            | ClientError::Refused(_) => false,
        }
    }

    /// Whether the daemon that was called has not answered, or is ending: the one after it may answer.
    pub(crate) fn is_unanswered(&self) -> bool {
        match self {
            ClientError::Silent { .. } | ClientError::Ended { .. } => true,
            ClientError::Refused(problem) => problem.is(kind::STOPPING),
            ClientError::NotRunning(_)
            | ClientError::Unreachable { .. }
            | ClientError::Foreign { .. }
            | ClientError::Garbled { .. } => false,
        }
    }
}

/// What a person says to have a store opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    /// That it be opened as it is every day.
    Nothing,
    /// The recovery code.
    RecoveryCode(Secret),
    /// The passphrase.
    Passphrase(Secret),
}

impl Client {
    /// Connects to the daemon that listens on `socket`, which must be this user's or root's; root itself may ask anybody's.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotRunning`] if there is no socket or nobody listens on it; [`ClientError::Foreign`].
    pub(crate) async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let (stream, owner) = connect(socket).await?;
        let socket = socket.to_owned();
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ClientError::Ended { socket: socket.clone(), detail: error.to_string() })?;
        // what ends the connection is told by the call that it ends
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { socket, owner, sender })
    }

    /// The status document.
    pub(crate) async fn status(&mut self) -> Result<StatusReport, ClientError> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        let body = self.call(Method::GET, "/v1/status", None, AT_ONCE).await?;
        let Versioned { schema } = self.read(&body)?;
        if schema != SCHEMA {
            let remedy = match schema < SCHEMA {
                true => "restart the daemon",
                false => "this program is the older one, so use the one that the daemon was started from",
            };
            let detail = format!("its status has version {schema}, this program reads {SCHEMA}: {remedy}");
            return Err(self.garbled(detail));
        }
        self.read(&body)
    }

    /// One account.
    pub(crate) async fn account(&mut self, id: &str) -> Result<AccountReport, ClientError> {
        let body = self.call(Method::GET, &format!("/v1/accounts/{id}"), None, AT_ONCE).await?;
        self.read(&body)
    }

    /// Asks for a renewal now. Returns when it has been asked for, not when it has ended.
    pub(crate) async fn refresh(&mut self, id: &str) -> Result<AccountReport, ClientError> {
        let body = self.call(Method::POST, &format!("/v1/accounts/{id}/refresh"), None, AT_ONCE).await?;
        self.read(&body)
    }

    /// Hands in what a sign-in has brought. Returns when it has been tried, where that is wanted, and is saved. Root may ask anybody's daemon, but gives its credentials
    /// to its own alone.
    ///
    /// # Errors
    ///
    /// [`ClientError::Foreign`], before anything is sent.
    pub(crate) async fn set_credential(&mut self, id: &str, new: &NewCredential) -> Result<AccountReport, ClientError> {
        if !keeps_for_us(self.owner, own_uid(), users::shown_for_others()) {
            return Err(ClientError::Foreign { socket: self.socket.clone(), owner: self.owner });
        }
        let path = format!("/v1/accounts/{id}/credential");
        let answer = match self.call(Method::PUT, &path, Some(credential_body(new, false)), AFTER_WORK).await {
            // a daemon of before an update, which has not heard of servers or trials: a sign-in that nobody could repeat must
            // not be lost by that
            Err(ClientError::Refused(problem)) if problem.status == 400 && new.trial != Trial::Required => {
                self.call(Method::PUT, &path, Some(credential_body(new, true)), AFTER_WORK).await
            }
            answer => answer,
        };
        self.read(&answer?)
    }

    /// Asks the provider who is signed in. Returns what it says, for people.
    pub(crate) async fn who_is(&mut self, id: &str) -> Result<String, ClientError> {
        let body = self.call(Method::POST, &format!("/v1/accounts/{id}/who"), None, AFTER_WORK).await?;
        self.read(&body).map(|Done { message }| message)
    }

    /// Signs out. Returns what happened at the server, for people.
    pub(crate) async fn remove_credential(&mut self, id: &str) -> Result<String, ClientError> {
        let body = self.call(Method::DELETE, &format!("/v1/accounts/{id}/credential"), None, AFTER_WORK).await?;
        self.read(&body).map(|Done { message }| message)
    }

    /// The client that was registered for an account, with its secrets; `None` if there is none.
    pub(crate) async fn registration(&mut self, id: &AccountId) -> Result<Option<Registration>, ClientError> {
        match self.call(Method::GET, &format!("/v1/accounts/{id}/client"), None, AFTER_WORK).await {
            Err(ClientError::Refused(problem)) if problem.is(kind::NO_SUCH_CLIENT) => Ok(None),
            Err(error) => Err(error),
            Ok(body) => match Registration::read_file(&body, id.as_str()) {
                Some(found) => Ok(Some(found)),
                None => Err(self.garbled("not a registration".to_owned())),
            },
        }
    }

    /// Has a registered client kept. Root may ask anybody's daemon, but gives its secrets to its own alone.
    ///
    /// # Errors
    ///
    /// [`ClientError::Foreign`], before anything is sent.
    pub(crate) async fn keep_registration(
        &mut self,
        id: &AccountId,
        registration: &Registration,
    ) -> Result<(), ClientError> {
        if !keeps_for_us(self.owner, own_uid(), users::shown_for_others()) {
            return Err(ClientError::Foreign { socket: self.socket.clone(), owner: self.owner });
        }
        let body = registration.write(id.as_str()).expose().to_owned();
        self.call(Method::PUT, &format!("/v1/accounts/{id}/client"), Some(body), AFTER_WORK).await.map(drop)
    }

    /// Has a registered client forgotten.
    pub(crate) async fn forget_registration(&mut self, id: &AccountId) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/v1/accounts/{id}/client"), None, AFTER_WORK).await.map(drop)
    }

    /// Changes the store's seal.
    pub(crate) async fn change_seal(
        &mut self,
        change: SealChange,
        passphrase: Option<&Secret>,
        recovery_code: Option<&Secret>,
    ) -> Result<SealAnswer, ClientError> {
        let (passphrase, code) = (passphrase.map(Secret::expose), recovery_code.map(Secret::expose));
        let order = json!({ "change": change, "passphrase": passphrase, "recovery_code": code }).to_string();
        let body = self.call(Method::POST, "/v1/seal", Some(order), AFTER_WORK).await?;
        self.read(&body)
    }

    /// Opens a store whose key was away, and undoes a lock; by what a person says, if one does.
    pub(crate) async fn unlock(&mut self, by: &Said) -> Result<SealAnswer, ClientError> {
        let order = match by {
            Said::Nothing => json!({}),
            Said::RecoveryCode(code) => json!({ "recovery_code": code.expose() }),
            Said::Passphrase(passphrase) => json!({ "passphrase": passphrase.expose() }),
        };
        let body = self.call(Method::POST, "/v1/unlock", Some(order.to_string()), AFTER_WORK).await?;
        self.read(&body)
    }

    /// Has no token leave until somebody unlocks; with `all`, the key and the refresh tokens are forgotten, too.
    pub(crate) async fn lock(&mut self, all: bool) -> Result<SealAnswer, ClientError> {
        let order = serde_json::to_string(&LockOrder { all }).expect("a word");
        let body = self.call(Method::POST, "/v1/lock", Some(order), AFTER_WORK).await?;
        self.read(&body)
    }

    /// Has a credential used that was last used on another machine. Returns what is so now, for people.
    pub(crate) async fn adopt(&mut self, id: &AccountId, adoption: Adoption) -> Result<String, ClientError> {
        let order = serde_json::to_string(&AdoptOrder { adoption }).expect("a word");
        let body = self.call(Method::POST, &format!("/v1/accounts/{id}/adopt"), Some(order), AFTER_WORK).await?;
        self.read(&body).map(|Done { message }| message)
    }

    /// Has the configuration read again. Returns when the new one is in force; refused with the problems if it has any.
    pub(crate) async fn reload(&mut self) -> Result<(), ClientError> {
        self.call(Method::POST, "/v1/reload", None, AFTER_WORK).await.map(drop)
    }

    /// What the daemon logs.
    pub(crate) async fn log_filter(&mut self) -> Result<String, ClientError> {
        let body = self.call(Method::GET, "/v1/log", None, AT_ONCE).await?;
        self.read(&body).map(|LogFilter { filter }| filter)
    }

    /// Has the daemon log otherwise from now on, until it is started anew.
    pub(crate) async fn set_log_filter(&mut self, filter: &str) -> Result<(), ClientError> {
        let body = json!({ "filter": filter }).to_string();
        self.call(Method::PUT, "/v1/log", Some(body), AT_ONCE).await.map(drop)
    }

    /// The client keys, without the keys themselves.
    pub(crate) async fn keys(&mut self) -> Result<Vec<KeyReport>, ClientError> {
        let body = self.call(Method::GET, "/v1/keys", None, AT_ONCE).await?;
        self.read(&body).map(|KeyList { keys }| keys)
    }

    /// Makes a client key that is kept: see [`Client::hold_key`] for one that is not. Returns the key, this once.
    pub(crate) async fn add_key(&mut self, new: &NewKey) -> Result<(Secret, KeyReport), ClientError> {
        let order = serde_json::to_string(&KeyOrder::of(new)).expect("texts and numbers");
        let body = self.call(Method::POST, "/v1/keys", Some(order), AFTER_WORK).await?;
        keys::read_made(&body).map_err(|detail| self.garbled(detail))
    }

    /// Revokes a client key.
    pub(crate) async fn revoke_key(&mut self, name: &KeyName) -> Result<String, ClientError> {
        let body = self.call(Method::DELETE, &format!("/v1/keys/{name}"), None, AFTER_WORK).await?;
        self.read(&body).map(|Done { message }| message)
    }

    /// Makes an ephemeral client key: one that the daemon forgets when the last copy of [`HeldKey`]'s descriptor is closed;
    /// `address` says whether its report names an address that ends with it, where its routes exist and no others.
    pub(crate) async fn hold_key(
        socket: &Path,
        new: NewKey,
        address: Option<AddressKind>,
    ) -> Result<HeldKey, ClientError> {
        let (stream, owner) = connect(socket).await?;
        let unreachable = |error| ClientError::Unreachable { socket: socket.to_owned(), error };
        let stream = stream.into_std().map_err(unreachable)?;
        let line = OwnedFd::from(stream.try_clone().map_err(unreachable)?);
        let (sender, connection) = http1::handshake(TokioIo::new(UnixStream::from_std(stream).map_err(unreachable)?))
            .await
            .map_err(|error| ClientError::Garbled { socket: socket.to_owned(), detail: error.to_string() })?;
        let serving = tokio::spawn(async move { drop(connection.await) });
        let mut client = Self { socket: socket.to_owned(), owner, sender };
        let order = KeyOrder::of(&NewKey { ephemeral: true, ..new }).with_address(address);
        let mut request =
            Request::new(Full::new(Bytes::from(serde_json::to_string(&order).expect("texts and numbers"))));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/v1/keys".parse().expect("a path");
        request.headers_mut().insert(HOST, HeaderValue::from_static("valetd"));
        let exchange = async {
            let answer = client.sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (status, mut body) = (answer.status(), answer.into_body());
            let mut text = Vec::new();
            // one line; the body does not end before the key does
            while !text.ends_with(b"\n") && text.len() < LARGEST_ANSWER {
                let Some(frame) = body.frame().await else { break };
                text.extend_from_slice(&frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default());
            }
            Ok::<_, String>((status, text))
        };
        let answered = timeout(AT_ONCE, exchange).await;
        // ended where it stands: its orderly end would shut the line down for all who hold it
        serving.abort();
        let _ = serving.await;
        let (status, text) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(detail)) => return Err(client.garbled(detail)),
            Err(_) => return Err(ClientError::Silent { socket: socket.to_owned(), after: AT_ONCE }),
        };
        if !status.is_success() {
            return Err(client.refusal(status, &text));
        }
        let (key, report) = keys::read_made(&text).map_err(|detail| client.garbled(detail))?;
        Ok(HeldKey { key, report, line })
    }

    /// Listens to what changes: from now on, and since the event `last_id`, if one is named. Takes the connection.
    pub(crate) async fn events(mut self, last_id: Option<u64>) -> Result<EventStream, ClientError> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = "/v1/events".parse().expect("a path");
        request.headers_mut().insert(HOST, HeaderValue::from_static("valetd"));
        if let Some(last_id) = last_id {
            request.headers_mut().insert("last-event-id", HeaderValue::from(last_id));
        }
        match timeout(AT_ONCE, self.sender.send_request(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => {
                Ok(EventStream { client: self, body: answer.into_body(), text: String::new() })
            }
            Ok(Ok(answer)) => {
                let status = answer.status();
                let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
                Err(self.refusal(status, &body.map(|body| body.to_bytes()).unwrap_or_default()))
            }
            Ok(Err(error)) => Err(self.garbled(error.to_string())),
            Err(_) => Err(ClientError::Silent { socket: self.socket.clone(), after: AT_ONCE }),
        }
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<String>,
        patience: Duration,
    ) -> Result<Bytes, ClientError> {
        let mut request = Request::new(Full::new(Bytes::from(body.unwrap_or_default())));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| self.garbled(format!("{path:?} is no path")))?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("valetd"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));

        let sender = &mut self.sender;
        let exchange = async {
            sender.ready().await.map_err(|error| error.to_string())?;
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            Ok::<_, String>((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let (status, body) = match timeout(patience, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(detail)) => return Err(ClientError::Ended { socket: self.socket.clone(), detail }),
            Err(_) => return Err(ClientError::Silent { socket: self.socket.clone(), after: patience }),
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(self.refusal(status, &body))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => ClientError::Refused(Box::new(problem)),
            Err(_) => self.garbled(format!("HTTP status {status}")),
        }
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.garbled(error.to_string()))
    }

    fn garbled(&self, detail: String) -> ClientError {
        ClientError::Garbled { socket: self.socket.clone(), detail }
    }
}

/// Connects, and says who listens: whoever called listen(2) on the socket (unix(7), `SO_PEERCRED`), which for one of a
/// service manager is the user that the manager runs as.
async fn connect(socket: &Path) -> Result<(UnixStream, u32), ClientError> {
    let socket = socket.to_owned();
    match timeout(AT_ONCE, UnixStream::connect(&socket)).await {
        Ok(Ok(stream)) => match stream.peer_cred().map(|peer| peer.uid()) {
            Ok(owner) if answers_us(owner, own_uid(), users::shown_for_others()) => Ok((stream, owner)),
            Ok(owner) => Err(ClientError::Foreign { socket, owner }),
            Err(error) => Err(ClientError::Unreachable { socket, error }),
        },
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(socket),
            _ => ClientError::Unreachable { socket, error },
        }),
        Err(_) => Err(ClientError::Silent { socket, after: AT_ONCE }),
    }
}

/// Whether `ours` may give its credentials to a daemon of `owner`: to its own, or to root's, who can read them anyway.
/// `others` is what everybody is shown as whom our user namespace does not know, if there may be such.
fn keeps_for_us(owner: u32, ours: u32, others: Option<u32>) -> bool {
    (owner == ours || owner == 0) && Some(owner) != others
}

/// Whether `ours` may act on what a daemon of `owner` says. Root, which looks after others' daemons, may ask all.
fn answers_us(owner: u32, ours: u32, others: Option<u32>) -> bool {
    keeps_for_us(owner, ours, others) || ours == 0
}

/// A user in words: `user 1000 (ada)`.
fn user(uid: u32) -> String {
    let name = users::name_of(uid).map(|name| format!(" ({})", name.escape_debug()));
    format!("user {uid}{}", name.unwrap_or_default())
}

/// An ephemeral client key and the connection that it lives on.
#[derive(Debug)]
pub(crate) struct HeldKey {
    /// The key.
    pub key: Secret,
    /// What it is good for.
    pub report: KeyReport,
    line: OwnedFd,
}

impl HeldKey {
    /// Hands the connection on to the program that this process becomes by `exec`, and to its children: the key then
    /// dies with the last of them.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn survive_exec(self) -> io::Result<Secret> {
        rustix::io::fcntl_setfd(&self.line, rustix::io::FdFlags::empty())?;
        // closed by the end of the program alone
        let _ = std::os::fd::IntoRawFd::into_raw_fd(self.line);
        Ok(self.key)
    }

    /// The key, and the connection that it ends with.
    pub(crate) fn into_parts(self) -> (Secret, OwnedFd) {
        (self.key, self.line)
    }
}

/// What changes, as it changes. The daemon says something every 15 s.
#[derive(Debug)]
pub(crate) struct EventStream {
    client: Client,
    body: Incoming,
    /// What has come and is no whole event yet.
    text: String,
}

/// Twice the daemon's heartbeat, and some: whoever is silent for longer is gone.
const LONGEST_SILENCE: Duration = Duration::from_secs(40);

impl EventStream {
    /// The next event; `None` when the daemon has ended. Safe to drop and to call again.
    ///
    /// # Errors
    ///
    /// If the daemon falls silent or says what is no event.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) {
                    return self.client.read(data.as_bytes()).map(Some);
                }
            }
            let socket = || self.client.socket.clone();
            match timeout(LONGEST_SILENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    // ASCII line ends cut no character in two, but a piece may: what is odd becomes U+FFFD
                    self.text.push_str(&String::from_utf8_lossy(&piece));
                }
                // a daemon that is killed leaves no end
                Ok(None | Some(Err(_))) => return Ok(None),
                Err(_) => return Err(ClientError::Silent { socket: socket(), after: LONGEST_SILENCE }),
            }
        }
    }
}

/// One of the places where a credential leaves: to the daemon that keeps it, over the user's own socket.
fn credential_body(new: &NewCredential, for_an_old_daemon: bool) -> String {
    let NewCredential {
        credential,
        client_id,
        refresh_lifetime,
        identity,
        person,
        unnamed,
        switches_user,
        missing_scopes: _,
        servers,
        trial,
        term,
        spent: _,
        sign_in,
    } = new;
    let password = credential.password.as_ref();
    let mut body = json!({
        "refresh_token": credential.refresh_token.as_ref().map(Secret::expose),
        "password": password.map(|(username, password)| json!({"username": username, "password": password.expose()})),
        "client_id": client_id,
        "refresh_lifetime": refresh_lifetime,
        "identity": identity,
    });
    if let Some(term) = term {
        // a daemon that does not know it refuses: what has no end there is not handed in
        body["term"] = json!(term);
    }
    if !for_an_old_daemon {
        body["trial"] = json!(trial);
        if let Some(person) = person {
            body["person"] = json!(person);
        }
        if let Some(why) = unnamed {
            body["unnamed"] = json!(why);
        }
        if let Some(sign_in) = sign_in {
            body["sign_in"] = json!(sign_in);
        }
        if *switches_user {
            body["switch_user"] = json!(true);
        }
        if let Some(servers) = servers {
            body["servers"] = json!(servers);
        }
    }
    body.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_for_a_daemon_of_our_own_or_of_roots() {
        const US: u32 = 1000;
        const NOBODY: u32 = 65534;
        for (name, owner, ours, others, keeps, answers) in [
            ("our own", US, US, None, true, true),
            ("root's", 0, US, None, true, true),
            ("another user's", 1001, US, None, false, false),
            ("root asks a user's", US, 0, None, false, true),
            ("root asks root's", 0, 0, None, true, true),
            ("in a user namespace, whoever it does not know", NOBODY, US, Some(NOBODY), false, false),
            ("in one, ourselves", US, US, Some(NOBODY), true, true),
            ("in one where we are nobody, anybody", NOBODY, NOBODY, Some(NOBODY), false, false),
        ] {
            assert_eq!(
                (keeps_for_us(owner, ours, others), answers_us(owner, ours, others)),
                (keeps, answers),
                "{name}"
            );
        }
    }
}
