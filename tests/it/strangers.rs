//! Another user of the same machine who means harm: connects, and is silent, deaf, long-winded or quick. Only root can play
//! one.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use valetd::stand_in::{Options, Provider};

use crate::support::frames::{
    self, DATA, Frame, GOAWAY, HEADERS, RST_STREAM, SETTINGS, STATUS_200, frame, preface, read_frame, take_frame,
};
use crate::support::keys::add;
use crate::support::lab::{self, Server, address, ping};
use crate::support::nobody::{act_as_nobody, is_root};
use crate::support::upstreams::{read_head, serving};
use crate::support::{Answer, Daemon, Home, PATIENCE, VALETD, eventually, free_address, read_answer, send};

/// What a refused client that reads its answer is given, and has.
const SOON: Duration = Duration::from_secs(10);

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the kernel takes it");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream
}

/// A daemon with these limits of descriptors, soft and hard.
fn start<'h>(home: &'h Home, descriptors: &str) -> Daemon<'h> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let binary = std::env::var("VALETD").unwrap_or_else(|_| VALETD.to_owned());
    let mut command = Command::new("prlimit");
    command.args([&format!("--nofile={descriptors}"), &binary, "run", "--log", "info"]);
    home.settle(&mut command);
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

/// A GET with a key, if there is one.
fn head(stream: u32, path: &str, address: &str, key: Option<&str>) -> Vec<u8> {
    let key: Vec<(&str, &str)> = key.map(|key| ("x-valetd-key", key)).into_iter().collect();
    frames::get(stream, path, address, &key)
}

/// A server's frames until the connection's end.
fn all_frames(stream: &mut TcpStream) -> Vec<Frame> {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(ended.as_ref().map_or_else(is_reset, |_| true), "the connection does not end: {ended:?}");
    std::iter::from_fn(|| take_frame(&mut bytes)).collect()
}

/// Resident memory in KiB.
fn memory(daemon: &Daemon<'_>) -> u64 {
    daemon.memory("VmRSS")
}

/// Processor time in hundredths of a second, in user space and in the kernel.
fn cpu(daemon: &Daemon<'_>) -> u64 {
    let stat = daemon.proc("stat");
    let rest = stat.rsplit_once(") ").expect("a name in brackets").1;
    rest.split(' ').skip(11).take(2).map(|number| number.parse::<u64>().expect("a number")).sum()
}

