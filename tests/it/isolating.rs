//! `valetd exec --isolate`: a wall, through which nothing gets but requests for the routes.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use crate::support::company::{Scene, has_walls, has_walls_as};
use crate::support::nobody::{AS_NOBODY, NOBODY, can_play_nobody, is_root};
use crate::support::terminal::Terminal;
use crate::support::{VALETD, eventually, keys, words};

/// Runs a command behind walls, in a folder of its own.
fn behind(scene: &Scene, more: &[&str], command: &[&str]) -> Output {
    let folder = scene.home().path("work");
    fs::create_dir_all(&folder).expect("a folder");
    let arguments = [&["-r", "api", "--isolate"], more, &["--"], command].concat();
    scene.exec(&arguments).current_dir(folder).output().expect("valetd runs")
}

#[test]
fn programs_that_know_neither_proxies_nor_variables_of_trust_are_served_and_nothing_else_is_there() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    let url = "https://api.example/catalog/v2?a=b%2Fc";
    let bare = "import socket, ssl; s = ssl.create_default_context().wrap_socket(socket.create_connection(\
                ('api.example', 443)), server_hostname='api.example'); s.sendall(b'GET /catalog/v2?a=b%2Fc HTTP/1.1\\r\\n\
                Host: api.example\\r\\nConnection: close\\r\\n\\r\\n'); f = s.makefile('rb'); print(f.read().decode().split(\
                '\\r\\n\\r\\n', 1)[1])";
    let programs: [(&str, &[&str]); 5] = [
        ("curl", &["curl", "-sS", url]),
        ("curl without variables", &["env", "-i", "/usr/bin/curl", "-sS", "--noproxy", "*", url]),
        ("bare sockets", &["env", "-i", "/usr/bin/python3", "-c", bare]),
        ("its own URL", &["sh", "-c", "exec curl -sS $API_URL/catalog/v2?a=b%2Fc"]),
        ("by name", &["curl", "-sS", "http://api.example/catalog/v2?a=b%2Fc"]),
    ];
    for (name, program) in programs {
        let head = scene.upstreams_head(&behind(&scene, &[], program));
        assert!(head.starts_with("GET /catalog/v2?a=b%2Fc "), "{name}: {head}");
    }
    let left = fs::read_dir(scene.home().path("run/valetd")).expect("the folder of the socket");
    let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("exec-")), "{left:?}");
}

