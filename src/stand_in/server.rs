//! The server: takes connections and requests, and hands them to the issuer and to the providers' dialects.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::api::{Provider, answer};
use super::body::{Reply, TokenReply};
use super::faults::{self, Behaviour};
use super::issuer::Issuer;
use super::log::{ApiCall, Log, TokenCall, note};
use super::mcp::{self, McpServer};
use super::{gbdx, gdh, open_id};
use crate::platform::clock::wall;
use crate::secret::Secret;

pub(super) struct World {
    pub(super) provider: Provider,
    pub(super) url: String,
    pub(super) state: Mutex<State>,
    pub(super) mcp: Arc<McpServer>,
    /// Says that the log has grown.
    pub(super) changed: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) issuer: Issuer,
    pub(super) desk: open_id::Desk,
    pub(super) behaviour: Behaviour,
    /// Token calls until the behaviour is normal again; `None` is for ever.
    pub(super) calls_left: Option<u32>,
    pub(super) token_calls_running: u32,
    pub(super) log: Log,
}

impl World {
    /// Never held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn accept(listener: TcpListener, world: Arc<World>) {
    let mut connections = JoinSet::new(); // cut when this is aborted
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let _ = stream.set_nodelay(true);
        let world = world.clone();
        let service = service_fn(move |request| serve(world.clone(), request));
        // an error is a client that left, or a fault that was asked for
        connections.spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await });
    }
}

/// An error closes the connection without a response.
async fn serve(world: Arc<World>, request: Request<Incoming>) -> io::Result<Reply> {
    let (parts, body) = request.into_parts();
    let is_token_call = match world.provider {
        Provider::Gdh => gdh::is_token_call(&parts),
        Provider::Gbdx => gbdx::is_token_call(&parts),
        Provider::OpenId => open_id::is_token_call(&parts),
    };
    let answered =
        if is_token_call { token_call(&world, &parts, body).await } else { api_call(&world, &parts, body).await };
    world.changed.send_replace(());
    answered
}

/// Counts a call while it runs, also one whose client leaves.
struct Running<'a>(&'a World);

impl<'a> Running<'a> {
    fn start(world: &'a World) -> Self {
        let mut state = world.state();
        state.token_calls_running += 1;
        state.log.most_token_calls_at_once = state.log.most_token_calls_at_once.max(state.token_calls_running);
        Self(world)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().token_calls_running -= 1;
    }
}

async fn token_call(world: &World, parts: &Parts, body: Incoming) -> io::Result<Reply> {
    let _running = Running::start(world);
    let spared = parts.uri.path().ends_with("/revoke");
    let behaviour = if spared { Behaviour::Normal } else { next_behaviour(&mut world.state()) };
    if let Behaviour::Hang(pause) = behaviour {
        tokio::time::sleep(pause).await;
    }
    let done = match faults::in_its_place(&behaviour)? {
        Some(fault) => fault,
        None => {
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let State { issuer, desk, .. } = &mut *world.state();
            match world.provider {
                Provider::Gdh => gdh::redeem(issuer, parts, &body, wall()),
                Provider::Gbdx => gbdx::redeem(issuer, parts, &body, wall()),
                Provider::OpenId => open_id::redeem(desk, issuer, parts, &body, &world.url, wall()),
            }
        }
    };
    let TokenReply { grant, outcome, reply } = done;
    note(&mut world.state().log.token_calls, TokenCall { at: wall(), grant, outcome });
    match behaviour {
        Behaviour::ResetBefore | Behaviour::ResetAfter => Err(io::Error::other("reset, as asked")),
        Behaviour::SlowDrip(pause) => Ok(reply.map(|body| body.dripping(pause))),
        Behaviour::Compressed => Ok(faults::compressed(reply)),
        Behaviour::FormEncoded => Ok(faults::form_encoded(reply)),
        Behaviour::TokenType(name) => Ok(faults::with_token_type(reply, &name)),
        _ => Ok(reply),
    }
}

fn next_behaviour(state: &mut State) -> Behaviour {
    match &mut state.calls_left {
        None => state.behaviour.clone(),
        Some(0) => Behaviour::Normal,
        Some(left) => {
            *left -= 1;
            state.behaviour.clone()
        }
    }
}

async fn api_call(world: &World, parts: &Parts, body: Incoming) -> io::Result<Reply> {
    let fields: Vec<&str> =
        parts.headers.get_all(AUTHORIZATION).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    let token_valid = match fields.as_slice() {
        [field] => {
            let (token, kind) = match world.provider {
                Provider::Gdh => gdh::token(field),
                Provider::Gbdx => gbdx::token(field),
                Provider::OpenId => open_id::token(field),
            };
            token.is_some_and(|token| world.state().issuer.judge(token, wall()) == Some(kind))
        }
        _ => false,
    };
    let public = match world.provider {
        Provider::Gdh => gdh::public(&mut world.state().issuer, parts, &world.url),
        Provider::Gbdx => gbdx::public(parts),
        Provider::OpenId => {
            let State { issuer, desk, .. } = &mut *world.state();
            open_id::public(desk, issuer, parts, &world.url)
        }
    };
    let public = public.or_else(|| mcp::public(parts, &world.url).filter(|_| world.provider != Provider::OpenId));
    let reply = match (public, token_valid, world.provider) {
        (Some(reply), _, _) => reply,
        (None, false, _) if mcp::is_its(parts.uri.path()) => mcp::unauthorized(&world.url),
        (None, true, _) if mcp::is_its(parts.uri.path()) => mcp::answer(&world.mcp, parts, body).await?,
        (None, false, Provider::Gdh) => gdh::unauthorized(),
        (None, false, Provider::Gbdx) => gbdx::unauthorized(),
        (None, false, Provider::OpenId) => open_id::unauthorized(),
        (None, true, provider) => {
            let manners = world.state().desk.manners.clone();
            answer(provider, &manners, parts, body).await?
        }
    };
    let call = ApiCall {
        at: wall(),
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        authorization: fields.iter().map(|&field| Secret::new(field).fingerprint()).collect(),
        token_valid,
        status: reply.status().as_u16(),
    };
    note(&mut world.state().log.api_calls, call);
    Ok(reply)
}
