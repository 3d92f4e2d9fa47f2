//! One account: its machine, its credential, and what is known of both.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::{HeaderName, HeaderValue};
use tracing::warn;

use super::world::{AskedReply, RevokeReply, SavedReply, Ticket};
use crate::accounts::{
    AccountView, IN_THE_WAY, LastFailure, NOT_SAVED, NewCredential, RequestError, Stored, UNREADABLE, Withheld,
    Withholding,
};
use crate::advice::advised;
use crate::config::{Account, TokenKind};
use crate::oauth::{Grant, Person, Tokens, id_token, jwt};
use crate::renewal::{AccountSnapshot, Failure, Phase, Renewal, RenewalId, SaveId, Why};
use crate::secret::Secret;
use crate::store::{Credential, Record};
use crate::timestamp::{Timestamp, unix_seconds};
use crate::token_endpoint::GrantFailure;
use crate::token_source::Published;

/// Room on the disk is looked for this often after a save has failed.
pub(super) const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// A refusal that nobody knows is told to the person when it has been the same for so long, and as often.
const UNCHANGED: Duration = Duration::from_secs(24 * 60 * 60);

/// A refusal that is no verdict, as the server repeats it.
pub(super) struct Repeated {
    http_status: u16,
    oauth_error: Option<String>,
    since: Timestamp,
    told: Option<Timestamp>,
}

/// Whose turn it is where a password is kept beside a refresh token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KeptPassword {
    /// The refresh token is presented; the password is in reserve.
    Reserved,
    /// The refresh token was refused: the password is presented in its place, until there are tokens.
    Presented,
    /// The password was refused, too. It is not sent again, as that locks accounts; the refresh token is.
    Refused,
}

impl KeptPassword {
    /// What a stored record says of it: one with both is set aside when both were refused.
    fn of(record: Option<&Record>) -> Self {
        let is_refused = |record: &Record| {
            let Credential { refresh_token, password } = &record.credential;
            let why = record.set_aside.as_ref().map(|set_aside| set_aside.why);
            refresh_token.is_some() && password.is_some() && matches!(why, Some(Why::Revoked | Why::Ambiguous))
        };
        if record.is_some_and(is_refused) { Self::Refused } else { Self::Reserved }
    }
}

/// Why the store does not give an account's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NotLoaded {
    /// It cannot be understood, or the disk fails; a sentence.
    Unreadable(String),
    /// Something else is where it would be; a sentence.
    InTheWay(String),
    /// The store's key is being asked for.
    Opening,
    /// It is there, and is not to be used; a sentence.
    Withheld(Withholding, String),
}

