//! The configuration's files: read, judged by whose they are, and parsed.
//!
//! [`config`] is pure; this is where its texts come from. What others could change, of the files and of
//! those that they name, is refused: see [`ownership`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::config::{
    self, Account, AccountId, Config, MachineFacts, Parsed, Preset, Problem, Problems, SecretSource, Source,
};
use crate::oauth::metadata::{Kept, Metadata};
use crate::oauth::rfc7591::{RegisteredClient, Registration};
use crate::platform::ownership::{self, Fault, Refused};
use crate::platform::paths::Paths;
use crate::platform::tls;
use zeroize::Zeroizing;

/// Reads the configuration and the user's provider files. No file at all means no accounts and the default listeners. What
/// others could change, of these and of the files that they name, is refused: see [`ownership`].
///
/// # Errors
///
/// Every problem at once.
pub(crate) fn load(paths: &Paths) -> Result<Parsed, Problems> {
    load_with(paths, None)
}

/// The same with metadata that are not kept yet, in place of what is kept for that account.
///
/// # Errors
///
/// Every problem at once.
pub(crate) fn load_with(paths: &Paths, found: Option<(&AccountId, Metadata)>) -> Result<Parsed, Problems> {
    let mut facts = facts(paths);
    facts.metadata.extend(found.map(|(account, metadata)| (account.to_string(), metadata)));
    let (mut problems, mut faults) = (Vec::new(), BTreeSet::new());
    let mut read = |path: &Path| match read_source(path) {
        Ok((source, found)) => {
            faults.extend(found);
            source
        }
        Err(Problems(found)) => {
            problems.extend(found);
            None
        }
    };
    let file = read(&paths.config_file);
    let mut providers = Vec::new();
    for path in provider_files(&paths.providers_dir).into_iter().filter(|_| file.is_some()) {
        let Some(name) = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if let Some(source) = read(&path) {
            providers.push((name, source));
        }
    }
    if file.is_some() {
        faults.extend(ownership::judge_folder(&paths.providers_dir)); // whoever adds a file there replaces a preset
    }
    let parsed = match &file {
        Some(file) => Config::parse(file, &providers, &facts),
        None => Ok(Parsed { config: Config::empty(&facts), warnings: Vec::new() }),
    };
    match &parsed {
        Ok(parsed) => faults.extend(named_files(&parsed.config).iter().flat_map(|path| faults_of(path))),
        Err(Problems(found)) => problems.extend(found.iter().cloned()),
    }
    let not_ours = faults
        .into_iter()
        .map(|Fault { path, problem, remedy }| Problem::not_ours_alone(path.display().to_string(), problem, remedy));
    let problems: Vec<_> = not_ours.chain(problems).collect();
    if problems.is_empty() { parsed } else { Err(Problems(problems)) }
}

/// A provider that an account may name.
pub(crate) struct KnownPreset {
    /// What it says.
    pub preset: Preset,
    /// Whether it is a file of the user's.
    pub is_own: bool,
}

/// The user's own providers, and those that come with the binary and are not replaced by one, in the order of their names. A
/// file that cannot be used is told of where the configuration is read.
pub(crate) fn known_presets(paths: &Paths) -> Vec<KnownPreset> {
    let mut known: BTreeMap<String, KnownPreset> =
        config::presets().map(|preset| (preset.name.clone(), KnownPreset { preset, is_own: false })).collect();
    for path in provider_files(&paths.providers_dir) {
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        if let Ok((Some(source), _)) = read_source(&path) {
            known.insert(name.to_owned(), KnownPreset { preset: Preset::read(name, &source), is_own: true });
        }
    }
    known.into_values().collect()
}

/// What is in force while the configuration cannot be used: the default listeners and no accounts.
pub(crate) fn empty(paths: &Paths) -> Config {
    Config::empty(&facts(paths))
}

/// The files that a configuration has us read: secrets and certificate authorities.
fn named_files(config: &Config) -> BTreeSet<&Path> {
    let mut files = BTreeSet::new();
    files.extend(config.accounts.values().flat_map(files_of));
    for route in &config.routes {
        files.extend(route.extra_ca.as_deref());
        files.extend(route.request_headers.add.iter().filter_map(|(_, source)| file_of(source)));
    }
    files
}

/// The files that an account has us read.
pub(crate) fn files_of(account: &Account) -> BTreeSet<&Path> {
    let mut files = BTreeSet::new();
    files.extend(account.extra_ca.as_deref());
    files.extend(account.secrets().filter_map(|(_, source)| file_of(source)));
    files.extend(account.token_request.headers.iter().filter_map(|(_, source)| file_of(source)));
    files
}

