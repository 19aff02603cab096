"""An export of the toy model, on disk."""

from pathlib import Path

from skyloom.core import digests
from skyloom.core.resources import Resources
from skyloom.export.model import Exported, Target
from skyloom.export.requirements import pinned, python_version
from skyloom.export.writing import write
from tests.inference.serving import write_bundle


def toy(bundle: Path) -> Exported:
    files = {path.name: digests.of_bytes(path.read_bytes()) for path in bundle.iterdir()}
    return Exported(
        name="toy.v1",
        revision=3,
        model="toy",
        version="7",
        files=files,
        manifest=files["manifest.json"],
        image="registry.example/toy:3",
        resources=Resources(cpus=1.5, memory_bytes=2**30),
        max_replicas=5,
        python=python_version(),
        requirements=pinned(),
    )


def written(target: Target, folder: Path) -> tuple[Exported, Path]:
    """Write an export below a folder; returns it and where."""
    bundle = folder / "source"
    exported = toy(bundle if bundle.exists() else write_bundle(bundle))
    by_digest = {digest: bundle / name for name, digest in exported.files.items()}
    out = folder / target.value
    write(exported, target, out, lambda digest: [by_digest[digest].read_bytes()])
    return exported, out
