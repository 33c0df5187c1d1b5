//! The gRPC protocol: generated code and conversions between wire and domain types.