/// One account.
pub(super) struct AccountState {
    pub(super) account: Arc<Account>,
    pub(super) machine: Renewal,
    pub(super) record: Option<Record>,
    /// Whether its server was found to rotate refresh tokens, where the account's dialect does not.
    pub(super) rotates: bool,
    /// Why the store's record is not here, if it is there and cannot be used.
    pub(super) withheld: Option<Withheld>,
    /// The store's key is being asked for: nobody knows yet.
    pub(super) opening_since: Option<Timestamp>,
    kept_password: KeptPassword,
    /// The last try to bring the store to what stands here has failed: when the next one is.
    pub(super) unsaved: Option<Timestamp>,
    /// The save or removal that the store owes a response to.
    pub(super) saving: Option<Saving>,
    /// Another one is wanted after that, and by whom.
    pub(super) save_next: Option<Waiters>,
    /// The highest generation that the store is known to hold.
    pub(super) stored_generation: u64,
    /// Grows with every credential that takes the place of another one.
    pub(super) credential: u64,
    /// A person has signed in, and the store does not have it yet: it takes the place of whatever is there.
    pub(super) is_new: bool,
    /// The later record that the store was found to hold, until it is taken over.
    pub(super) found: Option<Box<Record>>,
    pub(super) published: Option<Arc<Published>>,
    /// The header field of the response at hand, between taking it and publishing it.
    pub(super) at_hand: Option<(HeaderName, HeaderValue)>,
    /// That response counts as a success when it is dealt with.
    pub(super) has_renewed: bool,
    /// When the sign-in ends, if it was given an end.
    pub(super) ends_at: Option<Timestamp>,
    /// What requests were told last, so that they are not woken for nothing.
    pub(super) told: Option<LastPublished>,
    pub(super) last_success: Option<Timestamp>,
    pub(super) last_failure: Option<LastFailure>,
    /// Since the last success.
    pub(super) repeated: Option<Repeated>,
    pub(super) renewals: u64,
    pub(super) token_requests: u64,
    /// Renewals whose answers are still under way, also those that nobody waits for any more.
    pub(super) owed: Vec<(RenewalId, Arc<Account>)>,
    /// Credentials that were handed in and are being tried.
    pub(super) trials: Vec<Trying>,
    /// Who have handed in the credential at hand, and are told when a renewal has shown that it works and is saved.
    pub(super) confirming: Vec<SavedReply>,
    /// Who have asked for a renewal and wait for the store: for its note to be saved, or for what the last one has brought.
    pub(super) asking: Vec<AskedReply>,
    /// Somebody of them asked after the last response had come: they want another one.
    pub(super) asks_again: bool,
    /// The response to the trial of the credential at hand: that of its first renewal, which is not sent again.
    pub(super) tried: Option<Result<Tokens, GrantFailure>>,
    /// The renewal under way has the answer of a trial.
    pub(super) is_of_trial: bool,
    /// The settings have changed while a response is owed: when it has come, everything starts over with them.
    pub(super) starts_over: bool,
    /// The configuration no longer has it; it stays only until the responses that are owed have come.
    pub(super) is_leaving: bool,
}

/// A credential that is tried before it takes the place of the one at hand.
pub(super) struct Trying {
    pub(super) renewal: RenewalId,
    pub(super) new: NewCredential,
    /// As it was configured when it was asked.
    pub(super) asked: Arc<Account>,
    pub(super) since: Timestamp,
    /// It is sent when the store has answered that what it brings could be saved.
    pub(super) probe: Option<Ticket>,
    /// A response was lost: this is the second try.
    pub(super) answer_lost: bool,
    /// The refresh token was refused: the password is presented in its place.
    pub(super) presents_password: bool,
    pub(super) reply: SavedReply,
}

/// A save or a removal under way.
pub(super) struct Saving {
    pub(super) ticket: Ticket,
    /// Of the record, if it is a save.
    pub(super) generation: Option<u64>,
    /// Of the account, when it began.
    pub(super) credential: u64,
    /// It was told before that the store holds a later record, and has gone above that.
    pub(super) is_second_try: bool,
    pub(super) waiters: Waiters,
}

/// Who waits until the store has what stands here.
#[derive(Default)]
pub(super) struct Waiters {
    pub(super) machine: Option<SaveId>,
    pub(super) signed_in: Vec<SavedReply>,
    pub(super) signed_out: Vec<SignedOut>,
}

impl Waiters {
    pub(super) fn machine(save: SaveId) -> Self {
        Self { machine: Some(save), ..Self::default() }
    }

    pub(super) fn join(&mut self, others: Waiters) {
        let Waiters { machine, signed_in, signed_out } = others;
        self.machine = machine.or(self.machine); // it waits for one at a time, the last
        self.signed_in.extend(signed_in);
        self.signed_out.extend(signed_out);
    }
}

