//! Another user of the same machine who means harm: connects, and is silent, deaf, long-winded or quick. Only root can play
//! one.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Uid, getrlimit, setrlimit};
use valetd::stand_in::{Options, Provider};

use crate::support::keys::add;
use crate::support::lab::{self, Server, address, ping};
use crate::support::{Answer, Daemon, Home, PATIENCE, eventually, free_address, read_answer, send};

const NOBODY: u32 = 65534;

/// What a refused client that reads its answer is given, and has.
const SOON: Duration = Duration::from_secs(10);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can be somebody else");
    }
    root
}

/// Does something as another user, who then owns the sockets that it opens.
fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let somebody_else = scope.spawn(|| {
            let nobody = Uid::from_raw(NOBODY);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may be anybody");
            act()
        });
        somebody_else.join().expect("no panic")
    })
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the kernel takes it");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream
}

/// A daemon with these limits of descriptors, soft and hard.
fn start<'h>(home: &'h Home, descriptors: &str) -> Daemon<'h> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let plain = home.valetd(&["run"]);
    let binary = std::env::var("VALETD").unwrap_or_else(|_| env!("CARGO_BIN_EXE_valetd").to_owned());
    let mut command = Command::new("prlimit");
    command.args([&format!("--nofile={descriptors}"), &binary, "run", "--log", "info"]).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    let daemon = home.start_as(command);
    daemon.until("lab", "usable");
    daemon
}

