"""Ingest in a process of its own, for tests that kill it: ``python -m tests.recipes.ingest_process FILE TABLES FOLDER WHERE``.

WHERE is ``before`` or ``after`` (die at the commit) or ``nowhere``. Prints ``ready`` when it starts to work.
"""

import os
import signal
import sys
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


def main(file: str, tables: str, folder: str, where: str) -> None:
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
    print("ready", flush=True)
    ingest(
        making, [Source("a.csv", Path(file))], LanceTables(tables), TABLE, KEY, work, lambda _: digests.of_bytes(b"")
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
