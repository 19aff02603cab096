"""Telling the control plane something over HTTP/1.1, with the standard library alone.

A replica or a gateway starts while somebody waits for it: the SDK's client costs it 0.1 s and 15 MB, for one small request a second.
"""

import http.client
import ssl
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from skyloom.core.errors import ErrorBody, Unavailable, rebuild
from skyloom.core.operation import Operation
from skyloom.settings import TaskEnvironment

A = TypeVar("A")
_MAX_ANSWER_BYTES = 2**20


class Untold(Unavailable):
    """Nobody who can be understood answered. Tell it again later."""


class Teller:
    """Sends operations with a task's own token, over one connection that is made again when it broke. For one thread at a time."""

    def __init__(self, task: TaskEnvironment, timeout_s: float) -> None:
        place = urlsplit(task.url)
        self._project = task.project
        self._headers = {"authorization": f"Bearer {task.token}", "content-type": "application/json"}
        self._base = place.path.rstrip("/")
        if place.scheme == "https":
            self._line: http.client.HTTPConnection = http.client.HTTPSConnection(
                place.netloc, timeout=timeout_s, context=ssl.create_default_context()
            )
        else:
            self._line = http.client.HTTPConnection(place.netloc, timeout=timeout_s)

    def send(self, ask: Operation[A], key: str) -> A:
        """Send one operation that has a body. Raises `Untold`, and what the control plane raised."""
        route = ask.route
        fields = {name: getattr(ask, name) for name in ask.__struct_fields__}
        named = {name: quote(str(fields.pop(name)), safe="") for name in route.path_fields}
        path = self._base + route.full_path.format(project=quote(self._project, safe=""), **named)
        status, content = self._asked(route.verb.value, path, msgspec.json.encode(fields), key)
        try:
            if 200 <= status < 300:
                return msgspec.json.decode(content, type=route.answer)  # type: ignore[no-any-return]
            raise rebuild(msgspec.json.decode(content, type=ErrorBody))
        except msgspec.MsgspecError as error:
            raise _untold(f"HTTP {status}") from error

    def close(self) -> None:
        """Let go of the connection."""
        self._line.close()

    def _asked(self, verb: str, path: str, body: bytes, key: str) -> tuple[int, bytes]:
        try:
            self._line.request(verb, path, body, {**self._headers, "idempotency-key": key})
            answer = self._line.getresponse()
            content = answer.read(_MAX_ANSWER_BYTES)
            if not answer.isclosed():
                self._line.close()
            return answer.status, content
        except (OSError, http.client.HTTPException) as error:
            self._line.close()  # the next request opens it again
            raise _untold(type(error).__name__) from error


def _untold(why: str) -> Untold:
    return Untold(f"The control plane was told nothing: {why}.", next_action="It is told again in a moment.")
