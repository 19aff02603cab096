import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.core.errors import StorageFull
from skyloom.series.local import InvalidTrack, LocalSeries
from tests.contracts.series_contract import SeriesContract, point
from tests.crashing import calls_until_done, run_and_crash

APPEND = """
import sys
from pathlib import Path
from skyloom.ports.series import Point
from skyloom.series.local import LocalSeries
series = LocalSeries(Path(sys.argv[1]))
for sequence in range(1, 4):
    series.append("run_1", "a", sequence, [Point("loss", sequence, 0.0, 0.5)])
    with open(sys.argv[1] + "/acknowledged", "a") as file:
        file.write(str(sequence))
"""


class TestLocalSeries(SeriesContract):
    @pytest.fixture
    def series(self, tmp_path: Path) -> Iterator[LocalSeries]:
        series = LocalSeries(tmp_path)
        yield series
        series.close()


def reopened(folder: Path) -> LocalSeries:
    series = LocalSeries(folder)
    series.close()
    return series


def test_series_reopened_knows_points_and_sequences(tmp_path: Path) -> None:
    series = LocalSeries(tmp_path)
    series.append("run_1", "a", 7, [point("loss", 1, 0.5)])
    series.close()
    again = reopened(tmp_path)
    assert again.latest("run_1") == {"loss": point("loss", 1, 0.5)}
    assert not again.append("run_1", "a", 7, [point("loss", 1, 0.5)])
    assert again.append("run_1", "a", 8, [point("loss", 2, 0.25)])
    assert len(again.points("run_1")) == 2


@pytest.mark.parametrize("lost_bytes", [1, 2, 10, 30])
def test_torn_tail_is_dropped_and_the_batch_can_come_again(tmp_path: Path, lost_bytes: int) -> None:
    series = reopened(tmp_path)
    series.append("run_1", "a", 1, [point("loss", 1, 0.5)])
    series.append("run_1", "a", 2, [point("loss", 2, 0.25)])
    file = tmp_path / "run_1.series"
    file.write_bytes(file.read_bytes()[:-lost_bytes])
    again = reopened(tmp_path)
    assert again.points("run_1") == [point("loss", 1, 0.5)]
    assert again.append("run_1", "a", 2, [point("loss", 2, 0.25)])
    assert reopened(tmp_path).points("run_1") == [point("loss", 1, 0.5), point("loss", 2, 0.25)]


def test_damaged_line_is_left_out_and_its_neighbours_stay(tmp_path: Path) -> None:
    series = reopened(tmp_path)
    for sequence in (1, 2, 3):
        series.append("run_1", "a", sequence, [point("loss", sequence, 0.5)])
    file = tmp_path / "run_1.series"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1].replace(b"0.5", b"0.6") + lines[2])
    assert [found.step for found in reopened(tmp_path).points("run_1")] == [1, 3]


def test_append_on_a_full_disk_adds_nothing_and_works_again_later(tmp_path: Path) -> None:
    series = reopened(tmp_path)
    series.append("run_1", "a", 1, [point("loss", 1, 0.5)])
    size_bytes = (tmp_path / "run_1.series").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 10, hard))
    try:
        with pytest.raises(StorageFull):
            series.append("run_1", "a", 2, [point("loss", 2, 0.25)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert series.points("run_1") == [point("loss", 1, 0.5)]
    assert series.append("run_1", "a", 2, [point("loss", 2, 0.25)])
    assert len(reopened(tmp_path).points("run_1")) == 2


def test_append_killed_at_every_write_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    total = calls_until_done(APPEND, tmp_path / "clean")
    # The sync thread makes calls of its own, so the last ones may not be reached: the program's own are the first ones.
    for k in range(1, total - 1):
        folder = tmp_path / str(k)
        run_and_crash(APPEND, folder, k)
        acknowledged = folder / "acknowledged"
        count = len(acknowledged.read_text()) if acknowledged.exists() else 0
        series = reopened(folder)
        assert len(series.points("run_1")) >= count, f"killed at call {k}"
        for sequence in range(1, 4):
            series.append("run_1", "a", sequence, [point("loss", sequence, 0.5)])
        assert [found.step for found in series.points("run_1")] == [1, 2, 3], f"killed at call {k}"


@pytest.mark.parametrize("track", ["", "../x", "a/b", "x" * 121, "a\n"])
def test_track_that_is_no_id_is_refused(tmp_path: Path, track: str) -> None:
    with pytest.raises(InvalidTrack):
        reopened(tmp_path).append(track, "a", 1, [point("loss", 1, 0.5)])
