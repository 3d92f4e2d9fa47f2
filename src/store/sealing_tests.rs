//! Sealing, changing the key and unsealing, with a crash before every step and every disk that a power cut may leave.

use std::cell::Cell;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::faulty_disk::{Fault, FaultyDisk};
use super::reseal::RING;
use super::tests::{id, on, record};
use super::*;
use crate::config::testing::config;
use crate::oauth::ClientAuth;
use crate::oauth::rfc7591::{RegisteredClient, Registration};

/// A source that the tests hold: what the first offer was wrapped by, and the second.
pub(super) const SECRETS: [&str; 2] = ["the first secret of many characters", "the second secret of many characters"];

pub(super) const ACCOUNTS: [&str; 3] = ["alpha", "gbdx", "zulu"];

pub(super) fn offer(secret: &str) -> Offer {
    Offer { kind: Kind::File, blob: None, secret: Secret::new(secret), because: Vec::new() }
}

/// Fetches the keys as a source does that holds one secret: keys that were wrapped by another one stay away.
pub(super) fn unlock(store: &Store, secret: &str) -> Result<Left, SealError> {
    store.unlock(|_, _| Ok(Secret::new(secret)))
}

/// Fetches all keys, whichever of the secrets they were wrapped by.
fn unlock_all(store: &Store) -> Result<Left, SealError> {
    let mut last = Ok(Left::default());
    for secret in SECRETS {
        last = unlock(store, secret);
    }
    last
}

pub(super) fn of(account: &str) -> Record {
    Record { account: id(account), ..record(7) }
}

/// Accounts with a client that was registered for them; nobody is signed in to the last one.
pub(super) const REGISTERED: [&str; 2] = ["gbdx", "unused"];

/// The files in which a secret stands.
pub(super) const FILES: usize = ACCOUNTS.len() + REGISTERED.len();

pub(super) fn client_of(account: &str) -> Registration {
    let client = RegisteredClient {
        registered_at: "https://i.example".into(),
        client_id: format!("client of {account}"),
        client_auth: ClientAuth::Post,
    };
    let management = Some((format!("https://i.example/{account}"), Secret::new("access-token-7")));
    Registration { client, client_secret: Some(Secret::new(format!("secret-token-7 of {account}"))), management }
}

/// Three accounts and two registered clients, in the clear.
pub(super) fn plain() -> FaultyDisk {
    let disk = FaultyDisk::default();
    for account in ACCOUNTS {
        disk.put(&format!("{account}.json"), &file::write(&of(account)));
    }
    for account in REGISTERED {
        disk.put(&Registration::file_name(account), client_of(account).write(account).expose().as_bytes());
    }
    disk
}

/// What is public of the clients that a configuration finds, with no key at hand.
pub(super) fn public_clients(disk: &FaultyDisk) -> Vec<RegisteredClient> {
    let files = disk.files();
    let read = |account: &&str| RegisteredClient::read_file(files.get(&Registration::file_name(account))?, account);
    REGISTERED.iter().filter_map(read).collect()
}

/// The same, sealed by the first secret.
pub(super) fn sealed() -> FaultyDisk {
    let disk = plain();
    on(&disk).seal(&offer(SECRETS[0]), 1).unwrap();
    disk
}

pub(super) fn is_in_the_clear(disk: &FaultyDisk) -> Vec<String> {
    let has_token = |bytes: &[u8]| bytes.windows(7).any(|part| part == b"token-7");
    disk.files().into_iter().filter(|(_, bytes)| has_token(bytes)).map(|(name, _)| name).collect()
}

