//! A disk for tests: it forgets what was not synced, tears writes, fails, and stops at any step that a test names.
//!
//! It is as unkind as POSIX allows: after a power cut each change of a name since the last sync of the folder has
//! happened or not, independently of the others, and a file that was not synced holds what it last held for sure, half
//! of what was written, zeros in its place, or all of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

use zeroize::Zeroizing;

use super::disk::{Disk, ReadError};

/// A handle to the disk: the test keeps one, the store has the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<Machine>>);

/// What happens instead of a step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The process dies; nothing it does from here on has any effect.
    Crash,
    /// The step fails with this number, once.
    Error(i32),
}

/// A lie that the disk tells, to see that the tests would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Lie {
    #[default]
    None,
    /// Says that a file's content is on the disk when it is not.
    Content,
    /// Says that the names are on the disk when they are not.
    Names,
}

#[derive(Clone, Debug, Default)]
struct Machine {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    names_on_disk: BTreeMap<String, usize>,
    /// Since the last sync of the folder, in order.
    changes: Vec<Change>,
    steps: usize,
    fault: Option<(usize, Fault)>,
    dead: bool,
    lie: Lie,
    /// What every sync of the folder is answered with, as by a file system that has none.
    no_sync: Option<i32>,
    /// Every file that is made waits for a word from here, or for the end of whoever has the other end.
    stall: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    written: Vec<u8>,
    on_disk: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    Made(String, usize),
    Renamed(String, String, usize),
    Removed(String),
}

impl FaultyDisk {
    pub(super) fn that_lies_about(lie: Lie) -> Self {
        let disk = Self::default();
        disk.machine().lie = lie;
        disk
    }

    /// A file system that answers every sync of the folder with this number.
    pub(super) fn that_cannot_sync(error: i32) -> Self {
        let disk = Self::default();
        disk.machine().no_sync = Some(error);
        disk
    }

    /// The step that is `after` steps from now goes wrong.
    pub(super) fn plant(&self, after: usize, fault: Fault) {
        let mut machine = self.machine();
        machine.fault = Some((machine.steps + after, fault));
    }

    /// The process dies at the step that is `after` steps from now.
    pub(crate) fn kill_at(&self, after: usize) {
        self.plant(after, Fault::Crash);
    }

    /// The step that is `after` steps from now fails, once.
    pub(crate) fn fail_at(&self, after: usize, error: i32) {
        self.plant(after, Fault::Error(error));
    }

    /// From here on the disk is slow: every file that is made waits for one word, until the sender is dropped.
    pub(crate) fn stall(&self) -> mpsc::Sender<()> {
        let (go_on, stall) = mpsc::channel();
        self.machine().stall = Some(Arc::new(Mutex::new(stall)));
        go_on
    }

    /// Whether the process has died.
    pub(crate) fn is_dead(&self) -> bool {
        self.machine().dead
    }

    /// Whether the planted fault has happened; takes it away if not.
    pub(crate) fn fault_has_happened(&self) -> bool {
        let mut machine = self.machine();
        machine.fault.take().is_none_or(|(step, _)| machine.steps > step)
    }

