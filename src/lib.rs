//! valetd holds a person's OAuth refresh tokens, renews access tokens before they run out, and reverse-proxies
//! localhost requests to APIs with the right `Authorization` header. This page is the map of the house.
//!
//! # Four promises
//!
//! When in doubt, these decide.
//!
//! 1. **Never lose a login.** A rotated refresh token is on the disk before its grant is used, and whatever else is wrong
//!    with its response; a refusal is believed only when it is well-formed; a refused credential is set aside, not erased, and
//!    a refresh token is presented again before that is final.
//! 2. **Never storm a server.** One renewal in flight for each credential, a distance between two starts, back-off with
//!    jitter for ever, `Retry-After` obeyed.
//! 3. **Valid while valid, never after.** A failed renewal takes no valid token away, and one whose end was stated never
//!    leaves after it.
//! 4. **Never an unauthenticated request, never a token to the wrong place.** Upstreams come from the configuration
//!    alone; the client's own credentials are dropped; ours go in last, exactly once.
//!
//! # Floors
//!
//! Imports go down only, and neighbours on a floor do not import each other. In a folder the files beside `mod.rs` do not
//! import each other in a circle. `tests/it/architecture.rs` reads this table and every import, and knows the circles that
//! are still there. Floors 0 to 3 are pure: no clock, no async, no file, no socket, no randomness.
//!
//! ```text
//! 10 cli                                      the person at the keyboard: one file a verb
//! 9  daemon                                   builds, wires, starts, reloads, drains, stops
//! 8  renewer  proxy  control  sign_in  notices  the services, each on its own
//! 7  accounts                                 what the services say of the accounts, and ask of the renewer
//!    discovery                                what servers say of themselves, fetched and kept
//!    client_keys                              who may call, and for what; kept in the store's folder
//! 6  token_source  token_endpoint  store      where tokens pass: out to requests, in from servers, to rest
//! 5  http_client  stand_in                    requests of our own, and servers to try them on
//!    intercept                                a command's own proxy, which stands for the hosts of its routes
//!    bridge                                   a program that speaks MCP over its standard input and output
//!    config_files                             whose they are, and what they say
//!    key_source                               where the key of the store comes from
//!    audit                                    a line for each request, if somebody wants that
//! 4  platform   shutdown  stats               one door to each part of the machine; stopping and counting
//!    lent                                     the address and key that a command has of the daemon
//! 3  config                                   what the user asked for, valid by construction       (pure)
//! 2  oauth                                    what to send, what a response means                   (pure)
//! 1  renewal                                  when to renew                                        (pure)
//!    path_rules                               a path as servers may read it, and rules over it      (pure)
//!    mcp                                      what a message says of itself, and rules over it      (pure)
//! 0  advice                                   the commands that messages name, as they must be typed    (pure)
//!    secret     timestamp                     types that everyone uses                             (pure)
//!    names      span                          what is said of unknown names, and of spans of time   (pure)
//!    spelling                                 secrets in whatever spelling they come back            (pure)
//!    split_mix                                numbers that follow from a seed                       (pure)
//! ```
//!
//! # Journeys
//!
//! **A proxied request.** A [`proxy`] worker accepts, learns who the peer is, and serves; whoever would need a client key
//! gets little until a request has shown one (`proxy/downstream/stranger.rs`). `proxy/exchange/service.rs` reads from top
//! to bottom: identify, admit, find, permit, token, prepare, send, respond. [`token_source::TokenSource::usable`] borrows
//! the published token: no lock, no await, no allocation. Without one the request says that it is wanted, and waits up to its patience; a client that hangs up
//! cancels its own wait, never a renewal. Where it had to wait for a connection, it leaves with the token that is usable
//! then. A reload that changes what an account is, or where its tokens go, ends the waits for them. A 401 from the
//! upstream renews once for all who got it, and the request is sent once more.
//!
//! **A renewal.** [`renewal::Renewal`] decides, [`renewer`] does: it alone owns the machines and the secrets. On a
//! rotation: note that generation N is being redeemed → redeem ([`token_endpoint`], with what [`oauth`] says) → save
//! ([`store`]: temporary file, fsync, rename, fsync of the folder) → publish.
//!
//! **A status query.** `control` answers from what the renewer has published, and waits for nobody.
//!
//! **A sign-in** runs in the person's own process ([`sign_in`], one file a way); its result is handed to the daemon over
//! the control socket, or saved under the store's lock if none runs ([`sign_in::offline`]). What is handed in is tried by one
//! renewal before it takes the place of what is stored: `renewer/trials.rs`, and [`sign_in::offline`] alike. The secret of a
//! client that was registered ([`oauth::rfc7591`]) is asked of the store, by the daemon itself when it renews, and for a person's
//! process through the daemon (`cli/registered.rs`): the configuration knows no more of it than that it is there.
//!
//! **A command of `exec --intercept`** asks the proxy of [`intercept`], which runs in the process of `exec`: TLS for a route's
//! host ends there, and the request goes to a socket that the daemon has lent (`daemon/own_address.rs`), where it names the
//! upstream (`proxy/policy/scope.rs`, `proxy/policy/route.rs`); from there on it is a proxied request as any. `cli/exec/` has
//! what the command is told to trust, its signals, and its walls.
//!
//! # Where the invariants are
//!
//! The nine of the machine: [`renewal`]. The order of things around it: `renewer/machines.rs`. The file format and what a
//! crash leaves behind: [`store`]. What a request must be, to be given a token: `proxy/policy/guard.rs` and
//! `proxy/policy/headers.rs`; what a rule is compared with: [`path_rules`], `proxy/policy/overrides.rs`. Where a
//! credential may be sent: `config/authorization_server.rs`, [`store::Record`]; where a response may lead:
//! `proxy/policy/rewrite.rs`. Whose a configuration must be: [`platform::ownership`]. The time line: [`platform::clock`].

#![allow(rustdoc::private_intra_doc_links)] // the map is for those who read the rooms, and nearly all are private
#![cfg_attr(test, allow(clippy::disallowed_methods))] // tests make files of their own, and set the stage

mod accounts;
mod advice;
mod audit;
mod bridge;
pub mod cli;
mod client_keys;
mod config;
mod config_files;
mod control;
mod daemon;
mod discovery;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod http_client;
mod intercept;
mod key_source;
mod lent;
mod mcp;
mod names;
mod notices;
mod oauth;
mod path_rules;
mod platform;
mod proxy;
mod renewal;
mod renewer;
pub mod secret;
mod shutdown;
mod sign_in;
mod span;
mod spelling;
mod split_mix;
pub mod stand_in;
mod stats;
mod store;
mod timestamp;
mod token_endpoint;
mod token_source;

#[cfg(feature = "benchmarks")]
#[doc(hidden)]
pub use proxy::benchmarks;
