//! Documents that stand as text inside of others: an Envoy configuration in a ConfigMap, in a Secret or in a Compose file, a
//! bootstrap in an EnvoyProxy, the module's configuration in a `StringValue`.
//!
//! A `BytesValue` holds its document in base64. Values in a literal block (`|`), and in a text that stands in the file as
//! it is, have positions of their own. Values in a text with escapes or folded lines have the place of the whole text, and one in
//! the text beside it.
//!
//! The non-obvious rule: a ConfigMap may hold scripts and manuals as well, which name fields of Envoy's and are no YAML. Only what
//! is YAML by its name must be.

use std::{borrow::Cow, ops::Range};

use base64ct::{Base64, Encoding as _};

use super::{
    Id, Place, Scalar, Tree, Value,
    compose::{Unreadable, compose_text},
    place::Origin,
};

const STRING: &str = "google.protobuf.StringValue";
/// In base64.
const BYTES: &str = "google.protobuf.BytesValue";

/// How the name of a text ends that is YAML or JSON.
const ENDINGS: [&str; 3] = [".json", ".yaml", ".yml"];

/// Deepest nesting of documents: a `StringValue` in a bootstrap in a ConfigMap, and one more.
const MAX_LEVELS: usize = 3;

/// A text that may hold a document.
struct Held {
    id: Id,
    is_base64: bool,
    sort: Sort,
}

/// What is known of a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// It is a document by its place, or by its name.
    Document,
    /// It has words of Envoy's. It may be a script or a manual.
    Likely,
    /// A plugin has it, perhaps another one.
    OfPlugin,
}

/// Reads every text of the tree that is a document for Envoy or for the module.
pub(super) fn embed_all(tree: &mut Tree) {
    let mut from = 0;
    for _ in 0..MAX_LEVELS {
        let until = tree.values.len();
        let texts: Vec<Held> = (from..until)
            .flat_map(|id| documents_of(tree, id))
            .collect();
        for held in texts {
            if tree.embedded.contains_key(&held.id) {
                continue;
            }
            let read = embed(tree, &held);
            match (held.sort, &read) {
                (Sort::Document, Err(error)) => tree.broken.push(error.clone()),
                (Sort::Likely, Err(error)) => tree.unclear.push(error.clone()),
                _ => {}
            }
            tree.embedded.insert(held.id, read);
        }
        from = until;
    }
}

/// The texts that are documents of their own, if `id` is a mapping that has such.
fn documents_of(tree: &Tree, id: Id) -> Vec<Held> {
    let value = tree.value(id);
    if !value.is_mapping() {
        return Vec::new();
    }
    match value.text_at(&["kind"]) {
        Some(kind @ ("ConfigMap" | "Secret")) => return of_holder(value, kind),
        Some("EnvoyProxy") => {
            let bootstrap = value.at(&["spec", "bootstrap", "value"]);
            let text = bootstrap.filter(|text| text.text().is_some());
            let held = text.map(|text| Held {
                id: text.id,
                is_base64: false,
                sort: Sort::Document,
            });
            return held.into_iter().collect();
        }
        None if value.get("services").is_some() => return of_compose(value),
        _ => {}
    }
    let is_base64 = match value.text_at(&["@type"]) {
        Some(name) if name.ends_with(STRING) => false,
        Some(name) if name.ends_with(BYTES) => true,
        _ => return Vec::new(),
    };
    let text = value.get("value").filter(|text| text.text().is_some());
    let held = text.map(|text| Held {
        id: text.id,
        is_base64,
        sort: Sort::OfPlugin,
    });
    held.into_iter().collect()
}

/// The texts of a ConfigMap or a Secret that have words of Envoy's. The name of one tells whether it must be YAML.
fn of_holder(value: Value<'_>, kind: &str) -> Vec<Held> {
    let (texts, base64) = match kind {
        "Secret" => ("stringData", "data"),
        _ => ("data", "binaryData"),
    };
    let entries = |key, is_base64| {
        let data = value.get(key).into_iter().flat_map(Value::members);
        data.filter_map(move |(name, text)| {
            let own = text.text()?;
            let is_it = if is_base64 {
                is_of_envoy(&decoded(own)?)
            } else {
                is_of_envoy(own)
            };
            is_it.then_some(Held {
                id: text.id,
                is_base64,
                sort: sort_of(name),
            })
        })
    };
    entries(texts, false).chain(entries(base64, true)).collect()
}

/// The files that stand in a Compose file itself and have words of Envoy's.
fn of_compose(value: Value<'_>) -> Vec<Held> {
    let configs = value.get("configs").into_iter().flat_map(Value::members);
    let held = configs.filter_map(|(name, config)| {
        let text = config.get("content")?;
        is_of_envoy(text.text()?).then_some(Held {
            id: text.id,
            is_base64: false,
            sort: sort_of(name),
        })
    });
    held.collect()
}

