//! The members of an introspection response that the edge uses, RFC 7662 section 2.2, found in one pass over its JSON, RFC
//! 8259.
//!
//! The non-obvious rule: what is read decides about people, so everything is looked at as strictly as serde_json does it,
//! which the tests compare with. What is skipped must be JSON as well, and a member that stands there twice says nothing.
//!
//! MAS writes its answers in one way, of which `plain.rs` makes use. What is written in another way is read here.

mod plain;

use crate::form::{percent::hex_digit, steps};

/// Texts in [`Members`].
pub const TEXTS: usize = 4;

/// How deep a value may be nested that is skipped: as deep as serde_json takes it elsewhere.
const MAX_DEPTH: u8 = 127;

/// What the edge uses of a response.
#[derive(Debug, PartialEq, Eq)]
pub struct Members<'a> {
    /// Whether the token is active.
    pub active: bool,
    /// `username`, `device_id`, `client_id` and `scope`, as they stand between their quotes.
    pub texts: [Option<Text<'a>>; TEXTS],
    /// `expires_in`, and its digits.
    pub expires_in: Option<(i64, &'a str)>,
}

/// A string as it is written, without its quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text<'a> {
    /// The bytes between the quotes.
    pub written: &'a [u8],
    /// Whether one of them begins an escape.
    pub has_escape: bool,
}

impl<'a> Members<'a> {
    /// Finds the members in a JSON object. `None`: it is none, or one of them is not what it has to be.
    pub fn find(json: &'a str) -> Option<Self> {
        plain::find(json.as_bytes()).or_else(|| Self::find_in_any(json))
    }

    /// The same, however the object is written.
    #[cold]
    fn find_in_any(json: &'a str) -> Option<Self> {
        let mut found = Found::default();
        let mut reader = Reader(json.as_bytes());
        let mut has_more = reader.passes(b'{').then(|| !reader.passes(b'}'))?;
        while has_more {
            let name = reader.name()?;
            let value = reader.value(0)?;
            if name.has_escape {
                found.take(name.read()?.as_bytes(), value)?;
            } else {
                found.take(name.written, value)?;
            }
            has_more = reader.goes_on(b'}')?;
        }
        reader.skip_space();
        if reader.0.is_empty() {
            found.members()
        } else {
            None
        }
    }
}

/// The members that were found so far. `None` within is that the member is `null`.
#[derive(Default)]
struct Found<'a> {
    active: Option<bool>,
    texts: [Option<Option<Text<'a>>>; TEXTS],
    expires_in: Option<Option<(i64, &'a str)>>,
}

impl<'a> Found<'a> {
    /// Takes in a member. `None`: it was there before, or is not what it has to be.
    fn take(&mut self, name: &[u8], value: Value<'a>) -> Option<()> {
        let text = match name {
            b"username" => 0,
            b"device_id" => 1,
            b"client_id" => 2,
            b"scope" => 3,
            b"active" => return first(&mut self.active, value.boolean()?),
            b"expires_in" => return first(&mut self.expires_in, value.integer()?),
            _ => TEXTS,
        };
        match self.texts.get_mut(text) {
            Some(member) => first(member, value.text()?),
            None => Some(()),
        }
    }

    /// Returns all of them. `None`: the one is missing that must be there.
    fn members(self) -> Option<Members<'a>> {
        Some(Members {
            active: self.active?,
            texts: self.texts.map(Option::flatten),
            expires_in: self.expires_in.flatten(),
        })
    }
}

/// Takes in a member. `None`: it was there before.
fn first<T>(member: &mut Option<T>, value: T) -> Option<()> {
    member.replace(value).is_none().then_some(())
}

impl Text<'_> {
    /// Returns what the string reads. `None`: it has half a character, in the form of one surrogate.
    #[cold]
    pub fn read(self) -> Option<String> {
        let mut text = Vec::with_capacity(self.written.len());
        let mut rest = self.written;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte != b'\\' {
                text.push(*byte);
                continue;
            }
            let (kind, after) = rest.split_first()?;
            rest = after;
            let byte = match kind {
                b'b' => 0x8,
                b'f' => 0xc,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'u' => {
                    let (character, after) = character(rest)?;
                    rest = after;
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                // It stands for itself: a quote, a stroke.
                other => *other,
            };
            text.push(byte);
        }
        String::from_utf8(text).ok()
    }
}

/// Reads the character that four hexadecimal digits stand for, or two times four. Returns what follows, too.
fn character(digits: &[u8]) -> Option<(char, &[u8])> {
    let (unit, rest) = code_unit(digits)?;
    let Some(high) = unit.checked_sub(0xd800).filter(|high| *high < 0x400) else {
        return Some((char::from_u32(unit)?, rest));
    };
    let (low, rest) = code_unit(rest.strip_prefix(b"\\u")?)?;
    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x1_0000 + (high << 10 | low))?, rest))
}

