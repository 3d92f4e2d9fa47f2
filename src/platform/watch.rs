//! Notices that configuration files have changed, through every way in which editors and dotfile managers change them.
//!
//! A watch on the file itself dies when an editor renames another file over it, and sees nothing when a link is
//! swapped. So for each path we follow the links from the root, and watch the folder of every link on the way, that of the
//! file at the end, or, where something does not exist yet, the folder in which it would appear. All of those are real
//! paths, so no folder is watched under two names (inotify would report only one of them).
//!
//! What is seen is only a hint to look: once it has been quiet for a moment, the contents are compared. Nothing runs
//! meanwhile; only where a watch could not be set (the machine's limit is reached, a file system without events) do we look
//! again every half minute. Not noticed: that a folder above the configuration's, which is no link, is renamed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

/// Editors and package managers write in bursts; a person does not notice a fifth of a second.
const QUIET: Duration = Duration::from_millis(200);

/// Something that writes without end must not keep a new configuration from being seen.
const LONGEST_BURST: Duration = Duration::from_secs(5);

/// Where watching does not work. Prime, to stay out of step with everyone else's round numbers.
const SLOW_NET: Duration = Duration::from_secs(31);

/// As many links as Linux follows (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Watching and looking change each other only while somebody is at it; then the next event comes anyway.
const MOST_ATTEMPTS: usize = 8;

/// Watches files, and folders of `*.toml` files.
pub(crate) struct ConfigWatch {
    paths: Vec<PathBuf>,
    /// `None` where the machine has no watching at all.
    watcher: Option<RecommendedWatcher>,
    /// Folders that are watched.
    watched: BTreeSet<PathBuf>,
    /// Whether every folder that should be watched is.
    complete: bool,
    interest: Arc<Mutex<Interest>>,
    events: mpsc::UnboundedReceiver<()>,
    /// Kept, so that `events` never ends.
    _hints: mpsc::UnboundedSender<()>,
    /// Something has happened since the last look. Kept here, so that nothing is lost when `changed` is dropped half-way.
    pending: bool,
    /// What was there at the last look, by path.
    seen: Vec<Option<u64>>,
}

/// Whose events are worth a look. Filtered on notify's thread, so that a busy home folder does not wake us.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Interest {
    /// Files, links and things that do not exist yet, with their folders.
    entries: BTreeMap<PathBuf, BTreeSet<OsString>>,
    /// Folders whose `*.toml` files count.
    whole: BTreeSet<PathBuf>,
}

