//! The protocol of `docs/fencing.md`, as a state machine that is searched wholly: three nodes, two
//! LUNs, one volume. It was there before the code, and says what the code has to do.
//!
//! Whoever may be paused needs no word for it: every step may come at any later time. Clocks do not
//! occur either; the wait D of a fencer that finds a key gone is taken to be long enough.

mod protocol;
mod world;

pub use protocol::{Fault, Protocol, Step};
pub use world::{LUNS, Life, NODES, Registration, World};
