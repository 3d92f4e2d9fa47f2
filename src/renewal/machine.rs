//! One account's renewal: when to ask for a new access token, and what a response changes.
//! It waits for one of four things: the clock, the store of credentials, the authorization server, or a person.
//!
//! A renewal that goes well: the clock → `Note` → `Saved` → `Renew` → `Renewed` → (if rotated: `Save` → `Saved` →)
//! `Publish`. The store may be slow, fail, or know better; the machine does nothing that hangs on its response before that
//! has come.

use std::time::Duration;

use super::life::{self, LearntLife};
use super::policy::{self, Policy};
use super::refusals::{Refusal, Refusals};
use super::{AccountSnapshot, Failure, NotSaved, Phase, Place, Reason, RenewalId, SaveId, Why};
use crate::split_mix::SplitMix64;
use crate::timestamp::Timestamp;

/// What has happened.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Event {
    /// Time has passed; nothing else happened.
    Tick,
    /// A request found no usable token.
    Wanted,
    /// A person asked for a renewal now.
    Asked,
    /// The upstream answered 401 to a token.
    Rejected {
        /// The renewal that it came from.
        id: RenewalId,
        /// Where.
        place: Place,
        /// The last token that was taken there, if one is remembered.
        worked: Option<RenewalId>,
        /// Until when the request waits for a successor; not after `now` where it does not.
        until: Timestamp,
    },
    /// A request that an upstream had answered 401 was sent again with the next token, and answered.
    Replayed {
        /// The renewal that the token of the 401 came from.
        refused: RenewalId,
        /// Where.
        place: Place,
        /// When that 401 came: the token had ended by then, if it had.
        at: Timestamp,
        /// Whether the next token was taken; if not, that was answered 401, too.
        accepted: bool,
    },
    /// An upstream has taken a token: told of the first time, of the first time on the route of a 401 whose request could
    /// not be sent again, and each time that the token has grown older by a quarter.
    Worked {
        /// The renewal that it came from.
        id: RenewalId,
        /// Where.
        place: Place,
        /// When the request was sent, or before: the token was good then.
        sent: Timestamp,
    },
    /// The server has answered with tokens.
    Renewed {
        /// Which renewal this answers.
        id: RenewalId,
        /// The access token's life, counted from the start of the renewal; `None` if the response told none.
        lifetime: Option<Duration>,
        /// Whether the response held a new refresh token.
        rotated: bool,
        /// The refresh token's life, likewise.
        refresh_lifetime: Option<Duration>,
        /// The server's `Retry-After`: obeyed where the access token is dead on arrival.
        retry_after: Option<Duration>,
    },
    /// The renewal has failed.
    Failed {
        /// Which renewal this answers.
        id: RenewalId,
        /// What it means.
        failure: Failure,
    },
    /// The store has done what a `Note` or a `Save` asked for.
    Saved(SaveId),
    /// The store has not, as far as is known.
    NotSaved {
        /// What it was asked for.
        save: SaveId,
        /// Why.
        reason: NotSaved,
    },
    /// The store was found to hold a later credential than the one at hand, by a save that the machine does not wait for.
    Superseded,
    /// There is a new credential: from a sign-in, or from the store at a start, or in response to `Adopt`.
    CredentialReplaced {
        /// How long the first renewal may wait, unless a request wants it: spreads many accounts at a start.
        patience: Duration,
        /// Whether a response to a renewal with this very credential may have been lost.
        answer_lost: bool,
        /// When its refresh token is expected to die.
        refresh_expires_at: Option<Timestamp>,
        /// What an earlier process has learnt of its access tokens' life.
        learnt_life: Option<Duration>,
    },
    /// The credential on the disk has been refused before, by an earlier process, and is not presented again.
    CredentialRefused(Why),
    /// Its refresh token has been refused before, by an earlier process. It is presented once more.
    CredentialDoubted {
        /// Why it was.
        why: Why,
        /// As of `CredentialReplaced`.
        patience: Duration,
        /// As of `CredentialReplaced`.
        answer_lost: bool,
        /// As of `CredentialReplaced`.
        refresh_expires_at: Option<Timestamp>,
        /// As of `CredentialReplaced`.
        learnt_life: Option<Duration>,
    },
    /// Somebody has signed out.
    CredentialRemoved,
    /// What the safety of the token in hand hangs on has changed: it must not be used any more. A response that is owed
    /// is still waited for.
    SettingsChanged,
    /// A hint: the network has changed; look again now.
    NetworkChanged,
    /// A hint: the machine has slept; look again now.
    Resumed,
    /// A hint: the store takes again what it is given.
    SavesAgain,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Action {
    /// Ask the authorization server. Owes exactly one `Renewed` or `Failed` with this id, also when it never replies.
    Renew(RenewalId),
    /// Note durably that the credential is about to be spent. Owes exactly one `Saved` or `NotSaved` with this id.
    Note(SaveId),
    /// Make the new refresh token of the response at hand durable. Owes exactly one `Saved` or `NotSaved` with this id.
    Save(SaveId),
    /// Take over the credential that the store holds in the place of the one at hand. Owes exactly one
    /// `CredentialReplaced`, `CredentialRefused` or `CredentialRemoved`.
    Adopt,
    /// Note durably that the credential was refused.
    SetAside(Why),
    /// Hand the token of the response at hand to requests.
    Publish {
        /// The renewal that it came from.
        id: RenewalId,
        /// Until when it may be handed out.
        usable_until: Timestamp,
        /// When it began to live: see [`Event::Worked`].
        start: Timestamp,
    },
    /// Hand out no token any more.
    Withdraw,
}

