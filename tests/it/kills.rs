//! `kill -9` at any moment of a rotation, and disks and folders that are not as they should be: the daemon comes back
//! with the newest credential whose answer had reached it, or says exactly what is wrong.
//!
//! What is judged is the disk after the kill against the server's books. Where the server gives no grace, an answer that
//! never arrived is a login lost that no client can save; that, and nothing else, is reported as "ambiguous".

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use valetd::stand_in::{Behaviour, Provider, Rotation};

use crate::support::disk::SmallDisk;
use crate::support::lab::{self, Server, address, ask_for_renewal, ping};
use crate::support::nobody::is_root;
use crate::support::{Daemon, Home, PATIENCE, eventually, mode, words};

/// Longer than a kill and a restart take.
const GRACE: Rotation = Rotation::Grace(Duration::from_secs(60));

/// What a run of kills did.
#[derive(Default, Debug)]
struct Tally {
    kills: u32,
    /// Renewals that the server carried out.
    rotations: usize,
    /// The server rotated, and its answer was not on the disk when the daemon died.
    answers_lost: u32,
    /// Of those: a person had to sign in again, and was told "ambiguous".
    ambiguous: u32,
}

/// A daemon that is killed again and again.
struct Victim {
    server: Server,
    home: Rc<Home>,
    random: u64,
    tally: Tally,
}

impl Victim {
    fn of(rotation: Rotation, seed: u64) -> Self {
        let server = Server::start(Provider::Gdh, lab::rotating(rotation));
        let home = lab::home(&server, lab::EAGER, "", "");
        Self { server, home: Rc::new(home), random: seed, tally: Tally::default() }
    }

    /// xorshift64: moments, not secrets.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    /// Starts the daemon, finds that nothing was lost that could have been kept, and lets it renew until it is killed at
    /// a random moment.
    fn live_and_die(&mut self) {
        let home = self.home.clone();
        let mut daemon = home.start();
        self.judge(&daemon);
        let moment = Duration::from_micros(self.below(60_000));
        let pid = Pid::from_child(&daemon.child);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(moment); // any moment is right: that is the story
            kill_process(pid, Signal::KILL).expect("it is not waited for yet");
        });
        let mut seen = 0;
        let asked = Asked { home: &home };
        while asked.renewal() {
            seen = asked.saved_generation().unwrap_or(seen);
        }
        killer.join().expect("it kills");
        daemon.child.wait().expect("waited");
        self.died(seen);
    }

    /// The same, killed while it starts: its first renewal is among the first things that it does.
    fn die_young(&mut self) {
        let moment = Duration::from_micros(self.below(120_000));
        let mut child =
            self.home.valetd(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("valetd runs");
        std::thread::sleep(moment); // as above
        let _ = child.kill();
        child.wait().expect("waited");
        self.died(0);
    }

    /// Looks at what a kill has left. `seen` is the last generation that the daemon called saved.
    fn died(&mut self, seen: u64) {
        self.tally.kills += 1;
        let file = read(&self.home);
        assert!(file["generation"].as_u64() >= Some(seen), "called saved: {seen}; on the disk: {file:#}");
    }

    /// Waits for the first verdict after a start, and judges it.
    fn judge(&mut self, daemon: &Daemon<'_>) {
        let account = eventually("the first renewal has ended", || {
            let account = daemon.account("lab");
            ["usable", "sign-in-required"].contains(&account["state"].as_str()?).then_some(account)
        });
        self.tally.rotations = self.server.issued();
        if account["state"] == "usable" {
            return;
        }
        assert_eq!(account["why_code"], "ambiguous", "{account:#}\n{}", daemon.log());
        let kept = read(daemon.home)["refresh_token"].as_str().expect("a refused credential is kept").to_owned();
        assert_ne!(kept, self.server.newest_refresh_token(), "the server's newest was on the disk: an avoidable loss");
        self.tally.ambiguous += 1;
        lab::sign_in(daemon.home, &self.server.sign_in());
        daemon.until("lab", "usable");
    }

    /// Starts the daemon below strace, which kills it at the `nth` call of that name in one of its threads. Returns
    /// whether it came to that.
    fn die_at(&mut self, call: &str, nth: u32) -> bool {
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={nth}"));
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let mut strace = self.home.valetd_by(&strace, &["run"]);
        let mut child = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace runs");
        let (start, end) = (self.server.issued(), Instant::now() + PATIENCE);
        let mut seen = 0;
        let was_hit = loop {
            if child.try_wait().expect("waited").is_some() {
                break true;
            }
            if self.server.issued() >= start + 3 || Instant::now() > end {
                break false;
            }
            let daemon = Asked { home: &self.home };
            if daemon.renewal() {
                seen = daemon.saved_generation().unwrap_or(seen);
            }
            std::thread::sleep(Duration::from_millis(1)); // whoever asks has a processor to itself otherwise
        };
        if !was_hit {
            let lock = fs::read_to_string(self.home.path("state/valetd/lock")).expect("the daemon has the lock");
            let pid = lock.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
            let _ = kill_process(pid.expect("and says who it is"), Signal::KILL);
            child.wait().expect("waited");
        }
        self.died(seen);
        was_hit
    }
}

