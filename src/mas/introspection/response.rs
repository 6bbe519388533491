//! The introspection response, RFC 7662 section 2.2: an answer of MAS, or no verdict.

use alloc::{borrow::Cow, rc::Rc, string::String, string::ToString, vec::Vec};
use core::{fmt, ops::Range};

use super::{
    lifetime::Lifetime,
    members::{self, TEXTS},
    no_verdict::NoVerdict,
};
use crate::{media_type, text::scan};

/// Largest response body that is read, in bytes. MAS answers with less than 2 KiB.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// What came back from the cluster: MAS's response, or Envoy's own in its place.
#[derive(Clone)]
pub struct IntrospectionResponse<'a> {
    /// HTTP status; `None` if the call ended without a response (reset, or a body over Envoy's limit).
    pub status: Option<u16>,
    /// `content-type`, if any.
    pub content_type: Option<&'a [u8]>,
    /// [`LIFETIME`](super::LIFETIME), if any.
    pub lifetime: Option<&'a [u8]>,
    /// The body; `None` if it was not read, because it is larger than [`MAX_RESPONSE_BYTES`] or Envoy does not show it.
    pub body: Option<Cow<'a, [u8]>>,
}

#[cfg(test)]
impl<'a> IntrospectionResponse<'a> {
    /// Returns a response with a JSON body.
    pub(crate) fn json(status: u16, body: &'a str) -> Self {
        Self {
            status: Some(status),
            content_type: Some(b"application/json"),
            lifetime: None,
            body: Some(body.as_bytes().into()),
        }
    }
}

/// MAS's answer: what it says of a token, and the bytes that say it. `Debug` shows no identity: it may end
/// in a log.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// `active: true`. Shared, since it is stored, kept and given to those who wait.
    Active(Rc<ActiveAnswer>),
    /// `active: false`; or the token has ended by the answer's own `expires_in`, as Synapse takes it.
    Inactive(InactiveAnswer),
}

/// An answer with `active: true`.
#[derive(Clone, PartialEq, Eq)]
pub struct ActiveAnswer {
    /// Seconds left at the moment of the answer; `None`: the token does not expire.
    pub expires_in: Option<i64>,
    /// The JSON, as MAS wrote it, and behind it the texts that it has with an escape, as they read.
    pub(super) text: String,
    /// How long the JSON is.
    pub(super) json_length: usize,
    /// Where the texts of [`ActiveToken`] stand.
    pub(super) places: Places,
}

/// Where texts stand; `None`: it is absent.
pub(super) type Places = [Option<Range<usize>>; TEXTS];

/// An answer with `active: false`.
#[derive(Clone, PartialEq, Eq)]
pub struct InactiveAnswer {
    body: Rc<[u8]>,
}

impl Answer {
    /// The answer that `body` is.
    pub fn parse(body: Vec<u8>) -> Result<Self, NoVerdict> {
        let json = String::from_utf8(body).map_err(|_| NoVerdict::Malformed)?;
        let members = members::find(&json).ok_or(NoVerdict::Malformed)?;
        let expires_in = members.expires_in.map(|(seconds, _)| seconds);
        // Not zero: MAS rounds to the nearest second, so up to half a second is left.
        let has_ended = expires_in.is_some_and(i64::is_negative);
        if !members.active || has_ended {
            return Ok(Self::Inactive(InactiveAnswer::new(json.as_bytes())));
        }
        let json_length = json.len();
        let mut behind = String::new();
        let places = members.texts.map(|text| {
            let text = text?;
            if text.has_escape {
                let start = json_length + behind.len();
                behind.push_str(&text.read()?);
                Some(start..json_length + behind.len())
            } else {
                let start = offset_in(&json, text.written)?;
                Some(start..start + text.written.len())
            }
        });
        let mut text = json;
        text.push_str(&behind);
        Ok(Self::Active(Rc::new(ActiveAnswer {
            expires_in,
            text,
            json_length,
            places,
        })))
    }

    /// How much longer the token lives, if it is active and ends at all. `header` is the response's
    /// [`LIFETIME`](super::LIFETIME).
    pub fn lifetime(&self, header: Option<&[u8]>) -> Option<Lifetime> {
        match self {
            Self::Active(answer) => {
                let expires_in = answer.expires_in?;
                Some(Lifetime::told(expires_in, header))
            }
            Self::Inactive(_) => None,
        }
    }

