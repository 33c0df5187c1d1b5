//! Tests of the metadata service through its library, on the store in memory.

#![allow(missing_docs, unreachable_pub, reason = "test names are claims")]

mod attachments;
mod background;
mod chains;
mod commits;
mod contents;
mod damage;
mod deletion;
mod diffs;
mod fencing;
mod golden;
mod groups;
mod grow;
mod grpc;
mod horizon;
mod idempotency;
mod layer_model;
mod layers;
mod merge;
mod merge_races;
mod model;
mod nodes;
mod peers;
mod pools;
mod prune;
mod publications;
mod races;
mod repair;
mod restore;
mod seals;
mod sessions;
mod set_deadlines;
mod sets;
mod snapshots;
mod steady;
mod store_fixture;
mod stores;
mod volumes;
mod watermarks;
mod world;
