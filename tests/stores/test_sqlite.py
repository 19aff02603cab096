import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skyloom.core.errors import StorageFull
from skyloom.ports.store import Collection, Not, Record, Store, Transaction
from skyloom.stores.folder_lock import FolderInUse, FolderLock
from skyloom.stores.sql import CollectionSql
from skyloom.stores.sqlite import SqliteStore, StoreDamaged
from tests.contracts.store_contract import BOXES, LINES, StoreContract, box


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path / "skyloom.db", [BOXES], [LINES])


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = open_store(tmp_path)
        yield store
        store.close()


def test_store_reopened_holds_what_was_written(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(lambda tx: tx.insert(BOXES, box("a", size=3)))
    store.close()
    again = open_store(tmp_path)
    assert again.read(lambda view: view.get(BOXES, "a")).size == 3  # type: ignore[union-attr]
    again.close()


def test_store_file_is_private_and_synchronous(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert (tmp_path / "skyloom.db").stat().st_mode & 0o077 == 0
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_store_keeps_few_connections_after_many_reads_at_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    together = threading.Barrier(40)

    def look(_number: int) -> int:
        return store.read(lambda view: together.wait(20) * 0 + view.count(BOXES))

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(look, range(40))) == [0] * 40
    assert len(store._readers) <= 16
    store.write(lambda tx: tx.insert(BOXES, box("a")))
    assert store.read(lambda view: view.count(BOXES)) == 1
    store.close()


def test_store_new_index_is_filled_from_old_records(tmp_path: Path) -> None:
    class Plain(Record, frozen=True, kw_only=True):
        name: str
        colour: str = "red"
        size: int = 0

    old = SqliteStore(tmp_path / "skyloom.db", [Collection("boxes", Plain)], [])
    old.write(lambda tx: tx.insert(Collection("boxes", Plain), Plain(id="a", project="p", name="a", size=7)))
    old.close()
    new = open_store(tmp_path)
    assert [item.id for item in new.read(lambda view: view.select(BOXES, {"size": 7}))] == ["a"]
    new.close()


def test_select_in_a_declared_order_reads_no_more_than_it_returns(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    text, values = CollectionSql(BOXES).select({"colour": "red", "name": Not(("a",))}, "size", False, None, 5)
    plan = [row[-1] for row in store._writer.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    assert plan == ["SEARCH boxes USING INDEX boxes_colour_size (colour=?)"], "found by the index, and not sorted"
    store.close()


def test_store_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "skyloom.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreDamaged):
        open_store(tmp_path)


def test_store_full_disk_refuses_and_goes_on(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(lambda tx: tx.insert(BOXES, box("a")))
    store._writer.execute("PRAGMA max_page_count = 1")
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull):
        store.write(lambda tx: [tx.insert(BOXES, box(f"b{n}", colour="x" * 4000)) for n in range(10)])
    store._writer.execute("PRAGMA max_page_count = 1000000")
    store.write(lambda tx: tx.insert(BOXES, box("c")))
    assert [item.id for item in store.read(lambda view: view.select(BOXES))] == ["a", "c"]
    store.close()


def test_store_value_that_cannot_be_bound_spoils_only_its_own_write(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    entered, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        entered.set()
        go_on.wait(10)

    def bad(tx: Transaction) -> None:
        tx.select(BOXES, {"colour": object()})  # type: ignore[dict-item]

    with ThreadPoolExecutor() as pool:
        first = pool.submit(store.write, slow)
        entered.wait(10)  # the next two queue up and share one transaction
        second, third = pool.submit(store.write, bad), pool.submit(store.write, lambda tx: tx.insert(BOXES, box("a")))
        while store._queue.qsize() < 2:
            time.sleep(0.001)
        go_on.set()
        first.result(10)
        with pytest.raises(sqlite3.Error):
            second.result(10)
        assert third.result(10).id == "a"
    assert store.read(lambda view: view.count(BOXES)) == 1
    store.close()


def test_folder_lock_second_holder_is_refused(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(FolderInUse, match=str(os.getpid())):
        FolderLock(tmp_path)
    first.close()
    FolderLock(tmp_path).close()


_WRITER = """
import sys, os, signal
from pathlib import Path
from tests.contracts.store_contract import BOXES, LINES, Line, box
from skyloom.stores.sqlite import SqliteStore
kill_at = sys.argv[2], int(sys.argv[3])
def crash(phase, count):
    if (phase, count) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
store = SqliteStore(Path(sys.argv[1]), [BOXES], [LINES], crash)
for n in range(1000):
    def work(tx, n=n):
        tx.insert(BOXES, box(f"b{n:04}"))
        tx.append(LINES, Line(subject=f"b{n:04}"))
    store.write(work)
    print(n, flush=True)
"""


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("commit", [1, 2, 7])
def test_store_killed_around_a_commit_keeps_every_answer(tmp_path: Path, phase: str, commit: int) -> None:
    path = tmp_path / "skyloom.db"
    run = subprocess.run(
        [sys.executable, "-c", _WRITER, str(path), phase, str(commit)], capture_output=True, text=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    acknowledged = len(run.stdout.splitlines())
    store = SqliteStore(path, [BOXES], [LINES])
    boxes = [item.id for item in store.read(lambda view: view.select(BOXES))]
    lines = [entry.subject for _, entry in store.read(lambda view: view.entries(LINES))]
    store.close()
    assert boxes == lines == [f"b{n:04}" for n in range(len(boxes))]
    assert acknowledged == commit - 1
    assert len(boxes) == (commit if phase == "after" else commit - 1)
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
