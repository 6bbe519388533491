//! What Istio is told about all of its gateways (`meshConfig`).
//!
//! The non-obvious rule: where it stands depends on who installs Istio. An operator's resource and the values of a chart have it as
//! a mapping. Flux and Argo CD give these values to the chart, as a mapping or as a text. What Istio itself reads is a text in a
//! ConfigMap, by whatever name a revision has.

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
        let operators = self.resources.kind("IstioOperator");
        let operators = operators.filter_map(|one| one.get("spec"));
        let values = ["Istio", "HelmRelease"]
            .into_iter()
            .flat_map(|kind| self.resources.kind(kind))
            .filter_map(|one| one.at(&["spec", "values"]));
        let objects = self
            .helm_sources()
            .filter_map(|helm| helm.get("valuesObject"));
        let said = roots.chain(operators).chain(values).chain(objects);
        let said = said.flat_map(meshes).filter_map(|mesh| {
            Some(PathNormalization {
                spot: Spot::key(mesh.get(PATH[0])?, PATH[1]),
                way: way(mesh)?,
            })
        });
        let holders = self.resources.kind("ConfigMap");
        let texts = holders.filter_map(|one| Some((one.get("data")?, "mesh")));
        let charts = ["HelmChart", "HelmChartConfig"]
            .into_iter()
            .flat_map(|kind| self.resources.kind(kind))
            .filter_map(|one| Some((one.get("spec")?, "valuesContent")));
        let texts = texts
            .chain(charts)
            .chain(self.helm_sources().map(|helm| (helm, "values")));
        let texts = texts.filter_map(|(place, key)| {
            let text = place.entry(key)?.text()?;
            let tree = Tree::read(String::new(), text.to_owned()).ok()?;
            let root = tree.value(tree.documents.first()?.root);
            let way = way(root).or_else(|| meshes(root).into_iter().find_map(way))?;
            Some(PathNormalization {
                spot: Spot::key(place, key),
                way,
            })
        });
        said.chain(texts).collect()
    }

    /// What Argo CD's Applications tell Helm.
    fn helm_sources(&self) -> impl Iterator<Item = Value<'t>> {
        let specs = self.resources.kind("Application");
        let specs = specs.filter_map(|one| one.get("spec"));
        let sources = specs.flat_map(|spec| {
            let more = spec.list(&["sources"]);
            spec.get("source").into_iter().chain(more)
        });
        sources.filter_map(|source| source.get("helm"))
    }
}

/// What values of a chart say of the mesh: of Istio's own chart, and of one that has it as a part.
fn meshes(values: Value<'_>) -> Vec<Value<'_>> {
    const KEY: &str = "meshConfig";
    let parts = values.members().map(|(_, part)| part);
    let parts = parts.filter_map(|part| part.get(KEY));
    values.get(KEY).into_iter().chain(parts).collect()
}

fn way(mesh: Value<'_>) -> Option<String> {
    mesh.name_at(&PATH, WAYS).map(str::to_owned)
}
