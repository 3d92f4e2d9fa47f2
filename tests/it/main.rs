//! Stories a user could tell, on the built daemon with stand-ins of both providers on loopback.
//!
//! A story takes what it needs from [`support`] and from no other story; `architecture.rs` sees to that. The sentence over
//! each module is what its stories claim.

#![allow(unreachable_pub)] // a test program has no outside
#![allow(clippy::disallowed_methods)] // a story sets its stage

/// What stories are told with: homes and daemons, stand-ins, and clients and upstreams of every kind.
mod support;

/// The map in `src/lib.rs` is true, and stories do not lean on each other.
mod architecture;

// --- signing in, and having a token ---

/// The demonstration fits a terminal, does what its keys say, and lets a person practise.
mod demo;
/// Advice is true where it is given, and an upgrade is seen.
mod first_steps;
/// A person or a script gets from nothing to a proxied request in every way there is to sign in.
mod journeys;
/// Every command in the README works, and every test that the security page names exists.
mod readme;
/// At a terminal, each way to sign in that an account has is offered, in its order.
mod signing_in;
/// What every released version has stored is read.
mod versions;

/// `add` writes an account that works from a name or an address, and `remove` takes it out again.
mod adding;
/// What a name stands for decides whether it is connected to.
mod addresses;
/// What has expired stays so wherever the wall clock is set.
mod clocks;
/// A program that speaks MCP is connected in its own configuration, of which nothing else changes.
mod connecting;
/// More connections than descriptors starve neither the renewer nor those who come after.
mod crowd;
/// A provider with a dialect of its own is a few lines of data, and loses no login.
mod dialects;
/// An issuer is all that an account says of its server, and what it says of itself leads no credential astray.
mod discovering;
/// An edited endpoint is never sent the refresh token of another.
mod endpoints;
/// A token endpoint that fails in every way takes no valid token away and loses no login.
mod faults;
/// A key in a real keyring opens the store when that is unlocked, and nobody is prompted.
mod keyring;
/// A kill at any moment of a rotation loses nothing that could have been kept, and a bad disk is said aloud.
mod kills;
/// After hours of standing still the first request is answered well, and an idle daemon sleeps.
mod laptop;
/// It locks by itself where that is said: idle, with the screen, before a sleep.
mod locking;
/// Behind a route to an MCP server a client finds nothing to sign in to, and goes on through all that happens to a login.
mod mcp_routes;
/// A person is told once of what needs them, before the first tool fails.
mod notices;
/// A credential has one owner: a second daemon, a login and a logout during a renewal leave one of them whole.
mod owner;
/// However many ask, and however short tokens live, the authorization server is asked seldom.
mod storms;
/// A sign-in that was given an end ends then, and nothing puts that off.
mod term;
mod ways;

// --- what goes through ---

/// No HTTP/1.1 client can smuggle, inject or escape, and no upstream passes off half as whole.
mod corpus_h1;
/// No HTTP/2 frame can either.
mod corpus_h2;
/// In HTTP/1.1, what a tool and an API say arrives as it was said, and either end may leave.
mod fidelity_h1;
/// In HTTP/2, the same, also where the other side speaks HTTP/1.1.
mod fidelity_h2;
/// Through a company's proxy everything works as without, and it learns where to and nothing else.
mod forward_proxies;
/// What belongs to a body is never changed and never a request.
mod framing;
mod handing_in;
/// What one hop says in its own terms is said anew for the next.
mod hops;
/// An API that means no good ends in its route's time, at little memory, and delays no other route.
mod hostile;
/// Only a token that is usable then leaves, and only to where it was meant for.
mod identity;
/// A program that cannot be pointed anywhere is served at the hosts that it insists on, and nobody else is.
mod intercepting;
/// An isolated command gets through its wall to the routes, and to nothing else.
mod isolating;
/// A token that a program prints, or a file holds, is as good as one of a server, and ends as it says.
mod issued;
/// What the daemon lends to a command, and how that ends.
mod lending;
/// What an API says leads no browser and no client to another account's route.
mod origins;
/// No answer shows a secret, every link leads home, and the upstream is told of itself.
mod references;
/// Authority ends with what gave it: a revoked or expired key, an ended command, a logout cut what still runs by them.
mod revoked;
/// What a rule denies is denied in every spelling that some server would understand.
mod rules;
/// An upstream connection that is dead without a word costs one request a while, and the next ones nothing.
mod silence;

/// A program that speaks MCP over standard input and output has a lasting session with a server behind a route.
mod bridging;

// --- who may call, and from where ---

/// What `valetd exec` hands down can do no more than its key, and ends with the command.
mod exec;
/// Signals of a command that exec stays beside.
mod exec_signals;
/// A certificate authority of one's own is believed where it was named, and a bad file of one stops nobody else.
mod extra_ca;
/// A client key gives exactly its rights, in each of its forms, for its time.
mod keys;
/// Nothing is served beside a stranger's half of an address.
mod listeners;
/// On machines with odd names, long paths, no IPv6 and others' sockets, nothing breaks and nothing is told to strangers.
mod machine;
/// At a command's own address exist the routes that it named, as long as it runs.
mod own_address;
/// Another user is refused until they are named or have a key, and so is root.
mod peers;
/// Another user who means harm takes none of the owner's places, memory or answers.
mod strangers;

// --- living with it ---

/// Every request is a line of the audit, without a secret.
mod audit;
/// No secret is found in anything that can be seen.
mod canary;
/// A configuration that others can change is refused.
mod ownership;
/// What the daemon has given up is in force, and surprises nobody.
mod sandbox;
/// Sealed credentials are of no use without their key, and no crash and no missing key loses one.
mod sealing;
/// What is secret of registered clients is sealed, and nobody registers another while the key is away.
mod sealing_registrations;
/// Events, logs, doctor, exec and a service manager are told how it stands.
mod service;
