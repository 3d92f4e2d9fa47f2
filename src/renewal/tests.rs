//! The machine's stories, and random histories against its invariants.

use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const T0: Timestamp = Timestamp::from_millis(1_800_000_000_000);

const TRANSIENT: Failure = Failure::Transient { retry_after: None };

/// A machine with a clock to tell its story by.
struct Story {
    machine: Renewal,
    now: Timestamp,
}

impl Story {
    fn signed_in() -> Self {
        let mut story = Self { machine: Renewal::new(Policy::default(), 7), now: T0 };
        let started = story.event(Event::CredentialReplaced {
            patience: Duration::ZERO,
            answer_lost: false,
            refresh_expires_at: None,
            learnt_life: None,
        });
        assert_eq!(started, [Action::Renew(RenewalId(1))]);
        story
    }

    fn with_token_for(mut self, life: Duration) -> Self {
        let published = self.renewed(1, life);
        assert!(matches!(published[..], [Action::Publish { id: RenewalId(1), .. }]), "{published:?}");
        self
    }

    fn after(&mut self, duration: Duration, event: Event) -> Vec<Action> {
        self.now = self.now + duration;
        self.event(event)
    }

    /// What happens while the store answers at once. What is noted in it goes without saying.
    fn event(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.slowly(event);
        while let Some(save) = self.machine.owed_save() {
            actions.extend(self.slowly(Event::Saved(save)));
        }
        actions.retain(|action| !matches!(action, Action::Note(_)));
        actions
    }

    /// What happens while the store keeps its response for later.
    fn slowly(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(event, self.now)
    }

    fn renewed(&mut self, id: u64, life: Duration) -> Vec<Action> {
        let id = RenewalId(id);
        self.event(Event::Renewed {
            id,
            lifetime: Some(life),
            rotated: false,
            refresh_lifetime: None,
            retry_after: None,
        })
    }

    fn failed(&mut self, id: u64, failure: Failure) -> Vec<Action> {
        self.event(Event::Failed { id: RenewalId(id), failure })
    }

    /// Goes to the next wakeup.
    fn wait(&mut self) -> Vec<Action> {
        self.now = self.machine.next_wakeup().expect("something to wait for").0;
        self.event(Event::Tick)
    }
}

fn renew(id: u64) -> Action {
    Action::Renew(RenewalId(id))
}

#[test]
fn waking_after_a_night_withdraws_the_old_token_and_renews_at_once() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    assert_eq!(work.after(9 * HOUR, Event::Tick), [Action::Withdraw, renew(2)]);
}

#[test]
fn a_token_is_renewed_before_it_ends_and_serves_until_its_successor_is_there() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    assert_eq!(work.wait(), [renew(2)]);
    assert!(work.now < T0 + HOUR - 4 * MINUTE);
    assert_eq!(work.machine.snapshot().published, Some(RenewalId(1)));
    assert!(matches!(work.renewed(2, HOUR)[..], [Action::Publish { id: RenewalId(2), .. }]));
}

#[test]
fn a_failed_early_renewal_never_takes_a_valid_token_away() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    assert_eq!(work.wait(), [renew(2)]);
    assert_eq!(work.failed(2, TRANSIENT), []);
    assert_eq!(work.machine.snapshot().published, Some(RenewalId(1)));
    // and an expired one never leaves, however long the server is down
    let mut withdrawn_at = None;
    for _ in 0..100 {
        let actions = work.wait();
        if actions.contains(&Action::Withdraw) {
            withdrawn_at = Some(work.now);
        }
        for action in actions {
            if let Action::Renew(id) = action {
                let _ = work.event(Event::Failed { id, failure: TRANSIENT });
            }
        }
    }
    assert_eq!(withdrawn_at, Some(T0 + HOUR - 10 * SECOND));
}

#[test]
fn a_rotated_refresh_token_is_saved_before_the_grant_is_published() {
    let mut work = Story::signed_in();
    let id = RenewalId(1);
    let actions = work.event(Event::Renewed {
        id,
        lifetime: Some(HOUR),
        rotated: true,
        refresh_lifetime: None,
        retry_after: None,
    });
    assert!(matches!(actions[..], [Action::Save(_), Action::Publish { .. }]), "{actions:?}");
}

#[test]
fn a_lost_answer_is_asked_for_again_at_once_and_a_refusal_then_is_ambiguous() {
    let mut work = Story::signed_in();
    assert_eq!(work.failed(1, Failure::Ambiguous), []);
    assert_eq!(work.wait(), [renew(2)]);
    assert_eq!(work.now, T0 + SECOND); // the minimum spacing, no more
    let refused = work.failed(2, Failure::Permanent(Why::Revoked));
    assert_eq!(refused, [Action::SetAside(Why::Ambiguous)]);
}

#[test]
fn a_refusal_out_of_the_blue_means_revoked_and_nothing_starts_until_somebody_signs_in() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    assert_eq!(work.wait(), [renew(2)]);
    assert_eq!(work.failed(2, Failure::Permanent(Why::Revoked)), [Action::SetAside(Why::Revoked)]);
    for event in [Event::Wanted, Event::Asked, Event::NetworkChanged, Event::Resumed, Event::Tick] {
        assert_eq!(work.event(event), [], "{event:?}");
    }
    // the token in hand is still good, and serves to its end
    assert_eq!(work.machine.next_wakeup(), Some((T0 + HOUR - 10 * SECOND, Reason::Withdraw)));
    assert_eq!(work.wait(), [Action::Withdraw]);
    let signed_in = Event::CredentialReplaced {
        patience: Duration::ZERO,
        answer_lost: false,
        refresh_expires_at: None,
        learnt_life: None,
    };
    assert_eq!(work.event(signed_in), [renew(3)]);
}

#[test]
fn a_request_without_a_token_shortens_the_back_off_but_not_the_servers_retry_after() {
    let mut work = failing_for_long();
    let _ = work.event(Event::Wanted);
    assert!(work.machine.next_wakeup().expect("scheduled").0 <= work.now + 30 * SECOND);
    let _ = work.wait();
    let Phase::InFlight { id } = work.machine.snapshot().phase else { panic!("not in flight") };
    let asked = Some(10 * MINUTE);
    let _ = work.event(Event::Failed { id, failure: Failure::Transient { retry_after: asked } });
    let _ = work.event(Event::Wanted);
    assert_eq!(work.machine.next_wakeup().expect("scheduled").0, work.now + 10 * MINUTE);
    // a person may insist
    assert_eq!(work.after(SECOND, Event::Asked), [renew(id.0 + 1)]);
}