#[test]
fn an_agent_that_tries_to_get_out_does_not() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let home = scene.home();
    let config = fs::read_to_string(home.path("config/valetd/config.toml")).expect("a configuration");
    let other = "[route.other]\naccount = \"gbdx\"\nupstream = \"https://auth.example/api\"\n";
    home.write_config(&format!("{config}{other}"));
    let daemon = scene.start();
    let key = keys::add(home, "lasting", &["--route", "other"]);
    fs::write(home.path("secret"), "a secret").expect("written");
    let temporary = tempfile::Builder::new().tempdir_in("/tmp").expect("a folder");
    fs::write(temporary.path().join("file"), "a secret").expect("written");
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let (agent, bus) = (temporary.path().join("agent.sock"), home.path("run/bus"));
    let _sockets = [&agent, &bus].map(|path| UnixListener::bind(path).expect("a socket"));
    // a service's, where the command sees the files of the system; `/opt` can be written to by root alone
    let system = tempfile::Builder::new().prefix("valetd-it-").tempdir_in("/opt");
    let in_system = system.as_ref().map_or(temporary.path(), |folder| folder.path());
    let (service, datagrams) = (in_system.join("service.sock"), in_system.join("datagrams.sock"));
    let _service = UnixListener::bind(&service).expect("a socket");
    let _datagrams = UnixDatagram::bind(&datagrams).expect("a socket");
    let abstract_name = format!("valetd-it-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
    let _abstract = UnixListener::bind_addr(&address).expect("an abstract socket");
    let folder = home.path("work");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("escape.py"), include_str!("support/escape.py")).expect("written");
    let facts = [
        ("port", scene.stage.address.rsplit(':').next().expect("a port").to_owned()),
        ("other", "auth.example".to_owned()),
        ("key", key),
        ("listener", listener.local_addr().expect("an address").port().to_string()),
        ("abstract", abstract_name),
        ("control", home.socket().display().to_string()),
        ("agent", agent.display().to_string()),
        ("bus", bus.display().to_string()),
        ("service", service.display().to_string()),
        ("datagrams", datagrams.display().to_string()),
        ("state", home.path("state/valetd").display().to_string()),
        ("config", home.path("config/valetd/config.toml").display().to_string()),
        ("secret", home.path("secret").display().to_string()),
        ("temporary", temporary.path().join("file").display().to_string()),
        ("runtime", home.path("run/valetd").display().to_string()),
        ("daemon", daemon.child.id().to_string()),
    ];
    let facts = facts.map(|(name, value)| format!("{name}={value}"));
    let command = ["python3", "escape.py"].into_iter().chain(facts.iter().map(String::as_str));
    let arguments: Vec<&str> = ["-r", "api", "--isolate", "--"].into_iter().chain(command).collect();
    // a descriptor that a shell has left open, and what leads to agents
    let script = format!("exec 9<{}; exec \"$@\"", home.path("secret").display());
    let mut exec = Command::new("sh");
    exec.args(["-c", &script, "sh", VALETD, "exec"]).args(&arguments);
    home.settle(&mut exec);
    exec.current_dir(&folder).env("https_proxy", scene.proxy_url());
    for variable in ["SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "GDH_REFRESH_TOKEN"] {
        exec.env(variable, &agent);
    }
    let output = exec.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.ends_with("done\n"), "{}", words(&output));
    let out: Vec<&str> = said.lines().filter(|line| line.starts_with("OUT ")).collect();
    assert!(out.is_empty(), "{out:#?}");
    // a kernel without that interface would say that there is none
    let by_x32 = said.lines().find(|line| line.starts_with("held a mount by x32: ")).expect("it was tried");
    assert!(!cfg!(target_arch = "x86_64") || by_x32.contains("PermissionError"), "{by_x32}");
    let held = said.lines().filter(|line| line.starts_with("held ")).count();
    assert!(held >= 70, "{held}: {said}");
}

/// Types into the terminal for whoever reads it next, in each way that there is.
const TYPIST: &str = "\
import fcntl, sys
for number in (0x5412, 0x541c):
    for where in ('/dev/stdin', '/dev/tty', '/dev/console'):
        try:
            with open(where, 'rb+', buffering=0) as tty:
                fcntl.ioctl(tty, number, b'#' if number == 0x5412 else b'\\x02')
            print('typed at', where)
        except OSError as why:
            print('held', where, type(why).__name__)
print('tried')
";

#[test]
fn a_command_at_a_terminal_has_job_control_there_and_cannot_type_for_who_reads_it_next() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    let folder = scene.home().path("work");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("typist.py"), TYPIST).expect("written");
    let line = |option: &str, command: &str| {
        format!("cd {} && PS1='ready> ' {VALETD} exec -r api {option} -- {command}", folder.display())
    };
    let mut terminal = Terminal::open(scene.home(), &line("--isolate", "bash --norc -i"));
    terminal.answer("ready> ", "/usr/bin/python3 typist.py");
    let said = terminal.until("tried");
    assert!(!said.contains("typed at"), "{said}");
    assert!(said.matches("PermissionError").count() >= 4, "{said}");
    terminal.answer("ready> ", "sleep 1000");
    terminal.until("sleep 1000\r\n");
    thread::sleep(Duration::from_millis(300)); // it is in the foreground by then
    terminal.type_line("\x1a");
    terminal.until("Stopped");
    terminal.answer("ready> ", "fg");
    terminal.until("fg\r\nsleep 1000\r\n");
    thread::sleep(Duration::from_millis(300));
    terminal.type_line("\x03");
    terminal.answer("ready> ", "echo code $?");
    terminal.until("code 130");
    terminal.answer("ready> ", "exit 7");
    assert_eq!(terminal.exit().0, Some(7));
    // and without the wall, where the kernel lets them, the same words get through
    if fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|allowed| allowed.trim() == "1") {
        let mut terminal = Terminal::open(scene.home(), &line("--intercept", "/usr/bin/python3 typist.py"));
        assert!(terminal.until("tried").contains("typed at"));
    }
}

