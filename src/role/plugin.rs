//! One plugin configuration in use: a root context.

use std::rc::Rc;

use crate::{
    cache::question::QuestionKey,
    config::{Config, Role},
    host::RootId,
    resolver::{Admission, Overflow, PoolId, Upstream},
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
    identity_fingerprint: u64,
}

impl Plugin {
    /// Returns the plugin that `config` describes, run by `root`.
    pub fn new(root: RootId, config: Config) -> Self {
        Self {
            root,
            upstream: Rc::new(Upstream::new(&config, admission(config.role))),
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

/// Returns which cap a role's calls count against. Each role has its own, so that a flood of clients does not
/// cut the homeserver off from MAS. A client waits for a free call; the homeserver's question goes to MAS itself.
fn admission(role: Role) -> Admission {
    match role {
        Role::Gateway => Admission {
            pool: PoolId(0),
            overflow: Overflow::Wait,
        },
        Role::Introspection => Admission {
            pool: PoolId(1),
            overflow: Overflow::Refuse,
        },
        // It never asks.
        Role::Provisioning => Admission {
            pool: PoolId(2),
            overflow: Overflow::Refuse,
        },
    }
}
