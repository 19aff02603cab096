"""The REST app: a route for every operation, and the few others that stand in `OPEN`, `GUARDED`, `SIGNED` and `SOCKETS`.

Every route of the app is in exactly one of these five; a test walks the app and fails on any other door.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import anyio.from_thread
import anyio.to_thread
import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp

from skyloom import __version__
from skyloom.cloud import Cloud
from skyloom.core.bounds import Digest
from skyloom.core.errors import SkyloomError
from skyloom.core.operation import Caller, Operation, Right
from skyloom.faces.rest import openapi
from skyloom.faces.rest.errors import InvalidRequest, NoRoute, answer
from skyloom.faces.rest.guard import Guard
from skyloom.faces.rest.metrics import Endpoint, Requests, written
from skyloom.faces.rest.requests import checked, read, secret_of
from skyloom.faces.rest.sockets import attend
from skyloom.ports.blobs import BlobMissing, Blobs
from skyloom.ports.tables import Tables
from skyloom.rooms.data.model import GetDataset, GetVersion
from skyloom.rooms.devices.service import Devices
from skyloom.rooms.jobs.sessions import Sessions
from skyloom.rooms.overview.model import GetStatus
from skyloom.rooms.tenancy.rules import permit_right
from skyloom.rooms.triggers.model import MAX_HOOK_BYTES
from skyloom.tables.parquet import as_parquet

_MAX_CAUSE = 120
OPEN = ("/healthz", "/readyz", "/openapi.json")
_FILE = "/v1/projects/{project}/devices/{device}/blobs/{digest}"
_ROWS = "/v1/projects/{project}/datasets/{dataset}/versions/{reference}/rows.parquet"
GUARDED: dict[tuple[str, str], Right] = {
    ("GET", "/metrics"): Right.READ,
    ("PUT", "/v1/projects/{project}/blobs/{digest}"): Right.WRITE,
    ("HEAD", "/v1/projects/{project}/blobs/{digest}"): Right.READ,
    ("GET", "/v1/projects/{project}/blobs/{digest}"): Right.READ,
    ("GET", _FILE): Right.DEVICE,
    ("GET", _ROWS): Right.READ,
}
SIGNED = ("/v1/hooks/{trigger}",)
"""Taken without a token: whoever calls knows the secret that the call is signed with."""
SOCKETS: dict[str, Right] = {"/v1/projects/{project}/sessions/{session_id}": Right.RUN}
TakeCall = Callable[[str, str, bytes], str]  # trigger, signature, body → what it became
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})


def make_app(
    cloud: Cloud,
    blobs: Blobs,
    operations: Sequence[type[Operation[Any]]],
    *,
    tables: Tables,
    sessions: Sessions,
    devices: Devices,
    take_call: TakeCall,
    registry: CollectorRegistry,
    hosts: frozenset[str] = LOOPBACK,
) -> ASGIApp:
    """Build the ASGI app of one cloud."""
    requests = Requests(registry)
    routes: list[BaseRoute] = [
        Route(
            operation.route.full_path,
            requests.timed(operation.route.name, partial(_carry_out, cloud, operation)),
            methods=[operation.route.verb.value],
            name=operation.route.name,
        )
        for operation in operations
    ]
    # Made when somebody asks: it takes as long as all the rest of the app.
    routes += _open_routes(cloud, cache(partial(openapi.document, operations, __version__)))
    routes += _guarded_routes(cloud, blobs, tables, registry, devices)
    routes += [Route(path, _answering(partial(_signed, take_call)), methods=["POST"]) for path in SIGNED]
    routes += [WebSocketRoute(path, partial(attend, cloud, sessions, right)) for path, right in SOCKETS.items()]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route, Exception: _failed})
    return Guard(app, hosts)


async def _no_route(request: Request, error: Exception) -> Response:
    """What the router itself refuses: a path or a method that no route has."""
    assert isinstance(error, HTTPException), "it is registered for no other"
    refused = NoRoute(
        f"{request.method} {request.url.path[:200]}: there is no such route.", next_action="Read /openapi.json."
    )
    response = answer(refused)
    return Response(response.body, error.status_code, error.headers, "application/json")


async def _failed(_request: Request, error: Exception) -> Response:
    return answer(error)


async def _carry_out(cloud: Cloud, operation: type[Operation[Any]], request: Request) -> Response:
    try:
        secret, project = secret_of(request), request.path_params.get("project", "")
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= 200:
            raise InvalidRequest("The Idempotency-Key is empty or too long.", next_action="Use 1 to 200 characters.")
        because = request.headers.get("skyloom-because", "")[:_MAX_CAUSE]
        body = await request.body()

        def work() -> bytes:
            # The token is looked at before the body is parsed: strangers learn nothing from our validation.
            by = cloud.authenticate(secret, project)
            if because:
                by = msgspec.structs.replace(by, because=because)
            ask = read(operation, request, body)
            return msgspec.json.encode(cloud.do(ask, by, key))

        # One visit to one worker thread: every hop between threads costs more than the work itself.
        made = await anyio.to_thread.run_sync(work)
        return Response(made, media_type="application/json")
    except Exception as error:
        return answer(error)


def _open_routes(cloud: Cloud, described: Callable[[], bytes]) -> Iterator[BaseRoute]:
    async def healthy(_request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def ready(request: Request) -> Response:
        try:
            await anyio.to_thread.run_sync(cloud.check)
        except SkyloomError as error:
            return answer(error)
        return await healthy(request)

    async def document(_request: Request) -> Response:
        return Response(await anyio.to_thread.run_sync(described), media_type="application/json")

    for path, endpoint in zip(OPEN, (healthy, ready, document), strict=True):
        yield Route(path, endpoint, methods=["GET"])


def _guarded_routes(
    cloud: Cloud, blobs: Blobs, tables: Tables, registry: CollectorRegistry, devices: Devices
) -> Iterator[BaseRoute]:
    async def admit(request: Request, right: Right) -> Caller:
        by = await anyio.to_thread.run_sync(
            cloud.authenticate, secret_of(request), request.path_params.get("project", "")
        )
        permit_right(right, by, request.url.path)
        return by

    async def metrics(request: Request) -> Response:
        by = await admit(request, Right.READ)
        status = await anyio.to_thread.run_sync(cloud.do, GetStatus(), by)
        return Response(generate_latest(registry) + written(status), media_type="text/plain; version=0.0.4")

    async def upload(request: Request) -> Response:
        await admit(request, Right.WRITE)
        stored = await anyio.to_thread.run_sync(blobs.put, _body(request), _digest(request))
        return Response(msgspec.json.encode({"digest": stored[0], "size_bytes": stored[1]}), 201)

    async def download(request: Request) -> Response:
        await admit(request, Right.READ)
        return await sent(request, 0)

    async def file_of_device(request: Request) -> Response:
        by = await admit(request, Right.DEVICE)
        await anyio.to_thread.run_sync(devices.check_file, by, request.path_params["device"], _digest(request))
        return await sent(request, _offset(request))

    async def sent(request: Request, offset: int) -> Response:
        digest = _digest(request)
        size = await anyio.to_thread.run_sync(blobs.size, digest)
        if size is None:
            raise BlobMissing(f"There is no blob {digest}.", next_action="Upload it first.")
        headers = {"content-length": str(max(0, size - offset))}
        if request.method == "HEAD" or offset >= size:
            return Response(None, 200, headers, "application/octet-stream")
        return StreamingResponse(blobs.open(digest, offset), 200, headers, "application/octet-stream")

    async def rows(request: Request) -> Response:
        by = await admit(request, Right.READ)

        def opened() -> Iterator[bytes]:
            asked = {name: request.path_params[name] for name in ("dataset", "reference")}
            version = cloud.do(checked(GetVersion, asked), by)
            table = cloud.do(GetDataset(dataset=version.dataset_id), by).table
            return as_parquet(tables, table, version.number)

        return StreamingResponse(await anyio.to_thread.run_sync(opened), 200, {}, "application/vnd.apache.parquet")

    routes = {"/metrics": metrics, "PUT": upload, "GET": download, "HEAD": download, _FILE: file_of_device, _ROWS: rows}
    for method, path in GUARDED:
        yield Route(path, _answering(routes.get(path) or routes[method]), methods=[method])


async def _signed(take_call: TakeCall, request: Request) -> Response:
    """A call of a trigger's signed address. No more of its body is read than may be in it."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_HOOK_BYTES:
            break
    signature = request.headers.get("skyloom-signature", "")
    taken = await anyio.to_thread.run_sync(take_call, request.path_params["trigger"], signature, body)
    return Response(msgspec.json.encode({"id": taken}), 202, media_type="application/json")


def _answering(endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:
            return answer(error)

    return guarded


def _digest(request: Request) -> str:
    try:
        return msgspec.convert(request.path_params["digest"], Digest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            "A blob is named by 'sha256:' and 64 hex digits.", next_action="Digest the bytes with SHA-256."
        ) from error


def _offset(request: Request) -> int:
    """Where a file is to be gone on with."""
    text = request.query_params.get("offset", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidRequest("The offset is no number of bytes.", next_action="Write how many bytes are there already.")
    return int(text)


def _body(request: Request) -> Iterator[bytes]:
    """The body of a request, pulled chunk by chunk from a worker thread."""
    stream = request.stream().__aiter__()

    async def following() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(following)) is not None:
        if chunk:
            yield chunk
