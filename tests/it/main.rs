//! Stories a user could tell, on the built daemon with stand-ins of both providers on loopback.

mod kills;
mod lab;
mod support;