/// Fails until the back-off is long.
fn failing_for_long() -> Story {
    let mut work = Story::signed_in();
    while work.machine.next_wakeup().is_none_or(|(at, _)| at.since(work.now) < 2 * MINUTE) {
        if work.machine.next_wakeup().is_some() {
            let _ = work.wait();
        }
        let Phase::InFlight { id } = work.machine.snapshot().phase else { panic!("not in flight") };
        assert!(id.0 < 1000);
        let _ = work.event(Event::Failed { id, failure: TRANSIENT });
    }
    work
}

#[test]
fn a_hint_cuts_our_own_back_off_once_in_half_a_minute_and_never_the_servers_retry_after() {
    for hint in [Event::NetworkChanged, Event::Resumed] {
        let mut work = failing_for_long();
        let mut starts = Vec::new();
        for second in 0..100 {
            for action in work.event(hint) {
                let Action::Renew(id) = action else { panic!("{action:?}") };
                starts.push(second);
                let _ = work.event(Event::Failed { id, failure: TRANSIENT });
            }
            work.now = work.now + SECOND;
        }
        assert_eq!(starts, [1, 31, 61, 91], "{hint:?}, the minimum spacing after the last start");

        let _ = work.wait();
        let Phase::InFlight { id } = work.machine.snapshot().phase else { panic!("not in flight") };
        let failure = Failure::Transient { retry_after: Some(10 * MINUTE) };
        let _ = work.event(Event::Failed { id, failure });
        let told = work.now;
        for _ in 0..20 {
            assert_eq!(work.after(2 * SECOND, hint), [], "{hint:?}");
        }
        assert_eq!(work.wait(), [renew(id.0 + 1)]);
        assert_eq!(work.now, told + 10 * MINUTE);
    }
}

/// Where tokens are taken, and where none ever is.
const GOOD: Place = Place { route: 1, resource: 1 };
const BAD: Place = Place { route: 1, resource: 2 };

/// A 401 to a request that does not wait, from a place that has taken the token before, or never one.
fn rejected(id: u64, worked: bool) -> Event {
    let (id, place) = (RenewalId(id), if worked { GOOD } else { BAD });
    Event::Rejected { id, place, worked: worked.then_some(id), until: T0 }
}

/// What became of a request whose 401 came at a time.
fn replayed(refused: u64, at: Timestamp, accepted: bool) -> Event {
    let place = if accepted { GOOD } else { BAD };
    Event::Replayed { refused: RenewalId(refused), place, at, accepted }
}

#[test]
fn a_401_renews_once_and_an_upstream_that_always_says_401_costs_two_calls_a_lifetime() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    assert_eq!(work.after(MINUTE, rejected(1, false)), [renew(2)]);
    let _ = work.renewed(2, HOUR);
    assert_eq!(work.event(replayed(1, work.now, false)), []);
    for _ in 0..50 {
        assert_eq!(work.after(SECOND, rejected(2, false)), []);
        assert_eq!(work.event(rejected(1, false)), [], "of a token that is no longer in hand");
    }
    assert_eq!(work.machine.wished_for(work.now), None);
    // but a token that is rejected much later is renewed again
    assert_eq!(work.after(10 * MINUTE, rejected(2, false)), [renew(3)]);
}

#[test]
fn a_place_that_takes_tokens_is_believed_beside_one_that_never_does() {
    for period in [1, 2, 7] {
        let mut work = Story::signed_in().with_token_for(HOUR);
        // the bad one is polled, and then the token is revoked
        let mut token = 1;
        for second in 0..240 {
            let _ = work.event(Event::Worked { id: RenewalId(token), place: GOOD, sent: work.now });
            for action in work.after(SECOND, rejected(token, false)) {
                assert_eq!(action, renew(token + 1), "second {second}");
                let _ = work.renewed(token + 1, HOUR);
                let _ = work.event(replayed(token, work.now, false));
                token += 1;
            }
        }
        assert_eq!(token, 2, "one renewal for all of them");
        for _ in 0..5 {
            assert_eq!(work.after(period * SECOND, rejected(token, true)), [renew(token + 1)]);
            let _ = work.renewed(token + 1, HOUR);
            let _ = work.event(replayed(token, work.now, true));
            token += 1;
        }
    }
}

#[test]
fn tokens_that_are_revoked_again_and_again_are_replaced_at_once_and_then_more_and_more_seldom() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    let mut renewed = Vec::new();
    for second in 0..600 {
        let id = renewed.len() as u64 + 1;
        let until = work.now + 10 * SECOND;
        let event = Event::Rejected { id: RenewalId(id), place: GOOD, worked: Some(RenewalId(id)), until };
        let _ = work.after(SECOND, Event::Tick);
        if !matches!(work.machine.snapshot().phase, Phase::InFlight { .. }) {
            let _ = work.event(event);
        }
        if let Phase::InFlight { id } = work.machine.snapshot().phase {
            renewed.push(second);
            let _ = work.renewed(id.0, HOUR);
            let _ = work.event(replayed(id.0 - 1, work.now, true));
        }
    }
    assert_eq!(renewed[..6], [0, 1, 2, 3, 4, 5]);
    assert!((10..=13).contains(&renewed.len()), "{renewed:?}");
    // the longest that most requests wait
    assert!(renewed[7] - renewed[6] <= 11, "{renewed:?}");
}

#[test]
fn a_request_that_waits_is_served_by_the_next_renewal_that_is_permitted() {
    let waits = |id, now: Timestamp| {
        let id = RenewalId(id);
        Event::Rejected { id, place: GOOD, worked: Some(id), until: now + 30 * SECOND }
    };
    let mut work = Story::signed_in().with_token_for(HOUR);
    for id in 1..=6 {
        assert_eq!(work.after(SECOND, rejected(id, true)), [renew(id + 1)]);
        let _ = work.renewed(id + 1, HOUR);
        let _ = work.event(replayed(id, work.now, true));
    }
    assert_eq!(work.after(SECOND, waits(7, work.now)), []);
    let at = work.machine.wished_for(work.now).expect("it is worth waiting for");
    assert!((3..=5).contains(&at.since(work.now).as_secs()), "{:?}", at.since(work.now));
    // more of them do not make it sooner
    assert_eq!(work.after(SECOND, waits(7, work.now)), []);
    assert_eq!(work.machine.wished_for(work.now), Some(at));
    assert_eq!(work.wait(), [renew(8)]);
    assert_eq!(work.now, at);
    // the server fails: those who wait go on waiting for the next try
    assert_eq!(work.failed(8, TRANSIENT), []);
    assert!(work.machine.wished_for(work.now).is_some());
}

