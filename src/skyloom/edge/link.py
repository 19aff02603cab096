"""Calling the cloud: outgoing HTTP with the standard library alone. A device never listens for anybody but itself."""

import http.client
import ssl
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from skyloom.core.errors import ErrorBody, InvalidInput, SkyloomError, Unavailable, rebuild
from skyloom.core.operation import Operation

A = TypeVar("A")
_MAX_ANSWER_BYTES = 8 * 2**20
_PIECE_BYTES = 2**16
_TRANSPORT = (OSError, http.client.HTTPException, ssl.SSLError)


class LinkDown(Unavailable):
    """The cloud cannot be reached now, or what answers is not one."""


class AddressUnreadable(InvalidInput):
    """The address of the cloud is none."""


class CloudLink:
    """Speaks to one cloud as one device. Not thread-safe.

    Args:
        url: ``http://…`` or ``https://…``; a path before the API's own is kept.
        authority: file with the certificates that are trusted instead of the system's; empty for the system's.
        timeout_s: how long nothing may come.
    """

    def __init__(self, url: str, project: str, token: str, *, authority: str = "", timeout_s: float = 20.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise AddressUnreadable(f"{url!r} is no address of a cloud.", next_action="Write http://HOST:PORT.")
        self._parts = parts
        self._project = project
        self._authority = authority
        self._timeout_s = timeout_s
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def ask(self, ask: Operation[A], fields: dict[str, Any] | None = None) -> A:
        """Send an operation that is a POST. ``fields`` stand in the place of its own, already encoded ones included.

        Raises what the operation raises, and `LinkDown`.
        """
        route = ask.route
        told = {name: getattr(ask, name) for name in ask.__struct_fields__} | (fields or {})
        in_path = {name: quote(str(told.pop(name)), safe="") for name in route.path_fields}
        path = route.full_path.format(project=quote(self._project, safe=""), **in_path)
        try:
            status, body = self._exchange(route.verb.value, path, msgspec.json.encode(told))
        except _TRANSPORT as error:
            raise self._down(type(error).__name__) from error
        if status != 200:
            raise self._refusal(status, body)
        try:
            return msgspec.json.decode(body, type=route.answer)  # type: ignore[no-any-return]
        except msgspec.MsgspecError as error:
            raise self._down("its answer cannot be read") from error

    def fetch(self, device: str, digest: str, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a file from an offset on. Raises `LinkDown`, and what the cloud refuses with."""
        path = f"/v1/projects/{quote(self._project, safe='')}/devices/{device}/blobs/{digest}?offset={offset}"
        connection = self._connection()
        try:
            connection.request("GET", self._parts.path.rstrip("/") + path, headers=self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.read(_PIECE_BYTES))
            while piece := response.read(_PIECE_BYTES):
                yield piece
        except _TRANSPORT as error:
            raise self._down(type(error).__name__) from error
        finally:
            connection.close()

    def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body=body, headers=self._headers)
            response = connection.getresponse()
            content = response.read(_MAX_ANSWER_BYTES + 1)
            if len(content) > _MAX_ANSWER_BYTES:
                raise self._down("its answer is too large")
            return response.status, content
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        context = ssl.create_default_context(cafile=self._authority or None)
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)

    def _refusal(self, status: int, body: bytes) -> SkyloomError:
        try:
            return rebuild(msgspec.json.decode(body, type=ErrorBody))
        except msgspec.MsgspecError:
            return self._down(f"it answers {status}, and not as a Skyloom cloud")

    def _down(self, why: str) -> LinkDown:
        return LinkDown(
            f"The cloud at {self._parts.scheme}://{self._parts.netloc} cannot be asked: {why}.",
            next_action="It is tried again; check the address and the network if this stays.",
        )
