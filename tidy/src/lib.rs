//! Checks of the source tree itself: limits, crate directions, module docs.