#[test]
fn a_401_whose_request_cannot_be_sent_again_is_healed_by_the_next_good_answer_of_its_route() {
    let [other_path, other_route] = [Place { resource: 9, ..GOOD }, Place { route: 2, ..GOOD }];
    for (name, place, is_learnt) in
        [("there", GOOD, true), ("on its route", other_path, true), ("on another route", other_route, false)]
    {
        let mut work = Story::signed_in();
        let _ = work.event(unstated(1));
        for id in 1..=5 {
            assert_eq!(work.after(29 * SECOND, rejected(id, true)), [renew(id + 1)], "{name}");
            let _ = work.event(unstated(id + 1));
            let sent = work.now + SECOND;
            assert_eq!(work.after(SECOND, Event::Worked { id: RenewalId(id + 1), place, sent }), [], "{name}");
        }
        assert_eq!(work.machine.snapshot().learnt_life.is_some(), is_learnt, "{name}");
    }
}

/// Requests each second, of which the upstream answers one in ten 401, whatever their token, and one in ten of those again.
/// Returns the renewals of the first ten minutes, and of the hour after.
fn at_random(seed: u64, lifetime: Option<Duration>) -> (usize, usize) {
    let mut random = seed;
    let mut is_refused = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33).is_multiple_of(10)
    };
    let answer = |id| Event::Renewed { id, lifetime, rotated: false, refresh_lifetime: None, retry_after: None };
    let mut work = Story::signed_in();
    let _ = work.event(answer(RenewalId(1)));
    let (mut renewals, mut started, mut news_from, mut waiting) = (Vec::new(), work.now, work.now, None);
    for second in 0..70 * 60 {
        let mut events = vec![Event::Tick];
        let id = work.machine.snapshot().published.expect("a token");
        match is_refused() {
            true => {
                let until = work.now + 10 * SECOND;
                events.push(Event::Rejected { id, place: GOOD, worked: Some(id), until });
                waiting.get_or_insert((id, work.now));
            }
            false if work.now >= news_from => {
                news_from = started + work.now.since(started) * 5 / 4;
                events.push(Event::Worked { id, place: GOOD, sent: work.now });
            }
            false => {}
        }
        for event in events {
            let _ = work.event(event);
            if let Phase::InFlight { id } = work.machine.snapshot().phase {
                renewals.push(second);
                let _ = work.event(answer(id));
                (started, news_from) = (work.now, work.now);
            }
        }
        let published = work.machine.snapshot().published.expect("a token");
        if let Some((refused, at)) = waiting
            && (published > refused || work.now >= at + 10 * SECOND)
        {
            waiting = None;
            if published > refused {
                let accepted = !is_refused();
                let _ = work.event(Event::Replayed { refused, place: GOOD, at, accepted });
            }
        }
        work.now = work.now + SECOND;
    }
    let early = renewals.iter().filter(|second| **second < 600).count();
    (early, renewals.len() - early)
}

#[test]
fn an_upstream_that_says_401_at_random_teaches_no_life_for_long_and_brings_no_storm() {
    for lifetime in [None, Some(HOUR)] {
        let found: Vec<(usize, usize)> = (0..200).map(|seed| at_random(seed, lifetime)).collect();
        let sum = found.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let most = found.iter().fold((0, 0), |most, one| (most.0.max(one.0), most.1.max(one.1)));
        println!("{lifetime:?}: {sum:?} in 200 runs, {most:?} at the most");
        assert!(sum.0 <= 200 * 15 && sum.1 <= 200 * 15, "{lifetime:?}: {sum:?}");
        // now and then a life is learnt by chance, until a token outlives it
        assert!(most.0 <= 60 && most.1 <= 100, "{lifetime:?}: {most:?}");
    }
}

fn unstated(id: u64) -> Event {
    Event::Renewed { id: RenewalId(id), lifetime: None, rotated: false, refresh_lifetime: None, retry_after: None }
}

#[test]
fn a_life_that_no_answer_states_is_learnt_from_two_ends_and_kept_in_mind() {
    let mut work = Story::signed_in();
    let _ = work.event(unstated(1));
    for id in 1..=2 {
        assert_eq!(work.machine.snapshot().learnt_life, None);
        assert_eq!(work.after(MINUTE, rejected(id, true)), [renew(id + 1)]);
        let _ = work.event(unstated(id + 1));
        assert_eq!(work.event(replayed(id, work.now, true)), []);
    }
    assert_eq!(work.machine.snapshot().learnt_life, Some(MINUTE));
    let (at, reason) = work.machine.next_wakeup().expect("scheduled");
    assert_eq!(reason, Reason::BeforeExpiry);
    assert!(work.now + 38 * SECOND <= at && at <= work.now + 42 * SECOND, "{:?}", at.since(work.now));
    // a token that works beyond it refutes it
    assert_eq!(work.wait(), [renew(4)]);
    assert_eq!(work.event(unstated(4)).len(), 1);
    let worked = |sent| Event::Worked { id: RenewalId(4), place: GOOD, sent };
    let _ = work.event(worked(work.now + 79 * SECOND));
    assert_eq!(work.machine.snapshot().learnt_life, Some(MINUTE));
    let _ = work.event(worked(work.now + 81 * SECOND));
    assert_eq!(work.machine.snapshot().learnt_life, None);
    assert!(work.machine.next_wakeup().expect("scheduled").0 > work.now + 50 * MINUTE);
}

