//! Stories a user could tell, on the built daemon with stand-ins of both providers on loopback.

#![allow(unreachable_pub)] // a test program has no outside

mod corpus_h1;
mod corpus_h2;
mod fidelity;
mod journeys;
mod providers;
mod readme;
mod support;
