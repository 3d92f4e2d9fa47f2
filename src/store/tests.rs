//! The store on a disk that fails (every step of every operation), then on the real one (permissions, links, the lock).

use std::fs;
use std::io;
use std::os::unix::fs::{chown, symlink};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::Mode;

use super::error::TAKE_LOCK;
use super::faulty_disk::{Fault, FaultyDisk, Lie};
use super::lock::LOCK;
use super::*;
use crate::platform::rerun;
use crate::secret::Secret;

pub(super) fn id(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

pub(super) fn record(generation: u64) -> Record {
    Record {
        account: id("gbdx"),
        generation,
        client_id: None,
        issued_by: "https://auth.example".into(),
        others: None,
        credential: Credential { refresh_token: Some(Secret::new(format!("token-{generation}"))), password: None },
        received_at: 1_700_000_000,
        refresh_expires_at: None,
        identity: None,
        person: None,
        learnt_life: None,
        rotates: false,
        unrotated: false,
        spent: super::spent::Spent::default(),
        redeeming: false,
        set_aside: None,
        term: None,
    }
}

pub(super) fn on(disk: &FaultyDisk) -> Store {
    Store::on(Box::new(disk.clone()), Path::new("/state"), None, Vec::new()).unwrap()
}

// --- a disk that fails ---

/// Saves `new` over `old` with a crash before every step in turn and a power cut after it, and returns what went wrong.
fn broken_promises(old: Option<&Record>, new: &Record, lie: Lie) -> Vec<String> {
    let mut broken = Vec::new();
    for crash in 0.. {
        let disk = FaultyDisk::that_lies_about(lie);
        if let Some(old) = old {
            disk.put("gbdx.json", &file::write(old));
        }
        let store = on(&disk);
        disk.plant(crash, Fault::Crash);
        let saved = store.save(new).is_ok();
        let crashed = disk.fault_has_happened();
        assert_eq!(saved, !crashed, "a save that was cut off does not say that it succeeded");
        for world in disk.after_a_power_cut() {
            match on(&world).load(&new.account) {
                Ok(found) if found.as_ref() == Some(new) => {}
                Ok(found) if !saved && found.as_ref() == old => {}
                other => broken.push(format!("crash before step {crash}, saved {saved}: {other:?}")),
            }
            let left_behind = world.files().into_keys().filter(|name| name != "gbdx.json").collect::<Vec<_>>();
            if !left_behind.is_empty() {
                broken.push(format!("crash before step {crash}: opening did not tidy up {left_behind:?}"));
            }
        }
        if !crashed {
            assert!(crash >= 7, "a save has more steps than {crash}");
            break;
        }
    }
    broken
}

#[test]
fn a_save_cut_short_anywhere_leaves_the_old_record_or_the_new_one_whole() {
    assert_eq!(broken_promises(None, &record(1), Lie::None), [""; 0]);
    assert_eq!(broken_promises(Some(&record(1)), &record(2), Lie::None), [""; 0]);
    let redeeming = Record { redeeming: true, ..record(1) };
    assert_eq!(broken_promises(Some(&record(1)), &redeeming, Lie::None), [""; 0]);
}

/// A record as it stands while its refresh token is being spent.
fn being_redeemed(generation: u64) -> Record {
    Record { redeeming: true, ..record(generation) }
}

#[test]
fn a_save_that_is_killed_after_its_last_byte_is_finished_by_the_next_start_wherever_that_dies() {
    let whole = file::write(&record(2));
    let mut unfinished = 0;
    for kill in 0.. {
        let disk = FaultyDisk::default();
        disk.put("gbdx.json", &file::write(&being_redeemed(1)));
        let store = on(&disk);
        disk.plant(kill, Fault::Crash);
        let saved = store.save(&record(2)).is_ok();
        let killed = disk.after_a_kill();
        if killed.files().get(".gbdx.json.tmp").is_some_and(|bytes| *bytes == *whole) {
            unfinished += 1;
            for death in 0.. {
                let disk = disk.after_a_kill();
                disk.plant(death, Fault::Crash);
                let opened = Store::on(Box::new(disk.clone()), Path::new("/state"), None, Vec::new());
                let was_hit = disk.fault_has_happened();
                for world in disk.after_a_power_cut() {
                    assert_eq!(on(&world).load(&id("gbdx")).unwrap(), Some(record(2)), "killed {kill}, then {death}");
                }
                if !was_hit {
                    let said = opened.unwrap().warnings().join("");
                    assert!(
                        said.starts_with("/state/gbdx.json: a save that was cut short has been finished"),
                        "{said}"
                    );
                    break;
                }
            }
        }
        if saved {
            break;
        }
    }
    assert!(unfinished >= 2, "before the sync of the content, and before the rename");
}

#[test]
fn only_the_save_that_the_record_was_waiting_for_is_finished() {
    let elsewhere = || Record { issued_by: "https://other.example".into(), ..record(2) };
    let half = file::write(&record(2));
    let half = &half[..half.len() / 2];
    let rows: [(&str, Option<Record>, &[u8], u64); 9] = [
        ("a rotation", Some(being_redeemed(1)), &file::write(&record(2)), 2),
        ("without a note of it", Some(record(1)), &file::write(&record(2)), 2),
        ("the first sign-in", None, &file::write(&record(1)), 1),
        ("half of it", Some(being_redeemed(1)), half, 1),
        ("an earlier one", Some(being_redeemed(3)), &file::write(&record(2)), 3),
        ("a later one", Some(being_redeemed(1)), &file::write(&record(3)), 1),
        ("of one that was removed", None, &file::write(&record(2)), 0),
        ("for another server", Some(being_redeemed(1)), &file::write(&elsewhere()), 1),
        ("another account's", Some(being_redeemed(1)), &file::write(&Record { account: id("b"), ..record(2) }), 1),
    ];
    for (case, stored, unfinished, expected) in rows {
        let disk = FaultyDisk::default();
        if let Some(stored) = &stored {
            disk.put("gbdx.json", &file::write(stored));
        }
        disk.put(".gbdx.json.tmp", unfinished);
        let store = on(&disk);
        let found = store.load(&id("gbdx")).unwrap();
        assert_eq!(found.as_ref().map_or(0, |found| found.generation), expected, "{case}");
        assert!(!disk.files().contains_key(".gbdx.json.tmp"), "{case}");
        let is_finished = found != stored;
        assert_eq!(store.warnings().len(), usize::from(is_finished), "{case}: {:?}", store.warnings());
    }
}

#[test]
fn a_save_that_cannot_be_finished_keeps_the_daemon_from_starting_with_what_is_spent() {
    for number in [libc::EROFS, libc::EIO] {
        let disk = FaultyDisk::default();
        disk.put("gbdx.json", &file::write(&being_redeemed(1)));
        disk.put(".gbdx.json.tmp", &file::write(&record(2)));
        let steps_before = 6; // of the names twice, the ring, the names, both files
        let fails = |step: usize| {
            let disk = disk.after_a_kill();
            disk.plant(step, Fault::Error(number));
            let opened = Store::on(Box::new(disk.clone()), Path::new("/state"), None, Vec::new()).map(drop);
            opened.map_err(|error| error.to_string()).err().filter(|words| words.contains("cannot finish the save"))
        };
        let words: Vec<String> = (0..=steps_before + 3).filter_map(fails).collect();
        assert_eq!(words.len(), 3, "the content, the name, the folder: {words:?}");
        assert!(words.iter().all(|words| words.contains("/state/gbdx.json")), "{words:?}");
        assert_eq!(on(&disk).load(&id("gbdx")).unwrap(), Some(record(2)), "and is finished when it can be");
    }
}

#[test]
fn a_sync_left_out_would_be_noticed() {
    for lie in [Lie::Content, Lie::Names] {
        let broken = broken_promises(Some(&record(1)), &record(2), lie);
        assert!(!broken.is_empty(), "{lie:?}");
    }
}

#[test]
fn whatever_step_of_a_save_fails_the_file_is_whole_and_saving_again_succeeds() {
    for (number, words) in [
        (libc::ENOSPC, "make room"),
        (libc::EDQUOT, "make room"),
        (libc::EROFS, "read-only"),
        (libc::EACCES, "check who owns the folder"),
        (libc::EIO, "(os error 5)"),
    ] {
        for step in 0.. {
            let disk = FaultyDisk::default();
            disk.put("gbdx.json", &file::write(&record(1)));
            let store = on(&disk);
            disk.plant(step, Fault::Error(number));
            let saved = store.save(&record(2));
            if !disk.fault_has_happened() {
                assert!(saved.is_ok());
                break;
            }
            let error = saved.unwrap_err().to_string();
            assert!(error.contains("/state/gbdx.json") && error.contains(words), "{error}");
            let found = store.load(&id("gbdx")).unwrap().unwrap();
            assert!(found == record(1) || found == record(2), "step {step}: {found:?}");
            assert_eq!(disk.files().len(), 1, "step {step}: nothing is left beside it");
            store.save(&record(2)).unwrap();
            assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(2)));
        }
    }
}

