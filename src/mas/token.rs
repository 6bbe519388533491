//! What kind of token a string is, by its form alone: the check that MAS makes before it looks into
//! its database.
//!
//! A MAS token is `PPP_` + 30 bytes + `_` + 6: a prefix that names the kind, a random part, and the
//! CRC-32 of the two in base 62. Tokens that Synapse issued before a migration to MAS are compat
//! tokens: `syt_...`, `syr_...`, and macaroons, which are older still.
//!
//! The non-obvious rule: a wrong checksum proves that MAS never issued the token, but a string of
//! another form proves nothing, since an appservice token is whatever an operator wrote down. Only
//! strings with a MAS prefix can be refused here, and a configured appservice token comes first
//! even then.

use base64ct::{Base64UrlUnpadded, Encoding};

use crate::text::scan;

/// The kinds of token that MAS tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// `mat_`: access token of an OAuth 2.0 session.
    AccessToken,
    /// `mct_`, `syt_` or a macaroon: access token of a session made by `/login`.
    CompatAccessToken,
    /// `mcr_` or `syr_`: refresh token of a session made by `/login`.
    CompatRefreshToken,
    /// `mpt_`: personal access token.
    PersonalAccessToken,
    /// `mar_`: refresh token of an OAuth 2.0 session.
    RefreshToken,
}

impl TokenKind {
    const BY_PREFIX: [(&'static [u8], Self); 5] = [
        (b"mat", Self::AccessToken),
        (b"mar", Self::RefreshToken),
        (b"mct", Self::CompatAccessToken),
        (b"mcr", Self::CompatRefreshToken),
        (b"mpt", Self::PersonalAccessToken),
    ];

    /// The value of the `token_kind` identity header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::CompatAccessToken => "compat_access_token",
            Self::CompatRefreshToken => "compat_refresh_token",
            Self::PersonalAccessToken => "personal_access_token",
            Self::RefreshToken => "refresh_token",
        }
    }

    /// Whether the token only serves to get another one. Introspected with the hint `access_token`,
    /// as Synapse does it, such a token is inactive.
    pub const fn is_refresh(self) -> bool {
        matches!(self, Self::RefreshToken | Self::CompatRefreshToken)
    }

    fn from_prefix(prefix: &[u8]) -> Option<Self> {
        Self::BY_PREFIX
            .iter()
            .find(|(name, _)| *name == prefix)
            .map(|&(_, kind)| kind)
    }
}

/// Why MAS would not look a string up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFormatError {
    /// The checksum does not belong to the rest.
    InvalidCrc,
    /// Not three parts of 3, 30 and 6 bytes.
    InvalidFormat,
    /// The right form, but no such kind.
    UnknownPrefix,
}

/// The kind of a token, with the same answer as MAS's own check. Lengths are bytes; the random part
/// may hold any byte but `_`.
pub fn check(token: &[u8]) -> Result<TokenKind, TokenFormatError> {
    if token.starts_with(b"syt_") || is_macaroon(token) {
        return Ok(TokenKind::CompatAccessToken);
    }
    if token.starts_with(b"syr_") {
        return Ok(TokenKind::CompatRefreshToken);
    }
    let (prefix, checksum) = parts(token).ok_or(TokenFormatError::InvalidFormat)?;
    let kind = TokenKind::from_prefix(prefix).ok_or(TokenFormatError::UnknownPrefix)?;
    let covered = token.get(..PREFIX_BYTES + 1 + RANDOM_BYTES);
    if base62(crc32(covered.unwrap_or_default())) == *checksum {
        Ok(kind)
    } else {
        Err(TokenFormatError::InvalidCrc)
    }
}

