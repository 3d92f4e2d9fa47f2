//! Addresses that somebody else has. A stranger on one half of `localhost` gets some of what tools send there.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use valetd::stand_in::{Options, Provider};

use crate::support::keys::add;
use crate::support::lab::{self, Server, address};
use crate::support::{Home, Killed, eventually, free_address, get, send, words};

/// A user whom nobody is.
const STRANGER: &str = "65533";

/// Listens on `$ARGV[0]` (a family), `$ARGV[1]` (an address), `$ARGV[2]` (a port); `$ARGV[3]`: on IPv6 alone.
const LISTENS: &str = r#"
    my ($family, $host, $port, $alone) = @ARGV;
    socket(S, $family == 4 ? AF_INET : AF_INET6, SOCK_STREAM, 0) or die "socket: $!";
    setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1);
    setsockopt(S, Socket::IPPROTO_IPV6(), Socket::IPV6_V6ONLY(), $alone) if $family == 6;
    my $ip = Socket::inet_pton($family == 4 ? AF_INET : AF_INET6, $host);
    bind(S, $family == 4 ? pack_sockaddr_in($port, $ip) : Socket::pack_sockaddr_in6($port, $ip)) or die "bind: $!";
    listen(S, 5) or die "listen: $!";
    $| = 1; print "listening\n"; sleep 600;
"#;

/// Another user's process that listens.
struct Squatter(Killed);

