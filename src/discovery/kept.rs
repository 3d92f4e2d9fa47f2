//! What is kept of an account's issuer in the state folder, and when it may be replaced.
//!
//! A refresh token is bound to where it was issued. So metadata that move an endpoint which is sent credentials to another
//! origin are taken over at a sign-in alone, where a person is; until then the ones that are kept stay in force.

use std::path::Path;

use crate::config::{AccountId, Issuer, Origin};
use crate::config_files;
use crate::oauth::metadata::{Kept, Metadata};
use crate::platform::clock::unix_seconds;
use crate::store::{Beside, StoreError};

/// The least time for which metadata are not asked for again, whatever their server says.
const HOUR: u64 = 60 * 60;

/// For how long metadata are not asked for again, by `Cache-Control` (RFC 9111 section 5.2.2): a day, or less if the server
/// says so. Pure.
pub(crate) fn fresh_for(cache_control: Option<&str>) -> u64 {
    let directives = cache_control.unwrap_or_default().split(',').map(str::trim);
    let age = directives.filter_map(|directive| directive.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
    age.min().map_or(Kept::a_day(), |seconds: u64| seconds.clamp(HOUR, Kept::a_day()))
}

/// What is kept for an account of this issuer.
pub(crate) fn of(state_dir: &Path, account: &AccountId, issuer: &Issuer) -> Option<Kept> {
    let kept = config_files::kept_metadata(state_dir).remove(account.as_str());
    kept.filter(|kept| kept.metadata.issuer == issuer.as_str())
}

/// Keeps metadata for an account.
///
/// # Errors
///
/// [`StoreError`].
pub(crate) fn keep(state_dir: &Path, account: &AccountId, kept: &Kept) -> Result<(), StoreError> {
    Beside::open(state_dir)?.write(&Kept::file_name(account.as_str()), &kept.write())
}

/// Forgets what is kept for an account.
pub(crate) fn forget(state_dir: &Path, account: &AccountId) {
    if let Ok(mut folder) = Beside::open(state_dir) {
        folder.remove(&Kept::file_name(account.as_str()));
    }
}

/// Metadata as they were found just now.
pub(crate) fn found_now(metadata: Metadata) -> Kept {
    Kept { fetched_at: unix_seconds(), metadata, validator: None, fresh_for: Kept::a_day() }
}

/// The origin to which `new` metadata would have credentials sent although `old` ones did not. `None` if there is none: then
/// they may be taken over without a person. Pure.
pub(crate) fn moved_to(issuer: &Issuer, old: &Metadata, new: &Metadata) -> Option<Origin> {
    let origins = |metadata: &Metadata| {
        let endpoints = issuer.endpoints_in(metadata).unwrap_or_default();
        endpoints
            .into_iter()
            .filter(|(kind, _)| kind.takes_credentials())
            .map(|(kind, endpoint)| (kind, endpoint.origin))
    };
    let known: Vec<_> = origins(old).collect();
    // the token endpoint's own origin is what a record is bound to; the others may be on any that was known
    let token = |(kind, origin): &(_, Origin)| {
        *kind == crate::oauth::EndpointKind::Token && !known.contains(&(*kind, origin.clone()))
    };
    let strange = |(_, origin): &(_, Origin)| !known.iter().any(|(_, old)| old == origin);
    origins(new).find(|found| token(found) || strange(found)).map(|(_, origin)| origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(token: &str, revocation: &str) -> Metadata {
        let text = format!(
            "{{\"issuer\":\"https://i.example\",\"token_endpoint\":\"https://{token}.example/t\",\
             \"revocation_endpoint\":\"https://{revocation}.example/r\",\"userinfo_endpoint\":\"https://{token}x.example/u\"}}"
        );
        Metadata::read(text.as_bytes(), "https://i.example").unwrap()
    }

    #[test]
    fn credentials_go_to_no_new_origin_without_a_person() {
        let issuer = Issuer::parse("https://i.example").unwrap();
        let rows = [
            ("the same", metadata("a", "b"), None),
            ("both on one that was known", metadata("a", "a"), None),
            ("the token endpoint on another that was known", metadata("b", "b"), Some("https://b.example")),
            ("another token endpoint", metadata("c", "b"), Some("https://c.example")),
            ("another revocation endpoint", metadata("a", "c"), Some("https://c.example")),
        ];
        for (case, new, expected) in rows {
            let moved = moved_to(&issuer, &metadata("a", "b"), &new).map(|origin| origin.to_string());
            assert_eq!(moved.as_deref(), expected, "{case}");
        }
    }

    #[test]
    fn metadata_are_fresh_for_an_hour_at_least_and_a_day_at_most() {
        let day = 24 * HOUR;
        let rows = [
            (None, day),
            (Some("no-store"), day),
            (Some("public, max-age=7200"), 2 * HOUR),
            (Some("max-age=0, must-revalidate"), HOUR),
            (Some("max-age=31536000, immutable"), day),
            (Some("max-age=\"7200\""), 2 * HOUR),
            (Some("max-age=soon"), day),
        ];
        for (cache_control, expected) in rows {
            assert_eq!(fresh_for(cache_control), expected, "{cache_control:?}");
        }
    }

    #[test]
    fn what_is_kept_is_found_again_for_its_account_and_issuer() {
        let folder = tempfile::tempdir().unwrap();
        let [lab, other] = ["lab", "other"].map(|name| AccountId::new(name).unwrap());
        let [issuer, another] = ["https://i.example", "https://i.example/"].map(|text| Issuer::parse(text).unwrap());
        let found = found_now(metadata("a", "b"));
        keep(folder.path(), &lab, &found).unwrap();
        assert_eq!(of(folder.path(), &lab, &issuer), Some(found));
        assert_eq!(of(folder.path(), &lab, &another), None);
        assert_eq!(of(folder.path(), &other, &issuer), None);
        std::fs::write(folder.path().join("lab.metadata.json"), "{").unwrap();
        assert_eq!(of(folder.path(), &lab, &issuer), None, "what cannot be read is fetched anew");
        forget(folder.path(), &lab);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
