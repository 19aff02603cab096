"""HTTP/2 under clients that mean harm: floods, games with windows, heads that hold memory, and bytes at random."""

import asyncio
import sys
import time

import hpack
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from skyloom.inference.wire.fields import FieldReader, _pieces
from skyloom.inference.wire.frames import (
    PREFACE,
    ConnectionBroken,
    ErrorCode,
    Flag,
    FrameKind,
    Http2Setting,
    Splitter,
    frame,
    reset,
    settings,
    window_update,
)
from skyloom.inference.wire.http2 import Http2Connections
from skyloom.inference.wire.messages import Response
from skyloom.rooms.serving.plan import Limits
from tests.inference.wire.test_http2 import ENDS, FIELDS, Echo, Line, Peer

LATER = [*FIELDS[:2], (":path", "/later")]
REFUSED = [*FIELDS[:2], (":path", "/refused")]


@pytest.fixture
def peer():
    """A client that has greeted."""

    async def make() -> Peer:
        return Peer()

    with asyncio.Runner() as runner:
        yield runner.run(make())


def test_empty_data_without_any_control_frame_is_ended(peer):
    peer.head(1, flags=Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 1, b"") * 2_000)
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_padding_without_content_is_ended(peer):
    peer.head(1, flags=Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, Flag.PADDED, 1, b"\x00") * 2_000)
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_thousands_of_settings_in_one_frame_are_ended(peer):
    one = settings({Http2Setting.INITIAL_WINDOW_SIZE: 1})[9:]
    peer.send(frame(FrameKind.SETTINGS, 0, 0, one * 40_000))
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_windows_of_a_client_that_reads_much_are_no_flood(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 10}))
    peer.head(1, flags=Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1, bytes(30_000)))
    for _ in range(2_990):
        peer.send(window_update(0, 10) + window_update(1, 10))
    assert not peer.line.closed
    assert sum(len(each.payload) for each in peer.told() if each.kind == FrameKind.DATA) > 29_000


def test_client_that_makes_us_reset_over_and_over_is_ended(peer):
    for number in range(1, 4_000, 2):
        if peer.line.closed:
            break
        peer.head(number, LATER)
        peer.connection.look_at_clock(time.monotonic() + number)  # a slow attacker: control frames are counted again
        peer.send(window_update(number, 0))
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM
    assert peer.site.num_cut > 0


def test_body_of_a_refused_request_is_not_kept(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))  # the refusal cannot be sent, so its stream stays
    peer.head(1, REFUSED, Flag.END_HEADERS)
    before = peer.group.unread_bytes
    peer.send(frame(FrameKind.DATA, 0, 1, bytes(2**17)) * 4)
    stream = peer.connection._requests.streams[1]
    assert (len(stream.body), peer.group.unread_bytes) == (0, before)
    peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1, b"x") + window_update(1, 100))
    assert 1 not in peer.connection._requests.streams


def test_body_in_pieces_of_two_bytes_holds_what_it_is_counted_for(peer):
    peer.head(1, flags=Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 1, b"ab") * 900)
    assert sys.getsizeof(peer.connection._requests.streams[1].body) < 4_000
    peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1, b""))
    assert b"".join(each.payload for each in peer.told() if each.kind == FrameKind.DATA) == b"ab" * 900


def test_body_in_crumbs_without_end_is_ended(peer):
    peer.head(1, flags=Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 1, b"abcdef") * 2_000)
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_requests_of_one_read_take_turns_with_other_clients_and_none_is_lost(peer):
    content = b"".join(
        frame(FrameKind.HEADERS, ENDS, number, peer.encoder.encode(REFUSED)) for number in range(1, 2_001, 2)
    )
    peer.connection.data_received(content)
    turns = [sum(each.kind == FrameKind.HEADERS for each in peer.told())]
    while peer.connection._unread:
        peer.connection.read_on()
        turns.append(sum(each.kind == FrameKind.HEADERS for each in peer.told()))
    assert sum(turns) == 1_000 and max(turns) <= 300


def call_and_reset(peer, number: int) -> bytes:
    return frame(FrameKind.HEADERS, ENDS, number, peer.encoder.encode(LATER)) + reset(number, ErrorCode.CANCEL)


def test_requests_that_are_taken_back_in_one_turn_are_never_asked(peer):
    peer.send(b"".join(call_and_reset(peer, number) for number in range(1, 31, 2)))
    peer.head(31, LATER)
    assert (len(peer.site.waiting), peer.site.num_cut) == (1, 0)


