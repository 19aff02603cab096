"""One call of an endpoint, from a request to its last part: handed to the service, answered, recorded, counted.

How an answer is worded is the site's: the service's own addresses and the OpenAI ones speak of the same calls in other words.
"""

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from skyloom.core.errors import Category, SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.services.calls import ArgumentsRefused, CallOutcome, PendingCall, ServiceFailed, ServiceLate
from skyloom.inference.services.process import ServiceProcess
from skyloom.inference.tensors import Call
from skyloom.inference.wire.desk import ErrorAnswer, failed
from skyloom.inference.wire.events import event, opening
from skyloom.inference.wire.messages import JSON, Fields, Request, Response
from skyloom.inference.wire.shown_tokens import ShownTokens
from skyloom.inference.wire.site import Streaming
from skyloom.rooms.registry.services import Answering, ServiceMethod

OCTETS = b"application/octet-stream"
_MAX_UNSENT_BYTES = 2**20


class Wording(Protocol):
    """How the answers of a call are worded."""

    def whole(self, outcome: CallOutcome, headers: Fields) -> Response:
        """A whole answer."""
        ...

    def part(self, content: memoryview) -> bytes:
        """One part, as events."""
        ...

    def last(self, prediction_id: str) -> bytes:
        """What comes after the last part."""
        ...

    def failed(self, error: SkyloomError, prediction_id: str) -> Response:
        """There is no answer, and why."""
        ...

    def broken(self, error: SkyloomError) -> bytes:
        """The answer broke off, and why."""
        ...


class PlainWording:
    """What an endpoint returned, as it is."""

    def whole(self, outcome: CallOutcome, headers: Fields) -> Response:
        """Its JSON, or its bytes."""
        return Response(200, bytes(outcome.content), OCTETS if outcome.is_raw else JSON, headers)

    def part(self, content: memoryview) -> bytes:
        """One event for each value."""
        return event(bytes(content))

    def last(self, prediction_id: str) -> bytes:
        """An event that says that this was all."""
        return event(msgspec.json.encode({"skyloom-prediction-id": prediction_id}), "done")

    def failed(self, error: SkyloomError, prediction_id: str) -> Response:
        """As everywhere, but arguments that an endpoint refuses are 422."""
        return worded(error, prediction_id)

    def broken(self, error: SkyloomError) -> bytes:
        """An event with what the body would have been."""
        return event(worded(error).body, "error")