/// Runs a change with a crash before each step in turn, and looks at each disk that may be found after it: every login is
/// there, and a start finishes what had begun. Returns how many steps there were.
fn is_safe_everywhere(before: &FaultyDisk, change: impl Fn(&Store) -> Result<Left, SealError>) -> usize {
    for crash in 0.. {
        let disk = before.after_a_kill();
        let store = on(&disk);
        unlock_all(&store).unwrap();
        disk.plant(crash, Fault::Crash);
        let changed = change(&store);
        let crashed = disk.fault_has_happened();
        assert_eq!(changed.is_ok(), !crashed, "crash before step {crash}: {changed:?}");
        for world in disk.after_a_power_cut() {
            let found = on(&world);
            let Left(left) = unlock_all(&found).unwrap();
            assert_eq!(left, [""; 0], "crash before step {crash}");
            for account in ACCOUNTS {
                assert_eq!(found.load(&id(account)).unwrap(), Some(of(account)), "crash before step {crash}");
            }
            for account in REGISTERED {
                let client = found.registration(&id(account)).unwrap();
                assert_eq!(client, Some(client_of(account)), "crash before step {crash}");
            }
            assert_eq!(public_clients(&world), REGISTERED.map(|account| client_of(account).client), "step {crash}");
            let clear = is_in_the_clear(&world);
            let is_finished = clear.is_empty() || clear.len() == FILES;
            assert!(is_finished, "crash before step {crash}: {clear:?}");
            assert_eq!(found.seal_state().sealed.is_some(), clear.is_empty(), "crash before step {crash}");
            assert_eq!(found.seal_state().doubt, None, "crash before step {crash}: nobody has put anything back");
        }
        if !crashed {
            return crash;
        }
    }
    unreachable!("there is an end to every change")
}

#[test]
fn sealing_changing_the_key_and_unsealing_lose_no_login_whenever_they_are_cut_short() {
    let sealing = is_safe_everywhere(&plain(), |store| store.seal(&offer(SECRETS[0]), 1));
    let rotating = is_safe_everywhere(&sealed(), |store| store.seal(&offer(SECRETS[1]), 2));
    let unsealing = is_safe_everywhere(&sealed(), Store::unseal);
    let steps = [sealing, rotating, unsealing];
    assert!(steps.iter().all(|steps| *steps > FILES * 8), "a change has more steps than that: {steps:?}");
}

#[test]
fn unsealing_that_was_cut_short_is_sealed_still_and_waits_for_its_key() {
    for crash in 0.. {
        let disk = sealed();
        let store = on(&disk);
        unlock(&store, SECRETS[0]).unwrap();
        disk.plant(crash, Fault::Crash);
        let _ = store.unseal();
        if !disk.fault_has_happened() {
            break;
        }
        let disk = disk.after_a_kill();
        let is_sealed = is_in_the_clear(&disk).len() < ACCOUNTS.len();
        let store = on(&disk);
        let SealState { sealed, locked, .. } = store.seal_state();
        if is_sealed {
            assert!(sealed.is_some_and(|sealed| sealed.source == "file") && locked.is_some(), "step {crash}");
            assert!(unlock(&store, SECRETS[1]).is_err(), "step {crash}: it is another key");
            let refused = store.save(&Record { generation: 8, ..record(8) });
            assert!(matches!(refused, Err(StoreError::Locked { .. })), "step {crash}: {refused:?}");
        }
        unlock(&store, SECRETS[0]).unwrap();
        assert_eq!(store.seal_state().locked, None, "step {crash}");
        for account in ACCOUNTS {
            assert_eq!(store.load(&id(account)).unwrap(), Some(of(account)), "step {crash}");
        }
    }
}

#[test]
fn a_crash_while_a_start_finishes_what_a_crash_left_loses_nothing_either() {
    let disk = plain();
    let store = on(&disk);
    disk.plant(38, Fault::Crash);
    store.seal(&offer(SECRETS[0]), 1).unwrap_err();
    assert!(disk.fault_has_happened());
    let half = disk.after_a_kill();
    let clear = is_in_the_clear(&half).len();
    assert!(clear > 0 && clear < FILES, "it was cut short in the middle: {clear}");
    for crash in 0.. {
        let disk = half.after_a_kill();
        let store = on(&disk);
        disk.plant(crash, Fault::Crash);
        let _ = unlock(&store, SECRETS[0]);
        let crashed = disk.fault_has_happened();
        for world in disk.after_a_power_cut() {
            let found = on(&world);
            unlock(&found, SECRETS[0]).unwrap();
            for account in ACCOUNTS {
                assert_eq!(found.load(&id(account)).unwrap(), Some(of(account)), "crash before step {crash}");
            }
            assert_eq!(is_in_the_clear(&world), [""; 0], "crash before step {crash}");
        }
        if !crashed {
            break;
        }
    }
}

