//! What the proxy holds: a usable token for an account, or why there is none.
//!
//! The renewer publishes; any number of requests read. Reading the token in hand takes no lock, no await and no
//! allocation. A request that finds none says so ([`Demand::Wanted`]) and waits for the next publication, at most as
//! long as its own patience; that it gives up cancels nothing but its own wait.
//!
//! A source stands for an account as it was configured, not for a name: when a reload changes what the tokens are or where
//! they may be sent, the account gets another source, and the old one ends ([`TokenSource::end`]). Whoever still holds
//! that gets no token from it, and what it says of one is not heard.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::{mpsc, watch};

use crate::config::AccountId;
use crate::platform::clock::Clock;
use crate::renewal::{Place, RenewalId, Why};
use crate::spelling::Secrets;
use crate::timestamp::Timestamp;

/// A token as requests use it: the header field, ready and marked sensitive.
#[derive(Debug)]
pub(crate) struct Published {
    /// The renewal that it came from: what [`TokenSource::token_after`] wants back.
    pub id: RenewalId,
    /// The field's name, mostly `authorization`.
    pub name: HeaderName,
    /// The field's value.
    pub value: HeaderValue,
    /// Where in it the token begins: after its scheme, if it has one.
    secret_at: usize,
    /// Not to be handed out from here on.
    pub usable_until: Timestamp,
    /// When it began to live.
    pub start: Timestamp,
    /// Whether a good response may be news to the renewer: the first one is, those past `news_from`, and one on a route that
    /// has refused the token before it and whose request was not sent again.
    pub is_watched: AtomicBool,
    /// The first good response was told.
    is_told: AtomicBool,
    /// A good response to a request that is sent from here on is news, in milliseconds.
    pub news_from: AtomicU64,
    /// What must not be seen of it in a response.
    own_secrets: Secrets,
    /// The same, and of those before it that may still live: once it has been published.
    with_earlier: OnceLock<Secrets>,
}

impl Published {
    /// A token of which nothing is known yet.
    pub(crate) fn new(
        id: RenewalId,
        (name, value): (HeaderName, HeaderValue),
        usable_until: Timestamp,
        start: Timestamp,
    ) -> Self {
        let secret_at = value.as_bytes().iter().position(|byte| *byte == b' ').map_or(0, |space| space + 1);
        let own_secrets = Secrets::of_field(value.as_bytes());
        Self {
            id,
            name,
            value,
            secret_at,
            usable_until,
            start,
            is_watched: AtomicBool::new(true),
            is_told: AtomicBool::new(false),
            news_from: AtomicU64::new((start + FIRST_NEWS).as_millis()),
            own_secrets,
            with_earlier: OnceLock::new(),
        }
    }

    /// The token as it was issued, without the scheme in front of it.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.value.as_bytes()[self.secret_at..]
    }

    /// What must not be seen again, in any response: this token and those before it.
    pub(crate) fn secrets(&self) -> &Secrets {
        self.with_earlier.get().unwrap_or(&self.own_secrets)
    }
}

/// What is known of an account's token.
#[derive(Debug)]
pub(crate) enum Availability {
    /// There is one, usable until the time it carries.
    Usable {
        /// The token.
        token: Arc<Published>,
        /// When its successor is asked for, or was, where somebody wishes for one; `None` where nobody does, and it is
        /// renewed in its time.
        wished_for: Option<Timestamp>,
    },
    /// There is none just now; the renewer is at it.
    Waiting {
        /// When the next attempt starts; `None` while one is under way or about to start.
        retry_at: Option<Timestamp>,
        /// What went wrong last, in words, without secrets.
        because: Option<Arc<str>>,
    },
    /// There will be none until a person signs in.
    SignInRequired {
        /// Why.
        why: Why,
    },
    /// There is a credential, and it is not used until somebody has done something about that.
    Withheld(Withheld),
    /// There will be none: the account is configured otherwise by now, or no more.
    Ended,
}

/// Why a credential that is there is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Withheld {
    /// In one word.
    pub cause: Withholding,
    /// In a sentence, without secrets.
    pub why: Arc<str>,
    /// Since when.
    pub since: Timestamp,
}

/// The same in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Withholding {
    /// The key that it is sealed with is away.
    StoreLocked,
    /// The key that it is sealed with will not come back.
    KeyGone,
    /// It was last used on another machine.
    OtherMachine,
    /// A later one was saved here: it is an older copy.
    OlderCopy,
    /// A person has locked everything.
    Locked,
}

