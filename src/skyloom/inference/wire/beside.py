"""Work that would hold up the event loop: unpacking what is large, decoding pictures. None of it is on the measured path."""

import asyncio
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from skyloom.core.errors import InternalError, LimitExceeded, SkyloomError

_MAX_WAITING = 32
Made = TypeVar("Made")


class BesideFull(LimitExceeded):
    """More work waits than one thread does in time."""


class Beside:
    """One thread, or some, and a bound for what waits for them. Lives on the event loop."""

    def __init__(self, num_threads: int = 1, max_bytes: int = 2**26) -> None:
        self._threads = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="beside")
        self._max_bytes = max_bytes
        self._num_waiting = self._num_bytes = 0

    def run(
        self,
        work: Callable[[], Made],
        then: Callable[[Made], None],
        failed: Callable[[SkyloomError], None],
        num_bytes: int,
    ) -> None:
        """Do ``work``, which holds so many bytes, on the thread; ``then`` or ``failed`` is called on the loop. Raises `BesideFull`."""
        over = self._num_waiting > 0 and self._num_bytes + num_bytes > self._max_bytes
        if over or self._num_waiting >= _MAX_WAITING:
            raise BesideFull("Too many large or packed requests wait.", next_action="Send again in a moment.")
        self._num_waiting += 1
        self._num_bytes += num_bytes

        def done(finished: "Future[Made]") -> None:
            self._num_waiting -= 1
            self._num_bytes -= num_bytes
            try:
                made = finished.result()
            except SkyloomError as error:
                failed(error)
            except Exception:  # a defect of ours, or of a decoder; the client gets an answer and no detail
                traceback.print_exc(file=sys.stderr)
                failed(InternalError("The server made a mistake.", next_action="Send something else."))
            else:
                then(made)

        loop = asyncio.get_running_loop()
        self._threads.submit(work).add_done_callback(lambda finished: loop.call_soon_threadsafe(done, finished))