#[test]
fn what_fails_in_a_change_is_said_and_done_at_the_next_try() {
    for step in 0.. {
        let disk = plain();
        let store = on(&disk);
        disk.plant(step, Fault::Error(libc::ENOSPC));
        let changed = store.seal(&offer(SECRETS[0]), 1);
        if !disk.fault_has_happened() {
            assert!(step > 20 && changed.is_ok());
            break;
        }
        for account in ACCOUNTS {
            assert_eq!(store.load(&id(account)).unwrap(), Some(of(account)), "step {step}");
        }
        if changed.is_err() {
            store.seal(&offer(SECRETS[0]), 1).unwrap();
        }
        assert_eq!(is_in_the_clear(&disk), [""; 0], "step {step}");
    }
}

#[test]
fn a_save_into_a_sealed_store_is_sealed_and_cut_short_anywhere_leaves_the_old_record_or_the_new_one() {
    let new = Record { generation: 8, ..of("gbdx") };
    for crash in 0.. {
        let disk = sealed().after_a_kill();
        let store = on(&disk);
        unlock(&store, SECRETS[0]).unwrap();
        disk.plant(crash, Fault::Crash);
        let saved = store.save(&new).is_ok();
        let crashed = disk.fault_has_happened();
        for world in disk.after_a_power_cut() {
            let found = on(&world);
            unlock(&found, SECRETS[0]).unwrap();
            let found = found.load(&id("gbdx")).unwrap();
            assert!(found.as_ref() == Some(&new) || !saved && found == Some(of("gbdx")), "step {crash}: {found:?}");
            assert_eq!(is_in_the_clear(&world), [""; 0]);
        }
        if !crashed {
            break;
        }
    }
}

#[test]
fn a_sealed_save_that_was_killed_waits_for_its_key_and_is_finished_then() {
    let before = FaultyDisk::default();
    before.put("gbdx.json", &file::write(&Record { redeeming: true, ..record(7) }));
    on(&before).seal(&offer(SECRETS[0]), 1).unwrap();
    let later = before.after_a_kill();
    let store = on(&later);
    unlock(&store, SECRETS[0]).unwrap();
    store.save(&record(8)).unwrap();
    for bytes in [later.files()["gbdx.json"].as_slice(), b"{\"version\": 2"] {
        let disk = before.after_a_kill();
        disk.put(".gbdx.json.tmp", bytes);
        let is_whole = *bytes == later.files()["gbdx.json"];
        let store = on(&disk);
        assert_eq!(disk.files().contains_key(".gbdx.json.tmp"), is_whole, "nobody knows yet, or nobody misses it");
        assert!(unlock(&store, SECRETS[1]).is_err());
        let Left(said) = unlock(&store, SECRETS[0]).unwrap();
        assert_eq!(said.len(), usize::from(is_whole), "{said:?}");
        assert_eq!(store.load(&id("gbdx")).unwrap().map(|found| found.generation), Some(7 + u64::from(is_whole)));
        assert!(!disk.files().contains_key(".gbdx.json.tmp"));
    }
}

#[test]
fn while_the_key_is_away_nothing_is_read_written_or_set_aside_and_its_coming_opens_everything() {
    let disk = sealed();
    let before = disk.files();
    let store = on(&disk);
    for ask in [Err(NoSecret::Away("no stick".to_owned())), Ok(Secret::new(SECRETS[1]))] {
        let SealError::Locked(why) = store.unlock(|_, _| ask.clone()).unwrap_err() else { panic!("locked") };
        let words = if ask.is_ok() { "gives another key" } else { "file: no stick" };
        assert!(why.contains(words), "{why}");
        let error = store.load(&id("gbdx")).unwrap_err();
        assert!(matches!(&error, StoreError::Locked { .. }) && error.to_string().contains(words), "{error}");
        let later = Record { generation: 8, ..of("gbdx") };
        assert!(matches!(store.save(&later), Err(StoreError::Locked { .. })));
        // an account that is not there yet is not saved in the clear either
        assert!(matches!(store.save(&of("new")), Err(StoreError::Locked { .. })));
        assert!(matches!(store.seal(&offer(SECRETS[1]), 2), Err(SealError::Locked(_))));
        assert!(matches!(store.unseal(), Err(SealError::Locked(_))));
        assert!(store.seal_state().locked.is_some_and(|why| why.contains(words)));
        let _ = store.unlock(|_, _| Err(NoSecret::NotAsked));
        assert!(store.seal_state().locked.is_some_and(|why| why.contains(words)), "what is known of it stands");
        assert_eq!(disk.files(), before);
    }
    unlock(&store, SECRETS[0]).unwrap();
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(of("gbdx")));
    assert_eq!(store.seal_state().locked, None);
    assert!(!store.forget_keys("locked"), "somebody has let go");
    store.hold();
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(of("gbdx")), "what is at hand can still be saved");
    assert!(store.forget_keys("locked"));
    assert!(matches!(store.load(&id("gbdx")), Err(StoreError::Locked { why, .. }) if why == "locked"));
}

