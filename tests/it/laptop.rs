//! Time as laptops have it: processes that stand still, hours without a request, tokens that die meanwhile.

use std::fs;
use std::io::{BufReader, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use valetd::stand_in::{Behaviour, Options, Provider};

use crate::support::lab::{self, Server, address, ping};
use crate::support::stage::{COLD, Stage};
use crate::support::upstreams::{read_head, serving};
use crate::support::{Daemon, eventually, get};

#[test]
fn the_first_request_after_standing_still_past_expiry_is_answered_well() {
    let server = Server::start(Provider::Gdh, lab::short(Duration::from_secs(3)));
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    assert_eq!(ping(&address).status, 200);
    daemon.tell("STOP");
    std::thread::sleep(Duration::from_secs(4)); // the story's night, longer than a token lives
    daemon.tell("CONT");
    assert_eq!(ping(&address).status, 200);
    assert_eq!(server.log().refused(), 0, "the upstream saw no token of yesterday");
}

/// How often the threads of a daemon have gone to sleep so far.
fn wakeups(daemon: &Daemon<'_>) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.child.id())).expect("its threads");
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    tasks.filter_map(of_task).sum()
}

#[test]
fn an_idle_daemon_does_not_wake_up() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(ping(&address(&daemon)).status, 200);
    // what the start and our questions have set in motion comes to rest
    eventually("it is at rest", || {
        let before = wakeups(&daemon);
        std::thread::sleep(Duration::from_secs(1)); // what is measured
        (wakeups(&daemon) == before).then_some(())
    });
    // the machine's network may change meanwhile, which is news to it; three times in a row it does not
    let in_five_seconds = || {
        let before = wakeups(&daemon);
        std::thread::sleep(Duration::from_secs(5)); // what is measured
        wakeups(&daemon) - before
    };
    let fewest = (0..3).map(|_| in_five_seconds()).find(|woke| *woke <= 1);
    assert!(fewest.is_some(), "it wakes up all the time");
}

/// An address of this machine that a story takes away. One story at a time has one: each change is told to every daemon
/// here, and of two that come close together a daemon takes the second for the first.
struct Address(#[expect(dead_code, reason = "its lock is held")] fs::File);

impl Address {
    /// `None`, and said, where this user cannot change the network.
    fn add() -> Option<Self> {
        // also of another run of these tests
        let Ok(one) = fs::File::create(std::env::temp_dir().join("valetd-it.network")) else {
            eprintln!("skipped: another user's run has the network");
            return None;
        };
        one.lock().expect("locked");
        let _ = Self::ip("del"); // of a run that was killed
        if !Self::ip("add") {
            eprintln!("skipped: this user cannot change the network");
            return None;
        }
        Some(Self(one))
    }

    fn ip(verb: &str) -> bool {
        let changed = Command::new("ip").args(["addr", verb, "127.83.7.1/32", "dev", "lo"]).output();
        changed.is_ok_and(|output| output.status.success())
    }

    fn take_away(&self) {
        assert!(Self::ip("del"));
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = Self::ip("del"); // where the story has failed before it took it away
    }
}

#[test]
fn a_change_of_the_network_ends_a_wait_for_a_server_that_could_not_be_reached() {
    let Some(network) = Address::add() else { return };
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, lab::EAGER, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    // back-off of our own: the server's word would be kept, whatever becomes of the network
    server.behave(Behaviour::Status(503, String::new(), vec![]), None);
    lab::renew(&daemon);
    let wait = eventually("it waits for long", || {
        daemon.account("lab")["next_wakeup"]["in_seconds"].as_u64().filter(|wait| (9..600).contains(wait))
    });
    server.behave(Behaviour::Normal, None);
    let began = Instant::now();
    network.take_away();
    eventually("it has asked again", || (daemon.account("lab")["failures"] == 0).then_some(()));
    assert!(began.elapsed() < Duration::from_secs(wait) / 2, "{:?} of {wait} s", began.elapsed());
}

#[test]
fn after_a_change_of_the_network_no_request_goes_by_a_connection_from_before_it() {
    let Some(network) = Address::add() else { return };
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let upstream = serving(move |mut stream| {
        let number = count.fetch_add(1, Ordering::SeqCst).to_string();
        let mut reader = BufReader::new(stream.try_clone()?);
        while !read_head(&mut reader)?.is_empty() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", number.len());
            stream.write_all(format!("{head}{number}").as_bytes())?;
        }
        Ok(())
    });
    let upstream = format!("http://{upstream}");
    let stage = Stage::leading_to(&upstream, COLD);
    stage.home.write_config(&format!("workers = 1\n{}", stage.config(&upstream, COLD))); // each has connections of its own
    let daemon = stage.start();
    let ask = || get(&stage.address, "/api/x").expect("an answer").text();
    let first = ask();
    for _ in 0..5 {
        assert_eq!(ask(), first, "an idle connection is used again");
    }
    network.take_away();
    eventually("the change is noticed", || daemon.log().contains("the network has changed").then_some(()));
    let second = eventually("it goes by another", || Some(ask()).filter(|number| *number != first));
    for _ in 0..5 {
        assert_eq!(ask(), second, "and that one is kept");
    }
}

#[test]
fn an_idle_account_is_renewed_before_its_refresh_token_dies() {
    let options =
        Options { refresh_lifetime: Some(Duration::from_secs(12)), tell_refresh_lifetime: true, ..Options::default() };
    let server = Server::start(Provider::Gdh, options);
    let home = lab::home(&server, "", "", "");
    let signed_in = SystemTime::now();
    let daemon = home.start();
    let account = daemon.until("lab", "usable");
    assert_eq!(account["next_wakeup"]["reason"], "before-refresh-token-dies", "{account:#}");
    let times = eventually("it is renewed", || Some(lab::times(&server.log())).filter(|times| times.len() >= 2));
    let after = times[1].duration_since(signed_in).expect("in order");
    assert!(after < Duration::from_secs(12), "{after:?}");
}
