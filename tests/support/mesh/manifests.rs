//! Manifests: the YAML documents of a file or a folder.

use serde_json::Value;

use crate::support::envoy::repository;

/// All documents of a YAML file of the repository.
pub fn file(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(repository().join(path))
        .unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The only document of a YAML file.
pub fn document(path: &str) -> Value {
    let mut documents = file(path);
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

/// The documents of this kind.
pub fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents
        .iter()
        .filter(|document| document["kind"] == kind)
        .collect()
}

/// The only document of this kind.
pub fn the<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(documents, kind);
    assert_eq!(found.len(), 1, "one {kind}");
    found[0]
}

/// The only document of this kind, to be changed.
pub fn the_mut<'a>(documents: &'a mut [Value], kind: &str) -> &'a mut Value {
    the(documents, kind);
    documents
        .iter_mut()
        .find(|document| document["kind"] == kind)
        .expect("just found")
}
