//! The sans-I/O volume engine: map, journal, labels.
