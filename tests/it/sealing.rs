//! Credentials that are sealed at rest: what lies in the state folder is of no use without the key, and no crash, no missing
//! key and no lost one loses a login that could have been kept.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider, Rotation};

use crate::support::lab::{self, Server, address, ping, rotating};
use crate::support::{Daemon, Home, Killed, PATIENCE, eventually, words};

const KEY: &str = "kq8hUw2D0Zf1Yp6mJt3Rb7Lx5Nc9Vs4E";

/// A home whose key lies in a file outside of the state folder.
struct Sealable {
    server: Server,
    home: Home,
}

impl Sealable {
    fn new() -> Self {
        Self::with("{ file = \"../../key\" }")
    }

    /// A configuration that says this of the seal.
    fn with(seal: &str) -> Self {
        Self::at(Server::start(Provider::Gdh, rotating(Rotation::Strict)), seal)
    }

    fn at(server: Server, seal: &str) -> Self {
        let home = lab::home(&server, lab::EAGER, "", &format!("store.seal = {seal}"));
        let this = Self { server, home };
        this.put_key(KEY);
        this
    }

    fn put_key(&self, key: &str) {
        fs::write(self.home.path("key"), format!("{key}\n")).expect("written");
        fs::set_permissions(self.home.path("key"), fs::Permissions::from_mode(0o600)).expect("mode 0600");
    }

    fn lose_key(&self) {
        fs::remove_file(self.home.path("key")).expect("removed");
    }

    fn seal(&self, change: &str) -> Output {
        let output = self.home.run(&["seal", change]);
        assert!(output.status.success(), "seal {change}: {}", words(&output));
        output
    }

    fn status(&self) -> Value {
        let output = self.home.run(&["seal", "--json"]);
        assert!(output.status.success(), "{}", words(&output));
        serde_json::from_slice(&output.stdout).expect("a JSON document")
    }

    /// The files of the state folder in which a token of the server's stands.
    fn leaks(&self) -> Vec<String> {
        leaks(&self.home.path("state"), &self.server.secrets())
    }
}

fn leaks(folder: &Path, secrets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(leaks(&path, secrets));
        } else if let Ok(bytes) = fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            if secrets.iter().any(|secret| text.contains(secret.as_str())) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn a_sealed_store_shows_no_secret_and_works_as_before_through_renewals_restarts_and_changes_of_the_key() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    assert_eq!(sealable.leaks().len(), 1, "it lies in the clear at first");
    assert_eq!(sealable.status()["sealed"], false);
    let checked = words(&home.run(&["check"]));
    assert!(checked.contains("credentials are in the clear still; valetd seal on"), "{checked}");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let renewals = sealable.server.issued();
    assert!(words(&sealable.seal("on")).contains("the key is kept by: file"));
    eventually("what lay in the clear is spent", || (sealable.server.issued() > renewals).then_some(()));
    daemon.until("lab", "usable");
    assert_eq!(sealable.leaks(), [""; 0]);
    assert_eq!(daemon.status()["daemon"]["store"]["source"], "file");
    assert_eq!(daemon.account("lab")["credential"]["sealed"], "file");
    let checked = words(&home.run(&["check"]));
    assert!(!checked.contains("store.seal"), "{checked}");
    let examined = words(&home.run(&["doctor", "--offline", "--json"]));
    assert!(examined.contains("kept by file alone") && examined.contains("valetd seal recovery"), "{examined}");
    let first = sealable.status()["key_id"].clone();
    lab::renew(&daemon);
    assert_eq!(sealable.leaks(), [""; 0], "nor after a renewal");
    sealable.seal("rotate");
    assert_ne!(sealable.status()["key_id"], first);
    assert!(words(&sealable.seal("on")).contains("sealed by file already"));
    drop(daemon);

    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(ping(&address(&daemon)).status, 200);
    drop(daemon);
    // without a daemon, too
    assert_eq!(sealable.status()["locked"], Value::Null);
    lab::sign_in(home, &sealable.server.sign_in());
    assert_eq!(sealable.leaks(), [""; 0], "a login without a daemon is sealed");
    sealable.seal("rotate");
    sealable.seal("off");
    assert_eq!(sealable.leaks().len(), 1);
    assert!(!home.path("state/valetd/seal.keys.json").exists());
    sealable.seal("on");
    assert_eq!(sealable.leaks(), [""; 0]);
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

#[test]
fn while_the_key_is_away_nothing_is_lost_or_written_in_the_clear_and_its_return_is_enough() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    sealable.seal("on");
    let record = fs::read(home.path("state/valetd/lab.json")).expect("a record");
    for wrong in [None, Some("another-key-of-more-than-32-characters")] {
        match wrong {
            None => sealable.lose_key(),
            Some(key) => sealable.put_key(key),
        }
        let daemon = home.start();
        let is_said = |why: &str| why.starts_with("file: ") || why.contains("another key");
        eventually("why is said", || sealable.status()["locked"].as_str().is_some_and(is_said).then_some(()));
        let account = daemon.until("lab", "store-locked");
        assert_eq!((&account["usable"], &account["next_action"]), (&false.into(), &"valetd unlock".into()));
        let answer = ping(&address(&daemon));
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{}", answer.text());
        assert_eq!(answer.json()["type"], "urn:valetd:problem:store-locked");
        assert_eq!(home.run(&["wait", "--timeout", "1ms"]).status.code(), Some(5));
        let status = home.run(&["status"]);
        assert!(words(&status).contains("the store is locked"), "{}", words(&status));
        let refused = home.run(&["unlock"]);
        assert_eq!(refused.status.code(), Some(5), "{}", words(&refused));
        let refused = home.run_with_input(&["login", "lab", "--refresh-token-stdin", "--untried"], "token-canary-1");
        assert_eq!(refused.status.code(), Some(5), "{}", words(&refused));
        assert!(words(&refused).contains("nothing is saved in the clear"), "{}", words(&refused));
        assert_eq!(fs::read(home.path("state/valetd/lab.json")).expect("a record"), record);
        assert_eq!(leaks(&home.path("state"), &["token-canary-1".to_owned()]), [""; 0]);
        assert_eq!(home.run(&["seal", "off"]).status.code(), Some(5));
        drop(daemon);
    }
    // somebody says that it is back, or it is found a moment later
    for says_so in [true, false] {
        sealable.lose_key();
        let daemon = home.start();
        daemon.until("lab", "store-locked");
        sealable.put_key(KEY);
        if says_so {
            let opened = home.run(&["unlock"]);
            assert!(opened.status.success(), "{}", words(&opened));
        }
        daemon.until("lab", "usable");
        assert_eq!(ping(&address(&daemon)).status, 200);
    }
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

#[test]
fn a_key_that_a_command_prints_seals_as_one_in_a_file_does() {
    let sealable = Sealable::with("{ command = [\"sh\", \"-c\", \"cat $HOME/key\"] }");
    let home = &sealable.home;
    sealable.seal("on");
    assert_eq!(sealable.leaks(), [""; 0]);
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(daemon.status()["daemon"]["store"]["source"], "command");
    // it is read once: from here on, no renewal needs it
    sealable.lose_key();
    lab::renew(&daemon);
    assert_eq!(daemon.account("lab")["credential"]["saved"], true);
    assert_eq!(sealable.leaks(), [""; 0]);
}

#[test]
fn listeners_answer_while_a_command_takes_its_time_and_it_is_asked_once() {
    let script = "echo x >> $HOME/asked; test -e $HOME/slow && sleep 3; cat $HOME/key";
    let sealable = Sealable::with(&format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}"));
    let home = &sealable.home;
    sealable.seal("on");
    fs::write(home.path("slow"), "").expect("written");
    let asked = || fs::read_to_string(home.path("asked")).unwrap_or_default().lines().count();
    let before = asked();
    let began = std::time::Instant::now();
    let daemon = home.start();
    assert!(began.elapsed() < Duration::from_secs(3), "it answers before the command does");
    // a request waits for the key as for a token
    assert_eq!(ping(&address(&daemon)).status, 200);
    drop(daemon);
    assert_eq!(asked(), before + 1);
    fs::remove_file(home.path("slow")).expect("removed");
    sealable.lose_key();
    let daemon = home.start();
    daemon.until("lab", "store-locked");
    std::thread::sleep(Duration::from_millis(2500)); // longer than the pause after which others are asked again
    assert_eq!(asked(), before + 2, "it may ask a person: nobody is asked twice");
    sealable.put_key(KEY);
    assert!(home.run(&["unlock"]).status.success());
    daemon.until("lab", "usable");
}

