//! The store of credentials: a folder that answers at once, or a service across a network that other machines use, too. It
//! is slow, fails, fails after it has done what it was asked, and knows of later credentials than ours.

use super::promises::Measure;
use super::state::{AskedOfStore, Disk, ENOSPC, Rotation, SECOND, name, number};
use super::world::Outside;
use crate::renewer::world::{SaveError, StoreAnswer, Ticket};
use crate::secret::Secret;
use crate::store::Record;

impl Outside {
    /// The daemon asks the store to save a record, or to forget it.
    pub(super) fn ask_store(&mut self, account: usize, ticket: Ticket, record: Option<Record>) {
        if self.dies() {
            return;
        }
        let mut record = record;
        if let Some(record) = record.as_mut().filter(|_| self.off == Some(Measure::NoteBeforeUse)) {
            record.redeeming = false;
        }
        let mut asked = AskedOfStore { at: self.truth, account, ticket, record, done: None, is_failure: false };
        if self.is_store_shared && !self.is_calm {
            let fate = self.roll(16);
            asked.at += match fate {
                0..=5 => 0,
                6..=11 => self.roll(300),
                _ => self.roll(12 * SECOND),
            };
            asked.is_failure = self.chance(8);
            let is_late = self.chance(2);
            self.tally.saves_slow += u64::from(asked.at > self.truth);
            self.tally.saves_failed += u64::from(asked.is_failure);
            if asked.is_failure && is_late {
                asked.done = Some(Err(SaveError::Unknown("the store does not reply".into()))); // and never heard of it
            } else if !is_late {
                asked.done = Some(self.carry_out(&asked));
                self.tally.saves_done_but_failed += u64::from(asked.is_failure);
            }
        }
        self.asked_of_store.push(asked);
        if self.asked_of_store.last().is_some_and(|asked| asked.at == self.truth) {
            self.store_replies(self.asked_of_store.len() - 1);
        }
    }

    /// The store's answer arrives.
    pub(super) fn store_replies(&mut self, position: usize) {
        let mut asked = self.asked_of_store.remove(position);
        let result = match asked.done.take() {
            Some(done) => done,
            None => self.carry_out(&asked),
        };
        let result = match result {
            _ if asked.is_failure => Err(SaveError::Unknown("the connection to the store was reset".into())),
            result => result,
        };
        if self.is_dead {
            return;
        }
        let (account, ticket) = (asked.account, asked.ticket);
        self.tally.saves_stale += u64::from(matches!(result, Err(SaveError::Stale { .. })));
        self.tell(|| format!("a{account}: the store answers: {:?}", result.as_ref().map_err(short)));
        self.store_answers.push_back((StoreAnswer { account: name(account), ticket, result }, account, asked.token()));
        let _ = self.dies();
    }

    /// The renewer takes a response in: from here on it knows.
    pub(super) fn store_answer(&mut self) -> Option<StoreAnswer> {
        let (answer, account, token) = self.store_answers.pop_front()?;
        if let Some(token) = token {
            self.refresh[token].is_answered = true;
        }
        match answer.result {
            Ok(()) => self.known[account].is_loud = false,
            Err(SaveError::Failed(_) | SaveError::Unknown(_)) => self.known[account].is_loud = true,
            Err(SaveError::Stale { .. } | SaveError::Outnumbered { .. }) => {}
        }
        Some(answer)
    }

    /// Whether the store owes a response for an account.
    pub(super) fn is_asked_of_store(&self, account: usize) -> bool {
        self.asked_of_store.iter().any(|asked| asked.account == account)
    }

    /// The store does what it was asked, or cannot.
    pub(super) fn carry_out(&mut self, asked: &AskedOfStore) -> Result<(), SaveError> {
        let (account, token) = (asked.account, asked.token());
        let Some(record) = &asked.record else {
            self.known[account].durable = None;
            let removed = match self.is_disk_full {
                true => Err(SaveError::Failed("input/output error".into())),
                false => self.disk.remove(&name(account)),
            };
            self.tell(|| format!("a{account}: remove: {:?}", removed.as_ref().map_err(short)));
            return removed;
        };
        let saved = if let Disk::Store(_, disk) = &self.disk {
            let disk = disk.clone();
            let steps = 8;
            if self.kill_in.is_some_and(|left| left < steps) {
                disk.kill_at(self.kill_in.take().unwrap_or_default() as usize);
            } else if self.is_disk_full {
                let step = self.roll(steps) as usize;
                disk.fail_at(step, ENOSPC);
            }
            let saved = self.disk.save(record, false);
            if disk.is_dead() {
                self.is_dead = true;
                self.tell(|| "killed in the middle of a save".into());
                return Err(SaveError::Failed("dead".into()));
            }
            let _ = disk.fault_has_happened();
            saved
        } else {
            self.disk.save(record, self.is_disk_full)
        };
        self.tell(|| {
            let note = if record.redeeming { ", being redeemed" } else { "" };
            let saved = saved.as_ref().map_err(short);
            format!("a{account}: save generation {} with r{token:?}{note}: {saved:?}", record.generation)
        });
        if saved.is_ok() {
            self.known[account].durable = token;
            if let Some(token) = token {
                self.refresh[token].is_saved = true;
            }
        }
        saved
    }

    /// Another machine renews the account's credential and saves what it has got, while this one is not at it.
    pub(super) fn another_machine_renews(&mut self, account: usize) {
        let is_at_it = self.is_asked_of_store(account) || self.owed.iter().any(|owed| owed.1 == account);
        let Disk::Plain(records) = &mut self.disk else { return };
        let Some(record) = records.get_mut(&name(account)).filter(|record| record.set_aside.is_none()) else { return };
        let Some(token) = record.credential.refresh_token.as_ref().map(|token| number(token.expose())) else { return };
        let login = self.refresh[token].login;
        let Some(state) = self.servers[account].logins.get(&login) else { return };
        let is_current = state.current == token && state.ended.is_none() && self.known[account].login == Some(login);
        if !self.is_store_shared || is_at_it || !is_current || self.servers[account].rotation == Rotation::Off {
            return;
        }
        let next = self.refresh.len();
        record.credential.refresh_token = Some(Secret::new(format!("r{next}")));
        record.generation += 1;
        record.redeeming = false;
        assert_eq!(self.new_refresh_token(login), next);
        self.refresh[token].successor = Some(next);
        self.refresh[next].is_saved = true;
        self.known[account].durable = Some(next);
        self.servers[account].logins.get_mut(&login).expect("looked up above").current = next;
        self.tally.rotations_elsewhere += 1;
        self.gives_a_reason(account);
        self.tell(|| format!("a{account}: another machine renews r{token} and saves r{next}"));
    }
}

fn short(error: &SaveError) -> &str {
    match error {
        SaveError::Stale { .. } => "stale",
        SaveError::Outnumbered { .. } => "outnumbered",
        SaveError::Failed(words) | SaveError::Unknown(words) => words,
    }
}
