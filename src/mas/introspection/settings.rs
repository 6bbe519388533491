//! How MAS is asked: the endpoint, its limits, and the credential of the edge.
//!
//! The credential is compared by its digest and in constant time, and no `Debug` output shows it.
//!
//! The non-obvious rule: RFC 6749 (section 2.3.1) has both halves of a Basic pair form-encoded, and MAS does not
//! decode them: it compares the bytes of the pair. So the plain pair is sent. From a caller
//! both forms are accepted, since some clients of MAS follow the RFC and some follow MAS.

use alloc::{borrow::Cow, format, string::String, vec::Vec};
use core::{fmt, time::Duration};

use base64ct::{Base64, Encoding};
use sha2::{Digest, Sha256};

use crate::text::form::Decoded;

/// Most times that a call is repeated.
pub const MAX_RETRIES: u32 = 2;

/// How MAS is asked: the configuration key `introspection`.
#[derive(Debug)]
pub struct Settings {
    /// Envoy cluster.
    pub cluster: String,
    /// `:authority` of the request.
    pub authority: String,
    /// `:path` of the request.
    pub path: String,
    /// Limit for one call.
    pub timeout: Duration,
    /// What proves to MAS that the edge may ask.
    pub credential: ClientCredential,
    /// Calls in flight per worker, at the most.
    pub max_in_flight: usize,
    /// How often a call is repeated whose connection failed, at the most [`MAX_RETRIES`] times.
    pub retries: u32,
    /// Whether `:authority` carries a label derived from the token digest, for a ring-hash cluster.
    pub shard_by_token: bool,
}

/// A name for how the same question is asked: with which secret, for how long, how often. A call fails for those who ask alike.
/// It has 16 bits of a hash, since it stands in shared data: enough to tell the listeners of one Envoy apart, too few to find a
/// secret by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker(pub u16);

/// What proves to MAS that the edge may ask. `Debug` shows no secret.
pub enum ClientCredential {
    /// The module knows it and sends it.
    Known(OwnCredential),
    /// Envoy adds the credential on the way out; the module never sees it.
    Injected,
}

/// A credential that the module knows.
pub struct OwnCredential {
    scheme: Scheme,
    /// The `authorization` value, ready to send.
    value: String,
    /// SHA-256 of the token, or of the pair before base64.
    digest: [u8; 32],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer,
}

impl Settings {
    /// How often the module repeats a call by itself. Where each token has a member of a fleet that is asked about it, Envoy
    /// repeats the calls: it alone knows which member it has asked, and can ask another one.
    pub fn own_retries(&self) -> u32 {
        if self.shard_by_token { 0 } else { self.retries }
    }

    /// How often Envoy repeats a call.
    pub fn envoys_retries(&self) -> u32 {
        self.retries - self.own_retries()
    }

    /// Returns the name of how these settings ask.
    pub fn asker(&self) -> Asker {
        let mut hash = Sha256::new();
        hash.update(self.timeout.as_millis().to_le_bytes());
        hash.update(self.retries.to_le_bytes());
        hash.update([self.shard_by_token.into()]);
        if let Some(credential) = self.credential.known() {
            hash.update(credential.digest);
        }
        let [first, second, ..] = hash.finalize().0;
        Asker(u16::from_le_bytes([first, second]))
    }

    /// The `:authority` of a question about this token, if it has its own. The label has 16 bits of the token's SHA-256, which
    /// is the same in every process: enough to spread tokens over a ring, too few to recognise one.
    pub fn authority_of(&self, token: &[u8]) -> Option<String> {
        if !self.shard_by_token {
            return None;
        }
        let [first, second, ..] = Sha256::digest(token).0;
        Some(format!("{first:02x}{second:02x}.{}", self.authority))
    }
}

impl ClientCredential {
    /// RFC 6750 bearer token: MAS's shared secret.
    pub fn bearer(secret: &str) -> Self {
        Self::Known(OwnCredential::new(Scheme::Bearer, secret))
    }

    /// `client_secret_basic`, with the pair as MAS compares it. The id has no colon.
    pub fn basic(client_id: &str, client_secret: &str) -> Self {
        let pair = format!("{client_id}:{client_secret}");
        Self::Known(OwnCredential::new(Scheme::Basic, &pair))
    }

    /// Returns the name of its kind, which is the configuration key.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Known(authorization) => match authorization.scheme {
                Scheme::Basic => "basic",
                Scheme::Bearer => "bearer",
            },
            Self::Injected => "injected",
        }
    }

    /// The `authorization` value to send, if the module knows it.
    pub fn authorization(&self) -> Option<&str> {
        self.known()
            .map(|authorization| authorization.value.as_str())
    }

    /// The credential, if the module knows it.
    pub fn known(&self) -> Option<&OwnCredential> {
        match self {
            Self::Known(authorization) => Some(authorization),
            Self::Injected => None,
        }
    }

    /// The secret that MAS and the homeserver share, if the module knows it.
    pub fn shared_secret(&self) -> Option<&OwnCredential> {
        self.known()
            .filter(|authorization| authorization.scheme == Scheme::Bearer)
    }
}

impl OwnCredential {
    fn new(scheme: Scheme, secret: &str) -> Self {
        let credentials = match scheme {
            Scheme::Basic => Cow::Owned(Base64::encode_string(secret.as_bytes())),
            Scheme::Bearer => Cow::Borrowed(secret),
        };
        Self {
            scheme,
            value: format!("{} {credentials}", scheme.name()),
            digest: Sha256::digest(secret).0,
        }
    }

