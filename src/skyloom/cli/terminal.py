"""This terminal, lent to a command somewhere else: raw while it runs, and as it was afterwards."""

import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator

from skyloom.ports.channel import Size

_CHUNK_BYTES = 4_096


def is_interactive() -> bool:
    """A person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def size() -> Size:
    """Of this terminal, in characters."""
    found = shutil.get_terminal_size()
    return Size(rows=min(max(1, found.lines), 2_000), columns=min(max(1, found.columns), 2_000))


def keys() -> bytes:
    """What was typed or piped in since; empty at the end."""
    return os.read(sys.stdin.fileno(), _CHUNK_BYTES)


@contextlib.contextmanager
def lent(on_resize: Callable[[Size], None]) -> Iterator[None]:
    """Pass every key on, Ctrl-C too, and say when the window changes its size; at the end all is as before."""
    before = termios.tcgetattr(sys.stdin)
    earlier = signal.signal(signal.SIGWINCH, lambda *_: on_resize(size()))
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, earlier)
