//! What the daemon lends to a command of `valetd exec`, and how that ends.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::support::company::{Scene, has_walls};
use crate::support::{eventually, words};

/// A command that asks for what it is told, and says what it got, by files.
struct Asking {
    child: Child,
    folder: PathBuf,
}

const SCRIPT: &str = "while :; do if [ -e ask ]; then read url < ask; rm ask; eval curl -sS $url > said.new 2>&1; \
                      mv said.new said; fi; sleep 0.05; done";

impl Asking {
    fn start(scene: &Scene, option: &str) -> Self {
        let folder = scene.home().path(&format!("work{option}"));
        fs::create_dir_all(&folder).expect("a folder");
        let mut command = scene.exec(&["-r", "api", option, "--", "sh", "-c", SCRIPT]);
        let errors = fs::File::create(scene.home().path("errors")).expect("a file");
        let child = command.current_dir(&folder).stderr(errors).stdout(Stdio::null()).spawn().expect("valetd runs");
        Self { child, folder }
    }

    /// What curl says to these words.
    fn ask(&self, url: &str) -> String {
        fs::write(self.folder.join("ask.new"), format!("{url}\n")).expect("written");
        fs::rename(self.folder.join("ask.new"), self.folder.join("ask")).expect("renamed");
        let said = eventually("it has asked", || fs::read(self.folder.join("said")).ok());
        fs::remove_file(self.folder.join("said")).expect("removed");
        String::from_utf8_lossy(&said).into_owned()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ways in which a process stays beside a command, as far as they can be gone here.
fn ways() -> Vec<&'static str> {
    let mut ways = vec!["--intercept"];
    ways.extend(has_walls().then_some("--isolate"));
    ways
}

#[test]
fn an_isolated_commands_urls_lead_to_a_socket_that_only_its_daemon_can_come_to_have() {
    if !has_walls() {
        return;
    }
    let scene = Scene::new("");
    let mut daemon = scene.start();
    let asking = Asking::start(&scene, "--isolate");
    assert!(asking.ask("$API_URL/x").starts_with("GET /x "));
    let addresses = daemon.status()["daemon"]["own_addresses"].clone();
    let addresses: Vec<&str> =
        addresses.as_array().expect("addresses").iter().filter_map(|own| own["address"].as_str()).collect();
    assert!(addresses.len() == 2 && addresses.iter().all(|own| own.starts_with("unix:")), "{addresses:?}");
    assert!(daemon.signal("TERM").success());
    assert!(asking.ask("$API_URL/x").contains("the daemon cannot be asked"));
    let daemon = scene.start();
    for url in ["$API_URL/y", "https://api.example/y"] {
        let said = asking.ask(url);
        assert!(said.starts_with("GET /y "), "{url}: {said}");
    }
    drop(daemon);
}

#[test]
fn a_key_that_a_person_has_revoked_is_not_asked_for_anew() {
    for way in ways() {
        let scene = Scene::new("");
        let mut daemon = scene.start();
        let asking = Asking::start(&scene, way);
        let urls: &[&str] =
            if way == "--isolate" { &["https://api.example/x", "$API_URL/x"] } else { &["https://api.example/x"] };
        for url in urls {
            assert!(asking.ask(url).starts_with("GET /x "), "{way} {url}");
        }
        let keys = daemon.control("GET", "/v1/keys").expect("an answer").json();
        for key in keys["keys"].as_array().expect("keys") {
            let path = format!("/v1/keys/{}", key["name"].as_str().expect("a name"));
            assert_eq!(daemon.control("DELETE", &path).expect("an answer").status, 200);
        }
        for url in urls {
            let said = eventually("it is told", || Some(asking.ask(url)).filter(|said| said.contains("revoked")));
            assert!(said.contains("there are no tokens any more"), "{way} {url}: {said}");
        }
        let keys = scene.home().run(&["key", "list"]);
        assert!(!words(&keys).contains("ephemeral"), "{way}: {}", words(&keys));
        // nor of the next daemon
        assert!(daemon.signal("TERM").success());
        let _next = scene.start();
        for url in urls {
            assert!(asking.ask(url).contains("revoked"), "{way} {url}");
        }
        let errors = fs::read_to_string(scene.home().path("errors")).expect("errors");
        assert_eq!(errors.matches("was revoked").count(), urls.len(), "once for each: {errors}");
    }
}

#[test]
fn a_key_that_is_asked_for_while_a_command_runs_shuts_a_proxy_that_is_open_to_all_of_the_user() {
    for way in ways() {
        let scene = Scene::new("");
        let _daemon = scene.start();
        let asking = Asking::start(&scene, way);
        assert!(asking.ask("https://api.example/x").starts_with("GET /x "), "{way}");
        let file = scene.home().path("config/valetd/config.toml");
        let config = fs::read_to_string(&file).expect("a configuration");
        scene.home().write_config(&config.replacen("[route.api]\n", "[route.api]\nrequire_key = true\n", 1));
        assert!(scene.home().run(&["reload"]).status.success());
        let said = asking.ask("https://api.example/x");
        match way {
            // nobody else is behind the wall
            "--isolate" => assert!(said.starts_with("GET /x "), "{said}"),
            _ => {
                assert!(said.contains("urn:valetd:problem:not-allowed"), "{said}");
                assert!(said.contains("Start the command anew"), "{said}");
            }
        }
        scene.home().write_config(&config);
        assert!(scene.home().run(&["reload"]).status.success());
        assert!(asking.ask("https://api.example/x").starts_with("GET /x "), "{way}");
    }
}
