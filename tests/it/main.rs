//! Stories a user could tell, on the built daemon with stand-ins of both providers on loopback.

#![allow(unreachable_pub)] // a test program has no outside
#![allow(clippy::disallowed_methods)] // a story sets its stage

mod architecture;
mod audit;
mod canary;
mod clocks;
mod corpus_h1;
mod corpus_h2;
mod crowd;
mod endpoints;
mod exec;
mod extra_ca;
mod faults;
mod fidelity;
mod framing;
mod hostile;
mod identity;
mod journeys;
mod keys;
mod kills;
mod lab;
mod laptop;
mod listeners;
mod machine;
mod notices;
mod origins;
mod owner;
mod ownership;
mod peers;
mod providers;
mod readme;
mod rules;
mod sandbox;
mod service;
mod signing_in;
mod storms;
mod strangers;
mod support;
