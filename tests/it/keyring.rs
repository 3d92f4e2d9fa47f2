//! Credentials whose key is kept by the keyring of the desktop: a real gnome-keyring on a bus of its own, which is locked,
//! unlocked, restarted and gone. Nobody is prompted, and nothing is started by asking.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use valetd::stand_in::{Provider, Rotation};

use crate::support::lab::{self, Server, address, ping, rotating};
use crate::support::{Daemon, Home, Killed, eventually, words};

/// Whether the programs are there.
fn can_keep() -> bool {
    let missing = ["dbus-daemon", "gnome-keyring-daemon", "gdbus", "secret-tool"].into_iter().find(|program| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    });
    if let Some(program) = missing {
        eprintln!("skipped: there is no {program} (apt install dbus gnome-keyring libglib2.0-bin libsecret-tools)");
    }
    missing.is_none()
}

/// A desktop: a bus, on which a keyring may run, and a home that knows the bus.
struct Desktop {
    server: Server,
    home: Home,
    address: String,
    _bus: Killed,
}

impl Desktop {
    /// A signed-in home whose configuration says this of the seal. The bus could start a keyring, as on a desktop.
    fn new(seal: &str) -> Self {
        let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
        let home = lab::home(&server, lab::EAGER, "", &format!("store.seal = \"{seal}\""));
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--print-address=1"]).stdout(Stdio::piped()).stderr(Stdio::null());
        home.settle(&mut command);
        let mut bus = Killed(command.spawn().expect("dbus-daemon starts"));
        let mut line = String::new();
        BufReader::new(bus.0.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
        Self { server, home, address: line.trim().to_owned(), _bus: bus }
    }

    /// Lets a command be at home on this desktop.
    fn settle(&self, mut command: Command) -> Command {
        self.home.settle(&mut command);
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.settle(self.home.valetd(arguments)).output().expect("it runs")
    }

    fn start(&self) -> Daemon<'_> {
        self.home.start_as(self.settle(self.home.valetd(&["run"])))
    }

    /// Starts a keyring, and opens its login collection with a password, as a login does, unless it is to stay closed.
    fn keyring(&self, unlocks: bool) -> Keyring<'_> {
        let mut command = self.settle(Command::new("gnome-keyring-daemon"));
        command.args(["--foreground", "--components=secrets"]).stdout(Stdio::null()).stderr(Stdio::null());
        if unlocks {
            command.arg("--unlock");
        }
        let mut child = command.stdin(Stdio::piped()).spawn().expect("gnome-keyring-daemon starts");
        let password = if unlocks { "pw" } else { "" };
        child.stdin.take().expect("piped").write_all(password.as_bytes()).expect("written");
        eventually("the keyring runs", || self.has_keyring().then_some(()));
        let keyring = Keyring { desktop: self, child: Killed(child) };
        if unlocks {
            eventually("it has a default collection", || (!keyring.is_locked()).then_some(()));
        }
        keyring
    }

    fn has_keyring(&self) -> bool {
        self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "NameHasOwner", &["org.freedesktop.secrets"])
            .contains("true")
    }

    fn call(&self, interface: &str, path: &str, method: &str, arguments: &[&str]) -> String {
        let destination = if interface == "org.freedesktop.DBus" { interface } else { "org.freedesktop.secrets" };
        let mut command = self.settle(Command::new("gdbus"));
        command.args(["call", "--session", "--dest", destination, "--object-path", path, "--method"]);
        command.arg(format!("{interface}.{method}")).args(arguments);
        words(&command.output().expect("gdbus runs"))
    }

    /// How many keys of a store are in the keyring, and the value of one.
    fn kept(&self) -> (usize, String) {
        let mut command = self.settle(Command::new("secret-tool"));
        command.args(["search", "--all", "application", "valetd"]);
        let found = command.output().expect("secret-tool runs");
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        let mut values = text.lines().filter_map(|line| line.strip_prefix("secret = "));
        (values.clone().count(), values.next_back().unwrap_or_default().to_owned())
    }

    /// Waits until the store is said to be locked for this reason: at a start, nobody has asked yet.
    fn until_locked(&self, reason: &str) {
        let locked = || -> Value {
            let output = self.run(&["seal", "--json"]);
            serde_json::from_slice::<Value>(&output.stdout).expect("a JSON document")["locked"].clone()
        };
        eventually(reason, || locked().as_str().is_some_and(|why| why.contains(reason)).then_some(()));
    }
}

/// A keyring that runs until it is dropped.
struct Keyring<'d> {
    desktop: &'d Desktop,
    child: Killed,
}

const NAME: &str = "org.freedesktop.secrets";
const ROOT: &str = "/org/freedesktop/secrets";
const SERVICE: &str = "org.freedesktop.Secret.Service";
const LOGIN: &str = "/org/freedesktop/secrets/collection/login";

