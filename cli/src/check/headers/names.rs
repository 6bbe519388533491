//! Names of headers in texts.

/// The header that a text names, unless a program takes the header out there.
pub fn named<'h>(text: &str, headers: &'h [String]) -> Option<&'h str> {
    let text = text.to_ascii_lowercase();
    let names = |header: &&String| {
        text.match_indices(header.as_str()).any(|(start, _)| {
            let before = text.get(..start).unwrap_or_default();
            let after = text.get(start + header.len()..).unwrap_or_default();
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
            let quoted = before.trim_end_matches(['"', '\'']);
            !before.ends_with(is_part)
                && !after.starts_with(is_part)
                && !quoted.ends_with("remove(")
        })
    };
    headers.iter().find(names).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_named_as_a_word_of_its_own() {
        let headers = ["x-matrix-user-id".to_owned()];
        for (text, expected) in [
            ("X-Matrix-User-Id", true),
            ("%REQ(x-matrix-user-id)%", true),
            ("handle:headers():get(\"x-matrix-user-id\")", true),
            ("request.headers[x-matrix-user-id]", true),
            ("handle:headers():remove(\"x-matrix-user-id\")", false),
            ("x-matrix-user-id-hash", false),
            ("not-x-matrix-user-id", false),
            ("x-matrix", false),
        ] {
            assert_eq!(named(text, &headers).is_some(), expected, "{text}");
        }
    }
}
