//! Which lines of a file may be shown.
//!
//! The non-obvious rule: no list of words tells which lines have a secret, since a variable may have any name, and a script any
//! line. So a line is shown if each word in it is known: keys, values that are a number, a duration, an address, true or false, or
//! the name of an enumeration, and names where a key holds a name. What else stands there, such as a text, hides the line. So does
//! whatever is in a Secret.

use std::net::IpAddr;

use crate::{
    arguments::has_token,
    check::deployment::unlisted,
    yaml::{Place, Tree},
};

/// The longest line that is shown, in bytes. Otherwise a file of one line would be gone through again for each of its
/// findings.
const LONGEST_LINE: usize = 2_000;

/// The longest part of a name. What is longer may be a digest, or a secret.
const LONGEST_PART: usize = 24;

/// The longest number.
const LONGEST_NUMBER: usize = 12;

/// The longest word of an enumeration.
const LONGEST_WORD: usize = 16;

/// Parts of keys whose values are secrets, also those that look like a number.
const SECRETIVE: [&str; 12] = [
    "apikey",
    "api_key",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "inline",
    "passphrase",
    "passw",
    "private",
    "secret",
    "token",
];

/// Keys whose values may be anything.
const ANYTHING: [&str; 5] = ["auth", "data", "key", "pass", "value"];

/// Keys that hold names.
const NAMES: [&str; 35] = [
    "@type",
    "action",
    "address",
    "address_prefix",
    "apiVersion",
    "applyTo",
    "authority",
    "cluster",
    "cluster_name",
    "context",
    "domains",
    "filename",
    "forward_payload_header",
    "forward_username_header",
    "header",
    "header_name",
    "host",
    "hostname",
    "hosts",
    "kind",
    "mode",
    "name",
    "namespace",
    "network_mode",
    "op",
    "operation",
    "operator",
    "phase",
    "role",
    "server_name",
    "service",
    "stat_prefix",
    "type",
    "upgrade_type",
    "vm_id",
];

/// Keys that hold paths, or expressions for them.
const PATHS: [&str; 5] = [
    "path",
    "path_separated_prefix",
    "path_template",
    "prefix",
    "regex",
];

/// How a path begins that everybody knows.
const KNOWN_PATHS: [&str; 3] = ["/_matrix", "/_synapse", "/oauth2"];

/// The part of a line that may be shown: the line without a comment, if nothing in it may be a secret.
pub(super) fn visible(line: &str) -> Option<&str> {
    if line.len() > LONGEST_LINE || has_token(line) {
        return None;
    }
    let mut reader = Reader {
        rest: line,
        key: None,
        around: Vec::new(),
    };
    loop {
        reader.rest = reader.rest.trim_start();
        let length = line.len() - reader.rest.len();
        let before = line.get(..length)?;
        let is_after_space = before.is_empty() || before.ends_with([' ', '\t']);
        if reader.rest.is_empty() || reader.rest.starts_with('#') && is_after_space {
            return Some(before.trim_end());
        }
        reader.step()?;
    }
}

/// What is left of a line, and what stands around it.
struct Reader<'l> {
    rest: &'l str,
    /// The key that the next value is of.
    key: Option<&'l str>,
    /// The keys of the lists that are open, and none for each mapping.
    around: Vec<Option<&'l str>>,
}

impl<'l> Reader<'l> {
    /// Takes the next sign or word. `None` if it may be a secret.
    fn step(&mut self) -> Option<()> {
        let first = self.rest.chars().next()?;
        match first {
            '-' if self.is_alone(1) => self.skip(1),
            '[' => {
                self.around.push(self.key);
                self.skip(1);
            }
            '{' => {
                self.around.push(None);
                self.key = None;
                self.skip(1);
            }
            ']' | '}' => {
                self.around.pop();
                self.end_value();
                self.skip(1);
            }
            ',' => {
                self.end_value();
                self.skip(1);
            }
            '|' | '>' => {
                let is_indicator = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-');
                let behind = self.rest.get(1..)?.trim_start_matches(is_indicator);
                if !behind.trim().is_empty() {
                    return None;
                }
                self.rest = "";
            }
            '&' | '*' | '!' => {
                let end = self.rest.find([' ', ',', ']', '}']);
                let (mark, behind) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                let name = mark.trim_start_matches(['&', '*', '!']);
                if !is_name(name) {
                    return None;
                }
                self.rest = behind;
            }
            '"' | '\'' => {
                let (word, behind) = self.rest.get(1..)?.split_once(first)?;
                if word.contains('\\') || behind.starts_with(first) {
                    return None;
                }
                self.rest = behind;
                self.take(word)?;
            }
            _ => {
                let (word, behind) = self.rest.split_at(end_of_plain(self.rest));
                self.rest = behind;
                self.take(word.trim_end())?;
            }
        }
        Some(())
    }