#[test]
fn what_would_let_a_command_at_the_credentials_is_refused_before_it_runs() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    let home = scene.home();
    for folder in ["", "state", "config/valetd", "run"] {
        let output = scene
            .exec(&["-r", "api", "--isolate", "--", "touch", "made"])
            .current_dir(home.path(folder))
            .output()
            .expect("valetd runs");
        assert_eq!(output.status.code(), Some(1), "{folder}: {}", words(&output));
        assert!(words(&output).contains("what no command may see"), "{folder}: {}", words(&output));
        assert!(!home.path(folder).join("made").exists());
    }
    for folder in ["/tmp", "/run", "/"] {
        let output =
            scene.exec(&["-r", "api", "--isolate", "--", "true"]).current_dir(folder).output().expect("valetd runs");
        assert_eq!(output.status.code(), Some(1), "{folder}: {}", words(&output));
    }
    let state = home.path("state").display().to_string();
    for option in ["--bind", "--ro"] {
        let output = behind(&scene, &[option, &state], &["true"]);
        assert_eq!(output.status.code(), Some(1), "{option}: {}", words(&output));
    }
    // and what is named is there
    let data = home.path("data");
    fs::create_dir_all(&data).expect("a folder");
    fs::write(data.join("file"), "content").expect("written");
    let shown = data.display().to_string();
    let output = behind(&scene, &["--ro", &shown], &["sh", "-c", &format!("cat {shown}/file; touch {shown}/new")]);
    assert!(words(&output).contains("content") && !data.join("new").exists(), "{}", words(&output));
    let output = behind(&scene, &["--bind", &shown], &["sh", "-c", &format!("touch {shown}/new mine")]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(data.join("new").exists() && home.path("work/mine").exists());
}

#[test]
fn a_file_that_goes_before_it_can_be_hidden_keeps_no_command_from_running() {
    if !has_walls() || !is_root() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    let home = scene.home();
    // as of a program that adds a user; gone before bubblewrap, whose place the script takes, comes to it
    let passing = format!("/etc/valetd-story.{}", std::process::id());
    fs::write(&passing, "").expect("written");
    fs::set_permissions(&passing, fs::Permissions::from_mode(0o600)).expect("mode 0600");
    let script = format!("#!/bin/sh\nrm -f {passing}\nPATH=${{PATH#*:}} exec bwrap \"$@\"\n");
    fs::create_dir_all(home.path("bin")).expect("a folder");
    fs::write(home.path("bin/bwrap"), script).expect("written");
    fs::set_permissions(home.path("bin/bwrap"), fs::Permissions::from_mode(0o755)).expect("executable");
    fs::create_dir_all(home.path("work")).expect("a folder");
    let mut exec = scene.exec(&["-r", "api", "--isolate", "--", "echo", "it ran"]);
    let output = exec.current_dir(home.path("work")).env("PATH", home.bin()).output().expect("valetd runs");
    let _ = fs::remove_file(&passing);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "it ran\n", "{}", words(&output));
    assert!(words(&output).contains("the walls are built again"), "{}", words(&output));
}

#[test]
fn a_folder_as_standard_input_is_no_way_past_the_wall() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    let home = scene.home();
    fs::create_dir_all(home.path("work")).expect("a folder");
    for (redirection, name) in [("<", "input"), ("1<", "output"), ("2<", "error")] {
        let script = format!(
            "exec \"$0\" exec -r api --isolate -- ls -R /proc/self/fd/0/ /proc/self/fd/1/ \
                              /proc/self/fd/2/ {redirection}\"$1\""
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, VALETD]).arg(home.path("state"));
        home.settle(&mut shell);
        shell.current_dir(home.path("work")).env("https_proxy", scene.proxy_url());
        let output = shell.output().expect("sh runs");
        assert_eq!(output.status.code(), Some(2), "{name}: {}", words(&output));
        assert!(!words(&output).contains("gbdx.json"), "{name}: {}", words(&output));
        if name != "error" {
            assert!(words(&output).contains(&format!("standard {name} is a folder")), "{}", words(&output));
        }
    }
}

