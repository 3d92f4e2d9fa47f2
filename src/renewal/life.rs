//! The life of access tokens whose answers state none (RFC 6749 section 5.1 only recommends it), learnt from their ends.
//!
//! An end is a 401 to a token whose successor was then taken: an upper bound of its life, or a revocation, or the word of
//! an upstream that says 401 at random. So a life is learnt
//!
//! * from two ends in a row that agree, from four where it is shorter than a minute, and from more where what was learnt
//!   before was refuted;
//! * only from ends at an age that none of the last tokens has outlived.
//!
//! It is a claim that no token outlives it: the first that does refutes it, and what is assumed counts again. As tokens
//! are renewed before the end, one in so many is let run to it.

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

/// A life that is shorter than this takes four ends: what is learnt falsely costs a call in each.
const SHORT_LIFE: Duration = Duration::from_secs(60);

/// Upstreams count in whole seconds.
const WHOLE_SECONDS: Duration = Duration::from_secs(1);

/// So many more ends does a life take at the most after others were refuted.
const MOST_DOUBT: u32 = 3;

/// The token in hand, the one that has ended, and two before it.
const REMEMBERED: usize = 4;

/// What is known of the life of an account's access tokens, beyond what their answers state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LearntLife {
    life: Option<Duration>,
    /// The last ends that agree, shorter than what is learnt, but too few: the shortest, and how many.
    ends: Option<(Duration, u32)>,
    /// The ages at which the last tokens were seen to be good, the one in hand first.
    good_at: [Duration; REMEMBERED],
    /// How often what was learnt has been refuted.
    refuted: u32,
    /// How many tokens are renewed early between two trials.
    patience: u32,
    /// How many have been since the last.
    renewed_early: u32,
}

impl LearntLife {
    /// What an earlier process has learnt, if anything.
    pub(crate) fn known(life: Option<Duration>) -> Self {
        let good_at = [Duration::ZERO; REMEMBERED];
        Self { life, ends: None, good_at, refuted: 0, patience: FIRST_TRIAL, renewed_early: 0 }
    }

    /// The learnt life.
    pub(crate) fn life(&self) -> Option<Duration> {
        self.life
    }

    /// Takes note that a token has come. Returns whether it is a trial: one that is not renewed before its learnt end.
    pub(crate) fn begins(&mut self) -> bool {
        self.good_at.rotate_right(1);
        self.good_at[0] = Duration::ZERO;
        let is_trial = self.life.is_some() && self.renewed_early >= self.patience;
        self.renewed_early = if is_trial { 0 } else { self.renewed_early.saturating_add(1) };
        is_trial
    }

    /// Takes note that a token ended at this age, or before, and whether it was a trial.
    pub(crate) fn ended(&mut self, age: Duration, was_trial: bool) {
        if age < SHORTEST_LIFE {
            return;
        }
        if let Some(life) = self.life.filter(|_| was_trial) {
            if age + WHOLE_SECONDS >= life && agree(life, age) {
                self.patience = (self.patience * 2).min(LATEST_TRIAL);
            } else if age < life {
                self.renewed_early = self.patience; // this one was revoked, or there is no such life: the next one tells
            }
        }
        if self.life.is_some_and(|life| age >= life) {
            return; // nobody looked at the moment of its end
        }
        if self.good_at.iter().any(|good| refutes(*good, age)) {
            return; // it was revoked, or the upstream says 401 as it likes
        }
        let (end, times) = match self.ends {
            Some((end, times)) if agree(end, age) => (end.min(age), times + 1),
            Some(_) | None => (age, 1),
        };
        let needed = if end < SHORT_LIFE { 4 } else { 2 } + self.refuted;
        if times >= needed {
            *self = Self { life: Some(end), ends: None, renewed_early: 0, ..*self };
        } else {
            self.ends = Some((end, times));
        }
    }

    /// Takes note that the token in hand was good at this age.
    pub(crate) fn outlived(&mut self, age: Duration) {
        self.good_at[0] = self.good_at[0].max(age);
        self.ends = self.ends.filter(|(end, _)| !refutes(age, *end));
        if self.life.is_some_and(|life| refutes(age, life)) {
            let refuted = (self.refuted + 1).min(MOST_DOUBT);
            *self = Self { life: None, refuted, patience: FIRST_TRIAL, renewed_early: 0, ..*self };
        }
    }

