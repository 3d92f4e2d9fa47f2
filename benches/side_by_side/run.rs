//! A run from the arguments to the report: builds valetd, sets the stage, and visits every peer with every workload.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};

use crate::measure::{machine, pin_to, raise_open_files};
use crate::origin::Origin;
use crate::peers::{Kind, Peer, Program, Via};
use crate::python;
use crate::relay::relay;
use crate::report::Results;
use crate::workloads::{Pace, Stage, Workload, idle};

/// The load generator's and the origin's core; see [`crate::peers::PROXY_CORE`].
const OUR_CORE: &str = "1";

/// No single measurement takes half of this unless something hangs.
const PATIENCE: Duration = Duration::from_secs(40);

/// After this, no further measurement is begun, and what there is so far is reported.
const LONGEST_RUN: Duration = Duration::from_secs(15 * 60);

#[derive(Parser)]
#[command(name = "side_by_side", about = "Measures valetd beside other proxies")]
struct Arguments {
    /// Rounds over all peers; the figures are medians over the rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only the workloads whose names begin so
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    workloads: Vec<String>,
    /// Only these of: direct, relay, nginx, haproxy, caddy, envoy, valetd
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    peers: Vec<String>,
    /// The valetd to measure [default: what `cargo build --release` makes]
    #[arg(long, value_name = "PATH")]
    valetd: Option<PathBuf>,
    /// One short round: shows that everything works
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write a plot too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the relay
    #[arg(long, hide = true, num_args = 2, value_names = ["LISTEN", "UPSTREAM"])]
    relay: Option<Vec<SocketAddr>>,
}

pub(crate) fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some([listen, upstream]) = arguments.relay.as_deref() {
        return relay(*listen, *upstream);
    }
    if !arguments.bench {
        // `cargo test --all-targets` starts every benchmark to see that it starts
        println!("side_by_side measures for minutes: run it with `cargo bench --bench side_by_side`");
        return Ok(());
    }

    let mut workloads = chosen_workloads(&arguments.workloads)?;
    let kinds = chosen_peers(&arguments.peers)?;
    let mut results = Results::default();
    // before anything is pinned: the compiler may use every core
    let valetd = match (kinds.contains(&Kind::Valetd), &arguments.valetd) {
        (false, _) => None,
        (true, Some(path)) => Some(path.canonicalize().with_context(|| format!("--valetd {}", path.display()))?),
        (true, None) => Some(build_valetd()?),
    };
    let about_machine = machine();
    // pinned, we would be told of one
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores >= 2 {
        pin_to(OUR_CORE)?;
    } else {
        results.notes.push("anything worth believing: this machine has one core, so load and proxies share it".into());
    }

    let mut programs = Vec::new();
    for kind in kinds {
        match Program::find(kind, valetd.as_deref()) {
            Ok(program) => programs.push(program),
            Err(error) => results.notes.push(format!("{}: {error:#}", kind.name())),
        }
    }
    let mut versions: serde_json::Map<_, _> =
        programs.iter().filter_map(|program| Some((program.kind.name().into(), program.version()?.into()))).collect();
    if workloads.iter().any(|workload| workload.needs_python()) {
        match python::version() {
            Ok(version) => drop(versions.insert("python3".into(), version.into())),
            Err(error) => {
                workloads.retain(|workload| !workload.needs_python());
                results.notes.push(format!("what Python is the client of: {error:#}"));
            }
        }
    }
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let about = json!({ "machine": about_machine, "versions": versions, "rounds": rounds, "quick": arguments.quick });

    let open_files = raise_open_files();
    let origin = Origin::start()?;
    let pace = if arguments.quick { &Pace::QUICK } else { &Pace::FULL };
    let stage = Stage { origin: &origin, pace, open_files, cores };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            done = perform(&programs, &workloads, rounds, &stage, &mut results) => done,
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and_then(|()| bail!("interrupted")),
        }
    })?;
    publish(&results, &about, &arguments)
}

