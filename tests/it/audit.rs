//! The audit file, as somebody reads it afterwards.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider};

use crate::support::disk::SmallDisk;
use crate::support::keys::add;
use crate::support::lab::{self, Server, address};
use crate::support::nobody::{as_nobody, can_play_nobody};
use crate::support::upstreams::{read_head, serving};
use crate::support::{PATIENCE, eventually, mode, send, words};

#[test]
fn every_request_is_a_line_without_query_or_secret_and_the_file_may_be_renamed() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = true");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let key = add(&home, "agent", &["--route", "lab", "--method", "GET"]);
    let file = home.path("state/valetd/audit.jsonl");

    let get = |target: &str| send(&address, "GET", target, &[("Cookie", "c00kie")], b"").expect("an answer");
    // one after the other: a line is written when its exchange has ended, which its client may know before
    assert_eq!(get("/lab/datasets?token=s3cret").status, 200);
    until_lines(&file, 1);
    assert_eq!(get(&format!("/{key}/lab//data%73ets;v=1?q=s3cret")).status, 404);
    until_lines(&file, 2);
    let refused = send(&address, "POST", "/lab/datasets", &[("X-Valetd-Key", &key)], b"12345").expect("an answer");
    assert_eq!(refused.status, 403);
    until_lines(&file, 3);
    // a client that is still there when its line is written has been found
    let mut kept = TcpStream::connect(&address).expect("connected");
    write!(kept, "GET /nowhere HTTP/1.1\r\nHost: {address}\r\nCookie: c00kie\r\n\r\n").expect("sent");
    let lines = until_lines(&file, 4);
    drop(kept);
    assert_eq!(mode(&file), 0o600);
    let told =
        |line: &Value| ["key", "route", "method", "path", "status", "verdict"].map(|member| line[member].clone());
    let expected = [
        [Value::Null, json!("lab"), json!("GET"), json!("/lab/datasets"), json!(200), json!("forwarded")],
        [json!("agent"), json!("lab"), json!("GET"), json!("/lab/datasets"), json!(404), json!("forwarded")],
        [json!("agent"), json!("lab"), json!("POST"), json!("/lab/datasets"), json!(403), json!("key-rights")],
        [Value::Null, Value::Null, json!("GET"), json!("/nowhere"), json!(404), json!("no-route")],
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(told(line), expected, "{line:#}");
        let peer = &line["peer"];
        assert_eq!(peer["uid"], rustix::process::geteuid().as_raw(), "{line:#}");
        if !peer["pid"].is_null() {
            assert_eq!(peer["pid"], std::process::id(), "{line:#}");
        }
    }
    assert_eq!(lines[3]["peer"]["pid"], std::process::id(), "{lines:#?}");
    assert!(lines[0]["bytes_out"].as_u64() > Some(0) && lines[0]["renewal"].is_u64(), "{:#}", lines[0]);
    let text = fs::read_to_string(&file).expect("the file");
    for secret in ["s3cret", "c00kie", "vk_"].into_iter().map(str::to_owned).chain(server.secrets()) {
        assert!(!text.contains(&secret), "a secret is in {text}");
    }

    let moved = home.path("state/valetd/audit.jsonl.1");
    fs::rename(&file, &moved).expect("renamed");
    get("/lab/datasets");
    assert_eq!(until_lines(&file, 1)[0]["status"], 200);
    assert_eq!(until_lines(&moved, 4).len(), 4);
    let audit = eventually("the status knows", || {
        Some(daemon.status()["daemon"]["audit"].clone()).filter(|audit| audit["written"] == 5)
    });
    assert_eq!((&audit["file"], &audit["dropped"]), (&json!(file), &json!(0)));

    home.write_config(&lab::config(&server, "", "", ""));
    assert!(home.run(&["reload"]).status.success());
    assert_eq!(daemon.status()["daemon"]["audit"], Value::Null);
    let address = lab::address(&daemon);
    assert_eq!(send(&address, "GET", "/lab/datasets", &[], b"").expect("an answer").status, 200);
    assert_eq!(until_lines(&file, 1).len(), 1, "nothing more is noted");
}