impl Keyring<'_> {
    fn is_locked(&self) -> bool {
        let interface = "org.freedesktop.DBus.Properties";
        let asked = ["org.freedesktop.Secret.Collection", "Locked"];
        !self.desktop.call(interface, LOGIN, "Get", &asked).contains("false")
    }

    fn lock(&self) {
        self.desktop.call(SERVICE, ROOT, "Lock", &[&format!("['{LOGIN}']")]);
        eventually("it is locked", || self.is_locked().then_some(()));
    }

    /// Without a prompt: by the interface that gnome-keyring has for its own tests.
    fn unlock(&self) {
        const INTERNAL: &str = "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface";
        const METHOD: &str = "UnlockWithMasterPassword";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let builder = zbus::connection::Builder::address(self.desktop.address.as_str());
            let bus = builder.build().await.expect("the bus answers");
            let order = ("plain", zbus::Variant::from(""));
            let opened = bus.call_method(Some(NAME), ROOT, Some(SERVICE), "OpenSession", &order).await;
            let opened = opened.expect("the keyring answers");
            type Opened = (zbus::OwnedVariant, zbus::OwnedObjectPath);
            let (_, session): Opened = opened.body().deserialize().expect("a session");
            let login = zbus::ObjectPath::try_from(LOGIN).expect("a path");
            let none: Vec<u8> = Vec::new();
            let secret = (zbus::ObjectPath::from(session), none, b"pw".to_vec(), "text/plain");
            let unlocked = bus.call_method(Some(NAME), ROOT, Some(INTERNAL), METHOD, &(login, secret)).await;
            unlocked.expect("the password is right");
        });
        eventually("it is unlocked", || (!self.is_locked()).then_some(()));
    }

    fn end(mut self) {
        self.child.0.kill().expect("killed");
        self.child.0.wait().expect("waited for");
        eventually("it is gone", || (!self.desktop.has_keyring()).then_some(()));
    }
}

#[test]
fn a_key_in_the_keyring_opens_the_store_when_that_is_unlocked_and_is_away_while_it_is_locked_or_gone() {
    if !can_keep() {
        return;
    }
    let desktop = Desktop::new("secret-service");
    let home = &desktop.home;
    // nothing is started by asking, though the bus could
    let refused = desktop.run(&["seal", "on"]);
    assert!(!refused.status.success() && words(&refused).contains("no keyring is running"), "{}", words(&refused));
    assert!(!desktop.has_keyring(), "it was started by asking");

    let keyring = desktop.keyring(true);
    let sealed = desktop.run(&["seal", "on"]);
    assert!(words(&sealed).contains("kept by: secret-service"), "{}", words(&sealed));
    let (count, key) = desktop.kept();
    assert_eq!((count, key.len()), (1, 43), "32 bytes");
    let stored = fs::read_to_string(home.path("state/valetd/lab.json")).expect("a record")
        + &fs::read_to_string(home.path("state/valetd/seal.keys.json")).expect("a ring");
    assert!(!stored.contains(&key) && !stored.contains(&desktop.server.newest_refresh_token()), "{stored}");
    let daemon = desktop.start();
    daemon.until("lab", "usable");
    // what is open stays open, and the keyring is not needed for a renewal
    keyring.lock();
    lab::renew(&daemon);
    assert_eq!(ping(&address(&daemon)).status, 200);
    let refused = desktop.run(&["seal", "rotate"]);
    assert!(words(&refused).contains("the keyring is locked"), "{}", words(&refused));
    drop(daemon);

    // locked at the start: nothing is lost, and the unlock is heard
    let daemon = desktop.start();
    daemon.until("lab", "store-locked");
    desktop.until_locked("the keyring is locked");
    // long enough for the pauses between two questions to be longer than what is measured
    std::thread::sleep(std::time::Duration::from_millis(3500));
    let before = std::time::Instant::now();
    keyring.unlock();
    daemon.until("lab", "usable");
    let took = before.elapsed();
    assert!(took < std::time::Duration::from_secs(3), "it was heard after {took:?}");
    drop(daemon);

    // gone, and back in another process
    keyring.end();
    let daemon = desktop.start();
    daemon.until("lab", "store-locked");
    desktop.until_locked("no keyring is running");
    assert!(!desktop.has_keyring(), "it was started by asking");
    let keyring = desktop.keyring(true);
    daemon.until("lab", "usable");

    // another key takes the place of the first one, there too
    assert!(desktop.run(&["seal", "rotate"]).status.success());
    let (count, other) = desktop.kept();
    assert_eq!(count, 1, "the old one is forgotten");
    assert_ne!(other, key);
    drop(daemon);
    let daemon = desktop.start();
    daemon.until("lab", "usable");
    drop(daemon);

    // a keyring that is open and has no such key says that it is gone
    let mut command = desktop.settle(Command::new("secret-tool"));
    assert!(command.args(["clear", "application", "valetd"]).status().expect("it runs").success());
    let daemon = desktop.start();
    desktop.until_locked("has no key of this store");
    drop((daemon, keyring));
    assert_eq!(desktop.server.log().reuse_detected, 0);
}

#[test]
fn auto_takes_an_open_keyring_and_a_key_that_is_not_needed_any_more_leaves_it() {
    if !can_keep() {
        return;
    }
    let desktop = Desktop::new("auto");
    let keyring = desktop.keyring(true);
    let sealed = desktop.run(&["seal", "on"]);
    let said = words(&sealed);
    assert!(sealed.status.success(), "{said}");
    if !said.contains("kept by: secret-service") {
        eprintln!("skipped: this machine has something better: {said}");
        return;
    }
    assert!(said.contains("the keyring of the desktop is open") && said.contains("passed over: unit"), "{said}");
    assert_eq!(desktop.kept().0, 1);
    assert!(desktop.run(&["seal", "off"]).status.success());
    assert_eq!(desktop.kept().0, 0);
    // nor does one stay that was made for a change which was refused then
    let config = fs::read_to_string(desktop.home.path("config/valetd/config.toml")).expect("the configuration");
    let key = desktop.home.path("key");
    fs::write(&key, "another-key-of-more-than-32-characters").expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode 0600");
    desktop.home.write_config(&config.replace("\"auto\"", "{ file = \"../../key\" }"));
    assert!(desktop.run(&["seal", "on"]).status.success());
    fs::remove_file(&key).expect("removed");
    desktop.home.write_config(&config);
    assert_eq!(desktop.run(&["seal", "on"]).status.code(), Some(5));
    assert_eq!(desktop.kept().0, 0);
    drop(keyring);
}
