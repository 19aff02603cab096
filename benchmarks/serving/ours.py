"""Skyloom as a user has it: a cloud, a registered model, an endpoint of two replicas; token, metrics, ids and request log are on."""

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
from benchmarks.serving.servers import Target

from skyloom.inference.reduce import build_profile
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, ModelKind, Signature, TensorSpec
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.sdk.files import upload_bytes


@contextmanager
def running(models: dict[str, Path], num_replicas: int = 2) -> Iterator[dict[str, Target]]:
    """An endpoint for each model."""
    with cloud(SKYLOOM_CPUS="64", SKYLOOM_WARM_POOL="0") as made, made.client() as client:
        targets = {}
        for name, path in models.items():
            files = {"model.onnx": path.read_bytes()}
            files["profile.json"], signature = _described(path)
            for content in files.values():
                upload_bytes(client.transport, content)
            listed = tuple(
                BundleFile(path=file, digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size_bytes=len(content))
                for file, content in files.items()
            )
            manifest = Manifest(kind=ModelKind.CLASSIFICATION, signature=signature, files=listed)
            client.transport.send(RegisterModelVersion(model=name, manifest=manifest))
            began = time.perf_counter()
            client.endpoints.deploy(name, num_replicas=num_replicas, cpus=1.0, memory="1GiB")
            status = client.endpoints.wait(name)
            where = urlsplit(status.url)
            targets[name] = Target(
                "skyloom",
                where.hostname or "127.0.0.1",
                where.port or 80,
                f"/v2/models/{name}/infer",
                {"authorization": f"Bearer {made.token}"},
                ready_s=time.perf_counter() - began,
            )
        yield targets


def _described(path: Path) -> tuple[bytes, Signature]:
    """What watches for drift, as training would have made it of 200 rows; and the signature."""
    session = onnxruntime.InferenceSession(path)
    shape = session.get_inputs()[0].shape[1:]
    rows = np.random.default_rng(2).normal(size=(200, *shape)).astype(np.float32)
    scores = session.run(None, {"x": rows})[0]
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, *shape)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, *scores.shape[1:])),),
    )
    profile = build_profile({"x": rows}, {"scores": scores}, ModelKind.CLASSIFICATION)
    return msgspec.json.encode(profile), signature
