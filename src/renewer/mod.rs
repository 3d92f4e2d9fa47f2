//! One loop a process: drives the accounts' machines, performs their actions, holds the secrets.
//!
//! * `machines` decides what is done and in which order, for all accounts; nothing in it waits.
//! * `account` is one of them: its machine and its credential.
//! * `trials` tries what is handed in before it takes the place of what works.
//! * `world` is their way out.
//! * `driver` is the loop, and the world of the daemon. The simulation has another one, with faults.

mod account;
mod driver;
mod machines;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod trials;
mod world;

pub(crate) use driver::{RenewerCommand, RenewerLoop, RenewerParts, Sources};
