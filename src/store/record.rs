//! What is stored of one account, and where its credential may be sent.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spent::Spent;
use crate::config::{Account, AccountId, Origin, provider};
use crate::oauth::{Comparison, Grant, GrantType, Person};
use crate::renewal::Why;
use crate::secret::Secret;

/// What is stored of one account. Times are Unix seconds by the wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Whose.
    pub account: AccountId,
    /// Grows by one with every new credential; a file is never replaced by one with a lower number.
    pub generation: u64,
    /// The client that the refresh token was issued to: another one cannot use it.
    pub client_id: Option<String>,
    /// The origin of the token endpoint that issued it.
    pub issued_by: String,
    /// The origins of the other endpoints that it may be sent to; `None` in a record of a valetd that did not note them.
    pub others: Option<Vec<String>>,
    /// What signs in without a person.
    pub credential: Credential,
    /// When this credential was received.
    pub received_at: u64,
    /// When the refresh token is expected to die, if anything is known of it.
    pub refresh_expires_at: Option<u64>,
    /// Who is signed in, as far as the server told (`sub`, `email` or user name).
    pub identity: Option<String>,
    /// The same for good, if that was told.
    pub person: Option<Person>,
    /// How long access tokens live whose answers do not state it, in milliseconds, if that was learnt.
    pub learnt_life: Option<u64>,
    /// Whether its server was found to rotate refresh tokens, where the configured dialect does not.
    pub rotates: bool,
    /// Whether the last renewal has left the refresh token as it was: its server is not known to rotate.
    pub unrotated: bool,
    /// Set before the refresh token is spent, cleared by the response: a record loaded with it set means that a response
    /// may have been lost.
    pub redeeming: bool,
    /// The server's last word on this credential, if it was a refusal. The credential is kept, but not used.
    pub set_aside: Option<SetAside>,
    /// How long the sign-in was given; without an end if nothing was said.
    pub term: Option<Term>,
    /// The refresh tokens that were spent for the one that is kept, and for those before it.
    pub spent: Spent,
}

/// A time that a sign-in was given: no token of it leaves after its end, and its credential is removed then. In Unix
/// seconds by the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Term {
    /// Its end.
    pub ends_at: u64,
    /// The latest time that its writer knew of. A wall clock that shows an earlier one was set back, which makes no term
    /// longer.
    pub seen_at: u64,
}

impl Term {
    /// One of `length` seconds from now on.
    pub(crate) fn beginning(unix_now: u64, length: u64) -> Self {
        Self { ends_at: unix_now.saturating_add(length), seen_at: unix_now }
    }

    /// What is left of it when the wall clock shows `unix_now`.
    pub(crate) fn left(&self, unix_now: u64) -> Duration {
        Duration::from_secs(self.ends_at.saturating_sub(unix_now.max(self.seen_at)))
    }

    /// Notes how much is left, as a clock that never runs backwards knows it.
    pub(crate) fn note(&mut self, left: Duration) {
        self.seen_at = self.seen_at.max(self.ends_at.saturating_sub(left.as_secs()));
    }
}

/// What signs in without a person. At least one of the two is there, except for grants that need neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credential {
    /// The refresh token.
    pub refresh_token: Option<Secret>,
    /// User name and password, only where the account says `keep_password`.
    pub password: Option<(String, Secret)>,
}

/// What a sign-in hands in.
#[derive(Clone, Debug)]
pub(crate) struct NewCredential {
    /// What signs in from now on.
    pub credential: Credential,
    /// The client that the refresh token was issued to, where it is not the configured one.
    pub client_id: Option<String>,
    /// The refresh token's life from now on, in seconds, if the server told it.
    pub refresh_lifetime: Option<u64>,
    /// Who signed in, as far as the server told.
    pub identity: Option<String>,
    /// The same for good, if that was told.
    pub person: Option<Person>,
    /// Why the server that knows the person has not told who it is, for people. It may tell later.
    pub unnamed: Option<String>,
    /// Whether it may take the place of another person's.
    pub switches_user: bool,
    /// The scopes that were asked for and not granted: for the person who signs in, and not stored.
    pub missing_scopes: Vec<String>,
    /// The servers that were configured where the person signed in, if that is known: the account as it is saved may
    /// name others by now.
    pub servers: Option<Servers>,
    /// Whether it is tried before it takes the place of what is stored.
    pub trial: Trial,
    /// How long the sign-in is good for, in seconds; without an end if nothing is said.
    pub term: Option<u64>,
    /// The refresh token that its trial has spent for it, if it has.
    pub spent: Option<Secret>,
    /// The person's sign-in that has brought it ([`super::Turn::id`]), if one has: a sign-out in between makes it void.
    pub sign_in: Option<String>,
}