#[test]
fn a_server_that_states_a_life_is_believed_more_than_what_was_learnt() {
    let mut work = Story { machine: Renewal::new(Policy::default(), 7), now: T0 };
    let known = Event::CredentialReplaced {
        patience: Duration::ZERO,
        answer_lost: false,
        refresh_expires_at: None,
        learnt_life: Some(6 * SECOND),
    };
    assert_eq!(work.event(known), [renew(1)]);
    assert_eq!(work.machine.snapshot().learnt_life, Some(6 * SECOND));
    let _ = work.renewed(1, HOUR);
    assert_eq!(work.machine.snapshot().learnt_life, None);
    assert!(work.machine.next_wakeup().expect("scheduled").0 > work.now + 50 * MINUTE);
}

#[test]
fn thirty_second_tokens_are_renewed_every_twenty_and_dead_ones_cause_no_storm() {
    for (life, at_least, at_most) in [(30, 160, 200), (10, 440, 600), (1, 600, 730), (0, 10, 45)] {
        let mut work = Story::signed_in();
        let mut starts = 1;
        while work.now < T0 + HOUR {
            if let Phase::InFlight { id } = work.machine.snapshot().phase {
                let _ = work.renewed(id.0, Duration::from_secs(life));
            }
            starts += work.wait().iter().filter(|action| matches!(action, Action::Renew(_))).count();
        }
        assert!((at_least..=at_most).contains(&starts), "{starts} starts an hour with a life of {life} s");
    }
}

#[test]
fn a_refresh_token_that_dies_before_the_access_token_is_renewed_in_time() {
    let mut work = Story::signed_in();
    let id = RenewalId(1);
    // Maxar eAPI: 12 hours of access, half an hour of refresh
    let (lifetime, refresh_lifetime) = (Some(12 * HOUR), Some(30 * MINUTE));
    let _ = work.event(Event::Renewed { id, lifetime, rotated: true, refresh_lifetime, retry_after: None });
    let (at, reason) = work.machine.next_wakeup().expect("scheduled");
    assert_eq!(reason, Reason::BeforeRefreshTokenDies);
    assert!(T0 + 20 * MINUTE < at && at < T0 + 30 * MINUTE);
}

#[test]
fn signing_out_withdraws_the_token_and_forgets_the_answer_that_is_owed() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    assert_eq!(work.wait(), [renew(2)]);
    assert_eq!(work.event(Event::CredentialRemoved), [Action::Withdraw]);
    assert_eq!(work.renewed(2, HOUR), []);
    assert_eq!(work.machine.snapshot().phase, Phase::SignInRequired { why: Why::NotSignedIn });
}

const ROTATED: Event =
    Event::Renewed { id: RenewalId(1), lifetime: Some(HOUR), rotated: true, refresh_lifetime: None, retry_after: None };

const STALE: NotSaved = NotSaved::Stale;

fn replaced() -> Event {
    Event::CredentialReplaced {
        patience: Duration::ZERO,
        answer_lost: false,
        refresh_expires_at: None,
        learnt_life: None,
    }
}

#[test]
fn a_slow_store_is_waited_for_before_a_credential_is_spent_and_before_its_grant_is_published() {
    for failed in [false, true] {
        let answer = |save| match failed {
            true => Event::NotSaved { save, reason: NotSaved::Failed },
            false => Event::Saved(save),
        };
        let mut work = Story { machine: Renewal::new(Policy::default(), 7), now: T0 };
        assert_eq!(work.slowly(replaced()), [Action::Note(SaveId(1))]);
        for event in [Event::Wanted, Event::Asked, Event::Tick, Event::NetworkChanged] {
            assert_eq!(work.slowly(event), [], "{event:?}");
        }
        work.now = T0 + 5 * SECOND;
        assert_eq!(work.slowly(Event::Saved(SaveId(1))), [renew(1)]);
        assert_eq!(work.slowly(ROTATED), [Action::Save(SaveId(2))]);
        assert_eq!(work.machine.snapshot().published, None);
        assert_eq!(work.slowly(ROTATED), [], "it has been answered");
        work.now = T0 + 9 * SECOND;
        let published = work.slowly(answer(SaveId(2)));
        // the life counts from when the server was asked, not from when the store had answered
        let usable_until = T0 + 5 * SECOND + HOUR - 10 * SECOND;
        let expected = Action::Publish { id: RenewalId(1), usable_until, start: T0 + 5 * SECOND };
        assert_eq!(published, [expected], "also where it is not saved: what is at hand is the latest");
    }
}

#[test]
fn nothing_is_spent_that_cannot_be_noted_and_it_is_tried_again_as_soon_as_something_can_be_saved() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    work.now = work.machine.next_wakeup().expect("a renewal").0;
    let failed = |save| Event::NotSaved { save, reason: NotSaved::Failed };
    let [Action::Note(save)] = work.slowly(Event::Tick)[..] else { panic!("a note") };
    assert_eq!(work.slowly(failed(save)), []);
    assert!(work.machine.snapshot().published.is_some(), "the token in hand is as good as it was");
    let (at, reason) = work.machine.next_wakeup().expect("it is tried again");
    assert_eq!((reason, at > work.now), (Reason::Retry, true));
    work.now = at;
    let [Action::Note(save)] = work.slowly(Event::Tick)[..] else { panic!("a note") };
    assert_eq!(work.slowly(failed(save)), []);
    assert!(work.machine.next_wakeup().expect("it is tried again").0 > work.now + SECOND);
    work.now = work.now + SECOND;
    let [Action::Note(save)] = work.slowly(Event::SavesAgain)[..] else { panic!("a note at once") };
    assert!(matches!(work.slowly(Event::Saved(save))[..], [Action::Renew(_)]));
}

#[test]
fn nothing_is_spent_while_nobody_knows_what_the_store_holds_and_what_has_come_is_used() {
    let unknown = |save| Event::NotSaved { save, reason: NotSaved::Unknown };
    let mut work = Story { machine: Renewal::new(Policy::default(), 7), now: T0 };
    assert_eq!(work.slowly(replaced()), [Action::Note(SaveId(1))]);
    assert_eq!(work.slowly(unknown(SaveId(1))), []);
    let snapshot = work.machine.snapshot();
    assert_eq!((snapshot.failures, snapshot.next_wakeup.map(|(_, reason)| reason)), (1, Some(Reason::Retry)));
    assert_eq!(work.wait(), [renew(2)]);
    let rotated = Event::Renewed {
        id: RenewalId(2),
        lifetime: Some(HOUR),
        rotated: true,
        refresh_lifetime: None,
        retry_after: None,
    };
    let [Action::Save(save)] = work.slowly(rotated)[..] else { panic!("a save") };
    assert!(matches!(work.slowly(unknown(save))[..], [Action::Publish { .. }]));
}

