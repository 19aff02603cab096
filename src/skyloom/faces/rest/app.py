"""The REST app: a route for every operation, and the few others that stand in `OPEN`, `GUARDED` and `SOCKETS`.

Every route of the app is in exactly one of these four; a test walks the app and fails on any other door.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import anyio.from_thread
import anyio.to_thread
import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry, generate_latest

from skyloom import __version__
from skyloom.cloud import Cloud
from skyloom.core.bounds import Digest
from skyloom.core.errors import SkyloomError
from skyloom.core.operation import Caller, Operation, Right
from skyloom.faces.rest import openapi
from skyloom.faces.rest.errors import InvalidRequest, answer
from skyloom.faces.rest.guard import Asgi, Guard
from skyloom.faces.rest.metrics import Requests, written
from skyloom.faces.rest.requests import checked, read, secret_of
from skyloom.faces.rest.sockets import attend
from skyloom.ports.blobs import BlobMissing, Blobs
from skyloom.ports.tables import Tables
from skyloom.rooms.data.model import GetDataset, GetVersion
from skyloom.rooms.jobs.sessions import Sessions
from skyloom.rooms.overview.model import GetStatus
from skyloom.rooms.tenancy.rules import permit_right
from skyloom.tables.parquet import as_parquet

OPEN = ("/healthz", "/readyz", "/openapi.json")
_ROWS = "/v1/projects/{project}/datasets/{dataset}/versions/{reference}/rows.parquet"
GUARDED: dict[tuple[str, str], Right] = {
    ("GET", "/metrics"): Right.READ,
    ("PUT", "/v1/projects/{project}/blobs/{digest}"): Right.WRITE,
    ("HEAD", "/v1/projects/{project}/blobs/{digest}"): Right.READ,
    ("GET", "/v1/projects/{project}/blobs/{digest}"): Right.READ,
    ("GET", _ROWS): Right.READ,
}
SOCKETS: dict[str, Right] = {"/v1/projects/{project}/sessions/{session_id}": Right.RUN}
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})


def make_app(
    cloud: Cloud,
    blobs: Blobs,
    operations: Sequence[type[Operation[Any]]],
    *,
    tables: Tables,
    sessions: Sessions,
    registry: CollectorRegistry,
    hosts: frozenset[str] = LOOPBACK,
) -> Asgi:
    """Build the ASGI app of one cloud."""
    app = FastAPI(title="Skyloom", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    requests = Requests(registry)
    for operation in operations:
        app.add_api_route(
            operation.route.full_path,
            requests.timed(operation.route.name, partial(_carry_out, cloud, operation)),
            methods=[operation.route.verb.value],
            response_class=Response,
            include_in_schema=False,
            name=operation.route.name,
        )
    # Made when somebody asks: it takes as long as all the rest of the app.
    _add_open_routes(app, cloud, cache(partial(openapi.document, operations, __version__)))
    _add_guarded_routes(app, cloud, blobs, tables, registry)
    for path, right in SOCKETS.items():
        app.router.add_websocket_route(path, partial(attend, cloud, sessions, right))
    app.add_exception_handler(Exception, lambda _request, error: answer(error))
    return Guard(app, hosts)


async def _carry_out(cloud: Cloud, operation: type[Operation[Any]], request: Request) -> Response:
    try:
        secret, project = secret_of(request), request.path_params.get("project", "")
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= 200:
            raise InvalidRequest("The Idempotency-Key is empty or too long.", next_action="Use 1 to 200 characters.")
        body = await request.body()

        def work() -> bytes:
            # The token is looked at before the body is parsed: strangers learn nothing from our validation.
            by = cloud.authenticate(secret, project)
            ask = read(operation, request, body)
            return msgspec.json.encode(cloud.do(ask, by, key))

        # One visit to one worker thread: every hop between threads costs more than the work itself.
        made = await anyio.to_thread.run_sync(work)
        return Response(made, media_type="application/json")
    except Exception as error:
        return answer(error)


def _add_open_routes(app: FastAPI, cloud: Cloud, described: Callable[[], bytes]) -> None:
    def healthy() -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def ready() -> Response:
        try:
            await anyio.to_thread.run_sync(cloud.check)
        except SkyloomError as error:
            return answer(error)
        return healthy()

    app.add_api_route("/healthz", healthy, methods=["GET"], include_in_schema=False)
    app.add_api_route("/readyz", ready, methods=["GET"], include_in_schema=False)
    app.add_api_route(
        "/openapi.json",
        lambda: Response(described(), media_type="application/json"),
        methods=["GET"],
        include_in_schema=False,
    )


def _add_guarded_routes(app: FastAPI, cloud: Cloud, blobs: Blobs, tables: Tables, registry: CollectorRegistry) -> None:
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
        digest = _digest(request)
        size = await anyio.to_thread.run_sync(blobs.size, digest)
        if size is None:
            raise BlobMissing(f"There is no blob {digest}.", next_action="Upload it first.")
        headers = {"content-length": str(size)}
        if request.method == "HEAD":
            return Response(None, 200, headers, "application/octet-stream")
        return StreamingResponse(blobs.open(digest), 200, headers, "application/octet-stream")

    async def rows(request: Request) -> Response:
        by = await admit(request, Right.READ)

        def opened() -> Iterator[bytes]:
            asked = {name: request.path_params[name] for name in ("dataset", "reference")}
            version = cloud.do(checked(GetVersion, asked), by)
            table = cloud.do(GetDataset(dataset=version.dataset_id), by).table
            return as_parquet(tables, table, version.number)

        return StreamingResponse(await anyio.to_thread.run_sync(opened), 200, {}, "application/vnd.apache.parquet")

    routes = {"/metrics": metrics, "PUT": upload, "GET": download, "HEAD": download, _ROWS: rows}
    for method, path in GUARDED:
        app.add_api_route(
            path, _answering(routes.get(path) or routes[method]), methods=[method], include_in_schema=False
        )


def _answering(endpoint: Any) -> Any:
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)  # type: ignore[no-any-return]
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


def _body(request: Request) -> Iterator[bytes]:
    """The body of a request, pulled chunk by chunk from a worker thread."""
    stream = request.stream().__aiter__()

    async def following() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(following)) is not None:
        if chunk:
            yield chunk