#[test]
fn a_recovery_code_opens_what_has_lost_its_key_and_a_new_key_takes_its_place() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    sealable.seal("on");
    let shown = sealable.seal("recovery");
    let code = String::from_utf8(shown.stdout).expect("text");
    let code = code.trim();
    assert_eq!(code.len(), 32, "26 digits, and 6 dashes between them");
    assert_eq!(leaks(&home.path("state"), &[code.to_owned(), code.replace('-', "")]), [""; 0]);
    sealable.put_key("a-new-key-for-a-new-machine-of-more-than-32-characters");
    let daemon = home.start();
    assert!(sealable.status()["locked"].is_string());
    let refused = home.run_with_input(&["unlock", "--recovery-stdin"], "0000-0000-0000-0000-0000-0000-00");
    assert!(!refused.status.success() && words(&refused).contains("not the one that opens it"), "{}", words(&refused));
    let opened = home.run_with_input(&["unlock", "--recovery-stdin"], &code.to_lowercase());
    assert!(opened.status.success() && words(&opened).contains("kept by: file"), "{}", words(&opened));
    daemon.until("lab", "usable");
    drop(daemon);
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

#[test]
fn what_cannot_be_sealed_is_said_and_stays_as_it_is() {
    let rows = [
        ("\"off\"", "nothing is sealed"),
        ("\"auto\"", "no unit has handed over a credential"),
        ("{ file = \"../../state/valetd/key\" }", "No such file"),
        ("{ command = [\"false\"] }", "exit status: 1"),
    ];
    for (seal, expected) in rows {
        let sealable = Sealable::with(seal);
        for is_running in [false, true] {
            let daemon = is_running.then(|| sealable.home.start());
            let refused = sealable.home.run(&["seal", "on"]);
            assert_eq!(refused.status.code(), Some(1), "{seal}");
            assert!(words(&refused).contains(expected), "{seal}: {}", words(&refused));
            assert_eq!(sealable.status()["sealed"], false, "{seal}");
            drop(daemon);
        }
        assert!(!sealable.home.path("state/valetd/seal.keys.json").exists(), "{seal}");
    }
}

#[test]
fn a_lock_ends_what_is_open_and_hands_out_nothing_until_somebody_unlocks() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let refused = home.run(&["lock", "--all"]);
    assert!(!refused.status.success() && words(&refused).contains("not sealed"), "{}", words(&refused));
    assert_eq!(ping(&address).status, 200);
    let locked = home.run(&["lock"]);
    assert!(words(&locked).contains("a switch and no wall"), "{}", words(&locked));
    let answer = ping(&address);
    assert_eq!((answer.status, &answer.json()["type"]), (503, &"urn:valetd:problem:locked".into()));
    let account = daemon.until("lab", "locked");
    assert_eq!((&account["usable"], &account["next_action"]), (&false.into(), &"valetd unlock".into()));
    assert_eq!(home.run(&["status"]).status.code(), Some(5));
    // renewals go on
    let renewals = daemon.account("lab")["renewals"].as_u64();
    assert!(lab::ask_for_renewal(&daemon));
    eventually("renewed", || (daemon.account("lab")["renewals"].as_u64() > renewals).then_some(()));
    assert_eq!(ping(&address).status, 503);
    assert!(home.run(&["unlock"]).status.success());
    assert_eq!(ping(&address).status, 200);

    sealable.seal("on");
    daemon.until("lab", "usable");
    let locked = home.run(&["lock", "--all"]);
    assert!(locked.status.success(), "{}", words(&locked));
    assert_eq!(ping(&address).status, 503);
    let asked = sealable.server.log().token_calls.len();
    std::thread::sleep(Duration::from_millis(1500)); // longer than the pause after which a key that is away is asked for
    assert_eq!(ping(&address).status, 503, "nobody brings the key back but a person");
    assert_eq!(sealable.server.log().token_calls.len(), asked, "nothing is renewed");
    assert!(home.run(&["unlock"]).status.success());
    daemon.until("lab", "usable");
    assert_eq!(ping(&address).status, 200);
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

#[test]
fn a_passphrase_is_typed_after_each_start_and_to_undo_a_lock_and_stands_nowhere() {
    const PASSPHRASE: &str = "four-words-of-mine-canary-77aa";
    let sealable = Sealable::with("\"passphrase\"");
    let home = &sealable.home;
    let sealed = home.run_with_input(&["seal", "on", "--passphrase-stdin"], PASSPHRASE);
    assert!(sealed.status.success() && words(&sealed).contains("kept by: passphrase"), "{}", words(&sealed));
    assert_eq!(sealable.leaks(), [""; 0]);
    for _ in 0..2 {
        let daemon = home.start();
        daemon.until("lab", "store-locked");
        // nobody types: there is no terminal here
        assert!(!home.run(&["unlock"]).status.success());
        let wrong = home.run_with_input(&["unlock", "--passphrase-stdin"], "four-words-of-hers");
        assert_eq!(wrong.status.code(), Some(5), "{}", words(&wrong));
        daemon.until("lab", "store-locked");
        let opened = home.run_with_input(&["unlock", "--passphrase-stdin"], PASSPHRASE);
        assert!(opened.status.success(), "{}", words(&opened));
        daemon.until("lab", "usable");
        for all in [&["lock"][..], &["lock", "--all"]] {
            let locked = home.run(all);
            assert!(words(&locked).contains("takes the passphrase"), "{}", words(&locked));
            let answer = daemon.control("POST", "/v1/unlock").expect("an answer");
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(ping(&address(&daemon)).status, 503);
            let wrong = home.run_with_input(&["unlock", "--passphrase-stdin"], "four-words-of-hers");
            assert_eq!(wrong.status.code(), Some(5), "{}", words(&wrong));
            let opened = home.run_with_input(&["unlock", "--passphrase-stdin"], PASSPHRASE);
            assert!(opened.status.success(), "{}", words(&opened));
            daemon.until("lab", "usable");
        }
        let wrong = home.run_with_input(&["unlock", "--passphrase-stdin"], "four-words-of-hers");
        assert_eq!(wrong.status.code(), Some(5), "it is open, and that is not the passphrase: {}", words(&wrong));
        daemon.until("lab", "usable");
        assert!(!daemon.log().contains(PASSPHRASE));
    }
    assert_eq!(leaks(&home.path(""), &[PASSPHRASE.to_owned()]), [""; 0]);
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

/// A daemon whose store is sealed by this passphrase, and open.
fn behind_a_passphrase<'s>(sealable: &'s Sealable, passphrase: &str) -> Daemon<'s> {
    let home = &sealable.home;
    let sealed = home.run_with_input(&["seal", "on", "--passphrase-stdin"], passphrase);
    assert!(sealed.status.success(), "{}", words(&sealed));
    let daemon = home.start();
    let opened = home.run_with_input(&["unlock", "--passphrase-stdin"], passphrase);
    assert!(opened.status.success(), "{}", words(&opened));
    daemon.until("lab", "usable");
    daemon
}

