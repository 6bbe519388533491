//! From the parser's events to a [`Tree`].
//!
//! Open collections stand on a list of their own, so no nesting is too deep for the stack here. What follows values goes from one
//! to the next by a list too ([`super::Value::within`]), or has a limit of its own: aliases nest without any bracket.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
};

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{
    Document, Id, Kind, MAX_VALUES, Member, Merging, Node, Place, Scalar, Tree, place::Origin,
};

/// Why a text is no YAML, and where.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Where.
    pub place: Place,
    /// Why, in one line.
    pub message: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Reads all documents of the tree's own text.
pub(super) fn compose(tree: &mut Tree) -> Result<(), Unreadable> {
    let text = std::mem::take(&mut tree.text);
    let composed = compose_text(tree, &text, &Origin::File);
    tree.text = text;
    composed.map(drop)
}

/// Reads `text` as YAML, adds its documents to the tree, and returns the topmost value of the first document. `origin` tells
/// where the text stands in the file.
pub(super) fn compose_text(
    tree: &mut Tree,
    text: &str,
    origin: &Origin,
) -> Result<Option<Id>, Unreadable> {
    let mut options = Options::default();
    options.emit_comments = false;
    let mut composer = Composer {
        tree,
        text,
        origin,
        open: Vec::new(),
        anchors: HashMap::new(),
        document: None,
        first: None,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| composer.scan_error(&error))?;
        composer.take(event, span)?;
    }
    Ok(composer.first)
}

struct Composer<'c> {
    tree: &'c mut Tree,
    text: &'c str,
    origin: &'c Origin,
    open: Vec<Open>,
    /// The values that anchors name. `None` while a value is not complete.
    anchors: HashMap<usize, Option<Id>>,
    document: Option<Document>,
    first: Option<Id>,
}

/// A collection that has not ended.
struct Open {
    /// The byte of the text that it begins at.
    start: usize,
    anchor: usize,
    merging: Option<Merging>,
    content: Content,
}

enum Content {
    Sequence(Vec<Id>),
    Mapping {
        members: Vec<Member>,
        /// The key whose value comes next.
        key: Option<(String, Place)>,
    },
}

