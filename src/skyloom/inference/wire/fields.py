"""Header blocks of HTTP/2: reading them (HPACK, RFC 7541) and writing ours.

A client sends the same few blocks again and again, so what a block meant is remembered as long as the table it was read with stands.
Ours never touch the client's table: literals without indexing, written once.
"""

import functools
import re
from collections.abc import Iterable, Iterator

import hpack
from hpack.hpack import Decoder

from skyloom.inference.wire.frames import ConnectionBroken, ErrorCode, StreamBroken
from skyloom.inference.wire.messages import SINGLE, Head

_MAX_BLOCK_BYTES = 2**17
_PIECE_BYTES = (
    2_048  # reading a block copies for each of its fields all that stands behind it, so a long one is read in pieces
)
_PLAIN_BYTES = 256  # a block this short cannot cost much, whatever stands in it
# Reading takes 4 µs a field and 0.2 µs a byte of Huffman's code, before anybody has looked at a token: 2 ms at most.
_MAX_FIELDS, _MAX_WORK_BYTES, _FIELD_BYTES = 256, 11_000, 20
_MAX_KNOWN, _MAX_KNOWN_BYTES = 32, 2_048
_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_NEEDED = frozenset({b":method", b":scheme", b":path"})
# They speak of a connection, and an HTTP/2 request has none of its own (RFC 9113 §8.2.2).
_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_LONG = 127
_SHORT = [bytes((length,)) for length in range(_LONG)]

_UNSAFE = re.compile(rb"[\0\r\n]")  # RFC 9113 §8.2.1: they end a line where fields are written as lines


class HeadTooLarge(Exception):
    """The headers of one request are over the bound."""


class FieldReader:
    """Reads the header blocks of one connection, in their order.

    Args:
        max_bytes: of one head, counted as RFC 9113 §6.5.2 does.

    Attributes:
        max_block_bytes: of one header block; a longer one ends the connection.
        cost_bytes: what the head that was read last holds in memory for itself; a remembered one is shared.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # A head over our bound is still read, since the next ones build upon it; one this large ends the connection.
        self.max_block_bytes = max(max_bytes, _MAX_BLOCK_BYTES)
        self.cost_bytes = 0
        self._decoder = Decoder(max_header_list_size=self.max_block_bytes)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes, stream: int) -> Head:
        """The head of a request. Raises `ConnectionBroken` when it cannot be read, `StreamBroken` when it is no request's,
        `HeadTooLarge`."""
        found = self._known.get(block)
        self.cost_bytes = 0
        if found is None:
            fields, is_stable = self._decode(block)
            size = sum(len(name) + len(value) + 32 for name, value in fields)
            if size > self._max_bytes:
                raise HeadTooLarge
            self.cost_bytes = size
            found = _head(fields, stream)
            if is_stable and max(len(block), size) <= _MAX_KNOWN_BYTES and len(self._known) < _MAX_KNOWN:
                self._known[block] = found
        return found

    def skip(self, block: bytes) -> None:
        """Read a block whose content does not matter: those that follow build upon it. Raises `ConnectionBroken`."""
        self._decode(block)

    def _decode(self, block: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
        if len(block) > self.max_block_bytes:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "a header block that does not end")
        table = self._decoder.header_table
        entries = table.dynamic_entries
        before = (table.maxsize, len(entries), entries[0] if entries else None)
        try:
            fields = [
                (bytes(name), bytes(value))
                for piece in ((block,) if len(block) <= _PLAIN_BYTES else _pieces(block))
                for name, value in self._decoder.decode(piece, raw=True)
            ]
            if sum(len(name) + len(value) + 32 for name, value in fields) > self.max_block_bytes:
                raise hpack.OversizedHeaderListError("larger than heads may be")
        except hpack.HPACKError as error:
            raise ConnectionBroken(
                ErrorCode.COMPRESSION_ERROR, f"a header block that cannot be read: {error}"
            ) from None
        first = entries[0] if entries else None
        # The size counts too: it says when the next entries push out the oldest.
        is_stable = (table.maxsize, len(entries)) == before[:2] and first is before[2]
        if not is_stable:
            self._known.clear()  # numbers mean other fields from now on
        return fields, is_stable


def _pieces(block: bytes) -> Iterator[bytes]:
    """Cut a block between fields. Raises `ConnectionBroken`: there are too many of them, or too much of them is Huffman's code.

    What is refused is not read, so the blocks behind it could not be: RFC 9113 §10.5.1 lets the connection end.
    """
    start = at = num_fields = num_coded = 0
    while at < len(block):
        first = block[at]
        prefix = 7 if first & 0x80 else 6 if first & 0x40 else 5 if first & 0x20 else 4
        number, at = _number(block, at, prefix)
        if prefix in (6, 4):
            for _ in range(1 if number else 2):  # a name that is no number, and a value
                is_coded = at < len(block) and block[at] & 0x80
                length, at = _number(block, at, 7)
                at += length
                num_coded += length if is_coded else 0
        num_fields += 1
        if num_fields > _MAX_FIELDS or num_coded + num_fields * _FIELD_BYTES > _MAX_WORK_BYTES:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "a header block that takes too long to read")
        if at - start >= _PIECE_BYTES:
            yield block[start:at]
            start = at
    if start < len(block):
        yield block[start:]


def _number(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """A number of RFC 7541 §5.1, and where it ends. What is broken ends behind the block, and is found out when it is read."""
    if at >= len(block):
        return 0, at
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 35, 7):
        if at >= len(block):
            break
        value += (block[at] & 0x7F) << shift
        at += 1
        if not block[at - 1] & 0x80:
            return value, at
    return value, len(block)


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block of literals that no table remembers. Names are lower-case."""
    return b"".join([_named(name) + _sized(value) for name, value in fields])


