//! Where things are on this machine: the configuration, the presets, the state and the socket; and folders that must
//! be ours alone.
//!
//! The places follow the XDG base directory specification. Each can be moved by an option of the command line, so that
//! a second valetd can run beside a real installation.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::environment;
use super::io_error::words;

/// Where this process finds and leaves things. All absolute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Paths {
    /// The configuration: `$XDG_CONFIG_HOME/valetd/config.toml`. It need not exist.
    pub config_file: PathBuf,
    /// The user's own presets: `providers/` beside the configuration. It need not exist.
    pub providers_dir: PathBuf,
    /// The credentials: `$XDG_STATE_HOME/valetd`.
    pub state_dir: PathBuf,
    /// The control socket: `$XDG_RUNTIME_DIR/valetd/valetd.sock`.
    pub socket: PathBuf,
    /// The home folder, below which other tools leave their tokens; `None` if there is none.
    pub home: Option<PathBuf>,
    /// What a person should know about the choice, in sentences; mostly empty.
    pub notes: Vec<String>,
}

/// What the command line says about places; relative ones are relative to the current folder.
#[derive(Clone, Default, Debug)]
pub(crate) struct Overrides {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
}

/// There is no place to put things.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this user has no home folder, so there is no place for {what}: set HOME, or say {option}")]
pub(crate) struct NoHome {
    what: &'static str,
    option: &'static str,
}

impl Paths {
    /// Finds the places of this user. Reads the environment and the user database, and looks who owns
    /// `$XDG_RUNTIME_DIR`; makes nothing.
    ///
    /// # Errors
    ///
    /// [`NoHome`] if a place depends on a home folder and there is none.
    pub(crate) fn find(overrides: Overrides) -> Result<Paths, NoHome> {
        Self::choose(overrides, Bases::of_this_user())
    }

    /// The same places, as they are looked for by who wants to talk to a daemon: one that was started where there was no
    /// folder for sockets has its own in the state folder.
    pub(crate) fn of_a_running_daemon(mut self) -> Self {
        let without_a_session = socket_in(&self.state_dir);
        if !self.socket.exists() && without_a_session.exists() {
            self.socket = without_a_session;
        }
        self
    }

    fn choose(overrides: Overrides, bases: Bases) -> Result<Paths, NoHome> {
        let Bases { home, config, state, runtime } = bases;
        let mut notes = Vec::new();
        let config_file = match (overrides.config.map(absolute), config) {
            (Some(path), _) => path,
            (None, Some(folder)) => folder.join("config.toml"),
            (None, None) => return Err(NoHome { what: "the configuration", option: "--config FILE" }),
        };
        let state_dir = match (overrides.state_dir.map(absolute), state) {
            (Some(path), _) | (None, Some(path)) => path,
            (None, None) => return Err(NoHome { what: "the credentials", option: "--state-dir DIR" }),
        };
        let socket = match (overrides.socket.map(absolute), runtime) {
            (Some(path), _) => path,
            (None, Runtime::Ours(folder)) => folder.join("valetd").join("valetd.sock"),
            (None, runtime) => {
                let socket = socket_in(&state_dir);
                let why = match runtime {
                    Runtime::NotOurs(folder) => format!("XDG_RUNTIME_DIR={} is not a folder of ours", folder.display()),
                    _ => "XDG_RUNTIME_DIR is not set".to_owned(),
                };
                notes.push(format!("{why}: the socket is {}", socket.display()));
                socket
            }
        };
        // beside the file that was named, so that a trial configuration brings its own presets
        let providers_dir = config_file.parent().unwrap_or(Path::new("/")).join("providers");
        Ok(Paths { config_file, providers_dir, state_dir, socket, home, notes })
    }
}