#[test]
fn setting_garbage_aside_never_loses_it_whenever_it_is_cut_short() {
    let garbage = b"{\"version\": 1, \"refresh_tok";
    for crash in 0.. {
        let disk = FaultyDisk::default();
        disk.put("gbdx.json", garbage);
        disk.put("gbdx.json.corrupt-1", b"an earlier one");
        let store = on(&disk);
        disk.plant(crash, Fault::Crash);
        let error = store.load(&id("gbdx")).unwrap_err();
        let crashed = disk.fault_has_happened();
        for world in disk.after_a_power_cut() {
            let kept: Vec<String> =
                world.files().into_iter().filter(|(_, bytes)| bytes == garbage).map(|(name, _)| name).collect();
            let expected: &[&str] =
                if crashed { &["gbdx.json", "gbdx.json.corrupt-2"] } else { &["gbdx.json.corrupt-2"] };
            assert!(kept.len() == 1 && expected.contains(&&*kept[0]), "crash before step {crash}: {kept:?}");
            assert_eq!(world.files()["gbdx.json.corrupt-1"], b"an earlier one");
        }
        if !crashed {
            assert_eq!(
                error.to_string(),
                "/state/gbdx.json ends in the middle; it is kept as gbdx.json.corrupt-2: sign in again"
            );
            break;
        }
    }
}

