//! The document as scripts see it, and what other tests start from.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::build::{state, urls};
use super::*;
use crate::accounts::{AccountView, LastFailure, Stored, Withheld, Withholding};
use crate::client_keys::KeyRing;
use crate::config::{self, AccountId, Config, ListenAddress, Proxies, RouteName};
use crate::platform::harden::Measure;
use crate::renewal::{AccountSnapshot, Phase, Reason, RenewalId, Why};
use crate::stats::Stats;
use crate::store::SealState;
use crate::timestamp::Timestamp;

/// The time line is an hour ahead of the calendar, so that a mix-up of the two shows.
const NOW: Timestamp = Timestamp::from_millis(1_790_003_600_500);

pub(crate) fn readings() -> Readings {
    Readings { now: NOW, wall: UNIX_EPOCH + Duration::from_secs(1_790_000_000) }
}

#[test]
fn the_document_is_what_the_scripts_of_version_1_expect() {
    let (facts, config, stats) = (facts(), config(), Stats::default());
    stats.connections.add(2);
    stats.refused.add(3);
    stats.audit.written.add(5);
    stats.audit.dropped.add(1);
    let gbdx = stats.route(&name("gbdx"));
    gbdx.requests.add(120);
    gbdx.open.add(1);
    gbdx.rejected.add(2);
    gbdx.replayed.add(2);
    gbdx.answered(200, Duration::from_millis(3));
    gbdx.replayed_with(true);
    let problems = ["route.x: no account named \"x\"".to_owned()];
    let views = [usable_view(), refused_view()];
    let sources = Sources {
        readings: readings(),
        facts: &facts,
        config: &config,
        config_problems: &problems,
        views: &views,
        stats: &stats,
        keys: &KeyRing::default(),
        store: &SealState::default(),
    };
    let report = StatusReport::new(&sources);
    let golden = json!({
        "schema": 1,
        "at": "2026-09-21T14:13:20Z",
        "daemon": {
            "version": "0.1.0",
            "pid": 4711,
            "uptime_seconds": 60,
            "listen": ["127.0.0.1:8253", "[::1]:8253"],
            "config_file": "/home/me/.config/valetd/config.toml",
            "state_dir": "/home/me/.local/state/valetd",
            "configured": true,
            "config_problems": ["route.x: no account named \"x\""],
            "warnings": ["lingering is off"],
            "connections": 2,
            "refused": 3,
            "refused_root": 0,
            "audit": { "file": "/var/log/audit.jsonl", "written": 5, "dropped": 1, "refused": 0, "trouble": null },
            "hardening": [{ "name": "landlock", "in_force": false, "detail": "switched off" }],
            "own_addresses": [],
            "strict_exec": false,
            "store": {
                "sealed": false,
                "source": null,
                "key_id": null,
                "since": null,
                "because": [],
                "recovery": false,
                "locked": null,
            },
        },
        "accounts": [{
            "id": "gbdx",
            "provider": "gbdx",
            "description": null,
            "state": "usable",
            "usable": true,
            "why": null,
            "why_code": null,
            "usable_until": "2026-09-21T14:54:20Z",
            "seconds_left": 2460,
            "learnt_life_seconds": 6.25,
            "next_wakeup": { "at": "2026-09-21T14:49:20Z", "in_seconds": 2160, "reason": "before-expiry" },
            "last_success": "2026-09-21T14:12:20Z",
            "last_failure": null,
            "failures": 0,
            "credential": {
                "generation": 3,
                "fingerprint": "ba7816bf",
                "saved": true,
                "sealed": "no",
                "identity": "me@example.com", "subject": "0b-1c",
                "ends_at": null, "refresh_expires_at": "2026-10-18T14:13:20Z",
            },
            "renewals": 7,
            "token_requests": 8,
            "next_action": null,
        }, {
            "id": "gdh",
            "provider": "gdh",
            "description": "GeoDataHub",
            "state": "sign-in-required",
            "usable": false,
            "why": "the refresh token was refused: it was revoked or has expired",
            "why_code": "revoked",
            "usable_until": null,
            "seconds_left": null,
            "learnt_life_seconds": null,
            "next_wakeup": null,
            "last_success": null,
            "last_failure": {
                "at": "2026-09-21T14:13:08Z",
                "class": "permanent",
                "oauth_error": "invalid_grant",
                "http_status": 400,
                "detail": "the server refused the refresh token",
                "attempt": 1,
            },
            "failures": 1,
            "credential": null,
            "renewals": 0,
            "token_requests": 1,
            "next_action": "valetd login gdh",
        }],
        "routes": [{
            "name": "gbdx",
            "urls": [
                "http://localhost:8253/gbdx/",
                "http://gbdx.localhost:8253/",
                "http://127.0.0.1:8300/",
            ],
            "upstream": "https://geobigdata.io",
            "account": "gbdx",
            "require_key": false,
            "requests": 120,
            "open": 1,
            "errors": 0,
            "rejected": 2,
            "replayed": 2,
            "refuses_token": true,
            "median_ms": 4.0,
            "p99_ms": 4.0,
            "proxy": null,
            "mcp": null,
        }],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), golden);
    let read_back: StatusReport = serde_json::from_value(golden).unwrap();
    assert_eq!(read_back, report);
}