#[test]
fn a_key_that_is_gone_is_told_from_one_that_is_away_and_a_sign_in_takes_the_records_place() {
    let disk = sealed();
    let store = on(&disk);
    let gone = |_, _: Option<&str>| Err(NoSecret::Gone("another machine's".to_owned()));
    assert!(matches!(store.unlock(gone), Err(SealError::Locked(_))));
    assert!(matches!(store.load(&id("gbdx")), Err(StoreError::KeyGone { .. })));
    assert!(matches!(store.save(&of("gbdx")), Err(StoreError::KeyGone { .. })), "there is nothing to seal it with");
    // a new key, which cannot open the old records: they stay, and say so
    let Left(left) = store.seal(&offer(SECRETS[1]), 2).unwrap();
    assert_eq!(left.len(), FILES, "{left:?}");
    assert!(matches!(store.load(&id("gbdx")), Err(StoreError::KeyGone { .. })));
    store.save(&Record { generation: 1, ..of("gbdx") }).unwrap();
    assert_eq!(store.load(&id("gbdx")).unwrap().unwrap().generation, 1);
    // what was in its place is kept, and so is the key of the others
    assert!(disk.files().contains_key("gbdx.json.corrupt-1"));
    let found = on(&disk);
    unlock_all(&found).unwrap();
    assert_eq!(found.load(&id("alpha")).unwrap(), Some(of("alpha")));
    assert_eq!(found.load(&id("gbdx")).unwrap().unwrap().generation, 1);
}

#[test]
fn what_was_moved_rolled_back_cut_or_mixed_with_another_ring_is_refused_and_said() {
    let disk = sealed();
    let files = disk.files();
    let other = sealed().files(); // sealed by the same secret, under another key
    let text = String::from_utf8(files["gbdx.json"].clone()).unwrap();
    let renumbered = text.replace("\"generation\": 7", "\"generation\": 9");
    let rows: [(&str, &[u8], &str); 4] = [
        ("another account's", &files["alpha.json"], "sealed for another account"),
        ("renumbered", renumbered.as_bytes(), "was changed after that"),
        ("cut", &text.as_bytes()[..text.len() / 2], "ends in the middle"),
        ("of another ring", &other["gbdx.json"], "is in no ring of this store"),
    ];
    for (case, bytes, words) in rows {
        let disk = sealed();
        disk.put("gbdx.json", bytes);
        files.iter().filter(|(name, _)| *name != "gbdx.json").for_each(|(name, bytes)| disk.put(name, bytes));
        let store = on(&disk);
        let Left(left) = unlock(&store, SECRETS[0]).unwrap();
        assert!(left.iter().all(|words| words.starts_with("gbdx.json: ")), "{case}: {left:?}");
        let error = store.load(&id("gbdx")).unwrap_err().to_string();
        assert!(error.contains(words), "{case}: {error}");
        assert!(disk.files().values().any(|kept| kept == bytes), "{case}: it is kept");
        assert_eq!(store.load(&id("alpha")).unwrap(), Some(of("alpha")), "{case}");
    }
}

