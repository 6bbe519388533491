//! `introspection.cluster` must be a cluster of the Envoy that the module runs in. Envoy does not notice when it starts, and
//! neither does `--mode validate`.

use super::{Deployment, Found, Rule, Severity};
use crate::check::deployment::{Host, Use};

/// The rule.
pub const RULE: Rule = Rule {
    name: "unknown-cluster",
    severity: Severity::Error,
    about: "`introspection.cluster` is no cluster of this Envoy, so MAS is never asked.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let asked = one
            .configuration
            .and_then(|value| value.text_at(&["introspection", "cluster"]));
        let Some(name) = asked.filter(|name| deployment.cluster(one, name).is_none()) else {
            continue;
        };
        if let Some((message, help)) = fault(deployment, one, name) {
            found.add(one.key(&["introspection", "cluster"]), message, help);
        }
    }
}

fn fault(deployment: &Deployment<'_>, one: &Use<'_>, name: &str) -> Option<(String, String)> {
    let envoy = deployment.envoys.get(one.envoy)?;
    match one.host {
        Host::WasmPlugin | Host::EnvoyFilter if !name.starts_with("outbound|") => Some((
            "Istio gives no cluster this name: MAS is never asked, and every request gets 503".to_owned(),
            "write `outbound|PORT||SERVICE.NAMESPACE.svc.cluster.local`, as `istioctl proxy-config cluster` shows it"
                .to_owned(),
        )),
        Host::EnvoyGateway if name.starts_with("httproute/") => Some((
            "Envoy Gateway counts the rules of a route in this name: it changes when a rule is added before".to_owned(),
            "give MAS a cluster of its own in the bootstrap of an EnvoyProxy (envoy/envoy-gateway/gateway.yaml)".to_owned(),
        )),
        Host::Envoy | Host::EnvoyGateway if envoy.is_complete => {
            let names: Vec<&str> = envoy
                .clusters
                .iter()
                .filter_map(|cluster| cluster.text_at(&["name"]))
                .take(20)
                .collect();
            let known = if names.is_empty() {
                "there is none".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            Some((
                "no cluster has this name: MAS is never asked, and every request gets 503".to_owned(),
                format!("name a cluster that leads to MAS; {known}"),
            ))
        }
        _ => None,
    }
}