class EndpointCall:
    """One call, from its request to its last part.

    Args:
        streams: an answer in parts stands among them, so that it ends with the token that asked for it.
    """

    def __init__(
        self,
        plane: DataPlane,
        process: ServiceProcess,
        request: Request,
        exchange: Streaming,
        method: ServiceMethod,
        wording: Wording,
        streams: ShownTokens,
        *,
        body: bytes,
        is_raw: bool = False,
        is_collected: bool = False,
    ) -> None:
        self._is_stream = method.answering is Answering.PARTS and not is_collected
        self._is_collected = is_collected  # parts are put together and answered as a whole
        self._wording = wording
        self._streams = streams
        self._plane = plane
        self._process = process
        self._request = request
        self._exchange = exchange
        self._begun = self._is_over = False
        self._held: deque[bytes] = deque()  # parts that the client has no room for: the service waits with more
        self._ending = b""
        done: Callable[[CallOutcome | SkyloomError], None] = (
            self._ended if method.answering is Answering.PARTS else self._whole
        )
        self._call = PendingCall(method, (body,) if body else (), done, self._part, is_raw=is_raw)

    def begin(self) -> None:
        """Hand the call to the service; a refusal is answered at once."""
        try:
            self._plane.check_open()
            if self._is_stream:
                self._streams.add(self._refuse, self._request.head.headers.get(b"authorization"))
            self._process.ask(self._call)
        except SkyloomError as error:
            self._streams.remove(self._refuse)
            self._answer(self._wording.failed(error, ""))
            return
        self._exchange.on_cut = self._cut

    def _cut(self) -> None:
        self._streams.remove(self._refuse)
        self._process.give_up(self._call)

    def _refuse(self, error: SkyloomError) -> None:
        """The token is good no more: the service may stop, and what the client has not taken yet is not for it."""
        self._cut()
        self._held.clear()
        if not self._is_over:
            self._ended(error)
        elif self._ending:
            self._ending = self._wording.broken(error)
            self._room()

    def _whole(self, outcome: CallOutcome | SkyloomError) -> None:
        self._streams.remove(self._refuse)
        try:
            if isinstance(outcome, SkyloomError):
                self._answer(self._wording.failed(outcome, self._record(outcome)))
                return
            headers = ((b"skyloom-prediction-id", self._record(None).encode()),)
            self._answer(self._wording.whole(outcome, headers))
        except SkyloomError as error:  # the request log is full: what leaves no trace is not answered
            self._answer(self._wording.failed(error, ""))
        except Exception:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exc(file=sys.stderr)
            self._answer(self._plain_failure())

    def _part(self, outcome: CallOutcome) -> None:
        try:
            part = self._wording.part(outcome.content)
        except SkyloomError as error:  # what cannot be worded ends the call
            self._cut()
            self._ended(error)
            return
        except Exception:  # what the service yields may have any form
            traceback.print_exc(file=sys.stderr)
            self._cut()
            words = "The endpoint gave a part that cannot be told."
            self._ended(ServiceFailed(words, next_action="Ask the operator to look at the replica's output."))
            return
        if self._is_collected:
            self._process.took(self._call, 1)
            return
        if not self._begun:
            self._begun = True
            self._exchange.on_room = self._room
            self._exchange.begin(opening())
        self._held.append(part)
        self._room()

    def _room(self) -> None:
        """Push what was held back, as far as there is room; so many more parts may then be made."""
        num_taken = 0
        while self._held and self._exchange.num_unsent < _MAX_UNSENT_BYTES:
            if part := self._held.popleft():
                self._exchange.push(part)
            num_taken += 1
        if self._ending and not self._held:
            self._streams.remove(self._refuse)
            self._exchange.push(self._ending)
            self._exchange.finish()
            self._ending = b""
        elif num_taken and not self._is_over:
            self._process.took(self._call, num_taken)

    def _ended(self, outcome: CallOutcome | SkyloomError) -> None:
        if self._is_collected or (isinstance(outcome, SkyloomError) and not self._begun):
            self._whole(outcome)
            return
        try:
            prediction_id = self._record(outcome if isinstance(outcome, SkyloomError) else None)
            last = self._wording.last(prediction_id)
        except SkyloomError as error:
            outcome, last = error, b""
        if isinstance(outcome, SkyloomError):
            last = self._wording.broken(outcome)
        if not self._begun:
            self._exchange.begin(opening())
        self._ending, self._is_over = last, True
        self._room()
        self._count(worded(outcome).status if isinstance(outcome, SkyloomError) else 200)

    def _record(self, failure: SkyloomError | None) -> str:
        """Write the call into the request log; refused arguments are no prediction. Raises `RequestLogFull`."""
        if isinstance(failure, ArgumentsRefused):
            return ""
        ticket = Ticket(Call((), 1, (), ""), self._request.arrived_at, lambda _: None)
        ticket.failure = failure
        return self._plane.record(ticket)

    def _answer(self, response: Response) -> None:
        self._exchange.answer(response)
        self._count(response.status)

    def _count(self, status: int) -> None:
        since = self._request.arrived_at
        self._plane.traffic.answered(status, time.perf_counter() - since if since else 0.0)

    def _plain_failure(self) -> Response:
        body = ErrorAnswer(error="The server made a mistake.", code="http_500", category=Category.INTERNAL)
        return Response(500, msgspec.json.encode(body))


def worded(error: SkyloomError, prediction_id: str = "") -> Response:
    """An error as an answer: as everywhere, but arguments that an endpoint refuses are 422, and one that takes too long is 504.

    A 503 says that nothing was begun, and is sent again by those who stand between; a late call was begun.
    """
    response = failed(error, prediction_id)
    if isinstance(error, ArgumentsRefused):
        response.status = 422
    elif isinstance(error, ServiceLate):
        response.status = 504
    return response