/// The control socket where there is no folder for sockets.
fn socket_in(state_dir: &Path) -> PathBuf {
    state_dir.join("run").join("valetd.sock")
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// What the machine says about this user, before any option.
#[derive(Clone, Debug)]
struct Bases {
    home: Option<PathBuf>,
    config: Option<PathBuf>,
    state: Option<PathBuf>,
    runtime: Runtime,
}

/// `$XDG_RUNTIME_DIR`. It is foreign after `su` or `sudo -E`: somebody else's socket is there.
#[derive(Clone, Debug)]
enum Runtime {
    Unset,
    Ours(PathBuf),
    NotOurs(PathBuf),
}

impl Bases {
    fn of_this_user() -> Self {
        let Some(base) = directories::BaseDirs::new() else {
            return Self { home: None, config: None, state: None, runtime: Runtime::Unset };
        };
        let runtime = match (runtime_folder(), base.runtime_dir()) {
            (Some(folder), _) => Runtime::Ours(folder),
            (None, None) => Runtime::Unset,
            (None, Some(folder)) => Runtime::NotOurs(folder.to_owned()),
        };
        Self {
            home: Some(base.home_dir().to_owned()),
            config: Some(base.config_dir().join("valetd")),
            state: base.state_dir().map(|folder| folder.join("valetd")),
            runtime,
        }
    }
}

/// This user's folder for sockets: `$XDG_RUNTIME_DIR`, or, where that is unset (cron, ssh without a session) or somebody
/// else's (su, `sudo -E`), the one that logind makes (pam_systemd(8)). `None` if neither is there and ours.
pub(crate) fn runtime_folder() -> Option<PathBuf> {
    let named = environment::value("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let made = PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()));
    named.into_iter().chain([made]).find(|folder| is_ours(folder))
}

fn is_ours(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
}

/// A path as a shell takes it: quoted where it must be.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Brings a folder's names to the disk, as far as its file system lets that be asked for.
pub(crate) fn sync_folder(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        Err(error) if knows_no_sync(&error) => Ok(()),
        synced => synced,
    }
}

/// Whether a file system answers `fsync` with that it has none, as network and FUSE file systems do for folders (fsync(2):
/// EINVAL). It is no failure to write: asking again changes nothing, and what was written is there.
pub(crate) fn knows_no_sync(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    // a number of its own for "unsupported" on some, and for a handle that was opened for reading on others
    matches!(number, Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADF))
}

/// A folder that belongs to us, held open: what it names cannot be exchanged under our hands.
#[derive(Debug)]
pub(crate) struct OwnFolder {
    path: PathBuf,
    handle: File,
    mode: u32,
}

/// Why a folder cannot be used for what must be ours alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// Its last component is a symbolic link.
    #[error("{} is a symbolic link: name the folder itself, so that nobody can lead us elsewhere", .0.display())]
    Link(PathBuf),
    /// Something else has its name.
    #[error("{} is not a folder: move it away, or name another place", .0.display())]
    NotAFolder(PathBuf),
    /// Somebody else's.
    #[error("{} belongs to another user (uid {owner}): name a folder of your own", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// The system says no.
    #[error("cannot use the folder {}: {}{}", path.display(), words(error), remedy(error))]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// What follows the words that say what cannot be written.
pub(crate) const READ_ONLY: &str = ": its file system is read-only; mount it writable, or use another --state-dir";

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": have those above it let you in, or name another place",
        io::ErrorKind::ReadOnlyFilesystem => READ_ONLY,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room on its file system",
        _ => "",
    }
}

/// Whether the folder lies, or would lie, on a file system that is read-only.
pub(crate) fn is_read_only(folder: &Path) -> bool {
    let there = folder.ancestors().find(|ancestor| ancestor.exists());
    let flags = there.and_then(|there| rustix::fs::statvfs(there).ok()).map(|system| system.f_flag);
    flags.is_some_and(|flags| flags.contains(StatVfsMountFlags::RDONLY))
}

