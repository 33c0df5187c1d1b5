//! The VM lab: boots virtual machines with a kernel that has ublk.
