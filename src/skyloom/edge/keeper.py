"""The keeper: the parent of the serving process. It holds the sockets, so nobody is refused while that process is changed, and starts
it again when it ends. It imports next to nothing: what it has in memory is shared with its child or tiny.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

AGAIN = 75
_ORDERLY = (
    0,
    AGAIN,
    -signal.SIGTERM,
    -signal.SIGINT,
)  # a terminal sends SIGINT to both, maybe before the child listens for it
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 0.2, 30.0, 60.0


def listen(port: int) -> socket.socket:
    """Listen on this machine's own address only. Raises ``OSError``."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(256)
    except OSError:
        listener.close()
        raise
    return listener


def keep(serve: Callable[[], int]) -> int:
    """Run ``serve`` in a child, and again whenever it ends, until told to stop; returns the exit code."""
    stop = _Stop()
    failures = 0
    while not stop.asked:
        began, keeper = time.monotonic(), os.getpid()
        stop.child = os.fork()
        if stop.child == 0:
            _child(serve, keeper, stop)
        if stop.asked:  # the signal came between the question and the child
            os.kill(stop.child, signal.SIGTERM)
        code = _waited(stop.child)
        stop.child = 0
        if stop.asked:
            return 0 if code in _ORDERLY else 1
        if code == AGAIN:
            failures = 0
            continue
        failures = 0 if time.monotonic() - began > _STEADY_S else failures + 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures, 20))
        print(
            f"skyloom edge: the serving process ended ({code}); again in {pause_s:.1f} s", file=sys.stderr, flush=True
        )
        stop.wait(pause_s)
    return 0


class _Stop:
    """Whether SIGTERM or SIGINT came; both are passed on to the child."""

    def __init__(self) -> None:
        self.asked, self.child = False, 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._come)

    def _come(self, _number: int, _frame: object) -> None:
        self.asked = True
        if self.child > 0:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and nobody has written that down yet
                os.kill(self.child, signal.SIGTERM)

    def wait(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while not self.asked and (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.2))


def _child(serve: Callable[[], int], keeper: int, stop: "_Stop") -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if stop.asked:  # the signal came before the line above, and nobody sends it again
        os._exit(0)
    _end_with(keeper)
    code = 1
    try:
        code = serve()
    except BaseException as error:
        print(f"skyloom edge: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _end_with(keeper: int) -> None:
    """A keeper that is killed takes its child with it: the next keeper wants the sockets and the folder."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != keeper:  # it was gone before that
        os._exit(1)


def _waited(child: int) -> int:
    while True:
        try:
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status)
        except InterruptedError:
            continue


def ports_of(listeners: Sequence[socket.socket]) -> list[int]:
    """Where they listen."""
    return [int(listener.getsockname()[1]) for listener in listeners]