#[test]
fn what_a_passphrase_has_to_undo_nothing_else_undoes_or_changes() {
    const PASSPHRASE: &str = "four-words-of-mine-canary-91fe";
    const OTHER: &str = "four-words-of-a-thief";
    let sealable = Sealable::with("\"passphrase\"");
    let home = &sealable.home;
    let daemon = behind_a_passphrase(&sealable, PASSPHRASE);
    let sealed = sealable.status();
    for way in [&["unlock"][..], &["unlock", "--recovery"]] {
        let unasked = words(&home.run(way));
        assert!(unasked.contains("no terminal") && unasked.contains("-stdin"), "{way:?}: {unasked}");
    }
    for lock in [&["lock"][..], &["lock", "--all"]] {
        for has_code in [false, true] {
            if has_code {
                sealable.seal("recovery");
            }
            assert!(home.run(lock).status.success());
            let tries: [(&[&str], &str); 9] = [
                (&["unlock", "--recovery-stdin"], "0000"),
                (&["unlock", "--recovery-stdin"], "0000-0000-0000-0000-0000-0000-00"),
                (&["unlock", "--passphrase-stdin"], OTHER),
                (&["seal", "off"], ""),
                (&["seal", "on", "--passphrase-stdin"], OTHER),
                (&["seal", "rotate", "--passphrase-stdin"], OTHER),
                (&["seal", "recovery"], ""),
                (&["adopt", "lab"], ""),
                (&["adopt", "lab", "--any"], ""),
            ];
            for (verb, input) in tries {
                let refused = home.run_with_input(verb, input);
                assert_eq!(refused.status.code(), Some(5), "{lock:?} {verb:?}: {}", words(&refused));
                assert_eq!(ping(&address(&daemon)).status, 503, "{lock:?} {verb:?}");
            }
            let bodies = [
                "",
                "{}",
                r#"{"recovery_code": ""}"#,
                r#"{"recovery_code": "x", "passphrase": "four-words-of-a-thief"}"#,
                r#"{"passphrase": ""}"#,
            ];
            for body in bodies {
                let refused = home.control_with("POST", "/v1/unlock", body).expect("an answer");
                assert!(refused.status >= 400, "{body}: {}", refused.text());
                assert_eq!(ping(&address(&daemon)).status, 503, "{body}");
            }
            assert_eq!(sealable.leaks(), [""; 0]);
            let wrong = words(&home.run_with_input(&["unlock", "--passphrase-stdin"], OTHER));
            assert!(wrong.contains("not the passphrase") && wrong.contains("after a restart"), "{wrong}");
            let opened = home.run_with_input(&["unlock", "--passphrase-stdin"], PASSPHRASE);
            assert!(opened.status.success(), "{}", words(&opened));
            daemon.until("lab", "usable");
            if has_code {
                assert_eq!(sealable.status()["recovery"], true);
            }
        }
    }
    assert_eq!(sealable.status()["key_id"], sealed["key_id"]);
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

#[test]
fn a_lock_is_not_undone_by_an_unlock_that_began_before_it() {
    let script = "test -e $HOME/slow && touch $HOME/asked && sleep 3; cat $HOME/key";
    let sealable = Sealable::with(&format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}"));
    let home = &sealable.home;
    sealable.seal("on");
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert!(home.run(&["lock", "--all"]).status.success());
    for lock in [&["lock"][..], &["lock", "--all"]] {
        fs::write(home.path("slow"), "").expect("written");
        let _ = fs::remove_file(home.path("asked"));
        let unlocking = home.valetd(&["unlock"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("runs");
        eventually("asked", || home.path("asked").exists().then_some(()));
        let locked = home.run(lock);
        assert!(locked.status.success(), "{}", words(&locked));
        let ended = unlocking.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), Some(5), "{lock:?}");
        assert_eq!(ping(&address(&daemon)).status, 503, "{lock:?}");
        fs::remove_file(home.path("slow")).expect("removed");
        assert!(home.run(&["unlock"]).status.success());
        daemon.until("lab", "usable");
        assert!(home.run(&["lock", "--all"]).status.success());
    }
    drop(daemon);
    // nor by a start that takes its time
    fs::write(home.path("slow"), "").expect("written");
    let _ = fs::remove_file(home.path("asked"));
    let daemon = home.start();
    eventually("asked", || home.path("asked").exists().then_some(()));
    assert!(home.run(&["lock", "--all"]).status.success());
    std::thread::sleep(Duration::from_secs(4)); // longer than the command takes
    assert_eq!(ping(&address(&daemon)).status, 503);
    assert!(home.run(&["unlock"]).status.success());
    daemon.until("lab", "usable");
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

#[test]
fn a_record_that_was_copied_to_another_machine_is_not_spent_before_somebody_says_so() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let record = home.path("state/valetd/lab.json");
    let read = || -> Value { serde_json::from_slice(&fs::read(&record).expect("a record")).expect("JSON") };
    if read()["machine"].is_null() {
        eprintln!("skipped: this machine has no machine-id");
        return;
    }
    let move_away = || {
        let mut moved = read();
        moved["machine"] = "00112233445566778899aabbccddeeff".into();
        fs::write(&record, moved.to_string()).expect("written");
    };
    move_away();
    let asked = sealable.server.log().token_calls.len();
    let daemon = home.start();
    let account = daemon.until("lab", "other-machine");
    let action = account["next_action"].as_str().expect("one");
    assert!(action.contains("valetd login lab") && action.contains("adopt lab"), "{action}");
    assert_eq!(ping(&address(&daemon)).json()["type"], "urn:valetd:problem:other-machine");
    assert_eq!(home.run(&["refresh", "lab"]).status.code(), Some(3), "as status and wait say it");
    assert_eq!(sealable.server.log().token_calls.len(), asked, "the server was not asked");
    let adopted = home.run(&["adopt", "lab"]);
    assert!(adopted.status.success(), "{}", words(&adopted));
    daemon.until("lab", "usable");
    drop(daemon);
    // without a daemon; and a sign-in is always right
    for is_adopted in [true, false] {
        move_away();
        match is_adopted {
            true => assert!(home.run(&["adopt", "lab", "--any"]).status.success()),
            false => lab::sign_in(home, &sealable.server.sign_in()),
        }
        let daemon = home.start();
        daemon.until("lab", "usable");
    }
    // over a record of a later generation than the first, too, with a daemon
    let daemon = home.start();
    daemon.until("lab", "usable");
    lab::renew(&daemon);
    lab::renew(&daemon);
    drop(daemon);
    move_away();
    let daemon = home.start();
    daemon.until("lab", "other-machine");
    home.sign_in("lab", &sealable.server.sign_in());
    daemon.until("lab", "usable");
    assert_eq!(daemon.account("lab")["credential"]["saved"], true);
    drop(daemon);
    assert_eq!(sealable.server.log().reuse_detected, 0);
    // where any machine may use it, nobody asks
    move_away();
    home.write_config(&lab::config(&sealable.server, lab::EAGER, "", "store.machine = \"any\""));
    let daemon = home.start();
    daemon.until("lab", "usable");
}

/// A sealed home in which the record of `lab` is some generations old, and the files of two before.
fn renewed(sealable: &Sealable) -> [Vec<u8>; 2] {
    let record = sealable.home.path("state/valetd/lab.json");
    sealable.seal("on");
    let first = fs::read(&record).expect("a record");
    let daemon = sealable.home.start();
    daemon.until("lab", "usable");
    lab::renew(&daemon);
    let second = fs::read(&record).expect("a record");
    lab::renew(&daemon);
    [first, second]
}

#[test]
fn an_older_copy_of_a_record_is_not_spent_and_said_everywhere_before_somebody_signs_in_or_adopts_it() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let record = home.path("state/valetd/lab.json");
    for older in renewed(&sealable) {
        fs::write(&record, older).expect("written");
        let asked = sealable.server.log().token_calls.len();
        let daemon = home.start();
        let account = daemon.until("lab", "older-copy");
        let action = account["next_action"].as_str().expect("one");
        assert!(action.contains("valetd login lab") && action.contains("adopt lab"), "{action}");
        assert!(account["why"].as_str().is_some_and(|why| why.contains("an older copy")), "{account:#}");
        assert_eq!(ping(&address(&daemon)).json()["type"], "urn:valetd:problem:older-copy");
        assert_eq!(home.run(&["refresh", "lab"]).status.code(), Some(3), "as status and wait say it");
        assert_eq!(home.run(&["wait", "--timeout", "1ms"]).status.code(), Some(3));
        for verb in [&["status"][..], &["doctor", "--offline"]] {
            let told = words(&home.run(verb));
            assert!(told.contains("older-copy") || told.contains("older copy"), "{verb:?}: {told}");
        }
        daemon.until_logged("the stored credential is not used");
        assert_eq!(sealable.server.log().token_calls.len(), asked, "the server was not asked");
        // what the server refuses does not take its place, with a daemon or without one
        let refuse = || {
            let before = fs::read(&record).expect("a record");
            let refused = home.run_with_input(&["login", "lab", "--refresh-token-stdin"], "no-token-of-the-server");
            assert!(!refused.status.success(), "{}", words(&refused));
            assert_eq!(fs::read(&record).expect("a record"), before);
        };
        refuse();
        drop(daemon);
        refuse();
        let daemon = home.start();
        daemon.until("lab", "older-copy");
        // over it, a sign-in is saved, and counts on
        home.sign_in("lab", &sealable.server.sign_in());
        let account = daemon.until("lab", "usable");
        assert_eq!(account["credential"]["saved"], true, "{account:#}");
        assert!(account["credential"]["generation"].as_u64() > Some(3), "{account:#}");
    }
    // without a daemon; and the one that was signed out comes back as an older copy, too
    let latest = fs::read(&record).expect("a record");
    for is_running in [true, false] {
        let daemon = is_running.then(|| home.start());
        assert!(home.run(&["logout", "lab"]).status.success());
        drop(daemon);
        fs::write(&record, &latest).expect("written");
        let daemon = home.start();
        daemon.until("lab", "older-copy");
        drop(daemon);
        assert!(home.run(&["logout", "lab"]).status.success());
    }
    lab::sign_in(home, &sealable.server.sign_in());
    let latest = fs::read(&record).expect("a record");
    let daemon = home.start();
    daemon.until("lab", "usable");
    lab::renew(&daemon);
    drop(daemon);
    assert_eq!(sealable.server.log().reuse_detected, 0);
    // who says that it is right has it used, whatever the server says then
    fs::write(&record, &latest).expect("written");
    assert!(home.run(&["adopt", "lab"]).status.success());
    let daemon = home.start();
    daemon.until("lab", "sign-in-required");
    assert_eq!(sealable.server.log().reuse_detected, 1);
}