impl Squatter {
    /// `None` where nobody can play another user.
    fn on(family: u8, host: &str, port: &str, ipv6_alone: bool) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let stranger = ["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "--pdeathsig", "KILL"];
        let (family, alone) = (family.to_string(), if ipv6_alone { "1" } else { "0" });
        let arguments = [family.as_str(), host, port, alone];
        let mut command = Command::new("setpriv");
        command.args(stranger).args(["perl", "-MSocket", "-e", LISTENS]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let squatter = Self(Killed(child));
        if line != "listening\n" {
            eprintln!("skipped {host}: setpriv or perl is not installed, or there is no such address here");
            return None;
        }
        Some(squatter)
    }

    fn pid(&self) -> u32 {
        self.0.0.id()
    }
}

/// A port that is free on both addresses of `localhost`.
fn free_port() -> String {
    eventually("a port that is free twice", || {
        let port = free_address().rsplit_once(':').expect("a port").1.to_owned();
        TcpListener::bind(format!("[::1]:{port}")).is_ok().then_some(port)
    })
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// What a daemon says that ends by itself, and that no half of `localhost` was served by then.
fn refuses_to_start(home: &Home, case: &str) -> String {
    let log = fs::File::create(home.path("refused.log")).expect("a log");
    let mut child = home.valetd(&["run"]).stdout(Stdio::null()).stderr(log).spawn().expect("it runs");
    let status = eventually("it ends, or serves", || {
        let ended = child.try_wait().expect("waited");
        ended.map(Some).or_else(|| home.run(&["status"]).status.success().then_some(None))
    });
    let _ = child.kill();
    let _ = child.wait();
    let said = fs::read_to_string(home.path("refused.log")).expect("the log");
    assert!(status.is_some_and(|status| !status.success()), "{case}: it serves beside a stranger:\n{said}");
    said
}

#[test]
fn nothing_is_served_beside_a_strangers_half_of_localhost() {
    if !has_ipv6() {
        eprintln!("skipped: there is no IPv6");
        return;
    }
    for (family, host, alone) in [
        (6, "::1", true),
        (4, "127.0.0.1", false),
        (4, "0.0.0.0", false),
        (6, "::", true),
        (6, "::", false),
        (6, "::ffff:127.0.0.1", false),
    ] {
        let port = free_port();
        let home = Home::with(&format!("listen = [\"127.0.0.1:{port}\", \"[::1]:{port}\"]\n"));
        let Some(squatter) = Squatter::on(family, host, &port, alone) else { continue };
        let said = refuses_to_start(&home, host);
        for part in [
            format!("of user {STRANGER}"),
            format!("process {} (perl)", squatter.pid()),
            format!(":{port}"),
            "name another address".to_owned(),
        ] {
            assert!(said.contains(&part), "{host}: {part} is not in {said}");
        }
    }
}

#[test]
fn a_routes_own_address_and_a_unix_socket_that_are_taken_keep_the_daemon_from_starting() {
    let server = Server::start(Provider::Gdh, Options::default());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own = format!("listen = \"{}\"", taken.local_addr().expect("an address"));
    let home = Home::with(&lab::config(&server, "", &own, ""));
    let said = refuses_to_start(&home, "a route's own address");
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let _live = UnixListener::bind(&path).expect("bound");
    for (top, route) in [
        (format!("\"unix:{}\", \"127.0.0.1:0\"", path.display()), String::new()),
        ("\"127.0.0.1:0\"".to_owned(), format!("listen = \"unix:{}\"", path.display())),
    ] {
        let config = lab::config(&server, "", &route, "").replace("\"127.0.0.1:0\"", &top);
        let said = refuses_to_start(&Home::with(&config), "a unix socket");
        assert!(said.contains(&format!("process {} of user", std::process::id())), "{said}");
    }
}

#[test]
fn without_ipv6_the_other_half_is_enough() {
    let home = Home::with(&format!("listen = [\"127.0.0.1:{0}\", \"[::1]:{0}\"]\n", free_port()));
    let script = "ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6";
    let mut unshare = Command::new("unshare");
    if !unshare.args(["--net", "sh", "-c", script]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    {
        eprintln!("skipped: no network of its own can be had");
        return;
    }
    let alone = ["unshare", "--net", "sh", "-c", &format!("{script} && exec \"$0\" \"$@\"")];
    let daemon = home.start_as(home.valetd_by(&alone, &["run"]));
    let listen = daemon.status()["daemon"]["listen"].clone();
    assert_eq!(listen.as_array().map(Vec::len), Some(1), "{listen}");
    assert!(listen[0].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{listen}");
}

#[test]
fn a_reload_onto_a_taken_address_leaves_everything_as_it_was_until_the_address_is_free() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let before = address(&daemon);
    let port = free_port();
    let Some(squatter) = Squatter::on(4, "127.0.0.1", &port, false) else { return };
    let moved = |route: &str| {
        let listen = format!("listen = [\"127.0.0.1:0\", \"127.0.0.1:{port}\"]");
        lab::config(&server, "", route, "").replace("listen = [\"127.0.0.1:0\"]", &listen)
    };
    home.write_config(&moved("via = false"));
    let refused = home.run(&["reload"]);
    assert!(!refused.status.success());
    for part in [format!("of user {STRANGER}"), "then reload".to_owned()] {
        assert!(words(&refused).contains(&part), "{part} is not in {}", words(&refused));
    }
    let status = daemon.status();
    assert_eq!(status["daemon"]["listen"][0], before.as_str(), "{status:#}");
    assert!(status["daemon"]["config_problems"][0].as_str().is_some_and(|problem| problem.contains(STRANGER)));
    let answer = lab::ping(&before);
    assert_eq!((answer.status, answer.header("via").is_some()), (200, true), "the old route, whole");

    drop(squatter);
    assert!(home.run(&["reload"]).status.success(), "{}", daemon.log());
    let answer = get(&format!("127.0.0.1:{port}"), "/lab/ping").expect("an answer");
    assert_eq!((answer.status, answer.header("via").is_some()), (200, false));
}

#[test]
fn a_reload_between_one_address_and_all_of_them_changes_the_listener_and_ends_with_one() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let port = free_port();
    let on = |host: &str| {
        let listen = format!("listen = [\"{host}:{port}\"]\nrequire_key = true");
        lab::config(&server, "", "", "").replace("listen = [\"127.0.0.1:0\"]", &listen)
    };
    home.write_config(&on("127.0.0.1"));
    let daemon = home.start();
    daemon.until("lab", "usable");
    let key = add(&home, "agent", &["--route", "lab"]);
    for host in ["0.0.0.0", "127.0.0.1", "0.0.0.0", "127.0.0.1"] {
        home.write_config(&on(host));
        let reloaded = home.run(&["reload"]);
        assert!(reloaded.status.success(), "{host}: {}", words(&reloaded));
        assert_eq!(daemon.status()["daemon"]["listen"], serde_json::json!([format!("{host}:{port}")]));
        let address = format!("127.0.0.1:{port}");
        let answer = send(&address, "GET", "/lab/ping", &[("X-Valetd-Key", &key)], b"").expect("an answer");
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
}

#[test]
fn a_reload_onto_an_address_that_cannot_be_had_leaves_everything_as_it_was() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let before = address(&daemon);
    let elsewhere = "listen = [\"192.0.2.1:8253\"]\nrequire_key = true"; // of no machine (RFC 5737)
    home.write_config(&lab::config(&server, "", "", "").replace("listen = [\"127.0.0.1:0\"]", elsewhere));
    let refused = home.run(&["reload"]);
    assert!(!refused.status.success() && words(&refused).contains("no such address"), "{}", words(&refused));
    assert_eq!(daemon.status()["daemon"]["listen"], serde_json::json!([before]));
    assert_eq!(lab::ping(&before).status, 200, "the old rules at the old address");
}

#[test]
fn a_stranger_on_the_half_that_is_not_configured_is_told_by_status_and_doctor() {
    let port = free_port();
    let Some(squatter) = Squatter::on(6, "::1", &port, true) else { return };
    let home = Home::with(&format!("listen = [\"127.0.0.1:{port}\"]\n"));
    let daemon = home.start();
    let warnings = daemon.status()["daemon"]["warnings"].to_string();
    assert!(warnings.contains(&format!("http://localhost:{port}")) && warnings.contains(STRANGER), "{warnings}");
    let told = words(&home.run(&["doctor", "--offline"]));
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains(&format!("http://localhost:{port} may go to process {}", squatter.pid())), "{told}");
    drop(squatter);
    assert!(home.run(&["reload"]).status.success());
    assert!(!daemon.status()["daemon"]["warnings"].to_string().contains(STRANGER));
}

/// Holds an address, unless somebody else has it and keeps it: other stories' daemons do so only briefly.
fn hold(address: &str) -> Option<TcpListener> {
    (0..100).find_map(|_| match TcpListener::bind(address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            thread::sleep(Duration::from_millis(100)); // a condition
            None
        }
        held => Some(held.ok()),
    })?
}

#[test]
fn with_a_configuration_that_cannot_be_read_a_taken_address_leaves_the_control_socket_alone() {
    // the default addresses: whoever has them here, or nobody, the daemon must come up
    let home = Home::with("listen = 7\n");
    let held = ["127.0.0.1:8253", "[::1]:8253"].map(hold);
    let daemon = home.start();
    let status = daemon.status();
    assert!(!status["daemon"]["config_problems"].as_array().expect("a list").is_empty(), "{status:#}");
    assert_eq!(status["daemon"]["listen"].as_array().map(Vec::len), Some(0), "{status:#}");
    drop(held);
}
