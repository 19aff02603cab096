"""Calls on their way through a service's endpoints: so many at once, together where they may be, given up when nobody waits.

Runs in the service's process, on its event loop. Plain methods run on threads, ``async`` ones on the loop itself.
"""

import asyncio
import contextlib
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from skyloom.core.errors import Category, SkyloomError
from skyloom.inference.services.frames import Ask, Failed, Finished, Part
from skyloom.inference.services.speaking import ResultUnsendable, Speech, output_names
from skyloom.sdk.describing import EndpointMethod
from skyloom.sdk.service import Service

FIRST_PARTS = 32  # made before the first of them must have been taken
_MAX_WORDS = 500


class RunningCall:
    """One request in the service's process. ``room`` counts the parts that may still be made."""

    __slots__ = ("arguments", "ask", "given_up", "room", "task")

    def __init__(self, ask: Ask, arguments: dict[str, Any]) -> None:
        self.ask = ask
        self.arguments = arguments
        self.given_up = False
        self.room: threading.Semaphore | asyncio.Semaphore | None = None
        self.task: asyncio.Task[None] | None = None


class MethodLane:
    """The calls of one endpoint."""

    def __init__(
        self, service: Service, method: EndpointMethod, speech: Speech, threads: Executor, say: Callable[[object], None]
    ) -> None:
        self._service = service
        self._method = method
        self._speech = speech
        self._threads = threads
        self._say = say
        self._waiting: deque[RunningCall] = deque()
        self._running = 0
        self._known: dict[int, RunningCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, ask: Ask) -> None:
        """Take a call; it is answered by frames, later."""
        try:
            arguments = self._speech.read(ask)
        except Exception as error:
            self._fail(ask.call, error)
            return
        call = RunningCall(ask, arguments)
        self._known[ask.call] = call
        self._waiting.append(call)
        self._next()

    def give_up(self, number: int) -> None:
        """Stop a call as far as that is possible: a plain method that runs cannot be stopped, only not waited for."""
        call = self._known.get(number)
        if call is None:
            return
        call.given_up = True
        if call.room is not None:
            call.room.release()
        if call.task is not None and self._method.is_async and not self._method.options.batch:
            call.task.cancel()

    def more(self, number: int, num_parts: int) -> None:
        """The client has taken parts of a call."""
        call = self._known.get(number)
        for _ in range(num_parts if call is not None else 0):
            if call is not None and call.room is not None:
                call.room.release()

    def _next(self) -> None:
        while self._waiting and self._running < self._method.concurrency:
            calls = [call for call in self._taken() if not self._is_over(call)]
            if not calls:
                continue
            self._running += 1
            task = asyncio.ensure_future(self._run(calls))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            for call in calls:
                call.task = task

    def _taken(self) -> list[RunningCall]:
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._method.options.batch or 1))]

    def _is_over(self, call: RunningCall) -> bool:
        if call.given_up:
            self._end(call, Failed(call.ask.call, False, "The call was given up."))
        return call.given_up

    async def _run(self, calls: Sequence[RunningCall]) -> None:
        try:
            if self._method.is_parts:
                await self._pour(calls[0])
            elif self._method.options.batch:
                await self._together(calls)
            else:
                await self._alone(calls[0])
        finally:
            for call in calls:
                if call.ask.call in self._known:  # cancelled: whoever counts calls must hear of its end
                    self._end(call, Failed(call.ask.call, False, "The call was given up."))
            self._running -= 1
            self._next()

    async def _alone(self, call: RunningCall) -> None:
        try:
            self._finish(call, await self._called(call.arguments))
        except (Exception, SystemExit) as error:
            self._fail(call.ask.call, error)

    async def _together(self, calls: Sequence[RunningCall]) -> None:
        names = [one.name for one in self._method.arguments]
        arguments = {name: [call.arguments[name] for call in calls] for name in names}
        try:
            results = await self._called(arguments)
            if len(results) != len(calls):
                raise ResultUnsendable(f"{self._method.name} returned {len(results)} results for {len(calls)} requests")
        except (Exception, SystemExit) as error:
            if len(calls) == 1:
                self._fail(calls[0].ask.call, error)
                return
            for call in calls:  # one client's values must not fail the others: each goes again, alone
                await self._together([call])
            return
        for call, result in zip(calls, results, strict=True):
            try:
                self._finish(call, result)
            except Exception as error:
                self._fail(call.ask.call, error)

    async def _called(self, arguments: dict[str, Any]) -> Any:
        if self._method.is_async:
            return await self._method.body(self._service, **arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._plainly, arguments)

    def _plainly(self, arguments: dict[str, Any]) -> Any:
        try:
            return self._method.body(self._service, **arguments)
        except StopIteration as error:  # of a bare next(): no future can carry it, and the call would never end
            raise RuntimeError("StopIteration: next() found nothing") from error

    async def _pour(self, call: RunningCall) -> None:
        try:
            if self._method.is_async:
                await self._pour_here(call)
            else:
                call.room = threading.Semaphore(FIRST_PARTS)
                await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._pour_on_thread, call, asyncio.get_running_loop()
                )
            if call.ask.call in self._known:
                self._end(call, Finished(call.ask.call))
        except (Exception, SystemExit) as error:
            self._fail(call.ask.call, error)

    async def _pour_here(self, call: RunningCall) -> None:
        room = call.room = asyncio.Semaphore(FIRST_PARTS)
        async with contextlib.aclosing(self._method.body(self._service, **call.arguments)) as values:
            async for value in values:
                await room.acquire()
                self._say(Part(call.ask.call, self._speech.part(value)))

    def _pour_on_thread(self, call: RunningCall, loop: asyncio.AbstractEventLoop) -> None:
        room = call.room
        assert isinstance(room, threading.Semaphore)
        values = self._method.body(self._service, **call.arguments)
        try:
            for value in values:
                room.acquire()
                if call.given_up:
                    return
                part = Part(call.ask.call, self._speech.part(value))
                loop.call_soon_threadsafe(self._say, part)
        finally:
            values.close()

    def _finish(self, call: RunningCall, value: Any) -> None:
        if call.ask.arrays is not None:
            arrays = self._speech.arrays(value, output_names(self._method))
            self._end(call, Finished(call.ask.call, arrays=arrays))
            return
        content, is_raw = self._speech.result(value)
        self._end(call, Finished(call.ask.call, content, is_raw))

    def _end(self, call: RunningCall, message: Finished | Failed) -> None:
        self._known.pop(call.ask.call, None)
        self._say(message)

    def _fail(self, number: int, error: BaseException) -> None:
        """The client hears the words, the log the trace. ``sys.exit()`` fails a call like anything else."""
        self._known.pop(number, None)
        words = " ".join((error.message if isinstance(error, SkyloomError) else str(error)).split())[:_MAX_WORDS]
        if isinstance(error, ValueError) or (isinstance(error, SkyloomError) and error.category is Category.INVALID):
            self._say(Failed(number, True, words or f"{self._method.name} refuses the arguments."))
            return
        traceback.print_exception(error, file=sys.stderr)
        self._say(Failed(number, False, f"{self._method.name} failed: {type(error).__name__}: {words}"))
