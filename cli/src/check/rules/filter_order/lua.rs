//! Whether a script in Lua reads a header.
//!
//! The non-obvious rule: a script that names a header may only take it out or write it, and then nothing is decided by it. It does
//! so if each header that it reads is named where it reads it. A name in a comment is none.

use super::named;

/// Names by which a script reads headers that it need not name there, or runs what stands elsewhere.
const UNSEEN: [&str; 6] = [
    "dofile",
    "load",
    "loadfile",
    "loadstring",
    "pairs",
    "require",
];

/// The header that a script reads, or may read.
pub(super) fn read<'h>(script: &str, headers: &'h [String]) -> Option<&'h str> {
    let tokens = tokens(script);
    let mut is_unclear = false;
    for (index, token) in tokens.iter().enumerate() {
        let word = match token {
            Token::Name(name) => *name,
            // `headers["get"]`
            Token::Text(text) if is_read(text) => {
                is_unclear = true;
                continue;
            }
            _ => continue,
        };
        if UNSEEN.contains(&word) {
            is_unclear = true;
        } else if is_read(word) {
            match argument(tokens.get(index + 1..).unwrap_or_default()) {
                Some(text) => {
                    if let Some(header) = named(text, headers) {
                        return Some(header);
                    }
                }
                None => is_unclear = true,
            }
        }
    }
    let texts = tokens.iter().enumerate().filter_map(|(index, token)| {
        let text = match token {
            Token::Text(text) => *text,
            _ => return None,
        };
        let before = tokens.get(..index).unwrap_or_default();
        let is_removed = matches!(
            before,
            [.., Token::Name("remove")] | [.., Token::Name("remove"), Token::Sign('(')]
        );
        (!is_removed).then_some(text)
    });
    let mut texts = texts.filter(|_| is_unclear);
    texts.find_map(|text| named(text, headers))
}

/// Whether a name is one of the functions that read a header: `get`, `getAtIndex`, `getNumValues`.
fn is_read(name: &str) -> bool {
    name.starts_with("get") && name.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The text that a call has as its whole first argument.
fn argument<'s>(tokens: &[Token<'s>]) -> Option<&'s str> {
    match tokens {
        [Token::Text(text), ..]
        | [
            Token::Sign('('),
            Token::Text(text),
            Token::Sign(',' | ')'),
            ..,
        ] => Some(text),
        _ => None,
    }
}

/// A part of a script.
enum Token<'s> {
    Name(&'s str),
    /// What stands in quotes, or in long brackets.
    Text(&'s str),
    Sign(char),
}

/// The parts of a script, without its comments.
fn tokens(script: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = script;
    while let Some(first) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = match long(comment) {
                Some((_, behind)) => behind,
                None => comment.split_once('\n').map_or("", |(_, behind)| behind),
            };
        } else if let Some((text, behind)) = long(rest).or_else(|| quoted(rest, first)) {
            found.push(Token::Text(text));
            rest = behind;
        } else if is_of_name(first) {
            let (name, behind) = split(rest, rest.find(|c| !is_of_name(c)));
            found.push(Token::Name(name));
            rest = behind;
        } else {
            if !first.is_whitespace() {
                found.push(Token::Sign(first));
            }
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
    }
    found
}

const fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A text before and from a place, or the whole.
fn split(text: &str, place: Option<usize>) -> (&str, &str) {
    place.map_or((text, ""), |place| text.split_at(place))
}

/// What long brackets at the beginning hold, as in `[[..]]` and `[=[..]=]`, and what is behind them.
fn long(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('[')?;
    let (level, _) = split(inner, inner.find(|c| c != '='));
    let inner = inner.strip_prefix(level)?.strip_prefix('[')?;
    let end = format!("]{level}]");
    Some(inner.split_once(&end).unwrap_or((inner, "")))
}

/// What quotes at the beginning hold, and what is behind them.
fn quoted(text: &str, quote: char) -> Option<(&str, &str)> {
    let inner = text.strip_prefix(['"', '\''])?;
    let mut is_escaped = false;
    let end = inner.find(|c| {
        let is_end = c == quote && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    let (text, behind) = split(inner, end);
    Some((text, behind.strip_prefix(quote).unwrap_or_default()))
}