/// Opens what it was handed again, in the ways that it was not opened, and in those that it was.
const REOPENER: &str = "\
import os
def attempt(name, act):
    try:
        print('did', name, act())
    except OSError as why:
        print('held', name, type(why).__name__)
def opened(path, flags):
    return lambda: os.close(os.open(path, flags))
again = '/proc/self/fd/'
attempt('reading the input', lambda: open('/dev/stdin').read())
attempt('changing the input', opened(again + '0', os.O_RDWR))
attempt('writing to the input', opened(again + '0', os.O_WRONLY | os.O_APPEND))
attempt('emptying the input', opened(again + '0', os.O_RDONLY | os.O_TRUNC))
attempt('shortening the input', lambda: os.truncate(again + '0', 0))
attempt('reading the error file', opened('/dev/stderr', os.O_RDONLY))
attempt('writing to the error file', lambda: os.write(os.open('/dev/stderr', os.O_WRONLY | os.O_APPEND), b'more'))
os.makedirs('a/b', exist_ok=True)
attempt('renaming', lambda: open('a/x', 'w').close() or os.rename('a/x', 'a/b/y') or os.truncate('a/b/y', 3))
attempt('a file without a name', lambda: os.close(os.open(again + str(os.memfd_create('x')), os.O_RDWR)))
attempt('a file at the top', lambda: open('/tmp/x', 'w').close() or open('/dev/null', 'w').close())
";

#[test]
fn a_file_that_is_handed_in_is_read_or_written_as_it_was_opened_and_in_no_other_way() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    let home = scene.home();
    fs::create_dir_all(home.path("work")).expect("a folder");
    fs::write(home.path("input"), "content").expect("written");
    fs::write(home.path("errors"), "private ").expect("written");
    let script = "exec \"$0\" exec -r api --isolate -- python3 -c \"$1\" <../input 2>>../errors";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, VALETD, REOPENER]);
    home.settle(&mut shell);
    shell.current_dir(home.path("work")).env("https_proxy", scene.proxy_url());
    let output = shell.output().expect("sh runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = fs::read_to_string(home.path("errors")).expect("a file");
    assert_eq!(fs::read_to_string(home.path("input")).expect("a file"), "content", "{said}");
    assert_eq!(errors, "private more", "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "did reading the input content",
        "held changing the input PermissionError",
        "held writing to the input PermissionError",
        "held emptying the input PermissionError",
        "held shortening the input PermissionError",
        "held reading the error file PermissionError",
        "did writing to the error file 4",
        "did renaming None",
        "did a file without a name None",
        "did a file at the top None",
    ];
    assert_eq!(lines, expected);
}

/// Changes modes in each way that there is, of what is its own and of what it shares.
const MODES: &str = "\
import ctypes, os
def attempt(name, act):
    try:
        print('did', name, act())
    except OSError as why:
        print('held', name, why.strerror)
open('own', 'w').close()
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
attempt('chmod', lambda: os.chmod('own', 0o755))
attempt('a group', lambda: os.chmod('own', 0o2755))
attempt('a user', lambda: os.chmod('own', 0o4755))
attempt('a user by a descriptor', lambda: os.fchmod(os.open('own', os.O_RDONLY), 0o4755))
attempt('a user of the output', lambda: os.fchmod(1, 0o4755))
attempt('a user by the newest call', lambda: call(452, -100, b'own', 0o4755, 0))
attempt('a new file', lambda: os.close(os.open('new', os.O_CREAT | os.O_WRONLY, 0o4755)))
attempt('a file without a name', lambda: os.close(os.open('.', os.O_TMPFILE | os.O_WRONLY, 0o4755)))
attempt('a node', lambda: os.mknod('node', 0o104755))
attempt('a folder', lambda: os.mkdir('folder', 0o755))
attempt('what the file shares', lambda: os.fchmod(0, 0o646))
if os.getuid() == 0 and os.access('/dev/full', os.W_OK) and os.environ['ROOT'] == '1':
    attempt('a device', lambda: os.chmod('/dev/full', 0o662))
