//! `valetd mcp`, between a client on standard input and output and an MCP server behind a route.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider, Rotation};

use crate::support::lab::{self, EAGER, Server, rotating, short};
use crate::support::mcp::{McpClient, text};
use crate::support::upstreams::{read_head, serving};
use crate::support::{Home, eventually};

/// The route `lab` leads to the stand-in's MCP server.
fn home(server: &Server, account: &str, top: &str) -> Home {
    lab::home(server, account, "mcp = \"/mcp\"", top)
}

#[test]
fn a_client_of_standard_input_and_output_has_a_session_with_the_server_and_the_server_hears_of_its_end() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "", "require_key = true\n");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let mut client = McpClient::start(&home, &["lab"]);
    assert_eq!(client.initialize()["result"]["serverInfo"]["name"], "stand-in");
    client.until(|message| message["method"] == "notifications/message"); // what it says by itself
    assert_eq!(text(&client.call("echo", json!({"text": "a\nb \u{1f980}"}))), "a\nb \u{1f980}");
    let id = client.request("tools/call", json!({"name": "steps", "arguments": {"count": 2, "pause": 10}}));
    for step in [1, 2] {
        assert_eq!(client.next().expect("a message")["params"]["progress"], step);
    }
    assert_eq!(client.next().expect("a message")["id"], id);
    client.write("no json\n");
    assert_eq!(client.next().expect("an answer")["error"]["code"], -32700);
    client.say(&json!({"jsonrpc": "2.0", "id": 99, "result": {}})); // to a question of the server's

    assert!(client.end().success());
    let log = server.mcp_log();
    assert_eq!(log.messages[..2], ["initialize", "notifications/initialized"]);
    assert_eq!(log.messages.last().map(String::as_str), Some("response"));
    assert_eq!((log.ended, log.begun), (vec!["session-1".to_owned()], 1));
    assert_eq!(log.versions.into_iter().collect::<Vec<_>>(), ["2025-06-18"]);
}

#[test]
fn what_was_asked_for_before_the_input_ended_is_answered() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let input = [
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
            "params": {"name": "steps", "arguments": {"count": 3, "pause": 50}}}),
    ];
    let input: String = input.iter().map(|message| format!("{message}\n")).collect();
    let output = home.run_with_input(&["mcp", "lab"], &input);
    let output = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.lines().count(), 5, "{output}");
}

#[test]
fn ten_thousand_messages_and_large_ones_pass_in_little_memory() {
    const LARGE: usize = 8 << 20;
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let mut client = McpClient::start(&home, &["lab"]);
    client.initialize();
    let began = Instant::now();
    for round in 0..500 {
        let ids: Vec<u64> = (0..20)
            .map(|at| {
                client.request("tools/call", json!({"name": "echo", "arguments": {"text": format!("{round}.{at}")}}))
            })
            .collect();
        for _ in &ids {
            let answer = client.until(|message| message["id"].is_u64());
            assert!(text(&answer).starts_with(&format!("{round}.")), "{answer}");
        }
    }
    assert!(server.mcp_log().messages.len() >= 10_000);
    // of its own, as the program itself is larger in tests
    let small = client.memory("RssAnon");
    eprintln!("10,000 messages in {:?}; {small} KiB of its own", began.elapsed());
    assert!(small < 8 << 10, "{small} KiB");

    let before = client.memory("VmHWM");
    for _ in 0..3 {
        let large = "x".repeat(LARGE);
        assert_eq!(text(&client.call("echo", json!({"text": large}))).len(), LARGE);
        assert_eq!(text(&client.call("large", json!({"bytes": LARGE}))).len(), LARGE);
    }
    let more = client.memory("VmHWM") - before;
    eprintln!("with messages of 8 MiB, {more} KiB more at most");
    assert!(more < 32 << 10, "{more} KiB");
}