/// The two ways in which a daemon meets strangers: no client key exists, or one does.
fn with_and_without_a_key(story: impl Fn(&Daemon<'_>, &str, Option<&str>)) {
    if !is_root() {
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    for has_key in [false, true] {
        let home = lab::home(&server, "", "", "workers = 1");
        let daemon = start(&home, "1024:1024");
        let key = has_key.then(|| add(&home, "agent", &["--route", "lab"]));
        story(&daemon, &address(&daemon), key.as_deref());
    }
}

fn get(path: &str, address: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n").into_bytes()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A client's beginning; `window` is what the server may send on a stream.
fn preface(window: u32) -> Vec<u8> {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()
}

/// A GET (RFC 7541: `:method` and `:scheme` are in the table, the others are literals).
fn head(stream: u32, path: &str, address: &str, key: Option<&str>) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    let mut block = [&[0x82, 0x86, 0x04][..], &text(path), &[0x01], &text(address)].concat();
    if let Some(key) = key {
        block.extend([&[0][..], &text("x-valetd-key"), &text(key)].concat());
    }
    frame(HEADERS, 0x5, stream, &block)
}

/// A server's frames until the connection's end: kind, flags, stream, payload.
fn frames(stream: &mut TcpStream) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut frames = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(ended.as_ref().map_or_else(is_reset, |_| true), "the connection does not end: {ended:?}");
    let mut rest = &bytes[..];
    while let Some((header, more)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        let (payload, more) = more.split_at(length.min(more.len()));
        frames.push((header[3], header[4], stream, payload.to_vec()));
        rest = more;
    }
    frames
}

fn proc(daemon: &Daemon<'_>, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", daemon.child.id())).expect("it runs")
}

/// Resident memory in KiB.
fn memory(daemon: &Daemon<'_>) -> u64 {
    let status = proc(daemon, "status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Processor time in hundredths of a second, in user space and in the kernel.
fn cpu(daemon: &Daemon<'_>) -> u64 {
    let stat = proc(daemon, "stat");
    let rest = stat.rsplit_once(") ").expect("a name in brackets").1;
    rest.split(' ').skip(11).take(2).map(|number| number.parse::<u64>().expect("a number")).sum()
}

#[test]
fn silent_connections_of_another_user_take_no_place_of_the_owners() {
    with_and_without_a_key(|daemon, address, key| {
        let mut before = connect(address);
        let silent: Vec<TcpStream> = as_nobody(|| (0..980).map(|_| connect(address)).collect());
        for request in 0..8 {
            assert_eq!(ping(address).status, 200, "{request}, with a key: {}", key.is_some());
        }
        before.write_all(&get("/lab/ping", address, "")).expect("sent");
        assert_eq!(read_answer(&mut BufReader::new(&before), true).expect("an answer").status, 200);
        let connections = || daemon.status()["daemon"]["connections"].as_u64();
        eventually("they are gone, and the owner's is not", || (connections() == Some(1)).then_some(()));
        drop((silent, before));
    });
}

#[test]
fn streams_that_another_user_never_reads_hold_no_memory_and_end() {
    with_and_without_a_key(|daemon, address, key| {
        ping(address);
        let before = memory(daemon);
        let mut deaf: Vec<TcpStream> = as_nobody(|| (0..40).map(|_| connect(address)).collect());
        for stream in &mut deaf {
            let mut bytes = preface(0);
            (0..256).for_each(|number| bytes.extend(head(2 * number + 1, "/lab/ping", address, None)));
            let _ = stream.write_all(&bytes); // it may be closed already
        }
        for stream in &mut deaf {
            let heads = frames(stream).iter().filter(|(kind, ..)| *kind == HEADERS).count();
            assert!(heads <= 1, "{heads} streams of a stranger were looked at");
        }
        let grown = memory(daemon).saturating_sub(before);
        assert!(grown < 16 * 1024, "{grown} KiB, with a key: {}", key.is_some());
        assert_eq!(ping(address).status, 200);
    });
}

#[test]
fn small_frames_without_a_request_are_no_way_to_keep_the_daemon_busy() {
    with_and_without_a_key(|_, address, key| {
        ping(address);
        let kinds = [
            ("SETTINGS", frame(SETTINGS, 0, 0, b"")),
            ("PING", frame(6, 0, 0, b"12345678")),
            ("PRIORITY", frame(2, 0, 1, b"\0\0\0\0\x01")),
            ("WINDOW_UPDATE", frame(8, 0, 0, b"\0\0\0\x01")),
            ("frames that nobody knows", frame(0xbe, 0, 0, b"")),
            ("frames of a head", frame(9, 0, 1, b"")),
        ];
        for (kind, small) in kinds {
            let bytes = [preface(65535), small.repeat(72_000 / small.len())].concat();
            let (answers, took) = as_nobody(|| {
                let since = Instant::now();
                let mut stream = connect(address);
                let _ = stream.write_all(&bytes); // it may be closed already
                (frames(&mut stream).len(), since.elapsed())
            });
            let case = format!("{kind}, with a key: {}", key.is_some());
            assert!(answers < 150, "{case}: {answers} answers");
            assert!(took < Duration::from_millis(1500), "{case}: hung up on after {took:?}");
        }
        let usual = [SETTINGS, 8, 2, 2, 2, 2, 2, 6].map(|kind| match kind {
            SETTINGS => frame(SETTINGS, 0, 0, b""),
            8 => frame(8, 0, 0, b"\0\0\0\x01"),
            2 => frame(2, 0, 3, b"\0\0\0\0\x01"),
            kind => frame(kind, 0, 0, b"12345678"),
        });
        let told = as_nobody(|| {
            let mut stream = connect(address);
            stream
                .write_all(&[&preface(65535)[..], &usual.concat(), &head(9, "/lab/ping", address, key)].concat())
                .expect("sent");
            stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
            let (mut told, mut part) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = stream.read(&mut part) {
                told.extend_from_slice(&part[..read]);
            }
            told
        });
        let answer = if key.is_some() { &[HEADERS, 4, 0, 0, 0, 9][..] } else { b"Check: peer." };
        assert!(told.windows(answer.len()).any(|part| part == answer), "{told:?}");
    });
}

#[test]
fn a_stranger_can_read_why_it_is_refused_however_it_asks_and_then_the_connection_ends() {
    with_and_without_a_key(|_, address, key| {
        let body = "x".repeat(300_000);
        let get = get("/lab/ping", address, "");
        let post = format!("POST /lab/x HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let long = format!("GET /lab/x HTTP/1.1\r\nHost: {address}\r\nA: {}\r\n\r\n", &body[..20_000]);
        let rows: [(&str, Vec<&[u8]>, Duration); 6] = [
            ("at once", vec![&get], Duration::ZERO),
            ("twice at once", vec![&get, &get], Duration::ZERO),
            ("late", vec![&get], Duration::from_millis(500)),
            ("byte by byte", get.chunks(1).collect(), Duration::ZERO),
            ("with a body", vec![post.as_bytes()], Duration::ZERO),
            ("with a long head", vec![long.as_bytes()], Duration::ZERO),
        ];
        for (case, pieces, pause) in rows {
            let (answer, rest) = as_nobody(|| {
                let mut stream = connect(address);
                thread::sleep(pause);
                for piece in pieces {
                    let _ = stream.write_all(piece); // all is said already, perhaps
                }
                let mut reader = BufReader::new(stream);
                let answer = read_answer(&mut reader, true);
                let mut rest = Vec::new();
                (answer, reader.read_to_end(&mut rest).map(|_| rest))
            });
            let case = format!("{case}, with a key: {}", key.is_some());
            let answer = answer.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(answer.status, 403, "{case}");
            assert_eq!(answer.json()["check"], "peer", "{case}");
            assert_eq!(answer.header("connection"), Some("close"), "{case}");
            let is_over =
                rest.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, Vec::is_empty);
            assert!(is_over, "{case}: {rest:?}");
        }
        let head_only = as_nobody(|| {
            let mut stream = connect(address);
            write!(stream, "HEAD /lab/ping HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("its end");
            text
        });
        assert!(head_only.starts_with("HTTP/1.1 403 ") && head_only.ends_with("\r\n\r\n"), "{head_only}");
        let told = as_nobody(|| {
            let mut stream = connect(address);
            let bytes = [preface(65535), head(1, "/lab/ping", address, None), head(3, "/lab/ping", address, key)];
            stream.write_all(&bytes.concat()).expect("sent");
            frames(&mut stream)
        });
        assert!(told.iter().any(|(kind, ..)| *kind == GOAWAY), "{told:?}");
        assert!(told.iter().any(|(kind, _, stream, _)| (*kind, *stream) == (HEADERS, 1)), "{told:?}");
        assert!(told.iter().all(|(_, _, stream, _)| *stream < 3), "what follows a refusal is not looked at: {told:?}");
        let said: Vec<u8> = told.iter().filter(|(kind, ..)| *kind == DATA).flat_map(|frame| frame.3.clone()).collect();
        assert!(String::from_utf8_lossy(&said).contains("Check: peer."), "{told:?}");
    });
}

#[test]
fn a_stranger_has_two_seconds_to_show_a_key_and_as_long_as_anybody_with_one() {
    with_and_without_a_key(|_, address, key| {
        let Some(key) = key else { return };
        type Drip<'a> = &'a (dyn Fn(&mut TcpStream) + Sync);
        let drips: [(&str, Drip<'_>); 4] = [
            ("silent", &|_| {}),
            ("dripping", &|stream| _ = stream.write_all(b"x")),
            ("dripping PINGs", &|stream| _ = stream.write_all(&frame(6, 0, 0, &[0; 8]))),
            ("looking for the key", &|stream| _ = stream.write_all(b"X-Valetd-Key: vk_\r\n")),
        ];
        for (case, drip) in drips {
            let took = as_nobody(|| {
                let since = Instant::now();
                let mut stream = connect(address);
                stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
                match case {
                    "dripping PINGs" => stream.write_all(&preface(0)).expect("sent"),
                    "looking for the key" => stream.write_all(b"GET /lab/ping HTTP/1.1\r\n").expect("sent"),
                    _ => {}
                }
                let is_over = |stream: &mut TcpStream| match stream.read(&mut [0; 256]) {
                    Ok(read) => read == 0,
                    Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
                };
                while !is_over(&mut stream) {
                    assert!(since.elapsed() < SOON, "{case} for ever");
                    thread::sleep(Duration::from_millis(20));
                    drip(&mut stream);
                }
                since.elapsed()
            });
            assert!(took >= Duration::from_millis(1900), "{case}: {took:?}");
        }
        // a pause that no stranger has
        as_nobody(|| {
            let mut stream = connect(address);
            for _ in 0..2 {
                stream.write_all(&get("/lab/ping", address, &format!("X-Valetd-Key: {key}\r\n"))).expect("sent");
                let answer = read_answer(&mut BufReader::new(&stream), true).expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.text());
                thread::sleep(Duration::from_millis(2500));
            }
        });
    });
}

#[test]
fn on_an_open_listener_nobody_keeps_a_place_without_a_key() {
    let server = Server::start(Provider::Gdh, Options::default());
    let open = free_address().replace("127.0.0.1", "0.0.0.0");
    let config = lab::config(&server, "", "", "require_key = true\nworkers = 1");
    let home = Home::with(&config.replace("\"127.0.0.1:0\"", &format!("\"{open}\", \"127.0.0.1:0\"")));
    lab::sign_in(&home, &server.sign_in());
    let daemon = start(&home, "1024:1024");
    let key = add(&home, "agent", &["--route", "lab"]);
    let addresses = daemon.status()["daemon"]["listen"].clone();
    let local = addresses[1].as_str().expect("two listeners").to_owned();
    let open = open.replace("0.0.0.0", "127.0.0.1");
    let mut silent: Vec<TcpStream> = (0..700).map(|_| connect(&open)).collect();
    for address in [&open, &local] {
        let answer = send(address, "GET", "/lab/ping", &[("X-Valetd-Key", &key)], b"").expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for stream in &mut silent {
        assert!(stream.read(&mut [0; 1]).map_or(true, |read| read == 0), "nobody answers what nobody asked");
    }
    let mut refused = connect(&open);
    refused.write_all(&[get("/lab/ping", &open, ""), get("/lab/ping", &open, "")].concat()).expect("sent");
    let mut reader = BufReader::new(refused);
    let answer = read_answer(&mut reader, true).expect("an answer");
    assert_eq!((answer.status, answer.json()["check"].as_str()), (403, Some("key-required")));
    let mut rest = Vec::new();
    assert!(reader.read_to_end(&mut rest).is_err() || rest.is_empty(), "the connection ends");
}

#[test]
fn on_a_unix_socket_that_others_may_open_strangers_take_no_place_either() {
    if !is_root() {
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let sockets = tempfile::tempdir().expect("a folder");
    let socket = sockets.path().join("http.sock");
    let config = lab::config(&server, "", "", "workers = 1\nclients = [\"self\", \"user:1\"]");
    let home = Home::with(&config.replace("\"127.0.0.1:0\"", &format!("\"unix:{}\"", socket.display())));
    fs::set_permissions(sockets.path(), fs::Permissions::from_mode(0o711)).expect("open to all");
    lab::sign_in(&home, &server.sign_in());
    let daemon = start(&home, "1024:1024");
    let connect = || {
        let stream = UnixStream::connect(&socket).expect("the kernel takes it");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream
    };
    let ask = || {
        let mut stream = connect();
        stream.write_all(&get("/lab/ping", "v", "")).expect("sent");
        read_answer(&mut BufReader::new(stream), true).expect("an answer")
    };
    for has_key in [false, true] {
        if has_key {
            add(&home, "agent", &["--route", "lab"]);
        }
        let silent: Vec<UnixStream> = as_nobody(|| (0..980).map(|_| connect()).collect());
        assert_eq!(ask().status, 200);
        let refused = as_nobody(ask);
        assert_eq!((refused.status, refused.json()["check"].as_str()), (403, Some("peer")));
        drop(silent);
    }
    drop(daemon);
}

#[test]
fn with_a_key_in_the_first_request_a_connection_has_its_many_streams() {
    const STREAMS: usize = 60;
    if !is_root() {
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    // nobody is answered before all have asked
    let upstream = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", upstream.local_addr().expect("an address"));
    let all = Arc::new(Barrier::new(STREAMS));
    thread::spawn(move || {
        for stream in upstream.incoming().flatten() {
            let all = all.clone();
            thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    (&stream).read_exact(&mut byte).expect("a head");
                    head.push(byte[0]);
                }
                all.wait();
                (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("sent");
            });
        }
    });
    let home = lab::home(&server, "", &format!("upstream = \"{url}\""), "workers = 1");
    let daemon = start(&home, "1024:1024");
    let key = add(&home, "agent", &["--route", "lab"]);
    let address = address(&daemon);
    let told = as_nobody(|| {
        let mut stream = connect(&address);
        let mut bytes = preface(65535);
        for number in 0..STREAMS as u32 {
            bytes.extend(head(2 * number + 1, "/lab/x", &address, Some(&key)));
        }
        stream.write_all(&bytes).expect("sent");
        let mut answered = 0;
        let mut reader = BufReader::new(&stream);
        while answered < STREAMS {
            let mut header = [0; 9];
            reader.read_exact(&mut header).expect("a frame");
            let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
            reader.read_exact(&mut payload).expect("a frame");
            assert_ne!(header[3], RST_STREAM, "a stream was not taken");
            // :status 200 is in the table
            answered += usize::from(header[3] == HEADERS && payload.contains(&0x88));
        }
        stream.shutdown(Shutdown::Write).expect("shut");
        answered
    });
    assert_eq!(told, STREAMS);
}

#[test]
fn a_refusal_that_the_owner_never_reads_ends_too() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "workers = 1");
    let daemon = start(&home, "1024:1024");
    let address = address(&daemon);
    let mut deaf = connect(&address);
    deaf.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let paths = ["/nowhere", "/lab/a%00b"];
    let mut bytes = preface(0);
    for (number, path) in (0..).zip(paths) {
        bytes.extend(head(2 * number + 1, path, &address, None));
    }
    deaf.write_all(&bytes).expect("sent");
    let mut reset = Vec::new();
    while reset.len() < paths.len() {
        let mut header = [0; 9];
        deaf.read_exact(&mut header).expect("a frame");
        let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        deaf.read_exact(&mut payload).expect("a frame");
        if header[3] == RST_STREAM {
            reset.push(header[8]);
        }
    }
    reset.sort_unstable();
    assert_eq!(reset, [1, 3]);
}

#[test]
fn all_http2_connections_of_the_owner_together_may_open_a_bounded_number_of_streams() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "workers = 1");
    let daemon = start(&home, "1024:1024");
    let address = address(&daemon);
    let streams: Vec<(TcpStream, u32)> = (0..40)
        .map(|_| {
            let mut stream = connect(&address);
            stream.write_all(&preface(65535)).expect("sent");
            let mut header = [0; 9];
            stream.read_exact(&mut header).expect("a frame");
            assert_eq!(header[3], SETTINGS);
            let mut settings = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
            stream.read_exact(&mut settings).expect("a frame");
            let most = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("MAX_CONCURRENT_STREAMS");
            (stream, u32::from_be_bytes(most[2..].try_into().expect("four bytes")))
        })
        .collect();
    assert_eq!(streams[0].1, 256);
    let all: u32 = streams.iter().map(|(_, most)| most).sum();
    assert!(all <= 1024 + 40 * 8, "{all}");
}

#[test]
fn as_many_clients_are_served_as_the_hard_limit_of_descriptors_lets_in() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "workers = 1");
    let daemon = start(&home, "128:2048");
    let limits = proc(&daemon, "limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    assert_eq!(line.split_whitespace().nth(3), Some("2048"), "{line}");
    let address = address(&daemon);
    let idle: Vec<TcpStream> = (0..500).map(|_| connect(&address)).collect();
    assert_eq!(ping(&address).status, 200);
    for mut stream in idle {
        stream.write_all(&get("/lab/ping", &address, "Connection: close\r\n")).expect("sent");
        assert_eq!(read_answer(&mut BufReader::new(stream), true).expect("an answer").status, 200);
    }
}

