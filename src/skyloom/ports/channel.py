"""Two-way connections to the inside of a running task: a command that runs there, or a port that listens there."""

import enum
from collections.abc import Mapping
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

# The kernel takes no longer one, and none with a zero byte.
Argument = Annotated[str, Meta(max_length=100_000, pattern=r"^[^\x00]*$")]
Side = Annotated[int, Meta(ge=1, le=2_000)]


class Stream(enum.IntEnum):
    """What bytes are. The first byte of every frame on the wire is one of these."""

    INPUT = 0
    OUTPUT = 1
    ERRORS = 2
    CONTROL = 3  # a `Control` as JSON


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Of a terminal, in characters."""

    rows: Side = 24
    columns: Side = 80


class Control(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the two ends of a channel tell each other beside bytes.

    Attributes:
        size: the terminal has another size now.
        input_ended: nothing more comes from the client.
        exit_code, signal: how the command ended; the last frame of it.
        message: why the channel is closed before its end.
    """

    size: Size | None = None
    input_ended: bool = False
    exit_code: int | None = None
    signal: int | None = None
    message: Annotated[str, Meta(max_length=1_000)] = ""


class GuestCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command to run inside of a task: among its processes, in its folder, with its variables, under its limits.

    Attributes:
        terminal: its size when the command gets a terminal of its own; None for plain pipes.
        kind_of_terminal: the value of ``TERM``.
    """

    argv: tuple[str, ...]
    terminal: Size | None = None
    kind_of_terminal: str = "xterm"


class TaskChannel(Protocol):
    """An open connection. Its descriptors do not block; who holds the channel reads and writes them, and waits for them.

    Attributes:
        input: to write to; -1 once `end_input` was called and there is nothing to write to any more.
        outputs: to read from until each ends (an empty read, or ``EIO`` of a terminal).
        over: becomes readable when `outcome` has an answer; -1 for a port, which has none.
    """

    input: int
    outputs: Mapping[Stream, int]
    over: int

    def outcome(self) -> Control | None:
        """How the command ended; None while it runs. Does not block."""
        ...

    def end_input(self) -> None:
        """Tell the other end that nothing more comes. Idempotent."""
        ...

    def resize(self, size: Size) -> None:
        """Change the size of the terminal; ignored where there is none."""
        ...

    def close(self) -> None:
        """Let go. A command that still runs is ended, with all it started. Idempotent."""
        ...
