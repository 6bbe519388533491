//! What this worker keeps for itself in front of the shared cache: what tokens in use grant, and what those tokens are.
//!
//! It stands beside the role and not in the resolver, because a grant names a user of one server.
//!
//! The non-obvious rule: a grant is of the worker, whichever listener it came from. So the largest `cache.local_entries` of all
//! listeners is the bound for all of them, and one that keeps few pushes out nothing that another keeps.

use alloc::vec::Vec;

use super::{
    grants::{Grants, KeptGrant},
    policy::Grant,
    recognized::{Recognized, RecognizedTokens},
};
use crate::{
    cache::{ActiveEntry, epoch::Stamp},
    config::Config,
    host::{Callback, Host, RootId},
    metrics::Metric,
    resolver::{Found, Query, Resolver, Verdict},
    role::plugin::Plugin,
    token::{TokenDigest, TokenSecret},
};

/// What the gateway keeps in one worker.
#[derive(Debug)]
pub(super) struct LocalGrants {
    grants: Grants,
    recognized: RecognizedTokens,
    /// The configurations that have had a request.
    shares: Vec<Share>,
    /// The largest of their shares.
    largest: usize,
}

/// How many grants a configuration may keep.
#[derive(Debug)]
struct Share {
    root: RootId,
    capacity: usize,
}

impl LocalGrants {
    /// Nothing. `random` makes numbers that no client knows.
    pub fn new(mut random: impl FnMut() -> u64) -> Self {
        Self {
            grants: Grants::new(random()),
            recognized: RecognizedTokens::new(random),
            shares: Vec::new(),
            largest: 0,
        }
    }

    /// Notes that a configuration has its first request.
    pub fn add_root(&mut self, plugin: &Plugin) {
        self.shares.push(Share {
            root: plugin.root,
            capacity: plugin.config.cache.local_entries,
        });
        self.update_largest();
    }

    /// Notes that a configuration has ended.
    pub fn remove_root(&mut self, root: RootId) {
        self.shares.retain(|share| share.root != root);
        self.update_largest();
    }

    fn update_largest(&mut self) {
        let capacities = self.shares.iter().map(|share| share.capacity);
        self.largest = capacities.max().unwrap_or_default();
    }

    /// Returns how many grants may be kept if one of a request of `plugin`'s is added.
    fn capacity(&self, plugin: &Plugin) -> usize {
        match plugin.config.cache.local_entries {
            0 => 0,
            _ => self.largest,
        }
    }

    /// Returns how many grants there are.
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Returns what a token is, as [`Recognized::of`] does.
    pub fn recognize(
        &mut self,
        config: &Config,
        secret: TokenSecret,
        token: &[u8],
    ) -> Option<Recognized> {
        self.recognized.of(config, secret, token)
    }

    /// Remembers what the token of this name is, of which a grant is kept, if it was the last to be recognized.
    pub fn remember(&mut self, plugin: &Plugin, token: &TokenDigest) {
        let capacity = self.capacity(plugin);
        self.recognized.remember(token, capacity);
    }

    /// The same for a token that is inactive.
    pub fn remember_inactive(&mut self, plugin: &Plugin, token: &TokenDigest) {
        let capacity = self.capacity(plugin);
        self.recognized.remember_inactive(token, capacity);
    }

    /// Returns the grant that this worker keeps of a token, if it still counts. Renews its answer in the
    /// background when that is due.
    pub fn lookup<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Plugin,
        query: &Query<'_>,
    ) -> Option<Grant> {
        let key = plugin.grant_key(&query.digest);
        let now = cb.now();
        resolver.refresh_epochs(cb);
        let entry = self.grants.find(&key)?;
        if entry.stamp != resolver.stamp(&query.digest, entry.user.as_ref())
            || entry.fresh_until <= now
        {
            return None;
        }
        let grant = entry.grant.clone();
        if entry.refresh_at.is_some_and(|refresh_at| refresh_at <= now)
            && let Some(renewed) = resolver.refresh(cb, query)
        {
            self.grant(cb, plugin, &renewed);
        }
        Some(grant)
    }

    /// Returns what a finding grants. Keeps it if the shared cache holds it as well, and it names a user: an answer without one is
    /// void by what MAS tells of any user who may be back, and nothing would end a worker's copy. Otherwise nothing is kept of the
    /// token.
    pub fn grant<H: Host>(
        &mut self,
        cb: &Callback<'_, H>,
        plugin: &Plugin,
        found: &Found,
    ) -> Verdict<Grant> {
        if let Verdict::Active(entry) = &found.verdict
            && found.may_be_kept
            && entry.user.is_some()
        {
            return Verdict::Active(self.insert(cb, plugin, found.stamp, entry));
        }
        self.grants.remove(&plugin.grant_key(&found.digest));
        match &found.verdict {
            Verdict::Active(entry) => {
                let grant = Grant::new(&entry.answer.token(), plugin.config.grant_terms());
                Verdict::Active(grant)
            }
            Verdict::Inactive(answer) => Verdict::Inactive(answer.clone()),
            Verdict::None(why) => Verdict::None(*why),
        }
    }

    /// Keeps what an active answer grants. The same answer is not kept twice, however many requests waited for
    /// it.
    fn insert<H: Host>(
        &mut self,
        cb: &Callback<'_, H>,
        plugin: &Plugin,
        stamp: Stamp,
        active: &ActiveEntry,
    ) -> Grant {
        let key = plugin.grant_key(&active.digest);
        if let Some(kept) = self.grants.find(&key)
            && kept.stamp == stamp
            && kept.fresh_until == active.fresh_until
        {
            return kept.grant.clone();
        }
        let grant = Grant::new(&active.answer.token(), plugin.config.grant_terms());
        let entry = KeptGrant {
            grant: grant.clone(),
            fresh_until: active.fresh_until,
            refresh_at: active.refresh_at,
            user: active.user,
            stamp,
        };
        let capacity = self.capacity(plugin);
        let evicted = self.grants.insert(key, entry, capacity);
        if evicted > 0 {
            cb.host.record(Metric::LocalEvicted, evicted as u64);
        }
        grant
    }
}
