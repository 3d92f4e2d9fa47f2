//! What is handed in is tried before it takes the place of what works: one renewal with it, beside the machine, which goes
//! on with the credential at hand meanwhile. The response is that of the new credential's first renewal, whichever it is: no
//! server is asked twice for it.
//!
//! Nothing is spent in a trial whose outcome could not be saved: the store is asked for that first.
//!
//! A refusal of the credential keeps it out. So does a response that never came, where something else is stored; it is
//! asked for once more at once first, for servers with a grace period. Whoever has handed it in has it still.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::account::{AccountState, Trying, Waiters};
use super::machines::{Renewer, no_account};
use super::world::{SaveError, SavedReply, Ticket, World};
use crate::accounts::{NewCredential, RequestError};
use crate::config::{Account, AccountId};
use crate::oauth::{Grant, Person, Tokens, Whose, id_token};
use crate::renewal::{Event, Failure, Phase, RenewalId, Why};
use crate::store::{Record, Servers, Term, Trial};
use crate::timestamp::{Timestamp, unix_seconds};
use crate::token_endpoint::GrantFailure;

/// Where the numbers of trials begin: far from those of renewals, which grow from 1.
const FIRST_TRIAL: u64 = 1 << 63;

impl<W: World> Renewer<W> {
    /// A person has signed in: tries the credential where that is wanted, and takes it over. The reply comes when that is
    /// done, or why not.
    pub(super) fn replace(&mut self, id: &AccountId, mut new: NewCredential, reply: SavedReply, now: Timestamp) {
        let would_lose = self.accounts.get(id).and_then(|state| self.would_lose(&state.account, &new));
        let Some(state) = self.accounts.get_mut(id) else {
            let _ = reply.send(Err(RequestError::Refused(no_account(id))));
            return;
        };
        if let Some(why) = state.locked() {
            let words = format!("{why}; nothing is saved in the clear");
            let _ = reply.send(Err(RequestError::StoreLocked(words)));
            return;
        }
        if let Some(words) = state.record.as_ref().and_then(|record| record.keeps_out_untried(&new)) {
            warn!(account = %id, "what was handed in is not known to be the same person's; nothing changes");
            let _ = reply.send(Err(RequestError::AnotherPerson(words)));
            return;
        }
        if state.record.as_ref().is_some_and(|record| record.has_spent(&new)) {
            if new.credential.password.is_none() {
                warn!(account = %id, "the refresh token that was handed in was spent before; it is not sent");
                let _ = reply.send(Err(RequestError::CredentialSpent));
                return;
            }
            new.credential.refresh_token = None; // the password beside it is as good as ever
        }
        if let Some(other) = would_lose {
            if new.credential.password.is_none() {
                warn!(account = %id, %other, "the refresh token that was handed in is another account's; it is not sent");
                let _ = reply.send(Err(RequestError::CredentialElsewhere(other)));
                return;
            }
            new.credential.refresh_token = None;
        }
        if state.has_at_hand(&new) && !matches!(state.machine.snapshot().phase, Phase::SignInRequired { .. }) {
            // presented a second time beside the machine's own renewal, it would look stolen
            if self.is_stopping {
                let _ = reply.send(Err(RequestError::Stopping));
                return;
            }
            info!(account = %id, "the refresh token that was handed in is the one at hand: renewing it");
            let reply = match new.trial {
                Trial::Required | Trial::Proven | Trial::Preferred => {
                    state.confirming.push(reply);
                    None
                }
                Trial::Skipped => Some(reply),
            };
            self.give_term(id, new.term, reply, now);
            return self.handle(id, Event::Asked, now);
        }
        let is_wanted = match new.trial {
            Trial::Required | Trial::Proven | Trial::Preferred => state.account.grant.needs_sign_in(),
            Trial::Skipped => false,
        };
        if !is_wanted {
            return self.take(id, new, None, reply, now);
        }
        if self.is_stopping {
            let _ = reply.send(Err(RequestError::Stopping));
            return;
        }
        if state.trials.iter().any(|trial| trial.new.credential == new.credential) {
            let _ = reply.send(Err(RequestError::Refused("this very credential is being tried already".to_owned())));
            return;
        }
        let account = state.account.clone();
        new.servers.get_or_insert_with(|| Servers::of(&account));
        new.client_id = new.client_id.or_else(|| account.client_id.clone());
        let renewal = RenewalId(0); // it gets its number when it is sent
        let trial = Trying {
            renewal,
            new,
            asked: account,
            since: now,
            probe: None,
            answer_lost: false,
            presents_password: false,
            reply,
        };
        let record = Record::new(&trial.asked, 0, trial.new.clone(), 0);
        if !record.was_issued_to(&trial.asked) {
            let words = format!("not tried: {}", Why::IssuedElsewhere);
            return self.untried(id, trial, None, words, now);
        }
        self.begin_trial(id, trial, now);
    }

