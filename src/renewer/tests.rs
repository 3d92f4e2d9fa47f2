//! What the renewer tells its world, and in which order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::account::{NotLoaded, SAVE_AGAIN};
use super::machines::Renewer;
use super::world::{RevokeReply, SaveError, StoreAnswer, Ticket, World};
use crate::accounts::{LockOrder, NewCredential, RequestError};
use crate::config::{Account, AccountId, Config};
use crate::oauth::{Dialect, Grant, GrantType, Person, Tokens};
use crate::renewal::{Failure, Phase, Place, RenewalId, Why};
use crate::secret::Secret;
use crate::store::{Credential, Record, SetAside, Trial};
use crate::timestamp::Timestamp;
use crate::token_endpoint::GrantFailure;
use crate::token_source::{Availability, Demand, Withholding};

/// A world that writes down what it is told.
#[derive(Default)]
struct Diary {
    lines: Vec<String>,
    is_disk_full: bool,
    /// So many more answers of the store come; all of them at once, if there is no number.
    answers_left: Option<usize>,
    answers: VecDeque<StoreAnswer>,
    /// What somebody else has saved.
    later: Option<Record>,
    replies: Vec<RevokeReply>,
    revoked_at: Vec<Option<String>>,
}

impl World for Diary {
    fn save(&mut self, ticket: Ticket, record: &Record) {
        let token = record.credential.refresh_token.as_ref().map_or("none", Secret::expose);
        let note = if record.redeeming { " being redeemed" } else { "" };
        let verdict = record.set_aside.as_ref().map(|s| format!(" set aside: {:?}", s.why)).unwrap_or_default();
        let learnt = record.learnt_life.map(|life| format!(" learnt {life} ms")).unwrap_or_default();
        self.lines.push(format!("save {} {token}{note}{verdict}{learnt}", record.generation));
        let result = match &self.later {
            _ if self.is_disk_full => Err(SaveError::Failed("no space left on device".into())),
            Some(found) if found.generation > record.generation => {
                Err(SaveError::Stale { found: Box::new(found.clone()), words: "a later generation is there".into() })
            }
            Some(_) | None => Ok(()),
        };
        self.answers.push_back(StoreAnswer { account: record.account.clone(), ticket, result });
    }

    fn remove(&mut self, ticket: Ticket, account: &AccountId) {
        self.lines.push("remove".into());
        let result = if self.is_disk_full { Err(SaveError::Failed("input/output error".into())) } else { Ok(()) };
        self.answers.push_back(StoreAnswer { account: account.clone(), ticket, result });
    }

    fn probe(&mut self, ticket: Ticket, record: &Record) {
        let full = || SaveError::Failed("no space left on device".into());
        let result = if self.is_disk_full { Err(full()) } else { Ok(()) };
        self.answers.push_back(StoreAnswer { account: record.account.clone(), ticket, result });
    }

    fn store_answer(&mut self) -> Option<StoreAnswer> {
        match &mut self.answers_left {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        self.answers.pop_front()
    }

    fn redeem_and_ask(&mut self, account: Arc<Account>, id: RenewalId, grant: Grant, _: Option<Person>) {
        self.redeem(account, id, grant);
    }

    fn redeem(&mut self, _: Arc<Account>, id: RenewalId, grant: Grant) {
        let what = match &grant {
            Grant::RefreshToken(token) => token.expose().to_owned(),
            Grant::Password { username, .. } => format!("the password of {username}"),
            Grant::ClientCredentials | Grant::Issued => "nothing".to_owned(),
            Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. } => unreachable!("no renewal has a code"),
        };
        self.lines.push(format!("redeem {} {what}", id.0));
    }

    fn revoke(&mut self, account: Arc<Account>, refresh_token: Secret, reply: Option<RevokeReply>) {
        self.revoked_at.push(account.server.revocation.as_ref().map(ToString::to_string));
        self.lines.push(format!("revoke {}", refresh_token.expose()));
        self.replies.extend(reply);
    }

    fn who_is(&mut self, _: Arc<Account>, _: Secret, _: Option<Person>, _: RevokeReply) {}

    fn publish(&mut self, _: &AccountId, availability: Availability) {
        self.lines.push(match availability {
            Availability::Usable { token, wished_for } => {
                let value = token.value.to_str().expect("visible").to_owned();
                assert!(token.value.is_sensitive());
                format!("publish {value}{}", if wished_for.is_some() { " (renewing)" } else { "" })
            }
            Availability::Waiting { retry_at: None, .. } => "publish wait".into(),
            Availability::Waiting { retry_at: Some(_), .. } => "publish wait for a retry".into(),
            Availability::SignInRequired { why } => format!("publish {why:?}"),
            Availability::Withheld(withheld) => format!("publish {}", withheld.cause.code()),
            Availability::Ended => unreachable!("only a reload ends a source"),
        });
    }

    fn calendar(&self, at: Timestamp) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(at.as_millis())
    }

    fn timestamp_of(&self, wall: SystemTime) -> Timestamp {
        Timestamp::from_millis(wall.duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64)
    }
}

const T0: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn lab() -> AccountId {
    AccountId::new("lab").expect("a name")
}

fn parsed(text: &str) -> Config {
    crate::config::testing::parse_with(text, &[]).config
}

fn config() -> Config {
    parsed(
        "[account.lab]\ntoken_endpoint = \"https://auth.lab.example/token\"\nclient_id = \"valetd\"\n\
         grant = \"refresh_token\"\nheader = \"Authorization: Bearer {access_token}\"\nupstream = \"https://api.lab.example\"\n",
    )
}

fn signed_in(token: &str) -> NewCredential {
    let credential = Credential { refresh_token: Some(Secret::new(token)), password: None };
    let account = config().accounts[&lab()].clone();
    NewCredential { servers: None, trial: Trial::Skipped, ..NewCredential::of(&account, credential) }
}

fn sign_in(renewer: &mut Renewer<Diary>, new: NewCredential, now: Timestamp) {
    let (reply, mut saved) = tokio::sync::oneshot::channel();
    renewer.replace(&lab(), new, reply, now);
    saved.try_recv().expect("the store answers at once").expect("saved");
}

/// A person asks for a renewal, and is told at once, as the store answers at once.
fn ask(renewer: &mut Renewer<Diary>, now: Timestamp) -> Result<(), String> {
    let (reply, mut told) = tokio::sync::oneshot::channel();
    renewer.refresh(&lab(), reply, now);
    told.try_recv().expect("told")
}

/// A renewer whose first renewal, with refresh token `r1`, is under way.
fn started() -> Renewer<Diary> {
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(None), T0);
    sign_in(&mut renewer, signed_in("r1"), T0);
    let lines = std::mem::take(&mut renewer.world.lines);
    let expected = ["publish NotSignedIn", "save 1 r1", "save 1 r1 being redeemed", "redeem 1 r1", "publish wait"];
    assert_eq!(lines, expected);
    renewer
}

fn tokens(access: &str, refresh: Option<&str>) -> Result<Tokens, GrantFailure> {
    Ok(Tokens {
        access_token: Some(Secret::new(access)),
        refresh_token: refresh.map(Secret::new),
        lifetime: Some(HOUR),
        ..Tokens::default()
    })
}

fn refused() -> Result<Tokens, GrantFailure> {
    Err(GrantFailure {
        failure: Failure::Permanent(Why::Revoked),
        oauth_error: Some("invalid_grant".into()),
        http_status: Some(400),
        detail: "auth.lab.example answered 400 invalid_grant".into(),
        wants_rotation: false,
    })
}

fn lost() -> Result<Tokens, GrantFailure> {
    let detail = "the connection was reset".to_owned();
    Err(GrantFailure::unanswered(Failure::Ambiguous, detail))
}

#[test]
fn a_rotated_refresh_token_is_on_the_disk_before_its_grant_is_published() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    assert_eq!(renewer.world.lines, ["save 2 r2", "publish Bearer a1"]);
}

#[test]
fn a_full_disk_costs_no_request_and_is_tried_again() {
    let mut renewer = started();
    renewer.world.is_disk_full = true;
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    assert_eq!(renewer.world.lines, ["save 2 r2", "publish Bearer a1"]);
    assert!(!renewer.views()[0].stored.as_ref().expect("stored").saved);
    assert_eq!(renewer.next_wakeup(), Some(T0 + SAVE_AGAIN));
    renewer.world.is_disk_full = false;
    renewer.tick(T0 + SAVE_AGAIN);
    assert_eq!(renewer.world.lines[2..], ["save 2 r2"]);
    assert!(renewer.views()[0].stored.as_ref().expect("stored").saved);
}

#[test]
fn on_a_full_disk_no_refresh_token_that_may_rotate_is_spent_and_it_is_renewed_when_there_is_room() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.world.is_disk_full = true;
    renewer.world.lines.clear();
    let later = T0 + Duration::from_secs(60);
    let refused = ask(&mut renewer, later).expect_err("in words");
    assert!(refused.starts_with("the refresh token is not spent, as the next one could not be saved: no space"));
    let expected = ["save 2 r2 being redeemed", "publish Bearer a1"];
    assert_eq!(renewer.world.lines, expected, "the token in hand stays");
    let stored = renewer.views()[0].stored.clone().expect("stored");
    assert!(stored.saved, "generation 2 is on the disk");
    // its end comes while the disk is full
    let end = T0 + HOUR;
    renewer.tick(end);
    renewer.demands([Demand::Wanted(lab())], end);
    assert!(renewer.world.lines.iter().all(|line| !line.starts_with("redeem")), "{:?}", renewer.world.lines);
    assert_eq!(renewer.world.lines.last().expect("a line"), "publish wait for a retry");
    renewer.world.is_disk_full = false;
    renewer.world.lines.clear();
    renewer.tick(end + SAVE_AGAIN);
    let lines = &renewer.world.lines;
    let sent = lines.iter().position(|line| line.starts_with("redeem ")).expect("it is renewed at once");
    assert_eq!(lines[sent - 1], "save 2 r2 being redeemed", "{lines:?}");
}