#[test]
fn a_token_that_ends_while_its_successor_is_saved_is_withdrawn_all_the_same() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    assert_eq!(work.wait(), [renew(2)]);
    let rotated = Event::Renewed {
        id: RenewalId(2),
        lifetime: Some(HOUR),
        rotated: true,
        refresh_lifetime: None,
        retry_after: None,
    };
    assert_eq!(work.slowly(rotated).len(), 1);
    let (at, reason) = work.machine.next_wakeup().expect("the end of the token in hand");
    assert_eq!(reason, Reason::Withdraw);
    work.now = at;
    assert_eq!(work.slowly(Event::Tick), [Action::Withdraw]);
    let save = work.machine.owed_save().expect("it is still owed");
    assert!(matches!(work.slowly(Event::Saved(save))[..], [Action::Publish { .. }]));
}

#[test]
fn a_store_that_holds_a_later_credential_is_believed_and_the_one_at_hand_is_spent_no_more() {
    let stale = |save| Event::NotSaved { save, reason: STALE };
    // before it is spent
    let mut work = Story::signed_in().with_token_for(HOUR);
    work.now = work.machine.next_wakeup().expect("a renewal").0;
    let [Action::Note(save)] = work.slowly(Event::Tick)[..] else { panic!("a note") };
    assert_eq!(work.slowly(stale(save)), [Action::Withdraw, Action::Adopt]);
    for event in [Event::Wanted, Event::Asked, Event::Tick, Event::Saved(save), stale(save), Event::Superseded] {
        assert_eq!(work.slowly(event), [], "{event:?}");
    }
    // the later one is spent at once, but a store that always says so makes no loop without a pause
    assert_eq!(work.slowly(replaced()), []);
    assert_eq!(work.machine.next_wakeup().expect("scheduled").0, work.now + SECOND);
    // after its grant was rotated
    let mut work = Story::signed_in();
    let [Action::Save(save)] = work.slowly(ROTATED)[..] else { panic!("a save") };
    assert_eq!(work.slowly(stale(save)), [Action::Adopt]);
    assert_eq!(work.slowly(Event::CredentialRefused(Why::IssuedElsewhere)), []);
    // after a refusal: it was refused because another machine had renewed it
    let mut work = Story::signed_in();
    assert_eq!(work.failed(1, Failure::Permanent(Why::Revoked)), [Action::SetAside(Why::Revoked)]);
    assert_eq!(work.slowly(Event::Superseded), [Action::Adopt]);
    assert_eq!(work.slowly(replaced()), []);
    assert_eq!(work.wait(), [renew(3)]);
}

#[test]
fn what_the_store_says_late_of_a_replaced_credential_or_an_earlier_save_is_nobodys() {
    let answers = [Event::Saved(SaveId(1)), Event::NotSaved { save: SaveId(1), reason: STALE }];
    for late in answers {
        // a sign-in while a note is owed
        let mut work = Story { machine: Renewal::new(Policy::default(), 7), now: T0 };
        assert_eq!(work.slowly(replaced()), [Action::Note(SaveId(1))]);
        assert_eq!(work.slowly(replaced()), [Action::Note(SaveId(2))]);
        assert_eq!(work.slowly(late), [], "{late:?}");
        assert_eq!(work.slowly(Event::Saved(SaveId(2))), [renew(2)]);
        // a sign-out while the rotated refresh token's save is owed
        let mut work = Story::signed_in();
        let [Action::Save(save)] = work.slowly(ROTATED)[..] else { panic!("a save") };
        assert_eq!(work.slowly(late), [], "{late:?}");
        assert_eq!(work.slowly(Event::CredentialRemoved), []);
        assert_eq!(work.slowly(Event::Saved(save)), []);
        assert_eq!(work.machine.snapshot().phase, Phase::SignInRequired { why: Why::NotSignedIn });
    }
}

#[test]
fn a_false_refusal_is_told_at_once_and_forgotten_when_the_server_takes_the_token_again() {
    let mut work = Story::signed_in().with_token_for(HOUR);
    assert_eq!(work.wait(), [renew(2)]);
    assert_eq!(work.failed(2, Failure::Refused), [Action::SetAside(Why::Revoked)]);
    let refused_at = work.now;
    assert_eq!(work.machine.snapshot().phase, Phase::SignInRequired { why: Why::Revoked });
    assert_eq!(work.machine.snapshot().published, Some(RenewalId(1)), "what is valid is served");
    for event in [Event::Wanted, Event::NetworkChanged, Event::Resumed, Event::Tick] {
        assert_eq!(work.event(event), [], "{event:?}");
    }
    assert_eq!(work.wait(), [renew(3)]);
    assert_eq!(work.now, refused_at + MINUTE);
    assert!(matches!(work.renewed(3, HOUR)[..], [Action::Publish { id: RenewalId(3), .. }]));
    assert!(matches!(work.machine.snapshot().phase, Phase::Scheduled { .. }));
    // and the next one has all its lives
    assert_eq!(work.wait(), [renew(4)]);
    assert_eq!(work.failed(4, Failure::Refused), [Action::SetAside(Why::Revoked)]);
    assert_eq!(work.machine.next_wakeup().map(|(at, _)| at), Some(work.now + MINUTE));
}

#[test]
fn a_refresh_token_that_is_refused_three_times_is_presented_again_only_when_a_person_asks() {
    let mut work = Story::signed_in();
    assert_eq!(work.failed(1, Failure::Refused), [Action::SetAside(Why::Revoked)]);
    for (id, wait) in [(2, MINUTE), (3, 10 * MINUTE)] {
        let refused_at = work.now;
        assert_eq!(work.wait(), [renew(id)]);
        assert_eq!(work.now, refused_at + wait);
        assert_eq!(work.failed(id, Failure::Refused), [Action::SetAside(Why::Revoked)]);
    }
    assert_eq!(work.machine.next_wakeup(), None);
    assert_eq!(work.after(HOUR, Event::Asked), [renew(4)]);
    assert_eq!(work.failed(4, Failure::Refused), [Action::SetAside(Why::Revoked)]);
    assert_eq!(work.machine.next_wakeup(), None);
}

