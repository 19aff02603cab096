"""Register a finished bundle: its files become blobs, its facts a model version. Any script in a job may call it."""

import importlib.metadata
from collections.abc import Mapping

import msgspec

from skyloom.recipes.package import Package
from skyloom.rooms.registry.model import Evaluation, ModelVersion, Provenance, RegisterModelVersion
from skyloom.runtime.context import Context, context
from skyloom.runtime.line import transport
from skyloom.sdk.files import upload_file
from skyloom.sdk.transport import Transport

_LIBRARIES = ("skyloom", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "safetensors")
RESULT_FILE = "result.json"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a training leaves as its task's result."""

    model: str = ""
    number: int = 0
    evaluation: Evaluation | None = None
    duration_s: dict[str, float] = {}


def publish(
    bundle: Package,
    model: str,
    provenance: Provenance,
    evaluation: Evaluation | None = None,
    line: Transport | None = None,
) -> ModelVersion:
    """Upload a bundle, register it under a model's name and say so. Doing it again in the same run gives the same version."""
    here = context()
    connection = line or transport(here)
    for file in bundle.manifest.files:
        upload_file(connection, bundle.folder / file.path)
    made = connection.send(
        RegisterModelVersion(
            model=model,
            manifest=bundle.manifest,
            provenance=_placed(provenance, here),
            evaluation=evaluation,
            parity=bundle.parity,
        )
    )
    told = f"Registered {made.model} version {made.number}."
    print(f"{told} See: skyloom model show {made.model}. Serve it: skyloom deploy {made.model}.", flush=True)
    return made


def leave(outcome: Outcome, here: Context) -> None:
    """Write the task's result."""
    here.task_folder.mkdir(parents=True, exist_ok=True)
    (here.task_folder / RESULT_FILE).write_bytes(msgspec.json.encode(outcome))


def libraries() -> Mapping[str, str]:
    """Versions of the libraries that shape a model; absent ones are left out."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _placed(provenance: Provenance, here: Context) -> Provenance:
    """Provenance with what the job itself knows."""
    return msgspec.structs.replace(
        provenance,
        run_id=here.run,
        job_id=here.job_id,
        attempt=here.attempt,
        num_workers=here.world_size,
        libraries=dict(libraries()),
    )
