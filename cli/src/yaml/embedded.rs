//! Documents that stand as text inside of others: an Envoy configuration in a ConfigMap or a Secret, a bootstrap in an EnvoyProxy,
//! the module's configuration in a `StringValue`.
//!
//! A `BytesValue` holds its document in base64. Values in a literal block (`|`), and in a text that stands in the file as
//! it is, have positions of their own. Values in a text with escapes or folded lines have the place of the whole text.

use std::borrow::Cow;

use base64ct::{Base64, Encoding as _};

use super::{
    Id, Kind, Place, Tree, Value,
    compose::{Unreadable, compose_text},
};

const STRING: &str = "google.protobuf.StringValue";
/// In base64.
const BYTES: &str = "google.protobuf.BytesValue";

/// Deepest nesting of documents: a `StringValue` in a bootstrap in a ConfigMap, and one more.
const MAX_LEVELS: usize = 3;

/// How a document stands inside of another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As a text that is always a document.
    Document,
    /// As a text that may be no document, if another plugin has it.
    Text,
    /// The same in base64.
    Base64,
}

/// Reads every text of the tree that is a document for Envoy or for the module.
pub(super) fn embed_all(tree: &mut Tree) {
    let mut from = 0;
    for _ in 0..MAX_LEVELS {
        let until = tree.values.len();
        let texts: Vec<(Id, Form)> = (from..until)
            .flat_map(|id| documents_of(tree, id))
            .collect();
        for (id, form) in texts {
            if !tree.embedded.contains_key(&id) {
                let read = embed(tree, id, form);
                if let (Form::Document, Err(error)) = (form, &read) {
                    tree.broken.push(error.clone());
                }
                tree.embedded.insert(id, read);
                if form == Form::Base64 {
                    tree.encoded.insert(id);
                }
            }
        }
        from = until;
    }
}

/// The texts that are documents of their own, if `id` is a mapping that has such.
fn documents_of(tree: &Tree, id: Id) -> Vec<(Id, Form)> {
    let value = tree.value(id);
    if !value.is_mapping() {
        return Vec::new();
    }
    match value.text_at(&["kind"]) {
        Some(kind @ ("ConfigMap" | "Secret")) => {
            let (texts, base64) = match kind {
                "Secret" => ("stringData", "data"),
                _ => ("data", "binaryData"),
            };
            let entries = |key, form| {
                let data = value.get(key).into_iter().flat_map(Value::members);
                data.filter_map(move |(_, text)| {
                    let is_it = match form {
                        Form::Base64 => is_of_envoy(&decoded(text.text()?)?),
                        _ => is_of_envoy(text.text()?),
                    };
                    is_it.then_some((text.id, form))
                })
            };
            return entries(texts, Form::Document)
                .chain(entries(base64, Form::Base64))
                .collect();
        }
        Some("EnvoyProxy") => {
            let bootstrap = value.at(&["spec", "bootstrap", "value"]);
            let text = bootstrap.filter(|text| text.text().is_some());
            return text
                .map(|text| (text.id, Form::Document))
                .into_iter()
                .collect();
        }
        _ => {}
    }
    let form = match value.text_at(&["@type"]) {
        Some(name) if name.ends_with(STRING) => Form::Text,
        Some(name) if name.ends_with(BYTES) => Form::Base64,
        _ => return Vec::new(),
    };
    let text = value.get("value").filter(|text| text.text().is_some());
    text.map(|text| (text.id, form)).into_iter().collect()
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

fn embed(tree: &mut Tree, id: Id, form: Form) -> Result<Id, Unreadable> {
    let whole = tree.value(id).place();
    let Some(Kind::Scalar(scalar)) = tree.values.get(id).map(|node| &node.kind) else {
        return Err(empty(whole));
    };
    let lines = match form {
        Form::Base64 => None,
        _ if scalar.is_literal => literal(&tree.text, &scalar.text, &whole),
        _ => verbatim(&tree.text, &scalar.text, &whole),
    };
    let lines = lines.unwrap_or_default();
    let text = match form {
        Form::Base64 => decoded(&scalar.text).ok_or_else(|| Unreadable {
            place: whole.clone(),
            message: "this is no text in base64".to_owned(),
        })?,
        _ => scalar.text.clone(),
    };
    let fallback = whole.start;
    let place = move |byte| Some(origin(&lines, byte).unwrap_or(fallback));
    compose_text(tree, &text, true, &place)?.ok_or_else(|| empty(whole))
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
        message: "there is no document in this text".to_owned(),
    }
}

/// Where each line of a text begins in the text, and where in the file.
type Lines = Vec<(usize, usize)>;

/// Where a byte of the text stands in the file.
fn origin(lines: &Lines, byte: usize) -> Option<usize> {
    let at = lines.partition_point(|(start, _)| *start <= byte);
    let (start, origin) = lines.get(at.checked_sub(1)?)?;
    Some(origin + byte - start)
}

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
