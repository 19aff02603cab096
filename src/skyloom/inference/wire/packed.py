"""The models of a pack over REST: the same addresses as the replica's own model has, answered when the model is in memory."""

import time
from collections.abc import Callable

from skyloom.core.errors import SkyloomError
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.packing.guests import GuestHouse
from skyloom.inference.pictures import PICTURES
from skyloom.inference.wire.desk import Desk, failed, json_answer
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.open_inference import OpenInference, named
from skyloom.inference.wire.plain import Plain, predict_methods
from skyloom.inference.wire.repository import ReplicaIsFixed, Repository, read_object
from skyloom.inference.wire.rest_routes import JSON_BODY, RestRoute, at_once
from skyloom.inference.wire.site import Streaming

Routes = dict[bytes, RestRoute]
PlainOf = Callable[[DataPlane, Desk], Plain | None]


class PackedModels:
    """The routes of all guests of one replica.

    Args:
        own: the routes of the replica's own model; a guest has the same.
        plain: makes what takes a guest's rows by their names.
    """

    def __init__(self, guests: GuestHouse, own: OpenInference, repository: Repository, plain: PlainOf) -> None:
        self._guests = guests
        self._own = own
        self._repository = repository
        self._plain = plain

    def routes(self, target: bytes) -> Routes | None:
        """What answers at an address of a guest, by method. None: it is of no guest."""
        found = named(target)
        if found is None:
            return self._of_repository(target)
        if not self._guests.has(found[0]):
            return None
        name, version, rest = found
        if rest == b"predict":  # what its body may be, beside rows, is known when it is in memory
            answer = self._asking(name, version, rest, counts=True)
            return predict_methods(answer, "Raw in, answer out.", JSON_BODY + PICTURES)
        own = self._own.of_model(rest)
        if own is None:
            return None
        if rest in (b"ready", b"stats"):
            look = self._ready if rest == b"ready" else self._statistics
            return {b"GET": own[b"GET"]._replace(answer=at_once(lambda _: look(name, version)))}
        return {
            method: route._replace(answer=self._asking(name, version, rest, route.is_inference))
            for method, route in own.items()
        }

    def _of_repository(self, target: bytes) -> Routes | None:
        parts = target.split(b"/")
        name = parts[4].decode("latin-1") if len(parts) == 6 else ""
        if parts[:4] != [b"", b"v2", b"repository", b"models"] or not self._guests.has(name):
            return None
        if parts[5] == b"load":
            return {b"POST": RestRoute(self._loading(name), "Have the model in memory.")}
        if parts[5] == b"unload":
            answer = at_once(lambda _: self._repository.unload(name))
            return {b"POST": RestRoute(answer, "Let the model go, while nobody asks for it.")}
        return None

    def _loading(self, name: str) -> Callable[[Request, Streaming], None]:
        def answer(request: Request, exchange: Streaming) -> None:
            if read_object(request.body).get("parameters"):
                raise ReplicaIsFixed("A model is loaded as it was packed, without parameters.", next_action="Pack it.")
            self._ask(name, "", request, exchange, lambda _: exchange.answer(json_answer({})), counts=False)

        return answer

    def _asking(self, name: str, version: str, rest: bytes, counts: bool) -> Callable[[Request, Streaming], None]:
        def answer(request: Request, exchange: Streaming) -> None:
            body = request.body  # which the request gives up when this is over

            def then(plane: DataPlane) -> None:
                routes = self._site(plane).of_model(rest)
                assert routes is not None
                request.body = body
                routes[request.head.method].answer(request, exchange)
                request.body = b""

            self._ask(name, version, request, exchange, then, counts)

        return answer

    def _ask(
        self,
        name: str,
        version: str,
        request: Request,
        exchange: Streaming,
        then: Callable[[DataPlane], None],
        counts: bool,
    ) -> None:
        def refused(error: SkyloomError) -> None:
            response = failed(error)
            if counts and self._guests.has(name):
                self._guests.get(name).traffic.answered(response.status, time.perf_counter() - request.arrived_at)
            exchange.answer(response)

        try:
            given_up = self._guests.ask(name, version, then, refused, len(request.body))
        except SkyloomError as error:
            refused(error)
        else:
            exchange.on_cut = given_up or exchange.on_cut

    def _ready(self, name: str, version: str) -> Response:
        """One that is not in memory takes requests all the same: they are held while it comes."""
        guest = self._guests.get(name, version)
        if guest.failure is not None:
            raise guest.failure
        return json_answer({"name": name, "ready": True})

    def _statistics(self, name: str, version: str) -> Response:
        return json_answer({"model_stats": [self._guests.get(name, version).statistics()]})

    def _site(self, plane: DataPlane) -> OpenInference:
        if plane.rest is None:
            desk = Desk(plane)
            plane.rest = OpenInference(plane, desk, self._plain(plane, desk))
        assert isinstance(plane.rest, OpenInference)
        return plane.rest