";

#[test]
fn what_a_command_shares_with_the_machine_has_the_mode_that_it_had_and_no_program_runs_as_who_made_it() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    let home = scene.home();
    fs::create_dir_all(home.path("work")).expect("a folder");
    fs::write(home.path("input"), "content").expect("written");
    fs::set_permissions(home.path("input"), fs::Permissions::from_mode(0o640)).expect("ours");
    let owns_devices = can_play_nobody();
    let script = "exec \"$0\" exec -r api --isolate -- python3 -c \"$1\" <../input >../output";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, VALETD, MODES]);
    home.settle(&mut shell);
    shell.current_dir(home.path("work")).env("https_proxy", scene.proxy_url());
    shell.env("ROOT", if owns_devices { "1" } else { "0" });
    let output = shell.output().expect("sh runs");
    assert!(output.status.success(), "{}", words(&output));
    let said = fs::read_to_string(home.path("output")).expect("a file");
    let held = "Operation not permitted";
    let mut expected = vec!["did chmod None".to_owned(), "did a group None".to_owned()];
    for name in [
        "a user",
        "a user by a descriptor",
        "a user of the output",
        "a user by the newest call",
        "a new file",
        "a file without a name",
        "a node",
    ] {
        expected.push(format!("held {name} {held}"));
    }
    expected.extend(["did a folder None".to_owned(), "did what the file shares None".to_owned()]);
    if owns_devices {
        expected.push("did a device None".to_owned());
    }
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!((mode(&home.path("input")), mode("/dev/full".as_ref())), (0o640, 0o666));
}

#[test]
fn what_is_valetds_in_a_folder_of_the_system_is_not_there_for_a_command() {
    if !has_walls() {
        return;
    }
    let Ok(system) = tempfile::Builder::new().prefix("valetd-it-").tempdir_in("/opt") else {
        return eprintln!("skipped: nothing can be written to /opt here");
    };
    let at = |path: &str| system.path().join(path);
    let scene = Scene::new("");
    let home = scene.home();
    for folder in ["config/valetd", "state", "sockets", "audit", "keys", "open/work", "links"] {
        fs::create_dir_all(at(folder)).expect("a folder");
    }
    let copied = Command::new("cp").arg("-a").arg(home.path("state/valetd")).arg(at("state")).status();
    assert!(copied.expect("cp runs").success());
    fs::write(at("keys/header"), "a secret").expect("written");
    fs::write(at("open/file"), "content").expect("written");
    for (target, link) in [("../state", "links/state"), ("../keys/header", "links/key")] {
        std::os::unix::fs::symlink(target, at(link)).expect("a link");
    }
    let config = fs::read_to_string(home.path("config/valetd/config.toml")).expect("a configuration");
    let shown = system.path().display();
    let listen = config.lines().find(|line| line.starts_with("listen = ")).expect("a listener");
    let more = listen.replacen("[", &format!("[\"unix:{shown}/sockets/x.sock\", "), 1);
    let header = format!("request_headers = {{ add = {{ x-lab = {{ file = \"{shown}/links/key\" }} }} }}\n");
    let config = config.replacen(listen, &format!("{more}\naudit = \"{shown}/audit/a.jsonl\""), 1);
    let config = config.replacen("[route.api]\n", &format!("[route.api]\n{header}"), 1);
    let file = at("config/valetd/config.toml");
    fs::write(&file, config).expect("written");
    let private = fs::Permissions::from_mode(0o600);
    for path in [&file, &at("keys/header")] {
        fs::set_permissions(path, private.clone()).expect("ours alone");
    }
    let there = |command: &mut Command| {
        command.env("XDG_CONFIG_HOME", at("config")).env("XDG_STATE_HOME", at("state"));
        command.env("https_proxy", scene.proxy_url());
    };
    let mut run = home.valetd(&["run", "--log", "debug"]);
    there(&mut run);
    let daemon = home.start_as(run);
    daemon.until("gbdx", "usable");
    let exec = |folder: &str, words: &[&str]| {
        let mut command = scene.exec(&[&["-r", "api", "--isolate"], words].concat());
        there(&mut command);
        command.current_dir(at(folder)).output().expect("valetd runs")
    };
    let script = "cat ../file; find .. -type f -o -type s; cat ../../links/key; mkdir ../../state/x; \
                  curl -sS --unix-socket ../../sockets/x.sock http://localhost/api/x; find ../.. -type f -o -type s; \
                  curl -sS https://api.example/catalog/v2";
    let output = exec("open/work", &["--", "sh", "-c", script]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("content") && said.to_ascii_lowercase().contains("x-lab: a secret"), "{}", words(&output));
    let files: Vec<&str> = said.lines().filter(|line| line.starts_with("../")).collect();
    assert!(files.iter().all(|file| file.ends_with("/open/file") || *file == "../file"), "{files:?}");
    assert_eq!(said.matches("GET ").count(), 1, "a way past the wall: {said}");
    assert_eq!(said.matches("a secret").count(), 1, "a secret behind the wall: {said}");
    assert!(!at("state/x").exists());
    // and what a command would be given, however it is spelled
    let work = at("open/work").display().to_string();
    for (folder, options) in [
        ("state", &[][..]),
        ("links/state", &[]),
        ("keys", &[]),
        ("", &[]),
        ("open/work", &["--ro", "../../state"]),
        ("open/work", &["--bind", "../../links/state/valetd"]),
        ("open/work", &["--ro", &format!("{work}/../../sockets")]),
        ("open/work", &["--bind", "/proc/self/cwd/../../audit"]),
        ("open", &["--ro", "../links/key/"]),
    ] {
        let output = exec(folder, &[options, &["--", "true"]].concat());
        assert!(!output.status.success(), "{folder} {options:?}: {}", words(&output));
        let is_refused = ["what no command may see", "not a directory"].iter().any(|why| words(&output).contains(why));
        assert!(is_refused, "{folder} {options:?}: {}", words(&output));
    }
}

