//! From the parser's events to a [`Tree`].
//!
//! Open collections stand on a list of their own, so no nesting is too deep for the stack.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
};

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{Document, Id, Kind, MAX_VALUES, Member, Node, Place, Scalar, Tree};

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
    let composed = compose_text(tree, &text, false, &Some);
    tree.text = text;
    composed.map(drop)
}

/// Reads `text` as YAML, adds its documents to the tree, and returns the topmost value of the first document. `place` tells
/// where in the file a byte of `text` stands; `None` if that cannot be said.
pub(super) fn compose_text(
    tree: &mut Tree,
    text: &str,
    is_embedded: bool,
    place: &dyn Fn(usize) -> Option<usize>,
) -> Result<Option<Id>, Unreadable> {
    let mut options = Options::default();
    options.emit_comments = false;
    let mut composer = Composer {
        tree,
        is_embedded,
        place,
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
    is_embedded: bool,
    place: &'c dyn Fn(usize) -> Option<usize>,
    open: Vec<Open>,
    /// The values that anchors name. `None` while a value is not complete.
    anchors: HashMap<usize, Option<Id>>,
    document: Option<Document>,
    first: Option<Id>,
}

/// A collection that has not ended.
struct Open {
    start: usize,
    anchor: usize,
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
                    is_embedded: self.is_embedded,
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
            Event::SequenceStart(_, anchor, _) => {
                self.begin(anchor, span, Content::Sequence(Vec::new()));
            }
            Event::MappingStart(_, anchor, _) => {
                let members = Vec::new();
                self.begin(anchor, span, Content::Mapping { members, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span)?,
            Event::Alias(anchor) => {
                let id = self.anchors.get(&anchor).copied().flatten();
                let id = id.ok_or_else(|| Unreadable {
                    place: self.place_of(span),
                    message: "this alias stands inside of what it names".to_owned(),
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
                Some(tag) => format!("{}{}", tag.handle(), tag.suffix()) != "!",
            },
            is_literal: style == ScalarStyle::Literal,
        };
        let id = self.push(self.place_of(span), Kind::Scalar(scalar))?;
        if anchor != 0 {
            self.anchors.insert(anchor, Some(id));
        }
        self.add(id, span)
    }

    fn begin(&mut self, anchor: usize, span: Span, content: Content) {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        self.open.push(Open {
            start: self.place_of(span).start,
            anchor,
            content,
        });
    }

    fn end(&mut self, span: Span) -> Result<(), Unreadable> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let place = open.start..self.place_of(span).end.max(open.start);
        let kind = match open.content {
            Content::Sequence(items) => Kind::Sequence(items),
            Content::Mapping { members, .. } => Kind::Mapping(self.mapping(members)?),
        };
        let id = self.push(place, kind)?;
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
                            return Err(Unreadable {
                                place: self.tree.value(id).place(),
                                message: "a key must be a text".to_owned(),
                            });
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
        let byte = |at: Option<usize>| (self.place)(at.unwrap_or(0)).unwrap_or(0);
        let start = byte(span.start.byte_offset());
        start..byte(span.end.byte_offset()).max(start)
    }

    fn scan_error(&self, error: &ScanError) -> Unreadable {
        let at = error.marker().byte_offset().unwrap_or(0);
        let at = (self.place)(at).unwrap_or(0);
        Unreadable {
            place: at..at,
            message: format!("this is not YAML: {}", error.info()),
        }
    }
}

fn too_many(place: Option<&Place>) -> Unreadable {
    Unreadable {
        place: place.cloned().unwrap_or(0..0),
        message: format!("the file has more than {MAX_VALUES} values"),
    }
}