#[test]
fn a_ring_that_is_missing_or_makes_no_sense_locks_the_store_until_a_person_begins_another_one() {
    let missing = sealed().files();
    for ring in [None, Some(&b"{\"version\": 1, \"act"[..])] {
        let disk = FaultyDisk::default();
        missing.iter().filter(|(name, _)| *name != RING).for_each(|(name, bytes)| disk.put(name, bytes));
        if let Some(ring) = ring {
            disk.put(RING, ring);
        }
        let before = disk.files();
        let store = on(&disk);
        let SealError::Locked(why) = unlock(&store, SECRETS[0]).unwrap_err() else { panic!("locked") };
        assert!(why.contains(RING), "{why}");
        assert!(matches!(store.load(&id("gbdx")), Err(StoreError::Locked { .. })));
        assert!(matches!(store.save(&of("new")), Err(StoreError::Locked { .. })), "not in the clear");
        assert_eq!(disk.files(), before);
        let Left(left) = store.seal(&offer(SECRETS[0]), 2).unwrap();
        assert_eq!(left.len(), FILES);
        store.save(&of("new")).unwrap();
        assert_eq!(disk.files().get(&format!("{RING}.corrupt-1")).map(Vec::as_slice), ring);
        assert!(matches!(store.load(&id("gbdx")), Err(StoreError::KeyGone { .. })));
    }
}

#[test]
fn what_was_set_aside_in_the_clear_goes_when_the_store_is_sealed() {
    let disk = plain();
    disk.put("gbdx.json.corrupt-1", b"{\"refresh_token\": \"token-7");
    disk.put("client.keys.json.corrupt-1", b"hashes");
    let store = on(&disk);
    store.seal(&offer(SECRETS[0]), 1).unwrap();
    assert_eq!(is_in_the_clear(&disk), [""; 0]);
    assert!(disk.files().contains_key("client.keys.json.corrupt-1"));
}

#[test]
fn a_second_way_in_opens_what_the_first_cannot() {
    let disk = sealed();
    let store = on(&disk);
    unlock(&store, SECRETS[0]).unwrap();
    let code = crate::key_source::recovery_code(&[3; 16]);
    store.add_way(&crate::key_source::recovery(&code)).unwrap();
    assert!(store.seal_state().sealed.unwrap().has_recovery);
    let found = on(&disk);
    let asked = Cell::new(0);
    let ask = |kind, _: Option<&str>| {
        asked.set(asked.get() + 1);
        match kind {
            Kind::Recovery => Ok(crate::key_source::recovery(&code).secret),
            _ => Err(NoSecret::Gone("lost".to_owned())),
        }
    };
    found.unlock(ask).unwrap();
    assert_eq!(asked.get(), 2);
    // a code that nobody has seen yet voids none
    let newer = crate::key_source::recovery_code(&[4; 16]);
    found.add_way(&crate::key_source::recovery(&newer)).unwrap();
    let opens = |code: &Secret| {
        let code = crate::key_source::recovery(code).secret;
        found
            .opens(|kind, _| if kind == Kind::Recovery { Ok(code.clone()) } else { Err(NoSecret::Gone(String::new())) })
    };
    assert_eq!((opens(&code), opens(&newer)), (true, true));
    // and where two are made at once, the one that is seen last voids the other, who is told so
    let newest = crate::key_source::recovery_code(&[5; 16]);
    found.add_way(&crate::key_source::recovery(&newest)).unwrap();
    let nowhere = KeySources::new(&config("").store, Path::new("/nowhere"));
    let see = |code: &Secret| found.void_codes_before(&nowhere.clone().with_recovery_code(Some(code.clone())));
    see(&newer).unwrap();
    assert_eq!((opens(&code), opens(&newer), opens(&newest)), (false, true, true));
    assert!(matches!(see(&code), Err(SealError::CodeVoid)));
    assert!(matches!(found.void_codes_before(&nowhere), Err(SealError::CodeVoid)));
    see(&newest).unwrap();
    assert_eq!((opens(&code), opens(&newer), opens(&newest)), (false, false, true));
    assert!(matches!(see(&newer), Err(SealError::CodeVoid)));
    assert_eq!(found.load(&id("gbdx")).unwrap(), Some(of("gbdx")));
    // the next key has no such way any more
    found.seal(&offer(SECRETS[1]), 2).unwrap();
    assert!(!found.seal_state().sealed.unwrap().has_recovery);
}

