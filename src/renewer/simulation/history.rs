//! One history: a daemon, its restarts, and what happens to it.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::promises::{Measure, Promise};
use super::state::{AccessToken, Disk, End, HOUR, InFlight, Message, Outcome, SECOND, Server, index, name, number};
use super::world::{CONFIG, GOOD, LIVES, LastStart, MOODY, Outside, SimWorld, WAIT, Waiting};
use crate::accounts::NewCredential;
use crate::config::{Account, AccountId, Config};
use crate::platform::clock::Clock;
use crate::renewal::{AccountSnapshot, Phase, Policy, RenewalId, Why};
use crate::renewer::account::NotLoaded;
use crate::renewer::machines::Renewer;
use crate::secret::Secret;
use crate::store::{Credential, Store, Trial};
use crate::timestamp::Timestamp;
use crate::token_source::{Demand, next_news};

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It is sent again if its token is refused.
    Ordinary,
    /// It is not.
    Final,
    /// It goes to a place that always says 401.
    Moody,
}

/// One history: a daemon, its restarts, and what happens to it.
pub(super) struct History {
    pub(super) world: SimWorld,
    pub(super) renewer: Renewer<SimWorld>,
    pub(super) config: Config,
    /// What a reload brings back.
    pub(super) all: BTreeMap<AccountId, Account>,
}

impl History {
    pub(super) fn new(outside: Outside) -> Self {
        let mut config = CONFIG.clone();
        config.routes.clear();
        config.accounts.retain(|id, _| index(id) < outside.known.len());
        let all = config.accounts.clone();
        let world = SimWorld(Rc::new(RefCell::new(outside)));
        let renewer = Renewer::new(world.clone(), 0);
        let mut this = Self { world, renewer, config, all };
        this.start();
        this
    }

