//! What an isolated command must not reach, wherever it lies: the places of valetd's, as the configuration and the running
//! daemon name them.
//!
//! Of the system, which the command sees, their folders are masked; a folder of the command's that would show one of them is
//! refused. A file's whole folder counts: whoever replaces the file by another of that name would take a mask of the file
//! alone away.

use std::path::{Component, Path, PathBuf};

use super::mounts::Mount;
use crate::cli::failure::Failure;
use crate::config::{AuditTarget, Config, ImportSource};
use crate::control::report::StatusReport;
use crate::platform::paths::Paths;

/// The system, as far as programs need it: read-only inside, where it is there.
pub(super) const SYSTEM: [&str; 12] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/gnu", "/snap"];

/// A place, and what is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    what: String,
    path: PathBuf,
    is_file: bool,
}

/// More links than the system follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Where systemd keeps credentials of the whole system (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS: [&str; 3] = ["/etc/credstore", "/etc/credstore.encrypted", "/usr/lib/credstore"];

impl Place {
    fn file(what: impl Into<String>, path: &Path) -> Self {
        Self { what: what.into(), path: path.to_owned(), is_file: true }
    }

    fn folder(what: impl Into<String>, path: &Path) -> Self {
        Self { what: what.into(), path: path.to_owned(), is_file: false }
    }

    /// The folders that show it, without links.
    fn folders(&self) -> Vec<PathBuf> {
        if !self.is_file {
            return vec![real(&self.path)];
        }
        let mut folders = Vec::new();
        let mut path = self.path.clone();
        // each link on the way can be replaced where it is
        for _ in 0..MOST_LINKS {
            let folder = real(path.parent().unwrap_or(Path::new("/")));
            let target = path.file_name().and_then(|name| std::fs::read_link(folder.join(name)).ok());
            let next = target.map(|target| folder.join(target));
            folders.push(folder);
            match next {
                Some(next) => path = next,
                None => break,
            }
        }
        folders
    }
}

/// All places that hold secrets of valetd's, lead to it, or tell of it. `others` is the configuration of the daemon, where it
/// is another one than ours.
pub(super) fn places(paths: &Paths, ours: &Config, others: Option<&Config>, daemon: &StatusReport) -> Vec<Place> {
    let running = &daemon.daemon;
    let mut places = vec![
        Place::folder("credentials", &paths.state_dir),
        Place::folder("credentials", &running.state_dir),
        Place::file("the configuration", &paths.config_file),
        Place::file("the configuration", &running.config_file),
        Place::folder("presets", &paths.providers_dir),
        Place::file("the control socket", &paths.socket),
    ];
    if let AuditTarget::File(path) = &ours.audit {
        places.push(Place::file("the audit", path));
    }
    places.extend(running.audit.iter().map(|audit| Place::file("the audit", &audit.file)));
    let lent = running.own_addresses.iter().map(|lent| &lent.address);
    let sockets = running.listen.iter().chain(lent).filter_map(|address| address.strip_prefix("unix:"));
    places.extend(sockets.map(|path| Place::file("a listener's socket", Path::new(path))));
    for config in [Some(ours), others].into_iter().flatten() {
        places.extend(config.unix_sockets().map(|path| Place::file("a listener's socket", path)));
        places.extend(config.secret_files().into_iter().map(|(key, path)| Place::file(key, path)));
        let sources = config.accounts.values().flat_map(|account| &account.sign_in.import);
        places.extend(sources.filter_map(|source| match source {
            ImportSource::JsonFile(path) | ImportSource::GbdxConfig(path) => {
                Some(Place::file("another program's refresh token", path))
            }
            ImportSource::Environment(_) => None,
        }));
    }
    places.extend(CREDENTIALS.map(|path| Place::folder("credentials of the system's services", Path::new(path))));
    places
}

/// A folder to keep out, without links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Folder {
    path: PathBuf,
    what: String,
    /// Whether all of it is meant, and not only what lies in it directly.
    is_whole: bool,
}

