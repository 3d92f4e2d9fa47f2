//! What the reading of all tables shares: the facts, the sink of complaints, and the values that need either.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{Endpoint, ListenAddress, listen_address};
use super::problem::{Complaint, Sink};
use super::read::{Located, Table};
use super::value;
use crate::oauth::metadata::Metadata;
use crate::oauth::rfc7591::RegisteredClient;

/// What the meaning of a configuration depends on besides its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MachineFacts {
    /// The configuration's folder, absolute: relative paths start here.
    pub folder: PathBuf,
    /// The home folder, absolute: what `~/` means.
    pub home: PathBuf,
    /// The processor's cores that we may use.
    pub cores: usize,
    /// What is known of issuers, by the account that it is kept for.
    pub metadata: BTreeMap<String, Metadata>,
    /// What is public of the clients that were registered, by the account that each is for.
    pub clients: BTreeMap<String, RegisteredClient>,
}

/// Reads tables.
pub(super) struct Reader<'a> {
    pub(super) facts: &'a MachineFacts,
    pub(super) sink: &'a Sink,
    /// As [`Config::authority_files`](super::Config::authority_files).
    pub(super) authority_files: RefCell<BTreeMap<PathBuf, String>>,
}

/// What was found where, for checks that concern several tables.
#[derive(Default)]
pub(super) struct CrossChecks<'a> {
    pub(super) listeners: Vec<Located<'a, ListenAddress>>,
    pub(super) upstreams: Vec<Located<'a, Endpoint>>,
    /// Accounts whose provider nobody knows: what is missing from them, and from their routes, may be in there.
    pub(super) unknown_provider: Vec<String>,
}

impl Reader<'_> {
    /// Complains unless the table has one of the keys, and only one.
    pub(super) fn exactly_one(&self, table: &Table<'_>, keys: &[&str]) -> Option<()> {
        if keys.iter().filter(|key| table.has(key)).count() == 1 {
            return Some(());
        }
        self.sink.follow_up(&table.place(), format!("must have exactly one of {}", keys.join(", ")));
        None
    }

    /// What can be reached from other machines lets in nobody without a client key: there, nobody can say whose process
    /// it is.
    pub(super) fn check_reach(&self, listener: &Located<'_, ListenAddress>, require_key: bool, remedy: &str) {
        if let Located { value: ListenAddress::Tcp(address), place } = listener
            && !address.ip().is_loopback()
            && !require_key
        {
            let remedy = format!("say {remedy}; or listen on loopback: \"127.0.0.1:{}\"", address.port());
            self.sink.error(place, Complaint::new("can be reached from other machines", remedy));
        }
    }

    pub(super) fn listen_address(&self, text: &str) -> Result<ListenAddress, Complaint> {
        listen_address(text, &self.facts.folder, &self.facts.home)
    }

    pub(super) fn path(&self, table: &Table<'_>, key: &str) -> Option<PathBuf> {
        let text = table.string(key)?.value;
        Some(value::path(&text, &self.facts.folder, &self.facts.home))
    }

    /// The file of `extra_ca`.
    pub(super) fn authority_file(&self, table: &Table<'_>) -> Option<PathBuf> {
        let Located { value: text, place } = table.string("extra_ca")?;
        let path = value::path(&text, &self.facts.folder, &self.facts.home);
        self.authority_files.borrow_mut().entry(path.clone()).or_insert_with(|| place.to_string());
        Some(path)
    }

    /// A duration of at least `least`; `default` where there is none or a bad one.
    pub(super) fn duration(&self, table: &Table<'_>, key: &str, least: Duration, default: Duration) -> Duration {
        let Some(Located { value, place }) = table.parsed(key, value::duration) else { return default };
        if value < least {
            self.sink.error(&place, format!("is less than {} ms", least.as_millis()));
        }
        value
    }
}

pub(super) struct BadName(pub(super) String, pub(super) &'static str);

impl From<BadName> for Complaint {
    fn from(BadName(message, remedy): BadName) -> Self {
        Complaint::new(format!("is {message}"), remedy)
    }
}

pub(super) fn bad_name(what: &str) -> BadName {
    BadName(format!("not a name for {what}"), "use 1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit")
}
