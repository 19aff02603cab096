"""The cache of folders that are made once: its promises about makers that fail and users that stay."""

import os
from pathlib import Path

import pytest

from skyloom.engines.local.supervisor import cache

ONE, TWO = "1" * 32, "2" * 32


def fill(folder: str) -> None:
    Path(folder, "inside").mkdir()
    Path(folder, "inside", "file").write_bytes(b"x" * 10_000)
    Path(folder, "inside").chmod(0o500)


def never(_: str = "") -> None:
    raise AssertionError("it is there already")


def take(root: Path, key: str, max_bytes: int = 2**30) -> int:
    return cache.take(str(root), key, fill, never, max_bytes)


def test_folder_is_made_once_and_stays_whole(tmp_path: Path) -> None:
    os.close(take(tmp_path, ONE))
    os.close(cache.take(str(tmp_path), ONE, never, never, 2**30))
    assert (tmp_path / ONE / "inside" / "file").stat().st_size == 10_000


def test_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: str) -> None:
        fill(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.take(str(tmp_path), ONE, fail, never, 2**30)
    assert list(tmp_path.iterdir()) == []
    os.close(take(tmp_path, ONE))


def test_folder_that_a_crash_left_is_made_again(tmp_path: Path) -> None:
    os.close(take(tmp_path, ONE))
    (tmp_path / f"{ONE}.ready").unlink()
    os.close(take(tmp_path, ONE))
    assert (tmp_path / ONE / "inside" / "file").exists()


def test_what_is_in_use_is_never_removed_and_the_oldest_goes_first(tmp_path: Path) -> None:
    held = take(tmp_path, ONE)
    os.close(take(tmp_path, TWO))
    cache.evict(str(tmp_path), 0)
    assert (tmp_path / ONE).is_dir() and not (tmp_path / TWO).exists() and not (tmp_path / f"{TWO}.lock").exists()
    os.close(held)
    os.utime(tmp_path / f"{ONE}.ready", (1, 1))
    os.close(take(tmp_path, TWO))
    cache.evict(str(tmp_path), 12_288)
    assert not (tmp_path / ONE).exists() and (tmp_path / TWO).is_dir()


def test_folder_that_was_never_finished_goes_after_an_hour(tmp_path: Path) -> None:
    for key in (ONE, TWO):
        (tmp_path / key).mkdir()
    os.utime(tmp_path / ONE, (1, 1))
    cache.evict(str(tmp_path), 2**30)
    assert not (tmp_path / ONE).exists() and (tmp_path / TWO).exists()


def test_strange_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("README", f"{ONE}.note", "x" * 32):
        (tmp_path / name).mkdir()
    cache.evict(str(tmp_path), 0)
    assert len(list(tmp_path.iterdir())) == 3


def test_lock_is_passed_on_to_the_program_that_follows(tmp_path: Path) -> None:
    held = take(tmp_path, ONE)
    assert os.get_inheritable(held)
    os.close(held)