/// A sign-out that is told to the server when the store has forgotten the credential, or cannot.
pub(super) struct SignedOut {
    /// As it was configured.
    pub(super) account: Arc<Account>,
    /// What is revoked.
    pub(super) token: Option<Secret>,
    /// Why the server is not told.
    pub(super) kept_from: Option<String>,
    /// Nobody waits where the time of a sign-in is over.
    pub(super) reply: Option<RevokeReply>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct LastPublished {
    pub(super) published: Option<RenewalId>,
    pub(super) wished_for: Option<Timestamp>,
    pub(super) phase: Phase,
}

impl AccountState {
    pub(super) fn new(account: Account, record: Option<Record>, seed: u64) -> Self {
        Self {
            machine: Renewal::new(account.renew, seed),
            account: Arc::new(account),
            stored_generation: record.as_ref().map_or(0, |record| record.generation),
            kept_password: KeptPassword::of(record.as_ref()),
            rotates: record.as_ref().is_some_and(|record| record.rotates),
            record,
            withheld: None,
            opening_since: None,
            unsaved: None,
            saving: None,
            save_next: None,
            credential: 0,
            is_new: false,
            found: None,
            published: None,
            at_hand: None,
            has_renewed: false,
            ends_at: None,
            told: None,
            last_success: None,
            last_failure: None,
            repeated: None,
            renewals: 0,
            token_requests: 0,
            owed: Vec::new(),
            trials: Vec::new(),
            confirming: Vec::new(),
            asking: Vec::new(),
            asks_again: false,
            tried: None,
            is_of_trial: false,
            starts_over: false,
            is_leaving: false,
        }
    }

    /// Whether nothing more is tried for this reason, which a change of the configuration may have mended.
    pub(super) fn is_refused_for(&self, reason: Why) -> bool {
        self.machine.snapshot().phase == Phase::SignInRequired { why: reason }
    }

    /// What is on the disk could not be used when it was looked at, and nobody has signed in or out since.
    pub(super) fn is_unreadable(&self) -> bool {
        let is_being_replaced = self.saving.is_some() || self.save_next.is_some();
        self.is_kept_from_us()
            || self.record.is_none()
                && !is_being_replaced
                && self.last_failure.as_ref().is_some_and(|failure| [UNREADABLE, IN_THE_WAY].contains(&failure.class))
    }

    /// The store has a record, and it cannot be had.
    pub(super) fn is_kept_from_us(&self) -> bool {
        self.record.is_none() && (self.withheld.is_some() || self.opening_since.is_some())
    }

    /// While the store's key is being asked for, nobody is to sign in, and nobody knows that it will come.
    fn opening(&self) -> Option<Withheld> {
        let why = "the key of the store is being asked for".into();
        self.opening_since.map(|since| Withheld { cause: Withholding::StoreLocked, why, since })
    }

    /// Why nothing may take the place of what the store has, if that is so.
    pub(super) fn locked(&self) -> Option<String> {
        if self.opening_since.is_some() {
            return Some("the key of the store is being asked for".to_owned());
        }
        match &self.withheld {
            Some(Withheld { cause: Withholding::StoreLocked, why, .. }) => Some(why.to_string()),
            Some(Withheld {
                cause: Withholding::KeyGone | Withholding::OtherMachine | Withholding::OlderCopy | Withholding::Locked,
                ..
            }) => None,
            None => None,
        }
    }

    /// Whether the response to the machine's renewal is under way.
    pub(super) fn awaits_an_answer(&self) -> bool {
        matches!(self.machine.snapshot().phase, Phase::InFlight { id } if self.owed.iter().any(|(owed, _)| *owed == id))
    }

    /// Whether the store owes the response that the machine waits for.
    fn awaits_the_store(&self) -> bool {
        let waiting = self.saving.iter().map(|saving| &saving.waiters).chain(&self.save_next);
        let awaited = self.machine.owed_save();
        awaited.is_some() && waiting.filter_map(|waiters| waiters.machine).any(|save| Some(save) == awaited)
    }

    /// Whether the machine waits for a response that nobody owes: its renewal began while the account was leaving the
    /// configuration, and was not sent.
    pub(super) fn is_stranded(&self) -> bool {
        let is_in_flight = matches!(self.machine.snapshot().phase, Phase::InFlight { .. });
        is_in_flight && !self.awaits_an_answer() && !self.awaits_the_store()
    }

    /// Whether the store is known to have what stands here.
    pub(super) fn is_saved(&self) -> bool {
        self.unsaved.is_none() && self.saving.is_none() && self.save_next.is_none()
    }

