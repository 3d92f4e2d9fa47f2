//! The wall clock goes where somebody sets it; what has ended stays ended.

use std::fs;
use std::path::Path;

use serde_json::Value;
use valetd::stand_in::{Options, Provider};

use crate::support::keys::{add, check, keyed};
use crate::support::lab::{self, Server, address};
use crate::support::{Home, eventually};

fn kept(home: &Home) -> Value {
    serde_json::from_slice(&fs::read(home.path("state/valetd/client.keys.json")).expect("the keys")).expect("JSON")
}

/// Sets the clock back, as far as the keys can tell: all times that are kept lie so much further ahead.
fn set_back(file: &Path, seconds: u64) {
    let mut kept: Value = serde_json::from_slice(&fs::read(file).expect("the keys")).expect("JSON");
    let later = |time: &mut Value| {
        if let Some(unix) = time.as_u64() {
            *time = (unix + seconds).into();
        }
    };
    kept.get_mut("latest").map(later);
    for key in kept["keys"].as_array_mut().expect("the keys") {
        for time in ["created_at", "expires_at"] {
            key.get_mut(time).map(later);
        }
    }
    fs::write(file, kept.to_string()).expect("written");
}

#[test]
fn a_key_that_has_expired_stays_so_when_the_clock_is_set_back_while_no_daemon_runs() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let lasting = add(&home, "lasting", &["--route", "lab", "--expires", "2h"]);
    for (round, signal) in ["KILL", "TERM"].into_iter().enumerate() {
        let name = format!("brief-{round}");
        let brief = add(&home, &name, &["--route", "lab", "--expires", "1s"]);
        let mut daemon = home.start();
        daemon.until("lab", "usable");
        let refused = eventually("the brief one expires", || {
            Some(keyed(&address(&daemon), &brief)).filter(|answer| answer.status == 403)
        });
        assert_eq!(check(&refused).as_deref(), Some("key-expired"));
        // it is noted by itself, before any stop: a power cut comes without one
        eventually("its end is noted", || {
            let kept = kept(&home);
            let brief = kept["keys"].as_array()?.iter().find(|key| key["name"] == name.as_str())?.clone();
            (kept["latest"].as_u64()? >= brief["expires_at"].as_u64()?).then_some(())
        });
        daemon.signal(signal);
        drop(daemon);
        set_back(&home.path("state/valetd/client.keys.json"), 3600);
        let daemon = home.start();
        daemon.until("lab", "usable");
        assert_eq!(check(&keyed(&address(&daemon), &brief)).as_deref(), Some("key-expired"), "after SIG{signal}");
        assert_eq!(keyed(&address(&daemon), &lasting).status, 200, "after SIG{signal}");
        // and a new one lives as long as it was given
        let new = add(&home, &format!("new-{round}"), &["--route", "lab", "--expires", "1h"]);
        assert_eq!(keyed(&address(&daemon), &new).status, 200, "after SIG{signal}");
    }
}

#[test]
fn a_stop_notes_the_time_while_a_key_can_still_expire_and_only_then() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    add(&home, "endless", &["--route", "lab"]);
    let file = home.path("state/valetd/client.keys.json");
    let run_and_stop = || {
        let mut daemon = home.start();
        daemon.until("lab", "usable");
        daemon.signal("TERM");
    };
    let before = fs::read(&file).expect("the keys");
    run_and_stop();
    assert_eq!(fs::read(&file).expect("the keys"), before, "nothing can expire, so nothing is written");
    add(&home, "mortal", &["--route", "lab", "--expires", "2h"]);

    let added = kept(&home)["latest"].as_u64().expect("the time of the writing");
    eventually("a second passes", || (unix_seconds() > added).then_some(()));
    run_and_stop();
    assert!(kept(&home)["latest"].as_u64() > Some(added), "{:#}", kept(&home));
}

fn unix_seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}