#[test]
fn no_failure_but_a_refusal_uses_up_a_second_life_and_none_ends_the_first_verdict() {
    let mut work = Story::signed_in();
    assert_eq!(work.failed(1, Failure::Refused), [Action::SetAside(Why::Revoked)]);
    assert_eq!(work.wait(), [renew(2)]);
    for id in 2..20 {
        let _ = work.failed(id, TRANSIENT);
        assert_eq!(work.machine.snapshot().phase, Phase::SignInRequired { why: Why::Revoked });
        assert_eq!(work.wait(), [renew(id + 1)]);
    }
    // a response lost may have been the one that took it
    assert_eq!(work.failed(20, Failure::Ambiguous), []);
    assert_eq!(work.wait(), [renew(21)]);
    assert_eq!(work.failed(21, Failure::Refused), [Action::SetAside(Why::Ambiguous)]);
    assert_eq!(work.machine.next_wakeup().map(|(at, _)| at), Some(work.now + 10 * MINUTE));
}

#[test]
fn a_password_or_a_client_that_is_refused_has_no_second_life() {
    for why in [Why::Revoked, Why::ClientRefused] {
        let mut work = Story::signed_in();
        assert_eq!(work.failed(1, Failure::Permanent(why)), [Action::SetAside(why)]);
        assert_eq!(work.machine.next_wakeup(), None);
        assert_eq!(work.after(HOUR, Event::Asked), []);
    }
}

#[test]
fn what_an_earlier_process_was_refused_is_presented_once_at_a_start() {
    for (why, answer_lost, again) in [
        (Why::Revoked, false, Why::Revoked),
        (Why::Ambiguous, false, Why::Ambiguous),
        (Why::Revoked, true, Why::Ambiguous),
    ] {
        let mut work = Story { machine: Renewal::new(Policy::default(), 7), now: T0 };
        let (refresh_expires_at, learnt_life) = (None, None);
        let patience = SECOND;
        let doubted = Event::CredentialDoubted { why, patience, answer_lost, refresh_expires_at, learnt_life };
        assert_eq!(work.event(doubted), []);
        assert_eq!(work.machine.snapshot().phase, Phase::SignInRequired { why }, "told at once");
        assert_eq!(work.wait(), [renew(1)]);
        assert_eq!(work.failed(1, Failure::Refused), [Action::SetAside(again)]);
        assert_eq!(work.machine.next_wakeup(), None);
    }
}

#[test]
fn a_refusal_that_has_to_be_repeated_counts_a_minute_after_the_first_and_a_success_in_between_forgets_it() {
    let mut work = Story::signed_in();
    let said = Failure::Unconfirmed { why: Why::Revoked, retry_after: None };
    let mut id = 1;
    let first = work.now;
    loop {
        let actions = work.failed(id, said);
        if !actions.is_empty() {
            assert_eq!(actions, [Action::SetAside(Why::Revoked)]);
            break;
        }
        id += 1;
        assert_eq!(work.wait(), [renew(id)]);
    }
    assert!(work.now >= first + MINUTE && id >= 2);
    let mut work = Story::signed_in();
    assert_eq!(work.failed(1, said), []);
    assert_eq!(work.wait(), [renew(2)]);
    assert!(!work.renewed(2, HOUR).is_empty());
    assert_eq!(work.wait(), [renew(3)]);
    assert_eq!(work.failed(3, said), [], "the first time again");
}

#[test]
fn a_retry_after_is_obeyed_whatever_it_comes_with() {
    let wait = Some(8 * SECOND);
    let dead = Event::Renewed {
        id: RenewalId(1),
        lifetime: Some(Duration::ZERO),
        rotated: false,
        refresh_lifetime: None,
        retry_after: wait,
    };
    let failed = |failure| Event::Failed { id: RenewalId(1), failure };
    for (name, answer) in [
        ("a failure", failed(Failure::Transient { retry_after: wait })),
        ("words that count when repeated", failed(Failure::Unconfirmed { why: Why::Revoked, retry_after: wait })),
        ("a token that is dead on arrival", dead),
    ] {
        let mut work = Story::signed_in();
        assert_eq!(work.event(answer), [], "{name}");
        for event in [Event::Wanted, Event::NetworkChanged, Event::Resumed] {
            assert_eq!(work.event(event), [], "{name}");
        }
        assert_eq!(work.wait(), [renew(2)], "{name}");
        assert_eq!(work.now, T0 + 8 * SECOND, "{name}");
    }
}

/// A random history and what an observer outside the machine knows of it.
struct History {
    machine: Renewal,
    dice: u64,
    now: Timestamp,
    /// Which credential is in force.
    credential: u32,
    /// Answers owed, with the credential that they belong to.
    owed: Vec<(RenewalId, u32)>,
    answered: Vec<RenewalId>,
    /// What the store owes a response to.
    owed_saves: Vec<SaveId>,
    /// The credential that it holds is owed.
    owes_credential: bool,
    /// Renewals whose answers held a new refresh token.
    rotated: Vec<RenewalId>,
    published: Option<Timestamp>,
    last_start: Option<Timestamp>,
    is_refused: bool,
    /// When and how often the refresh token in force was refused, where it may be presented again.
    refused: Option<(Timestamp, usize)>,
    /// A person has asked for that, or there was a start.
    is_asked: bool,
}