    /// Takes a key or a value.
    fn take(&mut self, word: &'l str) -> Option<()> {
        match self.rest.trim_start().strip_prefix(':') {
            Some(behind) => {
                is_key(word).then_some(())?;
                self.key = Some(word);
                self.rest = behind;
            }
            None => {
                is_value(self.key, word).then_some(())?;
                self.end_value();
            }
        }
        Some(())
    }

    fn end_value(&mut self) {
        self.key = self.around.last().copied().flatten();
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Whether a space or nothing is behind these bytes.
    fn is_alone(&self, bytes: usize) -> bool {
        let behind = self.rest.get(bytes..).unwrap_or_default();
        behind.is_empty() || behind.starts_with([' ', '\t'])
    }
}

/// Where a word without quotes ends.
fn end_of_plain(text: &str) -> usize {
    let ends = |(at, c): &(usize, char)| {
        let behind = text.get(at + c.len_utf8()..).unwrap_or_default();
        let before = text.get(..*at).unwrap_or_default();
        match c {
            ',' | '[' | ']' | '{' | '}' => true,
            ':' => behind.is_empty() || behind.starts_with([' ', '\t', ',', '[', ']', '{', '}']),
            '#' => before.ends_with([' ', '\t']),
            _ => false,
        }
    };
    let end = text.char_indices().find(ends);
    end.map_or(text.len(), |(at, _)| at)
}

/// Whether a word may be shown as a key. Names in capitals are those of variables.
fn is_key(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    word == "<<"
        || word.starts_with(|c: char| c.is_ascii_lowercase() || c == '@')
            && is_name(word)
            && !SECRETIVE.iter().any(|part| lower.contains(part))
            && !ANYTHING.contains(&lower.as_str())
}

/// Whether a word may be shown as a value of a key, or of a list whose key is not in the line.
fn is_value(key: Option<&str>, word: &str) -> bool {
    let has_key = |keys: &[&str]| key.is_some_and(|key| keys.contains(&key));
    let is_known_path = || {
        let path = word.trim_start_matches('^');
        path == "/" || KNOWN_PATHS.iter().any(|known| path.starts_with(known))
    };
    is_plain(word)
        || has_key(&NAMES) && is_name(word)
        || has_key(&PATHS) && is_known_path() && !word.contains('=')
}

/// Whether a word is no text: a number, with a unit or a port, an address, true or false, or the name of an enumeration.
fn is_plain(word: &str) -> bool {
    const WORDS: [&str; 9] = ["", "~", "false", "no", "null", "off", "on", "true", "yes"];
    WORDS.contains(&word) || is_number(word) || is_address(word) || is_enumeration(word)
}

fn is_number(word: &str) -> bool {
    let number = word.trim_start_matches('-');
    let unit = number.trim_start_matches(|c: char| c.is_ascii_digit() || ".:/-".contains(c));
    let protocol = matches!(unit, "tcp" | "udp");
    let is_unit = unit.len() <= 2 && unit.chars().all(|c| c.is_ascii_alphabetic());
    number.starts_with(|c: char| c.is_ascii_digit())
        && (protocol || is_unit)
        && number
            .split(|c: char| !c.is_ascii_digit())
            .all(|digits| digits.len() <= LONGEST_NUMBER)
}

fn is_address(word: &str) -> bool {
    let address = word.split('/').next().unwrap_or_default();
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let length = word.get(address.len()..).unwrap_or_default();
    address.parse::<IpAddr>().is_ok() && (length.is_empty() || is_length(length))
}

/// The length of a prefix of addresses, with its slash.
fn is_length(text: &str) -> bool {
    let number = text.strip_prefix('/').map(str::parse::<u8>);
    number.is_some_and(|number| number.is_ok())
}

fn is_enumeration(word: &str) -> bool {
    let mut parts = word.split('_');
    let is_part = |part: &str| {
        let is_capital = part.bytes().all(|byte| byte.is_ascii_uppercase());
        is_capital && (1..=LONGEST_WORD).contains(&part.len())
    };
    word.len() > 1 && parts.all(is_part)
}

/// Whether a word is a name: of parts that are not too long.
fn is_name(word: &str) -> bool {
    const BETWEEN: &str = "./_*-@";
    let mut parts = word.split(|c| BETWEEN.contains(c));
    parts.all(|part| {
        let is_word = part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_word && part.len() <= LONGEST_PART
    })
}

/// The Secrets of some files.
pub(super) struct Secrets(Vec<(*const Tree, Place)>);

impl Secrets {
    /// Finds them.
    pub fn of(trees: &[Tree]) -> Self {
        let roots = trees.iter().flat_map(|tree| {
            let documents = tree.documents.iter();
            documents.map(|document| tree.value(document.root))
        });
        let secrets = roots
            .flat_map(unlisted)
            .filter(|one| one.text_at(&["kind"]) == Some("Secret"));
        Self(
            secrets
                .map(|one| (std::ptr::from_ref(one.tree), one.place()))
                .collect(),
        )
    }

