"""The user's process between fork and its first line: a clean process, whatever it was forked from."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from .files import complete_environment
from .processes import die_with_parent

_ALL_SIGNALS = range(1, signal.NSIG)
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")


def fork_user(plan: dict[str, object], warm: bool, output: int) -> tuple[int, int, int]:
    """Fork the user's process. It waits until a byte is written to the returned descriptor; at its end it stops, unrun.

    Returns:
        pid, descriptor that lets it go, descriptor that reads its start error (JSON-free text; empty when it started).
    """
    return _fork(lambda error_write: _become_user(plan, warm, output, error_write))


def fork_guest(plan: dict[str, object], streams: list[int], has_terminal: bool) -> tuple[int, int, int]:
    """Fork a command that runs beside the user's process. Returns what `fork_user` does.

    Args:
        plan: ``argv``, ``environment``, ``cwd``.
        streams: its three standard streams; the first is its terminal if it has one.
    """
    return _fork(lambda error_write: _become_guest(plan, streams, has_terminal, error_write))


def _fork(become: Callable[[int], None]) -> tuple[int, int, int]:
    """Fork a child that waits for its word, and then becomes something else for good; it is given where to say why it could not."""
    go_read, go_write = os.pipe()
    error_read, error_write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go_write)
            die_with_parent()
            if os.getppid() != parent or os.read(go_read, 1) != b"g":
                os._exit(125)  # the supervisor is gone, or decided against it
            become(error_write)
        except BaseException as error:
            os.write(error_write, (getattr(error, "strerror", None) or str(error)).encode())
        finally:
            os._exit(126)
    os.close(go_read)
    os.close(error_write)
    return pid, go_write, error_read


def _become_guest(plan: dict[str, object], streams: list[int], has_terminal: bool, error_write: int) -> None:
    _clean(streams, error_write)
    if has_terminal:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(str(plan["cwd"]))
    _become_program(plan)


def _become_user(plan: dict[str, object], warm: bool, output: int, error_write: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    _clean([null, output, output], error_write)
    os.chdir(str(plan["cwd"]))
    if warm:
        os.close(error_write)
        _run_warm({**plan, "environment": complete_environment(plan)})
    # What prepares the task first gets no secret; it hands them to the task's own program.
    _become_program(plan if plan.get("start") else {**plan, "environment": complete_environment(plan)})


def _become_program(plan: dict[str, object]) -> None:
    environment = plan["environment"]
    argv = plan["argv"]
    assert isinstance(environment, dict) and isinstance(argv, list)
    os.execvpe(argv[0], argv, environment)  # noqa: S606 (no shell is what is wanted)


def _clean(streams: list[int], error_write: int) -> None:
    """Own session, default signals, no inherited descriptor but the three streams, first in line when memory runs out."""
    os.setsid()
    os.umask(0o077)
    signal.set_wakeup_fd(-1)
    for number in _ALL_SIGNALS:
        if number in (signal.SIGKILL, signal.SIGSTOP) or 32 <= number < signal.SIGRTMIN:
            continue
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for target, source in enumerate(streams):  # each lies above 2: a supervisor has its own three open
        os.dup2(source, target)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != error_write:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor that listed the folder
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass  # a hint to the kernel, no promise of ours


def _run_warm(plan: dict[str, object]) -> None:
    """Run the plan's Python in this forked interpreter, end it as a Python program ends, and never return."""
    from . import python  # the cold path does not pay for it

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in _IGNORED_BY_PYTHON:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    python.finish(python.run(plan))
    sys.exit(126)
