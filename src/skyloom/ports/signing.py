"""Signing: bytes that anybody can check and only who has the key can sign."""

from typing import Protocol


class Signer(Protocol):
    """Ed25519 signatures (RFC 8032). Stateless and thread-safe; never blocks."""

    def new_key(self) -> tuple[bytes, bytes]:
        """A fresh key: the private half and the public one, 32 bytes each."""
        ...

    def sign(self, private: bytes, content: bytes) -> bytes:
        """Sign. The same key and bytes always give the same 64 bytes."""
        ...
