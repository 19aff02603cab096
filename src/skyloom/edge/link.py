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


class AuthorityUnreadable(InvalidInput):
    """The file that should hold certificates to trust holds none."""


class CloudLink:
    """Speaks to one cloud as one device. Not thread-safe.

    Args:
        url: ``http://…`` or ``https://…``; a path before the API's own is kept.
        authority: file with the certificates that are trusted instead of the system's; empty for the system's.
        proxy: ``http://HOST:PORT`` of what stands between; with TLS it sees where to, and not what.
        timeout_s: how long nothing may come.

    Raises `AddressUnreadable` and `AuthorityUnreadable`.
    """

    def __init__(
        self, url: str, project: str, token: str, *, authority: str = "", proxy: str = "", timeout_s: float = 20.0
    ) -> None:
        self._host, self._port, self._scheme, self._path = _address(url)
        self._proxy = _proxy(proxy) if proxy else None
        if self._proxy and self._scheme == "http":  # a proxy is told the whole address
            self._path = f"http://{self._host}:{self._port}{self._path}"
        self._project = project
        self._trust = _trust(authority) if self._scheme == "https" else None
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
            raise self._down(_why(error)) from error
        if status != 200:
            raise self._refusal(status, body)
        try:
            answer: A = msgspec.json.decode(body, type=route.answer)
            return answer
        except msgspec.MsgspecError as error:
            raise self._down("its answer cannot be read") from error

    def fetch(self, device: str, digest: str, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a file from an offset on. Raises `LinkDown`, and what the cloud refuses with."""
        path = f"/v1/projects/{quote(self._project, safe='')}/devices/{device}/blobs/{digest}?offset={offset}"
        connection = self._connection()
        try:
            connection.request("GET", self._path + path, headers=self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.read(_PIECE_BYTES))
            while piece := response.read(_PIECE_BYTES):
                yield piece
            if response.length:  # a read that is cut off ends like one that is complete
                raise self._down("its answer was cut off")
        except _TRANSPORT as error:
            raise self._down(_why(error)) from error
        finally:
            connection.close()

    def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request(method, self._path + path, body=body, headers=self._headers)
            response = connection.getresponse()
            content = response.read(_MAX_ANSWER_BYTES + 1)
            if len(content) > _MAX_ANSWER_BYTES:
                raise self._down("its answer is too large")
            return response.status, content
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._proxy or (self._host, self._port)
        if self._trust is None:
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._trust)
        if self._proxy:
            connection.set_tunnel(self._host, self._port)
        return connection

    def _refusal(self, status: int, body: bytes) -> SkyloomError:
        try:
            return rebuild(msgspec.json.decode(body, type=ErrorBody))
        except msgspec.MsgspecError:
            return self._down(f"it answers {status}, and not as a Skyloom cloud")

    def _down(self, why: str) -> LinkDown:
        return LinkDown(
            f"The cloud at {self._scheme}://{self._host}:{self._port} cannot be asked: {why}.",
            next_action="It is tried again; check the address and the network if this stays.",
        )


def _address(url: str) -> tuple[str, int, str, str]:
    """Host, port, scheme and path of an address. Raises `AddressUnreadable`."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        host = (parts.hostname or "").encode("idna").decode() if ":" not in (parts.hostname or "") else parts.hostname
    except ValueError:  # a port beyond all ports, half a bracket, a label that is too long
        parts, host, port = urlsplit(""), "", 0
    if (
        parts.scheme not in ("http", "https")
        or not host
        or not port
        or not url.isprintable()
        or " " in url
        or parts.username
        or parts.query
        or parts.fragment
    ):
        raise AddressUnreadable(f"{url[:200]!r} is no address of a cloud.", next_action="Write http://HOST:PORT.")
    return host, port, parts.scheme, quote(parts.path.rstrip("/"), safe="/%")


def _proxy(address: str) -> tuple[str, int]:
    """Host and port of a proxy, which is spoken to without TLS. Raises `AddressUnreadable`."""
    host, port, scheme, path = _address(address)
    if scheme != "http" or path:
        raise AddressUnreadable(f"{address[:200]!r} is no proxy.", next_action="Write --proxy http://HOST:PORT.")
    return host, port


def _trust(authority: str) -> ssl.SSLContext:
    """Whose certificates are believed. Host names are checked. Raises `AuthorityUnreadable`."""
    try:
        return ssl.create_default_context(cafile=authority or None)
    except OSError as error:  # SSLError is one
        raise AuthorityUnreadable(
            f"No certificates can be read from {authority}: {error.strerror or error}.",
            next_action="Join again with --ca FILE, a file in PEM form.",
        ) from error


def _why(error: Exception) -> str:
    """What went wrong, in the system's own words where it has any."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed ({error.verify_message})"
    return str(getattr(error, "strerror", "") or "") or type(error).__name__
