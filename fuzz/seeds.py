"""Writes fuzz/seeds/, where the first run of each fuzz target begins.

Run it from the root of the project, with any Python 3, after a format has changed: python3 fuzz/seeds.py
"""

import hashlib
import json
import re
import shutil
import struct
from pathlib import Path

SEEDS = Path("fuzz/seeds")

TOKEN = "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1"  # of fuzz_targets/worker.rs
NOW = 1_000_000  # where the simulated clock begins


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    configurations()
    credentials()
    endpoints()
    heads()
    introspections()
    forms()
    provisioning()
    shared_data()


def put(target, name, content):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def recorded():
    for line in Path("tests/wire/mas.jsonl").read_text().splitlines():
        yield json.loads(line)


def vectors(name):
    header, *rows = Path(f"tests/vectors/{name}.tsv").read_text().splitlines()
    for row in rows:
        yield dict(zip(header.split("\t"), row.split("\t")))


def first_of_each(items, kind, limit):
    """The first items of every kind, `limit` of them."""
    seen = set()
    for item in items:
        if (this := kind(item)) not in seen and len(seen) < limit:
            seen.add(this)
            yield item


# --- HTTP -----------------------------------------------------------------------------------------


def credentials():
    many = "&".join(["access%5ftokem=x", "%61", "", "=", "a=b;c"] * 20)
    put("credential", "control-byte", "GET\n-\n-\n/_matrix/client/v3/sync?access_token=bridge%00%7f")
    put("credential", "many-parameters", f"GET\n-\n-\n/x?{many}&access_token=%61%25%32%35")
    counts = {}
    for case in vectors("extraction"):
        counts[case["category"]] = counts.get(case["category"], 0) + 1
        if counts[case["category"]] > 4:
            continue
        headers = (line.partition(": ") for line in case["headers"].split(" | "))
        headers = {name.lower(): value for name, _, value in headers}
        lines = [
            case["method"],
            headers.get("content-type", "-"),
            headers.get("authorization", "-"),
            case["request_target"],
        ]
        put("credential", case["id"], "\n".join(lines))


def endpoints():
    routes = (case for case in vectors("routes") if case["PATH"].startswith("/"))
    for case in first_of_each(routes, lambda case: case["AUTH"], 12):
        name = re.sub("[^a-z]+", "-", case["AUTH"].lower()).strip("-")
        put("endpoint", name, f"{case['METHOD']}\n{case['PATH']}")
    for name, path in {
        "blocked": "/_synapse/mas/query_user",
        "blocked-absolute": "http://example.org/_synapse//mas;p/x",
        "blocked-dots": "/_matrix/..%2f_synapse/replication/x",
        "blocked-encoded": "/%5fsynapse/metrics",
        "blocked-nested": "/a:x%" + "25" * 40 + "/y/_synapse/x",
        "blocked-nested-slashes": "/%5fsynapse%25252fmas%252525252f..%253b",
        "blocked-nul": "/_synapse/%00\0;%2fx/mas",
        "blocked-parameter": "/_synapse/;%2fx/mas",
        "client-encoded": "/_synapse/cl%69ent/v1/config/federation_whitelist",
        "dots": "/_matrix/client/v3/%2e%2e/x?y=/z",
        "empty-segment": "/_matrix/client/v3/profile//displayname",
        "nested": "/%2525%2541%252525/_synapse%2525/%25",
        "query": "/_matrix/client/v3/sync?since=1",
    }.items():
        method = "PUT" if name == "empty-segment" else "GET"
        put("endpoint", name, f"{method}\n{path}")


def heads():
    def serialized(fields):
        texts = [text.encode() for field in fields for text in field]
        sizes = b"".join(len(text).to_bytes(4, "little") for text in texts)
        return len(fields).to_bytes(4, "little") + sizes + b"".join(text + b"\0" for text in texts)

    request = [(":method", "GET"), (":path", "/_matrix/client/v3/sync?since=1"), (":authority", "example.org")]
    token = ("authorization", "Bearer mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1")
    for name, fields in {
        "empty": [],
        "forged": request + [("x_matrix_user_id", "@admin:example.org"), ("x-matrix-user-id", ""), token],
        "one": [("", "")],
        "request": request + [token, ("content-type", "application/json"), ("x-request-id", "\u00e9\0")],
        "two-authorizations": request + [token, token],
    }.items():
        put("head", name, serialized(fields))
    put("head", "cut", serialized(request)[:-1])
    put("head", "larger-than-it-is", b"\xff" * 12)


