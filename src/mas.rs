//! Matrix Authentication Service: the tokens it issues, the introspection it answers, and what it tells the
//! homeserver.

pub mod introspection;
pub mod provisioning;
pub mod token;
pub mod user;

use serde::Deserialize;

/// Reads a body that is a JSON object. A reader derived with serde takes an array for the object as well, and does not
/// look at the encoding of what it skips.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    let text = std::str::from_utf8(body).ok()?;
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    // From bytes, like all JSON here: with the reader of `str` the module would have most of serde_json twice.
    serde_json::from_slice(body).ok()
}