@functools.lru_cache(maxsize=64)
def known_block(status: int, content_type: bytes) -> bytes:
    """The block that most answers begin with."""
    return block(((b":status", b"%d" % status), (b"content-type", content_type)))


@functools.lru_cache(maxsize=256)
def _named(name: bytes) -> bytes:
    return b"\x00" + _sized(name)


def _sized(part: bytes) -> bytes:
    length = len(part)
    return (_SHORT[length] if length < _LONG else _integer(length)) + part


def _integer(value: int) -> bytes:
    """A length in HPACK's form with a prefix of 7 bits (RFC 7541 §5.1)."""
    if value < 127:
        return bytes((value,))
    made = bytearray((127,))
    value -= 127
    while value >= 128:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _head(fields: Iterable[tuple[bytes, bytes]], stream: int) -> Head:
    """Check what RFC 9113 §8.3 asks of a request."""
    pseudo: dict[bytes, bytes] = {}
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if _UNSAFE.search(value) or _UNSAFE.search(name):
            raise StreamBroken(stream, ErrorCode.PROTOCOL_ERROR)
        if name.startswith(b":"):
            if headers or name in pseudo or name not in _PSEUDO:
                raise StreamBroken(stream, ErrorCode.PROTOCOL_ERROR)
            pseudo[name] = value
        elif not name or name != name.lower() or name in _HOP or (name == b"te" and value != b"trailers"):
            raise StreamBroken(stream, ErrorCode.PROTOCOL_ERROR)
        elif name in headers:
            # Two of them are two opinions; two tokens, joined, are none that anybody knows.
            if name in SINGLE and name != b"authorization":
                raise StreamBroken(stream, ErrorCode.PROTOCOL_ERROR)
            joint = b"; " if name == b"cookie" else b", "
            headers[name] = headers[name] + joint + value
        else:
            headers[name] = value
    if not pseudo.keys() >= _NEEDED or not pseudo[b":path"]:
        raise StreamBroken(stream, ErrorCode.PROTOCOL_ERROR)
    if b":authority" in pseudo:
        headers[b"host"] = pseudo[b":authority"]
    return Head(pseudo[b":method"], pseudo[b":path"].partition(b"?")[0], headers)
