//! YAML 1.2 and JSON with positions: every value knows its bytes in the file.
//!
//! A file becomes one [`Tree`]. Its values stand in one list, and an alias is the number of the value that it names. So
//! aliases cost nothing, however often they repeat each other (the "billion laughs"), and an alias inside of the value that
//! it names is found while reading. Code that looks at the values pays for each step, so lists of aliases of lists end the
//! work and not the machine ([`Tree::is_exhausted`]).
//!
//! Protobuf, which reads Envoy's configuration, takes a field in more than one spelling: by its own name or by the one of
//! JSON (`normalize_path`, `normalizePath`), a boolean or a number also in quotes or as `{value: ..}`, an enumeration also
//! by its number. This reader takes every spelling, so that no rule has to know of them.
//!
//! The non-obvious rule: the programs that read these files do not agree on everything. Envoy takes `yes` and `on` for
//! true, keeps the last of two equal keys, and refuses merge keys (`<<`), while kubectl follows them. Here merge keys are
//! followed, and noted, as equal keys are, so that a rule can tell of them.

mod compose;
mod embedded;
mod lines;
mod place;
mod scalar;

use std::{
    borrow::Cow,
    cell::{Cell, OnceCell, RefCell},
    collections::{HashMap, HashSet},
    ops::Range,
    rc::Rc,
};

pub use self::{
    compose::Unreadable,
    place::Place,
    scalar::{Reader, Scalar},
};
use self::{lines::Lines, place::Inner};

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
    /// The documents that texts hold, by the text.
    embedded: HashMap<Id, Result<Id, Unreadable>>,
    /// The texts among these that stand in base64.
    encoded: HashSet<Id>,
    broken: Vec<Unreadable>,
    unclear: Vec<Unreadable>,
    /// What tags of Docker Compose's say of values.
    mergings: HashMap<Id, Merging>,
    /// Texts that the file has in another form, with their lines, once someone has asked.
    inner: RefCell<HashMap<Id, Rc<(String, Lines)>>>,
    /// Where its lines are, once someone has asked.
    lines: OnceCell<Lines>,
    /// The answers to questions about values.
    answers: RefCell<HashMap<(Id, &'static str), bool>>,
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

/// What becomes of the values that earlier files of Docker Compose have under the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merging {
    /// `!override`: this value takes their place.
    Override,
    /// `!reset`: they are taken back, and there is none.
    Reset,
}

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
            encoded: HashSet::new(),
            broken: Vec::new(),
            unclear: Vec::new(),
            mergings: HashMap::new(),
            inner: RefCell::default(),
            lines: OnceCell::new(),
            answers: RefCell::default(),
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

    /// The answer to a question about a value, if it was noted.
    pub fn noted(&self, id: Id, question: &'static str) -> Option<bool> {
        self.answers.borrow().get(&(id, question)).copied()
    }

    /// Notes the answer to a question about a value, so that it is worked out once.
    pub fn note(&self, id: Id, question: &'static str, answer: bool) {
        self.answers.borrow_mut().insert((id, question), answer);
    }

    /// Whether looking at the file was given up: its aliases repeat each other too often, or it has too many regular
    /// expressions.
    pub fn is_exhausted(&self) -> bool {
        self.steps.get() == 0
    }

    /// Documents inside of others that cannot be read.
    pub fn broken(&self) -> &[Unreadable] {
        &self.broken
    }

    /// Texts that may be documents, and cannot be read.
    pub fn unclear(&self) -> &[Unreadable] {
        &self.unclear
    }

    /// Line and column in the text that a place stands in, if the file has that text in another form. Of texts inside of each other
    /// the outer one counts.
    pub fn inner_position(&self, place: &Place) -> Option<(usize, usize)> {
        let mut inner = place.inner.as_ref()?;
        let around = |inner: &Inner| self.values.get(inner.text);
        while let Some(outer) = around(inner).and_then(|node| node.place.inner.as_ref()) {
            inner = outer;
        }
        let known = self.inner.borrow().get(&inner.text).cloned();
        let text = known.unwrap_or_else(|| {
            let text = self.value(inner.text).embedded_text();
            let text = text.unwrap_or_default().into_owned();
            let lines = Lines::of(&text);
            let text = Rc::new((text, lines));
            self.inner.borrow_mut().insert(inner.text, Rc::clone(&text));
            text
        });
        Some(text.1.position(&text.0, inner.bytes.start))
    }

    /// Line and column of a byte, both counted from one, the column in characters.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        self.lines().position(&self.text, byte)
    }

    /// Where the line begins that a byte stands in, and the line.
    pub fn line(&self, byte: usize) -> (usize, &str) {
        let Range { start, end } = self.lines().around(byte);
        let line = self.text.get(start..end.min(self.text.len()));
        (
            start,
            line.unwrap_or_default().trim_end_matches(['\r', '\n']),
        )
    }

    fn lines(&self) -> &Lines {
        self.lines.get_or_init(|| Lines::of(&self.text))
    }
}

