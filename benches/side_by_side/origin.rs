//! The API and the authorization server at the far end: a hand-written HTTP/1.1 server, because it shares a core with the
//! load generator and must not be what the run waits for. It runs on a thread of its own until the process ends. `/small` and
//! `/authorization` are there over HTTP/2 too, as [`http2`] serves them.
//!
//! | path | answer |
//! |---|---|
//! | `/small` | about 150 bytes of JSON |
//! | `/guarded` | the same, or 401 if the access token is older than [`Knobs::oldest_accepted`] |
//! | `/authorization` | how many `Authorization` fields came, and how long the last one was |
//! | `/down`, `/up` | [`BULK`] bytes; counts the bytes that it was sent |
//! | `/events` | an endless `text/event-stream`, one event every [`EVENT_SPACING`] |
//! | `/echo` | 101, then every byte comes back |
//! | `/token` | RFC 6749 section 5.1, an access token of [`ACCESS_TOKEN_LENGTH`] bytes |

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_rustls::TlsAcceptor;

use crate::http2;
use crate::load::{SWITCHING_PROTOCOLS, content_length, field, head_end};

/// What `/down` answers and what is sent to `/up`: 64 MiB, as a scene of a satellite's might be.
pub(crate) const BULK: u64 = 64 << 20;

/// As long as the access tokens that Cognito and Keycloak hand out.
pub(crate) const ACCESS_TOKEN_LENGTH: usize = 900;

/// Ends every event and occurs nowhere else, so that a reader counts events without parsing what carries them.
pub(crate) const EVENT_END: u8 = b'!';

/// A lively stream, yet slow enough that 1,000 of them leave every proxy idle most of the time.
pub(crate) const EVENT_SPACING: Duration = Duration::from_millis(100);

/// A round trip to an API on the other side of an ocean.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(80);

/// Each write of a large body; large enough that the origin's own work is mostly the kernel's.
static BLOCK: [u8; 256 * 1024] = [b'x'; 256 * 1024];

const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: 150\r\n\r\n\
{\"id\":\"1030010045539700-P0\",\"type\":\"Feature\",\"collection\":\"scenes\",\"cloud_cover\":0.07,\"sun_elevation\":41.25,\
\"bbox\":[12.4,55.6,12.7,55.8],\"ready\":true}";

/// [`SMALL`] without its head.
pub(crate) const SMALL_BODY: &[u8] = SMALL.split_at(97).1;

const _: () = assert!(SMALL_BODY.len() == 150, "Content-Length says 150");

/// What a workload may turn while the origin runs, and what it can read there.
#[derive(Default)]
pub(crate) struct Knobs {
    /// `expires_in` of the next access tokens, in seconds.
    pub(crate) lifetime: AtomicU64,
    /// The number of the latest access token.
    pub(crate) issued: AtomicU64,
    /// `/guarded` answers 401 to tokens with a smaller number.
    pub(crate) oldest_accepted: AtomicU64,
    /// How often it has done so.
    pub(crate) refused: AtomicU64,
}

impl Knobs {
    /// From now on `/guarded` refuses every access token that exists.
    pub(crate) fn refuse_all_issued(&self) {
        self.oldest_accepted.store(self.issued.load(Relaxed) + 1, Relaxed);
    }
}

/// The running origin.
pub(crate) struct Origin {
    /// Plain HTTP; `/token` too.
    pub(crate) plain: SocketAddr,
    /// The same over TLS, as `localhost`.
    pub(crate) tls: SocketAddr,
    /// The same over TLS, [`ROUND_TRIP`] away.
    pub(crate) distant: SocketAddr,
    /// HTTP/2 in plain text, and nothing else.
    pub(crate) h2c: SocketAddr,
    /// The certificate authority, PEM.
    pub(crate) authority: String,
    /// Trusts that authority; for a client that goes without a proxy.
    pub(crate) trusting: Arc<ClientConfig>,
    pub(crate) knobs: Arc<Knobs>,
}

impl Origin {
    /// Starts the origin on free ports.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (authority, server, client) = certificates()?;
        let knobs = Arc::new(Knobs { lifetime: AtomicU64::new(3600), ..Knobs::default() });
        let (tell, told) = mpsc::channel();
        let shared = knobs.clone();
        std::thread::Builder::new().name("origin".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime needs an epoll and nothing else").block_on(async {
                let listeners = async {
                    let any = (Ipv4Addr::LOCALHOST, 0);
                    Ok::<_, io::Error>([
                        TcpListener::bind(any).await?,
                        TcpListener::bind(any).await?,
                        TcpListener::bind(any).await?,
                        TcpListener::bind(any).await?,
                    ])
                };
                let listeners = match listeners.await {
                    Ok(listeners) => listeners,
                    Err(error) => return drop(tell.send(Err(error))),
                };
                let addresses: io::Result<Vec<_>> = listeners.iter().map(TcpListener::local_addr).collect();
                let tls_address = addresses.as_ref().ok().map(|addresses| addresses[1]);
                drop(tell.send(addresses));
                let [plain, tls, distant, h2c] = listeners;
                let tls_address = tls_address.expect("a bound listener has an address");
                tokio::join!(
                    accept_plain(plain, shared.clone()),
                    accept_tls(tls, server, shared),
                    delay(distant, tls_address),
                    accept_h2c(h2c)
                );
            });
        })?;
        let addresses = told.recv()??;
        let [plain, tls, distant, h2c] = addresses[..] else { unreachable!("as many addresses as listeners") };
        Ok(Self { plain, tls, distant, h2c, authority, trusting: client, knobs })
    }
}

