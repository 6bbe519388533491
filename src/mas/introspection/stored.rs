//! An answer as the shared cache holds it: MAS's JSON, and where in it what the gateway needs stands.
//!
//! The introspection role gives the JSON away byte for byte. The gateway needs whose the token is and what it grants. So
//! before the JSON stands where in it each of these texts begins and how long it is, and a hit in the shared cache reads
//! no JSON.
//!
//! The non-obvious rule: a text that is written with an escape does not stand in the JSON as it reads. It follows the JSON.
//!
//! ```text
//! offset  bytes  what
//!      0      1  1: active, 0: inactive                          all numbers little-endian
//!      1      2  length of the JSON
//! then, if it is active
//!      3      8  expires_in; the smallest number if there is none
//!     11    4*4  username, device_id, client_id, scope: where it begins, counted from the JSON's beginning, and its length;
//!                all bits of the first are set if it is absent
//! then
//!            ..  the JSON, and the texts that follow it
//! ```

use alloc::{borrow::ToOwned, rc::Rc, vec::Vec};

use super::{
    members::TEXTS,
    response::{ActiveAnswer, Answer, InactiveAnswer, Places},
};

const INACTIVE: u8 = 0;
const ACTIVE: u8 = 1;

/// In place of `expires_in`. No active answer has a number below 0.
const LASTS: i64 = i64::MIN;

/// In place of where a text begins.
const ABSENT: u16 = u16::MAX;

/// The longest JSON that is stored. The texts that follow it are no longer than itself, so no number has more than 16 bits.
const MAX_JSON: usize = (ABSENT / 2) as usize;

/// Bytes of the parts of what stands before the JSON of an active answer: kind and length, `expires_in`, the places.
const KIND: usize = 3;
const EXPIRES_IN: usize = size_of::<i64>();
const ACTIVE_HEAD: usize = KIND + EXPIRES_IN + 4 * TEXTS;

impl Answer {
    /// Adds the answer to `bytes`. `None`: it is too long.
    pub fn encode(&self, bytes: &mut Vec<u8>) -> Option<()> {
        let json = self.body();
        if json.len() > MAX_JSON {
            return None;
        }
        let Self::Active(answer) = self else {
            let [low, high] = number_bytes(json.len());
            bytes.extend_from_slice(&[INACTIVE, low, high]);
            bytes.extend_from_slice(json);
            return Some(());
        };
        // As a whole, since each addition looks whether there is room.
        let mut head = [0; ACTIVE_HEAD];
        let (kind, rest) = head.split_at_mut(KIND);
        let (expires_in, places) = rest.split_at_mut(EXPIRES_IN);
        let [low, high] = number_bytes(json.len());
        kind.copy_from_slice(&[ACTIVE, low, high]);
        expires_in.copy_from_slice(&answer.expires_in.unwrap_or(LASTS).to_le_bytes());
        for (to, place) in places.as_chunks_mut().0.iter_mut().zip(&answer.places) {
            let (begin, length) = match place {
                Some(place) => (place.start, place.len()),
                None => (ABSENT.into(), 0),
            };
            let ([a, b], [c, d]) = (number_bytes(begin), number_bytes(length));
            *to = [a, b, c, d];
        }
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(answer.text.as_bytes());
        Some(())
    }

    /// Reads an answer back; `None` if these bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[kind, a, b], rest) = bytes.split_first_chunk()?;
        let length = number(a, b);
        match kind {
            INACTIVE => (rest.len() == length).then(|| Self::Inactive(InactiveAnswer::new(rest))),
            ACTIVE => Self::decode_active(rest, length),
            _ => None,
        }
    }

    fn decode_active(bytes: &[u8], length: usize) -> Option<Self> {
        let (expires_in, rest) = bytes.split_first_chunk()?;
        let expires_in = Some(i64::from_le_bytes(*expires_in));
        let (places, rest) = rest.split_at_checked(4 * TEXTS)?;
        let text = str::from_utf8(rest).ok()?;
        let mut end = length;
        let mut in_text = Places::default();
        for (&[a, b, c, d], to) in places.as_chunks().0.iter().zip(&mut in_text) {
            let begin = number(a, b);
            if begin == usize::from(ABSENT) {
                continue;
            }
            let place = begin..begin + number(c, d);
            text.get(place.clone())?;
            if begin >= length {
                end += place.len();
            }
            *to = Some(place);
        }
        // Where the JSON ends, a character does, too.
        if end != text.len() || !text.is_char_boundary(length) {
            return None;
        }
        let answer = ActiveAnswer {
            expires_in: expires_in.filter(|seconds| *seconds != LASTS),
            text: text.to_owned(),
            json_length: length,
            places: in_text,
        };
        Some(Self::Active(Rc::new(answer)))
    }
}

