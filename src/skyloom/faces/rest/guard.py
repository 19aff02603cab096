"""What every request passes before any route: the Host allow-list, the bound on bodies, the headers that browsers obey.

A local server is attacked by web pages (DNS rebinding, simple cross-site requests); this is the answer to them.
"""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skyloom.core.errors import SkyloomError
from skyloom.faces.rest.errors import (
    BodyTooLarge,
    ContentTypeRefused,
    HeaderTwice,
    HostRefused,
    OriginRefused,
    answer,
    refuse,
)

MAX_JSON_BYTES = 8 * 2**20
# Nothing but the upload itself: a model may be called "blobs", and its routes take JSON like all others.
_UPLOAD = re.compile(r"/v1/projects/[^/]+/blobs/[^/]+")
_ONCE = (b"host", b"content-type", b"content-length", b"authorization")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """A pure ASGI wrapper around the app."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        try:
            is_upload = _check(scope, self._hosts)
        except SkyloomError as error:
            await answer(error)(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive if is_upload else _bounded(receive), _with_headers(send))

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A socket is no place for web pages: a browser always says where a page comes from, and other programs do not."""
        try:
            if b"origin" in _check_address(scope, self._hosts):
                raise OriginRefused(
                    "Web pages may not open a socket here.",
                    next_action="Use skyloom job exec, or skyloom job port-forward.",
                )
        except SkyloomError as error:
            await refuse(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _check_address(scope: Scope, hosts: frozenset[str]) -> dict[bytes, bytes]:
    """The headers of a request whose deciding ones came once, and whose Host is one of ours."""
    names = [name for name, _ in scope["headers"]]
    twice = next((name for name in _ONCE if names.count(name) > 1), None)
    if twice is not None:
        raise HeaderTwice(
            f"The header {twice.decode()!r} came twice.",
            next_action="Send it once: which of the two counts is unclear.",
        )
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].lower()
    if host not in hosts:
        raise HostRefused(
            f"This server does not answer for the host {host[:100]!r}.",
            next_action="Use the address that `skyloom status` shows.",
        )
    return headers


def _check(scope: Scope, hosts: frozenset[str]) -> bool:
    headers = _check_address(scope, hosts)
    is_upload = scope["method"] == "PUT" and _UPLOAD.fullmatch(scope["path"]) is not None
    if scope["method"] not in {"GET", "HEAD", "DELETE"} and not is_upload:
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ContentTypeRefused(
                f"The content type {kind.decode('latin-1')[:60]!r} is not taken here.",
                next_action="Send application/json.",
            )
        length = headers.get(b"content-length", b"0")
        if len(length) > 18 or not length.isdigit() or int(length) > MAX_JSON_BYTES:
            raise too_large()
    return is_upload


def too_large() -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than {MAX_JSON_BYTES} bytes.",
        next_action="Upload large bytes as a blob and send its digest.",
    )


def _bounded(receive: Receive) -> Receive:
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_JSON_BYTES:
            raise too_large()
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return sending
