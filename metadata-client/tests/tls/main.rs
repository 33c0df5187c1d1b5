//! Identity over real connections: who is let in, who may call what, and certificates that change
//! while the service runs.

#![allow(missing_docs, unreachable_pub, reason = "test names are claims")]

mod certificates;
mod nodes;
mod roles;
mod rotation;
mod strangers;
mod world;