impl ConfigWatch {
    /// Starts to watch. Each path may be a file or a folder (whose `*.toml` files count), and need not exist yet. What is
    /// there now is not reported. Reads all of it; never fails: without watches it looks at times.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        let paths: Vec<_> = paths.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect();
        let (hints, events) = mpsc::unbounded_channel();
        let interest = Arc::new(Mutex::new(Interest::default()));
        let watcher = notify::recommended_watcher({
            let (hints, interest) = (hints.clone(), interest.clone());
            move |event: notify::Result<notify::Event>| {
                let hint = match event {
                    // our own reads are Access events: acting on them would never end
                    Ok(event) if event.kind.is_access() => false,
                    Ok(event) if event.need_rescan() || event.paths.is_empty() => true,
                    Ok(event) => {
                        let interest = interest.lock().unwrap_or_else(PoisonError::into_inner);
                        event.paths.iter().any(|path| interest.covers(path))
                    }
                    Err(_) => true,
                };
                if hint {
                    let _ = hints.send(());
                }
            }
        });
        let watcher = watcher.inspect_err(|error| debug!(%error, "cannot watch files; looking at times")).ok();
        let mut watch = Self {
            seen: vec![None; paths.len()],
            paths,
            watcher,
            watched: BTreeSet::new(),
            complete: false,
            interest,
            events,
            _hints: hints,
            pending: false,
        };
        watch.arm();
        watch.compare();
        watch
    }

    /// Watches these paths from now on. What is at a new one is not reported; at one that stays, what has changed since the
    /// last look still is.
    pub(crate) fn follow(&mut self, paths: Vec<PathBuf>) {
        let paths: Vec<_> = paths.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect();
        if paths == self.paths {
            return;
        }
        let before = |path: &PathBuf| self.paths.iter().position(|known| known == path);
        self.seen = paths.iter().map(|path| before(path).map_or_else(|| content(path), |at| self.seen[at])).collect();
        self.paths = paths;
        self.arm();
        self.pending = true; // a hint may have come while it was armed anew
    }

    /// Waits until what is at the paths differs from what was there at the last report. A burst of changes is one
    /// report, a rewrite with the same content none. What has vanished is not reported either: most often it is about to
    /// be replaced. Safe to drop at any point.
    pub(crate) async fn changed(&mut self) {
        while !self.look_after_a_hint().await {}
    }

    /// Waits for a hint and then for quiet, watches anew and returns whether the contents differ.
    async fn look_after_a_hint(&mut self) -> bool {
        if !self.pending {
            if self.complete {
                self.events.recv().await;
            } else {
                let _ = timeout(SLOW_NET, self.events.recv()).await;
            }
            self.pending = true;
        }
        let latest = Instant::now() + LONGEST_BURST;
        while timeout_at(latest.min(Instant::now() + QUIET), self.events.recv()).await.is_ok() {
            if Instant::now() >= latest {
                break;
            }
        }
        self.pending = false;
        self.arm();
        self.compare()
    }

    /// Watches what is to be watched now. inotify watches inodes: a folder that was deleted and made again needs a new
    /// watch, even if its number is the same. So all are dropped and set again, two system calls each.
    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for folder in std::mem::take(&mut self.watched) {
            let _ = watcher.unwatch(&folder); // it may be gone
        }
        for _ in 0..MOST_ATTEMPTS {
            let wanted = Interest::of(&self.paths);
            self.interest.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&wanted);
            let folders = wanted.folders();
            for folder in self.watched.difference(&folders) {
                let _ = watcher.unwatch(folder);
            }
            self.watched.retain(|folder| folders.contains(folder));
            for folder in &folders {
                if !self.watched.contains(folder) && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok() {
                    self.watched.insert(folder.clone());
                }
            }
            self.complete = self.watched == folders;
            // what came into being before its watch was set has raised no event: look again
            if wanted == Interest::of(&self.paths) {
                break;
            }
        }
        if !self.complete {
            debug!("some folders cannot be watched; looking at times");
        }
    }

    /// Reads everything; returns whether it differs from what was there before, and remembers it.
    fn compare(&mut self) -> bool {
        let mut differs = false;
        for (path, seen) in self.paths.iter().zip(&mut self.seen) {
            let now = content(path);
            if now.is_some() && now != *seen {
                *seen = now;
                differs = true;
            }
        }
        differs
    }
}

impl Interest {
    fn of(paths: &[PathBuf]) -> Self {
        let mut interest = Self::default();
        for path in paths {
            let Some(end) = interest.follow(path) else { continue };
            if end.is_dir() {
                for file in toml_files(&end) {
                    interest.follow(&file);
                }
                interest.whole.insert(end);
            }
        }
        interest
    }

    /// Notes every place where a change could make `path` mean something else. Returns its end, if there is one.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let mut at = PathBuf::new();
        let mut rest: VecDeque<PathBuf> = parts(path).collect();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            match part.components().next() {
                Some(Component::Normal(name)) => {
                    let entry = at.join(name);
                    let Ok(metadata) = std::fs::symlink_metadata(&entry) else {
                        self.note(&at, name); // it may appear here
                        return None;
                    };
                    if metadata.is_symlink() {
                        self.note(&at, name);
                        links += 1;
                        let target = std::fs::read_link(&entry).ok().filter(|_| links <= MOST_LINKS)?;
                        for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                            rest.push_front(part);
                        }
                    } else {
                        if !metadata.is_dir() {
                            self.note(&at, name);
                        }
                        at = entry;
                    }
                }
                Some(Component::ParentDir) => {
                    at.pop();
                }
                Some(Component::RootDir | Component::Prefix(_)) => at.push(part), // replaces what was there
                Some(Component::CurDir) | None => {}
            }
        }
        Some(at)
    }

    fn note(&mut self, folder: &Path, name: &OsStr) {
        self.entries.entry(folder.to_owned()).or_default().insert(name.to_owned());
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        self.entries.keys().chain(&self.whole).cloned().collect()
    }

    fn covers(&self, path: &Path) -> bool {
        if self.entries.contains_key(path) || self.whole.contains(path) {
            return true; // a watched folder itself: removed or renamed
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
        let is_entry = self.entries.get(folder).is_some_and(|names| names.contains(name));
        is_entry || (self.whole.contains(folder) && is_toml(path))
    }
}

fn parts(path: &Path) -> impl Iterator<Item = PathBuf> {
    path.components().map(|component| PathBuf::from(component.as_os_str()))
}

/// A fingerprint of a file, or of a folder's `*.toml` files with their names. `None` if there is nothing to be read.
fn content(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    if path.is_dir() {
        for file in toml_files(path) {
            (file.file_name(), bytes(&file)).hash(&mut hasher);
        }
    } else {
        bytes(path)?.hash(&mut hasher);
    }
    Some(hasher.finish())
}

