"""The program of a draft: makes one version of a dataset, and tells the control plane. Runs inside a job.

The draft's id is the key of the commit, so the program may die anywhere and run again: a version that is in the table already is only told.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skyloom.core.errors import SkyloomError, rebuild
from skyloom.durable import disk_errors
from skyloom.ports.tables import Tables, TableVersion
from skyloom.recipes.clean import clean
from skyloom.recipes.ingest import ingest
from skyloom.recipes.reading.source import Source
from skyloom.recipes.split import split
from skyloom.rooms.data.contents import Contents
from skyloom.rooms.data.making import Clean, Ingest, Split
from skyloom.rooms.data.model import Draft
from skyloom.runtime.failure import FINAL, fail
from skyloom.sdk.client import Client
from skyloom.sdk.connect import connect
from skyloom.sdk.files import upload_file
from skyloom.settings import TaskEnvironment
from skyloom.tables.lance import LanceTables


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the version of ``--draft`` in the tables of this machine; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make a version of a dataset.")
    parser.add_argument("--draft", required=True)
    asked = parser.parse_args(arguments)
    try:
        with connect() as cloud:
            return _told(cloud, asked.draft, LanceTables(TaskEnvironment.read().tables), Path.cwd())
    except SkyloomError as error:
        return fail(error)


def _told(cloud: Client, draft_id: str, tables: Tables, folder: Path) -> int:
    status = cloud.data.draft(draft_id)
    if status.draft.error is not None:
        return fail(rebuild(status.draft.error))  # an earlier attempt has said it
    try:
        with disk_errors(folder):
            version, contents = make(cloud, status.draft, tables, folder)
    except SkyloomError as error:
        if error.category in FINAL:  # of the others, the next attempt may know nothing any more
            cloud.data.fail(draft_id, error.body())
        return fail(error)
    cloud.data.commit(draft_id, version.number, contents)
    for report in contents.reports:
        print(f"{report.step}: {report.rows_in} rows in, {report.rows_out} rows out", flush=True)
    print(f"version {version.number}: {contents.num_rows} rows, {len(contents.columns)} columns", flush=True)
    return 0


def make(cloud: Client, draft: Draft, tables: Tables, folder: Path) -> tuple[TableVersion, Contents]:
    """Do what the draft says. ``folder`` holds its files as ``sources/<number>``, and takes working files."""
    dataset = cloud.data.get(draft.dataset_id)
    if isinstance(draft.making, Ingest):
        files = enumerate(draft.making.sources)
        sources = [Source(source.path, folder / "sources" / str(number)) for number, source in files]

        def keep(path: Path) -> str:
            return upload_file(cloud.transport, path)

        return ingest(draft.making, sources, tables, dataset.table, draft.id, folder, keep)
    base = draft.parent or 0
    parent = cloud.data.version(draft.dataset_id, str(base)).contents
    if isinstance(draft.making, Clean):
        return clean(draft.making, tables, dataset.table, base, parent, draft.id, folder)
    assert isinstance(draft.making, Split), "predictions and samples have programs of their own"
    return split(draft.making, tables, dataset.table, base, parent, draft.id, folder)


if __name__ == "__main__":
    sys.exit(main())
