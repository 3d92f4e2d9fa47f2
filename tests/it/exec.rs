//! What `valetd exec` hands down to a command: a key for some routes, and nothing that can do more than the key.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use valetd::stand_in::{Options, Provider};

use crate::support::keys;
use crate::support::lab::{self, Server, address};
use crate::support::upstreams::read_head;
use crate::support::{Daemon, Home, Killed, eventually, send, words};

/// What a thief would ask the daemon for: a lasting key, and the place of somebody's login.
fn thefts() -> String {
    let key = r#"{"name": "stolen", "routes": ["lab"]}"#;
    let login = r#"{"refresh_token": "stolen", "identity": "thief"}"#;
    let request =
        |head: &str, body: &str| format!("{head} HTTP/1.1\r\nHost: v\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    request("POST /v1/keys", key) + &request("PUT /v1/accounts/lab/credential", login)
}

/// Fails if any of [`thefts`] was carried out.
fn nothing_is_stolen(home: &Home) {
    assert!(!home.path("state/valetd/client.keys.json").exists(), "a lasting key was made");
    for entry in fs::read_dir(home.path("state/valetd")).expect("the state folder") {
        let text = fs::read_to_string(entry.expect("an entry").path()).unwrap_or_default();
        assert!(!text.contains("thief"), "a login was replaced");
    }
}

/// When a thief speaks on the line that keeps a key alive.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// In one piece with the order for the key.
    WithTheOrder,
    /// Without waiting for the answer.
    BehindTheOrder,
    /// Once the key is there.
    AfterTheAnswer,
    /// All the time, from the answer until the line is dead.
    AllTheTime,
}

#[test]
fn the_line_that_keeps_a_key_alive_carries_no_authority_whatever_happens_to_the_daemon() {
    use Moment::{AfterTheAnswer, AllTheTime, BehindTheOrder, WithTheOrder};
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    for round in 0..16 {
        let moment = [WithTheOrder, BehindTheOrder, AfterTheAnswer, AllTheTime][round % 4];
        let mut daemon = home.start();
        let (line, mut answer, _) = hold(&daemon, &format!("HTTP/1.{}", round / 4 % 2), moment);
        let speaker = thread::spawn(move || {
            let mut line = line;
            match moment {
                WithTheOrder | BehindTheOrder => {}
                AfterTheAnswer => drop(line.write_all(thefts().as_bytes())),
                AllTheTime => while line.write_all(thefts().as_bytes()).is_ok() {},
            }
            line
        });
        if round % 2 == 0 {
            assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
        }
        let signal = if round % 5 == 4 { "KILL" } else { "TERM" };
        daemon.signal(signal);
        // held until here: no end of the line helped
        let line = speaker.join().expect("the thief");
        let mut said = Vec::new();
        let _ = answer.read_to_end(&mut said); // where something was sent that nobody read, it ends with a reset
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains("HTTP/1.1 "), "round {round}, {moment:?}: there was another answer: {said}");
        drop(line);
        nothing_is_stolen(&home);
    }
    let daemon = home.start();
    assert!(daemon.control("GET", "/v1/keys").expect("the keys").json()["keys"].as_array().expect("a list").is_empty());
    assert_ne!(daemon.account("lab")["credential"]["identity"], "thief");
}

#[test]
fn a_command_cannot_make_the_line_of_its_key_speak_as_whichever_user_it_runs() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let asked = home.path("thefts");
    fs::write(&asked, thefts()).expect("written");
    let mut users: Vec<&[&str]> = vec![&[]];
    match rustix::process::geteuid().is_root() && Command::new("setpriv").arg("--version").output().is_ok() {
        true => users.push(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]),
        false => eprintln!("skipped: another user, as this is not root or setpriv is not installed"),
    }
    // speaks on everything that it was handed, and says for which descriptors there is nobody to take it
    let script = "asked=$(cat; echo x); asked=${asked%x}; trap '' PIPE; exec 0</dev/null\n\
                  for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ -S /proc/$$/fd/$fd ] && lines+=($fd); done\n\
                  echo ${#lines[@]} line\n\
                  while :; do for fd in ${lines[@]}; do printf %s \"$asked\" 2>/dev/null >&$fd; done; sleep 0.01; done";
    for round in 0..6 {
        let mut daemon = home.start();
        daemon.until("lab", "usable");
        let user = users[round % users.len()];
        let mut child = exec(&home, &[&["-r", "lab", "--"], user, &["bash", "-c", script]].concat(), &asked);
        let mut said = BufReader::new(child.0.stdout.take().expect("piped"));
        let mut first = String::new();
        said.read_line(&mut first).expect("it speaks");
        assert_eq!(first, "1 line\n", "{user:?}");
        if round % 2 == 0 {
            assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
        }
        daemon.signal(if round == 5 { "KILL" } else { "TERM" });
        assert_eq!(child.0.try_wait().expect("asked"), None, "the command goes on");
        drop(child);
        nothing_is_stolen(&home);
    }
}

