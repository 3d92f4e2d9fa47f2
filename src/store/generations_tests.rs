//! Older copies of records, and the file by which they are known: put back, lost, behind, full disks and crashes.

use super::faulty_disk::{Fault, FaultyDisk};
use super::generations::GENERATIONS;
use super::sealing_tests::{ACCOUNTS, SECRETS, of, offer, sealed, sources_of, unlock};
use super::tests::{id, on, record};
use super::*;
use crate::split_mix::SplitMix64;

fn unlocked(disk: &FaultyDisk) -> Store {
    let store = on(disk);
    unlock(&store, SECRETS[0]).unwrap();
    store
}

fn file_of(disk: &FaultyDisk, name: &str) -> Vec<u8> {
    disk.files()[name].clone()
}

fn generation_of(store: &Store) -> Option<u64> {
    store.load(&id("gbdx")).unwrap().map(|record| record.generation)
}

fn is_refused(store: &Store) -> bool {
    matches!(store.load(&id("gbdx")), Err(StoreError::OlderCopy { .. }))
}

/// A sealed store with generation 9, and the files of generations 7 and 8.
fn renewed_twice() -> (FaultyDisk, [Vec<u8>; 2]) {
    let disk = sealed();
    let seventh = file_of(&disk, "gbdx.json");
    let store = unlocked(&disk);
    store.save(&record(8)).unwrap();
    let eighth = file_of(&disk, "gbdx.json");
    store.save(&record(9)).unwrap();
    (disk, [seventh, eighth])
}

#[test]
fn an_older_copy_of_a_record_is_refused_and_said_until_a_sign_in_or_somebody_who_adopts_it() {
    for is_adopted in [false, true] {
        let (disk, [seventh, eighth]) = renewed_twice();
        for older in [&seventh, &eighth] {
            disk.put("gbdx.json", older);
            let store = unlocked(&disk);
            let words = store.load(&id("gbdx")).unwrap_err().to_string();
            assert!(words.contains("older copy") && words.contains("9 is the latest"), "{words}");
            assert_eq!(file_of(&disk, "gbdx.json"), *older, "it is left alone");
            assert!(store.load(&id("alpha")).is_ok());
        }
        let store = unlocked(&disk);
        assert_eq!(store.generation(&id("gbdx")), 9);
        match is_adopted {
            true => assert!(store.adopt(&id("gbdx"), Adoption::ByThisMachine).unwrap()),
            false => store.save(&record(store.generation(&id("gbdx")) + 1)).unwrap(),
        }
        assert_eq!(generation_of(&unlocked(&disk)), Some(10));
        // whichever is put back now
        disk.put("gbdx.json", &eighth);
        assert!(is_refused(&unlocked(&disk)));
        assert_eq!(store.seal_state().doubt, None);
    }
}

#[test]
fn whoever_has_the_credential_at_hand_saves_it_over_an_older_copy() {
    let (disk, [seventh, _]) = renewed_twice();
    let store = unlocked(&disk);
    disk.put("gbdx.json", &seventh);
    store.save(&Record { redeeming: true, ..record(9) }).unwrap();
    store.save(&record(10)).unwrap();
    assert_eq!(generation_of(&store), Some(10));
}

#[test]
fn the_record_of_before_a_sign_out_is_an_older_copy_and_the_next_sign_in_counts_on() {
    let (disk, _) = renewed_twice();
    let ninth = file_of(&disk, "gbdx.json");
    let store = unlocked(&disk);
    store.remove(&id("gbdx")).unwrap();
    assert_eq!((generation_of(&store), store.generation(&id("gbdx"))), (None, 10));
    let error = store.save(&record(1)).unwrap_err();
    assert!(matches!(error, StoreError::Stale { found: 10, offered: 1, .. }), "{error}");
    disk.put("gbdx.json", &ninth);
    assert!(is_refused(&unlocked(&disk)));
    store.save(&record(11)).unwrap();
    assert_eq!(generation_of(&unlocked(&disk)), Some(11));
    store.remove(&id("gbdx")).unwrap();
    store.remove(&id("gbdx")).unwrap();
    assert_eq!(store.generation(&id("gbdx")), 12);
}

