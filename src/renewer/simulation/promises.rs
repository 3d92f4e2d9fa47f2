//! What the daemon promises, and what keeps it.

use std::fmt;

use crate::renewal::Fault;

/// What keeps a promise, and can be switched off to see which one breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Measure {
    /// A rotated refresh token is saved before its grant is published.
    SaveBeforePublish,
    /// It is noted in the store that a refresh token is about to be spent.
    NoteBeforeUse,
    /// What spends it waits until that is noted.
    WaitForNote,
    /// What the store says late, of an earlier save or of a replaced credential, is nobody's.
    SaveIdCheck,
    /// A store that holds a later credential is believed.
    HeedStale,
    /// Nothing is spent while nobody knows what the store holds.
    KnowBeforeSpending,
    /// A response that nobody waits for any more changes nothing.
    IdCheck,
    /// Two starts keep their distance.
    Spacing,
    /// The time line follows the clock that says that more time has passed.
    TwoClocks,
    /// Only a well-formed refusal is a verdict, whatever the HTTP status.
    VerdictByCode,
    /// While a response is owed, the same credential is not spent again.
    OneGrant,
    /// A place that has taken a token, before a 401 or after it, is believed when it refuses one.
    TrustAfterHealing,
}

impl Measure {
    /// The mistake of the machine that it is to be without the measure, if it is one of the machine's.
    pub(super) fn fault(self) -> Option<Fault> {
        match self {
            Measure::SaveBeforePublish => Some(Fault::PublishesBeforeSaved),
            Measure::WaitForNote => Some(Fault::SpendsBeforeNoted),
            Measure::SaveIdCheck => Some(Fault::BelievesLateSaves),
            Measure::HeedStale => Some(Fault::IgnoresStale),
            Measure::KnowBeforeSpending => Some(Fault::SpendsUnknowing),
            Measure::Spacing => Some(Fault::IgnoresSpacing),
            Measure::TrustAfterHealing => Some(Fault::DistrustsWhatWasHealed),
            Measure::NoteBeforeUse
            | Measure::IdCheck
            | Measure::TwoClocks
            | Measure::VerdictByCode
            | Measure::OneGrant => None,
        }
    }
}

/// What the daemon promises, whatever happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Promise {
    ValidWhileValid,
    NothingForgotten,
    SavedBeforePublished,
    NotedBeforeSpent,
    NoLoginLost,
    HonestVerdict,
    OneGrantAtATime,
    NoStorm,
    EveryWaitEnds,
    UsableAgain,
    Healed,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::ValidWhileValid => "no request is given a token past its end",
            Promise::NothingForgotten => "nothing of a replaced or removed credential is used",
            Promise::SavedBeforePublished => {
                "a refresh token is saved before its grant is published, or said not to be"
            }
            Promise::NotedBeforeSpent => "that a credential is being spent is saved before, or said not to be",
            Promise::NoLoginLost => "no login is lost unless the server ended it",
            Promise::HonestVerdict => "a person is told truly why they must sign in",
            Promise::OneGrantAtATime => "a credential is spent once at a time",
            Promise::NoStorm => "a server is asked no more often than the settings and itself allow",
            Promise::EveryWaitEnds => "every wait ends",
            Promise::UsableAgain => "when the faults end, every living login is usable again",
            Promise::Healed => "no client is told of the end of a token whose life the server does not state",
        })
    }
}

/// A promise that a history has broken, and how.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) promise: Promise,
    pub(super) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken promise: {}: {}", self.promise, self.how)
    }
}

/// What histories add up to.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) histories: u64,
    pub(super) grants: u64,
    pub(super) rotations: u64,
    pub(super) answers_lost: u64,
    pub(super) kills: u64,
    pub(super) served: u64,
    pub(super) sign_ins: u64,
    /// Logins that ended because a server without grace had rotated and its response never arrived. All were reported as
    /// ambiguous.
    pub(super) unavoidable_losses: u64,
    /// Logins that a server or a person ended.
    pub(super) revocations: u64,
    pub(super) saves_slow: u64,
    pub(super) saves_failed: u64,
    /// Of those: they had been carried out.
    pub(super) saves_done_but_failed: u64,
    /// Somebody else's credential was in the store.
    pub(super) saves_stale: u64,
    pub(super) rotations_elsewhere: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Tally) {
        let Tally { histories, grants, rotations, answers_lost, kills, served, sign_ins, .. } = other;
        self.histories += histories;
        self.grants += grants;
        self.rotations += rotations;
        self.answers_lost += answers_lost;
        self.kills += kills;
        self.served += served;
        self.sign_ins += sign_ins;
        self.unavoidable_losses += other.unavoidable_losses;
        self.revocations += other.revocations;
        self.saves_slow += other.saves_slow;
        self.saves_failed += other.saves_failed;
        self.saves_done_but_failed += other.saves_done_but_failed;
        self.saves_stale += other.saves_stale;
        self.rotations_elsewhere += other.rotations_elsewhere;
    }
}
