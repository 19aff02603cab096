import resource
import subprocess
import sys
from pathlib import Path

import pytest

from skyloom.blobs.local import LocalBlobs
from skyloom.core.errors import StorageFull
from skyloom.ports.blobs import DigestMismatch
from tests.contracts.blobs_contract import CONTENT, DIGEST, BlobsContract
from tests.crashing import calls_until_done, run_and_crash

PUT = """
import sys
from pathlib import Path
from skyloom.blobs.local import LocalBlobs
LocalBlobs(Path(sys.argv[1])).put([b"x" * 70_000, b"y" * 70_000])
"""
WRITE_AS_NOBODY = """
import os, sys
from pathlib import Path
from skyloom.blobs.local import LocalBlobs
from skyloom.core.errors import NotPermitted
os.setuid(65534)
try:
    LocalBlobs(Path(sys.argv[1]))
except NotPermitted as error:
    print(error)
"""
PUT_CONTENT = b"x" * 70_000 + b"y" * 70_000


class TestLocalBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> LocalBlobs:
        return LocalBlobs(tmp_path / "blobs")


def test_get_of_a_flipped_bit_is_refused_and_a_new_put_heals_it(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put([CONTENT])
    path = Path(blobs.path(DIGEST) or "")
    content = bytearray(path.read_bytes())
    content[12_345] ^= 1
    path.write_bytes(content)
    assert not blobs.verify(DIGEST)
    with pytest.raises(DigestMismatch):
        blobs.get(DIGEST)
    blobs.put([CONTENT])
    assert blobs.verify(DIGEST)


def test_put_on_a_full_disk_stores_nothing_and_works_again_later(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, hard))
    try:
        with pytest.raises(StorageFull, match=r"Free some space"):
            blobs.put([CONTENT])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert blobs.size(DIGEST) is None
    assert list((tmp_path / "incoming").iterdir()) == []
    assert blobs.put([CONTENT]) == (DIGEST, len(CONTENT))


def test_put_killed_at_every_write_leaves_all_or_nothing(tmp_path: Path) -> None:
    total = calls_until_done(PUT, tmp_path / "clean")
    assert total >= 5
    for k in range(1, total + 1):
        root = tmp_path / str(k)
        run_and_crash(PUT, root, k)
        blobs = LocalBlobs(root)
        digest, _ = LocalBlobs(tmp_path / "clean").put([PUT_CONTENT])
        assert blobs.size(digest) is None or blobs.verify(digest), f"killed at call {k}"
        assert blobs.put([PUT_CONTENT])[0] == digest
        assert blobs.get(digest) == PUT_CONTENT


def test_sweep_removes_only_old_drafts(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    draft = tmp_path / "incoming" / "left-by-a-crash"
    draft.write_bytes(b"half")
    made_at = draft.stat().st_mtime
    assert blobs.sweep(3600, now=made_at + 10) == 0
    assert blobs.sweep(3600, now=made_at + 3601) == 1
    assert not draft.exists()


def test_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    root = tmp_path / "locked"
    root.mkdir(mode=0o500)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", WRITE_AS_NOBODY, str(root / "blobs")], capture_output=True, text=True, check=False
    )
    assert str(root / "blobs") in done.stdout, done.stderr