    /// Whether `value`, of an `authorization` header, is this credential. The time it takes tells nothing
    /// of the secret. As for MAS, the case of the scheme does not matter.
    pub fn matches(&self, value: &[u8]) -> bool {
        let value = value.trim_ascii();
        let name = self.scheme.name().as_bytes();
        let Some((scheme, credentials)) = value.split_at_checked(name.len()) else {
            return false;
        };
        if !scheme.eq_ignore_ascii_case(name) || !credentials.starts_with(b" ") {
            return false;
        }
        let credentials = credentials.trim_ascii_start();
        match self.scheme {
            Scheme::Bearer => self.is(credentials),
            Scheme::Basic => base64(credentials)
                .is_some_and(|pair| self.is(&pair) || self.is(&form_decoded(&pair))),
        }
    }

    fn is(&self, secret: &[u8]) -> bool {
        let digest = Sha256::digest(secret).0;
        let differing = self.digest.iter().zip(digest).map(|(a, b)| a ^ b);
        differing.fold(0, |all, bits| all | bits) == 0
    }
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    Base64::decode_vec(core::str::from_utf8(text).ok()?).ok()
}

/// The pair whose halves were form-encoded. Decoding leaves the colon between them as it is.
fn form_decoded(pair: &[u8]) -> Vec<u8> {
    Decoded(pair).collect()
}

impl Scheme {
    const fn name(self) -> &'static str {
        match self {
            Self::Basic => "Basic",
            Self::Bearer => "Bearer",
        }
    }
}

impl fmt::Debug for ClientCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known(_) => "Known(..)",
            Self::Injected => "Injected",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(credential: &ClientCredential, value: &[u8]) -> bool {
        credential.known().is_some_and(|known| known.matches(value))
    }

    #[test]
    fn a_credential_is_recognised_as_mas_recognises_it() {
        let bearer = ClientCredential::bearer("s3cret");
        for value in [
            &b"Bearer s3cret"[..],
            b"bearer s3cret",
            b"BEARER   s3cret",
            b" Bearer s3cret ",
        ] {
            assert!(matches(&bearer, value));
        }
        for value in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearers3cret",
            b"Bearer s3cre",
            b"Bearer s3crets",
            b"Bearer S3cret",
            b"Bearer s3cret,Bearer s3cret",
            b"Basic s3cret",
            b"s3cret",
            b"Bearer\xff",
        ] {
            assert!(!matches(&bearer, value));
        }
        let basic = ClientCredential::basic("edge", "s3cret");
        assert!(matches(&basic, b"basic ZWRnZTpzM2NyZXQ="));
        assert!(!matches(&basic, b"bearer ZWRnZTpzM2NyZXQ="));
        assert!(!matches(&ClientCredential::Injected, b"Bearer s3cret"));
    }

    #[test]
    fn a_basic_pair_is_sent_plain() {
        let credential = ClientCredential::basic("01CLIENT", "n0Tq+3u/9mZ2yVQ1==");
        let pair = Base64::encode_string(b"01CLIENT:n0Tq+3u/9mZ2yVQ1==");
        assert_eq!(
            credential.authorization(),
            Some(format!("Basic {pair}").as_str())
        );
    }

    #[test]
    fn a_basic_pair_is_recognised_plain_and_form_encoded() {
        let basic = |pair: &str| format!("Basic {}", Base64::encode_string(pair.as_bytes()));
        let credential = ClientCredential::basic("a b", "n0Tq+3u/9:Z%20==");
        for pair in [
            "a b:n0Tq+3u/9:Z%20==",
            "a+b:n0Tq%2B3u%2F9%3AZ%2520%3D%3D",
            "a%20b:n0Tq%2b3u%2f9%3aZ%2520%3d%3d",
            "a+b:n0Tq%2B3u/9:Z%2520==",
        ] {
            assert!(matches(&credential, basic(pair).as_bytes()), "{pair}");
        }
        for pair in [
            "a b:n0Tq 3u/9:Z%20==",
            "a b:n0Tq+3u/9:Z ==",
            "a b:n0Tq%252B3u%252F9%253AZ%252520%253D%253D",
            "a b",
            "a b:",
            ":n0Tq+3u/9:Z%20==",
            "",
        ] {
            assert!(!matches(&credential, basic(pair).as_bytes()), "{pair}");
        }
        for value in ["Basic", "Basic ", "Basic !!!", "Basic YQ", "Basic \u{e9}"] {
            assert!(!matches(&credential, value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn only_a_bearer_is_what_mas_shares_with_the_homeserver() {
        assert!(ClientCredential::bearer("x").shared_secret().is_some());
        assert!(ClientCredential::basic("x", "y").shared_secret().is_none());
        assert!(ClientCredential::Injected.shared_secret().is_none());
    }

    #[test]
    fn who_asks_is_told_by_all_that_a_call_may_fail_by() {
        let settings = |credential, seconds, retries, shard_by_token| Settings {
            cluster: "mas".to_owned(),
            authority: "mas".to_owned(),
            path: "/oauth2/introspect".to_owned(),
            timeout: Duration::from_secs(seconds),
            credential,
            max_in_flight: 64,
            retries,
            shard_by_token,
        };
        let bearer = ClientCredential::bearer;
        let asker = settings(bearer("s3cret"), 5, 1, false).asker();
        for other in [
            settings(bearer("s3cret."), 5, 1, false),
            settings(ClientCredential::Injected, 5, 1, false),
            settings(bearer("s3cret"), 6, 1, false),
            settings(bearer("s3cret"), 5, 0, false),
            settings(bearer("s3cret"), 5, 1, true),
        ] {
            assert_ne!(other.asker(), asker, "{other:?}");
        }
        // How many ask at once is no way of asking.
        let more = Settings {
            max_in_flight: 65,
            ..settings(bearer("s3cret"), 5, 1, false)
        };
        assert_eq!(more.asker(), asker);
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", ClientCredential::bearer("s3cret"));
        assert_eq!(shown, "Known(..)");
    }
}
