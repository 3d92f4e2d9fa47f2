//! One loop a process: drives the accounts' machines, performs their actions, holds the secrets.
//!
//! * `machines` decides what is done and in which order, for all accounts; nothing in it waits.
//! * `account` is one of them: its machine and its credential.
//! * `trials` tries what is handed in before it takes the place of what works.
//! * `world` is their way out; `store_thread` is where the store's part of it is done.
//! * `driver` is the loop, and the world of the daemon. The simulation has another one, with faults.

mod account;
mod driver;
#[cfg(test)]
mod driver_tests;
mod machines;
#[cfg(test)]
mod simulation;
mod store_thread;
#[cfg(test)]
mod tests;
mod trials;
mod world;

pub(crate) use driver::{RenewerCommand, RenewerLoop, RenewerParts, Sources};
