//! Routes that lead to MCP servers, as a client sees them that is given the route's URL and nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider, Rotation};

use crate::support::lab::{self, EAGER, Server, address};
use crate::support::mcp::{McpClient, text};
use crate::support::{Answer, Home, Killed, PATIENCE, eventually, free_address, get, keys, send, words};

/// The route `lab` leads to the stand-in, whose MCP server is at `/mcp`.
const AT_MCP: &str = "mcp = \"/mcp\"";

/// Sends a message, as a client of Streamable HTTP does.
fn post(address: &str, session: Option<&str>, message: &Value) -> Answer {
    let mut fields = vec![("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
    fields.extend(session.map(|session| ("Mcp-Session-Id", session)));
    fields.extend(session.map(|_| ("MCP-Protocol-Version", "2025-06-18")));
    send(address, "POST", "/lab/mcp", &fields, message.to_string().as_bytes()).expect("an answer")
}

fn call(id: u64, tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// Begins a session; gives its name.
fn begin(address: &str) -> String {
    let message =
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}});
    let answer = post(address, None, &message);
    assert_eq!(answer.json()["result"]["serverInfo"]["name"], "stand-in");
    answer.header("mcp-session-id").expect("a session").to_owned()
}

#[test]
fn a_client_finds_nothing_to_sign_in_to_and_is_told_the_command_instead() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&lab::config(&server, "", AT_MCP, ""));
    let daemon = home.start();
    daemon.until("lab", "sign-in-required");
    let local = address(&daemon);

    let answer = post(&local, None, &json!({"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": {}}));
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &answer.json()["id"]), (200, &json!("a")));
    assert!(error["message"].as_str().expect("a text").ends_with("Run: valetd login lab"), "{error}");
    assert_eq!((&error["data"]["login"], error["code"].as_i64()), (&json!("valetd login lab"), Some(-32000)));
    assert!(answer.header("proxy-status").is_some_and(|field| field.starts_with("valetd")));
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(post(&local, None, &notification).status, 503, "what expects no answer has none to be told in");

    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    for path in ["/lab/.well-known/oauth-protected-resource/mcp", "/lab/.well-known/oauth-authorization-server"] {
        let answer = get(&local, path).expect("an answer");
        assert_eq!(
            (answer.status, &*answer.json()["type"].to_string()),
            (404, "\"urn:valetd:problem:nothing-to-discover\"")
        );
    }
    for path in ["/.well-known/oauth-protected-resource/lab/mcp", "/.well-known/oauth-authorization-server"] {
        assert_eq!(get(&local, path).expect("an answer").status, 404);
    }
    let session = begin(&local);
    server.revoke_access_tokens();
    assert_eq!(post(&local, Some(&session), &call(1, "echo", json!({"text": "x"}))).status, 200, "after a renewal");

    let scoped = post(&local, Some(&session), &call(2, "scoped", json!({})));
    assert_eq!((scoped.status, scoped.header("www-authenticate"), &scoped.json()["id"]), (200, None, &json!(2)));
    let error = &scoped.json()["error"];
    assert_eq!(error["data"]["login"], "valetd login lab --scope 'files:read files:write'");
    assert!(error["message"].as_str().is_some_and(|said| said.contains("Run: valetd login lab --scope ")), "{error}");
    let status = daemon.status();
    assert_eq!(status["routes"][0]["mcp"]["protocol_version"], "2025-06-18");
    let said = words(&home.run(&["status"]));
    assert!(said.contains("lab: MCP 2025-06-18, \"stand-in\" 1, last session"), "{said}");
    assert!(said.contains("-> valetd login lab --scope 'files:read files:write'"), "{said}");

    let told = lines_of(home.valetd(&["events", "--after", "0"]), "scope-required");
    assert!(told.iter().any(|line| line.contains("mcp-session") && line.contains("\"stand-in\" 1, MCP 2025-06-18")));
    assert!(told.last().is_some_and(|line| line.ends_with("-> valetd login lab --scope 'files:read files:write'")));
    let examined = words(&home.run(&["doctor", "--offline"]));
    assert!(examined.contains("\"stand-in\" 1") && examined.contains("has asked for more scope"), "{examined}");
    lab::sign_in(&home, &server.sign_in());
    daemon.until("lab", "usable");
    assert_eq!(daemon.status()["routes"][0]["mcp"]["next_action"], Value::Null, "after a sign-in it may be granted");

    let log = server.log();
    let well_known = log.api_calls.iter().filter(|call| call.target.contains("well-known"));
    assert_eq!(well_known.count(), 0, "nor was the server asked");
}