/// The folders that show places, also where else they are mounted.
pub(super) fn folders(places: &[Place], mounts: &[Mount]) -> Vec<Folder> {
    let mut folders: Vec<Folder> = Vec::new();
    for place in places {
        for folder in place.folders() {
            let elsewhere = Mount::elsewhere(mounts, &folder);
            for path in std::iter::once(folder).chain(elsewhere) {
                match folders.iter_mut().find(|known| known.path == path) {
                    Some(known) => known.is_whole |= !place.is_file,
                    None => folders.push(Folder { path, what: place.what.clone(), is_whole: !place.is_file }),
                }
            }
        }
    }
    folders
}

/// Which folders of the system are to be masked. `shown` are those that the command is given, without links.
///
/// # Errors
///
/// If one is in what the command is given, or cannot be masked, since the system is in it.
pub(super) fn masks(folders: &[Folder], shown: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut masks = Vec::new();
    for Folder { path, what, is_whole } in folders {
        let shows = |shown: &&PathBuf| path.starts_with(shown) || *is_whole && shown.starts_with(path);
        if let Some(shown) = shown.iter().find(shows) {
            let (shown, path) = (shown.display(), path.display());
            let says = format!("{shown} would show what no command may see: {what}, in {path}");
            return Err(Failure::say(says).with_remedy("run it in a folder of its own"));
        }
        let is_seen = SYSTEM.iter().any(|system| path.starts_with(system));
        let holds_system = SYSTEM.iter().any(|system| Path::new(system).starts_with(path));
        if is_system(path) || *is_whole && holds_system {
            let says = format!("a command could see {what}, which is in {}, with the system", path.display());
            return Err(Failure::say(says).with_remedy("move it to a folder of its own"));
        }
        if is_seen {
            masks.push(path.clone());
        }
    }
    Ok(masks)
}

/// Whether the system itself is in a folder, so that it cannot be masked.
pub(super) fn is_system(folder: &Path) -> bool {
    SYSTEM.iter().any(|system| Path::new(system) == folder) || folder.parent() == Some(Path::new("/usr"))
}

