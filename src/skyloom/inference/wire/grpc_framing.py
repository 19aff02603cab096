"""gRPC's messages in their frames and its statuses in trailers (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md)."""

import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_from_bytes

from skyloom.core.errors import InvalidInput, LimitExceeded, SkyloomError
from skyloom.inference.codec import RequestUnreadable
from skyloom.inference.wire.beside import Beside
from skyloom.inference.wire.messages import Fields, Response
from skyloom.inference.wire.status import GrpcStatus

TYPE = b"application/grpc"
OK: Fields = ((b"grpc-status", b"0"),)
ENCODINGS = b"identity,deflate,gzip"
_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_MAX_TOLD_BYTES = 1_024
_AT_ONCE_BYTES = 2**20  # unpacking more would hold up everybody else


class CompressionUnknown(InvalidInput):
    """A message was packed in a way that is not known here."""


class MessageTooLarge(LimitExceeded):
    """Unpacked, a message is larger than messages may be."""


def framed(message: Any) -> bytes:
    """A message as it stands on the wire."""
    content: bytes = message.SerializeToString()
    return b"\x00" + len(content).to_bytes(4, "big") + content


def unpacked_message(packed: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Undo a message's compression. Raises `CompressionUnknown`, `MessageTooLarge`, `RequestUnreadable`."""
    if encoding == b"identity":
        raise RequestUnreadable(
            "The message says that it is compressed, and grpc-encoding does not say how.",
            next_action="Send grpc-encoding: gzip or deflate.",
        )
    bits = _BITS.get(encoding)
    if bits is None:
        raise CompressionUnknown(
            f"The compression {encoding.decode('latin-1')[:40]!r} is not known.",
            next_action="Use gzip, deflate or none.",
        )
    unpacker = zlib.decompressobj(bits)
    try:
        made = unpacker.decompress(packed, max_bytes + 1)
    except zlib.error as error:
        raise RequestUnreadable("The message cannot be unpacked.", next_action="Send it again.") from error
    if len(made) > max_bytes:
        raise too_large(max_bytes)
    if not unpacker.eof:
        raise RequestUnreadable("The packed message does not end where it should.", next_action="Send it again.")
    return made


def unpack(
    content: bytes,
    encoding: bytes,
    max_bytes: int,
    beside: Beside,
    then: Callable[[bytes], None],
    failed: Callable[[SkyloomError], None],
) -> None:
    """Unpack a message, beside the loop if it is large: ``then`` or ``failed`` is called, maybe at once."""
    try:
        made = unpacked_message(content, encoding, min(max_bytes, _AT_ONCE_BYTES))
    except MessageTooLarge as error:
        if max_bytes <= _AT_ONCE_BYTES:
            failed(error)
            return
        try:
            beside.run(lambda: unpacked_message(content, encoding, max_bytes), then, failed, len(content))
        except SkyloomError as full:
            failed(full)
    except SkyloomError as error:
        failed(error)
    else:
        then(made)


def too_large(max_bytes: int) -> MessageTooLarge:
    """Say how large a message may be."""
    return MessageTooLarge(f"Unpacked, the message is larger than {max_bytes} bytes.", next_action="Send less.")


def trailers_of(code: GrpcStatus, message: str) -> Fields:
    """A status and its reason, as fields."""
    told = quote_from_bytes(message.encode()[:_MAX_TOLD_BYTES], safe=b" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()
    return ((b"grpc-status", b"%d" % code), (b"grpc-message", told))


def status_answer(code: GrpcStatus, message: str, more: Fields = ()) -> Response:
    """An answer without a message: the status stands where headers do."""
    return Response(200, b"", TYPE, (*trailers_of(code, message), *more))