#[test]
fn a_flood_of_another_users_leaves_the_owner_every_answer_and_the_memory_as_it_was() {
    with_and_without_a_key(|daemon, address, key| {
        ping(address);
        let before = memory(daemon);
        let flood = Flood::start(address, 2000);
        let end = Instant::now() + Duration::from_secs(4);
        let mut asked = 0;
        while Instant::now() < end {
            assert_eq!(ping(address).status, 200, "request {asked}, with a key: {}", key.is_some());
            asked += 1;
        }
        let attempts = flood.stop();
        let grown = memory(daemon).saturating_sub(before);
        assert!(grown < 16 * 1024, "{grown} KiB after {attempts} attempts, with a key: {}", key.is_some());
        println!("{asked} requests of the owner beside {attempts} attempts");
        assert!(asked > 10 && attempts > 500, "{asked} {attempts}");
    });
}

/// `cargo test --test it measure_what_a_stranger_costs -- --ignored --nocapture`, with `VALETD` for another binary than
/// the one of this build.
#[test]
#[ignore = "it prints what a flood costs, in minutes"]
fn measure_what_a_stranger_costs() {
    with_and_without_a_key(|daemon, address, key| {
        let mode = if key.is_some() { "a key exists" } else { "no key" };
        let p99 = |address: &str| {
            let mut times = Vec::new();
            let mut failed = 0;
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end {
                let since = Instant::now();
                match try_ping(address) {
                    Some(answer) if answer.status == 200 => times.push(since.elapsed()),
                    _ => failed += 1,
                }
                thread::sleep(Duration::from_millis(2));
            }
            times.sort();
            let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
            (at(99).copied().unwrap_or_default(), at(50).copied().unwrap_or_default(), times.len(), failed)
        };
        let closer = TcpListener::bind("127.0.0.1:0").expect("a port");
        let elsewhere = closer.local_addr().expect("an address").to_string();
        thread::spawn(move || closer.incoming().for_each(drop));
        let idle = memory(daemon);
        for (what, target) in [("accept and close", elsewhere.as_str()), ("valetd", address)] {
            let mut runs = Vec::new();
            for _ in 0..5 {
                let flood = Flood::start(target, 2000);
                let before = cpu(daemon);
                let (p99, p50, good, failed) = p99(address);
                let attempts = flood.stop();
                let ticks = cpu(daemon) - before;
                let each = ticks as f64 * 10_000.0 / attempts as f64;
                println!(
                    "{mode}, {what}: p99 {p99:?}, p50 {p50:?}, {good} good, {failed} failed, {attempts} attempts, {each:.0} us an attempt with the owner's, {} KiB more",
                    memory(daemon) as i64 - idle as i64
                );
                runs.push(p99);
            }
            runs.sort();
            println!("{mode}, {what}: median p99 {:?}", runs[2]);
        }
        for kind in [&[Kind::Silent][..], &[Kind::Deaf], &[Kind::Oversized], &[Kind::Looping]] {
            let flood = Flood::of(address, 2000, kind);
            let before = cpu(daemon);
            thread::sleep(Duration::from_secs(5));
            let ticks = cpu(daemon) - before;
            let attempts = flood.stop();
            let each = ticks as f64 * 10_000.0 / attempts as f64;
            println!(
                "{mode}, {kind:?} alone: {attempts} attempts, {each:.0} us each, {} KiB more",
                memory(daemon) as i64 - idle as i64
            );
        }
    });
}

