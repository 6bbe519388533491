//! Every manifest is what Kubernetes, Istio and Envoy Gateway take, and has no key that they would drop in silence.
//!
//! The schemas of the custom resources are outside of the repository, in `../shared/crds`, made from the projects' own
//! definitions. Where the folder is absent the custom resources are not checked against them, and the output of the layer
//! says so. What the definitions say in CEL is in `rules.json`, and is always checked.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tools::{kustomize, python};
use crate::support::{
    envoy::repository,
    mesh::manifests::{self, the_mut},
};

/// The folder of schemas, if it is there.
fn schemas() -> Option<PathBuf> {
    let folder = repository().join("../shared/crds");
    folder.is_dir().then_some(folder)
}

/// What is wrong with these resources.
fn problems(resources: &[Value]) -> String {
    let folder = schemas().map(|folder| folder.display().to_string());
    let folder: Vec<&str> = folder.iter().map(String::as_str).collect();
    python("check.py", &folder, &json!(resources).to_string())
}

/// All resources in the YAML files of a folder; what is no resource is a patch or a part of another configuration.
fn resources(folder: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(repository().join(folder)).expect("the folder is there") {
        let name = entry.expect("a readable folder").file_name();
        let path = format!("{folder}/{}", name.display());
        if Path::new(&path)
            .extension()
            .is_some_and(|yaml| yaml == "yaml")
        {
            found.extend(manifests::file(&path));
        }
    }
    found.retain(|document| !document["kind"].is_null());
    assert!(found.len() > 2, "{folder}");
    found
}

#[test]
fn what_kustomize_builds() {
    let modes = super::kubernetes::OVERLAYS;
    for overlay in modes.into_iter().chain([super::fleet::OVERLAY]) {
        let built = kustomize(&super::kubernetes::folder(overlay));
        assert_eq!(problems(&built), "", "{overlay}");
    }
    assert_eq!(problems(&super::kubernetes::with_image_volume()), "");
}

#[test]
fn istio() {
    assert_eq!(problems(&resources("envoy/istio")), "");
}

#[test]
fn envoy_gateway() {
    assert_eq!(problems(&resources("envoy/envoy-gateway")), "");
}

/// The first resource of a kind.
fn first<'a>(resources: &'a mut [Value], kind: &str) -> &'a mut Value {
    let found = resources.iter_mut().find(|found| found["kind"] == kind);
    found.unwrap_or_else(|| panic!("there is no {kind}"))
}

/// A check that finds nothing might look at nothing.
#[test]
fn what_is_wrong_is_found() {
    let mut built = kustomize(&super::kubernetes::folder("shadow"));
    let deployment = the_mut(&mut built, "Deployment");
    deployment["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = json!({});
    assert!(problems(&built).contains("readinessProb"));
    let mut istio = resources("envoy/istio");
    first(&mut istio, "VirtualService")["spec"]["http"][0]["timeout"] = "0s".into();
    let found = problems(&istio);
    assert!(found.contains("greater than 1ms"), "{found}");
    let mut gateway = resources("envoy/envoy-gateway");
    // What the default of another key decides, and what the name of a key that is a word of CEL does.
    let reference = &mut first(&mut gateway, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0];
    if let Some(reference) = reference.as_object_mut() {
        reference.remove("port");
    }
    let parent =
        json!([{"name": "matrix", "namespace": "a"}, {"name": "matrix", "namespace": "a"}]);
    first(&mut gateway, "HTTPRoute")["spec"]["parentRefs"] = parent;
    let found = problems(&gateway);
    assert!(
        found.contains("Must have port for Service reference"),
        "{found}"
    );
    assert!(found.contains("parentRefs"), "{found}");
    let unknown = json!([{"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry"}]);
    assert!(problems(unknown.as_array().expect("a list")).contains("rules.json"));
    if schemas().is_none() {
        return;
    }
    the_mut(&mut istio, "WasmPlugin")["spec"]["failStrategy"] = "RELOAD".into();
    the_mut(&mut istio, "WasmPlugin")["spec"]["vmID"] = "x".into();
    let found = problems(&istio);
    assert!(
        found.contains("RELOAD") && found.contains("vmID"),
        "{found}"
    );
    let mut gateway = resources("envoy/envoy-gateway");
    the_mut(&mut gateway, "EnvoyExtensionPolicy")["spec"]["wasm"][0]["failurePolicy"] = "x".into();
    assert!(problems(&gateway).contains("failurePolicy"));
}