    /// Puts a file there as if it had always been.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let mut machine = self.machine();
        let number = machine.files.len();
        machine.files.push(Content { written: bytes.to_vec(), on_disk: bytes.to_vec() });
        machine.names.insert(name.to_owned(), number);
        machine.names_on_disk.insert(name.to_owned(), number);
    }

    /// Takes a file away as if it had never been.
    pub(super) fn forget(&self, name: &str) {
        let mut machine = self.machine();
        machine.names.remove(name);
        machine.names_on_disk.remove(name);
    }

    /// All files with their content, as a process sees them.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let machine = self.machine();
        machine.names.iter().map(|(name, number)| (name.clone(), machine.files[*number].written.clone())).collect()
    }

    /// Every disk that may be found when the power comes back. The last one is that of a process that was killed while
    /// the machine went on.
    pub(super) fn after_a_power_cut(&self) -> Vec<FaultyDisk> {
        let changes = self.machine().changes.len();
        let outcomes = (0..1usize << changes).flat_map(|chosen| LEFT.map(|left| (chosen, left)));
        outcomes.map(|(chosen, left)| self.found(|change| chosen >> change & 1 == 1, left)).collect()
    }

    /// One of those disks, by chance.
    pub(crate) fn after_some_power_cut(&self, mut dice: impl FnMut(u64) -> u64) -> FaultyDisk {
        let left = LEFT[dice(LEFT.len() as u64) as usize];
        self.found(|_| dice(2) == 0, left)
    }

    /// The last one of those disks.
    pub(crate) fn after_a_kill(&self) -> FaultyDisk {
        self.found(|_| true, all)
    }

    fn found(&self, mut has_happened: impl FnMut(usize) -> bool, what_is_left: WhatIsLeft) -> FaultyDisk {
        let machine = self.machine();
        let mut names = machine.names_on_disk.clone();
        for (_, change) in machine.changes.iter().enumerate().filter(|(index, _)| has_happened(*index)) {
            match change {
                Change::Made(name, number) => drop(names.insert(name.clone(), *number)),
                Change::Removed(name) => drop(names.remove(name)),
                Change::Renamed(from, to, number) => {
                    names.remove(from);
                    names.insert(to.clone(), *number);
                }
            }
        }
        let mut files = Vec::new();
        for number in names.values_mut() {
            let content = &machine.files[*number];
            let left = if content.written == content.on_disk { all(content) } else { what_is_left(content) };
            *number = files.len();
            files.push(Content { written: left.clone(), on_disk: left });
        }
        let names_on_disk = names.clone();
        FaultyDisk(Arc::new(Mutex::new(Machine { files, names, names_on_disk, ..Machine::default() })))
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().expect("no test panics inside the disk")
    }
}

/// What a power cut leaves of a file that was not synced.
type WhatIsLeft = fn(&Content) -> Vec<u8>;

const LEFT: [WhatIsLeft; 4] = [on_disk, first_half, zeros, all];

fn on_disk(content: &Content) -> Vec<u8> {
    content.on_disk.clone()
}

fn first_half(content: &Content) -> Vec<u8> {
    content.written[..content.written.len() / 2].to_vec()
}

fn zeros(content: &Content) -> Vec<u8> {
    vec![0; content.written.len()]
}

fn all(content: &Content) -> Vec<u8> {
    content.written.clone()
}

impl Machine {
    fn step(&mut self) -> io::Result<()> {
        let now = self.steps;
        self.steps += 1;
        match self.fault {
            Some((step, Fault::Crash)) if step == now => self.dead = true,
            Some((step, Fault::Error(number))) if step == now => return Err(io::Error::from_raw_os_error(number)),
            _ => {}
        }
        if self.dead { Err(io::Error::other("this process is dead")) } else { Ok(()) }
    }
}

impl Disk for FaultyDisk {
    fn names(&mut self) -> io::Result<Vec<String>> {
        let mut machine = self.machine();
        machine.step()?;
        Ok(machine.names.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ReadError> {
        let mut machine = self.machine();
        machine.step()?;
        Ok(machine.names.get(name).map(|number| Zeroizing::new(machine.files[*number].written.clone())))
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let stall = self.machine().stall.clone();
        if let Some(stall) = stall {
            let _ = stall.lock().expect("no test panics in here").recv();
        }
        let mut machine = self.machine();
        machine.step()?;
        if machine.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = machine.files.len();
        machine.files.push(Content::default());
        machine.names.insert(name.to_owned(), number);
        machine.changes.push(Change::Made(name.to_owned(), number));
        for part in [bytes.len() / 2, bytes.len()] {
            machine.step()?;
            machine.files[number].written = bytes[..part].to_vec();
        }
        machine.step()?;
        if machine.lie != Lie::Content {
            machine.files[number].on_disk = bytes.to_vec();
        }
        Ok(())
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        let mut machine = self.machine();
        machine.step()?;
        let number = *machine.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        if machine.lie != Lie::Content {
            machine.files[number].on_disk = machine.files[number].written.clone();
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.machine();
        machine.step()?;
        let number = machine.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        machine.names.insert(to.to_owned(), number);
        machine.changes.push(Change::Renamed(from.to_owned(), to.to_owned(), number));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut machine = self.machine();
        machine.step()?;
        if machine.names.remove(name).is_some() {
            machine.changes.push(Change::Removed(name.to_owned()));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut machine = self.machine();
        machine.step()?;
        if let Some(number) = machine.no_sync {
            return Err(io::Error::from_raw_os_error(number));
        }
        if machine.lie != Lie::Names {
            machine.names_on_disk = machine.names.clone();
            machine.changes.clear();
        }
        Ok(())
    }
}
