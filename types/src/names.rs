//! Names that people give to pools, volumes, snapshots and nodes.

use std::fmt;
use std::str::FromStr;

/// A name: 1 to 128 bytes of `A–Z a–z 0–9 . _ -`, starting with a letter or a digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

/// A text that cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("the name is empty: give 1 to 128 characters")]
    Empty,
    /// More than 128 bytes.
    #[error("the name '{start}…' has {length} bytes: the limit is 128")]
    TooLong {
        /// The first characters, to find it by.
        start: String,
        /// Its length in bytes.
        length: usize,
    },
    /// A character outside of the alphabet.
    #[error(
        "the name {text:?} has the character {character:?}: use letters, digits, '.', '_', '-', \
         and start with a letter or a digit"
    )]
    Character {
        /// The whole text.
        text: String,
        /// What does not belong.
        character: char,
    },
}

impl Name {
    /// The most bytes of a name, which CSI's 128-byte names fit.
    pub const BYTES_MAX: usize = 128;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = text.chars().next().ok_or(NameError::Empty)?;
        if text.len() > Self::BYTES_MAX {
            let start = text.chars().take(32).collect();
            return Err(NameError::TooLong { start, length: text.len() });
        }
        let inside = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let odd = Some(first)
            .filter(|c| !c.is_ascii_alphanumeric())
            .or_else(|| text.chars().find(|c| !inside(c)));
        match odd {
            Some(character) => Err(NameError::Character { text: text.to_owned(), character }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_refused_with_what_is_odd() {
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        assert!(matches!(
            "x".repeat(129).parse::<Name>(),
            Err(NameError::TooLong { length: 129, .. })
        ));
        for (text, odd) in [("-a", '-'), ("a/b", '/'), ("a b", ' '), ("é", 'é'), ("a\0", '\0')] {
            let character = odd;
            let text = text.to_owned();
            assert_eq!(text.parse::<Name>(), Err(NameError::Character { text, character }));
        }
    }

    #[test]
    fn names_up_to_the_limit_are_taken() {
        for text in ["a", "pvc-6fa1c2d4", "0.x_y-z", &"n".repeat(128)] {
            assert_eq!(text.parse::<Name>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
    }
}
