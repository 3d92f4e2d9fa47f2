//! Keys in the desktop's keyring: the Secret Service of gnome-keyring, KeePassXC or KWallet.
//!
//! Nobody is prompted but by [`unlock`], which a person has asked for, and no service is started: a keyring that does not
//! run, is locked, or would ask a person is away. Only one that is open altogether and has no such item says that the key
//! is gone.
//!
//! The rules that servers have taught:
//!
//! - The default collection is what `ReadAlias` returns, never a path that is known beforehand (KeePassXC has no object
//!   there, issue 13524); an alias of `/` is no collection, and making one opens a dialogue.
//! - Each call that changes something returns a prompt's path, and anything but `/` means that a person would be asked;
//!   but KeePassXC's for a new item in an open database, which asks nobody.
//! - Items are looked for in each collection that is open. Asked for all at once, KeePassXC has a person open what is
//!   locked.
//! - An item in an open collection may be locked all the same: KeePassXC can have each access confirmed, and then nobody
//!   reads over a second connection what was made over a first one.
//! - Sessions end with the service, so that nothing is kept.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use zbus::{ObjectPath, OwnedObjectPath, OwnedVariant, Variant};
use zeroize::Zeroizing;

use super::no_secret::NoSecret;
use crate::platform::bus::{Bus, BusError, Service, Signals};
use crate::platform::random;
use crate::secret::Secret;

const NAME: &str = "org.freedesktop.secrets";
const ROOT: &str = "/org/freedesktop/secrets";
const SERVICE: &str = "org.freedesktop.Secret.Service";
const COLLECTION: &str = "org.freedesktop.Secret.Collection";
const ITEM: &str = "org.freedesktop.Secret.Item";
const KEEPASSXC: &str = "org.keepassxc.KeePassXC.MainWindow";

/// A keyring takes 5 to 9 ms for all that is asked here; one that waits for a person is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a person may take to find the password.
const PATIENCE_WITH_PEOPLE: Duration = Duration::from_secs(120);

/// A secret as the service has it: session, parameters, value, media type.
type Wire = (OwnedObjectPath, Vec<u8>, Vec<u8>, String);

/// Keeps a secret, and reads it back. Returns what it is found by.
pub(super) fn keep(bus: &Bus, secret: &Secret) -> Result<String, String> {
    let id = random::name::<8>().map_err(|error| error.to_string())?;
    let kept = wait_for(PATIENCE, async {
        Keyring::open(bus).await?.put(&id, secret).await?;
        // as the next start will: who has made it may be let in for that
        Keyring::open(bus).await?.get(&id).await
    });
    match kept {
        Ok(again) if again == *secret => Ok(id),
        kept => {
            let _ = forget(bus, &id); // what it has made of it is of no use, and nobody else knows it
            Err(kept.map_or_else(
                |error| error.to_string(),
                |_| "it gives back something else than it was given".to_owned(),
            ))
        }
    }
}

/// Reads a secret that was kept.
pub(super) fn read(bus: &Bus, id: &str) -> Result<Secret, NoSecret> {
    wait_for(PATIENCE, async { Keyring::open(bus).await?.get(id).await })
}

/// Has a secret forgotten, if that can be done.
pub(super) fn forget(bus: &Bus, id: &str) -> Result<(), NoSecret> {
    wait_for(PATIENCE, async { Keyring::open(bus).await?.delete(id).await })
}

/// Has the keyring ask a person to open it, if it is locked. For the person's own process: a daemon asks nobody.
pub(super) fn unlock(bus: &Bus) -> Result<(), NoSecret> {
    wait_for(PATIENCE_WITH_PEOPLE, async { Keyring::open(bus).await?.unlock().await })
}

/// Tells when something about the keyring has changed: it was unlocked, has come, or has gone.
#[derive(Debug)]
pub(crate) struct KeyringWatch(Signals);

/// An unlock is told in several signals.
const SETTLE: Duration = Duration::from_millis(250);

