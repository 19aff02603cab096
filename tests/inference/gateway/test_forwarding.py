"""Heads on their way through: what is passed on, what is not, and what cannot be."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.gateway.forwarding import Heads, ending, is_passable, request_id, status_of_call, timeout_s
from skyloom.inference.wire.messages import Head, Request

token = st.from_regex(rb"[a-z][a-z0-9-]{0,20}", fullmatch=True)
value = st.binary(max_size=60)
HOP = {b"connection", b"te", b"upgrade", b"transfer-encoding", b"content-length", b"host", b"expect", b"grpc-timeout"}
HOP |= {b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"trailer"}


class Reader:
    """What a replica's parser makes of the bytes."""

    def __init__(self, content: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url, self.num_messages = b"", 0
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(content)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.num_messages += 1


@given(st.dictionaries(token, value, max_size=8), st.binary(max_size=30))
def test_what_is_passed_on_is_one_request_and_the_same_for_the_next_parser(headers, target):
    head = Head(b"POST", b"/" + target, headers)
    if not is_passable(head):
        return
    read = Reader(Heads().written(head) + ending(b"127.0.0.1:80", 3, None) + b"abc")
    named = {part.strip().lower() for part in headers.get(b"connection", b"").split(b",")}
    expected = [(name, given) for name, given in headers.items() if name not in HOP and name not in named]
    assert read.num_messages == 1 and read.url == b"/" + target
    trimmed = [[(name, given.strip(b" \t")) for name, given in each] for each in (read.headers[:-2], expected)]
    assert trimmed[0] == trimmed[1]
    assert read.headers[-2:] == [(b"host", b"127.0.0.1:80"), (b"content-length", b"3")]


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"/v2 HTTP/1.1", {}),
        (b"v2", {}),
        (b"*", {}),
        (b"/\x80", {}),
        (b"/", {b"a b": b"c"}),
        (b"/", {b"transfer-encoding:chunked": b""}),
        (b"/", {b"x:": b""}),
        (b"/", {b"": b""}),
        (b"/", {b"x": b"a\x00b"}),
        (b"/", {b"x": b"a\r\nhost: evil"}),
        (b"/", {b"x": b"\x7f"}),
        (b"/", {b"x\n": b""}),
    ],
)
def test_what_lines_cannot_hold_is_not_passed_on(target, headers):
    assert not is_passable(Head(b"POST", target, headers))


def test_headers_of_the_connection_stay_here():
    headers = {b"connection": b"close, X-Secret", b"x-secret": b"1", b"te": b"trailers", b"x-kept": b"2"}
    written = Heads().written(Head(b"GET", b"/v2", headers))
    assert written == b"GET /v2 HTTP/1.1\r\nx-kept: 2\r\n"


def test_known_heads_are_bounded_and_never_mixed_up():
    heads = Heads()
    for number in range(2_000):
        head = Head(b"GET", b"/%d" % number, {})
        assert heads.written(head) == heads.written(head) == b"GET /%d HTTP/1.1\r\n" % number


@pytest.mark.parametrize(
    ("written", "expected"),
    [(b"5S", 5.0), (b"1H", 3600.0), (b"250m", 0.25), (b"", None), (b"5", None), (b"123456789S", None), (b"-1S", None)],
)
def test_timeout_of_a_call_is_read_or_left(written, expected):
    assert timeout_s({b"grpc-timeout": written}) == expected


def test_what_is_left_of_a_timeout_is_passed_on():
    assert b"grpc-timeout: 1500m\r\n" in ending(b"h", 0, 1.5)
    assert b"grpc-timeout: 1m\r\n" in ending(b"h", 0, -3.0), "a replica refuses it at once"


def test_request_id_is_the_callers_if_it_can_be_one():
    def of(value: bytes | None) -> bytes:
        headers = {} if value is None else {b"x-request-id": value}
        return request_id(Request(Head(b"GET", b"/", headers)), b"made")

    assert of(b"mine-1") == b"mine-1"
    assert [of(value) for value in (None, b"", b"a b", b"a" * 201)] == [b"made"] * 4


@pytest.mark.parametrize(
    ("headers", "status", "meant"),
    [
        ({b"grpc-status": b"0"}, 200, 200),
        ({b"grpc-status": b"14"}, 200, 503),
        ({b"grpc-status": b"99"}, 200, 500),
        ({b"grpc-status": b"x"}, 200, 500),
        ({}, 200, 500),
        ({}, 431, 431),
        ({b"grpc-status": b"3"}, 200, 400),
    ],
)
def test_status_of_a_call_is_the_one_it_means(headers, status, meant):
    assert status_of_call(headers, status) == meant