/// Line and column of a byte of `text`, both counted from one, the column in characters.
pub fn position(text: &str, byte: usize) -> (usize, usize) {
    Lines::of(text).position(text, byte)
}

impl<'t> Value<'t> {
    /// Identifies the value among those of all files.
    pub fn key(self) -> (*const Tree, Id) {
        (std::ptr::from_ref(self.tree), self.id)
    }

    /// Its bytes in the file.
    pub fn place(self) -> Place {
        self.node()
            .map_or_else(Place::default, |node| node.place.clone())
    }

    /// Where these bytes of its text stand.
    pub fn places_in(self, bytes: Vec<Range<usize>>) -> Vec<Place> {
        embedded::places_in(self, bytes)
    }

    /// What a tag of Docker Compose's says of it.
    pub fn merging(self) -> Option<Merging> {
        self.tree.mergings.get(&self.id).copied()
    }

    /// The member of a mapping, in either spelling of its name.
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

    /// It and all values below it, each once, however many aliases it has. What stands under a key that is left out is not among
    /// them.
    pub fn within(self, is_left_out: impl Fn(&str) -> bool) -> Vec<Self> {
        let mut left = vec![self];
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        while let Some(value) = left.pop() {
            if !seen.insert(value.id) {
                continue;
            }
            found.push(value);
            left.extend(value.items());
            let members = value.members().filter(|(key, _)| !is_left_out(key));
            left.extend(members.map(|(_, member)| member));
        }
        found
    }

    /// Whether one of these values is in it, at any depth, or is itself one of them.
    pub fn has_any(self, wanted: &HashSet<(*const Tree, Id)>) -> bool {
        let all = self.within(|_| false);
        all.into_iter().any(|value| wanted.contains(&value.key()))
    }

    /// Whether it is a mapping.
    pub fn is_mapping(self) -> bool {
        matches!(self.node().map(|node| &node.kind), Some(Kind::Mapping(_)))
    }

