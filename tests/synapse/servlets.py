"""Prints what the installed Synapse serves to clients, as JSON.

    python servlets.py features                   the experimental features that can be turned on
    python servlets.py paths CONFIGURATION_FILE   [{"path": "/_matrix/client/v3/sync", "methods": ["GET"]}, ...]

Synapse itself builds its resources for the configuration, and this program reads their tables: of each
pattern it takes one path for each alternative, and one with each segment empty that may be. Of a resource that is
found by decoded segments it takes also the paths with one letter of a segment encoded, and with an empty segment first. It listens on nothing.

The non-obvious rule: the first pattern that matches a path decides, and a method that this pattern
does not have is refused, whatever the later patterns say.
"""

import inspect
import json
import re
import sys

try:
    from re import _constants as constants, _parser as parser
except ImportError:  # Python 3.10 and before
    import sre_constants as constants
    import sre_parse as parser

from synapse.app import homeserver
from synapse.config import experimental
from synapse.http.server import JsonResource
from twisted.web.resource import Resource

# The resources that a listener for clients has, and the one that serves media to anybody.
NAMES = ("client", "media")
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
ANY_NUMBER = 4096


# Synapse looks at the form of these before it looks at the token. The user is the one whom the test asks
# as, to find what anyone may ask about themselves.
PARAMETERS = {
    "room_alias": "%23x:example.org",
    "room_id": "!x:example.org",
    "thread_root_id": "$x",
    "user_id": "@alice:example.org",
}


# Stands for an empty segment while samples are put together.
EMPTY = "\0"


def samples(pattern):
    """Returns paths that the regular expression `pattern` matches: one for each alternative, and for each segment
    that may be empty."""
    parsed = parser.parse(pattern)
    names = {number: name for name, number in parsed.state.groupdict.items()}
    found = [sample for sample in sequences(parsed, names) if sample.count(EMPTY) < 2]
    return sorted({sample.replace(EMPTY, "") for sample in found})


def sequences(items, names):
    """Returns the samples of parts that follow each other. `names` are those of the groups."""
    found = [""]
    for operation, argument in items:
        parts = part_samples(operation, argument, names)
        found = [before + part for before in found for part in parts]
    return found


def part_samples(operation, argument, names):
    """Returns the samples of one part of a pattern."""
    if operation is constants.LITERAL:
        return [chr(argument)]
    if operation is constants.NOT_LITERAL:
        return ["x"]
    if operation is constants.ANY:
        return ["."]  # Where a pattern has a dot that is not escaped, the dot is meant.
    if operation is constants.AT:
        return [""]
    if operation is constants.IN:
        return [class_sample(argument)]
    if operation is constants.BRANCH:
        return [sample for branch in argument[1] for sample in sequences(branch, names)]
    if operation is constants.SUBPATTERN:
        inner = sequences(argument[3], names)
        parameter = PARAMETERS.get(names.get(argument[0]))
        return [parameter, *(EMPTY for each in inner if each == EMPTY)] if parameter else inner
    if operation in (constants.MAX_REPEAT, constants.MIN_REPEAT):
        least, most, items = argument
        if (least, most) == (0, 1):
            return ["", *sequences(items, names)]
        if most < ANY_NUMBER:
            return [sample * least for sample in sequences(items, names)]
        parts = ["x"] if items[0][0] is constants.ANY else sequences(items, names)
        return [sample * max(least, 1) for sample in parts] + [EMPTY] * (least == 0)
    raise ValueError(f"no sample for {operation} {argument}")


def class_sample(members):
    """Returns a character of a class, which may be negated."""
    if members[0][0] is constants.NEGATE:
        return "x"
    operation, argument = members[0]
    if operation is constants.RANGE:
        return chr(argument[0])
    if operation is constants.LITERAL:
        return chr(argument)
    if operation is constants.CATEGORY:
        return "1"
    raise ValueError(f"no sample for {members}")


def json_paths(resource):
    """Returns the sample paths of a table of servlets, with their methods."""
    patterns = list(resource._routes)
    for pattern in patterns:
        for sample in samples(pattern.pattern):
            first = next((each for each in patterns if each.match(sample)), None)
            if first is None:
                raise ValueError(f"{sample} is no sample of {pattern.pattern}")
            yield sample, [method.decode("ascii") for method in resource._routes[first]]


def tree_paths(path, resource):
    """Returns the paths of a resource that has no table, and of its children."""
    handlers = ("render_", "_async_render_")
    methods = [
        method
        for method in METHODS
        if any(hasattr(resource, handler + method) for handler in handlers)
    ]
    if methods and "render_HEAD" not in vars(type(resource)):
        yield path, methods
        for spelling in encodings(path):
            yield spelling, methods
    for name, child in resource.children.items():
        yield from tree_paths(f"{path}/{name.decode('ascii')}", child)


def encodings(path):
    """Returns the path with an empty segment at the beginning, and with the first letter of one of its segments
    encoded, for each segment."""
    yield "/" + path
    segments = path.split("/")
    for at, segment in enumerate(segments):
        if segment:
            encoded = f"%{ord(segment[0]):02x}{segment[1:]}"
            yield "/".join([*segments[:at], encoded, *segments[at + 1 :]])


def paths(path, resource):
    """Returns the sample paths of any resource, with their methods."""
    if isinstance(resource, JsonResource):
        yield from json_paths(resource)
    elif isinstance(resource, Resource):
        yield from tree_paths(path, resource)


def features():
    """Returns the names of the experimental features, as the reader of the configuration asks for them."""
    names = re.findall(r'"(msc\w+)"', inspect.getsource(experimental))
    return sorted({name for name in names if name.endswith(("_enabled", "_claims"))})


def served(configuration_file):
    """Returns every sample path with its methods."""
    configuration = homeserver.load_or_generate_config(["--config-path", configuration_file])
    server = homeserver.create_homeserver(configuration)
    homeserver.setup(server)
    found = {}
    for name in NAMES:
        for path, resource in server._configure_named_resource(name).items():
            for sample, methods in paths(path, resource):
                found.setdefault(sample, set()).update(methods)
    return [{"path": path, "methods": sorted(found[path])} for path in sorted(found)]


def main(command, *arguments):
    json.dump(features() if command == "features" else served(*arguments), sys.stdout)


main(*sys.argv[1:])