#[test]
fn where_it_is_not_known_what_is_an_older_copy_that_is_said_until_somebody_seals_again() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    renewed(&sealable);
    let generations = home.path("state/valetd/seal.generations.json");
    let says = |is_said: bool| {
        for verb in [&["status"][..], &["seal"], &["check"], &["doctor", "--offline"]] {
            let told = words(&home.run(verb)).split_whitespace().collect::<Vec<_>>().join(" "); // lines are wrapped
            assert_eq!(told.contains("has been begun anew"), is_said, "{verb:?}: {told}");
        }
    };
    for is_cut in [false, true] {
        match is_cut {
            true => fs::write(&generations, "{\"version\": 1, \"key").expect("written"),
            false => fs::remove_file(&generations).expect("removed"),
        }
        let daemon = home.start();
        daemon.until("lab", "usable");
        daemon.until_logged("has been begun anew");
        says(true);
        assert!(daemon.status()["daemon"]["store"]["doubt"].is_string());
        drop(daemon);
        let daemon = home.start();
        daemon.until("lab", "usable");
        says(true);
        let daemon = is_cut.then_some(daemon); // with a daemon, and without one
        sealable.seal("on");
        says(false);
        drop(daemon);
    }
    assert_eq!(sealable.server.log().reuse_detected, 0);
    assert_eq!(sealable.leaks(), [""; 0]);
}

#[test]
fn nobody_adopts_an_older_copy_over_the_later_credential_that_the_daemon_has() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let record = home.path("state/valetd/lab.json");
    let [older, _] = renewed(&sealable);
    let daemon = home.start();
    daemon.until("lab", "usable");
    lab::renew(&daemon);
    fs::write(&record, &older).expect("written");
    let refused = home.run(&["adopt", "lab"]);
    assert!(!refused.status.success() && words(&refused).contains("refresh lab"), "{}", words(&refused));
    lab::renew(&daemon);
    drop(daemon);
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

#[test]
fn a_refused_sign_in_leaves_what_was_set_aside_where_it_is() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let record = home.path("state/valetd/lab.json");
    fs::write(&record, "{\"version\": 1, \"cut").expect("written");
    let refused = home.run_with_input(&["login", "lab", "--refresh-token-stdin"], "no-token-of-the-server");
    assert!(!refused.status.success(), "{}", words(&refused));
    assert!(!record.exists() && home.path("state/valetd/lab.json.corrupt-1").exists(), "{}", words(&refused));
    assert!(home.run(&["logout", "lab"]).status.success());
    assert!(!home.path("state/valetd/lab.json.corrupt-1").exists(), "a sign-out takes it along");
}

/// No verb changes a ring that cannot be read, and each of these says what is wrong with it.
fn is_said_and_stays(home: &Home, says: &[&str]) {
    let changes: [&[&str]; 5] =
        [&["seal", "on"], &["seal", "on", "--new-key"], &["seal", "rotate"], &["seal", "off"], &["seal", "recovery"]];
    for verb in changes {
        let refused = home.run(verb);
        assert_eq!(refused.status.code(), Some(5), "{verb:?}: {}", words(&refused));
        assert!(words(&refused).contains("seal.keys.json"), "{verb:?}: {}", words(&refused));
    }
    for verb in says {
        let said = words(&home.run(&[verb]));
        assert!(said.contains("seal.keys.json") && !said.contains("in the clear"), "{verb}: {said}");
    }
}

