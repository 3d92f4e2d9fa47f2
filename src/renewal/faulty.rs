//! The machine with a mistake in it, to see that the histories notice: what it is told and what it says pass through here.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::machine::{self, Owed};
use super::{Action, Event, Failure, NotSaved, Phase, Policy, RenewalId};
use crate::timestamp::Timestamp;

/// A mistake that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    StartsWhileInFlight,
    NeverWithdraws,
    GivesUp,
    PublishesBeforeSaved,
    SpendsBeforeNoted,
    BelievesLateSaves,
    IgnoresStale,
    SpendsUnknowing,
    TakesForgottenAnswers,
    IgnoresSpacing,
    StartsEarly,
    RetriesAfterRefusal,
    KeepsTheOldToken,
    DistrustsWhatWasHealed,
}

/// A [`machine::Renewal`], with a mistake if one is planted.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    machine: machine::Renewal,
    pub(crate) fault: Option<Fault>,
}

impl Deref for Faulty {
    type Target = machine::Renewal;

    fn deref(&self) -> &machine::Renewal {
        &self.machine
    }
}

impl DerefMut for Faulty {
    fn deref_mut(&mut self) -> &mut machine::Renewal {
        &mut self.machine
    }
}

impl Faulty {
    /// A machine without a mistake yet.
    pub(crate) fn new(policy: Policy, seed: u64) -> Self {
        Self { machine: machine::Renewal::new(policy, seed), fault: None }
    }

    /// [`machine::Renewal::handle`], with the mistake.
    pub(crate) fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let Some(fault) = self.fault else { return self.machine.handle(event, now) };
        let is_of_credential = matches!(
            event,
            Event::CredentialReplaced { .. }
                | Event::CredentialRefused(_)
                | Event::CredentialDoubted { .. }
                | Event::CredentialRemoved
        );
        let is_in_flight = matches!((self.machine.phase, self.machine.owed), (Phase::InFlight { .. }, Owed::Answer));
        let published = self.machine.published;
        if fault == Fault::IgnoresSpacing {
            self.machine.policy.minimum_spacing = Duration::ZERO;
        }
        let told = self.told(fault, event);
        let mut actions = told.map(|event| self.machine.handle(event, now)).unwrap_or_default();
        match fault {
            Fault::StartsWhileInFlight if is_in_flight && event == Event::Wanted => {
                actions.push(Action::Renew(RenewalId(u64::MAX)));
            }
            Fault::NeverWithdraws if !is_of_credential => actions.retain(|action| *action != Action::Withdraw),
            Fault::GivesUp if matches!(event, Event::Failed { failure: Failure::Transient { .. }, .. }) => {
                if matches!(self.machine.phase, Phase::Scheduled { .. }) {
                    self.machine.phase = Phase::Scheduled { at: Timestamp::FAR };
                }
            }
            Fault::PublishesBeforeSaved | Fault::SpendsBeforeNoted => {
                let awaited = match (fault, self.machine.owed) {
                    (Fault::PublishesBeforeSaved, Owed::Save(save, _))
                    | (Fault::SpendsBeforeNoted, Owed::Note(save, _)) => {
                        self.machine.owed_save().filter(|s| *s == save)
                    }
                    _ => None,
                };
                if let Some(save) = awaited {
                    actions.splice(0..0, self.machine.handle(Event::Saved(save), now));
                }
            }
            Fault::StartsEarly if event == Event::Tick => {
                if let Phase::Scheduled { at } = &mut self.machine.phase
                    && now + Duration::from_secs(1) >= *at
                {
                    *at = now;
                    actions.extend(self.machine.handle(Event::Tick, now));
                }
            }
            Fault::RetriesAfterRefusal if actions.iter().any(|action| matches!(action, Action::SetAside(_))) => {
                self.machine.phase = Phase::Scheduled { at: now + Duration::from_secs(1) };
            }
            Fault::KeepsTheOldToken if is_of_credential => {
                actions.retain(|action| *action != Action::Withdraw);
                self.machine.published = published;
            }
            _ => {}
        }
        actions
    }

    /// What the machine is told in the place of an event.
    fn told(&mut self, fault: Fault, event: Event) -> Option<Event> {
        match (fault, event) {
            (Fault::TakesForgottenAnswers, Event::Renewed { .. } | Event::Failed { .. }) => {
                let id = match self.machine.phase {
                    Phase::InFlight { id } => id,
                    Phase::Scheduled { .. } => RenewalId(u64::MAX - 1),
                    Phase::SignInRequired { .. } => return Some(event),
                };
                (self.machine.phase, self.machine.owed) = (Phase::InFlight { id }, Owed::Answer);
                Some(match event {
                    Event::Renewed { lifetime, rotated, refresh_lifetime, retry_after, .. } => {
                        Event::Renewed { id, lifetime, rotated, refresh_lifetime, retry_after }
                    }
                    Event::Failed { failure, .. } => Event::Failed { id, failure },
                    other => other,
                })
            }
            (Fault::BelievesLateSaves, Event::Saved(save)) => {
                Some(Event::Saved(self.machine.owed_save().unwrap_or(save)))
            }
            (Fault::BelievesLateSaves, Event::NotSaved { save, reason }) => {
                Some(Event::NotSaved { save: self.machine.owed_save().unwrap_or(save), reason })
            }
            (Fault::IgnoresStale, Event::NotSaved { save, reason: NotSaved::Stale })
            | (Fault::SpendsUnknowing, Event::NotSaved { save, reason: NotSaved::Unknown }) => Some(Event::Saved(save)),
            (Fault::IgnoresStale, Event::Superseded)
            | (Fault::DistrustsWhatWasHealed, Event::Replayed { accepted: true, .. }) => None,
            (Fault::DistrustsWhatWasHealed, Event::Rejected { id, place, until, .. }) => {
                Some(Event::Rejected { id, place, worked: None, until })
            }
            (_, event) => Some(event),
        }
    }
}
