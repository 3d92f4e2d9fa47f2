//! Client keys: what a sandbox, an agent or another machine presents, and what it may do with it.
//!
//! A key is `vk_` and 32 random bytes in base64url. It is shown once; kept is its SHA-256, which for a random text of
//! that length is as good as a slow hash. A request that presents a key has exactly that key's rights, also where it
//! comes from a process that would need none.
//!
//! [`KeyRing`] is read by every worker of the proxy without a lock and changed by the control socket; a change holds from
//! the next request on. Keys are in one file of the [`Store`], those of a running command (ephemeral ones) in memory
//! alone.
//!
//! A key that has expired stays expired when the wall clock is set back: within a process as the [`Clock`]'s time line
//! never runs backwards, across a restart as the file holds the latest time that its writer knew of. [`keep_time`] writes
//! it when a key expires and when the daemon stops. What it cannot know is how long no daemon ran, if the clock was set
//! back meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{error, warn};
use zeroize::Zeroizing;

use crate::config::{KeyName, ListenAddress, RouteName};
use crate::path_rules::{self, PathPattern, Reading};
use crate::platform::clock::{self, Clock};
use crate::platform::socket::SocketFile;
use crate::platform::timer::WakeTimer;
use crate::secret::Secret;
use crate::shutdown::{Shutdown, ShutdownTrigger};
use crate::store::{Store, StoreError};

/// What every key begins with.
pub const PREFIX: &str = "vk_";

/// A key's length in characters: the prefix and 32 bytes in base64url (RFC 4648 section 5).
pub const LENGTH: usize = PREFIX.len() + 43;

/// The store's file. No account's file can have this name: theirs have no dot before `.json`.
const FILE: &str = "client.keys.json";

/// The format that this program writes.
const VERSION: u64 = 1;

/// A thousand keys is more than anybody keeps an eye on; each costs a comparison for every request that presents one.
const MOST_KEYS: usize = 1000;

/// Commands that run with a key of their own at the same time: each costs the daemon a descriptor, and with an address
/// of its own one more for each worker.
const MOST_EPHEMERAL: usize = 128;

/// Whether a text looks like a key.
pub fn looks_like_key(text: &str) -> bool {
    let in_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == LENGTH && text.starts_with(PREFIX) && text.bytes().all(in_base64url)
}

/// What a key lets its holder do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Which routes; at least one.
    pub routes: Vec<RouteName>,
    /// Which methods; all, if there are none.
    pub methods: Vec<String>,
    /// Which paths behind the route's name; all, if there are none.
    pub paths: Vec<PathPattern>,
}

impl Rights {
    /// Whether a request to this route, with this method and path, is within them.
    pub fn permit(&self, route: &RouteName, method: &str, path: &Reading) -> bool {
        self.routes.contains(route)
            && (self.methods.is_empty() || self.methods.iter().any(|ours| path_rules::covers(ours, method)))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches_surely(path)))
    }

    /// Whether they are as wide as their routes, so that path and method need no look.
    pub fn is_whole_route(&self) -> bool {
        self.methods.is_empty() && self.paths.is_empty()
    }
}

/// So many requests in so much time. Shows as `10/s`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    requests: u32,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Rate {
    /// Reads `10/s`, `100/m` or `1000/h`.
    ///
    /// # Errors
    ///
    /// What to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "write it like 10/s, 100/m or 1000/h".to_owned();
        let (requests, unit) = text.split_once('/').ok_or_else(wrong)?;
        let unit = match unit {
            "s" => Unit::Second,
            "m" | "min" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(wrong()),
        };
        let requests = requests.parse().ok().filter(|requests| (1..=1_000_000).contains(requests)).ok_or_else(wrong)?;
        Ok(Self { requests, unit })
    }

    /// The time from one request to the next, and how many may come at once.
    fn spacing(self) -> (Duration, u32) {
        let per = match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
        };
        (Duration::from_secs(per) / self.requests, self.requests)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => "s",
            Unit::Minute => "m",
            Unit::Hour => "h",
        };
        write!(f, "{}/{unit}", self.requests)
    }
}