/// The access token of this number, as `/token` issues it and as the static proxies add it.
pub(crate) fn access_token(number: u64) -> String {
    format!("n{number:08}.{}", "eyJhbGciOiJSUzI1NiJ9".repeat(50)).chars().take(ACCESS_TOKEN_LENGTH).collect()
}

fn certificates() -> anyhow::Result<(String, Arc<ServerConfig>, Arc<ClientConfig>)> {
    let authority_key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // this and the identifier below are what newer Pythons insist on (VERIFY_X509_STRICT)
    parameters.key_usages.push(KeyUsagePurpose::KeyCertSign);
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "side by side");
    let authority = parameters.self_signed(&authority_key)?;
    let issuer = Issuer::from_params(&parameters, &authority_key);
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
    parameters.use_authority_key_identifier_extension = true;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    let certificate = parameters.signed_by(&key, &issuer)?;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
    // HTTP/1.1 for everyone: nginx speaks nothing newer to an upstream, and a comparison of protocols would be another one
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // a direct caller here stands for a one-shot program, which has no session to resume
    client.resumption = rustls::client::Resumption::disabled();
    Ok((authority.pem(), Arc::new(server), Arc::new(client)))
}

async fn accept_plain(listener: TcpListener, knobs: Arc<Knobs>) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        tokio::spawn(serve(stream, knobs.clone()));
    }
}

async fn accept_tls(listener: TcpListener, config: Arc<ServerConfig>, knobs: Arc<Knobs>) {
    let acceptor = TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        let (acceptor, knobs) = (acceptor.clone(), knobs.clone());
        tokio::spawn(async move { serve(acceptor.accept(stream).await?, knobs).await });
    }
}

async fn accept_h2c(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        tokio::spawn(http2::serve(stream));
    }
}

