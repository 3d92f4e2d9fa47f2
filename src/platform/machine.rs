//! Which machine this is: a mark that tells it from others, and says nothing else of it.

use aws_lc_rs::hmac;

/// Where the system keeps its own (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

/// This machine's mark; `None` if the system has no name for it. The machine-id itself is confidential, so it is hashed with
/// what is ours alone, as machine-id(5) asks for.
pub(crate) fn mark() -> Option<String> {
    mark_of(&std::fs::read_to_string(MACHINE_ID).ok()?)
}

/// What this machine is called, and which of its boots this is: a number of a process means something to whoever knows both.
/// Each is one word.
pub(crate) fn host_and_boot() -> (String, String) {
    let host = rustix::system::uname().nodename().to_string_lossy().split_whitespace().collect::<String>();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let known = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    (known(&host), known(boot.trim()))
}

fn mark_of(machine_id: &str) -> Option<String> {
    let id = machine_id.trim();
    let is_id =
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0');
    let key = is_id.then(|| hmac::Key::new(hmac::HMAC_SHA256, id.as_bytes()))?;
    let digest = hmac::sign(&key, b"valetd store");
    Some(digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_machines_apart_and_does_not_show_their_names() {
        let one = mark_of("0123456789abcdef0123456789abcdef\n").unwrap();
        let other = mark_of("0123456789abcdef0123456789abcdee\n").unwrap();
        assert!(one != other && one.len() == 32 && !one.contains("0123"), "{one} {other}");
        for none in ["", "uninitialized\n", "00000000000000000000000000000000", "0123"] {
            assert_eq!(mark_of(none), None, "{none}");
        }
    }
}
