//! Which documents are Envoy's.
//!
//! The non-obvious rule: files of other programs are given along, such as a Compose file, and what counts for Envoy counts not for
//! them. So a document is Envoy's by what it has, or by a use of the module in it. A resource of Kubernetes is not.

use std::collections::BTreeSet;

use super::Deployment;
use crate::yaml::{Document, Tree, Value};

impl<'t> Deployment<'t> {
    /// The documents that Envoy or the module reads, also those that stand inside of others.
    pub fn documents_of_envoy(&self) -> impl Iterator<Item = (&'t Tree, &'t Document)> + '_ {
        let values = self
            .uses
            .iter()
            .flat_map(|one| [one.plugin, one.configuration]);
        let used: BTreeSet<_> = values.flatten().map(Value::key).collect();
        self.documents
            .iter()
            .copied()
            .filter(move |(tree, document)| {
                let root = tree.value(document.root);
                let key = |id| tree.value(id).key();
                let range = key(document.values.start)..key(document.values.end);
                root.get("apiVersion").is_none()
                    && (document.is_embedded
                        || is_envoys(root)
                        || used.range(range).next().is_some())
            })
    }
}

/// Whether a document is a bootstrap, a file of resources or a listener.
fn is_envoys(root: Value<'_>) -> bool {
    ["filter_chains", "static_resources"]
        .iter()
        .any(|key| root.get(key).is_some())
        || root.list(&["resources"]).any(Value::is_mapping)
}