#[test]
fn a_removal_that_was_confirmed_stays_one() {
    let disk = FaultyDisk::default();
    disk.put("gbdx.json", &file::write(&record(1)));
    on(&disk).remove(&id("gbdx")).unwrap();
    for world in disk.after_a_power_cut() {
        assert_eq!(on(&world).load(&id("gbdx")).unwrap(), None);
    }
}

/// What fsync of a folder says on file systems that have none.
const NO_SYNC: [i32; 5] = [libc::EINVAL, libc::ENOTSUP, libc::EOPNOTSUPP, libc::ENOSYS, libc::EBADF];

#[test]
fn on_a_file_system_that_cannot_sync_folders_a_login_is_saved_and_removed() {
    for number in NO_SYNC {
        let disk = FaultyDisk::that_cannot_sync(number);
        let store = on(&disk);
        store.save(&record(1)).unwrap();
        store.save(&record(2)).unwrap();
        store.write_file("client.keys.json", b"{}").unwrap();
        assert_eq!(on(&disk).load(&id("gbdx")).unwrap(), Some(record(2)), "{number}");
        disk.put("alpha.json", b"garbage");
        assert!(matches!(store.load(&id("alpha")), Err(StoreError::Corrupt { .. })), "{number}");
        store.remove(&id("gbdx")).unwrap();
        assert_eq!(on(&disk).load(&id("gbdx")).unwrap(), None, "{number}");
    }
    // a disk that fails is another matter
    for number in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS] {
        let error = on(&FaultyDisk::that_cannot_sync(number)).save(&record(1)).unwrap_err();
        assert!(matches!(error, StoreError::Io { action: "save", .. }), "{number}: {error}");
    }
}

#[test]
fn a_logout_removes_what_was_set_aside_of_the_account_and_of_no_other() {
    let disk = FaultyDisk::default();
    let kept = ["gbdx-2.json", "gbdx-2.json.corrupt-1", "alpha.json.corrupt-1", "client.keys.json.corrupt-1"];
    for name in ["gbdx.json", "gbdx.json.corrupt-1", "gbdx.json.corrupt-12"].iter().chain(&kept) {
        disk.put(name, b"a token");
    }
    on(&disk).remove(&id("gbdx")).unwrap();
    for world in disk.after_a_power_cut() {
        let mut left: Vec<String> = world.files().into_keys().collect();
        left.sort();
        let mut expected = kept;
        expected.sort();
        assert_eq!(left, expected);
    }
    // without a record as well: it was set aside when it was looked at
    disk.put("gbdx.json.corrupt-1", b"a token");
    on(&disk).remove(&id("gbdx")).unwrap();
    assert_eq!(disk.files().len(), kept.len());
}

