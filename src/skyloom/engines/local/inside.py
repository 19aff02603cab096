"""Going inside of a running task: a command that its supervisor runs for us, or a port that one of its processes listens on."""

import contextlib
import json
import os
import pty
import secrets
import socket
import struct
import termios
from collections.abc import Iterator, Mapping
from fcntl import ioctl
from pathlib import Path
from typing import Any

from skyloom.core.errors import InvalidInput, Unavailable
from skyloom.engines.local.folder import ShimRecord, TaskFolder
from skyloom.engines.local.supervisor import processes
from skyloom.ports.channel import Control, GuestCommand, Size, Stream
from skyloom.ports.engine import TaskNotThere

_ANSWER_S = 5.0
_MAX_ANSWER_BYTES = 65_536
_MAX_REQUEST_BYTES = 900_000
_LISTENS = "0A"  # a state of the kernel's table of sockets
_END_OF_INPUT = b"\x04"  # what Ctrl-D is to a terminal
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class GuestRefused(InvalidInput):
    """The command cannot be run inside of the task."""


class LocalChannel:
    """A channel over descriptors of this process; see the port.

    Args:
        visitor: our end of the connection to the task's supervisor; None for a port.
        server: our end of the connection to a port; None for a command.
    """

    def __init__(
        self,
        streams: Mapping[Stream, int],
        *,
        visitor: socket.socket | None = None,
        server: socket.socket | None = None,
        terminal: bool = False,
    ) -> None:
        self.input = streams[Stream.INPUT]
        self.outputs: Mapping[Stream, int] = {
            kind: number for kind, number in streams.items() if kind is not Stream.INPUT
        }
        self.over = visitor.fileno() if visitor else -1
        self._visitor = visitor
        self._server = server
        self._terminal = terminal
        self._outcome: Control | None = None
        self._own = set() if server else set(streams.values())
        for number in {*streams.values()}:
            os.set_blocking(number, False)
        if visitor is not None:
            visitor.setblocking(False)

    def outcome(self) -> Control | None:
        if self._visitor is None or self._outcome is not None:
            return self._outcome
        try:
            content = self._visitor.recv(_MAX_ANSWER_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            content = b""
        told: dict[str, Any] = json.loads(content) if content else {"message": "the task ended"}
        self._outcome = Control(
            exit_code=told.get("exit_code"), signal=told.get("signal"), message=told.get("message", "")
        )
        return self._outcome

    def end_input(self) -> None:
        if self.input < 0:
            return
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_WR)
        elif self._terminal:
            with contextlib.suppress(OSError):
                os.write(self.input, _END_OF_INPUT)
            return  # a terminal's input may go on after that
        else:
            os.close(self.input)
            self._own.discard(self.input)
        self.input = -1

    def resize(self, size: Size) -> None:
        if self._terminal and self._own:
            _set_size(self.input, size)

    def close(self) -> None:
        for number in self._own:
            os.close(number)
        self._own = set()
        for held in (self._visitor, self._server):
            if held is not None:
                held.close()


def enter(folder: TaskFolder, shim: ShimRecord, command: GuestCommand) -> LocalChannel:
    """Have the supervisor of a task run a command; see the port. Raises `GuestRefused`, `TaskNotThere`, `Unavailable`."""
    variables = {"TERM": command.kind_of_terminal} if command.terminal else {}
    request = json.dumps(
        {"argv": command.argv, "environment": variables, "terminal": command.terminal is not None}
    ).encode()
    if len(request) > _MAX_REQUEST_BYTES:
        raise GuestRefused("The command is too long.", next_action="Put it into a script.")
    with contextlib.ExitStack() as on_failure:
        visitor = on_failure.enter_context(_met(folder, shim))
        streams, theirs = _streams(command.terminal)
        for number in {*streams.values()}:
            on_failure.callback(os.close, number)
        try:
            _ask(visitor, request, theirs, command.argv[0])
        finally:
            for number in {*theirs}:
                os.close(number)
        on_failure.pop_all()
    return LocalChannel(streams, visitor=visitor, terminal=command.terminal is not None)