impl Composer<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Unreadable> {
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                let next = self.tree.values.len();
                self.document = Some(Document {
                    root: next,
                    values: next..next,
                    is_embedded: !matches!(self.origin, Origin::File),
                    repeated: Vec::new(),
                    merges: Vec::new(),
                });
            }
            Event::DocumentEnd => {
                if let Some(mut document) = self.document.take() {
                    document.values.end = self.tree.values.len();
                    if !document.values.is_empty() {
                        self.first.get_or_insert(document.root);
                        self.tree.documents.push(document);
                    }
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, style, (anchor, tag), span)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin((anchor, tag), span, Content::Sequence(Vec::new()));
            }
            Event::MappingStart(_, anchor, tag) => {
                let members = Vec::new();
                self.begin((anchor, tag), span, Content::Mapping { members, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span)?,
            Event::Alias(anchor) => {
                let id = self.anchors.get(&anchor).copied().flatten();
                let id = id.ok_or_else(|| Unreadable {
                    place: self.place_of(span),
                    message: "this alias stands inside of what it names: write the value out"
                        .to_owned(),
                })?;
                self.tree.merged += 1;
                if self.tree.merged > MAX_VALUES {
                    return Err(too_many(Some(&self.place_of(span))));
                }
                self.add(id, span)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        (anchor, tag): (usize, Option<Cow<'_, Tag>>),
        span: Span,
    ) -> Result<(), Unreadable> {
        let scalar = Scalar {
            text: text.into_owned(),
            is_plain: match &tag {
                None => style == ScalarStyle::Plain,
                // `!` says that it is a text, as quotes do.
                Some(tag) => name_of(tag) != "!",
            },
            is_literal: style == ScalarStyle::Literal,
        };
        let id = self.push(self.place_of(span), Kind::Scalar(scalar))?;
        self.note_merging(id, merging(tag.as_deref()));
        if anchor != 0 {
            self.anchors.insert(anchor, Some(id));
        }
        self.add(id, span)
    }

    fn begin(
        &mut self,
        (anchor, tag): (usize, Option<Cow<'_, Tag>>),
        span: Span,
        content: Content,
    ) {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        self.open.push(Open {
            start: span.start.byte_offset().unwrap_or(0),
            anchor,
            merging: merging(tag.as_deref()),
            content,
        });
    }

    fn end(&mut self, span: Span) -> Result<(), Unreadable> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let end = span.end.byte_offset().unwrap_or(0).max(open.start);
        let place = self.origin.place(open.start..end);
        let kind = match open.content {
            Content::Sequence(items) => Kind::Sequence(items),
            Content::Mapping { members, .. } => Kind::Mapping(self.mapping(members)?),
        };
        let id = self.push(place, kind)?;
        self.note_merging(id, open.merging);
        if open.anchor != 0 {
            self.anchors.insert(open.anchor, Some(id));
        }
        self.add(id, span)
    }

    /// Notes keys that are given twice, and writes merge keys out: a key of the mapping's own counts more than a merged
    /// one, and an earlier merged mapping more than a later one.
    fn mapping(&mut self, members: Vec<Member>) -> Result<Vec<Member>, Unreadable> {
        let mut own = HashSet::new();
        let mut repeated = Vec::new();
        let mut merged = Vec::new();
        let mut merges = Vec::new();
        for member in &members {
            if member.key == "<<" {
                merges.push(member.place.clone());
                merged.extend(self.mappings(member.value));
            } else if !own.insert(member.key.as_str()) {
                repeated.push(member.place.clone());
            }
        }
        let mut all = Vec::new();
        for id in merged {
            let Some(Kind::Mapping(others)) = self.tree.values.get(id).map(|node| &node.kind)
            else {
                continue;
            };
            for other in others {
                if own.insert(other.key.as_str()) {
                    all.push(other.clone());
                }
            }
            self.tree.merged += others.len();
            if self.tree.merged > MAX_VALUES {
                return Err(too_many(merges.first()));
            }
        }
        all.extend(members.iter().filter(|member| member.key != "<<").cloned());
        if let Some(document) = &mut self.document {
            document.repeated.append(&mut repeated);
            document.merges.append(&mut merges);
        }
        Ok(all)
    }

    /// The mappings that a merge key names: one, or a sequence of them.
    fn mappings(&self, id: Id) -> Vec<Id> {
        match self.tree.values.get(id).map(|node| &node.kind) {
            Some(Kind::Sequence(items)) => items.clone(),
            _ => vec![id],
        }
    }

    fn note_merging(&mut self, id: Id, merging: Option<Merging>) {
        if let Some(merging) = merging {
            self.tree.mergings.insert(id, merging);
        }
    }

    fn push(&mut self, place: Place, kind: Kind) -> Result<Id, Unreadable> {
        if self.tree.values.len() >= MAX_VALUES {
            return Err(too_many(Some(&place)));
        }
        self.tree.values.push(Node { place, kind });
        Ok(self.tree.values.len() - 1)
    }

    /// Adds a complete value to the collection that is open.
    fn add(&mut self, id: Id, span: Span) -> Result<(), Unreadable> {
        let place = self.place_of(span);
        let Some(open) = self.open.last_mut() else {
            if let Some(document) = &mut self.document {
                document.root = id;
            }
            return Ok(());
        };
        match &mut open.content {
            Content::Sequence(items) => items.push(id),
            Content::Mapping { members, key } => match key.take() {
                None => {
                    let text = match self.tree.values.get(id).map(|node| &node.kind) {
                        Some(Kind::Scalar(scalar)) => scalar.text.clone(),
                        _ => {
                            return Err(self.no_key(id, span));
                        }
                    };
                    *key = Some((text, place));
                }
                Some((key, place)) => members.push(Member {
                    key,
                    place,
                    value: id,
                }),
            },
        }
        Ok(())
    }

    fn place_of(&self, span: Span) -> Place {
        let start = span.start.byte_offset().unwrap_or(0);
        let end = span.end.byte_offset().unwrap_or(0).max(start);
        self.origin.place(start..end)
    }

    /// A collection stands where a key should.
    fn no_key(&self, id: Id, span: Span) -> Unreadable {
        let at = span.start.byte_offset().unwrap_or(0);
        let message = if is_template(self.text, at) {
            TEMPLATE
        } else {
            "a key must be a text: write a name before the colon, in quotes if it has brackets"
        };
        Unreadable {
            place: self.tree.value(id).place(),
            message: message.to_owned(),
        }
    }

    fn scan_error(&self, error: &ScanError) -> Unreadable {
        let at = error.marker().byte_offset().unwrap_or(0);
        let message = if is_template(self.text, at) {
            TEMPLATE.to_owned()
        } else {
            let why = error.info();
            format!("this is not YAML: {why}; look at this place, and at the line before it")
        };
        Unreadable {
            place: self.origin.place(at..at),
            message,
        }
    }
}

const TEMPLATE: &str = "this is a template, and no YAML yet: render it first, as by `helm template`, and give `check` what comes out";

/// Whether a text that is no YAML is a template: the line of this byte has an action, or another line one that is nothing else.
fn is_template(text: &str, at: usize) -> bool {
    const HERE: [&str; 2] = ["{{", "{%"];
    const ANYWHERE: [&str; 5] = ["{% ", "{%-", "{{ ", "{{-", "{{."];
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let rest = text.get(start..).unwrap_or_default();
    let line = rest.lines().next().unwrap_or_default();
    HERE.iter().any(|action| line.contains(action))
        || ANYWHERE.iter().any(|action| text.contains(action))
}

/// What a tag of Docker Compose's says of the values that earlier files have.
fn merging(tag: Option<&Tag>) -> Option<Merging> {
    match name_of(tag?).as_str() {
        "!override" => Some(Merging::Override),
        "!reset" => Some(Merging::Reset),
        _ => None,
    }
}

fn name_of(tag: &Tag) -> String {
    format!("{}{}", tag.handle(), tag.suffix())
}

fn too_many(place: Option<&Place>) -> Unreadable {
    Unreadable {
        place: place.cloned().unwrap_or_default(),
        message: format!("the file has more than {MAX_VALUES} values: give `check` a part of it"),
    }
}
