"""The transport over HTTP. Retries what is safe to retry, for a bounded time, and turns error bodies back into exceptions."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from skyloom.core.errors import ErrorBody, SkyloomError, Unavailable, rebuild
from skyloom.core.operation import Operation
from skyloom.sdk.transport import PATIENCE_S

A = TypeVar("A")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


class CloudUnreachable(Unavailable):
    """Nobody answers at the control plane's address.

    Attributes:
        had_answered: it did before, on the same transport: this is an outage and no wrong address.
    """

    had_answered = False


class AnswerUnreadable(Unavailable):
    """What answered is not a Skyloom control plane, or one of another version."""


class HttpTransport:
    """Speaks to a control plane at ``url``.

    Args:
        patience_s: how long to go on trying while nobody answers; a task inside of a job has much, a person little.
        timeout_s: how long one answer may take.
        wait_for_space: wait out a full disk of the control plane like an outage: a program can, a person wants to know.
        because: id of the delivery of a trigger that all of this is done for.
    """

    def __init__(
        self,
        url: str,
        token: str,
        project: str,
        *,
        patience_s: float = PATIENCE_S,
        timeout_s: float = 60.0,
        wait_for_space: bool = False,
        because: str = "",
    ) -> None:
        self.url = url.rstrip("/")
        self.project = project
        self.token = token
        self.patience_s = patience_s
        self._had_answered = False
        self._passing = {503, 507} if wait_for_space else {503}
        self._client = connection(self.url, timeout_s)
        self._client.headers["authorization"] = f"Bearer {token}"
        if because:
            self._client.headers["skyloom-because"] = because

    def send(self, ask: Operation[A], key: str | None = None) -> A:
        route = ask.route
        fields = {name: getattr(ask, name) for name in ask.__struct_fields__}
        path = self._path(route.full_path, {name: str(fields.pop(name)) for name in route.path_fields})
        if route.has_body:
            headers = {"content-type": "application/json", "idempotency-key": key or secrets.token_hex(16)}
            request = self._client.build_request(
                route.verb.value, path, content=msgspec.json.encode(fields), headers=headers
            )
        else:
            query = {name: _text(value) for name, value in fields.items() if value is not None}
            request = self._client.build_request(route.verb.value, path, params=query)
        response = self._sent(request)
        try:
            answer: A = msgspec.json.decode(response.content, type=route.answer)
            return answer
        except msgspec.MsgspecError as error:
            raise AnswerUnreadable(
                f"The answer of {self.url} to {route.name} cannot be read: {error}.",
                next_action="Check the address, and that client and control plane have the same version.",
            ) from error

    def upload(self, chunks: Callable[[], Iterable[bytes]], digest: str) -> None:
        path = self._path("/v1/projects/{project}/blobs/", {}) + digest
        if self._tried(lambda: self._client.head(path)).status_code == 200:
            return
        check(self._tried(lambda: self._client.put(path, content=chunks())))

    def download(self, digest: str) -> Iterator[bytes]:
        path = self._path("/v1/projects/{project}/blobs/", {}) + digest
        with self._client.stream("GET", path) as response:
            if response.status_code != 200:
                response.read()
                check(response)
            yield from response.iter_bytes()

    def close(self) -> None:
        self._client.close()

    def _path(self, pattern: str, named: dict[str, str]) -> str:
        named = {"project": self.project, **named}
        return pattern.format(**{name: quote(value, safe="") for name, value in named.items()})

    def _sent(self, request: httpx.Request) -> httpx.Response:
        # Changes carry their key and the rest only looks, so everything may be sent again.
        return check(self._tried(lambda: self._client.send(request)))

    def _tried(self, attempt: Callable[[], httpx.Response]) -> httpx.Response:
        deadline, pause_s = time.monotonic() + self.patience_s, _FIRST_PAUSE_S
        while True:
            try:
                response = attempt()
                self._had_answered = True
                if response.status_code not in self._passing or time.monotonic() + pause_s > deadline:
                    return response
            except httpx.TransportError as error:
                if time.monotonic() + pause_s > deadline:
                    raise self._unreachable(error) from error
            time.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    def _unreachable(self, error: httpx.TransportError) -> CloudUnreachable:
        unreachable = CloudUnreachable(
            f"Nobody answers at {self.url} ({type(error).__name__}).",
            next_action="Start the cloud (skyloom up), or set SKYLOOM_URL.",
        )
        unreachable.had_answered = self._had_answered
        return unreachable


def connection(url: str, timeout_s: float = 60.0) -> httpx.Client:
    """A client for one server. Certificates are read only where there is TLS: that alone takes longer than most requests."""
    return httpx.Client(
        base_url=url,
        timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
        trust_env=False,
        verify=url.startswith("https://"),
    )


def check(response: httpx.Response) -> httpx.Response:
    """Return a good response; raise what a bad one says."""
    if response.is_success:
        return response
    try:
        error: SkyloomError = rebuild(msgspec.json.decode(response.content, type=ErrorBody))
    except msgspec.MsgspecError:
        error = AnswerUnreadable(
            f"{response.url} answered {response.status_code}, and not in the way of a Skyloom control plane.",
            next_action="Check SKYLOOM_URL: does another program listen there?",
        )
    raise error


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(getattr(value, "value", value))
