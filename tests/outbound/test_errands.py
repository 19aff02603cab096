"""Calls beside the loop, at a server of the test's own: answers, silence, too much, and an end that waits for nobody."""

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from skyloom.outbound.errands import HttpErrands
from skyloom.rooms.functions.ports import Errand, ErrandResult


class Server(BaseHTTPRequestHandler):
    """Answers by the path: a status, or never."""

    seen: list[tuple[str, str, bytes]]
    leave: threading.Event

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, self.headers["authorization"], body))
        if self.path == "/never":
            self.leave.wait(20)
            return
        content = {"/long": b"y" * 5_000, "/packed": gzip.compress(bytes(2**19))}.get(self.path, b'"x"')
        self.send_response(int(self.path[1:]) if self.path[1:].isdigit() else 200)
        if self.path == "/packed":
            self.send_header("content-encoding", "gzip")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Listener(ThreadingHTTPServer):
    request_queue_size = 64


@pytest.fixture
def url() -> Iterator[str]:
    Server.seen, Server.leave = [], threading.Event()
    with Listener(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Server.leave.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def errands() -> Iterator[HttpErrands]:
    made = HttpErrands()
    yield made
    made.close()


def ask(errands: HttpErrands, url: str, name: str = "a", timeout_s: float = 10.0) -> None:
    errand = Errand(id=name, url=url, token="t", body=b"{}", timeout_s=timeout_s, max_bytes=1_000)
    errands.begin(errand)


def awaited(errands: HttpErrands, count: int = 1) -> dict[str, ErrandResult]:
    found: dict[str, ErrandResult] = {}
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, "no result comes"
        found |= {result.id: result for result in errands.results()}
        time.sleep(0.005)
    return found


def test_call_is_made_with_its_token_and_told_when_it_is_answered(errands: HttpErrands, url: str) -> None:
    told = threading.Event()
    errands.done = told.set
    ask(errands, f"{url}/200")
    assert errands.open() == {"a"} and told.wait(10)
    assert errands.open() == {"a"}  # until somebody takes the result
    assert awaited(errands) == {"a": ErrandResult(id="a", status=200, content=b'"x"')}
    assert not errands.open() and Server.seen == [("/200", "Bearer t", b"{}")]


def test_many_are_made_at_once_and_one_that_hangs_holds_up_none(errands: HttpErrands, url: str) -> None:
    ask(errands, f"{url}/never", "hangs", timeout_s=0.5)
    for number in range(20):
        ask(errands, f"{url}/503", str(number))
        ask(errands, f"{url}/503", str(number))  # not begun twice
    found = awaited(errands, 21)
    assert found["hangs"].status == 0 and "TimeoutError" in found["hangs"].problem
    assert {result.status for name, result in found.items() if name != "hangs"} == {503} and len(Server.seen) == 21


def test_answer_is_read_no_further_than_it_may_be(errands: HttpErrands, url: str) -> None:
    ask(errands, f"{url}/long")
    assert len(awaited(errands)["a"].content) == 1_001


def test_packed_answer_is_not_unpacked(errands: HttpErrands, url: str) -> None:
    ask(errands, f"{url}/packed")
    content = awaited(errands)["a"].content
    assert len(content) < 1_000 and gzip.decompress(content) == bytes(2**19)


def test_nobody_there_is_a_result_too(errands: HttpErrands) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        ask(errands, f"http://127.0.0.1:{taken.getsockname()[1]}/200")
        assert awaited(errands)["a"].problem == "no answer (ConnectError)"


def test_end_waits_for_no_answer_and_begins_nothing_more(url: str) -> None:
    errands = HttpErrands()
    ask(errands, f"{url}/never", timeout_s=600)
    while not Server.seen:
        time.sleep(0.005)
    closing = threading.Thread(target=errands.close)
    closing.start()
    closing.join(timeout=4)
    assert not closing.is_alive()
    ask(errands, f"{url}/200", "late")
    assert errands.open() == {"a"}
    HttpErrands().close()  # that never began
