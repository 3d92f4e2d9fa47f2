//! Which 401s bring a renewal about, and when.
//!
//! A 401 may speak of the token, which has ended or was revoked, or of the place that it came from, which likes none. So
//! the mood belongs to the [`Place`] that has shown it, and says nothing of others:
//!
//! * A place that has taken a token since it last refused one is believed at once.
//! * A place that has refused a token and its successor, and taken none since, brings a renewal about ten minutes later at
//!   the soonest, and twice as long after each further one, up to six hours.
//! * A place of which nothing is known is believed, too, but out of a budget of its own: where each of many paths always
//!   says 401, those that take tokens lose nothing by it.
//! * Renewals that 401s bring about are counted, but for those that the life of the tokens explains. Six are free; then
//!   each waits twice as long as the one before, from five seconds to ten minutes, until time or the tokens' lives have
//!   brought some back. An upstream that says 401 at random costs its clients 401s, not its authorization server a storm.

use std::time::Duration;

use super::{Place, RenewalId, policy};
use crate::timestamp::Timestamp;

/// So many places are known for their moods; of more, the oldest is forgotten, and is a stranger again.
const MOST_MOODS: usize = 64;

/// What is known of 401s, and of what became of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals {
    moods: Vec<Mood>,
    familiar: Budget,
    strange: Budget,
    /// The last that has brought a renewal about, or will.
    last: Option<Refusal>,
    /// The one before it, whose replay may still be under way.
    before: Option<Refusal>,
}

/// A place whose 401 has brought a renewal about.
#[derive(Clone, Copy, Debug)]
struct Mood {
    place: Place,
    /// The last token that it refused, as far as is known.
    refused: RenewalId,
    since: Timestamp,
    times: u32,
}

/// What a place's 401 is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It has taken a token since it last refused one.
    Familiar,
    /// Nothing is known of it.
    Strange,
    /// It has refused a token and has taken none since.
    Moody,
}

/// A 401 that has brought a renewal about, or will, and what became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// The token that it was said to.
    pub(super) token: RenewalId,
    /// When that began to live.
    pub(super) start: Timestamp,
    /// When the 401 came.
    pub(super) at: Timestamp,
    pub(super) place: Place,
    pub(super) standing: Standing,
    pub(super) is_life_stated: bool,
    pub(super) was_trial: bool,
    /// Its request waits for the next token, and what becomes of it is told.
    pub(super) is_waiting: bool,
    /// Its renewal starts no sooner.
    pub(super) permitted: Timestamp,
    /// The next token was taken: this one had ended.
    pub(super) is_healed: bool,
    /// The next token was refused there, too.
    pub(super) is_mood: bool,
}

impl Refusals {
    /// What a place's 401 is worth, and when it may bring a renewal about. `worked` is the last token that the place has
    /// taken, if one is remembered; `is_explained`, whether tokens are thought to end at this age.
    pub(super) fn judge(
        &mut self,
        place: Place,
        worked: Option<RenewalId>,
        is_explained: bool,
        now: Timestamp,
    ) -> (Standing, Timestamp) {
        let (standing, from) = match self.moods.iter().position(|mood| mood.place == place) {
            Some(at) if worked.is_some_and(|id| id >= self.moods[at].refused) => {
                self.moods.swap_remove(at);
                (Standing::Familiar, now)
            }
            Some(at) => (Standing::Moody, self.moods[at].since + policy::mood(self.moods[at].times)),
            None if worked.is_some() => (Standing::Familiar, now),
            None => (Standing::Strange, now),
        };
        let permitted = if is_explained { now } else { self.budget(standing).permits() };
        (standing, from.max(permitted).max(now))
    }

    /// Takes note of a 401 that brings a renewal about. `refill` is the time in which one more of them is free.
    pub(super) fn note(&mut self, refusal: Refusal, is_explained: bool, refill: Duration) {
        let Refusal { place, token, permitted, standing, .. } = refusal;
        if !is_explained {
            self.budget(standing).charge(1.0, permitted, refill);
        }
        match self.moods.iter_mut().find(|mood| mood.place == place) {
            Some(mood) => *mood = Mood { refused: token, since: permitted, times: mood.times + 1, ..*mood },
            None => self.remember(Mood { place, refused: token, since: permitted, times: 1 }),
        }
        self.before = self.last.replace(refusal);
    }

    /// The refusal of this token, if it has brought its renewal about.
    pub(super) fn of(&self, token: RenewalId) -> Option<&Refusal> {
        self.last.as_ref().filter(|refusal| refusal.token == token)
    }

    /// When a token that was refused began to live, if that is still known.
    pub(super) fn start_of(&mut self, token: RenewalId) -> Option<Timestamp> {
        self.known(token).map(|refusal| refusal.start)
    }

    /// Has the renewal of the last refusal start as soon as it may for another place's.
    pub(super) fn hasten(&mut self, permitted: Timestamp) -> Timestamp {
        let Some(refusal) = &mut self.last else { return permitted };
        refusal.permitted = refusal.permitted.min(permitted);
        refusal.permitted
    }

    /// Takes note that a request was taken that had been sent again with the successor of a token. Returns the refusal of
    /// that, if this is what heals it.
    pub(super) fn accepted(&mut self, refused: RenewalId, place: Place) -> Option<Refusal> {
        self.moods.retain(|mood| mood.place != place || mood.refused > refused);
        let refusal = self.known(refused).filter(|refusal| !refusal.is_healed)?;
        refusal.is_healed = true;
        Some(*refusal)
    }