#[test]
fn a_server_that_takes_no_token_is_no_reason_for_a_client_to_sign_in() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "mcp = \"/unauthorized\"", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let answer = send(&address(&daemon), "POST", "/lab/unauthorized", &[], b"{}").expect("an answer");
    assert_eq!((answer.status, answer.header("www-authenticate")), (502, None));
    assert_eq!(answer.json()["type"], "urn:valetd:problem:token-refused");
    assert_eq!(answer.json()["login"], "valetd login lab");
    let fields = [("Content-Type", "application/json")];
    let message = call(1, "echo", json!({})).to_string();
    let answer = send(&address(&daemon), "POST", "/lab/unauthorized", &fields, message.as_bytes()).expect("an answer");
    assert_eq!((answer.status, &answer.json()["id"]), (200, &json!(1)), "{}", answer.text());
    assert_eq!(answer.json()["error"]["data"]["login"], "valetd login lab");
}

/// What a command prints, up to the line with a word.
fn lines_of(mut command: Command, last: &str) -> Vec<String> {
    let mut child = Killed(command.stdout(Stdio::piped()).spawn().expect("it runs"));
    let mut lines = Vec::new();
    for line in BufReader::new(child.0.stdout.take().expect("piped")).lines() {
        lines.push(line.expect("text"));
        if lines.last().is_some_and(|line| line.contains(last)) {
            break;
        }
    }
    lines
}