    pub(super) fn outside(&self) -> RefMut<'_, Outside> {
        self.world.outside()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.outside().now()
    }

    /// Starts a process on what the disk has.
    pub(super) fn start(&mut self) {
        {
            let mut outside = self.outside();
            let (boot, wall) = (outside.truth as i64 + outside.boot, outside.truth as i64 + outside.wall);
            outside.clock = Clock::start_at(boot, wall);
            let process = outside.process;
            outside.tell(|| format!("process {process} starts"));
        }
        let seed = self.outside().roll(u64::MAX);
        self.renewer = Renewer::new(self.world.clone(), seed);
        for known in &mut self.outside().known {
            known.least_spacing = Duration::MAX;
        }
        self.configure();
    }

    pub(super) fn configure(&mut self) {
        let mut records = BTreeMap::new();
        {
            let mut outside = self.outside();
            let outside = &mut *outside;
            for (account, known) in outside.known.iter_mut().enumerate() {
                let id = name(account);
                let configured = self.config.accounts.get(&id);
                if !known.is_configured {
                    known.usable = None;
                }
                known.is_configured = configured.is_some();
                let Some(configured) = configured else { continue };
                known.least_spacing = known.least_spacing.min(configured.renew.minimum_spacing);
                known.early = configured.renew.early;
                known.is_elsewhere = configured.client_id.as_deref() != Some("valetd");
                // a reload is reason enough to ask a server again that has refused the client
                known.last_start = known
                    .last_start
                    .filter(|_| !known.client_refused)
                    .map(|last_start| LastStart { earliest: None, ..last_start });
                records.insert(id.clone(), outside.disk.load(&id));
            }
        }
        let now = self.now();
        let off = self.outside().off;
        if off == Some(Measure::OneGrant) {
            // nobody remembers that answers are owed
            self.renewer.accounts.values_mut().for_each(|state| state.owed.clear());
        }
        let load = |id: &AccountId| {
            records.remove(id).unwrap_or(Ok(None)).map_err(|error| NotLoaded::Unreadable(error.to_string()))
        };
        self.renewer.configure(&self.config, load, now);
        let fault = off.and_then(Measure::fault);
        self.renewer.accounts.values_mut().for_each(|state| state.machine.fault = fault);
    }

    /// What the observer sees of an account: the machine, and whether the store is said to have it all.
    fn observed(&self, account: usize) -> Option<(AccountSnapshot, bool)> {
        self.renewer.accounts.get(&name(account)).map(|state| (state.machine.snapshot(), state.is_saved()))
    }

    /// The process is gone; after a while there is a new one.
    pub(super) fn restart(&mut self) {
        {
            let mut outside = self.outside();
            let outside = &mut *outside;
            outside.tally.kills += 1;
            if let Disk::Store(_, disk) = &outside.disk {
                let disk = disk.clone();
                let is_power_cut = outside.chance(2);
                let disk = match is_power_cut {
                    true => disk.after_some_power_cut(|sides| outside.roll(sides)),
                    false => disk.after_a_kill(),
                };
                outside.disk = Disk::Store(Box::new(Store::on_faulty_disk(disk.clone())), disk);
            }
            outside.bury();
            let pause = outside.roll(20 * SECOND);
            outside.truth += pause;
        }
        self.start();
    }

    /// After every step: a dead process is followed by another, and the observer looks.
    pub(super) fn settle(&mut self) {
        self.serve_those_who_wait();
        for _ in 0..20 {
            if !self.outside().is_dead {
                break;
            }
            self.restart();
        }
        let now = self.now();
        let mut outside = self.world.outside();
        outside.look();
        for account in 0..outside.known.len() {
            let Some((snapshot, is_saved)) = self.observed(account) else { continue };
            if let Phase::InFlight { id } = snapshot.phase
                && outside.known[account].is_configured
            {
                let process = outside.process;
                let is_owed = outside.owed.iter().any(|owed| (owed.0, owed.1, owed.3) == (process, account, id));
                if !is_owed && !outside.is_asked_of_store(account) {
                    let how = format!("a{account}: waits for the answer to {id:?}, which nobody owes");
                    outside.breaks(Promise::EveryWaitEnds, how);
                }
            }
            if let Phase::Scheduled { at } = snapshot.phase
                && at > now + Duration::from_secs(4 * 3600)
            {
                outside.breaks(Promise::EveryWaitEnds, format!("a{account}: waits {:?}", at.since(now)));
            }
            let newest = outside.known[account].newest;
            if is_saved
                && outside.known[account].login.is_some()
                && let Some(token) = newest.filter(|token| !outside.refresh[*token].is_saved)
            {
                outside.breaks(Promise::SavedBeforePublished, format!("a{account}: r{token} is said to be saved"));
            }
        }
    }

    /// Lets true time pass, with all that falls into it.
    pub(super) fn pass(&mut self, millis: u64) {
        let until = self.outside().truth + millis;
        for _ in 0..20_000 {
            if self.outside().broken.is_some() {
                return;
            }
            let now = self.now();
            let wakeup = self.renewer.next_wakeup();
            let mut outside = self.outside();
            let truth = outside.truth;
            let wakeup = wakeup.map(|at| truth.saturating_add(at.since(now).as_millis() as u64));
            let in_flight = outside.in_flight.iter().enumerate().min_by_key(|(_, message)| message.at);
            let in_flight = in_flight.map(|(position, in_flight)| (position, in_flight.at.max(truth)));
            let reply = outside.asked_of_store.iter().enumerate().min_by_key(|(_, asked)| asked.at);
            let reply = reply.map(|(position, asked)| (position, asked.at.max(truth)));
            let next = wakeup
                .into_iter()
                .chain(reply.map(|(_, at)| at))
                .chain(in_flight.map(|(_, at)| at))
                .min()
                .unwrap_or(u64::MAX)
                .max(truth);
            let next = next.min(until.max(truth));
            if next > truth && outside.chance(4) {
                outside.truth += 1 + outside.dice.0 % (next - truth); // somebody looks in between
                outside.look();
                continue;
            }
            outside.truth = next;
            match in_flight {
                _ if reply.is_some_and(|(_, at)| at <= next) => {
                    outside.store_replies(reply.expect("it is due").0);
                    drop(outside);
                    let now = self.now();
                    self.renewer.settle(now);
                }
                Some((position, at)) if at <= next => {
                    let in_flight = outside.in_flight.swap_remove(position);
                    drop(outside);
                    self.deliver(in_flight);
                }
                _ if wakeup.is_some_and(|at| at <= next) => {
                    if !outside.is_calm && outside.chance(16) {
                        outside.truth += outside.dice.0 % 2000; // a busy machine
                    }
                    outside.look();
                    drop(outside);
                    let now = self.now();
                    self.renewer.tick(now);
                    if !self.outside().is_dead && self.renewer.next_wakeup().is_some_and(|at| at <= now) {
                        self.outside().breaks(Promise::NoStorm, "the loop spins".into());
                    }
                }
                _ => return,
            }
            self.settle();
        }
        self.outside().breaks(Promise::NoStorm, "more than 20 000 steps".into());
    }

    pub(super) fn deliver(&mut self, in_flight: InFlight) {
        match &in_flight.message {
            Message::Grant(fate) => {
                let fate = *fate;
                self.outside().process_grant(in_flight, fate);
            }
            Message::Answer(outcome, brought) => {
                let answer = {
                    let mut outside = self.outside();
                    let answer = outside.read(&in_flight.grant, outcome);
                    outside.arrive(&in_flight, *brought, &answer);
                    answer
                };
                let now = self.now();
                let id = self.taken_for(in_flight.account, in_flight.id);
                self.renewer.answered(&name(in_flight.account), id, answer, now);
            }
        }
    }

    /// Which renewal's answer one is taken for: without a check of ids, that of the one under way.
    fn taken_for(&self, account: usize, id: RenewalId) -> RenewalId {
        let is_unchecked = self.outside().off == Some(Measure::IdCheck);
        match self.observed(account) {
            Some((AccountSnapshot { phase: Phase::InFlight { id }, .. }, _)) if is_unchecked => id,
            Some(_) | None => id,
        }
    }

    /// Something happens.
    pub(super) fn happen(&mut self) {
        let accounts = self.outside().known.len() as u64;
        let account = self.outside().roll(accounts) as usize;
        let id = name(account);
        let now = self.now();
        let dice = self.outside().roll(100);
        match dice {
            0..=24 => self.request(account),
            25..=29 => {
                self.outside().gives_a_reason(account);
                let usable = self.outside().known[account].usable;
                let which = self.outside().roll(3);
                match (usable, which) {
                    (None, _) => {}
                    (Some((access, ..)), 0) => {
                        self.outside().tell(|| format!("a{account}: t{access} is revoked"));
                        self.outside().access[access].is_revoked = true;
                        self.request(account);
                    }
                    (Some(_), 1) => self.ask(account, Kind::Moody),
                    (Some((_, renewal, _)), _) => {
                        self.outside().tell(|| format!("a{account}: an upstream says 401"));
                        self.outside().known[account].has_moods = true;
                        let is_good = self.outside().roll(2) == 0;
                        let (place, worked) = (if is_good { GOOD } else { MOODY }, is_good.then_some(renewal));
                        let until = now; // it does not wait, and nobody hears more of it
                        let rejected = Demand::Rejected { account: id, id: renewal, place, worked, until };
                        self.renewer.demands([rejected], now);
                    }
                }
            }
            30..=32 => {
                self.outside().tell(|| format!("a{account}: a person asks for a renewal"));
                self.outside().gives_a_reason(account);
                self.renewer.refresh(&id, tokio::sync::oneshot::channel().0, now);
            }
            33..=35 => {
                self.outside().tell(|| "a hint".into());
                if dice == 33 { self.renewer.resumed(now) } else { self.renewer.network_changed(now) }
            }
            36..=41 => {
                let mut outside = self.outside();
                outside.is_network_down = !outside.is_network_down && outside.chance(2);
                let down = outside.is_network_down;
                outside.tell(|| format!("the network is down: {down}"));
            }
            42..=47 => {
                let mut outside = self.outside();
                outside.is_disk_full = !outside.is_disk_full && outside.chance(2);
                let full = outside.is_disk_full;
                outside.tell(|| format!("the disk is full: {full}"));
            }
            48..=59 => {
                let mut outside = self.outside();
                outside.kill_in = Some(outside.dice.0 % 14);
            }
            60..=61 => self.outside().is_dead = true,
            62..=63 => self.stop(),
            64..=68 => {
                let mut outside = self.outside();
                let step = outside.roll(4 * HOUR) as i64 - 2 * HOUR as i64;
                outside.wall += step;
                outside.tell(|| format!("the wall clock is set by {step} ms"));
            }
            69 if !self.outside().servers[account].tells_life => {
                let mut outside = self.outside();
                let life = outside.one_of(&[3, 10, 30, 60, 600]) * SECOND;
                outside.servers[account].life = life;
                outside.tell(|| format!("a{account}: tokens live {life} ms from now on"));
            }
            69..=73 => {
                let hours = self.outside().roll(10 * HOUR);
                self.sleep(hours, 0);
            }
            74..=76 => {
                let pause = self.outside().roll(2 * HOUR);
                self.sleep(pause, pause as i64);
            }
            77..=82 => self.person_signs_in(account),
            83..=84 if self.config.accounts.contains_key(&id) => {
                self.outside().tell(|| format!("a{account}: a person signs out"));
                self.outside().signs_out(account);
                let (reply, _heard) = tokio::sync::oneshot::channel();
                self.renewer.remove(&id, reply, now);
            }
            85..=86 => {
                let mut outside = self.outside();
                let login = outside.known[account].login;
                if let Some(login) = login.and_then(|login| outside.servers[account].logins.get_mut(&login)) {
                    login.ended = login.ended.or(Some(End::Revoked));
                    outside.tally.revocations += 1;
                    outside.tell(|| format!("a{account}: the server revokes the login"));
                }
            }
            96..=99 if self.outside().is_store_shared => self.outside().another_machine_renews(account),
            _ => self.reload(account),
        }
    }

    pub(super) fn request(&mut self, account: usize) {
        self.ask(account, Kind::Ordinary);
    }

    /// A request comes, and goes to an upstream that judges its token, or to one that always says 401.
    pub(super) fn ask(&mut self, account: usize, kind: Kind) {
        let is_mood = kind == Kind::Moody;
        let now = self.now();
        let demand = {
            let mut outside = self.outside();
            let outside = &mut *outside;
            let (truth, process) = (outside.truth, outside.process);
            let known = &mut outside.known[account];
            if !known.is_configured {
                return;
            }
            known.has_moods |= is_mood;
            match known.usable.filter(|(_, _, until)| now < *until) {
                Some((access, id, _)) => {
                    let AccessToken { expires, is_revoked, .. } = outside.access[access];
                    if !is_mood && truth < expires && !is_revoked {
                        let is_older = known.told.is_none_or(|(last, from)| last != id || now >= from);
                        let is_news = std::mem::take(&mut known.is_awaited) || is_older;
                        if is_older {
                            known.told = Some((id, next_news(known.start, now)));
                        }
                        known.worked = Some(id);
                        is_news.then(|| Demand::Worked { account: name(account), id, place: GOOD, sent: now })
                    } else {
                        known.refused += u64::from(!is_mood);
                        let (place, worked) = if is_mood { (MOODY, None) } else { (GOOD, known.worked) };
                        let is_final = kind == Kind::Final;
                        let until = if is_final { now } else { now + WAIT };
                        known.is_awaited |= is_final;
                        outside.waiting.push(Waiting {
                            account,
                            refused: id,
                            at: now,
                            until,
                            process,
                            is_final,
                            is_mood,
                        });
                        outside.gives_a_reason(account);
                        outside.tell(|| format!("a{account}: t{access} is answered 401, mood: {is_mood}"));
                        Some(Demand::Rejected { account: name(account), id, place, worked, until })
                    }
                }
                None => {
                    outside.tell(|| format!("a{account}: a request wants a token"));
                    Some(Demand::Wanted(name(account)))
                }
            }
        };
        self.renewer.demands(demand, now);
        self.serve_those_who_wait();
    }

    /// What waits after a 401 is sent again with the next token, or handed its 401 when none will come in time.
    pub(super) fn serve_those_who_wait(&mut self) {
        let now = self.now();
        let mut demands = Vec::new();
        {
            let mut outside = self.outside();
            let outside = &mut *outside;
            for waiting in std::mem::take(&mut outside.waiting) {
                let Waiting { account, refused, at, until, process, is_final, is_mood } = waiting;
                let known = &mut outside.known[account];
                if process != outside.process || outside.is_dead {
                    known.has_moods = true;
                    continue;
                }
                let next = known.usable.filter(|(_, id, usable_until)| *id > refused && now < *usable_until);
                let next = next.filter(|_| now < until && !is_final);
                let gives_up = now >= until || known.next.is_none_or(|at| at >= until);
                match next {
                    Some((access, id, _)) => {
                        let AccessToken { expires, is_revoked, .. } = outside.access[access];
                        let accepted = !is_mood && outside.truth < expires && !is_revoked;
                        if accepted {
                            known.worked = Some(id);
                        }
                        // a response that took longer than its token lives looks like a mood
                        known.has_moods |= !accepted;
                        known.unhealed += u64::from(!accepted && !is_mood);
                        let place = if is_mood { MOODY } else { GOOD };
                        demands.push(Demand::Replayed { account: name(account), refused, place, at, accepted });
                    }
                    None if gives_up => {
                        known.has_moods |= !is_final;
                        known.unhealed += u64::from(!is_mood);
                    }
                    None => outside.waiting.push(waiting),
                }
                if outside.known[account].unhealed > 0 && outside.known[account].must_heal {
                    let how = format!("a{account}: a client was told 401 after {refused:?}");
                    outside.breaks(Promise::Healed, how);
                }
            }
        }
        if !demands.is_empty() {
            self.renewer.demands(demands, now);
        }
    }

    pub(super) fn person_signs_in(&mut self, account: usize) {
        if !self.outside().known[account].is_configured {
            return;
        }
        let new = {
            let mut outside = self.outside();
            let (login, refresh_token) = outside.sign_in(account);
            let token = number(refresh_token.expose());
            let has_password = outside.servers[account].logins[&login].has_password;
            let process = outside.process;
            outside.refresh[token].arrived_in = Some(process);
            outside.tell(|| format!("a{account}: a person signs in: login {login} with r{token}"));
            let known = &mut outside.known[account];
            known.login = Some(login);
            known.newest = Some(token);
            known.durable = None;
            known.client_refused = false;
            known.last_start = None;
            let password = has_password.then(|| (format!("u{login}"), Secret::new("pw")));
            let credential = Credential { refresh_token: Some(refresh_token), password };
            NewCredential {
                client_id: Some("valetd".into()),
                servers: None,
                trial: Trial::Skipped,
                ..NewCredential::of(&self.config.accounts[&name(account)], credential)
            }
        };
        let now = self.now();
        let (reply, _heard) = tokio::sync::oneshot::channel();
        self.renewer.replace(&name(account), new, reply, now);
    }

    /// The machine sleeps, or is paused: then the boot clock does not know of it.
    pub(super) fn sleep(&mut self, millis: u64, unseen: i64) {
        let hint = {
            let mut outside = self.outside();
            outside.tell(|| format!("the machine sleeps for {millis} ms, {unseen} of them unseen by the boot clock"));
            outside.truth += millis;
            outside.boot -= unseen;
            let waking = outside.truth;
            // connections that slept too long are dead
            let mut lost = 0;
            let dice = outside.dice.0;
            for in_flight in outside.in_flight.iter_mut().filter(|in_flight| in_flight.at < waking) {
                if let Message::Answer(outcome, brought) = &mut in_flight.message
                    && dice.is_multiple_of(2)
                {
                    (*outcome, *brought) = (Outcome::Lost, None);
                    lost += 1;
                }
            }
            outside.tally.answers_lost += lost;
            outside.look();
            outside.chance(2)
        };
        if hint {
            let now = self.now();
            self.renewer.resumed(now);
        }
    }

    /// An orderly stop and a start: what is owed is waited for.
    pub(super) fn stop(&mut self) {
        self.outside().tell(|| "the daemon stops".into());
        let now = self.now();
        self.renewer.stop(now);
        for _ in 0..1000 {
            let mut outside = self.outside();
            let first = outside.in_flight.iter().enumerate().min_by_key(|(_, message)| message.at);
            let first = first.map(|(position, message)| (position, message.at));
            let reply = outside.asked_of_store.iter().enumerate().min_by_key(|(_, asked)| asked.at);
            let reply = reply.map(|(position, asked)| (position, asked.at));
            match (first, reply) {
                _ if outside.is_dead => break,
                (None, None) => break,
                (first, Some((position, at))) if first.is_none_or(|(_, first)| at <= first) => {
                    outside.truth = outside.truth.max(at);
                    outside.store_replies(position);
                    drop(outside);
                    let now = self.now();
                    self.renewer.settle(now);
                }
                (Some((position, at)), _) => {
                    let in_flight = outside.in_flight.swap_remove(position);
                    outside.truth = outside.truth.max(at);
                    drop(outside);
                    self.deliver(in_flight);
                }
                (None, Some(_)) => unreachable!("it is the first then"),
            }
        }
        if !self.outside().is_dead && self.renewer.awaits_the_store() {
            self.outside().breaks(Promise::EveryWaitEnds, "a stop waits for the store, which owes nothing".into());
        }
        self.restart();
    }

    /// The configuration changes, and is taken over.
    pub(super) fn reload(&mut self, account: usize) {
        let id = name(account);
        let change = self.outside().roll(8);
        let mut next = self.config.accounts.get(&id).cloned();
        match (change, &mut next) {
            (0..=2, Some(_)) => next = None,
            (_, None) => next = self.all.get(&id).cloned(),
            (3, Some(account)) => account.scopes.push("more".into()),
            (4, Some(account)) => {
                let is_ours = account.client_id.as_deref() == Some("valetd");
                account.client_id = Some(if is_ours { "other" } else { "valetd" }.into());
            }
            (_, Some(account)) => {
                let seconds = self.outside().one_of(&[1, 5, 60, 300]);
                let minimum_spacing = Duration::from_millis(self.outside().one_of(&[500, 1000, 5000]));
                account.renew = Policy { early: Duration::from_secs(seconds), minimum_spacing, ..Policy::default() };
            }
        }
        {
            let mut outside = self.outside();
            outside.tell(|| {
                format!(
                    "a{account}: reload: {}",
                    match (change, &next) {
                        (_, None) => "removed".to_owned(),
                        (change, Some(account)) => format!("{change}: {:?} {:?}", account.client_id, account.renew),
                    }
                )
            });
            // starting over is starting anew
            if change <= 4 || !self.config.accounts.contains_key(&id) {
                outside.known[account].last_start = None;
            }
        }
        match next {
            Some(account) => drop(self.config.accounts.insert(id, account)),
            None => drop(self.config.accounts.remove(&id)),
        }
        self.configure();
    }

    /// The faults end. Twenty minutes later every login that lives must be usable.
    pub(super) fn calm_down(&mut self) {
        {
            let mut outside = self.outside();
            outside.is_calm = true;
            outside.is_disk_full = false;
            outside.is_network_down = false;
            outside.kill_in = None;
            outside.tell(|| "the faults end".into());
        }
        self.config.accounts = self.all.clone();
        self.outside().known.iter_mut().for_each(|known| known.last_start = None);
        self.configure();
        self.settle();
        let accounts = self.outside().known.len();
        for _ in 0..40 {
            for account in 0..accounts {
                self.request(account);
                let waits = self.observed(account).is_some_and(|(snapshot, _)| snapshot.next_wakeup.is_some());
                if self.is_falsely_refused(account) && !waits {
                    // a third time is final, until a person asks; before that it mends itself
                    let now = self.now();
                    self.outside().gives_a_reason(account);
                    self.renewer.refresh(&name(account), tokio::sync::oneshot::channel().0, now);
                    self.settle();
                }
            }
            self.pass(30 * SECOND);
            let is_broken = self.outside().broken.is_some();
            if is_broken || (0..accounts).all(|account| self.is_well(account)) {
                break;
            }
        }
        for account in 0..accounts {
            if !self.is_well(account) {
                let seen = self.observed(account).map(|(snapshot, _)| snapshot);
                let how = format!("a{account}: twenty minutes later it is {seen:?}");
                self.outside().breaks(Promise::UsableAgain, how);
            }
        }
    }

    /// Tokens end whose lives are not stated, and no client is told; nor is the server asked more often than it has to be.
    pub(super) fn live_on(&mut self) {
        let accounts = self.outside().known.len();
        let is_any_watched = {
            let outside = self.outside();
            let watched = |server: &Server, moods: bool| !server.tells_life && server.life != HOUR && !moods;
            outside.servers.iter().zip(&outside.known).any(|(server, known)| watched(server, known.has_moods))
        };
        if is_any_watched {
            self.pass(HOUR); // until renewals that 401s have brought about are free again
        }
        for account in 0..accounts {
            let snapshot = self.observed(account).map(|(snapshot, _)| snapshot);
            let is_at_rest = snapshot.is_some_and(|snapshot| {
                snapshot.failures == 0 && !matches!(snapshot.phase, Phase::SignInRequired { .. })
            });
            let (life, before) = {
                let mut outside = self.outside();
                let Server { life, tells_life, .. } = outside.servers[account];
                let login = outside.known[account].login;
                let lives = login.is_some_and(|login| outside.servers[account].logins[&login].ended.is_none());
                if tells_life || life == HOUR || !is_at_rest || !lives || outside.known[account].has_moods {
                    continue;
                }
                (outside.known[account].must_heal, outside.known[account].unhealed) = (true, 0);
                (life, outside.starts.len())
            };
            for _ in 0..LIVES * 4 {
                self.request(account);
                self.pass(life / 4);
            }
            let mut outside = self.outside();
            outside.known[account].must_heal = false;
            let calls = outside.starts[before..].iter().filter(|(_, whose)| *whose == account).count() as u64;
            if calls * 10 > LIVES * 16 + 40 {
                outside.breaks(Promise::NoStorm, format!("a{account}: {calls} calls in {LIVES} lives of {life} ms"));
            }
        }
    }

    /// A person is told to sign in to what the server has only refused in its bad minutes.
    fn is_falsely_refused(&self, account: usize) -> bool {
        let outside = self.outside();
        let Some(login) = outside.known[account].login else { return false };
        let state = &outside.servers[account].logins[&login];
        let is_refused = self.observed(account).is_some_and(|(snapshot, _)| {
            matches!(snapshot.phase, Phase::SignInRequired { why: Why::Revoked | Why::Ambiguous })
        });
        is_refused && state.was_falsely_refused && state.ended.is_none()
    }

    /// Usable and saved, or a person is needed (which was judged when it was said).
    pub(super) fn is_well(&self, account: usize) -> bool {
        let now = self.now();
        let outside = self.outside();
        let Some((snapshot, is_saved)) = self.observed(account) else { return false };
        let is_usable = outside.known[account].usable.is_some_and(|(_, _, until)| now < until);
        drop(outside);
        if self.is_falsely_refused(account) {
            return false; // it must be usable again
        }
        is_saved && (is_usable || matches!(snapshot.phase, Phase::SignInRequired { .. }))
    }
}