/// A key that somebody asks for.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What it is for; an ephemeral one may go without.
    pub name: Option<KeyName>,
    /// What it lets its holder do.
    pub rights: Rights,
    /// How long it lives from now on.
    pub lifetime: Option<Duration>,
    /// How often it may be used.
    pub rate: Option<Rate>,
    /// Whether it stays in memory, and dies with who asked for it.
    pub ephemeral: bool,
}

/// A key as it is kept.
#[derive(Debug)]
pub struct ClientKey {
    /// What it is for.
    pub name: KeyName,
    /// What it lets its holder do.
    pub rights: Rights,
    /// When it was made, in Unix seconds.
    pub created_at: u64,
    /// From when on it is refused, in Unix seconds.
    pub expires_at: Option<u64>,
    /// How often it may be used.
    pub rate: Option<Rate>,
    /// Whether it is in memory alone.
    pub ephemeral: bool,
    /// The address that lives as long as the key.
    own: Option<OwnAddress>,
    /// Of the key as it is presented.
    sha256: [u8; 32],
    used: Used,
}

/// An address that serves some routes and is lent to the holder of an ephemeral key; nobody is served there any more
/// once this is dropped.
#[derive(Debug)]
pub struct OwnAddress {
    /// Where it is.
    pub address: ListenAddress,
    /// Ends the listener and its connections.
    pub serving: ShutdownTrigger,
    /// The file of a unix socket.
    pub file: Option<SocketFile>,
}

/// What changes with every use.
#[derive(Debug, Default)]
struct Used {
    requests: AtomicU64,
    last: AtomicU64,
    /// When the next request would be due if they came evenly, in nanoseconds of the ring's life.
    due: AtomicU64,
}

impl ClientKey {
    /// Whether it has expired by `now`, in Unix seconds.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// The address that lives as long as the key, if it has one.
    pub fn own_address(&self) -> Option<&ListenAddress> {
        self.own.as_ref().map(|own| &own.address)
    }

    /// Ends what lives no longer than the key, though a request that it was good for may still have it in hand.
    fn end(&self) {
        if let Some(own) = &self.own {
            own.serving.start();
        }
    }

    /// Requests that it was used for since the daemon started, and when the last one was, in Unix seconds.
    pub fn uses(&self) -> (u64, Option<u64>) {
        let last = self.used.last.load(Ordering::Relaxed);
        (self.used.requests.load(Ordering::Relaxed), (last > 0).then_some(last))
    }
}

/// Why a key is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such key, or no longer.
    Unknown,
    /// It has expired.
    Expired,
}

/// Why the keys were not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Another key has the name.
    #[error("there is a key named \"{0}\" already: revoke it first, or take another name")]
    Taken(KeyName),
    /// No key has the name.
    #[error("no key is named \"{0}\"")]
    Unknown(KeyName),
    /// Only ephemeral keys go without a name.
    #[error("a key that is kept needs a name")]
    Nameless,
    /// A key without a route is good for nothing.
    #[error("a key needs at least one route")]
    NoRoute,
    /// There are `MOST_KEYS`.
    #[error("there are {MOST_KEYS} keys: revoke some first")]
    TooMany,
    /// There are `MOST_EPHEMERAL`.
    #[error("{MOST_EPHEMERAL} commands run with a key of their own: let one of them end first")]
    TooManyEphemeral,
    /// The system's random numbers cannot be had.
    #[error("the system's random numbers cannot be had")]
    NoRandomness,
    /// The file could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All keys.
#[derive(Debug)]
pub struct KeyRing {
    keys: ArcSwap<Vec<Arc<ClientKey>>>,
    store: Option<Arc<Store>>,
    /// Held while the keys are changed, the file included.
    changing: Mutex<()>,
    started: Instant,
    clock: Arc<Clock>,
    floor: Floor,
    /// The latest time that is in the file, in Unix seconds.
    noted: AtomicU64,
    /// The keys that are kept have changed.
    changed: Notify,
}

/// The latest time that an earlier process knew of, in Unix seconds, and the machine's age when that was read.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    unix: u64,
    read_at: Duration,
}

impl Floor {
    /// What time it is at least, when the machine is so old. A wall clock that is put right does not count twice.
    fn at(self, since_boot: Duration) -> u64 {
        self.unix.saturating_add(since_boot.saturating_sub(self.read_at).as_secs())
    }
}

