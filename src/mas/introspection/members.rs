//! The members of an introspection response that the edge uses, RFC 7662 section 2.2, found in one pass over its JSON, RFC
//! 8259.
//!
//! The non-obvious rule: what is read decides about people, so everything is looked at as strictly as serde_json does it,
//! which the tests compare with. What is skipped must be JSON as well, and a member that stands there twice says nothing.

mod any;
mod found;
mod plain;

pub use found::{Members, TEXTS};

/// Finds the members in a JSON object. `None`: it is none, or one of them is not what it has to be.
pub fn find(json: &str) -> Option<Members<'_>> {
    let json = json.as_bytes();
    plain::find(json).or_else(|| any::find(json))
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use serde::Deserialize;

    use super::{any::MAX_DEPTH, found::Text, *};
    use crate::{json::read_object, text::work};

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
                let _ = find(&format!(r#"{{"active":true,"x":{open}{middle}{close}}}"#));
            };
            work::assert_linear("an answer", 12, read, middle.as_bytes());
        }
    }

    fn found(json: &str) -> Option<Expected> {
        let found = find(json)?;
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
            find(&format!(r#"{{"active":true,"x":{open}{close}}}"#)).is_some()
        };
        assert!(nested(usize::from(MAX_DEPTH)));
        assert!(!nested(usize::from(MAX_DEPTH) + 1));
        assert!(!nested(30_000));
    }

    #[test]
    fn the_digits_are_those_of_the_value() {
        let found = find(r#"{"active":true,"expires_in": 300 }"#).unwrap();
        assert_eq!(found.expires_in, Some((300, &b"300"[..])));
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