    /// Whether a token of this age is thought to have ended, or to be about to.
    pub(crate) fn is_end_near(&self, age: Duration) -> bool {
        self.life.is_some_and(|life| age >= life || agree(life, age))
    }
}

/// Whether a token that was good at an age shows that no life ends at another.
fn refutes(good: Duration, end: Duration) -> bool {
    end < good && !agree(end, good)
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
    fn a_life_is_learnt_from_ends_that_agree_and_never_from_one() {
        let table: [(&str, &[f64], Option<f64>); 13] = [
            ("none", &[], None),
            ("a revocation", &[600.0], None),
            ("two revocations", &[600.0, 20.0], None),
            ("two ends", &[61.0, 62.0], Some(61.0)),
            ("three that are short", &[6.0, 6.1, 6.1], None),
            ("four that are short", &[6.0, 6.1, 6.1, 6.0], Some(6.0)),
            ("whole seconds", &[6.9, 6.0, 6.9, 6.0], Some(6.0)),
            ("a revocation in between", &[60.0, 20.0, 60.0, 61.0], Some(60.0)),
            ("refused at once, again and again", &[0.1, 0.1, 0.1, 0.1, 0.1], None),
            ("one more revocation", &[60.0, 60.0, 10.0], Some(60.0)),
            ("three", &[60.0, 60.0, 10.0, 10.0, 10.0], Some(60.0)),
            ("tokens that live shorter now", &[60.0, 60.0, 10.0, 10.0, 10.0, 10.0], Some(10.0)),
            ("an end that was seen late", &[60.0, 60.0, 600.0, 600.0], Some(60.0)),
        ];
        for (name, ends, expected) in table {
            assert_eq!(after(ends), expected.map(secs), "{name}");
        }
    }

    #[test]
    fn no_life_is_learnt_at_an_age_that_one_of_the_last_tokens_has_outlived() {
        for (outlived, learns) in [(7.0, true), (9.0, false)] {
            let mut learnt = LearntLife::known(None);
            for _ in 0..10 {
                for good in [5.9, outlived, 5.9] {
                    learnt.begins();
                    learnt.outlived(secs(good));
                    learnt.ended(secs(6.0), false);
                }
            }
            assert_eq!(learnt.life().is_some(), learns, "{outlived}");
        }
    }

    #[test]
    fn what_was_learnt_and_refuted_takes_more_ends() {
        let mut learnt = LearntLife::known(None);
        for needed in [2, 3, 4, 5, 5] {
            for number in 0..needed {
                assert_eq!(learnt.life(), None, "{number} of {needed}");
                let _ = [(); REMEMBERED].map(|()| learnt.begins());
                learnt.ended(secs(100.0), false);
            }
            assert!(learnt.life().is_some(), "{needed}");
            learnt.outlived(secs(200.0));
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
        learnt.ended(secs(61.0), false);
        learnt.outlived(secs(90.0));
        assert_eq!(learnt.ends, None);
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
    fn a_trial_that_ends_sooner_is_followed_by_another() {
        for (age, is_next) in [(3.0, true), (5.5, false), (6.1, false), (60.0, false)] {
            let mut learnt = LearntLife::known(Some(secs(6.0)));
            while !learnt.begins() {}
            learnt.begins();
            learnt.ended(secs(age), true);
            assert_eq!(learnt.begins(), is_next, "{age}");
        }
    }

    #[test]
    fn an_age_at_which_ends_are_expected_is_told_from_one_at_which_they_are_not() {
        let mut learnt = LearntLife::known(None);
        assert!(!learnt.is_end_near(secs(1e6)), "nothing is known");
        learnt.ended(secs(60.0), false);
        assert!(!learnt.is_end_near(secs(60.0)), "one end is none");
        learnt.ended(secs(60.0), false);
        assert_eq!([30.0, 50.0, 600.0].map(|age| learnt.is_end_near(secs(age))), [false, true, true]);
    }
}
