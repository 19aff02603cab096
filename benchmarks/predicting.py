"""Predictions: a small model in an endpoint, asked over REST by 1, 16 and 64 connections; token, request log and metrics are on."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from benchmarks.load import Load, request
from benchmarks.measures import Sample, cloud, fire, sample
from tests.inference.serving import toy_rows, write_bundle

from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_file

_CONNECTIONS = (1, 16, 64)


def predictions(duration_s: float, replicas: int = 1) -> Iterator[Sample]:
    """Requests of one row each, answered per second, and how long each took."""
    with tempfile.TemporaryDirectory(prefix="skyloom-bench-") as folder, cloud(SKYLOOM_CPUS="8") as made:
        with made.client() as client:
            _register(client, write_bundle(Path(folder) / "bundle"))
            client.endpoints.deploy("toy", num_replicas=replicas)
            status = client.endpoints.wait("toy")
        where = urlsplit(status.url)
        requests = tuple(
            request("POST", "/v2/models/toy/infer", where.netloc, made.token, _body(row)) for row in toy_rows(64)
        )
        for connections in _CONNECTIONS:
            load = Load(
                host=where.hostname or "127.0.0.1",
                port=where.port or 80,
                requests=requests,
                connections=connections,
                duration_s=duration_s,
                warmup_s=1.0,
            )
            outcome = fire(load)
            assert set(outcome.statuses) == {"200"}, outcome.statuses
            many = f"{connections} connection{'s' if connections > 1 else ''}"
            rate = len(outcome.latencies_s) / outcome.wall_s
            yield sample(f"predictions, {many}", [rate], "/s", note=f"n={len(outcome.latencies_s)}, {replicas} replica")
            yield sample("  each answered in", [value * 1e3 for value in outcome.latencies_s], "ms")


def _register(client: Client, bundle: Path) -> None:
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
    for file in manifest.files:
        upload_file(client.transport, bundle / file.path)
    client.transport.send(RegisterModelVersion(model="toy", manifest=manifest))


def _body(row: Iterable[float]) -> bytes:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [float(value) for value in row]}
    return msgspec.json.encode({"inputs": [tensor]})
