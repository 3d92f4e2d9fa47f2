//! One account's renewal: when to ask for a new access token, and what an answer changes.
//! It waits for one of three things: the clock, the authorization server, or a person.

use std::time::Duration;

use super::policy::{self, Policy};
use super::{AccountSnapshot, Failure, Phase, Reason, RenewalId, Why};
use crate::timestamp::Timestamp;

/// What has happened.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event {
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
        /// Whether an upstream had taken it before: then it was revoked.
        worked: bool,
    },
    /// The server has answered with tokens.
    Renewed {
        /// Which renewal this answers.
        id: RenewalId,
        /// The access token's life, counted from the start of the renewal; `None` if the answer told none.
        lifetime: Option<Duration>,
        /// Whether the answer held a new refresh token.
        rotated: bool,
        /// The refresh token's life, likewise.
        refresh_lifetime: Option<Duration>,
    },
    /// The renewal has failed.
    Failed {
        /// Which renewal this answers.
        id: RenewalId,
        /// What it means.
        failure: Failure,
    },
    /// There is a new credential: from a sign-in, or from the disk at a start.
    CredentialReplaced {
        /// How long the first renewal may wait, unless a request wants it: spreads many accounts at a start.
        patience: Duration,
        /// Whether an answer to a renewal with this very credential may have been lost.
        answer_lost: bool,
        /// When its refresh token is expected to die.
        refresh_expires_at: Option<Timestamp>,
    },
    /// The credential on the disk has been refused before, by an earlier process.
    CredentialRefused(Why),
    /// Somebody has signed out.
    CredentialRemoved,
    /// What the safety of the token in hand hangs on has changed: it must not be used any more. An answer that is owed
    /// is still waited for.
    SettingsChanged,
    /// A hint: the network has changed; look again now.
    NetworkChanged,
    /// A hint: the machine has slept; look again now.
    Resumed,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Action {
    /// Ask the authorization server. Owes exactly one `Renewed` or `Failed` with this id, also when it never replies.
    Renew(RenewalId),
    /// Make the new refresh token of the answer at hand durable, before anything after it is done.
    SaveRefreshToken,
    /// Note durably that the credential was refused.
    SetAside(Why),
    /// Hand the token of the answer at hand to requests.
    Publish {
        /// The renewal that it came from.
        id: RenewalId,
        /// Until when it may be handed out.
        usable_until: Timestamp,
    },
    /// Hand out no token any more.
    Withdraw,
}

/// One account's machine. See the module's invariants.
#[derive(Clone, Debug)]
pub struct Renewal {
    policy: Policy,
    phase: Phase,
    reason: Reason,
    published: Option<Token>,
    next_id: u64,
    /// When the last renewal of this credential started.
    last_start: Option<Timestamp>,
    /// Nobody but a person or a change of the network may start the next renewal before this.
    earliest: Timestamp,
    failures: u32,
    /// An answer to this credential's renewal was lost: a refusal now may be the server's view of our own rotation.
    answer_lost: bool,
    refresh_expires_at: Option<Timestamp>,
    /// When a 401 last brought a renewal about, and how long the next one has to wait for that (see `policy`).
    distrust: Option<(Timestamp, Duration)>,
    random: Random,
    #[cfg(test)]
    pub(crate) fault: Option<super::tests::Fault>,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    id: RenewalId,
    usable_until: Timestamp,
}