#[test]
fn a_crash_or_a_full_disk_in_any_step_makes_no_record_an_older_copy_and_loses_none() {
    type Step = fn(&Store) -> Result<(), StoreError>;
    let steps: [(&str, Step); 4] = [
        ("save", |store| store.save(&record(8))),
        ("note", |store| store.save(&Record { redeeming: true, ..record(7) })),
        ("adopt", |store| store.adopt(&id("gbdx"), Adoption::ByAnyMachine).map(|_| ())),
        ("remove", |store| store.remove(&id("gbdx"))),
    ];
    for (name, step) in steps {
        for fault in [Fault::Crash, Fault::Error(libc::ENOSPC)] {
            for at in 0.. {
                let disk = sealed().after_a_kill();
                let store = unlocked(&disk);
                disk.plant(at, fault);
                let done = step(&store);
                let has_happened = disk.fault_has_happened();
                for world in disk.after_a_power_cut() {
                    let found = unlocked(&world);
                    let loaded = found.load(&id("gbdx"));
                    let loaded = loaded.unwrap_or_else(|error| panic!("{name}, {fault:?} at {at}: {error}"));
                    assert!(loaded.is_some() || name == "remove", "{name}, {fault:?} at {at}");
                    assert!(done.is_err() || name != "save" || loaded == Some(record(8)), "{name}, {fault:?} at {at}");
                    assert_eq!(found.seal_state().doubt, None, "{name}, {fault:?} at {at}");
                    assert!(found.load(&id("alpha")).is_ok(), "{name}, {fault:?} at {at}");
                }
                if !has_happened {
                    assert!(at > 5, "{name}");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_record_that_is_ahead_of_the_file_is_right_and_the_file_follows() {
    let (disk, [_, eighth]) = renewed_twice();
    let store = unlocked(&disk);
    let before = file_of(&disk, GENERATIONS);
    store.save(&record(10)).unwrap();
    disk.put(GENERATIONS, &before); // a crash came before it was written, or an older valetd has saved
    assert_eq!(generation_of(&unlocked(&disk)), Some(10));
    disk.put("gbdx.json", &eighth);
    assert!(is_refused(&unlocked(&disk)));
    // an account that it does not have is new
    disk.put("new.json", &file::write(&of("new")));
    let store = unlocked(&disk);
    assert_eq!(store.load(&id("new")).unwrap(), Some(of("new")));
    assert_eq!(store.seal_state().doubt, None);
}

#[test]
fn where_the_file_is_lost_records_are_used_and_that_is_said_until_somebody_seals_anew() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources_of(folder.path(), SECRETS[0]);
    let (of_this, _) = renewed_twice();
    let text = String::from_utf8(file_of(&of_this, GENERATIONS)).unwrap();
    let of_another = file_of(&sealed(), GENERATIONS);
    let large = vec![b' '; disk::LARGEST + 1];
    let rows: [(&str, Option<&[u8]>); 6] = [
        ("missing", None),
        ("cut", Some(&text.as_bytes()[..text.len() / 2])),
        ("of another ring", Some(&of_another)),
        ("empty", Some(b"")),
        ("too large", Some(&large)),
        ("renamed", Some(b"{\"version\": 1}")),
    ];
    for (case, bytes) in rows {
        for is_running in [false, true] {
            let (disk, [seventh, _]) = renewed_twice();
            let spoil = || match bytes {
                Some(bytes) => disk.put(GENERATIONS, bytes),
                None => disk.forget(GENERATIONS),
            };
            if is_running {
                let store = unlocked(&disk);
                spoil();
                store.save(&record(10)).unwrap();
                let doubt = store.seal_state().doubt.expect(case);
                assert!(doubt.contains("has been begun anew") && doubt.contains("seal on"), "{case}: {doubt}");
            } else {
                spoil();
                disk.put("gbdx.json", &seventh);
            }
            for _ in 0..2 {
                let store = unlocked(&disk);
                assert!(store.load(&id("gbdx")).is_ok(), "{case}");
                assert!(store.seal_state().doubt.is_some(), "{case}, running: {is_running}");
            }
            // from here on it is known again
            let store = unlocked(&disk);
            store.save(&record(20)).unwrap();
            let SealChanged { said, .. } = store.change_seal(SealChange::On, &sources, 2).unwrap();
            assert!(said[0].contains("already"), "{case}: {said:?}");
            assert_eq!(store.seal_state().doubt, None, "{case}");
            disk.put("gbdx.json", &seventh);
            let store = unlocked(&disk);
            assert!(is_refused(&store) && store.seal_state().doubt.is_none(), "{case}");
        }
    }
}

#[test]
fn a_store_of_a_valetd_that_kept_no_generations_begins_to_without_a_word_and_unsealing_ends_it() {
    let (disk, [seventh, _]) = renewed_twice();
    let store = unlocked(&disk);
    store.inner().sealing.counts(false);
    for record in [of("alpha"), record(9), of("zulu")] {
        store.save(&record).unwrap(); // as it was before there was such a file
    }
    disk.forget(GENERATIONS);
    let store = unlocked(&disk);
    assert_eq!(store.seal_state().doubt, None);
    assert_eq!(generation_of(&store), Some(9));
    disk.put("gbdx.json", &seventh);
    assert!(is_refused(&unlocked(&disk)));

    let folder = tempfile::tempdir().unwrap();
    let store = unlocked(&disk);
    let off = || store.change_seal(SealChange::Off, &sources_of(folder.path(), SECRETS[0]), 2);
    // nobody could tell it any more, and it would be spent
    let words = off().unwrap_err().to_string();
    assert!(words.contains("gbdx.json is an older copy") && words.contains("adopt NAME"), "{words}");
    assert!(is_refused(&unlocked(&disk)), "nothing has changed");
    assert!(store.adopt(&id("gbdx"), Adoption::ByThisMachine).unwrap());
    off().unwrap();
    let names: Vec<String> = disk.files().into_keys().filter(|name| !name.ends_with(".client.json")).collect();
    assert_eq!(names, ACCOUNTS.map(|account| format!("{account}.json")));
    assert!(disk.files().values().all(|bytes| !String::from_utf8_lossy(bytes).contains("is_counted")));
    // in the clear, nothing is counted
    disk.put("gbdx.json", &file::write(&record(7)));
    assert_eq!(generation_of(&on(&disk)), Some(7));
}

#[test]
fn what_was_signed_in_anew_between_two_seals_is_no_older_copy_whatever_the_first_one_has_left() {
    let (disk, [seventh, _]) = renewed_twice();
    // by which the old key stays in the ring
    disk.put("other.json.corrupt-1", &seventh);
    let store = unlocked(&disk);
    store.unseal().unwrap();
    store.remove(&id("gbdx")).unwrap();
    store.save(&record(store.generation(&id("gbdx")) + 1)).unwrap();
    store.seal(&offer(SECRETS[0]), 2).unwrap();
    for store in [store, unlocked(&disk)] {
        assert_eq!(generation_of(&store), Some(1));
        assert_eq!(store.seal_state().doubt, None);
    }
}

#[test]
fn another_key_keeps_what_is_known_and_a_lost_one_begins_anew_without_a_doubt() {
    let (disk, [seventh, _]) = renewed_twice();
    let store = unlocked(&disk);
    store.seal(&offer(SECRETS[1]), 2).unwrap();
    let store = on(&disk);
    unlock(&store, SECRETS[1]).unwrap();
    assert_eq!((generation_of(&store), store.generation(&id("gbdx"))), (Some(9), 9));
    store.save(&record(10)).unwrap();
    // the old key is gone from the ring, and so a copy of then opens no more
    disk.put("gbdx.json", &seventh);
    assert!(matches!(store.load(&id("gbdx")), Err(StoreError::KeyGone { .. })));
    let store = on(&disk);
    store.seal_anew(&offer(SECRETS[0]), 3).unwrap();
    assert_eq!(store.seal_state().doubt, None);
    store.save(&Record { generation: 1, ..of("new") }).unwrap();
    let again = unlocked(&disk);
    assert_eq!(again.load(&id("new")).unwrap().map(|record| record.generation), Some(1));
    assert_eq!(again.seal_state().doubt, None);
}

#[test]
fn two_machines_with_one_folder_refuse_each_other_nothing_whatever_they_do_in_turn() {
    for seed in 0..40 {
        let mut random = SplitMix64(seed);
        let mut below = |limit: usize| random.next_u64() as usize % limit;
        let disk = sealed();
        let stores = [unlocked(&disk), unlocked(&disk)];
        for store in &stores {
            store.use_machine(Machine { setting: MachineSetting::Any, mark: None });
        }
        let mut kept: Option<u64> = Some(7);
        let mut copies: Vec<(u64, Vec<u8>)> = Vec::new();
        for turn in 0..60 {
            let store = &stores[below(2)];
            let case = format!("seed {seed}, turn {turn}");
            assert_eq!(generation_of(store), kept, "{case}");
            match below(8) {
                0 => {
                    store.remove(&id("gbdx")).unwrap();
                    kept = None;
                }
                1 => drop(store.adopt(&id("gbdx"), Adoption::ByAnyMachine).unwrap()),
                2 if kept.is_some() && !copies.is_empty() => {
                    // somebody puts an older one back, and takes it away again
                    let now = file_of(&disk, "gbdx.json");
                    let (generation, copy) = &copies[below(copies.len())];
                    if Some(*generation) < kept {
                        disk.put("gbdx.json", copy);
                        assert!(is_refused(store), "{case}: {generation}");
                        disk.put("gbdx.json", &now);
                    }
                }
                _ => {
                    let next = store.generation(&id("gbdx")) + 1;
                    store.save(&record(next)).unwrap();
                    kept = Some(next);
                    copies.push((next, file_of(&disk, "gbdx.json")));
                }
            }
        }
        assert_eq!(stores[0].seal_state().doubt, None, "seed {seed}");
    }
}

#[test]
#[ignore = "a measurement, by hand: prints what a save costs"]
fn measure_what_a_save_costs() {
    use rustix::time::{ClockId, clock_gettime};
    const SAVES: u64 = 200;
    let cpu = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    for (is_sealed, accounts) in [(false, 1), (true, 1), (true, 30)] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for number in 0..accounts {
            store.save(&Record { account: id(&format!("account-{number}")), ..record(1) }).unwrap();
        }
        if is_sealed {
            store.seal(&offer(SECRETS[0]), 1).unwrap();
        }
        for is_new in [false, true] {
            let (began, before) = (clock::instant(), cpu());
            for save in 0..SAVES {
                let generation = if is_new { 10 + save } else { 2 };
                store.save(&Record { account: id("account-0"), ..record(generation) }).unwrap();
            }
            let (spent, took) = ((cpu() - before) / SAVES as u32, began.elapsed() / SAVES as u32);
            println!("sealed: {is_sealed}, accounts: {accounts}, new: {is_new}: {spent:?} of CPU, {took:?} in all");
        }
    }
}
