"""The control plane's side of a bridge: starts it, asks it, and starts another one when it hangs or is gone. Ray is not imported here."""

import contextlib
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from skyloom.core.errors import SkyloomError, Unavailable, rebuild
from skyloom.engines.local import environment
from skyloom.engines.ray.wire import Ask, BridgeReply, BridgeRequest, Channel, Opening

T = TypeVar("T")
ANSWER_S = 9.0  # within this long every question is answered or refused
_SILENT_S = 3.0  # a bridge that says nothing for so long may hang
_CONNECT_S = 90.0  # after this long a bridge that reached nothing is given up, and the next question starts another
_REST_S = 2.0  # between a failed connection and the next one
_MAX_LOG_BYTES = 2**20
_MOST_BRIDGES = 2  # for one question


class NotReachedYet(Unavailable):
    """The connection is still being made; nobody has refused it."""


class Questions(Protocol):
    """Whoever answers questions to one cluster."""

    def ask(self, question: Ask, kind: type[T], timeout_s: float = ANSWER_S) -> T:
        """Ask, and wait at most ``timeout_s`` for the answer. Raises `Unavailable` and whatever the other side raised."""
        ...

    def close(self) -> None:
        """Let go of the cluster."""
        ...


class Link:
    """Questions to one cluster. Thread-safe. Nothing is started before the first question.

    Args:
        opening: which cluster.
        log: what the bridge and Ray write.
    """

    def __init__(self, opening: Opening, log: Path) -> None:
        self._opening = opening
        self._token_file = Path(opening.token_file)
        self._log = log
        self._lock = threading.Lock()
        self._bridge: _Bridge | None = None
        self._rest_until = 0.0
        self._refusal: SkyloomError | None = None

    def ask(self, question: Ask, kind: type[T], timeout_s: float = ANSWER_S) -> T:
        """Ask; see `Questions`."""
        deadline = time.monotonic() + timeout_s
        for _ in range(_MOST_BRIDGES):
            bridge = self._running()
            bridge.wait_connected(deadline)
            with contextlib.suppress(_BridgeEnded):  # every question may be asked twice
                return msgspec.msgpack.decode(bridge.ask(question, deadline), type=kind)
        raise Unavailable(
            f"The bridge to the Ray cluster at {self._opening.address} ended while it was asked.",
            next_action="It is started again; see bridge.log in the pool's folder.",
        )

    def _running(self) -> "_Bridge":
        with self._lock:
            if self._bridge is not None and self._bridge.is_over():
                self._refusal = self._bridge.refusal
                self._rest_until = time.monotonic() + (_REST_S if self._refusal else 0.0)
                self._bridge.close()
                self._bridge = None
            if self._bridge is None:
                if self._refusal is not None and time.monotonic() < self._rest_until:
                    raise self._refusal
                self._check_token_file()
                self._bridge = _Bridge(self._opening, self._log)
            return self._bridge

    def _check_token_file(self) -> None:
        try:
            empty = not self._token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise Unavailable(
                f"The token file {self._token_file} of the Ray cluster cannot be read: {why}.",
                next_action="Put the token that the cluster was started with into it.",
            ) from None
        if empty:
            raise Unavailable(
                f"The token file {self._token_file} of the Ray cluster is empty.",
                next_action="Put the token that the cluster was started with into it.",
            )

    def close(self) -> None:
        """End the bridge; the next question would start another."""
        with self._lock:
            if self._bridge is not None:
                self._bridge.close()
                self._bridge = None

    @property
    def bridge_pid(self) -> int:
        """Pid of the bridge; 0 when there is none."""
        with self._lock:
            return self._bridge.pid if self._bridge is not None else 0


class _BridgeEnded(Exception):
    """The process is gone, and with it the question."""


class _Bridge:
    """One bridge process and the thread that hears it."""

    def __init__(self, opening: Opening, log: Path) -> None:
        self.refusal: SkyloomError | None = None
        self._address = opening.address
        self._started = time.monotonic()
        self._numbers = itertools.count(1)
        self._connected = threading.Event()  # or over
        self._over = False
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        ours, theirs = socket.socketpair()
        # A bridge that hangs does not read either: whoever has much to say must not wait for it for ever.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(ANSWER_S), 0))
        with theirs:
            self._process = _spawn(theirs, opening.token_file, log)
        self.pid = self._process.pid
        self._channel = Channel(ours)
        self._channel.send(opening)
        threading.Thread(target=self._hear, daemon=True, name="ray-bridge").start()

    def is_over(self) -> bool:
        """True when it is of no use any more."""
        return self._over or (not self._connected.is_set() and time.monotonic() > self._started + _CONNECT_S)

    def wait_connected(self, deadline: float) -> None:
        """Wait for the cluster. Raises `Unavailable`; the bridge goes on trying when only our patience is over."""
        if not self._connected.wait(max(0.0, deadline - time.monotonic())):
            raise NotReachedYet(
                f"The Ray cluster at {self._address} is not reached yet.", next_action="It is still tried; ask again."
            )
        if self.refusal is not None:
            raise self.refusal

    def ask(self, question: Ask, deadline: float) -> bytes:
        """Send and wait. A bridge that is silent too long is killed: Ray does not always come back. One that had no time is not."""
        waiting = _Waiting()
        number = next(self._numbers)
        asked = time.monotonic()
        with self._lock:
            self._waiting[number] = waiting
        try:
            self._channel.send(BridgeRequest(number=number, ask=question))
        except OSError:
            self._over = True
        if self._over:
            raise _BridgeEnded
        if not waiting.done.wait(max(0.0, deadline - time.monotonic())):
            with self._lock:
                self._waiting.pop(number, None)
            if time.monotonic() > asked + _SILENT_S:
                self._over = True
            raise Unavailable(
                f"The Ray cluster at {self._address} does not answer.", next_action="The connection is made again."
            )
        if waiting.reply is None:
            raise _BridgeEnded
        if waiting.reply.error is not None:
            raise rebuild(waiting.reply.error)
        return waiting.reply.answer

    def _hear(self) -> None:
        while (frame := self._channel.receive()) is not None:
            reply = msgspec.msgpack.decode(frame, type=BridgeReply)
            if reply.number == 0:
                self.refusal = rebuild(reply.error) if reply.error else None
                self._over = reply.error is not None
                self._connected.set()
                continue
            with self._lock:
                waiting = self._waiting.pop(reply.number, None)
            if waiting is not None:
                waiting.reply = reply
                waiting.done.set()
        self._hear_the_end()

    def _hear_the_end(self) -> None:
        self._over = True
        if not self._connected.is_set():
            self.refusal = Unavailable(
                f"The bridge to the Ray cluster at {self._address} ended before it was connected.",
                next_action="See bridge.log in the pool's folder.",
            )
            self._connected.set()
        with self._lock:
            left = list(self._waiting.values())
            self._waiting.clear()
        for waiting in left:
            waiting.done.set()

    def close(self) -> None:
        """End the process."""
        self._over = True
        self._channel.close()
        self._process.kill()
        self._process.wait()


class _Waiting:
    """Somebody who waits for a reply; without one when the bridge ended."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.reply: BridgeReply | None = None


def _spawn(theirs: socket.socket, token_file: str, log: Path) -> "subprocess.Popen[bytes]":
    """Its own session, and an environment of its own: Ray reads dozens of variables, and none is to come in by chance."""
    variables = {
        **environment.base(sys.executable),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": token_file,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        flags |= os.O_TRUNC
    output = os.open(log, flags, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "skyloom.engines.ray.bridge", str(theirs.fileno())],
            env=variables,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(output)