#[test]
fn a_ring_that_cannot_be_read_is_said_everywhere_and_never_replaced_and_is_read_again_once_mended() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    sealable.seal("on");
    let ring = home.path("state/valetd/seal.keys.json");
    let aside = home.path("ring");
    for is_link in [true, false] {
        fs::rename(&ring, &aside).expect("renamed");
        match is_link {
            true => std::os::unix::fs::symlink(&aside, &ring).expect("a link"),
            false => fs::write(&ring, r#"{"version": 7}"#).expect("written"),
        }
        let daemon = home.start();
        daemon.until("lab", "store-locked");
        is_said_and_stays(home, &["seal", "check", "status", "doctor"]);
        drop(daemon);
        is_said_and_stays(home, &["seal", "check"]);
        let daemon = home.start();
        daemon.until("lab", "store-locked");
        fs::remove_file(&ring).expect("removed");
        fs::rename(&aside, &ring).expect("renamed");
        assert!(home.run(&["unlock"]).status.success());
        daemon.until("lab", "usable");
    }
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

#[test]
fn a_ring_that_is_lost_gives_way_to_another_one_only_where_a_person_says_so() {
    for is_running in [false, true] {
        let sealable = Sealable::new();
        let home = &sealable.home;
        sealable.seal("on");
        let ring = home.path("state/valetd/seal.keys.json");
        let whole = fs::read(&ring).expect("a ring");
        for is_missing in [true, false] {
            match is_missing {
                true => fs::remove_file(&ring).expect("removed"),
                false => fs::write(&ring, "{").expect("written"),
            }
            let daemon = is_running.then(|| home.start());
            for verb in ["on", "rotate", "off"] {
                let refused = home.run(&["seal", verb]);
                assert_eq!(refused.status.code(), Some(5), "{verb}: {}", words(&refused));
                assert!(verb != "on" || words(&refused).contains("seal on --new-key"), "{}", words(&refused));
            }
            fs::write(&ring, &whole).expect("it is put back");
            assert!(home.run(&["unlock"]).status.success());
            // what it renews then is saved
            daemon.inspect(|daemon| drop(daemon.until("lab", "usable")));
        }
        let daemon = home.start();
        daemon.until("lab", "usable");
        drop(daemon);
        fs::remove_file(&ring).expect("removed");
        let daemon = is_running.then(|| home.start());
        assert!(home.run(&["seal", "on", "--new-key"]).status.success());
        drop(daemon);
        assert_eq!(sealable.server.log().reuse_detected, 0);
    }
}

#[test]
fn who_has_lost_the_key_is_told_a_way_out_that_works_and_loses_nothing_that_may_come_back() {
    for is_running in [true, false] {
        let sealable = Sealable::new();
        let home = &sealable.home;
        sealable.seal("on");
        let record = fs::read(home.path("state/valetd/lab.json")).expect("a record");
        sealable.put_key("another-key-of-more-than-32-characters-for-a-new-start");
        let daemon = is_running.then(|| home.start());
        let refused = home.run(&["unlock"]);
        assert_eq!(refused.status.code(), Some(5));
        assert!(words(&refused).contains("valetd seal on --new-key"), "{}", words(&refused));
        assert_eq!(home.run(&["seal", "on"]).status.code(), Some(5), "not before a person says so");
        let begun = home.run(&["seal", "on", "--new-key"]);
        assert!(begun.status.success(), "{}", words(&begun));
        assert!(words(&begun).contains("lab.json") && words(&begun).contains("valetd login"), "{}", words(&begun));
        if let Some(daemon) = &daemon {
            let account = daemon.until("lab", "key-gone");
            let action = account["next_action"].as_str().expect("one");
            assert!(action.contains("login lab"), "{action}");
        }
        // nor by what the server refuses
        let refused = home.run_with_input(&["login", "lab", "--refresh-token-stdin"], "no-token-of-the-server");
        assert!(!refused.status.success(), "{}", words(&refused));
        assert_eq!(fs::read(home.path("state/valetd/lab.json")).expect("it is there"), record);
        lab::sign_in(home, &sealable.server.sign_in());
        assert_eq!(fs::read(home.path("state/valetd/lab.json.corrupt-1")).expect("it is kept"), record);
        assert_eq!(sealable.leaks(), [""; 0]);
        drop(daemon);
        let daemon = home.start();
        daemon.until("lab", "usable");
        assert_eq!(sealable.server.log().reuse_detected, 0);
    }
}

#[test]
fn what_a_passphrase_has_to_undo_is_not_undone_by_taking_the_accounts_out_of_the_configuration() {
    const PASSPHRASE: &str = "four-words-of-mine-canary-5a0c";
    let sealable = Sealable::with("\"passphrase\"");
    let home = &sealable.home;
    let daemon = behind_a_passphrase(&sealable, PASSPHRASE);
    let with_accounts = fs::read_to_string(home.path("config/valetd/config.toml")).expect("the configuration");
    let without = with_accounts.split_once("[account").expect("an account").0.to_owned();
    let reload = |config: &str| {
        home.write_config(config);
        let reloaded = home.run(&["reload"]);
        assert!(reloaded.status.success(), "{}", words(&reloaded));
    };
    for lock in [&["lock"][..], &["lock", "--all"]] {
        assert!(home.run(lock).status.success());
        reload(&without);
        let tries: [(&[&str], &str); 5] = [
            (&["unlock", "--passphrase-stdin"], "four-words-of-a-thief"),
            (&["seal", "off"], ""),
            (&["seal", "rotate", "--passphrase-stdin"], "four-words-of-a-thief"),
            (&["seal", "on", "--new-key", "--passphrase-stdin"], "four-words-of-a-thief"),
            (&["seal", "recovery"], ""),
        ];
        for (verb, input) in tries {
            let refused = home.run_with_input(verb, input);
            assert_eq!(refused.status.code(), Some(5), "{lock:?} {verb:?}: {}", words(&refused));
        }
        assert_eq!(sealable.leaks(), [""; 0]);
        reload(&with_accounts);
        daemon.until("lab", "locked");
        assert_eq!(ping(&address(&daemon)).status, 503, "{lock:?}");
        let opened = home.run_with_input(&["unlock", "--passphrase-stdin"], PASSPHRASE);
        assert!(opened.status.success(), "{}", words(&opened));
        daemon.until("lab", "usable");
    }
}

#[test]
fn a_passphrase_that_nobody_could_type_is_not_taken() {
    const PASSPHRASE: &str = "four-words-of-mine-canary-77b2";
    let sealable = Sealable::with("\"passphrase\"");
    let home = &sealable.home;
    let daemon = behind_a_passphrase(&sealable, PASSPHRASE);
    // as it is right where no daemon runs
    let two_lines = format!("{PASSPHRASE}\nfive-other-words-of-mine-canary-77b2\n");
    for change in [&["rotate"][..], &["on"], &["on", "--new-key"]] {
        let verb = [&["seal"], change, &["--passphrase-stdin"]].concat();
        let refused = home.run_with_input(&verb, &two_lines);
        assert_eq!(refused.status.code(), Some(1), "{verb:?}: {}", words(&refused));
        assert!(words(&refused).contains("lines"), "{}", words(&refused));
    }
    drop(daemon);
    let daemon = home.start();
    let opened = home.run_with_input(&["unlock", "--passphrase-stdin"], PASSPHRASE);
    assert!(opened.status.success(), "{}", words(&opened));
    daemon.until("lab", "usable");
}

#[test]
fn a_store_that_takes_a_passphrase_is_changed_without_a_daemon_by_who_says_it() {
    const PASSPHRASE: &str = "four-words-of-mine-canary-3c1d";
    const NEXT: &str = "five-other-words-of-mine-canary-3c1d";
    let sealable = Sealable::with("\"passphrase\"");
    let home = &sealable.home;
    let say = |verb: &[&str], input: &str, code: i32| {
        let output = home.run_with_input(verb, input);
        assert_eq!(output.status.code(), Some(code), "{verb:?} {input:?}: {}", words(&output));
        output
    };
    say(&["seal", "on", "--passphrase-stdin"], PASSPHRASE, 0);
    for change in ["recovery", "off", "rotate"] {
        say(&["seal", change, "--passphrase-stdin"], &format!("four-words-of-hers\n{NEXT}"), 5);
    }
    for (change, others) in [("off", "send it"), ("rotate", "send both")] {
        let unasked = words(&say(&["seal", change], "", 5)); // there is no terminal to ask on
        assert!(unasked.contains(others) && unasked.contains("--passphrase-stdin"), "{unasked}");
    }
    say(&["adopt", "lab", "--passphrase-stdin"], "four-words-of-hers", 5);
    say(&["adopt", "lab", "--passphrase-stdin"], PASSPHRASE, 0);
    say(&["seal", "recovery", "--passphrase-stdin"], PASSPHRASE, 0);
    say(&["seal", "rotate", "--passphrase-stdin"], &format!("{PASSPHRASE}\r\n{NEXT}\r\n"), 0);
    assert_eq!(sealable.leaks(), [""; 0]);
    say(&["unlock", "--passphrase-stdin"], PASSPHRASE, 5);
    say(&["unlock", "--passphrase-stdin"], NEXT, 0);
    say(&["seal", "off", "--passphrase-stdin"], PASSPHRASE, 5);
    say(&["seal", "off", "--passphrase-stdin"], NEXT, 0);
    assert_eq!(sealable.status()["sealed"], false);
}

#[test]
fn a_recovery_code_that_could_not_be_shown_voids_none() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    sealable.seal("on");
    for is_running in [true, false] {
        let daemon = is_running.then(|| home.start());
        let first = String::from_utf8(sealable.seal("recovery").stdout).expect("text");
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let status = home.valetd(&["seal", "recovery"]).stdout(full).stderr(Stdio::null()).status().expect("it runs");
        assert!(!status.success());
        let opened = home.run_with_input(&["unlock", "--recovery-stdin"], &first);
        assert!(opened.status.success(), "{is_running}: {}", words(&opened));
        let second = String::from_utf8(sealable.seal("recovery").stdout).expect("text");
        assert_eq!(home.run_with_input(&["unlock", "--recovery-stdin"], &first).status.code(), Some(5));
        assert!(home.run_with_input(&["unlock", "--recovery-stdin"], &second).status.success());
        drop(daemon);
    }
}

