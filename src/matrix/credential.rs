//! Where a request carries its access token: Synapse's own rules (Matrix spec, "Using access
//! tokens").
//!
//! Where the edge and the homeserver read different tokens from one request, one user is annotated
//! and another acts. So this reads what Synapse and its HTTP server Twisted read, oddities
//! included:
//!
//! - the query starts at the first `?`; `&` and `;` separate; a piece without `=` does not count;
//! - `+` is a space and percent escapes are decoded once, in names too; a bad escape stands for
//!   itself;
//! - the first of several `access_token`s counts, even if it is empty;
//! - the scheme is `Bearer`, in that case, and one space;
//! - a form body of a `POST` counts before the query. Headers do not show it, so such a request
//!   stays undecided here unless it has an `Authorization` header, next to which Synapse allows no
//!   other token. Where the media type is not sure to be that of a form, the query counts, with a
//!   doubt.

use alloc::borrow::Cow;
use core::fmt;

use crate::{
    media_type,
    text::{
        form::{Decoded, FORM},
        scan::has_any,
        work,
    },
    token::AccessToken,
};

/// Which part of the request a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: Bearer ...`
    Header,
    /// `?access_token=...`, which the spec dropped in v1.20.
    Query,
}

/// The `Authorization` fields of a request. `Debug` shows nothing of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Authorization<'a> {
    /// There is none.
    None,
    /// One field with this value, or several that the proxy has joined with commas.
    One(&'a [u8]),
    /// Several fields.
    Several {
        /// The value of the first.
        first: &'a [u8],
    },
}

impl<'a> Authorization<'a> {
    /// Returns the first value. MAS takes it, whatever follows.
    pub fn first(self) -> Option<&'a [u8]> {
        match self {
            Self::None => None,
            Self::One(value) | Self::Several { first: value } => Some(value),
        }
    }
}

impl fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::One(_) => "One",
            Self::Several { .. } => "Several",
        })
    }
}

/// What a request offers as its access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// An empty `?access_token=`: Synapse calls it unknown, not missing.
    Empty,
    /// A form-encoded `POST` without an `Authorization` header: the body decides, and only Synapse
    /// sees it. Also one that may be a form, without a token in the query.
    FormBody,
    /// Nothing.
    Missing,
    /// A token.
    Token {
        /// The token.
        token: AccessToken<'a>,
        /// Where it was.
        source: Source,
        /// Whether Synapse may find another one in a form body, which then counts.
        may_be_overridden: bool,
    },
}

/// Whether Synapse looks for parameters in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormPost {
    /// It does not.
    No,
    /// It does if what is decoded of the media type says so.
    Maybe,
    /// It does.
    Yes,
}

/// Why Synapse refuses the credential before it looks at the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// The header is not `Bearer`, one space, and a token without spaces.
    InvalidHeader,
    /// Both a header and an `access_token` in the query, whatever they hold.
    Mixed,
    /// The token has bytes outside ASCII.
    NotAscii,
    /// More than one `Authorization` field.
    Several,
}

/// Reads the credential of a request.
///
/// `query` is what follows the first `?` of the target. `read_form` is [`form_post`] of the request; it is called only if there
/// is no `Authorization`.
pub fn extract<'a>(
    authorization: Authorization<'a>,
    query: Option<&'a [u8]>,
    read_form: impl FnOnce() -> FormPost,
) -> Result<Credential<'a>, CredentialError> {
    let query_token = query.and_then(query_token);
    let form = match authorization {
        Authorization::None => read_form(),
        _ => FormPost::No,
    };
    let (token, source) = match (authorization, query_token) {
        (Authorization::None, _) if form == FormPost::Yes => return Ok(Credential::FormBody),
        (Authorization::None, None) if form == FormPost::Maybe => {
            return Ok(Credential::FormBody);
        }
        (Authorization::None, None) => return Ok(Credential::Missing),
        (Authorization::None, Some([])) => return Ok(Credential::Empty),
        (Authorization::None, Some(value)) => (decode(value), Source::Query),
        (_, Some(_)) => return Err(CredentialError::Mixed),
        (Authorization::Several { .. }, None) => return Err(CredentialError::Several),
        (Authorization::One(value), None) => (Cow::Borrowed(bearer(value)?), Source::Header),
    };
    let token = AccessToken::new(token).ok_or(CredentialError::NotAscii)?;
    Ok(Credential::Token {
        token,
        source,
        may_be_overridden: form == FormPost::Maybe,
    })
}