/// The control socket of a daemon that may die any moment.
struct Asked<'h> {
    home: &'h Home,
}

impl Asked<'_> {
    fn renewal(&self) -> bool {
        self.home.control("POST", "/v1/accounts/lab/refresh").is_ok_and(|answer| answer.status < 300)
    }

    fn saved_generation(&self) -> Option<u64> {
        let account: Value = serde_json::from_slice(&self.home.control("GET", "/v1/accounts/lab").ok()?.body).ok()?;
        let credential = &account["credential"];
        credential["saved"].as_bool().filter(|saved| *saved)?;
        credential["generation"].as_u64()
    }
}

/// What the file says, which must be whole whenever it is looked at.
fn read(home: &Home) -> Value {
    let bytes = fs::read(file(home)).expect("the credential is on the disk");
    serde_json::from_slice(&bytes).expect("and it is whole")
}

impl Victim {
    /// One kill after another until there were enough of both kinds.
    fn survive(&mut self, kills: u32, rotations: usize, at_most: Duration) {
        let start = Instant::now();
        while self.tally.kills < kills || self.tally.rotations < rotations {
            self.live_and_die();
            if self.below(4) == 0 {
                self.die_young();
            }
            self.count_lost_answer();
            // a busy machine has time for fewer
            if start.elapsed() > at_most && self.tally.kills >= 5 {
                break;
            }
        }
        self.last_look();
    }

    fn count_lost_answer(&mut self) {
        let kept = read(&self.home)["refresh_token"].as_str().map(str::to_owned);
        if kept.as_deref() != Some(&self.server.newest_refresh_token()) {
            self.tally.answers_lost += 1;
        }
    }

    /// The last kill, too, is followed by a look.
    fn last_look(&mut self) {
        let home = self.home.clone();
        let mut daemon = home.start();
        self.judge(&daemon);
        assert_eq!(ping(&address(&daemon)).status, 200);
        daemon.signal("TERM");
    }
}

#[test]
fn kills_at_random_moments_lose_nothing_where_the_server_gives_grace() {
    let mut victim = Victim::of(GRACE, 0x5eed_0001);
    victim.survive(24, 0, Duration::from_secs(20));
    assert!(victim.tally.kills >= 5, "{:?}", victim.tally);
    assert_eq!(victim.tally.ambiguous, 0, "{:?}", victim.tally);
    assert_eq!(victim.server.log().reuse_detected, 0, "a spent token was never presented after its grace");
    eprintln!("with grace: {:?}", victim.tally);
}

#[test]
fn kills_at_random_moments_lose_only_what_a_strict_server_never_told_us() {
    let mut victim = Victim::of(Rotation::Strict, 0x5eed_0002);
    victim.survive(20, 0, Duration::from_secs(20));
    assert!(victim.tally.kills >= 5, "{:?}", victim.tally);
    eprintln!("without grace: {:?}", victim.tally);
}

/// Calls of a rotation, and how far each is followed: the writes and names of the store, the exchange with the server,
/// and what the runtime does around them.
const CALLS: [(&str, u32); 12] = [
    ("fsync", 8),
    ("renameat,renameat2,rename", 6),
    ("unlinkat", 8),
    ("openat", 60),
    ("fchmod", 8),
    ("write", 40),
    ("connect", 6),
    ("sendto,sendmsg,writev", 12),
    ("recvfrom,recvmsg,read", 40),
    ("close", 60),
    ("epoll_wait,epoll_pwait", 40),
    ("timerfd_settime,futex", 30),
];

fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: strace is not installed, or nothing can be traced here");
    }
    can
}

#[test]
fn a_kill_at_a_call_of_a_rotation_loses_nothing_where_the_server_gives_grace() {
    if !can_trace() {
        return;
    }
    let mut victim = Victim::of(GRACE, 1);
    let start = Instant::now();
    let mut hits = 0;
    for (call, nth) in
        [("fsync", 1), ("fsync", 2), ("fsync", 3), ("fsync", 4), ("rename,renameat,renameat2", 1), ("unlinkat", 2)]
            .into_iter()
            .chain([("rename,renameat,renameat2", 2), ("connect", 1), ("write,writev,sendto", 3), ("openat", 9)])
    {
        hits += u32::from(victim.die_at(call, nth));
        victim.last_look();
        if start.elapsed() > Duration::from_secs(25) && hits >= 2 {
            break;
        }
    }
    assert!(hits >= 2, "{hits} of the calls were reached");
    assert_eq!(victim.tally.ambiguous, 0, "{:?}", victim.tally);
    eprintln!("at chosen calls: {hits} hits, {:?}", victim.tally);
}

#[test]
#[ignore = "several minutes: every call of a rotation, one by one"]
fn soak_a_kill_at_every_call_of_a_rotation() {
    if !can_trace() {
        return;
    }
    for (name, rotation) in [("with grace", GRACE), ("without grace", Rotation::Strict)] {
        let mut victim = Victim::of(rotation, 1);
        let mut hits = 0;
        for (call, most) in CALLS {
            for nth in 1..=most {
                if !victim.die_at(call, nth) {
                    victim.last_look();
                    break;
                }
                hits += 1;
                victim.count_lost_answer();
                victim.last_look();
            }
        }
        eprintln!("{name}: {hits} kills at calls, {:?}", victim.tally);
        assert!(rotation == Rotation::Strict || victim.tally.ambiguous == 0);
    }
}

#[test]
#[ignore = "several minutes: 1,000 rotations with 250 kills, with and without grace"]
fn soak_a_thousand_rotations_with_kills() {
    for (name, rotation) in [("with grace", GRACE), ("without grace", Rotation::Strict)] {
        let mut victim = Victim::of(rotation, 0xdead_0000 + u64::from(std::process::id()));
        victim.survive(250, 1_000, Duration::from_secs(3_600));
        eprintln!("{name}: {:?}", victim.tally);
        assert!(victim.tally.kills >= 250 && victim.tally.rotations >= 1_000);
        assert!(rotation == Rotation::Strict || victim.tally.ambiguous == 0);
    }
}

#[test]
fn a_daemon_that_is_told_to_stop_saves_the_rotation_that_is_under_way() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Strict));
    let home = lab::home(&server, lab::EAGER, "", "");
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    server.behave(Behaviour::SlowDrip(Duration::from_millis(1)), Some(1));
    let before = server.issued();
    assert!(ask_for_renewal(&daemon));
    eventually("the server has rotated", || (server.issued() == before + 1).then_some(()));
    let status = daemon.signal("TERM");
    assert!(status.success(), "{status}");
    assert_eq!(read(&home)["refresh_token"], server.newest_refresh_token());
    assert_eq!(read(&home)["redeeming"], false);
}

// ---- disks and folders ------------------------------------------------------------------------------------------

fn file(home: &Home) -> PathBuf {
    home.path("state/valetd/lab.json")
}

#[test]
fn on_a_full_disk_no_refresh_token_that_rotates_is_spent_and_making_room_mends_it() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Strict));
    let home = Home::with(&lab::config(&server, lab::EAGER, "", ""));
    let Some(disk) = SmallDisk::at(&home.path("state/valetd"), "256k") else { return };
    lab::sign_in(&home, &server.sign_in());
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    let filler = disk.folder.join("filler");
    let filled = fs::write(&filler, vec![0; 1 << 20]);
    assert!(filled.is_err(), "the disk is full now");
    let before = server.issued();
    let refresh = home.run(&["refresh", "lab"]);
    let said = words(&refresh);
    assert!(!refresh.status.success() && said.contains("is not spent") && said.contains("make room"), "{said}");
    assert_eq!(server.issued(), before, "the server was not asked");
    assert_eq!(ping(&address(&daemon)).status, 200, "the token in hand is as good as it was");
    daemon.until_logged("nothing can be saved");
    assert_eq!(daemon.account("lab")["last_failure"]["class"], "not-saved");
    // a kill loses nothing
    daemon.child.kill().expect("killed");
    daemon.child.wait().expect("waited");
    assert_eq!(read(&home)["refresh_token"], server.newest_refresh_token());
    assert_eq!(read(&home)["redeeming"], false);
    let daemon = home.start();
    let response = ping(&address(&daemon));
    let said = String::from_utf8_lossy(&response.body).into_owned();
    assert!(response.status == 503 && said.contains("make room"), "{} {said}", response.status);
    assert_eq!(server.issued(), before);
    fs::remove_file(filler).expect("removed");
    daemon.until("lab", "usable");
    let kept = read(&home)["refresh_token"].as_str().expect("a token").to_owned();
    assert_eq!(kept, server.newest_refresh_token());
    assert_eq!(server.log().reuse_detected, 0);
}

