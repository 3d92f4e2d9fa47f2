//! Registered clients at rest: sealed as the records are, kept and replaced without a gap, and handed to their own account.

use super::faulty_disk::{Fault, FaultyDisk};
use super::sealing_tests::{FILES, REGISTERED, SECRETS};
use super::sealing_tests::{client_of, is_in_the_clear, of, offer, plain, public_clients, sealed, unlock};
use super::tests::{id, on};
use super::*;
use crate::config::{Account, ClientSecret, SecretSource};
use crate::oauth::rfc7591::Registration;

fn client_file(account: &str) -> String {
    Registration::file_name(account)
}

#[test]
fn a_client_that_is_kept_is_sealed_as_the_store_is_and_cut_short_anywhere_is_the_old_one_or_the_new_one() {
    let new = Registration { client_secret: Some(Secret::new("another-token-7")), ..client_of("gbdx") };
    for (before, account) in [(plain(), "gbdx"), (plain(), "alpha"), (sealed(), "gbdx"), (sealed(), "alpha")] {
        let old = REGISTERED.contains(&account).then(|| client_of(account));
        for crash in 0.. {
            let disk = before.after_a_kill();
            let store = on(&disk);
            let _ = unlock(&store, SECRETS[0]);
            disk.plant(crash, Fault::Crash);
            let kept = store.keep_registration(&id(account), &new).is_ok();
            let crashed = disk.fault_has_happened();
            for world in disk.after_a_power_cut() {
                let found = on(&world);
                let _ = unlock(&found, SECRETS[0]);
                let found = found.registration(&id(account)).unwrap();
                assert!(found.as_ref() == Some(&new) || !kept && found == old, "step {crash}: {found:?}");
                let clear = is_in_the_clear(&world);
                assert!(clear.is_empty() || clear.len() >= FILES, "step {crash}: {clear:?}");
            }
            if !crashed {
                break;
            }
        }
    }
}

#[test]
fn while_the_key_is_away_a_client_is_known_and_its_secret_neither_read_nor_replaced() {
    let disk = sealed();
    let before = disk.files();
    let store = on(&disk);
    let locked = |error: &StoreError| matches!(error, StoreError::Locked { .. });
    assert!(store.registration(&id("gbdx")).is_err_and(|error| locked(&error)));
    assert!(store.keep_registration(&id("gbdx"), &client_of("gbdx")).is_err_and(|error| locked(&error)));
    assert!(store.keep_registration(&id("new"), &client_of("new")).is_err_and(|error| locked(&error)));
    assert_eq!(disk.files(), before);
    assert_eq!(public_clients(&disk), REGISTERED.map(|account| client_of(account).client));
    unlock(&store, SECRETS[0]).unwrap();
    assert_eq!(store.registration(&id("gbdx")).unwrap(), Some(client_of("gbdx")));
    assert_eq!(store.registration(&id("new")).unwrap(), None);
    // what takes no key can be done without one
    let store = on(&disk);
    disk.put("gbdx.client.json.corrupt-1", b"x");
    store.forget_registration(&id("gbdx")).unwrap();
    assert_eq!(disk.files().keys().filter(|name| name.contains("gbdx.client")).count(), 0);
}

#[test]
fn a_client_that_was_moved_changed_cut_or_mixed_with_another_ring_is_refused_and_said_and_kept_when_another_comes() {
    let files = sealed().files();
    let other = sealed().files();
    let text = String::from_utf8(files[&client_file("gbdx")].clone()).unwrap();
    let elsewhere = text.replace("//i.example", "//evil.example");
    let rows: [(&str, &[u8], &str); 4] = [
        ("another account's", &files[&client_file("unused")], "sealed for another account"),
        ("for another server", elsewhere.as_bytes(), "was changed after that"),
        ("cut", &text.as_bytes()[..text.len() / 2], "makes no sense"),
        ("of another ring", &other[&client_file("gbdx")], "is in no ring of this store"),
    ];
    for (case, bytes, words) in rows {
        let disk = FaultyDisk::default();
        files.iter().for_each(|(name, bytes)| disk.put(name, bytes));
        disk.put(&client_file("gbdx"), bytes);
        let store = on(&disk);
        let Left(left) = unlock(&store, SECRETS[0]).unwrap();
        assert!(left.len() == 1 && left[0].starts_with("gbdx.client.json: "), "{case}: {left:?}");
        let error = store.registration(&id("gbdx")).unwrap_err();
        let is_known = matches!(error, StoreError::Client { .. } | StoreError::KeyGone { .. });
        assert!(is_known && error.to_string().contains(words), "{case}: {error}");
        assert_eq!(disk.files()[&client_file("gbdx")], bytes, "{case}: it stays until another one comes");
        assert_eq!(store.load(&id("gbdx")).unwrap(), Some(of("gbdx")), "{case}");
        store.keep_registration(&id("gbdx"), &client_of("gbdx")).unwrap();
        assert_eq!(disk.files()["gbdx.client.json.corrupt-1"], bytes, "{case}");
        assert_eq!(store.registration(&id("gbdx")).unwrap(), Some(client_of("gbdx")), "{case}");
    }
}