/// A path without links and dots, as far as it exists.
pub(super) fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut existing = path.as_path();
    let mut found = loop {
        match (std::fs::canonicalize(existing), existing.parent()) {
            (Ok(found), _) => break found,
            (Err(_), Some(parent)) => existing = parent,
            (Err(_), None) => break PathBuf::from("/"),
        }
    };
    for part in path.strip_prefix(existing).unwrap_or(Path::new("")).components() {
        match part {
            Component::ParentDir => drop(found.pop()),
            part => found.push(part),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::testing;
    use crate::control::report::tests::report;

    fn folder(path: &str, is_whole: bool) -> Folder {
        Folder { path: path.into(), what: "it".to_owned(), is_whole }
    }

    #[test]
    fn of_the_system_a_folder_is_masked_and_where_a_command_works_it_is_refused() {
        let whole = |path| folder(path, true);
        let part = |path| folder(path, false);
        type Row<'a> = (Folder, &'a [&'a str], Result<&'a [&'a str], &'a str>);
        let rows: [Row<'_>; 16] = [
            (whole("/opt/valetd/state"), &["/data"], Ok(&["/opt/valetd/state"])),
            (part("/etc/valetd"), &["/data"], Ok(&["/etc/valetd"])),
            (whole("/usr/lib/credstore"), &["/data"], Ok(&["/usr/lib/credstore"])),
            (whole("/srv/state"), &["/data"], Ok(&[])),
            (whole("/optional/state"), &["/data"], Ok(&[])),
            (part("/etc"), &["/data"], Err("which is in /etc, with the system")),
            (part("/usr/lib"), &["/data"], Err("with the system")),
            (whole("/"), &["/data"], Err("would show")),
            // what lies beside the system's folders is not there
            (part("/"), &["/data"], Ok(&[])),
            (whole("/data/state"), &["/data"], Err("/data would show")),
            (whole("/data"), &["/data"], Err("would show")),
            (whole("/data"), &["/data/in/it"], Err("would show")),
            (part("/data"), &["/data"], Err("would show")),
            // what is beside a file does not show it
            (part("/data"), &["/data/in/it"], Ok(&[])),
            (part("/opt/valetd"), &["/opt/valetd/work"], Ok(&["/opt/valetd"])),
            (whole("/data"), &["/project", "/data/more"], Err("/data/more would show")),
        ];
        for (folder, shown, expected) in rows {
            let shown: Vec<PathBuf> = shown.iter().map(PathBuf::from).collect();
            match (masks(std::slice::from_ref(&folder), &shown), expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{folder:?}");
                }
                (Err(failure), Err(words)) => assert!(failure.to_string().contains(words), "{failure}"),
                (found, _) => panic!("{folder:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_file_is_found_through_every_link_and_spelling_that_leads_to_it() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |path: &str| temporary.path().canonicalize().unwrap().join(path);
        for folder in ["a", "b", "c/now"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("c/now/secret"), "").unwrap();
        symlink("now", at("c/current")).unwrap();
        symlink("../c/current/secret", at("b/link")).unwrap();
        symlink(at("b"), at("a/b")).unwrap();
        for (path, expected) in [
            ("c/now/secret", &["c/now"][..]),
            ("a/../c/./current/secret", &["c/now"]),
            ("a/b/link", &["b", "c/now"]),
            ("a/b/none/yet", &["b/none"]),
            ("a/none/../other", &["a"]),
        ] {
            let found = Place::file("", &at(path)).folders();
            assert_eq!(found, expected.iter().map(|path| at(path)).collect::<Vec<_>>(), "{path}");
        }
        assert_eq!(Place::folder("", &at("a/b/../b")).folders(), [at("b")]);
    }

    #[test]
    fn the_configuration_and_the_daemon_name_what_is_kept_out() {
        let config = testing::config(
            "listen = [\"127.0.0.1:0\", \"unix:/opt/valetd/listen.sock\"]\naudit = \"/srv/audit.jsonl\"\n\
             store.seal = { file = \"/media/key\" }\n\
             [account.lab]\ntoken_endpoint = \"https://auth.example/t\"\nclient_id = \"x\"\nclient_auth = \"post\"\n\
             client_secret = { file = \"/opt/secrets/lab\" }\nimport = [{ json_file = \"/opt/tool/token.json\" }]\n\
             [route.lab]\naccount = \"lab\"\nupstream = \"https://api.example\"\nlisten = \"unix:/opt/lab/own.sock\"\n\
             request_headers = { add = { x-api-key = { file = \"/opt/keys/api\" } } }\n",
        );
        let mut daemon = report();
        daemon.daemon.config_file = "/opt/other/config.toml".into();
        daemon.daemon.state_dir = "/opt/other/state".into();
        daemon.daemon.listen = vec!["127.0.0.1:8253".to_owned(), "unix:/opt/running/x.sock".to_owned()];
        let paths = Paths {
            config_file: "/nix/c/valetd/config.toml".into(),
            providers_dir: "/nix/c/valetd/providers".into(),
            state_dir: "/nix/s/valetd".into(),
            socket: "/nix/r/valetd/valetd.sock".into(),
            home: None,
            notes: Vec::new(),
        };
        let found = places(&paths, &config, None, &daemon);
        let found: Vec<&str> = found.iter().map(|place| place.path.to_str().unwrap()).collect();
        for expected in [
            "/nix/c/valetd/config.toml",
            "/nix/c/valetd/providers",
            "/nix/s/valetd",
            "/nix/r/valetd/valetd.sock",
            "/opt/valetd/listen.sock",
            "/srv/audit.jsonl",
            "/media/key",
            "/opt/secrets/lab",
            "/opt/tool/token.json",
            "/opt/lab/own.sock",
            "/opt/keys/api",
            "/opt/other/config.toml",
            "/opt/other/state",
            "/opt/running/x.sock",
        ] {
            assert!(found.contains(&expected), "{expected}: {found:?}");
        }
    }
}
