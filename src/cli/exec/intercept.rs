//! `exec --intercept`: the command is a child, and finds a proxy that it trusts for the routes' hosts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use rustix::process::Signal;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::LocalSet;

use super::folder::Folder;
use super::isolate::{self, View, Walls};
use super::supervise;
use super::trust::Bundles;
use super::variables;
use crate::cli::failure::Failure;
use crate::cli::output::{print, remark};
use crate::config::{Account, Endpoint, Origin, Proxies, RouteName, Upstream};
use crate::intercept::{self, CertificateAuthority, Interceptor, PLACEHOLDER_JWT, Settings};
use crate::lent::Daemon;
use crate::oauth::EndpointKind;
use crate::platform::child;
use crate::platform::clock;
use crate::platform::environment;
use crate::secret::Secret;

/// Variables by which a single program is told of a proxy, and which it takes before the common ones: gRPC, npm, pip, cargo,
/// Yarn. They are changed where they are set.
const PROXIES_OF_ONE_PROGRAM: [&str; 10] = [
    "grpc_proxy",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "NPM_CONFIG_PROXY",
    "NPM_CONFIG_HTTPS_PROXY",
    "PIP_PROXY",
    "CARGO_HTTP_PROXY",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
    "GLOBAL_AGENT_HTTPS_PROXY",
];

/// The same for what is reached past it.
const EXCEPTIONS_OF_ONE_PROGRAM: [&str; 3] = ["no_grpc_proxy", "npm_config_noproxy", "NPM_CONFIG_NOPROXY"];

/// What the routes of a command lead to.
pub(super) struct Reached {
    pub(super) upstreams: Vec<(String, Upstream)>,
    pub(super) accounts: Vec<Account>,
}

impl Reached {
    /// Whether a route is among them.
    pub(super) fn has(&self, route: &str) -> bool {
        self.upstreams.iter().any(|(name, _)| name == route)
    }
}

/// Why there can be no interception of these routes: what a certificate cannot be made for, and what cannot be told apart.
pub(super) fn refuse_what_cannot_be(reached: &Reached) -> Result<(), Failure> {
    for (route, upstream) in &reached.upstreams {
        if intercept::is_address(&upstream.origin.host) {
            let says = format!("the route {route} leads to the address {}, which no name stands for", upstream.origin);
            return Err(Failure::say(says).with_remedy("name the upstream by a host name, or use the route's URL"));
        }
    }
    for (at, (route, upstream)) in reached.upstreams.iter().enumerate() {
        if let Some((other, _)) = reached.upstreams[..at].iter().find(|(_, other)| other == upstream) {
            let says = format!("the routes {other} and {route} both lead to {upstream}");
            return Err(Failure::say(says).with_remedy("name one of them: -r ROUTE"));
        }
    }
    Ok(())
}

/// What the proxy of a command does. `allowed` are hosts that no route leads to; all, if there is no list.
/// `password` is for a proxy that other processes of the user can reach, too.
pub(super) fn settings(
    reached: &Reached,
    allowed: Option<Vec<String>>,
    password: Option<Secret>,
    verbose: bool,
) -> Settings {
    let origins: BTreeSet<Origin> = reached.upstreams.iter().map(|(_, upstream)| upstream.origin.clone()).collect();
    let answered = reached.accounts.iter().filter(|account| account.exec.placeholder_token);
    let sign_in = answered.clone().flat_map(|account| {
        let kinds = [EndpointKind::Token, EndpointKind::Revocation];
        kinds.into_iter().filter_map(|kind| account.server.endpoint(kind).cloned())
    });
    let sign_in: Vec<Endpoint> = sign_in.filter(|endpoint| !intercept::is_address(&endpoint.origin.host)).collect();
    let placeholders = reached.accounts.iter().flat_map(|account| &account.exec.env).map(|(_, value)| value.clone());
    let outside = Proxies::read(environment::text);
    Settings { origins, sign_in, placeholders: placeholders.collect(), outside, allowed, password, verbose }
}