#[test]
fn of_recovery_codes_that_are_made_at_once_each_opens_the_store_or_says_that_it_does_not() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    sealable.seal("on");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let made: Vec<Output> = thread::scope(|scope| {
        let makers: Vec<_> = (0..5).map(|_| scope.spawn(|| home.run(&["seal", "recovery"]))).collect();
        makers.into_iter().map(|maker| maker.join().expect("it ends")).collect()
    });
    // the codes of those that were told that all is well, in the order that they were: the last voids those before
    let good = made.iter().filter(|output| output.status.success());
    let opens = |output: &&Output| {
        let code = std::str::from_utf8(&output.stdout).expect("text");
        home.run_with_input(&["unlock", "--recovery-stdin"], code).status.success()
    };
    let opening = good.filter(opens).count();
    assert_eq!(opening, 1, "the newest one that was seen");
    for output in made.iter().filter(|output| !output.status.success()) {
        assert!(!opens(&output), "{}", words(output));
        assert!(words(output).contains("opens nothing"), "{}", words(output));
    }
}

#[test]
fn credentials_that_are_in_the_clear_though_the_configuration_names_a_seal_are_told_of_everywhere() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let daemon = home.start();
    daemon.until("lab", "usable");
    for verb in [&["status"][..], &["check"], &["doctor", "--offline"]] {
        let told = words(&home.run(verb));
        let told = told.split_whitespace().collect::<Vec<_>>().join(" "); // lines are wrapped
        assert_eq!(told.matches("in the clear").count(), 1, "{verb:?}: {told}");
        assert!(told.contains("store.seal names file") && told.contains("valetd seal on"), "{verb:?}: {told}");
    }
    let forgets = "store.seal = { file = \"../../key\" }\nstore.lock = { idle = \"1h\", all = true }";
    home.write_config(&lab::config(&sealable.server, lab::EAGER, "", forgets));
    assert!(words(&home.run(&["check"])).contains("store.lock.all has no effect"));
    sealable.seal("on");
    for verb in [&["status"][..], &["check"], &["doctor", "--offline"]] {
        let told = words(&home.run(verb));
        assert!(!told.contains("in the clear"), "{verb:?}: {told}");
    }
    assert!(!words(&home.run(&["check"])).contains("no effect"));
}

#[test]
fn copies_of_credentials_that_somebody_has_made_are_named_and_left_to_who_has_made_them() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let state = home.path("state/valetd");
    for copy in ["lab.json~", "lab.json.bak", "to-be-sure"] {
        fs::copy(state.join("lab.json"), state.join(copy)).expect("copied");
    }
    fs::write(state.join("note"), "{\"version\": 1, \"account\": \"lab\"}").expect("written");
    let said = words(&sealable.seal("on"));
    for copy in ["lab.json~", "lab.json.bak", "to-be-sure"] {
        assert!(said.contains(&format!("left as it was: {copy}: ")), "{copy}: {said}");
        assert!(state.join(copy).exists(), "{copy}");
        fs::remove_file(state.join(copy)).expect("removed");
    }
    assert!(!said.contains("note:"), "{said}");
    assert!(!said.contains("opens again when its key comes back"), "no key is away: {said}");
    assert_eq!(sealable.leaks(), [""; 0]);
    // what has come in the clear since is named by who asks again, too
    let client = r#"{"registered_at": "i", "client_id": "c", "client_auth": "post", "client_secret": "s"}"#;
    fs::write(state.join("since"), client).expect("written");
    let again = words(&sealable.seal("on"));
    assert!(again.contains("left as it was: since: "), "{again}");
    fs::remove_file(state.join("since")).expect("removed");
    let again = words(&sealable.seal("rotate"));
    assert!(!again.contains("left as it was"), "{again}");
}

#[test]
fn a_setting_that_names_another_source_of_the_same_kind_is_put_in_force_and_the_one_before_opens_nothing() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    sealable.seal("on");
    let first = sealable.status()["key_id"].clone();
    fs::write(home.path("key-2"), "another-key-of-more-than-32-characters-elsewhere\n").expect("written");
    fs::set_permissions(home.path("key-2"), fs::Permissions::from_mode(0o600)).expect("mode 0600");
    let daemon = home.start();
    daemon.until("lab", "usable");
    home.write_config(&lab::config(&sealable.server, lab::EAGER, "", "store.seal = { file = \"../../key-2\" }"));
    assert!(home.run(&["reload"]).status.success());
    let changed = sealable.seal("on");
    assert!(!words(&changed).contains("already"), "{}", words(&changed));
    assert_ne!(sealable.status()["key_id"], first);
    drop(daemon);
    sealable.lose_key();
    let daemon = home.start();
    daemon.until("lab", "usable");
}

#[test]
fn where_any_machine_may_use_a_record_that_acts_on_a_reload() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let record = home.path("state/valetd/lab.json");
    let mut moved: Value = serde_json::from_slice(&fs::read(&record).expect("a record")).expect("JSON");
    moved["machine"] = "00112233445566778899aabbccddeeff".into();
    fs::write(&record, moved.to_string()).expect("written");
    let daemon = home.start();
    daemon.until("lab", "other-machine");
    home.write_config(&lab::config(&sealable.server, lab::EAGER, "", "store.machine = \"any\""));
    assert!(home.run(&["reload"]).status.success());
    daemon.until("lab", "usable");
}

#[test]
fn a_source_that_does_not_reply_keeps_nobody_from_listening_or_stopping_and_is_no_sign_in_that_is_missing() {
    for is_pipe in [true, false] {
        let sealable = match is_pipe {
            true => Sealable::new(),
            false => Sealable::with(
                "{ command = [\"sh\", \"-c\", \"test -e $HOME/slow && exec sleep 25.5; cat $HOME/key\"] }",
            ),
        };
        let home = &sealable.home;
        sealable.seal("on");
        fs::write(home.path("slow"), "").expect("written");
        if is_pipe {
            sealable.lose_key();
            let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(home.path("key")).status();
            assert!(made.expect("mkfifo runs").success());
        }
        let began = std::time::Instant::now();
        let mut daemon = home.start();
        let account = daemon.account("lab");
        assert_eq!((&account["state"], &account["usable"]), (&"store-locked".into(), &false.into()), "{is_pipe}");
        assert_eq!(home.run(&["wait", "--timeout", "1ms"]).status.code(), Some(5), "{is_pipe}");
        let told = home.run(&["status"]);
        assert_eq!(told.status.code(), Some(5), "{is_pipe}");
        assert!(words(&told).contains("being asked for") && !words(&told).contains("nobody"), "{}", words(&told));
        assert_eq!(sealable.status()["locked"], "it is being asked for", "{is_pipe}");
        let refused = home.run(&["refresh", "lab"]);
        assert!(!words(&refused).contains("login"), "{is_pipe}: {}", words(&refused));
        daemon.signal("TERM");
        assert!(began.elapsed() < Duration::from_secs(20), "{is_pipe}: {:?}", began.elapsed());
    }
}

#[test]
fn a_stop_ends_a_command_that_is_asked_for_the_key_and_whatever_that_has_started() {
    let mark = format!("1000.{}", std::process::id());
    let slow = format!("touch $HOME/asked; sleep {mark} & sleep {mark} | cat");
    let sealable = Sealable::with(&format!(
        "{{ command = [\"sh\", \"-c\", \"if test -e $HOME/slow; then {slow}; fi; cat $HOME/key\"] }}"
    ));
    let home = &sealable.home;
    sealable.seal("on");
    for is_asked_by in ["a start", "a person"] {
        let _ = fs::remove_file(home.path("asked"));
        let _ = fs::remove_file(home.path("slow"));
        let slow_from_now_on = || fs::write(home.path("slow"), "").expect("written");
        if is_asked_by == "a start" {
            slow_from_now_on();
        }
        // without a terminal, as a service
        let mut daemon = home.start_as(home.valetd_by(&["setsid"], &["run"]));
        let mut unlocking = None;
        if is_asked_by == "a person" {
            daemon.until("lab", "usable");
            assert!(home.run(&["lock", "--all"]).status.success());
            slow_from_now_on();
            let mut unlock = home.valetd(&["unlock"]);
            unlocking = Some(unlock.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("runs"));
        }
        eventually("it is asked", || (with_argument(&mark) == 2 && home.path("asked").exists()).then_some(()));
        assert!(daemon.signal("TERM").success(), "{is_asked_by}");
        eventually(&format!("nothing goes on, {is_asked_by} having asked"), || {
            (with_argument(&mark) == 0).then_some(())
        });
        let _ = unlocking.map(|mut unlocking| unlocking.wait());
    }
}

