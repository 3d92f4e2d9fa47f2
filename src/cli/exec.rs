//! `valetd exec`

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use super::arguments::{parse_account, parse_route, parse_user};
use super::configuration::{Loaded, load_config, places};
use super::failure::{Exit, Failure};
use super::lending::lend;
use super::options::Options;
use super::output::print;
use super::runtime::block_on;
use super::text::parse_length;
use super::wait::until_usable;
use crate::client_keys::{AddressKind, Limits, NewKey, Rights};
use crate::config::{self, Account, AccountId, Config, ImportSource, Route, RouteName};
use crate::control::client::{Client, ClientError};
use crate::control::keys::UNKNOWN_JSON;
use crate::control::report::{RouteReport, StatusReport};
use crate::lent::{Daemon, Lent};
use crate::platform::environment;
use crate::platform::paths::Paths;
use crate::platform::peer::own_uid;
use crate::platform::random;
use crate::secret::Secret;
use intercept::Reached;
use isolate::View;
use mounts::Mount;
use routes::{Asked, accounts_of};
use variables::{base_url, hosts, past_proxies, shown, variables};

mod clients;
mod folder;
mod help;
mod intercept;
mod isolate;
mod kept_out;
mod mounts;
mod private;
pub(super) mod relay;
mod routes;
mod services;
mod streams;
mod supervise;
mod syscalls;
mod trust;
mod variables;