/// Serves one connection until its client leaves.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, knobs: Arc<Knobs>) -> io::Result<()> {
    // most connections only ever see small requests, and there may be thousands of them
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        let end = loop {
            if let Some(end) = head_end(&buffer[..filled]) {
                break end;
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                read => filled += read,
            }
        };
        let head = &buffer[..end];
        let path = head.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
        // the body's length matters only where there may be a body; a GET must not pay for the search
        let expected = if head.starts_with(b"GET ") { 0 } else { content_length(head).unwrap_or(0) };
        let answer = match path {
            b"/small" | b"/up" => Answer::Whole(SMALL.into()),
            b"/guarded" if number_of(head) >= knobs.oldest_accepted.load(Relaxed) => Answer::Whole(SMALL.into()),
            b"/guarded" => {
                knobs.refused.fetch_add(1, Relaxed);
                let refusal = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\nContent-Length: 0\r\n\r\n";
                Answer::Whole(refusal.to_vec())
            }
            b"/authorization" => Answer::Whole(json(&describe_authorization(field(head, "authorization")))),
            b"/token" => Answer::Whole(json(&grant(&knobs))),
            b"/down" => Answer::Bulk,
            b"/events" => Answer::Events,
            b"/echo" => Answer::Echo,
            _ => Answer::Whole(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        };

        // the rest of the body, then whatever came behind it (nothing: no client here pipelines)
        let mut left = expected.saturating_sub((filled - end) as u64);
        if left > buffer.len() as u64 {
            buffer.resize(BLOCK.len(), 0);
        }
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                read => left = left.saturating_sub(read as u64),
            }
        }
        filled = 0;

        match answer {
            Answer::Whole(bytes) => stream.write_all(&bytes).await?,
            Answer::Bulk => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {BULK}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                for _ in 0..BULK / BLOCK.len() as u64 {
                    stream.write_all(&BLOCK).await?;
                }
            }
            Answer::Events => return send_events(stream).await,
            Answer::Echo => {
                stream.write_all(SWITCHING_PROTOCOLS).await?;
                loop {
                    match stream.read(&mut buffer).await? {
                        0 => return Ok(()),
                        read => stream.write_all(&buffer[..read]).await?,
                    }
                    stream.flush().await?;
                }
            }
        }
        stream.flush().await?;
    }
}

enum Answer {
    Whole(Vec<u8>),
    Bulk,
    Events,
    Echo,
}

fn json(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn grant(knobs: &Knobs) -> String {
    let number = knobs.issued.fetch_add(1, Relaxed) + 1;
    let (token, lifetime) = (access_token(number), knobs.lifetime.load(Relaxed));
    format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{lifetime}}}"#)
}

/// The number of the access token in a request's head; 0 if it carries none of ours.
fn number_of(head: &[u8]) -> u64 {
    let value = field(head, "authorization").next().and_then(|value| std::str::from_utf8(value).ok());
    value.and_then(|value| value.strip_prefix("Bearer n")?.get(..8)?.parse().ok()).unwrap_or(0)
}

/// The answer to `/authorization`, from the values of these fields.
pub(crate) fn describe_authorization<'a>(values: impl Iterator<Item = &'a [u8]>) -> String {
    let fields: Vec<_> = values.collect();
    format!(r#"{{"fields":{},"length":{}}}"#, fields.len(), fields.last().map_or(0, |value| value.len()))
}

async fn send_events<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    // X-Accel-Buffering is nginx's own way to be told; the others recognise the type
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).await?;
    let event =
        format!("event: progress\ndata: {{\"scene\":\"1030010045539700\",\"percent\":42}}{}\n\n", EVENT_END as char);
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let mut ticks = interval(EVENT_SPACING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        stream.write_all(chunk.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// Stands for distance: whatever passes is half a [`ROUND_TRIP`] late, and an accepted connection is served a whole one
/// later, which is what connecting would have taken. There is no loss, no slow start and no limit on the rate.
async fn delay(listener: TcpListener, origin: SocketAddr) {
    while let Ok((near, _)) = listener.accept().await {
        tokio::spawn(async move {
            sleep(ROUND_TRIP).await;
            let far = TcpStream::connect(origin).await?;
            drop((near.set_nodelay(true), far.set_nodelay(true)));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(pass_late(near_in, far_out));
            pass_late(far_in, near_out).await
        });
    }
}

async fn pass_late<R: AsyncRead + Unpin, W: AsyncWrite + Unpin + Send + 'static>(
    mut from: R,
    mut to: W,
) -> io::Result<()> {
    let (send, mut receive) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(1024);
    tokio::spawn(async move {
        while let Some((at, bytes)) = receive.recv().await {
            sleep_until(at).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    });
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 || send.send((Instant::now() + ROUND_TRIP / 2, buffer[..read].to_vec())).await.is_err() {
            return Ok(());
        }
    }
}
