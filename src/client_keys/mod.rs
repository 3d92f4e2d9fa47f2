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

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::{Notify, watch};
use tracing::{error, warn};
use zeroize::Zeroizing;

use crate::config::KeyName;
use crate::platform::clock::{self, Clock};
use crate::platform::random;
use crate::platform::timer::WakeTimer;
use crate::secret::Secret;
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreError};

mod file;
mod key;
mod rate;
#[cfg(test)]
mod tests;

use file::{FILE, Kept, read, write};
use key::Used;
pub(crate) use key::{
    AddressKind, ClientKey, KeyInUse, LENGTH, Limits, NewKey, OwnAddress, PREFIX, Rights, looks_like_key,
};
pub(crate) use rate::Rate;
use rate::next_arrival;

/// A thousand keys is more than anybody keeps an eye on; each costs a comparison for every request that presents one.
const MOST_KEYS: usize = 1000;

/// Commands that run with a key of their own at the same time: each costs the daemon a descriptor, and with an address
/// of its own one more for each worker.
const MOST_EPHEMERAL: usize = 128;

/// Why a key is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// There is no such key, or no longer.
    Unknown,
    /// It has expired.
    Expired,
}

/// Why a request with a valid key is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exhausted {
    /// It comes too soon: how long to wait.
    Rate(Duration),
    /// As many as may run at once do.
    Concurrent,
    /// As many bytes as may have gone through it.
    Bytes,
}

