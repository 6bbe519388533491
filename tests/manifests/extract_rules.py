"""Makes rules.json out of CustomResourceDefinitions: the rules in CEL (x-kubernetes-validations) and the defaults, each with
its place.

    extract_rules.py VERSION KIND... < definitions.yaml > rules.json

Reads the definitions of all projects in one stream, for example of `charts/gateway-helm/charts/crds/crds` of Envoy Gateway
and `manifests/charts/base/files/crd-all.gen.yaml` of Istio. Needs PyYAML. KIND is APIVERSION:KIND, VERSION says in words
where the definitions are from.
"""

import json
import sys

import yaml


def main(version, *kinds):
    found = {}
    for definition in yaml.load_all(sys.stdin, yaml.CSafeLoader):
        if not definition or definition.get("kind") != "CustomResourceDefinition":
            continue
        spec = definition["spec"]
        for served in spec["versions"]:
            name = f"{spec['group']}/{served['name']}:{spec['names']['kind']}"
            if name in kinds:
                rules, defaults = [], []
                walk(served["schema"]["openAPIV3Schema"], [], rules, defaults)
                found[name] = {"rules": rules, "defaults": defaults}
    missing = set(kinds) - set(found)
    if missing:
        sys.exit(f"not among the definitions: {sorted(missing)}")
    print(f'{{"of": {json.dumps(version)}, "kinds": {{')
    print(",\n".join(f"{json.dumps(name)}: {{\n{lines(found[name])}\n}}" for name in sorted(found)))
    print("}}")


def lines(kind):
    """Returns the members of a kind, with one rule or default a line."""

    def listed(items):
        return ",\n".join(json.dumps(item) for item in items)

    return ",\n".join(f'"{name}": [\n{listed(items)}\n]' for name, items in kind.items())


def walk(schema, place, rules, defaults):
    for rule in schema.get("x-kubernetes-validations", []):
        rules.append([place, rule["rule"], rule.get("message", "")])
    if "default" in schema:
        defaults.append([place, schema["default"]])
    for name, part in (schema.get("properties") or {}).items():
        walk(part, [*place, name], rules, defaults)
    for name, step in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(name), dict):
            walk(schema[name], [*place, step], rules, defaults)


if __name__ == "__main__":
    main(*sys.argv[1:])