impl KeyringWatch {
    /// Begins to listen; `None` where there is no bus. To be called inside a runtime with I/O and time enabled.
    pub(crate) async fn new() -> Option<Self> {
        let rules = [
            "type='signal',sender='org.freedesktop.secrets',path_namespace='/org/freedesktop/secrets'",
            "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='org.freedesktop.secrets'",
        ];
        Signals::of(&Bus::Session, &rules).await.ok().map(Self)
    }

    /// Waits until something has changed and has settled. Returns whether there will be more. Safe to drop at any point.
    pub(crate) async fn changed(&mut self) -> bool {
        let has_more = self.0.next().await.is_some();
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => return has_more,
                more = self.0.next(), if has_more => if more.is_none() { return false },
            }
        }
    }
}

/// Runs something to its end, within the patience, on a runtime of its own: who calls may be on one already.
fn wait_for<T: Send>(
    patience: Duration,
    work: impl Future<Output = Result<T, NoSecret>> + Send,
) -> Result<T, NoSecret> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| NoSecret::Away(error.to_string()))?;
        let in_time = runtime.block_on(async { tokio::time::timeout(patience, work).await });
        in_time.unwrap_or_else(|_| {
            let seconds = patience.as_secs();
            Err(NoSecret::Away(format!("the keyring has not responded within {seconds} s; it may be asking a person")))
        })
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|_| Err(NoSecret::Away("asking the keyring ended badly".to_owned())))
}

/// A keyring that runs, and a session with it.
struct Keyring {
    service: Service,
    session: OwnedObjectPath,
}

impl From<BusError> for NoSecret {
    fn from(error: BusError) -> Self {
        Self::Away(match error {
            BusError::NotRunning(_) => "no keyring is running (log in to the desktop, or start one)".to_owned(),
            BusError::Refused { name } if name == "org.freedesktop.Secret.Error.IsLocked" => locked(),
            error @ (BusError::NoBus(_) | BusError::Refused { .. } | BusError::Garbled) => {
                format!("the keyring: {error}")
            }
        })
    }
}

fn locked() -> String {
    "the keyring is locked: log in to the desktop, or unlock it there".to_owned()
}

fn would_ask() -> NoSecret {
    NoSecret::Away("the keyring would ask a person, which a daemon does not have done".to_owned())
}

fn is_confirmed() -> NoSecret {
    NoSecret::Away(
        "the keyring has a person confirm each access, which a daemon cannot wait for; in KeePassXC: Settings, Secret \
         Service Integration, \"Confirm when passwords are retrieved by clients\""
            .to_owned(),
    )
}

impl Keyring {
    async fn open(bus: &Bus) -> Result<Self, NoSecret> {
        let service = Service::find(bus, NAME).await?;
        // in the clear: the bus is the user's own, and whoever can read it can ask for the item, too
        let opened: (OwnedVariant, OwnedObjectPath) =
            service.call(ROOT, SERVICE, "OpenSession", &("plain", Variant::from(""))).await?;
        Ok(Self { service, session: opened.1 })
    }

    /// The default collection, if it is open.
    async fn collection(&self) -> Result<OwnedObjectPath, NoSecret> {
        let path: OwnedObjectPath = self.service.call(ROOT, SERVICE, "ReadAlias", &"default").await?;
        if path.as_str() == "/" {
            return Err(NoSecret::Away("the keyring has no default collection, or it is closed".to_owned()));
        }
        match self.is_locked(path.as_str()).await? {
            true => Err(NoSecret::Away(locked())),
            false => Ok(path),
        }
    }

    async fn is_locked(&self, collection: &str) -> Result<bool, NoSecret> {
        Ok(self.service.property(collection, COLLECTION, "Locked").await?)
    }

    async fn unlock(&self) -> Result<(), NoSecret> {
        let path: OwnedObjectPath = self.service.call(ROOT, SERVICE, "ReadAlias", &"default").await?;
        if path.as_str() == "/" || !self.is_locked(path.as_str()).await? {
            return Ok(()); // who reads it will be told
        }
        let answer: (Vec<OwnedObjectPath>, OwnedObjectPath) =
            self.service.call(ROOT, SERVICE, "Unlock", &vec![&path]).await?;
        let prompt = answer.1;
        if prompt.as_str() == "/" {
            return Ok(());
        }
        self.complete(&prompt).await?;
        match self.is_locked(path.as_str()).await? {
            true => Err(NoSecret::Away(locked())),
            false => Ok(()),
        }
    }

