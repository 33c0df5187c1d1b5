//! The metadata service: the only authority over extent maps and epochs.
//!
//! From the outside in: [`server`] speaks gRPC; [`service`] carries out requests in domain types;
//! [`keyspace`] says what keys and values mean; [`store`] keeps them. [`fsck`] checks the whole,
//! [`restore`] makes one from a backup.
//! Time and randomness enter through [`seams`], so that the service runs without gRPC, without
//! an async runtime and repeatably in a simulation.
//!
//! Deliberately absent: LUNs and their content, ublk, Kubernetes. What is on a LUN is the
//! engine's; the service knows a LUN by its id and size.

pub mod config;
pub mod error;
pub mod fsck;
pub mod keyspace;
pub mod restore;
pub mod seams;
pub mod server;
pub mod service;
pub mod store;

pub use lunar_proto::domain;
