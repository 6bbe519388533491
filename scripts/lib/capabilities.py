"""Keeps the capability restrictions of the shipped Envoy configurations equal to what the built module names.

    python3 scripts/lib/capabilities.py          prints every function that the module imports or exports
    python3 scripts/lib/capabilities.py --check  fails if a configuration below envoy/ says anything else
    python3 scripts/lib/capabilities.py --write  writes them into the configurations

MATRIX_EDGE_AUTH_WASM=path   another module than dist/matrix-edge-auth.wasm

A plugin with `capability_restriction_config` can call no function of Envoy that is not in it, and Envoy calls none of
the module's. The names come from the module's import and export sections (WebAssembly Core Specification, section
5.5). Every plugin of a configuration must have the list, as its own or as an alias of another's. A configuration is
changed as text, so that its comments stay. Istio's WasmPlugin and Envoy Gateway's EnvoyExtensionPolicy cannot express
the list: they have no `vm_config`, by which a plugin is known here.
"""

import os
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 118
KEY = "capability_restriction_config"
IMPORTS, EXPORTS = 2, 7
FUNCTION = 0


def main(arguments):
    module = Path(os.environ.get("MATRIX_EDGE_AUTH_WASM", ROOT / "dist/matrix-edge-auth.wasm"))
    names = sorted(functions(module.read_bytes()))
    if not arguments:
        print("\n".join(names))
        return 0
    if arguments not in (["--check"], ["--write"]):
        sys.exit("it takes --check or --write")
    status = 0
    for path in sorted((ROOT / "envoy").rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        plugins, lists = count(text, "vm_config"), count(text, KEY)
        if plugins != lists:
            print(f"{path.relative_to(ROOT)}: {plugins} plugins, but {lists} times {KEY}")
            status = 1
        elif (wanted := restrict(text, names)) == text:
            continue
        elif arguments == ["--write"]:
            path.write_text(wanted, encoding="utf-8")
        else:
            print(f"{path.relative_to(ROOT)}: {KEY} is not what the module imports and exports")
            print("    run: python3 scripts/lib/capabilities.py --write")
            status = 1
    return status


def functions(module):
    """Yields the names of the functions that a module imports and exports."""
    if module[:8] != b"\0asm\1\0\0\0":
        sys.exit("this is not a WebAssembly module of version 1")
    reader = Reader(module, 8)
    while reader.at < len(module):
        section, size = reader.byte(), reader.number()
        entries = Reader(module, reader.at)
        reader.at += size
        if section not in (IMPORTS, EXPORTS):
            continue
        for _ in range(entries.number()):
            if section == IMPORTS:
                entries.name()
            name, kind, _ = entries.name(), entries.byte(), entries.number()
            if kind == FUNCTION:
                yield name
            elif section == IMPORTS:
                sys.exit(f"the module imports {name}, which is no function: this script cannot read on")


class Reader:
    """Reads the binary format, beginning at some place in it."""

    def __init__(self, data, at):
        self.data = data
        self.at = at

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]

    def number(self):
        """An unsigned LEB128."""
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def name(self):
        size = self.number()
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8")


def count(text, key):
    return len(re.findall(rf"^ *{key}:", text, re.MULTILINE))


def restrict(text, names):
    """The configuration with these names in each list that is not an alias."""

    def replace(found):
        indent = found["indent"] + "  "
        entries = ", ".join(f"{name}: {{}}" for name in names)
        lines = textwrap.wrap(
            # What belongs together is not torn apart.
            entries.replace(": ", ":\0"),
            WIDTH,
            initial_indent=indent + "  ",
            subsequent_indent=indent + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        body = "\n".join(lines).replace("\0", " ")
        return f"{found['head']}\n{indent}allowed_capabilities: {{\n{body}\n{indent}}}\n"

    deeper = r"(?:(?P=indent) +\S.*\n)*"
    return re.sub(rf"^(?P<head>(?P<indent> *){KEY}:(?: *&\w+)?)\n{deeper}", replace, text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
