//! The tokens that MAS issues: `PPP_` + 30 random characters + `_` + a CRC-32 of what stands before, in base 62,
//! least significant digit first. Also the legacy forms that it accepts as compat access tokens.

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest, Sha256};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_LENGTH: usize = 30;
const CHECK_LENGTH: usize = 6;

/// A token as MAS would issue it, with the given prefix (`mat`, `mar`, `mct`, `mcr`, `mpt`); the same for the same `name`.
///
/// ```
/// let token = stand_in::mas::token("mat", "alice's phone");
/// assert_eq!(token.len(), 41);
/// assert_eq!(token, stand_in::mas::token("mat", "alice's phone"));
/// ```
pub fn token(prefix: &str, name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    let random = digest
        .iter()
        .take(RANDOM_LENGTH)
        .map(|byte| char::from(DIGITS[usize::from(*byte) % 62]));
    let unchecked: String = prefix.chars().chain(['_']).chain(random).collect();
    let check = check(&unchecked);
    format!("{unchecked}_{check}")
}

fn check(unchecked: &str) -> String {
    let mut rest = crc32fast::hash(unchecked.as_bytes()) as usize;
    let mut digits = String::new();
    while rest > 0 {
        digits.push(char::from(DIGITS[rest % 62]));
        rest /= 62;
    }
    format!("{digits:0>CHECK_LENGTH$}")
}

/// Whether MAS would look the token up in its database; all others are inactive without a look.
pub(super) fn is_possible(token: &str) -> bool {
    token.starts_with("syt_")
        || token.starts_with("syr_")
        || is_macaroon(token)
        || is_checked(token)
}

fn is_checked(token: &str) -> bool {
    let Some((unchecked, given)) = token.rsplit_once('_') else {
        return false;
    };
    let known = ["mat_", "mar_", "mct_", "mcr_", "mpt_"]
        .iter()
        .any(|prefix| token.starts_with(prefix));
    known && unchecked.len() == 4 + RANDOM_LENGTH && check(unchecked) == given
}

fn is_macaroon(token: &str) -> bool {
    Base64UrlUnpadded::decode_vec(token)
        .is_ok_and(|bytes| bytes.get(4..13) == Some(b"location ".as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_tokens_are_possible() {
        for token in [
            "mat_EwElDq9JHFWgx8nN2G5oqJKBlHHQo1_mV09n3",
            "mcr_O468vg5xWqSBvNLdRVPivHm7GFUmGH_0iS18V",
            "mpt_8cZqjBanu2ExtGKQaxFUQ28HXNEQXM_yUyt23",
            "mct_JHOgUKsnsic4uUQxDk88OQxcQRsvXP_WuyhL3",
            "syt_a\0b",
            "MDAwMGxvY2F0aW9uIHJpZwB0ZXN0",
        ] {
            assert!(is_possible(token), "{token:?}");
        }
    }

    #[test]
    fn impossible_tokens() {
        for token in [
            "",
            "garbage",
            "mat_EwElDq9JHFWgx8nN2G5oqJKBlHHQo1_mV09na",
            "abc_yDh6WdpFalV3CYGd0XJ6OpHGxGFfIL_YL8WY4",
            "a\0b",
        ] {
            assert!(!is_possible(token), "{token:?}");
        }
    }

    #[test]
    fn minted_tokens_are_possible_and_differ() {
        for prefix in ["mat", "mar", "mct", "mcr", "mpt"] {
            for n in 0..1000 {
                let minted = token(prefix, &n.to_string());
                assert!(is_possible(&minted), "{minted}");
                assert_eq!(minted.len(), 41);
            }
        }
        assert_ne!(token("mat", "a"), token("mat", "b"));
    }
}
