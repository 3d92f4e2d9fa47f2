//! Stories a user could tell, on the built daemon with stand-ins of both providers on loopback.

#![allow(unreachable_pub)] // a test program has no outside

mod canary;
mod faults;
mod journeys;
mod kills;
mod lab;
mod laptop;
mod notices;
mod owner;
mod providers;
mod readme;
mod storms;
mod support;