/// Returns whether Synapse looks for parameters in the body: the method is `POST` and the media
/// type, with its parameters and case set aside, is the form one.
///
/// Twisted reads the header like one of an e-mail: it drops any white space of Latin-1 around the
/// type, and decodes RFC 2047 words (`=?utf-8?q?...?=`) in it. Words in the type itself, which ends
/// at the first `;`, may make any type of it, also `multipart/form-data`, and are not decoded here.
/// Words in its parameters change nothing.
pub fn form_post(method: &[u8], content_type: Option<&[u8]>) -> FormPost {
    let Some(content_type) = content_type.filter(|_| method == b"POST") else {
        return FormPost::No;
    };
    let media_type = media_type::without_parameters(content_type);
    if media_type.windows(2).any(|pair| pair == b"=?") {
        FormPost::Maybe
    } else if trim(media_type, |byte| !is_latin1_space(*byte)).eq_ignore_ascii_case(FORM.as_bytes())
    {
        FormPost::Yes
    } else {
        FormPost::No
    }
}

/// RFC 6750, section 2.1, as Synapse reads it.
fn bearer(authorization: &[u8]) -> Result<&[u8], CredentialError> {
    // RFC 9110, section 5.6.3: optional white space is spaces and tabs.
    trim(authorization, |byte| !matches!(byte, b' ' | b'\t'))
        .strip_prefix(b"Bearer ")
        .filter(|token| !token.is_empty() && !has_any(token, [b' ']))
        .ok_or(CredentialError::InvalidHeader)
}

/// `value` without the bytes at its ends that are not `wanted`.
fn trim(value: &[u8], wanted: impl Fn(&u8) -> bool) -> &[u8] {
    let (Some(first), Some(last)) = (
        value.iter().position(&wanted),
        value.iter().rposition(&wanted),
    ) else {
        return &[];
    };
    value.get(first..=last).unwrap_or_default()
}

/// Whether Python takes the byte, as Latin-1, for white space.
fn is_latin1_space(byte: u8) -> bool {
    matches!(byte, 0x09..=0x0d | 0x1c..=0x20 | 0x85 | 0xa0)
}

/// Whether there is an `access_token` in the query, also an empty one.
pub fn has_query_token(query: &[u8]) -> bool {
    query_token(query).is_some()
}

/// The encoded value of the first `access_token` in the query.
fn query_token(query: &[u8]) -> Option<&[u8]> {
    query
        .split(|&byte| byte == b'&' || byte == b';')
        .filter_map(|pair| {
            work::note(1 + pair.len());
            split_at(pair, b'=')
        })
        .find(|(name, _)| is_access_token(name))
        .map(|(_, value)| value)
}

fn is_access_token(name: &[u8]) -> bool {
    const NAME: &[u8] = b"access_token";
    name == NAME || (name.len() > NAME.len() && Decoded(name).eq(NAME.iter().copied()))
}

fn split_at(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    let (before, after) = text.split_at_checked(at)?;
    Some((before, after.get(1..)?))
}

fn decode(value: &[u8]) -> Cow<'_, [u8]> {
    if value.iter().any(|&byte| byte == b'%' || byte == b'+') {
        Cow::Owned(Decoded(value).collect())
    } else {
        Cow::Borrowed(value)
    }
}

#[cfg(test)]
mod tests;