    /// The other account that would lose its sign-in to what is handed in for this one.
    fn would_lose(&self, account: &Account, new: &NewCredential) -> Option<AccountId> {
        let is_other = |state: &AccountState| {
            let record = state.record.as_ref().filter(|_| state.account.id != account.id);
            record.is_some_and(|record| record.would_lose(account, new))
        };
        self.accounts.values().find(|state| is_other(state)).map(|state| state.account.id.clone())
    }

    /// Sends a trial; where that may use up the credential, when the store has answered that its successor could be saved.
    fn begin_trial(&mut self, id: &AccountId, trial: Trying, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        if !state.as_asked(&trial).dialect.spends_refresh_token(&trial.grant()) {
            return self.send_trial(id, trial);
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let record = Record::new(&trial.asked, 0, trial.new.clone(), 0);
        state.trials.push(Trying { probe: Some(ticket), ..trial });
        self.world.probe(ticket, &record);
        self.settle(now);
    }

    /// The store has answered whether what a trial brings could be saved.
    pub(super) fn probed(&mut self, id: &AccountId, trial: Trying, result: Result<(), SaveError>, now: Timestamp) {
        let trial = Trying { probe: None, ..trial };
        match result {
            _ if self.is_stopping => {
                let _ = trial.reply.send(Err(RequestError::Stopping));
            }
            Ok(()) => self.send_trial(id, trial),
            Err(error) => {
                let words = format!("not tried: {}", error.into_words());
                self.untried(id, trial, None, words, now);
            }
        }
    }

    /// The credential at hand is handed in again: it is good for as long as is said now. The reply comes when that is saved.
    fn give_term(&mut self, id: &AccountId, length: Option<u64>, reply: Option<SavedReply>, now: Timestamp) {
        let unix_now = unix_seconds(self.world.calendar(now));
        let Some(state) = self.accounts.get_mut(id) else { return };
        let Some(record) = &mut state.record else { return };
        let term = length.map(|length| Term::beginning(unix_now, length));
        let is_as_before = record.term.is_none() && term.is_none();
        record.term = term;
        if is_as_before && reply.is_none() {
            return;
        }
        if !is_as_before {
            self.note_end(id, now);
            self.publish_until_the_end(id, now);
        }
        self.save(id, Waiters { signed_in: reply.into_iter().collect(), ..Waiters::default() }, now);
    }

    /// The token that is published already is handed out until the sign-in's end, which has moved.
    fn publish_until_the_end(&mut self, id: &AccountId, now: Timestamp) {
        let Some(state) = self.accounts.get_mut(id) else { return };
        let (Some(token), Some(until)) = (&state.published, state.machine.snapshot().usable_until) else { return };
        let field = (token.name.clone(), token.value.clone());
        state.published = Some(state.token(token.id, field, until, token.start));
        self.tell(id, now, true);
    }

    fn send_trial(&mut self, id: &AccountId, trial: Trying) {
        self.tickets += 1;
        let renewal = RenewalId(FIRST_TRIAL + self.tickets);
        let Some(state) = self.accounts.get_mut(id) else { return };
        let grant = trial.grant();
        let asked = state.as_asked(&trial);
        let is = state.whom_to_compare(&trial);
        state.owed.push((renewal, asked.clone()));
        state.trials.push(Trying { renewal, ..trial });
        match is {
            Some(is) => self.world.redeem_and_ask(asked, renewal, grant, is),
            None => self.world.redeem(asked, renewal, grant),
        }
    }

    /// The response to a trial.
    pub(super) fn judge(
        &mut self,
        id: &AccountId,
        mut trial: Trying,
        answer: Result<Tokens, GrantFailure>,
        now: Timestamp,
    ) {
        let failure = match answer {
            Ok(tokens) => match tokens.unusable.clone() {
                None => return self.worked(id, trial, tokens, now),
                // a response that cannot be used has not shown that it works; where nothing is kept, it is the best there is
                Some(_) if !self.keeps_what_works(id, &trial.new) => return self.worked(id, trial, tokens, now),
                Some(detail) if tokens.refresh_token.is_some() => {
                    // it has put another in its place, which nothing could be done with
                    let words = format!("the server took it, and it is spent now, but {detail}");
                    warn!(account = %id, "what was handed in cannot be used; nothing changes: {words}");
                    self.count(id);
                    let _ = trial.reply.send(Err(RequestError::CredentialRefused(words)));
                    return;
                }
                Some(detail) => {
                    let words = format!("not tried: {detail}");
                    let failure = GrantFailure::unanswered(Failure::Ambiguous, detail);
                    return self.untried(id, trial, Some(failure), words, now);
                }
            },
            Err(failure) => failure,
        };
        if failure.wants_rotation
            && !self.is_stopping
            && let Some(state) = self.accounts.get_mut(id)
        {
            info!(account = %id, "the server rotates refresh tokens: it is asked in the way that it wants, from now on");
            state.rotates = true;
            self.count(id);
            return self.begin_trial(id, trial, now);
        }
        match failure.failure {
            Failure::Ambiguous if !trial.answer_lost && !self.is_stopping => {
                warn!(account = %id, error = %failure.detail, "the answer to a trial was lost; it is asked for once more");
                trial.answer_lost = true;
                self.count(id);
                self.send_trial(id, trial);
            }
            // no verdict on the credential: that the client is refused, or words that count only when they are said again
            Failure::Ambiguous
            | Failure::Transient { .. }
            | Failure::Unconfirmed { .. }
            | Failure::Permanent(Why::ClientRefused) => {
                let words = format!("not tried: {}", failure.detail);
                self.untried(id, trial, Some(failure), words, now);
            }
            Failure::Permanent(_) | Failure::Refused => {
                self.count(id);
                let is_of_refresh_token = matches!(trial.grant(), Grant::RefreshToken(_));
                if is_of_refresh_token && trial.new.credential.password.is_some() && !self.is_stopping {
                    return self.send_trial(id, Trying { presents_password: true, ..trial });
                }
                warn!(account = %id, error = %failure.detail, "what was handed in is refused; nothing changes");
                let lost = if trial.answer_lost { "an answer was lost, and now it is refused: " } else { "" };
                let _ = trial.reply.send(Err(RequestError::CredentialRefused(format!("{lost}{}", failure.detail))));
            }
        }
    }

    /// It has worked: what the response brought takes the place of what is stored.
    fn worked(&mut self, id: &AccountId, trial: Trying, mut tokens: Tokens, now: Timestamp) {
        let Trying { mut new, asked, since, presents_password, reply, .. } = trial;
        let record = self.accounts.get(id).and_then(|state| state.record.as_ref());
        let is_at_hand = record.is_some_and(|record| record.holds(&new));
        if let Some(refresh_token) = tokens.refresh_token.clone().filter(|token| !token.is_empty()) {
            let before = new.credential.refresh_token.replace(refresh_token);
            new.spent = before.filter(|_| !presents_password);
        } else if presents_password && tokens.unusable.is_none() {
            new.credential.refresh_token = None; // refused, and not needed: the password has brought tokens
        }
        // now it is known who comes: what is stored stays that person's, though what was handed in may be spent
        let Whose { person, name, unnamed } = std::mem::take(&mut tokens.whose);
        let named = person.or_else(|| id_token::person(&tokens, asked.expected(None)));
        new.person = named.or(new.person);
        new.identity = name.or(new.identity);
        new.unnamed = unnamed;
        let kept_out = self.accounts.get(id).and_then(|state| state.record.as_ref()?.keeps_out(&new));
        if let Some(words) = kept_out.filter(|_| !is_at_hand) {
            warn!(account = %id, "what was handed in is not known to be the same person's; nothing changes");
            self.count(id);
            let _ = reply.send(Err(RequestError::AnotherPerson(words)));
            return;
        }
        // lives count from the start of the request; the machine counts from when it takes the response
        let taken = now.since(since);
        let left = |life: Option<Duration>| life.map(|life| life.saturating_sub(taken));
        tokens.lifetime = left(tokens.lifetime);
        tokens.id_token_lifetime = left(tokens.id_token_lifetime);
        tokens.refresh_lifetime = left(tokens.refresh_lifetime);
        new.refresh_lifetime = tokens.refresh_lifetime.map(|life| life.as_secs()).or(new.refresh_lifetime);
        let is_the_same = |state: &AccountState| !asked.security_relevant_change(&state.account);
        let is_usable = !self.is_stopping && self.accounts.get(id).is_some_and(is_the_same);
        self.take(id, new, is_usable.then_some(Ok(tokens)), reply, now);
    }

    /// Whether only what has worked is taken, mostly as the account has a credential, or the store has one that is withheld:
    /// somebody may yet adopt that, and its key may come back.
    fn keeps_what_works(&self, id: &AccountId, new: &NewCredential) -> bool {
        match new.trial {
            Trial::Proven => true,
            Trial::Required => {
                self.accounts.get(id).is_some_and(|state| state.record.is_some() || state.is_kept_from_us())
            }
            Trial::Preferred | Trial::Skipped => false,
        }
    }

    /// Nobody knows whether it works.
    fn untried(&mut self, id: &AccountId, trial: Trying, failure: Option<GrantFailure>, words: String, now: Timestamp) {
        let Trying { new, reply, .. } = trial;
        if self.keeps_what_works(id, &new) {
            warn!(account = %id, "what was handed in is {words}; nothing changes");
            if failure.is_some() {
                self.count(id);
            }
            let _ = reply.send(Err(RequestError::CredentialUntried(words)));
            return;
        }
        // somebody else may have signed in meanwhile
        let kept_out = self.accounts.get(id).and_then(|state| state.record.as_ref()?.keeps_out(&new));
        if let Some(words) = kept_out {
            let _ = reply.send(Err(RequestError::AnotherPerson(words)));
            return;
        }
        self.take(id, new, failure.map(Err), reply, now);
    }

    /// Counts a request that no renewal takes for its own.
    fn count(&mut self, id: &AccountId) {
        if let Some(state) = self.accounts.get_mut(id) {
            state.token_requests += 1;
        }
    }
}

impl Trying {
    /// What is presented this time.
    fn grant(&self) -> Grant {
        let mut credential = self.new.credential.clone();
        if self.presents_password {
            credential.refresh_token = None;
        }
        credential.grant(self.asked.grant)
    }
}

impl AccountState {
    /// How a trial is asked for, as far as its server is known by now.
    fn as_asked(&self, trial: &Trying) -> Arc<Account> {
        if self.rotates { Arc::new(trial.asked.with_rotation()) } else { trial.asked.clone() }
    }

    /// Whether a credential that is handed in is the one at hand, or its refresh token alone.
    fn has_at_hand(&self, new: &NewCredential) -> bool {
        let Some(record) = &self.record else { return false };
        let password = &new.credential.password;
        record.holds(new) && (password.is_none() || *password == record.credential.password)
    }

    /// Where it must be known who comes by a trial: who is signed in at the same server, if anybody.
    fn whom_to_compare(&self, trial: &Trying) -> Option<Option<Person>> {
        let record = self.record.as_ref().filter(|record| record.person.is_some())?;
        (!trial.new.switches_user && !record.holds(&trial.new)).then(|| record.person_at(&trial.asked).cloned())
    }

    /// Somebody signs out: what is being tried is not wanted any more.
    pub(super) fn end_trials(&mut self) {
        for Trying { reply, .. } in self.trials.drain(..) {
            let _ = reply.send(Err(RequestError::Refused("somebody has signed out meanwhile".to_owned())));
        }
    }
}
