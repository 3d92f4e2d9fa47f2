//! The address of its own that a command under `valetd exec` has, and what is open to the command beside it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use valetd::stand_in::{Behaviour, Options, Provider};

use crate::support::frames;
use crate::support::keys::{self, add};
use crate::support::lab::{self, Server, address};
use crate::support::nobody::{NOBODY, as_nobody, can_play_nobody, said_to_nobody};
use crate::support::upstreams::{mirror, read_head, serving};
use crate::support::{Home, Killed, PATIENCE, eventually, free_address, mode, request, send, words};

/// Two routes, `lab` and `other`, to a mirror.
fn two_routes(server: &Server, route: &str, top: &str) -> String {
    let mirror = format!("upstream = \"http://{}\"", mirror());
    let other = format!("[route.other]\naccount = \"lab\"\n{mirror}\n{route}\n");
    lab::config(server, "", &format!("{mirror}\n{route}"), top) + &other
}

fn home_of_two(server: &Server) -> Home {
    let home = Home::with(&two_routes(server, "", ""));
    lab::sign_in(&home, &server.sign_in());
    home
}

/// Starts a command that shows its environment and then waits for its input to end.
fn waiting(home: &Home, arguments: &[&str], environment: &[(&str, &str)]) -> (Killed, HashMap<String, String>) {
    let mut command = home.valetd(&[&["exec"], arguments, &["--", "sh", "-c", "env; echo; cat"]].concat());
    command.envs(environment.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Killed(command.spawn().expect("valetd runs"));
    let lines = BufReader::new(child.0.stdout.as_mut().expect("piped")).lines();
    let lines = lines.map(|line| line.expect("a line")).take_while(|line| !line.is_empty());
    let variables =
        lines.filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
    let variables = variables.collect();
    (child, variables)
}

/// `127.0.0.1:40311` of a command's VALETD_URL.
fn own_address(variables: &HashMap<String, String>) -> String {
    let address = variables["VALETD_URL"].strip_prefix("http://").expect("a URL").to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    address
}

fn status_of(address: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
    send(address, "GET", path, fields, b"").expect("an answer").status
}

#[test]
fn at_a_commands_own_address_only_the_routes_that_it_named_exist_with_any_key_and_by_any_name() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home_of_two(&server);
    let daemon = home.start();
    daemon.until("lab", "usable");
    let outer = [("OTHER_URL", "http://outer.example/other"), ("VALETD_KEY", "outer")];
    let (child, variables) = waiting(&home, &["-r", "lab", "-r", "lab"], &outer);
    let own = own_address(&variables);
    assert_eq!(variables["LAB_URL"], format!("http://{own}/lab"));
    assert!(!variables.contains_key("OTHER_URL"), "neither ours nor that of a command around it");
    let wide = add(&home, "wide", &["--route", "lab", "--route", "other"]);
    let port = own.rsplit(':').next().expect("a port");
    let (lab_host, other_host) = (format!("lab.localhost:{port}"), format!("other.localhost:{port}"));
    let key = &*variables["VALETD_KEY"];
    for key in [None, Some(key), Some(&*wide)] {
        let fields: Vec<(&str, &str)> = key.map(|key| ("X-Valetd-Key", key)).into_iter().collect();
        let at_host = |host| [&fields[..], &[("Host", host)]].concat();
        assert_eq!(status_of(&own, "/lab/x", &fields), 200);
        assert_eq!(status_of(&own, "/x", &at_host(&lab_host)), 200);
        for path in ["/other/x", "/other", "/OTHER/x", "//other/x", "/", "/lab%2f..%2fother/x", "/nowhere/x"] {
            let status = status_of(&own, path, &fields);
            assert!(status == 404 || status == 400, "{key:?} {path}: {status}");
        }
        assert_eq!(status_of(&own, "/x", &at_host(&other_host)), 404);
        assert_eq!(status_of(&own, "/lab/x", &at_host(&other_host)), 404);
        assert_eq!(status_of(&own, "/lab/x", &at_host("evil.example")), 403);
        if let Some(key) = key {
            assert_eq!(status_of(&own, &format!("/{key}/lab/x"), &[]), 200);
            assert_eq!(status_of(&own, &format!("/{key}/other/x"), &[]), 404);
        }
    }
    let refused = send(&own, "GET", "/other/x", &[], b"").expect("an answer");
    assert_eq!(refused.json()["routes"], json!(["/lab/"]), "nor is it said which others there are");
    let common = address(&daemon);
    assert_eq!(status_of(&common, "/other/x", &[]), 200, "the common address is as it was");
    assert_eq!(status_of(&common, "/other/x", &[("X-Valetd-Key", key)]), 403);

    let status = daemon.status();
    assert_eq!(status["daemon"]["own_addresses"][0]["address"], *own);
    assert_eq!(status["daemon"]["own_addresses"][0]["routes"], json!(["lab"]));
    assert!(words(&home.run(&["status"])).contains(&format!("for a command: lab on {own}")));
    let (all, variables) = waiting(&home, &[], &[]);
    assert!(
        variables["VALETD_URL"].ends_with(&common) && variables.contains_key("OTHER_URL"),
        "without -r: {variables:?}"
    );
    drop((child, all));
}

