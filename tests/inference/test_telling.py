"""A replica tells the control plane about itself: over the standard library's HTTP, to whoever answers."""

import dataclasses
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import pytest

from skyloom.core.errors import ErrorBody
from skyloom.inference.telling import Teller, Untold
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.serving.model import NotAReplica, Reported, ReportTraffic
from skyloom.settings import TaskEnvironment

ASK = ReportTraffic(name="ep 1", replica="rep_1", revision="rev_1", ready=True, traffic=Traffic(requests=3))


class Ear(HTTPServer):
    """Answers as a control plane; keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.told: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, bytes]] = []


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Ear)
        self.server.told.append((self.path, {key.lower(): value for key, value in self.headers.items()}, content))
        status, said = self.server.answers.pop(0)
        self.send_response(status)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def ear() -> Iterator[Ear]:
    server = Ear()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def teller(ear: Ear) -> Iterator[Teller]:
    known = Teller(task(f"http://127.0.0.1:{ear.server_port}"), 5.0)
    yield known
    known.close()


def task(url: str) -> TaskEnvironment:
    return dataclasses.replace(TaskEnvironment.read(), url=url, token="secret", project="shop")


def test_report_arrives_whole_and_its_answer_comes_back(ear: Ear, teller: Teller) -> None:
    ear.answers = [(200, msgspec.json.encode(Reported(stop=True))), (200, b"{}")]
    assert teller.send(ASK, "key-1") == Reported(stop=True)
    assert teller.send(ASK, "key-2") == Reported()
    path, headers, content = ear.told[0]
    assert path == "/v1/projects/shop/endpoints/ep%201/traffic"
    assert (headers["authorization"], headers["idempotency-key"]) == ("Bearer secret", "key-1")
    told = msgspec.json.decode(content)
    assert (told["replica"], told["traffic"]["requests"], "name" in told) == ("rep_1", 3, False)


def test_refusal_comes_back_as_what_it_was(ear: Ear, teller: Teller) -> None:
    body = ErrorBody(code="not_a_replica", category=NotAReplica.category, message="No.", next_action="Go.")
    ear.answers = [(403, msgspec.json.encode(body))]
    with pytest.raises(NotAReplica, match="No"):
        teller.send(ASK, "key")


@pytest.mark.parametrize(("status", "said"), [(200, b"<html>"), (502, b"bad gateway"), (200, b"")])
def test_answer_of_somebody_else_is_no_answer(ear: Ear, teller: Teller, status: int, said: bytes) -> None:
    ear.answers = [(status, said), (200, b"{}")]
    with pytest.raises(Untold):
        teller.send(ASK, "key")
    assert teller.send(ASK, "key") == Reported()


def test_nobody_there_is_said_and_the_next_report_tries_again() -> None:
    teller = Teller(task("http://127.0.0.1:1"), 0.5)
    for _ in range(2):
        with pytest.raises(Untold):
            teller.send(ASK, "key")
    teller.close()
