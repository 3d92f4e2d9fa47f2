//! Certificate authorities of one's own: a server's own certificate, files that are no such thing, and files that change.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use valetd::stand_in::{Options, Provider};

use crate::support::lab::{self, Server, address};
use crate::support::{Home, eventually, get, words};

/// What `openssl req -x509 -addext subjectAltName=DNS:localhost` makes: a certificate of an authority, used as the server's
/// own. Returns its PEM and the address of a server that presents it.
fn server_with_its_own_authority() -> (String, String) {
    let mut parameters = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private.into())
        .expect("a certificate with its key");
    let settings = Arc::new(settings);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), settings) = (stream, settings.clone()) else { return };
            thread::spawn(move || {
                let tls = rustls::ServerConnection::new(settings).expect("a connection");
                let mut tls = rustls::StreamOwned::new(tls, stream);
                let mut head = Vec::new();
                let mut piece = [0; 4096];
                while !head.ends_with(b"\r\n\r\n") {
                    match tls.read(&mut piece) {
                        Ok(0) | Err(_) => return,
                        Ok(read) => head.extend_from_slice(&piece[..read]),
                    }
                }
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nhere");
                tls.conn.send_close_notify();
                let _ = tls.flush();
            });
        }
    });
    (certificate.pem(), format!("https://localhost:{port}"))
}

/// The route `lab` leads to that server and is vouched for by that file; the route `other` does without.
fn config(server: &Server, upstream: &str, file: &Path) -> String {
    let route = format!(
        "upstream = \"{upstream}\"\nextra_ca = \"{}\"\n[route.other]\naccount = \"lab\"\nupstream = \"{}\"",
        file.display(),
        server.url()
    );
    lab::config(server, "", &route, "")
}

#[test]
fn a_certificate_of_openssl_req_is_taken_for_the_server_that_has_it_and_for_no_other() {
    let server = Server::start(Provider::Gdh, Options::default());
    let (pem, upstream) = server_with_its_own_authority();
    let (others, _) = server_with_its_own_authority();
    let home = Home::empty();
    let file = home.path("ca.pem");
    home.write_config(&config(&server, &upstream, &file));
    fs::write(&file, &pem).expect("a file");
    lab::sign_in(&home, &server.sign_in());
    let daemon = home.start();
    daemon.until("lab", "usable");
    let answer = get(&address(&daemon), "/lab/x").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "here"), "{}", daemon.log());
    // by a name that is not in it
    home.write_config(&config(&server, &upstream.replace("localhost", "127.0.0.1"), &file));
    assert!(home.run(&["reload"]).status.success());
    assert_eq!(get(&address(&daemon), "/lab/x").expect("an answer").status, 502);
    // another one of the same name
    home.write_config(&config(&server, &upstream, &file));
    fs::write(&file, &others).expect("a file");
    assert!(home.run(&["reload"]).status.success());
    assert_eq!(get(&address(&daemon), "/lab/x").expect("an answer").status, 502);
}

#[test]
fn a_file_that_vouches_for_nobody_stops_its_own_route_alone_and_is_blamed() {
    let server = Server::start(Provider::Gdh, Options::default());
    let (pem, upstream) = server_with_its_own_authority();
    let home = Home::empty();
    let file = home.path("ca.pem");
    home.write_config(&config(&server, &upstream, &file));
    lab::sign_in(&home, &server.sign_in());
    let der = [0x30, 0x82, 1, 1];
    let rows: [(Option<&[u8]>, &str); 4] = [
        (None, "o such file"),
        (Some(b""), "it is empty"),
        (Some(&der), "it is DER, not PEM"),
        (Some(b"x"), "no certificate"),
    ];
    for (bytes, why) in rows {
        if let Some(bytes) = bytes {
            fs::write(&file, bytes).expect("a file");
        }
        let check = home.run(&["check"]);
        let said = words(&check);
        assert_eq!(check.status.code(), Some(1), "{said}");
        // what it is, where it is named, and what is wrong with it
        let place = format!(": route.lab.extra_ca: {}: ", file.display());
        assert!(said.contains(why) && said.contains(&place) && said.contains("config.toml:"), "{said}");
        let daemon = home.start();
        daemon.until("lab", "usable");
        assert_eq!(get(&address(&daemon), "/other/ping").expect("an answer").status, 200, "{}", daemon.log());
        let refused = get(&address(&daemon), "/lab/x").expect("an answer");
        assert!(refused.status == 502 && refused.text().contains(why), "{}", refused.text());
        let warnings = daemon.status()["daemon"]["warnings"].to_string();
        assert!(warnings.contains(why) && !warnings.contains("the system's"), "{warnings}");
        let _ = fs::remove_file(&file);
    }
    // in a reload it is a problem like any other: what was good stays in force
    fs::write(&file, &pem).expect("a file");
    let daemon = home.start();
    daemon.until("lab", "usable");
    fs::write(&file, "").expect("a file");
    let reload = home.run(&["reload"]);
    assert!(!reload.status.success() && words(&reload).contains("it is empty"), "{}", words(&reload));
    assert_eq!(get(&address(&daemon), "/lab/x").expect("an answer").status, 200);
}

#[test]
fn a_file_that_is_replaced_counts_without_a_word_to_the_daemon() {
    let server = Server::start(Provider::Gdh, Options::default());
    let (pem, upstream) = server_with_its_own_authority();
    let (others, _) = server_with_its_own_authority();
    let home = Home::empty();
    let file = home.path("ca.pem");
    home.write_config(&config(&server, &upstream, &file));
    lab::sign_in(&home, &server.sign_in());
    let daemon = home.start();
    daemon.until("lab", "usable");
    let answers = |expected: u16| {
        eventually(&format!("{expected}; log: {}", daemon.log()), || {
            get(&address(&daemon), "/lab/x").ok().filter(|answer| answer.status == expected)
        })
    };
    answers(502); // there is none yet
    fs::write(&file, &others).expect("a file");
    fs::write(home.path("new.pem"), &pem).expect("a file");
    fs::rename(home.path("new.pem"), &file).expect("renamed over it");
    answers(200);
    assert_eq!(daemon.status()["daemon"]["warnings"].to_string().matches("extra_ca").count(), 0);
    fs::write(&file, format!("{others}{pem}")).expect("both");
    fs::write(&file, &others).expect("another one");
    answers(502);
}
