//! The configuration's file, as a person's own commands change it: one at a time, read as it is then, replaced whole, and only
//! by a text that can be used; and the secrets beside it that it names.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::config_edit::keeping_line_ends;
use super::failure::Failure;
use crate::config::{Account, AccountId, Config, Problem};
use crate::config_files;
use crate::platform::io_error::words;
use crate::platform::paths::Paths;
use crate::platform::replacement::{Replacement, leads_to, lock_folder_of};
use crate::platform::termination::Uninterrupted;
use crate::secret::Secret;

/// How often an edit is begun anew because the file was saved in between: an editor saves once in a while.
const TRIES: usize = 5;

/// Changes the file: `change` gets its text, an empty one if there is no file, and says the one that takes its place. It may be
/// called again, if somebody has saved the file in between. Returns the configuration as it is read back.
///
/// # Errors
///
/// Those of `change`, what is wrong with its text, or why it cannot be written: then the file is as it was.
pub(super) fn edit(
    places: &Paths,
    _whole: &Uninterrupted,
    mut change: impl FnMut(&str) -> Result<String, Failure>,
) -> Result<Config, Failure> {
    // a link stays a link, also one to a file that is not there yet
    let file = leads_to(&places.config_file).map_err(|error| {
        let named = places.config_file.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                let failure = Failure::say(format!("{named} is a link that leads nowhere: {}", words(&error)));
                failure.with_remedy("make the folder that it leads to, or remove the link")
            }
            _ => Failure::say(words(&error)).while_doing(format!("reading {named}")),
        }
    })?;
    let doing = format!("writing {}", file.display());
    let failed = |error: io::Error| {
        let failure = Failure::say(words(&error)).while_doing(doing.clone());
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                failure.with_remedy("have its folder let you write, or name a file elsewhere with --config")
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failure.with_remedy("make room and try again"),
            _ => failure,
        }
    };
    let _ours = lock_folder_of(&file).map_err(failed)?;
    for _ in 0..TRIES {
        let before = read(&file)?;
        let text = keeping_line_ends(before.as_deref().unwrap_or_default(), &mut change)?;
        let mode = file.metadata().map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
        let new = Replacement::write(&file, &text, mode).map_err(failed)?;
        let tried = config_files::load(&Paths { config_file: new.beside().to_owned(), ..places.clone() });
        if let Err(problems) = tried {
            let beside = new.beside().display().to_string();
            let problems: Vec<String> =
                problems.0.into_iter().map(|problem| of_file(problem, &beside, &file).to_string()).collect();
            let failure = Failure::say("the configuration could not be used with it, and stays as it was");
            return Err(failure.with_problems(problems).while_doing(doing));
        }
        if read(&file)? != before {
            continue;
        }
        new.take_place().map_err(failed)?;
        return config_files::load(places).map(|parsed| parsed.config).map_err(|problems| {
            let problems = problems.0.iter().map(Problem::to_string).collect();
            Failure::say("what was written cannot be used").with_problems(problems).while_doing(doing)
        });
    }
    let failure = Failure::say("somebody else goes on saving it").while_doing(doing);
    Err(failure.with_remedy("nothing was written; try again when they have finished"))
}

/// A problem of the text that is tried beside the file, as one of the file: it has no line there, as nothing was written.
fn of_file(mut problem: Problem, beside: &str, file: &Path) -> Problem {
    if problem.file == beside {
        (problem.file, problem.line) = (file.display().to_string(), 0);
    }
    problem
}

/// The file's text, an empty one if there is no file.
///
/// # Errors
///
/// If it cannot be read.
pub(super) fn text(places: &Paths) -> Result<String, Failure> {
    read(&places.config_file).map(Option::unwrap_or_default)
}

/// The file's text; `None` if there is no file.
fn read(file: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::say(words(&error)).while_doing(format!("reading {}", file.display()))),
    }
}

/// A secret in a file of its own in the configuration's folder, for us alone. It is removed again when this is dropped, unless
/// it was kept.
pub(super) struct SecretFile {
    path: PathBuf,
    is_kept: bool,
}

