//! Whether more than one Envoy runs with a use of the module.
//!
//! The non-obvious rule: an autoscaler counts by the most pods that it may make, whatever the workload itself says.

use std::collections::HashSet;

use super::{
    Deployment, Host, Pod, Service, Use, image,
    interpolation::with_defaults,
    namespace,
    pods::containers,
    scope::{gateways, is_for},
};
use crate::yaml::Value;

/// Steps that each pod costs for each use. Thousands of both would take minutes.
const STEPS_OF_POD: usize = 10;

/// The resources that choose how many pods a workload has.
const AUTOSCALERS: [&str; 2] = ["HorizontalPodAutoscaler", "ScaledObject"];

/// What Envoy Gateway makes pods of Envoy from.
const OF_PROXY: [&str; 3] = ["spec", "provider", "kubernetes"];

/// What lets several Envoys run.
#[derive(Clone, Copy)]
pub enum Multiplier<'t> {
    /// Something that says how many: the kind of a resource, or a Compose file.
    Several(&'t str),
    /// A DaemonSet. How many nodes it is for is in no file.
    Daemon,
}

impl<'t> Deployment<'t> {
    /// What lets several Envoys with this use run, if something does.
    pub fn multiplier(&self, one: &Use<'t>) -> Option<Multiplier<'t>> {
        if one.host == Host::EnvoyGateway {
            let mut proxies = self.proxies(one);
            let proxy = proxies.find(|proxy| has_several_pods(*proxy))?;
            return proxy.text_at(&["kind"]).map(Multiplier::Several);
        }
        let pods = self.pods_of(one);
        let resource = pods.iter().find_map(|pod| self.multiplier_of(pod));
        let kind = resource.and_then(|resource| resource.text_at(&["kind"]));
        let mut workloads = pods.iter().map(|pod| pod.workload);
        let is_daemon = |workload: Value<'_>| workload.text_at(&["kind"]) == Some("DaemonSet");
        if let Some(kind) = kind {
            Some(Multiplier::Several(kind))
        } else if self.has_several_services(one) {
            Some(Multiplier::Several("Compose file"))
        } else {
            workloads.any(is_daemon).then_some(Multiplier::Daemon)
        }
    }

    /// The containers that run the Envoy of a use: of pods, and of a Compose file. Where the files do not say which pods these are,
    /// all that run an Envoy count.
    pub fn containers(&self, one: &Use<'t>) -> Vec<Value<'t>> {
        let envoys = |pods: &mut dyn Iterator<Item = Pod<'t>>| -> Vec<Value<'t>> {
            let containers = pods.flat_map(|pod| containers(pod.spec));
            containers
                .filter(|container| is_envoy(*container))
                .collect()
        };
        let mut found = envoys(&mut self.pods_of(one).into_iter());
        if found.is_empty() {
            found = envoys(&mut self.resources.pods());
        }
        let services = self.services(one).into_iter();
        found.extend(services.flat_map(Service::parts));
        found
    }

    /// The services of a Compose file that run the Envoy of a use.
    fn services<'d>(&'d self, one: &Use<'t>) -> Vec<&'d Service<'t>> {
        let envoy = self.envoys.get(one.envoy);
        let roots = envoy.into_iter().flat_map(|envoy| envoy.roots.iter());
        roots.flat_map(|root| self.services_of(*root)).collect()
    }

    /// Whether a Compose file has several containers run for the Envoy of a use.
    fn has_several_services(&self, one: &Use<'t>) -> bool {
        let paths: [&[&str]; 2] = [&["deploy", "replicas"], &["scale"]];
        self.services(one).into_iter().any(|service| {
            let numbers = paths.iter().filter_map(|path| service.said(path).pop());
            let mut counts = numbers.filter_map(count);
            counts.any(|count| count > 1)
        })
    }

    /// The pods with the Envoy of a use. Of Envoy's own configuration these are the pods that mount it, or else those that run an
    /// Envoy with one of its ports.
    fn pods_of(&self, one: &Use<'t>) -> Vec<Pod<'t>> {
        let envoy = self.envoys.get(one.envoy);
        let pods = self.resources.pods();
        let pods = pods.take_while(|pod| pod.spec.tree.spend(STEPS_OF_POD));
        match (one.host, one.resource, envoy) {
            (Host::Envoy, _, Some(envoy)) => {
                let roots = envoy.roots.iter();
                let mounting: Vec<_> = roots.flat_map(|root| self.pods_with(*root)).collect();
                if mounting.is_empty() {
                    pods.filter(|pod| runs_envoy(pod, &envoy.ports)).collect()
                } else {
                    mounting
                }
            }
            (Host::EnvoyFilter | Host::WasmPlugin, Some(own), _) => {
                pods.filter(|pod| is_for(own, pod)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The workload, or its autoscaler, that lets several pods run.
    fn multiplier_of(&self, pod: &Pod<'t>) -> Option<Value<'t>> {
        let own = pod.workload;
        let is_its = |autoscaler: &Value<'t>| {
            let target = autoscaler.at(&["spec", "scaleTargetRef"]);
            // KEDA's resource may leave the kind out.
            let kind = target.map(|target| target.text_at(&["kind"]).unwrap_or("Deployment"));
            let name = target.and_then(|target| target.text_at(&["name"]));
            namespace::may_be_shared(*autoscaler, own)
                && kind == own.text_at(&["kind"])
                && name == own.text_at(&["metadata", "name"])
        };
        if is_several(own, &["spec", "replicas"]) {
            return Some(own);
        }
        let mut autoscalers = AUTOSCALERS
            .into_iter()
            .flat_map(|kind| self.resources.kind(kind));
        autoscalers.find(|one| is_its(one) && one.get("spec").is_some_and(scales))
    }

    /// The EnvoyProxies for a use: those that its Gateways name, or else all.
    fn proxies(&self, one: &Use<'t>) -> impl Iterator<Item = Value<'t>> {
        let targets = one.resource.map(gateways).unwrap_or_default();
        let is_target = |gateway: &Value<'t>| {
            let name = gateway.text_at(&["metadata", "name"]);
            let is_named = targets.iter().any(|it| it.text_at(&["name"]) == name);
            let is_near = one
                .resource
                .is_none_or(|own| namespace::may_be_shared(*gateway, own));
            is_named && is_near
        };
        let path = ["spec", "infrastructure", "parametersRef", "name"];
        let named: HashSet<&str> = self
            .resources
            .kind("Gateway")
            .filter(is_target)
            .filter_map(|gateway| gateway.text_at(&path))
            .collect();
        let proxies = self.resources.kind("EnvoyProxy");
        proxies.filter(move |proxy| {
            let name = proxy.text_at(&["metadata", "name"]);
            named.is_empty() || name.is_some_and(|name| named.contains(name))
        })
    }
}

/// Whether an EnvoyProxy lets several pods run.
fn has_several_pods(proxy: Value<'_>) -> bool {
    proxy.at(&OF_PROXY).is_some_and(|made| {
        is_several(made, &["envoyDeployment", "replicas"])
            || made.get("envoyHpa").is_some_and(scales)
    })
}

/// Whether an autoscaler may make more than one pod. KEDA's makes up to a hundred where it says nothing.
fn scales(autoscaler: Value<'_>) -> bool {
    const MOST: &str = "maxReplicaCount";
    let is_of_keda = autoscaler.list(&["triggers"]).next().is_some();
    is_of_keda && autoscaler.get(MOST).is_none()
        || ["maxReplicas", "minReplicas", MOST, "minReplicaCount"]
            .iter()
            .any(|key| is_several(autoscaler, &[key]))
}

fn is_several(value: Value<'_>, path: &[&str]) -> bool {
    value.number_at(path).is_some_and(|count| count > 1)
}

/// How many containers a number of a Compose file asks for.
fn count(number: Value<'_>) -> Option<u64> {
    let default = || with_defaults(number.text()?).parse().ok();
    number.number_at(&[]).or_else(default)
}

/// Whether a container of a pod is an Envoy by its name, its image or its command, and has one of these ports.
fn runs_envoy(pod: &Pod<'_>, ports: &HashSet<u64>) -> bool {
    let is_port = |one: Value<'_>| {
        one.number_at(&["containerPort"])
            .is_some_and(|port| ports.contains(&port))
    };
    containers(pod.spec)
        .any(|container| is_envoy(container) && container.list(&["ports"]).any(is_port))
}

fn is_envoy(container: Value<'_>) -> bool {
    let is_image = container.text_at(&["image"]).is_some_and(image::is_envoy);
    let command = ["command", "args"]
        .into_iter()
        .flat_map(|key| container.list(&[key]))
        .filter_map(Value::text);
    let mut texts = command.chain(container.text_at(&["name"]));
    is_image || texts.any(|text| text.contains("envoy"))
}
