//! What logind tells: that the machine is about to sleep, and that the screen of one of this user's sessions is locked
//! (org.freedesktop.login1(5)).

use std::collections::HashMap;

use zbus::{Message, OwnedFd, OwnedObjectPath, OwnedVariant};

use super::bus::{Bus, BusError, Service, Signals};

const NAME: &str = "org.freedesktop.login1";
const ROOT: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SESSION: &str = "org.freedesktop.login1.Session";

/// What has happened, or is about to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// The machine is about to sleep.
    Sleeps,
    /// It has woken, or does not sleep after all.
    Wakes,
    /// The screen of a session of this user is locked, or is to be.
    ScreenLocked,
}

/// Listens to logind, and has it wait with a sleep for a moment.
#[derive(Debug)]
pub(crate) struct Logind {
    signals: Signals,
    service: Service,
    /// While it is held, logind waits with a sleep, for five seconds at the most.
    delay: Option<OwnedFd>,
}

impl Logind {
    /// Begins to listen. To be called inside a runtime with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// [`BusError`] where there is no logind.
    pub(crate) async fn listen() -> Result<Self, BusError> {
        let of = |rest: &str| format!("type='signal',sender='{NAME}',{rest}");
        let rules = [
            of(&format!("interface='{MANAGER}',member='PrepareForSleep'")),
            of(&format!("interface='{SESSION}',member='Lock'")),
            of(&format!("interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',arg0='{SESSION}'")),
        ];
        let signals = Signals::of(&Bus::System, &rules.each_ref().map(String::as_str)).await?;
        let service = Service::find(&Bus::System, NAME).await?;
        let mut this = Self { signals, service, delay: None };
        this.hold().await;
        Ok(this)
    }

    /// Has the next sleep wait until [`Logind::let_go`]. Where that may not be, it is heard of a little late.
    pub(crate) async fn hold(&mut self) {
        let order = ("sleep", "valetd", "hands out no token from then on", "delay");
        self.delay = self.service.call(ROOT, MANAGER, "Inhibit", &order).await.ok();
    }

    /// Lets the machine sleep.
    pub(crate) fn let_go(&mut self) {
        self.delay = None;
    }

    /// The next piece of news; `None` when the bus is gone. Safe to drop at any point before it has something.
    pub(crate) async fn next(&mut self) -> Option<News> {
        loop {
            match told(&self.signals.next().await?) {
                Some(Told::Manager(news)) => return Some(news),
                Some(Told::Session(path)) if self.is_ours(&path).await => return Some(News::ScreenLocked),
                Some(Told::Session(_)) | None => {}
            }
        }
    }

    async fn is_ours(&self, path: &str) -> bool {
        type Sessions = Vec<(String, u32, String, String, OwnedObjectPath)>;
        let sessions: Result<Sessions, _> = self.service.call(ROOT, MANAGER, "ListSessions", &()).await;
        let us = rustix::process::getuid().as_raw();
        // one that cannot be asked about is taken for ours: to lock is the safe side
        sessions.is_ok_and(|sessions| !sessions.iter().any(|(_, uid, _, _, of)| of.as_str() == path && *uid != us))
    }
}

/// What a signal says.
#[derive(PartialEq, Eq, Debug)]
enum Told {
    Manager(News),
    /// The screen of the session of this path is locked.
    Session(String),
}

fn told(message: &Message) -> Option<Told> {
    let header = message.header();
    let path = || header.path().map(|path| Told::Session(path.to_string()));
    match (header.interface()?.as_str(), header.member()?.as_str()) {
        (MANAGER, "PrepareForSleep") => {
            let begins: bool = message.body().deserialize().ok()?;
            Some(Told::Manager(if begins { News::Sleeps } else { News::Wakes }))
        }
        (SESSION, "Lock") => path(),
        (_, "PropertiesChanged") => {
            let body = message.body();
            let (_, mut changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) = body.deserialize().ok()?;
            let hint = changed.remove("LockedHint").and_then(|hint| bool::try_from(hint).ok());
            if hint? { path() } else { None }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_and_a_locked_screen_are_told_and_nothing_else_is() {
        const PATH: &str = "/org/freedesktop/login1/session/_31";
        let signal = |interface, member| Message::signal(PATH, interface, member);
        let session = Some(Told::Session(PATH.to_owned()));
        for (begins, news) in [(true, News::Sleeps), (false, News::Wakes)] {
            let message = signal(MANAGER, "PrepareForSleep").build(&begins).unwrap();
            assert_eq!(told(&message), Some(Told::Manager(news)));
        }
        assert_eq!(told(&signal(SESSION, "Lock").build(&()).unwrap()), session);
        assert_eq!(told(&signal(SESSION, "Unlock").build(&()).unwrap()), None);
        for (name, value, is_told) in
            [("LockedHint", true, true), ("LockedHint", false, false), ("IdleHint", true, false)]
        {
            let changed = HashMap::from([(name, zbus::Variant::from(value))]);
            let none: Vec<&str> = Vec::new();
            let message = signal("org.freedesktop.DBus.Properties", "PropertiesChanged");
            let message = message.build(&(SESSION, changed, none)).unwrap();
            assert_eq!(told(&message).is_some(), is_told, "{name} {value}");
        }
        assert_eq!(told(&signal(MANAGER, "PrepareForSleep").build(&"yes").unwrap()), None);
    }
}
