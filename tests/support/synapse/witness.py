"""A module of Synapse that says in the response to a request what Synapse took it for.

    x-witness-actor      the user it acted as, the device and the appservice
    x-witness-token      the access token that it took
    x-witness-identity   the request headers whose names begin with x-matrix, however they are separated

What a header tells is percent-encoded, and parts are separated by commas. A response without the last one did not
come from Synapse. Nothing else about Synapse changes.
"""

from urllib.parse import quote

from synapse.api.auth.base import BaseAuth
from synapse.http.site import SynapseRequest


class Witness:
    """What Synapse's configuration names; the work is done once, on import."""

    def __init__(self, _config, _api):
        pass

    @staticmethod
    def parse_config(config):
        return config


def tell(request, name, parts):
    text = ",".join(quote(part or "", safe="@:!") for part in parts)
    request.setHeader(name, text.encode("ascii"))


def identity(request):
    for name, values in request.requestHeaders.getAllRawHeaders():
        if name.lower().replace(b"_", b"-").startswith(b"x-matrix"):
            for value in values:
                yield name.lower() + b"=" + value


def tell_identity(render):
    def told(request, resource):
        tell(request, "x-witness-identity", identity(request))
        return render(request, resource)

    return told


def tell_token(get):
    def told(request):
        token = get(request)
        tell(request, "x-witness-token", [token])
        return token

    return staticmethod(told)


def tell_actor(requester):
    def told(request, value):
        requester.fset(request, value)
        if not isinstance(value, str):
            parts = [value.user.to_string(), value.device_id, value.app_service_id]
            tell(request, "x-witness-actor", parts)

    return requester.setter(told)


SynapseRequest.render = tell_identity(SynapseRequest.render)
SynapseRequest.requester = tell_actor(SynapseRequest.requester)
BaseAuth.get_access_token_from_request = tell_token(
    BaseAuth.get_access_token_from_request
)