#[test]
fn a_read_only_state_folder_still_signs_in_where_refresh_tokens_are_not_rotated_and_says_that_it_saves_nothing() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = Home::with(&lab::config(&server, lab::EAGER, "", ""));
    let Some(disk) = SmallDisk::at(&home.path("state/valetd"), "256k") else { return };
    lab::sign_in(&home, &server.sign_in());
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    eventually("it is known that the server does not rotate", || (read(&home)["unrotated"] == true).then_some(()));
    daemon.signal("TERM");
    disk.remount("ro");
    let daemon = home.start();
    daemon.until("lab", "usable");
    daemon.until_logged("its file system is read-only");
    assert_eq!(ping(&address(&daemon)).status, 200);
    let logout = home.run(&["logout", "lab"]);
    assert_eq!(logout.status.code(), Some(1), "what cannot be forgotten is no success: {}", words(&logout));
    assert!(words(&logout).contains("told to revoke it all the same"), "{}", words(&logout));
    eventually("it is revoked", || (server.log().outcomes("revoked") == 1).then_some(()));
    let doctor = home.run(&["doctor"]);
    assert!(words(&doctor).contains("nothing can be saved in"), "{}", words(&doctor));
}

#[test]
fn where_a_read_only_disk_has_no_state_yet_the_disk_is_named_and_not_a_missing_file() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    for state in ["", "lock-less", "none/of/it"] {
        let home = Home::with(&lab::config(&server, lab::EAGER, "", ""));
        let Some(disk) = SmallDisk::at(&home.path("disk"), "256k") else { return };
        fs::create_dir(disk.folder.join("lock-less")).expect("a folder");
        disk.remount("ro");
        let folder = disk.folder.join(state);
        let folder = folder.to_str().expect("UTF-8");
        for verb in
            [&["run"][..], &["login", "lab", "--code", "0f8fad5b-d9cb-469f-a165-70867728950e"], &["logout", "lab"]]
        {
            let outcome = home.run(&[verb, &["--state-dir", folder]].concat());
            let words = words(&outcome);
            assert!(
                !outcome.status.success() && words.contains("file system is read-only"),
                "{verb:?} {state:?}: {words}"
            );
            assert!(
                words.contains("mount it writable") && !words.contains("No such file"),
                "{verb:?} {state:?}: {words}"
            );
        }
        let doctor = home.run(&["doctor", "--state-dir", folder]);
        assert!(words(&doctor).contains("nothing can be saved in"), "{}", words(&doctor));
    }
}

#[test]
fn permissions_that_others_could_use_are_closed_and_said_aloud() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = lab::home(&server, "", "", "");
    for (path, bits) in [(home.path("state/valetd"), 0o755), (file(&home), 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).expect("a mode");
    }
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!((mode(&home.path("state/valetd")), mode(&file(&home))), (0o700, 0o600));
    let warnings = daemon.status()["daemon"]["warnings"].to_string();
    assert!(warnings.contains("0755") && warnings.contains("0644"), "{warnings}");
}

/// A daemon whose file cannot be used: what the status says of the account.
fn unusable(home: &Home, class: &str) -> (Value, String) {
    let daemon = home.start();
    let account = daemon.until("lab", "sign-in-required");
    assert_eq!(account["last_failure"]["class"], class, "{account:#}");
    let status = home.run(&["status"]);
    assert_eq!(status.status.code(), Some(3), "{}", words(&status));
    daemon.until_logged("the stored credential cannot be used");
    let why = account["why"].as_str().unwrap_or_default().to_owned();
    (account, why)
}

