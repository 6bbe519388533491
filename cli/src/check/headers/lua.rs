//! What a script in Lua does with headers of requests: which it reads, and which it writes.
//!
//! The non-obvious rule: a script that names a header may only take it out, tell it in a log or say it in a comment. It reads a
//! header if it names it where it reads, and writes one if it names it where it writes. Where it reads or writes by a variable, each
//! header counts that it names elsewhere. What it does with responses is not looked at.

use std::{collections::HashSet, ops::Range};

use super::names::named;

/// Names by which a script reads headers that it need not name there, or runs what stands elsewhere.
const UNSEEN: [&str; 6] = [
    "dofile",
    "load",
    "loadfile",
    "loadstring",
    "pairs",
    "require",
];

/// Names by which a script writes a header.
const WRITING: [&str; 2] = ["add", "replace"];

/// Names by which a script takes a header out, or tells of something.
const HARMLESS: [&str; 7] = [
    "logCritical",
    "logDebug",
    "logErr",
    "logInfo",
    "logTrace",
    "logWarn",
    "remove",
];

/// The header that a script reads, or may read.
pub fn read<'h>(script: &str, headers: &'h [String]) -> Option<&'h str> {
    let tokens = of_requests(tokens(script));
    let mut is_unclear = false;
    for (index, token) in tokens.iter().enumerate() {
        let word = match token.kind {
            Kind::Name(name) => name,
            // `headers["get"]`
            Kind::Text(text) if is_read(text) => {
                is_unclear = true;
                continue;
            }
            _ => continue,
        };
        if UNSEEN.contains(&word) {
            is_unclear = true;
        } else if is_read(word) {
            match argument(tokens.get(index + 1..).unwrap_or_default()) {
                Some((text, _)) => {
                    if let Some(header) = named(text, headers) {
                        return Some(header);
                    }
                }
                None => is_unclear = true,
            }
        }
    }
    if !is_unclear {
        return None;
    }
    let mut texts = tokens.iter().enumerate().filter_map(|(index, token)| {
        let text = token.text()?;
        (called(&tokens, index) != Some("remove")).then_some(text)
    });
    texts.find_map(|text| named(text, headers))
}

/// Where a script writes headers, or may write them, each time with the header.
pub fn written<'h>(script: &str, headers: &'h [String]) -> Vec<(Range<usize>, &'h str)> {
    let tokens = of_requests(tokens(script));
    let named = |text: &str| {
        let mut all = headers.iter();
        let found = all.find(|header| header.eq_ignore_ascii_case(text));
        found.map(String::as_str)
    };
    let mut found = Vec::new();
    let mut is_unclear = false;
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Name(name) if WRITING.contains(&name) => {
                match argument(tokens.get(index + 1..).unwrap_or_default()) {
                    Some((text, place)) => found.extend(named(text).map(|header| (place, header))),
                    None => is_unclear = true,
                }
            }
            // `headers["replace"]`
            Kind::Text(text) if WRITING.contains(&text) => is_unclear = true,
            _ => {}
        }
    }
    if is_unclear {
        let told: HashSet<usize> = found.iter().map(|(place, _)| place.start).collect();
        let others = tokens.iter().enumerate().filter_map(|(index, token)| {
            let header = named(token.text()?)?;
            let is_harmless = called(&tokens, index)
                .is_some_and(|name| is_read(name) || HARMLESS.contains(&name));
            let is_new = !told.contains(&token.place.start);
            (is_new && !is_harmless).then(|| (token.place.clone(), header))
        });
        found.extend(others);
    }
    found.sort_by_key(|(place, _)| place.start);
    found
}

/// The function whose first argument is the token with this number.
fn called<'s>(tokens: &[Token<'s>], index: usize) -> Option<&'s str> {
    let name = |back: usize| match tokens.get(index.checked_sub(back)?)?.kind {
        Kind::Name(name) => Some(name),
        _ => None,
    };
    let before = tokens.get(index.checked_sub(1)?)?;
    if before.kind == Kind::Sign('(') {
        name(2)
    } else {
        name(1)
    }
}

/// The tokens that are about requests: without the function for responses.
fn of_requests(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    const RESPONSE: Kind<'_> = Kind::Name("envoy_on_response");
    const FUNCTION: Kind<'_> = Kind::Name("function");
    let kind = |index: usize| tokens.get(index).map(|token| token.kind);
    let mut found = Vec::new();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        let is_declared = kind(index) == Some(FUNCTION) && kind(index + 1) == Some(RESPONSE);
        let is_assigned = kind(index) == Some(RESPONSE)
            && kind(index + 1) == Some(Kind::Sign('='))
            && kind(index + 2) == Some(FUNCTION);
        if is_declared || is_assigned {
            let first = if is_declared { index } else { index + 2 };
            index = end_of_block(&tokens, first);
        } else {
            found.push(token.clone());
            index += 1;
        }
    }
    found
}

