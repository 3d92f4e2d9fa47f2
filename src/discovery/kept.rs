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

/// For how long what is kept is not asked for again.
pub(crate) const FRESH: u64 = 24 * 60 * 60;

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

/// Metadata as they were found just now.
pub(crate) fn found_now(metadata: Metadata) -> Kept {
    Kept { fetched_at: unix_seconds(), metadata }
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
    }
}
