//! `/config_dump` of the admin interface shows a secret that stands in the configuration, and so does whatever keeps the
//! file.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{
    check::deployment::{Host, Use},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "visible-secret",
    severity: Severity::Warning,
    may_point_at_secret: true,
    about: "The secret for MAS stands in the configuration itself.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        for spot in variables(one) {
            found.add(
                spot,
                "the secret for MAS stands here, and whatever keeps the file has it; `/config_dump` of Envoy's admin interface \
                 shows it",
                "name the variable in `host_env_keys`, or with Istio by `valueFrom: HOST`, and set it where Envoy starts",
            );
        }
        if one.config().is_some_and(|config| config.has_visible_secret) {
            found.add(
                one.key(&["introspection", "credential"]),
                "the secret for MAS stands here, and `/config_dump` of Envoy's admin interface shows it",
                "write `credential: { bearer: { env: MAS_SECRET } }`, or let Envoy add it: `{ injected: true }`",
            );
        }
    }
}

/// Where the files give the values of variables that a configuration has its secrets from.
fn variables<'t>(one: &Use<'t>) -> Vec<Spot<'t>> {
    let mut spots = Vec::new();
    for name in one.configuration.into_iter().flat_map(named) {
        let given = one
            .vm()
            .and_then(|vm| vm.at(&["environment_variables", "key_values"]));
        if let Some(given) = given.filter(|given| given.entry(name).is_some()) {
            spots.push(Spot::key(given, name));
        }
        let spec = one.plugin.filter(|_| one.host == Host::WasmPlugin);
        let list = spec
            .into_iter()
            .flat_map(|spec| spec.list(&["vmConfig", "env"]));
        let is_given = |it: &Value<'t>| {
            it.text_at(&["name"]) == Some(name)
                && it.get("value").is_some()
                && it.text_at(&["valueFrom"]) != Some("HOST")
        };
        spots.extend(list.filter(is_given).map(|it| Spot::key(it, "value")));
    }
    spots
}

/// The variables that the credential of a configuration names.
fn named(configuration: Value<'_>) -> Vec<&str> {
    let credential = configuration.at(&["introspection", "credential"]);
    let kinds = credential.into_iter().flat_map(Value::members);
    let values = kinds.flat_map(|(_, kind)| {
        let members = kind.members().map(|(_, value)| value);
        members.chain([kind])
    });
    values.filter_map(|value| value.text_at(&["env"])).collect()
}