    /// Whether a byte of a file stands in one.
    pub fn has(&self, tree: &Tree, byte: usize) -> bool {
        let tree: *const Tree = tree;
        let mut own = self.0.iter().filter(|(other, _)| *other == tree);
        own.any(|(_, place)| (place.start..place.end).contains(&byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_known_words_is_shown() {
        for line in [
            "    failure_policy: FAIL_OPEN",
            "  timeout: 20s",
            "- match: { prefix: / }",
            "route: { cluster: homeserver, timeout: 0.25s, retries: [1, 2] }",
            "address: { socket_address: { address: 0.0.0.0, port_value: 10000 } }",
            "address: \"fd00::1\"",
            "source_prefix_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }]",
            "\"@type\": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "  inner_code: |",
            "- \"10001:10001/tcp\"",
            "- 10.0.0.0/8",
            "capabilities: *capabilities",
            "ports: !override [8080]",
            "vm_config: &vm",
            "typed_per_filter_config:",
            "envoy.filters.http.wasm: { disabled: true }",
            "- name: matrix",
            "forwarding: { header: x-matrix-user-id }",
            "safe_regex: { regex: '/_matrix/client/(r0|v3)/sync' }",
            "\"normalize_path\":true,",
            "<<: *base",
            "",
        ] {
            assert_eq!(visible(line), Some(line), "{line}");
        }
        assert_eq!(visible("timeout: 5s # hunter2"), Some("timeout: 5s"));
        assert_eq!(visible("# hunter2"), Some(""));
    }

    #[test]
    fn a_line_with_any_other_word_is_not() {
        for line in [
            "DD_API_KEY: 0123456789abcdef0123456789abcdef",
            "PIN: 1234",
            "environment: { DD_API_KEY: 1 }",
            "local apikey = \"hunter2\"",
            "  handle:headers():replace(\"x\", \"hunter2\")",
            "hunter2",
            "- hunter2",
            "  password: 12345678",
            "db_password: 1234",
            "key: 1",
            "value: 1",
            "credential: { s3cret }",
            "inline_string: 1",
            "cluster: 0123456789abcdef0123456789abcdef",
            "path: /hooks/hunter2",
            "prefix: /_matrix?access_token=hunter2",
            "note: hunter2",
            "timeout: 1234567890123",
            "mode: \"a\\x20b\"",
            "mode: 'it''s'",
            "a: b: c d",
            "timeout: ABCDEFGHIJKLMNOPQRST",
            "timeout: | hunter2",
            "timeout: &hunter/2? 5s",
            "- args: [--password, hunter2]",
            "name: mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1",
        ] {
            assert_eq!(visible(line), None, "{line}");
        }
    }

    #[test]
    fn a_long_line_is_not_shown() {
        let line = "a: 1, ".repeat(LONGEST_LINE / 6);
        assert!(visible(&line).is_some());
        assert!(visible(&format!("{line}a: 1, a: 1, ")).is_none());
    }

    #[test]
    fn what_stands_in_a_secret_is_known() {
        let text = "kind: ConfigMap\n---\nkind: List\nitems:\n  - { kind: Secret, a: 1 }\n---\nkind: Secret\na: 1\n";
        let trees = [Tree::read("test".to_owned(), text.to_owned()).unwrap()];
        let secrets = Secrets::of(&trees);
        for (word, expected) in [
            ("ConfigMap", false),
            ("List", false),
            ("a: 1 }", true),
            ("a: 1\n", true),
        ] {
            let byte = text.find(word).unwrap();
            assert_eq!(secrets.has(&trees[0], byte), expected, "{word}");
        }
    }
}
