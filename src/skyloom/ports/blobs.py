"""Blobs: immutable bytes, named by their SHA-256. Bulk bytes never pass the door; only their digests do."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from skyloom.core.errors import InvalidInput, NotFound


class DigestMismatch(InvalidInput):
    """The bytes are not those that the digest names."""


class BlobMissing(NotFound):
    """No blob has that digest."""


class Blobs(Protocol):
    """A store of immutable bytes. Thread-safe."""

    def put(self, chunks: Iterable[bytes], digest: str | None = None) -> tuple[str, int]:
        """Store bytes and return (digest, size). Durable when it returns; a crash leaves no partial blob that can be read.

        Idempotent. Raises `DigestMismatch` when ``digest`` is given and the bytes differ, `StorageFull` when there is no room; in
        both cases nothing is stored.
        """
        ...

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes in chunks. Raises `BlobMissing` before the first chunk. Does not verify: use `verify` or `get`."""
        ...

    def get(self, digest: str, max_bytes: int = 64 * 2**20) -> bytes:
        """Return small bytes whole, verified. Raises `BlobMissing`, `DigestMismatch` (damaged at rest), `LimitExceeded`."""
        ...

    def size(self, digest: str) -> int | None:
        """Size in bytes, or None when absent."""
        ...

    def path(self, digest: str) -> str | None:
        """A local file with the bytes for programs that need one, or None when there is none: it is absent, or this
        store has no local files."""
        ...

    def verify(self, digest: str) -> bool:
        """Read everything and compare; False when damaged or absent."""
        ...
