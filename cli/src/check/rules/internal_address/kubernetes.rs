//! Who reaches a port of an Envoy in Kubernetes.
//!
//! A pod that no NetworkPolicy selects takes everything. A selected pod takes what any of its policies allows. Services and
//! routes may lead to a pod from outside, and everyone reaches a port of the host.

use std::cell::OnceCell;

use super::{
    Reach, Spot,
    networks::{are_nearly_all, network},
};
use crate::{
    check::{
        deployment::{Deployment, Pod, has_labels, namespace},
        rules::leads::{Lead, leads_by_all_names},
    },
    yaml::Value,
};

/// The label that each namespace has.
const NAME_OF_NAMESPACE: &str = "kubernetes.io/metadata.name";

const PUBLIC: &str = "this Service is reached from outside";

/// What the resources say of a port of the Envoy whose listener this socket is of.
pub(super) fn reach<'t>(deployment: &Deployment<'t>, socket: Value<'t>, port: u64) -> Reach<'t> {
    let of_clients = deployment
        .gateways()
        .filter_map(|one| one.entry?.listener)
        .filter(|listener| std::ptr::eq(listener.tree, socket.tree))
        .filter_map(|listener| listener.number_at(&["address", "socket_address", "port_value"]))
        .collect();
    let pods = pods(deployment, socket, port);
    let target = Target {
        deployment,
        pods: &pods,
        port,
        of_clients,
        leads: OnceCell::new(),
    };
    if let Some((spot, how)) = target.opened() {
        return Reach::Open(spot, how);
    }
    if pods.is_empty() {
        return target.by_policies(None);
    }
    let mut reach = Reach::Closed;
    for pod in &pods {
        match target.by_policies(Some(pod)) {
            Reach::Open(spot, how) => return Reach::Open(spot, how),
            Reach::Closed => {}
            other => reach = other,
        }
    }
    reach
}

/// The pods that run an Envoy: those that mount its configuration, or else those that have its port.
fn pods<'t>(deployment: &Deployment<'t>, socket: Value<'t>, port: u64) -> Vec<Pod<'t>> {
    let mounting = deployment.pods_with(socket);
    if !mounting.is_empty() {
        return mounting;
    }
    let has_it = |one: Value<'_>| one.number_at(&["containerPort"]) == Some(port);
    let pods = deployment.resources.pods();
    pods.filter(|pod| pod.ports().any(has_it)).collect()
}

/// The port of an Envoy that is asked about.
struct Target<'d, 't> {
    deployment: &'d Deployment<'t>,
    pods: &'d [Pod<'t>],
    port: u64,
    /// The ports of this Envoy that clients come to.
    of_clients: Vec<u64>,
    /// What leads to Services from outside, once someone has asked.
    leads: OnceCell<Vec<Lead<'t>>>,
}