    /// Why the credential cannot be forgotten just now: a response or a save is under way, and it would be lost.
    pub(super) fn busy(&self) -> Option<String> {
        let is_busy = !self.owed.is_empty() || !self.is_saved() || !self.trials.is_empty();
        is_busy.then(|| format!("{} is being renewed or saved just now", self.account.id))
    }

    /// Whether a failed save is due again.
    pub(super) fn save_again_at(&self) -> Option<Timestamp> {
        self.unsaved.filter(|_| self.saving.is_none())
    }

    /// Takes back the note that the refresh token is being spent, as that has not been sent. Returns whether there was one.
    pub(super) fn take_back_note(&mut self) -> bool {
        let may_be_lost = self.machine.may_have_lost_an_answer();
        self.record.as_mut().is_some_and(|record| std::mem::replace(&mut record.redeeming, may_be_lost) != may_be_lost)
    }

    /// Another credential takes the place of this one, or none.
    pub(super) fn put(&mut self, record: Option<Record>) -> Option<Record> {
        self.credential += 1;
        self.do_not_confirm(&RequestError::Refused("another credential has taken its place meanwhile".to_owned()));
        self.at_hand = None;
        self.has_renewed = false;
        self.tried = None;
        self.starts_over = false;
        self.is_new = false;
        self.found = None;
        self.ends_at = None;
        self.withheld = None;
        self.opening_since = None;
        self.kept_password = KeptPassword::of(record.as_ref());
        std::mem::replace(&mut self.record, record)
    }

    /// Whether the time that the sign-in was given is over.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.record.is_some() && self.ends_at.is_some_and(|end| now >= end)
    }

    /// Notes how much is left of the time that the sign-in was given: the next save takes it to the store.
    pub(super) fn note_term(&mut self, now: Timestamp) {
        let term = self.record.as_mut().and_then(|record| record.term.as_mut());
        if let (Some(term), Some(end)) = (term, self.ends_at) {
            term.note(end.since(now));
        }
    }

    /// A token as it is handed to requests: not past the end of the sign-in.
    pub(super) fn token(
        &self,
        id: RenewalId,
        field: (HeaderName, HeaderValue),
        usable_until: Timestamp,
        start: Timestamp,
    ) -> Arc<Published> {
        let usable_until = usable_until.min(self.ends_at.unwrap_or(Timestamp::FAR));
        Arc::new(Published::new(id, field, usable_until, start))
    }

    /// What is presented to the authorization server this time, taken out of the credential.
    pub(super) fn grant(&self) -> Grant {
        let mut credential = self.record.as_ref().map(|record| record.credential.clone()).unwrap_or_default();
        if self.kept_password == KeptPassword::Presented {
            credential.refresh_token = None;
        }
        credential.grant(self.account.grant)
    }

    /// The account as its server is asked.
    pub(super) fn asked(&self) -> Arc<Account> {
        if self.rotates { Arc::new(self.account.with_rotation()) } else { self.account.clone() }
    }

    /// The life of the token that the account's template names, from now on.
    pub(super) fn lifetime(&self, tokens: &Tokens) -> Option<Duration> {
        match self.account.header.token {
            TokenKind::AccessToken => tokens.lifetime,
            TokenKind::IdToken => tokens.id_token_lifetime.or(tokens.lifetime),
        }
    }

    /// The header field for the token that the account's template names.
    pub(super) fn header(&self, tokens: &Tokens) -> Result<(HeaderName, HeaderValue), String> {
        let template = &self.account.header;
        let (token, name) = match template.token {
            TokenKind::AccessToken => (&tokens.access_token, "access_token"),
            TokenKind::IdToken => (&tokens.id_token, "id_token"),
        };
        let token = token.as_ref().ok_or_else(|| format!("the answer holds no {name}, which `header` asks for"))?;
        let text = format!("{}{}{}", template.before, token.expose(), template.after);
        let mut value =
            HeaderValue::try_from(text).map_err(|_| format!("the {name} cannot stand in a header field"))?;
        value.set_sensitive(true);
        let field = HeaderName::try_from(template.name.as_str()).map_err(|_| "`header` has no valid field name")?;
        Ok((field, value))
    }