    /// Lets a prompt do what it is for, and waits until it has.
    async fn complete(&self, prompt: &OwnedObjectPath) -> Result<(), NoSecret> {
        let rule = format!("type='signal',path='{prompt}',member='Completed'");
        let mut completed = self.service.signals(&rule).await?;
        let () = self.service.call(prompt.as_str(), "org.freedesktop.Secret.Prompt", "Prompt", &"").await?;
        while let Some(signal) = completed.next().await {
            if signal.header().path().is_some_and(|path| path.as_str() == prompt.as_str()) {
                break;
            }
        }
        Ok(())
    }

    async fn put(&self, id: &str, secret: &Secret) -> Result<(), NoSecret> {
        let collection = self.collection().await?;
        // what is there shows it, so that nothing is made that nobody can read
        let there: Vec<OwnedObjectPath> = self.service.property(collection.as_str(), COLLECTION, "Items").await?;
        if let Some(item) = there.first()
            && self.service.property(item.as_str(), ITEM, "Locked").await?
        {
            return Err(is_confirmed());
        }
        let properties = HashMap::from([
            ("org.freedesktop.Secret.Item.Label", Variant::from("valetd: key of the stored credentials")),
            ("org.freedesktop.Secret.Item.Attributes", Variant::from(attributes(id))),
        ]);
        let none: &[u8] = &[];
        let value = (ObjectPath::from(self.session.clone()), none, secret.expose().as_bytes(), "text/plain");
        let made: (OwnedObjectPath, OwnedObjectPath) =
            self.service.call(collection.as_str(), COLLECTION, "CreateItem", &(properties, value, true)).await?;
        match made.1 {
            none if none.as_str() == "/" => Ok(()),
            prompt if self.service.has_name(KEEPASSXC).await? => self.complete(&prompt).await,
            _ => Err(would_ask()),
        }
    }

    async fn get(&self, id: &str) -> Result<Secret, NoSecret> {
        let item = self.find(id).await?;
        let found: Wire = self.service.call(item.as_str(), ITEM, "GetSecret", &self.session).await?;
        let value = Zeroizing::new(found.2);
        let text = std::str::from_utf8(&value);
        text.map(Secret::new).map_err(|_| NoSecret::Gone("what the keyring has is no key of this store".to_owned()))
    }

    async fn delete(&self, id: &str) -> Result<(), NoSecret> {
        let item = self.find(id).await?;
        let prompt: OwnedObjectPath = self.service.call(item.as_str(), ITEM, "Delete", &()).await?;
        if prompt.as_str() == "/" { Ok(()) } else { Err(would_ask()) }
    }

    async fn find(&self, id: &str) -> Result<OwnedObjectPath, NoSecret> {
        let all: Vec<OwnedObjectPath> = self.service.property(ROOT, SERVICE, "Collections").await?;
        let mut has_locked = false;
        for collection in &all {
            if self.is_locked(collection.as_str()).await? {
                has_locked = true; // what is not found elsewhere may be in it
                continue;
            }
            let found: Vec<OwnedObjectPath> =
                self.service.call(collection.as_str(), COLLECTION, "SearchItems", &attributes(id)).await?;
            if let Some(item) = found.into_iter().next() {
                let is_locked: bool = self.service.property(item.as_str(), ITEM, "Locked").await?;
                return if is_locked { Err(is_confirmed()) } else { Ok(item) };
            }
        }
        if has_locked {
            return Err(NoSecret::Away(locked()));
        }
        self.collection().await?;
        Err(NoSecret::Gone(format!("the keyring is open, and has no key of this store (application valetd, id {id})")))
    }
}

/// What an item is found by: `secret-tool lookup application valetd purpose store-key id ID` finds it, too.
fn attributes(id: &str) -> HashMap<&str, &str> {
    HashMap::from([("application", "valetd"), ("purpose", "store-key"), ("id", id)])
}