#[test]
fn a_record_of_another_machine_is_not_given_before_somebody_says_so_sealed_or_not() {
    let on_machine = |disk: &FaultyDisk, mark: &str| {
        let store = on(disk);
        store.use_machine(Machine { setting: MachineSetting::This, mark: Some(mark.to_owned()) });
        unlock_all(&store).unwrap();
        store
    };
    for is_sealed in [false, true] {
        let disk = if is_sealed { sealed() } else { plain() };
        let here = on_machine(&disk, "one");
        assert_eq!(here.load(&id("gbdx")).unwrap(), Some(of("gbdx")), "of before marks: it is nobody's yet");
        here.save(&of("gbdx")).unwrap();
        assert_eq!(here.load(&id("gbdx")).unwrap(), Some(of("gbdx")));
        // the copy
        let there = on_machine(&disk.after_a_kill(), "two");
        let refused = there.load(&id("gbdx")).unwrap_err();
        assert!(matches!(refused, StoreError::OtherMachine { .. }), "{refused}");
        // changing the seal adopts nothing
        there.seal(&offer(SECRETS[1]), 2).unwrap();
        there.unseal().unwrap();
        assert!(matches!(there.load(&id("gbdx")), Err(StoreError::OtherMachine { .. })));
        assert_eq!(there.generation(&id("gbdx")), 7);
        assert!(there.adopt(&id("gbdx"), Adoption::ByThisMachine).unwrap());
        assert_eq!(there.load(&id("gbdx")).unwrap(), Some(of("gbdx")));
        assert!(!there.adopt(&id("nobody"), Adoption::ByThisMachine).unwrap());
        // a sign-in takes its place as well
        let third = on_machine(&disk.after_a_kill(), "three");
        assert!(matches!(third.save(&Record { generation: 6, ..of("gbdx") }), Err(StoreError::Stale { found: 7, .. })));
        third.save(&Record { generation: 8, ..of("gbdx") }).unwrap();
        assert_eq!(third.load(&id("gbdx")).unwrap().unwrap().generation, 8);
        // and where any may use it, any does, from save to save
        assert!(third.adopt(&id("gbdx"), Adoption::ByAnyMachine).unwrap());
        third.save(&Record { generation: 9, ..of("gbdx") }).unwrap();
        let any = { third.inner().folder.peek("gbdx.json").unwrap().unwrap() };
        assert!(is_sealed || String::from_utf8_lossy(&any).contains("\"machine\": \"any\""));
    }
}

#[test]
fn keys_that_were_asked_for_before_a_lock_open_nothing_after_it() {
    let store = on(&sealed());
    let ask = |_, _: Option<&str>| {
        store.hold();
        store.forget_keys("locked");
        Ok(Secret::new(SECRETS[0]))
    };
    assert!(matches!(store.unlock(ask), Err(SealError::Locked(why)) if why.contains("meanwhile")));
    assert!(matches!(store.load(&id("gbdx")), Err(StoreError::Locked { .. })));
    unlock(&store, SECRETS[0]).unwrap();
}

#[test]
fn a_recovery_code_is_tried_also_where_the_key_is_at_hand() {
    let disk = sealed();
    let store = on(&disk);
    unlock(&store, SECRETS[0]).unwrap();
    let sources = KeySources::new(&config("store.seal = \"off\"").store, Path::new("/simulated"));
    let code = crate::key_source::recovery_code(&[3; 16]);
    for has_slot in [false, true] {
        if has_slot {
            store.add_way(&crate::key_source::recovery(&code)).unwrap();
        }
        for wrong in ["", "0000", "0000-0000-0000-0000-0000-0000-00"] {
            let refused = store.recover(&Secret::new(wrong), &sources).unwrap_err();
            assert!(matches!(refused, SealError::Locked(_)), "{wrong:?}: {refused}");
        }
        assert_eq!(store.recover(&code, &sources).is_ok(), has_slot);
    }
}

/// A store on this disk that the given source is configured for; the file that it is kept in is in `folder`.
pub(super) fn sources_of(folder: &Path, key: &str) -> KeySources {
    let path = folder.join("key");
    let _ = std::fs::remove_file(&path);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .unwrap()
        .write_all(key.as_bytes())
        .unwrap();
    KeySources::new(
        &config(&format!("store.seal = {{ file = \"{}\" }}", path.display())).store,
        Path::new("/simulated"),
    )
}