/// What a plain file holds. A pipe would be waited for, and a device may never end: whoever can write to the folder may
/// have put one there.
fn bytes(path: &Path) -> Option<Vec<u8>> {
    std::fs::metadata(path).ok()?.is_file().then(|| std::fs::read(path).ok())?
}

/// A folder's `*.toml` files, in the order of their names.
fn toml_files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_toml(path)).collect()
}

/// Hidden files are other programs' temporary ones.
fn is_toml(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "toml")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Not a wait, but the end of patience with a broken watch.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Story {
        folder: tempfile::TempDir,
        watch: ConfigWatch,
    }

    impl Story {
        /// Prepares a folder, then watches `config.toml` and `providers` in its folder `valetd`.
        fn after(prepare: impl FnOnce(&Path)) -> Self {
            let folder = tempfile::tempdir().unwrap();
            prepare(folder.path());
            let config = folder.path().join("valetd");
            let watch = ConfigWatch::new(vec![config.join("config.toml"), config.join("providers")]);
            assert!(watch.complete, "every folder can be watched here");
            Self { folder, watch }
        }

        /// A folder with a file in it.
        fn plain() -> Self {
            Self::after(|at| {
                fs::create_dir(at.join("valetd")).unwrap();
                fs::write(at.join("valetd/config.toml"), "1").unwrap();
            })
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        async fn reports_a_change(&mut self) {
            timeout(PATIENCE, self.watch.changed()).await.expect("the change is reported");
        }

        /// It looks, but finds nothing new.
        async fn looks_and_finds_nothing(&mut self) {
            let found = timeout(PATIENCE, self.watch.look_after_a_hint()).await.expect("something is noticed");
            assert!(!found, "the same content is no change");
        }

        /// Changes the file in the plainest way, to see that the watch is still alive.
        async fn still_notices(&mut self, path: &str) {
            fs::write(self.at(path), "the last word").unwrap();
            self.reports_a_change().await;
        }
    }

    #[tokio::test]
    async fn a_write_in_place_is_reported_once() {
        let mut story = Story::plain();
        fs::write(story.at("valetd/config.toml"), "2").unwrap();
        story.reports_a_change().await;
        assert!(story.watch.events.try_recv().is_err() && !story.watch.pending, "nothing is left to report");
        story.still_notices("valetd/config.toml").await;
    }

    #[tokio::test]
    async fn a_file_renamed_over_it_is_reported_time_and_again() {
        let mut story = Story::plain();
        for content in ["2", "3", "4"] {
            fs::write(story.at("valetd/.config.toml.tmp"), content).unwrap();
            fs::rename(story.at("valetd/.config.toml.tmp"), story.at("valetd/config.toml")).unwrap();
            story.reports_a_change().await;
        }
    }

    #[tokio::test]
    async fn a_save_as_vim_does_it_is_reported() {
        let mut story = Story::plain();
        for content in ["2", "3"] {
            fs::rename(story.at("valetd/config.toml"), story.at("valetd/config.toml~")).unwrap();
            fs::write(story.at("valetd/config.toml"), content).unwrap();
            fs::remove_file(story.at("valetd/config.toml~")).unwrap();
            story.reports_a_change().await;
        }
    }

    #[tokio::test]
    async fn a_path_that_is_followed_later_is_watched_and_one_that_is_left_no_more() {
        let mut story = Story::plain();
        fs::write(story.at("ca.pem"), "1").unwrap();
        let both = vec![story.at("valetd/config.toml"), story.at("ca.pem")];
        story.watch.follow(both.clone());
        fs::write(story.at("ca.pem"), "2").unwrap();
        story.reports_a_change().await;
        // what has changed meanwhile at a path that stays is still reported
        fs::write(story.at("ca.pem"), "3").unwrap();
        story.watch.follow(both[1..].to_vec());
        story.reports_a_change().await;
        fs::write(story.at("valetd/config.toml"), "2").unwrap();
        assert!(
            timeout(Duration::from_millis(500), story.watch.changed()).await.is_err(),
            "it is not watched any more"
        );
        story.still_notices("ca.pem").await;
    }

    #[tokio::test]
    async fn a_link_is_followed_when_it_is_swapped_and_when_its_target_is_edited() {
        let mut story = Story::after(|at| {
            fs::create_dir(at.join("valetd")).unwrap();
            fs::create_dir(at.join("dotfiles")).unwrap();
            fs::write(at.join("dotfiles/one"), "1").unwrap();
            fs::write(at.join("dotfiles/two"), "2").unwrap();
            symlink("../dotfiles/one", at.join("valetd/config.toml")).unwrap();
        });
        symlink("../dotfiles/two", story.at("valetd/next")).unwrap();
        fs::rename(story.at("valetd/next"), story.at("valetd/config.toml")).unwrap();
        story.reports_a_change().await;
        story.still_notices("dotfiles/two").await;
    }

    #[tokio::test]
    async fn a_folder_that_is_a_link_is_followed_too() {
        let mut story = Story::after(|at| {
            for name in ["old", "new"] {
                fs::create_dir(at.join(name)).unwrap();
                fs::write(at.join(name).join("config.toml"), name).unwrap();
            }
            symlink(at.join("old"), at.join("valetd")).unwrap();
        });
        fs::remove_file(story.at("valetd")).unwrap();
        symlink(story.at("new"), story.at("valetd")).unwrap();
        story.reports_a_change().await;
        story.still_notices("new/config.toml").await;
    }

    #[tokio::test]
    async fn a_folder_removed_and_made_again_is_watched_again() {
        let mut story = Story::plain();
        fs::remove_dir_all(story.at("valetd")).unwrap();
        story.looks_and_finds_nothing().await; // gone for the moment
        fs::create_dir(story.at("valetd")).unwrap();
        fs::write(story.at("valetd/config.toml"), "2").unwrap();
        story.reports_a_change().await;
        story.still_notices("valetd/config.toml").await;
    }

    #[tokio::test]
    async fn a_folder_that_does_not_exist_yet_is_waited_for() {
        let mut story = Story::after(|_| {});
        fs::create_dir(story.at("valetd")).unwrap();
        story.looks_and_finds_nothing().await;
        fs::write(story.at("valetd/config.toml"), "1").unwrap();
        story.reports_a_change().await;
        fs::create_dir(story.at("valetd/providers")).unwrap();
        fs::write(story.at("valetd/providers/lab.toml"), "1").unwrap();
        story.reports_a_change().await;
        story.still_notices("valetd/providers/lab.toml").await;
    }

    #[tokio::test]
    async fn a_burst_is_one_report_of_the_last_content() {
        let mut story = Story::plain();
        for round in 0..20 {
            fs::write(story.at("valetd/config.toml"), format!("round {round}")).unwrap();
        }
        story.reports_a_change().await;
        assert_eq!(story.watch.seen[0], content(&story.at("valetd/config.toml")));
        assert!(story.watch.events.try_recv().is_err() && !story.watch.pending, "nothing is left to report");
    }

    #[tokio::test]
    async fn the_same_content_is_no_change() {
        let mut story = Story::plain();
        fs::write(story.at("valetd/config.toml"), "1").unwrap();
        story.looks_and_finds_nothing().await;
        story.still_notices("valetd/config.toml").await;
    }

    #[tokio::test]
    async fn only_what_could_change_the_meaning_is_a_hint() {
        let story = Story::after(|at| {
            fs::create_dir_all(at.join("real/providers")).unwrap();
            fs::write(at.join("real/config.toml"), "1").unwrap();
            symlink("real", at.join("valetd")).unwrap();
        });
        let interest = Interest::of(&story.watch.paths);
        let rows = [
            ("the file", "real/config.toml", true),
            ("its folder", "real", true),
            ("the link to its folder", "valetd", true),
            ("a provider that appears", "real/providers/new.toml", true),
            ("another file beside it", "real/notes.txt", false),
            ("another file beside the link", "other", false),
            ("an editor's temporary file", "real/providers/.new.toml.swp", false),
            ("a hidden file", "real/providers/.#new.toml", false),
        ];
        for (name, path, expected) in rows {
            // the temporary folder's own path may hold links, as on macOS
            let path = story.folder.path().canonicalize().unwrap().join(path);
            assert_eq!(interest.covers(&path), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_half_way_loses_nothing() {
        let mut story = Story::plain();
        fs::write(story.at("valetd/config.toml"), "2").unwrap();
        let hint = async {
            while story.watch.events.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, hint).await.expect("the write is noticed");
        timeout(Duration::ZERO, story.watch.changed()).await.expect_err("it waits for quiet");
        while story.watch.events.try_recv().is_ok() {} // as if this had been the only hint
        story.reports_a_change().await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_watches_the_slow_net_finds_the_change() {
        let mut story = Story::plain();
        (story.watch.watcher, story.watch.complete) = (None, false);
        *story.watch.interest.lock().unwrap() = Interest::default(); // nor a last hint from the old one
        fs::write(story.at("valetd/config.toml"), "2").unwrap();
        let before = Instant::now();
        timeout(2 * SLOW_NET, story.watch.changed()).await.expect("the change is found");
        assert!(before.elapsed() >= SLOW_NET);
    }
}