fn number_bytes(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(ABSENT).to_le_bytes()
}

fn number(low: u8, high: u8) -> usize {
    u16::from_le_bytes([low, high]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str) -> Answer {
        Answer::parse(json.into()).unwrap()
    }

    fn encoded(answer: &Answer) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        answer.encode(&mut bytes)?;
        Some(bytes)
    }

    const ANSWERS: [&str; 7] = [
        r#"{"active":false}"#,
        r#" {"active":true,"expires_in":-1} "#,
        r#"{"active":true}"#,
        r#"{"active":true,"username":"","scope":"","expires_in":0}"#,
        r#"{"active":true,"username":"alice","device_id":"a\"\u00e9\n","client_id":"legacy","scope":"x y"}"#,
        r#"{"active":true,"username":"\ta","device_id":"b","client_id":"\tc","scope":"\td"}"#,
        r#"{"scope":"é","active":true,"expires_in":9223372036854775807,"sub":"01"}"#,
    ];

    #[test]
    fn answers_come_back_as_they_were() {
        for json in ANSWERS {
            let answer = answer(json);
            let stored = encoded(&answer).unwrap();
            let found = Answer::decode(&stored).unwrap();
            assert!(found == answer, "{json}");
            assert_eq!(found.body(), json.as_bytes());
        }
    }

    #[test]
    fn every_truncation_and_extension_is_none() {
        for json in ANSWERS {
            let mut stored = encoded(&answer(json)).unwrap();
            for length in 0..stored.len() {
                assert!(Answer::decode(&stored[..length]).is_none(), "{length}");
            }
            stored.push(0);
            assert!(Answer::decode(&stored).is_none());
        }
    }

    #[test]
    fn no_other_kind_of_answer_is_one() {
        let mut stored = encoded(&answer(ANSWERS[0])).unwrap();
        for kind in 2..=u8::MAX {
            stored[0] = kind;
            assert!(Answer::decode(&stored).is_none());
        }
    }

    #[test]
    fn a_text_that_is_none_is_no_answer() {
        let mut stored = encoded(&answer(r#"{"active":true,"username":"alice"}"#)).unwrap();
        let at = stored.windows(5).position(|text| text == b"alice").unwrap();
        stored[at] = 0xff;
        assert!(Answer::decode(&stored).is_none());
    }

    #[test]
    fn what_is_too_long_for_its_length_is_not_stored() {
        for escape in ["", r"\n"] {
            let of = |length: usize| {
                let rest = r#"{"active":true,"scope":""}"#.len() + escape.len();
                let scope = escape.to_owned() + &"x".repeat(length - rest);
                encoded(&answer(&format!(r#"{{"active":true,"scope":"{scope}"}}"#)))
            };
            let stored = of(32_767).unwrap();
            assert!(Answer::decode(&stored).is_some());
            assert!(of(32_768).is_none());
        }
    }

    #[test]
    fn a_text_is_stored_twice_only_where_it_has_an_escape() {
        let length = |json| encoded(&answer(json)).unwrap().len() - json.len();
        let plain = length(r#"{"active":true,"username":"alice","scope":"x"}"#);
        assert_eq!(plain, length(r#"{"active":true}"#));
        assert_eq!(
            length(r#"{"active":true,"username":"a\u006cice","scope":"x"}"#),
            plain + "alice".len()
        );
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Answer::decode(&bytes);
        }
    }
}
