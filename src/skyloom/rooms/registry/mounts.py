"""What a mount of a job means: the version that a reference names, and its files. For `jobs`, which know neither datasets nor models."""

from skyloom.ports.environment import Mount, MountFile
from skyloom.ports.store import Snapshot
from skyloom.rooms.data.model import NEWEST
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.jobs.mounts import Resolve
from skyloom.rooms.registry.service import Registry

ROWS_FILE = "rows.parquet"


def resolver(data: Datasets, registry: Registry) -> Resolve:
    """Looks mounts up in the two rooms. What it returns raises the rooms' own errors for what the project does not have."""

    def resolve(view: Snapshot, name: str, reference: str, project: str) -> Mount:
        kind, subject, version = (*reference.split(":"), NEWEST)[:3]
        if kind == "dataset":
            return _of_dataset(data, view, name, subject, version, project)
        return _of_model(registry, view, name, subject, version, project)

    return resolve


def _of_dataset(data: Datasets, view: Snapshot, name: str, subject: str, version: str, project: str) -> Mount:
    dataset, found = data.version(view, subject, version, project)
    route = f"datasets/{dataset.name}/versions/{found.number}/{ROWS_FILE}"
    rows = MountFile(path=ROWS_FILE, digest=found.contents.digest, route=route, is_rows=True)
    return Mount(name=name, subject=f"dataset:{dataset.name}:{found.number}", files=(rows,))


def _of_model(registry: Registry, view: Snapshot, name: str, subject: str, version: str, project: str) -> Mount:
    found = registry.version(view, subject, version, project)
    files = tuple(
        MountFile(path=file.path, digest=file.digest, route=f"blobs/{file.digest}") for file in found.manifest.files
    )
    return Mount(name=name, subject=f"model:{found.model}:{found.number}", files=files)