/// A command, and what it needs.
pub(super) struct Task {
    /// The routes that its proxy stands for.
    pub(super) wanted: Vec<RouteName>,
    /// What its own sign-in looks for.
    pub(super) placeholders: Vec<(String, String)>,
    pub(super) settings: Settings,
    /// Where our sockets are.
    pub(super) folder: PathBuf,
    /// Variables, and those that are taken out.
    pub(super) environment: Vec<(String, Option<String>)>,
    /// The command's key, if the environment is to be shown and nothing run.
    pub(super) to_show: Option<Secret>,
    pub(super) command: Vec<OsString>,
    /// Whether the system's file of authorities is another one for it.
    pub(super) trust_mount: bool,
    /// Whether Java is told, too.
    pub(super) java: bool,
    /// Whether it is isolated.
    pub(super) walls: Option<Inside>,
}

/// What an isolated command has.
pub(super) struct Inside {
    pub(super) view: View,
    /// Folders of the system that it must not see.
    pub(super) masks: Vec<PathBuf>,
    /// Sockets of other programs that it must not see, beside what it may.
    pub(super) hidden: Vec<PathBuf>,
    /// Where its routes have URLs.
    pub(super) own: Rc<Daemon>,
}

/// Runs a command with a proxy of its own. Returns its exit status, as a shell shows it.
///
/// # Errors
///
/// [`Failure`] if there can be no proxy or no wall, or if the command cannot be run.
pub(super) async fn run(task: Task, daemon: Daemon) -> Result<u8, Failure> {
    let Task { wanted: _, placeholders, settings, folder, mut environment, .. } = task;
    let Task { to_show, command, trust_mount, java, walls, .. } = task;
    let names = intercept::names(&settings);
    let authority = CertificateAuthority::new(&names, clock::unix_seconds()).map_err(Failure::new)?;
    let ignored = supervise::ignored();
    let folder = Folder::make(&folder)?;
    let bundles = Bundles::write(folder.path(), authority.root(), environment::text);
    let mut bundles = bundles.map_err(|why| Failure::say(why).while_doing("writing what the command is to trust"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.map_err(|error| Failure::new(error).while_doing("opening the command's proxy"))?;
    let address = match walls {
        Some(_) => SocketAddr::from(isolate::PROXY_ADDRESS),
        None => listener.local_addr().map_err(Failure::new)?,
    };
    let login = settings.password.as_ref().map(|password| format!("{}:{}@", intercept::USER, password.expose()));
    let of_one_program = PROXIES_OF_ONE_PROGRAM.into_iter().filter(|name| environment::is_set(name));
    for name in ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"].into_iter().chain(of_one_program) {
        let url = format!("http://{}{address}", login.as_deref().unwrap_or_default());
        environment.push((name.to_owned(), Some(url)));
    }
    if walls.is_some() {
        // with a login, maybe, and of no use behind the wall
        for name in ["all_proxy", "ALL_PROXY", "ftp_proxy", "FTP_PROXY", "socks_proxy", "SOCKS_PROXY"] {
            environment.push((name.to_owned(), None));
        }
    }
    let no_proxy = without(environment::text("no_proxy").or_else(|| environment::text("NO_PROXY")), &names);
    let of_one_program = EXCEPTIONS_OF_ONE_PROGRAM.into_iter().filter(|name| environment::is_set(name));
    for name in ["no_proxy", "NO_PROXY"].into_iter().chain(of_one_program) {
        environment.push((name.to_owned(), Some(no_proxy.clone())));
    }
    let shown = folder.path().display().to_string();
    let inside = |value: &str| match walls {
        Some(_) => value.replacen(&shown, isolate::INSIDE, 1),
        None => value.to_owned(),
    };
    if java {
        let options = bundles.for_java(address, environment::text);
        let options = options.map_err(|why| Failure::say(why).while_doing("telling Java what to trust"))?;
        environment.push(("JAVA_TOOL_OPTIONS".to_owned(), Some(options)));
    }
    environment.extend(bundles.variables.iter().map(|(name, value)| (name.clone(), Some(inside(value)))));
    let given = |(name, value): (String, String)| (name, Some(value.replace("{placeholder_jwt}", PLACEHOLDER_JWT)));
    environment.extend(placeholders.into_iter().map(given));
    if let Some(inside) = &walls {
        environment.extend(isolate::OUTSIDE.map(|name| (name.to_owned(), None)));
        let gone = isolate::TEMPORARY
            .into_iter()
            .filter(|name| environment::value(name).is_some_and(|folder| !inside.view.shows(Path::new(&folder))));
        environment.extend(gone.map(|name| (name.to_owned(), None)));
    }
    if let Some(key) = to_show {
        let secrets: Vec<&Secret> = [&key].into_iter().chain(&settings.password).collect();
        print(&variables::shown(&environment, &secrets, environment::is_set))?;
        return Ok(0);
    }
    let interceptor = Interceptor::new(settings, authority, daemon);
    let (program, rest) = command.split_first().expect("clap requires a command");
    let everything = LocalSet::new();
    match walls {
        Some(inside) => {
            drop(listener); // nobody outside has any use for it
            let bundle = bundles.of("SSL_CERT_FILE").unwrap_or_default().to_owned();
            let running = behind_walls(interceptor, inside, &folder, bundle, environment, &command, ignored);
            everything.run_until(running).await
        }
        None => {
            let mounted = trust_mount.then(|| isolate::mounted(bundles.of("SSL_CERT_FILE")?)).flatten();
            if let Some(mut mounted) = mounted {
                let signals = Rc::new(listen(&folder, isolate::SIGNALS)?);
                mounted.arg(own_program()?).args(["exec-relay", "--signals"]).arg(folder.path().join(isolate::SIGNALS));
                variables::apply(&mut mounted, environment);
                let running = under_bubblewrap(mounted, &command, &signals, &ignored);
                return everything
                    .run_until(async move {
                        tokio::task::spawn_local(interceptor.serve(listener));
                        running.await
                    })
                    .await;
            }
            let mut child = Command::new(program);
            child.args(rest);
            variables::apply(&mut child, environment);
            child::ends_with_us(&mut child);
            let ran = everything.run_until(async move {
                let serving = tokio::task::spawn_local(interceptor.serve(listener));
                let ran = supervise::run(child, &ignored, supervise::directly, None).await;
                serving.abort();
                ran
            });
            ran.await.map(supervise::code).map_err(|error| supervise::cannot_be_run(error, program))
        }
    }
}

/// How often the walls are built at most, where places for them go meanwhile.
const ATTEMPTS: u32 = 5;

/// Runs a command where nothing can be reached but what comes out at our sockets.
async fn behind_walls(
    interceptor: Rc<Interceptor>,
    Inside { view, masks, hidden, own }: Inside,
    folder: &Folder,
    bundle: String,
    environment: Vec<(String, Option<String>)>,
    command: &[OsString],
    ignored: Vec<Signal>,
) -> Result<u8, Failure> {
    let addresses = isolate::addresses(interceptor.hosts().map(|(host, _)| host));
    let hosts = folder.write("hosts", &isolate::hosts_file(&addresses))?;
    let program = own_program()?;
    folder.write("valetd", "")?; // where this program goes
    let (proxy, urls) = (listen(folder, isolate::PROXY)?, listen(folder, isolate::URLS)?);
    let serving = interceptor.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = proxy.accept().await {
            tokio::task::spawn_local(serving.clone().serve_stream(stream));
        }
    });
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = urls.accept().await {
            tokio::task::spawn_local(isolate::carry(own.clone(), stream));
        }
    });
    let signals = Rc::new(listen(folder, isolate::SIGNALS)?);
    let mut attempts = 1..ATTEMPTS;
    loop {
        let walls = Walls::new(&view, &masks, &hidden, folder, &program, &bundle, &hosts)?;
        let mut bubblewrap = Command::new("bwrap");
        bubblewrap.args(&walls.arguments).arg(format!("{}/valetd", isolate::INSIDE)).arg("exec-relay");
        bubblewrap.args(isolate::relayed(interceptor.hosts(), &addresses));
        variables::apply(&mut bubblewrap, environment.clone());
        child::inherits_only(&mut bubblewrap, walls.descriptors());
        match under_bubblewrap(bubblewrap, command, &signals, &ignored).await {
            Err(_) if walls.have_lost_a_place() && attempts.next().is_some() => {
                remark("what was to be hidden has gone meanwhile, so the walls are built again");
            }
            ran => return ran,
        }
    }
}

fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::new(error).while_doing("finding this program"))
}

fn listen(folder: &Folder, name: &str) -> Result<UnixListener, Failure> {
    UnixListener::bind(folder.path().join(name))
        .map_err(|error| Failure::new(error).while_doing("opening a socket for the command"))
}

/// Runs a command by bubblewrap and our relay, which is called up to the command itself, and asks for signals at `signals`.
async fn under_bubblewrap(
    mut bubblewrap: Command,
    command: &[OsString],
    signals: &Rc<UnixListener>,
    ignored: &[Signal],
) -> Result<u8, Failure> {
    bubblewrap.args(ignored.iter().flat_map(|signal| ["--ignored".to_owned(), signal.as_raw().to_string()]));
    bubblewrap.arg("--").args(command);
    // what a terminal sends to everybody, the command gets from there, and decides
    child::ignores(&mut bubblewrap, vec![Signal::INT.as_raw(), Signal::QUIT.as_raw()]);
    let line = Rc::new(RefCell::new(None::<UnixStream>));
    let early = Rc::new(Cell::new(None));
    let hand_over = |line: &UnixStream, signal: Signal| {
        let _ = line.try_write(&[u8::try_from(signal.as_raw()).unwrap_or_default()]);
    };
    let (signals, its, before) = (signals.clone(), line.clone(), early.clone());
    let waiting = tokio::task::spawn_local(async move {
        if let Ok((stream, _)) = signals.accept().await {
            if let Some(signal) = before.get() {
                hand_over(&stream, signal);
            }
            its.replace(Some(stream));
        }
    });
    let (to, before) = (line.clone(), early.clone());
    let deliver = move |_, signal: Signal, has_it: bool| match &*to.borrow() {
        Some(_) if has_it => {}
        Some(line) => hand_over(line, signal),
        // the command has not begun, and gets it as soon as it has; bubblewrap would leave half of itself behind
        None if signal != Signal::WINCH => before.set(Some(signal)),
        None => {}
    };
    let ran = supervise::run(bubblewrap, ignored, deliver, None).await;
    waiting.abort();
    match ran {
        Ok(_) if line.borrow().is_none() && early.get().is_some() => {
            Ok(early.get().map_or(0, supervise::code_of)) // it has not run
        }
        Ok(status) if line.borrow().is_none() && !status.success() => Err(isolate::refused()),
        Ok(status) => Ok(supervise::code(status)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(isolate::missing()),
        Err(error) => Err(Failure::new(error).while_doing("running bwrap")),
    }
}

/// What is reached past proxies: as before, but for what covers a host that we stand for, and this machine.
fn without(before: Option<String>, hosts: &[String]) -> String {
    let covers = |entry: &str| {
        let entry = entry.split(':').next().unwrap_or_default().trim_start_matches('*').trim_matches('.');
        let entry = entry.to_ascii_lowercase();
        hosts.iter().any(|host| *host == entry || host.ends_with(&format!(".{entry}")) || entry.is_empty())
    };
    let before = before.unwrap_or_default();
    let mut kept: Vec<&str> = before
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty() && !covers(entry))
        .collect();
    let missing: Vec<&str> = ["localhost", "127.0.0.1", "::1"].into_iter().filter(|own| !kept.contains(own)).collect();
    kept.extend(missing);
    kept.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_excepts_from_proxies_stays_excepted_but_for_hosts_that_we_stand_for() {
        let hosts = ["api.example".to_owned(), "auth.corp.example".to_owned()];
        for (before, expected) in [
            (None, ""),
            (Some("*"), ""),
            (Some("intranet,10.0.0.0/8"), "intranet,10.0.0.0/8,"),
            (Some("api.example, other.example"), "other.example,"),
            (Some(".corp.example example"), ""),
            (Some("xapi.example,api.example:443"), "xapi.example,"),
            (Some("localhost,*.local"), "localhost,*.local,"),
        ] {
            let found = without(before.map(str::to_owned), &hosts);
            let own = if expected.contains("localhost") { "127.0.0.1,::1" } else { "localhost,127.0.0.1,::1" };
            assert_eq!(found, format!("{expected}{own}"), "{before:?}");
        }
    }
}