/// Run a command that finds valetd in its environment
#[derive(clap::Args, Debug)]
#[command(
    group(clap::ArgGroup::new("named").args(["routes", "accounts"]).multiple(true)),
    long_about = help::long(),
    after_help = help::AFTER
)]
pub(super) struct Arguments {
    /// The route that is needed, at an address of the command's own; may be
    /// given again. Without it, all of them, at the common addresses
    #[arg(short, long = "route", value_name = "ROUTE", value_parser = parse_route)]
    routes: Vec<RouteName>,
    /// All routes of this account, as if each were named; may be given again
    #[arg(long = "account", value_name = "NAME", value_parser = parse_account)]
    accounts: Vec<AccountId>,
    /// How long to wait for usable tokens: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_length)]
    timeout: Duration,
    /// Put the key into the addresses, for what runs as another user
    #[arg(long)]
    key_in_url: bool,
    /// Whose processes may present the key, if the command does not run as you
    #[arg(long, value_name = "NAME", value_parser = parse_user)]
    for_user: Option<u32>,
    /// Stand for the routes' own hosts, for programs that cannot be pointed
    /// anywhere
    #[arg(long, conflicts_with_all = ["for_user", "key_in_url"])]
    intercept: bool,
    /// Do not, although the provider's preset says so
    #[arg(long, conflicts_with = "intercept")]
    no_intercept: bool,
    /// With --intercept: refuse what no route leads to
    #[arg(long)]
    only: bool,
    /// In namespaces of its own (by bubblewrap), where nothing can be reached but
    /// the routes of -r: for agents, and for code that is not trusted
    #[arg(long, requires = "named", conflicts_with_all = ["for_user", "key_in_url", "no_intercept"])]
    isolate: bool,
    /// With --isolate or --only: another host that may be reached, and what is
    /// below it; may be given again
    #[arg(long, value_name = "HOST")]
    allow: Vec<String>,
    /// With --isolate: what the command may change besides the working
    /// directory; may be given again
    #[arg(long, value_name = "PATH", requires = "isolate")]
    bind: Vec<PathBuf>,
    /// With --isolate: what it may read besides the system; may be given again
    #[arg(long, value_name = "PATH", requires = "isolate")]
    ro: Vec<PathBuf>,
    /// With --intercept: the file of authorities that the whole system reads is
    /// another one for the command (by bubblewrap), for wget, pycurl, R and what
    /// else reads no variable; without it where that is forbidden
    #[arg(long, conflicts_with_all = ["for_user", "key_in_url", "no_intercept", "isolate"])]
    trust_mount: bool,
    /// With --intercept: tell Java, too (JAVA_TOOL_OPTIONS), which says so on
    /// standard error
    #[arg(long, conflicts_with_all = ["for_user", "key_in_url", "no_intercept", "isolate"])]
    java: bool,
    /// Run your shell
    #[arg(long, conflicts_with = "command")]
    shell: bool,
    /// With --intercept: show what went where
    #[arg(short, long)]
    verbose: bool,
    /// Run nothing: print what the command would find in its environment, and
    /// what is taken out of it; `[secret]` stands for the key. The addresses are
    /// of this call, and gone with it. No token is waited for
    #[arg(long)]
    print_env: bool,
    /// The command and its arguments
    #[arg(required_unless_present_any = ["shell", "print_env"], trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) fn perform(options: &Options, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments {
        routes, accounts, timeout, key_in_url, for_user, mut intercept, no_intercept, only, verbose, ..
    } = arguments;
    let Arguments { isolate, allow, bind, ro, trust_mount, java, shell, print_env, mut command, .. } = arguments;
    intercept |= isolate || trust_mount || java || only;
    let allow = allowed_hosts(allow, only || isolate)?;
    if isolate {
        streams::refuse_ways_out()?;
        isolate::refuse_this_machine(&allow)?;
    }
    if shell {
        command = vec![environment::value("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    }
    let asked = Asked { routes, accounts };
    let places = places(options)?;
    let (report, names, held, own, address, reached) = block_on(async {
        let report = until_usable(options, &places.socket, timeout, |report| {
            refuse_if_strict(report)?;
            let wanted = asked.of(report)?;
            Ok(if print_env { Vec::new() } else { accounts_of(report, &wanted) })
        });
        let report = report.await?;
        let wanted = asked.of(&report)?;
        let reached = reached(&places, &wanted, intercept, {
            // only where it is asked for by name does a command without -r change
            no_intercept || key_in_url || for_user.is_some() || !asked.is_named()
        })?;
        let names: Vec<RouteName> = wanted.iter().filter_map(|route| RouteName::new(&route.name)).collect();
        let rights = Rights { routes: names.clone(), methods: Vec::new(), paths: Vec::new(), messages: Vec::new() };
        // an address with the key in it is in the arguments of what is called with it, which every user can read
        let limits = Limits { user: Some(for_user.unwrap_or_else(own_uid)), ..Limits::default() };
        let new = NewKey { name: None, rights, lifetime: None, rate: None, limits, ephemeral: true };
        // a TCP port of a daemon that has stopped can be another program's before the wall is down
        let kind = if isolate { AddressKind::RoutesOnUnix } else { AddressKind::Routes };
        let address = asked.is_named().then_some(kind);
        let held = Client::hold_key(&places.socket, new, address).await.map_err(|error| refused(error, options))?;
        let address = held.report.address.clone();
        let own = address.as_deref().map(base_url);
        if own.is_none() && asked.is_named() {
            return Err(Failure::say("the daemon gave the command no address of its own"));
        }
        Ok::<_, Failure>((report.clone(), names, held, own, address, reached))
    })??;
    let (key, mut line) = match reached.is_some() {
        // the proxy of the command ends with us, and what we hold
        true => {
            let (key, line) = held.into_parts();
            (key, Some(line))
        }
        false => (held.survive_exec().map_err(Failure::new)?, None),
    };
    let inside = format!("http://{}", SocketAddr::from(isolate::URLS_ADDRESS));
    let base = if isolate { own.as_ref().map(|_| inside) } else { own.clone() };
    let its = base.as_ref().map(|base| (base.as_str(), names.as_slice()));
    let variables = variables(&report, its, &key, key_in_url);
    let past_proxies = past_proxies(environment::text, &hosts(&variables));
    let mut environment: Vec<(String, Option<String>)> =
        variables_with_tokens(&places).into_iter().map(|name| (name, None)).collect();
    environment.extend(variables.into_iter().chain(past_proxies));
    let Some(reached) = reached else {
        if print_env {
            print(&shown(&environment, &[&key], environment::is_set))?;
            return Ok(Exit::Fine);
        }
        let (program, rest) = command.split_first().expect("clap requires a command");
        let mut child = Command::new(program);
        child.args(rest);
        variables::apply(&mut child, environment);
        return Err(supervise::cannot_be_run(child.exec(), program));
    };
    let allowed = (only || isolate).then_some(allow);
    // nobody but the command is in there
    let needs_key = !isolate && report.routes.iter().any(|route| route.require_key && reached.has(&route.name));
    if needs_key && java {
        let says = "a route of this command asks for a key (require_key), and Java shows a proxy none";
        return Err(Failure::say(says).with_remedy("leave out --java, or use the route's URL with VALETD_KEY"));
    }
    let password = match needs_key {
        true => Some(password()?),
        false => None,
    };
    let task = intercept::Task {
        wanted: reached.upstreams.iter().filter_map(|(name, _)| RouteName::new(name)).collect(),
        placeholders: reached.accounts.iter().flat_map(|account| account.exec.env.clone()).collect(),
        settings: intercept::settings(&reached, allowed, password, verbose),
        folder: places.socket.parent().unwrap_or(Path::new("/")).to_owned(),
        environment,
        to_show: print_env.then_some(key.clone()),
        command,
        trust_mount,
        java,
        walls: match isolate {
            false => None,
            true => {
                #[expect(clippy::disallowed_methods, reason = "the command runs where it was called")]
                let working = std::env::current_dir().map_err(|error| {
                    Failure::new(error)
                        .while_doing("finding the working directory")
                        .with_remedy("run it in a folder that is there")
                })?;
                let view = isolate::View::new(places.home.clone(), working, bind, ro)?;
                let (masks, hidden) = masks(&view, &places, &report)?;
                let socket = address.as_deref().and_then(|address| address.strip_prefix("unix:"));
                let lent = socket.zip(line.take()).map(|(socket, line)| Lent {
                    socket: socket.into(),
                    key: key.clone(),
                    line,
                });
                let own = asking_again(lent, places.socket.clone(), names, AddressKind::RoutesOnUnix);
                Some(intercept::Inside { view, masks, hidden, own: Rc::new(own) })
            }
        },
    };
    let modes = isolate.then(streams::Modes::now);
    let ran = block_on(async {
        // behind the wall nobody but the command is there
        let kind = AddressKind::Upstreams { open: !isolate && task.settings.password.is_none() };
        let first = lend(&places.socket, task.wanted.clone(), Vec::new(), kind)
            .await
            .map_err(|error| refused(error, options))?;
        let daemon = asking_again(Some(first), places.socket.clone(), task.wanted.clone(), kind);
        intercept::run(task, daemon).await
    });
    if let Some(modes) = modes {
        modes.put_back();
    }
    let ran = ran??;
    drop(line);
    std::process::exit(i32::from(ran))
}

/// The hosts of --allow, as they are compared.
fn allowed_hosts(hosts: Vec<String>, is_walled: bool) -> Result<Vec<String>, Failure> {
    if !hosts.is_empty() && !is_walled {
        let words = "--allow says what else is let through, and nothing is kept back here";
        return Err(Failure::say(words).with_remedy("add --only or --isolate").with_exit(Exit::Usage));
    }
    let host = |text: String| {
        let host = text.trim_end_matches('.').to_ascii_lowercase();
        let good = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        let is_host = !host.is_empty() && !host.starts_with('.') && host.chars().all(good);
        let has_port = host.matches(':').count() == 1;
        match is_host && !has_port {
            true => Ok(host),
            false => Err(Failure::say(format!("--allow {text}: is no name of a host"))
                .with_remedy("write the name alone, as in --allow pypi.org: what lies below it is allowed, too")
                .with_exit(Exit::Usage)),
        }
    };
    hosts.into_iter().map(host).collect()
}

/// A password that nobody can guess.
fn password() -> Result<Secret, Failure> {
    random::secret::<24>().map_err(Failure::new)
}

/// What the routes lead to, if the command is to find a proxy that stands for their hosts: because it is wanted, or because
/// an account says so and it can be.
fn reached(
    places: &Paths,
    routes: &[&RouteReport],
    is_wanted: bool,
    is_unwanted: bool,
) -> Result<Option<Reached>, Failure> {
    let config = usable_config(places)?;
    let names = |route: &&Route| routes.iter().any(|wanted| wanted.name == route.name.as_str());
    let routes: Vec<&Route> = config.routes.iter().filter(names).collect();
    let of_account = |route: &&Route| config.accounts.get(&route.account);
    let mut accounts: Vec<Account> = Vec::new();
    for account in routes.iter().filter_map(of_account) {
        if !accounts.iter().any(|known| known.id == account.id) {
            accounts.push(account.clone());
        }
    }
    if !is_wanted && (is_unwanted || !accounts.iter().any(|account| account.exec.intercept)) {
        return Ok(None);
    }
    let upstreams = routes.iter().map(|route| (route.name.to_string(), route.upstream.clone())).collect();
    let reached = Reached { upstreams, accounts };
    match intercept::refuse_what_cannot_be(&reached) {
        Ok(()) => Ok(Some(reached)),
        Err(failure) if is_wanted => Err(failure),
        Err(failure) => {
            anstream::eprintln!("valetd exec: the routes' own hosts get no tokens here: {failure}");
            Ok(None)
        }
    }
}

/// Which folders of the system an isolated command must not see, and which files and sockets in others.
fn masks(view: &View, places: &Paths, report: &StatusReport) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Failure> {
    let ours = usable_config(places)?;
    let running = &report.daemon.config_file;
    let others = match *running == places.config_file {
        true => None,
        false => Some(usable_config(&Paths {
            providers_dir: running.with_file_name("providers"),
            config_file: running.clone(),
            state_dir: report.daemon.state_dir.clone(),
            ..places.clone()
        })?),
    };
    let mounts = Mount::of_this_process();
    let kept_out = kept_out::folders(&kept_out::places(places, &ours, others.as_ref(), report), &mounts);
    let runtime = environment::value("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let mut masks = view.masks(&kept_out, runtime.as_deref(), &mounts)?;
    let services = services::hidden_from(&view.shown(), &mounts);
    let private = private::hidden_from(&view.shown());
    for folder in services.folders.into_iter().chain(private.folders) {
        if !masks.contains(&folder) {
            masks.push(folder);
        }
    }
    Ok((masks, [services.files, private.files].concat()))
}

/// The configuration, which says what a command must not have.
fn usable_config(places: &Paths) -> Result<Config, Failure> {
    // it would say which variables hold secrets that the command must not have, and what it must not reach
    load_config(places).map(|Loaded { config, warnings: _ }| config).map_err(|problems| {
        let words = "the configuration cannot be used, so that nobody knows what the command must not have";
        Failure::say(words).with_problems(problems).with_remedy("correct it and try again")
    })
}

/// What the daemon has lent, and lends after each of its restarts.
fn asking_again(first: Option<Lent>, socket: PathBuf, routes: Vec<RouteName>, kind: AddressKind) -> Daemon {
    let again = move || {
        let (socket, routes) = (socket.clone(), routes.clone());
        let lent = async move { lend(&socket, routes, Vec::new(), kind).await.map_err(|error| error.to_string()) };
        Box::pin(lent) as std::pin::Pin<Box<dyn Future<Output = _>>>
    };
    Daemon::new(first, Box::new(again))
}

/// The variables that a refresh token may be in, for `login --import`: those of the configuration, if it can be used, and
/// those of all presets. A command that is lent a route is not to have what renews it.
fn variables_with_tokens(places: &Paths) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = config::import_variables().collect();
    if let Ok(Loaded { config, warnings: _ }) = load_config(places) {
        let sources = config.accounts.values().flat_map(|account| &account.sign_in.import);
        names.extend(sources.filter_map(|source| match source {
            ImportSource::Environment(name) => Some(name.clone()),
            ImportSource::JsonFile(_) | ImportSource::GbdxConfig(_) => None,
        }));
        // a real one may be where a placeholder goes
        let placeholders = config.accounts.values().flat_map(|account| &account.exec.env);
        names.extend(placeholders.map(|(name, _)| name.clone()));
    }
    names
}

/// Why there is no key. A daemon that knows no addresses of commands was started before the program was replaced.
fn refused(error: ClientError, options: &Options) -> Failure {
    match &error {
        ClientError::Refused(problem) if problem.detail == UNKNOWN_JSON => {
            Failure::say("the daemon that runs is older than this program")
                .with_remedy("systemctl --user restart valetd")
        }
        _ => Failure::of_call(error, options),
    }
}

/// The setting `strict_exec`: no command runs while it could use a route without its key.
fn refuse_if_strict(report: &StatusReport) -> Result<(), Failure> {
    let open = report.routes.iter().find(|route| report.daemon.strict_exec && !route.require_key);
    open.map_or(Ok(()), |route| {
        let says = format!("strict_exec = true, and the route {} can be used without a key", route.name);
        Err(Failure::say(says).with_remedy("set require_key = true at the top of the configuration"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn strict_exec_is_content_when_no_route_can_be_used_without_a_key() {
        let mut report = report();
        assert!(refuse_if_strict(&report).is_ok(), "it is not set");
        report.daemon.strict_exec = true;
        let failure = refuse_if_strict(&report).unwrap_err();
        assert_eq!(failure.remedy.as_deref(), Some("set require_key = true at the top of the configuration"));
        report.routes.iter_mut().for_each(|route| route.require_key = true);
        assert!(refuse_if_strict(&report).is_ok());
    }
}
