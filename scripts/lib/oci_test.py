"""Reads an image layout back with other programs than the one that wrote it.

    python3 scripts/lib/oci_test.py LAYOUT VERSION DIGEST MODULE

`skopeo` inspects it and pushes it to a registry (`docker-registry`, on loopback), from where it pulls it again. `umoci`
unpacks what came back. The manifest must have kept its digest all the way, and the module its bytes. Every crate of the
bill of materials must have its licence in it.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Shorter than the text of any licence, longer than a file that names some.
SHORTEST_LICENCE = 500

REGISTRY = """
version: 0.1
log: {{accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


def main(arguments):
    layout, version, digest, module = arguments
    source = f"oci:{layout}:{version}"
    check_form(json.loads(run("skopeo", "inspect", "--raw", source)))
    assert json.loads(run("skopeo", "inspect", source))["Digest"] == digest
    with tempfile.TemporaryDirectory() as folder:
        check_journey(Path(folder), source, digest, Path(module).read_bytes())
    print(f"package: {digest} was read, pushed to a registry, pulled and unpacked")


def check_form(manifest):
    """What Istio and Envoy Gateway ask of an image."""
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["layers"][-1]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert manifest["annotations"]["module.wasm.image/variant"] == "compat"


def check_journey(folder, source, digest, module):
    (folder / "registry.yaml").write_text(REGISTRY.format(folder=folder / "registry"))
    registry = subprocess.Popen(
        ["docker-registry", "serve", folder / "registry.yaml"], stderr=subprocess.PIPE, encoding="utf-8"
    )
    try:
        remote = f"docker://{address(registry)}/matrix-edge-auth:1"
        run("skopeo", "--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false", source, remote)
        assert json.loads(run("skopeo", "inspect", "--tls-verify=false", remote))["Digest"] == digest
        run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", remote, f"oci:{folder}/pulled:1")
    finally:
        registry.terminate()
        registry.communicate()
    pulled = json.loads((folder / "pulled" / "index.json").read_text())["manifests"]
    assert [manifest["digest"] for manifest in pulled] == [digest]
    run("umoci", "unpack", "--rootless", "--image", f"{folder}/pulled:1", folder / "bundle")
    root = folder / "bundle" / "rootfs"
    assert (root / "plugin.wasm").read_bytes() == module
    check_licences(root)


def check_licences(root):
    """Every crate that the bill of materials says is in the module has its licence named and its text beside it."""
    bill = json.loads((root / "plugin.wasm.cdx.json").read_text())
    shipped = [crate for crate in bill["components"] if crate["scope"] == "required"]
    assert shipped, "the bill names no crate"
    crates = [(crate["name"], crate["version"], crate["licenses"][0]["expression"]) for crate in shipped]
    named = (root / "licenses" / "crates.txt").read_text().splitlines()
    assert named[0].startswith("Rust's standard library: ")
    assert sorted(named[1:]) == sorted(f"{name} {version}: {licence}" for name, version, licence in crates)
    texts = {folder.name: [file.read_text() for file in folder.iterdir()] for folder in (root / "licenses").glob("*/")}
    assert sorted(texts) == sorted(f"{name}-{version}" for name, version, _ in crates)
    for crate, files in texts.items():
        assert any(len(text) > SHORTEST_LICENCE for text in files), f"{crate} has no licence's text"


def address(registry):
    """Where the registry listens, which its log says once it does."""
    for line in registry.stderr:
        if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
            return found[1]
    raise SystemExit("docker-registry does not start")


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} {command[1]}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
