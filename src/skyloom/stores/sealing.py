"""`AesGcmSealer`: the port over AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce, which stands before the sealed bytes.

A key seals far fewer than the 2**32 messages for which random nonces are safe.
"""

import os
from typing import TYPE_CHECKING

from skyloom.core.errors import Unavailable
from skyloom.ports.sealing import SealBroken

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BITS, _NONCE_BYTES = 256, 12


class SealingUnavailable(Unavailable):
    """The library that encrypts is not installed."""


class AesGcmSealer:
    """Seals with the `cryptography` library, which is imported when the first secret is."""

    def new_key(self) -> bytes:
        return os.urandom(_KEY_BITS // 8)

    def seal(self, key: bytes, content: bytes, place: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + _cipher(key).encrypt(nonce, content, place.encode())

    def open(self, key: bytes, sealed: bytes, place: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return _cipher(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise SealBroken(
                "A secret cannot be opened: it was sealed with another master key, or it was changed.",
                next_action="Put back the master key of this cloud (the file `master` in its folder), or set the secret again.",
            ) from error


def _cipher(key: bytes) -> "AESGCM":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise SealingUnavailable(
            "Secrets need the package cryptography.", next_action="Install it: pip install 'skyloom[local]'."
        ) from error
    return AESGCM(key)
