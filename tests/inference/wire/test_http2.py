"""HTTP/2: what breaks the rules ends a stream or the connection with the right word, and never more; what keeps them is answered."""

import asyncio
import itertools
import time
from collections.abc import Callable

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.wire.fields import FieldReader
from skyloom.inference.wire.frames import (
    PREFACE,
    ConnectionBroken,
    ErrorCode,
    Flag,
    Frame,
    FrameKind,
    Http2Setting,
    Splitter,
    frame,
    reset,
    settings,
    window_update,
)
from skyloom.inference.wire.http2 import Http2Connections
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.outflow import Http2Stream
from skyloom.inference.wire.site import Listener
from skyloom.rooms.serving.plan import Limits

ENDS = Flag.END_HEADERS | Flag.END_STREAM
FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "here"), ("x-mine", "1")]


class Echo:
    """A site that answers with what it was sent, or, below /later, when it is told to."""

    epoch = 0

    def __init__(self) -> None:
        self.waiting: list[tuple[Request, Http2Stream]] = []
        self.num_cut = 0

    def admit(self, request: Request) -> Response | None:
        return Response(403, b"no") if request.head.target == b"/refused" else None

    def serve(self, request: Request, exchange: Http2Stream) -> None:
        if request.head.target == b"/later":
            exchange.on_cut = self._cut
            self.waiting.append((request, exchange))
        else:
            exchange.answer(Response(200, request.body, b"text/plain", trailers=((b"told", b"all"),)))

    def listener(self, request: Request, exchange: Http2Stream) -> Listener | None:
        return Parts(exchange) if request.head.target == b"/parts" else None

    def refusal(self, status: int, message: str) -> Response:
        return Response(status, message.encode())

    def _cut(self) -> None:
        self.num_cut += 1


class Parts:
    """Sends every part back as it comes."""

    num_kept = 0
    wants_more = True

    def __init__(self, exchange: Http2Stream) -> None:
        self.exchange = exchange
        exchange.begin(Response(200, b"", b"text/plain"))

    def heard(self, part: bytes) -> None:
        self.exchange.push(part)

    def heard_all(self) -> None:
        self.exchange.finish()