#[test]
fn on_a_full_disk_a_trial_spends_nothing_and_what_was_handed_in_waits_for_room() {
    let mut renewer = Renewer::new(Diary { is_disk_full: true, ..Diary::default() }, 7);
    renewer.configure(&config(), |_| Ok(None), T0);
    let (_, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    let refused = told.try_recv().expect("told").expect_err("not saved");
    assert_eq!(refused, RequestError::Refused("no space left on device".to_owned()));
    let is_sent = |renewer: &Renewer<Diary>| renewer.world.lines.iter().any(|line| line.starts_with("redeem"));
    assert!(!is_sent(&renewer), "{:?}", renewer.world.lines);
    renewer.world.is_disk_full = false;
    renewer.tick(T0 + SAVE_AGAIN);
    renewer.tick(T0 + 2 * SAVE_AGAIN);
    assert!(is_sent(&renewer), "it is saved and renewed when there is room: {:?}", renewer.world.lines);

    // what works stays as it is, and what was handed in is with whoever has it still
    let mut renewer = usable();
    renewer.world.is_disk_full = true;
    let (_, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    let refused = told.try_recv().expect("told").expect_err("not tried");
    assert_eq!(refused, RequestError::CredentialUntried("not tried: no space left on device".to_owned()));
    assert_eq!(renewer.world.lines, [""; 0]);
}

#[test]
fn who_asks_while_a_response_is_being_saved_gets_another_renewal_and_is_told_when_it_is_sent() {
    let mut renewer = started();
    renewer.world.answers_left = Some(0);
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    let (reply, mut told) = tokio::sync::oneshot::channel();
    let later = T0 + Duration::from_secs(60);
    renewer.refresh(&lab(), reply, later);
    assert!(told.try_recv().is_err(), "the store has not answered");
    assert_eq!(renewer.world.lines, ["save 2 r2"]);
    renewer.world.answers_left = None;
    renewer.settle(later);
    assert_eq!(told.try_recv(), Ok(Ok(())));
    let lines = &renewer.world.lines[1..];
    assert!(lines.contains(&"redeem 2 r2".to_owned()), "{lines:?}");
}

#[test]
fn a_trial_whose_probe_the_store_has_not_answered_is_not_sent_and_ends_with_a_stop() {
    let mut renewer = usable();
    renewer.world.answers_left = Some(0);
    let (_, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    assert_eq!(renewer.world.lines, [""; 0]);
    assert!(renewer.awaits_the_store());
    renewer.stop(T0);
    renewer.world.answers_left = None;
    renewer.settle(T0);
    assert_eq!(told.try_recv().expect("told"), Err(RequestError::Stopping));
    assert_eq!(renewer.world.lines, [""; 0], "nothing is spent");
    assert!(!renewer.awaits_the_store());
}

#[test]
fn what_a_trial_has_rotated_is_not_taken_for_a_token_that_is_not() {
    let mut renewer = usable();
    let (trial, _told) = hand_in(&mut renewer, signed_in("n1"), T0);
    renewer.answered(&lab(), trial, tokens("b1", Some("n2")), T0);
    assert!(!renewer.accounts[&lab()].record.as_ref().expect("taken").unrotated);
}

#[test]
fn on_a_full_disk_a_refresh_token_that_was_not_rotated_is_spent_all_the_same() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", None), T0);
    renewer.world.is_disk_full = true;
    renewer.world.lines.clear();
    ask(&mut renewer, T0 + Duration::from_secs(60)).expect("it stays good");
    assert_eq!(renewer.world.lines[..2], ["save 1 r1 being redeemed", "redeem 2 r1"]);
}

#[test]
fn a_refusal_after_a_lost_answer_is_kept_as_ambiguous() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), lost(), T0);
    renewer.tick(T0 + Duration::from_secs(1));
    renewer.world.lines.clear();
    renewer.answered(&lab(), RenewalId(2), refused(), T0 + Duration::from_secs(2));
    assert_eq!(renewer.world.lines, ["save 1 r1 being redeemed set aside: Ambiguous", "publish Ambiguous"]);
}

#[test]
fn a_restart_in_the_middle_of_a_renewal_knows_that_an_answer_may_be_lost() {
    let mut record = Record::new(&config().accounts[&lab()], 1, signed_in("r1"), 0);
    record.redeeming = true;
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(Some(record.clone())), T0);
    renewer.answered(&lab(), RenewalId(1), refused(), T0);
    assert_eq!(renewer.world.lines.last().expect("a line"), "publish Ambiguous");
}

#[test]
fn what_is_sealed_under_a_key_that_is_away_waits_for_it_and_nothing_takes_its_place() {
    let record = Record::new(&config().accounts[&lab()], 3, signed_in("r1"), 0);
    let mut renewer = Renewer::new(Diary::default(), 7);
    let locked = || NotLoaded::Withheld(Withholding::StoreLocked, "no stick".to_owned());
    renewer.configure(&config(), |_| Err(NotLoaded::Opening), T0);
    assert_eq!(std::mem::take(&mut renewer.world.lines), ["publish wait"]);
    renewer.look_again(|_| Err(locked()), T0);
    assert_eq!(std::mem::take(&mut renewer.world.lines), ["publish store-locked"]);
    // asked again and again, it is the same lock
    renewer.look_again(|_| Err(locked()), T0 + HOUR);
    renewer.demands([Demand::Wanted(lab())], T0 + HOUR);
    renewer.tick(T0 + HOUR);
    let lines = std::mem::take(&mut renewer.world.lines);
    assert!(lines.iter().all(|line| line == "publish store-locked"), "nothing is sent or saved: {lines:?}");
    assert_eq!(renewer.views()[0].withheld.as_ref().map(|withheld| withheld.since), Some(T0));
    assert!(ask(&mut renewer, T0 + HOUR).unwrap_err().contains("no stick"));
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    renewer.replace(&lab(), signed_in("r9"), reply, T0 + HOUR);
    assert!(matches!(answer.try_recv(), Ok(Err(RequestError::StoreLocked(_)))));
    assert_eq!(renewer.world.lines, [""; 0]);
    renewer.look_again(|_| Ok(Some(record.clone())), T0 + HOUR);
    let lines = std::mem::take(&mut renewer.world.lines);
    assert_eq!(lines, ["save 3 r1 being redeemed", "redeem 1 r1", "publish wait"]);
    // what is at hand is not read again
    renewer.look_again(|_| panic!("it is at hand"), T0 + HOUR);
}

#[test]
fn a_lock_hands_out_nothing_renews_as_before_and_ends_when_somebody_says_so() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.world.lines.clear();
    renewer.lock(LockOrder(1), T0);
    renewer.lock(LockOrder(2), T0);
    assert!(renewer.unlock(LockOrder(1), T0).is_err(), "what began before a lock does not undo it");
    renewer.demands([Demand::Wanted(lab())], T0);
    let lines = std::mem::take(&mut renewer.world.lines);
    assert!(lines.len() >= 2 && lines.iter().all(|line| line == "publish locked"), "{lines:?}");
    let view = &renewer.views()[0];
    assert_eq!(
        (view.snapshot.usable_until, view.withheld.as_ref().map(|w| w.cause)),
        (None, Some(Withholding::Locked))
    );
    ask(&mut renewer, T0 + HOUR / 2).unwrap();
    renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("r3")), T0 + HOUR / 2);
    let lines = std::mem::take(&mut renewer.world.lines);
    assert!(lines.contains(&"save 3 r3".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("Bearer")), "{lines:?}");
    renewer.unlock(LockOrder(2), T0 + HOUR / 2).unwrap();
    assert_eq!(renewer.world.lines, ["publish Bearer a2"]);
}

#[test]
fn what_is_forgotten_is_read_again_and_never_while_it_is_the_only_copy() {
    let mut renewer = started();
    assert!(renewer.forget_credentials("locked", T0).unwrap_err().contains("lab"), "an answer is owed");
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.world.lines.clear();
    renewer.forget_credentials("locked", T0).unwrap();
    assert_eq!(std::mem::take(&mut renewer.world.lines), ["publish store-locked"]);
    assert_eq!(renewer.views()[0].stored, None);
    renewer.tick(T0 + HOUR);
    assert_eq!(renewer.world.lines, [""; 0], "nothing is renewed");
    let record = Record::new(&config().accounts[&lab()], 2, signed_in("r2"), 0);
    renewer.look_again(|_| Ok(Some(record.clone())), T0 + HOUR);
    assert_eq!(renewer.world.lines, ["save 2 r2 being redeemed", "redeem 1 r2", "publish wait"]);
}

#[test]
fn a_sign_in_takes_the_place_of_what_has_lost_its_key() {
    let mut renewer = Renewer::new(Diary::default(), 7);
    let gone = NotLoaded::Withheld(Withholding::KeyGone, "another machine's".to_owned());
    renewer.configure(&config(), |_| Err(gone.clone()), T0);
    assert_eq!(std::mem::take(&mut renewer.world.lines), ["publish key-gone"]);
    sign_in(&mut renewer, signed_in("r1"), T0);
    assert_eq!(renewer.world.lines, ["save 1 r1", "save 1 r1 being redeemed", "redeem 1 r1", "publish wait"]);
    assert_eq!(renewer.views()[0].withheld, None);
}