impl Withholding {
    /// The word.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::StoreLocked => "store-locked",
            Self::KeyGone => "key-gone",
            Self::OtherMachine => "other-machine",
            Self::OlderCopy => "older-copy",
            Self::Locked => "locked",
        }
    }

    /// The command that mends it.
    pub(crate) fn remedy(self, account: &AccountId, invocation: &str) -> String {
        match self {
            Self::StoreLocked | Self::Locked => format!("{invocation} unlock"),
            Self::OtherMachine => {
                format!(
                    "{invocation} login {account} (or {invocation} adopt {account}, if no other machine uses it any more)"
                )
            }
            Self::OlderCopy => {
                format!(
                    "{invocation} login {account} (or {invocation} adopt {account}, if its refresh token is the latest all \
                     the same)"
                )
            }
            Self::KeyGone => {
                format!(
                    "{invocation} unlock --recovery (or {invocation} seal on --new-key, and then {invocation} login \
                     {account})"
                )
            }
        }
    }
}

/// Why a request gets no token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Unavailable {
    /// Not yet: come back after `retry_after`.
    NotNow {
        /// A hint for `Retry-After`.
        retry_after: Duration,
        /// What went wrong last, in words, without secrets.
        because: Option<Arc<str>>,
    },
    /// Not before a person has signed in.
    SignInRequired {
        /// Why.
        why: Why,
    },
    /// Not before somebody has done something about it.
    Withheld(Withheld),
}

/// Tells a source from those that an account had before or has later; never used twice in a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SourceId(u64);

/// What requests tell the renewer, and through which source. What comes from another than the account's present one
/// concerns other tokens.
pub(crate) type SourceDemand = (SourceId, Demand);

/// What requests tell the renewer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Demand {
    /// A request found no usable token.
    Wanted(AccountId),
    /// The upstream answered 401 to a token.
    Rejected {
        /// Whose token.
        account: AccountId,
        /// The renewal that it came from.
        id: RenewalId,
        /// Where.
        place: Place,
        /// The last token that was taken there, if one is remembered.
        worked: Option<RenewalId>,
        /// Until when the request waits for a successor.
        until: Timestamp,
    },
    /// A request that was answered 401 has been sent again with a later token, and answered.
    Replayed {
        /// Whose tokens.
        account: AccountId,
        /// The renewal that the token of the 401 came from.
        refused: RenewalId,
        /// Where.
        place: Place,
        /// When that 401 came.
        at: Timestamp,
        /// Whether the later one was taken; if not, that was answered 401, too.
        accepted: bool,
    },
    /// An upstream has taken a watched token.
    Worked {
        /// Whose token.
        account: AccountId,
        /// The renewal that it came from.
        id: RenewalId,
        /// Where.
        place: Place,
        /// When the request was sent, or before.
        sent: Timestamp,
    },
}

impl Demand {
    /// Whose token it is about.
    pub(crate) fn account(&self) -> &AccountId {
        match self {
            Demand::Wanted(account)
            | Demand::Rejected { account, .. }
            | Demand::Replayed { account, .. }
            | Demand::Worked { account, .. } => account,
        }
    }
}

/// One account's token, as requests see it.
pub(crate) struct TokenSource {
    id: SourceId,
    account: AccountId,
    clock: Arc<Clock>,
    current: ArcSwap<Availability>,
    /// The tokens that were published last, the latest at the end. For [`TokenSource::publish`] alone.
    latest: Mutex<VecDeque<Arc<Published>>>,
    /// Where tokens were taken.
    taken: Taken,
    /// A route whose 401 could not be answered by sending its request again: its next good response is news. Zero if none.
    awaited: AtomicU32,
    /// Says that `current` has changed; carries nothing.
    changed: watch::Sender<()>,
    /// How often the account has been logged out or locked, or its sign-in has ended; of all sources that it had.
    withdrawals: Arc<AtomicU64>,
    demands: mpsc::UnboundedSender<SourceDemand>,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenSource({})", self.account)
    }
}

/// What a second sending said of the token that it went with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It was taken.
    Accepted,
    /// 401 again.
    Refused,
    /// Nothing: the upstream had troubles of its own.
    Unknown,
}

/// How many tokens before the present one responses are searched for: some hours of renewals, when a token may have been
/// renewed before its time for each 401, and few enough to look for all at once.
const EARLIER: usize = 8;

/// `Retry-After` where nothing better is known.
const SOON: Duration = Duration::from_secs(1);

/// The age at which a good response is news again after the first; then whenever the token has grown older by a quarter. So
/// the renewer knows how old a token was when it was last taken, and hears of a few dozen at the most.
const FIRST_NEWS: Duration = Duration::from_secs(1);

