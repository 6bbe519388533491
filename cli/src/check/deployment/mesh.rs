//! What Istio is told about all of its gateways (`meshConfig`).
//!
//! The non-obvious rule: where it stands depends on who installs Istio. An operator's resource and the values of a chart have it as
//! a mapping. What Istio itself reads is a text in a ConfigMap, by whatever name a revision has.

use super::{Deployment, Spot};
use crate::yaml::{Tree, Value};

/// Where a mapping of the mesh has it.
const PATH: [&str; 2] = ["pathNormalization", "normalization"];

/// What Istio makes of paths, in the order of the numbers.
const WAYS: &[&str] = &[
    "DEFAULT",
    "NONE",
    "BASE",
    "MERGE_SLASHES",
    "DECODE_AND_MERGE_SLASHES",
];

/// One place that says what Istio makes of paths.
pub struct PathNormalization<'t> {
    /// Where.
    pub spot: Spot<'t>,
    /// What.
    pub way: String,
}

impl<'t> Deployment<'t> {
    /// All places that say what Istio makes of paths.
    pub fn path_normalizations(&self) -> Vec<PathNormalization<'t>> {
        let roots = self
            .documents
            .iter()
            .filter(|(_, document)| !document.is_embedded)
            .map(|(tree, document)| tree.value(document.root));
        let plain = roots.filter_map(|root| root.get("meshConfig"));
        let operators = self.resources.kind("IstioOperator");
        let operators = operators.filter_map(|one| one.at(&["spec", "meshConfig"]));
        let managed = self.resources.kind("Istio");
        let managed = managed.filter_map(|one| one.at(&["spec", "values", "meshConfig"]));
        let mappings = plain.chain(operators).chain(managed).filter_map(|mesh| {
            Some(PathNormalization {
                spot: Spot::key(mesh.get(PATH[0])?, PATH[1]),
                way: way(mesh)?,
            })
        });
        let texts = self.resources.kind("ConfigMap").filter_map(|one| {
            let data = one.get("data")?;
            let text = data.entry("mesh")?.text()?;
            let mesh = Tree::read(String::new(), text.to_owned()).ok()?;
            let root = mesh.documents.first()?.root;
            Some(PathNormalization {
                spot: Spot::key(data, "mesh"),
                way: way(mesh.value(root))?,
            })
        });
        mappings.chain(texts).collect()
    }
}

fn way(mesh: Value<'_>) -> Option<String> {
    mesh.name_at(&PATH, WAYS).map(str::to_owned)
}
