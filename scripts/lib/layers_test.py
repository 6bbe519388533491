"""Tests layers.py on small source trees that are written for each test: python3 scripts/lib/layers_test.py"""

import tempfile
import unittest
from pathlib import Path

from layers import check

LAYERS = {"top": ["middle", "bottom"], "middle": ["bottom"], "bottom": []}
LEAVES = ["leaf"]
LIB = "mod bottom;\nmod leaf;\nmod middle;\nmod top;\n"
CLEAN = {
    "lib.rs": LIB + "pub use top::Top;\n",
    "leaf.rs": "pub struct Leaf;",
    "bottom.rs": "use crate::leaf::Leaf;\npub struct Bottom(Leaf);\n",
    "middle.rs": "use crate::{bottom::Bottom, leaf};\npub struct Middle(Bottom, leaf::Leaf);\n",
    "top.rs": "pub struct Top(crate::middle::Middle);\n",
}


def faults(files, is_strict=False, layers=LAYERS):
    """The faults of the clean tree with these files put over its own."""
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder) / "src"
        for name, text in (CLEAN | files).items():
            path = src / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return check(src, layers, LEAVES, is_strict)


def upward(files, layers=LAYERS):
    """The uses that the table does not allow. Most of them close a circle too, which is left out here."""
    return [fault for fault in faults(files, layers=layers) if "must not use" in fault]


class Directions(unittest.TestCase):
    def test_a_clean_tree_has_no_faults(self):
        self.assertEqual(faults({}, is_strict=True), [])

    def test_a_use_that_goes_up_is_reported_with_both_files_and_the_line(self):
        expected = "src/bottom.rs:3: bottom must not use top (src/top.rs): crate::top::Top"
        self.assertEqual(upward({"bottom.rs": "\n\nuse crate::top::Top;\n"}), [expected])

    def test_every_way_to_write_a_use_is_seen(self):
        for text in [
            "use crate::top;",
            "use crate::top::*;",
            "use crate::top as upper;",
            "use crate::{leaf::Leaf, top::{self}};",
            "use crate::{\n    leaf::{Leaf},\n    top::{Top as A, Top as B},\n};",
            "use super::top::Top;",
            "use self::super::top::Top;",
            "use {super::{top::Top}};",
            "pub use crate::top::Top;",
            "pub(crate) use crate::top::Top;",
            "pub(in crate::bottom) use crate::top::Top;",
            "fn f() { use crate::top::Top; }",
            "fn f() { crate::top::Top::new(1) }",
            "fn f() -> <crate::top::Top as Into<u8>>::Output {}",
            "fn f<'a>(c: &'a char) { if *c == '\"' { super::top::g(\"\") } }",
            "mod inner { use super::super::top::Top; }",
            "mod inner { fn f() { super::super::top::g() } }",
            "mod inner { fn f() { if true {} } }\nuse super::top::Top;",
            "macro_rules! m { () => { $crate::top::f() } }",
            "#[cfg(not(test))]\nuse crate::top::Top;",
            "#[cfg(any(test, feature = \"x\"))]\nuse crate::top::Top;",
        ]:
            with self.subTest(text):
                found = upward({"bottom.rs": text})
                self.assertEqual(len(found), 1, found)
                self.assertIn("bottom must not use top (src/top.rs)", found[0])

    def test_a_file_in_a_folder_is_of_the_same_room(self):
        files = {"bottom.rs": "mod deep;", "bottom/deep.rs": "use super::super::{middle::Middle};"}
        expected = "src/bottom/deep.rs:1: bottom must not use middle (src/middle.rs): super::super::middle::Middle"
        self.assertEqual(upward(files), [expected])
        files = {"bottom.rs": "mod deep;\nmod other;", "bottom/deep.rs": "use super::other;", "bottom/other.rs": ""}
        self.assertEqual(faults(files, is_strict=True), [])

    def test_a_path_through_an_imported_module_is_followed(self):
        files = {"middle.rs": "use crate::{bottom as b};\nfn f() { b::deep::g() }", "bottom.rs": "pub mod deep;"}
        files |= {"bottom/deep.rs": "use crate::middle;"}
        found = faults(files, is_strict=True)
        self.assertIn("src/middle.rs:2 uses src/bottom/deep.rs: b::deep::g", found[-1])

    def test_a_reexport_is_a_use_of_the_room_that_reexports(self):
        layers = {"top": ["middle"], "middle": ["bottom"], "bottom": []}
        files = {"middle.rs": "pub use crate::bottom::Bottom;", "top.rs": "use crate::middle::Bottom;"}
        self.assertEqual(upward(files, layers=layers), [])
        files["top.rs"] = "use crate::bottom::Bottom;"
        expected = "src/top.rs:1: top must not use bottom (src/bottom.rs): crate::bottom::Bottom"
        self.assertEqual(upward(files, layers=layers), [expected])

    def test_what_is_no_use_is_not_reported(self):
        for text in [
            "// use crate::top::Top;",
            "//! [`crate::top::Top`]",
            "/* /* */ use crate::top::Top; */",
            'const A: &str = "\\"use crate::top::Top;";',
            'const A: &str = r#""use crate::top::Top;"#;',
            "use ::top::Top;",
            "use other::{top::Top};\nfn f() { other::top::g() }",
            "fn f(top: u8) -> u8 { top.max(1) }",
            "pub(in crate::top) fn f() {}",
            "#[cfg(test)]\nuse crate::{top::Top};\nfn f() {}",
            "#[cfg(test)]\n#[rustfmt::skip]\nmod tests {\n    use crate::top::Top;\n}",
            "#[cfg(all(test, unix))]\nfn f<A, B>() where A: Into<B> { crate::top::g() }",
            "struct A {\n    #[cfg(test)]\n    top: crate::top::Top,\n    b: u8,\n}",
        ]:
            with self.subTest(text):
                self.assertEqual(faults({"bottom.rs": text}, is_strict=True), [])

    def test_what_follows_a_test_only_item_counts(self):
        for item in [
            "use crate::leaf::{Leaf};",
            "mod tests { fn f() {} }",
            "fn f() {}",
            "const A: B = B { c: 1 }.with(crate::top::Top);",
        ]:
            with self.subTest(item):
                found = upward({"bottom.rs": f"#[cfg(test)]\n{item}\nuse crate::top::Top;"})
                self.assertEqual(len(found), 1, found)
                self.assertTrue(found[0].startswith("src/bottom.rs:3:"), found)

    def test_the_file_of_a_test_module_does_not_count(self):
        self.assertEqual(upward({"bottom.rs": "#[cfg(test)]\nmod t;", "bottom/t.rs": "use crate::top::Top;"}), [])
        files = {"bottom.rs": "mod t;", "bottom/t.rs": "#![cfg(test)]\nuse crate::top::Top;"}
        self.assertEqual(upward(files), [])

    def test_a_leaf_uses_nothing(self):
        self.assertEqual(len(upward({"leaf.rs": "use crate::bottom::Bottom;"})), 1)

    def test_an_item_of_the_root_is_for_no_room(self):
        files = {"lib.rs": LIB + "pub struct Root;", "top.rs": "use crate::Root;"}
        self.assertEqual(upward(files), ["src/top.rs:1: top must not use lib (src/lib.rs): crate::Root"])


