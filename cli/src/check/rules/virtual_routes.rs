//! Which routes of a VirtualService a path may take at a gateway: the first that matches by the path alone, and those before it
//! that ask for more than the path.

use super::{routes::is_noted_match, tokens::rest_behind};
use crate::{
    check::deployment::{VirtualRoute, VirtualService},
    yaml::Value,
};

/// A route that a path may take.
pub(super) struct Taken<'t> {
    /// The route.
    pub route: VirtualRoute<'t>,
    /// Its matches that take the path; without any it is for all paths.
    pub matches: Vec<Value<'t>>,
}

/// The routes that a path may take.
pub(super) fn taken<'t>(service: &VirtualService<'t>, path: &'static str) -> Vec<Taken<'t>> {
    let mut found = Vec::new();
    for route in service.routes() {
        let mut matches = route.matches.clone();
        matches.retain(|one| takes(*one, path));
        if matches.is_empty() && !route.matches.is_empty() {
            continue;
        }
        let is_last = matches.is_empty() || !matches.iter().all(|one| service.asks_for_more(*one));
        found.push(Taken { route, matches });
        if is_last {
            break;
        }
    }
    found
}

/// Whether a match is for a path, whatever else it asks for.
fn takes(one: Value<'_>, path: &'static str) -> bool {
    let Some(uri) = one.get("uri") else {
        return true;
    };
    let text = |key| uri.text_at(&[key]);
    let rest = |it| rest_behind(path, it, ignores_case(one));
    text("prefix").is_some_and(|it| rest(it).is_some())
        || text("exact").is_some_and(|it| rest(it) == Some(""))
        || text("regex").is_some_and(|it| is_noted_match(uri, it, path))
}

/// Whether a match takes its path in any case. An expression has its own.
pub(super) fn ignores_case(one: Value<'_>) -> bool {
    one.boolean_at(&["ignoreUriCase"]) == Some(true)
}
