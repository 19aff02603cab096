"""What one HTTP/2 frame of a client may do (RFC 9113 §6), and what it is answered. Knows no socket, and asks nobody."""

import time
from collections.abc import Callable

from skyloom.inference.wire.blocks import Blocks
from skyloom.inference.wire.floods import Floods
from skyloom.inference.wire.frames import (
    ConnectionBroken,
    ErrorCode,
    Flag,
    Frame,
    FrameKind,
    Http2Setting,
    StreamBroken,
    check_length,
    check_on_connection,
    check_on_stream,
    frame,
    read_word,
    reset,
    told_settings,
    unpadded,
    window_update,
)
from skyloom.inference.wire.http2_requests import Http2Requests
from skyloom.inference.wire.outflow import Outflow
from skyloom.rooms.serving.plan import Limits

CONNECTION_WINDOW = 2**24
_DATA, _HEADERS = int(FrameKind.DATA), int(FrameKind.HEADERS)
_CRUMB_BYTES = 64


class FrameRules:
    """Takes the frames of one connection.

    Args:
        write: takes bytes that leave soon.
        on_idle: called when the client has nothing on its way, or says that it begins nothing more.
    """

    def __init__(
        self,
        requests: Http2Requests,
        outflow: Outflow,
        floods: Floods,
        blocks: Blocks,
        limits: Limits,
        write: Callable[[bytes], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._requests = requests
        self._outflow = outflow
        self._floods = floods
        self._blocks = blocks
        self._limits = limits
        self._write = write
        self._on_idle = on_idle
        self._window = CONNECTION_WINDOW

    def take(self, each: Frame) -> None:
        """Do what a frame says. Raises `ConnectionBroken`, `StreamBroken`."""
        self._blocks.check(each)
        if each.kind == _DATA:
            self._take_data(each)
        elif each.kind == _HEADERS:
            self._take_headers(each)
        elif each.kind == FrameKind.CONTINUATION:
            self._take_continuation(each)
        else:
            self._floods.control()
            self._take_control(each)

    def end_stream(self, number: int, code: ErrorCode) -> None:
        """End a stream whose client broke a rule, or is too slow. Raises `ConnectionBroken` when that happens too often."""
        self._write(reset(number, code))
        if self._requests.end_early(number):
            self._floods.reset()
        self._floods.control()

    def _take_headers(self, each: Frame) -> None:
        whole = self._blocks.take_headers(each)
        if whole is not None:
            self._requests.begin(each.stream, whole, bool(each.flags & Flag.END_STREAM))
        else:
            self._requests.deadline = time.monotonic() + self._limits.header_timeout_s

    def _take_continuation(self, each: Frame) -> None:
        found = self._blocks.take_continuation(each)
        if found is not None:
            first, whole = found
            self._requests.deadline = None
            self._on_idle()
            self._requests.begin(first.stream, whole, bool(first.flags & Flag.END_STREAM))

    def _take_data(self, each: Frame) -> None:
        check_on_stream(each)
        requests = self._requests
        size, stream = len(each.payload), requests.streams.get(each.stream)
        part = unpadded(each)  # padding is checked on every stream, also where nobody wants the content
        self._window -= size
        if self._window < 0:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window")
        if self._window < CONNECTION_WINDOW // 2:
            self._write(window_update(0, CONNECTION_WINDOW - self._window))
            self._window = CONNECTION_WINDOW
        ends = each.flags & Flag.END_STREAM
        if len(part) < _CRUMB_BYTES and not ends:
            self._floods.control()  # it costs more than it brings
        if stream is None or stream.heard_all:
            if each.stream > requests.last:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that was not begun")
            if stream is None and requests.is_unwanted(each.stream):
                return  # it was on its way when we ended the stream
            raise StreamBroken(each.stream, ErrorCode.STREAM_CLOSED)
        stream.window -= size
        if stream.window < 0:
            raise StreamBroken(each.stream, ErrorCode.FLOW_CONTROL_ERROR)
        requests.take(stream, part, bool(ends))

    def _take_control(self, each: Frame) -> None:
        if each.kind == FrameKind.WINDOW_UPDATE:
            self._widen(each.stream, read_word(each.payload))
        elif each.kind == FrameKind.SETTINGS:
            self._take_settings(each)
        elif each.kind == FrameKind.PING:
            check_length(each, 8)
            check_on_connection(each)
            if not each.flags & Flag.ACK:
                self._write(frame(FrameKind.PING, Flag.ACK, 0, each.payload))
        elif each.kind == FrameKind.RST_STREAM:
            self._take_reset(each)
        elif each.kind == FrameKind.PRIORITY:
            # RFC 9113 §5.3 dropped priorities, so what one says is not read: a stream that depends on itself was an error of RFC 7540.
            check_on_stream(each)
            if len(each.payload) != 5:
                raise StreamBroken(each.stream, ErrorCode.FRAME_SIZE_ERROR)
        elif each.kind == FrameKind.GOAWAY:
            check_on_connection(each)
            self._requests.is_quiet = True
            self._on_idle()
        elif each.kind == FrameKind.PUSH_PROMISE:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _take_settings(self, each: Frame) -> None:
        if (told := told_settings(each)) is None:
            return
        for name, value in told:
            if name == Http2Setting.INITIAL_WINDOW_SIZE:
                self._outflow.set_first_window(value, self._requests.streams.values())
            if name == Http2Setting.MAX_FRAME_SIZE:
                self._outflow.frame_bytes = value
        self._write(frame(FrameKind.SETTINGS, Flag.ACK, 0))
        self._outflow.resume()  # what came whole is asked at the end of the turn

    def _take_reset(self, each: Frame) -> None:
        check_on_stream(each)
        check_length(each, 4)
        if each.stream > self._requests.last:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a stream that was not begun is reset")
        stream = self._requests.streams.get(each.stream)
        if stream is not None:
            self._floods.reset()
            self._requests.forget(stream)

    def _widen(self, number: int, increment: int) -> None:
        stream = self._requests.streams.get(number)
        if not increment:
            if not number:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            raise StreamBroken(number, ErrorCode.PROTOCOL_ERROR)
        if number and stream is None:
            if number > self._requests.last:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a window of a stream that was not begun")
            return
        self._outflow.widen(stream, increment)
        self._outflow.resume()