impl Renewal {
    /// A machine without a credential. `seed` spreads renewals of different accounts and machines.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            phase: Phase::SignInRequired { why: Why::NotSignedIn },
            reason: Reason::First,
            published: None,
            next_id: 1,
            last_start: None,
            earliest: Timestamp::default(),
            failures: 0,
            answer_lost: false,
            refresh_expires_at: None,
            distrust: None,
            random: Random(seed),
            #[cfg(test)]
            fault: None,
        }
    }

    /// Replaces the settings; they count from the next renewal on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Takes note of what has happened, and says what is to be done. `now` must not run backwards.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        self.withdraw_if_due(now, &mut actions);
        match event {
            Event::Tick => {}
            #[cfg(test)]
            Event::Wanted
                if self.faulty(super::tests::Fault::StartsWhileInFlight)
                    && matches!(self.phase, Phase::InFlight { .. }) =>
            {
                self.start(now, &mut actions);
            }
            Event::Wanted => {
                if self.published.is_none() {
                    self.bring_forward(self.earliest);
                }
            }
            Event::Asked => self.bring_forward(self.spaced(now)),
            Event::NetworkChanged | Event::Resumed => {
                if self.failures > 0 {
                    self.bring_forward(self.spaced(now));
                }
            }
            Event::Rejected { id, worked } => self.rejected(id, worked, now),
            Event::Renewed { id, lifetime, rotated, refresh_lifetime } => {
                if self.owes(id) {
                    self.renewed(id, lifetime, rotated, refresh_lifetime, now, &mut actions);
                }
            }
            Event::Failed { id, failure } => {
                if self.owes(id) {
                    self.failed(failure, now, &mut actions);
                }
            }
            Event::CredentialReplaced { patience, answer_lost, refresh_expires_at } => {
                self.forget_credential(&mut actions);
                self.answer_lost = answer_lost;
                self.refresh_expires_at =
                    refresh_expires_at.or_else(|| self.policy.refresh_lifetime.map(|life| now + life));
                self.phase = Phase::Scheduled { at: now + patience };
                self.reason = Reason::First;
            }
            Event::CredentialRefused(why) => {
                self.forget_credential(&mut actions);
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

    /// When the machine wants a `Tick`, and why. `None` while only an answer or a person can change anything.
    pub fn next_wakeup(&self) -> Option<(Timestamp, Reason)> {
        let withdraw = self.published.map(|token| (token.usable_until, Reason::Withdraw));
        match self.phase {
            Phase::Scheduled { at } => Some(match withdraw {
                Some(withdraw) if withdraw.0 < at => withdraw,
                _ => (at, self.reason),
            }),
            Phase::InFlight { .. } | Phase::SignInRequired { .. } => withdraw,
        }
    }

    /// The machine as it stands.
    pub fn snapshot(&self) -> AccountSnapshot {
        AccountSnapshot {
            phase: self.phase,
            published: self.published.map(|token| token.id),
            usable_until: self.published.map(|token| token.usable_until),
            next_wakeup: self.next_wakeup(),
            failures: self.failures,
            refresh_expires_at: self.refresh_expires_at,
        }
    }

    /// Whether a renewal is under way, or somebody's wish for one waits only for the minimum spacing.
    pub fn is_renewing(&self, now: Timestamp) -> bool {
        match self.phase {
            Phase::InFlight { .. } => true,
            Phase::Scheduled { at } => self.reason == Reason::Asked && at <= self.spaced(now),
            Phase::SignInRequired { .. } => false,
        }
    }

    /// Whether an answer to this credential's renewal was lost, and none has come since: a refusal is ambiguous then.
    pub fn may_have_lost_an_answer(&self) -> bool {
        self.answer_lost
    }

    fn owes(&self, id: RenewalId) -> bool {
        #[cfg(test)]
        if self.faulty(super::tests::Fault::TakesForgottenAnswers) {
            return matches!(self.phase, Phase::InFlight { .. } | Phase::Scheduled { .. });
        }
        self.phase == Phase::InFlight { id }
    }

    fn withdraw_if_due(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        #[cfg(test)]
        if self.faulty(super::tests::Fault::NeverWithdraws) {
            return;
        }
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
        let Phase::Scheduled { at } = self.phase else { return };
        #[cfg(test)]
        let at = if self.faulty(super::tests::Fault::StartsEarly) { at - Duration::from_secs(1) } else { at };
        if now >= at {
            self.start(now, actions);
        }
    }

    fn start(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let id = RenewalId(self.next_id);
        self.next_id += 1;
        self.last_start = Some(now);
        self.phase = Phase::InFlight { id };
        actions.push(Action::Renew(id));
    }

    /// The first moment, not before now, that keeps the minimum spacing.
    fn spaced(&self, now: Timestamp) -> Timestamp {
        #[cfg(test)]
        if self.faulty(super::tests::Fault::IgnoresSpacing) {
            return now;
        }
        self.last_start.map_or(now, |start| now.max(start + self.policy.minimum_spacing))
    }

    fn bring_forward(&mut self, to: Timestamp) {
        if let Phase::Scheduled { at } = &mut self.phase {
            *at = to.min(*at);
            self.reason = Reason::Asked;
        }
    }

    /// A 401 from the upstream brings the next renewal forward, once for each rejected token. If the token that it
    /// brings is rejected too, 401s are the upstream's business for a while; for a short while only where that token
    /// had been good for something.
    fn rejected(&mut self, id: RenewalId, worked: bool, now: Timestamp) {
        let is_current = self.published.is_some_and(|token| token.id == id);
        let is_distrusted = self.distrust.is_some_and(|(since, step)| now < since + policy::patience(step, worked));
        if !is_current || is_distrusted || !matches!(self.phase, Phase::Scheduled { .. }) {
            return;
        }
        // long ago counts as never
        let recent = self.distrust.filter(|(since, step)| now < *since + 2 * policy::patience(*step, false));
        self.distrust = Some((now, policy::next_distrust(recent.map(|(_, step)| step))));
        self.bring_forward(self.earliest.max(self.spaced(now)));
    }

    fn renewed(
        &mut self,
        id: RenewalId,
        lifetime: Option<Duration>,
        rotated: bool,
        refresh_lifetime: Option<Duration>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.answer_lost = false;
        // lives count from the start: the server's clock ran while its answer was under way
        let start = self.last_start.unwrap_or(now);
        if let Some(life) = refresh_lifetime {
            self.refresh_expires_at = Some(start + life);
        }
        let lifetime = lifetime.unwrap_or(self.policy.assumed_lifetime);
        let usable_until = policy::usable_until(&self.policy, start, lifetime);
        if rotated {
            actions.push(Action::SaveRefreshToken);
        }
        if now < usable_until {
            self.failures = 0;
            self.published = Some(Token { id, usable_until });
            actions.push(Action::Publish { id, usable_until });
        } else {
            self.failures = self.failures.saturating_add(1); // dead on arrival: as good as none
        }
        #[cfg(test)]
        if self.faulty(super::tests::Fault::PublishesBeforeSaving) {
            actions.reverse();
        }
        if self.failures > 0 {
            self.back_off(None, now);
            return;
        }
        let spread = self.random.fraction();
        let mut at = policy::renew_at(&self.policy, start, lifetime, spread);
        self.reason = Reason::BeforeExpiry;
        // only an answer that states the refresh token's life promises that renewing extends it
        if let Some(life) = refresh_lifetime {
            let before_it_dies = policy::renew_at(&self.policy, start, life, spread);
            if before_it_dies < at {
                at = before_it_dies;
                self.reason = Reason::BeforeRefreshTokenDies;
            }
        }
        self.earliest = self.spaced(now);
        self.schedule(at.max(start + policy::UNASKED_SPACING).max(self.earliest));
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
            Failure::Permanent(why) => {
                let why = if self.answer_lost && why == Why::Revoked { Why::Ambiguous } else { why };
                self.phase = Phase::SignInRequired { why };
                actions.push(Action::SetAside(why));
                #[cfg(test)]
                if self.faulty(super::tests::Fault::RetriesAfterRefusal) {
                    self.back_off(None, now);
                }
            }
        }
        #[cfg(test)]
        if self.faulty(super::tests::Fault::GivesUp) && matches!(failure, Failure::Transient { .. }) {
            self.phase = Phase::Scheduled { at: Timestamp::FAR };
        }
    }

    fn back_off(&mut self, retry_after: Option<Duration>, now: Timestamp) {
        let backoff = policy::backoff(self.failures, self.random.fraction());
        let (earliest, at) = policy::retry_times(now, backoff, retry_after);
        let spaced = self.spaced(now);
        self.earliest = earliest.max(spaced);
        self.reason = Reason::Retry;
        self.schedule(at.max(spaced));
    }

    fn schedule(&mut self, at: Timestamp) {
        self.phase = Phase::Scheduled { at };
    }

    fn forget_credential(&mut self, actions: &mut Vec<Action>) {
        #[cfg(test)]
        if self.faulty(super::tests::Fault::KeepsTheOldToken) {
            self.last_start = None;
            return;
        }
        self.withdraw(actions);
        self.last_start = None;
        self.earliest = Timestamp::default();
        self.failures = 0;
        self.answer_lost = false;
        self.refresh_expires_at = None;
        self.distrust = None;
    }

    #[cfg(test)]
    fn faulty(&self, fault: super::tests::Fault) -> bool {
        self.fault == Some(fault)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): spreads renewals; nothing secret hangs on it.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    /// In 0..1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
