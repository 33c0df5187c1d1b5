//! A deterministic world that runs engine and metadata over modelled disks.