class Line:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = self.aborted = False

    def write(self, content: bytes) -> None:
        self.written += content

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def get_extra_info(self, name: str) -> None:
        """Nothing: there is no socket."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Peer:
    """A client that may break every rule, and what it was told."""

    def __init__(self, **limits: int) -> None:
        self.site = Echo()
        self.group = Http2Connections(self.site, Limits(**limits))
        self.connection = self.group.accept()
        self.line = Line()
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.connection.connection_made(self.line)  # type: ignore[arg-type]
        self.send(PREFACE + settings({}))
        self.told()

    def send(self, content: bytes) -> None:
        self.connection.data_received(content)
        while self.connection._unread and not self.line.closed:  # what waits for its turn
            self.connection.read_on()

    def head(self, stream: int, fields=FIELDS, flags: int = ENDS) -> None:
        self.send(frame(FrameKind.HEADERS, flags, stream, self.encoder.encode(fields)))

    def told(self) -> list[Frame]:
        """The frames since the last look."""
        self.connection.flush()
        written, self.line.written = self.line.written, b""
        return list(Splitter(2**24).feed(written))

    def broken(self) -> ErrorCode:
        """Why the connection was ended."""
        last = self.told()[-1]
        assert last.kind == FrameKind.GOAWAY, last
        assert self.line.closed
        return ErrorCode(int.from_bytes(last.payload[4:8], "big"))

    def reset_code(self) -> ErrorCode:
        """Why the only stream that was touched was ended; the connection lives."""
        (last,) = [each for each in self.told() if each.kind != FrameKind.WINDOW_UPDATE]
        assert last.kind == FrameKind.RST_STREAM, last
        assert not self.line.closed
        return ErrorCode(int.from_bytes(last.payload, "big"))

    def answer(self, stream: int) -> tuple[str, bytes, dict[str, str]]:
        """Status, body and trailers of a whole answer."""
        fields, body = [], b""
        frames = [each for each in self.told() if each.stream == stream]
        for each in frames:
            if each.kind == FrameKind.HEADERS:
                fields += self.decoder.decode(each.payload)
            else:
                assert each.kind == FrameKind.DATA
                body += each.payload
        assert frames[-1].flags & Flag.END_STREAM
        return fields[0][1], body, dict(fields[1:])


@pytest.fixture
def peer():
    """A client that has greeted."""

    async def make() -> Peer:
        return Peer()

    with asyncio.Runner() as runner:
        yield runner.run(make())


def test_request_with_body_in_pieces_padding_and_priority_is_answered(peer):
    block = peer.encoder.encode(FIELDS)
    pieces = [block[:3], block[3:4], block[4:]]
    head = b"\x02" + b"\x00\x00\x00\x03\x10" + pieces[0] + b"\0\0"
    peer.send(frame(FrameKind.HEADERS, Flag.PADDED | Flag.PRIORITY, 1, head))
    peer.send(
        frame(FrameKind.CONTINUATION, 0, 1, pieces[1]) + frame(FrameKind.CONTINUATION, Flag.END_HEADERS, 1, pieces[2])
    )
    peer.send(frame(FrameKind.DATA, Flag.PADDED, 1, b"\x05abc\0\0\0\0\0") + frame(99, 0xFF, 1, b"unknown"))
    peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1, b"def"))
    assert peer.answer(1) == ("200", b"abcdef", {"content-type": "text/plain", "told": "all"})


def test_request_byte_by_byte_is_answered(peer):
    whole = frame(FrameKind.HEADERS, Flag.END_HEADERS, 1, peer.encoder.encode(FIELDS)) + frame(
        FrameKind.DATA, Flag.END_STREAM, 1, b"x"
    )
    for at in range(len(whole)):
        peer.send(whole[at : at + 1])
    assert peer.answer(1)[:2] == ("200", b"x")


def test_trailers_of_a_request_end_it(peer):
    peer.head(1, flags=Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 1, b"body"))
    peer.head(1, [("checksum", "1")])
    assert peer.answer(1)[:2] == ("200", b"body")
    peer.head(3, [*FIELDS[:4], ("x-other", "2")])
    assert peer.answer(3)[0] == "200"


def test_refused_by_its_head_is_answered_and_the_rest_is_not_wanted(peer):
    peer.head(1, [*FIELDS[:2], (":path", "/refused")], Flag.END_HEADERS)
    kinds = [(each.kind, each.stream) for each in peer.told()]
    assert kinds == [(FrameKind.HEADERS, 1), (FrameKind.DATA, 1), (FrameKind.RST_STREAM, 1)]
    peer.send(frame(FrameKind.DATA, 0, 1, b"late") + frame(FrameKind.HEADERS, ENDS, 1, b"\x00\x01a\x01b"))
    assert peer.told() == [], "it was on its way"
    peer.head(3)
    assert peer.answer(3)[0] == "200"


def test_settings_are_acknowledged_and_a_ping_comes_back(peer):
    peer.send(settings({Http2Setting.HEADER_TABLE_SIZE: 0, Http2Setting.MAX_FRAME_SIZE: 2**15}))
    peer.send(frame(FrameKind.PING, 0, 0, b"12345678") + frame(FrameKind.PING, Flag.ACK, 0, b"87654321"))
    assert [(each.kind, each.flags, each.payload) for each in peer.told()] == [
        (FrameKind.SETTINGS, Flag.ACK, b""),
        (FrameKind.PING, Flag.ACK, b"12345678"),
    ]


def test_answer_waits_for_windows_and_obeys_them(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 4}))
    peer.head(1, flags=Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1, b"0123456789"))
    seen = [each for each in peer.told() if each.kind == FrameKind.DATA]
    assert [each.payload for each in seen] == [b"0123"]
    peer.send(window_update(1, 3))
    assert [each.payload for each in peer.told()] == [b"456"]
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 6}))  # two more for every open stream
    assert [each.payload for each in peer.told() if each.kind == FrameKind.DATA] == [b"78"]
    peer.send(window_update(1, 100))
    told = peer.told()
    assert [each.kind for each in told] == [FrameKind.DATA, FrameKind.HEADERS]
    assert told[1].flags & Flag.END_STREAM


def test_answers_share_the_connections_window(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 2**20}))
    peer.head(1, flags=Flag.END_HEADERS)
    body = bytes(2**16)
    peer.send(frame(FrameKind.DATA, 0, 1, body[: 2**15]) + frame(FrameKind.DATA, Flag.END_STREAM, 1, body[2**15 :]))
    assert sum(len(each.payload) for each in peer.told() if each.kind == FrameKind.DATA) == 65_535
    peer.head(3)
    assert [each.kind for each in peer.told()] == [
        FrameKind.HEADERS,
        FrameKind.HEADERS,
    ]  # nothing to send needs no window
    peer.send(window_update(0, 1))
    assert [(each.kind, len(each.payload)) for each in peer.told()][:1] == [(FrameKind.DATA, 1)]


def test_conversation_is_answered_part_by_part_within_the_window(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 5}))
    peer.head(1, [*FIELDS[:2], (":path", "/parts")], Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 1, b"abc"))
    assert [each.payload for each in peer.told() if each.kind == FrameKind.DATA] == [b"abc"]
    peer.send(frame(FrameKind.DATA, 0, 1, b"def") + frame(FrameKind.DATA, Flag.END_STREAM, 1, b"ghi"))
    assert [(each.payload, each.flags) for each in peer.told()] == [(b"de", 0)]
    peer.send(window_update(1, 100))
    assert [(each.payload, each.flags) for each in peer.told()] == [(b"fghi", Flag.END_STREAM)]
    peer.head(3, [*FIELDS[:2], (":path", "/parts")], Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 3, b"a"))
    peer.told()
    peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 3))
    assert [(each.payload, each.flags) for each in peer.told()] == [(b"", Flag.END_STREAM)]


def test_windows_for_long_bodies_are_given_as_they_arrive(peer):
    peer.head(1, flags=Flag.END_HEADERS)
    part = bytes(2**17)
    for _ in range(24):  # 3 MiB through a window of one
        peer.send(frame(FrameKind.DATA, 0, 1, part))
    given = [each for each in peer.told() if each.kind == FrameKind.WINDOW_UPDATE]
    assert {each.stream for each in given} == {1}
    peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1))
    assert not peer.line.closed
    peer.send(reset(1, ErrorCode.CANCEL))
    assert peer.group.unread_bytes == 0


BROKEN: dict[str, tuple[bytes, ErrorCode]] = {
    "DATA on stream 0": (frame(FrameKind.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA on a stream that was not begun": (frame(FrameKind.DATA, 0, 5, b"x"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on stream 0": (frame(FrameKind.HEADERS, ENDS, 0, b""), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on an even stream": (frame(FrameKind.HEADERS, ENDS, 2, b"\x82"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS with more padding than there is": (
        frame(FrameKind.HEADERS, ENDS | Flag.PADDED, 1, b"\x09a"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS without their priority": (
        frame(FrameKind.HEADERS, ENDS | Flag.PRIORITY, 1, b"\0\0"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a header block that cannot be read": (
        frame(FrameKind.HEADERS, ENDS, 1, b"\xff\xff\xff\xff"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "another frame inside of a header block": (
        frame(FrameKind.HEADERS, 0, 1, b"\x82") + frame(FrameKind.PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        frame(FrameKind.HEADERS, 0, 1, b"\x82") + frame(FrameKind.CONTINUATION, 4, 3, b"\x84"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of nothing": (frame(FrameKind.CONTINUATION, 4, 1, b"\x82"), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION without end": (
        frame(FrameKind.HEADERS, 0, 1, b"") + frame(FrameKind.CONTINUATION, 0, 1, b"") * 100,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "SETTINGS on a stream": (frame(FrameKind.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of a broken length": (frame(FrameKind.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS that acknowledge and tell": (
        frame(FrameKind.SETTINGS, Flag.ACK, 0, bytes(6)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "ENABLE_PUSH of 2": (settings({Http2Setting.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE too large": (
        settings({Http2Setting.INITIAL_WINDOW_SIZE: 2**31}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "MAX_FRAME_SIZE too small": (settings({Http2Setting.MAX_FRAME_SIZE: 100}), ErrorCode.PROTOCOL_ERROR),
    "PING of a wrong length": (frame(FrameKind.PING, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR),
    "PING on a stream": (frame(FrameKind.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of a stream that was not begun": (reset(7, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on stream 0": (reset(0, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of a wrong length": (frame(FrameKind.RST_STREAM, 0, 1, b"1"), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": (window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of a wrong length": (frame(FrameKind.WINDOW_UPDATE, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR),
    "a window that overflows": (window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a window of a stream that was not begun": (window_update(9, 1), ErrorCode.PROTOCOL_ERROR),
    "PRIORITY on stream 0": (frame(FrameKind.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "a push": (frame(FrameKind.PUSH_PROMISE, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY on a stream": (frame(FrameKind.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a frame that is too long": (frame(FrameKind.DATA, 0, 1, bytes(2**18 + 1)), ErrorCode.FRAME_SIZE_ERROR),
    "too many pings": (frame(FrameKind.PING, 0, 0, bytes(8)) * 2_000, ErrorCode.ENHANCE_YOUR_CALM),
    "too many settings": (settings({}) * 2_000, ErrorCode.ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_connection_ends_with_the_reason(peer, name):
    content, code = BROKEN[name]
    peer.send(content)
    assert peer.broken() is code


@pytest.mark.parametrize("padding", [b"", b"\x01", b"\x02x"])
@pytest.mark.parametrize("path", ["/echo", "/later", "/refused"])
def test_padding_is_checked_on_every_stream_whatever_became_of_it(peer, path, padding):
    flags = ENDS if path == "/later" else Flag.END_HEADERS
    if path == "/refused":  # its answer cannot go out, so the stream stays
        peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
    peer.head(1, [*FIELDS[:2], (":path", path)], flags)
    if path == "/echo":  # answered, and gone
        peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1, b"all"))
    peer.send(frame(FrameKind.DATA, Flag.PADDED, 1, padding))
    assert peer.broken() is ErrorCode.PROTOCOL_ERROR


def test_stream_that_ended_takes_no_headers(peer):
    peer.head(3)
    peer.told()
    peer.head(1)
    assert peer.broken() is ErrorCode.STREAM_CLOSED


def test_first_bytes_that_are_no_http2_end_the_connection():
    async def play() -> ErrorCode:
        group = Http2Connections(Echo(), Limits())
        connection, line = group.accept(), Line()
        connection.connection_made(line)  # type: ignore[arg-type]
        connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
        last = list(Splitter(2**24).feed(line.written))[-1]
        assert line.closed
        return ErrorCode(int.from_bytes(last.payload[4:8], "big"))

    assert asyncio.run(play()) is ErrorCode.PROTOCOL_ERROR


MALFORMED: dict[str, list[tuple[str, str]]] = {
    "no path": FIELDS[:2],
    "an empty path": [*FIELDS[:2], (":path", "")],
    "an unknown pseudo field": [*FIELDS, (":new", "1")],
    "a pseudo field twice": [(":method", "POST"), *FIELDS],
    "a pseudo field behind others": [*FIELDS[1:], FIELDS[0]],
    "a field of the connection": [*FIELDS, ("connection", "close")],
    "transfer-encoding": [*FIELDS, ("transfer-encoding", "chunked")],
    "te other than trailers": [*FIELDS, ("te", "gzip")],
    "two lengths": [*FIELDS, ("content-length", "0"), ("content-length", "0")],
    "a length that is not the body's": [*FIELDS, ("content-length", "7")],
    "upper case": [*FIELDS, ("X-Upper", "1")],
    "a line's end in a value": [*FIELDS, ("x-two", "1\r\nx-three: 1")],
    "a NUL in a path": [*FIELDS[:2], (":path", "/a\0")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_ends_its_stream_alone(peer, name):
    peer.head(1, MALFORMED[name])
    assert peer.reset_code() is ErrorCode.PROTOCOL_ERROR
    peer.head(3)
    assert peer.answer(3)[0] == "200"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (frame(FrameKind.PRIORITY, 0, 1, b"1"), ErrorCode.FRAME_SIZE_ERROR),
        (window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (
            frame(FrameKind.DATA, 0, 1, bytes(2**18)) * 3 + frame(FrameKind.HEADERS, Flag.END_HEADERS, 1, b""),
            ErrorCode.PROTOCOL_ERROR,
        ),
    ],
)
def test_broken_stream_ends_alone(peer, content, code):
    peer.head(1, [*FIELDS[:2], (":path", "/later")], Flag.END_HEADERS)
    peer.send(content)
    assert peer.reset_code() is code
    assert peer.group.unread_bytes == 0


def test_request_that_is_taken_back_is_cut(peer):
    peer.head(1, [*FIELDS[:2], (":path", "/later")])
    peer.send(reset(1, ErrorCode.CANCEL))
    assert peer.site.num_cut == 1
    peer.site.waiting[0][1].answer(Response(200, b"nobody listens"))
    assert peer.told() == []


def test_begin_and_take_back_over_and_over_is_ended(peer):
    for number in range(1, 4_000, 2):
        if peer.line.closed:
            break
        peer.head(number, [*FIELDS[:2], (":path", "/later")])
        peer.send(reset(number, ErrorCode.CANCEL))
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_more_streams_than_allowed_are_refused_one_by_one(peer):
    for number in range(1, 2 * 256 + 1, 2):
        peer.head(number, [*FIELDS[:2], (":path", "/later")])
    peer.told()
    peer.head(2 * 256 + 1)
    assert peer.reset_code() is ErrorCode.REFUSED_STREAM


def test_body_over_the_bound_is_answered_and_dropped():
    async def play() -> tuple[str, int]:
        peer = Peer(max_body_bytes=1_024)
        peer.head(1, flags=Flag.END_HEADERS)
        peer.send(frame(FrameKind.DATA, 0, 1, bytes(2_000)))
        first = next(each for each in peer.told() if each.kind == FrameKind.HEADERS)
        return peer.decoder.decode(first.payload)[0][1], peer.group.unread_bytes

    assert asyncio.run(play()) == ("413", 0)


def test_head_over_the_bound_is_answered_and_the_next_one_can_be_read(peer):
    peer.head(1, [*FIELDS, ("x-large", "a" * 16_500)])
    assert peer.answer(1)[0] == "431"
    peer.head(3)
    assert peer.answer(3)[0] == "200"


def test_slow_body_is_answered_with_408(peer):
    peer.head(1, flags=Flag.END_HEADERS)
    peer.connection.look_at_clock(time.monotonic() + Limits().body_timeout_s + 1)
    assert peer.decoder.decode(peer.told()[0].payload)[0][1] == "408"


def test_client_that_takes_no_answer_is_cut(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
    peer.head(1, flags=Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1, b"x"))
    peer.connection.look_at_clock(time.monotonic() + Limits().write_timeout_s + 1)
    assert peer.line.aborted


def test_idle_connection_is_closed(peer):
    peer.head(1)
    peer.told()
    peer.connection.look_at_clock(time.monotonic() + Limits().idle_timeout_s + 1)
    assert peer.broken() is ErrorCode.NO_ERROR


def test_drain_answers_what_was_begun_and_refuses_the_rest(peer):
    peer.head(1, [*FIELDS[:2], (":path", "/later")])
    peer.group.drain()
    assert [each.kind for each in peer.told()] == [FrameKind.GOAWAY]
    peer.head(3)
    assert peer.reset_code() is ErrorCode.REFUSED_STREAM
    peer.site.waiting[0][1].answer(Response(200, b"done"))
    assert peer.answer(1)[:2] == ("200", b"done")
    assert not peer.line.closed, "a request that is on its way is refused, not lost"
    peer.head(5)
    assert peer.reset_code() is ErrorCode.REFUSED_STREAM
    peer.connection.look_at_clock(time.monotonic() + 2)
    assert peer.line.closed


def test_drain_lets_a_client_go_at_once_that_says_goodbye(peer):
    peer.group.drain()
    assert [each.kind for each in peer.told()] == [FrameKind.GOAWAY] and not peer.line.closed
    peer.send(frame(FrameKind.GOAWAY, 0, 0, bytes(8)))
    assert peer.line.closed


def test_client_that_comes_while_we_leave_is_told_and_let_go():
    async def play() -> Peer:
        peer, line = Peer(), Line()
        peer.group.drain()
        peer.connection, peer.line = peer.group.accept(), line
        peer.connection.connection_made(line)  # type: ignore[arg-type]
        assert [each.kind for each in peer.told()][-1] == FrameKind.GOAWAY
        peer.send(PREFACE + frame(FrameKind.HEADERS, 0, 1, b"") + frame(FrameKind.CONTINUATION, 4, 1, b"\x82"))
        peer.connection.look_at_clock(time.monotonic() + 2)
        return peer

    assert asyncio.run(play()).line.closed


def test_drain_ends_with_the_last_request_also_when_that_is_taken_back(peer):
    peer.head(1, [*FIELDS[:2], (":path", "/later")])
    peer.group.drain()
    peer.send(reset(1, ErrorCode.CANCEL))
    peer.connection.look_at_clock(time.monotonic() + 2)
    assert peer.line.closed


NAMES = st.sampled_from(["x-a", "x-b", "x-c", "grpc-timeout"])
HEADS = st.lists(st.tuples(NAMES, st.text("ab", max_size=6)), max_size=5, unique_by=lambda pair: pair[0])


@given(st.lists(HEADS, max_size=30), st.lists(st.sampled_from([0, 64, 4_096]), min_size=30, max_size=30))
def test_reader_never_mixes_up_blocks_of_different_tables(heads, sizes):
    """The same bytes mean other fields once the table has moved on."""
    reader, encoder = FieldReader(16_384), hpack.Encoder()
    for number, (extra, size) in enumerate(zip(heads, sizes, strict=False)):
        if number % 7 == 6:
            encoder.header_table_size = size
        block = encoder.encode([*FIELDS[:4], *extra])
        head = reader.read(block, 1)
        assert dict(head.headers) == {b"host": b"here", **{name.encode(): value.encode() for name, value in extra}}
        again = encoder.encode([*FIELDS[:4], *extra])
        assert reader.read(again, 3) == head


def pieces(draw: Callable[..., list[int]], whole: bytes) -> list[bytes]:
    cuts = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in draw)})  # type: ignore[attr-defined]
    return [whole[start:end] for start, end in itertools.pairwise(cuts)]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.lists(st.integers(0, 500), max_size=20))
def test_splitter_finds_the_same_frames_however_the_bytes_are_cut(payloads, cuts):
    whole = b"".join(frame(FrameKind.DATA, 0, 1, payload) for payload in payloads)
    splitter = Splitter(2**14)
    found = [each.payload for part in pieces(cuts, whole) for each in splitter.feed(part)]
    assert found == payloads
    assert splitter.is_between


def test_splitter_refuses_what_is_too_long():
    with pytest.raises(ConnectionBroken):
        list(Splitter(10).feed(frame(FrameKind.DATA, 0, 1, bytes(11))))
