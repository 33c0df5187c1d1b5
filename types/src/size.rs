//! Amounts of bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteCount(u64);

/// A text that is no amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeParseError {
    /// No number in front, or an unknown unit behind it.
    #[error("'{0}' is not a size: write for example 4096, 512KiB, 10GiB, 1.5TiB or 20GB")]
    Malformed(String),
    /// More than 64 bits can count.
    #[error("size '{0}' is beyond 16 EiB")]
    TooLarge(String),
    /// A fraction that is no whole number of bytes.
    #[error("size '{0}' is not a whole number of bytes")]
    Fractional(String),
}

const UNITS: [(&str, u64); 16] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("ki", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mi", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gi", 1 << 30),
    ("gib", 1 << 30),
    ("ti", 1 << 40),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
    ("t", 1 << 40),
    ("p", 1 << 50),
];
const DECIMAL_UNITS: [(&str, u64); 5] = [
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
];

impl ByteCount {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let unit = unit.trim().to_ascii_lowercase();
    UNITS.iter().chain(&DECIMAL_UNITS).find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes)
}

impl FromStr for ByteCount {
    type Err = SizeParseError;

    fn from_str(text: &str) -> Result<Self, SizeParseError> {
        let malformed = || SizeParseError::Malformed(text.to_owned());
        let too_large = || SizeParseError::TooLarge(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = trimmed.split_at(digits.unwrap_or(trimmed.len()));
        let unit = unit_bytes(unit).ok_or_else(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
            return Err(malformed());
        }
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let whole = whole.checked_mul(unit).ok_or_else(too_large)?;
        if fraction.is_empty() {
            return Ok(Self(whole));
        }
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| malformed())?);
        let part = fraction.parse::<u128>().map_err(|_| malformed())? * u128::from(unit);
        if part % scale != 0 {
            return Err(SizeParseError::Fractional(text.to_owned()));
        }
        let part = u64::try_from(part / scale).map_err(|_| too_large())?;
        whole.checked_add(part).map(Self).ok_or_else(too_large)
    }
}

impl fmt::Display for ByteCount {
    /// Binary units; whole where it is whole, else two decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let step = self.0.checked_ilog2().unwrap_or(0) as usize / 10;
        let unit = 1_u64 << (10 * step);
        let text = if self.0.is_multiple_of(unit) {
            format!("{}{}", self.0 / unit, NAMES[step])
        } else {
            format!("{:.2}{}", self.0 as f64 / unit as f64, NAMES[step])
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10GiB", 10 << 30),
            ("10 gib", 10 << 30),
            ("1.5TiB", 3 << 39),
            ("512k", 512 << 10),
            ("20GB", 20_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteCount::new(bytes)), "{text}");
        }
    }

    #[test]
    fn odd_sizes_are_refused() {
        for text in ["", "GiB", "10XiB", "-1", "1e9", ".5G", "1.2.3G"] {
            assert!(
                matches!(text.parse::<ByteCount>(), Err(SizeParseError::Malformed(_))),
                "{text}"
            );
        }
        assert!(matches!("99999PiB".parse::<ByteCount>(), Err(SizeParseError::TooLarge(_))));
        assert!(matches!("0.3B".parse::<ByteCount>(), Err(SizeParseError::Fractional(_))));
    }

    #[test]
    fn sizes_are_shown_in_binary_units() {
        for (bytes, text) in
            [(0, "0B"), (4096, "4KiB"), (10 << 30, "10GiB"), (1536 << 20, "1.50GiB")]
        {
            assert_eq!(ByteCount::new(bytes).to_string(), text);
        }
    }
}