impl KeyRing {
    /// Reads the keys of a store. What cannot be understood is set aside by the store, and then there are none: the second
    /// value says so.
    pub fn load(store: Arc<Store>, clock: Arc<Clock>) -> (Self, Option<String>) {
        let read = store.read_file(FILE, read).map(Option::unwrap_or_default);
        let (Kept { keys, latest }, problem) = match read {
            Ok(kept) => (kept, None),
            Err(error) => (Kept::default(), Some(format!("the client keys cannot be read, so none is valid: {error}"))),
        };
        let floor = Floor { unix: latest, read_at: clock::since_boot() };
        let ring = Self { store: Some(store), floor, noted: AtomicU64::new(latest), ..Self::with(clock) };
        ring.keys.store(Arc::new(keys));
        (ring, problem)
    }

    fn with(clock: Arc<Clock>) -> Self {
        Self {
            keys: ArcSwap::default(),
            store: None,
            changing: Mutex::new(()),
            started: Instant::now(),
            clock,
            floor: Floor::default(),
            noted: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// The time by which keys are made and expire, in Unix seconds. It never runs backwards, not across a restart either.
    pub fn now(&self) -> u64 {
        (self.clock.now().as_millis() / 1000).max(self.floor.at(clock::since_boot()))
    }

    /// The keys, in the order of their names.
    pub fn keys(&self) -> Arc<Vec<Arc<ClientKey>>> {
        self.keys.load_full()
    }

    /// Whether there is no key at all, so that none that is presented can be valid.
    pub fn is_empty(&self) -> bool {
        self.keys.load().is_empty()
    }

    /// Finds the key that a client presents. Takes as long for any key, there or not.
    ///
    /// # Errors
    ///
    /// Why it is not taken.
    pub fn find(&self, presented: &str) -> Result<Arc<ClientKey>, Refusal> {
        let sha256 = digest::digest(&digest::SHA256, presented.as_bytes());
        let mut found = None;
        for key in self.keys.load().iter() {
            if constant_time::verify_slices_are_equal(&key.sha256, sha256.as_ref()).is_ok() {
                found = Some(key.clone());
            }
        }
        let key = found.ok_or(Refusal::Unknown)?;
        if key.is_expired(self.now()) { Err(Refusal::Expired) } else { Ok(key) }
    }

    /// Counts a request that the key was good for.
    ///
    /// # Errors
    ///
    /// How long to wait, if it comes too soon; then it is not counted.
    pub fn admit(&self, key: &ClientKey) -> Result<(), Duration> {
        if let Some(rate) = key.rate {
            let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut due = key.used.due.load(Ordering::Relaxed);
            loop {
                let next = next_due(due, elapsed, rate)?;
                match key.used.due.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(meanwhile) => due = meanwhile,
                }
            }
        }
        key.used.requests.fetch_add(1, Ordering::Relaxed);
        key.used.last.store(self.now(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes a key, saves it unless it is ephemeral, and returns it: the only time that it can be seen. Waits for the
    /// disk.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; then nothing has changed.
    pub fn add(&self, new: NewKey) -> Result<(Secret, Arc<ClientKey>), KeyError> {
        self.add_with(new, None)
    }

    /// [`KeyRing::add`] with an address that ends with the key, or now if there is none.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; then nothing has changed.
    pub fn add_with(&self, new: NewKey, own: Option<OwnAddress>) -> Result<(Secret, Arc<ClientKey>), KeyError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let NewKey { name, rights, lifetime, rate, ephemeral } = new;
        let now = self.now();
        let mut keys = Vec::clone(&self.keys.load());
        let name = match name {
            Some(name) => name,
            None if ephemeral => {
                KeyName::new(&format!("ephemeral-{}", hex(random::<4>()?.as_slice()))).expect("a name")
            }
            None => return Err(KeyError::Nameless),
        };
        if rights.routes.is_empty() {
            return Err(KeyError::NoRoute);
        }
        if let Some(at) = keys.iter().position(|key| key.name == name) {
            if !keys[at].is_expired(now) {
                return Err(KeyError::Taken(name));
            }
            keys.remove(at);
        }
        if keys.len() >= MOST_KEYS {
            return Err(KeyError::TooMany);
        }
        if ephemeral && keys.iter().filter(|key| key.ephemeral).count() >= MOST_EPHEMERAL {
            return Err(KeyError::TooManyEphemeral);
        }
        let bytes = random::<32>()?;
        let secret = Secret::new(format!("{PREFIX}{}", *Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))));
        let sha256 = digest::digest(&digest::SHA256, secret.expose().as_bytes());
        let key = Arc::new(ClientKey {
            name,
            rights,
            created_at: now,
            expires_at: lifetime.map(|lifetime| now.saturating_add(lifetime.as_secs().max(1))),
            rate,
            ephemeral,
            own,
            sha256: sha256.as_ref().try_into().expect("SHA-256 has 32 bytes"),
            used: Used::default(),
        });
        keys.push(key.clone());
        keys.sort_by(|one, other| one.name.cmp(&other.name));
        if !ephemeral {
            self.save(&keys)?;
        }
        self.keys.store(Arc::new(keys));
        self.changed.notify_one();
        Ok((secret, key))
    }

    /// Revokes a key: no request is let in with it from here on, even if the file cannot be written. Waits for the disk.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unknown`]; [`KeyError::Store`] if it would be valid again after a restart.
    pub fn revoke(&self, name: &KeyName) -> Result<(), KeyError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Vec::clone(&self.keys.load());
        let Some(at) = keys.iter().position(|key| key.name == *name) else {
            return Err(KeyError::Unknown(name.clone()));
        };
        let revoked = keys.remove(at);
        revoked.end();
        self.keys.store(Arc::new(keys.clone()));
        if revoked.ephemeral { Ok(()) } else { Ok(self.save(&keys)?) }
    }

