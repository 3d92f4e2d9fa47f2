//! Clients that were registered at a server (RFC 7591) in a sealed store: what is secret of them is sealed as the records are,
//! and while the key is away nobody takes a client for none, and registers another.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::documents::Documents;
use crate::support::terminal::Terminal;
use crate::support::{Daemon, Home, VALETD, eventually, words};

const KEY: &str = "kq8hUw2D0Zf1Yp6mJt3Rb7Lx5Nc9Vs4E";
const SECRET: &str = "registered-secret-canary-7a1f2b60";
const ACCESS_TOKEN: &str = "registration-token-canary-c03d9e15";

/// A server that registers clients with a secret, and gives them tokens; and two accounts of it.
struct Registering {
    server: Documents,
    home: Home,
}

impl Registering {
    fn new() -> Self {
        Self::with("{ file = \"../../key\" }")
    }

    /// A configuration that says this of the seal.
    fn with(seal: &str) -> Self {
        let server = Documents::start();
        let url = server.url();
        let registered = json!({"client_id": "client-of-notes", "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_post", "registration_access_token": ACCESS_TOKEN,
            "registration_client_uri": format!("{url}/register/1")});
        server.put_with("/register", 201, "", registered);
        server.put("/register/1", "");
        server.put("/revoke", "");
        server.put("/token", json!({"access_token": "at", "token_type": "Bearer", "expires_in": 3600}));
        let account = |name: &str| {
            format!(
                "[account.{name}]\ntoken_endpoint = \"{url}/token\"\nregistration_endpoint = \"{url}/register\"\n\
                 revocation_endpoint = \"{url}/revoke\"\n\
                 client = \"register\"\nupstream = \"{url}\"\nrenew = {{ minimum_spacing = \"10ms\" }}\n"
            )
        };
        let top = format!("listen = [\"127.0.0.1:0\"]\nstore.seal = {seal}\n");
        let this = Self { server, home: Home::with(&format!("{top}{}{}", account("notes"), account("more"))) };
        this.put_key();
        this
    }

    fn put_key(&self) {
        fs::write(self.home.path("key"), format!("{KEY}\n")).expect("written");
        fs::set_permissions(self.home.path("key"), fs::Permissions::from_mode(0o600)).expect("mode 0600");
    }

    fn lose_key(&self) {
        fs::remove_file(self.home.path("key")).expect("removed");
    }

    fn login(&self, account: &str) -> Output {
        self.home.run_with_input(&["login", account, "--refresh-token-stdin"], "rt-of-a-person")
    }

    fn is_done(&self, arguments: &[&str]) -> String {
        let output = self.home.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        words(&output)
    }

    fn asked(&self, line: &str) -> usize {
        self.server.asked().iter().filter(|(asked, _)| asked == line).count()
    }

    /// How often tokens were asked for by a client that has proved who it is.
    fn proved(&self) -> usize {
        let is_proved = |body: &str| body.contains("client_id=client-of-notes") && body.contains(SECRET);
        let asked = self.server.asked();
        let proofs: Vec<bool> =
            asked.iter().filter(|(line, _)| line == "POST /token").map(|(_, body)| is_proved(body)).collect();
        assert!(proofs.iter().all(|is_proved| *is_proved), "{asked:?}");
        proofs.len()
    }

    fn renew(&self, daemon: &Daemon<'_>) {
        let before = self.proved();
        assert!(daemon.control("POST", "/v1/accounts/notes/refresh").is_ok_and(|answer| answer.status == 202));
        eventually("a renewal by the client", || (self.proved() > before).then_some(()));
        daemon.until("notes", "usable");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path("state/valetd").join(name)
    }

