//! The gRPC protocol: generated code and conversions between wire and domain types.
//!
//! - [`v1`]: what `tonic` generates from `proto/lunar/v1/*.proto`;
//! - [`domain`]: the same requests and answers in the units of `lunar-types`, for everybody else;
//! - [`wire`]: the checked conversions between the two;
//! - [`csi`]: the Container Storage Interface, from `proto/csi/v1/csi.proto`;
//! - [`error`]: reasons, their gRPC codes and their facts;
//! - [`roles`]: who may call what; [`cert_name`]: how a certificate says who its holder is.
//!
//! Invariant: a value of [`domain`] that came from the wire has every field checked.
//! Deliberately absent: any I/O, any policy of retries (`metadata-client`), any state.

pub mod cert_name;
pub mod domain;
pub mod error;
pub mod roles;
pub mod wire;

/// Generated messages, clients and servers of the package `lunar.v1`.
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("lunar.v1");
}

/// Generated messages, clients and servers of the Container Storage Interface.
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod csi {
    tonic::include_proto!("csi.v1");
    include!(concat!(env!("OUT_DIR"), "/csi_debug.rs"));
}