#[test]
fn what_could_not_be_tried_takes_the_place_of_no_record_that_is_not_used() {
    for cause in [Withholding::KeyGone, Withholding::OtherMachine, Withholding::OlderCopy] {
        let withheld = NotLoaded::Withheld(cause, "somebody may adopt it, and its key may come back".to_owned());
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&config(), |_| Err(withheld.clone()), T0);
        renewer.world.lines.clear();
        let (trial, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
        renewer.answered(&lab(), trial, unreachable_server(), T0);
        let told = told.try_recv().expect("answered");
        assert!(matches!(told, Err(RequestError::CredentialUntried(_))), "{cause:?}: {told:?}");
        let lines = &renewer.world.lines;
        assert!(!lines.iter().any(|line| line.starts_with("save")), "{cause:?}: {lines:?}");
        assert_eq!(renewer.views()[0].withheld.as_ref().map(|withheld| withheld.cause), Some(cause));
    }
}

#[test]
fn a_credential_is_never_sent_to_another_server_than_the_one_that_issued_it() {
    let mut record = Record::new(&config().accounts[&lab()], 1, signed_in("r1"), 0);
    record.issued_by = "https://evil.example".into();
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(Some(record.clone())), T0);
    renewer.demands([Demand::Wanted(lab())], T0);
    renewer.tick(T0 + HOUR);
    assert!(renewer.world.lines.iter().all(|line| line == "publish IssuedElsewhere"), "{:?}", renewer.world.lines);
}

fn with_endpoints(more: &str) -> Config {
    let text = "[account.lab]\ntoken_endpoint = \"https://auth.lab.example/token\"\nclient_id = \"valetd\"\n\
        upstream = \"https://api.lab.example\"\n";
    parsed(&format!("{text}{more}"))
}

#[test]
fn an_endpoint_on_another_origin_gets_nothing_and_going_back_works_again() {
    let cognito =
        |at: &str| with_endpoints(&format!("grant = \"cognito_initiate_auth\"\ncognito_endpoint = \"{at}\"\n"));
    let revocation = |at: &str| with_endpoints(&format!("revocation_endpoint = \"{at}\"\n"));
    let (own, other) = ("https://auth.lab.example/cognito", "https://cognito.lab.example/");
    let rows = [
        ("another host", cognito(other), cognito("https://evil.example/"), true),
        ("another port", cognito(other), cognito("https://cognito.lab.example:444/"), true),
        ("a host that ends alike", cognito(other), cognito("https://cognito.lab.example.evil.example/"), true),
        ("another path", cognito(other), cognito("https://cognito.lab.example/v2"), false),
        ("the token endpoint's origin", cognito(other), cognito(own), false),
        ("where there was none", config(), revocation("https://evil.example/revoke"), true),
        ("where there was none, but on the same origin", config(), revocation("https://auth.lab.example/r"), false),
        ("the revocation elsewhere", revocation("https://auth.lab.example/r"), revocation("https://x.example/"), true),
    ];
    for (case, before, after, needs_sign_in) in rows {
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&before, |_| Ok(None), T0);
        sign_in(&mut renewer, signed_in("r1"), T0);
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        renewer.world.lines.clear();
        renewer.configure(&after, |_| Ok(None), T0);
        renewer.demands([Demand::Wanted(lab())], T0);
        renewer.tick(T0 + HOUR);
        let lines = &renewer.world.lines;
        let refused = lines.iter().all(|line| line == "publish IssuedElsewhere");
        assert_eq!(refused, needs_sign_in, "{case}: {lines:?}");
        if needs_sign_in {
            renewer.configure(&before, |_| Ok(None), T0 + HOUR);
            renewer.tick(T0 + 2 * HOUR);
            let lines = &renewer.world.lines;
            assert!(lines.iter().any(|line| line.starts_with("redeem") && line.ends_with("r2")), "{case}: {lines:?}");
        }
    }
}

#[test]
fn a_renewal_under_way_while_an_endpoint_moves_is_the_last() {
    let mut renewer = started();
    let moved = with_endpoints("revocation_endpoint = \"https://evil.example/revoke\"\n");
    renewer.configure(&moved, |_| Ok(None), T0);
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.tick(T0 + HOUR);
    let lines = &renewer.world.lines;
    assert!(lines.contains(&"save 2 r2".to_owned()), "what it brought is kept: {lines:?}");
    assert_eq!(lines.last().expect("a line"), "publish IssuedElsewhere", "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("Bearer") || line.starts_with("redeem")), "{lines:?}");
}

#[test]
fn a_sign_out_tells_a_server_of_before_and_no_other() {
    let mut renewer = started();
    let moved = with_endpoints("revocation_endpoint = \"https://evil.example/revoke\"\n");
    renewer.configure(&moved, |_| Ok(None), T0);
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    renewer.remove(&lab(), reply, T0);
    let words = answer.try_recv().expect("answered").expect("signed out");
    assert!(words.contains("not revoked") && words.contains("https://evil.example"), "{words}");
    renewer.world.revoked_at.clear();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    assert_eq!(renewer.world.revoked_at, [None], "where the account had nowhere to revoke");
    assert!(!renewer.world.lines.contains(&"revoke r1".to_owned()));
}

#[test]
fn a_sign_in_that_was_made_at_another_server_is_kept_and_not_used() {
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&with_endpoints("revocation_endpoint = \"https://new.example/r\"\n"), |_| Ok(None), T0);
    let servers = Some(crate::store::Servers::of(&config().accounts[&lab()]));
    sign_in(&mut renewer, NewCredential { servers, ..signed_in("r1") }, T0);
    assert_eq!(renewer.world.lines.last().expect("a line"), "publish IssuedElsewhere");
    renewer.configure(&config(), |_| Ok(None), T0);
    assert!(renewer.world.lines.contains(&"redeem 1 r1".to_owned()), "{:?}", renewer.world.lines);
}

#[test]
fn a_record_of_before_counts_as_bound_to_its_token_endpoint_and_to_what_its_preset_ships_with() {
    let gdh = AccountId::new("gdh").expect("a name");
    let preset = |more: &str| parsed(&format!("[account.gdh]\nprovider = \"gdh\"\n{more}"));
    let mut record = Record::new(&preset("").accounts[&gdh], 1, signed_in("r1"), 0);
    assert_eq!(record.others.as_deref(), Some(&["https://cognito-idp.eu-west-1.amazonaws.com".to_owned()][..]));
    record.others = None;
    assert!(record.was_issued_to(&preset("").accounts[&gdh]));
    let moved = preset("cognito_endpoint = \"https://cognito-idp.us-east-1.amazonaws.com/\"\n");
    assert!(!record.was_issued_to(&moved.accounts[&gdh]));
    let own = with_endpoints(
        "grant = \"cognito_initiate_auth\"\ncognito_endpoint = \"https://cognito-idp.eu-west-1.amazonaws.com/\"\n",
    );
    let mut record = Record::new(&own.accounts[&lab()], 1, signed_in("r1"), 0);
    record.others = None;
    assert!(!record.was_issued_to(&own.accounts[&lab()]), "no preset's token endpoint");
    record.note_servers(&own.accounts[&lab()]);
    assert_eq!(record.others, None, "what was not issued to an account is not bound to it");
    record.note_servers(&config().accounts[&lab()]);
    assert_eq!(record.others, Some(Vec::new()));
}

#[test]
fn signing_out_during_a_renewal_forgets_at_once_and_revokes_what_comes_back() {
    let mut renewer = started();
    let (reply, _answer) = tokio::sync::oneshot::channel();
    renewer.remove(&lab(), reply, T0);
    assert_eq!(renewer.world.lines, ["publish NotSignedIn", "remove", "revoke r1"]);
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    assert_eq!(renewer.world.lines[3..], ["revoke r2"]);
}

#[test]
fn a_sign_in_during_a_renewal_wins_over_the_answer_that_is_still_owed() {
    let mut renewer = started();
    sign_in(&mut renewer, signed_in("n1"), T0);
    renewer.world.lines.clear();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    assert_eq!(renewer.world.lines, [] as [&str; 0]);
    renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("n2")), T0);
    assert_eq!(renewer.world.lines, ["save 3 n2", "publish Bearer a2"]);
}

#[test]
fn an_account_that_leaves_the_configuration_waits_for_the_answer_that_is_owed() {
    let mut renewer = started();
    renewer.configure(&parsed(""), |_| Ok(None), T0);
    assert!(renewer.views().is_empty());
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    assert_eq!(renewer.world.lines[0], "save 2 r2");
    assert_eq!(renewer.next_wakeup(), None);
}

#[test]
fn a_reload_during_a_renewal_does_not_spend_the_refresh_token_twice() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.tick(T0 + HOUR - Duration::from_secs(200));
    renewer.world.lines.clear();
    let mut changed = config();
    changed.accounts.get_mut(&lab()).expect("it is there").scopes.push("more".into());
    let later = T0 + HOUR - Duration::from_secs(199);
    renewer.configure(&changed, |_| Ok(None), later);
    assert_eq!(renewer.world.lines, ["publish wait"], "the old scopes' token is not used any more");
    renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("r3")), later);
    let expected = ["save 3 r3", "save 3 r3 being redeemed", "redeem 3 r3", "publish wait"];
    assert_eq!(renewer.world.lines[1..], expected, "and the answer's is not either");
    renewer.answered(&lab(), RenewalId(3), tokens("a3", Some("r4")), later);
    assert_eq!(renewer.world.lines[5..], ["save 4 r4", "publish Bearer a3"]);
}

#[test]
fn an_answer_that_is_no_verdict_does_not_make_a_lost_one_forgotten() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), lost(), T0);
    renewer.tick(T0 + Duration::from_secs(1));
    renewer.world.lines.clear();
    let failure = Failure::Transient { retry_after: None };
    let busy = GrantFailure { http_status: Some(503), ..GrantFailure::unanswered(failure, "busy".into()) };
    renewer.answered(&lab(), RenewalId(2), Err(busy), T0 + Duration::from_secs(2));
    assert_eq!(renewer.world.lines.last().expect("a line"), "save 1 r1 being redeemed");
}

