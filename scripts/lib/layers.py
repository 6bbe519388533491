"""Checks that the modules of `src/` use each other in one direction only.

    python3 scripts/lib/layers.py [--files] [SRC]

A room is a module right below `src/`: its file and its folder. The table says which rooms a room may use. Two things
fail, and each names the files and lines:

- a use that the table does not allow;
- folders, at any depth, that use each other in a circle.

With `--files`, files that use each other in a circle fail too. A file that re-exports its children does not use them.
A child that uses an item of its parent's file does, so where the parent uses that child as well, there is a circle:
what both need belongs into a third file.

A path counts for the room that it names: `crate::cache::Store` is a use of `cache`, also if `cache` only re-exports
it. `rust_uses.py` says how uses are found.
"""

import sys
from pathlib import Path

from rust_uses import Crate

# What everything may use, and what uses nothing.
LEAVES = ["clock", "hashes", "json", "maps", "media_type", "metrics", "text"]

# Top down: each room may use the leaves and the rooms behind its name, all of which stand below it.
LAYERS = {
    "envoy": ["worker", "role", "resolver", "cache", "shared_data", "host", "config", "matrix", "mas", "token"],
    "worker": ["role", "resolver", "cache", "shared_data", "host", "config", "matrix", "mas", "token"],
    "role": ["resolver", "cache", "shared_data", "host", "config", "matrix", "mas", "token"],
    "resolver": ["cache", "shared_data", "host", "config", "matrix", "mas", "token"],
    "cache": ["shared_data", "host", "config", "matrix", "mas", "token"],
    "shared_data": ["host", "matrix", "mas", "token"],
    "host": ["matrix", "mas", "token"],
    "config": ["matrix", "mas", "token"],
    "matrix": ["mas", "token"],
    "mas": ["token"],
    "token": [],
    # Under everything: nobody names it.
    "allocator": [],
}

# The file of the crate itself declares every module. It may use them all, and none may use it.
ROOT = "lib"


def main(arguments):
    is_strict = "--files" in arguments
    paths = [argument for argument in arguments if argument != "--files"]
    src = Path(paths[0]) if paths else Path(__file__).parents[2] / "src"
    faults = check(src, LAYERS, LEAVES, is_strict)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def check(src, layers, leaves, is_strict=False):
    """All faults of a source tree, as text."""
    crate = Crate(src)
    uses = [use for use in crate.uses() if use.named != use.module]
    faults = check_table(layers, leaves)
    faults += check_rooms(crate, layers, leaves)
    faults += check_uses(crate, uses, layers, leaves)
    faults += check_folders(crate, uses)
    if is_strict:
        faults += check_files(crate, uses)
    return faults


def check_table(layers, leaves):
    """A row may name only what stands below it; so the table has no circle."""
    rooms = list(layers)
    return [
        f"the table: {room} may use {other}, which does not stand below it"
        for at, room in enumerate(rooms)
        for other in layers[room]
        if other in leaves or other not in rooms[at + 1 :]
    ]


def check_rooms(crate, layers, leaves):
    rooms = {module[0] for module in crate.modules if module}
    rows = set(layers) | set(leaves)
    faults = [f"{relative(crate, crate.modules[(room,)].file)}: the table has no row for it" for room in rooms - rows]
    faults += [f"the table: there is no module {room}" for room in rows - rooms]
    return sorted(faults)


def check_uses(crate, uses, layers, leaves):
    """One fault for each file and each file that it must not use."""
    found = {}
    for use in uses:
        room, other = room_of(use.module), room_of(use.named)
        allowed = leaves + layers[room] if room in layers else []
        is_known = room in layers or room in leaves
        if room not in (ROOT, other) and is_known and other not in allowed:
            found.setdefault((room, use.file, other, crate.modules[use.named].file), []).append(use)
    return [
        f"{first_place(crate, uses)}: {room} must not use {other} ({relative(crate, target)}): {first_path(uses)}"
        for (room, _, other, target), uses in sorted(found.items())
    ]


def check_folders(crate, uses):
    """Circles among the modules of each folder, each taken with its own folder."""
    faults = []
    for parent in sorted({module[:-1] for module in crate.modules if module}):
        depth = len(parent)
        edges = {}
        for use in uses:
            target = use.meant if use.module[: len(use.named)] == use.named else use.named
            if use.module[:depth] != parent or target[:depth] != parent:
                continue
            one, other = use.module[: depth + 1], target[: depth + 1]
            if len(one) > depth and len(other) > depth and one != other:
                edges.setdefault((one, other), []).append(use)
        kind = "folders in a circle" if depth == 0 else f"folders of {'/'.join(parent)} in a circle"
        faults += circles(crate, kind, edges, "/".join)
    return faults


def check_files(crate, uses):
    edges = {}
    for use in uses:
        target = crate.modules[use.meant].file
        is_of_a_child = use.is_reexport and use.named[: len(use.module)] == use.module
        if target != use.file and not is_of_a_child:
            edges.setdefault((use.file, target), []).append(use)
    return circles(crate, "files in a circle", edges, lambda file: relative(crate, file))


def circles(crate, kind, edges, name):
    """One fault for each group of nodes that reach each other, with every edge between them."""
    faults = []
    for group in groups({node for edge in edges for node in edge}, edges):
        lines = [f"{kind}: {', '.join(sorted(map(name, group)))}"]
        for (one, other), uses in sorted(edges.items()):
            if one in group and other in group:
                target = relative(crate, crate.modules[first(uses).meant].file)
                lines.append(f"    {first_place(crate, uses)} uses {target}: {first_path(uses)}")
        faults.append("\n".join(lines))
    return faults


def groups(nodes, edges):
    """The strongly connected components of more than one node."""
    reach = {node: reachable(node, edges) for node in nodes}
    found = {frozenset(other for other in reach[node] if node in reach[other]) for node in nodes}
    return sorted((group for group in found if len(group) > 1), key=sorted)


def reachable(node, edges):
    seen, left = set(), [node]
    while left:
        here = left.pop()
        for one, other in edges:
            if one == here and other not in seen:
                seen.add(other)
                left.append(other)
    return seen


def room_of(module):
    return module[0] if module else ROOT


def first(uses):
    return min(uses, key=lambda use: (use.file, use.line))


def first_place(crate, uses):
    return f"{relative(crate, first(uses).file)}:{first(uses).line}"


def first_path(uses):
    return first(uses).written + (f", and {len(uses) - 1} more" if len(uses) > 1 else "")


def relative(crate, file):
    return str(Path(crate.src.name) / file.relative_to(crate.src))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