/// One account's machine. See the module's invariants.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    pub(super) policy: Policy,
    pub(super) phase: Phase,
    /// Who owes the response while a renewal is under way.
    pub(super) owed: Owed,
    reason: Reason,
    pub(super) published: Option<Token>,
    next_id: u64,
    next_save: u64,
    /// When the server was last asked to renew this credential.
    pub(super) last_start: Option<Timestamp>,
    /// Nobody but a person or a hint may start the next renewal before this.
    earliest: Timestamp,
    /// Nobody but a person may, for the server has said so (`Retry-After`).
    server_earliest: Timestamp,
    /// The last renewal that a hint has brought forward.
    hinted: Option<Timestamp>,
    failures: u32,
    /// A response to this credential's renewal was lost: a refusal now may be the server's view of our own rotation.
    answer_lost: bool,
    refresh_expires_at: Option<Timestamp>,
    /// The server has refused the refresh token, which is presented again.
    refused: Option<Refused>,
    /// Since when the server has been saying what counts only when it is repeated.
    unconfirmed_since: Option<Timestamp>,
    refusals: Refusals,
    learnt: LearntLife,
    random: SplitMix64,
}

/// What a renewal that is under way waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owed {
    /// That its credential's use is noted, since some time.
    Note(SaveId, Timestamp),
    /// The server's answer.
    Answer,
    /// That the refresh token of its response is saved.
    Save(SaveId, Answer),
    /// The credential that the store holds.
    Credential,
}

/// A refresh token that the server has refused.
#[derive(Clone, Copy, Debug)]
struct Refused {
    why: Why,
    /// How often.
    times: usize,
    /// When it is presented again without being asked to.
    again_at: Option<Timestamp>,
}

/// What a response has brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    id: RenewalId,
    /// Lives count from here: the server's clock ran while its response was under way.
    start: Timestamp,
    lifetime: Option<Duration>,
    refresh_lifetime: Option<Duration>,
    retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    id: RenewalId,
    /// Lives count from here: the server's clock ran while its response was under way.
    start: Timestamp,
    usable_until: Timestamp,
    /// Its life, if the response stated it.
    stated: Option<Duration>,
    /// The life of the refresh token, likewise.
    refresh_lifetime: Option<Duration>,
    /// Spreads its renewal, in 0..=1.
    spread: f64,
    /// Whether it is let run to its end, though that is thought to be known.
    is_trial: bool,
    /// Whether a request has gone well with it.
    is_in_use: bool,
}