fn chosen_workloads(beginnings: &[String]) -> anyhow::Result<Vec<Workload>> {
    let wanted = |workload: &Workload| {
        beginnings.is_empty() || beginnings.iter().any(|beginning| workload.name().starts_with(beginning))
    };
    let chosen: Vec<_> = Workload::ALL.into_iter().filter(wanted).collect();
    let names: Vec<_> = Workload::ALL.into_iter().map(Workload::name).collect();
    ensure!(!chosen.is_empty(), "--workloads: none begins so; there are {}", names.join(", "));
    Ok(chosen)
}

fn chosen_peers(names: &[String]) -> anyhow::Result<Vec<Kind>> {
    if names.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    let kind = |name: &String| {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .with_context(|| format!("--peers: no peer is called {name}"))
    };
    names.iter().map(kind).collect()
}

fn build_valetd() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--release", "--bin", "valetd", "--message-format", "json-render-diagnostics"];
    let built = Command::new(cargo)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(built.status.success(), "cargo build --release failed");
    let executable = String::from_utf8_lossy(&built.stdout).lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executable.context("cargo build --release named no executable")
}

async fn perform(
    programs: &[Program],
    workloads: &[Workload],
    rounds: u32,
    stage: &Stage<'_>,
    results: &mut Results,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut peers = Vec::new();
    for program in programs {
        let started = async {
            let peer = Peer::start(program, stage.origin).await?;
            // over HTTP/2 when that is measured: a peer that cannot do it is good for all the rest
            for via in [Via::Plain, Via::Tls, Via::Distant] {
                peer.adds_the_token(via).await?;
            }
            anyhow::Ok(peer)
        };
        match started.await {
            Ok(peer) => peers.push((program, peer)),
            Err(error) => results.notes.push(format!("{}: {error:#}", program.kind.name())),
        }
    }
    for note in &results.notes {
        eprintln!("skipped: {note}");
    }
    ensure!(!peers.is_empty(), "no peer works: {}", results.notes.join("; "));

    for round in 0..rounds {
        for &workload in workloads.iter().filter(|workload| round == 0 || !workload.once()) {
            if begun.elapsed() > LONGEST_RUN {
                results.notes.push(format!(
                    "{} and what follows, from round {} on: out of time",
                    workload.name(),
                    round + 1
                ));
                return Ok(());
            }
            eprintln!("{:4} s  round {} of {rounds}: {}", begun.elapsed().as_secs(), round + 1, workload.title());
            if workload == Workload::Idle {
                let programs: Vec<_> = peers.iter().map(|(program, _)| *program).collect();
                for (kind, outcome) in idle(&programs, stage).await {
                    record(results, workload, kind, outcome.map(Some));
                }
                continue;
            }
            for turn in 0..peers.len() {
                let (program, peer) = &peers[(turn + round as usize) % peers.len()];
                let measured = tokio::time::timeout(PATIENCE, workload.measure(peer, program, stage)).await;
                record(results, workload, peer.kind, measured.unwrap_or_else(|_| Err(anyhow::anyhow!("it hangs"))));
            }
        }
    }
    Ok(())
}

fn record(
    results: &mut Results,
    workload: Workload,
    kind: Kind,
    outcome: anyhow::Result<Option<Vec<crate::workloads::Figure>>>,
) {
    match outcome {
        Ok(Some(sample)) => results.add(workload, kind, sample),
        Ok(None) => {}
        Err(error) => {
            let note = format!("{} of {}: {error:#}", workload.name(), kind.name());
            // what a peer cannot do, it cannot do in any round
            if !results.notes.contains(&note) {
                results.notes.push(note);
            }
        }
    }
}

fn publish(results: &Results, about: &Value, arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(path) = &arguments.svg {
        let write = |path: &Path| std::fs::write(path, results.plot(about));
        write(path).with_context(|| format!("--svg {}", path.display()))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&results.json(about))?);
    } else {
        print!("{}", results.table(about));
    }
    Ok(())
}
