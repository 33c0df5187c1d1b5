//! The metadata service: the only authority over extent maps and epochs.
