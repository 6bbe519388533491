//! What Envoy's matchers do, and for which paths: they choose routes, and they keep requests from a filter.
//!
//! The non-obvious rule: a matcher may ask for the path before a route does. What it does for some paths, it does for no others.

use super::{
    routes::mappings,
    samples::SAMPLES,
    tokens::{Tokens, needs_token, of_path_in_any_case, rest_behind},
};
use crate::{check::deployment::typed, yaml::Value};

/// Deepest nesting of matchers that is looked at.
const MAX_DEPTH: usize = 8;

/// One of the things that a matcher may do.
pub(super) struct Outcome<'t> {
    /// What it does.
    pub action: Value<'t>,
    /// What it asks of the path.
    paths: Vec<Asked<'t>>,
    /// What else it asks for, by the types of the inputs.
    others: Vec<&'t str>,
}

/// What is asked of a path.
#[derive(Clone, Copy)]
enum Asked<'t> {
    Prefix(&'t str),
    Exact(&'t str),
    PrefixInAnyCase(&'t str),
    ExactInAnyCase(&'t str),
}

impl Outcome<'_> {
    /// Whether it may come about for a path.
    pub fn takes(&self, path: &str) -> bool {
        self.paths.iter().all(|asked| match asked {
            Asked::Prefix(prefix) => path.starts_with(prefix),
            Asked::Exact(exact) => path == *exact,
            Asked::PrefixInAnyCase(prefix) => rest_behind(path, prefix, true).is_some(),
            Asked::ExactInAnyCase(exact) => path.eq_ignore_ascii_case(exact),
        })
    }

    /// Whether it may come about for a request that needs a token.
    pub fn takes_private(&self) -> bool {
        let is_private = |asked: &Asked<'_>| match asked {
            Asked::Prefix(path) | Asked::Exact(path) => needs_token(path),
            Asked::PrefixInAnyCase(path) | Asked::ExactInAnyCase(path) => {
                of_path_in_any_case(path) == Tokens::Needed
            }
        };
        SAMPLES.iter().any(|path| self.takes(path)) || self.paths.iter().any(is_private)
    }

    /// Whether it comes about for each request that comes so far.
    pub fn takes_all(&self) -> bool {
        self.others.is_empty() && self.takes("/")
    }

    /// Whether it asks for something of the connection, which a request does not tell.
    pub fn asks_connection(&self) -> bool {
        let is_it = |kind: &&str| kind.contains(".network.") || kind.contains(".ssl.");
        self.others.iter().any(is_it)
    }
}

/// All that a matcher may do.
pub(super) fn outcomes<'t>(matcher: Value<'t>) -> Vec<Outcome<'t>> {
    let mut found = Vec::new();
    add(matcher, &[], &[], MAX_DEPTH, &mut found);
    found
}

/// The outcomes of a matcher that keep requests from a filter.
pub(super) fn skipping<'t>(matcher: Value<'t>) -> impl Iterator<Item = Outcome<'t>> {
    outcomes(matcher).into_iter().filter(|one| {
        let action = one.action.get("typed_config").and_then(typed);
        action.is_some_and(|(kind, _)| kind.ends_with(".SkipFilter"))
    })
}

/// Whether a matcher keeps requests from a filter that need a token, by something that a client writes.
pub(super) fn keeps_private(matcher: Value<'_>) -> bool {
    skipping(matcher).any(|one| one.takes_private() && !one.asks_connection())
}

fn add<'t>(
    matcher: Value<'t>,
    paths: &[Asked<'t>],
    others: &[&'t str],
    depth: usize,
    found: &mut Vec<Outcome<'t>>,
) {
    if depth == 0 || !matcher.tree.spend(1) {
        return;
    }
    let mut branches: Vec<(Value<'t>, Vec<Asked<'t>>, Vec<&'t str>)> = Vec::new();
    for one in matcher.list(&["matcher_list", "matchers"]) {
        let (mut paths, mut others) = (paths.to_vec(), others.to_vec());
        let predicate = one.get("predicate");
        predicate
            .into_iter()
            .for_each(|it| ask(it, depth, &mut paths, &mut others));
        branches.extend(one.get("on_match").map(|it| (it, paths, others)));
    }
    if let Some(tree) = matcher.get("matcher_tree") {
        let input = tree.get("input");
        for (key, is_exact) in [("exact_match_map", true), ("prefix_match_map", false)] {
            let map = tree.at(&[key, "map"]);
            for (text, branch) in map.into_iter().flat_map(Value::members) {
                let (mut paths, mut others) = (paths.to_vec(), others.to_vec());
                match input {
                    Some(input) if is_path(input) && is_exact => paths.push(Asked::Exact(text)),
                    Some(input) if is_path(input) => paths.push(Asked::Prefix(text)),
                    _ => others.push(input.and_then(kind_of).unwrap_or_default()),
                }
                branches.push((branch, paths, others));
            }
        }
        // What else a tree may ask for is not looked into: each of its ends may come about.
        let mut others = others.to_vec();
        others.push(input.and_then(kind_of).unwrap_or_default());
        let custom = tree.get("custom_match").into_iter().flat_map(mappings);
        let ends = custom.filter(|one| one.get("action").is_some());
        branches.extend(ends.map(|end| (end, paths.to_vec(), others.clone())));
    }
    let default = matcher.get("on_no_match");
    branches.extend(default.map(|it| (it, paths.to_vec(), others.to_vec())));
    for (branch, paths, others) in branches {
        if let Some(inner) = branch.get("matcher") {
            add(inner, &paths, &others, depth - 1, found);
        }
        found.extend(branch.get("action").map(|action| Outcome {
            action,
            paths,
            others,
        }));
    }
}

/// Adds what a predicate asks for. What it denies, or offers beside something else, narrows no path.
fn ask<'t>(
    predicate: Value<'t>,
    depth: usize,
    paths: &mut Vec<Asked<'t>>,
    others: &mut Vec<&'t str>,
) {
    if let Some(one) = predicate.get("single_predicate") {
        let input = one.get("input");
        let text = |key| one.text_at(&["value_match", key]);
        let ignores_case = one.boolean_at(&["value_match", "ignore_case"]) == Some(true);
        match (input.is_some_and(is_path), text("prefix"), text("exact")) {
            (true, Some(prefix), _) if ignores_case => paths.push(Asked::PrefixInAnyCase(prefix)),
            (true, Some(prefix), _) => paths.push(Asked::Prefix(prefix)),
            (true, None, Some(exact)) if ignores_case => paths.push(Asked::ExactInAnyCase(exact)),
            (true, None, Some(exact)) => paths.push(Asked::Exact(exact)),
            _ => others.push(input.and_then(kind_of).unwrap_or_default()),
        }
    } else if predicate.get("and_matcher").is_some() && depth > 0 {
        for one in predicate.list(&["and_matcher", "predicate"]) {
            ask(one, depth - 1, paths, others);
        }
    } else {
        others.push("");
    }
}

fn kind_of<'t>(input: Value<'t>) -> Option<&'t str> {
    Some(typed(input.get("typed_config")?)?.0)
}

/// Whether an input is the path of a request.
fn is_path(input: Value<'_>) -> bool {
    input.text_at(&["typed_config", "header_name"]) == Some(":path")
}
