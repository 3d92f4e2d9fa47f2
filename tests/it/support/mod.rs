//! A home of its own for a daemon, the daemon itself, and a plain HTTP client to tell stories with.

pub mod company;
pub mod crate_map;
pub mod disk;
pub mod documents;
pub mod frames;
pub mod http2;
pub mod keys;
pub mod lab;
pub mod mcp;
pub mod nobody;
pub mod providers;
pub mod stage;
pub mod strict_upstream;
pub mod terminal;
pub mod tls;
pub mod tokens;
pub mod upstreams;
pub mod wire;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use valetd::secret::Secret;

/// The built binary.
pub const VALETD: &str = env!("CARGO_BIN_EXE_valetd");

/// The longest that any condition of a story is waited for; a story that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
///
/// # Panics
///
/// When patience ends.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        std::thread::sleep(pause(what, start));
    }
}

/// How long to wait before a condition is looked at again: the longer it takes, the longer, as each look costs something.
///
/// # Panics
///
/// When patience ends.
fn pause(what: &str, start: Instant) -> Duration {
    let waited = start.elapsed();
    assert!(waited < PATIENCE, "waited in vain: {what}");
    (waited / 10).clamp(Duration::from_millis(10), Duration::from_millis(100))
}

/// A home folder that is thrown away, with a configuration in it.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    /// A home without any configuration.
    pub fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("valetd-it").tempdir().expect("a temporary folder");
        for name in ["run", "config/valetd", "state"] {
            fs::create_dir_all(folder.path().join(name)).expect("a folder of the home");
        }
        fs::set_permissions(folder.path().join("run"), fs::Permissions::from_mode(0o700)).expect("mode 0700");
        Self { folder }
    }

    /// A home with this configuration.
    pub fn with(config: &str) -> Self {
        let home = Self::empty();
        home.write_config(config);
        home
    }

    /// Replaces the configuration as editors do: beside, then renamed.
    pub fn write_config(&self, config: &str) {
        let beside = self.path("config/valetd/.config.toml.new");
        fs::write(&beside, config).expect("the new configuration");
        fs::rename(beside, self.path("config/valetd/config.toml")).expect("renamed");
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/valetd/valetd.sock")
    }

    /// The built binary, at home here.
    pub fn valetd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(VALETD);
        command.args(arguments);
        self.settle(&mut command);
        command
    }

    /// The same as the last words of another command, such as `strace -f`.
    pub fn valetd_by(&self, words: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(VALETD).args(arguments);
        self.settle(&mut command);
        command
    }

    /// Lets a command be at home here, without input.
    pub fn settle(&self, command: &mut Command) {
        command.env_clear().envs(std::env::var_os("LLVM_PROFILE_FILE").map(|v| ("LLVM_PROFILE_FILE", v)));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.folder.path());
        command.env("XDG_CONFIG_HOME", self.path("config"));
        command.env("XDG_STATE_HOME", self.path("state"));
        command.env("XDG_RUNTIME_DIR", self.path("run"));
        command.stdin(Stdio::null());
    }

    /// A `PATH` of the folder `bin` of this home, and of ours.
    pub fn bin(&self) -> String {
        format!("{}:{}", self.path("bin").display(), std::env::var("PATH").expect("a PATH"))
    }

    /// Runs the built binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.valetd(arguments).output().expect("valetd runs")
    }

    /// The same, for the daemon at another socket.
    pub fn run_at(&self, socket: &Path, arguments: &[&str]) -> Output {
        self.valetd(arguments).arg("--socket").arg(socket).output().expect("valetd runs")
    }

    /// Runs it with something on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        with_input(self.valetd(arguments), input)
    }

    /// Hands a refresh token for an account to the running daemon or to the store, to be believed as it is: the story says
    /// itself how often its server is asked.
    pub fn sign_in(&self, account: &str, refresh_token: &Secret) {
        let output =
            self.run_with_input(&["login", account, "--refresh-token-stdin", "--untried"], refresh_token.expose());
        assert!(output.status.success(), "{}", words(&output));
    }

    /// Asks on the control socket, if somebody listens there.
    pub fn control(&self, method: &str, path: &str) -> io::Result<Answer> {
        self.control_with(method, path, "")
    }

    /// The same with a body.
    pub fn control_with(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: valetd\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        request(stream, &head, body.as_bytes())
    }

    /// Starts the daemon and waits until its socket answers.
    pub fn start(&self) -> Daemon<'_> {
        self.start_as(self.valetd(&["run", "--log", "debug"]))
    }

    /// The same with a command of one's own.
    pub fn start_as(&self, mut command: Command) -> Daemon<'_> {
        let log_path = self.path("daemon.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path).expect("a log");
        let child = command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("valetd runs");
        let mut daemon = Daemon { home: self, child };
        eventually("the daemon's socket answers", || {
            if let Some(status) = daemon.child.try_wait().expect("waited") {
                panic!("the daemon ended with {status}:\n{}", daemon.log());
            }
            daemon.control("GET", "/healthz").ok().filter(|answer| answer.status == 200)
        });
        daemon
    }
}

