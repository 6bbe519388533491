//! Media types, as `content-type` has them (RFC 9110, section 8.3.1).

/// Returns the type without its parameters, which begin at the first `;`. White space stays.
pub fn without_parameters(content_type: &[u8]) -> &[u8] {
    let mut parts = content_type.split(|&byte| byte == b';');
    parts.next().unwrap_or_default()
}

/// Returns whether a `content-type` is of this type, whatever its parameters and case.
pub fn is_of_type(content_type: &[u8], wanted: &str) -> bool {
    let found = without_parameters(content_type).trim_ascii();
    found.eq_ignore_ascii_case(wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_case_and_space_do_not_count() {
        for json in [
            "application/json",
            "Application/JSON",
            " application/json ;charset=utf-8",
            "application/json;;",
        ] {
            assert!(is_of_type(json.as_bytes(), "application/json"), "{json}");
        }
        for other in [
            "",
            ";application/json",
            "application/jsonp",
            "application /json",
        ] {
            assert!(!is_of_type(other.as_bytes(), "application/json"), "{other}");
        }
    }
}