#[test]
fn a_commands_own_address_ends_at_once_with_the_command_and_takes_its_connections_along() {
    let server = Server::start(Provider::Gdh, Options::default());
    let stuck = stuck();
    let home = lab::home(&server, "", &format!("upstream = \"http://{stuck}\""), "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let (child, variables) = waiting(&home, &["-r", "lab"], &[]);
    let own = own_address(&variables);
    let request = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: {own}\r\n{more}\r\n").into_bytes();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let rows = [
        ("idle", Vec::new()),
        ("in a head", b"GET /lab/x HTTP/1.1\r\n".to_vec()),
        ("waiting for an answer", request("GET /lab/wait", "")),
        ("in an answer", request("GET /lab/drip", "")),
        ("in an upload", [&request("POST /lab/wait", "Content-Length: 9\r\n")[..], b"1"].concat()),
        ("in a tunnel", request("GET /lab/tunnel", upgrade)),
        ("HTTP/2, idle", http2(&own, &[])),
        ("HTTP/2, waiting for an answer", http2(&own, &["/lab/wait"])),
        ("HTTP/2, in an answer and waiting for another", http2(&own, &["/lab/drip", "/lab/wait"])),
    ];
    let begins = |(case, bytes): &(&'static str, Vec<u8>)| {
        let mut stream = TcpStream::connect(&own).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.write_all(bytes).expect("sent");
        if case.contains("HTTP/2") || case.contains("in an answer") || case.contains("tunnel") {
            stream.read_exact(&mut [0]).expect("it begins");
        }
        (*case, stream)
    };
    let open: Vec<(&str, TcpStream)> = rows.iter().map(begins).collect();
    eventually("all are under way", || {
        let status = daemon.status();
        let (connections, requests) = (&status["daemon"]["connections"], &status["routes"][0]["open"]);
        (connections.as_u64() >= Some(rows.len() as u64) && requests.as_u64() >= Some(6)).then_some(())
    });
    let ended = Instant::now();
    drop(child);
    for (case, mut stream) in open {
        let rest = stream.read_to_end(&mut Vec::new());
        assert!(
            rest.as_ref().is_ok() || rest.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
            "{case}: {rest:?}"
        );
    }
    assert!(ended.elapsed() < PATIENCE / 2, "{:?}", ended.elapsed());
    eventually("nobody listens there", || TcpStream::connect(&own).is_err().then_some(()));
    eventually("nothing of it is left", || {
        let status = daemon.status();
        let gone = status["daemon"]["connections"] == 0 && status["routes"][0]["open"] == 0;
        (gone && status["daemon"]["own_addresses"].as_array().is_some_and(Vec::is_empty)).then_some(())
    });
}

