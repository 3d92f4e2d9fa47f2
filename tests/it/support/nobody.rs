//! Another user of the same machine, whom only root can play.

use std::process::Command;

/// A user that every machine has.
pub const NOBODY: (&str, &str) = ("nobody", "65534");

pub fn can_play_nobody() -> bool {
    let installed =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    rustix::process::geteuid().is_root() && installed("setpriv") && installed("curl")
}

/// The status that `nobody`'s curl gets; 000 without any.
pub fn as_nobody(arguments: &[&str]) -> String {
    let uid = NOBODY.1;
    let mut command = Command::new("setpriv");
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups", "curl"]);
    curl(&mut command, arguments)
}

/// The statuses that a curl gets; 000 without any.
pub fn curl(command: &mut Command, arguments: &[&str]) -> String {
    command.args(["--silent", "--max-time", "30", "--noproxy", "*"]);
    let output = command.args(["--output", "/dev/null", "--write-out", "%{http_code}"]).args(arguments).output();
    String::from_utf8(output.expect("it runs").stdout).expect("a number")
}
