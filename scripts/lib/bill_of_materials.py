"""Prints the bill of materials of the module: the crates that are compiled for it, and no others.

    python3 scripts/lib/bill_of_materials.py MODULE >MODULE.cdx.json

The format is CycloneDX 1.6 in JSON (ECMA-424). The crates are those that cargo resolves for the module alone and its
target, without the dependencies of tests. What only runs while the module is compiled (procedural macros and build
scripts, and what these need) has the scope `excluded`, the format's word for what is not shipped. Rust's own standard
library is not a crate of cargo and not listed. Nothing depends on the time or the machine, so that the same module has
the same bill.
"""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = "wasm32-wasip1"
NAME = "matrix-edge-auth"


def main(arguments):
    module = Path(arguments[0]).read_bytes()
    print(json.dumps(bill(module), indent=2))


def bill(module):
    resolved = json.loads(cargo("metadata", "--format-version=1", f"--filter-platform={TARGET}"))
    packages = {(package["name"], package["version"]): package for package in resolved["packages"]}
    # Metadata tells of each crate and what it needs, but of all features that any member of the workspace turns on.
    shipped, known = tree("normal,no-proc-macro"), tree("normal,build")
    [root] = [key for key in known if key[0] == NAME]
    crates = sorted(known - {root})
    archives = checksums()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                **component(packages[root], "application"),
                "hashes": [sha256(hashlib.sha256(module).hexdigest())],
            }
        },
        "components": [
            {
                **component(packages[crate], "library"),
                "scope": "required" if crate in shipped else "excluded",
                "hashes": [sha256(archives[crate])],
            }
            for crate in crates
        ],
        "dependencies": [
            {"ref": reference(crate), "dependsOn": sorted(map(reference, needs(resolved, packages[crate]) & known))}
            for crate in [root, *crates]
        ],
    }


def cargo(*arguments):
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def tree(edges):
    """Name and version of every crate that the module alone takes, by such edges."""
    lines = cargo("tree", f"--package={NAME}", f"--target={TARGET}", f"--edges={edges}", "--prefix=none").splitlines()
    named = (line.split() for line in lines)
    return {(name, version.removeprefix("v")) for name, version, *_ in named}


def checksums():
    """The SHA-256 of each crate's archive."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))
    return {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}


def needs(resolved, package):
    """Name and version of what a crate needs, but for its tests."""
    names = {other["id"]: (other["name"], other["version"]) for other in resolved["packages"]}
    [node] = [node for node in resolved["resolve"]["nodes"] if node["id"] == package["id"]]
    return {
        names[dependency["pkg"]]
        for dependency in node["deps"]
        if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
    }


def sha256(content):
    return {"alg": "SHA-256", "content": content}


def component(package, kind):
    found = {
        "type": kind,
        "bom-ref": reference((package["name"], package["version"])),
        "name": package["name"],
        "version": package["version"],
        "description": " ".join((package["description"] or "").split()),
        "licenses": [{"expression": package["license"].replace("/", " OR ")}],
        "purl": reference((package["name"], package["version"])),
    }
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def reference(crate):
    name, version = crate
    return f"pkg:cargo/{name}@{version}"


if __name__ == "__main__":
    main(sys.argv[1:])
