"""Into a running task from here: run a command there, or have a port of it listen on this machine."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO
from urllib.parse import quote

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from skyloom.core.errors import ErrorBody, SkyloomError, Unavailable, rebuild
from skyloom.ports.channel import Control, Size, Stream
from skyloom.rooms.jobs.model import Session
from skyloom.sdk.client import Client
from skyloom.sdk.transport import Transport

_CHUNK_BYTES = 64 * 1024
_OPEN_S = 30.0
_LOCAL = "127.0.0.1"


class TunnelClosed(Unavailable):
    """The connection into a task broke before its end."""


class Tunnel:
    """One open connection into a task. Use it in a ``with``; one thread may send while another receives."""

    def __init__(self, socket: ClientConnection, held: contextlib.ExitStack) -> None:
        self._socket = socket
        self._held = held

    def __enter__(self) -> "Tunnel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, content: bytes) -> None:
        """Send bytes to the other end. Raises `TunnelClosed`."""
        for start in range(0, len(content), _CHUNK_BYTES):
            self._frame(Stream.INPUT, content[start : start + _CHUNK_BYTES])

    def tell(self, control: Control) -> None:
        """Say that the input ended, or that the terminal has another size. Raises `TunnelClosed`."""
        self._frame(Stream.CONTROL, msgspec.json.encode(control))

    def _frame(self, kind: Stream, content: bytes) -> None:
        try:
            self._socket.send(bytes([kind]) + content)
        except (ConnectionClosed, OSError) as error:
            raise TunnelClosed("The connection into the task is closed.", next_action="Open it again.") from error

    def __iter__(self) -> Iterator[tuple[Stream, bytes]]:
        """Yield what comes, until the other end closes. Raises `TunnelClosed` when the connection breaks."""
        try:
            for frame in self._socket:
                if isinstance(frame, bytes) and frame and frame[0] in set(Stream):
                    yield Stream(frame[0]), frame[1:]
        except (ConnectionClosed, OSError) as error:
            raise TunnelClosed(
                f"The connection into the task broke: {error}.", next_action="Does the job still run? skyloom job show."
            ) from error

    def close(self) -> None:
        """End it; a command that still runs there is ended."""
        with contextlib.suppress(WebSocketException, OSError):
            self._held.close()


def open_tunnel(transport: Transport, session: Session) -> Tunnel:
    """Open the socket of a session. Raises what the control plane refuses, and `Unavailable`."""
    if not transport.url:
        raise Unavailable("There is no control plane to go through.", next_action="Use a client with an address.")
    place = transport.url.replace("http", "ws", 1)
    address = f"{place}/v1/projects/{quote(transport.project, safe='')}/sessions/{quote(session.id, safe='')}"
    try:
        with contextlib.ExitStack() as held:
            opened = held.enter_context(
                connect(
                    address,
                    additional_headers={"authorization": f"Bearer {transport.token}"},
                    compression=None,
                    open_timeout=_OPEN_S,
                    ping_timeout=None,  # an answer waits behind bytes that nobody takes yet; who is slow is not gone
                    proxy=None,
                    max_size=2**21,
                    user_agent_header=None,
                )
            )
            return Tunnel(opened, held.pop_all())
    except InvalidStatus as refusal:
        raise _refusal(refusal) from refusal
    except (WebSocketException, OSError) as error:
        raise Unavailable(
            f"The control plane at {transport.url} opens no connection: {error}.", next_action="Try again."
        ) from error


def _refusal(refusal: InvalidStatus) -> SkyloomError:
    try:
        return rebuild(msgspec.json.decode(refusal.response.body or b"", type=ErrorBody))
    except msgspec.MsgspecError:
        return Unavailable(
            f"The control plane answered {refusal.response.status_code}.",
            next_action="Check SKYLOOM_URL: does something between change requests?",
        )


def run_inside(tunnel: Tunnel, source: Callable[[], bytes] | None, output: BinaryIO, errors: BinaryIO) -> Control:
    """Carry a command's input and output until it ends; returns how. Raises `TunnelClosed`.

    Args:
        source: gives the next bytes of the input, and none at its end; called in a thread of its own. None for no input.
    """
    threading.Thread(target=_feed, args=(tunnel, source), daemon=True).start()
    for kind, content in tunnel:
        if kind is Stream.CONTROL:
            control = msgspec.json.decode(content, type=Control)
            if control.message and control.exit_code is None and control.signal is None:
                raise TunnelClosed(
                    f"The connection into the task was closed: {control.message}.", next_action="Open it again."
                )
            return control
        target = errors if kind is Stream.ERRORS else output
        target.write(content)
        target.flush()
    raise TunnelClosed(
        "The connection into the task was closed.", next_action="Does the job still run? skyloom job show."
    )


def _feed(tunnel: Tunnel, source: Callable[[], bytes] | None) -> None:
    with contextlib.suppress(TunnelClosed, OSError):
        while source is not None and (content := source()):
            tunnel.send(content)
        tunnel.tell(Control(input_ended=True))


def resized(tunnel: Tunnel, size: Size) -> None:
    """Tell the other end that the terminal has another size; a tunnel that is closed is left alone."""
    with contextlib.suppress(TunnelClosed):
        tunnel.tell(Control(size=size))


class Forward:
    """A port of a task that listens on this machine, on loopback only. Each connection is one tunnel.

    Raises `Unavailable` when the local port is taken, and what `JobCalls.forward` raises.
    """

    def __init__(self, cloud: Client, job_id: str, port: int, *, local_port: int = 0, rank: int = 0) -> None:
        self._cloud = cloud
        self._job_id = job_id
        self._port = port
        self._rank = rank
        self._session = cloud.jobs.forward(job_id, port, rank=rank)
        self._session_lock = threading.Lock()
        try:
            self._door = socket.create_server((_LOCAL, local_port))
        except OSError as error:
            raise Unavailable(
                f"Port {local_port} of this machine cannot be listened on: {error.strerror}.",
                next_action="Name another: PORT:LOCAL.",
            ) from error
        self.local_port: int = self._door.getsockname()[1]

    def serve(self, tell: Callable[[SkyloomError], object]) -> None:
        """Take connections until `close`. ``tell`` hears why one could not be made."""
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._carry, args=(client, tell), daemon=True).start()

    def close(self) -> None:
        """Stop listening. Open connections end with this process, or by themselves."""
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._door.close()

    def _carry(self, client: socket.socket, tell: Callable[[SkyloomError], object]) -> None:
        with client:
            try:
                tunnel = self._tunnel()
            except SkyloomError as error:
                tell(error)
                return
            with tunnel:
                threading.Thread(target=_feed, args=(tunnel, _reader(client)), daemon=True).start()
                with contextlib.suppress(OSError, TunnelClosed):
                    for kind, content in tunnel:
                        if kind is Stream.OUTPUT:
                            client.sendall(content)
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def _tunnel(self) -> Tunnel:
        """A tunnel by the session there is; by a new one when that was forgotten, or the job has started again."""
        try:
            return open_tunnel(self._cloud.transport, self._session)
        except SkyloomError as error:
            if error.code not in ("session_missing", "task_not_there"):
                raise
        with self._session_lock:
            self._session = self._cloud.jobs.forward(self._job_id, self._port, rank=self._rank)
        return open_tunnel(self._cloud.transport, self._session)


def _reader(client: socket.socket) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return client.recv(_CHUNK_BYTES)
        except OSError:
            return b""

    return read
