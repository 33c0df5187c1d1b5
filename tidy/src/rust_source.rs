//! What the checks need to know of Rust source: functions, test items, `unsafe`, macro calls.
//!
//! The text is read as tokens, not as syntax, so that the bodies of macros are seen too and
//! comments and strings are not mistaken for code.

use proc_macro2::{Delimiter, Group, Spacing, Span, TokenStream, TokenTree};

/// The first and the last line of something, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineSpan {
    /// Where it begins.
    pub first: usize,
    /// Where it ends.
    pub last: usize,
}

impl LineSpan {
    /// How many lines it has.
    #[must_use]
    pub fn count(self) -> usize {
        self.last + 1 - self.first
    }
}

/// A function with a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// From `fn` to the closing brace.
    pub span: LineSpan,
}

/// What follows the word `unsafe`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnsafeKind {
    /// `unsafe { … }` or `unsafe impl`: needs a `SAFETY:` sentence.
    Claim,
    /// `unsafe fn`, an unsafe attribute or an unsafe trait: passes the duty on.
    Duty,
}

/// A use of `unsafe`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnsafeUse {
    /// Its line.
    pub line: usize,
    /// What it is.
    pub kind: UnsafeKind,
}

/// What one file of Rust contains.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RustSource {
    /// Every function with a body, nested ones and those in macros too.
    pub functions: Vec<Function>,
    /// Items under `#[cfg(test)]`, each with its attribute.
    pub test_items: Vec<LineSpan>,
    /// Every use of `unsafe`.
    pub unsafe_uses: Vec<UnsafeUse>,
    /// Every macro call: line and name.
    pub macro_calls: Vec<(usize, String)>,
}

impl RustSource {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is no Rust.
    pub fn parse(text: &str) -> Result<Self, String> {
        let stream: TokenStream =
            text.parse().map_err(|error| format!("cannot be read as Rust: {error}"))?;
        let mut source = Self::default();
        source.scan(stream);
        Ok(source)
    }

    fn scan(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        for index in 0..tokens.len() {
            let rest = &tokens[index..];
            match &rest[0] {
                TokenTree::Ident(word) => self.scan_word(&word.to_string(), rest),
                TokenTree::Punct(mark) if mark.as_char() == '#' => self.scan_attribute(rest),
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn scan_word(&mut self, word: &str, rest: &[TokenTree]) {
        let line = line_of(rest[0].span());
        match (word, rest.get(1)) {
            ("fn", Some(TokenTree::Ident(name))) => {
                let body = body_of(&rest[2..]);
                let span = body.map(|body| LineSpan { first: line, last: last_line(body) });
                let function = span.map(|span| Function { name: name.to_string(), span });
                self.functions.extend(function);
            }
            ("unsafe", Some(next)) => {
                self.unsafe_uses.push(UnsafeUse { line, kind: kind_of_unsafe(next) });
            }
            (_, Some(TokenTree::Punct(mark)))
                if mark.as_char() == '!' && mark.spacing() == Spacing::Alone =>
            {
                self.macro_calls.push((line, word.to_owned()));
            }
            _ => {}
        }
    }

    fn scan_attribute(&mut self, rest: &[TokenTree]) {
        let Some(TokenTree::Group(attribute)) = rest.get(1) else { return };
        if attribute.stream().to_string().replace(' ', "") != "cfg(test)" {
            return;
        }
        let first = line_of(rest[0].span());
        if let Some(body) = body_of(&rest[2..]) {
            self.test_items.push(LineSpan { first, last: last_line(body) });
        }
    }
}

/// The first braces before a semicolon.
fn body_of(rest: &[TokenTree]) -> Option<&Group> {
    for token in rest {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return Some(group),
            TokenTree::Punct(mark) if mark.as_char() == ';' => return None,
            _ => {}
        }
    }
    None
}

fn kind_of_unsafe(next: &TokenTree) -> UnsafeKind {
    match next {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => UnsafeKind::Claim,
        TokenTree::Ident(word) if word == "impl" => UnsafeKind::Claim,
        _ => UnsafeKind::Duty,
    }
}

fn line_of(span: Span) -> usize {
    span.start().line
}

fn last_line(group: &Group) -> usize {
    group.span_close().end().line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RustSource {
        RustSource::parse(text).expect("is Rust")
    }

    #[test]
    fn functions_are_found_with_their_lines() {
        let source = parse("trait T {\n fn a();\n}\nfn b() -> u8 {\n  fn c() {}\n  1\n}\n");
        let found: Vec<_> =
            source.functions.iter().map(|f| (f.name.as_str(), f.span.first, f.span.last)).collect();
        assert_eq!(found, [("b", 4, 7), ("c", 5, 5)]);
    }

    #[test]
    fn functions_inside_macros_are_found() {
        let source = parse("macro_rules! m { () => { fn hidden() {\n\n} } }");
        assert_eq!(source.functions[0].name, "hidden");
        assert_eq!(source.functions[0].span.count(), 3);
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let source = parse("// unsafe { }\nconst A: &str = \"fn x() { unsafe {} dbg!(1) }\";\n");
        assert_eq!(source, RustSource::default());
    }

    #[test]
    fn unsafe_is_told_apart() {
        let source =
            parse("unsafe fn f() {}\nunsafe impl Send for A {}\nfn g() { unsafe { f() } }");
        let kinds: Vec<_> = source.unsafe_uses.iter().map(|used| used.kind).collect();
        assert_eq!(kinds, [UnsafeKind::Duty, UnsafeKind::Claim, UnsafeKind::Claim]);
    }

    #[test]
    fn test_items_and_macro_calls_are_found() {
        let source = parse("fn a() { dbg!(1); if b != c {} }\n#[cfg(test)]\nmod tests {\n}\n");
        assert_eq!(source.test_items, [LineSpan { first: 2, last: 4 }]);
        assert_eq!(source.macro_calls, [(1, "dbg".to_owned())]);
    }
}