def introspections():
    def shape(record):
        body = re.sub(r'"[^"]*"(?=[,}])', "", record["response_body"])
        return record["status"], re.sub(r"\d+", "", body)

    asked = (record for record in recorded() if "introspect" in record["request"])
    for record in first_of_each(asked, shape, 12):
        headers = (line.partition(": ") for line in record["response_headers"])
        headers = {name.lower(): value for name, _, value in headers}
        status = record["status"].split(" ")[1]
        media_type = headers.get("content-type", "-")
        put("introspection", record["name"], f"{status}\n{media_type}\n-\n{record['response_body']}")
    for name, body in {
        "device-with-newline": b'{"active":true,"scope":"urn:matrix:client:api:*","username":"mallory",'
        b'"device_id":"X\\"}\\n{\\"forged\\":\\"line\\"}"}',
        "expires-in": b'{"x":{"expires_in":1}, "expires_in" : 300 ,"active":true,"username":null}',
        "ended": b'{"active":true,"expires_in":-5,"username":"alice"}',
        "last": b'{"active":true,"expires_in":0,"username":"alice"}',
        "list": b'[true,"urn:matrix:client:api:*","alice"]',
        "not-utf-8": b'{"active":false,"x":"\xff"}',
    }.items():
        put("introspection", name, b"200\nApplication/JSON; charset=utf-8\n299900-301001\n" + body)


def forms():
    asked = (record for record in recorded() if "token" in record["request_body"])
    shape = lambda record: re.sub("=[^&]*", "", record["request_body"])
    for record in first_of_each(asked, shape, 8):
        put("introspection_form", record["name"], record["request_body"])
    put("introspection_form", "escapes", "token_type_hint=access%5ftoken&token=a%26b+c%zz%4")
    put("introspection_form", "cut-escapes", "to%6ben=%6d%61t_%&token_type_hint=access_token%&%7&%")
    put("introspection_form", "empty-pairs", "&&=&token&=token&token=&token_type_hint")
    put("introspection_form", "unfinished", "token=" + "x" * 300)
    put("introspection_form", "odd", "a=1&&b&c=x=y&%64+=%zz+;e=2&token=%C3%A9%ff")


def provisioning():
    for name, body in {
        "delete-device": '{"localpart":"alice","device_id":"A"}',
        "delete-user": '{"localpart":"alice","erase":false}',
        "list": '["alice",["A"],"A",true]',
        "lock": '{"unset_displayname":true,"localpart":"al\\u00efce","locked":true,"x":[{"y":1.5e3}]}',
        "sync-devices": '{"localpart":"alice","devices":["A","B"]}',
    }.items():
        put("provisioning", name, body)


# --- configuration --------------------------------------------------------------------------------


