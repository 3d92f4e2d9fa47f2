//! Credentials sealed at rest: the keys, what a sealed file says, and the ring that holds the keys wrapped. Random
//! bytes and times are arguments; but for the memory that keys lie in, it is pure.
//!
//! A record's content is encrypted (AES-256-GCM-SIV) under the ring's active key. What the ciphertext is bound to says
//! whose it is, which generation, and under which key: a file that was renamed, renumbered, cut or taken from another ring
//! does not open.
//!
//! So is what is secret of a registered client, bound to what is public of it, which stands beside it in the clear.
//!
//! A key lies in the ring, wrapped under what a source gives (a file, a command, a person's passphrase): one slot for each
//! way to it, and each slot alone is enough.

mod client;
mod envelope;
mod generations;
mod key;
mod ring;

pub(super) use client::SealedClient;
pub(super) use envelope::{Envelope, Rejected, VERSION, key_named_in};
pub(super) use generations::{Generations, SealedGenerations};
pub(super) use key::{Key, KeyId, NONCE_LENGTH};
pub(super) use ring::{Ring, RingKey, SLOT_RANDOM, Slot, Stretch, Unreadable};
