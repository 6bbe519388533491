//! `introspection.cluster` must be a cluster of the Envoy that the module runs in. Envoy does not notice a wrong name when
//! it starts, and neither does `--mode validate`.

use super::{Deployment, Found, Rule, Severity};
use crate::check::deployment::{Host, Use};

/// The rule.
pub const RULE: Rule = Rule {
    name: "unknown-cluster",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "`introspection.cluster` is no cluster of this Envoy, so MAS is never asked.",
    check,
};

const ALONE: &str = "give `check` the file before it is split, or with the bootstrap that names it: what else Envoy reads \
                     separately (RDS, ECDS, LDS and CDS by a service) is looked at file by file, also if all are given";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for number in 0..deployment.envoys.len() {
        check_split_file(deployment, number, found);
    }
    for one in &deployment.uses {
        let Some(name) = asked(one).filter(|name| deployment.cluster(one, name).is_none()) else {
            continue;
        };
        if one.host == Host::EnvoyGateway && is_merged(deployment, name) {
            found.note(
                one.key(&["introspection", "cluster"]),
                "Envoy Gateway makes this cluster for MAS's Service, once a route leads there: neither its credential nor its \
                 limits are looked at, and clients fill these limits, too",
                "give MAS a cluster of its own in the bootstrap of an EnvoyProxy (envoy/envoy-gateway/gateway.yaml)",
            );
        } else if let Some((message, help)) = fault(deployment, one, name) {
            found.add(one.key(&["introspection", "cluster"]), message, help);
        } else if one.host == Host::Envoy
            && has_bootstrap(deployment, one.envoy)
            && is_first(deployment, one, name)
        {
            found.note(
                one.key(&["introspection", "cluster"]),
                "this cluster comes from elsewhere, if it comes: neither its credential nor its limits are looked at",
                ALONE,
            );
        }
    }
}

/// Whether a name is one that Envoy Gateway gives to a Service: with `mergeBackends`, which need not be in these files. An
/// EnvoyProxy says so by having the key; its value may be empty.
fn is_merged(deployment: &Deployment<'_>, name: &str) -> bool {
    let mut proxies = deployment.resources.kind("EnvoyProxy").peekable();
    let is_told = proxies.peek().is_none()
        || proxies.any(|proxy| proxy.at(&["spec", "mergeBackends"]).is_some());
    name.starts_with("service/") && is_told
}

fn asked<'t>(one: &Use<'t>) -> Option<&'t str> {
    one.configuration?.text_at(&["introspection", "cluster"])
}

/// Whether no use before this one asks the same cluster: a note about a cluster is told once.
fn is_first(deployment: &Deployment<'_>, one: &Use<'_>, name: &str) -> bool {
    let mut all = deployment.uses.iter();
    let first = all.find(|other| other.envoy == one.envoy && asked(other) == Some(name));
    first.is_some_and(|first| std::ptr::eq(first, one))
}

/// Notes that a file of listeners, or of filters, has neither the clusters nor the labels of its Envoy.
fn check_split_file<'t>(deployment: &Deployment<'t>, number: usize, found: &mut Found<'t>) {
    let first = deployment.uses.iter().find(|one| one.envoy == number);
    if let Some(one) = first.filter(|one| one.host == Host::Envoy && one.plugin.is_some())
        && !has_bootstrap(deployment, number)
    {
        found.note(
            one.spot(),
            "this file is not the whole of an Envoy: its clusters and labels, and what else the bootstrap has, are not looked at",
            ALONE,
        );
    }
}

fn has_bootstrap(deployment: &Deployment<'_>, number: usize) -> bool {
    let envoy = deployment.envoys.get(number);
    envoy.is_some_and(|envoy| envoy.bootstrap.is_some())
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