def configurations():
    def minimal(mas={}, **others):
        asked = {"cluster": "mas", "credential": {"bearer": {"env": "MAS_SECRET"}}}
        return {"server_name": "example.org", "introspection": asked | mas, **others}

    for name, configuration in {
        "authority-with-scheme": minimal({"authority": "https://auth.example.org/"}),
        "basic-secret": minimal({
            "credential": {
                "basic": {"client_id": "edge", "client_secret": {"value": "n0Tq+3u/9mZ2yVQ1=="}}
            }
        }),
        "header-of-envoy": minimal(identity_headers={"user_id": "x-envoy-original-path"}),
        "header-of-others": minimal(identity_headers={"device_id": "origin"}),
        "secret-with-scheme": minimal({"credential": {"bearer": {"value": "Bearer s3cret"}}}),
        "gateway": {
            "role": "gateway",
            "server_name": "[::1]:8448",
            "introspection": {"cluster": "mas", "credential": {"injected": True}},
            "mode": "shadow",
            "on_introspection_failure": "pass",
            "unrecognized_tokens": "reject",
            "query_token": "reject",
            "form_tokens": "reject",
            "learn_from_refusals": False,
            "appservice_tokens": ["00" * 32],
            "identity_headers": {"user_id": None, "scope": "x-scope", "token_kind": "x-kind"},
            "filter_state": True,
            "unknown_token_budget": {"per_source": 20, "window": "10s"},
            "endpoints": [
                {"prefix": "/_matrix/x", "methods": ["GET", "POST"], "auth": "required"},
                {"exact": "/y", "auth": "none"},
            ],
        },
        "introspection": {
            "role": "introspection",
            "introspection": {
                "cluster": "mas",
                "authority": "auth.example.org:8443",
                "path": "/oauth2/introspect",
                "timeout": "500ms",
                "max_in_flight": 8,
                "retries": 2,
                "shard_by_token": True,
                "credential": {
                    "basic": {"client_id": "edge", "client_secret": {"value": "x y"}}
                },
            },
            "cache": {
                "ttl": "2m",
                "negative_ttl": "10s",
                "stale_if_error": "1h",
                "refresh_ahead": False,
                "slots": 1024,
                "negative_slots": 256,
                "local_entries": 0,
            },
        },
        "minimal": minimal(),
    }.items():
        put("configuration", f"{name}.json", json.dumps(configuration, separators=(",", ":")))
        put("configuration", f"{name}.struct", proto_struct(configuration))


def proto_struct(members):
    """`google.protobuf.Struct`, see src/config/proto_struct.rs."""
    entries = (
        field(1, name.encode()) + field(2, proto_value(value)) for name, value in members.items()
    )
    return b"".join(field(1, entry) for entry in entries)


def proto_value(value):
    match value:
        case None:
            return b"\x08\x00"
        case bool():
            return bytes([0x20, value])
        case int():
            return b"\x11" + struct.pack("<d", value)
        case str():
            return field(3, value.encode())
        case dict():
            return field(5, proto_struct(value))
        case list():
            return field(6, b"".join(field(1, proto_value(item)) for item in value))


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


# --- shared data ----------------------------------------------------------------------------------

# The order is that of fuzz_targets/planted.rs.
KINDS = ["a", "n", "u", "l", "b", "w", "seed", "epoch", "revived", "sizes", "mark", "h", "o"]

# `FORMAT_VERSION` of src/shared_data/name.rs. tests/fuzz_seeds.rs fails if what is written here is of another format.
FORMAT = 10

# What the gateway needs of an answer, in the order of src/mas/introspection/stored.rs.
TEXTS = ["username", "device_id", "client_id", "scope"]


def shared_data():
    # As without a secret, which is what fuzz_targets/worker.rs plants.
    digest = sip_hash([0, 0], TOKEN)
    for name, values in planted(digest, fingerprint=1).items():
        put("shared_data", name, digest + struct.pack("<Q", NOW) + values)
    asked = fingerprint("mas", "mas", "/oauth2/introspect", "bearer")
    for name, values in planted(digest, asked).items():
        put("worker", name, values)


