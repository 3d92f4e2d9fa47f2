//! Keys that systemd wraps for this user on this machine: its credential service, which asks nobody (systemd 256 and later).
//!
//! The blob opens for the same user, the same user name, the same machine-id and the same host key, which is root's. Where
//! the service binds it to the TPM as well, an update of the firmware may close it for good (systemd issue 42028).

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::no_secret::NoSecret;
use crate::platform::varlink::{self, CallError};
use crate::secret::Secret;

/// Where the service listens.
pub(super) const SOCKET: &str = "/run/systemd/io.systemd.Credentials";

/// The credential's name, which the blob is bound to.
const NAME: &str = "valetd-store-key";

/// It takes some 50 ms; a TPM may need longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a blob begins with that only the host's key and the user are needed for.
const HOST_KEY_AND_USER: [u8; 16] =
    [0x55, 0xb9, 0xed, 0x1d, 0x38, 0x59, 0x4d, 0x43, 0xa8, 0x31, 0x9d, 0x2e, 0xbb, 0x33, 0x2a, 0xc6];

/// Errors that say that the blob will not open here any more. A user whom the system does not know is none of them: who
/// users are may be known by a service that is away.
const GONE: [&str; 3] = [
    "io.systemd.Credentials.BadFormat",
    "io.systemd.Credentials.NameMismatch",
    "io.systemd.Credentials.KeyBelongsToOtherTPM",
];

/// An error of the system's; what it means hangs on its number.
const SYSTEM: &str = "io.systemd.System";

/// The host has no key: it is another one, or has begun anew. systemd deletes the key of another machine-id.
const ENOENT: i64 = 2;

/// What a secret was wrapped into.
#[derive(Debug)]
pub(super) struct Wrapped {
    pub(super) blob: String,
    /// Whether something else than the host's key and the user is needed: a TPM.
    pub(super) is_bound_to_more: bool,
}

/// Has a secret wrapped.
pub(super) fn wrap(socket: &Path, secret: &Secret) -> Result<Wrapped, String> {
    let data = Zeroizing::new(STANDARD.encode(secret.expose()));
    // No key is asked for (`withKey`): systemd 257 knows none, and a later one forgets the user over it, so that nothing
    // unwraps the blob for this user (262 was seen to).
    let order = json!({ "name": NAME, "data": data.as_str(), "scope": "user" });
    let answer = varlink::call(socket, "io.systemd.Credentials.Encrypt", &order, PATIENCE);
    let blob = text(answer.map_err(|error| in_words(socket, &error))?, "blob").ok_or("its answer has no blob")?;
    let bytes = STANDARD.decode(&blob).map_err(|_| "its blob is no base64")?;
    Ok(Wrapped { is_bound_to_more: !bytes.starts_with(&HOST_KEY_AND_USER), blob })
}

/// Has a secret unwrapped.
pub(super) fn unwrap(socket: &Path, blob: &str) -> Result<Secret, NoSecret> {
    let order = json!({ "name": NAME, "blob": blob, "scope": "user" });
    let answer = varlink::call(socket, "io.systemd.Credentials.Decrypt", &order, PATIENCE).map_err(|error| {
        let words = in_words(socket, &error);
        match error {
            CallError::Refused { name, errno: _ } if GONE.contains(&name.as_str()) => {
                NoSecret::Gone(format!("{words}: it was wrapped for another machine or another user"))
            }
            CallError::Refused { name, errno: Some(ENOENT) } if name == SYSTEM => {
                NoSecret::Gone(format!("{words}: it was wrapped by a host key that this machine does not have"))
            }
            CallError::Refused { .. } | CallError::Unreachable(_) | CallError::Garbled => NoSecret::Away(words),
        }
    })?;
    let data = text(answer, "data").map(Zeroizing::new);
    let bytes = data.and_then(|data| STANDARD.decode(data.as_str()).ok()).map(Zeroizing::new);
    let secret = bytes.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok()).map(Secret::new);
    secret.ok_or_else(|| NoSecret::Away("its answer has no data".to_owned()))
}

fn text(mut answer: Map<String, Value>, member: &str) -> Option<String> {
    match answer.remove(member) {
        Some(Value::String(text)) => Some(text),
        Some(_) | None => None,
    }
}

