//! The routes of a virtual host: those of its list, and those that its matcher chooses.

use super::matcher::{Outcome, outcomes};
use crate::{check::deployment::typed, yaml::Value};

/// Routes of which the first that matches is taken.
pub(super) struct RouteList<'t> {
    /// What a matcher does to come to them.
    outcome: Option<Outcome<'t>>,
    /// The routes.
    pub routes: Vec<Value<'t>>,
}

impl RouteList<'_> {
    /// Whether requests for a path may come to these routes.
    pub fn takes(&self, path: &str) -> bool {
        self.outcome.as_ref().is_none_or(|one| one.takes(path))
    }
}

/// The lists of routes of a virtual host.
pub(super) fn route_lists<'t>(host: Value<'t>) -> Vec<RouteList<'t>> {
    let listed = RouteList {
        outcome: None,
        routes: host.list(&["routes"]).collect(),
    };
    let chosen = host.get("matcher").map(outcomes).unwrap_or_default();
    let chosen = chosen.into_iter().filter_map(|outcome| {
        let (kind, config) = typed(outcome.action.get("typed_config")?)?;
        let routes = match kind.rsplit('.').next()? {
            "Route" => vec![config],
            "RouteList" => config.list(&["routes"]).collect(),
            _ => return None,
        };
        Some(RouteList {
            outcome: Some(outcome),
            routes,
        })
    });
    std::iter::once(listed).chain(chosen).collect()
}

/// All routes of a virtual host.
pub(super) fn routes_of<'t>(host: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    route_lists(host).into_iter().flat_map(|list| list.routes)
}
