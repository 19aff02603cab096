import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.core.errors import StorageFull
from skyloom.runtime.checkpoint import Checkpoints
from tests.crashing import calls_until_done, run_and_crash

FILES = {"model.bin": b"m" * 5_000, "state.json": b'{"epoch": 1}', "empty.bin": b""}

SAVE = """
import sys
from pathlib import Path
from skyloom.runtime.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
for step in (10, 20, 30, 30):
    checkpoints.save(step, {"model.bin": b"%d" % step * 5000, "state.json": b"{}"})
    with open(sys.argv[1] + "-acknowledged", "a") as file:
        file.write(f"{step} ")
"""


def lines_of(folder: Path) -> tuple[Checkpoints, list[str]]:
    lines: list[str] = []
    return Checkpoints(folder, say=lines.append), lines


def test_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "a" / "b")
    assert checkpoints.load_latest() is None
    checkpoints.save(7, FILES)
    found = checkpoints.load_latest()
    assert found is not None
    assert (found.step, found.files) == (7, FILES)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(2, 4))
def test_only_the_newest_are_kept(tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int) -> None:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("kept"), keep)
    for step in steps:
        checkpoints.save(step, FILES)
    kept = checkpoints.steps()
    assert kept == sorted(kept)
    assert kept[-1] == max(steps)
    assert len(kept) == min(keep, len(kept))
    latest = checkpoints.load_latest()
    assert latest is not None
    assert latest.step == max(steps)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def swap(path: Path) -> None:
    """Put the same file of the older checkpoint in its place."""
    path.write_bytes((path.parent.parent / "step-000000000001" / path.name).read_bytes())


@pytest.mark.parametrize("name", ["model.bin", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", [flip, truncate, zero, swap, Path.unlink])
def test_damaged_newest_is_never_loaded_and_the_one_before_is(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    checkpoints, lines = lines_of(tmp_path)
    checkpoints.save(1, FILES)
    checkpoints.save(2, {"model.bin": b"n" * 5_000, "state.json": b'{"epoch": 2}'})
    damage(tmp_path / "step-000000000002" / name)
    found = checkpoints.load_latest()
    assert found is not None
    assert (found.step, found.files) == (1, FILES)
    assert checkpoints.steps() == [1]
    assert "step-000000000002 is damaged" in lines[0]


def test_checkpoint_under_another_steps_name_is_not_believed(tmp_path: Path) -> None:
    checkpoints, _ = lines_of(tmp_path)
    checkpoints.save(1, FILES)
    (tmp_path / "step-000000000001").rename(tmp_path / "step-000000000009")
    assert checkpoints.load_latest() is None


def test_damaged_one_is_replaced_when_its_step_is_reached_again(tmp_path: Path) -> None:
    checkpoints, _ = lines_of(tmp_path)
    checkpoints.save(1, FILES)
    flip(tmp_path / "step-000000000001" / "model.bin")
    checkpoints.save(1, FILES)
    assert checkpoints.steps() == [1]


def test_save_on_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    checkpoints, _ = lines_of(tmp_path)
    checkpoints.save(1, FILES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))
    try:
        with pytest.raises(StorageFull):
            checkpoints.save(2, FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000000000001"]
    checkpoints.save(2, FILES)
    assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_save_killed_at_any_call_leaves_only_whole_checkpoints(tmp_path: Path, stride: int) -> None:
    total = calls_until_done(SAVE, tmp_path / "clean")
    assert total > 40
    for k in range(1, total + 1, stride):
        folder = tmp_path / str(k)
        run_and_crash(SAVE, folder, k)
        record = tmp_path / f"{k}-acknowledged"
        acknowledged = [int(step) for step in record.read_text().split()] if record.exists() else []
        checkpoints, lines = lines_of(folder)
        steps = checkpoints.steps()
        assert lines == [], f"killed at call {k}: something incomplete was listed"
        # The last save writes step 30 again; killed in its middle, 20 is what may be left.
        replacing = acknowledged == [10, 20, 30]
        floor = 20 if replacing else max(acknowledged, default=0)
        assert max(steps, default=0) >= floor, f"killed at call {k}"
        latest = checkpoints.load_latest()
        if latest is not None:
            assert latest.files["model.bin"] == b"%d" % latest.step * 5000
        checkpoints.save(40, FILES)
        assert not [entry.name for entry in folder.iterdir() if not entry.name.startswith("step-")]