def test_client_that_takes_back_over_and_over_is_read_slowly_and_only_then_ended(peer):
    peer.send(b"".join(call_and_reset(peer, number) for number in range(1, 41, 2)))
    peer.group.turns._behind.clear()
    peer.group.turns._slow.clear()
    peer.connection.data_received(b"".join(call_and_reset(peer, number) for number in range(41, 4_001, 2)))
    assert list(peer.group.turns._slow) == [peer.connection] and not peer.group.turns._behind
    turns = []
    while not peer.line.closed:
        before = peer.connection._floods._num_resets
        peer.connection.read_on()
        turns.append(peer.connection._floods._num_resets - before)
    assert max(turns) <= 16 and peer.broken() is ErrorCode.ENHANCE_YOUR_CALM
    assert peer.site.waiting == []


def test_client_that_is_read_slowly_and_leaves_is_read_no_more(peer):
    peer.send(b"".join(call_and_reset(peer, number) for number in range(1, 41, 2)))
    peer.connection.data_received(b"".join(call_and_reset(peer, number) for number in range(41, 4_001, 2)))
    assert not peer.connection.has_left and peer.connection.harm > 16
    peer.connection.connection_lost(None)
    before = peer.connection._floods._num_resets
    assert peer.connection.has_left
    peer.connection.read_on()
    assert peer.connection._floods._num_resets == before


def test_client_that_is_sent_away_from_a_full_line_is_told_why(peer):
    peer.connection.send_away()
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_client_whose_calls_are_answered_may_take_back_as_many_and_is_not_slowed(peer):
    for number in range(1, 101, 2):
        peer.head(number)
    for number in range(101, 201, 2):
        peer.head(number, LATER)
        peer.send(reset(number, ErrorCode.CANCEL))
    assert not peer.connection._floods.is_taking_back


@pytest.mark.parametrize("window", [0, 1])
def test_calls_of_a_deaf_client_are_not_asked_until_it_takes_answers(peer, window):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: window}))
    for number in range(1, 401, 2):
        peer.head(number, LATER)
        for _, exchange in peer.site.waiting:
            exchange.answer(Response(200, b"told"))
    assert len(peer.site.waiting) == 16
    peer.told()
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 65_535}))
    asked = 0
    while asked < len(peer.site.waiting):
        asked = len(peer.site.waiting)
        for _, exchange in peer.site.waiting:
            exchange.answer(Response(200, b"told"))
        peer.connection._resume()
    assert sum(each.payload == b"told"[window:] for each in peer.told()) >= 16
    assert len(peer.site.waiting) == 200


