//! Texts of others in messages of ours: as long as a message can bear, and nothing that hides or
//! breaks what is around it.

/// The most of a text that came with a call.
const QUOTED_CHARS: usize = 200;
/// The most of what a tool has said.
const SAID_CHARS: usize = 1_000;

/// A text that came with a call, in quotes.
#[must_use]
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
    }
}

/// The end of what a tool has said, in one line.
#[must_use]
pub fn said(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    let skipped = line.chars().count().saturating_sub(SAID_CHARS);
    line.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters_and_say_so() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        let long = quoted(&"é".repeat(100_000));
        assert!(long.chars().count() < 250 && long.ends_with("(200000 bytes)"), "{long}");
    }

    #[test]
    fn what_a_tool_says_last_is_kept_in_one_line() {
        assert_eq!(said(b"a\n  b\tc \xff\n"), "a b c \u{fffd}");
        let long = said(format!("{} end", "x".repeat(5_000)).as_bytes());
        assert!(long.len() == SAID_CHARS && long.ends_with("end"), "{long}");
    }
}
