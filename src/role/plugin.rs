//! One plugin configuration in use: a root context.

use std::{cell::Cell, rc::Rc};

use crate::{
    cache::question::QuestionKey, config::Config, host::RootId, resolver::Upstream,
    token::TokenDigest,
};

/// A plugin configuration, and what is derived from it once.
#[derive(Debug)]
pub struct Plugin {
    /// The root context that runs it.
    pub root: RootId,
    /// The configuration.
    pub config: Config,
    /// Who is asked about tokens.
    pub upstream: Rc<Upstream>,
    /// The log has told that clients are routed to the cluster of the introspections.
    pub is_route_reported: Cell<bool>,
    identity_fingerprint: u64,
}

impl Plugin {
    /// Returns the plugin that `config` describes, run by `root`.
    pub fn new(root: RootId, config: Config) -> Self {
        Self {
            root,
            upstream: Rc::new(Upstream::new(&config)),
            is_route_reported: Cell::new(false),
            identity_fingerprint: config.identity_fingerprint(),
            config,
        }
    }

    /// Returns the key under which a worker keeps a token's grant, which names a user of one server.
    pub fn grant_key(&self, digest: &TokenDigest) -> QuestionKey {
        QuestionKey {
            digest: *digest,
            fingerprint: self.identity_fingerprint,
        }
    }
}