#[test]
fn paths_that_a_command_is_given_are_relative_to_where_it_runs_and_must_be_there() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    let home = scene.home();
    for folder in ["work", "data/in"] {
        fs::create_dir_all(home.path(folder)).expect("a folder");
    }
    fs::write(home.path("data/file"), "content").expect("written");
    for (options, script) in [
        (["--ro", "../data"], "cat ../data/file"),
        (["--bind", "../data/../data"], "cat ../data/file; touch ../data/new"),
        (["--ro", "../data/file"], "cat ../data/file"),
    ] {
        let output = behind(&scene, &options, &["sh", "-c", script]);
        assert!(output.status.success(), "{options:?}: {}", words(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "content", "{options:?}");
    }
    for option in ["--bind", "--ro"] {
        let output = behind(&scene, &[option, "../none"], &["touch", "made"]);
        assert_eq!(output.status.code(), Some(2), "{option}: {}", words(&output));
        assert!(words(&output).contains(&format!("{option} ../none: ")), "{}", words(&output));
        assert!(!home.path("work/made").exists());
    }
    // the home, wherever what is valetd's may be
    let mut command = scene.exec(&["-r", "api", "--isolate", "--", "true"]);
    let output = command.env("HOME", home.path("work")).current_dir(home.path("work")).output().expect("valetd runs");
    assert!(words(&output).contains("is or holds the home folder"), "{}", words(&output));
}

