//! The pods that workloads of Kubernetes make.

use super::{Deployment, Resources, namespace};
use crate::yaml::Value;

/// The resources that make pods, or are one.
const KINDS: [&str; 5] = [
    "Deployment",
    "DaemonSet",
    "StatefulSet",
    "ReplicaSet",
    "Pod",
];

/// A pod that a workload makes.
pub struct Pod<'t> {
    /// What makes it.
    pub workload: Value<'t>,
    /// The namespace, if the workload names one.
    pub namespace: Option<&'t str>,
    /// Its labels.
    pub labels: Option<Value<'t>>,
    /// Its containers, volumes and the like.
    pub spec: Value<'t>,
}

impl<'t> Pod<'t> {
    fn of(workload: Value<'t>) -> Option<Self> {
        let template = workload.at(&["spec", "template"]).unwrap_or(workload);
        Some(Self {
            workload,
            namespace: namespace::of(workload),
            labels: template.at(&["metadata", "labels"]),
            spec: template.get("spec")?,
        })
    }

    /// The ports of its containers.
    pub fn ports(&self) -> impl Iterator<Item = Value<'t>> + use<'t> {
        let containers = containers(self.spec);
        containers.flat_map(|container| container.list(&["ports"]))
    }

    /// The port that a policy or a Service names.
    pub fn port(&self, port: Value<'t>) -> Option<u64> {
        let named = |it: &Value<'t>| it.text_at(&["name"]) == port.text();
        port.scalar()?
            .whole_number()
            .or_else(|| self.ports().find(named)?.number_at(&["containerPort"]))
    }

    /// Whether it mounts a ConfigMap or a Secret, which is then in its own namespace.
    fn mounts(&self, holder: Value<'_>) -> bool {
        let Some(name) = holder.text_at(&["metadata", "name"]) else {
            return false;
        };
        let paths: &[[&str; 2]] = match holder.text_at(&["kind"]) {
            Some("Secret") => &[["secret", "secretName"], ["secret", "name"]],
            _ => &[["configMap", "name"]],
        };
        let of = |volume: Value<'t>| {
            let mut names = paths.iter().map(|path| volume.text_at(path));
            names.any(|own| own == Some(name))
        };
        namespace::may_be_same(namespace::of(holder), self.namespace)
            && self
                .spec
                .list(&["volumes"])
                .any(|volume| of(volume) || volume.list(&["projected", "sources"]).any(of))
    }
}

impl<'t> Resources<'t> {
    /// The pods of all workloads.
    pub fn pods(&self) -> impl Iterator<Item = Pod<'t>> {
        KINDS
            .into_iter()
            .flat_map(|kind| self.kind(kind))
            .filter_map(Pod::of)
    }
}

impl<'t> Deployment<'t> {
    /// The pods that mount the ConfigMap or the Secret that a value of an Envoy's configuration stands in.
    pub fn pods_with(&self, value: Value<'t>) -> Vec<Pod<'t>> {
        let holder = self.resources.holder(self, value);
        holder.map_or_else(Vec::new, |holder| {
            let pods = self.resources.pods();
            pods.filter(|pod| pod.mounts(holder)).collect()
        })
    }
}

/// The containers of a pod that run as long as it does, also those that start before the others.
pub fn containers<'t>(spec: Value<'t>) -> impl Iterator<Item = Value<'t>> + use<'t> {
    let first = spec.list(&["initContainers"]);
    let stays = |one: &Value<'t>| one.text_at(&["restartPolicy"]) == Some("Always");
    spec.list(&["containers"]).chain(first.filter(stays))
}

/// Whether the labels of a pod have all that a selector wants.
pub fn has_labels(wanted: Value<'_>, labels: Option<Value<'_>>) -> bool {
    wanted.members().all(|(key, value)| {
        let own = labels.and_then(|labels| labels.entry(key)?.text());
        own.is_some() && own == value.text()
    })
}
