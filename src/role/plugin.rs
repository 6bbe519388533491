//! One plugin configuration in use: a root context.

use alloc::{format, rc::Rc, string::String};

use super::{announcement::is_due, route_watch::RouteWatch};
use crate::{
    clock::Instant,
    config::{Config, Role},
    host::{Lengths, RootId, Store},
    resolver::{Admission, Consumer, Overflow, PoolId, Upstream},
    token::TokenDigest,
};

const VISIBLE_SECRET: &str = "introspection.credential: the secret is given as a value, which Envoy's /config_dump \
                              shows: use {injected: true} or {env: NAME}";

/// A plugin configuration, and what is derived from it once.
#[derive(Debug)]
pub struct Plugin {
    /// The root context that runs it.
    pub root: RootId,
    /// The configuration.
    pub config: Config,
    /// Who is asked about tokens.
    pub upstream: Rc<Upstream>,
    /// Envoy injects the credential for introspections: the module does not know it.
    pub is_injected: bool,
    /// Whether clients are routed to the cluster of the introspections.
    pub route_watch: RouteWatch,
    /// The lengths of the names that are kept for identity headers.
    pub reserved_lengths: Lengths,
    identity_fingerprint: u64,
}

/// Names what a worker keeps of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantKey {
    /// Which token.
    pub digest: TokenDigest,
    /// What its answers are made into, see [`Config::identity_fingerprint`].
    pub identity: u64,
}

impl Plugin {
    /// Returns the plugin that `config` describes, run by `root`.
    pub fn new(root: RootId, config: Config) -> Self {
        Self {
            root,
            upstream: Rc::new(Upstream::new(&config, consumer(&config))),
            is_injected: config.introspection.credential.known().is_none(),
            route_watch: RouteWatch::default(),
            reserved_lengths: Lengths::of(config.identity_headers.lengths()),
            identity_fingerprint: config.identity_fingerprint(),
            config,
        }
    }

    /// Returns what a configuration that is taken warns of, if the process has not logged it within a minute: every
    /// worker loads every configuration.
    pub fn first_warning(&self, store: &impl Store, now: Instant) -> Option<&'static str> {
        let is_due = self.config.has_visible_secret && is_due(store, VISIBLE_SECRET, now);
        is_due.then_some(VISIBLE_SECRET)
    }

    /// Returns what a configuration that is taken is, likewise once in a minute.
    pub fn first_announcement(&self, store: &impl Store, now: Instant) -> Option<String> {
        let Config {
            role,
            mode,
            server_name,
            ..
        } = &self.config;
        // The introspection role needs none.
        let server_name = match &**server_name {
            "" => "none",
            name => name,
        };
        let (version, role, mode) = (env!("CARGO_PKG_VERSION"), role.name(), mode.name());
        let line = format!(
            "matrix-edge-auth {version}: role {role}, mode {mode}, server_name {server_name}"
        );
        is_due(store, &line, now).then_some(line)
    }

    /// Returns the key under which a worker keeps a token's grant, which names a user of one server.
    pub fn grant_key(&self, digest: &TokenDigest) -> GrantKey {
        GrantKey {
            digest: *digest,
            identity: self.identity_fingerprint,
        }
    }
}

