//! The ring over restarts and clocks, and files that make no sense.

use super::*;
use crate::config::RouteName;
use crate::path_rules::PathPattern;

fn rights(routes: &[&str], methods: &[&str], paths: &[&str]) -> Rights {
    Rights {
        routes: routes.iter().map(|route| RouteName::new(route).unwrap()).collect(),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        paths: paths.iter().map(|path| PathPattern::parse(path).unwrap()).collect(),
        messages: Vec::new(),
    }
}

fn clock() -> Arc<Clock> {
    Arc::new(Clock::start())
}

fn new(name: &str) -> NewKey {
    NewKey {
        name: KeyName::new(name),
        rights: rights(&["gbdx"], &["GET"], &["/catalog/**"]),
        lifetime: Some(Duration::from_secs(3600)),
        rate: Some(Rate::parse("10/s").unwrap()),
        limits: Limits::default(),
        ephemeral: false,
    }
}

#[test]
fn a_key_is_shown_once_kept_as_a_hash_and_found_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (ring, problem) = KeyRing::load(Arc::new(Store::open(&state).unwrap()), clock());
    assert_eq!(problem, None);
    let (secret, _) = ring.add(new("agent")).unwrap();
    assert!(looks_like_key(secret.expose()));
    let (ephemeral, _) = ring.add(NewKey { name: None, ephemeral: true, ..new("x") }).unwrap();
    assert_eq!(ring.find(ephemeral.expose()).unwrap().name.as_str().len(), "ephemeral-".len() + 8);
    assert!(matches!(ring.add(new("agent")), Err(KeyError::Taken(_))));
    assert!(matches!(ring.add(NewKey { name: None, ..new("x") }), Err(KeyError::Nameless)));
    drop(ring);

    let path = state.join(FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(PREFIX) && !text.contains("ephemeral") && text.contains("/catalog/**"), "{text}");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o7777, 0o600);

    let store = Arc::new(Store::open(&state).unwrap());
    let (ring, _) = KeyRing::load(store, clock());
    let key = ring.find(secret.expose()).unwrap();
    assert_eq!((key.rights.clone(), key.rate), (new("agent").rights, new("agent").rate));
    assert_eq!(ring.find(ephemeral.expose()).err(), Some(Refusal::Unknown));
    ring.revoke(&key.name).unwrap();
    assert_eq!(ring.find(secret.expose()).err(), Some(Refusal::Unknown));
    assert!(matches!(ring.revoke(&key.name), Err(KeyError::Unknown(_))));
    assert!(!std::fs::read_to_string(path).unwrap().contains("agent"));
}

#[test]
fn a_key_that_has_expired_stays_expired_when_the_clock_is_set_back_also_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = |clock: &Arc<Clock>| KeyRing::load(Arc::new(Store::open(folder.path()).unwrap()), clock.clone()).0;
    let clock = clock();
    let ring = open(&clock);
    let (secret, key) = ring.add(new("agent")).unwrap();
    assert!(ring.find(secret.expose()).is_ok());
    assert_eq!(ring.next_end(), key.expires_at);
    // two hours pass, and the wall clock is where it was
    clock.was_ahead_by(Duration::from_secs(7200));
    assert_eq!(ring.find(secret.expose()).err(), Some(Refusal::Expired));
    let (later, _) = ring.add(new("later")).unwrap();
    assert_eq!(ring.next_end(), ring.find(later.expose()).unwrap().expires_at, "the first end is noted");
    drop(ring);

    let clock = self::clock();
    let ring = open(&clock);
    assert_eq!(ring.find(secret.expose()).err(), Some(Refusal::Expired), "the file knows better than the clock");
    assert!(ring.find(later.expose()).is_ok());
    // the clock is put right again: what passed by it is not counted twice
    clock.was_ahead_by(Duration::from_secs(7200));
    assert!(ring.find(later.expose()).is_ok());
    clock.was_ahead_by(Duration::from_secs(3601));
    assert_eq!(ring.find(later.expose()).err(), Some(Refusal::Expired));
}

#[test]
fn the_floor_goes_on_with_the_machine_and_counts_its_sleep() {
    let floor = Floor { unix: 1000, read_at: Duration::from_secs(50) };
    assert_eq!(floor.at(Duration::from_secs(50)), 1000);
    assert_eq!(floor.at(Duration::from_secs(110)), 1060);
    assert_eq!(floor.at(Duration::ZERO), 1000);
}

#[test]
fn a_file_that_makes_no_sense_is_set_aside_and_lets_nobody_in() {
    let hash = "0".repeat(64);
    let key = |members: &str| format!("{{\"version\": 1, \"keys\": [{{{members}}}]}}");
    let rest = "\"methods\": [], \"paths\": [], \"created_at\": 1";
    let rows = [
        ("no JSON", "vk_".to_owned()),
        ("another version", "{\"version\": 4, \"keys\": []}".to_owned()),
        ("no hash", key(&format!("\"name\": \"a\", \"sha256\": \"00\", \"routes\": [\"a\"], {rest}"))),
        ("no route", key(&format!("\"name\": \"a\", \"sha256\": \"{hash}\", \"routes\": [], {rest}"))),
        ("a bad name", key(&format!("\"name\": \"A\", \"sha256\": \"{hash}\", \"routes\": [\"a\"], {rest}"))),
    ];
    for (case, text) in rows {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let (ring, problem) = KeyRing::load(store, clock());
        assert!(problem.is_some_and(|problem| problem.contains("none is valid")), "{case}");
        assert!(ring.keys().is_empty(), "{case}");
        assert!(!folder.path().join(FILE).exists(), "{case}");
    }
}

#[test]
fn a_key_ends_when_its_bytes_are_used_up_also_across_a_restart_and_runs_so_often_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let open = || KeyRing::load(Arc::new(Store::open(folder.path()).unwrap()), clock()).0;
    let ring = open();
    let limits = Limits { user: Some(7), concurrent: Some(2), bytes: Some(100) };
    let (secret, key) = ring.add(NewKey { limits, rate: None, ..new("agent") }).unwrap();
    let (one, other) = (ring.admit(&key).unwrap(), ring.admit(&key).unwrap());
    assert_eq!(ring.admit(&key).err(), Some(Exhausted::Concurrent));
    one.carries(99);
    drop((one, other));
    ring.admit(&key).unwrap().carries(1);
    assert_eq!(ring.admit(&key).err(), Some(Exhausted::Bytes));
    assert!(ring.used_up.load(Ordering::Relaxed), "it is to be noted");
    ring.note_time();
    drop(ring);
    let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
    assert!(text.contains("\"version\": 2"), "a version that knows no limits does not read it: {text}");
    let ring = open();
    let key = ring.find(secret.expose()).unwrap();
    assert_eq!((key.limits, key.bytes(), ring.admit(&key).err()), (limits, 100, Some(Exhausted::Bytes)));
    // without a limit nothing is counted
    let (_, other) = ring.add(new("other")).unwrap();
    ring.admit(&other).unwrap().carries(1 << 40);
    assert_eq!((other.bytes(), ring.admit(&other).is_ok()), (0, true));
}