#[test]
fn an_account_that_leaves_with_an_unsaved_credential_and_comes_back_still_has_it() {
    let mut renewer = started();
    renewer.world.is_disk_full = true;
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.configure(&parsed(""), |_| Ok(None), T0);
    renewer.world.is_disk_full = false;
    renewer.world.lines.clear();
    renewer.configure(&config(), |_| panic!("it is still at hand"), T0);
    assert_eq!(renewer.world.lines, ["publish Bearer a1"], "the new listener is told at once");
    renewer.tick(T0 + SAVE_AGAIN);
    assert_eq!(renewer.world.lines[1..], ["save 2 r2"]);
    renewer.configure(&parsed(""), |_| Ok(None), T0);
    assert_eq!(renewer.next_wakeup(), None, "what is saved may go");
}

#[test]
fn an_account_that_comes_back_never_waits_for_an_answer_that_nobody_owes() {
    let mut renewer = started();
    sign_in(&mut renewer, signed_in("n1"), T0); // renewal 2; the response to 1 is still under way
    renewer.configure(&parsed(""), |_| Ok(None), T0);
    renewer.answered(&lab(), RenewalId(2), lost(), T0);
    renewer.tick(T0 + HOUR); // would be tried again now, but the account is leaving
    renewer.world.lines.clear();
    renewer.configure(&config(), |_| Ok(None), T0 + HOUR);
    assert!(renewer.world.lines.iter().any(|line| line.starts_with("redeem")), "{:?}", renewer.world.lines);
}

#[test]
fn an_answer_to_a_forgotten_sign_in_is_not_taken_for_one_of_its_successor() {
    let mut renewer = started();
    let (reply, _answer) = tokio::sync::oneshot::channel();
    renewer.remove(&lab(), reply, T0);
    renewer.configure(&parsed(""), |_| Ok(None), T0);
    renewer.configure(&config(), |_| Ok(None), T0);
    sign_in(&mut renewer, signed_in("n1"), T0);
    renewer.world.lines.clear();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", None), T0);
    assert_eq!(renewer.world.lines, [] as [&str; 0]);
    renewer.answered(&lab(), RenewalId(2), tokens("a2", None), T0);
    assert_eq!(renewer.world.lines[0], "publish Bearer a2");
}

#[test]
fn a_sign_out_that_the_disk_refuses_revokes_is_tried_again_and_blocks_no_sign_in() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.world.is_disk_full = true;
    renewer.world.lines.clear();
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    renewer.remove(&lab(), reply, T0);
    assert_eq!(renewer.world.lines, ["publish NotSignedIn", "remove", "revoke r2"]);
    assert!(answer.try_recv().expect("answered").is_err());
    renewer.tick(T0 + SAVE_AGAIN);
    assert_eq!(renewer.world.lines[3..], ["remove"]);
    renewer.world.is_disk_full = false;
    sign_in(&mut renewer, signed_in("n1"), T0 + SAVE_AGAIN);
    assert_eq!(renewer.world.lines[4], "save 3 n1", "above what is still on the disk");
}

#[test]
fn a_stop_offers_a_full_disk_the_credential_once_more() {
    let mut renewer = started();
    renewer.world.is_disk_full = true;
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.world.is_disk_full = false;
    renewer.world.lines.clear();
    renewer.stop(T0);
    assert_eq!(renewer.world.lines, ["save 2 r2"]);
}

#[test]
fn an_answer_for_another_identity_is_used_and_says_whose_it_is() {
    let mut renewer = started();
    for (id, who) in [(1, "me"), (2, "you")] {
        let mut tokens = tokens(&format!("a{id}"), None).expect("tokens");
        let payload = BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"{who}\",\"aud\":\"valetd\",\"exp\":9}}"));
        tokens.id_token = Some(Secret::new(format!("e30.{payload}.x")));
        tokens.id_token_lifetime = Some(HOUR);
        renewer.answered(&lab(), RenewalId(id), Ok(tokens), T0);
        let seen = renewer.views()[0].stored.clone().expect("stored").identity;
        assert_eq!(seen.as_deref(), Some(who), "after renewal {id}");
        renewer.tick(T0 + HOUR);
    }
    assert!(renewer.world.lines.contains(&"publish Bearer a2".to_owned()), "{:?}", renewer.world.lines);
}

#[test]
fn the_life_of_tokens_is_learnt_kept_with_the_account_and_known_to_the_next_process() {
    let unstated = |access| {
        let tokens = tokens(access, None).expect("tokens");
        Ok(Tokens { lifetime: None, ..tokens })
    };
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), unstated("a1"), T0);
    let mut now = T0;
    for id in 1..=4 {
        now = now + Duration::from_secs(6);
        let (account, refused, place) = (lab(), RenewalId(id), Place { route: 1, resource: 1 });
        renewer.demands([Demand::Rejected { account, id: refused, place, worked: Some(refused), until: now }], now);
        renewer.answered(&lab(), RenewalId(id + 1), unstated("a"), now);
        renewer.world.lines.clear();
        renewer.demands([Demand::Replayed { account: lab(), refused, place, at: now, accepted: true }], now);
    }
    assert_eq!(renewer.world.lines, ["publish Bearer a", "save 1 r1 learnt 6000 ms"], "it is renewed at another time");
    // the next person to sign in is given tokens by the same server
    sign_in(&mut renewer, signed_in("n1"), now);
    assert_eq!(renewer.views()[0].snapshot.learnt_life, Some(Duration::from_secs(6)));
    let record = renewer.accounts[&lab()].record.clone().expect("a record");
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(Some(record.clone())), now);
    assert_eq!(renewer.views()[0].snapshot.learnt_life, Some(Duration::from_secs(6)));
    renewer.answered(&lab(), RenewalId(1), unstated("a1"), now);
    assert!(renewer.next_wakeup().expect("it is renewed") <= now + Duration::from_secs(6));
}

#[test]
fn a_thousand_wishes_are_one_renewal() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", None), T0);
    renewer.world.lines.clear();
    let later = T0 + 2 * HOUR;
    renewer.demands((0..1000).map(|_| Demand::Wanted(lab())), later);
    let expected = ["save 1 r1 being redeemed", "redeem 2 r1", "publish wait", "publish wait"];
    assert_eq!(renewer.world.lines, expected);
}

#[test]
fn a_kept_password_signs_in_again_when_the_refresh_token_is_refused() {
    let mut renewer = started();
    let mut new = signed_in("r1");
    new.credential.password = Some(("me".into(), Secret::new("pw")));
    sign_in(&mut renewer, new, T0);
    renewer.world.lines.clear();
    renewer.answered(&lab(), RenewalId(2), refused(), T0);
    assert_eq!(renewer.world.lines, ["redeem 2 the password of me"]);
    renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("r5")), T0);
    assert_eq!(renewer.world.lines[1..], ["save 3 r5", "publish Bearer a2"]);
}

/// A renewer whose account keeps a password beside `r1`, which the server has just refused: the password has its turn.
fn with_password_presented() -> Renewer<Diary> {
    let mut renewer = started();
    let mut new = signed_in("r1");
    new.credential.password = Some(("me".into(), Secret::new("pw")));
    sign_in(&mut renewer, new, T0);
    renewer.answered(&lab(), RenewalId(2), refused(), T0);
    assert_eq!(renewer.world.lines.pop().as_deref(), Some("redeem 2 the password of me"));
    renewer.world.lines.clear();
    renewer
}

#[test]
fn a_refused_refresh_token_is_kept_until_the_kept_password_has_brought_tokens() {
    let busy = || GrantFailure::unanswered(Failure::Transient { retry_after: None }, "busy".to_owned());
    let kept = |renewer: &Renewer<Diary>| {
        let credential = &renewer.accounts[&lab()].record.as_ref().expect("signed in").credential;
        credential.refresh_token.as_ref().map(|token| token.expose().to_owned())
    };
    for (case, answer, expected) in [
        ("the password is refused, too", refused(), Some("r1")),
        ("the password cannot be tried", Err(busy()), Some("r1")),
        (
            "an answer that cannot be used",
            Ok(Tokens { unusable: Some("DPoP".into()), ..Tokens::default() }),
            Some("r1"),
        ),
        ("tokens, and a new refresh token", tokens("a2", Some("r5")), Some("r5")),
        ("tokens without one", tokens("a2", None), None),
    ] {
        let mut renewer = with_password_presented();
        renewer.answered(&lab(), RenewalId(2), answer, T0);
        assert_eq!(kept(&renewer).as_deref(), expected, "{case}");
    }
}

#[test]
fn where_the_password_is_refused_too_the_refresh_token_is_presented_again_and_the_password_never() {
    let redeemed = |renewer: &mut Renewer<Diary>| {
        let lines = std::mem::take(&mut renewer.world.lines);
        lines.into_iter().filter(|line| line.starts_with("redeem")).collect::<Vec<String>>()
    };
    let minutes = |minutes: u32| T0 + Duration::from_secs(60) * minutes;
    let mut renewer = with_password_presented();
    renewer.answered(&lab(), RenewalId(2), refused(), T0);
    let record = renewer.accounts[&lab()].record.clone().expect("kept");
    assert_eq!(record.set_aside.as_ref().map(|set_aside| set_aside.why), Some(Why::Revoked));
    assert_eq!(redeemed(&mut renewer), [""; 0]);
    renewer.tick(minutes(2));
    assert_eq!(redeemed(&mut renewer), ["redeem 3 r1"], "it may have been the server's bad minute");
    renewer.answered(&lab(), RenewalId(3), refused(), minutes(2));
    assert_eq!(redeemed(&mut renewer), [""; 0], "many refused passwords lock an account");
    renewer.tick(minutes(14));
    assert_eq!(redeemed(&mut renewer), ["redeem 4 r1"]);
    renewer.answered(&lab(), RenewalId(4), tokens("a1", None), minutes(14));
    assert!(renewer.world.lines.contains(&"publish Bearer a1".to_owned()), "{:?}", renewer.world.lines);

    let mut next = Renewer::new(Diary::default(), 7);
    next.configure(&config(), |_| Ok(Some(record.clone())), T0);
    assert_eq!(redeemed(&mut next), ["redeem 1 r1"], "after a start");
    next.answered(&lab(), RenewalId(1), refused(), T0);
    assert_eq!(redeemed(&mut next), [""; 0], "the next process knows that the password was refused");
}

