"""The HTTP parser against raw bytes: grammar, bounds, slow and vanishing clients."""

import json
import signal
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.inference.serving import INFER, TOKEN, body, running, small_limits, toy_rows

BODY = json.dumps(body(toy_rows(1))).encode()
AUTH = f"Authorization: Bearer {TOKEN}\r\n".encode()
HOST = b"Host: localhost\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\n" + HOST + b"\r\n"


def post(*headers: bytes, content: bytes = BODY, path: str = INFER) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return (
        b"POST "
        + path.encode()
        + b" HTTP/1.1\r\n"
        + HOST
        + AUTH
        + b"Content-Type: application/json\r\n"
        + lines
        + b"\r\n"
        + content
    )


def length(content: bytes = BODY) -> bytes:
    return b"Content-Length: %d" % len(content)


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def talk(port: int, *parts: bytes, finish: bool = True) -> bytes:
    """Send bytes, then read until the server closes."""
    with dial(port) as link:
        for part in parts:
            link.sendall(part)
        if finish:
            link.shutdown(socket.SHUT_WR)
        return read_all(link)


def read_all(link: socket.socket) -> bytes:
    got = b""
    while True:
        try:
            part = link.recv(65536)
        except ConnectionResetError:
            return got
        if not part:
            return got
        got += part


def statuses(answer: bytes) -> list[int]:
    return [int(line.split(b" ")[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")] + [
        int(part.split(b" ")[1]) for part in answer.split(b"}HTTP/1.1")[1:]
    ]


def test_pipelined_requests_are_answered_in_order(served):
    _, _, listening, _ = served
    requests = [
        post(length(content), content=content)
        for content in (json.dumps(body(toy_rows(1), id=f"id-{n}")).encode() for n in range(100))
    ]
    answer = talk(listening.rest_port, b"".join(requests))
    ids = [part.split(b'"')[0] for part in answer.split(b'"id":"')[1:]]
    assert ids == [b"id-%d" % n for n in range(100)]


def test_a_request_in_single_bytes_is_answered(served):
    _, _, listening, _ = served
    with dial(listening.rest_port) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(length()):
            link.sendall(bytes([byte]))
        assert link.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_chunked_body_is_read_and_its_trailers_are_not_believed(served):
    _, _, listening, _ = served
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:]))
    answer = talk(listening.rest_port, post(b"Transfer-Encoding: chunked", content=chunks + b"0\r\nHost: evil\r\n\r\n"))
    assert statuses(answer) == [200]


def test_expect_continue_is_answered_before_the_body(served):
    _, _, listening, _ = served
    with dial(listening.rest_port) as link:
        link.sendall(post(length(), b"Expect: 100-continue", content=b""))
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(BODY)
        assert link.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_http_1_0_is_answered_and_closed(served):
    _, _, listening, _ = served
    assert statuses(talk(listening.rest_port, LIVE.replace(b"HTTP/1.1\r", b"HTTP/1.0\r"), finish=False)) == [200]