#[test]
fn a_key_in_the_wrong_place_of_a_path_is_not_noted() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = true");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let key = add(&home, "agent", &["--route", "lab"]);
    let rest = &key["vk_".len()..];
    let targets =
        [format!("//{key}/lab/x"), format!("/%76k_{rest}/lab/x"), format!("/lab/{key}"), format!("/lab/a{key}b/x")];
    let file = home.path("state/valetd/audit.jsonl");
    let mut lines = Vec::new();
    for (before, target) in targets.iter().enumerate() {
        send(&address, "GET", target, &[], b"").expect("an answer");
        lines = until_lines(&file, before + 1);
    }
    assert!(!json!(lines).to_string().contains(rest), "{lines:#?}");
    assert!(lines[2]["path"] == "/lab/[key]", "{:#}", lines[2]);
}

#[test]
fn an_audit_that_cannot_be_written_is_said_and_stops_nobody() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = \"/nowhere/at/all/audit.jsonl\"");
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(lab::ping(&address(&daemon)).status, 200);
    eventually("the status counts it", || (daemon.status()["daemon"]["audit"]["dropped"] == 1).then_some(()));
    daemon.until_logged("the audit cannot be written");
}

#[test]
fn strangers_are_one_line_however_often_they_knock_and_whatever_they_send() {
    if !can_play_nobody() {
        eprintln!("skipped: not root, or setpriv or curl is not installed");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = true");
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    let tcp = format!("http://{}/lab/datasets", address(&daemon));
    let key = add(&home, "agent", &["--route", "lab"]);
    let wrong = "X-Valetd-Key: vk_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
    let range = format!("{tcp}/[1-40]");
    assert_eq!(as_nobody(&[&range]), "403".repeat(40));
    let strange = [
        vec!["--header", wrong, &tcp],
        vec!["--request", "BREW", &tcp],
        vec!["--header", "Origin: https://evil.example", &tcp],
        vec!["--http2-prior-knowledge", &tcp],
    ];
    for arguments in &strange {
        assert_eq!(as_nobody(arguments), "403", "{arguments:?}");
    }
    assert_eq!(as_nobody(&["--header", &format!("X-Valetd-Key: {key}"), &tcp]), "200");
    let refused = send(&address(&daemon), "GET", "/lab/datasets", &[("X-Valetd-Key", &wrong[14..])], b"");
    assert_eq!(refused.expect("an answer").status, 403);
    assert!(daemon.signal("TERM").success());
    let lines = until_lines(&home.path("state/valetd/audit.jsonl"), 3);
    let of = |verdict: &str| lines.iter().filter(|line| line["verdict"] == verdict).collect::<Vec<_>>();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(of("forwarded")[0]["key"], "agent", "who has shown a valid key is no stranger");
    assert_eq!(of("key")[0]["peer"]["uid"], rustix::process::geteuid().as_raw(), "nor are we");
    let strangers = of("strangers")[0];
    assert_eq!((&strangers["peer"]["uid"], &strangers["requests"]), (&json!(65534), &json!(40 + strange.len())));
    assert_eq!((&strangers["path"], &strangers["method"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_line_is_short_plain_and_says_what_was_cut() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = true");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let file = home.path("state/valetd/audit.jsonl");
    let long = format!("/lab/{}", "x".repeat(8000));
    // turns around what follows, ends a line for some, moves a cursor, is not seen, hides a tag
    let hostile =
        "/lab/%E2%80%AE/%E2%81%A6/%D8%9C/%E2%80%A8/%C2%85/%C2%9B2J/%EF%BB%BF/%E2%80%8F/%F3%A0%81%81/%7F/%1B[2J";
    let mut lines = Vec::new();
    for (before, path) in [&long, hostile].into_iter().enumerate() {
        send(&address, "GET", path, &[], b"").expect("an answer");
        lines = until_lines(&file, before + 1);
    }
    assert_eq!(lines[0]["cut"], json!(["path"]));
    assert_eq!(lines[0]["path"].as_str().map(str::len), Some(1024));
    assert_eq!(lines[1]["cut"], Value::Null);
    let text = fs::read_to_string(&file).expect("the file");
    assert!(
        text.lines().all(|line| line.len() < 2048 && line.chars().all(|letter| matches!(letter, ' '..='~'))),
        "{text}"
    );
    assert!(lines[1]["path"].as_str().is_some_and(|path| path.contains("/\u{202e}/") && path.contains('\u{e0041}')));
}

#[test]
fn the_file_has_a_largest_size_and_so_many_old_ones_are_kept() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = true\naudit_size = \"64kB\"\naudit_keep = 2");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let long = format!("/nowhere/{}", "x".repeat(1000));
    for _ in 0..400 {
        send(&address, "GET", &long, &[], b"").expect("an answer");
    }
    eventually("all lines are written", || (daemon.status()["daemon"]["audit"]["written"] == 400).then_some(()));
    let files: Vec<_> = fs::read_dir(home.path("state/valetd"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("audit"))
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert!(file.metadata().expect("a file").len() <= 64_000, "{file:?}");
        assert_eq!(mode(&file.path()), 0o600);
    }
}

#[test]
fn with_a_required_audit_nothing_is_forwarded_that_cannot_be_noted() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = \"/nowhere/at/all/audit.jsonl\"\naudit_required = true");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let before = server.log().api_calls.len();
    let refused = lab::ping(&address(&daemon));
    assert_eq!((refused.status, refused.json()["type"].as_str()), (503, Some("urn:valetd:problem:audit-unavailable")));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(server.log().api_calls.len(), before, "the upstream was not asked");
    let audit = daemon.status()["daemon"]["audit"].clone();
    assert_eq!(audit["refused"], 1, "{audit:#}");
    assert!(audit["trouble"].is_string(), "{audit:#}");
    assert!(words(&home.run(&["status"])).contains("the audit cannot be written"));

    let file = home.path("state/valetd/audit.jsonl");
    home.write_config(&lab::config(&server, "", "", "audit = true\naudit_required = true"));
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    assert_eq!(lab::ping(&address(&daemon)).status, 200);
    assert_eq!(until_lines(&file, 1)[0]["verdict"], "forwarded");
}

