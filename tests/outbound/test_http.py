"""F01: nothing inside can be reached through an address that a user names, however it is written or resolved."""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.errors import Unavailable
from skyloom.outbound.http import HttpOutbound, OutsideTooLarge, is_public
from skyloom.ports.outbound import AddressRefused

INSIDE = [
    "127.0.0.1",
    "127.8.9.1",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",  # metadata of most clouds
    "100.64.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "192.0.2.1",
    "::1",
    "::",
    "fe80::1",
    "fd00:ec2::254",  # metadata, by IPv6
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "fec0::1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_address_of_the_inside_is_not_public(address: str):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_address_of_the_internet_is_public(address: str):
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_address_inside_of_another_is_judged_as_itself(address: ipaddress.IPv4Address):
    for carrier in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_public(ipaddress.ip_address(carrier)) is is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *(f"http://{f'[{address}]' if ':' in address else address}/x" for address in INSIDE),
        "http://2130706433/",  # 127.0.0.1 as one number
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[fe80::1%25lo]/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:70/",
        "http:///nowhere",
        "http://user:word@example.org/",
        "http://example.org@127.0.0.1/",
        "http://example.org\\@127.0.0.1/",
        "http://example.org:99999/",
        "http://exa mple.org/",
        "http://[2606:4700::1111]x/",  # an address to one reader and none to the other
        "http://08.8.8.8/",
    ],
)
def test_address_that_leads_inside_or_hides_it_is_refused_as_written(url: str):
    with pytest.raises(AddressRefused):
        HttpOutbound().check(url)


@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["93.184.215.14", "10.0.0.7"], ["::ffff:10.0.0.7"], ["fe80::1%eth0"]]
)
def test_name_that_leads_inside_is_refused_when_it_is_looked_up(answers: Sequence[str]):
    outside = HttpOutbound(resolve=lambda host, port: answers)
    with pytest.raises(AddressRefused, match="innocent"):
        outside.check("http://innocent.example/")
    with pytest.raises(AddressRefused, match="innocent"):
        outside.post("http://innocent.example/", b"", {}, 1.0)


def test_name_is_judged_again_at_each_sending():
    """It was fine when the webhook was made, and its name server says something else since."""
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    outside = HttpOutbound(resolve=lambda host, port: next(answers))
    outside.check("http://innocent.example/")
    with pytest.raises(AddressRefused, match=r"leads to 127\.0\.0\.1"):
        outside.post("http://innocent.example/", b"", {}, 1.0)


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")])
def test_name_that_is_not_known_is_tried_again_later(error: Exception):
    def resolve(host: str, port: int) -> Sequence[str]:
        raise error

    with pytest.raises(Unavailable, match="is not known"):
        HttpOutbound(resolve=resolve).check("http://absent.example/")
    with pytest.raises(Unavailable, match="is not known"):
        HttpOutbound(resolve=resolve).post("http://absent.example/", b"", {}, 1.0)


class Receiver(BaseHTTPRequestHandler):
    """Answers with what its path says, and keeps what it got."""

    got: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, dict(self.headers), body))
        self.send_response(int(self.path.partition("?")[0].strip("/") or 200))
        self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.got.append((self.path, dict(self.headers), b""))
        self.send_response(int(self.path.partition("?")[0].strip("/") or 200))
        self.send_header("Location", "/200")
        if "packed" in self.path:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"x" * 1000)

    def log_message(self, *words: object) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[tuple[int, list[tuple[str, dict[str, str], bytes]]]]:
    got: list[tuple[str, dict[str, str], bytes]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Kept", (Receiver,), {"got": got}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, got
    server.shutdown()
    server.server_close()
    thread.join()


def test_request_goes_to_the_address_that_was_judged_and_nowhere_else(
    receiver: tuple[int, list[tuple[str, dict[str, str], bytes]]],
):
    port, got = receiver
    asked = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.7"]  # another answer the second time gains nothing

    outside = HttpOutbound(allowed=["hook.example"], resolve=resolve)
    assert outside.post(f"http://hook.example:{port}/201?a=1", b"body", {"X-Mine": "1"}, 5.0) == 201
    assert asked == ["hook.example"]
    ((path, headers, body),) = got
    assert (path, body) == ("/201?a=1", b"body")
    assert headers["Host"] == f"hook.example:{port}"
    assert headers["X-Mine"] == "1"


def test_host_that_the_operator_allows_is_named_as_it_stands_in_an_address():
    outside = HttpOutbound(allowed=["[::1]", "Hook.Internal", "10.0.0.7"], resolve=lambda host, port: ["10.0.0.7"])
    for url in ("http://[::1]:8000/", "http://hook.internal/", "http://10.0.0.7/"):
        outside.check(url)


def test_redirect_is_an_answer_and_is_not_followed(receiver: tuple[int, list[tuple[str, dict[str, str], bytes]]]):
    port, got = receiver
    assert HttpOutbound(allowed=["127.0.0.1"]).post(f"http://127.0.0.1:{port}/302", b"", {}, 5.0) == 302
    assert len(got) == 1


def test_body_of_an_answer_is_read_as_far_as_it_may_be(receiver: tuple[int, list[tuple[str, dict[str, str], bytes]]]):
    port, got = receiver
    outside = HttpOutbound(allowed=["127.0.0.1"])
    assert outside.get(f"http://127.0.0.1:{port}/200", 1_000, 5.0) == b"x" * 1_000
    with pytest.raises(OutsideTooLarge, match="more than 999 bytes"):
        outside.get(f"http://127.0.0.1:{port}/200", 999, 5.0)
    for path in ("302", "404", "200?packed"):
        with pytest.raises(Unavailable, match="not with the bytes"):
            outside.get(f"http://127.0.0.1:{port}/{path}", 1_000, 5.0)
    assert len(got) == 5  # no redirect was followed
    with pytest.raises(AddressRefused):
        HttpOutbound().get(f"http://127.0.0.1:{port}/200", 1_000, 5.0)


def test_address_where_nobody_listens_is_tried_again_later():
    with pytest.raises(Unavailable, match="does not answer"):
        HttpOutbound(allowed=["127.0.0.1"]).post("http://127.0.0.1:9/", b"", {}, 1.0)


def test_receiver_that_answers_a_byte_at_a_time_is_left_when_the_time_is_over():
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                for _ in range(600):
                    connection.sendall(b"H")
                    if done.wait(0.05):
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with pytest.raises(Unavailable, match="does not answer"):
                HttpOutbound(allowed=["127.0.0.1"]).post(
                    f"http://127.0.0.1:{listening.getsockname()[1]}/", b"", {}, 0.3
                )
            assert not done.is_set() and thread.is_alive()  # it had not said all that it had to say
        finally:
            done.set()
            thread.join()