SMUGGLED = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
REFUSED = {
    "length and chunked": post(length(), b"Transfer-Encoding: chunked", content=b"0\r\n\r\n" + SMUGGLED),
    "chunked and length": post(b"Transfer-Encoding: chunked", length(), content=b"0\r\n\r\n" + SMUGGLED),
    "two lengths": post(b"Content-Length: 0", length(), content=SMUGGLED),
    "two equal lengths": post(length(), length(), content=BODY + SMUGGLED),
    "length list": post(b"Content-Length: 0, 5", content=SMUGGLED),
    "negative length": post(b"Content-Length: -1", content=SMUGGLED),
    "plus length": post(b"Content-Length: +1", content=SMUGGLED),
    "hex length": post(b"Content-Length: 0x10", content=SMUGGLED),
    "huge length": post(b"Content-Length: 9999999999999999999999", content=b""),
    "10 GB length": post(b"Content-Length: 10000000000", content=b""),
    "identity coding": post(b"Transfer-Encoding: identity", content=SMUGGLED),
    "gzip coding": post(b"Transfer-Encoding: gzip, chunked", content=b"0\r\n\r\n"),
    "odd coding": post(b"Transfer-Encoding: xchunked", content=b"0\r\n\r\n" + SMUGGLED),
    "two codings": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", content=b"0\r\n\r\n"),
    "space before colon": post(b"Content-Length : 5", content=b"hello" + SMUGGLED),
    "folded header": post(b"X-A: b\r\n c", length()),
    "bare newline": b"GET /v2/health/live HTTP/1.1\nHost: localhost\n\n",
    "nul in header": post(b"X-A: \x00", length()),
    "bad chunk": post(b"Transfer-Encoding: chunked", content=b"zz\r\nhello\r\n0\r\n\r\n"),
    "endless chunk size": post(b"Transfer-Encoding: chunked", content=b"fffffffffffffffff\r\n"),
    "no host": b"GET /v2/health/live HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    "two tokens": b"GET /v2 HTTP/1.1\r\n" + HOST + AUTH + AUTH + b"\r\n",
    "upgrade": b"GET /v2/health/live HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/3.0": b"GET /v2/health/live HTTP/3.0\r\n" + HOST + b"\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "noise": b"\x00\x01\x02\x03\r\n\r\n",
    "long target": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "long header": LIVE[:-2] + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": LIVE[:-2] + b"".join(b"X-%d: a\r\n" % n for n in range(100)) + b"\r\n",
    "many trailers": post(
        b"Transfer-Encoding: chunked", content=b"0\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(100)) + b"\r\n"
    ),
    "expect something": post(length(), b"Expect: a-miracle"),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_plain_http_gets_one_4xx_and_the_end_of_the_connection(served, content):
    _, _, listening, _ = served
    answer = talk(listening.rest_port, content, finish=False)
    assert len(statuses(answer)) == 1, answer
    assert 400 <= statuses(answer)[0] < 500
    assert b"connection: close" in answer


def test_endless_header_is_cut_before_it_ends(served):
    _, _, listening, _ = served
    with dial(listening.rest_port) as link:
        link.sendall(LIVE[:-2] + b"X-A: ")
        sent = 0
        try:
            while sent < 100 * 2**20:
                sent += link.send(b"a" * 65536)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 100 * 2**20


def test_chunked_body_beyond_the_limit_is_refused_while_it_comes(served):
    _, _, listening, _ = served
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    with dial(listening.rest_port) as link:
        link.sendall(post(b"Transfer-Encoding: chunked", content=b""))
        for _ in range(300):
            link.sendall(chunk)
        assert link.recv(65536).startswith(b"HTTP/1.1 413")


def test_refusal_of_a_large_upload_reaches_the_client(served):
    _, _, listening, _ = served
    with dial(listening.rest_port) as link:
        link.sendall(post(length(b"a" * 10**6), content=b"").replace(TOKEN.encode(), b"wrong"))
        link.sendall(b"a" * 10**6)
        assert link.recv(65536).startswith(b"HTTP/1.1 401")


def test_clients_that_vanish_leave_the_replica_healthy(served):
    process, client, listening, _ = served
    for cut in (0, 1, 30, 200, len(post(length())) - 1, len(post(length()))):
        for _ in range(20):
            with dial(listening.rest_port) as link:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                link.sendall(post(length())[:cut])
    assert client.post(INFER, content=BODY, headers={"content-type": "application/json"}).status_code == 200
    assert "Traceback" not in process.text()


def test_half_closed_client_gets_its_answer(served):
    _, _, listening, _ = served
    assert statuses(talk(listening.rest_port, post(length()))) == [200]


def test_slow_clients_are_cut_and_idle_ones_closed(tmp_path):
    limits = small_limits(header_timeout_s=0.5, body_timeout_s=0.5, idle_timeout_s=0.5)
    with running(tmp_path, limits=limits) as (_, client, listening):
        links = [dial(listening.rest_port) for _ in range(4)]
        links[1].sendall(b"GET /v2/hea")
        links[2].sendall(post(length())[:-1])
        links[3].sendall(LIVE)
        answers = [read_all(link) for link in links]  # of a connection that stays open, it fails by its own deadline
        for link in links:
            link.close()
        assert answers[0] == b""
        assert statuses(answers[1]) == [408]
        assert statuses(answers[2]) == [408]
        assert statuses(answers[3]) == [200]
        assert client.get("/v2/health/live").status_code == 200


def test_client_of_a_replica_that_leaves_gets_one_more_answer_and_a_silent_one_is_let_go(tmp_path):
    with running(tmp_path, limits=small_limits(drain_s=120.0)) as (process, _, listening):
        with dial(listening.rest_port) as asking, dial(listening.rest_port) as silent:
            for link in (asking, silent):
                link.sendall(LIVE)
                assert b" 200 " in link.recv(65536)
            process.process.send_signal(signal.SIGTERM)
            gone_within(listening.rest_port, 60)
            asking.sendall(LIVE)
            said = read_all(asking)
            assert b" 200 " in said and b"connection: close" in said.lower()
            assert read_all(silent) == b""
        assert process.process.wait(60) == 0  # long before drain_s


def gone_within(port: int, timeout_s: float) -> None:
    """Wait until nobody listens on a port."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            dial(port).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it was in the line of the door that closed
            continue
    raise AssertionError("it listens still")


def test_client_that_reads_nothing_is_cut_and_holds_little_memory(tmp_path):
    limits = small_limits(write_timeout_s=1.0)
    with running(tmp_path, limits=limits) as (_, client, listening):
        content = json.dumps(body(toy_rows(4096))).encode()
        with dial(listening.rest_port) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.settimeout(10)
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(2_000):
                    link.sendall(post(length(content), content=content))
        assert client.get("/v2/health/live").status_code == 200


def test_connections_beyond_the_limit_are_told_so(tmp_path):
    with running(tmp_path, limits=small_limits(max_connections=3)) as (_, _, listening):
        links = [dial(listening.rest_port) for _ in range(3)]
        for link in links:
            link.sendall(LIVE)
            assert link.recv(1000).startswith(b"HTTP/1.1 200")
        assert statuses(talk(listening.rest_port, finish=False)) == [429]
        for link in links:
            link.close()


def test_bodies_that_come_in_together_share_a_bound_and_free_it(tmp_path):
    with running(tmp_path, limits=small_limits(max_unread_bytes=10_000)) as (_, client, listening):
        half = post(length(b" " * 8_000), content=b" " * 6_000)
        for _ in range(3):
            with dial(listening.rest_port) as first, dial(listening.rest_port) as second:
                first.sendall(half)
                assert client.get("/v2/health/live").status_code == 200
                second.sendall(half)
                assert second.recv(65536).startswith(b"HTTP/1.1 429")
                first.sendall(b" " * 2_000)
                assert first.recv(65536).startswith(b"HTTP/1.1 400")
            assert client.post(INFER, content=BODY, headers={"content-type": "application/json"}).status_code == 200


FRAGMENTS = st.sampled_from(
    [
        b"GET ",
        b"POST ",
        INFER.encode(),
        b"/v2",
        b" HTTP/1.1",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        HOST,
        AUTH,
        length(),
        BODY,
        b"Transfer-Encoding: chunked",
        b"Content-Length: ",
        b": ",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"Connection: close\r\n",
        b"Content-Type: application/json\r\n",
        LIVE,
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FRAGMENTS | st.binary(max_size=20), max_size=20))
def test_any_bytes_get_no_server_error_and_no_crash(served, parts):
    process, _, listening, _ = served
    answer = talk(listening.rest_port, b"".join(parts))
    assert all(status < 500 for status in statuses(answer)), answer
    assert process.process.poll() is None
