"""Reads media types, one in hexadecimal digits on each line, as the HTTP server of Synapse reads them.

For each, a line says what becomes of a POST's body: "form" if its parameters count, "multipart" if Synapse does not refuse it
and Twisted reads its parts, "error" if Twisted drops the request, "no" otherwise.
"""

import sys

from twisted.web.http import _parseContentType


def read(content_type):
    """Returns what becomes of the body."""
    try:
        key = _parseContentType(content_type)
    except Exception:  # Whatever the e-mail package raises.
        return "error"
    if key == b"application/x-www-form-urlencoded":
        return "form"
    # Synapse looks for the word itself.
    if key == b"multipart/form-data" and b"multipart/form-data" not in content_type.lower():
        return "multipart"
    return "no"


for line in sys.stdin:
    print(read(bytes.fromhex(line)))