#[test]
fn a_ring_that_may_be_whole_is_never_replaced() {
    let whole = sealed().files();
    let folder = tempfile::tempdir().unwrap();
    let sources = sources_of(folder.path(), SECRETS[1]);
    let disk = FaultyDisk::default();
    whole.iter().for_each(|(name, bytes)| disk.put(name, bytes));
    disk.put(RING, br#"{"version": 2}"#);
    let before = disk.files();
    let store = on(&disk);
    for change in [SealChange::On, SealChange::OnAnew, SealChange::Rotate, SealChange::Off, SealChange::Recovery] {
        let refused = store.change_seal(change, &sources, 9).unwrap_err();
        assert!(matches!(&refused, SealError::Ring(why) if why.contains("later valetd")), "{change:?}: {refused}");
    }
    assert!(matches!(store.recover(&Secret::new("0000"), &sources), Err(SealError::Ring(_))));
    assert_eq!(disk.files(), before);
    // once it can be read, it is
    disk.put(RING, &whole[RING]);
    unlock(&store, SECRETS[0]).unwrap();
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(of("gbdx")));
}

#[test]
fn on_compares_the_key_and_not_the_word_and_the_one_before_opens_nothing_then() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (SECRETS[0], SECRETS[1]);
    let disk = sealed();
    let store = on(&disk);
    unlock(&store, first).unwrap();
    let key = || store.seal_state().sealed.unwrap().key;
    let before = key();
    store.change_seal(SealChange::On, &sources_of(folder.path(), first), 2).unwrap();
    assert_eq!(key(), before, "as it was");
    store.change_seal(SealChange::On, &sources_of(folder.path(), second), 2).unwrap();
    assert_ne!(key(), before);
    let found = on(&disk);
    assert!(unlock(&found, first).is_err());
    unlock(&found, second).unwrap();
    assert_eq!(found.load(&id("gbdx")).unwrap(), Some(of("gbdx")));
    // nor after a recovery
    let code = crate::key_source::recovery_code(&[3; 16]);
    found.add_way(&crate::key_source::recovery(&code)).unwrap();
    let found = on(&disk);
    found.recover(&code, &sources_of(folder.path(), first)).unwrap();
    let found = on(&disk);
    assert!(unlock(&found, second).is_err(), "what was lost opens nothing");
    unlock(&found, first).unwrap();
}

#[test]
fn a_lost_key_is_left_behind_when_a_person_says_so_and_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources_of(folder.path(), SECRETS[1]);
    let disk = sealed();
    let code = crate::key_source::recovery_code(&[3; 16]);
    {
        let store = on(&disk);
        unlock(&store, SECRETS[0]).unwrap();
        store.add_way(&crate::key_source::recovery(&code)).unwrap();
    }
    let before = disk.files();
    let store = on(&disk);
    assert!(unlock(&store, SECRETS[1]).is_err(), "it is lost");
    assert!(matches!(store.change_seal(SealChange::On, &sources, 2), Err(SealError::Locked(_))));
    let SealChanged { left, said, .. } = store.change_seal(SealChange::OnAnew, &sources, 2).unwrap();
    assert_eq!(left.0.len(), FILES, "{left:?}");
    assert!(said.last().unwrap().contains("valetd login"), "{said:?}");
    for account in ACCOUNTS {
        let name = format!("{account}.json");
        assert_eq!(disk.files()[&name], before[&name], "{name} stays");
    }
    // a sign-in is kept, and what was in its place as well
    store.save(&Record { generation: 1, ..of("gbdx") }).unwrap();
    assert_eq!(disk.files()["gbdx.json.corrupt-1"], before["gbdx.json"]);
    assert_eq!(store.load(&id("gbdx")).unwrap().unwrap().generation, 1);
    // the key of that time opens the others, whichever way it comes back
    for is_code in [true, false] {
        let found = on(&disk.after_a_kill());
        unlock(&found, SECRETS[1]).unwrap();
        match is_code {
            true => drop(found.recover(&code, &sources).unwrap()),
            false => drop(unlock(&found, SECRETS[0]).unwrap()),
        }
        assert_eq!(found.load(&id("alpha")).unwrap(), Some(of("alpha")), "{is_code}");
        assert_eq!(found.load(&id("gbdx")).unwrap().unwrap().generation, 1, "{is_code}");
        assert_eq!(found.registration(&id("unused")).unwrap(), Some(client_of("unused")), "{is_code}");
    }
}