/// Runs a command with something on its standard input, which it need not read.
pub fn with_input(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command runs");
    if let Err(error) = child.stdin.take().expect("piped").write_all(input.as_bytes()) {
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    }
    child.wait_with_output().expect("the command ends")
}

/// A process of a story's own; killed when dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon<'h> {
    pub home: &'h Home,
    pub child: Child,
}

impl Daemon<'_> {
    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path("daemon.log")).unwrap_or_default()
    }

    /// Asks on the control socket.
    pub fn control(&self, method: &str, path: &str) -> io::Result<Answer> {
        self.home.control(method, path)
    }

    /// The status document.
    pub fn status(&self) -> Value {
        let answer = self.control("GET", "/v1/status").expect("the status");
        serde_json::from_slice(&answer.body).expect("a JSON document")
    }

    /// One account of the status document.
    pub fn account(&self, id: &str) -> Value {
        let status = self.status();
        let accounts = status["accounts"].as_array().expect("accounts");
        accounts.iter().find(|account| account["id"] == id).unwrap_or_else(|| panic!("no {id} in {status:#}")).clone()
    }

    /// Waits until an account is in a state.
    pub fn until(&self, id: &str, state: &str) -> Value {
        eventually(&format!("{id} is {state}"), || Some(self.account(id)).filter(|account| account["state"] == state))
    }

    /// Waits until the log has a text: a line may come after what it tells of can be seen elsewhere.
    pub fn until_logged(&self, text: &str) {
        eventually(&format!("{text:?} is in the log"), || self.log().contains(text).then_some(()));
    }

    /// A file of `/proc` that tells of it.
    pub fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("it runs")
    }

    /// A number of `/proc/PID/status` in KiB: `VmRSS` is the memory that it uses, `VmHWM` the most that it has used.
    pub fn memory(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("the line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends it a signal, without waiting for what that does.
    pub fn tell(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Ends it with a signal and waits for it.
    pub fn signal(&mut self, signal: &str) -> ExitStatus {
        self.tell(signal);
        self.child.wait().expect("waited")
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- the daemon's log ----\n{}", self.log());
        }
    }
}

/// An HTTP answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// A GET at `address` with a `Host` that says so.
pub fn get(address: &str, path: &str) -> io::Result<Answer> {
    send(address, "GET", path, &[], b"")
}

/// A request with its own connection.
pub fn send(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" || method == "PUT" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    request(stream, &(head + "\r\n"), body)
}

/// Sends bytes as they are and reads one final answer.
pub fn request(mut stream: impl Read + Write, head: &str, body: &[u8]) -> io::Result<Answer> {
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    read_answer(&mut BufReader::new(stream), !head.starts_with("HEAD "))
}

/// Reads one final answer (RFC 9112), skipping interim ones.
pub fn read_answer(stream: &mut impl BufRead, has_body: bool) -> io::Result<Answer> {
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| malformed(&line))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(malformed("the head ended early"));
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if !has_body || status == 204 || status == 304 || status == 101 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let mut size = String::new();
                stream.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16).map_err(|_| malformed("a chunk's size"))?;
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk)?;
                if size == 0 {
                    return Ok(answer);
                }
                answer.body.extend_from_slice(&chunk[..size]);
            }
        }
        match answer.header("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => {
                answer.body = vec![0; length];
                stream.read_exact(&mut answer.body)?;
            }
            None => {
                stream.read_to_end(&mut answer.body)?;
            }
        }
        return Ok(answer);
    }
}

/// A loopback address that is free, and stays so until it is used: see [`free_ports`].
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_ports(1))
}

/// The first of so many ports of loopback in a row that are free, and stay so until they are used: the kernel gives nobody
/// a port below its own range (`net.ipv4.ip_local_port_range`), and no two stories get the same.
pub fn free_ports(count: u16) -> u16 {
    const PORTS: std::ops::Range<u16> = 10_000..30_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // other runs of this program begin elsewhere
    let first = (std::process::id() % 100) as u16 * 200;
    loop {
        let next = (first + NEXT.fetch_add(count, Ordering::Relaxed)) % (PORTS.end - PORTS.start - count);
        let port = PORTS.start + next;
        if (port..port + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
}

/// The permission bits of a path.
pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

/// Standard output and error of a command, for messages.
pub fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