/// The number of the token behind the block that this one begins.
fn end_of_block(tokens: &[Token<'_>], first: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(first) {
        match token.kind {
            // `for` and `while` have a `do`.
            Kind::Name("do" | "function" | "if" | "repeat") => depth += 1,
            Kind::Name("end" | "until") => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// Whether a name is one of the functions that read a header: `get`, `getAtIndex`, `getNumValues`.
fn is_read(name: &str) -> bool {
    name.starts_with("get") && name.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The text that a call has as its whole first argument, and where.
fn argument<'s>(tokens: &[Token<'s>]) -> Option<(&'s str, Range<usize>)> {
    let mut rest = tokens.iter();
    let first = rest.next()?;
    if let Some(text) = first.text() {
        return Some((text, first.place.clone()));
    }
    let (argument, behind) = (rest.next()?, rest.next()?);
    let is_whole = first.kind == Kind::Sign('(') && matches!(behind.kind, Kind::Sign(',' | ')'));
    let text = argument.text().filter(|_| is_whole)?;
    Some((text, argument.place.clone()))
}

/// A part of a script.
#[derive(Clone)]
struct Token<'s> {
    kind: Kind<'s>,
    /// Its bytes in the script.
    place: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind<'s> {
    Name(&'s str),
    /// What stands in quotes, or in long brackets.
    Text(&'s str),
    Sign(char),
}

impl<'s> Token<'s> {
    const fn text(&self) -> Option<&'s str> {
        match self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }
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
            continue;
        }
        let (kind, behind) =
            if let Some((text, behind)) = long(rest).or_else(|| quoted(rest, first)) {
                (Kind::Text(text), behind)
            } else if is_of_name(first) {
                let (name, behind) = split(rest, rest.find(|c| !is_of_name(c)));
                (Kind::Name(name), behind)
            } else {
                let behind = rest.get(first.len_utf8()..).unwrap_or_default();
                (Kind::Sign(first), behind)
            };
        if !first.is_whitespace() {
            let start = script.len() - rest.len();
            found.push(Token {
                kind,
                place: start..script.len() - behind.len(),
            });
        }
        rest = behind;
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "x-matrix-user-id";
    const REQUEST: &str = "function envoy_on_request(h) ";

    fn headers() -> [String; 1] {
        [HEADER.to_owned()]
    }

    /// The texts by which a script writes the header.
    fn texts(script: &str) -> Vec<&str> {
        let headers = headers();
        let written = written(script, &headers).into_iter();
        written
            .map(|(place, _)| script.get(place).unwrap_or_default())
            .collect()
    }

    #[test]
    fn a_script_writes_what_it_names_where_it_writes() {
        let write = "h:headers():replace(\"X-Matrix-User-Id\", \"a\")\nend\n";
        let other = "h:headers():add(\"x-other\", \"a\")\nend\n";
        for script in [
            format!("{REQUEST}{write}"),
            format!("local function set(h) {write}{REQUEST}set(h) end"),
            format!("{REQUEST}set(h) end local function set(h) {write}"),
            format!("local name = 'x-matrix-user-id'\n{REQUEST}h:headers():add(name, 1) end"),
            format!("{REQUEST}h:headers().replace(h, 'x-matrix-user-id', 'a') end"),
            format!("{REQUEST}h:headers()[\"add\"](h, 'x-matrix-user-id', 'a') end"),
            format!("{REQUEST}h:headers():add [[x-matrix-user-id]] end"),
            format!("function envoy_on_response(h) {other}{REQUEST}{write}"),
            format!(
                "envoy_on_response = function(h) for a in b do if a then c() end end {other}{REQUEST}{write}"
            ),
            format!(
                "function envoy_on_response(h) end local function set(h) {write}{REQUEST}set(h) end"
            ),
        ] {
            assert_eq!(texts(&script).len(), 1, "{script}");
        }
    }

    #[test]
    fn a_script_that_reads_or_tells_or_answers_writes_nothing() {
        let write = "h:headers():replace(\"X-Matrix-User-Id\", \"a\")\nend\n";
        let other = "h:headers():add(\"x-other\", \"a\")\nend\n";
        for script in [
            format!("function envoy_on_response(h) {write}"),
            format!("envoy_on_response = function(h) {write}{REQUEST}{other}"),
            format!("function envoy_on_response(h) repeat a() until b {write}{REQUEST}{other}"),
            format!("function envoy_on_response(h) if a then b() elseif c then d() end {write}"),
            format!("function envoy_on_response(h) for a in b do c(function() end) end {write}"),
            format!("function envoy_on_response(h) while a do b() end {write}"),
            format!("-- x-matrix-user-id\n{REQUEST}{other}"),
            format!("--[[ x-matrix-user-id\n]]{REQUEST}{other}"),
            format!("{REQUEST}h:headers():get(\"x-matrix-user-id\")\n{other}"),
            format!("{REQUEST}h:headers():get \"x-matrix-user-id\"\n{other}"),
            format!(
                "{REQUEST}h:headers():remove('x-matrix-user-id')\nh:headers():add(name, 1) end"
            ),
            format!("{REQUEST}h:logInfo('x-matrix-user-id')\nh:headers():add(name, 1) end"),
            format!("{REQUEST}h:logInfo('x-matrix-user-id is ' .. u)\n{other}"),
            format!("{REQUEST}h:headers():replace(\"x-matrix-user-id-hash\", \"a\") end"),
            format!("{REQUEST}h:headers():add('x-seen', 'x-matrix-user-id') end"),
            "h:logInfo('x-matrix-user-id')".to_owned(),
        ] {
            assert_eq!(texts(&script), [""; 0], "{script}");
        }
    }

    #[test]
    fn each_write_has_its_place() {
        let script = "h:add('x-matrix-user-id', 1) h:replace(\"X-Matrix-User-Id\", 2)";
        assert_eq!(
            texts(script),
            ["'x-matrix-user-id'", "\"X-Matrix-User-Id\""]
        );
    }

    #[test]
    fn what_a_script_reads_of_a_response_is_not_of_a_request() {
        let headers = headers();
        let read = |script: &str| read(script, &headers).is_some();
        let get = "h:headers():get('x-matrix-user-id') end";
        assert!(read(&format!("{REQUEST}{get}")));
        assert!(!read(&format!("function envoy_on_response(h) {get}")));
        assert!(read(&format!(
            "function envoy_on_response(h) end function help(h) {get}"
        )));
    }
}
