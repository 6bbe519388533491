"""Tests the bill of materials: python3 scripts/lib/bill_of_materials_test.py"""

import hashlib
import unittest

from bill_of_materials import bill

# Whoever adds a crate to the module adds it here, and says in docs/internals/design.md why it is worth its bytes.
SHIPPED = """
    base64ct block-buffer cfg-if crypto-common digest dlmalloc hybrid-array itoa log memchr serde serde_core serde_json sha2
    typenum zmij
""".split()

# What only runs on the machine that compiles: procedural macros, and what they and build scripts need.
COMPILING = "proc-macro2 quote serde_derive syn unicode-ident".split()


class BillOfMaterials(unittest.TestCase):
    def setUp(self):
        self.bill = bill(b"a module")

    def names(self, scope):
        return [crate["name"] for crate in self.bill["components"] if crate["scope"] == scope]

    def test_it_names_the_crates_of_the_module_and_no_others(self):
        self.assertEqual(sorted(set(self.names("required"))), SHIPPED)
        self.assertEqual(sorted(set(self.names("excluded"))), COMPILING)

    def test_it_is_of_this_module(self):
        [digest] = self.bill["metadata"]["component"]["hashes"]
        self.assertEqual(digest["content"], hashlib.sha256(b"a module").hexdigest())

    def test_every_crate_has_a_version_a_licence_and_the_digest_of_its_archive(self):
        for crate in self.bill["components"]:
            self.assertEqual(crate["purl"], f"pkg:cargo/{crate['name']}@{crate['version']}")
            self.assertTrue(crate["licenses"][0]["expression"])
            self.assertRegex(crate["hashes"][0]["content"], "^[0-9a-f]{64}$")

    def test_what_depends_on_what_is_among_them(self):
        known = {crate["bom-ref"] for crate in self.bill["components"]}
        known.add(self.bill["metadata"]["component"]["bom-ref"])
        self.assertEqual({entry["ref"] for entry in self.bill["dependencies"]}, known)
        for entry in self.bill["dependencies"]:
            self.assertLessEqual(set(entry["dependsOn"]), known)


if __name__ == "__main__":
    unittest.main()