#[test]
fn a_password_that_renews_is_not_sent_again_when_it_is_refused_though_a_refresh_token_is_there() {
    let mut renewer = Renewer::new(Diary::default(), 7);
    let mut account = config().accounts[&lab()].clone();
    account.grant = GrantType::Password;
    let mut config = config();
    config.accounts.insert(lab(), account.clone());
    let mut new = signed_in("r1");
    new.credential.password = Some(("me".into(), Secret::new("pw")));
    let record = Record::new(&account, 1, new, 0);
    renewer.configure(&config, |_| Ok(Some(record.clone())), T0);
    renewer.world.lines.clear();
    renewer.answered(&lab(), RenewalId(1), refused(), T0);
    assert!(!renewer.world.lines.iter().any(|line| line.starts_with("redeem")), "{:?}", renewer.world.lines);
    assert!(renewer.world.lines.contains(&"publish Revoked".to_owned()), "{:?}", renewer.world.lines);
}

#[test]
fn a_refused_refresh_token_is_presented_once_more_at_a_start_or_when_asked_and_a_refused_password_is_not() {
    let account = config().accounts[&lab()].clone();
    let password = || Credential { refresh_token: None, password: Some(("me".into(), Secret::new("pw"))) };
    for (why, credential, is_presented) in [
        (Why::Revoked, signed_in("r1").credential, true),
        (Why::Ambiguous, signed_in("r1").credential, true),
        (Why::Revoked, password(), false),
    ] {
        let new = NewCredential { credential, ..signed_in("r1") };
        let set_aside = Some(SetAside { why, at: 0, oauth_error: None });
        let record = Record { set_aside, ..Record::new(&account, 1, new, 0) };
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&config(), |_| Ok(Some(record.clone())), T0);
        let lines = std::mem::take(&mut renewer.world.lines);
        let redeems = |lines: &[String]| lines.iter().filter(|line| line.starts_with("redeem")).count();
        assert_eq!(redeems(&lines), usize::from(is_presented), "{why:?}: {lines:?}");
        assert_eq!(ask(&mut renewer, T0).is_ok(), is_presented, "{why:?}");
        if is_presented {
            renewer.answered(&lab(), RenewalId(1), refused(), T0);
            assert!(renewer.world.lines.last().is_some_and(|line| *line == format!("publish {why:?}")), "{why:?}");
            renewer.tick(T0 + 24 * HOUR);
            assert_eq!(redeems(&renewer.world.lines), 0, "{why:?}: final");
            ask(&mut renewer, T0 + 24 * HOUR).expect("a person asks");
            assert_eq!(redeems(&renewer.world.lines), 1, "{why:?}");
            renewer.answered(&lab(), RenewalId(2), tokens("a1", None), T0 + 24 * HOUR);
            assert!(renewer.world.lines.iter().any(|line| line == "publish Bearer a1"), "{:?}", renewer.world.lines);
        }
    }
}

#[test]
fn what_an_unusable_answer_rotates_is_saved_and_asked_again_with() {
    let mut renewer = started();
    let unusable = Some("auth.lab.example answered 200 with a token of type DPoP".to_owned());
    let answer = Tokens { refresh_token: Some(Secret::new("r2")), unusable, ..Tokens::default() };
    renewer.answered(&lab(), RenewalId(1), Ok(answer), T0);
    assert_eq!(renewer.world.lines, ["save 2 r2", "publish wait for a retry"]);
    let failure = renewer.views()[0].last_failure.clone().expect("told");
    assert!(failure.detail.contains("DPoP"), "{failure:?}");
    renewer.world.lines.clear();
    renewer.tick(T0 + Duration::from_secs(5));
    assert!(renewer.world.lines.contains(&"redeem 2 r2".to_owned()), "{:?}", renewer.world.lines);
}

#[test]
fn an_unknown_refusal_that_is_the_same_for_a_day_is_told_as_such() {
    let detail = |status: u16, last: u16, hours: u32| {
        let mut renewer = started();
        let answer = |status| GrantFailure {
            failure: Failure::Transient { retry_after: None },
            oauth_error: None,
            http_status: Some(status),
            detail: "auth.lab.example answered".to_owned(),
            wants_rotation: false,
        };
        renewer.answered(&lab(), RenewalId(1), Err(answer(status)), T0);
        renewer.tick(T0 + hours * HOUR);
        renewer.answered(&lab(), RenewalId(2), Err(answer(last)), T0 + hours * HOUR);
        renewer.views()[0].last_failure.clone().expect("told").detail
    };
    for (case, status, last, hours, is_told) in [
        ("for a day", 400, 400, 24, true),
        ("for less", 400, 400, 23, false),
        ("another one", 400, 403, 24, false),
        ("overload", 429, 429, 24, false),
        ("a server in trouble", 503, 503, 24, false),
    ] {
        assert_eq!(detail(status, last, hours).contains("the same for a day"), is_told, "{case}");
    }
}

/// A renewer whose store keeps its answers back from now on.
fn with_slow_store(mut renewer: Renewer<Diary>) -> Renewer<Diary> {
    renewer.world.answers_left = Some(0);
    renewer.world.lines.clear();
    renewer
}

/// The store answers one question. Returns what comes of it.
fn store_answers(renewer: &mut Renewer<Diary>, now: Timestamp) -> Vec<String> {
    renewer.world.lines.clear();
    renewer.world.answers_left = Some(1);
    renewer.settle(now);
    assert_eq!(renewer.world.answers_left, Some(0), "it owed one");
    std::mem::take(&mut renewer.world.lines)
}

#[test]
fn a_slow_store_is_waited_for_at_each_step_of_a_rotation_and_one_save_is_under_way_at_a_time() {
    let mut renewer = with_slow_store(started());
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    assert_eq!(renewer.world.lines, ["save 2 r2"], "nothing is published");
    renewer.demands([Demand::Wanted(lab())], T0);
    renewer.tick(T0 + HOUR - Duration::from_secs(200));
    assert!(!renewer.views()[0].stored.as_ref().expect("stored").saved);
    assert!(renewer.awaits_the_store());
    assert_eq!(store_answers(&mut renewer, T0), ["publish Bearer a1"]);
    assert!(renewer.views()[0].stored.as_ref().expect("stored").saved);
    renewer.world.lines.clear();
    renewer.tick(T0 + HOUR);
    assert_eq!(renewer.world.lines, ["save 2 r2 being redeemed", "publish wait"], "nothing is sent");
    assert_eq!(store_answers(&mut renewer, T0 + HOUR), ["redeem 2 r2"]);
    // what changes while a save is under way is saved after it, once
    renewer.answered(&lab(), RenewalId(2), lost(), T0 + HOUR);
    renewer.tick(T0 + HOUR + Duration::from_secs(1));
    let saves = renewer.world.lines.iter().filter(|line| line.starts_with("save")).count();
    assert_eq!(saves, 1, "{:?}", renewer.world.lines);
    assert_eq!(store_answers(&mut renewer, T0 + HOUR), ["save 2 r2 being redeemed"]);
    assert_eq!(store_answers(&mut renewer, T0 + HOUR), ["redeem 3 r2", "publish wait"]);
    assert!(!renewer.awaits_the_store());
}

#[test]
fn a_sign_in_while_a_save_is_owed_is_saved_after_it_and_what_that_says_is_nobodys() {
    let mut renewer = with_slow_store(started());
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    let (reply, mut saved) = tokio::sync::oneshot::channel();
    renewer.replace(&lab(), signed_in("n1"), reply, T0);
    assert_eq!(renewer.world.lines, ["save 2 r2", "publish wait"]);
    let after = store_answers(&mut renewer, T0);
    assert_eq!(after, ["save 3 n1 being redeemed"], "a1 is not published, and one save is enough for both");
    assert!(saved.try_recv().is_err(), "it is not saved yet");
    assert_eq!(store_answers(&mut renewer, T0), ["redeem 2 n1"]);
    saved.try_recv().expect("answered").expect("saved");
}

#[test]
fn a_sign_out_while_a_save_is_owed_forgets_at_once_and_removes_after_it() {
    let mut renewer = with_slow_store(started());
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    let (reply, _answer) = tokio::sync::oneshot::channel();
    renewer.remove(&lab(), reply, T0);
    assert_eq!(renewer.world.lines, ["save 2 r2", "publish NotSignedIn"]);
    assert_eq!(store_answers(&mut renewer, T0), ["remove"], "what was saved late is no token to publish");
    assert_eq!(store_answers(&mut renewer, T0), ["revoke r2"]);
    assert!(renewer.views()[0].stored.is_none());
}

#[test]
fn an_account_leaves_when_its_save_is_answered_and_a_stop_waits_for_it() {
    let mut renewer = with_slow_store(started());
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.configure(&parsed(""), |_| Ok(None), T0);
    assert!(renewer.accounts.contains_key(&lab()));
    let _ = store_answers(&mut renewer, T0);
    renewer.tick(T0);
    assert!(renewer.accounts.is_empty());

    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), lost(), T0);
    let mut renewer = with_slow_store(renewer);
    renewer.tick(T0 + Duration::from_secs(1));
    assert_eq!(renewer.world.lines, ["save 1 r1 being redeemed", "publish wait"]);
    renewer.stop(T0 + Duration::from_secs(1));
    assert!(renewer.awaits_the_store());
    let after = store_answers(&mut renewer, T0 + Duration::from_secs(1));
    assert_eq!(after, [] as [&str; 0], "nothing is sent; that an answer was lost before is still so");
    assert!(!renewer.awaits_the_store());
}

