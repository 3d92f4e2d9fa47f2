//! Where a refresh token goes when the endpoints in the configuration are edited.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use valetd::stand_in::{Options, Provider};

use crate::support::lab::{self, Server};
use crate::support::{Home, eventually, words};

#[test]
fn an_edited_endpoint_never_gets_the_refresh_token_and_going_back_works_again() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, lab::EAGER, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let good = lab::config(&server, lab::EAGER, "", "");
    let elsewhere = Elsewhere::listen();
    let revocation = server.revocation_endpoint().expect("the stand-in of GDH has one");
    let token = server.token_endpoint();
    let cognito =
        format!("grant = \"cognito_initiate_auth\"\ncognito_endpoint = \"{}/\"\n{}", elsewhere.url(), lab::EAGER);
    let edits = [
        ("the revocation", good.replace(&revocation, &format!("{}/revoke", elsewhere.url()))),
        ("another grant's endpoint", lab::config(&server, &cognito, "", "")),
        ("the token endpoint", good.replace(&token, &format!("{}/token", elsewhere.url()))),
    ];
    for (case, edited) in edits {
        assert_ne!(edited, good, "{case}");
        home.write_config(&edited);
        assert!(home.run(&["reload"]).status.success(), "{case}: {}", daemon.log());
        let account = daemon.until("lab", "sign-in-required");
        assert_eq!(account["why_code"], "issued-elsewhere", "{case}: {account:#}");
        assert!(!lab::ask_for_renewal(&daemon), "{case}");
        assert!(daemon.log().contains(&elsewhere.url()), "{case}: the log names it");
        home.write_config(&good);
        assert!(home.run(&["reload"]).status.success(), "{case}: {}", daemon.log());
        daemon.until("lab", "usable");
    }
    assert_eq!(elsewhere.seen(), "", "nothing was sent there");
}

#[test]
fn a_sign_out_does_not_tell_an_edited_endpoint_and_says_so() {
    for with_daemon in [true, false] {
        let server = Server::start(Provider::Gdh, Options::default());
        let home = lab::home(&server, "", "", "");
        let elsewhere = Elsewhere::listen();
        let revocation = server.revocation_endpoint().expect("the stand-in of GDH has one");
        let edited = lab::config(&server, "", "", "").replace(&revocation, &format!("{}/revoke", elsewhere.url()));
        home.write_config(&edited);
        let daemon = with_daemon.then(|| home.start());
        if let Some(daemon) = &daemon {
            daemon.until("lab", "sign-in-required");
        }
        let output = home.run(&["logout", "lab"]);
        assert!(output.status.success(), "{}", words(&output));
        let said = words(&output);
        assert!(said.contains("not revoked") && said.contains(&elsewhere.url()), "{said}");
        assert!(!home.path("state/valetd/lab.json").exists(), "and it is forgotten here");
        assert_eq!(elsewhere.seen(), "", "nothing was sent there");
    }
}

#[test]
fn a_record_of_an_earlier_valetd_goes_on_and_is_bound_by_its_first_renewal() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, lab::EAGER, "", "");
    let file = home.path("state/valetd/lab.json");
    let mut record = read_record(&home);
    assert!(record.as_object_mut().expect("an object").remove("others").is_some(), "{record:#}");
    std::fs::write(&file, record.to_string()).expect("an earlier record");
    let daemon = home.start();
    daemon.until("lab", "usable");
    eventually("it is bound now", || read_record(&home).get("others").cloned());
}

// --- the stage -------------------------------------------------------------------------------------------------------

fn read_record(home: &Home) -> serde_json::Value {
    let text = std::fs::read_to_string(home.path("state/valetd/lab.json")).expect("a record");
    serde_json::from_str(&text).expect("JSON")
}

/// Another server, which remembers what it is sent.
struct Elsewhere {
    address: String,
    seen: Arc<Mutex<String>>,
}

impl Elsewhere {
    fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let seen = Arc::new(Mutex::new(String::new()));
        let notes = seen.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut bytes = [0; 4096];
                let length = stream.read(&mut bytes).unwrap_or(0);
                notes.lock().expect("nobody panics").push_str(&String::from_utf8_lossy(&bytes[..length]));
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Self { address, seen }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn seen(&self) -> String {
        self.seen.lock().expect("nobody panics").clone()
    }
}
