"""Sealing: bytes that only who has the key can read, and that nobody can change or put elsewhere unseen."""

from typing import Protocol

from skyloom.core.errors import SkyloomError


class SealBroken(SkyloomError):
    """The bytes were sealed with another key or for another place, or they were changed."""


class Sealer(Protocol):
    """Authenticated encryption. Stateless and thread-safe; never blocks."""

    def new_key(self) -> bytes:
        """A fresh random key."""
        ...

    def seal(self, key: bytes, content: bytes, place: str) -> bytes:
        """Encrypt. Two calls give different bytes. ``place`` is not stored; the same has to be named to open it."""
        ...

    def open(self, key: bytes, sealed: bytes, place: str) -> bytes:
        """Decrypt. Raises `SealBroken`."""
        ...