#[test]
fn a_stop_while_a_note_is_owed_takes_the_note_back_as_nothing_is_sent() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    let mut renewer = with_slow_store(renewer);
    renewer.tick(T0 + HOUR);
    assert_eq!(renewer.world.lines[..1], ["save 2 r2 being redeemed"]);
    renewer.stop(T0 + HOUR);
    assert_eq!(store_answers(&mut renewer, T0 + HOUR), ["save 2 r2"]);
    assert!(renewer.awaits_the_store());
    assert_eq!(store_answers(&mut renewer, T0 + HOUR), [] as [&str; 0]);
    assert!(!renewer.awaits_the_store());
}

#[test]
fn a_reload_while_a_note_is_owed_starts_over_and_the_note_is_no_lost_answer() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    let mut renewer = with_slow_store(renewer);
    renewer.tick(T0 + HOUR);
    let mut changed = config();
    changed.accounts.get_mut(&lab()).expect("it is there").scopes.push("more".into());
    renewer.configure(&changed, |_| Ok(None), T0 + HOUR);
    assert!(!renewer.accounts[&lab()].machine.may_have_lost_an_answer());
    let _ = store_answers(&mut renewer, T0 + HOUR);
    assert_eq!(store_answers(&mut renewer, T0 + HOUR), ["redeem 3 r2"]);
}

#[test]
fn a_later_credential_in_the_store_is_taken_over_and_a_sign_in_goes_above_it() {
    let elsewhere = |generation, token| Record::new(&config().accounts[&lab()], generation, signed_in(token), 0);
    // another machine has renewed
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    renewer.world.later = Some(elsewhere(7, "r7"));
    renewer.world.lines.clear();
    renewer.tick(T0 + HOUR);
    assert_eq!(renewer.world.lines, ["save 2 r2 being redeemed", "publish wait for a retry"], "r2 is not spent");
    renewer.world.lines.clear();
    renewer.tick(T0 + HOUR + Duration::from_secs(1));
    assert_eq!(renewer.world.lines[..2], ["save 7 r7 being redeemed", "redeem 4 r7"]);
    // its refusal here was because of that
    renewer.world.later = Some(elsewhere(9, "r9"));
    renewer.world.lines.clear();
    renewer.answered(&lab(), RenewalId(4), refused(), T0 + HOUR + Duration::from_secs(1));
    assert!(!renewer.world.lines.iter().any(|line| line == "publish Revoked"), "{:?}", renewer.world.lines);
    renewer.tick(T0 + HOUR + Duration::from_secs(2));
    assert!(renewer.world.lines.contains(&"redeem 6 r9".to_owned()), "{:?}", renewer.world.lines);
    // a person knows better than either
    renewer.world.later = Some(elsewhere(12, "r12"));
    renewer.world.lines.clear();
    sign_in(&mut renewer, signed_in("n1"), T0 + HOUR);
    assert_eq!(renewer.world.lines[..2], ["save 10 n1", "save 13 n1"]);
    assert!(renewer.world.lines.contains(&"redeem 7 n1".to_owned()), "{:?}", renewer.world.lines);
}

/// Hands in what has to be tried first. The number of its trial, and where its fate is told.
fn hand_in(
    renewer: &mut Renewer<Diary>,
    new: NewCredential,
    now: Timestamp,
) -> (RenewalId, tokio::sync::oneshot::Receiver<Result<(), RequestError>>) {
    let (reply, told) = tokio::sync::oneshot::channel();
    renewer.world.lines.clear();
    renewer.replace(&lab(), NewCredential { trial: Trial::Required, ..new }, reply, now);
    let trial = renewer.accounts[&lab()].trials.last().map_or(RenewalId(0), |trial| trial.renewal);
    (trial, told)
}

/// A renewer with a token of refresh token `r1`.
fn usable() -> Renewer<Diary> {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", None), T0);
    renewer
}

fn unreachable_server() -> Result<Tokens, GrantFailure> {
    let failure = Failure::Transient { retry_after: None };
    Err(GrantFailure::unanswered(failure, "no route".to_owned()))
}

#[test]
fn what_works_stays_until_what_is_handed_in_has_worked_and_the_trial_is_its_first_renewal() {
    for rotated in [None, Some("n2")] {
        let mut renewer = usable();
        let (trial, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
        assert_eq!(renewer.world.lines, [format!("redeem {} n1", trial.0)], "nothing is replaced yet");
        assert!(told.try_recv().is_err());
        renewer.world.lines.clear();
        renewer.answered(&lab(), trial, tokens("b1", rotated), T0 + Duration::from_secs(2));
        let lines = renewer.world.lines.join("; ");
        let newest = rotated.unwrap_or("n1");
        assert!(lines.starts_with(&format!("save 2 {newest}")), "saved before it is used: {lines}");
        assert!(lines.contains("publish Bearer b1") && !lines.contains("; redeem "), "one request is enough: {lines}");
        told.try_recv().expect("answered").expect("taken");
        let view = &renewer.views()[0];
        assert_eq!((view.token_requests, view.renewals), (2, 2));
    }
}

#[test]
fn what_was_spent_before_is_not_sent_and_gives_way_to_the_password_beside_it() {
    let mut renewer = started();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    for trial in [Trial::Required, Trial::Skipped] {
        let (reply, mut told) = tokio::sync::oneshot::channel();
        renewer.world.lines.clear();
        renewer.replace(&lab(), NewCredential { trial, ..signed_in("r1") }, reply, T0);
        assert_eq!(told.try_recv().expect("answered"), Err(RequestError::CredentialSpent), "{trial:?}");
        assert_eq!(renewer.world.lines, [""; 0], "{trial:?}");
    }
    let mut new = signed_in("r1");
    new.credential.password = Some(("me".to_owned(), Secret::new("pw")));
    let (trial, _told) = hand_in(&mut renewer, new, T0);
    assert_eq!(renewer.world.lines, [format!("redeem {} the password of me", trial.0)]);
    // what the server has just issued is believed, whatever was noted
    let (reply, _told) = tokio::sync::oneshot::channel();
    renewer.world.lines.clear();
    renewer.replace(&lab(), NewCredential { trial: Trial::Preferred, ..signed_in("r1") }, reply, T0);
    assert!(renewer.world.lines[0].ends_with(" r1"), "{:?}", renewer.world.lines);
}

#[test]
fn a_refresh_token_of_another_accounts_sign_in_at_the_same_server_is_not_sent() {
    let account = |name: &str, host: &str| {
        format!(
            "[account.{name}]\ntoken_endpoint = \"https://{host}/token\"\nclient_id = \"valetd\"\n\
             upstream = \"https://api.lab.example\"\n"
        )
    };
    let hosts = [("lab", "auth.lab.example"), ("same", "auth.lab.example"), ("else", "auth.else.example")];
    let config = parsed(&hosts.map(|(name, host)| account(name, host)).concat());
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config, |_| Ok(None), T0);
    let handed = |renewer: &mut Renewer<Diary>, name: &str, token: &str, trial| {
        let id = AccountId::new(name).expect("a name");
        let credential = Credential { refresh_token: Some(Secret::new(token)), password: None };
        let new = NewCredential { trial, servers: None, ..NewCredential::of(&config.accounts[&id], credential) };
        let (reply, mut told) = tokio::sync::oneshot::channel();
        renewer.replace(&id, new, reply, T0);
        told.try_recv().ok().and_then(Result::err)
    };
    assert_eq!(handed(&mut renewer, "lab", "r1", Trial::Skipped), None);
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    let rows = [
        ("same", "r1", Trial::Required, true),
        ("same", "r1", Trial::Skipped, true),
        ("same", "r2", Trial::Required, true),
        ("same", "r9", Trial::Required, false),
        ("same", "r2", Trial::Preferred, false),
        ("else", "r1", Trial::Required, false),
    ];
    for (name, token, trial, is_refused) in rows {
        renewer.world.lines.clear();
        let refused = handed(&mut renewer, name, token, trial);
        assert_eq!(refused, is_refused.then(|| RequestError::CredentialElsewhere(lab())), "{name} {token} {trial:?}");
        assert_eq!(renewer.world.lines.is_empty(), is_refused, "{name} {token} {trial:?}: {:?}", renewer.world.lines);
    }
}

#[test]
fn the_refresh_token_at_hand_is_no_second_one_where_a_password_is_kept_beside_it() {
    let mut renewer = usable();
    let mut with_password = signed_in("r7");
    with_password.credential.password = Some(("me".to_owned(), Secret::new("pw")));
    sign_in(&mut renewer, with_password, T0);
    renewer.world.lines.clear();
    let (trial, _told) = hand_in(&mut renewer, signed_in("r7"), T0);
    assert_eq!(trial, RenewalId(0), "the machine renews it, and nobody else: {:?}", renewer.world.lines);
}

#[test]
fn what_the_server_refuses_replaces_nothing() {
    let mut renewer = usable();
    let (trial, mut told) = hand_in(&mut renewer, signed_in("wrong"), T0);
    renewer.world.lines.clear();
    renewer.answered(&lab(), trial, refused(), T0);
    assert_eq!(renewer.world.lines, [""; 0]);
    assert!(matches!(told.try_recv().expect("answered"), Err(RequestError::CredentialRefused(_))));
    assert_eq!(renewer.accounts[&lab()].grant(), Grant::RefreshToken(Secret::new("r1")));
    // and where nothing is stored, nothing is stored afterwards
    let (reply, _answer) = tokio::sync::oneshot::channel();
    renewer.remove(&lab(), reply, T0);
    let (trial, _told) = hand_in(&mut renewer, signed_in("wrong"), T0);
    renewer.answered(&lab(), trial, refused(), T0);
    assert!(renewer.accounts[&lab()].record.is_none());
}