#[test]
fn a_file_of_somebody_else_is_not_believed() {
    if !is_root() {
        return;
    }
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = lab::home(&server, "", "", "");
    chown(file(&home), Some(65_534), None).expect("root can");
    let (_, why) = unusable(&home, "in-the-way");
    assert!(why.contains("belongs to another user (uid 65534)"), "{why}");
    assert_eq!(server.issued(), 0, "nothing was sent");
}

#[test]
fn a_symbolic_link_in_place_of_the_file_is_neither_read_nor_written_through() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = lab::home(&server, "", "", "");
    let elsewhere = home.path("elsewhere.json");
    fs::rename(file(&home), &elsewhere).expect("moved");
    symlink(&elsewhere, file(&home)).expect("linked");
    let before = fs::read(&elsewhere).expect("read");
    let (_, why) = unusable(&home, "in-the-way");
    assert!(why.contains("is a symbolic link"), "{why}");
    let login = home.run_with_input(&["login", "lab", "--refresh-token-stdin", "--untried"], server.sign_in().expose());
    assert!(!login.status.success(), "{}", words(&login));
    assert!(words(&login).contains("is a symbolic link: move it away"), "{}", words(&login));
    assert_eq!(fs::read(&elsewhere).expect("read"), before);
}

#[test]
fn half_a_file_is_kept_aside_and_a_new_sign_in_takes_its_place() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = lab::home(&server, "", "", "");
    let whole = fs::read(file(&home)).expect("read");
    fs::write(file(&home), &whole[..whole.len() / 2]).expect("written");
    let (_, why) = unusable(&home, "unreadable");
    assert!(why.contains("it is kept as lab.json.corrupt-1"), "{why}");
    assert_eq!(fs::read(home.path("state/valetd/lab.json.corrupt-1")).expect("kept"), &whole[..whole.len() / 2]);
    lab::sign_in(&home, &server.sign_in());
    home.start().until("lab", "usable");
}

#[test]
fn a_file_that_is_mended_is_read_again_by_a_reload() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = lab::home(&server, "", "", "");
    let aside = home.path("aside.json");
    fs::rename(file(&home), &aside).expect("moved");
    fs::create_dir(file(&home)).expect("a folder in its place");
    let daemon = home.start();
    let why = daemon.until("lab", "sign-in-required")["why"].to_string();
    assert!(why.contains("is not a plain file"), "{why}");
    fs::remove_dir(file(&home)).expect("removed");
    fs::rename(&aside, file(&home)).expect("moved back");
    let reload = home.run(&["reload"]);
    assert!(reload.status.success(), "{}", words(&reload));
    daemon.until("lab", "usable");
}

#[test]
fn a_file_of_a_later_version_is_left_alone_also_by_a_sign_in() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = lab::home(&server, "", "", "");
    let later = fs::read_to_string(file(&home)).expect("read").replace("\"version\": 1", "\"version\": 99");
    fs::write(file(&home), &later).expect("written");
    let (_, why) = unusable(&home, "in-the-way");
    assert!(why.contains("was written by a later valetd (format 99"), "{why}");
    let login = home.run_with_input(&["login", "lab", "--refresh-token-stdin", "--untried"], server.sign_in().expose());
    assert!(!login.status.success() && words(&login).contains("later valetd"), "{}", words(&login));
    assert_eq!(fs::read_to_string(file(&home)).expect("read"), later);
}

#[test]
fn a_state_folder_that_is_not_ours_is_refused_with_words() {
    let server = Server::start(Provider::Gdh, lab::rotating(Rotation::Off));
    let home = lab::home(&server, "", "", "");
    let (folder, moved) = (home.path("state/valetd"), home.path("moved"));
    fs::rename(&folder, &moved).expect("moved");
    symlink(&moved, &folder).expect("linked");
    let output = home.run(&["run"]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert!(words(&output).contains("symbolic link"), "{}", words(&output));
    if is_root() {
        fs::remove_file(&folder).expect("removed");
        fs::rename(&moved, &folder).expect("moved back");
        chown(&folder, Some(65_534), None).expect("root can");
        let output = home.run(&["run"]);
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        assert!(words(&output).contains("another user") || words(&output).contains("65534"), "{}", words(&output));
        chown(&folder, Some(0), None).expect("root can");
    }
}
