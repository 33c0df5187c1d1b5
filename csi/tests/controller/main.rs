//! `csi-driver controller` as it is installed, over its Unix socket, against the real metadata
//! service on a store in memory. Nodes are played: they join, attach, vote and detach over the
//! service's own calls.

#![allow(unreachable_pub, reason = "a test is a program of its own")]

mod calls;
mod changed_blocks;
mod clones;
mod crashes;
mod deletions;
mod groups;
mod hostile;
mod lists;
mod node;
mod publications;
mod races;
mod snapshots;
mod tls;
mod volumes;
mod world;
