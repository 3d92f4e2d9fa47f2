//! What a name stands for decides whether it is connected to, whatever a resolver says from one moment to the next.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::company::World;
use crate::support::stage::Stage;
use crate::support::upstreams::mirror;
use crate::support::{Daemon, eventually, get, words};

/// Whether we may give a daemon a hosts file of its own.
fn has_mounts() -> bool {
    let probe = ["-m", "sh", "-c", "mount --bind /dev/null /etc/hosts"];
    let works = Command::new("unshare").args(probe).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !works {
        eprintln!("skipped: not root, or no mounts may be made here");
    }
    works
}

/// A route whose upstream is `https://api.example`, in TLS and on this machine, for a daemon that asks a file for names.
struct Scene {
    world: World,
    stage: Stage,
    port: u16,
}

impl Scene {
    fn new(account: &str) -> Self {
        let world = World::new();
        let port = world.behind_tls(&mirror()).port();
        let stage = Stage::leading_to(&format!("https://api.example:{port}"), &world.trust());
        let scene = Self { world, stage, port };
        scene.say(account);
        scene
    }

    fn say(&self, account: &str) {
        let upstream = format!("https://api.example:{}", self.port);
        let config = self.stage.config(&upstream, &self.world.trust());
        self.stage.home.write_config(&config.replacen("[account.gbdx]\n", &format!("[account.gbdx]\n{account}\n"), 1));
    }

    /// What names stand for from now on.
    fn names(&self, lines: &str) {
        fs::write(self.stage.home.path("hosts"), format!("127.0.0.1 localhost\n{lines}\n")).expect("written");
    }

    fn by_file(&self, arguments: &[&str]) -> Command {
        let hosts = self.stage.home.path("hosts");
        let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
        self.stage.home.valetd_by(&["unshare", "-m", "sh", "-c", &script, "sh"], arguments)
    }

    fn start(&self) -> Daemon<'_> {
        let daemon = self.stage.home.start_as(self.by_file(&["run", "--log", "debug"]));
        daemon.until("gbdx", "usable");
        daemon
    }

    fn ask(&self) -> (u16, String) {
        let answer = get(&self.stage.address, "/api/x").expect("an answer");
        (answer.status, answer.text())
    }
}

#[test]
fn a_name_that_stands_for_the_metadata_service_is_not_connected_to_and_one_of_several_addresses_is_left_out() {
    if !has_mounts() {
        return;
    }
    let scene = Scene::new("");
    scene.names("127.0.0.1 api.example");
    let _daemon = scene.start();
    assert_eq!(scene.ask().0, 200);
    for lines in [
        "169.254.169.254 api.example",
        "169.254.1.1 api.example",
        "fe80::1 api.example",
        "fd00:ec2::254 api.example",
        "100.100.100.200 api.example",
    ] {
        // rebound between two requests: a connection that is open may go on, one that is opened may not
        scene.names(lines);
        eventually(lines, || {
            scene.stage.home.control("POST", "/v1/reload").ok();
            scene.say(&format!("# {lines}"));
            let (status, said) = scene.ask();
            (status == 502 && said.contains("metadata")).then_some(())
        });
        scene.names("169.254.169.254 api.example\n127.0.0.1 api.example");
        eventually("the other address is good", || (scene.ask().0 == 200).then_some(()));
    }
}

#[test]
fn private_addresses_are_ordinary_refused_where_an_account_says_so_and_told_by_doctor() {
    if !has_mounts() {
        return;
    }
    let scene = Scene::new("");
    scene.names("127.0.0.1 api.example");
    let daemon = scene.start();
    assert_eq!(scene.ask().0, 200);
    let doctor = || {
        let said = words(&scene.by_file(&["doctor"]).output().expect("it runs"));
        said.split_whitespace().collect::<Vec<_>>().join(" ") // it is wrapped
    };
    let said = doctor();
    assert!(said.contains("its name stands for the private address 127.0.0.1"), "{said}");
    scene.say("private_addresses = false");
    assert!(scene.stage.home.run(&["reload"]).status.success(), "{}", daemon.log());
    let (status, said) = scene.ask();
    assert!(status == 502 && said.contains("private address"), "{status}: {said}");
    let said = doctor();
    assert!(said.contains("leave private_addresses out of the account"), "{said}");
    // what is written as this machine's was meant
    assert_eq!(daemon.account("gbdx")["state"], "usable");
}