#[test]
fn an_answer_that_cannot_be_used_is_no_trial_that_was_stood() {
    let unusable = || Ok(Tokens { unusable: Some("a DPoP token".to_owned()), ..tokens("b1", Some("n2")).unwrap() });
    let mut renewer = usable();
    let (trial, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    renewer.answered(&lab(), trial, unusable(), T0);
    // it is spent: to try it again would be of no use
    assert!(matches!(told.try_recv().expect("answered"), Err(RequestError::CredentialRefused(_))));
    assert_eq!(renewer.accounts[&lab()].grant(), Grant::RefreshToken(Secret::new("r1")), "what works stays");

    // where nothing is stored, what the response rotated is kept
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(None), T0);
    let (trial, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    renewer.answered(&lab(), trial, unusable(), T0);
    told.try_recv().expect("answered").expect("taken");
    assert_eq!(renewer.accounts[&lab()].grant(), Grant::RefreshToken(Secret::new("n2")));
}

#[test]
fn a_lost_answer_to_a_trial_is_asked_for_once_more_and_loses_neither() {
    // the second time it comes: a server with a grace period
    let mut renewer = usable();
    let (first, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    renewer.answered(&lab(), first, lost(), T0);
    let second = renewer.accounts[&lab()].trials[0].renewal;
    assert_ne!(second, first);
    renewer.answered(&lab(), second, tokens("b1", Some("n2")), T0);
    told.try_recv().expect("answered").expect("taken");
    assert_eq!(renewer.accounts[&lab()].grant(), Grant::RefreshToken(Secret::new("n2")));

    // it does not: what was there stays, and what was handed in is said to be untried
    for second_answer in [lost(), unreachable_server()] {
        let mut renewer = usable();
        let (first, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
        renewer.answered(&lab(), first, lost(), T0);
        let second = renewer.accounts[&lab()].trials[0].renewal;
        renewer.answered(&lab(), second, second_answer, T0);
        assert!(matches!(told.try_recv().expect("answered"), Err(RequestError::CredentialUntried(_))));
        assert_eq!(renewer.accounts[&lab()].grant(), Grant::RefreshToken(Secret::new("r1")));
    }
}

#[test]
fn what_could_not_be_tried_is_taken_where_nothing_is_lost_by_it() {
    // nobody else has it
    let mut renewer = usable();
    let (reply, mut told) = tokio::sync::oneshot::channel();
    renewer.replace(&lab(), NewCredential { trial: Trial::Preferred, ..signed_in("n1") }, reply, T0);
    let trial = renewer.accounts[&lab()].trials[0].renewal;
    renewer.answered(&lab(), trial, unreachable_server(), T0);
    told.try_recv().expect("answered").expect("taken");
    assert_eq!(renewer.accounts[&lab()].grant(), Grant::RefreshToken(Secret::new("n1")));
    assert_eq!(renewer.views()[0].last_failure.as_ref().expect("its first renewal").detail, "no route");

    // nothing else is there; a lost response is not forgotten
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(None), T0);
    let (first, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    renewer.answered(&lab(), first, lost(), T0);
    let second = renewer.accounts[&lab()].trials[0].renewal;
    renewer.answered(&lab(), second, lost(), T0);
    told.try_recv().expect("answered").expect("taken");
    assert!(renewer.accounts[&lab()].record.as_ref().expect("saved").redeeming);
}

#[test]
fn a_refresh_token_that_is_refused_in_its_trial_is_kept_until_the_password_beside_it_has_brought_tokens() {
    for (case, answer, expected) in [
        ("the password cannot be tried", unreachable_server(), Some("n1")),
        ("tokens, and a new refresh token", tokens("b1", Some("n2")), Some("n2")),
        ("tokens without one", tokens("b1", None), None),
    ] {
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&config(), |_| Ok(None), T0);
        let mut new = signed_in("n1");
        new.credential.password = Some(("me".into(), Secret::new("pw")));
        let (first, mut told) = hand_in(&mut renewer, new, T0);
        renewer.answered(&lab(), first, refused(), T0);
        let second = renewer.accounts[&lab()].trials[0].renewal;
        let last = renewer.world.lines.last().cloned();
        assert_eq!(last, Some(format!("redeem {} the password of me", second.0)), "{case}");
        renewer.answered(&lab(), second, answer, T0);
        told.try_recv().expect("answered").expect("taken");
        let credential = renewer.accounts[&lab()].record.as_ref().expect("saved").credential.clone();
        let refresh_token = credential.refresh_token.as_ref().map(Secret::expose);
        assert_eq!((refresh_token, credential.password.is_some()), (expected, true), "{case}");
    }
}

#[test]
fn what_the_server_does_not_spend_is_not_noted_as_being_spent() {
    let mut account = config().accounts[&lab()].clone();
    account.dialect = Dialect::CognitoInitiateAuth;
    let mut config = config();
    config.accounts.insert(lab(), account.clone());
    let record = Record::new(&account, 1, signed_in("r1"), 0);
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config, |_| Ok(Some(record.clone())), T0);
    assert_eq!(renewer.world.lines, ["redeem 1 r1", "publish wait"]);
}

#[test]
fn the_refresh_token_at_hand_is_not_sent_a_second_time_beside_the_machines_own_renewal() {
    let mut renewer = started();
    let (_, mut told) = hand_in(&mut renewer, signed_in("r1"), T0);
    assert!(told.try_recv().is_err(), "nobody knows yet");
    assert!(!renewer.world.lines.iter().any(|line| line.starts_with("redeem")), "{:?}", renewer.world.lines);
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
    assert_eq!(renewer.accounts[&lab()].grant(), Grant::RefreshToken(Secret::new("r2")), "and its answer counts");
    told.try_recv().expect("answered").expect("it works, and its successor is saved");
}

#[test]
fn who_hands_in_the_credential_at_hand_is_told_what_became_of_its_renewal_and_of_the_save() {
    let later = T0 + Duration::from_secs(60);
    let asked = |is_disk_full: bool| {
        let mut renewer = started();
        renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0);
        renewer.world.is_disk_full = is_disk_full;
        let (_, told) = hand_in(&mut renewer, signed_in("r2"), later);
        (renewer, told)
    };
    let (_renewer, mut told) = asked(true);
    let Err(RequestError::Refused(words)) = told.try_recv().expect("answered") else { panic!("it cannot be noted") };
    assert!(words.contains("no space left on device"), "{words}");
    let (mut renewer, mut told) = asked(false);
    renewer.world.is_disk_full = true;
    renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("r3")), later);
    let Err(RequestError::Refused(words)) = told.try_recv().expect("answered") else { panic!("it is not saved") };
    assert_eq!(words, "no space left on device");
    let (mut renewer, mut told) = asked(false);
    renewer.answered(&lab(), RenewalId(2), refused(), later);
    assert!(matches!(told.try_recv().expect("answered"), Err(RequestError::CredentialRefused(_))));
    let (mut renewer, mut told) = asked(false);
    renewer.answered(&lab(), RenewalId(2), lost(), later);
    assert!(matches!(told.try_recv().expect("answered"), Err(RequestError::CredentialUntried(_))));
    let (mut renewer, mut told) = asked(false);
    renewer.answered(&lab(), RenewalId(2), tokens("a2", None), later);
    told.try_recv().expect("answered").expect("it works, and the store knows");
    let (mut renewer, mut told) = asked(false);
    let (reply, _answer) = tokio::sync::oneshot::channel();
    renewer.remove(&lab(), reply, later);
    assert!(matches!(told.try_recv().expect("answered"), Err(RequestError::Refused(_))));
}