#[test]
fn what_is_sent_behind_a_request_for_events_is_no_request_when_they_end() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    for round in 0..8 {
        let mut daemon = home.start();
        let (mut line, mut answer) = keys::line(&home);
        let request = "GET /v1/events HTTP/1.1\r\nHost: v\r\n\r\n";
        let (now, later) = if round % 2 == 0 { (thefts(), String::new()) } else { (String::new(), thefts()) };
        line.write_all((request.to_owned() + &now).as_bytes()).expect("sent");
        let mut first = String::new();
        answer.read_line(&mut first).expect("an answer");
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        let _ = line.write_all(later.as_bytes());
        daemon.signal("TERM");
        let mut said = Vec::new();
        let _ = answer.read_to_end(&mut said);
        assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1 "), "there was another answer");
        nothing_is_stolen(&home);
    }
}

#[test]
fn an_ephemeral_key_is_answered_to_curl_as_a_body_that_ends_with_the_daemon() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    for (version, framing) in [("HTTP/1.1", "transfer-encoding: chunked"), ("HTTP/1.0", "connection: close")] {
        let mut daemon = home.start();
        daemon.until("lab", "usable");
        let (line, mut answer, made) = hold(&daemon, version, Moment::AfterTheAnswer);
        assert!(made.head.contains(framing), "{}", made.head);
        assert_eq!(made.head.contains("chunked"), version == "HTTP/1.1");
        let keyed = || send(&address(&daemon), "GET", "/lab/datasets", &[("X-Valetd-Key", &made.key)], b"");
        assert_eq!(keyed().expect("an answer").status, 200);
        // half of the line is enough: what its maker does not want to say any more was not heard anyway
        line.shutdown(std::net::Shutdown::Write).expect("shut down");
        assert_eq!(keyed().expect("an answer").status, 200);
        daemon.signal("TERM");
        let mut rest = String::new();
        answer.read_to_string(&mut rest).expect("it ends in good order");
        assert_eq!(rest.trim_start(), if version == "HTTP/1.1" { "0\r\n\r\n" } else { "" });
    }
}

#[test]
fn a_key_lives_as_long_as_the_last_process_that_inherited_it_and_no_longer() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let valid = |key: &str| {
        send(&address(&daemon), "GET", "/lab/datasets", &[("X-Valetd-Key", key)], b"").expect("an answer").status == 200
    };
    let ends = |what: &str, key: &str| eventually(what, || (!valid(key)).then_some(()));
    // a child that outlives the command
    let script = "echo $VALETD_KEY; sleep 1000 >/dev/null 2>&1 & echo $!";
    let output = home.run(&["exec", "-r", "lab", "--", "sh", "-c", script]);
    assert!(output.status.success(), "{}", words(&output));
    let said = String::from_utf8(output.stdout).expect("text");
    let [key, child] = said.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{said}") };
    thread::sleep(Duration::from_millis(100)); // nothing is to happen: an end would have been noticed
    assert!(valid(key), "the child has it still");
    assert!(Command::new("kill").args(["-9", child]).status().expect("kill runs").success());
    ends("the key dies with the child", key);
    // a command that closes it, and goes on
    let script = "echo $VALETD_KEY; for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ -S /proc/$$/fd/$fd ] && eval \"exec $fd>&-\"; done; cat";
    let mut command = home.valetd(&["exec", "-r", "lab", "--", "bash", "-c", script]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("valetd runs");
    let mut key = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut key).expect("a key");
    ends("the key dies with its line", key.trim());
    assert_eq!(child.try_wait().expect("asked"), None, "the command goes on");
    assert_eq!(lab::ping(&address(&daemon)).status, 200, "and so does the daemon");
    drop(child.stdin.take());
    assert!(child.wait().expect("waited").success());
}