/// Why the keys were not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
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
pub(crate) struct KeyRing {
    keys: ArcSwap<Vec<Arc<ClientKey>>>,
    store: Option<Arc<Store>>,
    /// Held while the keys are changed, the file included.
    changing: Mutex<()>,
    started: Instant,
    clock: Arc<Clock>,
    floor: Floor,
    /// The latest time that is in the file, in Unix seconds.
    noted: AtomicU64,
    /// A key has been added, one is used up, or the last end has been told.
    changed: Notify,
    /// One is used up, of which the file does not know yet.
    used_up: AtomicBool,
    /// Says that a key is valid no longer; carries nothing.
    ended: watch::Sender<()>,
    /// Until when ends by expiry have been told, in Unix seconds.
    told: AtomicU64,
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
    pub(crate) fn load(store: Arc<Store>, clock: Arc<Clock>) -> (Self, Option<String>) {
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
            started: clock::instant(),
            clock,
            floor: Floor::default(),
            noted: AtomicU64::new(0),
            changed: Notify::new(),
            used_up: AtomicBool::new(false),
            ended: watch::Sender::new(()),
            told: AtomicU64::new(0),
        }
    }

    /// The time by which keys are made and expire, in Unix seconds. It never runs backwards, not across a restart either.
    pub(crate) fn now(&self) -> u64 {
        (self.clock.now().as_millis() / 1000).max(self.floor.at(clock::since_boot()))
    }

    /// The keys, in the order of their names.
    pub(crate) fn keys(&self) -> Arc<Vec<Arc<ClientKey>>> {
        self.keys.load_full()
    }

    /// Tells from now on when a key has been revoked, has expired, or was forgotten.
    pub(crate) fn ends(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }

    /// Looks whether a key that was found before is still valid.
    ///
    /// # Errors
    ///
    /// Why it is no longer.
    pub(crate) fn check(&self, key: &ClientKey) -> Result<(), Refusal> {
        match (key.has_ended(), key.is_expired(self.now())) {
            (true, _) => Err(Refusal::Unknown),
            (false, true) => Err(Refusal::Expired),
            (false, false) => Ok(()),
        }
    }

    /// Whether there is no key at all, so that none that is presented can be valid.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.load().is_empty()
    }

    /// Finds the key that a client presents. Takes as long for any key, there or not.
    ///
    /// # Errors
    ///
    /// Why it is not taken.
    pub(crate) fn find(&self, presented: &str) -> Result<Arc<ClientKey>, Refusal> {
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
    /// [`Exhausted`]; then it is not counted.
    pub(crate) fn admit(&self, key: &Arc<ClientKey>) -> Result<KeyInUse, Exhausted> {
        if key.is_used_up() {
            if !key.ephemeral && !key.used.end_is_noted.swap(true, Ordering::Relaxed) {
                self.used_up.store(true, Ordering::Relaxed);
                self.changed.notify_one();
            }
            return Err(Exhausted::Bytes);
        }
        let in_use = KeyInUse::begin(key).ok_or(Exhausted::Concurrent)?;
        if let Some(rate) = key.rate {
            let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let theoretical_arrival = &key.used.theoretical_arrival;
            let mut last = theoretical_arrival.load(Ordering::Relaxed);
            loop {
                let next = next_arrival(last, elapsed, rate).map_err(Exhausted::Rate)?;
                match theoretical_arrival.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(meanwhile) => last = meanwhile,
                }
            }
        }
        key.used.requests.fetch_add(1, Ordering::Relaxed);
        key.used.last.store(self.now(), Ordering::Relaxed);
        Ok(in_use)
    }

    /// Makes a key, saves it unless it is ephemeral, and returns it: the only time that it can be seen. Waits for the
    /// disk.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; then nothing has changed.
    pub(crate) fn add(&self, new: NewKey) -> Result<(Secret, Arc<ClientKey>), KeyError> {
        self.add_with(new, None)
    }

    /// [`KeyRing::add`] with an address that ends with the key, or now if there is none.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; then nothing has changed.
    pub(crate) fn add_with(&self, new: NewKey, own: Option<OwnAddress>) -> Result<(Secret, Arc<ClientKey>), KeyError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let NewKey { name, rights, lifetime, rate, limits, ephemeral } = new;
        let now = self.now();
        let mut keys = Vec::clone(&self.keys.load());
        let name = match name {
            Some(name) => name,
            None if ephemeral => {
                KeyName::new(&format!("ephemeral-{}", random::name::<4>().map_err(|_| KeyError::NoRandomness)?))
                    .expect("a name")
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
        let bytes = random::bytes::<32>().map_err(|_| KeyError::NoRandomness)?;
        let secret = Secret::new(format!("{PREFIX}{}", *Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))));
        let sha256 = digest::digest(&digest::SHA256, secret.expose().as_bytes());
        let key = Arc::new(ClientKey {
            name,
            rights,
            created_at: now,
            expires_at: lifetime.map(|lifetime| now.saturating_add(lifetime.as_secs().max(1))),
            rate,
            limits,
            ephemeral,
            own,
            sha256: sha256.as_ref().try_into().expect("SHA-256 has 32 bytes"),
            used: Used::default(),
            ended: AtomicBool::new(false),
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
    pub(crate) fn revoke(&self, name: &KeyName) -> Result<(), KeyError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Vec::clone(&self.keys.load());
        let Some(at) = keys.iter().position(|key| key.name == *name) else {
            return Err(KeyError::Unknown(name.clone()));
        };
        let revoked = keys.remove(at);
        revoked.end();
        self.keys.store(Arc::new(keys.clone()));
        self.ended.send_replace(()); // before the disk, which may be slow
        if revoked.ephemeral { Ok(()) } else { Ok(self.save(&keys)?) }
    }

    /// Forgets an ephemeral key, if it is still there. Does not wait.
    pub(crate) fn forget(&self, ephemeral: &Arc<ClientKey>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys.load().iter().filter(|key| !Arc::ptr_eq(key, ephemeral)).cloned().collect();
        self.keys.store(Arc::new(keys));
        ephemeral.end();
        self.ended.send_replace(());
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

    /// Whether bytes are counted of a key that is kept.
    fn counts_bytes(&self) -> bool {
        self.keys.load().iter().any(|key| !key.ephemeral && key.limits.bytes.is_some())
    }

    /// When the next of all keys expires that was not told yet, in Unix seconds.
    fn next_expiry(&self) -> Option<u64> {
        let told = self.told.load(Ordering::Relaxed);
        let keys = self.keys.load();
        keys.iter().filter_map(|key| key.expires_at).filter(|end| *end > told).min()
    }

    /// Tells those who look after what runs that keys have expired by now.
    fn tell_expired(&self, now: u64) {
        self.told.store(now, Ordering::Relaxed);
        self.ended.send_replace(());
    }

    /// Writes down what time it is, and what was used. Waits for the disk.
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

/// Notes the time in the keys' file when one of them expires, and when the stop has started while one can still expire;
/// and tells that one has expired ([`KeyRing::ends`]). It sleeps until then; without a key that expires, it writes nothing.
pub(crate) async fn keep_time(ring: Arc<KeyRing>, mut shutdown: Shutdown) {
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
        let expiry = ring.next_expiry();
        if expiry.is_some_and(|end| end <= now) {
            ring.tell_expired(now);
        }
        if ring.used_up.swap(false, Ordering::Relaxed) || next.is_some_and(|end| end <= now) {
            let _ = note().await; // an error means that it panicked
            continue;
        }
        let due = next.into_iter().chain(ring.next_expiry()).min();
        let due = due.map(|end| ring.clock.now() + Duration::from_secs(end - now));
        tokio::select! {
            () = shutdown.started() => break,
            () = ring.changed.notified() => {}
            _ = timer.wait(&ring.clock, due) => {}
        }
    }
    if ring.next_end().is_some() || ring.counts_bytes() {
        let _ = note().await;
    }
}
