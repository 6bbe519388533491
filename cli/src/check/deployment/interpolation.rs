//! What a text of a Compose file is with its variables put in.
//!
//! The non-obvious rule: nobody gives `check` the environment, so each variable counts as one that is not set. Then the file's own
//! default counts, or nothing.

use std::borrow::Cow;

/// What an open brace began.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brace {
    /// `${NAME:-`: the default is written.
    Default,
    /// `${NAME}`, or one with another operator: nothing is written.
    Nothing,
    /// A brace of the text itself.
    Text,
}

/// The text, with the default of each variable (`${NAME:-default}`) in its place. A default may have variables of its own.
pub fn with_defaults(text: &str) -> Cow<'_, str> {
    if !text.contains('$') {
        return Cow::Borrowed(text);
    }
    let mut whole = String::new();
    let mut open = Vec::new();
    // How many of the open braces write nothing.
    let mut hidden = 0_usize;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("${") {
            let operator = after.trim_start_matches(is_of_name);
            let default = operator
                .strip_prefix(":-")
                .or_else(|| operator.strip_prefix('-'));
            let brace = default.map_or(Brace::Nothing, |_| Brace::Default);
            hidden += usize::from(brace == Brace::Nothing);
            open.push(brace);
            rest = default.unwrap_or(operator);
            continue;
        }
        let literal = rest.strip_prefix("$$");
        if let (None, Some(after)) = (literal, rest.strip_prefix('$')) {
            rest = after.trim_start_matches(is_of_name);
            continue;
        }
        rest = literal.unwrap_or_else(|| rest.get(first.len_utf8()..).unwrap_or_default());
        let closed = match first {
            '{' if !open.is_empty() => {
                open.push(Brace::Text);
                None
            }
            '}' => open.pop(),
            _ => None,
        };
        hidden -= usize::from(closed == Some(Brace::Nothing));
        if hidden == 0 && matches!(closed, None | Some(Brace::Text)) {
            whole.push(first);
        }
    }
    Cow::Owned(whole)
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
            ("${BIND:?not set}${BIND:+${SET:-set}}", ""),
            ("{${FORM:-{a}}}", "{{a}}"),
            ("$${BIND:-a}", "${BIND:-a}"),
            ("${BIND", ""),
            ("$", ""),
        ] {
            assert_eq!(with_defaults(text), expected, "{text}");
        }
    }

    /// Neither the stack nor the time grows with what a text opens and does not end.
    #[test]
    fn a_long_text_is_read_once() {
        for part in ["${A:-", "${A", "${A:-{", "$A", "${A:-a}"] {
            let read = with_defaults(&part.repeat(200_000)).len();
            assert!(read <= 200_000, "{part}: {read}");
        }
    }
}
