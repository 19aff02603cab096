"""Skyloom as a user has it: a cloud, a registered model, an endpoint of two replicas; token, metrics, ids and request log are on."""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import onnxruntime
from benchmarks.measures import cloud
from benchmarks.serving.models import request
from benchmarks.serving.servers import Target
from benchmarks.serving.wires import Wire

from skyloom.inference.reduce import build_profile
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, ModelKind, Signature, TensorSpec
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.sdk.files import upload_bytes

NAME = "skyloom"
_TYPES = {"tensor(float)": Datatype.FP32, "tensor(int64)": Datatype.INT64}


@contextmanager
def running(models: dict[str, Path], num_replicas: int = 2) -> Iterator[dict[str, Target]]:
    """An endpoint for each model."""
    with cloud(SKYLOOM_CPUS="64", SKYLOOM_WARM_POOL="0") as made, made.client() as client:
        targets = {}
        for name, path in models.items():
            files = {"model.onnx": path.read_bytes()}
            files["profile.json"], signature = described(path)
            for content in files.values():
                upload_bytes(client.transport, content)
            listed = tuple(
                BundleFile(path=file, digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size_bytes=len(content))
                for file, content in files.items()
            )
            manifest = Manifest(kind=ModelKind.OTHER, signature=signature, files=listed)
            client.transport.send(RegisterModelVersion(model=name, manifest=manifest))
            before = _replicas(made.home)
            began = time.perf_counter()
            client.endpoints.deploy(name, num_replicas=num_replicas, cpus=1.0, memory="1GiB")
            status = client.endpoints.wait(name)
            ready_s = time.perf_counter() - began
            rest, rpc = urlsplit(status.url), status.grpc_address.rpartition(":")
            targets[name] = Target(
                NAME,
                name,
                {Wire.JSON: rest.port or 80, Wire.BINARY: rest.port or 80, Wire.GRPC: int(rpc[2])},
                f"/v2/models/{name}/infer",
                {"authorization": f"Bearer {made.token}"},
                ready_s=ready_s,
                pids=tuple(_replicas(made.home) - before),
            )
        yield targets


def _replicas(home: Path) -> set[int]:
    """The model servers that run below a cloud's folder."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"skyloom.inference" in words and (folder / "cwd").readlink().is_relative_to(home):
                found.add(int(folder.name))
    return found


def described(path: Path) -> tuple[bytes, Signature]:
    """The signature; and, where rows have one length, what watches for drift, as training would have made it of 200 rows."""
    session = onnxruntime.InferenceSession(path)
    one, truth = request(path)
    output = session.get_outputs()[0].name
    inputs = tuple(
        TensorSpec(
            name=node.name,
            datatype=_TYPES[node.type],
            shape=(-1, *(axis if isinstance(axis, int) else -1 for axis in node.shape[1:])),
        )
        for node in session.get_inputs()
    )
    signature = Signature(
        inputs=inputs, outputs=(TensorSpec(name=output, datatype=Datatype.FP32, shape=(-1, len(truth))),)
    )
    if any(-1 in spec.shape[1:] for spec in inputs):
        return msgspec.json.encode(Profile()), signature
    random = np.random.default_rng(2)
    rows = {name: random.normal(size=(200, *row.shape[1:])).astype(np.float32) for name, row in one.items()}
    profile = build_profile(rows, {output: session.run(None, rows)[0]}, ModelKind.CLASSIFICATION)
    return msgspec.json.encode(profile), signature