def test_calls_of_a_deaf_client_that_takes_some_back_are_asked_in_their_place(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
    for number in range(1, 101, 2):
        peer.head(number, LATER)
    for _, exchange in peer.site.waiting:
        exchange.answer(Response(200, b"told"))
    peer.send(b"".join(reset(number, ErrorCode.CANCEL) for number in (1, 3, 33, 35)))
    assert [request for request, _ in peer.site.waiting] and len(peer.site.waiting) == 18
    assert (peer.connection._outflow.num_waiting, peer.connection._requests.num_whole) == (14, 30)


def test_clients_that_send_much_at_once_share_one_turn_of_the_loop():
    async def play() -> list[int]:
        first, second = Peer(), Peer()
        second.connection = first.group.accept()
        second.connection.connection_made(second.line)  # type: ignore[arg-type]
        second.connection.data_received(PREFACE)
        for peer in (first, second):
            block = peer.encoder.encode(REFUSED)
            peer.connection.data_received(
                b"".join(frame(FrameKind.HEADERS, ENDS, number, block) for number in range(1, 1_001, 2))
            )
        read = []
        while first.connection._unread or second.connection._unread:
            before = first.connection._requests.last + second.connection._requests.last
            await asyncio.sleep(0)
            read.append((first.connection._requests.last + second.connection._requests.last - before) // 2)
        assert first.connection._requests.last == second.connection._requests.last == 999
        return read

    assert max(asyncio.run(play())) <= 128


def test_clock_that_finds_a_broken_connection_ends_it_and_goes_on(peer):
    for number in range(1, 400, 2):
        peer.head(number, LATER)
        peer.send(reset(number, ErrorCode.CANCEL))
    peer.head(501, [*FIELDS[:2], (":path", "/parts")], Flag.END_HEADERS)
    peer.head(503, [*FIELDS[:2], (":path", "/parts")], Flag.END_HEADERS)
    peer.connection._floods._num_resets = 10**6
    peer.connection._requests.streams[501].deadline = 0.0
    peer.group.sweep()
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_small_requests_come_in_while_others_hold_all_the_room():
    async def play() -> tuple[str, str]:
        peer = Peer(max_unread_bytes=2**20)
        peer.group.unread_bytes += 2**20  # as of somebody else's bodies
        peer.head(1, flags=Flag.END_HEADERS)
        peer.send(frame(FrameKind.DATA, Flag.END_STREAM, 1, b"small"))
        small = peer.answer(1)[0]
        peer.head(3, flags=Flag.END_HEADERS)
        peer.send(frame(FrameKind.DATA, 0, 3, bytes(70_000)))
        (head, *_) = [each for each in peer.told() if each.kind == FrameKind.HEADERS]
        return small, peer.decoder.decode(head.payload)[0][1]

    assert asyncio.run(play()) == ("200", "429")


def test_heads_of_open_requests_are_counted_and_given_back(peer):
    for number in range(1, 101, 2):
        peer.head(number, [*LATER, ("x-long", f"{number}" + "a" * 10_000)])
    assert peer.group.unread_bytes > 50 * 10_000
    peer.connection.connection_lost(None)
    assert peer.group.unread_bytes == 0


def test_heads_that_fill_the_bound_keep_new_ones_out():
    async def play() -> tuple[str, int]:
        peer = Peer(max_unread_bytes=20_000)
        for number in (1, 3):
            peer.head(number, [*LATER, ("x-long", f"{number}" + "a" * 9_000)])
        peer.told()
        peer.head(7, [*LATER, ("x-long", "7" + "a" * 9_000)], Flag.END_HEADERS)
        assert len(peer.site.waiting) == 2
        first = next(each for each in peer.told() if each.kind == FrameKind.HEADERS)
        peer.connection.connection_lost(None)
        return peer.decoder.decode(first.payload)[0][1], peer.group.unread_bytes

    assert asyncio.run(play()) == ("429", 0)


def test_answers_that_nobody_takes_keep_new_requests_out(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
    for number in (1, 3):
        peer.head(number, LATER)
    for _, exchange in peer.site.waiting:
        exchange.answer(Response(200, bytes(2**23 + 1)))
    peer.told()
    peer.head(5, LATER)
    assert peer.decoder.decode(peer.told()[0].payload)[0][1] == "429"
    assert len(peer.site.waiting) == 2
    peer.send(reset(1, ErrorCode.CANCEL) + reset(5, ErrorCode.CANCEL))
    peer.head(7, LATER)
    assert len(peer.site.waiting) == 3
    peer.send(reset(3, ErrorCode.CANCEL))
    assert peer.connection._outflow.num_held_bytes == 0


def test_client_that_takes_its_answer_slowly_is_not_cut_but_one_that_stops_is(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
    peer.head(1, LATER)
    peer.site.waiting[0][1].answer(Response(200, bytes(60_000)))
    first = peer.connection._outflow.deadline
    peer.send(window_update(1, 100))
    assert peer.connection._outflow.deadline == first, "a few bytes buy no time"
    peer.send(window_update(1, 20_000))
    later = peer.connection._outflow.deadline
    assert later > first
    peer.connection.look_at_clock(first)
    assert not peer.line.aborted
    peer.connection.look_at_clock(later + 1)
    assert peer.line.aborted


def test_close_that_the_client_does_not_read_ends_in_a_cut(peer):
    peer.send(frame(FrameKind.DATA, 0, 0, b"x"))
    assert peer.broken() is ErrorCode.PROTOCOL_ERROR
    assert not peer.line.aborted
    peer.connection.look_at_clock(time.monotonic() + Limits().write_timeout_s + 1)
    assert peer.line.aborted


def test_close_that_the_client_reads_half_of_ends_in_a_cut(peer):
    peer.send(frame(FrameKind.DATA, 0, 0, b"x"))
    peer.connection.pause_writing()
    peer.connection.resume_writing()  # as the system says when little is left
    peer.connection.look_at_clock(time.monotonic() + Limits().write_timeout_s + 1)
    assert peer.line.aborted


def test_connection_whose_waiting_answer_was_taken_back_is_not_cut(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
    peer.head(1, LATER)
    peer.head(3, LATER)
    peer.site.waiting[0][1].answer(Response(200, bytes(60_000)))
    peer.send(reset(1, ErrorCode.CANCEL))
    peer.connection.look_at_clock(time.monotonic() + Limits().write_timeout_s + 1)
    assert not peer.line.aborted, "the other one is still being worked at"


def test_clock_that_looks_often_does_not_let_floods_through(peer):
    now = time.monotonic()
    for turn in range(100):
        peer.send(frame(FrameKind.PING, 0, 0, bytes(8)) * 100)
        peer.connection.look_at_clock(now + turn * 0.02)  # as while a gateway leaves
        if peer.line.closed:
            break
    assert turn < 60 and peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_body_that_is_too_large_in_small_frames_costs_its_client_one_request(peer):
    peer.site.admit = lambda request: setattr(request, "max_bytes", 10)
    peer.head(1, FIELDS, Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 1, bytes(200)) * 4_000)  # all on its way before we said anything
    assert [each.kind for each in peer.told() if each.kind == FrameKind.RST_STREAM] == [FrameKind.RST_STREAM]
    peer.head(3, FIELDS)
    assert peer.answer(3)[0] == "200"


def test_answer_in_parts_that_there_is_no_room_for_is_refused_whole(peer):
    peer.head(1, LATER)
    ((_, exchange),) = peer.site.waiting
    peer.connection._outflow.num_held_bytes = 2**30
    exchange.begin(Response(200, b"", b"text/plain"))
    exchange.push(b"never")
    exchange.finish()
    told = [each for each in peer.told() if each.stream == 1]
    assert peer.decoder.decode(told[0].payload)[0][1] == "429" and told[-1].flags & Flag.END_STREAM
    assert b"never" not in b"".join(each.payload for each in told) and peer.site.num_cut == 1


def test_drain_while_the_client_does_not_read_keeps_its_answer(peer):
    peer.head(1, LATER)
    peer.connection.pause_writing()
    peer.group.drain()
    peer.site.waiting[0][1].answer(Response(200, b"done"))
    assert not peer.line.closed
    peer.connection.resume_writing()
    peer.connection.look_at_clock(time.monotonic() + 2)
    assert peer.line.closed
    assert b"done" in peer.line.written


def test_malformed_head_in_pieces_leaves_the_connection_a_deadline(peer):
    block = peer.encoder.encode(FIELDS[:2])
    peer.send(frame(FrameKind.HEADERS, Flag.END_STREAM, 1, block[:1]))
    peer.send(frame(FrameKind.CONTINUATION, Flag.END_HEADERS, 1, block[1:]))
    assert peer.reset_code() is ErrorCode.PROTOCOL_ERROR
    peer.connection.look_at_clock(time.monotonic() + Limits().idle_timeout_s + 1)
    assert peer.broken() is ErrorCode.NO_ERROR


def test_client_that_has_greeted_may_wait_as_long_as_an_idle_one(peer):
    peer.connection.look_at_clock(time.monotonic() + Limits().header_timeout_s + 1)
    assert not peer.line.closed
    peer.connection.look_at_clock(time.monotonic() + Limits().idle_timeout_s + 1)
    assert peer.broken() is ErrorCode.NO_ERROR


def test_header_block_of_many_tiny_fields_is_refused_unread(peer):
    peer.send(frame(FrameKind.HEADERS, ENDS, 1, b"\x00\x01a\x00" * 40_000))
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


def test_header_bomb_by_references_ends_the_connection(peer):
    peer.send(frame(FrameKind.HEADERS, ENDS, 1, b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4_000 + b"\xbe" * 60_000))
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


SIZED = b"\x3f\x45"  # the table holds 100 bytes from now on


def test_block_that_changes_the_tables_size_is_read_each_time():
    plain, wide = b"\x83\x86\x84", b"\x3f\xe1\x1f\x83\x86\x84"
    reader = FieldReader(16_384)
    for block in (SIZED + plain, wide, SIZED + plain):
        reader.read(block, 1)
    assert reader._decoder.header_table.maxsize == 100


BLOCKS = st.lists(
    st.sampled_from(
        [
            SIZED,
            b"\x20",
            b"\x3f\xe1\x1f",
            b"\x83\x86\x84",
            b"\x40\x01a\x01b",
            b"\x40\x01c\x28" + b"d" * 40,
            b"\xbe",
            b"\xbf",
            b"\x00\x01e\x01f",
        ]
    ),
    max_size=5,
).map(b"".join)


@given(st.lists(BLOCKS, max_size=25))
def test_reader_that_remembers_reads_what_one_that_does_not_reads(blocks):
    reader, fresh = FieldReader(16_384), hpack.Decoder(max_header_list_size=2**17)
    for block in blocks:
        block = b"\x83\x86\x84" + block if block[:1] not in (b"\x20", b"\x3f") else block
        try:
            expected = list(fresh.decode(block, raw=True))
        except hpack.HPACKError:
            with pytest.raises(ConnectionBroken):
                reader.read(block, 1)
            return
        try:
            head = reader.read(block, 1)
        except Exception as error:
            assert type(error).__name__ == "StreamBroken"
            continue
        wanted: dict[bytes, bytes] = {}
        for name, value in expected:
            if not name.startswith(b":"):
                wanted[name] = wanted[name] + b", " + value if name in wanted else value
        assert dict(head.headers) == wanted
        assert reader._decoder.header_table.maxsize == fresh.header_table.maxsize


ENCODED = [hpack.Encoder().encode(fields) for fields in (FIELDS, LATER, REFUSED, [*FIELDS[:2], (":path", "/parts")])]
FRAMES = st.one_of(
    st.builds(
        frame,
        st.sampled_from([0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 77]),
        st.sampled_from([0, 1, 4, 5, 5, 8, 0x2D, 0xFF]),
        st.sampled_from([0, 1, 1, 3, 5, 7, 2]),
        st.one_of(st.sampled_from(ENCODED), st.binary(max_size=12), st.just(bytes(4)), st.just(b"\0\0\0\x09")),
    ),
    st.builds(lambda number, code: reset(number, ErrorCode(code)), st.sampled_from([1, 3, 5]), st.just(8)),
    st.builds(lambda value: settings({Http2Setting.INITIAL_WINDOW_SIZE: value}), st.sampled_from([0, 1, 65_535])),
    st.builds(window_update, st.sampled_from([0, 1, 3, 5]), st.sampled_from([1, 5, 100_000])),
)


@tried(max_examples=250)
@given(st.lists(FRAMES, max_size=30), st.binary(max_size=30))
def test_bytes_at_random_never_raise_and_leave_nothing_behind(frames, rest):
    async def play() -> None:
        group = Http2Connections(Echo(), Limits())
        connection, line = group.accept(), Line()
        connection.connection_made(line)  # type: ignore[arg-type]
        connection.data_received(PREFACE)
        for each in (*frames, rest):
            connection.data_received(each)
        for request, exchange in group.site.waiting:  # type: ignore[attr-defined]
            exchange.answer(Response(200, b"late" + request.body))
        connection.look_at_clock(time.monotonic() + 1_000)
        connection.connection_lost(None)
        assert (group.unread_bytes, connection._outflow.num_held_bytes, connection._requests.streams) == (0, 0, {})

    asyncio.run(play())


def test_frame_in_single_bytes_holds_what_a_frame_holds():
    splitter, whole = Splitter(2**18), frame(FrameKind.DATA, 0, 1, bytes(50_000))
    for at in range(len(whole) - 1):
        assert not list(splitter.feed(whole[at : at + 1]))
    assert sys.getsizeof(splitter._kept) < 2 * len(whole)
    assert [len(each.payload) for each in splitter.feed(whole[-1:])] == [50_000]


def test_too_many_tiny_fields_end_the_connection(peer):
    peer.send(frame(FrameKind.HEADERS, ENDS, 1, b"\x82" * 2_000 + b"\x86" * 2_000))
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM


@given(
    st.lists(st.tuples(st.text("abc-", min_size=1, max_size=9), st.text("xyz ", max_size=400)), min_size=1, max_size=60)
)
def test_long_blocks_are_read_in_pieces_as_they_are_read_whole(fields):
    for sender in (hpack.Encoder(), hpack.Encoder()):
        written = sender.encode([*fields, *fields])
        pieces = list(_pieces(written))
        assert b"".join(pieces) == written
        reader = hpack.Decoder(max_header_list_size=2**20)
        read = [pair for piece in pieces for pair in reader.decode(piece)]
        assert [tuple(pair) for pair in read] == [*fields, *fields]


@given(st.binary(max_size=6_000))
def test_any_block_is_cut_without_loss(written):
    try:
        assert b"".join(_pieces(written)) == written
    except ConnectionBroken as broken:
        assert broken.code is ErrorCode.ENHANCE_YOUR_CALM


def test_strangers_fill_only_their_own_budget(peer):
    peer.group.limits = Limits(max_unread_bytes=2**20)
    peer.site.admit = lambda request: setattr(request, "is_open", request.head.target == b"/open")
    opened = [*FIELDS[:2], (":path", "/open"), FIELDS[3]]
    for stream in range(1, 41, 2):
        peer.head(stream, opened, Flag.END_HEADERS)
        peer.send(frame(FrameKind.DATA, 0, stream, bytes(2**14)))
    assert peer.group.open_bytes <= 2**17
    assert peer.group.unread_bytes == 0
    peer.told()
    peer.head(41)
    assert peer.answer(41)[0] == "200"
    peer.connection.connection_lost(None)
    assert peer.group.open_bytes == peer.group.unread_bytes == 0


def test_body_beyond_what_the_site_wants_is_refused(peer):
    peer.site.admit = lambda request: setattr(request, "max_bytes", 10)
    peer.head(1, FIELDS, Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 1, bytes(11)))
    (head,) = [each for each in peer.told() if each.kind == FrameKind.HEADERS]
    assert (b":status", b"413") in [tuple(field) for field in peer.decoder.decode(head.payload, raw=True)]


def test_answers_wait_while_the_system_takes_nothing(peer):
    peer.send(settings({Http2Setting.INITIAL_WINDOW_SIZE: 2**30}) + window_update(0, 2**30))
    peer.head(1, [*FIELDS[:2], (":path", "/later"), FIELDS[3]])
    (_, exchange) = peer.site.waiting[0]
    peer.told()
    peer.connection.pause_writing()
    exchange.answer(Response(200, bytes(2**22)))
    assert peer.connection._outflow.num_held_bytes == 2**22
    assert sum(len(part) for part in peer.connection._out) < 2**10
    peer.connection.resume_writing()
    got = 0
    while got < 2**22:
        told = [each for each in peer.told() if each.kind == FrameKind.DATA]
        assert told
        got += sum(len(each.payload) for each in told)
        peer.connection._outflow.resume()
    assert peer.connection._outflow.num_held_bytes == 0


class Keeper:
    """Keeps what it hears."""

    wants_more = True

    def __init__(self) -> None:
        self.num_kept = 0

    def heard(self, part: bytes) -> None:
        self.num_kept += len(part)

    def heard_all(self) -> None: ...


def test_half_a_message_in_a_stream_has_its_time_and_is_given_back(peer):
    keeper = Keeper()
    peer.site.listener = lambda request, exchange: exchange.begin(Response(200)) or keeper
    peer.head(1, FIELDS, Flag.END_HEADERS)
    peer.send(frame(FrameKind.DATA, 0, 1, bytes(1_000)))
    assert peer.group.unread_bytes >= 1_000
    peer.told()
    peer.connection.look_at_clock(time.monotonic() + 29)
    assert peer.told() == []
    peer.connection.look_at_clock(time.monotonic() + 31)
    assert [each.kind for each in peer.told()] == [FrameKind.RST_STREAM]
    assert peer.group.unread_bytes == 0


def test_stream_that_keeps_too_much_is_ended_and_a_waiting_one_gets_no_window(peer):
    keeper = Keeper()
    peer.group.limits = Limits(max_unread_bytes=2**16)
    peer.site.listener = lambda request, exchange: exchange.begin(Response(200)) or keeper
    peer.head(1, FIELDS, Flag.END_HEADERS)
    keeper.wants_more = False
    peer.told()
    for _ in range(3):
        peer.send(frame(FrameKind.DATA, 0, 1, bytes(2**14)))
    assert peer.told() == []
    for _ in range(3):
        peer.send(frame(FrameKind.DATA, 0, 1, bytes(2**14)))
    assert FrameKind.RST_STREAM in [each.kind for each in peer.told()]
    assert peer.group.unread_bytes == 0


def test_block_that_takes_long_to_read_ends_the_connection_unread(peer):
    peer.send(frame(FrameKind.HEADERS, ENDS, 1, b"\x83\x86\x84\x00\x01a\xff\x81\xef\x01" + b"\xff" * 30_720))
    assert peer.broken() is ErrorCode.ENHANCE_YOUR_CALM
