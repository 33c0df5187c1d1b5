//! Units, ids, epochs and geometry: plain values, no I/O.
