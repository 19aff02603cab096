"""Ingest as a process of its own that tests can kill."""

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import lance

from skyloom.core import digests
from skyloom.recipes.ingest import ingest
from skyloom.recipes.reading.source import Source
from skyloom.rooms.data.making import Format, Ingest, SourceFile
from skyloom.tables.lance import LanceTables

KEY, TABLE = "draft_1", "p/d"


def run(file: Path, where: str = "nowhere") -> None:
    """Ingest the file into the tables beside it; ``where`` is ``before`` or ``after`` (die at the commit) or ``nowhere``."""
    folder = file.parent
    commit = lance.LanceDataset.commit

    def dying(*args: Any, **options: Any) -> Any:
        if where == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        commit(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    if where != "nowhere":
        lance.LanceDataset.commit = dying
    work = Path(tempfile.mkdtemp(dir=folder))
    making = Ingest(sources=(SourceFile(path="a.csv", digest=digests.of_bytes(b"")),), format=Format.CSV)
    tables = LanceTables(folder / "tables")
    ingest(making, [Source("a.csv", file)], tables, TABLE, KEY, work, lambda _: digests.of_bytes(b""))
