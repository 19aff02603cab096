"""Sessions over WebSockets: bytes between a client and the inside of a task.

A frame is one byte, which says what it is (`ports.channel.Stream`), and its content. Nothing is accepted before token, right and session
are checked; the token is looked at again while the socket is open.
"""

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread
import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from skyloom.cloud import Cloud
from skyloom.core.errors import SkyloomError
from skyloom.core.operation import Caller, Right
from skyloom.faces.rest.errors import refuse
from skyloom.faces.rest.requests import secret_of
from skyloom.ports.channel import Control, Stream, TaskChannel
from skyloom.rooms.jobs.sessions import IDLE_S, Sessions
from skyloom.rooms.tenancy.rules import permit_right

_CHUNK_BYTES = 64 * 1024
_CHECK_S = 5.0
_DRAIN_S = 1.0  # for output that is on its way when a command has ended, which a process it left may hold open for ever
_GOING_AWAY, _POLICY = 1001, 1008
# What reading and writing say when the client is gone, or the task.
_GONE = (
    OSError,
    RuntimeError,
    WebSocketDisconnect,
)


async def attend(cloud: Cloud, sessions: Sessions, right: Right, socket: WebSocket) -> None:
    """Let a client into its session, or say why not."""
    secret, project = secret_of(socket), str(socket.path_params["project"])
    session_id = str(socket.path_params["session_id"])

    def admit() -> Caller:
        by = cloud.authenticate(secret, project)
        permit_right(right, by, "sessions")
        return by

    def open_channel() -> TaskChannel:
        return sessions.attach(session_id, admit())

    try:
        channel = await anyio.to_thread.run_sync(open_channel)
    except Exception as error:
        await refuse(error)(socket.scope, socket.receive, socket.send)
        return
    try:
        await socket.accept()
        await _Bridge(socket, channel, admit).run()
    finally:
        channel.close()
        sessions.leave(session_id)


class _Bridge:
    """One open socket and its channel."""

    def __init__(self, socket: WebSocket, channel: TaskChannel, admit: Callable[[], object]) -> None:
        self._socket = socket
        self._channel = channel
        self._admit = admit
        self._moved_at = time.monotonic()

    async def run(self) -> None:
        """Carry bytes both ways until one side is done."""
        tasks = [asyncio.create_task(part) for part in (self._inward(), self._outward(), self._watched(), self._felt())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                with contextlib.suppress(*_GONE):
                    task.result()
        finally:
            await _stopped(tasks)
        with contextlib.suppress(*_GONE):
            if self._socket.application_state is WebSocketState.CONNECTED:
                await self._socket.close()

    async def _inward(self) -> None:
        """From the client, until it closes."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            frame = message.get("bytes") or b""
            self._moved_at = time.monotonic()
            if frame[:1] == bytes([Stream.INPUT]):
                await self._write(frame[1:])
            elif frame[:1] == bytes([Stream.CONTROL]):
                self._obey(frame[1:])

    async def _write(self, content: bytes) -> None:
        while content and self._channel.input >= 0:
            try:
                content = content[os.write(self._channel.input, content) :]
            except BlockingIOError:
                await anyio.wait_writable(self._channel.input)
            except OSError:
                return  # nobody reads any more; the end of the command will say the rest

    def _obey(self, content: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            control = msgspec.json.decode(content, type=Control)
            if control.size is not None:
                self._channel.resize(control.size)
            if control.input_ended:
                self._channel.end_input()

    async def _outward(self) -> None:
        """To the client, until all outputs end; then how the command ended."""
        outputs = [asyncio.create_task(self._copied(*output)) for output in self._channel.outputs.items()]
        try:
            if self._channel.over < 0:
                await asyncio.gather(*outputs)
                return
            end = await self._ended()
            done, _ = await asyncio.wait(outputs, timeout=_DRAIN_S)
            for output in done:
                output.result()
            await self._say(end)
        finally:
            await _stopped(outputs)

    async def _copied(self, kind: Stream, number: int) -> None:
        while content := await self._read(number):
            self._moved_at = time.monotonic()
            await self._socket.send_bytes(bytes([kind]) + content)

    async def _read(self, number: int) -> bytes:
        while True:
            await anyio.wait_readable(number)
            try:
                return os.read(number, _CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in (errno.EIO, errno.ECONNRESET):
                    return b""  # how a terminal ends, and a connection that the server broke off
                raise

    async def _ended(self) -> Control:
        while (end := self._channel.outcome()) is None:
            await anyio.wait_readable(self._channel.over)
        return end

    async def _watched(self) -> None:
        """Close what is idle, and what its token does not open any more."""
        while True:
            await asyncio.sleep(_CHECK_S)
            if time.monotonic() > self._moved_at + IDLE_S:
                await self._closed(_GOING_AWAY, f"idle for {IDLE_S:g} s")
                return
            try:
                await anyio.to_thread.run_sync(self._admit)
            except SkyloomError as error:
                await self._closed(_POLICY, error.message)
                return

    async def _felt(self) -> None:
        """Notice that the client is gone even while nobody takes its input, so that no more of it is read: writing to it fails."""
        while True:
            await asyncio.sleep(_CHECK_S)
            await self._socket.send_bytes(b"")

    async def _closed(self, code: int, why: str) -> None:
        await self._say(Control(message=why))
        await self._socket.close(code)

    async def _say(self, control: Control) -> None:
        await self._socket.send_bytes(bytes([Stream.CONTROL]) + msgspec.json.encode(control))


async def _stopped(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they are over: a descriptor that is closed while one waits for it breaks whoever gets its number next."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
