//! Signals of a command that `valetd exec` stays beside.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::company::{Scene, has_walls};
use crate::support::terminal::Terminal;
use crate::support::{VALETD, eventually, words};

fn ways() -> Vec<&'static str> {
    let mut ways = vec!["--intercept"];
    if has_walls() {
        ways.extend(["--isolate", "--trust-mount"]);
    }
    ways
}

fn work(scene: &Scene) -> std::path::PathBuf {
    let folder = scene.home().path("work");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn what_was_ignored_before_stays_ignored_in_the_command() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let folder = work(&scene);
    for way in ["--no-intercept"].into_iter().chain(ways()) {
        let inner = "for s in HUP INT TERM USR1; do kill -$s $$; done; echo alive; kill -QUIT $$; echo not";
        let script = format!("trap '' HUP INT TERM USR1; exec {VALETD} exec -r api {way} -- sh -c '{inner}'");
        let mut shell = Command::new("env");
        scene.home().settle(&mut shell);
        // whatever this run was started with
        shell
            .args(["--default-signal=HUP,INT,QUIT,TERM,USR1", "sh", "-c", &script])
            .env("https_proxy", scene.proxy_url())
            .current_dir(&folder);
        let output = shell.output().expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "alive\n", "{way}: {}", words(&output));
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().expect("a signal"));
        assert_eq!(code, 131, "{way}: {}", words(&output));
    }
}

#[test]
fn an_interrupt_for_exec_alone_reaches_the_command_in_the_foreground_and_one_that_is_typed_does_once() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let folder = work(&scene).display().to_string();
    for way in ways() {
        for is_typed in [false, true] {
            let inner = "n=0; trap \"n=\\$((n+1))\" INT; echo ready; while [ $n = 0 ]; do sleep 0.05; done; sleep 0.5; \
                         echo got $n; exit 9";
            let script = format!("cd {folder}; echo pid $$.; exec {VALETD} exec -r api {way} -- sh -c '{inner}'");
            let mut terminal = Terminal::open(scene.home(), &script);
            terminal.until("pid ");
            let pid = terminal.until(".\r\n");
            terminal.until("ready");
            match is_typed {
                true => terminal.type_line("\x03"),
                false => assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success()),
            }
            terminal.until("got 1");
            assert_eq!(terminal.exit().0, Some(9), "{way}");
        }
    }
}

/// Whether a process runs whose arguments hold this.
fn runs(part: &str) -> bool {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let is_it = |entry: fs::DirEntry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|word| word == part.as_bytes())
    };
    entries.into_iter().any(is_it)
}

#[test]
fn what_ends_exec_while_it_begins_ends_all_of_it() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let folder = work(&scene);
    for way in ways() {
        for (at, (name, number)) in [("TERM", 15), ("HUP", 1), ("INT", 2)].into_iter().cycle().take(18).enumerate() {
            let mark = format!("1000.{}{at}{}", std::process::id(), way.len());
            let mut exec = scene.exec(&["-r", "api", way, "--", "sleep", &mark]);
            let running = exec.current_dir(&folder).stderr(Stdio::piped()).spawn().expect("valetd runs");
            thread::sleep(Duration::from_millis(15 * at as u64));
            let pid = running.id().to_string();
            assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs").success());
            let output = running.wait_with_output().expect("it ends");
            let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().expect("a signal"));
            assert_eq!(code, 128 + number, "{way} {name} after {at} steps: {}", words(&output));
            assert!(!words(&output).contains("bubblewrap"), "{way} {name}: {}", words(&output));
            eventually("nothing of it runs", || (!runs(&mark)).then_some(()));
        }
    }
}

#[test]
fn what_a_killed_exec_has_left_goes_with_the_next() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let folder = work(&scene);
    let runtime = scene.home().path("run/valetd");
    let left = || {
        let entries = fs::read_dir(&runtime).expect("the folder of the socket").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("exec-")).count()
    };
    for way in ways() {
        let start = |mark: &str| {
            // the command of one that was killed ends by itself; what waits for the end of our output waits for its, too
            let script = format!("touch {mark}; sleep 30");
            let mut exec = scene.exec(&["-r", "api", way, "--", "sh", "-c", &script]);
            let exec = exec.current_dir(&folder).stdout(Stdio::null()).stderr(Stdio::null());
            let running = exec.spawn().expect("valetd runs");
            eventually("it runs", || folder.join(mark).exists().then_some(()));
            fs::remove_file(folder.join(mark)).expect("removed");
            running
        };
        let (mut killed, mut living) = (start("killed"), start("living"));
        killed.kill().expect("killed");
        killed.wait().expect("it ends");
        assert_eq!(left(), 2, "{way}");
        let output = scene.exec(&["-r", "api", way, "--", "true"]).current_dir(&folder).output().expect("valetd runs");
        assert!(output.status.success(), "{}", words(&output));
        assert_eq!(left(), 1, "{way}: the one whose command lives");
        living.kill().expect("killed");
        living.wait().expect("it ends");
        scene.exec(&["-r", "api", way, "--", "true"]).current_dir(&folder).output().expect("valetd runs");
        assert_eq!(left(), 0, "{way}");
    }
}