#[test]
fn silent_connections_of_another_user_take_no_place_of_the_owners() {
    with_and_without_a_key(|daemon, address, key| {
        let mut before = connect(address);
        let silent: Vec<TcpStream> = act_as_nobody(|| (0..980).map(|_| connect(address)).collect());
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
        let mut deaf: Vec<TcpStream> = act_as_nobody(|| (0..40).map(|_| connect(address)).collect());
        for stream in &mut deaf {
            let mut bytes = preface(0);
            (0..256).for_each(|number| bytes.extend(head(2 * number + 1, "/lab/ping", address, None)));
            let _ = stream.write_all(&bytes); // it may be closed already
        }
        for stream in &mut deaf {
            let heads = all_frames(stream).iter().filter(|frame| frame.kind == HEADERS).count();
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
            let case = format!("{kind}, with a key: {}", key.is_some());
            let hung_up_on_after = || {
                act_as_nobody(|| {
                    let since = Instant::now();
                    let mut stream = connect(address);
                    let _ = stream.write_all(&bytes); // it may be closed already
                    let answers = all_frames(&mut stream).len();
                    assert!(answers < 150, "{case}: {answers} answers");
                    since.elapsed()
                })
            };
            // before the two seconds are over that a stranger has anyway; a busy machine may need another try
            let soon = (0..5).map(|_| hung_up_on_after()).find(|took| *took < Duration::from_millis(1500));
            assert!(soon.is_some(), "{case}: hung up on late");
        }
        let usual = [SETTINGS, 8, 2, 2, 2, 2, 2, 6].map(|kind| match kind {
            SETTINGS => frame(SETTINGS, 0, 0, b""),
            8 => frame(8, 0, 0, b"\0\0\0\x01"),
            2 => frame(2, 0, 3, b"\0\0\0\0\x01"),
            kind => frame(kind, 0, 0, b"12345678"),
        });
        let answer = if key.is_some() { &[HEADERS, 4, 0, 0, 0, 9][..] } else { b"Check: peer." };
        let has_it = |told: &[u8]| told.windows(answer.len()).any(|part| part == answer);
        let told = act_as_nobody(|| {
            let mut stream = connect(address);
            stream
                .write_all(&[&preface(65535)[..], &usual.concat(), &head(9, "/lab/ping", address, key)].concat())
                .expect("sent");
            let (mut told, mut part) = (Vec::new(), [0; 4096]);
            while !has_it(&told)
                && let Ok(read @ 1..) = stream.read(&mut part)
            {
                told.extend_from_slice(&part[..read]);
            }
            told
        });
        assert!(has_it(&told), "{told:?}");
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
            let ask = || {
                let since = Instant::now();
                let mut stream = connect(address);
                thread::sleep(pause); // the case
                for piece in &pieces {
                    let _ = stream.write_all(piece); // all is said already, perhaps
                }
                let mut reader = BufReader::new(stream);
                let answer = read_answer(&mut reader, true);
                let took = since.elapsed();
                let mut rest = Vec::new();
                (answer, reader.read_to_end(&mut rest).map(|_| rest), took)
            };
            // where a busy machine lets the two seconds pass that a stranger has, there is nothing to read: once more
            let is_in_time = |(answer, _, took): &(std::io::Result<Answer>, _, Duration)| {
                answer.is_ok() || *took < Duration::from_millis(1500)
            };
            let asked = (0..5).map(|_| act_as_nobody(ask)).find(is_in_time);
            let (answer, rest, _) = asked.unwrap_or_else(|| panic!("{case}: no answer in time"));
            let case = format!("{case}, with a key: {}", key.is_some());
            let answer = answer.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(answer.status, 403, "{case}");
            assert_eq!(answer.json()["check"], "peer", "{case}");
            assert_eq!(answer.header("connection"), Some("close"), "{case}");
            let is_over =
                rest.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, Vec::is_empty);
            assert!(is_over, "{case}: {rest:?}");
        }
        let head_only = act_as_nobody(|| {
            let mut stream = connect(address);
            write!(stream, "HEAD /lab/ping HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("its end");
            text
        });
        assert!(head_only.starts_with("HTTP/1.1 403 ") && head_only.ends_with("\r\n\r\n"), "{head_only}");
        let told = act_as_nobody(|| {
            let mut stream = connect(address);
            let bytes = [preface(65535), head(1, "/lab/ping", address, None), head(3, "/lab/ping", address, key)];
            stream.write_all(&bytes.concat()).expect("sent");
            all_frames(&mut stream)
        });
        assert!(told.iter().any(|frame| frame.kind == GOAWAY), "{told:?}");
        assert!(told.iter().any(|frame| (frame.kind, frame.stream) == (HEADERS, 1)), "{told:?}");
        assert!(told.iter().all(|frame| frame.stream < 3), "what follows a refusal is not looked at: {told:?}");
        let said: Vec<u8> =
            told.iter().filter(|frame| frame.kind == DATA).flat_map(|frame| frame.payload.clone()).collect();
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
            let took = act_as_nobody(|| {
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
                    thread::sleep(Duration::from_millis(20)); // the pace of the drip
                    drip(&mut stream);
                }
                since.elapsed()
            });
            assert!(took >= Duration::from_millis(1900), "{case}: {took:?}");
        }
        // a pause that no stranger has
        act_as_nobody(|| {
            let mut stream = connect(address);
            for pause in [Duration::ZERO, Duration::from_millis(2500)] {
                thread::sleep(pause);
                stream.write_all(&get("/lab/ping", address, &format!("X-Valetd-Key: {key}\r\n"))).expect("sent");
                let answer = read_answer(&mut BufReader::new(&stream), true).expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.text());
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
        let silent: Vec<UnixStream> = act_as_nobody(|| (0..980).map(|_| connect()).collect());
        assert_eq!(ask().status, 200);
        let refused = act_as_nobody(ask);
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
    let all = Barrier::new(STREAMS);
    let upstream = serving(move |mut stream| {
        if !read_head(&mut BufReader::new(&stream))?.is_empty() {
            all.wait();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let home = lab::home(&server, "", &format!("upstream = \"http://{upstream}\""), "workers = 1");
    let daemon = start(&home, "1024:1024");
    let key = add(&home, "agent", &["--route", "lab"]);
    let address = address(&daemon);
    let told = act_as_nobody(|| {
        let mut stream = connect(&address);
        let mut bytes = preface(65535);
        for number in 0..STREAMS as u32 {
            bytes.extend(head(2 * number + 1, "/lab/x", &address, Some(&key)));
        }
        stream.write_all(&bytes).expect("sent");
        let mut answered = 0;
        let mut reader = BufReader::new(&stream);
        while answered < STREAMS {
            let frame = read_frame(&mut reader).expect("a frame");
            assert_ne!(frame.kind, RST_STREAM, "a stream was not taken");
            answered += usize::from(frame.kind == HEADERS && frame.payload.contains(&STATUS_200[0]));
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
        let frame = read_frame(&mut deaf).expect("a frame");
        if frame.kind == RST_STREAM {
            reset.push(frame.stream);
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
            let Frame { kind, payload: settings, .. } = read_frame(&mut stream).expect("a frame");
            assert_eq!(kind, SETTINGS);
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
    let limits = daemon.proc("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    assert_eq!(line.split_whitespace().nth(3), Some("2048"), "{line}");
    let address = address(&daemon);
    let mut idle: Vec<TcpStream> = (0..500).map(|_| connect(&address)).collect();
    assert_eq!(ping(&address).status, 200);
    // all of them ask before any is given up as silent, and then they are answered
    for stream in &mut idle {
        stream.write_all(&get("/lab/ping", &address, "Connection: close\r\n")).expect("sent");
    }
    for stream in idle {
        assert_eq!(read_answer(&mut BufReader::new(stream), true).expect("an answer").status, 200);
    }
}

#[test]
fn a_flood_of_another_users_leaves_the_owner_every_answer_and_the_memory_as_it_was() {
    with_and_without_a_key(|daemon, address, key| {
        ping(address);
        let before = memory(daemon);
        let flood = Flood::start(address, 2000);
        let began = Instant::now();
        let mut asked = 0;
        // on a busy machine neither gets as far in four seconds
        while began.elapsed() < Duration::from_secs(4) || asked <= 10 || flood.attempts() <= 500 {
            assert!(began.elapsed() < 2 * PATIENCE, "{asked} requests beside {} attempts", flood.attempts());
            assert_eq!(ping(address).status, 200, "request {asked}, with a key: {}", key.is_some());
            asked += 1;
        }
        let attempts = flood.stop();
        let grown = memory(daemon).saturating_sub(before);
        assert!(grown < 16 * 1024, "{grown} KiB after {attempts} attempts, with a key: {}", key.is_some());
        println!("{asked} requests of the owner beside {attempts} attempts");
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
        let elsewhere = serving(|_| Ok(()));
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
                act_as_nobody(|| {
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

    fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Returns how often it has tried.
    fn stop(mut self) -> usize {
        self.goes_on.store(false, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("no panic"));
        self.attempts()
    }
}

impl Drop for Flood {
    /// A story that fails floods no other.
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
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
