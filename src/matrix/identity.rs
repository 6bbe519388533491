//! From an active introspection answer to a Matrix identity, the way Synapse maps it, and its form in
//! request headers.
//!
//! Header values are percent-encoded: a compat device id may hold spaces, quotes and non-ASCII.

use alloc::vec::Vec;

use crate::{
    mas::introspection::ActiveToken,
    matrix::reply::Rejection,
    text::{
        plain_bytes::PlainBytes,
        scan::{self, begins_with},
    },
};

const API_SCOPES: [&str; 2] = [
    "urn:matrix:client:api:*",
    "urn:matrix:org.matrix.msc2967.client:api:*",
];
const DEVICE_SCOPES: [&str; 2] = [
    "urn:matrix:client:device:",
    "urn:matrix:org.matrix.msc2967.client:device:",
];
const ADMIN_SCOPE: &str = "urn:synapse:admin:*";

/// Longest device id that Synapse takes, in characters.
const MAX_DEVICE_ID_CHARS: usize = 255;

/// Who a request acts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The localpart of the user, on this server.
    pub localpart: &'a str,
    /// The device, if the token belongs to one.
    pub device_id: Option<&'a str>,
}

/// What a scope says, from one reading of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeRights<'a> {
    /// The token may use `/_synapse/admin`.
    pub is_server_admin: bool,
    /// It may use the API of clients.
    is_client: bool,
    /// Its device, if the scope names one.
    device_id: Option<&'a str>,
    /// The scope names another device as well.
    has_other_device: bool,
}

impl<'a> ScopeRights<'a> {
    /// Reads a scope.
    pub fn of(scope: &'a str) -> Self {
        let mut rights = Self::default();
        let mut rest = Some(scope);
        while let Some(part) = next_part(&mut rest) {
            let is = |other: &str| scan::is_equal(part.as_bytes(), other.as_bytes());
            let begins = |prefix: &&&str| begins_with(part.as_bytes(), prefix.as_bytes());
            if let Some(prefix) = DEVICE_SCOPES.iter().find(begins) {
                let device_id = part.get(prefix.len()..);
                // One device stands in the scope twice, in both spellings.
                match rights.device_id {
                    None => rights.device_id = device_id,
                    first => rights.has_other_device |= first != device_id,
                }
            } else {
                rights.is_client |= API_SCOPES.into_iter().any(is);
                rights.is_server_admin |= is(ADMIN_SCOPE);
            }
        }
        rights
    }
}

/// Takes the next part off a scope, as the standard library's `split` does, which looks for the spaces byte by byte.
fn next_part<'a>(rest: &mut Option<&'a str>) -> Option<&'a str> {
    loop {
        let text = (*rest)?;
        let end = scan::position(text.as_bytes(), b' ');
        *rest = end.and_then(|end| text.get(end + 1..));
        let part = text.get(..end.unwrap_or(text.len()))?;
        if !part.is_empty() {
            return Some(part);
        }
    }
}

/// The identity that `token` gives, or the reply with which Synapse refuses it. `rights` must be those of the token's own scope.
pub fn identity<'a>(
    token: &ActiveToken<'a>,
    rights: &ScopeRights<'a>,
) -> Result<Identity<'a>, Rejection> {
    if !rights.is_client {
        return Err(Rejection::NoApiScope);
    }
    Ok(Identity {
        localpart: token.username.ok_or(Rejection::InvalidUsername)?,
        device_id: device_id(token, rights)?,
    })
}

/// The device that `token` belongs to, whose scope says this, if any.
pub fn device_id<'a>(
    token: &ActiveToken<'a>,
    rights: &ScopeRights<'a>,
) -> Result<Option<&'a str>, Rejection> {
    let device_id = match token.device_id {
        Some(device_id) => device_id,
        None if rights.has_other_device => return Err(Rejection::MultipleDevices),
        None => match rights.device_id {
            Some(device_id) => device_id,
            None => return Ok(None),
        },
    };
    // Characters have one byte or more.
    let is_short =
        device_id.len() <= MAX_DEVICE_ID_CHARS || device_id.chars().count() <= MAX_DEVICE_ID_CHARS;
    if is_short && !device_id.is_empty() {
        Ok(Some(device_id))
    } else {
        Err(Rejection::InvalidDevice)
    }
}

/// The user id of a localpart on this server, as a [`header_value`].
pub fn user_id_value(localpart: &str, server_name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(localpart.len() + server_name.len() + 16);
    for (before, part) in [(b'@', localpart), (b':', server_name)] {
        out.push(before);
        PLAIN.encode(part.as_bytes(), b"%20", &mut out);
    }
    out
}

/// `value` for a header: visible ASCII stays, save `%` itself and the characters that lists and quoting
/// give a meaning (`"`, `,`, `;`, `\`); every other byte becomes `%XX`.
pub fn header_value(value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 16);
    PLAIN.encode(value.as_bytes(), b"%20", &mut out);
    out
}