#[test]
fn a_stop_ends_a_command_that_a_renewal_waits_for_and_no_login_is_lost() {
    let mark = format!("1001.{}", std::process::id());
    let script = format!("if test -e $HOME/slow; then sleep {mark} | cat; fi; echo secret-of-the-client");
    let command = format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}");
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let client = format!("{}\nclient_auth = \"post\"\nclient_secret = {command}", lab::EAGER);
    let issued = format!(
        "[account.issued]\ngrant = \"command\"\ntoken = {command}\nupstream = \"{}\"\n[route.issued]\n",
        server.url()
    );
    let home = lab::home(&server, &client, &issued, "");
    fs::write(home.path("slow"), "").expect("written");
    // without a terminal, as a service
    let mut daemon = home.start_as(home.valetd_by(&["setsid"], &["run"]));
    eventually("both are asked", || (with_argument(&mark) == 2).then_some(()));
    let began = Instant::now();
    assert!(daemon.signal("TERM").success());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    eventually("nothing goes on", || (with_argument(&mark) == 0).then_some(()));
    drop(daemon);
    fs::remove_file(home.path("slow")).expect("removed");
    let daemon = home.start();
    daemon.until("lab", "usable");
    daemon.until("issued", "usable");
    assert_eq!(server.log().reuse_detected, 0);
}

#[test]
fn what_nobody_waits_for_any_more_is_not_asked_any_more_and_changes_nothing() {
    let mark = format!("1002.{}", std::process::id());
    let script = format!("if test -e $HOME/slow; then sleep {mark} | cat; fi; cat $HOME/key");
    let sealable = Sealable::with(&format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}"));
    let home = &sealable.home;
    sealable.seal("on");
    let daemon = home.start_as(home.valetd_by(&["setsid"], &["run"]));
    daemon.until("lab", "usable");
    let before = sealable.status();
    for verb in [&["seal", "rotate"][..], &["seal", "on"], &["unlock"]] {
        if verb == ["unlock"] {
            assert!(home.run(&["lock", "--all"]).status.success());
        }
        fs::write(home.path("slow"), "").expect("written");
        let mut asking = home.valetd(verb).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        eventually("it is asked", || (with_argument(&mark) == 1).then_some(()));
        let left = Instant::now();
        asking.kill().expect("killed");
        asking.wait().expect("it has ended");
        eventually(&format!("{verb:?} is given up"), || (with_argument(&mark) == 0).then_some(()));
        assert!(left.elapsed() < Duration::from_secs(20), "{verb:?}: its own limit has ended it");
        fs::remove_file(home.path("slow")).expect("removed");
    }
    assert!(home.run(&["unlock"]).status.success());
    daemon.until("lab", "usable");
    assert_eq!(sealable.status(), before);
}

#[test]
fn while_the_configuration_cannot_be_used_no_other_source_takes_the_place_of_the_one_that_it_names() {
    const PASSPHRASE: &str = "four-words-of-mine-canary-b8e0";
    let sealable = Sealable::with("\"passphrase\"");
    let home = &sealable.home;
    drop(behind_a_passphrase(&sealable, PASSPHRASE));
    let code = home.run_with_input(&["seal", "recovery", "--passphrase-stdin"], PASSPHRASE);
    let code = String::from_utf8(code.stdout).expect("a code");
    let sealed = sealable.status();
    // what `auto` would take
    fs::create_dir(home.path("credentials")).expect("a folder");
    fs::write(home.path("credentials/valetd-store-key"), KEY).expect("written");
    let config = fs::read_to_string(home.path("config/valetd/config.toml")).expect("the configuration");
    home.write_config(&format!("{config}\n[route.x\n"));
    let mut start = home.valetd(&["run"]);
    start.env("CREDENTIALS_DIRECTORY", home.path("credentials"));
    let daemon = home.start_as(start);
    let opened = home.run_with_input(&["unlock", "--recovery-stdin"], &code);
    assert!(opened.status.success() && words(&opened).contains("locked again after a restart"), "{}", words(&opened));
    for change in [&["on"][..], &["on", "--new-key"], &["rotate"]] {
        let refused = home.run(&[&["seal"], change].concat());
        assert_eq!(refused.status.code(), Some(6), "{change:?}: {}", words(&refused));
        assert!(words(&refused).contains("config.toml"), "{change:?}: {}", words(&refused));
    }
    home.write_config(&config);
    assert!(home.run(&["reload"]).status.success());
    daemon.until("lab", "usable");
    assert_eq!(sealable.status(), sealed);
    drop(daemon);
    let daemon = home.start();
    daemon.until("lab", "store-locked");
    assert!(home.run_with_input(&["unlock", "--passphrase-stdin"], PASSPHRASE).status.success());
    daemon.until("lab", "usable");
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

/// How many `sleep` processes have this argument.
fn with_argument(argument: &str) -> usize {
    let lines = fs::read_dir("/proc").expect("listed").flatten();
    let lines = lines.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| *line == format!("sleep\0{argument}\0").into_bytes()).count()
}

#[test]
fn sealing_says_what_is_spent_and_what_is_not() {
    let sealable = Sealable::new();
    let home = &sealable.home;
    let daemon = home.start();
    daemon.until("lab", "usable");
    let sealed = sealable.seal("on");
    assert!(words(&sealed).contains("spent: lab"), "{}", words(&sealed));
    let again = sealable.seal("on");
    assert!(words(&again).contains("already") && !words(&again).contains("spent"), "{}", words(&again));
    drop(daemon);
    sealable.seal("off");
    let without = sealable.seal("on");
    assert!(words(&without).contains("works until it is renewed, when valetd starts: lab"), "{}", words(&without));
    let daemon = home.start();
    daemon.until("lab", "usable");
    let after = sealable.seal("on");
    assert!(!words(&after).contains("lab"), "a start has spent it: {}", words(&after));
    let locked = home.run(&["lock", "--all"]);
    assert!(words(&locked).contains("if they are not renewed: lab"), "{}", words(&locked));
}

#[test]
fn what_a_seal_that_was_cut_short_has_left_in_the_clear_waits_for_the_key_as_all_else_does() {
    let script = "test -e $HOME/slow && sleep 1; cat $HOME/key";
    let sealable = Sealable::with(&format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}"));
    let home = &sealable.home;
    let record = home.path("state/valetd/lab.json");
    let clear = fs::read(&record).expect("a record");
    sealable.seal("on");
    fs::write(&record, clear).expect("written");
    fs::write(home.path("slow"), "").expect("written");
    let daemon = home.start();
    assert_eq!(daemon.account("lab")["state"], "store-locked");
    daemon.until("lab", "usable");
    assert!(!daemon.log().contains("nothing can be saved"), "{}", daemon.log());
    assert_eq!(sealable.leaks(), [""; 0]);
    assert_eq!(sealable.server.log().reuse_detected, 0);
}

/// Moments, not secrets.
fn below(random: &mut u64, limit: u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random % limit
}

