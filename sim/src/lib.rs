//! A deterministic simulation of the product: the real volume engine and the real metadata
//! service over modelled disks, crashed at any step, recovered, and judged by an oracle.
//!
//! - `world`: disks, network, daemon and users, stepped by a seed;
//! - [`disk`]: LUNs with a volatile cache, and what they may do to what was written;
//! - [`oracle`]: what a volume may show;
//! - [`run`]: whole runs, and what a failing one prints;
//! - [`sweep`]: every crash state of short sequences of operations;
//! - [`search`]: every state of the protocols [`fencing`] and [`migration`].
//!
//! Invariant: a seed decides everything. There is no thread, clock or hash order in a run, so the
//! command that a failure prints repeats it. The crash model and what is not modelled:
//! `docs/simulator.md`.

mod audit;
mod backup;
mod calls;
mod chain;
mod consolidate;
mod control;
pub mod counters;
mod crash;
mod cut;
pub mod dice;
mod diffs;
pub mod disk;
pub mod fencing;
mod finale;
pub mod fuse;
mod grow;
pub mod guest;
mod io;
mod journal_faults;
pub mod migration;
mod operator;
pub mod oracle;
pub mod planted;
mod prune;
mod recovery;
pub mod run;
pub mod scenario;
pub mod search;
pub mod seeds;
mod service;
mod snapshots;
pub mod stamp;
pub mod sweep;
pub mod trace;
mod world;
