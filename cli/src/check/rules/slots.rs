//! Two roles with tables of different sizes keep their answers apart, though they have one `vm_id`.

use super::{Deployment, Found, Rule, Severity};

/// The rule.
pub const RULE: Rule = Rule {
    name: "slots",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Roles of one Envoy have tables of different sizes, and so do not share answers.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let first = deployment.peers(one).find_map(|peer| peer.config());
        let (Some(first), Some(own)) = (first, one.config()) else {
            continue;
        };
        for (key, first, own) in [
            ("slots", first.cache.slots, own.cache.slots),
            (
                "negative_slots",
                first.cache.negative_slots,
                own.cache.negative_slots,
            ),
        ] {
            if first != own {
                found.add(
                    one.key(&["cache", key]),
                    format!(
                        "`cache.{key}` is {own} here and {first} in another role of this Envoy: the two do not share \
                         answers, and MAS is asked twice"
                    ),
                    format!("give all roles the same `cache`, with `{key}: {first}`"),
                );
            }
        }
    }
}
