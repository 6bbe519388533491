"""Makes the keys and secrets of this stack, each in a file of its own, and leaves those that are there.

    prepare.py SECRETS [DATA]

All containers that mount the folder SECRETS may read them; no other can. DATA is given to Synapse's user.
"""

import os
import secrets
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from signedjson.key import generate_signing_key, write_signing_keys


SYNAPSE_USER = 991


def main(folder, data=None):
    folder = Path(folder)
    shared = once(folder / "shared", lambda: secrets.token_hex(32))
    # What Envoy puts into `Authorization`.
    once(folder / "bearer", lambda: f"Bearer {shared}")
    once(folder / "encryption", lambda: secrets.token_hex(32))
    once(folder / "macaroon", lambda: secrets.token_hex(32))
    once(folder / "mas.pem", mas_key)
    signing_key = folder / "synapse.key"
    if not signing_key.exists():
        with signing_key.open("w", encoding="ascii") as file:
            write_signing_keys(file, [generate_signing_key("a_" + secrets.token_hex(2))])
    if data:
        os.chown(data, SYNAPSE_USER, SYNAPSE_USER)


def once(path, make):
    if not path.exists():
        path.write_text(make(), encoding="ascii")
    return path.read_text(encoding="ascii")


def mas_key():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")


if __name__ == "__main__":
    main(*sys.argv[1:])
