"""The program of a batch prediction. Runs inside a job; the work itself is `batch.predicting.predict`.

Its draft is begun once for each job, so a scheduled job finds the newest versions when it runs, and a second attempt those of the first.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from skyloom.core import digests
from skyloom.core.errors import InvalidInput, SkyloomError, rebuild
from skyloom.durable import disk_errors
from skyloom.inference import model as models
from skyloom.ports.tables import Tables, TableVersion
from skyloom.recipes.batch.predicting import SourceRows, predict
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.data.contents import Contents, Loss
from skyloom.rooms.data.making import Predict
from skyloom.rooms.data.model import Draft
from skyloom.rooms.registry.bundle import MANIFEST_FILE
from skyloom.rooms.registry.model import ModelVersion
from skyloom.runtime.context import context
from skyloom.runtime.failure import FINAL, fail
from skyloom.sdk.client import Client
from skyloom.sdk.connect import connect
from skyloom.sdk.files import upload_file
from skyloom.settings import TaskEnvironment
from skyloom.tables.lance import LanceTables

_SHARDS, _BUNDLE = "predictions", "bundle"


class OrderUnreadable(InvalidInput):
    """The program was not told what to predict."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict what ``--order`` says on ``--cpus`` cores; returns the exit code."""
    parser = argparse.ArgumentParser(description="Predict all rows of a dataset version.")
    parser.add_argument("--order", required=True, help="JSON: a BatchOrder")
    parser.add_argument("--cpus", type=float, default=1.0)
    asked = parser.parse_args(arguments)
    try:
        with connect() as cloud:
            tables = LanceTables(TaskEnvironment.read().tables)
            return _told(cloud, read_order(asked.order), tables, Path.cwd(), asked.cpus)
    except SkyloomError as error:
        return fail(error)


def read_order(text: str) -> BatchOrder:
    """Raises `OrderUnreadable`."""
    try:
        return msgspec.json.decode(text, type=BatchOrder)
    except msgspec.MsgspecError as error:
        raise OrderUnreadable(
            f"--order cannot be read: {error}.", next_action="Begin it with: skyloom predict --dataset …"
        ) from error


def _told(cloud: Client, order: BatchOrder, tables: Tables, folder: Path, cpus: float) -> int:
    status = cloud.predictions.begin(order)
    if status.draft.error is not None:
        return fail(rebuild(status.draft.error))  # an earlier attempt has said it
    try:
        with disk_errors(folder):
            version, contents = make(cloud, status.draft, tables, folder, cpus)
    except SkyloomError as error:
        if error.category in FINAL:  # of the others, the next attempt may know nothing any more
            cloud.data.fail(status.draft.id, error.body())
        return fail(error)
    cloud.data.commit(status.draft.id, version.number, contents)
    for report in contents.reports:
        for text in (*report.notes, *map(_left_out, report.losses)):
            print(text, flush=True)
    print(f"{order.to} version {version.number}: {contents.num_rows:,} rows", flush=True)
    return 0


def _left_out(loss: Loss) -> str:
    return f"{loss.num_rows:,} row{'' if loss.num_rows == 1 else 's'} left out: {loss.reason}"


def make(cloud: Client, draft: Draft, tables: Tables, folder: Path, cpus: float) -> tuple[TableVersion, Contents]:
    """Do what the draft says."""
    making = draft.making
    if not isinstance(making, Predict):
        raise OrderUnreadable(f"Draft {draft.id} is no prediction.", next_action="See: skyloom data list.")
    found = cloud.models.version(making.model, str(making.model_version))
    bundle = folder / _BUNDLE
    manifest = fetch(cloud, found, bundle)
    source = SourceRows(tables, cloud.data.get(making.dataset).table, making.version, making.split)

    def keep(path: Path) -> str:
        return upload_file(cloud.transport, path)

    shards = context().shared_folder / _SHARDS
    done = predict(
        making,
        source,
        partial(models.load, bundle, manifest_digest=manifest),
        bundle,
        cloud.data.get(draft.dataset_id).table,
        draft.id,
        folder,
        shards,
        cpus,
        keep,
        partial(print, flush=True),
    )
    shutil.rmtree(shards, ignore_errors=True)  # all of it is in the table now
    return done


def fetch(cloud: Client, version: ModelVersion, folder: Path) -> str:
    """Bring a model's bundle into a folder; returns the digest of its manifest. Loading verifies every byte."""
    for file in version.manifest.files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as target:
            for chunk in cloud.transport.download(file.digest):
                target.write(chunk)
    content = msgspec.json.encode(version.manifest)
    (folder / MANIFEST_FILE).write_bytes(content)
    return digests.of_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
