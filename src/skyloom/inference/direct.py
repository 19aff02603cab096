"""A model without a socket: the same plan, guards, tensors and model as a replica, asked by a call. For hosts that bring their own server
(functions of a cloud, Ray Serve); it lives on the event loop that opens it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from skyloom.inference import model as models
from skyloom.inference.pace import Pace
from skyloom.inference.server import Replica, read_plan
from skyloom.inference.wire.messages import Head, Request, Response
from skyloom.inference.wire.rest import Rest

_REFRESH_S = 1.0


class DirectSite:
    """A loaded model that answers requests as values. Make it with `open_site`."""

    def __init__(self, replica: Replica, max_body_bytes: int) -> None:
        self._replica = replica
        self._rest = Rest(replica.plane)
        self._max_body_bytes = max_body_bytes
        self._refresh_at = 0.0

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Answer one request. ``target`` is its path; a query is dropped, the protocol has none. Never raises for what a client sends."""
        if time.monotonic() >= self._refresh_at:
            self._replica.plane.access.refresh()
            self._refresh_at = time.monotonic() + _REFRESH_S
        named = {_bytes(name).lower(): _bytes(value).strip() for name, value in headers.items()}
        request = Request(Head(_bytes(method.upper()), _bytes(target.partition("?")[0]), named))
        if len(body) > self._max_body_bytes:
            return self._rest.refusal(413, f"The body has more than {self._max_body_bytes} bytes.")
        refused = self._rest.admit(request)
        if refused is not None:
            return refused
        request.body = body
        request.arrived_at = time.perf_counter()
        exchange = OneAnswer(asyncio.get_running_loop())
        self._rest.serve(request, exchange)
        try:
            return await exchange.answered
        finally:
            if exchange.on_cut is not None and not exchange.answered.done():
                exchange.on_cut()

    def close(self) -> None:
        """Let go of the model."""
        self._replica.close()


class OneAnswer:
    """An exchange whose answer somebody awaits. It takes no parts: what answers part by part is collected."""

    on_cut: Callable[[], None] | None = None
    on_room: Callable[[], None] | None = None
    num_unsent = 0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answered: asyncio.Future[Response] = loop.create_future()
        self._begun: Response | None = None

    def answer(self, response: Response) -> None:
        """Take the answer; a second one is dropped."""
        if not self.answered.done():
            self.answered.set_result(response)

    def begin(self, response: Response) -> None:
        """Take the first part."""
        self._begun = response

    def push(self, part: bytes) -> None:
        """Take one more."""
        if self._begun is not None:
            self._begun.body += part

    def break_off(self) -> None:
        """What answers part by part failed in the middle: nobody has seen a part of it, so it becomes an error."""
        self.answer(Response(500, b'{"error":"The server made a mistake."}'))

    def finish(self, trailers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """There is no more; trailers are dropped."""
        if self._begun is not None:
            self.answer(self._begun)

    def resume(self) -> None:
        """The request came whole."""


async def open_site(path: Path) -> DirectSite:
    """Read a plan, verify and load its bundle. Raises `PlanRefused`, `BundleRefused`, `ModelFailed`, `TensorMissing`."""
    plan = read_plan(path)
    model = models.load(path.parent / plan.bundle, models.thread_count(plan.cpus), plan.manifest, plan.gpus)
    pace = Pace.measure(model.rehearsal, plan.limits.max_batch_rows, work=model.work_clock)
    return DirectSite(Replica(plan, path.parent, model, pace), plan.limits.max_body_bytes)


def _bytes(text: str) -> bytes:
    return text.encode("latin-1", "replace")
