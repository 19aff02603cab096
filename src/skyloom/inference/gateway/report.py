"""Tells the control plane what the gateway sees. Spoken directly: the SDK's client would triple the gateway's memory."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, quote, urlsplit

import httptools
import msgspec

from skyloom.rooms.serving.model import Reported, ReportRoutes
from skyloom.rooms.serving.routes import RouteTraffic
from skyloom.settings import TaskEnvironment

_PERIOD_S = 1.0
_EAGER_S = 0.1  # when somebody waits for a replica that is not there, a second is a long time
_TIMEOUT_S = 2.0
_MAX_ANSWER_BYTES = 2**16


class RouteReporter:
    """Sends `ReportRoutes` with the task's own token. An outage loses nothing: the numbers are totals.

    Args:
        look: what is seen now; its means begin anew.
        ready: the gateway takes requests.
        stop: called when the control plane says that this gateway is not wanted any more.
    """

    def __init__(
        self,
        gateway: str,
        task: TaskEnvironment,
        look: Callable[[], Sequence[RouteTraffic]],
        ready: Callable[[], bool],
        stop: Callable[[], None],
    ) -> None:
        self._gateway = gateway
        self._task = task
        self._url = urlsplit(task.url)
        self._look = look
        self._ready = ready
        self._stop = stop
        self._hurry = asyncio.Event()
        self._complaint = ""

    def hurry(self) -> None:
        """Report soon, not in a second."""
        self._hurry.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self.send()
            await asyncio.sleep(_EAGER_S)
            try:
                async with asyncio.timeout(_PERIOD_S - _EAGER_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()

    async def send(self) -> None:
        """Report once; nobody there is no error, the next report says it all again."""
        ask = ReportRoutes(gateway=self._gateway, ready=self._ready(), routes=tuple(self._look()))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await _exchange(self._url, _written(ask, self._task, self._url))
            if answer.status == 200 and msgspec.json.decode(answer.body, type=Reported).stop:
                self._stop()
        except (OSError, TimeoutError):
            return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, msgspec.MsgspecError) as error:
            self._complain(f"with what cannot be read: {error}")
            return
        self._complain("" if answer.status == 200 else f"with {answer.status}")

    def _complain(self, what: str) -> None:
        """Say once what is wrong with the answers."""
        if what and what != self._complaint:
            print(f"the control plane answers a report {what}", file=sys.stderr, flush=True)
        self._complaint = what


class ControlAnswer:
    """The control plane's answer, as httptools reads it."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.body = b""
        self.is_whole = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.is_whole = True


def _written(ask: ReportRoutes, task: TaskEnvironment, url: SplitResult) -> bytes:
    route = ask.route
    path = route.full_path.format(project=quote(task.project, safe=""), gateway=quote(ask.gateway, safe=""))
    body = msgspec.json.encode({"ready": ask.ready, "routes": ask.routes})
    head = (
        f"{route.verb.value} {url.path.rstrip('/')}{path} HTTP/1.1\r\nhost: {url.netloc}\r\nconnection: close\r\n"
        f"authorization: Bearer {task.token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _exchange(url: SplitResult, content: bytes) -> ControlAnswer:
    secure = url.scheme == "https"
    reader, writer = await asyncio.open_connection(
        url.hostname, url.port or (443 if secure else 80), ssl=secure or None
    )
    answer, left = ControlAnswer(), _MAX_ANSWER_BYTES
    try:
        writer.write(content)
        await writer.drain()
        while not answer.is_whole and left > 0 and (part := await reader.read(left)):
            answer.parser.feed_data(part)
            left -= len(part)
    finally:
        writer.transport.abort()
    return answer
