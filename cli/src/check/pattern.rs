//! Regular expressions, which match whole texts, as Envoy's RE2 reads them.

use regex::bytes::{Regex, RegexBuilder};

use crate::yaml::Value;

/// The steps that a regular expression costs, that each of its bytes costs, and each of its braces, which may repeat the rest.
const STEPS_OF_REGEX: [usize; 3] = [200, 20, 20_000];

/// Compiles a regular expression for whole texts, if the file of `rule` has steps left for that. `None` also if the expression
/// cannot be read.
pub fn compiled_at_a_cost(rule: Value<'_>, regex: &str) -> Option<Regex> {
    let [base, byte, brace] = STEPS_OF_REGEX;
    let braces = regex.matches('{').count();
    let cost = base + byte * regex.len() + brace * braces;
    rule.tree.spend(cost).then(|| compiled(regex)).flatten()
}

fn compiled(regex: &str) -> Option<Regex> {
    RegexBuilder::new(&format!("^(?:{regex})$"))
        .size_limit(1 << 20)
        // Classes are of ASCII, as in Envoy's RE2.
        .unicode(false)
        .build()
        .ok()
}
