"""Calls to this machine's model servers, many at a time, on one thread with a loop of its own."""

import asyncio
import logging
import threading
from collections.abc import Callable

import httpx

from skyloom.rooms.functions.ports import Errand, ErrandResult

log = logging.getLogger("skyloom.functions")
_LONGEST_S = 3_700.0  # between two bytes; what each call may take is its own


class HttpErrands:
    """See `rooms.functions.ports.Errands`. The thread begins with the first errand and ends with `close`."""

    def __init__(self) -> None:
        self.done: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._results: list[ErrandResult] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None
        self._thread = threading.Thread(target=self._run, name="errands", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def begin(self, errand: Errand) -> None:
        with self._lock:
            if errand.id in self._open or self._is_closed:
                return
            self._open.add(errand.id)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread.start()
        self._loop.call_soon_threadsafe(self._start, errand)

    def results(self) -> list[ErrandResult]:
        with self._lock:
            taken, self._results = self._results, []
            self._open -= {result.id for result in taken}
        return taken

    def open(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._open)

    def close(self) -> None:
        with self._lock:
            self._is_closed, loop = True, self._loop
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout=5)

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        loop.run_forever()
        for task in self._tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        if self._client is not None:
            loop.run_until_complete(self._client.aclose())
        loop.close()

    def _start(self, errand: Errand) -> None:
        task = asyncio.ensure_future(self._carry_out(errand))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, errand: Errand) -> None:
        try:
            result = await self._asked(errand)
        except (httpx.HTTPError, TimeoutError) as error:
            result = ErrandResult(id=errand.id, status=0, problem=f"no answer ({type(error).__name__})")
        except Exception as error:
            log.exception("call %s cannot be made", errand.id)
            result = ErrandResult(id=errand.id, status=0, problem=f"it cannot be called ({type(error).__name__})")
        with self._lock:
            self._results.append(result)
        self.done()

    async def _asked(self, errand: Errand) -> ErrandResult:
        if self._client is None:
            # No proxy, cookie or credential of this machine goes along. A connection is not kept: replicas come and go.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._client = httpx.AsyncClient(timeout=_LONGEST_S, trust_env=False, limits=limits)
        # Packed answers are not asked for and not unpacked: a small one could become as large as it liked.
        headers = {
            "authorization": f"Bearer {errand.token}",
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        async with asyncio.timeout(errand.timeout_s):
            async with self._client.stream("POST", errand.url, content=errand.body, headers=headers) as answer:
                content = b""
                async for chunk in answer.aiter_raw():
                    content += chunk
                    if len(content) > errand.max_bytes:
                        break
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return ErrandResult(
            id=errand.id, status=answer.status_code, content=content[: errand.max_bytes + 1], is_json=is_json
        )