    /// Forgets an ephemeral key, if it is still there. Does not wait.
    pub fn forget(&self, ephemeral: &Arc<ClientKey>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys.load().iter().filter(|key| !Arc::ptr_eq(key, ephemeral)).cloned().collect();
        self.keys.store(Arc::new(keys));
        ephemeral.end();
    }

    fn save(&self, keys: &[Arc<ClientKey>]) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let now = self.now();
        self.noted.fetch_max(now, Ordering::Relaxed); // a disk that refuses is asked again at the next end, or at the stop
        store.write_file(FILE, &write(keys, now))
    }

    /// When the next of the keys that are kept expires, of which the file does not know yet; in Unix seconds.
    fn next_end(&self) -> Option<u64> {
        let noted = self.noted.load(Ordering::Relaxed);
        let keys = self.keys.load();
        let ends = keys.iter().filter(|key| !key.ephemeral).filter_map(|key| key.expires_at);
        ends.filter(|end| *end > noted).min()
    }

    /// Writes down what time it is. Waits for the disk.
    fn note_time(&self) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.save(&self.keys.load()) {
            warn!(%error, "the time could not be noted beside the client keys: a clock set back could revive one");
        }
    }
}

/// A ring without keys and without a file.
impl Default for KeyRing {
    fn default() -> Self {
        Self::with(Arc::new(Clock::start()))
    }
}

/// Notes the time in the keys' file when one of them expires, and when the stop has started while one can still expire.
/// It sleeps until then; without a key that expires, it writes nothing.
pub async fn keep_time(ring: Arc<KeyRing>, mut shutdown: Shutdown) {
    let note = || {
        let ring = ring.clone();
        tokio::task::spawn_blocking(move || ring.note_time())
    };
    let mut timer = match WakeTimer::new() {
        Ok(timer) => timer,
        Err(error) => return error!(%error, "the ends of client keys are not noted: the kernel gives no timer"),
    };
    loop {
        let next = ring.next_end();
        let now = ring.now();
        if next.is_some_and(|end| end <= now) {
            let _ = note().await; // an error means that it panicked
            continue;
        }
        let due = next.map(|end| ring.clock.now() + Duration::from_secs(end - now));
        tokio::select! {
            () = shutdown.started() => break,
            () = ring.changed.notified() => {}
            _ = timer.wait(&ring.clock, due) => {}
        }
    }
    if ring.next_end().is_some() {
        let _ = note().await;
    }
}

