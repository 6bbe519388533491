//! What a text of a Compose file is with its variables put in.
//!
//! The non-obvious rule: nobody gives `check` the environment, so each variable counts as one that is not set. Then the file's own
//! default counts, or nothing.

use std::borrow::Cow;

/// The text, with the default of each variable (`${NAME:-default}`) in its place.
pub fn with_defaults(text: &str) -> Cow<'_, str> {
    if !text.contains('$') {
        return Cow::Borrowed(text);
    }
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            whole.push('$');
            after
        } else if let Some((inner, after)) = after.strip_prefix('{').and_then(braced) {
            whole.push_str(&with_defaults(default_of(inner)));
            after
        } else {
            after.trim_start_matches(is_of_name)
        };
    }
    whole.push_str(rest);
    Cow::Owned(whole)
}

/// What stands before the brace that ends this, and what stands behind it. A default may have variables of its own.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    })?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

/// The default in `NAME:-default`.
fn default_of(inner: &str) -> &str {
    let operator = inner.trim_start_matches(is_of_name);
    let default = operator
        .strip_prefix(":-")
        .or_else(|| operator.strip_prefix('-'));
    default.unwrap_or_default()
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_its_default_or_nothing() {
        for (text, expected) in [
            ("127.0.0.1:1:1", "127.0.0.1:1:1"),
            ("${BIND:-127.0.0.1}:1:1", "127.0.0.1:1:1"),
            ("${BIND-127.0.0.1}:${PORT:-1}:1", "127.0.0.1:1:1"),
            ("${BIND:-${ADDRESS:-::1}}", "::1"),
            ("${BIND}:1:$PORT/tcp", ":1:/tcp"),
            ("${BIND:?not set}${BIND:+set}", ""),
            ("$${BIND:-a}", "${BIND:-a}"),
            ("${BIND", "{BIND"),
            ("$", ""),
        ] {
            assert_eq!(with_defaults(text), expected, "{text}");
        }
    }
}
