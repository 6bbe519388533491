"""The rules in CEL by which an API server judges custom resources beyond their schema, out of rules.json.

An API server fills in defaults first, so this does, too. Of a rule that compares with what was there before (`oldSelf`) only
updates are judged: it is passed over.
"""

import copy
import json
import urllib.parse
from pathlib import Path

import celpy
from celpy import celtypes

# Names that are words of CEL are escaped in rules.
WORDS = {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import"}
WORDS |= {"let", "loop", "package", "namespace", "return", "var", "void", "while"}

KINDS = json.loads((Path(__file__).parent / "rules.json").read_text(encoding="utf-8"))["kinds"]


def problems(resource):
    """Yields a line for each rule that the resource breaks."""
    kind = KINDS.get(f"{resource['apiVersion']}:{resource['kind']}")
    if kind is None:
        yield "rules.json does not have this kind; extract_rules.py says how to add it"
        return
    resource = copy.deepcopy(resource)
    for place, default in kind["defaults"]:
        fill(resource, place, default)
    for place, rule, message in kind["rules"]:
        if "oldSelf" in rule:
            continue
        for where, value in values(resource, place, "$"):
            try:
                holds = program(rule).evaluate({"self": celpy.json_to_cel(escaped(value))})
            except celpy.CELEvalError as error:
                yield f"{where}: {rule}: {error}"
                continue
            if not holds:
                yield f"{where}: {message or rule}"


def values(value, place, where):
    """Yields what is at a place, each with its path."""
    if not place:
        yield where, value
        return
    step, *rest = place
    if step == "[]" and isinstance(value, list):
        for number, item in enumerate(value):
            yield from values(item, rest, f"{where}[{number}]")
    elif step == "{}" and isinstance(value, dict):
        for name, item in value.items():
            yield from values(item, rest, f"{where}.{name}")
    elif isinstance(value, dict) and step in value:
        yield from values(value[step], rest, f"{where}.{step}")


def fill(resource, place, default):
    """Puts a default where it is missing and what it belongs to is there."""
    *before, name = place
    if name in ("[]", "{}"):
        return
    for _, value in values(resource, before, "$"):
        if isinstance(value, dict) and name not in value:
            value[name] = copy.deepcopy(default)


def escaped(value):
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if isinstance(value, dict):
        return {f"__{name}__" if name in WORDS else name: escaped(item) for name, item in value.items()}
    return value


# What Kubernetes adds to CEL, as far as the rules here use it.


def is_url(text):
    return celtypes.BoolType(urllib.parse.urlsplit(text).scheme != "" or text.startswith("/"))


def url(text):
    return celtypes.StringType(text)


def scheme(text):
    return celtypes.StringType(urllib.parse.urlsplit(text).scheme)


ENVIRONMENT = celpy.Environment()
FUNCTIONS = {"isURL": is_url, "url": url, "getScheme": scheme}
PROGRAMS = {}


def program(rule):
    if rule not in PROGRAMS:
        PROGRAMS[rule] = ENVIRONMENT.program(ENVIRONMENT.compile(rule), functions=FUNCTIONS)
    return PROGRAMS[rule]
