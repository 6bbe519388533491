//! How the requests that wait for one answer are told of it, or that there is none.

use alloc::rc::Rc;

use crate::{
    cache::Cached,
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    resolver::{
        resolution::{Found, Provenance, Resolution, Waiting},
        state::{Resolver, Waiters},
    },
    token::TokenDigest,
};

impl<W> Resolver<W> {
    /// Tells them that there is no verdict, or what stands in for one: each configuration has a rule of its own.
    pub(in crate::resolver) fn resolve_without_verdict<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        digest: &TokenDigest,
        mut waiters: Waiters<W>,
        why: NoVerdict,
    ) {
        while let Some(waiters) = next_group(&mut waiters) {
            let Some((_, waiting)) = waiters.first() else {
                continue;
            };
            let upstream = Rc::clone(&waiting.upstream);
            let found = self.stand_in(cb, &upstream, digest, why);
            self.resolutions.push_back(Resolution { found, waiters });
        }
    }

    /// Tells them what the cache knows. `may_be_kept`: whether a role may keep what it makes of that.
    pub(super) fn resolve_waiters(
        &mut self,
        digest: &TokenDigest,
        waiters: Waiters<W>,
        cached: Cached,
        may_be_kept: bool,
    ) {
        let found = Found {
            may_be_kept,
            ..self.found(*digest, cached.into(), Provenance::Introspected)
        };
        self.resolutions.push_back(Resolution { found, waiters });
    }
}

/// Takes out the requests of the first one's configuration: each has its own rule of what serves if there is no answer.
pub(super) fn next_group<W>(waiters: &mut Waiters<W>) -> Option<Waiters<W>> {
    let (_, first) = waiters.first()?;
    let upstream = Rc::clone(&first.upstream);
    let is_of_it = |waiting: &Waiting<W>| Rc::ptr_eq(&waiting.upstream, &upstream);
    // Nearly always.
    if waiters.values().all(is_of_it) {
        return Some(core::mem::take(waiters));
    }
    Some(waiters.take(&is_of_it))
}
