"""Blobs in a folder: ``sha256/ab/cdef…``. Many processes may use one folder."""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from skyloom.blobs.refusals import check, missing, too_large
from skyloom.core import digests
from skyloom.durable import disk_errors, make_folder, move_into_place, write_new
from skyloom.ports.blobs import BlobMissing

_CHUNK_BYTES = 2**20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class LocalBlobs:
    """A store on local disk.

    A blob is written under ``incoming/`` and renamed when its bytes are on disk, so a reader sees all of it or none of it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        with disk_errors(root):
            make_folder(self._incoming)

    def put(self, chunks: Iterable[bytes], digest: str | None = None) -> tuple[str, int]:
        draft = self._incoming / f"{os.getpid()}-{secrets.token_hex(8)}"
        meter = _Meter(chunks)
        with disk_errors(self._root):
            write_new(draft, meter)
            try:
                check(meter.digest, digest)
                target = self._file(meter.digest)
                make_folder(target.parent)
                # Replaces a blob that is there already: same bytes, and it heals one that was damaged at rest.
                move_into_place(draft, target)
            finally:
                draft.unlink(missing_ok=True)
        return meter.digest, meter.size_bytes

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        try:
            file = self._file(digest).open("rb")
        except FileNotFoundError:
            raise missing(digest) from None
        return _chunks(file, offset)

    def get(self, digest: str, max_bytes: int = 64 * 2**20) -> bytes:
        size_bytes = self.size(digest)
        if size_bytes is None:
            raise missing(digest)
        if size_bytes > max_bytes:
            raise too_large(digest, size_bytes, max_bytes)
        content = b"".join(self.open(digest))
        check(digests.of_bytes(content), digest)
        return content

    def size(self, digest: str) -> int | None:
        try:
            return self._file(digest).stat().st_size
        except FileNotFoundError:
            return None

    def path(self, digest: str) -> str | None:
        file = self._file(digest)
        return str(file) if file.is_file() else None

    def verify(self, digest: str) -> bool:
        try:
            return digests.of_chunks(self.open(digest)) == digest
        except BlobMissing:
            return False

    def sweep(self, older_than_s: float, now: float) -> int:
        """Remove drafts that a crashed writer left; returns how many. Drafts younger than ``older_than_s`` may be in use."""
        drafts = [draft for draft in self._incoming.iterdir() if draft.stat().st_mtime < now - older_than_s]
        for draft in drafts:
            draft.unlink(missing_ok=True)
        return len(drafts)

    def _file(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise missing(digest)
        kind, _, name = digest.partition(":")
        return self._root / kind / name[:2] / name[2:]


class _Meter:
    """Passes chunks on while it counts and digests them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._state = hashlib.sha256()
        self.size_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._state.update(chunk)
            self.size_bytes += len(chunk)
            yield chunk

    @property
    def digest(self) -> str:
        return "sha256:" + self._state.hexdigest()


def _chunks(file: BinaryIO, offset: int) -> Iterator[bytes]:
    with file:
        file.seek(offset)
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