#[test]
fn no_key_leaves_the_ring_that_a_file_of_any_name_needs_and_no_sealed_file_is_overwritten() {
    let disk = sealed();
    let files = disk.files();
    let swapped = [("alpha.json", "zulu.json"), ("zulu.json", "alpha.json")];
    swapped.iter().for_each(|(name, of)| disk.put(name, &files[*of]));
    disk.put("old.json", &files["gbdx.json"]);
    disk.put("gbdx.json.corrupt-1", &files["alpha.json"]);
    disk.put("gbdx.json.bak", &files["gbdx.json"]);
    let store = on(&disk);
    unlock(&store, SECRETS[0]).unwrap();
    assert!(store.load(&id("alpha")).is_err(), "it is another one's, and set aside");
    for time in 2..5 {
        store.seal(&offer(SECRETS[1]), time).unwrap();
    }
    let kept: Vec<_> = disk.files().into_values().collect();
    for name in ["alpha.json", "zulu.json", "gbdx.json"] {
        assert!(kept.contains(&files[name]), "{name} is somewhere");
    }
    // put back, they open
    let names: Vec<String> = disk.files().into_keys().filter(|name| name != RING).collect();
    for account in ACCOUNTS {
        let name = format!("{account}.json");
        disk.put(&name, &files[&name]);
    }
    let found = on(&disk);
    unlock_all(&found).unwrap();
    for account in ACCOUNTS {
        assert_eq!(found.load(&id(account)).unwrap(), Some(of(account)), "{names:?}");
    }
}

#[test]
fn what_lay_in_the_clear_is_noted_until_another_credential_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources_of(folder.path(), SECRETS[0]);
    // cut short after the ring was written, and before any record was
    let cut_short = |step: &usize| {
        let disk = plain();
        let store = on(&disk);
        disk.plant(*step, Fault::Error(libc::ENOSPC));
        store.change_seal(SealChange::On, &sources, 1).is_err()
            && disk.files().contains_key(RING)
            && is_in_the_clear(&disk).len() == FILES
    };
    let step = (0..50).rfind(cut_short).expect("there is such a step");
    let disk = plain();
    let store = on(&disk);
    disk.plant(step, Fault::Error(libc::ENOSPC));
    store.change_seal(SealChange::On, &sources, 1).unwrap_err();
    let exposed = |store: &Store| store.still_exposed().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    let SealChanged { lay_in_the_clear, said, .. } = store.change_seal(SealChange::On, &sources, 2).unwrap();
    assert!(said[0].contains("already"), "{said:?}");
    assert_eq!(is_in_the_clear(&disk), [""; 0], "it goes on where it was cut short");
    assert_eq!(lay_in_the_clear.len(), ACCOUNTS.len());
    // a note is no other credential, and neither is another key or another start
    store.save(&Record { redeeming: true, ..of("gbdx") }).unwrap();
    store.seal(&offer(SECRETS[1]), 3).unwrap();
    let store = on(&disk);
    unlock(&store, SECRETS[1]).unwrap();
    assert_eq!(exposed(&store), ACCOUNTS);
    store.save(&Record { generation: 8, ..record(8) }).unwrap();
    assert_eq!(exposed(&store), ["alpha", "zulu"]);
    store.unseal().unwrap();
    assert_eq!(exposed(&store), [""; 0]);
}

#[test]
fn a_record_with_a_mark_is_another_machines_where_this_one_has_none() {
    let disk = plain();
    let store = on(&disk);
    let here = |setting, mark: Option<&str>| Machine { setting, mark: mark.map(str::to_owned) };
    store.use_machine(here(MachineSetting::This, Some("one")));
    store.save(&of("gbdx")).unwrap();
    let rows = [
        (MachineSetting::This, Some("one"), true),
        (MachineSetting::This, Some("two"), false),
        (MachineSetting::This, None, false),
        (MachineSetting::Any, Some("two"), true),
        (MachineSetting::Any, None, true),
    ];
    for (setting, mark, is_used) in rows {
        store.use_machine(here(setting, mark));
        assert_eq!(store.load(&id("gbdx")).is_ok(), is_used, "{setting:?} {mark:?}");
    }
    assert!(store.load(&id("alpha")).is_ok(), "of before marks");
}
