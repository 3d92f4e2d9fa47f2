//! Whether a client runs in a container, as far as the host can tell: where containers' processes need a client key.
//!
//! A process is at home if it is in the user, process and network namespaces that valetd is in, in no control group that a
//! container engine or a machine manager has made, and none of the programs that carry containers' connections to the host.
//! What may not be looked at, and what is gone, counts as not at home: the setting asks for proof. A container that shares
//! all of these namespaces, in a control group of another name, is not told apart.
//!
//! Finding the process of a TCP connection takes milliseconds, so a thread does it, once a connection; and the thread is
//! started before the sandbox is drawn, from within which other processes cannot be looked at.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use tokio::sync::oneshot;
use tracing::debug;

use super::peer::{self, Ends, PeerLookup};

/// The namespaces that a container has of its own. That of mounts tells nothing: every sandboxed service has one.
const NAMESPACES: [&str; 3] = ["user", "pid", "net"];

/// Programs of the host that carry connections out of containers and virtual machines of the same user.
const RELAYS: [&str; 8] =
    ["slirp4netns", "pasta", "pasta.avx2", "passt", "passt.avx2", "rootlesskit", "gvproxy", "vpnkit"];

/// What proc_pid_exe(5) puts behind the name of a program whose file has been replaced or removed, as by an update.
const DELETED: &str = " (deleted)";

/// Asks the thread. Cheap to clone; the thread ends with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Containers {
    questions: Sender<(Ends, oneshot::Sender<bool>)>,
}

impl Containers {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If there can be no further thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (questions, asked) = channel::<(Ends, oneshot::Sender<bool>)>();
        thread::Builder::new().name("containers".into()).spawn(move || {
            let mut lookup = PeerLookup::new();
            let home = namespaces("self");
            while let Ok((ends, reply)) = asked.recv() {
                if !reply.is_closed() {
                    let _ = reply.send(is_outside_containers(&mut lookup, ends, home.as_ref()));
                }
            }
        })?;
        Ok(Self { questions })
    }

    /// Whether the client of a connection is known not to run in a container.
    pub(crate) async fn is_outside_containers(&self, ends: Ends) -> bool {
        let (reply, answer) = oneshot::channel();
        self.questions.send((ends, reply)).is_ok() && answer.await.unwrap_or(false)
    }
}

fn is_outside_containers(lookup: &mut PeerLookup, ends: Ends, home: Option<&[PathBuf; 3]>) -> bool {
    let processes = match ends {
        Ends::Unix(pid) => pid.into_iter().collect(),
        Ends::Tcp(client, server) => lookup.tcp_owner(client, server).map_or(Vec::new(), peer::processes_with_socket),
    };
    // a socket may have been handed on: whoever has it must be at home
    let at_home = !processes.is_empty() && processes.iter().all(|pid| process_is_outside(*pid, home));
    debug!(?ends, ?processes, at_home, "looked for containers");
    at_home
}

fn process_is_outside(pid: u32, home: Option<&[PathBuf; 3]>) -> bool {
    let found = namespaces(&pid.to_string());
    found.is_some()
        && found.as_ref() == home
        && fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| !are_of_container(&groups))
        && peer::executable(pid).is_some_and(|program| !is_relay(&program))
}

fn namespaces(process: &str) -> Option<[PathBuf; 3]> {
    let link = |name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).ok();
    let [user, pid, net] = NAMESPACES.map(link);
    Some([user?, pid?, net?])
}

fn is_relay(program: &str) -> bool {
    let program = program.strip_suffix(DELETED).unwrap_or(program);
    program.rsplit('/').next().is_some_and(|name| RELAYS.contains(&name) || name.starts_with("qemu-system-"))
}

/// Whether one of a process's control groups (cgroups(7)) is a container's or a virtual machine's, by its name.
fn are_of_container(groups: &str) -> bool {
    const NAMES: [&str; 4] = ["docker", "lxc", "kubepods", "garden"];
    const BEGINNINGS: [&str; 12] = [
        "buildah-",
        "cri-containerd-",
        "crio-",
        "docker-",
        "kubepods",
        "libpod-",
        "libpod_",
        "lxc-",
        "lxc.payload",
        "machine-",
        "nerdctl-",
        "lxc.monitor",
    ];
    let is_id = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let segments = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    segments.into_iter().any(|segment| {
        // docker.service is the engine, on the host
        NAMES.contains(&segment) || is_id(segment) || BEGINNINGS.iter().any(|start| segment.starts_with(start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_control_group_is_known_by_its_name() {
        let id = "0123456789abcdef".repeat(4);
        for (group, expected) in [
            ("0::/".to_owned(), false),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-7.scope".to_owned(), false),
            ("0::/user.slice/user-1000.slice/session-2.scope".to_owned(), false),
            ("0::/system.slice/docker.service".to_owned(), false),
            ("0::/system.slice/containerd.service".to_owned(), false),
            (format!("0::/system.slice/docker-{id}.scope"), true),
            (format!("5:memory:/\n4:pids:/docker/{id}\n0::/"), true),
            (format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container"), true),
            (format!("0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-{id}.scope"), true),
            (format!("0::/kubepods/besteffort/pod7/{id}"), true),
            ("0::/lxc.payload.web/init.scope".to_owned(), true),
            ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope".to_owned(), true),
            (format!("0::/../../{id}"), true),
        ] {
            assert_eq!(are_of_container(&group), expected, "{group}");
        }
    }

    #[test]
    fn relays_are_known_by_the_programs_name() {
        for (program, expected) in [
            ("/usr/bin/slirp4netns", true),
            ("/usr/bin/qemu-system-x86_64", true),
            ("/usr/bin/slirp4netns (deleted)", true),
            ("/usr/bin/curl (deleted)", false),
            ("/usr/bin/curl", false),
            ("/home/me/pasta/curl", false),
        ] {
            assert_eq!(is_relay(program), expected, "{program}");
        }
    }

    #[test]
    fn our_own_process_is_outside_and_one_that_is_gone_is_not() {
        let home = namespaces("self");
        if fs::read_to_string("/proc/self/cgroup").is_ok_and(|groups| !are_of_container(&groups)) {
            assert!(process_is_outside(std::process::id(), home.as_ref()));
        }
        assert!(!process_is_outside(0, home.as_ref()));
        assert!(!is_outside_containers(&mut PeerLookup::new(), Ends::Unix(None), home.as_ref()));
    }
}
