//! valetd beside nginx, HAProxy, Caddy, Envoy, a bare relay and no proxy at all: the same work, on the same machine, in one run.
//!
//! ```text
//! cargo bench --bench side_by_side -- [--quick] [--rounds 3] [--workloads small,down] [--peers nginx,valetd]
//!                                     [--valetd PATH] [--json] [--svg FILE]
//! ```
//!
//! **The stage.** Everything is on loopback. Each proxy has one worker and is pinned to core 0; the load generator and the
//! origin are threads of this process and pinned to core 1. (Only `scaling-2` gives valetd a second worker, and a second core.)
//! Every proxy adds `Authorization: Bearer <900 bytes>` to each request, keeps connections to the origin, and speaks HTTP/1.1
//! to both sides, save where HTTP/2 is what is measured; what it adds is checked before anything is measured. The static
//! proxies get one port for each route and rewrite no path, which is the cheapest that they can do; valetd is configured as a
//! person would: one port, path prefixes (a port of its own for gRPC, whose clients know no prefix), and all of its checks.
//!
//! **The figures.** CPU is what the kernel's scheduler charged to the proxy's process (`/proc/PID/task/*/schedstat`): it
//! does not depend on what the load generator manages to do, as throughput does when it shares a machine. Each round visits
//! every peer, starting with another one each time; a figure is the median of its rounds. Absolute values move with the
//! machine's mood; the ratios within one run are what to look at. Peers that are not installed are skipped with a word, and so
//! is what needs Python where there is none.
//!
//! Instructions are the exception: callgrind counts those of the proxy itself, none of the kernel's, and their number stays
//! within one per cent however busy the machine is. So they show a regression that the other figures hide in their noise; not
//! what a request costs, as most of that is the kernel's. Under valgrind a reading of the clock is a system call, and the
//! processor has no AVX-512: for TLS the count tells of another code path than the one that is in use elsewhere.
//!
//! **To read the code**: [`workloads`] says what is measured, [`peers`] how each proxy is set up, [`origin`] and [`load`] are
//! the two ends ([`http2`] is both, [`python`] a client of its own, [`exec`] a command of valetd's), [`measure`] asks the kernel, [`report`] is pure and makes
//! the table, the JSON and the plot.

#![allow(clippy::disallowed_methods)] // a program of its own, which sets its stage

#[cfg(target_os = "linux")]
mod exec;
#[cfg(target_os = "linux")]
mod http2;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod origin;
#[cfg(target_os = "linux")]
mod peers;
#[cfg(target_os = "linux")]
mod python;
#[cfg(target_os = "linux")]
mod relay;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod workloads;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("side_by_side reads the kernel's books in /proc: it runs on Linux only");
}