class Table(unittest.TestCase):
    def test_a_row_names_only_what_stands_below(self):
        found = faults({}, layers=LAYERS | {"bottom": ["middle"]})
        self.assertEqual(found, ["the table: bottom may use middle, which does not stand below it"])

    def test_rows_and_rooms_are_the_same(self):
        found = faults({"lib.rs": LIB + "mod extra;", "extra.rs": ""})
        self.assertEqual(found, ["src/extra.rs: the table has no row for it"])
        found = faults({}, layers=LAYERS | {"extra": []})
        self.assertEqual(found, ["the table: there is no module extra"])


class Circles(unittest.TestCase):
    def test_folders_that_use_each_other_are_reported(self):
        files = {
            "bottom.rs": "mod a;\nmod b;",
            "bottom/a.rs": "mod x;\nmod y;",
            "bottom/b.rs": "mod x;\nmod y;",
            "bottom/a/x.rs": "use crate::bottom::b::x;",
            "bottom/b/y.rs": "\nuse super::super::a::y;",
            "bottom/a/y.rs": "",
            "bottom/b/x.rs": "",
        }
        expected = [
            "folders of bottom in a circle: bottom/a, bottom/b",
            "    src/bottom/a/x.rs:1 uses src/bottom/b/x.rs: crate::bottom::b::x",
            "    src/bottom/b/y.rs:2 uses src/bottom/a/y.rs: super::super::a::y",
        ]
        self.assertEqual(faults(files, is_strict=True), ["\n".join(expected)])

    def test_a_circle_of_three_rooms_is_reported(self):
        found = faults({"bottom.rs": "use crate::top::Top;", "middle.rs": "use crate::bottom::B;"})
        self.assertEqual(len(found), 2)
        self.assertEqual(len(faults({"leaf.rs": "use crate::top::Top;"})), 2)
        self.assertIn("folders in a circle: bottom, leaf, middle, top", faults({"leaf.rs": "use crate::top::Top;"})[1])

    def test_a_parent_and_a_child_that_use_each_other_are_files_in_a_circle(self):
        child = "use super::Item;\npub struct Part(Item);"
        for parent in [
            "mod part;\nuse self::part::Part;\npub struct Item(Part);",
            "mod part;\nuse part::Part;\npub struct Item(Part);",
            "mod part;\npub struct Item(part::Part);",
            "mod part;\npub use self::part::Part;\npub struct Item(Part);",
        ]:
            with self.subTest(parent):
                files = {"bottom.rs": parent, "bottom/part.rs": child}
                self.assertEqual(faults(files), [])
                found = faults(files, is_strict=True)
                self.assertEqual(len(found), 1)
                self.assertIn("files in a circle: src/bottom.rs, src/bottom/part.rs", found[0])
                self.assertIn("src/bottom/part.rs:1 uses src/bottom.rs: super::Item", found[0])

    def test_a_reexport_of_another_room_is_in_a_circle(self):
        files = {"middle.rs": "pub use crate::bottom::Bottom;", "bottom.rs": "use crate::middle::Middle;"}
        self.assertIn("files in a circle: src/bottom.rs, src/middle.rs", faults(files, is_strict=True)[-1])

    def test_a_parent_that_only_declares_and_reexports_is_in_no_circle(self):
        files = {
            "bottom.rs": "mod item;\nmod part;\npub use self::{item::Item, part::Part};",
            "bottom/item.rs": "pub struct Item;",
            "bottom/part.rs": "use super::Item;\npub struct Part(Item);",
        }
        self.assertEqual(faults(files, is_strict=True), [])
        files["bottom.rs"] += "\npub struct Own;"
        files["bottom/part.rs"] += "\nfn f() -> super::Own {}"
        self.assertEqual(faults(files, is_strict=True), [])
        # Not with the parent, but between the two that it re-exports.
        files["bottom/item.rs"] = "pub struct Item(super::Part);"
        found = faults(files, is_strict=True)
        self.assertIn("folders of bottom in a circle: bottom/item, bottom/part", found[0])
        self.assertIn("files in a circle: src/bottom/item.rs, src/bottom/part.rs", found[1])


if __name__ == "__main__":
    unittest.main()
