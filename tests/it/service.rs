//! What looks after the daemon, without a service manager: events, logs, doctor, exec, and what a manager would be told.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use valetd::stand_in::{Behaviour, Options, PASSWORD, Provider, USERNAME};

use crate::support::providers::{Running, gbdx_account, start};
use crate::support::{Home, PATIENCE, eventually, free_address, get, words};

/// A home with a GBDX account that leads to a stand-in, and the address of its daemon.
fn gbdx_home() -> (Running, Home, String) {
    let gbdx = start(Provider::Gbdx, Options { access_lifetime: Duration::from_secs(600), ..Options::default() });
    let address = free_address();
    let home = Home::with(&format!("listen = [\"{address}\"]\n{}", gbdx_account(&gbdx)));
    (gbdx, home, address)
}

fn login(home: &Home) {
    let output = home.run_with_input(&["login", "gbdx", "--username", USERNAME, "--password-stdin"], PASSWORD);
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn a_bad_configuration_at_the_start_is_said_everywhere_and_mended_by_a_reload() {
    let (gbdx, home, address) = gbdx_home();
    let good = fs::read_to_string(home.path("config/valetd/config.toml")).expect("the configuration");
    // the default address, which may be taken: this one has to be reached over its socket then
    home.write_config("workers = 1\nlisten = 5\n");
    let daemon = home.start();
    for verb in [
        &["status"][..],
        &["wait", "--timeout", "20s"],
        &["wait", "gbdx"],
        &["refresh", "gbdx"],
        &["exec", "-r", "gbdx", "--", "true"],
    ] {
        let output = home.run(verb);
        let said = words(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(6), "{verb:?}: {said}");
        for part in ["cannot be used", "the file", "config.toml:2", "listen", "valetd check"] {
            assert!(said.contains(part), "{verb:?}, {part}: {said}");
        }
        assert!(!said.contains("No account yet") && !said.contains("stays"), "{verb:?}: {said}");
    }
    let ready = daemon.control("GET", "/readyz").expect("an answer");
    assert!(ready.status == 503 && ready.text().contains("not-configured"), "{}", ready.text());
    assert_eq!(daemon.status()["daemon"]["configured"], false);
    let doctor = words(&home.run(&["doctor", "--offline"]));
    assert!(doctor.starts_with("FAIL  config") && doctor.contains("(1 problem)"), "{doctor}");
    let problems = daemon.status()["daemon"]["config_problems"].clone();
    assert_eq!(problems.as_array().map(Vec::len), Some(1), "{problems:#}");
    home.write_config(&good);
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    assert_eq!(get(&address, "/gbdx/x").expect("an answer").status, 503);
    assert_eq!(daemon.status()["daemon"]["config_problems"].as_array().map(Vec::len), Some(0));
    assert_eq!(daemon.status()["daemon"]["configured"], true);
    assert_eq!(home.run(&["status"]).status.code(), Some(3), "the account is not signed in");
    home.write_config("listen = 5\n");
    let said = eventually("an answer of our own says what is wrong", || {
        let answer = get(&address, "/nothing").ok()?;
        answer.text().contains("cannot be used").then_some(answer)
    });
    assert!(said.status == 404 && said.text().contains("valetd check"), "{}", said.text());
    let status = words(&home.run(&["status"])).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status.contains("what was in force before it stays so"), "{status}");
    drop(gbdx);
}

#[test]
fn events_tell_a_login_and_its_renewal_and_never_a_secret() {
    let (gbdx, home, _) = gbdx_home();
    let daemon = home.start();
    let mut events =
        home.valetd(&["events", "--json", "--after", "0"]).stdout(Stdio::piped()).spawn().expect("it runs");
    login(&home);
    let mut lines = BufReader::new(events.stdout.take().expect("piped")).lines();
    let mut seen = Vec::new();
    let mut text = String::new();
    while !(seen.contains(&"signed-in".to_owned()) && seen.contains(&"renewed".to_owned())) {
        let line = lines.next().expect("more events").expect("a line");
        let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        seen.push(event["event"].as_str().expect("a kind").to_owned());
        text.push_str(&line);
    }
    for secret in gbdx.secrets() {
        assert!(!text.contains(&secret), "a secret is in an event");
    }
    drop(daemon);
    assert_eq!(events.wait().expect("waited").code(), Some(1), "it ends with the daemon");
}

#[test]
fn the_log_is_changed_while_it_runs() {
    let (_gbdx, home, address) = gbdx_home();
    let daemon = home.start();
    assert!(home.run(&["log", "error"]).status.success());
    assert_eq!(words(&home.run(&["log"])), "error\n");
    let before = daemon.log().len();
    get(&address, "/nothing").expect("an answer");
    assert_eq!(daemon.log().len(), before, "{}", &daemon.log()[before..]);
    assert_eq!(home.run(&["log", "valetd=loud"]).status.code(), Some(1));
    assert!(home.run(&["log", "debug"]).status.success());
    get(&address, "/nothing").expect("an answer");
    eventually("the request is logged", || daemon.log()[before..].contains("not carried out").then_some(()));
}