#[test]
fn a_file_system_that_lacks_something_is_named_with_the_option_that_helps() {
    let no_lock = [libc::ENOLCK, libc::ENOSYS, libc::ENOTSUP, libc::EOPNOTSUPP, libc::EINVAL];
    let rows = no_lock.map(|number| (TAKE_LOCK, number, "has no locks")).into_iter().chain([
        (CHANGE_MODE, libc::EPERM, "does not let that be changed"),
        (CHANGE_MODE, libc::EACCES, "does not let that be changed"),
        (CHANGE_MODE, libc::EOPNOTSUPP, "does not let that be changed"),
    ]);
    for (action, number, words) in rows {
        let error = io_error(action, Path::new("/state/lock"), io::Error::from_raw_os_error(number)).to_string();
        assert!(error.contains(words) && error.contains("--state-dir"), "{error}");
    }
    let error = io_error(TAKE_LOCK, Path::new("/state/lock"), io::Error::from_raw_os_error(libc::EIO)).to_string();
    assert!(!error.contains("has no locks"), "{error}");
}

#[test]
fn an_unreadable_disk_is_an_error_and_not_a_missing_record() {
    let disk = FaultyDisk::default();
    disk.put("gbdx.json", &file::write(&record(1)));
    let store = on(&disk);
    disk.plant(0, Fault::Error(libc::EIO));
    assert!(matches!(store.load(&id("gbdx")), Err(StoreError::Io { action: "read", .. })));
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(1)));
}

// --- the real disk ---

/// A state folder in a temporary one.
fn state() -> (tempfile::TempDir, PathBuf) {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("state");
    (base, dir)
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn what_is_saved_is_loaded_by_the_next_process() {
    let (_base, dir) = state();
    let store = Store::open(&dir).unwrap();
    assert_eq!(store.load(&id("gbdx")).unwrap(), None);
    store.save(&record(1)).unwrap();
    store.save(&Record { account: id("alpha"), ..record(4) }).unwrap();
    drop(store);
    let store = Store::open(&dir).unwrap();
    assert_eq!(store.warnings(), [""; 0]);
    assert_eq!(store.load(&id("alpha")).unwrap(), Some(Record { account: id("alpha"), ..record(4) }));
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(1)));
    store.remove(&id("gbdx")).unwrap();
    store.remove(&id("gbdx")).unwrap();
    assert_eq!(store.load(&id("gbdx")).unwrap(), None);
    assert!(store.load(&id("alpha")).unwrap().is_some());
}

#[test]
fn what_lay_in_the_clear_is_overwritten_when_a_store_is_sealed_unless_somebody_else_has_a_name_for_it() {
    let (base, dir) = state();
    let store = Store::open(&dir).unwrap();
    store.save(&record(1)).unwrap();
    store.save(&Record { account: id("alpha"), ..record(1) }).unwrap();
    fs::write(dir.join("gbdx.json.corrupt-1"), "{ token-1").unwrap();
    fs::hard_link(dir.join("alpha.json"), base.path().join("backup")).unwrap();
    let mut opened = ["gbdx.json", "gbdx.json.corrupt-1"].map(|name| fs::File::open(dir.join(name)).unwrap());
    let secret = Secret::new("a secret of more than thirty-two characters");
    let offer = Offer { kind: Kind::File, blob: None, secret, because: Vec::new() };
    store.seal(&offer, 1).unwrap();
    for file in &mut opened {
        let mut left = Vec::new();
        io::Read::read_to_end(file, &mut left).unwrap();
        assert!(!left.is_empty() && left.iter().all(|byte| *byte == 0), "{}", String::from_utf8_lossy(&left));
    }
    assert!(fs::read_to_string(base.path().join("backup")).unwrap().contains("token-1"));
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(1)));
}

#[test]
fn modes_are_exact_whatever_the_umask() {
    let Some(parent) = rerun::parent("store::tests::modes_are_exact_whatever_the_umask") else {
        for umask in [0o000, 0o002, 0o077, 0o277] {
            let (_base, dir) = state();
            rustix::process::umask(Mode::from_raw_mode(umask));
            let store = Store::open(&dir).unwrap();
            store.save(&record(1)).unwrap();
            rustix::process::umask(Mode::from_raw_mode(0o022));
            let modes = [&dir, &dir.join("gbdx.json"), &dir.join(LOCK)].map(|path| mode(path));
            assert_eq!(modes, [0o700, 0o600, 0o600], "umask {umask:03o}");
        }
        return;
    };
    parent.passes(&mut parent.command());
}