/// Whether a credential that is handed in is tried (one renewal) before it takes the place of what is stored. What the
/// server refuses in a trial never does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trial {
    /// Only what has worked takes the place of what is stored. Where nothing is stored, as [`Trial::Preferred`].
    #[default]
    Required,
    /// Only what has worked is taken, also where nothing is stored: something else is at hand that is as good.
    Proven,
    /// What could not be tried is taken all the same: the server has just issued it, and nobody else has it.
    Preferred,
    /// It is believed: there may be no network.
    Skipped,
}

/// The servers that a credential may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Servers {
    /// The token endpoint's origin.
    pub issued_by: String,
    /// The other endpoints' origins, each once, without that one.
    pub others: Vec<String>,
}

impl Servers {
    /// Those of an account as it is configured.
    pub(crate) fn of(account: &Account) -> Self {
        let mut origins = account.server.credential_endpoints().map(|(_, endpoint)| endpoint.origin.to_string());
        // as long as an issuer's metadata are not known, nothing may be sent anywhere: no origin is written like this
        let issued_by = origins.next().unwrap_or_default();
        let others: BTreeSet<String> = origins.filter(|origin| *origin != issued_by).collect();
        Self { issued_by, others: others.into_iter().collect() }
    }
}

impl Credential {
    /// What is presented to the authorization server by an account that renews with `grant`.
    pub(crate) fn grant(self, grant: GrantType) -> Grant {
        match (grant, self) {
            (GrantType::ClientCredentials, _) => Grant::ClientCredentials,
            (GrantType::Issued, _) => Grant::Issued,
            (GrantType::Password, Credential { password: Some((username, password)), .. }) => {
                Grant::Password { username, password, otp: None }
            }
            (_, Credential { refresh_token: Some(refresh_token), .. }) => Grant::RefreshToken(refresh_token),
            (_, Credential { password: Some((username, password)), .. }) => {
                Grant::Password { username, password, otp: None }
            }
            (_, Credential { refresh_token: None, password: None }) => Grant::ClientCredentials,
        }
    }
}

impl NewCredential {
    /// One of which nothing more is known than the servers that it may be sent to: those of the account. It is tried first.
    pub(crate) fn of(account: &Account, credential: Credential) -> Self {
        let servers = Some(Servers::of(account));
        let trial = Trial::Required;
        Self {
            credential,
            client_id: None,
            refresh_lifetime: None,
            identity: None,
            person: None,
            unnamed: None,
            switches_user: false,
            missing_scopes: Vec::new(),
            servers,
            trial,
            term: None,
            spent: None,
            sign_in: None,
        }
    }
}

/// A refusal that only a new sign-in can mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetAside {
    /// Why.
    pub why: Why,
    /// When.
    pub at: u64,
    /// The server's code, if it gave one.
    pub oauth_error: Option<String>,
}

impl Record {
    /// The record of a sign-in, which takes the place of `previous`. `saved` is the generation that the store has of the
    /// account, or 0: it may be a later one than that of `previous`. `unix_now` is the wall clock, in Unix seconds.
    pub(crate) fn succeeding(
        previous: Option<&Record>,
        saved: u64,
        account: &Account,
        new: NewCredential,
        unix_now: u64,
    ) -> Self {
        let generation = previous.map_or(0, |previous| previous.generation).max(saved) + 1;
        let spent_by_trial = new.spent.clone();
        let mut record = Self::new(account, generation, new, unix_now);
        // how long tokens live, and whether they rotate, is the server's doing, whoever signs in
        let same_server = |last: &&Record| last.issued_by == record.issued_by && last.client_id == record.client_id;
        if let Some(last) = previous.filter(same_server) {
            record.learnt_life = last.learnt_life;
            record.rotates = last.rotates;
            record.spent = last.spent.clone().of_the_next_sign_in();
            // the password that the account keeps is that person's, whichever way the same person signs in now
            let is_same = Person::compare(last.person.as_ref(), record.person.as_ref()) == Comparison::Same;
            if is_same && account.sign_in.keep_password && last.set_aside.is_none() {
                record.credential.password = record.credential.password.or_else(|| last.credential.password.clone());
            }
        }
        if let (Some(spent), Some(newest)) = (&spent_by_trial, &record.credential.refresh_token) {
            record.spent.note(spent, newest);
        }
        record
    }