impl SecretFile {
    /// Writes it, under a name that no file has yet.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(super) fn write(
        places: &Paths,
        _whole: &Uninterrupted,
        account: &AccountId,
        secret: &Secret,
    ) -> Result<Self, Failure> {
        let folder = places.config_file.parent().unwrap_or(Path::new("/"));
        let failed = |error: io::Error| {
            Failure::say(words(&error)).while_doing(format!("writing the client's secret to {}", folder.display()))
        };
        let _ours = lock_folder_of(&places.config_file).map_err(failed)?;
        let names = (1..).map(|number| secret_name(account, number));
        let path = names.map(|name| folder.join(name)).find(|path| path.symlink_metadata().is_err());
        let path = path.expect("the numbers do not end");
        let text = Secret::new(format!("{}\n", secret.expose()));
        Replacement::write(&path, text.expose(), 0o600).and_then(Replacement::take_place).map_err(failed)?;
        Ok(Self { path, is_kept: false })
    }

    /// Its name in the folder.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// It is named by the configuration now.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.path);
        }
    }
}

/// Removes the secrets that were written for an account which is gone, unless the configuration, as it is now, names them.
pub(super) fn remove_secrets(places: &Paths, gone: &Account, now: &Config) {
    let folder = places.config_file.parent().unwrap_or(Path::new("/"));
    let written = config_files::files_of(gone).into_iter().filter(|path| {
        let name = path.strip_prefix(folder).ok().and_then(Path::to_str).unwrap_or_default();
        is_secret_name(&gone.id, name)
    });
    for path in written {
        if !now.accounts.values().any(|account| config_files::files_of(account).contains(path)) {
            remove(path);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "files of ours beside the configuration, by a person's own command")]
fn remove(file: &Path) {
    let _ = std::fs::remove_file(file);
}

/// The first has no number.
fn secret_name(account: &AccountId, number: u32) -> String {
    match number {
        1 => format!("{account}.client-secret"),
        number => format!("{account}.client-secret.{number}"),
    }
}

fn is_secret_name(account: &AccountId, name: &str) -> bool {
    let number = name.rsplit('.').next().and_then(|end| end.parse().ok()).unwrap_or(1);
    name == secret_name(account, number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config_edit::{Setting, with_account};
    use crate::platform::termination::uninterrupted;

    #[test]
    fn what_somebody_saves_in_between_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let config_file = folder.path().join("config.toml");
        let places = Paths {
            providers_dir: folder.path().join("providers"),
            config_file: config_file.clone(),
            state_dir: folder.path().join("state"),
            socket: folder.path().join("valetd.sock"),
            home: None,
            notes: Vec::new(),
        };
        let save = |text: &str| std::fs::write(&config_file, text).unwrap();
        let gbdx = [("provider", Setting::Text("gbdx".into()))];
        save("listen = []\n");
        let mut saves = 0;
        let mut edit = |most: u32| {
            edit(&places, &uninterrupted(), |text| {
                let added = with_account(text, "gbdx", &gbdx, &[]).map_err(Failure::say);
                if saves < most {
                    saves += 1;
                    save(&format!("listen = []\n# saved {saves} times\n"));
                }
                added
            })
        };
        assert!(edit(1).unwrap().accounts.len() == 1);
        let text = || std::fs::read_to_string(&config_file).unwrap();
        assert_eq!(text(), "listen = []\n# saved 1 times\n\n[account.gbdx]\nprovider = \"gbdx\"\n");
        save("listen = []\n");
        assert!(edit(100).unwrap_err().to_string().contains("goes on saving it"));
        assert_eq!(text(), "listen = []\n# saved 6 times\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_names_of_secrets_are_known_again_and_no_others() {
        let lab = AccountId::new("lab").unwrap();
        let rows = [
            ("lab.client-secret", true),
            ("lab.client-secret.2", true),
            ("lab.client-secret.1", false),
            ("lab.client-secret.02", false),
            ("lab", false),
            ("other.client-secret", false),
            ("keys/lab.client-secret", false),
            ("", false),
        ];
        for (name, expected) in rows {
            assert_eq!(is_secret_name(&lab, name), expected, "{name}");
        }
        assert!([1, 2, 10].into_iter().all(|number| is_secret_name(&lab, &secret_name(&lab, number))));
    }
}
