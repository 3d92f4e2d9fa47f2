//! valetd holds a person's OAuth refresh tokens, renews access tokens before they run out, and reverse-proxies
//! localhost requests to APIs with the right `Authorization` header.

pub mod accounts;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod http_client;
pub mod notices;
pub mod oauth;
pub mod platform;
pub mod proxy;
pub mod renewal;
pub mod renewer;
pub mod secret;
pub mod shutdown;
pub mod sign_in;
pub mod stand_in;
pub mod stats;
pub mod store;
pub mod timestamp;
pub mod token_endpoint;
pub mod token_source;
