//! The crash-state enumeration: every short sequence of operations on a small volume, a crash at
//! every moment of it, and every state that the disks may be left in.
//!
//! - `ops`, `cut`: the operations; `node`, `control`, `attach`: the daemon that carries them out,
//!   on the real engine and the real metadata service;
//! - `medium`, `store`, `record`: disks and store of which copies are cheap, and the moments;
//! - `states`: what a crash leaves; `recover`, `look`: what comes after it;
//! - `model`: what there has to be then; `run`: whole sweeps.
//!
//! Invariant: nothing is drawn by lot and no time passes, so a state is named by its sequence, its
//! moment, the writes that survive and the tear. What is enumerated: `docs/simulator.md`.

mod attach;
mod control;
mod cut;
mod look;
mod medium;
mod model;
mod node;
mod ops;
mod record;
mod recover;
mod run;
mod shape;
mod states;
mod store;

pub use ops::Op;
pub use run::{Failure, Report, Scope, StateName, Sweep, Torn, replay};
