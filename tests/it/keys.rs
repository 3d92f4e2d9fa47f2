//! Client keys, as a sandbox, an agent or another machine uses them.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider};

use crate::support::keys::{self, add, check, keyed};
use crate::support::lab::{self, Server, address};
use crate::support::nobody::{NOBODY, as_nobody, can_play_nobody, said_to_nobody};
use crate::support::providers::{gbdx_account, start};
use crate::support::upstreams::{Witness, mirror, read_head, serving};
use crate::support::{Home, eventually, free_address, get, mode, read_answer, send, words};

#[test]
fn a_key_gives_exactly_its_rights_in_each_of_its_forms_and_never_goes_upstream() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", &format!("upstream = \"http://{}\"", mirror()), "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let rights = ["--route", "lab", "--method", "GET", "--path", "/catalog/**"];
    let key = add(&home, "agent", &rights);
    let basic = format!("Basic {}", STANDARD.encode(format!("{key}:")));
    type Fields<'a> = Vec<(&'a str, &'a str)>;
    let as_password = format!("Basic {}", STANDARD.encode(format!("me:{key}")));
    let bearer = format!("Bearer {key}");
    let forms: [(&str, String, Fields<'_>); 8] = [
        ("field", "/lab/catalog/x?q=1".into(), vec![("X-Valetd-Key", &key)]),
        ("Basic", "/lab/catalog/x?q=1".into(), vec![("Authorization", &basic)]),
        ("Basic's password", "/lab/catalog/x?q=1".into(), vec![("Authorization", &as_password)]),
        ("Bearer", "/lab/catalog/x?q=1".into(), vec![("Authorization", &bearer)]),
        ("an SDK's field", "/lab/catalog/x?q=1".into(), vec![("x-api-key", &key)]),
        ("another SDK's field", "/lab/catalog/x?q=1".into(), vec![("api-key", &key)]),
        ("an SDK's field, other spelling", "/lab/catalog/x?q=1".into(), vec![("X_Api_Key", &key)]),
        ("path", format!("/{key}/lab/catalog/x?q=1"), vec![("Referer", "http://localhost/page")]),
    ];
    for (form, target, headers) in &forms {
        let answer = send(&address, "GET", target, headers, b"").expect("an answer");
        let seen = answer.text();
        assert_eq!(answer.status, 200, "{form}: {seen}");
        assert!(seen.starts_with("GET /catalog/x?q=1 HTTP/1.1\r\n"), "{form}: {seen}");
        assert!(!seen.contains("vk_") && !seen.to_ascii_lowercase().contains("x-valetd"), "{form}: {seen}");
    }
    let with = |key: &str, method: &str, path: &str| {
        let answer = send(&address, method, path, &[("X-Valetd-Key", key)], b"").expect("an answer");
        (answer.status, check(&answer))
    };
    let other = key.replace("vk_", "vk_A")[..key.len()].to_owned();
    let rows = [
        ("a HEAD is a GET", &key, "HEAD", "/lab/catalog", (200, None)),
        ("another path", &key, "GET", "/lab/orders", (403, Some("key-rights"))),
        ("another path by way of the first", &key, "GET", "/lab/catalog%2f..%2forders", (400, None)),
        ("another method", &key, "POST", "/lab/catalog/x", (403, Some("key-rights"))),
        ("a wrong key, though we need none", &other, "GET", "/lab/catalog/x", (403, Some("key"))),
        ("no such route", &key, "GET", "/gbdx/catalog/x", (404, None)),
    ];
    for (case, key, method, path, (status, expected)) in rows {
        assert_eq!(with(key, method, path), (status, expected.map(str::to_owned)), "{case}");
    }
    assert_eq!(send(&address, "POST", "/lab/orders", &[], b"x").expect("an answer").status, 200, "we need no key");

    let list = home.run(&["key", "list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let shown = &list["keys"][0];
    assert_eq!((&shown["name"], &shown["paths"]), (&json!("agent"), &json!(["/catalog/**"])));
    assert_eq!(shown["requests"], 9, "{shown:#}");
    assert!(words(&home.run(&["key", "list"])).contains("lab GET /catalog/**"));
    let output = home.run(&["key", "revoke", "agent"]);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(with(&key, "GET", "/lab/catalog/x"), (403, Some("key".into())), "revoked at once");
    assert!(!home.run(&["key", "revoke", "agent"]).status.success());
    // neither the key nor a piece of it that is worth anything
    let secret = &key["vk_".len()..][..12];
    assert!(!daemon.log().contains(secret) && !daemon.status().to_string().contains(secret));
}

#[test]
fn a_key_where_none_is_meant_is_refused_and_neither_goes_upstream_nor_into_the_audit() {
    let server = Server::start(Provider::Gdh, Options::default());
    let upstream = Witness::start();
    let home = lab::home(&server, "", &format!("upstream = \"{}\"", upstream.url), "audit = true");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let key = add(&home, "agent", &["--route", "lab"]);
    let encoded = key.replacen("vk_", "%76k_", 1);
    let every_byte: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let spellings =
        [key.clone(), encoded.clone(), encoded.replace('%', "%25"), every_byte.replace('%', "%25"), every_byte];
    let mut requests = 0;
    for spelling in &spellings {
        let page = format!("http://{address}/{spelling}/lab/page");
        for (target, field) in [
            (format!("//{spelling}/lab/x"), None),
            (format!("/lab/{spelling}"), None),
            (format!("/lab/x{spelling}y"), None),
            (format!("/lab/x?key={spelling}"), None),
            ("/lab/x".into(), Some(("Referer", page.clone()))),
            ("/lab/x".into(), Some(("Cookie", format!("a={spelling}")))),
            ("/lab/x".into(), Some(("X-Goog-Api-Key", spelling.clone()))),
            ("/lab/x".into(), Some(("Authorization", format!("Token {spelling}")))),
        ] {
            let fields: Vec<(&str, &str)> = field.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = send(&address, "GET", &target, &fields, b"").expect("an answer");
            assert_eq!(check(&answer).as_deref(), Some("key-misplaced"), "{target} {fields:?}");
            requests += 1;
        }
    }
    let at_first = send(&address, "GET", &format!("/{encoded}/lab/x"), &[], b"").expect("an answer");
    assert_eq!(check(&at_first).as_deref(), Some("key-misplaced"), "an encoded key is not taken for one");
    assert_eq!(upstream.seen(), "");
    // a value of their own that is like a key, or long, is nobody's business
    let fields = [("X-Api-Key", "vk_live_51H"), ("Cookie", &*"vk_".repeat(3)), ("X-Long", &*"x".repeat(99))];
    assert_eq!(send(&address, "GET", "/lab/y", &fields, b"").expect("an answer").status, 200);
    assert!(upstream.seen().to_ascii_lowercase().contains("x-api-key: vk_live_51h"));
    let audit = eventually("all are noted", || {
        let text = std::fs::read_to_string(home.path("state/valetd/audit.jsonl")).ok()?;
        (text.lines().filter(|line| line.contains("\"verdict\"")).count() >= requests + 2).then_some(text)
    });
    for spelling in &spellings {
        for piece in [&spelling[spelling.len() - 12..], &spelling[..12]] {
            assert!(!audit.contains(piece) && !daemon.log().contains(piece), "{piece} is in {audit}");
        }
    }
    assert!(audit.contains("key-misplaced"), "{audit}");
}

#[test]
fn keys_are_made_without_a_daemon_outlive_a_restart_and_expire() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let key = add(&home, "agent", &["--route", "lab"]);
    let brief = add(&home, "brief", &["--route", "lab", "--expires", "1s"]);
    assert!(words(&home.run(&["key", "add", "agent", "--route", "lab"])).contains("already"));
    assert!(words(&home.run(&["key", "add", "other", "--route", "nowhere"])).contains("the routes are: lab"));
    let file = home.path("state/valetd/client.keys.json");
    assert_eq!(mode(&file), 0o600);
    assert!(!std::fs::read_to_string(&file).expect("the file").contains("vk_"));
    for _ in 0..2 {
        let daemon = home.start();
        daemon.until("lab", "usable");
        assert_eq!(keyed(&address(&daemon), &key).status, 200);
        let refused = eventually("the brief one expires", || {
            Some(keyed(&address(&daemon), &brief)).filter(|answer| answer.status == 403)
        });
        assert_eq!(check(&refused).as_deref(), Some("key-expired"));
    }
    assert!(home.run(&["key", "revoke", "agent"]).status.success());
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(check(&keyed(&address(&daemon), &key)).as_deref(), Some("key"));
}

#[test]
fn a_key_that_is_used_too_often_has_to_wait() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let key = add(&home, "slow", &["--route", "lab", "--rate", "3/h"]);
    let statuses: Vec<u16> = (0..5).map(|_| keyed(&address(&daemon), &key).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let answer = keyed(&address(&daemon), &key);
    let wait: u64 = answer.header("retry-after").and_then(|wait| wait.parse().ok()).expect("Retry-After");
    assert!((1..=1200).contains(&wait), "{wait}");
    assert!(answer.json()["type"].as_str().is_some_and(|kind| kind.ends_with("too-many-requests")));
}

#[test]
fn a_key_carries_so_many_bytes_and_no_more_also_after_a_restart() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", &format!("upstream = \"http://{}\"", mirror()), "");
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    let key = add(&home, "small", &["--route", "lab", "--bytes", "2kB"]);
    let ask = |daemon: &_, bytes: usize| {
        send(&address(daemon), "POST", "/lab/x", &[("X-Valetd-Key", &key)], &vec![b'x'; bytes]).expect("an answer")
    };
    assert_eq!(ask(&daemon, 1).status, 200);
    assert_eq!(ask(&daemon, 3000).status, 200, "what has begun is let through to its end");
    let refused = eventually("it is used up", || Some(ask(&daemon, 1)).filter(|answer| answer.status == 403));
    assert_eq!(check(&refused).as_deref(), Some("key-bytes"));
    let list = words(&home.run(&["key", "list"]));
    assert!(list.contains("of 2000 bytes used"), "{list}");
    assert!(daemon.signal("TERM").success());
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(check(&ask(&daemon, 1)).as_deref(), Some("key-bytes"));
}

#[test]
fn a_key_runs_so_many_requests_at_once_and_no_more() {
    let server = Server::start(Provider::Gdh, Options::default());
    let (begun, begins) = mpsc::channel();
    let upstream = serving(move |mut stream| {
        if read_head(&mut BufReader::new(&stream))?.starts_with("POST ") {
            begun.send(()).expect("they are waited for");
            return stream.read_to_end(&mut Vec::new()).map(drop); // never answered
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let home = lab::home(&server, "", &format!("upstream = \"http://{upstream}\""), "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let key = add(&home, "few", &["--route", "lab", "--concurrent", "2"]);
    let begin = || {
        let mut stream = std::net::TcpStream::connect(&address).expect("connected");
        let head =
            format!("POST /lab/x HTTP/1.1\r\nHost: {address}\r\nX-Valetd-Key: {key}\r\nContent-Length: 5\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        stream
    };
    let held = [begin(), begin()];
    for _ in &held {
        begins.recv_timeout(Duration::from_secs(20)).expect("both run");
    }
    let refused = keyed(&address, &key);
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.header("retry-after").is_some() && refused.text().contains("at once"), "{}", refused.text());
    drop(held);
    eventually("they have ended", || (keyed(&address, &key).status == 200).then_some(()));
}

#[test]
fn a_key_is_for_the_processes_of_the_user_that_it_was_made_for() {
    if !can_play_nobody() {
        eprintln!("skipped: not root, or setpriv or curl is not installed");
        return;
    }
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    let theirs = add(&home, "theirs", &["--route", "lab", "--for-user", NOBODY.0]);
    let anybodys = add(&home, "anybodys", &["--route", "lab"]);
    assert!(words(&home.run(&["key", "list"])).contains("; for nobody"));
    for when in ["at once", "after a restart"] {
        let url = format!("http://{}/lab/datasets", address(&daemon));
        let as_nobody = |key: &str| as_nobody(&["--header", &format!("X-Valetd-Key: {key}"), &url]);
        assert_eq!((&*as_nobody(&theirs), &*as_nobody(&anybodys)), ("200", "200"), "{when}");
        assert_eq!(keyed(&address(&daemon), &anybodys).status, 200, "{when}");
        assert_eq!(check(&keyed(&address(&daemon), &theirs)).as_deref(), Some("key-user"), "{when}");
        assert!(daemon.signal("TERM").success());
        daemon = home.start();
        daemon.until("lab", "usable");
    }
}

#[test]
fn an_answer_of_valetds_own_tells_a_key_nothing_but_its_routes_and_a_stranger_nothing_of_the_configuration() {
    let server = Server::start(Provider::Gdh, Options::default());
    let other = format!("[route.other]\naccount = \"lab\"\nupstream = \"http://{}\"\n", mirror());
    let home = lab::home(&server, "", "", "");
    home.write_config(&(lab::config(&server, "", "", "") + &other));
    let daemon = home.start();
    daemon.until("lab", "usable");
    let key = add(&home, "agent", &["--route", "lab"]);
    let address = address(&daemon);
    let nowhere = |fields: &[(&str, &str)]| send(&address, "GET", "/nowhere", fields, b"").expect("an answer");
    assert_eq!(nowhere(&[]).json()["routes"], json!(["/lab/", "/other/"]));
    home.write_config("nonsense");
    assert!(!home.run(&["reload"]).status.success());
    let folder = home.path("").display().to_string();
    let ours = eventually("we are told of the problem", || {
        Some(nowhere(&[])).filter(|answer| answer.text().contains(folder.trim_end_matches('/')))
    });
    assert_eq!(ours.status, 404);
    let theirs = nowhere(&[("X-Valetd-Key", &key)]);
    assert_eq!(theirs.json()["routes"], json!(["/lab/"]));
    assert!(!theirs.text().contains(folder.trim_end_matches('/')), "{}", theirs.text());
    if !can_play_nobody() {
        eprintln!("skipped: not root, or setpriv or curl is not installed");
        return;
    }
    let fields: Vec<String> = (0..120).map(|number| format!("X-A{number}: vk_")).collect();
    let mut arguments = vec!["--http2-prior-knowledge"];
    fields.iter().for_each(|field| arguments.extend(["--header", field]));
    let url = format!("http://{address}/lab/x");
    arguments.push(&url);
    let told = said_to_nobody(&arguments);
    assert!(told.contains("431"), "{told}");
    assert!(!told.contains("toml") && !told.contains(folder.trim_end_matches('/')), "{told}");
}

#[test]
fn where_a_key_is_required_nobody_is_served_without_one() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "require_key = true", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let key = add(&home, "agent", &["--route", "lab"]);
    let address = address(&daemon);
    let ours = send(&address, "GET", "/lab/datasets", &[], b"").expect("an answer");
    assert_eq!(check(&ours).as_deref(), Some("key-required"));
    assert_eq!(keyed(&address, &key).status, 200);

    // and on an address that other machines can reach, by whatever name they know us
    let open = free_address().replace("127.0.0.1", "0.0.0.0");
    let config = lab::config(&server, "", "", "require_key = true");
    home.write_config(&config.replace("127.0.0.1:0", &open));
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    let from_here = open.replace("0.0.0.0", "127.0.0.1");
    let named = |headers: &[(&str, &str)]| {
        let headers = [&[("Host", "valet.example:80")], headers].concat();
        send(&from_here, "GET", "/lab/datasets", &headers, b"").expect("an answer")
    };
    assert_eq!(check(&named(&[])).as_deref(), Some("key-required"));
    assert_eq!(named(&[("X-Valetd-Key", &key)]).status, 200);
    home.write_config(&lab::config(&server, "", "", "").replace("127.0.0.1:0", &open));
    let refused = home.run(&["reload"]);
    assert!(words(&refused).contains("require_key = true"), "{}", words(&refused));
}

#[test]
fn an_ephemeral_key_dies_with_the_connection_that_made_it() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let (line, key) = hold(&home);
    assert_eq!(keyed(&address, &key).status, 200);
    let (other_line, other) = hold(&home);
    drop(line);
    eventually("the key dies", || (keyed(&address, &key).status == 403).then_some(()));
    assert_eq!(keyed(&address, &other).status, 200, "the other one lives");

    let list = home.run(&["key", "list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let name = list["keys"][0]["name"].as_str().expect("a name");
    assert_eq!((list["keys"].as_array().map(Vec::len), &list["keys"][0]["ephemeral"]), (Some(1), &json!(true)));
    assert!(home.run(&["key", "revoke", name]).status.success());
    assert_eq!(keyed(&address, &other).status, 403);
    drop(other_line);
    assert!(!home.path("state/valetd/client.keys.json").exists(), "nothing of it was on the disk");
}

#[test]
fn a_routes_rules_hold_for_everybody_and_whatever_the_spelling() {
    let server = Server::start(Provider::Gdh, Options::default());
    let rules = "allow = [\"GET /**\", \"POST /catalog/search\"]\ndeny = [\"/admin/**\"]";
    let home = lab::home(&server, "", &format!("upstream = \"http://{}\"\n{rules}", mirror()), "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let rows = [
        ("GET", "/lab/catalog", 200),
        ("HEAD", "/lab/catalog", 200),
        ("POST", "/lab/catalog/search", 200),
        ("POST", "/lab/catalog", 403),
        ("DELETE", "/lab/catalog", 403),
        ("GET", "/lab/admin", 403),
        ("GET", "/lab/admin/users", 403),
        ("GET", "/lab//admin/users", 403),
        ("GET", "/lab/%61dmin/users", 403),
        ("GET", "/lab/%2561dmin/users", 403),
        ("GET", "/lab/admin%2fusers", 403),
        ("GET", "/lab/admin;x=1/users", 403),
        ("GET", "/lab/./admin", 400),
        ("GET", "/lab/administration", 200),
        ("GET", "/lab/a%2fb", 200),
    ];
    for (method, target, expected) in rows {
        let answer = send(&address, method, target, &[], b"").expect("an answer");
        assert_eq!(answer.status, expected, "{method} {target}: {}", answer.text());
        if expected == 200 && method == "GET" {
            let sent = target.strip_prefix("/lab").expect("the route");
            assert!(answer.text().starts_with(&format!("GET {sent} HTTP/1.1\r\n")), "byte for byte: {target}");
        }
    }
    let smuggled = send(&address, "GET", "/lab/x", &[("X-HTTP-Method-Override", "DELETE")], b"").expect("an answer");
    assert_eq!(smuggled.status, 403);
}

// --- the stage -------------------------------------------------------------------------------------------------------

/// Makes an ephemeral key by hand, and keeps the connection that it lives on.
fn hold(home: &Home) -> (UnixStream, String) {
    let (mut line, mut answer) = keys::line(home);
    line.write_all(keys::ephemeral_order("HTTP/1.1").as_bytes()).expect("sent");
    (line, keys::ordered(&mut answer))
}

#[test]
fn the_mirror_shows_what_it_was_sent() {
    let address = mirror();
    let stream = std::net::TcpStream::connect(address).expect("the mirror");
    (&stream).write_all(b"GET /x HTTP/1.1\r\nA: b\r\n\r\n").expect("sent");
    assert_eq!(
        read_answer(&mut BufReader::new(stream), true).expect("an answer").text(),
        "GET /x HTTP/1.1\r\nA: b\r\n\r\n"
    );
}

#[test]
fn a_command_gets_a_key_that_dies_with_it() {
    let gbdx = start(Provider::Gbdx, Options::default());
    let address = free_address();
    let home = Home::with(&format!("listen = [\"{address}\"]\n{}", gbdx_account(&gbdx)));
    home.sign_in("gbdx", &gbdx.sign_in());
    let daemon = home.start();
    daemon.until("gbdx", "usable");
    let ask = "curl -s -o /dev/null -w '%{http_code} '";
    let script = format!(
        "{ask} $GBDX_URL/auth/v1/validate_token; {ask} $VALETD_URL/gbdx-rda/x; \
         {ask} http://{address}/$VALETD_KEY/gbdx-rda/x; echo $VALETD_KEY"
    );
    let output = home.run(&["exec", "-r", "gbdx", "--key-in-url", "--", "sh", "-c", &script]);
    assert!(output.status.success(), "{}", words(&output));
    let said = String::from_utf8(output.stdout).expect("text");
    let [own, other, elsewhere, key] = said.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!((own, other), ("200", "404"), "at its own address is the route that was asked for, and no other");
    assert_eq!(elsewhere, "403", "nor is the key good for another");
    eventually("the key has died with the command", || {
        let answer = send(&address, "GET", "/gbdx/auth/v1/validate_token", &[("X-Valetd-Key", key)], b"").ok()?;
        (answer.status == 403).then_some(())
    });
    assert_eq!(
        get(&address, "/gbdx/auth/v1/validate_token").expect("an answer").status,
        200,
        "without a key: the peer"
    );
}
