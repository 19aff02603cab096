"""What the data plane and a service's process say to each other: MessagePack in frames, large contents in shared memory.

A frame is four bytes of length and a message. Contents above `LENT_BYTES` lie in a sealed memory file of the sender's: the frame
names it, the receiver maps it, and says when it has. A sealed file can neither shrink nor change, so a service that goes wild
cannot take the data plane down with it.
"""

import fcntl
import mmap
import os
from collections.abc import Callable, Sequence

import msgspec

# Measured, one call and its body: 64 KiB take 0.16 ms through the socket and 0.29 ms as a file, 128 KiB 0.49 and 0.39, 600 kB 1.7 and 0.53,
# 4 MiB 13 and 3.9.
LENT_BYTES = 96 * 1024
MAX_FRAME_BYTES = 2**26
MAX_LENT_BYTES = 2**31
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Lent(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """A content that lies in the sender's memory file."""

    file: int
    size: int


Content = bytes | Lent


class Named(msgspec.Struct, frozen=True, array_like=True):
    """One array: its bytes as they lie in memory, rows first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Content


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Call a method. ``is_raw``: the content is the method's only argument as it is, else JSON. Arrays come instead of a content."""

    call: int
    method: str
    content: Content = b""
    is_raw: bool = False
    arrays: tuple[Named, ...] | None = None


class GiveUp(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Nobody waits for this call any more."""

    call: int


class Taken(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The receiver has mapped what was lent; the lender may let go of its file."""

    file: int


class More(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The client has taken so many parts of a call: so many more may be made."""

    call: int
    num_parts: int


class SetUp(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The service has been set up and takes calls."""

    setup_s: float


class Part(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """One part of an answer, as JSON."""

    call: int
    content: Content


class Finished(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The call is over; its answer as JSON, as raw bytes, or as arrays. After parts it is empty."""

    call: int
    content: Content = b""
    is_raw: bool = False
    arrays: tuple[Named, ...] | None = None


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The call failed. ``is_callers``: the arguments were wrong. The words are for the client; a trace is in the log."""

    call: int
    is_callers: bool
    message: str


class Unfit(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """The service cannot be set up; the process ends."""

    message: str


ToWorker = Ask | GiveUp | Taken | More
FromWorker = SetUp | Part | Finished | Failed | Unfit | Taken
_encoder = msgspec.msgpack.Encoder()


class FrameBroken(Exception):
    """The other side does not speak the protocol."""


class Frames:
    """Cuts a stream of bytes into messages."""

    def __init__(self, kind: object, heard: Callable[[object], None]) -> None:
        self._decoder: msgspec.msgpack.Decoder[object] = msgspec.msgpack.Decoder(kind)
        self._heard = heard
        self._held = bytearray()

    def feed(self, content: bytes) -> None:
        """Take bytes; call back once for each whole message. Raises `FrameBroken`."""
        held = self._held
        held += content
        start = 0
        while len(held) - start >= 4:
            size = int.from_bytes(held[start : start + 4], "big")
            if size > MAX_FRAME_BYTES:
                raise FrameBroken(f"a frame of {size} bytes")
            end = start + 4 + size
            if len(held) < end:
                break
            try:
                message = self._decoder.decode(memoryview(held)[start + 4 : end])
            except msgspec.MsgspecError as error:
                raise FrameBroken(str(error)) from error
            start = end
            self._heard(message)
        if start:
            del held[:start]


def write(message: object) -> bytes:
    """A message as a frame."""
    content = _encoder.encode(message)
    return len(content).to_bytes(4, "big") + content


def lend(parts: Sequence[bytes | memoryview], lent: set[int]) -> Content:
    """Make a content of bytes: in the frame when small, else in a sealed memory file that is added to ``lent`` until it is taken."""
    size = sum(len(part) for part in parts)
    if size > MAX_LENT_BYTES:
        raise ValueError(f"{size} bytes are more than one content may have ({MAX_LENT_BYTES})")
    if size <= LENT_BYTES:
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)
    file = os.memfd_create("skyloom", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            view = memoryview(part)
            while len(view):
                view = view[os.write(file, view) :]
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    lent.add(file)
    return Lent(file, size)


def let_go(file: int, lent: set[int]) -> None:
    """Close a file that was taken, if it was ours to lend."""
    if file in lent:
        lent.discard(file)
        os.close(file)


def take(content: Content, lender: int) -> memoryview:
    """Look at a content of the process ``lender``. The memory lives as long as something looks at it. Raises `FrameBroken`."""
    if isinstance(content, bytes):
        return memoryview(content)
    if not 0 < content.size <= MAX_LENT_BYTES:
        raise FrameBroken(f"{content.size} bytes were lent")
    try:  # without waiting: whoever goes wild may name a pipe
        file = os.open(f"/proc/{lender}/fd/{content.file}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FrameBroken("what was lent is not there") from error
    try:
        # Only a sealed file is believed: reading behind the end of one that shrank would kill this process.
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(file).st_size < content.size:
            raise FrameBroken("what was lent is not sealed")
        mapped = mmap.mmap(file, content.size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
    except OSError as error:
        raise FrameBroken("what was lent cannot be mapped") from error
    finally:
        os.close(file)
    return memoryview(mapped)
