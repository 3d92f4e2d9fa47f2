//! What the user asked for, valid by construction. Pure: texts in, a [`Config`] or all its problems out.
//!
//! A `Config` refers only to things that exist: a [`Route`] holds an [`AccountId`] that is in
//! [`Config::accounts`], a [`ListenAddress`] is used once, an [`Endpoint`] is https or on loopback.
//!
//! * [`Config::parse`] reads a file on top of provider presets and reports every [`Problem`] at once: `parse`, with
//!   `account` and `route`, what the tables mean; a new key of either is a line in its file for each of the list of keys,
//!   the type and the reading;
//! * [`presets`] lists the providers that come with the binary: `provider`;
//! * `authorization_server`: all endpoints of an account, stated or found out from its issuer; `sign_in`: its ways to sign in;
//! * `dialect`: what its provider does in another way than RFC 6749 has it;
//! * `store`: how credentials are kept;
//! * `names`, `address`, `header`, `secret_source`, `value`: what one string or a small table means;
//! * `read` is TOML with places, `reader` what the reading of all tables shares, `problem` what is said of a place.

mod account;
mod address;
mod authorization_server;
mod dialect;
mod exec;
mod forward_proxy;
mod header;
mod names;
mod parse;
mod problem;
pub(crate) mod provider;
mod punycode;
mod read;
mod reader;
mod route;
mod secret_source;
mod sign_in;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use account::{Account, ClientSecret};
pub(crate) use address::{Endpoint, ListenAddress, Origin, Upstream};
pub(crate) use address::{is_localhost, is_metadata_address, is_private_address};
pub(crate) use authorization_server::Issuer;
pub(crate) use forward_proxy::{ForwardProxy, Proxies, ProxyChoice, ProxyLogin, ProxyProtocol, Way};
pub(crate) use header::{HeaderEdits, TokenKind};
pub(crate) use names::{AccountId, KeyName, RouteName};
pub(crate) use parse::{AuditTarget, Config, Parsed};
pub(crate) use problem::{Problem, Problems, Source};
pub(crate) use provider::import_variables;
pub(crate) use provider::{Asked, Preset, presets};
pub(crate) use reader::MachineFacts;
pub(crate) use route::{Replay, Route};
pub(crate) use secret_source::SecretSource;
pub(crate) use sign_in::{IdentitySource, ImportSource, LoopbackHost, LoopbackRedirect, SignInMethod};
pub(crate) use store::{LockSettings, MachineSetting, SealSetting, StoreSettings};
pub(crate) use value::AllowedClient;
pub(crate) use value::size;
