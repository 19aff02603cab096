"""From a trained network to a bundle: ONNX with proven parity, signature, profile, digests."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray

from skyloom.inference.reduce import build_profile
from skyloom.rooms.registry.bundle import (
    MANIFEST_FILE,
    MODEL_FILE,
    PROFILE_FILE,
    BundleFile,
    ImageInput,
    Manifest,
    ModelKind,
    Signature,
)
from skyloom.rooms.registry.model import Parity
from skyloom.runtime import export

Array = NDArray[Any]
_PROFILE_ROWS = 10_000


@dataclass(frozen=True)
class Meaning:
    """What a model's tensors mean to people. ``outputs`` names what ``forward`` returns; the first one is what ``kind`` says."""

    kind: ModelKind
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    image: ImageInput | None = None


@dataclass(frozen=True)
class Package:
    """A finished bundle in a folder."""

    folder: Path
    manifest: Manifest
    parity: Parity

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the exported model says."""
        return export.predict(
            self.folder / MODEL_FILE, inputs, [output.name for output in self.manifest.signature.outputs]
        )


def package(
    model: torch.nn.Module,
    rows: Mapping[str, Array],
    meaning: Meaning,
    folder: Path,
    extra_files: Mapping[str, bytes] = MappingProxyType({}),
) -> Package:
    """Make a bundle in a folder, which is emptied first.

    Args:
        model: on the CPU; in eval mode afterwards.
        rows: input name → real rows that the model was not fitted on, in the order of ``forward``'s arguments; for the parity check
            and for the profile, which rows it was fitted on would make too sure of itself.
        extra_files: more files that belong to the bundle, such as an encoding.

    Raises `ExportFailed`, `ParityFailed`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = folder / MODEL_FILE
    export.export_onnx(model, rows, meaning.outputs, file)
    parity = export.check_parity(model, rows, file)
    seen = {name: array[:_PROFILE_ROWS] for name, array in rows.items()}
    said = export.predict(file, seen, meaning.outputs)
    profile = build_profile(seen, said, meaning.kind, meaning.columns)
    (folder / PROFILE_FILE).write_bytes(msgspec.json.encode(profile))
    for name, content in extra_files.items():
        (folder / name).write_bytes(content)
    manifest = Manifest(
        kind=meaning.kind,
        signature=Signature(inputs=export.specs(rows), outputs=export.specs(said)),
        files=tuple(_describe(folder, path) for path in sorted(folder.iterdir())),
        labels=meaning.labels,
        columns=meaning.columns,
        image=meaning.image,
    )
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    return Package(folder, manifest, parity)


def _describe(folder: Path, path: Path) -> BundleFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return BundleFile(
        path=path.relative_to(folder).as_posix(), digest=f"sha256:{digest}", size_bytes=path.stat().st_size
    )