/// A stream that a client listens to; gives its first event, and how many bytes came until it ended.
fn listen(address: &str, session: &str) -> (TcpStream, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let head = format!(
        "GET /lab/mcp HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let reader = BufReader::new(stream.try_clone().expect("a copy"));
    (stream, reader)
}

fn until(reader: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    while !line.contains(wanted) {
        line.clear();
        assert!(reader.read_line(&mut line).expect("a line") > 0, "it ended before {wanted:?}");
    }
}

#[test]
fn the_older_transport_leads_a_client_back_to_the_route() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "mcp = \"/sse\"", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let local = address(&daemon);
    let mut stream = TcpStream::connect(&local).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let head = format!("GET /lab/sse HTTP/1.1\r\nHost: {local}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut reader = BufReader::new(stream);
    until(&mut reader, "event: endpoint");
    let mut place = String::new();
    reader.read_line(&mut place).expect("a line");
    let place = place.trim().strip_prefix("data: ").expect("a place").to_owned();
    assert_eq!(place, "/lab/messages?session=1");
    let fields = [("Content-Type", "application/json")];
    let message = call(1, "echo", json!({"text": "older"})).to_string();
    assert_eq!(send(&local, "POST", &place, &fields, message.as_bytes()).expect("an answer").status, 202);
    until(&mut reader, "older");
}

#[test]
fn eight_clients_share_one_login_through_expiry_rotation_and_a_restart() {
    let options = Options { rotation: Rotation::Strict, ..Options::default() };
    let server = Server::start(Provider::Gdh, options);
    let (local, top) = (free_address(), "");
    let config = lab::config(&server, EAGER, AT_MCP, top).replace("127.0.0.1:0", &local);
    let home = Home::with(&config);
    lab::sign_in(&home, &server.sign_in());
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    let sessions: Vec<String> = (0..8).map(|_| begin(&local)).collect();
    let (_stream, mut listening) = listen(&local, &sessions[0]);
    until(&mut listening, "notifications/message");
    let before = server.log().token_calls.len();
    for renewal in 1..=3 {
        server.revoke_access_tokens();
        let calls: Vec<_> = sessions
            .iter()
            .map(|session| {
                let (local, session) = (local.clone(), session.clone());
                thread::spawn(move || post(&local, Some(&session), &call(1, "echo", json!({"text": "x"}))))
            })
            .collect();
        for call in calls {
            let answer = call.join().expect("an answer");
            assert_eq!((answer.status, &answer.json()["result"]["content"][0]["text"]), (200, &json!("x")));
        }
        assert_eq!(server.log().token_calls.len() - before, renewal, "one token call a renewal");
        until(&mut listening, ": silence"); // the long stream goes on
    }
    // one that runs is finished before the daemon stops
    let running = {
        let (local, session) = (local.clone(), sessions[1].clone());
        thread::spawn(move || post(&local, Some(&session), &call(2, "steps", json!({"count": 5, "pause": 100}))))
    };
    thread::sleep(Duration::from_millis(150));
    drop((_stream, listening));
    assert!(daemon.signal("TERM").success());
    assert!(running.join().expect("an answer").text().contains("done"));
    let daemon = home.start();
    daemon.until("lab", "usable");
    for session in &sessions {
        assert_eq!(post(&local, Some(session), &call(3, "echo", json!({"text": "y"}))).status, 200);
    }
    let log = server.mcp_log();
    assert_eq!((log.begun, server.log().reuse_detected), (8, 0));
}

#[test]
fn streams_end_between_two_events_with_the_reason_when_their_right_ends() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, EAGER, AT_MCP, "");
    let daemon = home.start();
    for turn in ["logged out", "key revoked"] {
        daemon.until("lab", "usable");
        let local = address(&daemon);
        let is_keyed = turn == "key revoked";
        let prefix =
            if is_keyed { format!("/{}", keys::add(&home, "agent", &["--route", "lab"])) } else { String::new() };
        let session = begin(&local);
        let ask = |method: &str, message: &str| {
            let mut stream = TcpStream::connect(&local).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a time");
            let head = format!(
                "{method} {prefix}/lab/mcp HTTP/1.1\r\nHost: {local}\r\nAccept: application/json, text/event-stream\r\n\
                 Content-Type: application/json\r\nMcp-Session-Id: {session}\r\nContent-Length: {}\r\n\r\n{message}",
                message.len()
            );
            stream.write_all(head.as_bytes()).expect("sent");
            BufReader::new(stream)
        };
        let mut listening = ask("GET", "");
        until(&mut listening, "notifications/message");
        let mut running = ask("POST", &call(7, "steps", json!({"count": 500, "pause": 100})).to_string());
        until(&mut running, "notifications/progress");
        let mut curl = Command::new("curl");
        curl.args(["-sSN", "--http2-prior-knowledge", "-H", "Accept: text/event-stream"]);
        curl.args(["-H", &format!("Mcp-Session-Id: {session}"), &format!("http://{local}{prefix}/lab/mcp")]);
        let mut curl = Killed(curl.stdout(Stdio::piped()).spawn().expect("curl runs"));
        let mut over_http2 = BufReader::new(curl.0.stdout.take().expect("piped"));
        until(&mut over_http2, "notifications/message");
        let ending = if is_keyed { &["key", "revoke", "agent"][..] } else { &["logout", "lab"] };
        let ended = home.run(ending);
        assert!(ended.status.success(), "{}", words(&ended));
        for (mut stream, expected) in
            [(listening, "\"method\":\"notifications/message\""), (running, "\"id\":7,\"error\"")]
        {
            let mut rest = String::new();
            let mut line = String::new();
            while line != "0\r\n" && stream.read_line(&mut line).expect("a line, and no cut") > 0 {
                rest.push_str(&line);
                if line != "0\r\n" {
                    line.clear();
                }
            }
            assert_eq!(line, "0\r\n", "{turn}: it was cut: {rest}");
            let said = rest.rsplit("event: message\n").next().expect("an event");
            let reason = if is_keyed { "wrong or was revoked" } else { "valetd login lab" };
            assert!(said.contains(expected) && said.contains(reason), "{turn}: {rest}");
        }
        let mut rest = String::new();
        over_http2.read_to_string(&mut rest).expect("text");
        assert!(curl.0.wait().expect("it ends").success() && rest.contains("\"logger\":\"valetd\""), "{turn}: {rest}");
        if !is_keyed {
            lab::sign_in(&home, &server.sign_in());
        }
    }
}