/// When the request after this one is due, if this one may come at `now`; all in nanoseconds.
fn next_due(due: u64, now: u64, rate: Rate) -> Result<u64, Duration> {
    let (spacing, at_once) = rate.spacing();
    let spacing = u64::try_from(spacing.as_nanos()).unwrap_or(u64::MAX);
    let ahead = spacing.saturating_mul(u64::from(at_once) - 1);
    let earliest = due.saturating_sub(ahead);
    if now < earliest {
        return Err(Duration::from_nanos(earliest - now));
    }
    Ok(due.max(now).saturating_add(spacing))
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| KeyError::NoRandomness)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// -------------------------------------------------------------------------------------------------------------------
// The file.

#[derive(Serialize, Deserialize)]
struct File {
    version: u64,
    /// The latest time that the writer knew of, in Unix seconds; earlier versions did not say.
    #[serde(default)]
    latest: u64,
    keys: Vec<FileKey>,
}

/// What the file holds.
#[derive(Default)]
struct Kept {
    keys: Vec<Arc<ClientKey>>,
    /// The latest time that it knows of.
    latest: u64,
}

#[derive(Serialize, Deserialize)]
struct FileKey {
    name: String,
    sha256: String,
    routes: Vec<String>,
    methods: Vec<String>,
    paths: Vec<String>,
    created_at: u64,
    expires_at: Option<u64>,
    rate: Option<String>,
}