fn in_words(socket: &Path, error: &CallError) -> String {
    match error {
        CallError::Unreachable(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "there is no credential service (it comes with systemd 256)".to_owned()
        }
        error => format!("{}: {error}", socket.display()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A service that wraps by writing backwards, and forgets nothing.
    pub(in crate::key_source) struct Service {
        folder: tempfile::TempDir,
        /// What every call is answered with instead, if something.
        refusal: Arc<Mutex<Option<Value>>>,
    }

    impl Service {
        /// `has_tpm`: whether there is one to bind to.
        pub(in crate::key_source) fn start(has_tpm: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
            let refusal = Arc::new(Mutex::new(None));
            let refuses = refusal.clone();
            std::thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    let mut sent = Vec::new();
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && byte != [0] {
                        sent.extend(byte);
                    }
                    let call: Value = serde_json::from_slice(&sent).unwrap();
                    let refusal: Option<Value> = refuses.lock().unwrap().clone();
                    let answer = refusal.unwrap_or_else(|| answer(&call, has_tpm));
                    let _ = stream.write_all(&[answer.to_string().as_bytes(), b"\0"].concat());
                }
            });
            Self { folder, refusal }
        }

        pub(in crate::key_source) fn socket(&self) -> PathBuf {
            self.folder.path().join("socket")
        }
    }

    fn answer(call: &Value, has_tpm: bool) -> Value {
        let parameters = &call["parameters"];
        assert_eq!((&parameters["name"], &parameters["scope"]), (&NAME.into(), &"user".into()));
        match call["method"].as_str().unwrap() {
            "io.systemd.Credentials.Encrypt" => {
                assert_eq!(parameters.get("withKey"), None, "of no version that knows it would the blob be the user's");
                let kind = if has_tpm { [0x11; 16] } else { HOST_KEY_AND_USER };
                let mut data = STANDARD.decode(parameters["data"].as_str().unwrap()).unwrap();
                data.reverse();
                json!({ "parameters": { "blob": STANDARD.encode([&kind[..], &data].concat()) } })
            }
            "io.systemd.Credentials.Decrypt" => {
                let mut data = STANDARD.decode(parameters["blob"].as_str().unwrap()).unwrap().split_off(16);
                data.reverse();
                json!({ "parameters": { "data": STANDARD.encode(data) } })
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_is_wrapped_is_unwrapped_and_says_what_it_is_bound_to() {
        let secret = Secret::new("a secret of the store");
        for has_tpm in [false, true] {
            let service = Service::start(has_tpm);
            let wrapped = wrap(&service.socket(), &secret).unwrap();
            assert_eq!(wrapped.is_bound_to_more, has_tpm);
            assert_eq!(unwrap(&service.socket(), &wrapped.blob).unwrap(), secret);
        }
    }

    #[test]
    fn a_blob_of_another_machine_is_gone_and_a_service_that_is_not_there_is_away() {
        let service = Service::start(false);
        let rows = [
            ("io.systemd.Credentials.BadFormat", None, Some("another machine")),
            ("io.systemd.Credentials.KeyBelongsToOtherTPM", None, Some("another machine")),
            ("io.systemd.System", Some(2), Some("a host key that this machine does not have")),
            ("io.systemd.System", Some(5), None),
            ("io.systemd.System", None, None),
            ("io.systemd.Credentials.NoSuchUser", None, None),
            ("io.systemd.Credentials.UnexpectedPCRState", None, None),
            ("org.varlink.service.PermissionDenied", None, None),
        ];
        for (name, errno, gone) in rows {
            *service.refusal.lock().unwrap() = Some(json!({ "error": name, "parameters": { "errno": errno } }));
            match (unwrap(&service.socket(), "AAAA"), gone) {
                (Err(NoSecret::Gone(words)), Some(why)) => assert!(words.contains(why), "{words}"),
                (Err(NoSecret::Away(words)), None) => assert!(words.contains(name), "{words}"),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
        let nobody = unwrap(Path::new("/nowhere"), "AAAA");
        assert!(matches!(nobody, Err(NoSecret::Away(words)) if words.contains("systemd 256")));
    }
}