/// The reason would wait for the client, and the upstream with it.
#[test]
fn a_stream_whose_client_takes_nothing_is_cut_when_its_right_ends() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, EAGER, AT_MCP, "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let local = address(&daemon);
    let session = begin(&local);
    let message = call(7, "steps", json!({"count": 100_000_000, "pause": 0})).to_string();
    let mut stream = TcpStream::connect(&local).expect("a connection");
    let head = format!(
        "POST /lab/mcp HTTP/1.1\r\nHost: {local}\r\nAccept: application/json, text/event-stream\r\n\
         Content-Type: application/json\r\nMcp-Session-Id: {session}\r\nContent-Length: {}\r\n\r\n{message}",
        message.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let open = || daemon.status()["routes"][0]["open"].as_u64().expect("a number");
    let mut came = 0;
    eventually("nothing more comes to who takes nothing", || {
        let before = std::mem::replace(&mut came, rustix::io::ioctl_fionread(&stream).expect("a number"));
        thread::sleep(Duration::from_millis(300));
        (came > 0 && came == before).then_some(())
    });
    assert_eq!(open(), 1);
    assert!(home.run(&["logout", "lab"]).status.success());
    eventually("it is over", || (open() == 0).then_some(()));
    drop(stream);
}

#[test]
fn rules_by_method_and_tool_refuse_in_json_rpc_and_the_audit_names_both_but_no_argument() {
    let server = Server::start(Provider::Gdh, Options::default());
    let route = "mcp = \"/mcp\"\nallow = [\"mcp tools/call e*\", \"mcp resources/read file:///docs/*\"]\n\
                 deny = [\"mcp tools/call *x\"]\nreplay_limit = \"64KiB\"";
    let home = lab::home(&server, "", route, "audit = true\n");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let local = address(&daemon);
    let session = begin(&local);
    let ask = |message: &Value| post(&local, Some(&session), message);
    assert_eq!(ask(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).status, 202);
    assert_eq!(
        ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).json()["result"]["tools"][0]["name"],
        "echo"
    );
    server.revoke_access_tokens();
    let answer = ask(&call(2, "echo", json!({"text": "a secret argument"})));
    assert_eq!(answer.json()["result"]["content"][0]["text"], "a secret argument", "also after a renewal");

    let before = server.mcp_log().messages.len();
    for (case, message) in [
        ("another tool", call(3, "large", json!({"bytes": 1}))),
        ("a denied one", call(3, "ex", json!({}))),
        ("another method", json!({"jsonrpc": "2.0", "id": 3, "method": "prompts/get", "params": {"name": "echo"}})),
        (
            "another resource",
            json!({"jsonrpc": "2.0", "id": 3, "method": "resources/read", "params": {"uri": "file:///etc"}}),
        ),
    ] {
        let answer = ask(&message);
        let error = answer.json()["error"].clone();
        let said = error["message"].as_str().unwrap_or_else(|| panic!("{case}: {}", answer.text()));
        assert!(answer.status == 200 && answer.json()["id"] == 3, "{case}");
        assert!(said.contains("valetd refuses it; the MCP server was not asked"), "{case}: {said}");
    }
    let batch = json!([call(4, "echo", json!({"text": "x"})), call(5, "large", json!({"bytes": 1}))]);
    let refused = ask(&batch).json();
    assert_eq!((refused.as_array().map(Vec::len), &refused[1]["id"]), (Some(2), &json!(5)), "a batch is one");
    let fields = [("Content-Type", "application/json"), ("Mcp-Session-Id", session.as_str())];
    let twice = "{\"jsonrpc\":\"2.0\",\"id\":6,\"method\":\"ping\",\"method\":\"prompts/get\"}";
    for (case, path, body, status) in [
        ("a member twice", "/lab/mcp", twice.to_owned(), 200),
        ("no JSON", "/lab/mcp", "method=ping".to_owned(), 400),
        ("more than is read", "/lab/mcp", call(7, "echo", json!({"text": "x".repeat(70_000)})).to_string(), 400),
        ("another place", "/lab/messages", call(8, "echo", json!({})).to_string(), 403),
    ] {
        let answer = send(&local, "POST", path, &fields, body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, status, "{case}: {}", answer.text());
        assert!(
            status != 200 || answer.json()["error"]["message"].as_str().is_some_and(|said| said.contains("two ways"))
        );
    }
    assert_eq!(send(&local, "PUT", "/lab/mcp", &fields, b"{}").expect("an answer").status, 403);
    for (case, method, path, field, status) in [
        ("a message in a GET", "GET", "/lab/mcp", None, 200),
        ("and in a DELETE", "DELETE", "/lab/mcp", None, 200),
        ("another method in a field", "POST", "/lab/mcp", Some(("X-HTTP-Method-Override", "DELETE")), 403),
        ("another path in a field", "POST", "/lab/mcp", Some(("X-Original-URL", "/admin")), 403),
        ("another method in the query", "POST", "/lab/mcp?_method=DELETE", None, 403),
    ] {
        let fields: Vec<_> = fields.into_iter().chain(field).collect();
        let body = call(9, "large", json!({"bytes": 1})).to_string();
        let answer = send(&local, method, path, &fields, body.as_bytes()).expect("an answer");
        let is_refused = status == 403 || answer.text().contains("valetd refuses it");
        assert!(answer.status == status && is_refused, "{case}: {} {}", answer.status, answer.text());
    }
    // in UTF-7, which some servers read if they are told to, +ACI- is a quotation mark
    let hidden = "{\"jsonrpc\":\"2.0\",\"id\":8,\"x\":\"+ACI-,+ACI-method+ACI-:+ACI-prompts/get\",\"method\":\"ping\"}";
    let utf_16: Vec<u8> = twice.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let overlong = b"{\"id\":8,\"method\":\"ping\",\"x\":\"\xc0\xa2,\"}";
    for (case, kind, encoding, body) in [
        ("UTF-7", "application/json; charset=utf-7", "identity", hidden.as_bytes()),
        ("UTF-16", "application/json; charset=utf-16", "identity", &*utf_16),
        ("UTF-16, unsaid", "application/json", "identity", &*utf_16),
        ("what is not UTF-8", "application/json", "identity", &overlong[..]),
        ("a form", "application/x-www-form-urlencoded", "identity", b"{\"method\":\"ping\",\"id\":1}"),
        ("a coding", "application/json", "gzip", b"{\"method\":\"ping\",\"id\":1}"),
        ("a BOM", "application/json", "identity", b"\xef\xbb\xbf{\"method\":\"ping\",\"id\":1}"),
    ] {
        let fields = [("Content-Type", kind), ("Content-Encoding", encoding), ("Mcp-Session-Id", &*session)];
        let answer = send(&local, "POST", "/lab/mcp", &fields, body).expect("an answer");
        assert_eq!(answer.status, 400, "{case}: {}", answer.text());
    }
    assert_eq!(server.mcp_log().messages.len(), before, "none of it has come to the server");

    let audit = eventually("the audit has the last line", || {
        let audit = std::fs::read_to_string(home.path("state/valetd/audit.jsonl")).ok()?;
        audit.contains("\"PUT\"").then_some(audit)
    });
    assert!(
        audit.contains("\"message\":\"tools/call echo\"") && audit.contains("\"message\":\"tools/call large\""),
        "{audit}"
    );
    assert!(!audit.contains("secret argument"), "{audit}");
}