fn try_ping(address: &str) -> Option<Answer> {
    crate::support::get(address, "/lab/ping").ok()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Silent,
    Deaf,
    Oversized,
    Looping,
}

/// Another user who connects so often, until it is stopped.
struct Flood {
    goes_on: Arc<AtomicBool>,
    attempts: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    fn start(address: &str, per_second: u32) -> Self {
        Self::of(address, per_second, &[Kind::Silent, Kind::Deaf, Kind::Oversized, Kind::Looping])
    }

    fn of(address: &str, per_second: u32, kinds: &'static [Kind]) -> Self {
        const THREADS: u32 = 8;
        let (goes_on, attempts) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
        let threads = (0..THREADS).map(|number| {
            let (goes_on, attempts, address) = (goes_on.clone(), attempts.clone(), address.to_owned());
            let spacing = Duration::from_secs(1) * THREADS / per_second;
            thread::spawn(move || {
                as_nobody(|| {
                    let mut held = VecDeque::new();
                    let (mut next, mut turn) = (Instant::now(), number as usize);
                    while goes_on.load(Ordering::Relaxed) {
                        thread::sleep(next.saturating_duration_since(Instant::now()));
                        next = (next + spacing).max(Instant::now() - Duration::from_millis(100));
                        if let Some(stream) = attempt(&address, kinds[turn % kinds.len()]) {
                            held.push_back(stream);
                            if held.len() > 125 {
                                held.pop_front();
                            }
                        }
                        turn += 1;
                        attempts.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
        });
        let threads = threads.collect();
        Self { goes_on, attempts, threads }
    }

    /// Returns how often it has tried.
    fn stop(self) -> usize {
        self.goes_on.store(false, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        self.attempts.load(Ordering::Relaxed)
    }
}

/// One connection, and it if it stays.
fn attempt(address: &str, kind: Kind) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    let _ = stream.set_nonblocking(true);
    match kind {
        Kind::Silent => return Some(stream),
        Kind::Deaf => {
            let mut bytes = preface(0);
            (0..8).for_each(|number| bytes.extend(head(2 * number + 1, "/lab/ping", address, None)));
            let _ = stream.write(&bytes);
            return Some(stream);
        }
        Kind::Oversized => {
            let _ = stream.write(&[b"GET /lab/ping HTTP/1.1\r\nA: ", &[b'x'; 80_000][..]].concat());
            return Some(stream);
        }
        Kind::Looping => {
            let _ = stream.write(&get("/lab/ping", address, ""));
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
            let _ = stream.read(&mut [0; 2048]);
        }
    }
    None
}
