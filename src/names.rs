//! What is said of a name that nothing has: that there is none, which was probably meant, and which there are. Pure.

use std::fmt;

/// A name that was asked for in vain. Shows as a sentence: `no route is named "gdbx" (did you mean "gbdx"?)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UnknownName<'a> {
    what: &'static str,
    asked: &'a str,
    known: Vec<&'a str>,
}

impl<'a> UnknownName<'a> {
    /// `what` is a noun whose plural is made with an s: `account`.
    pub(crate) fn new(what: &'static str, asked: &'a str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self { what, asked, known: known.into_iter().collect() }
    }

    /// `the routes are: gbdx, gdh`; `None` if there is none.
    pub(crate) fn choice(&self) -> Option<String> {
        let Self { what, asked: _, known } = self;
        (!known.is_empty()).then(|| format!("the {what}s are: {}", known.join(", ")))
    }
}

impl fmt::Display for UnknownName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, asked, known } = self;
        write!(f, "no {what} is named {asked:?}")?;
        match did_you_mean(asked, known.iter().copied()) {
            Some(question) => write!(f, " ({question})"),
            None => Ok(()),
        }
    }
}

/// `did you mean "gbdx"?`, if one of the candidates was probably meant.
pub(crate) fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    nearest(word, candidates).map(|near| format!("did you mean {near:?}?"))
}

/// The candidate that was probably meant: few letters were left out, added, exchanged or swapped.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    let tolerated = |candidate: &str| 1 + candidate.len().min(word.len()) / 4;
    let close = candidates.into_iter().filter(|candidate| distance(candidate) <= tolerated(candidate));
    close.min_by_key(|candidate| distance(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        assert_eq!(nearest("upstraem", ["account", "upstream"]), Some("upstream"));
        assert_eq!(nearest("wrok", ["work", "home"]), Some("work"));
        assert_eq!(nearest("banana", ["work", "home"]), None);
    }

    #[test]
    fn a_name_that_nothing_has_is_said_with_those_that_there_are() {
        let rows: [(&str, &[&str], &str, Option<&str>); 4] = [
            ("gdbx", &["gbdx", "gdh"], "(did you mean \"gbdx\"?)", Some("the routes are: gbdx, gdh")),
            ("lab", &["gbdx"], "no route is named \"lab\"", Some("the routes are: gbdx")),
            ("lab", &[], "no route is named \"lab\"", None),
            ("a\x1b", &[], "no route is named \"a\\u{1b}\"", None),
        ];
        for (asked, known, end, choice) in rows {
            let unknown = UnknownName::new("route", asked, known.iter().copied());
            assert!(unknown.to_string().ends_with(end), "{unknown}");
            assert_eq!(unknown.choice().as_deref(), choice, "{asked:?}");
        }
    }
}