#[test]
fn doctor_finds_nothing_where_nothing_is_wrong_and_the_cause_where_something_is() {
    let (gbdx, home, address) = gbdx_home();
    let doctor = |wanted: Option<i32>| {
        let output = home.run(&["doctor", "--json"]);
        assert_eq!(output.status.code(), wanted, "{}", words(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((report["schema"].as_u64(), report["ok"].as_bool()), (Some(1), Some(wanted == Some(0))));
        report["findings"].as_array().expect("findings").clone()
    };
    let failing = |findings: &[serde_json::Value], check: &str| {
        findings.iter().any(|finding| finding["check"] == check && finding["level"] == "fail")
    };
    assert!(failing(&doctor(Some(1)), "daemon"), "no daemon runs yet");
    let holder = std::net::TcpListener::bind(&address).expect("the port");
    let taken = doctor(Some(1));
    assert!(failing(&taken, "address"), "{taken:#?}");
    let named = format!("process {}", std::process::id());
    assert!(taken.iter().any(|finding| finding["says"].as_str().is_some_and(|says| says.contains(&named))));
    drop(holder);
    let daemon = home.start();
    assert!(failing(&doctor(Some(1)), "account"), "nobody is signed in");
    let spent = gbdx.log().token_calls.len();
    login(&home);
    daemon.until("gbdx", "usable");
    let fine = doctor(Some(0));
    for check in ["config", "credentials", "daemon", "address", "guard", "token server", "upstream", "clock", "account"]
    {
        let found = fine.iter().any(|finding| finding["check"] == check && finding["level"] == "ok");
        assert!(found, "{check}: {fine:#?}");
    }
    assert_eq!(gbdx.log().outcomes("issued"), spent + 2, "a login and its renewal, nothing by the doctor");
}

#[test]
fn exec_hands_on_the_environment_the_exit_code_and_the_lack_of_a_command() {
    let (_gbdx, home, address) = gbdx_home();
    let _daemon = home.start();
    let unsigned = home.run(&["exec", "-r", "gbdx", "--", "true"]);
    assert_eq!(unsigned.status.code(), Some(3), "{}", words(&unsigned));
    login(&home);
    let output = home.run(&["exec", "--", "sh", "-c", "echo $VALETD_URL $GBDX_RDA_URL; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(words(&output), format!("http://{address} http://{address}/gbdx-rda\n"));
    let output =
        home.run(&["exec", "-r", "gbdx", "--", "sh", "-c", "echo ${GBDX_URL#$VALETD_URL} $GBDX_RDA_URL; exit 7"]);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(7), "/gbdx\n"));
    assert!(words(&output).contains("leads to the address"), "the preset's interception is left out, in words");
    assert_eq!(home.run(&["exec", "--", "/nowhere/command"]).status.code(), Some(127));
    assert_eq!(home.run(&["exec", "-r", "gdbx", "--", "true"]).status.code(), Some(1));
}

#[test]
fn a_service_manager_hears_that_it_is_ready_how_it_stands_and_that_it_lives() {
    let (_gbdx, home, _) = gbdx_home();
    let manager = UnixDatagram::bind(home.path("notify")).expect("bound");
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut child = home
        .valetd(&["run"])
        .env("NOTIFY_SOCKET", home.path("notify"))
        .env("WATCHDOG_USEC", "400000")
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut heard = String::new();
    let expected = ["READY=1", "STATUS=1 account, 1 must be signed in to (see valetd status)", "WATCHDOG=1"];
    let mut beats = 0;
    while beats < 3 || !expected.iter().all(|words| heard.contains(words)) {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).expect("another word");
        let words = String::from_utf8_lossy(&buffer[..length]).into_owned();
        beats += usize::from(words.contains("WATCHDOG=1"));
        heard.push_str(&words);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn a_request_that_waits_for_a_token_when_the_stop_begins_is_answered_all_the_same() {
    let (gbdx, home, address) = gbdx_home();
    let mut daemon = home.start();
    login(&home);
    assert!(daemon.signal("TERM").success());
    gbdx.behave(Behaviour::Status(500, "{}".to_owned(), Vec::new()), Some(2));
    let before = gbdx.log().token_calls.len();
    let mut daemon = home.start();
    let asked = std::thread::spawn(move || get(&address, "/gbdx/auth/v1/validate_token"));
    eventually("a renewal has failed while the request waits", || {
        let waits = daemon.status()["routes"].as_array()?.iter().any(|route| route["open"] == 1);
        (waits && gbdx.log().token_calls.len() > before).then_some(())
    });
    assert!(daemon.signal("TERM").success());
    assert_eq!(asked.join().expect("asked").expect("an answer").status, 200, "{}", daemon.log());
}