def planted(digest, fingerprint):
    """Values as this version of the module writes them; src/cache/ has the formats."""
    active = b'{"active":true,"scope":"urn:matrix:client:api:*","username":"alice","expires_in":300}'
    inactive = b'{"active":false}'
    key = digest + struct.pack("<Q", fingerprint)

    def entry(digest, user, kept_until, body):
        expires = b"expires_in" in body
        head = struct.pack("<BQ", (user is not None) | expires << 1, fingerprint)
        expiry = (NOW + 299_000, NOW + 300_100) if expires else (0, 0)
        times = struct.pack("<6Q", NOW - 500, NOW - 1000, kept_until, *expiry, NOW - 900)
        user = name_hash(user) if user else bytes(16)
        return head + digest + user + times + stored(body)

    def hint(kind):
        return value("seed", bytes([kind]) + key)

    stranger = entry(bytes(16), None, NOW + 60_000, b'{"active":true}')
    live = bucket("a", stranger, entry(digest, "alice", NOW + 60_000, active))
    other = bucket("a", stranger)
    stale = bucket("a", entry(digest, "alice", NOW - 1, active))
    ended = bucket("n", entry(digest, None, NOW + 60_000, inactive))
    devices = b"".join(
        name_hash(device) + struct.pack("<Q", since) for device, since in [("A", NOW), ("B", 3)]
    )
    moments = struct.pack("<QQ", NOW - 2000, NOW)
    # Of another format only the latest moment is read.
    foreign = value("u", struct.pack("<BQ", FORMAT + 1, NOW))
    void = value("u", struct.pack("<BQQ", FORMAT, NOW, 5) + name_hash("alice") + moments + devices)
    lease = bucket("l", key + struct.pack("<QQB", 9, NOW + 900, 1))
    found, failed = (
        bucket("l", bytes(41), key + struct.pack("<QQB", 9, NOW - 100, mark)) for mark in (4, 8)
    )
    budget = bucket("b", digest + struct.pack("<QI", NOW + 5000, 3) + digest[-4:])
    seat = value("w", struct.pack("<QIQ", 9, 0, NOW + 4000))
    epoch = value("epoch", struct.pack("<8I", *range(8)))
    revived = value("revived", struct.pack("<Q", NOW - 100))
    sizes = value("sizes", struct.pack("<3I", 1, 4, 8)) + value("mark", b"")
    ends = value("h", struct.pack("<32Q", *range(2, 34)))
    return {
        "all": live + ended + void + lease + budget + seat + epoch + revived + sizes + ends,
        "ends": ends + live,
        "failed": failed + stale + seat,
        "budget": budget + seat,
        "inactive": ended,
        "lease": lease + seat + hint(1) + hint(2) + hint(3) + hint(4),
        "live": live + other,
        "others": other + seat + seat,
        "revived": ended + revived,
        "sizes": sizes + live + ended,
        "stale": stale + epoch,
        "stored": found + seat,
        "void": live + void,
        "void_foreign": live + foreign,
    }


def bucket(kind, *records):
    """See src/shared_data/name.rs."""
    framed = b"".join(struct.pack("<H", len(record)) + record for record in records)
    return value(kind, bytes([FORMAT]) + framed)


def stored(body):
    """See src/mas/introspection/stored.rs."""
    answer = json.loads(body)
    head = struct.pack("<BH", answer["active"], len(body))
    if not answer["active"]:
        return head + body
    head += struct.pack("<q", answer.get("expires_in", -(2**63)))
    for name in TEXTS:
        text = json.dumps(answer[name])[1:-1].encode() if name in answer else b""
        head += struct.pack("<HH", body.index(text) if name in answer else 0xFFFF, len(text))
    return head + body


def value(kind, content):
    return struct.pack("<BH", KINDS.index(kind), len(content)) + content


def name_hash(text):
    """See src/mas/user.rs."""
    return sip_hash([0x0706050403020100, 0x0F0E0D0C0B0A0908], text)


def sip_hash(key, text):
    """See src/hashes/sip_hash.rs."""
    limit = (1 << 64) - 1
    state = [
        key[0] ^ 0x736F6D6570736575,
        key[1] ^ 0x646F72616E646F6D ^ 0xEE,
        key[0] ^ 0x6C7967656E657261,
        key[1] ^ 0x7465646279746573,
    ]

    def rotated(word, bits):
        return (word << bits | word >> (64 - bits)) & limit

    def rounds(number):
        a, b, c, d = state
        for _ in range(number):
            a, c = (a + b) & limit, (c + d) & limit
            b, d = rotated(b, 13) ^ a, rotated(d, 16) ^ c
            a, c = (rotated(a, 32) + d) & limit, (c + b) & limit
            d, b = rotated(d, 21) ^ a, rotated(b, 17) ^ c
            c = rotated(c, 32)
        state[:] = a, b, c, d

    name = text.encode()
    padded = name + bytes(7 - len(name) % 8) + bytes([len(name) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        state[3] ^= word
        rounds(2)
        state[0] ^= word
    halves = []
    for place, mark in [(2, 0xEE), (1, 0xDD)]:
        state[place] ^= mark
        rounds(4)
        halves.append(state[0] ^ state[1] ^ state[2] ^ state[3])
    return struct.pack("<2Q", *halves)


def fingerprint(*parts):
    """`Config::fingerprint`."""
    text = b"".join(struct.pack("<Q", len(part)) + part.encode() for part in parts)
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


if __name__ == "__main__":
    main()