/// Returns the prefix and the checksum of a token of three parts, none of which has the separator in it.
fn parts(token: &[u8]) -> Option<(&[u8], &[u8; CHECKSUM_BYTES])> {
    let (prefix, rest) = token.split_at_checked(PREFIX_BYTES)?;
    let (random, rest) = rest
        .strip_prefix(SEPARATOR)?
        .split_at_checked(RANDOM_BYTES)?;
    let checksum: &[u8; CHECKSUM_BYTES] = rest.strip_prefix(SEPARATOR)?.try_into().ok()?;
    let has_more = |part: &[u8]| scan::has_any(part, [b'_']);
    let is_one = !has_more(prefix) && !has_more(random) && !has_more(checksum);
    is_one.then_some((prefix, checksum))
}

/// What a string's form says about introspecting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// MAS cannot have issued it as an access token: inactive, and no need to ask.
    CannotExist,
    /// MAS may know it.
    Introspectable(TokenKind),
    /// Nothing that MAS issues. It may be an appservice token; configuration decides.
    Unrecognized,
}

/// Sorts a token by its form. Known appservice tokens must be recognised before: they are free to
/// look like anything here.
///
/// MAS takes any `syt_...` as well-formed and then fails on a NUL byte with a 500 (PostgreSQL has
/// no NUL in text). No token was ever issued with a control byte, so none is sent.
pub fn shape(token: &[u8]) -> Shape {
    match check(token) {
        Ok(kind) if kind.is_refresh() || scan::has_control(token) => Shape::CannotExist,
        Ok(kind) => Shape::Introspectable(kind),
        Err(_) if token.is_empty() || has_mas_prefix(token) => Shape::CannotExist,
        Err(_) => Shape::Unrecognized,
    }
}

const SEPARATOR: &[u8] = b"_";
const PREFIX_BYTES: usize = 3;
const RANDOM_BYTES: usize = 30;
const CHECKSUM_BYTES: usize = 6;

fn has_mas_prefix(token: &[u8]) -> bool {
    token
        .split_first_chunk::<4>()
        .is_some_and(|([a, b, c, separator], _)| {
            *separator == b'_' && TokenKind::from_prefix(&[*a, *b, *c]).is_some()
        })
}

/// Strict url-safe base64 without padding, whose bytes 4 to 13 name a macaroon's first packet. The
/// four bytes before are the packet's length in hexadecimal and differ with the server name.
fn is_macaroon(token: &[u8]) -> bool {
    const BLOCK: usize = 64;
    // Bytes 6 to 12, `cation`, are encoded by themselves. So nearly every other token is told apart without decoding.
    if token.get(8..16) != Some(b"Y2F0aW9u") {
        return false;
    }
    let mut first_packet = None;
    for block in token.chunks(BLOCK) {
        let mut buffer = [0; BLOCK / 4 * 3];
        let Ok(decoded) = Base64UrlUnpadded::decode(block, &mut buffer) else {
            return false;
        };
        if !*first_packet.get_or_insert(decoded.get(4..13) == Some(b"location ")) {
            return false;
        }
    }
    first_packet.unwrap_or(false)
}

/// Base 62, least significant digit first, then filled up with zeros on the *left*: the fill and
/// the digits run in opposite directions.
fn base62(mut number: u32) -> [u8; CHECKSUM_BYTES] {
    const DIGITS: u32 = 62;
    let mut digits = 0;
    let mut text = [b'0'; CHECKSUM_BYTES];
    // 62^6 > 2^32: six digits hold every checksum.
    for place in &mut text {
        if number == 0 {
            break;
        }
        *place = match u8::try_from(number % DIGITS).unwrap_or(0) {
            digit @ 0..10 => b'0' + digit,
            digit @ 10..36 => b'A' + digit - 10,
            digit => b'a' + digit - 36,
        };
        number /= DIGITS;
        digits += 1;
    }
    // Most have six digits.
    if digits < CHECKSUM_BYTES {
        text.rotate_left(digits);
    }
    text
}

