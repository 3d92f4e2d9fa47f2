//! HTTP/2 without TLS, by prior knowledge (h2c): the client's end and the origin's. Besides plain GETs there are gRPC's unary
//! calls, and both ends make sure that a proxy passes on what gRPC needs: the message, `te: trailers` and the trailers.

use std::future::poll_fn;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;

use crate::load::{Address, Target};
use crate::origin::{SMALL_BODY, describe_authorization};
use crate::peers::Via;

const GRPC: &str = "application/grpc";

/// What a unary call says: the id of a scene, as protobuf would have it.
const MESSAGE: &[u8] = b"\n\x131030010045539700-P0";

const OK: &str = "0";
const INTERNAL: &str = "13";

/// What a client asks for, again and again.
pub(crate) struct Call {
    head: Request<()>,
    /// Of a unary call, with its prefix.
    message: Option<Bytes>,
}

impl Call {
    /// A unary call where the route is one for gRPC, a GET elsewhere.
    pub(crate) fn new(target: &Target, via: Via, path: &str) -> anyhow::Result<Self> {
        match via {
            Via::Grpc => {
                let head = head(target, Method::POST, path).header(CONTENT_TYPE, GRPC).header(TE, "trailers");
                Ok(Self { head: head.body(())?, message: Some(framed(MESSAGE)) })
            }
            Via::Plain | Via::Tls | Via::Distant | Via::H2c => {
                Ok(Self { head: head(target, Method::GET, path).body(())?, message: None })
            }
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.head.uri().path()
    }
}

fn head(target: &Target, method: Method, path: &str) -> Builder {
    let head = Request::builder().method(method).uri(target.url(path));
    let head = head.header(USER_AGENT, "side-by-side").header(ACCEPT, "*/*");
    match &target.access_token {
        Some(token) => head.header(AUTHORIZATION, format!("Bearer {token}")),
        None => head,
    }
}

/// A client's connection, which its clones share. It is closed when the last of them is gone.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        let Address::Tcp(address) = target.address else { bail!("no route over HTTP/2 has a unix socket") };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new().enable_push(false).handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Makes a call on a stream of its own and reads the whole answer; the body of a 200, or the message of a unary call
    /// that ended well.
    pub(crate) async fn exchange(&mut self, call: &Call) -> anyhow::Result<Bytes> {
        poll_fn(|context| self.sender.poll_ready(context)).await?;
        let (answer, mut up) = self.sender.send_request(call.head.clone(), call.message.is_none())?;
        if let Some(message) = &call.message {
            up.send_data(message.clone(), true)?;
        }
        let (head, mut body) = answer.await?.into_parts();
        ensure!(head.status == StatusCode::OK, "status {}", head.status);
        let bytes = whole(&mut body).await?;
        if call.message.is_none() {
            return Ok(bytes);
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        let status = trailers.get("grpc-status").context("no grpc-status in the trailers")?;
        ensure!(status == OK, "grpc-status {status:?}");
        let message = message_in(&bytes).context("not one whole message")?;
        Ok(bytes.slice_ref(message))
    }
}

/// The origin's end of one connection, until its client leaves.
pub(crate) async fn serve(stream: TcpStream) -> anyhow::Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        tokio::spawn(answer(request, respond));
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> anyhow::Result<()> {
    let (head, mut body) = request.into_parts();
    let json = match head.uri.path() {
        "/small" => Bytes::from_static(SMALL_BODY),
        "/authorization" => {
            let values = head.headers.get_all(AUTHORIZATION);
            describe_authorization(values.iter().map(HeaderValue::as_bytes)).into()
        }
        _ => {
            respond.send_response(Response::builder().status(StatusCode::NOT_FOUND).body(())?, true)?;
            return Ok(());
        }
    };
    let is = |name, value: &str| head.headers.get(name).is_some_and(|found| found == value);
    if !is(CONTENT_TYPE, GRPC) {
        let answer = Response::builder().header(CONTENT_TYPE, "application/json").body(())?;
        respond.send_response(answer, false)?.send_data(json, true)?;
        return Ok(());
    }
    let arrived = is(TE, "trailers") && message_in(&whole(&mut body).await?) == Some(MESSAGE);
    let status = HeaderValue::from_static(if arrived { OK } else { INTERNAL });
    let mut down = respond.send_response(Response::builder().header(CONTENT_TYPE, GRPC).body(())?, false)?;
    down.send_data(framed(&json), false)?;
    down.send_trailers(HeaderMap::from_iter([("grpc-status".parse()?, status)]))?;
    Ok(())
}

async fn whole(body: &mut RecvStream) -> anyhow::Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// A message behind gRPC's prefix: not compressed, and how long it is.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes.freeze()
}

/// The message of a body that consists of one.
fn message_in(body: &[u8]) -> Option<&[u8]> {
    let ([0, length @ ..], message) = body.split_first_chunk::<5>()? else { return None };
    (u32::from_be_bytes(*length) as usize == message.len()).then_some(message)
}
