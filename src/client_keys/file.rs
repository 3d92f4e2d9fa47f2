//! The keys that are kept, as they are written: JSON, with a version.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::key::{ClientKey, Limits, Rights, Used};
use super::rate::Rate;
use crate::config::{KeyName, RouteName};
use crate::mcp::McpRule;
use crate::path_rules::{self, PathPattern};

/// The store's file. No account's file can have this name: theirs have no dot before `.json`.
pub(super) const FILE: &str = "client.keys.json";

/// The format of a file whose keys have no limits but rate and end, which all versions of this program read.
const VERSION: u64 = 1;

/// The format of one with limits, which a version that does not know them must not take for keys without.
const VERSION_WITH_LIMITS: u64 = 2;

/// The format of one with rules for messages, likewise.
const VERSION_WITH_MESSAGES: u64 = 3;

#[derive(Serialize, Deserialize)]
struct KeyFile {
    version: u64,
    /// The latest time that the writer knew of, in Unix seconds; earlier versions did not say.
    #[serde(default)]
    latest: u64,
    keys: Vec<KeptKey>,
}

/// What the file holds.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) keys: Vec<Arc<ClientKey>>,
    /// The latest time that it knows of.
    pub(super) latest: u64,
}

#[derive(Serialize, Deserialize)]
struct KeptKey {
    name: String,
    sha256: String,
    routes: Vec<String>,
    methods: Vec<String>,
    paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    messages: Vec<String>,
    created_at: u64,
    expires_at: Option<u64>,
    rate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrent: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// How many of them are used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_used: Option<u64>,
}

pub(super) fn write(keys: &[Arc<ClientKey>], latest: u64) -> Vec<u8> {
    let entry = |key: &Arc<ClientKey>| KeptKey {
        name: key.name.to_string(),
        sha256: hex(&key.sha256),
        routes: key.rights.routes.iter().map(ToString::to_string).collect(),
        methods: key.rights.methods.clone(),
        paths: key.rights.paths.iter().map(ToString::to_string).collect(),
        messages: key.rights.messages.iter().map(ToString::to_string).collect(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        rate: key.rate.map(|rate| rate.to_string()),
        user: key.limits.user,
        concurrent: key.limits.concurrent,
        bytes: key.limits.bytes,
        bytes_used: key.limits.bytes.map(|_| key.bytes()),
    };
    let any = |narrows: fn(&ClientKey) -> bool| keys.iter().any(|key| !key.ephemeral && narrows(key));
    let version = match () {
        () if any(|key| !key.rights.messages.is_empty()) => VERSION_WITH_MESSAGES,
        () if any(|key| key.limits != Limits::default()) => VERSION_WITH_LIMITS,
        () => VERSION,
    };
    let kept = keys.iter().filter(|key| !key.ephemeral).map(entry).collect();
    let mut bytes = serde_json::to_vec_pretty(&KeyFile { version, latest, keys: kept }).expect("texts and numbers");
    bytes.push(b'\n');
    bytes
}

/// Reads the whole file or nothing: half a list of rights is no list of rights.
pub(super) fn read(bytes: &[u8]) -> Result<Kept, String> {
    let place = |error: serde_json::Error| format!("makes no sense at line {}", error.line());
    let KeyFile { version, mut latest, keys } = serde_json::from_slice(bytes).map_err(place)?;
    if !(VERSION..=VERSION_WITH_MESSAGES).contains(&version) {
        return Err(format!("has the format {version}, this program reads {VERSION} to {VERSION_WITH_MESSAGES}"));
    }
    let mut read = Vec::with_capacity(keys.len());
    for key in keys {
        let KeptKey { name, sha256, routes, methods, paths, messages, created_at, expires_at, rate, .. } = key;
        let (limits, bytes_used) =
            (Limits { user: key.user, concurrent: key.concurrent, bytes: key.bytes }, key.bytes_used);
        let wrong = |what: &str| format!("has a key \"{}\" with a wrong {what}", name.escape_debug());
        let digits = |at: usize| sha256.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes: Option<Vec<u8>> = (0..32).map(|index| digits(2 * index)).collect();
        let bytes = bytes.filter(|_| sha256.len() == 64).ok_or_else(|| wrong("hash"))?;
        let routes: Option<Vec<RouteName>> = routes.iter().map(|route| RouteName::new(route)).collect();
        let paths: Result<Vec<PathPattern>, String> = paths.iter().map(|path| PathPattern::parse(path)).collect();
        let methods: Result<Vec<String>, String> = methods.iter().map(|method| path_rules::method(method)).collect();
        let messages: Result<Vec<McpRule>, String> = messages.iter().map(|rule| McpRule::parse(rule)).collect();
        let rights = Rights {
            routes: routes.filter(|routes| !routes.is_empty()).ok_or_else(|| wrong("route"))?,
            methods: methods.map_err(|_| wrong("method"))?,
            paths: paths.map_err(|_| wrong("path"))?,
            messages: messages.map_err(|_| wrong("rule for messages"))?,
        };
        latest = latest.max(created_at);
        read.push(Arc::new(ClientKey {
            rights,
            created_at,
            expires_at,
            rate: rate.as_deref().map(Rate::parse).transpose().map_err(|_| wrong("rate"))?,
            limits,
            ephemeral: false,
            own: None,
            sha256: bytes.try_into().expect("32 bytes were read"),
            used: Used { bytes: bytes_used.unwrap_or_default().into(), ..Used::default() },
            ended: AtomicBool::new(false),
            name: KeyName::new(&name).ok_or_else(|| wrong("name"))?,
        }));
    }
    read.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Kept { keys: read, latest })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_the_latest_time_knows_it_from_its_keys() {
        let hash = "0".repeat(64);
        let rest = "\"methods\": [], \"paths\": [], \"created_at\": 1700000000, \"expires_at\": 1700000001";
        let text = format!(
            "{{\"version\": 1, \"keys\": [{{\"name\": \"a\", \"sha256\": \"{hash}\", \"routes\": [\"a\"], {rest}}}]}}"
        );
        assert_eq!(read(text.as_bytes()).unwrap().latest, 1_700_000_000);
    }
}