#[test]
fn a_client_key_may_be_for_some_tools_alone() {
    let server = Server::start(Provider::Gdh, Options::default());
    let other = "[route.other]\naccount = \"lab\"\nupstream = \"http://127.0.0.1:1\"\n";
    let home = lab::home(&server, "", &format!("mcp = \"/mcp\"\n{other}"), "audit = true\n");
    let add = |name: &str, route: &str, rule: &str| {
        home.run(&["key", "add", name, "--route", route, "--allow", rule, "--expires", "1h"])
    };
    let refused = words(&add("agent", "other", "mcp tools/call e*"));
    assert!(refused.contains("other is not said to") && refused.contains("mcp = true"), "{refused}");
    let made = add("agent", "lab", "mcp tools/call e*"); // no daemon runs
    let key = String::from_utf8(made.stdout).expect("a key").trim().to_owned();
    let daemon = home.start();
    daemon.until("lab", "usable");
    let local = address(&daemon);
    let refused = words(&add("wide", "other", "mcp tools/call e*"));
    assert!(refused.contains("other is not said to"), "{refused}");
    let refused = words(&add("wide", "lab", "GET /x"));
    assert!(refused.contains("mcp tools/call search_*"), "{refused}");

    let session = begin(&local);
    let ask = |key: &str, method: &str, path: &str, message: &Value| {
        let fields = [
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
            ("Mcp-Session-Id", session.as_str()),
            ("X-Valetd-Key", key),
        ];
        send(&local, method, path, &fields, message.to_string().as_bytes()).expect("an answer")
    };
    let post = |message: &Value| ask(&key, "POST", "/lab/mcp", message);
    assert_eq!(post(&call(1, "echo", json!({"text": "x"}))).json()["result"]["content"][0]["text"], "x");
    assert_eq!(post(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})).status, 200);
    let before = server.mcp_log().messages.len();
    let large = call(3, "large", json!({"bytes": 1}));
    let answer = post(&large).json();
    let said = answer["error"]["message"].as_str().expect("an error");
    assert!(said.contains("not for tools/call large") && said.contains("the MCP server was not asked"), "{said}");
    assert_eq!((&answer["id"], &answer["error"]["data"]["check"]), (&json!(3), &json!("key-rights")));
    let batch = json!([call(4, "echo", json!({"text": "x"})), large]);
    assert_eq!(post(&batch).json().as_array().map(Vec::len), Some(2), "a batch is one");
    for (method, path) in [("POST", "/lab/messages"), ("GET", "/lab/datasets"), ("PUT", "/lab/mcp"), ("POST", "/lab")] {
        let answer = ask(&key, method, path, &call(5, "echo", json!({"text": "x"})));
        assert_eq!((answer.status, &answer.json()["check"]), (403, &json!("key-rights")), "{method} {path}");
    }
    assert_eq!(server.mcp_log().messages.len(), before, "none of it has come to the server");
    assert_eq!(post(&call(6, "echo", json!({"text": "x".repeat(2 << 20)}))).status, 400, "more than is read");

    // what every session needs, and no message: the stream, and the session's end
    assert!(
        ask(&key, "DELETE", "/lab/mcp", &large).text().contains("not for tools/call large"),
        "with a message in it"
    );
    let fields = [("Mcp-Session-Id", session.as_str()), ("X-Valetd-Key", &*key)];
    assert_eq!(send(&local, "DELETE", "/lab/mcp", &fields, b"").expect("an answer").status, 200);
    let listed = words(&home.run(&["key", "list"]));
    assert!(listed.contains("lab * *; mcp tools/call e*"), "{listed}");

    // an ephemeral one, of the bridge
    let mut client = McpClient::start(&home, &["lab", "--allow", "mcp tools/call e*"]);
    client.initialize();
    assert_eq!(text(&client.call("echo", json!({"text": "y"}))), "y");
    let refused = client.call("large", json!({"bytes": 1}));
    assert!(refused["error"]["message"].as_str().is_some_and(|said| said.contains("not for tools/call large")));
    let audit = eventually("the audit has the line", || {
        let audit = std::fs::read_to_string(home.path("state/valetd/audit.jsonl")).ok()?;
        (audit.matches("\"message\":\"tools/call large\"").count() > 1).then_some(audit)
    });
    assert!(audit.contains("\"message\":\"tools/call echo\""), "{audit}");

    // a route that leads elsewhere by now
    home.write_config(&lab::config(&server, "", "", ""));
    assert!(home.run(&["reload"]).status.success());
    assert_eq!(post(&call(7, "echo", json!({"text": "x"}))).status, 403);
}

#[test]
fn rules_for_messages_are_for_routes_to_mcp_servers() {
    let server = Server::start(Provider::Gdh, Options::default());
    let check = |route: &str| words(&Home::with(&lab::config(&server, "", route, "")).run(&["check"]));
    let said = check("allow = [\"mcp tools/call\"]");
    assert!(said.contains("the route is not said to lead to one") && said.contains("mcp = true"), "{said}");
    let said = check("mcp = true\nallow = [\"mcp tools/call a b\"]");
    assert!(said.contains("has more than a method and a name"), "{said}");
    assert!(check("mcp = \"mcp\"").contains("is no path"));
}