#[test]
fn modes_that_are_too_wide_are_repaired_and_said() {
    let (_base, dir) = state();
    Store::open(&dir).unwrap().save(&record(1)).unwrap();
    set_mode(&dir, 0o755);
    set_mode(&dir.join("gbdx.json"), 0o644);
    let store = Store::open(&dir).unwrap();
    assert_eq!((mode(&dir), mode(&dir.join("gbdx.json"))), (0o700, 0o600));
    let [folder, file] = store.warnings() else { panic!("{:?}", store.warnings()) };
    assert!(folder.contains("state was open to other users (mode 0755) and is 0700 now"), "{folder}");
    assert!(file.contains("gbdx.json was open to other users (mode 0644) and is 0600 now"), "{file}");
}

#[test]
fn a_probe_says_what_a_save_would_and_leaves_nothing() {
    let disk = FaultyDisk::default();
    let store = Store::on_faulty_disk(disk.clone());
    store.save(&record(1)).unwrap();
    let before = disk.files();
    store.probe(&record(2)).unwrap();
    assert_eq!(disk.files(), before);
    // read what is there, remove what a kill left, make the file, write it in two parts, have it reach the disk
    for step in 0..6 {
        disk.fail_at(step, libc::ENOSPC);
        let error = store.probe(&record(2)).unwrap_err().to_string();
        assert!(error.contains("gbdx.json"), "step {step}: {error}");
        assert_eq!(disk.files(), before, "step {step}: nothing is left beside it");
    }
    // a kill in the middle leaves what the next start removes, and nothing that it could take for a save
    disk.kill_at(3);
    let _ = store.probe(&record(2));
    let found = disk.after_a_kill();
    let store = Store::on_faulty_disk(found.clone());
    assert_eq!((store.load(&id("gbdx")).unwrap(), found.files()), (Some(record(1)), before));
}

#[test]
fn a_folder_that_was_removed_is_named_and_taken_hold_of_as_soon_as_it_is_made_again() {
    let (_base, dir) = state();
    let store = Store::open(&dir).unwrap();
    store.save(&record(1)).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let error = store.save(&record(2)).unwrap_err().to_string();
    assert!(error.contains("its folder has been removed; make it again"), "{error}");
    assert!(!dir.exists(), "whoever removed it may have wanted that");
    fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o755);
    store.save(&record(2)).unwrap();
    assert_eq!((mode(&dir), mode(&dir.join("gbdx.json"))), (0o700, 0o600));
    assert!(matches!(Store::open(&dir), Err(StoreError::Held { .. })), "the lock is there, too");
    drop(store);
    assert_eq!(Store::open(&dir).unwrap().load(&id("gbdx")).unwrap(), Some(record(2)));
    // one that another daemon has by then is left to it
    let store = Store::open(&dir).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let other = Store::open(&dir).unwrap();
    other.save(&record(7)).unwrap();
    assert!(matches!(store.save(&record(3)), Err(StoreError::Held { .. })));
    drop(other);
    assert!(matches!(store.save(&record(3)), Err(StoreError::Stale { found: 7, offered: 3, .. })));
}

#[test]
fn a_second_daemon_is_refused_and_told_who_is_first() {
    let (_base, dir) = state();
    let first = Store::open(&dir).unwrap();
    let error = Store::open(&dir).unwrap_err().to_string();
    let expected = format!("another valetd (pid {}) holds {}", std::process::id(), dir.display());
    assert!(error.starts_with(&expected), "{error}");
    drop(first);
    let words = fs::read_to_string(dir.join(LOCK)).unwrap();
    let (host, boot) = crate::platform::machine::host_and_boot();
    let whose = format!("Z host {host} boot {boot}\n");
    assert!(words.starts_with(&format!("pid {} started 2", std::process::id())) && words.ends_with(&whose), "{words}");
    // a lock that reaches other machines may be held on one of them
    let held = Store::open(&dir).unwrap();
    fs::write(dir.join(LOCK), "pid 7 started 2026-11-29T11:12:55Z host login-node-3 boot x\n").unwrap();
    let error = Store::open(&dir).unwrap_err().to_string();
    assert!(error.starts_with("another valetd (pid 7 on the machine login-node-3) holds "), "{error}");
    drop(held);
}