    /// The JSON, as MAS wrote it.
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Active(answer) => answer.body(),
            Self::Inactive(answer) => answer.body(),
        }
    }

    /// How many bytes it takes: the JSON, and those texts once more that are kept without their escapes.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Active(answer) => answer.text.len(),
            Self::Inactive(answer) => answer.body().len(),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active(answer) => answer.fmt(f),
            Self::Inactive(answer) => answer.fmt(f),
        }
    }
}

/// Returns where a part of a text begins in it. Both are one piece of memory, so their addresses tell.
fn offset_in(text: &str, part: &[u8]) -> Option<usize> {
    part.as_ptr().addr().checked_sub(text.as_ptr().addr())
}

impl ActiveAnswer {
    /// Returns whose the token is and what it grants.
    pub fn token(&self) -> ActiveToken<'_> {
        let [username, device_id, client_id, scope] = &self.places;
        ActiveToken {
            username: self.at(username),
            device_id: self.at(device_id),
            client_id: self.at(client_id),
            scope: self.at(scope).unwrap_or_default(),
        }
    }

    #[inline(never)]
    fn at(&self, place: &Option<Range<usize>>) -> Option<&str> {
        self.text.get(place.clone()?)
    }

    /// Returns [`ActiveToken::username`] alone.
    pub fn username(&self) -> Option<&str> {
        let [username, ..] = &self.places;
        self.at(username)
    }

    /// The JSON, as MAS wrote it.
    pub fn body(&self) -> &[u8] {
        self.json().as_bytes()
    }

    fn json(&self) -> &str {
        self.text.get(..self.json_length).unwrap_or_default()
    }

    /// The JSON with another `expires_in`, if it has one. All other bytes stay.
    pub fn body_with_expires_in(&self, seconds: i64) -> Vec<u8> {
        match self.around_expires_in() {
            Some((before, after)) => [before, &seconds.to_string(), after].concat().into_bytes(),
            None => self.body().to_vec(),
        }
    }

    fn around_expires_in(&self) -> Option<(&str, &str)> {
        let json = self.json();
        let (_, digits) = members::find(json)?.expires_in?;
        let start = offset_in(json, digits)?;
        let (before, rest) = json.split_at_checked(start)?;
        Some((before, rest.get(digits.len()..)?))
    }
}

impl fmt::Debug for ActiveAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActiveAnswer(..)")
    }
}

impl InactiveAnswer {
    pub(super) fn new(body: &[u8]) -> Self {
        Self { body: body.into() }
    }

    /// The JSON, as MAS wrote it.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl Default for InactiveAnswer {
    /// What MAS answers for every token that is not active.
    fn default() -> Self {
        Self::new(br#"{"active":false}"#)
    }
}

impl fmt::Debug for InactiveAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InactiveAnswer")
    }
}

/// The members of an active answer that the edge uses. Absent members are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActiveToken<'a> {
    /// Localpart of the user; absent for a client-credentials token.
    pub username: Option<&'a str>,
    /// The device, if not in the scope.
    pub device_id: Option<&'a str>,
    /// OAuth client, or `legacy` for compat tokens.
    pub client_id: Option<&'a str>,
    /// Space-separated scope tokens, RFC 6749 section 3.3.
    pub scope: &'a str,
}

/// Reads a response, RFC 7662 section 2.2.
pub fn read(response: IntrospectionResponse<'_>) -> Result<Answer, NoVerdict> {
    let status = response.status.ok_or(NoVerdict::Reset)?;
    if status != 200 {
        let body = response.body.unwrap_or_default();
        return Err(NoVerdict::of_status(status, &body));
    }
    let body = response.body.ok_or(NoVerdict::Oversized)?;
    if body.len() > MAX_RESPONSE_BYTES {
        return Err(NoVerdict::Oversized);
    }
    if !response.content_type.is_some_and(is_json) {
        return Err(NoVerdict::NotJson);
    }
    Answer::parse(body.into_owned())
}

fn is_json(content_type: &[u8]) -> bool {
    const JSON: &str = "application/json";
    // So MAS writes it.
    scan::is_equal(content_type, JSON.as_bytes()) || media_type::is_of_type(content_type, JSON)
}

#[cfg(test)]
mod tests;
