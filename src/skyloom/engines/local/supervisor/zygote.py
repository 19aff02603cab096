"""The warm pool: one process that has the slow imports done and forks supervisors on request.

It has one thread, holds no task, and ends when the engine's end of its socket closes, for whatever reason. What it forked lives on.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import weakref

from . import child, shim  # noqa: F401 (loaded before the fork, so that no task waits for it)


def main(argument: str) -> int:
    """Serve on the socket ``FD:module,module,...``; imports that fail are reported and done without."""
    number, _, modules = argument.partition(":")
    channel = socket.socket(fileno=int(number))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps supervisors that end before us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loaded = [name for name in modules.split(",") if name and _import(name)]
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        # torch takes its operators apart at exit, which would cost every task 0.1 s for nothing.
        finalizer.atexit = False
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy every page it looks at
    channel.sendall(json.dumps({"ready": loaded}).encode() + b"\n")
    requests = channel.makefile("rb")
    for line in requests:
        pid = os.fork()
        if pid == 0:
            _become_shim(json.loads(line)["folder"])
        channel.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    return 0


def _import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"warm pool goes without {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


def _become_shim(folder: str) -> None:
    """Runs in the fork and never returns."""
    code = 1
    try:
        os.setsid()
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                try:
                    os.close(int(name))
                except OSError:
                    pass  # the descriptor that listed the folder
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = shim.main(folder, warm=True)
    finally:
        os._exit(code)