#[test]
fn a_disk_that_the_audit_has_filled_has_room_for_the_credential() {
    let server = Server::start(Provider::Gdh, Options::default());
    let top = |required: &str| format!("audit = true\naudit_size = \"100MB\"\n{required}");
    let home = crate::support::Home::with(&lab::config(&server, "", "", &top("")));
    let state = home.path("state/valetd");
    let Some(_disk) = SmallDisk::at(&state, "2M") else { return };
    let daemon = home.start();
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    let at = address(&daemon);
    let long = format!("/nowhere/{}", "x".repeat(1000));
    let audit = || daemon.status()["daemon"]["audit"].clone();
    let end = Instant::now() + 3 * PATIENCE; // it takes two thousand requests
    while audit()["trouble"].is_null() {
        assert!(Instant::now() < end, "the disk is never full");
        for _ in 0..50 {
            send(&at, "GET", &long, &[], b"").expect("an answer");
        }
    }
    assert_eq!(lab::ping(&at).status, 200, "unnoted, since the audit is not required");
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    assert_eq!(daemon.account("lab")["credential"]["saved"], true, "{}", daemon.log());
    home.write_config(&lab::config(&server, "", "", &top("audit_required = true")));
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    assert_eq!(lab::ping(&address(&daemon)).status, 503);
    fs::remove_file(home.path("state/valetd/audit.jsonl")).expect("removed");
    eventually("it is written again", || (lab::ping(&address(&daemon)).status == 200).then_some(()));
}