#[test]
fn a_folder_that_is_not_ours_is_refused() {
    let (base, dir) = state();
    fs::create_dir(&dir).unwrap();
    let link = base.path().join("link");
    symlink(&dir, &link).unwrap();
    let error = Store::open(&link).unwrap_err().to_string();
    assert!(error.contains("is a symbolic link"), "{error}");
    if chown(&dir, Some(65533), None).is_err() {
        eprintln!("skipped the foreign owner: only root can give a folder away");
        return;
    }
    let error = Store::open(&dir).unwrap_err().to_string();
    assert!(error.contains("belongs to another user (uid 65533)"), "{error}");
}

#[test]
fn nothing_is_read_or_written_through_a_link() {
    let (base, dir) = state();
    Store::open(&dir).unwrap();
    let victim = base.path().join("victim");
    fs::write(&victim, &*file::write(&record(1))).unwrap();
    set_mode(&victim, 0o644);
    let before = fs::read(&victim).unwrap();
    for name in ["gbdx.json", ".gbdx.json.tmp", ".probe.tmp", LOCK] {
        let link = dir.join(name);
        let _ = fs::remove_file(&link);
        symlink(&victim, &link).unwrap();
        match Store::open(&dir) {
            Ok(store) => {
                let links_to_records = [store.load(&id("gbdx")).map(drop), store.save(&record(2))];
                for outcome in links_to_records {
                    assert_eq!(name == "gbdx.json", matches!(outcome, Err(StoreError::NotOurFile { .. })), "{name}");
                }
            }
            Err(error) => assert!(name == LOCK && error.to_string().contains("cannot lock"), "{name}: {error}"),
        }
        assert_eq!((fs::read(&victim).unwrap(), mode(&victim)), (before.clone(), 0o644), "{name}");
        let _ = fs::remove_file(&link);
    }
}

#[test]
fn what_is_not_a_file_of_ours_is_left_alone() {
    let (_base, dir) = state();
    let store = Store::open(&dir).unwrap();
    let path = dir.join("gbdx.json");
    let refused = |what: &str, words: &str| {
        for error in [store.load(&id("gbdx")).map(drop).unwrap_err(), store.save(&record(1)).unwrap_err()] {
            assert!(matches!(error, StoreError::NotOurFile { .. }), "{what}: {error}");
            assert!(error.to_string().contains(words), "{what}: {error}");
        }
    };
    fs::create_dir(&path).unwrap();
    refused("a folder", "is not a plain file");
    fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refused("a pipe", "is not a plain file");
    fs::remove_file(&path).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    refused("a socket", "is not a plain file");
    fs::remove_file(&path).unwrap();
    store.save(&record(1)).unwrap();
    if chown(&path, Some(65533), None).is_ok() {
        refused("somebody else's", "belongs to another user (uid 65533)");
    } else {
        eprintln!("skipped the foreign owner: only root can give a file away");
    }
}

#[test]
fn on_a_file_system_that_is_full_or_read_only_the_old_record_stays_and_the_remedy_is_said() {
    let Some(parent) = rerun::parent(
        "store::tests::on_a_file_system_that_is_full_or_read_only_the_old_record_stays_and_the_remedy_is_said",
    ) else {
        let mount = PathBuf::from(std::env::var_os("MOUNT").unwrap());
        let open = || Store::open(&mount.join("state")).unwrap();
        let fails_with = |store: &Store, words: &str| {
            let error = store.save(&record(2)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(1)));
        };
        let store = open();
        store.save(&record(1)).unwrap();
        let ballast = mount.join("ballast");
        assert!(fs::write(&ballast, vec![0; 1024 * 1024]).is_err(), "the file system was to be too small for that");
        fails_with(&store, "make room on its file system");
        drop(store);
        fails_with(&open(), "make room on its file system");
        fs::remove_file(&ballast).unwrap();

        let remount = |how| assert!(Command::new("mount").args(["-o", how]).arg(&mount).status().unwrap().success());
        remount("remount,ro");
        let store = open(); // so that a valid refresh token can still be used
        fails_with(&store, "its file system is read-only");
        assert!(matches!(Store::open(&mount.join("state")), Err(StoreError::Held { .. })));
        remount("remount,rw");
        store.save(&record(2)).unwrap();
        assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(2)));
        return;
    };
    // a mount that nobody else sees, and that ends with the child
    let (base, _) = state();
    let in_a_small_mount = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", r#"mount -t tmpfs -o size=256k none "$MOUNT" && exec "$0" "$@""#]);
        unshare.env("MOUNT", base.path());
        unshare
    };
    if !in_a_small_mount().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let child = parent.command();
    let mut mounted = in_a_small_mount();
    mounted.arg(child.get_program()).args(child.get_args());
    mounted.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    parent.passes(&mut mounted);
}