def _met(folder: TaskFolder, shim: ShimRecord) -> socket.socket:
    """Ask the supervisor to connect to us, and return the connection once it did."""
    place = folder.path / "guests"
    name = f"{secrets.token_hex(8)}.sock"
    draft = f".{name}"  # the supervisor passes over it: it may look at any moment, also before we listen
    place.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        try:
            # The path of a socket may have only 108 bytes; by the descriptor of its folder it is always short.
            door.bind(f"/proc/self/fd/{descriptor}/{draft}")
            door.listen(1)
            door.settimeout(_ANSWER_S)
            os.rename(draft, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
            processes.send(shim.pid, shim.ticks, 15)
            visitor, _ = door.accept()
        except TimeoutError:
            raise Unavailable(
                f"The supervisor of {folder.task_id} does not answer.",
                next_action="Try again; is the machine overloaded?",
            ) from None
        finally:
            for path in (draft, name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path, dir_fd=descriptor)
            os.close(descriptor)
    pid, _, _ = struct.unpack("3i", visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if pid != shim.pid:
        visitor.close()
        raise Unavailable(
            f"Another process than the supervisor of {folder.task_id} answered.", next_action="Stop that job."
        )
    visitor.settimeout(_ANSWER_S)
    return visitor


def _streams(terminal: Size | None) -> tuple[dict[Stream, int], list[int]]:
    """Our ends, and the three standard streams of the command."""
    if terminal is not None:
        ours, theirs = pty.openpty()
        _set_size(theirs, terminal)
        return {Stream.INPUT: ours, Stream.OUTPUT: ours}, [theirs, theirs, theirs]
    (stdin, ours_in), (ours_out, stdout), (ours_errors, stderr) = os.pipe(), os.pipe(), os.pipe()
    return {Stream.INPUT: ours_in, Stream.OUTPUT: ours_out, Stream.ERRORS: ours_errors}, [stdin, stdout, stderr]


def _ask(visitor: socket.socket, request: bytes, streams: list[int], program: str) -> None:
    try:
        socket.send_fds(visitor, [request], streams)
        content = visitor.recv(_MAX_ANSWER_BYTES)
    except OSError as error:
        raise Unavailable(f"The task's supervisor does not answer: {error}.", next_action="Try again.") from None
    answer = json.loads(content) if content else {"error": "the task ended"}
    if "error" in answer:
        raise GuestRefused(
            f"{program!r} cannot be run inside of the task: {answer['error']}.",
            next_action="Name a program that the task itself could run.",
        )


def _set_size(descriptor: int, size: Size) -> None:
    ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("4H", size.rows, size.columns, 0, 0))


def connect(folder: TaskFolder, shim: ShimRecord, port: int) -> LocalChannel:
    """Connect to a port of a task; see the port. Raises `TaskNotThere`, `Unavailable`."""
    place = next(iter(_listeners(shim, port)), None)
    if place is None:
        raise TaskNotThere(
            f"Nothing in {folder.task_id} listens on port {port}.",
            next_action="Start the server in the job first, on 127.0.0.1; its log may say which port it took.",
        )
    try:
        server = socket.create_connection(place, timeout=_ANSWER_S)
    except OSError as error:
        raise Unavailable(
            f"Port {port} of {folder.task_id} does not answer: {error}.", next_action="Try again."
        ) from None
    number = server.fileno()
    return LocalChannel({Stream.INPUT: number, Stream.OUTPUT: number}, server=server)


def _listeners(shim: ShimRecord, port: int) -> Iterator[tuple[str, int]]:
    """Addresses where processes of the task listen on a port. The ports of others on this machine are none of the task's."""
    owned = {inode for pid in processes.descendants(shim.pid) for inode in _sockets_of(pid)}
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in _lines(Path(f"/proc/{shim.pid}/net/{table}"))[1:]:
            fields = line.split()
            host, _, number = fields[1].rpartition(":")
            if fields[3] == _LISTENS and int(number, 16) == port and fields[9] in owned:
                yield _address(family, host), port


def _sockets_of(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]


def _address(family: socket.AddressFamily, host: str) -> str:
    """The kernel writes an address as 32-bit words in the machine's order; one that means all becomes loopback."""
    words = bytes.fromhex(host)
    raw = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    return socket.inet_ntop(family, raw) if any(raw) else _LOOPBACK[family]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