#[test]
fn a_command_inherits_the_line_of_its_key_and_programs_that_the_daemon_starts_inherit_nothing() {
    let server = Server::start(Provider::Gdh, Options::default());
    let seen = tempfile::tempdir().expect("a folder");
    let list = "for fd in /proc/$$/fd/*; do echo ${fd##*/} $(readlink $fd); done";
    let look = |name: &str| {
        let file = seen.path().join(name).display().to_string();
        format!("[\"sh\", \"-c\", \"({list}) > {file}.new; mv {file}.new {file}; echo hidden\"]")
    };
    let descriptors = |text: &str| -> Vec<(u32, bool)> {
        let row = |line: &str| {
            let (number, leads_to) = line.split_once(' ')?;
            Some((number.parse().ok()?, leads_to.starts_with("socket:")))
        };
        text.lines().filter_map(row).collect()
    };
    // whoever runs this test may have left some open
    let usual = Command::new("sh").args(["-c", list]).stdin(Stdio::null()).output().expect("sh runs");
    let usual: Vec<u32> = descriptors(&words(&usual)).into_iter().map(|(number, _)| number).collect();
    let account = format!("client_auth = \"post\"\nclient_secret = {{ command = {} }}", look("secret"));
    let top = format!("notice = {{ command = {} }}", look("notice"));
    let home = Home::with(&lab::config(&server, &account, "", &top));
    let daemon = home.start();
    let open =
        |name: &str| descriptors(&eventually("it was started", || fs::read_to_string(seen.path().join(name)).ok()));
    let is_usual = |(number, _): &(u32, bool)| usual.contains(number);
    lab::sign_in(&home, &server.sign_in());
    assert!(open("secret").iter().all(is_usual), "{:?}", open("secret"));
    daemon.until("lab", "usable");
    server.revoke_refresh_tokens();
    lab::renew(&daemon);
    assert!(open("notice").iter().all(is_usual), "{:?}", open("notice"));
    let output = home.run(&["exec", "--timeout", "1s", "--", "sh", "-c", list]);
    let more: Vec<_> = descriptors(&words(&output)).into_iter().filter(|row| !is_usual(row)).collect();
    assert!(matches!(more[..], [(_, true)]), "the line of its key, and nothing else: {more:?}");
}

// --- the stage -------------------------------------------------------------------------------------------------------

/// What a key was answered with.
struct Made {
    head: String,
    key: String,
}

/// Orders an ephemeral key by hand. Returns its line, the end to read from, and the answer.
fn hold(daemon: &Daemon<'_>, version: &str, moment: Moment) -> (UnixStream, BufReader<UnixStream>, Made) {
    let (mut line, mut answer) = keys::line(daemon.home);
    let order = keys::ephemeral_order(version);
    match moment {
        Moment::WithTheOrder => line.write_all((order + &thefts()).as_bytes()).expect("sent"),
        Moment::BehindTheOrder => {
            line.write_all(order.as_bytes()).expect("sent");
            let _ = line.write_all(thefts().as_bytes());
        }
        Moment::AfterTheAnswer | Moment::AllTheTime => line.write_all(order.as_bytes()).expect("sent"),
    }
    let head = read_head(&mut answer).expect("a head");
    assert!(head.starts_with(&format!("{version} 201 ")), "{head}");
    let key = keys::ordered(&mut answer);
    (line, answer, Made { head, key })
}

/// Starts a command under `valetd exec`, with a file as its standard input.
fn exec(home: &Home, arguments: &[&str], input: &Path) -> Killed {
    let mut command = home.valetd(&[&["exec"], arguments].concat());
    command.stdin(fs::File::open(input).expect("the input")).stdout(Stdio::piped());
    Killed(command.spawn().expect("valetd runs"))
}
