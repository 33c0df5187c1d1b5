//! The protocol of `docs/migration.md`, as a state machine that is searched wholly: two nodes that
//! are peers of one volume, their daemons and guests, the metadata service, and one block.
//!
//! - `world`: what there is at a moment;
//! - `service`: what the metadata service answers, and what it stores with it;
//! - `daemon`: what a node does by itself, and what its successor does after a kill;
//! - `protocol`: everything that may happen, failures and users included;
//! - `promises`: M1 to M6 of `docs/migration.md`.
//!
//! Every step may come at any later time, so neither a pause nor a clock needs a word. What fencing
//! promises is taken for granted: a fence ends what was under way. Not here: cuts, growth, a
//! poisoned owner, the start of the second device, a fence of a node that lives.

mod daemon;
mod promises;
mod protocol;
mod service;
mod world;

pub use protocol::{Fault, Listener, Protocol, Step};
pub use world::{Budget, World};