/// An upstream that answers the first request of a connection with `head`, and then does as it is told with it.
fn upstream(head: &'static str, then: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> String {
    let address = serving(move |mut stream| {
        read_head(&mut BufReader::new(&stream))?;
        stream.write_all(head.as_bytes())?;
        then(stream)
    });
    format!("http://{address}")
}

/// A home with another route of the account's, without idle connections made in advance.
fn with_route(server: &Server, url: &str) -> crate::support::Home {
    let route = format!("[route.other]\naccount = \"lab\"\nupstream = \"{url}\"\nwarm = \"0s\"\n");
    let home = lab::home(server, "", "", "audit = true");
    home.write_config(&format!("{}{route}", lab::config(server, "", "", "audit = true")));
    home
}

#[test]
fn a_tunnel_has_a_line_when_it_begins_and_one_with_the_bytes_of_both_ways_when_it_ends() {
    let server = Server::start(Provider::Gdh, Options::default());
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let url = upstream(switched, |mut stream| {
        let mut heard = [0; 5];
        stream.read_exact(&mut heard)?;
        stream.write_all(b"seven b")?;
        stream.read(&mut heard).map(drop)
    });
    let home = with_route(&server, &url);
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let file = home.path("state/valetd/audit.jsonl");
    let mut client = TcpStream::connect(&address).expect("connected");
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    write!(client, "GET /other/ws HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n").expect("sent");
    let begun = until_lines(&file, 1);
    assert_eq!((&begun[0]["verdict"], &begun[0]["status"]), (&json!("started"), &json!(101)), "{begun:#?}");
    client.write_all(b"hello").expect("sent");
    let mut heard = Vec::new();
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    while !heard.ends_with(b"seven b") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("a byte");
        heard.push(byte[0]);
    }
    drop(client);
    let lines = until_lines(&file, 2);
    assert_eq!((&lines[1]["bytes_in"], &lines[1]["bytes_out"]), (&json!(5), &json!(7)), "{lines:#?}");
    assert_eq!((&lines[1]["verdict"], &lines[1]["status"]), (&json!("forwarded"), &json!(101)));
    assert!(lines[0]["exchange"].is_u64() && lines[0]["exchange"] == lines[1]["exchange"], "{lines:#?}");
    assert_eq!(lines.len(), 2);
}

#[test]
fn what_has_run_for_a_minute_is_noted_before_it_ends() {
    let server = Server::start(Provider::Gdh, Options::default());
    let url = upstream("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", |mut stream| {
        loop {
            stream.write_all(b":\n")?;
            std::thread::sleep(Duration::from_millis(500)); // the pace of the events
        }
    });
    let home = with_route(&server, &url);
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let file = home.path("state/valetd/audit.jsonl");
    let began = Instant::now();
    let mut client = TcpStream::connect(&address).expect("connected");
    write!(client, "GET /other/stream HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    while fs::read_to_string(&file).unwrap_or_default().is_empty() {
        assert!(began.elapsed() < 3 * PATIENCE, "it has run for long");
        std::thread::sleep(Duration::from_millis(500)); // a condition, looked at seldom, as it takes a minute
    }
    assert!(began.elapsed() > Duration::from_secs(59));
    drop(client);
    let lines = until_lines(&file, 2);
    let told = |line: &Value| [line["verdict"].clone(), line["status"].clone(), line["exchange"].clone()];
    assert_eq!(told(&lines[0]), [json!("started"), json!(200), lines[1]["exchange"].clone()]);
    assert_eq!(told(&lines[1])[..2], [json!("forwarded"), json!(200)]);
    assert!(lines[0]["bytes_out"].as_u64() > Some(100), "{lines:#?}");
    assert!(lines[0]["bytes_out"].as_u64() <= lines[1]["bytes_out"].as_u64(), "{lines:#?}");
}

/// Waits until a file has so many lines.
fn until_lines(file: &Path, count: usize) -> Vec<Value> {
    eventually("the audit is written", || {
        let text = fs::read_to_string(file).ok()?;
        let lines: Option<Vec<Value>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        lines.filter(|lines| lines.len() >= count)
    })
}