fn code_unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((number_of(digits)?, rest))
}

/// Returns the number that hexadecimal digits stand for.
fn number_of(digits: &[u8]) -> Option<u32> {
    let add = |number, digit: &u8| Some(number << 4 | u32::from(hex_digit(*digit)?));
    digits.iter().try_fold(0, add)
}

/// A value, of which no more is kept than a member can be made of.
#[derive(Clone, Copy)]
enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(&'a [u8]),
    Text(Text<'a>),
    /// A number with a fraction or an exponent, a list or an object.
    Other,
}

impl<'a> Value<'a> {
    fn boolean(self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// `null` is none.
    fn text(self) -> Option<Option<Text<'a>>> {
        match self {
            Self::Null => Some(None),
            // What cannot be read is no text, whether it is needed or not.
            Self::Text(text) if !text.has_escape || text.read().is_some() => Some(Some(text)),
            _ => None,
        }
    }

    /// `null` is none. Minus zero is a floating-point number.
    fn integer(self) -> Option<Option<(i64, &'a str)>> {
        match self {
            Self::Null => Some(None),
            Self::Integer(b"-0") => None,
            Self::Integer(digits) => {
                let text = str::from_utf8(digits).ok()?;
                Some(Some((seconds(digits)?, text)))
            }
            _ => None,
        }
    }
}

/// Reads a whole number.
fn seconds(text: &[u8]) -> Option<i64> {
    /// What is longer is too large, and what is not has no more than 64 bits.
    const MAX_DIGITS: usize = 19;
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > MAX_DIGITS {
        return None;
    }
    let add = |number: u64, digit: &u8| number * 10 + u64::from(digit & 0xf);
    let number = digits.iter().fold(0, add);
    if is_negative {
        0_i64.checked_sub_unsigned(number)
    } else {
        i64::try_from(number).ok()
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Passes a comma, or the mark at the end. Returns which: whether there is more.
    fn goes_on(&mut self, end: u8) -> Option<bool> {
        let has_more = self.passes(b',');
        (has_more || self.passes(end)).then_some(has_more)
    }

    /// Reads the name of a member, up to its value.
    fn name(&mut self) -> Option<Text<'a>> {
        self.skip_space();
        let name = self.text()?;
        self.passes(b':').then_some(name)
    }

    /// Reads any value.
    fn value(&mut self, depth: u8) -> Option<Value<'a>> {
        self.skip_space();
        match *self.0.first()? {
            b'"' => self.text().map(Value::Text),
            b't' => self.word(b"true", Value::Boolean(true)),
            b'f' => self.word(b"false", Value::Boolean(false)),
            b'n' => self.word(b"null", Value::Null),
            b'{' => self.nested(depth, true),
            b'[' => self.nested(depth, false),
            _ => self.number(),
        }
    }

    /// Passes an object or a list.
    #[cold]
    fn nested(&mut self, depth: u8, is_object: bool) -> Option<Value<'a>> {
        let (mark, end) = if is_object {
            (b'{', b'}')
        } else {
            (b'[', b']')
        };
        if depth >= MAX_DEPTH || !self.passes(mark) {
            return None;
        }
        if self.passes(end) {
            return Some(Value::Other);
        }
        loop {
            if is_object {
                let Value::Text(name) = self.value(depth + 1)? else {
                    return None;
                };
                if name.has_escape {
                    name.read()?;
                }
                if !self.passes(b':') {
                    return None;
                }
            }
            self.value(depth + 1)?;
            if !self.passes(b',') {
                return self.passes(end).then_some(Value::Other);
            }
        }
    }

    fn word(&mut self, word: &[u8], value: Value<'a>) -> Option<Value<'a>> {
        self.0 = self.0.strip_prefix(word)?;
        Some(value)
    }

    fn number(&mut self) -> Option<Value<'a>> {
        let start = self.0;
        self.next_if(|byte| byte == b'-');
        if !self.next_if(|byte| byte == b'0') {
            self.digits()?;
        }
        let integer = start.get(..start.len().checked_sub(self.0.len())?)?;
        let mut is_integer = true;
        if self.next_if(|byte| byte == b'.') {
            is_integer = false;
            self.digits()?;
        }
        if self.next_if(|byte| matches!(byte, b'e' | b'E')) {
            is_integer = false;
            self.next_if(|byte| matches!(byte, b'+' | b'-'));
            self.digits()?;
        }
        Some(if is_integer {
            Value::Integer(integer)
        } else {
            Value::Other
        })
    }

    /// Passes digits, of which there must be one.
    fn digits(&mut self) -> Option<()> {
        let end = self.0.iter().position(|byte| !byte.is_ascii_digit());
        let (digits, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        steps::note(digits.len());
        self.0 = rest;
        (!digits.is_empty()).then_some(())
    }

    /// Reads a string.
    fn text(&mut self) -> Option<Text<'a>> {
        let (b'"', text) = self.0.split_first()? else {
            return None;
        };
        let mut length = plain_length(text);
        let has_escape = *text.get(length)? != b'"';
        if has_escape {
            length = end_behind_escape(text, length)?;
        }
        let (written, rest) = text.split_at_checked(length)?;
        self.0 = rest.get(1..)?;
        Some(Text {
            written,
            has_escape,
        })
    }

    /// Passes white space and this mark. Returns whether it is there.
    fn passes(&mut self, mark: u8) -> bool {
        self.skip_space();
        self.next_if(|byte| byte == mark)
    }

    fn skip_space(&mut self) {
        while self.next_if(|byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\r')) {}
    }

    /// Passes a byte if it is one that is wanted.
    fn next_if(&mut self, is_wanted: impl FnOnce(u8) -> bool) -> bool {
        steps::note(1);
        match self.0 {
            [byte, rest @ ..] if is_wanted(*byte) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }
}

/// Returns where the quote stands that ends a string whose first escape begins there. `None`: it has no end, a character
/// that must be escaped, or an escape that there is not.
#[cold]
fn end_behind_escape(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        steps::note(1);
        at += match text.get(at..)? {
            [b'"', ..] => return Some(at),
            [b'\\', b'u', digits @ ..] => {
                number_of(digits.get(..4)?)?;
                6
            }
            [
                b'\\',
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                ..,
            ] => 2,
            [b'\\' | 0..b' ', ..] | [] => return None,
            [_, ..] => 1,
        };
    }
}

