//! The gRPC protocol: generated code and conversions between wire and domain types.

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