/// When a good response is news again, after that to a request that was sent at some time.
pub(crate) fn next_news(start: Timestamp, sent: Timestamp) -> Timestamp {
    start + (sent.since(start) * 5 / 4).max(FIRST_NEWS)
}

#[cold]
fn watch_again(token: &Published) {
    token.is_watched.store(true, Ordering::Relaxed);
}

/// The places at which tokens were last taken, and the last one that was, by the place's hash: of two places with the same
/// slot the later one is remembered.
struct Taken(Box<[AtomicU64]>);

impl Default for Taken {
    fn default() -> Self {
        Self((0..256).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Taken {
    fn note(&self, place: Place, id: RenewalId) {
        let (slot, entry) = (self.slot(place), u64::from(place.resource) << 32 | u64::from(id.0 as u32));
        if slot.load(Ordering::Relaxed) != entry {
            slot.store(entry, Ordering::Relaxed);
        }
    }

    fn last(&self, place: Place) -> Option<RenewalId> {
        let entry = self.slot(place).load(Ordering::Relaxed);
        (entry != 0 && entry >> 32 == u64::from(place.resource)).then(|| RenewalId(u64::from(entry as u32)))
    }

    fn slot(&self, place: Place) -> &AtomicU64 {
        &self.0[place.resource as usize % self.0.len()]
    }
}

impl TokenSource {
    /// A source without a token yet. What requests say goes to `demands`.
    pub(crate) fn new(
        account: AccountId,
        clock: Arc<Clock>,
        demands: mpsc::UnboundedSender<SourceDemand>,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = SourceId(NEXT.fetch_add(1, Ordering::Relaxed));
        let current = ArcSwap::from_pointee(Availability::Waiting { retry_at: None, because: None });
        Arc::new(Self {
            id,
            account,
            clock,
            current,
            latest: Mutex::default(),
            taken: Taken::default(),
            awaited: AtomicU32::new(0),
            changed: watch::Sender::new(()),
            withdrawals: Arc::default(),
            demands,
        })
    }

    /// Which source this is.
    pub(crate) fn id(&self) -> SourceId {
        self.id
    }

    /// Replaces what is known, and wakes everyone who waits. For the renewer alone, and not after the end.
    pub(crate) fn publish(&self, availability: Availability) {
        if let Availability::Usable { token, .. } = &availability {
            self.remember(token);
        }
        if matches!(availability, Availability::SignInRequired { why: Why::NotSignedIn | Why::TermOver }) {
            self.withdrawals.fetch_add(1, Ordering::Release);
        }
        let is_lock =
            |known: &Availability| matches!(known, Availability::Withheld(Withheld { cause: Withholding::Locked, .. }));
        if is_lock(&availability) && !is_lock(&self.current.load()) {
            self.withdrawals.fetch_add(1, Ordering::Release);
        }
        self.current.store(Arc::new(availability));
        self.changed.send_replace(());
    }

    /// Has the responses to `token` searched for those before it, too: they may live on at the server, which may have kept
    /// them for this very answer.
    fn remember(&self, token: &Arc<Published>) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.iter().any(|known| Arc::ptr_eq(known, token)) {
            return;
        }
        let secrets = latest.iter().fold(token.own_secrets.clone(), |all, earlier| all.and(&earlier.own_secrets));
        let _ = token.with_earlier.set(secrets); // published by another source before: then it knows those of that
        latest.push_back(token.clone());
        if latest.len() > EARLIER {
            latest.pop_front();
        }
    }

    /// Why what began when there were tokens has lost its right.
    pub(crate) fn why_withdrawn(&self) -> Unavailable {
        match &**self.current.load() {
            Availability::SignInRequired { why } => Unavailable::SignInRequired { why: *why },
            Availability::Withheld(withheld) => Unavailable::Withheld(withheld.clone()),
            // somebody has signed in since, or unlocked
            Availability::Usable { .. } | Availability::Waiting { .. } | Availability::Ended => {
                Unavailable::SignInRequired { why: Why::NotSignedIn }
            }
        }
    }

    /// Hands out nothing from here on, and ends every wait: another source has taken its place, or none.
    pub(crate) fn end(&self) {
        self.publish(Availability::Ended);
    }

    /// Another source for the same account, in place of this one. What began with the one ends with a logout at the other.
    pub(crate) fn successor(&self) -> Arc<Self> {
        let source = Self::new(self.account.clone(), self.clock.clone(), self.demands.clone());
        let fresh = Arc::into_inner(source).expect("nobody has it yet");
        Arc::new(Self { withdrawals: self.withdrawals.clone(), ..fresh })
    }

    /// A number that changes when the account is logged out. What began at another one than the present has lost its right.
    pub(crate) fn withdrawals(&self) -> u64 {
        self.withdrawals.load(Ordering::Acquire)
    }

    /// Tells of publications from now on.
    pub(crate) fn publications(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The token in hand, if it is usable now.
    pub(crate) fn usable(&self) -> Option<Arc<Published>> {
        match &**self.current.load() {
            Availability::Usable { token, .. } => {
                let now = self.clock.now();
                if now.as_millis() >= token.news_from.load(Ordering::Relaxed) {
                    watch_again(token);
                }
                (now < token.usable_until).then(|| token.clone())
            }
            Availability::Waiting { .. } | Availability::SignInRequired { .. } => None,
            Availability::Withheld(_) | Availability::Ended => None,
        }
    }

    /// Takes note of a good response, whose request was sent so long ago at the most.
    pub(crate) fn worked(&self, token: &Published, place: Place, ago: impl FnOnce() -> Duration) {
        self.taken.note(place, token.id);
        if token.is_watched.load(Ordering::Relaxed) {
            self.may_be_news(token, place, ago());
        }
    }

    #[cold]
    fn may_be_news(&self, token: &Published, place: Place, ago: Duration) {
        let now = self.clock.now();
        let sent = now - ago;
        let is_first = !token.is_told.swap(true, Ordering::Relaxed);
        let awaited = self.awaited.load(Ordering::Relaxed);
        let is_awaited = awaited == place.route;
        if is_awaited {
            self.awaited.store(0, Ordering::Relaxed);
        }
        let is_older = sent.as_millis() >= token.news_from.load(Ordering::Relaxed);
        if is_older {
            token.news_from.store(next_news(token.start, sent).as_millis(), Ordering::Relaxed);
        }
        if is_first || is_awaited || is_older {
            self.say(Demand::Worked { account: self.account.clone(), id: token.id, place, sent });
        }
        let is_due = now.as_millis() >= token.news_from.load(Ordering::Relaxed);
        token.is_watched.store(is_due || (awaited != 0 && !is_awaited), Ordering::Relaxed);
    }

    /// Takes note of the response to a request that was sent again with `token` after a 401 to that of `refused`, which
    /// came so long ago.
    pub(crate) fn replayed(
        &self,
        refused: &Published,
        token: &Published,
        place: Place,
        ago: Duration,
        outcome: Outcome,
    ) {
        let accepted = match outcome {
            Outcome::Unknown => return,
            Outcome::Refused => false,
            Outcome::Accepted => true,
        };
        if accepted {
            self.taken.note(place, token.id);
        }
        let (account, at) = (self.account.clone(), self.clock.now() - ago);
        self.say(Demand::Replayed { account, refused: refused.id, place, at, accepted });
    }

    /// A token that is usable now, waiting up to `patience` for one. Safe to drop at any point.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] at once where waiting is known to be in vain, else when patience ends.
    pub(crate) async fn token(&self, patience: Duration) -> Result<Arc<Published>, Unavailable> {
        if let Some(token) = self.usable() {
            return Ok(token);
        }
        let deadline = self.clock.now() + patience;
        let mut why_not = None;
        let found = self.ask(Demand::Wanted(self.account.clone()), deadline, |availability, now| match availability {
            Availability::Usable { token, .. } if now < token.usable_until => Some(Ok(token.clone())),
            // Withdrawn in a moment; the renewer has the same clock and the same wish before it.
            Availability::Usable { .. } => None,
            Availability::SignInRequired { why } => Some(Err(Unavailable::SignInRequired { why: *why })),
            Availability::Withheld(withheld) => Some(Err(Unavailable::Withheld(withheld.clone()))),
            Availability::Ended => {
                let because = Some("the account's settings have changed meanwhile".into());
                Some(Err(Unavailable::NotNow { retry_after: SOON, because }))
            }
            Availability::Waiting { retry_at, because } => {
                let retry_after = retry_at.map_or(SOON, |at| at.since(now).max(SOON));
                let not_now = Unavailable::NotNow { retry_after, because: because.clone() };
                if retry_at.is_some_and(|at| at >= deadline) {
                    return Some(Err(not_now));
                }
                why_not = Some(not_now);
                None
            }
        });
        match found.await {
            Some(answer) => answer,
            None => Err(why_not.unwrap_or(Unavailable::NotNow { retry_after: SOON, because: None })),
        }
    }

    /// Says that the upstream answered 401 to the token of `refused`, and waits up to `patience` for that of another
    /// renewal: what a replay needs. `None` as soon as it is plain that none will come in time.
    pub(crate) async fn token_after(
        &self,
        refused: &Published,
        place: Place,
        patience: Duration,
    ) -> Option<Arc<Published>> {
        let (refused, worked) = (refused.id, self.taken.last(place));
        if patience.is_zero() {
            self.awaited.store(place.route, Ordering::Relaxed);
        }
        let deadline = self.clock.now() + patience;
        if let Some(token) = self.usable().filter(|token| token.id > refused) {
            return Some(token); // somebody else's 401 has brought it already
        }
        let found = self.ask(
            Demand::Rejected { account: self.account.clone(), id: refused, place, worked, until: deadline },
            deadline,
            |availability, now| match availability {
                Availability::Usable { token, .. } if token.id > refused && now < token.usable_until => {
                    Some(Some(token.clone()))
                }
                Availability::Usable { wished_for, .. } => wished_for.is_none_or(|at| at >= deadline).then_some(None),
                Availability::SignInRequired { .. } | Availability::Withheld(_) | Availability::Ended => Some(None),
                Availability::Waiting { retry_at, .. } => retry_at.is_some_and(|at| at >= deadline).then_some(None),
            },
        );
        found.await.flatten()
    }

    fn say(&self, demand: Demand) {
        let _ = self.demands.send((self.id, demand));
    }

    /// Says `demand`, then looks at every publication until `decide` has a response or the deadline passes.
    /// The renewer answers each demand by a publication, also where nothing has changed.
    async fn ask<T>(
        &self,
        demand: Demand,
        deadline: Timestamp,
        mut decide: impl FnMut(&Availability, Timestamp) -> Option<T>,
    ) -> Option<T> {
        let mut changed = self.changed.subscribe();
        let current = self.current.load();
        if matches!(**current, Availability::Ended) {
            return decide(&current, self.clock.now()); // nothing will be published any more
        }
        drop(current);
        self.say(demand);
        loop {
            let left = deadline.since(self.clock.now());
            let in_time = tokio::time::timeout(left, changed.changed()).await.is_ok_and(|alive| alive.is_ok());
            if let Some(answer) = decide(&self.current.load(), self.clock.now()) {
                return Some(answer);
            }
            if !in_time {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::AUTHORIZATION;

    use super::*;

    fn token(value: &'static str) -> Arc<Published> {
        let field = (AUTHORIZATION, HeaderValue::from_static(value));
        Arc::new(Published::new(RenewalId(1), field, Timestamp::FAR, Timestamp::FAR))
    }

    #[test]
    fn a_token_is_known_without_its_scheme_and_looked_for_if_it_is_no_ordinary_word() {
        let rows: [(&'static str, &str, &str, bool); 6] = [
            ("Bearer abcdefgh", "abcdefgh", "x-abcdefgh-x", true),
            ("Bearer abcdefgh", "abcdefgh", "abcdefg", false),
            ("abcdefgh", "abcdefgh", "abcdefgh", true),
            ("Token of two words", "of two words", "Token of two words", true),
            ("Bearer abcdefg", "abcdefg", "abcdefg", false),
            ("Bearer ", "", "", false),
        ];
        for (value, secret, text, is_in) in rows {
            let token = token(value);
            assert_eq!(token.secret(), secret.as_bytes(), "{value}");
            assert_eq!(token.secrets().are_in(text.as_bytes()), is_in, "{value} in {text}");
        }
    }

    #[test]
    fn the_responses_to_a_token_are_searched_for_those_before_it() {
        let source =
            TokenSource::new(AccountId::new("lab").unwrap(), Arc::new(Clock::start()), mpsc::unbounded_channel().0);
        let usable = |token: &Arc<Published>| Availability::Usable { token: token.clone(), wished_for: None };
        let tokens = ["Bearer the-first", "Bearer the-second", "Bearer the-third"].map(token);
        for token in &tokens {
            source.publish(Availability::Waiting { retry_at: None, because: None });
            source.publish(usable(token));
            source.publish(usable(token));
        }
        for (token, expected) in tokens.iter().zip([[true, false, false], [true, true, false], [true, true, true]]) {
            let found = ["the-first", "the-second", "the-third"].map(|text| token.secrets().are_in(text.as_bytes()));
            assert_eq!(found, expected);
        }
    }
}
