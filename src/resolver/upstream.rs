//! Who is asked about tokens, and what is kept of the answers: the part of a plugin configuration that
//! resolving takes.
//!
//! Everything that grants is keyed by the question: who was asked, and about which token. So an answer of one
//! MAS never serves for another.

use alloc::{rc::Rc, vec::Vec};
use core::{cell::OnceCell, fmt};

use super::clients::load::PoolId;
use crate::{
    cache::{SharedCache, question::QuestionKey},
    config::{Config, UnknownTokenBudget},
    host::fields::serialize,
    mas::introspection::{self, Asker, Settings},
    token::TokenDigest,
};

/// What becomes of a question while every call of its pool is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// It waits in line for a free call.
    Wait,
    /// There is no verdict at once.
    Refuse,
}

/// The cap on calls that a configuration's questions count against.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// Which calls count together.
    pub pool: PoolId,
    /// What becomes of a question over the cap.
    pub overflow: Overflow,
}

/// Who is given the answers.
#[derive(Clone, Copy, Debug)]
pub struct Consumer {
    /// Which cap its questions count against.
    pub admission: Admission,
    /// It keeps the answers that it is given, as the homeserver does.
    pub keeps_answers: bool,
    /// How many inactive tokens a worker may keep for it without MAS's own bytes.
    pub kept_inactive: usize,
}

/// One way of asking, as configured.
pub struct Upstream {
    /// How MAS is asked.
    pub settings: Rc<Settings>,
    /// The name of that.
    pub asker: Asker,
    /// The shared cache, as this configuration sizes it.
    pub cache: SharedCache,
    /// How many inactive tokens one client may bring.
    pub budget: Option<UnknownTokenBudget>,
    /// Which cap its calls count against.
    pub admission: Admission,
    /// Whether those who ask keep the answers they are given, as the homeserver does.
    pub keeps_answers: bool,
    /// Made with the first request, since they cost as much as all else that makes one.
    fixed_headers: OnceCell<Vec<u8>>,
}

impl fmt::Debug for Upstream {
    /// Shows no credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// Returns the way of asking that `config` describes.
    pub fn new(config: &Config, consumer: Consumer) -> Self {
        let cache = SharedCache::new(&config.cache, config.fingerprint());
        Self {
            settings: Rc::clone(&config.introspection),
            asker: config.introspection.asker(),
            cache: cache.keeping_inactive(consumer.kept_inactive),
            budget: config.unknown_token_budget,
            admission: consumer.admission,
            keeps_answers: consumer.keeps_answers,
            fixed_headers: OnceCell::new(),
        }
    }

    /// Returns the headers that all requests have, [serialized](crate::host::Fields::parse).
    pub(super) fn fixed_headers(&self) -> &[u8] {
        self.fixed_headers.get_or_init(|| {
            let headers = introspection::fixed_headers(&self.settings);
            serialize(
                headers
                    .iter()
                    .map(|(name, value)| (*name, value.as_bytes())),
            )
        })
    }

    /// Returns the name of who is asked, see [`Config::fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        self.cache.fingerprint()
    }

    /// Returns the name of the question whose token this is.
    pub fn question(&self, digest: &TokenDigest) -> QuestionKey {
        self.cache.question(digest)
    }

    /// Returns the name of the question as this configuration puts it: a call fails only for those who ask alike.
    pub fn own_question(&self, digest: &TokenDigest) -> QuestionKey {
        self.question(digest).put_by(self.asker)
    }
}