    /// The files of the state folder in which a secret of the clients stands.
    fn leaks(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.path("state/valetd")).expect("a folder").flatten();
        let leaks = entries.filter(|entry| {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            text.contains(SECRET) || text.contains(ACCESS_TOKEN)
        });
        let mut names: Vec<_> = leaks.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn the_secrets_of_a_registered_client_are_sealed_with_the_records_and_used_as_before() {
    for is_running in [false, true] {
        let case = format!("with a daemon: {is_running}");
        let stage = Registering::new();
        let mut daemon = is_running.then(|| stage.home.start());
        let output = stage.login("notes");
        assert!(output.status.success(), "{case}: {}", words(&output));
        assert_eq!(stage.leaks(), ["notes.client.json"], "{case}: in the clear at first");
        stage.is_done(&["seal", "on"]);
        assert_eq!(stage.leaks(), [""; 0], "{case}");
        let file = fs::read_to_string(stage.file("notes.client.json")).expect("a file");
        assert!(file.contains("client-of-notes") && file.contains("\"sealed\""), "{case}: {file}");
        // into a sealed store, and by the client that is there already
        for account in ["more", "notes"] {
            let output = stage.login(account);
            assert!(output.status.success(), "{case}: {account}: {}", words(&output));
        }
        assert_eq!((stage.asked("POST /register"), stage.leaks()), (2, vec![]), "{case}");
        stage.is_done(&["seal", "rotate"]);
        let rotated = fs::read_to_string(stage.file("notes.client.json")).expect("a file");
        assert_ne!(file, rotated, "{case}: under another key");
        // a restart, or the first start
        drop(daemon.take());
        let daemon = stage.home.start();
        daemon.until("notes", "usable");
        stage.renew(&daemon);
        assert_eq!(stage.leaks(), [""; 0], "{case}");
        stage.is_done(&["check"]);
        if !is_running {
            drop(daemon);
        }
        stage.is_done(&["seal", "off"]);
        assert_eq!(stage.leaks(), ["more.client.json", "notes.client.json"], "{case}");
        stage.is_done(&["seal", "on"]);
        // and its end: taken back at the server with what was sealed
        let removed = stage.is_done(&["remove", "notes"]);
        assert!(!removed.contains("stays registered"), "{case}: {removed}");
        let asked = stage.server.asked();
        let revocation = asked.iter().rfind(|(line, _)| line == "POST /revoke").expect("it is revoked");
        assert!(revocation.1.contains(SECRET), "{case}: by the client: {revocation:?}");
        assert_eq!((stage.asked("DELETE /register/1"), stage.asked("POST /register")), (1, 2), "{case}");
        let left = fs::read_dir(stage.home.path("state/valetd")).expect("a folder").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(left.iter().all(|name| !name.starts_with("notes")), "{case}: {left:?}");
    }
}

#[test]
fn while_the_key_is_away_an_account_with_a_registered_client_waits_for_it_and_registers_no_other() {
    let stage = Registering::new();
    assert!(stage.login("notes").status.success());
    stage.is_done(&["seal", "on"]);
    let before = fs::read(stage.file("notes.client.json")).expect("a file");
    stage.lose_key();
    let refused = |case: &str| {
        let output = stage.login("notes");
        assert_eq!(output.status.code(), Some(5), "{case}: {}", words(&output));
        assert!(words(&output).contains("locked"), "{case}: {}", words(&output));
    };
    refused("without a daemon");
    stage.is_done(&["check"]);
    let daemon = stage.home.start();
    daemon.until("notes", "store-locked");
    refused("with a daemon");
    stage.is_done(&["check"]);
    stage.is_done(&["reload"]);
    daemon.until("notes", "store-locked");
    let answer = daemon.control("GET", "/v1/accounts/notes/client").expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("store-locked"), "{}", answer.text());
    assert_eq!(
        (stage.asked("POST /register"), fs::read(stage.file("notes.client.json")).expect("a file")),
        (1, before)
    );
    // its return is enough
    stage.put_key();
    daemon.until("notes", "usable");
    stage.renew(&daemon);

    // a lock: the secret does not leave, and comes back with the rest
    for lock in [&["lock"][..], &["lock", "--all"]] {
        stage.is_done(lock);
        let answer = daemon.control("GET", "/v1/accounts/notes/client").expect("an answer");
        assert_eq!(answer.status, 503, "{lock:?}: {}", answer.text());
        stage.is_done(&["unlock"]);
        daemon.until("notes", "usable");
        stage.renew(&daemon);
    }
    let answer = daemon.control("GET", "/v1/accounts/notes/client").expect("an answer");
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert_eq!(daemon.control("GET", "/v1/accounts/more/client").expect("an answer").status, 404);
    // what has lost its secret takes no client's place
    let sealed = fs::read_to_string(stage.file("notes.client.json")).expect("a file");
    let answer = stage.home.control_with("PUT", "/v1/accounts/notes/client", &sealed).expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.text());
    stage.renew(&daemon);
    assert_eq!(stage.asked("POST /register"), 1);
}