fn write(keys: &[Arc<ClientKey>], latest: u64) -> Vec<u8> {
    let entry = |key: &Arc<ClientKey>| FileKey {
        name: key.name.to_string(),
        sha256: hex(&key.sha256),
        routes: key.rights.routes.iter().map(ToString::to_string).collect(),
        methods: key.rights.methods.clone(),
        paths: key.rights.paths.iter().map(ToString::to_string).collect(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        rate: key.rate.map(|rate| rate.to_string()),
    };
    let kept = keys.iter().filter(|key| !key.ephemeral).map(entry).collect();
    let mut bytes =
        serde_json::to_vec_pretty(&File { version: VERSION, latest, keys: kept }).expect("texts and numbers");
    bytes.push(b'\n');
    bytes
}

/// Reads the whole file or nothing: half a list of rights is no list of rights.
fn read(bytes: &[u8]) -> Result<Kept, String> {
    let place = |error: serde_json::Error| format!("makes no sense at line {}", error.line());
    let File { version, mut latest, keys } = serde_json::from_slice(bytes).map_err(place)?;
    if version != VERSION {
        return Err(format!("has the format {version}, this program reads {VERSION}"));
    }
    let mut read = Vec::with_capacity(keys.len());
    for FileKey { name, sha256, routes, methods, paths, created_at, expires_at, rate } in keys {
        let wrong = |what: &str| format!("has a key \"{}\" with a wrong {what}", name.escape_debug());
        let digits = |at: usize| sha256.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes: Option<Vec<u8>> = (0..32).map(|index| digits(2 * index)).collect();
        let bytes = bytes.filter(|_| sha256.len() == 64).ok_or_else(|| wrong("hash"))?;
        let routes: Option<Vec<RouteName>> = routes.iter().map(|route| RouteName::new(route)).collect();
        let paths: Result<Vec<PathPattern>, String> = paths.iter().map(|path| PathPattern::parse(path)).collect();
        let methods: Result<Vec<String>, String> = methods.iter().map(|method| path_rules::method(method)).collect();
        let rights = Rights {
            routes: routes.filter(|routes| !routes.is_empty()).ok_or_else(|| wrong("route"))?,
            methods: methods.map_err(|_| wrong("method"))?,
            paths: paths.map_err(|_| wrong("path"))?,
        };
        latest = latest.max(created_at);
        read.push(Arc::new(ClientKey {
            rights,
            created_at,
            expires_at,
            rate: rate.as_deref().map(Rate::parse).transpose().map_err(|_| wrong("rate"))?,
            ephemeral: false,
            own: None,
            sha256: bytes.try_into().expect("32 bytes were read"),
            used: Used::default(),
            name: KeyName::new(&name).ok_or_else(|| wrong("name"))?,
        }));
    }
    read.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Kept { keys: read, latest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(routes: &[&str], methods: &[&str], paths: &[&str]) -> Rights {
        Rights {
            routes: routes.iter().map(|route| RouteName::new(route).unwrap()).collect(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            paths: paths.iter().map(|path| PathPattern::parse(path).unwrap()).collect(),
        }
    }

    fn clock() -> Arc<Clock> {
        Arc::new(Clock::start())
    }

    fn new(name: &str) -> NewKey {
        NewKey {
            name: KeyName::new(name),
            rights: rights(&["gbdx"], &["GET"], &["/catalog/**"]),
            lifetime: Some(Duration::from_secs(3600)),
            rate: Some(Rate::parse("10/s").unwrap()),
            ephemeral: false,
        }
    }

    #[test]
    fn rights_are_routes_methods_and_paths_together() {
        let narrow = rights(&["gbdx"], &["GET", "POST"], &["/catalog/**", "/search"]);
        let whole = rights(&["gbdx", "lab"], &[], &[]);
        let rows = [
            ("within", &narrow, "gbdx", "GET", "/catalog/v2/x", true),
            ("HEAD is a GET", &narrow, "gbdx", "HEAD", "/search", true),
            ("another route", &narrow, "lab", "GET", "/catalog/v2/x", false),
            ("another method", &narrow, "gbdx", "DELETE", "/catalog/v2/x", false),
            ("another path", &narrow, "gbdx", "GET", "/workflows", false),
            ("a path that may be another", &narrow, "gbdx", "GET", "/search%2fx", false),
            ("whole routes", &whole, "lab", "DELETE", "/x", true),
            ("but only those", &whole, "gdh", "GET", "/", false),
        ];
        for (case, rights, route, method, path, expected) in rows {
            let route = RouteName::new(route).unwrap();
            assert_eq!(rights.permit(&route, method, &Reading::of(path)), expected, "{case}");
        }
    }

    #[test]
    fn a_key_is_shown_once_kept_as_a_hash_and_found_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let (ring, problem) = KeyRing::load(Arc::new(Store::open(&state).unwrap()), clock());
        assert_eq!(problem, None);
        let (secret, _) = ring.add(new("agent")).unwrap();
        assert!(looks_like_key(secret.expose()));
        let (ephemeral, _) = ring.add(NewKey { name: None, ephemeral: true, ..new("x") }).unwrap();
        assert_eq!(ring.find(ephemeral.expose()).unwrap().name.as_str().len(), "ephemeral-".len() + 8);
        assert!(matches!(ring.add(new("agent")), Err(KeyError::Taken(_))));
        assert!(matches!(ring.add(NewKey { name: None, ..new("x") }), Err(KeyError::Nameless)));
        drop(ring);

        let path = state.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(PREFIX) && !text.contains("ephemeral") && text.contains("/catalog/**"), "{text}");
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o7777, 0o600);

        let store = Arc::new(Store::open(&state).unwrap());
        let (ring, _) = KeyRing::load(store, clock());
        let key = ring.find(secret.expose()).unwrap();
        assert_eq!((key.rights.clone(), key.rate), (new("agent").rights, new("agent").rate));
        assert_eq!(ring.find(ephemeral.expose()).err(), Some(Refusal::Unknown));
        ring.revoke(&key.name).unwrap();
        assert_eq!(ring.find(secret.expose()).err(), Some(Refusal::Unknown));
        assert!(matches!(ring.revoke(&key.name), Err(KeyError::Unknown(_))));
        assert!(!std::fs::read_to_string(path).unwrap().contains("agent"));
    }

    #[test]
    fn a_key_that_has_expired_stays_expired_when_the_clock_is_set_back_also_across_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = |clock: &Arc<Clock>| KeyRing::load(Arc::new(Store::open(folder.path()).unwrap()), clock.clone()).0;
        let clock = clock();
        let ring = open(&clock);
        let (secret, key) = ring.add(new("agent")).unwrap();
        assert!(ring.find(secret.expose()).is_ok());
        assert_eq!(ring.next_end(), key.expires_at);
        // two hours pass, and the wall clock is where it was
        clock.was_ahead_by(Duration::from_secs(7200));
        assert_eq!(ring.find(secret.expose()).err(), Some(Refusal::Expired));
        let (later, _) = ring.add(new("later")).unwrap();
        assert_eq!(ring.next_end(), ring.find(later.expose()).unwrap().expires_at, "the first end is noted");
        drop(ring);

        let clock = self::clock();
        let ring = open(&clock);
        assert_eq!(ring.find(secret.expose()).err(), Some(Refusal::Expired), "the file knows better than the clock");
        assert!(ring.find(later.expose()).is_ok());
        // the clock is put right again: what passed by it is not counted twice
        clock.was_ahead_by(Duration::from_secs(7200));
        assert!(ring.find(later.expose()).is_ok());
        clock.was_ahead_by(Duration::from_secs(3601));
        assert_eq!(ring.find(later.expose()).err(), Some(Refusal::Expired));
    }

    #[test]
    fn the_floor_goes_on_with_the_machine_and_counts_its_sleep() {
        let floor = Floor { unix: 1000, read_at: Duration::from_secs(50) };
        assert_eq!(floor.at(Duration::from_secs(50)), 1000);
        assert_eq!(floor.at(Duration::from_secs(110)), 1060);
        assert_eq!(floor.at(Duration::ZERO), 1000);
    }

    #[test]
    fn a_file_without_the_latest_time_knows_it_from_its_keys() {
        let hash = "0".repeat(64);
        let rest = "\"methods\": [], \"paths\": [], \"created_at\": 1700000000, \"expires_at\": 1700000001";
        let text = format!(
            "{{\"version\": 1, \"keys\": [{{\"name\": \"a\", \"sha256\": \"{hash}\", \"routes\": [\"a\"], {rest}}}]}}"
        );
        assert_eq!(read(text.as_bytes()).unwrap().latest, 1_700_000_000);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_set_aside_and_lets_nobody_in() {
        let hash = "0".repeat(64);
        let key = |members: &str| format!("{{\"version\": 1, \"keys\": [{{{members}}}]}}");
        let rest = "\"methods\": [], \"paths\": [], \"created_at\": 1";
        let rows = [
            ("no JSON", "vk_".to_owned()),
            ("another version", "{\"version\": 2, \"keys\": []}".to_owned()),
            ("no hash", key(&format!("\"name\": \"a\", \"sha256\": \"00\", \"routes\": [\"a\"], {rest}"))),
            ("no route", key(&format!("\"name\": \"a\", \"sha256\": \"{hash}\", \"routes\": [], {rest}"))),
            ("a bad name", key(&format!("\"name\": \"A\", \"sha256\": \"{hash}\", \"routes\": [\"a\"], {rest}"))),
        ];
        for (case, text) in rows {
            let folder = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(folder.path()).unwrap());
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let (ring, problem) = KeyRing::load(store, clock());
            assert!(problem.is_some_and(|problem| problem.contains("none is valid")), "{case}");
            assert!(ring.keys().is_empty(), "{case}");
            assert!(!folder.path().join(FILE).exists(), "{case}");
        }
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_then_one_at_a_time() {
        let rate = Rate::parse("10/s").unwrap();
        let tenth = 100_000_000;
        let mut due = 0;
        for request in 0..10 {
            due = next_due(due, 5 * tenth, rate).unwrap_or_else(|_| panic!("request {request}"));
        }
        assert_eq!(next_due(due, 5 * tenth, rate), Err(Duration::from_millis(100)));
        due = next_due(due, 6 * tenth, rate).unwrap();
        assert!(next_due(due, 6 * tenth, rate).is_err());
        // after a pause, a whole burst again and no more
        for request in 0..10 {
            due = next_due(due, 100 * tenth, rate).unwrap_or_else(|_| panic!("request {request}"));
        }
        assert!(next_due(due, 100 * tenth, rate).is_err());
        for text in ["", "10", "0/s", "x/s", "10/d", "-1/s", "9999999/s"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
        assert_eq!(Rate::parse("3/min").unwrap().to_string(), "3/m");
    }

    #[test]
    fn only_the_exact_form_looks_like_a_key() {
        let key = format!("vk_{}", "aB3-_".repeat(9)[..43].to_owned());
        assert!(looks_like_key(&key));
        for other in [&key[1..], &key[..45], &format!("{key}a"), &key.replace("vk_", "vk-"), &key.replace('B', "%")] {
            assert!(!looks_like_key(other), "{other}");
        }
    }
}
