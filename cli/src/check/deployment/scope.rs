//! Which resources are about the Envoy of a use: an EnvoyFilter or a policy counts where it applies, and nowhere else.
//!
//! The non-obvious rule: only a contradiction shuts a resource out. A namespace or a label that is given on one side alone
//! may still fit.

use std::collections::HashSet;

use super::{Chain, Deployment, Pod, Use, VirtualService, has_labels, namespace};
use crate::yaml::Value;

/// Istio applies the resources in its own namespace everywhere.
const ROOT_NAMESPACE: &str = "istio-system";

/// The label by which Kubernetes names the Gateway of a pod.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

impl<'t> Deployment<'t> {
    /// The patches of Istio's EnvoyFilters to one sort of thing (`applyTo`) in the Envoy of a use.
    pub fn patches(&self, one: &Use<'t>, target: &'static str) -> impl Iterator<Item = Value<'t>> {
        self.policies(one, "EnvoyFilter")
            .flat_map(|filter| filter.list(&["spec", "configPatches"]))
            .filter(move |patch| {
                let context = patch.text_at(&["match", "context"]).unwrap_or_default();
                patch.text_at(&["applyTo"]) == Some(target) && !context.starts_with("SIDECAR")
            })
            .filter(|patch| self.is_of_matrix(*patch))
    }

    /// The resources of Istio's of a kind that may be for the workload of a use.
    pub fn policies(&self, one: &Use<'t>, kind: &'static str) -> impl Iterator<Item = Value<'t>> {
        let all = self.resources.kind(kind);
        all.filter(|policy| one.resource.is_none_or(|own| fits(*policy, own)))
    }

    /// What EnvoyFilters merge into the connection managers of the Envoy of a use.
    pub fn merged_managers(&self, one: &Use<'t>) -> impl Iterator<Item = Value<'t>> {
        self.patches(one, "NETWORK_FILTER")
            .filter(|patch| patch.text_at(&["patch", "operation"]) == Some("MERGE"))
            .filter_map(|patch| patch.at(&["patch", "value", "typed_config"]))
    }

    /// Whether a patch of routes is for a host of Matrix, as far as VirtualServices tell which hosts these are.
    fn is_of_matrix(&self, patch: Value<'t>) -> bool {
        let path = ["match", "routeConfiguration", "vhost", "name"];
        let Some(name) = patch.text_at(&path) else {
            return true;
        };
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        let is_matrix = |service: &&VirtualService<'t>| {
            let mut routes = service.routes();
            routes.any(|route| route.paths().any(|text| text.contains("/_matrix")))
        };
        let services = self.resources.virtual_services();
        let mut hosts = services
            .iter()
            .filter(is_matrix)
            .flat_map(VirtualService::hosts)
            .peekable();
        hosts.peek().is_none() || hosts.any(|it| it == host)
    }

    /// Whether Envoy Gateway's ClientTrafficPolicies say something (`holds`) of every listener that a use is for.
    pub fn has_policy(&self, one: &Use<'t>, holds: impl Fn(Value<'t>) -> bool) -> bool {
        let of_listeners = self.client_policies(one);
        let mut all = of_listeners.iter();
        all.all(|policies| policies.iter().any(|policy| holds(*policy)))
    }

    /// The ClientTrafficPolicies for the listeners that uses are for, each once.
    pub fn policies_for<'d>(&self, uses: impl Iterator<Item = &'d Use<'t>>) -> Vec<Value<'t>>
    where
        't: 'd,
    {
        let mut seen = HashSet::new();
        let all = uses.flat_map(|one| self.client_policies(one)).flatten();
        all.filter(|policy| seen.insert(policy.key())).collect()
    }

    /// The ClientTrafficPolicies for each listener that a use is for. The policy for one listener replaces that of its Gateway,
    /// whatever it leaves unsaid. Where no listener is known, any policy may be for it.
    fn client_policies(&self, one: &Use<'t>) -> Vec<Vec<Value<'t>>> {
        let all = &self.gateway_api.clients;
        let may_be_shared = |policy: &Value<'t>| {
            one.resource
                .is_none_or(|own| namespace::may_be_shared(*policy, own))
        };
        let untargeted: Vec<_> = all.untargeted().filter(may_be_shared).collect();
        let at = |chain: &Chain<'t>| match all.nearest(chain) {
            policies if policies.is_empty() => untargeted.clone(),
            policies => policies,
        };
        let chains = one.resource.map(|own| self.gateway_api.chains_of(own));
        match chains.filter(|chains| !chains.is_empty()) {
            Some(chains) => chains.iter().map(at).collect(),
            None => {
                let policies = self.resources.kind("ClientTrafficPolicy");
                vec![policies.filter(may_be_shared).collect()]
            }
        }
    }
}

/// The Gateways that a policy is for.
pub(super) fn gateways(policy: Value<'_>) -> Vec<Value<'_>> {
    let several = policy.list(&["spec", "targetRefs"]);
    let one = policy.at(&["spec", "targetRef"]);
    several
        .chain(one)
        .filter(|target| target.text_at(&["kind"]) == Some("Gateway"))
        .collect()
}

/// Whether a resource of Istio's may be for the workload of another one.
fn fits(filter: Value<'_>, own: Value<'_>) -> bool {
    let is_everywhere = namespace::of(filter) == Some(ROOT_NAMESPACE);
    let wanted = selector(filter);
    let labels = selector(own);
    let is_same = |(key, value): (&str, Value<'_>)| {
        let label = labels.and_then(|labels| labels.entry(key)?.text());
        let mut named = target_names(own).into_iter().peekable();
        if key == GATEWAY_LABEL && named.peek().is_some() {
            return named.any(|name| Some(name) == value.text());
        }
        label.is_none() || label == value.text()
    };
    let targets = target_names(filter);
    let own_targets = target_names(own);
    let is_named = targets.is_empty()
        || own_targets.is_empty()
        || targets.iter().any(|name| own_targets.contains(name));
    (is_everywhere || namespace::may_be_shared(filter, own))
        && is_named
        && wanted.into_iter().flat_map(Value::members).all(is_same)
}

/// Whether a resource of Istio's names a pod, by its labels or by its Gateway. One that names none is for all pods of its
/// namespace, and so does not say which of them are gateways.
pub(super) fn is_for(own: Value<'_>, pod: &Pod<'_>) -> bool {
    let label = pod.labels.and_then(|labels| labels.entry(GATEWAY_LABEL));
    let gateway = label.and_then(Value::text);
    let is_named = gateway.is_some_and(|gateway| target_names(own).contains(&gateway));
    let is_selected = selector(own)
        .filter(|wanted| wanted.members().next().is_some())
        .is_some_and(|wanted| has_labels(wanted, pod.labels));
    let is_near = namespace::of(own) == Some(ROOT_NAMESPACE)
        || namespace::may_be_same(namespace::of(own), pod.namespace);
    is_near && (is_named || is_selected)
}

/// The labels of the pods that a resource of Istio's is for.
fn selector(resource: Value<'_>) -> Option<Value<'_>> {
    let paths = [
        ["spec", "selector", "matchLabels"],
        ["spec", "workloadSelector", "labels"],
    ];
    paths.iter().find_map(|path| resource.at(path))
}

/// The names of a resource's targets.
fn target_names(resource: Value<'_>) -> Vec<&str> {
    let several = resource.list(&["spec", "targetRefs"]);
    let one = resource.at(&["spec", "targetRef"]);
    several
        .chain(one)
        .filter_map(|target| target.text_at(&["name"]))
        .collect()
}
