"""What every blob store says when it refuses."""

from skyloom.core.errors import LimitExceeded
from skyloom.core.resources import show_bytes
from skyloom.ports.blobs import BlobMissing, DigestMismatch


def check(found: str, expected: str | None) -> None:
    """Raise `DigestMismatch` when bytes are not what their name says."""
    if expected is not None and found != expected:
        raise DigestMismatch(
            f"The bytes have the digest {found}, not {expected}.",
            next_action="They were damaged or changed on the way: send or store them again.",
        )


def too_large(digest: str, size_bytes: int, max_bytes: int) -> LimitExceeded:
    """The error for a blob that is larger than the caller wants in memory."""
    return LimitExceeded(
        f"Blob {digest} has {show_bytes(size_bytes)}, more than the {show_bytes(max_bytes)} asked for at once.",
        next_action="Read it in chunks.",
    )


def missing(digest: str) -> BlobMissing:
    """The error for a digest that names nothing here."""
    return BlobMissing(f"There is no blob {digest}.", next_action="Upload it first, or check the digest.")
