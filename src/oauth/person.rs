//! A person as a server tells them apart, and what is known when one signs in where another one is. Pure.

use serde::{Deserialize, Serialize};

/// A person as a server tells them apart: names and addresses change, and may be another's later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Person {
    /// The issuer of an ID token, or the origin that was asked.
    pub issuer: String,
    /// `sub`, or the provider's own id.
    pub subject: String,
}

/// Whose tokens are, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whose {
    /// The person.
    pub person: Option<Person>,
    /// The name that people know, if it was asked for.
    pub name: Option<String>,
    /// Why the server that knows the person has not told, for people: "api.example answered 500". It may tell later.
    pub unnamed: Option<String>,
}

/// Who comes, compared with who is signed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    /// It is the same person.
    Same,
    /// The same issuer names somebody else.
    Another,
    /// Two issuers name one each. A subject means nothing to another issuer (OpenID Connect Core section 5.7), so nobody
    /// can tell.
    OtherIssuer,
    /// It is known who is signed in, and not who comes.
    NobodyComes,
    /// It is not known who is signed in, so there is nobody to be mistaken for.
    NobodyIs,
}

impl Person {
    /// Compares who comes with who is signed in, as far as either is known.
    pub(crate) fn compare(is: Option<&Person>, comes: Option<&Person>) -> Comparison {
        match (is, comes) {
            (None, _) => Comparison::NobodyIs,
            (Some(_), None) => Comparison::NobodyComes,
            (Some(is), Some(comes)) if is.issuer != comes.issuer => Comparison::OtherIssuer,
            (Some(is), Some(comes)) if is.subject != comes.subject => Comparison::Another,
            (Some(_), Some(_)) => Comparison::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_apart_by_issuer_and_subject_and_by_nothing_else() {
        let person =
            |issuer: &str, subject: &str| Some(Person { issuer: issuer.to_owned(), subject: subject.to_owned() });
        let ada = || person("https://a.example", "1");
        let rows = [
            ("the same", ada(), ada(), Comparison::Same),
            ("another one", ada(), person("https://a.example", "2"), Comparison::Another),
            ("by another issuer", ada(), person("https://b.example", "2"), Comparison::OtherIssuer),
            ("the same subject of another issuer", ada(), person("https://b.example", "1"), Comparison::OtherIssuer),
            ("nobody knows who comes", ada(), None, Comparison::NobodyComes),
            ("nobody knew who was", None, ada(), Comparison::NobodyIs),
            ("nobody knows anything", None, None, Comparison::NobodyIs),
        ];
        for (case, is, comes, expected) in rows {
            assert_eq!(Person::compare(is.as_ref(), comes.as_ref()), expected, "{case}");
        }
    }
}