#[test]
fn whoever_is_not_signed_in_is_told_the_command_and_goes_on_once_they_are() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&lab::config(&server, "", "mcp = \"/mcp\"", ""));
    let mut client = McpClient::start(&home, &["lab"]);
    let message = |answer: serde_json::Value| answer["error"]["message"].as_str().expect("an error").to_owned();
    let said = message(client.ask("initialize", json!({})));
    assert!(said.contains("no daemon listens") && said.contains("run"), "{said}");
    let daemon = home.start();
    daemon.until("lab", "sign-in-required");
    let said = message(client.ask("initialize", json!({})));
    assert!(said.starts_with("valetd: ") && said.ends_with("Run: valetd login lab"), "{said}");
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    client.initialize();
    assert_eq!(text(&client.call("echo", json!({"text": "at last"}))), "at last");

    let mut lost = McpClient::start(&home, &["lba"]);
    let said = message(lost.ask("initialize", json!({})));
    assert!(said.contains("no route is named \"lba\" (did you mean \"lab\"?)"), "{said}");
}

#[test]
fn a_forgotten_session_a_broken_answer_and_a_restarted_daemon_do_not_end_the_clients_session() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let home = home(&server, EAGER, "");
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    let mut client = McpClient::start(&home, &["lab"]);
    client.initialize();
    assert_eq!(text(&client.call("broken", json!({}))), "late", "what comes after the last event");

    server.forget_mcp_sessions();
    assert_eq!(text(&client.call("echo", json!({"text": "on"}))), "on");
    let log = server.mcp_log();
    assert_eq!(log.begun, 2);
    assert_eq!(log.messages.iter().filter(|method| *method == "notifications/initialized").count(), 2);

    assert!(daemon.signal("TERM").success());
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(text(&client.call("echo", json!({"text": "on and on"}))), "on and on");
    lab::renew(&daemon);
    assert_eq!(text(&client.call("echo", json!({"text": "renewed"}))), "renewed");
    assert_eq!(server.mcp_log().begun, 2, "neither took the session away");
    client.end();
    assert_eq!(server.mcp_log().ended, ["session-2"]);
    assert!(!fs::read_to_string(home.path("mcp.errors")).expect("a file").contains("error"));
}

#[test]
fn a_client_is_told_what_a_step_up_needs_and_why_its_login_ends_and_goes_on_after_either() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, EAGER, "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let mut client = McpClient::start(&home, &["lab"]);
    client.initialize();
    let message = |answer: serde_json::Value| answer["error"]["message"].as_str().expect("an error").to_owned();
    let said = message(client.call("scoped", json!({})));
    assert!(
        said.starts_with("valetd: ") && said.contains("valetd login lab --scope 'files:read files:write'"),
        "{said}"
    );
    server.grant_mcp_scope();
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    assert_eq!(text(&client.call("scoped", json!({}))), "granted", "without being started anew");

    // the login ends while a response is on its way: that is cut, and what comes next says why
    let id = client.request("tools/call", json!({"name": "steps", "arguments": {"count": 1000, "pause": 50}}));
    client.until(|message| message["params"]["progress"] == 1);
    assert!(home.run(&["logout", "lab"]).status.success());
    let cut = client.until(|message| message["id"] == id);
    assert!(cut["error"].is_object(), "{cut}");
    let said = message(client.call("echo", json!({"text": "x"})));
    assert!(said.starts_with("valetd: ") && said.ends_with("Run: valetd login lab"), "{said}");
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    assert_eq!(text(&client.call("echo", json!({"text": "back"}))), "back");
    assert_eq!(server.mcp_log().begun, 1, "in the same session");
}

#[test]
fn a_server_of_the_older_transport_is_spoken_to_in_it() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let mut client = McpClient::start(&home, &["lab", "--path", "/sse"]);
    client.initialize();
    assert_eq!(text(&client.call("echo", json!({"text": "old"}))), "old");
    assert_eq!(client.ask("ping", json!({}))["result"], json!({}));
    drop(daemon);
    let daemon = home.start();
    daemon.until("lab", "usable");
    let again = eventually("a session of the new daemon", || {
        Some(client.call("echo", json!({"text": "again"}))).filter(|answer| answer["result"].is_object())
    });
    assert_eq!(text(&again), "again");
    assert!(client.end().success());
}