impl OwnFolder {
    /// Opens the folder at `path`; if it is missing, makes it and what is missing above it, with mode 0700.
    ///
    /// # Errors
    ///
    /// [`FolderError`] if it is no folder, a symbolic link, or somebody else's.
    #[expect(clippy::disallowed_methods, reason = "the one maker of folders of ours")]
    pub(crate) fn open_or_make(path: &Path) -> Result<Self, FolderError> {
        let failed = |error: io::Error| FolderError::Io { path: path.to_owned(), error };
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| folder.symlink_metadata().is_err()).collect();
        if !missing.is_empty() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
            for made in missing {
                // a folder survives a power cut once its entry in the one above it is on the disk
                let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(above).and_then(|above| sync_folder(&above)).map_err(failed)?;
            }
        }
        let kind = path.symlink_metadata().map_err(failed)?.file_type();
        if kind.is_symlink() {
            return Err(FolderError::Link(path.to_owned()));
        }
        if !kind.is_dir() {
            return Err(FolderError::NotAFolder(path.to_owned()));
        }
        // the kind was asked for a good sentence; these flags are what makes sure
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?);
        let found = handle.metadata().map_err(failed)?;
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(FolderError::Foreign { path: path.to_owned(), owner: found.uid() });
        }
        Ok(Self { path: path.to_owned(), handle, mode: found.mode() & 0o7777 })
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its permission bits when it was opened.
    pub(crate) fn mode(&self) -> u32 {
        self.mode
    }

    /// The open folder: for a kernel lock on it, and for `fsync`.
    pub(crate) fn handle(&self) -> &File {
        &self.handle
    }
}

