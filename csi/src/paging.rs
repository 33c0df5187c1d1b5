//! Pages of lists: tokens of the metadata service as tokens of CSI.
//!
//! A token is the service's own in hexadecimal digits; whether it belongs to the list that it is
//! given for, the service says. A token that does not is ABORTED: the caller begins anew.

use lunar_metadata_client::{ClientError, ErrorKind, ErrorReason};
use lunar_proto::domain::{PageRequest, PageToken};

use crate::errors::CsiError;

/// The longest token that is looked at, in digits.
const DIGITS_MAX: usize = 512;

fn stale(why: &str) -> CsiError {
    CsiError::aborted(format!("starting_token {why}: list from the beginning again"))
}

/// The token of the next page, as CSI carries it.
#[must_use]
pub fn told(token: Option<&PageToken>) -> String {
    let bytes = token.map_or(&[][..], PageToken::as_bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn given(text: &str) -> Result<Option<PageToken>, CsiError> {
    if text.len() > DIGITS_MAX || !text.len().is_multiple_of(2) {
        return Err(stale("is not of this driver"));
    }
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        let is_hex = pair.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex { u8::from_str_radix(pair, 16).ok() } else { None }
    };
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    Ok(PageToken::from_bytes(bytes.ok_or_else(|| stale("is not of this driver"))?))
}

/// What page is asked for; 0 entries are as many as the service gives at once.
///
/// # Errors
/// A negative number of entries, or a token that is none.
pub fn page_request(max_entries: i32, starting_token: &str) -> Result<PageRequest, CsiError> {
    let limit = usize::try_from(max_entries).map_err(|_| {
        let message = format!("max_entries is {max_entries}: a number of entries is not negative");
        CsiError::invalid(message)
    })?;
    let limit = if limit == 0 { PageRequest::LIMIT_MAX } else { limit.min(PageRequest::LIMIT_MAX) };
    Ok(PageRequest { limit, token: given(starting_token)? })
}

/// The error of a page that the service does not give.
#[must_use]
pub fn page_error(error: ClientError) -> CsiError {
    let field = error.report().and_then(|report| report.facts.get("field"));
    let is_of_token = error.kind() == ErrorKind::Refused(ErrorReason::InvalidField)
        && field.is_some_and(|field| field.starts_with("page"));
    if is_of_token { stale("is not of this list") } else { error.into() }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_told() {
        let token = PageToken::from_bytes(vec![0, 1, 0xab, 0xff]);
        let text = told(token.as_ref());
        assert_eq!(text, "0001abff");
        let request = page_request(7, &text).expect("a token");
        assert_eq!(request, PageRequest { limit: 7, token });
        assert_eq!(told(None), "");
        assert_eq!(page_request(0, "").expect("none").limit, PageRequest::LIMIT_MAX);
        assert_eq!(page_request(i32::MAX, "").expect("none").limit, PageRequest::LIMIT_MAX);
    }

    #[test]
    fn what_is_no_token_is_aborted_and_a_negative_number_is_invalid() {
        for text in ["x", "abc", "0g", "AB", "+1", "ä", "0x01", " 1", "a".repeat(1000).as_str()] {
            let refused = page_request(1, text).expect_err("no token");
            assert_eq!(refused.code, Code::Aborted, "{text}");
        }
        assert_eq!(page_request(-1, "").expect_err("negative").code, Code::InvalidArgument);
    }
}
