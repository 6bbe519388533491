//! Matrix Authentication Service: the tokens it issues, the introspection it answers, and what it tells the
//! homeserver.

pub mod introspection;
pub mod provisioning;
pub mod token;
pub mod user;

/// The text of a body that may be a JSON object. A reader derived with serde takes an array for the object
/// as well, and does not look at the encoding of what it skips.
pub(crate) fn object_text(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    text.trim_ascii_start().starts_with('{').then_some(text)
}
