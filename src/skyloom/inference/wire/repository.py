"""The model repository, trace, logging and shared-memory extensions, as a replica can answer them.

A replica serves one revision for its whole life, and whoever may predict may do no more: what would change it is refused with the way to do
it, and what only looks is answered truly. The models of a pack come and go by themselves; whoever may ask for one may also have it loaded,
or let it go while nobody asks: its next request brings it back.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from skyloom.core.errors import Denied
from skyloom.inference.codec import unreadable
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.rest_routes import RestRoute, RestTable, at_once
from skyloom.rooms.serving.pack import GuestState

# Requests are counted and logged by the control plane's means; Triton's tracer and its log are not there, and say so.
TRACE_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "trace_file": "",
        "trace_level": ["OFF"],
        "trace_rate": "0",
        "trace_count": "0",
        "log_frequency": "0",
        "trace_mode": "",
    }
)
LOG_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "log_file": "",
        "log_info": False,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
)
_WORDS = {
    GuestState.LOADED: ("READY", ""),
    GuestState.LOADING: ("LOADING", ""),
    GuestState.ABSENT: ("UNAVAILABLE", "unloaded"),
    GuestState.BROKEN: ("UNAVAILABLE", ""),
}
_DEPLOY = "Deploy another version: skyloom deploy."


class ReplicaIsFixed(Denied):
    """A replica serves one revision and has no settings; nobody can change that through its protocols."""


class SharedMemoryRefused(Denied):
    """A client may not name memory of the server's machine."""


class ModelIndex(msgspec.Struct, frozen=True, kw_only=True):
    """One model in the answer of ``POST /v2/repository/index``."""

    name: str
    version: str
    state: str
    reason: str


class Repository:
    """Answers what a client asks of the server beside inference; gRPC asks it too."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def table(self) -> RestTable:
        """The server's addresses."""
        shared: RestTable = {}
        for kind in (b"system", b"cuda"):
            beginning = b"/v2/" + kind + b"sharedmemory"
            shared[beginning + b"/status"] = _get(lambda _: _json([]), "Shared memory that clients named: none, ever.")
            shared[beginning + b"/unregister"] = _post(lambda _: _json({}), "Forget shared memory; there is none.")
        plan = self._plane.plan
        name = b"/v2/repository/models/" + plan.model.encode()
        return {
            b"/v2/repository/index": _post(self._index, "The models that are here."),
            name + b"/load": _post(self._load, "Load a model: the one that is served is loaded already."),
            name + b"/unload": _post(
                lambda _: self.unload(plan.model), "Refused: a replica serves its model for life."
            ),
            b"/v2/trace/setting": _settings(TRACE_SETTINGS, "Tracing is off here, and stays off."),
            b"/v2/logging": _settings(LOG_SETTINGS, "What this server logs; it cannot be changed."),
            **shared,
        }

    def of_model(self) -> dict[bytes, dict[bytes, RestRoute]]:
        """The addresses below a model's."""
        return {b"trace/setting": _settings(TRACE_SETTINGS, "Tracing is off here, and stays off.")}

    def of_strangers(self, target: bytes) -> dict[bytes, RestRoute] | None:
        """Addresses with a name of somebody else's in them: they say that it is not here. None: no address of these."""
        parts = target.split(b"/")
        if parts[:4] == [b"", b"v2", b"repository", b"models"] and len(parts) == 6 and parts[5] in (b"load", b"unload"):
            name = parts[4].decode("latin-1")
            return _post(lambda _: self.load(name, ()), "Load another model: refused.")
        kinds = (b"systemsharedmemory", b"cudasharedmemory")
        if parts[:2] == [b"", b"v2"] and len(parts) == 6 and parts[2] in kinds and parts[3] == b"region":
            if parts[5] == b"status":
                return _get(lambda _: _json([]), "Shared memory that clients named: none, ever.")
            if parts[5] in (b"register", b"unregister"):
                return _post(lambda _: share(), "Name shared memory: refused.")
        return None

    def index(self, only_ready: bool) -> list[ModelIndex]:
        """The model that is here for life, and those of the pack: in memory, on the way, or not."""
        plan = self._plane.plan
        state, reason = ("READY", "") if self._plane.ready else ("UNAVAILABLE", "stopping")
        found = [ModelIndex(name=plan.model, version=plan.model_version, state=state, reason=reason)]
        for guest in self._plane.guests or ():
            word, why = _WORDS[guest.state]
            why = str(guest.failure) if guest.state is GuestState.BROKEN else why
            found.append(ModelIndex(name=guest.entry.model, version=guest.entry.label, state=word, reason=why))
        return [one for one in found if one.state == "READY" or not only_ready]

    def load(self, name: str, parameters: Any) -> Response:
        """Loaded already, or refused. Raises `ModelUnknown`, `ReplicaIsFixed`."""
        self._plane.check_model(name, "")
        if parameters:
            raise ReplicaIsFixed(
                "A replica loads its model as it was deployed, without parameters.", next_action=_DEPLOY
            )
        return _json({})

    def unload(self, name: str) -> Response:
        """Let go of a model of the pack. Raises `ModelUnknown`, `ReplicaIsFixed`, `GuestBusy`."""
        guests = self._plane.guests
        if guests is not None and guests.has(name):
            guests.unload(name)
            return _json({})
        self._plane.check_model(name, "")
        raise ReplicaIsFixed(
            f"A replica serves {name!r} as long as it runs.", next_action="Stop its endpoint: skyloom endpoint stop."
        )

    def _index(self, request: Request) -> Response:
        return _json(self.index(read_object(request.body).get("ready") is True))

    def _load(self, request: Request) -> Response:
        return self.load(self._plane.plan.model, read_object(request.body).get("parameters"))


def share() -> Response:
    """Raises `SharedMemoryRefused`."""
    raise SharedMemoryRefused(
        "Memory of the server's machine cannot be named by a client.",
        next_action="Send binary tensors: they are not copied on their way to the model.",
    )


def check_settings(asked: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise `ReplicaIsFixed` if one of them is asked to be what it is not. None, or an empty value, asks for nothing."""
    for name, value in asked.items():
        if value not in (None, [], settings.get(name)):
            raise ReplicaIsFixed(
                f"The setting {name[:80]!r} of this server cannot be changed.",
                next_action="Follow requests by the control plane: skyloom endpoint monitor.",
            )


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object, or nothing at all. Raises `RequestUnreadable`."""
    if not body:
        return {}
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(f"The body is not a JSON object: {error}.", "Send an object, or no body.") from None


def _json(value: object) -> Response:
    return Response(200, msgspec.json.encode(value))


def _settings(settings: Mapping[str, Any], summary: str) -> dict[bytes, RestRoute]:
    def change(request: Request) -> Response:
        check_settings(read_object(request.body), settings)
        return _json(dict(settings))

    return {**_get(lambda _: _json(dict(settings)), summary), **_post(change, summary)}


def _get(answer: Callable[[Request], Response], summary: str) -> dict[bytes, RestRoute]:
    return {b"GET": RestRoute(at_once(answer), summary)}


def _post(answer: Callable[[Request], Response], summary: str) -> dict[bytes, RestRoute]:
    return {b"POST": RestRoute(at_once(answer), summary)}
