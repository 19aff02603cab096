"""A full disk: nothing half-started, no user process hurt, a clear line, and recovery without a restart."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.core.errors import StorageFull, Unavailable
from skyloom.engines.local import LocalEngine
from skyloom.ports.engine import Command, EndReason, TaskPhase
from tests.contracts.engine_contract import log, look, one, sh, until, wait
from tests.engines.test_local_crashes import prepared, supervise

# Prints 3 MB, waits for a file, prints a last line.
PRINTS = """
import pathlib, sys, time
for number in range(3000):
    sys.stdout.write("%0999d\\n" % number)
sys.stdout.flush()
pathlib.Path(sys.argv[1], "printed").touch()
while not pathlib.Path(sys.argv[1], "go").exists():
    time.sleep(0.01)
print("after", flush=True)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb") as file, pytest.raises(OSError):
        while True:
            os.write(file.fileno(), b"x" * 4096)
    return ballast


def test_launch_on_a_full_disk_starts_nothing_and_works_once_there_is_room(disk: Path) -> None:
    engine = LocalEngine(disk / "tasks", warm=False)
    ballast = fill(disk)
    with pytest.raises(StorageFull) as raised:
        engine.launch(one("t", sh("true")))
    assert "nothing was started" in raised.value.message and raised.value.next_action
    assert engine.known() == []
    assert look(engine, "t").phase is TaskPhase.ABSENT
    ballast.unlink()
    engine.launch(one("t", sh("true")))
    assert wait(engine, "t").reason is EndReason.COMPLETED
    engine.close()


def test_output_on_a_full_disk_is_dropped_said_once_and_goes_on(disk: Path, tmp_path: Path) -> None:
    engine = LocalEngine(disk / "tasks", warm=False)
    engine.launch(one("t", Command(argv=(sys.executable, "-c", PRINTS, str(tmp_path)))))
    until(lambda: (tmp_path / "printed").exists(), "3 MB of output that found no room")
    assert look(engine, "t").phase is TaskPhase.RUNNING
    before = log(engine, "t")
    grown = disk / "tasks" / "t" / "output.log"
    assert 1_000_000 < len(before) < 2_100_000
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    until(lambda: grown.stat().st_size > len(before), "the line that tells of the loss")
    (tmp_path / "go").touch()
    seen = wait(engine, "t")
    assert seen.reason is EndReason.COMPLETED and "output were lost" in seen.message
    after = log(engine, "t")
    assert after.startswith(before) and after.endswith(b"\nafter\n")
    assert after.count(b"[skyloom]") == 1 and b"No space left on device" in after
    lost = int(after.partition(b"[skyloom] ")[2].split()[0])
    told = after.index(b"[skyloom]") - 1  # our line starts on a line of its own
    assert after[told : told + 1] == b"\n"
    assert told + lost in (3_000_000, 3_000_000 - 1)
    engine.close()


def test_end_is_recorded_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    engine = LocalEngine(disk / "tasks", warm=False)
    engine.launch(one("t", Command(argv=(sys.executable, "-c", PRINTS + "\nsys.exit(5)", str(tmp_path)))))
    until(lambda: (tmp_path / "printed").exists(), "3 MB of output that found no room")
    fill(disk)
    (tmp_path / "go").touch()
    seen = wait(engine, "t")
    assert (seen.reason, seen.exit_code) == (EndReason.EXIT_CODE, 5)
    assert "output were lost" in seen.message
    engine.close()


def test_file_size_limit_does_not_hurt_the_task(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    folder = prepared(tmp_path, Command(argv=(sys.executable, "-c", PRINTS, str(tmp_path))))
    supervise(folder, "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))")
    seen = look(LocalEngine(tmp_path / "tasks", warm=False), "t0")
    assert seen.reason is EndReason.COMPLETED and "output were lost" in seen.message
    assert folder.log.stat().st_size == 100_000


def test_folder_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        LocalEngine(tmp_path / "file" / "tasks", warm=False)