    /// A record without a past. `unix_now` is the wall clock, in Unix seconds.
    pub(crate) fn new(account: &Account, generation: u64, new: NewCredential, unix_now: u64) -> Self {
        let NewCredential { credential, client_id, refresh_lifetime, identity, person, servers, term, .. } = new;
        let Servers { issued_by, others } = servers.unwrap_or_else(|| Servers::of(account));
        Self {
            account: account.id.clone(),
            generation,
            client_id: client_id.or_else(|| account.client_id.clone()),
            issued_by,
            others: Some(others),
            credential,
            received_at: unix_now,
            refresh_expires_at: refresh_lifetime.map(|life| unix_now.saturating_add(life)),
            identity,
            person,
            learnt_life: None,
            rotates: false,
            unrotated: false,
            redeeming: false,
            set_aside: None,
            term: term.map(|length| Term::beginning(unix_now, length)),
            spent: Spent::default(),
        }
    }

    /// Why a credential may not take the place of this one, as a sentence: it is another person's, or nobody can tell that it
    /// is not, and nobody has said that this is meant. The very token that is kept is nobody else's; and one that is believed
    /// untried is believed in this, too, as far as it names nobody.
    pub(crate) fn keeps_out(&self, new: &NewCredential) -> Option<String> {
        if new.switches_user || self.holds(new) {
            return None;
        }
        let comparison = Person::compare(self.person.as_ref(), new.person.as_ref());
        let is = self.person.as_ref().map(|person| shown(self.identity.as_ref(), person))?;
        let comes = new.person.as_ref().map(|person| shown(new.identity.as_ref(), person));
        let comes = comes.unwrap_or_default();
        let issuer = |person: &Option<Person>| person.as_ref().map(|it| it.issuer.clone()).unwrap_or_default();
        match comparison {
            // no verdict on who comes
            Comparison::NobodyComes | Comparison::OtherIssuer if new.unnamed.is_some() => {
                let why = new.unnamed.as_deref().unwrap_or_default();
                Some(format!(
                    "who signed in now could not be learnt ({why}), and {is} is signed in: nothing was changed; try \
                     again when it can be"
                ))
            }
            Comparison::Same | Comparison::NobodyIs => None,
            Comparison::NobodyComes if new.trial == Trial::Skipped => None,
            Comparison::Another => Some(format!("{comes} signed in now, and {is} is signed in: nothing was changed")),
            Comparison::OtherIssuer => Some(format!(
                "{comes} signed in now, says {}, and {is} is signed in, says {}; whether they are one person nobody can \
                 tell: nothing was changed",
                issuer(&new.person),
                issuer(&self.person)
            )),
            Comparison::NobodyComes => {
                Some(format!("the server does not tell who signed in now, and {is} is signed in: nothing was changed"))
            }
        }
    }

    /// [`Record::keeps_out`] before a trial, which may yet tell who comes.
    pub(crate) fn keeps_out_untried(&self, new: &NewCredential) -> Option<String> {
        let may_be_told = match new.trial {
            Trial::Required | Trial::Proven => new.person.is_none(),
            Trial::Preferred => new.unnamed.is_some(),
            Trial::Skipped => false,
        };
        if may_be_told { None } else { self.keeps_out(new) }
    }

    /// Whether this is the refresh token that is kept.
    pub(crate) fn holds(&self, new: &NewCredential) -> bool {
        new.credential.refresh_token.is_some() && self.credential.refresh_token == new.credential.refresh_token
    }

    /// Whether the refresh token that is handed in was spent for the one that is kept, or for one before it. What a server
    /// has just issued is believed.
    pub(crate) fn has_spent(&self, new: &NewCredential) -> bool {
        let token = new.credential.refresh_token.as_ref();
        new.trial != Trial::Preferred && !self.holds(new) && token.is_some_and(|token| self.spent.holds(token))
    }

    /// Whether the refresh token that is handed in for an account is of this sign-in, which is another account's at the same
    /// server: it was spent, or will be. Where it does not rotate, two accounts can have one.
    pub(crate) fn would_lose(&self, account: &Account, new: &NewCredential) -> bool {
        let issuer = account.server.token.as_ref().map(|token| token.origin.to_string());
        let is_same_server = issuer.is_some_and(|issuer| self.issued_by == issuer);
        let is_same_client = self.client_id == account.client_id;
        let will_be = new.trial != Trial::Preferred && self.holds(new) && (self.rotates || !self.spent.is_empty());
        is_same_server && is_same_client && (self.has_spent(new) || will_be)
    }

