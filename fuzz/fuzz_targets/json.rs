//! A JSON object with its members as they are written. The readers under test derive theirs; this one shares only
//! the tokenizer with them.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The members of the object that `text` is. `None` if it is anything else.
pub fn object(text: &[u8]) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(std::str::from_utf8(text).ok()?).ok()
}
