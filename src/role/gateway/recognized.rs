//! What the tokens in use are, so that a hit computes neither digest nor checksum of its token.
//!
//! Both are pure functions of the token and of the process's secret, so what is remembered is never out of date. Whether a token
//! is an application service's depends on the configuration too, so the list of them is a part of the key. Only tokens of which
//! the worker keeps a grant are remembered, and, in a place of their own, inactive ones that come again: invented ones push no
//! session out.
//!
//! The non-obvious rule: the keys are hashes, and a collision would give one token the answer about another. So they are
//! 128 bits under a secret key of the VM ([`crate::hashes::multilinear`]): no client can look for collisions, and by chance there
//! are none.

use crate::{
    config::Config,
    hashes::multilinear::{Hash, Multilinear},
    maps::probing::{ProbingMap, Spread},
    mas::token::{Shape, shape},
    token::{TokenDigest, TokenSecret},
};

/// Inactive tokens that are remembered at the most.
const MAX_INACTIVE: usize = 1_024;

/// What a token is by itself.
#[derive(Clone, Copy, Debug)]
pub struct Recognized {
    /// Its identity in the cache.
    pub digest: TokenDigest,
    /// Its form.
    pub shape: Shape,
    /// Whether the configuration knows it as an application service's.
    pub is_appservice: bool,
}

impl Recognized {
    /// Returns what `token` is, which is named under `secret`. `None`: it cannot exist, which is known before it is named.
    pub fn of(config: &Config, secret: TokenSecret, token: &[u8]) -> Option<Self> {
        let shape = shape(token);
        let is_appservice = config.appservice_tokens.contains(token);
        if shape == Shape::CannotExist && !is_appservice {
            return None;
        }
        Some(Self {
            digest: secret.digest(token),
            shape,
            is_appservice,
        })
    }
}

/// Secret hashes: no client can choose them.
impl Spread for Hash {
    fn spread(&self) -> u32 {
        let [first, ..] = *self;
        first
    }
}

/// The tokens in use of one worker.
pub(super) struct RecognizedTokens {
    hashes: Multilinear,
    /// Under which those below are named. A worker may come to the secret of all late.
    secret: Option<TokenSecret>,
    tokens: ProbingMap<Hash, Recognized>,
    /// Those that are inactive.
    inactive: ProbingMap<Hash, Recognized>,
    /// The last token that was looked at, if it was not among them.
    last: Option<(Hash, Recognized)>,
}

impl RecognizedTokens {
    /// None. `random` makes the secret key.
    pub fn new(random: impl FnMut() -> u64) -> Self {
        Self {
            hashes: Multilinear::new(random),
            secret: None,
            tokens: ProbingMap::default(),
            inactive: ProbingMap::default(),
            last: None,
        }
    }

    /// Returns what `token` is, as [`Recognized::of`] does.
    pub fn of(&mut self, config: &Config, secret: TokenSecret, token: &[u8]) -> Option<Recognized> {
        if self.secret != Some(secret) {
            self.tokens = ProbingMap::default();
            self.inactive = ProbingMap::default();
            self.secret = Some(secret);
        }
        let appservices = config.appservice_tokens.fingerprint();
        let [low, high] = [appservices as u32, (appservices >> 32) as u32];
        let hash = self.hashes.hash(token);
        let hash = hash.map(|[a, b, c, d]| [a, b, c ^ low, d ^ high]);
        let known = |hash| self.tokens.get(&hash).or_else(|| self.inactive.get(&hash));
        if let Some(known) = hash.and_then(known) {
            self.last = None;
            return Some(*known);
        }
        let recognized = Recognized::of(config, secret, token);
        // Of a token that is too long to be hashed nothing is remembered.
        self.last = hash.zip(recognized);
        recognized
    }

    /// Remembers the token of this name, if it was the last that was looked at, and is not remembered yet. When there are
    /// `capacity` of them they are all forgotten: the next hit of each costs its digest once. With a capacity of 0 it does nothing.
    pub fn remember(&mut self, token: &TokenDigest, capacity: usize) {
        if let Some((hash, recognized)) = self.take_last(token) {
            remember(&mut self.tokens, capacity, hash, recognized);
        }
    }