    /// Whether the account, as it is configured now, is the one that this was issued to: the same client, the same token
    /// endpoint's origin, and no endpoint that would be sent the credential on an origin that was not there then.
    pub(crate) fn was_issued_to(&self, account: &Account) -> bool {
        account.server.token.as_ref().is_some_and(|token| self.issued_by == token.origin.to_string())
            && self.client_id == account.client_id
            && account.server.credential_endpoints().all(|(_, endpoint)| self.may_be_sent_to(&endpoint.origin))
    }

    /// Who is signed in, if it is the account's server, as it is configured now, that has named that one: it counts people as it
    /// did, whichever client asks.
    pub(crate) fn person_at(&self, account: &Account) -> Option<&Person> {
        let token = account.server.token.as_ref()?;
        self.person.as_ref().filter(|_| self.issued_by == token.origin.to_string())
    }

    /// Whether the credential may be sent to an origin. Where the others were not noted, those are taken that the presets
    /// in the binary itself name beside this token endpoint: nobody's edits are among them.
    pub(crate) fn may_be_sent_to(&self, origin: &Origin) -> bool {
        let origin = origin.to_string();
        self.issued_by == origin
            || match &self.others {
                Some(others) => others.contains(&origin),
                None => provider::shipped_origins(&self.issued_by).contains(&origin),
            }
    }

    /// Why the refresh token is not sent to where the account would revoke it, as the end of a sentence. `None` if it may
    /// be, or if there is no such place.
    pub(crate) fn not_to_be_revoked_at(&self, account: &Account) -> Option<String> {
        let endpoint = account.server.revocation.as_ref()?;
        (!self.may_be_sent_to(&endpoint.origin)).then(|| {
            let Self { issued_by, .. } = self;
            let origin = &endpoint.origin;
            format!(
                "revocation_endpoint is now on {origin}, and the refresh token is of {issued_by}, where it lives on \
                 until it expires"
            )
        })
    }

    /// Notes the servers of the account, if this was issued to it, where that was not done at the sign-in.
    pub(crate) fn note_servers(&mut self, account: &Account) {
        if self.others.is_none() && self.was_issued_to(account) {
            self.others = Some(Servers::of(account).others);
        }
    }
}

