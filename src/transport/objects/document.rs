//! What an answer in XML is, told from its beginning, and the words in it that may be repeated.

/// What a document is, by its outermost element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// More bytes are needed to tell.
    Unfinished,
    /// What a service for objects answers: `ListBucketResult` and its like.
    Result,
    /// A failure.
    Error,
    /// Something else, a web page as a rule.
    Other,
}

/// The outermost element of a document of which this is the beginning.
pub(super) fn root(bytes: &[u8]) -> Root {
    let mut rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    loop {
        rest = rest.trim_ascii_start();
        let end: &[u8] = match rest {
            [] | b"<" | b"<!" | b"<!-" => return Root::Unfinished,
            [b'<', b'?', ..] => b"?>",
            [b'<', b'!', b'-', b'-', ..] => b"-->",
            [b'<', name @ ..] => return named(name),
            _ => return Root::Other,
        };
        match rest.windows(end.len()).position(|window| window == end) {
            None => return Root::Unfinished,
            Some(at) => rest = &rest[at + end.len()..],
        }
    }
}

/// By a name at the beginning, which may have a prefix.
fn named(text: &[u8]) -> Root {
    let Some(end) = text.iter().position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/')) else {
        return Root::Unfinished;
    };
    let name = text[..end].rsplit(|byte| *byte == b':').next().unwrap_or_default();
    match name {
        b"Error" => Root::Error,
        name if name.ends_with(b"Result") => Root::Result,
        _ => Root::Other,
    }
}

/// The text of an element in a store's answer, if it looks like a code or a region. Anything else could be anything.
pub(super) fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (text.len() <= 64 && text.chars().all(plain)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_words_are_taken_from_an_answer() {
        assert_eq!(element("<Code>AccessDenied</Code>", "Code"), Some("AccessDenied"));
        assert_eq!(element("<Code>a b\nc</Code>", "Code"), None);
        assert_eq!(element("<Code>", "Code"), None);
    }

    #[test]
    fn documents_are_told_apart_by_their_outermost_element() {
        for (text, expected) in [
            ("<ListBucketResult><Key>Error</Key>", Root::Result),
            ("<?xml version=\"1.0\"?>\n<!-- <html> -->\n<ListBucketResult xmlns=\"x\">", Root::Result),
            ("\u{feff} <s3:CompleteMultipartUploadResult/>", Root::Result),
            ("\n\n<Error><Code>x</Code>", Root::Error),
            ("<?xml version='1.0'?><Error>", Root::Error),
            ("<html>ListBucketResult</html>", Root::Other),
            ("<!DOCTYPE html><html>", Root::Other),
            ("{\"kind\": 1}", Root::Other),
            ("<?xml", Root::Unfinished),
            ("<ListBucket", Root::Unfinished),
            ("", Root::Unfinished),
        ] {
            assert_eq!(root(text.as_bytes()), expected, "{text}");
        }
    }
}