    /// The text of a scalar, whatever it stands for.
    pub fn text(self) -> Option<&'t str> {
        self.scalar().map(|scalar| scalar.text.as_str())
    }

    /// The member of a mapping whose keys are names of the user's own, which have one spelling.
    pub fn entry(self, key: &str) -> Option<Self> {
        let mut members = self.members().filter(|(own, _)| *own == key);
        members.next().map(|(_, value)| value)
    }

    /// The text of the scalar that a path of keys leads to.
    pub fn text_at(self, path: &[&str]) -> Option<&'t str> {
        self.at(path)?.unwrapped().text()
    }

    /// The name of an enumeration's value that a path of keys leads to. `names` has the names in the order of their numbers.
    pub fn name_at(self, path: &[&str], names: &'static [&'static str]) -> Option<&'t str> {
        let value = self.at(path)?.unwrapped();
        let number = value.scalar()?.whole_number();
        let number = number.and_then(|number| usize::try_from(number).ok());
        let name = number.and_then(|number| names.get(number)).copied();
        name.or_else(|| value.text())
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
        self.at(path)?.unwrapped().scalar()?.truth()
    }

    /// The whole number that a path of keys leads to.
    pub fn number_at(self, path: &[&str]) -> Option<u64> {
        self.at(path)?.unwrapped().scalar()?.whole_number()
    }

    /// The value in `{value: ..}`, which is how protobuf writes one that may be absent; else the value itself.
    fn unwrapped(self) -> Self {
        match self.node().map(|node| &node.kind) {
            Some(Kind::Mapping(members)) if members.len() == 1 => {
                self.entry("value").unwrap_or(self)
            }
            _ => self,
        }
    }

    /// The document that a scalar holds as text.
    pub fn embedded(self) -> Option<Result<Self, &'t Unreadable>> {
        match self.tree.embedded.get(&self.id)? {
            Ok(root) => Some(Ok(self.tree.value(*root))),
            Err(error) => Some(Err(error)),
        }
    }

    /// The text that a scalar holds a document in, out of base64 if it is in it.
    pub fn embedded_text(self) -> Option<Cow<'t, str>> {
        embedded::text_of(self)
    }

    /// The value as JSON, as its reader would hand it on. `None` if it is too large with its aliases written out.
    pub fn json(self, reader: Reader) -> Option<serde_json::Value> {
        let mut budget = MAX_EXPANDED;
        self.json_within(reader, &mut budget, MAX_DEPTH)
    }

    fn json_within(
        self,
        reader: Reader,
        budget: &mut usize,
        depth: usize,
    ) -> Option<serde_json::Value> {
        *budget = budget.checked_sub(1)?;
        self.tree.spend(1).then_some(())?;
        let depth = depth.checked_sub(1)?;
        Some(match &self.node()?.kind {
            Kind::Scalar(scalar) => scalar.json(reader),
            Kind::Sequence(items) => {
                let json = |&id: &Id| self.tree.value(id).json_within(reader, budget, depth);
                items.iter().map(json).collect::<Option<_>>()?
            }
            Kind::Mapping(members) => {
                let json = |member: &Member| {
                    let value = self.tree.value(member.value);
                    Some((
                        member.key.clone(),
                        value.json_within(reader, budget, depth)?,
                    ))
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
            // Envoy keeps the last of two equal keys.
            Kind::Mapping(members) if self.tree.spend(1 + members.len() / 8) => {
                members.iter().rev().find(|it| is_field(&it.key, key))
            }
            _ => None,
        }
    }
}

/// Whether a key names a field of protobuf: by the field's own name, or by its name in JSON.
pub fn is_field(key: &str, name: &str) -> bool {
    if key == name || !name.contains('_') {
        return key == name;
    }
    let mut words = name.split('_');
    let mut rest = key.strip_prefix(words.next().unwrap_or_default());
    for word in words {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        rest = rest
            .and_then(|rest| first.map_or(Some(rest), |first| rest.strip_prefix(first)))
            .and_then(|rest| rest.strip_prefix(letters.as_str()));
    }
    rest == Some("")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Tree {
        Tree::read("test".to_owned(), text.to_owned()).unwrap()
    }

    fn root(tree: &Tree) -> Value<'_> {
        tree.value(tree.documents[0].root)
    }

    /// Line and column of the value that a path leads to.
    fn position_of(tree: &Tree, path: &[&str]) -> (usize, usize) {
        tree.position(root(tree).at(path).unwrap().place().start)
    }

    #[test]
    fn each_value_has_its_place() {
        let tree = read("a: 1\nb:\n  - {c: é, d: [x]}\n---\ne: 2\n");
        assert_eq!(position_of(&tree, &["a"]), (1, 4));
        let item = root(&tree).list(&["b"]).next().unwrap();
        assert_eq!(tree.position(item.get("d").unwrap().place().start), (3, 15));
        assert_eq!(tree.position(item.key_place("d").unwrap().start), (3, 12));
        assert_eq!(tree.documents.len(), 2);
    }

    #[test]
    fn an_alias_is_what_it_names() {
        let tree = read("a: &x {b: 1}\nc: *x\n");
        assert_eq!(
            root(&tree).json(Reader::Envoy),
            Some(json!({"a": {"b": 1}, "c": {"b": 1}}))
        );
        assert_eq!(position_of(&tree, &["c", "b"]), (1, 11));
    }

    #[test]
    fn merge_keys_add_what_is_not_there() {
        let tree = read("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\n");
        let merged = root(&tree).get("c").unwrap().json(Reader::Envoy);
        assert_eq!(merged, Some(json!({"x": 3, "y": 1, "z": 2})));
        assert_eq!(tree.documents[0].merges.len(), 1);
        assert!(tree.documents[0].repeated.is_empty());
    }

    #[test]
    fn of_two_equal_keys_the_last_counts_and_is_noted() {
        let tree = read("a: 1\nb: 2\na: 3\n");
        assert_eq!(root(&tree).text_at(&["a"]), Some("3"));
        let repeated = &tree.documents[0].repeated;
        assert_eq!(repeated.len(), 1);
        assert_eq!(tree.position(repeated[0].start), (3, 1));
    }

    #[test]
    fn a_text_that_is_a_document_has_places_of_its_own() {
        let config =
            "kind: ConfigMap\ndata:\n  x: |\n\n    static_resources:\n      listeners: [a]\n";
        let quoted = "\"@type\": a/google.protobuf.StringValue\nvalue: '{\"a\": 1}'\n";
        for (text, path, inside, place) in [
            (
                config,
                &["data", "x"][..],
                &["static_resources", "listeners"][..],
                (6, 18),
            ),
            (quoted, &["value"], &["a"], (2, 15)),
        ] {
            let tree = read(text);
            let embedded = root(&tree).at(path).unwrap().embedded().unwrap();
            let value = embedded.ok().and_then(|it| it.at(inside)).unwrap();
            assert_eq!(tree.position(value.place().start), place, "{text}");
        }
    }

    #[test]
    fn each_spelling_that_protobuf_takes_is_read() {
        const NAMES: &[&str] = &["ALLOW", "REJECT_REQUEST"];
        for text in [
            "normalize_path: true",
            "normalizePath: yes",
            "normalizePath: \"true\"",
            "normalize_path: {value: true}",
        ] {
            let tree = read(text);
            assert_eq!(
                root(&tree).boolean_at(&["normalize_path"]),
                Some(true),
                "{text}"
            );
            assert!(root(&tree).key_place("normalize_path").is_some(), "{text}");
        }
        for text in ["a_b: 16", "aB: \"16\"", "aB: {value: 0x10}", "aB: 16.0"] {
            assert_eq!(root(&read(text)).number_at(&["a_b"]), Some(16), "{text}");
        }
        for text in ["a: REJECT_REQUEST", "a: 1", "a: \"1\""] {
            let tree = read(text);
            let name = root(&tree).name_at(&["a"], NAMES);
            assert_eq!(name, Some("REJECT_REQUEST"), "{text}");
        }
        for (key, name, is_it) in [
            ("pathV2Rfc3986", "path_v2_rfc_3986", true),
            ("failOpen", "failOpen", true),
            ("fail_open", "failOpen", false),
            ("failopen", "fail_open", false),
            ("failOpenx", "fail_open", false),
            ("fail", "fail_open", false),
        ] {
            assert_eq!(is_field(key, name), is_it, "{key}");
        }
    }

    #[test]
    fn steps_run_out() {
        let tree = read("[a, b]");
        assert_eq!(root(&tree).items().count(), 2);
        assert!(!tree.is_exhausted());
        tree.spend(MAX_STEPS);
        assert_eq!(root(&tree).items().count(), 0);
        assert!(tree.is_exhausted());
    }

    proptest! {
        /// Whatever stands in a file, it is read or refused, and each place is one of the file.
        #[test]
        fn every_text_is_read_or_refused(pieces in prop::collection::vec(prop::sample::select(vec![
            "a", ": ", "\n", "  ", "- ", "&x ", "*x", "<<", "[", "]", "{", "}", ", ", "|\n", ">\n", "'", "\"", "#", "---\n",
            "é", "!!str ", "kind: ConfigMap\n", "data:\n", "static_resources", "\"@type\": google.protobuf.StringValue\n",
            "value: ", "\t", "%", "\r\n", "? ",
        ]), 0..40)) {
            let text = pieces.concat();
            match Tree::read("test".to_owned(), text.clone()) {
                Ok(tree) => {
                    for id in 0..tree.values.len() {
                        let place = tree.value(id).place();
                        prop_assert!(place.start <= place.end && place.end <= text.len());
                        let _ = tree.position(place.start);
                        let _ = tree.value(id).json(Reader::Envoy);
                    }
                }
                Err(error) => {
                    let _ = position(&text, error.place.start);
                }
            }
        }
    }
}
