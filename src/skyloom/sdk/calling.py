"""Calls to the endpoints of a service, straight at its model server: whole answers, and answers in parts."""

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from skyloom.core.errors import InternalError, InvalidInput, Unavailable
from skyloom.rooms.serving.model import EndpointStatus
from skyloom.sdk.http import connection
from skyloom.sdk.transport import PATIENCE_S
from skyloom.sdk.waiting import retries

# Answers that say: not begun, ask again. Anything else may have begun, and a call may do something twice.
_NOT_BEGUN = frozenset({"service_restarting", "service_full", "replica_draining"})


class ModelServerSilent(Unavailable):
    """Nobody answers at the endpoint's address, or it answers that it cannot now."""


class CallRefused(InvalidInput):
    """The service refuses the arguments; the message is its own."""


class CallFailed(InternalError):
    """The endpoint failed; the message is its own."""


class Calling:
    """Calls to the endpoints of one service, straight at the model server.

    Args:
        is_function: it was deployed as a function, whose words in the terminal are others.
    """

    def __init__(self, status: EndpointStatus, token: str, is_function: bool = False) -> None:
        self._status = status
        self._show = f"skyloom {'function' if is_function else 'endpoint'} show {status.endpoint.name}"
        log = f"skyloom function logs {status.endpoint.name}"
        self._log = log if is_function else f"{self._show} names its jobs; skyloom job logs JOB"
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """The whole answer, as JSON gives it back; raw bytes as bytes. Raises `CallRefused`, `CallFailed`, `ModelServerSilent`."""
        with connection(self._status.url) as wire, self._begun(wire, method, arguments) as answer:
            content = answer.read()
            if answer.headers.get("content-type") == "application/octet-stream":
                return content
            return msgspec.json.decode(content)

    def stream(self, method: str, arguments: dict[str, Any]) -> Iterator[Any]:
        """The parts of an answer, as they come. Raises as `call` does, in the middle too."""
        with connection(self._status.url) as wire, self._begun(wire, method, arguments) as answer:
            name, data = "", []
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data.append(line[6:])
                elif not line and data:
                    value, data = msgspec.json.decode("\n".join(data)), []
                    if name == "error":
                        raise CallFailed(str(value["error"]), next_action=f"Read its log: {self._log}.")
                    if name == "done":
                        return
                    yield value
            raise self._silent("the stream ended early")

    def _begun(self, wire: httpx.Client, method: str, arguments: dict[str, Any]) -> contextlib.closing[httpx.Response]:
        """An answer whose head is there and good, in a context that closes it."""
        content = msgspec.json.encode(arguments, enc_hook=plain)
        problem = ""
        for _ in retries(PATIENCE_S):
            request = wire.build_request("POST", f"{self._status.url}/{method}", content=content, headers=self._headers)
            try:
                answer = wire.send(request, stream=True)
            except httpx.ConnectError as error:
                problem = type(error).__name__
            except httpx.TransportError as error:  # it may have begun: whether to call again is the caller's to say
                raise self._silent(type(error).__name__) from error
            else:
                if answer.status_code == 200:
                    return contextlib.closing(answer)
                problem, code = _said(answer)
                if code not in _NOT_BEGUN:
                    raise self._refusal(answer.status_code, problem)
        raise self._silent(problem)

    def _refusal(self, status: int, problem: str) -> Exception:
        if status == 503:
            return self._silent(problem)
        if status >= 500:
            return CallFailed(problem, next_action=f"Read its log: {self._log}.")
        return CallRefused(
            problem if problem[-1:] in ".!?" else f"{problem}.", next_action=f"See: {self._status.url}/openapi.json."
        )

    def _silent(self, problem: str) -> ModelServerSilent:
        name = self._status.endpoint.name
        return ModelServerSilent(f"Endpoint {name} does not answer: {problem}.", next_action=f"See: {self._show}.")


def _said(answer: httpx.Response) -> tuple[str, str]:
    try:
        told = msgspec.json.decode(answer.read())
        return str(told["error"]), str(told["code"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return f"HTTP {answer.status_code}", ""


def plain(value: Any) -> Any:
    """Arrays as nested lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise CallRefused(f"A {type(value).__name__} cannot be sent.", next_action="Send plain values or arrays.")
