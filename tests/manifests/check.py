"""Checks Kubernetes resources against schemas that refuse unknown keys.

    check.py [FOLDER] < resources.json

Reads a JSON list of resources and prints one line for each problem. Kubernetes' own kinds are checked by kubernetes-validate;
custom ones by the JSON Schemas GROUP_VERSION_KIND.json in FOLDER, and by the rules in CEL of rules.json. Without FOLDER only
the rules are applied to custom resources.
"""

import json
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import rules

# The newest in which everything that is used here is on by default.
KUBERNETES = "1.35"


def main(folder=None):
    for resource in json.load(sys.stdin):
        for problem in problems(resource, folder and Path(folder)):
            kind, name = resource.get("kind"), resource.get("metadata", {}).get("name")
            print(f"{kind} {name}: {problem}")


def problems(resource, folder):
    version, kind = resource["apiVersion"], resource["kind"]
    if not is_custom(version):
        try:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{list(error.path)}: {error.message}"
        return
    yield from rules.problems(resource)
    if folder is None:
        return
    schema = folder / f"{version.replace('/', '_')}_{kind}.json"
    if not schema.exists():
        yield f"there is no {schema.name}"
        return
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
    for error in validator.iter_errors(resource):
        yield f"{error.json_path}: {error.message}"


def is_custom(version):
    group = version.rpartition("/")[0]
    return group.endswith((".istio.io", ".envoyproxy.io", "gateway.networking.k8s.io"))


if __name__ == "__main__":
    main(*sys.argv[1:])