/// What is wrong with the files of certificate authorities that a configuration names, each file once, with where it is
/// named.
pub(crate) fn unusable_authorities(config: &Config) -> Vec<String> {
    let unusable = |(path, place): (&PathBuf, &String)| {
        let words = tls::authorities(path).err()?;
        Some(format!("{place}: {}", words.strip_prefix("extra_ca: ").unwrap_or(&words)))
    };
    config.authority_files.iter().filter_map(unusable).collect()
}

fn file_of(source: &SecretSource) -> Option<&Path> {
    match source {
        SecretSource::File(path) => Some(path),
        SecretSource::Command(_) | SecretSource::Credential(_) | SecretSource::Inline(_) => None,
    }
}

/// Who else could change a file; nobody if it cannot be opened, which is told where it is needed.
fn faults_of(path: &Path) -> BTreeSet<Fault> {
    match ownership::open_without_waiting(path) {
        Err(Refused::Faults(faults)) => faults,
        Ok(_) | Err(Refused::Io(_)) => BTreeSet::new(),
    }
}

fn facts(paths: &Paths) -> MachineFacts {
    let folder = paths.config_file.parent().unwrap_or(Path::new("/")).to_owned();
    let home = paths.home.clone().unwrap_or_else(|| folder.clone());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let metadata = kept_metadata(&paths.state_dir).into_iter().map(|(account, kept)| (account, kept.metadata));
    let clients = registered_clients(&paths.state_dir);
    MachineFacts { folder, home, cores, metadata: metadata.collect(), clients }
}

/// What is public of the clients that were registered, by account; what cannot be read, or is another account's, is as if it
/// were not there. Their secrets are the store's, which may be sealed, and is opened after the configuration has been read.
fn registered_clients(state_dir: &Path) -> BTreeMap<String, RegisteredClient> {
    kept_files(state_dir, Registration::account_of, RegisteredClient::read_file)
}

/// What is kept of issuers in the state folder, by account. What cannot be read, or is somebody else's, is as if it were not
/// there: it is fetched anew.
pub(crate) fn kept_metadata(state_dir: &Path) -> BTreeMap<String, Kept> {
    kept_files(state_dir, Kept::account_of, |bytes, _| Kept::read(bytes))
}

/// What is kept beside the records, by account: a file of ours each.
fn kept_files<T>(
    state_dir: &Path,
    account_of: fn(&str) -> Option<&str>,
    understand: fn(&[u8], &str) -> Option<T>,
) -> BTreeMap<String, T> {
    let read = |path: &Path, account: &str| -> Option<T> {
        let file = ownership::open_without_waiting(path).ok()?;
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(LARGEST_KEPT).read_to_end(&mut bytes).ok()?;
        understand(&bytes, account)
    };
    let entries = std::fs::read_dir(state_dir).into_iter().flatten().flatten();
    let kept = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let account = account_of(&name)?.to_owned();
        let found = read(&entry.path(), &account)?;
        Some((account, found))
    });
    kept.collect()
}

/// The user's provider files, in the order of their names. A folder that is not there has none.
fn provider_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| is_provider_file(path)).collect();
    files.sort();
    files
}

/// `NAME.toml`, not hidden: what the watch looks for as well.
fn is_provider_file(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|end| end == "toml")
}

/// A response that is read has no more than 64 KiB, and not all of it is kept.
const LARGEST_KEPT: u64 = 1 << 18;

/// No configuration is so large, and what is (a device that never ends, say) must not fill the memory.
const LARGEST_CONFIG: u64 = 4 << 20;

/// A file's text and who else could have changed it.
fn read_source(path: &Path) -> Result<(Option<Source>, BTreeSet<Fault>), Problems> {
    use std::os::unix::fs::MetadataExt;
    let name = path.display().to_string();
    let read = || -> Result<(Vec<u8>, u32, BTreeSet<Fault>), Refused> {
        let (file, faults) = ownership::open_and_judge(path)?;
        let mode = file.metadata()?.mode();
        let mut bytes = Vec::new();
        if file.take(LARGEST_CONFIG + 1).read_to_end(&mut bytes)? as u64 > LARGEST_CONFIG {
            return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST_CONFIG >> 20)).into());
        }
        Ok((bytes, mode, faults))
    };
    match read() {
        Ok((bytes, mode, faults)) => {
            Source::from_bytes(name, &bytes, mode & 0o077 != 0).map(|source| (Some(source), faults))
        }
        Err(Refused::Faults(faults)) => Ok((None, faults)),
        Err(Refused::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok((None, BTreeSet::new())),
        Err(Refused::Io(error)) => Err(Problems(vec![Problem::unreadable(name, &error)])),
    }
}