#[test]
fn a_commands_own_address_stays_what_it_is_while_the_configuration_changes_and_ends_with_its_key() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home_of_two(&server);
    let daemon = home.start();
    daemon.until("lab", "usable");
    let (_child, variables) = waiting(&home, &["-r", "other"], &[]);
    let own = own_address(&variables);
    let reload = |config: &str| {
        home.write_config(config);
        assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    };
    assert_eq!((status_of(&own, "/other/x", &[]), status_of(&own, "/lab/x", &[])), (200, 404));
    // other listeners, another route, and the one that was lent is gone
    let mirror = format!("upstream = \"http://{}\"", mirror());
    let without = lab::config(&server, "", &mirror, "") + &format!("[route.new]\naccount = \"lab\"\n{mirror}\n");
    reload(&without.replace("127.0.0.1:0", &free_address()));
    assert_eq!((status_of(&own, "/other/x", &[]), status_of(&own, "/lab/x", &[])), (404, 404));
    assert_eq!(status_of(&own, "/new/x", &[]), 404);
    reload(&two_routes(&server, "", ""));
    assert_eq!((status_of(&own, "/other/x", &[]), status_of(&own, "/lab/x", &[])), (200, 404));
    reload(&two_routes(&server, "", "require_key = true"));
    let key = &*variables["VALETD_KEY"];
    assert_eq!((status_of(&own, "/other/x", &[]), status_of(&own, "/other/x", &[("X-Valetd-Key", key)])), (403, 200));
    reload(&two_routes(&server, "", ""));

    let keys = daemon.control("GET", "/v1/keys").expect("the keys").json();
    assert_eq!(keys["keys"][0]["address"], *own);
    assert!(home.run(&["key", "revoke", keys["keys"][0]["name"].as_str().expect("a name")]).status.success());
    eventually("nobody listens there", || TcpStream::connect(&own).is_err().then_some(()));
}

#[test]
fn who_may_call_is_the_same_at_a_commands_own_address_as_at_the_common_one() {
    if !can_play_nobody() {
        eprintln!("skipped: not root, or setpriv or curl is not installed");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home_of_two(&server);
    let daemon = home.start();
    daemon.until("lab", "usable");
    // an address with the key in it stands in the arguments of whatever is called with it
    let (_ours, variables) = waiting(&home, &["-r", "lab", "--key-in-url"], &[]);
    let url = format!("{}/x", variables["LAB_URL"]);
    let (own, path) = url["http://".len()..].split_once('/').expect("a path");
    assert_eq!(status_of(own, &format!("/{path}"), &[]), 200);
    assert_eq!(as_nobody(&[&url]), "403", "the key is for our processes");
    let (base, key) =
        (format!("http://{}/lab/x", address(&daemon)), format!("X-Valetd-Key: {}", variables["VALETD_KEY"]));
    let answer = said_to_nobody(&["--header", &key, &base]);
    assert!(answer.contains("\"key-user\"") && answer.contains("--for-user NAME"), "{answer}");
    let unknown = home.run(&["exec", "--for-user", "nobody-of-that-name", "--", "true"]);
    assert!(words(&unknown).contains("/etc/passwd"), "{}", words(&unknown));
    let (_child, variables) = waiting(&home, &["-r", "lab", "--for-user", NOBODY.0], &[]);
    let url = format!("{}/x", variables["LAB_URL"]);
    assert_eq!(as_nobody(&[&url]), "403");
    let with_it = [("X-Valetd-Key", &*variables["VALETD_KEY"])];
    assert_eq!(status_of(&address(&daemon), "/lab/x", &with_it), 403, "nor is theirs for ours");
    assert_eq!(as_nobody(&["--header", &format!("X-Valetd-Key: {}", variables["VALETD_KEY"]), &url]), "200");
    let other = format!("{}/other/x", variables["VALETD_URL"]);
    assert_eq!(as_nobody(&["--header", &format!("X-Valetd-Key: {}", variables["VALETD_KEY"]), &other]), "404");
    let (_child, variables) = waiting(&home, &["-r", "lab", "--key-in-url", "--for-user", NOBODY.0], &[]);
    assert_eq!(as_nobody(&[&format!("{}/x", variables["LAB_URL"])]), "200");
}

#[test]
fn where_only_unix_sockets_are_served_a_command_gets_one_of_its_own() {
    let server = Server::start(Provider::Gdh, Options::default());
    let folder = tempfile::tempdir().expect("a folder");
    let home = Home::with(
        &two_routes(&server, "", "").replace("127.0.0.1:0", &format!("unix:{}/http.sock", folder.path().display())),
    );
    lab::sign_in(&home, &server.sign_in());
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    let (child, variables) = waiting(&home, &["-r", "lab"], &[]);
    let url = variables["LAB_URL"].strip_suffix(":/lab").and_then(|url| url.strip_prefix("http://unix:"));
    let path = PathBuf::from(url.expect("a socket"));
    let ask = |path: &Path, target: &str| {
        let stream = UnixStream::connect(path).ok()?;
        let head = format!("GET {target} HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n");
        request(stream, &head, b"").ok().map(|answer| answer.status)
    };
    assert_eq!((ask(&path, "/lab/x"), ask(&path, "/other/x")), (Some(200), Some(404)));
    assert_eq!(mode(&path), 0o600);
    drop(child);
    eventually("its file is gone", || (!path.exists()).then_some(()));
    // a daemon that is killed leaves one behind, and the next takes it away without taking it up
    let (_child, variables) = waiting(&home, &["-r", "lab"], &[]);
    let path = variables["LAB_URL"].trim_start_matches("http://unix:").trim_end_matches(":/lab").to_owned();
    daemon.signal("KILL");
    assert!(Path::new(&path).exists());
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert!(!Path::new(&path).exists());
    assert_eq!(ask(Path::new(&path), "/lab/x"), None);
}

#[test]
fn commands_with_addresses_of_their_own_are_bounded_and_none_is_left_behind() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home_of_two(&server);
    let daemon = home.start();
    daemon.until("lab", "usable");
    let before = descriptors_of(daemon.child.id());
    let order = r#"{"routes": ["lab"], "ephemeral": true, "address": true}"#;
    let post =
        |body: &str| format!("POST /v1/keys HTTP/1.1\r\nHost: v\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let ask = |body: &str| {
        let (mut line, mut answer) = keys::line(&home);
        line.write_all(post(body).as_bytes()).expect("sent");
        let mut first = String::new();
        answer.read_line(&mut first).expect("an answer");
        (line, first)
    };
    let mut lines: Vec<UnixStream> = Vec::new();
    let refused = loop {
        let (line, first) = ask(order);
        if !first.starts_with("HTTP/1.1 201") {
            break first;
        }
        lines.push(line);
        assert!(lines.len() < 1000, "there is no bound");
    };
    assert!(refused.starts_with("HTTP/1.1 409"), "{refused}");
    assert_eq!(lines.len(), 128);
    assert_eq!(lab::ping(&address(&daemon)).status, 200, "and others are served");
    assert!(home.run(&["status"]).status.success());
    drop(lines);
    // who leaves before the answer leaves nothing behind either
    for _ in 0..50 {
        let mut line = UnixStream::connect(home.socket()).expect("the control socket");
        line.write_all(post(order).as_bytes()).expect("sent");
    }
    eventually("all is given back", || {
        let keys = daemon.control("GET", "/v1/keys").ok()?.json();
        let none = keys["keys"].as_array().is_some_and(Vec::is_empty);
        (none && descriptors_of(daemon.child.id()) <= before + 2).then_some(())
    });
    for wrong in [
        r#"{"routes": ["lab"], "name": "a", "address": true}"#,
        r#"{"routes": ["lab"], "ephemeral": true, "address": true, "expires_in": 60}"#,
    ] {
        assert!(ask(wrong).1.starts_with("HTTP/1.1 400"), "{wrong}");
    }
}