impl AsFd for OwnFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::platform::rerun;

    fn ordinary() -> Bases {
        Bases {
            home: Some("/home/me".into()),
            config: Some("/home/me/.config/valetd".into()),
            state: Some("/home/me/.local/state/valetd".into()),
            runtime: Runtime::Ours("/run/user/1000".into()),
        }
    }

    #[test]
    fn a_path_is_quoted_where_a_shell_would_read_something_else() {
        let table = [
            ("/home/me/.gdh/authentication", "/home/me/.gdh/authentication"),
            ("/home/me/my file", "'/home/me/my file'"),
            ("/home/me/$(reboot)", "'/home/me/$(reboot)'"),
            ("/home/me/it's", "'/home/me/it'\\''s'"),
            ("~/x", "'~/x'"),
        ];
        for (path, expected) in table {
            assert_eq!(shell_word(Path::new(path)), expected);
        }
    }

    #[test]
    fn an_ordinary_user_has_the_places_of_the_specification() {
        let paths = Paths::choose(Overrides::default(), ordinary()).unwrap();
        assert_eq!(paths.config_file, Path::new("/home/me/.config/valetd/config.toml"));
        assert_eq!(paths.providers_dir, Path::new("/home/me/.config/valetd/providers"));
        assert_eq!(paths.state_dir, Path::new("/home/me/.local/state/valetd"));
        assert_eq!(paths.socket, Path::new("/run/user/1000/valetd/valetd.sock"));
        assert_eq!(paths.notes, [""; 0]);
    }

    #[test]
    fn every_place_can_be_moved_and_presets_stay_beside_the_configuration() {
        let overrides = Overrides {
            config: Some("/trial/valetd.toml".into()),
            state_dir: Some("state".into()),
            socket: Some("/trial/s".into()),
        };
        let here = std::env::current_dir().unwrap();
        for (name, bases) in [
            ("with a home", ordinary()),
            ("without", Bases { home: None, config: None, state: None, runtime: Runtime::Unset }),
        ] {
            let paths = Paths::choose(overrides.clone(), bases).unwrap();
            assert_eq!(paths.config_file, Path::new("/trial/valetd.toml"), "{name}");
            assert_eq!(paths.providers_dir, Path::new("/trial/providers"), "{name}");
            assert_eq!(paths.state_dir, here.join("state"), "{name}");
            assert_eq!(paths.socket, Path::new("/trial/s"), "{name}");
        }
    }

    #[test]
    fn without_a_runtime_folder_of_ours_the_socket_is_below_the_state_and_that_is_said() {
        for (runtime, note) in [
            (Runtime::Unset, "XDG_RUNTIME_DIR is not set: the socket is /home/me/.local/state/valetd/run/valetd.sock"),
            (
                Runtime::NotOurs("/run/user/7".into()),
                "XDG_RUNTIME_DIR=/run/user/7 is not a folder of ours: the socket is \
                 /home/me/.local/state/valetd/run/valetd.sock",
            ),
        ] {
            let paths = Paths::choose(Overrides::default(), Bases { runtime, ..ordinary() }).unwrap();
            assert_eq!(paths.socket, Path::new("/home/me/.local/state/valetd/run/valetd.sock"));
            assert_eq!(paths.notes, [note]);
        }
    }

    #[test]
    fn without_any_home_the_error_names_the_option_that_helps() {
        let nowhere = || Bases { home: None, config: None, state: None, runtime: Runtime::Unset };
        let error = Paths::choose(Overrides::default(), nowhere()).unwrap_err().to_string();
        assert!(error.contains("HOME") && error.contains("--config FILE"), "{error}");
        let config = Overrides { config: Some("/c".into()), ..Overrides::default() };
        let error = Paths::choose(config, nowhere()).unwrap_err().to_string();
        assert!(error.contains("--state-dir DIR"), "{error}");
    }

    #[test]
    fn the_environment_is_read_as_the_specification_says() {
        let Some(parent) = rerun::parent("platform::paths::tests::the_environment_is_read_as_the_specification_says")
        else {
            let paths = Paths::find(Overrides::default()).unwrap();
            let home = PathBuf::from(std::env::var_os("HOME").unwrap());
            assert_eq!(paths.home.as_deref(), Some(&*home));
            // relative paths in these variables are to be ignored
            assert_eq!(paths.config_file, home.join(".config/valetd/config.toml"));
            assert_eq!(paths.state_dir, home.join("elsewhere/valetd"));
            assert_eq!(paths.socket, home.join("run/valetd/valetd.sock"));
            return;
        };
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("run")).unwrap();
        parent.passes(
            parent
                .command()
                .env("HOME", home.path())
                .env("XDG_CONFIG_HOME", "relative")
                .env("XDG_STATE_HOME", home.path().join("elsewhere"))
                .env("XDG_RUNTIME_DIR", home.path().join("run")),
        );
    }

    #[test]
    fn a_missing_folder_is_made_for_us_alone_with_all_that_is_missing_above_it() {
        let base = tempfile::tempdir().unwrap();
        let folder = OwnFolder::open_or_make(&base.path().join("a/b/c")).unwrap();
        assert_eq!(folder.mode(), 0o700);
        for made in ["a", "a/b", "a/b/c"] {
            assert_eq!(base.path().join(made).metadata().unwrap().mode() & 0o7777, 0o700, "{made}");
        }
        // and it is taken as it is the next time
        std::fs::set_permissions(base.path().join("a/b/c"), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(OwnFolder::open_or_make(folder.path()).unwrap().mode(), 0o755);
    }

    #[test]
    fn what_is_no_folder_of_ours_is_refused_in_words() {
        let base = tempfile::tempdir().unwrap();
        let real = base.path().join("real");
        std::fs::create_dir(&real).unwrap();
        symlink(&real, base.path().join("link")).unwrap();
        symlink(base.path().join("nothing"), base.path().join("dangling")).unwrap();
        std::fs::write(base.path().join("file"), "").unwrap();
        for (name, words) in
            [("link", "is a symbolic link"), ("dangling", "is a symbolic link"), ("file", "is not a folder")]
        {
            let error = OwnFolder::open_or_make(&base.path().join(name)).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(name), "{name}: {error}");
        }
        if chown(&real, Some(65533), None).is_err() {
            eprintln!("skipped the foreign owner: only root can give a folder away");
            return;
        }
        let error = OwnFolder::open_or_make(&real).unwrap_err().to_string();
        assert!(error.contains("belongs to another user (uid 65533)"), "{error}");
    }
}
