//! The life of access tokens whose answers state none (RFC 6749 section 5.1 only recommends it), learnt from their ends.
//!
//! An end is a 401 to a token whose successor was then taken: an upper bound of its life, or a revocation. So a life is
//! learnt from two ends that agree, never from one. It is a claim that no token outlives it: the first that does refutes
//! it, and what is assumed counts again. As tokens are renewed before the end, one in so many is let run to it.

use std::time::Duration;

/// A token that was refused sooner than this was revoked, or refused for another reason: no life is so short, and what
/// would be learnt from it is a storm.
pub(crate) const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// So many tokens are renewed early before one is let run to its end, at first; twice as many after each that confirms
/// what was learnt.
const FIRST_TRIAL: u32 = 8;

/// Once in so many lives at the least, an end is waited for: a server whose tokens live longer now is asked too often
/// for no longer than this many lives.
const LATEST_TRIAL: u32 = 64;

/// What is known of the life of an account's access tokens, beyond what their answers state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LearntLife {
    life: Option<Duration>,
    /// The last end that nothing agreed with, shorter than what is learnt.
    lone_end: Option<Duration>,
    /// How many tokens are renewed early between two trials.
    patience: u32,
    /// How many have been since the last.
    renewed_early: u32,
}

impl LearntLife {
    /// What an earlier process has learnt, if anything.
    pub(crate) fn known(life: Option<Duration>) -> Self {
        Self { life, lone_end: None, patience: FIRST_TRIAL, renewed_early: 0 }
    }

    /// The learnt life.
    pub(crate) fn life(&self) -> Option<Duration> {
        self.life
    }

    /// Takes note that a token has come. Returns whether it is a trial: one that is not renewed before its learnt end.
    pub(crate) fn begins(&mut self) -> bool {
        let is_trial = self.life.is_some() && self.renewed_early >= self.patience;
        self.renewed_early = if is_trial { 0 } else { self.renewed_early.saturating_add(1) };
        is_trial
    }

    /// Takes note that a token ended at this age, or before, and whether it was a trial.
    pub(crate) fn ended(&mut self, age: Duration, was_trial: bool) {
        if age < SHORTEST_LIFE {
            return;
        }
        if was_trial && self.life.is_some_and(|life| agree(life, age)) {
            self.patience = (self.patience * 2).min(LATEST_TRIAL);
        }
        if self.life.is_some_and(|life| age >= life) {
            return; // nobody looked at the moment of its end
        }
        match self.lone_end.take() {
            Some(other) if agree(other, age) => {
                *self = Self { patience: self.patience, ..Self::known(Some(other.min(age))) };
            }
            Some(_) | None => self.lone_end = Some(age),
        }
    }

    /// Takes note that a token was good at this age.
    pub(crate) fn outlived(&mut self, age: Duration) {
        let refutes = |end: Duration| end < age && !agree(end, age);
        self.lone_end = self.lone_end.filter(|end| !refutes(*end));
        if self.life.is_some_and(refutes) {
            *self = Self::known(None);
        }
    }

    /// Whether a token of this age is thought to have ended, or to be about to.
    pub(crate) fn is_end_near(&self, age: Duration) -> bool {
        self.life.is_some_and(|life| age >= life || agree(life, age))
    }
}

/// Ends agree that differ by a quarter of the longer at the most: upstreams count in whole seconds, and an end is seen
/// when somebody asks.
fn agree(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) * 4 <= one.max(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn after(ends: &[f64]) -> Option<Duration> {
        let mut learnt = LearntLife::known(None);
        ends.iter().for_each(|end| learnt.ended(secs(*end), false));
        learnt.life()
    }

    #[test]
    fn a_life_is_learnt_from_two_ends_that_agree_and_never_from_one() {
        let table: [(&str, &[f64], Option<f64>); 10] = [
            ("none", &[], None),
            ("a revocation", &[600.0], None),
            ("two revocations", &[600.0, 20.0], None),
            ("two ends", &[6.0, 6.1], Some(6.0)),
            ("whole seconds", &[6.9, 6.0], Some(6.0)),
            ("a revocation in between", &[6.0, 2.0, 6.0, 6.1], Some(6.0)),
            ("refused at once, twice", &[0.1, 0.1], None),
            ("one more revocation", &[60.0, 60.0, 10.0], Some(60.0)),
            ("tokens that live shorter now", &[60.0, 60.0, 10.0, 10.0], Some(10.0)),
            ("an end that was seen late", &[6.0, 6.0, 600.0, 600.0], Some(6.0)),
        ];
        for (name, ends, expected) in table {
            assert_eq!(after(ends), expected.map(secs), "{name}");
        }
    }

    #[test]
    fn single_revocations_do_not_wear_a_life_down() {
        let mut learnt = LearntLife::known(Some(secs(100.0)));
        for end in [90.0, 60.0, 40.0, 25.0, 15.0] {
            learnt.ended(secs(end), false);
            assert_eq!(learnt.life(), Some(secs(100.0)), "after {end}");
        }
    }

    #[test]
    fn a_token_that_outlives_what_was_learnt_refutes_it() {
        let mut learnt = LearntLife::known(Some(secs(6.0)));
        learnt.outlived(secs(5.0));
        learnt.outlived(secs(6.5));
        assert_eq!(learnt.life(), Some(secs(6.0)), "ends that agree are one");
        learnt.outlived(secs(8.1));
        assert_eq!(learnt.life(), None);
    }

    #[test]
    fn a_lone_end_is_forgotten_with_a_token_that_was_good_at_that_age() {
        let mut learnt = LearntLife::known(None);
        learnt.ended(secs(6.0), false);
        learnt.outlived(secs(60.0));
        learnt.ended(secs(6.0), false);
        assert_eq!(learnt.life(), None);
    }

    #[test]
    fn trials_become_rarer_with_each_that_confirms() {
        let mut learnt = LearntLife::known(Some(secs(6.0)));
        let mut trials = Vec::new();
        for number in 0..200 {
            if learnt.begins() {
                trials.push(number);
                learnt.ended(secs(6.1), true);
            }
        }
        assert_eq!(trials, [8, 25, 58, 123, 188]);
        assert!(!LearntLife::known(None).begins(), "there is nothing to try");
    }

    #[test]
    fn an_age_at_which_ends_are_expected_is_told_from_one_at_which_they_are_not() {
        let mut learnt = LearntLife::known(None);
        assert!(!learnt.is_end_near(secs(1e6)), "nothing is known");
        learnt.ended(secs(6.0), false);
        assert!(!learnt.is_end_near(secs(6.0)), "one end is none");
        learnt.ended(secs(6.0), false);
        assert_eq!([3.0, 5.0, 60.0].map(|age| learnt.is_end_near(secs(age))), [false, true, true]);
    }
}
