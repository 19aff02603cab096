"""Blobs in memory, for tests."""

from collections.abc import Iterable, Iterator

from skyloom.blobs.refusals import check, missing, too_large
from skyloom.core import digests

_CHUNK_BYTES = 2**20


class MemoryBlobs:
    """A store that forgets everything when the process ends."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, chunks: Iterable[bytes], digest: str | None = None) -> tuple[str, int]:
        content = b"".join(chunks)
        found = digests.of_bytes(content)
        check(found, digest)
        self._blobs[found] = content
        return found, len(content)

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        if digest not in self._blobs:
            raise missing(digest)
        content = self._blobs[digest]
        return (content[at : at + _CHUNK_BYTES] for at in range(offset, len(content), _CHUNK_BYTES))

    def get(self, digest: str, max_bytes: int = 64 * 2**20) -> bytes:
        if digest not in self._blobs:
            raise missing(digest)
        content = self._blobs[digest]
        if len(content) > max_bytes:
            raise too_large(digest, len(content), max_bytes)
        check(digests.of_bytes(content), digest)
        return content

    def size(self, digest: str) -> int | None:
        return len(self._blobs[digest]) if digest in self._blobs else None

    def path(self, digest: str) -> str | None:
        return None

    def verify(self, digest: str) -> bool:
        return digest in self._blobs and digests.of_bytes(self._blobs[digest]) == digest

    def damage(self, digest: str, content: bytes) -> None:
        """Tests only: replace the bytes behind a digest, as a bad disk would."""
        self._blobs[digest] = content