#[test]
fn eight_clients_go_through_an_expiry_and_a_rotation_with_one_token_call_a_renewal() {
    let server =
        Server::start(Provider::Gdh, Options { rotation: Rotation::Strict, ..short(Duration::from_secs(3600)) });
    let home = home(&server, EAGER, "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let before = server.log().token_calls.len();
    let mut clients: Vec<McpClient> = (0..8).map(|_| McpClient::start(&home, &["lab"])).collect();
    clients.iter_mut().for_each(|client| drop(client.initialize()));
    for renewal in 1..=3 {
        server.revoke_access_tokens();
        let ids: Vec<u64> = clients
            .iter_mut()
            .map(|client| client.request("tools/call", json!({"name": "echo", "arguments": {"text": "x"}})))
            .collect();
        for (client, id) in clients.iter().zip(ids) {
            assert_eq!(text(&client.until(|message| message["id"] == id)), "x");
        }
        assert_eq!(server.log().token_calls.len() - before, renewal);
    }
    assert_eq!(server.log().reuse_detected, 0);
}

/// An MCP server at an address of its own, which answers in `answer`'s way: a request's first line and body, and where the
/// response goes. One request a connection.
fn at_another_server(
    server: &Server,
    answer: impl Fn(&str, &Value, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Home {
    let upstream = serving(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let head = read_head(&mut reader)?;
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        answer(&head, &serde_json::from_slice(&body).unwrap_or_default(), &mut stream)
    });
    lab::home(server, "", &format!("mcp = \"/mcp\"\nupstream = \"http://{upstream}\""), "")
}

const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const NOT_HERE: &[u8] = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

fn result(message: &Value) -> String {
    let result = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "other"}});
    json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()
}

#[test]
fn a_stream_that_the_server_leaves_open_and_a_notification_that_it_does_not_take_hold_up_nothing() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = at_another_server(&server, |head, message, stream| match &message["id"] {
        _ if !head.starts_with("POST") => stream.write_all(NOT_HERE),
        Value::Null if message["method"] == "notifications/initialized" => {
            stream.write_all(EVENTS)?;
            thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        Value::Null => {
            thread::sleep(Duration::from_secs(60)); // not even a head
            Ok(())
        }
        _ => {
            stream.write_all(EVENTS)?;
            stream.write_all(format!("data: {}\n\n", result(message)).as_bytes())?;
            thread::sleep(Duration::from_millis(300));
            let late = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": message["id"]}});
            stream.write_all(format!("data: {late}\n\n").as_bytes())?;
            thread::sleep(Duration::from_secs(60));
            Ok(())
        }
    });
    let daemon = home.start();
    daemon.until("lab", "usable");
    let mut client = McpClient::start(&home, &["lab"]);
    assert_eq!(client.initialize()["result"]["serverInfo"]["name"], "other");
    let begun = Instant::now();
    client.say(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}));
    let id = client.request("ping", json!({}));
    assert!(client.until(|message| message["id"] == id)["result"].is_object());
    client.until(|message| message["params"]["data"] == id); // what comes after its response comes, too
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_server_that_ends_its_stream_at_once_is_not_asked_in_a_storm() {
    let server = Server::start(Provider::Gdh, Options::default());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let home = at_another_server(&server, move |head, message, stream| match head.starts_with("GET") {
        true => {
            let id = count.fetch_add(1, Ordering::Relaxed);
            stream.write_all(EVENTS)?;
            stream.write_all(format!("retry: 0\nid: {id}\ndata:\n\n").as_bytes())
        }
        false if message["id"].is_null() => stream.write_all(ACCEPTED),
        false => {
            let body = result(message);
            let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}Connection: close\r\n\r\n{body}").as_bytes())
        }
    });
    let daemon = home.start();
    daemon.until("lab", "usable");
    let mut client = McpClient::start(&home, &["lab"]);
    client.initialize();
    eventually("it listens", || (asked.load(Ordering::Relaxed) > 0).then_some(()));
    thread::sleep(Duration::from_secs(4));
    let asked = asked.load(Ordering::Relaxed);
    assert!((2..=8).contains(&asked), "asked {asked} times in 4 seconds");
    assert!(client.ask("ping", json!({}))["result"].is_object());
}
