//! lunar, the admin command line.
