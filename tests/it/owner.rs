//! One owner of a credential: a second daemon, and people who sign in and out while a refresh is under way.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use valetd::stand_in::{Behaviour, Options, Provider, Rotation};

use crate::support::lab::{self, Server, address, ask_for_renewal, ping};
use crate::support::{Home, eventually, words};

/// Long enough for a person's command to be carried out meanwhile, on a machine that is busy.
const A_WHILE: Duration = Duration::from_secs(8);

#[test]
fn a_second_daemon_refuses_to_start_and_names_the_first() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let second = home.run(&["run"]);
    assert_eq!(second.status.code(), Some(1), "{}", words(&second));
    assert!(words(&second).contains(&format!("pid {}", daemon.child.id())), "{}", words(&second));
    let elsewhere = home.path("other.sock");
    let second = home.run(&["run", "--socket", elsewhere.to_str().expect("text")]);
    assert_eq!(second.status.code(), Some(1), "a socket of its own is no state folder of its own");
    assert_eq!(ping(&address(&daemon)).status, 200, "the first goes on");
}

#[test]
fn a_login_during_a_refresh_wins_over_the_answer_that_comes_later() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Grace(Duration::from_secs(60))));
    let home = lab::home(&server, lab::EAGER, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    server.behave(Behaviour::Hang(A_WHILE), Some(1));
    let before = server.issued();
    assert!(ask_for_renewal(&daemon));
    let new = server.sign_in();
    lab::sign_in(&home, &new);
    let account = daemon.until("lab", "usable");
    let generation = account["credential"]["generation"].as_u64();
    assert_eq!(server.issued(), before + 1, "the new sign-in's first token; the old answer is still owed");
    // its tokens are nobody's: the next renewal redeems the new sign-in's credential
    let taken_in = account["token_requests"].as_u64().map(|count| count + 1);
    eventually("the old answer is taken in", || {
        (server.issued() == before + 2 && daemon.account("lab")["token_requests"].as_u64() == taken_in).then_some(())
    });
    lab::renew(&daemon);
    let account = daemon.until("lab", "usable");
    assert!(account["credential"]["generation"].as_u64() > generation, "{account:#}");
    assert_eq!(server.log().reuse_detected, 0);
    assert_eq!(ping(&address(&daemon)).status, 200);
}

#[test]
fn a_logout_during_a_refresh_revokes_forgets_and_lets_no_request_through() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Strict));
    let home = lab::home(&server, lab::EAGER, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    // the server has rotated already, and its answer, of some thousand bytes, is on its way for eight seconds
    server.behave(Behaviour::SlowDrip(Duration::from_millis(2)), Some(1));
    let before = server.issued();
    assert!(ask_for_renewal(&daemon));
    eventually("the server has rotated", || (server.issued() == before + 1).then_some(()));
    let logout = home.run(&["logout", "lab"]);
    assert!(logout.status.success() && words(&logout).contains("revoked at the server"), "{}", words(&logout));
    assert!(!home.path("state/valetd/lab.json").exists());
    let refused = ping(&address);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.json()["type"].as_str().expect("a type").ends_with("sign-in-required"), "{}", refused.text());
    // what the late answer brings is not wanted any more, and must not live on at the server
    eventually("the late answer's refresh token is revoked, too", || {
        (server.log().outcomes("revoked") >= 2).then_some(())
    });
    assert!(!home.path("state/valetd/lab.json").exists());
    assert_eq!(ping(&address).status, 503);
}

#[test]
fn two_sign_ins_at_once_without_a_daemon_leave_one_of_them_whole() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&lab::config(&server, "", "", ""));
    let tokens = [server.sign_in(), server.sign_in()];
    let children = tokens.each_ref().map(|token| {
        let input = home.path(&format!("token-{}", token.fingerprint()));
        fs::write(&input, token.expose()).expect("written");
        home.valetd(&["login", "lab", "--refresh-token-stdin", "--untried"])
            .stdin(File::open(input).expect("opened"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("valetd runs")
    });
    let outputs = children.map(|child| child.wait_with_output().expect("it ends"));
    for output in &outputs {
        assert!(output.status.success(), "one waits for the other: {}", words(output));
    }
    let daemon = home.start();
    let account = daemon.until("lab", "usable");
    let kept = account["credential"]["fingerprint"].as_str().expect("a fingerprint").to_owned();
    assert!(tokens.iter().any(|token| token.fingerprint() == kept));
}

#[test]
fn two_sign_ins_at_once_with_a_daemon_are_taken_one_after_the_other() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, lab::EAGER, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (home, token) = (&home, server.sign_in());
            scope.spawn(move || lab::sign_in(home, &token));
        }
    });
    let generation = || daemon.account("lab")["credential"]["generation"].as_u64();
    eventually("both are taken in", || (generation() >= Some(3)).then_some(()));
    daemon.until("lab", "usable");
    assert_eq!(generation(), Some(3));
}

#[test]
fn a_login_without_a_daemon_takes_the_lock() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let before = fs::read(home.path("state/valetd/lab.json")).expect("read");
    let lock = File::options().read(true).write(true).open(home.path("state/valetd/lock")).expect("the lock's file");
    lock.lock().expect("free");
    let login = home.run_with_input(&["login", "lab", "--refresh-token-stdin", "--untried"], server.sign_in().expose());
    assert_eq!(login.status.code(), Some(1), "{}", words(&login));
    assert!(words(&login).contains("holds"), "{}", words(&login));
    assert_eq!(fs::read(home.path("state/valetd/lab.json")).expect("read"), before);
}
