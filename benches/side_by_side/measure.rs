//! What the kernel's books say about a process, about this machine, and what a row of numbers amounts to.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

/// What a process has used so far, all of its threads together. A thread that ends takes its share with it: no peer here
/// ends threads while it works.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// How often it stopped running because it had nothing to do, so how often something woke it.
    pub(crate) wakeups: u64,
}

/// Reads `/proc/PID/task/*/schedstat` (nanoseconds on a CPU come first) and the context switches beside it.
pub(crate) fn usage(pid: u32) -> anyhow::Result<Usage> {
    let mut total = Usage::default();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
    for task in tasks.flatten() {
        // a task may end between the listing and the reading
        let Ok(schedule) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let nanoseconds = schedule.split(' ').next().and_then(|first| first.parse().ok());
        total.cpu += Duration::from_nanos(nanoseconds.context("schedstat without a number")?);
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        total.wakeups += number_after(&status, "voluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(total)
}

impl Usage {
    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage { cpu: self.cpu.saturating_sub(before.cpu), wakeups: self.wakeups.saturating_sub(before.wakeups) }
    }
}

/// In bytes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// Shared pages divided among their users; None where the process hides it from us (one that is not dumpable does,
    /// from everyone but root).
    pub(crate) proportional: Option<u64>,
}

pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let resident = number_after(&status, "VmRSS:").context("no VmRSS")? * 1024;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let proportional = rollup.and_then(|rollup| number_after(&rollup, "Pss:")).map(|kib| kib * 1024);
    Ok(Memory { resident, proportional })
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The value that `share` (0 to 1) of the sorted values do not exceed; 0 of nothing.
pub(crate) fn percentile(sorted: &[u32], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0).into()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => (values[even / 2 - 1] + values[even / 2]) / 2.0,
        odd => values[odd / 2],
    }
}

/// Pins this process, and the threads and children that it will have, to one core.
pub(crate) fn pin_to(core: &str) -> anyhow::Result<()> {
    let pinned = Command::new("taskset").args(["-cp", core, &std::process::id().to_string()]).output();
    let pinned = pinned.context("taskset (util-linux) is needed to pin processes to cores")?;
    ensure!(pinned.status.success(), "taskset: {}", String::from_utf8_lossy(&pinned.stderr).trim());
    Ok(())
}

/// Raises the soft limit on open files to the hard one, for this process and its children; what it is then.
pub(crate) fn raise_open_files() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What a reader must know of this machine to judge the figures.
pub(crate) fn machine() -> serde_json::Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.trim()));
    json!({
        "cpu": model.unwrap_or("unknown"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "load average at the start": read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    })
}