/// The bytes that stay.
static PLAIN: PlainBytes = PlainBytes::visible_but(b"%\",;\\");

#[cfg(test)]
mod tests {
    use super::*;

    fn token(scope: &str) -> ActiveToken<'_> {
        ActiveToken {
            username: Some("alice"),
            scope,
            ..ActiveToken::default()
        }
    }

    fn identity<'a>(token: &ActiveToken<'a>) -> Result<Identity<'a>, Rejection> {
        super::identity(token, &ScopeRights::of(token.scope))
    }

    fn device<'a>(token: &ActiveToken<'a>) -> Result<Option<&'a str>, Rejection> {
        identity(token).map(|identity| identity.device_id)
    }

    #[test]
    fn both_spellings_of_the_api_scope_count() {
        for scope in API_SCOPES {
            let identity = identity(&token(scope)).unwrap();
            assert_eq!(identity.localpart, "alice");
            assert_eq!(identity.device_id, None);
        }
        for scope in [
            "",
            "openid",
            "urn:matrix:client:api:",
            "xurn:matrix:client:api:*",
        ] {
            assert_eq!(identity(&token(scope)), Err(Rejection::NoApiScope));
        }
    }

    #[test]
    fn a_token_without_a_user_is_refused_as_synapse_does() {
        let nobody = ActiveToken {
            username: None,
            ..token(API_SCOPES[0])
        };
        assert_eq!(identity(&nobody), Err(Rejection::InvalidUsername));
        let neither = ActiveToken {
            username: None,
            ..token("urn:mas:admin")
        };
        assert_eq!(identity(&neither), Err(Rejection::NoApiScope));
    }

    #[test]
    fn the_device_is_the_member_or_the_one_in_the_scope() {
        let both = "urn:matrix:client:api:* urn:matrix:client:device:A \
                    urn:matrix:org.matrix.msc2967.client:device:A";
        assert_eq!(device(&token(both)), Ok(Some("A")));
        let two = "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B";
        assert_eq!(device(&token(two)), Err(Rejection::MultipleDevices));
        let member = ActiveToken {
            device_id: Some("M"),
            ..token(two)
        };
        assert_eq!(device(&member), Ok(Some("M")));
    }

    #[test]
    fn the_order_and_the_spaces_of_a_scope_do_not_matter() {
        let parts = [
            "openid",
            "urn:synapse:admin:*",
            "urn:matrix:client:device:A",
            "urn:matrix:client:api:*",
        ];
        for start in 0..parts.len() {
            let mut parts = parts;
            parts.rotate_left(start);
            for space in [" ", "   "] {
                let scope = format!("{space}{}{space}", parts.join(space));
                let expected = ScopeRights {
                    is_server_admin: true,
                    is_client: true,
                    device_id: Some("A"),
                    has_other_device: false,
                };
                assert_eq!(ScopeRights::of(&scope), expected, "{scope}");
            }
        }
        for scope in [
            "urn:synapse:admin:",
            "urn:synapse:admin:**",
            "x urn:synapse:admin",
        ] {
            assert_eq!(ScopeRights::of(scope), ScopeRights::default());
        }
    }

    #[test]
    fn a_device_id_has_1_to_255_characters() {
        for (id, is_one) in [
            ("x".repeat(255), true),
            ("é".repeat(255), true),
            ("x".repeat(256), false),
            ("é".repeat(256), false),
            (String::new(), false),
        ] {
            let token = ActiveToken {
                device_id: Some(&id),
                ..token(API_SCOPES[0])
            };
            let expected = is_one.then_some(Some(&*id));
            assert_eq!(device(&token), expected.ok_or(Rejection::InvalidDevice));
        }
    }

    #[test]
    fn exactly_the_plain_bytes_of_a_header_value_stay() {
        for byte in 0..=0x7f_u8 {
            let text = char::from(byte).to_string();
            let is_plain = (0x21..0x7f).contains(&byte) && !b"%\",;\\".contains(&byte);
            let expected = if is_plain {
                text.clone()
            } else {
                format!("%{byte:02X}")
            };
            assert_eq!(header_value(&text), expected.as_bytes());
        }
    }

    #[test]
    fn header_values_are_percent_encoded() {
        assert_eq!(
            user_id_value("we;ird", "example.org:8448"),
            b"@we%3Bird:example.org:8448"
        );
        assert_eq!(
            header_value("@alice+b=/_.-:example.org:8448"),
            b"@alice+b=/_.-:example.org:8448"
        );
        assert_eq!(
            header_value("we ird/\"dev\"\\é%20+&=💥"),
            b"we%20ird/%22dev%22%5C%C3%A9%2520+&=%F0%9F%92%A5"
        );
        assert_eq!(header_value("a\r\nx: y,z;"), b"a%0D%0Ax:%20y%2Cz%3B");
    }
}