    /// Takes note that such a request was refused again, by a token so young that it cannot have ended.
    pub(super) fn refused_again(&mut self, refused: RenewalId, place: Place, now: Timestamp, refill: Duration) {
        let next = RenewalId(refused.0 + 1);
        match self.moods.iter_mut().find(|mood| mood.place == place) {
            Some(mood) => mood.refused = mood.refused.max(next),
            None => self.remember(Mood { place, refused: next, since: now, times: 1 }),
        }
        let is_news = self.known(refused).is_some_and(|refusal| {
            let was_known = std::mem::replace(&mut refusal.is_mood, true);
            !was_known && refusal.standing != Standing::Familiar
        });
        if is_news {
            // it has helped nobody, and there may be many such places
            self.strange.charge(2.0, now, refill);
        }
    }

    /// Takes note that a token was taken at this age. Returns the refusal of the one before it, if this is what heals it:
    /// one whose request could not be sent again, of the same route, with a token that is younger than that was.
    pub(super) fn worked(&mut self, id: RenewalId, place: Place, age: Duration) -> Option<Refusal> {
        let refusal = self.last.as_mut().filter(|refusal| {
            let is_open = refusal.token < id && !refusal.is_healed && !refusal.is_waiting;
            is_open && refusal.standing != Standing::Moody && refusal.place.route == place.route
        })?;
        if age >= refusal.at.since(refusal.start).max(super::life::SHORTEST_LIFE) {
            return None;
        }
        refusal.is_healed = true;
        Some(*refusal)
    }

    fn known(&mut self, token: RenewalId) -> Option<&mut Refusal> {
        [&mut self.last, &mut self.before].into_iter().flatten().find(|refusal| refusal.token == token)
    }

    fn budget(&mut self, standing: Standing) -> &mut Budget {
        match standing {
            Standing::Familiar => &mut self.familiar,
            Standing::Strange | Standing::Moody => &mut self.strange,
        }
    }

    fn remember(&mut self, mood: Mood) {
        if self.moods.len() >= MOST_MOODS
            && let Some((oldest, _)) = self.moods.iter().enumerate().min_by_key(|(_, mood)| mood.since)
        {
            self.moods.swap_remove(oldest);
        }
        self.moods.push(mood);
    }
}

/// How many renewals 401s have brought about lately.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    spent: f64,
    /// When that was so.
    at: Timestamp,
    refill: Duration,
}

impl Budget {
    /// When the next one is permitted.
    fn permits(&self) -> Timestamp {
        self.at + policy::pause(self.spent, self.refill)
    }

    fn charge(&mut self, cost: f64, now: Timestamp, refill: Duration) {
        let regained = now.since(self.at).div_duration_f64(refill.max(Duration::from_millis(1)));
        *self = Self { spent: (self.spent - regained).max(0.0) + cost, at: now.max(self.at), refill };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_millis(1_000_000);
    const SECOND: Duration = Duration::from_secs(1);
    const REFILL: Duration = policy::LONGEST_REFILL;

    fn place(resource: u32) -> Place {
        Place { route: 1, resource }
    }

    /// 401s of one token after the other, each second of an hour, from a place each. Returns when renewals began.
    fn renewals(place_of: impl Fn(u64) -> Place, is_familiar: bool, is_healed: bool) -> Vec<u64> {
        let (mut refusals, mut renewals) = (Refusals::default(), Vec::new());
        for second in 0..3600 {
            let (now, token, place) = (T0 + second as u32 * SECOND, RenewalId(renewals.len() as u64), place_of(second));
            let worked = is_familiar.then_some(token);
            let (standing, permitted) = refusals.judge(place, worked, false, now);
            if permitted > now {
                continue;
            }
            renewals.push(second);
            let refusal = Refusal {
                token,
                start: now,
                at: now,
                place,
                standing,
                is_life_stated: false,
                was_trial: false,
                is_waiting: true,
                permitted,
                is_healed: false,
                is_mood: false,
            };
            refusals.note(refusal, false, REFILL);
            match is_healed {
                true => drop(refusals.accepted(token, place)),
                false => refusals.refused_again(token, place, now, REFILL),
            }
        }
        renewals
    }

    #[test]
    fn an_upstream_that_always_says_401_costs_a_renewal_every_ten_minutes_and_fewer() {
        assert_eq!(renewals(|_| place(1), false, false), [0, 600, 1800]);
    }

    #[test]
    fn one_whose_every_path_says_401_costs_hardly_more() {
        let renewals = renewals(|second| place(second as u32), false, false);
        assert!((3..=12).contains(&renewals.len()), "{renewals:?}");
    }

    #[test]
    fn one_that_says_401_at_random_has_six_renewals_and_then_fewer_and_fewer() {
        let renewals = renewals(|_| place(1), true, true);
        assert_eq!(renewals[..6], [0, 1, 2, 3, 4, 5]);
        let apart: Vec<u64> = renewals[5..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((5..=6).contains(&apart[0]) && apart.is_sorted() && *apart.last().unwrap() >= 300, "{apart:?}");
        assert!(renewals.iter().filter(|second| **second < 600).count() <= 13, "{renewals:?}");
    }

    #[test]
    fn a_place_that_takes_tokens_is_believed_beside_any_number_of_others() {
        let mut refusals = Refusals::default();
        for other in 10..200 {
            refusals.refused_again(RenewalId(1), place(other), T0, REFILL);
            refusals.strange.charge(3.0, T0, REFILL);
        }
        assert!(refusals.moods.len() <= MOST_MOODS);
        assert_eq!(refusals.judge(place(1), Some(RenewalId(1)), false, T0), (Standing::Familiar, T0));
        assert!(refusals.judge(place(2), None, false, T0).1 > T0);
        let shown = refusals.judge(place(199), Some(RenewalId(1)), false, T0);
        assert_eq!(shown.0, Standing::Moody, "it took one before, and none since");
        assert_eq!(refusals.judge(place(199), Some(RenewalId(2)), false, T0), (Standing::Familiar, T0));
    }
}