/// Which invariant was broken, and how.
type Violation = (&'static str, String);

const NO_FAULT: Option<Fault> = None;

/// The longest life that the histories give a token; nothing may be scheduled later than that.
const LONGEST_LIFE: Duration = Duration::from_secs(40 * 24 * 3600);

impl History {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut machine = Renewal::new(Policy::default(), seed);
        machine.fault = fault;
        Self {
            machine,
            dice: seed,
            now: T0,
            credential: 0,
            owed: Vec::new(),
            answered: Vec::new(),
            owed_saves: Vec::new(),
            owes_credential: false,
            rotated: Vec::new(),
            published: None,
            last_start: None,
            is_refused: true,
            refused: None,
            is_asked: false,
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.let_time_pass();
        let before = self.machine.snapshot();
        let wakeup = self.machine.next_wakeup().map(|(at, _)| at);
        let owed_save = self.machine.owed_save();
        let event = self.pick_event();
        let actions = self.machine.handle(event, self.now);
        let after = self.machine.snapshot();
        let nothing_happened = actions.is_empty() && before == after;

        if event == Event::Tick && wakeup.is_none_or(|at| self.now < at) && !nothing_happened {
            return Err(("I7", format!("a tick at {:?}, before {wakeup:?}: {actions:?}", self.now)));
        }
        if let Event::Renewed { id, .. } | Event::Failed { id, .. } = event {
            let was_owed = before.phase == Phase::InFlight { id } && owed_save.is_none();
            if let Event::Renewed { rotated: true, .. } = event
                && was_owed
            {
                self.rotated.push(id);
            }
            let is_due = wakeup.is_some_and(|at| self.now >= at);
            if !was_owed && !is_due && !nothing_happened {
                return Err(("I5", format!("{event:?} while {before:?}: {actions:?}")));
            }
        }
        if let Event::Saved(save) | Event::NotSaved { save, .. } = event {
            let is_due = wakeup.is_some_and(|at| self.now >= at);
            if owed_save != Some(save) && !is_due && !nothing_happened {
                return Err(("I5", format!("{event:?} while {before:?}: {actions:?}")));
            }
        }
        match event {
            Event::Asked if self.refused.is_some() => self.is_asked = true,
            Event::Renewed { id, .. } if owed_save.is_none() && before.phase == (Phase::InFlight { id }) => {
                (self.is_refused, self.refused) = (false, None);
            }
            _ => {}
        }
        if let Event::CredentialReplaced { .. }
        | Event::CredentialRefused(_)
        | Event::CredentialDoubted { .. }
        | Event::CredentialRemoved = event
        {
            (self.refused, self.is_asked) = match event {
                Event::CredentialDoubted { .. } => (Some((self.now, 2)), true),
                _ => (None, false),
            };
            self.owes_credential = false;
            self.credential += 1;
            self.last_start = None;
            self.is_refused = !matches!(event, Event::CredentialReplaced { .. });
            if self.published.is_some() && !actions.contains(&Action::Withdraw) {
                return Err(("I9", format!("{event:?}: {actions:?}")));
            }
        }
        self.observe(event, owed_save, &actions)?;
        self.check_state(&after)
    }

    fn observe(&mut self, event: Event, owed_save: Option<SaveId>, actions: &[Action]) -> Result<(), Violation> {
        // the response without which nothing is spent, and nothing that was rotated is published
        let (is_noted, is_saved) = match event {
            Event::Saved(save) => (owed_save == Some(save), owed_save == Some(save)),
            Event::NotSaved { save, reason: NotSaved::Failed | NotSaved::Unknown } => (false, owed_save == Some(save)),
            _ => (false, false),
        };
        for action in actions {
            match *action {
                Action::Renew(id) => {
                    if self.owed.iter().any(|(_, credential)| *credential == self.credential) {
                        return Err(("I1", format!("{id:?} beside {:?}", self.owed)));
                    }
                    let has_another_life = self.refused.is_some_and(|(at, times)| match times {
                        _ if self.is_asked => true,
                        1 => self.now >= at + MINUTE,
                        2 => self.now >= at + 10 * MINUTE,
                        _ => false,
                    });
                    if self.is_refused && !has_another_life {
                        return Err(("I8", format!("{id:?} after a refusal, by {event:?}")));
                    }
                    if let Some(last) = self.last_start
                        && self.now < last + Policy::default().minimum_spacing
                    {
                        return Err(("I6", format!("{last:?} and {:?}, by {event:?}", self.now)));
                    }
                    if !is_noted {
                        return Err(("I4", format!("{id:?} is not noted, by {event:?}")));
                    }
                    self.last_start = Some(self.now);
                    self.owed.push((id, self.credential));
                }
                Action::Note(save) | Action::Save(save) => self.owed_saves.push(save),
                Action::Adopt => {
                    self.owes_credential = true;
                    if self.published.is_some() {
                        return Err(("I9", format!("{event:?}: {actions:?}")));
                    }
                }
                Action::SetAside(_) => {
                    let times = self.refused.map_or(0, |(_, times)| times);
                    self.refused = match event {
                        Event::Failed { failure: Failure::Refused | Failure::Unconfirmed { .. }, .. } => {
                            Some((self.now, times + 1))
                        }
                        _ => None,
                    };
                    (self.is_refused, self.is_asked) = (true, false);
                }
                Action::Publish { id, usable_until, .. } => {
                    if self.rotated.contains(&id) && !is_saved {
                        return Err(("I4", format!("{event:?}: {actions:?}")));
                    }
                    self.published = Some(usable_until);
                }
                Action::Withdraw => self.published = None,
            }
        }
        if self.published.is_some_and(|until| self.now >= until) {
            return Err(("I2", format!("published past its time, after {event:?}")));
        }
        Ok(())
    }

    fn check_state(&self, state: &AccountSnapshot) -> Result<(), Violation> {
        match state.phase {
            Phase::Scheduled { .. } => {
                let in_time = |at: Timestamp| at.since(self.now) <= LONGEST_LIFE;
                if !state.next_wakeup.is_some_and(|(at, _)| in_time(at)) {
                    return Err(("I3", format!("nothing to wait for: {state:?}")));
                }
                if self.is_refused {
                    return Err(("I8", format!("scheduled after a refusal: {state:?}")));
                }
            }
            Phase::InFlight { id } => {
                let is_owed = match self.machine.owed_save() {
                    Some(save) => self.owed_saves.contains(&save),
                    None => self.owes_credential || self.owed.contains(&(id, self.credential)),
                };
                if !is_owed {
                    return Err(("I3", format!("{id:?} is owed by nobody")));
                }
            }
            Phase::SignInRequired { .. } => {}
        }
        Ok(())
    }

    fn let_time_pass(&mut self) {
        let wakeup = self.machine.next_wakeup().map(|(at, _)| at);
        let step = match self.roll(10) {
            0 | 1 => Duration::ZERO,
            2 => Duration::from_millis(self.roll(1500)),
            3 => Duration::from_secs(self.roll(40)),
            4 => Duration::from_secs(self.roll(3600)),
            5 if self.roll(20) == 0 => 8 * HOUR,
            // to the wakeup, or the moment before it
            6 => wakeup.map_or(SECOND, |at| (at - Duration::from_millis(1)).since(self.now)),
            _ => wakeup.map_or(SECOND, |at| at.since(self.now)),
        };
        self.now = self.now + step;
    }

    fn pick_event(&mut self) -> Event {
        match self.roll(36) {
            24..=32 if !self.owed_saves.is_empty() => {
                let which = self.roll(self.owed_saves.len() as u64) as usize;
                let save = self.owed_saves.swap_remove(which);
                self.store_says(save)
            }
            33 => {
                let forgotten = SaveId(self.roll(20)); // or never asked
                self.store_says(forgotten)
            }
            34 if self.roll(4) == 0 => Event::Superseded,
            _ if self.owes_credential && self.roll(4) == 0 => match self.roll(8) {
                0 => Event::CredentialRemoved,
                1 => Event::CredentialRefused(Why::Revoked),
                _ => replaced(),
            },
            0..=5 => Event::Tick,
            6 | 7 => Event::Wanted,
            8 => Event::Asked,
            9 => {
                let id = self.some_renewal();
                let until = self.now + Duration::from_secs(self.roll(2) * 30);
                let place = Place { route: 1, resource: self.roll(3) as u32 };
                match self.roll(3) {
                    0 => Event::Rejected { id, place, worked: Some(id).filter(|_| self.roll(2) == 0), until },
                    1 => {
                        let at = self.now - Duration::from_secs(self.roll(10));
                        Event::Replayed { refused: id, place, at, accepted: self.roll(2) == 0 }
                    }
                    _ => Event::Worked { id, place, sent: self.now - Duration::from_secs(self.roll(20)) },
                }
            }
            10 => Event::NetworkChanged,
            11 => Event::Resumed,
            12 if self.roll(8) == 0 => Event::CredentialRemoved,
            13 if self.roll(8) == 0 => Event::CredentialRefused(Why::Revoked),
            13 if self.roll(8) == 0 => Event::CredentialDoubted {
                why: Why::Revoked,
                patience: Duration::from_millis(self.roll(3) * 700),
                answer_lost: self.roll(4) == 0,
                refresh_expires_at: None,
                learnt_life: None,
            },
            14 if self.roll(4) == 0 || self.is_refused => Event::CredentialReplaced {
                patience: Duration::from_millis(self.roll(3) * 700),
                answer_lost: self.roll(4) == 0,
                refresh_expires_at: None,
                learnt_life: Some(3).filter(|_| self.roll(2) == 0).map(Duration::from_secs),
            },
            15 => {
                let forgotten = self.roll(1 + self.answered.len() as u64); // or never asked
                self.answer_for(RenewalId(forgotten))
            }
            _ => match self.owed.is_empty() {
                true => Event::Tick,
                false => {
                    let which = self.roll(self.owed.len() as u64) as usize;
                    let (id, _) = self.owed.swap_remove(which);
                    self.answered.push(id);
                    self.answer_for(id)
                }
            },
        }
    }

    fn store_says(&mut self, save: SaveId) -> Event {
        match self.roll(8) {
            0 => Event::NotSaved { save, reason: NotSaved::Stale },
            1 => Event::NotSaved { save, reason: NotSaved::Failed },
            2 => Event::NotSaved { save, reason: NotSaved::Unknown },
            _ => Event::Saved(save),
        }
    }

    fn some_renewal(&mut self) -> RenewalId {
        match self.machine.snapshot().published {
            Some(id) if self.roll(4) > 0 => RenewalId(id.0 - self.roll(2).min(id.0)),
            _ => RenewalId(self.roll(1 + self.answered.len() as u64 + self.owed.len() as u64)),
        }
    }

    fn answer_for(&mut self, id: RenewalId) -> Event {
        let lives = [0, 1, 5, 10, 30, 60, 300, 3600, 86_400, 604_800, 27 * 86_400];
        let life = |roll: u64| lives.get(roll as usize).map(|seconds| Duration::from_secs(*seconds));
        match self.roll(8) {
            0 => Event::Failed { id, failure: TRANSIENT },
            1 => {
                let retry_after = Some(Duration::from_secs(self.roll(100_000)));
                Event::Failed { id, failure: Failure::Transient { retry_after } }
            }
            2 => Event::Failed { id, failure: Failure::Ambiguous },
            3 if self.roll(3) == 0 => Event::Failed { id, failure: Failure::Refused },
            4 if self.roll(6) == 0 => {
                Event::Failed { id, failure: Failure::Unconfirmed { why: Why::Revoked, retry_after: None } }
            }
            3 if self.roll(3) == 0 => Event::Failed { id, failure: Failure::Permanent(Why::Revoked) },
            _ => {
                let (lifetime, refresh_lifetime) = (life(self.roll(12)), life(self.roll(30)));
                Event::Renewed { id, lifetime, rotated: self.roll(2) == 0, refresh_lifetime, retry_after: None }
            }
        }
    }
}

/// Runs histories of 500 steps each until one breaks an invariant.
fn first_violation(histories: u64, fault: Option<Fault>) -> Option<(u64, Violation)> {
    (0..histories).find_map(|seed| {
        let mut history = History::new(seed, fault);
        (0..500).find_map(|_| history.step().err()).map(|violation| (seed, violation))
    })
}

#[test]
fn a_million_random_steps_break_no_invariant() {
    assert_eq!(first_violation(2_400, NO_FAULT), None);
}

#[test]
fn each_invariant_bites() {
    for (fault, invariant) in [
        (Fault::StartsWhileInFlight, "I1"),
        (Fault::NeverWithdraws, "I2"),
        (Fault::GivesUp, "I3"),
        (Fault::PublishesBeforeSaved, "I4"),
        (Fault::SpendsBeforeNoted, "I4"),
        (Fault::IgnoresStale, "I4"),
        (Fault::SpendsUnknowing, "I4"),
        (Fault::BelievesLateSaves, "I5"),
        (Fault::TakesForgottenAnswers, "I5"),
        (Fault::IgnoresSpacing, "I6"),
        (Fault::StartsEarly, "I7"),
        (Fault::RetriesAfterRefusal, "I8"),
        (Fault::KeepsTheOldToken, "I9"),
    ] {
        let (seed, (broken, how)) = first_violation(200, Some(fault)).expect("the fault is noticed");
        assert_eq!(broken, invariant, "{fault:?}, seed {seed}: {how}");
    }
}
