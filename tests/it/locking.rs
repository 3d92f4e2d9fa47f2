//! A lock by itself: for want of requests, with the screen of a session of this user, before the machine sleeps. A stand-in
//! of logind is on a system bus of the story's own.

use std::collections::HashMap;
use std::fs;
use std::future::poll_fn;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::oneshot;
use valetd::stand_in::{Provider, Rotation};
use zbus::{Connection, MessageStream, ObjectPath, Variant};

use crate::support::lab::{self, Server, address, ping, rotating};
use crate::support::{Daemon, Home, Killed, eventually, words};

const LOGIND: &str = "org.freedesktop.login1";
const OURS: &str = "/org/freedesktop/login1/session/_31";
const OTHERS: &str = "/org/freedesktop/login1/session/_32";

/// A stand-in of logind, on a bus of its own.
struct Logind {
    runtime: tokio::runtime::Handle,
    connection: Connection,
    /// Dropped, it ends the runtime.
    _end: oneshot::Sender<()>,
    /// The other end of what each caller of `Inhibit` holds.
    delays: mpsc::Receiver<PipeReader>,
    address: String,
    _bus: Killed,
}

impl Logind {
    /// `None` where no bus can be started.
    fn start(home: &Home) -> Option<Self> {
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--print-address=1"]).stdout(Stdio::piped()).stderr(Stdio::null());
        home.settle(&mut command);
        let Ok(child) = command.spawn() else {
            eprintln!("skipped: there is no dbus-daemon (apt install dbus)");
            return None;
        };
        let mut bus = Killed(child);
        let mut line = String::new();
        BufReader::new(bus.0.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
        let address = line.trim().to_owned();
        let (sender, delays) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let at = address.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
            runtime.block_on(async {
                let builder = zbus::connection::Builder::address(at.as_str());
                let connection = builder.build().await.expect("the bus answers");
                let serving = tokio::spawn(serve(connection.clone(), sender));
                connection.request_name(LOGIND).await.expect("nobody has it");
                ready.send((tokio::runtime::Handle::current(), connection)).expect("somebody waits");
                let _ = ended.await;
                serving.abort();
            });
        });
        let (runtime, connection) = is_ready.recv().expect("it is ready");
        Some(Self { runtime, connection, _end: end, delays, address, _bus: bus })
    }

    fn daemon<'h>(&self, home: &'h Home) -> Daemon<'h> {
        let mut command = home.valetd(&["run"]);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        home.start_as(command)
    }

    /// The daemon's hold on the next sleep.
    fn delay(&self) -> PipeReader {
        self.delays.recv_timeout(Duration::from_secs(30)).expect("somebody has a sleep wait")
    }

    fn sleeps(&self, begins: bool) {
        let path = "/org/freedesktop/login1";
        self.emit(path, "org.freedesktop.login1.Manager", "PrepareForSleep", &begins);
    }

    fn lock_screen(&self, session: &str) {
        let changed = HashMap::from([("LockedHint", Variant::from(true))]);
        let body = ("org.freedesktop.login1.Session", changed, Vec::<&str>::new());
        self.emit(session, "org.freedesktop.DBus.Properties", "PropertiesChanged", &body);
    }

    fn emit(&self, path: &str, interface: &str, member: &str, body: &(impl serde::Serialize + zbus::DynamicType)) {
        let emitted = self.connection.emit_signal(None::<&str>, path, interface, member, body);
        self.runtime.block_on(emitted).expect("sent");
    }
}

async fn serve(connection: Connection, delays: mpsc::Sender<PipeReader>) {
    let mut messages = MessageStream::from(&connection);
    while let Some(Ok(message)) = poll_fn(|cx| Pin::new(&mut messages).poll_next(cx)).await {
        let header = message.header();
        match header.member().map(|member| member.as_str()) {
            Some("ListSessions") => {
                let us = rustix::process::getuid().as_raw();
                let session = |name: &'static str, uid: u32, path: &'static str| {
                    (name, uid, "somebody", "seat0", ObjectPath::try_from(path).expect("a path"))
                };
                let sessions = vec![session("1", us, OURS), session("2", us + 1, OTHERS)];
                connection.reply(&header, &sessions).await.expect("sent");
            }
            Some("Inhibit") => {
                let (reader, writer) = std::io::pipe().expect("a pipe");
                let _ = delays.send(reader);
                connection.reply(&header, &zbus::OwnedFd::from(OwnedFd::from(writer))).await.expect("sent");
            }
            Some(_) | None => {}
        }
    }
}

fn is_locked(daemon: &Daemon<'_>) -> Option<()> {
    let answer = ping(&address(daemon));
    assert!(answer.status == 200 || answer.json()["type"] == "urn:valetd:problem:locked", "{}", answer.text());
    (answer.status == 503).then_some(())
}

#[test]
fn the_screen_of_a_session_of_ours_and_a_sleep_lock_where_that_is_said() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let home = lab::home(&server, lab::EAGER, "", "store.lock = { screen = true, suspend = true }");
    let Some(logind) = Logind::start(&home) else { return };
    let daemon = logind.daemon(&home);
    daemon.until("lab", "usable");
    let mut delay = logind.delay();
    logind.lock_screen(OTHERS);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(is_locked(&daemon), None, "the screen of another user is nothing to us");
    logind.lock_screen(OURS);
    eventually("it is locked", || is_locked(&daemon));
    assert!(home.run(&["unlock"]).status.success());
    assert_eq!(is_locked(&daemon), None);

    logind.sleeps(true);
    // logind waits until this has ended
    let ended = delay.read(&mut [0]).expect("the daemon lets go");
    assert_eq!((ended, is_locked(&daemon)), (0, Some(())), "it is locked before it lets the machine sleep");
    logind.sleeps(false);
    let _next = logind.delay();
    assert_eq!(is_locked(&daemon), Some(()), "it is no more unlocked by waking than by a restart of the screen");
    assert!(home.run(&["unlock"]).status.success());
    assert_eq!(is_locked(&daemon), None);
    assert_eq!(server.log().reuse_detected, 0);
}

#[test]
fn a_while_without_a_request_locks_and_forgets_the_key_where_that_is_said() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let settings = "store = { seal = { file = \"../../key\" }, lock = { idle = \"2s\", all = true } }";
    let home = lab::home(&server, lab::EAGER, "", settings);
    fs::write(home.path("key"), "kq8hUw2D0Zf1Yp6mJt3Rb7Lx5Nc9Vs4E\n").expect("written");
    fs::set_permissions(home.path("key"), fs::Permissions::from_mode(0o600)).expect("mode 0600");
    let sealed = home.run(&["seal", "on"]);
    assert!(sealed.status.success(), "{}", words(&sealed));
    let daemon = home.start();
    for _ in 0..2 {
        daemon.until("lab", "usable");
        let address = address(&daemon);
        // for longer than the limit: a request now and then keeps it open
        for _ in 0..12 {
            assert_eq!(ping(&address).status, 200);
            std::thread::sleep(Duration::from_millis(250));
        }
        let account = eventually("it is locked", || {
            let account = daemon.account("lab");
            (account["usable"] == false).then_some(account)
        });
        assert_eq!(account["next_action"], "valetd unlock", "{account:#}");
        eventually("the key is forgotten", || {
            let store = daemon.status()["daemon"]["store"]["locked"].clone();
            store.as_str().is_some_and(|why| why.contains("has locked itself")).then_some(())
        });
        assert_eq!(ping(&address).status, 503);
        assert!(home.run(&["unlock"]).status.success());
    }
    assert_eq!(server.log().reuse_detected, 0);
}