/// What a text is by its name.
fn sort_of(name: &str) -> Sort {
    if ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        Sort::Document
    } else {
        Sort::Likely
    }
}

fn is_of_envoy(text: &str) -> bool {
    [
        "static_resources",
        "staticResources",
        "typed_config",
        "typedConfig",
        "http_filters",
        "httpFilters",
    ]
    .iter()
    .any(|word| text.contains(word))
}

/// Reads a text. Of one that cannot be read nothing is kept.
fn embed(tree: &mut Tree, held: &Held) -> Result<Id, Unreadable> {
    let whole = tree.value(held.id).place();
    let Some(scalar) = tree.value(held.id).scalar().cloned() else {
        return Err(empty(whole));
    };
    let (text, origin) = if held.is_base64 {
        let text = decoded(&scalar.text).ok_or_else(|| Unreadable {
            place: whole.clone(),
            message: "this is no text in base64: encode it anew, or write it under `stringData`, as it is".to_owned(),
        })?;
        tree.encoded.insert(held.id);
        (text, Origin::Encoded(held.id, whole.start))
    } else {
        let origin = origin_of(tree, held.id, &scalar, &whole);
        (scalar.text, origin)
    };
    let (values, documents) = (tree.values.len(), tree.documents.len());
    let read = compose_text(tree, &text, &origin)
        .and_then(|root| root.ok_or_else(|| empty(whole.clone())));
    if read.is_err() {
        tree.values.truncate(values);
        tree.documents.truncate(documents);
        tree.mergings.retain(|id, _| *id < values);
    }
    read
}

/// How the text of a scalar stands in the file.
fn origin_of(tree: &Tree, id: Id, scalar: &Scalar, whole: &Place) -> Origin {
    let lines = if whole.inner.is_some() {
        None
    } else if scalar.is_literal {
        literal(&tree.text, &scalar.text, whole)
    } else {
        verbatim(&tree.text, &scalar.text, whole)
    };
    lines.map_or(Origin::Encoded(id, whole.start), Origin::Lines)
}

/// Where these bytes of a scalar's text stand. The text is gone through once for all of them.
pub(super) fn places_in(value: Value<'_>, bytes: Vec<Range<usize>>) -> Vec<Place> {
    let Some(scalar) = value.scalar() else {
        return Vec::new();
    };
    let origin = origin_of(value.tree, value.id, scalar, &value.place());
    bytes.into_iter().map(|bytes| origin.place(bytes)).collect()
}

/// The text that a scalar holds, out of base64 if it is in it.
pub(super) fn text_of(value: Value<'_>) -> Option<Cow<'_, str>> {
    let text = value.text()?;
    if value.tree.encoded.contains(&value.id) {
        decoded(text).map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(text))
    }
}

fn decoded(base64: &str) -> Option<String> {
    let letters: String = base64.split_ascii_whitespace().collect();
    String::from_utf8(Base64::decode_vec(&letters).ok()?).ok()
}

fn empty(place: Place) -> Unreadable {
    Unreadable {
        place,
        message: "there is no document in this text: write one, or leave the text out".to_owned(),
    }
}

/// Where each line of a text begins in the text, and where in the file.
type Lines = Vec<(usize, usize)>;

/// A text that stands in the file as it is, with or without quotes.
fn verbatim(file: &str, text: &str, place: &Place) -> Option<Lines> {
    let rest = file.get(place.start..)?;
    let quotes = usize::from(rest.starts_with(['"', '\'']));
    (rest.get(quotes..)?.starts_with(text) && !text.contains('\n'))
        .then(|| vec![(0, place.start + quotes)])
}

/// A literal block: its lines are those of the file, without their indentation.
fn literal(file: &str, text: &str, place: &Place) -> Option<Lines> {
    let head = file.get(place.start..)?;
    let start_of_line = |at: usize| Some(file.get(..at)?.rfind('\n').map_or(0, |at| at + 1));
    // The place may begin at the indicator, or in the first line that is not empty.
    let mut at = if head.starts_with('|') {
        place.start + head.find('\n')? + 1
    } else {
        let empty = text.bytes().take_while(|&byte| byte == b'\n').count();
        let back = |at: usize, _| start_of_line(at.checked_sub(1)?);
        (0..empty).try_fold(start_of_line(place.start)?, back)?
    };
    let mut lines = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let source = file.get(at..)?.split_inclusive('\n').next()?;
        let content = line.trim_end_matches(['\n', '\r']);
        let shown = source.trim_end_matches(['\n', '\r']);
        if !shown.ends_with(content) {
            return None;
        }
        lines.push((start, at + shown.len() - content.len()));
        start += line.len();
        at += source.len();
    }
    Some(lines)
}
