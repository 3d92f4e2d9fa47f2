//! What each released version has left on the disk is read by this one. A folder of `versions/` is a version: its
//! configuration and its state, in which a few words stand for the story's servers and tokens.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use valetd::stand_in::{Options, Provider};

use crate::support::providers::start;
use crate::support::{Home, free_address, get, send, words};

/// The client key whose hash the files have.
const KEY: &str = "vk_02RN8QNu9y1d18qGnN_A1n_r5_cAnWa_I60daDNxkD0";

fn versions() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/versions");
    fs::read_dir(folder).expect("the versions").map(|entry| entry.expect("a folder").path()).collect()
}

#[test]
fn what_every_version_has_stored_is_read_as_it_is() {
    assert!(!versions().is_empty());
    for version in versions() {
        let (gbdx, gdh) = (start(Provider::Gbdx, Options::default()), start(Provider::Gdh, Options::default()));
        let (home, address) = (Home::empty(), free_address());
        let fill = |name: &str, token: &str| {
            let text = fs::read_to_string(version.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let text = text.replace("LISTEN", &address).replace("REFRESH_TOKEN", token);
            text.replace("GBDX", gbdx.url()).replace("GDH", gdh.url())
        };
        let put = |path: &str, text: String| {
            fs::write(home.path(path), text).expect("written");
            fs::set_permissions(home.path(path), fs::Permissions::from_mode(0o600)).expect("for us alone");
        };
        for folder in ["config/valetd/providers", "state/valetd"] {
            fs::create_dir_all(home.path(folder)).expect("a folder");
        }
        fs::set_permissions(home.path("state/valetd"), fs::Permissions::from_mode(0o700)).expect("for us alone");
        for name in ["config.toml", "providers/house.toml"] {
            put(&format!("config/valetd/{name}"), fill(&format!("config/{name}"), ""));
        }
        for (name, token) in [
            ("gbdx.json", gbdx.sign_in().expose()),
            ("gdh.json", gdh.sign_in().expose()),
            ("house.json", ""),
            ("client.keys.json", ""),
        ] {
            put(&format!("state/valetd/{name}"), fill(&format!("state/{name}"), token));
        }

        let check = home.run(&["check"]);
        let said = words(&check);
        assert!(check.status.success() && said.contains("4 accounts, 8 routes") && !said.contains("warning"), "{said}");
        let daemon = home.start();
        for (account, generation) in [("gbdx", 3), ("gdh", 7)] {
            let account = daemon.until(account, "usable");
            assert_eq!(account["credential"]["generation"], generation, "{account:#}");
            assert_eq!(account["credential"]["identity"], "ada@example.org", "{account:#}");
        }
        let house = daemon.until("house", "sign-in-required");
        assert_eq!((&house["why_code"], &house["credential"]["generation"]), (&"issued-elsewhere".into(), &2.into()));
        assert!(daemon.account("gdh")["credential"]["ends_at"].is_string());
        assert_eq!(get(&address, "/gdh/ping").expect("an answer").status, 200);
        let with_key = |method: &str, path: &str| {
            send(&address, method, path, &[("X-Valetd-Key", KEY)], b"").expect("an answer").status
        };
        assert_eq!(with_key("GET", "/gbdx/catalog/v2/record/1030010045539700"), 200, "{}", daemon.log());
        assert_eq!(with_key("GET", "/gdh/ping"), 403);
        assert!(words(&home.run(&["key", "list"])).contains("10/s"));
        assert!(!daemon.log().contains("cannot be used"), "{}", daemon.log());
    }
}
