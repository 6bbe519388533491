//! YAML 1.2 and JSON with positions: every value knows its bytes in the file.
//!
//! A file becomes one [`Tree`]. Its values stand in one list, and an alias is the number of the value that it names. So
//! aliases cost nothing, however often they repeat each other (the "billion laughs"), and one that stands inside of
//! what it names is found while reading. What looks at the values pays for each step, so lists of aliases of lists end
//! the work and not the machine ([`Tree::is_exhausted`]).
//!
//! The non-obvious rule: what reads these files does not agree on everything. Envoy takes `yes` and `on` for true,
//! keeps the last of two equal keys, and refuses merge keys (`<<`); kubectl follows them. Merge keys are followed here,
//! and noted, as equal keys are, so that a rule can tell of them.

mod compose;
mod embedded;
mod scalar;

use std::{cell::Cell, collections::HashMap, ops::Range};

pub use self::{compose::Unreadable, scalar::Scalar};

/// Most bytes of one file. A bootstrap has some tens of KiB; a ConfigMap at the most 1 MiB.
pub const MAX_BYTES: usize = 8 << 20;

/// Most values of one file, with those that merge keys add.
const MAX_VALUES: usize = 500_000;

/// Most values that one configuration of the module has when its aliases are written out.
const MAX_EXPANDED: usize = 20_000;

/// Deepest nesting of one configuration of the module. It has four levels.
const MAX_DEPTH: usize = 32;

/// Most steps that may be taken through one file. The shipped ones take some tens of thousands.
const MAX_STEPS: usize = 20_000_000;

/// Number of a value within its file.
pub type Id = usize;

/// One file, read.
#[derive(Debug)]
pub struct Tree {
    /// What the user calls it.
    pub name: String,
    /// All of its bytes.
    pub text: String,
    /// Its documents, and those that stand as text inside of others.
    pub documents: Vec<Document>,
    values: Vec<Node>,
    /// Aliases, and members that merge keys added.
    merged: usize,
    steps: Cell<usize>,
    embedded: HashMap<Id, Result<Id, Unreadable>>,
    broken: Vec<Unreadable>,
}

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its topmost value.
    pub root: Id,
    /// The numbers of all of its values.
    pub values: Range<Id>,
    /// Whether it stands as text inside of another document.
    pub is_embedded: bool,
    /// Keys that stand twice in one mapping.
    pub repeated: Vec<Place>,
    /// Merge keys.
    pub merges: Vec<Place>,
}

/// Bytes of a file.
pub type Place = Range<usize>;

#[derive(Debug)]
struct Node {
    place: Place,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Scalar(Scalar),
    Sequence(Vec<Id>),
    Mapping(Vec<Member>),
}

#[derive(Clone, Debug)]
struct Member {
    key: String,
    place: Place,
    value: Id,
}

/// A value, with the file that it stands in.
#[derive(Clone, Copy)]
pub struct Value<'t> {
    /// The file.
    pub tree: &'t Tree,
    /// Its number there.
    pub id: Id,
}

impl Tree {
    /// Reads a file's text: all of its documents, and those inside of them.
    pub fn read(name: String, text: String) -> Result<Self, Unreadable> {
        let mut tree = Self {
            name,
            text,
            documents: Vec::new(),
            values: Vec::new(),
            merged: 0,
            steps: Cell::new(MAX_STEPS),
            embedded: HashMap::new(),
            broken: Vec::new(),
        };
        compose::compose(&mut tree)?;
        embedded::embed_all(&mut tree);
        Ok(tree)
    }

    /// The value with this number.
    pub fn value(&self, id: Id) -> Value<'_> {
        Value { tree: self, id }
    }

    /// Takes steps through the file; false if there are none left.
    pub fn spend(&self, steps: usize) -> bool {
        let left = self.steps.get().saturating_sub(steps);
        self.steps.set(left);
        left > 0
    }

    /// Whether looking at the file was given up, because its aliases repeat each other too often.
    pub fn is_exhausted(&self) -> bool {
        self.steps.get() == 0
    }

    /// Documents inside of others that cannot be read.
    pub fn broken(&self) -> &[Unreadable] {
        &self.broken
    }

    /// Line and column of a byte, both counted from one, the column in characters.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        position(&self.text, byte)
    }
}

