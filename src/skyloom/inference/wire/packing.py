"""Bodies that travel compressed (RFC 9110 §8.4): requests are unpacked within a bound, answers packed for those who ask."""

import re
import zlib
from collections.abc import Mapping

from skyloom.core.errors import LimitExceeded
from skyloom.inference.codec import RequestUnreadable
from skyloom.inference.wire.messages import Response

_GZIP_BITS, _ZLIB_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
_BITS = {b"gzip": _GZIP_BITS, b"x-gzip": _GZIP_BITS, b"deflate": _ZLIB_BITS}
ENCODINGS = frozenset({b"identity", *_BITS})
# What fits into the first flight of a connection (ten segments) arrives no sooner for being smaller; what is
# larger than the other bound would hold up everybody else while it is packed.
_MIN_BYTES, _MAX_BYTES = 14_600, 2**20
_WANTED = re.compile(rb"\s*([a-z-]+|\*)\s*(?:;\s*q\s*=\s*([0-9.]{1,5})\s*)?(?:,|$)", re.IGNORECASE)


class UnpackedTooLarge(LimitExceeded):
    """Unpacked, a body is larger than a body may be."""


def unpacked(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Undo one of `ENCODINGS`. Raises `UnpackedTooLarge`, `RequestUnreadable`."""
    bits = _BITS.get(encoding.lower())
    if bits is None:
        return body
    if _says_too_much(body, encoding, max_bytes):
        raise _too_large(max_bytes)
    unpacker = zlib.decompressobj(bits)
    try:
        made = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RequestUnreadable(
            "The body is not what its Content-Encoding says.", next_action="Send gzip, deflate (zlib) or identity."
        ) from error
    if len(made) > max_bytes:
        raise _too_large(max_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestUnreadable("The compressed body does not end where it should.", next_action="Send it again.")
    return made


def unpacked_at_once(body: bytes, encoding: bytes, max_bytes: int) -> bytes | None:
    """As `unpacked`, but None for what is larger than 1 MiB: that would hold up everybody else."""
    try:
        return unpacked(body, encoding, min(max_bytes, _MAX_BYTES))
    except UnpackedTooLarge:
        if max_bytes <= _MAX_BYTES or _says_too_much(body, encoding, max_bytes):
            raise _too_large(max_bytes) from None
        return None


def _says_too_much(body: bytes, encoding: bytes, max_bytes: int) -> bool:
    """gzip says its size at its end. It may lie, but then it is found out; an honest bomb costs nothing."""
    is_gzip = _BITS.get(encoding.lower()) == _GZIP_BITS and body.startswith(b"\x1f\x8b") and len(body) >= 18
    return is_gzip and int.from_bytes(body[-4:], "little") > max_bytes


def packed(response: Response, headers: Mapping[bytes, bytes]) -> Response:
    """Compress an answer in place if its client asked for it and it is worth it."""
    if not _MIN_BYTES < len(response.body) <= _MAX_BYTES or (wanted := headers.get(b"accept-encoding")) is None:
        return response
    encoding = _best(wanted)
    if encoding:
        packer = zlib.compressobj(1, zlib.DEFLATED, _BITS[encoding])
        response.body = packer.compress(response.body) + packer.flush()
        response.headers = (*response.headers, (b"content-encoding", encoding), (b"vary", b"accept-encoding"))
    return response


def _best(wanted: bytes) -> bytes:
    """Which of ours a client likes most, or b"" for none."""
    liked: dict[bytes, float] = {}
    for match in _WANTED.finditer(wanted[:400]):
        try:
            liked[match[1].lower()] = float(match[2]) if match[2] else 1.0
        except ValueError:
            return b""
    others = liked.get(b"*", 0.0)
    gzip, deflate = liked.get(b"gzip", others), liked.get(b"deflate", others)
    if max(gzip, deflate) <= 0:
        return b""
    return b"gzip" if gzip >= deflate else b"deflate"


def _too_large(max_bytes: int) -> UnpackedTooLarge:
    return UnpackedTooLarge(f"Unpacked, the body is larger than {max_bytes} bytes.", next_action="Send less.")
