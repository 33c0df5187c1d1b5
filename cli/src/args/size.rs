//! Sizes on the command line: written like 10GiB, checked for what they are the size of.

use lunar_types::{ByteCount, ExtentSize, LogicalBlockSize, VolumeSize};

fn parse_bytes(text: &str) -> Result<u64, String> {
    text.parse::<ByteCount>().map(ByteCount::get).map_err(|error| error.to_string())
}

pub(super) fn parse_volume_size(text: &str) -> Result<VolumeSize, String> {
    VolumeSize::from_bytes(parse_bytes(text)?).map_err(|error| error.to_string())
}

pub(super) fn parse_extent_size(text: &str) -> Result<ExtentSize, String> {
    ExtentSize::from_bytes(parse_bytes(text)?).map_err(|error| error.to_string())
}

pub(super) fn parse_logical_block_size(text: &str) -> Result<LogicalBlockSize, String> {
    LogicalBlockSize::from_bytes(parse_bytes(text)?).map_err(|error| error.to_string())
}