/// Line and column of a byte of `text`, both counted from one, the column in characters.
pub fn position(text: &str, byte: usize) -> (usize, usize) {
    let mut byte = byte.min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    let before = text.get(..byte).unwrap_or_default();
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

impl<'t> Value<'t> {
    /// Its bytes in the file.
    pub fn place(self) -> Place {
        self.node().map_or(0..0, |node| node.place.clone())
    }

    /// The member of a mapping.
    pub fn get(self, key: &str) -> Option<Self> {
        self.member(key).map(|member| self.tree.value(member.value))
    }

    /// The bytes of a member's key.
    pub fn key_place(self, key: &str) -> Option<Place> {
        self.member(key).map(|member| member.place.clone())
    }

    /// What a path of keys leads to.
    pub fn at(self, path: &[&str]) -> Option<Self> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The items of a sequence; none if it is anything else.
    pub fn items(self) -> impl Iterator<Item = Self> + use<'t> {
        let items: &'t [Id] = match self.node().map(|node| &node.kind) {
            Some(Kind::Sequence(items)) => items,
            _ => &[],
        };
        items
            .iter()
            .take_while(move |_| self.tree.spend(1))
            .map(move |&id| self.tree.value(id))
    }

    /// The items of the sequence that a path of keys leads to; none if there is no such sequence.
    pub fn list(self, path: &[&str]) -> impl Iterator<Item = Self> + use<'t> {
        self.at(path).into_iter().flat_map(Self::items)
    }

    /// The members of a mapping; none if it is anything else.
    pub fn members(self) -> impl Iterator<Item = (&'t str, Self)> + use<'t> {
        let members: &'t [Member] = match self.node().map(|node| &node.kind) {
            Some(Kind::Mapping(members)) => members,
            _ => &[],
        };
        members
            .iter()
            .take_while(move |_| self.tree.spend(1))
            .map(move |member| (member.key.as_str(), self.tree.value(member.value)))
    }

    /// Whether it is a mapping.
    pub fn is_mapping(self) -> bool {
        matches!(self.node().map(|node| &node.kind), Some(Kind::Mapping(_)))
    }

    /// The text of a scalar, whatever it stands for.
    pub fn text(self) -> Option<&'t str> {
        self.scalar().map(|scalar| scalar.text.as_str())
    }

    /// The text of the scalar that a path of keys leads to.
    pub fn text_at(self, path: &[&str]) -> Option<&'t str> {
        self.at(path)?.text()
    }

    /// The scalar.
    pub fn scalar(self) -> Option<&'t Scalar> {
        match &self.node()?.kind {
            Kind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Whether the scalar that a path of keys leads to is true; `None` if it is no boolean.
    pub fn boolean_at(self, path: &[&str]) -> Option<bool> {
        self.at(path)?.scalar()?.boolean()
    }

    /// The whole number that a path of keys leads to.
    pub fn number_at(self, path: &[&str]) -> Option<u64> {
        self.text_at(path)?.parse().ok()
    }

    /// The document that a scalar holds as text.
    pub fn embedded(self) -> Option<Result<Self, &'t Unreadable>> {
        match self.tree.embedded.get(&self.id)? {
            Ok(root) => Some(Ok(self.tree.value(*root))),
            Err(error) => Some(Err(error)),
        }
    }

    /// The value as JSON, as Envoy would hand it on. `None` if it is too large with its aliases written out.
    pub fn json(self) -> Option<serde_json::Value> {
        let mut budget = MAX_EXPANDED;
        self.json_within(&mut budget, MAX_DEPTH)
    }

    fn json_within(self, budget: &mut usize, depth: usize) -> Option<serde_json::Value> {
        *budget = budget.checked_sub(1)?;
        self.tree.spend(1).then_some(())?;
        let depth = depth.checked_sub(1)?;
        Some(match &self.node()?.kind {
            Kind::Scalar(scalar) => scalar.json(),
            Kind::Sequence(items) => {
                let json = |&id: &Id| self.tree.value(id).json_within(budget, depth);
                items.iter().map(json).collect::<Option<_>>()?
            }
            Kind::Mapping(members) => {
                let json = |member: &Member| {
                    let value = self.tree.value(member.value);
                    Some((member.key.clone(), value.json_within(budget, depth)?))
                };
                serde_json::Value::Object(members.iter().map(json).collect::<Option<_>>()?)
            }
        })
    }

    fn node(self) -> Option<&'t Node> {
        self.tree.values.get(self.id)
    }

    fn member(self, key: &str) -> Option<&'t Member> {
        match &self.node()?.kind {
            // Of two equal keys Envoy keeps the last.
            Kind::Mapping(members) if self.tree.spend(1 + members.len() / 8) => {
                members.iter().rev().find(|member| member.key == key)
            }
            _ => None,
        }
    }
}