    /// The access token that requests are given, out of their header field.
    pub(super) fn access_token_at_hand(&self) -> Result<Secret, String> {
        let template = &self.account.header;
        let published = self
            .published
            .as_ref()
            .ok_or_else(|| format!("there is no usable access token at hand: see {}", advised("status")))?;
        let text = published.value.to_str().unwrap_or_default();
        let token = text.strip_prefix(&template.before).and_then(|text| text.strip_suffix(&template.after));
        match (template.token, token) {
            (TokenKind::AccessToken, Some(token)) => Ok(Secret::new(token)),
            (TokenKind::IdToken, _) => {
                Err("the account's requests carry its ID token: there is none to ask with".to_owned())
            }
            (TokenKind::AccessToken, None) => Err("the token at hand is of an earlier configuration".to_owned()),
        }
    }

    /// Takes what a response says of the credential into the record. Returns whether the refresh token is a new one.
    pub(super) fn take_credential(&mut self, tokens: Tokens, received_at: SystemTime) -> bool {
        let claims = id_token::claims(&tokens, self.account.expected(None)).ok().flatten().unwrap_or_default();
        let jwt::Claims { identity, subject, .. } = claims;
        let is_of_refresh_token = matches!(self.grant(), Grant::RefreshToken(_));
        let Some(record) = &mut self.record else { return false };
        // what a trial has rotated is in the record already
        record.unrotated = is_of_refresh_token
            && !self.is_of_trial
            && tokens.refresh_token.as_ref().is_none_or(|new| record.credential.refresh_token.as_ref() == Some(new));
        record.redeeming = false;
        record.set_aside = None;
        record.rotates = self.rotates; // kept once it has worked
        if tokens.unusable.is_none() || tokens.refresh_token.is_some() {
            let before = std::mem::replace(&mut self.kept_password, KeptPassword::Reserved);
            if before == KeptPassword::Presented {
                record.credential.refresh_token = None; // refused, and not needed: the password has brought tokens
            }
        }
        if record.identity.is_some() && identity.is_some() && record.identity != identity {
            // The server says whose token this is. It was given for our refresh token, so requests go on; that it is
            // somebody else's now must not go unnoticed.
            let [was, is] = [&record.identity, &identity].map(|who| who.as_deref().unwrap_or_default());
            warn!(account = %record.account, was, is, "the server now answers for another identity");
        }
        record.identity = identity.or(record.identity.take());
        // whoever signed in stays that: a later answer for somebody else is told of above
        let told = subject.map(|(issuer, subject)| Person { issuer, subject });
        record.person = record.person.take().or(told);
        match tokens.refresh_token {
            Some(new) if record.credential.refresh_token.as_ref() != Some(&new) => {
                if let Some(spent) = record.credential.refresh_token.take().filter(|_| is_of_refresh_token) {
                    record.spent.note(&spent, &new);
                }
                record.credential.refresh_token = Some(new);
                record.generation += 1;
                record.received_at = unix_seconds(received_at);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes note that what was presented is refused. Returns whether the kept password is presented in its place now.
    pub(super) fn turns_to_password(&mut self) -> bool {
        let has_password = self.record.as_ref().is_some_and(|record| record.credential.password.is_some());
        match (self.grant(), self.kept_password) {
            (Grant::RefreshToken(_), KeptPassword::Reserved) if has_password => {
                self.kept_password = KeptPassword::Presented;
                true
            }
            (Grant::Password { .. }, KeptPassword::Presented) => {
                self.kept_password = KeptPassword::Refused;
                false
            }
            (_, KeptPassword::Reserved | KeptPassword::Presented | KeptPassword::Refused) => false,
        }
    }

    /// Takes note of a refusal that is no verdict, and says in its words when it has been the same for a day. Returns whether
    /// that is to be told now.
    pub(super) fn note_repeated(&mut self, failure: &mut GrantFailure, now: Timestamp) -> bool {
        let GrantFailure { failure: Failure::Transient { .. }, http_status: Some(status), oauth_error, detail, .. } =
            failure
        else {
            return false;
        };
        // those of a hop, or of overload, are no word of the server's on what was asked
        if !(400..500).contains(status) || matches!(status, 407 | 408 | 425 | 429) {
            return false;
        }
        let is_the_same =
            |last: &Repeated| last.http_status == *status && last.oauth_error.as_ref() == oauth_error.as_ref();
        let new = || Repeated { http_status: *status, oauth_error: oauth_error.clone(), since: now, told: None };
        let repeated = match self.repeated.take() {
            Some(last) if is_the_same(&last) => last,
            Some(_) | None => new(),
        };
        let repeated = self.repeated.insert(repeated);
        if now < repeated.since + UNCHANGED {
            return false;
        }
        detail.push_str("; the same for a day, so it may take a person");
        let is_due = repeated.told.is_none_or(|told| now >= told + UNCHANGED);
        if is_due {
            repeated.told = Some(now);
        }
        is_due
    }

    pub(super) fn note_failure(&mut self, id: RenewalId, failure: GrantFailure, at: Timestamp) {
        let GrantFailure { failure, oauth_error, http_status, detail, wants_rotation: _ } = failure;
        let class = match failure {
            Failure::Transient { .. } | Failure::Unconfirmed { .. } => "transient",
            Failure::Ambiguous => "ambiguous",
            Failure::Permanent(_) | Failure::Refused => "permanent",
        };
        let attempt = self.machine.snapshot().failures + 1;
        self.last_failure = Some(LastFailure { at, id, class, oauth_error, http_status, detail, attempt });
    }

    /// The credential at hand works: whoever has handed it in is told when the next save has ended.
    pub(super) fn confirm_with_the_next_save(&mut self) {
        if !self.confirming.is_empty() {
            self.save_next.get_or_insert_default().signed_in.append(&mut self.confirming);
        }
    }

    /// Whoever has handed in the credential at hand is told why nobody knows that it works.
    pub(super) fn do_not_confirm(&mut self, error: &RequestError) {
        for reply in self.confirming.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Why the last renewal was not sent, if that is because nothing could be saved.
    pub(super) fn unspent(&self) -> Option<&str> {
        let failure = self.last_failure.as_ref().filter(|_| self.machine.snapshot().failures > 0)?;
        (failure.class == NOT_SAVED).then_some(&failure.detail)
    }

    /// Whether the store is known to have the refresh token at hand, if not all that is known of it.
    fn has_stored_token(&self, record: &Record) -> bool {
        self.is_saved() || self.stored_generation >= record.generation
    }

    /// Until when the published token is handed out.
    fn usable_until(&self) -> Option<Timestamp> {
        let until = self.machine.snapshot().usable_until?;
        Some(until.min(self.ends_at.unwrap_or(Timestamp::FAR)))
    }

    pub(super) fn view(&self) -> AccountView {
        AccountView {
            id: self.account.id.clone(),
            provider: self.account.provider.clone(),
            description: self.account.description.clone(),
            snapshot: AccountSnapshot { usable_until: self.usable_until(), ..self.machine.snapshot() },
            stored: self.record.as_ref().map(|record| Stored {
                generation: record.generation,
                fingerprint: record.credential.refresh_token.as_ref().map(Secret::fingerprint).unwrap_or_default(),
                saved: self.has_stored_token(record),
                identity: record.identity.clone(),
                subject: record.person.as_ref().map(|person| person.subject.clone()),
                ends_at: self.ends_at,
                rotates: record.credential.refresh_token.is_some() && !record.unrotated,
            }),
            withheld: self.withheld.clone().or_else(|| self.opening()),
            last_success: self.last_success,
            last_failure: self.last_failure.clone(),
            renewals: self.renewals,
            token_requests: self.token_requests,
        }
    }
}