#[test]
fn a_reader_overlooks_members_that_it_does_not_know() {
    let text = r#"{"at": "2026-09-21T14:13:20Z", "in_seconds": 3, "reason": "retry", "mood": "fine"}"#;
    assert_eq!(serde_json::from_str::<Wakeup>(text).unwrap().reason, Reason::Retry);
}

#[test]
fn the_state_is_one_word_for_phase_and_token() {
    let scheduled = Phase::Scheduled { at: NOW };
    let in_flight = Phase::InFlight { id: RenewalId(1) };
    let nobody = Phase::SignInRequired { why: Why::NotSignedIn };
    let table = [
        ("between renewals", scheduled, true, State::Usable),
        ("renewing early", in_flight, true, State::Usable),
        ("backing off without a token", scheduled, false, State::Waiting),
        ("the first renewal", in_flight, false, State::Renewing),
        ("refused, token used up", nobody, true, State::SignInRequired),
        ("nobody signed in", nobody, false, State::SignInRequired),
    ];
    for (case, phase, usable, expected) in table {
        assert_eq!(state(phase, usable), expected, "{case}");
    }
}

#[test]
fn a_failed_early_renewal_shows_its_reason_and_leaves_the_account_usable() {
    let mut view = usable_view();
    view.snapshot.failures = 2;
    view.last_failure = refused_view().last_failure;
    let report = AccountReport::new(&view, readings(), "valetd");
    assert_eq!((report.state, report.usable), (State::Usable, true));
    assert_eq!(report.why.as_deref(), Some("the server refused the refresh token"));
    assert_eq!(report.next_action, None);
}

#[test]
fn a_token_is_not_usable_at_the_very_end_of_its_life() {
    let mut view = usable_view();
    view.snapshot.usable_until = Some(NOW);
    let report = AccountReport::new(&view, readings(), "valetd");
    assert_eq!((report.state, report.usable, report.seconds_left), (State::Waiting, false, Some(0)));
}

#[test]
fn what_is_sealed_under_a_key_that_is_away_or_gone_is_a_state_of_its_own() {
    let rows = [
        (Withholding::StoreLocked, State::StoreLocked, "valetd unlock"),
        (Withholding::Locked, State::Locked, "valetd unlock"),
        (
            Withholding::OtherMachine,
            State::OtherMachine,
            "valetd login gbdx (or valetd adopt gbdx, if no other machine uses it any more)",
        ),
        (
            Withholding::OlderCopy,
            State::OlderCopy,
            "valetd login gbdx (or valetd adopt gbdx, if its refresh token is the latest all the same)",
        ),
        (
            Withholding::KeyGone,
            State::KeyGone,
            "valetd unlock --recovery (or valetd seal on --new-key, and then valetd login gbdx)",
        ),
    ];
    for (cause, state, action) in rows {
        let mut view = usable_view();
        view.snapshot = AccountSnapshot {
            phase: Phase::SignInRequired { why: Why::NotSignedIn },
            usable_until: None,
            ..view.snapshot
        };
        view.withheld = Some(Withheld { cause, why: "no stick".into(), since: NOW });
        let report = AccountReport::new(&view, readings(), "valetd");
        assert_eq!((report.state, report.why_code, report.why.as_deref()), (state, None, Some("no stick")));
        assert_eq!(report.next_action.as_deref(), Some(action));
        assert_eq!(serde_json::to_value(state).unwrap(), state.to_string(), "one word everywhere");
    }
}

#[test]
fn the_next_action_reaches_the_daemon_that_named_it() {
    let report = AccountReport::new(&refused_view(), readings(), "valetd --socket /tmp/v.sock");
    assert_eq!(report.next_action.as_deref(), Some("valetd --socket /tmp/v.sock login gdh"));
}

#[test]
fn urls_say_localhost_only_where_both_families_answer() {
    let (v4, v6) = (tcp("127.0.0.1:8253"), tcp("[::1]:8253"));
    let unix = ListenAddress::Unix("/run/v.sock".into());
    let cases = [
        ("both", vec![v4.clone(), v6.clone()], None, ["http://localhost:8253/lab/", "http://lab.localhost:8253/"]),
        ("IPv4", vec![v4.clone()], None, ["http://127.0.0.1:8253/lab/", "http://lab.localhost:8253/"]),
        ("IPv6", vec![v6], None, ["http://[::1]:8253/lab/", "http://lab.localhost:8253/"]),
        ("unix", vec![unix.clone()], Some(&unix), ["http://unix:/run/v.sock:/lab/", "http://unix:/run/v.sock:/"]),
        ("elsewhere", vec![tcp("127.0.0.2:80")], Some(&v4), ["http://127.0.0.2:80/lab/", "http://127.0.0.1:8253/"]),
    ];
    for (case, listen, own, expected) in cases {
        assert_eq!(urls(&name("lab"), &listen, own), expected, "{case}");
    }
}

