"""Who may predict: bearer tokens, known only by their digests, in a file that is read again when it changes."""

import hashlib
import hmac
import sys
from pathlib import Path

import msgspec

from skyloom.core.errors import Unauthenticated
from skyloom.rooms.serving.plan import Access

_MAX_BYTES = 4 * 2**20
_SHELF_BYTES = 8  # of a digest: where in the list it would stand
_NONE = (bytes(hashlib.sha256().digest_size),)  # is looked at where nothing stands; no token has this digest


class TokenRefused(Unauthenticated):
    """No token, or one that may not predict here."""


class AccessList:
    """The digests of one file. Fails closed: while the file is gone or damaged nobody gets in.

    Attributes:
        version: grows when the file changed: what was let in before may not be let in again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._digests: (
            dict[bytes, tuple[bytes, ...]] | None
        ) = {}  # by how they begin; None while the list cannot be read
        self.version = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the file again if it changed. Called about once a second, never per request."""
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen == self._seen:
                return
            digests = self._read(found.st_size)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            # What was seen is forgotten: a trouble that passes (no descriptor left) must not outlive its cause.
            self._seen = None
            if self._digests is not None:
                self._digests = None
                self.version += 1
                print(f"access list cannot be read, every token is refused: {type(error).__name__}", file=sys.stderr)
        else:
            self._seen, self._digests = seen, digests
            self.version += 1

    def check(self, authorization: bytes | None) -> None:
        """Raise `TokenRefused` unless the header's value is ``Bearer`` and a known token. Takes as long for ten thousand as for one.

        What time may tell is whether some digest begins as the shown token's does: nobody can find a token by that. Digests themselves
        are compared in constant time, one for a token that is known and one for a token that is not.
        """
        scheme, _, token = (authorization or b"").partition(b" ")
        shown = hashlib.sha256(token.strip()).digest()
        known = False
        for digest in (self._digests or {}).get(shown[:_SHELF_BYTES], _NONE):
            known |= hmac.compare_digest(digest, shown)
        if not known or scheme.lower() != b"bearer":
            raise TokenRefused(
                "No token that may predict here was shown.", next_action="Send the header: Authorization: Bearer TOKEN."
            )

    def _read(self, size_bytes: int) -> dict[bytes, tuple[bytes, ...]]:
        if size_bytes > _MAX_BYTES:
            raise ValueError("too large")
        access = msgspec.json.decode(self._path.read_bytes(), type=Access)
        shelves: dict[bytes, tuple[bytes, ...]] = {}
        for written in dict.fromkeys(access.digests):
            digest = bytes.fromhex(written.removeprefix("sha256:"))
            begin = digest[:_SHELF_BYTES]
            shelves[begin] = (*shelves.get(begin, ()), digest)
        return shelves
