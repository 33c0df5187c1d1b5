//! `lunar`, the admin command line.
//!
//! - [`args`]: what can be asked for; typed, no behaviour.
//! - [`commands`]: what is done, over [`service`] (the metadata service) and [`daemon`] (fs-core of
//!   this node).
//! - [`views`] and [`output`]: what is shown, as tables for people or JSON for programs.
//! - [`file_system`]: what is mounted from a device, and what makes it larger.
//! - [`export`]: the formats that snapshots are exported in; [`block_device`]: where the bytes of
//!   volumes are.
//! - [`doctor`]: what a host needs; [`explain`]: why a volume or node is where it is; [`pki`]: the
//!   folder of an authority.
//!
//! Invariants: nothing is written to the standard output but the result; what goes wrong is one
//! error with one exit code; nothing is decided here that a service decides.
//! Deliberately absent: any knowledge of the engine, of ublk and of the metadata store.

pub mod args;
pub mod block_device;
pub mod commands;
pub mod daemon;
pub mod doctor;
pub mod error;
pub mod explain;
pub mod export;
pub mod file_system;
pub mod kubernetes;
pub mod output;
pub mod pki;
pub mod progress;
pub mod service;
pub mod views;