#[test]
fn with_strict_exec_no_command_runs_while_a_route_can_be_used_without_a_key() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&two_routes(&server, "", "strict_exec = true"));
    lab::sign_in(&home, &server.sign_in());
    let daemon = home.start();
    daemon.until("lab", "usable");
    for arguments in [&["exec", "-r", "lab", "--", "echo", "ran"][..], &["exec", "--", "echo", "ran"]] {
        let refused = home.run(arguments);
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stdout.is_empty() && words(&refused).contains("require_key = true"), "{}", words(&refused));
    }
    // for one route is not enough: the other can be reached by the same process
    let open =
        two_routes(&server, "", "strict_exec = true").replace("[route.other]", "[route.other]\nrequire_key = true");
    home.write_config(&open);
    assert!(home.run(&["reload"]).status.success());
    assert!(!home.run(&["exec", "-r", "other", "--", "true"]).status.success());
    home.write_config(&two_routes(&server, "", "strict_exec = true\nrequire_key = true"));
    assert!(home.run(&["reload"]).status.success());
    let script = "curl -s -o /dev/null -w '%{http_code} ' $LAB_URL/x; \
                  curl -s -o /dev/null -w '%{http_code}' -H \"X-Valetd-Key: $VALETD_KEY\" $LAB_URL/x";
    let output = home.run(&["exec", "-r", "lab", "--", "sh", "-c", script]);
    assert_eq!(words(&output), "403 200", "and nothing on standard error");
}