#[test]
fn the_end_of_time_is_a_date_too() {
    assert_eq!(readings().moment(Timestamp::FAR).to_string(), "9999-12-30T22:00:00Z");
    assert_eq!(readings().moment(Timestamp::from_millis(0)).to_string(), "1970-01-01T00:00:00Z");
}

// What the tests of this folder and of the command line start from.

pub(crate) fn facts() -> Facts {
    Facts {
        version: "0.1.0",
        pid: 4711,
        started_at: NOW - Duration::from_secs(60),
        config_file: "/home/me/.config/valetd/config.toml".into(),
        state_dir: "/home/me/.local/state/valetd".into(),
        configured: true,
        listen: vec![tcp("127.0.0.1:8253"), tcp("[::1]:8253")],
        route_listen: BTreeMap::from([(name("gbdx"), tcp("127.0.0.1:8300"))]),
        warnings: vec!["lingering is off".to_owned()],
        audit: Some("/var/log/audit.jsonl".into()),
        hardening: vec![Measure::waived("landlock", "switched off")],
        proxies: Proxies::default(),
        invocation: "valetd".to_owned(),
    }
}

pub(crate) fn config() -> Config {
    let config = config::testing::config(
        "workers = 1\n[account.gbdx]\nprovider = \"any\"\nupstream = \"https://geobigdata.io\"\n\
         [route.gbdx]\nlisten = \"127.0.0.1:0\"\nreplay_limit = 65536\nwait = \"30 s\"\nhttp2 = false\n",
    );
    Config { accounts: BTreeMap::new(), ..config } // what is known of the account comes from elsewhere
}

pub(crate) fn usable_view() -> AccountView {
    AccountView {
        id: AccountId::new("gbdx").unwrap(),
        provider: Some("gbdx".to_owned()),
        description: None,
        snapshot: AccountSnapshot {
            phase: Phase::Scheduled { at: NOW + Duration::from_secs(2160) },
            published: Some(RenewalId(7)),
            usable_until: Some(NOW + Duration::from_secs(2460)),
            next_wakeup: Some((NOW + Duration::from_secs(2160), Reason::BeforeExpiry)),
            failures: 0,
            refresh_expires_at: Some(NOW + Duration::from_secs(27 * 86_400)),
            learnt_life: Some(Duration::from_millis(6250)),
        },
        stored: Some(Stored {
            generation: 3,
            fingerprint: "ba7816bf".to_owned(),
            saved: true,
            identity: Some("me@example.com".to_owned()),
            rotates: true,
            subject: Some("0b-1c".to_owned()),
            ends_at: None,
        }),
        withheld: None,
        last_success: Some(NOW - Duration::from_secs(60)),
        last_failure: None,
        renewals: 7,
        token_requests: 8,
    }
}

pub(crate) fn refused_view() -> AccountView {
    AccountView {
        id: AccountId::new("gdh").unwrap(),
        provider: Some("gdh".to_owned()),
        description: Some("GeoDataHub".to_owned()),
        snapshot: AccountSnapshot {
            phase: Phase::SignInRequired { why: Why::Revoked },
            published: None,
            usable_until: None,
            next_wakeup: None,
            failures: 1,
            refresh_expires_at: None,
            learnt_life: None,
        },
        stored: None,
        withheld: None,
        last_success: None,
        last_failure: Some(LastFailure {
            at: NOW - Duration::from_secs(12),
            id: RenewalId(1),
            class: "permanent",
            oauth_error: Some("invalid_grant".to_owned()),
            http_status: Some(400),
            detail: "the server refused the refresh token".to_owned(),
            attempt: 1,
        }),
        renewals: 0,
        token_requests: 1,
    }
}

pub(crate) fn report() -> StatusReport {
    let (facts, config, stats) = (facts(), config(), Stats::default());
    let views = [usable_view(), refused_view()];
    let readings = readings();
    let sources = Sources {
        readings,
        facts: &facts,
        config: &config,
        config_problems: &[],
        views: &views,
        stats: &stats,
        keys: &KeyRing::default(),
        store: &SealState::default(),
    };
    StatusReport::new(&sources)
}

fn tcp(address: &str) -> ListenAddress {
    ListenAddress::Tcp(address.parse().unwrap())
}

fn name(name: &str) -> RouteName {
    RouteName::new(name).unwrap()
}