#[test]
fn a_client_in_the_clear_is_sealed_when_the_store_opens() {
    let disk = sealed();
    disk.put(&client_file("alpha"), client_of("alpha").write("alpha").expose().as_bytes());
    // as it was written before accounts were noted in it
    let of_before = client_of("zulu").write("zulu").expose().replace(r#""account":"zulu","#, "");
    disk.put(&client_file("zulu"), of_before.as_bytes());
    disk.put("alpha.client.json.bak", client_of("alpha").write("alpha").expose().as_bytes());
    disk.put("zulu.client.json.corrupt-1", client_of("zulu").write("zulu").expose().as_bytes());
    let store = on(&disk);
    unlock(&store, SECRETS[0]).unwrap();
    for account in ["alpha", "zulu"] {
        assert_eq!(store.registration(&id(account)).unwrap(), Some(client_of(account)));
    }
    assert_eq!(is_in_the_clear(&disk), ["alpha.client.json.bak", "zulu.client.json.corrupt-1"]);
    // copies are named, and what was set aside goes, when somebody seals
    let Left(left) = store.seal(&offer(SECRETS[1]), 2).unwrap();
    assert!(left.len() == 1 && left[0].starts_with("alpha.client.json.bak: a copy"), "{left:?}");
    assert_eq!(is_in_the_clear(&disk), ["alpha.client.json.bak"]);
}

#[test]
fn a_first_save_of_a_client_that_was_killed_is_finished_and_a_later_one_is_not() {
    let [whole, cut] = [client_of("gbdx"), client_of("alpha")].map(|client| client.write("gbdx"));
    for (is_sealed, has_one, is_whole) in
        [(false, false, true), (true, false, true), (true, true, true), (true, false, false)]
    {
        let disk = FaultyDisk::default();
        disk.put("zulu.json", &file::write(&of("zulu")));
        if has_one {
            disk.put(&client_file("gbdx"), whole.expose().as_bytes());
        }
        if is_sealed {
            on(&disk).seal(&offer(SECRETS[0]), 1).unwrap();
        }
        let text = if is_whole { cut.expose() } else { &cut.expose()[..40] };
        disk.put(".gbdx.client.json.tmp", text.as_bytes());
        let store = on(&disk);
        let _ = unlock(&store, SECRETS[0]);
        let expected = match (has_one, is_whole) {
            (true, _) => Some(client_of("gbdx")),
            (false, true) => Some(client_of("alpha")),
            (false, false) => None,
        };
        let case = (is_sealed, has_one, is_whole);
        assert_eq!(store.registration(&id("gbdx")).unwrap(), expected, "{case:?}");
        assert!(!disk.files().contains_key(".gbdx.client.json.tmp"), "{case:?}");
        assert_eq!(is_in_the_clear(&disk).is_empty(), is_sealed, "{case:?}");
    }
}

#[test]
fn the_secret_of_a_client_goes_to_its_own_account_alone() {
    let disk = sealed();
    let store = on(&disk);
    unlock(&store, SECRETS[0]).unwrap();
    let mut account = crate::config::testing::account("gbdx", "");
    assert_eq!(store.with_client_secret(&account).unwrap().client_secret, None, "nothing is asked for");
    account.client_secret = Some(ClientSecret::Registered);
    account.client_id = Some("client of gbdx".to_owned());
    let words = |account: &Account| store.with_client_secret(account).unwrap_err().to_string();
    assert!(words(&account).contains("of another client"), "it was registered at another server");
    let mut found = client_of("gbdx");
    found.client.registered_at = account.server.registrar();
    store.keep_registration(&id("gbdx"), &found).unwrap();
    let secret = found.client_secret.clone().map(|secret| ClientSecret::Configured(SecretSource::Inline(secret)));
    assert_eq!(store.with_client_secret(&account).unwrap().client_secret, secret);
    account.client_id = Some("the client before".to_owned());
    assert!(words(&account).contains("of another client"));
    store.forget_registration(&id("gbdx")).unwrap();
    assert!(words(&account).contains("is gone: a sign-in registers"));
}