impl<'t> Target<'_, 't> {
    /// What opens the port, whatever NetworkPolicies say.
    fn opened(&self) -> Option<(Spot<'t>, &'static str)> {
        for pod in self.pods {
            if pod.spec.boolean_at(&["hostNetwork"]) == Some(true) {
                let how = "the pod has its node's own addresses, and no NetworkPolicy holds there";
                return Some((Spot::key(pod.spec, "hostNetwork"), how));
            }
            let is_it = |one: &Value<'t>| {
                one.number_at(&["containerPort"]) == Some(self.port)
                    && one.get("hostPort").is_some()
            };
            if let Some(one) = pod.ports().find(is_it) {
                return Some((Spot::key(one, "hostPort"), "it is a port of the node"));
            }
        }
        let resources = &self.deployment.resources;
        for service in resources.kind("Service").filter(|it| self.is_served(*it)) {
            let leading = self.leading(service);
            let Some(spec) = service.get("spec").filter(|_| !leading.is_empty()) else {
                continue;
            };
            if let Some("LoadBalancer" | "NodePort") = spec.text_at(&["type"]) {
                return Some((Spot::key(spec, "type"), PUBLIC));
            }
            if spec.list(&["externalIPs"]).next().is_some() {
                return Some((Spot::key(spec, "externalIPs"), PUBLIC));
            }
            if let Some(spot) = self.routed(service, &leading) {
                return Some((spot, "a route from outside leads here"));
            }
        }
        None
    }

    /// Whether a Service may lead to one of these pods. A Service without a selector may lead anywhere.
    fn is_served(&self, service: Value<'t>) -> bool {
        let selector = service.at(&["spec", "selector"]);
        self.pods.is_empty()
            || self.pods.iter().any(|pod| {
                namespace::may_be_same(namespace::of(service), pod.namespace)
                    && selector.is_none_or(|it| has_labels(it, pod.labels))
            })
    }

    /// The ports of a Service that lead to the port of the Envoy.
    fn leading(&self, service: Value<'t>) -> Vec<Value<'t>> {
        let is_leading = |one: &Value<'t>| {
            let target = one.get("targetPort").or(one.get("port"));
            let is_tcp = one.text_at(&["protocol"]).is_none_or(|it| it == "TCP");
            is_tcp && target.is_some_and(|it| self.is_port(it, None))
        };
        service
            .list(&["spec", "ports"])
            .filter(is_leading)
            .collect()
    }

    /// What leads from outside to one of these ports of a Service. A route may be in another namespace than the Service, if it names
    /// the namespace.
    fn routed(&self, service: Value<'t>, leading: &[Value<'t>]) -> Option<Spot<'t>> {
        let own = service.text_at(&["metadata", "name"])?;
        let is_port = |port: Option<Value<'t>>| {
            port.is_none_or(|port| {
                leading.iter().any(|one| {
                    port.text() == one.text_at(&["port"]) || port.text() == one.text_at(&["name"])
                })
            })
        };
        let leads = self
            .leads
            .get_or_init(|| leads_by_all_names(self.deployment));
        let lead = leads.iter().find(|lead| {
            !lead.is_copy
                && lead.name == own
                && namespace::may_be_same(lead.namespace, namespace::of(service))
                && is_port(lead.port)
        })?;
        Some(lead.spot.clone())
    }

    /// Whether a number or a name is this port.
    fn is_port(&self, port: Value<'t>, pod: Option<&Pod<'t>>) -> bool {
        self.number_of(port, pod) == Some(self.port)
    }

    fn number_of(&self, port: Value<'t>, pod: Option<&Pod<'t>>) -> Option<u64> {
        match pod.or(self.pods.first()) {
            Some(pod) => pod.port(port),
            None => self.deployment.resources.port(port),
        }
    }

    /// What the policies that select a pod allow. Without a pod, those policies count that select every pod, and those that
    /// name the port.
    fn by_policies(&self, pod: Option<&Pod<'t>>) -> Reach<'t> {
        let mut reach = Reach::Unknown;
        for policy in self.deployment.resources.kind("NetworkPolicy") {
            let Some(spec) = policy.get("spec").filter(|it| is_about_ingress(*it)) else {
                continue;
            };
            let is_selected = match pod {
                Some(pod) => {
                    namespace::may_be_same(namespace::of(policy), pod.namespace)
                        && spec
                            .get("podSelector")
                            .is_none_or(|it| selects(it, pod.labels))
                }
                None => selects_all(spec.get("podSelector")) || self.names_port(spec),
            };
            if !is_selected {
                continue;
            }
            for rule in spec.list(&["ingress"]) {
                if self.is_for_port(rule, pod, self.port)
                    && let Some((spot, who)) = self
                        .too_many(rule, policy)
                        .or_else(|| self.brings_clients(rule, pod))
                {
                    return Reach::Open(spot, who);
                }
            }
            let is_known = pod.is_some() || selects_all(spec.get("podSelector"));
            reach = match reach {
                Reach::Closed => Reach::Closed,
                _ if is_known => Reach::Closed,
                _ => Reach::Presumed,
            };
        }
        reach
    }

    /// Where a rule lets in more than some callers, and which, if it does.
    fn too_many(&self, rule: Value<'t>, policy: Value<'t>) -> Option<(Spot<'t>, &'static str)> {
        let mut peers = rule.list(&["from"]).peekable();
        if peers.peek().is_none() {
            let spot = Spot::first_key(rule, &["from", "ports"]);
            return Some((spot, "this rule lets everyone in"));
        }
        // Many small networks may be all addresses together.
        let blocks = rule.list(&["from"]);
        let blocks = blocks.filter_map(|peer| peer.text_at(&["ipBlock", "cidr"]));
        let are_all = are_nearly_all(blocks.map(network));
        let is_left_out = |pods: Option<Value<'t>>, namespace| {
            pods.is_some_and(|selector| self.leaves_out(selector, namespace))
        };
        peers.find_map(|peer| {
            let (namespaces, pods) = (peer.get("namespaceSelector"), peer.get("podSelector"));
            let who = match (namespaces, pods) {
                (None, None) => {
                    peer.get("ipBlock").filter(|_| are_all)?;
                    "this rule lets every address in"
                }
                (Some(namespaces), pods)
                    if takes_most(Some(namespaces), Selected::Namespaces)
                        && takes_most(pods, Selected::Pods)
                        && !is_left_out(pods, None) =>
                {
                    "this rule lets every pod of the cluster in"
                }
                (None, pods)
                    if takes_most(pods, Selected::Pods)
                        && !is_left_out(pods, namespace::of(policy)) =>
                {
                    "this rule lets every pod of the namespace in"
                }
                _ => return None,
            };
            let who = match [namespaces, pods]
                .into_iter()
                .flatten()
                .any(leaves_some_out)
            {
                true => "this rule only says whom it leaves out, and lets everyone else in",
                false => who,
            };
            Some((
                Spot::first_key(peer, &["ipBlock", "namespaceSelector", "podSelector"]),
                who,
            ))
        })
    }

    /// Whether a selector leaves out pods that are in the files, beside those of Envoy.
    fn leaves_out(&self, selector: Value<'t>, namespace: Option<&str>) -> bool {
        let is_own = |pod: &Pod<'t>| self.pods.iter().any(|own| own.spec.key() == pod.spec.key());
        let pods = self.deployment.resources.pods();
        let steps = self.pods.len() + 1;
        let pods = pods.take_while(|_| selector.tree.spend(steps));
        pods.filter(|pod| namespace::may_be_same(namespace, pod.namespace) && !is_own(pod))
            .any(|pod| !selects(selector, pod.labels))
    }

    /// Whether a rule allows something at this port.
    fn is_for_port(&self, rule: Value<'t>, pod: Option<&Pod<'t>>, port: u64) -> bool {
        let mut ports = rule.list(&["ports"]).peekable();
        ports.peek().is_none() || ports.any(|one| self.includes(one, pod, port))
    }

    /// Where a rule lets in callers that bring clients to a gateway of the same Envoy, such as an ingress controller, which
    /// leads every client to where its routes say. The rule counts if it names this port only by a range, or names no port.
    fn brings_clients(
        &self,
        rule: Value<'t>,
        pod: Option<&Pod<'t>>,
    ) -> Option<(Spot<'t>, &'static str)> {
        let mut ports = rule.list(&["ports"]).peekable();
        let is_range = |one: Value<'t>| one.get("port").is_none() || one.get("endPort").is_some();
        let is_wide = ports.peek().is_none()
            || ports.any(|one| is_range(one) && self.includes(one, pod, self.port));
        let mut clients = self.of_clients.iter();
        (is_wide && clients.any(|port| self.is_for_port(rule, pod, *port))).then(|| {
            (
                Spot::first_key(rule, &["ports", "from"]),
                "this rule lets in here what brings clients to the gateway",
            )
        })
    }

    /// Whether a rule of a policy names this port, or a port by a name that no container in the files has: files may lack
    /// the name before kustomize has patched them.
    fn names_port(&self, spec: Value<'t>) -> bool {
        let rules = spec.list(&["ingress"]);
        let mut ports = rules.flat_map(|rule| rule.list(&["ports"]));
        let is_nobodys = |port| self.deployment.resources.port(port).is_none();
        ports.any(|one| {
            let port = one.get("port");
            port.is_some_and(is_nobodys) || port.is_some() && self.includes(one, None, self.port)
        })
    }

    /// Whether a port of a rule, or its range, has this number.
    fn includes(&self, one: Value<'t>, pod: Option<&Pod<'t>>, wanted: u64) -> bool {
        let is_tcp = one.text_at(&["protocol"]).is_none_or(|it| it == "TCP");
        let is_within = match (one.get("port"), one.number_at(&["endPort"])) {
            (None, _) => true,
            (Some(first), Some(last)) => {
                let first = first.scalar().and_then(|it| it.whole_number());
                first.is_some_and(|first| (first..=last).contains(&wanted))
            }
            (Some(port), None) => self.number_of(port, pod) == Some(wanted),
        };
        is_tcp && is_within
    }
}