    /// Remembers it as an inactive one.
    pub fn remember_inactive(&mut self, token: &TokenDigest, capacity: usize) {
        if let Some((hash, recognized)) = self.take_last(token) {
            let capacity = capacity.min(MAX_INACTIVE);
            remember(&mut self.inactive, capacity, hash, recognized);
        }
    }

    fn take_last(&mut self, token: &TokenDigest) -> Option<(Hash, Recognized)> {
        let is_it = |(_, last): &mut (Hash, Recognized)| last.digest == *token;
        self.last.take_if(is_it)
    }
}

fn remember(
    tokens: &mut ProbingMap<Hash, Recognized>,
    capacity: usize,
    hash: Hash,
    recognized: Recognized,
) {
    if capacity == 0 {
        return;
    }
    if tokens.len() >= capacity {
        *tokens = ProbingMap::default();
    }
    tokens.insert(hash, recognized);
}

impl core::fmt::Debug for RecognizedTokens {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("RecognizedTokens(..)")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config::{self, AppserviceTokens},
        hashes::multilinear::tests::random,
        mas::token::{Shape, TokenKind},
        token::TokenDigest,
    };

    const TOKENS: [&[u8]; 3] = [
        b"mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1",
        b"syt_YWxpY2U_x",
        b"of_nobody",
    ];
    const IMPOSSIBLE: &[u8] = b"mat_of_nobody";
    const SECRET: TokenSecret = TokenSecret::NONE;

    fn none() -> RecognizedTokens {
        RecognizedTokens::new(random)
    }

    fn config(appservice_tokens: &[&str]) -> Config {
        config::tests::with(json!({"appservice_tokens": appservice_tokens}))
    }

    #[test]
    fn a_token_is_the_same_before_and_after_it_is_remembered() {
        let (mut tokens, config) = (none(), config(&[]));
        for _ in 0..2 {
            for token in TOKENS {
                let found = tokens.of(&config, SECRET, token).unwrap();
                assert_eq!(found.digest, TokenDigest::of(token));
                let shape = Recognized::of(&config, SECRET, token).unwrap().shape;
                assert_eq!(found.shape, shape);
                tokens.remember(&found.digest, 10);
            }
        }
        assert_eq!(tokens.tokens.len(), TOKENS.len());
        let kind = TokenKind::CompatAccessToken;
        let known = tokens.of(&config, SECRET, TOKENS[1]).unwrap();
        assert_eq!(known.shape, Shape::Introspectable(kind));
    }

    #[test]
    fn a_token_of_any_form_may_be_an_appservices_under_its_own_list_only() {
        let mut tokens = none();
        let sha256 = |token| {
            let digest = AppserviceTokens::digest(token);
            digest.map(|byte| format!("{byte:02x}")).concat()
        };
        let [none, other, both] = [
            config(&[]),
            config(&[&"a".repeat(64)]),
            config(&[&sha256(TOKENS[0]), &sha256(IMPOSSIBLE)]),
        ];
        for _ in 0..2 {
            for (config, is_listed) in [(&none, false), (&other, false), (&both, true)] {
                let mut of = |token| {
                    let found = tokens.of(config, SECRET, token);
                    tokens.remember(&TokenDigest::of(token), 10);
                    found
                };
                for _ in 0..2 {
                    assert_eq!(of(TOKENS[0]).unwrap().is_appservice, is_listed);
                    assert!(!of(TOKENS[1]).unwrap().is_appservice);
                    assert_eq!(of(IMPOSSIBLE).is_some(), is_listed);
                }
            }
        }
    }

    #[test]
    fn a_token_that_is_too_long_to_be_remembered_is_what_it_is() {
        let (mut tokens, config) = (none(), config(&[]));
        let long = [b"syt_", &[b'x'; 200][..]].concat();
        for _ in 0..2 {
            let found = tokens.of(&config, SECRET, &long).unwrap();
            assert_eq!(found.digest, TokenDigest::of(&long));
            tokens.remember(&found.digest, 10);
            assert!(tokens.tokens.is_empty());
        }
    }

    #[test]
    fn two_configurations_with_other_appservices_push_each_others_tokens_not_out() {
        let mut tokens = none();
        let configs = [config(&[]), config(&[&"a".repeat(64)])];
        for config in &configs {
            tokens.of(config, SECRET, TOKENS[0]);
            tokens.remember(&TokenDigest::of(TOKENS[0]), 10);
        }
        for config in &configs {
            tokens.of(config, SECRET, TOKENS[0]);
            assert!(tokens.last.is_none(), "it is known");
        }
    }

    #[test]
    fn nothing_is_remembered_of_tokens_that_grant_nothing() {
        let (mut tokens, config) = (none(), config(&[]));
        for number in 0..1_000_u32 {
            tokens.of(&config, SECRET, &number.to_le_bytes());
        }
        assert!(tokens.tokens.is_empty());
    }

    /// Another was looked at in between.
    #[test]
    fn a_token_is_remembered_only_by_its_own_name() {
        let (mut tokens, config) = (none(), config(&[]));
        let [first, second, _] = TOKENS.map(TokenDigest::of);
        for token in &TOKENS[..2] {
            tokens.of(&config, SECRET, token);
        }
        tokens.remember(&first, 10);
        tokens.remember_inactive(&first, 10);
        assert!(tokens.tokens.is_empty() && tokens.inactive.is_empty());
        tokens.remember(&second, 10);
        assert_eq!(tokens.tokens.len(), 1);
        tokens.of(&config, SECRET, TOKENS[1]);
        assert!(tokens.last.is_none(), "it is known");
    }

    #[test]
    fn inactive_tokens_are_remembered_apart_and_not_many() {
        let (mut tokens, config) = (none(), config(&[]));
        tokens.of(&config, SECRET, TOKENS[0]);
        tokens.remember(&TokenDigest::of(TOKENS[0]), 64);
        for number in 0..10_000_u32 {
            for _ in 0..2 {
                let token = number.to_le_bytes();
                let found = tokens.of(&config, SECRET, &token).unwrap();
                assert_eq!(found.digest, TokenDigest::of(&token));
                tokens.remember_inactive(&found.digest, 65_536);
            }
            assert!(tokens.inactive.len() <= MAX_INACTIVE);
        }
        assert!(tokens.inactive.len() > 1);
        assert_eq!(tokens.tokens.len(), 1);
        let before = tokens.inactive.len();
        tokens.of(&config, SECRET, TOKENS[1]);
        tokens.remember_inactive(&TokenDigest::of(TOKENS[1]), 0);
        assert_eq!(tokens.inactive.len(), before, "another listener's");
    }

    #[test]
    fn no_more_are_remembered_than_grants_are_kept() {
        let (mut tokens, config) = (none(), config(&[]));
        for number in 0..1_000_u32 {
            let token = number.to_le_bytes();
            tokens.of(&config, SECRET, &token);
            tokens.remember(&TokenDigest::of(&token), 64);
            tokens.remember(&TokenDigest::of(&token), 64);
            assert!(tokens.tokens.len() <= 64);
        }
        assert!(tokens.tokens.len() > 1);
    }

    /// Half of it would let two lists be taken for one.
    #[test]
    fn the_whole_fingerprint_of_the_appservices_is_a_part_of_the_key() {
        let mut tokens = none();
        let mut key = |config: &Config| {
            tokens.of(config, SECRET, TOKENS[0]);
            tokens.last.expect("it is not remembered").0
        };
        let listed = config(&[&"0123456789abcdef".repeat(4)]);
        let (with, without) = (key(&listed), key(&config(&[])));
        let fingerprint = listed.appservice_tokens.fingerprint();
        let halves = [fingerprint as u32, (fingerprint >> 32) as u32];
        assert_ne!(halves[0], halves[1]);
        let difference: Vec<u32> = with.iter().zip(&without).map(|(a, b)| a ^ b).collect();
        assert_eq!(difference, [0, 0, halves[0], halves[1]]);
    }
}
