//! fs-core, the node daemon: serves volumes as ublk devices.
