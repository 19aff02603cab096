"""Bytes ↔ operations: how the fields of a request are spread over path, query and body."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import HTTPConnection, Request

from skyloom.core.operation import Operation
from skyloom.faces.rest.errors import InvalidRequest

Ask = TypeVar("Ask", bound=Operation[Any])


def read(kind: type[Operation[Any]], request: Request, body: bytes) -> Operation[Any]:
    """Build the operation that a request means. Raises `InvalidRequest` naming the field."""
    in_path = {name: request.path_params[name] for name in kind.route.path_fields}
    try:
        if not kind.route.has_body:
            return _convert({**_query(request.query_params), **in_path}, kind, strict=False)
        fields = msgspec.json.decode(body or b"{}", type=dict[str, Any])
        return _convert({**fields, **in_path}, kind, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"{kind.route.name}: {error}.", next_action="Correct that field; /openapi.json describes them all."
        ) from error


def secret_of(request: HTTPConnection) -> str:
    """The token that a request shows; empty when it shows none."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and len(secret) < 1_000 else ""


def checked(kind: type[Ask], fields: Mapping[str, str]) -> Ask:
    """An operation from the words of a path that is no operation's own. Raises `InvalidRequest`."""
    try:
        made: Ask = msgspec.convert(dict(fields), kind, strict=False)
        return made
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{error}.", next_action="Correct the address.") from error


def _convert(fields: dict[str, Any], kind: type[Operation[Any]], *, strict: bool) -> Operation[Any]:
    ask: Operation[Any] = msgspec.convert(fields, kind, strict=strict, str_keys=True)
    return ask


def _query(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value != ""}
