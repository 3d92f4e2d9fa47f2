//! Stories a user could tell, on the built daemon with stand-ins of both providers on loopback.

#![allow(unreachable_pub)] // a test program has no outside

mod journeys;
mod kills;
mod lab;
mod providers;
mod readme;
mod service;
mod support;
