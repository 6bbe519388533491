//! `google.protobuf.Struct`, as Envoy hands it over: in the protobuf wire format, not as JSON.
//!
//! ```text
//! Struct    1: repeated {1: key, 2: Value}
//! Value     1: null  2: double  3: string  4: bool  5: Struct  6: ListValue
//! ListValue 1: repeated Value
//! ```

use alloc::{borrow::ToOwned, vec::Vec};

use serde_json::{Map, Number, Value};

/// Deepest nesting that is read; a configuration has four levels.
const MAX_DEPTH: usize = 16;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;

/// Reads a `Struct`; `None` if these bytes are anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<Value> {
    object(bytes, MAX_DEPTH)
}

enum Field<'a> {
    Number(u64),
    Bits([u8; 8]),
    Bytes(&'a [u8]),
}

fn object(mut bytes: &[u8], depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let mut members = Map::new();
    while !bytes.is_empty() {
        let (1, Field::Bytes(mut entry)) = field(&mut bytes)? else {
            return None;
        };
        let (mut key, mut member) = ("", Value::Null);
        while !entry.is_empty() {
            match field(&mut entry)? {
                (1, Field::Bytes(text)) => key = core::str::from_utf8(text).ok()?,
                (2, Field::Bytes(bytes)) => member = value(bytes, depth)?,
                _ => return None,
            }
        }
        members.insert(key.to_owned(), member);
    }
    Some(Value::Object(members))
}

fn value(mut bytes: &[u8], depth: usize) -> Option<Value> {
    let mut decoded = Value::Null;
    while !bytes.is_empty() {
        decoded = match field(&mut bytes)? {
            (1, Field::Number(_)) => Value::Null,
            (2, Field::Bits(bits)) => Value::Number(Number::from_f64(f64::from_le_bytes(bits))?),
            (3, Field::Bytes(text)) => Value::String(core::str::from_utf8(text).ok()?.to_owned()),
            (4, Field::Number(number)) => Value::Bool(number != 0),
            (5, Field::Bytes(bytes)) => object(bytes, depth)?,
            (6, Field::Bytes(bytes)) => list(bytes, depth)?,
            _ => return None,
        };
    }
    Some(decoded)
}

fn list(mut bytes: &[u8], depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let (1, Field::Bytes(item)) = field(&mut bytes)? else {
            return None;
        };
        items.push(value(item, depth)?);
    }
    Some(Value::Array(items))
}

/// The next field: its number and its content.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(bytes)?;
    let content = match tag & 7 {
        VARINT => Field::Number(varint(bytes)?),
        FIXED64 => {
            let (bits, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Field::Bits(*bits)
        }
        LENGTH_DELIMITED => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (content, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Field::Bytes(content)
        }
        _ => return None,
    };
    Some((tag >> 3, content))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Written by the reference implementation of protobuf for the value in the test.
    const EVERYTHING: &[u8] = b"\n\x12\n\x05count\x12\t\x11\x00\x00\x00\x00\x00\x00p@\
        \n\x14\n\x04list\x12\x0c2\n\n\x04\x1a\x02ab\n\x02 \x00\
        \n\n\n\x04null\x12\x02\x08\x00\
        \n\x15\n\x06object\x12\x0b*\t\n\x07\n\x01k\x12\x02\x08\x00\
        \n\r\n\x04text\x12\x05\x1a\x03a\xc3\xa9\
        \n\n\n\x04true\x12\x02 \x01";

    #[test]
    fn every_kind_of_value_is_read() {
        let expected = json!({
            "null": null, "true": true, "count": 256.0, "text": "aé",
            "object": {"k": null}, "list": ["ab", false],
        });
        assert_eq!(decode(EVERYTHING), Some(expected));
        assert_eq!(decode(b""), Some(json!({})));
    }

    #[test]
    fn what_is_no_struct_is_refused() {
        for bytes in [
            &b"\x0a"[..],
            b"\x0a\x05\n\x01k",
            b"\x12\x00",
            b"\x0b",
            b"\n{}",
            b"\x0a\x06\n\x01\xff\x12\x01\x00",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0a\x0e\n\x01k\x12\x09\x11\x00\x00\x00\x00\x00\x00\xf8\x7f",
        ] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut bytes = Vec::new();
        for _ in 0..MAX_DEPTH {
            let mut list = vec![0x32, bytes.len() as u8 + 2, 0x0a, bytes.len() as u8];
            list.append(&mut bytes);
            bytes = list;
        }
        assert_eq!(value(&bytes, MAX_DEPTH - 1), None);
        assert!(value(&bytes, MAX_DEPTH).is_some());
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