impl Renewal {
    /// A machine without a credential. `seed` spreads renewals of different accounts and machines.
    pub(crate) fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            phase: Phase::SignInRequired { why: Why::NotSignedIn },
            owed: Owed::Answer,
            reason: Reason::First,
            published: None,
            next_id: 1,
            next_save: 1,
            last_start: None,
            earliest: Timestamp::default(),
            server_earliest: Timestamp::default(),
            hinted: None,
            failures: 0,
            answer_lost: false,
            refresh_expires_at: None,
            refused: None,
            unconfirmed_since: None,
            refusals: Refusals::default(),
            learnt: LearntLife::known(None),
            random: SplitMix64(seed),
        }
    }

    /// Replaces the settings; they count from the next renewal on.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Takes note of what has happened, and says what is to be done. `now` must not run backwards.
    pub(crate) fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        self.withdraw_if_due(now, &mut actions);
        match event {
            Event::Tick => {}
            Event::Wanted => {
                if self.published.is_none() {
                    self.bring_forward(self.earliest);
                }
            }
            Event::Asked => {
                let now = self.spaced(now);
                self.bring_forward(now);
                if let (Phase::SignInRequired { .. }, Some(refused)) = (self.phase, &mut self.refused) {
                    refused.again_at = Some(now);
                }
            }
            Event::NetworkChanged | Event::Resumed | Event::SavesAgain => {
                if self.failures > 0 {
                    self.hinted(now);
                }
            }
            Event::Rejected { id, place, worked, until } => self.rejected(id, place, worked, until, now),
            Event::Replayed { refused, place, at, accepted } => self.replayed(refused, place, at, accepted, now),
            Event::Worked { id, place, sent } => self.worked(id, place, sent),
            Event::Renewed { id, lifetime, rotated, refresh_lifetime, retry_after } => {
                if self.is_owed_answer(id) {
                    // lives count from the start: the server's clock ran while its response was under way
                    let start = self.last_start.unwrap_or(now);
                    self.renewed(
                        Answer { id, start, lifetime, refresh_lifetime, retry_after },
                        rotated,
                        now,
                        &mut actions,
                    );
                }
            }
            Event::Failed { id, failure } => {
                if self.is_owed_answer(id) {
                    self.failed(failure, now, &mut actions);
                }
            }
            Event::Saved(save) => self.saved(save, now, &mut actions),
            Event::NotSaved { save, reason: NotSaved::Failed | NotSaved::Unknown } => {
                if self.owed_save() == Some(save) && self.is_noting() {
                    // what takes no note would not take the successor of what is spent, which a crash would lose; and
                    // what another machine has renewed meanwhile must not be spent a second time
                    self.failures = self.failures.saturating_add(1);
                    self.back_off(None, now);
                } else {
                    self.saved(save, now, &mut actions);
                }
            }
            Event::NotSaved { save, reason: NotSaved::Stale } => {
                if self.owed_save() == Some(save) {
                    self.superseded(now, &mut actions);
                }
            }
            Event::Superseded => {
                // what is under way ends first: its own save will be told the same
                if !matches!(self.phase, Phase::InFlight { .. }) {
                    self.superseded(now, &mut actions);
                }
            }
            Event::CredentialReplaced { patience, answer_lost, refresh_expires_at, learnt_life } => {
                // a store that holds a later credential each time makes no loop without a pause
                let adopted_at = self.last_start.filter(|_| self.is_adopting());
                self.forget_credential(&mut actions);
                self.last_start = adopted_at;
                self.learnt = LearntLife::known(learnt_life);
                self.answer_lost = answer_lost;
                self.refresh_expires_at =
                    refresh_expires_at.or_else(|| self.policy.refresh_lifetime.map(|life| now + life));
                self.phase = Phase::Scheduled { at: self.spaced(now + patience) };
                if adopted_at.is_some() {
                    self.earliest = self.spaced(now);
                }
                self.reason = Reason::First;
            }
            Event::CredentialRefused(why) => {
                self.forget_credential(&mut actions);
                self.phase = Phase::SignInRequired { why };
            }
            Event::CredentialDoubted { why, patience, answer_lost, refresh_expires_at, learnt_life } => {
                let adopted_at = self.last_start.filter(|_| self.is_adopting());
                self.forget_credential(&mut actions);
                self.last_start = adopted_at;
                self.learnt = LearntLife::known(learnt_life);
                self.answer_lost = answer_lost;
                self.refresh_expires_at = refresh_expires_at;
                let again_at = Some(self.spaced(now + patience));
                self.refused = Some(Refused { why, times: policy::SECOND_LIFE.len(), again_at });
                self.phase = Phase::SignInRequired { why };
            }
            Event::CredentialRemoved => {
                self.forget_credential(&mut actions);
                self.phase = Phase::SignInRequired { why: Why::NotSignedIn };
            }
            Event::SettingsChanged => self.withdraw(&mut actions),
        }
        self.start_if_due(now, &mut actions);
        actions
    }

    /// When the machine wants a `Tick`, and why. `None` while only a response or a person can change anything.
    pub(crate) fn next_wakeup(&self) -> Option<(Timestamp, Reason)> {
        let withdraw = self.published.map(|token| (token.usable_until, Reason::Withdraw));
        match self.phase {
            Phase::Scheduled { at } => Some(match withdraw {
                Some(withdraw) if withdraw.0 < at => withdraw,
                _ => (at, self.reason),
            }),
            Phase::InFlight { .. } => withdraw,
            Phase::SignInRequired { .. } => {
                let again = self.refused.and_then(|refused| refused.again_at).map(|at| (at, Reason::Retry));
                withdraw.into_iter().chain(again).min_by_key(|(at, _)| *at)
            }
        }
    }

    /// Whether a refused credential is presented again if somebody asks for it.
    pub(crate) fn may_be_presented_again(&self) -> bool {
        self.refused.is_some()
    }

    /// The machine as it stands.
    pub(crate) fn snapshot(&self) -> AccountSnapshot {
        AccountSnapshot {
            phase: self.phase,
            published: self.published.map(|token| token.id),
            usable_until: self.published.map(|token| token.usable_until),
            next_wakeup: self.next_wakeup(),
            failures: self.failures,
            refresh_expires_at: self.refresh_expires_at,
            learnt_life: self.learnt.life(),
        }
    }

    /// When the renewal that somebody wishes for starts, or has started. `None` if the next one is nobody's wish: it is
    /// not worth waiting for.
    pub(crate) fn wished_for(&self, now: Timestamp) -> Option<Timestamp> {
        match (self.phase, self.reason) {
            (Phase::InFlight { .. }, _) => Some(match self.owed {
                Owed::Note(_, since) => since,
                Owed::Answer | Owed::Save(..) | Owed::Credential => self.last_start.unwrap_or(now),
            }),
            (Phase::Scheduled { at }, Reason::Asked) => Some(at),
            // what 401s have brought about, and has failed
            (Phase::Scheduled { at }, Reason::Retry) => {
                let is_refused = |token: Token| self.refusals.of(token.id).is_some();
                self.published.is_some_and(is_refused).then_some(at)
            }
            (Phase::Scheduled { .. } | Phase::SignInRequired { .. }, _) => None,
        }
    }

    /// Whether a response to this credential's renewal was lost, and none has come since: a refusal is ambiguous then.
    pub(crate) fn may_have_lost_an_answer(&self) -> bool {
        self.answer_lost
    }

    /// Whether a renewal is under way whose request to the server is not sent: its note is still owed.
    pub(crate) fn is_noting(&self) -> bool {
        matches!((self.phase, self.owed), (Phase::InFlight { .. }, Owed::Note(..)))
    }

    /// What the store owes a response to, if anything.
    pub(crate) fn owed_save(&self) -> Option<SaveId> {
        match (self.phase, self.owed) {
            (Phase::InFlight { .. }, Owed::Note(save, _) | Owed::Save(save, _)) => Some(save),
            (Phase::InFlight { .. }, Owed::Answer | Owed::Credential) => None,
            (Phase::Scheduled { .. } | Phase::SignInRequired { .. }, _) => None,
        }
    }

    fn is_owed_answer(&self, id: RenewalId) -> bool {
        self.phase == Phase::InFlight { id } && matches!(self.owed, Owed::Answer)
    }

    fn is_adopting(&self) -> bool {
        matches!((self.phase, self.owed), (Phase::InFlight { .. }, Owed::Credential))
    }

    fn withdraw_if_due(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.published.is_some_and(|token| now >= token.usable_until) {
            self.withdraw(actions);
        }
    }

    fn withdraw(&mut self, actions: &mut Vec<Action>) {
        if self.published.take().is_some() {
            actions.push(Action::Withdraw);
        }
    }

    fn start_if_due(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let at = match self.phase {
            Phase::Scheduled { at } => Some(at),
            Phase::SignInRequired { .. } => self.refused.and_then(|refused| refused.again_at),
            Phase::InFlight { .. } => None,
        };
        if at.is_some_and(|at| now >= at) {
            self.start(now, actions);
        }
    }

    fn start(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let id = RenewalId(self.next_id);
        self.next_id += 1;
        let save = self.new_save();
        (self.phase, self.owed) = (Phase::InFlight { id }, Owed::Note(save, now));
        actions.push(Action::Note(save));
    }

    fn new_save(&mut self) -> SaveId {
        let save = SaveId(self.next_save);
        self.next_save += 1;
        save
    }

    /// The store has answered, and holds nothing later. A response that could not be saved is used all the same: what is at
    /// hand is the latest that there is.
    fn saved(&mut self, save: SaveId, now: Timestamp, actions: &mut Vec<Action>) {
        let Phase::InFlight { id } = self.phase else { return };
        match self.owed {
            Owed::Note(awaited, _) if awaited == save => {
                self.last_start = Some(now);
                self.owed = Owed::Answer;
                actions.push(Action::Renew(id));
            }
            Owed::Save(awaited, answer) if awaited == save => self.take(answer, now, actions),
            Owed::Note(..) | Owed::Answer | Owed::Save(..) | Owed::Credential => {}
        }
    }

    /// The store holds a later credential: the one at hand is spent no more, nor is anything of it handed out. What the
    /// server has refused may be good again with the later one.
    fn superseded(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        self.withdraw(actions);
        let id = RenewalId(self.next_id);
        self.next_id += 1;
        self.last_start = Some(now);
        (self.phase, self.owed) = (Phase::InFlight { id }, Owed::Credential);
        actions.push(Action::Adopt);
    }

    /// The first moment, not before now, that keeps the minimum spacing.
    fn spaced(&self, now: Timestamp) -> Timestamp {
        self.last_start.map_or(now, |start| now.max(start + self.policy.minimum_spacing))
    }

    fn bring_forward(&mut self, to: Timestamp) {
        if let Phase::Scheduled { at } = &mut self.phase {
            *at = to.min(*at);
            self.reason = Reason::Asked;
        }
    }

    /// A hint cuts back-off that is our own choice, never the server's `Retry-After`. Those that come close together are
    /// one: where links come and go all day, a server in trouble must not be asked at each.
    fn hinted(&mut self, now: Timestamp) {
        let after_the_last = self.hinted.map_or(now, |last| last + policy::HINTS_APART);
        let at = self.spaced(now).max(self.server_earliest).max(after_the_last);
        if matches!(self.phase, Phase::Scheduled { at: planned } if at < planned) {
            self.hinted = Some(at);
            self.bring_forward(at);
        }
    }

    /// A 401 from the upstream brings the next renewal forward, once for each rejected token, if the place that said it is
    /// believed: see [`super::refusals`]. A request that waits until then is served then.
    fn rejected(&mut self, id: RenewalId, place: Place, worked: Option<RenewalId>, until: Timestamp, now: Timestamp) {
        let Some(token) = self.published else {
            if until > now {
                self.bring_forward(self.earliest); // it wants one, like any request without a token
            }
            return;
        };
        if token.id != id || !matches!(self.phase, Phase::Scheduled { .. }) {
            return;
        }
        let is_explained = token.stated.is_none() && self.learnt.is_end_near(now.since(token.start));
        let (standing, permitted) = self.refusals.judge(place, worked, is_explained, now);
        if self.refusals.of(id).is_some() {
            if until > now {
                let permitted = self.refusals.hasten(permitted);
                self.bring_forward(permitted.max(self.earliest).max(self.spaced(now)));
            }
            return;
        }
        if permitted > now && permitted >= until {
            return;
        }
        let refusal = Refusal {
            token: id,
            start: token.start,
            at: now,
            place,
            standing,
            is_life_stated: token.stated.is_some(),
            was_trial: token.is_trial,
            is_waiting: until > now,
            permitted,
            is_healed: false,
            is_mood: false,
        };
        let refill = self.refill();
        self.refusals.note(refusal, is_explained, refill);
        self.bring_forward(permitted.max(self.earliest).max(self.spaced(now)));
    }

    /// A 401 that the next token has healed was the token's end, and its age tells the life of tokens of which no response
    /// does. One that the next token has not healed says something of its place if that token was younger: a response may
    /// take longer than what it brings lives.
    fn replayed(&mut self, refused: RenewalId, place: Place, at: Timestamp, accepted: bool, now: Timestamp) {
        if accepted {
            if let Some(healed) = self.refusals.accepted(refused, place) {
                self.ended(healed, at);
            }
            return;
        }
        let known = self.refusals.start_of(refused);
        let next = self.published.filter(|token| token.id > refused);
        let age = known.map_or(life::SHORTEST_LIFE, |start| at.since(start).max(life::SHORTEST_LIFE));
        if next.is_none_or(|next| now.since(next.start) < age) {
            let refill = self.refill();
            self.refusals.refused_again(refused, place, now, refill);
        }
    }

    fn worked(&mut self, id: RenewalId, place: Place, sent: Timestamp) {
        let Some(token) = self.published.as_mut().filter(|token| token.id == id) else { return };
        token.is_in_use = true;
        let age = sent.since(token.start);
        if token.stated.is_none() {
            self.learnt.outlived(age);
        }
        if let Some(healed) = self.refusals.worked(id, place, age) {
            self.ended(healed, healed.at);
        }
        self.plan_again();
    }

    /// A token had ended when it was refused.
    fn ended(&mut self, refusal: Refusal, at: Timestamp) {
        if !refusal.is_life_stated {
            self.learnt.ended(at.since(refusal.start), refusal.was_trial);
            self.plan_again();
        }
    }

    /// The time in which 401s may bring one more renewal about.
    fn refill(&self) -> Duration {
        let stated = self.published.and_then(|token| token.stated);
        policy::refill(stated.or(self.learnt.life()).unwrap_or(self.policy.assumed_lifetime))
    }

    fn renewed(&mut self, answer: Answer, rotated: bool, now: Timestamp, actions: &mut Vec<Action>) {
        self.answer_lost = false;
        self.refused = None;
        self.unconfirmed_since = None;
        if let Some(life) = answer.refresh_lifetime {
            self.refresh_expires_at = Some(answer.start + life);
        }
        if answer.lifetime.is_some_and(|life| !life.is_zero()) {
            self.learnt = LearntLife::known(None); // the server knows better
        }
        if rotated {
            let save = self.new_save();
            self.owed = Owed::Save(save, answer);
            actions.push(Action::Save(save));
        } else {
            self.take(answer, now, actions);
        }
    }

    /// Hands out the token of a response of which nothing is left to save, and plans its renewal.
    fn take(&mut self, answer: Answer, now: Timestamp, actions: &mut Vec<Action>) {
        let Answer { id, start, lifetime, refresh_lifetime, retry_after } = answer;
        let usable_until = policy::usable_until(&self.policy, start, lifetime.unwrap_or(self.policy.assumed_lifetime));
        let is_trial = lifetime.is_none() && self.learnt.begins();
        let token = Token {
            id,
            start,
            usable_until,
            stated: lifetime,
            refresh_lifetime,
            spread: self.random.fraction(),
            is_trial,
            is_in_use: false,
        };
        if now >= usable_until {
            self.failures = self.failures.saturating_add(1); // dead on arrival: as good as none
            self.back_off(retry_after, now);
            return;
        }
        self.failures = 0;
        self.published = Some(token);
        actions.push(Action::Publish { id, usable_until, start });
        self.earliest = self.spaced(now);
        self.plan(token);
    }

    /// Sets the time of the next renewal that nobody has to ask for.
    fn plan(&mut self, token: Token) {
        let Token { start, stated, refresh_lifetime, spread, is_trial, is_in_use, .. } = token;
        let assumed = self.policy.assumed_lifetime;
        let learnt = self.learnt.life().filter(|_| stated.is_none() && !is_trial).map(|life| life.min(assumed));
        let mut at = policy::renew_at(&self.policy, start, stated.or(learnt).unwrap_or(assumed), spread);
        self.reason = Reason::BeforeExpiry;
        // only a response that states the refresh token's life promises that renewing extends it
        if let Some(life) = refresh_lifetime {
            let before_it_dies = policy::renew_at(&self.policy, start, life, spread);
            if before_it_dies < at {
                at = before_it_dies;
                self.reason = Reason::BeforeRefreshTokenDies;
            }
        }
        // A token of stated life is withdrawn before its end, so that who wants one asks for it. A learnt end is none to
        // withdraw at: that the token is in use says as much.
        let unasked = if learnt.is_some() && is_in_use { start } else { start + policy::UNASKED_SPACING };
        self.schedule(at.max(unasked).max(self.earliest));
    }

    /// What is known of tokens' lives has changed; wishes and failures have set their own times.
    fn plan_again(&mut self) {
        let is_planned = matches!(self.phase, Phase::Scheduled { .. })
            && matches!(self.reason, Reason::BeforeExpiry | Reason::BeforeRefreshTokenDies);
        if let Some(token) = self.published.filter(|_| is_planned) {
            self.plan(token);
        }
    }

    fn failed(&mut self, failure: Failure, now: Timestamp, actions: &mut Vec<Action>) {
        self.failures = self.failures.saturating_add(1);
        match failure {
            Failure::Transient { retry_after } => self.back_off(retry_after, now),
            Failure::Ambiguous => {
                let first = !std::mem::replace(&mut self.answer_lost, true);
                self.back_off(None, now);
                if first {
                    // a server with a grace period takes the same refresh token again, but not for long
                    self.earliest = self.spaced(now);
                    self.schedule(self.earliest);
                }
            }
            Failure::Permanent(why) => self.refuse(why, false, now, actions),
            Failure::Refused => self.refuse(Why::Revoked, true, now, actions),
            Failure::Unconfirmed { why, retry_after } => {
                let since = *self.unconfirmed_since.get_or_insert(now);
                if now >= since + policy::CONFIRMED_AFTER {
                    self.refuse(why, true, now, actions);
                } else {
                    self.back_off(retry_after, now);
                }
            }
        }
    }

    /// A person must sign in, and is told so now. A refresh token is presented again all the same: its refusal may have been
    /// the server's bad minute.
    fn refuse(&mut self, why: Why, has_second_life: bool, now: Timestamp, actions: &mut Vec<Action>) {
        let was_lost = self.answer_lost || self.refused.is_some_and(|refused| refused.why == Why::Ambiguous);
        let why = if was_lost && why == Why::Revoked { Why::Ambiguous } else { why };
        let times = self.refused.map_or(0, |refused| refused.times);
        let again_at = policy::SECOND_LIFE.get(times).map(|wait| self.spaced(now + *wait));
        self.refused = has_second_life.then_some(Refused { why, times: times + 1, again_at });
        self.phase = Phase::SignInRequired { why };
        actions.push(Action::SetAside(why));
    }

    fn back_off(&mut self, retry_after: Option<Duration>, now: Timestamp) {
        let backoff = policy::backoff(self.failures, self.random.fraction());
        let (earliest, at) = policy::retry_times(now, backoff, retry_after);
        let spaced = self.spaced(now);
        self.earliest = earliest.max(spaced);
        self.server_earliest = retry_after.map_or(now, |_| earliest);
        self.reason = Reason::Retry;
        self.schedule(at.max(spaced));
    }

    /// What was refused and is presented again stays refused until there are tokens, and nobody is in a hurry for it.
    fn schedule(&mut self, at: Timestamp) {
        match &mut self.refused {
            Some(refused) => {
                refused.again_at = Some(at.max(self.earliest));
                self.phase = Phase::SignInRequired { why: refused.why };
            }
            None => self.phase = Phase::Scheduled { at },
        }
    }

    fn forget_credential(&mut self, actions: &mut Vec<Action>) {
        self.withdraw(actions);
        self.last_start = None;
        self.earliest = Timestamp::default();
        self.server_earliest = Timestamp::default();
        self.hinted = None;
        self.failures = 0;
        self.answer_lost = false;
        self.refresh_expires_at = None;
        self.refused = None;
        self.unconfirmed_since = None;
        self.refusals = Refusals::default();
        self.learnt = LearntLife::known(None);
    }
}