/// A person for people.
fn shown(identity: Option<&String>, person: &Person) -> String {
    match identity {
        Some(name) if *name != person.subject => format!("{name} ({})", person.subject),
        _ => person.subject.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::account;

    #[test]
    fn a_sign_in_is_the_next_generation_and_keeps_what_is_known_of_the_same_server() {
        let lab = account("lab", "client_id = \"valetd\"\n");
        let elsewhere = account("lab", "client_id = \"valetd\"\ntoken_endpoint = \"https://other.example/t\"\n");
        let other_client = account("lab", "client_id = \"other\"\n");
        let new = |account: &Account| {
            let credential = Credential { refresh_token: Some(Secret::new("r")), password: None };
            NewCredential::of(account, credential)
        };
        let last = |generation| Record {
            learnt_life: Some(6000),
            rotates: true,
            redeeming: true,
            ..Record::new(&lab, generation, new(&lab), 1)
        };
        let rows = [
            ("the first", None, 0, &lab, (1, None)),
            ("nothing at hand, but in the store", None, 7, &lab, (8, None)),
            ("another one", Some(last(3)), 3, &lab, (4, Some(6000))),
            ("the store has an earlier one", Some(last(3)), 2, &lab, (4, Some(6000))),
            ("the store has a later one", Some(last(3)), 9, &lab, (10, Some(6000))),
            ("another server", Some(last(3)), 3, &elsewhere, (4, None)),
            ("another client", Some(last(3)), 3, &other_client, (4, None)),
        ];
        for (case, previous, saved, account, (generation, learnt_life)) in rows {
            let record = Record::succeeding(previous.as_ref(), saved, account, new(account), 2);
            assert_eq!((record.generation, record.learnt_life), (generation, learnt_life), "{case}");
            assert_eq!(record.rotates, learnt_life.is_some(), "{case}");
            assert_eq!((record.received_at, record.redeeming, &record.set_aside), (2, false, &None), "{case}");
        }
    }

    #[test]
    fn a_kept_password_stays_where_its_person_signs_in_another_way_and_with_nobody_else() {
        let lab = account("lab", "client_id = \"valetd\"\nkeep_password = true\n");
        let forgetful = account("lab", "client_id = \"valetd\"\n");
        let elsewhere = account(
            "lab",
            "client_id = \"valetd\"\nkeep_password = true\ntoken_endpoint = \"https://other.example/t\"\n",
        );
        let person =
            |subject: &str| Some(Person { issuer: "https://a.example".to_owned(), subject: subject.to_owned() });
        let password = |password: &str| Some(("ada".to_owned(), Secret::new(password)));
        let new = |account: &Account, person: Option<Person>, password| NewCredential {
            person,
            ..NewCredential::of(account, Credential { refresh_token: Some(Secret::new("r")), password })
        };
        let rows = [
            ("the same person's", &lab, person("1"), None, password("kept")),
            ("one that comes along", &lab, person("1"), password("new"), password("new")),
            ("another person's", &lab, person("2"), None, None),
            ("nobody knows whose", &lab, None, None, None),
            ("not to be kept any more", &forgetful, person("1"), None, None),
            ("at another server", &elsewhere, person("1"), None, None),
        ];
        for (case, account, comes, along, expected) in rows {
            let last = Record::new(&lab, 1, new(&lab, person("1"), password("kept")), 1);
            let record = Record::succeeding(Some(&last), 1, account, new(account, comes, along), 2);
            assert_eq!(record.credential.password, expected, "{case}");
        }
    }

    #[test]
    fn whoever_is_not_known_to_be_the_same_person_is_kept_out_but_where_nobody_is_known_to_be_signed_in() {
        let lab = account("lab", "client_id = \"valetd\"\n");
        let person =
            |issuer: &str, subject: &str| Some(Person { issuer: issuer.to_owned(), subject: subject.to_owned() });
        let ada = || person("https://a.example", "1");
        let new = |token: &str, person: Option<Person>| NewCredential {
            person,
            identity: Some("same@example.org".to_owned()),
            ..NewCredential::of(&lab, Credential { refresh_token: Some(Secret::new(token)), password: None })
        };
        let new = |token: &str, person| NewCredential { trial: Trial::Preferred, ..new(token, person) };
        let rows = [
            ("the same", ada(), ada(), None),
            (
                "another one",
                ada(),
                person("https://a.example", "2"),
                Some("same@example.org (2) signed in now, and same@example.org (1) is signed in"),
            ),
            (
                "of another issuer",
                ada(),
                person("https://b.example", "1"),
                Some("says https://b.example, and same@example.org (1) is signed in, says https://a.example; whether"),
            ),
            (
                "nobody knows who comes",
                ada(),
                None,
                Some("does not tell who signed in now, and same@example.org (1) is"),
            ),
            ("nobody knows who was", None, ada(), None),
            ("nobody knows anything", None, None, None),
        ];
        for (case, stored, comes, expected) in rows {
            let record = Record::new(&lab, 1, new("old", stored), 1);
            let found = record.keeps_out(&new("new", comes.clone()));
            assert_eq!(found.is_some(), expected.is_some(), "{case}");
            assert!(found.is_none_or(|words| words.contains(expected.unwrap_or_default())), "{case}");
            let meant = NewCredential { switches_user: true, ..new("new", comes.clone()) };
            assert_eq!(record.keeps_out(&meant), None, "{case}, and that is meant");
            assert_eq!(record.keeps_out(&new("old", comes.clone())), None, "{case}, and it is the token that is kept");
            // what could not be learnt is said, and a trial may tell it yet
            let unlearnt =
                NewCredential { unnamed: Some("api.example answered 500".to_owned()), ..new("new", comes.clone()) };
            let words = record.keeps_out(&unlearnt).unwrap_or_default();
            let is_no_verdict = expected.is_some_and(|words| !words.contains("(2) signed in now"));
            assert_eq!(words.contains("could not be learnt (api.example answered 500)"), is_no_verdict, "{case}");
            assert_eq!(record.keeps_out_untried(&unlearnt), None, "{case}");
            // a trial may tell who comes, and what is believed needs none; what has been exchanged has told what it can
            let unknown = comes.is_none();
            for (trial, waits) in [(Trial::Required, unknown), (Trial::Preferred, false), (Trial::Skipped, unknown)] {
                let found = record.keeps_out_untried(&NewCredential { trial, ..new("new", comes.clone()) });
                assert_eq!(found.is_some(), expected.is_some() && !waits, "{case}, {trial:?}");
            }
        }
    }
}
