//! Typed client of the metadata service.
