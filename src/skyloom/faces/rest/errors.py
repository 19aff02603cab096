"""Errors as HTTP: the one place where a category becomes a status."""

import logging
import uuid

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from skyloom.core.errors import Category, InternalError, InvalidInput, NotFound, SkyloomError

log = logging.getLogger("skyloom")

STATUS = {
    Category.INVALID: 422,
    Category.UNAUTHENTICATED: 401,
    Category.DENIED: 403,
    Category.NOT_FOUND: 404,
    Category.CONFLICT: 409,
    Category.LIMIT: 429,
    Category.STORAGE_FULL: 507,
    Category.UNAVAILABLE: 503,
    Category.INTERNAL: 500,
}


class InvalidRequest(InvalidInput):
    """The request is not what the operation takes."""


class NoRoute(NotFound):
    """The server has no such address, or it takes another method."""


class BodyTooLarge(InvalidInput):
    """The request's body is over the bound."""


class ContentTypeRefused(InvalidInput):
    """Changes take ``application/json``, which a foreign web page cannot send without asking first."""


class HostRefused(InvalidInput):
    """The Host header names no address of this server."""


class OriginRefused(InvalidInput):
    """A web page tries what only programs may."""


class HeaderTwice(InvalidInput):
    """A header that decides something came more than once."""


_STATUS_OF_CODE = {
    BodyTooLarge.code: 413,
    ContentTypeRefused.code: 415,
    HostRefused.code: 421,
    HeaderTwice.code: 400,
    OriginRefused.code: 403,
}


def answer(error: Exception) -> Response:
    """Any exception as a response. What is not ours is logged under an id and told as that id only."""
    if isinstance(error, ClientDisconnect):
        error = InvalidRequest("The connection ended before the body did.", next_action="Send the request again.")
    if not isinstance(error, SkyloomError):
        incident = uuid.uuid4().hex[:12]
        log.error("incident %s", incident, exc_info=error)
        error = InternalError(
            f"Something went wrong inside of Skyloom (incident {incident}).",
            next_action="Try again; if it stays, report it with the lines of this incident from the server's log.",
        )
    status = _STATUS_OF_CODE.get(error.code, STATUS[error.category])
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if status == 503:
        headers["retry-after"] = "1"
    return Response(msgspec.json.encode(error.body()), status, headers, "application/json")


def refuse(error: Exception) -> ASGIApp:
    """Any exception as the refusal of a socket, before it is accepted."""
    response = answer(error)

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        start = {
            "type": "websocket.http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
        await send(start)
        await send({"type": "websocket.http.response.body", "body": response.body})

    return refusing
