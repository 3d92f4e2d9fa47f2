//! Another user of the same machine, whom only root can play.

use std::process::Command;
use std::thread;

use rustix::process::Uid;

/// A user that every machine has.
pub const NOBODY: (&str, &str) = ("nobody", "65534");

/// What makes `nobody` run the command that follows.
pub const AS_NOBODY: [&str; 6] = ["setpriv", "--reuid", NOBODY.1, "--regid", NOBODY.1, "--clear-groups"];

/// Whether this is root; says so if it is not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can do this");
    }
    root
}

pub fn can_play_nobody() -> bool {
    let installed =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    rustix::process::geteuid().is_root() && installed("setpriv") && installed("curl")
}

/// Does something as `nobody`, who then owns the sockets that it opens.
pub fn act_as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let somebody_else = scope.spawn(|| {
            let nobody = Uid::from_raw(NOBODY.1.parse().expect("a number"));
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may be anybody");
            act()
        });
        somebody_else.join().expect("no panic")
    })
}

/// The status that `nobody`'s curl gets; 000 without any.
pub fn as_nobody(arguments: &[&str]) -> String {
    let mut command = Command::new(AS_NOBODY[0]);
    command.args(&AS_NOBODY[1..]).arg("curl");
    curl(&mut command, arguments)
}

/// What `nobody`'s curl is answered.
pub fn said_to_nobody(arguments: &[&str]) -> String {
    let mut command = Command::new(AS_NOBODY[0]);
    command.args(&AS_NOBODY[1..]).arg("curl").args(["--silent", "--max-time", "30", "--noproxy", "*"]).args(arguments);
    String::from_utf8_lossy(&command.output().expect("it runs").stdout).into_owned()
}

/// The statuses that a curl gets; 000 without any.
pub fn curl(command: &mut Command, arguments: &[&str]) -> String {
    command.args(["--silent", "--max-time", "30", "--noproxy", "*"]);
    let output = command.args(["--output", "/dev/null", "--write-out", "%{http_code}"]).args(arguments).output();
    String::from_utf8(output.expect("it runs").stdout).expect("a number")
}
