"""Reads which modules of a crate each of its files uses.

This is no Rust parser. It cuts a file into tokens, so that comments and strings do not count, and follows the paths
in `use` declarations and in code that begin with `crate`, `self`, `super`, a child module or an imported module.
What is compiled for tests only (`#[cfg(test)]`) does not count.

A method call names no module, so a dependency that shows in method calls alone is not seen. An import inside of a
function counts for all of its module.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = re.compile(
    r"""
    (?P<blank>\s+ | //[^\n]*)
  | (?P<comment>/\*)
  | (?P<text>(?:b|c)?r(?P<hashes>\#*)"(?:.*?)"(?P=hashes)
           | (?:b|c)?"(?:\\.|[^"\\])*"
           | b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^'\\])')
  | (?P<lifetime>'[A-Za-z_]\w*)
  | (?P<name>(?:r\#)?[A-Za-z_]\w*)
  | (?P<number>\d\w*(?:\.\d\w*)?)
  | (?P<mark>::|.)
    """,
    re.VERBOSE | re.DOTALL,
)

BRACKETS = {"(": ")", "[": "]", "{": "}"}
ITEMS = set("const enum extern fn impl macro_rules mod static struct trait type union use".split())


@dataclass(frozen=True)
class Token:
    text: str
    line: int
    is_name: bool


@dataclass(frozen=True)
class Import:
    """One name that a `use` declaration brings into scope."""

    path: tuple[str, ...]
    name: str
    line: int
    is_public: bool
    module: tuple[str, ...]


@dataclass
class Module:
    """A module and where it is written."""

    path: tuple[str, ...]
    file: Path
    children: set[str] = field(default_factory=set)
    imports: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """A place in a file that names another module.

    `named` is the module in the path as it is written, `meant` the one that defines the item, if re-exports lead on.
    """

    file: Path
    line: int
    written: str
    module: tuple[str, ...]
    named: tuple[str, ...]
    meant: tuple[str, ...]
    is_reexport: bool


class Crate:
    """All modules below a folder with a `lib.rs`."""

    def __init__(self, src):
        self.src = Path(src)
        self.modules = {}
        self.readers = []
        self.read_file(self.src / "lib.rs", ())

    def read_file(self, path, module):
        reader = Reader(self, path, module)
        self.readers.append(reader)
        for child in reader.read():
            self.read_file(self.file_of(child), child)

    def file_of(self, module):
        below = self.src.joinpath(*module)
        for path in (below.with_suffix(".rs"), below / "mod.rs"):
            if path.is_file():
                return path
        raise SystemExit(f"{below}.rs: there is no such file, but its module is declared")

    def uses(self):
        for reader in self.readers:
            yield from reader.uses()

    def absolute(self, path, module, steps=10):
        """The path from the root of the crate; `None` if it is of another crate."""
        head, rest = path[0], path[1:]
        if head in ("crate", "$crate"):
            return rest
        if head in ("self", "super"):
            base = module if head == "self" else module[:-1]
            while rest and rest[0] == "super":
                base, rest = base[:-1], rest[1:]
            return base + rest
        here = self.modules[module]
        if head in here.children:
            return module + path
        imported = here.imports.get(head)
        if imported is None or imported[0] == head or steps == 0:
            return None
        start = self.absolute(imported, module, steps - 1)
        return None if start is None else start + rest

    def module_of(self, path):
        """The innermost module on an absolute path."""
        while path not in self.modules:
            path = path[:-1]
        return path

    def definition_of(self, path):
        """The module that defines what an absolute path leads to, as far as imports tell."""
        for _ in range(10):
            module = self.module_of(path)
            rest = path[len(module) :]
            imported = self.modules[module].imports.get(rest[0]) if rest else None
            target = self.absolute(imported, module) if imported else None
            if target is None:
                return module
            path = target + rest[1:]
        return module


class Reader:
    """Reads one file."""

    def __init__(self, crate, path, module):
        self.crate = crate
        self.path = path
        self.module = module
        self.tokens = list(tokens_of(path.read_text()))
        self.at = 0
        self.declared = []
        self.imports = []
        self.paths = []
        self.names = set()

    def read(self):
        """Reads the file and returns the modules that it declares and that have files of their own."""
        self.enter(self.module)
        if self.is_test_file():
            return []
        inner = [(self.module, -1)]
        depth = 0
        while self.at < len(self.tokens):
            module = inner[-1][0]
            text = self.text()
            if text == "#":
                self.attribute()
            elif text == "pub" and self.text(1) == "(" and self.text(2) in ("crate", "in", "self", "super"):
                self.at = self.closing(self.at + 1) + 1
                if self.text() == "use":
                    self.use(module, is_public=True)
            elif text == "use" and self.text(1) != "<":
                self.use(module, is_public=self.text(-1) == "pub")
            elif text == "mod" and self.text(2) in (";", "{"):
                child = module + (self.text(1),)
                self.crate.modules[module].children.add(child[-1])
                if self.text(2) == ";":
                    self.declared.append(child)
                else:
                    self.enter(child)
                    inner.append((child, depth))
                    depth += 1
                self.at += 3
            else:
                depth += (text == "{") - (text == "}")
                if text == "}" and depth == inner[-1][1]:
                    inner.pop()
                self.code(module)
        return self.declared

    def uses(self):
        """Every place that names another module; all files must have been read."""
        for found in self.imports:
            is_reexport = found.is_public and found.name not in self.names
            yield from self.resolved(found.path, found.module, found.line, is_reexport)
        for path, module, line in self.paths:
            yield from self.resolved(path, module, line, False)

    def resolved(self, path, module, line, is_reexport):
        target = self.crate.absolute(path, module)
        if target is None:
            return
        named = self.crate.module_of(target)
        meant = self.crate.definition_of(target)
        yield Use(self.path, line, "::".join(path), module, named, meant, is_reexport)

    def enter(self, module):
        self.crate.modules[module] = Module(module, self.path)

    def text(self, ahead=0):
        at = self.at + ahead
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def closing(self, at):
        """The index of the bracket that closes the one at an index."""
        depth = 0
        for index in range(at, len(self.tokens)):
            text = self.tokens[index].text
            depth += (text in BRACKETS) - (text in BRACKETS.values())
            if depth == 0:
                return index
        return len(self.tokens) - 1

    def is_test_file(self):
        at = 0
        while [token.text for token in self.tokens[at : at + 3]] == ["#", "!", "["]:
            end = self.closing(at + 2)
            if is_for_tests(self.tokens[at + 3 : end]):
                return True
            at = end + 1
        return False

    def attribute(self):
        """Passes over an attribute, and over its item if that is compiled for tests only."""
        is_inner = self.text(1) == "!"
        start = self.at + 1 + is_inner
        if start >= len(self.tokens) or self.tokens[start].text != "[":
            self.at += 1
            return
        end = self.closing(start)
        condition = self.tokens[start + 1 : end]
        if condition and condition[0].text == "path":
            raise SystemExit(f"{self.path}:{condition[0].line}: #[path] is not understood here")
        self.at = end + 1
        if not is_inner and is_for_tests(condition):
            self.pass_item()

    def pass_item(self):
        while self.text() == "#":
            self.at = self.closing(self.at + 1) + 1
        keyword = None
        while self.at < len(self.tokens):
            text = self.text()
            if keyword is None and text in ITEMS and not (text == "const" and self.text(1) in ("fn", "unsafe")):
                keyword = text
            if text in BRACKETS.values():
                return  # The end of what encloses a field, a variant or an arm.
            if text == ";" or (text == "," and keyword is None):
                self.at += 1
                return
            if text in BRACKETS:
                self.at = self.closing(self.at)
                if text == "{" and keyword not in ("const", "static", "type", "use"):
                    self.at += 1
                    return
            self.at += 1

    def use(self, module, is_public):
        line = self.tokens[self.at].line
        self.at += 1
        for path, name, line in self.tree(()):
            if not path:
                continue
            found = Import(path, name, line, is_public, module)
            self.imports.append(found)
            if name != "*":
                self.crate.modules[module].imports[name] = path

    def tree(self, prefix):
        """The paths of a `use` tree, each with its name and line."""
        if self.text() == "::":  # Of another crate.
            self.at += 1
            prefix = ("::",)
        path = prefix
        while True:
            token = self.tokens[self.at]
            if token.text == "{":
                self.at += 1
                while self.text() != "}":
                    yield from self.tree(path)
                    if self.text() == ",":
                        self.at += 1
                self.at += 1
                return
            self.at += 1
            if token.text == "*":
                yield path, "*", token.line
                return
            if not (token.text == "self" and path):
                path += (token.text.removeprefix("r#"),)
            if self.text() == "::":
                self.at += 1
                continue
            name = path[-1] if path else ""
            if self.text() == "as":
                name = self.text(1)
                self.at += 2
            yield path, name, token.line
            return

    def code(self, module):
        """Passes over a token, or over a path of several."""
        token = self.tokens[self.at]
        before = self.text(-1)
        self.at += 1
        if not token.is_name:
            return
        self.names.add(token.text)
        if before in (".", "::") or self.text() != "::":
            return
        path = ("$crate" if before == "$" else token.text,)
        while self.text() == "::" and self.tokens[self.at + 1].is_name:
            path += (self.text(1),)
            self.at += 2
        self.paths.append((path, module, token.line))


def tokens_of(text):
    at, line = 0, 1
    while at < len(text):
        found = TOKEN.match(text, at)
        end = found.end()
        if found["comment"]:
            end = end_of_comment(text, at)
        elif not found["blank"]:
            yield Token(found[0], line, found["name"] is not None)
        line += text.count("\n", at, end)
        at = end


def end_of_comment(text, at):
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(text)


def is_for_tests(condition):
    """Whether an attribute is `cfg(test)`, or `cfg(all(..))` with `test` among its conditions."""
    texts = [token.text for token in condition]
    return texts[:3] == ["cfg", "(", "test"] or (
        texts[:4] == ["cfg", "(", "all", "("] and "test" in texts and "not" not in texts and "any" not in texts
    )