/// CRC-32/ISO-HDLC, the CRC of zlib and Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        let [low, ..] = crc.to_le_bytes();
        let entry = CRC32_TABLE
            .get(usize::from(low ^ byte))
            .copied()
            .unwrap_or(0);
        entry ^ (crc >> 8)
    })
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const CRC32_TABLE: [u32; 256] = {
    const POLYNOMIAL_REFLECTED: u32 = 0xedb8_8320;
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL_REFLECTED * (crc & 1));
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_has_its_check_value() {
        // "check" of CRC-32/ISO-HDLC in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn base62_is_reversed_and_then_filled_on_the_left() {
        assert_eq!(&base62(0), b"000000");
        assert_eq!(&base62(61), b"00000z");
        assert_eq!(&base62(62), b"000001");
        assert_eq!(&base62(63), b"000011");
        assert_eq!(&base62(u32::MAX), b"3CFfg4");
    }

    /// MAS splits a token at each `_` and takes three parts.
    #[test]
    fn no_part_of_a_token_holds_the_separator() {
        let with_random = |random: &[u8; RANDOM_BYTES]| {
            let covered = [b"mat_", &random[..]].concat();
            [&covered[..], b"_", &base62(crc32(&covered))].concat()
        };
        let plain = *b"Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q";
        assert_eq!(check(&with_random(&plain)), Ok(TokenKind::AccessToken));
        for at in [0, 15, RANDOM_BYTES - 1] {
            let mut random = plain;
            random[at] = b'_';
            let token = with_random(&random);
            assert_eq!(check(&token), Err(TokenFormatError::InvalidFormat));
            assert_eq!(shape(&token), Shape::CannotExist);
        }
    }

    #[test]
    fn control_bytes_make_a_token_impossible() {
        for token in [&b"syt_a\0b"[..], b"syt_\x1f", b"syt_\x7f", b"syt_a\nb"] {
            assert_eq!(check(token), Ok(TokenKind::CompatAccessToken));
            assert_eq!(shape(token), Shape::CannotExist);
        }
        assert_eq!(
            shape(b"syt_ ~"),
            Shape::Introspectable(TokenKind::CompatAccessToken)
        );
    }

    #[test]
    fn long_macaroons_are_read_to_the_end() {
        // 0020location x..., long enough for several blocks of the decoder.
        let mut macaroon = b"MDAyMGxvY2F0aW9uIG1h".to_vec();
        macaroon.extend(b"dHJp".repeat(100));
        assert_eq!(check(&macaroon), Ok(TokenKind::CompatAccessToken));
        for junk in [&b"="[..], b"+", b"/", b"a", b"\xff", b"\0"] {
            let spoilt = [&macaroon, junk].concat();
            assert_eq!(
                check(&spoilt),
                Err(TokenFormatError::InvalidFormat),
                "{junk:?}"
            );
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod properties {
        use proptest::prelude::*;

        use super::*;

        prop_compose! {
            fn mas_token()(
                kind in prop::sample::select(&TokenKind::BY_PREFIX[..]),
                random in "[0-9A-Za-z]{30}",
            ) -> (TokenKind, Vec<u8>) {
                let mut token = [kind.0, b"_", random.as_bytes()].concat();
                let checksum = base62(crc32(&token));
                token.extend_from_slice(b"_");
                token.extend_from_slice(&checksum);
                (kind.1, token)
            }
        }

        proptest! {
            #[test]
            fn a_generated_token_checks((kind, token) in mas_token()) {
                prop_assert_eq!(check(&token), Ok(kind));
            }

            #[test]
            fn a_changed_token_does_not(
                (_, token) in mas_token(),
                at: prop::sample::Index,
                byte: u8,
            ) {
                let mut changed = token.clone();
                changed[at.index(token.len())] = byte;
                prop_assume!(changed != token);
                prop_assert!(check(&changed).is_err());
            }

            #[test]
            fn arbitrary_bytes_never_panic(token: Vec<u8>) {
                let _ = shape(&token);
            }

            #[test]
            fn a_mas_prefix_is_never_unrecognized(
                kind in prop::sample::select(&TokenKind::BY_PREFIX[..]),
                rest: Vec<u8>,
            ) {
                let token = [kind.0, b"_", &rest].concat();
                prop_assert_eq!(shape(&token), Shape::CannotExist);
            }
        }
    }
}
