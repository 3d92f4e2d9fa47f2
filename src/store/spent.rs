//! Which refresh tokens a login has spent and has others for by now. A server that rotates takes a second presentation of one
//! for a theft, and ends the login (RFC 6819 section 5.2.2.3, RFC 9700 section 4.14.2): whoever hands one in is told so, and
//! it is sent nowhere. Kept as marks, which say nothing of the tokens.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// So many marks are kept: ten days of a token an hour, in 4 KiB.
const KEPT: usize = 256;

/// The spent refresh tokens of an account.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Spent {
    /// The one that this sign-in began with, which other programs' files may hold for ever: kept whatever comes later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    /// The latest of the others, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    later: Vec<String>,
}

impl Spent {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.later.is_empty()
    }

    /// Notes that a token was spent, and that `newest` has taken its place, which is not spent whatever was noted before.
    pub(crate) fn note(&mut self, token: &Secret, newest: &Secret) {
        let mark = token.mark();
        if !self.holds(token) {
            match &self.first {
                None => self.first = Some(mark),
                Some(_) => self.later.push(mark),
            }
        }
        let is_newest = |mark: &String| *mark == newest.mark();
        self.first.take_if(|mark| is_newest(mark));
        self.later.retain(|mark| !is_newest(mark));
        self.later.drain(..self.later.len().saturating_sub(KEPT - 1));
    }

    /// Those of the next sign-in at the same server: what was spent before stays so.
    pub(crate) fn of_the_next_sign_in(mut self) -> Self {
        self.later.extend(self.first.take());
        self
    }

    /// Whether a token was spent.
    pub(crate) fn holds(&self, token: &Secret) -> bool {
        let mark = token.mark();
        self.first.iter().chain(&self.later).any(|spent| *spent == mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: usize) -> Secret {
        Secret::new(format!("r{number}"))
    }

    #[test]
    fn the_first_of_a_sign_in_and_the_latest_are_kept_and_no_more() {
        let mut spent = Spent::default();
        for number in 0..2 * KEPT {
            spent.note(&token(number), &token(number + 1));
        }
        let last = 2 * KEPT - 1;
        let rows = [(0, true), (1, false), (last - KEPT + 1, false), (last - KEPT + 2, true), (last, true)];
        for (number, is_kept) in rows {
            assert_eq!(spent.holds(&token(number)), is_kept, "{number}");
        }
        assert!(!spent.holds(&token(last + 1)), "the newest is not spent");
        let mut spent = spent.of_the_next_sign_in();
        spent.note(&Secret::new("n1"), &Secret::new("n2"));
        assert_eq!(spent.first, Some(Secret::new("n1").mark()));
        assert!(spent.holds(&token(0)) && spent.holds(&token(last)), "those of the last sign-in stay spent");
    }

    #[test]
    fn a_token_that_comes_back_as_the_newest_is_not_spent() {
        let mut spent = Spent::default();
        spent.note(&token(1), &token(2));
        spent.note(&token(2), &token(1));
        assert!(spent.holds(&token(2)) && !spent.holds(&token(1)));
    }
}
