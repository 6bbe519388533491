//! The question that a request's need of a verdict becomes.

use alloc::rc::Rc;

use super::policy::Need;
use crate::resolver::{Origin, Query, Upstream};

impl Need<'_> {
    /// Returns the query for a verdict on the token, which comes from `origin`.
    #[inline]
    pub(super) fn query<'q>(
        &'q self,
        upstream: &'q Rc<Upstream>,
        origin: &'q dyn Origin,
    ) -> Query<'q> {
        Query {
            upstream,
            token: &self.token,
            digest: self.digest,
            origin,
        }
    }
}
