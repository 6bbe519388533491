"""Writes the module as an image, and prints the digest of its manifest.

    python3 scripts/lib/oci.py MODULE BILL LAYOUT VERSION

LAYOUT becomes an OCI image layout (image-spec 1.0): a folder that `skopeo copy oci:LAYOUT docker://...` pushes. Istio,
Envoy Gateway and Kubernetes' image volumes all take one form, `compat`: a manifest whose last layer is a gzipped tar with
`plugin.wasm` in it. An index of several manifests is no such form: Istio compares the digest in a WasmPlugin with that
of the manifest. So `index.json`, which a layout must have, names one.

In the layer are also the bill of materials, the licence, and the licences of all crates that are in the module. Nothing
depends on the time or the machine; how a layer is compressed depends on the version of zlib.
"""

import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

from bill_of_materials import NAME, ROOT, cargo, tree

LICENCE_FILES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def main(arguments):
    module, bill, layout, version = arguments
    files = {
        "plugin.wasm": Path(module).read_bytes(),
        "plugin.wasm.cdx.json": Path(bill).read_bytes(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
        **licences(),
    }
    print(write(Path(layout), files, version))


def licences():
    """The licence files of the crates in the module, and a list of them."""
    packages = json.loads(cargo("metadata", "--format-version=1"))["packages"]
    by_name = {(package["name"], package["version"]): package for package in packages}
    files, lines = {}, ["Rust's standard library: MIT OR Apache-2.0"]
    for crate in sorted(tree("normal,no-proc-macro")):
        package, (name, version) = by_name[crate], crate
        if name == NAME:
            continue
        lines.append(f"{name} {version}: {package['license'].replace('/', ' OR ')}")
        texts = {
            f"licenses/{name}-{version}/{file.name}": file.read_bytes()
            for file in sorted(Path(package["manifest_path"]).parent.iterdir())
            if file.is_file() and file.name.upper().startswith(LICENCE_FILES)
        }
        if not texts:
            raise SystemExit(f"{name} {version} has no file with its licence, which must go along with it")
        files.update(texts)
    return {"licenses/crates.txt": "".join(line + "\n" for line in lines).encode(), **files}


def write(layout, files, version):
    """Replaces the layout. Returns the digest of its manifest."""
    shutil.rmtree(layout, ignore_errors=True)
    (layout / "blobs" / "sha256").mkdir(parents=True)
    archive = tar(files)
    labels = {
        "org.opencontainers.image.title": NAME,
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    config = {
        # The module runs on every architecture; the format wants one. A single manifest is taken on all of them.
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest(archive)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(layout, CONFIG, encode(config)),
        "layers": [blob(layout, LAYER, gzip.compress(archive, mtime=0))],
        "annotations": {"module.wasm.image/variant": "compat", **labels},
    }
    named = blob(layout, MANIFEST, encode(manifest))
    index = {
        "schemaVersion": 2,
        "manifests": [{**named, "annotations": {"org.opencontainers.image.ref.name": version}}],
    }
    (layout / "index.json").write_bytes(encode(index))
    (layout / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
    return named["digest"]


def tar(files):
    """A tar with nothing of the machine in it: no owner, no time, files in the order that they are given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def blob(layout, media_type, content):
    """Writes a blob. Returns its descriptor."""
    name = digest(content)
    (layout / "blobs" / "sha256" / name.removeprefix("sha256:")).write_bytes(content)
    return {"mediaType": media_type, "digest": name, "size": len(content)}


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def encode(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


if __name__ == "__main__":
    main(sys.argv[1:])
