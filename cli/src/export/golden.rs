//! Golden fixtures of the formats: bytes that this version writes, as text, so that a change is
//! seen. `LUNAR_BLESS=1` writes them anew, which is right only together with a new version.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

const LINE_BYTES: usize = 16;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/export/golden").join(name)
}

/// Offset and bytes of every line that is not all zeros, and the length.
fn render(bytes: &[u8]) -> String {
    let mut text = format!("length {}\n", bytes.len());
    for (line, chunk) in bytes.chunks(LINE_BYTES).enumerate() {
        if chunk.iter().any(|byte| *byte != 0) {
            write!(text, "{:06x}", line * LINE_BYTES).expect("a string takes it");
            for byte in chunk {
                write!(text, " {byte:02x}").expect("a string takes it");
            }
            text.push('\n');
        }
    }
    text
}

/// The bytes of a fixture.
pub(super) fn load(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(path(name)).expect("the fixture is in the tree");
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.strip_prefix("length ")).expect("a length");
    let mut bytes = vec![0; length.parse().expect("a number")];
    for line in lines {
        let (offset, rest) = line.split_once(' ').expect("offset and bytes");
        let offset = usize::from_str_radix(offset, 16).expect("hexadecimal");
        for (n, byte) in rest.split(' ').enumerate() {
            bytes[offset + n] = u8::from_str_radix(byte, 16).expect("hexadecimal");
        }
    }
    bytes
}

/// Holds what this version writes against the fixture.
pub(super) fn assert_golden(name: &str, bytes: &[u8]) {
    if env::var_os("LUNAR_BLESS").is_some() {
        fs::write(path(name), render(bytes)).expect("the fixture can be written");
    }
    assert_eq!(render(bytes), render(&load(name)), "{name}: the format changed");
}