#[test]
fn a_sign_out_ends_a_trial_and_what_it_brings_is_revoked() {
    let mut renewer = usable();
    let (trial, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    let (reply, _answer) = tokio::sync::oneshot::channel();
    renewer.remove(&lab(), reply, T0);
    assert!(told.try_recv().expect("answered").is_err());
    renewer.world.lines.clear();
    renewer.answered(&lab(), trial, tokens("b1", Some("n2")), T0);
    assert_eq!(renewer.world.lines, ["revoke n2"]);
}

#[test]
fn a_trial_that_ends_while_the_daemon_stops_is_saved_and_none_begins() {
    let mut renewer = usable();
    let (trial, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    renewer.stop(T0);
    renewer.world.lines.clear();
    renewer.answered(&lab(), trial, tokens("b1", Some("n2")), T0);
    assert_eq!(renewer.world.lines[0], "save 2 n2");
    told.try_recv().expect("answered").expect("saved");
    let (_, mut told) = hand_in(&mut renewer, signed_in("m1"), T0);
    assert_eq!(told.try_recv().expect("answered"), Err(RequestError::Stopping));
    assert_eq!(renewer.world.lines, [""; 0]);
}

#[test]
fn what_other_servers_have_issued_is_not_sent_to_this_one_to_try_it() {
    let mut renewer = usable();
    let servers = Some(crate::store::Servers { issued_by: "https://other.example".to_owned(), others: Vec::new() });
    let (_, mut told) = hand_in(&mut renewer, NewCredential { servers, ..signed_in("n1") }, T0);
    assert_eq!(renewer.world.lines, [""; 0]);
    assert!(matches!(told.try_recv().expect("answered"), Err(RequestError::CredentialUntried(_))));
}

fn signed_in_for(token: &str, length: Duration) -> NewCredential {
    NewCredential { term: Some(length.as_secs()), ..signed_in(token) }
}

/// A renewer whose sign-in with `r1` is good for eight hours, and whose token lives one.
fn for_eight_hours() -> Renewer<Diary> {
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(None), T0);
    sign_in(&mut renewer, signed_in_for("r1", 8 * HOUR), T0);
    renewer.answered(&lab(), RenewalId(1), tokens("a1", None), T0);
    renewer.world.lines.clear();
    renewer
}

#[test]
fn a_sign_in_ends_with_its_term_as_by_a_sign_out_and_a_person_is_told_why() {
    let mut renewer = for_eight_hours();
    assert_eq!(renewer.views()[0].stored.as_ref().unwrap().ends_at, Some(T0 + 8 * HOUR));
    for event in [Renewer::tick, Renewer::resumed, Renewer::network_changed] {
        let mut renewer = for_eight_hours();
        renewer.configure(&config(), |_| panic!("it is at hand"), T0 + HOUR); // a reload puts nothing off
        renewer.world.lines.clear();
        event(&mut renewer, T0 + 8 * HOUR);
        assert_eq!(renewer.world.lines, ["publish TermOver", "remove", "revoke r1"]);
        let view = &renewer.views()[0];
        assert!(view.stored.is_none() && view.snapshot.published.is_none());
        event(&mut renewer, T0 + 9 * HOUR);
        renewer.demands([Demand::Wanted(lab())], T0 + 9 * HOUR);
        assert_eq!(renewer.world.lines[3..], ["publish TermOver"], "over once, and nothing is asked for any more");
    }
    renewer.tick(T0 + 8 * HOUR - Duration::from_millis(1));
    assert!(!renewer.world.lines.iter().any(|line| line.starts_with("revoke")), "{:?}", renewer.world.lines);
}

#[test]
fn no_token_is_handed_out_past_the_end_of_its_sign_in_and_the_end_is_woken_up_for() {
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(None), T0);
    let term = Duration::from_secs(600);
    sign_in(&mut renewer, signed_in_for("r1", term), T0);
    renewer.answered(&lab(), RenewalId(1), tokens("a1", None), T0);
    assert_eq!(renewer.accounts[&lab()].published.as_ref().unwrap().usable_until, T0 + term);
    assert_eq!(renewer.views()[0].snapshot.usable_until, Some(T0 + term));
    assert_eq!(renewer.next_wakeup(), Some(T0 + term));
}

#[test]
fn a_renewal_or_a_new_sign_in_under_way_at_the_end_of_a_term_leaves_nothing_behind_and_loses_nothing() {
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config(), |_| Ok(None), T0);
    sign_in(&mut renewer, signed_in_for("r1", HOUR), T0);
    let (reply, mut saved) = tokio::sync::oneshot::channel();
    let new = NewCredential { trial: Trial::Required, ..signed_in("n1") };
    renewer.replace(&lab(), new, reply, T0);
    let trial = renewer.accounts[&lab()].owed.last().expect("it is tried").0;
    renewer.tick(T0 + HOUR);
    renewer.world.lines.clear();
    renewer.answered(&lab(), RenewalId(1), tokens("a1", Some("r2")), T0 + HOUR);
    assert_eq!(renewer.world.lines, ["revoke r2"]);
    renewer.answered(&lab(), trial, tokens("a2", None), T0 + HOUR);
    saved.try_recv().expect("answered").expect("saved");
    let view = &renewer.views()[0];
    assert_eq!(view.stored.as_ref().map(|stored| stored.ends_at), Some(None), "the new one has no end");
}

#[test]
fn a_term_goes_on_over_a_restart_and_no_clock_that_is_set_back_makes_it_longer() {
    let record = || Record::new(&config().accounts[&lab()], 1, signed_in_for("r1", 8 * HOUR), 1_800_000_000);
    let seen = |hours: u32| {
        let mut record = record();
        record.term.as_mut().unwrap().note((8 - hours) * HOUR);
        record
    };
    let rows = [
        ("at once", record(), T0, Some(T0 + 8 * HOUR)),
        ("later", seen(1), T0 + 5 * HOUR, Some(T0 + 8 * HOUR)),
        ("the clock was set back by three hours", seen(5), T0 + 2 * HOUR, Some(T0 + 5 * HOUR)),
        ("back to before the sign-in", seen(1), T0 - 24 * HOUR, Some(T0 - 17 * HOUR)),
        ("over meanwhile", seen(1), T0 + 8 * HOUR, None),
        ("over, and the clock was set back", seen(8), T0, None),
    ];
    for (case, record, now, ends_at) in rows {
        let mut renewer = Renewer::new(Diary::default(), 7);
        renewer.configure(&config(), |_| Ok(Some(record.clone())), now);
        match ends_at {
            Some(end) => assert_eq!(renewer.views()[0].stored.as_ref().unwrap().ends_at, Some(end), "{case}"),
            None => {
                assert_eq!(renewer.world.lines, ["publish TermOver"], "{case}: it is not used");
                assert!(renewer.next_wakeup().is_some_and(|at| at <= now), "{case}");
                renewer.tick(now);
                assert_eq!(renewer.world.lines[1..], ["remove", "revoke r1"], "{case}");
            }
        }
    }
}

#[test]
fn a_stop_and_each_renewal_note_how_much_is_left_of_a_term() {
    let mut renewer = for_eight_hours();
    let seen = |renewer: &Renewer<Diary>| {
        let record = renewer.accounts[&lab()].record.as_ref().unwrap();
        record.term.unwrap().seen_at - 1_800_000_000
    };
    assert_eq!(seen(&renewer), 0);
    renewer.tick(T0 + HOUR);
    assert_eq!(seen(&renewer), 3600, "with the renewal");
    renewer.answered(&lab(), RenewalId(2), tokens("a2", Some("r2")), T0 + HOUR);
    renewer.world.lines.clear();
    renewer.stop(T0 + HOUR + HOUR / 2);
    assert_eq!((seen(&renewer), renewer.world.lines.as_slice()), (5400, &["save 2 r2".to_owned()][..]));
    renewer.tick(T0 + 9 * HOUR);
    assert!(renewer.accounts[&lab()].record.is_some(), "what ends after the stop is the next process's");
}

#[test]
fn what_is_said_last_of_a_sign_ins_end_holds_also_where_the_credential_is_the_one_at_hand() {
    for (case, token) in [("another one", "n1"), ("the one at hand", "r1")] {
        let mut renewer = for_eight_hours();
        let ends_at = |renewer: &Renewer<Diary>| renewer.views()[0].stored.as_ref().unwrap().ends_at;
        sign_in(&mut renewer, signed_in_for(token, HOUR / 2), T0);
        assert_eq!(ends_at(&renewer), Some(T0 + HOUR / 2), "{case}");
        if let Some(token) = &renewer.accounts[&lab()].published {
            assert_eq!(token.usable_until, T0 + HOUR / 2, "{case}");
        }
        sign_in(&mut renewer, signed_in(token), T0);
        assert_eq!(ends_at(&renewer), None, "{case}: lifted");
        if let Some(token) = &renewer.accounts[&lab()].published {
            assert!(token.usable_until > T0 + HOUR / 2, "{case}");
        }
        renewer.tick(T0 + 8 * HOUR);
        assert!(renewer.views()[0].stored.is_some(), "{case}");
    }
}

#[test]
fn a_server_that_rotates_is_asked_in_its_way_after_one_refusal_and_what_worked_is_kept() {
    let mut account = config().accounts[&lab()].clone();
    account.dialect = Dialect::CognitoInitiateAuth;
    let mut config = config();
    config.accounts.insert(lab(), account.clone());
    let record = Record::new(&account, 1, signed_in("r1"), 0);
    let wants_rotation = || {
        let failure = Failure::Permanent(Why::ClientRefused);
        let refusal = GrantFailure::unanswered(failure, "rotation is enabled for this client".to_owned());
        Err(GrantFailure { http_status: Some(400), wants_rotation: true, ..refusal })
    };
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config, |_| Ok(Some(record.clone())), T0);
    renewer.answered(&lab(), RenewalId(1), wants_rotation(), T0);
    assert!(matches!(renewer.views()[0].snapshot.phase, Phase::Scheduled { .. }), "nobody needs to sign in");
    assert!(!renewer.accounts[&lab()].record.as_ref().expect("there").rotates, "it has not worked yet");
    renewer.world.lines.clear();
    renewer.tick(T0 + Duration::from_secs(60));
    assert_eq!(renewer.accounts[&lab()].asked().dialect, Dialect::CognitoGetTokens);
    assert_eq!(
        renewer.world.lines[..2],
        ["save 1 r1 being redeemed", "redeem 2 r1"],
        "noted as being spent, then spent"
    );
    renewer.answered(&lab(), RenewalId(2), tokens("a1", Some("r2")), T0 + Duration::from_secs(60));
    let kept = renewer.accounts[&lab()].record.clone().expect("saved");
    assert_eq!((kept.rotates, kept.generation), (true, 2));
    // the next process begins with it
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config, |_| Ok(Some(kept.clone())), T0);
    assert_eq!(renewer.world.lines[..2], ["save 2 r2 being redeemed", "redeem 1 r2"]);
    assert_eq!(renewer.accounts[&lab()].asked().dialect, Dialect::CognitoGetTokens);
    // one that is handed in is tried in the same way, and finds it out likewise
    let mut renewer = Renewer::new(Diary::default(), 7);
    renewer.configure(&config, |_| Ok(None), T0);
    let (first, mut told) = hand_in(&mut renewer, signed_in("n1"), T0);
    renewer.answered(&lab(), first, wants_rotation(), T0);
    let second = renewer.accounts[&lab()].trials[0].renewal;
    renewer.answered(&lab(), second, tokens("b1", Some("n2")), T0);
    told.try_recv().expect("answered").expect("taken");
    assert!(renewer.accounts[&lab()].record.as_ref().expect("saved").rotates);
}