#[test]
fn exit_codes_signals_and_allowed_hosts_get_through_the_wall() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let _daemon = scene.start();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        assert_eq!(behind(&scene, &[], &["sh", "-c", script]).status.code(), Some(code), "{script}");
    }
    let output = behind(&scene, &[], &["no-such-command-here"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(words(&output).contains("--ro FOLDER"), "{}", words(&output));
    let elsewhere = scene.home().path("elsewhere").display().to_string();
    let within = scene.home().path("work").display().to_string();
    for (folder, expected) in [(&elsewhere, "/tmp/"), (&within, within.as_str())] {
        let mut exec = scene.exec(&["-r", "api", "--isolate", "--", "mktemp"]);
        let output = exec.current_dir(&within).env("TMPDIR", folder).output().expect("valetd runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.starts_with(expected), "{}", words(&output));
    }
    let ca = scene.world.folder.path().join("ca.pem");
    fs::create_dir_all(scene.home().path("work")).expect("a folder");
    fs::copy(&ca, scene.home().path("work/ca.pem")).expect("copied");
    let ask = ["curl", "-sS", "--cacert", "ca.pem", "https://auth.example/x"];
    assert!(!behind(&scene, &[], &ask).status.success());
    let output = behind(&scene, &["--allow", "auth.example"], &ask);
    assert!(output.status.success(), "{}", words(&output));
    let output = behind(&scene, &["--allow", "localhost"], &["true"]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("all other routes"), "{}", words(&output));
    // a signal
    let folder = scene.home().path("work");
    let script = "trap 'exit 9' TERM; touch ready; while :; do sleep 0.05; done";
    let mut running = scene
        .exec(&["-r", "api", "--isolate", "--", "sh", "-c", script])
        .current_dir(&folder)
        .spawn()
        .expect("valetd runs");
    eventually("it runs", || folder.join("ready").exists().then_some(()));
    let signal = |name: &str, pid: u32| {
        assert!(Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs").success());
    };
    signal("-TERM", running.id());
    assert_eq!(running.wait().expect("it ends").code(), Some(9));
    // killed without a word, nothing of it goes on
    let script = "while :; do date +%s%N > alive; sleep 0.05; done";
    let mut running = scene
        .exec(&["-r", "api", "--isolate", "--", "sh", "-c", script])
        .current_dir(&folder)
        .spawn()
        .expect("valetd runs");
    eventually("it runs", || folder.join("alive").exists().then_some(()));
    signal("-KILL", running.id());
    running.wait().expect("it ends");
    eventually("it has ended", || {
        let before = fs::read(folder.join("alive")).ok()?;
        thread::sleep(Duration::from_millis(400));
        (fs::read(folder.join("alive")).ok()? == before).then_some(())
    });
}

#[test]
fn a_user_who_is_not_root_can_build_the_wall() {
    if !can_play_nobody() || !has_walls_as(&AS_NOBODY) {
        return;
    }
    let scene = Scene::new("");
    let home = scene.home();
    // nobody can neither read the checkout's folder, perhaps, nor the certificate in the story's own
    let (program, ca) = (home.path("valetd"), home.path("ca.pem"));
    fs::copy(VALETD, &program).expect("copied");
    fs::copy(scene.world.folder.path().join("ca.pem"), &ca).expect("copied");
    let config = fs::read_to_string(home.path("config/valetd/config.toml")).expect("a configuration");
    let theirs = scene.world.folder.path().join("ca.pem").display().to_string();
    home.write_config(&config.replace(&theirs, &ca.display().to_string()));
    fs::create_dir_all(home.path("work")).expect("a folder");
    let owned = Command::new("chown").args(["-R", NOBODY.1]).arg(home.path("")).status();
    assert!(owned.expect("chown runs").success());
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(AS_NOBODY[0]);
        command.args(&AS_NOBODY[1..]).arg(&program).args(arguments);
        home.settle(&mut command);
        command.current_dir(home.path("work")).env("https_proxy", scene.proxy_url());
        command
    };
    let daemon = home.start_as(as_nobody(&["run", "--log", "debug"]));
    // its socket is nobody's, whom root tells nothing
    eventually("it is up", || as_nobody(&["status"]).output().ok().filter(|output| output.status.success()));
    let bare = ["env", "-i", "/usr/bin/curl", "-sS", "--noproxy", "*", "https://api.example/catalog/v2"];
    let output = as_nobody(&[&["exec", "-r", "api", "--isolate", "--"], &bare[..]].concat()).output().expect("it runs");
    let head = scene.upstreams_head(&output);
    assert!(head.starts_with("GET /catalog/v2 "), "{head}: {}", daemon.log());
    let output =
        as_nobody(&["exec", "-r", "api", "--isolate", "--", "touch", "made", "/usr/made"]).output().expect("it runs");
    assert!(!output.status.success() && home.path("work/made").exists() && !fs::exists("/usr/made").expect("known"));
}
