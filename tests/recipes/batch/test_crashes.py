"""Killed at any of its writes, the next try finishes, and every row is there exactly once."""

import random
from pathlib import Path

import numpy as np
import pytest

from skyloom.tables.lance import LanceTables
from tests.crashing import calls_until_done, run_and_crash
from tests.recipes.batch.kit import TARGET, Desk, toy_rows, vectors

ROWS = 400
PROGRAM = """
import sys
from pathlib import Path
from skyloom.recipes.batch import predicting
from skyloom.tables.lance import LanceTables
from tests.recipes.batch.kit import Desk
predicting._shard_rows = lambda pace, row_bytes: 100
Desk(Path(sys.argv[1]), LanceTables(Path(sys.argv[1]) / "tables")).predict(cpus=1)
"""


def prepared(folder: Path) -> tuple[Desk, np.ndarray]:
    rows = toy_rows(ROWS)
    rows[17] = np.nan  # not a missing value: it goes through the model
    folder.mkdir()
    desk = Desk(folder, LanceTables(folder / "tables"))
    desk.fill(vectors(rows))
    return desk, rows


@pytest.mark.slow
def test_predictions_killed_at_any_write_end_with_each_row_once(tmp_path: Path) -> None:
    whole, rows = prepared(tmp_path / "whole")
    calls = calls_until_done(PROGRAM, whole.folder)
    assert calls > 20
    chosen = sorted(random.Random(5).sample(range(1, calls + 1), 5))
    for k in chosen:
        desk, _ = prepared(tmp_path / str(k))
        run_and_crash(PROGRAM, desk.folder, k)
        before = [version.number for version in desk.tables.versions(TARGET)]
        desk.predict(cpus=1)
        assert [version.number for version in desk.tables.versions(TARGET)] == [1] and before in ([], [1])
        found = desk.rows()
        assert [row["source_row_id"] for row in found] == list(range(ROWS)), k
        np.testing.assert_allclose([row["scores"] for row in found], desk.expected(rows), rtol=1e-6)


def test_shards_that_are_done_are_not_predicted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skyloom.recipes.batch import predicting
    from skyloom.recipes.batch.ranges import KeptRanges, Range

    desk, _ = prepared(tmp_path / "d")
    monkeypatch.setattr(predicting, "_shard_rows", lambda *_: 100)
    keep, kept = KeptRanges.keep, []

    def dies_at_the_third(self: KeptRanges, one: Range, *rest: object) -> None:
        if len(kept) == 2:
            raise OSError("gone")
        kept.append(one)
        keep(self, one, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(KeptRanges, "keep", dies_at_the_third)
    with pytest.raises(OSError, match="gone"):
        desk.predict(cpus=1)
    done, again = list(kept), []

    def counts(self: KeptRanges, one: Range, *rest: object) -> None:
        again.append(one)
        keep(self, one, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(KeptRanges, "keep", counts)
    _, contents = desk.predict(cpus=1)
    assert contents.num_rows == ROWS and f"{sum(map(len, done))} of 400 rows are done already" in desk.said
    rows = [row for one in sorted([*done, *again]) for row in range(one.start, one.stop)]
    assert rows == list(range(ROWS)) and again