/// Returns what a role makes of answers, and which cap its calls count against. Each role has a cap of its own, so that a flood
/// of clients does not cut the homeserver off from MAS.
fn consumer(config: &Config) -> Consumer {
    Consumer {
        admission: Admission {
            pool: PoolId {
                group: config.role as u8,
                endpoint: config.fingerprint(),
            },
            overflow: match config.role {
                // A client waits for a free call.
                Role::Gateway => Overflow::Wait,
                // The homeserver's question goes to MAS itself.
                Role::Introspection => Overflow::Refuse,
                // It never asks.
                Role::Provisioning => Overflow::Refuse,
            },
        },
        keeps_answers: config.role == Role::Introspection,
        // The introspection role gives MAS's own bytes away, and needs them from the shared cache.
        kept_inactive: match config.role {
            Role::Gateway => config.cache.local_entries,
            Role::Introspection | Role::Provisioning => 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::{config, host::memory::MemoryStore, role::announcement::QUIET};

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn plugin(keys: Value) -> Plugin {
        Plugin::new(RootId(1), config::tests::with(keys))
    }

    /// The key of what is kept of a token under these keys.
    fn grant_key(keys: Value) -> GrantKey {
        plugin(keys).grant_key(&TokenDigest::of(b"token"))
    }

    #[test]
    fn a_visible_secret_is_told_of_once_in_a_process() {
        let process = MemoryStore::default();
        let plugin =
            |credential: &Value| plugin(json!({"introspection": {"credential": credential}}));
        for hidden in [
            json!({"bearer": {"env": "MAS_SECRET"}}),
            json!({"basic": {"client_id": "id", "client_secret": {"env": "MAS_SECRET"}}}),
            json!({"injected": true}),
        ] {
            let warning = plugin(&hidden).first_warning(&process, NOW);
            assert_eq!(warning, None, "{hidden}");
        }
        for (visible, is_first) in [
            (json!({"bearer": {"value": "s3cret"}}), true),
            (
                json!({"basic": {"client_id": "id", "client_secret": {"value": "s3cret"}}}),
                false,
            ),
        ] {
            let elsewhere = plugin(&visible).first_warning(&MemoryStore::default(), NOW);
            assert!(elsewhere.is_some_and(|line| line.contains("/config_dump")));
            let warning = plugin(&visible).first_warning(&process, NOW);
            assert_eq!(warning.is_some(), is_first, "{visible}");
        }
    }

    #[test]
    fn a_configuration_is_announced_once_by_all_workers_and_again_when_it_is_loaded_later() {
        let process = MemoryStore::default();
        let announced = |mode, now| plugin(json!({"mode": mode})).first_announcement(&process, now);
        let shadow = format!(
            "matrix-edge-auth {}: role gateway, mode shadow, server_name example.org",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(announced("shadow", NOW), Some(shadow.clone()));
        assert_eq!(announced("shadow", NOW + QUIET / 2), None);
        assert!(announced("enforce", NOW).is_some_and(|line| line.contains("mode enforce")));
        assert_eq!(announced("shadow", NOW + QUIET), Some(shadow));
        assert_eq!(announced("shadow", NOW + QUIET), None);
    }

    #[test]
    fn the_calls_of_each_role_and_endpoint_have_a_cap_of_their_own_and_only_clients_wait() {
        let mut pools = BTreeSet::new();
        for (role, waits) in [
            ("gateway", true),
            ("introspection", false),
            ("provisioning", false),
        ] {
            for cluster in ["one", "two"] {
                let config = config::tests::with(json!({
                    "role": role,
                    "introspection": {"cluster": cluster},
                }));
                let admission = consumer(&config).admission;
                assert_eq!(admission.overflow == Overflow::Wait, waits, "{role}");
                pools.insert(admission.pool);
            }
        }
        assert_eq!(pools.len(), 6);
    }

    #[test]
    fn a_grant_is_kept_for_one_server_name_and_one_mas() {
        let key = grant_key(json!({}));
        assert_eq!(grant_key(json!({})), key);
        for other in [
            json!({"server_name": "other.example.org"}),
            json!({"introspection": {"cluster": "other"}}),
        ] {
            assert_ne!(grant_key(other.clone()), key, "{other}");
        }
    }

    /// Another listener would use it for longer or shorter, or renew it where that is not wanted.
    #[test]
    fn a_grant_is_kept_for_one_ttl_and_for_one_way_to_renew_it() {
        let key = |cache: Value| grant_key(json!({"cache": cache}));
        let own = key(json!({}));
        assert_eq!(key(json!({"ttl": "120s", "refresh_ahead": true})), own);
        assert_eq!(key(json!({"slots": 8, "negative_ttl": "1s"})), own);
        assert_ne!(key(json!({"ttl": "119s"})), own);
        assert_ne!(key(json!({"refresh_ahead": false})), own);
    }

    /// The introspection role gives MAS's own words away, which a worker does not keep.
    #[test]
    fn only_the_gateway_keeps_inactive_tokens_of_its_own() {
        for (role, kept) in [("gateway", 7), ("introspection", 0), ("provisioning", 0)] {
            let config = config::tests::with(json!({
                "role": role,
                "cache": {"local_entries": 7},
            }));
            assert_eq!(consumer(&config).kept_inactive, kept, "{role}");
        }
    }

    #[test]
    fn a_grant_is_kept_for_what_the_headers_tell_and_for_one_kind_of_credential() {
        let grant_key = |headers: &Value, credential: &Value| {
            let keys = json!({
                "identity_headers": headers,
                "introspection": {"credential": credential},
            });
            let fingerprint = config::tests::with(keys.clone()).fingerprint();
            (grant_key(keys).identity, fingerprint)
        };
        let credentials = [
            json!({"injected": true}),
            json!({"bearer": {"value": "s3cret"}}),
            json!({"basic": {"client_id": "id", "client_secret": {"value": "s3cret"}}}),
        ];
        let headers = [
            json!({}),
            json!({"client_id": "x-client"}),
            json!({"scope": "x-scope"}),
            json!({"client_id": "x-client", "scope": "x-scope"}),
        ];
        let (mut identities, mut questions) = (BTreeSet::new(), BTreeSet::new());
        for credential in &credentials {
            for headers in &headers {
                let (identity, question) = grant_key(headers, credential);
                identities.insert(identity);
                questions.insert(question);
            }
        }
        assert_eq!((identities.len(), questions.len()), (12, 3));
        // The name of a header changes nothing of what is kept.
        let renamed = grant_key(&json!({"scope": "x-rights"}), &credentials[0]);
        assert_eq!(renamed, grant_key(&headers[2], &credentials[0]));
    }
}