/// Whether a policy restricts ingress: each does, unless `policyTypes` leaves ingress out.
fn is_about_ingress(spec: Value<'_>) -> bool {
    let mut types = spec
        .list(&["policyTypes"])
        .filter_map(Value::text)
        .peekable();
    types.peek().is_none() || types.any(|it| it == "Ingress")
}

/// Whether a selector is empty, and so selects everything.
fn selects_all(selector: Option<Value<'_>>) -> bool {
    let is_empty = |selector: Value<'_>| {
        let labels = selector
            .get("matchLabels")
            .into_iter()
            .flat_map(Value::members);
        labels.count() == 0 && selector.list(&["matchExpressions"]).count() == 0
    };
    selector.is_none_or(is_empty)
}

/// What a selector is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Selected {
    Namespaces,
    Pods,
}

/// Whether a selector takes all, or says of none that it is to be taken: it only leaves some out, and takes whatever else there
/// is or comes to be.
fn takes_most(selector: Option<Value<'_>>, of: Selected) -> bool {
    selector.is_none_or(|selector| {
        let labels = selector.get("matchLabels");
        let has_labels = labels.is_some_and(|labels| labels.members().next().is_some());
        let mut expressions = selector.list(&["matchExpressions"]);
        !has_labels
            && expressions.all(|one| {
                let is_of_all =
                    of == Selected::Namespaces && one.text_at(&["key"]) == Some(NAME_OF_NAMESPACE);
                match one.text_at(&["operator"]) {
                    Some("Exists") => is_of_all,
                    Some("DoesNotExist") => !is_of_all,
                    operator => operator == Some("NotIn"),
                }
            })
    })
}

/// Whether an expression of a selector leaves some out.
fn leaves_some_out(selector: Value<'_>) -> bool {
    let mut expressions = selector.list(&["matchExpressions"]);
    expressions.any(|one| {
        let operator = one.text_at(&["operator"]);
        matches!(operator, Some("DoesNotExist" | "NotIn"))
    })
}

/// Whether a selector selects a resource with these labels.
fn selects(selector: Value<'_>, labels: Option<Value<'_>>) -> bool {
    let by_labels = selector
        .get("matchLabels")
        .is_none_or(|wanted| has_labels(wanted, labels));
    by_labels
        && selector.list(&["matchExpressions"]).all(|one| {
            let key = one.text_at(&["key"]).unwrap_or_default();
            let own = labels.and_then(|labels| labels.entry(key)?.text());
            let is_listed = one
                .list(&["values"])
                .any(|value| own.is_some() && value.text() == own);
            match one.text_at(&["operator"]) {
                Some("In") => is_listed,
                Some("NotIn") => !is_listed,
                Some("Exists") => own.is_some(),
                _ => own.is_none(),
            }
        })
}
