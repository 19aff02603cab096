"""Arrays from Python: one job many times over, and what came of each."""

from collections.abc import Callable, Iterator
from typing import Any

from skyloom.core.operation import Page
from skyloom.rooms.arrays import model
from skyloom.rooms.arrays.model import ArrayResult, ArrayResults, ArrayStatus
from skyloom.rooms.jobs.model import ENDED, JobSpec
from skyloom.sdk.jobs import JobNews
from skyloom.sdk.patience import patient
from skyloom.sdk.specs import job_spec
from skyloom.sdk.transport import Transport
from skyloom.sdk.waiting import pauses, say, wait_until


class ArrayCalls:
    """``cloud.arrays``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(
        self,
        spec: JobSpec,
        size: int,
        *,
        max_parallel: int = 0,
        inputs: tuple[str, ...] = (),
        per_input: int = 1,
        key: str | None = None,
    ) -> ArrayStatus:
        """Queue one job for each index below ``size``. With a ``key`` of yours, submitting again gives the same array."""
        ask = model.SubmitArray(spec=spec, size=size, max_parallel=max_parallel, inputs=inputs, per_input=per_input)
        return self._transport.send(ask, key)

    def run(self, size: int, *args: Any, max_parallel: int = 0, key: str | None = None, **options: Any) -> ArrayStatus:
        """Queue a command or a script ``size`` times; the rest as in ``cloud.jobs.run``. Each job reads ``SKYLOOM_ARRAY_INDEX``."""
        spec = job_spec(self._transport, *args, **options)
        return self.submit(spec, size, max_parallel=max_parallel, key=key)

    def get(self, array_id: str) -> ArrayStatus:
        """Show one array: counts, and the first failures."""
        return self._transport.send(model.GetArray(array_id=array_id))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[ArrayStatus]:
        """List arrays, newest first."""
        return self._transport.send(model.ListArrays(limit=limit, cursor=cursor))

    def cancel(self, array_id: str) -> ArrayStatus:
        """Stop every job of an array. Safe to repeat."""
        return self._transport.send(model.CancelArray(array_id=array_id))

    def results(self, array_id: str, after: int = 0, limit: int = 1_000) -> ArrayResults:
        """Some results, in the order in which they came; go on with ``after=answer.next``."""
        return self._transport.send(model.ReadArrayResults(array_id=array_id, after=after, limit=limit))

    def follow(self, array_id: str, *, tell: Callable[[str], None] | None = say) -> Iterator[ArrayResult]:
        """Yield every result as it comes, until the array has ended; through an outage of the cloud like ``cloud.jobs.follow``.

        Args:
            tell: is told, in a line, what an array waits for of which nothing runs; it says so on stderr, by default.
        """
        calls, after, waiting, news = self._patient(array_id), 0, pauses(), JobNews(tell)
        while True:
            some = calls.results(array_id, after)
            yield from some.items
            if some.ended:
                return
            if some.next == after:
                if news.is_due:
                    news.of_array(calls.get(array_id))
                next(waiting)
            else:
                waiting = pauses()
            after = some.next

    def wait(self, array_id: str, *, timeout_s: float | None = None) -> ArrayStatus:
        """Wait until an array has ended, and return how. Raises ``TimeoutError``."""
        calls = self._patient(array_id, timeout_s)
        return wait_until(
            lambda status: status.state in ENDED,
            lambda: calls.get(array_id),
            timeout_s,
            lambda status: f"array {array_id} is still {status.state.value}",
        )

    def _patient(self, array_id: str, timeout_s: float | None = None) -> "ArrayCalls":
        return ArrayCalls(patient(self._transport, f"Array {array_id}", f"skyloom array wait {array_id}", timeout_s))