/// Returns how many bytes at the beginning are neither a quote nor a stroke nor a control character: of strings, all but
/// escapes.
fn plain_length(text: &[u8]) -> usize {
    let is_other = |byte: &u8| matches!(byte, 0..b' ' | b'"' | b'\\');
    let length = text.iter().position(is_other).unwrap_or(text.len());
    steps::note(length);
    length
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::json::read_object;

    /// What serde_json makes of the same bytes.
    #[derive(Debug, Deserialize, PartialEq, Eq)]
    struct Expected {
        active: bool,
        username: Option<String>,
        device_id: Option<String>,
        client_id: Option<String>,
        scope: Option<String>,
        expires_in: Option<i64>,
    }

    /// The middle of an answer of 64 KiB, of whatever takes the reader longest.
    #[test]
    fn an_answer_is_read_in_linear_time() {
        for (open, middle, close) in [
            ("[", r#""a","#, "0]"),
            ("[", r#""\u0061","#, "0]"),
            ("[", r#""\ud83d\ude00","#, "0]"),
            ("[", "1e5,", "0]"),
            ("[", "-0.25,", "0]"),
            ("[", "true,", "0]"),
            ("[", "[],", "0]"),
            ("[", r#"{"a":0},"#, "0]"),
            ("", " ", "0"),
            ("\"", "x", "\""),
            ("\"", r"\n", "\""),
            ("\"", "é", "\""),
            ("", "1", ""),
            ("", "[", ""),
            ("", r#"{"a":"#, ""),
            ("", r#"{"a":0,"#, ""),
        ] {
            let read = |middle: &[u8]| {
                let middle = String::from_utf8_lossy(middle);
                let _ = Members::find(&format!(r#"{{"active":true,"x":{open}{middle}{close}}}"#));
            };
            steps::assert_linear("an answer", 12, read, middle.as_bytes());
        }
    }

    fn found(json: &str) -> Option<Expected> {
        let found = Members::find(json)?;
        let [username, device_id, client_id, scope] =
            found.texts.map(|text| text.and_then(Text::read));
        Some(Expected {
            active: found.active,
            username,
            device_id,
            client_id,
            scope,
            expires_in: found.expires_in.map(|(seconds, _)| seconds),
        })
    }

    fn assert_same(json: &str) {
        let expected: Option<Expected> = read_object(json.as_bytes());
        assert_eq!(found(json), expected, "{json}");
    }

    const VALUES: [&str; 40] = [
        "true",
        "false",
        "null",
        "0",
        "-0",
        "7",
        "-1",
        "00",
        "01",
        "1.",
        "1.5",
        "-",
        "1e3",
        "1E-7",
        "1e",
        "+1",
        ".5",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "99999999999999999999999",
        "\"\"",
        "\"alice\"",
        "\"a\\\"b\\\\c\\/\\b\\f\\n\\r\\t\"",
        "\"\\u00e9\\u0041\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83d\\u0041\"",
        "\"\\u12\"",
        "\"\\x\"",
        "\"\\u00g0\"",
        "\"é💥\"",
        "\"a\tb\"",
        "\"0123456789abcdef\\u0000\"",
        "[]",
        "[1, [\"\\ud800\"] ,{}]",
        "[1,]",
        "{\"a\":{\"b\":[]}, \"a\" : 1}",
        "{\"a\"}",
    ];

    const NAMES: [&str; 10] = [
        "\"active\"",
        "\"username\"",
        "\"device_id\"",
        "\"client_id\"",
        "\"scope\"",
        "\"expires_in\"",
        "\"other\"",
        "\"\\u0061ctive\"",
        "\"\\ud800\"",
        "\"Active\"",
    ];

    #[test]
    fn every_value_of_every_member_is_read_as_serde_json_reads_it() {
        for name in NAMES {
            for value in VALUES {
                assert_same(&format!("{{{name}:{value}}}"));
                assert_same(&format!("{{\"active\":true,{name}:{value}}}"));
                assert_same(&format!(" {{ {name} : {value} , \"active\" : false }}\n"));
                assert_same(&format!(
                    "{{\"x\":[{value}],{name}:1,{name}:{value},\"active\":true}}"
                ));
            }
        }
    }

    #[test]
    fn every_beginning_and_every_other_byte_is_read_as_serde_json_reads_it() {
        let any = r#"{"active":true , "scope":"a b\u00e9\n","n":[{"x":-1.5e+3},null,""],"expires_in":300}"#;
        for json in [any, OF_MAS, OF_MAS_WITHOUT_END] {
            for length in 0..=json.len() {
                let (beginning, rest) = json.split_at(length);
                assert_same(beginning);
                for other in ["", " ", "\"", "\\", ",", "{", "]", "0", "e", "\u{1}", "é"] {
                    assert_same(&[beginning, other, rest].concat());
                    if let Some(rest) = rest.get(1..) {
                        assert_same(&[beginning, other, rest].concat());
                    }
                }
            }
        }
    }

    /// Strings, numbers and words at the end, in the middle and beside each other.
    const OF_MAS: &str = r#"{"active":true,"scope":"a b","client_id":"","username":"alice","exp":17,"iat":0,"n":null,"sub":"01J","x":false,"expires_in":300}"#;

    /// A string comes last.
    const OF_MAS_WITHOUT_END: &str = r#"{"active":true,"n":1,"jti":"","sub":"01J"}"#;

    #[test]
    fn what_mas_writes_is_read_the_quick_way() {
        let recorded = include_str!("../../../tests/wire/mas.jsonl");
        let answers = recorded.lines().filter_map(|line| {
            let exchange: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(exchange["response_body"].as_str()?.to_owned())
        });
        let (mut active, mut inactive) = (0, 0);
        for answer in answers.filter(|answer| answer.contains("\"active\"")) {
            assert_same(&answer);
            // A device has another name.
            let is_plain = answer.is_ascii() && !answer.contains('\\');
            match plain::find(answer.as_bytes()) {
                Some(Members { active: true, .. }) => active += 1,
                Some(_) => inactive += 1,
                None => assert!(!is_plain, "{answer}"),
            }
        }
        assert!(active > 5 && inactive > 5, "{active} and {inactive}");
        for length in 0..40 {
            let json = format!(
                r#"{{"active":true,"username":"{}","expires_in":7}}"#,
                "x".repeat(length)
            );
            assert!(plain::find(json.as_bytes()).is_some(), "{json}");
            assert_same(&json);
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            Members::find(&format!(r#"{{"active":true,"x":{open}{close}}}"#)).is_some()
        };
        assert!(nested(usize::from(MAX_DEPTH)));
        assert!(!nested(usize::from(MAX_DEPTH) + 1));
        assert!(!nested(30_000));
    }

    #[test]
    fn the_digits_are_those_of_the_value() {
        let found = Members::find(r#"{"active":true,"expires_in": 300 }"#).unwrap();
        assert_eq!(found.expires_in, Some((300, "300")));
    }

    proptest::proptest! {
        #[test]
        fn what_is_put_together_at_random_is_read_as_serde_json_reads_it(
            parts in proptest::collection::vec(0..NAMES.len() + VALUES.len() + 8, 0..24),
        ) {
            let marks = ["{", "}", ":", ",", " ", "[", "]", "{\"active\":true,"];
            let all: Vec<&str> = NAMES.iter().chain(&VALUES).chain(&marks).copied().collect();
            let json: String = parts.into_iter().map(|part| all[part]).collect();
            assert_same(&json);
            assert_same(&format!("{{\"active\":true,{json}}}"));
        }
    }
}