#[test]
fn strict_exec_that_is_switched_on_while_a_command_waits_for_its_token_holds_for_it() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    // longer than all that follows takes on a machine that is busy
    server.behave(Behaviour::Hang(Duration::from_secs(8)), Some(1));
    let daemon = home.start();
    let mut command = home.valetd(&["exec", "-r", "lab", "--", "echo", "ran"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("valetd runs");
    thread::sleep(Duration::from_millis(500)); // it has looked once by then, or it is refused at once
    home.write_config(&lab::config(&server, "", "", "strict_exec = true"));
    assert!(home.run(&["reload"]).status.success());
    assert_ne!(daemon.account("lab")["state"], "usable", "it has not waited");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.stdout.is_empty() && words(&output).contains("strict_exec"), "{}", words(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_command_waits_for_the_accounts_of_its_own_routes_alone_and_once() {
    let server = Server::start(Provider::Gdh, Options::default());
    let other = "[account.away]\ntoken_endpoint = \"http://127.0.0.1:1/token\"\nclient_id = \"x\"\n\
                 upstream = \"http://127.0.0.1:1\"\n[route.away]\naccount = \"away\"\n";
    let home = Home::with(&(lab::config(&server, "", "", "") + other));
    lab::sign_in(&home, &server.sign_in());
    // also while there is no daemon yet, nobody has to sign in to the other account
    let mut command = home.valetd(&["exec", "-r", "lab", "--timeout", "60s", "--", "echo", "ran"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("valetd runs");
    thread::sleep(Duration::from_millis(500)); // it has looked once by then
    let daemon = home.start();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ran\n", "{}", words(&output));
    daemon.until("lab", "usable");
    let all = home.run(&["exec", "--", "true"]);
    assert_eq!(all.status.code(), Some(3), "{}", words(&all));
    drop(daemon);
    // the daemon's absence and an account's together take no longer than what was given
    server.behave(Behaviour::Hang(Duration::from_secs(20)), None);
    let mut command = home.valetd(&["exec", "-r", "lab", "--timeout", "3s", "--", "true"]);
    let began = Instant::now();
    let child = command.stderr(Stdio::piped()).spawn().expect("valetd runs");
    thread::sleep(Duration::from_millis(1500));
    let daemon = home.start();
    assert_ne!(daemon.account("lab")["state"], "usable");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(began.elapsed() < Duration::from_millis(4400), "{:?}", began.elapsed());
}

#[test]
fn help_and_doctor_say_what_a_key_does_not_keep_a_process_of_the_same_user_from() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home_of_two(&server);
    let daemon = home.start();
    daemon.until("lab", "usable");
    let one_line = |output: &Output| words(output).split_whitespace().collect::<Vec<_>>().join(" ");
    for arguments in [&["exec", "--help"][..], &["key", "add", "--help"], &["key", "--help"], &["doctor", "--offline"]]
    {
        let said = one_line(&home.run(arguments));
        assert!(said.contains("on the common addresses") && said.contains("unless"), "{arguments:?}: {said}");
        assert!(said.contains("require_key = true"), "{arguments:?}: {said}");
    }
    home.write_config(&two_routes(&server, "", "require_key = true"));
    assert!(home.run(&["reload"]).status.success());
    assert!(one_line(&home.run(&["doctor", "--offline"])).contains("every request needs one"));
    assert!(home.run(&["exec", "-r", "lab", "--", "true"]).stderr.is_empty(), "cron sends no mail");
}

/// An upstream that never comes to an end: it does not answer, drips, or tunnels in silence, by the path.
fn stuck() -> String {
    serving(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let head = read_head(&mut reader)?;
        if head.contains("/drip ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n1")?;
        } else if head.contains("/tunnel ") {
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch)?;
        }
        // until valetd hangs up
        reader.read_to_end(&mut Vec::new()).map(drop)
    })
}

/// How an HTTP/2 client begins, with GETs for these targets.
fn http2(authority: &str, targets: &[&str]) -> Vec<u8> {
    let gets = (1..).step_by(2).zip(targets).flat_map(|(stream, target)| frames::get(stream, target, authority, &[]));
    frames::preface(65535).into_iter().chain(gets).collect()
}

/// How many descriptors a process has open.
fn descriptors_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("our own child").count()
}
