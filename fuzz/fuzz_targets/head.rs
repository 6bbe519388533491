//! The fields of a head, as the host hands them over. What is taken adds up to the last byte, and says the same
//! when it is written anew; what decides a request is the first field of its name.
//!
//! An input is a serialized map of fields.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::{
    host::{Fields, RequestHead},
    matrix::credential::Authorization,
};

/// The number of fields, and two sizes and two closing bytes for each.
const NUMBER: usize = 4;
const EACH: usize = 10;

fuzz_target!(|input: &[u8]| {
    let Some(fields) = Fields::parse(input.to_vec()) else {
        return;
    };
    let found: Vec<_> = fields
        .iter()
        .map(|(n, v)| (n.to_vec(), v.to_vec()))
        .collect();
    let texts: usize = found
        .iter()
        .map(|(name, value)| EACH + name.len() + value.len())
        .sum();
    assert!(input.is_empty() || NUMBER + texts == input.len());
    if let Some(names) = found
        .iter()
        .map(|(name, _)| str::from_utf8(name).ok())
        .collect::<Option<Vec<_>>>()
    {
        let pairs = names
            .into_iter()
            .zip(found.iter().map(|(_, value)| &**value));
        let again = Fields::of(pairs);
        let again = again.iter().map(|(n, v)| (n.to_vec(), v.to_vec()));
        assert!(again.eq(found.iter().cloned()));
    }

    let head = RequestHead::new(fields);
    let of_name = |name: &str| {
        let of_name = found.iter().filter(|(found, _)| found == name.as_bytes());
        of_name.map(|(_, value)| &**value).collect::<Vec<_>>()
    };
    let first = |name: &str| of_name(name).first().copied();
    assert_eq!(head.method(), first(":method").unwrap_or_default());
    assert_eq!(head.target(), first(":path").unwrap_or_default());
    assert_eq!(head.content_type(), first("content-type"));
    let expected = match of_name("authorization")[..] {
        [] => Authorization::None,
        [value] => Authorization::One(value),
        [first, ..] => Authorization::Several { first },
    };
    assert!(head.authorization() == expected);
    assert_eq!(head.first("x-request-id"), first("x-request-id"));
});
