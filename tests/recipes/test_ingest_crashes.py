"""An ingest that is killed anywhere leaves nothing or the whole version, and running it again ends with exactly one."""

import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from skyloom.tables.lance import LanceTables
from tests.forks import FORKS
from tests.recipes.ingest_process import TABLE, run

ROWS = 60_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_text("n,x,word\n" + "".join(f"{n},{n / 7},w{n % 10}\n" for n in range(ROWS)))
    return path


def start(file: Path, where: str = "nowhere") -> ForkServerProcess:
    process = FORKS.Process(target=run, args=(file, where))
    process.start()
    return process


def end(process: ForkServerProcess) -> int | None:
    process.join(60)
    return process.exitcode


def assert_nothing_or_all(tables: LanceTables) -> int:
    versions = tables.versions(TABLE)
    assert [version.num_rows for version in versions] in ([], [ROWS])
    if versions:
        ids = [
            row
            for batch in tables.scan(TABLE, 1, columns=["n"], with_row_ids=True)
            for row in batch["_rowid"].to_pylist()
        ]
        assert ids == list(range(ROWS))
    return len(versions)


@pytest.mark.parametrize(("where", "left"), [("before", 0), ("after", 1)])
def test_ingest_killed_at_the_commit_is_whole_after_another_run(file: Path, where: str, left: int) -> None:
    assert end(start(file, where)) == -9
    tables = LanceTables(file.parent / "tables")
    assert assert_nothing_or_all(tables) == left
    before = tables.versions(TABLE)
    run(file)
    assert assert_nothing_or_all(tables) == 1
    assert before in ([], tables.versions(TABLE))


@pytest.mark.slow
def test_ingest_killed_at_random_twenty_times_ends_with_exactly_one_version(file: Path) -> None:
    began = time.monotonic()
    assert end(start(file)) == 0
    duration_s = time.monotonic() - began
    seeded = random.Random(7)
    left = []
    for attempt in range(20):
        folder = file.parent / str(attempt)
        folder.mkdir()
        other = folder / "a.csv"
        other.symlink_to(file)
        process = start(other)
        time.sleep(seeded.uniform(0, duration_s * 1.1))
        process.kill()
        assert end(process) in (0, -9)
        tables = LanceTables(folder / "tables")
        left.append(assert_nothing_or_all(tables))
        run(other)
        assert assert_nothing_or_all(tables) == 1
    assert 0 in left