#[test]
fn a_file_that_makes_no_sense_is_set_aside_with_a_number_and_said_until_it_is_gone() {
    let (_base, dir) = state();
    let store = Store::open(&dir).unwrap();
    let huge = vec![b' '; disk::LARGEST + 1];
    for (number, content) in [&b""[..], b"half a fi", b"\xff\xfe", &huge].into_iter().enumerate() {
        fs::write(dir.join("gbdx.json"), content).unwrap();
        let error = store.load(&id("gbdx")).unwrap_err();
        let name = format!("gbdx.json.corrupt-{}", number + 1);
        assert!(matches!(&error, StoreError::Corrupt { kept_as, .. } if *kept_as == name), "{error}");
        assert_eq!(fs::read(dir.join(&name)).unwrap(), content);
        assert_eq!(store.load(&id("gbdx")).unwrap(), None);
    }
    // a save does not wait for somebody to look first
    fs::write(dir.join("gbdx.json"), "garbage").unwrap();
    store.save(&record(1)).unwrap();
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(1)));
    drop(store);
    let store = Store::open(&dir).unwrap();
    let said = store.warnings().iter().filter(|warning| warning.contains("was set aside")).count();
    assert_eq!(said, 5, "{:?}", store.warnings());
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let (_base, dir) = state();
    let store = Store::open(&dir).unwrap();
    let later = r#"{"version": 3, "sealed": "AAAA"}"#;
    fs::write(dir.join("gbdx.json"), later).unwrap();
    for error in [store.load(&id("gbdx")).map(drop).unwrap_err(), store.save(&record(9)).unwrap_err()] {
        assert!(error.to_string().contains("was written by a later valetd (format 3, this one knows 2)"), "{error}");
    }
    assert_eq!(fs::read_to_string(dir.join("gbdx.json")).unwrap(), later);
}

#[test]
fn a_later_generation_is_never_replaced_by_an_earlier_one() {
    let (_base, dir) = state();
    let store = Store::open(&dir).unwrap();
    store.save(&record(5)).unwrap();
    let error = store.save(&record(4)).unwrap_err();
    assert!(matches!(error, StoreError::Stale { found: 5, offered: 4, .. }), "{error}");
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(5)));
    let same = Record { redeeming: true, ..record(5) };
    store.save(&same).unwrap();
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(same));
}

#[test]
fn of_threads_that_save_at_once_the_latest_generation_wins() {
    let (_base, dir) = state();
    let store = Arc::new(Store::open(&dir).unwrap());
    let threads: Vec<_> = (1..=4)
        .map(|lane| {
            let store = store.clone();
            std::thread::spawn(move || {
                for generation in (lane..=40).step_by(4) {
                    match store.save(&record(generation)) {
                        Ok(()) | Err(StoreError::Stale { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(40)));
}

#[test]
fn what_a_cut_off_save_left_behind_is_removed_at_the_next_start() {
    let (_base, dir) = state();
    Store::open(&dir).unwrap().save(&record(1)).unwrap();
    fs::write(dir.join(".gbdx.json.tmp"), "half a").unwrap();
    fs::write(dir.join("notes.txt"), "the user's own").unwrap();
    let store = Store::open(&dir).unwrap();
    assert!(!dir.join(".gbdx.json.tmp").exists());
    assert!(dir.join("notes.txt").exists());
    assert_eq!(store.load(&id("gbdx")).unwrap(), Some(record(1)));
}

#[test]
fn no_error_and_no_debug_output_shows_a_secret() {
    let (_base, dir) = state();
    let store = Store::open(&dir).unwrap();
    store.save(&record(3)).unwrap();
    let half = fs::read(dir.join("gbdx.json")).unwrap();
    let stale = store.save(&record(2)).unwrap_err();
    fs::write(dir.join("gbdx.json"), &half[..half.len() - 20]).unwrap();
    let corrupt = store.load(&id("gbdx")).unwrap_err();
    let said = format!("{stale} {stale:?} {corrupt} {corrupt:?} {store:?} {:?}", record(3));
    assert!(!said.contains("token-3") && !said.contains("token-2"), "{said}");
}
