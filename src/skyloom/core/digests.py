"""Content digests: ``sha256:`` and 64 hex digits, the only name that bytes have."""

import hashlib
from collections.abc import Iterable

import msgspec


def of_bytes(content: bytes) -> str:
    """Digest some bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def of_chunks(chunks: Iterable[bytes]) -> str:
    """Digest bytes that come in pieces."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def of_value(value: object) -> str:
    """Digest a value by its canonical JSON (sorted keys): equal values, equal digests."""
    try:
        content = msgspec.json.encode(value, order="deterministic")
    except TypeError:  # keys that are numbers: msgspec sorts only words
        content = msgspec.json.encode(msgspec.to_builtins(value, str_keys=True), order="deterministic")
    return of_bytes(content)