#[test]
fn a_lock_that_comes_while_a_client_is_registered_is_said_as_a_lock() {
    let stage = Registering::new();
    stage.is_done(&["seal", "on"]);
    let registrar = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = registrar.local_addr().expect("an address");
    let config = fs::read_to_string(stage.home.path("config/valetd/config.toml")).expect("a configuration");
    let there = format!("registration_endpoint = \"http://{address}");
    let here = format!("registration_endpoint = \"{}", stage.server.url());
    stage.home.write_config(&config.replace(&here, &there));
    let _daemon = stage.home.start();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = registrar.accept().expect("a connection");
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                let mut part = [0; 4096];
                let length = stream.read(&mut part).expect("a request");
                assert!(length > 0, "a whole request");
                asked.extend_from_slice(&part[..length]);
            }
            stage.is_done(&["lock", "--all"]);
            let body = r#"{"client_id": "of-a-moment"}"#;
            let head = format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).expect("written");
        });
        let output = stage.login("notes");
        assert_eq!(output.status.code(), Some(5), "{}", words(&output));
        assert!(
            words(&output).contains("of-a-moment") && words(&output).contains("valetd unlock"),
            "{}",
            words(&output)
        );
    });
    assert!(!stage.file("notes.client.json").exists());
}

#[test]
fn a_sign_in_without_a_daemon_asks_for_the_passphrase_once_and_has_the_clients_secret_by_it() {
    const PASSPHRASE: &str = "four-words-of-mine-canary-58bd";
    let stage = Registering::with("\"passphrase\"");
    assert!(stage.login("notes").status.success());
    let sealed = stage.home.run_with_input(&["seal", "on", "--passphrase-stdin"], PASSPHRASE);
    assert!(sealed.status.success(), "{}", words(&sealed));
    assert_eq!(stage.leaks(), [""; 0]);
    let before = stage.proved();
    for (typed, code) in [("four-words-of-hers", 5), (PASSPHRASE, 0)] {
        let line = format!("echo rt-of-a-person | '{VALETD}' login notes --refresh-token-stdin");
        let mut terminal = Terminal::open(&stage.home, &line);
        terminal.answer("Passphrase: ", typed);
        let (exit, shown) = terminal.exit();
        assert_eq!(exit, Some(code), "{shown}");
        assert_eq!(shown.matches("Passphrase: ").count(), 1, "{shown}");
    }
    assert!(stage.proved() > before);
    assert_eq!((stage.asked("POST /register"), stage.leaks()), (1, vec![]));
    // what opens nothing takes nothing back, and says so
    let removed = stage.is_done(&["remove", "notes"]);
    assert!(removed.contains("the client stays registered at the server: the store is locked"), "{removed}");
    assert!(!stage.file("notes.client.json").exists());
}

#[test]
fn a_registration_in_the_clear_is_taken_into_a_sealed_store_by_the_next_start() {
    let stage = Registering::new();
    assert!(stage.login("notes").status.success());
    let plain = fs::read_to_string(stage.file("notes.client.json")).expect("a file");
    // as it was written before the account was noted in it
    let mut before: Value = serde_json::from_str(&plain).expect("JSON");
    before.as_object_mut().expect("an object").remove("account");
    stage.is_done(&["seal", "on"]);
    fs::write(stage.file("notes.client.json"), before.to_string()).expect("written");
    assert_eq!(stage.leaks(), ["notes.client.json"]);
    let daemon = stage.home.start();
    daemon.until("notes", "usable");
    eventually("it is sealed", || stage.leaks().is_empty().then_some(()));
    stage.renew(&daemon);
    assert_eq!(stage.asked("POST /register"), 1);
}

#[test]
fn a_registration_of_another_account_or_another_ring_is_refused_and_another_client_takes_its_place() {
    let other = Registering::new();
    assert!(other.login("notes").status.success());
    other.is_done(&["seal", "on"]);
    for is_running in [false, true] {
        for (case, says) in
            [("another account's", "for another account"), ("of another ring", "in no ring of this store")]
        {
            let stage = Registering::new();
            for account in ["notes", "more"] {
                assert!(stage.login(account).status.success());
            }
            stage.is_done(&["seal", "on"]);
            let from = match case {
                "another account's" => stage.file("more.client.json"),
                _ => other.file("notes.client.json"),
            };
            // another ring's client has another server: as if somebody had changed that, too
            let text = fs::read_to_string(from).expect("a file").replace(&other.server.url(), &stage.server.url());
            fs::write(stage.file("notes.client.json"), &text).expect("written");
            let daemon = is_running.then(|| stage.home.start());
            let before = stage.proved();
            let output = stage.login("notes");
            assert!(output.status.success(), "{case}, {is_running}: {}", words(&output));
            assert!(words(&output).contains(says), "{case}, {is_running}: {}", words(&output));
            assert!(stage.proved() > before, "{case}, {is_running}");
            assert_eq!(stage.asked("POST /register"), 3, "{case}, {is_running}");
            let kept = fs::read_to_string(stage.file("notes.client.json.corrupt-1")).expect("it is kept");
            assert_eq!(kept, text, "{case}, {is_running}");
            assert_eq!(stage.leaks(), [""; 0], "{case}, {is_running}");
            drop(daemon);
        }
    }
}