/// Kills the command line, which does the work where no daemon runs, at random moments of sealing, changing the key and
/// unsealing. Returns how many of the kills came before the change was done.
fn kill_changes(kills: usize, seed: u64) -> usize {
    let sealable = Sealable::at(Server::start(Provider::Gdh, Options::default()), "{ file = \"../../key\" }");
    let home = &sealable.home;
    put_client(home);
    let mut random = seed;
    let mut cut_short = 0;
    for kill in 0..kills {
        let change = ["on", "rotate", "recovery", "off"][below(&mut random, 4) as usize];
        let moment = Duration::from_micros(below(&mut random, 25_000));
        let mut child =
            home.valetd(&["seal", change]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("valetd runs");
        std::thread::sleep(moment); // any moment is right: that is the story
        let _ = child.kill();
        cut_short += usize::from(child.wait().expect("waited").code().is_none());
        let _ = home.run(&["unlock"]); // it opens the store, which finishes what was cut short
        let status = sealable.status();
        assert_eq!(status["locked"], Value::Null, "kill {kill} in {change}: {status}");
        assert_eq!(status["doubt"], Value::Null, "kill {kill} in {change}: {status}");
        let is_clear = !sealable.leaks().is_empty();
        assert_eq!(is_clear, status["sealed"] == false, "kill {kill} in {change}: {status}");
        assert_eq!(is_clear, shows_client(home), "kill {kill} in {change}: {status}");
        let left = fs::read_dir(home.path("state/valetd")).expect("a folder").flatten().map(|entry| entry.file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("corrupt")).collect();
        assert!(left.is_empty(), "kill {kill} in {change}: {left:?}");
    }
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(daemon.account("lab")["credential"]["generation"], 1);
    assert!(has_client(&daemon));
    cut_short
}

/// A secret of a client that was registered.
const CLIENT_CANARY: &str = "client-canary-66d20b9e";

/// A client that was registered, in the clear.
fn put_client(home: &Home) {
    let file = home.path("state/valetd/other.client.json");
    let client = json!({"registered_at": "https://o.example", "client_id": "other", "client_auth": "post",
        "client_secret": CLIENT_CANARY});
    fs::write(&file, client.to_string()).expect("written");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("mode 0600");
}

/// Whether it lies in the clear.
fn shows_client(home: &Home) -> bool {
    !leaks(&home.path("state"), &[CLIENT_CANARY.to_owned()]).is_empty()
}

/// Whether the store has it still.
fn has_client(daemon: &Daemon<'_>) -> bool {
    let answer = daemon.control("GET", "/v1/accounts/other/client").expect("an answer");
    answer.text().contains(CLIENT_CANARY)
}

/// The same with the daemon that does the work, at moments between the beginning of a change and some time after its end:
/// how long changes take is measured first, and what takes longer now is killed in its earlier part.
fn kill_daemons(kills: usize, seed: u64) -> usize {
    let sealable = Sealable::at(Server::start(Provider::Gdh, Options::default()), "{ file = \"../../key\" }");
    let home = &sealable.home;
    put_client(home);
    let longest = longest_change(&sealable);
    let mut random = seed;
    let mut cut_short = 0;
    for kill in 0..kills {
        let mut daemon = home.start();
        daemon.until("lab", "usable");
        let status = sealable.status();
        assert_eq!(status["locked"], Value::Null, "before kill {kill}: {status}");
        assert_eq!(status["doubt"], Value::Null, "before kill {kill}: {status}");
        assert_eq!(!sealable.leaks().is_empty(), status["sealed"] == false, "before kill {kill}: {status}");
        assert_eq!(shows_client(home), status["sealed"] == false, "before kill {kill}: {status}");
        // of one that is not sealed, there is one change that changes anything
        let changes: &[&str] = if status["sealed"] == true { &["on", "rotate", "recovery", "off"] } else { &["on"] };
        let change = changes[below(&mut random, changes.len() as u64) as usize];
        let moment = Duration::from_micros(below(&mut random, longest.as_micros() as u64));
        let mut asking = Asking::of(&daemon, change);
        asking.until_begun(&daemon);
        std::thread::sleep(moment); // any moment is right: that is the story
        cut_short += usize::from(asking.child.0.try_wait().expect("waited").is_none());
        daemon.child.kill().expect("killed");
        daemon.child.wait().expect("waited");
        eventually("the command line ends", || asking.child.0.try_wait().expect("waited"));
    }
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(ping(&address(&daemon)).status, 200);
    assert!(has_client(&daemon));
    cut_short
}

/// How long the longest change takes here and now, from when the daemon is asked until the command line has ended.
fn longest_change(sealable: &Sealable) -> Duration {
    let daemon = sealable.home.start();
    daemon.until("lab", "usable");
    let lengths = ["on", "rotate", "off"].map(|change| {
        let mut asking = Asking::of(&daemon, change);
        asking.until_begun(&daemon);
        let began = std::time::Instant::now();
        assert!(asking.child.0.wait().expect("waited").success(), "{change}");
        began.elapsed()
    });
    lengths.into_iter().max().expect("three changes")
}

/// A command line that has asked a daemon for a change of its seal.
struct Asking {
    child: Killed,
    /// The daemon's log from there on.
    log: fs::File,
}

impl Asking {
    fn of(daemon: &Daemon<'_>, change: &str) -> Self {
        let mut log = fs::File::open(daemon.home.path("daemon.log")).expect("a log");
        log.seek(SeekFrom::End(0)).expect("a place in it");
        let mut command = daemon.home.valetd(&["seal", change]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("valetd runs");
        Self { child: Killed(child), log }
    }

    /// Looks as often as it can: what it waits for may be over in some milliseconds.
    fn until_begun(&mut self, daemon: &Daemon<'_>) {
        let start = std::time::Instant::now();
        let mut logged = String::new();
        while !logged.contains("a change of the store's seal was asked for") {
            self.log.read_to_string(&mut logged).expect("a log");
            assert!(start.elapsed() < PATIENCE, "the daemon was not asked:\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn kills_of_the_daemon_at_any_moment_of_a_change_of_the_seal_lose_no_login() {
    let cut_short = kill_daemons(10, 0xdae5);
    assert!(cut_short > 2, "{cut_short} of 10 came in time");
}

#[test]
#[ignore = "a soak: some minutes"]
fn a_thousand_kills_of_the_daemon_in_changes_of_the_seal_lose_no_login() {
    println!("{} of 1000 came in time", kill_daemons(1000, 0xfade));
}

#[test]
fn sealing_leaves_no_secret_beside_the_records_in_copies_half_saves_and_accounts_that_are_configured_no_more() {
    const CANARIES: [&str; 4] =
        ["password-canary-5b1e77c0", "copy-canary-90ad3f12", "half-canary-77e0aa31", "whole-canary-1c2d3e4f"];
    let [password, copy, half, whole] = CANARIES;
    let record = |generation: u64, password: &str| {
        format!(
            "{{\"version\":1,\"account\":\"other\",\"generation\":{generation},\"issued_by\":\"https://o.example\",\
             \"username\":\"me\",\"password\":\"{password}\",\"received_at\":1700000000,\"redeeming\":false}}"
        )
    };
    for is_running in [false, true] {
        let sealable = Sealable::new();
        let folder = sealable.home.path("state/valetd");
        for (name, text) in [
            ("other.json", record(3, password)),
            // the save that it was waiting for, and one that was cut off
            (".other.json.tmp", record(4, whole)),
            (".lab.json.tmp", format!("{{\"version\":1,\"refresh_token\":\"{half}")),
            ("lab.json.corrupt-1", format!("{{\"refresh_token\":\"{copy}\"")),
        ] {
            fs::write(folder.join(name), text).expect("written");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).expect("mode 0600");
        }
        let canaries = CANARIES.map(str::to_owned);
        assert_eq!(leaks(&folder, &canaries).len(), 4);
        let daemon = is_running.then(|| sealable.home.start());
        sealable.seal("on");
        assert_eq!(leaks(&folder, &canaries), [""; 0], "with a daemon: {is_running}");
        drop(daemon);
        // nothing was lost by that
        sealable.seal("off");
        let other = fs::read_to_string(folder.join("other.json")).expect("a record");
        assert!(other.contains(whole) && !other.contains(password), "the later save has been finished");
    }
}

#[test]
fn kills_at_any_moment_of_a_change_of_the_seal_lose_no_login() {
    let cut_short = kill_changes(40, 0x5ea1);
    assert!(cut_short > 5, "{cut_short} of 40 came in time");
}

#[test]
#[ignore = "a soak: some minutes"]
fn a_thousand_kills_in_changes_of_the_seal_lose_no_login() {
    println!("{} of 1000 came in time", kill_changes(1000, 0xface));
}
